//! What can go wrong between this program and a server, whether trying again can help, and what to do then.

mod server;
mod sqlstate;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use server::ServerError;

/// Everything that this crate can fail with.
///
/// Neither `Display` nor `Debug` shows a row value or a secret: where a server's message quotes values, they are
/// left out (see [`ServerError`]).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A connection URI or string that cannot be used.
    #[error("invalid database address: {reason}")]
    InvalidEndpoint {
        /// What is wrong with it. Never holds the address itself, which could carry a secret.
        reason: String,
        /// What to write instead.
        remedy: Option<String>,
    },
    /// A password file, passfile, certificate or key file that cannot be used.
    #[error("cannot use file \"{}\"{}: {reason}", path.display(), line_suffix(*line))]
    File {
        /// The file.
        path: PathBuf,
        /// The line in it, from 1.
        line: Option<usize>,
        /// What is wrong with it, without its content.
        reason: String,
    },
    /// The variable that should hold the password is not set or not usable.
    #[error("environment variable \"{name}\", which should hold the password, {reason}")]
    PasswordVariable {
        /// The variable's name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The server asks for a password and none is configured.
    #[error("server \"{host}\" asks for a password for role \"{role}\", and none is given")]
    PasswordMissing {
        /// The server.
        host: String,
        /// The role that logs in.
        role: String,
        /// Where a password was looked for.
        looked_in: String,
    },
    /// The server cannot be reached.
    #[error("cannot connect to \"{host}\": {source}")]
    Unreachable {
        /// The server.
        host: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// An attempt to connect took longer than `connect_timeout`.
    #[error("connection to \"{host}\" timed out after {} s", limit.as_secs_f32())]
    ConnectTimeout {
        /// The server.
        host: String,
        /// The limit that passed.
        limit: Duration,
    },
    /// TLS is demanded and could not be had, or the server's certificate is not to be trusted.
    #[error("TLS connection to \"{host}\" failed: {reason}")]
    Tls {
        /// The server.
        host: String,
        /// What is wrong.
        reason: String,
        /// What to change.
        remedy: Option<String>,
        /// Whether the failure came from the network rather than from a decision of either side.
        transient: bool,
    },
    /// The server wants, or offers, a way to log in that is not accepted.
    #[error("cannot authenticate at \"{host}\" as role \"{role}\": {reason}")]
    Authentication {
        /// The server.
        host: String,
        /// The role that logs in.
        role: String,
        /// What is wrong.
        reason: String,
        /// What to change.
        remedy: Option<String>,
    },
    /// The server refuses the connection.
    #[error("connection to \"{host}\" as role \"{role}\", database \"{database}\" refused: {server}")]
    Refused {
        /// The server.
        host: String,
        /// The role that logs in.
        role: String,
        /// The database asked for.
        database: String,
        /// Where the password came from, if one was sent.
        password_from: Option<String>,
        /// What the server says.
        server: Box<ServerError>,
    },
    /// The server answers, but is not of the kind that `target_session_attrs` asks for.
    #[error("server \"{host}\" is not \"{wanted}\"")]
    SessionAttributes {
        /// The server.
        host: String,
        /// The value of `target_session_attrs`.
        wanted: &'static str,
    },
    /// None of several hosts would do.
    #[error("no host of {} would do: {}", .0.len(), join(.0))]
    NoHost(Vec<Error>),
    /// The server reports an error.
    #[error("{0}")]
    Server(Box<ServerError>),
    /// The connection ended; the reason is the server's, if it gave one.
    #[error("connection to the server is closed{}", reason_suffix(.0.as_deref()))]
    Closed(Option<Arc<Error>>),
    /// The network failed under an open connection.
    #[error("connection to the server failed: {0}")]
    Io(#[from] io::Error),
    /// Something took longer than it was given.
    #[error("{what} timed out after {} s", limit.as_secs_f32())]
    Timeout {
        /// What was waited for.
        what: String,
        /// The limit that passed.
        limit: Duration,
    },
    /// The server sent what the protocol does not allow here.
    #[error("unexpected data from the server: {0}")]
    Protocol(String),
    /// The server's version cannot do this.
    #[error("{what} needs PostgreSQL {needed}, the server is version {version_num}")]
    Version {
        /// What was asked for.
        what: &'static str,
        /// The first major version that has it.
        needed: u32,
        /// The server's `server_version_num`.
        version_num: u32,
    },
    /// The SQL client failed in itself: a value that does not fit its column, a column that is not there.
    #[error("{0}")]
    Client(ClientError),
}

/// An error of the SQL client that did not come from the server. Its text names types and column numbers, not values.
#[derive(Debug)]
pub struct ClientError(tokio_postgres::Error);

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        if let Some(source) = std::error::Error::source(&self.0) {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

fn line_suffix(line: Option<usize>) -> String {
    line.map(|line| format!(", line {line}")).unwrap_or_default()
}

fn reason_suffix(reason: Option<&Error>) -> String {
    reason.map(|reason| format!(": {reason}")).unwrap_or_default()
}

fn join(errors: &[Error]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Error {
    /// The SQLSTATE, if a server gave one (PostgreSQL manual, "PostgreSQL Error Codes").
    pub fn code(&self) -> Option<&str> {
        self.server().map(ServerError::code)
    }

    /// The server's own error, if it is one, with everything the server said about it.
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            Self::Server(server) | Self::Refused { server, .. } => Some(server),
            Self::Closed(Some(reason)) => reason.server(),
            Self::NoHost(errors) => errors.iter().find_map(Self::server),
            _ => None,
        }
    }

    /// Whether the same attempt, made again later and unchanged, may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => io_is_transient(source),
            Self::Io(source) => io_is_transient(source),
            Self::ConnectTimeout { .. } | Self::Timeout { .. } | Self::SessionAttributes { .. } => true,
            Self::Tls { transient, .. } => *transient,
            Self::Server(server) | Self::Refused { server, .. } => server.is_transient(),
            Self::Closed(reason) => reason.as_deref().is_none_or(Self::is_transient),
            // One host that may come back is reason enough to try the list again.
            Self::NoHost(errors) => errors.iter().any(Self::is_transient),
            Self::InvalidEndpoint { .. }
            | Self::File { .. }
            | Self::PasswordVariable { .. }
            | Self::PasswordMissing { .. }
            | Self::Authentication { .. }
            | Self::Protocol(_)
            | Self::Version { .. }
            | Self::Client(_) => false,
        }
    }

    /// What to do about it, if that can be said.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::InvalidEndpoint { remedy, .. }
            | Self::Tls { remedy, .. }
            | Self::Authentication { remedy, .. } => remedy.clone(),
            Self::File { path, reason, .. } if reason.contains("permission") => {
                Some(format!("chmod 0600 \"{}\"", path.display()))
            }
            Self::PasswordVariable { name, .. } => Some(format!(
                "set {name} in the environment of this process, or name a password file instead"
            )),
            Self::PasswordMissing { looked_in, .. } => Some(format!(
                "looked in {looked_in}; name a password file, a variable or a passfile that holds the password"
            )),
            Self::Unreachable { host, .. } if host.starts_with('/') => Some(
                "is the server running, and is its socket in this directory (its \"unix_socket_directories\")?".into(),
            ),
            Self::Unreachable { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused => Some(
                "is the server running there, and does its \"listen_addresses\" include this address?".into(),
            ),
            Self::Unreachable { .. } | Self::ConnectTimeout { .. } => {
                Some("check host name, port and firewall between here and the server".into())
            }
            Self::Refused { role, database, password_from, server, host } => Some(match server.code() {
                "28P01" => match password_from {
                    Some(from) => format!("check the password of role \"{role}\" in {from}"),
                    None => format!("give role \"{role}\" a password and name its source"),
                },
                "28000" => format!(
                    "the pg_hba.conf of \"{host}\" needs a line that admits role \"{role}\" to database \"{database}\" \
                     from this address, and the role must exist and have LOGIN"
                ),
                "3D000" => format!("create database \"{database}\" or correct its name in the address"),
                "53300" => {
                    "raise \"max_connections\" (or \"max_wal_senders\") of the server, or close sessions"
                        .into()
                }
                _ => return server.hint(),
            }),
            Self::SessionAttributes { .. } => {
                Some("add the other hosts to the address, or wait for the change of roles to finish".into())
            }
            Self::Server(server) => server.hint(),
            Self::Closed(Some(reason)) => reason.hint(),
            Self::NoHost(errors) => errors.iter().find_map(Self::hint),
            Self::Version { needed, .. } => Some(format!("upgrade the server to version {needed} or later")),
            _ => None,
        }
    }

    /// An address that cannot be used.
    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::InvalidEndpoint { reason: reason.into(), remedy: None }
    }

    /// An address that cannot be used, and what to write instead.
    pub(crate) fn invalid_with(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::InvalidEndpoint { reason: reason.into(), remedy: Some(remedy.into()) }
    }

    /// Bytes that the protocol does not allow.
    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol(what.into())
    }

    /// A file that cannot be used.
    pub(crate) fn file(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::File { path: path.into(), line: None, reason: reason.into() }
    }
}

