//! Constraints of the target, in whose way no order of applying may come.

use super::support::{Flow, pairs};

#[tokio::test(flavor = "multi_thread")]
async fn unique_values_change_hands_in_one_statement_and_in_one_transaction() {
    for pair in pairs() {
        let mut flow = Flow::new("unique_swaps", pair).await;
        flow.at_both(
            "CREATE TABLE at_once (id int PRIMARY KEY, u int UNIQUE, a text);
             CREATE TABLE partial (id int PRIMARY KEY, u int, active bool);
             CREATE UNIQUE INDEX ON partial (u) WHERE active;
             CREATE TABLE expression (id int PRIMARY KEY, u text); CREATE UNIQUE INDEX ON expression (lower(u));
             CREATE TABLE at_end (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED, a text);
             CREATE TABLE in_statement (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY IMMEDIATE, a text);
             CREATE TABLE key_deferrable (id int PRIMARY KEY DEFERRABLE, a text);
             ALTER TABLE key_deferrable REPLICA IDENTITY FULL;
             CREATE TABLE excluded (id int PRIMARY KEY, during int4range, EXCLUDE USING gist (during WITH &&));
             CREATE TABLE parted (id int, u int UNIQUE, PRIMARY KEY (id, u)) PARTITION BY RANGE (u);
             CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (MINVALUE) TO (50);
             CREATE TABLE parted_high PARTITION OF parted FOR VALUES FROM (50) TO (MAXVALUE)",
        )
        .await;
        flow.start().await;
        for table in ["at_once", "at_end", "in_statement"] {
            flow.each_at_source(&[
                // Stored from the highest down, so that adding one collides with nothing at the source.
                &format!("INSERT INTO {table} SELECT i, i, 'a' FROM generate_series(100, 1, -1) i"),
                &format!("UPDATE {table} SET u = u + 1"),
                &format!("UPDATE {table} SET u = NULL WHERE id = 1; UPDATE {table} SET u = 2 WHERE id = 2; UPDATE {table} SET u = 3 WHERE id = 1"),
                &format!("DELETE FROM {table} WHERE id = 50; INSERT INTO {table} VALUES (500, 51, 'heir')"),
                &format!("DELETE FROM {table} WHERE id = 51; UPDATE {table} SET u = 52 WHERE id = 49"),
                &format!("UPDATE {table} SET u = -60 WHERE id = 60; INSERT INTO {table} VALUES (600, 61, 'heir'); DELETE FROM {table} WHERE id = 600; UPDATE {table} SET u = 61 WHERE id = 60"),
            ])
            .await;
        }
        for table in ["at_end", "in_statement"] {
            flow.at_source(&format!(
                "UPDATE {table} SET u = CASE id WHEN 70 THEN 81 ELSE 71 END WHERE id IN (70, 80)"
            ))
            .await;
        }
        flow.each_at_source(&[
            "UPDATE at_end SET u = 91 WHERE id = 10; UPDATE at_end SET u = 11 WHERE id = 90",
            "INSERT INTO partial SELECT i, 1, i = 1 FROM generate_series(1, 10) i",
            "UPDATE partial SET active = false WHERE id = 1; UPDATE partial SET active = true WHERE id = 2",
            "INSERT INTO partial VALUES (11, 2, true); UPDATE partial SET u = 3 WHERE id = 11; UPDATE partial SET u = 2, active = true WHERE id = 3",
            "INSERT INTO expression VALUES (1, 'A'), (2, 'b')",
            "DELETE FROM expression WHERE id = 1; INSERT INTO expression VALUES (3, 'a')",
            "UPDATE expression SET u = 'x' WHERE id = 3; UPDATE expression SET u = 'A' WHERE id = 2",
            "INSERT INTO key_deferrable VALUES (1, 'one'), (2, 'two')",
            "UPDATE key_deferrable SET id = 3 - id",
            "INSERT INTO excluded SELECT i, int4range(i, i + 1) FROM generate_series(1, 20) i",
            "DELETE FROM excluded WHERE id = 5; UPDATE excluded SET during = '[4,6)' WHERE id = 4",
            "UPDATE excluded SET during = 'empty' WHERE id = 7; UPDATE excluded SET during = '[7,9)' WHERE id = 7 AND false; INSERT INTO excluded VALUES (30, '[7,8)')",
            "INSERT INTO parted SELECT i, i FROM generate_series(100, 1, -1) i",
            "UPDATE parted SET u = u + 1 WHERE u >= 50; UPDATE parted SET u = u + 1 WHERE u < 50",
            "DELETE FROM parted WHERE id = 10; UPDATE parted SET u = 11 WHERE id = 90",
        ])
        .await;
        flow.drain().await;
        assert_eq!(flow.target_says("SELECT u FROM at_end WHERE id = 70").await, "81");
        assert_eq!(flow.target_says("SELECT a FROM key_deferrable WHERE id = 2").await, "one");
        flow.end_same().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn references_within_and_between_tables_hold_whatever_the_order() {
    for pair in pairs() {
        let mut flow = Flow::new("foreign_keys", pair).await;
        flow.at_both(
            "CREATE TABLE self (id int PRIMARY KEY, boss int REFERENCES self ON DELETE CASCADE);
             CREATE TABLE hen (id int PRIMARY KEY, egg int);
             CREATE TABLE egg (id int PRIMARY KEY, hen int NOT NULL REFERENCES hen DEFERRABLE INITIALLY DEFERRED);
             ALTER TABLE hen ADD FOREIGN KEY (egg) REFERENCES egg DEFERRABLE INITIALLY DEFERRED;
             CREATE TABLE parent (id int PRIMARY KEY, a text);
             CREATE TABLE cascades (id int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
             CREATE TABLE nulls (id int PRIMARY KEY, p int REFERENCES parent ON DELETE SET NULL);
             CREATE TABLE defaults (id int PRIMARY KEY, p int DEFAULT 0 REFERENCES parent ON DELETE SET DEFAULT);
             CREATE TABLE checked (id int PRIMARY KEY, low int, high int, CHECK (low < high), CHECK (high > 0))",
        )
        .await;
        flow.start().await;
        flow.each_at_source(&[
            // The boss comes last.
            "INSERT INTO self SELECT i, nullif(i + 1, 51) FROM generate_series(1, 50) i",
            "DELETE FROM self WHERE id = 40",
            "INSERT INTO egg VALUES (1, 1); INSERT INTO hen VALUES (1, 1)",
            "INSERT INTO egg SELECT i, i FROM generate_series(2, 30) i; INSERT INTO hen SELECT i, i FROM generate_series(2, 30) i",
            "UPDATE hen SET egg = NULL WHERE id = 7; DELETE FROM hen WHERE id = 7; DELETE FROM egg WHERE id = 7",
            "INSERT INTO parent SELECT i, 'p' FROM generate_series(0, 20) i",
            "INSERT INTO cascades SELECT i, i % 20 + 1 FROM generate_series(1, 60) i",
            "INSERT INTO nulls SELECT i, i % 20 + 1 FROM generate_series(1, 60) i",
            "INSERT INTO defaults SELECT i, i % 20 + 1 FROM generate_series(1, 60) i",
            "DELETE FROM parent WHERE id IN (1, 2)",
            "DELETE FROM nulls WHERE p = 3; DELETE FROM defaults WHERE p = 3; UPDATE parent SET id = 33 WHERE id = 3",
            "DELETE FROM parent WHERE id = 4; INSERT INTO parent VALUES (4, 'new'); INSERT INTO cascades VALUES (400, 4)",
            "INSERT INTO checked SELECT i, i, i + 1 FROM generate_series(1, 20) i",
            "UPDATE checked SET low = 100, high = 101 WHERE id = 1",
            "UPDATE checked SET high = 500; UPDATE checked SET low = 40 WHERE id <> 1",
        ])
        .await;
        flow.drain().await;
        assert_eq!(flow.target_says("SELECT count(*) FROM self").await, "10");
        assert_eq!(flow.target_says("SELECT count(*) FROM nulls WHERE p IS NULL").await, "9");
        assert_eq!(flow.target_says("SELECT count(*) FROM cascades WHERE p = 33").await, "3");
        flow.end_same().await;
    }
}
