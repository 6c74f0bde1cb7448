//! Taking over new settings while the groups run.

use std::collections::BTreeSet;

use super::{Running, watch_settings};
use crate::error::Error;
use crate::event::{Kind, Notice, Severity};
use crate::settings::Difference;
use crate::supervisor::Event;

impl Running {
    /// Reads the settings again and takes over what may change. After an error everything is as before.
    pub(super) async fn reload(&mut self) -> Result<Difference, Error> {
        let outcome = self.remake().await;
        match &outcome {
            Ok(difference) if difference.is_empty() => {
                self.record(Notice::new(
                    Severity::Info,
                    Kind::Reloaded,
                    "settings read again: nothing is different",
                ));
            }
            Ok(difference) => {
                let mut text = format!("settings read again: {}", difference.changed.join("; "));
                if !difference.needs_restart.is_empty() {
                    text.push_str(&format!("; not in effect yet: {}", difference.needs_restart.join("; ")));
                }
                self.record(Notice::new(Severity::Info, Kind::Reloaded, text));
            }
            Err(error) => {
                let text = format!("settings not read again, those before hold: {error}");
                self.record(Notice::new(Severity::Error, Kind::Reloaded, text));
            }
        }
        outcome
    }

    async fn remake(&mut self) -> Result<Difference, Error> {
        let refused = |message: &str, hint: &str| Error::Refused {
            message: message.to_owned(),
            hint: Some(hint.to_owned()),
            transient: false,
        };
        if self.shutting_down {
            return Err(refused("the manager is ending", "start it again"));
        }
        let Some(reload) = self.settings.reload.clone() else {
            return Err(refused("this manager cannot read its settings again", "restart it"));
        };
        let made = tokio::task::spawn_blocking(move || (reload.0)()).await;
        let new = made.map_err(|_| refused("reading the settings failed", "see the manager's log"))??;
        new.review()?;
        let running: BTreeSet<_> = self.processes.keys().cloned().collect();
        let difference = self.settings.take_over(new, &running, &self.in_force);
        self.supervisor.set_limits(self.settings.restart, self.settings.stop_limit);
        self.watch.send_replace(watch_settings(&self.settings));
        self.hooks.send_replace(self.settings.hooks.clone());
        self.tell(Event::Reload(self.settings.rules())).await;
        Ok(difference)
    }
}
