//! The structure of a flow's source, copied before its rows: what [`Instantiate::with_schema`](super::Instantiate) asks for.
//!
//! It is `pg_dump`'s. What stands before rows (schemas, types, functions, sequences, tables) is made in one transaction,
//! together with its lines in `irongate.load_schema` at the target: it is there or it is not, whatever is killed. The same
//! transaction notes what stands behind rows (indexes, constraints, foreign keys last, triggers), which is made when all
//! rows are there, each in a transaction with its line's end. So a load that is cut off and gone on with knows what is left
//! to be made, without asking the source again.
//!
//! Structure and rows belong together because the structure is read once more under the load's snapshot, while its keeper
//! holds off who would alter a table: where it is not what was made, the load does not begin.
//!
//! What is there at the target already stays as it is if it is equal, and is refused by its name if it is not.

mod dump;
mod ledger;
mod plan;
mod script;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use irongate_postgres::Session;

use self::dump::{Dump, PgDump};
use self::ledger::{Line, SchemaLedger};
use self::plan::{Found, decide};
use self::script::{Entry, is_about_rights, left_out, roles, without_grants_to};
use super::{Claims, Load, keeper};
use crate::configuration::{Configuration, Flow};
use crate::end::{As, End};
use crate::error::Error;
use crate::selection::Selection;
use crate::setup::{self, Event, Progress as Report, Sessions, patience, reading};
use crate::statement::Statement;

/// How the structure is copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SchemaCopy {
    /// The `pg_dump` to use; otherwise one that is found on this machine and is at least as new as the source.
    pub pg_dump: Option<PathBuf>,
    /// Objects belong to whom they belong at the source; otherwise to the target's administrator.
    pub owners: bool,
    /// Grants go along.
    pub privileges: bool,
}

impl Default for SchemaCopy {
    fn default() -> Self {
        Self { pg_dump: None, owners: true, privileges: true }
    }
}

