//! Runs of plans: what was journalled decides what is done next, and each step is shown before the next one begins.
//!
//! A run belongs to the site that writes when it is over: that is where its journal lies and where its groups are begun,
//! and the site that will be there afterwards.

mod by;
mod capture;
mod drain;
mod drill;
mod estimate;
mod evidence;
mod failover;
mod groups;
mod hooks;
mod kind;
mod overtaken;
mod peek;
mod precheck;
mod reinstate;
mod repair;
mod resumed;
mod roles;
mod since;
mod superseded;
mod switchover;

use std::path::Path;
use std::time::{Duration, Instant};

use irongate_checkpoint::GroupLock;
use irongate_deployment::Configuration;
use irongate_deployment::configuration::Pair;
use irongate_trail::Timestamp;
use serde_json::{Value, json};

use crate::engine::{Next, Step, Way, next};
use crate::error::Error;
use crate::journal::{Heading, Journal, What};
use crate::place::Place;
use crate::report::command;
pub use crate::report::{Report, StepReport, report};
pub use by::By;
pub use kind::Kind;
pub(crate) use roles::{free, free_of_forgotten, prepare, role_of, tell};

/// Under this the evidence of a step that was taken back says what could not be, and what helps.
pub(crate) const LEFT: &str = "left";

/// Under this the evidence of an opening that failed says that nobody was let in.
pub(crate) const UNOPENED: &str = "unopened";

/// What stands there.
fn left(what: &str, remedy: &str) -> Value {
    json!({ "what": what, "remedy": remedy })
}

/// Time limits of a run.
#[derive(Clone, Debug)]
pub struct Limits {
    /// For transactions that have written before the fence.
    pub writers: Duration,
    /// For the standby to have applied everything.
    pub drain: Duration,
    /// For a lock in a database.
    pub locks: Duration,
    /// For the creation of the reverse slot, which waits for open transactions.
    pub slot: Duration,
    /// For a group to start or stop.
    pub groups: Duration,
    /// How far the standby may be behind when the run begins.
    pub lag: Duration,
    /// For a site that may be lost to answer.
    pub probe: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            writers: Duration::from_secs(30),
            drain: Duration::from_secs(120),
            locks: Duration::from_secs(5),
            slot: Duration::from_secs(60),
            groups: Duration::from_secs(60),
            lag: Duration::from_secs(30),
            probe: Duration::from_secs(5),
        }
    }
}

/// What is to become of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// A new run.
    Begin,
    /// The checks only; nothing is changed and nothing is journalled.
    DryRun,
    /// Go on with this run, or with the one that is not over if none is named.
    Resume(Option<String>),
    /// Take this run back, or the one that is not over.
    Abort(Option<String>),
}

/// What is wanted of a run.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The plan.
    pub plan: Kind,
    /// The site that is to write; of [`Kind::Reinstate`] the one that comes back.
    pub site: &'a str,
    /// The databases; all active-passive ones if empty.
    pub databases: &'a [String],
    /// What is to become of it.
    pub order: Order,
    /// What the lost site had committed and not sent may be lost; and at a reinstatement: what was not salvaged, too.
    pub accept_loss: bool,
    /// A site that answers is taken over nevertheless.
    pub force: bool,
    /// How a site that comes back is made a copy, of [`Kind::Reinstate`]; of a run that is gone on with: from now on, if
    /// it is not [`By::Either`].
    pub by: By,
}

/// Says what is happening: the step, and a sentence.
pub type Progress<'a> = dyn FnMut(&str, &str) + Send + 'a;

/// A database that changes hands in a run.
pub(crate) struct Unit<'a> {
    pub(crate) pair: Pair<'a>,
    /// At the site that writes when the run begins, or wrote before it was lost; why it cannot be asked, where it may be.
    from: Result<Place, String>,
    /// At the site that writes when the run is over.
    pub(crate) to: Place,
}

impl Unit<'_> {
    /// At the site that wrote.
    pub(crate) fn from(&self) -> Result<&Place, Error> {
        self.from.as_ref().map_err(|reason| Error::Lost { reason: reason.clone() })
    }

    /// The same, where that site may be lost.
    pub(crate) fn reached(&self) -> Option<&Place> {
        self.from.as_ref().ok()
    }
}

