//! A flow between two databases: set up by hand as `setup` and `instantiate` would, with Extract and Replicat in tasks
//! of the test's process, under roles that are no superuser.
//!
//! Tests share servers (one of each version as source, one as target) and have a database each. Those that stop or
//! crash a server have servers of their own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use irongate_apply::{
    Grouping, Names, Policies, Replicat, ReplicatSettings, Retry, Stopped as ReplicatStopped,
    error_queue_setup,
};
use irongate_capture::{Extract, Settings as ExtractSettings, Source, Stopped as ExtractStopped, slot};
use irongate_checkpoint::{Applied, CheckpointTable, Status, checkpoint_setup, origin_grants, read_status};
use irongate_postgres::{Endpoint, ReplicationConnection, SlotOptions};
use irongate_tests::{Comparison, Server, Settings, Tables, TempDir, Tier, compare, in_turn, wait_for};
use irongate_trail::{Directory, Position};
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;

/// How long anything that must happen may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Versions of source and target.
pub(crate) type Pair = (u32, u32);

/// The pairs under test: in the quick tier the oldest to the newest version, otherwise each with itself, and in the full
/// tier also across versions.
pub(crate) fn pairs() -> Vec<Pair> {
    let (all, majors) = (Server::pairs(), Server::majors());
    let ends = majors.iter().min().copied().zip(majors.iter().max().copied());
    let wanted = |pair: &Pair| match Tier::current() {
        Tier::Quick => Some(*pair) == ends,
        Tier::Ci => pair.0 == pair.1,
        Tier::Full => true,
    };
    all.into_iter().filter(wanted).collect()
}

/// Of the pairs under test those of a test that lasts long.
pub(crate) fn pairs_in_turn() -> Vec<Pair> {
    in_turn(pairs())
}

/// Which of its two servers of a version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Side {
    Source,
    Target,
}

/// They live until the process ends; a watchdog of the harness ends them then.
static SHARED: Mutex<BTreeMap<(u32, Side), Arc<Server>>> = Mutex::const_new(BTreeMap::new());

async fn shared(major: u32, side: Side) -> Arc<Server> {
    let mut servers = SHARED.lock().await;
    if let Some(server) = servers.get(&(major, side)) {
        return Arc::clone(server);
    }
    let server = Arc::new(start(major, &Settings::new()).await);
    servers.insert((major, side), Arc::clone(&server));
    server
}

/// A server with the roles of Extract and Replicat.
async fn start(major: u32, settings: &Settings) -> Server {
    let mut settings = settings
        .clone()
        .set("max_replication_slots", 100)
        .set("max_wal_senders", 100)
        .set("max_connections", 300);
    if major >= 18 {
        settings = settings.set("max_active_replication_origins", 100);
    }
    let server = Server::start(major, &settings).await;
    server.batch("CREATE ROLE extract LOGIN REPLICATION; CREATE ROLE replicat LOGIN").await;
    server
}

/// One direction between two databases of the same name. Its publication has the name too.
pub(crate) struct Flow {
    pub(crate) source: Arc<Server>,
    pub(crate) target: Arc<Server>,
    /// Of the databases.
    pub(crate) database: String,
    /// Of the flow, its slot and publication.
    pub(crate) name: String,
    /// What the publication is made of; all tables by name where this is empty.
    pub(crate) publication: String,
    pub(crate) via_root: bool,
    /// How the next Extract will run.
    pub(crate) extract: ExtractSettings,
    /// How the next Replicat will run.
    pub(crate) replicat: ReplicatSettings,
    extracting: Option<Running<ExtractStopped, irongate_capture::Error>>,
    replicating: Option<Running<ReplicatStopped, irongate_apply::Error>>,
    marks: u32,
    dir: Arc<TempDir>,
}

/// How the Extract of a flow runs, whose files are in `dir`.
pub(crate) fn extract_settings(name: &str, source: &str, dir: &Path) -> ExtractSettings {
    let endpoint = Endpoint::parse(source).expect("an address of the harness");
    let source = Source::new(endpoint, slot_name(name), vec![name.to_owned()]);
    let (trail, state) = (dir.join(name), dir.join("state"));
    let mut settings = ExtractSettings::new(format!("{name}_e"), name, source, trail, state);
    settings.retry_first = Duration::from_millis(100);
    settings.retry_longest = Duration::from_secs(1);
    settings
}

