//! Lines for people.

use std::fmt::Write;

use super::{Place, Record};
use crate::change::{Old, Row};
use crate::reader::Note;
use crate::relation::Relation;
use crate::source::Item;
use crate::tuple::{Tuple, Value};

pub(super) fn line(place: Place<'_>, record: &Record<'_>) -> String {
    let mut out = String::with_capacity(160);
    // Writing into memory does not fail.
    let _ = write(&mut out, place, record);
    out
}

fn write(out: &mut String, place: Place<'_>, record: &Record<'_>) -> std::fmt::Result {
    write!(out, "{}:{} ", place.file, place.offset)?;
    if let Some(xid) = place.subtransaction {
        write!(out, "[{xid}] ")?;
    }
    match record {
        Record::File(header) => write!(
            out,
            "file {} of flow {:?} from {}; epoch {}, begun {}, resumes at {}, after commit {}; server {}, release {}",
            header.seqno,
            header.flow,
            header.lineage,
            header.epoch,
            header.created,
            header.resume_lsn,
            header.previous,
            header.server_version,
            header.release,
        ),
        Record::Begin(begin) => {
            write!(out, "begin {} commit {} at {}", begin.xid, begin.commit_lsn, begin.commit_time)?;
            match &begin.origin {
                Some(origin) => write!(out, " origin {origin:?}"),
                None => Ok(()),
            }
        }
        Record::Commit(commit) => write!(
            out,
            "commit {} end {} at {}, {} changes",
            commit.commit_lsn, commit.end_lsn, commit.commit_time, commit.changes
        ),
        Record::Progress(progress) => write!(out, "progress {} at {}", progress.resume_lsn, progress.time),
        Record::Change(item) => change(out, item),
        Record::Note(note) => describe(out, note),
    }
}

fn change(out: &mut String, item: &Item<'_>) -> std::fmt::Result {
    match item {
        Item::Row { relation, row } => {
            let name = match row {
                Row::Insert { .. } => "insert",
                Row::Update { .. } => "update",
                Row::Delete { .. } => "delete",
            };
            write!(out, "{name} {}.{}", relation.schema, relation.name)?;
            match row.old() {
                Some(Old::Key(tuple)) => {
                    out.push_str(" key (");
                    columns(out, relation, tuple, true)?;
                    out.push(')');
                }
                Some(Old::Full(tuple)) => {
                    out.push_str(" old (");
                    columns(out, relation, tuple, false)?;
                    out.push(')');
                }
                None => {}
            }
            if let Some(new) = row.new() {
                out.push_str(" new (");
                columns(out, relation, new, false)?;
                out.push(')');
            }
            Ok(())
        }
        Item::Truncate { relations, cascade, restart_identity } => {
            out.push_str("truncate");
            for (place, relation) in relations.iter().enumerate() {
                let comma = if place == 0 { "" } else { "," };
                write!(out, "{comma} {}.{}", relation.schema, relation.name)?;
            }
            out.push_str(if *restart_identity { " restart identity" } else { "" });
            out.push_str(if *cascade { " cascade" } else { "" });
            Ok(())
        }
        Item::Message(message) => {
            let kind = if message.transactional { "" } else { " not transactional" };
            write!(out, "message {:?} at {}{kind} ", message.prefix, message.lsn)?;
            match std::str::from_utf8(message.content) {
                Ok(text) => write!(out, "{text:?}"),
                Err(_) => hex(out, message.content),
            }
        }
        Item::Begin(_) | Item::Commit(_) | Item::Progress(_) => Ok(()),
    }
}

fn columns(out: &mut String, relation: &Relation, tuple: Tuple<'_>, only_key: bool) -> std::fmt::Result {
    let mut first = true;
    for (column, value) in relation.columns.iter().zip(tuple.values()) {
        if only_key && !column.key {
            continue;
        }
        write!(out, "{}{}=", if first { "" } else { " " }, column.name)?;
        first = false;
        match value {
            Value::Null => out.push_str("null"),
            Value::Unchanged => out.push_str("unchanged"),
            Value::Text(text) => write!(out, "{:?}", String::from_utf8_lossy(text))?,
            Value::Binary(bytes) => hex(out, bytes)?,
        }
    }
    Ok(())
}

fn hex(out: &mut String, bytes: &[u8]) -> std::fmt::Result {
    out.push_str("\\x");
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}

fn describe(out: &mut String, note: &Note) -> std::fmt::Result {
    match note {
        Note::Relation(relation) => {
            write!(out, "relation {} {}.{} (", relation.id, relation.schema, relation.name)?;
            for (place, column) in relation.columns.iter().enumerate() {
                write!(out, "{}{} ", if place == 0 { "" } else { ", " }, column.name)?;
                match &column.type_name {
                    Some((schema, name)) => write!(out, "{schema}.{name}")?,
                    None => write!(out, "type {}", column.type_oid)?,
                }
                out.push_str(if column.key { " key" } else { "" });
            }
            write!(out, ") identity {:?}", relation.replica_identity)
        }
        Note::Adopt(adopt) => write!(
            out,
            "adopt {} of {} bytes, {} records, aborted {:?}",
            adopt.file, adopt.bytes, adopt.records, adopt.aborted
        ),
        Note::End(end) => write!(
            out,
            "end after {} transactions, the last commit {}, resumes at {}",
            end.transactions, end.previous, end.resume_lsn
        ),
        Note::Unknown(kind) => write!(out, "a record of kind {kind:#04x}, passed over"),
        Note::Passed => Ok(()),
    }
}
