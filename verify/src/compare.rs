//! A compare from end to end.
//!
//! Each table is hashed at both sides at once, bucket by bucket ([`crate::bucket`], [`crate::scan`]); what differs is
//! fetched by key or by hash ([`crate::fetch`]) and looked at until it is settled ([`crate::confirm`]), a batch at a
//! time. So what is held in memory is the sums of a table, the keys of a portion, and the values of a few rows; no table, and
//! no more than a batch of what was found: differences are handed on as they are confirmed.
//!
//! What is found is true of every row that is different through the whole compare. A row that becomes different while its
//! table is being read may be found or not.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use irongate_trail::Timestamp;

use crate::bucket::Cut;
use crate::confirm::{Sides, Values, Waiting, settle, settle_at_rest};
use crate::counted;
use crate::difference::{Difference, Kind};
use crate::error::Error;
use crate::fetch::{self, halved, portions, unlike};
use crate::flow::{End, Flow, Name};
use crate::pace::Pace;
use crate::report::{Comparison, Table};
use crate::scan;
use crate::side::{PATIENCE, PAUSES, Scope, Side, Which, field};
use crate::sql::Sql;
use crate::table::{BLOCK, Plan, Planned, plans};

/// So many rows are settled together.
const BATCH: usize = 500;
/// So many where each look goes through the whole table.
const BATCH_WITHOUT_KEY: usize = 5_000;
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// How a compare is made.
#[derive(Clone, Debug)]
pub struct Comparing {
    /// How many tables are read side by side. Each takes a session at either side.
    pub parallel: usize,
    /// The most that is read in a second, in bytes of tables, at both sides together.
    pub bytes_a_second: Option<u64>,
    /// For how long a row that is not the same is looked at again before it counts as unsettled.
    pub settle: Duration,
    /// The longest that one statement may take.
    pub statement_limit: Duration,
    /// After so many differences of a table no more of it is looked at.
    pub most: u64,
    /// Whether differences are told with all values, or only with their keys.
    pub images: bool,
    /// Tables that are read before all others, by their names at the source: those that somebody is likely to empty or to
    /// rewrite meanwhile.
    pub first: Vec<String>,
}

impl Default for Comparing {
    fn default() -> Self {
        Self {
            parallel: 2,
            bytes_a_second: None,
            settle: Duration::from_secs(60),
            statement_limit: Duration::from_secs(600),
            most: 100_000,
            images: true,
            first: Vec::new(),
        }
    }
}

/// How far a compare is.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Progress {
    /// Tables that are done.
    pub tables_done: usize,
    /// All tables.
    pub tables_total: usize,
    /// Rows of the source that have been hashed.
    pub rows: u64,
    /// Rows of the source by its own estimate.
    pub estimated_rows: u64,
    /// Bytes of the source's tables that have been read.
    pub bytes: u64,
    /// All bytes of the source's tables.
    pub total_bytes: u64,
    /// Differences confirmed so far.
    pub differences: u64,
}

/// Who is told what a compare finds.
pub trait Observer: Send + Sync {
    /// How far it is, now and then.
    fn progress(&self, _progress: &Progress) {}

    /// A confirmed difference.
    ///
    /// # Errors
    /// Whatever keeps it from being kept; ends the compare.
    fn difference(&self, _difference: Difference) -> std::io::Result<()> {
        Ok(())
    }
}

/// Nobody.
impl Observer for () {}

/// Which tables are wanted.
pub struct Wanted<'a> {
    /// What was asked for, for messages.
    pub text: String,
    /// Whether a table of the source is meant.
    pub fits: Box<dyn Fn(&Name) -> bool + Send + Sync + 'a>,
}

impl std::fmt::Debug for Wanted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wanted({:?})", self.text)
    }
}

