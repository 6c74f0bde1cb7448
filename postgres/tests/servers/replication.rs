//! The replication connection and its stream.

use std::time::{Duration, Instant};

use irongate_postgres::replication::{OUTPUT_PLUGIN, publication_names};
use irongate_postgres::{
    Endpoint, Error, Frame, FrameReader, ReplicationConnection, SlotOptions, SnapshotOption, StatusWriter,
    catalog,
};
use irongate_trail::{Lsn, Timestamp};

use crate::support::{Server, Stop, any_major, majors};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE PUBLICATION \"p\" FOR TABLE t;";

async fn connect(endpoint: &Endpoint) -> ReplicationConnection {
    ReplicationConnection::connect(endpoint, "irongate-test").await.unwrap()
}

async fn stream(server: &Server, slot: &str, start: Lsn) -> (FrameReader, StatusWriter) {
    let names = publication_names(["p"]);
    let connection = connect(&server.socket("postgres", "postgres")).await;
    connection
        .start_logical(
            slot,
            start,
            &[("proto_version", "1"), ("publication_names", &names), ("messages", "true")],
        )
        .await
        .unwrap()
        .split()
}

/// What a frame was, in a form to keep: the plugin's message type, or K or Z.
struct Seen {
    kind: char,
    lsn: Lsn,
    data: Vec<u8>,
}

/// Reads until the condition holds for the last frame.
async fn until(reader: &mut FrameReader, mut done: impl FnMut(&Seen) -> bool) -> Vec<Seen> {
    let mut all = Vec::new();
    let read = async {
        loop {
            while let Some(frame) = reader.next_frame().unwrap() {
                let seen = match frame {
                    Frame::XLogData { start, end, time, data } => {
                        assert_eq!(start, end);
                        let age = Timestamp::now().0 - time.0;
                        assert!((0..60_000_000).contains(&age), "{age}");
                        Seen { kind: char::from(data[0]), lsn: start, data: data.to_vec() }
                    }
                    Frame::Keepalive { wal_end, .. } => Seen { kind: 'K', lsn: wal_end, data: Vec::new() },
                    Frame::Notice(notice) => {
                        let routine = notice.read().and_then(|notice| notice.routine().map(str::to_owned));
                        Seen { kind: 'N', lsn: Lsn::ZERO, data: routine.unwrap_or_default().into_bytes() }
                    }
                    Frame::Done => Seen { kind: 'Z', lsn: Lsn::ZERO, data: Vec::new() },
                };
                let end = done(&seen);
                all.push(seen);
                if end {
                    return;
                }
            }
            assert!(reader.fill().await.unwrap(), "the connection ended");
        }
    };
    tokio::time::timeout(Duration::from_secs(30), read).await.expect("the frame comes in time");
    all
}

fn kinds(frames: &[Seen]) -> String {
    frames.iter().map(|seen| seen.kind).filter(|kind| *kind != 'K').collect()
}

async fn acknowledge(writer: &mut StatusWriter, lsn: Lsn) {
    writer.send(lsn, lsn, lsn, Timestamp::now(), false).await.unwrap();
}

