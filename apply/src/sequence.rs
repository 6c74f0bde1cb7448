//! Sequences on their way: where they stand at the source, as messages in its log, and how far ahead of that they are set
//! at the target.
//!
//! What a sequence gives is in no stream. So the source's sequences are looked at again and again, and where those that
//! have moved stand is written into its log as a message, which comes to the target behind everything that was committed
//! before. There they are set forward only, by a margin beyond what was read: by then the source may have given more.
//!
//! A sequence is set outside of the transaction that remembers the message, since setting one is taken back by no
//! rollback anyway, and before it: cut off in between it is set again, to where it stands already. A sequence that cannot
//! be set is no reason to stop the rows.

use irongate_postgres::catalog::{Counting, Stand};
use serde::{Deserialize, Serialize};

/// The prefix of the messages.
pub const SEQUENCE_PREFIX: &str = "irongate.sequences";
/// The version of their content.
const VERSION: u32 = 1;

/// Where a sequence of the source stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reading {
    /// Its schema.
    #[serde(rename = "s")]
    pub schema: String,
    /// Its name.
    #[serde(rename = "n")]
    pub name: String,
    /// Schema, table and column that it belongs to.
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<(String, String, String)>,
    /// The value that was given last, or the one to be given next.
    #[serde(rename = "v")]
    pub last: i64,
    /// It was given.
    #[serde(rename = "c")]
    pub called: bool,
}

#[derive(Serialize, Deserialize)]
struct Message {
    version: u32,
    sequences: Vec<Reading>,
}

/// The content of a message.
pub fn encode(readings: Vec<Reading>) -> String {
    // Such a structure can always be written.
    serde_json::to_string(&Message { version: VERSION, sequences: readings }).unwrap_or_default()
}

/// Reads the content of a message; nothing for one of another version or none of ours.
pub(crate) fn parse(content: &[u8]) -> Option<Vec<Reading>> {
    let message: Message = serde_json::from_slice(content).ok()?;
    (message.version == VERSION).then_some(message.sequences)
}

/// Where the target's sequence is to stand: ahead of the source's by `margin` steps, but by no more than half of what it
/// has left, so that a margin never uses a sequence up. `None` for a value that the target's cannot have.
pub fn ahead(counting: Counting, source: Stand, margin: u64) -> Option<Stand> {
    let Counting { increment, min, max, cycle, .. } = counting;
    if source.last < min || source.last > max || increment == 0 {
        return None;
    }
    let left = counting.left(source.last);
    if cycle {
        // Behind its last value it begins again at the other end.
        let first = if counting.is_descending() { max } else { min };
        let all = counting.left(first).saturating_add(1);
        let steps = margin.min(all / 2);
        return Some(match steps.checked_sub(left.saturating_add(1)) {
            _ if steps == 0 => source,
            Some(beyond) => Stand { last: moved(first, increment, beyond)?, called: true },
            None => Stand { last: moved(source.last, increment, steps)?, called: true },
        });
    }
    let steps = margin.min(left / 2);
    if steps == 0 {
        return Some(source);
    }
    Some(Stand { last: moved(source.last, increment, steps)?, called: true })
}

fn moved(from: i64, increment: i64, steps: u64) -> Option<i64> {
    i64::try_from(i128::from(from) + i128::from(increment) * i128::from(steps)).ok()
}

