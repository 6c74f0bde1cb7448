//! How far a flow is behind, at each stage and end to end.
//!
//! Three places are compared: the end of the source's log, as the source says it; the durable end of the trail, as the
//! trail says it; and what is applied, as Replicat's status says it. So the answer holds also while a process is down,
//! whose own last word would say nothing of what has come since.

use std::time::Duration;

use irongate_checkpoint::{Program, State, Status, read_status};
use irongate_postgres::catalog;
use irongate_trail::{Directory, Lsn, Mark, Timestamp};
use serde::Serialize;

use crate::configuration::{Configuration, Flow};
use crate::end::{As, End};
use crate::error::Error;
use crate::groups::group_name;

/// How long the source may take to say where its log ends.
const PATIENCE: Duration = Duration::from_secs(3);

/// How far one stage is behind the one before it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Stage {
    /// Of its process; `None` if it was never started.
    pub state: Option<State>,
    /// Bytes of the source's log that are still to go; `None` if that is not known.
    pub lag_bytes: Option<u64>,
    /// How long the oldest of what is still to go has been waiting, in seconds.
    pub lag_seconds: Option<f64>,
}

/// How far a flow is behind.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Lag {
    /// The flow.
    pub flow: String,
    /// From the source's log to the trail.
    pub extract: Stage,
    /// From the trail to the target.
    pub replicat: Stage,
    /// From the source's log to the target, in bytes of the log.
    pub lag_bytes: Option<u64>,
    /// From the source's log to the target, in seconds.
    pub lag_seconds: Option<f64>,
    /// Why the source could not be asked; then `extract` repeats what Extract said last.
    pub source_silent: Option<String>,
}

/// Measures a flow. Reads the trail's mark and the status files of this machine, and asks the source for three seconds
/// at most.
///
/// # Errors
/// [`Error::Trail`], [`Error::Checkpoint`] when these files cannot be read. A source that does not answer is no error.
///
/// Cancel-safe.
pub async fn lag(configuration: &Configuration, flow: &Flow) -> Result<Lag, Error> {
    let status = |program| read_status(&configuration.state_directory, &group_name(&flow.name, program));
    let (extract, replicat) = (status(Program::Extract)?, status(Program::Replicat)?);
    let directory = configuration.trail(flow);
    let durable =
        if directory.is_dir() { irongate_trail::durable(&Directory::new(&directory))? } else { None };
    let asked = match tokio::time::timeout(PATIENCE, end_of_log(configuration, flow)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    };
    Ok(measure(&flow.name, extract.as_ref(), replicat.as_ref(), durable.as_ref(), asked, Timestamp::now()))
}

async fn end_of_log(configuration: &Configuration, flow: &Flow) -> Result<Lsn, String> {
    let ask = async {
        let source = End::source(configuration, flow)?;
        let session = source.connect(As::Extract, "irongate lag").await?;
        catalog::current_wal_lsn(&session)
            .await
            .map_err(|error| source.failed("ask for the end of the log", error))
    };
    ask.await.map_err(|error: Error| error.to_string())
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.0.saturating_sub(from.0).max(0) as f64 / 1e6
}

impl Stage {
    /// From the source's log, which ends at `end_of_log`, to the durable end of the trail. Without one of these, what
    /// Extract said last.
    pub fn of_extract(
        extract: Option<&Status>,
        durable: Option<&Mark>,
        end_of_log: Option<Lsn>,
        now: Timestamp,
    ) -> Self {
        let mut stage = Self {
            state: extract.map(|status| status.state),
            lag_bytes: extract.and_then(|status| status.lag_bytes),
            lag_seconds: extract.and_then(|status| status.lag_seconds),
        };
        if let (Some(end), Some(durable)) = (end_of_log, durable) {
            let bytes = end.bytes_since(durable.resume_lsn.0);
            stage.lag_bytes = Some(bytes);
            stage.lag_seconds = match extract {
                // A living Extract knows which of these bytes are for it.
                Some(status) if status.state.is_live() => status.lag_seconds,
                // What came since the end of a process has waited since then at most.
                Some(status) if bytes > 0 => Some(seconds(status.written, now)),
                _ => Some(0.0).filter(|_| bytes == 0),
            };
        }
        stage
    }

