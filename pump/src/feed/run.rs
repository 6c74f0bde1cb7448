//! The group: its start, its attempts and its end.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use irongate_checkpoint::{Program, State, Stop};
use irongate_trail::{Directory, Storage};
use tokio::time::Instant;

use super::carrier::Carrier;
use super::settings::FeedSettings;
use crate::attempts::Attempts;
use crate::error::Error;
use crate::pump::{Shown, Stopped, own};

/// How often is looked for a trail that is not there yet.
const WAIT: Duration = Duration::from_secs(1);
/// The least that an event may be allowed, in bytes.
const LEAST_EVENT: usize = 16 << 10;

/// One feed. Needs a multi-threaded tokio runtime: reading the trail may block.
#[derive(Debug)]
pub struct Feed {
    settings: FeedSettings,
}

impl Feed {
    /// A feed that is not running yet.
    pub fn new(settings: FeedSettings) -> Self {
        Self { settings }
    }

    /// Runs until `shutdown` is ready or something fails that cannot pass by itself. Stops at the end of a transaction, if
    /// that comes soon, with everything written acknowledged, if that comes soon.
    ///
    /// When the call is dropped, the topics have what they have, and the next start tells again what was not acknowledged.
    ///
    /// # Errors
    /// Any [`Error`] that is not transient; it stands in the group's status as well. [`Error::Checkpoint`] when the group
    /// runs already.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<Stopped, Error> {
        let settings = &self.settings;
        if settings.event_size < LEAST_EVENT {
            let reason = format!("an event must be able to hold {LEAST_EVENT} bytes");
            return Err(Error::Setting { setting: "event_size", reason });
        }
        let (lock, mut shown) =
            Shown::begin(&settings.state_directory, &settings.group, &settings.flow, Program::Feed)?;
        let outcome = self.run_locked(&mut shown, Stop::new(shutdown)).await;
        shown.end(lock, &settings.group, outcome)
    }

    async fn run_locked(&self, shown: &mut Shown, mut stop: Stop) -> Result<Stopped, Error> {
        let settings = &self.settings;
        let storage: Arc<dyn Storage> = Arc::new(Directory::new(&settings.trail));
        let mut attempts =
            Attempts::new(&settings.group, settings.kafka.retry_first, settings.kafka.retry_longest);
        loop {
            let before = shown.acknowledged;
            let attempt = self.attempt(&storage, shown, &mut stop).await;
            if let Some(stopped) = shown.after(attempt, before, &mut attempts, &mut stop).await? {
                return Ok(stopped);
            }
        }
    }

    async fn attempt(
        &self,
        storage: &Arc<dyn Storage>,
        shown: &mut Shown,
        stop: &mut Stop,
    ) -> Result<(), Error> {
        let settings = &self.settings;
        // That of a flow whose turn has not come, or of which nothing has arrived here, comes later.
        while let Err(error) = own::facts(storage, u64::MAX) {
            match error {
                Error::Trail(irongate_trail::Error::Missing(_) | irongate_trail::Error::NotDurable(_)) => {}
                error => return Err(error),
            }
            shown.publisher.state(State::Running, "waiting for the flow's trail");
            if stop.or(tokio::time::sleep(WAIT)).await.is_none() {
                return Ok(());
            }
        }
        // What has not been told yet must not be purged, from the first moment on.
        shown.acknowledged = own::hold_back(storage, &settings.group, u64::MAX, shown.acknowledged)?;
        let mut carrier = Carrier::open(settings, storage, shown.acknowledged)?;
        shown.connected = Some(Instant::now());
        shown.publisher.state(State::Running, "publishing changes");
        let carried = carrier.carry(shown, stop).await;
        // What was acknowledged is put down in every case.
        let settled = carrier.settle(shown);
        carried.and(settled)
    }
}