/// A run in hand.
pub(crate) struct Run<'a> {
    pub(crate) configuration: &'a Configuration,
    pub(crate) kind: Kind,
    pub(crate) heading: Heading,
    pub(crate) limits: &'a Limits,
    pub(crate) units: Vec<Unit<'a>>,
    /// A repair or a copy of it has come to its end: what the site that comes back had alone is gone.
    pub(crate) was_made_copy: bool,
}

/// Changes the roles of two sites. To be called at the site that writes when it is over.
///
/// # Errors
/// [`Error::Refused`] for what the checks have found, and then nothing was changed; [`Error::Unfinished`] when a step has
/// failed: the run is then gone on with by [`Order::Resume`] or taken back by [`Order::Abort`]; others as they say.
///
/// Not cancel-safe: a run that was cut off anywhere is gone on with by [`Order::Resume`].
pub async fn run(
    configuration: &Configuration,
    request: &Request<'_>,
    limits: &Limits,
    progress: &mut Progress<'_>,
) -> Result<Report, Error> {
    let Request { order, .. } = request;
    if !configuration.sites.contains(request.site) {
        let known = configuration.sites.iter().cloned().collect();
        let name = request.site.to_owned();
        return Err(irongate_deployment::Error::Unknown { what: "site", name, known }.into());
    }
    let fresh = new_heading(configuration, request)?;
    let site = configuration.site.as_deref();
    if site != Some(&fresh.to) {
        return Err(Error::Elsewhere { to: fresh.to, site: site.map(str::to_owned) });
    }
    let state = &configuration.state_directory;
    // A run is one process: a second one would go by an old reading of the journal.
    let _alone = match order {
        Order::DryRun => None,
        _ => Some(GroupLock::acquire(state, "switchover").map_err(Error::of_lock)?),
    };
    let (heading, way) = match order {
        Order::Begin | Order::DryRun => {
            let mut fresh = fresh;
            let is_begun = *order == Order::Begin;
            let mut open = unfinished(state)?;
            while let Some(run) = &open
                && overtaken::is_overtaken(configuration, limits, run, is_begun).await?
            {
                // The one that it had put by is the one now. Nothing is noted of a dry run, which would find it again.
                open = if is_begun { unfinished(state)? } else { None };
            }
            if let Some(open) = open {
                let before = Journal::read(state, &open)?.0;
                // The other site may be lost in the middle of a run that needs it for both of its ends.
                let has_both = [Kind::Switchover, Kind::Switchback, Kind::Drill].map(|kind| kind.to_string());
                let goes_on = fresh.plan == Kind::Failover.to_string()
                    && has_both.contains(&before.plan)
                    && (&before.from, &before.to, &before.databases)
                        == (&fresh.from, &fresh.to, &fresh.databases);
                if goes_on {
                    fresh.supersedes = Some(open);
                } else if is_begun {
                    return Err(Error::Open { run: open, command: command(&before) });
                }
            }
            (fresh, Way::Forward)
        }
        Order::Resume(run) => (heading_of(state, run.as_deref())?, Way::Forward),
        Order::Abort(run) => (heading_of(state, run.as_deref())?, Way::Back),
    };
    if let (Order::Resume(_) | Order::Abort(_), Some(run)) = (order, superseding(state, &heading.run)?) {
        let command = command(&Journal::read(state, &run)?.0);
        return Err(Error::Open { run, command });
    }
    let kind = Kind::of(&heading.plan)
        .ok_or_else(|| Error::OtherPlan { run: heading.run.clone(), plan: heading.plan.clone() })?;
    if kind != request.plan {
        return Err(Error::OtherPlan { run: heading.run, plan: heading.plan });
    }
    let wanted = if kind == Kind::Reinstate { &heading.from } else { &heading.to };
    if wanted != request.site {
        return Err(Error::OtherRun { run: heading.run, to: wanted.clone() });
    }
    let mut units = Vec::new();
    for database in &heading.databases {
        let from = Place::connect(configuration, database, &heading.from);
        // A site that was to come back may be lost once more, and its reinstatement is taken back all the same; so is a drill.
        let may_be_lost =
            kind == Kind::Failover || (matches!(kind, Kind::Reinstate | Kind::Drill) && way == Way::Back);
        let from = if may_be_lost {
            match tokio::time::timeout(limits.probe, from).await {
                Ok(place) => place.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer from {database}.{} in {:?}", heading.from, limits.probe)),
            }
        } else {
            Ok(from.await?)
        };
        let to = Place::connect(configuration, database, &heading.to).await?;
        units.push(Unit { pair: configuration.pair(database, &heading.to)?, from, to });
    }
    let mut run = Run { configuration, kind, heading: heading.clone(), limits, units, was_made_copy: false };
    if *order == Order::DryRun {
        let begun = Instant::now();
        progress("prechecks", "checking");
        let evidence = run.step("prechecks", progress).await?;
        let step = StepReport {
            name: "prechecks".to_owned(),
            result: "done",
            seconds: begun.elapsed().as_secs_f64(),
            at: Timestamp::now().0,
            evidence,
        };
        return Ok(Report { run: None, result: "checked", steps: vec![step], ..report(&heading, &[]) });
    }
    let mut journal = match order {
        // Before anything is journalled, so that a refused run leaves nothing behind.
        Order::Begin => {
            run.step("prechecks", progress).await?;
            Journal::begin(state, heading)?
        }
        _ => Journal::open(state, &heading.run)?,
    };
    if let Next::Over(outcome) = next(&run.steps(journal.entries()), journal.entries(), way) {
        return Err(Error::IsOver { run: run.heading.run, outcome });
    }
    if *order != Order::Begin {
        run.go_on(&mut journal, request, way).await?;
    }
    run.drive(&mut journal, way, progress).await?;
    let report = report(journal.heading(), journal.entries());
    match report.left() {
        Some((what, remedy)) => {
            Err(Error::Left { run: run.heading.run, is_back: way == Way::Back, what, remedy })
        }
        None => Ok(report),
    }
}

