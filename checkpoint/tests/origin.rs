//! Replication origins and their traps, in real servers, as a role that is no superuser. Each trap is shown first, as
//! the server has it, and then mended.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "support/server.rs"]
mod server;

use std::time::{Duration, Instant};

use futures_util::join;
use irongate_checkpoint::{Applied, CheckpointTable, Error, Mark, Origin, OriginSession, Watermarks};
use irongate_trail::{CommitLsn, Lineage, Lsn, Position, ResumeLsn, Timestamp};
use server::{Database, Server, majors, origins_limit, servers};
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

const TIME: Timestamp = Timestamp(812_345_678_901_234);

fn lsn(n: u64) -> ResumeLsn {
    ResumeLsn(Lsn(n))
}

/// A session of the plain role that is set up for the origin of the test's own flow.
async fn set_up(database: &Database<'_>) -> (Client, OriginSession) {
    database.table().await;
    let client = database.session("replicat").await;
    let origin = Origin::of_flow(&database.flow()).unwrap();
    assert!(origin.create_if_missing(&client).await.unwrap());
    let session = origin.session_setup(&client).await.unwrap();
    (client, session)
}

/// A shared server has room for ten origins in use, and tests run side by side: each gives its own back.
async fn give_back(client: &Client, session: OriginSession) {
    let origin = session.origin().clone();
    session.session_reset(client).await.unwrap();
    assert!(origin.drop(client).await.unwrap());
}

async fn progress(client: &Client, session: &OriginSession) -> Option<u64> {
    session.origin().progress(client, true).await.unwrap().map(|at| at.0.0)
}

async fn insert(client: &Client) {
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
}

#[tokio::test]
async fn a_plain_role_marks_its_writes_and_keeps_the_sources_time() {
    for server in servers() {
        let database = server.database().await;
        let (client, session) = set_up(&database).await;
        let sql = "SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user";
        assert!(!client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0));
        assert!(session.session_is_setup(&client).await.unwrap());
        assert!(!session.origin().create_if_missing(&client).await.unwrap(), "it exists");
        assert_eq!(progress(&client, &session).await, None, "nothing was committed under it");
        client.batch_execute("SET session_replication_role = replica").await.unwrap();

        let transaction = session.begin().unwrap();
        let (begin, setup, insert, commit) = join!(
            client.batch_execute("BEGIN"),
            transaction.xact_setup(&client, lsn(0x16_B374_D848), TIME),
            client.batch_execute("INSERT INTO t VALUES (1)"),
            client.batch_execute("COMMIT")
        );
        assert!([begin, insert, commit].iter().all(Result::is_ok));
        setup.unwrap();
        transaction.committed();

        assert_eq!(progress(&client, &session).await, Some(0x16_B374_D848));
        let sql = "SELECT (extract(epoch FROM x.timestamp) * 1000000)::bigint, o.roname \
                   FROM t, pg_xact_commit_timestamp_origin(t.xmin) x, pg_replication_origin o \
                   WHERE o.roident = x.roident";
        let row = client.query_one(sql, &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), TIME.unix_micros(), "to the microsecond");
        assert_eq!(row.get::<_, String>(1), session.origin().name());
        give_back(&client, session).await;
    }
}

#[tokio::test]
async fn without_the_grants_the_role_is_refused_and_told_that_setup_gives_them() {
    for server in servers() {
        let database = server.bare_database().await;
        let client = database.session("replicat").await;
        let error = Origin::of_flow(&database.flow()).unwrap().create_if_missing(&client).await.unwrap_err();
        assert_eq!(error.sqlstate(), Some("42501"), "{error:?}");
        assert_eq!(error.hint().unwrap(), "run \"irongate setup\", which grants what is needed");
    }
}

#[tokio::test]
async fn an_origin_serves_one_session_and_the_second_is_told_which() {
    for server in servers() {
        let database = server.database().await;
        let (client, session) = set_up(&database).await;
        let origin = session.origin().clone();
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let second = database.session("second").await;
        let refusals = [
            origin.session_setup(&second).await.map(drop).unwrap_err(),
            origin.drop(&second).await.map(drop).unwrap_err(),
            origin.advance(&second, lsn(5)).await.unwrap_err(),
        ];
        for error in refusals {
            let Error::OriginInUse { session, .. } = &error else { panic!("{error:?}") };
            assert_eq!(session.pid, Some(pid as u32));
            assert_eq!(session.application.as_deref(), Some("replicat"));
            assert_eq!(session.database.as_deref(), Some(database.name.as_str()));
            assert!(error.is_transient());
            assert!(error.hint().unwrap().contains(&format!("pg_terminate_backend({pid})")));
        }
        let worker = Origin::of_worker(&database.flow(), 1).unwrap();
        worker.create_if_missing(&second).await.unwrap();
        let theirs = worker.session_setup(&second).await.unwrap();
        give_back(&second, theirs).await;
        session.session_reset(&client).await.unwrap();
        let session = origin.session_setup(&second).await.unwrap();
        give_back(&second, session).await;
    }
}

