//! The applications of the demo: sessions that write as long as they are let.
//!
//! Every transaction that commits leaves one line in `stat.journal`, a table without a key: a transaction that is lost
//! shows there as a line too few, one that came twice as a line too many.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::server::Server;

const TRANSACTIONS: &str = include_str!("load.sql");

/// Sessions that write small transactions.
const SESSIONS: u64 = 4;
/// Pause of a session between two transactions.
const PAUSE: Duration = Duration::from_millis(8);
/// One of so many transactions is rolled back, one prepared and committed later.
const ROLLED_BACK: u64 = 20;
const PREPARED: u64 = 33;
/// Rows of a large transaction.
const LARGE: u32 = 30_000;

/// One kind of transaction.
#[derive(Debug)]
struct Kind {
    name: &'static str,
    weight: u32,
    sql: &'static str,
}

/// The kinds, as the file lists them.
fn kinds() -> Vec<Kind> {
    let mut kinds = Vec::new();
    let mut starts: Vec<(usize, &str, u32)> = Vec::new();
    let mut offset = 0;
    for line in TRANSACTIONS.split_inclusive('\n') {
        let mut words = line.strip_prefix("-- ").unwrap_or_default().split_whitespace();
        if let (Some(name), Some(weight), None) = (words.next(), words.next(), words.next())
            && let Ok(weight) = weight.parse()
        {
            starts.push((offset, name, weight));
        }
        offset += line.len();
    }
    for (index, (start, name, weight)) in starts.iter().enumerate() {
        let end = starts.get(index + 1).map_or(TRANSACTIONS.len(), |(next, ..)| *next);
        kinds.push(Kind { name, weight: *weight, sql: &TRANSACTIONS[*start..end] });
    }
    kinds
}

/// What a load has done.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Transactions that committed.
    pub(super) committed: AtomicU64,
    /// Those rolled back on purpose.
    pub(super) rolled_back: AtomicU64,
    /// Those that the source refused: a deadlock, two sessions after the same row.
    pub(super) refused: AtomicU64,
}

/// A load that runs. Dropped, it ends in the middle of things.
#[derive(Debug)]
pub(super) struct Load {
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    sessions: JoinSet<anyhow::Result<()>>,
}

impl Load {
    /// Begins to write.
    pub(super) async fn start(source: &Server, database: &str, scale: u32) -> anyhow::Result<Self> {
        let counts = Arc::new(Counts::default());
        let stop = Arc::new(AtomicBool::new(false));
        let kinds = Arc::new(kinds());
        let mut sessions = JoinSet::new();
        for worker in 1..=SESSIONS {
            let session = Session {
                client: source.client(database).await?,
                worker,
                number: 0,
                scale,
                kinds: Arc::clone(&kinds),
                counts: Arc::clone(&counts),
                random: StdRng::seed_from_u64(worker),
            };
            sessions.spawn(session.run(Arc::clone(&stop)));
        }
        Ok(Self { counts, stop, sessions })
    }

    /// What it has done so far.
    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Fails if a session has failed.
    pub(super) fn is_well(&mut self) -> anyhow::Result<()> {
        match self.sessions.try_join_next() {
            Some(ended) => ended?.context("a session of the load failed"),
            None => Ok(()),
        }
    }

    /// Ends after the transactions in hand.
    pub(super) async fn stop(mut self) -> anyhow::Result<Arc<Counts>> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.sessions.join_next().await {
            ended?.context("a session of the load failed")?;
        }
        Ok(Arc::clone(&self.counts))
    }
}

struct Session {
    client: Client,
    worker: u64,
    number: u64,
    scale: u32,
    kinds: Arc<Vec<Kind>>,
    counts: Arc<Counts>,
    random: StdRng,
}

