//! The checkpoint table in the target: where Replicat begins again, written by the same transaction that applied what
//! it tells of. Whatever is killed, the two are there together or not at all; that is what makes a source transaction
//! change the target exactly once.
//!
//! Replication origins keep a position in the commit record too, but a target transaction that changed no row takes no
//! transaction id, and then its COMMIT succeeds without moving the origin's progress. The row always takes one.
//!
//! The statements are made for a pipeline in which COMMIT is sent before the answer to `save` has come. So everything
//! that must not be committed *fails in the server*: there is no row count to be looked at too late.
//!
//! Claims keep sessions apart. Whoever writes a flow's checkpoint holds the *flow's* claim, a session lock that ends
//! with the server's process. Its holder may have other sessions commit for it: one that works ahead
//! (`CheckpointTable::claim_ahead`), which holds the *ahead* claim, and some that work beside it
//! (`CheckpointTable::claim_beside`), which share the *beside* claim. A COMMIT of such a session may still be under way when
//! the holder is long dead, or has lost sight of it. So each side first takes its own claim and then looks at the other's: a
//! new holder of the flow's claim finds the other session and waits for its end, or the other session finds that the flow's
//! claim is not its master's any more and never begins. Neither can miss the other.

mod statements;

use std::future::Future;
use std::time::{Duration, Instant};

use irongate_postgres::sql::quote_literal;
use irongate_trail::{CommitLsn, Lineage, Position, ResumeLsn, Timestamp};
use postgres_types::PgLsn;
use serde::{Deserialize, Serialize};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row, Statement};

use crate::error::Error;
use crate::session::OtherSession;
use crate::sql::{SqlTime, from_pg, to_pg};

pub use statements::{CHECKPOINT_SCHEMA, checkpoint_setup, checkpoint_teardown};

/// How long a session that works ahead or beside may take to end.
const ENDING: Duration = Duration::from_secs(5);

/// How far a flow is applied at a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Applied {
    /// Whose LSNs these are.
    pub lineage: Lineage,
    /// The last applied transaction.
    pub commit_lsn: CommitLsn,
    /// Where the source's log goes on after it, or a later place up to which nothing is left to apply.
    pub end_lsn: ResumeLsn,
    /// When the last applied transaction was committed at the source.
    pub commit_time: Timestamp,
    /// Where the trail goes on after it.
    pub position: Position,
    /// The epoch of the writing site it came from.
    pub epoch: u64,
    /// Source transactions applied since the flow was instantiated.
    pub transactions: u64,
}

/// The prefix of a transactional logical message that is kept at the target when it is applied.
pub const MARKER_PREFIX: &str = "irongate.marker";

/// One flow's row in `irongate.checkpoint`, through the prepared statements of one session.
#[derive(Clone, Debug)]
pub struct CheckpointTable {
    flow: String,
    load: Statement,
    initialise: Statement,
    save: Statement,
    save_after: Statement,
}

impl CheckpointTable {
    /// Prepares the statements for `flow` in the session of `client`; they are of use in that session only.
    ///
    /// # Errors
    /// [`Error::TableMissing`] before set-up; [`Error::Sql`].
    ///
    /// Cancel-safe.
    pub async fn prepare(client: &Client, flow: &str) -> Result<Self, Error> {
        let prepare = async |sql: &str| {
            client.prepare(sql).await.map_err(|e| missing_table(e, "prepare the checkpoint statements"))
        };
        Ok(Self {
            flow: flow.to_owned(),
            load: prepare(statements::LOAD).await?,
            initialise: prepare(statements::INITIALISE).await?,
            save: prepare(statements::SAVE).await?,
            save_after: prepare(statements::SAVE_AFTER).await?,
        })
    }

    /// The flow.
    pub fn flow(&self) -> &str {
        &self.flow
    }

    /// Claims the flow for the session of `client` until the session ends, so that a second Replicat, wherever it runs,
    /// finds out before it applies anything. Claim before [`load`](Self::load), so that what is loaded stays true.
    ///
    /// # Errors
    /// [`Error::FlowInUse`] naming the session that has it, or one that still works ahead for whoever had it before, and
    /// then nothing is claimed; [`Error::Sql`].
    pub async fn claim(&self, client: &Client) -> Result<(), Error> {
        if !self.take(client, statements::CLAIM).await? {
            let holder = self.claimant(client, statements::CLAIMANT).await?;
            return Err(self.in_use(client, holder).await);
        }
        if let Err(error) = self.nobody_else(client).await {
            self.release(client).await?;
            return Err(error);
        }
        Ok(())
    }

