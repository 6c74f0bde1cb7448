//! Groups: the processes that a configuration describes, and the settings that each of them needs.

use std::path::PathBuf;

use irongate_apply::{Conflicts, DdlSettings, Names, ReplicatSettings};
use irongate_capture::machine::SkipOrigins as Skip;
use irongate_capture::pgoutput::Streaming;
use irongate_capture::{Settings as ExtractSettings, Source};
use irongate_checkpoint::{FIRST_EPOCH, Program};
use irongate_pump::feed::{FeedSettings, FeedTopics, Shape};
use irongate_pump::kafka::{KafkaPumpSettings, KafkaReaderSettings, TopicSettings};
use irongate_pump::{AcceptedFlow, CollectorSettings, Credentials, LinkSettings, Meeting, PumpSettings};

use crate::configuration::{Configuration, Flow, KafkaOptions, Rename, SkipOrigins};
use crate::error::Error;

/// One configured process.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// Its name: `<flow>-extract`, `<flow>-pump`, `<flow>-replicat`, `<flow>-feed`, `<site>-collector`, and for a flow that
    /// comes through Kafka `<flow>-collector`.
    pub name: String,
    /// Its flow; a collector receives all that come to its site over the link.
    pub flow: Option<&'a Flow>,
    /// What it runs.
    pub program: Program,
    /// The site that runs it.
    pub site: &'a str,
}

impl<'a> Group<'a> {
    /// The name of its flow; of a collector, nothing.
    pub fn flow_name(&self) -> &'a str {
        self.flow.map_or("", |flow| &flow.name)
    }

    /// Its flow.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a collector, which has none.
    pub fn only_flow(&self) -> Result<&'a Flow, Error> {
        self.flow.ok_or_else(|| Error::Unknown {
            what: "single flow of group",
            name: self.name.clone(),
            known: Vec::new(),
        })
    }
}

/// The name of a flow's group.
pub fn group_name(flow: &str, program: Program) -> String {
    format!("{flow}-{program}")
}