impl Run<'_> {
    async fn drive(
        &mut self,
        journal: &mut Journal,
        way: Way,
        progress: &mut Progress<'_>,
    ) -> Result<(), Error> {
        loop {
            // A step that finds out how it is to go on changes what is left; taken back is everything that was begun.
            let steps = match way {
                Way::Forward => self.steps(journal.entries()),
                Way::Back => self.all_steps(),
            };
            match next(&steps, &by::counting(journal.entries()), way) {
                Next::Do(place) => {
                    let Step { name, .. } = steps[place];
                    journal.note(What::Step { step: name.to_owned() })?;
                    let begun = Instant::now();
                    progress(name, "begins");
                    let done = self.step(name, progress).await;
                    let seconds = begun.elapsed().as_secs_f64();
                    match done {
                        Ok(evidence) => {
                            progress(name, &format!("done in {seconds:.1} s"));
                            journal.note(What::Done { step: name.to_owned(), seconds, evidence })?;
                            self.was_made_copy |= by::makes_copy(name);
                        }
                        Err(error) => return Err(self.failed(journal, name, error).await),
                    }
                }
                Next::Undo(place) => {
                    let Step { name, .. } = steps[place];
                    journal.note(What::Undo { step: name.to_owned() })?;
                    progress(name, "is taken back");
                    match self.undo(name, journal.entries(), progress).await {
                        Ok(evidence) => journal.note(What::Undone { step: name.to_owned(), evidence })?,
                        Err(error) => return Err(self.failed(journal, name, error).await),
                    }
                }
                Next::End(outcome) => journal.note(What::Ended { outcome })?,
                Next::Over(_) => return Ok(()),
                Next::NoReturn(place) => {
                    let (run, plan) = (self.heading.run.clone(), self.heading.plan.clone());
                    return Err(Error::NoReturn { run, plan, step: steps[place].name });
                }
                Next::OnlyBack => return Err(Error::OnlyBack { run: self.heading.run.clone() }),
            }
        }
    }

    async fn failed(&self, journal: &mut Journal, step: &'static str, source: Error) -> Error {
        let has_begun = matches!(next(&self.all_steps(), journal.entries(), Way::Back), Next::NoReturn(_));
        // From where nobody was let in there is a way back. A database that cannot be asked may have been opened.
        let is_unopened =
            step == switchover::OPEN && self.is_unopened(journal.entries()).await.unwrap_or(false);
        let mut evidence = source.evidence();
        if is_unopened {
            evidence[UNOPENED] = Value::Bool(true);
        }
        let (error, hint) = (source.to_string(), source.hint());
        match journal.note(What::Failed { step: step.to_owned(), error, hint, evidence }) {
            Ok(()) => {
                let (run, can_abort) = (self.heading.run.clone(), is_unopened || !has_begun);
                Error::Unfinished { run, step, can_abort, source: Box::new(source) }
            }
            Err(error) => error,
        }
    }
}

