//! Changes of structure under load: through the DDL channel, without it, and whatever is killed meanwhile.

use std::time::Duration;

use irongate_tests::books::{ACCESS, follows, prepared, running};
use irongate_tests::{Plan, Process, SITES, Server, Tier, wait_until};
use tokio_postgres::Client;

use super::deployment::{Deployment, PATIENCE, stop};

/// The release of an application, step by step; each is a transaction, or several statements that are each one.
const MIGRATIONS: &[(&str, &str)] = &[
    ("a table with a serial key, a check and a comment",
     "CREATE TABLE item (id serial PRIMARY KEY, name varchar(20) NOT NULL DEFAULT 'none', price numeric(10, 2), CHECK (price >= 0));
      COMMENT ON TABLE item IS 'what is sold'; COMMENT ON COLUMN item.price IS 'without tax';
      INSERT INTO item (name, price) SELECT 'item ' || n, n FROM generate_series(1, 50) n"),
    ("a table and its first rows in one transaction",
     "BEGIN; CREATE TABLE pair (a int, b int, PRIMARY KEY (a, b)); INSERT INTO pair SELECT n, n FROM generate_series(1, 20) n; COMMIT"),
    ("columns with a constant default, a stable default and none",
     "ALTER TABLE item ADD amount int NOT NULL DEFAULT 7, ADD since timestamptz DEFAULT now(), ADD note text"),
    ("a column with a volatile default", "ALTER TABLE item ADD token double precision DEFAULT random()"),
    ("an identity column", "ALTER TABLE pair ADD number bigint GENERATED ALWAYS AS IDENTITY"),
    ("a generated column", "ALTER TABLE item ADD total numeric GENERATED ALWAYS AS (price * 2) STORED"),
    ("a column renamed between rows",
     "BEGIN; INSERT INTO item (name) VALUES ('before'); ALTER TABLE item RENAME note TO remark;
      UPDATE item SET remark = 'after' WHERE name = 'before'; COMMIT"),
    ("types that grow", "ALTER TABLE item ALTER name TYPE text, ALTER amount TYPE bigint"),
    ("a type whose values are computed", "ALTER TABLE item ALTER amount TYPE text USING 'n' || (amount * 3)"),
    ("a type of a column that others refer to",
     "CREATE TABLE part (item int REFERENCES item, n int, PRIMARY KEY (item, n)); INSERT INTO part SELECT id, 1 FROM item;
      ALTER TABLE item ALTER id TYPE bigint USING id + 1000 - 1000"),
    ("several changes in one command",
     "ALTER TABLE item DROP COLUMN amount, ADD size text COLLATE \"C\" DEFAULT 'm', ALTER COLUMN name DROP DEFAULT, ADD CONSTRAINT short CHECK (length(size) < 10)"),
    ("a constraint that is not valid, then is",
     "ALTER TABLE part ADD CONSTRAINT positive CHECK (n > 0) NOT VALID; ALTER TABLE part VALIDATE CONSTRAINT positive"),
    ("constraints renamed, replaced and dropped",
     "ALTER TABLE item RENAME CONSTRAINT short TO short_size; ALTER TABLE item DROP CONSTRAINT item_price_check, ADD CONSTRAINT item_price_check CHECK (price >= -1);
      ALTER TABLE part DROP CONSTRAINT positive"),
    ("an exclusion and a unique constraint",
     "CREATE TABLE room (id int PRIMARY KEY, during int4range, EXCLUDE USING gist (during WITH &&)); ALTER TABLE item ADD UNIQUE (name, id);
      INSERT INTO room VALUES (1, '[1,5)'), (2, '[5,9)')"),
    ("indexes: an expression, a partial one, one with other columns, a renamed one",
     "CREATE INDEX item_lower ON item (lower(name)); CREATE UNIQUE INDEX item_big ON item (id) WHERE price > 10; CREATE INDEX item_more ON item (price DESC NULLS LAST) INCLUDE (name);
      ALTER INDEX item_lower RENAME TO item_lower_name; COMMENT ON INDEX item_big IS 'the dear ones'"),
    ("an index made while others write", "CREATE INDEX CONCURRENTLY item_since ON item (since)"),
    ("an index dropped while others write", "DROP INDEX CONCURRENTLY item_more"),
    ("an index made new while others write", "REINDEX INDEX CONCURRENTLY item_since; REINDEX TABLE CONCURRENTLY item"),
    ("an enum, used at once",
     "BEGIN; CREATE TYPE mood AS ENUM ('sad', 'happy'); ALTER TABLE item ADD mood mood DEFAULT 'sad'; INSERT INTO item (name, mood) VALUES ('glad', 'happy'); COMMIT"),
    ("labels of an enum, and rows that have them",
     "ALTER TYPE mood ADD VALUE 'so so' BEFORE 'happy'; ALTER TYPE mood ADD VALUE 'elated'; ALTER TYPE mood RENAME VALUE 'sad' TO 'blue';
      INSERT INTO item (name, mood) VALUES ('a', 'so so'), ('b', 'elated'), ('c', 'blue')"),
    ("a domain, a composite and a range",
     "CREATE DOMAIN positive AS int DEFAULT 1 CONSTRAINT above CHECK (VALUE > 0); CREATE TYPE place AS (x int, y int); CREATE TYPE span AS RANGE (subtype = numeric);
      CREATE TABLE spot (id positive PRIMARY KEY, at place, over span); INSERT INTO spot VALUES (1, '(1,2)', '[1,2)');
      ALTER DOMAIN positive ADD CONSTRAINT below CHECK (VALUE < 1000) NOT VALID; ALTER DOMAIN positive SET DEFAULT 2; ALTER TABLE spot ALTER over DROP NOT NULL"),
    ("a domain as a new column", "ALTER TABLE pair ADD kind positive"),
    ("partitions: made, attached with rows, detached",
     "CREATE TABLE log (id bigint, at date NOT NULL, text text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at); CREATE INDEX log_text ON log (text);
      CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM ('2026-01-01') TO ('2026-02-01'); INSERT INTO log SELECT n, '2026-01-05', 'jan' FROM generate_series(1, 20) n;
      CREATE TABLE log_2 (LIKE log INCLUDING ALL); INSERT INTO log_2 SELECT n, '2026-02-05', 'feb' FROM generate_series(21, 40) n;
      ALTER TABLE log ATTACH PARTITION log_2 FOR VALUES FROM ('2026-02-01') TO ('2026-03-01'); ALTER TABLE log DETACH PARTITION log_1;
      INSERT INTO log_1 VALUES (99, '2026-01-09', 'alone'); ALTER TABLE log ADD level int DEFAULT 3; UPDATE log SET level = 4 WHERE id = 30"),
    ("a partition detached while others write",
     "ALTER TABLE log DETACH PARTITION log_2 CONCURRENTLY; INSERT INTO log_2 (id, at, level) VALUES (100, '2026-02-10', 1)"),
    ("views, on each other", "CREATE VIEW cheap AS SELECT id, name FROM item WHERE price < 10; CREATE VIEW cheaper AS SELECT * FROM cheap WHERE id < 5;
      CREATE OR REPLACE VIEW cheap AS SELECT id, name, price FROM item WHERE price < 9; COMMENT ON VIEW cheap IS 'few'"),
    ("a materialized view with an index, made new",
     "CREATE MATERIALIZED VIEW sums AS SELECT count(*) AS n, sum(price) AS s FROM item; CREATE UNIQUE INDEX sums_n ON sums (n);
      INSERT INTO item (name, price) VALUES ('more', 5); REFRESH MATERIALIZED VIEW sums"),
    ("functions, a procedure and a trigger",
     "CREATE FUNCTION twice(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT x * 2'; CREATE OR REPLACE FUNCTION twice(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * x';
      CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.remark := 'touched'; RETURN NEW; END $$;
      CREATE TRIGGER touch BEFORE UPDATE ON item FOR EACH ROW EXECUTE FUNCTION touch(); CREATE PROCEDURE nothing() LANGUAGE sql AS ''; 
      UPDATE item SET price = 3 WHERE id = 3; ALTER TRIGGER touch ON item RENAME TO touch_item; ALTER TABLE item DISABLE TRIGGER touch_item"),
    ("a default that calls a function", "ALTER TABLE pair ADD twice int DEFAULT twice(4)"),
    ("a sequence of its own, altered", "CREATE SEQUENCE ticket INCREMENT 5 START 100; ALTER SEQUENCE ticket MAXVALUE 100000 CYCLE; CREATE TABLE ticketed (id int PRIMARY KEY DEFAULT nextval('ticket')); INSERT INTO ticketed DEFAULT VALUES"),
    ("a schema with what is in it", "CREATE SCHEMA shop CREATE TABLE till (id int PRIMARY KEY, money numeric) CREATE VIEW tills AS SELECT id FROM till; INSERT INTO shop.till VALUES (1, 2)"),
    ("a table moved to another schema, and renamed", "ALTER TABLE room SET SCHEMA shop; ALTER TABLE shop.room RENAME TO hall; INSERT INTO shop.hall VALUES (3, '[9,12)')"),
    ("the rows of a query as a table", "CREATE TABLE copied AS SELECT id, name FROM item; ALTER TABLE copied ADD PRIMARY KEY (id); UPDATE copied SET name = 'c' WHERE id = 2; SELECT id INTO chosen FROM item WHERE id < 4"),
    ("replica identities", "ALTER TABLE copied REPLICA IDENTITY FULL; UPDATE copied SET name = 'd' WHERE id = 1; CREATE TABLE odd (a int NOT NULL, b text); CREATE UNIQUE INDEX odd_a ON odd (a);
      ALTER TABLE odd REPLICA IDENTITY USING INDEX odd_a; INSERT INTO odd VALUES (1, 'x'); UPDATE odd SET b = 'y'"),
    ("columns and tables dropped with what hangs on them", "ALTER TABLE item DROP COLUMN price CASCADE; DROP TABLE ticketed; DROP SEQUENCE ticket; CREATE VIEW last AS SELECT a FROM pair; DROP VIEW last"),
    ("a type dropped with the column that has it", "DROP TYPE mood CASCADE; DROP FUNCTION touch() CASCADE"),
    ("heirs", "CREATE TABLE base (id int PRIMARY KEY, a text); CREATE TABLE heir (b int, PRIMARY KEY (id)) INHERITS (base); INSERT INTO heir VALUES (1, 'a', 2); ALTER TABLE base ADD c int DEFAULT 4, ALTER a TYPE int USING length(a)"),
    ("storage, compression, options and being unlogged",
     "ALTER TABLE item ALTER remark SET STORAGE EXTERNAL; ALTER TABLE item SET (fillfactor = 70, autovacuum_enabled = false); ALTER TABLE item RESET (autovacuum_enabled);
      CREATE UNLOGGED TABLE cache (id int PRIMARY KEY, a text); INSERT INTO cache VALUES (1, 'kept'); ALTER TABLE cache SET LOGGED"),
    ("what is taken back", "BEGIN; CREATE TABLE never (id int); INSERT INTO item (name) VALUES ('never'); ROLLBACK;
      BEGIN; INSERT INTO item (name) VALUES ('kept'); SAVEPOINT s; ALTER TABLE item ADD never int; DROP TABLE odd; ROLLBACK TO s; ALTER TABLE item ADD kept int DEFAULT 1; COMMIT"),
    ("what is only for the session", "CREATE TEMP TABLE mine (id int); ALTER TABLE mine ADD a text; DROP TABLE mine"),
    ("two names that change places", "ALTER TABLE chosen RENAME TO once; ALTER TABLE copied RENAME TO chosen; ALTER TABLE once RENAME TO copied; INSERT INTO copied VALUES (77)"),
    ("changes by a program", "DO $$ BEGIN ALTER TABLE item ADD d1 int; INSERT INTO item (name, d1) VALUES ('do', 1); ALTER TABLE item ADD d2 int DEFAULT 2; END $$"),
    ("a schema dropped with all of it", "CREATE SCHEMA gone; CREATE TABLE gone.t (id int PRIMARY KEY); INSERT INTO gone.t VALUES (1); CREATE VIEW gone.v AS SELECT * FROM gone.t; DROP SCHEMA gone CASCADE"),
];

/// What the catalogs say, as lines that must be the same at both sites.
const CATALOGS: &[&str] = &[
    "SELECT n.nspname, c.relname, c.relkind::text, c.relpersistence::text, c.relreplident::text, c.reloptions::text, pg_get_userbyid(c.relowner)::text, pg_get_expr(c.relpartbound, c.oid),
            pg_get_partkeydef(c.oid), obj_description(c.oid), c.relispopulated::text, (SELECT string_agg(i.inhparent::regclass::text, ',') FROM pg_inherits i WHERE i.inhrelid = c.oid)
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'i', 'I') AND OURS ORDER BY 1, 2",
    "SELECT n.nspname, c.relname, row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum)::text, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull::text, a.attidentity::text, a.attgenerated::text,
            a.attstorage::text, a.attcompression::text, a.attcollation::regcollation::text, pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)
       FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
       LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      WHERE c.relkind IN ('r', 'p', 'v', 'm', 'c') AND a.attnum > 0 AND NOT a.attisdropped AND OURS ORDER BY 1, 2, 3::int",
    "SELECT n.nspname, k.conrelid::regclass::text, k.contypid::regtype::text, k.conname, pg_get_constraintdef(k.oid), k.conislocal::text FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
      WHERE k.contype <> 'n' AND OURS ORDER BY 1, 2, 3, 4",
    "SELECT n.nspname, indexdef, NULL FROM pg_indexes i JOIN pg_namespace n ON n.nspname = i.schemaname WHERE OURS ORDER BY 1, 2",
    "SELECT n.nspname, c.relname, pg_get_viewdef(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('v', 'm') AND OURS ORDER BY 1, 2",
    "SELECT n.nspname, t.tgrelid::regclass::text, pg_get_triggerdef(t.oid), t.tgenabled::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE NOT t.tgisinternal AND OURS ORDER BY 1, 2, 3",
    "SELECT n.nspname, pg_get_functiondef(p.oid), pg_get_userbyid(p.proowner)::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE OURS ORDER BY 1, 2",
    "SELECT n.nspname, t.typname, t.typtype::text, t.typnotnull::text, t.typdefault, format_type(t.typbasetype, t.typtypmod), pg_get_userbyid(t.typowner)::text,
            (SELECT string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid), (SELECT format_type(r.rngsubtype, NULL) FROM pg_range r WHERE r.rngtypid = t.oid)
       FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE OURS ORDER BY 1, 2",
    "SELECT n.nspname, s.sequencename, s.start_value::text, s.min_value::text, s.max_value::text, s.increment_by::text, s.cycle::text, s.data_type::text,
            (SELECT d.refobjid::regclass::text || d.refobjsubid FROM pg_depend d WHERE d.objid = format('%I.%I', s.schemaname, s.sequencename)::regclass AND d.deptype IN ('a', 'i') AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0)
       FROM pg_sequences s JOIN pg_namespace n ON n.nspname = s.schemaname WHERE OURS ORDER BY 1, 2",
    "SELECT n.nspname, pg_get_userbyid(n.nspowner)::text FROM pg_namespace n WHERE OURS ORDER BY 1",
];

/// The catalogs of a database, line by line.
async fn catalogs(server: &Server) -> Vec<String> {
    let ours = "n.nspname !~ '^(pg_|information_schema$|irongate$)'";
    let mut lines = Vec::new();
    for (n, query) in CATALOGS.iter().enumerate() {
        for row in server.rows("app", &query.replace("OURS", ours)).await {
            let cells: Vec<String> =
                row.into_iter().map(|cell| cell.unwrap_or_else(|| "-".to_owned())).collect();
            lines.push(format!("{n}: {}", cells.join(" | ")));
        }
    }
    lines
}

fn assert_like(source: &[String], target: &[String], context: &str) {
    let missing: Vec<_> = source.iter().filter(|line| !target.contains(line)).collect();
    let extra: Vec<_> = target.iter().filter(|line| !source.contains(line)).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "{context}\nonly at the source: {missing:#?}\nonly at the target: {extra:#?}"
    );
}

/// A deployment whose application's role owns everything at both sites.
pub(super) async fn owned(major: u32, more: &str) -> Deployment {
    let deployment = Deployment::new(major, more).await;
    for server in [&deployment.source, &deployment.target] {
        server
            .batch_in(
                "app",
                "CREATE ROLE app LOGIN; GRANT ALL ON SCHEMA public TO app; GRANT CREATE ON DATABASE app TO app;
                 ALTER TABLE person OWNER TO app; ALTER TABLE note OWNER TO app",
            )
            .await;
    }
    deployment
}

/// With the channel, set up and instantiated.
pub(super) async fn with_channel(major: u32, more: &str) -> Deployment {
    let deployment = owned(major, &format!("[flows.csp.ddl]\nschemas = [\"shop\", \"gone\"]\n{more}")).await;
    widen(&deployment);
    deployment.expect(0, &["setup"]).await;
    deployment.expect(0, &["instantiate", "csp"]).await;
    deployment
}

/// The flow has the tables of all schemas of the application.
fn widen(deployment: &Deployment) {
    let file = deployment.path().join("irongate.toml");
    let text = std::fs::read_to_string(&file).expect("the file was written");
    let text = text.replace("tables = [\"public.*\"]", "tables = [\"public.*\", \"shop.*\", \"gone.*\"]");
    std::fs::write(file, text).expect("the directory is ours");
}

/// Writes until it is dropped.
struct Load(tokio::task::JoinHandle<()>);

impl Load {
    async fn start(server: &Server) -> Self {
        let client = server.try_client("app", "app").await.expect("the application's role may log in");
        Self(tokio::spawn(async move {
            for n in 10_000.. {
                let sql = format!(
                    "INSERT INTO person VALUES ({n}, 'load'); UPDATE person SET name = 'loaded' WHERE id = {n} - 3;
                     INSERT INTO note VALUES ({n}, 1, 'n'); DELETE FROM note WHERE person = {n} - 10"
                );
                // Whoever changes the tables meanwhile may be in the way.
                let _ = client.batch_execute(&sql).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs a step, each statement by itself unless it is a transaction.
pub(super) async fn migrate(client: &Client, name: &str, sql: &str) {
    for statement in statements(sql) {
        let done = client.batch_execute(statement).await;
        done.unwrap_or_else(|error| {
            let said = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
            panic!("{name}: {said}: {statement}")
        });
    }
}

/// The statements of a script, whose texts and bodies can hold semicolons.
fn statements(script: &str) -> Vec<&str> {
    let (mut from, mut quoted, mut body) = (0, false, false);
    let mut found = Vec::new();
    for (at, c) in script.char_indices() {
        match c {
            '\'' if !body => quoted = !quoted,
            '$' if !quoted && script[at..].starts_with("$$") => body = !body,
            ';' if !quoted && !body => {
                found.push(script[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    found.push(script[from..].trim());
    found.retain(|statement| !statement.is_empty());
    found
}

/// Waits until the target has everything.
pub(super) async fn drained(deployment: &Deployment, mark: i32) {
    deployment.add(mark).await;
    let sql = format!("SELECT count(*) FROM person WHERE id = {mark}");
    wait_until(PATIENCE, "the last row at the target", async || {
        let group = deployment.group("csp-replicat").await;
        // One that was killed says so until the next has begun.
        let is_killed = group["error"].as_str().is_some_and(|error| error.contains("killed?"));
        assert!(group["state"] != "ABENDED" || is_killed, "{group}");
        deployment.target.scalar("app", &sql).await == "1"
    })
    .await;
}

pub(super) async fn same(deployment: &Deployment, context: &str) {
    assert_like(&catalogs(&deployment.source).await, &catalogs(&deployment.target).await, context);
    deployment.compare().await.assert_same();
}

/// A reader keeps `DETACH ... CONCURRENTLY` from its end, and it is finished later.
async fn detach_in_two_commands(deployment: &Deployment, client: &Client) {
    migrate(client, "a partition", "CREATE TABLE log_3 PARTITION OF log FOR VALUES FROM ('2026-03-01') TO ('2026-04-01'); INSERT INTO log (id, at) VALUES (200, '2026-03-05')").await;
    let reader = deployment.source.try_client("app", "app").await.expect("a session of a reader");
    migrate(&reader, "a reader", "BEGIN; SELECT FROM log").await;
    migrate(client, "a limit", "SET statement_timeout = '2s'").await;
    let halfway = client.batch_execute("ALTER TABLE log DETACH PARTITION log_3 CONCURRENTLY").await;
    let refused = halfway.expect_err("the reader is in the way");
    assert_eq!(refused.code().map(tokio_postgres::error::SqlState::code), Some("57014"), "{refused}");
    migrate(&reader, "its end", "COMMIT").await;
    migrate(client, "no limit", "RESET statement_timeout; ALTER TABLE log DETACH PARTITION log_3 FINALIZE; INSERT INTO log_3 (id, at) VALUES (201, '2026-03-06')").await;
    drained(deployment, 1_900_000).await;
    assert_like(
        &catalogs(&deployment.source).await,
        &catalogs(&deployment.target).await,
        "a partition detached by two commands",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_of_the_application_goes_through_the_channel_under_load() {
    for major in Server::majors_in_turn() {
        let deployment = with_channel(major, "").await;
        let found = deployment.expect(0, &["check"]).await;
        assert!(!found.stdout.contains("error: "), "{}", found.stdout);
        let mut extract = deployment.start("csp-extract").await;
        let mut replicat = deployment.start("csp-replicat").await;
        let load = Load::start(&deployment.source).await;
        let client = deployment.source.try_client("app", "app").await.expect("a session of the application");
        for (n, (name, sql)) in MIGRATIONS.iter().enumerate() {
            migrate(&client, name, sql).await;
            // Killed at a step, and so in the midst of others: each is applied once.
            if n % 9 == 4 {
                replicat.kill();
                replicat = Process::irongate(deployment.path(), &["run", "csp-replicat"]);
            }
            if n % 9 == 8 {
                extract.kill();
                extract = Process::irongate(deployment.path(), &["run", "csp-extract"]);
            }
            if Tier::current() == Tier::Full || sql.contains("CONCURRENTLY") {
                drained(&deployment, 1_000_000 + n as i32).await;
                assert_like(&catalogs(&deployment.source).await, &catalogs(&deployment.target).await, name);
            }
        }
        detach_in_two_commands(&deployment, &client).await;
        drop(load);
        drained(&deployment, 2_000_000).await;
        same(&deployment, "all of it").await;
        let matview = "SELECT n || ' ' || coalesce(s::text, '') FROM sums";
        if deployment.source.try_batch_in("app", matview).await.is_ok() {
            assert_eq!(
                deployment.source.scalar("app", matview).await,
                deployment.target.scalar("app", matview).await
            );
        }
        stop(replicat).await;
        stop(extract).await;
        let after = deployment.expect(0, &["check"]).await;
        assert!(!after.stdout.contains("error: "), "{}", after.stdout);
        // Nothing of it stays behind.
        deployment.expect(0, &["teardown"]).await;
        let left = "SELECT count(*) FROM pg_event_trigger";
        assert_eq!(deployment.source.scalar("app", left).await, "0");
        let schema = "SELECT count(*) FROM pg_namespace WHERE nspname = 'irongate'";
        assert_eq!(deployment.source.scalar("app", schema).await, "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_out_of_order_is_found_and_what_cannot_be_carried_stops_or_is_refused() {
    let major = Server::majors()[0];
    let deployment = with_channel(major, "on_rewrite = \"stop\"\n").await;
    deployment.source.batch("ALTER ROLE irongate_extract SET logical_decoding_work_mem = '64kB'").await;
    let extract = deployment.start("csp-extract").await;
    let mut replicat = deployment.start("csp-replicat").await;
    let client = deployment.source.try_client("app", "app").await.expect("a session of the application");

    // A transaction that is sent before its end, with changes of structure, one of which is taken back.
    migrate(
        &client,
        "a large transaction",
        "BEGIN; INSERT INTO person SELECT n, repeat('x', 100) FROM generate_series(20001, 24000) n; ALTER TABLE person ADD one int;
         UPDATE person SET one = id WHERE id > 23000; SAVEPOINT s; ALTER TABLE person ADD two int; INSERT INTO person VALUES (30000, 'gone', now(), 1, 2); ROLLBACK TO s;
         CREATE TABLE made (id int PRIMARY KEY); INSERT INTO made SELECT generate_series(1, 3000); ALTER TABLE person RENAME one TO uno; UPDATE person SET uno = 7 WHERE id = 20001; COMMIT",
    )
    .await;
    drained(&deployment, 40_000).await;
    same(&deployment, "a large transaction").await;

    // Somebody is in the way of the channel.
    for (harm, found) in [
        ("ALTER EVENT TRIGGER irongate_ddl DISABLE", "event trigger \"irongate_ddl\": it is disabled"),
        ("ALTER EVENT TRIGGER irongate_drop ENABLE ALWAYS", "it fires in replica role too"),
        (
            "DROP EVENT TRIGGER irongate_ddl",
            "it does not exist: changes of structure do not reach the target",
        ),
        ("DELETE FROM irongate.ddl_flow", "the source does not know what goes with it"),
        (
            "CREATE OR REPLACE FUNCTION irongate.ddl_schema(object oid) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb'",
            "not the one of this version",
        ),
    ] {
        deployment.source.batch_in("app", harm).await;
        if !harm.starts_with("DELETE") {
            let said = deployment.expect(3, &["check"]).await.stdout;
            assert!(said.contains(found), "{harm}: {said}");
        }
        let done = deployment.expect(0, &["setup"]).await;
        assert!(!done.stdout.is_empty() || !done.stderr.is_empty());
        let said = deployment.expect(0, &["check"]).await.stdout;
        assert!(!said.contains("error: "), "{harm}: {said}");
    }
    deployment.target.batch_in("app", "REVOKE app FROM irongate_replicat").await;
    let said = deployment.expect(3, &["check"]).await.stdout;
    assert!(
        said.contains("is no member of it") && said.contains("GRANT \"app\" TO \"irongate_replicat\""),
        "{said}"
    );
    migrate(&client, "a column without the right", "ALTER TABLE person ADD three int").await;
    let hint = abended(&deployment, &mut replicat).await;
    let (_, rest) = hint.split_once("run \"").expect("a statement in the hint");
    let (statement, _) = rest.split_once("\" at the target").expect("a place in the hint");
    deployment.target.batch_in("app", statement).await;
    replicat = deployment.start("csp-replicat").await;
    drained(&deployment, 40_001).await;
    same(&deployment, "a right that was given back").await;

    // What was rewritten, where the flow does not want it sent.
    migrate(&client, "a rewrite", "ALTER TABLE made ADD token float8 DEFAULT random()").await;
    let hint = abended(&deployment, &mut replicat).await;
    assert!(hint.contains("irongate instantiate csp") && hint.contains("on_rewrite"), "{hint}");
    stop(extract).await;
    deployment.target.batch_in("app", "ALTER TABLE made ADD token float8").await;
    deployment.expect(0, &["instantiate", "csp", "--truncate"]).await;
    deployment.compare().await.assert_same();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_be_described_is_told_or_refused() {
    let major = *Server::majors().last().expect("a version");
    let deployment = with_channel(major, "").await;
    let extract = deployment.start("csp-extract").await;
    let mut replicat = deployment.start("csp-replicat").await;
    let client = deployment.source.try_client("app", "app").await.expect("a session of the application");
    let broken = "CREATE OR REPLACE FUNCTION irongate.ddl_table(object oid) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(1 / 0)'";
    deployment.source.batch_in("app", broken).await;
    migrate(&client, "nobody knows what", "ALTER TABLE person ADD unknown int").await;
    let group = wait_for_abend(&deployment, &mut replicat).await;
    assert!(group["error"].to_string().contains("could not describe it"), "{group}");
    let file = deployment.path().join("irongate.toml");
    let text = std::fs::read_to_string(&file).expect("the file was written");
    std::fs::write(&file, text.replace("[flows.csp.ddl]\n", "[flows.csp.ddl]\non_error = \"refuse\"\n"))
        .expect("the directory is ours");
    deployment.expect(0, &["setup"]).await;
    deployment.source.batch_in("app", broken).await;
    let refused =
        client.batch_execute("ALTER TABLE person ADD refused int").await.expect_err("it is refused");
    let said = refused.as_db_error().map(ToString::to_string).unwrap_or_default();
    assert!(said.contains("irongate cannot describe what ALTER TABLE does"), "{said}");
    // What has nothing to do with it goes on.
    migrate(&client, "rows", "INSERT INTO person VALUES (50000, 'goes on')").await;
    stop(extract).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_channel_the_offered_statement_mends_the_table_and_the_flow_goes_on() {
    let major = Server::majors()[0];
    let deployment = owned(major, "").await;
    deployment.expect(0, &["setup"]).await;
    deployment.expect(0, &["instantiate", "csp"]).await;
    let extract = deployment.start("csp-extract").await;
    let mut replicat = deployment.start("csp-replicat").await;
    let client = deployment.source.try_client("app", "app").await.expect("a session of the application");
    for (n, sql) in [
        "ALTER TABLE note ADD extra varchar(7); UPDATE note SET extra = 'x' WHERE person < 5",
        "ALTER TABLE note RENAME text TO words; UPDATE note SET words = 'renamed' WHERE person = 7",
        "ALTER TABLE note ALTER extra TYPE text; UPDATE note SET extra = 'longer than seven' WHERE person = 8",
        "ALTER TABLE note ALTER number TYPE bigint; UPDATE note SET number = 10000000000 WHERE person = 9",
        "ALTER TABLE person ADD born date, ADD height numeric(5, 2); INSERT INTO person VALUES (6000, 'p', now(), '2000-01-01', 1.75)",
        "ALTER TABLE person DROP COLUMN name; INSERT INTO person VALUES (6001, now(), '2000-01-01', 1.75)",
    ]
    .iter()
    .enumerate()
    {
        migrate(&client, sql, sql).await;
        let hint = abended(&deployment, &mut replicat).await;
        let (_, rest) = hint.split_once("run \"").unwrap_or_else(|| panic!("{sql}: {hint}"));
        let (statement, _) = rest.rsplit_once("\" at the target").unwrap_or_else(|| panic!("{sql}: {hint}"));
        deployment.target.batch_in("app", statement).await;
        replicat = deployment.start("csp-replicat").await;
        let sql = format!("INSERT INTO person (id{}) VALUES ({}{})", if n < 5 { ", name" } else { "" }, 7000 + n, if n < 5 { ", 'mark'" } else { "" });
        deployment.source.batch_in("app", &sql).await;
        deployment.arrived(7000 + n as i32).await;
        deployment.compare().await.assert_same();
    }
    stop(replicat).await;
    stop(extract).await;
}

/// Waits until Replicat has given up; what info says of it.
pub(super) async fn wait_for_abend(deployment: &Deployment, replicat: &mut Process) -> serde_json::Value {
    replicat.wait(PATIENCE).await;
    let group = deployment.group("csp-replicat").await;
    assert_eq!(group["state"], "ABENDED", "{group}");
    group
}

/// The same: what it says to do.
pub(super) async fn abended(deployment: &Deployment, replicat: &mut Process) -> String {
    wait_for_abend(deployment, replicat).await["hint"].as_str().expect("a hint").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sites_change_their_structure_without_a_loop_and_hands_change_behind_it() {
    const OWNER: &str = "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'maker') THEN CREATE ROLE maker LOGIN; END IF; END $$;
         GRANT ALL ON SCHEMA public TO maker; ALTER TABLE entry OWNER TO maker";
    let major = *Server::majors().last().expect("a version");
    let ddl: String =
        ["csp", "css", "msp", "mss"].iter().map(|flow| format!("[flows.{flow}.ddl]\n")).collect();
    let plan = Plan::new(major).tables(OWNER, OWNER).more(&format!("{ACCESS}{ddl}")).control();
    let reference = prepared(plan).await;
    let managers = SITES.map(|site| reference.start(site, &["manager"]));
    running(&reference).await;
    let [main, secondary] = &reference.servers;
    // The log is written at both.
    let change = |site: &str| {
        format!(
            "CREATE TABLE of_{site} (id int PRIMARY KEY, a text); INSERT INTO of_{site} VALUES (1, '{site}'); ALTER TABLE of_{site} ADD b int DEFAULT 2; UPDATE of_{site} SET b = 3"
        )
    };
    for (site, server) in [("main", main), ("secondary", secondary)] {
        let client = server.try_client("maker", "log").await.expect("a session of the owner");
        migrate(&client, site, &change(site)).await;
    }
    reference.same(1).await;
    let both = "SELECT string_agg(o.t, ',' ORDER BY o.t) FROM (SELECT a || b AS t FROM of_main UNION ALL SELECT a || b FROM of_secondary) o";
    wait_until(PATIENCE, "both changes at both sites", async || {
        let rows = [main.try_batch_in("log", both).await, secondary.try_batch_in("log", both).await];
        rows.iter().all(Result::is_ok)
            && main.scalar("log", both).await == "main3,secondary3"
            && secondary.scalar("log", both).await == "main3,secondary3"
    })
    .await;
    reference.nothing_goes_round().await;
    // What came from the other site is published here, too.
    let client = secondary.try_client("maker", "log").await.expect("a session of the owner");
    migrate(&client, "the other site's table", "INSERT INTO of_main VALUES (2, 'back', 4)").await;
    wait_until(PATIENCE, "a row of the other site's table", async || {
        main.scalar("log", "SELECT count(*) FROM of_main WHERE id = 2").await == "1"
    })
    .await;

    // The configuration is written at one, then at the other.
    let client = main.try_client("maker", "config").await.expect("a session of the owner");
    migrate(
        &client,
        "before",
        "CREATE TABLE made (id int PRIMARY KEY, a text); INSERT INTO made VALUES (1, 'main')",
    )
    .await;
    drop(client);
    follows(&reference, 0, 1).await;
    // The owner of the new table has rights at the closed standby, and the precheck sees it.
    let refused = reference.expect("secondary", 3, &["switchover", "--to", "secondary", "--dry-run"]).await;
    assert!(refused.stderr.contains("rights came behind its fence"), "{}", refused.stderr);
    reference.expect("secondary", 0, &["fence", "secondary"]).await;
    let there = reference.json("secondary", &["switchover", "--to", "secondary"]).await;
    assert_eq!((&there["result"], &there["lost_transactions"]), (&"done".into(), &0.into()), "{there}");
    let client = secondary.try_client("maker", "config").await.expect("a session of the owner");
    migrate(&client, "after", "INSERT INTO made VALUES (2, 'secondary'); ALTER TABLE made ADD b int DEFAULT 5; CREATE TABLE more (id int PRIMARY KEY); INSERT INTO more VALUES (1)").await;
    drop(client);
    follows(&reference, 1, 2).await;
    assert_eq!(main.scalar("config", "SELECT sum(b) FROM made").await, "10");
    for manager in managers {
        stop(manager).await;
    }
}