#[tokio::test]
async fn an_origin_is_never_set_up_twice_in_a_session_or_in_the_middle_of_its_writes() {
    for server in servers() {
        let database = server.database().await;
        let (client, session) = set_up(&database).await;
        let error = session.origin().session_setup(&client).await.unwrap_err();
        assert!(matches!(error, Error::OriginState { .. }), "{error:?}");
        let other = database.session("other").await;
        other.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
        let error = session.origin().session_setup(&other).await.unwrap_err();
        assert!(matches!(error, Error::OriginState { .. }), "{error:?}");
        other.batch_execute("ROLLBACK").await.unwrap();
        let missing = Origin::of_flow("nobody made this one").unwrap();
        let error = missing.session_setup(&other).await.unwrap_err();
        assert!(matches!(error, Error::OriginMissing { .. }), "{error:?}");
        assert_eq!(missing.progress(&other, false).await.unwrap(), None);
        assert!(!missing.drop(&other).await.unwrap());
        give_back(&client, session).await;
    }
}

#[tokio::test]
async fn a_position_that_survives_a_rollback_is_never_committed_by_the_next_transaction() {
    for server in servers() {
        let database = server.database().await;
        let (client, session) = set_up(&database).await;

        // The trap: a transaction is rolled back, an unrelated row is committed, and the server says the first is
        // applied.
        client.batch_execute("BEGIN").await.unwrap();
        let setup = "SELECT pg_replication_origin_xact_setup('0/C8', now())";
        client.batch_execute(setup).await.unwrap();
        client.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(progress(&client, &session).await, None);
        insert(&client).await;
        assert_eq!(progress(&client, &session).await, Some(200), "the trap is no trap any more");
        client.batch_execute("SELECT pg_replication_origin_xact_reset()").await.unwrap();

        // Mended: told of the rollback, or not told at all.
        for (at, told) in [(300, true), (400, false)] {
            let transaction = session.begin().unwrap();
            client.batch_execute("BEGIN").await.unwrap();
            transaction.xact_setup(&client, lsn(at), TIME).await.unwrap();
            client.batch_execute("ROLLBACK").await.unwrap();
            if told {
                transaction.rolled_back();
            } else {
                drop(transaction);
            }
            let refused = session.begin().unwrap_err();
            assert!(matches!(refused, Error::OriginState { .. }), "{refused:?}");
            session.reset(&client).await.unwrap();
            insert(&client).await;
            assert_eq!(progress(&client, &session).await, Some(200), "nothing but the trap was committed");
            let next = session.begin().unwrap();
            next.committed();
        }
        give_back(&client, session).await;
    }
}

#[tokio::test]
async fn from_16_on_a_rollback_itself_moves_the_origin_unless_the_position_was_given_last() {
    for server in servers() {
        let database = server.database().await;
        let (client, session) = set_up(&database).await;
        let table = CheckpointTable::prepare(&client, &database.flow()).await.unwrap();
        table.initialise(&client, &applied(100)).await.unwrap();
        let deferred = "CREATE TABLE u (n bigint UNIQUE DEFERRABLE INITIALLY DEFERRED); \
                        GRANT ALL ON u TO PUBLIC; INSERT INTO u VALUES (1)";
        database.admin().await.batch_execute(deferred).await.unwrap();
        let failing = "SELECT 1 / (n - n) FROM t";

        // Mended: what fails before the position is given moves nothing, not even with an older position left over.
        let transaction = session.begin().unwrap();
        client.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
        table.save(&client, &applied(200)).await.unwrap();
        transaction.xact_setup(&client, lsn(200), TIME).await.unwrap();
        client.batch_execute("COMMIT").await.unwrap();
        transaction.committed();
        assert_eq!(progress(&client, &session).await, Some(200));
        let (transaction, next) = (session.begin().unwrap(), applied(300));
        let (begin, insert, fail, save, setup, commit) = join!(
            client.batch_execute("BEGIN"),
            client.batch_execute("INSERT INTO t VALUES (1)"),
            client.batch_execute(failing),
            table.save(&client, &next),
            transaction.xact_setup(&client, lsn(300), TIME),
            client.batch_execute("COMMIT")
        );
        assert!(begin.is_ok() && insert.is_ok() && fail.is_err() && commit.is_ok(), "answered with ROLLBACK");
        for consequence in [save.unwrap_err(), setup.unwrap_err()] {
            assert_eq!(consequence.sqlstate(), Some("25P02"));
        }
        transaction.rolled_back();
        session.reset(&client).await.unwrap();
        assert_eq!(progress(&client, &session).await, Some(200));

        // The trap, where nothing can mend it: the COMMIT fails, or the position was given first.
        for (at, first, last) in
            [(400, "", "INSERT INTO u VALUES (1)"), (500, "INSERT INTO t VALUES (1)", failing)]
        {
            let transaction = session.begin().unwrap();
            client.batch_execute(&format!("BEGIN; {first}")).await.unwrap();
            transaction.xact_setup(&client, lsn(at), TIME).await.unwrap();
            let failed = async {
                client.batch_execute(last).await?;
                client.batch_execute("COMMIT").await
            };
            failed.await.unwrap_err();
            client.batch_execute("ROLLBACK").await.unwrap();
            transaction.rolled_back();
            session.reset(&client).await.unwrap();
            let expected = if server.major >= 16 { at } else { 200 };
            assert_eq!(progress(&client, &session).await, Some(expected), "PostgreSQL {}", server.major);
            assert_eq!(table.load(&client).await.unwrap(), Some(applied(200)), "the table knows better");
        }
        give_back(&client, session).await;
    }
}

