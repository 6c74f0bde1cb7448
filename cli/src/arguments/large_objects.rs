//! What `large-objects` takes.

use clap::{Args, Subcommand};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum LargeObjects {
    /// Compare them at both sites; exit code 3 for differences, 4 for what could not be compared
    Compare {
        #[command(flatten)]
        what: Objects,
    },
    /// Make those of the target what they are at the source now: what is lacking or different is copied; exit code 4 for what
    /// could not be
    Copy {
        #[command(flatten)]
        what: Objects,
        /// Remove what only the target has
        #[arg(long)]
        delete: bool,
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which large objects, and what of them.
#[derive(Args, Clone, Debug)]
pub(crate) struct Objects {
    /// The flow
    pub(crate) flow: String,
    /// Leave owners, rights and comments out
    #[arg(long)]
    pub(crate) content_only: bool,
    /// Show so many of those that are different or could not be copied
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    pub(crate) show: usize,
}
