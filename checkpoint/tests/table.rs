//! The checkpoint table, in real servers, as a role that is no superuser.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "support/server.rs"]
mod server;

use std::pin::pin;

use futures_util::{join, poll};
use irongate_checkpoint::{Applied, CheckpointTable, Error, checkpoint_teardown};
use irongate_trail::{CommitLsn, Lineage, Lsn, Position, ResumeLsn, Timestamp};
use server::{Database, servers};
use tokio_postgres::Client;

const LINEAGE: Lineage = Lineage {
    system_identifier: 7_300_000_000_000_000_001,
    timeline: 1,
    slot_incarnation: Lsn(0x16_0000_0028),
};

fn applied(n: u64) -> Applied {
    Applied {
        lineage: LINEAGE,
        commit_lsn: CommitLsn(Lsn(1000 * n)),
        end_lsn: ResumeLsn(Lsn(1000 * n + 48)),
        commit_time: Timestamp(812_345_678_901_234 + n as i64),
        position: Position { seqno: 1, offset: 64 * n },
        epoch: 3,
        transactions: n,
    }
}

/// A session of the plain role and its statements for a flow that stands at transaction 1.
async fn begun(database: &Database<'_>) -> (Client, CheckpointTable) {
    let client = database.session("replicat").await;
    let table = CheckpointTable::prepare(&client, &database.flow()).await.unwrap();
    table.initialise(&client, &applied(1)).await.unwrap();
    (client, table)
}

