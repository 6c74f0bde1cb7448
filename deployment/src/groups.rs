//! Groups: the processes that a configuration describes, and the settings that each of them needs.

use std::path::PathBuf;

use irongate_apply::{Names, ReplicatSettings};
use irongate_capture::machine::SkipOrigins as Skip;
use irongate_capture::pgoutput::Streaming;
use irongate_capture::{Settings as ExtractSettings, Source};
use irongate_checkpoint::Program;

use crate::configuration::{Configuration, Flow, Rename, SkipOrigins};
use crate::error::Error;

/// One configured process.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// Its name: `<flow>-extract` or `<flow>-replicat`.
    pub name: String,
    /// Its flow.
    pub flow: &'a Flow,
    /// What it runs.
    pub program: Program,
    /// The site that runs it.
    pub site: &'a str,
}

/// The name of a flow's group.
pub fn group_name(flow: &str, program: Program) -> String {
    format!("{flow}-{program}")
}

impl Configuration {
    /// All groups, by flow and in the order in which rows pass through them; with `site`, those that run there.
    pub fn groups(&self, site: Option<&str>) -> Vec<Group<'_>> {
        let programs = [Program::Extract, Program::Replicat];
        self.flows
            .values()
            .filter(|flow| site.is_none_or(|site| flow.at == site))
            .flat_map(|flow| programs.map(|program| group(flow, program)))
            .collect()
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
            if !self.groups(None).iter().any(|group| group.name == *name || group.flow.name == *name) {
                return Err(Error::Unknown {
                    what: "group or flow",
                    name: name.clone(),
                    known: all.into_iter().map(|group| group.name).collect(),
                });
            }
        }
        let meant = |group: &Group<'_>| {
            names.is_empty() || names.iter().any(|name| group.name == *name || group.flow.name == *name)
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
        source.streaming = if options.streaming { Streaming::On } else { Streaming::Off };
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
            trail: self.trail(flow),
            state_directory: self.state_directory.clone(),
            names: names(flow),
            key_columns: flow.key_columns.iter().map(key).collect(),
            grouping: options.grouping,
            synchronous_commit: options.synchronous_commit,
            policies: options.policies.clone(),
            retry: options.retry,
        })
    }

    /// The directory of a group's local store.
    pub fn store(&self, group: &Group<'_>) -> PathBuf {
        self.state_directory.join("store").join(&group.name)
    }
}

fn group(flow: &Flow, program: Program) -> Group<'_> {
    Group { name: group_name(&flow.name, program), flow, program, site: &flow.at }
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