    /// Lets the session of `client` commit for the one that has claimed the flow, whose server process is `holder`, until
    /// the session ends.
    ///
    /// # Errors
    /// [`Error::FlowInUse`] if another session works ahead, or `holder` has not claimed the flow (any more);
    /// [`Error::Sql`].
    pub async fn claim_ahead(&self, client: &Client, holder: i32) -> Result<(), Error> {
        if !self.take(client, statements::CLAIM_AHEAD).await? {
            let other = self.claimant(client, statements::AHEAD_CLAIMANT).await?;
            return Err(self.in_use(client, other).await);
        }
        self.is_held_by(client, holder).await
    }

    /// The same for one of several sessions that each apply one of the groups of transactions that come next.
    ///
    /// # Errors
    /// [`Error::FlowInUse`] if `holder` has not claimed the flow (any more); [`Error::Sql`].
    pub async fn claim_beside(&self, client: &Client, holder: i32) -> Result<(), Error> {
        // Shared, and nobody takes it alone: it is always had.
        self.take(client, statements::CLAIM_BESIDE).await?;
        self.is_held_by(client, holder).await
    }

    async fn is_held_by(&self, client: &Client, holder: i32) -> Result<(), Error> {
        match self.claimant(client, statements::CLAIMANT).await? {
            Some(pid) if pid == holder => Ok(()),
            other => Err(self.in_use(client, other).await),
        }
    }

