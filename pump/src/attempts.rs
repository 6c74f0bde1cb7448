//! The attempts of a group that goes on for ever: what passes is waited out, longer each time; what does not ends it.

use std::time::Duration;

use irongate_checkpoint::{BackOff, Publisher, Stop};
use tokio::time::{Instant, sleep};

use crate::error::Error;
use crate::pump::failure;

/// A connection that stood so long does not count as a failed attempt.
const LONG: Duration = Duration::from_secs(60);

/// The attempts of one group.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    group: &'a str,
    back_off: BackOff,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(group: &'a str, first: Duration, longest: Duration) -> Self {
        Self { group, back_off: BackOff::new(first, longest) }
    }

    /// An attempt has failed: says so, and waits the pause out. Whether there is to be another one; there is none when
    /// somebody asks to stop. An attempt that has moved something, or was `connected` for long, was no failed one.
    ///
    /// # Errors
    /// The error itself when it does not pass.
    pub(crate) async fn failed(
        &mut self,
        error: Error,
        has_moved: bool,
        connected: Option<Instant>,
        publisher: &Publisher,
        stop: &mut Stop,
    ) -> Result<bool, Error> {
        if has_moved || connected.is_some_and(|since| since.elapsed() > LONG) {
            self.back_off.reset();
        }
        if !error.is_transient() {
            return Err(error);
        }
        let pause = self.back_off.next();
        tracing::warn!(
            group = %self.group, %error, hint = error.hint(), pause_seconds = pause.as_secs_f32(),
            "trying again"
        );
        let told = failure(&error);
        publisher.update(|status| {
            status.doing = format!("trying again in {} s: {error}", pause.as_secs_f32().ceil());
            status.error = Some(told);
        });
        Ok(stop.or(sleep(pause)).await.is_some())
    }
}
