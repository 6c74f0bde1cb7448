//! What `instantiate` takes, and its keeper.

use std::path::PathBuf;

use clap::Args;
use irongate_deployment::configuration::TableName;

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
    /// Copy only this table anew ("schema.table", as the source has it) while the flow goes on with the others; may be given
    /// several times
    #[arg(long, value_name = "TABLE", value_parser = table, conflicts_with_all = ["truncate", "restart", "with_schema"])]
    pub(crate) table: Vec<TableName>,
    /// Copy in so many sessions side by side
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) parallel: Option<u32>,
    /// Copy no more than so many bytes a second in all sessions together ("50MiB")
    #[arg(long, value_name = "BYTES", value_parser = rate)]
    pub(crate) rate_limit: Option<u64>,
    /// Do not run the flow's Extract meanwhile; the source then keeps its log until somebody does
    #[arg(long)]
    pub(crate) no_extract: bool,
    /// Copy the structure first, with pg_dump: tables before the rows, indexes and constraints behind them
    #[arg(long)]
    pub(crate) with_schema: bool,
    /// The pg_dump for --with-schema; otherwise one at least as new as the source is looked for
    #[arg(long, value_name = "PROGRAM", requires = "with_schema")]
    pub(crate) pg_dump: Option<PathBuf>,
    /// With --with-schema: objects belong to the target's administrator
    #[arg(long, requires = "with_schema")]
    pub(crate) no_owner: bool,
    /// With --with-schema: leave grants out
    #[arg(long, requires = "with_schema")]
    pub(crate) no_privileges: bool,
    /// With --with-schema: print what would be run at the target; do nothing
    #[arg(long, requires = "with_schema")]
    pub(crate) print_sql: bool,
    /// Copy large objects, which are in no stream, behind the rows, as they are then
    #[arg(long, conflicts_with_all = ["table", "print_sql"])]
    pub(crate) with_large_objects: bool,
    /// How long the creation of a slot may wait for open transactions, and anything else for a lock, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) slot_timeout: u64,
}

/// What `keep-snapshot` takes, which `instantiate` starts for itself and tells the snapshot's name.
#[derive(Args, Clone, Debug)]
pub(crate) struct KeepSnapshot {
    /// The flow
    pub(crate) flow: String,
    /// How long it is kept while nobody loads, in seconds
    #[arg(long, value_name = "SECONDS")]
    pub(crate) limit: u64,
}

/// A table's name.
fn table(text: &str) -> Result<TableName, String> {
    TableName::parse(text)
}

/// An amount of bytes a second.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    match irongate_deployment::configuration::bytes(text) {
        Some(0) | None => Err("write a number with B, KiB, MiB or GiB, such as \"50MiB\"".to_owned()),
        Some(bytes) => Ok(bytes),
    }
}
