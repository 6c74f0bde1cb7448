//! Carries out what was decided about lost changes.
//!
//! Each lost transaction becomes one at the live site, with those of its changes that are to be repeated, and with the record
//! of what was decided about each of its tables: the record and the rows are there together or not at all, so that another
//! run repeats nothing. The session has no replication origin: what it writes is captured there like anybody's writes, and
//! goes back to the lost site. It is Replicat's role, and triggers and foreign keys are silent for it, as they are for
//! Replicat: what they did is among the changes. Foreign keys are looked after before each commit.
//!
//! A change that does not find what it expects ends the run, and its transaction is rolled back; what was carried out before
//! stays, and a later run goes on behind it. A row that is already as the change would make it is no conflict.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use irongate_apply::{Names, TargetTable};
use irongate_checkpoint::Role;
use irongate_deployment::{Configuration, Raised};
use irongate_postgres::Session;
use irongate_trail::Lsn;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::PgLsn;

use super::change::{Cell, Change, Fields, Operation, TableName};
use super::decisions::{self, Decision, Decisions};
use super::directory::{Conflict, DOCUMENT, tape};
use super::document::{self, Document, Step, Transaction};
use super::problem::Problem;
use super::sql::{self, Insist, Recorded, Shape};
use super::{APPLICATION, Progress, divergence, record, references};
use crate::error::Error;
use crate::place::Place;

/// So many steps of the document are read ahead.
const READ_AHEAD: usize = 16;

/// What was carried out.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Carried {
    /// The salvage.
    pub run: String,
    /// The database.
    pub database: String,
    /// The site that writes.
    pub live: String,
    /// Who has signed.
    pub signed_off_by: String,
    /// Lost transactions in the salvage.
    pub transactions: u64,
    /// Of these, repeated now, in whole or in part.
    pub replayed: u64,
    /// Of these, dealt with by an earlier run.
    pub before: u64,
    /// Changes repeated now.
    pub changes: u64,
    /// Changes that the live site had already.
    pub same: u64,
    /// Changes recorded as left for somebody to see to by hand.
    pub kept: u64,
    /// Changes recorded as not wanted.
    pub discarded: u64,
    /// Sequences that were put beyond the rows that have come.
    pub sequences: Vec<Raised>,
}

/// The salvages in a directory: itself, or those of its databases.
///
/// # Errors
/// [`Problem::Spoilt`] if there is none; [`Problem::File`].
pub fn directories(directory: &Path) -> Result<Vec<PathBuf>, Problem> {
    if directory.join(DOCUMENT).is_file() {
        return Ok(vec![directory.to_owned()]);
    }
    let entries = std::fs::read_dir(directory).map_err(Problem::file("read", directory))?;
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.join(DOCUMENT).is_file()).collect();
    found.sort();
    if found.is_empty() {
        let reason = format!("there is no {DOCUMENT} in it");
        return Err(Problem::Spoilt { path: directory.to_owned(), reason });
    }
    Ok(found)
}

