//! `irongate completions` and `irongate man`.

use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;

use crate::arguments::Arguments;
use crate::output;

pub(crate) fn completions(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "irongate", &mut script);
    Ok(output::text(String::from_utf8_lossy(&script).trim_end())?)
}

pub(crate) fn man(directory: &Path) -> anyhow::Result<()> {
    let write = || {
        std::fs::create_dir_all(directory)?;
        clap_mangen::generate_to(Arguments::command(), directory)
    };
    write().with_context(|| format!("cannot write manual pages into \"{}\"", directory.display()))
}
