//! What differs between a site that comes back and the one that writes, before anything is compared.
//!
//! What can differ was written since the sites parted: there, which is salvage's list, and here, which is in the trail of
//! the flow that leads back. A row that was written twice counts twice. What went wrong before is not in it: that is
//! found by the compare.
//!
//! The sites parted when the epoch began that the live site writes in, so every file of the trail counts that was written in
//! it, whatever slot it came from: a run that was taken back has left one of an earlier slot behind. What was purged, cannot be
//! read or was not captured between two slots is left out, and then the number is the least that it can be. An estimate
//! decides nothing that the compare does not decide again, so that nothing is refused because of it.

use std::sync::Arc;

use irongate_checkpoint::CHECKPOINT_SCHEMA;
use irongate_trail::{Begins, Directory, Item, Reader, Storage};
use serde::Serialize;

use super::by::{By, recommended};
use super::roles::role_of;
use super::{Run, Unit};
use crate::error::Error;

/// More changes than these are not counted.
const COUNTED: u64 = 2_000_000;
/// Seconds that a row takes to be hashed at both sites, to be put right, and to be copied: roughly, in one hall.
const HASHED: f64 = 4e-6;
const RIGHTED: f64 = 4e-4;
const COPIED: f64 = 8e-6;

/// What a repair and a copy of one database would have to do.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Estimate {
    /// The database and the site that comes back.
    pub(super) database: String,
    /// The flow that leads back.
    pub(super) flow: String,
    /// Rows of its tables, as the server estimates them.
    pub(super) rows: u64,
    /// Bytes of its tables.
    pub(super) bytes: u64,
    /// Rows that were written at the live site since the sites parted. `None` if that is not known.
    pub(super) changed: Option<u64>,
    /// There may be more: no more were counted, or not all can be.
    pub(super) and_more: bool,
    /// Transactions that the lost site had alone, as far as somebody has looked.
    pub(super) lost_transactions: Option<u64>,
    /// Roughly, how long a repair takes.
    pub(super) repair_seconds: f64,
    /// The same of a copy.
    pub(super) copy_seconds: f64,
    /// Why a repair cannot be made, for each table.
    pub(super) not_comparable: Vec<String>,
}

impl Estimate {
    /// What is better, and why.
    pub(super) fn recommended(&self) -> (By, String) {
        if let Some(reason) = self.not_comparable.first() {
            return (By::Copy, format!("{} cannot be compared: {reason}", self.database));
        }
        let Some(changed) = self.changed else {
            let because = "how many rows may differ is not known before they are compared";
            return (By::Repair, format!("{}: {because}", self.database));
        };
        let (by, because) = recommended(changed, self.rows);
        let because = because.replace("rows differ", "rows may differ");
        let least = if self.and_more { "at least " } else { "" };
        (by, format!("{}: {least}{because}", self.database))
    }
}

