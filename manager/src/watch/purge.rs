//! Purge of a trail by policy: what every reader has passed goes, once it is old enough and enough newer files stay.

use std::path::Path;

use irongate_trail::{Directory, PurgePolicy, Purged, Timestamp, purge};

use crate::event::{Kind, Notice, Severity};
use crate::settings::Purge;

/// Purges a trail; a notice if something went, or why nothing could. Blocks for as long as the disk takes.
pub(super) fn run(flow: &str, trail: &Path, policy: Purge) -> Option<Notice> {
    let policy = PurgePolicy {
        min_age_seconds: policy.keep.as_secs(),
        min_files: policy.keep_files,
        clock: Timestamp::now,
    };
    match purge(&Directory::new(trail), &policy) {
        Ok(Purged { removed, .. }) if removed.is_empty() => None,
        Ok(Purged { removed, bytes, .. }) => {
            let text = format!("flow \"{flow}\": {} files of its trail ({bytes} bytes) went", removed.len());
            Some(Notice::new(Severity::Info, Kind::Purged, text))
        }
        Err(error) => {
            let text = format!("flow \"{flow}\": its trail cannot be purged: {error}");
            Some(Notice::new(Severity::Warning, Kind::Trouble, text))
        }
    }
}
