//! A site that is lost in the middle of a run, or comes back in the middle of a failover: whatever goes on from what, one site
//! writes, what was put by can be gone on with, and every run has an end.

use irongate_tests::books::{follows, power_back, power_off, power_on, slots};
use irongate_tests::{Cut, Process, Reference, SITES, wait_until};

use super::deployment::{PATIENCE, stop};
use super::returned::{and, answers, every_day, is_open};

const FAILOVER: [&str; 3] = ["failover", "--to", "secondary"];
const SWITCHOVER: [&str; 3] = ["switchover", "--to", "secondary"];

const fn cut<'a>(plan: &'a str, step: &'a str, place: &'a str) -> Cut<'a> {
    Cut { plan, site: "secondary", order: "begin", step, place }
}

/// Which sites let applications in.
pub(super) async fn open(reference: &Reference) -> [bool; 2] {
    [is_open(reference, 0).await, is_open(reference, 1).await]
}

pub(super) async fn both_answer(reference: &Reference) {
    for site in SITES {
        answers(reference, site).await;
    }
}

/// The run that has the database of a site in hand.
pub(super) async fn run_at(reference: &Reference, site: &str) -> Option<String> {
    let place = SITES.iter().position(|known| *known == site).expect("a site");
    let run = reference.servers[place].scalar("config", "SELECT coalesce(run, '') FROM irongate.role").await;
    (!run.is_empty()).then_some(run)
}

