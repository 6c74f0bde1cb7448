//! Rows: large values that were not sent, keys that change, every replica identity, tables without a key or a column.

use irongate_tests::Tables;

use super::support::{Flow, pairs};

/// A value that lies outside of its row, and another.
const LARGE: &str = "repeat(md5('large'), 200)";
const OTHER: &str = "repeat(md5('other'), 300)";

#[tokio::test(flavor = "multi_thread")]
async fn large_values_that_an_update_leaves_alone_stay() {
    const COLUMNS: &str = "n int, a text, b text, c bytea, d text[]";
    for pair in pairs() {
        let mut flow = Flow::new("toast", pair).await;
        let mut tables = vec![
            ("by_key", format!("id int PRIMARY KEY, {COLUMNS}"), ""),
            (
                "by_index",
                format!("{COLUMNS}, code text NOT NULL, id int NOT NULL UNIQUE"),
                "USING INDEX by_index_id_key",
            ),
            ("full_key", format!("{COLUMNS}, id int PRIMARY KEY"), "FULL"),
            ("full_keyless", format!("{COLUMNS}, id int"), "FULL"),
            ("full_unique", format!("{COLUMNS}, id int, UNIQUE (id)"), "FULL"),
            ("always", format!("id int PRIMARY KEY, i int GENERATED ALWAYS AS IDENTITY, {COLUMNS}"), ""),
        ];
        tables.push(("parted", format!("id int PRIMARY KEY, {COLUMNS}"), ""));
        for (name, columns, identity) in &tables {
            let partition = if *name == "parted" { "PARTITION BY RANGE (id)" } else { "" };
            flow.at_both(&format!("CREATE TABLE {name} ({columns}) {partition}")).await;
            if *name == "parted" {
                flow.at_both(
                    "CREATE TABLE parted1 PARTITION OF parted FOR VALUES FROM (0) TO (5);
                     CREATE TABLE parted2 PARTITION OF parted DEFAULT",
                )
                .await;
            }
            for relation in if *name == "parted" { vec!["parted1", "parted2"] } else { vec![*name] } {
                let external =
                    |column| format!("ALTER TABLE {relation} ALTER {column} SET STORAGE EXTERNAL;");
                flow.at_both(&["a", "b", "c", "d"].map(external).join(" ")).await;
            }
            if !identity.is_empty() {
                flow.at_both(&format!("ALTER TABLE {name} REPLICA IDENTITY {identity}")).await;
            }
        }
        flow.start().await;
        for (name, ..) in &tables {
            let code = if *name == "by_index" { "code, " } else { "" };
            let value = if *name == "by_index" { "'x', " } else { "" };
            let insert = |from: u32, to: u32| {
                format!(
                    "INSERT INTO {name} ({code}id, n, a, b, c, d) SELECT {value} i, i, {LARGE} || i, {LARGE} || -i,
                            convert_to({LARGE}, 'UTF8'), ARRAY[{LARGE}, NULL, {OTHER}]
                       FROM generate_series({from}, {to}) i"
                )
            };
            let update = |what: &str, id: u32| format!("UPDATE {name} SET {what} WHERE id = {id};");
            let one_transaction = [
                insert(11, 14),
                ";".to_owned(),
                update("n = -1", 11),
                update("n = -2", 12),
                update(&format!("a = {OTHER}"), 12),
                update("n = -3", 12),
                update("id = 22, n = -4", 12),
                update("b = NULL", 22),
                update("n = n", 13),
                update("id = 2", 14),
            ]
            .concat();
            let statements = [
                insert(0, 9),
                update("n = 100", 1),
                // The key moves, to another partition as well; large values come along.
                update("id = 102", 2),
                update(&format!("n = 100, a = {OTHER}"), 3),
                update(&format!("b = NULL, c = NULL, a = a || {OTHER}"), 4),
                update("d = NULL", 5),
                update("id = 106, n = NULL", 6),
                format!("UPDATE {name} SET n = n + 1"),
                one_transaction,
                format!("DELETE FROM {name} WHERE id IN (7, 8)"),
                format!("UPDATE {name} SET n = n + 1, b = {LARGE} WHERE id > 8"),
            ];
            let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
            flow.each_at_source(&statements).await;
        }
        flow.drain().await;
        for (name, ..) in &tables {
            let lengths =
                format!("SELECT length(a) || ' ' || length(b) || ' ' || length(c) || ' ' || n FROM {name}");
            assert_eq!(
                flow.target_says(&format!("{lengths} WHERE id = 1")).await,
                "6401 6402 6400 101",
                "{name}"
            );
            assert_eq!(
                flow.target_says(&format!("{lengths} WHERE id = 102")).await,
                "6401 6400 6400 4",
                "{name}"
            );
            assert_eq!(
                flow.target_says(&format!("{lengths} WHERE id = 22")).await,
                "9600 6400 6400 -3",
                "{name}"
            );
        }
        flow.end_same().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_keys_are_found_although_an_update_leaves_them_alone() {
    for pair in pairs() {
        let mut flow = Flow::new("toast_key", pair).await;
        // 2,500 bytes fit into an index, but in a row a value of that length lies outside, whatever else is there.
        for (name, identity) in [("by_key", "DEFAULT"), ("by_row", "FULL")] {
            flow.at_both(&format!(
                "CREATE TABLE {name} (id text, k int, n int, a text, PRIMARY KEY (id, k));
                 ALTER TABLE {name} ALTER id SET STORAGE EXTERNAL, ALTER a SET STORAGE EXTERNAL;
                 ALTER TABLE {name} REPLICA IDENTITY {identity}"
            ))
            .await;
        }
        flow.start().await;
        for name in ["by_key", "by_row"] {
            let key = |i: u32| format!("rpad('{i}', 2500, 'k')");
            let insert = format!(
                "INSERT INTO {name} SELECT rpad(i::text, 2500, 'k'), i, i, {LARGE} FROM generate_series(1, 8) i"
            );
            let statements = [
                insert,
                format!("UPDATE {name} SET n = -n"),
                format!("UPDATE {name} SET a = {OTHER} WHERE id = {}", key(1)),
                format!("UPDATE {name} SET k = 100 WHERE id = {}", key(2)),
                format!("UPDATE {name} SET id = id || 'x', n = 0 WHERE id = {}", key(3)),
                format!("UPDATE {name} SET n = 7 WHERE id = {} || 'x'", key(3)),
                format!("DELETE FROM {name} WHERE id = {}", key(4)),
                format!(
                    "UPDATE {name} SET n = 1 WHERE k = 5; UPDATE {name} SET k = 55 WHERE k = 5;
                     UPDATE {name} SET n = 2 WHERE k = 55; DELETE FROM {name} WHERE k = 6"
                ),
            ];
            let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
            flow.each_at_source(&statements).await;
        }
        flow.end_same().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_move_and_change_places() {
    for pair in pairs() {
        let mut flow = Flow::new("keys", pair).await;
        flow.at_both(
            "CREATE TABLE one (id int PRIMARY KEY, a text);
             CREATE TABLE two (a text, b numeric, c text, PRIMARY KEY (a, b));
             CREATE TABLE parent (id int PRIMARY KEY, up int REFERENCES parent ON UPDATE CASCADE ON DELETE SET NULL);
             CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON UPDATE CASCADE ON DELETE CASCADE)",
        )
        .await;
        flow.start().await;
        flow.each_at_source(&[
            "INSERT INTO one SELECT i, 'r' || i FROM generate_series(1, 40) i",
            // Two rows change places.
            "UPDATE one SET id = -1 WHERE id = 1; UPDATE one SET id = 1 WHERE id = 2; UPDATE one SET id = 2 WHERE id = -1",
            "UPDATE one SET id = id + 1000 WHERE id > 20",
            "UPDATE one SET id = 3000 WHERE id = 3; UPDATE one SET id = 3 WHERE id = 3000",
            "DELETE FROM one WHERE id = 4; UPDATE one SET id = 4 WHERE id = 5; INSERT INTO one VALUES (5, 'new')",
            "UPDATE one SET id = 6000, a = 'x' WHERE id = 6; UPDATE one SET a = 'y' WHERE id = 6000; DELETE FROM one WHERE id = 6000",
            "INSERT INTO one VALUES (7000, 'a'); UPDATE one SET id = 7001 WHERE id = 7000; INSERT INTO one VALUES (7000, 'b')",
            // A whole ring.
            "UPDATE one SET id = -id WHERE id BETWEEN 8 AND 18; UPDATE one SET id = CASE id WHEN -18 THEN 8 ELSE 1 - id END WHERE id < 0",
            "INSERT INTO two SELECT 'a' || i, i / 10.0, 'c' FROM generate_series(1, 20) i",
            // The same number, written otherwise, is another key only to the eye.
            "UPDATE two SET b = b * 1.00",
            "UPDATE two SET a = upper(a) WHERE b > 1; UPDATE two SET c = 'd' WHERE a LIKE 'A%'",
            "UPDATE two SET a = 'a2', c = 'swapped' WHERE a = 'a1'; UPDATE two SET a = 'a1' WHERE a = 'a2' AND c = 'c'",
            "INSERT INTO parent SELECT i, CASE WHEN i > 1 THEN i - 1 END FROM generate_series(1, 10) i",
            "INSERT INTO child SELECT i, i FROM generate_series(1, 10) i",
            "UPDATE parent SET id = id + 100 WHERE id % 2 = 0",
            "DELETE FROM parent WHERE id IN (1, 104)",
            "UPDATE parent SET up = id WHERE id = 3; DELETE FROM parent WHERE id = 3",
        ])
        .await;
        flow.drain().await;
        assert_eq!(flow.target_says("SELECT a FROM one WHERE id = 1").await, "r2");
        assert_eq!(flow.target_says("SELECT a FROM one WHERE id = 2").await, "r1");
        assert_eq!(flow.target_says("SELECT count(*) FROM child WHERE parent > 100").await, "4");
        flow.end_same().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_replica_identity_finds_its_row_and_no_other() {
    for pair in pairs() {
        let mut flow = Flow::new("identities", pair).await;
        let columns = "id int NOT NULL, code text NOT NULL, n int, j json, p point, x xml, f float8";
        flow.at_both(&format!(
            "CREATE TABLE by_key ({columns}, PRIMARY KEY (id));
             CREATE TABLE by_index ({columns}, PRIMARY KEY (id), UNIQUE (code));
             ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_code_key;
             CREATE TABLE full_with_key ({columns}, PRIMARY KEY (id));
             ALTER TABLE full_with_key REPLICA IDENTITY FULL;
             CREATE TABLE full_without_key ({columns});
             ALTER TABLE full_without_key REPLICA IDENTITY FULL;
             CREATE TABLE nothing ({columns}, PRIMARY KEY (id));
             ALTER TABLE nothing REPLICA IDENTITY NOTHING;
             CREATE TABLE keyless ({columns})"
        ))
        .await;
        // A key that only the source has, and one that only the target has.
        flow.at_source(
            "CREATE TABLE key_here (id int PRIMARY KEY, n int); ALTER TABLE key_here REPLICA IDENTITY FULL;
                        CREATE TABLE key_there (id int, n int); ALTER TABLE key_there REPLICA IDENTITY FULL;
                        CREATE TABLE no_index_there (id int PRIMARY KEY, n int)",
        )
        .await;
        flow.at_target(
            "CREATE TABLE key_here (id int, n int);
                        CREATE TABLE key_there (id int PRIMARY KEY, n int);
                        CREATE TABLE no_index_there (id int, n int)",
        )
        .await;
        flow.start().await;
        let insert = |table: &str| {
            format!(
                "INSERT INTO {table} SELECT i, 'c' || i, nullif(i % 3, 0), '{{\"a\": 1,  \"a\": 2}}', point(i, 0.1), '<x/>',
                        CASE i % 4 WHEN 0 THEN 'NaN' WHEN 1 THEN '-0' WHEN 2 THEN NULL ELSE 1e-300 END
                   FROM generate_series(1, 20) i"
            )
        };
        for table in ["by_key", "by_index", "full_with_key", "full_without_key", "nothing", "keyless"] {
            flow.at_source(&insert(table)).await;
        }
        for table in ["by_key", "by_index", "full_with_key", "full_without_key"] {
            flow.each_at_source(&[
                &format!("UPDATE {table} SET n = 5 WHERE id = 1"),
                &format!("UPDATE {table} SET n = NULL, f = 'NaN' WHERE id IN (2, 3)"),
                &format!("UPDATE {table} SET id = id + 100 WHERE id = 4"),
                &format!("UPDATE {table} SET code = 'd' || id WHERE id IN (5, 6)"),
                &format!("DELETE FROM {table} WHERE id IN (7, 8, 9)"),
                &format!("UPDATE {table} SET j = '[1]', x = '<y>1</y>', p = '(1,2)' WHERE id = 10"),
                &format!("UPDATE {table} SET n = 1 WHERE id = 10; UPDATE {table} SET n = 2 WHERE id = 10; DELETE FROM {table} WHERE id = 11"),
            ])
            .await;
        }
        // Rows that are alike: as many go or change as went or changed.
        flow.each_at_source(&[
            "INSERT INTO full_without_key SELECT 1, 'twin', NULL FROM generate_series(1, 7)",
            "DELETE FROM full_without_key WHERE ctid = (SELECT min(ctid) FROM full_without_key WHERE code = 'twin')",
            "UPDATE full_without_key SET n = 2 WHERE ctid IN (SELECT ctid FROM full_without_key WHERE code = 'twin' LIMIT 3)",
            "DELETE FROM full_without_key WHERE ctid IN (SELECT ctid FROM full_without_key WHERE code = 'twin' AND n = 2 LIMIT 2)",
        ])
        .await;
        for table in ["key_here", "key_there", "no_index_there"] {
            flow.each_at_source(&[
                &format!("INSERT INTO {table} SELECT i, i FROM generate_series(1, 10) i"),
                &format!("UPDATE {table} SET n = n * 2; UPDATE {table} SET id = 20 WHERE id = 10"),
                &format!("DELETE FROM {table} WHERE id IN (1, 2)"),
            ])
            .await;
        }
        flow.drain().await;
        let twins = "SELECT count(*) || ' ' || count(n) FROM full_without_key WHERE code = 'twin'";
        assert_eq!(flow.target_says(twins).await, "4 1");
        flow.end_same().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_may_leave_out_columns_and_rows() {
    for pair in pairs() {
        let mut flow = Flow::new("filtered", pair).await;
        flow.at_both(
            "CREATE TABLE columns (id int PRIMARY KEY, a text, hidden text DEFAULT 'own', g int GENERATED ALWAYS AS (id * 2) STORED);
             CREATE TABLE filtered (id int PRIMARY KEY, n int, a text);
             ALTER TABLE filtered ALTER a SET STORAGE EXTERNAL; ALTER TABLE filtered REPLICA IDENTITY FULL",
        )
        .await;
        flow.publication = "columns (id, a), filtered WHERE (n > 0)".to_owned();
        flow.start().await;
        flow.each_at_source(&[
            "INSERT INTO columns SELECT i, 'a', 'secret' FROM generate_series(1, 10) i",
            "UPDATE columns SET hidden = 'changed'; UPDATE columns SET a = 'b', hidden = 'x' WHERE id = 3",
            "UPDATE columns SET id = -id WHERE id = 4; DELETE FROM columns WHERE id = 5",
            &format!("INSERT INTO filtered SELECT i, i - 5, {LARGE} FROM generate_series(1, 10) i"),
            // Rows come in, go out and stay, by what the filter makes of them.
            "UPDATE filtered SET n = 1 WHERE id = 1; UPDATE filtered SET n = -1 WHERE id = 7",
            "UPDATE filtered SET n = n + 10 WHERE id > 8; UPDATE filtered SET a = 'out' WHERE n < 0",
            "DELETE FROM filtered WHERE id IN (2, 10)",
        ])
        .await;
        flow.drain().await;
        assert_eq!(flow.target_says("SELECT string_agg(DISTINCT hidden, ',') FROM columns").await, "own");
        let columns = "SELECT string_agg(id || a || g, ',' ORDER BY id) FROM columns";
        assert_eq!(flow.source_says(columns).await, flow.target_says(columns).await);
        let rows = "SELECT string_agg(id || ' ' || n || md5(a), ',' ORDER BY id) FROM filtered";
        assert_eq!(flow.source_says(&format!("{rows} WHERE n > 0")).await, flow.target_says(rows).await);
        flow.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_with_no_column_or_only_generated_ones_count_their_rows() {
    for pair in pairs() {
        let mut flow = Flow::new("no_columns", pair).await;
        flow.at_both(
            "CREATE TABLE nothing ();
             CREATE TABLE nothing_full (); ALTER TABLE nothing_full REPLICA IDENTITY FULL;
             CREATE TABLE generated (g int GENERATED ALWAYS AS (41 + 1) STORED);
             CREATE TABLE all_dropped (a int, b text)",
        )
        .await;
        flow.at_both("ALTER TABLE all_dropped DROP a, DROP b").await;
        flow.start().await;
        for table in ["nothing", "nothing_full", "generated", "all_dropped"] {
            let insert = format!("INSERT INTO {table} DEFAULT VALUES");
            flow.each_at_source(&[insert.as_str(); 3]).await;
        }
        flow.at_source("INSERT INTO nothing SELECT FROM generate_series(1, 1000)").await;
        flow.at_source("DELETE FROM nothing_full WHERE ctid = (SELECT min(ctid) FROM nothing_full)").await;
        flow.drain().await;
        assert_eq!(flow.target_says("SELECT count(*) FROM nothing").await, "1003");
        assert_eq!(flow.target_says("SELECT count(*) FROM nothing_full").await, "2");
        assert_eq!(flow.target_says("SELECT count(*) FROM generated WHERE g = 42").await, "3");
        flow.end_same().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_target_counts_or_computes_itself_is_as_at_the_source() {
    for pair in pairs() {
        let mut flow = Flow::new("generated", pair).await;
        flow.at_both(
            "CREATE TABLE stored (id int PRIMARY KEY, a int, double int GENERATED ALWAYS AS (a * 2) STORED, b text);
             CREATE TABLE always_key (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text, b text);
             CREATE TABLE default_key (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, a text);
             CREATE TABLE always_beside (id int PRIMARY KEY, i int GENERATED ALWAYS AS IDENTITY, a text);
             CREATE TABLE always_full (i int GENERATED ALWAYS AS IDENTITY, a text);
             ALTER TABLE always_full REPLICA IDENTITY FULL;
             CREATE TABLE always_two (id int GENERATED ALWAYS AS IDENTITY, k text, a text, PRIMARY KEY (id, k))",
        )
        .await;
        if pair.0 >= 18 && pair.1 >= 18 {
            flow.at_both(
                "CREATE TABLE virtual (id int PRIMARY KEY, a int, double int GENERATED ALWAYS AS (a * 2))",
            )
            .await;
            flow.at_source("INSERT INTO virtual VALUES (1, 1)").await;
            flow.at_target("INSERT INTO virtual VALUES (1, 1)").await;
        }
        // From 18 on such a table must publish the column (the next test).
        let full = pair.0 < 18;
        if full {
            flow.at_both(
                "CREATE TABLE stored_full (a int, double int GENERATED ALWAYS AS (a * 2) STORED, b text);
                 ALTER TABLE stored_full REPLICA IDENTITY FULL",
            )
            .await;
        }
        flow.start().await;
        if full {
            flow.each_at_source(&[
                "INSERT INTO stored_full (a, b) VALUES (1, 'x'), (1, 'x'), (2, NULL)",
                "UPDATE stored_full SET a = 3 WHERE b IS NULL",
                "DELETE FROM stored_full WHERE ctid = (SELECT min(ctid) FROM stored_full)",
            ])
            .await;
        }
        if pair.0 >= 18 && pair.1 >= 18 {
            flow.each_at_source(&[
                "INSERT INTO virtual VALUES (2, 2), (3, 3)",
                "UPDATE virtual SET a = 10 WHERE id < 3",
                "DELETE FROM virtual WHERE id = 3",
            ])
            .await;
        }
        flow.each_at_source(&[
            "INSERT INTO stored (id, a, b) SELECT i, i, 'b' FROM generate_series(1, 700) i",
            "UPDATE stored SET a = -a WHERE id < 10",
            "UPDATE stored SET id = -id WHERE id < 4; DELETE FROM stored WHERE id = 5",
        ])
        .await;
        for table in ["always_key", "default_key", "always_beside", "always_full", "always_two"] {
            let columns = match table {
                "always_beside" => "id, a",
                "always_two" => "k, a",
                _ => "a",
            };
            let values = match table {
                "always_beside" | "always_two" => "i, 'a' || i",
                _ => "'a' || i",
            };
            flow.each_at_source(&[
                &format!("INSERT INTO {table} ({columns}) SELECT {values} FROM generate_series(1, 600) i"),
                &format!("INSERT INTO {table} ({columns}) SELECT {values} FROM generate_series(601, 610) i"),
                &format!("UPDATE {table} SET a = 'changed' WHERE a < 'a2'"),
                &format!("UPDATE {table} SET a = NULL WHERE a IN ('a20', 'a21'); UPDATE {table} SET a = 'again' WHERE a = 'a22'"),
                &format!("DELETE FROM {table} WHERE a = 'a30'"),
            ])
            .await;
        }
        flow.each_at_source(&[
            // The source gives the rows new numbers: an identity column is changed only so.
            "UPDATE always_key SET id = DEFAULT WHERE id IN (33, 34)",
            "UPDATE always_key SET id = DEFAULT, a = 'moved' WHERE id = 35; UPDATE always_key SET b = 'then' WHERE a = 'moved'",
            "UPDATE default_key SET id = -id WHERE id IN (33, 34)",
            "UPDATE always_beside SET i = DEFAULT WHERE id = 40",
            "UPDATE always_beside SET id = -40 WHERE id = 40; UPDATE always_beside SET a = 'twice' WHERE id = -40",
            "UPDATE always_full SET i = DEFAULT WHERE a = 'a50'",
            "UPDATE always_two SET k = 'other' WHERE id = 60",
            "UPDATE always_two SET id = DEFAULT WHERE id = 61",
            "INSERT INTO always_key OVERRIDING SYSTEM VALUE VALUES (-5, 'chosen')",
        ])
        .await;
        flow.drain().await;
        assert_eq!(flow.target_says("SELECT double FROM stored WHERE id = -3").await, "-6");
        assert_eq!(
            flow.target_says("SELECT count(*) FROM always_key WHERE id > 610 AND a = 'moved'").await,
            "1"
        );
        flow.end_same().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_columns_that_the_source_publishes_go_where_they_can() {
    // Only PostgreSQL 18 sends them.
    for pair in pairs().into_iter().filter(|(source, _)| *source >= 18) {
        let mut flow = Flow::new("published", pair).await;
        let columns = "id int PRIMARY KEY, a int, double int GENERATED ALWAYS AS (a * 2) STORED";
        flow.at_both(&format!(
            "CREATE TABLE computed ({columns});
             CREATE TABLE computed_full (id int, a int, double int GENERATED ALWAYS AS (a * 2) STORED);
             ALTER TABLE computed_full REPLICA IDENTITY FULL"
        ))
        .await;
        flow.at_source(&format!("CREATE TABLE received ({columns})")).await;
        flow.at_target("CREATE TABLE received (id int PRIMARY KEY, a int, double int)").await;
        flow.set_up().await;
        flow.at_source(&format!("ALTER PUBLICATION {} SET (publish_generated_columns = stored)", flow.name))
            .await;
        flow.start_extract().await;
        flow.start_replicat().await;
        for table in ["computed", "computed_full", "received"] {
            flow.each_at_source(&[
                &format!("INSERT INTO {table} SELECT i, i FROM generate_series(1, 10) i"),
                &format!("UPDATE {table} SET a = -a WHERE id < 5"),
                &format!("UPDATE {table} SET id = -id WHERE id = 5; DELETE FROM {table} WHERE id = 6"),
            ])
            .await;
        }
        flow.end_same().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_found_by_name_wherever_they_stand() {
    for (pair, binary) in pairs().into_iter().flat_map(|pair| [(pair, false), (pair, true)]) {
        let mut flow = Flow::new(if binary { "columns_binary" } else { "columns" }, pair).await;
        // In binary a value says something only as the source's type.
        flow.extract.source.binary = binary;
        flow.at_source(
            "CREATE TABLE other_order (id int PRIMARY KEY, a text, b int, c date);
             CREATE TABLE more_there (id int PRIMARY KEY, a text);
             CREATE TABLE dropped (x int, id int PRIMARY KEY, y text, a text);
             ALTER TABLE dropped DROP x, DROP y;
             CREATE TABLE wider_there (id int PRIMARY KEY, n smallint, t varchar(10), d date)",
        )
        .await;
        flow.at_target(
            "CREATE TABLE other_order (c date, b int, a text, id int PRIMARY KEY);
             CREATE TABLE more_there (arrived bigserial, id int PRIMARY KEY, site text NOT NULL DEFAULT 'here', a text,
                                      length int GENERATED ALWAYS AS (length(a)) STORED);
             CREATE TABLE dropped (a text, gone int, id int PRIMARY KEY);
             ALTER TABLE dropped DROP gone;
             CREATE TABLE wider_there (id bigint PRIMARY KEY, n numeric, t text, d timestamp)",
        )
        .await;
        flow.start().await;
        for (table, values) in [
            ("other_order (id, a, b, c)", "i, 'a' || i, i, date '2000-01-01' + i"),
            ("more_there (id, a)", "i, 'a' || i"),
            ("dropped (id, a)", "i, 'a' || i"),
            ("wider_there (id, n, t, d)", "i, i, 'a' || i, date '2000-01-01' + i"),
        ] {
            let name = table.split(' ').next().unwrap();
            let column = if name == "wider_there" { "t" } else { "a" };
            flow.each_at_source(&[
                &format!("INSERT INTO {table} SELECT {values} FROM generate_series(1, 600) i"),
                &format!("INSERT INTO {table} SELECT {values} FROM generate_series(601, 610) i"),
                &format!("UPDATE {name} SET {column} = 'u' WHERE id < 10"),
                &format!("UPDATE {name} SET id = -id WHERE id < 3; DELETE FROM {name} WHERE id > 600"),
            ])
            .await;
        }
        flow.drain().await;
        assert_eq!(
            flow.target_says("SELECT count(*) FROM more_there WHERE site = 'here' AND arrived > 0").await,
            "600"
        );
        assert_eq!(flow.target_says("SELECT max(arrived) FROM more_there").await, "600");
        let wider =
            "SELECT count(*) FROM wider_there WHERE d = '2000-01-01'::timestamp + abs(id) * interval '1 day'";
        assert_eq!(flow.target_says(wider).await, "600");
        flow.compare(&Tables::named(&["public.other_order", "public.dropped"])).await.assert_same();
        let common = "SELECT md5(string_agg(id || a, ',' ORDER BY id)) FROM more_there";
        assert_eq!(flow.source_says(common).await, flow.target_says(common).await);
        flow.end().await;
    }
}
