//! The link between the sites: the certificates that this site needs, and how long they hold.

use std::path::Path;
use std::time::Duration;

use irongate_pump::certs;
use irongate_trail::Timestamp;

use super::{Finding, Findings, Severity};
use crate::configuration::{Configuration, Flow, Limits};

const NEW: &str =
    "make new certificates (irongate certs, in another directory) and put them in place at both sites";

/// Looks at the files of the site where this process stands: those of others need not be here.
pub(super) fn certificates(configuration: &Configuration, flows: &[&Flow], findings: &mut Findings) {
    let (Some(link), Some(site)) = (&configuration.link, &configuration.site) else { return };
    let carries = flows.iter().any(|flow| flow.pump.is_some());
    let is_reached = configuration.site_options.values().any(|options| options.control_listen.is_some());
    if !carries && !is_reached {
        return;
    }
    for name in [site.as_str(), "ca"] {
        let file = link.certificates.join(format!("{name}.crt"));
        let limits = configuration.manager.alarms.certificate;
        if let Some(finding) = look(&file, limits, Timestamp::now()) {
            findings.0.push(finding);
        }
    }
}

fn look(file: &Path, limits: Limits<Duration>, now: Timestamp) -> Option<Finding> {
    let object = format!("certificate \"{}\"", file.display());
    let found =
        |severity, reason: String, fix: String| Some(Finding::new(severity, object, reason, Some(fix)));
    let until = match certs::expiry(file) {
        Ok(until) => until,
        Err(error) => {
            let fix = error.hint().unwrap_or_else(|| NEW.to_owned());
            return found(Severity::Error, error.to_string(), fix);
        }
    };
    let left = until.0.saturating_sub(now.0);
    let is_below = |limit: Option<Duration>| {
        limit.is_some_and(|limit| i128::from(left) < i128::try_from(limit.as_micros()).unwrap_or(i128::MAX))
    };
    let days = left / 86_400_000_000;
    if left <= 0 {
        found(Severity::Error, format!("it expired at {until}: no link can stand"), NEW.to_owned())
    } else if is_below(limits.critical) {
        found(Severity::Error, format!("it expires in {days} days, at {until}"), NEW.to_owned())
    } else if is_below(limits.warning) {
        found(Severity::Warning, format!("it expires in {days} days, at {until}"), NEW.to_owned())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::ManagerOptions;

    #[test]
    fn a_certificate_is_told_before_its_end_and_where_it_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let made = certs::make(&dir.path().join("certs"), "shop", &["main"]).unwrap();
        let (file, limits) = (&made.sites[0].certificate, ManagerOptions::default().alarms.certificate);
        let until = certs::expiry(file).unwrap();
        let before = |days: i64| {
            let now = Timestamp(until.0 - days * 86_400_000_000);
            look(file, limits, now).map(|finding| finding.severity)
        };
        assert_eq!(before(31), None);
        assert_eq!(before(29), Some(Severity::Warning));
        assert_eq!(before(6), Some(Severity::Error));
        assert_eq!(before(-1), Some(Severity::Error));
        let missing = look(&dir.path().join("none.crt"), limits, until).unwrap();
        assert!(missing.severity == Severity::Error && missing.fix.unwrap().contains("irongate certs"));
    }
}
