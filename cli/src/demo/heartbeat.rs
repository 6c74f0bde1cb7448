//! How long a commit takes until it can be seen at the target.
//!
//! A number is raised at the source about every 40 ms, and looked at in the target every few milliseconds.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::server::Server;

const BEAT: Duration = Duration::from_millis(40);
const LOOK: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// What was committed at the source and not yet seen at the target.
    sent: Mutex<VecDeque<(i64, Instant)>>,
    /// The last number committed at the source, and the last one seen at the target.
    last_sent: AtomicU64,
    last_seen: AtomicU64,
    latencies: Mutex<Vec<Duration>>,
}

/// The measurement. Dropped, it ends.
#[derive(Debug)]
pub(super) struct Heartbeat {
    shared: Arc<Shared>,
    tasks: JoinSet<anyhow::Result<()>>,
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latency {
    pub(super) median: Duration,
    pub(super) p95: Duration,
    pub(super) p99: Duration,
}

impl Heartbeat {
    /// Begins to measure.
    pub(super) async fn start([source, target]: [&Server; 2], database: &str) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(beat(source.client(database).await?, Arc::clone(&shared)));
        tasks.spawn(look(target.client(database).await?, Arc::clone(&shared)));
        Ok(Self { shared, tasks })
    }

    /// Whether the target has everything that was sent before this call.
    pub(super) async fn wait_for_all(&mut self, patience: Duration) -> anyhow::Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let begin = Instant::now();
        loop {
            while let Some(ended) = self.tasks.try_join_next() {
                ended?.context("the heartbeat failed")?;
            }
            if self.tasks.is_empty() {
                return Ok(());
            }
            anyhow::ensure!(
                begin.elapsed() < patience,
                "the target has not caught up after {} s: it has seen heartbeat {} of {}",
                patience.as_secs(),
                self.shared.last_seen.load(Ordering::Relaxed),
                self.shared.last_sent.load(Ordering::Relaxed)
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What was measured since the last call.
    pub(super) fn latency(&self) -> Option<Latency> {
        let mut all =
            std::mem::take(&mut *self.shared.latencies.lock().unwrap_or_else(PoisonError::into_inner));
        all.sort();
        let at = |share: f64| all.get(((all.len() as f64 * share) as usize).min(all.len().saturating_sub(1)));
        Some(Latency { median: *at(0.5)?, p95: *at(0.95)?, p99: *at(0.99)? })
    }
}

async fn beat(client: Client, shared: Arc<Shared>) -> anyhow::Result<()> {
    let mut number: i64 = 0;
    // The last beat comes after the stop, and with it everything before.
    loop {
        let last = shared.stop.load(Ordering::Relaxed);
        number += 1;
        client.execute("UPDATE stat.heartbeat SET number = $1 WHERE id = 1", &[&number]).await?;
        shared.sent.lock().unwrap_or_else(PoisonError::into_inner).push_back((number, Instant::now()));
        shared.last_sent.store(number.unsigned_abs(), Ordering::Release);
        if last {
            // Tells the other half that nothing more will come.
            shared.sent.lock().unwrap_or_else(PoisonError::into_inner).push_back((i64::MAX, Instant::now()));
            return Ok(());
        }
        tokio::time::sleep(BEAT).await;
    }
}

async fn look(client: Client, shared: Arc<Shared>) -> anyhow::Result<()> {
    let statement = client.prepare("SELECT number FROM stat.heartbeat WHERE id = 1").await?;
    loop {
        let row = client.query_opt(&statement, &[]).await?;
        let seen: i64 = row.map_or(Ok(0), |row| row.try_get(0))?;
        shared.last_seen.store(seen.unsigned_abs(), Ordering::Relaxed);
        {
            let mut sent = shared.sent.lock().unwrap_or_else(PoisonError::into_inner);
            let mut latencies = shared.latencies.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some((_, at)) = sent.front().filter(|(number, _)| *number <= seen) {
                latencies.push(at.elapsed());
                sent.pop_front();
            }
            if sent.front().is_some_and(|(number, _)| *number == i64::MAX) {
                return Ok(());
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
