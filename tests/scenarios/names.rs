//! Names: odd ones as they are, and others at the target.

use irongate_tests::Tables;

use super::support::{Flow, pairs};

#[tokio::test(flavor = "multi_thread")]
async fn odd_names_arrive_as_they_are() {
    let longest = "Ω".repeat(31) + "x";
    let names = [
        r#"a"b"#,
        "Ünï çödé",
        "with.dot",
        "with space ",
        "select",
        "UPPER",
        "it's",
        r"back\slash",
        "$1",
        "t",
        "s",
        "c0",
        "-- comment",
        "😀",
        longest.as_str(),
    ];
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    for pair in pairs() {
        let mut flow = Flow::new("names", pair).await;
        for (place, name) in names.iter().enumerate() {
            let (schema, table) = (quoted(names[(place + 1) % names.len()]), quoted(name));
            let other = quoted(names[(place + 2) % names.len()]);
            flow.at_both(&format!(
                "CREATE SCHEMA {schema};
                 CREATE TYPE {schema}.{table} AS ENUM ('a', {label});
                 CREATE DOMAIN {schema}.{other} AS text",
                label = irongate_tests::literal(name)
            ))
            .await;
            let columns = format!("{table} {schema}.{table}[], {other} {schema}.{other}");
            // A table is a type too, so it needs a name of its own.
            let table = quoted(&shortened(&format!("{name}!")));
            flow.at_both(&format!(
                "CREATE TABLE {schema}.{table} (\"key \"\" of\" int PRIMARY KEY, {columns})"
            ))
            .await;
            let full = quoted(&shortened(&format!("{name}?")));
            flow.at_both(&format!(
                "CREATE TABLE {schema}.{full} ({columns}); ALTER TABLE {schema}.{full} REPLICA IDENTITY FULL"
            ))
            .await;
        }
        flow.start().await;
        for (place, name) in names.iter().enumerate() {
            let (schema, column) = (quoted(names[(place + 1) % names.len()]), quoted(name));
            let other = quoted(names[(place + 2) % names.len()]);
            let label = irongate_tests::literal(name);
            for (mark, key) in [("!", "i, "), ("?", "")] {
                let table = quoted(&shortened(&format!("{name}{mark}")));
                flow.each_at_source(&[
                    &format!("INSERT INTO {schema}.{table} SELECT {key} ARRAY['a', {label}, NULL]::{schema}.{column}[], i || {label} FROM generate_series(1, 10) i"),
                    &format!("UPDATE {schema}.{table} SET {column}[1] = {label}, {other} = NULL WHERE {other} < '3'"),
                    &format!("UPDATE {schema}.{table} SET {other} = {other} || 'x'; DELETE FROM {schema}.{table} WHERE {other} < '5'"),
                ])
                .await;
            }
        }
        flow.end_same().await;
    }
}

/// The name with its last character as given, in 63 bytes.
fn shortened(name: &str) -> String {
    let mut characters: Vec<char> = name.chars().collect();
    while characters.iter().map(|c| c.len_utf8()).sum::<usize>() > 63 {
        characters.remove(0);
    }
    characters.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_schemas_have_other_names_at_the_target() {
    for pair in pairs() {
        let mut flow = Flow::new("renames", pair).await;
        flow.at_source(
            "CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, a text);
             CREATE TABLE app.special (id int PRIMARY KEY, a text);
             CREATE TABLE swap_a (id int PRIMARY KEY, a text); CREATE TABLE swap_b (id int PRIMARY KEY, a text);
             CREATE TABLE shard1 (id int PRIMARY KEY, a text); CREATE TABLE shard2 (id int PRIMARY KEY, a text)",
        )
        .await;
        flow.at_target(
            "CREATE SCHEMA \"Copy\"; CREATE TABLE \"Copy\".t (id int PRIMARY KEY, a text);
             CREATE SCHEMA app; CREATE TABLE app.elsewhere (id int PRIMARY KEY, a text);
             CREATE TABLE swap_a (id int PRIMARY KEY, a text); CREATE TABLE swap_b (id int PRIMARY KEY, a text);
             CREATE TABLE whole (id int PRIMARY KEY, a text)",
        )
        .await;
        let pair_of = |schema: &str, name: &str| (schema.to_owned(), name.to_owned());
        flow.replicat.names.schemas.insert("app".to_owned(), "Copy".to_owned());
        for (from, to) in [
            (("app", "special"), ("app", "elsewhere")),
            (("public", "swap_a"), ("public", "swap_b")),
            (("public", "swap_b"), ("public", "swap_a")),
            (("public", "shard1"), ("public", "whole")),
            (("public", "shard2"), ("public", "whole")),
        ] {
            flow.replicat.names.tables.insert(pair_of(from.0, from.1), pair_of(to.0, to.1));
        }
        flow.start().await;
        for (table, from) in
            [("app.t", 1), ("app.special", 1), ("swap_a", 1), ("swap_b", 50), ("shard1", 1), ("shard2", 100)]
        {
            flow.each_at_source(&[
                &format!("INSERT INTO {table} SELECT i, '{table}' || i FROM generate_series({from}, {from} + 20) i"),
                &format!("UPDATE {table} SET a = 'u' WHERE id % 3 = 0; DELETE FROM {table} WHERE id % 5 = 0; UPDATE {table} SET id = -id WHERE id % 7 = 0"),
            ])
            .await;
        }
        // A row goes from one table to the other, which are one at the target.
        flow.at_source("DELETE FROM shard1 WHERE id = 1; INSERT INTO shard2 VALUES (1, 'moved'); UPDATE shard2 SET a = a || '!' WHERE id = 1")
            .await;
        flow.drain().await;
        let tables = [
            ("app.t", "Copy.t"),
            ("app.special", "app.elsewhere"),
            ("public.swap_a", "public.swap_b"),
            ("public.swap_b", "public.swap_a"),
        ];
        let tables = tables.map(|(source, target)| (source.to_owned(), target.to_owned())).to_vec();
        flow.compare(&Tables::Pairs(tables)).await.assert_same();
        let rows = "SELECT md5(string_agg(id || a, ',' ORDER BY id)) FROM";
        assert_eq!(
            flow.source_says(&format!("{rows} (TABLE shard1 UNION ALL TABLE shard2) u")).await,
            flow.target_says(&format!("{rows} whole")).await
        );
        assert_eq!(flow.target_says("SELECT a FROM whole WHERE id = 1").await, "moved!");
        flow.end().await;
    }
}
