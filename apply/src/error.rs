//! What can go wrong in Replicat. No message holds a row value: of a server's message only what names things is kept.

use irongate_trail::{Column, CommitLsn, Relation};
use tokio_postgres::error::DbError;

use crate::ddl::offer;
use crate::table::TargetTable;

/// An operation of Replicat that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The trail cannot be read.
    #[error(transparent)]
    Trail(#[from] irongate_trail::Error),
    /// The target cannot be reached, or refused something that is not a row.
    #[error(transparent)]
    Target(irongate_postgres::Error),
    /// The checkpoint table or the origin.
    #[error(transparent)]
    Checkpoint(#[from] irongate_checkpoint::Error),
    /// The flow leads into its own source, where each row would be written a second time.
    #[error("the target {target} of flow \"{flow}\" is its source {source_address}")]
    OwnSource {
        /// The flow.
        flow: String,
        /// The address of the source.
        source_address: String,
        /// The address of the target.
        target: String,
    },
    /// The target has no checkpoint of the flow.
    #[error("the target has no checkpoint for flow \"{flow}\"")]
    NotInstantiated {
        /// The flow.
        flow: String,
    },
    /// An initial load of the flow is not done yet.
    #[error("flow \"{flow}\" is being loaded: its initial load is not done")]
    Loading {
        /// The flow.
        flow: String,
    },
    /// A table is not at the target.
    #[error("table \"{table}\" of the source has no table \"{target}\" at the target")]
    MissingTable {
        /// At the source.
        table: String,
        /// What it should be at the target.
        target: String,
        /// The statements that would make it, as far as the stream tells of it.
        fix: String,
    },
    /// The name at the target is a view or the like.
    #[error("\"{table}\" at the target is not a table")]
    NotATable {
        /// At the target.
        table: String,
    },
    /// Columns are not at the target.
    #[error("table \"{table}\" at the target has no column {columns}")]
    MissingColumns {
        /// At the target.
        table: String,
        /// Quoted names, separated by commas.
        columns: String,
        /// The statement that would mend it, as far as the stream tells types.
        fix: String,
        /// What would mend it instead, where two things can have happened at the source.
        otherwise: Option<String>,
    },
    /// A configured key column that does not come with updates.
    #[error("key column \"{column}\" of table \"{table}\" is not part of the replica identity")]
    KeyColumn {
        /// At the source.
        table: String,
        /// The column.
        column: String,
    },
    /// A rule for conflicts cannot work on a table.
    #[error("conflicts in table \"{table}\" cannot be resolved: {reason}")]
    Rule {
        /// At the source.
        table: String,
        /// Why.
        reason: String,
    },
    /// The target does not keep what a rule for conflicts needs.
    #[error("conflicts cannot be resolved: {reason}")]
    NotPrepared {
        /// What is lacking.
        reason: String,
        /// What mends it.
        fix: String,
    },
    /// Versions of rows were forgotten that conflicts are told by.
    #[error(
        "the target has forgotten the versions of rows changed since {since} UTC (track_commit_timestamp was off, or rows were frozen), so that conflicts could be overlooked"
    )]
    VersionsForgotten {
        /// The flow.
        flow: String,
        /// When it was last in step, as text.
        since: String,
    },
    /// A transaction of the source was committed in the future.
    #[error("the source's clock is {seconds} s ahead")]
    ClockAhead {
        /// By so much at the least.
        seconds: i64,
    },
    /// A change of structure that the source told of was not applied.
    #[error("{tag} of the source stops at {object}: {reason} (commit {commit})")]
    Structure {
        /// The command's tag at the source.
        tag: String,
        /// What it is about.
        object: String,
        /// Why.
        reason: String,
        /// What mends it.
        fix: Box<Remedy>,
        /// The source transaction.
        commit: CommitLsn,
    },
    /// The target refused a row.
    #[error(
        "{operation} of table \"{table}\" refused by the target: {reason} (commit {commit}, change {ordinal})"
    )]
    Row {
        /// `insert`, `update`, `delete` or `truncate`.
        operation: &'static str,
        /// At the source.
        table: String,
        /// Why.
        reason: RowError,
        /// The source transaction.
        commit: CommitLsn,
        /// The change's number in it, from 1.
        ordinal: u64,
        /// The statement that would mend it, where it follows from how the tables differ.
        fix: Option<Box<Remedy>>,
    },
}

