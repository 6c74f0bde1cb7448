//! The configuration: one TOML file for a whole deployment, both sites.
//!
//! A file is read in two steps. The parser gives it its shape and refuses what has none (an unknown key, a number where a
//! text belongs); the review then looks at what the parts say about each other (a flow that names a site nobody has).
//! Both say file, line and column, and the review says everything that it finds at once. What comes out is plain data:
//! it is complete, names agree, and nothing in it must be checked again.

mod access;
mod conflicts;
mod database;
mod ddl;
mod dns;
mod feed;
mod flow;
mod hooks;
mod kafka;
mod keys;
mod link;
mod load;
mod manager;
mod names;
mod pair;
mod problem;
mod replicat;
mod table;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

pub use access::Access;
pub use database::{Address, EXTRACT_ROLE, Login, PasswordSource, REPLICAT_ROLE};
pub use ddl::DdlOptions;
pub use dns::{NameServer, Record, RecordType, Zone};
pub use feed::FeedOptions;
pub use flow::{ExtractOptions, Flow, Partitions, PurgeOptions, Rename, SkipOrigins};
pub use hooks::{HookName, HookOptions};
pub use kafka::KafkaOptions;
pub use keys::{Concern, Concerns};
pub use link::{LinkOptions, PumpOptions, SiteOptions, Via};
pub use load::LoadOptions;
pub use manager::{AlarmOptions, Limits, ManagerOptions, RestartOptions};
pub use pair::Pair;
pub use problem::Problem;
pub use replicat::ReplicatOptions;
pub(crate) use table::regular_name;
pub use table::{TableName, TablePattern};
pub use units::bytes;

use crate::error::Error;
use access::AccessSection;
use database::AddressSection;
use dns::ZoneSection;
use flow::{Context, FlowSection, Spans};
use hooks::HookSection;
use kafka::KafkaSection;
use link::{LinkSection, SiteSection};
use manager::ManagerSection;
use problem::Problems;

/// What stands for the site's name in the name of a directory: two sites of one machine then have one each.
const SITE: &str = "{site}";

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    site: Option<Spanned<String>>,
    deployment: DeploymentSection,
    sites: BTreeMap<Spanned<String>, SiteSection>,
    databases: BTreeMap<Spanned<String>, BTreeMap<Spanned<String>, AddressSection>>,
    #[serde(default)]
    flows: BTreeMap<Spanned<String>, FlowSection>,
    link: Option<LinkSection>,
    kafka: Option<KafkaSection>,
    #[serde(default)]
    access: BTreeMap<Spanned<String>, AccessSection>,
    #[serde(default)]
    names: BTreeMap<Spanned<String>, ZoneSection>,
    #[serde(default)]
    hooks: BTreeMap<Spanned<String>, BTreeMap<Spanned<String>, HookSection>>,
    #[serde(default)]
    manager: ManagerSection,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeploymentSection {
    name: Spanned<String>,
    state_directory: PathBuf,
    trail_directory: Option<PathBuf>,
}

/// A deployment: its sites, its databases, its flows.
#[derive(Clone, PartialEq, Debug)]
pub struct Configuration {
    /// The file it was read from.
    pub file: PathBuf,
    /// The deployment's name, part of the names of slots and publications.
    pub name: String,
    /// The site where this process stands, if the file says so.
    pub site: Option<String>,
    /// Where locks, status files and local stores lie.
    pub state_directory: PathBuf,
    /// Where trails lie, each in a directory with its flow's name.
    pub trail_directory: PathBuf,
    /// The names of the sites.
    pub sites: BTreeSet<String>,
    /// What is said of each site.
    pub site_options: BTreeMap<String, SiteOptions>,
    /// The link between the sites, where flows have pumps.
    pub link: Option<LinkOptions>,
    /// The Kafka cluster, where flows go through one.
    pub kafka: Option<KafkaOptions>,
    /// What managers do at every site.
    pub manager: ManagerOptions,
    /// What the file says, key by key, as it is written there: `flows.csp.extract.retry_delay` is `"1s"`.
    pub written: BTreeMap<String, String>,
    /// The databases by name, each with its address at each site.
    pub databases: BTreeMap<String, BTreeMap<String, Address>>,
    /// The flows by name.
    pub flows: BTreeMap<String, Flow>,
    /// The applications' roles, by database.
    pub access: BTreeMap<String, Access>,
    /// Zones with names that lead to the site that writes, by the names of their sections.
    pub names: BTreeMap<String, Zone>,
    /// The hooks of each site.
    pub hooks: BTreeMap<String, BTreeMap<HookName, HookOptions>>,
}

