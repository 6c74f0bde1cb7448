//! The directory that a salvage leaves: a report for people, a document for programs, scripts, and the form in which
//! somebody decides.
//!
//! It is written under another name and gets its own when it is whole, so that a directory of the name is a salvage that came to
//! its end. What is read is written at once; a transaction that turns out not to be whole is cut off again. Only the owner
//! may read it: it holds the values of rows.

pub(super) mod report;
pub(super) mod tape;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use irongate_trail::{Begin, Commit, Lsn};
use serde::{Deserialize, Serialize};

use self::tape::{Scripts, Tape};
use super::change::{Change, Operation, TableName, Verdict};
use super::live::Placed;
use super::problem::Problem;
use super::record;
use super::sql::{self, Insist, Recorded, Shape};

/// The document for programs.
pub(super) const DOCUMENT: &str = "salvage.json";
/// The report for people.
pub(super) const REPORT: &str = "report.txt";
/// The script that would repeat everything.
const SCRIPT: &str = "replay.sql";
/// The same, a script a table.
const SCRIPTS: &str = "tables";
/// So many conflicts are listed at the head of the report; more are counted.
const MOST_CONFLICTS: usize = 200;
/// The layout of the document.
pub(super) const FORMAT: u32 = 1;

/// Where a lost transaction was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Found {
    /// In the lost site's trail: it was captured and never shipped.
    Trail,
    /// In its slot: it was never captured.
    Slot,
}

/// What a salvage is about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Heading {
    /// The layout of the document.
    pub format: u32,
    /// The release that wrote it.
    pub release: String,
    /// The salvage's name.
    pub run: String,
    /// When it was made, by this machine's clock.
    pub made: String,
    /// The lost site.
    pub site: String,
    /// The site that writes.
    pub live: String,
    /// The database.
    pub database: String,
    /// The flow from the one to the other.
    pub flow: String,
    /// The lost cluster, as far as it is known.
    pub system_identifier: String,
    /// Its timeline.
    pub timeline: u32,
    /// Where its slot was created.
    pub slot_incarnation: String,
    /// Everything that was committed before it at the lost site is at the live one.
    pub divergence: String,
    /// How far the lost site's log went when it was looked into; none if its server could not be asked.
    pub looked_up_to: Option<String>,
    /// The transaction id at the live site of what was applied last.
    pub applied_by: Option<String>,
    /// The point was given by hand, and the live site was not asked.
    pub by_hand: bool,
}

/// A stretch of the lost site's log of which nobody can say what was committed there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Unknown {
    /// Its beginning.
    pub from: String,
    /// Its end, if that is known.
    pub to: Option<String>,
    /// Why.
    pub why: String,
}

/// What was lost of one table.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct TableTotals {
    /// New rows.
    pub inserts: u64,
    /// Changed rows.
    pub updates: u64,
    /// Rows that are gone.
    pub deletes: u64,
    /// Times that it was emptied.
    pub truncates: u64,
    /// Changes that do not fit what is at the live site now.
    pub conflicts: u64,
    /// Changes of which that cannot be told.
    pub untold: u64,
}

impl TableTotals {
    /// All changes.
    pub fn changes(&self) -> u64 {
        self.inserts + self.updates + self.deletes + self.truncates
    }

    fn add(&mut self, change: &Change) {
        *match change.operation {
            Operation::Insert => &mut self.inserts,
            Operation::Update => &mut self.updates,
            Operation::Delete => &mut self.deletes,
            Operation::Truncate => &mut self.truncates,
        } += 1;
        match change.there.as_ref().map(|there| there.verdict) {
            Some(Verdict::Conflict) => self.conflicts += 1,
            Some(Verdict::Unknown) => self.untold += 1,
            _ => {}
        }
    }

    fn plus(&mut self, other: &Self) {
        self.inserts += other.inserts;
        self.updates += other.updates;
        self.deletes += other.deletes;
        self.truncates += other.truncates;
        self.conflicts += other.conflicts;
        self.untold += other.untold;
    }
}

/// A conflict, named without values.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Conflict {
    /// The transaction.
    pub xid: u32,
    /// Where it was committed.
    pub commit_lsn: String,
    /// The change in it.
    pub number: u64,
    /// What it does.
    pub operation: Operation,
    /// To which table.
    pub table: String,
    /// What is in its way.
    pub reason: String,
}

