//! Set-up and tear-down: what the servers must hold before a flow can run, as statements that can be read before they
//! are run.
//!
//! Set-up looks at what there is and lists only what is lacking, so that running it twice does nothing the second
//! time, and running it again after it was cut off goes on where it stopped. The order matters: the publication exists
//! before the slot (a slot older than its publication can never decode it), and the slot before the trail and the
//! checkpoint, which record where it begins.

pub(crate) mod conflicts;
pub(crate) mod ddl;
pub(crate) mod publication;
mod rejoin;
pub(crate) mod rights;
mod run;
mod start;
mod teardown;

use irongate_apply::error_queue_setup;
use irongate_checkpoint::{CHECKPOINT_SCHEMA, Origin};
use irongate_postgres::sql::quote_literal;
use irongate_postgres::{Session, catalog};
use tokio_postgres::Client;

pub use rejoin::{FlowSnapshot, FlowStart, Rejoining, begin_at_snapshot};
pub use run::{Report, Setup, begin_anew, begin_capture, setup};
pub(crate) use run::{Sessions, import_snapshot, import_sql, patience};
pub(crate) use start::{
    Started, blocking, create_slot, lock_groups, refuse_elsewhere, refuse_foreign, start,
};
pub use teardown::{teardown, teardown_plan};

use crate::blocker::Blocker;
use crate::configuration::{Configuration, Flow, Login, TableName};
use crate::end::{As, End, refuse_own_source};
use crate::error::Error;
use crate::selection::Selection;
use crate::sequence::{self, Sequence};
use crate::statement::Statement;
use rights::{Lack, Named};

/// Something that happens while set-up, tear-down or an initial load is under way.
#[derive(Debug)]
pub enum Event<'a> {
    /// A statement is about to be run.
    Statement(&'a Statement),
    /// The creation of a slot waits for these transactions to end.
    Waiting(&'a [Blocker]),
    /// A sentence for the operator.
    Note(String),
    /// How far an initial load is.
    Copy(crate::instantiate::Progress),
}

/// Takes note of [`Event`]s.
pub type Progress<'a> = dyn FnMut(Event<'_>) + Send + 'a;

/// What a flow needs of both databases, as it was found there.
pub(crate) struct Survey {
    pub(crate) selection: Selection,
    /// The flow's sequences at the source.
    pub(crate) sequences: Vec<Sequence>,
}

impl Survey {
    pub(crate) async fn of(client: &Client, flow: &Flow) -> Result<Self, irongate_postgres::Error> {
        Ok(Self {
            selection: Selection::of(client, flow).await?,
            sequences: sequence::of_flow(sequence::sequences(client).await?, flow),
        })
    }

    /// Tables that rows come from.
    pub(crate) fn source_tables(&self) -> Vec<Named> {
        let named = |table: &catalog::Table| {
            (table.summary.oid, TableName::new(&table.summary.schema, &table.summary.name))
        };
        self.selection.streamed.iter().map(named).collect()
    }

    fn source_sequences(&self) -> Vec<Named> {
        self.sequences.iter().map(|sequence| (sequence.oid, sequence.name.clone())).collect()
    }

    /// Their counterparts at the target, as far as they are there.
    async fn at_target(
        &self,
        client: &Client,
        flow: &Flow,
    ) -> Result<(Vec<Named>, Vec<Named>), irongate_postgres::Error> {
        let wanted: Vec<TableName> =
            self.source_tables().into_iter().map(|(_, name)| flow.target_of(&name)).collect();
        let tables = catalog::tables(client)
            .await?
            .into_iter()
            .map(|table| (table.oid, TableName::new(table.schema, table.name)))
            .filter(|(_, name)| wanted.contains(name))
            .collect();
        let all = sequence::sequences(client).await?;
        let sequences = self
            .sequences
            .iter()
            .filter_map(|sequence| sequence::counterpart(&all, flow, sequence))
            .map(|sequence| (sequence.oid, sequence.name.clone()))
            .collect();
        Ok((tables, sequences))
    }

    /// What Extract's role lacks at the source, the role itself apart.
    pub(crate) async fn lacking_at_source(
        &self,
        client: &Client,
        login: &Login,
    ) -> Result<Vec<Lack>, irongate_postgres::Error> {
        rights::of_extract(client, login.role(), &self.source_tables(), &self.source_sequences()).await
    }

