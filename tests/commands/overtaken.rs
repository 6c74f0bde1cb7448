//! Runs that others have overtaken: no two sites are ever in one epoch, nothing that is over is brought to life again, and who
//! only reads is in nobody's way.

use irongate_tests::books::{follows, power_back, power_off};
use irongate_tests::{Cut, wait_until};

use super::deployment::{PATIENCE, stop};
use super::returned::{and, answers, every_day, is_open};
use super::superseded::{both_answer, open, run_at, writes_as_application};

const SWITCHOVER: [&str; 3] = ["switchover", "--to", "secondary"];
const FAILOVER: [&str; 3] = ["failover", "--to", "secondary"];

const TAKEOVER: [&str; 5] = ["failover", "--to", "main", "--accept-loss", "--force"];

const fn cut<'a>(plan: &'a str, step: &'a str, place: &'a str) -> Cut<'a> {
    Cut { plan, site: "secondary", order: "begin", step, place }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_takes_over_from_a_run_is_in_an_epoch_of_its_own_and_the_run_stays_over() {
    let (mut reference, [main_manager, secondary_manager]) = every_day().await;
    // Cut off where one site has been told and the other one has not, and then that site is lost with its journal.
    assert!(reference.cut_off("secondary", &cut("switchover", "roles", "begins")).await);
    assert_eq!(open(&reference).await, [false, true]);
    // Nobody closes the only site that is open without saying so.
    let refused = reference.expect("secondary", 3, &["fence", "secondary"]).await.stderr;
    assert!(refused.contains("is written by its applications"), "{refused}");
    writes_as_application(&reference, 1, "'there', 1").await;
    reference.kill("secondary");
    reference.servers[1].kill();
    drop(secondary_manager);
    let run = run_at(&reference, "main").await.expect("it has it in hand");
    let freed = reference.expect("main", 4, &["runs", "--forget", &run]).await.stdout;
    assert!(freed.contains("irongate failover --to main --accept-loss --force there makes"), "{freed}");
    reference.expect("main", 0, &TAKEOVER).await;
    assert!(is_open(&reference, 0).await);

    // It comes back, and its manager closes it: what it says is of an earlier epoch.
    reference.servers[1].start_again().await;
    let secondary_manager = reference.start("secondary", &["manager"]);
    wait_until(PATIENCE, "the site that came back to be closed", async || {
        !is_open(&reference, 1).await && run_at(&reference, "secondary").await.is_none()
    })
    .await;
    assert!(is_open(&reference, 0).await);
    both_answer(&reference).await;
    reference.expect("main", 0, &["reinstate", "secondary", "--accept-loss"]).await;
    follows(&reference, 0, 1).await;

    // A failover does not go on from the run that is not over by its journal alone.
    power_off(&mut reference);
    drop(main_manager);
    assert!(reference.cut_off("secondary", &cut("failover", "apply-rest", "done")).await);
    let main_manager = power_back(&mut reference).await;
    both_answer(&reference).await;
    reference.expect("secondary", 0, &and(&FAILOVER, &["--abort"])).await;
    assert_eq!(run_at(&reference, "secondary").await, None);
    let refused = reference.expect("secondary", 3, &and(&SWITCHOVER, &["--resume"])).await.stderr;
    assert!(refused.contains("every run of this site is over"), "{refused}");
    assert_eq!(open(&reference).await, [true, false]);
    follows(&reference, 0, 2).await;
    // The epoch that it was to begin is not taken twice, and a trail that has been begun in a later one is no reason to stop.
    reference.expect("secondary", 0, &and(&SWITCHOVER, &["--drill"])).await;
    follows(&reference, 0, 4).await;
    reference.expect("secondary", 0, &SWITCHOVER).await;
    follows(&reference, 1, 3).await;
    for manager in [main_manager, secondary_manager] {
        stop(manager).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_is_in_nobodys_way_and_who_is_is_named_while_there_is_a_way_back() {
    let (mut reference, [main_manager, secondary_manager]) = every_day().await;
    // As pg_dump holds it, of every table, for as long as it is at work.
    let reader = reference.servers[1].client("config").await;
    reader.batch_execute("BEGIN; LOCK TABLE irongate.fence IN ACCESS SHARE MODE").await.expect("it is there");
    reference.expect("secondary", 0, &SWITCHOVER).await;
    follows(&reference, 1, 1).await;
    reader.batch_execute("ROLLBACK").await.expect("it reads");
    reference.expect("main", 0, &["switchback"]).await;
    follows(&reference, 0, 2).await;

    // Somebody who changes it: nobody has been let in, so there is a way back.
    assert!(reference.cut_off("secondary", &cut("switchover", "verify", "done")).await);
    reference.expect("secondary", 0, &["open", "secondary", "--force"]).await;
    let refused = reference.expect("secondary", 3, &and(&SWITCHOVER, &["--abort"])).await.stderr;
    assert!(refused.contains("cannot be opened while \"config.secondary\" has no fence"), "{refused}");
    reference.expect("secondary", 0, &["fence", "secondary", "--force"]).await;
    reader.batch_execute("BEGIN; LOCK TABLE irongate.fence IN EXCLUSIVE MODE").await.expect("it is there");
    let failed = reference.expect("secondary", 4, &and(&SWITCHOVER, &["--resume"])).await.stderr;
    let pid =
        "SELECT pid FROM pg_locks WHERE relation = 'irongate.fence'::regclass AND mode = 'ExclusiveLock'";
    let pid = reference.servers[1].scalar("config", pid).await;
    assert!(failed.contains(&format!("server process {pid} (role \"postgres\"")), "{failed}");
    assert!(failed.contains("in the way") && failed.contains("--abort"), "{failed}");
    let run = run_at(&reference, "secondary").await.expect("it has it in hand");
    let shown = reference.expect("secondary", 0, &["runs", &run]).await.stdout;
    assert!(shown.contains("--abort"), "{shown}");
    assert_eq!(open(&reference).await, [false, false]);
    reader.batch_execute("ROLLBACK").await.expect("it ends");
    // There is none while somebody has opened it by hand.
    reference.expect("secondary", 0, &["open", "secondary", "--force"]).await;
    let refused = reference.expect("secondary", 3, &and(&SWITCHOVER, &["--abort"])).await.stderr;
    assert!(refused.contains("cannot be opened while"), "{refused}");
    assert_eq!(open(&reference).await, [false, true]);
    reference.expect("secondary", 0, &["fence", "secondary", "--force"]).await;
    reference.expect("secondary", 0, &and(&SWITCHOVER, &["--abort"])).await;
    assert_eq!(open(&reference).await, [true, false]);
    reference.expect("secondary", 0, &["fence", "secondary", "--is-copy"]).await;
    follows(&reference, 0, 3).await;

    // A drill that is taken back while the site that writes is lost says how that one is freed.
    assert!(reference.cut_off("secondary", &cut("drill", "stop-replicat", "done")).await);
    let run = run_at(&reference, "secondary").await.expect("it has it in hand");
    power_off(&mut reference);
    drop(main_manager);
    let left = reference.expect("secondary", 4, &and(&SWITCHOVER, &["--drill", "--abort"])).await.stderr;
    let remedy = format!("irongate runs --forget {run}");
    assert!(left.contains(&remedy), "{left}");
    let main_manager = power_back(&mut reference).await;
    answers(&reference, "main").await;
    assert_eq!(run_at(&reference, "main").await.as_deref(), Some(run.as_str()));
    // Its journal is at the other site, which can be asked.
    let refused = reference.expect("main", 3, &["runs", "--forget", &run]).await.stderr;
    assert!(refused.contains("lies at site \"secondary\""), "{refused}");
    reference.expect("secondary", 0, &["runs", "--forget", &run]).await;
    assert_eq!(run_at(&reference, "main").await, None);
    follows(&reference, 0, 4).await;
    reference.expect("secondary", 0, &SWITCHOVER).await;
    follows(&reference, 1, 5).await;
    for manager in [main_manager, secondary_manager] {
        stop(manager).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sites_that_write_in_one_epoch_are_told_and_one_gives_way() {
    let (reference, managers) = every_day().await;
    reference.expect("secondary", 0, &SWITCHOVER).await;
    follows(&reference, 1, 1).await;
    // As of a database that somebody has brought back from a backup.
    let role = "UPDATE irongate.role SET live = 'main'";
    reference.servers[0].batch_in("config", role).await;
    reference.expect("main", 0, &["open", "main", "--force"]).await;
    let mut said = String::new();
    wait_until(PATIENCE, "health to tell of both", async || {
        said = reference.start("main", &["health"]).finish(PATIENCE).await.stdout;
        said.contains("both say in epoch 2 that they write")
    })
    .await;
    // As it says.
    reference.expect("secondary", 0, &["fence", "secondary", "--force"]).await;
    reference.expect("main", 0, &TAKEOVER).await;
    let gives_way = "SELECT live = 'main' AND epoch > 2 FROM irongate.role";
    wait_until(PATIENCE, "the other one to give way", async || {
        reference.servers[1].scalar("config", gives_way).await == "t"
    })
    .await;
    assert_eq!(open(&reference).await, [true, false]);
    reference.expect("main", 0, &["reinstate", "secondary", "--accept-loss"]).await;
    follows(&reference, 0, 2).await;
    for manager in managers {
        stop(manager).await;
    }
}
