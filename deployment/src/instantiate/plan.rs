//! Into which pieces a load is cut, and what must be emptied before a piece is copied anew. Decisions only.
//!
//! A chunk is a run of a table's blocks, the last one without an end. Under one snapshot the version of a row that is
//! seen never changes its place (vacuum must leave it, and what moves rows needs a lock that the snapshot's keeper holds
//! off), so the chunks of a table are its rows, each once. Of a partitioned table a chunk is that run of blocks of every
//! partition.

use std::collections::{BTreeMap, BTreeSet};

use irongate_checkpoint::{LoadTable, LoadedChunk, QualifiedName};

/// Most chunks of a table: more only make its ledger longer.
const MOST_CHUNKS: u64 = 10_000;

/// What is known of a table when it is planned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    /// Blocks of its rows; of a partitioned table, of its largest partition.
    pub(crate) blocks: u64,
    /// Bytes on disk without indexes, long values included.
    pub(crate) bytes: u64,
    /// Its rows lie in blocks, and can be asked for by them.
    pub(crate) by_block: bool,
}

/// How a table is cut: into how many chunks of how many blocks.
pub(crate) fn cut(extent: Extent, chunk_bytes: u64) -> (u32, u64) {
    let wanted = extent.bytes.div_ceil(chunk_bytes.max(1)).clamp(1, MOST_CHUNKS);
    if !extent.by_block || wanted <= 1 || extent.blocks <= 1 {
        return (1, 0);
    }
    let blocks = extent.blocks.div_ceil(wanted).max(1);
    let chunks = extent.blocks.div_ceil(blocks).max(1);
    (u32::try_from(chunks).unwrap_or(1), blocks)
}

/// The condition on `ctid` of a chunk; none where a table is one.
pub(crate) fn range(chunk: u32, chunks: u32, chunk_blocks: u64) -> Option<String> {
    if chunks <= 1 {
        return None;
    }
    let from = u64::from(chunk) * chunk_blocks;
    let lower = format!("ctid >= '({from},0)'::pg_catalog.tid");
    if chunk + 1 == chunks {
        return Some(lower);
    }
    Some(format!("{lower} AND ctid < '({},0)'::pg_catalog.tid", from + chunk_blocks))
}

/// The chunks that are still to be copied, as places in `tables` with the chunk's number. Large tables first, so that the
/// last sessions do not wait for one that began late; each from its beginning, so that tables are finished early.
pub(crate) fn to_copy(tables: &[LoadTable], done: &BTreeSet<LoadedChunk>) -> Vec<(usize, u32)> {
    let mut order: Vec<usize> = (0..tables.len()).collect();
    order.sort_by_key(|place| std::cmp::Reverse(tables[*place].size));
    let chunks = |place: usize| (0..tables[place].chunks).map(move |chunk| (place, chunk));
    let is_lacking = |(place, chunk): &(usize, u32)| !done.contains(&(tables[*place].source.clone(), *chunk));
    // A finished table may have come without a ledger of its chunks.
    order.retain(|place| !tables[*place].is_finished());
    order.into_iter().flat_map(chunks).filter(is_lacking).collect()
}

/// The tables (by source) whose copy begins anew under a new snapshot: those that are not finished, and with them those
/// that share their rows' place at the target, as `place_of` names it.
pub(crate) fn unfinished(
    tables: &[LoadTable],
    place_of: &BTreeMap<QualifiedName, QualifiedName>,
) -> BTreeSet<QualifiedName> {
    let place = |table: &LoadTable| place_of.get(&table.target).unwrap_or(&table.target).clone();
    let open: BTreeSet<_> = tables.iter().filter(|table| !table.is_finished()).map(place).collect();
    tables.iter().filter(|table| open.contains(&place(table))).map(|table| table.source.clone()).collect()
}

/// How tables are emptied: those that one TRUNCATE can name, and those that must be emptied row by row, because a table
/// that is not among the truncated ones refers to them. `references` are pairs of a table and one that it refers to.
pub(crate) fn emptied(
    tables: &BTreeSet<QualifiedName>,
    references: &[(QualifiedName, QualifiedName)],
) -> (Vec<QualifiedName>, Vec<QualifiedName>) {
    let mut truncated = tables.clone();
    loop {
        let held = references.iter().find(|(from, to)| truncated.contains(to) && !truncated.contains(from));
        match held {
            Some((_, to)) => truncated.remove(to),
            None => break,
        };
    }
    let deleted = tables.difference(&truncated).cloned().collect();
    (truncated.into_iter().collect(), deleted)
}

