//! What systemd is told: ready, stopping, a sentence of status, and that the loop turns.
//!
//! Outside systemd there is no socket to tell, and all of this does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// The service manager, as far as there is one.
#[derive(Debug)]
pub(crate) struct Systemd {
    last: String,
}

impl Systemd {
    pub(crate) fn new() -> Self {
        Self { last: String::new() }
    }

    /// How often the watchdog wants to hear; never if `None`. Half of what it allows.
    pub(crate) fn watchdog() -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|limit| (limit / 2).max(Duration::from_millis(1)))
    }

    pub(crate) fn ready(&mut self) {
        self.tell(&[NotifyState::Ready]);
    }

    pub(crate) fn stopping(&mut self) {
        self.tell(&[NotifyState::Stopping]);
    }

    pub(crate) fn alive(&mut self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    /// Tells a sentence when it is another one.
    pub(crate) fn status(&mut self, sentence: String) {
        if self.last != sentence {
            self.tell(&[NotifyState::Status(&sentence)]);
            self.last = sentence;
        }
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states) {
            tracing::debug!(%error, "cannot tell systemd");
        }
    }
}