pub(super) async fn writes_as_application(reference: &Reference, site: usize, row: &str) {
    let client = reference.servers[site].try_client("app", "config").await.expect("it is open");
    client.batch_execute(&format!("INSERT INTO entry VALUES ({row})")).await.expect("it writes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_a_failover_went_on_from_goes_on_itself_when_the_failover_is_taken_back() {
    let (mut reference, [first, secondary_manager]) = every_day().await;

    // Behind its point of no return: the site that it has opened stays open, and the other one closed.
    assert!(reference.cut_off("secondary", &cut("switchover", "roles", "begins")).await);
    assert_eq!(open(&reference).await, [false, true]);
    writes_as_application(&reference, 1, "'there', 1").await;
    assert!(reference.cut_off_by("force", "secondary", &cut("failover", "seal", "begins")).await);
    let refused = reference.expect("secondary", 2, &and(&SWITCHOVER, &["--resume"])).await.stderr;
    assert!(refused.contains("run \"failover-"), "the failover is to be ended first: {refused}");
    reference.expect("secondary", 0, &and(&FAILOVER, &["--abort"])).await;
    assert_eq!(open(&reference).await, [false, true]);
    reference.expect("secondary", 0, &and(&SWITCHOVER, &["--resume"])).await;
    follows(&reference, 1, 1).await;
    reference.expect("main", 0, &["switchback"]).await;
    follows(&reference, 0, 2).await;

    // Before it, with nobody let in anywhere, and the other site lost for a while.
    assert!(reference.cut_off("secondary", &cut("switchover", "stop-forward", "done")).await);
    power_off(&mut reference);
    drop(first);
    assert!(reference.cut_off("secondary", &cut("failover", "apply-rest", "done")).await);
    let main_manager = power_back(&mut reference).await;
    both_answer(&reference).await;
    reference.expect("secondary", 0, &and(&FAILOVER, &["--abort"])).await;
    assert_eq!(open(&reference).await, [false, false]);
    reference.expect("secondary", 0, &and(&SWITCHOVER, &["--abort"])).await;
    assert_eq!(open(&reference).await, [true, false]);
    assert_eq!(
        (slots(&reference, 0).await.as_str(), slots(&reference, 1).await.as_str()),
        ("csp,msp", "mss")
    );
    follows(&reference, 0, 3).await;
    // Nothing stands in anybody's way.
    reference.expect("secondary", 0, &SWITCHOVER).await;
    follows(&reference, 1, 4).await;
    reference.expect("main", 0, &["switchback"]).await;

    // A drill that has opened the standby: it is closed before anything is applied to it, and tells who has written.
    let drill = cut("drill", "open-standby", "done");
    assert!(reference.cut_off("secondary", &drill).await);
    writes_as_application(&reference, 1, "'drilled', 1").await;
    power_off(&mut reference);
    drop(main_manager);
    let refused = reference.expect("secondary", 4, &and(&FAILOVER, &["--accept-loss"])).await.stderr;
    assert!(refused.contains("written at the standby \"config.secondary\""), "{refused}");
    assert_eq!(open(&reference).await, [false, false]);
    reference.expect("secondary", 0, &and(&FAILOVER, &["--resume", "--force"])).await;
    assert!(is_open(&reference, 1).await);
    let main_manager = power_on(&mut reference).await;
    reference.expect("secondary", 0, &["reinstate", "main", "--accept-loss"]).await;
    follows(&reference, 1, 5).await;
    for manager in [main_manager, secondary_manager] {
        stop(manager).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_comes_back_while_a_failover_is_at_work_is_not_taken_over_from() {
    let (mut reference, [first, secondary_manager]) = every_day().await;
    // Somebody's transaction holds up the reverse slot, and with it the failover.
    let idle = reference.servers[1].client("log").await;
    idle.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.expect("it begins");
    power_off(&mut reference);
    drop(first);
    let failover: Process = reference.start("secondary", &and(&FAILOVER, &["--accept-loss"]));
    wait_until(PATIENCE, "the failover to make the reverse slot", async || {
        failover.stderr().contains("the slot waits for")
    })
    .await;
    let main_manager = power_back(&mut reference).await;
    answers(&reference, "main").await;
    writes_as_application(&reference, 0, "'back', 1").await;
    idle.batch_execute("ROLLBACK").await.expect("it ends");
    let ended = failover.finish(PATIENCE).await;
    assert_ne!(ended.code(), 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("answers again, and is open"), "{}", ended.stderr);
    assert_eq!(open(&reference).await, [true, false]);
    reference.expect("secondary", 0, &and(&FAILOVER, &["--abort"])).await;
    follows(&reference, 0, 1).await;

    // The same where the run was cut off just before it would have opened anything.
    power_off(&mut reference);
    drop(main_manager);
    assert!(reference.cut_off("secondary", &cut("failover", "open", "begins")).await);
    let main_manager = power_back(&mut reference).await;
    answers(&reference, "main").await;
    writes_as_application(&reference, 0, "'back', 2").await;
    let refused = reference.expect("secondary", 3, &and(&FAILOVER, &["--resume"])).await.stderr;
    assert!(refused.contains("answers again, and is open"), "{refused}");
    reference.expect("secondary", 0, &and(&FAILOVER, &["--abort"])).await;
    assert_eq!(open(&reference).await, [true, false]);
    follows(&reference, 0, 3).await;

    // Back when the other site has just been opened, and the run is cut off there: its guard knows.
    power_off(&mut reference);
    drop(main_manager);
    assert!(reference.cut_off("secondary", &cut("failover", "roles", "begins")).await);
    assert!(open(&reference).await[1]);
    let main_manager = power_back(&mut reference).await;
    wait_until(PATIENCE, "the guard to close the site that came back", async || {
        // The guard is at work before the manager listens, which the reinstatement asks.
        !is_open(&reference, 0).await
            && reference.start("main", &["health"]).finish(PATIENCE).await.code() != 1
    })
    .await;
    reference.expect("secondary", 0, &and(&FAILOVER, &["--resume"])).await;
    assert_eq!(open(&reference).await, [false, true]);
    reference.expect("secondary", 0, &["reinstate", "main", "--accept-loss"]).await;
    follows(&reference, 1, 2).await;
    for manager in [main_manager, secondary_manager] {
        stop(manager).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_does_in_the_middle_of_a_run_is_not_taken_for_the_run_s_own_doing() {
    let (mut reference, [first, secondary_manager]) = every_day().await;

    // Somebody has closed the site for a reason of his own.
    reference.expect("main", 0, &["fence", "main", "--force"]).await;
    assert!(reference.cut_off_by("force", "secondary", &cut("failover", "seal", "begins")).await);
    reference.expect("secondary", 0, &and(&FAILOVER, &["--abort"])).await;
    assert_eq!(open(&reference).await, [false, false]);
    reference.expect("main", 0, &["open", "main"]).await;
    reference.expect("main", 0, &["start", "csp"]).await;
    follows(&reference, 0, 1).await;

    // Somebody opens the site that was closed for another one, which is open already; somebody writes there.
    assert!(reference.cut_off("secondary", &cut("switchover", "roles", "begins")).await);
    reference.expect("main", 0, &["open", "main", "--force"]).await;
    writes_as_application(&reference, 0, "'alone', 1").await;
    let refused = reference.expect("secondary", 4, &and(&SWITCHOVER, &["--resume"])).await.stderr;
    assert!(refused.contains("config.main") && refused.contains("fence"), "{refused}");
    reference.expect("main", 0, &["fence", "main", "--force"]).await;
    let refused = reference.expect("secondary", 4, &and(&SWITCHOVER, &["--resume"])).await.stderr;
    assert!(refused.contains("has committed something by itself"), "{refused}");
    assert!(refused.contains("irongate failover --to secondary --accept-loss --force"), "{refused}");
    reference.expect("secondary", 0, &and(&FAILOVER, &["--accept-loss", "--force"])).await;
    assert_eq!(open(&reference).await, [false, true]);
    reference.expect("secondary", 0, &["reinstate", "main", "--accept-loss"]).await;
    follows(&reference, 1, 2).await;

    // The same where what was written was captured, and shows in no slot any more.
    let back = Cut { plan: "switchback", site: "main", order: "begin", step: "roles", place: "begins" };
    assert!(reference.cut_off("main", &back).await);
    reference.expect("secondary", 0, &["open", "secondary", "--force"]).await;
    reference.expect("secondary", 0, &["start", "css-extract"]).await;
    writes_as_application(&reference, 1, "'captured', 1").await;
    let written = reference.servers[1].scalar("config", "SELECT pg_current_wal_lsn()").await;
    let read = format!(
        "SELECT confirmed_flush_lsn >= '{written}' FROM pg_replication_slots WHERE slot_name LIKE '%_css'"
    );
    wait_until(PATIENCE, "it to be captured", async || {
        reference.servers[1].scalar("config", &read).await == "t"
    })
    .await;
    reference.expect("secondary", 0, &["fence", "secondary", "--force"]).await;
    reference.expect("secondary", 0, &["stop", "css-extract"]).await;
    let refused = reference.expect("main", 4, &["switchback", "--resume"]).await.stderr;
    assert!(refused.contains("has committed something by itself"), "{refused}");
    reference.expect("main", 0, &["failover", "--to", "main", "--accept-loss", "--force"]).await;
    reference.expect("main", 0, &["reinstate", "secondary", "--accept-loss"]).await;
    follows(&reference, 0, 3).await;

    // The site where a run was begun is lost with its journal: the other one takes over, if told to.
    assert!(reference.cut_off("secondary", &cut("switchover", "follow", "begins")).await);
    reference.kill("secondary");
    reference.servers[1].kill();
    drop(secondary_manager);
    let takeover = ["failover", "--to", "main", "--accept-loss"];
    let refused = reference.expect("main", 3, &takeover).await.stderr;
    assert!(
        refused.contains("in the hands of run \"switchover-") && refused.contains("--force"),
        "{refused}"
    );
    reference.expect("main", 0, &and(&takeover, &["--force"])).await;
    assert!(is_open(&reference, 0).await);

    // Or the run is forgotten, where nobody has its journal any more.
    let role = "UPDATE irongate.role SET run = 'switchover-1', holder = 'somebody@away', run_since = now()";
    reference.servers[0].batch_in("config", role).await;
    let run = run_at(&reference, "main").await;
    assert_eq!(run.as_deref(), Some("switchover-1"));
    let refused = reference.expect("main", 3, &["runs", "--forget", "switchover-2"]).await.stderr;
    assert!(refused.contains("no database is in the hands of run \"switchover-2\""), "{refused}");
    // The other site does not answer, which is said.
    let freed = reference.expect("main", 4, &["runs", "--forget", "switchover-1"]).await;
    assert!(
        freed.stdout.contains("config.main: freed; it says that site \"main\" writes"),
        "{}",
        freed.stdout
    );
    assert!(freed.stderr.contains("config.secondary"), "{}", freed.stderr);
    assert_eq!(run_at(&reference, "main").await, None);
    stop(first).await;
}
