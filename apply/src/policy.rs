//! What to do about a change that the target refuses, where trying the same again cannot help.

use std::time::Duration;

/// What to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Stop, with everything before the transaction applied and nothing of it.
    Abend,
    /// Put the change into the error queue and go on.
    QueueRow,
    /// Put the whole source transaction into the error queue and go on.
    QueueTransaction,
    /// Try the change again so often, with a pause before each time, then stop.
    Retry {
        /// How often.
        attempts: u32,
        /// The pause.
        delay: Duration,
    },
    /// Leave the change out. It is counted.
    Ignore,
}

/// One rule: which errors of which tables, and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Source table as `schema.table`; `*` stands for any run of characters. `None` is every table.
    pub table: Option<String>,
    /// A SQLSTATE (`23505`), a class of them (`23`), or `missing` for a row to update or delete that is not at the
    /// target. `None` is every error.
    pub class: Option<String>,
    /// What to do.
    pub action: Action,
}

/// Class of a row that is not there.
pub const MISSING: &str = "missing";

/// Class of a change that needs the whole row and does not have it.
pub const INCOMPLETE: &str = "incomplete";

/// Class of a queued change that was in conflict with what was at the target.
pub const CONFLICT: &str = "conflict";

/// Class of a queued change that waits behind an earlier one of the same row.
pub const BEHIND: &str = "behind";

/// Rules in order: the first that fits decides; without one, [`Action::Abend`].
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Policies(pub Vec<Policy>);

impl Policies {
    /// What to do about `class` (a SQLSTATE or [`MISSING`]) on a source table.
    pub fn action(&self, schema: &str, table: &str, class: &str) -> Action {
        let name = || format!("{schema}.{table}");
        let fits = |policy: &&Policy| {
            policy.table.as_ref().is_none_or(|pattern| matches(pattern, &name()))
                && policy.class.as_ref().is_none_or(|wanted| {
                    wanted == class
                        || (wanted.len() == 2 && class.len() == 5 && class.starts_with(wanted.as_str()))
                })
        };
        self.0.iter().find(fits).map_or(Action::Abend, |policy| policy.action)
    }
}

/// Whether `text` fits a pattern in which `*` stands for any run of characters.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rule = |table: Option<&str>, class: Option<&str>, action| Policy {
            table: table.map(str::to_owned),
            class: class.map(str::to_owned),
            action,
        };
        let policies = Policies(vec![
            rule(Some("public.log_*"), Some("23"), Action::Ignore),
            rule(None, Some("23505"), Action::QueueRow),
            rule(Some("public.t"), Some(MISSING), Action::QueueTransaction),
        ]);
        assert_eq!(policies.action("public", "log_a", "23505"), Action::Ignore);
        assert_eq!(policies.action("public", "x", "23505"), Action::QueueRow);
        assert_eq!(policies.action("public", "x", "23503"), Action::Abend);
        assert_eq!(policies.action("public", "t", MISSING), Action::QueueTransaction);
        assert_eq!(policies.action("public", "u", MISSING), Action::Abend);
    }

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        for (pattern, text, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("a.*", "a.b", true),
            ("*", "a.b", true),
            ("*.b", "a.b", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcd", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
