//! What is shown of runs, from the journals that they have left.

use std::path::PathBuf;

use serde_json::Value;

use super::{deployment, irongate};

const RUN: &str = "switchover-20261121151910734732";
const ABORTED: &str = "switchover-20261121151915125391";

/// A deployment with the journals of real runs: one that was cut off and gone on with, one that was taken back.
fn with_runs() -> tempfile::TempDir {
    let directory = deployment();
    let runs = directory.path().join("state/runs");
    std::fs::create_dir_all(&runs).unwrap();
    let kept = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/runs");
    for run in [RUN, ABORTED] {
        let name = format!("{run}.jsonl");
        std::fs::copy(kept.join(&name), runs.join(&name)).unwrap();
    }
    directory
}

#[test]
fn a_run_is_shown_as_text_and_as_json_with_every_attempt() {
    let directory = with_runs();
    let run = |words: &[&str]| irongate(directory.path(), &[&["runs"], words].concat());
    let list = run(&[]).expect(0).stdout;
    assert!(list.contains("aborted") && list.contains("0.33 s"), "{list}");
    let text = run(&[RUN]).expect(0).stdout;
    for word in
        ["result     done: site \"secondary\" writes", "0: the marker", "cut off", "applied: 0/2091420"]
    {
        assert!(text.contains(word), "{word}\n{text}");
    }
    assert_eq!(text.lines().filter(|line| line.starts_with("open ")).count(), 2, "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");

    let json = run(&[RUN, "--json"]).expect(0).json();
    assert_eq!((&json["result"], &json["lost_transactions"]), (&"done".into(), &0.into()), "{json}");
    assert!((json["outage_seconds"].as_f64().unwrap() - 0.327).abs() < 0.001, "{json}");
    for step in json["steps"].as_array().unwrap() {
        assert!(step["name"].is_string() && step["result"] == "done" && step["seconds"].is_f64(), "{step}");
        assert!(step["at"].as_str().unwrap().starts_with("2026-11-21T15:19:1"), "{step}");
    }
    assert_eq!(json["tries"].as_array().unwrap().iter().filter(|one| one["step"] == "open").count(), 2);
    let aborted = run(&[ABORTED, "--json"]).expect(0).json();
    assert_eq!((&aborted["result"], &aborted["next"]), (&"aborted".into(), &Value::Array(Vec::new())));
}

#[test]
fn a_run_is_written_as_a_page_or_it_is_said_why_not() {
    let directory = with_runs();
    let run = |words: &[&str]| irongate(directory.path(), &[&["runs"], words].concat());
    let told = run(&[RUN, "--html", "run.html"]).expect(0);
    assert!(told.stdout.is_empty() && told.stderr.contains("\"run.html\""), "{}{}", told.stdout, told.stderr);
    let page = std::fs::read_to_string(directory.path().join("run.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>") && page.contains(RUN));
    assert_eq!(run(&[RUN, "--html", "run.html", "--json"]).expect(0).json()["run"], RUN);
    let nowhere = run(&[RUN, "--html", "no/run.html"]).expect(1).stderr;
    assert!(nowhere.contains("could not write \"no/run.html\""), "{nowhere}");
    run(&["--html", "run.html"]).expect(2);
    let unknown = run(&["switchover-1"]).expect(2).stderr;
    assert!(unknown.contains("no run \"switchover-1\""), "{unknown}");
}
