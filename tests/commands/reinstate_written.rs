//! Who writes at a site that comes back, while its reinstatement is under way or cut off, is never taken for a copy.

use irongate_tests::books::{follows, running, salvage, slots};
use irongate_tests::{Cut, Reference, Server, Tier};

use super::deployment::stop;
use super::reinstate::{ALONE, SINCE, deployment, disaster, left};

/// Somebody lets the application in, which writes, and a superuser does, where nothing differs.
async fn write(reference: &Reference, n: u32) {
    reference.expect("main", 0, &["open", "main", "--force"]).await;
    let main = &reference.servers[0];
    main.batch_in("config", &format!("SET ROLE app; INSERT INTO entry VALUES ('astray', {n})")).await;
    main.batch_in("config", &format!("INSERT INTO still VALUES ({}, 'astray')", 90_000 + n)).await;
}

/// The site is closed, and has nothing of that.
async fn is_a_copy(reference: &Reference) {
    let main = &reference.servers[0];
    assert!(main.try_client("app", "config").await.is_err(), "a standby is closed");
    let astray = "SELECT (SELECT count(*) FROM entry WHERE site = 'astray')
        || ' ' || (SELECT count(*) FROM still WHERE v = 'astray') || ' ' || (SELECT count(*) FROM irongate.strayed)";
    assert_eq!(main.scalar("config", astray).await, "0 0 0");
}

/// Goes on with the run up to a place.
async fn cut_at(reference: &Reference, step: &'static str, place: &'static str) -> bool {
    let cut = Cut { plan: "reinstate", site: "main", order: "resume", step, place };
    reference.cut_off("secondary", &cut).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_at_a_site_that_comes_back_is_found_wherever_the_run_is() {
    let majors = Server::majors();
    let majors = match Tier::pick(1, 1, majors.len()) {
        1 => &majors[..1],
        _ => &majors[..],
    };
    for &major in majors {
        let (mut reference, [first, secondary_manager]) = deployment(major).await;
        let main_manager = disaster(&mut reference, ALONE, SINCE).await;
        drop(first);
        salvage(&reference, "found", "discard").await;
        let words = ["reinstate", "main", "--by", "repair"];
        let resume = ["reinstate", "main", "--resume"];

        // Committed behind the salvage, and before the fence.
        reference.servers[0].batch_in("config", "INSERT INTO still VALUES (90000, 'astray')").await;
        let refused = reference.expect("secondary", 4, &words).await.stderr;
        assert!(refused.contains("not all salvaged"), "{refused}");
        // What is accepted later counts.
        assert!(cut_at(&reference, "compare", "done").await);

        // Between the compare and the repair.
        write(&reference, 1).await;
        assert!(cut_at(&reference, "follow", "begins").await);
        let astray = "SELECT count(*) FROM still WHERE v = 'astray'";
        assert_eq!(reference.servers[0].scalar("config", astray).await, "0", "it was compared again");
        assert!(reference.servers[0].try_client("app", "config").await.is_err(), "it was closed again");

        // Behind the repair: by a superuser, whom no fence concerns.
        reference.servers[0].batch_in("config", "INSERT INTO still VALUES (90050, 'astray')").await;
        let refused = reference.expect("secondary", 4, &resume).await.stderr;
        assert!(refused.contains("is no copy") && refused.contains("1 transactions"), "{refused}");
        // And by everybody.
        write(&reference, 2).await;
        let refused = reference.expect("secondary", 4, &resume).await.stderr;
        assert!(refused.contains("is no copy") && refused.contains("--resume --by repair"), "{refused}");
        assert!(reference.servers[0].try_client("app", "config").await.is_err(), "it was closed again");
        // And the slot from which the site was to follow is gone, too.
        reference.expect("secondary", 0, &["stop", "css-extract"]).await;
        let drop_slot = "SELECT pg_drop_replication_slot('irongate_shop_css')";
        reference.servers[1].batch_in("config", drop_slot).await;
        reference.expect("secondary", 0, &[&resume[..], &["--by", "repair"]].concat()).await;
        is_a_copy(&reference).await;
        assert_eq!(left(&reference, ""), Vec::<std::path::PathBuf>::new());
        follows(&reference, 1, 1).await;
        reference.expect("main", 0, &["switchback"]).await;
        follows(&reference, 0, 2).await;
        assert_eq!(
            (slots(&reference, 0).await, slots(&reference, 1).await),
            ("csp,msp".into(), "mss".into())
        );

        // While it is copied.
        stop(main_manager).await;
        let main_manager = reference.start("main", &["manager"]);
        running(&reference).await;
        let again = disaster(&mut reference, "INSERT INTO still VALUES (90010, 'alone')", "SELECT").await;
        drop(main_manager);
        let cut = Cut { plan: "reinstate", site: "main", order: "begin", step: "stop-groups", place: "done" };
        assert!(reference.cut_off("secondary", &cut).await);
        write(&reference, 3).await;
        let by_copy = [&resume[..], &["--by", "copy"]].concat();
        // Everything is copied, and that stands nowhere yet.
        let cut = Cut { order: "resume", step: "copy", place: "done", ..cut };
        assert!(reference.cut_off_by("copy", "secondary", &cut).await);
        write(&reference, 4).await;
        assert!(cut_at(&reference, "follow", "begins").await);
        assert_eq!(reference.servers[0].scalar("config", astray).await, "0", "it was copied again");
        write(&reference, 5).await;
        let refused = reference.expect("secondary", 4, &resume).await.stderr;
        assert!(refused.contains("is no copy") && refused.contains("--by copy"), "{refused}");
        reference.expect("secondary", 0, &by_copy).await;
        is_a_copy(&reference).await;
        follows(&reference, 1, 3).await;
        for manager in [again, secondary_manager] {
            stop(manager).await;
        }
    }
}
