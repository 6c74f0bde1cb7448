//! A manager's settings from a deployment's configuration.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use irongate_checkpoint::Program;
use irongate_deployment::configuration::{Flow, Limits, ManagerOptions};
use irongate_deployment::groups::group_name;
use irongate_deployment::{Configuration, Group};

use super::{
    FlowWatch, GroupSpec, Hook, ManagerSettings, Purge, Remote, RestartPolicy, SequenceWatch, Threshold,
    Thresholds,
};
use crate::control::{Caller, Control};
use crate::error::Error;

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
        settings.take_options(&configuration.manager);
        settings.keys = configuration.concerns(site);
        settings.hooks = configuration.hooks.get(site).cloned().unwrap_or_default();
        if let Some(options) = configuration.site_options.get(site) {
            settings.http = options.http;
            settings.hook = options.notify.as_ref().map(Hook::new);
            if let Some(listen) = &options.control_listen {
                settings.remote = Some(Remote {
                    site: site.to_owned(),
                    deployment: configuration.name.clone(),
                    listen: listen.clone(),
                    link: configuration.link_settings(site)?,
                    peers: configuration.sites.iter().filter(|other| *other != site).cloned().collect(),
                    orders: options.control_orders,
                });
            }
        }
        // A flow with a pump has a trail at both sites.
        let is_here = |flow: &&Flow| flow.at == site || flow.pump.is_some() && flow.to == site;
        let flows = configuration.flows.values().filter(is_here);
        settings.flows = flows.map(|flow| watch(configuration, flow, &groups)).collect::<Result<_, _>>()?;
        let carries = configuration.flows.values().any(|flow| flow.pump.is_some());
        if let Some(link) = configuration.link.as_ref().filter(|_| carries || settings.remote.is_some()) {
            settings.certificates =
                [site, "ca"].map(|name| link.certificates.join(format!("{name}.crt"))).into();
        }
        Ok(settings)
    }

    fn take_options(&mut self, options: &ManagerOptions) {
        let ManagerOptions { stop_limit, watch_interval, restart, alarms, .. } = options;
        (self.stop_limit, self.watch_interval) = (*stop_limit, *watch_interval);
        self.restart = RestartPolicy {
            attempts: restart.attempts,
            first: restart.delay,
            longest: restart.longest_delay,
            reset: restart.reset,
        };
        let seconds = |limits: Limits<Duration>| Limits {
            warning: limits.warning.map(|time| time.as_secs_f64()),
            critical: limits.critical.map(|time| time.as_secs_f64()),
        };
        let bytes = |limits: Limits<u64>| Limits {
            warning: limits.warning.map(|bytes| bytes as f64),
            critical: limits.critical.map(|bytes| bytes as f64),
        };
        // What is never too much lies beyond every value.
        let more = |limits: Limits<f64>| threshold(limits, f64::INFINITY);
        let less = |limits: Limits<f64>| threshold(limits, f64::NEG_INFINITY);
        self.thresholds = Thresholds {
            lag_bytes: more(bytes(alarms.lag_bytes)),
            lag_seconds: more(seconds(alarms.lag)),
            slot_retained_bytes: more(bytes(alarms.slot_retained)),
            slot_safe_bytes: less(bytes(alarms.slot_safe)),
            trail_free_bytes: less(bytes(alarms.trail_free)),
            errors_pending: Some(super::ERRORS_PENDING),
            certificate_seconds: less(seconds(alarms.certificate)),
            patience: alarms.patience,
        };
    }
}

fn threshold(limits: Limits<f64>, never: f64) -> Option<Threshold> {
    let Limits { warning, critical } = limits;
    if warning.is_none() && critical.is_none() {
        return None;
    }
    Some(Threshold { warning: warning.unwrap_or(never), critical: critical.unwrap_or(never) })
}

impl Control {
    /// The manager of site `to`, as it is reached from `site`: over its socket if that is the same, else over the link
    /// between the sites.
    ///
    /// # Errors
    /// [`Error::NoAddress`]; [`Error::Deployment`] where there is no link between the sites.
    pub fn between(configuration: &Configuration, site: &str, to: &str) -> Result<Self, Error> {
        if site == to {
            return Ok(Self::of(&configuration.state_directory, site));
        }
        let address = configuration.site_options.get(to).and_then(|options| options.control_address.clone());
        let address = address.ok_or_else(|| Error::NoAddress { site: to.to_owned() })?;
        let caller =
            Caller { deployment: configuration.name.clone(), site: site.to_owned(), to: to.to_owned() };
        Ok(Self::from_afar(address, configuration.link_settings(site)?, caller))
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
        // A feed waits for its flow's trail, and for what comes after its flow has ended: a change of sites does not start it.
        autostart: group.program == Program::Feed || group.flow.is_none_or(|flow| flow.autostart),
        executable: executable.to_owned(),
        arguments: words.into_iter().map(OsString::from).collect(),
        turn: group.flow.filter(|flow| group.program != Program::Feed && configuration.is_reverse(flow)).map(|flow| {
            format!(
                "site \"{}\" writes database \"{}\" in normal mode; this flow is started by a switchover (irongate \
                 switchover --to {}), which makes what it needs; if site \"{}\" writes already",
                flow.to, flow.database, flow.from, flow.from
            )
        }),
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
    let replicat = here(Program::Replicat);
    let target = match &replicat {
        Some(_) => Some(configuration.target(flow)?.replicat.endpoint.clone()),
        None => None,
    };
    let comes = replicat.is_some() && extract.is_none();
    let is_active_passive = configuration.active_passive().contains(&flow.database.as_str());
    let follows = |every| SequenceWatch { every, flow: flow.clone() };
    let compare = match configuration.manager.compare_interval.filter(|_| here(Program::Replicat).is_some()) {
        Some(every) => {
            let rate = configuration.manager.compare_rate;
            Some(crate::compare::watched(configuration, flow, every, rate)?)
        }
        None => None,
    };
    let keep = || Purge { keep: flow.purge.keep, keep_files: flow.purge.keep_files as usize };
    Ok(FlowWatch {
        name: flow.name.clone(),
        trail: Some(configuration.trail(flow)),
        pump: here(Program::Pump),
        feed: here(Program::Feed),
        replicat,
        target,
        expects: configuration.manager.heartbeat_interval.filter(|_| comes),
        slot: extract.as_ref().map(|_| flow.slot.clone()),
        heartbeat: extract.as_ref().and(configuration.manager.heartbeat_interval),
        // Where both sites write, each gives values of its own.
        sequences: extract
            .as_ref()
            .filter(|_| is_active_passive)
            .and(configuration.manager.sequence_interval)
            .map(follows),
        compare,
        waits: !flow.autostart,
        extract,
        source,
        site: is_active_passive.then(|| flow.from.clone()),
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
        assert!(flow.purge.is_some() && flow.heartbeat.is_some() && flow.sequences.is_some());
        // What the file does not say is what a manager does anyway.
        let anyway = ManagerSettings::new("secondary", "/");
        assert_eq!(settings.restart, anyway.restart);
        assert_eq!(settings.thresholds, anyway.thresholds);
        assert_eq!(
            (settings.stop_limit, settings.watch_interval),
            (anyway.stop_limit, anyway.watch_interval)
        );
        let error = ManagerSettings::from_configuration(&configuration, "moon", file).unwrap_err();
        assert_eq!(error.to_string(), "there is no site \"moon\"");
        assert!(error.hint().unwrap().contains("secondary"));
    }
}
