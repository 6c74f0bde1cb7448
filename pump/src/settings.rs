//! What a pump and a collector need to know.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::Error;

/// Who opens the TCP connection. The protocol is the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Meeting {
    /// This side connects to `host:port`.
    Connect(String),
    /// This side listens on `address:port`: the target-initiated mode, for a firewall that lets connections out of the
    /// other site only.
    Listen(String),
}

/// How the two sides prove who they are.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Credentials {
    /// TLS 1.3 with a certificate of each side (PEM files, see [`crate::certs`]). Read anew for each attempt, so that new
    /// ones need no restart.
    Certificates {
        /// Whom this site trusts: the certificate of its own authority.
        authority: PathBuf,
        /// This site's certificate, with those between it and the authority, if any. It bears the site's name as a DNS
        /// name and serves for both directions.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
}

/// The link, as both sides have it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkSettings {
    /// How this side proves who it is.
    pub credentials: Credentials,
    /// Within so long a link must stand: connection, TLS and greeting.
    pub connect_limit: Duration,
    /// A side that has nothing to say says so, so often.
    pub ping_every: Duration,
    /// After so long without a byte the other side counts as gone.
    pub silence: Duration,
    /// Bytes of each of the socket's buffers. `None` leaves them to the kernel, which lets them grow with the distance (on
    /// Linux to `net.ipv4.tcp_wmem` and `tcp_rmem`): a size that is set turns that off and is cut at
    /// `net.core.wmem_max` and `rmem_max`, which usually are much smaller. Set it where those were raised, to at least
    /// bandwidth × round trip.
    pub socket_buffer: Option<usize>,
    /// First pause before another attempt.
    pub retry_first: Duration,
    /// Longest pause before another attempt.
    pub retry_longest: Duration,
}

impl LinkSettings {
    /// Usual settings: 10 s to connect, a ping after 5 s, gone after 30 s, pauses of 1 to 30 s.
    pub fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            connect_limit: Duration::from_secs(10),
            ping_every: Duration::from_secs(5),
            silence: Duration::from_secs(30),
            socket_buffer: None,
            retry_first: Duration::from_secs(1),
            retry_longest: Duration::from_secs(30),
        }
    }
}

/// One pump.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PumpSettings {
    /// The group's name: of its lock, of its status, and of its mark in the trail.
    pub group: String,
    /// The deployment that both sites belong to.
    pub deployment: String,
    /// The flow that the trail belongs to.
    pub flow: String,
    /// This site.
    pub site: String,
    /// The site to carry it to.
    pub peer: String,
    /// How to meet the collector.
    pub meeting: Meeting,
    /// The link.
    pub link: LinkSettings,
    /// The trail's directory.
    pub trail: PathBuf,
    /// Directory of the lock and the status.
    pub state_directory: PathBuf,
    /// The epoch of the database. A trail of a later one is not carried.
    pub epoch: u64,
    /// Bytes a second that are sent at most, over the time of a tenth of a second; `None` for no limit.
    pub bandwidth: Option<u64>,
    /// Level of zstd, 1 to 22; `None` sends records as they are.
    pub compression: Option<i32>,
}

/// A flow that a collector accepts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcceptedFlow {
    /// Its name, and that of the trail's directory.
    pub flow: String,
    /// The site that it comes from.
    pub from: String,
    /// The epoch of its database, as known here: a pump of an older one is refused.
    pub epoch: u64,
}

/// One collector: a site's receiving end of every flow that comes to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CollectorSettings {
    /// The group's name: of its lock and of its status. The status of a flow is that of group `<group>-<flow>`.
    pub group: String,
    /// The deployment that both sites belong to.
    pub deployment: String,
    /// This site.
    pub site: String,
    /// The flows that are accepted; others are refused.
    pub flows: Vec<AcceptedFlow>,
    /// `address:port` to listen on, for pumps that connect.
    pub listen: Option<String>,
    /// Pumps that listen: their site and `host:port`.
    pub connect: Vec<(String, String)>,
    /// The link.
    pub link: LinkSettings,
    /// Directory in which each flow has its trail's directory.
    pub trail_directory: PathBuf,
    /// Directory of the lock and the status.
    pub state_directory: PathBuf,
    /// Size of a trail file in bytes.
    pub file_size: u64,
    /// While the disk of a trail has fewer free bytes than this, nothing more is taken for it; `None` fills the disk.
    pub keep_free: Option<u64>,
}

fn check_site(setting: &'static str, site: &str) -> Result<(), Error> {
    match rustls_pki_types::DnsName::try_from(site) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::Setting {
            setting,
            reason: format!("\"{site}\" cannot stand in a certificate: use letters, digits, - and ."),
        }),
    }
}

impl LinkSettings {
    /// Whether certificate and key can be read and used.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn check_credentials(&self) -> Result<(), Error> {
        crate::link::check(self)
    }

    fn check(&self) -> Result<(), Error> {
        let reason = if self.ping_every.is_zero() || self.connect_limit.is_zero() {
            "ping_every and connect_limit must be longer than nothing"
        } else if self.silence < 2 * self.ping_every {
            "silence must be at least twice ping_every"
        } else if self.retry_first.is_zero() || self.retry_longest < self.retry_first {
            "retry_first must be longer than nothing, and retry_longest not shorter than it"
        } else {
            return Ok(());
        };
        Err(Error::Setting { setting: "the link's timing", reason: reason.to_owned() })
    }
}

impl PumpSettings {
    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.link.check()?;
        check_site("site", &self.site)?;
        check_site("peer", &self.peer)?;
        if self.compression.is_some_and(|level| !(1..=22).contains(&level)) {
            let reason = "zstd has the levels 1 to 22".to_owned();
            return Err(Error::Setting { setting: "compression", reason });
        }
        if self.bandwidth.is_some_and(|bandwidth| bandwidth < 1000) {
            let reason = "less than 1000 bytes a second would not carry a ping in time".to_owned();
            return Err(Error::Setting { setting: "bandwidth", reason });
        }
        Ok(())
    }
}

impl CollectorSettings {
    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.link.check()?;
        check_site("site", &self.site)?;
        for (site, _) in &self.connect {
            check_site("connect", site)?;
        }
        let mut names = std::collections::HashSet::new();
        for flow in &self.flows {
            check_site("from", &flow.from)?;
            let name = &flow.flow;
            let bad = name.is_empty()
                || name.starts_with('.')
                || name.chars().any(|c| c == '/' || c == '\\' || c.is_control());
            if bad || !names.insert(name) {
                let reason = if bad { "it cannot name a directory" } else { "it is there twice" };
                return Err(Error::Setting { setting: "flows", reason: format!("\"{name}\": {reason}") });
            }
        }
        Ok(())
    }
}
