//! What runs need of the machine of this site besides databases: hooks that can be executed, keys for the DNS that nobody
//! else can read.

use super::{Finding, Findings, Severity};
use crate::configuration::{Configuration, Zone};

/// Looks at the files of the site where this process stands: those of others need not be here.
pub(super) fn here(configuration: &Configuration, findings: &mut Findings) {
    let Some(site) = &configuration.site else { return };
    for (hook, options) in configuration.hooks.get(site).into_iter().flatten() {
        if let Some(problem) = options.problem() {
            let path = options.path.display();
            findings.0.push(Finding::new(
                Severity::Error,
                format!("hook \"{hook}\" of site \"{site}\""),
                format!("{path} cannot be run, and no run that needs it begins: {problem}"),
                Some(format!("put it there and chmod +x {path}, or take [hooks.{site}.{hook}] away")),
            ));
        }
    }
    for (name, zone) in &configuration.names {
        let path = zone.key_file.display();
        let problem = match std::fs::metadata(&zone.key_file) {
            Ok(facts) => Zone::key_file_problem(&facts),
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem {
            findings.0.push(Finding::new(
                Severity::Error,
                format!("key file \"{path}\""),
                format!("the names of [names.{name}] cannot be changed from here: {problem}"),
                Some(format!("put the name server's key there and chmod 600 {path}")),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn hooks_and_keys_of_this_site_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "{}\n[hooks.main.notify]\npath = \"notify\"\n[hooks.secondary.notify]\npath = \"elsewhere\"\n[names.shop]\nzone = \"shop.example\"\n\
             server = \"192.0.2.53\"\nkey_file = \"names.key\"\n[[names.shop.records]]\nname = \"db\"\ntype = \"A\"\n\
             values = {{ main = \"192.0.2.1\", secondary = \"192.0.2.2\" }}\n",
            Configuration::reference()
        );
        let mut configuration = Configuration::parse(&text, &dir.path().join("irongate.toml")).unwrap();
        let found = |configuration: &Configuration| {
            let mut findings = Findings::default();
            here(configuration, &mut findings);
            findings.0.iter().map(|finding| format!("{finding} {:?}", finding.fix)).collect::<Vec<_>>()
        };
        configuration.site = None;
        assert_eq!(found(&configuration), [""; 0], "it is not known which files are meant");
        configuration.site = Some("main".into());
        let missing = found(&configuration);
        assert!(
            missing[0].contains("hook \"notify\" of site \"main\"") && missing[0].contains("No such file")
        );
        assert!(missing[1].contains("names.key") && missing[1].contains("No such file"), "{missing:?}");
        for (file, modes) in [("notify", [0o644, 0o755]), ("names.key", [0o640 | 0o004, 0o600])] {
            let path = dir.path().join(file);
            std::fs::write(&path, "#!/bin/sh\n").unwrap();
            for (mode, finds) in modes.into_iter().zip([1, 0]) {
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
                let about = found(&configuration).into_iter().filter(|text| text.contains(file)).count();
                assert_eq!(about, finds, "{file} {mode:o}");
            }
        }
    }
}
