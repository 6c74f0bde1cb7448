//! The report for people: what matters first, every transaction behind it.

use std::fmt::Write as _;
use std::path::Path;

use super::{Heading, Summary};
use crate::salvage::change::{Cell, Change, Fields, Operation, Verdict};
use crate::salvage::problem::Problem;

/// So many changes of a transaction are shown,
const MOST_CHANGES: u64 = 20;
/// and so many transactions with their changes; the document has them all.
const MOST_TRANSACTIONS: u64 = 2000;
/// So many characters of a value are shown.
const MOST_CHARACTERS: usize = 60;

fn plural(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// The head of the report.
pub(super) fn summary(heading: &Heading, summary: &Summary, directory: &Path) -> String {
    let mut text = String::new();
    // Writing into memory does not fail.
    let _ = write_summary(&mut text, heading, summary, directory);
    text
}

fn write_summary(
    out: &mut String,
    heading: &Heading,
    summary: &Summary,
    directory: &Path,
) -> std::fmt::Result {
    let Heading { site, live, database, flow, divergence, made, .. } = heading;
    writeln!(
        out,
        "LOST AT {} AND NOT AT {}: DATABASE {database}, FLOW {flow}",
        site.to_uppercase(),
        live.to_uppercase()
    )?;
    writeln!(out, "made {made}; salvage {}\n", heading.run)?;
    let (transactions, changes) =
        (plural(summary.transactions, "transaction"), plural(summary.changes, "change"));
    match (&summary.first_commit, &summary.last_commit) {
        (Some(first), Some(last)) => {
            writeln!(out, "{transactions} with {changes}, committed from {first} to {last}")?;
            writeln!(
                out,
                "{} captured and never shipped (trail), {} never captured (slot)",
                summary.in_trail, summary.in_slot
            )?;
        }
        _ => writeln!(out, "No transaction was found that {live} does not have.")?,
    }
    writeln!(out, "Everything that was committed at {site} before {divergence} is at {live}.")?;
    if heading.by_hand {
        writeln!(
            out,
            "That point was given by hand; {live} was not asked, and what is there now was not looked at."
        )?;
    }
    if !summary.unknown.is_empty() {
        writeln!(out, "\nTHIS LIST IS NOT COMPLETE. What was committed here cannot be known:")?;
        for unknown in &summary.unknown {
            let to = unknown.to.as_deref().unwrap_or("the end");
            writeln!(out, "  from {} to {to}: {}", unknown.from, unknown.why)?;
        }
    }
    for note in &summary.notes {
        writeln!(out, "Note: {note}")?;
    }
    if !summary.tables.is_empty() {
        let width = summary.tables.keys().map(|name| name.chars().count()).max().unwrap_or(0).max(5);
        writeln!(
            out,
            "\n{:width$}  {:>9} {:>9} {:>9} {:>9}  {:>9} {:>9}",
            "table", "inserts", "updates", "deletes", "truncates", "conflicts", "not told"
        )?;
        for (name, table) in &summary.tables {
            writeln!(
                out,
                "{name:width$}  {:>9} {:>9} {:>9} {:>9}  {:>9} {:>9}",
                table.inserts, table.updates, table.deletes, table.truncates, table.conflicts, table.untold
            )?;
        }
    }
    if summary.conflicts > 0 {
        writeln!(out, "\n{} with what is at {live} now:", plural(summary.conflicts, "conflict"))?;
        for conflict in &summary.first_conflicts {
            writeln!(
                out,
                "  transaction {} ({}), change {}: {} {}: {}",
                conflict.xid,
                conflict.commit_lsn,
                conflict.number,
                conflict.operation,
                conflict.table,
                conflict.reason
            )?;
        }
        let more = summary.conflicts.saturating_sub(summary.first_conflicts.len() as u64);
        if more > 0 {
            writeln!(out, "  and {more} more")?;
        }
    }
    writeln!(out, "\nWHAT TO DO")?;
    writeln!(
        out,
        "1. Read this report; salvage.json has everything, replay.sql what would bring it to {live}."
    )?;
    writeln!(out, "2. Decide for each table in decisions.toml: keep, discard or replay; sign there.")?;
    writeln!(out, "3. irongate salvage {site} --apply {}", directory.display())?;
    writeln!(out, "Nothing at {site} may be written over before. Neither site was changed by this salvage.")?;
    writeln!(out, "\nTRANSACTIONS")
}

fn value(cell: &Cell) -> String {
    match cell {
        Cell::Null => "null".to_owned(),
        Cell::Unchanged => "(not logged)".to_owned(),
        Cell::Bytes(_) | Cell::Binary(..) => "(bytes)".to_owned(),
        Cell::Text(text) => match text.char_indices().nth(MOST_CHARACTERS) {
            Some((end, _)) => format!("{:?}…", &text[..end]),
            None => format!("{text:?}"),
        },
    }
}

fn values(fields: &Fields) -> String {
    let fields: Vec<String> = fields.0.iter().map(|(name, cell)| format!("{name}={}", value(cell))).collect();
    fields.join(" ")
}

/// The line of a change, the `nth` of its transaction, which is the one behind `transactions` others.
pub(super) fn line(
    change: &Change,
    nth: u64,
    transactions: u64,
    mut write: impl FnMut(&str) -> Result<(), Problem>,
) -> Result<(), Problem> {
    if nth > MOST_CHANGES || transactions >= MOST_TRANSACTIONS {
        return Ok(());
    }
    let tables: Vec<String> = change.tables().map(ToString::to_string).collect();
    let key = if change.key.0.is_empty() { String::new() } else { format!(" [{}]", values(&change.key)) };
    write(&format!("  {nth}. {} {}{key}\n", change.operation, tables.join(", ")))?;
    if change.operation != Operation::Truncate {
        for (what, fields) in [("was", &change.old), ("became", &change.new)] {
            if let Some(fields) = fields {
                write(&format!("       {what:>6}: {}\n", values(fields)))?;
            }
        }
    }
    let Some(there) = &change.there else { return Ok(()) };
    if let Some(row) = &there.row {
        write(&format!("          now: {}\n", values(row)))?;
    }
    let said = match (there.verdict, &there.reason) {
        (Verdict::Conflict, Some(reason)) => format!("     CONFLICT: {reason}\n"),
        (Verdict::Same, _) => "       is so there already\n".to_owned(),
        (Verdict::Unknown, Some(reason)) => format!("     NOT TOLD: {reason}\n"),
        _ => return Ok(()),
    };
    write(&said)
}

/// Says how many changes of a transaction are not shown.
pub(super) fn left_out(
    changes: u64,
    transactions: u64,
    mut write: impl FnMut(&str) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let shown = if transactions >= MOST_TRANSACTIONS { 0 } else { MOST_CHANGES };
    match changes.saturating_sub(shown) {
        0 => Ok(()),
        more => write(&format!("  … {} in salvage.json\n", plural(more, "more change"))),
    }
}
