//! Salvage: what a lost site had committed and the site that writes now does not have.
//!
//! # Why the list is exact
//!
//! Everything that was committed at the lost site before the *divergence point* is at the live one: it is the end LSN in the
//! checkpoint that Replicat has written in the very transaction that applied it. What was committed behind it lies in two
//! places, which meet without a gap. What Extract had made durable in its *trail* may have been confirmed to the slot, and
//! then only the trail has it; what it had not is still in the *slot*, because nothing is confirmed that is not durable.
//! So the trail is read from the divergence point to its last whole transaction, and the slot from there on. Both are told
//! apart by commit LSN, which rises strictly along both: none comes twice. The slot's side goes through Extract's own machine,
//! and so nothing is called lost that would never have been sent.
//!
//! Where one of the two is damaged or gone, the stretch of the log that nobody has any more is named with both ends; the
//! rest stands.
//!
//! # Why nothing is changed
//!
//! Files of the trail are opened for reading, the slot is peeked into, the session at the live site reads only. Nobody else
//! may change them meanwhile: Extract's lock is held at the lost site, and the flow's claim at the live one.
//!
//! Decisions about what was found are a person's: see [`apply`]. What was carried out is remembered at the live site:
//! see [`signed_off`].

mod apply;
mod binary;
mod change;
mod decisions;
mod directory;
mod document;
mod intake;
mod judge;
mod live;
mod problem;
mod record;
mod references;
mod slot;
mod sql;
mod trail;

use std::path::{Path, PathBuf};

use irongate_capture::Settings;
use irongate_checkpoint::{Applied, CheckpointTable, Error as CheckpointError, GroupLock, Program, Role};
use irongate_deployment::Configuration;
use irongate_deployment::configuration::Flow;
use irongate_deployment::groups::group_name;
use irongate_postgres::Session;
use irongate_trail::{CommitLsn, Lineage, Lsn, Timestamp};
use serde::Serialize;

use self::directory::{FORMAT, Finished, Writer};
use self::intake::{Event, Intake};
use self::live::{Live, Placed};
use self::slot::{Facts, Peek, Seen};
use self::trail::{At, Stretch, Trail};
use crate::error::Error;
use crate::fence;
use crate::place::Place;

pub use self::apply::{Carried, apply, directories};
pub use self::change::{Cell, Change, Fields, Operation, TableName, There, Verdict};
pub use self::decisions::{Decision, Decisions, TableDecision};
pub use self::directory::{Conflict, Found, Heading, Summary, TableTotals, Unknown};
pub use self::problem::Problem;
pub use self::record::{SignedOff, signed_off};

/// The name under which the sessions are shown.
const APPLICATION: &str = "irongate salvage";

/// Says what is happening.
pub type Progress<'a> = dyn FnMut(&str) + Send + 'a;

/// How a salvage is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory to be written; it must not be there, or be empty.
    pub out: PathBuf,
    /// The divergence point, where the live site cannot be asked.
    pub divergence: Option<Lsn>,
}

/// A salvage that was made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Salvaged {
    /// Where it lies.
    pub directory: PathBuf,
    /// What it is about.
    #[serde(flatten)]
    pub heading: Heading,
    /// What was found.
    pub summary: Summary,
}

/// How far the live site has what the lost one committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Divergence {
    /// What it had applied last.
    pub applied: Applied,
    /// The transaction that wrote that, as the server prints it.
    pub xid: String,
}

/// How far a flow is applied at its target; `None` if it has no checkpoint there.
///
/// # Errors
/// [`Error::Deployment`] for a checkpoint that cannot be read, [`Error::Database`].
///
/// Cancel-safe.
pub async fn divergence(place: &Place, flow: &str) -> Result<Option<Divergence>, Error> {
    let failed = |error: CheckpointError| Error::Deployment(error.into());
    let table = CheckpointTable::prepare(&place.session, flow).await.map_err(failed)?;
    let Some(applied) = table.load(&place.session).await.map_err(failed)? else { return Ok(None) };
    const XID: &str = "SELECT xmin::pg_catalog.text FROM irongate.checkpoint WHERE flow = $1";
    let row = place.session.query_one(XID, &[&flow]).await.and_then(|row| row.try_get(0));
    let xid = row.map_err(place.failed("ask for the checkpoint"))?;
    Ok(Some(Divergence { applied, xid }))
}

