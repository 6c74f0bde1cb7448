//! Each kind of conflict under each rule, with both flows at rest while the sites write.

use std::collections::BTreeMap;

use irongate_apply::{conflict, conflicts, list, purge_conflicts, replay, skip};
use irongate_tests::wait_for;

use super::super::support::{Flow, PATIENCE, pairs_in_turn};
use super::{Sites, TABLES};

/// What each site does with a key of its own number, and what is recorded of that at the site that wrote last and at the
/// one that wrote first, under the rule of the later commit.
const CASES: [(&str, &str, &str, &str); 10] = [
    (
        "INSERT INTO t VALUES (?1, 1, 'by s', 's')",
        "INSERT INTO t VALUES (?1, 1, 'by s', 's')",
        "insert exists",
        "insert exists",
    ),
    (
        "UPDATE t SET n = 5, a = 'by s' WHERE id = ?2",
        "UPDATE t SET n = 7, a = 'by s' WHERE id = ?2",
        "update differs",
        "update differs",
    ),
    (
        "UPDATE t SET a = 'by s' WHERE id = ?3",
        "DELETE FROM t WHERE id = ?3",
        "update missing",
        "delete differs",
    ),
    (
        "DELETE FROM t WHERE id = ?4",
        "UPDATE t SET a = 'by s' WHERE id = ?4",
        "delete differs",
        "update missing",
    ),
    ("DELETE FROM t WHERE id = ?5", "DELETE FROM t WHERE id = ?5", "delete missing", "delete missing"),
    (
        "DELETE FROM t WHERE id = ?6; INSERT INTO t VALUES (?6, 9, 'again by s', 's')",
        "UPDATE t SET a = 'by s' WHERE id = ?6",
        "delete differs, insert exists",
        "update differs",
    ),
    (
        "UPDATE t SET id = ?7 + 100 WHERE id = ?7",
        "UPDATE t SET a = 'by s' WHERE id = ?7",
        "delete differs",
        "update missing",
    ),
    (
        "UPDATE t SET a = 'by s' WHERE id = ?8",
        "UPDATE t SET id = ?8 + 100 WHERE id = ?8",
        "update missing",
        "delete differs",
    ),
    (
        "UPDATE t SET id = ?9 + 100 WHERE id = ?9",
        "UPDATE t SET id = ?9 + 200 WHERE id = ?9",
        "delete missing",
        "delete missing",
    ),
    // Each alone.
    ("UPDATE t SET a = 'by s' WHERE id = ?10", "UPDATE t SET a = 'by s' WHERE id = ?10 + 1", "", ""),
];

/// Keys of the cases in which site a writes first, and of those in which b does.
const FIRST: [(&str, i32); 2] = [("a", 0), ("b", 1000)];

fn statement(sql: &str, table: &str, site: &str, base: i32) -> String {
    let mut sql = sql.replace(" t ", &format!(" {table} ")).replace("by s", &format!("by {site}"));
    for number in (1..=10).rev() {
        sql = sql.replace(&format!("?{number}"), &(base + number).to_string());
    }
    format!("BEGIN; {sql}; COMMIT")
}

type Rows = BTreeMap<i32, String>;

async fn rows(flow: &Flow, at_source: bool, table: &str) -> Rows {
    let sql = format!(
        "SELECT coalesce(string_agg(format('%s=%s/%s/%s', id, n, a, md5(big)), '|'), '') FROM {table}"
    );
    let text = if at_source { flow.source_says(&sql).await } else { flow.target_says(&sql).await };
    let row = |row: &str| row.split_once('=').map(|(id, rest)| (id.parse().unwrap(), rest.to_owned()));
    text.split('|').filter_map(row).collect()
}

/// Whether two sites have both touched a key of a case: all of the first nine cases' own keys.
fn is_contended(key: i32) -> bool {
    (1..=9).contains(&(key % 1000))
}

/// What a table must be when `winner` wins each key that both have touched.
fn expected(at_a: &Rows, at_b: &Rows, before: &Rows, winner: impl Fn(i32) -> &'static str) -> Rows {
    let keys = at_a.keys().chain(at_b.keys()).chain(before.keys());
    let mut rows = Rows::new();
    for key in keys {
        let (a, b, was) = (at_a.get(key), at_b.get(key), before.get(key));
        let row = if is_contended(*key) {
            if winner(*key) == "a" { a } else { b }
        } else if a == was {
            b
        } else {
            a
        };
        row.map(|row| rows.insert(*key, row.clone()));
    }
    rows
}