impl Configuration {
    /// All groups, by flow and in the order in which rows pass through them; with `site`, those that run there.
    pub fn groups(&self, site: Option<&str>) -> Vec<Group<'_>> {
        fn of_flow(flow: &Flow) -> [Option<Group<'_>>; 5] {
            let pump = flow.pump.is_some().then(|| group(flow, Program::Pump));
            let reader = flow.is_through_kafka().then(|| group(flow, Program::Collector));
            let feed = flow.feed.is_some().then(|| group(flow, Program::Feed));
            [Some(group(flow, Program::Extract)), pump, reader, Some(group(flow, Program::Replicat)), feed]
        }
        let collectors = self.sites.iter().filter(|site| self.collected(site).next().is_some());
        let collectors = collectors.map(|site| Group {
            name: group_name(site, Program::Collector),
            flow: None,
            program: Program::Collector,
            site,
        });
        let groups = self.flows.values().flat_map(of_flow).flatten().chain(collectors);
        groups.filter(|group| site.is_none_or(|site| group.site == site)).collect()
    }

    /// The flows whose trail a site's collector receives over the link.
    fn collected<'a>(&'a self, site: &'a str) -> impl Iterator<Item = &'a Flow> {
        self.flows
            .values()
            .filter(move |flow| flow.pump.is_some() && !flow.is_through_kafka() && flow.to == *site)
    }

    /// The group of a name.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn group(&self, name: &str) -> Result<Group<'_>, Error> {
        let groups = self.groups(None);
        groups.iter().find(|group| group.name == name).cloned().ok_or_else(|| Error::Unknown {
            what: "group",
            name: name.to_owned(),
            known: groups.into_iter().map(|group| group.name).collect(),
        })
    }

    /// The groups that are meant by names of groups and of flows, each once and in the order of
    /// [`groups`](Self::groups); all of them if there is no name.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn select_groups(&self, names: &[String], site: Option<&str>) -> Result<Vec<Group<'_>>, Error> {
        let all = self.groups(site);
        for name in names {
            if !self.groups(None).iter().any(|group| group.name == *name || group.flow_name() == *name) {
                return Err(Error::Unknown {
                    what: "group or flow",
                    name: name.clone(),
                    known: all.into_iter().map(|group| group.name).collect(),
                });
            }
        }
        let meant = |group: &Group<'_>| {
            names.is_empty() || names.iter().any(|name| group.name == *name || group.flow_name() == *name)
        };
        Ok(all.into_iter().filter(meant).collect())
    }

    /// What a flow's Extract needs to know.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a flow that is not of this configuration.
    pub fn extract_settings(&self, flow: &Flow) -> Result<ExtractSettings, Error> {
        let options = &flow.extract;
        let group = group_name(&flow.name, Program::Extract);
        let endpoint = self.source(flow)?.extract.endpoint.clone();
        let mut source = Source::new(endpoint, &flow.slot, vec![flow.publication.clone()]);
        source.application_name = format!("irongate {group}");
        // A message in a transaction that is sent before its end does not say which of its subtransactions it is of (the
        // server gives the top-level one's number), so one that was rolled back to a savepoint could not be told. Sent at its
        // commit, a transaction has only what counts.
        let says = flow.ddl.is_some()
            || flow.conflicts.as_ref().is_some_and(Conflicts::need_versions)
            || flow.feed.as_ref().is_some_and(|feed| feed.messages);
        let streams = options.streaming && !says;
        source.streaming = if streams { Streaming::On } else { Streaming::Off };
        source.site = self.active_passive().contains(&flow.database.as_str()).then(|| flow.from.clone());
        source.binary = options.binary;
        source.status_interval = options.feedback_interval;
        source.silence = options.silence;
        source.machine.progress_interval = options.progress_interval;
        source.machine.skip_origins = match &options.skip_origins {
            SkipOrigins::Any => Skip::Any,
            SkipOrigins::Named(names) => Skip::Named(names.clone()),
        };
        let mut settings =
            ExtractSettings::new(group, &flow.name, source, self.trail(flow), &self.state_directory);
        settings.file_size = options.file_size;
        settings.retry_attempts = options.retry_attempts;
        settings.retry_first = options.retry_delay;
        settings.retry_longest = options.retry_longest_delay;
        Ok(settings)
    }

    /// What a flow's Replicat needs to know.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a flow that is not of this configuration.
    pub fn replicat_settings(&self, flow: &Flow) -> Result<ReplicatSettings, Error> {
        let options = &flow.replicat;
        let key = |(table, columns): (&crate::configuration::TableName, &Vec<String>)| {
            (table.to_string(), columns.clone())
        };
        Ok(ReplicatSettings {
            flow: flow.name.clone(),
            group: group_name(&flow.name, Program::Replicat),
            target: self.target(flow)?.replicat.endpoint.clone(),
            source: Some(self.source(flow)?.extract.endpoint.clone()),
            trail: self.trail(flow),
            trail_may_come: flow.pump.is_some(),
            state_directory: self.state_directory.clone(),
            names: names(flow),
            key_columns: flow.key_columns.iter().map(key).collect(),
            grouping: options.grouping,
            synchronous_commit: options.synchronous_commit,
            policies: options.policies.clone(),
            conflicts: flow.conflicts.clone(),
            ddl: flow.ddl.as_ref().map(|ddl| DdlSettings { owner: ddl.owner.clone() }),
            sequence_margin: options.sequence_margin,
            ahead: options.ahead,
            sessions: options.sessions,
            retry: options.retry,
        })
    }

    /// What a flow's pump needs to know.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a flow that has no pump.
    pub fn pump_settings(&self, flow: &Flow) -> Result<PumpSettings, Error> {
        let unknown = |what, name: &str| Error::Unknown { what, name: name.to_owned(), known: Vec::new() };
        let pump = flow.pump.as_ref().ok_or_else(|| unknown("pump of flow", &flow.name))?;
        let meeting = match &pump.target_initiated {
            Some((listen, _)) => Meeting::Listen(listen.clone()),
            None => {
                let address = self.site_options.get(&flow.to).and_then(|site| site.address.clone());
                Meeting::Connect(address.ok_or_else(|| unknown("address of site", &flow.to))?)
            }
        };
        Ok(PumpSettings {
            group: group_name(&flow.name, Program::Pump),
            deployment: self.name.clone(),
            flow: flow.name.clone(),
            site: flow.at.clone(),
            peer: flow.to.clone(),
            meeting,
            link: self.link_settings(&flow.at)?,
            epoch: trail_epoch(&self.trail(flow)),
            trail: self.trail(flow),
            state_directory: self.state_directory.clone(),
            bandwidth: pump.bandwidth,
            compression: pump.compression,
        })
    }

    fn kafka_options(&self) -> Result<&KafkaOptions, Error> {
        let unknown = || Error::Unknown { what: "section", name: "kafka".to_owned(), known: Vec::new() };
        self.kafka.as_ref().ok_or_else(unknown)
    }

    /// The topic that a flow's trail goes through.
    ///
    /// # Errors
    /// [`Error::Unknown`] where the configuration has no Kafka.
    pub fn topic_settings(&self, flow: &Flow) -> Result<TopicSettings, Error> {
        let kafka = self.kafka_options()?;
        Ok(TopicSettings {
            name: format!("{}{}", kafka.topic_prefix, flow.name),
            replication: kafka.replication,
            min_in_sync: kafka.min_in_sync,
            retention: kafka.retention,
            record_size: kafka.record_size,
        })
    }

    /// What a flow's pump into Kafka needs to know.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a flow that has no pump, or where the configuration has no Kafka.
    pub fn kafka_pump_settings(&self, flow: &Flow) -> Result<KafkaPumpSettings, Error> {
        let unknown = || Error::Unknown { what: "pump of flow", name: flow.name.clone(), known: Vec::new() };
        let pump = flow.pump.as_ref().ok_or_else(unknown)?;
        let kafka = self.kafka_options()?;
        Ok(KafkaPumpSettings {
            group: group_name(&flow.name, Program::Pump),
            deployment: self.name.clone(),
            flow: flow.name.clone(),
            site: flow.at.clone(),
            kafka: kafka.client.clone(),
            topic: self.topic_settings(flow)?.name,
            record_size: kafka.record_size,
            epoch: trail_epoch(&self.trail(flow)),
            trail: self.trail(flow),
            state_directory: self.state_directory.clone(),
            compression: pump.compression,
        })
    }

    /// What the reader of a flow that comes through Kafka needs to know.
    ///
    /// # Errors
    /// [`Error::Unknown`] where the configuration has no Kafka.
    pub fn kafka_reader_settings(&self, flow: &Flow) -> Result<KafkaReaderSettings, Error> {
        Ok(KafkaReaderSettings {
            group: group_name(&flow.name, Program::Collector),
            deployment: self.name.clone(),
            flow: flow.name.clone(),
            from: flow.at.clone(),
            kafka: self.kafka_options()?.client.clone(),
            topic: self.topic_settings(flow)?.name,
            epoch: epoch_floor(&self.trail(flow)),
            trail: self.trail(flow),
            state_directory: self.state_directory.clone(),
            file_size: flow.extract.file_size,
            keep_free: self.manager.alarms.trail_free.critical,
        })
    }

    /// What a flow's feed needs to know.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a flow that has no feed, or where the configuration has no Kafka.
    pub fn feed_settings(&self, flow: &Flow) -> Result<FeedSettings, Error> {
        let unknown = || Error::Unknown { what: "feed of flow", name: flow.name.clone(), known: Vec::new() };
        let feed = flow.feed.as_ref().ok_or_else(unknown)?;
        let kafka = self.kafka_options()?;
        let pair = |table: &crate::configuration::TableName| (table.schema.clone(), table.name.clone());
        let keys = flow.key_columns.iter().map(|(table, columns)| (pair(table), columns.clone()));
        let shape = Shape {
            numerics: feed.numerics,
            schemas: feed.schemas,
            transactions: feed.transactions,
            tombstones: feed.tombstones,
            truncates: feed.truncates,
            messages: feed.messages,
            exclude: feed.exclude.iter().map(pair).collect(),
            key_columns: keys.collect(),
            ..Shape::new(&feed.topic_prefix, self.source(flow)?.extract.endpoint.database())
        };
        Ok(FeedSettings {
            group: group_name(&flow.name, Program::Feed),
            flow: flow.name.clone(),
            kafka: kafka.client.clone(),
            shape,
            topics: FeedTopics {
                create: feed.create_topics,
                partitions: feed.partitions,
                replication: kafka.replication,
                min_in_sync: kafka.min_in_sync,
                retention: feed.retention,
                compact: feed.compact,
            },
            event_size: feed.event_size,
            heartbeat: feed.heartbeat,
            trail: self.trail(flow),
            state_directory: self.state_directory.clone(),
        })
    }

    /// What a site's collector needs to know.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a site that no flow has a pump to.
    pub fn collector_settings(&self, site: &str) -> Result<CollectorSettings, Error> {
        let flows: Vec<&Flow> = self.collected(site).collect();
        let Some(first) = flows.first() else {
            let known = self.flows.values().filter(|flow| flow.pump.is_some()).map(|flow| flow.to.clone());
            return Err(Error::Unknown {
                what: "collector at site",
                name: site.to_owned(),
                known: known.collect(),
            });
        };
        let is_met = |flow: &&&Flow| flow.pump.as_ref().is_some_and(|pump| pump.target_initiated.is_none());
        let listens = flows.iter().find(is_met).and_then(|_| self.site_options.get(site)?.listen.clone());
        let connect = flows.iter().filter_map(|flow| {
            let (_, address) = flow.pump.as_ref()?.target_initiated.as_ref()?;
            Some((flow.at.clone(), address.clone()))
        });
        let accepted = |flow: &&Flow| AcceptedFlow {
            flow: flow.name.clone(),
            from: flow.at.clone(),
            epoch: epoch_floor(&self.trail(flow)),
        };
        Ok(CollectorSettings {
            group: group_name(site, Program::Collector),
            deployment: self.name.clone(),
            site: site.to_owned(),
            connect: connect.collect(),
            listen: listens,
            link: self.link_settings(site)?,
            trail_directory: self.trail_directory.clone(),
            state_directory: self.state_directory.clone(),
            file_size: first.extract.file_size,
            keep_free: self.manager.alarms.trail_free.critical,
            flows: flows.iter().map(accepted).collect(),
        })
    }

    /// How a site proves to the others who it is, and the limits of the link between them.
    ///
    /// # Errors
    /// [`Error::Unknown`] where the configuration has no link.
    pub fn link_settings(&self, site: &str) -> Result<LinkSettings, Error> {
        let unknown = || Error::Unknown { what: "section", name: "link".to_owned(), known: Vec::new() };
        let link = self.link.as_ref().ok_or_else(unknown)?;
        let file = |name: &str, kind: &str| link.certificates.join(format!("{name}.{kind}"));
        let credentials = Credentials::Certificates {
            authority: file("ca", "crt"),
            certificate: file(site, "crt"),
            key: file(site, "key"),
        };
        let mut settings = LinkSettings::new(credentials);
        settings.connect_limit = link.connect_timeout;
        settings.ping_every = link.ping_interval;
        settings.silence = link.silence;
        settings.socket_buffer = link.socket_buffer.and_then(|bytes| usize::try_from(bytes).ok());
        settings.retry_first = link.retry_delay;
        settings.retry_longest = link.retry_longest_delay;
        Ok(settings)
    }

    /// The directory of a group's local store.
    pub fn store(&self, group: &Group<'_>) -> PathBuf {
        self.state_directory.join("store").join(&group.name)
    }
}

