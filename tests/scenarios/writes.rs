//! Every way to write a row, and what else happens to tables meanwhile.

use futures_util::SinkExt;
use std::io::Cursor;
use std::pin::pin;

use super::support::{Flow, pairs};

#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_writing_a_row_arrives() {
    for pair in pairs() {
        let mut flow = Flow::new("writes", pair).await;
        flow.little_decoding_memory().await;
        flow.at_both(
            "CREATE TABLE t (id int PRIMARY KEY, n int, a text);
             CREATE TABLE other (id int PRIMARY KEY, n int);
             CREATE TABLE made_unlogged (id int PRIMARY KEY)",
        )
        .await;
        flow.start().await;
        let session = flow.session().await;
        // COPY logs many rows at once.
        for (from, to) in [(1, 3), (10, 3000)] {
            let mut sink = pin!(session.copy_in::<_, Cursor<Vec<u8>>>("COPY t FROM STDIN").await.unwrap());
            let rows: String = (from..to).map(|id| format!("{id}\t{id}\tcopied\n")).collect();
            sink.send(Cursor::new(rows.into_bytes())).await.unwrap();
            sink.close().await.unwrap();
        }
        flow.each_at_source(&[
            "INSERT INTO t VALUES (1, 1, 'conflict'), (4001, 1, 'none') ON CONFLICT DO NOTHING",
            "INSERT INTO t VALUES (1, 1, 'conflict'), (4002, 1, 'none') ON CONFLICT (id) DO UPDATE SET a = excluded.a, n = t.n + 1",
            "MERGE INTO t USING (SELECT generate_series(2990, 5010) AS id) s ON t.id = s.id
               WHEN MATCHED AND t.id % 2 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET a = 'merged'
               WHEN NOT MATCHED THEN INSERT VALUES (s.id, 0, 'merged in')",
            "WITH gone AS (DELETE FROM t WHERE id < 20 RETURNING id, n), put AS (INSERT INTO other SELECT * FROM gone RETURNING id)
               UPDATE t SET n = -1 WHERE id IN (SELECT id + 100 FROM put)",
            "UPDATE t SET n = o.n FROM other o WHERE o.id = t.id - 200; DELETE FROM t USING other o WHERE o.id = t.id - 300",
            "SELECT count(*) FROM (SELECT * FROM t FOR UPDATE) x; SELECT count(*) FROM (SELECT * FROM t FOR KEY SHARE) x",
            "CREATE TEMP TABLE temporary AS TABLE t; UPDATE temporary SET n = 0; DROP TABLE temporary",
            "BEGIN; DECLARE c CURSOR FOR SELECT * FROM t WHERE id = 500 FOR UPDATE; MOVE c; UPDATE t SET a = 'current' WHERE CURRENT OF c; COMMIT",
        ])
        .await;
        // Two sessions insert the same keys: some find the other's only after they have begun to write.
        let upsert = |who: u32| {
            format!(
                "DO $$ BEGIN FOR i IN 1..400 LOOP
                   INSERT INTO public.other VALUES (100000 + i % 50, {who}) ON CONFLICT (id) DO UPDATE SET n = other.n + 1; COMMIT;
                   IF i % 3 = 0 THEN DELETE FROM public.other WHERE id = 100000 + (i + 25) % 50; END IF; COMMIT;
                 END LOOP; END $$"
            )
        };
        let (first, second) = (flow.session().await, flow.session().await);
        let (one, two) = (upsert(1), upsert(2));
        let (first, second) = tokio::join!(first.batch_execute(&one), second.batch_execute(&two));
        first.and(second).unwrap();
        // Tables are rewritten, which writes no rows.
        for sql in [
            "VACUUM FULL t",
            "CLUSTER t USING t_pkey",
            "UPDATE t SET n = n + 1 WHERE id % 3 = 0",
            "ALTER TABLE t ALTER n TYPE bigint",
            "INSERT INTO t VALUES (9001, 9001, 'after a rewrite')",
            "CREATE INDEX CONCURRENTLY ON t (n)",
            "REINDEX TABLE CONCURRENTLY t",
            "ALTER TABLE t SET (fillfactor = 50)",
            "UPDATE t SET n = n + 1 WHERE id % 5 = 0",
            "VACUUM (FREEZE, ANALYZE) t",
            "ALTER TABLE t CLUSTER ON t_pkey",
            "CREATE MATERIALIZED VIEW seen AS SELECT * FROM t",
            "REFRESH MATERIALIZED VIEW seen",
            "DROP MATERIALIZED VIEW seen",
            "DELETE FROM t WHERE id % 7 = 0",
        ] {
            session.batch_execute(sql).await.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
        }
        flow.drain().await;
        assert_eq!(
            flow.target_says("SELECT count(*) FROM t WHERE a = 'merged in'").await,
            flow.source_says("SELECT count(*) FROM t WHERE a = 'merged in'").await
        );
        flow.end_same().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn extensions_and_types_may_lie_in_other_schemas_at_the_target() {
    for pair in pairs() {
        let mut flow = Flow::new("schemas", pair).await;
        flow.at_source(
            "CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE TYPE mood AS ENUM ('sad', 'happy')",
        )
        .await;
        flow.at_target(
            "CREATE SCHEMA \"my types\"; SET search_path = \"my types\"; CREATE EXTENSION citext; CREATE EXTENSION hstore;
             CREATE TYPE mood AS ENUM ('sad', 'happy')",
        )
        .await;
        flow.at_target("GRANT USAGE ON SCHEMA \"my types\" TO replicat").await;
        for table in [
            "public.t (c citext PRIMARY KEY, h hstore, m mood, l mood[])",
            "public.f (c citext, h hstore, m mood, l mood[]); ALTER TABLE public.f REPLICA IDENTITY FULL",
        ] {
            flow.at_both(&format!("SET search_path = public, \"my types\"; CREATE TABLE {table}")).await;
        }
        flow.start().await;
        for table in ["t", "f"] {
            flow.each_at_source(&[
                &format!("INSERT INTO {table} SELECT 'Key' || i, hstore('k', i::text), 'sad', '{{happy,NULL}}' FROM generate_series(1, 600) i"),
                &format!("UPDATE {table} SET m = 'happy', h = h || '\"a b\"=>NULL' WHERE c < 'key2'"),
                &format!("UPDATE {table} SET c = upper(c::text) WHERE c = 'key33'; DELETE FROM {table} WHERE c = 'KEY44'"),
            ])
            .await;
        }
        flow.drain().await;
        assert_eq!(
            flow.target_says("SELECT count(*) || ' ' || count(*) FILTER (WHERE c::text = 'KEY33') FROM t")
                .await,
            "599 1"
        );
        flow.end_same().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_are_renamed_and_tables_move_between_them() {
    for pair in pairs() {
        let mut flow = Flow::new("moves", pair).await;
        flow.at_both("CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a.t (id int PRIMARY KEY, n int); CREATE TABLE a.u (id int PRIMARY KEY)")
            .await;
        flow.start().await;
        flow.at_source("INSERT INTO a.t VALUES (1, 1); INSERT INTO a.u VALUES (1)").await;
        flow.drain().await;
        flow.at_both("ALTER SCHEMA a RENAME TO c; ALTER TABLE c.u SET SCHEMA b").await;
        if pair.0 < 16 {
            // Such a server tells a schema's new name to new connections only.
            flow.stop_extract().await;
            flow.start_extract().await;
        }
        flow.each_at_source(&["UPDATE c.t SET n = 2", "INSERT INTO b.u VALUES (2)"]).await;
        // Two tables change names with each other, and a new one takes an old name.
        flow.drain().await;
        flow.at_both("ALTER TABLE b.u RENAME TO v; CREATE TABLE b.u (id int PRIMARY KEY, more text)").await;
        flow.at_source(&format!("ALTER PUBLICATION {} ADD TABLE b.u", flow.name)).await;
        flow.each_at_source(&[
            "INSERT INTO b.u VALUES (3, 'new'); INSERT INTO b.v VALUES (3)",
            "DELETE FROM b.v WHERE id = 1",
        ])
        .await;
        flow.end_same().await;
    }
}
