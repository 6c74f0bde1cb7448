//! The keys of the file one by one: what each says, and whom a change of it concerns.
//!
//! A process reads the file when it starts. A manager also reads it when it is asked to; what it uses itself holds from then
//! on, and for everything else somebody has to be started again. Who that is follows from the key alone, so that a reload
//! can name it, and the page of settings (`docs/configuration.md`) can say it beforehand.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use irongate_checkpoint::Program;

use super::Configuration;
use crate::groups::group_name;

/// Whom a key concerns that was changed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Concern {
    /// A manager takes it over when it reads the file again; or it is read anew each time that it is used.
    Reload,
    /// The manager has to be started again.
    Manager,
    /// The Extract of the flow, or of the flows that it is about.
    Extract,
    /// The pump.
    Pump,
    /// The collector of the site to which the flow goes.
    Collector,
    /// The Replicat.
    Replicat,
    /// The feed of events.
    Feed,
    /// `irongate setup` has to be run again.
    Setup,
}

impl Concern {
    /// The word for it in the page of settings.
    pub fn word(self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Manager => "manager",
            Self::Extract => "extract",
            Self::Pump => "pump",
            Self::Collector => "collector",
            Self::Replicat => "replicat",
            Self::Feed => "feed",
            Self::Setup => "setup",
        }
    }
}

/// What a key says, and who has to be started again before a change of it holds.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Concerns {
    /// The value as it is written; a text stands in quotes. Empty for one that is not for logs, and for a section with
    /// nothing in it.
    pub value: String,
    /// By which two values are told apart that are not shown.
    pub digest: u64,
    /// The manager.
    pub manager: bool,
    /// Groups of the site, by name.
    pub groups: Vec<String>,
    /// Set-up has to be run again.
    pub setup: bool,
}

/// What a text says, key by key. A list, also one of sections, is one value.
pub(super) fn written(text: &str) -> BTreeMap<String, String> {
    fn add(prefix: &str, value: &toml::Value, found: &mut BTreeMap<String, String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                    add(&name, value, found);
                }
                // A section that is there with nothing in it says something too, such as that a flow has a pump.
                if table.is_empty() && !prefix.is_empty() {
                    found.insert(prefix.to_owned(), String::new());
                }
            }
            other => drop(found.insert(prefix.to_owned(), other.to_string())),
        }
    }
    let mut found = BTreeMap::new();
    if let Ok(table) = text.parse::<toml::Table>() {
        add("", &toml::Value::Table(table), &mut found);
    }
    found
}

/// Whom a key concerns.
pub(super) fn concern(key: &str) -> &'static [Concern] {
    use Concern::*;
    const EVERYBODY: &[Concern] = &[Manager, Extract, Pump, Collector, Replicat, Feed];
    let parts: Vec<&str> = key.split('.').collect();
    match parts[..] {
        ["site"] | ["deployment", "state_directory" | "trail_directory"] => EVERYBODY,
        ["deployment", ..] => &[Manager, Extract, Pump, Collector, Replicat, Feed, Setup],
        ["sites", _, "listen"] => &[Collector],
        ["sites", _, "address"] => &[Pump],
        ["sites", _, "control_listen" | "control_orders" | "http"] => &[Manager],
        ["databases", _, _, name] if name.starts_with("admin") => &[Reload],
        ["databases", _, _, "extract_role" | "replicat_role"] => &[Extract, Replicat, Setup],
        ["databases", ..] => &[Extract, Replicat],
        ["link", ..] => &[Manager, Pump, Collector],
        ["kafka", "replication" | "min_in_sync"] => &[Feed, Setup],
        ["kafka", "retention"] => &[Setup],
        ["kafka", "record_size"] => &[Pump],
        ["kafka", "topic_prefix"] => &[Pump, Collector, Setup],
        ["kafka", ..] => &[Pump, Collector, Feed],
        ["manager", "alarms", "trail_free_critical"] => &[Collector],
        ["flows", _, "autostart"] | ["flows", _, "trail" | "instantiate", ..] => &[Reload],
        ["flows", _, "extract", "file_size"] => &[Extract, Collector],
        ["flows", _, "extract", ..] => &[Extract],
        ["flows", _, "replicat", ..] => &[Replicat],
        ["flows", _, "conflicts", ..] => &[Replicat, Setup],
        ["flows", _, "ddl", ..] => &[Extract, Replicat, Setup],
        ["flows", _, "pump", "via"] => &[Manager, Pump, Collector, Setup],
        ["flows", _, "pump", "listen" | "address"] => &[Pump, Collector],
        ["flows", _, "pump", ..] => &[Pump],
        ["flows", _, "feed"] | ["flows", _, "feed", "at"] => &[Manager, Feed],
        ["flows", _, "feed", "messages"] => &[Extract, Feed],
        ["flows", _, "feed", ..] => &[Feed],
        ["flows", _, "key_columns", ..] => &[Replicat, Feed],
        ["flows", _, "map", ..] => &[Replicat],
        ["flows", _, "tables" | "exclude" | "partitions"] => &[Extract, Replicat, Setup],
        ["flows", _, "publication" | "slot" | "failover_slot"] => &[Extract, Setup],
        ["flows", _, "database" | "from" | "to" | "at"] => &[Extract, Pump, Collector, Replicat, Feed, Setup],
        ["flows", _, ..] => &[Replicat],
        _ => &[Reload],
    }
}

