//! An error as the server reports it.
//!
//! A server's message may quote row values: always in DETAIL of a constraint violation, in the message itself of a
//! data exception, and anywhere in what a trigger raises. Such text must not reach a log, so what `Display` and
//! `Debug` show is a *shown form* that leaves it out. The full text stays readable through the accessors for those
//! who store it where values may be stored (the error queue).

use std::fmt;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;

use super::sqlstate;

/// An ErrorResponse (PostgreSQL manual, "Error and Notice Message Fields").
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ServerError {
    severity: String,
    code: String,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    context: Option<String>,
    schema: Option<String>,
    table: Option<String>,
    column: Option<String>,
    data_type: Option<String>,
    constraint: Option<String>,
    routine: Option<String>,
}

impl ServerError {
    /// An error with nothing but what every error has.
    pub fn new(severity: &str, code: &str, message: &str) -> Self {
        Self { severity: severity.into(), code: code.into(), message: message.into(), ..Self::default() }
    }

    /// Reads the fields of an ErrorResponse or NoticeResponse. A field that cannot be read ends the reading: what
    /// was understood before it is still worth telling.
    pub(crate) fn from_fields(mut fields: ErrorFields<'_>) -> Self {
        let mut error = Self::default();
        while let Ok(Some(field)) = fields.next() {
            let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                // The severity that is never translated wins.
                b'V' => error.severity = value,
                b'S' if error.severity.is_empty() => error.severity = value,
                b'C' => error.code = value,
                b'M' => error.message = value,
                b'D' => error.detail = Some(value),
                b'H' => error.hint = Some(value),
                b'W' => error.context = Some(value),
                b's' => error.schema = Some(value),
                b't' => error.table = Some(value),
                b'c' => error.column = Some(value),
                b'd' => error.data_type = Some(value),
                b'n' => error.constraint = Some(value),
                b'R' => error.routine = Some(value),
                _ => {}
            }
        }
        error
    }

    /// ERROR, FATAL, PANIC (or WARNING, NOTICE, ... for a notice); never translated.
    pub fn severity(&self) -> &str {
        &self.severity
    }

    /// The SQLSTATE.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The message as the server sent it. **May quote row values**: never log it, log the error itself.
    pub fn raw_message(&self) -> &str {
        &self.message
    }

    /// The DETAIL as the server sent it. **May quote row values**: never log it.
    pub fn raw_detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// The CONTEXT as the server sent it. **May quote row values**: never log it.
    pub fn raw_context(&self) -> Option<&str> {
        self.context.as_deref()
    }

    /// Schema of the object the error is about.
    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// Table the error is about.
    pub fn table(&self) -> Option<&str> {
        self.table.as_deref()
    }

    /// Column the error is about.
    pub fn column(&self) -> Option<&str> {
        self.column.as_deref()
    }

    /// Data type the error is about.
    pub fn data_type(&self) -> Option<&str> {
        self.data_type.as_deref()
    }

    /// Constraint or index the error is about.
    pub fn constraint(&self) -> Option<&str> {
        self.constraint.as_deref()
    }

    /// The function in the server's source that reported the error.
    pub fn routine(&self) -> Option<&str> {
        self.routine.as_deref()
    }

    /// Whether the same statement may succeed later, unchanged.
    pub fn is_transient(&self) -> bool {
        sqlstate::is_transient(&self.code)
    }

    /// The message without anything that may be a row value.
    pub fn message(&self) -> String {
        if sqlstate::message_is_users_own(&self.code) {
            return format!(
                "{} (its message may hold row values and is in the server's log)",
                sqlstate::class_in_words(&self.code)
            );
        }
        if sqlstate::message_quotes_values(&self.code) {
            without_values(&self.message)
        } else {
            self.message.clone()
        }
    }

    /// What to do: the server's own hint, or ours for the codes a replication engine meets.
    pub fn hint(&self) -> Option<String> {
        if let Some(hint) = self.hint.as_deref().filter(|_| sqlstate::detail_is_safe(&self.code)) {
            return Some(hint.to_owned());
        }
        let hint = match self.code.as_str() {
            "42501" => {
                "grant the missing privilege to the role; \"irongate setup --print-sql\" shows what is needed"
            }
            "53300" => "raise \"max_connections\" or \"max_wal_senders\", or close sessions",
            "53400" => "raise \"max_replication_slots\", or drop slots that nobody uses",
            "53100" => "free space on the server's disk",
            "55006" => {
                "another process holds this object; \"pg_replication_slots\" names its pid in \"active_pid\""
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// Cuts what follows a colon and masks what is quoted, unless the quoted word is the name of an object.
fn without_values(message: &str) -> String {
    const NAMING: [&str; 12] = [
        "type",
        "encoding",
        "column",
        "table",
        "relation",
        "function",
        "constraint",
        "domain",
        "enum",
        "sequence",
        "parameter",
        "collation",
    ];
    let message = message.split_once(": ").map_or(message, |(before, _)| before);
    let mut shown = String::with_capacity(message.len());
    let mut rest = message;
    while let Some((before, quoted)) = rest.split_once('"') {
        shown.push_str(before);
        let names = before.split_whitespace().next_back().is_some_and(|word| NAMING.contains(&word));
        match quoted.split_once('"') {
            Some((name, after)) if names => {
                shown.push('"');
                shown.push_str(name);
                shown.push('"');
                rest = after;
            }
            // A value may itself hold quotes: from here on nothing can be told apart.
            Some((_, after)) if !after.contains('"') => {
                shown.push_str("\"...\"");
                rest = after;
            }
            _ => {
                shown.push_str("\"...\"");
                rest = "";
            }
        }
    }
    shown.push_str(rest);
    shown
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.message())?;
        match (&self.schema, &self.table) {
            (Some(schema), Some(table)) => write!(f, ", table \"{schema}.{table}\"")?,
            (None, Some(table)) => write!(f, ", table \"{table}\"")?,
            _ => {}
        }
        if let Some(column) = &self.column {
            write!(f, ", column \"{column}\"")?;
        }
        if let Some(detail) = self.detail.as_deref().filter(|_| sqlstate::detail_is_safe(&self.code)) {
            write!(f, " ({})", detail.trim_end_matches('.').replace('\n', " "))?;
        }
        write!(f, " (SQLSTATE {})", self.code)
    }
}

impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerError({self})")
    }
}

