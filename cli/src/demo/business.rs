//! The business of the demo: an application that writes wherever it is let in, and keeps its own books of what was
//! acknowledged to it. What it says was committed is what the sites are held to.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::DATABASE;
use super::server::Server;

/// The role that it logs in as.
pub(super) const ROLE: &str = "app";
/// Sessions at once.
const SESSIONS: i32 = 4;
/// Its workers have numbers that no other load's have.
const FIRST: i32 = 101;
/// Pause of a session between two transactions: 200 transactions in a second, all together.
const PAUSE: Duration = Duration::from_millis(18);
/// Pause after somebody was not let in.
const REFUSED: Duration = Duration::from_millis(5);

/// A transaction: a worker's, and its number.
pub(super) type Entry = (i32, i64);

#[derive(Debug)]
struct Books {
    acknowledged: BTreeSet<Entry>,
    last: Instant,
    gap: Duration,
}

/// The application. Dropped, it ends.
#[derive(Debug)]
pub(super) struct Business {
    stop: Arc<AtomicBool>,
    books: Arc<Mutex<Books>>,
    sessions: JoinSet<()>,
}

impl Business {
    /// Begins to write.
    pub(super) fn start(servers: [&Server; 2]) -> Self {
        let books = Books { acknowledged: BTreeSet::new(), last: Instant::now(), gap: Duration::ZERO };
        let (stop, books) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(books)));
        let mut sessions = JoinSet::new();
        for worker in FIRST..FIRST + SESSIONS {
            let (stop, books) = (Arc::clone(&stop), Arc::clone(&books));
            let addresses = servers.map(|server| server.uri(ROLE, DATABASE));
            sessions.spawn(async move {
                let mut number = 0;
                let mut site = 0;
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((client, connection)) =
                        tokio_postgres::connect(&addresses[site], tokio_postgres::NoTls).await
                    {
                        let connection = tokio::spawn(connection);
                        write(&client, worker, &mut number, &stop, &books).await;
                        connection.abort();
                    }
                    site = 1 - site;
                    tokio::time::sleep(REFUSED).await;
                }
            });
        }
        Self { stop, books, sessions }
    }

    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was acknowledged so far.
    pub(super) fn acknowledged(&self) -> BTreeSet<Entry> {
        self.books().acknowledged.clone()
    }

    /// Waits until so many more transactions were acknowledged.
    pub(super) async fn goes_on(&self, more: usize, patience: Duration) -> anyhow::Result<()> {
        let (begin, known) = (Instant::now(), self.books().acknowledged.len());
        while self.books().acknowledged.len() < known + more {
            anyhow::ensure!(begin.elapsed() < patience, "the application cannot write anywhere");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// The longest time since this was asked last in which nothing was acknowledged.
    pub(super) fn outage(&self) -> Duration {
        std::mem::take(&mut self.books().gap)
    }

    /// Ends; what was acknowledged.
    pub(super) async fn stop(mut self) -> BTreeSet<Entry> {
        self.stop.store(true, Ordering::Relaxed);
        while self.sessions.join_next().await.is_some() {}
        self.acknowledged()
    }
}

/// Writes until it is not let any more.
async fn write(client: &Client, worker: i32, number: &mut i64, stop: &AtomicBool, books: &Mutex<Books>) {
    while !stop.load(Ordering::Relaxed) {
        *number += 1;
        let n = *number;
        let transaction = format!(
            "BEGIN;
             INSERT INTO stat.journal VALUES ({worker}, {n}, 'business');
             INSERT INTO config.person (tenant_id, folder_id, login, first_name, last_name)
             VALUES (1, 1, 'business-{worker}-{n}', 'Łukasz', 'Nguyễn {n}');
             COMMIT"
        );
        if client.batch_execute(&transaction).await.is_err() {
            return;
        }
        {
            let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let gap = now - books.last;
            (books.gap, books.last) = (books.gap.max(gap), now);
            books.acknowledged.insert((worker, n));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What of the application's is at a site; fails if something is there twice.
pub(super) async fn found(server: &Server) -> anyhow::Result<BTreeSet<Entry>> {
    let client = server.client(DATABASE).await?;
    let rows = client.query("SELECT worker, number FROM stat.journal WHERE kind = 'business'", &[]).await?;
    let mut found = BTreeSet::new();
    for row in rows {
        let entry: Entry = (row.try_get(0)?, row.try_get(1)?);
        anyhow::ensure!(found.insert(entry), "transaction {entry:?} is there twice");
    }
    let twice = "SELECT count(*) - count(DISTINCT id) FROM config.person";
    let twice: i64 = client.query_one(twice, &[]).await.context("cannot count the people")?.try_get(0)?;
    anyhow::ensure!(twice == 0, "{twice} numbers of people came twice");
    Ok(found)
}
