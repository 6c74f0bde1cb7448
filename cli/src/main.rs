//! The `irongate` program: words in, one call into the libraries, words out.
//!
//! What a command knows how to do lies in the library crates; here is how it is asked for ([`arguments`]), where a
//! command begins ([`command`]), how results are shown ([`output`]) and what exit code a failure gets ([`failure`]).
#![deny(unsafe_code)]

mod arguments;
mod command;
mod demo;
mod failure;
mod logging;
mod output;
mod progress;
mod signals;

use std::process::ExitCode;

use clap::Parser;

use arguments::Arguments;

fn main() -> ExitCode {
    // Bad usage ends in here, with exit code 2.
    let arguments = Arguments::parse();
    logging::start(&arguments.global, arguments.command.is_process());
    let (format, json) = (arguments.global.log_format, arguments.global.json);
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(command::run(arguments)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error, format, json),
    }
}
