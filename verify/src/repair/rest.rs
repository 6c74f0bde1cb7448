//! A repair of a side that nobody writes, to what the other side was at one moment.
//!
//! The differences are those of [`crate::compare_at_rest`]: what the source had under a snapshot, and what the target had. No
//! Replicat runs and no application may write, so that there is nothing to wait for. For each row there are two states that
//! it may be in: what the compare saw, and then it is written; and what it is to be, and then a repair that was cut off has
//! written it before. Anything else is somebody's doing, and stops the repair. So it can be cut off anywhere and done again,
//! and when it has come to its end, every row that differed has been read back as what the source had.
//!
//! A value that is unique may go from row to row in a circle. Where the server refuses the changes of a table for that,
//! all rows of it that are to be changed are taken out first, and put in again then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use irongate_postgres::sql::quote_literal;
use serde::{Deserialize, Serialize};

use super::apply::Hand;
use super::{ORDER, Repair, member, settings, statement};
use crate::confirm::seen;
use crate::difference::{Difference, Kind};
use crate::error::Error;
use crate::flow::Name;
use crate::settle::Seen;
use crate::side::Which;
use crate::sql::Sql;

/// So many differences are one transaction at most.
const BATCH: usize = 300;
/// The same of a table without a key, which is gone through for each of them.
const BATCH_OF_COPIES: usize = 5000;
/// So many bytes of values are one transaction, but for a row that has more.
const BYTES: usize = 8 << 20;
/// How long a lock is waited for: nobody is there who could wait for this one.
const LOCK: &str = "30s";
/// How long an origin is waited for that a repair has left which was cut off.
const ORIGIN: Duration = Duration::from_secs(15);

/// What was put right of a table.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Righted {
    /// The table, as the written side calls it.
    pub table: String,
    /// Rows that were there and are not at the other side.
    pub removed: u64,
    /// Rows with other values.
    pub changed: u64,
    /// Rows that were not there.
    pub added: u64,
}

impl Righted {
    /// All rows.
    pub fn rows(&self) -> u64 {
        self.removed + self.changed + self.added
    }
}

/// What is done with a row that differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// It is made what it is to be.
    Right,
    /// It is taken out, to be put in again.
    Out,
    /// It is put in again.
    In,
}

/// What is to be done about one row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Task {
    Nothing,
    As(Kind),
}

/// Decides by what the row is now; `None` where it is neither what was seen nor what it is to be.
fn task(way: Way, kind: Kind, now: &Seen, found: &Seen, wanted: &Seen, has_key: bool) -> Option<Task> {
    let is = |other: &Seen| now.rows == other.rows && (now.rows == 0 || now.hashes == other.hashes);
    let is_out = has_key && kind == Kind::Different && now.rows == 0;
    if is(wanted) {
        return Some(Task::Nothing);
    }
    match way {
        Way::Out if is_out => Some(Task::Nothing),
        Way::Out if is(found) => Some(Task::As(Kind::MissingAtSource)),
        Way::Right | Way::In if is_out => Some(Task::As(Kind::MissingAtTarget)),
        Way::Right if is(found) => Some(Task::As(kind)),
        _ => None,
    }
}

