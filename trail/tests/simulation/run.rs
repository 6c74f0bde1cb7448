//! One run: what happens is thrown by dice, what must hold is asserted all along.

use std::collections::BTreeMap;
use std::sync::Arc;

use irongate_trail::{
    Begins, CommitLsn, Error, Item, Lineage, Lsn, Mark, Message, Progress, PurgePolicy, Reader, ResumeLsn,
    Severity, Storage, SyncJob, Timestamp, Writer, WriterOptions, check, purge, register_reader,
};

use crate::disk::{Dice, Disk, Fault};
use crate::source::{self, Change, Made, Transaction};

pub(crate) struct Told {
    pub(crate) crashes: u64,
    pub(crate) committed: u64,
}

/// A streamed transaction under way.
struct Streaming {
    transaction: Transaction,
    sent: usize,
}

/// A reader and what it has seen.
struct Seen {
    reader: Option<Reader>,
    /// The transaction being read: its number, its changes so far.
    open: Option<(u64, Vec<Change>)>,
    /// The last whole one.
    number: u64,
    mark: Mark,
}

pub(crate) struct Run {
    seed: u64,
    dice: Dice,
    disk: Disk,
    storage: Arc<dyn Storage>,
    lineage: Lineage,
    epoch: u64,
    writer: Option<Writer>,
    jobs: Vec<SyncJob>,
    /// The next transaction to be committed at the source.
    next: u64,
    streaming: BTreeMap<u64, Streaming>,
    /// What the source was told is durable.
    confirmed: ResumeLsn,
    /// Reads the whole trail; begins anew after each restart.
    whole: Seen,
    /// Goes on where it was, by its checkpoint.
    checkpointed: Seen,
    crashes: u64,
    commits: u64,
}

const START: ResumeLsn = ResumeLsn(Lsn(10));

fn is_stopped(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.to_string().contains("has stopped"))
}

impl Seen {
    fn new() -> Self {
        Self { reader: None, open: None, number: 0, mark: Mark { resume_lsn: START, ..Mark::default() } }
    }
}

impl Run {
    pub(crate) fn new(seed: u64) -> Self {
        let disk = Disk::new(seed.wrapping_mul(77));
        Self {
            seed,
            dice: Dice::new(seed),
            storage: disk.storage(),
            disk,
            lineage: Lineage { system_identifier: 7, timeline: 1, slot_incarnation: Lsn(5) },
            epoch: 1,
            writer: None,
            jobs: Vec::new(),
            next: 1,
            streaming: BTreeMap::new(),
            confirmed: ResumeLsn::default(),
            whole: Seen::new(),
            checkpointed: Seen::new(),
            crashes: 0,
            commits: 0,
        }
    }

    fn options(&mut self) -> WriterOptions {
        let file_size = 500 + self.dice.below(20_000);
        WriterOptions { file_size, epoch: self.epoch, ..WriterOptions::new("sim", self.lineage) }
    }

    pub(crate) fn play(mut self) -> Told {
        for _ in 0..60 + self.dice.below(200) {
            if self.writer.is_none() {
                self.restart();
                continue;
            }
            if self.dice.once_in(25) {
                let fault = [Fault::Crash, Fault::Full, Fault::Sync][self.dice.below(3) as usize];
                self.disk.fail_after(self.dice.below(30), fault);
            }
            if self.dice.once_in(60) {
                self.stop_the_machine();
                continue;
            }
            if self.dice.once_in(10) && !self.disk.has_stopped() {
                self.purge();
            }
            if self.dice.once_in(30) && !self.disk.has_stopped() {
                self.check();
            }
            let result = self.act();
            self.judge(result);
            if !self.disk.has_stopped() && self.dice.once_in(2) {
                let count = self.dice.below(40);
                self.read(count);
            }
        }
        self.disk.fail_no_more();
        if self.disk.has_stopped() {
            self.stop_the_machine();
        }
        while self.writer.is_none() {
            self.restart();
        }
        self.disk.set_capacity(None);
        self.disk.fail_no_more();
        let result = self.synced();
        self.judge(result);
        if self.writer.is_some() {
            self.read(u64::MAX);
            assert_eq!(self.whole.number, self.next - 1, "everything committed is read at the end");
            assert_eq!(self.checkpointed.number, self.next - 1);
            self.check();
        }
        Told { crashes: self.crashes, committed: self.commits }
    }

    fn writer(&mut self) -> &mut Writer {
        self.writer.as_mut().expect("a writer")
    }

