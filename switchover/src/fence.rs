//! Fences: keeping the applications out of a database, and letting them in again with exactly what they had.
//!
//! No single layer holds (an owner can grant himself a right again, a session outlives its role's LOGIN, a setting can be
//! set back by the session), so a fence is all of them: rights to write, taken from everybody but Irongate's own roles,
//! owners included; CONNECT and LOGIN of the applications' roles; their sessions; and transactions that had written
//! before, which are waited for, prepared ones too. Then it is tried: a fence stands when a write as the application's role
//! has been refused.
//!
//! CONNECT is taken from everybody, not from the applications' roles alone: whoever is a member of a table's owner could
//! give himself every right back, and who cannot come in cannot. Sessions of such roles are ended too.
//!
//! What is taken away is saved in the database itself, by the transaction that takes it. So after any cut there is either
//! no fence, or a fence and everything that is needed to open it. Behind a fence that is closed again (such as one that
//! a grant has made a hole in), what is newly found is added to what is saved. What is renamed behind a fence is found
//! again by its OID.
//!
//! Whether the administrator can do all that is asked before anything is taken. Irongate's own roles have the same rights
//! before and behind a fence, by whomever they got them.

mod administrator;
mod blockers;
mod follow;
mod live;
mod neighbours;
mod own;
mod proof;
mod saved;
mod writers;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use irongate_postgres::Session;
use irongate_trail::Timestamp;
use serde::Serialize;
use tokio_postgres::error::SqlState;

use crate::error::Error;
use crate::place::Place;
use follow::Followed;
pub use live::{counts, is_live, others_are_closed, spare_the_live};
use neighbours::Neighbours;
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
    /// Rights of Irongate's own roles that hung on those, and are lent to them directly as long as the fence stands.
    pub lent: usize,
    /// Roles that may not log in from now on.
    pub logins: usize,
    /// Triggers that were disabled now.
    pub triggers: usize,
    /// Sessions that were ended.
    pub sessions: u64,
    /// Writes that were tried as an application's role, and refused.
    pub refused_writes: usize,
    /// When the rights were taken, in microseconds since 2000-01-01 00:00 UTC by this machine's clock.
    pub at: i64,
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
    /// What had another name than before, and got back what was its own.
    pub renamed: Vec<String>,
    /// What is gone, and with it the rights to it.
    pub gone: Vec<String>,
    /// When the rights were given back, in microseconds since 2000-01-01 00:00 UTC by this machine's clock.
    pub at: i64,
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

/// What would keep a fence from being closed or from holding, as far as it shows before: rights that the administrator
/// lacks, roles and functions that no fence can hold back.
///
/// # Errors
/// [`Error::Database`], [`Error::Saved`].
pub async fn foreseen(place: &Place) -> Result<Vec<String>, Error> {
    let found = Found::at(place, true).await?;
    let mut foreseen = found.administrator_lacks(place).await?;
    foreseen.extend(proof::leaks_by_nature(place).await?);
    Ok(foreseen)
}

/// What a fence would take now: behind one that stands, what has come since.
///
/// # Errors
/// [`Error::Database`], [`Error::Saved`].
pub async fn rest(place: &Place) -> Result<Saved, Error> {
    let Found { mut saved, logins, .. } = Found::at(place, false).await?;
    saved.logins = logins;
    Ok(saved)
}

/// What a fence has saved, under the names that things have now; none without a fence.
///
/// # Errors
/// [`Error::Database`], [`Error::Saved`].
pub async fn kept(place: &Place) -> Result<Option<Saved>, Error> {
    match standing(place).await? {
        None => Ok(None),
        Some(_) => match load(place).await? {
            None => Ok(None),
            Some((saved, _)) => Ok(Some(follow::follow(place, saved).await?.saved)),
        },
    }
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
pub(crate) fn is_missing(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME))
}

