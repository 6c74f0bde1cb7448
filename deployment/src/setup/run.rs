//! Running set-up.

use std::collections::BTreeMap;
use std::time::Duration;

use irongate_checkpoint::{Applied, CheckpointTable, LoadLedger};
use irongate_postgres::{Session, catalog};
use irongate_trail::{CommitLsn, Directory, Timestamp};

use super::start::{Started, lock_groups, lock_groups_here, start};
use super::{Event, Progress, SLOT_WHY, Survey, plan, reading};
use crate::configuration::{Configuration, Flow, TableName};
use crate::end::{As, End};
use crate::error::Error;
use crate::statement::Statement;

/// What set-up is to do.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The site where this process stands, else the configuration's. Slots and trails of flows that run at another are
    /// left to that one; without a name, all of them are made here.
    pub site: Option<String>,
    /// Flows begin here although their source has rows already: the target is known to have them.
    pub start_here: bool,
    /// How long the creation of a slot may wait for open transactions.
    pub slot_limit: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self { site: None, start_here: false, slot_limit: Duration::from_secs(60) }
    }
}

/// What set-up has done.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Report {
    /// The statements that were run.
    pub statements: Vec<Statement>,
    /// Flows whose slot and trail were made.
    pub started: Vec<String>,
    /// Flows that cannot run yet, because their target was never brought to the state of their source.
    pub to_instantiate: Vec<String>,
}

/// Sets some flows up. What is there already stays as it is.
///
/// # Errors
/// [`Error::NoAdmin`] where something is lacking that only an administrator can give; [`Error::Checkpoint`] when a
/// group of a flow runs that is to be started; [`Error::Blocked`], [`Error::Slot`], [`Error::Database`],
/// [`Error::Trail`].
///
/// Not cancel-safe, but safe to repeat: what was done stays, the next run goes on from there.
pub async fn setup(
    configuration: &Configuration,
    flows: &[&Flow],
    options: &Setup,
    progress: &mut Progress<'_>,
) -> Result<Report, Error> {
    let statements = plan(configuration, flows).await?;
    let mut report = Report::default();
    let mut sessions = Sessions::new(configuration);
    for statement in statements.into_iter().filter(|statement| statement.why != SLOT_WHY) {
        progress(Event::Statement(&statement));
        sessions.run(&statement).await?;
        report.statements.push(statement);
    }
    drop(sessions);
    topics(configuration, flows, progress).await?;
    for flow in flows {
        if let Some(site) = options.site.as_ref().or(configuration.site.as_ref())
            && flow.at != *site
        {
            progress(Event::Note(format!(
                "flow \"{}\" runs at site \"{}\": run set-up there too, for its slot and its trail",
                flow.name, flow.at
            )));
            continue;
        }
        if configuration.is_reverse(flow) {
            progress(Event::Note(format!(
                "flow \"{}\" begins when it is its turn: until then \"{}\" keeps no slot and no log for it",
                flow.name, flow.from
            )));
            continue;
        }
        begin(configuration, flow, options, progress, &mut report).await?;
    }
    Ok(report)
}

/// Makes the topics that flows go through, as far as they are not there.
async fn topics(
    configuration: &Configuration,
    flows: &[&Flow],
    progress: &mut Progress<'_>,
) -> Result<(), Error> {
    let Some(kafka) = &configuration.kafka else { return Ok(()) };
    for flow in flows.iter().filter(|flow| flow.is_through_kafka()) {
        let topic = configuration.topic_settings(flow)?;
        if irongate_pump::kafka::create_topic(&kafka.client, &topic).await? {
            let (name, copies) = (&topic.name, topic.replication);
            progress(Event::Note(format!("topic \"{name}\" was made, copies: {copies}")));
        }
    }
    Ok(())
}

/// What is there of a flow's beginning.
struct Found {
    slot: bool,
    trail: bool,
    checkpoint: bool,
}