    /// What an error means: to be made again, or the process ends and begins again.
    fn judge(&mut self, result: Result<(), Error>) {
        let Err(error) = result else { return };
        if self.disk.has_stopped() {
            assert!(is_stopped(&error) || matches!(error, Error::Poisoned(_)), "{error}");
            self.stop_the_machine();
            return;
        }
        let expected = error.is_disk_full()
            || matches!(error, Error::Poisoned(_))
            || error.to_string().contains("sync failed");
        assert!(expected, "{error}");
        self.disk.set_capacity(None);
        if !error.is_disk_full() || self.dice.once_in(4) {
            // The process ends by itself, nothing is lost but what it had in memory.
            self.end_the_process();
        } else {
            self.reconnect();
        }
    }

    /// Whoever is not registered may lose what he stands in, and begins anew.
    fn purge(&mut self) {
        let policy = PurgePolicy { min_files: self.dice.below(4) as usize, ..PurgePolicy::default() };
        match purge(&*self.storage, &policy) {
            Ok(purged) if purged.removed.is_empty() => {}
            Ok(_) => self.whole = Seen::new(),
            Err(error) => {
                self.whole = Seen::new();
                let failed = error.to_string().contains("sync failed");
                assert!(self.disk.has_stopped() || failed, "{error}");
            }
        }
    }

    /// What a check has to say of a trail that has lived through all this. A side file that is being streamed is no finding
    /// while the writer lives, nor is what it has not synced yet.
    fn check(&mut self) {
        let report = check(&self.storage, |_| {}).unwrap_or_else(|error| panic!("{error}"));
        assert!(report.is_being_written);
        let worst =
            report.findings.iter().filter(|finding| finding.severity > Severity::Orphan).collect::<Vec<_>>();
        assert!(worst.is_empty(), "{worst:?}");
    }

    fn end_the_process(&mut self) {
        self.writer = None;
        self.jobs.clear();
        self.streaming.clear();
        if self.dice.once_in(2) {
            self.disk.kill();
            self.forget_readers();
        }
    }

    fn forget_readers(&mut self) {
        self.whole = Seen::new();
        self.checkpointed.reader = None;
        self.checkpointed.open = None;
    }

    fn stop_the_machine(&mut self) {
        self.crashes += 1;
        self.writer = None;
        self.jobs.clear();
        self.streaming.clear();
        if self.dice.once_in(3) {
            self.disk.kill();
        } else {
            self.disk.power_cut();
        }
        self.forget_readers();
        self.disk.set_capacity(None);
    }

    fn restart(&mut self) {
        if self.dice.once_in(8) {
            self.disk.fail_after(self.dice.below(12), Fault::Crash);
        }
        self.epoch += u64::from(self.dice.once_in(10));
        let options = self.options();
        let opened = match Writer::open(Arc::clone(&self.storage), options.clone(), Some(self.lineage)) {
            Err(Error::Missing(_)) => {
                assert_eq!(self.confirmed, ResumeLsn::default(), "a trail does not vanish");
                Writer::create(Arc::clone(&self.storage), options, START).map(|writer| (writer, None))
            }
            other => other.map(|(writer, recovered)| (writer, Some(recovered))),
        };
        match opened {
            Ok((writer, recovered)) => {
                if let Some(recovered) = recovered {
                    assert_eq!(recovered.missing_before, None, "the disk never lied");
                }
                let mark = writer.durable();
                assert_eq!(mark, Mark { set: mark.set, ..writer.appended() });
                assert!(mark.resume_lsn >= self.confirmed, "{mark:?} but {} confirmed", self.confirmed);
                assert!(Transaction::number(mark.commit_lsn) >= self.checkpointed.number, "taken back");
                self.confirmed = mark.resume_lsn;
                self.next = Transaction::number(mark.commit_lsn) + 1;
                self.writer = Some(writer);
            }
            Err(error) => {
                // An epoch that was begun before the fault stays begun.
                let mark = irongate_trail::durable(&*self.storage);
                let expected = error.is_disk_full() || error.to_string().contains("sync failed");
                assert!(self.disk.has_stopped() || expected, "{error}; the mark is {mark:?}");
                if self.disk.has_stopped() {
                    self.stop_the_machine();
                }
            }
        }
    }

    /// The connection is lost: what has begun is taken back, the source sends it again.
    fn reconnect(&mut self) {
        self.streaming.clear();
        while let Err(error) = self.writer().rollback() {
            if self.disk.has_stopped() {
                return self.stop_the_machine();
            }
            assert!(error.is_disk_full(), "{error}");
        }
        let appended = self.writer().appended();
        self.next = Transaction::number(appended.commit_lsn) + 1;
    }

