//! Rows that look alike when their values are put in a line, and are not the same.

use std::io::Write;

use irongate_tests::Server;

use super::deployment::{Deployment, stop};

/// Rows of `(a, b, c, d, n, f, g, j)`: what the source has and what the target has.
const UNLIKE: [(&str, &str); 16] = [
    ("'x|y', 'z', 'v', 'p', 1, 1, NULL, '1'", "'x', 'y|z', 'v', 'p', 1, 1, NULL, '1'"),
    ("'1|x', 'z', 'v', 'p', 1, 1, NULL, '1'", "'1', 'x|z', 'v', 'p', 1, 1, NULL, '1'"),
    ("'', NULL, 'v', 'p', 1, 1, NULL, '1'", "NULL, '', 'v', 'p', 1, 1, NULL, '1'"),
    ("'x', NULL, 'v', 'p', 1, 1, NULL, '1'", "NULL, 'x', 'v', 'p', 1, 1, NULL, '1'"),
    ("NULL, NULL, NULL, NULL, 1, NULL, NULL, NULL", "NULL, NULL, NULL, NULL, NULL, 1, NULL, NULL"),
    ("'', 'x', 'v', 'p', 1, 1, NULL, '1'", "NULL, 'x', 'v', 'p', 1, 1, NULL, '1'"),
    ("'x', 'y', '3|z', 'p', 1, 1, NULL, '1'", "'x', 'y|3|z', '', 'p', 1, 1, NULL, '1'"),
    ("'x', 'y', 'v', 'p', 1.0, 1, NULL, '1'", "'x', 'y', 'v', 'p', 1.00, 1, NULL, '1'"),
    ("'x', 'y', 'v', 'p', 1, 1, '2026-01-01', '1'", "'x', 'y', 'v', 'p', 1, 1, NULL, '1'"),
    ("'x', 'y', 'v', 'p', 1, 1, NULL, 'null'", "'x', 'y', 'v', 'p', 1, 1, NULL, NULL"),
    ("'x', 'y', 'v', 'p', 1, 1, NULL, '\"1\"'", "'x', 'y', 'v', 'p', 1, 1, NULL, '1'"),
    ("'x', 'y', 'v', 'p', 1, NULL, NULL, '1'", "'x', 'y', 'v', 'p', NULL, 1, NULL, '1'"),
    ("'t', 'y', 'v', 'p', 1, 1, NULL, '1'", "'f', 'y', 'v', 'p', 1, 1, NULL, '1'"),
    ("'x ', 'y', 'v', 'p', 1, 1, NULL, '1'", "'x', ' y', 'v', 'p', 1, 1, NULL, '1'"),
    ("'é', 'y', 'v', 'p', 1, 1, NULL, '1'", "'e', 'y', 'v', 'p', 1, 1, NULL, '1'"),
    ("'x', 'y', 'v', 'p', 1, '-0', NULL, '1'", "'x', 'y', 'v', 'p', 1, '0', NULL, '1'"),
];

const TABLES: &str = r#"
CREATE TABLE odd (id int PRIMARY KEY, a text, b text, c varchar(20), d char(4), n numeric, f float8, g date, j jsonb);
CREATE TABLE loose (id int, a text, b text, c varchar(20), d char(4), n numeric, f float8, g date, j jsonb);
ALTER TABLE loose REPLICA IDENTITY FULL;
CREATE TYPE two AS (x text, y text);
CREATE TABLE held (id int PRIMARY KEY, v two);
CREATE TABLE more (id int PRIMARY KEY, v two, j json, l text[]);
"#;

