//! A flow: one direction of one database, from a slot through a trail to a target.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use irongate_apply::Conflicts;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use toml::Spanned;

use super::conflicts::{ConflictSection, Ends};
use super::ddl::{DdlOptions, DdlSection};
use super::feed::{FeedOptions, FeedSection, Surroundings};
use super::link::{PumpOptions, PumpSection, SiteOptions, Via};
use super::load::{LoadOptions, LoadSection};
use super::names;
use super::problem::Problems;
use super::replicat::{ReplicatOptions, ReplicatSection};
use super::table::{TableName, TablePattern};
use super::units::{Bytes, Time, delays};

/// The smallest file of a trail that can be asked for, in bytes.
const LEAST_FILE_SIZE: u64 = 64 * 1024;

/// `[flows.NAME]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FlowSection {
    database: Spanned<String>,
    from: Spanned<String>,
    to: Spanned<String>,
    at: Option<Spanned<String>>,
    tables: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    exclude: Vec<Spanned<String>>,
    #[serde(default)]
    partitions: Partitions,
    publication: Option<Spanned<String>>,
    slot: Option<Spanned<String>>,
    failover_slot: Option<bool>,
    #[serde(default)]
    map: Vec<MapSection>,
    #[serde(default)]
    key_columns: BTreeMap<Spanned<String>, Vec<String>>,
    #[serde(default)]
    extract: ExtractSection,
    #[serde(default)]
    replicat: ReplicatSection,
    #[serde(default)]
    instantiate: LoadSection,
    #[serde(default)]
    trail: TrailSection,
    pump: Option<Spanned<PumpSection>>,
    conflicts: Option<ConflictSection>,
    ddl: Option<DdlSection>,
    feed: Option<Spanned<FeedSection>>,
    autostart: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MapSection {
    source: Spanned<String>,
    target: Spanned<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct ExtractSection {
    file_size: Option<Spanned<Bytes>>,
    skip_origins: Option<OriginsValue>,
    feedback_interval: Option<Time>,
    progress_interval: Option<Spanned<Time>>,
    silence: Option<Spanned<Time>>,
    retry_attempts: Option<u32>,
    retry_delay: Option<Spanned<Time>>,
    retry_longest_delay: Option<Spanned<Time>>,
    streaming: Option<bool>,
    binary: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct TrailSection {
    purge: Option<bool>,
    keep: Option<Time>,
    keep_files: Option<u32>,
}

/// How partitioned tables are published.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Partitions {
    /// Each partition as a table of its own; the target has the same partitions.
    #[default]
    Leaf,
    /// As the partitioned table; the target may be partitioned otherwise, or not at all. A TRUNCATE of one partition is
    /// not sent.
    Root,
}

/// Which transactions Extract leaves out because somebody else's replication wrote them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum SkipOrigins {
    /// All that have an origin. From PostgreSQL 16 on the server does not even send them.
    #[default]
    Any,
    /// Those of these origins; others are captured.
    Named(BTreeSet<String>),
}

/// `"any"` or a list of names.
struct OriginsValue(SkipOrigins);

impl<'de> Deserialize<'de> for OriginsValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;

        impl<'de> Visitor<'de> for Value {
            type Value = SkipOrigins;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"any\" or a list of the names of replication origins")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SkipOrigins, E> {
                match text {
                    "any" => Ok(SkipOrigins::Any),
                    _ => Err(E::custom(format!(
                        "\"{text}\" is not \"any\" or a list of the names of replication origins"
                    ))),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<SkipOrigins, A::Error> {
                let mut names = BTreeSet::new();
                while let Some(name) = list.next_element::<String>()? {
                    if name.is_empty() || name == "any" || name == "none" {
                        return Err(A::Error::custom(format!("\"{name}\" cannot be the name of an origin")));
                    }
                    names.insert(name);
                }
                Ok(SkipOrigins::Named(names))
            }
        }

        deserializer.deserialize_any(Value).map(Self)
    }
}

/// A rename: `source` at the origin of the flow is called `target` at its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rename {
    /// Every table of a schema.
    Schema {
        /// The schema at the source.
        source: String,
        /// The schema at the target.
        target: String,
    },
    /// One table.
    Table {
        /// The table at the source.
        source: TableName,
        /// The table at the target.
        target: TableName,
    },
}

