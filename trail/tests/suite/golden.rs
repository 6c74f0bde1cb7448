//! Files of a released version: they are read for ever, and as long as the version is the present one, the same calls
//! write the same bytes. `UPDATE_GOLDEN=1` writes them anew; a released version's never are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use irongate_trail::{
    Begin, Column, CommitLsn, Dump, DumpFormat, DumpOptions, Lineage, Lsn, Message, Relation,
    ReplicaIdentity, ResumeLsn, Storage, Truncate, TupleBuilder, Value, Writer, WriterOptions, check,
    register_reader,
};

use crate::disk::Disk;
use crate::support::*;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/trail-v1")
}

fn column(name: &str, key: bool, type_oid: u32) -> Column {
    Column { name: name.to_owned(), key, type_oid, type_modifier: -1, type_name: None }
}

fn of(id: u32, name: &str, replica_identity: ReplicaIdentity, columns: Vec<Column>) -> Arc<Relation> {
    Arc::new(Relation { id, schema: "public".to_owned(), name: name.to_owned(), replica_identity, columns })
}

fn tuple(kind: u8, values: &[Value<'_>]) -> Vec<u8> {
    let tuple = values.iter().fold(TupleBuilder::new(), |tuple, value| tuple.value(*value));
    [&[kind], tuple.as_tuple().as_bytes()].concat()
}

/// Every kind of record and every kind of value.
fn write(storage: &Arc<dyn Storage>) {
    let options = WriterOptions { flow: "csp".to_owned(), ..options() };
    let mut writer = Writer::create(Arc::clone(storage), options, START).unwrap();
    let text = |text: &'static str| Value::Text(text.as_bytes());
    let mood =
        Column { type_name: Some(("public".to_owned(), "mood".to_owned())), ..column("mood", false, 16500) };
    let amount = Column { type_modifier: 655_366, ..column("amount", false, 1700) };
    let keyed = of(16401, "keyed", ReplicaIdentity::Default, vec![column("id", true, 23), mood, amount]);
    let full = of(
        16402,
        "Full \"quoted\"",
        ReplicaIdentity::Full,
        vec![column("a", false, 25), column("b", false, 17)],
    );
    let indexed = of(16403, "indexed", ReplicaIdentity::Index, vec![column("k", true, 2950)]);
    let nothing = of(16404, "nothing", ReplicaIdentity::Nothing, Vec::new());

    writer.begin(&Begin { origin: Some("irongate_css".to_owned()), ..begin(1) }).unwrap();
    writer.relation(&keyed).unwrap();
    writer.row(keyed.id, b'I', &tuple(b'N', &[text("1"), text("happy"), Value::Null])).unwrap();
    writer.row(keyed.id, b'I', &tuple(b'N', &[text("2"), Value::Null, text("-12.50")])).unwrap();
    writer.row(keyed.id, b'U', &tuple(b'N', &[text("1"), Value::Unchanged, text("NaN")])).unwrap();
    let key = tuple(b'K', &[text("2"), Value::Null, Value::Null]);
    let new = tuple(b'N', &[text("3"), text("it's \"ok\"\n"), text("")]);
    writer.row(keyed.id, b'U', &[key, new].concat()).unwrap();
    writer.row(keyed.id, b'D', &tuple(b'K', &[text("3"), Value::Null, Value::Null])).unwrap();
    writer.relation(&full).unwrap();
    let old = tuple(b'O', &[text("zażółć"), Value::Binary(&[0, 1, 255])]);
    let new = tuple(b'N', &[text("gęślą"), Value::Binary(&[])]);
    writer.row(full.id, b'U', &[old.clone(), new].concat()).unwrap();
    writer.row(full.id, b'D', &old).unwrap();
    writer.relation(&nothing).unwrap();
    writer.row(nothing.id, b'I', &tuple(b'N', &[])).unwrap();
    let message =
        |transactional, content| Message { transactional, lsn: Lsn(0x1234), prefix: "pre", content };
    writer.message(&message(true, b"inside")).unwrap();
    writer
        .truncate(&Truncate { relations: vec![keyed.id, full.id], cascade: true, restart_identity: true })
        .unwrap();
    writer.commit(&commit(1)).unwrap();
    writer.message(&message(false, b"between \xff")).unwrap();
    writer.progress(&progress(ResumeLsn(Lsn(1500)))).unwrap();

    // Streamed: two sub-transactions, one of them rolled back, beside one that is rolled back as a whole.
    writer.side_relation(70, &indexed).unwrap();
    writer
        .side_row(70, 70, indexed.id, b'I', &tuple(b'N', &[text("0f8fad5b-d9cb-469f-a165-70867728950e")]))
        .unwrap();
    writer.side_relation(80, &indexed).unwrap();
    writer.side_row(80, 80, indexed.id, b'I', &tuple(b'N', &[text("dropped")])).unwrap();
    writer.side_row(70, 71, indexed.id, b'I', &tuple(b'N', &[text("rolled back")])).unwrap();
    writer
        .side_row(70, 72, indexed.id, b'D', &tuple(b'K', &[text("7c9e6679-7425-40de-944b-e07fc1f90ae7")]))
        .unwrap();
    writer.side_message(70, 72, &message(true, b"streamed")).unwrap();
    writer
        .side_truncate(
            70,
            70,
            &Truncate { relations: vec![indexed.id], cascade: false, restart_identity: false },
        )
        .unwrap();
    writer.side_abort(70, 71).unwrap();
    writer.side_drop(80).unwrap();
    assert!(writer.adopt(70, &Begin { xid: 70, ..begin(2) }, &commit(2)).unwrap());

    writer.begin_epoch(2).unwrap();
    let changed = of(16401, "keyed", ReplicaIdentity::Default, vec![column("id", true, 20)]);
    writer.begin(&begin(3)).unwrap();
    writer.relation(&keyed).unwrap();
    writer.row(keyed.id, b'I', &tuple(b'N', &[text("4"), Value::Null, text("infinity")])).unwrap();
    writer.relation(&changed).unwrap();
    writer.row(keyed.id, b'I', &tuple(b'N', &[text("5")])).unwrap();
    writer.commit(&commit(3)).unwrap();
    writer.begin_lineage(Lineage { timeline: 2, ..LINEAGE }, end_lsn(3)).unwrap();
    transaction(&mut writer, 4, 1).unwrap();
    writer.rotate().unwrap();
    let mark = writer.sync().unwrap();
    register_reader(&**storage, "replicat", &mark).unwrap();
}

fn files(disk: &Disk) -> BTreeMap<String, Vec<u8>> {
    let of_no_worth = |name: &String| name == "lock" || name == "appended";
    let names = disk.storage().list().unwrap().into_iter().filter(|name| !of_no_worth(name));
    names.map(|name| (name.clone(), disk.content(&name).unwrap())).collect()
}

fn dumped(storage: &Arc<dyn Storage>, format: DumpFormat) -> String {
    let options = DumpOptions { format, subtransactions: true, ..DumpOptions::default() };
    let mut dump = Dump::open(Arc::clone(storage), options).unwrap();
    let mut text = String::new();
    while let Some(line) = dump.next_line().unwrap() {
        text += &line;
        text.push('\n');
    }
    text
}

#[test]
fn the_golden_trail_is_read_as_ever_and_written_as_ever() {
    let written = Disk::new(1);
    write(&written.storage());
    let written = files(&written);
    let golden = directory();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let _ = std::fs::remove_dir_all(&golden);
        std::fs::create_dir_all(&golden).unwrap();
        let disk = Disk::new(1);
        for (name, content) in &written {
            disk.put(name, content);
            std::fs::write(golden.join(name), content).unwrap();
        }
        std::fs::write(golden.join("dump.txt"), dumped(&disk.storage(), DumpFormat::Text)).unwrap();
        std::fs::write(golden.join("dump.jsonl"), dumped(&disk.storage(), DumpFormat::Json)).unwrap();
    }

    let (disk, mut names) = (Disk::new(1), Vec::new());
    let mut expected = BTreeMap::new();
    for entry in std::fs::read_dir(&golden).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let content = std::fs::read(golden.join(&name)).unwrap();
        if name.starts_with("dump.") {
            expected.insert(name, String::from_utf8(content).unwrap());
        } else {
            disk.put(&name, &content);
            names.push(name);
        }
    }
    names.sort_unstable();
    let storage = disk.storage();
    assert_eq!(dumped(&storage, DumpFormat::Text), expected["dump.txt"]);
    assert_eq!(dumped(&storage, DumpFormat::Json), expected["dump.jsonl"]);
    assert_eq!(check(&storage, |_| {}).unwrap().findings, []);

    assert_eq!(names, written.keys().cloned().collect::<Vec<_>>());
    for (name, content) in &written {
        let golden = disk.content(name).unwrap();
        let same = content.iter().zip(&golden).take_while(|(a, b)| a == b).count();
        assert!(*content == golden, "\"{name}\" is written differently from byte {same} on");
    }

    // Every kind of record is in it, and every line is JSON.
    let mut kinds: Vec<_> = expected["dump.jsonl"]
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["record"].as_str().unwrap().to_owned()
        })
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    let all = [
        "adopt", "begin", "commit", "delete", "end", "file", "insert", "message", "progress", "relation",
        "truncate", "update",
    ];
    assert_eq!(kinds, all);

    // And the present writer goes on behind it.
    let options = WriterOptions { epoch: 2, ..options() };
    let (mut writer, recovered) = Writer::open(Arc::clone(&storage), options, None).unwrap();
    assert_eq!((recovered.torn, recovered.missing_before), (0, None));
    transaction(&mut writer, 5, 1).unwrap();
    writer.sync().unwrap();
    assert_eq!(writer.durable().commit_lsn, CommitLsn(Lsn(5000)));
}
