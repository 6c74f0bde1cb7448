//! Changes on their way from the trail to the target: whole source transactions, or a piece of one that is large.
//!
//! The bytes of all rows lie in one arena, so that a row costs two copies and no allocation.
//!
//! A change that is in its table's copy already, because the table was loaded under a later snapshot than others, is left
//! out here, before anything is made of it: so no way of applying can meet it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use irongate_checkpoint::{MARKER_PREFIX, TableCounters, TableStarts};
use irongate_postgres::catalog::DDL_PREFIX;
use irongate_trail::{Begin, Commit, Error, Item, Old, Relation, ResumeLsn, Row, Source, Tuple};

use crate::conflict::{Base, Bases, VERSION_PREFIX};
use crate::sequence::{self, Reading, SEQUENCE_PREFIX};
use crate::settings::Grouping;

/// A piece of a large transaction is handed over when it has so many times the changes of a group, where groups are small.
const PIECE: usize = 4;

/// Of a large group, only so many of its changes count for that: more in one statement makes a row no cheaper.
const MORE: usize = 2000;

/// Changes of a piece, by those of a group.
fn piece(changes: usize) -> usize {
    changes.saturating_add(changes.min(MORE) * (PIECE - 1))
}

/// One change, in order.
#[derive(Clone, Debug)]
pub enum Change<'a> {
    /// A row of a table.
    Row {
        /// The table, as an index into [`Batch::relations`].
        relation: usize,
        /// What happened.
        row: Row<'a>,
    },
    /// Tables emptied by one statement.
    Truncate {
        /// The tables, as indexes into [`Batch::relations`].
        relations: &'a [u32],
        /// `CASCADE` was given. The list is complete nevertheless.
        cascade: bool,
        /// `RESTART IDENTITY` was given.
        restart_identity: bool,
        /// Other tables of the statement are left out, because their copies have it already. They may refer to these, and
        /// then the server would not empty these by TRUNCATE.
        partial: bool,
    },
}

#[derive(Clone, Debug)]
enum Stored {
    Row { relation: u32, kind: Kind, old: Range<usize>, new: Range<usize> },
    Truncate { relations: Vec<u32>, cascade: bool, restart_identity: bool, partial: bool },
}

/// Changes that are left out because the copies of their tables have them.
#[derive(Clone, Default, Debug)]
struct Skipping {
    /// Where the tables begin; nothing once all of them have.
    starts: Option<Arc<TableStarts>>,
    /// By schema and name of the source table.
    skipped: HashMap<String, HashMap<String, u64>>,
    count: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Insert,
    Update,
    UpdateKey,
    UpdateFull,
    DeleteKey,
    DeleteFull,
}

/// A source transaction that has changes in a batch.
#[derive(Clone, Debug)]
struct Part {
    begin: Begin,
    /// Index of its first change here, and how many changes of it went before in other batches.
    first: usize,
    before: u64,
}

/// Changes to be applied, in order.
#[derive(Default, Debug)]
pub struct Batch {
    arena: Vec<u8>,
    relations: Vec<Arc<Relation>>,
    known: HashMap<usize, u32>,
    changes: Vec<Stored>,
    parts: Vec<Part>,
    /// The transaction whose end has not been read, and its changes up to the end of this batch.
    open: Option<(Begin, u64)>,
    commit: Option<Commit>,
    commits: u64,
    messages: u64,
    /// See [`Batch::marker`].
    marker: Option<String>,
    progress: Option<ResumeLsn>,
    /// Which version a change replaces, by its index, where the source says so.
    bases: Vec<(usize, Bases)>,
    /// The same of the next change of the table.
    next_base: Option<(Bases, String)>,
    /// Where the source's sequences stand.
    sequences: Vec<Reading>,
    skipping: Skipping,
    /// A change of structure, behind everything else here.
    structure: Option<String>,
    /// The transaction that is open has changed the structure.
    restructures: bool,
    /// One that did has ended here.
    restructured: bool,
}