fn io_is_transient(error: &io::Error) -> bool {
    // These speak about this machine's set-up, not about the moment.
    !matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
    )
}

impl From<ServerError> for Error {
    fn from(error: ServerError) -> Self {
        Self::Server(Box::new(error))
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(db) = error.as_db_error() {
            return ServerError::from(db).into();
        }
        if error.is_closed() {
            return Self::Closed(None);
        }
        let io = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
        match io {
            // An io::Error cannot be cloned; kind and text are what matters.
            Some(io) => Self::Io(io::Error::new(io.kind(), io.to_string())),
            None => Self::Client(ClientError(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: &str) -> Error {
        ServerError::new("ERROR", code, "something").into()
    }

    #[test]
    fn only_what_passes_by_itself_is_transient() {
        for code in [
            "08006", "57P01", "57P02", "57P03", "53300", "53100", "40001", "40P01", "55P03", "57014", "55006",
        ] {
            assert!(server(code).is_transient(), "{code}");
        }
        for code in ["28P01", "28000", "42501", "42601", "22P02", "23505", "3D000", "55000", "42704", "XX001"]
        {
            assert!(!server(code).is_transient(), "{code}");
        }
        assert!(Error::Io(io::ErrorKind::ConnectionReset.into()).is_transient());
        assert!(Error::Timeout { what: "x".into(), limit: Duration::from_secs(1) }.is_transient());
        assert!(Error::Closed(None).is_transient());
        assert!(!Error::Closed(Some(Arc::new(server("28P01")))).is_transient());
        assert!(!Error::NoHost(vec![server("28P01")]).is_transient());
        assert!(Error::NoHost(vec![server("28P01"), server("57P03")]).is_transient());
    }

    #[test]
    fn a_wrong_password_is_answered_with_its_source() {
        let error = Error::Refused {
            host: "db1:5432".into(),
            role: "extract".into(),
            database: "conf".into(),
            password_from: Some("file \"/etc/irongate/pw\"".into()),
            server: Box::new(ServerError::new(
                "FATAL",
                "28P01",
                "password authentication failed for user \"extract\"",
            )),
        };
        assert!(error.to_string().starts_with("connection to \"db1:5432\" as role \"extract\""), "{error}");
        assert_eq!(
            error.hint().unwrap(),
            "check the password of role \"extract\" in file \"/etc/irongate/pw\""
        );
        assert_eq!(error.code(), Some("28P01"));
    }
}
