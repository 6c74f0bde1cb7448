//! The journal of a run: what was to be done, what was begun, what came of it, and what shows it.
//!
//! A line of JSON for each entry, appended and synced before the next thing is done, in `runs/ID.jsonl` under the state
//! directory. A step whose beginning stands there and whose end does not may have been done or not: it is looked at
//! again. A last line without an end was being written when the run was killed: it was never acted on, and is cut off.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use irongate_trail::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;
use crate::plan::By;

/// Subdirectory of the state directory.
pub(crate) const DIRECTORY: &str = "runs";
/// Extension of a journal.
const EXTENSION: &str = "jsonl";

/// What a run is about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Heading {
    /// The run.
    pub run: String,
    /// Its plan, such as `switchover`.
    pub plan: String,
    /// The site that writes when it begins.
    pub from: String,
    /// The site that is to write.
    pub to: String,
    /// The databases.
    pub databases: Vec<String>,
    /// Who began it, and where.
    pub holder: String,
    /// The release of Irongate.
    pub release: String,
    /// The loss of what was not sent was accepted.
    #[serde(default)]
    pub accept_loss: bool,
    /// A site that answers is taken over nevertheless.
    #[serde(default)]
    pub force: bool,
    /// The run that the other site was lost in the middle of, which a failover goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<String>,
    /// How a site that comes back is made a copy.
    #[serde(default, skip_serializing_if = "By::is_copy")]
    pub by: By,
}

/// What an entry says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum What {
    /// The run begins.
    Begun(Heading),
    /// A step begins.
    Step {
        /// The step.
        step: String,
    },
    /// A step is done and verified.
    Done {
        /// The step.
        step: String,
        /// How long it took.
        seconds: f64,
        /// What shows it.
        evidence: Value,
    },
    /// A step has failed; what it did stands.
    Failed {
        /// The step.
        step: String,
        /// Why.
        error: String,
        /// What to do.
        hint: Option<String>,
        /// What shows it, such as what a hook has printed.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        evidence: Value,
    },
    /// A site that comes back is to be made a copy in another way than before.
    Chosen {
        /// How.
        by: By,
    },
    /// What the site that comes back had alone, and nobody has salvaged, may be lost after all.
    Accepted,
    /// A step is being taken back.
    Undo {
        /// The step.
        step: String,
    },
    /// A step was taken back.
    Undone {
        /// The step.
        step: String,
        /// What shows it.
        evidence: Value,
    },
    /// The run is over.
    Ended {
        /// How.
        outcome: Outcome,
    },
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every step is done.
    Done,
    /// Every step that was done was taken back.
    Aborted,
    /// The other site was lost in the middle of it, and a failover went on.
    Superseded,
    /// Another run has changed the roles since it was cut off.
    Overtaken,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Aborted => "taken back",
            Self::Superseded => "a failover went on from it",
            Self::Overtaken => "another run has changed the roles since",
        })
    }
}

/// A line of the journal.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// When, in microseconds since 2000-01-01 00:00 UTC.
    pub at: i64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What a step has shown that was done; of the last time, if it was done more than once.
pub(crate) fn evidence_of<'a>(entries: &'a [Entry], name: &str) -> Option<&'a Value> {
    entries.iter().rev().find_map(|entry| match &entry.what {
        What::Done { step, evidence, .. } if step == name => Some(evidence),
        _ => None,
    })
}

/// A run's journal, open for more.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    heading: Heading,
    entries: Vec<Entry>,
}

impl Journal {
    /// Begins the journal of a new run.
    ///
    /// # Errors
    /// [`Error::Journal`], also for a run of the same name.
    pub fn begin(state_directory: &Path, heading: Heading) -> Result<Self, Error> {
        let directory = state_directory.join(DIRECTORY);
        let path = directory.join(format!("{}.{EXTENSION}", heading.run));
        let begun = (|| {
            fs::create_dir_all(&directory)?;
            // Under its name it is there with its heading or not at all.
            let new = path.with_extension("new");
            let file = OpenOptions::new().append(true).create(true).open(&new)?;
            file.set_len(0)?;
            Ok((file, new))
        })();
        let (file, new) = begun.map_err(failed(&path))?;
        let mut journal = Self { path, file, heading: heading.clone(), entries: Vec::new() };
        journal.note(What::Begun(heading))?;
        let named = fs::hard_link(&new, &journal.path)
            .and_then(|()| fs::remove_file(&new))
            .and_then(|()| File::open(&directory)?.sync_all());
        named.map_err(failed(&journal.path))?;
        Ok(journal)
    }