/// Compares the ends of a flow: all tables, or those that are wanted.
///
/// A table that cannot be compared has a `problem` in the result, and the others are compared all the same.
///
/// # Errors
/// [`Error::NothingPublished`], [`Error::NoTable`]; [`Error::Database`] where an end does not answer; [`Error::Write`] of
/// the observer.
///
/// Dropping the call ends its sessions; the servers give up what they are at within seconds.
pub async fn compare(
    flow: &Flow,
    options: &Comparing,
    wanted: &[Wanted<'_>],
    observer: &dyn Observer,
) -> Result<Comparison, Error> {
    comparing(flow, options, wanted, observer, None).await
}

/// Compares all tables of a flow whose target nobody writes, as they were at its source at one moment: under a snapshot
/// that somebody has exported there and keeps until this is over.
///
/// Nothing is on its way then, and nothing is waited for: what is not the same is a difference. A row of the target that
/// changes under its eyes counts as unsettled. A table has a `problem` only for how the two databases are made, and for what
/// a role may do there: that lasts.
///
/// # Errors
/// As [`compare`]; [`Error::SnapshotGone`], [`Error::Rewritten`] and [`Error::Altered`], for which it takes another snapshot;
/// [`Error::Database`] also for whatever else a server refuses.
///
/// Dropping the call ends its sessions; the servers give up what they are at within seconds.
pub async fn compare_at_rest(
    flow: &Flow,
    snapshot: &str,
    options: &Comparing,
    observer: &dyn Observer,
) -> Result<Comparison, Error> {
    comparing(flow, options, &[], observer, Some(snapshot)).await
}

/// The tables of a flow that cannot be compared, and why. Only the catalogs are looked at.
///
/// # Errors
/// [`Error::NothingPublished`], [`Error::Database`].
///
/// Cancel-safe.
pub async fn not_comparable(flow: &Flow) -> Result<Vec<Table>, Error> {
    let mut sides = new_sides(flow, &Comparing::default(), None);
    let planned = planned(flow, &mut sides, &|_| true).await?;
    Ok(planned.iter().filter_map(|(name, plan)| Some(troubled(name, plan.as_ref().err()?))).collect())
}

/// What tells the databases of a flow from all others, source and target: the system identifier and the name of each.
///
/// # Errors
/// [`Error::Database`].
///
/// Cancel-safe.
pub async fn ends(flow: &Flow) -> Result<[String; 2], Error> {
    let mut sides = new_sides(flow, &Comparing::default(), None);
    let mut found = [String::new(), String::new()];
    for which in [Which::Source, Which::Target] {
        let sql = "SELECT system_identifier || '/' || current_database() FROM pg_catalog.pg_control_system()";
        let rows = sides.side(which).ask(Scope::Now, "read the system identifier", sql).await?;
        found[which as usize] = rows.first().map(|row| field(row, 0).to_owned()).unwrap_or_default();
    }
    Ok(found)
}

async fn comparing(
    flow: &Flow,
    options: &Comparing,
    wanted: &[Wanted<'_>],
    observer: &dyn Observer,
    snapshot: Option<&str>,
) -> Result<Comparison, Error> {
    let (started, begun) = (Timestamp::now().to_string(), Instant::now());
    let mut sides = new_sides(flow, options, snapshot);
    let is_wanted = |name: &Name| wanted.is_empty() || wanted.iter().any(|wanted| (wanted.fits)(name));
    let planned = planned(flow, &mut sides, &is_wanted).await?;
    for pattern in wanted {
        if !planned.iter().any(|(name, _)| (pattern.fits)(name)) {
            return Err(Error::NoTable { flow: flow.name.clone(), pattern: pattern.text.clone() });
        }
    }
    let (mut tables, mut plans) = (Vec::new(), Vec::new());
    for (name, plan) in planned {
        match plan {
            Ok(plan) => plans.push(plan),
            Err(error) => tables.push(troubled(&name, &error)),
        }
    }
    // The largest first: then none of the workers is left with it in the end.
    plans.sort_by_key(|plan| {
        let is_first = options.first.contains(&plan.source.to_string());
        std::cmp::Reverse((is_first, plan.bytes()))
    });
    let work = Work {
        flow,
        options,
        observer,
        is_at_rest: snapshot.is_some(),
        pace: Pace::new(options.bytes_a_second),
        waiting: Waiting::new(flow, options.settle),
        account: Mutex::new(Account::new(&plans)),
        queue: Mutex::new(plans.into()),
    };
    let mut workers = vec![work.through(sides)];
    for _ in 1..options.parallel.max(1) {
        workers.push(work.through(new_sides(flow, options, snapshot)));
    }
    let at_rest = "rows of the target were changed while they were compared";
    tables.extend(try_join_all(workers).await?.into_iter().flatten());
    work.tell(true, |_| ());
    tables.sort_by(|one, other| one.name.cmp(&other.name));
    let total = |of: fn(&Table) -> u64| -> u64 { tables.iter().map(of).sum() };
    let changed = snapshot.is_some() && total(|table| table.unsettled) > 0;
    Ok(Comparison {
        flow: flow.name.clone(),
        differences: total(|table| table.differences),
        unsettled: total(|table| table.unsettled),
        unsettled_because: if changed { Some(at_rest.to_owned()) } else { work.waiting.stuck() },
        complete: wanted.is_empty(),
        tables,
        started,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

pub(crate) fn new_sides(flow: &Flow, options: &Comparing, snapshot: Option<&str>) -> Sides {
    let side = |end| Side::new(end, options.statement_limit);
    let arrived = flow.reverse.as_ref().map(|(_, end)| side(end));
    Sides { source: side(&flow.source).under(snapshot), target: side(&flow.target), arrived }
}

/// The tables of the flow. As often as it takes, like any other question.
pub(crate) async fn planned(
    flow: &Flow,
    sides: &mut Sides,
    wanted: &(dyn Fn(&Name) -> bool + Send + Sync),
) -> Result<Vec<Planned>, Error> {
    let (begun, mut pause) = (Instant::now(), PAUSES[0]);
    loop {
        let error = match planned_once(flow, sides, wanted).await {
            Ok(planned) => return Ok(planned),
            Err(error) => error,
        };
        sides.source.forget();
        sides.target.forget();
        if error.needs_snapshot() || !error.is_transient() || begun.elapsed() >= PATIENCE {
            return Err(error);
        }
        tracing::warn!(%error, "the tables are looked at again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES[1]);
    }
}

async fn planned_once(
    flow: &Flow,
    sides: &mut Sides,
    wanted: &(dyn Fn(&Name) -> bool + Send + Sync),
) -> Result<Vec<Planned>, Error> {
    let Sides { source, target, .. } = sides;
    let unreachable = |end: &End, error| Error::Database {
        end: end.label.clone(),
        doing: "connect".to_owned(),
        source: Box::new(error),
    };
    tokio::try_join!(source.open(), target.open())?;
    let (source, target) = tokio::join!(source.session(), target.session());
    let source = source.map_err(|error| unreachable(&flow.source, error))?;
    let target = target.map_err(|error| unreachable(&flow.target, error))?;
    plans(flow, source, target, wanted).await
}

/// Whether an end does not answer. A lock that is not given, or a statement that takes too long, is the table's matter.
fn is_lost(error: &Error) -> bool {
    let Error::Database { source, .. } = error else { return false };
    error.is_transient() && !matches!(source.code(), Some("55P03" | "57014" | "40P01"))
}

fn troubled(name: &Name, error: &Error) -> Table {
    Table { name: name.to_string(), problem: Some(error.to_string()), hint: error.hint(), ..Table::default() }
}

struct Account {
    progress: Progress,
    told: Instant,
}

impl Account {
    fn new(plans: &[Plan]) -> Self {
        let progress = Progress {
            tables_total: plans.len(),
            estimated_rows: plans.iter().map(|plan| plan.estimated_rows).sum(),
            total_bytes: plans.iter().map(|plan| plan.shape(Which::Source).blocks() * BLOCK).sum(),
            ..Progress::default()
        };
        Self { progress, told: Instant::now() }
    }
}

/// What the workers share.
struct Work<'a> {
    flow: &'a Flow,
    options: &'a Comparing,
    observer: &'a dyn Observer,
    /// The source is one state and nobody writes the target.
    is_at_rest: bool,
    pace: Pace,
    waiting: Waiting<'a>,
    account: Mutex<Account>,
    queue: Mutex<VecDeque<Plan>>,
}

impl Work<'_> {
    fn tell(&self, at_once: bool, change: impl FnOnce(&mut Progress)) {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut account.progress);
        if at_once || account.told.elapsed() >= TELL_EVERY {
            account.told = Instant::now();
            self.observer.progress(&account.progress);
        }
    }

    fn next(&self) -> Option<Plan> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// One worker: a table after another.
    async fn through(&self, mut sides: Sides) -> Result<Vec<Table>, Error> {
        let mut done = Vec::new();
        while let Some(plan) = self.next() {
            let mut table =
                Table { name: plan.source.to_string(), target: plan.target.to_string(), ..Table::default() };
            let compared = self.table(&mut sides, &plan, &mut table).await;
            let trouble = match compared {
                // An end that does not answer has been waited for.
                Err(error @ Error::Write(_)) => return Err(error),
                Err(error) if is_lost(&error) => return Err(error),
                // What the server refuses is often the echo of what was done to the table.
                Err(error) => Some(self.unaltered(&mut sides, &plan).await.err().unwrap_or(error)),
                Ok(()) if table.differences > 0 => self.unaltered(&mut sides, &plan).await.err(),
                Ok(()) => None,
            };
            if let Some(error) = trouble {
                if self.is_at_rest && !error.is_structural() {
                    return Err(self.passing(&plan, error));
                }
                (table.problem, table.hint) = (Some(error.to_string()), error.hint());
            }
            done.push(table);
            if self.is_at_rest {
                // What a transaction has read it keeps a lock on, and somebody may want to alter that.
                sides.source.forget();
            }
            self.tell(false, |progress| progress.tables_done += 1);
        }
        Ok(done)
    }

    /// What went wrong at rest and does not lie in how the databases are made. A column or a table that was there when the
    /// snapshot was taken, and is not any more, was altered away.
    fn passing(&self, plan: &Plan, error: Error) -> Error {
        match &error {
            Error::Database { source, .. } if source.code().is_some_and(|code| code.starts_with("42")) => {
                Error::Altered { table: plan.source.to_string() }
            }
            _ => error,
        }
    }

    /// Fails if a table is not what it was when it was looked at first.
    async fn unaltered(&self, sides: &mut Sides, plan: &Plan) -> Result<(), Error> {
        let altered = || Error::Altered { table: plan.source.to_string() };
        let mut now = planned(self.flow, sides, &|name| *name == plan.source).await?;
        match now.pop() {
            Some((_, Ok(now))) if now.is_still(plan) => Ok(()),
            Some((_, Ok(_))) | None => Err(altered()),
            Some((_, Err(error))) => Err(error),
        }
    }

    async fn table(&self, sides: &mut Sides, plan: &Plan, table: &mut Table) -> Result<(), Error> {
        sides.source.hold(&plan.source, plan.shape(Which::Source));
        sides.target.hold(&plan.target, plan.shape(Which::Target));
        let cut = self.cut(sides, plan).await?;
        let (at_source, at_target) = (Sql { plan, which: Which::Source }, Sql { plan, which: Which::Target });
        let tell = |rows, bytes| {
            self.tell(false, |progress| {
                progress.rows += rows;
                progress.bytes += bytes;
            });
        };
        let counting = plan.key.is_empty() && !self.is_at_rest;
        let mut is_shown = true;
        let differing = if counting {
            let found = counted::differing(sides, plan, &cut, &self.pace, &self.waiting, &tell).await?;
            (table.rows, is_shown) = (found.rows, found.is_shown);
            found.buckets
        } else {
            let Sides { source, target, .. } = sides;
            let (here, there) = tokio::try_join!(
                scan::sums(source, &at_source, &cut, &self.pace, &tell),
                scan::sums(target, &at_target, &cut, &self.pace, &|_, _| ()),
            )?;
            table.rows = here.rows();
            here.differing(&there)
        };
        let mut left: VecDeque<_> = portions(&cut, &differing).into();
        let mut unlike_rows = Vec::new();
        let together = if plan.key.is_empty() { BATCH_WITHOUT_KEY } else { BATCH };
        while let Some(portion) = left.pop_front() {
            if table.differences >= self.options.most {
                table.truncated = true;
                return Ok(());
            }
            if fetch::is_too_large(&portion) {
                for half in halved(sides, plan, portion).await?.into_iter().rev() {
                    left.push_front(half);
                }
                continue;
            }
            if counting && is_shown {
                let found = counted::unlike(sides, plan, &cut, &portion, &self.pace, &self.waiting).await?;
                is_shown = found.is_shown;
                unlike_rows.extend(found.members);
            } else {
                unlike_rows.extend(unlike(sides, plan, &cut, &portion, &self.pace).await?);
            }
            while unlike_rows.len() >= together && table.differences < self.options.most {
                let rest = unlike_rows.split_off(together);
                let batch = std::mem::replace(&mut unlike_rows, rest);
                self.batch(sides, plan, batch, table).await?;
            }
        }
        if table.differences >= self.options.most {
            table.truncated |= !unlike_rows.is_empty();
            return Ok(());
        }
        self.batch(sides, plan, unlike_rows, table).await?;
        if is_shown {
            return Ok(());
        }
        let because = self.waiting.stuck().unwrap_or_default();
        Err(Error::Uncounted { table: plan.source.to_string(), because })
    }

    /// How the rows of a table are dealt out.
    async fn cut(&self, sides: &mut Sides, plan: &Plan) -> Result<Cut, Error> {
        let ends = if plan.by_number { scan::ends(sides, plan, None).await? } else { None };
        let rows = plan.estimated_rows;
        Ok(ends.map_or_else(|| Cut::hash(rows), |keys| Cut::range(keys, rows)))
    }

    async fn batch(
        &self,
        sides: &mut Sides,
        plan: &Plan,
        members: Vec<scan::Member>,
        table: &mut Table,
    ) -> Result<(), Error> {
        if members.is_empty() {
            return Ok(());
        }
        let wanted = match self.options.images {
            false => Values::None,
            true if self.is_at_rest => Values::ForTarget,
            true => Values::All,
        };
        let mut take = |difference: Difference| {
            let rows = difference.rows;
            table.differences += rows;
            match difference.kind {
                Kind::MissingAtTarget => table.missing_at_target += rows,
                Kind::MissingAtSource => table.missing_at_source += rows,
                Kind::Different => table.different += rows,
            }
            self.tell(false, |progress| progress.differences += rows);
            Ok(self.observer.difference(difference)?)
        };
        let unsettled = if self.is_at_rest {
            settle_at_rest(sides, plan, members, wanted, &mut take).await?
        } else {
            settle(sides, plan, members, &self.waiting, wanted, &mut take).await?
        };
        table.unsettled += unsettled;
        Ok(())
    }
}
