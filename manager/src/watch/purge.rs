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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use irongate_trail::{
        Begin, Commit, CommitLsn, Lineage, Lsn, ResumeLsn, Writer, WriterOptions, register_reader,
    };

    use super::*;

    /// Four files, a transaction in each.
    fn trail(directory: &Path) -> Writer {
        let lineage = Lineage { system_identifier: 7, timeline: 1, slot_incarnation: Lsn(5) };
        let storage = Arc::new(Directory::create(directory).unwrap());
        let mut writer =
            Writer::create(storage, WriterOptions::new("f", lineage), ResumeLsn(Lsn(10))).unwrap();
        for number in 1..=4 {
            let commit_lsn = CommitLsn(Lsn(number * 1000));
            let (commit_time, xid) = (Timestamp::now(), number as u32);
            let previous = CommitLsn(Lsn((number - 1) * 1000));
            writer.begin(&Begin { xid, commit_lsn, commit_time, origin: None, previous }).unwrap();
            let end_lsn = ResumeLsn(Lsn(number * 1000 + 100));
            writer.commit(&Commit { commit_lsn, end_lsn, commit_time, changes: 0 }).unwrap();
            if number < 4 {
                writer.rotate().unwrap();
            }
            writer.sync().unwrap();
        }
        writer
    }

    #[test]
    fn what_every_reader_has_passed_goes_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let mut writer = trail(&path);
        let files = || {
            std::fs::read_dir(&path)
                .unwrap()
                .filter(|file| file.as_ref().unwrap().file_name().to_str().unwrap().ends_with(".trail"))
                .count()
        };
        let all = Purge { keep: Duration::ZERO, keep_files: 1 };
        assert_eq!((run("f", &path, all), files()), (None, 4), "nobody has read it");
        register_reader(&Directory::new(&path), "f-replicat", &writer.sync().unwrap()).unwrap();
        let young = Purge { keep: Duration::from_secs(3600), keep_files: 1 };
        assert_eq!((run("f", &path, young), files()), (None, 4), "they are too young");
        let some = run("f", &path, Purge { keep: Duration::ZERO, keep_files: 3 }).unwrap();
        assert_eq!((some.kind, files()), (Kind::Purged, 3));
        let rest = run("f", &path, all).unwrap();
        assert!(rest.text.contains("2 files of its trail"), "{}", rest.text);
        assert_eq!(files(), 1);
    }

    #[test]
    fn a_trail_that_cannot_be_purged_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "no directory").unwrap();
        let notice = run("f", &file, Purge { keep: Duration::ZERO, keep_files: 1 }).unwrap();
        assert_eq!((notice.kind, notice.severity), (Kind::Trouble, Severity::Warning));
        assert!(notice.text.contains("cannot be purged"), "{}", notice.text);
    }
}
