//! Tables that change while their rows travel.

use super::support::{Flow, pairs, pairs_in_turn};

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_both_sides_get_are_filled_from_then_on() {
    for pair in pairs() {
        let mut flow = Flow::new("ddl_both", pair).await;
        flow.at_both(
            "CREATE TABLE t (id int PRIMARY KEY, a text); CREATE TABLE full_t (id int, a text);
             ALTER TABLE full_t REPLICA IDENTITY FULL; CREATE TABLE typed (id int PRIMARY KEY, n int, s varchar(5))",
        )
        .await;
        flow.start().await;
        flow.at_source(
            "INSERT INTO t SELECT i, 'old' FROM generate_series(1, 10) i; INSERT INTO full_t SELECT * FROM t",
        )
        .await;
        // The target goes first: it must not be behind what arrives.
        for table in ["t", "full_t"] {
            let add = format!("ALTER TABLE {table} ADD b int DEFAULT 5, ADD c numeric(5, 2)");
            flow.at_target(&add).await;
            flow.each_at_source(&[
                &format!("INSERT INTO {table} VALUES (11, 'between')"),
                &add,
                &format!(
                    "INSERT INTO {table} VALUES (12, 'new', 6, 1.5); UPDATE {table} SET c = 2.25 WHERE id < 4"
                ),
                &format!("UPDATE {table} SET a = 'changed' WHERE id IN (4, 11)"),
            ])
            .await;
            // All in one transaction.
            flow.at_target(&format!("ALTER TABLE {table} ADD d text")).await;
            flow.each_at_source(&[
                &format!(
                    "BEGIN; INSERT INTO {table} (id, a) VALUES (20, 'before'); UPDATE {table} SET b = 1 WHERE id = 20;
                     ALTER TABLE {table} ADD d text; UPDATE {table} SET d = 'd' WHERE id IN (1, 20);
                     INSERT INTO {table} (id, d) VALUES (21, 'after'); DELETE FROM {table} WHERE id = 2; COMMIT"
                ),
                &format!("ALTER TABLE {table} DROP a"),
                &format!("INSERT INTO {table} (id, b) VALUES (30, 1); UPDATE {table} SET b = 3 WHERE id = 3"),
            ])
            .await;
            flow.drain().await;
            flow.at_target(&format!("ALTER TABLE {table} DROP a")).await;
            flow.at_source(&format!(
                "DELETE FROM {table} WHERE id = 30; UPDATE {table} SET c = NULL WHERE b = 3"
            ))
            .await;
            flow.drain().await;
            flow.at_both(&format!("ALTER TABLE {table} RENAME b TO bee")).await;
            flow.at_source(&format!("UPDATE {table} SET bee = bee + 1")).await;
            flow.drain().await;
        }
        // Types grow on both sides, and the key becomes another.
        flow.at_source("INSERT INTO typed VALUES (1, 1, 'a')").await;
        flow.drain().await;
        let grow = "ALTER TABLE typed ALTER n TYPE bigint, ALTER s TYPE text";
        flow.at_target(grow).await;
        flow.each_at_source(&[
            "INSERT INTO typed VALUES (2, 2, 'b')",
            grow,
            "INSERT INTO typed VALUES (3, 1e12, 'longer than five')",
        ])
        .await;
        flow.drain().await;
        let key = "ALTER TABLE typed DROP CONSTRAINT typed_pkey, ADD PRIMARY KEY (n)";
        flow.at_both(key).await;
        flow.at_source(
            "UPDATE typed SET id = 7; UPDATE typed SET n = -n WHERE s = 'a'; DELETE FROM typed WHERE n = 2",
        )
        .await;
        flow.drain().await;
        flow.at_both("ALTER TABLE typed REPLICA IDENTITY FULL; ALTER TABLE typed DROP CONSTRAINT typed_pkey")
            .await;
        flow.at_source("UPDATE typed SET id = 8; DELETE FROM typed WHERE s = 'a'").await;
        flow.end_same().await;
    }
}

