//! Where a password comes from. The sources, in their order:
//!
//! 1. a password file, named for this endpoint;
//! 2. an environment variable, named for this endpoint;
//! 3. the endpoint's own passfile (`passfile` in the address);
//! 4. `PGPASSWORD`;
//! 5. the passfile of the user: `PGPASSFILE`, else `~/.pgpass`.
//!
//! What is named for the endpoint goes before what counts for the whole process, because one process speaks to
//! several servers. A named file or variable that cannot be used is an error; a passfile without a fitting line is
//! not, the next source is asked.
//!
//! Errors name file and line and never quote either.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{DEFAULT_SOCKET_DIRECTORY, Host};
use crate::error::Error;

/// More than any password or passfile has.
const LARGEST_FILE: u64 = 1 << 20;

/// A password. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Vec<u8>);

impl Secret {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}

/// A password and the words for the place it came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) secret: Secret,
    pub(crate) from: String,
}

/// The places that an endpoint names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct PasswordSources {
    pub(crate) file: Option<PathBuf>,
    pub(crate) variable: Option<String>,
    pub(crate) passfile: Option<PathBuf>,
}

/// What a passfile's line is compared with.
pub(crate) struct Login<'a> {
    pub(crate) host: &'a Host,
    pub(crate) database: &'a str,
    pub(crate) user: &'a str,
}

impl PasswordSources {
    /// The password for a login, or the words for where it was looked for in vain.
    pub(crate) fn find(&self, login: &Login<'_>) -> Result<Result<Found, String>, Error> {
        self.find_with(login, |name| std::env::var_os(name))
    }

    fn find_with(
        &self,
        login: &Login<'_>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Result<Found, String>, Error> {
        if let Some(path) = &self.file {
            return Ok(Ok(Found {
                secret: read_password_file(path)?,
                from: format!("file \"{}\"", path.display()),
            }));
        }
        let from_variable = |name: &str| -> Result<Option<Found>, Error> {
            let Some(value) = variable(name) else { return Ok(None) };
            let bad = |reason| Error::PasswordVariable { name: name.to_owned(), reason };
            let value = value.into_vec();
            if value.is_empty() {
                return Err(bad("is empty"));
            }
            Ok(Some(Found { secret: Secret(value), from: format!("variable \"{name}\"") }))
        };
        if let Some(name) = &self.variable {
            return match from_variable(name)? {
                Some(found) => Ok(Ok(found)),
                None => Err(Error::PasswordVariable { name: name.clone(), reason: "is not set" }),
            };
        }
        let mut looked_in = Vec::new();
        if let Some(path) = &self.passfile {
            match search_passfile(path, login)? {
                Ok(found) => return Ok(Ok(found)),
                Err(words) => looked_in.push(words),
            }
        }
        // libpq takes an empty PGPASSWORD for none.
        if variable("PGPASSWORD").is_some_and(|value| !value.is_empty())
            && let Some(found) = from_variable("PGPASSWORD")?
        {
            return Ok(Ok(found));
        }
        looked_in.push("variable \"PGPASSWORD\"".to_owned());
        let users = variable("PGPASSFILE")
            .map(PathBuf::from)
            .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".pgpass")));
        if let Some(path) = users.filter(|path| Some(path) != self.passfile.as_ref()) {
            if path.exists() {
                match search_passfile(&path, login)? {
                    Ok(found) => return Ok(Ok(found)),
                    Err(words) => looked_in.push(words),
                }
            } else {
                looked_in.push(format!("passfile \"{}\" (not there)", path.display()));
            }
        }
        Ok(Err(looked_in.join(", ")))
    }
}

/// Refuses a file with a private key or password that others can read: one of our own must be readable by its owner
/// alone, one of root may also be readable by a group (libpq's rule for keys).
pub(crate) fn check_key_permissions(path: &Path, file: &File) -> Result<(), Error> {
    let metadata = file.metadata().map_err(|error| Error::file(path, error.to_string()))?;
    let forbidden = if metadata.uid() == 0 { 0o027 } else { 0o077 };
    refuse_permissions(path, &metadata, forbidden)
}

fn refuse_permissions(path: &Path, metadata: &std::fs::Metadata, forbidden: u32) -> Result<(), Error> {
    if !metadata.is_file() {
        return Err(Error::file(path, "it is not a plain file"));
    }
    if metadata.mode() & forbidden != 0 {
        return Err(Error::file(
            path,
            format!("its permissions ({:04o}) let others read it", metadata.mode() & 0o7777),
        ));
    }
    Ok(())
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|error| Error::file(path, error.to_string()))
}

fn read_all(path: &Path, file: File) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    file.take(LARGEST_FILE + 1)
        .read_to_end(&mut content)
        .map_err(|error| Error::file(path, error.to_string()))?;
    if content.len() as u64 > LARGEST_FILE {
        return Err(Error::file(path, "it is too large"));
    }
    Ok(content)
}

