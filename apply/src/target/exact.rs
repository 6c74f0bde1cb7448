//! A batch applied change by change, for when applying it in sets was refused: finds the change that is to blame and
//! does with it what its policy says.
//!
//! Changes go in windows, each a savepoint and a flight of statements. A window with a refusal is taken back and
//! repeated change by change, each in a savepoint of its own. So what is sound costs little more than by set, and what
//! is not is found to the row.

use std::sync::Arc;

use irongate_checkpoint::Applied;
use irongate_trail::CommitLsn;

use super::alone::{Alone, execute_alone};
use super::flight::sort;
use super::postgres::Connection;
use super::resolve::{Resolved, Stop};
use super::{Failure, Outcome};
use crate::batch::{Batch, Change};
use crate::conflict::Rule;
use crate::ddl::offer;
use crate::error::{Error, Remedy, RowError};
use crate::error_queue;
use crate::policy::Action;
use crate::settings::ReplicatSettings;
use crate::table::Plan;

/// Changes between two savepoints.
const WINDOW: usize = 256;
/// How often a change is looked at again because a local writer was quicker. More is no race but another constraint.
const RACES: u32 = 20;

impl Connection {
    pub(super) async fn apply_exact(
        &mut self,
        batch: &Batch,
        settings: &ReplicatSettings,
        end: Option<&Applied>,
    ) -> Result<Outcome, Failure> {
        let plans = self.plans(batch, settings).await?;
        self.start(batch, settings, end.is_none()).await?;
        let mut outcome = Outcome::default();
        // Where a table has a rule, each change depends on what the one before has made.
        let resolves = plans.iter().any(|plan| plan.conflict.is_some());
        let mut from = 0;
        while from < batch.len() {
            let to = batch.len().min(from + WINDOW);
            self.simple("SAVEPOINT irongate").await?;
            let sets_out = !resolves && !self.any_behind(batch, from..to, &plans, settings).await?;
            if sets_out && self.window(batch, from..to, &plans).await? {
                self.simple("RELEASE irongate").await?;
            } else {
                self.simple("ROLLBACK TO irongate; RELEASE irongate").await?;
                for index in from..to {
                    self.one(batch, index, &plans, settings, &mut outcome).await?;
                }
            }
            from = to;
        }
        if let Some(end) = end {
            self.finish(batch, end).await?;
        }
        Ok(outcome)
    }

    /// Puts the changes into the error queue instead of the tables.
    pub(super) async fn apply_queued(
        &mut self,
        batch: &Batch,
        settings: &ReplicatSettings,
        end: Option<&Applied>,
    ) -> Result<Outcome, Failure> {
        if self.begin()? {
            self.simple(&self.begin_sql(batch, end.is_none())).await?;
        }
        let reason = RowError::Server {
            code: "irongate".to_owned(),
            message: "another change of the transaction was refused".to_owned(),
        };
        let mut outcome = Outcome::default();
        for index in 0..batch.len() {
            self.put(batch, index, settings, &reason, true).await?;
            outcome.queued += 1;
        }
        if let Some(end) = end {
            self.finish(batch, end).await?;
        }
        Ok(outcome)
    }

    /// Applies the only change of a batch within the transaction that the caller began; with `force` over whatever is
    /// there.
    pub(crate) async fn apply_single(
        &mut self,
        batch: &Batch,
        settings: &ReplicatSettings,
        force: bool,
    ) -> Result<(), Error> {
        let unsorted = |failure: Failure| match failure {
            Failure::Lost(error) | Failure::Refused(error) => error,
            Failure::Queue => {
                Error::Trail(irongate_trail::Error::Misuse("a policy asked of a single change"))
            }
        };
        let plans = self.plans(batch, settings).await.map_err(unsorted)?;
        if let (true, Change::Row { relation, .. }) = (resolves(batch, 0, &plans), batch.change(0)) {
            let plan = &plans[relation];
            // Of other rules the change still has its say by its version: the row may have been written here since.
            let queues = plan.conflict.as_ref().is_some_and(|resolving| resolving.terms.rule == Rule::Queue);
            return match self.resolve(batch, 0, plan, settings, force || queues).await {
                Ok(_) => Ok(()),
                Err(Stop::Refused(reason)) => {
                    Err(refusal(batch, 0, &plans, &Alone::of(batch, 0, &plans), reason))
                }
                Err(Stop::Failed(failure)) => Err(unsorted(failure)),
            };
        }
        let alone = Alone::of(batch, 0, &plans);
        match self.attempt(batch, 0, &alone).await.map_err(unsorted)? {
            None => Ok(()),
            Some(reason) => Err(refusal(batch, 0, &plans, &alone, reason)),
        }
    }

