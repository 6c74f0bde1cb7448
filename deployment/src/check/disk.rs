//! The directory of a flow's trail, where it is of this site: whether it can be written, and whether there is room.

use std::path::{Path, PathBuf};

use super::{Finding, Findings, Severity};
use crate::configuration::{AlarmOptions, Configuration, Flow};

/// Looks at the directory of a trail that lies at the site where this process stands.
pub(super) fn trail(configuration: &Configuration, flow: &Flow, findings: &mut Findings) {
    if configuration.site.as_ref().is_some_and(|site| *site != flow.at) {
        return;
    }
    let directory = configuration.trail(flow);
    if let Some(finding) = look(&directory, &configuration.manager.alarms)
        && !findings.0.contains(&finding)
    {
        findings.0.push(finding);
    }
}

fn look(directory: &Path, alarms: &AlarmOptions) -> Option<Finding> {
    // Before the first trail there is a disk, and no directory yet.
    let mut place: PathBuf = directory.to_owned();
    while !place.as_os_str().is_empty() && std::fs::symlink_metadata(&place).is_err() && place.pop() {}
    if place.as_os_str().is_empty() {
        place.push(".");
    }
    let object = format!("directory of trail \"{}\"", directory.display());
    let found = |reason: String, fix: &str| {
        Some(Finding::new(Severity::Error, object.clone(), reason, Some(fix.to_owned())))
    };
    let see = "see to the directory and its rights, or set another \"trail_directory\"";
    if !place.is_dir() {
        return found(format!("\"{}\" is no directory: no trail can be written", place.display()), see);
    }
    use rustix::fs::{Access, access};
    if let Err(error) = access(&place, Access::WRITE_OK | Access::EXEC_OK) {
        return found(format!("\"{}\" cannot be written: {error}", place.display()), see);
    }
    match rustix::fs::statvfs(&place) {
        Ok(disk) => room(object, disk.f_bavail.saturating_mul(disk.f_frsize), alarms),
        Err(error) => found(format!("it cannot be asked for its room: {error}"), see),
    }
}

fn room(object: String, free: u64, alarms: &AlarmOptions) -> Option<Finding> {
    let is_less = |limit: Option<u64>| limit.is_some_and(|limit| free < limit);
    let (severity, what) = if is_less(alarms.trail_free.critical) {
        (Severity::Error, "Extract would stop for that")
    } else if is_less(alarms.trail_free.warning) {
        (Severity::Warning, "which is little")
    } else {
        return None;
    };
    let reason = format!("{} MiB are free on its disk, {what}", free >> 20);
    Some(Finding::new(severity, object, reason, Some("make room, or irongate trail purge".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::{Limits, ManagerOptions};

    #[test]
    fn a_place_that_takes_no_trail_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let alarms = AlarmOptions {
            trail_free: Limits { warning: Some(2), critical: Some(1) },
            ..ManagerOptions::default().alarms
        };
        assert_eq!(look(&dir.path().join("state/trail/csp"), &alarms), None);
        std::fs::write(dir.path().join("state"), "").unwrap();
        let found = look(&dir.path().join("state/trail/csp"), &alarms).unwrap();
        assert!(found.severity == Severity::Error && found.reason.contains("is no directory"), "{found}");
        let severity = |free| room("x".into(), free, &alarms).map(|found| found.severity);
        assert_eq!(
            [severity(2), severity(1), severity(0)],
            [None, Some(Severity::Warning), Some(Severity::Error)]
        );
    }
}
