//! How results are shown: tables for people, one JSON document for programs.

use std::io::{self, IsTerminal, Write};

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use irongate_checkpoint::State;
use irongate_trail::Timestamp;
use serde::Serialize;

/// Prints text to standard output.
///
/// # Errors
/// When standard output cannot be written, a closed pipe included.
pub(crate) fn text(text: impl std::fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Prints one JSON document to standard output.
///
/// # Errors
/// As [`text`].
pub(crate) fn json(document: &impl Serialize) -> anyhow::Result<()> {
    Ok(text(serde_json::to_string_pretty(document)?)?)
}

/// Tells standard error of a failure.
pub(crate) fn complain(message: &str, hint: Option<&str>) {
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (red, bold, plain) = if colours { ("\x1b[31;1m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
    let mut err = io::stderr().lock();
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(err, "{red}error:{plain} {message}");
    if let Some(hint) = hint {
        let _ = writeln!(err, "{bold}hint:{plain} {}", hint.replace('\n', "\n      "));
    }
}

/// Tells standard error what is being done.
pub(crate) fn note(message: impl std::fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{message}");
}

/// Whether standard output is a person's and may have colours.
pub(crate) fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// A table with these headings. Columns whose heading begins with `>` are aligned to the right.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    let heading = |text: &&str| {
        let cell = Cell::new(text.trim_start_matches('>'));
        if colours() { cell.add_attribute(Attribute::Bold) } else { cell }
    };
    table.set_header(headings.iter().map(heading));
    for (index, text) in headings.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            if text.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table
}

/// Prints a table, without blanks at the ends of its lines.
///
/// # Errors
/// As [`text`].
pub(crate) fn print(table: &Table) -> io::Result<()> {
    text(table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n"))
}

/// A cell, coloured on a terminal.
pub(crate) fn cell(text: impl std::fmt::Display, colour: Option<Color>) -> Cell {
    let cell = Cell::new(text);
    match colour {
        Some(colour) if colours() => cell.fg(colour),
        _ => cell,
    }
}

/// A word outside of a table, coloured on a terminal.
pub(crate) fn painted(text: impl std::fmt::Display, colour: Option<Color>) -> String {
    let code = match colour {
        Some(Color::Red) => "31",
        Some(Color::Yellow) => "33",
        Some(Color::Green) => "32",
        _ => return text.to_string(),
    };
    if colours() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
}

/// The colour of a state.
pub(crate) fn colour_of(state: State) -> Option<Color> {
    match state {
        State::Running => Some(Color::Green),
        State::Starting => Some(Color::Yellow),
        State::Stopped => None,
        State::Abended => Some(Color::Red),
    }
}

/// A time as RFC 3339 has it, in UTC.
pub(crate) fn time(time: Timestamp) -> String {
    match jiff::Timestamp::from_microsecond(time.unix_micros()) {
        Ok(time) => time.to_string(),
        Err(_) => "out of range".to_owned(),
    }
}

/// The same for people: seconds are enough.
pub(crate) fn short_time(time: Timestamp) -> String {
    match jiff::Timestamp::from_microsecond(time.unix_micros()) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        Err(_) => "out of range".to_owned(),
    }
}

/// The same of a time that is a text already.
pub(crate) fn short(time: &str) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        Err(_) => time.to_owned(),
    }
}

/// An amount of bytes for people.
pub(crate) fn bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A length of time in seconds, for people.
pub(crate) fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{:.0} min {:.0} s", (s / 60.0).floor(), s % 60.0),
        s => format!("{:.0} h {:.0} min", (s / 3600.0).floor(), s % 3600.0 / 60.0),
    }
}

/// A number with its thousands apart.
pub(crate) fn count(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

/// A number with its noun.
pub(crate) fn plural(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// What there is, or a dash.
pub(crate) fn or_dash(value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_amounts_are_readable() {
        assert_eq!(time(Timestamp(0)), "2000-01-01T00:00:00Z");
        assert_eq!(time(Timestamp(1)), "2000-01-01T00:00:00.000001Z");
        assert_eq!(short_time(Timestamp(0)), "2000-01-01 00:00:00Z");
        assert_eq!(seconds(0.04), "0.0 s");
        assert_eq!(seconds(61.0), "1 min 1 s");
        assert_eq!(seconds(7_260.0), "2 h 1 min");
        assert_eq!(bytes(2048), "2.00 KiB");
        assert_eq!(count(1_234_567), "1,234,567");
    }
}