/// The epoch of a trail: that of its newest file. What cannot be read is for its reader to complain about.
fn trail_epoch(directory: &std::path::Path) -> u64 {
    let listing = irongate_trail::list(&irongate_trail::Directory::new(directory));
    listing.ok().and_then(|listing| listing.epoch()).unwrap_or(FIRST_EPOCH)
}

/// The least epoch that a trail takes. Where it cannot be told, nothing is taken.
fn epoch_floor(directory: &std::path::Path) -> u64 {
    match irongate_trail::epoch_floor(&irongate_trail::Directory::new(directory)) {
        Ok(floor) => floor.unwrap_or(FIRST_EPOCH),
        Err(error) => {
            tracing::error!(%error, "cannot tell which epochs the trail takes: it takes none");
            u64::MAX
        }
    }
}

fn group(flow: &Flow, program: Program) -> Group<'_> {
    let is_there = matches!(program, Program::Replicat | Program::Collector) && flow.pump.is_some();
    let site = match (program, &flow.feed) {
        (Program::Feed, Some(feed)) => &feed.at,
        _ if is_there => &flow.to,
        _ => &flow.at,
    };
    Group { name: group_name(&flow.name, program), flow: Some(flow), program, site }
}

/// A flow's renames as Replicat takes them.
fn names(flow: &Flow) -> Names {
    let mut names = Names::default();
    for rename in &flow.renames {
        match rename {
            Rename::Schema { source, target } => {
                names.schemas.insert(source.clone(), target.clone());
            }
            Rename::Table { source, target } => {
                let pair =
                    |table: &crate::configuration::TableName| (table.schema.clone(), table.name.clone());
                names.tables.insert(pair(source), pair(target));
            }
        }
    }
    names
}
