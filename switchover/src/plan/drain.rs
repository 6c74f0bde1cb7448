//! The marker: the last thing that the old site commits, and the proof that the new one has everything before it.
//!
//! Replicat keeps the marker at the target in the transaction that applies it, and wipes it out when it applies changes
//! behind it. So once something that was committed later still has been applied and the marker still stands, nothing that
//! matters came between: the fence held.

use std::time::{Duration, Instant};

use irongate_checkpoint::{MARKER_PREFIX, Program, State};
use irongate_deployment::configuration::Flow;
use irongate_deployment::groups::group_name;
use irongate_trail::Lsn;
use serde_json::{Value, json};
use tokio_postgres::types::PgLsn;

use super::peek::{self, Shown};
use super::precheck::groups::tables_half_copied;
use super::{Progress, Run, Unit};
use crate::error::Error;
use crate::place::Place;

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(10);
/// How often it is said what is waited for.
const SAY: Duration = Duration::from_secs(5);
/// What is committed behind a marker, to be sure that everything before it has come.
const BEHIND: &str = "irongate.behind";

impl Run<'_> {
    /// Writes the marker at the site that is closed.
    pub(super) async fn mark(&self) -> Result<Value, Error> {
        let mut markers = Vec::new();
        for unit in &self.units {
            let lsn = emit(unit.from()?, MARKER_PREFIX, &self.heading.run).await?;
            markers.push(json!({ "database": unit.from()?.to_string(), "lsn": lsn.to_string() }));
        }
        Ok(json!({ "markers": markers }))
    }

    /// Waits until the marker has been applied, and makes sure that nothing has come behind it.
    pub(super) async fn drain(&self, progress: &mut Progress<'_>) -> Result<Value, Error> {
        let mut certificates = Vec::new();
        for unit in &self.units {
            let behind = emit(unit.from()?, BEHIND, &self.heading.run).await?;
            let applied = self.await_applied(unit, behind, progress).await?;
            self.unbroken(unit).await?;
            certificates.push(json!({
                "database": unit.to.to_string(),
                "marker": self.heading.run,
                "behind": behind.to_string(),
                "applied": applied.to_string(),
            }));
        }
        Ok(json!({ "certificates": certificates }))
    }

    /// Waits until everything that is committed by now is applied, while the site that writes goes on writing.
    pub(super) async fn drain_unfenced(&self, progress: &mut Progress<'_>) -> Result<Value, Error> {
        let mut level = Vec::new();
        for unit in &self.units {
            let (begun, behind) = (Instant::now(), emit(unit.from()?, BEHIND, &self.heading.run).await?);
            let applied = self.await_applied(unit, behind, progress).await?;
            level.push(json!({
                "database": unit.to.to_string(),
                "committed": behind.to_string(),
                "applied": applied.to_string(),
                "seconds": begun.elapsed().as_secs_f64(),
            }));
        }
        Ok(json!({ "level": level }))
    }

    /// Waits until the standby has applied everything up to a place in the log of the site that writes.
    async fn await_applied(
        &self,
        unit: &Unit<'_>,
        behind: Lsn,
        progress: &mut Progress<'_>,
    ) -> Result<Lsn, Error> {
        let flow = unit.pair.into;
        let (begun, mut told, mut fallen) = (Instant::now(), Instant::now(), None);
        loop {
            let (_, applied) = standing(&unit.to, &flow.name).await?;
            if applied >= behind {
                return Ok(applied);
            }
            let waited = begun.elapsed();
            if waited > self.limits.drain {
                let (end, applied) = (unit.to.to_string(), applied.to_string());
                return Err(Error::NotDrained { end, waited, applied });
            }
            if told.elapsed() > SAY {
                told = Instant::now();
                self.is_there(unit.from()?).await?;
                self.are_up(flow, &mut fallen).await?;
                progress("drain", &format!("{} is at {applied}, the marker before {behind}", unit.to));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Fails if a site does not answer any more: then nothing is worth waiting for.
    async fn is_there(&self, place: &Place) -> Result<(), Error> {
        let asked = tokio::time::timeout(self.limits.probe, place.session.batch_execute("SELECT 1")).await;
        let silent = || Error::Lost { reason: format!("{place} does not answer any more") };
        asked.map_err(|_| silent())?.map_err(|_| silent())
    }

    /// Fails if a group of a flow has fallen and stays down: then nothing is worth waiting for either. One that its manager
    /// starts again is up when it is looked at the next time. A manager that does not answer says nothing.
    async fn are_up(&self, flow: &Flow, fallen: &mut Option<String>) -> Result<(), Error> {
        let mut down = None;
        for (site, groups) in self.where_they_run(flow) {
            let asked = tokio::time::timeout(self.limits.probe, self.info(site)).await;
            let Ok(Ok(info)) = asked else { continue };
            let found =
                info.groups.into_iter().find(|found| groups.contains(&found.name) && has_fallen(found));
            down = down.or(found.map(|found| (site.to_owned(), found)));
        }
        let before = fallen.take();
        let Some((site, found)) = down else { return Ok(()) };
        if before.as_ref() != Some(&found.name) {
            *fallen = Some(found.name);
            return Ok(());
        }
        let doing = found.error.unwrap_or(found.doing);
        Err(Error::Group { group: found.name, site, doing })
    }

    /// Whether the marker still stands.
    async fn unbroken(&self, unit: &Unit<'_>) -> Result<(), Error> {
        let (marker, end) = standing(&unit.to, &unit.pair.into.name).await?;
        if marker.as_deref() == Some(&self.heading.run) {
            return Ok(());
        }
        Err(Error::Breach { end: unit.from()?.to_string(), applied: end.to_string() })
    }

    /// Looks into the log of the site that is closed for changes that have not been applied, behind a forward Extract that
    /// has stopped. A run that is gone on with behind the dropping of the slot has looked before.
    pub(super) async fn nothing_behind(&self, unit: &Unit<'_>) -> Result<(), Error> {
        self.nobody_has_read(unit).await?;
        let (_, applied) = standing(&unit.to, &unit.pair.into.name).await?;
        let from = unit.from()?;
        match peek::behind(from, unit.pair.into, applied).await? {
            Shown::NoSlot | Shown::Transactions { count: 0, .. } => Ok(()),
            Shown::Transactions { .. } => {
                Err(Error::Breach { end: from.to_string(), applied: applied.to_string() })
            }
            Shown::Lost => Err(Error::Lost {
                reason: format!(
                    "slot \"{}\" at {from} is lost: nothing shows what came behind {applied}",
                    unit.pair.into.slot
                ),
            }),
        }
    }

    /// The forward groups have stopped, nothing has come behind the marker, and reverse capture runs.
    pub(super) async fn verify(&self) -> Result<Value, Error> {
        for unit in &self.units {
            self.unbroken(unit).await?;
            // Begun since it was looked at first. From when the run has the database in hand on, none begins.
            let tables = tables_half_copied(&unit.to, &unit.pair.into.name).await?;
            if !tables.is_empty() {
                let flow = unit.pair.into.name.clone();
                return Err(Error::HalfCopied { end: unit.to.to_string(), flow, tables: tables.join(", ") });
            }
            let group = group_name(&unit.pair.out_of.name, Program::Extract);
            let info = self.info(&self.heading.to).await?;
            let found = info.groups.iter().find(|found| found.name == group);
            if found.is_none_or(|found| found.state != State::Running) {
                let doing = found.map(|found| found.doing.clone()).unwrap_or_default();
                return Err(Error::Group { group, site: self.heading.to.clone(), doing });
            }
        }
        Ok(json!({ "databases": self.units.iter().map(|unit| unit.to.to_string()).collect::<Vec<_>>() }))
    }

    /// Waits until something that was committed at the new site has come to the old one.
    pub(super) async fn await_echo(&self) -> Result<(), Error> {
        for unit in &self.units {
            let (begun, mut looked, mut fallen) = (Instant::now(), Instant::now(), None);
            let lsn = emit(&unit.to, BEHIND, &self.heading.run).await?;
            loop {
                let (_, end) = standing(unit.from()?, &unit.pair.out_of.name).await?;
                if end >= lsn {
                    break;
                }
                if begun.elapsed() > self.limits.drain {
                    let (end, waited) = (unit.from()?.to_string(), begun.elapsed());
                    return Err(Error::NotDrained { end, waited, applied: lsn.to_string() });
                }
                if looked.elapsed() > SAY {
                    looked = Instant::now();
                    self.are_up(unit.pair.out_of, &mut fallen).await?;
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }
}

/// Whether a group is down, and not about to be started again.
fn has_fallen(group: &irongate_manager::GroupInfo) -> bool {
    group.state == State::Abended && group.next_attempt.is_none()
}

/// Commits a message; where it lies in the log.
async fn emit(place: &Place, prefix: &str, content: &str) -> Result<Lsn, Error> {
    const SQL: &str =
        "SELECT pg_catalog.pg_logical_emit_message(true, $1::pg_catalog.text, $2::pg_catalog.text)";
    let failed = || place.failed("write a marker");
    let row = place.session.query_one(SQL, &[&prefix, &content]).await.map_err(failed())?;
    Ok(Lsn(row.try_get::<_, PgLsn>(0).map_err(failed())?.into()))
}

/// The marker that stands for a flow at its target, and how far its source is applied.
pub(super) async fn standing(place: &Place, flow: &str) -> Result<(Option<String>, Lsn), Error> {
    const SQL: &str = "SELECT marker, end_lsn FROM irongate.checkpoint WHERE flow = $1";
    let failed = || place.failed("look for the marker");
    let Some(row) = place.session.query_opt(SQL, &[&flow]).await.map_err(failed())? else {
        return Ok((None, Lsn::ZERO));
    };
    let end: PgLsn = row.try_get(1).map_err(failed())?;
    Ok((row.try_get(0).map_err(failed())?, Lsn(end.into())))
}