    /// What Replicat's role lacks at the target, the role itself apart.
    pub(crate) async fn lacking_at_target(
        &self,
        client: &Client,
        login: &Login,
        flow: &Flow,
    ) -> Result<Vec<Lack>, irongate_postgres::Error> {
        let (tables, sequences) = self.at_target(client, flow).await?;
        let mut lacks = rights::of_replicat(client, login.role(), &tables, &sequences).await?;
        lacks.extend(error_queue(client, login.role()).await?);
        Ok(lacks)
    }
}

async fn error_queue(client: &Client, role: &str) -> Result<Option<Lack>, irongate_postgres::Error> {
    const SQL: &str = "
        SELECT count(*) > 0,
               count(*) > 0 AND EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1::pg_catalog.text)
               AND bool_and(CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1::pg_catalog.text)
                   THEN (SELECT bool_and(pg_catalog.has_table_privilege($1::pg_catalog.text, c.oid, p))
                           FROM pg_catalog.unnest('{SELECT,INSERT,UPDATE,DELETE}'::pg_catalog.text[]) p) END)
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $2::pg_catalog.text AND c.relname = 'error_queue'";
    let row = client.query_one(SQL, &[&role, &CHECKPOINT_SCHEMA]).await?;
    let (exists, may): (bool, Option<bool>) = (row.try_get(0)?, row.try_get(1)?);
    if exists && may == Some(true) {
        return Ok(None);
    }
    Ok(Some(Lack {
        object: format!("table {CHECKPOINT_SCHEMA}.error_queue"),
        reason: if exists {
            format!("role \"{role}\" may not read and write it")
        } else {
            "it does not exist".to_owned()
        },
        why: "changes that the target refuses are kept here where a policy says so",
        sql: error_queue_setup(role),
        optional: false,
    }))
}

/// What set-up would run for some flows, in its order; nothing is changed.
///
/// Reads as the administrator, or where none is configured as the flow's own roles. Statements that several flows need
/// stand there once.
///
/// # Errors
/// [`Error::Database`] when a server cannot be asked; [`Error::NothingSelected`] for a flow without tables.
pub async fn plan(configuration: &Configuration, flows: &[&Flow]) -> Result<Vec<Statement>, Error> {
    let mut statements: Vec<Statement> = Vec::new();
    for flow in flows {
        for statement in plan_one(configuration, flow).await? {
            if !statements.iter().any(|earlier| does_the_same(configuration, earlier, &statement)) {
                statements.push(statement);
            }
        }
    }
    Ok(statements)
}

/// Whether one statement leaves nothing to do for the other: it is the same at the same place, and for what belongs to
/// the cluster, as roles do, that is any database of it.
fn does_the_same(configuration: &Configuration, one: &Statement, other: &Statement) -> bool {
    const OF_THE_CLUSTER: [&str; 5] =
        ["CREATE ROLE", "ALTER ROLE", "COMMENT ON ROLE", "GRANT SET ON PARAMETER", "-- ALTER ROLE"];
    if one == other {
        return true;
    }
    let address = |statement: &Statement| configuration.address(&statement.database, &statement.site).ok();
    let is_of_the_cluster = OF_THE_CLUSTER.iter().any(|words| one.sql.starts_with(words));
    is_of_the_cluster
        && (&one.sql, &one.password, one.connection) == (&other.sql, &other.password, other.connection)
        && address(one).zip(address(other)).is_some_and(|(one, other)| one.same_cluster(other))
}

/// How a session for reading is opened: as the administrator if there is one.
pub(crate) async fn reading(end: &End<'_>) -> Result<Session, Error> {
    let who = if end.address.admin.is_some() { As::Admin } else { end.own() };
    end.connect(who, "irongate setup").await
}

