//! Runs of plans: what was journalled decides what is done next, and each step is shown before the next one begins.
//!
//! A run belongs to the site that is to write: that is where its journal lies and where reverse capture begins, and the
//! site that will be there afterwards.

mod capture;
mod drain;
mod groups;
mod precheck;
mod roles;
mod switchover;

use std::path::Path;
use std::time::{Duration, Instant};

use irongate_checkpoint::GroupLock;
use irongate_deployment::Configuration;
use irongate_deployment::configuration::Pair;
use irongate_trail::Timestamp;

use crate::engine::{Next, Step, Way, next};
use crate::error::Error;
use crate::journal::{Heading, Journal, What};
use crate::place::Place;
pub use crate::report::{Report, StepReport, report};

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

/// Says what is happening: the step, and a sentence.
pub type Progress<'a> = dyn FnMut(&str, &str) + Send + 'a;

/// A database that changes hands in a run.
pub(crate) struct Unit<'a> {
    pub(crate) pair: Pair<'a>,
    /// At the site that writes when the run begins.
    pub(crate) from: Place,
    /// At the site that is to write.
    pub(crate) to: Place,
}

/// A run in hand.
pub(crate) struct Run<'a> {
    pub(crate) configuration: &'a Configuration,
    pub(crate) heading: Heading,
    pub(crate) limits: &'a Limits,
    pub(crate) units: Vec<Unit<'a>>,
}

/// Changes the roles of two sites, planned: `to` writes afterwards, and nothing is lost. To be called where `to` is.
///
/// # Errors
/// [`Error::Refused`] for what the checks have found, and then nothing was changed; [`Error::Unfinished`] when a step has
/// failed: the run is then gone on with by [`Order::Resume`] or taken back by [`Order::Abort`]; others as they say.
///
/// Not cancel-safe: a run that was cut off anywhere is gone on with by [`Order::Resume`].
pub async fn switchover(
    configuration: &Configuration,
    to: &str,
    databases: &[String],
    order: &Order,
    limits: &Limits,
    progress: &mut Progress<'_>,
) -> Result<Report, Error> {
    let site = configuration.site.as_deref();
    if site != Some(to) {
        return Err(Error::Elsewhere { to: to.to_owned(), site: site.map(str::to_owned) });
    }
    let state = &configuration.state_directory;
    // A run is one process: a second one would go by an old reading of the journal.
    let _alone = match order {
        Order::DryRun => None,
        _ => Some(GroupLock::acquire(state, "switchover").map_err(irongate_deployment::Error::from)?),
    };
    let (heading, way) = match order {
        Order::Begin | Order::DryRun => {
            if let (Some(open), true) = (unfinished(state)?, *order == Order::Begin) {
                return Err(Error::Open { run: open });
            }
            (new_heading(configuration, to, databases)?, Way::Forward)
        }
        Order::Resume(run) => (heading_of(state, run.as_deref())?, Way::Forward),
        Order::Abort(run) => (heading_of(state, run.as_deref())?, Way::Back),
    };
    if heading.to != to {
        return Err(Error::OtherRun { run: heading.run, to: heading.to });
    }
    let mut units = Vec::new();
    for database in &heading.databases {
        units.push(Unit {
            pair: configuration.pair(database, to)?,
            from: Place::connect(configuration, database, &heading.from).await?,
            to: Place::connect(configuration, database, to).await?,
        });
    }
    let mut run = Run { configuration, heading: heading.clone(), limits, units };
    if *order == Order::DryRun {
        let begun = Instant::now();
        progress("prechecks", "checking");
        let evidence = run.precheck().await?;
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
            run.precheck().await?;
            Journal::begin(state, heading)?
        }
        _ => Journal::open(state, &heading.run)?,
    };
    run.drive(&mut journal, way, progress).await?;
    Ok(report(journal.heading(), journal.entries()))
}