#[tokio::test]
async fn a_slot_streams_what_was_committed_after_its_snapshot() {
    for major in majors() {
        let server = Server::start(major, &[], "").await;
        server.run(TABLE).await;
        server.run("INSERT INTO t VALUES (1, 'before')").await;
        let mut connection = connect(&server.socket("postgres", "postgres")).await;
        let identity = connection.identify_system().await.unwrap();
        assert_eq!(
            identity.system_identifier.to_string(),
            server.ask("SELECT system_identifier FROM pg_control_system()").await
        );
        assert_eq!(identity.timeline, 1);
        assert_eq!(identity.database.as_deref(), Some("postgres"));
        assert!(connection.timeline_history(1).await.unwrap().is_empty());
        assert_eq!(connection.server_version_num() / 10_000, major);

        let options = SlotOptions { snapshot: SnapshotOption::Export, ..SlotOptions::default() };
        let created =
            connection.create_logical_slot("Slot_1".to_lowercase().as_str(), options).await.unwrap();
        assert!(created.consistent_point > Lsn::ZERO);
        server.run("INSERT INTO t VALUES (2, 'after')").await;
        // The snapshot sees what the stream will not send, and lives while this connection does nothing.
        let session = server.admin().await;
        let snapshot = created.snapshot_name.unwrap();
        session
            .batch_execute(&format!(
                "BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{snapshot}'"
            ))
            .await
            .unwrap();
        let ids: String =
            session.query_one("SELECT string_agg(id::text, ',') FROM public.t", &[]).await.unwrap().get(0);
        assert_eq!(ids, "1");
        session.batch_execute("COMMIT").await.unwrap();

        let facts = catalog::slot(&session, "slot_1").await.unwrap().unwrap();
        assert_eq!(facts.confirmed_flush_lsn, Some(created.consistent_point));
        assert_eq!(facts.plugin.as_deref(), Some(OUTPUT_PLUGIN));
        assert!(!facts.active && !facts.two_phase && !facts.failover && facts.lost().is_none());

        let (mut reader, mut writer) = stream(&server, "slot_1", created.consistent_point).await;
        let frames = until(&mut reader, |seen| seen.kind == 'C').await;
        assert_eq!(kinds(&frames), "BRIC", "{major}");
        let insert = frames.iter().find(|seen| seen.kind == 'I').unwrap();
        assert!(insert.data.ends_with(b"\0\0\0\x012t\0\0\0\x05after"));
        let commit = frames.last().unwrap();
        let end_lsn = Lsn(u64::from_be_bytes(commit.data[10..18].try_into().unwrap()));
        assert!(commit.lsn >= created.consistent_point && end_lsn > created.consistent_point);

        // What is acknowledged arrives at the slot; a reply comes when it is asked for.
        writer.send(end_lsn, end_lsn, end_lsn, Timestamp::now(), true).await.unwrap();
        until(&mut reader, |seen| seen.kind == 'K').await;
        let since = Instant::now();
        let facts = loop {
            let facts = catalog::slot(&session, "slot_1").await.unwrap().unwrap();
            // The keepalive may be one that was on its way before.
            if facts.confirmed_flush_lsn >= Some(end_lsn) {
                break facts;
            }
            assert!(since.elapsed() < Duration::from_secs(10), "{facts:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(facts.confirmed_flush_lsn, Some(end_lsn));
        assert!(facts.active && facts.active_pid.is_some());

        // We end it: the server answers, then the connection may end.
        writer.finish().await.unwrap();
        until(&mut reader, |seen| seen.kind == 'Z').await;
        writer.terminate().await.unwrap();
        while reader.fill().await.unwrap() {
            while reader.next_frame().unwrap().is_some() {}
        }
        connection.drop_slot("slot_1", true).await.unwrap();
        assert!(catalog::slot(&session, "slot_1").await.unwrap().is_none());
        let error = connection.drop_slot("slot_1", false).await.unwrap_err();
        assert_eq!(error.code(), Some("42704"));
        // An error does not end the connection.
        assert_eq!(
            connection.query("SELECT 1 AS one, NULL").await.unwrap().rows,
            [[Some("1".to_owned()), None]]
        );
    }
}

#[tokio::test]
async fn options_a_version_does_not_have_are_refused_before_the_server_is_asked() {
    for major in majors() {
        let server = Server::start(major, &[], "").await;
        let mut connection = connect(&server.socket("postgres", "postgres")).await;
        let options = SlotOptions { failover: true, ..SlotOptions::default() };
        let result = connection.create_logical_slot("s", options).await;
        if server.major < 17 {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Version { needed: 17, .. }), "{error}");
            assert!(error.hint().unwrap().contains("upgrade"));
        } else {
            result.unwrap();
            let session = server.admin().await;
            assert!(catalog::slot(&session, "s").await.unwrap().unwrap().failover);
        }
    }
}

