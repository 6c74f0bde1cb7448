//! A drill: the whole way without moving anybody, and what somebody writes at the open standby is found.

use irongate_tests::{Cut, SITES, Server};

use super::deployment::stop;
use irongate_tests::books::{Application, books, follows, numbers, reference, rights, running, slots};

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_moves_nobody_and_finds_who_writes_at_the_standby() {
    for major in Server::majors_in_turn() {
        let reference = reference(major).await;
        let managers = SITES.map(|site| reference.start(site, &["manager"]));
        running(&reference).await;
        let [main, secondary] = &reference.servers;
        let before = [rights(main).await, rights(secondary).await];
        let application = Application::start(&reference.servers, 0);
        let words = ["switchover", "--to", "secondary", "--drill"];
        let drill = reference.json("secondary", &words).await;
        assert_eq!((&drill["plan"], &drill["result"]), (&"drill".into(), &"done".into()), "{drill}");
        assert!(drill["outage_seconds"].is_null(), "nobody waits: {drill}");
        let acknowledged = application.stop().await;
        books(main, &acknowledged).await;
        numbers(main).await;
        follows(&reference, 0, 1).await;
        assert_eq!([rights(main).await, rights(secondary).await], before);
        assert_eq!(
            (slots(&reference, 0).await, slots(&reference, 1).await),
            ("csp,msp".into(), "mss".into())
        );
        assert!(secondary.try_client("app", "config").await.is_err(), "the standby is closed again");

        // Cut off while the standby is open, and somebody writes there.
        let cut =
            Cut { plan: "drill", site: "secondary", order: "begin", step: "open-standby", place: "done" };
        assert!(reference.cut_off("secondary", &cut).await);
        let client = secondary.try_client("app", "config").await.expect("the standby is open");
        client.execute("INSERT INTO entry VALUES ('astray', 1)", &[]).await.expect("the standby is open");
        let found = reference.expect("secondary", 4, &[&words[..], &["--resume"]].concat()).await.stderr;
        assert!(found.contains("1 transactions were written at the standby"), "{found}");
        let astray = reference.expect("secondary", 4, &[&words[..], &["--abort"]].concat()).await.stderr;
        assert!(astray.contains("was taken back, but 1 transactions were written"), "{astray}");
        assert!(secondary.try_client("app", "config").await.is_err(), "the standby is closed again");
        assert_eq!(
            (slots(&reference, 0).await, slots(&reference, 1).await),
            ("csp,msp".into(), "mss".into())
        );
        secondary.batch_in("config", "DELETE FROM entry WHERE site = 'astray'").await;
        follows(&reference, 0, 2).await;
        let marked =
            reference.expect("secondary", 3, &["switchover", "--to", "secondary", "--dry-run"]).await;
        assert!(marked.stderr.contains("may be no copy any more"), "{}", marked.stderr);
        reference.expect("secondary", 0, &["fence", "secondary", "--is-copy"]).await;
        reference.expect("secondary", 0, &["switchover", "--to", "secondary", "--dry-run"]).await;
        for manager in managers {
            stop(manager).await;
        }
    }
}
