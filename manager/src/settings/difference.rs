//! What a reload changes, and what of it has to wait.

use std::collections::{BTreeMap, BTreeSet};

use irongate_deployment::configuration::Concerns;
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
    pub(crate) fn take_over(
        &mut self,
        new: Self,
        running: &BTreeSet<String>,
        in_force: &InForce,
    ) -> Difference {
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
            ("the hooks of runs", self.hooks != new.hooks),
            ("the certificates", self.certificates != new.certificates),
        ];
        let fixed = [
            ("the site", self.site != new.site),
            ("the state directory", self.state_directory != new.state_directory),
            ("the control socket", self.socket() != new.socket()),
            ("the HTTP address", self.http != new.http),
            ("what other sites reach and may do", self.remote != new.remote),
            ("the limits of files", self.files != new.files),
        ];
        // Where there is a file, its keys say it all, and better.
        if self.keys.is_empty() && new.keys.is_empty() {
            let changed = live.iter().filter(|(_, is)| *is).map(|(what, _)| format!("{what} changed"));
            difference.changed.extend(changed);
            let waiting = fixed.iter().filter(|(_, is)| *is);
            let waiting = waiting.map(|(what, _)| format!("{what} changed: restart the manager"));
            difference.needs_restart.extend(waiting);
        } else {
            compare_keys(&self.keys, &new.keys, running, in_force, &mut difference);
        }
        *self = Self {
            groups: new.groups,
            flows: new.flows,
            restart: new.restart,
            stop_limit: new.stop_limit,
            watch_interval: new.watch_interval,
            thresholds: new.thresholds,
            hook: new.hook,
            hooks: new.hooks,
            certificates: new.certificates,
            keys: new.keys,
            reload: new.reload.or(self.reload.take()),
            site: self.site.clone(),
            state_directory: self.state_directory.clone(),
            http: self.http,
            socket: self.socket.clone(),
            remote: self.remote.clone(),
            files: self.files,
        };
        difference
    }
}

/// What the file said, key by key.
pub(crate) type Keys = BTreeMap<String, Concerns>;

/// What the file said when a group's process began, by group; and when the manager did, under [`MANAGER`].
pub(crate) type InForce = BTreeMap<String, Keys>;

/// The manager itself, in [`InForce`]: no group has this name.
pub(crate) const MANAGER: &str = "";

/// Tells key by key what is said otherwise, and who has to be started again before it holds. Who runs by an older word
/// than the file's is told of at each reload until it was started again, or the file says that word again.
fn compare_keys(
    before: &Keys,
    now: &Keys,
    running: &BTreeSet<String>,
    in_force: &InForce,
    difference: &mut Difference,
) {
    let says = |side: Option<&Concerns>| side.map(|concerns| (concerns.value.clone(), concerns.digest));
    let names: BTreeSet<_> =
        before.keys().chain(now.keys()).chain(in_force.values().flat_map(Keys::keys)).collect();
    for name in names {
        let new = now.get(name);
        let is_news = says(before.get(name)) != says(new);
        // By whose word it runs: its own, or where that is not known, the one before.
        let own = |who: &str| in_force.get(who).map_or(before, |keys| keys).get(name);
        let is_behind = |who: &str| says(own(who)) != says(new);
        let known = new.or(before.get(name)).or_else(|| in_force.values().find_map(|keys| keys.get(name)));
        let Some(concerns) = known else { continue };
        let groups: Vec<_> = concerns
            .groups
            .iter()
            .filter(|group| running.contains(*group) && is_behind(group))
            .map(String::as_str)
            .collect();
        let manager = concerns.manager && is_behind(MANAGER);
        if !is_news && groups.is_empty() && !manager {
            continue;
        }
        let first = groups.first().copied().or(manager.then_some(MANAGER));
        let old = first.map_or(before.get(name), own);
        if is_heading(name, old, now) || new.is_some_and(|_| is_heading(name, new, before)) {
            continue;
        }
        let say = |side: Option<&Concerns>| match side {
            None => "not set".to_owned(),
            Some(concerns) if concerns.value.is_empty() => "set".to_owned(),
            Some(concerns) => concerns.value.clone(),
        };
        let what = match (old, new) {
            (Some(_), Some(new)) if new.value.is_empty() => format!("{name}: changed"),
            _ => format!("{name}: {} is now {}", say(old), say(new)),
        };
        let mut remedies = Vec::new();
        if concerns.setup {
            remedies.push("\"irongate setup\"".to_owned());
        }
        if manager {
            remedies.push("restart the manager".to_owned());
        }
        if !groups.is_empty() {
            remedies.push(format!("\"irongate restart {}\"", groups.join(" ")));
        }
        if remedies.is_empty() {
            difference.changed.push(what);
        } else {
            difference.needs_restart.push(format!("{what}: {}", remedies.join(", then ")));
        }
    }
}

