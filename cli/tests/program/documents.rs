//! Completions and manual pages.

use std::fs;
use std::io::Read;
use std::process::Stdio;

use super::{command, irongate};

#[test]
fn completions_know_the_commands_in_every_shell() {
    let here = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = irongate(here.path(), &["completions", shell]).expect(0).stdout;
        for word in ["instantiate", "errors", "accept-loss"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
}

#[test]
fn each_command_has_a_manual_page() {
    let here = tempfile::tempdir().unwrap();
    irongate(here.path(), &["man", "pages"]).expect(0);
    for page in ["irongate.1", "irongate-instantiate.1", "irongate-trail-dump.1", "irongate-errors-replay.1"]
    {
        let text = fs::read_to_string(here.path().join("pages").join(page)).unwrap();
        assert!(text.contains(".SH NAME") && text.contains(".SH OPTIONS"), "{page}: {text}");
    }
}

#[test]
fn a_reader_that_goes_early_is_no_error() {
    let here = tempfile::tempdir().unwrap();
    let mut child = command(here.path(), &["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The script is larger than a pipe holds, so that the write is still going on when the reader goes.
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    assert_eq!(said, "");
}
