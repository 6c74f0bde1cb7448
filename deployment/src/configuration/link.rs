//! How the sites reach each other: certificates, addresses, and the pump of a flow.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::problem::Problems;
use super::units::{Bytes, Time, delays};

/// The level of zstd that pays on any link between sites.
const COMPRESSION: i32 = 3;
/// The least that can carry a flow and its signs of life, in bytes a second.
const LEAST_BANDWIDTH: u64 = 16 * 1024;

/// `[link]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LinkSection {
    certificates: PathBuf,
    connect_timeout: Option<Time>,
    ping_interval: Option<Spanned<Time>>,
    silence: Option<Spanned<Time>>,
    socket_buffer: Option<Bytes>,
    retry_delay: Option<Spanned<Time>>,
    retry_longest_delay: Option<Spanned<Time>>,
}

/// `[sites.NAME]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SiteSection {
    #[allow(dead_code, reason = "for whoever reads the file")]
    description: Option<String>,
    listen: Option<Spanned<String>>,
    address: Option<Spanned<String>>,
    control_listen: Option<Spanned<String>>,
    control_address: Option<Spanned<String>>,
    control_orders: Option<bool>,
    http: Option<Spanned<String>>,
    notify: Option<PathBuf>,
}

/// `[flows.NAME.pump]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PumpSection {
    #[serde(default)]
    via: Via,
    bandwidth: Option<Spanned<Bytes>>,
    compression: Option<Spanned<i32>>,
    listen: Option<Spanned<String>>,
    address: Option<Spanned<String>>,
}

/// The link between the sites, the same in both directions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkOptions {
    /// Directory of `ca.crt` and of each site's `<site>.crt` and `<site>.key`; at a site only its own are needed.
    pub certificates: PathBuf,
    /// Within so long a link must stand.
    pub connect_timeout: Duration,
    /// A side that has nothing to say says so, so often.
    pub ping_interval: Duration,
    /// After so long without a byte the other side counts as gone.
    pub silence: Duration,
    /// Bytes of each socket buffer; `None` leaves them to the kernel.
    pub socket_buffer: Option<u64>,
    /// First pause before another attempt.
    pub retry_delay: Duration,
    /// The longest pause.
    pub retry_longest_delay: Duration,
}

/// What is said of a site.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SiteOptions {
    /// `address:port` that its collector listens on.
    pub listen: Option<String>,
    /// `host:port` by which the other site reaches that.
    pub address: Option<String>,
    /// `address:port` that its manager listens on for the other sites.
    pub control_listen: Option<String>,
    /// `host:port` by which they reach that.
    pub control_address: Option<String>,
    /// Whether they may give its manager orders, or only look.
    pub control_orders: bool,
    /// Where its manager serves `/health`, `/status` and `/metrics`.
    pub http: Option<SocketAddr>,
    /// A program that its manager runs for each event.
    pub notify: Option<PathBuf>,
}

/// What carries a flow's trail to the other site.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// A connection of its own, to the site's collector.
    #[default]
    Link,
    /// A topic of Kafka.
    Kafka,
}

/// How a flow's trail is carried from the site of its Extract to that of its Replicat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PumpOptions {
    /// What carries it.
    pub via: Via,
    /// Bytes a second that are sent at most.
    pub bandwidth: Option<u64>,
    /// Level of zstd; `None` sends records as they are.
    pub compression: Option<i32>,
    /// Where the pump listens and how the collector reaches that, when the collector opens the connection: `address:port`
    /// and `host:port`. `None`: the pump connects to the collector.
    pub target_initiated: Option<(String, String)>,
}

impl LinkSection {
    pub(super) fn review(self, directory: &Path, problems: &mut Problems<'_>) -> LinkOptions {
        let time = |time: Option<Time>, default| time.map_or(Duration::from_secs(default), |time| time.0);
        let at = self.silence.as_ref().or(self.ping_interval.as_ref()).map(Spanned::span);
        let ping_interval = time(self.ping_interval.map(Spanned::into_inner), 5);
        let silence = time(self.silence.map(Spanned::into_inner), 30);
        if ping_interval.is_zero() || silence < 2 * ping_interval {
            problems.add(
                at.unwrap_or(0..0),
                "silence must be at least twice ping_interval, and that more than nothing",
                Some("leave both away for 30s and 5s".into()),
            );
        }
        let usual = (Duration::from_secs(1), Duration::from_secs(30));
        let (retry_delay, retry_longest_delay) =
            delays(self.retry_delay, self.retry_longest_delay, usual, problems);
        LinkOptions {
            certificates: directory.join(self.certificates),
            connect_timeout: time(self.connect_timeout, 10),
            ping_interval,
            silence,
            socket_buffer: self.socket_buffer.map(|bytes| bytes.0),
            retry_delay,
            retry_longest_delay,
        }
    }
}

