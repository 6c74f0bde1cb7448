//! Values that make trouble: keys that can be written differently, NULL among differences, sums that overflow.

use irongate_apply::{
    Action, ColumnRule, Error, Policies, Policy, Rule, TableRule, replay, tombstone_triggers,
};

use super::super::support::{pairs, pairs_in_turn};
use super::{Sites, key};

impl Sites {
    /// Gives a table a rule at both sites, with its tombstones.
    async fn rule(&mut self, table: &str, rule: TableRule) {
        for flow in [&mut self.there, &mut self.back] {
            let conflicts = flow.replicat.conflicts.as_mut().unwrap();
            conflicts.tables.push((format!("public.{table}"), rule.clone()));
            for sql in tombstone_triggers("public", table, &key()) {
                flow.at_target(&sql).await;
            }
        }
    }

    /// One value, the same at both sites.
    async fn both_say(&self, sql: &str) -> String {
        let (a, b) = (self.there.source_says(sql).await, self.there.target_says(sql).await);
        assert_eq!(a, b, "{sql}");
        a
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_equal_and_written_differently_are_one_key() {
    for pair in pairs_in_turn() {
        let mut sites = Sites::new("spelled", pair).await;
        let tables = [
            ("numk", "numeric", "20", "20.0", "1.5", "1.50"),
            ("itvk", "interval", "1 day", "24:00:00", "1 mon", "30 days"),
            ("txtk", "text COLLATE nocase", "abc", "ABC", "x", "X"),
            ("fltk", "float8", "0", "-0", "0", "-0"),
        ];
        let nocase =
            "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
        sites.there.at_both(nocase).await;
        for (table, of_type, ..) in tables {
            let create = format!(
                "CREATE TABLE {table} (id {of_type} PRIMARY KEY, v text); ALTER TABLE {table} REPLICA IDENTITY FULL"
            );
            sites.there.at_both(&create).await;
            sites.rule(table, TableRule::of(Rule::Latest)).await;
        }
        sites.there.start().await;
        sites.back.start().await;
        for (table, _, one, ..) in tables {
            sites.there.at_source(&format!("INSERT INTO {table} VALUES ('{one}', 'first')")).await;
        }
        sites.drain().await;
        for (table, _, one, other, ..) in tables {
            sites.there.at_source(&format!("UPDATE {table} SET id = '{other}' WHERE id = '{one}'")).await;
        }
        sites.drain().await;
        for (table, _, _, other, ..) in tables {
            assert_eq!(
                sites.both_say(&format!("SELECT string_agg(id::text || v, ' ') FROM {table}")).await,
                format!("{other}first")
            );
        }
        // Both make the same key, each in its own way; then one deletes what the other has changed.
        for (table, _, _, _, one, other) in tables {
            sites
                .there
                .at_both(&format!("SET session_replication_role = replica; DELETE FROM {table}"))
                .await;
            sites.drain().await;
            sites.there.stop_replicat().await;
            sites.back.stop_replicat().await;
            sites.there.at_source(&format!("INSERT INTO {table} VALUES ('{one}', 'by a')")).await;
            sites.back.at_source(&format!("INSERT INTO {table} VALUES ('{other}', 'by b')")).await;
            sites.there.start_replicat().await;
            sites.back.start_replicat().await;
            sites.drain().await;
            let rows = format!("SELECT coalesce(string_agg(id::text || v, ' '), '') FROM {table}");
            assert_eq!(
                sites.both_say(&rows).await,
                format!("{}by b", if table == "itvk" { "30 days" } else { other })
            );
            sites.there.stop_replicat().await;
            sites.back.stop_replicat().await;
            sites.there.at_source(&format!("UPDATE {table} SET id = '{one}', v = 'lost'")).await;
            sites.back.at_source(&format!("DELETE FROM {table}")).await;
            sites.there.start_replicat().await;
            sites.back.start_replicat().await;
            sites.drain().await;
            assert_eq!(sites.both_say(&rows).await, "");
        }
        sites.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_differences_that_takes_null_is_refused() {
    let mut sites = Sites::new("null_sums", pairs()[0]).await;
    sites.there.at_target("ALTER TABLE sums ALTER n DROP NOT NULL").await;
    sites.there.start().await;
    sites.there.at_source("INSERT INTO sums VALUES (1, 1, '', '')").await;
    let error = sites.there.replicat_abends().await;
    assert!(error.to_string().contains("takes NULL"), "{error}");
    sites.there.at_target("ALTER TABLE sums ALTER n SET NOT NULL").await;
    sites.there.at_source("ALTER TABLE sums ALTER n DROP NOT NULL").await;
    sites.there.start_replicat().await;
    sites.there.drain().await;
    // Where only the source takes it, it is refused when it comes, whoever would win.
    sites.there.at_source("UPDATE sums SET n = NULL").await;
    let error = sites.there.replicat_abends().await;
    assert!(matches!(&error, Error::Row { reason, .. } if reason.class() == "22004"), "{error}");
    assert!(error.hint().unwrap().contains("NOT NULL"), "{:?}", error.hint());
    sites.there.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sum_that_overflows_goes_on_when_there_is_room_again() {
    for action in [Action::Abend, Action::QueueRow] {
        let mut sites = Sites::new("overflow", pairs()[0]).await;
        let mut rule = TableRule::of(Rule::Latest);
        rule.columns.insert("n".to_owned(), ColumnRule::Difference);
        sites.there.at_both("CREATE TABLE small (id int PRIMARY KEY, n smallint NOT NULL); ALTER TABLE small REPLICA IDENTITY FULL").await;
        sites.rule("small", rule).await;
        for flow in [&mut sites.there, &mut sites.back] {
            flow.replicat.policies =
                Policies(vec![Policy { table: None, class: Some("22003".to_owned()), action }]);
        }
        sites.there.start().await;
        sites.back.start().await;
        sites.there.at_source("INSERT INTO small VALUES (1, 20000)").await;
        sites.drain().await;
        sites.there.stop_replicat().await;
        sites.back.stop_replicat().await;
        sites.there.at_source("UPDATE small SET n = n + 10000").await;
        sites.back.at_source("UPDATE small SET n = n + 9000").await;
        sites.there.start_replicat().await;
        sites.back.start_replicat().await;
        if action == Action::Abend {
            for flow in [&mut sites.there, &mut sites.back] {
                let error = flow.replicat_abends().await;
                assert!(matches!(&error, Error::Row { reason, .. } if reason.class() == "22003"), "{error}");
                assert!(error.hint().unwrap().contains("lower the value"), "{:?}", error.hint());
            }
        } else {
            sites.drain().await;
        }
        sites.there.at_source("UPDATE small SET n = n - 15000").await;
        sites.back.at_source("UPDATE small SET n = n - 15000").await;
        if action == Action::Abend {
            sites.there.start_replicat().await;
            sites.back.start_replicat().await;
        } else {
            sites.drain().await;
            for flow in [&sites.there, &sites.back] {
                assert_eq!(replay(&flow.replicat, None).await.unwrap(), 2);
            }
        }
        sites.drain().await;
        assert_eq!(sites.both_say("SELECT n FROM small").await, (20000 + 10000 + 9000 - 30000).to_string());
        sites.end().await;
    }
}