/// Settings of a flow's Extract.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExtractOptions {
    /// A file of the trail is sealed at the first transaction boundary behind so many bytes.
    pub file_size: u64,
    /// Whose transactions are left out.
    pub skip_origins: SkipOrigins,
    /// Shortest time between two status messages that nobody asked for. Zero for a synchronous standby, whose every
    /// commit waits for one.
    pub feedback_interval: Duration,
    /// Shortest time between two progress records of an idle flow.
    pub progress_interval: Duration,
    /// After so long without a byte the server counts as gone.
    pub silence: Duration,
    /// How often in a row an error that may pass is tried again before the process ends; `None` is without end.
    pub retry_attempts: Option<u32>,
    /// Pause before another attempt after an error that may pass; it grows.
    pub retry_delay: Duration,
    /// The longest pause.
    pub retry_longest_delay: Duration,
    /// Whether the server may send large transactions before they commit.
    pub streaming: bool,
    /// Whether values may travel in binary where every published column allows it.
    pub binary: bool,
}

impl Default for ExtractOptions {
    fn default() -> Self {
        Self {
            file_size: 64 << 20,
            skip_origins: SkipOrigins::Any,
            feedback_interval: Duration::from_millis(100),
            progress_interval: Duration::from_secs(10),
            silence: Duration::from_secs(60),
            retry_attempts: None,
            retry_delay: Duration::from_secs(1),
            retry_longest_delay: Duration::from_secs(30),
            streaming: true,
            binary: false,
        }
    }
}

/// When files of a flow's trail are removed. Nothing that a reader still needs ever is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PurgeOptions {
    /// Whether files are removed at all.
    pub purge: bool,
    /// Files younger than this stay.
    pub keep: Duration,
    /// So many of the newest files stay.
    pub keep_files: u32,
}

impl Default for PurgeOptions {
    fn default() -> Self {
        Self { purge: true, keep: Duration::from_secs(24 * 60 * 60), keep_files: 2 }
    }
}

/// A flow.
#[derive(Clone, PartialEq, Debug)]
pub struct Flow {
    /// Its name.
    pub name: String,
    /// The database.
    pub database: String,
    /// The site that it is captured at.
    pub from: String,
    /// The site that it is applied at.
    pub to: String,
    /// The site that runs Extract and holds the trail that it writes; without a pump Replicat runs there too.
    pub at: String,
    /// How the trail reaches the site of Replicat, which then is `to`; `None` where one trail serves both.
    pub pump: Option<PumpOptions>,
    /// Whether the manager starts the flow's groups by itself. Not those of a reverse flow, which is stopped in normal
    /// mode.
    pub autostart: bool,
    /// Which tables.
    pub tables: Vec<TablePattern>,
    /// Which of these are left out.
    pub exclude: Vec<TablePattern>,
    /// How partitioned tables are published.
    pub partitions: Partitions,
    /// The publication at the source.
    pub publication: String,
    /// The replication slot at the source.
    pub slot: String,
    /// Whether its slot is made so that standbys of the source can synchronize it (from PostgreSQL 17 on).
    pub failover_slot: bool,
    /// What is called otherwise at the target.
    pub renames: Vec<Rename>,
    /// Columns that identify a row, by source table, where the replica identity is not to be used.
    pub key_columns: BTreeMap<TableName, Vec<String>>,
    /// Extract's settings.
    pub extract: ExtractOptions,
    /// Replicat's settings.
    pub replicat: ReplicatOptions,
    /// How its initial load is made.
    pub load: LoadOptions,
    /// What to do where both sites have changed the same key; `None` where only one site writes.
    pub conflicts: Option<Conflicts>,
    /// Which changes of structure go with the rows; `None` carries none.
    pub ddl: Option<DdlOptions>,
    /// Whether its changes are told to others as events, and how.
    pub feed: Option<FeedOptions>,
    /// When the trail's files go.
    pub purge: PurgeOptions,
}

