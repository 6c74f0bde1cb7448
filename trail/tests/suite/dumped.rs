//! What a dump shows; how it looks is in the golden files.

use std::sync::Arc;

use irongate_trail::{
    CommitLsn, Dump, DumpFilter, DumpFormat, DumpOptions, Error, KeyValue, Lsn, Operation, Storage,
    Timestamp, TupleBuilder,
};
use serde_json::Value;

use crate::disk::Disk;
use crate::support::*;

/// Transactions 1 to 6, of which 3 is streamed and the others have two rows, 4 is a truncate and 5 has a message too; each
/// two in a file; messages and progress between them.
fn six() -> Disk {
    let disk = Disk::new(1);
    let mut writer = create(&disk.storage());
    let table = relation("other");
    for number in 1..=6 {
        match number {
            3 => streamed(&mut writer, 3, 4).unwrap(),
            4 => {
                writer.begin(&begin(4)).unwrap();
                writer.relation(&table).unwrap();
                writer.truncate(&truncate(&table)).unwrap();
                writer.commit(&commit(4)).unwrap();
            }
            5 => {
                writer.begin(&begin(5)).unwrap();
                writer.relation(&table).unwrap();
                let old = TupleBuilder::new().text("5.0").text("");
                let row = [b"K", old.as_tuple().as_bytes(), &insert("5.1", "changed")].concat();
                writer.row(table.id, b'U', &row).unwrap();
                writer.row(table.id, b'D', &[b"K", old.as_tuple().as_bytes()].concat()).unwrap();
                writer.message(&message(b"five", true)).unwrap();
                writer.commit(&commit(5)).unwrap();
            }
            _ => transaction(&mut writer, number, 2).unwrap(),
        }
        writer.message(&message(b"between", false)).unwrap();
        if number % 2 == 0 {
            writer.rotate().unwrap();
        }
    }
    writer.sync().unwrap();
    disk
}

fn lines(storage: Arc<dyn Storage>, options: DumpOptions) -> Result<Vec<Value>, Error> {
    let mut dump = Dump::open(storage, DumpOptions { format: DumpFormat::Json, ..options })?;
    let mut lines = Vec::new();
    while let Some(line) = dump.next_line()? {
        lines.push(serde_json::from_str(&line).unwrap());
    }
    Ok(lines)
}

/// What the lines are about, in short.
fn shown(filter: DumpFilter) -> Vec<String> {
    let lines = lines(six().storage(), DumpOptions { filter, ..DumpOptions::default() }).unwrap();
    let of = |line: Value| {
        let key = line["new"]["id"].as_str().or_else(|| line["key"]["id"].as_str());
        let detail = key.or_else(|| line["commit_lsn"].as_str()).or_else(|| line["content"].as_str());
        format!("{} {}", line["record"].as_str().unwrap(), detail.unwrap_or_default())
    };
    lines.into_iter().map(of).collect()
}

fn only(filter: DumpFilter, expected: &[&str]) {
    assert_eq!(shown(filter), expected);
}

const ONE: [&str; 4] = ["begin 0/3E8", "insert 1.0", "insert 1.1", "commit 0/3E8"];

#[test]
fn without_a_filter_everything_is_shown() {
    let all = shown(DumpFilter::default());
    for kind in [
        "file", "relation", "begin", "insert", "update", "delete", "truncate", "message", "adopt", "commit",
        "end", "progress",
    ] {
        assert!(all.iter().any(|line| line.starts_with(kind)), "{kind}: {all:?}");
    }
    assert_eq!(all.iter().filter(|line| line.starts_with("file")).count(), 4, "the last is only a header");
}

#[test]
fn filters_of_transactions_show_them_whole_and_nothing_else() {
    only(DumpFilter { xid: Some(1), ..DumpFilter::default() }, &ONE);
    let commits = Some(CommitLsn(Lsn(0))..=CommitLsn(Lsn(1500)));
    only(DumpFilter { commits, ..DumpFilter::default() }, &ONE);
    let times = Some(Timestamp(i64::MIN)..=Timestamp(1));
    only(DumpFilter { times, ..DumpFilter::default() }, &ONE);
    let times = Some(Timestamp(4)..=Timestamp(4));
    only(DumpFilter { times, ..DumpFilter::default() }, &["begin 0/FA0", "truncate ", "commit 0/FA0"]);
    only(DumpFilter { xid: Some(77), ..DumpFilter::default() }, &[]);
}

#[test]
fn filters_of_changes_show_them_in_the_frame_of_their_transaction() {
    let by = |tables: &[&str]| DumpFilter {
        tables: tables.iter().map(|&table| table.to_owned()).collect(),
        ..DumpFilter::default()
    };
    let streamed = ["begin 0/BB8", "insert 3.0", "insert 3.1", "insert 3.3", "commit 0/BB8"];
    only(by(&["public.streamed"]), &streamed);
    only(by(&["*.str*"]), &streamed);
    only(by(&["streamed", "private.*"]), &streamed);
    only(by(&["public.str"]), &[]);
    let operations = vec![Operation::Truncate, Operation::Delete];
    only(
        DumpFilter { operations, ..DumpFilter::default() },
        &["begin 0/FA0", "truncate ", "commit 0/FA0", "begin 0/1388", "delete 5.0", "commit 0/1388"],
    );
    let operations = vec![Operation::Message];
    let messages = shown(DumpFilter { operations, ..DumpFilter::default() });
    assert_eq!(messages.iter().filter(|line| *line == "message between").count(), 6);
    assert!(messages.contains(&"message five".to_owned()) && messages.len() == 9);
}

