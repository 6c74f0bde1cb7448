//! The two ends of a flow: the database that is captured and the database that is written.

use std::fmt;

use irongate_postgres::{Session, catalog};

use crate::configuration::{Address, Configuration, Flow, Login};
use crate::error::Error;

/// As whom a database is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum As {
    /// The administrator, for set-up.
    Admin,
    /// Extract's own role.
    Extract,
    /// Replicat's own role.
    Replicat,
}

impl fmt::Display for As {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "admin",
            Self::Extract => "extract",
            Self::Replicat => "replicat",
        })
    }
}

/// Which end of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Source,
    Target,
}

/// Refuses a flow whose ends are one database, by whatever addresses they are reached.
pub(crate) async fn refuse_own_source(
    flow: &Flow,
    (source, at_source): (&End<'_>, &Session),
    (target, at_target): (&End<'_>, &Session),
) -> Result<(), Error> {
    let ask = "ask which database it is";
    let one = catalog::database_identity(at_source).await.map_err(|error| source.failed(ask, error))?;
    let other = catalog::database_identity(at_target).await.map_err(|error| target.failed(ask, error))?;
    if one == other {
        return Err(Error::OwnSource {
            flow: flow.name.clone(),
            from: source.to_string(),
            target: target.to_string(),
        });
    }
    Ok(())
}

/// One end of a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End<'a> {
    pub(crate) site: &'a str,
    /// The database's name in the configuration.
    pub(crate) database: &'a str,
    pub(crate) address: &'a Address,
    pub(crate) role: Role,
}

impl fmt::Display for End<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.site)
    }
}

impl<'a> End<'a> {
    pub(crate) fn source(configuration: &'a Configuration, flow: &'a Flow) -> Result<Self, Error> {
        let address = configuration.source(flow)?;
        Ok(Self { site: &flow.from, database: &flow.database, address, role: Role::Source })
    }

    pub(crate) fn target(configuration: &'a Configuration, flow: &'a Flow) -> Result<Self, Error> {
        let address = configuration.target(flow)?;
        Ok(Self { site: &flow.to, database: &flow.database, address, role: Role::Target })
    }

    /// A database of which no matter is made which end it is.
    pub(crate) fn anonymous(site: &'a str, database: &'a str, address: &'a Address) -> Self {
        Self { site, database, address, role: Role::Source }
    }

    /// As whom the flow's own process works here.
    pub(crate) fn own(&self) -> As {
        match self.role {
            Role::Source => As::Extract,
            Role::Target => As::Replicat,
        }
    }

    /// How the flow's own process gets in.
    pub(crate) fn own_login(&self) -> &'a Login {
        match self.role {
            Role::Source => &self.address.extract,
            Role::Target => &self.address.replicat,
        }
    }

    fn login(&self, who: As) -> Result<&'a Login, Error> {
        match who {
            As::Extract => Ok(&self.address.extract),
            As::Replicat => Ok(&self.address.replicat),
            As::Admin => self
                .address
                .admin
                .as_ref()
                .ok_or_else(|| Error::NoAdmin { end: self.to_string(), database: self.database.to_owned() }),
        }
    }

    /// Opens a session.
    pub(crate) async fn connect(&self, who: As, application_name: &str) -> Result<Session, Error> {
        let login = self.login(who)?;
        Session::connect(&login.endpoint, application_name)
            .await
            .map_err(|error| self.failed("connect", error))
    }

    /// What failed here, and at what.
    pub(crate) fn failed(&self, doing: &str, source: impl Into<irongate_postgres::Error>) -> Error {
        Error::Database { end: self.to_string(), doing: doing.to_owned(), source: Box::new(source.into()) }
    }
}