    /// Returns once no session works ahead or beside for the flow, so that nothing is committed any more but by the session of
    /// `client`, which has claimed the flow. Waits for a session that is just ending.
    ///
    /// # Errors
    /// [`Error::FlowInUse`] if one does not end; [`Error::Sql`].
    ///
    /// Cancel-safe.
    pub async fn nobody_else(&self, client: &Client) -> Result<(), Error> {
        let begin = Instant::now();
        for claimant in [statements::AHEAD_CLAIMANT, statements::BESIDE_CLAIMANT] {
            while let Some(pid) = self.claimant(client, claimant).await? {
                if begin.elapsed() >= ENDING {
                    return Err(self.in_use(client, Some(pid)).await);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    async fn take(&self, client: &Client, sql: &str) -> Result<bool, Error> {
        let sql_error = |e| Error::sql("claim the flow", e);
        client.query_one(sql, &[&self.flow]).await.map_err(sql_error)?.try_get(0).map_err(sql_error)
    }

    async fn claimant(&self, client: &Client, sql: &str) -> Result<Option<i32>, Error> {
        let sql_error = |e| Error::sql("ask who has claimed the flow", e);
        let row = client.query_opt(sql, &[&self.flow]).await.map_err(sql_error)?;
        row.map(|row| row.try_get(0).map_err(sql_error)).transpose()
    }

    async fn in_use(&self, client: &Client, pid: Option<i32>) -> Error {
        let session = match pid {
            Some(pid) => OtherSession::describe(client, pid).await,
            None => OtherSession::default(),
        };
        Error::FlowInUse { flow: self.flow.clone(), session: Box::new(session) }
    }

    /// Gives the flow back; the end of the session does the same.
    ///
    /// # Errors
    /// [`Error::Sql`].
    pub async fn release(&self, client: &Client) -> Result<(), Error> {
        client
            .execute(statements::RELEASE, &[&self.flow])
            .await
            .map(drop)
            .map_err(|e| Error::sql("release the flow", e))
    }

    /// How far the flow is applied; `None` if it has no checkpoint, that is if it was not instantiated.
    ///
    /// # Errors
    /// [`Error::TableMissing`], [`Error::BadRow`] for a row that somebody has spoilt, [`Error::Sql`].
    ///
    /// Cancel-safe.
    pub async fn load(&self, client: &Client) -> Result<Option<Applied>, Error> {
        let row = client
            .query_opt(&self.load, &[&self.flow])
            .await
            .map_err(|e| missing_table(e, "load the checkpoint"))?;
        row.map(|row| applied_of(&row, &self.flow)).transpose()
    }

    /// The last marker that was saved with a transaction.
    ///
    /// # Errors
    /// [`Error::TableMissing`], [`Error::Sql`].
    ///
    /// Cancel-safe.
    pub async fn marker(&self, client: &Client) -> Result<Option<String>, Error> {
        let fail = |e| missing_table(e, "load the marker");
        let row = client.query_opt(statements::MARKER, &[&self.flow]).await.map_err(fail)?;
        row.map_or(Ok(None), |row| row.try_get(0).map_err(fail))
    }

    /// Makes the flow's first row. Part of the transaction that `client` is in, so that it can belong to the initial
    /// load.
    ///
    /// # Errors
    /// [`Error::AlreadyInitialised`] if there is one; [`Error::TableMissing`], [`Error::Sql`].
    pub async fn initialise(&self, client: &Client, applied: &Applied) -> Result<(), Error> {
        let values = Values::of(applied, &self.flow)?;
        let rows = client
            .execute(&self.initialise, &values.with(&self.flow, &None))
            .await
            .map_err(|e| missing_table(e, "initialise the checkpoint"))?;
        if rows == 1 { Ok(()) } else { Err(Error::AlreadyInitialised { flow: self.flow.clone() }) }
    }

    /// Removes the flow's row, also one that was kept; `false` if there was none.
    ///
    /// # Errors
    /// [`Error::TableMissing`], [`Error::Sql`].
    pub async fn remove(&self, client: &Client) -> Result<bool, Error> {
        let rows = client.execute(statements::REMOVE, &[&self.flow]).await;
        Ok(rows.map_err(|e| missing_table(e, "remove the checkpoint"))? > 0)
    }

    /// Keeps a copy of the flow's row, to be [gone back to](Self::go_back); `false` if there is none.
    ///
    /// # Errors
    /// [`Error::TableMissing`], [`Error::Sql`].
    pub async fn keep(&self, client: &Client) -> Result<bool, Error> {
        let fail = |e| missing_table(e, "keep the checkpoint");
        client.execute(statements::FORGET_KEPT, &[&self.flow]).await.map_err(fail)?;
        Ok(client.execute(statements::KEEP, &[&self.flow]).await.map_err(fail)? > 0)
    }

    /// Has the flow go on where it was when its row was kept, and forgets that: for those of its tables that have had
    /// nothing since. `false`, and nothing is changed, if none was kept or it is of another stream or epoch.
    ///
    /// # Errors
    /// [`Error::TableMissing`], [`Error::Sql`].
    pub async fn go_back(&self, client: &Client) -> Result<bool, Error> {
        let fail = |e| missing_table(e, "go back to the checkpoint that was kept");
        let gone = client.execute(statements::GO_BACK, &[&self.flow]).await.map_err(fail)? > 0;
        if gone {
            client.execute(statements::FORGET_KEPT, &[&self.flow]).await.map_err(fail)?;
        }
        Ok(gone)
    }

    /// Saves how far the flow is applied, as part of the transaction that `client` is in. Makes the row if there is
    /// none.
    ///
    /// The server refuses it, and with it the transaction, if the row has a later position or epoch or another lineage
    /// (a later timeline is allowed). Where several target transactions are under way at a time use
    /// [`save_after`](Self::save_after), which also refuses to leave one out.
    ///
    /// The statement is sent when the future is first polled, and everything after it can be sent without waiting for
    /// its answer: poll it once, in order, with the statements before and after it (`join!`). A future that is dropped
    /// after that leaves the outcome unknown: roll back.
    ///
    /// # Errors
    /// [`Error::Overtaken`], [`Error::TableMissing`], [`Error::Sql`].
    pub fn save<'a>(
        &'a self,
        client: &'a Client,
        applied: &'a Applied,
    ) -> impl Future<Output = Result<(), Error>> + Send + 'a {
        self.save_with_marker(client, applied, None)
    }

    /// The same, and keeps `marker` in the row: the proof that everything before it is applied. A marker stays until
    /// the next one, which is empty where changes have come behind it.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub async fn save_with_marker(
        &self,
        client: &Client,
        applied: &Applied,
        marker: Option<&str>,
    ) -> Result<(), Error> {
        let values = Values::of(applied, &self.flow)?;
        let rows = client
            .execute(&self.save, &values.with(&self.flow, &marker))
            .await
            .map_err(|e| self.refused(e, &SqlState::NOT_NULL_VIOLATION))?;
        self.exactly_one(rows)
    }

    /// As [`save`](Self::save), and the row must be there with `previous` as its commit LSN. With it several target
    /// transactions can be sent one behind the other before the first is answered: if one fails, so do all behind it,
    /// and none is left out. It also keeps out a second writer that no lock has kept out.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub async fn save_after(
        &self,
        client: &Client,
        previous: CommitLsn,
        applied: &Applied,
        marker: Option<&str>,
    ) -> Result<(), Error> {
        let values = Values::of(applied, &self.flow)?;
        let previous = to_pg(previous.0);
        let mut parameters = values.with(&self.flow, &marker).to_vec();
        parameters.push(&previous);
        let rows = client
            .execute(&self.save_after, &parameters)
            .await
            .map_err(|e| self.refused(e, &SqlState::DIVISION_BY_ZERO))?;
        self.exactly_one(rows)
    }

