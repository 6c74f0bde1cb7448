//! Heartbeats: a small transaction at the source, again and again.
//!
//! It is a transactional logical message and so takes a transaction id. That matters on a database where nothing else
//! happens: the server gives up old log for a slot only when the slot's `catalog_xmin` moves, which it does not where no
//! transaction takes an id (server source, `logical.c`: the floor is computed anew only if the xmin was). It also makes
//! lag in seconds mean something while nobody writes. `pg_logical_emit_message` may be called by everybody.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use irongate_postgres::{Endpoint, Session};
use irongate_trail::Timestamp;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// The prefix of the message.
pub(crate) const PREFIX: &str = "irongate.heartbeat";
/// How long the source may take.
const PATIENCE: Duration = Duration::from_secs(10);
const BEAT: &str =
    "SELECT pg_catalog.pg_logical_emit_message(true, $1::pg_catalog.text, $2::pg_catalog.text)";

/// A running heartbeat; it ends when dropped.
#[derive(Debug)]
pub(super) struct Heartbeat {
    task: JoinHandle<()>,
    last: Arc<Mutex<Option<Timestamp>>>,
}

impl Heartbeat {
    pub(super) fn start(flow: String, endpoint: Endpoint, every: Duration) -> Self {
        let last = Arc::new(Mutex::new(None));
        let theirs = Arc::clone(&last);
        let task = tokio::spawn(async move {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut session = None;
            let mut was_told = false;
            loop {
                ticks.tick().await;
                let beat = tokio::time::timeout(PATIENCE, beat(&mut session, &endpoint, &flow)).await;
                match beat {
                    Ok(Ok(())) => {
                        *theirs.lock().unwrap_or_else(PoisonError::into_inner) = Some(Timestamp::now());
                        was_told = false;
                    }
                    // Whether the source answers at all is an alarm of its own.
                    Ok(Err(error)) if !was_told => {
                        tracing::warn!(flow, %error, "no heartbeat");
                        was_told = true;
                    }
                    Ok(Err(_)) => {}
                    Err(_) => session = None,
                }
            }
        });
        Self { task, last }
    }

    /// When the source took the last one.
    pub(super) fn last(&self) -> Option<Timestamp> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn beat(
    session: &mut Option<Session>,
    endpoint: &Endpoint,
    flow: &str,
) -> Result<(), irongate_postgres::Error> {
    let open = match session.take() {
        Some(open) => open,
        None => Session::connect(endpoint, "irongate heartbeat").await?,
    };
    open.execute(BEAT, &[&PREFIX, &flow]).await?;
    *session = Some(open);
    Ok(())
}
