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

use std::collections::{BTreeSet, HashMap};

use irongate_trail::{CommitLsn, Lineage, Lsn, Position, ResumeLsn, Timestamp};
use postgres_types::PgLsn;
use tokio_postgres::{Client, Row};

use crate::error::Error;
use crate::session::OtherSession;
use crate::sql::{SqlTime, from_pg, to_pg};

pub use sql::{LOAD_SCHEMA, LOAD_TABLES, load_setup, load_teardown};

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
    /// The load is done and Replicat may run.
    pub done: bool,
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

    /// Takes note that the load is done. Part of the transaction that `client` is in and that makes the checkpoint. The
    /// server refuses it where a table is not finished.
    ///
    /// # Errors
    /// [`Error::LedgerMissing`], [`Error::Sql`].
    pub async fn finish(&self, client: &Client) -> Result<(), Error> {
        client.execute(sql::FINISH, &[&self.flow]).await.map(drop).map_err(missing)
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

/// The tables of a flow whose changes begin later than its stream.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct TableStarts {
    schemas: HashMap<String, HashMap<String, Lsn>>,
    last: Lsn,
}

impl TableStarts {
    /// Asks the target of a flow for those that are ahead of its checkpoint.
    ///
    /// # Errors
    /// [`Error::Sql`].
    ///
    /// Cancel-safe.
    pub async fn load(client: &Client, flow: &str) -> Result<Self, Error> {
        let fail = |e| Error::sql("ask where the tables begin", e);
        // A target that was set up by an earlier release has no ledger, and then no table begins later.
        if !client
            .query_one(sql::LEDGER_EXISTS, &[])
            .await
            .map_err(fail)?
            .try_get::<_, bool>(0)
            .map_err(fail)?
        {
            return Ok(Self::default());
        }
        let mut starts = Self::default();
        for row in client.query(sql::STARTS, &[&flow]).await.map_err(fail)? {
            let (schema, table): (String, String) =
                (row.try_get(0).map_err(fail)?, row.try_get(1).map_err(fail)?);
            starts.insert(schema, table, from_pg(row.try_get(2).map_err(fail)?));
        }
        Ok(starts)
    }

    /// Adds a table.
    pub fn insert(&mut self, schema: impl Into<String>, table: impl Into<String>, start: Lsn) {
        self.schemas.entry(schema.into()).or_default().insert(table.into(), start);
        self.last = self.last.max(start);
    }

    /// Whether the table's copy has what a transaction did that was committed there.
    pub fn has(&self, schema: &str, table: &str, commit: CommitLsn) -> bool {
        self.schemas.get(schema).and_then(|tables| tables.get(table)).is_some_and(|start| commit.0 < *start)
    }

    /// Whether a transaction that is still to come, behind `end`, can be in any table's copy.
    pub fn are_ahead_of(&self, end: ResumeLsn) -> bool {
        self.last > end.0
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_in_the_copy_if_it_committed_before_the_tables_own_start() {
        let mut starts = TableStarts::default();
        assert!(!starts.are_ahead_of(ResumeLsn(Lsn(0))));
        starts.insert("s", "t", Lsn(100));
        starts.insert("s", "u", Lsn(200));
        for (table, commit, has) in
            [("t", 99, true), ("t", 100, false), ("u", 100, true), ("u", 200, false), ("v", 1, false)]
        {
            assert_eq!(starts.has("s", table, CommitLsn(Lsn(commit))), has, "{table} {commit}");
        }
        assert!(!starts.has("other", "t", CommitLsn(Lsn(1))));
        assert!(starts.are_ahead_of(ResumeLsn(Lsn(199))));
        assert!(!starts.are_ahead_of(ResumeLsn(Lsn(200))));
    }
}