/// The flow of a database out of a site.
///
/// # Errors
/// [`Error::Deployment`] if there is none.
pub fn flow_out_of<'a>(
    configuration: &'a Configuration,
    database: &str,
    site: &str,
) -> Result<&'a Flow, Error> {
    let mut flows = configuration.flows.values();
    flows.find(|flow| flow.database == database && flow.from == site).ok_or_else(|| {
        Error::Deployment(irongate_deployment::Error::Unknown {
            what: "flow out of this site for database",
            name: format!("{database} at {site}"),
            known: configuration.flows.keys().cloned().collect(),
        })
    })
}

/// Finds out what a lost site had committed of a database and the live site does not have, and writes it down. To be called
/// where the trail of the flow lies, with the lost site's server running and its applications kept out.
///
/// Changes nothing at either site. Needs memory for a bounded piece of a transaction, of any transaction's size, and on the
/// lost site's server room for temporary files as large as what the slot holds.
///
/// # Errors
/// [`Error::Salvage`] with a [`Problem`]: most say that a check has refused, and what to do. [`Error::NoAdmin`],
/// [`Error::NoAccess`], [`Error::Database`]. After any error nothing is left in the directory.
///
/// Cancel-safe in that nothing is left in the directory.
pub async fn salvage(
    configuration: &Configuration,
    database: &str,
    site: &str,
    options: &Options,
    progress: &mut Progress<'_>,
) -> Result<Salvaged, Error> {
    let flow = flow_out_of(configuration, database, site)?;
    if configuration.site.as_deref() != Some(&flow.at) {
        let (flow, at, site) = (flow.name.clone(), flow.at.clone(), configuration.site.clone());
        return Err(Problem::Elsewhere { flow, at, site }.into());
    }
    let group = group_name(&flow.name, Program::Extract);
    let _lock = GroupLock::acquire(&configuration.state_directory, &group)
        .map_err(|source| Problem::Running { group, source })?;
    let settings = configuration.extract_settings(flow)?;
    let place = match Place::connect(configuration, database, &flow.to).await {
        Ok(place) => Some(place),
        Err(Error::Database { end, source, .. }) if options.divergence.is_none() => {
            return Err(Problem::Unasked { end, flow: flow.name.clone(), source }.into());
        }
        Err(Error::Database { .. }) => None,
        Err(error) => return Err(error),
    };
    let known = match &place {
        Some(place) => Some(ask_live(place, flow, site, options).await?),
        None => None,
    };
    let trail = Trail::open(&settings.trail)?;
    let lineage = lineage(known.as_ref(), trail.as_ref())?;
    let from = known.as_ref().map_or(options.divergence, |known| Some(known.applied.end_lsn.0));
    let from = from.unwrap_or_default();

    let lost = Session::connect(&settings.source.endpoint, APPLICATION).await;
    let source = ask_lost(lost, &settings, site, database, lineage.as_ref()).await?;

    let now = Timestamp::now();
    let whose = lineage.or_else(|| source.lineage()).unwrap_or_default();
    let heading = Heading {
        format: FORMAT,
        release: env!("CARGO_PKG_VERSION").to_owned(),
        run: format!("salvage-{database}-{}", digits(now)),
        made: now.to_string(),
        site: site.to_owned(),
        live: flow.to.clone(),
        database: database.to_owned(),
        flow: flow.name.clone(),
        system_identifier: whose.system_identifier.to_string(),
        timeline: whose.timeline,
        slot_incarnation: whose.slot_incarnation.to_string(),
        divergence: from.to_string(),
        looked_up_to: source.facts.as_ref().map(|facts| facts.end.to_string()),
        applied_by: known.as_ref().map(|known| known.xid.clone()),
        by_hand: known.is_none(),
    };
    let replicat = configuration.replicat_settings(flow)?;
    let xid = known.as_ref().map(|known| known.xid.clone());
    let out = std::path::absolute(&options.out).map_err(Problem::file("find", &options.out))?;
    let writer = Writer::create(&out, heading, xid.as_deref())?;
    let end = place.as_ref().map_or_else(String::new, ToString::to_string);
    let session = place.as_ref().map(|place| &place.session);
    let mut work = Work {
        live: Live::new(session, end, xid, replicat.names, replicat.key_columns),
        writer,
        found: Found::Trail,
        texts: binary::Texts::new(session.or(source.session.as_ref().ok())),
        lost: false,
    };
    if let Ok(lost) = Place::connect(configuration, database, site).await
        && fence::standing(&lost).await?.is_none()
    {
        let said =
            format!("{lost} is not closed: what is committed there from now on does not stand in this list");
        progress(&said);
        work.writer.summary.notes.push(said);
    }
    let last = known.as_ref().map_or(CommitLsn::default(), |known| known.applied.commit_lsn);
    let mut at = At { reached: from, last };
    match &trail {
        Some(trail) => read_trail(&mut work, trail, &source, &settings, from, &mut at, progress).await?,
        None => {
            let said = format!("there is no trail in \"{}\"", settings.trail.display());
            progress(&said);
            work.writer.summary.notes.push(said);
        }
    }
    source.tail(&mut work, &settings, &mut at, progress).await?;
    let Finished { directory, heading, summary } = work.writer.finish(decisions::blank)?;
    Ok(Salvaged { directory, heading, summary })
}

