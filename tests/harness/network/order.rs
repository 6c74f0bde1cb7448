//! What is said between a test and the relay: one JSON document a line.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The relay's exit code when this machine or this user cannot have what it makes.
pub const NOT_HERE: i32 = 3;

/// The address of a site. Each pair of sites has the same, because no two pairs see each other.
pub fn address(site: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 71, 0, if site == 0 { 1 } else { 2 })
}

/// Which way along the line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Way {
    /// From site 0 to site 1.
    There,
    /// From site 1 to site 0.
    Back,
    /// Both.
    Both,
}

impl Way {
    /// The numbers of the directions.
    pub fn directions(self) -> &'static [usize] {
        match self {
            Way::There => &[0],
            Way::Back => &[1],
            Way::Both => &[0, 1],
        }
    }
}

/// How long and how narrow a line is, in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Shape {
    /// From one end to the other.
    pub delay: Duration,
    /// Bytes a second, headers of IP included; `None` for as fast as it goes.
    pub rate: Option<u64>,
    /// Bytes that wait where the rate is reached, before more is dropped.
    pub queue: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self { delay: Duration::ZERO, rate: None, queue: 1 << 20 }
    }
}

/// What has gone along one direction.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Count {
    /// Packets that have arrived.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that were dropped, because too many waited.
    pub dropped: u64,
    /// Packets that were lost, because the line was cut.
    pub lost: u64,
}

/// An order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Make the line so.
    Shape {
        /// Which way.
        way: Way,
        /// How.
        shape: Shape,
    },
    /// Cut or mend the line.
    Cut {
        /// Which way.
        way: Way,
        /// Whether it is cut from now on.
        cut: bool,
    },
    /// Say what has gone along it.
    Count,
    /// Give a site a disk in memory.
    Mount {
        /// Which site.
        site: usize,
        /// Where.
        path: PathBuf,
        /// How large.
        bytes: u64,
    },
}

/// The answer to an order.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Why it was not done.
    pub error: Option<String>,
    /// What has gone along each direction.
    pub counts: [Count; 2],
}

/// What the relay says first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// The threads that hold the sites' namespaces, as paths below `/proc`.
    pub threads: [String; 2],
}
