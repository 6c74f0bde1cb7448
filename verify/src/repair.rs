//! Statements that make the two sides alike again, to be read and run by a person, or run here.
//!
//! Deletions come first, then changes, then additions, so that a value that is unique is given up before another row
//! takes it. Such values can go from row to row in a circle too. So a row of which one differs is taken out, with all
//! others of its kind, before any of them is put in again ([`unique`]). They run in replica role: foreign keys are not enforced row by row, no trigger adds anything, and no order
//! among the tables is needed.
//!
//! Each statement names the key of its row and the hash of what the compare saw there. A row that has been changed since is
//! left alone; so is an addition whose key is there by now.
//!
//! All is written under an origin of its own (`irongate_<flow>/0`), because Replicat holds that of the flow. So neither
//! Extract of the two sites captures it: what is repaired at one site is not sent to the other.
//!
//! Where nobody writes the target and nothing is on its way, it is made what the source was at one moment: [`rest`].
//! What may still be on its way through the flow is the matter of [`apply`]. A script cannot wait for it: it takes the
//! locks, so that Replicat does not come in between, and checks what it finds at the side that it writes. It cannot
//! know that the other side has changed the row since, so it is to be run soon after the compare.

mod apply;
mod rest;
mod statement;
mod unique;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

use irongate_checkpoint::Origin;
use irongate_postgres::sql::quote_literal;

use crate::compare::{Comparing, new_sides, planned};
use crate::confirm::Sides;
use crate::difference::{Difference, Kind};
use crate::error::Error;
use crate::flow::{End, Flow, Name};
use crate::scan::Member;
use crate::side::{PRINTING, Which};
use crate::table::Plan;

pub use apply::Applied;
pub use rest::Righted;
use unique::Unique;

/// The number of the origin's session among those of the flow.
const WORKER: u32 = 0;

/// Which side is made like the other one.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Direction {
    /// The target becomes what the source is.
    #[default]
    SourceToTarget,
    /// The source becomes what the target is.
    TargetToSource,
}

/// What is repaired, and how.
#[derive(Clone, Debug)]
pub struct Repairing {
    /// Which side is written.
    pub direction: Direction,
    /// Only differences of this kind; `None` is all.
    pub only: Option<Kind>,
    /// How long it is waited for what is on its way, for each few hundred differences.
    pub settle: Duration,
    /// The role that writes at the side that is written: Replicat's there.
    pub writer: End,
}

/// Where differences come from. They are gone through once for each kind.
pub type Differences<'a> =
    dyn Fn() -> Result<Box<dyn Iterator<Item = Result<Difference, Error>> + Send>, Error> + Send + Sync + 'a;

/// A repair: differences of a flow, and what the tables are like that they are in.
pub struct Repair<'a> {
    flow: &'a Flow,
    options: &'a Repairing,
    differences: &'a Differences<'a>,
    plans: BTreeMap<Name, Plan>,
    sides: Sides,
    unique: Unique,
}

impl std::fmt::Debug for Repair<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repair")
            .field("flow", &self.flow)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

fn written(direction: Direction) -> Which {
    match direction {
        Direction::SourceToTarget => Which::Target,
        Direction::TargetToSource => Which::Source,
    }
}

/// The order of kinds, as the side that is written sees them: deletions, changes, additions.
const ORDER: [Kind; 3] = [Kind::MissingAtSource, Kind::Different, Kind::MissingAtTarget];

impl<'a> Repair<'a> {
    /// Looks at the tables of the differences.
    ///
    /// # Errors
    /// [`Error::Database`]; [`Error::Altered`] for a table that is not what it was when it was compared; what the
    /// differences give.
    pub async fn of(
        flow: &'a Flow,
        options: &'a Repairing,
        differences: &'a Differences<'a>,
    ) -> Result<Self, Error> {
        let mut tables = BTreeSet::new();
        for difference in differences()? {
            tables.insert(difference?.table);
        }
        let mut sides = new_sides(flow, &Comparing::default(), None);
        let mut plans = BTreeMap::new();
        if !tables.is_empty() {
            for (name, plan) in planned(flow, &mut sides, &|name| tables.contains(name)).await? {
                plans.insert(name, plan?);
            }
        }
        let which = written(options.direction);
        let unique = Unique::of(sides.side(which), which, &plans).await?;
        let repair = Self { flow, options, differences, plans, sides, unique };
        for difference in (repair.differences)()? {
            repair.checked(&difference?)?;
        }
        Ok(repair)
    }

    /// The side that is written.
    fn which(&self) -> Which {
        written(self.options.direction)
    }

