//! Two sites with a flow between them, of which one is about to be lost.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use irongate_deployment::Configuration;
use irongate_tests::{Finished, Process, Server, Settings, TempDir, wait_until};
use serde_json::Value;
use tokio_postgres::Client;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A table of every kind that there is a way to identify rows, and of values that are easily spoilt.
pub(crate) const TABLES: &str = "
    CREATE TABLE entry (n bigint PRIMARY KEY, word text);
    CREATE TABLE whole (id int PRIMARY KEY, name text, more json, spot point);
    ALTER TABLE whole REPLICA IDENTITY FULL;
    CREATE TABLE keyless (x int, y text);
    ALTER TABLE keyless REPLICA IDENTITY FULL;
    CREATE TABLE by_index (a int NOT NULL, b text NOT NULL, v text);
    CREATE UNIQUE INDEX by_index_b ON by_index (b);
    ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_b;
    CREATE TABLE part (id int, region text, v text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
    CREATE TABLE part_n PARTITION OF part FOR VALUES IN ('n');
    CREATE TABLE part_s PARTITION OF part FOR VALUES IN ('s');
    CREATE TABLE made (id int PRIMARY KEY, base int, twice int GENERATED ALWAYS AS (base * 2) STORED,
                       n bigint GENERATED ALWAYS AS IDENTITY);
    CREATE TABLE toast (id int PRIMARY KEY, big text, small text);
    ALTER TABLE toast ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE emptied (id int PRIMARY KEY);
    CREATE TYPE mood AS ENUM ('so', 'la la');
    CREATE DOMAIN short AS varchar(8) CHECK (value <> '');
    CREATE TABLE \"Odd \"\"ta.ble/\" (\"Id \"\"x\" short PRIMARY KEY, c char(5), m mood, a text[], j jsonb, b bytea, t timestamptz,
                                 f float8, r int4range, d bit(3), p money, i interval, u bool);
    CREATE TABLE plain (id int PRIMARY KEY, b bool, c char(5), n numeric, t timestamptz, j jsonb, y bytea, f float8,
                        i interval, u uuid, v varchar(9));
    CREATE TABLE parent (id int PRIMARY KEY);
    CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE);
    CREATE TABLE audit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, said text);
    CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO public.audit (said) VALUES (new.id::text); RETURN new; END';
    CREATE TRIGGER noted AFTER INSERT ON parent FOR EACH ROW EXECUTE FUNCTION noted();";

/// What is in them when the flow begins.
pub(crate) const ROWS: &str = "
    INSERT INTO entry SELECT -n, 'before' FROM generate_series(1, 20) n;
    INSERT INTO whole SELECT n, 'name ' || n, '{\"n\": 1}', '(1,2)' FROM generate_series(1, 5) n;
    INSERT INTO keyless VALUES (1, 'twin'), (1, 'twin'), (2, NULL);
    INSERT INTO by_index VALUES (1, 'one', 'v'), (2, 'two', 'v'), (3, 'three', 'v');
    INSERT INTO part VALUES (1, 'n', 'v'), (2, 's', 'v');
    INSERT INTO made (id, base) VALUES (1, 1), (2, 2);
    INSERT INTO toast SELECT n, repeat(md5(n::text), 300), 'small' FROM generate_series(1, 3) n;
    INSERT INTO emptied VALUES (1), (2);
    INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1, 1), (2, 2)";

/// Two servers with a database \"app\" each, a flow \"csp\" from main to secondary, and what runs of it.
pub(crate) struct World {
    // Processes end before the servers, and the directory goes last.
    extract: Option<Process>,
    replicat: Option<Process>,
    pub(crate) main: Server,
    pub(crate) secondary: Server,
    pub(crate) directory: TempDir,
}

impl World {
    /// Set up, instantiated and running; `more` is added to the settings of Extract.
    pub(crate) async fn new(major: u32, more: &str) -> Self {
        Self::with(major, more, "\"public.*\"").await
    }

