//! A machine, a sink that writes down what it is told, and short words for what a stream says.

use std::fmt::Write as _;
use std::sync::Arc;

use irongate_trail::{Column, Message as Logical, ReplicaIdentity, TupleBuilder};

use super::super::*;

/// Writes down what it is told.
#[derive(Default)]
pub(super) struct Notes {
    lines: Vec<String>,
    pub(super) fail: bool,
}

impl Notes {
    pub(super) fn note(&mut self, line: String) -> Result<(), Error> {
        if self.fail {
            return Err(Error::Sink("full".into()));
        }
        self.lines.push(line);
        Ok(())
    }
}

pub(super) fn names(relation: &Relation) -> String {
    let mut text = format!("{}.{}(", relation.schema, relation.name);
    for column in &relation.columns {
        let name = column.type_name.as_ref().map_or("", |(_, name)| name);
        let _ = write!(text, "{}:{}{name} ", column.name, column.type_oid);
    }
    text.trim_end().to_owned() + ")"
}

impl Sink for Notes {
    fn begin(&mut self, begin: &Begin) -> Result<(), Error> {
        let origin = begin.origin.as_ref().map_or_else(String::new, |origin| format!(" from {origin}"));
        self.note(format!("begin {} at {}{origin}", begin.xid, begin.commit_lsn))
    }
    fn relation(&mut self, relation: &Arc<Relation>) -> Result<(), Error> {
        self.note(format!("relation {}", names(relation)))
    }
    fn row(&mut self, relation: u32, operation: u8, _: &[u8]) -> Result<(), Error> {
        self.note(format!("{} {relation}", char::from(operation)))
    }
    fn truncate(&mut self, truncate: &Truncate) -> Result<(), Error> {
        self.note(format!("truncate {:?}", truncate.relations))
    }
    fn message(&mut self, message: &Logical<'_>) -> Result<(), Error> {
        self.note(format!("message {}", message.prefix))
    }
    fn commit(&mut self, commit: &Commit) -> Result<(), Error> {
        self.note(format!("commit to {} with {}", commit.end_lsn, commit.changes))
    }
    fn rollback(&mut self) -> Result<(), Error> {
        self.note("rollback".to_owned())
    }
    fn progress(&mut self, progress: &Progress) -> Result<(), Error> {
        self.note(format!("progress to {}", progress.resume_lsn))
    }
    fn side_relation(&mut self, xid: u32, relation: &Arc<Relation>) -> Result<(), Error> {
        self.note(format!("side {xid} relation {}", names(relation)))
    }
    fn side_row(
        &mut self,
        xid: u32,
        subxid: u32,
        relation: u32,
        operation: u8,
        _: &[u8],
    ) -> Result<(), Error> {
        self.note(format!("side {xid}/{subxid} {} {relation}", char::from(operation)))
    }
    fn side_truncate(&mut self, xid: u32, subxid: u32, truncate: &Truncate) -> Result<(), Error> {
        self.note(format!("side {xid}/{subxid} truncate {:?}", truncate.relations))
    }
    fn side_message(&mut self, xid: u32, subxid: u32, message: &Logical<'_>) -> Result<(), Error> {
        self.note(format!("side {xid}/{subxid} message {}", message.prefix))
    }
    fn side_abort(&mut self, xid: u32, subxid: u32) -> Result<(), Error> {
        self.note(format!("side {xid}/{subxid} abort"))
    }
    fn side_drop(&mut self, xid: u32) -> Result<(), Error> {
        self.note(format!("side {xid} drop"))
    }
    fn adopt(&mut self, xid: u32, begin: &Begin, commit: &Commit) -> Result<(), Error> {
        let origin = begin.origin.as_ref().map_or_else(String::new, |origin| format!(" from {origin}"));
        self.note(format!(
            "adopt {xid} at {}{origin} to {} with {}",
            begin.commit_lsn, commit.end_lsn, commit.changes
        ))
    }
}

/// A machine, its sink, and short words for what a stream says.
pub(super) struct Talk {
    pub(super) machine: Machine,
    pub(super) sink: Notes,
    commit: u64,
    pub(super) seconds: i64,
}

pub(super) const START: u64 = 0x1000;

impl Talk {
    pub(super) fn new(settings: Settings) -> Self {
        let machine = Machine::new(settings, ResumeLsn(Lsn(START)), CommitLsn::default());
        Self { machine, sink: Notes::default(), commit: 0, seconds: 1000 }
    }

    pub(super) fn default() -> Self {
        Self::new(Settings::default())
    }

    pub(super) fn try_say(&mut self, message: Message<'_>) -> Result<(), Error> {
        self.machine.message(message, &mut self.sink)
    }

    pub(super) fn say(&mut self, message: Message<'_>) -> &mut Self {
        self.try_say(message).unwrap();
        self
    }

