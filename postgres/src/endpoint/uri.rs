//! The two spellings of an address: a URI and a string of `key=value` pairs (PostgreSQL manual, "Connection
//! Strings"). Both become a list of parameters; `host`, `hostaddr` and `port` are comma-separated lists.
//!
//! A mistyped address can have its password anywhere, so no error repeats more than the name of a parameter.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

use crate::error::Error;

/// What is percent-encoded in a part of a URI.
pub(super) const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Parameters in the order they stand; a later one goes before an earlier of the same name.
pub(super) type Parameters = Vec<(String, String)>;

pub(super) fn parse(text: &str) -> Result<Parameters, Error> {
    if text.contains('\0') {
        return Err(Error::invalid("it holds a NUL character"));
    }
    match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        Some(rest) => parse_uri(rest),
        None if text.contains("://") => Err(Error::invalid_with(
            "the URI's scheme is not \"postgresql\"",
            "write postgresql://role@host:port/database",
        )),
        None => parse_pairs(text),
    }
}

/// The refusal that every spelling of a password meets.
pub(super) fn password_refused() -> Error {
    Error::invalid_with(
        "it holds a password",
        "take the password out of the address and name a password file, an environment variable or a passfile; \
         addresses are shown in process lists and logs",
    )
}

fn parse_uri(rest: &str) -> Result<Parameters, Error> {
    let (before_query, query) = match rest.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (rest, None),
    };
    let (authority, path) = match before_query.split_once('/') {
        Some((authority, path)) => (authority, Some(path)),
        None => (before_query, None),
    };
    // A password with an unescaped "/" or "?" ends the authority early, and its "@" stands behind.
    if path.is_some_and(|path| path.contains('@'))
        || (query.is_some_and(|q| q.contains('@')) && !authority.contains('@') && authority.contains(':'))
    {
        return Err(Error::invalid_with(
            "an \"@\" stands where none can be",
            "percent-encode \"/\", \"?\", \"@\" and \":\" in names, and do not write a password",
        ));
    }
    let mut parameters = Parameters::new();
    let hosts = match authority.rsplit_once('@') {
        Some((user, hosts)) => {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            if !password.is_empty() {
                return Err(password_refused());
            }
            if !user.is_empty() {
                parameters.push(("user".into(), decode("role", user)?));
            }
            hosts
        }
        None => authority,
    };
    if !hosts.is_empty() {
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for host in hosts.split(',') {
            let (name, port) = split_port(host)?;
            names.push(decode("host", name)?);
            ports.push(port);
        }
        parameters.push(("host".into(), names.join(",")));
        parameters.push(("port".into(), ports.join(",")));
    }
    if let Some(database) = path.filter(|path| !path.is_empty()) {
        parameters.push(("dbname".into(), decode("database", database)?));
    }
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| Error::invalid("a parameter behind the \"?\" has no \"=\""))?;
        let name = decode("parameter name", name)?;
        let value = decode(&name, value)?;
        // libpq knows JDBC's spelling too.
        match (name.as_str(), value.as_str()) {
            ("ssl", "true") => parameters.push(("sslmode".into(), "require".into())),
            _ => parameters.push((name, value)),
        }
    }
    Ok(parameters)
}

/// `name`, `name:port` or `[v6]:port`.
fn split_port(host: &str) -> Result<(&str, &str), Error> {
    if let Some(v6) = host.strip_prefix('[') {
        let (address, rest) =
            v6.split_once(']').ok_or_else(|| Error::invalid("an IPv6 address has no closing \"]\""))?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((address, port)),
            None if rest.is_empty() => Ok((address, "")),
            None => Err(Error::invalid("something other than a port follows the \"]\" of an IPv6 address")),
        };
    }
    Ok(host.split_once(':').unwrap_or((host, "")))
}

fn decode(what: &str, text: &str) -> Result<String, Error> {
    let bad = || Error::invalid(format!("the {what} is not correctly percent-encoded"));
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        let hex = after.get(..2).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()) && *hex != "00");
        hex.ok_or_else(bad)?;
        rest = &after[2..];
    }
    Ok(percent_encoding::percent_decode_str(text).decode_utf8().map_err(|_| bad())?.into_owned())
}

/// `key=value key = 'quoted value'`, with `\'` and `\\` inside values.
fn parse_pairs(text: &str) -> Result<Parameters, Error> {
    let mut parameters = Parameters::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(parameters);
        }
        let mut name = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            name.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next() != Some('=') {
            return Err(Error::invalid_with(
                "a parameter has no \"=\"",
                "write postgresql://role@host:port/database, or host=... port=... user=... dbname=...",
            ));
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let mut value = String::new();
        let quoted = chars.next_if_eq(&'\'').is_some();
        loop {
            match chars.next() {
                Some('\'') if quoted => break,
                Some('\\') => value.extend(chars.next()),
                Some(c) if !quoted && c.is_whitespace() => break,
                Some(c) => value.push(c),
                None if quoted => return Err(Error::invalid("a quoted value has no closing quote")),
                None => break,
            }
        }
        parameters.push((name, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_uri_is_taken_apart_as_libpq_does() {
        assert_eq!(
            parsed(
                "postgresql://r%40le@h1:5432,h2,[::1]:5433/my%20db?sslmode=require&application_name=a%26b"
            ),
            pairs(&[
                ("user", "r@le"),
                ("host", "h1,h2,::1"),
                ("port", "5432,,5433"),
                ("dbname", "my db"),
                ("sslmode", "require"),
                ("application_name", "a&b"),
            ])
        );
        assert_eq!(
            parsed("postgres://u@%2Fvar%2Frun%2Fpostgresql/db"),
            pairs(&[("user", "u"), ("host", "/var/run/postgresql"), ("port", ""), ("dbname", "db")])
        );
        assert_eq!(parsed("postgresql:///db?host=/tmp"), pairs(&[("dbname", "db"), ("host", "/tmp")]));
        assert_eq!(parsed("postgresql://"), vec![]);
        assert_eq!(parsed("postgresql://h?ssl=true")[2], ("sslmode".to_owned(), "require".to_owned()));
    }

    #[test]
    fn key_value_pairs_keep_quoted_and_escaped_values() {
        assert_eq!(
            parsed(r"host = 'a b'  user=it\'s dbname='x\\y' options=''"),
            pairs(&[("host", "a b"), ("user", "it's"), ("dbname", r"x\y"), ("options", "")])
        );
        for bad in ["host", "host='x", "host 'x'"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_error_repeats_what_could_be_a_password() {
        for bad in [
            "postgresql://u:s3cret@h/db",
            "postgresql://u:s3/cret@h/db",
            "postgresql://u:s3?cret@h/db",
            "postgresql://u:s3@cret@h/db",
            "postgresql://u:%zz3cret@h/db",
            "mysql://u:s3cret@h/db",
            "postgresql://[s3cret/db",
            "u:s3cret@h/db",
            "postgresql://u@h/db?s3cret",
            "postgresql://u@h/%s3cret",
        ] {
            let error = parse(bad).unwrap_err();
            for shown in [error.to_string(), format!("{error:?}"), error.hint().unwrap_or_default()] {
                assert!(!shown.contains("cret"), "{bad}: {shown}");
            }
        }
    }
}
