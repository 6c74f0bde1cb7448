//! In a program that was built without Kafka.

use std::future::Future;

use super::settings::FeedSettings;
use crate::error::Error;
use crate::kafka::Fault;
use crate::pump::Stopped;

fn absent<T>() -> Result<T, Error> {
    let reason = "this program was built without it (cargo's feature \"kafka\")".to_owned();
    Err(Error::Setting { setting: "Kafka", reason })
}

/// One feed.
#[derive(Debug)]
pub struct Feed(());

impl Feed {
    /// A feed that will not run.
    pub fn new(_: FeedSettings) -> Self {
        Self(())
    }

    /// Says that it cannot.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub async fn run(self, _: impl Future<Output = ()> + Send + 'static) -> Result<Stopped, Error> {
        absent()
    }
}

/// Says that it cannot.
///
/// # Errors
/// [`Error::Setting`].
pub async fn inspect_topics(_: &FeedSettings) -> Result<Vec<(String, Fault)>, Error> {
    absent()
}