impl Flow {
    /// Whether a source table belongs to the flow.
    pub fn includes(&self, schema: &str, name: &str) -> bool {
        self.tables.iter().any(|pattern| pattern.matches(schema, name))
            && !self.exclude.iter().any(|pattern| pattern.matches(schema, name))
    }

    /// Whether its trail goes through a topic of Kafka.
    pub fn is_through_kafka(&self) -> bool {
        self.pump.as_ref().is_some_and(|pump| pump.via == Via::Kafka)
    }

    /// What a source table is called at the target. A table's own rename goes before its schema's.
    pub fn target_of(&self, source: &TableName) -> TableName {
        let own = self.renames.iter().find_map(|rename| match rename {
            Rename::Table { source: from, target } if from == source => Some(target.clone()),
            _ => None,
        });
        let schema = || {
            self.renames.iter().find_map(|rename| match rename {
                Rename::Schema { source: from, target } if *from == source.schema => Some(target.clone()),
                _ => None,
            })
        };
        own.unwrap_or_else(|| {
            TableName::new(schema().unwrap_or_else(|| source.schema.clone()), source.name.clone())
        })
    }
}

/// The names that a flow may refer to, and where a flow stands in the file.
pub(super) struct Context<'a> {
    pub(super) deployment: &'a str,
    pub(super) sites: &'a BTreeSet<String>,
    pub(super) site_options: &'a BTreeMap<String, SiteOptions>,
    /// The file has `[link]`.
    pub(super) has_link: bool,
    /// The file has `[kafka]`.
    pub(super) has_kafka: bool,
    /// The sites at which each database has an address.
    pub(super) databases: &'a BTreeMap<String, BTreeSet<String>>,
}

/// Where the names of a flow's server objects stand, for the search for duplicates.
pub(super) struct Spans {
    pub(super) slot: Range<usize>,
    pub(super) publication: Range<usize>,
}

impl FlowSection {
    pub(super) fn review(
        self,
        name: &Spanned<String>,
        context: &Context<'_>,
        problems: &mut Problems<'_>,
    ) -> (Flow, Spans) {
        names::review_name(problems, name, "flow", names::LONGEST_FLOW);
        self.review_ends(name.get_ref(), context, problems);
        let tables = patterns(self.tables.get_ref(), problems);
        if self.tables.get_ref().is_empty() {
            problems.add(
                self.tables.span(),
                "the flow has no tables",
                Some("write tables = [\"public.*\"]".into()),
            );
        }
        let exclude = patterns(&self.exclude, problems);
        let stable = names::stable(context.deployment, name.get_ref());
        if let Some(slot) = &self.slot {
            names::review_slot(problems, slot);
        }
        if let Some(publication) = &self.publication {
            names::review_identifier(problems, publication, "publication");
        }
        let spans = Spans {
            slot: self.slot.as_ref().map_or(name.span(), Spanned::span),
            publication: self.publication.as_ref().map_or(name.span(), Spanned::span),
        };
        let or_stable =
            |given: Option<Spanned<String>>| given.map_or_else(|| stable.clone(), Spanned::into_inner);
        let (from, to) = (self.from.into_inner(), self.to.into_inner());
        let ends = Ends { from: &from, to: &to };
        let conflicts = self.conflicts.and_then(|section| section.review(&ends, problems));
        let ddl = self.ddl.map(|section| section.review(problems));
        let pump = self.pump.map(|pump| pump.into_inner().review(problems));
        let at = match (&pump, self.at) {
            (_, Some(at)) => at.into_inner(),
            (Some(_), None) => from.clone(),
            (None, None) => to.clone(),
        };
        let extract = self.extract.review(problems);
        let sites: &[&str] = if pump.is_some() { &[&at, &to] } else { &[&at] };
        let around = Surroundings::new(context, self.database.get_ref(), sites, extract.binary);
        let feed = self.feed.map(|section| FeedSection::review(section, &around, problems));
        let flow = Flow {
            name: name.get_ref().clone(),
            database: self.database.into_inner(),
            at,
            from,
            to,
            pump,
            autostart: self.autostart.unwrap_or(true),
            tables,
            exclude,
            partitions: self.partitions,
            publication: or_stable(self.publication),
            slot: or_stable(self.slot),
            failover_slot: self.failover_slot.unwrap_or(true),
            renames: renames(self.map, problems),
            key_columns: key_columns(self.key_columns, problems),
            extract,
            replicat: self.replicat.review(problems),
            load: self.instantiate.review(problems),
            conflicts,
            ddl,
            feed,
            purge: self.trail.into_options(),
        };
        (flow, spans)
    }

