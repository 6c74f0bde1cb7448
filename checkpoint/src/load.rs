//! The ledger of a flow's initial load, in the target: which chunk of which table is there, and from where on in the
//! source's log each table's changes are to be applied.
//!
//! A chunk's rows and its line in the ledger are one target transaction, and the line's key is the chunk. So whatever is
//! killed, a chunk is there with its line or not at all, and never twice: a second copy of it cannot commit.
//!
//! A table that was copied under a later snapshot than the flow's slot begins later than the stream: its changes from
//! before that snapshot are in the copy already. [`TableStarts`] is what Replicat asks about it. It holds only for the
//! slot that the load was made for, since LSNs of another mean nothing here.

mod sql;
mod starts;

use std::collections::BTreeSet;

use irongate_trail::{Lineage, Lsn, Position, ResumeLsn, Timestamp};
use postgres_types::PgLsn;
use tokio_postgres::{Client, Row};

use crate::error::Error;
use crate::session::OtherSession;
use crate::sql::{SqlTime, from_pg, to_pg};

pub use sql::{LOAD_SCHEMA, LOAD_TABLES, load_setup, load_teardown};
pub use starts::TableStarts;

/// Schema and name of a table.
pub type QualifiedName = (String, String);

/// A snapshot of the source that somebody keeps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadSnapshot {
    /// The name under which it is exported.
    pub name: String,
    /// Transactions whose commit record begins before it are in the snapshot, later ones are not.
    pub lsn: Lsn,
    /// When it was taken, by the source's clock.
    pub taken: Timestamp,
    /// The server process of the session that keeps it.
    pub keeper_pid: i32,
    /// When that session began, as the server prints it: process ids are used again.
    pub keeper_start: String,
}

/// A flow's initial load.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadJob {
    /// Its name.
    pub job: String,
    /// Whose LSNs these are.
    pub lineage: Lineage,
    /// Where the stream begins.
    pub consistent_point: ResumeLsn,
    /// Where the trail begins.
    pub position: Position,
    /// The epoch of the writing site.
    pub epoch: u64,
    /// The snapshot under which tables are copied now.
    pub snapshot: LoadSnapshot,
    /// Single tables are copied beside a stream that goes on: Replicat runs meanwhile, and leaves these out.
    pub beside: bool,
    /// Up to where everything is applied that the ledger does not name, where that is further than the checkpoint says,
    /// because Replicat brings tables of an earlier load of that kind to where the others are.
    pub others: Option<Lsn>,
    /// The load is done.
    pub done: bool,
}

impl LoadJob {
    /// Whether Replicat has to wait until the load is done, where the flow's checkpoint is of `lineage`.
    pub fn keeps_waiting(&self, lineage: Option<&Lineage>) -> bool {
        let is_of_another = |lineage: &Lineage| {
            lineage.system_identifier != self.lineage.system_identifier
                || lineage.slot_incarnation != self.lineage.slot_incarnation
        };
        match lineage {
            _ if self.done => false,
            None => true,
            // What was copied beside another stream has left tables that nobody completes. Any other load is over.
            Some(lineage) => self.beside && is_of_another(lineage),
        }
    }
}

/// How far one table is loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadTable {
    /// At the source.
    pub source: QualifiedName,
    /// At the target.
    pub target: QualifiedName,
    /// How often its copy was begun anew, from 1.
    pub generation: i32,
    /// Changes of transactions that commit before it are in the copy.
    pub start: Lsn,
    /// Into how many chunks it is cut.
    pub chunks: u32,
    /// Blocks of a chunk; the last one has no end.
    pub chunk_blocks: u64,
    /// Chunks that are there.
    pub chunks_done: u32,
    /// Rows that are there.
    pub rows: u64,
    /// Bytes of them, as they were sent.
    pub bytes: u64,
    /// Bytes of the table on the source's disk when it was planned.
    pub size: u64,
    /// It was there, and is copied anew beside the stream.
    pub again: bool,
}

