//! One flow, looked at: its source, its trail, what its processes say.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use irongate_checkpoint::{State, Status, read_status};
use irongate_deployment::Stage;
use irongate_trail::{Directory, Lsn, Mark, Timestamp, durable};

use super::heartbeat::Heartbeat;
use super::queue::Queue;
use super::sequences::Sequences;
use super::slot::Source;
use super::{FlowView, StageView, TrailView, purge};
use crate::compare::{self, Background, LastCompare};
use crate::event::Notice;
use crate::settings::FlowWatch;

/// A flow and what is kept between two looks.
#[derive(Debug)]
pub(super) struct Flow {
    settings: FlowWatch,
    source: Option<Source>,
    /// Since when the source has not answered.
    silent: Option<Instant>,
    queue: Option<Queue>,
    heartbeat: Option<Heartbeat>,
    sequences: Option<Sequences>,
    compare: Option<Background>,
    /// The last trouble with purge, so that it is told once.
    purge_trouble: Option<Notice>,
    /// What happened on the way, for people.
    pub(super) notices: Vec<Notice>,
}

/// What the files of a flow say.
#[derive(Debug, Default)]
struct Files {
    extract: Option<Status>,
    pump: Option<Status>,
    feed: Option<Status>,
    replicat: Option<Status>,
    mark: Option<Mark>,
    trail: Option<TrailView>,
    compare: Option<LastCompare>,
    purged: Option<Notice>,
}

impl Flow {
    pub(super) fn new(settings: FlowWatch) -> Self {
        let site = settings.site.clone();
        let source = settings.source.clone().map(|endpoint| Source::new(endpoint, site));
        let queue = settings.target.clone().map(|endpoint| Queue::new(endpoint, settings.name.clone()));
        let mut flow = Self {
            settings,
            source,
            silent: None,
            queue,
            heartbeat: None,
            sequences: None,
            compare: None,
            purge_trouble: None,
            notices: Vec::new(),
        };
        flow.beat(!flow.settings.waits);
        flow
    }

    /// Has the source write heartbeats, or not. A flow that waits for its day has one while its Extract runs: before, a
    /// heartbeat would only write to a standby.
    fn beat(&mut self, should: bool) {
        let Self { settings, heartbeat, .. } = self;
        match (&settings.source, settings.heartbeat) {
            (Some(source), Some(every)) if should => {
                let start = || Heartbeat::start(settings.name.clone(), source.clone(), every);
                heartbeat.get_or_insert_with(start);
            }
            _ => *heartbeat = None,
        }
    }

    /// Has the source's sequences looked at, or not: only while Extract takes what is written of them.
    fn follow_sequences(&mut self, should: bool) {
        let Self { settings, sequences, .. } = self;
        match (&settings.source, &settings.sequences) {
            (Some(source), Some(watch)) if should => {
                let start = || Sequences::start(watch.flow.clone(), source.clone(), watch.every);
                sequences.get_or_insert_with(start);
            }
            _ => *sequences = None,
        }
    }

    /// Has the flow compared in the background, or not: only while Replicat brings what is on its way.
    fn compare(&mut self, should: bool, state_directory: &Path) {
        let Self { settings, compare, .. } = self;
        match &settings.compare {
            Some(watch) if should => {
                compare.get_or_insert_with(|| Background::start(watch.clone(), state_directory));
            }
            _ => *compare = None,
        }
    }

    pub(super) fn settings(&self) -> &FlowWatch {
        &self.settings
    }

