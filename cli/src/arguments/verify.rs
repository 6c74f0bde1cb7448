//! What `compare` and `repair` take.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// How a compare is made, whoever asks for it.
#[derive(Args, Clone, Debug)]
pub(crate) struct Comparing {
    /// Only tables that fit, as the source calls them, such as "public.order*"; may be given several times
    #[arg(long, value_name = "PATTERN")]
    pub(crate) table: Vec<String>,
    /// How many tables are read side by side
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) parallel: u16,
    /// The most that is read in a second at both sides together, in MiB; no limit if it is not given
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: Option<u64>,
    /// For how long rows that are not the same are looked at again before they count as unsettled, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) settle: u64,
    /// The longest that one statement may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) statement_timeout: u64,
    /// No more than so many differences of a table are looked for
    #[arg(long, value_name = "COUNT", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: u64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Compare {
    /// The flow
    pub(crate) flow: String,
    #[command(flatten)]
    pub(crate) how: Comparing,
    /// Show so many differences by their keys
    #[arg(long, value_name = "COUNT")]
    pub(crate) show: Option<usize>,
    /// Show them with the values that differ, which are row data
    #[arg(long, requires = "show")]
    pub(crate) values: bool,
    /// Write all differences with their keys and both rows to this file, for "repair --from" (it is for its owner only, mode
    /// 0600)
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// Which side is made like the other.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    /// The target becomes what the source is
    SourceToTarget,
    /// The source becomes what the target is
    TargetToSource,
}

/// A kind of difference.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Rows that only the source has
    Missing,
    /// Rows that both have, with other values
    Different,
    /// Rows that only the target has
    Extra,
}

#[derive(Args, Clone, Debug)]
#[group(id = "act", required = true, multiple = false, args = ["print_sql", "apply"])]
pub(crate) struct Repair {
    /// The flow
    pub(crate) flow: String,
    #[command(flatten)]
    pub(crate) how: Comparing,
    /// Differences that "compare --out" has written; without, it is compared now
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    /// Which side is made like the other one
    #[arg(long, value_enum, default_value = "source-to-target")]
    pub(crate) direction: Direction,
    /// Only differences of this kind
    #[arg(long, value_enum)]
    pub(crate) only: Option<Kind>,
    /// Print a script for psql and change nothing; it holds row data
    #[arg(long)]
    pub(crate) print_sql: bool,
    /// Repair, beside a running Replicat: what has changed since it was compared is left alone
    #[arg(long)]
    pub(crate) apply: bool,
}
