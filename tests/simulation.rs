//! Extract, trail and Replicat together, over a disk, a connection, a source and a target that fail by a seed.
//!
//! What is real: the decoder, Extract's machine, the trail's writer, recovery, reader and purge, and Replicat's loop.
//! What is simulated: the server that sends (with a slot that remembers only what it was told, and forgets a part of that in a
//! crash), the disk, the target database (which can lose what it had not flushed, or fail with the outcome of a COMMIT
//! unknown), and the order in which all this happens.
//!
//! What must hold in the end, whatever happened: the target has each committed transaction once and in order; and at
//! every moment: the slot was never told of a byte that the trail could lose.
//!
//! `IRONGATE_TEST_SEED=n` runs one history again.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on panics")]

#[path = "simulation/source.rs"]
mod source;
#[path = "simulation/target.rs"]
mod target;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use irongate_apply::{Applier, Grouping, Open, Step};
use irongate_capture::machine::{Machine, Settings};
use irongate_capture::pgoutput::{Decoder, Streaming};
use irongate_tests::Tier;
use irongate_tests::disk::{Dice, Disk, Fault};
use irongate_trail::{
    Begins, Bookmark, CommitLsn, Early, Item, Lineage, Lsn, Mark, Position, PurgePolicy, Reader, ResumeLsn,
    Source, Storage, SyncJob, Timestamp, Writer, WriterOptions, purge, register_reader,
};
use source::{Sent, Server};
use target::{Database, SimTarget};

const LINEAGE: Lineage = Lineage { system_identifier: 1, timeline: 1, slot_incarnation: Lsn(0x100) };

fn clock() -> Timestamp {
    Timestamp(1_000_000)
}

/// The sink of the machine is the writer, as in Extract itself.
struct Extract {
    writer: Writer,
    machine: Machine,
    decoder: Decoder,
    stream: std::vec::IntoIter<Sent>,
    /// A sync that is under way.
    syncing: Option<SyncJob>,
}

impl Extract {
    /// The sync under way comes to its end; `None` if the process has to end.
    fn synced(&mut self) -> Option<()> {
        let Some(job) = self.syncing.take() else { return Some(()) };
        match job.run() {
            Ok(mark) => self.writer.synced(mark).ok()?,
            Err(_) => {
                self.writer.sync_failed();
                return None;
            }
        }
        let durable = self.writer.durable().resume_lsn;
        self.machine.synced(durable).expect("the chain of positions holds");
        Some(())
    }
}

/// The process, if it runs: it goes on while Replicat waits.
type Running = Arc<Mutex<Option<Extract>>>;

fn lock(running: &Running) -> MutexGuard<'_, Option<Extract>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The reader as a source that nobody wakes: the simulation's steps do. While it waits a sync may end, or Extract.
struct Reading(Reader, Running, Dice);

impl Source for Reading {
    fn next(&mut self) -> Result<Option<Item<'_>>, irongate_trail::Error> {
        self.0.next()
    }
    fn position(&self) -> Position {
        self.0.position()
    }
    fn lineage(&self) -> Lineage {
        self.0.lineage()
    }
    fn epoch(&self) -> u64 {
        self.0.epoch()
    }
    fn durable(&self) -> Mark {
        self.0.durable()
    }
    fn bookmark(&self, commit: CommitLsn) -> Option<Bookmark> {
        self.0.bookmark(commit)
    }
    fn go_early(&mut self, beyond: Position) -> Option<Position> {
        self.0.go_early(beyond)
    }
    fn early(&mut self) -> Result<Early, irongate_trail::Error> {
        self.0.early()
    }
    async fn wait(&mut self) -> Result<(), irongate_trail::Error> {
        let mut running = lock(&self.1);
        let ends = match self.2.below(8) {
            0..=4 => running.as_mut().is_some_and(|extract| extract.synced().is_none()),
            5 => true,
            _ => false,
        };
        if ends {
            *running = None;
        }
        Ok(())
    }
}

struct OpenTrail(Disk, Running, Dice);

impl Open for OpenTrail {
    type Source = Reading;
    fn open(&mut self, begins: Begins) -> Result<Reading, irongate_trail::Error> {
        Ok(Reading(Reader::open(self.0.storage(), begins)?, Arc::clone(&self.1), Dice::new(self.2.roll())))
    }
    fn open_near(&mut self, begins: Begins, near: &Bookmark) -> Result<Reading, irongate_trail::Error> {
        let reader = Reader::open_near(self.0.storage(), begins, Some(near))?;
        Ok(Reading(reader, Arc::clone(&self.1), Dice::new(self.2.roll())))
    }
}