impl std::error::Error for ServerError {}

impl From<&tokio_postgres::error::DbError> for ServerError {
    fn from(error: &tokio_postgres::error::DbError) -> Self {
        let own = |text: Option<&str>| text.map(ToOwned::to_owned);
        Self {
            severity: error.severity().to_owned(),
            code: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: own(error.detail()),
            hint: own(error.hint()),
            context: own(error.where_()),
            schema: own(error.schema()),
            table: own(error.table()),
            column: own(error.column()),
            data_type: own(error.datatype()),
            constraint: own(error.constraint()),
            routine: own(error.routine()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_row_value_is_shown() {
        for (code, message) in [
            ("22P02", "invalid input syntax for type integer: \"s3cret\""),
            ("22003", "value \"s3cret\" is out of range for type integer"),
            ("22007", "invalid value \"s3cret\" for \"YYYY\""),
            ("22P02", "malformed array literal: \"{s3cret\""),
            ("22023", "time zone \"a\"s3cret\" not recognized"),
            ("P0001", "customer s3cret may not be deleted"),
            ("U0001", "s3cret"),
        ] {
            let mut error = ServerError::new("ERROR", code, message);
            error.context = Some("COPY t, line 1, column a: \"s3cret\"".into());
            error.detail = Some("Failing row contains (1, s3cret).".into());
            for shown in [format!("{error}"), format!("{error:?}"), error.message()] {
                assert!(!shown.contains("s3cret"), "{shown}");
            }
            assert!(error.raw_message().contains("s3cret"));
        }
        let mut error =
            ServerError::new("ERROR", "23505", "duplicate key value violates unique constraint \"t_pkey\"");
        error.detail = Some("Key (id)=(s3cret) already exists.".into());
        error.schema = Some("public".into());
        error.table = Some("t".into());
        assert_eq!(
            error.to_string(),
            "ERROR: duplicate key value violates unique constraint \"t_pkey\", table \"public.t\" (SQLSTATE 23505)"
        );
    }

    #[test]
    fn a_name_is_shown_where_a_name_is_meant() {
        assert_eq!(
            without_values("invalid byte sequence for encoding \"UTF8\": 0xff"),
            "invalid byte sequence for encoding \"UTF8\""
        );
        assert_eq!(without_values("value \"1e99\" is out of range for type \"mytype\""), "value \"...\"");
    }

    #[test]
    fn what_the_server_says_about_itself_is_shown_whole() {
        let mut error =
            ServerError::new("ERROR", "55000", "can no longer get changes from replication slot \"s\"");
        error.detail =
            Some("This slot has been invalidated because it exceeded the maximum reserved size.".into());
        assert_eq!(
            error.to_string(),
            "ERROR: can no longer get changes from replication slot \"s\" (This slot has been invalidated because it \
             exceeded the maximum reserved size) (SQLSTATE 55000)"
        );
    }
}
