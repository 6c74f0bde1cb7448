//! A database and its address at each site.

use std::path::{Path, PathBuf};

use irongate_postgres::{Endpoint, Error, TargetSessionAttrs};
use serde::Deserialize;
use toml::Spanned;

use super::names;
use super::problem::Problems;

/// The role that Extract logs in as where the address names none.
pub const EXTRACT_ROLE: &str = "irongate_extract";
/// The role that Replicat logs in as where the address names none.
pub const REPLICAT_ROLE: &str = "irongate_replicat";

/// `[databases.NAME.SITE]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AddressSection {
    uri: Spanned<String>,
    extract_role: Option<Spanned<String>>,
    replicat_role: Option<Spanned<String>>,
    password_file: Option<PathBuf>,
    password_env: Option<String>,
    extract_password_file: Option<PathBuf>,
    extract_password_env: Option<String>,
    replicat_password_file: Option<PathBuf>,
    replicat_password_env: Option<String>,
    passfile: Option<PathBuf>,
    admin_uri: Option<Spanned<String>>,
    admin_password_file: Option<PathBuf>,
    admin_password_env: Option<String>,
}

/// Where a role's password can be read. The files are read when a connection is made.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct PasswordSource {
    /// A file that holds the password and nothing else.
    pub file: Option<PathBuf>,
    /// An environment variable.
    pub variable: Option<String>,
    /// The address whose passfile may have a line for the role.
    pub passfile: Option<Box<Endpoint>>,
}

impl PasswordSource {
    /// The password in the fitting line of the passfile, if there is one.
    fn in_passfile(&self) -> Result<Option<Vec<u8>>, crate::Error> {
        let Some(endpoint) = &self.passfile else { return Ok(None) };
        endpoint.passfile_password().map_err(|error| crate::Error::Password {
            place: format!("passfile \"{}\"", endpoint.passfile().unwrap_or(Path::new("")).display()),
            reason: error.to_string(),
        })
    }

    /// Whether a password is configured that a role can be given.
    pub(crate) fn is_configured(&self) -> Result<bool, crate::Error> {
        Ok(self.file.is_some() || self.variable.is_some() || self.in_passfile()?.is_some())
    }

    /// Reads the password, to compute what a server stores of it.
    ///
    /// The file's permissions are judged where it is used to log in, not here.
    pub(crate) fn read(&self) -> Result<Vec<u8>, crate::Error> {
        use std::os::unix::ffi::OsStringExt;
        let bad = |place: String, reason: String| crate::Error::Password { place, reason };
        match (&self.file, &self.variable) {
            (Some(file), _) => {
                let mut bytes = std::fs::read(file)
                    .map_err(|error| bad(format!("file \"{}\"", file.display()), error.to_string()))?;
                if bytes.ends_with(b"\n") {
                    bytes.pop();
                    if bytes.ends_with(b"\r") {
                        bytes.pop();
                    }
                }
                Ok(bytes)
            }
            (None, Some(variable)) => Ok(std::env::var_os(variable)
                .ok_or_else(|| bad(format!("variable \"{variable}\""), "it is not set".into()))?
                .into_vec()),
            (None, None) => Ok(self.in_passfile()?.unwrap_or_default()),
        }
    }
}

/// A way into a database as one role.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Login {
    /// Where and as whom.
    pub endpoint: Endpoint,
    /// Where its password is configured.
    pub password: PasswordSource,
}

impl Login {
    /// The role.
    pub fn role(&self) -> &str {
        self.endpoint.user()
    }
}

/// A database as it is reached at one site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// As Extract reads it.
    pub extract: Login,
    /// As Replicat writes it.
    pub replicat: Login,
    /// For set-up; needs more rights than a running process has.
    pub admin: Option<Login>,
}

impl Address {
    /// The database's name in its server.
    pub fn database(&self) -> &str {
        self.extract.endpoint.database()
    }

    /// Whether two addresses lead to the same cluster, as far as the text tells.
    pub fn same_cluster(&self, other: &Self) -> bool {
        self.extract.endpoint.hosts() == other.extract.endpoint.hosts()
    }
}