/// Whether a section that had nothing in it has something on the other side: its keys say what is different.
fn is_heading(name: &str, side: Option<&Concerns>, other: &Keys) -> bool {
    let inside = format!("{name}.");
    side.is_some_and(|concerns| concerns.value.is_empty())
        && !other.contains_key(name)
        && other.keys().any(|key| key.starts_with(&inside))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use irongate_checkpoint::Program;
    use irongate_deployment::Configuration;

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
            turn: None,
        }
    }

    #[test]
    fn a_reload_says_what_changed_and_what_has_to_wait() {
        let mut settings = ManagerSettings::new("main", "/state");
        settings.groups = vec![group("a"), group("b"), group("c")];
        let same = settings.clone();
        assert!(settings.take_over(same, &BTreeSet::new(), &InForce::new()).is_empty());
        let mut new = settings.clone();
        new.groups = vec![group("b"), group("c"), group("d")];
        new.groups[0].autostart = false;
        new.groups[1].arguments.push("--more".into());
        new.stop_limit = Duration::from_secs(5);
        new.state_directory = "/elsewhere".into();
        let running = BTreeSet::from(["c".to_owned()]);
        let difference = settings.take_over(new, &running, &InForce::new());
        let has = |list: &[String], word: &str| list.iter().any(|text| text.contains(word));
        for word in ["\"a\" is no longer", "\"d\" is new", "\"b\" now waits", "limit for a stop"] {
            assert!(has(&difference.changed, word), "{word}: {difference:?}");
        }
        assert!(has(&difference.needs_restart, "irongate restart c"), "{difference:?}");
        assert!(has(&difference.needs_restart, "state directory"), "{difference:?}");
        assert_eq!(settings.state_directory, PathBuf::from("/state"));
        assert_eq!(settings.groups.len(), 3);
    }

    #[test]
    fn each_key_of_a_file_is_told_with_who_has_to_be_started_again() {
        let file = Path::new("/etc/irongate.toml");
        let at_main = |text: &str| {
            let configuration = Configuration::parse(text, file).unwrap();
            ManagerSettings::from_configuration(&configuration, "main", Path::new("/bin/irongate")).unwrap()
        };
        let reference = Configuration::reference();
        let running = BTreeSet::from(["csp-extract".to_owned(), "csp-pump".to_owned()]);
        let said = |text: &str| {
            let difference = at_main(reference).take_over(at_main(text), &running, &InForce::new());
            (difference.changed.join("; "), difference.needs_restart.join("; "))
        };
        let after = |more: &str| said(&format!("{reference}\n{more}"));
        assert_eq!(said(reference), (String::new(), String::new()));
        let (changed, waiting) =
            after("[manager.restart]\nattempts = 3\n[manager.alarms]\nlag_warning = \"5s\"");
        assert_eq!(waiting, "");
        assert_eq!(
            changed,
            "manager.alarms.lag_warning: not set is now \"5s\"; manager.restart.attempts: not set is now 3"
        );
        assert_eq!(
            after("[flows.csp.extract]\nretry_delay = \"2s\"").1,
            "flows.csp.extract.retry_delay: not set is now \"2s\": \"irongate restart csp-extract\""
        );
        // What does not run begins with it.
        let (changed, waiting) = after("[flows.css.replicat]\nretry_delay = \"2s\"");
        assert_eq!(
            (changed.as_str(), waiting.as_str()),
            ("flows.css.replicat.retry_delay: not set is now \"2s\"", "")
        );
        let (_, waiting) = said(&reference.replacen("\"127.0.0.1:7480\"", "\"127.0.0.1:7481\"", 1));
        assert_eq!(
            waiting,
            "sites.main.http: \"127.0.0.1:7480\" is now \"127.0.0.1:7481\": restart the manager"
        );
        // An address of a database is no word for a log.
        let (_, waiting) =
            said(&reference.replace("db.main.example:5432/config", "db.main.example:5433/config"));
        assert!(
            waiting.contains("databases.config.main.uri: changed: \"irongate restart csp-extract\""),
            "{waiting}"
        );
        assert!(!waiting.contains("5433"), "{waiting}");
        let (_, waiting) = said(&reference.replacen("tables = [\"public.*\"]", "tables = [\"public.a\"]", 1));
        assert!(waiting.contains("\"irongate setup\", then \"irongate restart csp-extract\""), "{waiting}");
    }
    #[test]
    fn what_waits_for_a_restart_is_told_until_it_came() {
        let file = Path::new("/etc/irongate.toml");
        let at_main = |more: &str| {
            let text = format!("{}\n{more}", Configuration::reference());
            let configuration = Configuration::parse(&text, file).unwrap();
            ManagerSettings::from_configuration(&configuration, "main", Path::new("/bin/irongate")).unwrap()
        };
        let running = BTreeSet::from(["csp-extract".to_owned(), "csp-pump".to_owned()]);
        let mut settings = at_main("");
        let start = settings.keys.clone();
        let mut in_force: InForce =
            ["csp-extract", "csp-pump", MANAGER].map(|who| (who.to_owned(), start.clone())).into();
        let slow = "[flows.csp.extract]\nretry_delay = \"2s\"";
        let expected =
            "flows.csp.extract.retry_delay: not set is now \"2s\": \"irongate restart csp-extract\"";
        for _ in 0..2 {
            let difference = settings.take_over(at_main(slow), &running, &in_force);
            assert_eq!(difference.needs_restart, [expected]);
            assert_eq!(difference.changed, [""; 0]);
        }
        // The word before is in force, and the file says it again.
        assert_eq!(settings.take_over(at_main(""), &running, &in_force).needs_restart, [""; 0]);
        assert!(settings.take_over(at_main(""), &running, &in_force).is_empty());
        settings.take_over(at_main(slow), &running, &in_force);
        in_force.insert("csp-extract".to_owned(), settings.keys.clone());
        assert!(settings.take_over(at_main(slow), &running, &in_force).is_empty(), "it was started again");
    }

    #[test]
    fn a_section_that_gets_its_first_key_is_told_as_that_key() {
        let keys = |text: &str| {
            let concern = |value: &str| Concerns {
                value: value.to_owned(),
                groups: vec!["csp-pump".to_owned()],
                ..Concerns::default()
            };
            text.split_whitespace()
                .map(|pair| pair.split_once('=').unwrap())
                .map(|(key, value)| (key.to_owned(), concern(value)))
                .collect::<Keys>()
        };
        let running = BTreeSet::from(["csp-pump".to_owned()]);
        let said = |before: &str, now: &str| {
            let mut difference = Difference::default();
            compare_keys(&keys(before), &keys(now), &running, &InForce::new(), &mut difference);
            difference.needs_restart
        };
        let (empty, full) = ("flows.csp.pump=", "flows.csp.pump.compression=9");
        let restart = "\"irongate restart csp-pump\"";
        let key = "flows.csp.pump.compression";
        assert_eq!(said(empty, full), [format!("{key}: not set is now 9: {restart}")]);
        assert_eq!(said(full, empty), [format!("{key}: 9 is now not set: {restart}")]);
        assert_eq!(said(empty, ""), [format!("flows.csp.pump: set is now not set: {restart}")]);
    }
}
