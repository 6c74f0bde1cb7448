//! Bugs that were found, each with its story and the smallest flow that would show it again.

use std::time::Duration;

use irongate_tests::wait_until;

use super::support::{Flow, PATIENCE, pairs};

/// 1. A value in binary went as it was to a column of another type. `smallint` to `numeric` was refused by the server;
///    `integer` to `real` has the same length and became another number without a word.
#[tokio::test(flavor = "multi_thread")]
async fn regression_1_values_in_binary_for_columns_of_another_type() {
    for pair in pairs() {
        let mut flow = Flow::new("r1", pair).await;
        flow.extract.source.binary = true;
        flow.at_source("CREATE TABLE t (id int PRIMARY KEY, a int, b smallint, c text, d timestamptz)").await;
        flow.at_target("CREATE TABLE t (id bigint PRIMARY KEY, a real, b numeric, c json, d text)").await;
        flow.start().await;
        flow.each_at_source(&[
            "INSERT INTO t VALUES (1, 12345, 7, '{}', '2026-01-01 00:00:00+00'), (2, 1, 1, '1', NULL)",
            "UPDATE t SET a = 54321, c = '[]' WHERE id = 1; DELETE FROM t WHERE id = 2",
        ])
        .await;
        flow.drain().await;
        let row = "SELECT t::text FROM t";
        assert_eq!(flow.target_says(row).await, "(1,54321,7,[],\"2026-01-01 00:00:00+00\")");
        flow.end().await;
    }
}

/// 2. With `array_nulls = off` in the target's database, NULL in an array of texts became the word.
#[tokio::test(flavor = "multi_thread")]
async fn regression_2_null_in_an_array_where_the_database_reads_it_as_a_word() {
    for pair in pairs() {
        let mut flow = Flow::new("r2", pair).await;
        flow.at_both("CREATE TABLE t (id int PRIMARY KEY, a text[])").await;
        flow.at_target(&format!("ALTER DATABASE {} SET array_nulls = off", flow.database)).await;
        flow.start().await;
        flow.at_source("INSERT INTO t VALUES (1, '{a,NULL}')").await;
        flow.drain().await;
        assert_eq!(flow.target_says("SELECT a[2] IS NULL FROM t").await, "t");
        flow.end_same().await;
    }
}

/// 3. The old value of a `regproc` was compared as the type that its equality is made for, `oid`, whose text is a
///    number; and a domain over an enum has no equality at all, except its base type's.
#[tokio::test(flavor = "multi_thread")]
async fn regression_3_old_values_are_of_the_columns_type_and_not_of_the_operators() {
    for pair in pairs() {
        let mut flow = Flow::new("r3", pair).await;
        flow.at_both(
            "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN feeling AS mood;
             CREATE TABLE named (f regproc, n int); ALTER TABLE named REPLICA IDENTITY FULL;
             CREATE TABLE felt (f feeling PRIMARY KEY, n int)",
        )
        .await;
        flow.start().await;
        flow.each_at_source(&[
            "INSERT INTO named VALUES ('now', 1), ('pg_lsn_in', 2); INSERT INTO felt VALUES ('sad', 1), ('happy', 2)",
            "UPDATE named SET n = 3 WHERE n = 1; UPDATE felt SET n = 3 WHERE n = 1",
            "DELETE FROM named WHERE n = 2; DELETE FROM felt WHERE n = 2",
        ])
        .await;
        flow.end_same().await;
    }
}

/// 4. An update or delete of a table that others inherit from met their rows too.
#[tokio::test(flavor = "multi_thread")]
async fn regression_4_rows_of_tables_that_inherit_are_left_alone() {
    for pair in pairs() {
        let mut flow = Flow::new("r4", pair).await;
        flow.at_both(
            "CREATE TABLE base (id int PRIMARY KEY, n int);
             CREATE TABLE heir (PRIMARY KEY (id)) INHERITS (base)",
        )
        .await;
        flow.start().await;
        flow.each_at_source(&[
            "INSERT INTO base VALUES (1, 1), (2, 1); INSERT INTO heir VALUES (1, 1), (2, 1)",
            "UPDATE ONLY base SET n = 2 WHERE id = 1",
            "DELETE FROM ONLY base WHERE id = 2",
        ])
        .await;
        flow.drain().await;
        assert_eq!(flow.target_says("SELECT string_agg(n::text, ',') FROM heir").await, "1,1");
        flow.end_same().await;
    }
}