/// What a salvage has found.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Lost transactions.
    pub transactions: u64,
    /// Of these, in the trail.
    pub in_trail: u64,
    /// Of these, in the slot.
    pub in_slot: u64,
    /// Their changes.
    pub changes: u64,
    /// When the first was committed.
    pub first_commit: Option<String>,
    /// When the last was.
    pub last_commit: Option<String>,
    /// Changes that do not fit what is at the live site now.
    pub conflicts: u64,
    /// Changes of which that cannot be told.
    pub untold: u64,
    /// By table.
    pub tables: BTreeMap<String, TableTotals>,
    /// The first of the conflicts.
    pub first_conflicts: Vec<Conflict>,
    /// What nobody can know.
    pub unknown: Vec<Unknown>,
    /// What else was noticed.
    pub notes: Vec<String>,
}

/// The transaction that is being written.
#[derive(Debug)]
struct Open {
    begin: Begin,
    found: Found,
    changes: u64,
    tables: BTreeMap<TableName, TableTotals>,
    conflicts: Vec<Conflict>,
    /// Where document, script and report were before it.
    before: Option<[u64; 3]>,
}

/// A directory that is being written.
#[derive(Debug)]
pub(super) struct Writer {
    heading: Heading,
    /// What it will be called, and what it is called until then.
    name: PathBuf,
    partial: PathBuf,
    document: Tape,
    script: Tape,
    scripts: Scripts,
    body: Tape,
    open: Option<Open>,
    pub(super) summary: Summary,
}

fn make(path: &Path) -> Result<(), Problem> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Problem::file("make", path))
}

