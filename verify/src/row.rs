//! A row as one text, by which it is hashed.
//!
//! `concat_ws` prints each value by its type's own output function, with no cast that a user could have made, and takes two
//! thirds of the time that the text of a record does, which looks at every character for what must be quoted. What it leaves
//! out is put before: a row with a NULL begins with which of its values are none, and a value that may hold any
//! character comes behind the number of its bytes. So no two rows have the same text.

use std::fmt::Write;

use irongate_postgres::catalog;

/// How a column's value is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Print {
    /// As it is: it is never empty and holds no separator.
    Bare,
    /// Behind the number of its bytes.
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
    /// It may be NULL at either side.
    pub(crate) nullable: bool,
}

/// A function takes no more than 100 arguments.
const ARGUMENTS: usize = 90;

/// The text of a row of these values, as SQL.
pub(crate) fn text(values: &[Value]) -> String {
    let (quoted, plain): (Vec<_>, Vec<_>) = values.iter().partition(|value| value.print == Print::Quoted);
    let mut pieces = Vec::new();
    let nullable = |value: &&&Value| value.nullable;
    // A composite value whose fields are all NULL would pass for one that is.
    let mut missing: Vec<_> =
        plain.iter().filter(nullable).map(|value| format!("{} IS NULL", value.sql)).collect();
    let mut counted: Vec<_> = plain.iter().filter(nullable).map(|value| value.sql.clone()).collect();
    if let [one] = quoted[..]
        && one.nullable
    {
        missing.push(format!("pg_catalog.num_nulls({})", one.sql));
        counted.push(one.sql.clone());
    }
    if !missing.is_empty() {
        let counts: Vec<_> = counted
            .chunks(ARGUMENTS)
            .map(|some| format!("pg_catalog.num_nulls({})", some.join(", ")))
            .collect();
        let which = call("pg_catalog.concat(", &missing);
        pieces.push(format!(
            "CASE WHEN {} = 0 THEN '0' ELSE pg_catalog.concat('1', {which}) END",
            counts.join(" + ")
        ));
    }
    for value in plain {
        if value.print == Print::Counted {
            pieces.push(format!("pg_catalog.octet_length({})", value.sql));
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
    format!("{} COLLATE \"C\"", call("pg_catalog.concat_ws('|', ", &pieces))
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

    fn value(sql: &str, print: Print, nullable: bool) -> Value {
        Value { sql: sql.to_owned(), print, nullable }
    }

    #[test]
    fn what_may_hold_anything_is_counted_or_last_and_nulls_are_told_before() {
        let id = value("x.id", Print::Bare, false);
        let name = value("x.name", Print::Counted, true);
        let note = value("x.note", Print::Quoted, true);
        assert_eq!(text(std::slice::from_ref(&id)), "pg_catalog.concat_ws('|', x.id) COLLATE \"C\"");
        assert_eq!(
            text(&[note.clone(), id.clone(), name.clone()]),
            "pg_catalog.concat_ws('|', CASE WHEN pg_catalog.num_nulls(x.name, x.note) = 0 THEN '0' ELSE pg_catalog.concat('1', pg_catalog.concat(x.name IS NULL, \
             pg_catalog.num_nulls(x.note))) END, x.id, pg_catalog.octet_length(x.name), x.name, x.note) COLLATE \"C\""
        );
        let other = value("x.other", Print::Quoted, true);
        assert_eq!(
            text(&[note, other, id]),
            "pg_catalog.concat_ws('|', x.id, ROW(x.note, x.other)::text) COLLATE \"C\""
        );
        assert_eq!(text(&[]), "pg_catalog.concat_ws('|', '') COLLATE \"C\"");
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
