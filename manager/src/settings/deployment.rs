//! A manager's settings from a deployment's configuration.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use irongate_checkpoint::Program;
use irongate_deployment::configuration::Flow;
use irongate_deployment::groups::group_name;
use irongate_deployment::{Configuration, Group};

use super::{FlowWatch, GroupSpec, Hook, ManagerSettings, Purge};
use crate::error::Error;

/// How often a source writes a heartbeat unless it is told otherwise.
const HEARTBEAT: Duration = Duration::from_secs(10);

impl ManagerSettings {
    /// The groups and flows that `configuration` has at `site`. Each group is started as
    /// `executable --config FILE --site SITE run GROUP`. Whatever the configuration does not say has its default.
    ///
    /// # Errors
    /// [`Error::Deployment`] for a site or database that the configuration does not have.
    pub fn from_configuration(
        configuration: &Configuration,
        site: &str,
        executable: &Path,
    ) -> Result<Self, Error> {
        if !configuration.sites.contains(site) {
            return Err(Error::Deployment(irongate_deployment::Error::Unknown {
                what: "site",
                name: site.to_owned(),
                known: configuration.sites.iter().cloned().collect(),
            }));
        }
        let mut settings = Self::new(site, &configuration.state_directory);
        let groups = configuration.groups(Some(site));
        settings.groups = groups.iter().map(|group| spec(configuration, site, executable, group)).collect();
        if let Some(options) = configuration.site_options.get(site) {
            settings.http = options.http;
            settings.hook = options.notify.as_ref().map(Hook::new);
        }
        // A flow with a pump has a trail at both sites.
        let is_here = |flow: &&Flow| flow.at == site || flow.pump.is_some() && flow.to == site;
        let flows = configuration.flows.values().filter(is_here);
        settings.flows = flows.map(|flow| watch(configuration, flow, &groups)).collect::<Result<_, _>>()?;
        Ok(settings)
    }
}

fn spec(configuration: &Configuration, site: &str, executable: &Path, group: &Group<'_>) -> GroupSpec {
    let words: [&std::ffi::OsStr; 6] = [
        "--config".as_ref(),
        configuration.file.as_os_str(),
        "--site".as_ref(),
        site.as_ref(),
        "run".as_ref(),
        group.name.as_ref(),
    ];
    GroupSpec {
        name: group.name.clone(),
        flow: group.flow_name().to_owned(),
        program: group.program,
        autostart: group.flow.is_none_or(|flow| flow.autostart),
        executable: executable.to_owned(),
        arguments: words.into_iter().map(OsString::from).collect(),
    }
}

fn watch(configuration: &Configuration, flow: &Flow, groups: &[Group<'_>]) -> Result<FlowWatch, Error> {
    let here = |program| {
        let name = group_name(&flow.name, program);
        groups.iter().any(|group| group.name == name).then_some(name)
    };
    let extract = here(Program::Extract);
    let source = match &extract {
        Some(_) => Some(configuration.source(flow)?.extract.endpoint.clone()),
        None => None,
    };
    let keep = || Purge { keep: flow.purge.keep, keep_files: flow.purge.keep_files as usize };
    Ok(FlowWatch {
        name: flow.name.clone(),
        trail: Some(configuration.trail(flow)),
        replicat: here(Program::Replicat),
        // A reverse flow that waits for its day has no slot.
        slot: extract.as_ref().filter(|_| flow.autostart).map(|_| flow.slot.clone()),
        heartbeat: extract.as_ref().filter(|_| flow.autostart).map(|_| HEARTBEAT),
        extract,
        source,
        purge: flow.purge.purge.then(keep),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_gives_a_manager_for_each_of_its_sites() {
        let file = Path::new("/etc/irongate.toml");
        let configuration = Configuration::parse(Configuration::example(), file).unwrap();
        let settings =
            ManagerSettings::from_configuration(&configuration, "secondary", Path::new("/bin/irongate"))
                .unwrap();
        settings.review().unwrap();
        let extract = settings.groups.iter().find(|group| group.name == "csp-extract").unwrap();
        assert_eq!(extract.executable, Path::new("/bin/irongate"));
        assert_eq!(
            extract.arguments,
            ["--config", "/etc/irongate.toml", "--site", "secondary", "run", "csp-extract"]
        );
        let flow = settings.flows.iter().find(|flow| flow.name == "csp").unwrap();
        assert_eq!(flow.extract.as_deref(), Some("csp-extract"));
        assert_eq!(flow.slot.as_deref(), Some("irongate_contact_csp"));
        assert_eq!(flow.source.as_ref().unwrap().user(), "irongate_extract");
        assert!(flow.purge.is_some() && flow.heartbeat.is_some());
        let error = ManagerSettings::from_configuration(&configuration, "moon", file).unwrap_err();
        assert_eq!(error.to_string(), "there is no site \"moon\"");
        assert!(error.hint().unwrap().contains("secondary"));
    }
}