/// The digits of a time, for a name.
pub fn digits(time: Timestamp) -> String {
    time.to_string().chars().filter(char::is_ascii_digit).take(20).collect()
}

/// What the live site says, which reads only from here on.
async fn ask_live(place: &Place, flow: &Flow, site: &str, options: &Options) -> Result<Divergence, Error> {
    let failed = |error: CheckpointError| Error::Deployment(error.into());
    let only = "SET default_transaction_read_only = on";
    place.session.batch_execute(only).await.map_err(place.failed("begin to read"))?;
    if let Some(role) = Role::load(&place.session).await.map_err(failed)?
        && role.live == site
    {
        return Err(Problem::NotLost { end: place.to_string(), site: role.live, epoch: role.epoch }.into());
    }
    // Held to the end of the session: nobody applies anything meanwhile.
    let table = CheckpointTable::prepare(&place.session, &flow.name).await.map_err(failed)?;
    match table.claim(&place.session).await {
        Err(source @ CheckpointError::FlowInUse { .. }) => {
            let group = group_name(&flow.name, Program::Replicat);
            return Err(Problem::Running { group, source }.into());
        }
        other => other.map_err(failed)?,
    }
    let (end, name) = (place.to_string(), flow.name.clone());
    let known = divergence(place, &flow.name).await?.ok_or(Problem::NoCheckpoint { end, flow: name })?;
    match options.divergence {
        Some(given) if given != known.applied.end_lsn.0 => {
            let known = known.applied.end_lsn.0;
            Err(Problem::OtherPlace { end: place.to_string(), known, given }.into())
        }
        _ => Ok(known),
    }
}

/// Whose LSNs the divergence point and the trail are, which must be the same history's.
fn lineage(known: Option<&Divergence>, trail: Option<&Trail>) -> Result<Option<Lineage>, Problem> {
    let expected = known.map(|known| known.applied.lineage);
    let found = trail.and_then(Trail::lineage);
    match (expected, found) {
        (Some(expected), Some(found)) if found != expected && !found.is_promotion_of(&expected) => {
            Err(Problem::OtherHistory {
                what: "the trail".to_owned(),
                found: Box::new(found),
                expected: Box::new(expected),
            })
        }
        _ => Ok(found.or(expected)),
    }
}

/// The lost site's server.
struct LostServer {
    session: Result<Session, String>,
    facts: Option<Facts>,
    /// From where on the slot has everything, or why it has nothing.
    readable: Result<Lsn, String>,
}

