//! What the preflight says: findings, and what mends them.

use std::fmt;

use serde::Serialize;

use crate::end::{As, End};
use crate::statement::Statement;

/// How much a finding matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The flow cannot work, or loses something.
    Error,
    /// Sound only if somebody means it.
    Warning,
    /// Good to know.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

/// Something that the preflight found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The database and the thing in it.
    pub object: String,
    /// What is so, and why it matters.
    pub reason: String,
    /// What mends it: statements as psql takes them, or a sentence.
    pub fix: Option<String>,
    /// The statements of [`Finding::fix`], with the place where they are to be run. None where a person has to decide or
    /// to do something else.
    #[serde(skip)]
    pub statements: Vec<Statement>,
}

impl Finding {
    /// A finding that no statement mends.
    pub fn new(
        severity: Severity,
        object: impl Into<String>,
        reason: impl Into<String>,
        fix: Option<String>,
    ) -> Self {
        Self { severity, object: object.into(), reason: reason.into(), fix, statements: Vec::new() }
    }
}

/// How the reason begins of what is defined on a table of the source and lacking at the target.
pub const LACKING: &str = "the source has it, and it is not here";

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.severity, self.object, self.reason)
    }
}

/// What mends a finding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fix {
    /// A sentence.
    Words(String),
    /// Statements that can be run as they stand, and what has to be done then.
    Sql(Vec<String>, Option<&'static str>),
    /// Statements that give something up, or one of several ways: a person decides.
    Choice(Vec<String>),
}

/// Statements that mend a finding, to be run by the administrator at its database.
pub(super) fn sql<S: Into<String>>(statements: impl IntoIterator<Item = S>) -> Fix {
    Fix::Sql(statements.into_iter().map(Into::into).collect(), None)
}

/// Statements among which a person has to choose, or before which to think.
pub(super) fn choice<S: Into<String>>(statements: impl IntoIterator<Item = S>) -> Fix {
    Fix::Choice(statements.into_iter().map(Into::into).collect())
}

/// A setting of the server that counts from the next reload on.
pub(super) fn reloaded(setting: &str, value: &str) -> Fix {
    sql([format!("ALTER SYSTEM SET {setting} = {value}"), RELOAD.to_owned()])
}

/// A setting of the server that counts from its next start on.
pub(super) fn restarted(setting: &str, value: impl fmt::Display) -> Fix {
    Fix::Sql(vec![format!("ALTER SYSTEM SET {setting} = {value}")], Some("restart the server"))
}

impl From<String> for Fix {
    fn from(words: String) -> Self {
        Self::Words(words)
    }
}

impl From<&str> for Fix {
    fn from(words: &str) -> Self {
        Self::Words(words.to_owned())
    }
}

impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (statements, then) = match self {
            Self::Words(words) => return f.write_str(words),
            Self::Sql(statements, then) => (statements, *then),
            Self::Choice(statements) => (statements, None),
        };
        for (number, statement) in statements.iter().enumerate() {
            let before = if number == 0 { "" } else { "\n" };
            write!(f, "{before}{statement};")?;
        }
        then.map_or(Ok(()), |then| write!(f, "\n-- then {then}"))
    }
}