fn read_password_file(path: &Path) -> Result<Secret, Error> {
    let file = open(path)?;
    check_key_permissions(path, &file)?;
    let mut content = read_all(path, file)?;
    if content.ends_with(b"\n") {
        content.pop();
        if content.ends_with(b"\r") {
            content.pop();
        }
    }
    if content.is_empty() {
        return Err(Error::file(path, "it is empty, and should hold a password"));
    }
    if content.iter().any(|byte| matches!(byte, b'\n' | 0)) {
        return Err(Error::file(path, "it should hold a password and nothing else, on one line"));
    }
    Ok(Secret(content))
}

/// The password of the first line of a passfile that fits.
pub(crate) fn in_passfile(
    path: &Path,
    host: &Host,
    database: &str,
    user: &str,
) -> Result<Option<Vec<u8>>, Error> {
    let found = search_passfile(path, &Login { host, database, user })?;
    Ok(found.ok().map(|found| found.secret.0.clone()))
}

/// The first line of a passfile that fits.
fn search_passfile(path: &Path, login: &Login<'_>) -> Result<Result<Found, String>, Error> {
    let file = open(path)?;
    let metadata = file.metadata().map_err(|error| Error::file(path, error.to_string()))?;
    refuse_permissions(path, &metadata, 0o077)?;
    let content = read_all(path, file)?;
    let host = match login.host {
        Host::Tcp { name, .. } => name.clone(),
        // libpq lets "localhost" stand for the default socket directory.
        Host::Unix { directory, .. } if directory.as_os_str() == DEFAULT_SOCKET_DIRECTORY => {
            "localhost".to_owned()
        }
        Host::Unix { directory, .. } => directory.to_string_lossy().into_owned(),
    };
    let port = login.host.port().to_string();
    let wanted = [host.as_str(), port.as_str(), login.database, login.user];
    let mut malformed = None;
    for (number, line) in content.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let Some((fields, password)) = split_line(line) else {
            malformed.get_or_insert(number + 1);
            continue;
        };
        let fits = fields.iter().zip(wanted).all(|(field, wanted)| match field {
            Field::Any => true,
            Field::Exactly(value) => value == wanted.as_bytes(),
        });
        if !fits {
            continue;
        }
        let bad =
            |reason: &str| Error::File { path: path.into(), line: Some(number + 1), reason: reason.into() };
        let password = password.ok_or_else(|| bad("an unescaped \":\" ends the password; write \"\\:\""))?;
        if password.is_empty() {
            return Err(bad("the password is empty"));
        }
        let from = format!("passfile \"{}\", line {}", path.display(), number + 1);
        return Ok(Ok(Found { secret: Secret(password), from }));
    }
    let mut words = format!("passfile \"{}\" (no line fits)", path.display());
    if let Some(line) = malformed {
        words = format!(
            "passfile \"{}\" (no line fits, and line {line} is not of the form host:port:database:role:password)",
            path.display()
        );
    }
    Ok(Err(words))
}

#[derive(PartialEq, Eq, Debug)]
enum Field {
    Any,
    Exactly(Vec<u8>),
}

/// Four fields and the password (none if an unescaped colon stands in it); nothing if there are fewer fields.
fn split_line(line: &[u8]) -> Option<([Field; 4], Option<Vec<u8>>)> {
    let mut rest = line;
    let mut next = || -> Option<Field> {
        let (value, wild, after) = unescape(rest);
        rest = after?;
        Some(if wild { Field::Any } else { Field::Exactly(value) })
    };
    let fields = [next()?, next()?, next()?, next()?];
    let (password, _, after) = unescape(rest);
    Some((fields, after.is_none().then_some(password)))
}