impl Configuration {
    /// Reads a file for a process that stands at `site`, or where the file says. Paths in it are taken from the file's own
    /// directory, and `{site}` in the directories of states and trails becomes the site's name.
    ///
    /// # Errors
    /// [`Error::Unreadable`]; [`Error::Configuration`] with everything that is wrong; [`Error::Unknown`] for a site that
    /// the file does not have; [`Error::NoSite`].
    pub fn load_at(file: &Path, site: Option<&str>) -> Result<Self, Error> {
        let mut configuration = Self::read(file)?;
        if let Some(site) = site {
            configuration.site = Some(site.to_owned());
        }
        let directories = [&mut configuration.state_directory, &mut configuration.trail_directory];
        match &configuration.site {
            Some(site) if configuration.sites.contains(site) => {
                for directory in directories {
                    *directory = directory.to_string_lossy().replace(SITE, site).into();
                }
                Ok(configuration)
            }
            Some(site) => Err(Error::Unknown {
                what: "site",
                name: site.clone(),
                known: configuration.sites.into_iter().collect(),
            }),
            None if directories.iter().any(|directory| directory.to_string_lossy().contains(SITE)) => {
                Err(Error::NoSite { file: configuration.file })
            }
            None => Ok(configuration),
        }
    }

    /// [`Configuration::load_at`] the site that the file names.
    ///
    /// # Errors
    /// As there.
    pub fn load(file: &Path) -> Result<Self, Error> {
        Self::load_at(file, None)
    }

    /// Reads a file for no site in particular: `{site}` stays as it is in the names of directories, which are not to be
    /// used then.
    ///
    /// # Errors
    /// [`Error::Unreadable`]; [`Error::Configuration`] with everything that is wrong.
    pub fn read(file: &Path) -> Result<Self, Error> {
        let unreadable = |source| Error::Unreadable { file: file.to_owned(), source };
        let text = std::fs::read_to_string(file).map_err(unreadable)?;
        let file = std::path::absolute(file).map_err(unreadable)?;
        Self::parse(&text, &file)
    }

    /// Reads a text that stands in `file`.
    ///
    /// # Errors
    /// [`Error::Configuration`] with everything that is wrong.
    pub fn parse(text: &str, file: &Path) -> Result<Self, Error> {
        let mut problems = Problems::new(file, text);
        let document: Document = match toml::from_str(text) {
            Ok(document) => document,
            Err(error) => {
                let span = error.span().unwrap_or(0..0);
                let (reason, remedy) = problem::of_parser(error.message());
                problems.add(span, reason, remedy);
                return Err(Error::Configuration(problems.into_found()));
            }
        };
        let configuration = document.review(file, &mut problems);
        match (configuration, problems.into_found()) {
            (Some(mut configuration), problems) if problems.is_empty() => {
                configuration.written = keys::written(text);
                Ok(configuration)
            }
            (_, problems) => Err(Error::Configuration(problems)),
        }
    }

