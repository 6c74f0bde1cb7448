//! Sequences of tables that both sites write: each site takes every n-th value, so that two sites never make one key.

use irongate_postgres::Error as DatabaseError;
use tokio_postgres::Client;

use crate::configuration::{Configuration, Flow, TableName};
use crate::end::{As, End};
use crate::error::Error;
use crate::sequence::{self, Sequence};
use crate::setup::{Progress, Sessions, reading};
use crate::statement::Statement;

/// How a sequence counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Counting {
    pub(crate) increment: i64,
    /// The next value that it gives.
    pub(crate) next: i64,
}

impl Counting {
    /// Where the sequence of site `index` of `sites` must go on so that it never meets another, none of which has gone
    /// further than `highest`; `None` if it does so already.
    fn apart(self, sites: i64, index: i64, highest: i64) -> Option<i64> {
        if self.increment == sites && self.next.rem_euclid(sites) == index {
            return None;
        }
        let step = (index - highest).rem_euclid(sites);
        Some(highest + step)
    }
}

/// Asks how a sequence counts.
pub(crate) async fn counting(client: &Client, sequence: &TableName) -> Result<Counting, DatabaseError> {
    let sql = format!(
        "SELECT s.seqincrement, q.last_value + CASE WHEN q.is_called THEN s.seqincrement ELSE 0 END
           FROM {} AS q, pg_catalog.pg_sequence AS s
          WHERE s.seqrelid = pg_catalog.to_regclass($1)",
        sequence.quoted()
    );
    let row = client.query_one(&sql, &[&sequence.quoted()]).await?;
    Ok(Counting { increment: row.try_get(0)?, next: row.try_get(1)? })
}

/// A sequence at both ends of a flow.
pub(crate) struct Pair {
    pub(crate) names: [TableName; 2],
    pub(crate) counting: [Counting; 2],
}

/// The sequences that count up in the flow's tables, at its source and at its target.
pub(crate) async fn pairs(source: &Client, target: &Client, flow: &Flow) -> Result<Vec<Pair>, DatabaseError> {
    let own: Vec<Sequence> = sequence::of_flow(sequence::sequences(source).await?, flow);
    let all = sequence::sequences(target).await?;
    let mut pairs = Vec::new();
    for sequence in own {
        let Some(other) = sequence::counterpart(&all, flow, &sequence) else { continue };
        let counting = [counting(source, &sequence.name).await?, counting(target, &other.name).await?];
        if counting.iter().all(|counting| counting.increment > 0) {
            pairs.push(Pair { names: [sequence.name.clone(), other.name.clone()], counting });
        }
    }
    Ok(pairs)
}

/// Which of the two sites takes the even values: the one whose name sorts first.
fn index_of(site: &str, other: &str) -> i64 {
    i64::from(site > other)
}

/// Whether both sites take values that the other never takes.
pub(crate) fn is_interleaved(pair: &Pair) -> bool {
    let [one, other] = pair.counting;
    one.increment == other.increment
        && one.increment > 1
        && one.next.rem_euclid(one.increment) != other.next.rem_euclid(other.increment)
}

/// The statements after which the sequences of a flow's tables give one site the even and the other the odd values, from
/// beyond what either has given. Empty where that is so. Nothing is changed.
///
/// # Errors
/// [`Error::Database`] when a server cannot be asked.
pub async fn interleave(configuration: &Configuration, flow: &Flow) -> Result<Vec<Statement>, Error> {
    let ends = [End::source(configuration, flow)?, End::target(configuration, flow)?];
    let (source, target) = (reading(&ends[0]).await?, reading(&ends[1]).await?);
    let failed = |error| ends[0].failed("read the sequences", error);
    let mut statements = Vec::new();
    for pair in pairs(&source, &target, flow).await.map_err(failed)? {
        if is_interleaved(&pair) {
            continue;
        }
        let highest = pair.counting.iter().map(|counting| counting.next).max().unwrap_or_default();
        for (number, end) in ends.iter().enumerate() {
            let other = &ends[1 - number];
            let index = index_of(end.site, other.site);
            let Some(next) = pair.counting[number].apart(2, index, highest) else { continue };
            let sql =
                format!("ALTER SEQUENCE {} INCREMENT BY 2 RESTART WITH {next}", pair.names[number].quoted());
            let why = "each site takes every second value, so that two sites never make the same key";
            statements.push(Statement::new(end, As::Admin, sql, why));
        }
    }
    Ok(statements)
}

/// Runs statements, each where and as whom it says.
///
/// # Errors
/// [`Error::NoAdmin`], [`Error::Database`]; what was run before stays.
pub async fn run_statements(
    configuration: &Configuration,
    statements: &[Statement],
    progress: &mut Progress<'_>,
) -> Result<(), Error> {
    let mut sessions = Sessions::new(configuration);
    for statement in statements {
        progress(crate::setup::Event::Statement(statement));
        sessions.run(statement).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_site_goes_on_beyond_both_with_values_of_its_own() {
        let plain = Counting { increment: 1, next: 42 };
        assert_eq!((plain.apart(2, 0, 57), plain.apart(2, 1, 57)), (Some(58), Some(57)));
        assert_eq!((plain.apart(2, 0, 42), plain.apart(2, 1, 42)), (Some(42), Some(43)));
        let done = Counting { increment: 2, next: 43 };
        assert_eq!((done.apart(2, 1, 99), done.apart(2, 0, 99)), (None, Some(100)));
    }

    #[test]
    fn sequences_are_apart_only_with_one_step_and_other_remainders() {
        let pair = |one: (i64, i64), other: (i64, i64)| Pair {
            names: [TableName::new("s", "q"), TableName::new("s", "q")],
            counting: [one, other].map(|(increment, next)| Counting { increment, next }),
        };
        assert!(is_interleaved(&pair((2, 4), (2, 7))));
        assert!(!is_interleaved(&pair((2, 4), (2, 8))));
        assert!(!is_interleaved(&pair((1, 4), (1, 7))));
        assert!(!is_interleaved(&pair((2, 4), (3, 7))));
    }
}
