//! Reads a trail without its source: each committed transaction as it comes, and where to go on after a restart.
//!
//! ```text
//! cargo run -p irongate-trail --example read_trail -- DIRECTORY [--follow]
//! ```

use std::error::Error;
use std::io::Write;
use std::path::Path;

use irongate_trail::{Begins, Column, Follower, Item, Relation, Source, Tuple, Value};

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
                    let (new, old) = (row.new(), row.old().map(|old| old.tuple()));
                    // Of a deleted row often only the key is there; its other columns are placeholders.
                    let shows = |column: &Column| column.key || new.is_some();
                    writeln!(out, "{}", describe(relation, new.or(old), shows))?;
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

fn describe(relation: &Relation, tuple: Option<Tuple<'_>>, shows: impl Fn(&Column) -> bool) -> String {
    let mut text = String::new();
    let values = tuple.map(Tuple::values).into_iter().flatten();
    for (column, value) in relation.columns.iter().zip(values).filter(|(column, _)| shows(column)) {
        text += &format!(" {}=", column.name);
        match value {
            Value::Null => text += "null",
            Value::Unchanged => text += "(unchanged)",
            Value::Text(value) => text += &String::from_utf8_lossy(value),
            Value::Binary(value) => text += &format!("({} bytes)", value.len()),
        }
    }
    text
}
