//! Compares of flows: what the configuration says of their ends, and what the last one found.
//!
//! What a compare of a whole flow found is kept in the state directory, in numbers, without a value or a key of any row:
//! `compare/<flow>.json`. The manager of the site shows it, and a change of roles asks the managers for it.

mod background;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use irongate_deployment::Configuration;
use irongate_deployment::configuration::{Flow, Login};
use irongate_trail::Timestamp;
use irongate_verify::{Comparison, Direction, End};
use serde::{Deserialize, Serialize};

pub(crate) use background::Background;
pub use background::CompareWatch;

use crate::error::Error;

/// The directory of results in the state directory.
const DIRECTORY: &str = "compare";

/// A flow as it is compared: as Extract's role at its source, and as Replicat's at its target.
///
/// # Errors
/// [`Error::Deployment`] for a flow that is not of this configuration.
pub fn flow(configuration: &Configuration, flow: &Flow) -> Result<irongate_verify::Flow, Error> {
    Ok(watched(configuration, flow, Duration::MAX, None)?.flow())
}

/// A flow as it is compared in the background.
pub(crate) fn watched(
    configuration: &Configuration,
    flow: &Flow,
    every: Duration,
    bytes_a_second: Option<u64>,
) -> Result<CompareWatch, Error> {
    let end = |site: &str, login: &Login| (label(&flow.database, site), login.endpoint.clone());
    Ok(CompareWatch {
        every,
        bytes_a_second,
        flow: flow.clone(),
        source: end(&flow.from, &configuration.source(flow)?.extract),
        target: end(&flow.to, &configuration.target(flow)?.replicat),
        reverse: match both_write(configuration, flow) {
            Some(reverse) => {
                Some((reverse.name.clone(), end(&reverse.to, &configuration.target(reverse)?.replicat)))
            }
            None => None,
        },
    })
}

/// Who writes at the side that a repair makes like the other one: Replicat's role there.
///
/// # Errors
/// As [`flow`].
pub fn writer(configuration: &Configuration, flow: &Flow, direction: Direction) -> Result<End, Error> {
    let (site, address) = match direction {
        Direction::SourceToTarget => (&flow.to, configuration.target(flow)?),
        Direction::TargetToSource => (&flow.from, configuration.source(flow)?),
    };
    Ok(End { label: label(&flow.database, site), endpoint: address.replicat.endpoint.clone() })
}

fn label(database: &str, site: &str) -> String {
    format!("{database}.{site}")
}

/// The flow of the other direction, where both sites write all the time.
fn both_write<'a>(configuration: &'a Configuration, flow: &Flow) -> Option<&'a Flow> {
    if configuration.active_passive().contains(&flow.database.as_str()) {
        return None;
    }
    let back =
        |other: &&Flow| other.database == flow.database && other.from == flow.to && other.to == flow.from;
    configuration.flows.values().find(back)
}

/// What the last compare of a whole flow found.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LastCompare {
    /// The flow.
    pub flow: String,
    /// When it began, in RFC 3339 and UTC.
    pub time: String,
    /// The same as a number.
    at: Timestamp,
    /// How long ago that was when this was read, in seconds.
    #[serde(default)]
    pub age_seconds: Option<f64>,
    /// How long it took.
    pub seconds: f64,
    /// Tables that were compared.
    pub tables: usize,
    /// Rows of the source.
    pub rows: u64,
    /// Confirmed differences.
    pub differences: u64,
    /// Rows of which nobody could say.
    pub unsettled: u64,
    /// The tables with differences, and how many.
    #[serde(default)]
    pub different_tables: BTreeMap<String, u64>,
    /// Why a table could not be compared, or the whole flow.
    pub problem: Option<String>,
}

impl LastCompare {
    /// What a compare found.
    pub fn of(found: &Comparison) -> Self {
        let different = found.tables.iter().filter(|table| table.differences > 0);
        Self {
            flow: found.flow.clone(),
            time: found.started.clone(),
            at: Timestamp(Timestamp::now().0 - (found.seconds * 1e6) as i64),
            age_seconds: None,
            seconds: found.seconds,
            tables: found.tables.len(),
            rows: found.rows(),
            differences: found.differences,
            unsettled: found.unsettled,
            different_tables: different.map(|table| (table.name.clone(), table.differences)).collect(),
            problem: found
                .failed()
                .find_map(|table| Some(format!("table {}: {}", table.name, table.problem.as_ref()?))),
        }
    }

