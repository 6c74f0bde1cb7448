//! Fences: keeping the applications out of a database, and letting them in again with exactly what they had.
//!
//! No single layer holds (an owner can grant himself a right again, a session outlives its role's LOGIN, a setting can be
//! set back by the session), so a fence is all of them: rights to write, taken from everybody but Irongate's own roles,
//! owners included; CONNECT and LOGIN of the applications' roles; their sessions; and transactions that had written
//! before, which are waited for, prepared ones too. Then it is tried: a fence stands when a write as the application's role
//! has been refused.
//!
//! What is taken away is saved in the database itself, by the transaction that takes it. So after any cut there is either
//! no fence, or a fence and everything that is needed to open it. Behind a fence that is closed again (such as one that
//! a grant has made a hole in), what is newly found is added to what is saved.

mod proof;
mod saved;
mod writers;

use std::time::{Duration, Instant};

use irongate_checkpoint::Role;
use irongate_deployment::Configuration;
use serde::Serialize;
use tokio_postgres::error::SqlState;

use crate::error::Error;
use crate::place::Place;
pub use saved::{Object, Right, Saved, Trigger};

/// Where a fence keeps what it has taken away. One row, for there is one fence.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS irongate.fence (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    since timestamptz NOT NULL DEFAULT now(),
    run text,
    standby boolean NOT NULL,
    saved text NOT NULL
)";

/// How a fence is to be closed.
#[derive(Clone, Debug)]
pub struct Close {
    /// The site is a standby from now on: triggers that fire for applications are disabled as well, so that those that
    /// fire always do not act on what Replicat writes.
    pub standby: bool,
    /// Longest wait for transactions that had written before.
    pub writers: Duration,
    /// Longest wait for a lock.
    pub locks: Duration,
    /// The run that closes it, for whoever looks.
    pub run: Option<String>,
}

impl Default for Close {
    fn default() -> Self {
        Self { standby: true, writers: Duration::from_secs(30), locks: Duration::from_secs(5), run: None }
    }
}

/// What shows that a fence stands.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Closed {
    /// The database and its site.
    pub database: String,
    /// Rights that were taken away now.
    pub rights: usize,
    /// Roles that may not log in from now on.
    pub logins: usize,
    /// Triggers that were disabled now.
    pub triggers: usize,
    /// Sessions that were ended.
    pub sessions: u64,
    /// Writes that were tried as an application's role, and refused.
    pub refused_writes: usize,
    /// How long it took.
    pub seconds: f64,
}

/// What shows that a site is open.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Opened {
    /// The database and its site.
    pub database: String,
    /// Rights that were given back.
    pub rights: usize,
    /// Roles that may log in again.
    pub logins: usize,
    /// Triggers that fire again.
    pub triggers: usize,
    /// Writes that were tried as an application's role, rolled back, and had succeeded.
    pub accepted_writes: usize,
    /// How long it took.
    pub seconds: f64,
}

/// Whether a fence stands, since when, and by which run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Standing {
    /// When it was closed first, as the server prints it.
    pub since: String,
    /// The run that closed it.
    pub run: Option<String>,
    /// Triggers are disabled too.
    pub standby: bool,
}

/// Refuses a place whose server lacks a role of the applications.
///
/// # Errors
/// [`Error::NoRole`], [`Error::Database`].
pub async fn roles_exist(place: &Place) -> Result<(), Error> {
    proof::roles_exist(place).await
}

/// Shows again that a fence stands and holds.
///
/// # Errors
/// [`Error::Reopened`], [`Error::Leaks`], [`Error::Database`].
pub async fn still_closed(place: &Place) -> Result<(), Error> {
    if standing(place).await?.is_none() {
        return Err(Error::Reopened { end: place.to_string() });
    }
    proof::closed(place).await.map(drop)
}

/// What is known of a database's fence.
///
/// # Errors
/// [`Error::Database`].
pub async fn standing(place: &Place) -> Result<Option<Standing>, Error> {
    let failed = || place.failed("look for a fence");
    let row = match place.session.query_opt("SELECT since::text, run, standby FROM irongate.fence", &[]).await
    {
        Err(error) if is_missing(&error) => return Ok(None),
        row => row.map_err(failed())?,
    };
    row.map(|row| Ok(Standing { since: row.try_get(0)?, run: row.try_get(1)?, standby: row.try_get(2)? }))
        .transpose()
        .map_err(failed())
}

/// Whether the table or its schema is not there.
fn is_missing(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME))
}

