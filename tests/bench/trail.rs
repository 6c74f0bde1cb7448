//! Trails to be carried, made without a server.

use std::path::Path;
use std::sync::Arc;

use irongate_trail::{
    Begin, Column, Commit, CommitLsn, Directory, Lineage, Lsn, Relation, ReplicaIdentity, ResumeLsn,
    Timestamp, TupleBuilder, Value, Writer, WriterOptions,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Bytes of a row.
const ROW: usize = 1000;
/// Rows of a transaction.
const ROWS: u64 = 10;

const WORDS: [&str; 16] = [
    "agent",
    "queue",
    "skill",
    "place",
    "person",
    "switch",
    "tenant",
    "campaign",
    "calling list",
    "application",
    "enabled",
    "disabled",
    "Berlin",
    "Lisbon",
    "2026-03-14 09:26:53",
    "routing strategy",
];

/// Fills values with words and numbers, as people's rows have them.
pub(crate) fn words() -> impl FnMut(&mut [u8]) {
    let mut random = StdRng::seed_from_u64(2);
    move |value| {
        let mut text = String::new();
        while text.len() < value.len() {
            let word = WORDS[random.random_range(0..WORDS.len())];
            text += &format!("{word} {} ", random.random_range(0..100_000));
        }
        value.copy_from_slice(&text.as_bytes()[..value.len()]);
    }
}

/// Writes a trail of so many bytes of rows, whose values `fill` gives.
pub(crate) fn write_trail(
    directory: &Path,
    bytes: u64,
    mut fill: impl FnMut(&mut [u8]),
) -> anyhow::Result<()> {
    let mut live = Live::begin(directory)?;
    for _ in 0..bytes / (ROWS * ROW as u64) {
        live.append(ROWS, ROW, &mut fill)?;
    }
    live.sync()
}

/// A trail that grows.
pub(crate) struct Live {
    writer: Writer,
    relation: Arc<Relation>,
    number: u64,
}

impl Live {
    /// Begins it.
    pub(crate) fn begin(directory: &Path) -> anyhow::Result<Self> {
        let lineage = Lineage { system_identifier: 7, timeline: 1, slot_incarnation: Lsn(5) };
        let storage = Arc::new(Directory::create(directory)?);
        let writer = Writer::create(storage, WriterOptions::new("csp", lineage), ResumeLsn(Lsn(10)))?;
        let column = |name: &str, key| Column {
            name: name.to_owned(),
            key,
            type_oid: if key { 20 } else { 17 },
            type_modifier: -1,
            type_name: None,
        };
        let relation = Arc::new(Relation {
            id: 16384,
            schema: "public".to_owned(),
            name: "t".to_owned(),
            replica_identity: ReplicaIdentity::Default,
            columns: vec![column("id", true), column("value", false)],
        });
        Ok(Self { writer, relation, number: 0 })
    }

    /// Appends a transaction; its commit.
    pub(crate) fn append(
        &mut self,
        rows: u64,
        row: usize,
        fill: &mut impl FnMut(&mut [u8]),
    ) -> anyhow::Result<CommitLsn> {
        self.number += 1;
        let (number, commit_time) = (self.number, Timestamp::now());
        let commit_lsn = CommitLsn(Lsn(number * 1000));
        let previous = CommitLsn::default();
        let mut value = vec![0; row];
        self.writer.begin(&Begin { xid: number as u32, commit_lsn, commit_time, origin: None, previous })?;
        self.writer.relation(&self.relation)?;
        for row in 0..rows {
            fill(&mut value);
            let tuple =
                TupleBuilder::new().text(&(number * rows + row).to_string()).value(Value::Binary(&value));
            self.writer.row(self.relation.id, b'I', &[b"N", tuple.as_tuple().as_bytes()].concat())?;
        }
        let end_lsn = ResumeLsn(Lsn(number * 1000 + 100));
        self.writer.commit(&Commit { commit_lsn, end_lsn, commit_time, changes: 0 })?;
        Ok(commit_lsn)
    }

    /// Makes everything durable.
    pub(crate) fn sync(&mut self) -> anyhow::Result<()> {
        self.writer.sync()?;
        Ok(())
    }
}
