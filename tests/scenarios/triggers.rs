//! Triggers and rules of the target: those that are meant for replicated rows act, once a row; all others are silent.

use irongate_tests::Tables;

use super::support::{Flow, pairs};

/// Tables with a trigger that notes what it sees. At the source it notes too, in a table that is not published.
const NOTED: &str = "
    CREATE TABLE noted (n bigserial PRIMARY KEY, who text, what text);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO public.noted (who, what) VALUES (TG_TABLE_NAME, TG_WHEN || ' ' || TG_OP || ' ' || coalesce(old.id::text, '-') || '>' || coalesce(new.id::text, '-'));
      RETURN CASE TG_OP WHEN 'DELETE' THEN old ELSE new END; END $$;
    CREATE TABLE quiet (id int PRIMARY KEY, a text);
    CREATE TABLE always (id int PRIMARY KEY, a text);
    CREATE TABLE replica (id int PRIMARY KEY, a text);
    CREATE TABLE disabled (id int PRIMARY KEY, a text);
    CREATE TABLE parted (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
    CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (MINVALUE) TO (10);
    CREATE TABLE parted_high PARTITION OF parted FOR VALUES FROM (10) TO (MAXVALUE);
    CREATE TABLE parent (id int PRIMARY KEY);
    CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
    DO $$ DECLARE t text; BEGIN
      FOREACH t IN ARRAY ARRAY['quiet', 'always', 'replica', 'disabled', 'parted', 'child'] LOOP
        EXECUTE format('CREATE TRIGGER note BEFORE INSERT OR UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION note()', t);
      END LOOP; END $$;
    ALTER TABLE always ENABLE ALWAYS TRIGGER note; ALTER TABLE replica ENABLE REPLICA TRIGGER note;
    ALTER TABLE disabled DISABLE TRIGGER note; ALTER TABLE parted_high ENABLE ALWAYS TRIGGER note;
    ALTER TABLE child ENABLE ALWAYS TRIGGER note";

#[tokio::test(flavor = "multi_thread")]
async fn triggers_meant_for_replicated_rows_fire_once_a_row_and_no_others() {
    for pair in pairs() {
        let mut flow = Flow::new("triggers", pair).await;
        flow.at_both(NOTED).await;
        flow.publication = "quiet, always, replica, disabled, parted, parent, child".to_owned();
        flow.start().await;
        for table in ["quiet", "always", "replica", "disabled", "parted"] {
            flow.each_at_source(&[
                &format!("INSERT INTO {table} SELECT i, 'a' FROM generate_series(1, 20) i"),
                &format!("UPDATE {table} SET a = 'b' WHERE id IN (2, 12); UPDATE {table} SET a = 'c' WHERE id IN (2, 12)"),
                &format!("UPDATE {table} SET id = 100 WHERE id = 13; DELETE FROM {table} WHERE id IN (4, 14)"),
            ])
            .await;
        }
        flow.each_at_source(&[
            "INSERT INTO parent SELECT generate_series(1, 5); INSERT INTO child SELECT i, i % 5 + 1 FROM generate_series(1, 20) i",
            "UPDATE parent SET id = 50 WHERE id = 5",
            "DELETE FROM parent WHERE id IN (1, 50)",
        ])
        .await;
        flow.drain().await;
        let tables = ["quiet", "always", "replica", "disabled", "parted", "parent", "child"];
        let tables = tables.map(|name| format!("public.{name}"));
        flow.compare(&Tables::named(&tables.each_ref().map(String::as_str))).await.assert_same();
        let count = |who: &str| format!("SELECT count(*) FROM noted WHERE who = '{who}'");
        for (who, expected) in [("quiet", "0"), ("disabled", "0"), ("parted_low", "0")] {
            assert_eq!(flow.target_says(&count(who)).await, expected, "{who}");
        }
        // What the source's own triggers saw, in its order, is what the target's saw.
        let seen =
            |who: &str| format!("SELECT string_agg(what, ', ' ORDER BY n) FROM noted WHERE who = '{who}'");
        for who in ["always", "parted_high"] {
            assert_eq!(flow.target_says(&seen(who)).await, flow.source_says(&seen(who)).await, "{who}");
        }
        // REPLICA triggers are silent at the source.
        let renamed = flow.target_says(&seen("replica")).await;
        assert_eq!(renamed, flow.target_says(&seen("always")).await);
        assert_eq!(
            flow.target_says(&count("child")).await,
            flow.source_says(&count("child")).await,
            "cascades are not doubled"
        );
        flow.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_may_change_a_row_or_keep_it_away() {
    for pair in pairs() {
        let mut flow = Flow::new("trigger_acts", pair).await;
        flow.at_both("CREATE TABLE t (id int PRIMARY KEY, a text, site text)").await;
        flow.at_target(
            "CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               IF TG_OP = 'DELETE' THEN RETURN NULL; END IF;
               IF new.id % 10 = 0 THEN RETURN NULL; END IF;
               new.site := 'standby'; RETURN new; END $$;
             CREATE TRIGGER act BEFORE INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION act();
             ALTER TABLE t ENABLE ALWAYS TRIGGER act",
        )
        .await;
        flow.start().await;
        flow.each_at_source(&[
            "INSERT INTO t SELECT i, 'a', 'main' FROM generate_series(1, 30) i",
            "UPDATE t SET a = 'b' WHERE id < 15",
            "DELETE FROM t WHERE id > 25",
        ])
        .await;
        flow.drain().await;
        let rows = "SELECT count(*) || ' ' || count(*) FILTER (WHERE site = 'standby') || ' ' || count(*) FILTER (WHERE a = 'b') FROM t";
        assert_eq!(flow.target_says(rows).await, "27 27 13");
        flow.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_act_only_where_they_are_meant_to() {
    for pair in pairs() {
        let mut flow = Flow::new("rules", pair).await;
        flow.at_both(
            "CREATE TABLE ruled (id int PRIMARY KEY, a text); CREATE TABLE quiet (id int PRIMARY KEY, a text);
             CREATE TABLE held (id int PRIMARY KEY, a text)",
        )
        .await;
        flow.at_target(
            "CREATE TABLE noted (id int, a text);
             CREATE RULE also AS ON INSERT TO ruled DO ALSO INSERT INTO noted VALUES (new.id, new.a);
             CREATE RULE also AS ON INSERT TO quiet DO ALSO INSERT INTO noted VALUES (new.id, new.a);
             CREATE RULE instead AS ON UPDATE TO held DO INSTEAD NOTHING;
             ALTER TABLE ruled ENABLE ALWAYS RULE also; ALTER TABLE held ENABLE ALWAYS RULE instead",
        )
        .await;
        flow.start().await;
        for table in ["ruled", "quiet", "held"] {
            flow.each_at_source(&[
                &format!("INSERT INTO {table} SELECT i, '{table}' FROM generate_series(1, 10) i"),
                &format!("UPDATE {table} SET a = 'b' WHERE id < 4"),
                &format!("DELETE FROM {table} WHERE id = 10"),
            ])
            .await;
        }
        flow.drain().await;
        flow.compare(&Tables::named(&["public.ruled", "public.quiet"])).await.assert_same();
        assert_eq!(
            flow.target_says("SELECT string_agg(DISTINCT a, ',') || count(*) FROM noted").await,
            "ruled10"
        );
        assert_eq!(flow.target_says("SELECT count(*) FROM held WHERE a = 'held'").await, "9");
        flow.end().await;
    }
}
