//! What checks have found.

use std::fmt::Display;

/// Complaints and notes, each once, in the order in which they were found.
#[derive(Default, Debug)]
pub(super) struct Findings {
    pub(super) complaints: Vec<String>,
    pub(super) notes: Vec<String>,
}

impl Findings {
    /// What refuses a run: the thing, what is wrong with it, and what mends it.
    pub(super) fn complain(&mut self, object: impl Display, reason: impl Display, remedy: impl Display) {
        add(&mut self.complaints, format!("{object}: {reason} ({remedy})"));
    }

    /// What is good to have seen.
    pub(super) fn note(&mut self, object: impl Display, fact: impl Display) {
        add(&mut self.notes, format!("{object}: {fact}"));
    }
}

fn add(list: &mut Vec<String>, text: String) {
    // Databases share servers, and flows databases.
    if !list.contains(&text) {
        list.push(text);
    }
}

/// Names in a row, shortened where there are many.
pub(super) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 6;
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..SHOWN].join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_twice_is_said_once() {
        let mut findings = Findings::default();
        for _ in 0..2 {
            findings.complain("slot \"s\"", "it is lost", "instantiate again");
            findings.note("slot \"s\"", "it keeps log");
        }
        assert_eq!(findings.complaints, ["slot \"s\": it is lost (instantiate again)"]);
        assert_eq!(findings.notes.len(), 1);
        let names: Vec<String> = (0..8).map(|n| n.to_string()).collect();
        assert_eq!(listed(&names), "0, 1, 2, 3, 4, 5 and 2 more");
        assert_eq!(listed(&names[..6]), "0, 1, 2, 3, 4, 5");
    }
}
