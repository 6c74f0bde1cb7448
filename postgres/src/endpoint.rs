//! Where a server is and how to get in.
//!
//! An [`Endpoint`] comes from a connection URI or a key/value connection string with libpq's parameters (PostgreSQL
//! manual, "Parameter Key Words"). It holds the *names* of secrets' places, never a secret: a password in the
//! address is refused, and passwords are read when a connection is made, from the place that is named.

mod environment;
mod parameters;
pub(crate) mod password;
mod uri;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

pub use environment::LIBPQ_VARIABLES;
pub use parameters::{ChannelBinding, SslMode, TargetSessionAttrs};
pub(crate) use parameters::{Negotiation, RootCertificates, TcpSettings, TlsSettings, TlsVersion};
pub(crate) use password::{Found, PasswordSources, check_key_permissions};

use crate::error::Error;

/// The directory of the Unix-domain socket where an address names no host, as Debian builds have it.
pub(crate) const DEFAULT_SOCKET_DIRECTORY: &str = "/var/run/postgresql";

/// One server of an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Host {
    /// A host name or IP address and a port.
    Tcp {
        /// The name, which certificates are checked against and passfiles are searched for.
        name: String,
        /// The address to use instead of looking the name up (`hostaddr`).
        address: Option<IpAddr>,
        /// The port.
        port: u16,
    },
    /// A Unix-domain socket.
    Unix {
        /// The directory that holds it.
        directory: PathBuf,
        /// The port, which is part of the socket's name.
        port: u16,
    },
}

impl Host {
    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp { port, .. } | Self::Unix { port, .. } => *port,
        }
    }

    /// The socket's path, if it is one.
    pub(crate) fn socket_path(&self) -> Option<PathBuf> {
        match self {
            Self::Tcp { .. } => None,
            Self::Unix { directory, port } => Some(directory.join(format!(".s.PGSQL.{port}"))),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { name, port, .. } if name.contains(':') => write!(f, "[{name}]:{port}"),
            Self::Tcp { name, port, .. } => write!(f, "{name}:{port}"),
            Self::Unix { directory, port } => write!(f, "{}:{port}", directory.display()),
        }
    }
}

/// Where a database is and how to get in. Holds no secret; `Debug` and `Display` may be logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    pub(crate) hosts: Vec<Host>,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) application_name: Option<String>,
    pub(crate) options: Option<String>,
    pub(crate) tls: TlsSettings,
    pub(crate) channel_binding: ChannelBinding,
    pub(crate) target: TargetSessionAttrs,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) tcp: TcpSettings,
    pub(crate) shuffle: bool,
    pub(crate) passwords: PasswordSources,
}

impl Endpoint {
    /// Parses a connection URI (`postgresql://role@host:port/database?parameters`) or a string of `key=value` pairs.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidEndpoint`] where it cannot be understood, names no role, or holds a password. The error never
    /// repeats a part of the text in which a password could stand.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parameters::endpoint(uri::parse(text)?)
    }

    /// Takes the password from a file that holds it and nothing else (one trailing line end is not part of it). The
    /// file is read at each connect, so that a changed password is taken up. It goes before every other source.
    #[must_use]
    pub fn with_password_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.passwords.file = Some(path.into());
        self
    }

    /// Takes the password from the environment variable `name`, unless there is a password file.
    #[must_use]
    pub fn with_password_env(mut self, name: impl Into<String>) -> Self {
        self.passwords.variable = Some(name.into());
        self
    }

    /// Takes the password from a file of the form of `~/.pgpass` (PostgreSQL manual, "The Password File").
    #[must_use]
    pub fn with_passfile(mut self, path: impl Into<PathBuf>) -> Self {
        self.passwords.passfile = Some(path.into());
        self
    }

    /// The same server, another database.
    #[must_use]
    pub fn with_database(mut self, database: impl Into<String>) -> Self {
        self.database = database.into();
        self
    }

    /// The same server, another role.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>) -> Self {
        self.user = user.into();
        self
    }

    /// The same servers, another demand on their kind.
    #[must_use]
    pub fn with_target_session_attrs(mut self, target: TargetSessionAttrs) -> Self {
        self.target = target;
        self
    }

    /// Another limit for each attempt to connect to one address; `None` is no limit.
    #[must_use]
    pub fn with_connect_timeout(mut self, limit: Option<Duration>) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// The servers, in the order they are tried.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The role that logs in.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The application name that the address gives, which goes before the program's own.
    pub fn application_name(&self) -> Option<&str> {
        self.application_name.as_deref()
    }

    /// What is demanded of TLS.
    pub fn ssl_mode(&self) -> SslMode {
        self.tls.mode
    }

    /// What is demanded of the server's kind.
    pub fn target_session_attrs(&self) -> TargetSessionAttrs {
        self.target
    }

    /// The limit of each attempt to connect to one address.
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
    }

    /// The endpoint's own passfile, if one is named.
    pub fn passfile(&self) -> Option<&Path> {
        self.passwords.passfile.as_deref()
    }

    /// The password that the endpoint's own passfile has for its role at the first of its servers that a line fits;
    /// `None` without a passfile or such a line.
    ///
    /// # Errors
    /// [`Error::File`] for a passfile that is missing, that others can read, or that is damaged.
    pub fn passfile_password(&self) -> Result<Option<Vec<u8>>, Error> {
        let Some(path) = self.passfile() else { return Ok(None) };
        for host in &self.hosts {
            if let Some(password) = password::in_passfile(path, host, &self.database, &self.user)? {
                return Ok(Some(password));
            }
        }
        Ok(None)
    }

    /// The file that holds the password, if one is named.
    pub fn password_file(&self) -> Option<&Path> {
        self.passwords.file.as_deref()
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl fmt::Display for Endpoint {
    /// Role, hosts and database as a URI, without parameters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoded = |text: &str| percent_encoding::utf8_percent_encode(text, uri::RESERVED).to_string();
        write!(f, "postgresql://{}@", encoded(&self.user))?;
        for (i, host) in self.hosts.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match host {
                Host::Tcp { .. } => write!(f, "{host}")?,
                Host::Unix { directory, port } => {
                    write!(f, "{}:{port}", encoded(&directory.to_string_lossy()))?;
                }
            }
        }
        write!(f, "/{}", encoded(&self.database))
    }
}