impl AddressSection {
    pub(super) fn review(self, directory: &Path, problems: &mut Problems<'_>) -> Option<Address> {
        let relative = |path: Option<PathBuf>| path.map(|path| directory.join(path));
        let passfile = relative(self.passfile);
        let source = |own_file, own_variable: Option<String>| {
            // What is named for one role replaces what is named for both.
            let own = PasswordSource { file: relative(own_file), variable: own_variable, passfile: None };
            if own == PasswordSource::default() {
                PasswordSource {
                    file: relative(self.password_file.clone()),
                    variable: self.password_env.clone(),
                    passfile: None,
                }
            } else {
                own
            }
        };
        let extract_password = source(self.extract_password_file, self.extract_password_env);
        let replicat_password = source(self.replicat_password_file, self.replicat_password_env);
        let admin_password = PasswordSource {
            file: relative(self.admin_password_file),
            variable: self.admin_password_env,
            passfile: None,
        };
        for (role, key) in [(&self.extract_role, "extract_role"), (&self.replicat_role, "replicat_role")] {
            if let Some(role) = role {
                names::review_identifier(problems, role, key);
            }
        }
        let role = |role: Option<Spanned<String>>| role.map(Spanned::into_inner);
        let (extract_role, replicat_role) = (role(self.extract_role), role(self.replicat_role));
        let login = |endpoint: Endpoint, password: PasswordSource| {
            let mut endpoint = endpoint;
            if endpoint.hosts().len() > 1 && endpoint.target_session_attrs() == TargetSessionAttrs::Any {
                // Of several hosts only the one that can be written to is the database.
                endpoint = endpoint.with_target_session_attrs(TargetSessionAttrs::ReadWrite);
            }
            if let Some(file) = &password.file {
                endpoint = endpoint.with_password_file(file);
            }
            if let Some(variable) = &password.variable {
                endpoint = endpoint.with_password_env(variable);
            }
            if let Some(passfile) = &passfile {
                endpoint = endpoint.with_passfile(passfile);
            }
            let mut password = password;
            password.passfile = endpoint.passfile().map(|_| Box::new(endpoint.clone()));
            Login { endpoint, password }
        };
        let mut parse = |uri: &Spanned<String>, default_role: Option<&str>| {
            parse_uri(uri.get_ref(), default_role)
                .map_err(|error| {
                    let remedy =
                        error.hint().or_else(|| Some("write postgresql://host:port/database".into()));
                    problems.add(uri.span(), error.to_string(), remedy);
                })
                .ok()
        };
        let extract = parse(&self.uri, Some(extract_role.as_deref().unwrap_or(EXTRACT_ROLE)));
        let replicat = extract
            .is_some()
            .then(|| parse(&self.uri, Some(replicat_role.as_deref().unwrap_or(REPLICAT_ROLE))))?;
        let admin = match &self.admin_uri {
            Some(uri) => Some(parse(uri, None)?),
            None => None,
        };
        let with_role = |endpoint: Endpoint, role: Option<String>| match role {
            Some(role) => endpoint.with_user(role),
            None => endpoint,
        };
        if let (Some(uri), Some(admin), Some(own)) = (&self.admin_uri, &admin, &extract)
            && admin.database() != own.database()
        {
            let reason = format!(
                "the admin connection leads to database \"{}\" and not to \"{}\"",
                admin.database(),
                own.database()
            );
            problems.add(uri.span(), reason, Some("name the same database in both addresses".into()));
        }
        Some(Address {
            extract: login(with_role(extract?, extract_role), extract_password),
            replicat: login(with_role(replicat?, replicat_role), replicat_password),
            admin: admin.map(|admin| login(admin, admin_password)),
        })
    }
}

/// A role that no address names, to see whether an address names one.
const NOBODY: &str = "irongate nobody";

/// Parses an address in which the role may be left out, and the database may not.
fn parse_uri(uri: &str, default_role: Option<&str>) -> Result<Endpoint, Error> {
    let endpoint = match (Endpoint::parse(uri), default_role) {
        (Ok(endpoint), _) => endpoint,
        (Err(error), None) => return Err(error),
        (Err(_), Some(role)) => Endpoint::parse(&with_role(uri, NOBODY))?.with_user(role),
    };
    // Without a name, the database is the role's.
    let named = Endpoint::parse(&with_role(uri, NOBODY))?.database() != NOBODY;
    if named {
        Ok(endpoint)
    } else {
        Err(Error::InvalidEndpoint {
            reason: "it names no database".into(),
            remedy: Some("write postgresql://role@host:port/database".into()),
        })
    }
}

/// The address with a role added; a later parameter goes before an earlier one.
fn with_role(uri: &str, role: &str) -> String {
    if uri.contains("://") {
        let mark = if uri.contains('?') { '&' } else { '?' };
        format!("{uri}{mark}user={}", role.replace(' ', "%20"))
    } else {
        format!("{uri} user='{role}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_may_be_left_out_of_an_address_and_a_database_may_not() {
        let user = |uri: &str| parse_uri(uri, Some("def")).map(|endpoint| endpoint.user().to_owned());
        assert_eq!(user("postgresql://h/db").unwrap(), "def");
        assert_eq!(user("postgresql://u@h/db?sslmode=disable").unwrap(), "u");
        assert_eq!(user("postgresql://h/db?sslmode=disable").unwrap(), "def");
        assert_eq!(user("host=h dbname=db").unwrap(), "def");
        for without in ["postgresql://u@h", "postgresql://h/", "host=h user=u"] {
            assert!(user(without).unwrap_err().to_string().contains("names no database"), "{without}");
        }
        assert!(parse_uri("postgresql://h/db", None).is_err());
        let error = user("postgresql://u:secret@h/db").unwrap_err().to_string();
        assert!(error.contains("password") && !error.contains("secret"), "{error}");
    }
}
