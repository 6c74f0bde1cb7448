//! What is to become of lost changes: a form that somebody fills in and signs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::directory::{Heading, Summary};
use super::problem::Problem;

/// The form's name.
pub(super) const FILE: &str = "decisions.toml";

/// What becomes of a table's lost changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// Nobody has decided.
    Undecided,
    /// They are recorded as left for somebody to see to by hand.
    Keep,
    /// They are recorded as not wanted.
    Discard,
    /// They are repeated at the live site.
    Replay,
}

impl Decision {
    /// As the form and the record have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Undecided => "undecided",
            Self::Keep => "keep",
            Self::Discard => "discard",
            Self::Replay => "replay",
        }
    }
}

/// What was decided about a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableDecision {
    /// What becomes of its changes.
    pub decision: Decision,
    /// Repeat them also over what was written there since.
    #[serde(default)]
    pub replay_over: bool,
}

/// A form.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decisions {
    /// The salvage that it belongs to.
    pub salvage: String,
    /// The SHA-256 of the document that was signed for.
    pub digest: String,
    /// Who has decided.
    pub signed_off_by: String,
    /// Somebody has taken note that more may be lost than can be known.
    #[serde(default)]
    pub accept_unknown: bool,
    /// By table, `schema.name` at the lost site.
    #[serde(default)]
    pub tables: BTreeMap<String, TableDecision>,
}

impl Decisions {
    /// Reads a form.
    ///
    /// # Errors
    /// [`Problem::File`], [`Problem::Spoilt`].
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let text = std::fs::read_to_string(path).map_err(Problem::file("read", path))?;
        toml::from_str(&text).map_err(|error| {
            // The parser's own words quote the line, in which nobody writes a row's value.
            Problem::Spoilt { path: path.to_owned(), reason: error.to_string().trim().replace('\n', " ") }
        })
    }

    /// What is still to be decided about these tables.
    pub fn lacking(&self, tables: &BTreeSet<String>, incomplete: bool) -> Vec<String> {
        let mut complaints = Vec::new();
        for table in tables {
            match self.tables.get(table).map(|table| table.decision) {
                Some(Decision::Keep | Decision::Discard | Decision::Replay) => {}
                Some(Decision::Undecided) => complaints.push(format!("table \"{table}\" is undecided")),
                None => complaints.push(format!("table \"{table}\" does not stand in it")),
            }
        }
        for table in self.tables.keys().filter(|table| !tables.contains(*table)) {
            complaints.push(format!("nothing of table \"{table}\" was lost"));
        }
        if incomplete && !self.accept_unknown {
            complaints
                .push("accept_unknown is not true, and the list of what was lost is not complete".to_owned());
        }
        if self.signed_off_by.trim().is_empty() {
            complaints.push("signed_off_by is empty".to_owned());
        }
        complaints
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A form in which nothing is decided.
pub(super) fn blank(heading: &Heading, summary: &Summary, digest: &str) -> String {
    let mut out = String::new();
    let Heading { run, site, live, database, .. } = heading;
    // Writing into memory does not fail.
    let _ = write!(
        out,
        "# What is to become of what site {site} had committed and site {live} has not, in database {database}.\n\
         # Read report.txt first. Then decide for each table, sign, and run irongate salvage {site} --apply.\n\
         #\n\
         #   replay   repeat the lost changes at {live}, each transaction whole, and not where the row is not as it was\n\
         #            (replay_over = true: also there)\n\
         #   keep     leave them to be seen to by hand; it is recorded that they are\n\
         #   discard  they are not wanted; that is recorded too\n\n\
         salvage = {}\n\
         # Of salvage.json: what is signed for is what was read.\n\
         digest = {}\n\
         # Your name.\n\
         signed_off_by = \"\"\n",
        quoted(run),
        quoted(digest)
    );
    if !summary.unknown.is_empty() {
        let _ = write!(
            out,
            "# More may be lost than the report lists: it says why. Nothing can be done about that here; take note of it with true.\n\
             accept_unknown = false\n"
        );
    }
    let _ = writeln!(out, "\n[tables]");
    for (name, table) in &summary.tables {
        let _ = writeln!(
            out,
            "# {} inserts, {} updates, {} deletes, {} truncates; {} conflicts, {} not told\n\
             {} = {{ decision = \"undecided\", replay_over = false }}",
            table.inserts,
            table.updates,
            table.deletes,
            table.truncates,
            table.conflicts,
            table.untold,
            quoted(name)
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::directory::{TableTotals, Unknown};
    use super::*;

    fn form(incomplete: bool) -> (BTreeSet<String>, String) {
        let heading = Heading {
            format: 1,
            release: String::new(),
            run: "salvage-1".into(),
            made: String::new(),
            site: "main".into(),
            live: "secondary".into(),
            database: "config".into(),
            flow: "csp".into(),
            system_identifier: "1".into(),
            timeline: 1,
            slot_incarnation: "0/1".into(),
            divergence: "0/2".into(),
            looked_up_to: None,
            applied_by: None,
            by_hand: false,
        };
        let mut summary = Summary::default();
        let names = ["public.person", "public.Odd \"name\""];
        for name in names {
            summary.tables.insert(name.into(), TableTotals::default());
        }
        if incomplete {
            summary.unknown.push(Unknown { from: "0/2".into(), to: None, why: "why".into() });
        }
        (names.map(str::to_owned).into(), blank(&heading, &summary, "abc"))
    }

    #[test]
    fn a_blank_form_decides_nothing_and_a_filled_one_everything() {
        let (tables, text) = form(true);
        let blank: Decisions = toml::from_str(&text).unwrap();
        let lacking = blank.lacking(&tables, true);
        assert_eq!(lacking.len(), 4, "{lacking:?}");
        let text = text
            .replace("\"undecided\"", "\"replay\"")
            .replace("signed_off_by = \"\"", "signed_off_by = \"A. Dba\"")
            .replace("accept_unknown = false", "accept_unknown = true");
        let filled: Decisions = toml::from_str(&text).unwrap();
        assert_eq!(filled.lacking(&tables, true), Vec::<String>::new());
        assert_eq!(filled.tables["public.Odd \"name\""].decision, Decision::Replay);
        let fewer = BTreeSet::from(["public.person".to_owned()]);
        assert_eq!(filled.lacking(&fewer, true).len(), 1);
        let (tables, text) = form(false);
        assert!(!text.contains("accept_unknown"));
        let one_less =
            text.lines().filter(|line| !line.starts_with("\"public.person\"")).collect::<Vec<_>>().join("\n");
        let decisions: Decisions = toml::from_str(&one_less).unwrap();
        assert!(decisions.lacking(&tables, false).iter().any(|said| said.contains("does not stand in it")));
    }

    #[test]
    fn what_is_no_form_is_refused() {
        let (_, text) = form(false);
        for wrong in [
            text.replace("\"undecided\"", "\"perhaps\""),
            text.replace("signed_off_by", "signed_of_by"),
            text.replace("replay_over = false", "replay_ower = false"),
        ] {
            assert!(toml::from_str::<Decisions>(&wrong).is_err());
        }
    }
}
