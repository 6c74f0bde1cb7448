//! What is asked of `pgoutput`, by what the server can do.
//!
//! Asking for a protocol version or an option that the server does not know is an error at START_REPLICATION and not a
//! downgrade, so everything follows from `server_version_num` (PostgreSQL manual, "Logical Streaming Replication
//! Parameters"). `streaming` is never `parallel`: that only tells the client more about aborts, which the trail does not
//! need, and costs bytes.

use irongate_postgres::replication::publication_names;

use crate::error::Error;
use crate::machine::SkipOrigins;
use crate::pgoutput::Streaming;

/// The oldest server that Extract reads.
const OLDEST: u32 = 15;
/// The first server that filters by origin.
const ORIGIN_FILTER: u32 = 160_000;

/// What the caller wants, where the server can do it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted<'a> {
    /// Whether transactions in progress may come before their end.
    pub streaming: Streaming,
    /// Values in binary: only when every published column has a type of [`crate::binary::is_safe`].
    pub binary: bool,
    /// What is left out by its origin: by the server where it can, and otherwise by the ORIGIN message.
    pub skip_origins: &'a SkipOrigins,
    /// Whether the source has origins besides those of Irongate's flows.
    pub foreign_origins: bool,
}

/// What is asked of a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// The options of START_REPLICATION.
    pub options: Vec<(&'static str, String)>,
    /// Whether transactions in progress come before their end.
    ///
    /// Where the ORIGIN message decides what is left out, only if all that is left out is a Replicat's. For a streamed
    /// transaction is given the origin of the first entry in the server's buffer, and the invalidations of a TRUNCATE or
    /// of DDL are entries without one (`ReorderBufferProcessTXN` in reorderbuffer.c): it looks like an application's own
    /// work, and goes back to where it came from. Irongate changes a row first in such a transaction
    /// (`CheckpointTable::mark`); others do not. At a commit the origin is that of the commit record.
    pub streaming: Streaming,
}

/// The options of START_REPLICATION for a server.
///
/// # Errors
/// [`Error::Version`] for a server that is too old.
pub fn choose(server_version_num: u32, publications: &[String], wanted: Wanted<'_>) -> Result<Chosen, Error> {
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
    let filtered = *wanted.skip_origins == SkipOrigins::Any && server_version_num >= ORIGIN_FILTER;
    let is_sure = filtered || wanted.skip_origins.are_irongates(wanted.foreign_origins);
    let streaming = if is_sure { wanted.streaming } else { Streaming::Off };
    match streaming {
        Streaming::Off => {}
        Streaming::On => options.push(("streaming", "on".to_owned())),
        Streaming::Parallel if server_version_num >= ORIGIN_FILTER => {
            options.push(("streaming", "parallel".to_owned()));
        }
        Streaming::Parallel => {
            return Err(Error::Version { needed: ORIGIN_FILTER / 10_000, found: server_version_num });
        }
    }
    if filtered {
        options.push(("origin", "none".to_owned()));
    }
    Ok(Chosen { options, streaming })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(version: u32, skip_origins: &SkipOrigins, foreign_origins: bool) -> Chosen {
        let wanted = Wanted { streaming: Streaming::On, binary: false, skip_origins, foreign_origins };
        choose(version, &["csp".to_owned(), "a\"b".to_owned()], wanted).unwrap()
    }

    fn value(version: u32, option: &str) -> Option<String> {
        let options = chosen(version, &SkipOrigins::Any, false).options;
        options.into_iter().find(|(name, _)| *name == option).map(|(_, value)| value)
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
    fn nothing_comes_early_whose_origin_only_its_commit_tells_for_sure() {
        let named =
            |names: &[&str]| SkipOrigins::Named(names.iter().map(|name| (*name).to_owned()).collect());
        for (version, skip, foreign, streaming) in [
            (150_018, SkipOrigins::Any, true, Streaming::Off),
            (150_018, SkipOrigins::Any, false, Streaming::On),
            (150_018, named(&["irongate_csp", "theirs"]), false, Streaming::Off),
            (150_018, named(&["irongate_csp"]), true, Streaming::On),
            (150_018, named(&[]), true, Streaming::On),
            (160_014, SkipOrigins::Any, true, Streaming::On),
            (180_004, named(&["theirs"]), false, Streaming::Off),
            (180_004, named(&["irongate_csp"]), true, Streaming::On),
        ] {
            let chosen = chosen(version, &skip, foreign);
            assert_eq!(chosen.streaming, streaming, "{version} {skip:?}");
            let asked = chosen.options.iter().any(|(name, _)| *name == "streaming");
            assert_eq!(asked, streaming == Streaming::On, "{version} {skip:?}");
        }
    }

    #[test]
    fn a_server_that_is_too_old_is_refused() {
        let skip_origins = &SkipOrigins::Any;
        let wanted = Wanted { streaming: Streaming::On, binary: false, skip_origins, foreign_origins: false };
        assert!(matches!(choose(140_022, &[], wanted), Err(Error::Version { needed: 15, .. })));
    }
}
