//! What is shown of processes, alive and dead, from their status files.

use std::collections::BTreeSet;
use std::path::Path;

use irongate_checkpoint::{Failure, GroupLock, Program, Publisher, State, Status, TableCounters};
use irongate_trail::{Lsn, Position, Timestamp};
use serde_json::{Value, json};

use super::{deployment, irongate};

/// A status as a process publishes it at its end, or while it lives.
fn publish(state: &Path, program: Program, change: impl FnOnce(&mut Status)) {
    let group = format!("csp-{program}");
    let publisher = Publisher::start(state, Status::starting(&group, "csp", program)).unwrap();
    publisher.state(State::Running, "following the database");
    publisher.update(change);
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// The names that scripts rely on.
const CONTRACT: [&str; 9] =
    ["name", "flow", "program", "state", "lag_bytes", "lag_seconds", "position", "since", "doing"];

#[test]
fn a_group_that_never_ran_is_stopped_and_says_so() {
    let directory = deployment();
    let answer = irongate(directory.path(), &["info", "--json"]).expect(0).json();
    assert_eq!(keys(&answer), BTreeSet::from(["site", "groups", "compares", "unreachable"]));
    assert_eq!(answer["site"], "secondary");
    let groups = answer["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 2);
    for (group, program) in groups.iter().zip(["extract", "replicat"]) {
        assert!(keys(group).is_superset(&BTreeSet::from(CONTRACT)), "{group}");
        assert_eq!(group["name"], format!("csp-{program}"));
        assert_eq!(group["flow"], "csp");
        assert_eq!(group["program"], program);
        assert_eq!(group["state"], "STOPPED");
        assert_eq!(group["doing"], "never started");
        for key in ["lag_bytes", "lag_seconds", "position", "since"] {
            assert_eq!(group[key], Value::Null, "{key}");
        }
    }
}

#[test]
fn a_living_process_is_told_from_one_that_was_killed() {
    let directory = deployment();
    let state = directory.path().join("state");
    let _alive = GroupLock::acquire(&state, "csp-extract").unwrap();
    for program in [Program::Extract, Program::Replicat] {
        publish(&state, program, |status| {
            status.position = Some(Position { seqno: 3, offset: 1234 });
            status.lag_bytes = Some(2048);
            status.lag_seconds = Some(1.5);
            status.since = Timestamp(0);
        });
    }
    let answer = irongate(directory.path(), &["info", "--json"]).expect(0).json();
    let extract = &answer["groups"][0];
    assert_eq!(extract["state"], "RUNNING");
    assert_eq!(extract["doing"], "following the database");
    assert_eq!(extract["position"], "000000003:1234");
    assert_eq!(extract["lag_bytes"], 2048);
    assert_eq!(extract["lag_seconds"], 1.5);
    assert_eq!(extract["since"], "2000-01-01T00:00:00Z");
    assert_eq!(extract["pid"], std::process::id());
    let replicat = &answer["groups"][1];
    assert_eq!(replicat["state"], "ABENDED");
    assert_eq!(replicat["pid"], Value::Null);
    assert!(replicat["hint"].as_str().unwrap().contains("irongate run csp-replicat"), "{replicat}");

    let text = irongate(directory.path(), &["info"]).expect(0).stdout;
    for word in ["csp-extract", "RUNNING", "ABENDED", "1.5 s", "2.00 KiB", "2000-01-01 00:00:00Z", "hint:"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    assert!(!text.contains('\x1b'), "colours are for terminals");
}

#[test]
fn info_shows_the_groups_that_are_named() {
    let directory = deployment();
    let count = |names: &[&str]| {
        let arguments = [&["info", "--json"], names].concat();
        irongate(directory.path(), &arguments).expect(0).json()["groups"].as_array().unwrap().len()
    };
    assert_eq!((count(&["csp"]), count(&["csp-replicat"]), count(&["csp-replicat", "csp"])), (2, 1, 2));
}

#[test]
fn an_abended_process_says_why_and_what_to_do() {
    let directory = deployment();
    let state = directory.path().join("state");
    publish(&state, Program::Replicat, |status| {
        status.state = State::Abended;
        status.error = Some(Failure {
            message: "table \"public.t\" is missing".to_owned(),
            hint: Some("create it".to_owned()),
            transient: false,
        });
    });
    let answer = irongate(directory.path(), &["info", "--json", "csp-replicat"]).expect(0).json();
    assert_eq!(answer["groups"][0]["error"], "table \"public.t\" is missing");
    assert_eq!(answer["groups"][0]["hint"], "create it");
}

#[test]
fn stats_show_what_was_done_by_table() {
    let directory = deployment();
    assert!(irongate(directory.path(), &["stats"]).expect(0).stdout.contains("no group"));
    publish(&directory.path().join("state"), Program::Extract, |status| {
        status.counters.transactions = 12_345;
        status.counters.rows_inserted = 7;
        let counters = TableCounters { inserts: 7, updates: 6, deletes: 5, truncates: 4, skipped: 0 };
        status.tables.insert("public.person".to_owned(), counters);
    });
    let answer = irongate(directory.path(), &["stats", "--json"]).expect(0).json();
    let group = &answer["groups"][0];
    assert_eq!((&group["name"], &group["transactions"]), (&json!("csp-extract"), &json!(12_345)));
    assert_eq!(group["rows_inserted"], 7);
    let table = json!({ "name": "public.person", "inserts": 7, "updates": 6, "deletes": 5, "truncates": 4, "skipped": 0 });
    assert_eq!(group["tables"], json!([table]));
    let text = irongate(directory.path(), &["stats"]).expect(0).stdout;
    assert!(text.contains("12,345 transactions") && text.contains("public.person"), "{text}");
}

#[test]
fn lag_has_every_stage_and_says_when_the_source_was_silent() {
    let directory = deployment();
    publish(&directory.path().join("state"), Program::Extract, |status| {
        status.lag_bytes = Some(10);
        status.lag_seconds = Some(0.25);
        status.commit_lsn = Some(Lsn(5));
    });
    let answer = irongate(directory.path(), &["lag", "--json"]).expect(0).json();
    let flow = &answer["flows"][0];
    assert_eq!(flow["flow"], "csp");
    // What a process measured last says nothing once it is gone.
    assert_eq!(flow["extract"], json!({ "state": "ABENDED", "lag_bytes": null, "lag_seconds": null }));
    assert_eq!(flow["replicat"], json!({ "state": null, "lag_bytes": null, "lag_seconds": null }));
    assert_eq!((&flow["lag_bytes"], &flow["lag_seconds"]), (&Value::Null, &Value::Null));
    assert!(flow["source_silent"].is_string(), "{flow}");
    let answer = irongate(directory.path(), &["lag"]).expect(0);
    assert!(answer.stdout.contains("end to end"), "{}", answer.stdout);
    answer.says(&["the source does not answer"]);
}