    /// Opens the journal of a run to go on with it, and cuts off a line that has no end.
    ///
    /// # Errors
    /// [`Error::Journal`], [`Error::NoRun`], [`Error::BadJournal`].
    pub fn open(state_directory: &Path, run: &str) -> Result<Self, Error> {
        let path = path_of(state_directory, run)?;
        let mut file = match OpenOptions::new().read(true).append(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoRun { run: run.to_owned() });
            }
            file => file.map_err(failed(&path))?,
        };
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed(&path))?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            file.set_len(whole as u64).and_then(|()| file.sync_all()).map_err(failed(&path))?;
            file.seek(SeekFrom::End(0)).map_err(failed(&path))?;
        }
        let (heading, entries) = parse(&path, &text[..whole])?;
        Ok(Self { path, file, heading, entries })
    }

    /// Removes what a run has kept beside its journal: files with rows.
    ///
    /// # Errors
    /// [`Error::Journal`].
    pub(crate) fn forget_rows(state_directory: &Path, run: &str) -> Result<(), Error> {
        let directory = state_directory.join(DIRECTORY);
        let forgotten = fs::read_dir(&directory).and_then(|mut entries| {
            entries.try_for_each(|entry| {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let is_kept = [".rows", ".found", ".since"].iter().any(|kind| name.ends_with(kind));
                if is_kept && name.starts_with(&format!("{run}-")) { fs::remove_file(&path) } else { Ok(()) }
            })
        });
        forgotten.map_err(failed(&directory))
    }

    /// Reads the journal of a run.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn read(state_directory: &Path, run: &str) -> Result<(Heading, Vec<Entry>), Error> {
        let path = path_of(state_directory, run)?;
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoRun { run: run.to_owned() });
            }
            text => text.map_err(failed(&path))?,
        };
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        parse(&path, &text[..whole])
    }

    /// The runs that have a journal here, oldest first.
    ///
    /// # Errors
    /// [`Error::Journal`].
    pub fn runs(state_directory: &Path) -> Result<Vec<String>, Error> {
        let directory = state_directory.join(DIRECTORY);
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed(&directory))?,
        };
        let mut runs = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed(&directory))?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                runs.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
            }
        }
        // A run's name ends with the time at which it began.
        runs.sort_by(|a: &String, b| when(a).cmp(when(b)).then_with(|| a.cmp(b)));
        Ok(runs)
    }

    /// What the run is about.
    pub fn heading(&self) -> &Heading {
        &self.heading
    }

    /// What stands in it.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Appends an entry, and makes it durable.
    ///
    /// # Errors
    /// [`Error::Journal`]: then nothing may be done that depends on it.
    pub fn note(&mut self, what: What) -> Result<(), Error> {
        let entry = Entry { at: Timestamp::now().0, what };
        let mut line = serde_json::to_vec(&entry).map_err(|error| failed(&self.path)(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).and_then(|()| self.file.sync_data()).map_err(failed(&self.path))?;
        self.entries.push(entry);
        Ok(())
    }
}

/// When a run began, as its name says it.
fn when(run: &str) -> &str {
    run.rsplit('-').next().unwrap_or(run)
}

fn path_of(state_directory: &Path, run: &str) -> Result<PathBuf, Error> {
    let is_name = !run.is_empty() && run.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if !is_name {
        return Err(Error::NoRun { run: run.to_owned() });
    }
    Ok(state_directory.join(DIRECTORY).join(format!("{run}.{EXTENSION}")))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Journal { path, source }
}

fn parse(path: &Path, text: &[u8]) -> Result<(Heading, Vec<Entry>), Error> {
    let bad = |line: usize, reason: String| Error::BadJournal { path: path.to_owned(), line, reason };
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).enumerate();
    let entries = lines
        .map(|(n, line)| serde_json::from_slice(line).map_err(|error| bad(n + 1, error.to_string())))
        .collect::<Result<Vec<Entry>, _>>()?;
    match entries.first().map(|entry| &entry.what) {
        Some(What::Begun(heading)) => Ok((heading.clone(), entries)),
        _ => Err(bad(1, "it does not begin with the run's heading".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heading(run: &str) -> Heading {
        Heading {
            run: run.to_owned(),
            plan: "switchover".into(),
            from: "main".into(),
            to: "secondary".into(),
            databases: vec!["config".into()],
            holder: "dba@here".into(),
            release: "0".into(),
            accept_loss: false,
            force: false,
            supersedes: None,
            by: By::Copy,
        }
    }

    #[test]
    fn what_was_noted_is_there_again_and_half_a_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(dir.path(), heading("r1")).unwrap();
        journal.note(What::Step { step: "fence".into() }).unwrap();
        let before = journal.entries().to_vec();
        let path = dir.path().join("runs/r1.jsonl");
        drop(journal);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], b"{\"at\":1,\"what\":\"do"].concat()).unwrap();
        assert_eq!(Journal::read(dir.path(), "r1").unwrap().1, before);
        let mut journal = Journal::open(dir.path(), "r1").unwrap();
        assert_eq!(journal.entries(), before);
        journal.note(What::Ended { outcome: Outcome::Aborted }).unwrap();
        assert_eq!(Journal::read(dir.path(), "r1").unwrap().1.len(), 3);
        assert_eq!(fs::read(&path).unwrap()[..whole.len()], whole[..]);
    }

    #[test]
    fn a_run_is_begun_once_and_found_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Journal::runs(dir.path()).unwrap().is_empty());
        Journal::begin(dir.path(), heading("b")).unwrap();
        Journal::begin(dir.path(), heading("a")).unwrap();
        assert!(matches!(Journal::begin(dir.path(), heading("a")), Err(Error::Journal { .. })));
        assert_eq!(Journal::runs(dir.path()).unwrap(), ["a", "b"]);
        Journal::begin(dir.path(), heading("switchover-20261121")).unwrap();
        Journal::begin(dir.path(), heading("failover-20261122")).unwrap();
        let runs = Journal::runs(dir.path()).unwrap();
        assert_eq!(
            runs[..2],
            ["switchover-20261121", "failover-20261122"],
            "the oldest first, whatever the plan"
        );
        assert!(matches!(Journal::open(dir.path(), "c"), Err(Error::NoRun { .. })));
        assert!(matches!(Journal::open(dir.path(), "../a"), Err(Error::NoRun { .. })));
    }

    #[test]
    fn a_changed_line_is_said_with_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(dir.path(), heading("a")).unwrap();
        journal.note(What::Step { step: "fence".into() }).unwrap();
        let path = dir.path().join("runs/a.jsonl");
        let text = fs::read_to_string(&path).unwrap().replace("\"step\":", "\"stop\":");
        fs::write(&path, text).unwrap();
        let error = Journal::open(dir.path(), "a").unwrap_err();
        assert!(matches!(error, Error::BadJournal { line: 2, .. }), "{error}");
    }
}
