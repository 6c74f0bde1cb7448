//! What mends findings, as a script for a database's administrator to read, to change and to run.

use super::{Finding, mending};
use crate::configuration::Configuration;
use crate::statement::{Statement, script};

/// The statements that mend findings, those of one database together under a heading that says where they belong, and
/// behind them as comments the findings that no statement mends. Never holds a secret.
pub fn mending_script(configuration: &Configuration, findings: &[Finding]) -> String {
    let statements = mending(findings);
    let mut text = String::new();
    for group in
        statements.chunk_by(|one, other| (&one.database, &one.site) == (&other.database, &other.site))
    {
        text.push_str(&of_database(configuration, group));
        text.push('\n');
    }
    let others: Vec<&Finding> = findings.iter().filter(|finding| finding.statements.is_empty()).collect();
    if !others.is_empty() {
        text.push_str("-- === what no statement mends, or a person has to decide\n");
    }
    for finding in others {
        text.push_str(&comment(&finding.to_string(), ""));
        if let Some(fix) = &finding.fix {
            text.push_str(&comment(fix, "    "));
        }
    }
    text
}

fn of_database(configuration: &Configuration, group: &[Statement]) -> String {
    let text = script(group);
    let address = group.first().and_then(|first| configuration.address(&first.database, &first.site).ok());
    let Some((heading, rest)) = text.split_once('\n') else { return text };
    let connect = address.and_then(|address| address.admin.as_ref()).map_or_else(
        || "-- no admin_uri is configured: run this as somebody who may".to_owned(),
        |admin| format!("-- \\connect {}", admin.endpoint),
    );
    format!("{heading}\n{connect}\n{rest}")
}

/// Text as comments: a name may hold a line break, and must not become a statement by it.
fn comment(text: &str, indented: &str) -> String {
    let lines = text.split(['\n', '\r', '\u{c}', '\u{b}']);
    lines.map(|line| format!("-- {indented}{line}\n")).collect()
}
