//! What managers do at every site: how they start groups again, how often they look, and what they call too much.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::problem::Problems;
use super::units::{Bytes, Limit, Time};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A database should not be asked for anything more often.
const LEAST_INTERVAL: Duration = Duration::from_millis(10);

/// `[manager]` as it is written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct ManagerSection {
    stop_limit: Option<Spanned<Time>>,
    watch_interval: Option<Spanned<Time>>,
    heartbeat_interval: Option<Spanned<Limit<Time>>>,
    sequence_interval: Option<Spanned<Limit<Time>>>,
    compare_interval: Option<Spanned<Limit<Time>>>,
    compare_rate: Option<Spanned<Limit<Bytes>>>,
    compare_age: Option<Spanned<Limit<Time>>>,
    compare_required: Option<bool>,
    #[serde(default)]
    restart: RestartSection,
    #[serde(default)]
    alarms: AlarmSection,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RestartSection {
    attempts: Option<u32>,
    delay: Option<Spanned<Time>>,
    longest_delay: Option<Spanned<Time>>,
    reset: Option<Time>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct AlarmSection {
    patience: Option<Spanned<u32>>,
    lag_warning: Option<Spanned<Limit<Time>>>,
    lag_critical: Option<Spanned<Limit<Time>>>,
    lag_bytes_warning: Option<Spanned<Limit<Bytes>>>,
    lag_bytes_critical: Option<Spanned<Limit<Bytes>>>,
    slot_retained_warning: Option<Spanned<Limit<Bytes>>>,
    slot_retained_critical: Option<Spanned<Limit<Bytes>>>,
    slot_safe_warning: Option<Spanned<Limit<Bytes>>>,
    slot_safe_critical: Option<Spanned<Limit<Bytes>>>,
    trail_free_warning: Option<Spanned<Limit<Bytes>>>,
    trail_free_critical: Option<Spanned<Limit<Bytes>>>,
    certificate_warning: Option<Spanned<Limit<Time>>>,
    certificate_critical: Option<Spanned<Limit<Time>>>,
}

/// What managers do at every site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManagerOptions {
    /// How long a group may take to stop before people are told; at the manager's own end, before it is killed.
    pub stop_limit: Duration,
    /// How often flows and disks are looked at.
    pub watch_interval: Duration,
    /// How often a source is made to write a heartbeat; `None` is never.
    pub heartbeat_interval: Option<Duration>,
    /// How often a source's sequences are looked at, where one site writes the database at a time; `None` is never.
    pub sequence_interval: Option<Duration>,
    /// How old the last compare of a flow is before its ends are compared again in the background; `None` is never.
    pub compare_interval: Option<Duration>,
    /// Bytes that a compare in the background reads in a second, at both sides together; `None` is without a limit.
    pub compare_rate: Option<u64>,
    /// How old the last compare may be where the sites are to change their roles; `None` is any age.
    pub compare_age: Option<Duration>,
    /// Whether a change of roles is refused without such a compare, or with one that found differences; else it is noted.
    pub compare_required: bool,
    /// How a group that died is started again.
    pub restart: RestartOptions,
    /// What is too much.
    pub alarms: AlarmOptions,
}

/// How a group that died is started again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestartOptions {
    /// Deaths in a row after which it is tried again; one more, and it is abended.
    pub attempts: u32,
    /// Pause before the first attempt; doubled each time.
    pub delay: Duration,
    /// The longest pause.
    pub longest_delay: Duration,
    /// After so long without an end, earlier deaths do not count any more.
    pub reset: Duration,
}

/// A warning and what is worse; `None` is never too much.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits<T> {
    /// From here on a warning.
    pub warning: Option<T>,
    /// From here on an error.
    pub critical: Option<T>,
}