    fn review_ends(&self, name: &str, context: &Context<'_>, problems: &mut Problems<'_>) {
        let known = |names: Vec<&str>| match names.as_slice() {
            [] => None,
            names => Some(format!("known are: {}", names.join(", "))),
        };
        let sites = || known(context.sites.iter().map(String::as_str).collect());
        let database = self.database.get_ref();
        let addresses = context.databases.get(database);
        if addresses.is_none() {
            problems.add(
                self.database.span(),
                format!("there is no database \"{database}\""),
                known(context.databases.keys().map(String::as_str).collect()),
            );
        }
        for site in [&self.from, &self.to] {
            if !context.sites.contains(site.get_ref()) {
                problems.add(site.span(), format!("there is no site \"{}\"", site.get_ref()), sites());
            } else if addresses.is_some_and(|addresses| !addresses.contains(site.get_ref())) {
                problems.add(
                    site.span(),
                    format!("database \"{database}\" has no address at site \"{}\"", site.get_ref()),
                    Some(format!("add [databases.{database}.{}] with a uri", site.get_ref())),
                );
            }
        }
        if let Some(at) = &self.at
            && !context.sites.contains(at.get_ref())
        {
            problems.add(at.span(), format!("there is no site \"{}\"", at.get_ref()), sites());
        }
        if let Some(pump) = &self.pump {
            self.review_pump(pump, context, problems);
            if pump.get_ref().is_through_kafka() && context.sites.contains(name) {
                problems.add(
                    pump.span(),
                    format!(
                        "flow \"{name}\" has the name of a site: both would have a group \"{name}-collector\""
                    ),
                    Some("give the flow another name".into()),
                );
            }
        }
        if self.from == self.to {
            problems.add(self.to.span(), "the flow begins and ends at the same site", None);
        }
    }
}

impl FlowSection {
    fn review_pump(&self, pump: &Spanned<PumpSection>, context: &Context<'_>, problems: &mut Problems<'_>) {
        if pump.get_ref().is_through_kafka() {
            if !context.has_kafka {
                let remedy = "add [kafka] with brokers = [\"host:9092\"]";
                problems.add(pump.span(), "a pump into Kafka needs a cluster", Some(remedy.into()));
            }
        } else if !context.has_link {
            let remedy = "add [link] with certificates = \"certs\" (\"irongate certs certs\" makes them)";
            problems.add(pump.span(), "a pump needs a link between the sites", Some(remedy.into()));
        }
        if let Some(at) = self.at.as_ref().filter(|at| at.get_ref() == self.to.get_ref()) {
            let remedy =
                "leave one of them away: where Extract reaches the source from there, no pump is needed";
            problems.add(at.span(), "a pump to the site where the trail is already", Some(remedy.into()));
        }
        if pump.get_ref().is_through_kafka() {
            return;
        }
        let to = self.to.get_ref();
        let Some(options) = context.site_options.get(to) else { return };
        let connects = !pump.get_ref().listens();
        if connects && (options.listen.is_none() || options.address.is_none()) {
            problems.add(
                pump.span(),
                format!("site \"{to}\" does not say where its collector is"),
                Some(format!("give [sites.{to}] listen = \"0.0.0.0:7420\" and address = \"host:7420\"")),
            );
        }
    }
}

