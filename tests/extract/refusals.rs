//! Streams that must not begin.

use irongate_capture::Error;
use irongate_capture::positions::Reason;
use irongate_tests::{Server, Settings};

use crate::support::{Running, SLOT, Site, TABLE};

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_somebody_advanced_is_refused_with_a_remedy() {
    for major in Server::majors() {
        let site = Site::new(major, &Settings::new(), TABLE).await;
        site.server.batch("INSERT INTO t VALUES (1, 'lost')").await;
        site.server
            .batch(&format!("SELECT pg_replication_slot_advance('{SLOT}', pg_current_wal_lsn())"))
            .await;
        let error = site.run().fails().await;
        assert!(
            matches!(&error, Error::Refused(refusal) if matches!(refusal.reason, Reason::Ahead { .. })),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("instantiate"));
        let status =
            irongate_checkpoint::read_status(&site.dir.path().join("state"), "csp_e").unwrap().unwrap();
        assert_eq!(status.state, irongate_checkpoint::State::Abended);
        assert_eq!(status.error.unwrap().message, error.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_created_again_or_dropped_is_refused() {
    for major in Server::majors() {
        let site = Site::new(major, &Settings::new(), TABLE).await;
        site.server.batch(&format!("SELECT pg_drop_replication_slot('{SLOT}')")).await;
        let error = site.run().fails().await;
        assert!(matches!(&error, Error::Refused(refusal) if refusal.reason == Reason::Missing), "{error}");
        site.server.batch("INSERT INTO t VALUES (1, 'lost')").await;
        site.server.batch(&format!("SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")).await;
        let error = site.run().fails().await;
        assert!(
            matches!(&error, Error::Refused(refusal) if matches!(refusal.reason, Reason::Ahead { .. })),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_of_the_same_name_is_refused() {
    let major = Server::majors()[0];
    let (site, other) =
        (Site::new(major, &Settings::new(), TABLE).await, Site::new(major, &Settings::new(), TABLE).await);
    let mut settings = site.settings();
    settings.source = other.source();
    let error = Running::start(settings).fails().await;
    assert!(
        matches!(&error, Error::Refused(refusal) if matches!(refusal.reason, Reason::OtherSystem { .. })),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_publication_is_said_before_the_stream_begins() {
    for major in Server::majors() {
        let site = Site::new(major, &Settings::new(), TABLE).await;
        site.server.batch("DROP PUBLICATION csp").await;
        let error = site.run().fails().await;
        assert!(matches!(&error, Error::NoPublication { name } if name == "csp"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_whose_log_was_removed_is_recognised_as_lost() {
    for major in Server::majors() {
        let settings = Settings::new().set("max_slot_wal_keep_size", "1MB").set("max_wal_size", "32MB");
        let site = Site::new(major, &settings, TABLE).await;
        let extract = site.run();
        site.server.batch("INSERT INTO t VALUES (1, 'before')").await;
        site.wait_for_transactions(1).await;
        extract.stop().await;
        for _ in 0..4 {
            site.server
                .batch("CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 40000)")
                .await;
            site.server.batch("DROP TABLE filler").await;
            site.server.batch("SELECT pg_switch_wal()").await;
            site.server.batch("CHECKPOINT").await;
        }
        let error = site.run().fails().await;
        let Error::Refused(refusal) = &error else { panic!("{error}") };
        assert!(matches!(&refusal.reason, Reason::Lost { .. }), "{error}");
        assert!(error.hint().unwrap().contains("instantiate"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_is_younger_than_its_slot_is_refused() {
    // Servers before 18 refuse; from 18 on they leave the changes out with no more than a warning in the stream.
    for major in Server::majors() {
        let site = Site::new(major, &Settings::new(), TABLE).await;
        site.server.batch("DROP PUBLICATION csp; INSERT INTO t VALUES (1, 'in between')").await;
        site.server.batch("CREATE PUBLICATION csp FOR TABLE t").await;
        site.server.batch("INSERT INTO t VALUES (2, 'after')").await;
        let error = site.run().fails().await;
        assert!(error.hint().is_some_and(|hint| hint.contains("instantiate")), "PostgreSQL {major}: {error}");
    }
}
