//! What a reload changes, and what of it has to wait.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::ManagerSettings;

/// What is different in new settings.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Difference {
    /// What holds from now on, one sentence each.
    pub changed: Vec<String>,
    /// What holds only after something is started again, one sentence each that names it.
    pub needs_restart: Vec<String>,
}

impl Difference {
    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.needs_restart.is_empty()
    }
}

impl ManagerSettings {
    /// Takes over what may change while a manager runs. `running` are the groups that have a process.
    pub(crate) fn take_over(&mut self, new: Self, running: &BTreeSet<String>) -> Difference {
        let mut difference = Difference::default();
        let groups = |difference: &mut Difference| {
            for group in &self.groups {
                if !new.groups.iter().any(|other| other.name == group.name) {
                    difference.changed.push(format!("group \"{}\" is no longer there and ends", group.name));
                }
            }
            for group in &new.groups {
                let name = &group.name;
                match self.groups.iter().find(|other| other.name == *name) {
                    None => difference.changed.push(format!("group \"{name}\" is new")),
                    Some(before) => {
                        if before.autostart != group.autostart {
                            let word =
                                if group.autostart { "starts by itself" } else { "waits to be started" };
                            difference.changed.push(format!("group \"{name}\" now {word}"));
                        }
                        let how =
                            |group: &super::GroupSpec| (group.executable.clone(), group.arguments.clone());
                        if how(before) != how(group) && running.contains(name) {
                            difference.needs_restart.push(format!(
                                "group \"{name}\" is started otherwise: \"irongate restart {name}\""
                            ));
                        }
                    }
                }
            }
        };
        groups(&mut difference);
        let live = [
            ("the watched flows", self.flows != new.flows),
            ("the restart policy", self.restart != new.restart),
            ("the limit for a stop", self.stop_limit != new.stop_limit),
            ("the watch interval", self.watch_interval != new.watch_interval),
            ("the thresholds of alarms", self.thresholds != new.thresholds),
            ("the hook", self.hook != new.hook),
        ];
        difference
            .changed
            .extend(live.iter().filter(|(_, is)| *is).map(|(what, _)| format!("{what} changed")));
        let fixed = [
            ("the site", self.site != new.site),
            ("the state directory", self.state_directory != new.state_directory),
            ("the control socket", self.socket() != new.socket()),
            ("the HTTP address", self.http != new.http),
            ("the limits of files", self.files != new.files),
        ];
        difference.needs_restart.extend(
            fixed
                .iter()
                .filter(|(_, is)| *is)
                .map(|(what, _)| format!("{what} changed: restart the manager")),
        );
        *self = Self {
            groups: new.groups,
            flows: new.flows,
            restart: new.restart,
            stop_limit: new.stop_limit,
            watch_interval: new.watch_interval,
            thresholds: new.thresholds,
            hook: new.hook,
            reload: new.reload.or(self.reload.take()),
            site: self.site.clone(),
            state_directory: self.state_directory.clone(),
            http: self.http,
            socket: self.socket.clone(),
            files: self.files,
        };
        difference
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use irongate_checkpoint::Program;

    use super::*;
    use crate::settings::GroupSpec;

    fn group(name: &str) -> GroupSpec {
        GroupSpec {
            name: name.into(),
            flow: "f".into(),
            program: Program::Extract,
            autostart: true,
            executable: PathBuf::from("/bin/true"),
            arguments: Vec::new(),
        }
    }

    #[test]
    fn a_reload_says_what_changed_and_what_has_to_wait() {
        let mut settings = ManagerSettings::new("main", "/state");
        settings.groups = vec![group("a"), group("b"), group("c")];
        let same = settings.clone();
        assert!(settings.take_over(same, &BTreeSet::new()).is_empty());
        let mut new = settings.clone();
        new.groups = vec![group("b"), group("c"), group("d")];
        new.groups[0].autostart = false;
        new.groups[1].arguments.push("--more".into());
        new.stop_limit = Duration::from_secs(5);
        new.state_directory = "/elsewhere".into();
        let running = BTreeSet::from(["c".to_owned()]);
        let difference = settings.take_over(new, &running);
        let has = |list: &[String], word: &str| list.iter().any(|text| text.contains(word));
        for word in ["\"a\" is no longer", "\"d\" is new", "\"b\" now waits", "limit for a stop"] {
            assert!(has(&difference.changed, word), "{word}: {difference:?}");
        }
        assert!(has(&difference.needs_restart, "irongate restart c"), "{difference:?}");
        assert!(has(&difference.needs_restart, "state directory"), "{difference:?}");
        assert_eq!(settings.state_directory, PathBuf::from("/state"));
        assert_eq!(settings.groups.len(), 3);
    }
}