struct World {
    dice: Dice,
    disk: Disk,
    server: Server,
    database: Database,
    extract: Running,
    early: u64,
    replicat: Option<Applier<OpenTrail, SimTarget>>,
    grouping: Grouping,
    /// Nothing fails any more.
    calm: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let disk = Disk::new(dice.roll());
        let server = Server::new(&mut dice);
        let start = ResumeLsn(server.start());
        let options = options(&mut dice);
        drop(Writer::create(disk.storage(), options, start).expect("nothing fails yet"));
        let database = Database::new(LINEAGE, start);
        let grouping = Grouping {
            changes: 1 + dice.below(30) as usize,
            bytes: 100 + dice.below(2000) as usize,
            transactions: 1 + dice.below(10),
        };
        Self {
            dice,
            disk,
            server,
            database,
            extract: Running::default(),
            early: 0,
            replicat: None,
            grouping,
            calm: false,
        }
    }

    fn once_in(&mut self, n: u64) -> bool {
        !self.calm && self.dice.once_in(n)
    }

    fn step(&mut self) {
        match self.dice.below(10) {
            0..=5 => self.extract_step(),
            6..=8 => self.replicat_step(),
            _ => self.settle_and_purge(),
        }
        if self.once_in(60) {
            let fault = match self.dice.below(3) {
                0 => Fault::Crash,
                1 => Fault::Full,
                _ => Fault::Sync,
            };
            self.disk.fail_after(self.dice.below(12), fault);
        }
        if self.once_in(120) || self.disk.has_stopped() {
            self.machine_fails();
        }
        if self.once_in(100) {
            // The source's own crash: the slot forgets a part of what it was told, and the connection is gone.
            self.server.forget(&mut self.dice);
            *lock(&self.extract) = None;
            self.disk.kill();
            self.replicat = None;
        }
        if self.once_in(100) {
            self.database.crash(&mut self.dice);
            self.replicat = None;
        }
    }

    /// Both processes stand on the machine of the trail's disk: killed, or without power.
    fn machine_fails(&mut self) {
        *lock(&self.extract) = None;
        self.replicat = None;
        if self.dice.once_in(2) { self.disk.power_cut() } else { self.disk.kill() }
    }

    fn start_extract(&mut self) -> Option<Extract> {
        let options = options(&mut self.dice);
        let (mut writer, recovered) = match Writer::open(self.disk.storage(), options, Some(LINEAGE)) {
            Ok(opened) => opened,
            Err(error)
                if !self.calm
                    && matches!(
                        error,
                        irongate_trail::Error::Io { .. } | irongate_trail::Error::InUse(_)
                    ) =>
            {
                return None;
            }
            Err(error) => panic!("the trail cannot be opened: {error}"),
        };
        assert!(recovered.missing_before.is_none(), "the mark promised what a power cut took: {recovered:?}");
        let durable = writer.durable();
        assert!(
            self.server.confirmed <= durable.resume_lsn.0,
            "the slot was told {}, the trail has {}",
            self.server.confirmed,
            durable.resume_lsn
        );
        writer.rollback().ok()?;
        Some(Extract {
            writer,
            machine: Machine::new(Settings::default(), durable.resume_lsn, durable.commit_lsn),
            decoder: Decoder::new(Streaming::On),
            stream: self.server.stream(durable.resume_lsn.0).into_iter(),
            syncing: None,
        })
    }

    fn extract_step(&mut self) {
        let running = lock(&self.extract).take();
        let Some(mut extract) = running.or_else(|| self.start_extract()) else { return };
        // On any error the process ends, as Extract does or would be restarted: what it had open is lost with it.
        if self.run_extract(&mut extract).is_some() {
            *lock(&self.extract) = Some(extract);
        } else {
            drop(extract);
            if !self.disk.has_stopped() {
                self.disk.fail_no_more();
            }
        }
    }

    fn run_extract(&mut self, extract: &mut Extract) -> Option<()> {
        extract.synced()?;
        for _ in 0..1 + self.dice.below(20) {
            if self.once_in(80) {
                // The connection is cut: the same process goes on with another.
                extract.machine.disconnected(clock(), &mut extract.writer).ok()?;
                extract.writer.sync().ok()?;
                let durable = extract.writer.durable();
                extract.machine = Machine::new(Settings::default(), durable.resume_lsn, durable.commit_lsn);
                extract.decoder = Decoder::new(Streaming::On);
                extract.stream = self.server.stream(durable.resume_lsn.0).into_iter();
            }
            match extract.stream.next() {
                Some(Sent::Data(lsn, bytes)) => {
                    extract.machine.frame(lsn);
                    let message = extract.decoder.decode(&bytes).expect("the server sends sound messages");
                    extract.machine.message(message, &mut extract.writer).ok()?;
                }
                Some(Sent::Keepalive(wal_end)) => extract.machine.keepalive(wal_end, self.dice.once_in(3)),
                None => break,
            }
        }
        extract.machine.settle(clock(), &mut extract.writer).ok()?;
        // Sometimes the disk takes its time.
        extract.syncing = extract.writer.sync_job().ok()?;
        extract.writer.tell_early();
        if self.once_in(2) {
            return Some(());
        }
        extract.synced()?;
        if !self.once_in(4) {
            let durable = extract.machine.positions().durable;
            extract.machine.confirmed(durable).expect("the chain of positions holds");
            self.server.confirm(durable.0);
        }
        Some(())
    }

    fn replicat_step(&mut self) {
        let mut applier = self.replicat.take().unwrap_or_else(|| {
            let target = SimTarget::new(self.database.clone(), self.dice.roll(), self.calm);
            let trail = OpenTrail(self.disk.clone(), Arc::clone(&self.extract), Dice::new(self.dice.roll()));
            let mut applier = Applier::new(trail, target, self.grouping);
            if let Some(place) = Bookmark::kept(&*self.disk.storage(), "replicat") {
                applier.begin_near(place);
            }
            applier
        });
        let early = applier.totals().early;
        for _ in 0..1 + self.dice.below(3) {
            match run(applier.step()) {
                Ok(Step::Applied) => {}
                Ok(Step::Idle) => break,
                Err(error) => {
                    let injected =
                        matches!(&error, irongate_apply::Error::Trail(irongate_trail::Error::Io { .. }));
                    let expected = error.is_transient() || !self.calm && injected;
                    assert!(expected, "Replicat has to stop: {error}");
                    applier.begin_again();
                    break;
                }
            }
        }
        self.early += applier.totals().early - early;
        self.replicat = Some(applier);
    }

    fn settle_and_purge(&mut self) {
        let Some(applier) = &mut self.replicat else { return };
        if applier.is_within_transaction() || applier.source().is_none() {
            return;
        }
        self.database.flush(&mut self.dice);
        let Ok(low) = run(applier.settle()) else { return };
        if let Some(place) = applier.bookmark() {
            place.keep(&*self.disk.storage(), "replicat");
        }
        let mark = Mark { position: low.position, resume_lsn: low.resume_lsn, ..Mark::default() };
        let storage = self.disk.storage();
        if register_reader(&*storage, "replicat", &mark).is_ok() {
            let _ = purge(&*storage, &PurgePolicy { clock, ..PurgePolicy::default() });
        }
    }

    /// Until the target has everything: nothing fails any more, and no progress is made for ever.
    fn finish(&mut self) {
        self.calm = true;
        self.disk.fail_no_more();
        self.disk.set_capacity(None);
        *lock(&self.extract) = None;
        self.replicat = None;
        self.disk.kill();
        let expected = self.server.expected();
        for _ in 0..10_000 {
            self.extract_step();
            self.replicat_step();
            if self.database.transactions() == expected {
                return;
            }
        }
        assert_eq!(self.database.transactions(), expected, "the target does not come to what was committed");
    }
}

