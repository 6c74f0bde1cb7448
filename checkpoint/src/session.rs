//! Who stands in the way at the target: one row of `pg_stat_activity`, as far as a plain role may see it.

use std::fmt;

use tokio_postgres::Client;

/// A server session that holds what is wanted here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OtherSession {
    /// Its server process id, the argument of `pg_terminate_backend`.
    pub pid: Option<u32>,
    /// Its `application_name`.
    pub application: Option<String>,
    /// Its role.
    pub role: Option<String>,
    /// Its database.
    pub database: Option<String>,
    /// Its client's address; none over a unix socket, or where the role may not see it.
    pub client: Option<String>,
    /// When it connected, as the server prints it.
    pub since: Option<String>,
}

impl fmt::Display for OtherSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "server process {pid}")?,
            None => f.write_str("another session")?,
        }
        let facts = [
            ("application", &self.application),
            ("role", &self.role),
            ("database", &self.database),
            ("client", &self.client),
        ];
        let mut open = false;
        for (label, value) in facts {
            if let Some(value) = value {
                write!(f, "{}{label} \"{value}\"", if open { ", " } else { " (" })?;
                open = true;
            }
        }
        if let Some(since) = &self.since {
            write!(f, "{}since {since}", if open { ", " } else { " (" })?;
            open = true;
        }
        if open { f.write_str(")") } else { Ok(()) }
    }
}

impl OtherSession {
    /// What the server tells of process `pid`. Only an explanation for an error message, so a failure to learn more is
    /// no error: the pid alone is left then.
    pub(crate) async fn describe(client: &Client, pid: i32) -> Self {
        const SQL: &str = "SELECT application_name, usename::text, datname::text, host(client_addr), \
                           backend_start::text FROM pg_catalog.pg_stat_activity WHERE pid = $1";
        let mut session = Self { pid: u32::try_from(pid).ok(), ..Self::default() };
        if let Ok(Some(row)) = client.query_opt(SQL, &[&pid]).await {
            let text = |column: usize| {
                row.try_get::<_, Option<String>>(column).ok().flatten().filter(|text| !text.is_empty())
            };
            session.application = text(0);
            session.role = text(1);
            session.database = text(2);
            session.client = text(3);
            session.since = text(4);
        }
        session
    }
}
