//! A write load: sessions that insert, update, delete, roll back and set savepoints at random in given tables.
//!
//! What is written is drawn from a seed, which is printed, so that a failure can be tried again; how the sessions
//! interleave is the machine's to decide. An error of the database (a deadlock, a violated constraint, a server that is
//! killed) is part of the load: it is counted and the session goes on.

mod rows;
mod tables;
mod values;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_postgres::{Client, NoTls};

use self::rows::{Done, Writer};
use self::tables::Table;
use crate::say;

/// The seed of everything random in a test: `IRONGATE_TEST_SEED`, or a new one, which is printed.
///
/// # Panics
/// When `IRONGATE_TEST_SEED` is no number.
pub fn seed() -> u64 {
    let seed = match std::env::var("IRONGATE_TEST_SEED") {
        Ok(given) => {
            given.parse().unwrap_or_else(|_| panic!("IRONGATE_TEST_SEED is \"{given}\", which is no number"))
        }
        Err(_) => rand::random(),
    };
    say(&format!("seed {seed} (IRONGATE_TEST_SEED={seed} repeats it)"));
    seed
}

/// What a load has done. Only committed rows are counted as such.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Transactions whose commit was confirmed.
    pub committed: u64,
    /// Transactions that the load itself rolled back.
    pub rolled_back: u64,
    /// Transactions that ended with an error of the database, by SQLSTATE.
    pub failed: BTreeMap<String, u64>,
    /// Transactions during which the session was lost: they may have been committed or not.
    pub unknown: u64,
    /// Rows inserted.
    pub inserted: u64,
    /// Rows updated.
    pub updated: u64,
    /// Rows deleted.
    pub deleted: u64,
    /// Sessions opened again after one was lost.
    pub reconnected: u64,
}

/// A load before it runs.
#[derive(Clone, Debug)]
pub struct Load {
    uri: String,
    tables: Option<Vec<String>>,
    sessions: u32,
    seed: Option<u64>,
    pause: Duration,
    bulk: u32,
    two_phase: bool,
}

/// What all sessions of a load share.
struct Shared {
    load: Load,
    tables: Vec<Table>,
    stop: AtomicBool,
    counts: Mutex<Counts>,
}

/// A load that runs. Dropped, it ends at once, transactions in mid-way.
#[derive(Debug)]
pub struct RunningLoad {
    seed: u64,
    shared: Arc<Shared>,
    sessions: tokio::task::JoinSet<()>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("load", &self.load).finish_non_exhaustive()
    }
}

/// What a session does after a transaction.
enum Next {
    GoOn,
    RollBack,
    Reconnect,
}

impl Load {
    /// A load on all permanent tables of a database, from four sessions of a role that may write them.
    pub fn new(uri: &str) -> Self {
        Load {
            uri: uri.to_owned(),
            tables: None,
            sessions: 4,
            seed: None,
            pause: Duration::ZERO,
            bulk: 0,
            two_phase: false,
        }
    }

    /// Writes only these tables ("schema.table"). Tables that they reference by foreign keys are read.
    #[must_use]
    pub fn tables(mut self, names: &[&str]) -> Self {
        self.tables = Some(names.iter().map(|&name| name.to_owned()).collect());
        self
    }

    /// How many sessions write at once.
    #[must_use]
    pub fn sessions(mut self, sessions: u32) -> Self {
        self.sessions = sessions;
        self
    }

    /// A seed of the caller's; otherwise [`seed`] gives one.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// How long each session rests between two transactions.
    #[must_use]
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Now and then a transaction inserts about this many rows, or rolls them back: more than
    /// `logical_decoding_work_mem` holds, if it shall be streamed.
    #[must_use]
    pub fn bulk(mut self, rows: u32) -> Self {
        self.bulk = rows;
        self
    }