    /// A statement that changes nothing but is a row's change: to be the first of a target transaction that may begin
    /// with TRUNCATE or DDL.
    ///
    /// The server tells the origin of a transaction that is streamed before its commit by its first entry in the buffer
    /// of logical decoding, and those two begin with entries that have none. Without this, an Extract of this database
    /// that leaves out what has an origin takes the transaction for an application's.
    pub fn mark(&self) -> String {
        format!("UPDATE irongate.checkpoint SET flow = flow WHERE flow = {}", quote_literal(&self.flow))
    }

    fn exactly_one(&self, rows: u64) -> Result<(), Error> {
        if rows == 1 { Ok(()) } else { Err(Error::Overtaken { flow: self.flow.clone() }) }
    }

    fn refused(&self, error: tokio_postgres::Error, refusal: &SqlState) -> Error {
        if error.code() == Some(refusal) {
            return Error::Overtaken { flow: self.flow.clone() };
        }
        missing_table(error, "save the checkpoint")
    }
}

/// An [`Applied`] in the server's types.
struct Values {
    system_identifier: String,
    timeline: i64,
    slot_incarnation: PgLsn,
    commit_lsn: PgLsn,
    end_lsn: PgLsn,
    commit_time: SqlTime,
    seqno: i64,
    offset: i64,
    epoch: i64,
    transactions: i64,
}

type Parameter<'a> = &'a (dyn postgres_types::ToSql + Sync);

impl Values {
    fn of(applied: &Applied, flow: &str) -> Result<Self, Error> {
        let number = |value: u64, column| {
            i64::try_from(value).map_err(|_| Error::BadRow { flow: flow.to_owned(), column })
        };
        Ok(Self {
            system_identifier: applied.lineage.system_identifier.to_string(),
            timeline: i64::from(applied.lineage.timeline),
            slot_incarnation: to_pg(applied.lineage.slot_incarnation),
            commit_lsn: to_pg(applied.commit_lsn.0),
            end_lsn: to_pg(applied.end_lsn.0),
            commit_time: SqlTime(applied.commit_time),
            seqno: number(applied.position.seqno, "trail_seqno")?,
            offset: number(applied.position.offset, "trail_offset")?,
            epoch: number(applied.epoch, "epoch")?,
            transactions: number(applied.transactions, "transactions")?,
        })
    }

    /// In the order of the statements' parameters.
    fn with<'a>(&'a self, flow: &'a String, marker: &'a Option<&'a str>) -> [Parameter<'a>; 12] {
        [
            flow,
            &self.system_identifier,
            &self.timeline,
            &self.slot_incarnation,
            &self.commit_lsn,
            &self.end_lsn,
            &self.commit_time,
            &self.seqno,
            &self.offset,
            &self.epoch,
            &self.transactions,
            marker,
        ]
    }
}

fn applied_of(row: &Row, flow: &str) -> Result<Applied, Error> {
    let bad = |column| Error::BadRow { flow: flow.to_owned(), column };
    let unsigned = |column: &'static str| {
        row.try_get::<_, i64>(column)
            .ok()
            .and_then(|value| u64::try_from(value).ok())
            .ok_or_else(|| bad(column))
    };
    let lsn = |column| row.try_get::<_, PgLsn>(column).map(from_pg).map_err(|_| bad(column));
    let system: String = row.try_get("system_identifier").map_err(|_| bad("system_identifier"))?;
    Ok(Applied {
        lineage: Lineage {
            system_identifier: system.parse().map_err(|_| bad("system_identifier"))?,
            timeline: u32::try_from(unsigned("timeline")?).map_err(|_| bad("timeline"))?,
            slot_incarnation: lsn("slot_incarnation")?,
        },
        commit_lsn: CommitLsn(lsn("commit_lsn")?),
        end_lsn: ResumeLsn(lsn("end_lsn")?),
        commit_time: row.try_get::<_, SqlTime>("commit_time").map_err(|_| bad("commit_time"))?.0,
        position: Position { seqno: unsigned("trail_seqno")?, offset: unsigned("trail_offset")? },
        epoch: unsigned("epoch")?,
        transactions: unsigned("transactions")?,
    })
}

/// Tells a missing table, schema or column from everything else.
fn missing_table(error: tokio_postgres::Error, doing: &'static str) -> Error {
    match error.code() {
        Some(code)
            if *code == SqlState::UNDEFINED_TABLE
                || *code == SqlState::INVALID_SCHEMA_NAME
                || *code == SqlState::UNDEFINED_COLUMN =>
        {
            Error::TableMissing
        }
        _ => Error::sql(doing, error),
    }
}
