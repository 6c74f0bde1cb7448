//! Rounds: what is not the same is looked at until it is a difference, or none, or the time is up.
//!
//! What a round proves is argued in [`crate::settle`]; here it is read, waited and read again.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use irongate_postgres::sql::quote_literal;
use irongate_trail::Lsn;
use tokio_postgres::SimpleQueryRow;

use crate::difference::{Difference, Image, Kind};
use crate::error::Error;
use crate::flow::Flow;
use crate::scan::Member;
use crate::settle::{Both, Known, Seen, Verdict, judge};
use crate::side::{Scope, Side, Which, field, number};
use crate::sql::Sql;
use crate::table::Plan;

/// The prefix of the message that Replicat's place is waited for to pass; Replicat has nothing to do with its content.
const PREFIX: &str = "irongate.behind";
/// How often it is looked how far Replicat is.
const LOOK: Duration = Duration::from_millis(20);
/// How many bytes of rows are fetched with all their values at once, as far as one row is not longer.
const IMAGES: u64 = 4 << 20;
/// The pause before another round, so that what is written all the time gets a moment.
const PAUSE: Duration = Duration::from_millis(100);
/// The pause is at least so many times what a look takes.
const REST: u32 = 2;

/// Both ends, for one worker.
#[derive(Debug)]
pub(crate) struct Sides {
    pub(crate) source: Side,
    pub(crate) target: Side,
    /// The source once more, where both sites write: as the role that sees what has come there.
    pub(crate) arrived: Option<Side>,
}

impl Sides {
    pub(crate) fn side(&mut self, which: Which) -> &mut Side {
        match which {
            Which::Source => &mut self.source,
            Which::Target => &mut self.target,
        }
    }
}

/// How long it is waited, and whether it is worth it.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    pub(crate) flow: &'a Flow,
    /// For how long rows are looked at again.
    pub(crate) limit: Duration,
    /// Why Replicat does not come along. Once it has not for the whole limit, nobody waits for it again.
    stuck: Mutex<Option<String>>,
}

impl<'a> Waiting<'a> {
    pub(crate) fn new(flow: &'a Flow, limit: Duration) -> Self {
        Self { flow, limit, stuck: Mutex::new(None) }
    }

    /// Why what is unsettled could not be settled.
    pub(crate) fn stuck(&self) -> Option<String> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until everything that was committed before the call has come to the other side. Whether it has.
    pub(crate) async fn passed(&self, sides: &mut Sides, until: Instant) -> Result<bool, Error> {
        let Sides { source, target, arrived } = sides;
        let there = self.pass(source, target, &self.flow.name, until).await?;
        match (&self.flow.reverse, arrived) {
            (Some((reverse, _)), Some(arrived)) if there => self.pass(target, arrived, reverse, until).await,
            _ => Ok(there),
        }
    }

