//! A row as one text, by which it is hashed.
//!
//! `concat_ws` prints each value by its type's own output function, with no cast that a user could have made, and takes two
//! thirds of the time that the text of a record does, which looks at every character for what must be quoted. What it leaves
//! out is put before: a row with a NULL begins with which of its values are none, and a value that may hold any
//! character comes behind its length. So no two rows have the same text. A constraint NOT NULL is not relied on: from
//! PostgreSQL 18 on it need not be valid.
//!
//! A server hashes the bytes of its own encoding. Where the two have different ones, the text is brought to one of them first.

use std::fmt::Write;

use irongate_postgres::catalog;

/// How a column's value is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Print {
    /// As it is: it is never empty and holds no separator.
    Bare,
    /// Behind its length.
    Counted,
    /// At the end, with all others of its kind in a record's text.
    Quoted,
}

/// `bool`, `bytea` (in hex), `int8`, `int2`, `int4`, `oid`, `float4`, `float8`, `date`, `time`, `timestamp`, `timestamptz`,
/// `interval`, `timetz`, `numeric`, `uuid`.
const BARE: [u32; 16] = [16, 17, 20, 21, 23, 26, 700, 701, 1082, 1083, 1114, 1184, 1186, 1266, 1700, 2950];
/// `text`, `bpchar`, `varchar`.
const COUNTED: [u32; 3] = [25, 1042, 1043];

impl Print {
    /// A column is printed alike at both sides, whatever types they have.
    pub(crate) fn of(columns: [&catalog::Column; 2]) -> Self {
        let both = |types: &[u32]| columns.iter().all(|column| types.contains(&column.base_type_oid));
        match () {
            () if both(&BARE) => Self::Bare,
            () if both(&COUNTED) => Self::Counted,
            () => Self::Quoted,
        }
    }
}

/// A value in a row.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    /// The column as SQL.
    pub(crate) sql: String,
    pub(crate) print: Print,
}

/// A function takes no more than 100 arguments.
const ARGUMENTS: usize = 90;

/// A text as SQL that can be hashed at both sides.
pub(crate) fn hashable(text: &str, recoded: bool) -> String {
    match recoded {
        false => format!("{text} COLLATE \"C\""),
        true => format!("pg_catalog.encode(pg_catalog.convert_to({text}, 'UTF8'), 'hex') COLLATE \"C\""),
    }
}

/// The text of a row of these values, as SQL.
pub(crate) fn text(values: &[Value], recoded: bool) -> String {
    let (quoted, plain): (Vec<_>, Vec<_>) = values.iter().partition(|value| value.print == Print::Quoted);
    let mut pieces = Vec::new();
    let mut missing: Vec<_> = plain.iter().map(|value| format!("{} IS NULL", value.sql)).collect();
    let mut counted: Vec<_> = plain.iter().map(|value| value.sql.clone()).collect();
    if let [one] = quoted[..] {
        // A composite value whose fields are all NULL would pass for one that is.
        missing.push(format!("pg_catalog.num_nulls({})", one.sql));
        counted.push(one.sql.clone());
    }
    if !missing.is_empty() {
        let count = |some: &[String]| format!("pg_catalog.num_nulls({})", some.join(", "));
        let counts: Vec<_> = counted.chunks(ARGUMENTS).map(count).collect();
        let which = call("pg_catalog.concat(", &missing);
        pieces.push(format!(
            "CASE WHEN {} = 0 THEN '0' ELSE pg_catalog.concat('1', {which}) END",
            counts.join(" + ")
        ));
    }
    let length = if recoded { "char_length" } else { "octet_length" };
    for value in plain {
        if value.print == Print::Counted {
            pieces.push(format!("pg_catalog.{length}({})", value.sql));
        }
        pieces.push(value.sql.clone());
    }
    match quoted[..] {
        [] => {}
        [one] => pieces.push(one.sql.clone()),
        _ => {
            let all: Vec<_> = quoted.iter().map(|value| value.sql.as_str()).collect();
            pieces.push(format!("ROW({})::text", all.join(", ")));
        }
    }
    if pieces.is_empty() {
        pieces.push("''".to_owned());
    }
    hashable(&call("pg_catalog.concat_ws('|', ", &pieces), recoded)
}

/// A call of a function that takes any number of arguments, in several if there are too many.
fn call(begun: &str, arguments: &[String]) -> String {
    let mut text = begun.to_owned();
    let few = arguments.len() <= ARGUMENTS;
    let calls = arguments.chunks(if few { 1 } else { ARGUMENTS });
    for (n, some) in calls.enumerate() {
        let comma = if n > 0 { ", " } else { "" };
        // Writing to a string does not fail.
        let _ = match few {
            true => write!(text, "{comma}{}", some.concat()),
            false => write!(text, "{comma}{begun}{})", some.join(", ")),
        };
    }
    text.push(')');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(sql: &str, print: Print) -> Value {
        Value { sql: sql.to_owned(), print }
    }

    #[test]
    fn what_may_hold_anything_is_counted_or_last_and_nulls_are_told_before() {
        let id = value("x.id", Print::Bare);
        let name = value("x.name", Print::Counted);
        let note = value("x.note", Print::Quoted);
        assert_eq!(
            text(&[note.clone(), id.clone(), name.clone()], false).replace("pg_catalog.", ""),
            "concat_ws('|', CASE WHEN num_nulls(x.id, x.name, x.note) = 0 THEN '0' ELSE concat('1', \
             concat(x.id IS NULL, x.name IS NULL, num_nulls(x.note))) END, x.id, octet_length(x.name), x.name, x.note) \
             COLLATE \"C\""
        );
        let other = value("x.other", Print::Quoted);
        assert_eq!(
            text(&[note, other, id], false).replace("pg_catalog.", ""),
            "concat_ws('|', CASE WHEN num_nulls(x.id) = 0 THEN '0' ELSE concat('1', concat(x.id IS NULL)) END, x.id, \
             ROW(x.note, x.other)::text) COLLATE \"C\""
        );
        assert_eq!(text(&[], false), "pg_catalog.concat_ws('|', '') COLLATE \"C\"");
        let recoded = text(&[name], true).replace("pg_catalog.", "");
        assert!(recoded.starts_with("encode(convert_to(concat_ws('|', "), "{recoded}");
        assert!(recoded.contains("char_length(x.name), x.name), 'UTF8'), 'hex') COLLATE"), "{recoded}");
    }

    #[test]
    fn a_function_is_called_within_itself_for_many_arguments() {
        let arguments: Vec<_> = (0..200).map(|n| n.to_string()).collect();
        let text = call("f(", &arguments);
        assert!(text.starts_with("f(f(0, 1, ") && text.contains("89), f(90, "), "{text}");
        assert!(text.ends_with("198, 199))"), "{text}");
        assert_eq!(call("f(", &arguments[..2]), "f(0, 1)");
    }
}
