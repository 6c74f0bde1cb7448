//! Drill: a switchover as far as it goes without anybody noticing.
//!
//! The standby is brought level, opened in an epoch of its own and tried, while the site that writes goes on writing;
//! what it writes meanwhile waits in the trail. Then everything is put back. Reverse capture runs all the while: its slot
//! shows whether anybody has written at the standby, and if so, that is said and the standby is no longer a copy.

use irongate_checkpoint::Program;
use irongate_deployment::groups::group_name;
use irongate_manager::supervisor::Word;
use irongate_trail::Lsn;
use serde_json::{Value, json};

use super::peek::{self, Shown};
use super::{LEFT, Progress, Run, left};
use crate::engine::Step;
use crate::error::Error;
use crate::{fence, strayed};

const fn step(name: &'static str) -> Step {
    Step { name, no_return: false }
}

/// What the evidence of a drill that was taken back says was written at the standby.
const TOUCHED: &str = "written_at_the_standby";

/// In their order. Each can be taken back.
pub(super) const STEPS: [Step; 11] = [
    step("prechecks"),
    step("lock"),
    step("reverse-capture"),
    step("marker"),
    step("drain-unfenced"),
    step("stop-replicat"),
    step("open-standby"),
    step("close-standby"),
    step("untouched"),
    step("put-back"),
    step("unlock"),
];

impl Run<'_> {
    pub(super) async fn drill_step(
        &mut self,
        name: &str,
        progress: &mut Progress<'_>,
    ) -> Result<Value, Error> {
        match name {
            "drain-unfenced" => self.drain_unfenced(progress).await,
            "stop-replicat" => self.replicats(Word::Stop).await,
            "open-standby" => self.open_standby().await,
            "close-standby" => self.close_standby().await,
            "untouched" => self.untouched().await,
            "put-back" => self.put_back(progress).await,
            _ => self.unlock().await,
        }
    }

    pub(super) async fn drill_undo(&mut self, name: &str) -> Result<Value, Error> {
        match name {
            "stop-replicat" => self.replicats(Word::Start).await,
            "open-standby" => self.close_standby().await,
            _ => Ok(Value::Null),
        }
    }

    /// Starts or stops the forward Replicats.
    pub(super) async fn replicats(&self, word: Word) -> Result<Value, Error> {
        let mut all = Vec::new();
        for unit in &self.units {
            let flow = unit.pair.into;
            let site = if flow.pump.is_some() { &flow.to } else { &flow.at };
            let group = group_name(&flow.name, Program::Replicat);
            self.order(word, site, std::slice::from_ref(&group)).await?;
            all.push(group);
        }
        Ok(json!({ "groups": all }))
    }

    /// Lets the applications' roles in and tries a write as each, rolled back.
    async fn open_standby(&self) -> Result<Value, Error> {
        let mut opened = Vec::new();
        for unit in &self.units {
            opened.extend(fence::open(&unit.to, self.limits.locks).await?);
        }
        Ok(json!({ "opened": opened }))
    }

    pub(super) async fn close_standby(&self) -> Result<Value, Error> {
        let how =
            fence::Close { standby: true, writers: self.limits.writers, locks: self.limits.locks, run: None };
        let mut closed = Vec::new();
        for unit in &self.units {
            closed.push(fence::close(&unit.to, &how).await?);
        }
        Ok(json!({ "closed": closed }))
    }

    /// Looks into the standby's log for what was written there while it was open.
    pub(super) async fn untouched(&self) -> Result<Value, Error> {
        let mut looked = Vec::new();
        for unit in &self.units {
            let flow = unit.pair.out_of;
            // A slot that is read cannot be looked into; what was read of it is in the trail, and looked at there.
            let extract = group_name(&flow.name, Program::Extract);
            self.order(Word::Stop, &self.heading.to, std::slice::from_ref(&extract)).await?;
            let in_slot = match peek::behind(&unit.to, flow, Lsn::ZERO).await? {
                Shown::NoSlot => 0,
                Shown::Transactions { count, .. } => count,
                Shown::Lost => {
                    let (slot, to) = (&flow.slot, &unit.to);
                    let reason = format!("slot \"{slot}\" at {to} is lost: nothing shows what was written");
                    return Err(Error::Lost { reason });
                }
            };
            let in_trail = self.rows_of(unit).await?;
            if in_slot > 0 || in_trail > 0 {
                let transactions = in_trail + in_slot;
                let what =
                    format!("{transactions} transactions were written there in run {}", self.heading.run);
                if strayed::found(&unit.to).await?.iter().all(|known| !known.contains(&what)) {
                    strayed::mark(&unit.to, &what).await?;
                }
                return Err(Error::Touched { end: unit.to.to_string(), transactions });
            }
            looked.push(json!({ "database": unit.to.to_string(), "transactions_written_there": 0 }));
        }
        Ok(json!({ "looked": looked }))
    }

    /// The same for a drill that is taken back: what was written at the standby is told before what shows it is gone.
    pub(super) async fn end_drill(&self) -> Result<Value, Error> {
        let touched = match self.untouched().await {
            Ok(_) => Value::Null,
            Err(error @ Error::Touched { .. }) => json!(error.to_string()),
            // There was nothing yet to look into.
            Err(error) => json!({ "not looked into": error.to_string() }),
        };
        let dropped = self.end_reverse().await?;
        let mut evidence = json!({ TOUCHED: touched, "reverse": dropped });
        if let Some(what) = touched.as_str() {
            let remedy =
                "the standby is no longer a copy: find out who wrote, and instantiate the flow again";
            evidence[LEFT] = left(what, remedy);
        }
        Ok(evidence)
    }

    /// Drops the reverse slot and lets the standby follow again.
    async fn put_back(&self, progress: &mut Progress<'_>) -> Result<Value, Error> {
        let dropped = self.end_reverse().await?;
        let started = self.replicats(Word::Start).await?;
        let caught_up = self.drain_unfenced(progress).await?;
        Ok(json!({ "reverse": dropped, "started": started, "caught_up": caught_up }))
    }
}
