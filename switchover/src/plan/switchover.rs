//! The steps of a switchover, and what each does and takes back.

use serde_json::{Value, json};

use super::{Kind, Progress, Run, Unit};
use crate::engine::Step;
use crate::error::Error;
use crate::fence;
use crate::journal::Entry;

pub(super) const FENCE: &str = "fence";
pub(super) const DRAIN: &str = "drain";
pub(super) const OPEN: &str = "open";

const fn step(name: &'static str) -> Step {
    Step { name, no_return: false }
}

/// In their order. What takes long is done before the fence: applications wait from `fence` to `open` only.
pub(super) const STEPS: [Step; 11] = [
    step("prechecks"),
    step("lock"),
    step("reverse-capture"),
    step(FENCE),
    step("marker"),
    step(DRAIN),
    step("stop-forward"),
    step("verify"),
    Step { name: OPEN, no_return: true },
    step("roles"),
    step("follow"),
];

impl Run<'_> {
    /// Does a step, or what is left of it.
    pub(super) async fn step(&mut self, name: &str, progress: &mut Progress<'_>) -> Result<Value, Error> {
        if let Some(done) = self.hook_step(name, progress).await {
            return done;
        }
        match name {
            "prechecks" => match self.kind {
                Kind::Failover => self.failover_precheck().await,
                Kind::Reinstate => self.reinstate_precheck().await,
                Kind::Switchover | Kind::Switchback | Kind::Drill => self.precheck().await,
            },
            "lock" => self.lock().await,
            "reverse-capture" => {
                let begun = self.begin_reverse(progress).await?;
                if self.kind == Kind::Failover {
                    // The last moment before there is no way back.
                    self.lost_is_no_writer().await?;
                }
                Ok(begun)
            }
            FENCE => self.close().await,
            "marker" => self.mark().await,
            DRAIN => self.drain(progress).await,
            "stop-forward" => self.stop_forward().await,
            "verify" => self.verify().await,
            OPEN => self.open().await,
            "roles" => self.write_roles().await,
            "follow" => self.follow().await,
            _ => match self.kind {
                Kind::Failover => self.failover_step(name, progress).await,
                Kind::Drill => self.drill_step(name, progress).await,
                _ => self.reinstate_step(name, progress).await,
            },
        }
    }

    /// Takes a step back, or what was done of it.
    pub(super) async fn undo(
        &mut self,
        name: &str,
        entries: &[Entry],
        progress: &mut Progress<'_>,
    ) -> Result<Value, Error> {
        if let Some(undone) = self.hook_undo(name, progress).await {
            return undone;
        }
        match name {
            "lock" => {
                let mut evidence = self.unlock().await?;
                let names = self.names_left(progress).await;
                match (evidence.as_object_mut(), names) {
                    (Some(all), Value::Object(names)) => all.extend(names),
                    (None, names) => evidence = names,
                    (Some(_), _) => {}
                }
                Ok(evidence)
            }
            "reverse-capture" if self.kind == Kind::Drill => self.end_drill().await,
            "reverse-capture" | "stop-forward" if self.is_of_earlier(name)? => Ok(Value::Null),
            // Of a site that wrote already it was none of the run's making.
            "reverse-capture"
                if self.kind == Kind::Failover
                    && self.any_says(|role| role.live == self.heading.to).await? =>
            {
                Ok(Value::Null)
            }
            "reverse-capture" => self.end_reverse().await,
            // A site that comes back stays closed, whatever becomes of its reinstatement.
            FENCE if self.kind == Kind::Reinstate => Ok(Value::Null),
            FENCE => self.reopen().await,
            "stop-groups" => {
                self.forget_found()?;
                let back = &self.heading.from;
                progress(name, &format!("site \"{back}\" does not follow until it is reinstated"));
                self.start_reverse().await
            }
            "stop-forward" => self.start_forward().await,
            _ if self.kind == Kind::Failover => self.failover_undo(name, entries).await,
            _ if self.kind == Kind::Drill => self.drill_undo(name).await,
            _ => Ok(Value::Null),
        }
    }

    /// Keeps the applications out of the site that writes.
    pub(super) async fn close(&self) -> Result<Value, Error> {
        let how = self.how_to_close();
        let mut closed = Vec::new();
        for unit in &self.units {
            closed.push(fence::close(unit.from()?, &how).await?);
        }
        Ok(json!({ "closed": closed }))
    }

    pub(super) fn how_to_close(&self) -> fence::Close {
        fence::Close {
            standby: true,
            writers: self.limits.writers,
            locks: self.limits.locks,
            run: Some(self.heading.run.clone()),
        }
    }

    async fn reopen(&self) -> Result<Value, Error> {
        let mut opened = Vec::new();
        for unit in &self.units {
            opened.extend(fence::open(unit.from()?, self.limits.locks).await?);
        }
        Ok(json!({ "opened": opened }))
    }

    /// Opens the site that is to write, which says in the same moment that it does: nobody finds it open and written
    /// elsewhere, nor the other way round.
    pub(super) async fn open_and_turn(&self, unit: &Unit<'_>) -> Result<Option<fence::Opened>, Error> {
        let turn = async { self.turn(&unit.to).await.map(drop) };
        fence::open_with(&unit.to, self.limits.locks, turn).await
    }

    /// Lets the applications in at the site that is to write, with the sequences where they were left.
    async fn open(&self) -> Result<Value, Error> {
        if self.kind == Kind::Failover {
            return self.open_alone().await;
        }
        let (mut opened, mut sequences) = (Vec::new(), 0);
        let is_turned = self.is_turned().await?;
        for unit in &self.units {
            // All that follows rests on the other site being closed: shown once more, at the last moment.
            fence::still_closed(unit.from()?).await?;
            let looked = self.nothing_behind(unit).await;
            looked.map_err(|error| if is_turned { self.behind_return(error) } else { error })?;
        }
        for unit in &self.units {
            // Behind the fence of the other site nobody moves them any more; here nobody does before the opening.
            if fence::standing(&unit.to).await?.is_some() {
                sequences += irongate_deployment::carry_sequences(self.configuration, unit.pair.into).await?;
            }
            opened.extend(self.open_and_turn(unit).await?);
        }
        Ok(json!({ "opened": opened, "sequences": sequences }))
    }
}