async fn ask_lost(
    session: Result<Session, irongate_postgres::Error>,
    settings: &Settings,
    site: &str,
    database: &str,
    lineage: Option<&Lineage>,
) -> Result<LostServer, Error> {
    let end = format!("{database}.{site}");
    let slot = &settings.source.slot;
    let session = match session {
        Ok(session) => session,
        Err(error) => {
            let why = format!("{end} cannot be asked: {error}");
            return Ok(LostServer { session: Err(why.clone()), facts: None, readable: Err(why) });
        }
    };
    let failed = |source| Error::Database {
        end: end.clone(),
        doing: "ask for the slot".into(),
        source: Box::new(source),
    };
    let facts = slot::facts(&session, slot).await.map_err(failed)?;
    let found = Lineage {
        system_identifier: facts.server.system_identifier,
        timeline: facts.server.timeline,
        slot_incarnation: lineage.map_or(Lsn::ZERO, |lineage| lineage.slot_incarnation),
    };
    if let Some(lineage) = lineage.filter(|lineage| **lineage != found) {
        return Err(Problem::OtherHistory {
            what: format!("the server of {end}"),
            found: Box::new(found),
            expected: Box::new(*lineage),
        }
        .into());
    }
    if let Some(pid) = facts.slot.as_ref().and_then(|slot| slot.active_pid) {
        return Err(Problem::SlotInUse { slot: slot.clone(), end, pid }.into());
    }
    let readable = facts.readable_from(slot);
    Ok(LostServer { session: Ok(session), facts: Some(facts), readable })
}

impl LostServer {
    /// Whose log the server has, as far as it knows.
    fn lineage(&self) -> Option<Lineage> {
        let server = &self.facts.as_ref()?.server;
        Some(Lineage {
            system_identifier: server.system_identifier,
            timeline: server.timeline,
            slot_incarnation: Lsn::ZERO,
        })
    }

    /// Looks into the slot for what lies behind `at`, up to `until`. What it does not have is noted.
    async fn look(
        &self,
        work: &mut Work<'_>,
        settings: &Settings,
        at: &At,
        until: Option<Lsn>,
        because: &str,
    ) -> Result<(), Error> {
        let end = until.or(self.facts.as_ref().map(|facts| facts.end));
        let (begins, session) = match (&self.readable, &self.session) {
            (Ok(begins), Ok(session)) => (*begins, session),
            (Err(why), _) | (_, Err(why)) => {
                work.writer.unknown(at.reached, end, join(because, why));
                return Ok(());
            }
        };
        if begins > at.reached {
            let why = format!("slot \"{}\" begins at {begins}", settings.source.slot);
            work.writer.unknown(
                at.reached,
                until.map_or(Some(begins), |until| Some(until.min(begins))),
                join(because, &why),
            );
        }
        if until.is_some_and(|until| until <= begins) {
            return Ok(());
        }
        work.found = Found::Slot;
        let peek = Peek { source: &settings.source, from: trail::resume(at), last: at.last, until };
        let mut intake = Intake::default();
        let mut last = at.reached;
        let seen = match peek.begin(session, &mut intake).await? {
            Err(seen) => seen,
            Ok(mut looking) => loop {
                let ended = looking.advance(&mut intake).await?;
                for event in &intake.events {
                    if let Event::Commit(commit) = event {
                        last = last.max(commit.end_lsn.0);
                    }
                }
                work.settle(&mut intake).await?;
                if let Some(seen) = ended {
                    break seen;
                }
            },
        };
        work.found = Found::Trail;
        if let Seen::UpTo(why) = seen {
            work.writer.unknown(last, end, join(because, &why));
        }
        Ok(())
    }

    /// Looks into the slot for everything behind the trail.
    async fn tail(
        &self,
        work: &mut Work<'_>,
        settings: &Settings,
        at: &mut At,
        progress: &mut Progress<'_>,
    ) -> Result<(), Error> {
        progress(&format!("looking into slot \"{}\" behind {}", settings.source.slot, at.reached));
        self.look(work, settings, at, None, "").await
    }
}

fn join(because: &str, why: &str) -> String {
    if because.is_empty() { why.to_owned() } else { format!("{because}; {why}") }
}