    /// From the durable end of the trail to the target.
    pub fn of_replicat(replicat: Option<&Status>, durable: Option<&Mark>, now: Timestamp) -> Self {
        let mut stage =
            Self { state: replicat.map(|status| status.state), lag_bytes: None, lag_seconds: None };
        if let (Some(status), Some(durable)) = (replicat, durable)
            && let (Some(commit), Some(resume)) = (status.commit_lsn, status.resume_lsn)
        {
            let behind = durable.commit_lsn.0 > commit;
            stage.lag_bytes = Some(if behind { durable.resume_lsn.0.bytes_since(resume) } else { 0 });
            stage.lag_seconds = match status.last_commit_time {
                Some(last) if behind => Some(seconds(last, now)),
                _ => Some(0.0).filter(|_| !behind),
            };
        }
        stage
    }
}

fn measure(
    flow: &str,
    extract: Option<&Status>,
    replicat: Option<&Status>,
    durable: Option<&Mark>,
    end_of_log: Result<Lsn, String>,
    now: Timestamp,
) -> Lag {
    let first = Stage::of_extract(extract, durable, end_of_log.as_ref().ok().copied(), now);
    let second = Stage::of_replicat(replicat, durable, now);
    let lag_seconds = match (first.lag_seconds, second.lag_seconds) {
        (Some(first), Some(second)) => Some(first.max(second)),
        _ => None,
    };
    let lag_bytes = first.lag_bytes.zip(second.lag_bytes).map(|(first, second)| first.saturating_add(second));
    Lag {
        flow: flow.to_owned(),
        extract: first,
        replicat: second,
        lag_bytes,
        lag_seconds,
        source_silent: end_of_log.err(),
    }
}

#[cfg(test)]
mod tests {
    use irongate_trail::{CommitLsn, ResumeLsn};

    use super::*;

    const SECOND: i64 = 1_000_000;

    fn status(program: Program, state: State, commit: u64, resume: u64) -> Status {
        Status {
            state,
            written: Timestamp(60 * SECOND),
            commit_lsn: Some(Lsn(commit)),
            resume_lsn: Some(Lsn(resume)),
            last_commit_time: Some(Timestamp(50 * SECOND)),
            lag_bytes: Some(7),
            lag_seconds: Some(0.5),
            ..Status::starting("g", "f", program)
        }
    }

    fn mark(commit: u64, resume: u64) -> Mark {
        Mark { commit_lsn: CommitLsn(Lsn(commit)), resume_lsn: ResumeLsn(Lsn(resume)), ..Mark::default() }
    }

    #[test]
    fn a_dead_extract_is_measured_by_what_the_source_has_written_since() {
        let extract = status(Program::Extract, State::Abended, 90, 100);
        let replicat = status(Program::Replicat, State::Running, 90, 100);
        let mark = mark(90, 100);
        let now = Timestamp(70 * SECOND);
        let lag = measure("f", Some(&extract), Some(&replicat), Some(&mark), Ok(Lsn(1100)), now);
        assert_eq!((lag.extract.lag_bytes, lag.extract.lag_seconds), (Some(1000), Some(10.0)));
        assert_eq!((lag.replicat.lag_bytes, lag.replicat.lag_seconds), (Some(0), Some(0.0)));
        assert_eq!((lag.lag_bytes, lag.lag_seconds), (Some(1000), Some(10.0)));
    }

    #[test]
    fn a_dead_replicat_is_measured_by_the_trail_and_not_by_its_last_word() {
        let extract = status(Program::Extract, State::Running, 490, 500);
        let replicat = status(Program::Replicat, State::Stopped, 90, 100);
        let now = Timestamp(80 * SECOND);
        let lag = measure("f", Some(&extract), Some(&replicat), Some(&mark(490, 500)), Ok(Lsn(500)), now);
        assert_eq!((lag.replicat.lag_bytes, lag.replicat.lag_seconds), (Some(400), Some(30.0)));
        assert_eq!((lag.lag_bytes, lag.lag_seconds), (Some(400), Some(30.0)));
    }

    #[test]
    fn a_silent_source_leaves_what_extract_said_last() {
        let extract = status(Program::Extract, State::Running, 90, 100);
        let silent = Err("refused".to_owned());
        let lag = measure("f", Some(&extract), None, Some(&mark(90, 100)), silent, Timestamp(0));
        assert_eq!((lag.extract.lag_bytes, lag.extract.lag_seconds), (Some(7), Some(0.5)));
        assert_eq!((lag.lag_bytes, lag.source_silent.as_deref()), (None, Some("refused")));
    }
}
