//! This test binary as a process of its own, to be killed, and the little language it answers in: `@@word@@`.
#![allow(dead_code)]

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

/// Whether the short form of the tests is asked for.
pub(crate) fn quick() -> bool {
    ["IRONGATE_TIER", "IRONGATE_TEST_TIER"]
        .iter()
        .any(|key| std::env::var(key).is_ok_and(|tier| tier == "quick"))
}

/// The seed of this run: `IRONGATE_TEST_SEED`, else a new one. Printed.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("IRONGATE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random);
    println!("IRONGATE_TEST_SEED={seed}");
    seed
}

/// Starts the ignored test `name` of this binary in a process of its own.
pub(crate) fn start(name: &str, orders: &[(&str, &OsStr)]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--ignored", "--nocapture"]).stdout(Stdio::piped()).stdin(Stdio::null());
    for (key, value) in orders {
        command.env(format!("IRONGATE_ORDER_{key}"), value);
    }
    command.spawn().unwrap()
}

/// What [`start`] has ordered; nothing when the test was not started by it.
pub(crate) fn order(key: &str) -> Option<OsString> {
    std::env::var_os(format!("IRONGATE_ORDER_{key}"))
}

/// Says something to the process that started this one, in one write.
pub(crate) fn say(word: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("@@{word}@@\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// What was said in `text`. A word that a kill has cut short is left out.
pub(crate) fn ticks_of(text: &str) -> impl Iterator<Item = &str> {
    let whole = text.matches("@@").count() / 2;
    text.split("@@").skip(1).step_by(2).take(whole)
}

/// Waits until `child` has said `word`. What it says later is lost, and it gets a broken pipe.
pub(crate) fn wait_for(child: &mut Child, word: &str) {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let found = lines.any(|line| ticks_of(&line.unwrap()).any(|said| said == word));
    assert!(found, "the other process has ended without \"{word}\"");
}
