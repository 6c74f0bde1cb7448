//! Settings of a flow's Replicat.

use std::time::Duration;

use irongate_apply::{
    Action, AheadSettings, Grouping, INCOMPLETE, MISSING, Policies, Policy, Retry, SEQUENCE_MARGIN, SESSIONS,
};
use serde::Deserialize;
use toml::Spanned;

use super::problem::Problems;
use super::units::{Bytes, Limit, Time, delays};

/// Attempts of a rule whose action is `retry`, and the pause before each, where the rule gives none.
const RULE_ATTEMPTS: u32 = 5;
const RULE_DELAY: Duration = Duration::from_secs(1);

/// Sessions of one Replicat. More have nothing to do but to wait for each other's commits.
const MOST_SESSIONS: u32 = 16;

/// `[flows.NAME.replicat]` as it is written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplicatSection {
    batch_rows: Option<Spanned<u32>>,
    batch_bytes: Option<Spanned<Bytes>>,
    batch_transactions: Option<Spanned<u32>>,
    synchronous_commit: Option<bool>,
    sequence_margin: Option<u64>,
    ahead_from: Option<Spanned<Limit<Bytes>>>,
    ahead_idle: Option<Spanned<Time>>,
    sessions: Option<Spanned<u32>>,
    retry_attempts: Option<u32>,
    retry_delay: Option<Spanned<Time>>,
    retry_longest_delay: Option<Spanned<Time>>,
    #[serde(default)]
    on_error: Vec<RuleSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleSection {
    table: Option<Spanned<String>>,
    class: Option<Spanned<String>>,
    action: Spanned<ActionName>,
    attempts: Option<Spanned<u32>>,
    delay: Option<Spanned<Time>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ActionName {
    Abend,
    QueueRow,
    QueueTransaction,
    Retry,
    Ignore,
}

/// Settings of a flow's Replicat, as far as the configuration gives them.
#[derive(Clone, Debug)]
pub struct ReplicatOptions {
    /// How source transactions are grouped.
    pub grouping: Grouping,
    /// Whether a commit at the target waits for the target's disk.
    pub synchronous_commit: bool,
    /// How many steps a sequence is set ahead of where the source's was read.
    pub sequence_margin: u64,
    /// Which transactions are applied before their commit has come.
    pub ahead: AheadSettings,
    /// How many sessions apply groups of transactions side by side.
    pub sessions: usize,
    /// How often and how long to try again after errors that a retry can help.
    pub retry: Retry,
    /// What to do about the other errors.
    pub policies: Policies,
}

impl Default for ReplicatOptions {
    fn default() -> Self {
        Self {
            grouping: Grouping::default(),
            synchronous_commit: false,
            sequence_margin: SEQUENCE_MARGIN,
            ahead: AheadSettings::default(),
            sessions: SESSIONS,
            retry: Retry::default(),
            policies: Policies::default(),
        }
    }
}

impl PartialEq for ReplicatOptions {
    fn eq(&self, other: &Self) -> bool {
        let grouping = |g: &Grouping| (g.changes, g.bytes, g.transactions);
        let retry = |r: &Retry| (r.attempts, r.delay, r.longest);
        grouping(&self.grouping) == grouping(&other.grouping)
            && self.synchronous_commit == other.synchronous_commit
            && self.sequence_margin == other.sequence_margin
            && self.ahead == other.ahead
            && self.sessions == other.sessions
            && retry(&self.retry) == retry(&other.retry)
            && self.policies == other.policies
    }
}

impl ReplicatSection {
    pub(super) fn review(self, problems: &mut Problems<'_>) -> ReplicatOptions {
        let mut options = ReplicatOptions::default();
        let mut at_least_one = |value: u64, span| {
            if value == 0 {
                problems.add(span, "a batch of nothing", Some("use 1 or more".into()));
            }
        };
        if let Some(rows) = self.batch_rows {
            at_least_one((*rows.get_ref()).into(), rows.span());
            options.grouping.changes = rows.into_inner() as usize;
        }
        if let Some(bytes) = self.batch_bytes {
            at_least_one(bytes.get_ref().0, bytes.span());
            options.grouping.bytes = usize::try_from(bytes.into_inner().0).unwrap_or(usize::MAX);
        }
        if let Some(transactions) = self.batch_transactions {
            at_least_one((*transactions.get_ref()).into(), transactions.span());
            options.grouping.transactions = transactions.into_inner().into();
        }
        options.synchronous_commit = self.synchronous_commit.unwrap_or(options.synchronous_commit);
        options.sequence_margin = self.sequence_margin.unwrap_or(options.sequence_margin);
        if let Some(from) = self.ahead_from {
            if from.get_ref().0.is_some_and(|bytes| bytes.0 == 0) {
                let remedy = "use \"8MiB\", or \"off\" for none".into();
                problems.add(from.span(), "transactions of nothing applied ahead", Some(remedy));
            }
            options.ahead.from = from.into_inner().0.map(|bytes| bytes.0);
        }
        if let Some(idle) = self.ahead_idle {
            if idle.get_ref().0 < Duration::from_secs(1) {
                problems.add(idle.span(), "a patience of next to nothing", Some("use \"1s\" or more".into()));
            }
            options.ahead.idle = idle.into_inner().0;
        }
        if let Some(sessions) = self.sessions {
            if !(1..=MOST_SESSIONS).contains(sessions.get_ref()) {
                let remedy = format!("use 1 for Replicat's own session alone, or up to {MOST_SESSIONS}");
                problems.add(sessions.span(), "a number of sessions that cannot be", Some(remedy));
            }
            options.sessions = sessions.into_inner() as usize;
        }
        options.retry.attempts = self.retry_attempts.or(options.retry.attempts);
        let usual = (options.retry.delay, options.retry.longest);
        (options.retry.delay, options.retry.longest) =
            delays(self.retry_delay, self.retry_longest_delay, usual, problems);
        options.policies = Policies(self.on_error.into_iter().map(|rule| rule.review(problems)).collect());
        options
    }
}

impl RuleSection {
    fn review(self, problems: &mut Problems<'_>) -> Policy {
        let action = *self.action.get_ref();
        if action != ActionName::Retry {
            let spans = [self.attempts.as_ref().map(Spanned::span), self.delay.as_ref().map(Spanned::span)];
            for span in spans.into_iter().flatten() {
                let reason = "only the action \"retry\" has attempts and a delay";
                problems.add(span, reason, Some("leave it out, or use action = \"retry\"".into()));
            }
        }
        if let Some(class) = &self.class
            && !is_class(class.get_ref())
        {
            problems.add(
                class.span(),
                format!("\"{}\" is no class of errors", class.get_ref()),
                Some(format!(
                    "write a SQLSTATE (\"23505\"), its first two characters (\"23\") or \"{MISSING}\""
                )),
            );
        }
        if let Some(table) = &self.table
            && !table.get_ref().contains('.')
            && table.get_ref() != "*"
        {
            problems.add(
                table.span(),
                format!("\"{}\" is not of the form schema.table", table.get_ref()),
                Some("write \"schema.table\" or \"schema.*\"".into()),
            );
        }
        Policy {
            table: self.table.map(Spanned::into_inner),
            class: self.class.map(Spanned::into_inner),
            action: match action {
                ActionName::Abend => Action::Abend,
                ActionName::QueueRow => Action::QueueRow,
                ActionName::QueueTransaction => Action::QueueTransaction,
                ActionName::Ignore => Action::Ignore,
                ActionName::Retry => Action::Retry {
                    attempts: self.attempts.map_or(RULE_ATTEMPTS, Spanned::into_inner),
                    delay: self.delay.map_or(RULE_DELAY, |delay| delay.into_inner().0),
                },
            },
        }
    }
}

fn is_class(text: &str) -> bool {
    let sqlstate =
        matches!(text.len(), 2 | 5) && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
    sqlstate || text == MISSING || text == INCOMPLETE
}