/// Up to the next unescaped colon: the value, whether it is a lone `*`, and what follows the colon if there is one.
fn unescape(text: &[u8]) -> (Vec<u8>, bool, Option<&[u8]>) {
    let mut value = Vec::new();
    let mut i = 0;
    while i < text.len() {
        match text[i] {
            b':' => return (value, &text[..i] == b"*", Some(&text[i + 1..])),
            b'\\' if i + 1 < text.len() => {
                i += 1;
                value.push(text[i]);
            }
            byte => value.push(byte),
        }
        i += 1;
    }
    (value, text == b"*", None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, name: &str, content: &str, mode: u32) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    fn host(name: &str) -> Host {
        Host::Tcp { name: name.into(), address: None, port: 5432 }
    }

    fn find_in(
        passfile: &Path,
        host: &Host,
        database: &str,
        user: &str,
    ) -> Result<Option<(String, String)>, Error> {
        let sources = PasswordSources { passfile: Some(passfile.into()), ..PasswordSources::default() };
        let found = sources.find_with(&Login { host, database, user }, |_| None)?;
        Ok(found.ok().map(|found| (String::from_utf8(found.secret.0).unwrap(), found.from)))
    }

    #[test]
    fn the_first_fitting_line_of_a_passfile_counts() {
        let folder = Folder::new();
        let path = folder.file(
            "pgpass",
            "# comment:5432:*:*:no\n\nh1:5432:db:u:first\r\nh1:*:db:*:second\nfew:fields\n\
             [x]::db:u:never\n*:*:d\\:b:u\\\\x:p\\:\\\\w\nlocalhost:5432:*:*:socket\n/tmp/s:*:*:*:path\nesc\\*:*:*:*:star\n",
            0o600,
        );
        let password = |host: &Host, database: &str, user: &str| {
            find_in(&path, host, database, user).unwrap().map(|(password, _)| password)
        };
        assert_eq!(password(&host("h1"), "db", "u").as_deref(), Some("first"));
        assert_eq!(password(&host("h1"), "db", "v").as_deref(), Some("second"));
        assert_eq!(password(&host("h1"), "other", "v"), None);
        assert_eq!(password(&host("any"), "d:b", "u\\x").as_deref(), Some("p:\\w"));
        assert_eq!(password(&host("comment"), "db", "u"), None);
        assert_eq!(
            password(&Host::Unix { directory: DEFAULT_SOCKET_DIRECTORY.into(), port: 5432 }, "d", "u")
                .as_deref(),
            Some("socket")
        );
        assert_eq!(
            password(&Host::Unix { directory: "/tmp/s".into(), port: 1 }, "d", "u").as_deref(),
            Some("path")
        );
        let (_, from) = find_in(&path, &host("h1"), "db", "u").unwrap().unwrap();
        assert_eq!(from, format!("passfile \"{}\", line 3", path.display()));
    }

    #[test]
    fn a_bad_passfile_is_refused_without_quoting_it() {
        let folder = Folder::new();
        for mode in [0o640, 0o604, 0o644, 0o620] {
            let path = folder.file("open", "*:*:*:*:s3cret\n", mode);
            let error = find_in(&path, &host("h"), "d", "u").unwrap_err();
            assert!(error.to_string().contains("permissions"), "{error}");
            assert!(error.hint().unwrap().starts_with("chmod 0600"));
            assert!(!format!("{error:?}").contains("s3cret"));
        }
        let path = folder.file("colon", "x:*:*:*:a\n*:*:*:*:s3:cret\n", 0o600);
        let error = find_in(&path, &host("h"), "d", "u").unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
        assert!(!error.to_string().contains("s3"), "{error}");
        assert!(find_in(&folder.0.path().join("missing"), &host("h"), "d", "u").is_err());
        let path = folder.file("few", "h:s3cret\n", 0o600);
        let sources = PasswordSources { passfile: Some(path), ..PasswordSources::default() };
        let looked_in =
            sources.find_with(&Login { host: &host("h"), database: "d", user: "u" }, |_| None).unwrap();
        let words = looked_in.unwrap_err();
        assert!(words.contains("line 1 is not of the form"), "{words}");
        assert!(!words.contains("s3cret"));
    }

    #[test]
    fn what_is_named_for_the_endpoint_goes_before_what_counts_for_the_process() {
        let folder = Folder::new();
        let file = folder.file("pw", "of file\n", 0o600);
        let passfile = folder.file("pgpass", "h:*:*:*:of passfile\n", 0o600);
        let home = folder.file(".pgpass", "*:*:*:*:of home\n", 0o600);
        let variable = |name: &str| match name {
            "MINE" => Some("of variable".into()),
            "PGPASSWORD" => Some("of process".into()),
            "HOME" => home.parent().map(|parent| parent.as_os_str().to_owned()),
            _ => None,
        };
        let mut sources =
            PasswordSources { file: Some(file), variable: Some("MINE".into()), passfile: Some(passfile) };
        let host = host("h");
        let mut found = Vec::new();
        let login = Login { host: &host, database: "d", user: "u" };
        for step in 0..5 {
            match step {
                1 => sources.file = None,
                2 => sources.variable = None,
                3 => sources.passfile = None,
                _ => {}
            }
            let secret = sources
                .find_with(
                    &login,
                    |name| if step == 4 && name == "PGPASSWORD" { None } else { variable(name) },
                )
                .unwrap()
                .unwrap()
                .secret;
            found.push(String::from_utf8(secret.0).unwrap());
        }
        assert_eq!(found, ["of file", "of variable", "of passfile", "of process", "of home"]);
    }

    #[test]
    fn a_named_source_that_cannot_be_used_is_an_error_and_not_passed_over() {
        let folder = Folder::new();
        let host = host("h");
        let login = Login { host: &host, database: "d", user: "u" };
        let with_process_password = |name: &str| (name == "PGPASSWORD").then(|| OsString::from("x"));
        for (content, mode) in [("", 0o600), ("\n", 0o600), ("two\nlines\n", 0o600), ("s3cret", 0o644)] {
            let file = folder.file("pw", content, mode);
            let sources = PasswordSources { file: Some(file), ..PasswordSources::default() };
            let error = sources.find_with(&login, with_process_password).unwrap_err();
            assert!(!format!("{error:?}").contains("s3cret"));
        }
        let sources = PasswordSources { variable: Some("NOT_SET".into()), ..PasswordSources::default() };
        let error = sources.find_with(&login, with_process_password).unwrap_err();
        assert!(error.to_string().contains("NOT_SET"), "{error}");
        assert!(error.hint().is_some());
        assert_eq!(format!("{:?}", Secret(b"s3cret".to_vec())), "Secret(...)");
    }
}