impl Writer {
    /// Begins a directory.
    ///
    /// # Errors
    /// [`Problem::Exists`], [`Problem::File`].
    pub(super) fn create(name: &Path, heading: Heading, xid: Option<&str>) -> Result<Self, Problem> {
        if fs::read_dir(name).is_ok_and(|mut entries| entries.next().is_some()) || name.is_file() {
            return Err(Problem::Exists(name.to_owned()));
        }
        let last = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let partial = name.with_file_name(format!(".{last}.{}", std::process::id()));
        if let Some(parent) = name.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            make(parent)?;
        }
        // Of a process of this number that was killed.
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(Problem::file("remove", &partial))?;
        }
        make(&partial)?;
        make(&partial.join(SCRIPTS))?;
        let mut document = Tape::create(partial.join(DOCUMENT))?;
        let head = serde_json::to_string(&heading).unwrap_or_default();
        // Everything of the heading, and the document goes on.
        document.write(head.trim_end_matches('}'))?;
        document.write(",\"transactions\":[")?;
        let mut script = Tape::create(partial.join(SCRIPT))?;
        let opening = opening(&heading, xid);
        script.write(&opening)?;
        let scripts = Scripts::new(partial.join(SCRIPTS), opening);
        let body = Tape::create(partial.join(".body"))?;
        let (open, summary) = (None, Summary::default());
        Ok(Self { heading, name: name.to_owned(), partial, document, script, scripts, body, open, summary })
    }

    /// A transaction begins.
    pub(super) fn begin(&mut self, begin: Begin, found: Found) {
        let (tables, conflicts) = (BTreeMap::new(), Vec::new());
        self.open = Some(Open { begin, found, changes: 0, tables, conflicts, before: None });
    }

    /// The number of the next change.
    pub(super) fn next_number(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.changes) + 1
    }

    /// A change of the transaction that was begun.
    pub(super) fn change(&mut self, placed: &Placed, xid: Option<&str>) -> Result<(), Problem> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let Placed { change, shapes, .. } = placed;
        if open.before.is_none() {
            open.before = Some([self.document.at(), self.script.at(), self.body.at()]);
            let Begin { xid, commit_lsn, commit_time, origin, .. } = &open.begin;
            let comma = if self.summary.transactions > 0 { "," } else { "" };
            let origin_text = serde_json::to_string(origin).unwrap_or_default();
            let found = serde_json::to_string(&open.found).unwrap_or_default();
            self.document.write(&format!(
                "{comma}\n{{\"xid\":{xid},\"commit_lsn\":\"{commit_lsn}\",\"commit_time\":\"{commit_time}\",\
                 \"source\":{found},\"origin\":{origin_text},\"changes\":["
            ))?;
            let head = head_of(&open.begin, open.found);
            self.script.write(&format!("\n-- {head}\nBEGIN;\n"))?;
            self.body.write(&format!("\n{head}\n"))?;
        }
        let comma = if open.changes > 0 { "," } else { "" };
        let text = serde_json::to_string(change).unwrap_or_default();
        self.document.write(&format!("{comma}\n{text}"))?;
        open.changes += 1;
        let statement = statement(change, shapes, xid);
        self.script.write(&statement)?;
        for table in change.tables() {
            if !open.tables.contains_key(table) {
                let head = head_of(&open.begin, open.found);
                self.scripts.begin(table, &format!("\n-- {head}\nBEGIN;\n"));
            }
            self.scripts.write(table, &statement)?;
            open.tables.entry(table.clone()).or_default().add(change);
        }
        if let Some(there) = &change.there
            && there.verdict == Verdict::Conflict
        {
            open.conflicts.push(Conflict {
                xid: open.begin.xid,
                commit_lsn: open.begin.commit_lsn.to_string(),
                number: change.number,
                operation: change.operation,
                table: change.table.to_string(),
                reason: there.reason.clone().unwrap_or_default(),
            });
            open.conflicts.truncate(MOST_CONFLICTS);
        }
        report::line(change, open.changes, self.summary.transactions, |line| self.body.write(line))
    }

    /// The transaction is whole.
    pub(super) fn commit(&mut self, commit: &Commit) -> Result<(), Problem> {
        let Some(open) = self.open.take().filter(|open| open.before.is_some()) else { return Ok(()) };
        self.document.write(&format!("],\"end_lsn\":\"{}\"}}", commit.end_lsn))?;
        let commit_lsn = open.begin.commit_lsn.to_string();
        let commit_time = open.begin.commit_time.to_string();
        for (table, totals) in &open.tables {
            let record = sql::record(&Recorded {
                run: &self.heading.run,
                flow: &self.heading.flow,
                system_identifier: &self.heading.system_identifier,
                commit_lsn: &commit_lsn,
                xid: open.begin.xid,
                commit_time: &commit_time,
                table,
                changes: totals.changes(),
                decision: "replay",
            });
            self.script.write(&format!("{record};\n"))?;
            self.scripts.write(table, &format!("{record};\nCOMMIT;\n"))?;
            self.scripts.commit(table);
        }
        self.script.write("COMMIT;\n")?;
        report::left_out(open.changes, self.summary.transactions, |line| self.body.write(line))?;
        let summary = &mut self.summary;
        summary.transactions += 1;
        *match open.found {
            Found::Trail => &mut summary.in_trail,
            Found::Slot => &mut summary.in_slot,
        } += 1;
        summary.changes += open.changes;
        summary.first_commit.get_or_insert_with(|| commit_time.clone());
        summary.last_commit = Some(commit_time);
        for (table, totals) in &open.tables {
            summary.conflicts += totals.conflicts;
            summary.untold += totals.untold;
            summary.tables.entry(table.to_string()).or_default().plus(totals);
        }
        let room = MOST_CONFLICTS.saturating_sub(summary.first_conflicts.len());
        summary.first_conflicts.extend(open.conflicts.into_iter().take(room));
        Ok(())
    }

    /// The transaction is not whole: what was written of it goes.
    pub(super) fn abandon(&mut self) -> Result<(), Problem> {
        let Some(Open { before: Some([document, script, body]), tables, .. }) = self.open.take() else {
            return Ok(());
        };
        self.document.cut(document)?;
        self.script.cut(script)?;
        self.body.cut(body)?;
        tables.keys().try_for_each(|table| self.scripts.cut(table))
    }

    /// Writes what there is.
    pub(super) fn flush(&mut self) -> Result<(), Problem> {
        self.scripts.flush()
    }

    /// Notes a stretch of which nothing can be known.
    pub(super) fn unknown(&mut self, from: Lsn, to: Option<Lsn>, why: impl Into<String>) {
        let (from, to) = (from.to_string(), to.map(|to| to.to_string()));
        self.summary.unknown.push(Unknown { from, to, why: why.into() });
    }

    /// Writes the rest and gives the directory its name. Returns the document's digest.
    pub(super) fn finish(
        mut self,
        decisions: impl FnOnce(&Heading, &Summary, &str) -> String,
    ) -> Result<Finished, Problem> {
        self.abandon()?;
        self.scripts.flush()?;
        let summary = serde_json::to_string(&self.summary).unwrap_or_default();
        self.document.write(&format!("\n],\"summary\":{summary}}}\n"))?;
        let document = self.document.finish()?;
        self.script.finish()?;
        let digest = tape::digest(&document)?;
        let mut text = Tape::create(self.partial.join(REPORT))?;
        text.write(&report::summary(&self.heading, &self.summary, &self.name))?;
        let body = self.body.finish()?;
        text.append(&body)?;
        text.finish()?;
        fs::remove_file(&body).map_err(Problem::file("remove", &body))?;
        let mut form = Tape::create(self.partial.join(super::decisions::FILE))?;
        form.write(&decisions(&self.heading, &self.summary, &digest))?;
        form.finish()?;
        if self.name.exists() {
            // Empty, or it would not have begun.
            fs::remove_dir(&self.name).map_err(Problem::file("replace", &self.name))?;
        }
        fs::rename(&self.partial, &self.name).map_err(Problem::file("rename", &self.partial))?;
        if let Some(parent) = self.name.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::File::open(parent)
                .and_then(|parent| parent.sync_all())
                .map_err(Problem::file("sync", parent))?;
        }
        let (heading, summary) = (self.heading.clone(), std::mem::take(&mut self.summary));
        Ok(Finished { directory: self.name.clone(), heading, summary })
    }
}

