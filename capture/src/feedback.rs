//! Tells the slot how far everything is durable, in a task of its own: whatever the rest does, the server hears of us
//! before its `wal_sender_timeout`, and never of a byte that is not durable.
//!
//! A status is sent
//!
//! 1. at once when the server asks for one, and then also at once when something more becomes durable: a stopping
//!    primary waits for it;
//! 2. when `durable` has moved, at most every [`Pace::moved`];
//! 3. otherwise every [`Pace::idle`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use irongate_postgres::StatusWriter;
use irongate_trail::{Lsn, ResumeLsn, Timestamp};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::error::Error;

/// The longest time between two statuses, whatever the server's timeout.
const LONGEST: Duration = Duration::from_secs(10);
/// How long a question of the server is taken to be open.
const EAGER: Duration = Duration::from_secs(2);

/// How often a status is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pace {
    /// Longest time between two.
    pub(crate) idle: Duration,
    /// Shortest time between two when something has become durable and nobody asked.
    pub(crate) moved: Duration,
}

impl Pace {
    /// A third of the server's timeout: two may be lost.
    pub(crate) fn new(wal_sender_timeout: Duration, moved: Duration) -> Self {
        let idle = if wal_sender_timeout.is_zero() { LONGEST } else { LONGEST.min(wal_sender_timeout / 3) };
        Self { idle, moved: moved.min(idle) }
    }
}

/// The caller's side of the task.
#[derive(Debug)]
pub(crate) struct Feedback {
    durable: watch::Sender<ResumeLsn>,
    asked: Arc<Notify>,
    probe: Arc<Notify>,
    confirmed: Arc<AtomicU64>,
    task: JoinHandle<Result<StatusWriter, Error>>,
}

impl Feedback {
    /// Starts the task, which first tells the server `durable`.
    pub(crate) fn start(writer: StatusWriter, durable: ResumeLsn, pace: Pace) -> Self {
        let (tell, heard) = watch::channel(durable);
        let (asked, probe, confirmed) = Default::default();
        let teller =
            Teller { writer, heard, asked: Arc::clone(&asked), probe: Arc::clone(&probe), confirmed, pace };
        let confirmed = Arc::clone(&teller.confirmed);
        Self { durable: tell, asked, probe, confirmed, task: tokio::spawn(teller.run()) }
    }

    /// Everything before `durable` survives a power cut.
    pub(crate) fn durable(&self, durable: ResumeLsn) {
        self.durable.send_if_modified(|before| std::mem::replace(before, durable) != durable);
    }

    /// The server asks for a status.
    pub(crate) fn asked(&self) {
        self.asked.notify_one();
    }

    /// Makes the server say something.
    pub(crate) fn probe(&self) {
        self.probe.notify_one();
    }

    /// What the slot was told.
    pub(crate) fn confirmed(&self) -> ResumeLsn {
        ResumeLsn(Lsn(self.confirmed.load(Ordering::Acquire)))
    }

    /// Waits until the task fails; it does not end otherwise. Cancel-safe, but not to be called again once it has
    /// returned.
    pub(crate) async fn failed(&mut self) -> Error {
        match (&mut self.task).await {
            Ok(Ok(_)) => irongate_postgres::Error::Closed(None).into(),
            Ok(Err(error)) => error,
            Err(error) => Error::Task(error),
        }
    }

    /// Tells the server the last position and ends the task.
    pub(crate) async fn finish(self) -> Result<(StatusWriter, ResumeLsn), Error> {
        let Self { durable, confirmed, task, .. } = self;
        drop(durable);
        let writer = task.await.map_err(Error::Task)??;
        Ok((writer, ResumeLsn(Lsn(confirmed.load(Ordering::Acquire)))))
    }

    /// Ends the task without a word: the connection is gone.
    pub(crate) fn abort(self) {
        self.task.abort();
    }
}

struct Teller {
    writer: StatusWriter,
    heard: watch::Receiver<ResumeLsn>,
    asked: Arc<Notify>,
    probe: Arc<Notify>,
    confirmed: Arc<AtomicU64>,
    pace: Pace,
}

impl Teller {
    async fn run(mut self) -> Result<StatusWriter, Error> {
        let mut eager_until = Instant::now();
        let mut open = true;
        self.tell(false).await?;
        let mut told = Instant::now();
        while open {
            let mut probe = false;
            tokio::select! {
                () = self.asked.notified() => eager_until = Instant::now() + EAGER,
                () = self.probe.notified() => probe = true,
                changed = self.heard.changed() => {
                    open = changed.is_ok();
                    let now = Instant::now();
                    if open && now >= eager_until && now < told + self.pace.moved {
                        // More may become durable meanwhile. A question or the end cuts the wait short.
                        tokio::select! {
                            () = sleep_until(told + self.pace.moved) => {}
                            () = self.asked.notified() => eager_until = now + EAGER,
                            () = closed(&mut self.heard) => open = false,
                        }
                    }
                }
                () = sleep_until(told + self.pace.idle) => {}
            }
            self.tell(probe).await?;
            told = Instant::now();
        }
        Ok(self.writer)
    }

    async fn tell(&mut self, reply_requested: bool) -> Result<(), Error> {
        let lsn = self.heard.borrow_and_update().0;
        // What is only written is of no use to anyone: a commit that waits for `remote_write` waits for the disk.
        self.writer.send(lsn, lsn, lsn, Timestamp::now(), reply_requested).await?;
        self.confirmed.store(lsn.0, Ordering::Release);
        Ok(())
    }
}

/// Waits until the caller has let go.
async fn closed(heard: &mut watch::Receiver<ResumeLsn>) {
    while heard.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_hears_of_us_at_least_three_times_in_its_timeout() {
        let idle = |ms| Pace::new(Duration::from_millis(ms), Duration::from_millis(100)).idle;
        assert_eq!(idle(60_000), Duration::from_secs(10));
        assert_eq!(idle(3_000), Duration::from_secs(1));
        assert_eq!(idle(0), Duration::from_secs(10));
        assert_eq!(Pace::new(Duration::from_millis(150), Duration::from_millis(100)).moved.as_millis(), 50);
    }
}
