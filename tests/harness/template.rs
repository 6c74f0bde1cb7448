//! New data directories, quickly: one `initdb` a major version and test process, then copies.
//!
//! A plain copy would share the original's system identifier, by which Irongate tells servers apart. So a copy gets
//! one of its own in the two places that hold it: the control file, whose checksum is renewed, and the first page of
//! each file of the write-ahead log (`XLogLongPageHeaderData`), which no checksum covers.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

use crate::binaries::{Binaries, server_user};
use crate::tempdir::TempDir;
use crate::watchdog::Watchdog;

type Slot = Arc<OnceLock<PathBuf>>;

/// Makes the data directory `data` of a server that has never run.
pub(crate) fn make(binaries: &Binaries, data: &Path) {
    static TEMPLATES: Mutex<Option<HashMap<u32, Slot>>> = Mutex::new(None);
    let slot = {
        let mut templates = TEMPLATES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(templates.get_or_insert_default().entry(binaries.major).or_default())
    };
    // Other major versions go on meanwhile: only this version's slot is held.
    let template = slot.get_or_init(|| initdb(binaries));
    run(as_server(Command::new("cp").arg("-a").arg("--reflink=auto").arg(template).arg(data)));
    new_system_identifier(data);
}

/// A command that the user of the servers runs.
pub(crate) fn as_server(command: &mut Command) -> &mut Command {
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid);
    }
    plain_environment(command)
}

/// A server inherits nothing that could change what it does.
pub(crate) fn plain_environment(command: &mut Command) -> &mut Command {
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").current_dir("/")
}

fn initdb(binaries: &Binaries) -> PathBuf {
    let dir = TempDir::in_memory();
    give_to_server(dir.path());
    let data = dir.path().join("data");
    run(as_server(
        Command::new(binaries.program("initdb"))
            .arg("--pgdata")
            .arg(&data)
            .args(["--username=postgres", "--auth=trust", "--no-sync", "--no-instructions"])
            .args(["--encoding=UTF8", "--locale=C.UTF-8"]),
    ));
    // The copy source lives as long as the process, which runs no destructor of statics.
    std::mem::forget(Watchdog::over_server(dir.path()));
    std::mem::forget(dir);
    data
}

/// Makes the user of the servers the owner.
pub(crate) fn give_to_server(path: &Path) {
    if let Some((uid, gid)) = server_user() {
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .unwrap_or_else(|error| panic!("cannot give {path:?} to the server's user: {error}"));
    }
}

fn run(command: &mut Command) {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {:?}: {error}", command.get_program()));
    assert!(
        output.status.success(),
        "{:?} failed ({}):\n{}{}",
        command.get_program(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Offset of the system identifier in `XLogLongPageHeaderData`: behind `XLogPageHeaderData`, padded to eight bytes.
const WAL_SYSTEM_IDENTIFIER: u64 = 24;

fn new_system_identifier(data: &Path) {
    let identifier: [u8; 8] = (rand::random::<u64>() >> 1).to_ne_bytes();
    let path = data.join("global/pg_control");
    let mut control = std::fs::read(&path).unwrap_or_else(|error| panic!("cannot read {path:?}: {error}"));
    // The checksum ends the structure, whose length differs between versions: it stands where it fits what is before it.
    let checksum = (64..1024)
        .step_by(4)
        .find(|&at| control.get(at..at + 4) == Some(&crc32c::crc32c(&control[..at]).to_ne_bytes()[..]))
        .unwrap_or_else(|| panic!("{path:?} has no checksum where one is expected"));
    control[..8].copy_from_slice(&identifier);
    let renewed = crc32c::crc32c(&control[..checksum]).to_ne_bytes();
    control[checksum..checksum + 4].copy_from_slice(&renewed);
    std::fs::write(&path, control).unwrap_or_else(|error| panic!("cannot write {path:?}: {error}"));

    let wal = data.join("pg_wal");
    let files = std::fs::read_dir(&wal).unwrap_or_else(|error| panic!("cannot list {wal:?}: {error}"));
    for file in files.flatten().filter(|file| file.file_name().len() == 24) {
        std::fs::OpenOptions::new()
            .write(true)
            .open(file.path())
            .and_then(|file| file.write_all_at(&identifier, WAL_SYSTEM_IDENTIFIER))
            .unwrap_or_else(|error| panic!("cannot write {:?}: {error}", file.path()));
    }
}
