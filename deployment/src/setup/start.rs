//! The beginning of a flow: its slot, and the trail that begins where the slot does.
//!
//! Of the three things that know where a flow begins (slot, trail, checkpoint) the slot is made first, the trail's new
//! lineage second, the checkpoint last. Cut off in between, the flow has no checkpoint that fits: Replicat refuses to
//! run, and the next set-up or initial load makes slot and trail again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use irongate_checkpoint::{FIRST_EPOCH, GroupLock, Program, Role};
use irongate_postgres::{ReplicationConnection, Session, SlotOptions, SnapshotOption, catalog};
use irongate_trail::{Directory, Lineage, Position, ResumeLsn, Storage, Writer, WriterOptions};

use super::{Event, Progress};
use crate::blocker::{self, Blocker};
use crate::configuration::{Configuration, Flow};
use crate::end::{As, End};
use crate::error::Error;
use crate::groups::group_name;
use crate::setup::FAILOVER_SLOTS;

/// How often it is asked who holds up the creation of a slot.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How long a cancelled creation may take to end.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// A flow that begins here.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) lineage: Lineage,
    /// Transactions that commit before it are in the snapshot, later ones in the stream.
    pub(crate) consistent_point: ResumeLsn,
    /// Where the trail goes on.
    pub(crate) position: Position,
    /// In which epoch the source is written.
    pub(crate) epoch: u64,
    pub(crate) snapshot: String,
    /// Keeps the snapshot alive; the next command on it, or its end, takes the snapshot away.
    pub(crate) _connection: ReplicationConnection,
}

/// As [`lock_groups`], for what must happen at the site of the flow's trail: elsewhere it is refused.
pub(crate) fn lock_groups_here(configuration: &Configuration, flow: &Flow) -> Result<[GroupLock; 2], Error> {
    refuse_elsewhere(configuration, flow)?;
    lock_groups(configuration, flow)
}

/// Refuses what must happen at the site of the flow's trail where this process stands at another.
pub(crate) fn refuse_elsewhere(configuration: &Configuration, flow: &Flow) -> Result<(), Error> {
    match configuration.site.as_ref().filter(|site| **site != flow.at) {
        Some(site) => {
            Err(Error::Elsewhere { flow: flow.name.clone(), at: flow.at.clone(), site: site.clone() })
        }
        None => Ok(()),
    }
}

/// Takes the locks of a flow's groups, so that none of them runs meanwhile.
pub(crate) fn lock_groups(configuration: &Configuration, flow: &Flow) -> Result<[GroupLock; 2], Error> {
    let lock = |program| GroupLock::acquire(&configuration.state_directory, &group_name(&flow.name, program));
    Ok([lock(Program::Extract)?, lock(Program::Replicat)?])
}

/// Creates the flow's slot and begins its trail there. A slot of the name that nobody uses is dropped before: the
/// caller has made sure that nothing is lost by that.
pub(crate) async fn start(
    configuration: &Configuration,
    flow: &Flow,
    limit: Duration,
    progress: &mut Progress<'_>,
) -> Result<Started, Error> {
    let source = End::source(configuration, flow)?;
    let failed = |doing: &str, error| source.failed(doing, error);
    let own = source.connect(As::Extract, "irongate start").await?;
    let epoch = match Role::load(&own).await? {
        None => FIRST_EPOCH,
        Some(role) => role
            .admits(&flow.from)
            .ok_or_else(|| Error::NotLive { end: source.to_string(), live: role.live.clone() })?,
    };
    let slot = catalog::slot(&own, &flow.slot).await.map_err(|error| failed("look at the slot", error))?;
    let mut connection = ReplicationConnection::connect(&source.own_login().endpoint, "irongate start")
        .await
        .map_err(|error| failed("connect for replication", error))?;
    // The administrator may see others' statements.
    let admin = match source.address.admin {
        Some(_) => source.connect(As::Admin, "irongate start").await.ok(),
        None => None,
    };
    let watch = admin.as_ref().unwrap_or(&own);
    if let Some(slot) = slot {
        refuse_foreign(&source, flow, &slot)?;
        probe(&source, &mut connection, watch, limit, progress).await?;
        connection
            .drop_slot(&flow.slot, false)
            .await
            .map_err(|error| failed("drop the unused slot", error))?;
    }
    let identity =
        connection.identify_system().await.map_err(|error| failed("identify the server", error))?;
    let failover = flow.failover_slot && connection.server_version_num() >= FAILOVER_SLOTS;
    let options = SlotOptions { snapshot: SnapshotOption::Export, failover, ..SlotOptions::default() };
    let created =
        create_slot(&source, (&flow.slot, options), &mut connection, watch, limit, progress).await?;
    let lineage = Lineage {
        system_identifier: identity.system_identifier,
        timeline: identity.timeline,
        slot_incarnation: created.consistent_point,
    };
    let consistent_point = ResumeLsn(created.consistent_point);
    let begun = Begin {
        directory: configuration.trail(flow),
        flow: flow.name.clone(),
        reader: reader(flow),
        lineage,
        start: consistent_point,
        epoch,
        server_version: own.server_version_num(),
        file_size: flow.extract.file_size,
    };
    let position = match blocking(move || begun.run()).await? {
        Ok(position) => position,
        Err(error) => {
            // Without a trail nobody reads the slot, and it would keep the server's log for ever.
            if let Err(error) = connection.drop_slot(&flow.slot, false).await {
                tracing::warn!(%error, slot = flow.slot, "cannot drop the slot that was just made");
            }
            return Err(error);
        }
    };
    let snapshot = created.snapshot_name.unwrap_or_default();
    Ok(Started { lineage, consistent_point, position, epoch, snapshot, _connection: connection })
}

