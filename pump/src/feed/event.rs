//! Events out of the items of a trail. Knows no broker and no clock.
//!
//! An event is one changed row in Debezium's envelope. Where a consumer stands is `source.sequence`: the commit's place in the
//! source's log, and the number of the event in its transaction. It grows from event to event and is the same when an event
//! is told again, so a consumer that keeps the last one it has seen can drop what comes a second time.
//!
//! An update of the key is a delete and a create, with the other key in the header of each: whoever keeps one value a key
//! stays right. A value that the server did not send is taken from the old row, if that has it, else it is the placeholder.

use std::collections::BTreeMap;
use std::sync::Arc;

use irongate_trail::{Begin, Commit, CommitLsn, Item, Message, Old, Relation, Row, Timestamp, Tuple};
use rustc_hash::FxHashMap;

use super::json;
use super::settings::Shape;
use super::table::{BLOCK_SCHEMA, SOURCE_SCHEMA, Table};
use crate::error::Error;
use crate::sender::Sent;

/// What is said to have made the events: consumers look at it to know what the source block holds.
const CONNECTOR: &str = "postgresql";
/// The schema of Irongate's own tables, and what the prefixes of its own messages begin with.
const OWN: &str = "irongate";
const OWN_MESSAGES: &str = "irongate.";
/// Names of the headers in which the events of a changed key name each other.
const NEW_KEY: &str = "__debezium.newkey";
const OLD_KEY: &str = "__debezium.oldkey";

/// One record of Kafka.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Event {
    pub(super) topic: Arc<str>,
    /// Whether the topic is a table's own, and not one of the feed's.
    pub(super) of_table: bool,
    /// `None`: it goes to the first partition, so that the order of a table without a key is kept.
    pub(super) key: Option<Vec<u8>>,
    /// `None` is a tombstone.
    pub(super) value: Option<Vec<u8>>,
    pub(super) header: Option<(&'static str, Vec<u8>)>,
}

/// The transaction that is being told.
#[derive(Debug)]
struct Open {
    id: String,
    xid: Option<u32>,
    commit: CommitLsn,
    time: Timestamp,
    origin: Option<String>,
    /// Events so far.
    events: u64,
    by_table: BTreeMap<String, u64>,
}

impl Open {
    fn of(begin: &Begin) -> Self {
        Self {
            id: format!("{}:{}", begin.xid, begin.commit_lsn.0.0),
            xid: Some(begin.xid),
            commit: begin.commit_lsn,
            time: begin.commit_time,
            origin: begin.origin.clone(),
            events: 0,
            by_table: BTreeMap::new(),
        }
    }
}

/// Makes events.
#[derive(Debug)]
pub(super) struct Teller {
    shape: Shape,
    tables: FxHashMap<u32, Option<Arc<Table>>>,
    known: FxHashMap<u32, Arc<Relation>>,
    open: Option<Open>,
    transactions: Arc<str>,
    messages: Arc<str>,
    heartbeats: Arc<str>,
    pub(super) sent: Sent,
}

impl Teller {
    pub(super) fn new(shape: &Shape) -> Self {
        Self {
            shape: shape.clone(),
            tables: FxHashMap::default(),
            known: FxHashMap::default(),
            open: None,
            transactions: format!("{}.transaction", shape.prefix).into(),
            messages: format!("{}.message", shape.prefix).into(),
            heartbeats: format!("__debezium-heartbeat.{}", shape.prefix).into(),
            sent: Sent::default(),
        }
    }

    /// Whether a transaction has been told in part.
    pub(super) fn is_within_transaction(&self) -> bool {
        self.open.is_some()
    }

    /// The table of a relation, `None` for one that is not told.
    fn table(&mut self, relation: &Arc<Relation>) -> Result<Option<Arc<Table>>, Error> {
        if self.known.get(&relation.id).is_some_and(|known| Arc::ptr_eq(known, relation)) {
            return Ok(self.tables.get(&relation.id).cloned().flatten());
        }
        let name = (relation.schema.clone(), relation.name.clone());
        let told = relation.schema != OWN && !self.shape.exclude.contains(&name);
        let table = told.then(|| Table::new(relation, &self.shape)).transpose()?.map(Arc::new);
        if let Some(table) = table.as_ref().filter(|table| !table.has_key()) {
            tracing::warn!(
                table = table.name,
                "nothing identifies a row of this table: its events have no key and go to the first partition"
            );
        }
        self.known.insert(relation.id, Arc::clone(relation));
        self.tables.insert(relation.id, table.clone());
        Ok(table)
    }

