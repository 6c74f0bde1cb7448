//! A database at a site, spoken to as its administrator.

use std::collections::BTreeMap;
use std::fmt;

use irongate_deployment::Configuration;
use irongate_deployment::configuration::Address;
use irongate_postgres::{Endpoint, Session};

use crate::error::Error;

/// The name under which the sessions are shown.
pub(crate) const APPLICATION: &str = "irongate switchover";

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
    /// Other databases that may be in the same server, and let some of the same roles in.
    pub(crate) neighbours: Vec<Neighbour>,
    pub(crate) session: Session,
}

/// A database of the same site that shares roles of applications with another one.
#[derive(Debug)]
pub(crate) struct Neighbour {
    pub(crate) database: String,
    /// The roles that both let in.
    pub(crate) roles: Vec<String>,
    /// Its administrator's, or else Extract's.
    pub(crate) endpoint: Endpoint,
    /// It has an administrator, who may have closed it.
    pub(crate) may_be_fenced: bool,
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
        let neighbours = neighbours(configuration, database, site, &access.roles);
        Ok(Self {
            database: database.to_owned(),
            site: site.to_owned(),
            applications: access.roles.clone(),
            keep_login: access.keep_login,
            own: own.map(str::to_owned).to_vec(),
            neighbours,
            session,
        })
    }

    /// What failed here.
    pub(crate) fn failed(&self, doing: &str) -> impl FnOnce(tokio_postgres::Error) -> Error + use<> {
        let (end, doing) = (self.to_string(), doing.to_owned());
        move |source| Error::Database { end, doing, source: Box::new(source.into()) }
    }
}

fn neighbours(configuration: &Configuration, database: &str, site: &str, roles: &[String]) -> Vec<Neighbour> {
    let others = configuration.databases.iter().filter(|(name, _)| *name != database);
    let neighbour = |(name, sites): (&String, &BTreeMap<String, Address>)| {
        let (address, access) = (sites.get(site)?, configuration.access.get(name)?);
        let shared: Vec<String> = access.roles.iter().filter(|role| roles.contains(role)).cloned().collect();
        let login = address.admin.as_ref().unwrap_or(&address.extract);
        (!shared.is_empty()).then(|| Neighbour {
            database: name.clone(),
            roles: shared,
            endpoint: login.endpoint.clone(),
            may_be_fenced: address.admin.is_some(),
        })
    };
    others.filter_map(neighbour).collect()
}
