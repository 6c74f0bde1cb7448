//! How far a load is, for whoever looks on.

use std::time::{Duration, Instant};

use irongate_checkpoint::LoadTable;

use super::tables::Copied;

/// How far an initial load is.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Progress {
    /// The load's name.
    pub job: String,
    /// The tables of which something is being copied.
    pub tables: Vec<TableProgress>,
    /// Tables that are done.
    pub tables_done: usize,
    /// All tables.
    pub tables_total: usize,
    /// Rows that are there, or on their way.
    pub rows: u64,
    /// Bytes of them, as they were sent.
    pub bytes: u64,
    /// How much of all there is on the source's disk has come, from 0 to 1; an estimate.
    pub fraction: f64,
    /// How long the rest will take at the pace so far, if that can be told yet.
    pub remaining: Option<Duration>,
}

/// How far a table is.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct TableProgress {
    /// The table, as the source has it.
    pub table: String,
    /// Its rows by the source's estimate, if there is one.
    pub estimated_rows: Option<u64>,
    /// Rows that are there, or on their way.
    pub rows: u64,
    /// Bytes of them, as they were sent.
    pub bytes: u64,
    /// Chunks that are there.
    pub chunks_done: u32,
    /// All chunks.
    pub chunks: u32,
    /// From 0 to 1; an estimate.
    pub fraction: f64,
    /// How long the rest of it will take at its pace so far, if that can be told yet.
    pub remaining: Option<Duration>,
}

#[derive(Debug)]
struct Line {
    shown: TableProgress,
    size: u64,
    /// Sessions that copy it.
    active: u32,
    /// Rows and bytes on their way.
    moving: (u64, u64),
    /// When a session began with it here, and its fraction then.
    begun: Option<(Instant, f64)>,
}

impl Line {
    fn fraction(&self) -> f64 {
        let table = &self.shown;
        let done = f64::from(table.chunks_done) / f64::from(table.chunks.max(1));
        let per_chunk = table.estimated_rows.unwrap_or(0) as f64 / f64::from(table.chunks.max(1));
        // An estimate must not make done what is not.
        let moving = if per_chunk >= 1.0 { self.moving.0 as f64 / per_chunk } else { 0.0 };
        (done + moving.min(f64::from(self.active) * 0.95) / f64::from(table.chunks.max(1))).min(1.0)
    }
}

/// The account of a load.
#[derive(Debug)]
pub(super) struct Board {
    job: String,
    lines: Vec<Line>,
    begun: Instant,
    at_first: f64,
}

fn remaining(since: Instant, from: f64, to: f64) -> Option<Duration> {
    let (elapsed, done) = (since.elapsed().as_secs_f64(), to - from);
    if elapsed < 1.0 || done < 0.001 {
        return None;
    }
    Duration::try_from_secs_f64(elapsed * (1.0 - to).max(0.0) / done).ok()
}