/// A table of many columns: more than a function takes arguments.
fn wide() -> String {
    let columns: Vec<_> = (0..250).map(|n| format!("c{n} {}", ["text", "int"][n % 2])).collect();
    format!("CREATE TABLE wide (id bigint PRIMARY KEY, {})", columns.join(", "))
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_look_alike_in_a_line_are_told_apart() {
    for major in Server::majors_in_turn() {
        let deployment = Deployment::between((major, major), "").await;
        let tables = format!("{TABLES} {}", wide());
        let servers = [&deployment.source, &deployment.target];
        for server in servers {
            server.batch_in("app", &tables).await;
        }
        deployment.expect(0, &["setup"]).await;
        for (side, server) in servers.into_iter().enumerate() {
            for (n, pair) in UNLIKE.iter().enumerate() {
                let values = [pair.0, pair.1][side];
                for table in ["odd", "loose"] {
                    server.batch_in("app", &format!("INSERT INTO {table} VALUES ({n}, {values})")).await;
                    // The same at both sides, by a number far away.
                    let sql = format!("INSERT INTO {table} VALUES ({}, {})", n as i32 - (1 << 30), pair.0);
                    server.batch_in("app", &sql).await;
                }
            }
            let held = ["(NULL)::two", "ROW(NULL, NULL)::two"][side];
            let last = ["'x', 1, NULL", "'x', NULL, NULL"][side];
            let other = ["'x', 1, 'x'", "'x', 1, 'y'"][side];
            let wide = |id: i64, values: &str| {
                format!("INSERT INTO wide (id, c0, c1, c248) VALUES ({id}, {values});")
            };
            let values = [
                format!("INSERT INTO held VALUES (1, {held}), (2, ROW(NULL, 'x')), (3, NULL)"),
                format!(
                    "INSERT INTO more VALUES (1, {held}, '{{}}', '{{a}}'), (2, NULL, '{{\"a\": 1}}', NULL)"
                ),
                wide(1, last),
                wide(i64::MIN, other),
                wide(i64::MAX, "NULL, NULL, NULL"),
            ];
            server.batch_in("app", &values.join(";")).await;
        }
        let mut expected =
            vec![("odd", UNLIKE.len()), ("loose", 2 * UNLIKE.len()), ("held", 1), ("more", 1), ("wide", 2)];
        if major >= 18 {
            // A constraint that is not valid promises nothing.
            let table = "CREATE TABLE promised (id int PRIMARY KEY, p int, q int)";
            let constraint = "ALTER TABLE promised ADD NOT NULL p NOT VALID, ADD NOT NULL q NOT VALID";
            for (server, values) in servers.into_iter().zip(["(1, NULL, 5)", "(1, 5, NULL)"]) {
                let insert = format!("INSERT INTO promised VALUES {values}");
                server.batch_in("app", &[table, &insert, constraint].join(";")).await;
            }
            deployment.expect(0, &["setup"]).await;
            expected.push(("promised", 1));
        }
        for (table, differences) in expected {
            let table = format!("public.{table}");
            // No program runs, so what differs may be on its way: it is counted, and left open.
            let words = ["compare", "csp", "--json", "--settle", "1", "--table", &table];
            let found = deployment.expect(4, &words).await.json();
            assert_eq!(found["unsettled"], differences, "{major}, {table}: {found}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_characters_in_other_encodings_are_the_same() {
    for major in Server::majors_in_turn() {
        let deployment = Deployment::between((major, major), "").await;
        let (source, target) = (&deployment.source, &deployment.target);
        let latin = "CREATE DATABASE app ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0";
        target.batch_in("postgres", "DROP DATABASE app").await;
        target.batch_in("postgres", latin).await;
        let tables = "CREATE TABLE word (word text PRIMARY KEY, c char(9), v varchar(9), many text[], n int);
                      CREATE TABLE loose (word text, n int); ALTER TABLE loose REPLICA IDENTITY FULL";
        for server in [source, target] {
            server.batch_in("app", tables).await;
            let rows = "INSERT INTO word SELECT 'Ünïçødé ' || i, 'é' || i, 'ß|' || i, ARRAY['Ä', NULL], i FROM generate_series(1, 900) i;
                        INSERT INTO loose SELECT 'Ünïçødé', i / 2 FROM generate_series(1, 900) i";
            server.batch_in("app", rows).await;
        }
        deployment.expect(0, &["setup"]).await;
        let change = "UPDATE word SET c = 'è7' WHERE n = 7; UPDATE loose SET word = 'Ünïçødè' WHERE n = 450";
        target.batch_in("app", change).await;
        for (table, differences) in [("public.word", 1), ("public.loose", 2)] {
            let words = ["compare", "csp", "--json", "--settle", "1", "--table", table];
            let found = deployment.expect(4, &words).await.json();
            assert_eq!(found["unsettled"], differences, "{major}, {table}: {found}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_an_extension_s_type_are_found_and_repaired() {
    for major in Server::majors_in_turn() {
        let deployment = Deployment::between((major, major), "").await;
        let (source, target) = (&deployment.source, &deployment.target);
        let (citext, ltree) =
            ("pg_available_extensions WHERE name = 'citext'", "pg_available_extensions WHERE name = 'ltree'");
        let mut tables = Vec::new();
        for (extension, name) in [(citext, "citext"), (ltree, "ltree")] {
            if source.scalar("app", &format!("SELECT count(*) FROM {extension}")).await == "1" {
                tables.push(name);
            }
        }
        if tables.is_empty() {
            let _ = writeln!(
                std::io::stderr(),
                "\nskipped: keys of an extension's type: PostgreSQL {major} here has none"
            );
            continue;
        }
        for server in [source, target] {
            for name in &tables {
                let sql = format!(
                    "CREATE SCHEMA of_{name}; CREATE EXTENSION {name} SCHEMA of_{name};
                     CREATE TABLE a_{name} (k of_{name}.{name} PRIMARY KEY, n int);
                     INSERT INTO a_{name} SELECT ('K' || i)::of_{name}.{name}, i FROM generate_series(1, 2000) i"
                );
                server.batch_in("app", &sql).await;
            }
        }
        deployment.expect(0, &["setup"]).await;
        deployment.expect(0, &["instantiate", "csp", "--truncate"]).await;
        let extract = deployment.start("csp-extract").await;
        let replicat = deployment.start("csp-replicat").await;
        for name in &tables {
            let k = |text: &str| format!("'{text}'::of_{name}.{name}");
            let sql = format!(
                "UPDATE a_{name} SET n = 0 WHERE n = 7; DELETE FROM a_{name} WHERE n = 8; INSERT INTO a_{name} VALUES ({}, 1);
                 UPDATE a_{name} SET k = {} WHERE n = 9",
                k("new"),
                k("k9")
            );
            target.batch_in("app", &sql).await;
            let table = format!("public.a_{name}");
            let found = deployment.expect(3, &["compare", "csp", "--json", "--table", &table]).await.json();
            // A key in another case is another key: one that is lacking, and one too many.
            assert_eq!(found["differences"], 5, "{major}, {table}: {found}");
            deployment.expect(0, &["repair", "csp", "--apply", "--table", &table]).await;
            deployment.expect(0, &["compare", "csp", "--table", &table]).await;
        }
        for group in [replicat, extract] {
            stop(group).await;
        }
    }
}