#[tokio::test]
async fn a_second_transaction_is_begun_only_by_who_knows_of_the_first() {
    for server in servers() {
        let database = server.database().await;
        let (client, session) = set_up(&database).await;
        let first = session.begin().unwrap();
        assert!(session.begin().is_err());
        assert!(session.reset(&client).await.is_err());
        let second = session.begin_behind(&first).unwrap();
        let (a, b, c, d, e, f, g, h) = join!(
            client.batch_execute("BEGIN"),
            first.xact_setup(&client, lsn(100), TIME),
            client.batch_execute("INSERT INTO t VALUES (1)"),
            client.batch_execute("COMMIT"),
            client.batch_execute("BEGIN"),
            second.xact_setup(&client, lsn(200), TIME),
            client.batch_execute("INSERT INTO t VALUES (2)"),
            client.batch_execute("COMMIT")
        );
        assert!([a, c, d, e, g, h].iter().all(Result::is_ok) && b.is_ok() && f.is_ok());
        first.committed();
        assert!(session.begin().is_err(), "the second is still open");
        second.committed();
        assert_eq!(progress(&client, &session).await, Some(200));
        let third = session.begin().unwrap();
        let fourth = session.begin_behind(&third).unwrap();
        third.rolled_back();
        assert!(session.begin_behind(&fourth).is_err());
        assert!(session.reset(&client).await.is_err(), "the fourth is still open");
        fourth.rolled_back();
        session.reset(&client).await.unwrap();
        session.begin().unwrap().committed();
        give_back(&client, session).await;
    }
}

fn applied(n: u64) -> Applied {
    Applied {
        lineage: Lineage { system_identifier: 1, timeline: 1, slot_incarnation: Lsn(1) },
        commit_lsn: CommitLsn(Lsn(n)),
        end_lsn: lsn(n),
        commit_time: TIME,
        position: Position { seqno: 1, offset: n },
        epoch: 1,
        transactions: n,
    }
}

#[tokio::test]
async fn a_transaction_that_changes_no_row_moves_the_checkpoint_though_not_the_origin_alone() {
    for server in servers() {
        let database = server.database().await;
        let (client, session) = set_up(&database).await;
        let nothing = "UPDATE t SET n = 2 WHERE n = 999";
        // The trap: COMMIT succeeds and the progress stays.
        let transaction = session.begin().unwrap();
        client.batch_execute("BEGIN").await.unwrap();
        transaction.xact_setup(&client, lsn(100), TIME).await.unwrap();
        client.batch_execute(nothing).await.unwrap();
        client.batch_execute("COMMIT").await.unwrap();
        transaction.committed();
        assert_eq!(progress(&client, &session).await, None, "the trap is no trap any more");
        // Mended: the row of the checkpoint table takes a transaction id.
        let table = CheckpointTable::prepare(&client, &database.flow()).await.unwrap();
        let transaction = session.begin().unwrap();
        client.batch_execute("BEGIN").await.unwrap();
        transaction.xact_setup(&client, lsn(100), TIME).await.unwrap();
        client.batch_execute(nothing).await.unwrap();
        table.save(&client, &applied(100)).await.unwrap();
        let xid = client.query_one("SELECT pg_current_xact_id_if_assigned() IS NOT NULL", &[]).await.unwrap();
        assert!(xid.get::<_, bool>(0));
        client.batch_execute("COMMIT").await.unwrap();
        transaction.committed();
        assert_eq!(progress(&client, &session).await, Some(100));
        assert_eq!(table.load(&client).await.unwrap(), Some(applied(100)));
        give_back(&client, session).await;
    }
}