fn options(dice: &mut Dice) -> WriterOptions {
    // Small files, so that there are many.
    WriterOptions { file_size: 500 + dice.below(4000), clock, ..WriterOptions::new("f", LINEAGE) }
}

/// Runs a future that never waits.
fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    runtime.block_on(future)
}

/// One history; says how many transactions were applied before they were durable in the trail.
fn simulate(seed: u64) -> u64 {
    let mut world = World::new(seed);
    for _ in 0..400 {
        world.step();
        world.database.check(&world.server.expected());
    }
    world.finish();
    let _: &Arc<dyn Storage> = &world.disk.storage();
    world.early
}

#[test]
fn whatever_fails_each_transaction_is_applied_once_and_in_order() {
    if let Ok(seed) = std::env::var("IRONGATE_TEST_SEED") {
        println!("{} early", simulate(seed.parse().expect("IRONGATE_TEST_SEED is a number")));
        return;
    }
    let seeds = match Tier::current() {
        Tier::Quick => 200,
        Tier::Ci => 1000,
        Tier::Full => 5000,
    };
    let mut early = 0;
    for seed in 0..seeds {
        match std::panic::catch_unwind(AssertUnwindSafe(|| simulate(seed))) {
            Ok(count) => early += count,
            Err(panic) => {
                println!("seed {seed}: IRONGATE_TEST_SEED={seed} runs it again");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{seeds} seeds, {early} transactions applied before they were durable");
    assert!(early > seeds / 5, "only {early}");
}