async fn found(configuration: &Configuration, flow: &Flow) -> Result<Found, Error> {
    let (source, target) = (End::source(configuration, flow)?, End::target(configuration, flow)?);
    let session = reading(&source).await?;
    let slot = catalog::slot(&session, &flow.slot)
        .await
        .map_err(|error| source.failed("look at the slot", error))?;
    let directory = configuration.trail(flow);
    let trail = directory.is_dir() && irongate_trail::durable(&Directory::new(directory))?.is_some();
    let session = target.connect(As::Replicat, "irongate setup").await?;
    let checkpoint = CheckpointTable::prepare(&session, &flow.name).await?.load(&session).await?;
    Ok(Found { slot: slot.is_some(), trail, checkpoint: checkpoint.is_some() })
}

/// Makes slot, trail and checkpoint of a flow, as far as they are not there.
async fn begin(
    configuration: &Configuration,
    flow: &Flow,
    options: &Setup,
    progress: &mut Progress<'_>,
    report: &mut Report,
) -> Result<(), Error> {
    match found(configuration, flow).await? {
        Found { slot: true, trail: true, checkpoint: true } => return Ok(()),
        // A flow that has run: a new slot would begin behind a gap, and must come with a new copy.
        Found { checkpoint: true, .. } => {
            progress(Event::Note(format!(
                "flow \"{}\" has a checkpoint at its target, but has lost its slot or its trail",
                flow.name
            )));
            report.to_instantiate.push(flow.name.clone());
            return Ok(());
        }
        Found { slot: true, trail: true, checkpoint: false } if !options.start_here => {
            report.to_instantiate.push(flow.name.clone());
            return Ok(());
        }
        Found { .. } => {}
    }
    let _locks = lock_groups(configuration, flow)?;
    let started = start(configuration, flow, options.slot_limit, progress).await?;
    progress(Event::Note(format!("flow \"{}\" begins at {}", flow.name, started.consistent_point)));
    report.started.push(flow.name.clone());
    if options.start_here || is_source_empty(configuration, flow, &started, options.slot_limit).await? {
        initialise(configuration, flow, &started).await?;
    } else {
        report.to_instantiate.push(flow.name.clone());
    }
    Ok(())
}

/// Whether no table of the flow has a row at the moment where its slot begins.
async fn is_source_empty(
    configuration: &Configuration,
    flow: &Flow,
    started: &Started,
    limit: Duration,
) -> Result<bool, Error> {
    let source = End::source(configuration, flow)?;
    let session = source.connect(As::Extract, "irongate setup").await?;
    let work = async {
        import_snapshot(&session, &started.snapshot, limit).await?;
        let survey = Survey::of(&session, flow).await?;
        for (_, table) in survey.source_tables() {
            if has_rows(&session, &table).await? {
                return Ok(false);
            }
        }
        Ok::<_, irongate_postgres::Error>(true)
    };
    work.await.map_err(|error| source.failed("look for rows", error))
}

/// Begins a transaction that sees what the slot's snapshot sees. A lock that somebody else holds is waited for up to
/// the limit.
pub(crate) async fn import_snapshot(
    session: &Session,
    snapshot: &str,
    limit: Duration,
) -> Result<(), irongate_postgres::Error> {
    Ok(session.batch_execute(&import_sql(snapshot, limit)).await?)
}

/// What [`import_snapshot`] says to the server.
pub(crate) fn import_sql(snapshot: &str, limit: Duration) -> String {
    let name = irongate_postgres::sql::quote_literal(snapshot);
    format!(
        "{}; SET row_security = off; \
         BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {name}",
        patience(limit)
    )
}

/// Settings of a session that works for long and waits for locks only up to a limit.
pub(crate) fn patience(limit: Duration) -> String {
    format!(
        "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = {}",
        limit.as_millis().clamp(1, 1 << 30)
    )
}

/// Whether a table has a row.
async fn has_rows(session: &Session, table: &TableName) -> Result<bool, irongate_postgres::Error> {
    let sql = format!("SELECT EXISTS (SELECT FROM {})", table.quoted());
    Ok(session.query_one(&sql, &[]).await?.try_get(0)?)
}