impl Run<'_> {
    /// What a repair and a copy of a database would have to do.
    pub(super) async fn estimate(
        &self,
        unit: &Unit<'_>,
        lost_transactions: Option<u64>,
    ) -> Result<Estimate, Error> {
        const SIZE: &str = "SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::pg_catalog.int8,
                coalesce(sum(pg_catalog.pg_table_size(c.oid)), 0)::pg_catalog.int8
           FROM (SELECT DISTINCT leaf.relid
                   FROM pg_catalog.pg_publication_tables p
                   JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname
                   JOIN pg_catalog.pg_class t ON t.relnamespace = n.oid AND t.relname = p.tablename,
                        LATERAL (SELECT t.oid UNION SELECT tree.relid FROM pg_catalog.pg_partition_tree(t.oid) tree) leaf (relid)
                  WHERE p.pubname = $1) leaves
           JOIN pg_catalog.pg_class c ON c.oid = leaves.relid AND c.relkind <> 'p'";
        let flow = unit.pair.out_of;
        let failed = || unit.to.failed("ask for the sizes of the tables");
        let row = unit.to.session.query_one(SIZE, &[&flow.publication]).await.map_err(failed())?;
        let number = |column: usize| row.try_get::<_, i64>(column).map(i64::unsigned_abs).map_err(failed());
        let (rows, bytes) = (number(0)?, number(1)?);
        let directory = self.configuration.trail(flow);
        let epoch = role_of(&unit.to).await?.map_or(u64::MAX, |role| role.epoch);
        let counted = tokio::task::spawn_blocking(move || Changed::since(&directory, epoch)).await;
        let Changed { rows: changed, and_more } =
            counted.map_err(|error| irongate_deployment::Error::Internal(error.to_string()))?;
        let compared = irongate_manager::compare::flow(self.configuration, flow)
            .map_err(|source| Error::Manager { site: self.heading.to.clone(), source: Box::new(source) })?;
        let troubled = irongate_verify::not_comparable(&compared).await?;
        let told = |table: irongate_verify::Table| {
            format!("table {}: {}", table.name, table.problem.unwrap_or_default())
        };
        Ok(Estimate {
            database: unit.from()?.to_string(),
            flow: flow.name.clone(),
            rows,
            bytes,
            changed,
            and_more,
            lost_transactions,
            repair_seconds: rows as f64 * HASHED + changed.unwrap_or(0) as f64 * RIGHTED,
            copy_seconds: rows as f64 * COPIED + bytes as f64 / 50e6,
            not_comparable: troubled.into_iter().map(told).collect(),
        })
    }
}

/// Rows that a trail has, but for Irongate's own.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Changed {
    /// `None` where nothing of them is there to be read.
    rows: Option<u64>,
    /// Not all of them could be counted.
    and_more: bool,
}

impl Changed {
    /// Counts what was written in this epoch or later.
    fn since(directory: &std::path::Path, epoch: u64) -> Self {
        let storage: Arc<dyn Storage> = Arc::new(Directory::new(directory));
        let listing = match irongate_trail::list(&*storage) {
            Ok(listing) => listing,
            Err(error) => {
                tracing::warn!(%error, "what was written since the sites parted cannot be counted");
                return Self::default();
            }
        };
        let mut files = listing.files.iter().peekable();
        // Where the files before it are gone, some of these may be gone with them.
        let mut and_more = files.peek().is_some_and(|file| file.seqno > 1);
        while files.next_if(|file| file.header.as_ref().is_some_and(|header| header.epoch < epoch)).is_some()
        {
            and_more = false;
        }
        let mut lineages: Vec<_> = listing.files.iter().filter_map(|file| file.header.as_ref()).collect();
        lineages.retain(|header| header.epoch >= epoch);
        lineages.dedup_by_key(|header| header.lineage);
        // What was committed between two slots is in neither.
        and_more |= lineages.len() > 1;
        let mut count = None;
        let mut read_to = 0;
        for file in files {
            if count.is_some_and(|count| count >= COUNTED) {
                break;
            }
            if file.seqno <= read_to {
                continue;
            }
            let mut reader = match Reader::open(Arc::clone(&storage), Begins::File(file.seqno)) {
                Ok(reader) => reader,
                Err(error) => {
                    tracing::warn!(%error, "what was written since the sites parted is counted without a file");
                    and_more = true;
                    continue;
                }
            };
            and_more |= !count_on(&mut reader, count.get_or_insert(0));
            read_to = reader.header().seqno;
        }
        Self { rows: count, and_more: and_more || count.is_some_and(|count| count >= COUNTED) }
    }
}

/// Counts until nothing more is there, or enough, or a file cannot be read any further. Whether everything could be read.
fn count_on(reader: &mut Reader, count: &mut u64) -> bool {
    loop {
        match reader.next() {
            Ok(Some(Item::Row { relation, .. })) => {
                *count += u64::from(relation.schema.as_str() != CHECKPOINT_SCHEMA);
            }
            // Everything that was there is gone.
            Ok(Some(Item::Truncate { .. })) => *count += super::by::MOST,
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(error) => {
                tracing::warn!(%error, "what was written since the sites parted is counted without a file");
                return false;
            }
        }
        if *count >= COUNTED {
            return true;
        }
    }
}
