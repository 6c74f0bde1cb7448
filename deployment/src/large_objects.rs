//! Large objects, which are in no stream: compared and copied when somebody asks for it.
//!
//! PostgreSQL decodes no change of `pg_largeobject` (manual, "Logical Replication Restrictions"). So what the target has of
//! them is as old as the last copy. A table's row that names an object by its OID finds it at the target under the same
//! one.
//!
//! Both sides are read under one snapshot each, page by page in the order of OIDs. What both have is hashed by the servers,
//! in pieces; only what differs travels, in pieces too, an object or some small ones in one transaction. So a copy that is
//! cut off has whole objects, and the next one goes on with the others.

mod diff;
mod side;
mod walk;
mod writer;

use std::time::{Duration, Instant};

use irongate_postgres::Session;
use serde::Serialize;

use crate::configuration::{Configuration, Flow};
use crate::end::{End, refuse_own_source};
use crate::error::Error;
use crate::instantiate::refuse_writer;
use diff::{Content, Described, Pair, Task, Write};
use walk::Walk;
use writer::Writer;

/// The name under which the sessions are shown.
const APPLICATION: &str = "irongate large objects";

/// How long a lock is waited for, such as that of somebody who alters an object.
const LOCK_LIMIT: Duration = Duration::from_secs(60);

/// What large objects are compared or copied for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LargeObjects {
    /// Owners, rights and comments as well.
    pub attributes: bool,
    /// Removes what only the target has.
    pub delete: bool,
    /// So many differences and troubles are described; all of them are counted.
    pub most: usize,
}

impl Default for LargeObjects {
    fn default() -> Self {
        Self { attributes: true, delete: false, most: 100 }
    }
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Progress {
    /// Objects of the source.
    pub source: u64,
    /// Objects of the target.
    pub target: u64,
    /// OIDs that were looked at, of either side.
    pub compared: u64,
    /// Bytes of either side that were hashed.
    pub compared_bytes: u64,
    /// Objects whose content was copied.
    pub written: u64,
    /// Bytes that were copied.
    pub written_bytes: u64,
}

/// Takes note of [`Progress`].
pub type Listener<'a> = dyn FnMut(&Progress) + Send + 'a;

/// An object that is not the same at both sides.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DifferentObject {
    /// Its OID.
    pub oid: u32,
    /// What is different: `missing at target`, `missing at source`, or some of `content`, `owner`, `rights`, `comment`.
    pub different: Vec<&'static str>,
    /// Its size at the source, if it is there and may be read.
    pub source_bytes: Option<i64>,
    /// Its size at the target.
    pub target_bytes: Option<i64>,
}

/// An object that could not be compared or copied, or not all of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Trouble {
    /// Its OID.
    pub oid: u32,
    /// The database and its site.
    pub end: String,
    /// What is wrong there.
    pub reason: String,
    /// A statement or a word about what mends it.
    pub fix: String,
}

/// What a compare has found.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Compared {
    /// Objects of the source.
    pub source_objects: u64,
    /// Objects of the target.
    pub target_objects: u64,
    /// Bytes of those of the source that may be read.
    pub source_bytes: u64,
    /// The same of the target.
    pub target_bytes: u64,
    /// Objects that are not the same, whatever it is.
    pub differences: u64,
    /// Objects that only the source has.
    pub missing_at_target: u64,
    /// Objects that only the target has.
    pub missing_at_source: u64,
    /// Objects with another content.
    pub different: u64,
    /// Objects with another owner, other rights or another comment, and the same content.
    pub attributes: u64,
    /// Objects whose content could not be compared.
    pub not_compared: u64,
    /// The first of the differences.
    pub shown: Vec<DifferentObject>,
    /// The first of those that could not be compared.
    pub troubles: Vec<Trouble>,
}

/// What a copy has done, or would do.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Copied {
    /// Objects that the target did not have.
    pub created: u64,
    /// Objects that it had with another content.
    pub replaced: u64,
    /// Objects that have got another owner, rights or comment, and no other content.
    pub attributes: u64,
    /// Objects that only the target had, and which are gone.
    pub deleted: u64,
    /// Objects that were the same.
    pub same: u64,
    /// Objects that only the target has, and which stay.
    pub only_at_target: u64,
    /// Objects that are not, or not wholly, what they are at the source.
    pub failed: u64,
    /// Bytes that were copied.
    pub bytes: u64,
    /// The first of those that failed.
    pub troubles: Vec<Trouble>,
}

/// How many large objects a database has. Anybody may ask.
pub(crate) async fn count(session: &Session) -> Result<u64, irongate_postgres::Error> {
    const SQL: &str = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata";
    let count: i64 = session.query_one(SQL, &[]).await?.try_get(0)?;
    Ok(count.unsigned_abs())
}

