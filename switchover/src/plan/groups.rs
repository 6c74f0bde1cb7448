//! Groups, started and stopped by the managers of their sites.

use std::time::Duration;

use irongate_checkpoint::Program;
use irongate_deployment::configuration::Flow;
use irongate_deployment::groups::group_name;
use irongate_manager::supervisor::Word;
use irongate_manager::{Control, Info};
use serde_json::{Map, Value, json};

use super::{Kind, Run, Unit, peek};
use crate::error::Error;
use crate::journal::{Journal, evidence_of};
use crate::place::Place;
use crate::{fence, strayed};

/// Under this the evidence of the step that stops the forward groups says how far their slots were read, in bytes of the log.
const READ_UP_TO: &str = "read_up_to";

impl Run<'_> {
    /// The manager of a site.
    pub(super) fn manager(&self, site: &str) -> Result<Control, Error> {
        let failed = |source| Error::Manager { site: site.to_owned(), source: Box::new(source) };
        Control::between(self.configuration, &self.heading.to, site).map_err(failed)
    }

    pub(super) async fn info(&self, site: &str) -> Result<Info, Error> {
        let failed = |source| Error::Manager { site: site.to_owned(), source: Box::new(source) };
        self.manager(site)?.info().await.map_err(failed)
    }

    /// Gives an order to groups of a site and waits until it has been followed.
    pub(super) async fn order(&self, word: Word, site: &str, groups: &[String]) -> Result<(), Error> {
        let failed = |source| Error::Manager { site: site.to_owned(), source: Box::new(source) };
        let wait: Duration = self.limits.groups;
        let outcomes = self.manager(site)?.order(word, groups, wait).await.map_err(failed)?;
        match outcomes.into_iter().find(|outcome| !outcome.done) {
            None => Ok(()),
            Some(outcome) => {
                Err(Error::Group { group: outcome.group, site: site.to_owned(), doing: outcome.doing })
            }
        }
    }

    /// Extract and pump where a flow comes from, Replicat where it goes to.
    pub(super) fn where_they_run<'f>(&self, flow: &'f Flow) -> [(&'f str, Vec<String>); 2] {
        let name = |program| group_name(&flow.name, program);
        let mut source = vec![name(Program::Extract)];
        source.extend(flow.pump.is_some().then(|| name(Program::Pump)));
        let target = if flow.pump.is_some() { &flow.to } else { &flow.at };
        [(&flow.at, source), (target, vec![name(Program::Replicat)])]
    }

    /// Stops the forward groups: everything has gone through them.
    pub(super) async fn stop_forward(&self) -> Result<Value, Error> {
        let mut evidence = self.forward(Word::Stop).await?;
        let mut read = Map::new();
        for unit in &self.units {
            // Nobody reads it from here on: what somebody captures nevertheless goes nowhere.
            if let Some(from) = unit.reached().filter(|_| self.kind != Kind::Failover)
                && let Some(lsn) = peek::read_up_to(from, &unit.pair.into.slot).await?
            {
                read.insert(from.to_string(), json!(lsn.0));
            }
        }
        evidence[READ_UP_TO] = Value::Object(read);
        Ok(evidence)
    }

    /// What a breach is where there is no way back.
    pub(super) fn behind_return(&self, error: Error) -> Error {
        match error {
            Error::Breach { end, .. } if self.kind != Kind::Reinstate => {
                let (to, from) = (self.heading.to.clone(), self.heading.from.clone());
                Error::Alone { end, to, from }
            }
            other => other,
        }
    }

    /// Fails if somebody has read the forward slot since the forward groups were stopped: what was written and captured
    /// there shows in no slot any more.
    pub(super) async fn nobody_has_read(&self, unit: &Unit<'_>) -> Result<(), Error> {
        let (_, entries) = Journal::read(&self.configuration.state_directory, &self.heading.run)?;
        let from = unit.from()?;
        let noted = evidence_of(&entries, "stop-forward")
            .and_then(|evidence| evidence[READ_UP_TO][from.to_string()].as_u64());
        let Some(noted) = noted else { return Ok(()) };
        match peek::read_up_to(from, &unit.pair.into.slot).await? {
            Some(now) if now.0 > noted => {
                Err(Error::Breach { end: from.to_string(), applied: now.to_string() })
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn start_forward(&self) -> Result<Value, Error> {
        self.forward(Word::Start).await
    }

    async fn forward(&self, word: Word) -> Result<Value, Error> {
        let mut all = Vec::new();
        for unit in &self.units {
            for (site, groups) in self.where_they_run(unit.pair.into) {
                if self.kind == Kind::Failover && *site != self.heading.to {
                    // Lost, or to be stopped by its own manager when it learns of this.
                    continue;
                }
                self.order(word, site, &groups).await?;
                all.extend(groups);
            }
        }
        Ok(json!({ "groups": all }))
    }

    /// Lets the site that wrote before follow: the rest of the reverse groups is started, and the forward slot, which
    /// nobody reads any more and which would keep the log for ever, is dropped.
    pub(super) async fn follow(&self) -> Result<Value, Error> {
        let mut slots = Vec::new();
        if self.kind == Kind::Reinstate {
            slots = self.is_copy_again().await?;
        }
        for unit in &self.units {
            // Once more before what would show it is gone, and before what comes from the other site is in that log too.
            fence::still_closed(unit.from()?).await?;
            self.nothing_behind(unit).await.map_err(|error| self.behind_return(error))?;
            // No run begins with a site that is marked, so somebody has opened this one since.
            if self.kind != Kind::Reinstate && !strayed::found(unit.from()?).await?.is_empty() {
                return Err(Error::Opened { end: unit.from()?.to_string(), site: self.heading.from.clone() });
            }
            if self.drop_slot(unit.from()?, &unit.pair.into.slot).await? {
                slots.push(unit.pair.into.slot.clone());
            }
        }
        let mut all = Vec::new();
        for unit in &self.units {
            for (site, groups) in self.where_they_run(unit.pair.out_of) {
                self.order(Word::Start, site, &groups).await?;
                all.extend(groups);
            }
        }
        self.await_echo().await?;
        for unit in &self.units {
            fence::still_closed(unit.from()?).await?;
        }
        self.unlock().await?;
        let mut sessions = Vec::new();
        for unit in &self.units {
            for place in [unit.from()?, &unit.to] {
                let count = self.application_sessions(place).await?;
                sessions.push(json!({ "database": place.to_string(), "sessions": count }));
            }
        }
        Ok(json!({ "groups": all, "dropped_slots": slots, "application_sessions": sessions }))
    }

    /// How many sessions the applications have at a site: where they have moved to.
    async fn application_sessions(&self, place: &Place) -> Result<i64, Error> {
        const COUNT: &str = "SELECT count(*) FROM pg_catalog.pg_stat_activity
             WHERE datname = pg_catalog.current_database() AND usename::text = ANY ($1)";
        let access = self.configuration.access.get(&place.database);
        let roles: Vec<&String> = access.into_iter().flat_map(|access| &access.roles).collect();
        let failed = || place.failed("count the sessions of the applications");
        place.session.query_one(COUNT, &[&roles]).await.and_then(|row| row.try_get(0)).map_err(failed())
    }
}