    /// A commented example that can be parsed and adapted.
    pub fn example() -> &'static str {
        include_str!("configuration/example.toml")
    }

    /// The reference deployment: two sites and four flows, with pumps.
    pub fn reference() -> &'static str {
        include_str!("configuration/reference.toml")
    }

    /// The reference deployment with each flow's trail going through a topic of Apache Kafka.
    pub fn reference_through_kafka() -> String {
        let section = concat!(include_str!("configuration/kafka.toml"), "[sites.main]\n");
        let text = Self::reference().replacen("[sites.main]\n", section, 1);
        let lines = text.split_inclusive('\n').map(|line| {
            let is_pump = line.starts_with("[flows.") && line.trim_end().ends_with(".pump]");
            (line, if is_pump { "via = \"kafka\"\n" } else { "" })
        });
        lines.flat_map(|(line, more)| [line, more]).collect()
    }

    /// A flow.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn flow(&self, name: &str) -> Result<&Flow, Error> {
        self.flows.get(name).ok_or_else(|| Error::Unknown {
            what: "flow",
            name: name.to_owned(),
            known: self.flows.keys().cloned().collect(),
        })
    }

    /// The address of a database at a site.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn address(&self, database: &str, site: &str) -> Result<&Address, Error> {
        self.databases.get(database).and_then(|addresses| addresses.get(site)).ok_or_else(|| Error::Unknown {
            what: "address of a database",
            name: format!("{database}.{site}"),
            known: self
                .databases
                .iter()
                .flat_map(|(database, sites)| sites.keys().map(move |site| format!("{database}.{site}")))
                .collect(),
        })
    }

    /// Where the database that a flow captures is.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a flow that is not of this configuration.
    pub fn source(&self, flow: &Flow) -> Result<&Address, Error> {
        self.address(&flow.database, &flow.from)
    }

    /// Where the database that a flow writes is.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a flow that is not of this configuration.
    pub fn target(&self, flow: &Flow) -> Result<&Address, Error> {
        self.address(&flow.database, &flow.to)
    }

    /// The directory of a flow's trail.
    pub fn trail(&self, flow: &Flow) -> PathBuf {
        self.trail_directory.join(&flow.name)
    }
}

impl Document {
    fn review(self, file: &Path, problems: &mut Problems<'_>) -> Option<Configuration> {
        let directory = file.parent().unwrap_or(Path::new(""));
        let name = self.deployment.name;
        names::review_name(problems, &name, "deployment", names::LONGEST_DEPLOYMENT);
        for site in self.sites.keys() {
            names::review_name(problems, site, "site", names::LONGEST_FLOW);
        }
        let mut site_options = BTreeMap::new();
        for (site, section) in self.sites {
            site_options.insert(site.into_inner(), section.review(directory, self.link.is_some(), problems));
        }
        let sites: BTreeSet<String> = site_options.keys().cloned().collect();
        let link = self.link.map(|link| link.review(directory, problems));
        let kafka = self.kafka.map(|kafka| kafka.review(name.get_ref(), directory, problems));
        if let Some(site) = self.site.as_ref().filter(|site| !sites.contains(site.get_ref())) {
            unknown_site(problems, site.get_ref(), site.span(), &sites);
        }
        let mut databases = BTreeMap::new();
        let mut addressed = BTreeMap::new();
        for (database, sections) in self.databases {
            names::review_name(problems, &database, "database", names::LONGEST_FLOW);
            let mut addresses = BTreeMap::new();
            let mut at = BTreeSet::new();
            for (site, section) in sections {
                if !sites.contains(site.get_ref()) {
                    unknown_site(problems, site.get_ref(), site.span(), &sites);
                }
                at.insert(site.get_ref().clone());
                if let Some(address) = section.review(directory, problems) {
                    addresses.insert(site.into_inner(), address);
                }
            }
            addressed.insert(database.get_ref().clone(), at);
            databases.insert(database.into_inner(), addresses);
        }
        let context = Context {
            deployment: name.get_ref(),
            sites: &sites,
            site_options: &site_options,
            has_link: link.is_some(),
            has_kafka: kafka.is_some(),
            databases: &addressed,
        };
        let names = review_zones(self.names, directory, &context, problems);
        let mut hooks = BTreeMap::new();
        for (site, sections) in self.hooks {
            if !sites.contains(site.get_ref()) {
                unknown_site(problems, site.get_ref(), site.span(), &sites);
            }
            hooks.insert(site.into_inner(), hooks::review(sections, directory, problems));
        }
        let mut flows = BTreeMap::new();
        let mut spans = Vec::new();
        for (name, section) in self.flows {
            let (flow, at) = section.review(&name, &context, problems);
            spans.push((flow.name.clone(), at));
            flows.insert(flow.name.clone(), flow);
        }
        let mut access = BTreeMap::new();
        for (database, section) in self.access {
            if !databases.contains_key(database.get_ref()) {
                problems.add(
                    database.span(),
                    format!("there is no database \"{}\"", database.get_ref()),
                    Some("name one of those under [databases]".into()),
                );
            }
            access.insert(database.into_inner(), section.review(problems));
        }
        let state_directory = directory.join(self.deployment.state_directory);
        let configuration = Configuration {
            file: file.to_owned(),
            name: name.into_inner(),
            site: self.site.map(Spanned::into_inner),
            trail_directory: match self.deployment.trail_directory {
                Some(trails) => directory.join(trails),
                None => state_directory.join("trail"),
            },
            state_directory,
            sites,
            site_options,
            link,
            kafka,
            manager: self.manager.review(problems),
            written: BTreeMap::new(),
            databases,
            flows,
            access,
            names,
            hooks,
        };
        configuration.review_server_names(&spans, problems);
        Some(configuration)
    }
}

