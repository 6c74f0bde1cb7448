use irongate_checkpoint::{GroupLock, Holder};

use super::*;

#[test]
fn no_way_back_is_said_in_the_words_of_the_plan() {
    let error = |plan: &str, step| Error::NoReturn { run: format!("{plan}-1"), plan: plan.to_owned(), step };
    let reinstate = error("reinstate", "copy");
    assert!(reinstate.to_string().contains("rows may have been overwritten"), "{reinstate}");
    assert_eq!(reinstate.hint().as_deref(), Some("go on with --resume"));
    for plan in ["switchover", "switchback", "failover"] {
        let error = error(plan, "open");
        assert!(error.to_string().contains("applications may have written"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("a run of its own")));
    }
}

#[test]
fn a_run_that_another_process_leads_is_not_called_a_group() {
    let state = tempfile::tempdir().unwrap();
    let _held = GroupLock::acquire(state.path(), "switchover").unwrap();
    let error = Error::of_lock(GroupLock::acquire(state.path(), "switchover").unwrap_err());
    let expected = format!("another irongate (process {}) leads a run of this site", std::process::id());
    assert_eq!((error.to_string(), error.is_transient()), (expected, true));
    let unknown = irongate_checkpoint::Error::Held { group: "switchover".into(), holder: Holder::default() };
    assert!(!Error::of_lock(unknown).to_string().contains("group"));
}
