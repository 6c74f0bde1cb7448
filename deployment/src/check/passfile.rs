//! Passfiles that cannot be used: nobody notices one before a server asks for a password.

use std::collections::BTreeSet;

use super::{Finding, Findings, Severity};
use crate::configuration::{Configuration, Flow};

/// Looks at the passfiles of the flows' databases, as far as they are there: those of the other site need not be here.
pub(super) fn of_flows(configuration: &Configuration, flows: &[&Flow], findings: &mut Findings) {
    let mut seen = BTreeSet::new();
    for flow in flows {
        for address in [configuration.source(flow), configuration.target(flow)].into_iter().flatten() {
            let logins = [Some(&address.extract), Some(&address.replicat), address.admin.as_ref()];
            for endpoint in logins.into_iter().flatten().map(|login| &login.endpoint) {
                let Some(path) = endpoint.passfile().filter(|path| path.exists()) else { continue };
                if !seen.insert(path.to_owned()) {
                    continue;
                }
                if let Err(error) = endpoint.passfile_password() {
                    findings.0.push(Finding::new(
                        Severity::Error,
                        format!("passfile \"{}\"", path.display()),
                        format!("no process logs in with it: {error}"),
                        Some(format!("chmod 600 {}, as the user of Irongate", path.display())),
                    ));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_passfile_that_others_can_read_is_found_once() {
        let dir = tempfile::tempdir().unwrap();
        let passfile = dir.path().join("passfile");
        fs::write(&passfile, "*:*:*:*:secret\n").unwrap();
        let text = Configuration::reference().replace("/etc/irongate/passfile", "passfile");
        let configuration = Configuration::parse(&text, &dir.path().join("irongate.toml")).unwrap();
        let flows: Vec<&Flow> = configuration.flows.values().collect();
        let found = |mode| {
            fs::set_permissions(&passfile, fs::Permissions::from_mode(mode)).unwrap();
            let mut findings = Findings::default();
            of_flows(&configuration, &flows, &mut findings);
            findings.0
        };
        let open = found(0o644);
        assert_eq!(open.len(), 1, "{open:?}");
        assert!(open[0].severity == Severity::Error && open[0].reason.contains("0644"), "{open:?}");
        assert!(!open[0].reason.contains("secret"));
        assert_eq!(found(0o600), []);
        fs::remove_file(&passfile).unwrap();
        let mut findings = Findings::default();
        of_flows(&configuration, &flows, &mut findings);
        assert_eq!(findings.0, []);
    }
}