    /// Looks, and purges the trail on the way.
    pub(super) async fn look(&mut self, state_directory: &Path) -> FlowView {
        let settings = self.settings.clone();
        let directory = state_directory.to_owned();
        let files = tokio::task::spawn_blocking(move || read(&settings, &directory));
        let slot = self.settings.slot.as_deref();
        // At the same time: a target that is gone must not delay what the source says.
        let (answer, pending) = tokio::join!(
            async {
                match &mut self.source {
                    Some(source) => Some(source.ask(slot).await),
                    None => None,
                }
            },
            async {
                match &mut self.queue {
                    Some(queue) => queue.count().await,
                    None => None,
                }
            }
        );
        let mut view =
            FlowView { name: self.settings.name.clone(), errors_pending: pending, ..FlowView::default() };
        let files = match files.await {
            Ok(Ok(files)) => files,
            Ok(Err(trouble)) => {
                view.trouble = Some(trouble);
                Files::default()
            }
            Err(error) => {
                view.trouble = Some(error.to_string());
                Files::default()
            }
        };
        self.purged(files.purged);
        let is_live = files.extract.as_ref().is_some_and(|extract| extract.state.is_live());
        self.beat(!self.settings.waits || is_live);
        self.follow_sequences(is_live);
        let is_applied = files.replicat.as_ref().is_some_and(|replicat| replicat.state.is_live());
        self.compare(is_applied, state_directory);
        let end = match answer {
            Some(Ok(answer)) => {
                // A slot that is there keeps log, whoever waits for what; one that is not yet there is no trouble.
                view.slot = answer.slot.filter(|slot| slot.exists || is_live || !self.settings.waits);
                Some(answer.end)
            }
            Some(Err(silent)) => {
                view.source_silent = Some(silent);
                None
            }
            None => None,
        };
        self.silent = view.source_silent.as_ref().map(|_| self.silent.unwrap_or_else(Instant::now));
        view.silent_seconds = self.silent.map(|since| since.elapsed().as_secs_f64());
        let now = Timestamp::now();
        view.decoded = Stage::of_decoding(files.extract.as_ref(), end, now).into();
        view.pump = Stage::of_pump(files.pump.as_ref(), files.mark.as_ref(), now).into();
        view.feed = Stage::of_feed(files.feed.as_ref(), files.mark.as_ref(), now).into();
        view.extract = extract_lag(files.extract.as_ref(), files.mark.as_ref(), end, now);
        view.replicat = replicat_lag(files.replicat.as_ref(), files.mark.as_ref(), now);
        view.quiet_seconds = self
            .settings
            .expects
            .and_then(|every| quiet(files.replicat.as_ref(), view.replicat.lag_bytes, every, now));
        view.trail = files.trail;
        view.compare = files.compare;
        view.heartbeat = self.heartbeat.as_ref().and_then(Heartbeat::last).map(|time| time.to_string());
        view
    }

    fn purged(&mut self, notice: Option<Notice>) {
        use crate::event::Kind;
        match notice {
            Some(notice) if notice.kind == Kind::Trouble => {
                if self.purge_trouble.as_ref() != Some(&notice) {
                    self.purge_trouble = Some(notice.clone());
                    self.notices.push(notice);
                }
            }
            other => {
                self.purge_trouble = None;
                self.notices.extend(other);
            }
        }
    }
}

fn read(settings: &FlowWatch, state_directory: &Path) -> Result<Files, String> {
    let status = |group: &Option<String>| match group {
        Some(group) => read_status(state_directory, group).map_err(|error| error.to_string()),
        None => Ok(None),
    };
    let mut files = Files {
        extract: status(&settings.extract)?,
        pump: status(&settings.pump)?,
        feed: status(&settings.feed)?,
        replicat: status(&settings.replicat)?,
        compare: compare::last(state_directory, &settings.name).map_err(|error| error.to_string())?,
        ..Files::default()
    };
    let Some(trail) = settings.trail.as_deref() else { return Ok(files) };
    if trail.is_dir() {
        files.purged = settings.purge.and_then(|policy| purge::run(&settings.name, trail, policy));
        files.mark = durable(&Directory::new(trail)).map_err(|error| error.to_string())?;
    }
    files.trail = Some(trail_view(trail).map_err(|error| format!("trail \"{}\": {error}", trail.display()))?);
    Ok(files)
}

fn trail_view(trail: &Path) -> std::io::Result<TrailView> {
    let mut view = TrailView { directory: trail.to_owned(), ..TrailView::default() };
    if trail.is_dir() {
        for entry in fs::read_dir(trail)? {
            let entry = entry?;
            // A file that purge takes away meanwhile is not there.
            let Ok(metadata) = entry.metadata() else { continue };
            view.files += 1;
            view.bytes += metadata.len();
        }
    }
    // Before the first start there is the disk, and no directory yet.
    let mut place: PathBuf = trail.to_owned();
    while !place.exists() && place.pop() {}
    let disk = rustix::fs::statvfs(&place)?;
    view.free_bytes = Some(disk.f_bavail.saturating_mul(disk.f_frsize));
    view.disk_bytes = Some(disk.f_blocks.saturating_mul(disk.f_frsize));
    Ok(view)
}

/// From the source's log to the trail. Measured, where the source answers, so that it holds while Extract is down.
fn extract_lag(extract: Option<&Status>, mark: Option<&Mark>, end: Option<Lsn>, now: Timestamp) -> StageView {
    // Without Extract here there is nothing to say of it.
    extract.map(|extract| Stage::of_extract(Some(extract), mark, end, now).into()).unwrap_or_default()
}

