//! What is typed or configured wrongly ends with 2 and a way out.

use std::fs;

use super::{CONFIGURATION, command, deployment, irongate};

#[test]
fn bad_usage_ends_with_2() {
    let directory = deployment();
    for arguments in [
        &["nonsense"] as &[_],
        &[],
        &["run"],
        &["info", "--nonsense"],
        &["trail", "nonsense"],
        &["trail", "ls"],
        &["trail", "ls", "csp", "--directory", "x"],
        &["errors", "replay", "csp"],
        &["errors", "skip", "csp", "1", "--all"],
        &["position", "csp-replicat", "--to", "0/10"],
        &["position", "csp-replicat", "--accept-loss"],
        &["position", "csp-replicat", "--to", "nowhere", "--accept-loss"],
        &["setup", "--print-sql", "--start-here"],
        &["info", "--log-format", "xml"],
        &["completions", "cmd"],
        &["demo", "--seconds", "0"],
    ] {
        let answer = irongate(directory.path(), arguments).expect(2);
        assert!(answer.stdout.is_empty(), "{arguments:?}: {}", answer.stdout);
        assert!(answer.stderr.contains("--help"), "{arguments:?}: {}", answer.stderr);
    }
}

#[test]
fn an_unknown_key_is_refused_with_line_and_column() {
    let directory = deployment();
    let text = CONFIGURATION.replace("tables =", "tabels =");
    let line = text.lines().position(|line| line.starts_with("tabels")).unwrap() + 1;
    fs::write(directory.path().join("irongate.toml"), text).unwrap();
    let answer = irongate(directory.path(), &["info"]).expect(2);
    answer.says(&[&format!("irongate.toml:{line}:1"), "tabels", "hint:"]);
}

#[test]
fn a_missing_configuration_is_bad_usage_and_says_what_to_type() {
    let directory = tempfile::tempdir().unwrap();
    let answer = irongate(directory.path(), &["check"]).expect(2);
    answer.says(&["irongate.toml", "irongate init", "--config"]);
}

#[test]
fn names_that_are_not_configured_are_answered_with_those_that_are() {
    let directory = deployment();
    irongate(directory.path(), &["run", "csp"]).expect(2).says(&["csp-extract", "csp-replicat"]);
    irongate(directory.path(), &["info", "css"]).expect(2).says(&["\"css\"", "csp-extract"]);
    irongate(directory.path(), &["setup", "css"]).expect(2).says(&["\"css\"", "csp"]);
    irongate(directory.path(), &["--site", "moon", "info"]).expect(2).says(&["\"moon\"", "main, secondary"]);
}

#[test]
fn a_group_is_not_run_at_the_wrong_site() {
    let directory = deployment();
    let answer = irongate(directory.path(), &["--site", "main", "run", "csp-extract"]).expect(2);
    answer.says(&["secondary", "--site secondary"]);
    assert!(!directory.path().join("state").exists(), "nothing was begun");
}

#[test]
fn the_configuration_and_the_site_can_come_from_the_environment() {
    let (directory, elsewhere) = (deployment(), tempfile::tempdir().unwrap());
    let output = command(elsewhere.path(), &["info", "--json"])
        .env("IRONGATE_CONFIG", directory.path().join("irongate.toml"))
        .env("IRONGATE_SITE", "main")
        .output()
        .unwrap();
    let answer = super::Answer::from(output).expect(0);
    assert_eq!(answer.json()["site"], "main");
}

#[test]
fn init_writes_an_example_once_that_every_command_understands() {
    let directory = tempfile::tempdir().unwrap();
    irongate(directory.path(), &["init"]).expect(0);
    irongate(directory.path(), &["init"]).expect(2).says(&["exists already"]);
    let written = fs::read_to_string(directory.path().join("irongate.toml")).unwrap();
    assert_eq!(irongate(directory.path(), &["init", "--stdout"]).expect(0).stdout, written);
    let answer = irongate(directory.path(), &["info", "--json"]).expect(0).json();
    assert_eq!(answer["groups"][0]["name"], "csp-extract");
}

#[test]
fn a_server_that_cannot_be_reached_is_a_failure_and_in_a_check_a_finding() {
    let directory = deployment();
    irongate(directory.path(), &["instantiate", "csp"]).expect(1).says(&["error:", "config.secondary"]);
    let answer = irongate(directory.path(), &["check", "--json"]).expect(3);
    let findings = answer.json();
    let finding = &findings["findings"][0];
    assert_eq!(finding["severity"], "error");
    for key in ["object", "reason"] {
        assert!(finding[key].is_string(), "{finding}");
    }
    assert!(finding.get("fix").is_some(), "{finding}");
}

#[test]
fn failures_are_json_too_where_logs_are() {
    let directory = deployment();
    let answer = irongate(directory.path(), &["--log-format", "json", "run", "nobody"]).expect(2);
    let line: serde_json::Value = serde_json::from_str(answer.stderr.trim()).unwrap();
    assert_eq!(line["level"], "ERROR");
    assert!(line["message"].as_str().unwrap().contains("nobody"), "{line}");
    assert!(line["hint"].as_str().unwrap().contains("csp-extract"), "{line}");
    assert_eq!(line["exit_code"], 2);
}
