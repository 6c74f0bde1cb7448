//! A disk in memory that fails in every way a real one does, by a seed, so that a failure can be played again.
//!
//! * A **power cut** ([`Disk::power_cut`]) leaves, of everything that was not synced, any subset: single blocks of a
//!   write, a file's new length without its content (zeros), its content without its new length, a name and not another
//!   one that is older. Only what `sync` and `sync_directory` have confirmed is sure.
//! * A **kill** ([`Disk::kill`]) ends the process and leaves everything that the system was given.
//! * A **fault** ([`Disk::fail_after`]) hits the nth operation from now on: the machine stops in the middle of it, the
//!   disk is full in the middle of it, or a sync fails. After a failed sync the system drops what it could not write and
//!   calls it clean, as Linux does: it is read back as if it were there, and the next sync says that all is well.
//! * A **capacity** ([`Disk::set_capacity`]) makes every write fail that goes beyond.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use irongate_trail::{File, Storage};

/// Bytes that reach the platter together or not at all.
const BLOCK: usize = 512;

/// What happens at an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The machine stops in the middle of it; nothing works until [`Disk::power_cut`] or [`Disk::kill`].
    Crash,
    /// The disk is full in the middle of it. A sync or a removal is passed over and hits the next that can be.
    Full,
    /// A sync fails. Other operations are passed over and it hits the next sync.
    Sync,
}

/// A file's content, apart from its names.
#[derive(Debug, Default)]
struct Inode {
    /// As programs see it.
    live: Vec<u8>,
    /// As the platter holds it.
    disk: Vec<u8>,
    /// Blocks that differ, or may.
    dirty: BTreeSet<usize>,
    resized: bool,
    modified: u64,
}

/// A small generator of numbers: the same seed gives the same numbers on every machine and in every release.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Begins with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number (splitmix64).
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll().checked_rem(bound).unwrap_or(0)
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Debug)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    /// What each name may stand for after a power cut: as at the last directory sync, and each change since.
    history: BTreeMap<String, Vec<Option<usize>>>,
    dice: Dice,
    fault: Option<(u64, Fault)>,
    operations: u64,
    capacity: Option<u64>,
    stopped: bool,
    locked: bool,
    /// Handles of an earlier run of the machine or the process are dead.
    run: u64,
    now: u64,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Debug)]
struct Handle {
    disk: Disk,
    inode: usize,
    run: u64,
    writable: bool,
}

fn full() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "no space left on the simulated disk")
}

fn stopped() -> io::Error {
    io::Error::other("the simulated machine has stopped")
}

fn missing() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "no such file on the simulated disk")
}

impl Inode {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if end > self.live.len() {
            self.dirty.extend(self.live.len() / BLOCK..end.div_ceil(BLOCK));
            self.live.resize(end, 0);
            self.resized = true;
        }
        self.live[offset..end].copy_from_slice(bytes);
        self.dirty.extend(offset / BLOCK..end.div_ceil(BLOCK));
    }

    /// Puts one block on the platter as it is now. The length on the platter grows to hold it.
    fn write_back(&mut self, block: usize) {
        let from = block * BLOCK;
        let to = (from + BLOCK).min(self.live.len());
        if from < to {
            if self.disk.len() < to {
                self.disk.resize(to, 0);
            }
            self.disk[from..to].copy_from_slice(&self.live[from..to]);
        }
    }

    fn write_back_some(&mut self, dice: &mut Dice, once_in: u64) {
        for block in std::mem::take(&mut self.dirty) {
            if dice.once_in(once_in) {
                self.write_back(block);
            } else {
                self.dirty.insert(block);
            }
        }
    }

    fn sync(&mut self) {
        // What counts as clean is not written, be it on the platter or not.
        for block in std::mem::take(&mut self.dirty) {
            self.write_back(block);
        }
        self.disk.resize(self.live.len(), 0);
        self.resized = false;
    }

    fn power_cut(&mut self, dice: &mut Dice) {
        self.write_back_some(dice, 2);
        if self.resized {
            let (short, long) = if self.live.len() < self.disk.len() {
                (self.live.len(), self.disk.len())
            } else {
                (self.disk.len(), self.live.len())
            };
            let length = match dice.below(3) {
                0 => short,
                1 => long,
                _ => short + dice.below((long - short) as u64 + 1) as usize,
            };
            self.disk.resize(length, 0);
        }
        self.live.clone_from(&self.disk);
        self.dirty.clear();
        self.resized = false;
    }
}

