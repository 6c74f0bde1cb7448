//! A row that is not the same, and the file that differences are written to: one JSON object a line, behind one that says
//! whose they are. The file holds row data and is for its owner only.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::flow::Name;

/// Values by column, as the server prints them; `None` is NULL.
pub type Image = BTreeMap<String, Option<String>>;

/// What is not the same about a row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Only the source has it.
    MissingAtTarget,
    /// Only the target has it.
    MissingAtSource,
    /// Both have a row of this key, with other values.
    Different,
}

impl Kind {
    /// The same, seen from the other side.
    pub(crate) fn mirrored(self) -> Self {
        match self {
            Self::MissingAtTarget => Self::MissingAtSource,
            Self::MissingAtSource => Self::MissingAtTarget,
            Self::Different => Self::Different,
        }
    }
}

/// A confirmed difference.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Difference {
    /// The table at the source.
    pub table: Name,
    /// The table at the target.
    pub target_table: Name,
    /// What is not the same.
    pub kind: Kind,
    /// The key. `None` where a row is known by all it holds.
    pub key: Option<Image>,
    /// For how many rows it stands: more than one only without a key.
    pub rows: u64,
    /// The row at the source.
    pub source: Option<Image>,
    /// The row at the target.
    pub target: Option<Image>,
    /// Hashes of the source's row; of no meaning where there is none.
    pub source_hashes: (i64, i64),
    /// Hashes of the target's row.
    pub target_hashes: (i64, i64),
    /// How many rows like this the source has.
    pub source_rows: u64,
    /// How many rows like this the target has.
    pub target_rows: u64,
}

/// The first line of a file.
#[derive(Serialize, Deserialize)]
struct Heading {
    /// The version of the format.
    irongate_differences: u32,
    flow: String,
    started: String,
    /// Which databases were compared; older files do not say.
    #[serde(default)]
    ends: Option<[String; 2]>,
}

const FORMAT: u32 = 2;

/// Writes a file of differences.
#[derive(Debug)]
pub struct Writer {
    file: PathBuf,
    out: BufWriter<File>,
}

impl Writer {
    /// Makes the file, which only its owner may read (mode 0600), and writes whose differences follow. One that is there is
    /// replaced.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn create(file: &Path, flow: &str, started: &str) -> Result<Self, Error> {
        Self::marked(file, flow, started, None)
    }

    /// The same, saying also which databases were compared ([`crate::ends`]).
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn marked(file: &Path, flow: &str, started: &str, ends: Option<[String; 2]>) -> Result<Self, Error> {
        let fail = |source| Error::File { file: file.to_owned(), source };
        // What is there may be for others to read; it keeps its mode if it is only cut to nothing.
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(fail)?;
        let mut writer = Self { file: file.to_owned(), out: BufWriter::new(opened) };
        let (flow, started) = (flow.to_owned(), started.to_owned());
        let heading = Heading { irongate_differences: FORMAT, flow, started, ends };
        writer.line(&heading).map_err(fail)?;
        Ok(writer)
    }

    /// Adds one.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn write(&mut self, difference: &Difference) -> std::io::Result<()> {
        self.line(difference)
    }

    fn line(&mut self, content: &impl Serialize) -> std::io::Result<()> {
        serde_json::to_writer(&mut self.out, content)?;
        self.out.write_all(b"\n")
    }

    /// Makes everything durable.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn finish(mut self) -> Result<(), Error> {
        let written = self.out.flush().and_then(|()| self.out.get_ref().sync_all());
        written.map_err(|source| Error::File { file: self.file, source })
    }
}

/// Reads a file of differences, one at a time.
#[derive(Debug)]
pub struct Reader {
    file: PathBuf,
    lines: std::io::Lines<BufReader<File>>,
    line: usize,
    ends: Option<[String; 2]>,
}

