//! What is known of a site that may be lost, and what taking over without it may cost.
//!
//! Everything here is measured by this machine's clock: when the last thing that the other site sent became durable here,
//! and how much it had sent in the minute before. What was committed there since then is lost if that site is, and how
//! much that is can only be estimated: a site that is gone cannot be read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use irongate_checkpoint::{CHECKPOINT_SCHEMA, CheckpointTable};
use irongate_trail::{
    Begins, Commit, CommitLsn, Directory, Item, Lineage, Mark, Reader, ResumeLsn, Storage, Timestamp,
};
use serde_json::{Value, json};

use super::{Run, Unit};
use crate::error::Error;

/// The time before the last received transaction from which the rate is taken, in microseconds.
const WINDOW: i64 = 10_000_000;
/// The shortest time that a rate is taken from, in microseconds.
const SHORTEST: i64 = 1_000_000;

/// What has arrived of a flow at the site that takes over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrived {
    /// How far its trail is durable here.
    pub(super) mark: Mark,
    /// Transactions of the applications in a second, by the end of the trail.
    rate: f64,
    /// The bytes behind the last whole transaction: of one that has not come whole.
    incomplete: u64,
}

impl Arrived {
    /// Seconds since anything came.
    pub(super) fn silence(&self, now: Timestamp) -> f64 {
        now.0.saturating_sub(self.mark.set.0).max(0) as f64 / 1e6
    }

    /// Transactions that may have been committed there since, if the load went on as in the last ten seconds.
    pub(super) fn estimate(&self, now: Timestamp) -> u64 {
        (self.silence(now) * self.rate).ceil() as u64
    }

    /// As a report has it.
    pub(super) fn told(&self, now: Timestamp) -> Value {
        json!({
            "last_received": self.mark.set.to_string(),
            "last_commit_received": self.mark.commit_time.to_string(),
            "last_commit_lsn": self.mark.commit_lsn.to_string(),
            "seconds_since": self.silence(now),
            "transactions_per_second": (self.rate * 10.0).round() / 10.0,
            "estimated_lost_transactions": self.estimate(now),
            "bytes_of_an_incomplete_transaction": self.incomplete,
        })
    }
}

impl Run<'_> {
    /// What has arrived of the flow into the site that takes over; `None` where nothing ever did of the stream that its
    /// checkpoint is of: what lies in the trail then has been applied in an earlier turn of the sites.
    pub(super) async fn arrived(&self, unit: &Unit<'_>) -> Result<Option<Arrived>, Error> {
        let failed = |error: irongate_checkpoint::Error| Error::Deployment(error.into());
        let checkpoint =
            CheckpointTable::prepare(&unit.to.session, &unit.pair.into.name).await.map_err(failed)?;
        let applied = checkpoint.load(&unit.to.session).await.map_err(failed)?.map(|applied| applied.lineage);
        let directory = self.configuration.trail(unit.pair.into);
        let read = tokio::task::spawn_blocking(move || arrived(&directory, applied)).await;
        let read = read.map_err(|error| irongate_deployment::Error::Internal(error.to_string()))?;
        read.map_err(|error| irongate_deployment::Error::from(error).into())
    }

    /// Transactions that the reverse Extract has written to its trail since its slot was made.
    pub(super) async fn rows_of(&self, unit: &Unit<'_>) -> Result<u64, Error> {
        let directory = self.configuration.trail(unit.pair.out_of);
        let read = tokio::task::spawn_blocking(move || written(&directory)).await;
        let read = read.map_err(|error| irongate_deployment::Error::Internal(error.to_string()))?;
        read.map_err(|error| irongate_deployment::Error::from(error).into())
    }

    /// Who of the site that may be lost answers, asked from here and, where there is a hook for it, from elsewhere.
    pub(super) async fn probes(&self) -> Vec<Probe> {
        let from = &self.heading.from;
        let mut probes = Vec::new();
        for unit in &self.units {
            let answer = unit.from().map(|_| "answers".to_owned()).map_err(|error| error.to_string());
            probes.push(Probe { what: format!("database {}.{from}", unit.pair.database), answer });
        }
        let begun = Instant::now();
        let asked = async {
            self.manager(from)?
                .with_patience(self.limits.probe)
                .ping()
                .await
                .map_err(|source| Error::Manager { site: from.clone(), source: Box::new(source) })
        };
        let answer = match tokio::time::timeout(self.limits.probe + Duration::from_secs(1), asked).await {
            Ok(Ok((pid, _))) => Ok(format!("answers as process {pid}")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer in {} s", begun.elapsed().as_secs())),
        };
        probes.push(Probe { what: format!("manager of {from}"), answer });
        // A line that is cut looks from here like a site that is lost.
        if let Some(answer) = self.asked_elsewhere().await {
            let what = format!("{from}, asked from elsewhere");
            probes.push(Probe { what, answer: answer.map(|answer| format!("answers: {answer}")) });
        }
        probes
    }
}

