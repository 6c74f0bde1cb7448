//! A database at a site, spoken to as its administrator.

use std::fmt;

use irongate_deployment::Configuration;
use irongate_postgres::Session;

use crate::error::Error;

/// The name under which the sessions are shown.
const APPLICATION: &str = "irongate switchover";

/// A database at a site and a session of its administrator.
#[derive(Debug)]
pub struct Place {
    /// The database's name in the configuration.
    pub database: String,
    /// The site.
    pub site: String,
    /// Roles that the applications log in as.
    pub applications: Vec<String>,
    /// The applications keep their LOGIN behind a fence.
    pub keep_login: bool,
    /// Irongate's own roles here, and the administrator: a fence does not concern them.
    pub own: Vec<String>,
    pub(crate) session: Session,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.site)
    }
}

impl Place {
    /// Connects to a database of the configuration at a site.
    ///
    /// # Errors
    /// [`Error::Deployment`] for a name that is not known, [`Error::NoAdmin`], [`Error::NoAccess`], [`Error::Database`].
    pub async fn connect(configuration: &Configuration, database: &str, site: &str) -> Result<Self, Error> {
        let address = configuration.address(database, site)?;
        let end = format!("{database}.{site}");
        let access = configuration
            .access
            .get(database)
            .filter(|access| !access.roles.is_empty())
            .ok_or_else(|| Error::NoAccess { database: database.to_owned() })?;
        let admin = address
            .admin
            .as_ref()
            .ok_or_else(|| Error::NoAdmin { end: end.clone(), database: database.to_owned() })?;
        let session = Session::connect(&admin.endpoint, APPLICATION).await.map_err(|source| {
            Error::Database { end, doing: "connect".to_owned(), source: Box::new(source) }
        })?;
        let own = [admin.role(), address.extract.role(), address.replicat.role()];
        if let Some(role) = access.roles.iter().find(|role| own.contains(&role.as_str())) {
            return Err(Error::OwnRole { role: role.clone(), database: database.to_owned() });
        }
        Ok(Self {
            database: database.to_owned(),
            site: site.to_owned(),
            applications: access.roles.clone(),
            keep_login: access.keep_login,
            own: own.map(str::to_owned).to_vec(),
            session,
        })
    }

    /// What failed here.
    pub(crate) fn failed(&self, doing: &str) -> impl FnOnce(tokio_postgres::Error) -> Error + use<> {
        let (end, doing) = (self.to_string(), doing.to_owned());
        move |source| Error::Database { end, doing, source: Box::new(source.into()) }
    }
}
