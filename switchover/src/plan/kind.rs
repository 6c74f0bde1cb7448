//! The plans, each with its steps in their order.

use std::fmt;

use super::{drill, failover, reinstate, switchover};
use crate::engine::Step;

/// A plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Another site is to write, planned: nothing is lost.
    Switchover,
    /// The same, to the site that writes in normal mode.
    Switchback,
    /// Another site is to write because the one that did is lost.
    Failover,
    /// The site that was lost becomes a standby.
    Reinstate,
    /// A switchover as far as it goes without anybody noticing.
    Drill,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Switchover, Self::Switchback, Self::Failover, Self::Reinstate, Self::Drill];

    /// By its name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.to_string() == name)
    }

    /// Its steps.
    pub fn steps(self) -> &'static [Step] {
        match self {
            Self::Switchover | Self::Switchback => &switchover::STEPS,
            Self::Failover => &failover::STEPS,
            Self::Reinstate => &reinstate::STEPS,
            Self::Drill => &drill::STEPS,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Switchover => "switchover",
            Self::Switchback => "switchback",
            Self::Failover => "failover",
            Self::Reinstate => "reinstate",
            Self::Drill => "drill",
        })
    }
}