impl Board {
    pub(super) fn new<'a>(job: &str, tables: impl Iterator<Item = (&'a LoadTable, &'a Copied)>) -> Self {
        let line = |(table, copied): (&LoadTable, &Copied)| Line {
            shown: TableProgress {
                table: copied.source.to_string(),
                estimated_rows: copied.estimated_rows,
                rows: table.rows,
                bytes: table.bytes,
                chunks_done: table.chunks_done,
                chunks: table.chunks,
                fraction: 0.0,
                remaining: None,
            },
            // An empty table counts a little, so that there is something to count.
            size: table.size.max(8192),
            active: 0,
            moving: (0, 0),
            begun: None,
        };
        let lines = tables.map(line).collect();
        let mut board = Self { job: job.to_owned(), lines, begun: Instant::now(), at_first: 0.0 };
        board.at_first = board.fraction();
        board
    }

    fn fraction(&self) -> f64 {
        let all: f64 = self.lines.iter().map(|line| line.size as f64).sum();
        let done: f64 = self.lines.iter().map(|line| line.size as f64 * line.fraction()).sum();
        if all > 0.0 { done / all } else { 1.0 }
    }

    pub(super) fn begin(&mut self, place: usize) {
        let line = &mut self.lines[place];
        line.active += 1;
        if line.begun.is_none() {
            line.begun = Some((Instant::now(), line.fraction()));
        }
    }

    pub(super) fn moved(&mut self, place: usize, rows: u64, bytes: u64) {
        let moving = &mut self.lines[place].moving;
        *moving = (moving.0 + rows, moving.1 + bytes);
    }

    pub(super) fn copied(&mut self, place: usize, rows: u64, bytes: u64) {
        let line = &mut self.lines[place];
        line.active = line.active.saturating_sub(1);
        // Of binary rows, one message is no row.
        line.moving = (line.moving.0.saturating_sub(rows), line.moving.1.saturating_sub(bytes));
        if line.active == 0 {
            line.moving = (0, 0);
        }
        line.shown.rows += rows;
        line.shown.bytes += bytes;
        line.shown.chunks_done += 1;
    }

    pub(super) fn progress(&self) -> Progress {
        let shown = |line: &Line| TableProgress {
            rows: line.shown.rows + line.moving.0,
            bytes: line.shown.bytes + line.moving.1,
            fraction: line.fraction(),
            remaining: line.begun.and_then(|(since, from)| remaining(since, from, line.fraction())),
            ..line.shown.clone()
        };
        let fraction = self.fraction();
        Progress {
            job: self.job.clone(),
            tables: self.lines.iter().filter(|line| line.active > 0).map(shown).collect(),
            tables_done: self.lines.iter().filter(|line| line.shown.chunks_done >= line.shown.chunks).count(),
            tables_total: self.lines.len(),
            rows: self.lines.iter().map(|line| line.shown.rows + line.moving.0).sum(),
            bytes: self.lines.iter().map(|line| line.shown.bytes + line.moving.1).sum(),
            fraction,
            remaining: remaining(self.begun, self.at_first, fraction),
        }
    }
}

#[cfg(test)]
mod tests {
    use irongate_trail::Lsn;

    use super::super::plan::Extent;
    use super::*;
    use crate::configuration::TableName;

    #[test]
    fn a_part_that_is_on_its_way_counts_and_never_makes_done_what_is_not() {
        let name = |name: &str| ("s".to_owned(), name.to_owned());
        let table = |done: u32| LoadTable {
            source: name("t"),
            target: name("t"),
            generation: 1,
            start: Lsn(1),
            chunks: 4,
            chunk_blocks: 10,
            chunks_done: done,
            rows: 100 * u64::from(done),
            bytes: 0,
            size: 4 << 20,
            again: false,
        };
        let copied = Copied {
            source: TableName::new("s", "t"),
            target: TableName::new("s", "t"),
            columns: vec!["a".into()],
            row_filter: None,
            partitioned: false,
            estimated_rows: Some(400),
            binary: false,
            into_partitions: false,
            freezable: true,
            extent: Extent { blocks: 40, bytes: 4 << 20, by_block: true },
        };
        let tables = [table(4), table(1)];
        let mut board = Board::new("job", tables.iter().map(|table| (table, &copied)));
        let begun = board.progress();
        assert_eq!((begun.tables_done, begun.tables_total, begun.rows), (1, 2, 500));
        assert!((begun.fraction - 0.625).abs() < 1e-9 && begun.tables.is_empty());
        board.begin(1);
        board.moved(1, 50, 700);
        let moving = board.progress();
        assert_eq!((moving.rows, moving.tables[0].bytes, moving.tables[0].chunks_done), (550, 700, 1));
        assert!((moving.tables[0].fraction - 0.375).abs() < 1e-9, "{moving:?}");
        board.moved(1, 5000, 0);
        assert!(board.progress().tables[0].fraction < 0.5);
        board.copied(1, 5050, 700);
        let copied = board.progress();
        assert_eq!((copied.rows, copied.tables.len()), (5550, 0));
        assert!((copied.fraction - 0.75).abs() < 1e-9);
    }
}
