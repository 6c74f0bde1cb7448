//! A statement that set-up or tear-down runs at a server, and that can be read before.

use std::fmt;
use std::path::Path;

use irongate_postgres::sql::{quote_identifier, quote_literal};

use crate::configuration::PasswordSource;
use crate::end::{As, End};
use crate::error::Error;

/// A statement, with the place where it is to be run and what it is good for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statement {
    /// The site.
    pub site: String,
    /// The database, by its name in the configuration.
    pub database: String,
    /// As whom.
    pub connection: As,
    /// The SQL, without a semicolon at its end. Never holds a secret.
    pub sql: String,
    /// What it is good for, as a sentence.
    pub why: String,
    /// The statement sets this role's password, which is read when it is run; the SQL only says so.
    pub(crate) password: Option<(String, PasswordSource)>,
}

impl Statement {
    pub(crate) fn new(end: &End<'_>, connection: As, sql: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            site: end.site.to_owned(),
            database: end.database.to_owned(),
            connection,
            sql: sql.into(),
            why: why.into(),
            password: None,
        }
    }

    /// Gives a role its password. What is sent is a SCRAM verifier that is computed here: neither the statement nor the
    /// server's log ever has the password.
    pub(crate) fn password(end: &End<'_>, role: &str, source: &PasswordSource) -> Self {
        let from = match source {
            PasswordSource { file: Some(file), .. } => format!("file \"{}\"", file.display()),
            PasswordSource { variable: Some(variable), .. } => format!("variable \"{variable}\""),
            PasswordSource { passfile: Some(endpoint), .. } => {
                format!("passfile \"{}\"", endpoint.passfile().unwrap_or(Path::new("")).display())
            }
            PasswordSource { .. } => "nowhere".to_owned(),
        };
        // A comment: whoever feeds the printed statements to psql must not set these words as a password.
        let sql = format!(
            "-- ALTER ROLE {} PASSWORD '...', with the SCRAM verifier of the password in {from}",
            quote_identifier(role)
        );
        let why = "the role logs in with this password".to_owned();
        let password = Some((role.to_owned(), source.clone()));
        Self { password, ..Self::new(end, As::Admin, sql, why) }
    }
}

impl fmt::Display for Statement {
    /// The SQL with its reason above it, ready for psql.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.password.is_some() { "" } else { ";" };
        write!(f, "-- {}\n{}{end}", self.why, self.sql)
    }
}

/// Statements as a script: a heading wherever the place changes.
pub fn script(statements: &[Statement]) -> String {
    let mut text = String::new();
    let mut last = None;
    for statement in statements {
        let place = (&statement.database, &statement.site, statement.connection);
        if last != Some(place) {
            let (database, site, connection) = place;
            text.push_str(&format!("-- === database \"{database}\" at site \"{site}\", as {connection}\n"));
            last = Some(place);
        }
        text.push_str(&format!("{statement}\n"));
    }
    text
}

/// How much of a statement stands in an error message, in characters.
const LONGEST_SUMMARY: usize = 120;

impl Statement {
    /// What is sent to the server. Differs from [`Statement::sql`] where a password is read.
    pub(crate) fn executable(&self) -> Result<String, Error> {
        match &self.password {
            None => Ok(self.sql.clone()),
            Some((role, source)) => {
                let password = source.read()?;
                let verifier = postgres_protocol::password::scram_sha_256(&password);
                let (role, verifier) = (quote_identifier(role), quote_literal(&verifier));
                Ok(format!("ALTER ROLE {role} PASSWORD {verifier}"))
            }
        }
    }

    /// The beginning of the statement, on one line.
    pub(crate) fn summary(&self) -> String {
        let line = self.sql.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(LONGEST_SUMMARY) {
            Some((end, _)) => format!("run {}...", &line[..end]),
            None => format!("run {line}"),
        }
    }
}
