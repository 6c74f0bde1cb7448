//! What is asked of `pgoutput`, by what the server can do.
//!
//! Asking for a protocol version or an option that the server does not know is an error at START_REPLICATION and not a
//! downgrade, so everything follows from `server_version_num` (PostgreSQL manual, "Logical Streaming Replication
//! Parameters"). `streaming` is never `parallel`: that only tells the client more about aborts, which the trail does not
//! need, and costs bytes.

use irongate_postgres::replication::publication_names;

use crate::error::Error;
use crate::pgoutput::Streaming;

/// The oldest server that Extract reads.
const OLDEST: u32 = 15;
/// The first server that filters by origin.
const ORIGIN_FILTER: u32 = 160_000;

/// What the caller wants, where the server can do it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Whether transactions in progress may come before their end.
    pub streaming: Streaming,
    /// Values in binary: only when every published column has a type of [`crate::binary::is_safe`].
    pub binary: bool,
    /// Nothing that has an origin: on older servers the ORIGIN message says so instead.
    pub without_origin: bool,
}

/// The options of START_REPLICATION for a server.
///
/// # Errors
/// [`Error::Version`] for a server that is too old.
pub fn choose(
    server_version_num: u32,
    publications: &[String],
    wanted: Wanted,
) -> Result<Vec<(&'static str, String)>, Error> {
    let protocol = match server_version_num {
        160_000.. => 4,
        150_000..160_000 => 3,
        _ => return Err(Error::Version { needed: OLDEST, found: server_version_num }),
    };
    let names = publication_names(publications.iter().map(String::as_str));
    let mut options = vec![
        ("proto_version", protocol.to_string()),
        ("publication_names", names),
        ("messages", "true".to_owned()),
        ("binary", wanted.binary.to_string()),
    ];
    match wanted.streaming {
        Streaming::Off => {}
        Streaming::On => options.push(("streaming", "on".to_owned())),
        Streaming::Parallel if server_version_num >= ORIGIN_FILTER => {
            options.push(("streaming", "parallel".to_owned()));
        }
        Streaming::Parallel => {
            return Err(Error::Version { needed: ORIGIN_FILTER / 10_000, found: server_version_num });
        }
    }
    if wanted.without_origin && server_version_num >= ORIGIN_FILTER {
        options.push(("origin", "none".to_owned()));
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted { streaming: Streaming::On, binary: false, without_origin: true };

    fn chosen(version: u32) -> Vec<(&'static str, String)> {
        choose(version, &["csp".to_owned(), "a\"b".to_owned()], WANTED).unwrap()
    }

    fn value(version: u32, option: &str) -> Option<String> {
        chosen(version).into_iter().find(|(name, _)| *name == option).map(|(_, value)| value)
    }

    #[test]
    fn each_release_is_asked_for_what_it_knows() {
        assert_eq!(value(150_018, "proto_version").unwrap(), "3");
        assert_eq!(value(150_018, "origin"), None);
        for version in [160_014, 170_010, 180_004, 190_000] {
            assert_eq!(value(version, "proto_version").unwrap(), "4");
            assert_eq!(value(version, "origin").unwrap(), "none");
        }
        assert_eq!(value(150_018, "publication_names").unwrap(), "\"csp\",\"a\"\"b\"");
        assert_eq!(value(180_004, "streaming").unwrap(), "on");
    }

    #[test]
    fn a_server_that_is_too_old_is_refused() {
        assert!(matches!(choose(140_022, &[], WANTED), Err(Error::Version { needed: 15, .. })));
    }
}