/// A statement that mends the target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remedy(pub String);

/// Why the target refused a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RowError {
    /// No row has the key.
    Missing,
    /// More than one row fits.
    Ambiguous(u64),
    /// A conflict, of which the rule says that it goes to the error queue.
    Conflict(crate::conflict::Kind),
    /// The change does not have the whole row, and there is none here that could be changed.
    Incomplete,
    /// An earlier change of the row is in the error queue.
    Behind,
    /// Differences are to be added, and the change is one to or from NULL.
    NoDifference,
    /// The server's refusal.
    Server {
        /// SQLSTATE.
        code: String,
        /// What the server says, without values.
        message: String,
    },
}

impl RowError {
    /// SQLSTATE, or [`crate::MISSING`].
    pub fn class(&self) -> &str {
        match self {
            Self::Missing => crate::MISSING,
            Self::Ambiguous(_) => "21000",
            Self::Conflict(_) => crate::CONFLICT,
            Self::Incomplete => crate::INCOMPLETE,
            Self::Behind => crate::BEHIND,
            Self::NoDifference => "22004",
            Self::Server { code, .. } => code,
        }
    }

    pub(crate) fn server(error: &DbError) -> Self {
        Self::Server { code: error.code().code().to_owned(), message: without_values(error) }
    }
}

impl std::fmt::Display for RowError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("no row has that key"),
            Self::Ambiguous(rows) => write!(f, "{rows} rows have that key"),
            Self::Conflict(kind) => write!(f, "conflict: {kind}"),
            Self::Incomplete => f.write_str("the source did not send the whole row"),
            Self::NoDifference => f.write_str("there is no difference to or from NULL that could be added"),
            Self::Behind => f.write_str("an earlier change of the row is in the error queue"),
            Self::Server { code, message } => write!(f, "{message} (SQLSTATE {code})"),
        }
    }
}

/// The server's message if it can be trusted to name things only. Messages of class 22 (data exceptions), of raised
/// exceptions and of internal errors quote values.
fn without_values(error: &DbError) -> String {
    let code = error.code().code();
    let names_only = ["23", "42", "0A", "25", "40", "53", "55", "57", "3F", "3D"];
    if names_only.iter().any(|class| code.starts_with(class)) {
        // What is not supported is so because of another object, which only the detail names.
        let detail = error.detail().filter(|_| code == "0A000");
        let detail = detail.map(|detail| format!(": {}", detail.trim_end_matches('.')));
        return format!("{}{}", error.message(), detail.unwrap_or_default());
    }
    let mut text = match code {
        "22001" => "a value is too long for its column".to_owned(),
        "22003" => "a number is out of range".to_owned(),
        "22007" | "22008" => "a date or time is not valid".to_owned(),
        "22P02" => "a value is not valid for its type".to_owned(),
        "22021" => "a text is not valid in the encoding".to_owned(),
        _ => "the server's message is withheld, since it can hold values".to_owned(),
    };
    if let Some(column) = error.column() {
        text.push_str(&format!(" (column \"{column}\")"));
    }
    text
}

impl From<irongate_postgres::Error> for Error {
    fn from(error: irongate_postgres::Error) -> Self {
        Self::Target(error)
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Target(error.into())
    }
}

