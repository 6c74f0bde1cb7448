//! A deployment of one flow between two servers, with its configuration file and commands run beside it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use irongate_tests::{Comparison, Finished, Process, Server, Settings, Tables, TempDir, compare, wait_until};
use serde_json::Value;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Two servers with a database "app" each, and a flow "csp" between them.
pub(crate) struct Deployment {
    // Processes end before the servers, and the directory goes last.
    pub(crate) source: Server,
    pub(crate) target: Server,
    pub(crate) directory: TempDir,
}

/// Writes the application's tables of a server until it is ended, or dropped.
pub(crate) struct Writer {
    ends: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Writer {
    /// Runs what `sql` makes of a number that grows, again and again.
    pub(crate) async fn start(server: &Server, sql: fn(i32) -> String) -> Self {
        let client = server.client("app").await;
        let ends = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&ends);
        let task = tokio::spawn(async move {
            for n in (10_000_i32..).take_while(|_| !ended.load(Ordering::Relaxed)) {
                client.batch_execute(&sql(n)).await.expect("the server stays");
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
        });
        Self { ends, task }
    }

    /// Ends it behind a whole statement: one that is only dropped may leave the server to finish what it was at,
    /// and with it a change behind whatever is compared next.
    pub(crate) async fn end(mut self) {
        self.ends.store(true, Ordering::Relaxed);
        (&mut self.task).await.expect("it writes until then");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Tables of the application.
const TABLES: &str = "
CREATE TABLE person (id int PRIMARY KEY, name text NOT NULL, at timestamptz DEFAULT now());
CREATE TABLE note (person int NOT NULL REFERENCES person, number int, text text, PRIMARY KEY (person, number));";

impl Deployment {
    /// Servers, tables and a configuration; `more` is added to the file. Nothing of Irongate is there yet.
    pub(crate) async fn new(major: u32, more: &str) -> Self {
        Self::between((major, major), more).await
    }

    /// The same between two major versions.
    pub(crate) async fn between(majors: (u32, u32), more: &str) -> Self {
        let settings = Settings::new();
        let (source, target) = Server::start_two(majors, &settings).await;
        for server in [&source, &target] {
            server.create_database("app").await;
            server.batch_in("app", TABLES).await;
        }
        let insert = "INSERT INTO person SELECT n, 'person ' || n FROM generate_series(1, 1000) n;
             INSERT INTO note SELECT n, 1, repeat('note ', n % 50) FROM generate_series(1, 1000) n";
        source.batch_in("app", insert).await;
        let directory = TempDir::new();
        let password = directory.path().join("password");
        fs::write(&password, "a secret of its own").expect("the directory is ours");
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        let database = |site: &str, server: &Server| {
            format!(
                "[databases.app.{site}]\nuri = \"postgresql://127.0.0.1:{}/app\"\npassword_file = \"password\"\n\
                 admin_uri = \"{}\"\n",
                server.port(),
                server.uri("postgres", "app")
            )
        };
        let text = format!(
            "site = \"secondary\"\n[deployment]\nname = \"shop\"\nstate_directory = \"state\"\n\
             [sites.main]\n[sites.secondary]\n{}{}\
             [flows.csp]\ndatabase = \"app\"\nfrom = \"main\"\nto = \"secondary\"\ntables = [\"public.*\"]\n\
             [flows.csp.extract]\nretry_delay = \"100ms\"\nprogress_interval = \"200ms\"\n{more}",
            database("main", &source),
            database("secondary", &target),
        );
        fs::write(directory.path().join("irongate.toml"), text).expect("the directory is ours");
        Self { source, target, directory }
    }

    /// The same, set up and instantiated.
    pub(crate) async fn ready(major: u32, more: &str) -> Self {
        let deployment = Self::new(major, more).await;
        deployment.expect(0, &["setup"]).await;
        deployment.expect(0, &["instantiate", "csp"]).await;
        deployment
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Runs a command to its end, and expects this exit code.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32, arguments: &[&str]) -> impl Future<Output = Finished> + use<> {
        let caller = std::panic::Location::caller();
        let process = Process::irongate(self.path(), arguments);
        let arguments = arguments.join(" ");
        async move {
            let finished = process.finish(PATIENCE).await;
            assert_eq!(
                finished.code(),
                code,
                "irongate {arguments} at {caller}\n{}\n{}",
                finished.stdout,
                finished.stderr
            );
            finished
        }
    }

    /// Its JSON document.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> impl Future<Output = Value> + use<> {
        let finished = self.expect(0, &[arguments, &["--json"]].concat());
        async move { finished.await.json() }
    }

    /// Starts a group and waits until it runs.
    pub(crate) async fn start(&self, group: &str) -> Process {
        let process = Process::irongate(self.path(), &["run", group]);
        wait_until(PATIENCE, &format!("{group} to be RUNNING"), async || {
            self.group(group).await["state"] == "RUNNING"
        })
        .await;
        process
    }

    /// What info says of a group.
    pub(crate) async fn group(&self, name: &str) -> Value {
        self.json(&["info", name]).await["groups"][0].clone()
    }

    /// Waits until the target has a person.
    pub(crate) async fn arrived(&self, id: i32) {
        let sql = format!("SELECT count(*) FROM person WHERE id = {id}");
        wait_until(PATIENCE, "the last row at the target", async || {
            self.target.scalar("app", &sql).await == "1"
        })
        .await;
    }

    /// Adds a person at the source.
    pub(crate) async fn add(&self, id: i32) {
        let sql = format!("INSERT INTO person VALUES ({id}, 'person {id}')");
        self.source.batch_in("app", &sql).await;
    }

    pub(crate) async fn compare(&self) -> Comparison {
        let [source, target] = [&self.source, &self.target].map(|server| server.uri("postgres", "app"));
        compare(&source, &target, &Tables::All).await
    }
}

/// Asks a process to end, and expects that it does in good order.
pub(crate) async fn stop(mut process: Process) {
    process.terminate();
    let status = process.wait(PATIENCE).await;
    assert!(status.success(), "{status}\n{}", process.stderr());
}