impl State {
    /// Counts a changing operation; what is to happen at it, if anything.
    fn operation(&mut self, can_be_full: bool, is_sync: bool) -> io::Result<Option<Fault>> {
        if self.stopped {
            return Err(stopped());
        }
        self.operations += 1;
        let due = match self.fault {
            Some((at, Fault::Crash)) => self.operations >= at,
            Some((at, Fault::Full)) => self.operations >= at && can_be_full,
            Some((at, Fault::Sync)) => self.operations >= at && is_sync,
            None => false,
        };
        let fault = if due { self.fault.take().map(|(_, fault)| fault) } else { None };
        self.stopped |= fault == Some(Fault::Crash);
        Ok(fault)
    }

    fn set_name(&mut self, name: &str, inode: Option<usize>) {
        let before = self.names.get(name).copied();
        self.history.entry(name.to_owned()).or_insert_with(|| vec![before]).push(inode);
        match inode {
            Some(inode) => self.names.insert(name.to_owned(), inode),
            None => self.names.remove(name),
        };
    }

    fn used(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[*inode].live.len() as u64).sum()
    }
}

impl Disk {
    /// An empty disk whose failures follow `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            inodes: Vec::new(),
            names: BTreeMap::new(),
            history: BTreeMap::new(),
            dice: Dice::new(seed),
            fault: None,
            operations: 0,
            capacity: None,
            stopped: false,
            locked: false,
            run: 0,
            now: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same disk as a trail takes it.
    pub fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    /// Lets `fault` happen at the `count`th changing operation from now on, the first being 0.
    pub fn fail_after(&self, count: u64, fault: Fault) {
        let mut state = self.state();
        state.fault = Some((state.operations + 1 + count, fault));
    }

    /// Takes back a fault that has not happened yet.
    pub fn fail_no_more(&self) {
        self.state().fault = None;
    }

    /// Changing operations so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Bytes that all files may have together; `None` for no limit.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.state().capacity = capacity;
    }

    /// Bytes that all files have together.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Sets the time of changes from now on, in seconds since 1970.
    pub fn set_now(&self, now: u64) {
        self.state().now = now;
    }

    /// Whether the machine has stopped.
    pub fn has_stopped(&self) -> bool {
        self.state().stopped
    }

    fn restart(state: &mut State) {
        state.stopped = false;
        state.locked = false;
        state.fault = None;
        state.run += 1;
    }

    /// Ends the process that uses the disk: what the system was given stays.
    pub fn kill(&self) {
        Self::restart(&mut self.state());
    }

    /// Takes the power away: of what was not synced, any part may be gone.
    pub fn power_cut(&self) {
        let state = &mut *self.state();
        for inode in &mut state.inodes {
            inode.power_cut(&mut state.dice);
        }
        for (name, history) in std::mem::take(&mut state.history) {
            match history[state.dice.below(history.len() as u64) as usize] {
                Some(inode) => state.names.insert(name, inode),
                None => state.names.remove(&name),
            };
        }
        Self::restart(state);
    }

    /// A file's content, as programs see it.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(name).map(|inode| state.inodes[*inode].live.clone())
    }

    /// Puts a file there, durable.
    pub fn put(&self, name: &str, content: &[u8]) {
        let mut state = self.state();
        let now = state.now;
        let inode =
            Inode { live: content.to_vec(), disk: content.to_vec(), modified: now, ..Inode::default() };
        state.inodes.push(inode);
        let inode = state.inodes.len() - 1;
        state.names.insert(name.to_owned(), inode);
        state.history.remove(name);
    }
}

/// Held by whoever has the lock.
#[derive(Debug)]
struct Lock {
    disk: Disk,
    run: u64,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.run == self.run {
            state.locked = false;
        }
    }
}

