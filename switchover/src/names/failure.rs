//! What can go wrong with names.

use std::path::PathBuf;
use std::time::Duration;

use super::exchange::Fault;

/// Why names do not lead where they should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// No name is configured, or none for these databases.
    #[error("no name is configured{}", databases.as_ref().map(|of| format!(" for {of}")).unwrap_or_default())]
    Nothing {
        /// The databases that were named.
        databases: Option<String>,
    },
    /// A name leads to databases that do not all change hands.
    #[error("{record} leads to {others} too, which would not be there")]
    Shared {
        /// The record.
        record: String,
        /// The databases that stay.
        others: String,
    },
    /// A key cannot be used.
    #[error("cannot use key file \"{}\": {reason}", file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// Why. Never what stands in the file.
        reason: String,
    },
    /// A name server does not give what is needed. Nothing was changed.
    #[error("name server \"{server}\" of zone \"{zone}\": {fault}")]
    Server {
        /// The server.
        server: String,
        /// The zone.
        zone: String,
        /// What is wrong with it.
        fault: Fault,
    },
    /// Records say what no site stands for. Nothing was changed.
    #[error("nothing was changed in zone \"{zone}\": {}", records.join("; "))]
    Foreign {
        /// The zone.
        zone: String,
        /// A sentence for each.
        records: Vec<String>,
    },
    /// Somebody else has changed records in the same moment. Nothing was changed.
    #[error("somebody else is changing zone \"{zone}\", and nothing was changed: {}", records.join("; "))]
    Changed {
        /// The zone.
        zone: String,
        /// What each says now.
        records: Vec<String>,
    },
    /// The name server does not take the update. Nothing was changed.
    #[error("name server \"{server}\" does not take the update of zone \"{zone}\": {reason}")]
    Refused {
        /// The server.
        server: String,
        /// The zone.
        zone: String,
        /// Its answer.
        reason: String,
    },
    /// An update was sent, and there is no answer that can be believed.
    #[error("it is not known whether zone \"{zone}\" was changed: name server \"{server}\": {fault}")]
    Unknown {
        /// The server.
        server: String,
        /// The zone.
        zone: String,
        /// What came instead of an answer.
        fault: Fault,
    },
    /// The zone is changed, and not every name server says so.
    #[error("zone \"{zone}\" was changed, and after {} s not every name server says so: {}", waited.as_secs(), servers.join("; "))]
    Behind {
        /// The zone.
        zone: String,
        /// How long they were waited for.
        waited: Duration,
        /// A sentence for each.
        servers: Vec<String>,
    },
    /// One zone was changed and another not: an operation is one for each zone.
    #[error("zone {} is changed, and then: {source}", zones.join(", "))]
    Partly {
        /// The zones that are changed.
        zones: Vec<String>,
        /// What went wrong with the next one.
        source: Box<Failure>,
    },
}

impl Failure {
    /// Whether trying again can help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Server { fault, .. } | Self::Unknown { fault, .. } => fault.is_transient(),
            Self::Changed { .. } | Self::Behind { .. } => true,
            Self::Partly { source, .. } => source.is_transient(),
            _ => false,
        }
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Nothing { .. } => "write [names.NAME] with its zone and records".to_owned(),
            Self::Shared { .. } => {
                "move all of them in one run, or say with databases = [\"…\"] which ones the record leads to".to_owned()
            }
            Self::Key { .. } => {
                "tsig-keygen NAME > FILE; chmod 600 FILE; and give the name server the same key".to_owned()
            }
            Self::Server { fault, .. } => fault.hint()?.to_owned(),
            Self::Foreign { .. } => {
                "find out who changed it; then set it to the value of the site that writes now, or mend values in the configuration"
                    .to_owned()
            }
            Self::Changed { .. } => "find out who it is; then run it again".to_owned(),
            Self::Refused { .. } => {
                "allow the key to update these names (update-policy or allow-update in BIND)".to_owned()
            }
            Self::Unknown { .. } => "look with irongate name show; running it again is safe".to_owned(),
            Self::Behind { .. } => {
                "see to the name servers that are named; running it again only asks them again".to_owned()
            }
            Self::Partly { source, .. } => return source.hint(),
        })
    }
}
