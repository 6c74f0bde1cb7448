//! A trail written by hand and a target to apply it to.

use std::path::Path;
use std::sync::Arc;

use irongate_apply::{
    Applier, Grouping, Names, Policies, PostgresTarget, ReplicatSettings, Retry, Step, Totals, TrailDirectory,
};
use irongate_checkpoint::{Applied, CheckpointTable, checkpoint_setup};
use irongate_postgres::Endpoint;
use irongate_tests::{Server, TempDir};
use irongate_trail::{
    Begin, Column, Commit, CommitLsn, Directory, Lineage, Lsn, Message, Position, Relation, ReplicaIdentity,
    ResumeLsn, Timestamp, Truncate, TupleBuilder, Writer, WriterOptions,
};

pub(crate) const LINEAGE: Lineage =
    Lineage { system_identifier: 7, timeline: 1, slot_incarnation: Lsn(0x100) };
pub(crate) const START: ResumeLsn = ResumeLsn(Lsn(0x1000));

/// A relation of the source. A column whose name ends in `!` is part of the key.
pub(crate) fn relation(id: u32, name: &str, identity: ReplicaIdentity, columns: &[&str]) -> Arc<Relation> {
    let column = |name: &&str| Column {
        name: name.trim_end_matches('!').to_owned(),
        key: name.ends_with('!') || identity == ReplicaIdentity::Full,
        type_oid: 25,
        type_modifier: -1,
        type_name: None,
    };
    Arc::new(Relation {
        id,
        schema: "public".to_owned(),
        name: name.to_owned(),
        replica_identity: identity,
        columns: columns.iter().map(column).collect(),
    })
}

/// Values as they come: `None` is NULL.
pub(crate) fn tuple(values: &[Option<&str>]) -> Vec<u8> {
    let add = |tuple: TupleBuilder, value: &Option<&str>| match value {
        None => tuple.value(irongate_trail::Value::Null),
        Some("<unchanged>") => tuple.value(irongate_trail::Value::Unchanged),
        Some(text) => tuple.text(text),
    };
    values.iter().fold(TupleBuilder::new(), add).as_tuple().as_bytes().to_vec()
}

/// One change to be written.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Insert(Arc<Relation>, Vec<u8>),
    Update(Arc<Relation>, Option<(u8, Vec<u8>)>, Vec<u8>),
    Delete(Arc<Relation>, u8, Vec<u8>),
    Message(&'static str, Vec<u8>),
    Truncate(Vec<Arc<Relation>>),
}

/// A trail, a target server's database and a checkpoint.
pub(crate) struct Bench {
    pub(crate) server: Server,
    pub(crate) dir: TempDir,
    pub(crate) writer: Writer,
    pub(crate) next: u64,
}

impl Bench {
    pub(crate) async fn new(major: u32, schema: &str) -> Self {
        let server = Server::start(major, &irongate_tests::Settings::new()).await;
        server.create_database("target").await;
        server.batch_in("target", schema).await;
        for sql in
            checkpoint_setup("postgres").into_iter().chain(irongate_apply::error_queue_setup("postgres"))
        {
            server.batch_in("target", &sql).await;
        }
        let dir = TempDir::new();
        let storage = Arc::new(Directory::create(dir.path().join("trail")).unwrap());
        let writer = Writer::create(storage, WriterOptions::new("f", LINEAGE), START).unwrap();
        let bench = Self { server, dir, writer, next: 0x2000 };
        bench.begin_anew().await;
        bench
    }

    /// Sets the checkpoint back to the beginning.
    pub(crate) async fn begin_anew(&self) {
        let client = self.server.client("target").await;
        let table = CheckpointTable::prepare(&client, "f").await.unwrap();
        table.remove(&client).await.unwrap();
        let applied = Applied {
            lineage: LINEAGE,
            end_lsn: START,
            position: Position { seqno: 1, offset: 0 },
            epoch: 1,
            ..Applied::default()
        };
        table.initialise(&client, &applied).await.unwrap();
    }

    pub(crate) fn settings(&self) -> ReplicatSettings {
        ReplicatSettings {
            flow: "f".to_owned(),
            group: "f-replicat".to_owned(),
            target: self.server.socket_uri("postgres", "target").parse::<Endpoint>().unwrap(),
            source: None,
            trail: self.trail().to_owned(),
            trail_may_come: false,
            state_directory: self.dir.path().join("state"),
            names: Names::default(),
            key_columns: Default::default(),
            grouping: Grouping::default(),
            synchronous_commit: false,
            policies: Policies::default(),
            sequence_margin: irongate_apply::SEQUENCE_MARGIN,
            ahead: irongate_apply::AheadSettings::default(),
            sessions: irongate_apply::SESSIONS,
            conflicts: None,
            ddl: None,
            retry: Retry::default(),
        }
    }

