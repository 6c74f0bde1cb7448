//! Partitioned tables, published by leaf or by root, on other partitions at the target or on none.

use irongate_tests::Tables;

use super::support::{Flow, pairs, pairs_in_turn};

const MEASURES: &str = "id int, region text, n int, a text, PRIMARY KEY (id, region)";

/// A table by region, one of whose parts is itself divided.
const BY_REGION: &str = "
    CREATE TABLE measures (id int, region text, n int, a text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE measures_eu PARTITION OF measures FOR VALUES IN ('eu');
    CREATE TABLE measures_us PARTITION OF measures FOR VALUES IN ('us') PARTITION BY HASH (id);
    CREATE TABLE measures_us0 PARTITION OF measures_us FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE measures_us1 PARTITION OF measures_us FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE measures_rest PARTITION OF measures DEFAULT;";

/// Rows that come, change, move between parts and go.
const CHANGES: &[&str] = &[
    "INSERT INTO measures SELECT i, (ARRAY['eu', 'us', 'asia'])[i % 3 + 1], i, 'a' FROM generate_series(1, 1200) i",
    "UPDATE measures SET n = -n WHERE id % 7 = 0",
    "UPDATE measures SET region = 'us' WHERE id BETWEEN 1 AND 60 AND region = 'eu'",
    "UPDATE measures SET region = 'eu', a = 'moved', id = id + 5000 WHERE id BETWEEN 61 AND 90 AND region = 'us'",
    "UPDATE measures SET region = 'eu' WHERE id = 101; UPDATE measures SET region = 'us' WHERE id = 101;
     UPDATE measures SET region = 'asia', n = 1 WHERE id = 101; UPDATE measures SET n = 2 WHERE id = 101",
    "DELETE FROM measures WHERE id % 11 = 0",
    "DELETE FROM measures WHERE id = 110; INSERT INTO measures VALUES (110, 'us', 1, 'again'); UPDATE measures SET region = 'eu' WHERE id = 110",
];

#[tokio::test(flavor = "multi_thread")]
async fn leaves_are_leaves_at_the_target() {
    for pair in pairs() {
        let mut flow = Flow::new("leaves", pair).await;
        flow.at_both(BY_REGION).await;
        flow.at_both(&format!(
            "CREATE TABLE measures_asia ({MEASURES}); INSERT INTO measures_asia VALUES (-1, 'asia', 1, 'old')"
        ))
        .await;
        flow.at_both("CREATE TABLE full_leaf (id int, n int) PARTITION BY RANGE (id);
                      CREATE TABLE full_leaf1 PARTITION OF full_leaf FOR VALUES FROM (0) TO (100);
                      CREATE TABLE full_leaf2 PARTITION OF full_leaf FOR VALUES FROM (100) TO (200);
                      ALTER TABLE full_leaf1 REPLICA IDENTITY FULL; ALTER TABLE full_leaf2 REPLICA IDENTITY FULL")
            .await;
        // The leaf to come is published only through its root.
        flow.publication = "measures, full_leaf".to_owned();
        flow.start().await;
        flow.each_at_source(CHANGES).await;
        flow.each_at_source(&[
            "INSERT INTO full_leaf SELECT i / 2, 1 FROM generate_series(1, 100) i",
            "UPDATE full_leaf SET id = id + 100 WHERE id < 10",
            "UPDATE full_leaf SET n = 2 WHERE id = 20; DELETE FROM full_leaf WHERE ctid = (SELECT min(ctid) FROM full_leaf1 WHERE id = 30)",
        ])
        .await;
        flow.assert_same().await;
        let leaf = "SELECT count(*) FROM measures_us1";
        assert_eq!(flow.source_says(leaf).await, flow.target_says(leaf).await);

        // A part joins, one leaves. Rows of another session come before and after.
        let attach = "DELETE FROM measures_rest WHERE region = 'asia';
                      ALTER TABLE measures ATTACH PARTITION measures_asia FOR VALUES IN ('asia')";
        flow.at_source("DELETE FROM measures_rest WHERE region = 'asia'").await;
        flow.drain().await;
        flow.at_both(attach).await;
        flow.each_at_source(&[
            "UPDATE measures SET n = 7 WHERE region = 'asia'",
            "INSERT INTO measures SELECT i, 'asia', i, 'new' FROM generate_series(2000, 2100) i",
            "UPDATE measures SET region = 'eu' WHERE region = 'asia' AND id < 2010",
        ])
        .await;
        flow.assert_same().await;
        flow.at_both("ALTER TABLE measures DETACH PARTITION measures_eu").await;
        flow.each_at_source(&[
            "UPDATE measures SET n = 8",
            // It is nobody's part now, and not published.
            "CREATE TABLE unpublished (); UPDATE measures_asia SET n = 9 WHERE id > 2050",
        ])
        .await;
        flow.at_target("CREATE TABLE unpublished ()").await;
        flow.assert_same().await;

        flow.each_at_source(&[
            "TRUNCATE measures_us0",
            "INSERT INTO measures SELECT i, 'us', i, 'refilled' FROM generate_series(3000, 3020) i; TRUNCATE measures_rest",
        ])
        .await;
        flow.assert_same().await;
        assert_ne!(flow.target_says("SELECT count(*) FROM measures").await, "0");
        flow.at_source("TRUNCATE measures; INSERT INTO measures VALUES (1, 'us', 1, 'last')").await;
        flow.drain().await;
        assert_eq!(flow.target_says("SELECT count(*) FROM measures").await, "1");
        flow.end_same().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_lies_on_other_parts_at_the_target() {
    let targets = [
        (
            "hash",
            "CREATE TABLE measures (id int, region text, n int, a text, PRIMARY KEY (id, region)) PARTITION BY HASH (id);
             CREATE TABLE h0 PARTITION OF measures FOR VALUES WITH (MODULUS 3, REMAINDER 0);
             CREATE TABLE h1 PARTITION OF measures FOR VALUES WITH (MODULUS 3, REMAINDER 1);
             CREATE TABLE h2 PARTITION OF measures FOR VALUES WITH (MODULUS 3, REMAINDER 2)",
        ),
        // Without a part for what comes later than 6000, which is refused below.
        (
            "range",
            "CREATE TABLE measures (region text, a text, id int, n int, PRIMARY KEY (id, region)) PARTITION BY RANGE (id);
             CREATE TABLE r0 (n int, id int NOT NULL, a text, region text NOT NULL);
             ALTER TABLE measures ATTACH PARTITION r0 FOR VALUES FROM (MINVALUE) TO (100);
             CREATE TABLE r1 PARTITION OF measures FOR VALUES FROM (100) TO (6000)",
        ),
        ("plain", "CREATE TABLE measures (id int, region text, n int, a text, PRIMARY KEY (id, region))"),
    ];
    for pair in pairs_in_turn() {
        for (kind, target) in targets {
            let mut flow = Flow::new(&format!("root_{kind}"), pair).await;
            flow.via_root = true;
            flow.at_source(BY_REGION).await;
            flow.at_target(target).await;
            flow.start().await;
            flow.each_at_source(CHANGES).await;
            flow.assert_same().await;
            flow.each_at_source(&[
                "CREATE TABLE measures_asia (LIKE measures INCLUDING ALL); DELETE FROM measures_rest WHERE region = 'asia'",
                "ALTER TABLE measures ATTACH PARTITION measures_asia FOR VALUES IN ('asia')",
                "INSERT INTO measures SELECT i, 'asia', i, 'new' FROM generate_series(2000, 2100) i",
                "ALTER TABLE measures DETACH PARTITION measures_asia",
                "UPDATE measures SET n = n + 1",
            ])
            .await;
            // Rows of a part that has left are not deleted anywhere: that is an operator's to do at the target.
            flow.drain().await;
            flow.at_target("DELETE FROM measures WHERE region = 'asia'").await;
            flow.at_source("DROP TABLE measures_asia").await;
            flow.assert_same().await;
            flow.at_source("TRUNCATE measures").await;
            flow.drain().await;
            assert_eq!(flow.target_says("SELECT count(*) FROM measures").await, "0");
            flow.each_at_source(CHANGES).await;
            flow.assert_same().await;
            if kind == "range" {
                flow.at_source("INSERT INTO measures VALUES (7000, 'eu', 1, 'no part')").await;
                let error = flow.replicat_abends().await.to_string();
                assert!(error.contains("\"public.measures\"") && error.contains("23514"), "{error}");
                flow.at_target("CREATE TABLE r2 PARTITION OF measures FOR VALUES FROM (6000) TO (MAXVALUE)")
                    .await;
                flow.start_replicat().await;
            }
            flow.end_same().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_is_truncated_under_a_published_root_is_not_told() {
    // What the server does, and what `check` warns of: a message for the root would be too much and there is no other.
    for pair in pairs() {
        let mut flow = Flow::new("root_leaf", pair).await;
        flow.via_root = true;
        flow.at_both(BY_REGION).await;
        flow.start().await;
        flow.each_at_source(&[CHANGES[0], "TRUNCATE measures_eu"]).await;
        flow.drain().await;
        assert_eq!(flow.source_says("SELECT count(*) FROM measures WHERE region = 'eu'").await, "0");
        assert_eq!(flow.target_says("SELECT count(*) FROM measures WHERE region = 'eu'").await, "400");
        flow.at_target("TRUNCATE measures_eu").await;
        flow.end_same().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_meet_in_one_table_where_they_are_mapped_to_it() {
    for pair in pairs() {
        let mut flow = Flow::new("leaves_one", pair).await;
        flow.at_source(BY_REGION).await;
        flow.at_target(&format!("CREATE TABLE measures ({MEASURES})")).await;
        for leaf in ["measures_eu", "measures_us0", "measures_us1", "measures_rest"] {
            let (from, to) = (("public", leaf), ("public", "measures"));
            let owned = |(schema, name): (&str, &str)| (schema.to_owned(), name.to_owned());
            flow.replicat.names.tables.insert(owned(from), owned(to));
        }
        flow.start().await;
        flow.each_at_source(CHANGES).await;
        flow.drain().await;
        flow.compare(&Tables::named(&["public.measures"])).await.assert_same();
        flow.end().await;
    }
}