    /// A compare that could not be made.
    fn failed(flow: &str, error: &irongate_verify::Error) -> Self {
        let now = Timestamp::now();
        Self {
            flow: flow.to_owned(),
            time: now.to_string(),
            at: now,
            age_seconds: None,
            seconds: 0.0,
            tables: 0,
            rows: 0,
            differences: 0,
            unsettled: 0,
            different_tables: BTreeMap::new(),
            problem: Some(error.to_string()),
        }
    }

    /// Everything was compared, and everything was the same.
    pub fn is_clean(&self) -> bool {
        self.differences == 0 && self.unsettled == 0 && self.problem.is_none()
    }

    /// One sentence of it.
    pub fn sentence(&self) -> String {
        let age = match self.age_seconds {
            Some(age) if age < 7200.0 => format!(" {:.0} min ago", age / 60.0),
            Some(age) => format!(" {:.0} h ago", age / 3600.0),
            None => String::new(),
        };
        let mut said = format!(
            "compared{age}: {} rows of {} tables, {} different",
            self.rows, self.tables, self.differences
        );
        if self.unsettled > 0 {
            said.push_str(&format!(", {} not settled", self.unsettled));
        }
        if let Some(problem) = &self.problem {
            said.push_str(&format!("; {problem}"));
        }
        said
    }
}

fn file(state_directory: &Path, flow: &str) -> PathBuf {
    state_directory.join(DIRECTORY).join(format!("{flow}.json"))
}

/// Keeps what a compare found, if it looked at all tables of the flow. Whether it did.
///
/// # Errors
/// [`Error::File`].
pub fn keep(state_directory: &Path, found: &Comparison) -> Result<bool, Error> {
    if !found.complete {
        return Ok(false);
    }
    write(state_directory, &LastCompare::of(found)).map(|()| true)
}

fn write(state_directory: &Path, last: &LastCompare) -> Result<(), Error> {
    let file = file(state_directory, &last.flow);
    let new = file.with_extension("json.new");
    let written = || -> std::io::Result<()> {
        fs::create_dir_all(state_directory.join(DIRECTORY))?;
        let mut out =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        out.write_all(&serde_json::to_vec(last)?)?;
        out.sync_all()?;
        // Whoever reads finds the old one or the new one.
        fs::rename(&new, &file)
    };
    written().map_err(|source| Error::File { doing: "write", path: file.clone(), source })
}

/// What the last compare of a flow found, if there was one here.
///
/// # Errors
/// [`Error::File`]. A file that is none of ours counts as none.
pub fn last(state_directory: &Path, flow: &str) -> Result<Option<LastCompare>, Error> {
    let file = file(state_directory, flow);
    let bytes = match fs::read(&file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::File { doing: "read", path: file, source }),
    };
    let Ok(mut last) = serde_json::from_slice::<LastCompare>(&bytes) else { return Ok(None) };
    last.age_seconds = Some((Timestamp::now().0 - last.at.0).max(0) as f64 / 1e6);
    Ok(Some(last))
}

#[cfg(test)]
mod tests {
    use irongate_verify::Table;

    use super::*;

    fn found(complete: bool) -> Comparison {
        let table = Table { name: "s.t".into(), rows: 7, differences: 2, different: 2, ..Table::default() };
        Comparison {
            flow: "csp".into(),
            tables: vec![table, Table { name: "s.u".into(), ..Table::default() }],
            differences: 2,
            complete,
            started: "then".into(),
            seconds: 60.0,
            ..Comparison::default()
        }
    }

    #[test]
    fn only_a_compare_of_everything_is_kept_and_it_ages() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(last(directory.path(), "csp").unwrap(), None);
        assert!(!keep(directory.path(), &found(false)).unwrap());
        assert_eq!(last(directory.path(), "csp").unwrap(), None);
        assert!(keep(directory.path(), &found(true)).unwrap());
        let kept = last(directory.path(), "csp").unwrap().unwrap();
        assert!(kept.age_seconds.unwrap() >= 60.0 && !kept.is_clean(), "{kept:?}");
        assert_eq!(kept.different_tables, BTreeMap::from([("s.t".to_owned(), 2)]));
        assert_eq!(kept.sentence(), "compared 1 min ago: 7 rows of 2 tables, 2 different");
        fs::write(directory.path().join("compare/csp.json"), "nonsense").unwrap();
        assert_eq!(last(directory.path(), "csp").unwrap(), None);
    }
}