impl LoadTable {
    /// Whether all of it is there.
    pub fn is_finished(&self) -> bool {
        self.chunks_done >= self.chunks
    }
}

/// A chunk that is there: of which table at the source, and its number from 0.
pub type LoadedChunk = (QualifiedName, u32);

/// The ledger of one flow.
#[derive(Clone, Debug)]
pub struct LoadLedger {
    flow: String,
}

impl LoadLedger {
    /// The ledger of `flow`.
    pub fn new(flow: &str) -> Self {
        Self { flow: flow.to_owned() }
    }

    /// Claims the load for the session of `client` until the session ends, so that no two commands load one flow.
    /// Taken in the source too, it tells who keeps the snapshot that somebody is at work.
    ///
    /// # Errors
    /// [`Error::LoadInUse`] naming the session that has it; [`Error::Sql`].
    pub async fn claim(&self, client: &Client) -> Result<(), Error> {
        let fail = |e| Error::sql("claim the load", e);
        let row = client.query_one(sql::CLAIM, &[&self.flow]).await.map_err(fail)?;
        if row.try_get::<_, bool>(0).map_err(fail)? {
            return Ok(());
        }
        let session = match client.query_opt(sql::CLAIMANT, &[&self.flow]).await.map_err(fail)? {
            Some(row) => OtherSession::describe(client, row.try_get(0).map_err(fail)?).await,
            None => OtherSession::default(),
        };
        Err(Error::LoadInUse { flow: self.flow.clone(), session: Box::new(session) })
    }

    /// Whether some session has the claim in the database of `client`.
    ///
    /// # Errors
    /// [`Error::Sql`].
    pub async fn is_claimed(&self, client: &Client) -> Result<bool, Error> {
        let row = client.query_opt(sql::CLAIMANT, &[&self.flow]).await;
        Ok(row.map_err(|e| Error::sql("look for the load's claim", e))?.is_some())
    }

    /// The flow's last load, if there was one.
    ///
    /// # Errors
    /// [`Error::LedgerMissing`], [`Error::Sql`], [`Error::BadRow`].
    pub async fn job(&self, client: &Client) -> Result<Option<LoadJob>, Error> {
        let row = client.query_opt(sql::JOB, &[&self.flow]).await.map_err(missing)?;
        row.map(|row| self.job_of(&row)).transpose()
    }

    /// The same where a target may have no ledger, or one of an earlier release: then there was no load.
    ///
    /// # Errors
    /// [`Error::Sql`], [`Error::BadRow`].
    pub async fn job_if_kept(&self, client: &Client) -> Result<Option<LoadJob>, Error> {
        match self.job(client).await {
            Err(Error::LedgerMissing) => Ok(None),
            job => job,
        }
    }

    fn job_of(&self, row: &Row) -> Result<LoadJob, Error> {
        let bad = |column| Error::BadRow { flow: self.flow.clone(), column };
        let text = |column| row.try_get::<_, String>(column).map_err(|_| bad(column));
        let lsn = |column| row.try_get::<_, PgLsn>(column).map(from_pg).map_err(|_| bad(column));
        let number = |column| {
            let value = row.try_get::<_, i64>(column).ok();
            value.and_then(|value| u64::try_from(value).ok()).ok_or_else(|| bad(column))
        };
        Ok(LoadJob {
            job: text("job")?,
            lineage: Lineage {
                system_identifier: text("system_identifier")?
                    .parse()
                    .map_err(|_| bad("system_identifier"))?,
                timeline: u32::try_from(number("timeline")?).map_err(|_| bad("timeline"))?,
                slot_incarnation: lsn("slot_incarnation")?,
            },
            consistent_point: ResumeLsn(lsn("consistent_point")?),
            position: Position { seqno: number("trail_seqno")?, offset: number("trail_offset")? },
            epoch: number("epoch")?,
            snapshot: LoadSnapshot {
                name: text("snapshot")?,
                lsn: lsn("snapshot_lsn")?,
                taken: row.try_get::<_, SqlTime>("snapshot_time").map_err(|_| bad("snapshot_time"))?.0,
                keeper_pid: row.try_get("keeper_pid").map_err(|_| bad("keeper_pid"))?,
                keeper_start: text("keeper_start")?,
            },
            beside: row.try_get("beside").map_err(|_| bad("beside"))?,
            others: row
                .try_get::<_, Option<PgLsn>>("others_lsn")
                .map_err(|_| bad("others_lsn"))?
                .map(from_pg),
            done: row.try_get("done").map_err(|_| bad("done"))?,
        })
    }

