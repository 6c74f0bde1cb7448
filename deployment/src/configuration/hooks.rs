//! Hooks: programs in a site's own hands that a run has executed there.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::problem::Problems;
use super::units::Time;

/// `[hooks.SITE.HOOK]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HookSection {
    path: PathBuf,
    time_limit: Option<Spanned<Time>>,
    #[serde(default)]
    environment: BTreeMap<Spanned<String>, String>,
}

/// What a hook is for. A run knows it by this name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookName {
    /// Stops the applications where they write.
    StopApplications,
    /// Starts them where they are to write.
    StartApplications,
    /// Keeps them out by other means than the database's.
    Fence,
    /// Lets them in again.
    Open,
    /// Points names that are not in the DNS, or in one that takes no updates.
    PointName,
    /// Brings a changed name to hosts that would not look for it.
    PushName,
    /// Tells people.
    Notify,
    /// Lets what acts by itself act.
    EnableJobs,
    /// Keeps it quiet.
    DisableJobs,
    /// Asks from elsewhere whether a site is lost.
    Probe,
}

impl HookName {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::StopApplications,
        Self::StartApplications,
        Self::Fence,
        Self::Open,
        Self::PointName,
        Self::PushName,
        Self::Notify,
        Self::EnableJobs,
        Self::DisableJobs,
        Self::Probe,
    ];

    /// Those that take each other back.
    const PAIRS: [(Self, Self); 3] = [
        (Self::StopApplications, Self::StartApplications),
        (Self::Fence, Self::Open),
        (Self::DisableJobs, Self::EnableJobs),
    ];

    /// The name as it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::StopApplications => "stop-applications",
            Self::StartApplications => "start-applications",
            Self::Fence => "fence",
            Self::Open => "open",
            Self::PointName => "point-name",
            Self::PushName => "push-name",
            Self::Notify => "notify",
            Self::EnableJobs => "enable-jobs",
            Self::DisableJobs => "disable-jobs",
            Self::Probe => "probe",
        }
    }
}

impl fmt::Display for HookName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for HookName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|name| name.word() == text).ok_or(())
    }
}

/// A hook of a site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HookOptions {
    /// The program.
    pub path: PathBuf,
    /// After so long it is killed, with everything that it has started.
    pub time_limit: Duration,
    /// What it finds in its environment besides.
    pub environment: BTreeMap<String, String>,
}

impl HookOptions {
    /// Why it could not be run here, if it could not.
    pub fn problem(&self) -> Option<String> {
        match std::fs::metadata(&self.path) {
            Err(error) => Some(error.to_string()),
            Ok(facts) if !facts.is_file() => Some("it is not a plain file".to_owned()),
            Ok(facts) if facts.mode() & 0o002 != 0 => {
                Some(format!("anybody can write it ({:04o})", facts.mode() & 0o7777))
            }
            Ok(_) => access(&self.path, Access::EXEC_OK)
                .err()
                .map(|error| format!("it cannot be executed: {}", io::Error::from(error))),
        }
    }
}

/// The hooks of a site.
pub(super) fn review(
    sections: BTreeMap<Spanned<String>, HookSection>,
    directory: &Path,
    problems: &mut Problems<'_>,
) -> BTreeMap<HookName, HookOptions> {
    let mut hooks: BTreeMap<HookName, HookOptions> = BTreeMap::new();
    let mut places = BTreeMap::new();
    for (name, section) in sections {
        let options = section.review(directory, problems);
        match name.get_ref().parse::<HookName>() {
            Ok(hook) => {
                places.insert(hook, name.span());
                hooks.insert(hook, options);
            }
            Err(()) => {
                let known = HookName::ALL.map(HookName::word).join(", ");
                let reason = format!("no run has a hook \"{}\"", name.get_ref());
                problems.add(name.span(), reason, Some(format!("there are: {known}")));
            }
        }
    }
    for (close, open) in HookName::PAIRS {
        let (there, lacking) = match (places.get(&close), places.get(&open)) {
            (Some(at), None) => (at, open),
            (None, Some(at)) => (at, close),
            _ => continue,
        };
        problems.add(
            there.clone(),
            format!("\"{close}\" and \"{open}\" take each other back, and this site has only one of them"),
            Some(format!("add \"{lacking}\" to this site")),
        );
    }
    hooks
}

impl HookSection {
    fn review(self, directory: &Path, problems: &mut Problems<'_>) -> HookOptions {
        let time_limit = self.time_limit.as_ref().map_or(Duration::from_secs(60), |time| time.get_ref().0);
        if let Some(at) = self.time_limit.filter(|_| time_limit < Duration::from_millis(1)) {
            problems.add(at.span(), "a time of nothing", Some("use \"60s\", or what it takes".into()));
        }
        let mut environment = BTreeMap::new();
        for (name, value) in self.environment {
            let text = name.get_ref();
            let is_name = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            let remedy = if !is_name || value.contains('\0') {
                "use letters, digits and \"_\" for its name, and no NUL character in its value"
            } else if text.starts_with("IRONGATE_") {
                "use another name: these are the run's own"
            } else if text == "PGPASSWORD" {
                "name a passfile with PGPASSFILE: this file is no place for secrets"
            } else {
                environment.insert(name.into_inner(), value);
                continue;
            };
            let reason = format!("\"{text}\" cannot be a variable of a hook");
            problems.add(name.span(), reason, Some(remedy.into()));
        }
        HookOptions { path: directory.join(self.path), time_limit, environment }
    }
}