async fn recorded(flow: &Flow, table: &str, key: i32) -> String {
    flow.target_says(&format!(
        "SELECT coalesce(string_agg(kind, ', ' ORDER BY id), '') FROM irongate.conflict
          WHERE table_name = '{table}' AND (key ->> 'id')::int = {key}"
    ))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_conflict_is_resolved_by_the_rule_of_its_table_and_recorded() {
    for pair in pairs_in_turn() {
        let mut sites = Sites::new("kinds", pair).await;
        sites.there.start().await;
        sites.back.start().await;
        for table in TABLES {
            for (_, base) in FIRST {
                sites
                    .there
                    .at_source(&format!(
                        "INSERT INTO {table} SELECT {base} + i, 0, 'first', 'x' FROM generate_series(2, 11) i"
                    ))
                    .await;
            }
        }
        sites.drain().await;
        sites.there.stop_replicat().await;
        sites.back.stop_replicat().await;
        let mut before = BTreeMap::new();
        for table in TABLES {
            before.insert(table, rows(&sites.there, true, table).await);
            for (first, base) in FIRST {
                let (one, other) =
                    if first == "a" { (&sites.there, &sites.back) } else { (&sites.back, &sites.there) };
                let second = if first == "a" { "b" } else { "a" };
                for (by_first, by_second, ..) in CASES {
                    // A key that is used again while the other site adds to it has no sum.
                    if table == "sums" && by_first.starts_with("DELETE FROM t WHERE id = ?6") {
                        continue;
                    }
                    one.at_source(&statement(by_first, table, first, base)).await;
                    other.at_source(&statement(by_second, table, second, base)).await;
                }
            }
        }
        let mut written = BTreeMap::new();
        for table in TABLES {
            written.insert(
                table,
                (rows(&sites.there, true, table).await, rows(&sites.there, false, table).await),
            );
        }
        sites.there.start_replicat().await;
        sites.back.start_replicat().await;
        sites.drain().await;
        for flow in [&sites.there, &sites.back] {
            let recorded = flow.target_says("SELECT count(*) FROM irongate.conflict").await;
            wait_for(PATIENCE, "every conflict to be counted", async || {
                let status = flow.status(&flow.replicat.group).unwrap();
                let counted = status.counters.conflicts.to_string();
                if counted == recorded { Ok(()) } else { Err(format!("{counted} of {recorded}")) }
            })
            .await;
        }
        let later = |key: i32| if key < 1000 { "b" } else { "a" };
        for table in ["latest", "site", "pair"] {
            let (a, b) = &written[table];
            let wanted = match table {
                "latest" => expected(a, b, &before[table], later),
                _ => expected(a, b, &before[table], |_| "a"),
            };
            assert_eq!(rows(&sites.there, true, table).await, wanted, "{table} at a");
            assert_eq!(rows(&sites.there, false, table).await, wanted, "{table} at b");
        }
        for (first, base) in FIRST {
            let (at_first, at_second) =
                if first == "a" { (&sites.back, &sites.there) } else { (&sites.there, &sites.back) };
            for (number, (.., second, one)) in (1..).zip(CASES) {
                assert_eq!(
                    recorded(at_second, "latest", base + number).await,
                    second,
                    "case {number}, later"
                );
                assert_eq!(recorded(at_first, "latest", base + number).await, one, "case {number}, earlier");
            }
        }
        // Sums: both differences, the other columns by the later commit; what one site deleted is gone.
        for (key, a) in [(2, "by b"), (1002, "by a")] {
            for at_source in [true, false] {
                let sums = rows(&sites.there, at_source, "sums").await;
                assert!(sums[&key].starts_with(&format!("12/{a}/")), "{sums:?}");
                for gone in [3, 4, 5, 7, 8, 9] {
                    assert!(!sums.contains_key(&(key - 2 + gone)), "{gone} {sums:?}");
                }
            }
        }
        sites.assert_same(&["sums"]).await;
        queue(&sites, &written["queue"], &before["queue"]).await;
        look_and_purge(&sites).await;
        sites.end().await;
    }
}

/// The queue: until it is replayed each site has its own; then one site takes what the other has.
async fn queue(sites: &Sites, (a, b): &(Rows, Rows), before: &Rows) {
    for (at_source, own) in [(true, "a"), (false, "b")] {
        let wanted = expected(a, b, before, |_| own);
        assert_eq!(rows(&sites.there, at_source, "queue").await, wanted, "the queue's table at {own}");
    }
    let replayed = replay(&sites.back.replicat, None).await.unwrap();
    assert!(replayed >= 18, "{replayed}");
    let client = sites.there.target.client(&sites.there.database).await;
    assert!(skip(&client, &sites.there.name, None).await.unwrap() > 0);
    assert!(list(&client, &sites.there.name, false).await.unwrap().is_empty());
    assert_eq!(rows(&sites.there, true, "queue").await, expected(a, b, before, |_| "b"), "after the replay");
    sites.assert_same(&["queue"]).await;
}

/// What `irongate conflicts` is made of.
async fn look_and_purge(sites: &Sites) {
    let client = sites.there.target.client(&sites.there.database).await;
    let all = conflicts(&client, &sites.there.name, 1000).await.unwrap();
    assert_eq!(conflicts(&client, &sites.there.name, 3).await.unwrap().len(), 3);
    let one = all.iter().find(|one| one.kind == "update differs" && one.rule == "latest").unwrap();
    assert_eq!((one.origin.as_str(), one.table.as_str()), ("a", "public.latest"));
    let shown = conflict(&client, &sites.there.name, one.id).await.unwrap().unwrap();
    let old = shown.incoming_old.unwrap();
    assert_eq!((&old["a"], &old["n"]), (&"first".into(), &"0".into()));
    assert_eq!(shown.incoming_new.unwrap()["n"], "5");
    let local = shown.local_row.unwrap();
    assert_eq!((&local["a"], &local["n"]), (&"by b".into(), &7.into()));
    assert!(shown.local_time.is_some() && shown.local_origin.is_none());
    assert!(conflict(&client, &sites.there.name, 1 << 40).await.unwrap().is_none());
    assert_eq!(purge_conflicts(&client, &sites.there.name, 3600.0).await.unwrap(), 0);
    assert_eq!(purge_conflicts(&client, &sites.there.name, 0.0).await.unwrap(), all.len() as u64);
}

/// A row that moves to a key which the other site has deleted, by one that knows of that, meets no conflict; one that does not
/// know does.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_moves_to_a_deleted_key_tells_whether_that_was_known() {
    for pair in pairs_in_turn() {
        let mut sites = Sites::new("moved", pair).await;
        sites.there.start().await;
        sites.back.start().await;
        for table in TABLES {
            let insert =
                format!("INSERT INTO {table} VALUES (501, 1, 'moves'), (502, 2, 'goes'), (503, 3, 'stays')");
            sites.there.at_source(&insert).await;
        }
        sites.drain().await;
        for table in TABLES {
            sites.back.at_source(&format!("DELETE FROM {table} WHERE id = 502")).await;
        }
        sites.drain().await;
        for table in TABLES {
            sites.there.at_source(&format!("UPDATE {table} SET id = 502 WHERE id = 501")).await;
        }
        sites.drain().await;
        let found = "SELECT count(*) FROM irongate.conflict";
        assert_eq!(
            (sites.there.source_says(found).await, sites.there.target_says(found).await),
            ("0".to_owned(), "0".to_owned())
        );
        for table in TABLES {
            let (a, b) = sites.rows(table).await;
            assert!(a == b && a.starts_with("502:1:moves") && !a.contains("501:"), "{table}: {a} / {b}");
        }
        // In ignorance: b deletes what a moves to at the same time.
        sites.there.stop_replicat().await;
        sites.back.stop_replicat().await;
        sites.back.at_source("DELETE FROM queue WHERE id = 503").await;
        sites
            .there
            .at_source(
                "BEGIN; DELETE FROM queue WHERE id = 503; UPDATE queue SET id = 503 WHERE id = 502; COMMIT",
            )
            .await;
        sites.there.start_replicat().await;
        sites.back.start_replicat().await;
        sites.drain().await;
        let queued = sites.there.target_says("SELECT count(*) FROM irongate.error_queue").await;
        assert_ne!(queued, "0", "nobody knows which of the two was meant");
        sites.end().await;
    }
}