impl Drop for Writer {
    /// One that has not come to its end leaves nothing; under its own name it is not found here any more.
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.partial);
    }
}

/// What was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Finished {
    pub(super) directory: PathBuf,
    pub(super) heading: Heading,
    pub(super) summary: Summary,
}

fn head_of(begin: &Begin, found: Found) -> String {
    let found = match found {
        Found::Trail => "from the trail",
        Found::Slot => "from the slot",
    };
    let origin = begin.origin.as_ref().map(|origin| format!(", origin {origin:?}")).unwrap_or_default();
    format!(
        "transaction {} committed {} at {}, {found}{origin}",
        begin.xid, begin.commit_time, begin.commit_lsn
    )
}

/// The part of a script that repeats one change.
fn statement(change: &Change, shapes: &[Arc<Shape>], xid: Option<&str>) -> String {
    let what = format!("change {}", change.number);
    let tables: Vec<String> = change.tables().map(ToString::to_string).collect();
    let said = match &change.there {
        Some(there) => match (&there.verdict, &there.reason) {
            (Verdict::Expected | Verdict::Follows, _) => String::new(),
            (Verdict::Same, _) => "; the live site has it so already".to_owned(),
            (_, Some(reason)) => format!("; {reason}"),
            _ => String::new(),
        },
        None => String::new(),
    };
    let head = format!("-- {what}: {} {}{said}\n", change.operation, tables.join(", ")).replace('\r', " ");
    let head = format!("{}\n", head.trim_end().replace('\n', " "));
    if change.operation == Operation::Truncate {
        let shapes: Vec<&Shape> = shapes.iter().map(|shape| &**shape).collect();
        let guard = xid.map(|xid| sql::not_written_by_others(&shapes, xid, &what)).unwrap_or_default();
        return format!("{head}{guard}{};\n", sql::truncate(&shapes));
    }
    match shapes.first().and_then(|shape| shape.repeat(change, Insist::Unchanged(xid))) {
        Some(statement) => format!("{head}{}\n", statement.guarded(&what)),
        None => format!("{head}-- what was logged does not tell which row: see to it by hand\n"),
    }
}

/// The beginning of a script.
fn opening(heading: &Heading, xid: Option<&str>) -> String {
    let Heading { run, site, live, database, divergence, .. } = heading;
    let checks = match xid {
        Some(_) => "",
        None => {
            "--\n-- The live site was not asked: updates and deletes look for the key only, and not for changes since.\n"
        }
    };
    let setup: String = record::setup(None).iter().map(|statement| format!("{statement};\n")).collect();
    format!(
        "-- Lost transactions of database {database} at site {site}, to be repeated at site {live}. Salvage {run}.\n\
         -- To be read first, and then run by psql as the database's owner; it holds the values of rows.\n\
         -- Everything that was committed at {site} before {divergence} is at {live}.\n\
         --\n\
         -- Each transaction is repeated whole or not at all, and leaves a record in irongate.salvage, so that neither this\n\
         -- script nor \"irongate salvage --apply\" repeats it again. A statement that does not meet just the row that it\n\
         -- expects is an error, and ends the script. Triggers and foreign keys are silent: what they did is in here.\n\
         {checks}\\set ON_ERROR_STOP on\n\
         SET client_encoding = 'UTF8';\nSET search_path = '';\nSET datestyle = 'ISO, YMD';\nSET intervalstyle = 'postgres';\n\
         SET timezone = 'UTC';\nSET lc_monetary = 'C';\nSET xmloption = 'content';\nSET standard_conforming_strings = on;\n\
         SET session_replication_role = replica;\n{setup}"
    )
}
