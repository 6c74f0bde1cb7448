//! What the README shows can be typed.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{Answer, command, deployment, irongate};

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap()
}

/// The fenced blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect()
}

/// The words of a command line, without its comment.
fn words(line: &str) -> Vec<&str> {
    let line = line.split('#').next().unwrap_or_default();
    line.split_whitespace().filter(|word| *word != "&").collect()
}

#[test]
fn the_configuration_in_the_readme_is_one() {
    let blocks = blocks(&readme(), "toml");
    assert_eq!(blocks.len(), 1);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("irongate.toml"), &blocks[0]).unwrap();
    let answer = irongate(directory.path(), &["info", "--json"]).expect(0).json();
    assert_eq!(answer["groups"][1]["name"], "csp-replicat");
}

/// Commands of the README that are tried at a time.
const SIDE_BY_SIDE: usize = 64;
const WAITED: Duration = Duration::from_secs(10);

#[test]
fn every_command_in_the_readme_is_understood() {
    let text = readme();
    let mut lines: Vec<String> = blocks(&text, "sh")
        .iter()
        .flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert!(lines.len() >= 12, "the blocks of commands are not found");
    let quoted = text.split('`').skip(1).step_by(2).filter(|code| code.starts_with("irongate "));
    lines.extend(quoted.filter(|code| !code.contains("DIR") && !code.contains("SHELL")).map(str::to_owned));
    let commands: Vec<&String> = lines.iter().filter(|line| line.starts_with("irongate ")).collect();
    // Most of them wait for what does not answer, and they do so side by side.
    std::thread::scope(|scope| {
        for commands in commands.chunks(commands.len().div_ceil(SIDE_BY_SIDE)) {
            scope.spawn(move || commands.iter().for_each(|line| is_understood(line)));
        }
    });
}

/// Nothing can be reached here, and what cannot be typed at all is answered with a pointer to the help.
fn is_understood(line: &str) {
    let here = deployment();
    let arguments = &words(line)[1..];
    let outside = arguments.iter().find(|argument| argument.starts_with('/'));
    assert_eq!(outside, None, "{line}: what is typed here happens, and must stay in its directory");
    let site = if arguments[0] == "run" { &["--site", "main"] as &[_] } else { &[] };
    let mut process = command(here.path(), &[site, arguments].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program is there");
    // Some wait for a database for as long as it takes: by then they have understood.
    let begun = Instant::now();
    while process.try_wait().expect("it is ours").is_none() {
        if begun.elapsed() > WAITED {
            process.kill().expect("it is ours");
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let answer = Answer::from(process.wait_with_output().expect("it is ours"));
    assert!(!answer.stderr.contains("--help"), "{line}: {}", answer.stderr);
}
