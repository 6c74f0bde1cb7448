//! Files that are written from front to back and sometimes cut back.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::salvage::change::TableName;
use crate::salvage::problem::Problem;

/// A file that is being written. Only its owner may read it.
#[derive(Debug)]
pub(super) struct Tape {
    path: PathBuf,
    file: BufWriter<File>,
    at: u64,
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options
}

impl Tape {
    pub(super) fn create(path: PathBuf) -> Result<Self, Problem> {
        let file = options().create_new(true).open(&path).map_err(Problem::file("make", &path))?;
        Ok(Self { path, file: BufWriter::with_capacity(64 << 10, file), at: 0 })
    }

    /// How long it is, in bytes.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn write(&mut self, text: &str) -> Result<(), Problem> {
        self.file.write_all(text.as_bytes()).map_err(Problem::file("write", &self.path))?;
        self.at += text.len() as u64;
        Ok(())
    }

    /// Appends a file.
    pub(super) fn append(&mut self, path: &Path) -> Result<(), Problem> {
        let mut from = File::open(path).map_err(Problem::file("read", path))?;
        self.at += std::io::copy(&mut from, &mut self.file).map_err(Problem::file("write", &self.path))?;
        Ok(())
    }

    /// Cuts it back.
    pub(super) fn cut(&mut self, to: u64) -> Result<(), Problem> {
        let mut cut = || {
            self.file.flush()?;
            self.file.get_ref().set_len(to)?;
            self.file.seek(SeekFrom::Start(to)).map(drop)
        };
        cut().map_err(Problem::file("cut", &self.path))?;
        self.at = to;
        Ok(())
    }

    /// Makes it durable.
    pub(super) fn finish(&mut self) -> Result<PathBuf, Problem> {
        let mut finish = || {
            self.file.flush()?;
            self.file.get_ref().sync_all()
        };
        finish().map_err(Problem::file("write", &self.path))?;
        Ok(self.path.clone())
    }
}

/// The SHA-256 of a file, in hexadecimal digits.
pub(in crate::salvage) fn digest(path: &Path) -> Result<String, Problem> {
    let mut file = File::open(path).map_err(Problem::file("read", path))?;
    let mut digest = Sha256::new();
    let mut block = vec![0; 64 << 10];
    loop {
        match file.read(&mut block).map_err(Problem::file("read", path))? {
            0 => break,
            read => digest.update(&block[..read]),
        }
    }
    let mut text = String::new();
    for byte in digest.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// One script a table, of which only those are open that are being written to: there may be many tables.
#[derive(Debug)]
pub(super) struct Scripts {
    directory: PathBuf,
    opening: String,
    /// What is to be appended to each.
    waiting: BTreeMap<TableName, String>,
    weight: usize,
    /// How long each was before the transaction that is being written.
    before: BTreeMap<TableName, u64>,
}

/// So many bytes wait at the most.
const MOST_WAITING: usize = 1 << 20;

impl Scripts {
    pub(super) fn new(directory: PathBuf, opening: String) -> Self {
        Self { directory, opening, waiting: BTreeMap::new(), weight: 0, before: BTreeMap::new() }
    }

    /// The first words of a transaction that changes the table.
    pub(super) fn begin(&mut self, table: &TableName, text: &str) {
        // What waits belongs to earlier transactions, and must not be cut off with this one.
        let waiting = self.waiting.get(table).map_or(0, |text| text.len() as u64);
        let written = std::fs::metadata(self.path(table)).map_or(0, |file| file.len());
        let opening = if waiting == 0 && written == 0 { self.opening.len() as u64 } else { 0 };
        self.before.insert(table.clone(), written + waiting + opening);
        self.put(table, text);
    }

    pub(super) fn write(&mut self, table: &TableName, text: &str) -> Result<(), Problem> {
        self.put(table, text);
        if self.weight > MOST_WAITING { self.flush() } else { Ok(()) }
    }

    fn put(&mut self, table: &TableName, text: &str) {
        let is_new = !self.waiting.contains_key(table) && !self.path(table).exists();
        let waiting = self.waiting.entry(table.clone()).or_default();
        if is_new {
            waiting.push_str(&self.opening);
            self.weight += self.opening.len();
        }
        waiting.push_str(text);
        self.weight += text.len();
    }

    /// The transaction stands.
    pub(super) fn commit(&mut self, table: &TableName) {
        self.before.remove(table);
    }

    /// The transaction does not: what was written of it goes.
    pub(super) fn cut(&mut self, table: &TableName) -> Result<(), Problem> {
        self.flush()?;
        let Some(before) = self.before.remove(table) else { return Ok(()) };
        let path = self.path(table);
        let cut = options().open(&path).and_then(|file| file.set_len(before));
        cut.map_err(Problem::file("cut", &path))
    }

    pub(super) fn flush(&mut self) -> Result<(), Problem> {
        for (table, text) in std::mem::take(&mut self.waiting) {
            let path = self.path(&table);
            let append = || {
                let mut file = options().append(true).open(&path)?;
                file.write_all(text.as_bytes())
            };
            append().map_err(Problem::file("write", &path))?;
        }
        self.weight = 0;
        Ok(())
    }

    fn path(&self, table: &TableName) -> PathBuf {
        self.directory.join(format!("{}.sql", file_name(table)))
    }
}

/// A table's name as a file's: what cannot stand there is written as its number, and what is too long is cut, with its
/// digest behind it.
fn file_name(table: &TableName) -> String {
    let mut name = String::new();
    for (part, text) in [&table.schema, &table.table].into_iter().enumerate() {
        if part > 0 {
            name.push('.');
        }
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
                name.push(char::from(byte));
            } else {
                let _ = write!(name, "%{byte:02X}");
            }
        }
    }
    if name.len() > 200 {
        let digest = Sha256::digest(name.as_bytes());
        name.truncate(180);
        for byte in digest.iter().take(8) {
            let _ = write!(name, "{byte:02x}");
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tables_name_is_a_files_name() {
        let name =
            |schema: &str, table: &str| file_name(&TableName { schema: schema.into(), table: table.into() });
        assert_eq!(name("public", "person"), "public.person");
        assert_eq!(name("..", "a/b c"), "%2E%2E.a%2Fb%20c");
        assert!(name("s", &"ä".repeat(63)).len() <= 200);
        assert_ne!(name("s", &"ä".repeat(63)), name("s", &("ä".repeat(62) + "é")));
    }

    #[test]
    fn what_is_cut_off_leaves_what_was_before() {
        let directory = tempfile::tempdir().unwrap();
        let mut tape = Tape::create(directory.path().join("tape")).unwrap();
        tape.write("kept").unwrap();
        let before = tape.at();
        tape.write(&"x".repeat(200_000)).unwrap();
        tape.cut(before).unwrap();
        tape.write("!").unwrap();
        assert_eq!(std::fs::read_to_string(tape.finish().unwrap()).unwrap(), "kept!");

        let table = TableName { schema: "s".into(), table: "t".into() };
        let mut scripts = Scripts::new(directory.path().to_owned(), "opening\n".into());
        for flushes in [false, true] {
            scripts.begin(&table, "one\n");
            scripts.commit(&table);
            if flushes {
                scripts.flush().unwrap();
            }
            scripts.begin(&table, "two\n");
            scripts.write(&table, &"y".repeat(2 << 20)).unwrap();
            scripts.cut(&table).unwrap();
        }
        scripts.flush().unwrap();
        assert_eq!(std::fs::read_to_string(directory.path().join("s.t.sql")).unwrap(), "opening\none\none\n");
    }
}
