//! How far a flow is behind, at each stage and end to end.
//!
//! Places are compared: the end of the source's log, as the source says it; what Extract has decoded; the durable end of
//! the trail, as the trail says it; what is durable at the other site, where there is a pump; and what is applied, as
//! Replicat's status says it. So the answer holds also while a process is down, whose own last word would say nothing of
//! what has come since.

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
#[derive(Clone, PartialEq, Default, Debug, Serialize)]
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
    /// From the source's log to what Extract has decoded of it: a part of `extract`.
    pub decoded: Stage,
    /// From the source's log to the trail, durable.
    pub extract: Stage,
    /// From the trail to that of the other site, durable there; `None` for a flow without a pump.
    pub pump: Option<Stage>,
    /// From the trail to what the feed has told, acknowledged there; `None` for a flow without one. No part of the flow's own
    /// lag: others wait for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feed: Option<Stage>,
    /// From the trail (at the site of the target, where there are two) to the target.
    pub replicat: Stage,
    /// From the source's log to the target, in bytes of the log.
    pub lag_bytes: Option<u64>,
    /// From the source's log to the target, in seconds.
    pub lag_seconds: Option<f64>,
    /// Why the source could not be asked; then nobody knows how far `extract` is behind.
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
    let pump = match &flow.pump {
        Some(_) => Some(status(Program::Pump)?),
        None => None,
    };
    let feed = match &flow.feed {
        Some(_) => Some(status(Program::Feed)?),
        None => None,
    };
    let directory = configuration.trail(flow);
    let durable =
        if directory.is_dir() { irongate_trail::durable(&Directory::new(&directory))? } else { None };
    let asked = match tokio::time::timeout(PATIENCE, end_of_log(configuration, flow)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    };
    let statuses = Statuses { extract, pump, feed, replicat };
    Ok(measure(&flow.name, &statuses, durable.as_ref(), asked, Timestamp::now()))
}