    /// The tables of the flow's last load, by name.
    ///
    /// # Errors
    /// [`Error::LedgerMissing`], [`Error::Sql`].
    pub async fn tables(&self, client: &Client) -> Result<Vec<LoadTable>, Error> {
        let rows = client.query(sql::TABLES, &[&self.flow]).await.map_err(missing)?;
        rows.iter().map(table_of).collect::<Result<_, _>>().map_err(missing)
    }

    /// The chunks that are there, of each table's present copy.
    ///
    /// # Errors
    /// [`Error::LedgerMissing`], [`Error::Sql`].
    pub async fn chunks(&self, client: &Client) -> Result<BTreeSet<LoadedChunk>, Error> {
        let rows = client.query(sql::CHUNKS, &[&self.flow]).await.map_err(missing)?;
        let chunk = |row: &Row| -> Result<_, tokio_postgres::Error> {
            let number: i32 = row.try_get(2)?;
            Ok(((row.try_get(0)?, row.try_get(1)?), number.unsigned_abs()))
        };
        rows.iter().map(chunk).collect::<Result<_, _>>().map_err(missing)
    }

    /// Begins the ledger of a load, in place of an earlier one. Part of the transaction that `client` is in.
    ///
    /// # Errors
    /// [`Error::LedgerMissing`], [`Error::Sql`].
    pub async fn begin(&self, client: &Client, job: &LoadJob, tables: &[LoadTable]) -> Result<(), Error> {
        self.forget(client).await?;
        let (snapshot, lineage) = (&job.snapshot, &job.lineage);
        client
            .execute(
                sql::BEGIN,
                &[
                    &self.flow,
                    &job.job,
                    &lineage.system_identifier.to_string(),
                    &i64::from(lineage.timeline),
                    &to_pg(lineage.slot_incarnation),
                    &to_pg(job.consistent_point.0),
                    &signed(job.position.seqno),
                    &signed(job.position.offset),
                    &signed(job.epoch),
                    &snapshot.name,
                    &to_pg(snapshot.lsn),
                    &SqlTime(snapshot.taken),
                    &snapshot.keeper_pid,
                    &snapshot.keeper_start,
                    &job.beside,
                    &job.others.map(to_pg),
                ],
            )
            .await
            .map_err(missing)?;
        self.plan(client, tables).await
    }

    /// Takes note of a new snapshot, and of the tables whose copy begins anew under it. Part of the transaction that
    /// `client` is in, as is whatever empties those tables.
    ///
    /// # Errors
    /// [`Error::LedgerMissing`], [`Error::Sql`].
    pub async fn again(
        &self,
        client: &Client,
        snapshot: &LoadSnapshot,
        tables: &[LoadTable],
    ) -> Result<(), Error> {
        client
            .execute(
                sql::SNAPSHOT,
                &[
                    &self.flow,
                    &snapshot.name,
                    &to_pg(snapshot.lsn),
                    &SqlTime(snapshot.taken),
                    &snapshot.keeper_pid,
                    &snapshot.keeper_start,
                ],
            )
            .await
            .map_err(missing)?;
        self.plan(client, tables).await
    }

    async fn plan(&self, client: &Client, tables: &[LoadTable]) -> Result<(), Error> {
        let statement = client.prepare(sql::PLAN).await.map_err(missing)?;
        for table in tables {
            let (source, target) = (&table.source, &table.target);
            client
                .execute(
                    &statement,
                    &[
                        &self.flow,
                        &source.0,
                        &source.1,
                        &target.0,
                        &target.1,
                        &table.generation,
                        &to_pg(table.start),
                        &i32::try_from(table.chunks).unwrap_or(i32::MAX),
                        &signed(table.chunk_blocks),
                        &signed(table.size),
                        &table.again,
                    ],
                )
                .await
                .map_err(missing)?;
        }
        Ok(())
    }

