//! A site that comes back, or goes, while a run is cut off that was about it: never do both sites write, never is the site
//! closed that does, and every run has an end.

use irongate_tests::books::{follows, power_back, power_off, power_on, reference, running, slots};
use irongate_tests::{Cut, Process, Reference, SITES, Server, wait_until};

use super::deployment::{PATIENCE, stop};

/// Who writes by what a site says, and who has it in hand.
const ROLES: &str = "SELECT live || ' ' || coalesce(run, 'free') FROM irongate.role";
const FAILOVER: [&str; 3] = ["failover", "--to", "secondary"];

pub(super) fn and<'a>(words: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [words, more].concat()
}

pub(super) async fn is_open(reference: &Reference, site: usize) -> bool {
    reference.servers[site].try_client("app", "config").await.is_ok()
}

pub(super) async fn answers(reference: &Reference, site: &str) {
    wait_until(PATIENCE, "the manager to answer", async || {
        reference.start(site, &["health"]).finish(PATIENCE).await.code() != 1
    })
    .await;
}

/// Two sites as they are every day.
pub(super) async fn every_day() -> (Reference, [Process; 2]) {
    let reference = reference(Server::majors()[0]).await;
    let managers = SITES.map(|site| reference.start(site, &["manager"]));
    running(&reference).await;
    (reference, managers)
}

/// The first site was lost, the second has taken over, and the first is there again, closed.
async fn taken_over() -> (Reference, [Process; 2]) {
    let (mut reference, [first, secondary_manager]) = every_day().await;
    power_off(&mut reference);
    drop(first);
    // While a table is being copied anew it has not all rows.
    let half = |done: &str, again: bool| {
        format!(
            "UPDATE irongate.load SET done_at = {done}, beside = {again} WHERE flow = 'csp';
             UPDATE irongate.load_table SET again = {again} WHERE flow = 'csp' AND source_table = 'entry'"
        )
    };
    reference.servers[1].batch_in("config", &half("NULL", true)).await;
    let refused =
        reference.expect("secondary", 3, &and(&FAILOVER, &["--accept-loss", "--dry-run"])).await.stderr;
    assert!(
        refused.contains("is no whole copy: a load of flow \"csp\" is not done, and public.entry"),
        "{refused}"
    );
    reference.servers[1].batch_in("config", &half("now()", false)).await;
    reference.expect("secondary", 0, &and(&FAILOVER, &["--accept-loss"])).await;
    let main_manager = power_on(&mut reference).await;
    (reference, [main_manager, secondary_manager])
}