/// Closes the fence of a database, and shows that it stands. Safe to repeat.
///
/// # Errors
/// [`Error::NoRole`] for an application's role that the server does not have; [`Error::Leaks`] when somebody can still
/// write; [`Error::Writers`]; [`Error::NotSetUp`], [`Error::Saved`], [`Error::Database`]. After an error behind the
/// taking the fence is closed as far as the message does not say otherwise; [`open`] takes it back.
///
/// Not cancel-safe: call it again.
pub async fn close(place: &Place, how: &Close) -> Result<Closed, Error> {
    let begun = Instant::now();
    proof::roles_exist(place).await?;
    let before = Saved::read(place, how.standby).await?;
    take(place, how, &before).await?;
    let sessions = writers::end(place, how.writers).await?;
    writers::wait(place, how.writers).await?;
    disable(place, how, &before).await?;
    let refused_writes = proof::closed(place).await?;
    Ok(Closed {
        database: place.to_string(),
        rights: before.rights.len(),
        logins: if place.keep_login { 0 } else { before.logins.len() },
        triggers: before.triggers.len(),
        sessions,
        refused_writes,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// Saves and takes away, in one transaction.
async fn take(place: &Place, how: &Close, found: &Saved) -> Result<(), Error> {
    let failed = || place.failed("take away the rights");
    let session = &place.session;
    session.batch_execute(TABLE).await.map_err(|error| {
        if is_missing(&error) { Error::NotSetUp { end: place.to_string() } } else { failed()(error) }
    })?;
    let begin = format!("BEGIN; SET LOCAL lock_timeout = {}; LOCK irongate.fence", how.locks.as_millis());
    session.batch_execute(&begin).await.map_err(failed())?;
    let taken = async {
        let (mut all, standby) = load(place).await?.unwrap_or_default();
        let mut found = found.clone();
        if place.keep_login {
            // What an earlier fence took stays saved.
            found.logins.clear();
        }
        all.extend(found.clone());
        let text = serde_json::to_string(&all).map_err(|error| unreadable(place, &error))?;
        const SAVE: &str = "INSERT INTO irongate.fence (run, standby, saved) VALUES ($1, $2, $3)
             ON CONFLICT (one) DO UPDATE SET standby = excluded.standby, saved = excluded.saved,
                 run = coalesce(excluded.run, fence.run)";
        session.execute(SAVE, &[&how.run, &(how.standby || standby), &text]).await.map_err(failed())?;
        let database = database_name(place).await?;
        session.batch_execute(&found.taking(place, &database).join(";\n")).await.map_err(failed())?;
        session.batch_execute("COMMIT").await.map_err(failed())
    };
    let taken = taken.await;
    if taken.is_err() {
        // An error that is not the server's own leaves the transaction open.
        let _ = session.batch_execute("ROLLBACK").await;
    }
    taken
}

/// Disables the triggers, which are saved already.
async fn disable(place: &Place, how: &Close, found: &Saved) -> Result<(), Error> {
    if found.triggers.is_empty() {
        return Ok(());
    }
    let begin = format!("BEGIN; SET LOCAL lock_timeout = {}", how.locks.as_millis());
    let sql = format!("{begin}; {}; COMMIT", found.disabling().join("; "));
    let done = place.session.batch_execute(&sql).await;
    if done.is_err() {
        let _ = place.session.batch_execute("ROLLBACK").await;
    }
    done.map_err(place.failed("disable the triggers"))
}

/// Opens the fence: everything that was taken away is given back in one transaction, compared with what was saved, and
/// tried by a write as each application's role. Without a fence nothing is done.
///
/// # Errors
/// [`Error::NotRestored`], and then nothing was given back; [`Error::StillClosed`], when everything is as it was and an
/// application cannot write nevertheless; [`Error::Saved`], [`Error::Database`].
///
/// Not cancel-safe: call it again.
pub async fn open(place: &Place, locks: Duration) -> Result<Option<Opened>, Error> {
    let begun = Instant::now();
    if standing(place).await?.is_none() {
        return Ok(None);
    }
    let failed = || place.failed("give the rights back");
    let session = &place.session;
    let begin = format!("BEGIN; SET LOCAL lock_timeout = {}; LOCK irongate.fence", locks.as_millis());
    session.batch_execute(&begin).await.map_err(failed())?;
    let given = async {
        let Some((saved, standby)) = load(place).await? else { return Ok(None) };
        let saved = drop_what_is_gone(place, saved).await?;
        let database = database_name(place).await?;
        session.batch_execute(&saved.giving(&database).join(";\n")).await.map_err(failed())?;
        let now = Saved::read(place, standby).await?;
        let lacking = lacking(&saved, &now);
        if !lacking.is_empty() {
            return Err(Error::NotRestored { end: place.to_string(), lacking });
        }
        session.batch_execute("DELETE FROM irongate.fence; COMMIT").await.map_err(failed())?;
        Ok(Some(saved))
    };
    let given = given.await;
    if !matches!(given, Ok(Some(_))) {
        let _ = session.batch_execute("ROLLBACK").await;
    }
    let Some(saved) = given? else { return Ok(None) };
    let accepted_writes = proof::open(place, &saved).await?;
    Ok(Some(Opened {
        database: place.to_string(),
        rights: saved.rights.len(),
        logins: saved.logins.len(),
        triggers: saved.triggers.len(),
        accepted_writes,
        seconds: begun.elapsed().as_secs_f64(),
    }))
}

/// Makes sure that no other site of a database is open, as far as fences tell: what comes after [`open`] by hand would be
/// two sites that write.
///
/// # Errors
/// [`Error::OtherIsOpen`], also for a site that cannot be asked; [`Error::Deployment`].
pub async fn others_are_closed(configuration: &Configuration, place: &Place) -> Result<(), Error> {
    let role = Role::load(&place.session).await.map_err(irongate_deployment::Error::from)?;
    if let Some(role) = role {
        let reason = match &role.run {
            Some(holder) => format!("run \"{}\" of {} has it in hand", holder.run, holder.holder),
            None if role.live != place.site => format!("site \"{}\" writes it", role.live),
            None => String::new(),
        };
        if !reason.is_empty() {
            return Err(Error::NotByHand { end: place.to_string(), reason });
        }
    }
    let sites = configuration.databases.get(&place.database).into_iter().flat_map(|sites| sites.keys());
    for site in sites.filter(|site| **site != place.site) {
        let asked = async { standing(&Place::connect(configuration, &place.database, site).await?).await };
        let reason = match asked.await {
            Ok(Some(_)) => continue,
            Ok(None) => "has no fence".to_owned(),
            Err(error) => format!("cannot be asked whether it has a fence: {error}"),
        };
        let other = format!("{}.{site}", place.database);
        return Err(Error::OtherIsOpen { end: place.to_string(), other, reason });
    }
    Ok(())
}

/// What is saved, and whether for a standby.
async fn load(place: &Place) -> Result<Option<(Saved, bool)>, Error> {
    let failed = || place.failed("read what the fence has saved");
    let row =
        place.session.query_opt("SELECT saved, standby FROM irongate.fence", &[]).await.map_err(failed())?;
    let Some(row) = row else { return Ok(None) };
    let text: String = row.try_get(0).map_err(failed())?;
    let saved = serde_json::from_str(&text).map_err(|error| unreadable(place, &error))?;
    Ok(Some((saved, row.try_get(1).map_err(failed())?)))
}

fn unreadable(place: &Place, error: &serde_json::Error) -> Error {
    Error::Saved { end: place.to_string(), reason: error.to_string() }
}

async fn database_name(place: &Place) -> Result<String, Error> {
    let row = place.session.query_one("SELECT pg_catalog.current_database()::text", &[]).await;
    row.and_then(|row| row.try_get(0)).map_err(place.failed("ask for the database's name"))
}

/// Leaves out what has been dropped since: there is nothing that a right could be given to.
async fn drop_what_is_gone(place: &Place, mut saved: Saved) -> Result<Saved, Error> {
    let failed = || place.failed("look for what has been dropped");
    let names = |rows: Vec<tokio_postgres::Row>| -> Result<std::collections::BTreeSet<String>, tokio_postgres::Error> {
        rows.iter().map(|row| row.try_get(0)).collect()
    };
    const ROLES: &str = "SELECT rolname::text FROM pg_catalog.pg_roles";
    let roles = place.session.query(ROLES, &[]).await.and_then(names).map_err(failed())?;
    const OBJECTS: &str = "SELECT pg_catalog.format('%s.%s', n.nspname, c.relname) FROM pg_catalog.pg_class c
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        UNION ALL SELECT pg_catalog.format('%s.%s column %s', n.nspname, c.relname, a.attname)
          FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE NOT a.attisdropped
        UNION ALL SELECT pg_catalog.format('%s.%s trigger %s', n.nspname, c.relname, t.tgname)
          FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace";
    let objects = place.session.query(OBJECTS, &[]).await.and_then(names).map_err(failed())?;
    saved.rights.retain(|right| {
        let there = match &right.object {
            Object::Table { schema, name } | Object::Sequence { schema, name } => {
                objects.contains(&format!("{schema}.{name}"))
            }
            Object::Column { schema, name, column } => {
                objects.contains(&format!("{schema}.{name} column {column}"))
            }
            Object::Database => true,
        };
        there
            && roles.contains(&right.grantor)
            && right.grantee.as_ref().is_none_or(|role| roles.contains(role))
    });
    saved.logins.retain(|role| roles.contains(role));
    saved.triggers.retain(|trigger| {
        objects.contains(&format!("{}.{} trigger {}", trigger.schema, trigger.table, trigger.name))
    });
    Ok(saved)
}

/// What of `saved` is not there `now`, and what is there besides. Rights to columns may have come with those to tables.
fn lacking(saved: &Saved, now: &Saved) -> Vec<String> {
    let mut lacking: Vec<String> =
        saved.rights.difference(&now.rights).map(|right| format!("{right} is lacking")).collect();
    // What was made behind the fence has rights of its own, which nobody took.
    let known = |object: &Object| saved.rights.iter().any(|right| right.object == *object);
    let more = now.rights.difference(&saved.rights).filter(|right| known(&right.object));
    lacking.extend(more.map(|right| format!("{right} is new")));
    lacking.extend(saved.logins.difference(&now.logins).map(|role| format!("LOGIN of {role} is lacking")));
    lacking.extend(saved.triggers.difference(&now.triggers).map(|trigger| {
        format!("trigger {} of {}.{} is lacking", trigger.name, trigger.schema, trigger.table)
    }));
    lacking
}