    fn act(&mut self) -> Result<(), Error> {
        match self.dice.below(20) {
            0..=8 => self.commit_next(),
            9..=11 => self.stream_some(),
            12 => {
                let resume_lsn = self.writer().appended().resume_lsn;
                self.retry(|writer| writer.progress(&Progress { resume_lsn, time: Timestamp(1) }))
            }
            13 => self.retry(|writer| {
                let resume = writer.appended().resume_lsn;
                let content = b"between";
                writer.message(&Message { transactional: false, lsn: resume.0, prefix: "x", content })
            }),
            14 => match self.dice.below(4) {
                0 => self.retry(Writer::rotate),
                1 => {
                    self.epoch += 1;
                    let epoch = self.epoch;
                    self.retry(|writer| writer.begin_epoch(epoch))
                }
                2 => {
                    let room = self.disk.used() + self.dice.below(30_000);
                    self.disk.set_capacity(Some(room));
                    Ok(())
                }
                _ => {
                    self.reconnect();
                    Ok(())
                }
            },
            15 => self.writer().flush(),
            16..=17 => self.start_a_job(),
            18 => self.run_the_jobs(),
            _ => {
                if self.jobs.is_empty() {
                    self.synced()
                } else {
                    self.run_the_jobs()
                }
            }
        }
    }

    /// A call that fails for lack of room is made again once there is room: nothing may be doubled by that.
    fn retry(&mut self, call: impl Fn(&mut Writer) -> Result<(), Error>) -> Result<(), Error> {
        match call(self.writer()) {
            Err(error) if error.is_disk_full() && self.dice.once_in(2) => {
                self.disk.set_capacity(None);
                call(self.writer())
            }
            other => other,
        }
    }

    fn commit_next(&mut self) -> Result<(), Error> {
        let transaction = source::transaction(self.seed, self.next);
        if transaction.streamed {
            let streaming = self
                .streaming
                .remove(&self.next)
                .unwrap_or_else(|| Streaming { transaction: transaction.clone(), sent: 0 });
            let Transaction { begin, commit, made, aborted, .. } = &transaction;
            for made in &made[streaming.sent..] {
                self.side(begin.xid, made)?;
            }
            for subxid in aborted {
                self.writer().side_abort(begin.xid, *subxid)?;
            }
            self.retry(|writer| writer.adopt(begin.xid, begin, commit).map(|adopted| assert!(adopted)))?;
        } else {
            self.retry(|writer| writer.begin(&transaction.begin))?;
            for (place, made) in transaction.made.iter().enumerate() {
                if self.dice.once_in(200) {
                    assert!(place < transaction.made.len());
                    self.reconnect();
                    return Ok(());
                }
                self.retry(|writer| match &made.change {
                    Change::Row { relation, operation, tuples } => {
                        writer.relation(relation)?;
                        writer.row(relation.id, *operation, tuples)
                    }
                    Change::Truncate(relation) => {
                        writer.relation(relation)?;
                        writer.truncate(&source::truncate(relation))
                    }
                    Change::Message(content) => writer.message(&source::message(content)),
                })?;
            }
            self.retry(|writer| writer.commit(&transaction.commit))?;
        }
        self.next += 1;
        self.commits += 1;
        Ok(())
    }

    fn side(&mut self, xid: u32, made: &Made) -> Result<(), Error> {
        let subxid = made.subxid;
        self.retry(|writer| match &made.change {
            Change::Row { relation, operation, tuples } => {
                writer.side_relation(xid, relation)?;
                writer.side_row(xid, subxid, relation.id, *operation, tuples)
            }
            Change::Truncate(relation) => {
                writer.side_relation(xid, relation)?;
                writer.side_truncate(xid, subxid, &source::truncate(relation))
            }
            Change::Message(content) => writer.side_message(xid, subxid, &source::message(content)),
        })
    }

    /// A piece of a transaction that commits later, or one that is rolled back.
    fn stream_some(&mut self) -> Result<(), Error> {
        if self.dice.once_in(5) {
            let xid = self.next as u32 * 100 + 99;
            let transaction = source::transaction(self.seed, self.next + 500);
            for made in &transaction.made {
                self.side(xid, made)?;
            }
            return self.writer().side_drop(xid);
        }
        let number = self.next + self.dice.below(60);
        let transaction = source::transaction(self.seed, number);
        if !transaction.streamed {
            return Ok(());
        }
        let streaming = self.streaming.entry(number).or_insert_with(|| Streaming { transaction, sent: 0 });
        let xid = streaming.transaction.begin.xid;
        let rest: Vec<Made> = streaming.transaction.made[streaming.sent..].to_vec();
        let count = self.dice.below(rest.len() as u64 + 1) as usize;
        for made in &rest[..count] {
            self.side(xid, made)?;
            if let Some(streaming) = self.streaming.get_mut(&number) {
                streaming.sent += 1;
            }
        }
        Ok(())
    }

