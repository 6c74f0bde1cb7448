//! Changes of structure that take rows, keys or other schemas along with them.

use irongate_tests::Server;

use super::ddl::{abended, drained, migrate, owned, same, wait_for_abend, with_channel};
use super::deployment::{Deployment, stop};

/// What commands do to rows and keys; each step has tables of its own, so that the comparison names it.
const STEPS: &[(&str, &str)] = &[
    (
        "values computed anew, of the same type",
        "CREATE TABLE w (id int PRIMARY KEY, a int, b text, c numeric(12, 1)); INSERT INTO w SELECT n, n, n, n FROM generate_series(1, 50) n;
         ALTER TABLE w ALTER a TYPE int USING a + 1000; ALTER TABLE w ALTER b TYPE text USING b || 'zz'; ALTER TABLE w ALTER c TYPE numeric(12, 1) USING c * 2;
         BEGIN; UPDATE w SET a = a + 1; ALTER TABLE w ALTER a TYPE int USING a * 2; SAVEPOINT s; ALTER TABLE w ALTER a TYPE int USING -a; ROLLBACK TO s;
         UPDATE w SET a = 5 WHERE id = 3; COMMIT",
    ),
    (
        "the same of a partitioned table",
        "CREATE TABLE wp (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE wp_1 PARTITION OF wp FOR VALUES FROM (0) TO (10);
         CREATE TABLE wp_2 PARTITION OF wp FOR VALUES FROM (10) TO (100); INSERT INTO wp SELECT n, n FROM generate_series(1, 50) n;
         ALTER TABLE wp ALTER v TYPE text USING v || 'p'",
    ),
    (
        "columns dropped and made again by one command",
        "CREATE TABLE dc (id int PRIMARY KEY, a int, b int, c text, g int GENERATED ALWAYS AS (b * 2) STORED, u int CONSTRAINT dc_u UNIQUE, k int DEFAULT 3, CHECK (a > 0));
         INSERT INTO dc (id, a, b, c, u) SELECT n, n, n, n, n FROM generate_series(1, 50) n; CREATE INDEX dc_b ON dc (b);
         ALTER TABLE dc DROP a, ADD a int; ALTER TABLE dc DROP c, ADD c int DEFAULT 7; ALTER TABLE dc DROP g, ADD g int; ALTER TABLE dc DROP k, ADD l int;
         ALTER TABLE dc DROP u, ADD u int CONSTRAINT dc_u UNIQUE; ALTER TABLE dc DROP b, ADD b timestamptz DEFAULT now(); UPDATE dc SET a = 1 WHERE id < 9",
    ),
    (
        "a key dropped and made again by one command",
        "CREATE TABLE dk (id int PRIMARY KEY, a int); INSERT INTO dk SELECT n * 3, n FROM generate_series(1, 50) n;
         ALTER TABLE dk DROP id, ADD id serial PRIMARY KEY; UPDATE dk SET a = 0 WHERE id = 5",
    ),
    (
        "the same of a partitioned table and of heirs",
        "CREATE TABLE dp (id int PRIMARY KEY, v text, k int, w int) PARTITION BY RANGE (id); CREATE TABLE dp_1 PARTITION OF dp FOR VALUES FROM (0) TO (100);
         INSERT INTO dp SELECT n, n, n, n FROM generate_series(1, 50) n;
         ALTER TABLE dp DROP v, ADD v text DEFAULT 'new'; ALTER TABLE dp DROP k, ADD k timestamptz DEFAULT now(); ALTER TABLE dp DROP w, ADD w int; UPDATE dp SET w = 3 WHERE id = 3;
         CREATE TABLE ancestor (id int PRIMARY KEY, a int); CREATE TABLE descendant (b int, PRIMARY KEY (id)) INHERITS (ancestor); INSERT INTO descendant VALUES (1, 2, 3);
         ALTER TABLE ancestor DROP a, ADD a text DEFAULT 'd'; UPDATE descendant SET b = 4",
    ),
    (
        "unique and primary keys dropped",
        "CREATE TABLE kk (id int PRIMARY KEY, n int, u int, v int, CONSTRAINT kk_u UNIQUE (u), CONSTRAINT kk_n UNIQUE (n)); INSERT INTO kk SELECT n, n, n, n FROM generate_series(1, 50) n;
         ALTER TABLE kk DROP CONSTRAINT kk_u; ALTER TABLE kk DROP COLUMN n; ALTER TABLE kk DROP CONSTRAINT kk_pkey, ADD PRIMARY KEY (id, u); UPDATE kk SET v = 1 WHERE id = 3;
         ALTER TABLE kk DROP CONSTRAINT kk_pkey; UPDATE kk SET u = u + 1",
    ),
    (
        "a key dropped with what refers to it",
        "CREATE TABLE kp (id int PRIMARY KEY, p int REFERENCES kp); CREATE TABLE kc (id int PRIMARY KEY REFERENCES kp); INSERT INTO kp VALUES (1, 1); INSERT INTO kc VALUES (1);
         ALTER TABLE kp DROP CONSTRAINT kp_pkey CASCADE; INSERT INTO kp VALUES (1, 2)",
    ),
    (
        "a table with large values dropped",
        "CREATE TABLE large (id int PRIMARY KEY, v text); INSERT INTO large VALUES (1, repeat('x', 100000)); DROP TABLE large",
    ),
];