impl Batch {
    /// Leaves out from here on what the copies of tables have already.
    pub fn skip(&mut self, starts: Option<Arc<TableStarts>>) {
        self.skipping.starts = starts;
    }

    /// Leaves nothing out any more where nothing behind `end` can be in a copy.
    pub fn stop_skipping_behind(&mut self, end: ResumeLsn) {
        if self.skipping.starts.as_ref().is_some_and(|starts| !starts.are_ahead_of(end)) {
            self.skipping.starts = None;
        }
    }

    /// How many changes were left out, by schema and name of the source table.
    pub fn skipped(&self) -> impl Iterator<Item = (&str, &str, u64)> {
        self.skipping.skipped.iter().flat_map(|(schema, tables)| {
            tables.iter().map(|(table, count)| (schema.as_str(), table.as_str(), *count))
        })
    }

    /// Begins to count anew.
    pub fn forget_skipped(&mut self) {
        self.skipping.skipped.clear();
        self.skipping.count = 0;
    }

    /// Whether the copy of a table has what the transaction in hand did to it; it is counted then.
    fn leaves_out(&mut self, relation: &Relation) -> bool {
        let (Some(starts), Some((begin, _))) = (&self.skipping.starts, &self.open) else { return false };
        if !starts.has(&relation.schema, &relation.name, begin.commit_lsn) {
            return false;
        }
        match self
            .skipping
            .skipped
            .get_mut(&relation.schema)
            .and_then(|tables| tables.get_mut(&relation.name))
        {
            Some(count) => *count += 1,
            None => {
                let tables = self.skipping.skipped.entry(relation.schema.clone()).or_default();
                tables.insert(relation.name.clone(), 1);
            }
        }
        self.skipping.count += 1;
        self.changed();
        true
    }

    /// Whether all that is no row was done before up to the transaction in hand.
    fn is_done_up_to_here(&self) -> bool {
        let (Some(starts), Some((begin, _))) = (&self.skipping.starts, &self.open) else { return false };
        starts.has_the_rest(begin.commit_lsn)
    }

    /// Whether there is a TRUNCATE among the changes.
    pub(crate) fn truncates(&self) -> bool {
        self.changes.iter().any(|change| matches!(change, Stored::Truncate { .. }))
    }

    /// Whether it is whole transactions of rows and nothing else that some session would have to know of.
    pub(crate) fn is_plain(&self) -> bool {
        self.end().is_some()
            && !self.is_continued()
            && self.structure.is_none()
            && !self.restructured
            && self.sequences.is_empty()
            && self.bases.is_empty()
            && !self.skips()
            && !self.truncates()
    }

    /// Whether something may be left out.
    pub(crate) fn skips(&self) -> bool {
        self.skipping.starts.is_some()
    }

    /// Whether so much of a transaction that goes on is here that it is to be applied as it is.
    pub(crate) fn is_piece(&self, limits: &Grouping) -> bool {
        self.changes.len() >= piece(limits.changes) || self.arena.len() >= limits.bytes
    }

    /// Adds the changes up by source table.
    pub(crate) fn count(&self, tables: &mut BTreeMap<String, TableCounters>) {
        let mut counts = vec![TableCounters::default(); self.relations.len()];
        for change in self.changes() {
            match change {
                Change::Row { relation, row: Row::Insert { .. } } => counts[relation].inserts += 1,
                Change::Row { relation, row: Row::Update { .. } } => counts[relation].updates += 1,
                Change::Row { relation, row: Row::Delete { .. } } => counts[relation].deletes += 1,
                Change::Truncate { relations, .. } => {
                    relations.iter().for_each(|relation| counts[*relation as usize].truncates += 1);
                }
            }
        }
        for (relation, count) in self.relations.iter().zip(counts) {
            let table = tables.entry(format!("{}.{}", relation.schema, relation.name)).or_default();
            table.inserts += count.inserts;
            table.updates += count.updates;
            table.deletes += count.deletes;
            table.truncates += count.truncates;
        }
    }