    fn start_a_job(&mut self) -> Result<(), Error> {
        if let Some(job) = self.writer().sync_job()? {
            // One in five is lost, as when a task is cancelled.
            if !self.dice.once_in(5) {
                self.jobs.push(job);
            }
        }
        Ok(())
    }

    fn run_the_jobs(&mut self) -> Result<(), Error> {
        for job in std::mem::take(&mut self.jobs) {
            match job.run() {
                Ok(mark) => {
                    drop(job);
                    match self.writer().synced(mark) {
                        Err(Error::Misuse(_)) => return Ok(()),
                        other => other?,
                    }
                    self.tell_the_source();
                }
                Err(error) => {
                    self.writer().sync_failed();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn synced(&mut self) -> Result<(), Error> {
        self.jobs.clear();
        self.writer().sync()?;
        self.tell_the_source();
        Ok(())
    }

    fn tell_the_source(&mut self) {
        let durable = self.writer().durable();
        assert!(durable.resume_lsn >= self.confirmed, "the mark went back");
        self.confirmed = durable.resume_lsn;
    }

    fn read(&mut self, count: u64) {
        let mut whole = std::mem::replace(&mut self.whole, Seen::new());
        let mut checkpointed = std::mem::replace(&mut self.checkpointed, Seen::new());
        self.follow(&mut whole, Begins::First, u64::MAX);
        let (commit, resume) = (checkpointed.mark.commit_lsn, checkpointed.mark.resume_lsn);
        let begins = Begins::After { lineage: self.lineage, commit, resume };
        self.follow(&mut checkpointed, begins, count);
        if self.dice.once_in(20) {
            // It begins again by its checkpoint.
            (checkpointed.reader, checkpointed.open) = (None, None);
        }
        (self.whole, self.checkpointed) = (whole, checkpointed);
        if self.dice.once_in(4) && !self.disk.has_stopped() {
            let registered = register_reader(&*self.storage, "checkpointed", &self.checkpointed.mark);
            assert!(registered.is_ok() || self.disk.has_stopped() || self.is_full(&registered));
        }
    }

    fn is_full(&self, result: &Result<(), Error>) -> bool {
        result.as_ref().is_err_and(|error| error.is_disk_full() || error.to_string().contains("sync failed"))
    }

    /// Reads up to `count` items, or as many as there are.
    fn follow(&mut self, seen: &mut Seen, begins: Begins, mut count: u64) {
        if seen.reader.is_none() {
            match Reader::open(Arc::clone(&self.storage), begins) {
                Ok(reader) => {
                    if matches!(begins, Begins::First) {
                        seen.number = Transaction::number(reader.previous());
                    }
                    seen.reader = Some(reader);
                }
                Err(Error::Missing(_) | Error::NotDurable(_)) => return,
                Err(Error::Behind { .. }) if self.writer.is_none() => return,
                Err(error) => panic!("{error}"),
            }
        }
        let Some(reader) = &mut seen.reader else { return };
        while count > 0 {
            count -= 1;
            let Some(item) = reader.next().unwrap_or_else(|error| panic!("{error}")) else { break };
            match item {
                Item::Begin(begin) => {
                    assert!(seen.open.is_none());
                    let number = Transaction::number(begin.commit_lsn);
                    assert_eq!(number, seen.number + 1, "in order, none left out, none twice");
                    assert_eq!(begin.previous, CommitLsn(Lsn(seen.number * 1000)));
                    seen.open = Some((number, Vec::new()));
                }
                Item::Commit(commit) => {
                    let (number, changes) = seen.open.take().expect("a transaction");
                    let expected = source::transaction(self.seed, number);
                    assert_eq!(changes.len() as u64, commit.changes);
                    assert!(changes == expected.changes(), "transaction {number} is not what was sent");
                    seen.number = number;
                    seen.mark = Mark {
                        position: reader.position(),
                        resume_lsn: commit.end_lsn,
                        commit_lsn: commit.commit_lsn,
                        ..Mark::default()
                    };
                }
                Item::Progress(progress) => {
                    assert!(seen.open.is_none());
                    seen.mark.resume_lsn = seen.mark.resume_lsn.max(progress.resume_lsn);
                }
                Item::Message(message) if seen.open.is_none() => {
                    assert_eq!((message.transactional, message.content), (false, &b"between"[..]));
                }
                change => {
                    let (_, changes) = seen.open.as_mut().expect("a transaction");
                    changes.extend(source::read(&change));
                }
            }
        }
    }
}
