//! A trail as lines of text or of JSON, for people and for other programs. Shows row values: that is what it is for.
//!
//! It reads as a [`Reader`] does, so that whatever it shows is undamaged, and ends at the first place that is not.

mod filter;
mod json;
mod text;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::error::Error;
use crate::format::{FileHeader, main_name};
use crate::reader::{Begins, Entry, Note, Reader};
use crate::source::Item;
use crate::storage::Storage;
use crate::transaction::{Begin, Commit, Progress};

pub use filter::{DumpFilter, KeyValue, Operation};

/// How lines look.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum DumpFormat {
    /// One line a record, for people.
    #[default]
    Text,
    /// One JSON object a record.
    Json,
}

/// What is shown, and how.
#[derive(Clone, Default, Debug)]
pub struct DumpOptions {
    /// How lines look.
    pub format: DumpFormat,
    /// What is shown.
    pub filter: DumpFilter,
    /// Rows of streamed transactions show the sub-transaction they were made in.
    pub subtransactions: bool,
    /// Reads on behind the durable mark, as far as transactions are whole: for the trail of a lost site.
    pub to_the_end: bool,
}

/// Where a record lies.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    file: &'a str,
    offset: u64,
    subtransaction: Option<u32>,
}

/// What a line is about.
enum Record<'a> {
    File(&'a FileHeader),
    Begin(&'a Begin),
    Change(&'a Item<'a>),
    Commit(&'a Commit),
    Progress(&'a Progress),
    Note(&'a Note),
}

/// Walks through a trail and gives a line for each record that is wanted.
#[derive(Debug)]
pub struct Dump {
    reader: Reader,
    options: DumpOptions,
    /// The file whose header was shown last.
    shown: Option<u64>,
    /// The transaction is not wanted.
    unwanted: bool,
    /// The line of a begin that is shown only if something of its transaction is.
    held: Option<String>,
    lines: VecDeque<String>,
    ended: bool,
}

impl Dump {
    /// Begins with the first file that is wanted.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn open(storage: Arc<dyn Storage>, options: DumpOptions) -> Result<Self, Error> {
        let begins = options.filter.first_file.map_or(Begins::First, Begins::File);
        let reader = if options.to_the_end {
            Reader::open_to_the_end(storage, begins)?
        } else {
            Reader::open(storage, begins)?
        };
        Ok(Self {
            reader,
            options,
            shown: None,
            unwanted: false,
            held: None,
            lines: VecDeque::new(),
            ended: false,
        })
    }

    /// The next line, without its newline; `None` at the end of what is durable. More can come later where a writer runs.
    ///
    /// # Errors
    /// As [`Reader::next`]. The lines before are about records that are undamaged; the last transaction may be cut off.
    pub fn next_line(&mut self) -> Result<Option<String>, Error> {
        while self.lines.is_empty() && !self.ended {
            if !self.step()? {
                break;
            }
        }
        Ok(self.lines.pop_front())
    }

    /// Takes in the next record; false if there is none.
    fn step(&mut self) -> Result<bool, Error> {
        let Self { reader, options, shown, unwanted, held, lines, ended } = self;
        let filter = &options.filter;
        let print = |place: Place<'_>, record: Record<'_>| match options.format {
            DumpFormat::Text => text::line(place, &record),
            DumpFormat::Json => json::line(place, &record),
        };
        let top = |file| Place { file, offset: 0, subtransaction: None };
        let Some(seen) = reader.next_entry()? else {
            // The last file may hold nothing but its header.
            let header = reader.header();
            if filter.takes_everything() && filter.takes_file(header.seqno) && *shown != Some(header.seqno) {
                *shown = Some(header.seqno);
                lines.push_back(print(top(&main_name(header.seqno)), Record::File(header)));
            }
            return Ok(false);
        };
        let subtransaction = seen.subtransaction.filter(|_| options.subtransactions);
        let place = Place { file: seen.file, offset: seen.offset, subtransaction };
        if !filter.takes_file(seen.header.seqno) {
            *ended = true;
            return Ok(false);
        }
        if filter.takes_everything() && *shown != Some(seen.header.seqno) {
            *shown = Some(seen.header.seqno);
            lines.push_back(print(top(&main_name(seen.header.seqno)), Record::File(seen.header)));
        }
        match &seen.entry {
            Entry::Item(Item::Begin(begin)) => {
                *unwanted = !filter.takes_transaction(begin);
                if !*unwanted && filter.is_by_change() {
                    *held = Some(print(place, Record::Begin(begin)));
                } else if !*unwanted {
                    lines.push_back(print(place, Record::Begin(begin)));
                }
            }
            Entry::Item(Item::Commit(commit)) => {
                // Where nothing inside was wanted, the frame is not wanted either.
                if !*unwanted && held.take().is_none() {
                    lines.push_back(print(place, Record::Commit(commit)));
                }
                *unwanted = false;
            }
            Entry::Item(Item::Progress(progress)) => {
                if filter.takes_everything() {
                    lines.push_back(print(place, Record::Progress(progress)));
                }
            }
            Entry::Item(item) => {
                let takes = if seen.in_transaction {
                    !*unwanted && filter.takes_change(item)
                } else {
                    !filter.is_by_transaction() && filter.takes_change(item)
                };
                if takes {
                    lines.extend(held.take());
                    lines.push_back(print(place, Record::Change(item)));
                }
            }
            Entry::Note(note) => {
                if filter.takes_everything() && !matches!(note, Note::Passed) {
                    lines.push_back(print(place, Record::Note(note)));
                }
            }
        }
        Ok(true)
    }
}