    /// Takes the next item of the trail and appends its events.
    pub(super) fn tell(
        &mut self,
        item: &Item<'_>,
        now: Timestamp,
        out: &mut Vec<Event>,
    ) -> Result<(), Error> {
        match item {
            Item::Begin(begin) => self.open = Some(Open::of(begin)),
            Item::Row { relation, row } => {
                if let Some(table) = self.table(relation)? {
                    self.row(&table, *row, now, out)?;
                }
            }
            Item::Truncate { relations, .. } => {
                for relation in relations {
                    let Some(table) = self.table(relation)? else { continue };
                    if self.shape.truncates {
                        let value = self.envelope(&table, 't', None, None, now, out)?;
                        out.push(Event {
                            topic: Arc::clone(&table.topic),
                            of_table: true,
                            key: None,
                            value: Some(value),
                            header: None,
                        });
                        self.sent.truncates += 1;
                    } else {
                        tracing::warn!(table = table.name, "a TRUNCATE is not told: truncates = false");
                    }
                }
            }
            Item::Message(message) if self.shape.messages && !message.prefix.starts_with(OWN_MESSAGES) => {
                self.message(message, now, out);
            }
            Item::Commit(commit) => self.commit(commit, out),
            Item::Message(_) | Item::Progress(_) => {}
        }
        Ok(())
    }

    /// A sign of life.
    pub(super) fn heartbeat(&self, now: Timestamp) -> Event {
        let mut key = Vec::new();
        let schema = r#"{"type":"struct","fields":[{"type":"string","optional":false,"field":"serverName"}],"optional":false,"name":"io.debezium.connector.common.ServerNameKey","version":1}"#;
        self.open_payload(schema.as_bytes(), &mut key);
        json::raw("{\"serverName\":", &mut key);
        json::text(&self.shape.prefix, &mut key);
        key.push(b'}');
        self.close_payload(&mut key);
        let mut value = Vec::new();
        let schema = r#"{"type":"struct","fields":[{"type":"int64","optional":false,"field":"ts_ms"}],"optional":false,"name":"io.debezium.connector.common.Heartbeat","version":1}"#;
        self.open_payload(schema.as_bytes(), &mut value);
        json::raw(&format!("{{\"ts_ms\":{}}}", millis(now)), &mut value);
        self.close_payload(&mut value);
        Event {
            topic: Arc::clone(&self.heartbeats),
            of_table: false,
            key: Some(key),
            value: Some(value),
            header: None,
        }
    }

    fn open_payload(&self, schema: &[u8], out: &mut Vec<u8>) {
        if self.shape.schemas {
            json::raw("{\"schema\":", out);
            out.extend_from_slice(schema);
            json::raw(",\"payload\":", out);
        }
    }

    fn close_payload(&self, out: &mut Vec<u8>) {
        if self.shape.schemas {
            out.push(b'}');
        }
    }

    fn key(&self, table: &Table, tuple: Tuple<'_>, old: Option<Tuple<'_>>) -> Result<Option<Vec<u8>>, Error> {
        if !table.has_key() {
            return Ok(None);
        }
        let mut key = Vec::new();
        self.open_payload(&table.key_schema, &mut key);
        table.write_key(tuple, old, &mut key)?;
        self.close_payload(&mut key);
        Ok(Some(key))
    }

    fn row(
        &mut self,
        table: &Arc<Table>,
        row: Row<'_>,
        now: Timestamp,
        out: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let topic = || Arc::clone(&table.topic);
        let one =
            |key, value| Event { topic: topic(), of_table: true, key, value: Some(value), header: None };
        match row {
            Row::Insert { new } => {
                let key = self.key(table, new, None)?;
                let value = self.envelope(table, 'c', None, Some((new, None)), now, out)?;
                out.push(one(key, value));
                self.sent.inserts += 1;
            }
            Row::Delete { old } => {
                self.delete(table, old.tuple(), None, now, out)?;
                self.sent.deletes += 1;
            }
            Row::Update { old, new } => {
                let before = old.map(Old::tuple);
                self.sent.updates += 1;
                if let Some(before) = before.filter(|_| table.has_key())
                    && table.is_key_changed(before, new)?
                {
                    let new_key = self.key(table, new, Some(before))?;
                    self.delete(table, before, new_key.clone().map(|key| (NEW_KEY, key)), now, out)?;
                    let header = self.key(table, before, None)?.map(|key| (OLD_KEY, key));
                    let value = self.envelope(table, 'c', None, Some((new, old)), now, out)?;
                    out.push(Event { header, ..one(new_key, value) });
                    return Ok(());
                }
                let key = self.key(table, new, before)?;
                let full = match old {
                    Some(Old::Full(tuple)) => Some(tuple),
                    _ => None,
                };
                let value = self.envelope(table, 'u', full, Some((new, old)), now, out)?;
                out.push(one(key, value));
            }
        }
        Ok(())
    }

