//! What a changed row costs Irongate's own code, one step after the other: decoding it, framing it into the trail, reading
//! it back, and making statements of it. No server takes part. CI builds this; figures are for a quiet machine.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use irongate_apply::{Batch, Grouping, TargetColumn, TargetTable, rehearse};
use irongate_capture::pgoutput::{Decoder, Message, Streaming};
use irongate_tests::TempDir;
use irongate_trail::{
    Begin, Begins, Column, Commit, CommitLsn, Directory, Follower, Lineage, Lsn, Reader, Relation,
    ReplicaIdentity, ResumeLsn, Storage, Timestamp, TupleBuilder, Writer, WriterOptions,
};

/// Rows of one round, and of one transaction of it.
const ROWS: u32 = 10_000;
const EACH: u32 = 10;
const TABLE: u32 = 16_384;

fn relation() -> Arc<Relation> {
    let column = |name: &str, key, type_oid| Column {
        name: name.to_owned(),
        key,
        type_oid,
        type_modifier: -1,
        type_name: None,
    };
    let columns = vec![
        column("id", true, 23),
        column("a", false, 23),
        column("b", false, 25),
        column("c", false, 1184),
    ];
    let (schema, name) = ("public".to_owned(), "bulk".to_owned());
    Arc::new(Relation { id: TABLE, schema, name, replica_identity: ReplicaIdentity::Default, columns })
}

fn table() -> TargetTable {
    let column = |name: &str, type_oid, cast: &str| TargetColumn {
        name: name.to_owned(),
        type_oid,
        type_modifier: -1,
        cast: cast.to_owned(),
        cast_is_function: false,
        domain: false,
        equals: Some("OPERATOR(pg_catalog.=)".to_owned()),
        collation: None,
        has_spellings: false,
        not_null: true,
        generated: false,
        default: false,
        identity_always: false,
    };
    TargetTable {
        schema: "public".to_owned(),
        name: "bulk".to_owned(),
        partitioned: false,
        columns: vec![
            column("id", 23, "int4"),
            column("a", 23, "int4"),
            column("b", 25, "text"),
            column("c", 1184, "timestamptz"),
        ],
        unique: vec![vec![0]],
        constraints: 1,
        has_triggers: false,
        has_rules: false,
        row_security: false,
    }
}

/// The tuples of a row, from the first one's kind on.
fn row(id: u32) -> Vec<u8> {
    let tuple = TupleBuilder::new()
        .text(&id.to_string())
        .text(&(id % 100).to_string())
        .text(&format!("row number {id}"))
        .text("2026-11-21 22:17:32.123456+00");
    [b"N", tuple.as_tuple().as_bytes()].concat()
}

/// Appends one round of transactions: updates, or inserts.
fn append(writer: &mut Writer, relation: &Arc<Relation>, rows: &[Vec<u8>], operation: u8, lsn: &mut u64) {
    for chunk in rows.chunks(EACH as usize) {
        *lsn += 100;
        let (commit_lsn, commit_time) = (CommitLsn(Lsn(*lsn)), Timestamp(0));
        let begin = Begin { xid: 1, commit_lsn, commit_time, origin: None, previous: CommitLsn::default() };
        writer.begin(&begin).expect("a transaction begins");
        writer.relation(relation).expect("a table is declared");
        for row in chunk {
            writer.row(TABLE, operation, row).expect("a row is appended");
        }
        let (end_lsn, changes) = (ResumeLsn(Lsn(*lsn + 50)), chunk.len() as u64);
        writer.commit(&Commit { commit_lsn, end_lsn, commit_time, changes }).expect("a transaction ends");
    }
}

fn writer(directory: &TempDir, name: &str) -> (Writer, std::path::PathBuf) {
    let path = directory.path().join(name);
    let storage: Arc<dyn Storage> = Arc::new(Directory::create(&path).expect("a directory is made"));
    let lineage = Lineage { system_identifier: 1, timeline: 1, slot_incarnation: Lsn(1) };
    let writer = Writer::create(storage, WriterOptions::new("bench", lineage), ResumeLsn(Lsn(1)));
    (writer.expect("a trail is made"), path)
}

fn decode(criterion: &mut Criterion) {
    let messages: Vec<Vec<u8>> = (0..ROWS)
        .map(|id| {
            let bytes = row(id);
            let row = irongate_capture::pgoutput::Row {
                xid: None,
                relation: TABLE,
                operation: b'U',
                columns: 4,
                bytes: &bytes,
            };
            let mut message = Vec::new();
            Message::Row(row).encode(&mut message);
            message
        })
        .collect();
    let mut group = criterion.benchmark_group("row");
    group.throughput(Throughput::Elements(ROWS.into()));
    group.bench_function("decode", |bencher| {
        let mut decoder = Decoder::new(Streaming::On);
        bencher.iter(|| {
            for message in &messages {
                black_box(decoder.decode(message).expect("a message is read"));
            }
        });
    });
    group.finish();
}

fn frame(criterion: &mut Criterion) {
    let (directory, relation) = (TempDir::new(), relation());
    let rows: Vec<Vec<u8>> = (0..ROWS).map(row).collect();
    let (mut writer, path) = writer(&directory, "frame");
    let mut lsn = 1000;
    let mut group = criterion.benchmark_group("row");
    group.throughput(Throughput::Elements(ROWS.into()));
    group.bench_function("frame", |bencher| {
        bencher.iter(|| append(&mut writer, &relation, &rows, b'U', &mut lsn));
    });
    group.finish();
    drop(writer);
    let _ = std::fs::remove_dir_all(path);
}

fn read_and_build(criterion: &mut Criterion) {
    let (directory, relation, table) = (TempDir::new(), relation(), table());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime is made");
    let _within = runtime.enter();
    let rows: Vec<Vec<u8>> = (0..ROWS).map(row).collect();
    for (operation, name) in [(b'I', "inserts"), (b'U', "updates")] {
        let (mut writer, path) = writer(&directory, name);
        append(&mut writer, &relation, &rows, operation, &mut 1000);
        writer.sync().expect("the trail is synced");
        let mut group = criterion.benchmark_group(format!("row, {name}"));
        group.throughput(Throughput::Elements(ROWS.into()));
        let storage: Arc<dyn Storage> = Arc::new(Directory::new(&path));
        group.bench_function("read", |bencher| {
            bencher.iter(|| {
                let mut reader =
                    Reader::open(Arc::clone(&storage), Begins::First).expect("a trail is opened");
                while let Some(item) = reader.next().expect("an item is read") {
                    black_box(item);
                }
            });
        });
        let limits = Grouping { changes: ROWS as usize, ..Grouping::default() };
        let mut batch = Batch::default();
        let mut source = Follower::open(&path, Begins::First).expect("a trail is followed");
        batch.fill(&mut source, &limits, false).expect("a batch is filled");
        assert_eq!(batch.len(), ROWS as usize, "the batch holds all rows");
        group.bench_function("build statements", |bencher| {
            bencher.iter(|| black_box(rehearse(&batch, std::slice::from_ref(&table)).expect("it is sound")));
        });
        group.finish();
    }
}

criterion_group!(hot_paths, decode, frame, read_and_build);
criterion_main!(hot_paths);
