//! Reads the document of a salvage back, change by change: a transaction of any size takes no memory.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::change::Change;
use super::directory::{Heading, Summary};
use super::problem::Problem;

/// A step through a document.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A transaction begins.
    Begin(Transaction),
    /// It changes something.
    Change(Box<Change>),
    /// It ends.
    End,
}

/// A lost transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Transaction {
    pub(super) xid: u32,
    pub(super) commit_lsn: String,
    pub(super) commit_time: String,
}

/// Takes the steps; false ends the reading.
type Take<'a> = &'a mut dyn FnMut(Step) -> bool;

/// What stands in a document besides its transactions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Document {
    pub(super) heading: Heading,
    pub(super) summary: Summary,
}

/// Reads a document.
///
/// # Errors
/// [`Problem::File`]; [`Problem::Spoilt`] for what no salvage writes. Not when `take` has ended the reading: then `None`.
pub(super) fn read(path: &Path, mut take: impl FnMut(Step) -> bool) -> Result<Option<Document>, Problem> {
    let file = File::open(path).map_err(Problem::file("read", path))?;
    let mut ended = false;
    let mut watched = |step: Step| {
        let goes_on = take(step);
        ended |= !goes_on;
        goes_on
    };
    let mut deserializer = serde_json::Deserializer::from_reader(BufReader::with_capacity(64 << 10, file));
    let read = Whole(&mut watched).deserialize(&mut deserializer);
    match read.and_then(|document| deserializer.end().map(|()| document)) {
        Ok(document) => Ok(Some(document)),
        Err(_) if ended => Ok(None),
        Err(error) => {
            // The place only: the parser's own words may quote a value.
            let reason =
                format!("line {}, column {} is not what a salvage writes", error.line(), error.column());
            Err(Problem::Spoilt { path: path.to_owned(), reason })
        }
    }
}

struct Whole<'a>(Take<'a>);

impl<'de> DeserializeSeed<'de> for Whole<'_> {
    type Value = Document;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Document, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Whole<'_> {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a salvage")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        let mut heading = serde_json::Map::new();
        let mut summary = None;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "transactions" => map.next_value_seed(Transactions(&mut *self.0))?,
                "summary" => summary = Some(map.next_value()?),
                _ => drop(heading.insert(key, map.next_value()?)),
            }
        }
        let heading: Heading = serde_json::from_value(heading.into()).map_err(A::Error::custom)?;
        if heading.format != super::directory::FORMAT {
            return Err(A::Error::custom("another layout"));
        }
        let summary = summary.ok_or_else(|| A::Error::missing_field("summary"))?;
        Ok(Document { heading, summary })
    }
}

struct Transactions<'a>(Take<'a>);

impl<'de> DeserializeSeed<'de> for Transactions<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Transactions<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of transactions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(One(&mut *self.0))?.is_some() {}
        Ok(())
    }
}

struct One<'a>(Take<'a>);

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for One<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a transaction, its changes behind what tells it from others")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut xid, mut commit_lsn, mut commit_time) = (None, None, None);
        let mut changed = false;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "xid" => xid = Some(map.next_value()?),
                "commit_lsn" => commit_lsn = Some(map.next_value()?),
                "commit_time" => commit_time = Some(map.next_value()?),
                "changes" => {
                    let missing =
                        || A::Error::custom("changes before what tells their transaction from others");
                    let transaction = Transaction {
                        xid: xid.take().ok_or_else(missing)?,
                        commit_lsn: commit_lsn.take().ok_or_else(missing)?,
                        commit_time: commit_time.take().ok_or_else(missing)?,
                    };
                    tell::<A::Error>(self.0, Step::Begin(transaction))?;
                    map.next_value_seed(Changes(&mut *self.0))?;
                    changed = true;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if !changed {
            return Err(A::Error::missing_field("changes"));
        }
        tell(self.0, Step::End)
    }
}

struct Changes<'a>(Take<'a>);

impl<'de> DeserializeSeed<'de> for Changes<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Changes<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of changes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(change) = list.next_element::<Change>()? {
            tell::<A::Error>(self.0, Step::Change(Box::new(change)))?;
        }
        Ok(())
    }
}

fn tell<E: serde::de::Error>(take: Take<'_>, step: Step) -> Result<(), E> {
    if take(step) { Ok(()) } else { Err(E::custom("ended")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADING: &str = r#""format":1,"release":"0","run":"r","made":"m","site":"a","live":"b","database":"d","flow":"f",
        "system_identifier":"1","timeline":1,"slot_incarnation":"0/1","divergence":"0/2","looked_up_to":null,"applied_by":null,"by_hand":false"#;
    const CHANGE: &str = r#"{"number":1,"schema":"s","table":"t","operation":"insert","key":{"id":"1"},"old":null,"new":{"id":"1"},"there":null}"#;

    fn steps(text: &str) -> Result<Vec<String>, Problem> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("salvage.json");
        std::fs::write(&path, text).unwrap();
        let mut steps = Vec::new();
        read(&path, |step| {
            steps.push(match step {
                Step::Begin(transaction) => transaction.xid.to_string(),
                Step::Change(change) => change.table.to_string(),
                Step::End => "end".to_owned(),
            });
            true
        })?
        .unwrap();
        Ok(steps)
    }

    #[test]
    fn a_document_is_read_however_it_is_laid_out() {
        let summary = serde_json::to_string(&Summary::default()).unwrap();
        let one = format!(
            r#"{{"xid":7,"commit_lsn":"0/3","commit_time":"t","changes":[{CHANGE},{CHANGE}],"end_lsn":"0/4"}}"#
        );
        let text = format!("{{{HEADING},\"transactions\":[{one},{one}],\"summary\":{summary}}}");
        let expected = ["7", "s.t", "s.t", "end", "7", "s.t", "s.t", "end"];
        assert_eq!(steps(&text).unwrap(), expected);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        // Sorted, changes come before the xid, and nobody can say whose they are.
        assert!(steps(&serde_json::to_string_pretty(&value).unwrap()).is_err());
        for cut in [text.len() - 1, text.len() / 2, 10] {
            assert!(matches!(steps(&text[..cut]), Err(Problem::Spoilt { .. })));
        }
        assert!(steps(&text.replace("\"format\":1", "\"format\":2")).is_err());
        assert!(steps(&format!("{text}x")).is_err());
    }
}
