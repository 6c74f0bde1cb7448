//! Lines for programs: a JSON object each. LSNs are text as the server prints them, times RFC 3339; a column's value is
//! text as the server printed it, or null, or `{"unchanged": true}`, or `{"binary": "<hex>"}`. Columns stand in their order.

use std::fmt::Write;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::{Place, Record};
use crate::change::{Old, Row};
use crate::reader::Note;
use crate::relation::Relation;
use crate::source::Item;
use crate::tuple::{Tuple, Value};

#[derive(Serialize)]
struct Line<'a> {
    file: &'a str,
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    subtransaction: Option<u32>,
    #[serde(flatten)]
    body: Body<'a>,
}

#[derive(Serialize)]
#[serde(tag = "record", rename_all = "snake_case")]
enum Body<'a> {
    File {
        seqno: u64,
        flow: &'a str,
        system_identifier: String,
        timeline: u32,
        slot_incarnation: String,
        epoch: u64,
        created: String,
        resume_lsn: String,
        previous: String,
        server_version: u32,
        release: &'a str,
    },
    Relation {
        id: u32,
        schema: &'a str,
        table: &'a str,
        replica_identity: String,
        columns: Vec<ColumnOf<'a>>,
    },
    Begin {
        xid: u32,
        commit_lsn: String,
        commit_time: String,
        origin: Option<&'a str>,
        previous: String,
    },
    Insert {
        #[serde(flatten)]
        row: RowOf<'a>,
    },
    Update {
        #[serde(flatten)]
        row: RowOf<'a>,
    },
    Delete {
        #[serde(flatten)]
        row: RowOf<'a>,
    },
    Truncate {
        tables: Vec<TableOf<'a>>,
        cascade: bool,
        restart_identity: bool,
    },
    Message {
        transactional: bool,
        lsn: String,
        prefix: &'a str,
        content: Cell<'a>,
    },
    Adopt {
        side_file: &'a str,
        bytes: u64,
        records: u64,
        aborted: &'a [u32],
    },
    Commit {
        commit_lsn: String,
        end_lsn: String,
        commit_time: String,
        changes: u64,
    },
    Progress {
        resume_lsn: String,
        time: String,
    },
    End {
        transactions: u64,
        previous: String,
        resume_lsn: String,
    },
    Unknown {
        kind: u8,
    },
}

#[derive(Serialize)]
struct ColumnOf<'a> {
    name: &'a str,
    key: bool,
    type_oid: u32,
    type_modifier: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    type_schema: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    type_name: Option<&'a str>,
}

#[derive(Serialize)]
struct TableOf<'a> {
    schema: &'a str,
    table: &'a str,
}

#[derive(Serialize)]
struct RowOf<'a> {
    schema: &'a str,
    table: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Columns<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<Columns<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new: Option<Columns<'a>>,
}

impl<'a> RowOf<'a> {
    fn new(relation: &'a Relation, row: &Row<'a>) -> Self {
        let columns = |tuple, only_key| Some(Columns { relation, tuple, only_key });
        let (key, old) = match row.old() {
            Some(Old::Key(tuple)) => (columns(tuple, true), None),
            Some(Old::Full(tuple)) => (None, columns(tuple, false)),
            None => (None, None),
        };
        let new = row.new().and_then(|tuple| columns(tuple, false));
        Self { schema: &relation.schema, table: &relation.name, key, old, new }
    }
}

struct Columns<'a> {
    relation: &'a Relation,
    tuple: Tuple<'a>,
    only_key: bool,
}

impl Serialize for Columns<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (column, value) in self.relation.columns.iter().zip(self.tuple.values()) {
            if !self.only_key || column.key {
                map.serialize_entry(&column.name, &Cell(value))?;
            }
        }
        map.end()
    }
}

struct Cell<'a>(Value<'a>);