    /// Fails unless a difference is one of the table as it is now.
    fn checked(&self, difference: &Difference) -> Result<&Plan, Error> {
        let altered = || Error::Altered { table: difference.table.to_string() };
        let plan = self.plans.get(&difference.table).ok_or_else(altered)?;
        let columns: BTreeSet<&String> = plan.columns.iter().map(|column| &column.name).collect();
        let of_key = plan.key.iter().map(|place| &plan.columns[*place].name).collect::<BTreeSet<_>>();
        let is_same = plan.target == difference.target_table
            && [&difference.source, &difference.target]
                .into_iter()
                .flatten()
                .all(|image| image.keys().collect::<BTreeSet<_>>() == columns)
            && difference
                .key
                .as_ref()
                .map_or(plan.key.is_empty(), |key| key.keys().collect::<BTreeSet<_>>() == of_key);
        if is_same { Ok(plan) } else { Err(altered()) }
    }

    /// The kind as the side that is written sees it.
    fn seen(&self, kind: Kind) -> Kind {
        if self.which() == Which::Target { kind } else { kind.mirrored() }
    }

    /// The differences of one kind, as the side that is written sees it, that are to be repaired.
    fn of_kind(
        &self,
        kind: Kind,
    ) -> Result<impl Iterator<Item = Result<Difference, Error>> + Send + use<>, Error> {
        let only = self.options.only;
        let which = self.which();
        let seen = move |of: Kind| if which == Which::Target { of } else { of.mirrored() };
        Ok((self.differences)()?.filter(move |difference| match difference {
            Ok(difference) => {
                seen(difference.kind) == kind && only.is_none_or(|only| only == difference.kind)
            }
            Err(_) => true,
        }))
    }

    fn origin(&self) -> Result<Origin, Error> {
        Ok(Origin::of_worker(&self.flow.name, WORKER)?)
    }

    /// Writes the repair as a script for `psql`: one transaction that either does everything that is still to be done, or
    /// nothing. How many statements it has.
    ///
    /// # Errors
    /// [`Error::Write`], and what the differences give.
    pub fn print(&self, out: &mut dyn Write) -> Result<u64, Error> {
        let origin = quote_literal(self.origin()?.name());
        let names: BTreeSet<String> =
            self.plans.values().map(|plan| plan.name(self.which()).quoted()).collect();
        let names: Vec<String> = names.into_iter().collect();
        writeln!(
            out,
            "-- Repair of flow \"{}\", to be run at {}.",
            self.flow.name, self.options.writer.label
        )?;
        writeln!(out, "-- Rows that are not what the compare saw are left alone: their statements say 0.")?;
        if names.is_empty() {
            writeln!(out, "-- There is nothing to repair.")?;
            return Ok(0);
        }
        writeln!(
            out,
            "SELECT pg_catalog.pg_replication_origin_create({origin}) WHERE pg_catalog.pg_replication_origin_oid({origin}) IS NULL;\n\
             SELECT pg_catalog.pg_replication_origin_session_setup({origin});\n\
             BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;\n\
             -- Nothing is written that a reverse Extract would take for an application's.\n\
             SELECT 1 / pg_catalog.pg_replication_origin_session_is_setup()::int AS marked;\n\
             {}\n\
             LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE;",
            settings("10s"),
            names.join(", "),
        )?;
        let mut count = 0;
        let phases = [
            (Kind::MissingAtSource, None),
            (Kind::Different, Some(Half::Out)),
            (Kind::Different, None),
            (Kind::Different, Some(Half::In)),
            (Kind::MissingAtTarget, None),
        ];
        for (kind, half) in phases {
            for (number, difference) in self.of_kind(kind)?.enumerate() {
                let difference = difference?;
                let (plan, which) = (self.checked(&difference)?, self.which());
                let is_apart = kind == Kind::Different && self.unique.is_apart(&difference);
                if is_apart != half.is_some() {
                    continue;
                }
                let statements = match half {
                    Some(half) => vec![statement::half(plan, which, half, number, &difference)],
                    None => statement::of(plan, which, self.seen(difference.kind), &difference),
                };
                for statement in statements {
                    writeln!(out, "{statement};")?;
                    count += 1;
                }
            }
        }
        writeln!(out, "COMMIT;\nSELECT pg_catalog.pg_replication_origin_session_reset();")?;
        Ok(count)
    }
}

/// A half of putting a row right that is taken out and put in again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Half {
    Out,
    In,
}

/// What the transaction is set to: values print as they did when they were compared, and no trigger adds anything.
fn settings(lock_timeout: &str) -> String {
    format!(
        "{}; SET LOCAL search_path = pg_catalog; SET LOCAL row_security = off; \
         SET LOCAL session_replication_role = replica; SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = '{lock_timeout}';",
        PRINTING.replace("SET ", "SET LOCAL ")
    )
}

/// What a difference's row is known by.
fn member(plan: &Plan, difference: &Difference) -> Member {
    let key = difference.key.as_ref();
    let value = |place: &usize| {
        let name = &plan.columns[*place].name;
        key.and_then(|key| key.get(name)).cloned().flatten().unwrap_or_default()
    };
    let hashes = if difference.source_rows > 0 { difference.source_hashes } else { difference.target_hashes };
    Member { hashes, key: plan.key.iter().map(value).collect(), rows: 1 }
}