    /// Puts a change into the error queue, where it holds up later ones of its row.
    async fn put(
        &mut self,
        batch: &Batch,
        index: usize,
        settings: &ReplicatSettings,
        reason: &RowError,
        whole: bool,
    ) -> Result<(), Failure> {
        let client = self.session.client();
        error_queue::put(client, &settings.flow, batch, index, reason, whole).await.map_err(sort)?;
        self.held.add(batch, index);
        Ok(())
    }

    async fn simple(&self, sql: &str) -> Result<(), Failure> {
        self.session.batch_execute(sql).await.map_err(sort)
    }

    /// Sends a run of changes at once. False if one was refused.
    async fn window(
        &mut self,
        batch: &Batch,
        range: std::ops::Range<usize>,
        plans: &[Arc<Plan>],
    ) -> Result<bool, Failure> {
        let mut ready = Vec::with_capacity(range.len());
        for index in range {
            let alone = Alone::of(batch, index, plans);
            match self.prepare(&alone.statement.sql, None).await.map_err(sort) {
                Ok(prepared) => ready.push((index, alone, prepared)),
                Err(Failure::Refused(_)) => return Ok(false),
                Err(failure) => return Err(failure),
            }
        }
        let client = self.session.client();
        let answers = ready
            .iter()
            .map(|(index, alone, prepared)| execute_alone(client, prepared, &alone.statement, batch, *index));
        let mut sound = true;
        // Polled in order, so sent in order.
        for (answer, (_, alone, _)) in futures_util::future::join_all(answers).await.into_iter().zip(&ready) {
            match answer.map_err(sort) {
                Ok(rows) => sound &= alone.expected.is_none_or(|expected| rows == expected),
                Err(Failure::Refused(_)) => sound = false,
                Err(failure) => return Err(failure),
            }
        }
        Ok(sound)
    }

    /// Applies one change, or does with it what its policy says.
    async fn one(
        &mut self,
        batch: &Batch,
        index: usize,
        plans: &[Arc<Plan>],
        settings: &ReplicatSettings,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let alone = Alone::of(batch, index, plans);
        let (mut attempt, mut races) = (0, 0);
        loop {
            self.simple("SAVEPOINT irongate").await?;
            let reason = match self.behind(batch, index, plans, settings).await? {
                Ok(Some(true)) => return Err(Failure::Queue),
                Ok(Some(false)) => {
                    self.put(batch, index, settings, &RowError::Behind, false).await?;
                    outcome.queued += 1;
                    return self.simple("RELEASE irongate").await;
                }
                Ok(None) => match self.resolve_or_attempt(batch, index, plans, &alone, settings).await? {
                    Ok(resolved) => {
                        outcome.conflicts += resolved.conflicts;
                        outcome.queued += resolved.queued;
                        return self.simple("RELEASE irongate").await;
                    }
                    Err(reason) => reason,
                },
                Err(reason) => reason,
            };
            self.simple("ROLLBACK TO irongate; RELEASE irongate").await?;
            // Somebody inserted the key after it was looked for, or took the row away: it is looked at again.
            let has_raced = matches!(reason.class(), "23505" | crate::MISSING);
            if resolves(batch, index, plans) && has_raced && races < RACES {
                races += 1;
                continue;
            }
            let (schema, table) = &alone.schema_and_name;
            match settings.policies.action(schema, table, reason.class()) {
                Action::Retry { attempts, delay } if attempt < attempts => {
                    attempt += 1;
                    tracing::warn!(table = %alone.table, class = reason.class(), attempt, "change refused, trying again");
                    tokio::time::sleep(delay).await;
                }
                Action::Abend | Action::Retry { .. } => {
                    return Err(Failure::Refused(refusal(batch, index, plans, &alone, reason)));
                }
                Action::QueueTransaction => return Err(Failure::Queue),
                Action::QueueRow => {
                    tracing::warn!(table = %alone.table, class = reason.class(), "change put into the error queue");
                    self.put(batch, index, settings, &reason, false).await?;
                    outcome.queued += 1;
                    return Ok(());
                }
                Action::Ignore => {
                    tracing::warn!(table = %alone.table, class = reason.class(), "change left out");
                    outcome.ignored += 1;
                    return Ok(());
                }
            }
        }
    }