    /// The same with a flow of these tables.
    pub(crate) async fn with(major: u32, more: &str, tables: &str) -> Self {
        // Nobody else takes transaction ids, so that it shows who does.
        let settings = Settings::new().set("autovacuum", "off");
        let (main, secondary) = Server::start_two((major, major), &settings).await;
        for server in [&main, &secondary] {
            server.create_database("app").await;
            server.batch_in("app", &format!("CREATE ROLE app LOGIN; {TABLES}")).await;
        }
        main.batch_in("app", ROWS).await;
        let directory = TempDir::new();
        let password = directory.path().join("password");
        fs::write(&password, "a secret of its own").unwrap();
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
        let database = |site: &str, server: &Server| {
            format!(
                "[databases.app.{site}]\nuri = \"postgresql://127.0.0.1:{}/app\"\npassword_file = \"password\"\n\
                 admin_uri = \"{}\"\n",
                server.port(),
                server.uri("postgres", "app")
            )
        };
        let text = format!(
            "site = \"main\"\n[deployment]\nname = \"shop\"\nstate_directory = \"state\"\n[sites.main]\n[sites.secondary]\n\
             {}{}[access.app]\nroles = [\"app\"]\n\
             [flows.csp]\ndatabase = \"app\"\nfrom = \"main\"\nto = \"secondary\"\nat = \"main\"\ntables = [{tables}]\n\
             [flows.csp.extract]\nretry_delay = \"100ms\"\nprogress_interval = \"200ms\"\n{more}",
            database("main", &main),
            database("secondary", &secondary),
        );
        fs::write(directory.path().join("irongate.toml"), text).unwrap();
        let mut world = Self { extract: None, replicat: None, main, secondary, directory };
        world.expect(0, &["setup"]).await;
        world.expect(0, &["instantiate", "csp"]).await;
        world.start_extract();
        world.replicat = Some(world.start("csp-replicat"));
        world.mark(-1000).await;
        world
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn trail(&self) -> PathBuf {
        self.path().join("state/trail/csp")
    }

    /// The numbered files of the trail, in order.
    pub(crate) fn trail_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.trail()).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> =
            entries.filter(|path| path.extension().is_some_and(|ext| ext == "trail")).collect();
        files.sort();
        files
    }

    fn start(&self, group: &str) -> Process {
        Process::irongate(self.path(), &["run", group])
    }

    pub(crate) fn start_extract(&mut self) {
        self.extract = Some(self.start("csp-extract"));
    }

    pub(crate) fn kill_extract(&mut self) {
        self.extract.take().expect("it runs").kill();
    }

    /// Ends a group in good order.
    async fn stop(mut process: Process) {
        process.terminate();
        let status = process.wait(PATIENCE).await;
        assert!(status.success(), "{status}\n{}", process.stderr());
    }

    pub(crate) async fn stop_extract(&mut self) {
        Self::stop(self.extract.take().expect("it runs")).await;
    }

    /// Nothing is applied from here on.
    pub(crate) async fn cut(&mut self) {
        Self::stop(self.replicat.take().expect("it runs")).await;
    }

    /// Runs a command to its end, and expects this exit code.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32, arguments: &[&str]) -> impl Future<Output = Finished> + use<> {
        let caller = std::panic::Location::caller();
        let process = Process::irongate(self.path(), arguments);
        let arguments = arguments.join(" ");
        async move {
            let finished = process.finish(PATIENCE).await;
            let (out, err) = (&finished.stdout, &finished.stderr);
            assert_eq!(finished.code(), code, "irongate {arguments} at {caller}\n{out}\n{err}");
            finished
        }
    }

    /// Waits until what is committed at main by now is at secondary.
    pub(crate) async fn mark(&self, n: i64) {
        self.main.batch_in("app", &format!("INSERT INTO entry VALUES ({n}, 'mark')")).await;
        let sql = format!("SELECT count(*) FROM entry WHERE n = {n}");
        wait_until(PATIENCE, "the mark at secondary", async || {
            self.secondary.scalar("app", &sql).await == "1"
        })
        .await;
    }

    /// Waits until the slot says that everything committed at main by now is in the trail.
    pub(crate) async fn captured(&self) {
        let end = self.main.scalar("app", "SELECT pg_current_wal_lsn()").await;
        let sql = format!(
            "SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots WHERE slot_name ~ 'csp'"
        );
        wait_until(PATIENCE, "everything to be captured", async || {
            self.main.scalar("app", &sql).await == "t"
        })
        .await;
    }

    /// As a failover does: from here on secondary writes.
    pub(crate) async fn fail_over(&self) {
        let sql = "CREATE TABLE irongate.role (one boolean PRIMARY KEY DEFAULT true, live text, epoch bigint,
                   next_live text, next_epoch bigint, run text, holder text, run_since timestamptz, changed timestamptz);
             INSERT INTO irongate.role (live, epoch) VALUES ('secondary', 2)";
        self.secondary.batch_in("app", sql).await;
    }

    /// The place that secondary has applied everything before.
    pub(crate) async fn divergence(&self) -> String {
        self.secondary.scalar("app", "SELECT end_lsn FROM irongate.checkpoint WHERE flow = 'csp'").await
    }

    /// A salvage, by its document, and what the command printed.
    pub(crate) async fn salvage(&self, code: i32, out: &str, more: &[&str]) -> (Found, Value) {
        let words = [&["salvage", "main", "--json", "--out", out], more].concat();
        let printed = self.expect(code, &words).await.json();
        (Found::read(&self.path().join(out)), printed)
    }

    /// Everything that must not change at either site: rows, the next transaction id, the slot, the trail.
    pub(crate) async fn state(&self) -> BTreeMap<String, String> {
        let mut state = BTreeMap::new();
        for (site, server) in [("main", &self.main), ("secondary", &self.secondary)] {
            let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())";
            state.insert(format!("{site} next transaction"), server.scalar("app", next).await);
            let tables = "SELECT string_agg(t::text, ' ' ORDER BY t::text) FROM
                 (SELECT n.nspname, c.relname, c.relnatts FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname IN ('public', 'irongate')) t";
            state.insert(format!("{site} tables"), server.scalar("app", tables).await);
        }
        let slot = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name ~ 'csp'";
        state.insert(
            "slot".to_owned(),
            self.main.rows("app", slot).await.into_iter().flatten().flatten().collect(),
        );
        if self.trail().exists() {
            for entry in fs::read_dir(self.trail()).unwrap() {
                let path = entry.unwrap().path();
                let changed = fs::metadata(&path).unwrap().modified().unwrap();
                let content = crc32c::crc32c(&fs::read(&path).unwrap());
                state.insert(path.display().to_string(), format!("{changed:?} {content}"));
            }
        }
        state
    }

    pub(crate) fn configuration(&self) -> Configuration {
        Configuration::load(&self.path().join("irongate.toml")).unwrap()
    }
}