    /// Commits a message at one side and waits until the other one has applied everything up to it. Whether it has.
    async fn pass(&self, from: &mut Side, to: &mut Side, flow: &str, until: Instant) -> Result<bool, Error> {
        let message = format!("SELECT pg_logical_emit_message(true, '{PREFIX}', 'compare')");
        let rows = from.ask(Scope::Now, "commit a message", &message).await?;
        let behind = rows.first().map_or(Ok(Lsn::ZERO), |row| lsn(from, row))?;
        let applied = format!("SELECT end_lsn FROM irongate.checkpoint WHERE flow = {}", quote_literal(flow));
        loop {
            let rows = to.ask(Scope::Now, "see how far the flow is applied", &applied).await?;
            let at = match rows.first() {
                Some(row) => Some(lsn(to, row)?),
                None => None,
            };
            if at.is_some_and(|at| at >= behind) {
                return Ok(true);
            }
            if Instant::now() >= until || at.is_none() {
                let why = match at {
                    Some(at) => format!(
                        "flow \"{flow}\" has not applied what was committed at {behind} within {} s: it is at {at}",
                        self.limit.as_secs()
                    ),
                    None => format!("flow \"{flow}\" has no checkpoint at {}", to.end.label),
                };
                *self.stuck.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                return Ok(false);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn lsn(side: &Side, row: &SimpleQueryRow) -> Result<Lsn, Error> {
    number(row, 0).map_err(|error| side.failed("read a place in the log", error))
}

/// Takes differences as soon as they are known to be such: values are held no longer than that.
pub(crate) type Take<'a> = dyn FnMut(Difference) -> Result<(), Error> + Send + 'a;

/// Which values differences have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Values {
    /// None but the key's.
    None,
    /// Those that make the target like the source. Of a row without a key that is to go, the hashes are enough.
    ForTarget,
    /// Those of both sides.
    All,
}

struct Pending {
    member: Member,
    /// What was seen last; `None` for a row that has changed since it was judged, and is looked at anew.
    before: Option<Both>,
}

/// A row of which it is known what it is.
struct Different {
    member: Member,
    seen: Both,
}

/// Settles what looked different. How many rows did not settle.
pub(crate) async fn settle(
    sides: &mut Sides,
    plan: &Plan,
    members: Vec<Member>,
    waiting: &Waiting<'_>,
    wanted: Values,
    take: &mut Take<'_>,
) -> Result<u64, Error> {
    let known = Known::of(!plan.key.is_empty(), waiting.flow.reverse.is_some());
    let until = Instant::now() + waiting.limit;
    let looked = look(sides, plan, &members).await?;
    // Nothing is waited for where what was on its way has come by now.
    let still = |both: &Both| judge(None, both, known) != Verdict::Same;
    let mut pending: Vec<Pending> = members
        .into_iter()
        .zip(looked)
        .filter(|(_, both)| still(both))
        .map(|(member, before)| Pending { member, before: Some(before) })
        .collect();
    let mut rounds = 0;
    while !pending.is_empty() {
        let passed = waiting.stuck().is_none() && waiting.passed(sides, until).await?;
        if !passed || rounds > 0 && Instant::now() >= until {
            return Ok(pending.len() as u64);
        }
        let members: Vec<Member> = pending.iter().map(|pending| pending.member.clone()).collect();
        let begun = Instant::now();
        let looked = look(sides, plan, &members).await?;
        let took = begun.elapsed();
        let (mut again, mut different) = (Vec::new(), Vec::new());
        for (Pending { member, before }, after) in pending.into_iter().zip(looked) {
            match judge(before.as_ref(), &after, known) {
                Verdict::Same => {}
                Verdict::Different => different.push(Different { member, seen: after }),
                Verdict::Again => again.push(Pending { member, before: Some(after) }),
            }
        }
        pending = again;
        pending.extend(confirmed(sides, plan, different, wanted, take).await?);
        rounds += 1;
        if !pending.is_empty() {
            // A look at rows without a key goes through the whole table.
            tokio::time::sleep(PAUSE.max(took * REST)).await;
        }
    }
    Ok(0)
}

/// The same where the source is read as of one moment and nobody writes the target: one look tells. Rows that are not what
/// they were a moment ago are unsettled.
pub(crate) async fn settle_at_rest(
    sides: &mut Sides,
    plan: &Plan,
    members: Vec<Member>,
    wanted: Values,
    take: &mut Take<'_>,
) -> Result<u64, Error> {
    let looked = look(sides, plan, &members).await?;
    let different = members
        .into_iter()
        .zip(looked)
        .filter(|(_, seen)| !seen.target.holds_what(&seen.source))
        .map(|(member, seen)| Different { member, seen })
        .collect();
    Ok(confirmed(sides, plan, different, wanted, take).await?.len() as u64)
}

/// Reads rows at the target, then at the source.
pub(crate) async fn look(sides: &mut Sides, plan: &Plan, members: &[Member]) -> Result<Vec<Both>, Error> {
    let target = seen(&mut sides.target, Sql { plan, which: Which::Target }, members).await?;
    let source = seen(&mut sides.source, Sql { plan, which: Which::Source }, members).await?;
    Ok(target.into_iter().zip(source).map(|(target, source)| Both { target, source }).collect())
}

/// Reads rows at one side.
pub(crate) async fn seen(side: &mut Side, sql: Sql<'_>, members: &[Member]) -> Result<Vec<Seen>, Error> {
    let doing = format!("look at rows of table {} again", sql.plan.name(sql.which));
    let rows = side.ask(Scope::Now, &doing, &again(sql, members)).await?;
    found(sql.plan, members, &rows).map_err(|error| side.failed(&doing, error))
}

/// The question what rows are by now.
pub(crate) fn again(sql: Sql<'_>, members: &[Member]) -> String {
    if sql.plan.key.is_empty() {
        let hashes: Vec<_> = members.iter().map(|member| member.hashes).collect();
        return sql.count(&hashes);
    }
    let keys: Vec<_> = members.iter().map(|member| &member.key).collect();
    sql.find(&keys, false)
}

/// Its answer, in the order of the members.
pub(crate) fn found(
    plan: &Plan,
    members: &[Member],
    rows: &[SimpleQueryRow],
) -> Result<Vec<Seen>, irongate_postgres::Error> {
    let mut found = vec![Seen::default(); members.len()];
    if plan.key.is_empty() {
        let places: HashMap<(i64, i64), usize> =
            members.iter().enumerate().map(|(place, member)| (member.hashes, place)).collect();
        for row in rows {
            let (hashes, rows) = ((number(row, 0)?, number(row, 1)?), number(row, 2)?);
            if let Some(place) = places.get(&hashes) {
                found[*place] =
                    Seen { rows, version: field(row, 3).to_owned(), hashes, bytes: number(row, 4)? };
            }
        }
        return Ok(found);
    }
    for row in rows {
        let (place, seen) = found_row(row)?;
        if let Some(known) = found.get_mut(place) {
            *known = seen;
        }
    }
    Ok(found)
}

fn found_row(row: &SimpleQueryRow) -> Result<(usize, Seen), irongate_postgres::Error> {
    let seen = Seen {
        rows: 1,
        version: field(row, 1).to_owned(),
        hashes: (number(row, 2)?, number(row, 3)?),
        bytes: number(row, 4)?,
    };
    Ok((number(row, 0)?, seen))
}

/// Makes differences of rows, with their values if they are wanted. Gives those back that have changed since.
async fn confirmed(
    sides: &mut Sides,
    plan: &Plan,
    different: Vec<Different>,
    wanted: Values,
    take: &mut Take<'_>,
) -> Result<Vec<Pending>, Error> {
    let mut changed = Vec::new();
    // One key can be written in two ways, as 0 and -0 are.
    let mut met = BTreeSet::new();
    let mut different = different.into_iter().peekable();
    while different.peek().is_some() {
        let (mut some, mut bytes) = (Vec::new(), 0);
        while let Some(one) = different.next_if(|one| some.is_empty() || bytes + one.seen.bytes() <= IMAGES) {
            bytes += one.seen.bytes();
            some.push(one);
        }
        some.retain(|one: &Different| {
            plan.key.is_empty()
                || met.insert((one.seen.source.version.clone(), one.seen.target.version.clone()))
        });
        let mut read = [vec![None; some.len()], vec![None; some.len()]];
        for which in [Which::Source, Which::Target] {
            let is_needed: Vec<bool> = some.iter().map(|one| one.needs(plan, which, wanted)).collect();
            if is_needed.contains(&true) {
                let values = values(sides.side(which), Sql { plan, which }, &some, &is_needed).await?;
                read[which as usize] = values;
            }
        }
        let [source, target] = read;
        for ((one, mut source), mut target) in some.into_iter().zip(source).zip(target) {
            let is_as_seen = |which, image: &Option<Image>| one.needs(plan, which, wanted) == image.is_some();
            if !(is_as_seen(Which::Source, &source) && is_as_seen(Which::Target, &target)) {
                changed.push(Pending { member: one.member, before: None });
                continue;
            }
            if plan.key.is_empty() && one.seen.source.rows > 0 && one.seen.target.rows > 0 {
                // Rows that are known by all they hold are alike at both sides.
                match (&source, &target) {
                    (Some(image), None) => target = Some(image.clone()),
                    (None, Some(image)) => source = Some(image.clone()),
                    _ => {}
                }
            }
            take(difference(plan, one, source, target))?;
        }
    }
    Ok(changed)
}

impl Different {
    /// Whether the values of a side are to be fetched. A copy of a row without a key is fetched where there are more of it.
    fn needs(&self, plan: &Plan, which: Which, wanted: Values) -> bool {
        let Both { source, target } = &self.seen;
        let has_more = source.rows > target.rows;
        match (wanted, which) {
            (Values::None, _) => false,
            (_, Which::Source) if plan.key.is_empty() => has_more,
            (_, Which::Target) if plan.key.is_empty() => wanted == Values::All && !has_more,
            (_, Which::Source) => source.rows > 0,
            (_, Which::Target) => target.rows > 0,
        }
    }
}

impl Both {
    /// How long the texts of both sides' rows are together.
    fn bytes(&self) -> u64 {
        self.source.bytes + self.target.bytes
    }
}

/// The values of rows, as far as they are what was seen.
async fn values(
    side: &mut Side,
    sql: Sql<'_>,
    all: &[Different],
    is_needed: &[bool],
) -> Result<Vec<Option<Image>>, Error> {
    let doing = format!("fetch rows of table {}", sql.plan.name(sql.which));
    let seen = |one: &Different| match sql.which {
        Which::Source => one.seen.source.clone(),
        Which::Target => one.seen.target.clone(),
    };
    let image = |row: &SimpleQueryRow, from: usize| -> Image {
        let value = |place: usize| row.try_get(from + place).ok().flatten().map(str::to_owned);
        let columns = sql.plan.columns.iter().enumerate();
        columns.map(|(place, column)| (column.name.clone(), value(place))).collect()
    };
    let mut found = vec![None; all.len()];
    let some: Vec<(usize, &Different)> =
        all.iter().enumerate().filter(|(place, _)| is_needed[*place]).collect();
    if sql.plan.key.is_empty() {
        let places: HashMap<(i64, i64), usize> =
            some.iter().map(|(place, one)| (one.member.hashes, *place)).collect();
        let hashes: Vec<_> = places.keys().copied().collect();
        for row in side.ask(Scope::Now, &doing, &sql.examples(&hashes)).await? {
            let of = number(&row, 0).and_then(|first| Ok((first, number(&row, 1)?)));
            let of: (i64, i64) = of.map_err(|error| side.failed(&doing, error))?;
            if let Some(place) = places.get(&of) {
                found[*place] = Some(image(&row, 2));
            }
        }
        return Ok(found);
    }
    let keys: Vec<_> = some.iter().map(|(_, one)| &one.member.key).collect();
    for row in side.ask(Scope::Now, &doing, &sql.find(&keys, true)).await? {
        let (number, now) = found_row(&row).map_err(|error| side.failed(&doing, error))?;
        if let Some((place, one)) = some.get(number)
            && seen(one).hashes == now.hashes
        {
            found[*place] = Some(image(&row, 5));
        }
    }
    Ok(found)
}

fn difference(plan: &Plan, one: Different, source: Option<Image>, target: Option<Image>) -> Difference {
    let Both { source: here, target: there } = one.seen;
    let kind = match (here.rows, there.rows) {
        (1, 1) if !plan.key.is_empty() => Kind::Different,
        (here, there) if here > there => Kind::MissingAtTarget,
        _ => Kind::MissingAtSource,
    };
    let key = (!plan.key.is_empty()).then(|| {
        let names = plan.key.iter().map(|place| plan.columns[*place].name.clone());
        names.zip(one.member.key.into_iter().map(Some)).collect()
    });
    Difference {
        table: plan.source.clone(),
        target_table: plan.target.clone(),
        kind,
        key,
        rows: if plan.key.is_empty() { here.rows.abs_diff(there.rows) } else { 1 },
        source,
        target,
        source_hashes: here.hashes,
        target_hashes: there.hashes,
        source_rows: here.rows,
        target_rows: there.rows,
    }
}
