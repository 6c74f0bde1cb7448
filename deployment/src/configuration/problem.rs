//! What is wrong with a configuration, and where: file, line and column.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One thing that is wrong in a configuration file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub reason: String,
    /// What to write instead.
    pub remedy: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file.display(), self.line, self.column, self.reason)
    }
}

/// Collects what is wrong, so that a reader of the message can mend all of it at once.
pub(super) struct Problems<'a> {
    file: &'a Path,
    text: &'a str,
    found: Vec<Problem>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text, found: Vec::new() }
    }

    /// Notes a problem at a place of the text.
    pub(super) fn add(&mut self, span: Range<usize>, reason: impl Into<String>, remedy: Option<String>) {
        let (line, column) = place(self.text, span.start);
        let (file, reason) = (self.file.to_owned(), reason.into());
        self.found.push(Problem { file, line, column, reason, remedy });
    }

    /// The problems in the order of their places.
    pub(super) fn into_found(mut self) -> Vec<Problem> {
        self.found.sort_by_key(|problem| (problem.line, problem.column));
        self.found
    }
}

/// Line and column of a byte.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// What the parser said, as reason and remedy. Our own types put the remedy behind a semicolon.
pub(super) fn of_parser(message: &str) -> (String, Option<String>) {
    if let Some((reason, remedy)) = message.split_once("; ") {
        return (in_house_style(reason), Some(remedy.to_owned()));
    }
    let remedy = if message.starts_with("unknown field") || message.starts_with("unknown variant") {
        Some("correct the spelling; irongate init --stdout shows every key")
    } else if message.starts_with("missing field") {
        Some("irongate init --stdout shows an example")
    } else if message.starts_with("duplicate key") {
        Some("each key may stand once in its section")
    } else {
        None
    };
    (in_house_style(message), remedy.map(str::to_owned))
}

/// The parser's words in the style of the other messages: names in double quotes, one line, no capital.
fn in_house_style(message: &str) -> String {
    let mut text =
        message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", ");
    text = text.replace('`', "\"");
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(first), second) if second.is_none_or(|c| !c.is_uppercase()) => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text,
    }
}
