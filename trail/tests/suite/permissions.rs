//! A trail that may be read and not written.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use irongate_trail::{
    Begins, Directory, Dump, DumpOptions, Error, PurgePolicy, Reader, Storage, check, list, purge,
    register_reader,
};

use crate::support::*;

const DIRECTORY: &str = "TRAIL_TO_READ";

/// Runs as somebody who may only read. As a test of its own it has nothing to do.
#[test]
#[ignore = "it is run by another test, as another user"]
fn reads_what_it_may_not_write() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let storage: Arc<dyn Storage> = Arc::new(Directory::new(directory));
    for reader in
        [open(&storage, Begins::First), Reader::open_to_the_end(Arc::clone(&storage), Begins::First)]
    {
        assert_eq!(numbers(&mut reader.unwrap()), [1, 2]);
    }
    assert_eq!(list(&*storage).unwrap().files.len(), 2);
    assert_eq!(check(&storage, |_| {}).unwrap().findings, []);
    let mut dump = Dump::open(Arc::clone(&storage), DumpOptions::default()).unwrap();
    while dump.next_line().unwrap().is_some() {}

    let denied = |error: Error| {
        assert!(
            matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied)
        );
        assert!(!error.is_transient() && error.hint().is_some(), "{error}");
    };
    denied(reopen(&storage).unwrap_err());
    denied(purge(&*storage, &PurgePolicy::default()).unwrap_err());
    denied(register_reader(&*storage, "other", &irongate_trail::Mark::default()).unwrap_err());
}

#[test]
fn a_directory_that_may_not_be_written_to_is_read_checked_and_dumped_and_the_writer_says_what_it_needs() {
    let directory = tempfile::tempdir().unwrap();
    let trail = directory.path().join("trail");
    let storage: Arc<dyn Storage> = Arc::new(Directory::create(&trail).unwrap());
    let mut writer = create(&storage);
    transaction(&mut writer, 1, 1).unwrap();
    writer.rotate().unwrap();
    streamed(&mut writer, 2, 3).unwrap();
    let mark = writer.sync().unwrap();
    register_reader(&*storage, "reader", &mark).unwrap();
    drop(writer);

    // Nothing is denied to root, so that another user runs a copy of this program.
    let program = directory.path().join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let allow = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for entry in std::fs::read_dir(&trail).unwrap() {
        allow(&entry.unwrap().path(), 0o444);
    }
    allow(directory.path(), 0o755);
    allow(&program, 0o755);
    allow(&trail, 0o555);
    let mut command = Command::new(&program);
    command.args(["--exact", "permissions::reads_what_it_may_not_write", "--ignored", "--nocapture"]);
    command.env(DIRECTORY, &trail).current_dir("/");
    if rustix::process::geteuid().is_root() {
        const NOBODY: u32 = 65534;
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    allow(&trail, 0o755);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