/// Findings as they come in.
#[derive(Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    pub(super) fn add(
        &mut self,
        severity: Severity,
        end: &End<'_>,
        object: impl fmt::Display,
        reason: impl Into<String>,
        fix: Option<Fix>,
    ) {
        let (object, reason) = (format!("{end}: {object}"), reason.into());
        let statements = match &fix {
            Some(Fix::Sql(statements, then)) => {
                let then = then.map(|then| format!("; then {then}")).unwrap_or_default();
                // A name may hold a line break, and must not end the comment that says what a statement is good for.
                let why = format!("{object}: {reason}{then}").replace(char::is_control, " ");
                statements
                    .iter()
                    .map(|sql| Statement::new(end, As::Admin, sql.clone(), why.clone()))
                    .collect()
            }
            Some(Fix::Words(_) | Fix::Choice(_)) | None => Vec::new(),
        };
        let fix = fix.map(|fix| fix.to_string());
        let finding = Finding { severity, object, reason, fix, statements };
        // Flows share databases.
        if !self.0.contains(&finding) {
            self.0.push(finding);
        }
    }

    pub(super) fn error(
        &mut self,
        end: &End<'_>,
        object: impl fmt::Display,
        reason: impl Into<String>,
        fix: impl Into<Fix>,
    ) {
        self.add(Severity::Error, end, object, reason, Some(fix.into()));
    }

    pub(super) fn warning(
        &mut self,
        end: &End<'_>,
        object: impl fmt::Display,
        reason: impl Into<String>,
        fix: impl Into<Fix>,
    ) {
        self.add(Severity::Warning, end, object, reason, Some(fix.into()));
    }

    pub(super) fn note(&mut self, end: &End<'_>, object: impl fmt::Display, reason: impl Into<String>) {
        self.add(Severity::Note, end, object, reason, None);
    }

    /// A question that the server did not answer: what it would have shown is not known.
    pub(super) fn unanswered(&mut self, end: &End<'_>, what: &str, error: &irongate_postgres::Error) {
        let fix = error.hint().map(Fix::Words);
        self.add(Severity::Error, end, what, format!("it cannot be examined: {error}"), fix);
    }
}

/// What has the server read its settings again.
const RELOAD: &str = "SELECT pg_catalog.pg_reload_conf()";

/// The statements that mend findings: each once, those of one database behind each other and in the order of the findings.
pub fn mending(findings: &[Finding]) -> Vec<Statement> {
    let mut statements: Vec<Statement> = Vec::new();
    for statement in findings.iter().flat_map(|finding| &finding.statements) {
        let is_same = |earlier: &Statement| {
            (&earlier.site, &earlier.database, earlier.connection, &earlier.sql)
                == (&statement.site, &statement.database, statement.connection, &statement.sql)
        };
        if !statements.iter().any(is_same) {
            statements.push(statement.clone());
        }
    }
    // One reload is for all settings, and comes behind them.
    statements.sort_by(|one, other| {
        let place = |it: &Statement| (it.database.clone(), it.site.clone(), it.sql == RELOAD);
        place(one).cmp(&place(other))
    });
    statements
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Configuration;
    use crate::check::mending_script;

    #[test]
    fn fixes_are_printed_as_psql_takes_them_and_grouped_by_database() {
        let configuration = Configuration::parse(Configuration::example(), Path::new("/f.toml")).unwrap();
        let flow = configuration.flow("csp").unwrap();
        let ends = [End::source(&configuration, flow).unwrap(), End::target(&configuration, flow).unwrap()];
        let mut findings = Findings::default();
        findings.error(&ends[1], "table \"a\nDROP TABLE b\"", "it is\rbad", sql(["GRANT 1", "GRANT 2"]));
        findings.warning(&ends[0], "setting \"x\"", "it is off", reloaded("x", "on"));
        findings.warning(&ends[0], "setting \"y\"", "it is off", reloaded("y", "on"));
        findings.warning(&ends[0], "setting \"z\"", "it is off", restarted("z", 5));
        findings.warning(&ends[1], "slot", "somebody decides", choice(["SELECT drop()"]));
        findings.note(&ends[1], "nothing", "to do");
        assert_eq!(findings.0[0].fix.as_deref(), Some("GRANT 1;\nGRANT 2;"));
        assert_eq!(findings.0[3].fix.as_deref(), Some("ALTER SYSTEM SET z = 5;\n-- then restart the server"));
        assert_eq!(findings.0[4].fix.as_deref(), Some("SELECT drop();"));
        let text = mending_script(&configuration, &findings.0);
        let sql: Vec<&str> =
            text.lines().filter(|line| !line.is_empty() && !line.starts_with("--")).collect();
        let reload = "SELECT pg_catalog.pg_reload_conf();";
        let (x, y, z) = ("ALTER SYSTEM SET x = on;", "ALTER SYSTEM SET y = on;", "ALTER SYSTEM SET z = 5;");
        assert_eq!(sql, [x, y, z, reload, "GRANT 1;", "GRANT 2;"]);
        assert_eq!(text.matches("-- === ").count(), 3, "{text}");
        assert!(
            text.contains("-- \\connect postgresql://") && text.contains("--     SELECT drop();\n"),
            "{text}"
        );
    }
}