/// Whether setting a sequence brings it forward. One that begins again and again has no direction: there it is enough that
/// it stands elsewhere.
pub(crate) fn is_forward(counting: Counting, present: Stand, wanted: Stand) -> bool {
    if counting.cycle {
        return present != wanted;
    }
    let (present, wanted) = (counting.next(present), counting.next(wanted));
    if counting.is_descending() { wanted < present } else { wanted > present }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Counting = Counting { start: 1, increment: 1, min: 1, max: i64::MAX, cycle: false };

    fn at(last: i64) -> Stand {
        Stand { last, called: true }
    }

    #[test]
    fn the_target_is_ahead_by_the_margin_in_steps() {
        assert_eq!(ahead(PLAIN, at(41), 1000), Some(at(1041)));
        assert_eq!(ahead(PLAIN, Stand { last: 41, called: false }, 10), Some(at(51)));
        assert_eq!(
            ahead(PLAIN, Stand { last: 41, called: false }, 0),
            Some(Stand { last: 41, called: false })
        );
        let fives = Counting { increment: 5, ..PLAIN };
        assert_eq!(ahead(fives, at(6), 1000), Some(at(5006)));
        let down = Counting { start: -1, increment: -2, min: i64::MIN, max: -1, cycle: false };
        assert_eq!(ahead(down, at(-9), 100), Some(at(-209)));
        assert!(is_forward(down, at(-9), at(-11)) && !is_forward(down, at(-11), at(-9)));
    }

    #[test]
    fn a_margin_uses_no_sequence_up_and_never_goes_back() {
        let short = Counting { max: 100, ..PLAIN };
        assert_eq!(ahead(short, at(100), 1000), Some(at(100)));
        assert_eq!(ahead(short, at(99), 1000), Some(at(99)));
        assert_eq!(ahead(short, at(90), 1000), Some(at(95)));
        let mut before = at(1);
        for last in 1..=100 {
            let now = ahead(short, at(last), 30).unwrap();
            assert!(now.last >= before.last && now.last >= last && now.last <= 100, "{last}: {now:?}");
            before = now;
        }
        let edge = i64::MAX - 1;
        assert_eq!(ahead(PLAIN, at(edge), u64::MAX), Some(at(edge)));
        assert_eq!(ahead(PLAIN, at(i64::MAX), 1), Some(at(i64::MAX)));
        let whole = Counting { min: i64::MIN, ..PLAIN };
        assert_eq!(ahead(whole, at(i64::MIN), u64::MAX), Some(at(-1)));
        let wide = Counting { increment: i64::MAX, min: i64::MIN, ..PLAIN };
        assert_eq!(ahead(wide, at(i64::MIN), 1000), Some(at(-1)));
        assert_eq!(ahead(short, at(101), 1), None, "the target's sequence cannot be there");
        assert_eq!(ahead(short, at(0), 1), None);
    }

    #[test]
    fn one_that_begins_again_goes_round() {
        let cycle = Counting { max: 10, cycle: true, ..PLAIN };
        assert_eq!(ahead(cycle, at(3), 1000), Some(at(8)));
        assert_eq!(ahead(cycle, at(10), 1000), Some(at(5)));
        assert_eq!(ahead(cycle, at(8), 3), Some(at(1)));
        let down = Counting { start: 10, increment: -3, cycle: true, ..Counting { max: 10, ..PLAIN } };
        assert_eq!(ahead(down, at(4), 2), Some(at(10)));
        let single = Counting { max: 1, cycle: true, ..PLAIN };
        assert_eq!(ahead(single, at(1), 5), Some(at(1)));
        assert!(is_forward(cycle, at(8), at(2)) && !is_forward(cycle, at(8), at(8)));
    }

    #[test]
    fn forward_is_by_the_value_that_comes_next() {
        let unused = Stand { last: 5, called: false };
        assert!(is_forward(PLAIN, unused, at(5)) && !is_forward(PLAIN, at(5), unused));
        assert!(!is_forward(PLAIN, at(4), unused), "both give 5 next");
        assert!(!is_forward(PLAIN, at(i64::MAX), at(i64::MAX)));
    }

    #[test]
    fn a_message_comes_out_as_it_went_in_and_others_are_none() {
        let owner = Some(("s".to_owned(), "t\"".to_owned(), "c".to_owned()));
        let readings = vec![
            Reading { schema: "s \"q\"".into(), name: "n".into(), owner, last: i64::MIN, called: true },
            Reading { schema: "s".into(), name: "m".into(), owner: None, last: i64::MAX, called: false },
        ];
        assert_eq!(parse(encode(readings.clone()).as_bytes()), Some(readings));
        for bad in ["", "{}", "[1]", r#"{"version":2,"sequences":[]}"#, "\u{0}"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