    /// Some transactions are committed in two phases.
    #[must_use]
    pub fn two_phase(mut self) -> Self {
        self.two_phase = true;
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// When the database cannot be reached, there is nothing to write, or a column is mandatory for which no values are
    /// known.
    pub async fn start(self) -> RunningLoad {
        let seed = self.seed.unwrap_or_else(seed);
        let client =
            connect(&self.uri).await.unwrap_or_else(|error| panic!("load cannot connect: {error:?}"));
        let tables = tables::read(&client, self.tables.as_deref()).await;
        let shared = Arc::new(Shared {
            load: self,
            tables,
            stop: AtomicBool::new(false),
            counts: Mutex::new(Counts::default()),
        });
        let mut sessions = tokio::task::JoinSet::new();
        for session in 0..shared.load.sessions {
            // Each session has a sequence of its own, so that it does not depend on how the others interleave.
            let random =
                StdRng::seed_from_u64(seed ^ (u64::from(session) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            sessions.spawn(run(Arc::clone(&shared), session, random));
        }
        RunningLoad { seed, shared, sessions }
    }
}

impl RunningLoad {
    /// The seed that it runs with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What it has done so far.
    pub fn counts(&self) -> Counts {
        self.shared.counts().clone()
    }

    /// Waits until this many more transactions have been committed.
    ///
    /// # Panics
    /// When that takes longer than `timeout`.
    pub async fn commits(&self, more: u64, timeout: Duration) {
        let goal = self.counts().committed + more;
        crate::wait_for(timeout, "the load to commit", async || {
            let counts = self.counts();
            if counts.committed >= goal { Ok(()) } else { Err(format!("{counts:?}")) }
        })
        .await;
    }

    /// Lets each session end its transaction, and ends the load.
    ///
    /// # Panics
    /// When a session has panicked.
    pub async fn stop(mut self) -> Counts {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.sessions.join_next().await {
            ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        }
        self.counts()
    }
}

impl Shared {
    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, outcome: &Result<bool, tokio_postgres::Error>, done: Done) -> Next {
        let mut counts = self.counts();
        match outcome {
            Ok(true) => {
                counts.committed += 1;
                counts.inserted += done.inserted;
                counts.updated += done.updated;
                counts.deleted += done.deleted;
                Next::GoOn
            }
            Ok(false) => {
                counts.rolled_back += 1;
                Next::GoOn
            }
            Err(error) => match error.code() {
                // Class 57 holds the shutdowns, which end the session.
                Some(code) if !code.code().starts_with("57") => {
                    *counts.failed.entry(code.code().to_owned()).or_default() += 1;
                    Next::RollBack
                }
                _ => {
                    counts.unknown += 1;
                    Next::Reconnect
                }
            },
        }
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

async fn connect(uri: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(uri, NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute("SET application_name = 'irongate-tests load'; SET search_path = ''").await?;
    // Its errors are expected, and would hide others in the server's log. Only a superuser may say so.
    let _ = client.batch_execute("SET log_min_messages = 'fatal'").await;
    Ok(client)
}

/// One session, and those that follow it when the server goes away.
async fn run(shared: Arc<Shared>, number: u32, mut random: StdRng) {
    let mut first = true;
    while !shared.stopping() {
        let Ok(client) = connect(&shared.load.uri).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if !std::mem::take(&mut first) {
            shared.counts().reconnected += 1;
        }
        let mut writer = Writer::new(&client, &shared.tables, number, &mut random);
        if writer.look_around().await.is_err() {
            continue;
        }
        while !shared.stopping() {
            let outcome = transaction(&mut writer, &shared.load).await;
            match shared.count(&outcome, writer.end(matches!(outcome, Ok(true)))) {
                Next::GoOn => tokio::time::sleep(shared.load.pause).await,
                // A violated foreign key is a row that another session has deleted: its key should not be used again.
                Next::RollBack if client.batch_execute("ROLLBACK").await.is_ok() => {
                    if writer.look_around().await.is_err() {
                        break;
                    }
                }
                Next::RollBack | Next::Reconnect => break,
            }
        }
    }
}

/// One transaction; `false` when it was rolled back.
async fn transaction(writer: &mut Writer<'_>, load: &Load) -> Result<bool, tokio_postgres::Error> {
    match writer.random.random_range(0..1000) {
        // No transaction block: the statement commits itself.
        0..300 => {
            writer.change().await?;
            return Ok(true);
        }
        300..700 => {
            writer.execute("BEGIN").await?;
            for _ in 0..writer.random.random_range(1..12) {
                writer.change().await?;
            }
        }
        700..990 => {
            writer.execute("BEGIN").await?;
            for _ in 0..writer.random.random_range(1..5) {
                writer.savepoint().await?;
            }
        }
        _ => {
            writer.execute("BEGIN").await?;
            writer.bulk(load.bulk).await?;
        }
    }
    let two_phase = load.two_phase && writer.random.random_bool(0.1);
    let commit = writer.random.random_bool(0.9);
    if two_phase {
        writer.end_in_two_phases(commit).await?;
    } else {
        writer.execute(if commit { "COMMIT" } else { "ROLLBACK" }).await?;
    }
    Ok(commit)
}
