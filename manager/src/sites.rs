//! A deployment as one terminal sees it: every site's manager asked from one of them.
//!
//! What concerns this site goes through its own socket or files; what concerns another one goes to that site's manager,
//! to all of them at once. A site that cannot be asked is an answer too: whoever asks is told what is there and what is
//! missing, and never that nothing is.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use irongate_checkpoint::Program;
use irongate_deployment::configuration::Flow;
use irongate_deployment::groups::group_name;
use irongate_deployment::{Configuration, Group, Lag, Stage};
use tokio::task::JoinSet;

use crate::control::Control;
use crate::error::Error;
use crate::info::Info;
use crate::watch::StageView;

/// All sites, seen from one.
#[derive(Clone, Copy, Debug)]
pub struct Sites<'a> {
    configuration: &'a Configuration,
    here: &'a str,
    patience: Option<Duration>,
}

/// A site that is meant, with the names of its groups.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meant {
    /// The site.
    pub site: String,
    /// Its groups.
    pub groups: Vec<String>,
}

/// What a site has answered.
#[derive(Debug)]
pub struct Answered<T> {
    /// The site.
    pub site: String,
    /// What was asked of which.
    pub groups: Vec<String>,
    /// Its answer, or why there is none.
    pub answer: Result<T, Error>,
}

impl<'a> Sites<'a> {
    /// The sites of a deployment, seen from `here`.
    pub fn new(configuration: &'a Configuration, here: &'a str) -> Self {
        Self { configuration, here, patience: None }
    }

    /// The same with another limit for each answer than that of [`Control`].
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Whether the manager of a site can be asked: this one's, or another one's that has an address.
    pub fn is_reachable(&self, site: &str) -> bool {
        site == self.here
            || self.configuration.site_options.get(site).is_some_and(|site| site.control_address.is_some())
    }

    /// The sites at which there are groups that names of groups and flows mean (all if there is no name), each with those
    /// groups; this site first.
    ///
    /// # Errors
    /// [`Error::Deployment`] for a name that the configuration does not have.
    pub fn meant(&self, names: &[String]) -> Result<Vec<Meant>, Error> {
        let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for group in self.configuration.select_groups(names, None)? {
            let Group { name, site, .. } = group;
            found.entry(site).or_default().push(name);
        }
        let (mut meant, others): (Vec<_>, Vec<_>) = found
            .into_iter()
            .map(|(site, groups)| Meant { site: site.to_owned(), groups })
            .partition(|meant| meant.site == self.here);
        meant.extend(others);
        Ok(meant)
    }

    /// Asks the managers of sites, all at once. The answers are in the order of `meant`.
    ///
    /// Cancelling does not take back what was ordered.
    pub async fn ask<T, F>(
        &self,
        meant: Vec<Meant>,
        question: impl Fn(Control, Vec<String>) -> F,
    ) -> Vec<Answered<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let mut asked = JoinSet::new();
        for (place, Meant { site, groups }) in meant.into_iter().enumerate() {
            let control = Control::between(self.configuration, self.here, &site).map(|control| {
                let control = match self.patience {
                    Some(patience) => control.with_patience(patience),
                    None => control,
                };
                question(control, groups.clone())
            });
            asked.spawn(async move {
                let answer = match control {
                    Ok(question) => question.await,
                    Err(error) => Err(error),
                };
                (place, Answered { site, groups, answer })
            });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(place, _)| *place);
        answers.into_iter().map(|(_, answered)| answered).collect()
    }

    /// How far a flow is behind: measured here as far as it runs here, with what the managers of `others` show of the rest.
    ///
    /// # Errors
    /// Those of [`irongate_deployment::lag`].
    pub async fn lag(&self, flow: &Flow, others: &BTreeMap<String, Info>) -> Result<Lag, Error> {
        let own = irongate_deployment::lag(self.configuration, flow).await?;
        let seen = |site: &str, program: Program, of: fn(&crate::watch::FlowView) -> StageView| {
            let info = others.get(site).filter(|_| site != self.here)?;
            let view = info.seen.flows.iter().find(|view| view.name == flow.name)?;
            let StageView { lag_bytes, lag_seconds } = of(view);
            let name = group_name(&flow.name, program);
            let state = info.groups.iter().find(|group| group.name == name).map(|group| group.state);
            Some(Stage { state, lag_bytes, lag_seconds })
        };
        let target = if flow.pump.is_some() { &flow.to } else { &flow.at };
        let Lag { decoded, extract, pump, feed, replicat, source_silent, .. } = own;
        // The other site's Extract measures against its own trail; what the source says to this site changes nothing.
        let source_silent = source_silent.filter(|_| !others.contains_key(&flow.at) || flow.at == self.here);
        Ok(Lag::of_stages(
            &flow.name,
            seen(&flow.at, Program::Extract, |view| view.decoded).unwrap_or(decoded),
            seen(&flow.at, Program::Extract, |view| view.extract).unwrap_or(extract),
            pump.map(|pump| seen(&flow.at, Program::Pump, |view| view.pump).unwrap_or(pump)),
            seen(target, Program::Replicat, |view| view.replicat).unwrap_or_else(|| {
                // The trail here ends where the pump begins.
                if target == self.here || flow.pump.is_none() { replicat } else { Stage::default() }
            }),
            source_silent,
        )
        .with_feed(match (&flow.feed, feed) {
            (Some(options), Some(feed)) => {
                Some(seen(&options.at, Program::Feed, |view| view.feed).unwrap_or(feed))
            }
            _ => None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn names_mean_groups_at_the_sites_that_run_them() {
        let file = Path::new("/etc/irongate.toml");
        let configuration = Configuration::parse(Configuration::reference(), file).unwrap();
        let sites = Sites::new(&configuration, "secondary");
        let meant = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            let meant = sites.meant(&names).unwrap().into_iter();
            meant.map(|meant| (meant.site, meant.groups.join(" "))).collect::<Vec<_>>()
        };
        let pair = |site: &str, groups: &str| (site.to_owned(), groups.to_owned());
        assert_eq!(
            meant(&["csp"]),
            [pair("secondary", "csp-replicat"), pair("main", "csp-extract csp-pump")],
            "this site first"
        );
        assert_eq!(meant(&["main-collector"]), [pair("main", "main-collector")]);
        assert_eq!(meant(&[]).len(), 2);
        assert!(sites.meant(&["nobody".to_owned()]).is_err());
    }
}