impl Repair<'_> {
    /// Repairs a side that nobody writes, to what the other one was when it was compared. How many rows of each table that
    /// were, those of an earlier call that was cut off included; `tell` is told how many it is so far.
    ///
    /// # Errors
    /// [`Error::Moved`] where somebody does write; as [`Repair::apply`] otherwise.
    ///
    /// Cancel-safe: what is not committed is rolled back, and the next call goes on.
    pub async fn apply_at_rest(mut self, tell: &(dyn Fn(u64) + Send + Sync)) -> Result<Vec<Righted>, Error> {
        let mut righted = BTreeMap::new();
        if self.plans.is_empty() {
            return Ok(Vec::new());
        }
        let hand = self.hand_after().await?;
        let mut apart = BTreeSet::new();
        for kind in ORDER {
            self.all(&hand, kind, Way::Right, &mut apart, &mut righted, tell).await?;
            if kind == Kind::Different && !apart.is_empty() {
                for way in [Way::Out, Way::In] {
                    self.all(&hand, kind, way, &mut apart, &mut righted, tell).await?;
                }
            }
        }
        hand.origin.session_reset(&hand.session).await?;
        Ok(righted.into_values().collect())
    }

    /// The session that writes; one that was cut off a moment ago is waited for.
    async fn hand_after(&self) -> Result<Hand, Error> {
        let begun = Instant::now();
        loop {
            match self.hand().await {
                Err(Error::Checkpoint(irongate_checkpoint::Error::OriginInUse { .. }))
                    if begun.elapsed() < ORIGIN =>
                {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                hand => return hand,
            }
        }
    }

    /// All differences of a kind; but for [`Way::Right`] only of the tables that are `apart`.
    async fn all(
        &mut self,
        hand: &Hand,
        kind: Kind,
        way: Way,
        apart: &mut BTreeSet<Name>,
        righted: &mut BTreeMap<Name, Righted>,
        tell: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Error> {
        let mut differences = self.of_kind(kind)?.peekable();
        while let Some(next) = differences.next() {
            let first = next?;
            let (table, mut bytes, mut batch) = (first.table.clone(), size(&first), vec![first]);
            let most = if batch[0].key.is_some() { BATCH } else { BATCH_OF_COPIES };
            // One table at a time: its lock is all that is held.
            while let Some(Ok(next)) = differences.next_if(|next| {
                batch.len() < most && bytes < BYTES && next.as_ref().is_ok_and(|next| next.table == table)
            }) {
                bytes += size(&next);
                batch.push(next);
            }
            if kind == Kind::Different && (way == Way::Right) == apart.contains(&table) {
                continue;
            }
            match self.some(hand, kind, way, &batch).await {
                Ok(()) => {}
                Err(error) if way == Way::Right && kind == Kind::Different && is_collision(&error) => {
                    self.refuse_unread_columns(&table, error).await?;
                    // All of them are gone through once more.
                    if let Some(of_table) = righted.get_mut(&table) {
                        of_table.changed = 0;
                    }
                    apart.insert(table);
                    continue;
                }
                Err(error) => return Err(error),
            }
            if way != Way::Out {
                let name = self.checked(&batch[0])?.name(self.which()).to_string();
                let of_table =
                    righted.entry(table).or_insert_with(|| Righted { table: name, ..Righted::default() });
                let rows: u64 = batch.iter().map(|difference| difference.rows).sum();
                match kind {
                    Kind::MissingAtSource => of_table.removed += rows,
                    Kind::Different => of_table.changed += rows,
                    Kind::MissingAtTarget => of_table.added += rows,
                }
                tell(righted.values().map(Righted::rows).sum());
            }
        }
        Ok(())
    }

    /// One transaction, and a look at what has come of it.
    async fn some(&mut self, hand: &Hand, kind: Kind, way: Way, batch: &[Difference]) -> Result<(), Error> {
        let Some(first) = batch.first() else { return Ok(()) };
        let (plan, which) = (self.checked(first)?.clone(), self.which());
        let name = plan.name(which).clone();
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {} LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE",
            settings(LOCK),
            name.quoted()
        );
        let members: Vec<_> = batch.iter().map(|difference| member(&plan, difference)).collect();
        let work = async {
            if let Err(error) = hand.session.batch_execute(&begin).await {
                let error = hand.session.explain(error).await;
                return Err(match error.code() {
                    Some("42501") => self.no_right(&name),
                    Some("55P03" | "40P01") => {
                        let end = self.options.writer.label.clone();
                        Error::Busy { end, tables: name.to_string(), attempts: 1 }
                    }
                    _ => self.failed("lock a table for the repair", error),
                });
            }
            let now = seen(self.sides.side(which), Sql { plan: &plan, which }, &members).await?;
            let (mut sql, mut taken) = (String::new(), Vec::new());
            for (difference, now) in batch.iter().zip(&now) {
                let [found, wanted] = ends(difference, which);
                match task(way, kind, now, &found, &wanted, !plan.key.is_empty()) {
                    Some(Task::Nothing) => {}
                    Some(Task::As(kind)) if plan.key.is_empty() => {
                        let image =
                            if which == Which::Target { &difference.source } else { &difference.target };
                        match (kind, image) {
                            (Kind::MissingAtTarget, Some(image)) => {
                                sql += &statement::put_copies(&plan, which, image, difference.rows);
                                sql += ";\n";
                            }
                            _ => taken.push((found.hashes, difference.rows)),
                        }
                    }
                    Some(Task::As(kind)) => {
                        for statement in statement::of(&plan, which, kind, difference) {
                            sql += &statement;
                            sql += ";\n";
                        }
                    }
                    None => return Err(self.moved(&name)),
                }
            }
            if !taken.is_empty() {
                sql += &statement::take_all(&plan, which, &taken);
            }
            // One message for all of them: the other site may be far away.
            hand.session.batch_execute(&sql).await.map_err(|error| {
                if error.code().is_some_and(|code| code.code() == "42501") {
                    return self.no_right(&name);
                }
                self.failed(&format!("repair rows of table {name}"), error)
            })?;
            hand.session
                .batch_execute("COMMIT")
                .await
                .map_err(|error| self.failed("commit the repair", error))
        };
        if let Err(error) = work.await {
            // Of a session that is gone nothing is left to be rolled back.
            if let Err(error) = self.roll_back(hand).await {
                tracing::debug!(%error, "cannot roll back");
            }
            return Err(error);
        }
        let now = seen(self.sides.side(which), Sql { plan: &plan, which }, &members).await?;
        for (difference, now) in batch.iter().zip(&now) {
            let [found, wanted] = ends(difference, which);
            let is_done = task(way, kind, now, &found, &wanted, !plan.key.is_empty()) == Some(Task::Nothing);
            if !is_done {
                return Err(self.moved(&name));
            }
        }
        Ok(())
    }

    fn moved(&self, name: &Name) -> Error {
        Error::Moved { end: self.options.writer.label.clone(), table: name.to_string() }
    }

    /// A row that is taken out and put in again must lose nothing by that: fails with what the server has said if the table
    /// has columns that were not compared.
    async fn refuse_unread_columns(&mut self, table: &Name, because: Error) -> Result<(), Error> {
        let which = self.which();
        let Some(plan) = self.plans.get(table) else { return Err(because) };
        let (name, columns) = (plan.name(which).quoted(), plan.columns.len());
        let sql = format!(
            "SELECT count(*) FROM pg_catalog.pg_attribute WHERE attrelid = {}::pg_catalog.regclass AND attnum > 0
                AND NOT attisdropped AND attgenerated = ''",
            quote_literal(&name)
        );
        let side = self.sides.side(which);
        let rows = side.ask(crate::side::Scope::Now, "count the columns of a table", &sql).await?;
        let all = rows.first().map(|row| crate::side::number::<usize>(row, 0));
        match all {
            Some(Ok(all)) if all == columns => Ok(()),
            _ => Err(because),
        }
    }
}