#[cfg(test)]
mod tests {
    use irongate_trail::Lsn;

    use super::*;

    fn name(name: &str) -> QualifiedName {
        ("s".to_owned(), name.to_owned())
    }

    fn table(source: &str, chunks: u32, done: u32, size: u64) -> LoadTable {
        LoadTable {
            source: name(source),
            target: name(source),
            generation: 1,
            start: Lsn(1),
            chunks,
            chunk_blocks: 10,
            chunks_done: done,
            rows: 0,
            bytes: 0,
            size,
            again: false,
        }
    }

    #[test]
    fn every_block_is_in_one_chunk_and_the_last_has_no_end() {
        let mib = 1 << 20;
        for (blocks, bytes, expected) in [
            (0, 0, (1, 0)),
            (1, 8192, (1, 0)),
            (1000, 1000 * 8192, (1, 0)),
            (100_000, 100_000 * 8192, (25, 4000)),
            // Few blocks with long values beside.
            (100, 3200 * mib, (100, 1)),
            (7, 96 * mib, (3, 3)),
            (u64::from(u32::MAX), u64::from(u32::MAX) * 8192, (10_000, 429_497)),
        ] {
            let cut = cut(Extent { blocks, bytes, by_block: true }, 32 * mib);
            assert_eq!(cut, expected, "{blocks} {bytes}");
            assert!(cut.0 == 1 || u64::from(cut.0) * cut.1 >= blocks);
        }
        assert_eq!(super::cut(Extent { blocks: 100_000, bytes: 1 << 40, by_block: false }, mib), (1, 0));
        assert_eq!(range(0, 1, 0), None);
        assert_eq!(
            range(1, 3, 10).unwrap(),
            "ctid >= '(10,0)'::pg_catalog.tid AND ctid < '(20,0)'::pg_catalog.tid"
        );
        assert_eq!(range(2, 3, 10).unwrap(), "ctid >= '(20,0)'::pg_catalog.tid");
    }

    #[test]
    fn what_is_there_is_not_copied_and_large_tables_begin() {
        let tables = [table("small", 1, 0, 1), table("large", 3, 1, 100)];
        let done = BTreeSet::from([(name("large"), 1)]);
        assert_eq!(to_copy(&tables, &done), [(1, 0), (1, 2), (0, 0)]);
    }

    #[test]
    fn finished_tables_stay_unless_an_unfinished_one_lies_in_the_same_place() {
        let mut tables = vec![table("done", 2, 2, 1), table("open", 2, 1, 1), table("beside", 1, 1, 1)];
        assert_eq!(unfinished(&tables, &BTreeMap::new()), BTreeSet::from([name("open")]));
        tables[2].target = name("open");
        assert_eq!(unfinished(&tables, &BTreeMap::new()), BTreeSet::from([name("open"), name("beside")]));
        // A partition of a partitioned table that is copied too.
        let place = BTreeMap::from([(name("open"), name("done"))]);
        assert_eq!(unfinished(&tables, &place).len(), 3);
    }

    #[test]
    fn a_table_is_truncated_unless_one_that_stays_refers_to_it_near_or_far() {
        let all = |names: &[&str]| names.iter().map(|n| name(n)).collect::<BTreeSet<_>>();
        let refers = |from: &str, to: &str| (name(from), name(to));
        let references = [refers("child", "parent"), refers("grandchild", "child"), refers("self", "self")];
        let empty = |names: &[&str]| emptied(&all(names), &references);
        assert_eq!(empty(&["grandchild"]), (vec![name("grandchild")], vec![]));
        assert_eq!(empty(&["parent", "self"]), (vec![name("self")], vec![name("parent")]));
        assert_eq!(empty(&["parent", "child"]).0, vec![]);
        assert_eq!(empty(&["parent", "child", "grandchild"]).1, vec![]);
    }
}
