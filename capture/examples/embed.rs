//! Runs Extract inside a program: its own runtime, its own shutdown, its own log.
//!
//! ```text
//! psql -c "CREATE PUBLICATION p FOR TABLE t"
//! cargo run --example embed -- postgresql://role@host/database s p /tmp/trail
//! ```
//!
//! The first run makes the slot and the trail together; later ones go on where the trail ends. Stop it with Ctrl-C.

#![allow(clippy::print_stderr, reason = "an example's words")]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use irongate_capture::{Error, Extract, Settings, Source, Stopped, slot};
use irongate_postgres::{Endpoint, ReplicationConnection, SlotOptions};
use irongate_trail::Directory;

async fn run(address: &str, slot: &str, publication: &str, trail: &Path) -> Result<Stopped, Error> {
    let endpoint = Endpoint::parse(address)?;
    if !trail.exists() {
        let directory = Directory::create(trail).map_err(|error| Error::Sink(Box::new(error)))?;
        let mut connection = ReplicationConnection::connect(&endpoint, "embed").await?;
        let created =
            slot::create(&mut connection, slot, SlotOptions::default(), Arc::new(directory), "example")
                .await?;
        eprintln!("slot \"{slot}\" and its trail begin at {}", created.start);
    }
    let source = Source::new(endpoint, slot, vec![publication.to_owned()]);
    let settings = Settings::new("example", "example", source, trail, trail.join("state"));
    // Any future will do as a wish to stop.
    Extract::new(settings).run(async { _ = tokio::signal::ctrl_c().await }).await
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, slot, publication, trail] = arguments.as_slice() else {
        eprintln!("usage: embed ADDRESS SLOT PUBLICATION TRAIL");
        return ExitCode::from(2);
    };
    match run(address, slot, publication, Path::new(trail)).await {
        Ok(stopped) => {
            eprintln!("{} transactions, next from {}", stopped.counts.transactions, stopped.mark.resume_lsn);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}