/// What a row was at the side that is written when it was compared, and what it is to be.
fn ends(difference: &Difference, which: Which) -> [Seen; 2] {
    let source = (difference.source_rows, difference.source_hashes);
    let target = (difference.target_rows, difference.target_hashes);
    let of = |(rows, hashes)| Seen { rows, hashes, ..Seen::default() };
    match which {
        Which::Target => [of(target), of(source)],
        Which::Source => [of(source), of(target)],
    }
}

/// Whether a value that is unique, or excludes others, stood in the way.
fn is_collision(error: &Error) -> bool {
    let Error::Database { source, .. } = error else { return false };
    matches!(source.code(), Some("23505" | "23P01"))
}

/// About how many bytes the values of a difference have.
fn size(difference: &Difference) -> usize {
    let images = [&difference.source, &difference.target].into_iter().flatten();
    images.flat_map(|image| image.values()).flatten().map(String::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_written_that_is_as_it_was_seen_and_left_if_it_is_right_and_stops_everything_otherwise() {
        let seen = |rows, hash| Seen { rows, hashes: (hash, hash), ..Seen::default() };
        let [nothing, found, wanted, other] = [seen(0, 0), seen(1, 1), seen(1, 2), seen(1, 3)];
        let different = |way, now| task(way, Kind::Different, now, &found, &wanted, true);
        assert_eq!(different(Way::Right, &found), Some(Task::As(Kind::Different)));
        assert_eq!(different(Way::Right, &wanted), Some(Task::Nothing));
        assert_eq!(different(Way::Right, &other), None);
        // Cut off between the two halves.
        assert_eq!(different(Way::Right, &nothing), Some(Task::As(Kind::MissingAtTarget)));
        assert_eq!(different(Way::Out, &found), Some(Task::As(Kind::MissingAtSource)));
        assert_eq!(different(Way::Out, &nothing), Some(Task::Nothing));
        assert_eq!(different(Way::In, &nothing), Some(Task::As(Kind::MissingAtTarget)));
        assert_eq!(different(Way::In, &found), None, "it was to be out");
        let missing = |now| task(Way::Right, Kind::MissingAtTarget, now, &nothing, &wanted, true);
        assert_eq!(missing(&nothing), Some(Task::As(Kind::MissingAtTarget)));
        assert_eq!(missing(&wanted), Some(Task::Nothing));
        assert_eq!(missing(&other), None);
        let extra = |now| task(Way::Right, Kind::MissingAtSource, now, &found, &nothing, true);
        assert_eq!(extra(&found), Some(Task::As(Kind::MissingAtSource)));
        assert_eq!((extra(&nothing), extra(&other)), (Some(Task::Nothing), None));
        // Known by all they hold: by number.
        let copies = |now: u64| {
            let rows = |rows| seen(rows, 1);
            task(Way::Right, Kind::MissingAtTarget, &rows(now), &rows(1), &rows(3), false)
        };
        assert_eq!(copies(1), Some(Task::As(Kind::MissingAtTarget)));
        assert_eq!((copies(3), copies(2)), (Some(Task::Nothing), None));
    }
}