    pub(crate) fn trail(&self) -> std::path::PathBuf {
        Path::new(self.dir.path()).join("trail")
    }

    /// Writes one transaction and makes it durable.
    pub(crate) fn transaction(&mut self, ops: &[Op]) {
        self.transaction_at(Timestamp::now(), ops);
    }

    /// The same, committed at a time of its own.
    pub(crate) fn transaction_at(&mut self, time: Timestamp, ops: &[Op]) {
        self.append(time, ops);
        self.writer.sync().unwrap();
    }

    /// Writes one transaction, and does not wait for the disk.
    pub(crate) fn append(&mut self, time: Timestamp, ops: &[Op]) {
        let commit_lsn = CommitLsn(Lsn(self.next));
        let end_lsn = ResumeLsn(Lsn(self.next + 0x10));
        self.next += 0x100;
        let previous = CommitLsn::default();
        let begin = Begin { xid: 1, commit_lsn, commit_time: time, origin: None, previous };
        self.writer.begin(&begin).unwrap();
        for op in ops {
            match op {
                Op::Insert(relation, new) => {
                    self.writer.relation(relation).unwrap();
                    self.writer.row(relation.id, b'I', &[b"N", new.as_slice()].concat()).unwrap();
                }
                Op::Update(relation, old, new) => {
                    self.writer.relation(relation).unwrap();
                    let mut bytes = Vec::new();
                    if let Some((kind, old)) = old {
                        bytes.push(*kind);
                        bytes.extend_from_slice(old);
                    }
                    bytes.push(b'N');
                    bytes.extend_from_slice(new);
                    self.writer.row(relation.id, b'U', &bytes).unwrap();
                }
                Op::Delete(relation, kind, old) => {
                    self.writer.relation(relation).unwrap();
                    self.writer.row(relation.id, b'D', &[&[*kind], old.as_slice()].concat()).unwrap();
                }
                Op::Truncate(relations) => {
                    for relation in relations {
                        self.writer.relation(relation).unwrap();
                    }
                    let relations = relations.iter().map(|relation| relation.id).collect();
                    let truncate = Truncate { relations, cascade: false, restart_identity: false };
                    self.writer.truncate(&truncate).unwrap();
                }
                Op::Message(prefix, content) => {
                    let message = Message { prefix, content, transactional: true, lsn: commit_lsn.0 };
                    self.writer.message(&message).unwrap();
                }
            }
        }
        self.writer.commit(&Commit { commit_lsn, end_lsn, commit_time: time, changes: 0 }).unwrap();
    }

    /// Applies all there is.
    pub(crate) async fn apply(&self, settings: ReplicatSettings) -> Result<Applied, irongate_apply::Error> {
        self.apply_counting(settings).await.map(|(applied, _)| applied)
    }

    /// Applies all there is; also says how many groups were refused.
    pub(crate) async fn apply_counting(
        &self,
        settings: ReplicatSettings,
    ) -> Result<(Applied, u64), irongate_apply::Error> {
        let (applied, totals) = self.applied_and_totals(settings).await?;
        Ok((applied, totals.refused))
    }

    /// Applies all there is; says all that was counted.
    pub(crate) async fn apply_totals(
        &self,
        settings: ReplicatSettings,
    ) -> Result<Totals, irongate_apply::Error> {
        self.applied_and_totals(settings).await.map(|(_, totals)| totals)
    }

    async fn applied_and_totals(
        &self,
        settings: ReplicatSettings,
    ) -> Result<(Applied, Totals), irongate_apply::Error> {
        let grouping = settings.grouping;
        let target = PostgresTarget::new(settings);
        let mut applier = Applier::new(TrailDirectory(self.trail()), target, grouping);
        let begun = std::time::Instant::now();
        loop {
            let step = match applier.step().await {
                // The server takes a moment to end the session of the one before.
                Err(irongate_apply::Error::Checkpoint(irongate_checkpoint::Error::FlowInUse { .. }))
                    if begun.elapsed() < std::time::Duration::from_secs(10) =>
                {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    continue;
                }
                step => step?,
            };
            match step {
                Step::Applied => {}
                Step::Idle => return Ok((*applier.applied(), applier.totals().clone())),
            }
        }
    }

    /// All rows of a table as text, in order.
    pub(crate) async fn rows(&self, table: &str) -> Vec<String> {
        let sql = format!("SELECT t::text FROM {table} AS t ORDER BY t::text COLLATE \"C\"");
        let rows = self.server.rows("target", &sql).await;
        rows.into_iter().map(|mut row| row.remove(0).unwrap_or_default()).collect()
    }
}