#[tokio::test]
async fn a_temporary_slot_goes_with_its_connection() {
    let server = Server::start(any_major(), &[], "").await;
    let mut connection = connect(&server.socket("postgres", "postgres")).await;
    let options = SlotOptions { temporary: true, ..SlotOptions::default() };
    let created = connection.create_logical_slot("temporary", options).await.unwrap();
    assert_eq!(created.snapshot_name, None);
    drop(connection);
    let session = server.admin().await;
    let since = Instant::now();
    while catalog::slot(&session, "temporary").await.unwrap().is_some() {
        assert!(since.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn a_slot_that_waits_for_a_writer_can_be_given_up() {
    let server = Server::start(any_major(), &[("max_prepared_transactions", "5")], "").await;
    server.run(TABLE).await;
    let writer = server.admin().await;
    writer.batch_execute("BEGIN; INSERT INTO public.t VALUES (1, 'x')").await.unwrap();
    let session = server.admin().await;
    let writers = catalog::writers(&session).await.unwrap();
    assert_eq!(writers.len(), 1);
    assert_eq!(
        (writers[0].pid, writers[0].state.as_deref()),
        (writer.process_id(), Some("idle in transaction"))
    );
    assert_eq!(writers[0].application_name, "admin");
    assert!(writers[0].xid > 2 && writers[0].open_for.unwrap() < Duration::from_secs(30));

    let mut connection = connect(&server.socket("postgres", "postgres")).await;
    let canceller = connection.canceller();
    let (created, cancelled) =
        tokio::join!(connection.create_logical_slot("s", SlotOptions::default()), async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            canceller.cancel().await
        });
    cancelled.unwrap();
    assert_eq!(created.unwrap_err().code(), Some("57014"));
    assert!(catalog::slot(&session, "s").await.unwrap().is_none());

    writer.batch_execute("PREPARE TRANSACTION 'left over'").await.unwrap();
    assert!(catalog::writers(&session).await.unwrap().is_empty());
    let prepared = catalog::prepared_transactions(&session).await.unwrap();
    assert_eq!(prepared.len(), 1);
    assert_eq!((prepared[0].gid.as_str(), prepared[0].owner.as_str()), ("left over", "postgres"));
    assert_eq!((prepared[0].xid, prepared[0].database.as_str()), (writers[0].xid, "postgres"));
    writer.batch_execute("COMMIT PREPARED 'left over'").await.unwrap();
    connection.create_logical_slot("s", SlotOptions::default()).await.unwrap();
}

#[tokio::test]
async fn text_is_printed_alike_whatever_the_role_says() {
    let server = Server::start(any_major(), &[], "").await;
    server
        .run(
            "CREATE TABLE t (id int PRIMARY KEY, d timestamptz, i interval, f float8, b bytea);
             CREATE PUBLICATION \"p\" FOR TABLE t;
             ALTER ROLE postgres SET datestyle = 'SQL, DMY';
             ALTER ROLE postgres SET timezone = 'Asia/Tokyo';
             ALTER ROLE postgres SET intervalstyle = 'iso_8601';
             ALTER ROLE postgres SET extra_float_digits = -2;
             ALTER ROLE postgres SET bytea_output = 'escape';",
        )
        .await;
    let mut connection = connect(&server.socket("postgres", "postgres")).await;
    let created = connection.create_logical_slot("s", SlotOptions::default()).await.unwrap();
    server
        .run("INSERT INTO t VALUES (1, '2024-02-03 04:05:06+00', '1 day', 0.1::float8 + 0.2, '\\x00ff')")
        .await;
    let (mut reader, _writer) = stream(&server, "s", created.consistent_point).await;
    let frames = until(&mut reader, |seen| seen.kind == 'C').await;
    let insert =
        String::from_utf8_lossy(&frames.iter().find(|seen| seen.kind == 'I').unwrap().data).into_owned();
    for text in ["2024-02-03 04:05:06+00", "1 day", "0.30000000000000004", "\\x00ff"] {
        assert!(insert.contains(text), "{insert:?}");
    }
}

#[tokio::test]
async fn a_fast_stop_ends_the_stream_in_order_once_everything_is_acknowledged() {
    for major in majors() {
        let mut server = Server::start(major, &[], "").await;
        server.run(TABLE).await;
        let mut connection = connect(&server.socket("postgres", "postgres")).await;
        let created = connection.create_logical_slot("s", SlotOptions::default()).await.unwrap();
        drop(connection);
        let (mut reader, mut writer) = stream(&server, "s", created.consistent_point).await;
        server.run("INSERT INTO t VALUES (1, 'x')").await;
        server.signal(Stop::Fast);
        let mut done = false;
        let since = Instant::now();
        let mut last = Lsn::ZERO;
        while !done {
            assert!(since.elapsed() < Duration::from_secs(30));
            assert!(
                reader.fill().await.unwrap(),
                "the end of the stream comes before that of the connection"
            );
            while let Some(frame) = reader.next_frame().unwrap() {
                match frame {
                    Frame::Keepalive { wal_end, .. } => last = last.max(wal_end),
                    Frame::Done => done = true,
                    Frame::XLogData { .. } | Frame::Notice(_) => {}
                }
            }
            if !done {
                acknowledge(&mut writer, last).await;
            }
        }
        assert!(!reader.fill().await.unwrap());
        server.wait().await;
    }
}

#[tokio::test]
async fn an_end_that_was_not_meant_is_told_apart() {
    let mut server = Server::start(any_major(), &[], "").await;
    server.run(TABLE).await;
    let mut connection = connect(&server.socket("postgres", "postgres")).await;
    connection.create_logical_slot("s", SlotOptions::default()).await.unwrap();

    // Somebody ends the walsender.
    let (mut reader, _writer) = stream(&server, "s", Lsn::ZERO).await;
    server.run("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots").await;
    let error = loop {
        match reader.next_frame() {
            Ok(Some(_)) => {}
            Ok(None) => assert!(reader.fill().await.unwrap()),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Some("57P01"));
    assert!(error.is_transient());

    // The server crashes: an error if it finds the time to say so, and never an end in order.
    let (mut reader, _writer) = stream(&server, "s", Lsn::ZERO).await;
    server.stop(Stop::Immediate).await;
    let ended = loop {
        match reader.next_frame() {
            Ok(Some(Frame::Done)) => panic!("a crash is no end in order"),
            Ok(Some(_)) => {}
            Ok(None) => match reader.fill().await {
                Ok(true) => {}
                Ok(false) => break None,
                Err(error) => break Some(error),
            },
            Err(error) => break Some(error),
        }
    };
    assert!(ended.is_none_or(|error| error.is_transient()));
}

#[tokio::test]
async fn a_stream_that_cannot_start_says_why() {
    let server = Server::start(any_major(), &[], "").await;
    server.run(TABLE).await;
    let endpoint = server.socket("postgres", "postgres");
    let names = [("proto_version", "1"), ("publication_names", "\"p\"")];
    let error = connect(&endpoint).await.start_logical("missing", Lsn::ZERO, &names).await.unwrap_err();
    assert_eq!(error.code(), Some("42704"), "{error}");
    assert!(!error.is_transient());

    let mut connection = connect(&endpoint).await;
    connection.create_logical_slot("s", SlotOptions::default()).await.unwrap();
    let bad = [("proto_version", "99"), ("publication_names", "\"p\"")];
    let error = connect(&endpoint).await.start_logical("s", Lsn::ZERO, &bad).await;
    // The plugin looks at its options before the stream starts.
    assert_eq!(error.unwrap_err().code(), Some("0A000"));

    let _stream = connect(&endpoint).await.start_logical("s", Lsn::ZERO, &names).await.unwrap();
    let error = connect(&endpoint).await.start_logical("s", Lsn::ZERO, &names).await.unwrap_err();
    assert_eq!(error.code(), Some("55006"));
    assert!(error.is_transient(), "the other walsender may be one that has not noticed its client's end");
    assert!(error.hint().unwrap().contains("active_pid"));

    server.run("CREATE ROLE nobody LOGIN").await;
    server.access("local all nobody trust");
    server.run("SELECT pg_reload_conf()").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let result = ReplicationConnection::connect(&server.socket("nobody", "postgres"), "t").await;
    let error = result.unwrap_err();
    assert_eq!(error.code(), Some("42501"), "{error}");
}

#[tokio::test]
async fn a_promoted_standby_tells_where_it_left_the_old_timeline() {
    let primary = Server::start(any_major(), &[], "").await;
    let standby = primary.standby().await;
    standby.run("SELECT pg_promote()").await;
    let mut connection = connect(&standby.socket("postgres", "postgres")).await;
    let since = Instant::now();
    let identity = loop {
        let identity = connection.identify_system().await.unwrap();
        if identity.timeline == 2 {
            break identity;
        }
        assert!(since.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let mut of_primary = connect(&primary.socket("postgres", "postgres")).await;
    let original = of_primary.identify_system().await.unwrap();
    assert_eq!(identity.system_identifier, original.system_identifier);
    let history = connection.timeline_history(2).await.unwrap();
    assert_eq!(history.len(), 1);
    assert_eq!(history[0].0, 1);
    assert!(history[0].1 > Lsn::ZERO && history[0].1 <= identity.wal_position);
    let session = standby.admin().await;
    let facts = catalog::server_facts(&session).await.unwrap();
    assert_eq!((facts.timeline, facts.system_identifier), (2, identity.system_identifier));
}

#[tokio::test]
async fn a_row_of_many_megabytes_passes() {
    const LENGTH: usize = 100_000_000;
    let server = Server::start(any_major(), &[], "").await;
    server.run(TABLE).await;
    let mut connection = connect(&server.socket("postgres", "postgres")).await;
    let created = connection.create_logical_slot("s", SlotOptions::default()).await.unwrap();
    server.run(&format!("INSERT INTO t VALUES (1, repeat('x', {LENGTH})), (2, 'y')")).await;
    let (mut reader, _writer) = stream(&server, "s", created.consistent_point).await;
    let frames = until(&mut reader, |seen| seen.kind == 'C').await;
    let lengths: Vec<usize> =
        frames.iter().filter(|seen| seen.kind == 'I').map(|seen| seen.data.len()).collect();
    assert_eq!(lengths.len(), 2);
    assert!(lengths[0] > LENGTH && lengths[1] < 100, "{lengths:?}");
}
