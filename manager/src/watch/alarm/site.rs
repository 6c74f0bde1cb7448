//! Alarms that are about the whole site.

use serde::{Deserialize, Serialize};

use super::{AlarmKind, Alarms, Change, Worse, grade};
use crate::event::Severity;
use crate::settings::Thresholds;
use crate::watch::CertificateView;

/// Something that is not as it should be, and that somebody other than the watch has seen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Concern {
    /// How grave it is.
    pub severity: Severity,
    /// What it is and what to do, in one sentence without changing numbers.
    pub text: String,
}

impl Alarms {
    /// Takes a look at the certificates. The worst one is told.
    pub(crate) fn observe_certificates(
        &mut self,
        certificates: &[CertificateView],
        thresholds: &Thresholds,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let Some(threshold) = thresholds.certificate_seconds.filter(|_| !certificates.is_empty()) else {
            self.set("", AlarmKind::Certificate, Some(0), 1, "", &mut changes);
            return changes;
        };
        let before = self.grade("", AlarmKind::Certificate);
        let graded = certificates.iter().map(|certificate| {
            let file = certificate.file.display();
            match (certificate.seconds_left, &certificate.trouble) {
                (Some(left), _) if left <= 0.0 => (2, left, format!("certificate \"{file}\" has expired")),
                (Some(left), _) => {
                    let text = format!("certificate \"{file}\" expires in {:.0} days", left / 86_400.0);
                    (grade(left, threshold, Worse::Less, before), left, text)
                }
                (None, trouble) => {
                    let trouble = trouble.as_deref().unwrap_or("it is not known why");
                    (1, f64::INFINITY, format!("a certificate cannot be looked at: {trouble}"))
                }
            }
        });
        let worst =
            graded.max_by(|(one, left, _), (other, less, _)| one.cmp(other).then(less.total_cmp(left)));
        if let Some((grade, _, mut text)) = worst {
            text.push_str("; make new ones with \"irongate certs\" and put them in place at both sites");
            self.set("", AlarmKind::Certificate, Some(grade), 1, &text, &mut changes);
        }
        changes
    }

    /// Takes what is said of the roles of the site's databases.
    pub(crate) fn observe_roles(&mut self, concerns: &[Concern]) -> Vec<Change> {
        let mut changes = Vec::new();
        let worst = concerns.iter().map(|concern| match concern.severity {
            Severity::Info => 0,
            Severity::Warning => 1,
            Severity::Error => 2,
        });
        let texts: Vec<&str> = concerns.iter().map(|concern| concern.text.as_str()).collect();
        self.set("", AlarmKind::Roles, Some(worst.max().unwrap_or(0)), 1, &texts.join("; "), &mut changes);
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Kind;

    #[test]
    fn other_words_are_news_and_silence_is_its_end() {
        let mut alarms = Alarms::default();
        let concern = |severity, text: &str| Concern { severity, text: text.to_owned() };
        let told = |changes: Vec<Change>| match changes.as_slice() {
            [] => None,
            [Change::Tell(notice)] => Some((notice.severity, notice.kind, notice.text.clone())),
            other => panic!("{other:?}"),
        };
        assert_eq!(told(alarms.observe_roles(&[])), None);
        let open = concern(Severity::Error, "it is open");
        let expected = Some((Severity::Error, Kind::Alarm, "it is open".to_owned()));
        assert_eq!(told(alarms.observe_roles(std::slice::from_ref(&open))), expected);
        assert_eq!(told(alarms.observe_roles(std::slice::from_ref(&open))), None);
        let both = [open, concern(Severity::Warning, "it was open")];
        let expected = Some((Severity::Error, Kind::Alarm, "it is open; it was open".to_owned()));
        assert_eq!(told(alarms.observe_roles(&both)), expected);
        assert_eq!(alarms.raised().len(), 1);
        let expected = Some((Severity::Info, Kind::Cleared, "no longer: it is open; it was open".to_owned()));
        assert_eq!(told(alarms.observe_roles(&[])), expected);
        assert_eq!(alarms.raised(), []);
    }
}