impl Run<'_> {
    async fn drive(
        &mut self,
        journal: &mut Journal,
        way: Way,
        progress: &mut Progress<'_>,
    ) -> Result<(), Error> {
        loop {
            let steps = switchover::STEPS;
            match next(&steps, journal.entries(), way) {
                Next::Do(place) => {
                    let Step { name, .. } = steps[place];
                    journal.note(What::Step { step: name.to_owned() })?;
                    let begun = Instant::now();
                    progress(name, "begins");
                    let done = self.step(name, progress).await;
                    let seconds = begun.elapsed().as_secs_f64();
                    match done {
                        Ok(evidence) => {
                            journal.note(What::Done { step: name.to_owned(), seconds, evidence })?;
                            progress(name, &format!("done in {seconds:.1} s"));
                        }
                        Err(error) => return Err(self.failed(journal, &steps[..=place], error)),
                    }
                }
                Next::Undo(place) => {
                    let Step { name, .. } = steps[place];
                    journal.note(What::Undo { step: name.to_owned() })?;
                    progress(name, "is taken back");
                    match self.undo(name).await {
                        Ok(evidence) => journal.note(What::Undone { step: name.to_owned(), evidence })?,
                        Err(error) => return Err(self.failed(journal, &steps[place..=place], error)),
                    }
                }
                Next::End(outcome) => journal.note(What::Ended { outcome })?,
                Next::Over(_) => return Ok(()),
                Next::NoReturn(place) => {
                    let (run, step) = (self.heading.run.clone(), steps[place].name);
                    return Err(Error::NoReturn { run, step });
                }
                Next::OnlyBack => return Err(Error::OnlyBack { run: self.heading.run.clone() }),
            }
        }
    }

    /// `begun` are the steps up to the one that has failed.
    fn failed(&self, journal: &mut Journal, begun: &[Step], source: Error) -> Error {
        let step = begun.last().map_or("", |step| step.name);
        let can_abort = !begun.iter().any(|step| step.no_return);
        let failed = What::Failed { step: step.to_owned(), error: source.to_string(), hint: source.hint() };
        match journal.note(failed) {
            Ok(()) => {
                Error::Unfinished { run: self.heading.run.clone(), step, can_abort, source: Box::new(source) }
            }
            Err(error) => error,
        }
    }
}

/// The runs of this site that are not over; there is one at most, unless somebody has copied files.
fn unfinished(state: &Path) -> Result<Option<String>, Error> {
    for run in Journal::runs(state)?.into_iter().rev() {
        let (_, entries) = Journal::read(state, &run)?;
        if !entries.iter().any(|entry| matches!(entry.what, What::Ended { .. })) {
            return Ok(Some(run));
        }
    }
    Ok(None)
}

fn heading_of(state: &Path, run: Option<&str>) -> Result<Heading, Error> {
    let run = match run {
        Some(run) => run.to_owned(),
        None => unfinished(state)?.ok_or(Error::NothingOpen)?,
    };
    Ok(Journal::read(state, &run)?.0)
}

fn new_heading(configuration: &Configuration, to: &str, databases: &[String]) -> Result<Heading, Error> {
    let databases: Vec<String> = configuration.chosen(databases)?.into_iter().map(str::to_owned).collect();
    let mut from: Vec<&str> = Vec::new();
    for database in &databases {
        from.push(&configuration.pair(database, to)?.into.from);
    }
    from.dedup();
    let [from] = from[..] else { return Err(Error::Scattered { to: to.to_owned() }) };
    let digits: String = Timestamp::now().to_string().chars().filter(char::is_ascii_digit).take(20).collect();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let user =
        std::env::var("SUDO_USER").or_else(|_| std::env::var("USER")).unwrap_or_else(|_| "somebody".into());
    Ok(Heading {
        run: format!("switchover-{digits}"),
        plan: "switchover".to_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
        databases,
        holder: format!("{user}@{}", host.trim()),
        release: env!("CARGO_PKG_VERSION").to_owned(),
    })
}
