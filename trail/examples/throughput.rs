//! Measures what a row of ten columns costs to write and to read, in memory-bound and in synced form.
//!
//! ```text
//! cargo run --release -p irongate-trail --example throughput -- /tmp
//! ```

use std::error::Error;
use std::hint::black_box;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use irongate_trail::{
    Begin, Begins, Column, Commit, CommitLsn, Directory, Item, Lineage, Lsn, Reader, Relation,
    ReplicaIdentity, ResumeLsn, Storage, Timestamp, TupleBuilder, Writer, WriterOptions,
};

const TRANSACTIONS: u64 = 20_000;
const ROWS: u64 = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let mut out = std::io::stdout().lock();
    for streamed in [false, true] {
        let path = base.join(format!("irongate-throughput-{}", std::process::id()));
        let storage: Arc<dyn Storage> = Arc::new(Directory::create(&path)?);
        let result = measure(&storage, streamed);
        std::fs::remove_dir_all(&path)?;
        let (write, read, bytes) = result?;
        let kind = if streamed { "streamed" } else { "plain" };
        let rows = TRANSACTIONS * ROWS;
        writeln!(
            out,
            "{kind}: {write:.1} ns to write, {read:.1} ns to read a row, {} bytes each",
            bytes / rows
        )?;
    }
    Ok(())
}

/// Nanoseconds for a row to write and to read, and all bytes.
fn measure(storage: &Arc<dyn Storage>, streamed: bool) -> Result<(f64, f64, u64), irongate_trail::Error> {
    let lineage = Lineage { system_identifier: 1, timeline: 1, slot_incarnation: Lsn(1) };
    let options = WriterOptions::new("throughput", lineage);
    let mut writer = Writer::create(Arc::clone(storage), options, ResumeLsn(Lsn(1)))?;
    let column = |number: u32| Column {
        name: format!("column_{number}"),
        key: number == 0,
        type_oid: 25,
        type_modifier: -1,
        type_name: None,
    };
    let relation = Arc::new(Relation {
        id: 16385,
        schema: "public".to_owned(),
        name: "measured".to_owned(),
        replica_identity: ReplicaIdentity::Default,
        columns: (0..10).map(column).collect(),
    });
    let tuple =
        (0..10).fold(TupleBuilder::new(), |tuple, number| tuple.text(["12345678", "some text"][number % 2]));
    let row = [b"N", tuple.as_tuple().as_bytes()].concat();

    let start = Instant::now();
    for number in 1..=TRANSACTIONS {
        let commit_lsn = CommitLsn(Lsn(number * 1000));
        let commit_time = Timestamp(0);
        let xid = number as u32;
        let begin = Begin { xid, commit_lsn, commit_time, origin: None, previous: CommitLsn::default() };
        let commit =
            Commit { commit_lsn, end_lsn: ResumeLsn(Lsn(number * 1000 + 1)), commit_time, changes: 0 };
        if streamed && number % 200 == 0 {
            // One transaction in the place of the 200 before it: the same rows in all.
            for _ in 0..200 * ROWS {
                writer.side_relation(xid, &relation)?;
                writer.side_row(xid, xid, relation.id, b'I', &row)?;
            }
            writer.adopt(xid, &begin, &commit)?;
        } else if !streamed {
            writer.begin(&begin)?;
            for _ in 0..ROWS {
                writer.relation(&relation)?;
                writer.row(relation.id, b'I', &row)?;
            }
            writer.commit(&commit)?;
        }
    }
    writer.flush()?;
    let write = start.elapsed();
    writer.sync()?;

    let mut reader = Reader::open(Arc::clone(storage), Begins::First)?;
    let (mut rows, mut bytes) = (0_u64, 0_u64);
    let start = Instant::now();
    while let Some(item) = reader.next()? {
        if let Item::Row { relation, row } = item {
            rows += 1;
            bytes += black_box(row).new().map_or(0, |tuple| tuple.as_bytes().len() as u64);
            black_box(relation);
        }
    }
    let read = start.elapsed();
    assert_eq!(rows, TRANSACTIONS * ROWS);
    let each = |time: std::time::Duration| time.as_nanos() as f64 / rows as f64;
    Ok((each(write), each(read), bytes))
}
