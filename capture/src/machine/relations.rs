//! What the stream said of tables, as of this point of it.
//!
//! The server sends a table's description before the first row that uses it, and again whenever its cache was
//! invalidated: an ANALYZE is enough. So a repeated description is compared, and only a different one is a change.
//! It is given to the sink when a row needs it: most invalidated tables see no row for long.

use std::sync::Arc;

use irongate_trail::Relation;
use rustc_hash::FxHashMap;

use super::settings::TableCounts;

/// One table as the stream last described it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) relation: Arc<Relation>,
    /// Whether its rows are wanted.
    pub(super) captured: bool,
    /// The transaction in which this description was last given to the sink.
    pub(super) declared: Option<u64>,
    pub(super) counts: TableCounts,
}

/// The tables of one stream: the connection's, or one streamed transaction's.
#[derive(Clone, Debug, Default)]
pub(super) struct Relations {
    tables: FxHashMap<u32, Known>,
    /// Types that are not built in, by OID. Each stands in the stream before the tables that use it.
    types: FxHashMap<u32, (String, String)>,
}

impl Relations {
    pub(super) fn learn_type(&mut self, oid: u32, schema: &str, name: &str) {
        match self.types.get_mut(&oid) {
            Some(known) if known.0 == schema && known.1 == name => {}
            Some(known) => *known = (schema.to_owned(), name.to_owned()),
            None => _ = self.types.insert(oid, (schema.to_owned(), name.to_owned())),
        }
    }

    /// Takes in a description; returns whether it says anything new.
    pub(super) fn learn(&mut self, mut relation: Relation, captured: bool) -> bool {
        for column in &mut relation.columns {
            if let Some(name) = self.types.get(&column.type_oid) {
                column.type_name = Some(name.clone());
            }
        }
        self.insert(relation, captured)
    }

    fn insert(&mut self, relation: Relation, captured: bool) -> bool {
        let counts = match self.tables.get(&relation.id) {
            Some(known) if *known.relation == relation => return false,
            known => known.map(|known| known.counts).unwrap_or_default(),
        };
        let id = relation.id;
        self.tables.insert(id, Known { relation: Arc::new(relation), captured, declared: None, counts });
        true
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Known> {
        self.tables.get_mut(&id)
    }

    /// A streamed transaction was committed: from here on, what it saw is what everyone sees.
    pub(super) fn merge(&mut self, committed: Relations) {
        self.types.extend(committed.types);
        for (id, known) in committed.tables {
            match self.tables.get_mut(&id) {
                Some(mine) => {
                    mine.counts.merge(known.counts);
                    if mine.relation != known.relation {
                        *mine = Known { declared: None, counts: mine.counts, ..known };
                    }
                }
                None => _ = self.tables.insert(id, Known { declared: None, ..known }),
            }
        }
    }

    /// Hands out what was counted since the last time.
    pub(super) fn drain_counts(&mut self, mut take: impl FnMut(&Relation, TableCounts)) {
        for known in self.tables.values_mut() {
            let counts = std::mem::take(&mut known.counts);
            if counts != TableCounts::default() {
                take(&known.relation, counts);
            }
        }
    }
}