/// For how long nothing has come from the other site, which sends a heartbeat `every` so often: as long as Replicat runs
/// and has applied all that is here. What waits to be applied has come.
fn quiet(replicat: Option<&Status>, behind: Option<u64>, every: Duration, now: Timestamp) -> Option<f64> {
    let replicat = replicat.filter(|status| status.state == State::Running && status.error.is_none())?;
    let last = replicat.last_commit_time.filter(|_| behind == Some(0))?;
    let micros = now.0.saturating_sub(last.0).max(0);
    Some((micros as f64 / 1e6 - every.as_secs_f64()).max(0.0))
}

/// From the trail to the target.
fn replicat_lag(replicat: Option<&Status>, mark: Option<&Mark>, now: Timestamp) -> StageView {
    Stage::of_replicat(replicat, mark, now).into()
}

impl From<Stage> for StageView {
    fn from(stage: Stage) -> Self {
        Self { lag_bytes: stage.lag_bytes, lag_seconds: stage.lag_seconds }
    }
}

#[cfg(test)]
mod tests {
    use irongate_checkpoint::Program;
    use irongate_trail::{CommitLsn, ResumeLsn};

    use super::*;

    const SECOND: i64 = 1_000_000;

    fn status(state: State) -> Status {
        Status {
            state,
            written: Timestamp(60 * SECOND),
            commit_lsn: Some(Lsn(90)),
            resume_lsn: Some(Lsn(100)),
            last_commit_time: Some(Timestamp(50 * SECOND)),
            lag_bytes: Some(7),
            lag_seconds: Some(0.5),
            ..Status::starting("g", "f", Program::Extract)
        }
    }

    fn mark(commit: u64, resume: u64) -> Mark {
        Mark { commit_lsn: CommitLsn(Lsn(commit)), resume_lsn: ResumeLsn(Lsn(resume)), ..Mark::default() }
    }

    #[test]
    fn lag_is_measured_also_while_a_process_is_down() {
        let now = Timestamp(70 * SECOND);
        let lag = |state, end| extract_lag(Some(&status(state)), Some(&mark(90, 100)), end, now);
        let stage = |bytes, seconds| StageView { lag_bytes: Some(bytes), lag_seconds: Some(seconds) };
        assert_eq!(lag(State::Running, Some(Lsn(1100))), stage(1000, 0.5));
        assert_eq!(lag(State::Abended, Some(Lsn(1100))), stage(1000, 10.0));
        assert_eq!(lag(State::Stopped, Some(Lsn(100))), stage(0, 0.0));
        assert_eq!(lag(State::Running, None), StageView::default(), "the source is silent");
        assert_eq!(extract_lag(None, None, Some(Lsn(5)), now), StageView::default());
        let behind = replicat_lag(Some(&status(State::Stopped)), Some(&mark(490, 500)), now);
        assert_eq!(behind, stage(400, 20.0));
        let current = replicat_lag(Some(&status(State::Running)), Some(&mark(90, 100)), now);
        assert_eq!(current, stage(0, 0.0));
    }

    #[test]
    fn quiet_is_what_has_nothing_to_apply_and_gets_no_heartbeat() {
        let every = Duration::from_secs(10);
        let at = |state, behind| quiet(Some(&status(state)), behind, every, Timestamp(100 * SECOND));
        assert_eq!(at(State::Running, Some(0)), Some(40.0));
        assert_eq!(at(State::Running, Some(7)), None, "what waits to be applied has come");
        assert_eq!(at(State::Stopped, Some(0)), None);
        let soon = Timestamp(55 * SECOND);
        assert_eq!(quiet(Some(&status(State::Running)), Some(0), every, soon), Some(0.0));
    }

    #[tokio::test]
    async fn what_is_not_there_yet_is_no_trouble_and_what_is_damaged_is() {
        let dir = tempfile::tempdir().unwrap();
        let settings = FlowWatch {
            name: "f".into(),
            trail: Some(dir.path().join("trail/f")),
            extract: Some("f-extract".into()),
            pump: None,
            feed: None,
            replicat: None,
            source: None,
            site: None,
            slot: None,
            purge: None,
            target: None,
            expects: None,
            heartbeat: None,
            sequences: None,
            compare: None,
            waits: false,
        };
        let mut flow = Flow::new(settings);
        let view = flow.look(dir.path()).await;
        assert_eq!(view.trouble, None);
        assert!(view.trail.unwrap().free_bytes.unwrap() > 0);
        fs::write(dir.path().join("f-extract.status.json"), "{").unwrap();
        let view = flow.look(dir.path()).await;
        assert!(view.trouble.unwrap().contains("f-extract.status.json"));
    }
}
