use serde_json::json;

use super::*;

fn heading(plan: &str, accept_loss: bool) -> Heading {
    Heading {
        run: format!("{plan}-1"),
        plan: plan.into(),
        from: "main".into(),
        to: "secondary".into(),
        databases: vec!["config".into()],
        holder: "dba@host".into(),
        release: "0.1.0".into(),
        accept_loss,
        force: false,
        supersedes: None,
        by: crate::plan::By::Copy,
    }
}

/// A run whose notes come a second after each other.
fn run(plan: &str, accept_loss: bool, notes: Vec<What>) -> Report {
    let heading = heading(plan, accept_loss);
    let all = std::iter::once(What::Begun(heading.clone())).chain(notes);
    let entries: Vec<Entry> =
        all.zip(0..).map(|(what, second)| Entry { at: second * 1_000_000, what }).collect();
    report(&heading, &entries)
}

fn done(step: &str, evidence: Value) -> [What; 2] {
    [What::Step { step: step.into() }, What::Done { step: step.into(), seconds: 1.0, evidence }]
}

fn undone(step: &str, evidence: Value) -> [What; 2] {
    [What::Undo { step: step.into() }, What::Undone { step: step.into(), evidence }]
}

fn aborted_failover(fence: Value, opened: Value) -> Report {
    let mut notes = done("prechecks", Value::Null).to_vec();
    notes.extend(done(FENCE_LOST, fence));
    notes.extend(undone(FENCE_LOST, opened));
    notes.extend(undone("prechecks", Value::Null));
    notes.push(What::Ended { outcome: Outcome::Aborted });
    run("failover", true, notes)
}

#[test]
fn a_failover_that_was_taken_back_has_lost_nothing_and_its_outage_has_an_end() {
    let silent = json!({ "tried": [{ "database": "config.main", "fenced": false, "reason": "no answer" }] });
    let report = aborted_failover(silent, json!({ "opened": [] }));
    assert_eq!((report.result, report.outage, report.lost_transactions), ("aborted", None, Some(0)));
    assert_eq!(report.lost(), "0");
    assert!(report.next.is_empty());

    let closed =
        json!({ "tried": [{ "database": "config.main", "fenced": true, "evidence": { "at": 3_500_000 } }] });
    let report = aborted_failover(closed.clone(), json!({ "opened": [{ "at": 5_250_000 }] }));
    assert_eq!(report.outage, Some(Window { begun: 3_500_000, ended: Some(5_250_000) }));
    assert_eq!(report.outage_seconds, Some(1.75));

    // What could not be opened again is closed.
    let report = aborted_failover(closed, json!({ "opened": [] }));
    assert_eq!(report.outage, Some(Window { begun: 3_500_000, ended: None }));
}

#[test]
fn a_failover_taken_back_before_it_touched_the_old_site_kept_nobody_out() {
    let mut notes = done("prechecks", Value::Null).to_vec();
    notes.extend(undone("prechecks", Value::Null));
    let unfinished = run("failover", true, notes.clone());
    assert!(unfinished.outage.is_some(), "until it is over, or the fence was taken back");
    notes.push(What::Ended { outcome: Outcome::Aborted });
    assert_eq!(run("failover", true, notes).outage, None);
    // A fence that was cut off had closed it: there was something to open.
    let mut notes = vec![What::Step { step: FENCE_LOST.into() }];
    notes.extend(undone(FENCE_LOST, json!({ "opened": [{ "database": "config.main" }] })));
    assert_eq!(
        run("failover", true, notes).outage,
        Some(Window { begun: 1_000_000, ended: Some(3_000_000) })
    );
}

#[test]
fn a_run_that_a_failover_goes_on_from_is_over_and_says_so() {
    let mut notes = done("prechecks", Value::Null).to_vec();
    notes.push(What::Ended { outcome: Outcome::Superseded });
    let report = run("switchover", false, notes);
    assert_eq!((report.result, report.lost_transactions), ("superseded", None));
    assert!(report.verdict().contains("a failover goes on from it"), "{}", report.verdict());
    assert!(report.loss.because.contains("failover"), "{}", report.loss.because);
}

#[test]
fn what_a_lost_site_had_is_salvaged_there_and_estimated_by_one_name() {
    for name in ["estimated_lost_transactions", "estimated_lost_transactions_at_most"] {
        let databases = json!({ "databases": [{ "database": "config", "arrived": { name: 7 } }] });
        let mut notes = done("prechecks", databases).to_vec();
        notes.extend(done(OPEN, Value::Null));
        notes.push(What::Ended { outcome: Outcome::Done });
        let report = run("failover", true, notes);
        let estimate = json!([{ "database": "config", "estimated_lost_transactions": 7 }]);
        assert_eq!(report.loss.estimate, Some(estimate));
        let sites: Vec<(Option<&str>, Option<&str>)> =
            report.next.iter().map(|advice| (advice.command.as_deref(), advice.site.as_deref())).collect();
        assert_eq!(
            sites,
            [
                (Some("irongate salvage main"), Some("main")),
                (Some("irongate reinstate main"), Some("secondary")),
            ]
        );
    }
}

#[test]
fn a_reinstatement_names_what_was_salvaged_and_what_was_given_up() {
    let reinstated = |accept_loss: bool, salvaged: Value| {
        let mut notes = done("prechecks", json!({ "salvaged": salvaged })).to_vec();
        notes.extend(done("copy", Value::Null));
        notes.push(What::Ended { outcome: Outcome::Done });
        run("reinstate", accept_loss, notes)
    };
    let signed = json!([{ "run": "salvage-7", "by": "Ada", "at": "2026-11-21 15:00:00+00", "transactions": 5,
                          "incomplete": false, "looked_up_to": "0/1" }]);
    for accepted in [false, true] {
        let report = reinstated(accepted, signed.clone());
        for word in ["5 transactions", "\"salvage-7\"", "Ada", "2026-11-21 15:00"] {
            assert!(report.loss.because.contains(word), "{word}: {}", report.loss.because);
        }
        assert!(!report.loss.because.contains("given up"), "{}", report.loss.because);
        assert_eq!(
            (report.lost().as_str(), &report.loss.salvaged),
            ("as was signed for", &Some(signed.clone()))
        );
    }
    let report = reinstated(true, json!([]));
    assert!(report.loss.because.contains("given up, as was accepted"), "{}", report.loss.because);
    assert_eq!(report.lost(), "cannot be known");
    assert!(!reinstated(false, json!([])).loss.because.contains("given up"));
}
