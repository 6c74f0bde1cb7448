//! How a flow's initial load is made.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::problem::Problems;
use super::units::{Bytes, Time};

/// The smallest chunk that can be asked for, in bytes.
const LEAST_CHUNK: u64 = 64 << 10;

/// `[flows.NAME.instantiate]` as it is written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct LoadSection {
    parallel: Option<Spanned<u32>>,
    rate_limit: Option<Bytes>,
    chunk_size: Option<Spanned<Bytes>>,
    keeper_limit: Option<Time>,
}

/// Settings of a flow's initial load.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadOptions {
    /// In how many sessions tables are copied side by side; otherwise by the number of processors.
    pub parallel: Option<u32>,
    /// Bytes a second of all sessions together; otherwise without limit.
    pub rate_limit: Option<u64>,
    /// Bytes at the source of what is copied in one transaction.
    pub chunk_size: u64,
    /// How long the snapshot is kept while no command is at work.
    pub keeper_limit: Duration,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            parallel: None,
            rate_limit: None,
            chunk_size: 32 << 20,
            keeper_limit: Duration::from_secs(10 * 60),
        }
    }
}

impl LoadSection {
    pub(super) fn review(self, problems: &mut Problems<'_>) -> LoadOptions {
        let default = LoadOptions::default();
        if let Some(parallel) = self.parallel.as_ref().filter(|parallel| *parallel.get_ref() == 0) {
            let remedy = "use 1 or more, or leave it away";
            problems.add(parallel.span(), "a load without a session", Some(remedy.into()));
        }
        if let Some(chunk) = self.chunk_size.as_ref().filter(|chunk| chunk.get_ref().0 < LEAST_CHUNK) {
            let remedy = "use \"64KiB\" or more; each chunk is a transaction at the target";
            problems.add(chunk.span(), "chunks that small", Some(remedy.into()));
        }
        LoadOptions {
            parallel: self.parallel.map(Spanned::into_inner),
            rate_limit: self.rate_limit.map(|bytes| bytes.0),
            chunk_size: self.chunk_size.map_or(default.chunk_size, |bytes| bytes.into_inner().0),
            keeper_limit: self.keeper_limit.map_or(default.keeper_limit, |time| time.0),
        }
    }
}