impl Configuration {
    /// Slots are unique in a cluster, publications in a database, origins (which carry the flow's name) in a cluster.
    fn review_server_names(&self, spans: &[(String, Spans)], problems: &mut Problems<'_>) {
        for (index, (name, at)) in spans.iter().enumerate() {
            for (earlier, _) in &spans[..index] {
                let (Some(one), Some(other)) = (self.flows.get(earlier), self.flows.get(name)) else {
                    continue;
                };
                let (Ok(source), Ok(others)) = (self.source(one), self.source(other)) else { continue };
                let mut duplicate = |what: &str, value: &str, span: &Range<usize>| {
                    problems.add(
                        span.clone(),
                        format!("flows \"{earlier}\" and \"{name}\" have the same {what} \"{value}\" at one server"),
                        Some(format!("give one of them another {what}")),
                    );
                };
                if one.slot == other.slot && source.same_cluster(others) {
                    duplicate("slot", &one.slot, &at.slot);
                }
                if one.publication == other.publication
                    && source.same_cluster(others)
                    && source.database() == others.database()
                {
                    duplicate("publication", &one.publication, &at.publication);
                }
            }
        }
    }
}

/// One zone, one section: what changes together is changed in one operation.
fn review_zones(
    sections: BTreeMap<Spanned<String>, ZoneSection>,
    directory: &Path,
    context: &Context<'_>,
    problems: &mut Problems<'_>,
) -> BTreeMap<String, Zone> {
    let known = dns::Known { sites: context.sites, databases: context.databases };
    let mut zones: BTreeMap<String, Zone> = BTreeMap::new();
    for (name, section) in sections {
        names::review_name(problems, &name, "zone's section", names::LONGEST_FLOW);
        let zone = section.review(&name, directory, &known, problems);
        if let Some((other, _)) = zones.iter().find(|(_, other)| other.zone == zone.zone) {
            let reason = format!("zone \"{}\" stands in [names.{other}] already", zone.zone);
            problems.add(name.span(), reason, Some("write all its records into one section".into()));
        }
        zones.insert(name.into_inner(), zone);
    }
    zones
}

fn unknown_site(problems: &mut Problems<'_>, site: &str, span: Range<usize>, sites: &BTreeSet<String>) {
    let known = sites.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let remedy = (!known.is_empty()).then(|| format!("known are: {known}; a new one needs [sites.{site}]"));
    problems.add(span, format!("there is no site \"{site}\""), remedy);
}