impl ExtractSection {
    fn review(self, problems: &mut Problems<'_>) -> ExtractOptions {
        let default = ExtractOptions::default();
        if let Some(size) = &self.file_size
            && size.get_ref().0 < LEAST_FILE_SIZE
        {
            problems.add(
                size.span(),
                "the trail's files would be too small",
                Some("use 64KiB or more".into()),
            );
        }
        for interval in [&self.progress_interval, &self.silence].into_iter().flatten() {
            if interval.get_ref().0.is_zero() {
                problems.add(interval.span(), "an interval of nothing", Some("use \"1s\" or more".into()));
            }
        }
        let usual = (default.retry_delay, default.retry_longest_delay);
        let (retry_delay, retry_longest_delay) =
            delays(self.retry_delay, self.retry_longest_delay, usual, problems);
        let time = |time: Option<Time>, default| time.map_or(default, |time| time.0);
        let spanned = |time: Option<Spanned<Time>>, default| time.map_or(default, |time| time.into_inner().0);
        ExtractOptions {
            file_size: self.file_size.map_or(default.file_size, |size| size.into_inner().0),
            skip_origins: self.skip_origins.map_or(default.skip_origins, |origins| origins.0),
            feedback_interval: time(self.feedback_interval, default.feedback_interval),
            progress_interval: spanned(self.progress_interval, default.progress_interval),
            silence: spanned(self.silence, default.silence),
            retry_attempts: self.retry_attempts,
            retry_delay,
            retry_longest_delay,
            streaming: self.streaming.unwrap_or(default.streaming),
            binary: self.binary.unwrap_or(default.binary),
        }
    }
}

impl TrailSection {
    fn into_options(self) -> PurgeOptions {
        let default = PurgeOptions::default();
        PurgeOptions {
            purge: self.purge.unwrap_or(default.purge),
            keep: self.keep.map_or(default.keep, |time| time.0),
            keep_files: self.keep_files.unwrap_or(default.keep_files),
        }
    }
}

fn patterns(texts: &[Spanned<String>], problems: &mut Problems<'_>) -> Vec<TablePattern> {
    let mut patterns = Vec::with_capacity(texts.len());
    for text in texts {
        match TablePattern::parse(text.get_ref()) {
            Ok(pattern) => patterns.push(pattern),
            Err(reason) => {
                problems.add(text.span(), reason, Some("write \"schema.table\" or \"schema.*\"".into()));
            }
        }
    }
    patterns
}

fn renames(sections: Vec<MapSection>, problems: &mut Problems<'_>) -> Vec<Rename> {
    const REMEDY: &str = "write source = \"a.*\", target = \"b.*\", or one table each";
    let mut renames = Vec::with_capacity(sections.len());
    let mut sources = BTreeSet::new();
    for MapSection { source, target } in sections {
        if !sources.insert(source.get_ref().clone()) {
            problems.add(source.span(), format!("\"{}\" is mapped twice", source.get_ref()), None);
        }
        let both = (TablePattern::parse(source.get_ref()), TablePattern::parse(target.get_ref()));
        let (from, to) = match both {
            (Ok(from), Ok(to)) => (from, to),
            (Err(reason), _) => {
                problems.add(source.span(), reason, Some(REMEDY.into()));
                continue;
            }
            (_, Err(reason)) => {
                problems.add(target.span(), reason, Some(REMEDY.into()));
                continue;
            }
        };
        match (from.exact(), to.exact(), from.exact_schema(), to.exact_schema()) {
            (Some(source), Some(target), ..) => {
                renames.push(Rename::Table { source: source.clone(), target: target.clone() });
            }
            (None, None, Some(source), Some(target)) => {
                renames.push(Rename::Schema { source: source.to_owned(), target: target.to_owned() });
            }
            _ => problems.add(
                source.span(),
                format!("\"{from}\" cannot be mapped to \"{to}\""),
                Some(REMEDY.into()),
            ),
        }
    }
    renames
}

fn key_columns(
    sections: BTreeMap<Spanned<String>, Vec<String>>,
    problems: &mut Problems<'_>,
) -> BTreeMap<TableName, Vec<String>> {
    let mut keys = BTreeMap::new();
    for (table, columns) in sections {
        if columns.is_empty() {
            problems.add(table.span(), format!("the key of \"{}\" has no column", table.get_ref()), None);
        }
        match TableName::parse(table.get_ref()) {
            Ok(name) => drop(keys.insert(name, columns)),
            Err(reason) => {
                problems.add(table.span(), reason, Some("write \"schema.table\" = [\"column\"]".into()));
            }
        }
    }
    keys
}