impl Storage for Disk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        let fault = state.operation(true, false)?;
        if state.names.contains_key(name) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the name is taken"));
        }
        if fault == Some(Fault::Full) {
            return Err(full());
        }
        if fault == Some(Fault::Crash) && state.dice.once_in(2) {
            return Err(stopped());
        }
        let now = state.now;
        state.inodes.push(Inode { modified: now, ..Inode::default() });
        let inode = state.inodes.len() - 1;
        state.set_name(name, Some(inode));
        if fault == Some(Fault::Crash) {
            return Err(stopped());
        }
        Ok(Arc::new(Handle { disk: self.clone(), inode, run: state.run, writable: true }))
    }

    fn open(&self, name: &str, writable: bool) -> io::Result<Arc<dyn File>> {
        let state = self.state();
        if state.stopped {
            return Err(stopped());
        }
        let inode = *state.names.get(name).ok_or_else(missing)?;
        Ok(Arc::new(Handle { disk: self.clone(), inode, run: state.run, writable }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        if state.stopped { Err(stopped()) } else { Ok(state.names.keys().cloned().collect()) }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let fault = state.operation(true, false)?;
        let inode = *state.names.get(from).ok_or_else(missing)?;
        if fault == Some(Fault::Full) {
            return Err(full());
        }
        if fault == Some(Fault::Crash) && state.dice.once_in(2) {
            return Err(stopped());
        }
        state.set_name(to, Some(inode));
        state.set_name(from, None);
        if fault == Some(Fault::Crash) { Err(stopped()) } else { Ok(()) }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        let fault = state.operation(false, false)?;
        if !state.names.contains_key(name) {
            return Err(missing());
        }
        if fault == Some(Fault::Crash) && state.dice.once_in(2) {
            return Err(stopped());
        }
        state.set_name(name, None);
        if fault == Some(Fault::Crash) { Err(stopped()) } else { Ok(()) }
    }

    fn sync_directory(&self) -> io::Result<()> {
        let state = &mut *self.state();
        let fault = state.operation(false, true)?;
        if let Some(fault) = fault {
            // Some of the names are sure now, which ones is not known.
            for (_, history) in state.history.iter_mut() {
                if state.dice.once_in(2) {
                    history.drain(..history.len() - 1);
                }
            }
            let error = if fault == Fault::Crash { stopped() } else { io::Error::other("sync failed") };
            return Err(error);
        }
        state.history.clear();
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.state();
        if state.stopped {
            return Err(stopped());
        }
        if state.locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.locked = true;
        Ok(Box::new(Lock { disk: self.clone(), run: state.run }))
    }

    fn modified(&self, name: &str) -> io::Result<u64> {
        let state = self.state();
        let inode = *state.names.get(name).ok_or_else(missing)?;
        Ok(state.inodes[inode].modified)
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/simulated").join(name)
    }
}

impl Handle {
    fn changing(
        &self,
        can_be_full: bool,
        is_sync: bool,
    ) -> io::Result<(MutexGuard<'_, State>, Option<Fault>)> {
        let mut state = self.disk.state();
        if state.run != self.run {
            return Err(stopped());
        }
        if !self.writable && !is_sync {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let fault = state.operation(can_be_full, is_sync)?;
        Ok((state, fault))
    }

    fn reading(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.stopped || state.run != self.run { Err(stopped()) } else { Ok(state) }
    }
}

impl File for Handle {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.reading()?;
        let live = &state.inodes[self.inode].live;
        let rest = live.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (mut state, fault) = self.changing(true, false)?;
        let state = &mut *state;
        let used = state.used();
        let (now, inode) = (state.now, &mut state.inodes[self.inode]);
        let offset = offset as usize;
        let grows = (offset + bytes.len()).saturating_sub(inode.live.len()) as u64;
        let room = state.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(used));
        let written = match fault {
            Some(_) => state.dice.below(bytes.len() as u64 + 1) as usize,
            None if grows > room => bytes.len().saturating_sub((grows - room) as usize),
            None => bytes.len(),
        };
        inode.write(&bytes[..written], offset);
        inode.modified = now;
        // The system may write anything back at any time.
        inode.write_back_some(&mut state.dice, 8);
        match fault {
            Some(Fault::Crash) => Err(stopped()),
            Some(_) => Err(full()),
            None if grows > room => Err(full()),
            None => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let (mut state, fault) = self.changing(false, true)?;
        let state = &mut *state;
        let inode = &mut state.inodes[self.inode];
        match fault {
            None => {
                inode.sync();
                Ok(())
            }
            Some(fault) => {
                inode.write_back_some(&mut state.dice, 2);
                if fault == Fault::Crash {
                    return Err(stopped());
                }
                // What could not be written counts as clean from now on.
                inode.dirty.clear();
                Err(io::Error::other("sync failed"))
            }
        }
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let (mut state, fault) = self.changing(false, false)?;
        let state = &mut *state;
        if fault == Some(Fault::Crash) && state.dice.once_in(2) {
            return Err(stopped());
        }
        let inode = &mut state.inodes[self.inode];
        let length = length as usize;
        inode.resized = true;
        // What comes back after a cut is zero, on the platter too once it is written.
        inode.dirty.extend(length / BLOCK..inode.live.len().max(length).div_ceil(BLOCK));
        inode.live.resize(length, 0);
        if fault == Some(Fault::Crash) { Err(stopped()) } else { Ok(()) }
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.reading()?.inodes[self.inode].live.len() as u64)
    }
}
