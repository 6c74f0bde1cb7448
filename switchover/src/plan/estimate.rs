//! What differs between a site that comes back and the one that writes, before anything is compared.
//!
//! What can differ was written since the sites parted: there, which is salvage's list, and here, which is in the trail of
//! the flow that leads back. A row that was written twice counts twice. What went wrong before is not in it: that is
//! found by the compare.

use std::sync::Arc;

use irongate_checkpoint::CHECKPOINT_SCHEMA;
use irongate_trail::{Begins, CommitLsn, Directory, Item, Reader, ResumeLsn, Storage};
use serde::Serialize;

use super::by::{By, recommended};
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
    /// Rows that were written at the live site since the sites parted.
    pub(super) changed: u64,
    /// There are more: no more were counted.
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
        let (by, because) = recommended(self.changed, self.rows);
        let because = because.replace("rows differ", "rows may differ");
        (by, format!("{}: {because}", self.database))
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
        let counted = tokio::task::spawn_blocking(move || changed(&directory)).await;
        let counted = counted.map_err(|error| irongate_deployment::Error::Internal(error.to_string()))?;
        let changed = counted.map_err(irongate_deployment::Error::from)?;
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
            and_more: changed >= COUNTED,
            lost_transactions,
            repair_seconds: rows as f64 * HASHED + changed as f64 * RIGHTED,
            copy_seconds: rows as f64 * COPIED + bytes as f64 / 50e6,
            not_comparable: troubled.into_iter().map(told).collect(),
        })
    }
}

/// Rows that a trail has of its newest lineage, but for Irongate's own.
fn changed(directory: &std::path::Path) -> Result<u64, irongate_trail::Error> {
    if !directory.is_dir() {
        return Ok(0);
    }
    let storage: Arc<dyn Storage> = Arc::new(Directory::new(directory));
    let listing = irongate_trail::list(&*storage)?;
    let Some(header) = listing.files.iter().rev().find_map(|file| file.header.as_ref()) else { return Ok(0) };
    let lineage = header.lineage;
    let resume = ResumeLsn(lineage.slot_incarnation);
    let mut reader = Reader::open(storage, Begins::After { lineage, commit: CommitLsn::default(), resume })?;
    let mut count = 0;
    while let Some(item) = reader.next()? {
        match item {
            Item::Row { relation, .. } => {
                count += u64::from(relation.schema.as_str() != CHECKPOINT_SCHEMA);
            }
            // Everything that was there is gone.
            Item::Truncate { .. } => count += super::by::MOST,
            _ => {}
        }
        if count >= COUNTED {
            break;
        }
    }
    Ok(count)
}