/// Closes the fence of a database, and shows that it stands. Safe to repeat.
///
/// # Errors
/// [`Error::NoRole`] for an application's role that the server does not have; [`Error::Administrator`] when it cannot be
/// closed as this administrator; [`Error::NotSetUp`]: then nothing was taken. [`Error::Leaks`] when somebody can still
/// write; [`Error::Writers`]; [`Error::Saved`], [`Error::Database`]. After an error behind the
/// taking the fence is closed as far as the message does not say otherwise; [`open`] takes it back.
///
/// Not cancel-safe: call it again.
pub async fn close(place: &Place, how: &Close) -> Result<Closed, Error> {
    let begun = Instant::now();
    proof::roles_exist(place).await?;
    let found = Found::at(place, how.standby).await?;
    let lacks = found.administrator_lacks(place).await?;
    if !lacks.is_empty() {
        return Err(Error::Administrator { end: place.to_string(), lacks });
    }
    let (lent, at) = take(place, how, &found).await?;
    let sessions = writers::end(place, how.writers).await?;
    writers::wait(place, how.writers).await?;
    disable(place, how, &found.saved).await?;
    let refused_writes = proof::closed(place).await?;
    Ok(Closed {
        database: place.to_string(),
        rights: found.saved.rights.len(),
        lent,
        logins: found.logins.len(),
        triggers: found.saved.triggers.len(),
        sessions,
        refused_writes,
        at,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// What there is to be taken.
struct Found {
    /// What is to be given back one day.
    saved: Saved,
    /// Roles whose LOGIN is to be taken now; saved are all that had it.
    logins: BTreeSet<String>,
}

impl Found {
    async fn at(place: &Place, with_triggers: bool) -> Result<Self, Error> {
        let mut saved = Saved::read(place, with_triggers).await?;
        let superusers = superusers(place).await.map_err(place.failed("look for superusers"))?;
        // They need no right, and nobody but a superuser could take it.
        saved.rights.retain(|right| right.grantee.as_ref().is_none_or(|role| !superusers.contains(role)));
        let neighbours = neighbours::look(place).await?;
        let may_keep = |role: &&String| place.keep_login || neighbours.open.contains(*role);
        let logins = saved.logins.iter().filter(|role| !may_keep(role)).cloned().collect();
        saved.logins.extend(neighbours.saved);
        Ok(Self { saved, logins })
    }

    async fn administrator_lacks(&self, place: &Place) -> Result<Vec<String>, Error> {
        let own =
            saved::rights(place, true).await.map_err(place.failed("read what Irongate's roles may do"))?;
        let logins: Vec<String> = self.logins.iter().cloned().collect();
        // Rights of our own that would fall are given back in the name of who gave them.
        let givers = saved::givers(self.saved.rights.iter().chain(&own));
        administrator::lacks(place, &self.saved, &logins, givers).await
    }
}

async fn superusers(place: &Place) -> Result<BTreeSet<String>, tokio_postgres::Error> {
    const SQL: &str = "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolsuper";
    place.session.query(SQL, &[]).await?.iter().map(|row| row.try_get(0)).collect()
}

/// Saves and takes away, in one transaction. How many rights of Irongate's own roles would have been lost by that, and when
/// it was committed, at the earliest.
async fn take(place: &Place, how: &Close, found: &Found) -> Result<(usize, i64), Error> {
    let failed = || place.failed("take away the rights");
    let session = &place.session;
    session.batch_execute(TABLE).await.map_err(|error| {
        if is_missing(&error) { Error::NotSetUp { end: place.to_string() } } else { failed()(error) }
    })?;
    lock(place, how.locks).await?;
    let taken = async {
        let (before, standby) = load(place).await?.unwrap_or_default();
        let mut all = follow::follow(place, before).await?.saved;
        let database = database_name(place).await?;
        let direct = saved::rights(place, true).await.map_err(failed())?;
        let own = own::rights(place).await.map_err(failed())?;
        let taking = found.saved.taking(place, &database, &found.logins);
        session.batch_execute(&taking.join(";\n")).await.map_err(failed())?;
        let left = own::rights(place).await.map_err(failed())?;
        let mut found = found.saved.clone();
        let direct_left = saved::rights(place, true).await.map_err(failed())?;
        found.fallen = direct.difference(&direct_left).cloned().collect();
        found.lent = own.difference(&left).cloned().collect();
        session.batch_execute(&found.lending(&database).join(";\n")).await.map_err(failed())?;
        let lent = found.lent.len();
        all.extend(found);
        let text = serde_json::to_string(&all).map_err(|error| unreadable(place, &error))?;
        const SAVE: &str = "INSERT INTO irongate.fence (run, standby, saved) VALUES ($1, $2, $3)
             ON CONFLICT (one) DO UPDATE SET standby = excluded.standby, saved = excluded.saved,
                 run = fence.run";
        session.execute(SAVE, &[&how.run, &(how.standby || standby), &text]).await.map_err(failed())?;
        let at = Timestamp::now().0;
        session.batch_execute("COMMIT").await.map_err(failed())?;
        Ok((lent, at))
    };
    let taken = taken.await;
    if taken.is_err() {
        // An error that is not the server's own leaves the transaction open.
        let _ = session.batch_execute("ROLLBACK").await;
    }
    blockers::named(place, taken).await
}

/// Begins a transaction that is alone with the fence. Whoever only reads its table, as `pg_dump` does all the time that it is
/// at work, is in nobody's way.
async fn lock(place: &Place, locks: Duration) -> Result<(), Error> {
    let begin = format!(
        "BEGIN; SET LOCAL lock_timeout = {}; LOCK irongate.fence IN SHARE ROW EXCLUSIVE MODE",
        locks.as_millis()
    );
    let begun = place.session.batch_execute(&begin).await;
    let Err(error) = begun else { return Ok(()) };
    let _ = place.session.batch_execute("ROLLBACK").await;
    blockers::named(place, Err(place.failed("be alone with the fence")(error))).await
}

/// Disables the triggers, which are saved already.
async fn disable(place: &Place, how: &Close, found: &Saved) -> Result<(), Error> {
    if found.triggers.is_empty() {
        return Ok(());
    }
    let begin = format!("BEGIN; SET LOCAL lock_timeout = {}", how.locks.as_millis());
    let sql = format!("{begin}; {}; COMMIT", found.disabling().join("; "));
    let Err(error) = place.session.batch_execute(&sql).await else { return Ok(()) };
    let _ = place.session.batch_execute("ROLLBACK").await;
    blockers::named(place, Err(place.failed("disable the triggers")(error))).await
}

/// Opens the fence: everything that was taken away is given back in one transaction, compared with what was saved, and
/// tried by a write as each application's role. Without a fence nothing is done.
///
/// # Errors
/// [`Error::NotRestored`], and then nothing was given back; [`Error::StillClosed`] and [`Error::NoEntry`], when everything
/// is as it was and an application cannot write or log in nevertheless; [`Error::Saved`], [`Error::Database`].
///
/// Not cancel-safe: call it again.
pub async fn open(place: &Place, locks: Duration) -> Result<Option<Opened>, Error> {
    open_with(place, locks, std::future::ready(Ok(()))).await
}

/// The same, with something that the place's session does in the transaction that opens: either both are done or none.
/// Without a fence it is done alone.
pub(crate) async fn open_with(
    place: &Place,
    locks: Duration,
    with: impl Future<Output = Result<(), Error>>,
) -> Result<Option<Opened>, Error> {
    let begun = Instant::now();
    let mut with = std::pin::pin!(with);
    if standing(place).await?.is_none() {
        with.await?;
        return Ok(None);
    }
    let failed = || place.failed("give the rights back");
    let session = &place.session;
    lock(place, locks).await?;
    let given = async {
        let Neighbours { saved: elsewhere, .. } = neighbours::look(place).await?;
        let Some((saved, standby)) = load(place).await? else { return Ok(None) };
        let Followed { mut saved, renamed } = follow::follow(place, saved).await?;
        // LOGIN belongs to the server: whichever fence has taken it, its roles are to come in here.
        saved.logins.extend(elsewhere);
        let database = database_name(place).await?;
        session.batch_execute(&saved.giving(&database).join(";\n")).await.map_err(failed())?;
        let mut now = Saved::read(place, standby).await?;
        // Also of roles that the configuration does not name any more.
        now.logins = proof::logins(place, &saved).await?;
        now.fallen = saved::rights(place, true).await.map_err(failed())?;
        let lacking = lacking(&saved, &now);
        if !lacking.is_empty() {
            return Err(Error::NotRestored { end: place.to_string(), lacking });
        }
        with.as_mut().await?;
        session.batch_execute("DELETE FROM irongate.fence; COMMIT").await.map_err(failed())?;
        Ok(Some((saved, renamed, Timestamp::now().0)))
    };
    let given = given.await;
    if !matches!(given, Ok(Some(_))) {
        let _ = session.batch_execute("ROLLBACK").await;
    }
    let Some((saved, renamed, at)) = blockers::named(place, given).await? else {
        // Somebody has opened it in this moment.
        with.await?;
        return Ok(None);
    };
    let accepted_writes = proof::open(place, &saved).await?;
    Ok(Some(Opened {
        database: place.to_string(),
        rights: saved.rights.len(),
        logins: saved.logins.len(),
        triggers: saved.triggers.len(),
        accepted_writes,
        renamed: renamed.into_iter().collect(),
        gone: saved.gone.into_iter().collect(),
        at,
        seconds: begun.elapsed().as_secs_f64(),
    }))
}

/// What is saved, and whether for a standby.
async fn load(place: &Place) -> Result<Option<(Saved, bool)>, Error> {
    load_at(&place.session, place).await
}

/// The same of another database of the place's server; none where there is no table either.
async fn load_at(session: &Session, place: &Place) -> Result<Option<(Saved, bool)>, Error> {
    let failed = || place.failed("read what the fence has saved");
    let row = match session.query_opt("SELECT saved, standby FROM irongate.fence", &[]).await {
        Err(error) if is_missing(&error) => return Ok(None),
        row => row.map_err(failed())?,
    };
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

/// What of `saved` is not there `now`, and what is there besides. Rights to columns may have come with those to tables.
fn lacking(saved: &Saved, now: &Saved) -> Vec<String> {
    let mut lacking: Vec<String> =
        saved.rights.difference(&now.rights).map(|right| format!("{right} is lacking")).collect();
    lacking.extend(saved.fallen.difference(&now.fallen).map(|right| format!("{right} is lacking")));
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
