//! What is looked at and noted before a run is gone on with, or taken back: time has passed since it was cut off.

use serde_json::json;

use super::overtaken::Others;
use super::superseded::is_begun;
use super::{By, Kind, Request, Run, by, role_of, switchover};
use crate::engine::Way;
use crate::error::Error;
use crate::fence;
use crate::journal::{Entry, Journal, What, evidence_of};
use crate::place::Place;
use crate::report::command;

impl Run<'_> {
    /// Takes over what its journal and the request say of the run. Whatever stands against it is said before anything is
    /// done.
    pub(super) async fn go_on(
        &mut self,
        journal: &mut Journal,
        request: &Request<'_>,
        way: Way,
    ) -> Result<(), Error> {
        if let Some(Others { what, are_at_it }) = self.overtaken(journal.entries(), way).await? {
            let (run, has_in_hand) = (self.heading.run.clone(), self.has_in_hand().await?);
            let (abort, from, to) = (command(&self.heading), &self.heading.from, &self.heading.to);
            let remedy = match way {
                Way::Forward if self.kind != Kind::Reinstate && self.is_turned().await? => format!(
                    "start the manager of site \"{from}\", whose guard tells that site; then --resume. Where that does not help, \
                     {abort} --abort ends it, or irongate failover --to {to} --accept-loss --force goes on from it"
                ),
                Way::Forward => format!("{abort} --abort takes it back"),
                Way::Back if are_at_it => {
                    "end that run first, or let the guard come to its end; then again".to_owned()
                }
                Way::Back => {
                    format!("the run is over; irongate runs --forget {run} frees what it has in hand still")
                }
            };
            // What it still has in hand is to be given back by somebody.
            if !has_in_hand || way == Way::Back && !are_at_it {
                self.note_overtaken(journal)?;
            }
            return Err(match has_in_hand {
                true => Error::Crossed { run, what, remedy },
                false => Error::Overtaken { run, what },
            });
        }
        if way == Way::Back {
            self.opens_no_second(journal.entries()).await?;
        }
        self.heading.force |= request.force;
        match (self.kind, way) {
            (Kind::Failover, Way::Forward) if !self.is_turned().await? => self.lost_is_no_writer().await,
            // A site is turned by the transaction that opens it.
            (Kind::Failover | Kind::Switchover | Kind::Switchback, Way::Back) => {
                // Cut off before anything was done of it, the step is none that there is no way back from.
                if self.is_unopened(journal.entries()).await? {
                    let evidence = json!({ "opened": [] });
                    journal.note(What::Undone { step: switchover::OPEN.to_owned(), evidence })?;
                }
                Ok(())
            }
            (Kind::Reinstate, Way::Forward) => self.go_on_reinstating(journal, request),
            _ => Ok(()),
        }
    }

    /// Refuses to open the site again that was closed while somebody has opened the other one by hand.
    async fn opens_no_second(&self, entries: &[Entry]) -> Result<(), Error> {
        if !matches!(self.kind, Kind::Switchover | Kind::Switchback | Kind::Failover) {
            return Ok(());
        }
        // Only a site that the run has closed, and not opened again, would be opened.
        if self.kind != Kind::Failover && !is_begun(entries, switchover::FENCE) {
            return Ok(());
        }
        for unit in &self.units {
            let Some(from) = unit.reached() else { continue };
            let Some(fence) = fence::standing(from).await? else { continue };
            // What others have closed is not opened; and of a standby that takes over it may be that it never was.
            let is_left_alone = self.kind == Kind::Failover
                && (fence.run.as_ref() != Some(&self.heading.run) || !was_closed(entries, &unit.to));
            let says = role_of(&unit.to).await?.is_some_and(|role| role.live == self.heading.to);
            if !is_left_alone && !says && fence::standing(&unit.to).await?.is_none() {
                let (end, other) = (from.to_string(), unit.to.to_string());
                return Err(Error::SecondOpen { end, other, site: self.heading.to.clone() });
            }
        }
        Ok(())
    }

    /// Whether the step that opens the site has begun, and nobody has been let in, by the run or by hand.
    pub(super) async fn is_unopened(&self, entries: &[Entry]) -> Result<bool, Error> {
        let is_opening = |entry: &Entry| match &entry.what {
            What::Step { step } | What::Done { step, .. } => step == switchover::OPEN,
            _ => false,
        };
        let last = entries.iter().rev().find(|entry| is_opening(entry));
        if !last.is_some_and(|entry| matches!(entry.what, What::Step { .. })) || self.is_turned().await? {
            return Ok(false);
        }
        // A standby that takes over may never have been closed; what was lost is not opened by taking the run back.
        for unit in self.units.iter().filter(|_| self.kind != Kind::Failover) {
            if fence::standing(&unit.to).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the site that is to write has been told that it does. A lost one that comes back is closed by its guard from
    /// then on.
    pub(super) async fn is_turned(&self) -> Result<bool, Error> {
        self.any_says(|role| role.next.is_none() && role.live == self.heading.to).await
    }

    fn go_on_reinstating(&mut self, journal: &mut Journal, request: &Request<'_>) -> Result<(), Error> {
        self.was_made_copy = by::was_made_copy(journal.entries());
        if request.by != By::Either {
            if by::follows(journal.entries()) {
                let complaint = format!(
                    "site \"{}\" follows again already, and only what stands behind that is left of the run: --resume without \
                     --by ends it; irongate compare and irongate repair mend what differs",
                    self.heading.from
                );
                return Err(Error::Refused { complaints: vec![complaint] });
            }
            if by::chosen(&self.heading, journal.entries()) != request.by || self.was_made_copy {
                journal.note(What::Chosen { by: request.by })?;
            }
        }
        if request.accept_loss && !self.heading.accept_loss {
            journal.note(What::Accepted)?;
        }
        self.heading.accept_loss |= journal.entries().iter().any(|entry| entry.what == What::Accepted);
        let last = journal.entries().iter().rev().find_map(|entry| match entry.what {
            What::Chosen { by } => Some(by),
            _ => None,
        });
        self.heading.by = last.unwrap_or(self.heading.by);
        Ok(())
    }
}

/// Whether a site was closed when its failover began.
fn was_closed(entries: &[Entry], to: &Place) -> bool {
    let checked = evidence_of(entries, "prechecks").and_then(|evidence| evidence["databases"].as_array());
    let name = to.to_string();
    checked
        .is_some_and(|all| all.iter().any(|one| one["database"] == name.as_str() && !one["fence"].is_null()))
}