#[test]
fn a_row_is_found_by_its_key_before_and_after() {
    let by = |column: Option<&str>, value: &str| {
        let keys = vec![KeyValue { column: column.map(str::to_owned), value: value.to_owned() }];
        DumpFilter { keys, ..DumpFilter::default() }
    };
    only(by(None, "1.1"), &["begin 0/3E8", "insert 1.1", "commit 0/3E8"]);
    only(by(Some("id"), "5.0"), &["begin 0/1388", "update 5.1", "delete 5.0", "commit 0/1388"]);
    only(by(Some("value"), "changed"), &["begin 0/1388", "update 5.1", "commit 0/1388"]);
    only(by(None, "changed"), &[]);
    only(by(Some("nowhere"), "5.0"), &[]);
    // Conditions of several kinds are all fulfilled.
    let filter = DumpFilter { operations: vec![Operation::Delete], xid: Some(5), ..by(None, "5.0") };
    only(filter, &["begin 0/1388", "delete 5.0", "commit 0/1388"]);
    only(DumpFilter { xid: Some(6), ..by(None, "5.0") }, &[]);
}

#[test]
fn a_range_of_files_is_shown() {
    let filter = |first_file, last_file| DumpFilter { first_file, last_file, ..DumpFilter::default() };
    let files = |filter| {
        let lines = lines(six().storage(), DumpOptions { filter, ..DumpOptions::default() }).unwrap();
        let seqnos: Vec<u64> = lines.iter().filter_map(|line| line["seqno"].as_u64()).collect();
        let begins = lines.iter().filter(|line| line["record"] == "begin").count();
        (seqnos, begins)
    };
    assert_eq!(files(filter(None, Some(1))), (vec![1], 2));
    assert_eq!(files(filter(Some(2), Some(2))), (vec![2], 2));
    assert_eq!(files(filter(Some(3), None)), (vec![3, 4], 2));
}

#[test]
fn each_line_says_where_its_record_starts() {
    let disk = six();
    for line in
        lines(disk.storage(), DumpOptions { subtransactions: true, ..DumpOptions::default() }).unwrap()
    {
        let content = disk.content(line["file"].as_str().unwrap()).unwrap();
        let offset = line["offset"].as_u64().unwrap() as usize;
        let record = line["record"].as_str().unwrap();
        if record == "file" {
            assert_eq!(offset, 0);
            continue;
        }
        let kind = match record {
            "relation" => b'R',
            "commit" => b'C',
            "end" => b'E',
            other => other.to_ascii_uppercase().as_bytes()[0],
        };
        assert_eq!(content[offset + 8], kind, "{line}");
        let in_side = line["file"].as_str().unwrap().ends_with(".side");
        assert_eq!(in_side && record == "insert", line["subtransaction"] == 3, "{line}");
    }
}

#[test]
fn what_is_not_durable_is_shown_only_if_asked_for() {
    let disk = Disk::new(1);
    let storage = disk.storage();
    let mut writer = create(&storage);
    transaction(&mut writer, 1, 1).unwrap();
    writer.sync().unwrap();
    transaction(&mut writer, 2, 1).unwrap();
    writer.begin(&begin(3)).unwrap();
    writer.flush().unwrap();
    let commits = |to_the_end| {
        let lines = lines(disk.storage(), DumpOptions { to_the_end, ..DumpOptions::default() }).unwrap();
        lines.iter().filter(|line| line["record"] == "commit").count()
    };
    assert_eq!((commits(false), commits(true)), (1, 2));
    // What comes later is shown later.
    let mut dump = Dump::open(storage, DumpOptions::default()).unwrap();
    while dump.next_line().unwrap().is_some() {}
    writer.rollback().unwrap();
    writer.sync().unwrap();
    assert!(dump.next_line().unwrap().unwrap().contains("begin 2"));
}

#[test]
fn a_dump_ends_with_an_error_where_the_trail_is_damaged() {
    let disk = six();
    let mut content = disk.content("000000001.trail").unwrap();
    let length = content.len();
    content[length - 60] ^= 1;
    disk.put("000000001.trail", &content);
    let mut dump = Dump::open(disk.storage(), DumpOptions::default()).unwrap();
    let mut count = 0;
    let error = loop {
        match dump.next_line() {
            Ok(line) => assert!(line.is_some()),
            Err(error) => break error,
        }
        count += 1;
    };
    assert!(count > 5 && matches!(error, Error::Damaged { .. }), "{error}");
}
