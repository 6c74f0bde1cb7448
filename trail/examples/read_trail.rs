//! Reads a trail without its source: each committed transaction as it comes, and where to go on after a restart.
//!
//! ```text
//! cargo run -p irongate-trail --example read_trail -- DIRECTORY [--follow]
//! ```

use std::error::Error;
use std::io::Write;
use std::path::Path;

use irongate_trail::{Begins, Follower, Item, Source, Tuple, Value};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let directory = arguments.next().ok_or("usage: read_trail DIRECTORY [--follow]")?;
    let follow = arguments.next().is_some_and(|argument| argument == "--follow");
    let mut out = std::io::stdout().lock();

    // A program that keeps its place begins with `Begins::After` and the lineage and LSNs of its last transaction.
    let mut trail = Follower::open(Path::new(&directory), Begins::First)?;
    loop {
        while let Some(item) = trail.next()? {
            match item {
                Item::Begin(begin) => writeln!(out, "transaction {} of {}", begin.xid, begin.commit_time)?,
                Item::Row { relation, row } => {
                    write!(out, "  {} {}.{}", row.operation() as char, relation.schema, relation.name)?;
                    let tuple = row.new().or_else(|| row.old().map(|old| old.tuple()));
                    let names = relation.columns.iter().map(|column| column.name.as_str());
                    writeln!(out, " {}", describe(names, tuple))?;
                }
                Item::Truncate { relations, .. } => {
                    for relation in relations {
                        writeln!(out, "  truncate {}.{}", relation.schema, relation.name)?;
                    }
                }
                Item::Message(message) => writeln!(out, "  message {:?}", message.prefix)?,
                // Everything since the begin is confirmed by now: this is the place to make it durable elsewhere.
                Item::Commit(commit) => writeln!(out, "committed at {}", commit.commit_lsn)?,
                Item::Progress(progress) => writeln!(out, "nothing more before {}", progress.resume_lsn)?,
            }
        }
        if !follow {
            return Ok(());
        }
        trail.wait().await?;
    }
}

fn describe<'a>(names: impl Iterator<Item = &'a str>, tuple: Option<Tuple<'_>>) -> String {
    let value = |value| match value {
        Value::Null => "null".to_owned(),
        Value::Unchanged => "(unchanged)".to_owned(),
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Value::Binary(bytes) => format!("({} bytes)", bytes.len()),
    };
    let values = tuple.map(Tuple::values).into_iter().flatten();
    names.zip(values).map(|(name, item)| format!("{name}={}", value(item))).collect::<Vec<_>>().join(" ")
}