    fn delete(
        &mut self,
        table: &Arc<Table>,
        old: Tuple<'_>,
        header: Option<(&'static str, Vec<u8>)>,
        now: Timestamp,
        out: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let key = self.key(table, old, None)?;
        let value = self.envelope(table, 'd', Some(old), None, now, out)?;
        let topic = Arc::clone(&table.topic);
        let event = Event { topic, of_table: true, key, value: Some(value), header };
        let tombstone = Event { value: None, header: None, ..event.clone() };
        out.push(event);
        if self.shape.tombstones && tombstone.key.is_some() {
            out.push(tombstone);
        }
        Ok(())
    }

    /// The value of an event, behind the transaction's begin, if this is the first.
    fn envelope(
        &mut self,
        table: &Table,
        op: char,
        before: Option<Tuple<'_>>,
        after: Option<(Tuple<'_>, Option<Old<'_>>)>,
        now: Timestamp,
        out: &mut Vec<Event>,
    ) -> Result<Vec<u8>, Error> {
        let order = self.count(Some(&table.name), out);
        let mut value = Vec::with_capacity(512);
        self.open_payload(&table.value_schema, &mut value);
        json::raw("{\"before\":", &mut value);
        match before {
            Some(tuple) => table.write_row(tuple, None, &mut value)?,
            None => json::raw("null", &mut value),
        }
        json::raw(",\"after\":", &mut value);
        match after {
            Some((tuple, old)) => table.write_row(tuple, old, &mut value)?,
            None => json::raw("null", &mut value),
        }
        self.source(&table.relation.schema, &table.relation.name, order, &mut value);
        json::raw(&format!(",\"op\":\"{op}\""), &mut value);
        times(now, &mut value);
        value.push(b'}');
        self.close_payload(&mut value);
        Ok(value)
    }

    /// Counts an event of the open transaction: its number in it, and among those of its table.
    fn count(&mut self, table: Option<&str>, out: &mut Vec<Event>) -> (u64, u64) {
        let Some(open) = &mut self.open else { return (1, 1) };
        open.events += 1;
        let order = open.events;
        let of_table = match table {
            // Only who tells transactions has to know, and it is a list of tables that has no other limit than theirs.
            Some(name) if self.shape.transactions => {
                let count = open.by_table.entry(name.to_owned()).or_default();
                *count += 1;
                *count
            }
            _ => order,
        };
        if order == 1 && self.shape.transactions {
            let event = self.bracket("BEGIN");
            out.extend(event);
        }
        (order, of_table)
    }

    /// The source block and that of the transaction.
    fn source(&self, schema: &str, table: &str, order: (u64, u64), out: &mut Vec<u8>) {
        let Some(open) = &self.open else { return };
        let micros = open.time.unix_micros();
        json::raw(",\"source\":{\"version\":", out);
        json::text(env!("CARGO_PKG_VERSION"), out);
        json::raw(&format!(",\"connector\":\"{CONNECTOR}\",\"name\":"), out);
        json::text(&self.shape.prefix, out);
        json::raw(&format!(",\"ts_ms\":{},\"snapshot\":\"false\",\"db\":", micros.div_euclid(1000)), out);
        json::text(&self.shape.database, out);
        let lsn = open.commit.0.0;
        json::raw(&format!(",\"sequence\":\"[\\\"{lsn}\\\",\\\"{}\\\"]\"", order.0), out);
        json::raw(&format!(",\"ts_us\":{micros},\"ts_ns\":{},\"schema\":", micros.saturating_mul(1000)), out);
        json::text(schema, out);
        json::raw(",\"table\":", out);
        json::text(table, out);
        let xid = open.xid.map_or_else(|| "null".to_owned(), |xid| xid.to_string());
        json::raw(&format!(",\"txId\":{xid},\"lsn\":{lsn},\"xmin\":null,\"origin\":"), out);
        match &open.origin {
            Some(origin) => json::text(origin, out),
            None => json::raw("null", out),
        }
        json::raw(",\"origin_lsn\":null},\"transaction\":", out);
        if self.shape.transactions && open.xid.is_some() {
            let id = &open.id;
            let (total, of_table) = order;
            json::raw(
                &format!("{{\"id\":\"{id}\",\"total_order\":{total},\"data_collection_order\":{of_table}}}"),
                out,
            );
        } else {
            json::raw("null", out);
        }
    }

    fn message(&mut self, message: &Message<'_>, now: Timestamp, out: &mut Vec<Event>) {
        let is_alone = self.open.is_none();
        if is_alone {
            // Outside of transactions a message stands at a place of its own.
            let commit = CommitLsn(message.lsn);
            let open = Open {
                id: String::new(),
                xid: None,
                commit,
                time: now,
                origin: None,
                events: 1,
                by_table: BTreeMap::new(),
            };
            self.open = Some(open);
        }
        let order = if is_alone { (1, 1) } else { self.count(None, out) };
        let mut key = Vec::new();
        let schema = r#"{"type":"struct","fields":[{"type":"string","optional":true,"field":"prefix"}],"optional":false,"name":"io.debezium.connector.postgresql.MessageKey","version":1}"#;
        self.open_payload(schema.as_bytes(), &mut key);
        json::raw("{\"prefix\":", &mut key);
        json::text(message.prefix, &mut key);
        key.push(b'}');
        self.close_payload(&mut key);
        let mut value = Vec::new();
        let schema = format!(
            r#"{{"type":"struct","fields":[{{"type":"string","optional":false,"field":"op"}},{{"type":"int64","optional":true,"field":"ts_ms"}},{SOURCE_SCHEMA},{BLOCK_SCHEMA},{{"type":"struct","fields":[{{"type":"string","optional":true,"field":"prefix"}},{{"type":"bytes","optional":true,"field":"content"}}],"optional":false,"name":"io.debezium.connector.postgresql.Message","version":1,"field":"message"}}],"optional":false,"name":"io.debezium.connector.postgresql.MessageValue","version":1}}"#
        );
        self.open_payload(schema.as_bytes(), &mut value);
        json::raw(&format!("{{\"op\":\"m\",\"ts_ms\":{}", millis(now)), &mut value);
        self.source("", "", order, &mut value);
        json::raw(",\"message\":{\"prefix\":", &mut value);
        json::text(message.prefix, &mut value);
        json::raw(",\"content\":", &mut value);
        json::bytes(message.content, &mut value);
        json::raw("}}", &mut value);
        self.close_payload(&mut value);
        if is_alone {
            self.open = None;
        }
        self.sent.messages += 1;
        let topic = Arc::clone(&self.messages);
        out.push(Event { topic, of_table: false, key: Some(key), value: Some(value), header: None });
    }

    fn commit(&mut self, _: &Commit, out: &mut Vec<Event>) {
        if self.shape.transactions && self.open.as_ref().is_some_and(|open| open.events > 0) {
            out.extend(self.bracket("END"));
        }
        self.open = None;
        self.sent.transactions += 1;
    }

    /// The begin or end of the open transaction.
    fn bracket(&self, status: &str) -> Option<Event> {
        let open = self.open.as_ref()?;
        let mut key = Vec::new();
        let schema = r#"{"type":"struct","fields":[{"type":"string","optional":false,"field":"id"}],"optional":false,"name":"io.debezium.connector.common.TransactionMetadataKey","version":1}"#;
        self.open_payload(schema.as_bytes(), &mut key);
        json::raw(&format!("{{\"id\":\"{}\"}}", open.id), &mut key);
        self.close_payload(&mut key);
        let mut value = Vec::new();
        let schema = r#"{"type":"struct","fields":[{"type":"string","optional":false,"field":"status"},{"type":"string","optional":false,"field":"id"},{"type":"int64","optional":true,"field":"event_count"},{"type":"array","items":{"type":"struct","fields":[{"type":"string","optional":false,"field":"data_collection"},{"type":"int64","optional":false,"field":"event_count"}],"optional":true,"name":"event.collection","version":1},"optional":true,"field":"data_collections"},{"type":"int64","optional":false,"field":"ts_ms"}],"optional":false,"name":"io.debezium.connector.common.TransactionMetadataValue","version":1}"#;
        self.open_payload(schema.as_bytes(), &mut value);
        json::raw(&format!("{{\"status\":\"{status}\",\"id\":\"{}\",\"event_count\":", open.id), &mut value);
        if status == "END" {
            json::raw(&format!("{},\"data_collections\":[", open.events), &mut value);
            for (number, (table, count)) in open.by_table.iter().enumerate() {
                json::raw(
                    if number > 0 { ",{\"data_collection\":" } else { "{\"data_collection\":" },
                    &mut value,
                );
                json::text(table, &mut value);
                json::raw(&format!(",\"event_count\":{count}}}"), &mut value);
            }
            value.push(b']');
        } else {
            json::raw("null,\"data_collections\":null", &mut value);
        }
        json::raw(&format!(",\"ts_ms\":{}}}", millis(open.time)), &mut value);
        self.close_payload(&mut value);
        let topic = Arc::clone(&self.transactions);
        Some(Event { topic, of_table: false, key: Some(key), value: Some(value), header: None })
    }
}

fn millis(time: Timestamp) -> i64 {
    time.unix_micros().div_euclid(1000)
}

fn times(now: Timestamp, out: &mut Vec<u8>) {
    let micros = now.unix_micros();
    let (millis, nanos) = (millis(now), micros.saturating_mul(1000));
    json::raw(&format!(",\"ts_ms\":{millis},\"ts_us\":{micros},\"ts_ns\":{nanos}"), out);
}

#[cfg(test)]
mod tests;