impl Reader {
    /// Opens a file of this flow's differences.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Line`], [`Error::OtherFlow`].
    pub fn open(file: &Path, flow: &str) -> Result<Self, Error> {
        let opened = File::open(file).map_err(|source| Error::File { file: file.to_owned(), source })?;
        let mut reader =
            Self { file: file.to_owned(), lines: BufReader::new(opened).lines(), line: 0, ends: None };
        let heading: Option<Heading> = reader.parsed()?;
        match heading {
            None => Err(reader.bad("it is empty".to_owned())),
            Some(heading) if heading.irongate_differences != FORMAT => {
                Err(reader.bad(format!("it has format {}, and not {FORMAT}", heading.irongate_differences)))
            }
            Some(heading) if heading.flow != flow => {
                Err(Error::OtherFlow { flow: flow.to_owned(), found: heading.flow })
            }
            Some(heading) => {
                reader.ends = heading.ends;
                Ok(reader)
            }
        }
    }

    /// Whether the file says which databases were compared, and they are these. A file of an older release does not say.
    ///
    /// # Errors
    /// [`Error::OtherEnds`].
    pub fn is_of(&self, ends: &[String; 2]) -> Result<bool, Error> {
        match &self.ends {
            None => Ok(false),
            Some(of) if of == ends => Ok(true),
            Some(of) => Err(Error::OtherEnds {
                file: self.file.clone(),
                found: of.join(" and "),
                ends: ends.join(" and "),
            }),
        }
    }

    fn bad(&self, reason: String) -> Error {
        Error::Line { file: self.file.clone(), line: self.line, reason }
    }

    fn parsed<T: serde::de::DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        let Some(line) = self.lines.next() else { return Ok(None) };
        self.line += 1;
        let line = line.map_err(|source| Error::File { file: self.file.clone(), source })?;
        // The parser's own text could quote a value; where it stumbled is enough.
        serde_json::from_str(&line).map(Some).map_err(|error| {
            self.bad(format!("it is not what a compare writes, from column {}", error.column()))
        })
    }
}

impl Iterator for Reader {
    type Item = Result<Difference, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.parsed().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference() -> Difference {
        let image = |value: Option<&str>| Image::from([("v".to_owned(), value.map(str::to_owned))]);
        Difference {
            table: Name::new("s", "t"),
            target_table: Name::new("s", "u"),
            kind: Kind::Different,
            key: Some(image(Some("1"))),
            rows: 1,
            source: Some(image(Some("a\n\"b\""))),
            target: Some(image(None)),
            source_hashes: (i64::MIN, -1),
            target_hashes: (i64::MAX, 1),
            source_rows: 1,
            target_rows: 1,
        }
    }

    #[test]
    fn what_is_written_is_read_by_its_owner_and_for_its_flow_only() {
        let file = std::env::temp_dir().join(format!("irongate-differences-{}", std::process::id()));
        std::fs::write(&file, "somebody's").unwrap();
        let mut writer = Writer::create(&file, "csp", "now").unwrap();
        writer.write(&difference()).unwrap();
        writer.finish().unwrap();
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        let read: Result<Vec<_>, _> = Reader::open(&file, "csp").unwrap().collect();
        assert_eq!(read.unwrap(), [difference()]);
        assert!(matches!(Reader::open(&file, "msp"), Err(Error::OtherFlow { .. })));
        let ends = |target: &str| ["1/app".to_owned(), target.to_owned()];
        assert!(!Reader::open(&file, "csp").unwrap().is_of(&ends("2/app")).unwrap(), "it does not say");
        let mut writer = Writer::marked(&file, "csp", "now", Some(ends("2/app"))).unwrap();
        writer.write(&difference()).unwrap();
        writer.finish().unwrap();
        assert!(Reader::open(&file, "csp").unwrap().is_of(&ends("2/app")).unwrap());
        let other = Reader::open(&file, "csp").unwrap().is_of(&ends("3/app"));
        assert!(matches!(other, Err(Error::OtherEnds { .. })));
        let mut text = std::fs::read_to_string(&file).unwrap();
        text.push_str("{\"table\": \"secret\"}\n");
        std::fs::write(&file, &text).unwrap();
        let error = Reader::open(&file, "csp").unwrap().find_map(Result::err).unwrap().to_string();
        assert!(error.contains("line 3") && !error.contains("secret"), "{error}");
        std::fs::remove_file(&file).unwrap();
    }
}