/// The statement that a hint says to run.
fn remedy(error: &irongate_apply::Error) -> String {
    let hint = error.hint().expect("a hint");
    let statement = hint.split_once("run \"").expect("a statement in the hint").1;
    statement.rsplit_once("\" at the target").expect("a place in the hint").0.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_only_the_source_has_stops_the_flow_with_the_statement_that_mends_it() {
    let types = [
        ("text", "'x'"),
        ("numeric(10, 2)", "1.25"),
        ("numeric(5, -2)", "12300"),
        ("varchar(20)", "'twenty'"),
        ("char(3)", "'abc'"),
        ("timestamptz(3)", "'2026-01-01 00:00:00.123+00'"),
        ("time(0)", "'12:00:00'"),
        ("interval(3)", "'1 day'"),
        ("interval day to second(2)", "'1 day'"),
        ("interval year to month", "'1 year'"),
        ("bit(5)", "B'10101'"),
        ("varbit(5)", "B'1'"),
        ("int[]", "'{1,2}'"),
        ("varchar(9)[]", "'{one,two}'"),
        ("jsonb", "'{}'"),
        ("\"char\"", "'c'"),
        ("mood", "'happy'"),
        ("\"Odd\".\"Ty pe\"", "'{(1,)}'"),
        ("positive", "5"),
        ("public.citext", "'Text'"),
        ("int4range", "'[1,2)'"),
    ];
    for pair in pairs_in_turn() {
        let mut flow = Flow::new("ddl_one", pair).await;
        flow.at_both(
            "CREATE EXTENSION citext; CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
             CREATE SCHEMA \"Odd\"; CREATE DOMAIN \"Odd\".\"Ty pe\" AS text;
             CREATE TABLE t (id int PRIMARY KEY, a text); CREATE TABLE other (id int PRIMARY KEY)",
        )
        .await;
        flow.start().await;
        for (n, (name, value)) in types.iter().enumerate() {
            let id = n * 10;
            flow.at_source(&format!(
                "INSERT INTO t (id, a) VALUES ({id}, 'old'); INSERT INTO other VALUES ({id})"
            ))
            .await;
            flow.drain().await;
            flow.each_at_source(&[
                &format!("ALTER TABLE t ADD \"new {n}\" {name}"),
                &format!("INSERT INTO other VALUES ({id} + 1)"),
                &format!(
                    "INSERT INTO other VALUES ({id} + 2); INSERT INTO t (id, \"new {n}\") VALUES ({id} + 1, {value});
                     UPDATE t SET \"new {n}\" = {value} WHERE id = {id}"
                ),
                &format!("INSERT INTO other VALUES ({id} + 3)"),
            ])
            .await;
            let error = flow.replicat_abends().await;
            let text = error.to_string();
            assert!(text.contains("\"public.t\"") && text.contains(&format!("\"new {n}\"")), "{text}");
            // What came before is there, nothing of the transaction is.
            assert_eq!(
                flow.target_says(&format!("SELECT count(*) FROM other WHERE id >= {id}")).await,
                "2",
                "{name}"
            );
            let remedy = remedy(&error);
            assert!(remedy.starts_with("ALTER TABLE"), "{remedy}");
            flow.at_target(&remedy).await;
            flow.start_replicat().await;
            flow.assert_same().await;
            let kind = format!(
                "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'new {n}'"
            );
            // Of a domain the stream tells only the type below it.
            let expected = match *name {
                "positive" => "integer".to_owned(),
                "\"Odd\".\"Ty pe\"" => "text".to_owned(),
                _ => flow.source_says(&kind).await,
            };
            assert_eq!(flow.target_says(&kind).await, expected, "{remedy}");
        }
        flow.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_source_takes_away_or_renames_alone() {
    for pair in pairs() {
        let mut flow = Flow::new("ddl_less", pair).await;
        flow.at_both(
            "CREATE TABLE t (id int PRIMARY KEY, a text, b text NOT NULL, c int);
             CREATE TABLE renamed (id int PRIMARY KEY); CREATE TABLE shorter (id int PRIMARY KEY, a varchar(3))",
        )
        .await;
        flow.start().await;
        flow.at_source("INSERT INTO t VALUES (1, 'a', 'b', 1), (2, 'a', 'b', 2)").await;
        flow.drain().await;
        // A column fewer is no loss at the target: it keeps what it has.
        flow.each_at_source(&[
            "ALTER TABLE t DROP a",
            "UPDATE t SET c = 3 WHERE id = 1",
            "INSERT INTO t VALUES (3, 'b', 3)",
        ])
        .await;
        flow.drain().await;
        assert_eq!(
            flow.target_says("SELECT string_agg(coalesce(a, '-'), '' ORDER BY id) FROM t").await,
            "aa-"
        );
        flow.at_target("ALTER TABLE t DROP a").await;
        // Unless the target insists on a value.
        flow.each_at_source(&["ALTER TABLE t DROP b", "UPDATE t SET c = 4 WHERE id = 1"]).await;
        flow.drain().await;
        flow.at_source("INSERT INTO t VALUES (4, 4)").await;
        let error = flow.replicat_abends().await;
        let text = error.to_string();
        assert!(text.contains("\"public.t\"") && text.contains("\"b\"") && text.contains("23502"), "{text}");
        flow.at_target(&remedy(&error)).await;
        flow.start_replicat().await;
        flow.assert_same().await;

        flow.each_at_source(&["ALTER TABLE t RENAME c TO sea", "UPDATE t SET sea = 5 WHERE id = 1"]).await;
        let error = flow.replicat_abends().await;
        assert!(error.to_string().contains("\"sea\""), "{error}");
        // It stands last: it could be a new one in place of another.
        let hint = error.hint().expect("a hint");
        assert!(
            hint.contains("RENAME COLUMN \"c\" TO \"sea\"") && hint.contains("ADD COLUMN \"sea\""),
            "{hint}"
        );
        flow.at_target("ALTER TABLE t RENAME c TO sea").await;
        flow.start_replicat().await;
        flow.assert_same().await;
        // Among others it can only be the same one.
        flow.at_both("ALTER TABLE t ADD last text").await;
        flow.each_at_source(&["ALTER TABLE t RENAME sea TO ocean", "UPDATE t SET ocean = 6 WHERE id = 1"])
            .await;
        let error = flow.replicat_abends().await;
        flow.at_target(&remedy(&error)).await;
        flow.start_replicat().await;
        flow.assert_same().await;

        flow.each_at_source(&[
            "ALTER TABLE renamed RENAME TO other_name",
            "INSERT INTO other_name VALUES (1)",
        ])
        .await;
        let error = flow.replicat_abends().await;
        assert!(error.to_string().contains("\"public.other_name\""), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("CREATE TABLE \"public\".\"other_name\"")));
        flow.at_target("ALTER TABLE renamed RENAME TO other_name").await;
        flow.start_replicat().await;
        flow.assert_same().await;

        flow.each_at_source(&[
            "ALTER TABLE shorter ALTER a TYPE text",
            "INSERT INTO shorter VALUES (1, 'abc'), (2, 'too long')",
        ])
        .await;
        let error = flow.replicat_abends().await;
        let text = error.to_string();
        assert!(text.contains("\"public.shorter\"") && text.contains("22001"), "{text}");
        assert!(
            !text.contains("too long for type") || !text.contains("'too long'"),
            "a value in an error: {text}"
        );
        flow.at_target(&remedy(&error)).await;
        flow.start_replicat().await;
        flow.end_same().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_join_and_leave_a_publication() {
    for pair in pairs() {
        let mut flow = Flow::new("ddl_tables", pair).await;
        flow.at_both("CREATE TABLE old (id int PRIMARY KEY)").await;
        flow.start().await;
        let name = flow.name.clone();
        let add = |table: &str| format!("ALTER PUBLICATION {name} ADD TABLE {table}");
        // At the target first.
        flow.at_both("CREATE TABLE new (id int PRIMARY KEY, a text)").await;
        flow.each_at_source(&[&add("new"), "INSERT INTO new VALUES (1, 'a')", "UPDATE new SET a = 'b'"])
            .await;
        flow.assert_same().await;
        // In one transaction with its first rows.
        flow.at_target("CREATE TABLE at_once (id int PRIMARY KEY)").await;
        flow.at_source("INSERT INTO old VALUES (1)").await;
        flow.at_source(&format!("CREATE TABLE at_once (id int PRIMARY KEY); {}", add("at_once"))).await;
        flow.at_source("INSERT INTO at_once VALUES (1); INSERT INTO old VALUES (2)").await;
        flow.assert_same().await;
        // At the source only.
        flow.each_at_source(&[
            "CREATE TABLE unknown (id int PRIMARY KEY, a text)",
            &add("unknown"),
            "INSERT INTO old VALUES (3)",
            "INSERT INTO unknown VALUES (1, 'a'); INSERT INTO old VALUES (4)",
        ])
        .await;
        let error = flow.replicat_abends().await;
        assert!(error.to_string().contains("\"public.unknown\""), "{error}");
        assert_eq!(flow.target_says("SELECT count(*) FROM old").await, "3");
        flow.at_target(&remedy(&error)).await;
        flow.start_replicat().await;
        flow.assert_same().await;
        // A table that leaves, and comes again under its old name with other columns.
        flow.each_at_source(&[
            &format!("ALTER PUBLICATION {name} DROP TABLE new"),
            "INSERT INTO new VALUES (2, 'alone')",
        ])
        .await;
        flow.drain().await;
        assert_eq!(flow.target_says("SELECT count(*) FROM new").await, "1");
        flow.at_both("DROP TABLE new; CREATE TABLE new (b int PRIMARY KEY, a int)").await;
        flow.each_at_source(&[&add("new"), "INSERT INTO new VALUES (5, 6); DELETE FROM old WHERE id = 1"])
            .await;
        flow.at_both("DROP TABLE unknown").await;
        flow.end_same().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_at_the_target_alone_is_noticed() {
    for pair in pairs() {
        let mut flow = Flow::new("ddl_target", pair).await;
        flow.at_both(
            "CREATE TABLE t (id int PRIMARY KEY, a text, n int); CREATE TABLE moved (id int PRIMARY KEY, a text);
             CREATE TABLE watched (id int PRIMARY KEY)",
        )
        .await;
        flow.start().await;
        let rows = |from: u32| {
            format!(
                "INSERT INTO t SELECT i, 'a', i FROM generate_series({from}, {from} + 9) i; UPDATE t SET n = n + 1;
                 INSERT INTO moved SELECT i, 'a' FROM generate_series({from}, {from} + 9) i; DELETE FROM t WHERE id = {from}"
            )
        };
        for (n, change) in [
            "ALTER TABLE t ADD UNIQUE (a, id)",
            "ALTER TABLE t ALTER n TYPE numeric",
            "ALTER TABLE t ADD extra int GENERATED ALWAYS AS (id + 1) STORED",
            "ALTER TABLE t DROP COLUMN extra; VACUUM FULL t",
            "CREATE TABLE again (LIKE moved INCLUDING ALL); INSERT INTO again TABLE moved; DROP TABLE moved; ALTER TABLE again RENAME TO moved",
            "ALTER TABLE t ALTER n TYPE int; REINDEX TABLE t; ANALYZE t",
            "ALTER TABLE t ALTER id ADD GENERATED ALWAYS AS IDENTITY",
            "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (id, a)",
        ]
        .into_iter()
        .enumerate()
        {
            flow.at_source(&rows(n as u32 * 100 + 1)).await;
            flow.drain().await;
            // Each by itself: VACUUM takes no company.
            for statement in change.split("; ") {
                flow.at_target(statement).await;
            }
            flow.at_source(&rows(n as u32 * 100 + 51)).await;
            flow.drain().await;
        }
        flow.compare(&irongate_tests::Tables::All).await.assert_same();
        // A trigger that is switched on while Replicat runs sees the rows that come after it.
        flow.at_source("INSERT INTO watched VALUES (1)").await;
        flow.drain().await;
        flow.at_target(
            "CREATE TABLE seen (id int);
             CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN INSERT INTO public.seen VALUES (new.id); RETURN new; END $$;
             CREATE TRIGGER see BEFORE INSERT ON watched FOR EACH ROW EXECUTE FUNCTION see();
             ALTER TABLE watched ENABLE ALWAYS TRIGGER see",
        )
        .await;
        flow.at_source("INSERT INTO watched VALUES (2)").await;
        flow.drain().await;
        assert_eq!(flow.target_says("SELECT string_agg(id::text, ',') FROM seen").await, "2");
        flow.end().await;
    }
}