/// Compares the large objects of a flow's database at both sites. Writes nothing.
///
/// Uses the administrators where they have an address, else Extract's and Replicat's own roles.
///
/// # Errors
/// [`Error::Database`], [`Error::OwnSource`]. An object that may not be read is no error, but a [`Trouble`].
///
/// Cancel-safe.
pub async fn compare_large_objects(
    configuration: &Configuration,
    flow: &Flow,
    options: LargeObjects,
    tell: &mut Listener<'_>,
) -> Result<Compared, Error> {
    let mut walk = begin(configuration, flow).await?;
    let mut found = Compared {
        source_objects: walk.progress.source,
        target_objects: walk.progress.target,
        ..Compared::default()
    };
    while let Some(pairs) = walk.page(tell).await? {
        for pair in pairs {
            found.take(&pair, &walk, options);
        }
    }
    Ok(found)
}

/// Makes the large objects of a flow's target what they are at its source at the moment of the call: content, and owner,
/// rights and comment. Equal ones are left alone, so it can be called again. With `dry_run`, it is only told what would be
/// done.
///
/// In a database that both sites write, only what the target lacks is copied: one OID can mean two different objects there.
///
/// # Errors
/// [`Error::TargetWrites`]; [`Error::LargeObjectsOfBoth`] for `delete` in a database that both sites write; [`Error::LargeObject`],
/// [`Error::Database`], [`Error::OwnSource`]; [`Error::Checkpoint`] for an origin that cannot be used, since a repair or
/// another copy has it. What was copied before stays.
///
/// Cancel-safe: what is not committed is rolled back, and the next call goes on.
pub async fn copy_large_objects(
    configuration: &Configuration,
    flow: &Flow,
    options: LargeObjects,
    dry_run: bool,
    tell: &mut Listener<'_>,
) -> Result<Copied, Error> {
    let is_two_way = !configuration.active_passive().contains(&flow.database.as_str());
    if is_two_way && options.delete {
        return Err(Error::LargeObjectsOfBoth { database: flow.database.clone() });
    }
    let mut walk = begin(configuration, flow).await?;
    refuse_writer(&walk.target.end, &walk.target.session, configuration, flow).await?;
    let writer = if dry_run { None } else { Some(Writer::open(walk.target.end, flow).await?) };
    let mut copied = Copied::default();
    while let Some(pairs) = walk.page(tell).await? {
        let (mut tasks, mut removed) = (Vec::new(), Vec::new());
        for pair in &pairs {
            match copied.judge(pair, &walk, options, is_two_way) {
                Some(Step::Write(task)) => tasks.push(task),
                Some(Step::Remove) => removed.push(pair.oid),
                None => {}
            }
        }
        copied.bytes += tasks.iter().map(|task| task.size.unsigned_abs()).sum::<u64>();
        let Some(writer) = &writer else { continue };
        for together in diff::transactions(tasks, writer::AT_ONCE) {
            let unset = writer.write(&walk.source, &together, &mut walk.progress, tell).await?;
            for unset in unset {
                copied.trouble(options, || unset_trouble(&unset, &walk.target.end, &writer.role));
                // It counts once.
                let task = together.iter().find(|task| task.oid == unset.oid);
                if task.is_some_and(|task| task.write == Write::Keep) {
                    copied.attributes -= 1;
                }
            }
        }
        writer.remove(&removed).await?;
    }
    if let Some(writer) = writer {
        writer.close().await?;
    }
    Ok(copied)
}

async fn begin<'a>(configuration: &'a Configuration, flow: &'a Flow) -> Result<Walk<'a>, Error> {
    let (source, target) = (End::source(configuration, flow)?, End::target(configuration, flow)?);
    let walk = Walk::begin(source, target).await?;
    refuse_own_source(flow, (&source, &walk.source.session), (&target, &walk.target.session)).await?;
    Ok(walk)
}

/// What is done about one object.
enum Step {
    Write(Task),
    Remove,
}

impl Compared {
    fn take(&mut self, pair: &Pair, walk: &Walk<'_>, options: LargeObjects) {
        let size = |one: &Option<Described>| one.as_ref().and_then(|one| one.size);
        self.source_bytes += size(&pair.source).unwrap_or_default().unsigned_abs();
        self.target_bytes += size(&pair.target).unwrap_or_default().unsigned_abs();
        let mut different = Vec::new();
        match (&pair.source, &pair.target) {
            (Some(_), None) => {
                self.missing_at_target += 1;
                different.push("missing at target");
            }
            (None, _) => {
                self.missing_at_source += 1;
                different.push("missing at source");
            }
            (Some(source), Some(target)) => {
                if pair.content == Content::Different {
                    self.different += 1;
                    different.push("content");
                }
                let others = if options.attributes { diff::attributes(source, target) } else { Vec::new() };
                if pair.content != Content::Different && !others.is_empty() {
                    self.attributes += 1;
                }
                different.extend(others);
            }
        }
        if pair.content == Content::Unread {
            self.not_compared += 1;
            if self.troubles.len() < options.most {
                self.troubles.extend(unread(pair, walk));
            }
        }
        if !different.is_empty() {
            self.differences += 1;
            if self.shown.len() < options.most {
                let (source_bytes, target_bytes) = (size(&pair.source), size(&pair.target));
                self.shown.push(DifferentObject { oid: pair.oid, different, source_bytes, target_bytes });
            }
        }
    }
}

