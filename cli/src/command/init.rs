//! `irongate init`.

use std::borrow::Cow;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};

use anyhow::Context;
use irongate_deployment::Configuration;

use crate::arguments::{Global, Init};
use crate::failure::End;
use crate::output;

pub(crate) fn run(global: &Global, options: &Init) -> anyhow::Result<()> {
    let example = match (options.kafka, options.reference) {
        (true, _) => Configuration::reference_through_kafka().into(),
        (false, true) => Cow::Borrowed(Configuration::reference()),
        (false, false) => Configuration::example().into(),
    };
    if options.stdout {
        return Ok(output::text(example.trim_end())?);
    }
    let path = &global.config;
    // What is there may be somebody's work.
    let mut file = match OpenOptions::new().write(true).create_new(true).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(End::usage(
                format!("\"{}\" exists already", path.display()),
                "irongate init --stdout prints the example; --config names another file",
            ));
        }
        other => other.with_context(|| format!("cannot create \"{}\"", path.display()))?,
    };
    file.write_all(example.as_bytes()).with_context(|| format!("cannot write \"{}\"", path.display()))?;
    if global.json {
        return output::json(&serde_json::json!({ "file": path }));
    }
    Ok(output::text(format_args!("wrote \"{}\": adapt it, then run irongate check", path.display()))?)
}
