//! The session that works ahead: one open target transaction under an origin of its own.
//!
//! It is prepared like the one that applies, and applies by the same means, with these differences:
//!
//! * It commits in the name of the session that has claimed the flow, by the claim that
//!   [`CheckpointTable::claim_ahead`](irongate_checkpoint::CheckpointTable::claim_ahead) is about, and only if the
//!   checkpoint is where that one has left it (`save_after`).
//! * It has no right to make anybody wait. It asks whether somebody does, and waits itself for a lock for less than the
//!   time after which the server looks for deadlocks; so it is seldom the other session that a deadlock ends, and that one
//!   tries again.
//! * What it would have to be careful about, it refuses: tables with triggers, rules or policies that act, whose doing could
//!   depend on what else is there, and changes held up in the error queue.
//! * It changes no row of the checkpoint table before its end, so that the other session can. The origin needs no mark at
//!   the beginning: there is neither TRUNCATE nor DDL, so the first thing that logical decoding sees of the transaction is
//!   a row's change, which carries the origin.

use std::time::Duration;

use irongate_checkpoint::{Applied, Origin};
use irongate_trail::CommitLsn;

use super::postgres::Connection;
use super::{Failure, Outcome};
use crate::batch::Batch;
use crate::error::Error;
use crate::settings::ReplicatSettings;

/// The number of its origin: none of a parallel session of an initial load.
const NUMBER: u32 = 1000;

/// How long a statement of the session may take before its work is given up.
const SLOW: Duration = Duration::from_secs(20);

/// How long a ROLLBACK may take. After that the connection is closed, which does the same.
const ROLLBACK: Duration = Duration::from_secs(5);

/// Below the server's `deadlock_timeout`, which is a second unless somebody changes it.
const SETTINGS: &str = "SET lock_timeout = '700ms'";

/// Somebody has waited for long enough to say that this session makes him wait.
const WAITED_FOR: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE NOT l.granted \
     AND l.waitstart < pg_catalog.clock_timestamp() - interval '300 milliseconds' \
     AND pg_catalog.pg_backend_pid() = ANY (pg_catalog.pg_blocking_pids(l.pid)))";

/// An open target transaction.
#[derive(Debug)]
pub(crate) struct Session {
    connection: Connection,
    settings: ReplicatSettings,
}

/// Why nothing more comes of it: one sentence, without row values.
pub(super) type Reason = String;

pub(super) fn reason(failure: Failure) -> Reason {
    match failure {
        Failure::Lost(error) | Failure::Refused(error) => error.to_string(),
        Failure::Queue => "a change must go into the error queue".to_owned(),
    }
}

impl Session {
    /// Connects, to work in the name of the server's process `holder`.
    pub(crate) async fn open(settings: &ReplicatSettings, holder: i32) -> Result<Self, Error> {
        let origin = Origin::of_worker(&settings.flow, NUMBER)?;
        let mut connection = Connection::open(settings, origin, false).await?;
        connection.ahead = Some(CommitLsn::default());
        let client = connection.session.client();
        connection.checkpoint.claim_ahead(client, holder).await?;
        client.batch_execute(SETTINGS).await?;
        Ok(Self { connection, settings: settings.clone() })
    }

    /// Applies a piece.
    pub(crate) async fn apply(&mut self, batch: &Batch) -> Result<(), Reason> {
        let work = self.applied(batch, None);
        match tokio::time::timeout(SLOW, work).await {
            Ok(result) => result.map(drop),
            Err(_) => Err("a statement takes too long".to_owned()),
        }
    }

    /// Applies the last piece and commits, if `previous` is what was applied last. After an error nobody knows whether it
    /// is committed.
    pub(crate) async fn commit(
        &mut self,
        batch: &Batch,
        previous: CommitLsn,
        end: &Applied,
    ) -> Result<(), Reason> {
        self.connection.ahead = Some(previous);
        self.refuse_held().await?;
        self.applied(batch, Some(end)).await.map(drop)
    }

    async fn applied(&mut self, batch: &Batch, end: Option<&Applied>) -> Result<Outcome, Reason> {
        let plans = self.connection.plans(batch, &self.settings).await.map_err(reason)?;
        if let Some(plan) = plans.iter().find(|plan| plan.barrier || plan.table.row_security) {
            return Err(format!("a trigger, a rule or a policy watches table \"{}\"", plan.source()));
        }
        self.connection.apply_grouped(batch, &self.settings, end).await.map_err(reason)
    }

    /// Only one session puts changes into the queue, and it is not at work when this is asked.
    pub(crate) async fn refuse_held(&mut self) -> Result<(), Reason> {
        let Connection { held, session, .. } = &mut self.connection;
        held.load(session.client(), &self.settings.flow).await.map_err(|error| error.to_string())?;
        if held.is_empty() { Ok(()) } else { Err("there are changes in the error queue".to_owned()) }
    }

    /// Whether somebody waits for what the session holds.
    pub(crate) async fn is_waited_for(&self) -> Result<bool, Reason> {
        is_waited_for(&self.connection).await
    }

    /// Takes everything back, whatever the session is just doing.
    pub(crate) async fn roll_back(self) {
        roll_back(&self.connection).await;
    }
}

/// Whether somebody waits for what a session holds.
pub(super) async fn is_waited_for(connection: &Connection) -> Result<bool, Reason> {
    let asked = async { connection.session.query_one(WAITED_FOR, &[]).await?.try_get(0) };
    asked.await.map_err(|error| irongate_postgres::Error::from(error).to_string())
}

/// Takes back what a session has done that is closed then, whatever it is just doing.
pub(super) async fn roll_back(connection: &Connection) {
    let session = &connection.session;
    let work = async {
        // What is under way has nobody any more who waits for its answer.
        let _ = session.canceller().cancel().await;
        let _ = session.batch_execute("ROLLBACK").await;
    };
    let _ = tokio::time::timeout(ROLLBACK, work).await;
}
