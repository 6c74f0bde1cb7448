//! Reverse capture: ready before the outage begins, so that the first transaction at the new site is captured already.

use irongate_checkpoint::{Program, State};
use irongate_deployment::Event;
use irongate_deployment::groups::group_name;
use irongate_manager::supervisor::Word;
use serde_json::{Value, json};

use super::{Kind, Progress, Run};
use crate::error::Error;
use crate::place::Place;

impl Run<'_> {
    /// Makes slot, trail and checkpoint of the reverse flow and starts its Extract.
    pub(super) async fn begin_reverse(&self, progress: &mut Progress<'_>) -> Result<Value, Error> {
        let mut begun = Vec::new();
        for unit in &self.units {
            let flow = unit.pair.out_of;
            let group = group_name(&flow.name, Program::Extract);
            let info = self.info(&self.heading.to).await?;
            let runs = info.groups.iter().any(|found| found.name == group && found.state == State::Running);
            if !runs {
                // One that was cut off in between may be about to start.
                self.order(Word::Stop, &self.heading.to, std::slice::from_ref(&group)).await?;
                let mut tell = |event: Event<'_>| match event {
                    Event::Waiting(blockers) => {
                        for blocker in blockers {
                            progress("reverse-capture", &format!("the slot waits for {blocker}"));
                        }
                    }
                    Event::Note(note) => progress("reverse-capture", &note),
                    _ => {}
                };
                let limit = self.limits.slot;
                let at = if self.kind == Kind::Failover {
                    // The site that it goes to is lost: it is made a copy when it comes back.
                    irongate_deployment::begin_capture(self.configuration, flow, limit, &mut tell).await?
                } else {
                    irongate_deployment::begin_anew(self.configuration, flow, limit, &mut tell).await?
                };
                begun.push(json!({ "flow": flow.name, "slot": flow.slot, "from": at.to_string() }));
                self.order(Word::Start, &self.heading.to, std::slice::from_ref(&group)).await?;
            }
        }
        Ok(json!({ "begun": begun }))
    }

    /// Stops the reverse Extract and drops its slot: in normal mode there is none.
    pub(super) async fn end_reverse(&self) -> Result<Value, Error> {
        let mut slots = Vec::new();
        for unit in &self.units {
            let group = group_name(&unit.pair.out_of.name, Program::Extract);
            self.order(Word::Stop, &self.heading.to, std::slice::from_ref(&group)).await?;
            if self.drop_slot(&unit.to, &unit.pair.out_of.slot).await? {
                slots.push(unit.pair.out_of.slot.clone());
            }
        }
        Ok(json!({ "dropped_slots": slots }))
    }

    /// Drops a slot; whether it was there. One that the server thinks in use is waited for a little: its reader has just
    /// ended.
    pub(super) async fn drop_slot(&self, place: &Place, slot: &str) -> Result<bool, Error> {
        const DROP: &str = "SELECT pg_catalog.pg_drop_replication_slot(slot_name)
             FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
        let begun = std::time::Instant::now();
        loop {
            match place.session.query(DROP, &[&slot]).await {
                Ok(rows) => return Ok(!rows.is_empty()),
                Err(error)
                    if error.code() == Some(&tokio_postgres::error::SqlState::OBJECT_IN_USE)
                        && begun.elapsed() < self.limits.groups =>
                {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
                Err(error) => return Err(place.failed("drop the slot")(error)),
            }
        }
    }
}