async fn rows_of_t(client: &Client) -> i64 {
    client.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn what_is_saved_is_loaded_to_the_last_bit_by_a_role_that_is_no_superuser() {
    for server in servers() {
        let database = server.database().await;
        let client = database.session("replicat").await;
        let sql =
            "SELECT rolsuper OR rolreplication OR rolbypassrls FROM pg_roles WHERE rolname = current_user";
        assert!(!client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0));
        let table = CheckpointTable::prepare(&client, "a flow").await.unwrap();
        assert_eq!(table.load(&client).await.unwrap(), None);
        let extreme = Applied {
            lineage: Lineage {
                system_identifier: u64::MAX,
                timeline: u32::MAX,
                slot_incarnation: Lsn(u64::MAX),
            },
            commit_lsn: CommitLsn(Lsn(u64::MAX - 1)),
            end_lsn: ResumeLsn(Lsn(u64::MAX)),
            commit_time: Timestamp(-1_234_567),
            position: Position { seqno: i64::MAX as u64, offset: i64::MAX as u64 },
            epoch: i64::MAX as u64,
            transactions: i64::MAX as u64,
        };
        for value in [extreme, Applied::default(), applied(7)] {
            table.initialise(&client, &value).await.unwrap();
            assert_eq!(table.load(&client).await.unwrap(), Some(value));
            let error = table.initialise(&client, &applied(9)).await.unwrap_err();
            assert!(matches!(&error, Error::AlreadyInitialised { flow } if flow == "a flow"), "{error:?}");
            assert_eq!(table.load(&client).await.unwrap(), Some(value), "and is left as it was");
            assert!(table.remove(&client).await.unwrap());
            assert!(!table.remove(&client).await.unwrap());
        }
        let too_large = Applied { epoch: u64::MAX, ..applied(1) };
        let error = table.save(&client, &too_large).await.unwrap_err();
        assert!(matches!(error, Error::BadRow { column: "epoch", .. }), "{error:?}");
        assert_eq!(table.load(&client).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_missing_table_says_to_run_setup_and_a_spoilt_row_is_an_error() {
    for server in servers() {
        let database = server.bare_database().await;
        let client = database.session("replicat").await;
        let error = CheckpointTable::prepare(&client, "csp").await.unwrap_err();
        assert!(matches!(error, Error::TableMissing), "{error:?}");
        assert_eq!(error.hint().unwrap(), "run \"irongate setup\"");
        assert!(!error.is_transient());

        let database = server.database().await;
        let (client, table) = begun(&database).await;
        let admin = database.admin().await;
        for (assignment, column) in [
            ("epoch = -1", "epoch"),
            ("system_identifier = 'x'", "system_identifier"),
            ("timeline = 1::bigint << 40", "timeline"),
            ("trail_offset = -1", "trail_offset"),
        ] {
            admin
                .batch_execute(&format!("BEGIN; UPDATE irongate.checkpoint SET {assignment}; COMMIT"))
                .await
                .unwrap();
            let error = table.load(&client).await.unwrap_err();
            assert!(matches!(&error, Error::BadRow { column: named, .. } if *named == column), "{error:?}");
            table.remove(&client).await.unwrap();
            table.initialise(&client, &applied(1)).await.unwrap();
        }
        for statement in checkpoint_teardown() {
            admin.batch_execute(&statement).await.unwrap();
        }
        let error = table.load(&client).await.unwrap_err();
        assert!(matches!(error, Error::TableMissing), "{error:?}");
    }
}

#[tokio::test]
async fn a_role_without_the_grants_is_told_that_setup_gives_them() {
    for server in servers() {
        let database = server.database().await;
        let admin = database.admin().await;
        admin.batch_execute("REVOKE UPDATE ON irongate.checkpoint FROM \"Applier \"\"1\"\"\"").await.unwrap();
        let client = database.session("replicat").await;
        let table = CheckpointTable::prepare(&client, "csp").await.unwrap();
        let error = table.save(&client, &applied(1)).await.unwrap_err();
        assert_eq!(error.sqlstate(), Some("42501"), "{error:?}");
        assert_eq!(error.hint().unwrap(), "run \"irongate setup\", which grants what is needed");
        assert!(!error.is_transient());
    }
}

#[tokio::test]
async fn a_save_is_sent_at_the_first_poll_and_nothing_has_to_wait_for_its_answer() {
    for server in servers() {
        let database = server.database().await;
        database.table().await;
        let (client, table) = begun(&database).await;
        let two = applied(2);
        {
            let mut save = pin!(table.save(&client, &two));
            assert!(poll!(save.as_mut()).is_pending());
            // Answered in order: what is seen now was written before.
            assert_eq!(table.load(&client).await.unwrap(), Some(two));
            save.await.unwrap();
        }
        let three = applied(3);
        let (begin, insert, save, commit) = join!(
            client.batch_execute("BEGIN"),
            client.batch_execute("INSERT INTO t VALUES (3)"),
            table.save(&client, &three),
            client.batch_execute("COMMIT")
        );
        assert!([begin, insert, commit].iter().all(Result::is_ok));
        save.unwrap();
        assert_eq!(table.load(&client).await.unwrap(), Some(three));
        assert_eq!(rows_of_t(&client).await, 1);
    }
}

#[tokio::test]
async fn rows_and_checkpoint_are_there_together_or_not_at_all() {
    for server in servers() {
        let database = server.database().await;
        database.table().await;
        let (client, table) = begun(&database).await;
        client.batch_execute("BEGIN").await.unwrap();
        table.save(&client, &applied(2)).await.unwrap();
        client.batch_execute("INSERT INTO t VALUES (2); ROLLBACK").await.unwrap();
        assert_eq!(table.load(&client).await.unwrap(), Some(applied(1)));
        // The session dies before it commits.
        let other = database.session("killed").await;
        let theirs = CheckpointTable::prepare(&other, table.flow()).await.unwrap();
        let pid: i32 = other.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        other.batch_execute("BEGIN; INSERT INTO t VALUES (2)").await.unwrap();
        theirs.save(&other, &applied(2)).await.unwrap();
        database.admin().await.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.unwrap();
        let error = theirs.load(&other).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        assert_eq!((table.load(&client).await.unwrap(), rows_of_t(&client).await), (Some(applied(1)), 0));
    }
}

#[tokio::test]
async fn a_checkpoint_that_must_not_be_replaced_takes_its_transaction_with_it() {
    for server in servers() {
        let database = server.database().await;
        database.table().await;
        let (client, table) = begun(&database).await;
        table.save(&client, &applied(5)).await.unwrap();
        let other_system = Lineage { system_identifier: 1, ..LINEAGE };
        let other_slot = Lineage { slot_incarnation: Lsn(1), ..LINEAGE };
        let old_timeline = Lineage { timeline: 0, ..LINEAGE };
        for (wrong, why) in [
            (applied(4), "an earlier transaction"),
            (Applied { epoch: 2, ..applied(6) }, "an earlier epoch"),
            (Applied { end_lsn: ResumeLsn(Lsn(5000)), ..applied(5) }, "an earlier end"),
            (Applied { lineage: other_system, ..applied(6) }, "another system"),
            (Applied { lineage: other_slot, ..applied(6) }, "another slot"),
            (Applied { lineage: old_timeline, ..applied(6) }, "an earlier timeline"),
        ] {
            for after in [false, true] {
                let (_, insert, save, _) = join!(
                    client.batch_execute("BEGIN"),
                    client.batch_execute("INSERT INTO t VALUES (1)"),
                    async {
                        if after {
                            table.save_after(&client, applied(5).commit_lsn, &wrong, None).await
                        } else {
                            table.save(&client, &wrong).await
                        }
                    },
                    client.batch_execute("COMMIT")
                );
                insert.unwrap();
                let error = save.unwrap_err();
                assert!(matches!(error, Error::Overtaken { .. }), "{why}: {error:?}");
                assert!(!error.is_transient() && error.hint().is_some());
                assert_eq!(table.load(&client).await.unwrap(), Some(applied(5)), "{why}");
                assert_eq!(rows_of_t(&client).await, 0, "{why}");
            }
        }
        let promoted = Applied { lineage: Lineage { timeline: 2, ..LINEAGE }, epoch: 4, ..applied(6) };
        table.save(&client, &promoted).await.unwrap();
        let idle =
            Applied { end_lsn: ResumeLsn(Lsn(9999)), position: Position { seqno: 2, offset: 8 }, ..promoted };
        table.save(&client, &idle).await.unwrap();
        assert_eq!(table.load(&client).await.unwrap(), Some(idle), "the end moves without a transaction");
        table.remove(&client).await.unwrap();
        let error = table.save_after(&client, idle.commit_lsn, &applied(9), None).await.unwrap_err();
        assert!(matches!(error, Error::Overtaken { .. }), "a row that is gone: {error:?}");
        table.save(&client, &applied(9)).await.unwrap();
        assert_eq!(table.load(&client).await.unwrap(), Some(applied(9)), "save makes the row");
    }
}

#[tokio::test]
async fn of_transactions_sent_one_behind_the_other_none_is_left_out_when_an_earlier_one_fails() {
    for server in servers() {
        let database = server.database().await;
        database.table().await;
        database.admin().await.batch_execute("ALTER TABLE t ADD CHECK (n <> 13)").await.unwrap();
        let (client, table) = begun(&database).await;
        let transaction = async |n: u64, value: i64| {
            let previous = applied(n - 1).commit_lsn;
            let this = applied(n);
            let insert = format!("INSERT INTO t VALUES ({value})");
            let (begin, insert, save, commit) = join!(
                client.batch_execute("BEGIN"),
                client.batch_execute(&insert),
                table.save_after(&client, previous, &this, None),
                client.batch_execute("COMMIT")
            );
            begin.unwrap();
            commit.unwrap();
            (insert.is_ok(), save)
        };
        let (two, three) = join!(transaction(2, 2), transaction(3, 3));
        assert!(two.0 && three.0 && two.1.is_ok() && three.1.is_ok());
        let (four, five, six) = join!(transaction(4, 13), transaction(5, 5), transaction(6, 6));
        assert!(!four.0);
        for behind in [five, six] {
            assert!(behind.0, "its own work was good");
            assert!(matches!(behind.1, Err(Error::Overtaken { .. })), "{:?}", behind.1);
        }
        assert_eq!(table.load(&client).await.unwrap(), Some(applied(3)));
        assert_eq!(rows_of_t(&client).await, 2);
    }
}

#[tokio::test]
async fn a_second_writer_that_no_lock_has_kept_out_repeats_nothing() {
    for server in servers() {
        let database = server.database().await;
        database.table().await;
        let (one, table) = begun(&database).await;
        let two = database.session("second").await;
        let theirs = CheckpointTable::prepare(&two, table.flow()).await.unwrap();
        let (previous, next) = (applied(1).commit_lsn, applied(2));
        one.batch_execute("BEGIN; INSERT INTO t VALUES (2)").await.unwrap();
        table.save_after(&one, previous, &next, None).await.unwrap();
        two.batch_execute("BEGIN; INSERT INTO t VALUES (2)").await.unwrap();
        // It waits for the row.
        let mut second = pin!(theirs.save_after(&two, previous, &next, None));
        assert!(poll!(second.as_mut()).is_pending());
        one.batch_execute("COMMIT").await.unwrap();
        let error = second.await.unwrap_err();
        assert!(matches!(error, Error::Overtaken { .. }), "{error:?}");
        two.batch_execute("COMMIT").await.unwrap();
        assert_eq!(rows_of_t(&one).await, 1);
    }
}

#[tokio::test]
async fn the_second_to_claim_a_flow_is_told_who_has_it_until_that_session_ends() {
    for server in servers() {
        let database = server.database().await;
        let (one, table) = begun(&database).await;
        table.claim(&one).await.unwrap();
        let pid: i32 = one.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let two = database.session("second").await;
        let theirs = CheckpointTable::prepare(&two, table.flow()).await.unwrap();
        let error = theirs.claim(&two).await.unwrap_err();
        let Error::FlowInUse { session, .. } = &error else { panic!("{error:?}") };
        assert_eq!(session.pid, Some(pid as u32));
        assert_eq!(session.application.as_deref(), Some("replicat"));
        assert!(
            error.to_string().contains(&format!("server process {pid} (application \"replicat\"")),
            "{error}"
        );
        assert!(error.hint().unwrap().contains(&format!("pg_terminate_backend({pid})")));
        assert!(error.is_transient());
        let other_flow = CheckpointTable::prepare(&two, "another").await.unwrap();
        other_flow.claim(&two).await.unwrap();
        table.release(&one).await.unwrap();
        theirs.claim(&two).await.unwrap();
        let admin = database.admin().await;
        let pid: i32 = two.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        admin.execute("SELECT pg_terminate_backend($1, 10000)", &[&pid]).await.unwrap();
        table.claim(&one).await.unwrap();
    }
}

#[tokio::test]
async fn who_works_ahead_is_found_by_the_next_to_claim_and_finds_him() {
    for server in servers() {
        let database = server.database().await;
        let (main, table) = begun(&database).await;
        let pid = async |client: &Client| -> i32 {
            client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
        };
        let admin = database.admin().await;
        let end = async |pid: i32| {
            admin.execute("SELECT pg_terminate_backend($1, 10000)", &[&pid]).await.unwrap();
        };
        let ahead = database.session("ahead").await;
        let its = CheckpointTable::prepare(&ahead, table.flow()).await.unwrap();
        let error = its.claim_ahead(&ahead, pid(&main).await).await.unwrap_err();
        assert!(matches!(error, Error::FlowInUse { .. }), "nobody has claimed the flow: {error:?}");
        end(pid(&ahead).await).await;

        table.claim(&main).await.unwrap();
        let ahead = database.session("ahead").await;
        let its = CheckpointTable::prepare(&ahead, table.flow()).await.unwrap();
        its.claim_ahead(&ahead, pid(&main).await).await.unwrap();
        let third = database.session("third").await;
        let theirs = CheckpointTable::prepare(&third, table.flow()).await.unwrap();
        let error = theirs.claim_ahead(&third, pid(&main).await).await.unwrap_err();
        let Error::FlowInUse { session, .. } = &error else { panic!("{error:?}") };
        assert_eq!(session.application.as_deref(), Some("ahead"));

        // The one that has claimed the flow is lost, and what it has let commit is not.
        end(pid(&main).await).await;
        let error = theirs.claim(&third).await.unwrap_err();
        let Error::FlowInUse { session, .. } = &error else { panic!("{error:?}") };
        assert_eq!(session.pid, Some(pid(&ahead).await as u32));
        assert!(error.is_transient());
        let fourth = database.session("fourth").await;
        let its = CheckpointTable::prepare(&fourth, table.flow()).await.unwrap();
        its.nobody_else(&fourth).await.unwrap_err();
        let (ahead_pid, waits) = (pid(&ahead).await, its.claim(&fourth));
        let (claimed, ()) = tokio::join!(waits, async {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            end(ahead_pid).await;
        });
        claimed.expect("a claim once that session has ended");
        // Who comes too late has no master any more.
        let late = database.session("late").await;
        let its = CheckpointTable::prepare(&late, table.flow()).await.unwrap();
        its.claim_ahead(&late, ahead_pid).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_marker_is_kept_with_its_transaction_until_the_next_one() {
    for server in servers() {
        let database = server.database().await;
        let (client, table) = begun(&database).await;
        assert_eq!(table.marker(&client).await.unwrap(), None);
        table.save_with_marker(&client, &applied(2), Some("run 1")).await.unwrap();
        table.save(&client, &applied(3)).await.unwrap();
        table.save_after(&client, applied(3).commit_lsn, &applied(4), None).await.unwrap();
        assert_eq!(table.marker(&client).await.unwrap().as_deref(), Some("run 1"));
        table.save_after(&client, applied(4).commit_lsn, &applied(5), Some("run 2")).await.unwrap();
        assert_eq!(table.marker(&client).await.unwrap().as_deref(), Some("run 2"));
    }
}

/// Updates so far, those of them that touched no index, and the bytes of the table and its index.
async fn footprint(client: &Client) -> (i64, i64, i64) {
    client.batch_execute("SELECT pg_stat_force_next_flush()").await.unwrap();
    let sql = "SELECT n_tup_upd, n_tup_hot_upd, pg_relation_size('irongate.checkpoint') \
               + pg_relation_size('irongate.checkpoint_pkey') \
               FROM pg_stat_user_tables WHERE relid = 'irongate.checkpoint'::regclass";
    let row = client.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

#[tokio::test]
async fn thousands_of_saves_leave_no_index_entries_and_no_bloat_behind() {
    /// Saves between two looks: unpruned, they would take more than ten pages.
    const ROUND: i64 = 1000;
    for server in servers() {
        let database = server.database().await;
        let (client, table) = begun(&database).await;
        let mut rounds = Vec::new();
        let mut n = 1;
        // A slot that another test makes holds back pruning in the whole cluster for a while, and then pages are added; so
        // not every round is a clean one.
        for _ in 0..12 {
            let before = footprint(&client).await;
            for _ in 0..ROUND / 2 {
                table.save(&client, &applied(n + 1)).await.unwrap();
                table.save_after(&client, applied(n + 1).commit_lsn, &applied(n + 2), None).await.unwrap();
                n += 2;
            }
            let after = footprint(&client).await;
            let round = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
            rounds.push(round);
            if rounds.len() > 2 && round == (ROUND, ROUND, 0) {
                break;
            }
        }
        let clean = rounds.iter().skip(2).any(|round| *round == (ROUND, ROUND, 0));
        assert!(clean, "updates, those without an index entry, bytes added: {rounds:?}");
    }
}