/// A slot that is in use, or is not ours, must not be dropped.
pub(crate) fn refuse_foreign(source: &End<'_>, flow: &Flow, slot: &catalog::SlotFacts) -> Result<(), Error> {
    let refuse =
        |reason: String| Err(Error::Slot { slot: flow.slot.clone(), end: source.to_string(), reason });
    if let Some(pid) = slot.active_pid {
        return refuse(format!("it is in use by server process {pid}"));
    }
    if slot.plugin.as_deref() != Some(irongate_postgres::replication::OUTPUT_PLUGIN) {
        return refuse("it is not one of Irongate's: its output plugin is another".to_owned());
    }
    if slot.database.as_deref() != Some(source.address.database()) {
        return refuse("it belongs to another database".to_owned());
    }
    Ok(())
}

/// Finds out, with a slot that vanishes, whether another one can be made in time: before the one that there is goes.
async fn probe(
    source: &End<'_>,
    connection: &mut ReplicationConnection,
    watch: &Session,
    limit: Duration,
    progress: &mut Progress<'_>,
) -> Result<(), Error> {
    let name = format!("irongate_probe_{}", connection.process_id());
    let options =
        SlotOptions { temporary: true, snapshot: SnapshotOption::Nothing, ..SlotOptions::default() };
    match create_slot(source, (&name, options), connection, watch, limit, progress).await {
        Ok(_) => connection
            .drop_slot(&name, false)
            .await
            .map_err(|error| source.failed("drop the slot of the trial", error)),
        // All slots are taken: only the one that goes makes room.
        Err(Error::Database { source: error, .. }) if error.code() == Some("53400") => Ok(()),
        Err(error) => Err(error),
    }
}

/// Creates a slot, watching who holds it up, and gives up after the limit.
pub(crate) async fn create_slot(
    source: &End<'_>,
    (slot, options): (&str, SlotOptions),
    connection: &mut ReplicationConnection,
    watch: &Session,
    limit: Duration,
    progress: &mut Progress<'_>,
) -> Result<irongate_postgres::CreatedSlot, Error> {
    let (pid, canceller) = (connection.process_id(), connection.canceller());
    let creation = connection.create_logical_slot(slot, options);
    let mut creation = std::pin::pin!(creation);
    let deadline = tokio::time::Instant::now() + limit;
    let mut blockers: Vec<Blocker> = Vec::new();
    loop {
        let pause = ASK_EVERY.min(deadline.saturating_duration_since(tokio::time::Instant::now()));
        tokio::select! {
            biased;
            created = &mut creation => {
                return created.map_err(|error| source.failed("create the slot", error));
            }
            () = tokio::time::sleep(pause) => {}
        }
        if let Ok(found) = blocker::of(watch, pid).await
            && !found.is_empty()
        {
            blockers = found;
            progress(Event::Waiting(&blockers));
        }
        if tokio::time::Instant::now() >= deadline {
            // A walsender that waits does not notice that its client is gone. Cancelled, it leaves no slot.
            if let Err(error) = canceller.cancel().await {
                tracing::warn!(%error, pid, "cannot cancel the creation of the slot");
            }
            return match tokio::time::timeout(LAST_WAIT, creation).await {
                // It was just in time.
                Ok(Ok(created)) => Ok(created),
                _ => Err(Error::Blocked { slot: slot.to_owned(), end: source.to_string(), limit, blockers }),
            };
        }
    }
}

/// Who reads the trail that Extract writes: where a pump carries it away, Replicat never does, and its veto would hold
/// back purge for ever.
fn reader(flow: &Flow) -> String {
    let program = if flow.pump.is_some() { Program::Pump } else { Program::Replicat };
    group_name(&flow.name, program)
}