impl Error {
    pub(crate) fn missing_columns(relation: &Relation, table: &TargetTable, missing: &[&Column]) -> Self {
        let quoted = |name: &str| format!("\"{name}\"");
        let columns: Vec<String> = missing.iter().map(|column| quoted(&column.name)).collect();
        let (fix, otherwise) = offer::columns(relation, table, missing);
        Self::MissingColumns {
            table: format!("{}.{}", table.schema, table.name),
            columns: columns.join(", "),
            fix,
            otherwise,
        }
    }

    /// Whether trying again, with nothing else changed, can help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Trail(error) => error.is_transient(),
            Self::Target(error) => error.is_transient(),
            Self::Checkpoint(error) => error.is_transient(),
            Self::ClockAhead { .. } => true,
            _ => false,
        }
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Trail(error) => return error.hint(),
            Self::Target(error) => return error.hint(),
            Self::Checkpoint(error) => return error.hint(),
            Self::OwnSource { .. } => {
                "correct the uri of one of the two in [databases]: each site has a database of its own".to_owned()
            }
            Self::NotInstantiated { flow } => format!("run \"irongate instantiate {flow}\""),
            Self::Loading { flow } => {
                format!("run \"irongate instantiate {flow}\" until it is done: it goes on where it was cut off")
            }
            Self::MissingTable { fix, .. } => format!(
                "run \"{fix}\" at the target, or map or exclude the table in the configuration, then start again"
            ),
            Self::NotATable { .. } => "map the source table to a table".to_owned(),
            Self::MissingColumns { fix, otherwise: None, .. } => {
                format!("run \"{fix}\" at the target, then start again")
            }
            Self::MissingColumns { fix, otherwise: Some(otherwise), .. } => format!(
                "if the column was renamed at the source, run \"{fix}\" at the target, and if it is another one, \"{otherwise}\"; then start again"
            ),
            Self::KeyColumn { .. } => {
                "name columns of the replica identity, or set REPLICA IDENTITY FULL at the source".to_owned()
            }
            Self::Rule { .. } => {
                "irongate check says what the table needs; or give it another policy in [flows.NAME.conflicts]".to_owned()
            }
            Self::NotPrepared { fix, .. } => fix.clone(),
            Self::VersionsForgotten { flow, .. } => {
                format!("say \"irongate conflicts accept {flow}\" and start again; when both flows have caught up, compare the databases (irongate compare) and mend what differs")
            }
            Self::ClockAhead { .. } => {
                "set the clocks of both sites by the same time servers; it goes on when this one has caught up".to_owned()
            }
            Self::Structure { fix, .. } => fix.0.clone(),
            Self::Row { reason: RowError::Incomplete, .. } => {
                "set REPLICA IDENTITY FULL on the table at both sites".to_owned()
            }
            Self::Row { reason: RowError::Behind, .. } => {
                "deal with the earlier change first, or with all in order: \"irongate errors replay FLOW --all\"".to_owned()
            }
            Self::Row { reason: RowError::Missing, .. } => {
                "the target differs from the source: compare and repair, or set a policy for the class \"missing\", then start again".to_owned()
            }
            Self::Row { fix: Some(fix), .. } => {
                format!("the tables differ: run \"{}\" at the target, then start again", fix.0)
            }
            Self::Row { reason: RowError::Server { code, .. }, .. } if code == "22P02" => {
                "the target's type does not know the value, such as a new label of an enum: irongate check names the difference; mend it, then start again".to_owned()
            }
            Self::Row { reason: RowError::NoDifference, .. } => {
                "set NOT NULL on the column at both sites (irongate check names it), or give it another policy".to_owned()
            }
            Self::Row { reason, .. } if reason.class() == "22003" => {
                "make room for the number: lower the value here and, where differences are added, at the other site too, or give the column a wider type at both; or set a policy for this class of errors; then start again".to_owned()
            }
            Self::Row { reason, .. } if reason.class().starts_with("42") => {
                "the tables differ: mend the target's table (irongate check names the difference), then start again".to_owned()
            }
            Self::Row { .. } => {
                "mend the cause at the target, or set a policy for this class of errors, then start again".to_owned()
            }
        })
    }
}