/// What is too much.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlarmOptions {
    /// How often in a row a value must be too much before an alarm is raised.
    pub patience: u32,
    /// A stage's lag.
    pub lag: Limits<Duration>,
    /// A stage's lag in bytes of the source's log.
    pub lag_bytes: Limits<u64>,
    /// Log that a slot keeps at the source.
    pub slot_retained: Limits<u64>,
    /// Log that may still be written before a slot is lost: less is worse.
    pub slot_safe: Limits<u64>,
    /// Free bytes of a trail's disk: less is worse. At `critical` Extract is stopped and a collector holds.
    pub trail_free: Limits<u64>,
    /// What is left of a certificate's time: less is worse.
    pub certificate: Limits<Duration>,
}

impl Default for ManagerOptions {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        let bytes = |warning, critical| Limits { warning: Some(warning), critical: Some(critical) };
        let times = |warning, critical| Limits { warning: Some(warning), critical: Some(critical) };
        Self {
            stop_limit: Duration::from_secs(60),
            watch_interval: Duration::from_secs(10),
            heartbeat_interval: Some(Duration::from_secs(10)),
            sequence_interval: Some(Duration::from_secs(5)),
            compare_interval: Some(DAY),
            compare_rate: Some(16 * MIB),
            compare_age: Some(2 * DAY),
            compare_required: false,
            restart: RestartOptions {
                attempts: 20,
                delay: Duration::from_secs(1),
                longest_delay: Duration::from_secs(60),
                reset: Duration::from_secs(600),
            },
            alarms: AlarmOptions {
                patience: 2,
                lag: times(Duration::from_secs(60), Duration::from_secs(600)),
                lag_bytes: bytes(GIB, 8 * GIB),
                slot_retained: bytes(8 * GIB, 32 * GIB),
                slot_safe: bytes(2 * GIB, 512 * MIB),
                trail_free: bytes(2 * GIB, 512 * MIB),
                certificate: times(30 * DAY, 7 * DAY),
            },
        }
    }
}

/// Which way is worse.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Worse {
    More,
    Less,
}

/// Both limits of something, where they are written or else as they are anyway. The warning must come first.
fn limits<W, T: Copy + Ord>(
    warning: Option<Spanned<Limit<W>>>,
    critical: Option<Spanned<Limit<W>>>,
    default: Limits<T>,
    worse: Worse,
    name: &str,
    value: fn(W) -> T,
    problems: &mut Problems<'_>,
) -> Limits<T> {
    let at = critical.as_ref().or(warning.as_ref()).map(Spanned::span);
    let given = |limit: Option<Spanned<Limit<W>>>, default| match limit {
        Some(limit) => limit.into_inner().0.map(value),
        None => default,
    };
    let found =
        Limits { warning: given(warning, default.warning), critical: given(critical, default.critical) };
    if let (Some(at), Some(warning), Some(critical)) = (at, found.warning, found.critical) {
        let (is_wrong, order) = match worse {
            Worse::More => (warning > critical, "smaller"),
            Worse::Less => (warning < critical, "larger"),
        };
        if is_wrong {
            problems.add(
                at,
                format!("{name}_critical would come before {name}_warning"),
                Some(format!("make {name}_warning the {order} one, or turn one of them \"off\"")),
            );
        }
    }
    found
}

