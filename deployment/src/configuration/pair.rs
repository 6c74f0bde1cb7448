//! Databases that one site writes at a time, and the flows that go with each direction.

use super::{Configuration, Flow};
use crate::error::Error;

/// A database that one site writes at a time, with the flows of both directions between two sites.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// The database's name in the configuration.
    pub database: &'a str,
    /// The flow into the site that was asked about.
    pub into: &'a Flow,
    /// The flow out of it.
    pub out_of: &'a Flow,
}

impl Configuration {
    /// The databases that one site writes at a time: all but those with running flows in both directions. A flow that
    /// the manager does not start by itself stands ready for the other direction.
    pub fn active_passive(&self) -> Vec<&str> {
        let is_two_way = |database: &str| {
            let running =
                || self.flows.values().filter(move |flow| flow.database == database && flow.autostart);
            running().any(|one| running().any(|other| one.from == other.to && one.to == other.from))
        };
        let flows = |database: &str| self.flows.values().any(|flow| flow.database == database);
        self.databases.keys().map(String::as_str).filter(|name| flows(name) && !is_two_way(name)).collect()
    }

    /// Whether a flow stands ready for the time when its target's site does not write any more: it is not started by
    /// itself, and another one of the same database is, in the other direction.
    pub fn is_reverse(&self, flow: &Flow) -> bool {
        let is_forward = |other: &Flow| {
            other.autostart
                && other.database == flow.database
                && other.from == flow.to
                && other.to == flow.from
        };
        !flow.autostart && self.flows.values().any(is_forward)
    }

    /// Databases chosen for an operation that changes who writes: those that are named, else all active-passive ones.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a name that is not among the active-passive ones; [`Error::TwoWay`].
    pub fn chosen(&self, names: &[String]) -> Result<Vec<&str>, Error> {
        let known = self.active_passive();
        if names.is_empty() {
            return Ok(known);
        }
        let find = |name: &String| match known.iter().find(|known| **known == name) {
            Some(name) => Ok(*name),
            None if self.databases.contains_key(name) => Err(Error::TwoWay { database: name.clone() }),
            None => {
                let known = known.iter().map(|&name| name.to_owned()).collect();
                Err(Error::Unknown { what: "database", name: name.clone(), known })
            }
        };
        let mut chosen: Vec<&str> = names.iter().map(find).collect::<Result<_, _>>()?;
        chosen.sort_unstable();
        chosen.dedup();
        Ok(chosen)
    }

    /// The flows of a database into and out of a site.
    ///
    /// # Errors
    /// [`Error::Unknown`] for the flow of a direction that is lacking.
    pub fn pair(&self, database: &str, site: &str) -> Result<Pair<'_>, Error> {
        let of = |wanted: fn(&Flow) -> &String, what: &'static str| {
            let mut flows =
                self.flows.values().filter(|flow| flow.database == database && wanted(flow) == site);
            flows.next().ok_or_else(|| Error::Unknown {
                what,
                name: format!("{database} at {site}"),
                known: self.flows.keys().cloned().collect(),
            })
        };
        let into = of(|flow| &flow.to, "flow into this site for database")?;
        let out_of = of(|flow| &flow.from, "flow out of this site for database")?;
        Ok(Pair { database: &into.database, into, out_of })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_deployment_has_one_database_that_changes_hands() {
        let file = std::path::Path::new("/irongate.toml");
        let configuration = Configuration::parse(Configuration::reference(), file).unwrap();
        assert_eq!(configuration.active_passive(), ["config"]);
        let reverse = |flow: &&Flow| configuration.is_reverse(flow);
        let reverse: Vec<&Flow> = configuration.flows.values().filter(reverse).collect();
        assert_eq!(reverse.iter().map(|flow| flow.name.as_str()).collect::<Vec<_>>(), ["css"]);
        assert_eq!(configuration.chosen(&[]).unwrap(), ["config"]);
        assert_eq!(configuration.chosen(&["config".into(), "config".into()]).unwrap(), ["config"]);
        assert!(matches!(configuration.chosen(&["log".into()]), Err(Error::TwoWay { .. })));
        assert!(matches!(configuration.chosen(&["nothing".into()]), Err(Error::Unknown { .. })));
        let pair = configuration.pair("config", "secondary").unwrap();
        assert_eq!((pair.into.name.as_str(), pair.out_of.name.as_str()), ("csp", "css"));
        let mut one_way = configuration.clone();
        one_way.flows.remove("css");
        assert!(matches!(one_way.pair("config", "secondary"), Err(Error::Unknown { .. })));
        assert_eq!(one_way.active_passive(), ["config"]);
    }

    #[test]
    fn through_kafka_it_is_the_same_deployment() {
        let text = Configuration::reference_through_kafka();
        let configuration = Configuration::parse(&text, std::path::Path::new("/irongate.toml")).unwrap();
        assert_eq!(configuration.flows.len(), 4);
        for flow in configuration.flows.values() {
            assert!(flow.is_through_kafka(), "{}", flow.name);
        }
        let kafka = configuration.kafka.expect("there is a cluster");
        assert_eq!((kafka.client.brokers.len(), kafka.replication, kafka.min_in_sync), (3, 3, 2));
        assert_eq!(configuration.sites.len(), 2);
    }
}