#[tokio::test]
async fn the_origins_position_can_be_set_for_an_initial_load() {
    for server in servers() {
        let database = server.database().await;
        let client = database.session("replicat").await;
        let origin = Origin::of_flow(&database.flow()).unwrap();
        origin.create_if_missing(&client).await.unwrap();
        origin.advance(&client, lsn(77)).await.unwrap();
        assert_eq!(origin.progress(&client, true).await.unwrap(), Some(lsn(77)));
        assert!(origin.drop(&client).await.unwrap());
        assert_eq!(origin.progress(&client, true).await.unwrap(), None);
        let error = origin.advance(&client, lsn(78)).await.unwrap_err();
        assert!(matches!(error, Error::OriginMissing { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_without_room_for_another_origin_says_which_setting_to_raise() {
    for major in majors() {
        let setting = origins_limit(major);
        let server = Server::start(major, &format!("{setting} = 1"));
        let database = server.database().await;
        let (client, session) = set_up(&database).await;
        let second = database.session("second").await;
        let other = Origin::of_flow("another").unwrap();
        other.create_if_missing(&second).await.unwrap();
        let error = other.session_setup(&second).await.unwrap_err();
        assert!(matches!(error, Error::OriginLimit { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains(setting), "{error:?}");
        give_back(&client, session).await;
    }
}

/// The insert and the flush LSN of the server.
async fn wal(client: &Client) -> (Lsn, Lsn) {
    let sql = "SELECT pg_current_wal_insert_lsn(), pg_current_wal_flush_lsn()";
    let row = client.query_one(sql, &[]).await.unwrap();
    let get = |column| Lsn(u64::from(row.get::<_, PgLsn>(column)));
    (get(0), get(1))
}

#[tokio::test]
async fn a_crash_takes_back_nothing_below_the_low_watermark_and_row_and_origin_agree() {
    for major in majors() {
        // A slow WAL writer leaves much to lose.
        let server = Server::start(major, "wal_writer_delay = 10s\nsynchronous_commit = off");
        let database = server.database().await;
        let (client, session) = set_up(&database).await;
        let mut client = client;
        let mut session = session;
        let mut table = CheckpointTable::prepare(&client, &database.flow()).await.unwrap();
        table.initialise(&client, &applied(1)).await.unwrap();
        let mark = |n: u64| Mark { position: applied(n).position, resume_lsn: lsn(n) };
        let mut marks = Watermarks::new(mark(1), wal(&client).await.0, Mark::default());
        let (mut n, mut lost) = (1, 0);
        for round in 0..4 {
            for _ in 0..50 {
                n += 1;
                let transaction = session.begin().unwrap();
                client.batch_execute("BEGIN").await.unwrap();
                transaction.xact_setup(&client, lsn(n), TIME).await.unwrap();
                client.batch_execute(&format!("INSERT INTO t VALUES ({n})")).await.unwrap();
                table.save(&client, &applied(n)).await.unwrap();
                client.batch_execute("COMMIT").await.unwrap();
                transaction.committed();
                let (inserted, flushed) = wal(&client).await;
                marks.applied(mark(n), inserted);
                marks.flushed(flushed);
            }
            if round % 2 == 0 {
                // Makes everything durable, and so is known.
                session.origin().progress(&client, true).await.unwrap();
                let low = marks.flushed(wal(&client).await.1);
                assert_eq!(low, mark(n));
                continue;
            }
            server.crash();
            server.up();
            client = database.session("replicat").await;
            let origin = Origin::of_flow(&database.flow()).unwrap();
            session = origin.session_setup(&client).await.unwrap();
            table = CheckpointTable::prepare(&client, &database.flow()).await.unwrap();
            let loaded = table.load(&client).await.unwrap().unwrap();
            let rows: i64 = client.query_one("SELECT max(n) FROM t", &[]).await.unwrap().get(0);
            assert_eq!(rows as u64, loaded.end_lsn.0.0, "rows and checkpoint agree");
            assert_eq!(progress(&client, &session).await, Some(loaded.end_lsn.0.0), "and the origin");
            assert!(loaded.position >= marks.low().position, "{loaded:?}, {marks:?}");
            marks.reconnected(mark(loaded.end_lsn.0.0), wal(&client).await.0).unwrap();
            lost += n - loaded.end_lsn.0.0;
            n = loaded.end_lsn.0.0;
        }
        println!("PostgreSQL {major}: {lost} transactions taken back");
        assert!(lost > 0, "the crash took nothing: this shows nothing");
        // Waiting is enough for the low watermark to come after.
        let begun = Instant::now();
        client.batch_execute("SET synchronous_commit = on; INSERT INTO t VALUES (0)").await.unwrap();
        while marks.low() != marks.high() {
            assert!(begun.elapsed() < Duration::from_secs(20));
            marks.flushed(wal(&client).await.1);
        }
    }
}
