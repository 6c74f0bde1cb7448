//! What `export` and `import` take.

use std::path::PathBuf;

use clap::Args;

use super::load::rate;

#[derive(Args, Clone, Debug)]
pub(crate) struct Export {
    /// The directory, which is made or must be empty
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// The flow; need not be named where there is only one
    #[arg(value_name = "FLOW", conflicts_with = "status")]
    pub(crate) flow: Option<String>,
    /// Show how far the export in the directory is; do nothing
    #[arg(long)]
    pub(crate) status: bool,
    /// Make slot and trail anew although the flow works; its target must be loaded with this export then
    #[arg(long, conflicts_with = "status")]
    pub(crate) restart: bool,
    /// Read in so many sessions side by side
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) parallel: Option<u32>,
    /// Read no more than so many bytes a second in all sessions together ("50MiB")
    #[arg(long, value_name = "BYTES", value_parser = rate)]
    pub(crate) rate_limit: Option<u64>,
    /// How long the creation of the slot may wait for open transactions, and anything else for a lock, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) slot_timeout: u64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Import {
    /// The directory of the export
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// The flow; need not be named where there is only one
    #[arg(value_name = "FLOW")]
    pub(crate) flow: Option<String>,
    /// Empty the target's tables first; without, tables with rows are refused
    #[arg(long)]
    pub(crate) truncate: bool,
    /// Copy in so many sessions side by side
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) parallel: Option<u32>,
    /// Copy no more than so many bytes a second in all sessions together ("50MiB")
    #[arg(long, value_name = "BYTES", value_parser = rate)]
    pub(crate) rate_limit: Option<u64>,
    /// How long anything may wait for a lock, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) lock_timeout: u64,
}