impl SiteSection {
    /// What other sites need to talk to its manager.
    fn review_control(&self, has_link: bool, problems: &mut Problems<'_>) {
        let one_of = match (&self.control_listen, &self.control_address) {
            (None, None) => return,
            (Some(one), Some(_)) => one,
            (Some(one), None) | (None, Some(one)) => {
                problems.add(
                    one.span(),
                    "a manager that other sites reach needs both control_listen and control_address",
                    Some("write where it listens, and how the other site reaches that".into()),
                );
                one
            }
        };
        if !has_link {
            let remedy = "add [link] with certificates = \"certs\" (\"irongate certs certs\" makes them)";
            problems.add(
                one_of.span(),
                "a manager that other sites reach needs certificates",
                Some(remedy.into()),
            );
        }
        if let (Some(control), Some(listen)) = (&self.control_listen, &self.listen)
            && control.get_ref() == listen.get_ref()
        {
            problems.add(
                control.span(),
                "the manager cannot listen where the collector does",
                Some("give control_listen another port, such as 7421".into()),
            );
        }
    }

    pub(super) fn review(self, directory: &Path, has_link: bool, problems: &mut Problems<'_>) -> SiteOptions {
        self.review_control(has_link, problems);
        let http = self.http.and_then(|text| match text.get_ref().parse() {
            Ok(address) => Some(address),
            Err(_) => {
                problems.add(
                    text.span(),
                    format!("\"{}\" is no address with a port", text.get_ref()),
                    Some("write \"127.0.0.1:7480\"".into()),
                );
                None
            }
        });
        SiteOptions {
            listen: self.listen.map(|text| listen(text, problems)),
            address: self.address.map(|text| address(text, problems)),
            control_listen: self.control_listen.map(|text| listen(text, problems)),
            control_address: self.control_address.map(|text| address(text, problems)),
            control_orders: self.control_orders.unwrap_or(true),
            http,
            notify: self.notify.map(|path| directory.join(path)),
        }
    }
}

impl PumpSection {
    /// Whether it writes into a topic.
    pub(super) fn is_through_kafka(&self) -> bool {
        self.via == Via::Kafka
    }

    /// Whether the collector is to open the connection.
    pub(super) fn listens(&self) -> bool {
        self.listen.is_some()
    }

    pub(super) fn review(self, problems: &mut Problems<'_>) -> PumpOptions {
        if let Some(bandwidth) = self.bandwidth.as_ref().filter(|most| most.get_ref().0 < LEAST_BANDWIDTH) {
            problems.add(
                bandwidth.span(),
                "so little cannot carry a flow",
                Some("use 16KiB (a second) or more".into()),
            );
        }
        if let Some(level) = self.compression.as_ref().filter(|level| !(0..=22).contains(level.get_ref())) {
            problems.add(
                level.span(),
                format!("zstd has no level {}", level.get_ref()),
                Some("use 1 to 22, or 0 for none".into()),
            );
        }
        if self.via == Via::Kafka {
            let spans = [
                self.bandwidth.as_ref().map(Spanned::span),
                self.listen.as_ref().map(Spanned::span),
                self.address.as_ref().map(Spanned::span),
            ];
            for span in spans.into_iter().flatten() {
                problems.add(span, "a pump into Kafka has no link of its own", Some("leave it away".into()));
            }
        }
        let target_initiated = match (self.listen, self.address) {
            (None, None) => None,
            (Some(listens), Some(reached)) => Some((listen(listens, problems), address(reached, problems))),
            (Some(one), None) | (None, Some(one)) => {
                problems.add(
                    one.span(),
                    "a pump that listens needs both listen and address",
                    Some("write where it listens, and how the other site reaches that".into()),
                );
                None
            }
        };
        PumpOptions {
            via: self.via,
            bandwidth: self.bandwidth.map(|bytes| bytes.into_inner().0),
            compression: Some(self.compression.map_or(COMPRESSION, Spanned::into_inner))
                .filter(|level| *level > 0),
            target_initiated,
        }
    }
}

fn listen(text: Spanned<String>, problems: &mut Problems<'_>) -> String {
    if text.get_ref().parse::<SocketAddr>().is_err() {
        problems.add(
            text.span(),
            format!("\"{}\" is no address with a port", text.get_ref()),
            Some("write \"0.0.0.0:7420\", or one address of this machine".into()),
        );
    }
    text.into_inner()
}

fn address(text: Spanned<String>, problems: &mut Problems<'_>) -> String {
    let host_and_port = text.get_ref().rsplit_once(':');
    if host_and_port.is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
        problems.add(
            text.span(),
            format!("\"{}\" is no host with a port", text.get_ref()),
            Some("write \"db.main.example:7420\"".into()),
        );
    }
    text.into_inner()
}