/// The ends of the range of versions.
fn ends() -> Vec<u32> {
    let majors = Server::majors();
    let mut ends: Vec<u32> = majors.iter().min().into_iter().chain(majors.iter().max()).copied().collect();
    ends.dedup();
    ends
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_keys_and_columns_in_the_place_of_others_arrive() {
    for major in ends() {
        // Whatever the database has.
        let deployment = owned(major, "[flows.csp.ddl]\n").await;
        let file = deployment.path().join("irongate.toml");
        let text = std::fs::read_to_string(&file).expect("the file was written");
        let text = text.replace("tables = [\"public.*\"]", "tables = [\"*.*\"]");
        std::fs::write(&file, text).expect("the directory is ours");
        deployment.expect(0, &["setup"]).await;
        deployment.expect(0, &["instantiate", "csp"]).await;
        let extract = deployment.start("csp-extract").await;
        let replicat = deployment.start("csp-replicat").await;
        let client = deployment.source.try_client("app", "app").await.expect("a session of the application");
        for (n, (name, sql)) in STEPS.iter().enumerate() {
            migrate(&client, name, sql).await;
            drained(&deployment, 10_000 + n as i32).await;
        }
        same(&deployment, "all of it").await;
        stop(replicat).await;
        stop(extract).await;
    }
}

/// How many rows the source has.
async fn rows(deployment: &Deployment, table: &str) -> String {
    deployment.source.scalar("app", &format!("SELECT count(*) FROM {table}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_keeps_its_rows_whatever_fires_there() {
    for major in ends() {
        let deployment = with_channel(major, "").await;
        let extract = deployment.start("csp-extract").await;
        let mut replicat = deployment.start("csp-replicat").await;
        let client = deployment.source.try_client("app", "app").await.expect("a session of the application");

        // A partition of a schema that is none of the flow's.
        migrate(
            &client,
            "a partition from elsewhere",
            "CREATE SCHEMA other; CREATE TABLE apart (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE other.apart_1 (LIKE public.apart INCLUDING ALL);
             INSERT INTO other.apart_1 VALUES (1, 'one'); ALTER TABLE apart ATTACH PARTITION other.apart_1 FOR VALUES FROM (0) TO (10); INSERT INTO apart VALUES (2, 'two')",
        )
        .await;
        let hint = abended(&deployment, &mut replicat).await;
        assert!(hint.contains("before ATTACH PARTITION"), "{hint}");
        let (_, rest) = hint.split_once("run \"").expect("a statement in the hint");
        let (statement, _) = rest.split_once("\" at the target").expect("a place in the hint");
        deployment.target.batch_in("app", statement).await;
        replicat = deployment.start("csp-replicat").await;
        drained(&deployment, 10_000).await;
        same(&deployment, "a partition from elsewhere").await;

        // Rows that would not come back, were they taken out.
        migrate(
            &client,
            "a rule that fires always",
            "CREATE TABLE ruled (id int PRIMARY KEY, a int); INSERT INTO ruled SELECT n, n FROM generate_series(1, 100) n;
             CREATE RULE half AS ON INSERT TO ruled WHERE new.id > 50 DO INSTEAD NOTHING; ALTER TABLE ruled ENABLE ALWAYS RULE half;
             ALTER TABLE ruled ADD rnd float8 DEFAULT random()",
        )
        .await;
        assert_eq!(rows(&deployment, "ruled").await, "100");
        let group = wait_for_abend(&deployment, &mut replicat).await;
        assert!(group["error"].to_string().contains("its rule half fires in replica role too"), "{group}");
        assert!(group["hint"].to_string().contains("irongate instantiate csp --truncate"), "{group}");
        stop(extract).await;
        deployment.target.batch_in("app", "ALTER TABLE ruled ADD rnd float8 DEFAULT random()").await;
        // The rights at the schema that came with the partition.
        deployment.expect(0, &["setup"]).await;
        deployment.expect(0, &["instantiate", "csp", "--truncate"]).await;
        deployment.compare().await.assert_same();

        // What is not seen beforehand is counted.
        let extract = deployment.start("csp-extract").await;
        let mut replicat = deployment.start("csp-replicat").await;
        let blind = "CREATE OR REPLACE FUNCTION irongate.ddl_watcher(object oid) RETURNS text LANGUAGE sql AS 'SELECT NULL::text'";
        deployment.source.batch_in("app", blind).await;
        migrate(
            &client,
            "triggers that swallow rows",
            "CREATE FUNCTION nothing_new() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
             CREATE TABLE swallowed (id int PRIMARY KEY); INSERT INTO swallowed SELECT generate_series(1, 100);
             CREATE TRIGGER swallow BEFORE INSERT ON swallowed FOR EACH ROW EXECUTE FUNCTION nothing_new(); ALTER TABLE swallowed ENABLE ALWAYS TRIGGER swallow;
             CREATE TABLE kept (id int); INSERT INTO kept SELECT generate_series(1, 100);
             CREATE TRIGGER keep BEFORE DELETE ON kept FOR EACH ROW EXECUTE FUNCTION nothing_new(); ALTER TABLE kept ENABLE ALWAYS TRIGGER keep;
             ALTER TABLE swallowed ADD rnd float8 DEFAULT random(); ALTER TABLE kept ADD rnd float8 DEFAULT random()",
        )
        .await;
        assert_eq!(
            (rows(&deployment, "swallowed").await, rows(&deployment, "kept").await),
            ("100".into(), "100".into())
        );
        let group = wait_for_abend(&deployment, &mut replicat).await;
        assert!(
            group["error"]
                .to_string()
                .contains("of the 100 rows of table public.swallowed only 0 could be put in again"),
            "{group}"
        );
        stop(extract).await;
    }
}
