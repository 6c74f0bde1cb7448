//! What `instantiate` takes, and its keeper.

use clap::Args;

#[derive(Args, Clone, Debug)]
pub(crate) struct Instantiate {
    /// The flow
    pub(crate) flow: String,
    /// Empty the target's tables first; without, tables with rows of somebody else are refused
    #[arg(long)]
    pub(crate) truncate: bool,
    /// Begin anew instead of going on with a load that was cut off
    #[arg(long)]
    pub(crate) restart: bool,
    /// Copy in so many sessions side by side
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) parallel: Option<u32>,
    /// Copy no more than so many bytes a second in all sessions together ("50MiB")
    #[arg(long, value_name = "BYTES", value_parser = rate)]
    pub(crate) rate_limit: Option<u64>,
    /// Do not run the flow's Extract meanwhile; the source then keeps its log until somebody does
    #[arg(long)]
    pub(crate) no_extract: bool,
    /// How long the creation of a slot may wait for open transactions, and anything else for a lock, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) slot_timeout: u64,
}

/// What `keep-snapshot` takes, which `instantiate` starts for itself.
#[derive(Args, Clone, Debug)]
pub(crate) struct KeepSnapshot {
    /// The flow
    pub(crate) flow: String,
    /// The exported snapshot that is taken over
    #[arg(long, value_name = "NAME")]
    pub(crate) snapshot: String,
    /// How long it is kept while nobody loads, in seconds
    #[arg(long, value_name = "SECONDS")]
    pub(crate) limit: u64,
    /// How long the locks on the tables are waited for, in seconds
    #[arg(long, value_name = "SECONDS")]
    pub(crate) lock_limit: u64,
}

/// An amount of bytes a second.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    match irongate_deployment::configuration::bytes(text) {
        Some(0) | None => Err("write a number with B, KiB, MiB or GiB, such as \"50MiB\"".to_owned()),
        Some(bytes) => Ok(bytes),
    }
}