/// The headings of the runs of this site that are not over.
fn open_runs(state: &Path) -> Result<Vec<Heading>, Error> {
    let mut open = Vec::new();
    for run in Journal::runs(state)?.into_iter().rev() {
        let (heading, entries) = Journal::read(state, &run)?;
        if !entries.iter().any(|entry| matches!(entry.what, What::Ended { .. })) {
            open.push(heading);
        }
    }
    Ok(open)
}

/// The run of this site that is not over; there is one at most, unless somebody has copied files, or a failover goes on from
/// it, which then is the one.
fn unfinished(state: &Path) -> Result<Option<String>, Error> {
    let open = open_runs(state)?;
    let is_put_by = |run: &Heading| open.iter().any(|other| other.supersedes.as_ref() == Some(&run.run));
    Ok(open.iter().find(|run| !is_put_by(run)).map(|run| run.run.clone()))
}

/// The failover that goes on from a run and is not over itself.
fn superseding(state: &Path, run: &str) -> Result<Option<String>, Error> {
    let open = open_runs(state)?.into_iter();
    Ok(open.filter(|other| other.supersedes.as_deref() == Some(run)).map(|other| other.run).next())
}

fn heading_of(state: &Path, run: Option<&str>) -> Result<Heading, Error> {
    let run = match run {
        Some(run) => run.to_owned(),
        None => unfinished(state)?.ok_or(Error::NothingOpen)?,
    };
    Ok(Journal::read(state, &run)?.0)
}

/// The site that writes these databases in normal mode: where the flows begin that are started by themselves.
///
/// # Errors
/// [`Error::Deployment`] for a name that is not known; [`Error::Scattered`] when there are several sites, or none.
pub fn home(configuration: &Configuration, databases: &[String]) -> Result<String, Error> {
    let chosen = configuration.chosen(databases)?;
    let mut homes: Vec<&String> = configuration
        .flows
        .values()
        .filter(|flow| flow.autostart && chosen.contains(&flow.database.as_str()))
        .map(|flow| &flow.from)
        .collect();
    homes.sort();
    homes.dedup();
    match homes[..] {
        [home] => Ok(home.clone()),
        _ => Err(Error::Scattered { to: "the site of normal mode".to_owned() }),
    }
}

fn new_heading(configuration: &Configuration, request: &Request<'_>) -> Result<Heading, Error> {
    let Request { plan, site, .. } = *request;
    let databases: Vec<String> =
        configuration.chosen(request.databases)?.into_iter().map(str::to_owned).collect();
    let mut others: Vec<&str> = Vec::new();
    for database in &databases {
        others.push(&configuration.pair(database, site)?.into.from);
    }
    others.dedup();
    let [other] = others[..] else { return Err(Error::Scattered { to: site.to_owned() }) };
    let (from, to) = if plan == Kind::Reinstate { (site, other) } else { (other, site) };
    let digits: String = Timestamp::now().to_string().chars().filter(char::is_ascii_digit).take(20).collect();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let user =
        std::env::var("SUDO_USER").or_else(|_| std::env::var("USER")).unwrap_or_else(|_| "somebody".into());
    Ok(Heading {
        run: format!("{plan}-{digits}"),
        plan: plan.to_string(),
        from: from.to_owned(),
        to: to.to_owned(),
        databases,
        holder: format!("{user}@{}", host.trim()),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        accept_loss: request.accept_loss,
        force: request.force,
        supersedes: None,
        by: if plan == Kind::Reinstate { request.by } else { By::Copy },
    })
}
