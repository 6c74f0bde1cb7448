//! What is shown of a trail, sound and damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use irongate_trail::{
    Begin, Column, Commit, CommitLsn, Directory, Lineage, Lsn, Mark, Relation, ReplicaIdentity, ResumeLsn,
    Storage, Timestamp, TupleBuilder, Writer, WriterOptions,
};

use super::{deployment, irongate};

const SECRET: &str = "value-of-a-row";

/// A trail of two files with a transaction in each, where flow "csp" has its trail.
fn trail(deployment: &Path) -> PathBuf {
    let directory = deployment.join("state/trail/csp");
    fs::create_dir_all(&directory).unwrap();
    let storage: Arc<dyn Storage> = Arc::new(Directory::new(&directory));
    let lineage = Lineage { system_identifier: 7, timeline: 1, slot_incarnation: Lsn(0x10) };
    let options = WriterOptions::new("csp", lineage);
    let mut writer = Writer::create(storage, options, ResumeLsn(Lsn(0x10))).unwrap();
    let column = |name: &str, key| Column {
        name: name.to_owned(),
        key,
        type_oid: 25,
        type_modifier: -1,
        type_name: None,
    };
    let relation = Arc::new(Relation {
        id: 100,
        schema: "public".into(),
        name: "person".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: vec![column("id", true), column("name", false)],
    });
    for number in 1..=2_u64 {
        let commit_lsn = CommitLsn(Lsn(number * 0x100));
        let commit_time = Timestamp(i64::try_from(number).unwrap() * 1_000_000);
        let previous = CommitLsn::default();
        let xid = 700 + u32::try_from(number).unwrap();
        writer.begin(&Begin { xid, commit_lsn, commit_time, origin: None, previous }).unwrap();
        writer.relation(&relation).unwrap();
        let tuple = TupleBuilder::new().text(&number.to_string()).text(SECRET);
        let bytes = [b"N", tuple.as_tuple().as_bytes()].concat();
        writer.row(100, b'I', &bytes).unwrap();
        let end_lsn = ResumeLsn(Lsn(number * 0x100 + 0x30));
        writer.commit(&Commit { commit_lsn, end_lsn, commit_time, changes: 1 }).unwrap();
        writer.sync().unwrap();
        if number == 1 {
            writer.rotate().unwrap();
        }
    }
    directory
}

#[test]
fn ls_shows_files_durability_and_readers() {
    let deployment = deployment();
    let directory = trail(deployment.path());
    let mark = Mark { resume_lsn: ResumeLsn(Lsn(0x130)), ..Mark::default() };
    irongate_trail::register_reader(&Directory::new(&directory), "csp-replicat", &mark).unwrap();
    let answer = irongate(deployment.path(), &["trail", "ls", "csp", "--json"]).expect(0).json();
    let files = answer["files"].as_array().unwrap();
    let names: Vec<_> = files.iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["000000001.trail", "000000002.trail"]);
    assert_eq!((&files[0]["sealed"], &files[1]["sealed"]), (&true.into(), &false.into()));
    assert_eq!(answer["durable"]["resume_lsn"], "0/230");
    assert_eq!(answer["readers"][0]["name"], "csp-replicat");
    let text = irongate(deployment.path(), &["trail", "ls", "csp"]).expect(0).stdout;
    assert!(text.contains("000000002.trail") && text.contains("reader csp-replicat"), "{text}");
}

#[test]
fn dump_shows_records_as_text_and_as_json() {
    let deployment = deployment();
    let directory = trail(deployment.path());
    let text = irongate(deployment.path(), &["trail", "dump", "csp"]).expect(0).stdout;
    assert!(text.contains(SECRET) && text.contains("public.person"), "{text}");
    let elsewhere = tempfile::tempdir().unwrap();
    let path = directory.to_str().unwrap();
    let dump = |options: &[&str]| {
        let arguments = [&["trail", "dump", "--json", "--directory", path], options].concat();
        let stdout = irongate(elsewhere.path(), &arguments).expect(0).stdout;
        let parse = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        stdout.lines().map(parse).filter(|line| line["record"] == "insert").collect::<Vec<_>>()
    };
    assert_eq!(dump(&[]).len(), 2);
    assert_eq!(dump(&["--xid", "702"]).len(), 1);
    assert_eq!(dump(&["--from", "2"]).len(), 1);
    assert_eq!(dump(&["--to-lsn", "0/100"])[0]["new"]["id"], "1");
    assert_eq!(dump(&["--since", "2000-01-01T00:00:02Z"])[0]["new"]["id"], "2");
    assert_eq!(dump(&["--key", "id=2", "--table", "public.*", "--operation", "insert"]).len(), 1);
    assert_eq!(dump(&["--operation", "delete"]).len(), 0);
}