/// Carries out what the form in a salvage's directory decides, at the site that writes. Can be run again: nothing is
/// repeated twice.
///
/// # Errors
/// [`Error::Salvage`]: [`Problem::Undecided`] as long as not everything is decided and signed for; [`Problem::Conflict`]
/// where a change does not find what it expects; [`Problem::NotLost`], [`Problem::OtherPlace`] where the live site is not as the
/// salvage has found it. [`Error::NoAdmin`], [`Error::NoAccess`], [`Error::Database`].
///
/// Cancel-safe: what was committed stays, and another call goes on behind it.
pub async fn apply(
    configuration: &Configuration,
    site: &str,
    directory: &Path,
    progress: &mut Progress<'_>,
) -> Result<Carried, Error> {
    let path = directory.join(DOCUMENT);
    let form = directory.join(decisions::FILE);
    let decisions = Decisions::read(&form)?;
    let read = path.clone();
    let (digest, document) =
        blocking(move || Ok((tape::digest(&read)?, document::read(&read, |_| true)?))).await?;
    let document =
        document.ok_or_else(|| Problem::Spoilt { path: path.clone(), reason: "it is empty".into() })?;
    let Document { heading, summary } = &document;
    if heading.site != site {
        let reason = format!("it is about site \"{}\" and not \"{site}\"", heading.site);
        return Err(Problem::Spoilt { path, reason }.into());
    }
    if decisions.salvage != heading.run || decisions.digest != digest {
        let reason = format!("it does not belong to the {DOCUMENT} beside it, or that was changed");
        return Err(Problem::Spoilt { path: form, reason }.into());
    }
    let tables: BTreeSet<String> = summary.tables.keys().cloned().collect();
    let complaints = decisions.lacking(&tables, !summary.unknown.is_empty());
    if !complaints.is_empty() {
        return Err(Problem::Undecided { path: form, complaints }.into());
    }
    let place = Place::connect(configuration, &heading.database, &heading.live).await?;
    let flow = configuration.flow(&heading.flow)?;
    let settings = configuration.replicat_settings(flow)?;
    let xid = check(&place, &document).await?;
    let role = &configuration.address(&heading.database, &heading.live)?.replicat;
    let setup = record::setup(Some(role.role())).join(";\n");
    place.session.batch_execute(&setup).await.map_err(place.failed("make the table of salvages"))?;
    let session = Session::connect(&settings.target, APPLICATION).await.map_err(|source| {
        Error::Database { end: place.to_string(), doing: "connect".to_owned(), source: Box::new(source) }
    })?;
    let carried = Carried {
        run: heading.run.clone(),
        database: heading.database.clone(),
        live: heading.live.clone(),
        signed_off_by: decisions.signed_off_by.clone(),
        transactions: summary.transactions,
        ..Carried::default()
    };
    let mut carrier = Carrier {
        place: &place,
        session,
        decisions: &decisions,
        document: &document,
        names: settings.names,
        xid,
        shapes: HashMap::new(),
        open: None,
        carried,
        committed: 0,
    };
    carrier.begin(&digest).await?;
    let (steps, mut read) = mpsc::channel(READ_AHEAD);
    let reader =
        tokio::task::spawn_blocking(move || document::read(&path, |step| steps.blocking_send(step).is_ok()));
    let mut told = 0;
    while let Some(step) = read.recv().await {
        carrier.step(step).await?;
        let done = carrier.carried.replayed + carrier.carried.before;
        if done / 1000 > told {
            told = done / 1000;
            progress(&format!("{done} of {} transactions", carrier.carried.transactions));
        }
    }
    joined(reader.await)?;
    if decisions.tables.values().any(|table| table.decision == Decision::Replay) {
        // The lost site gave values that the sequences here have still to give.
        carrier.carried.sequences = irongate_deployment::secure_sequences(configuration, flow).await?.raised;
    }
    carrier.end().await
}

/// Runs what reads files beside the runtime's own threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    joined(tokio::task::spawn_blocking(work).await)
}

fn joined<T>(result: Result<Result<T, Problem>, tokio::task::JoinError>) -> Result<T, Problem> {
    let cut_off = |error: tokio::task::JoinError| Problem::File {
        doing: "read",
        path: PathBuf::from(DOCUMENT),
        source: std::io::Error::other(error),
    };
    result.map_err(cut_off)?
}

/// Whether the live site is as the salvage has found it; with the transaction id of what it had applied last.
async fn check(place: &Place, document: &Document) -> Result<String, Error> {
    let heading = &document.heading;
    let failed = |error: irongate_checkpoint::Error| Error::Deployment(error.into());
    let role = Role::load(&place.session).await.map_err(failed)?;
    if role.as_ref().is_none_or(|role| role.live != heading.live) {
        let (site, epoch) = role.map_or((heading.site.clone(), 1), |role| (role.live, role.epoch));
        return Err(Problem::NotLost { end: place.to_string(), site, epoch }.into());
    }
    let (end, flow) = (place.to_string(), heading.flow.clone());
    let known =
        divergence(place, &heading.flow).await?.ok_or(Problem::NoCheckpoint { end: end.clone(), flow })?;
    let at = known.applied.end_lsn.0;
    let given = heading.divergence.parse().unwrap_or(Lsn::ZERO);
    if at != given || known.applied.lineage.system_identifier.to_string() != heading.system_identifier {
        return Err(Problem::OtherPlace { end, known: at, given }.into());
    }
    Ok(heading.applied_by.clone().unwrap_or(known.xid))
}