    pub(super) fn begin(&mut self, xid: u32, commit_lsn: u64) -> &mut Self {
        self.commit = commit_lsn;
        self.say(begin(xid, commit_lsn))
    }

    pub(super) fn origin(&mut self, name: &str) -> &mut Self {
        self.say(Message::Origin { lsn: Lsn::ZERO, name })
    }

    pub(super) fn relation(&mut self, relation: Relation) -> &mut Self {
        self.say(Message::Relation { xid: None, relation })
    }

    pub(super) fn insert(&mut self, relation: u32, columns: u16) -> &mut Self {
        self.try_insert(None, relation, columns).unwrap();
        self
    }

    pub(super) fn sub_insert(&mut self, subxid: u32, relation: u32) -> &mut Self {
        self.try_insert(Some(subxid), relation, 1).unwrap();
        self
    }

    pub(super) fn try_insert(&mut self, xid: Option<u32>, relation: u32, columns: u16) -> Result<(), Error> {
        let tuple = (0..columns).fold(TupleBuilder::new(), |tuple, _| tuple.text("x"));
        let bytes = [b"N", tuple.as_tuple().as_bytes()].concat();
        self.try_say(Message::Row(Row { xid, relation, operation: b'I', columns, bytes: &bytes }))
    }

    pub(super) fn commit(&mut self) -> &mut Self {
        let lsn = self.commit;
        self.say(commit(lsn, lsn + 0x30))
    }

    pub(super) fn start(&mut self, xid: u32, first: bool) -> &mut Self {
        self.say(Message::StreamStart { xid, first })
    }

    pub(super) fn stop(&mut self) -> &mut Self {
        self.say(Message::StreamStop)
    }

    pub(super) fn stream_commit(&mut self, xid: u32, lsn: u64) -> &mut Self {
        self.say(stream_commit(xid, lsn))
    }

    pub(super) fn abort(&mut self, xid: u32, subxid: u32) -> &mut Self {
        self.say(Message::StreamAbort { xid, subxid, abort: None })
    }

    pub(super) fn keepalive(&mut self, wal_end: u64, reply: bool) -> &mut Self {
        self.machine.keepalive(Lsn(wal_end), reply);
        self
    }

    pub(super) fn settle(&mut self) -> bool {
        self.machine.settle(Timestamp(self.seconds * 1_000_000), &mut self.sink).unwrap()
    }

    pub(super) fn sync(&mut self) -> &mut Self {
        self.machine.synced(self.machine.positions().appended).unwrap();
        self
    }

    pub(super) fn disconnect(&mut self) -> &mut Self {
        self.machine.disconnected(Timestamp(self.seconds * 1_000_000), &mut self.sink).unwrap();
        self
    }

    /// Loses the connection and makes another, from what the sink has.
    pub(super) fn reconnect(&mut self, last_commit: u64) -> &mut Self {
        self.disconnect().sync();
        let durable = self.machine.positions().durable;
        self.machine = Machine::new(Settings::default(), durable, CommitLsn(Lsn(last_commit)));
        self
    }

    /// What the sink was told since the last question.
    pub(super) fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.sink.lines)
    }
}

pub(super) fn begin(xid: u32, commit_lsn: u64) -> Message<'static> {
    Message::Begin { commit_lsn: CommitLsn(Lsn(commit_lsn)), commit_time: Timestamp(5), xid }
}

pub(super) fn commit(lsn: u64, end: u64) -> Message<'static> {
    Message::Commit {
        commit_lsn: CommitLsn(Lsn(lsn)),
        end_lsn: ResumeLsn(Lsn(end)),
        commit_time: Timestamp(5),
    }
}

pub(super) fn stream_commit(xid: u32, lsn: u64) -> Message<'static> {
    Message::StreamCommit {
        xid,
        commit_lsn: CommitLsn(Lsn(lsn)),
        end_lsn: ResumeLsn(Lsn(lsn + 0x30)),
        commit_time: Timestamp(5),
    }
}

pub(super) fn table(id: u32, name: &str, types: &[u32]) -> Relation {
    let columns = types.iter().enumerate().map(|(i, oid)| Column {
        name: format!("c{i}"),
        key: i == 0,
        type_oid: *oid,
        type_modifier: -1,
        type_name: None,
    });
    Relation {
        id,
        schema: "public".to_owned(),
        name: name.to_owned(),
        replica_identity: ReplicaIdentity::Default,
        columns: columns.collect(),
    }
}

pub(super) fn own_table(id: u32) -> Relation {
    Relation { schema: OWN_SCHEMA.to_owned(), ..table(id, "heartbeat", &[23]) }
}

pub(super) fn logical(transactional: bool, lsn: u64, prefix: &str) -> Logical<'_> {
    Logical { transactional, lsn: Lsn(lsn), prefix, content: b"" }
}