    /// Takes note of tables that are there already, whatever chunks they have. Part of the transaction that `client` is in.
    ///
    /// # Errors
    /// [`Error::LedgerMissing`], [`Error::Sql`].
    pub async fn present(&self, client: &Client, sources: &[&QualifiedName]) -> Result<(), Error> {
        let (schemas, names): (Vec<&str>, Vec<&str>) =
            sources.iter().map(|source| (source.0.as_str(), source.1.as_str())).unzip();
        client.execute(sql::PRESENT, &[&self.flow, &schemas, &names]).await.map(drop).map_err(missing)
    }

    /// Takes a table out of the ledger that is not to be loaded any more. Part of the transaction that `client` is in.
    ///
    /// # Errors
    /// [`Error::LedgerMissing`], [`Error::Sql`].
    pub async fn leave_out(&self, client: &Client, source: &QualifiedName) -> Result<(), Error> {
        let done = client.execute(sql::LEAVE_OUT, &[&self.flow, &source.0, &source.1]).await;
        done.map(drop).map_err(missing)
    }

    /// Changes nothing, but is a row's change: to be the first of a transaction that empties the table and fills it. See
    /// [`CheckpointTable::mark`](crate::CheckpointTable::mark).
    ///
    /// # Errors
    /// [`Error::LedgerMissing`], [`Error::Sql`].
    pub async fn mark(&self, client: &Client, table: &LoadTable) -> Result<(), Error> {
        let source = &table.source;
        client.execute(sql::MARK, &[&self.flow, &source.0, &source.1]).await.map(drop).map_err(missing)
    }

    /// Takes note of a chunk. Part of the transaction that `client` is in and that has copied its rows. The server
    /// refuses it, and with it the rows, where the chunk is there already, or belongs to a copy that was begun anew
    /// since.
    ///
    /// # Errors
    /// [`Error::LedgerMissing`], [`Error::Sql`].
    pub async fn copied(
        &self,
        client: &Client,
        table: &LoadTable,
        chunk: u32,
        rows: u64,
        bytes: u64,
    ) -> Result<(), Error> {
        let chunk = i32::try_from(chunk).unwrap_or(i32::MAX);
        let (rows, bytes) = (signed(rows), signed(bytes));
        let (flow, source) = (&self.flow, &table.source);
        client
            .execute(sql::COPIED, &[flow, &source.0, &source.1, &table.generation, &chunk, &rows, &bytes])
            .await
            .map(drop)
            .map_err(missing)
    }

    /// Takes note that the load is done. Part of the transaction that `client` is in and that makes the checkpoint, or
    /// brings it back: then `others` is how far everything is applied that was not copied anew meanwhile. The server refuses
    /// it where a table is not finished.
    ///
    /// # Errors
    /// [`Error::LedgerMissing`], [`Error::Sql`].
    pub async fn finish(&self, client: &Client, others: Option<ResumeLsn>) -> Result<(), Error> {
        let others = others.map(|others| to_pg(others.0));
        client.execute(sql::OTHERS, &[&self.flow, &others]).await.map_err(missing)?;
        client.execute(sql::FINISH, &[&self.flow, &others]).await.map(drop).map_err(missing)
    }

    /// The tables, by their names at the target, that a load has not finished whose stream goes on beside, or whose flow
    /// has no checkpoint yet: they are not what the source has, however far the stream is applied. None where there is no
    /// ledger.
    ///
    /// # Errors
    /// [`Error::Sql`].
    ///
    /// Cancel-safe.
    pub async fn half_copied(&self, client: &Client) -> Result<Vec<QualifiedName>, Error> {
        let fail = |e| Error::sql("ask which tables are being copied", e);
        let exists = client.query_one(sql::LEDGER_EXISTS, &[]).await.and_then(|row| row.try_get(0));
        if !exists.map_err(fail)? {
            return Ok(Vec::new());
        }
        let rows = client.query(sql::HALF_COPIED, &[&self.flow]).await.map_err(fail)?;
        rows.iter().map(|row| Ok((row.try_get(0).map_err(fail)?, row.try_get(1).map_err(fail)?))).collect()
    }

