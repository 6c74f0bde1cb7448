//! The pump into a topic: reads the trail of this site as far as it is durable and writes it into Kafka.
//!
//! Like the pump to a collector it keeps no place of its own: where to go on is what the topic says, read anew with each
//! start, and the mark that holds back purge here moves by what the brokers have acknowledged, at all in-sync copies, and the
//! ledger counts. What was not acknowledged when a session ended is written again by the next one, if it did not arrive.

mod carrier;
mod session;

use std::future::Future;
use std::sync::Arc;

use irongate_checkpoint::{Program, State, Stop};
use irongate_trail::{Directory, Storage};
use tokio::time::Instant;

use super::settings::KafkaPumpSettings;
use crate::attempts::Attempts;
use crate::error::Error;
use crate::pump::{Shown, Stopped, own};
use carrier::Carrier;
use session::Session;

/// The least that a record may hold, in bytes.
const LEAST_RECORD: usize = 16 << 10;

/// One pump into a topic. Needs a multi-threaded tokio runtime: reading the trail may block.
#[derive(Debug)]
pub struct KafkaPump {
    settings: KafkaPumpSettings,
}

impl KafkaPump {
    /// A pump that is not running yet.
    pub fn new(settings: KafkaPumpSettings) -> Self {
        Self { settings }
    }

    /// Runs until `shutdown` is ready or something fails that cannot pass by itself. Stops at the end of a transaction,
    /// if that comes soon, with everything written acknowledged, if that comes soon.
    ///
    /// When the call is dropped, the topic has what it has, and the next start goes on from there.
    ///
    /// # Errors
    /// Any [`Error`] that is not transient; it stands in the group's status as well. [`Error::Checkpoint`] when the group
    /// runs already.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<Stopped, Error> {
        let settings = &self.settings;
        check(settings)?;
        let (lock, mut shown) =
            Shown::begin(&settings.state_directory, &settings.group, &settings.flow, Program::Pump)?;
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

    /// One session, from its claim to its end.
    async fn attempt(
        &self,
        storage: &Arc<dyn Storage>,
        shown: &mut Shown,
        stop: &mut Stop,
    ) -> Result<(), Error> {
        let settings = &self.settings;
        // What the topic does not have yet must not be purged, from the first moment on.
        shown.acknowledged = own::hold_back(storage, &settings.group, settings.epoch, shown.acknowledged)?;
        shown.publisher.doing(&format!("connecting to Kafka at {}", settings.kafka.place()));
        let opening = Session::open(settings, storage, shown.acknowledged);
        let Some(session) = stop.or(opening).await.transpose()? else { return Ok(()) };
        shown.connected = Some(Instant::now());
        shown.publisher.state(State::Running, "writing the trail into Kafka");
        let mut carrier = Carrier::new(settings, storage, session)?;
        let carried = carrier.carry(shown, stop).await;
        // What was acknowledged is put down in every case.
        let settled = carrier.settle(shown);
        shown.show();
        carried.and(settled)
    }
}

fn check(settings: &KafkaPumpSettings) -> Result<(), Error> {
    if settings.compression.is_some_and(|level| !(1..=22).contains(&level)) {
        let reason = "zstd has the levels 1 to 22".to_owned();
        return Err(Error::Setting { setting: "compression", reason });
    }
    if settings.record_size < LEAST_RECORD {
        let reason = format!("a record must be able to hold {LEAST_RECORD} bytes");
        return Err(Error::Setting { setting: "record_size", reason });
    }
    Ok(())
}