impl Session {
    async fn run(mut self, stop: Arc<AtomicBool>) -> anyhow::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            self.number += 1;
            self.transaction().await?;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn transaction(&mut self) -> anyhow::Result<()> {
        let total: u32 = self.kinds.iter().map(|kind| kind.weight).sum();
        let mut ticket = self.random.random_range(0..total);
        let kind = self.kinds.iter().find(|kind| {
            let hit = ticket < kind.weight;
            ticket = ticket.saturating_sub(kind.weight);
            hit
        });
        let Some(kind) = kind else { return Ok(()) };
        let body = kind
            .sql
            .replace("@N@", &self.number.to_string())
            .replace("@W@", &self.worker.to_string())
            .replace("@SCALE@", &self.scale.to_string());
        let journal = journal(self.worker, self.number, kind.name);
        let begin = format!("BEGIN; {body}; {journal}");
        let name = format!("demo-{}-{}", self.worker, self.number);
        let (rest, counter) = match self.number {
            n if n.is_multiple_of(ROLLED_BACK) => ("ROLLBACK".to_owned(), &self.counts.rolled_back),
            n if n.is_multiple_of(PREPARED) => {
                (format!("PREPARE TRANSACTION '{name}'"), &self.counts.committed)
            }
            _ => ("COMMIT".to_owned(), &self.counts.committed),
        };
        match self.client.batch_execute(&format!("{begin}; {rest}")).await {
            Ok(()) => {
                if rest.starts_with("PREPARE") {
                    tokio::time::sleep(PAUSE).await;
                    self.client.batch_execute(&format!("COMMIT PREPARED '{name}'")).await?;
                }
                counter.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                self.client.batch_execute("ROLLBACK").await?;
                // Deadlocks and violated constraints come with any load; anything else is a defect of the demo.
                match error.code().map(|code| code.code()) {
                    Some(code) if code.starts_with("40") || code.starts_with("23") => {
                        self.counts.refused.fetch_add(1, Ordering::Relaxed);
                        Ok(())
                    }
                    _ => {
                        let said = error.as_db_error().map_or("", |error| error.message()).to_owned();
                        Err(error).with_context(|| format!("transaction \"{}\": {said}", kind.name))
                    }
                }
            }
        }
    }
}

fn journal(worker: u64, number: u64, kind: &str) -> String {
    format!("INSERT INTO stat.journal VALUES ({worker}, {number}, '{kind}')")
}

/// One large transaction, which the server sends before it ends, and one that is rolled back; sub-transactions in both.
pub(super) async fn large(source: &Server, database: &str, counts: &Counts) -> anyhow::Result<u32> {
    let client = source.client(database).await?;
    for (batch, end) in [(1, "ROLLBACK"), (2, "COMMIT")] {
        let half = LARGE / 2;
        client
            .batch_execute(&format!(
                "BEGIN;
                 INSERT INTO stat.bulk SELECT {batch}, n, 'row ' || n FROM generate_series(1, {half}) n;
                 SAVEPOINT a;
                 INSERT INTO stat.bulk SELECT {batch}, n, 'gone' FROM generate_series({half} + 1, {LARGE}) n;
                 ROLLBACK TO SAVEPOINT a;
                 INSERT INTO stat.bulk SELECT {batch}, n, 'again ' || n FROM generate_series({half} + 1, {LARGE}) n;
                 UPDATE stat.bulk SET state = 'enabled' WHERE batch = {batch} AND id % 2 = 0;
                 DELETE FROM stat.bulk WHERE batch = {batch} AND id % 10 = 0;
                 {}; {end}",
                journal(0, batch, "large"),
            ))
            .await
            .context("the large transaction failed")?;
    }
    counts.committed.fetch_add(1, Ordering::Relaxed);
    counts.rolled_back.fetch_add(1, Ordering::Relaxed);
    Ok(LARGE + LARGE / 2 + LARGE / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_transactions_is_cut_at_its_headings() {
        let kinds = kinds();
        assert_eq!(kinds.len(), TRANSACTIONS.lines().filter(|line| line.starts_with("-- ")).count() - 2);
        for kind in &kinds {
            assert!(kind.weight > 0 && kind.sql.contains(';'), "{}", kind.name);
            assert_eq!(kind.sql.matches("-- ").count(), 1, "{}", kind.name);
        }
    }
}
