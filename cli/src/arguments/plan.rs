//! The arguments of the plans that change which site writes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use irongate_trail::Lsn;

/// What all of them take.
#[derive(Args, Clone, Debug)]
pub(crate) struct Plan {
    /// Only this database (may be given several times); all that one site writes at a time if none is named
    #[arg(long, value_name = "NAME", conflicts_with_all = ["resume", "abort"])]
    pub(crate) database: Vec<String>,
    /// Check only; change nothing
    #[arg(long, conflicts_with_all = ["resume", "abort"])]
    pub(crate) dry_run: bool,
    /// Go on with a run that was cut off or has failed: the one named, or the one that is not over
    #[arg(long, value_name = "RUN", num_args = 0..=1, conflicts_with = "abort")]
    pub(crate) resume: Option<Option<String>>,
    /// Take such a run back
    #[arg(long, value_name = "RUN", num_args = 0..=1)]
    pub(crate) abort: Option<Option<String>>,
    /// Seconds that the standby may take to apply what is left
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) drain_timeout: u64,
    /// Seconds that transactions from before the fence may take to end
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) writers_timeout: u64,
    /// Seconds that the creation of a slot may wait for open transactions
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) slot_timeout: u64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Switchover {
    /// The site that is to write
    #[arg(long, value_name = "SITE")]
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) plan: Plan,
    /// A drill: bring the standby level, open it in an epoch of its own, try it, and put everything back; nobody is moved
    #[arg(long)]
    pub(crate) drill: bool,
    /// Seconds that the standby may be behind when the run begins
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) max_lag: u64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Switchback {
    #[command(flatten)]
    pub(crate) plan: Plan,
    /// Seconds that the standby may be behind when the run begins
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) max_lag: u64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Failover {
    /// The site that is to write
    #[arg(long, value_name = "SITE")]
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) plan: Plan,
    /// Accept that what the lost site had committed and not sent is lost; without it the estimate is said, and nothing done
    #[arg(long)]
    pub(crate) accept_loss: bool,
    /// Take over although the other site answers
    #[arg(long)]
    pub(crate) force: bool,
    /// Seconds that the lost site may take to answer
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub(crate) probe_timeout: u64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Reinstate {
    /// The site that comes back
    #[arg(value_name = "SITE")]
    pub(crate) back: String,
    #[command(flatten)]
    pub(crate) plan: Plan,
    /// Make it a copy by carrying over only what differs, or by copying everything; without, whichever costs less. With
    /// --resume: from now on
    #[arg(long, value_name = "WAY", conflicts_with = "abort")]
    pub(crate) by: Option<Way>,
    /// Accept that what the site had committed alone is lost, salvaged or not
    #[arg(long)]
    pub(crate) accept_loss: bool,
}

/// How a site that was lost is made a copy.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// Compare both sites, and put right what differs
    Repair,
    /// Empty its tables and fill them again
    Copy,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Salvage {
    /// The site that was lost
    #[arg(value_name = "SITE")]
    pub(crate) lost: String,
    /// Only this database (may be given several times); all that one site writes at a time if none is named
    #[arg(long, value_name = "NAME")]
    pub(crate) database: Vec<String>,
    /// The directory to write; a new one below the state directory if none is named
    #[arg(long, value_name = "DIR", conflicts_with = "apply")]
    pub(crate) out: Option<PathBuf>,
    /// Where the sites parted, from the report of the failover, if the site that writes now cannot be asked
    #[arg(long, value_name = "LSN", conflicts_with = "apply")]
    pub(crate) divergence: Option<Lsn>,
    /// Carry out what decisions.toml in this directory says
    #[arg(long, value_name = "DIR", conflicts_with = "database")]
    pub(crate) apply: Option<PathBuf>,
}
