//! A source and a target server, and the two ways between them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use irongate_apply::error_queue_setup;
use irongate_checkpoint::{Applied, CheckpointTable, checkpoint_setup};
use irongate_postgres::{Endpoint, ReplicationConnection, SlotOptions};
use irongate_tests::{Server, Settings, TempDir};
use irongate_trail::{Directory, Position};
use tokio_postgres::Client;

use crate::processes::{Used, used};

/// Longest time that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(600);

const SCHEMA: &str = "
    CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
    CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84));
    CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88));
    CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
    CREATE TABLE bulk (id int PRIMARY KEY, a int, b text, c timestamptz);
    CREATE TABLE tick (id bigint PRIMARY KEY, at timestamptz);
    CREATE TABLE marker (n bigint PRIMARY KEY);";

/// Who replicates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Native,
    Ours,
}

/// Two servers; on the target one database for each way.
pub(crate) struct Pair {
    pub(crate) source: Server,
    pub(crate) target: Server,
    pub(crate) source_client: Client,
    dir: TempDir,
    major: u32,
    synchronous_commit: bool,
}

/// Extract and Replicat, running.
pub(crate) struct Ours {
    pub(crate) extract: Option<Child>,
    pub(crate) replicat: Option<Child>,
}

impl Drop for Ours {
    fn drop(&mut self) {
        for child in [&mut self.extract, &mut self.replicat].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Pair {
    pub(crate) async fn start(major: u32, scale: u32, synchronous_commit: bool) -> anyhow::Result<Self> {
        eprintln!("PostgreSQL {major}: starting two servers with scale {scale}");
        // Durable servers on a disk, with room to work; checkpoints stay out of the measurement as far as they can.
        let settings = Settings::new()
            .on_disk()
            .fsync(true)
            .set("shared_buffers", "512MB")
            .set("max_wal_size", "8GB")
            .set("checkpoint_timeout", "1h")
            .set("full_page_writes", "on")
            .set("synchronous_commit", "on")
            .set("autovacuum", "on")
            // Or the launcher makes native wait up to 5 s when it is enabled again.
            .set("wal_retrieve_retry_interval", "1ms")
            .set("max_worker_processes", 16);
        let (source, target) = Server::start_two((major, major), &settings).await;
        source.create_database("bench").await;
        target.create_database("native").await;
        target.create_database("ours").await;
        let rows = format!(
            "INSERT INTO pgbench_branches SELECT g, 0, '' FROM generate_series(1, {scale}) g;
             INSERT INTO pgbench_tellers SELECT g, 1 + (g - 1) / 10, 0, '' FROM generate_series(1, {scale} * 10) g;
             INSERT INTO pgbench_accounts SELECT g, 1 + (g - 1) / 100000, 0, '' FROM generate_series(1, {scale} * 100000) g;"
        );
        let mixed = crate::mixed::schema();
        let fill = format!("{SCHEMA}{rows}{mixed}VACUUM ANALYZE;");
        let (schema, vacuum) = fill.split_at(fill.len() - "VACUUM ANALYZE;".len());
        for (server, database) in [(&source, "bench"), (&target, "native"), (&target, "ours")] {
            server.batch_in(database, schema).await;
            server.batch_in(database, vacuum).await;
        }
        let source_client = source.client("bench").await;
        let dir = TempDir::new();
        let pair = Self { source, target, source_client, dir, major, synchronous_commit };
        pair.set_up().await?;
        Ok(pair)
    }

    pub(crate) fn major(&self) -> u32 {
        self.major
    }

    pub(crate) async fn version(&self) -> anyhow::Result<String> {
        Ok(self.source.scalar("bench", "SHOW server_version").await)
    }

    async fn set_up(&self) -> anyhow::Result<()> {
        let tables = format!(
            "pgbench_accounts, pgbench_tellers, pgbench_branches, pgbench_history, bulk, tick, marker, {}",
            crate::mixed::tables()
        );
        self.source.batch_in("bench", &format!("CREATE PUBLICATION all_of_it FOR TABLE {tables}")).await;
        self.source
            .batch_in("bench", "SELECT pg_create_logical_replication_slot('native', 'pgoutput')")
            .await;
        let streaming = if self.major >= 16 { "parallel" } else { "on" };
        let commit = if self.synchronous_commit { "on" } else { "off" };
        let subscription = format!(
            "CREATE SUBSCRIPTION native CONNECTION 'host=127.0.0.1 port={} user=postgres dbname=bench' \
             PUBLICATION all_of_it WITH (create_slot = false, slot_name = 'native', enabled = false, \
             copy_data = false, streaming = {streaming}, synchronous_commit = {commit})",
            self.source.port()
        );
        self.target.batch_in("native", &subscription).await;
        for sql in checkpoint_setup("postgres").into_iter().chain(error_queue_setup("postgres")) {
            self.target.batch_in("ours", &sql).await;
        }
        self.make_flow("ours").await
    }

    /// A slot, a trail and a checkpoint for our way, by the flow's name.
    pub(crate) async fn make_flow(&self, flow: &str) -> anyhow::Result<()> {
        let mut connection = ReplicationConnection::connect(&self.source_endpoint()?, "bench").await?;
        let storage = Arc::new(Directory::create(self.trail(flow))?);
        let created =
            irongate_capture::slot::create(&mut connection, flow, SlotOptions::default(), storage, flow)
                .await?;
        let client = self.target.client("ours").await;
        let applied = Applied {
            lineage: created.lineage,
            end_lsn: created.start,
            position: Position { seqno: 1, offset: 0 },
            epoch: 1,
            ..Applied::default()
        };
        CheckpointTable::prepare(&client, flow).await?.initialise(&client, &applied).await?;
        Ok(())
    }

    fn source_endpoint(&self) -> anyhow::Result<Endpoint> {
        Ok(self.source.uri("postgres", "bench").parse()?)
    }

    fn trail(&self, flow: &str) -> PathBuf {
        self.dir.path().join(format!("trail-{flow}"))
    }

    /// Starts Extract, Replicat or both for a flow.
    pub(crate) fn start_ours(&self, flow: &str, extract: bool, replicat: bool) -> anyhow::Result<Ours> {
        self.start_publication(flow, "all_of_it", extract, replicat)
    }

    /// The same, of another publication.
    pub(crate) fn start_publication(
        &self,
        flow: &str,
        publication: &str,
        extract: bool,
        replicat: bool,
    ) -> anyhow::Result<Ours> {
        let (trail, state) = (self.trail(flow), self.dir.path().join(format!("state-{flow}")));
        let spawn = |arguments: &[&str]| -> anyhow::Result<Child> {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("child").args(arguments).stdin(Stdio::null());
            command.spawn().context("cannot start a child")
        };
        let (trail, state) = (trail.to_string_lossy(), state.to_string_lossy());
        let source = self.source.uri("postgres", "bench");
        let target = self.target.uri("postgres", "ours");
        let commit = if self.synchronous_commit { "on" } else { "off" };
        let extract =
            extract.then(|| spawn(&["extract", &source, flow, publication, &trail, &state])).transpose()?;
        let replicat =
            replicat.then(|| spawn(&["replicat", &target, flow, &trail, &state, commit])).transpose()?;
        Ok(Ours { extract, replicat })
    }

    /// Stops children and returns what each has used.
    pub(crate) fn stop_ours(&self, mut ours: Ours) -> anyhow::Result<(Used, Used)> {
        let stop = |child: &mut Option<Child>| -> anyhow::Result<Used> {
            let Some(child) = child else { return Ok(Used::default()) };
            let used = used(child.id());
            if let Some(pid) = rustix::process::Pid::from_raw(child.id().cast_signed()) {
                rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
            }
            let status = child.wait()?;
            ensure!(status.success(), "a child ended with {status}");
            Ok(used)
        };
        Ok((stop(&mut ours.extract)?, stop(&mut ours.replicat)?))
    }

    pub(crate) async fn enable_native(&self, enable: bool) -> anyhow::Result<()> {
        let what = if enable { "ENABLE" } else { "DISABLE" };
        self.target.batch_in("native", &format!("ALTER SUBSCRIPTION native {what}")).await;
        if !enable {
            self.until("native has let go of its slot", async || {
                let sql =
                    "SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = 'native' AND active";
                Ok(self.source.scalar("bench", sql).await == "0")
            })
            .await?;
        }
        Ok(())
    }

    /// Brings both ways to where the source is, and lets the server forget what it would decode anew for each of their slots:
    /// that is up to 15 s of the log, as chance has it, which would be taken for a way's own time.
    pub(crate) async fn level(&self) -> anyhow::Result<()> {
        let ours = self.start_ours("ours", true, true)?;
        self.enable_native(true).await?;
        let begin = self.source.scalar("bench", "SELECT pg_current_wal_lsn()::text").await;
        // A checkpoint writes down which transactions run, from where on a slot decodes anew.
        self.source_client.batch_execute("CHECKPOINT").await?;
        self.until("both slots have passed a checkpoint", async || {
            let sql = format!(
                "SELECT count(*)::text FROM pg_replication_slots
                 WHERE slot_name IN ('ours', 'native') AND restart_lsn >= '{begin}'"
            );
            Ok(self.source.scalar("bench", &sql).await == "2")
        })
        .await?;
        self.enable_native(false).await?;
        self.stop_ours(ours)?;
        Ok(())
    }

    /// What native's processes have used since their start: WAL sender and apply workers.
    pub(crate) async fn native_used(&self) -> anyhow::Result<(Used, Used)> {
        let worker =
            "SELECT pid::text FROM pg_stat_activity WHERE backend_type LIKE 'logical replication%worker'";
        self.both_used("native", worker).await
    }

    /// What our sessions' server processes have used: WAL sender and applying backends.
    pub(crate) async fn ours_backends_used(&self, flow: &str) -> anyhow::Result<(Used, Used)> {
        let backends =
            "SELECT pid::text FROM pg_stat_activity WHERE application_name = 'irongate bench-replicat'";
        self.both_used(flow, backends).await
    }

    async fn both_used(&self, slot: &str, appliers: &str) -> anyhow::Result<(Used, Used)> {
        let sum = async |server: &Server, sql: &str| {
            let pids = server.rows("postgres", sql).await;
            let pid =
                |row: &Vec<Option<String>>| row.first().cloned().flatten().and_then(|pid| pid.parse().ok());
            pids.iter().filter_map(pid).map(used).fold(Used::default(), |sum, one| Used {
                cpu: sum.cpu + one.cpu,
                memory: sum.memory.max(one.memory),
            })
        };
        let sender = format!("SELECT active_pid::text FROM pg_replication_slots WHERE slot_name = '{slot}'");
        Ok((sum(&self.source, &sender).await, sum(&self.target, appliers).await))
    }

    /// Commits a marker at the source.
    pub(crate) async fn mark(&self, n: i64) -> anyhow::Result<()> {
        self.source_client.execute("INSERT INTO marker VALUES ($1)", &[&n]).await?;
        Ok(())
    }

    /// Waits until a marker is seen at the target of one way. Returns the seconds since `since`.
    pub(crate) async fn await_marker(&self, way: Way, n: i64, since: Instant) -> anyhow::Result<f64> {
        let client = self.target.client(way.database()).await;
        let seen = client.prepare("SELECT 1 FROM marker WHERE n = $1").await?;
        loop {
            if client.query_opt(&seen, &[&n]).await?.is_some() {
                return Ok(since.elapsed().as_secs_f64());
            }
            if since.elapsed() > PATIENCE {
                bail!("marker {n} has not come by the {way:?} way in {} s", PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    async fn until(
        &self,
        what: &str,
        mut done: impl AsyncFnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        while !done().await? {
            if start.elapsed() > PATIENCE {
                bail!("{what}: not in {} s", PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// A file of the run's own, which vanishes with it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs pgbench's simple updates at the source: so many transactions, quickly.
    pub(crate) fn pgbench(&self, transactions: u32) -> anyhow::Result<()> {
        self.pgbench_as(&["-N"], transactions)
    }

    /// The same with a script of our own.
    pub(crate) fn pgbench_script(&self, script: &Path, transactions: u32) -> anyhow::Result<()> {
        self.pgbench_as(&["-f", &script.to_string_lossy()], transactions)
    }

    fn pgbench_as(&self, what: &[&str], transactions: u32) -> anyhow::Result<()> {
        let own = self.source.binaries().program("pgbench");
        let debian = PathBuf::from("/usr/lib/postgresql/15/bin/pgbench");
        let program = [own, debian, "pgbench".into()].into_iter().find(|path| path.is_file());
        let status = Command::new(program.context("pgbench is not installed")?)
            .args(what)
            .args(["-n", "-c", "4", "-j", "2", "-h"])
            .arg(self.source.socket_dir())
            .args(["-p", &self.source.port().to_string(), "-U", "postgres"])
            .args(["-t", &(transactions / 4).to_string(), "bench"])
            .env("PGOPTIONS", "-c synchronous_commit=off")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        ensure!(status.success(), "pgbench failed with {status}");
        Ok(())
    }
}

impl Way {
    pub(crate) fn database(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Ours => "ours",
        }
    }
}
