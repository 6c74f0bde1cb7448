//! An endpoint as the environment of a program that uses libpq, such as `pg_dump`: so neither address nor password stands
//! in its arguments, which everybody on the machine can read.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::password::Login;
use super::{Endpoint, Host, Negotiation, RootCertificates};
use crate::error::Error;

/// Variables that libpq reads, and that would have a program go elsewhere than the endpoint says.
pub const LIBPQ_VARIABLES: [&str; 28] = [
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGDATABASE",
    "PGUSER",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGREQUIREAUTH",
    "PGCHANNELBINDING",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGOPTIONS",
    "PGAPPNAME",
    "PGSSLMODE",
    "PGREQUIRESSL",
    "PGSSLNEGOTIATION",
    "PGSSLCOMPRESSION",
    "PGSSLCERT",
    "PGSSLKEY",
    "PGSSLROOTCERT",
    "PGSSLCRL",
    "PGSSLCRLDIR",
    "PGSSLSNI",
    "PGSSLMINPROTOCOLVERSION",
    "PGGSSENCMODE",
    "PGCONNECT_TIMEOUT",
    "PGCLIENTENCODING",
    "PGTARGETSESSIONATTRS",
];

impl Endpoint {
    /// The variables that lead a program of libpq to this endpoint, its password included: to be given to that program
    /// alone, in place of all of [`LIBPQ_VARIABLES`], and never to be shown.
    ///
    /// # Errors
    /// As connecting gives them for a password that is configured and cannot be read.
    pub fn libpq_environment(&self, application_name: &str) -> Result<Vec<(&'static str, OsString)>, Error> {
        let joined = |part: fn(&Host) -> String| {
            OsString::from(self.hosts.iter().map(part).collect::<Vec<_>>().join(","))
        };
        let mut all: Vec<(&'static str, OsString)> = vec![
            (
                "PGHOST",
                joined(|host| match host {
                    Host::Tcp { name, .. } => name.clone(),
                    Host::Unix { directory, .. } => directory.display().to_string(),
                }),
            ),
            ("PGPORT", joined(|host| host.port().to_string())),
            ("PGUSER", self.user.clone().into()),
            ("PGDATABASE", self.database.clone().into()),
            ("PGAPPNAME", application_name.into()),
            ("PGSSLMODE", self.tls.mode.as_str().into()),
            ("PGSSLMINPROTOCOLVERSION", self.tls.least_version.as_str().into()),
            ("PGSSLSNI", if self.tls.sni { "1" } else { "0" }.into()),
            ("PGCHANNELBINDING", self.channel_binding.as_str().into()),
            ("PGTARGETSESSIONATTRS", self.target.as_str().into()),
            ("PGGSSENCMODE", "disable".into()),
            ("PGCLIENTENCODING", "UTF8".into()),
        ];
        let has_addresses = self.hosts.iter().any(|host| matches!(host, Host::Tcp { address: Some(_), .. }));
        if has_addresses {
            let address = |host: &Host| match host {
                Host::Tcp { address: Some(address), .. } => address.to_string(),
                _ => String::new(),
            };
            all.push(("PGHOSTADDR", joined(address)));
        }
        let mut file = |name, path: &Option<std::path::PathBuf>| {
            all.extend(path.as_ref().map(|path| (name, path.clone().into_os_string())));
        };
        file("PGSSLCERT", &self.tls.certificate);
        file("PGSSLKEY", &self.tls.key);
        file("PGSSLCRL", &self.tls.revoked);
        match &self.tls.roots {
            RootCertificates::Default => {}
            RootCertificates::System => all.push(("PGSSLROOTCERT", "system".into())),
            RootCertificates::File(path) => all.push(("PGSSLROOTCERT", path.clone().into_os_string())),
        }
        // A client that does not know it would stumble over what is the default anyway.
        if self.tls.negotiation != Negotiation::Postgres {
            all.push(("PGSSLNEGOTIATION", self.tls.negotiation.as_str().into()));
        }
        if let Some(limit) = self.connect_timeout {
            all.push(("PGCONNECT_TIMEOUT", limit.as_secs().max(2).to_string().into()));
        }
        if let Some(options) = &self.options {
            all.push(("PGOPTIONS", options.clone().into()));
        }
        for host in &self.hosts {
            let login = Login { host, database: &self.database, user: &self.user };
            if let Ok(found) = self.passwords.find(&login)? {
                all.push(("PGPASSWORD", OsString::from_vec(found.secret.bytes().to_vec())));
                break;
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_address_is_told_in_variables_and_its_password_with_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a secret\n").unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        let text = "postgresql://me@one:5433,two:5434/db?sslmode=require&target_session_attrs=read-write";
        let endpoint = Endpoint::parse(text).unwrap().with_password_file(file.path());
        let all = endpoint.libpq_environment("irongate").unwrap();
        let value = |name: &str| all.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        for (name, expected) in [
            ("PGHOST", "one,two"),
            ("PGPORT", "5433,5434"),
            ("PGUSER", "me"),
            ("PGDATABASE", "db"),
            ("PGSSLMODE", "require"),
            ("PGTARGETSESSIONATTRS", "read-write"),
            ("PGPASSWORD", "a secret"),
        ] {
            assert_eq!(value(name), Some(expected.into()), "{name}");
        }
        assert!(all.iter().all(|(name, _)| LIBPQ_VARIABLES.contains(name)));
        assert_eq!((value("PGSSLROOTCERT"), value("PGHOSTADDR")), (None, None));
        let gone = Endpoint::parse(text).unwrap().with_password_file("/nonexistent");
        assert!(gone.libpq_environment("irongate").is_err());
    }
}