#[test]
fn check_finds_a_flipped_byte_with_file_and_offset() {
    let deployment = deployment();
    let directory = trail(deployment.path());
    let answer = irongate(deployment.path(), &["trail", "check", "csp", "--json"]).expect(0).json();
    assert_eq!((&answer["sound"], &answer["transactions"]), (&true.into(), &2.into()));
    let file = directory.join("000000001.trail");
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.windows(SECRET.len()).position(|window| window == SECRET.as_bytes()).unwrap();
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    let answer = irongate(deployment.path(), &["trail", "check", "csp", "--json"]).expect(1);
    let found = answer.json();
    assert_eq!(found["sound"], false);
    let finding = &found["findings"][0];
    assert_eq!((&finding["severity"], &finding["file"]), (&"damaged".into(), &"000000001.trail".into()));
    let offset = finding["offset"].as_u64().unwrap();
    assert!(offset <= at as u64 && at as u64 - offset < 100, "{finding}, the flipped byte is at {at}");
    let said = irongate(deployment.path(), &["trail", "check", "csp"]).expect(1);
    assert!(said.stdout.contains("000000001.trail") && !said.stdout.contains(SECRET), "{}", said.stdout);
    // What a dump shows before the damage is whole, and it ends there with a failure.
    let dumped = irongate(deployment.path(), &["trail", "dump", "csp"]).expect(1);
    assert!(!dumped.stdout.contains(SECRET), "{}", dumped.stdout);
    dumped.says(&["000000001.trail", "damaged"]);
}

#[test]
fn purge_removes_what_every_reader_has_passed_and_no_more() {
    let deployment = deployment();
    let directory = trail(deployment.path());
    let purge = |options: &[&str]| {
        let arguments = [&["trail", "purge", "csp", "--json"], options].concat();
        irongate(deployment.path(), &arguments).expect(0).json()["removed"].as_array().unwrap().len()
    };
    assert_eq!(purge(&["--keep-seconds", "0", "--keep-files", "1"]), 0, "no reader, no purge");
    let storage = Directory::new(&directory);
    let durable = irongate_trail::durable(&storage).unwrap().unwrap();
    irongate_trail::register_reader(&storage, "csp-replicat", &durable).unwrap();
    assert_eq!(purge(&[]), 0, "the flow's setting keeps young files");
    assert_eq!(purge(&["--keep-seconds", "0"]), 0, "and two of them");
    assert_eq!(purge(&["--keep-seconds", "0", "--keep-files", "1"]), 1);
    assert!(!directory.join("000000001.trail").exists() && directory.join("000000002.trail").exists());
}

#[test]
fn purge_respects_a_flow_that_keeps_everything() {
    let deployment = deployment();
    trail(deployment.path());
    let file = deployment.path().join("irongate.toml");
    let text = fs::read_to_string(&file).unwrap() + "[flows.csp.trail]\npurge = false\n";
    fs::write(file, text).unwrap();
    irongate(deployment.path(), &["trail", "purge", "csp"]).expect(3).says(&["purge = false"]);
}

#[test]
fn a_directory_without_a_trail_is_a_failure() {
    let deployment = deployment();
    irongate(deployment.path(), &["trail", "ls", "csp"])
        .expect(1)
        .says(&["there is no trail", "irongate setup"]);
}

#[test]
fn extract_s_checkpoint_is_the_end_of_its_trail() {
    let deployment = deployment();
    let answer = irongate(deployment.path(), &["position", "csp-extract", "--json"]).expect(0).json();
    assert_eq!(answer["checkpoint"], serde_json::Value::Null);
    trail(deployment.path());
    let answer = irongate(deployment.path(), &["position", "csp-extract", "--json"]).expect(0).json();
    let checkpoint = &answer["checkpoint"];
    assert_eq!((&checkpoint["resume_lsn"], &checkpoint["commit_lsn"]), (&"0/230".into(), &"0/200".into()));
    assert_eq!((&checkpoint["system_identifier"], &checkpoint["timeline"]), (&"7".into(), &1.into()));
    let text = irongate(deployment.path(), &["position", "csp-extract"]).expect(0).stdout;
    assert!(text.contains("0/230") && text.contains("2000-01-01 00:00:02Z"), "{text}");
}