/// 5. TRUNCATE … RESTART IDENTITY needs the owner of the sequences, which Replicat's role is not.
#[tokio::test(flavor = "multi_thread")]
async fn regression_5_sequences_restart_by_a_role_that_does_not_own_them() {
    for pair in pairs() {
        let mut flow = Flow::new("r5", pair).await;
        flow.at_both("CREATE TABLE t (id serial PRIMARY KEY)").await;
        flow.at_target("SELECT setval('t_id_seq', 77)").await;
        flow.start().await;
        flow.at_source("TRUNCATE t RESTART IDENTITY").await;
        flow.drain().await;
        assert_eq!(flow.target_says("SELECT nextval('t_id_seq')").await, "1");
        flow.end_same().await;
    }
}

/// 6. A database that is read-only by default, as an operator likes a standby to be, was so for Replicat too.
#[tokio::test(flavor = "multi_thread")]
async fn regression_6_a_standby_that_is_read_only_by_default_is_written_by_replicat() {
    for pair in pairs() {
        let mut flow = Flow::new("r6", pair).await;
        flow.at_both("CREATE TABLE t (id int PRIMARY KEY)").await;
        flow.at_target(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", flow.database))
            .await;
        flow.start().await;
        flow.at_source("INSERT INTO t VALUES (1)").await;
        flow.end_same().await;
    }
}

/// 7. Progress records moved the place that the target was known to have flushed beyond what its checkpoint table can
///    say. After some idle time any lost connection looked as if the target had gone back, and Replicat ended.
#[tokio::test(flavor = "multi_thread")]
async fn regression_7_a_connection_that_is_lost_after_an_idle_time_is_made_again() {
    for pair in pairs() {
        let mut flow = Flow::new("r7", pair).await;
        flow.extract.source.machine.progress_interval = Duration::from_millis(50);
        flow.at_both("CREATE TABLE t (id int PRIMARY KEY)").await;
        flow.start().await;
        flow.at_source("INSERT INTO t VALUES (1)").await;
        flow.drain().await;
        let before = flow.status(&flow.replicat.group).unwrap().position;
        flow.at_source("CREATE TABLE unpublished AS SELECT generate_series(1, 10000) AS id").await;
        wait_until(PATIENCE, "Replicat to pass what is not for it", async || {
            flow.status(&flow.replicat.group).unwrap().position > before
        })
        .await;
        // Long enough for the place to be taken down as flushed.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        flow.target_says("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'replicat'")
            .await;
        flow.at_source("INSERT INTO t VALUES (2); DROP TABLE unpublished").await;
        flow.end_same().await;
    }
}

/// 8. With a pump, the initial load writes into the checkpoint table where the trail stands at the *source's* site. At the
///    other site Replicat took that for a place in its own trail and let everything before it go: purge removed files
///    that were not applied, and Replicat could not go on.
#[tokio::test(flavor = "multi_thread")]
async fn regression_8_a_place_in_another_trail_lets_nothing_go() {
    for pair in pairs() {
        let mut flow = Flow::new("r8", pair).await;
        flow.at_both("CREATE TABLE t (id int PRIMARY KEY)").await;
        flow.set_up().await;
        flow.at_target("UPDATE irongate.checkpoint SET trail_seqno = 7, trail_offset = 99").await;
        flow.start_replicat().await;
        flow.start_extract().await;
        let storage = irongate_trail::Directory::new(&flow.extract.trail);
        let seen = || irongate_trail::readers(&storage).unwrap_or_default();
        wait_until(PATIENCE, "Replicat to say how far it is", async || !seen().is_empty()).await;
        for _ in 0..3 {
            assert!(seen()[0].1.position.seqno <= 1, "there is no other file: {:?}", seen());
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        flow.at_source("INSERT INTO t VALUES (1)").await;
        flow.drain().await;
        wait_until(PATIENCE, "Replicat to let go of what it has applied", async || {
            let position = seen()[0].1.position;
            assert!(position.seqno <= 1, "{position}");
            position.seqno == 1 && flow.status(&flow.replicat.group).unwrap().position == Some(position)
        })
        .await;
        flow.end_same().await;
    }
}