/// Where a flow begins, as its checkpoint says it.
fn first_checkpoint(started: &Started) -> Applied {
    Applied {
        lineage: started.lineage,
        commit_lsn: CommitLsn::default(),
        end_lsn: started.consistent_point,
        commit_time: Timestamp::now(),
        position: started.position,
        epoch: started.epoch,
        transactions: 0,
    }
}

async fn initialise(configuration: &Configuration, flow: &Flow, started: &Started) -> Result<(), Error> {
    let target = End::target(configuration, flow)?;
    let session = target.connect(As::Replicat, "irongate setup").await?;
    let table = CheckpointTable::prepare(&session, &flow.name).await?;
    table.claim(&session).await?;
    table.initialise(&session, &first_checkpoint(started)).await?;
    Ok(())
}

/// Makes slot and trail of a flow anew, and the checkpoint where they begin: for a flow whose target has everything that
/// its source has, because until now it was the source. Returns where the stream begins.
///
/// # Errors
/// [`Error::Elsewhere`]; [`Error::Checkpoint`] when a group of the flow runs; [`Error::NotLive`] when it is not the
/// turn of the flow's source; [`Error::Blocked`], [`Error::Slot`], [`Error::Database`], [`Error::Trail`].
///
/// Not cancel-safe, but safe to repeat.
pub async fn begin_anew(
    configuration: &Configuration,
    flow: &Flow,
    slot_limit: Duration,
    progress: &mut Progress<'_>,
) -> Result<irongate_trail::ResumeLsn, Error> {
    let _locks = lock_groups_here(configuration, flow)?;
    let target = End::target(configuration, flow)?;
    let session = target.connect(As::Replicat, "irongate switchover").await?;
    let table = CheckpointTable::prepare(&session, &flow.name).await?;
    table.claim(&session).await?;
    let started = start(configuration, flow, slot_limit, progress).await?;
    let failed = |error| target.failed("begin the flow's checkpoint anew", error);
    let ledger = LoadLedger::new(&flow.name);
    let has_ledger = ledger.job_if_kept(&session).await?.is_some();
    session.batch_execute("BEGIN").await.map_err(failed)?;
    table.remove(&session).await?;
    table.initialise(&session, &first_checkpoint(&started)).await?;
    // What an earlier load says of its tables is of another stream.
    if has_ledger {
        ledger.forget(&session).await?;
    }
    session.batch_execute("COMMIT").await.map_err(failed)?;
    table.release(&session).await?;
    Ok(started.consistent_point)
}

/// Makes the slot of a flow and begins its trail there, without a word to its target: one that is lost has no checkpoint
/// that fits, and its Replicat refuses to run until it is instantiated.
///
/// # Errors
/// As [`begin_anew`], but for those of the target.
pub async fn begin_capture(
    configuration: &Configuration,
    flow: &Flow,
    slot_limit: Duration,
    progress: &mut Progress<'_>,
) -> Result<irongate_trail::ResumeLsn, Error> {
    let _locks = lock_groups_here(configuration, flow)?;
    Ok(start(configuration, flow, slot_limit, progress).await?.consistent_point)
}

/// Sessions by place, opened when they are first needed.
pub(crate) struct Sessions<'a> {
    configuration: &'a Configuration,
    open: BTreeMap<(String, String, As), Session>,
}

impl<'a> Sessions<'a> {
    pub(crate) fn new(configuration: &'a Configuration) -> Self {
        Self { configuration, open: BTreeMap::new() }
    }

    /// Ends the sessions of the flows' own roles.
    pub(super) fn close_own(&mut self) {
        self.open.retain(|(_, _, who), _| *who == As::Admin);
    }

    /// Runs one statement, as its own transaction.
    pub(crate) async fn run(&mut self, statement: &Statement) -> Result<(), Error> {
        let address = self.configuration.address(&statement.database, &statement.site)?;
        let end = End::anonymous(&statement.site, &statement.database, address);
        let key = (statement.site.clone(), statement.database.clone(), statement.connection);
        let session = match self.open.entry(key) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(end.connect(statement.connection, "irongate setup").await?)
            }
        };
        let sql = statement.executable()?;
        session.batch_execute(&sql).await.map_err(|error| end.failed(&statement.summary(), error))
    }
}
