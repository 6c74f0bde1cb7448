//! Prints a database's committed transactions as they come.
//!
//! ```text
//! psql -c "CREATE PUBLICATION p FOR TABLE t" -c "SELECT pg_create_logical_replication_slot('s', 'pgoutput')"
//! cargo run --example follow -- postgresql://role@host/database s p
//! ```
//!
//! The slot is told of a transaction once it is printed: what is printed is gone from the slot.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is what it does")]

use std::process::ExitCode;
use std::sync::Arc;

use irongate_capture::pgoutput::Streaming;
use irongate_capture::{Error, Place, Sink, Source, follow};
use irongate_postgres::Endpoint;
use irongate_trail::{Begin, Commit, Message, Progress, Relation, Row, Truncate};

/// Prints, and keeps the tables that rows belong to.
#[derive(Default)]
struct Printer {
    tables: Vec<Arc<Relation>>,
}

impl Printer {
    fn name(&self, id: u32) -> String {
        let table = self.tables.iter().find(|table| table.id == id);
        table.map_or_else(|| id.to_string(), |table| format!("{}.{}", table.schema, table.name))
    }
}

impl Sink for Printer {
    fn begin(&mut self, begin: &Begin) -> Result<(), Error> {
        println!("BEGIN {} {}", begin.xid, begin.commit_lsn);
        Ok(())
    }

    fn relation(&mut self, relation: &Arc<Relation>) -> Result<(), Error> {
        self.tables.retain(|table| table.id != relation.id);
        self.tables.push(Arc::clone(relation));
        Ok(())
    }

    fn row(&mut self, relation: u32, operation: u8, bytes: &[u8]) -> Result<(), Error> {
        // Values are left out: they belong to whoever may read the tables, and not into a terminal's history.
        let row = Row::decode(operation, bytes).map_err(|error| Error::Sink(Box::new(error)))?;
        let columns = row.new().or_else(|| row.old().map(|old| old.tuple())).map_or(0, |tuple| tuple.len());
        println!("  {} {} ({columns} columns)", char::from(operation), self.name(relation));
        Ok(())
    }

    fn truncate(&mut self, truncate: &Truncate) -> Result<(), Error> {
        let names: Vec<_> = truncate.relations.iter().map(|id| self.name(*id)).collect();
        println!("  TRUNCATE {}", names.join(", "));
        Ok(())
    }

    fn message(&mut self, message: &Message<'_>) -> Result<(), Error> {
        println!("  MESSAGE {} ({} bytes)", message.prefix, message.content.len());
        Ok(())
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), Error> {
        println!("COMMIT {} changes, to {}", commit.changes, commit.end_lsn);
        Ok(())
    }

    fn rollback(&mut self) -> Result<(), Error> {
        println!("(the transaction is sent again after the next connection)");
        Ok(())
    }

    fn progress(&mut self, _: &Progress) -> Result<(), Error> {
        Ok(())
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, slot, publications @ ..] = arguments.as_slice() else {
        eprintln!("usage: follow ADDRESS SLOT PUBLICATION...");
        return ExitCode::from(2);
    };
    let endpoint = match Endpoint::parse(address) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    // Whole transactions only: this sink cannot put aside what is not committed yet.
    let source = Source { streaming: Streaming::Off, ..Source::new(endpoint, slot, publications.to_vec()) };
    let interrupted = async { _ = tokio::signal::ctrl_c().await };
    match follow(&source, &mut Printer::default(), Place::default(), interrupted).await {
        Ok((place, counts)) => {
            eprintln!("{} transactions, next from {}", counts.transactions, place.resume_lsn);
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