/// Client that keeps its own books: the transaction id of each commit that was acknowledged.
pub(crate) struct Books {
    client: Client,
    pub(crate) kept: Vec<u64>,
}

impl Books {
    pub(crate) async fn open(server: &Server) -> Self {
        Self { client: server.client("app").await, kept: Vec::new() }
    }

    /// One transaction.
    pub(crate) async fn commit(&mut self, sql: &str) -> u64 {
        let done = async {
            self.client.batch_execute(&format!("BEGIN; {sql}")).await?;
            let row = self.client.query_one("SELECT pg_current_xact_id()::text", &[]).await?;
            self.client.batch_execute("COMMIT").await?;
            Ok::<_, tokio_postgres::Error>(row.get::<_, String>(0).parse().unwrap())
        };
        let xid = done.await.unwrap_or_else(|error: tokio_postgres::Error| {
            panic!("{}: {sql}", error.as_db_error().map_or("", |error| error.message()))
        });
        self.kept.push(xid);
        xid
    }

    /// Something that leaves nothing to be replicated.
    pub(crate) async fn beside(&mut self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap();
    }
}

/// The document of a salvage.
pub(crate) struct Found {
    pub(crate) directory: PathBuf,
    pub(crate) document: Value,
}

impl Found {
    pub(crate) fn read(directory: &Path) -> Self {
        let text = fs::read_to_string(directory.join("salvage.json")).unwrap();
        Self { directory: directory.to_owned(), document: serde_json::from_str(&text).unwrap() }
    }

    pub(crate) fn transactions(&self) -> &Vec<Value> {
        self.document["transactions"].as_array().unwrap()
    }

    /// The ids of the transactions, in order.
    pub(crate) fn xids(&self) -> Vec<u64> {
        self.transactions().iter().map(|transaction| transaction["xid"].as_u64().unwrap()).collect()
    }

    pub(crate) fn from(&self, source: &str) -> usize {
        self.transactions().iter().filter(|transaction| transaction["source"] == source).count()
    }

    pub(crate) fn changes(&self, xid: u64) -> &Vec<Value> {
        let found = self.transactions().iter().find(|transaction| transaction["xid"] == xid);
        found.unwrap_or_else(|| panic!("there is no transaction {xid}"))["changes"].as_array().unwrap()
    }

    pub(crate) fn unknown(&self) -> &Vec<Value> {
        self.document["summary"]["unknown"].as_array().unwrap()
    }

    /// Fills the form in: everything as `decision`, but for the tables that are named.
    pub(crate) fn decide(&self, decision: &str, others: &[(&str, &str)]) {
        let path = self.directory.join("decisions.toml");
        let mut lines = Vec::new();
        for line in fs::read_to_string(&path).unwrap().lines() {
            let other = others.iter().find(|(table, _)| line.starts_with(&format!("\"{table}\" =")));
            lines.push(match other {
                Some((table, said)) => format!("\"{table}\" = {said}"),
                None => line.replace("\"undecided\"", &format!("\"{decision}\"")),
            });
        }
        let text = lines.join("\n").replace("signed_off_by = \"\"", "signed_off_by = \"A. Dba\"");
        fs::write(&path, text).unwrap();
    }

    pub(crate) fn report(&self) -> String {
        fs::read_to_string(self.directory.join("report.txt")).unwrap()
    }
}
