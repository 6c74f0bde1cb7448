//! In a program that was built without Kafka.

use std::future::Future;

use super::settings::{Fault, KafkaPumpSettings, KafkaReaderSettings, KafkaSettings, TopicSettings};
use crate::error::Error;
use crate::pump::Stopped;

fn absent<T>() -> Result<T, Error> {
    let reason = "this program was built without it (cargo's feature \"kafka\")".to_owned();
    Err(Error::Setting { setting: "Kafka", reason })
}

/// One pump into a topic.
#[derive(Debug)]
pub struct KafkaPump(());

impl KafkaPump {
    /// A pump that will not run.
    pub fn new(_: KafkaPumpSettings) -> Self {
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

/// One reader of a topic.
#[derive(Debug)]
pub struct KafkaReader(());

impl KafkaReader {
    /// A reader that will not run.
    pub fn new(_: KafkaReaderSettings) -> Self {
        Self(())
    }

    /// Says that it cannot.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub async fn copy(self) -> Result<irongate_trail::Mark, Error> {
        absent()
    }

    /// Says that it cannot.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub async fn run(
        self,
        _: impl Future<Output = ()> + Send + 'static,
    ) -> Result<irongate_trail::Mark, Error> {
        absent()
    }
}

/// Says that it cannot.
///
/// # Errors
/// [`Error::Setting`].
pub async fn create_topic(_: &KafkaSettings, _: &TopicSettings) -> Result<bool, Error> {
    absent()
}

/// Says that it cannot.
///
/// # Errors
/// [`Error::Setting`].
pub async fn inspect_topic(_: &KafkaSettings, _: &TopicSettings) -> Result<Vec<Fault>, Error> {
    absent()
}