/// A structure that is to be made at a target.
pub(super) struct Schema {
    program: PgDump,
    how: SchemaCopy,
    /// What the source has.
    dump: Dump,
    /// What of it is made before the rows, and behind them.
    before: Vec<Entry>,
    behind: Vec<Entry>,
    /// Lines of an earlier load stand for objects that are gone.
    forget: bool,
    /// What does not go along, and why.
    left: Vec<(String, &'static str)>,
}

/// The name by which the sessions are shown that make a flow's structure.
fn application(flow: &Flow) -> String {
    let name = format!("irongate schema {}", flow.name);
    let end = (0..=name.len().min(63)).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    name[..end].to_owned()
}

/// The statements that [`instantiate`](super::instantiate) would run at the target before and behind the rows; nothing is
/// changed.
///
/// # Errors
/// [`Error::Schema`] where no `pg_dump` fits, or the target has objects of the same names that are not equal;
/// [`Error::NoAdmin`]; [`Error::Database`].
pub async fn schema_plan(
    configuration: &Configuration,
    flow: &Flow,
    how: &SchemaCopy,
    limit: Duration,
    progress: &mut Report<'_>,
) -> Result<Vec<Statement>, Error> {
    let schema = Schema::plan(configuration, flow, how, limit).await?;
    schema.tell(progress);
    let target = End::target(configuration, flow)?;
    let statement = |entry: &Entry, when: &str| {
        Statement::new(&target, As::Admin, entry.sql.clone(), format!("{}, {when}", entry.title()))
    };
    let before = schema.before.iter().map(|entry| statement(entry, "before the rows"));
    Ok(before.chain(schema.behind.iter().map(|entry| statement(entry, "behind the rows"))).collect())
}

/// The roles of Irongate itself, by whatever names.
fn own_roles(configuration: &Configuration) -> BTreeSet<String> {
    let addresses = configuration.databases.values().flat_map(|sites| sites.values());
    addresses
        .flat_map(|address| [address.extract.role(), address.replicat.role()])
        .map(str::to_owned)
        .collect()
}

/// What goes along of a dump, and what does not.
fn carried(dump: Dump, own: &BTreeSet<String>) -> (Dump, Vec<(String, &'static str)>) {
    let mut left = Vec::new();
    let mut section = |entries: Vec<Entry>| -> Vec<Entry> {
        let mut kept = Vec::new();
        for entry in entries {
            match left_out(&entry) {
                Some(reason) => left.push((entry.title(), reason)),
                None => kept.extend(without_grants_to(entry, own)),
            }
        }
        kept
    };
    let (before, behind) = (section(dump.before), section(dump.behind));
    (Dump { before, behind }, left)
}

impl Schema {
    /// Reads the source's structure, and decides what of it is to be made.
    async fn plan(
        configuration: &Configuration,
        flow: &Flow,
        how: &SchemaCopy,
        limit: Duration,
    ) -> Result<Self, Error> {
        let (source, target) = (End::source(configuration, flow)?, End::target(configuration, flow)?);
        let refused = |reasons: Vec<String>, remedy: &str| Error::Schema {
            end: target.to_string(),
            reasons,
            remedy: remedy.to_owned(),
        };
        let at_target = target.connect(As::Admin, &application(flow)).await?;
        let at_source = reading(&source).await?;
        crate::end::refuse_own_source(flow, (&source, &at_source), (&target, &at_target)).await?;
        let selection = Selection::of(&at_source, flow).await;
        let selection = selection.map_err(|error| source.failed("read the catalog", error))?;
        let renamed = selection.streamed.iter().find(|table| {
            let name = crate::configuration::TableName::new(&table.summary.schema, &table.summary.name);
            flow.target_of(&name) != name
        });
        if let Some(table) = renamed {
            let reason = format!(
                "flow \"{}\" gives table {}.{} another name there",
                flow.name, table.summary.schema, table.summary.name
            );
            return Err(refused(
                vec![reason],
                "make the tables at the target by hand, and leave --with-schema out",
            ));
        }
        let program = PgDump::find(how, (&source, &at_source), &at_target).await?;
        let own = own_roles(configuration);
        let (dump, left) = carried(program.dump(&source, how, None, limit).await?, &own);
        let failed = |error| target.failed("read the catalog", error);
        let lacking = lacking_roles(&at_target, &dump).await.map_err(failed)?;
        if !lacking.is_empty() {
            let reason = format!("it has no role {}", lacking.join(", "));
            let make: Vec<String> = lacking.iter().map(|role| format!("CREATE ROLE {role};")).collect();
            return Err(refused(
                vec![reason],
                &format!(
                    "{} there, or leave owners and grants out: --no-owner --no-privileges",
                    make.join(" ")
                ),
            ));
        }
        let there = if program.major >= at_target.server_version_num() / 10_000 {
            Some(carried(program.dump(&target, how, None, limit).await?, &own).0)
        } else {
            None
        };
        let lines = SchemaLedger::new(&flow.name).lines(&at_target).await;
        let lines = lines.map_err(|error| target.failed("read the ledger of the load", error))?;
        let found = Found::of(&at_target, lines, there).await.map_err(failed)?;
        let decided = decide(&dump, &found).map_err(|objects| {
            refused(
                objects,
                "empty the target of them, or bring them to what the source has and leave --with-schema out",
            )
        })?;
        Ok(Self {
            program,
            how: how.clone(),
            before: decided.before,
            behind: decided.behind,
            forget: decided.forget,
            dump,
            left,
        })
    }

    fn tell(&self, progress: &mut Report<'_>) {
        for (object, reason) in self.left.iter().filter(|(_, reason)| *reason != "set-up makes it") {
            progress(Event::Note(format!("{object} does not go along: {reason}")));
        }
    }

    /// Makes what stands before the rows, and notes what stands behind them: in one transaction.
    async fn make(&self, flow: &Flow, target: &End<'_>, limit: Duration) -> Result<(), Error> {
        let session = session(flow, target, limit).await?;
        let ledger = SchemaLedger::new(&flow.name);
        let failed = |error: tokio_postgres::Error| target.failed("keep the ledger of the load", error);
        ledger.create(&session, target.own_login().role()).await.map_err(failed)?;
        session.batch_execute("BEGIN").await.map_err(failed)?;
        let work = async {
            if self.forget {
                ledger.forget(&session).await.map_err(failed)?;
            }
            for entry in &self.before {
                run(&session, entry, &entry.sql, target).await?;
                ledger.add(&session, Line::before(entry)).await.map_err(failed)?;
            }
            for entry in &self.behind {
                ledger.add(&session, Line::behind(entry)).await.map_err(failed)?;
            }
            session.batch_execute("COMMIT").await.map_err(failed)
        };
        let done = work.await;
        if done.is_err() {
            let _ = session.batch_execute("ROLLBACK").await;
        }
        done
    }
}

/// The roles that a dump names and a target does not have, quoted.
async fn lacking_roles(session: &Session, dump: &Dump) -> Result<Vec<String>, irongate_postgres::Error> {
    const SQL: &str =
        "SELECT pg_catalog.quote_ident(wanted) FROM pg_catalog.unnest($1::pg_catalog.text[]) wanted
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted) ORDER BY 1";
    let wanted: Vec<String> = roles(dump.before.iter().chain(&dump.behind)).into_iter().collect();
    let rows = session.query(SQL, &[&wanted]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

/// The administrator's session at a target, in which names are taken as they are written.
///
/// In replica role, where he may: so a channel for changes of structure in the other direction does not send back what is
/// made here.
async fn session(flow: &Flow, target: &End<'_>, limit: Duration) -> Result<Session, Error> {
    let session = target.connect(As::Admin, &application(flow)).await?;
    let failed = |error| target.failed("prepare the session", error);
    // A command that was killed may still be about to commit what it was sent last.
    keeper::end_sessions(&session, &application(flow)).await.map_err(failed)?;
    let settings = format!(
        "{}; SET check_function_bodies = off; SET client_min_messages = warning; SET row_security = off;
         SET xmloption = content; SET default_transaction_read_only = off;
         SELECT pg_catalog.set_config('search_path', '', false)",
        patience(limit)
    );
    session.batch_execute(&settings).await.map_err(|error| failed(error.into()))?;
    if let Err(error) = session.batch_execute("SET session_replication_role = replica").await {
        const TOLD: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_event_trigger
             WHERE evtname LIKE 'irongate%' AND evtenabled IN ('O', 'A'))";
        let is_told: bool = session
            .query_one(TOLD, &[])
            .await
            .and_then(|row| row.try_get(0))
            .map_err(|e| failed(e.into()))?;
        if is_told {
            return Err(failed(error.into()));
        }
    }
    Ok(session)
}

async fn run(session: &Session, entry: &Entry, sql: &str, target: &End<'_>) -> Result<(), Error> {
    let Err(error) = session.batch_execute(sql).await else { return Ok(()) };
    let error = irongate_postgres::Error::from(error);
    if error.is_transient() {
        return Err(target.failed(&format!("make {}", entry.title()), error));
    }
    let remedy = match error.code() {
        // It is there already: a schema, a table, a function, or anything else.
        Some("42P06" | "42P07" | "42723" | "42710") => {
            "empty the target of it, or bring it to what the source has and leave --with-schema out"
        }
        Some("42501") => {
            "the administrator of the target lacks the right; --no-owner makes him the owner of everything"
        }
        _ => "mend it at the target or at the source, and run it again: what is made stays",
    };
    Err(Error::Schema {
        end: target.to_string(),
        reasons: vec![format!("{}: {error}", entry.title())],
        remedy: remedy.to_owned(),
    })
}

impl Load<'_> {
    /// Makes the structure that stands before the rows, where it was asked for, and gives Replicat its rights.
    pub(super) async fn make_schema(&self, progress: &mut Report<'_>) -> Result<Option<Schema>, Error> {
        let Some(how) = &self.options.with_schema else { return Ok(None) };
        let schema = Schema::plan(self.configuration, self.flow, how, self.limit()).await?;
        schema.tell(progress);
        schema.make(self.flow, &self.target, self.limit()).await?;
        progress(Event::Note(format!(
            "{} objects made at \"{}\", {} more behind the rows",
            schema.before.iter().filter(|entry| !is_about_rights(entry)).count(),
            self.target,
            schema.behind.len()
        )));
        let mut sessions = Sessions::new(self.configuration);
        for statement in setup::plan(self.configuration, &[self.flow]).await? {
            let is_here = statement.site == self.target.site && statement.database == self.target.database;
            if is_here && statement.connection != As::Extract {
                progress(Event::Statement(&statement));
                sessions.run(&statement).await?;
            }
        }
        Ok(Some(schema))
    }

    /// Refuses a structure that has changed until the snapshot was taken.
    pub(super) async fn same_schema(&self, schema: &Schema, snapshot: &str) -> Result<(), Error> {
        let now = schema.program.dump(&self.source, &schema.how, Some(snapshot), self.limit()).await?;
        let (now, _) = carried(now, &own_roles(self.configuration));
        let pairs = |dump: &Dump| -> BTreeSet<(String, String)> {
            let all = dump.before.iter().chain(&dump.behind);
            all.map(|entry| (entry.title(), entry.substance())).collect()
        };
        let (made, now) = (pairs(&schema.dump), pairs(&now));
        let mut changed: Vec<String> =
            made.symmetric_difference(&now).map(|(title, _)| title.clone()).collect();
        changed.dedup();
        if changed.is_empty() {
            return Ok(());
        }
        Err(Error::Schema {
            end: self.source.to_string(),
            reasons: changed.into_iter().map(|title| format!("{title} was changed just now")).collect(),
            remedy: "empty the target of what was made, and run it again when nobody changes the structure"
                .to_owned(),
        })
    }

    /// Makes the structure that stands behind the rows, as far as the ledger has it and it is not there.
    ///
    /// Where tables begin later than the stream, the rows of one do not fit those of another until Replicat has caught up:
    /// then foreign keys are made without a look at the rows.
    pub(super) async fn behind_the_rows(
        &self,
        claims: &Claims,
        is_later: bool,
        progress: &mut Report<'_>,
    ) -> Result<(), Error> {
        let ledger = SchemaLedger::new(&self.flow.name);
        let failed = |error: tokio_postgres::Error| self.target.failed("keep the ledger of the load", error);
        let lines = ledger.lines(&claims.target).await.map_err(failed)?;
        let pending: Vec<Line> = lines.into_iter().filter(|line| !line.done).collect();
        if pending.is_empty() {
            return Ok(());
        }
        let session = session(self.flow, &self.target, self.limit()).await?;
        let all = pending.len();
        let mut unchecked = Vec::new();
        for (number, line) in pending.iter().enumerate() {
            let entry = &line.entry;
            progress(Event::Note(format!("making {} ({} of {all})", entry.title(), number + 1)));
            let sql = if is_later && entry.is_foreign_key() {
                unchecked.push(entry.title());
                entry.unchecked()
            } else {
                entry.sql.clone()
            };
            session.batch_execute("BEGIN").await.map_err(failed)?;
            let work = async {
                run(&session, entry, &sql, &self.target).await?;
                ledger.made(&session, entry).await.map_err(failed)?;
                session.batch_execute("COMMIT").await.map_err(failed)
            };
            if let Err(error) = work.await {
                let _ = session.batch_execute("ROLLBACK").await;
                return Err(error);
            }
        }
        if !unchecked.is_empty() {
            progress(Event::Note(format!(
                "made without a look at the rows, because tables begin at different moments: {}. ALTER TABLE ... VALIDATE \
                 CONSTRAINT looks, when Replicat has caught up",
                unchecked.join(", ")
            )));
        }
        Ok(())
    }
}