    /// Does with one change what the rule of its table says, or without one tries it; the reason if it was refused.
    async fn resolve_or_attempt(
        &mut self,
        batch: &Batch,
        index: usize,
        plans: &[Arc<Plan>],
        alone: &Alone,
        settings: &ReplicatSettings,
    ) -> Result<Result<Resolved, RowError>, Failure> {
        if let (true, Change::Row { relation, .. }) = (resolves(batch, index, plans), batch.change(index)) {
            return match self.resolve(batch, index, &plans[relation], settings, false).await {
                Ok(resolved) => Ok(Ok(resolved)),
                Err(Stop::Refused(reason)) => Ok(Err(reason)),
                Err(Stop::Failed(failure)) => Err(failure),
            };
        }
        Ok(match self.attempt(batch, index, alone).await? {
            None => Ok(Resolved::default()),
            Some(reason) => Err(reason),
        })
    }

    /// Tries one change; the reason if it was refused.
    async fn attempt(
        &mut self,
        batch: &Batch,
        index: usize,
        alone: &Alone,
    ) -> Result<Option<RowError>, Failure> {
        let answer = match self.prepare(&alone.statement.sql, None).await {
            Ok(prepared) => {
                execute_alone(self.session.client(), &prepared, &alone.statement, batch, index).await
            }
            Err(error) => Err(error),
        };
        match answer {
            Ok(rows) if alone.expected.is_none_or(|expected| rows == expected) => Ok(None),
            Ok(0) => Ok(Some(RowError::Missing)),
            Ok(rows) => Ok(Some(RowError::Ambiguous(rows))),
            Err(error) => match error.as_db_error().map(RowError::server) {
                Some(reason) => match sort(error) {
                    Failure::Refused(_) => Ok(Some(reason)),
                    failure => Err(failure),
                },
                None => Err(sort(error)),
            },
        }
    }
}

/// Whether the table of a change has a rule for conflicts.
fn resolves(batch: &Batch, index: usize, plans: &[Arc<Plan>]) -> bool {
    matches!(batch.change(index), Change::Row { relation, .. } if plans[relation].conflict.is_some())
}

fn refusal(batch: &Batch, index: usize, plans: &[Arc<Plan>], alone: &Alone, reason: RowError) -> Error {
    let place = batch.place(index);
    let plan = match batch.change(index) {
        Change::Row { relation, .. } => Some(&plans[relation]),
        Change::Truncate { .. } => None,
    };
    let fix = plan.and_then(|plan| offer::refused(&plan.relation, &plan.table, &reason));
    let fix = fix.map(|fix| Box::new(Remedy(fix)));
    Error::Row {
        fix,
        operation: alone.operation,
        table: alone.table.clone(),
        reason,
        commit: place.map_or(CommitLsn::default(), |(begin, _)| begin.commit_lsn),
        ordinal: place.map_or(0, |(_, ordinal)| ordinal),
    }
}