impl Configuration {
    /// Whom a change of a key concerns, whatever the deployment.
    pub fn concern_of(key: &str) -> &'static [Concern] {
        concern(key)
    }

    /// Every key that is written, with those who have to be started again at `site` before a change of it holds.
    pub fn concerns(&self, site: &str) -> BTreeMap<String, Concerns> {
        let one = |(key, value): (&String, &String)| {
            let mut concerns = self.concerns_of(key, value.clone(), site);
            // Where a database is may say more than people should see in a log, and what a hook is told too.
            if key.ends_with("uri") || key.starts_with("hooks.") && key.contains(".environment.") {
                let mut hasher = std::hash::DefaultHasher::new();
                value.hash(&mut hasher);
                concerns.digest = hasher.finish();
                concerns.value.clear();
            }
            (key.clone(), concerns)
        };
        self.written.iter().map(one).collect()
    }

    fn concerns_of(&self, key: &str, value: String, site: &str) -> Concerns {
        let concern = concern(key);
        let has = |wanted: Concern| concern.contains(&wanted);
        let parts: Vec<&str> = key.split('.').collect();
        let is_meant = |program: Program| match program {
            Program::Extract => has(Concern::Extract),
            Program::Pump => has(Concern::Pump),
            Program::Replicat => has(Concern::Replicat),
            Program::Feed => has(Concern::Feed),
            Program::Collector => has(Concern::Collector),
            _ => false,
        };
        let groups = self.groups(Some(site)).into_iter().filter(|group| {
            let Some(flow) = group.flow else {
                let is_here = match parts[..] {
                    ["sites", at, ..] => at == site,
                    ["flows", name, ..] => self.flows.get(name).is_some_and(|flow| flow.to == site),
                    _ => true,
                };
                return is_meant(Program::Collector) && is_here;
            };
            let is_about = match parts[..] {
                ["flows", name, ..] => flow.name == name,
                ["sites", at, ..] => flow.to == at,
                ["databases", database, at, ..] => {
                    let end = if group.program == Program::Replicat { &flow.to } else { &flow.from };
                    flow.database == database && end == at
                }
                _ => true,
            };
            is_about && is_meant(group.program) && group.name == group_name(&flow.name, group.program)
        });
        Concerns {
            value,
            digest: 0,
            manager: has(Concern::Manager),
            groups: groups.map(|group| group.name).collect(),
            setup: has(Concern::Setup),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_key_concerns_the_groups_that_read_it() {
        let text =
            Configuration::reference().replace("[flows.csp.pump]", "[flows.csp.pump]\nbandwidth = \"1MiB\"");
        let configuration = Configuration::parse(&text, Path::new("/etc/irongate.toml")).unwrap();
        let (main, secondary) = (configuration.concerns("main"), configuration.concerns("secondary"));
        assert_eq!(main["flows.csp.pump.bandwidth"].groups, ["csp-pump"]);
        assert_eq!(main["flows.csp.pump.bandwidth"].value, "\"1MiB\"");
        assert_eq!(secondary["flows.csp.pump.bandwidth"].groups, [""; 0]);
        assert_eq!(main["flows.css.pump"].value, "", "a section with nothing in it");
        assert_eq!(secondary["sites.secondary.listen"].groups, ["secondary-collector"]);
        assert_eq!(main["sites.secondary.listen"].groups, [""; 0]);
        assert_eq!(main["sites.secondary.address"].groups, ["csp-pump", "msp-pump"]);
        assert_eq!(main["databases.config.main.passfile"].groups, ["csp-extract", "css-replicat"]);
        assert_eq!(main["databases.config.main.uri"].value, "");
        assert!(main["sites.main.http"].manager && main["sites.main.http"].groups.is_empty());
        assert!(main["flows.csp.tables"].setup);
        assert_eq!(
            main["flows.css.autostart"],
            Concerns { value: "false".to_owned(), ..Concerns::default() }
        );
    }
}