/// What the processes of a flow say of themselves.
#[derive(Default)]
struct Statuses {
    extract: Option<Status>,
    /// The outer `None`: the flow has no pump.
    pump: Option<Option<Status>>,
    /// As `pump`.
    feed: Option<Option<Status>>,
    replicat: Option<Status>,
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
    /// From the source's log, which ends at `end_of_log`, to the durable end of the trail. While the source is silent nobody
    /// knows: what Extract said last was said of another log's end.
    pub fn of_extract(
        extract: Option<&Status>,
        durable: Option<&Mark>,
        end_of_log: Option<Lsn>,
        now: Timestamp,
    ) -> Self {
        let mut stage = Self {
            state: extract.map(|status| status.state),
            // Before the first trail there is nothing to measure by.
            lag_bytes: extract.and_then(|status| status.lag_bytes).filter(|_| end_of_log.is_some()),
            lag_seconds: extract.and_then(|status| status.lag_seconds).filter(|_| end_of_log.is_some()),
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

    /// From the source's log, which ends at `end_of_log`, to what Extract has decoded of it.
    pub fn of_decoding(extract: Option<&Status>, end_of_log: Option<Lsn>, now: Timestamp) -> Self {
        let mut stage = Self { state: extract.map(|status| status.state), ..Self::default() };
        if let (Some(status), Some(end)) = (extract, end_of_log)
            && let Some(decoded) = status.decoded_lsn
        {
            let bytes = end.bytes_since(decoded);
            stage.lag_bytes = Some(bytes);
            // While it lives, what the server has not sent yet was written a moment ago, or the server is slow, and then
            // the lag of the trail shows it.
            let waited = if status.state.is_live() { None } else { Some(seconds(status.written, now)) };
            stage.lag_seconds = if bytes == 0 { Some(0.0) } else { waited };
        }
        stage
    }

    /// From the durable end of the trail to the target.
    pub fn of_replicat(replicat: Option<&Status>, durable: Option<&Mark>, now: Timestamp) -> Self {
        Self::behind_trail(replicat, durable, now)
    }

    /// From the durable end of the trail here to what is durable of it at the other site, as the pump was told.
    pub fn of_pump(pump: Option<&Status>, durable: Option<&Mark>, now: Timestamp) -> Self {
        Self::behind_trail(pump, durable, now)
    }

    /// From the durable end of the trail to what a feed has told.
    pub fn of_feed(feed: Option<&Status>, durable: Option<&Mark>, now: Timestamp) -> Self {
        Self::behind_trail(feed, durable, now)
    }

    fn behind_trail(reader: Option<&Status>, durable: Option<&Mark>, now: Timestamp) -> Self {
        let mut stage = Self { state: reader.map(|status| status.state), ..Self::default() };
        if let (Some(status), Some(durable)) = (reader, durable)
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

impl Lag {
    /// Adds up: the bytes of all stages, and the longest wait.
    pub fn of_stages(
        flow: &str,
        decoded: Stage,
        extract: Stage,
        pump: Option<Stage>,
        replicat: Stage,
        source_silent: Option<String>,
    ) -> Self {
        let stages: Vec<&Stage> =
            [Some(&extract), pump.as_ref(), Some(&replicat)].into_iter().flatten().collect();
        let bytes = stages.iter().map(|stage| stage.lag_bytes).collect::<Option<Vec<_>>>();
        let lag_bytes = bytes.map(|all| all.into_iter().fold(0, u64::saturating_add));
        let waits = stages.iter().map(|stage| stage.lag_seconds).collect::<Option<Vec<_>>>();
        let lag_seconds = waits.map(|all| all.into_iter().fold(0.0, f64::max));
        Self {
            flow: flow.to_owned(),
            decoded,
            extract,
            pump,
            feed: None,
            replicat,
            lag_bytes,
            lag_seconds,
            source_silent,
        }
    }

    /// With how far the feed is behind.
    #[must_use]
    pub fn with_feed(self, feed: Option<Stage>) -> Self {
        Self { feed, ..self }
    }
}

fn measure(
    flow: &str,
    statuses: &Statuses,
    durable: Option<&Mark>,
    end_of_log: Result<Lsn, String>,
    now: Timestamp,
) -> Lag {
    let Statuses { extract, pump, feed, replicat } = statuses;
    let end = end_of_log.as_ref().ok().copied();
    Lag::of_stages(
        flow,
        Stage::of_decoding(extract.as_ref(), end, now),
        Stage::of_extract(extract.as_ref(), durable, end, now),
        pump.as_ref().map(|pump| Stage::of_pump(pump.as_ref(), durable, now)),
        Stage::of_replicat(replicat.as_ref(), durable, now),
        end_of_log.err(),
    )
    .with_feed(feed.as_ref().map(|feed| Stage::of_feed(feed.as_ref(), durable, now)))
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
        let statuses = Statuses { extract: Some(extract), replicat: Some(replicat), ..Statuses::default() };
        let lag = measure("f", &statuses, Some(&mark), Ok(Lsn(1100)), now);
        assert_eq!((lag.extract.lag_bytes, lag.extract.lag_seconds), (Some(1000), Some(10.0)));
        assert_eq!((lag.replicat.lag_bytes, lag.replicat.lag_seconds), (Some(0), Some(0.0)));
        assert_eq!((lag.lag_bytes, lag.lag_seconds), (Some(1000), Some(10.0)));
    }

    #[test]
    fn a_dead_replicat_is_measured_by_the_trail_and_not_by_its_last_word() {
        let extract = status(Program::Extract, State::Running, 490, 500);
        let replicat = status(Program::Replicat, State::Stopped, 90, 100);
        let now = Timestamp(80 * SECOND);
        let feed = Some(Some(status(Program::Feed, State::Running, 290, 300)));
        let statuses = Statuses { extract: Some(extract), replicat: Some(replicat), feed, pump: None };
        let lag = measure("f", &statuses, Some(&mark(490, 500)), Ok(Lsn(500)), now);
        assert_eq!(lag.feed.as_ref().and_then(|feed| feed.lag_bytes), Some(200), "others wait for that");
        assert_eq!((lag.replicat.lag_bytes, lag.replicat.lag_seconds), (Some(400), Some(30.0)));
        assert_eq!((lag.lag_bytes, lag.lag_seconds), (Some(400), Some(30.0)));
    }

    #[test]
    fn a_silent_source_leaves_nothing_known() {
        let extract = status(Program::Extract, State::Running, 90, 100);
        let silent = Err("refused".to_owned());
        let statuses = Statuses { extract: Some(extract), ..Statuses::default() };
        let lag = measure("f", &statuses, Some(&mark(90, 100)), silent, Timestamp(0));
        assert_eq!((lag.extract.lag_bytes, lag.extract.lag_seconds), (None, None));
        assert_eq!((lag.lag_seconds, lag.extract.state), (None, Some(State::Running)));
        assert_eq!((lag.lag_bytes, lag.source_silent.as_deref()), (None, Some("refused")));
    }

    #[test]
    fn each_stage_is_behind_the_one_before_it() {
        let mut extract = status(Program::Extract, State::Running, 490, 500);
        extract.decoded_lsn = Some(Lsn(600));
        let pump = status(Program::Pump, State::Running, 290, 300);
        let replicat = status(Program::Replicat, State::Running, 90, 100);
        let statuses =
            Statuses { extract: Some(extract), pump: Some(Some(pump)), feed: None, replicat: Some(replicat) };
        let lag = measure("f", &statuses, Some(&mark(490, 500)), Ok(Lsn(1000)), Timestamp(70 * SECOND));
        assert_eq!(lag.decoded.lag_bytes, Some(400));
        assert_eq!(lag.extract.lag_bytes, Some(500));
        let pump = lag.pump.clone().unwrap();
        assert_eq!((pump.lag_bytes, pump.lag_seconds), (Some(200), Some(20.0)));
        // Measured here, against the trail here; whoever knows the trail there puts its own stage in.
        assert_eq!(lag.replicat.lag_bytes, Some(400));
        let there = Stage { state: Some(State::Running), lag_bytes: Some(50), lag_seconds: Some(30.0) };
        let whole = Lag::of_stages("f", lag.decoded, lag.extract, lag.pump, there, None);
        assert_eq!((whole.lag_bytes, whole.lag_seconds), (Some(750), Some(30.0)));
        let unknown = Lag::of_stages("f", whole.decoded, whole.extract, None, Stage::default(), None);
        assert_eq!((unknown.lag_bytes, unknown.lag_seconds), (None, None));
    }
}
