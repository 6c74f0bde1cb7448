//! A transaction that comes before it has ended.

use irongate_trail::{Begin, Commit, CommitLsn};
use rustc_hash::FxHashMap;

use super::Machine;
use super::relations::Relations;
use crate::error::Error;
use crate::pgoutput::Row;
use crate::sink::Sink;

/// What is known of one streamed transaction, beside what lies in the sink's side storage.
#[derive(Clone, Debug, Default)]
pub(super) struct Streamed {
    /// What it sees of tables: its own uncommitted DDL included, others' not.
    pub(super) relations: Relations,
    /// The origin it is applied under at the source.
    pub(super) origin: Option<String>,
    /// Not wanted, whatever it changes.
    pub(super) skipped: bool,
    /// Whether the sink holds anything of it.
    pub(super) stored: bool,
    changes: Changes,
}

impl Streamed {
    /// Counts a change of the (sub-)transaction `subxid`.
    #[inline]
    pub(super) fn count(&mut self, subxid: u32) {
        self.changes.add(subxid);
    }

    /// The sub-transaction was aborted.
    pub(super) fn abort(&mut self, subxid: u32) {
        self.changes.remove(subxid);
    }

    /// Changes that were not aborted.
    pub(super) fn changes(&self) -> u64 {
        self.changes.total
    }
}

/// Changes by sub-transaction. Memory grows with the sub-transactions that have changes and are not aborted, 16 bytes
/// each and no more: nothing but this count can say what an abort takes away.
#[derive(Clone, Debug, Default)]
struct Changes {
    total: u64,
    by_subxid: FxHashMap<u32, u64>,
    /// The one counted last, not yet in the map: rows of one sub-transaction come in runs.
    last: (u32, u64),
}

impl Changes {
    #[inline]
    fn add(&mut self, subxid: u32) {
        self.total += 1;
        if self.last.0 == subxid {
            self.last.1 += 1;
        } else {
            self.store_last();
            self.last = (subxid, 1);
        }
    }

    fn remove(&mut self, subxid: u32) {
        self.store_last();
        self.total -= self.by_subxid.remove(&subxid).unwrap_or_default();
    }

    fn store_last(&mut self) {
        let (subxid, count) = std::mem::take(&mut self.last);
        if count > 0 {
            *self.by_subxid.entry(subxid).or_default() += count;
        }
    }
}

impl Machine {
    pub(super) fn stream_start(&mut self, xid: u32, first: bool, sink: &mut impl Sink) -> Result<(), Error> {
        if self.open.is_some() || self.block.is_some() {
            return Err(self.unexpected("stream start inside a transaction"));
        }
        if first {
            if let Some(old) = self.streamed.insert(xid, Streamed::default())
                && old.stored
            {
                sink.side_drop(xid)?;
            }
        } else if !self.streamed.contains_key(&xid) {
            return Err(self.unexpected(&format!("later block of transaction {xid} without its first")));
        }
        self.block = Some(xid);
        Ok(())
    }

    pub(super) fn side_row(&mut self, row: Row<'_>, sink: &mut impl Sink) -> Result<(), Error> {
        let Some((xid, subxid)) = self.block.zip(row.xid) else {
            return Err(self.unexpected("row outside a transaction"));
        };
        let Some(streamed) = self.streamed.get_mut(&xid) else {
            return Err(self.unexpected("block of an unknown transaction"));
        };
        if streamed.skipped {
            return Ok(());
        }
        let Some(known) = streamed.relations.get_mut(row.relation) else {
            return Err(self.unknown_relation(row.relation));
        };
        if known.relation.columns.len() != usize::from(row.columns) {
            return Err(self.wrong_columns(row));
        }
        if !known.captured {
            return Ok(());
        }
        streamed.stored = true;
        if known.declared.is_none() {
            sink.side_relation(xid, &known.relation)?;
            known.declared = Some(0);
        }
        known.counts.add(row.operation);
        streamed.count(subxid);
        sink.side_row(xid, subxid, row.relation, row.operation, row.bytes)
    }

    pub(super) fn stream_commit(
        &mut self,
        xid: u32,
        commit: Commit,
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        if self.open.is_some() || self.block.is_some() || commit.end_lsn.0 <= commit.commit_lsn.0 {
            return Err(self.unexpected("stream commit out of place"));
        }
        let duplicate = self.is_duplicate(commit.commit_lsn);
        if !duplicate {
            self.check_order(commit.commit_lsn)?;
        }
        let Some(mut streamed) = self.streamed.remove(&xid) else {
            return Err(self.unexpected(&format!("stream commit of unknown transaction {xid}")));
        };
        self.relations.merge(std::mem::take(&mut streamed.relations));
        if duplicate || streamed.changes() == 0 {
            if streamed.stored {
                sink.side_drop(xid)?;
            }
            self.left_out(&commit);
            return Ok(());
        }
        let begin = Begin {
            xid,
            commit_lsn: commit.commit_lsn,
            commit_time: commit.commit_time,
            origin: streamed.origin.take(),
            previous: CommitLsn::default(),
        };
        let commit = Commit { changes: streamed.changes(), ..commit };
        sink.adopt(xid, &begin, &commit)?;
        self.captured(&commit)
    }

    /// An abort of what is not there is nothing: the server need not know what we have left out.
    pub(super) fn stream_abort(&mut self, xid: u32, subxid: u32, sink: &mut impl Sink) -> Result<(), Error> {
        if self.open.is_some() || self.block.is_some() {
            return Err(self.unexpected("stream abort inside a transaction"));
        }
        if xid == subxid {
            if let Some(streamed) = self.streamed.remove(&xid) {
                self.counts.aborted += 1;
                if streamed.stored {
                    sink.side_drop(xid)?;
                }
            }
        } else if let Some(streamed) = self.streamed.get_mut(&xid) {
            streamed.abort(subxid);
            if streamed.stored {
                sink.side_abort(xid, subxid)?;
            }
        }
        Ok(())
    }

    /// The streamed transaction that the stream is in, and the sub-transaction.
    pub(super) fn side(&mut self, subxid: Option<u32>) -> Result<(u32, u32, &mut Streamed), Error> {
        let at = self.at;
        let outside = || Error::Protocol { lsn: at, what: "change outside a transaction".to_owned() };
        let (xid, subxid) = self.block.zip(subxid).ok_or_else(outside)?;
        let streamed = self.streamed.get_mut(&xid).ok_or_else(outside)?;
        Ok((xid, subxid, streamed))
    }
}

#[cfg(test)]
mod tests {
    use super::Streamed;

    #[test]
    fn an_abort_takes_away_what_its_subtransaction_changed_and_no_more() {
        let mut streamed = Streamed::default();
        for subxid in [7, 8, 8, 9, 8, 7] {
            streamed.count(subxid);
        }
        streamed.abort(8);
        assert_eq!(streamed.changes(), 3);
        streamed.abort(8);
        assert_eq!(streamed.changes(), 3);
        streamed.count(8);
        assert_eq!(streamed.changes(), 4);
    }
}