/// The transaction in hand.
struct Open {
    transaction: Transaction,
    /// Changes by table.
    counts: BTreeMap<TableName, u64>,
    /// What was recorded of it before.
    recorded: BTreeMap<TableName, String>,
    /// Tables at the live site that rows were put into, and that rows were taken from.
    written: BTreeSet<(String, String)>,
    taken: BTreeSet<(String, String)>,
    /// The last change that was repeated.
    last: Option<(u64, Operation, TableName)>,
}

struct Carrier<'a> {
    place: &'a Place,
    session: Session,
    decisions: &'a Decisions,
    document: &'a Document,
    names: Names,
    xid: String,
    shapes: HashMap<TableName, Arc<Shape>>,
    open: Option<Open>,
    carried: Carried,
    /// Transactions of which something was carried out or recorded now.
    committed: u64,
}

impl Carrier<'_> {
    fn failed(&self, doing: &str) -> impl FnOnce(tokio_postgres::Error) -> Error + use<> {
        self.place.failed(doing)
    }

    fn decision(&self, table: &TableName) -> Decision {
        self.decisions.tables.get(&table.to_string()).map_or(Decision::Undecided, |table| table.decision)
    }

    async fn begin(&self, digest: &str) -> Result<(), Error> {
        const SESSION: &str = "SET default_transaction_read_only = off; SET session_replication_role = replica; \
             SET synchronous_commit = on; SET lock_timeout = '30s'";
        const CLAIM: &str = "SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended(\
             'irongate salvage of flow ' || $1::pg_catalog.text, 0))";
        const RUN: &str = "INSERT INTO irongate.salvage_run AS r
             (run, flow, system_identifier, divergence, digest, signed_off_by, transactions, incomplete, looked_up_to)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (run) DO UPDATE SET signed_off_by = excluded.signed_off_by, finished = NULL";
        let failed = || self.failed("begin to repeat what was lost");
        self.session.batch_execute(SESSION).await.map_err(failed())?;
        let Document { heading, summary } = self.document;
        let row = self.session.query_one(CLAIM, &[&heading.flow]).await.map_err(failed())?;
        if !row.try_get::<_, bool>(0).map_err(failed())? {
            return Err(Problem::Busy { flow: heading.flow.clone(), end: self.place.to_string() }.into());
        }
        let divergence = PgLsn::from(heading.divergence.parse().unwrap_or(Lsn::ZERO).0);
        let transactions = i64::try_from(summary.transactions).unwrap_or(i64::MAX);
        let looked = heading.looked_up_to.as_ref().and_then(|lsn| lsn.parse::<Lsn>().ok());
        let looked = looked.map(|lsn| PgLsn::from(lsn.0));
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 9] = [
            &heading.run,
            &heading.flow,
            &heading.system_identifier,
            &divergence,
            &digest,
            &self.decisions.signed_off_by,
            &transactions,
            &!summary.unknown.is_empty(),
            &looked,
        ];
        self.session.execute(RUN, &values).await.map(drop).map_err(failed())
    }

    async fn end(self) -> Result<Carried, Error> {
        const END: &str = "UPDATE irongate.salvage_run SET finished = clock_timestamp() WHERE run = $1";
        let failed = self.failed("sign off what was lost");
        self.session.execute(END, &[&self.carried.run]).await.map_err(failed)?;
        Ok(self.carried)
    }

    async fn step(&mut self, step: Step) -> Result<(), Error> {
        let result = match step {
            Step::Begin(transaction) => self.begin_transaction(transaction).await,
            Step::Change(change) => self.change(&change).await,
            Step::End => self.commit().await,
        };
        if result.is_err() && self.open.take().is_some() {
            // A session that is gone has rolled back by itself.
            let _ = self.session.batch_execute("ROLLBACK").await;
        }
        result
    }

    async fn begin_transaction(&mut self, transaction: Transaction) -> Result<(), Error> {
        const RECORDED: &str = "SELECT table_schema, table_name, decision FROM irongate.salvage
             WHERE flow = $1 AND system_identifier = $2 AND commit_lsn = $3 AND xid = $4";
        let failed = || self.failed("look for what was repeated before");
        let heading = &self.document.heading;
        let commit = PgLsn::from(transaction.commit_lsn.parse().unwrap_or(Lsn::ZERO).0);
        let xid = i64::from(transaction.xid);
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&heading.flow, &heading.system_identifier, &commit, &xid];
        let mut recorded = BTreeMap::new();
        for row in self.session.query(RECORDED, &values).await.map_err(failed())? {
            let table = TableName {
                schema: row.try_get(0).map_err(failed())?,
                table: row.try_get(1).map_err(failed())?,
            };
            recorded.insert(table, row.try_get(2).map_err(failed())?);
        }
        self.session.batch_execute("BEGIN").await.map_err(failed())?;
        let (counts, written, taken) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        self.open = Some(Open { transaction, counts, recorded, written, taken, last: None });
        Ok(())
    }

    async fn change(&mut self, change: &Change) -> Result<(), Error> {
        let Some(open) = &mut self.open else { return Ok(()) };
        for table in change.tables() {
            *open.counts.entry(table.clone()).or_default() += 1;
        }
        let is_done =
            |table: &TableName| open.recorded.get(table).is_some_and(|decision| decision == "replay");
        let wanted: Vec<TableName> = change.tables().filter(|table| !is_done(table)).cloned().collect();
        let wanted: Vec<TableName> =
            wanted.into_iter().filter(|table| self.decision(table) == Decision::Replay).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let mut shapes = Vec::new();
        for table in &wanted {
            shapes.push(self.shape(table, change).await?);
        }
        if let Some(open) = &mut self.open {
            for table in &wanted {
                let name = self.names.target_of(&table.schema, &table.table);
                if change.operation != Operation::Delete && change.operation != Operation::Truncate {
                    open.written.insert(name.clone());
                }
                if change.operation != Operation::Insert {
                    open.taken.insert(name);
                }
            }
            open.last = Some((change.number, change.operation, change.table.clone()));
        }
        if change.operation == Operation::Truncate {
            let over = wanted.iter().all(|table| self.is_over(table));
            return self.truncate(change, &shapes, over).await;
        }
        self.repeat(change, &shapes[0]).await
    }

    fn is_over(&self, table: &TableName) -> bool {
        self.decisions.tables.get(&table.to_string()).is_some_and(|table| table.replay_over)
    }

    /// The table of a change at the live site.
    async fn shape(&mut self, table: &TableName, change: &Change) -> Result<Arc<Shape>, Error> {
        let key: Vec<String> = change.key.0.iter().map(|(name, _)| name.clone()).collect();
        let truncates = change.operation == Operation::Truncate;
        if let Some(shape) = self.shapes.get(table).filter(|shape| truncates || shape.key == key) {
            return Ok(Arc::clone(shape));
        }
        let (schema, name) = self.names.target_of(&table.schema, &table.table);
        let found = TargetTable::load(&self.session, &schema, &name).await.map_err(Problem::Table)?;
        let found = found.ok_or_else(|| self.conflict(change, "the table is not there"))?;
        // With triggers silent a constraint that may be deferred is not enforced at all.
        const DEFERRABLE: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_index i
             JOIN pg_catalog.pg_class c ON c.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = $2 AND (i.indisunique OR i.indisexclusion) AND NOT i.indimmediate)";
        let failed = || self.failed("look at a table");
        let row = self.session.query_one(DEFERRABLE, &[&schema, &name]).await.map_err(failed())?;
        if row.try_get(0).map_err(failed())? && !truncates {
            return Err(
                self.conflict(change, "the table has a deferrable constraint, which nobody would look after")
            );
        }
        let shape = Arc::new(Shape::new((schema, name), Some(found), Some(key), &[]));
        self.shapes.insert(table.clone(), Arc::clone(&shape));
        Ok(shape)
    }

    fn conflict(&self, change: &Change, reason: impl Into<String>) -> Error {
        let (xid, commit_lsn) = match &self.open {
            Some(open) => (open.transaction.xid, open.transaction.commit_lsn.clone()),
            None => (0, String::new()),
        };
        let found = Conflict {
            xid,
            commit_lsn,
            number: change.number,
            operation: change.operation,
            table: change.table.to_string(),
            reason: reason.into(),
        };
        let (end, before) = (self.place.to_string(), self.committed);
        Problem::Conflict { end, found: Box::new(found), before }.into()
    }

    /// Sends a statement; how many rows it has met.
    async fn send(&self, change: &Change, statement: &str) -> Result<u64, Error> {
        match self.session.simple_query(statement).await {
            Ok(messages) => {
                let met = messages.iter().rev().find_map(|message| match message {
                    SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
                    _ => None,
                });
                Ok(met.unwrap_or(0))
            }
            Err(error) => {
                let error = irongate_postgres::Error::from(error);
                if error.code().is_none() || error.is_transient() {
                    let (end, doing) = (self.place.to_string(), "repeat a lost change".to_owned());
                    return Err(Error::Database { end, doing, source: Box::new(error) });
                }
                // Its text has no values in it.
                Err(self.conflict(change, error.to_string()))
            }
        }
    }

    async fn truncate(&mut self, change: &Change, shapes: &[Arc<Shape>], over: bool) -> Result<(), Error> {
        let shapes: Vec<&Shape> = shapes.iter().map(|shape| &**shape).collect();
        for shape in shapes.iter().filter(|_| !over) {
            let sql = format!("SELECT {}", shape.written_by_others(&self.xid));
            let failed = || self.failed("look for rows that came since");
            let row = self.session.query_one(&sql, &[]).await.map_err(failed())?;
            if row.try_get(0).map_err(failed())? {
                return Err(self.conflict(change, "rows were written there since"));
            }
        }
        self.send(change, &sql::truncate(&shapes)).await?;
        self.carried.changes += 1;
        Ok(())
    }

    async fn repeat(&mut self, change: &Change, shape: &Shape) -> Result<(), Error> {
        let statement = |insist| shape.repeat(change, insist).map(|statement| statement.sql());
        let Some(careful) = statement(Insist::Unchanged(Some(&self.xid))) else {
            return Err(self.conflict(change, "what was logged does not tell which row it was"));
        };
        if self.send(change, &careful).await? == 1 {
            self.carried.changes += 1;
            return Ok(());
        }
        let there = self.there(change, shape).await?;
        let is_same = match (change.operation, &there) {
            (Operation::Delete, None) => true,
            (Operation::Insert | Operation::Update, Some(row)) => {
                change.new.as_ref().is_some_and(|new| new.is_in(row))
            }
            _ => false,
        };
        if is_same {
            self.carried.same += 1;
            return Ok(());
        }
        if !self.is_over(&change.table) {
            return Err(self.conflict(
                change,
                match (change.operation, &there) {
                    (Operation::Insert, Some(_)) => "another row with this key is there",
                    (Operation::Insert, None) => "another row is in its way",
                    (_, None) => "the row is not there",
                    (_, Some(_)) => "the row was changed there since",
                },
            ));
        }
        let bold = statement(Insist::Nothing).unwrap_or(careful);
        if self.send(change, &bold).await? == 0 {
            let whole =
                change.new.as_ref().filter(|new| new.0.iter().all(|(_, cell)| *cell != Cell::Unchanged));
            let Some(new) = whole else {
                return Err(
                    self.conflict(change, "the row is not there, and not all of its values were logged")
                );
            };
            if self.send(change, &shape.insert(new, true).sql()).await? == 0 {
                return Err(self.conflict(change, "another row is in its way"));
            }
        }
        self.carried.changes += 1;
        Ok(())
    }

    /// The row that is where a change would have led to.
    async fn there(&self, change: &Change, shape: &Shape) -> Result<Option<Fields>, Error> {
        let key = change.new_key().unwrap_or_else(|| change.key.clone());
        let Some(sql) = shape.look(0, &key, change.new.as_ref().or(change.old.as_ref()), None) else {
            return Ok(None);
        };
        let failed = || self.failed("look at a row");
        for message in self.session.simple_query(&sql).await.map_err(failed())? {
            let SimpleQueryMessage::Row(row) = message else { continue };
            let mut fields = Vec::new();
            for (place, name) in shape.asked().into_iter().enumerate() {
                let text = row.try_get(place + 2).map_err(failed())?;
                fields.push((name, text.map_or(Cell::Null, |text| Cell::Text(text.to_owned()))));
            }
            return Ok(Some(Fields(fields)));
        }
        Ok(None)
    }

    async fn commit(&mut self) -> Result<(), Error> {
        let Some(open) = &self.open else { return Ok(()) };
        let heading = &self.document.heading;
        let (mut kept, mut discarded, mut news) = (0, 0, false);
        for (table, changes) in &open.counts {
            let decision = self.decision(table);
            let known = open.recorded.get(table).map(String::as_str);
            if known == Some("replay") || known == Some(decision.name()) {
                continue;
            }
            news = true;
            match decision {
                Decision::Keep => kept += changes,
                Decision::Discard => discarded += changes,
                Decision::Replay | Decision::Undecided => {}
            }
            let record = sql::record(&Recorded {
                run: &heading.run,
                flow: &heading.flow,
                system_identifier: &heading.system_identifier,
                commit_lsn: &open.transaction.commit_lsn,
                xid: open.transaction.xid,
                commit_time: &open.transaction.commit_time,
                table,
                changes: *changes,
                decision: decision.name(),
            });
            // Two who repeat at the same time cannot both get past this.
            let record = format!(
                "{record} ON CONFLICT (flow, system_identifier, commit_lsn, xid, table_schema, table_name) DO UPDATE \
                 SET run = excluded.run, decision = excluded.decision, by_xid = excluded.by_xid, at = excluded.at \
                 WHERE s.decision <> 'replay'"
            );
            let met = self.session.execute(&record, &[]).await.map_err(self.failed("record a decision"))?;
            if met != 1 {
                let (flow, end) = (heading.flow.clone(), self.place.to_string());
                return Err(Problem::Busy { flow, end }.into());
            }
        }
        let (written, taken): (Vec<_>, Vec<_>) =
            (open.written.iter().cloned().collect(), open.taken.iter().cloned().collect());
        let broken = references::broken(&self.session, &written, &taken).await;
        if let Some(broken) = broken.map_err(self.failed("look after foreign keys"))? {
            let Some((number, operation, table)) = open.last.clone() else { return Ok(()) };
            let found = Conflict {
                xid: open.transaction.xid,
                commit_lsn: open.transaction.commit_lsn.clone(),
                number,
                operation,
                table: table.to_string(),
                reason: format!("with it, {broken} would be broken"),
            };
            let (end, before) = (self.place.to_string(), self.committed);
            return Err(Problem::Conflict { end, found: Box::new(found), before }.into());
        }
        self.session.batch_execute("COMMIT").await.map_err(self.failed("commit what was repeated"))?;
        let repeated = open.last.is_some();
        self.open = None;
        self.carried.kept += kept;
        self.carried.discarded += discarded;
        self.carried.replayed += u64::from(repeated);
        self.carried.before += u64::from(!news);
        self.committed += u64::from(news);
        Ok(())
    }
}
