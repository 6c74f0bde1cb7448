//! The runbooks of an operator, in the order of a bad week: each stops at a refusal, and goes on where it stopped.

use irongate_tests::books::{
    Application, books, follows, power_off, power_on, reference, running, salvage, slots,
};
use irongate_tests::{Cut, SITES, Server};

use super::deployment::stop;

#[tokio::test(flavor = "multi_thread")]
async fn the_runbooks_lead_through_switchover_disaster_and_return() {
    let major = *Server::majors().last().expect("a version");
    let mut reference = reference(major).await;
    let [main_manager, secondary_manager] = SITES.map(|site| reference.start(site, &["manager"]));
    running(&reference).await;
    for name in ["switchover", "switchback", "failover", "reinstate", "fence", "open"] {
        let help = reference.script("main", 0, name, &["--help"]).await.stdout;
        assert!(help.contains(&format!("usage: scripts/{name}")), "{help}");
        if name != "switchback" {
            reference.script("main", 2, name, &[]).await;
        }
    }
    reference.script("secondary", 0, "open", &["secondary", "--force"]).await;
    let refused = reference.script("secondary", 3, "switchover", &["secondary"]).await;
    assert!(
        refused.stdout.starts_with("1. checking") && !refused.stdout.contains("2."),
        "{}",
        refused.stdout
    );
    reference.script("secondary", 0, "fence", &["secondary", "--is-copy"]).await;
    reference.script("main", 3, "open", &["secondary"]).await;

    let application = Application::start(&reference.servers, 0);
    let done = reference.script("secondary", 0, "switchover", &["secondary"]).await.stdout;
    assert!(done.contains("3. filing the report as ./switchover-"), "{done}");
    let directory = reference.directory.path().to_owned();
    let reports = || {
        let files = std::fs::read_dir(&directory).expect("the directory is there").flatten();
        files.filter(|file| file.file_name().to_string_lossy().ends_with(".html")).count()
    };
    assert_eq!(reports(), 1);

    // Cut off by somebody who closed his terminal.
    let cut = Cut { plan: "switchback", site: "main", order: "begin", step: "fence", place: "done" };
    assert!(reference.cut_off("main", &cut).await);
    // Another runbook does not take it for its own.
    reference.script("main", 3, "switchover", &["main"]).await;
    let back = reference.script("main", 0, "switchback", &[]).await.stdout;
    assert!(back.contains("1. going on with run switchback-"), "{back}");
    let mut kept = application.stop().await;
    books(&reference.servers[0], &kept).await;
    follows(&reference, 0, 1).await;

    reference.script("secondary", 3, "failover", &["secondary"]).await;
    power_off(&mut reference);
    drop(main_manager);
    let estimate = reference.script("secondary", 3, "failover", &["secondary"]).await.stderr;
    assert!(estimate.contains("--accept-loss"), "{estimate}");
    reference.script("secondary", 0, "failover", &["secondary", "--accept-loss"]).await;
    let application = Application::start(&reference.servers, 1_000_000);
    let main_manager = power_on(&mut reference).await;
    let unsigned = reference.script("secondary", 3, "reinstate", &["main"]).await.stderr;
    assert!(unsigned.contains("nobody has signed for that"), "{unsigned}");
    // What it had alone: nothing, which somebody signs for.
    salvage(&reference, "found", "replay").await;
    reference.script("secondary", 0, "reinstate", &["main"]).await;
    reference.script("main", 0, "switchback", &[]).await;
    kept.extend(application.stop().await);
    books(&reference.servers[0], &kept).await;
    follows(&reference, 0, 2).await;
    assert_eq!((slots(&reference, 0).await, slots(&reference, 1).await), ("csp,msp".into(), "mss".into()));
    assert_eq!(reports(), 5);
    for manager in [main_manager, secondary_manager] {
        stop(manager).await;
    }
}
