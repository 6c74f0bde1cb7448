//! The log database: both sites write it at once, each its own keys, and each gets the other's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::task::JoinSet;

use super::server::Server;
use super::{LOG, SITES};

/// Pause between two entries of a site.
const PAUSE: Duration = Duration::from_millis(15);

/// Writers at both sites. Dropped, they end in the middle of things.
pub(super) struct Log {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    writers: JoinSet<anyhow::Result<()>>,
}

impl Log {
    /// Begins to write at both sites.
    pub(super) async fn start(servers: [&Server; 2]) -> anyhow::Result<Self> {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut writers = JoinSet::new();
        for (site, server) in SITES.into_iter().zip(servers) {
            let (client, stop, written) =
                (server.client(LOG).await?, Arc::clone(&stop), Arc::clone(&written));
            writers.spawn(async move {
                for n in 1_i64.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let insert = "INSERT INTO entry (site, n, word) VALUES ($1, $2, repeat('x', ($2::bigint % 300)::int))";
                    client.execute(insert, &[&site, &n]).await?;
                    if n % 5 == 0 {
                        let change = "UPDATE entry SET word = 'changed' WHERE site = $1 AND n = $2::bigint - 3";
                        client.execute(change, &[&site, &n]).await?;
                    }
                    if n % 7 == 0 {
                        let delete = "DELETE FROM entry WHERE site = $1 AND n = $2::bigint - 6";
                        client.execute(delete, &[&site, &n]).await?;
                    }
                    written.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(())
            });
        }
        Ok(Self { stop, written, writers })
    }

    /// Fails if a writer has failed.
    pub(super) fn is_well(&mut self) -> anyhow::Result<()> {
        match self.writers.try_join_next() {
            Some(ended) => ended?.context("a writer of the log failed"),
            None => Ok(()),
        }
    }

    /// Ends the writers and leaves a last word of each site, to be waited for at the other with [`arrived`]. Returns the
    /// number of entries.
    pub(super) async fn stop(mut self, servers: [&Server; 2]) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.writers.join_next().await {
            ended?.context("a writer of the log failed")?;
        }
        for (site, server) in SITES.into_iter().zip(servers) {
            let word = "INSERT INTO entry (site, n, word) VALUES ($1, 0, 'the last word')";
            server.client(LOG).await?.execute(word, &[&site]).await?;
        }
        Ok(self.written.load(Ordering::Relaxed))
    }
}

/// Waits until each site has the other's last word.
pub(super) async fn arrived(servers: [&Server; 2], patience: Duration) -> anyhow::Result<()> {
    let begin = Instant::now();
    for (site, other) in SITES.into_iter().zip([servers[1], servers[0]]) {
        let client = other.client(LOG).await?;
        while client.query("SELECT FROM entry WHERE site = $1 AND n = 0", &[&site]).await?.is_empty() {
            anyhow::ensure!(
                begin.elapsed() < patience,
                "the log of {site} has not arrived at the other site"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}