/// A question to a site that may be lost.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    /// What was asked.
    what: String,
    /// What it said, or why it did not.
    pub(super) answer: Result<String, String>,
}

impl Probe {
    pub(super) fn told(&self) -> Value {
        match &self.answer {
            Ok(answer) => json!({ "asked": self.what, "answers": true, "answer": answer }),
            Err(reason) => json!({ "asked": self.what, "answers": false, "answer": reason }),
        }
    }

    /// As a sentence.
    pub(super) fn sentence(&self) -> String {
        match &self.answer {
            Ok(answer) => format!("{} {answer}", self.what),
            Err(reason) => format!("{}: {reason}", self.what),
        }
    }
}

fn arrived(
    directory: &std::path::Path,
    applied: Option<Lineage>,
) -> Result<Option<Arrived>, irongate_trail::Error> {
    if !directory.is_dir() {
        return Ok(None);
    }
    let storage: Arc<dyn Storage> = Arc::new(Directory::new(directory));
    let listing = irongate_trail::list(&*storage)?;
    let (Some(mark), Some(last)) = (listing.durable, listing.files.last()) else { return Ok(None) };
    let lineage =
        listing.files.iter().rev().find_map(|file| file.header.as_ref()).map(|header| header.lineage);
    if let (Some(lineage), Some(applied)) = (lineage, applied)
        && (applied.system_identifier != lineage.system_identifier || applied.is_anew_after(&lineage))
    {
        return Ok(None);
    }
    let incomplete = if last.seqno == mark.position.seqno {
        last.bytes.saturating_sub(mark.position.offset)
    } else {
        last.bytes
    };
    // The last file and the one before it, in case the last has only just begun.
    let first = listing.files.iter().rev().nth(1).unwrap_or(last).seqno;
    let since = mark.commit_time.0.saturating_sub(WINDOW);
    let mut earliest = mark.commit_time.0;
    let recent = transactions(&storage, Begins::File(first), |commit| {
        earliest = earliest.min(commit.commit_time.0.max(since));
        commit.commit_time.0 > since
    })?;
    let span = mark.commit_time.0.saturating_sub(earliest).max(SHORTEST);
    Ok(Some(Arrived { mark, rate: recent as f64 * 1e6 / span as f64, incomplete }))
}

fn written(directory: &std::path::Path) -> Result<u64, irongate_trail::Error> {
    let storage: Arc<dyn Storage> = Arc::new(Directory::new(directory));
    let listing = irongate_trail::list(&*storage)?;
    let Some(header) = listing.files.iter().rev().find_map(|file| file.header.as_ref()) else { return Ok(0) };
    let lineage = header.lineage;
    let begins =
        Begins::After { lineage, commit: CommitLsn::default(), resume: ResumeLsn(lineage.slot_incarnation) };
    transactions(&storage, begins, |_| true)
}

/// Counts the transactions of a trail that change rows which are not Irongate's own.
fn transactions(
    storage: &Arc<dyn Storage>,
    begins: Begins,
    mut wanted: impl FnMut(&Commit) -> bool,
) -> Result<u64, irongate_trail::Error> {
    let mut reader = Reader::open(Arc::clone(storage), begins)?;
    let (mut count, mut rows) = (0, false);
    while let Some(item) = reader.next()? {
        match item {
            Item::Row { relation, .. } => rows |= relation.schema.as_str() != CHECKPOINT_SCHEMA,
            Item::Truncate { .. } => rows = true,
            Item::Commit(commit) => count += u64::from(std::mem::take(&mut rows) && wanted(&commit)),
            Item::Begin(_) | Item::Message(_) | Item::Progress(_) => {}
        }
    }
    Ok(count)
}
