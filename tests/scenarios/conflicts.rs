//! Two-way databases: both sites change the same keys, and end with the same rows by rule.

#[path = "conflict_forgotten.rs"]
mod forgotten;
#[path = "conflict_histories.rs"]
mod histories;
#[path = "conflict_kinds.rs"]
mod kinds;
#[path = "conflict_needs.rs"]
mod needs;
#[path = "conflict_order.rs"]
mod order;
#[path = "conflict_values.rs"]
mod values;

use std::time::Duration;

use irongate_apply::{
    ColumnRule, Conflicts, Rule, TableRule, conflict_setup, tombstone_triggers, version_triggers,
};
use irongate_tests::Settings;

use super::support::{Flow, Pair};

/// A table under each rule. The rule of the pair is to keep at the first site and to overwrite at the second.
const TABLES: [&str; 5] = ["latest", "site", "pair", "queue", "sums"];

fn key() -> Vec<String> {
    vec!["id".to_owned()]
}

/// The rules of a flow to one of the sites "a" and "b".
fn rules(here: &str) -> Conflicts {
    let there = if here == "a" { "b" } else { "a" };
    let pair = if here == "a" { Rule::Keep } else { Rule::Overwrite };
    let mut sums = TableRule::of(Rule::Latest);
    sums.columns.insert("n".to_owned(), ColumnRule::Difference);
    Conflicts {
        here: here.to_owned(),
        there: there.to_owned(),
        default: TableRule::of(Rule::Abend),
        tables: vec![
            ("public.latest".to_owned(), TableRule::of(Rule::Latest)),
            ("public.site".to_owned(), TableRule::of(Rule::Site("a".to_owned()))),
            ("public.pair".to_owned(), TableRule::of(pair)),
            ("public.queue".to_owned(), TableRule::of(Rule::Queue)),
            ("public.sums".to_owned(), sums),
        ],
        tombstone_age: Duration::from_secs(3600),
    }
}

/// Both directions between two sites of their own, "a" and "b", with a table under each rule.
struct Sites {
    /// From a to b.
    there: Flow,
    /// From b to a.
    back: Flow,
}

impl Sites {
    async fn new(test: &str, pair: Pair) -> Self {
        let settings = Settings::new().set("track_commit_timestamp", "on");
        let mut there = Flow::alone(test, pair, &settings).await;
        let mut back = there.reverse();
        there.replicat.conflicts = Some(rules("b"));
        back.replicat.conflicts = Some(rules("a"));
        for table in TABLES {
            there
                .at_both(&format!(
                    "CREATE TABLE {table} (id int PRIMARY KEY, n int NOT NULL, a text, big text);
                     ALTER TABLE {table} REPLICA IDENTITY FULL; ALTER TABLE {table} ALTER big SET STORAGE EXTERNAL"
                ))
                .await;
        }
        for sql in conflict_setup("replicat") {
            there.at_both(&sql).await;
        }
        for (here, flow) in [("b", &there), ("a", &back)] {
            let rules = rules(here);
            for table in TABLES {
                let Some(rule) = rules.rule_of("public", table) else { continue };
                if rule.rule.needs_tombstones(here) {
                    for sql in tombstone_triggers("public", table, &key()) {
                        flow.at_target(&sql).await;
                    }
                }
                if rule.rule.needs_versions(here) {
                    for sql in version_triggers("public", table, &key()) {
                        flow.at_source(&sql).await;
                    }
                }
            }
        }
        Self { there, back }
    }

    async fn drain(&mut self) {
        // What is sent back goes once more in the other direction.
        for _ in 0..2 {
            self.there.drain().await;
            self.back.drain().await;
        }
    }

    /// Every row of a table at both sites.
    async fn rows(&self, table: &str) -> (String, String) {
        let sql = format!(
            "SELECT coalesce(string_agg(format('%s:%s:%s:%s', id, n, a, md5(big)), ' ' ORDER BY id), '') FROM {table}"
        );
        tokio::join!(self.there.source_says(&sql), self.there.target_says(&sql))
    }

    async fn assert_same(&self, tables: &[&str]) {
        for table in tables {
            let (a, b) = self.rows(table).await;
            if a != b {
                let (a, b): (Vec<&str>, Vec<&str>) = (a.split(' ').collect(), b.split(' ').collect());
                let only = |these: &[&str], those: &[&str]| -> Vec<String> {
                    these.iter().filter(|row| !those.contains(row)).map(|row| (*row).to_owned()).collect()
                };
                panic!(
                    "table {table} differs:\nonly at a: {:?}\nonly at b: {:?}",
                    only(&a, &b),
                    only(&b, &a)
                );
            }
        }
    }

    async fn end(self) {
        self.back.end().await;
        self.there.end().await;
    }
}