impl ManagerSection {
    pub(super) fn review(self, problems: &mut Problems<'_>) -> ManagerOptions {
        let default = ManagerOptions::default();
        let mut time = |given: Option<Spanned<Time>>, default: Duration| {
            let Some(given) = given else { return default };
            if given.get_ref().0 < Duration::from_millis(1) {
                problems.add(given.span(), "a time of nothing", Some("use \"1s\" or more".into()));
            }
            given.into_inner().0
        };
        let stop_limit = time(self.stop_limit, default.stop_limit);
        let watch_interval = time(self.watch_interval, default.watch_interval);
        let longest_at =
            self.restart.longest_delay.as_ref().or(self.restart.delay.as_ref()).map(Spanned::span);
        let restart = RestartOptions {
            attempts: self.restart.attempts.unwrap_or(default.restart.attempts),
            delay: time(self.restart.delay, default.restart.delay),
            longest_delay: time(self.restart.longest_delay, default.restart.longest_delay),
            reset: self.restart.reset.map_or(default.restart.reset, |time| time.0),
        };
        if let Some(at) = longest_at.filter(|_| restart.longest_delay < restart.delay) {
            let remedy = "make longest_delay as long as delay or longer";
            problems.add(at, "the longest delay is shorter than the first", Some(remedy.into()));
        }
        let mut often = |given: Option<Spanned<Limit<Time>>>, default: Option<Duration>, what: &str| {
            let Some(given) = given else { return default };
            if given.get_ref().0.is_some_and(|time| time.0 < LEAST_INTERVAL) {
                let remedy = "use \"10ms\" or more, or \"off\"";
                problems.add(given.span(), format!("a {what} that comes too often"), Some(remedy.into()));
            }
            given.into_inner().0.map(|time| time.0)
        };
        let heartbeat_interval = often(self.heartbeat_interval, default.heartbeat_interval, "heartbeat");
        let sequence_interval = often(self.sequence_interval, default.sequence_interval, "look at sequences");
        let compare_interval = often(self.compare_interval, default.compare_interval, "compare");
        let compare_age =
            self.compare_age.map_or(default.compare_age, |age| age.into_inner().0.map(|age| age.0));
        let compare_rate = self.compare_rate.map_or(default.compare_rate, |rate| {
            if rate.get_ref().0.as_ref().is_some_and(|rate| rate.0 == 0) {
                let remedy = "use \"1MiB\" or more, or \"off\" for no limit";
                problems.add(rate.span(), "a compare that never gets on", Some(remedy.into()));
            }
            rate.into_inner().0.map(|rate| rate.0)
        });
        ManagerOptions {
            compare_interval,
            compare_rate,
            compare_age,
            compare_required: self.compare_required.unwrap_or(default.compare_required),
            stop_limit,
            watch_interval,
            heartbeat_interval,
            sequence_interval,
            restart,
            alarms: self.alarms.review(&default.alarms, problems),
        }
    }
}

impl AlarmSection {
    fn review(self, default: &AlarmOptions, problems: &mut Problems<'_>) -> AlarmOptions {
        use Worse::{Less, More};
        let patience = self.patience.map_or(default.patience, |patience| {
            if *patience.get_ref() == 0 {
                let remedy = "use 1 for an alarm at once";
                problems.add(patience.span(), "an alarm that waits for nothing", Some(remedy.into()));
            }
            patience.into_inner()
        });
        let time = |time: Time| time.0;
        let bytes = |bytes: Bytes| bytes.0;
        let (lag, lag_bytes) = (default.lag, default.lag_bytes);
        let (retained, safe) = (default.slot_retained, default.slot_safe);
        let (free, certificate) = (default.trail_free, default.certificate);
        AlarmOptions {
            patience,
            lag: limits(self.lag_warning, self.lag_critical, lag, More, "lag", time, problems),
            lag_bytes: limits(
                self.lag_bytes_warning,
                self.lag_bytes_critical,
                lag_bytes,
                More,
                "lag_bytes",
                bytes,
                problems,
            ),
            slot_retained: limits(
                self.slot_retained_warning,
                self.slot_retained_critical,
                retained,
                More,
                "slot_retained",
                bytes,
                problems,
            ),
            slot_safe: limits(
                self.slot_safe_warning,
                self.slot_safe_critical,
                safe,
                Less,
                "slot_safe",
                bytes,
                problems,
            ),
            trail_free: limits(
                self.trail_free_warning,
                self.trail_free_critical,
                free,
                Less,
                "trail_free",
                bytes,
                problems,
            ),
            certificate: limits(
                self.certificate_warning,
                self.certificate_critical,
                certificate,
                Less,
                "certificate",
                time,
                problems,
            ),
        }
    }
}