impl Copied {
    fn trouble(&mut self, options: LargeObjects, trouble: impl FnOnce() -> Trouble) {
        self.failed += 1;
        if self.troubles.len() < options.most {
            self.troubles.push(trouble());
        }
    }

    /// Decides what is done about an object, and counts it as done.
    fn judge(
        &mut self,
        pair: &Pair,
        walk: &Walk<'_>,
        options: LargeObjects,
        is_two_way: bool,
    ) -> Option<Step> {
        let (from, to) = (&walk.source, &walk.target);
        let (source, target) = match (&pair.source, &pair.target) {
            (Some(source), target) => (source, target),
            (None, Some(target)) if options.delete && target.may.own => {
                self.deleted += 1;
                return Some(Step::Remove);
            }
            (None, Some(target)) if options.delete => {
                let fix = format!("GRANT {} TO {}", quoted(&target.owner), quoted(&to.role));
                self.trouble(options, || no_right(pair.oid, (&to.end, &to.role), "remove", fix));
                return None;
            }
            (None, _) => {
                self.only_at_target += 1;
                return None;
            }
        };
        let write = match target {
            None => Write::Create,
            Some(_) if pair.content == Content::Same => Write::Keep,
            Some(_) => Write::Replace,
        };
        let statements = match target {
            _ if !options.attributes => Vec::new(),
            Some(target) => diff::statements(source, target),
            None => diff::statements(source, &diff::fresh(pair.oid, &to.role)),
        };
        if write == Write::Keep && statements.is_empty() {
            self.same += 1;
            return None;
        }
        if is_two_way && write != Write::Create {
            self.trouble(options, || Trouble {
                oid: pair.oid,
                end: to.end.to_string(),
                reason: "it is another one than at the source, and both sites write the database".to_owned(),
                fix: "find out which of the two is meant, and give the other one another OID".to_owned(),
            });
            return None;
        }
        if write != Write::Keep && !source.may.read {
            self.trouble(options, || may_not(pair.oid, (&from.end, &from.role), "read"));
            return None;
        }
        if write == Write::Replace && target.as_ref().is_some_and(|target| !target.may.write) {
            self.trouble(options, || may_not(pair.oid, (&to.end, &to.role), "write"));
            return None;
        }
        match write {
            Write::Create => self.created += 1,
            Write::Replace => self.replaced += 1,
            Write::Keep => self.attributes += 1,
        }
        let size = if write == Write::Keep { 0 } else { source.size.unwrap_or_default() };
        Some(Step::Write(Task { oid: pair.oid, write, size, statements }))
    }
}

fn quoted(name: &str) -> String {
    irongate_postgres::sql::quote_identifier(name)
}

fn no_right(oid: u32, (end, role): (&End<'_>, &str), what: &str, fix: String) -> Trouble {
    Trouble { oid, end: end.to_string(), reason: format!("role \"{role}\" may not {what} it"), fix }
}

/// A role that may not do with an object what it has to.
fn may_not(oid: u32, (end, role): (&End<'_>, &str), what: &str) -> Trouble {
    let privileges = if what == "read" { "SELECT" } else { "SELECT, UPDATE" };
    let fix = format!("GRANT {privileges} ON LARGE OBJECT {oid} TO {}", quoted(role));
    no_right(oid, (end, role), what, fix)
}

/// The sides that may not read an object.
fn unread(pair: &Pair, walk: &Walk<'_>) -> Vec<Trouble> {
    let sides = [(&pair.source, &walk.source), (&pair.target, &walk.target)];
    let is_closed = |one: &Option<Described>| one.as_ref().is_some_and(|one| !one.may.read);
    let closed = sides.into_iter().filter(|(one, _)| is_closed(one));
    closed.map(|(_, side)| may_not(pair.oid, (&side.end, &side.role), "read")).collect()
}

/// An owner, a right or a comment that was refused.
fn unset_trouble(unset: &writer::Unset, end: &End<'_>, role: &str) -> Trouble {
    let fix = match unset.reason.code() {
        Some("42704") => {
            "make the role at the target, or leave owners and rights out: --content-only".to_owned()
        }
        _ => format!("have it done by a superuser, or make role \"{role}\" a member of the owner"),
    };
    Trouble {
        oid: unset.oid,
        end: end.to_string(),
        reason: format!("its owner, rights and comment are not set: {}", unset.reason),
        fix,
    }
}

/// Copies the large objects of a flow in the course of something longer, and says now and then how far it is.
pub(crate) async fn copy_with_notes(
    configuration: &Configuration,
    flow: &Flow,
    note: &mut (dyn FnMut(String) + Send),
) -> Result<Copied, Error> {
    const EVERY: Duration = Duration::from_secs(5);
    let mut told: Option<Instant> = None;
    let mut tell = |progress: &Progress| {
        if told.is_none_or(|told| told.elapsed() >= EVERY) {
            told = Some(Instant::now());
            note(format!(
                "large objects: {} of {} looked at, {} copied",
                progress.compared.min(progress.source),
                progress.source,
                progress.written
            ));
        }
    };
    copy_large_objects(configuration, flow, LargeObjects::default(), false, &mut tell).await
}