impl Serialize for Cell<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Null => serializer.serialize_none(),
            Value::Unchanged => serializer.collect_map([("unchanged", true)]),
            Value::Text(text) => match std::str::from_utf8(text) {
                Ok(text) => serializer.serialize_str(text),
                Err(_) => serializer.collect_map([("binary", hex(text))]),
            },
            Value::Binary(bytes) => serializer.collect_map([("binary", hex(bytes))]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

pub(super) fn line(place: Place<'_>, record: &Record<'_>) -> String {
    let Place { file, offset, subtransaction } = place;
    let line = Line { file, offset, subtransaction, body: body(record) };
    serde_json::to_string(&line).unwrap_or_else(|error| unreachable!("a line has only text in it: {error}"))
}

fn body<'a>(record: &Record<'a>) -> Body<'a> {
    match record {
        Record::File(header) => Body::File {
            seqno: header.seqno,
            flow: &header.flow,
            system_identifier: header.lineage.system_identifier.to_string(),
            timeline: header.lineage.timeline,
            slot_incarnation: header.lineage.slot_incarnation.to_string(),
            epoch: header.epoch,
            created: header.created.to_string(),
            resume_lsn: header.resume_lsn.to_string(),
            previous: header.previous.to_string(),
            server_version: header.server_version,
            release: &header.release,
        },
        Record::Begin(begin) => Body::Begin {
            xid: begin.xid,
            commit_lsn: begin.commit_lsn.to_string(),
            commit_time: begin.commit_time.to_string(),
            origin: begin.origin.as_deref(),
            previous: begin.previous.to_string(),
        },
        Record::Commit(commit) => Body::Commit {
            commit_lsn: commit.commit_lsn.to_string(),
            end_lsn: commit.end_lsn.to_string(),
            commit_time: commit.commit_time.to_string(),
            changes: commit.changes,
        },
        Record::Progress(progress) => {
            Body::Progress { resume_lsn: progress.resume_lsn.to_string(), time: progress.time.to_string() }
        }
        Record::Change(item) => change(item),
        Record::Note(note) => describe(note),
    }
}

fn change<'a>(item: &'a Item<'a>) -> Body<'a> {
    match item {
        Item::Row { relation, row } => {
            let of = RowOf::new(relation, row);
            match row {
                Row::Insert { .. } => Body::Insert { row: of },
                Row::Update { .. } => Body::Update { row: of },
                Row::Delete { .. } => Body::Delete { row: of },
            }
        }
        Item::Truncate { relations, cascade, restart_identity } => {
            let table = |relation: &'a std::sync::Arc<Relation>| TableOf {
                schema: &relation.schema,
                table: &relation.name,
            };
            let tables = relations.iter().map(table).collect();
            Body::Truncate { tables, cascade: *cascade, restart_identity: *restart_identity }
        }
        Item::Message(message) => Body::Message {
            transactional: message.transactional,
            lsn: message.lsn.to_string(),
            prefix: message.prefix,
            content: Cell(Value::Text(message.content)),
        },
        // The caller has told these apart.
        Item::Begin(_) | Item::Commit(_) | Item::Progress(_) => Body::Unknown { kind: 0 },
    }
}

fn describe(note: &Note) -> Body<'_> {
    match note {
        Note::Relation(relation) => Body::Relation {
            id: relation.id,
            schema: &relation.schema,
            table: &relation.name,
            replica_identity: format!("{:?}", relation.replica_identity).to_lowercase(),
            columns: relation
                .columns
                .iter()
                .map(|column| ColumnOf {
                    name: &column.name,
                    key: column.key,
                    type_oid: column.type_oid,
                    type_modifier: column.type_modifier,
                    type_schema: column.type_name.as_ref().map(|(schema, _)| schema.as_str()),
                    type_name: column.type_name.as_ref().map(|(_, name)| name.as_str()),
                })
                .collect(),
        },
        Note::Adopt(adopt) => Body::Adopt {
            side_file: &adopt.file,
            bytes: adopt.bytes,
            records: adopt.records,
            aborted: &adopt.aborted,
        },
        Note::End(end) => Body::End {
            transactions: end.transactions,
            previous: end.previous.to_string(),
            resume_lsn: end.resume_lsn.to_string(),
        },
        Note::Unknown(kind) => Body::Unknown { kind: *kind },
        Note::Passed => Body::Unknown { kind: 0 },
    }
}