/// Reads the trail from a place to its end, and fills what is missing in it from the slot.
async fn read_trail(
    work: &mut Work<'_>,
    trail: &Trail,
    source: &LostServer,
    settings: &Settings,
    from: Lsn,
    at: &mut At,
    progress: &mut Progress<'_>,
) -> Result<(), Error> {
    let Some((mut seqno, begins)) = trail.begin(from) else { return Ok(()) };
    if let Some(begins) = begins {
        let why = format!("the trail begins at {begins}");
        source.look(work, settings, at, Some(begins), &why).await?;
        at.reached = begins;
    }
    let mut intake = Intake::default();
    loop {
        progress(&format!("reading file {seqno} of the trail in \"{}\"", settings.trail.display()));
        let stretch = match trail.read(seqno) {
            Err(stretch) => stretch,
            Ok(mut reading) => loop {
                let ended = reading.advance(from, at, &mut intake);
                work.settle(&mut intake).await?;
                if let Some(stretch) = ended {
                    let torn = reading.torn().filter(|_| stretch == Stretch::End);
                    work.writer.summary.notes.extend(torn);
                    break stretch;
                }
            },
        };
        match stretch {
            Stretch::End => return Ok(()),
            Stretch::Broken { why, next } => {
                progress(&why);
                work.writer.summary.notes.push(why.clone());
                let Some((file, begins)) = next else { return Ok(()) };
                if begins > at.reached {
                    source.look(work, settings, at, Some(begins), &why).await?;
                    at.reached = begins;
                }
                seqno = file;
            }
        }
    }
}

/// What becomes of what was read.
struct Work<'a> {
    live: Live<'a>,
    writer: Writer,
    found: Found,
    texts: binary::Texts<'a>,
    /// The transaction in hand was begun and not abandoned.
    lost: bool,
}

impl Work<'_> {
    /// Writes out what was read: looks once for all of it, whatever number of transactions it is of.
    async fn settle(&mut self, intake: &mut Intake) -> Result<(), Error> {
        let mut placed: Vec<Placed> = Vec::new();
        // The brackets, each with how many of the changes stand before it.
        let mut brackets: Vec<(usize, Event)> = Vec::new();
        let mut number = self.writer.next_number();
        for event in intake.take() {
            match event {
                Event::Change(mut raw) if self.lost => {
                    self.texts.convert(&mut raw).await?;
                    placed.push(self.live.place(raw, number).await?);
                    number += 1;
                }
                Event::Change(_) => {}
                bracket => {
                    self.lost = matches!(bracket, Event::Begin(_));
                    match bracket {
                        Event::Begin(_) => self.live.begin(),
                        Event::Abandon => {
                            // What came of it since the last bracket is not even looked at.
                            placed.truncate(brackets.last().map_or(0, |(before, _)| *before));
                            self.live.abandon();
                        }
                        _ => {}
                    }
                    brackets.push((placed.len(), bracket));
                    number = 1;
                }
            }
        }
        self.live.look(&mut placed).await?;
        let mut written = 0;
        for (before, bracket) in brackets {
            for placed in &placed[written..before] {
                self.writer.change(placed, self.live.xid())?;
            }
            written = before;
            match bracket {
                Event::Begin(begin) => self.writer.begin(begin, self.found),
                Event::Commit(commit) => self.writer.commit(&commit)?,
                Event::Abandon | Event::Change(_) => self.writer.abandon()?,
            }
        }
        for placed in &placed[written..] {
            self.writer.change(placed, self.live.xid())?;
        }
        Ok(self.writer.flush()?)
    }
}

/// Where salvages of a site lie by default.
pub fn default_directory(state: &Path, site: &str) -> PathBuf {
    state.join("salvage").join(format!("{site}-{}", digits(Timestamp::now())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn can_be_spawned<T: Send>(_: T) {}

    /// Never called: it compiles as long as an embedder may run both in a task of their own.
    #[expect(dead_code, reason = "to be compiled and not to be run")]
    fn both_can_be_spawned(configuration: &Configuration, options: &Options, progress: &mut Progress<'_>) {
        can_be_spawned(salvage(configuration, "", "", options, progress));
        can_be_spawned(apply(configuration, "", Path::new(""), progress));
    }
}