/// How the Replicat of a flow runs, whose files are in `dir`.
pub(crate) fn replicat_settings(name: &str, target: &str, dir: &Path) -> ReplicatSettings {
    ReplicatSettings {
        flow: name.to_owned(),
        group: format!("{name}_r"),
        target: Endpoint::parse(target).expect("an address of the harness"),
        source: None,
        trail: dir.join(name),
        trail_may_come: false,
        state_directory: dir.join("state"),
        names: Names::default(),
        key_columns: Default::default(),
        grouping: Grouping::default(),
        synchronous_commit: false,
        policies: Policies::default(),
        sequence_margin: irongate_apply::SEQUENCE_MARGIN,
        ahead: irongate_apply::AheadSettings::default(),
        sessions: irongate_apply::SESSIONS,
        conflicts: None,
        ddl: None,
        retry: Retry { longest: Duration::from_secs(1), ..Retry::default() },
    }
}

fn slot_name(flow: &str) -> String {
    format!("irongate_{flow}")
}

impl Flow {
    /// A flow between new databases of servers that other tests use as well.
    pub(crate) async fn new(test: &str, (source, target): Pair) -> Self {
        let (source, target) = (shared(source, Side::Source).await, shared(target, Side::Target).await);
        Self::between(test, source, target).await
    }

    /// A flow between new databases of servers of its own, which [`Flow::source_server`] and [`Flow::target_server`]
    /// give for any treatment.
    pub(crate) async fn alone(test: &str, (source, target): Pair, settings: &Settings) -> Self {
        let (source, target) = tokio::join!(start(source, settings), start(target, settings));
        Self::between(test, Arc::new(source), Arc::new(target)).await
    }

    /// A flow between new databases of these encodings.
    pub(crate) async fn encoded(test: &str, (source, target): Pair, encodings: [&str; 2]) -> Self {
        let (source, target) = (shared(source, Side::Source).await, shared(target, Side::Target).await);
        let options =
            encodings.map(|encoding| format!("TEMPLATE template0 LOCALE 'C' ENCODING '{encoding}'"));
        Self::made_with(test, source, target, options.each_ref().map(String::as_str)).await
    }

    async fn between(test: &str, source: Arc<Server>, target: Arc<Server>) -> Self {
        Self::made_with(test, source, target, ["", ""]).await
    }

    async fn made_with(test: &str, source: Arc<Server>, target: Arc<Server>, options: [&str; 2]) -> Self {
        let database = format!("{test}_{}_{}", source.major(), target.major());
        // The grant on a parameter is the cluster's, and two of them at once collide.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
        let guard = ONE_AT_A_TIME.lock().await;
        for (server, options) in [(&source, options[0]), (&target, options[1])] {
            server.batch(&format!("CREATE DATABASE {database} {options}")).await;
            for sql in checkpoint_setup("replicat")
                .into_iter()
                .chain(error_queue_setup("replicat"))
                .chain(origin_grants("replicat"))
            {
                server.batch_in(&database, &sql).await;
            }
            // What `setup` grants table by table, for tables to come as well.
            server
                .batch_in(
                    &database,
                    "ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO replicat;
                     ALTER DEFAULT PRIVILEGES GRANT SELECT, UPDATE ON SEQUENCES TO replicat;
                     ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON TABLES TO replicat;
                     CREATE TABLE public.drain (flow text, n int, PRIMARY KEY (flow, n))",
                )
                .await;
        }
        drop(guard);
        let dir = Arc::new(TempDir::new());
        Self::in_databases(&database, database.clone(), source, target, dir)
    }

    fn in_databases(
        name: &str,
        database: String,
        source: Arc<Server>,
        target: Arc<Server>,
        dir: Arc<TempDir>,
    ) -> Self {
        let extract = extract_settings(name, &source.socket_uri("extract", &database), dir.path());
        let replicat = replicat_settings(name, &target.socket_uri("replicat", &database), dir.path());
        Self {
            source,
            target,
            database,
            name: name.to_owned(),
            publication: String::new(),
            via_root: false,
            extract,
            replicat,
            extracting: None,
            replicating: None,
            marks: 0,
            dir,
        }
    }