/// What is needed to begin a trail, apart from a thread that may block.
struct Begin {
    directory: PathBuf,
    flow: String,
    reader: String,
    lineage: Lineage,
    start: ResumeLsn,
    epoch: u64,
    server_version: u32,
    file_size: u64,
}

impl Begin {
    fn run(self) -> Result<Position, Error> {
        use irongate_trail::Error as TrailError;

        let directory = Directory::create(&self.directory).map_err(|source| self.failed(source))?;
        let storage: Arc<dyn Storage> = Arc::new(directory);
        let options = WriterOptions {
            file_size: self.file_size,
            server_version: self.server_version,
            epoch: self.epoch,
            ..WriterOptions::new(&self.flow, self.lineage)
        };
        let writer = match Writer::open(Arc::clone(&storage), options.clone(), None) {
            Ok((mut writer, _)) => {
                writer.begin_lineage(self.lineage, self.start)?;
                writer.sync()?;
                writer
            }
            Err(TrailError::Missing(_)) => Writer::create(Arc::clone(&storage), options, self.start)?,
            // A trail whose making was cut off: nobody was ever promised anything of it.
            Err(TrailError::Damaged { .. }) if irongate_trail::durable(&*storage)?.is_none() => {
                for name in names(&*storage, &self.directory)? {
                    storage.remove(&name).map_err(|source| self.failed(source))?;
                }
                Writer::create(Arc::clone(&storage), options, self.start)?
            }
            Err(error) => return Err(error.into()),
        };
        let mark = writer.durable();
        // Until it says how far it is, it needs everything from here on.
        irongate_trail::register_reader(&*storage, &self.reader, &mark)?;
        Ok(mark.position)
    }

    fn failed(&self, source: std::io::Error) -> Error {
        Error::Directory { path: self.directory.clone(), source }
    }
}

/// The files of a trail's directory that hold the trail.
fn names(storage: &dyn Storage, directory: &Path) -> Result<Vec<String>, Error> {
    let names = storage.list().map_err(|source| Error::Directory { path: directory.to_owned(), source })?;
    Ok(names.into_iter().filter(|name| name.ends_with(".trail")).collect())
}

/// Runs what blocks on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use irongate_trail::Lsn;

    use super::*;

    fn begin(directory: &Path, incarnation: u64) -> Begin {
        let start = Lsn(incarnation);
        Begin {
            directory: directory.to_owned(),
            flow: "f".into(),
            reader: "f-replicat".into(),
            lineage: Lineage { system_identifier: 1, timeline: 1, slot_incarnation: start },
            start: ResumeLsn(start),
            epoch: 1,
            server_version: 150_018,
            file_size: 64 << 10,
        }
    }

    fn lineage_of(directory: &Path) -> Lineage {
        let storage: Arc<dyn Storage> = Arc::new(Directory::new(directory));
        Writer::open(storage, WriterOptions::new("f", Lineage::default()), None).unwrap().0.lineage()
    }

    #[test]
    fn a_trail_is_made_where_there_is_none_and_goes_on_in_a_new_lineage_where_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("trail/f");
        let first = begin(&directory, 100).run().unwrap();
        assert_eq!(lineage_of(&directory).slot_incarnation, Lsn(100));
        let second = begin(&directory, 200).run().unwrap();
        assert!(second.seqno > first.seqno, "{first} {second}");
        assert_eq!(lineage_of(&directory).slot_incarnation, Lsn(200));
        let storage = Directory::new(&directory);
        let mark = irongate_trail::durable(&storage).unwrap().unwrap();
        assert_eq!((mark.resume_lsn, mark.position), (ResumeLsn(Lsn(200)), second));
        let readers = irongate_trail::readers(&storage).unwrap();
        assert_eq!((readers[0].0.as_str(), readers[0].1.position), ("f-replicat", second));
    }

    #[test]
    fn a_trail_whose_making_was_cut_off_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        begin(dir.path(), 100).run().unwrap();
        let whole = std::fs::read(dir.path().join("000000001.trail")).unwrap();
        for length in [0, 1, 20, whole.len() - 1] {
            for name in std::fs::read_dir(dir.path()).unwrap() {
                std::fs::remove_file(name.unwrap().path()).unwrap();
            }
            std::fs::write(dir.path().join("000000001.trail"), &whole[..length]).unwrap();
            begin(dir.path(), 300).run().unwrap_or_else(|error| panic!("{length} bytes: {error}"));
            assert_eq!(lineage_of(dir.path()).slot_incarnation, Lsn(300), "{length} bytes");
        }
    }

    #[test]
    fn a_trail_that_was_promised_and_is_damaged_is_not_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        begin(dir.path(), 100).run().unwrap();
        let path = dir.path().join("000000001.trail");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[10] ^= 0xff;
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(begin(dir.path(), 200).run(), Err(Error::Trail(_))));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}