/// A failover that is cut off, and the site that was lost is there again: its server, its manager, its applications.
async fn cut_off_and_back(reference: &mut Reference) -> Process {
    power_off(reference);
    let cut =
        Cut { plan: "failover", site: "secondary", order: "begin", step: "reverse-capture", place: "begins" };
    assert!(reference.cut_off("secondary", &cut).await);
    let manager = power_back(reference).await;
    let client = reference.servers[0].try_client("app", "config").await.expect("nobody has closed it");
    client
        .batch_execute("INSERT INTO entry SELECT 'back', count(*) FROM entry WHERE site = 'back'")
        .await
        .expect("it writes as before");
    manager
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_site_that_is_back_when_a_failover_goes_on_never_writes_beside_the_other() {
    let (mut reference, [first, secondary_manager]) = every_day().await;

    // Nothing is lost if it is taken back.
    let main_manager = cut_off_and_back(&mut reference).await;
    drop(first);
    let refused = reference.expect("secondary", 3, &and(&FAILOVER, &["--resume"])).await.stderr;
    assert!(refused.contains("answers again") && refused.contains("--abort"), "{refused}");
    assert!(is_open(&reference, 0).await && !is_open(&reference, 1).await);
    reference.expect("secondary", 0, &and(&FAILOVER, &["--abort"])).await;
    follows(&reference, 0, 1).await;
    assert_eq!(slots(&reference, 1).await, "mss");

    // Taken over all the same.
    let again = cut_off_and_back(&mut reference).await;
    drop(main_manager);
    reference.expect("secondary", 3, &and(&FAILOVER, &["--resume"])).await;
    reference.expect("secondary", 0, &and(&FAILOVER, &["--resume", "--force"])).await;
    assert!(is_open(&reference, 1).await && !is_open(&reference, 0).await, "one site writes");
    wait_until(PATIENCE, "the guard to have seen to it", async || {
        reference.servers[0].scalar("config", ROLES).await == "secondary free"
    })
    .await;
    assert!(!is_open(&reference, 0).await);
    reference.expect("secondary", 0, &["reinstate", "main", "--accept-loss"]).await;
    follows(&reference, 1, 2).await;
    for manager in [again, secondary_manager] {
        stop(manager).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_a_failover_has_closed_and_then_lost_is_not_forgotten_when_it_is_taken_back() {
    let (mut reference, [first, secondary_manager]) = every_day().await;
    let cut = Cut { plan: "failover", site: "secondary", order: "begin", step: "seal", place: "begins" };
    assert!(reference.cut_off_by("force", "secondary", &cut).await);
    assert!(!is_open(&reference, 0).await, "it was closed");
    power_off(&mut reference);
    drop(first);
    let left = reference.expect("secondary", 4, &and(&FAILOVER, &["--abort"])).await.stderr;
    assert!(left.contains("config.main does not answer") && left.contains("irongate open main"), "{left}");
    let main_manager = power_back(&mut reference).await;
    answers(&reference, "main").await;
    reference.expect("main", 0, &["open", "main"]).await;
    let _ = reference.start("main", &["start", "csp-pump"]).finish(PATIENCE).await;
    assert!(is_open(&reference, 0).await);
    follows(&reference, 0, 1).await;
    for manager in [main_manager, secondary_manager] {
        stop(manager).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_others_have_overtaken_touches_nothing_and_is_over() {
    let (mut reference, [main_manager, secondary_manager]) = taken_over().await;
    // The other one is lost, too, before this one has ever followed it.
    reference.kill("secondary");
    reference.servers[1].kill();
    drop(secondary_manager);
    let takeover = ["failover", "--to", "main", "--accept-loss", "--dry-run"];
    let refused = reference.expect("main", 3, &takeover).await.stderr;
    assert!(refused.contains("config.main is no copy of config.secondary"), "{refused}");
    reference.servers[1].start_again().await;
    let secondary_manager = reference.start("secondary", &["manager"]);
    answers(&reference, "secondary").await;
    // Cut off behind everything that it does, and before that stands anywhere.
    let cut = Cut { plan: "reinstate", site: "main", order: "begin", step: "follow", place: "done" };
    assert!(reference.cut_off("secondary", &cut).await);
    reference.expect("main", 0, &["switchover", "--to", "main"]).await;
    // The second time it is known to be over.
    for _ in 0..2 {
        let refused = reference.expect("secondary", 3, &["reinstate", "main", "--resume"]).await.stderr;
        assert!(refused.contains("is over"), "{refused}");
        assert!(is_open(&reference, 0).await && !is_open(&reference, 1).await, "{refused}");
    }
    assert_eq!(slots(&reference, 0).await, "csp,msp");
    follows(&reference, 0, 1).await;

    // A planned one.
    let cut = Cut { plan: "switchover", site: "secondary", order: "begin", step: "follow", place: "done" };
    assert!(reference.cut_off("secondary", &cut).await);
    reference.expect("main", 0, &["switchback"]).await;
    let refused =
        reference.expect("secondary", 3, &["switchover", "--to", "secondary", "--resume"]).await.stderr;
    assert!(refused.contains("site \"main\" writes"), "{refused}");
    let shown = reference.expect("secondary", 0, &["runs"]).await.stdout;
    assert!(shown.contains("overtaken"), "{shown}");
    follows(&reference, 0, 2).await;
    // Nothing stands in the way of the next one.
    reference.expect("secondary", 0, &["switchover", "--to", "secondary"]).await;
    follows(&reference, 1, 3).await;
    for manager in [main_manager, secondary_manager] {
        stop(manager).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reinstatement_is_taken_back_whatever_is_gone_meanwhile() {
    let (mut reference, [main_manager, secondary_manager]) = taken_over().await;
    let cut = Cut { plan: "reinstate", site: "main", order: "begin", step: "compare", place: "begins" };
    let abort = ["reinstate", "main", "--abort"];

    // The site that was to come back is lost once more.
    assert!(reference.cut_off("secondary", &cut).await);
    power_off(&mut reference);
    drop(main_manager);
    reference.expect("secondary", 0, &abort).await;
    let extract = reference.json("secondary", &["info", "csp-replicat", "css-extract", "--here"]).await;
    let states: Vec<_> =
        extract["groups"].as_array().expect("groups").iter().map(|group| &group["state"]).collect();
    assert!(states.contains(&&"RUNNING".into()), "what is written is captured: {extract}");
    let main_manager = power_back(&mut reference).await;
    answers(&reference, "main").await;
    assert!(!is_open(&reference, 0).await && is_open(&reference, 1).await);

    // The slot is.
    assert!(reference.cut_off("secondary", &cut).await, "what is over is in nobody's way");
    let drop_slot = "SELECT pg_drop_replication_slot('irongate_shop_css')";
    reference.servers[1].batch_in("config", drop_slot).await;
    let left = reference.expect("secondary", 4, &abort).await.stderr;
    assert!(left.contains("is not captured") && left.contains("irongate reinstate main"), "{left}");
    for server in &reference.servers {
        assert_eq!(server.scalar("config", ROLES).await, "secondary free");
    }
    reference.expect("secondary", 0, &["reinstate", "main", "--accept-loss"]).await;
    follows(&reference, 1, 1).await;
    for manager in [main_manager, secondary_manager] {
        stop(manager).await;
    }
}