    /// Empties the batch for what follows it: a transaction that is open stays open.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.arena.shrink_to(64 << 20);
        self.relations.clear();
        self.known.clear();
        self.changes.clear();
        self.parts.clear();
        self.bases.clear();
        self.sequences.clear();
        self.forget_skipped();
        (self.commit, self.commits, self.messages, self.progress) = (None, 0, 0, None);
        (self.structure, self.restructured) = (None, false);
        if self.open.is_none() {
            self.marker = None;
        }
        self.continue_open();
    }

    /// Makes this batch, emptied, the one that follows `earlier`.
    pub fn follow(&mut self, earlier: &Self) {
        self.open.clone_from(&earlier.open);
        self.marker.clone_from(&earlier.marker);
        self.next_base.clone_from(&earlier.next_base);
        self.skipping.starts.clone_from(&earlier.skipping.starts);
        self.restructures = earlier.restructures;
        self.clear();
    }

    /// Forgets everything, for a source that begins anew.
    pub fn reset(&mut self) {
        (self.open, self.next_base, self.restructures) = (None, None, false);
        self.clear();
    }

    fn continue_open(&mut self) {
        if let Some((begin, before)) = &self.open {
            self.parts.push(Part { begin: begin.clone(), first: 0, before: *before });
        }
    }

    /// Reads from `source` until the group is full or nothing more is durable. True if something came of it. With
    /// `single`, one source transaction is a group.
    ///
    /// # Errors
    /// As the source gives them, and [`Error::Misuse`] for items out of order.
    pub fn fill<S: Source>(
        &mut self,
        source: &mut S,
        limits: &Grouping,
        single: bool,
    ) -> Result<bool, Error> {
        let (most_changes, most_commits) =
            if single { (limits.changes, 1) } else { (limits.changes, limits.transactions) };
        let mut read = false;
        let lineage = source.lineage();
        // What is left out takes no memory, but others wait too while it is read.
        let most_skipped = self.skipping.count.saturating_add(piece(most_changes) as u64);
        loop {
            // Under the new structure, and behind its commit, is another batch.
            if self.structure.is_some() || self.restructured {
                return Ok(read);
            }
            let full = self.changes.len() >= most_changes || self.arena.len() >= limits.bytes;
            let stop = if self.open.is_none() {
                full || self.commits >= most_commits
            } else {
                self.is_piece(limits)
            };
            if stop || self.skipping.count >= most_skipped {
                return Ok(read);
            }
            let Some(item) = source.next()? else { return Ok(read) };
            read = true;
            self.take(item)?;
            let found = source.lineage();
            if found != lineage {
                let (found, expected) = (Box::new(found), Box::new(lineage));
                return Err(Error::Lineage { directory: source.place(), found, expected });
            }
        }
    }

    /// After an error of the source: keeps the whole transactions that were read before it. False if nothing whole is
    /// left.
    pub fn keep_whole(&mut self) -> bool {
        (self.structure, self.restructures) = (None, false);
        if self.open.take().is_some()
            && let Some(part) = self.parts.pop()
        {
            self.changes.truncate(part.first);
            self.bases.retain(|(index, _)| *index < part.first);
        }
        self.commits > 0 && !self.is_continued()
    }

    pub(crate) fn take(&mut self, item: Item<'_>) -> Result<(), Error> {
        match item {
            Item::Begin(begin) => {
                self.parts.push(Part { begin: begin.clone(), first: self.changes.len(), before: 0 });
                (self.open, self.next_base) = (Some((begin, 0)), None);
            }
            Item::Row { relation, .. } if self.leaves_out(relation) => self.next_base = None,
            Item::Row { relation, row } => {
                if let Some((base, table)) = self.next_base.take()
                    && table == format!("{}.{}", relation.schema, relation.name)
                {
                    self.bases.push((self.changes.len(), base));
                }
                let relation = self.relation(relation);
                let kind = match row {
                    Row::Insert { .. } => Kind::Insert,
                    Row::Update { old: None, .. } => Kind::Update,
                    Row::Update { old: Some(Old::Key(_)), .. } => Kind::UpdateKey,
                    Row::Update { old: Some(Old::Full(_)), .. } => Kind::UpdateFull,
                    Row::Delete { old: Old::Key(_) } => Kind::DeleteKey,
                    Row::Delete { old: Old::Full(_) } => Kind::DeleteFull,
                };
                let old = self.keep(row.old().map(Old::tuple));
                let new = self.keep(row.new());
                self.push(Stored::Row { relation, kind, old, new })?;
            }
            Item::Truncate { relations, cascade, restart_identity } => {
                let all = relations.len();
                let mut left: Vec<u32> = Vec::with_capacity(all);
                for relation in &relations {
                    if !self.leaves_out(relation) {
                        left.push(self.relation(relation));
                    }
                }
                if !left.is_empty() || all == 0 {
                    let partial = left.len() < all;
                    self.push(Stored::Truncate { relations: left, cascade, restart_identity, partial })?;
                }
            }
            Item::Message(message) => {
                let is_done = self.is_done_up_to_here();
                if let (Some((_, count)), true) = (&mut self.open, message.transactional) {
                    *count += 1;
                    if is_done {
                        // What is read again for the tables that were copied meanwhile says nothing new.
                    } else if message.prefix == MARKER_PREFIX {
                        self.marker = Some(String::from_utf8_lossy(message.content).into_owned());
                    } else if message.prefix == VERSION_PREFIX {
                        self.say_base(Base::parse(message.content));
                    } else if message.prefix == DDL_PREFIX {
                        self.structure = Some(String::from_utf8_lossy(message.content).into_owned());
                        self.restructures = true;
                    } else if message.prefix == SEQUENCE_PREFIX {
                        self.sequences.extend(sequence::parse(message.content).unwrap_or_default());
                    }
                }
                self.messages += 1;
            }
            Item::Commit(commit) => {
                if self.open.take().is_none() {
                    return Err(Error::Misuse("a commit without a transaction"));
                }
                self.restructured |= std::mem::take(&mut self.restructures);
                self.commit = Some(commit);
                self.commits += 1;
            }
            Item::Progress(progress) => self.progress = Some(progress.resume_lsn),
        }
        Ok(())
    }

    fn push(&mut self, change: Stored) -> Result<(), Error> {
        let Some((_, count)) = &mut self.open else {
            return Err(Error::Misuse("a change outside a transaction"));
        };
        *count += 1;
        self.changed();
        self.changes.push(change);
        Ok(())
    }

    /// Takes what the source says of the next change. What it says of the change's new key comes first.
    fn say_base(&mut self, said: Option<(Base, bool, &str)>) {
        let before = self.next_base.take();
        self.next_base = said.map(|(base, of_new_key, table)| {
            let bases = if of_new_key {
                Bases { row: None, new_key: Some(base) }
            } else {
                let before = before.filter(|(bases, of)| bases.row.is_none() && of == table);
                Bases { row: Some(base), new_key: before.and_then(|(bases, _)| bases.new_key) }
            };
            (bases, table.to_owned())
        });
    }

    /// A marker that came before is no longer the last of all.
    fn changed(&mut self) {
        if self.marker.as_ref().is_none_or(|marker| !marker.is_empty()) {
            self.marker = Some(String::new());
        }
    }

    fn relation(&mut self, relation: &Arc<Relation>) -> u32 {
        let address = Arc::as_ptr(relation).addr();
        if let Some(last) = self.relations.last()
            && Arc::ptr_eq(last, relation)
        {
            return (self.relations.len() - 1) as u32;
        }
        *self.known.entry(address).or_insert_with(|| {
            self.relations.push(Arc::clone(relation));
            (self.relations.len() - 1) as u32
        })
    }

    fn keep(&mut self, tuple: Option<Tuple<'_>>) -> Range<usize> {
        let start = self.arena.len();
        if let Some(tuple) = tuple {
            self.arena.extend_from_slice(tuple.as_bytes());
        }
        start..self.arena.len()
    }

    /// Tables that the changes speak of.
    pub fn relations(&self) -> &[Arc<Relation>] {
        &self.relations
    }

    /// How many changes there are.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether there is no change; there can be a commit nevertheless, of a transaction with messages only.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Whether the last transaction goes on in the next batch.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The last commit, if the batch ends with one.
    pub fn end(&self) -> Option<Commit> {
        if self.open.is_none() { self.commit } else { None }
    }

    /// Whether the batch begins within a transaction.
    pub fn is_continued(&self) -> bool {
        self.parts.first().is_some_and(|part| part.before > 0)
    }

    /// Where the source begins again by the last progress record that was passed.
    pub fn progress(&self) -> Option<ResumeLsn> {
        self.progress
    }

    /// Source transactions that end here.
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// Logical messages passed over.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// What is to stand in the target as the last marker (a logical message with the prefix [`MARKER_PREFIX`]): nothing
    /// where changes have come behind it, and `None` where neither has come. So a marker that stands at the target proves
    /// that everything before it is applied and that nothing has come behind it.
    pub fn marker(&self) -> Option<&str> {
        self.marker.as_deref()
    }

    /// Where the source's sequences stand, in the order of the messages that said so.
    pub fn sequences(&self) -> &[Reading] {
        &self.sequences
    }

    /// What the source says of a change of its structure; it lies behind all changes of the batch, and its transaction goes
    /// on.
    pub fn structure(&self) -> Option<&str> {
        self.structure.as_deref()
    }

    /// Whether a table has the structure already that the transaction makes that goes on behind the batch.
    pub fn has_structure(&self, schema: &str, table: &str) -> bool {
        let (Some(starts), Some((begin, _))) = (&self.skipping.starts, &self.open) else { return false };
        starts.has_structure(schema, table, begin.commit_lsn)
    }

    /// The transaction that goes on behind the batch.
    pub fn open_transaction(&self) -> Option<&Begin> {
        self.open.as_ref().map(|(begin, _)| begin)
    }

    /// Bytes of rows.
    pub fn bytes(&self) -> usize {
        self.arena.len()
    }

    /// The change at `index`.
    ///
    /// # Panics
    /// If `index` is not below [`Batch::len`].
    #[inline]
    pub fn change(&self, index: usize) -> Change<'_> {
        match &self.changes[index] {
            Stored::Row { relation, kind, old, new } => {
                let old = || Tuple::from_checked(&self.arena[old.clone()]);
                let new = Tuple::from_checked(&self.arena[new.clone()]);
                let row = match kind {
                    Kind::Insert => Row::Insert { new },
                    Kind::Update => Row::Update { old: None, new },
                    Kind::UpdateKey => Row::Update { old: Some(Old::Key(old())), new },
                    Kind::UpdateFull => Row::Update { old: Some(Old::Full(old())), new },
                    Kind::DeleteKey => Row::Delete { old: Old::Key(old()) },
                    Kind::DeleteFull => Row::Delete { old: Old::Full(old()) },
                };
                Change::Row { relation: *relation as usize, row }
            }
            Stored::Truncate { relations, cascade, restart_identity, partial } => {
                let (cascade, restart_identity, partial) = (*cascade, *restart_identity, *partial);
                Change::Truncate { relations, cascade, restart_identity, partial }
            }
        }
    }

    /// Which version the change at `index` replaces, if its source says so.
    pub fn bases(&self, index: usize) -> Bases {
        let at = self.bases.binary_search_by_key(&index, |(index, _)| *index);
        at.map_or_else(|_| Bases::default(), |at| self.bases[at].1)
    }

    /// All changes in order.
    pub fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        (0..self.changes.len()).map(|index| self.change(index))
    }

    /// The transaction of the change at `index`, and the change's number in it, from 1.
    pub fn place(&self, index: usize) -> Option<(&Begin, u64)> {
        let next = self.parts.partition_point(|part| part.first <= index);
        // Of several that start at the same change, all but the last are empty.
        let part = self.parts.get(next.checked_sub(1)?)?;
        Some((&part.begin, part.before + (index - part.first) as u64 + 1))
    }
}

#[cfg(test)]
mod tests;