    /// Has the flow's Replicat make way until the session of `client` ends or calls [`need_no_way`](Self::need_no_way):
    /// it gives the flow back between two transactions, within about a second. False if somebody else asks already.
    ///
    /// # Errors
    /// [`Error::Sql`].
    pub async fn ask_for_way(&self, client: &Client) -> Result<bool, Error> {
        let fail = |e| Error::sql("have Replicat make way", e);
        client.query_one(sql::ASK_FOR_WAY, &[&self.flow]).await.map_err(fail)?.try_get(0).map_err(fail)
    }

    /// The end of what [`ask_for_way`](Self::ask_for_way) has begun.
    ///
    /// # Errors
    /// [`Error::Sql`].
    pub async fn need_no_way(&self, client: &Client) -> Result<(), Error> {
        let done = client.execute(sql::NEED_NO_WAY, &[&self.flow]).await;
        done.map(drop).map_err(|e| Error::sql("let Replicat go on", e))
    }

    /// Whether the flow's Replicat is to make way.
    ///
    /// # Errors
    /// [`Error::Sql`].
    ///
    /// Cancel-safe.
    pub async fn wants_way(&self, client: &Client) -> Result<bool, Error> {
        let row = client.query_opt(sql::WANTS_WAY, &[&self.flow]).await;
        Ok(row.map_err(|e| Error::sql("ask whether a load wants to begin", e))?.is_some())
    }

    /// Takes note that the flow goes on from `end` by somebody's wish, where that is before the place where its tables begin.
    /// Part of the transaction that `client` is in.
    ///
    /// # Errors
    /// [`Error::LedgerMissing`], [`Error::Sql`].
    pub async fn rewind(&self, client: &Client, end: ResumeLsn) -> Result<(), Error> {
        for statement in sql::REWIND {
            client.execute(statement, &[&self.flow, &to_pg(end.0)]).await.map_err(missing)?;
        }
        Ok(())
    }

    /// Forgets all about the flow's loads. Part of the transaction that `client` is in.
    ///
    /// # Errors
    /// [`Error::LedgerMissing`], [`Error::Sql`].
    pub async fn forget(&self, client: &Client) -> Result<(), Error> {
        for statement in sql::FORGET {
            client.execute(statement, &[&self.flow]).await.map_err(missing)?;
        }
        Ok(())
    }
}

fn table_of(row: &Row) -> Result<LoadTable, tokio_postgres::Error> {
    let number = |column: &str| row.try_get::<_, i64>(column).map(|value| u64::try_from(value).unwrap_or(0));
    let count = |column: &str| row.try_get::<_, i32>(column).map(|value| u32::try_from(value).unwrap_or(0));
    Ok(LoadTable {
        source: (row.try_get("source_schema")?, row.try_get("source_table")?),
        target: (row.try_get("target_schema")?, row.try_get("target_table")?),
        generation: row.try_get("generation")?,
        start: from_pg(row.try_get("start_lsn")?),
        chunks: count("chunks")?,
        chunk_blocks: number("chunk_blocks")?,
        chunks_done: count("chunks_done")?,
        rows: number("rows")?,
        bytes: number("bytes")?,
        size: number("size")?,
        again: row.try_get("again")?,
    })
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn missing(error: tokio_postgres::Error) -> Error {
    use tokio_postgres::error::SqlState;

    match error.code() {
        Some(code)
            if *code == SqlState::UNDEFINED_TABLE
                || *code == SqlState::INVALID_SCHEMA_NAME
                || *code == SqlState::UNDEFINED_COLUMN =>
        {
            Error::LedgerMissing
        }
        _ => Error::sql("keep the ledger of the load", error),
    }
}