    /// The flow in the other direction between the same databases.
    pub(crate) fn reverse(&self) -> Self {
        let (source, target) = (Arc::clone(&self.target), Arc::clone(&self.source));
        let name = format!("{}_back", self.name);
        Self::in_databases(&name, self.database.clone(), source, target, Arc::clone(&self.dir))
    }

    /// The source, of a flow that has servers of its own.
    pub(crate) fn source_server(&mut self) -> &mut Server {
        Arc::get_mut(&mut self.source).expect("this test shares its servers")
    }

    /// The target, of a flow that has servers of its own.
    pub(crate) fn target_server(&mut self) -> &mut Server {
        Arc::get_mut(&mut self.target).expect("this test shares its servers")
    }

    /// Where trail and status lie.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) async fn at_source(&self, sql: &str) {
        self.source.batch_in(&self.database, sql).await;
    }

    /// Each statement, or run of statements, as a transaction of its own.
    pub(crate) async fn each_at_source(&self, transactions: &[&str]) {
        let session = self.session().await;
        for sql in transactions {
            let done = session.batch_execute(sql).await;
            done.unwrap_or_else(|error| panic!("{}: {sql}", error.as_db_error().map_or("", |e| e.message())));
        }
    }

    pub(crate) async fn at_target(&self, sql: &str) {
        self.target.batch_in(&self.database, sql).await;
    }

    pub(crate) async fn at_both(&self, sql: &str) {
        tokio::join!(self.at_source(sql), self.at_target(sql));
    }

    /// A session of the superuser at the source.
    pub(crate) async fn session(&self) -> tokio_postgres::Client {
        self.source.client(&self.database).await
    }

    /// One value at the source.
    pub(crate) async fn source_says(&self, sql: &str) -> String {
        self.source.scalar(&self.database, sql).await
    }

    /// One value at the target.
    pub(crate) async fn target_says(&self, sql: &str) -> String {
        self.target.scalar(&self.database, sql).await
    }

    /// Transactions of more than 64 kB reach Extract before their end, or are spilled by the server where streaming is
    /// off.
    pub(crate) async fn little_decoding_memory(&self) {
        let sql = format!(
            "ALTER ROLE extract IN DATABASE {} SET logical_decoding_work_mem = '64kB'",
            self.database
        );
        self.at_source(&sql).await;
    }

    /// Publication, slot, trail, checkpoint; what is in the tables by now must be the same on both sides.
    pub(crate) async fn set_up(&self) {
        const TABLES: &str = "SELECT string_agg(format('%I.%I', n.nspname, c.relname), ', ')
              FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
               AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'irongate')";
        let tables = match self.publication.as_str() {
            "" => self.source_says(TABLES).await,
            given => format!("{given}, public.drain"),
        };
        // Published first: a slot does not see a publication that is made later.
        self.at_source(&format!(
            "CREATE PUBLICATION {} FOR TABLE {tables} WITH (publish_via_partition_root = {})",
            self.name, self.via_root
        ))
        .await;
        let endpoint = &self.extract.source.endpoint;
        let mut connection = ReplicationConnection::connect(endpoint, "set-up").await.expect("a connection");
        let storage = Directory::create(&self.extract.trail).expect("a directory for the trail");
        let slot = &self.extract.source.slot;
        let created =
            slot::create(&mut connection, slot, SlotOptions::default(), Arc::new(storage), &self.name)
                .await
                .expect("a slot and a trail");
        let client = self.target.try_client("replicat", &self.database).await.expect("a session");
        client.batch_execute("SET default_transaction_read_only = off").await.expect("a session that writes");
        let table = CheckpointTable::prepare(&client, &self.name).await.expect("a checkpoint table");
        let applied = Applied {
            lineage: created.lineage,
            end_lsn: created.start,
            position: Position { seqno: 1, offset: 0 },
            epoch: 1,
            ..Applied::default()
        };
        table.initialise(&client, &applied).await.expect("a checkpoint");
    }

    /// Set-up, then Extract and Replicat.
    pub(crate) async fn start(&mut self) {
        self.set_up().await;
        self.start_extract().await;
        self.start_replicat().await;
    }

    /// Starts Extract, as soon as the one before it has let go of the group.
    pub(crate) async fn start_extract(&mut self) {
        assert!(self.extracting.is_none(), "Extract runs already");
        self.let_go(&self.extract.group).await;
        let extract = Extract::new(self.extract.clone());
        self.extracting = Some(Running::start(|stop| tokio::spawn(extract.run(stop))));
    }

    /// Starts Replicat, as soon as the one before it has let go of the group.
    pub(crate) async fn start_replicat(&mut self) {
        assert!(self.replicating.is_none(), "Replicat runs already");
        self.let_go(&self.replicat.group).await;
        let replicat = Replicat::new(self.replicat.clone());
        self.replicating = Some(Running::start(|stop| tokio::spawn(replicat.run(stop))));
    }

    /// An aborted task's lock goes when its last thread does.
    async fn let_go(&self, group: &str) {
        wait_for(PATIENCE, "the group's lock", async || {
            match irongate_checkpoint::GroupLock::is_held(&self.extract.state_dir, group) {
                Ok(false) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    pub(crate) async fn stop_extract(&mut self) -> ExtractStopped {
        let running = self.extracting.take().expect("Extract does not run");
        running.stop().await.unwrap_or_else(|error| panic!("Extract ended: {error}"))
    }

    pub(crate) async fn stop_replicat(&mut self) -> ReplicatStopped {
        let running = self.replicating.take().expect("Replicat does not run");
        running.stop().await.unwrap_or_else(|error| panic!("Replicat ended: {error}"))
    }

    /// Ends Extract as `kill -9` would, as far as a task can.
    pub(crate) async fn kill_extract(&mut self) {
        self.extracting.take().expect("Extract does not run").kill().await;
    }

    /// Ends Replicat as `kill -9` would, as far as a task can.
    pub(crate) async fn kill_replicat(&mut self) {
        self.replicating.take().expect("Replicat does not run").kill().await;
    }

    /// Waits for Replicat to end by an error, which must be one that a retry cannot help.
    pub(crate) async fn replicat_abends(&mut self) -> irongate_apply::Error {
        let running = self.replicating.take().expect("Replicat does not run");
        let begin = Instant::now();
        while !running.has_ended() {
            assert!(begin.elapsed() < PATIENCE, "Replicat goes on:\n{}", self.describe());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let error = running.ends().await.expect_err("Replicat should have abended");
        assert!(!error.is_transient(), "{error}");
        let status = self.status(&self.replicat.group).expect("a status");
        assert_eq!(status.state, irongate_checkpoint::State::Abended);
        assert_eq!(status.error.map(|failure| failure.message), Some(error.to_string()));
        error
    }

    /// What a group publishes of itself.
    pub(crate) fn status(&self, group: &str) -> Option<Status> {
        read_status(&self.extract.state_dir, group).expect("a readable status")
    }

    /// Waits until everything that is committed at the source by now is applied.
    pub(crate) async fn drain(&mut self) {
        self.drain_within(PATIENCE).await;
    }

    pub(crate) async fn drain_within(&mut self, patience: Duration) {
        self.marks += 1;
        let (name, n) = (&self.name, self.marks);
        self.at_source(&format!("INSERT INTO public.drain VALUES ('{name}', {n})")).await;
        let question = format!("SELECT count(*) FROM public.drain WHERE flow = '{name}' AND n = {n}");
        let begin = Instant::now();
        while self.target_says(&question).await != "1" {
            self.assert_running().await;
            assert!(begin.elapsed() < patience, "not drained after {patience:?}:\n{}", self.describe());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Goes on only while no task has ended.
    pub(crate) async fn assert_running(&mut self) {
        if self.extracting.as_ref().is_some_and(Running::has_ended)
            && let Some(running) = self.extracting.take()
        {
            panic!("Extract ended: {}", what(running.ends().await));
        }
        if self.replicating.as_ref().is_some_and(Running::has_ended)
            && let Some(running) = self.replicating.take()
        {
            panic!("Replicat ended: {}", what(running.ends().await));
        }
    }

    pub(crate) async fn compare(&self, tables: &Tables) -> Comparison {
        let uri = |server: &Server| server.socket_uri("postgres", &self.database);
        compare(&uri(&self.source), &uri(&self.target), tables).await
    }

    /// Drains and compares every table.
    pub(crate) async fn assert_same(&mut self) {
        self.drain().await;
        self.compare(&Tables::All).await.assert_same();
    }

    /// Stops both and gives back what the servers hold.
    pub(crate) async fn end(mut self) {
        if self.replicating.is_some() {
            self.stop_replicat().await;
        }
        if self.extracting.is_some() {
            self.stop_extract().await;
        }
        let slot = &self.extract.source.slot;
        // The walsender may need a moment to notice.
        wait_for(PATIENCE, "the slot to be free", async || {
            let sql = format!("SELECT pg_drop_replication_slot('{slot}')");
            let dropped = self.source.try_batch_in(&self.database, &sql).await;
            dropped.map_err(|error| error.as_db_error().map_or(String::new(), |e| e.message().to_owned()))
        })
        .await;
        if Arc::strong_count(&self.dir) == 1 {
            self.drop_databases().await;
        }
        let own = irongate_checkpoint::Origin::of_flow(&self.name).expect("a name");
        // Of work ahead, and of the sessions beside.
        let others = (1000..1000 + self.replicat.sessions as u32)
            .map(|number| irongate_checkpoint::Origin::of_worker(&self.name, number).expect("a name"));
        let client = self.target.client("postgres").await;
        for origin in others.chain([own]) {
            origin.drop(&client).await.expect("an origin that nobody uses");
        }
    }

    /// Takes the databases away, which no slot may hold any more.
    pub(crate) async fn drop_databases(&self) {
        for server in [&self.source, &self.target] {
            server.batch(&format!("DROP DATABASE {} WITH (FORCE)", self.database)).await;
        }
    }

    /// Drains, compares every table, stops both: the usual end.
    pub(crate) async fn end_same(mut self) {
        self.assert_same().await;
        self.end().await;
    }

    fn describe(&self) -> String {
        [&self.extract.group, &self.replicat.group]
            .map(|group| format!("{:#?}", read_status(&self.extract.state_dir, group)))
            .join("\n")
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (side, server) in [("source", &self.source), ("target", &self.target)] {
                println!("--- end of the log of the {side} of {}\n{}\n---", self.name, server.log_tail(25));
            }
        }
    }
}

fn what<T: std::fmt::Debug, E: std::fmt::Display>(result: Result<T, E>) -> String {
    match result {
        Ok(stopped) => format!("{stopped:?}"),
        Err(error) => error.to_string(),
    }
}

/// An Extract or Replicat in a task of its own. Dropped, it ends.
struct Running<T, E> {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<T, E>>,
}

type Stop = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

impl<T, E: std::fmt::Display> Running<T, E> {
    fn start(spawn: impl FnOnce(Stop) -> JoinHandle<Result<T, E>>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let stopped = Box::pin(async move {
            // A sender that is gone without a word belongs to a test that is over.
            _ = stopped.await;
        });
        Self { stop: Some(stop), task: spawn(stopped) }
    }

    fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    async fn stop(mut self) -> Result<T, E> {
        if let Some(stop) = self.stop.take() {
            _ = stop.send(());
        }
        self.ends().await
    }

    async fn ends(self) -> Result<T, E> {
        let _stop = self.stop;
        let ended = tokio::time::timeout(PATIENCE, self.task).await.expect("an end in time");
        ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    async fn kill(self) {
        self.task.abort();
        match self.task.await {
            Err(error) if error.is_cancelled() => {}
            Err(error) => std::panic::resume_unwind(error.into_panic()),
            Ok(result) => panic!("ended before it was killed: {}", what(result.map(|_| ()))),
        }
    }
}