async fn plan_one(configuration: &Configuration, flow: &Flow) -> Result<Vec<Statement>, Error> {
    let (source, target) = (End::source(configuration, flow)?, End::target(configuration, flow)?);
    let session = reading(&source).await?;
    let at_the_target = reading(&target).await?;
    refuse_own_source(flow, (&source, &session), (&target, &at_the_target)).await?;
    let ask = |error| source.failed("read the catalog", error);
    let survey = Survey::of(&session, flow).await.map_err(ask)?;
    if survey.selection.published.is_empty() {
        return Err(Error::NothingSelected { flow: flow.name.clone(), end: source.to_string() });
    }
    let mut plan = roles(&session, &source).await?;
    let lacks = survey.lacking_at_source(&session, source.own_login()).await.map_err(ask)?;
    plan.extend(given(&source, lacks));
    let ours = publication::is_ours(&session, &flow.publication).await.map_err(ask)?;
    for difference in publication::differences(&session, flow, &survey.selection).await.map_err(ask)? {
        let Some(sql) = difference.sql(flow, &survey.selection).filter(|_| ours || !difference.takes_away())
        else {
            continue;
        };
        let why = "what is published is what the flow names";
        plan.push(Statement::new(&source, As::Admin, sql, why));
        if matches!(difference, publication::Difference::Absent { .. }) {
            let why = "tear-down drops only what set-up has made";
            plan.push(Statement::new(&source, As::Admin, publication::comment(&flow.publication), why));
        }
    }
    plan.extend(at_target(&at_the_target, &target, flow, &survey).await?);
    plan.extend(conflicts::plan(&source, &target, flow, &survey).await?);
    plan.extend(ddl::plan(configuration, &source, &target, flow, &survey).await?);
    // A flow whose turn it is not has no slot: it would keep log that nobody reads.
    let begins = !configuration.is_reverse(flow);
    if begins && catalog::slot(&session, &flow.slot).await.map_err(ask)?.is_none() {
        // Run through the replication connection, which also exports the slot's snapshot.
        let facts = catalog::server_facts(&session).await.map_err(ask)?;
        let failover = flow.failover_slot && facts.version_num >= FAILOVER_SLOTS;
        let sql = format!(
            "SELECT pg_catalog.pg_create_logical_replication_slot({}, 'pgoutput'{})",
            quote_literal(&flow.slot),
            if failover { ", failover => true" } else { "" }
        );
        plan.push(Statement::new(&source, As::Extract, sql, SLOT_WHY));
    }
    Ok(plan)
}

/// The first version whose slots standbys can synchronize.
pub(crate) const FAILOVER_SLOTS: u32 = 170_000;

/// Marks the one statement that is not run as it is printed.
const SLOT_WHY: &str = "the slot keeps what Extract has not read; the trail begins where it does";

async fn at_target(
    session: &Session,
    target: &End<'_>,
    flow: &Flow,
    survey: &Survey,
) -> Result<Vec<Statement>, Error> {
    let ask = |error| target.failed("read the catalog", error);
    let mut plan = roles(session, target).await?;
    let lacks = survey.lacking_at_target(session, target.own_login(), flow).await.map_err(ask)?;
    plan.extend(given(target, lacks));
    let origin = Origin::name_for(&flow.name)?;
    const EXISTS: &str =
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_replication_origin WHERE roname = $1::pg_catalog.text)";
    let exists = async { session.query_one(EXISTS, &[&origin]).await?.try_get(0) };
    let exists: Result<bool, tokio_postgres::Error> = exists.await;
    if !exists.map_err(|error| target.failed("look for the replication origin", error))? {
        let sql = format!("SELECT pg_catalog.pg_replication_origin_create({})", quote_literal(&origin));
        let why = "what Replicat writes carries this mark, so that no reverse flow sends it back";
        plan.push(Statement::new(target, As::Replicat, sql, why));
    }
    Ok(plan)
}

fn given(end: &End<'_>, lacks: Vec<Lack>) -> impl Iterator<Item = Statement> {
    let statements: Vec<_> = lacks
        .into_iter()
        .flat_map(|lack| lack.sql.into_iter().map(move |sql| (sql, lack.why)))
        .map(|(sql, why)| Statement::new(end, As::Admin, sql, why))
        .collect();
    statements.into_iter()
}

/// What makes the own role of an end, with its password if one is configured for it alone.
async fn roles(session: &Session, end: &End<'_>) -> Result<Vec<Statement>, Error> {
    let login = end.own_login();
    let lack = rights::role(session, login.role(), end.own() == As::Extract)
        .await
        .map_err(|error| end.failed("look for the role", error))?;
    let source = &login.password;
    let has_password = source.is_configured()?;
    let mut plan: Vec<_> = given(end, lack.into_iter().collect()).collect();
    let is_new = plan.iter().any(|statement| statement.sql.starts_with("CREATE ROLE"));
    if has_password && (is_new || password_is_refused(session, end).await?) {
        plan.push(Statement::password(end, login.role(), source));
    }
    Ok(plan)
}

/// Whether a role that set-up has made cannot log in with the configured password: it was never given one, or another.
async fn password_is_refused(session: &Session, end: &End<'_>) -> Result<bool, Error> {
    if !rights::is_ours(session, end.own_login().role())
        .await
        .map_err(|error| end.failed("look for the role", error))?
    {
        return Ok(false);
    }
    match Session::connect(&end.own_login().endpoint, "irongate setup").await {
        Err(error) => Ok(error.code() == Some("28P01")),
        Ok(_) => Ok(false),
    }
}
