//! The local store under damage, kills and refusals.
//!
//! The other process of these tests is this test binary again, running one ignored test with its orders in the
//! environment.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "support/child.rs"]
mod child;
#[path = "support/warnings.rs"]
mod warnings;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use child::{say, ticks_of};
use irongate_checkpoint::{Error, MemoryStore, SledStore, Store, TypedStore};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// Keys that the killed process writes besides its counter.
const KEYS: u64 = 40;

#[test]
fn a_struct_is_read_back_as_it_was_written_by_another_process_before() {
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Place {
        lsn: irongate_trail::Lsn,
        note: Option<String>,
    }
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("state/store");
    let place = Place { lsn: irongate_trail::Lsn(7), note: Some("x".to_owned()) };
    {
        let opened = SledStore::open(&path, "csp").unwrap();
        assert_eq!(opened.set_aside, None);
        assert_eq!(opened.store.read::<Place>("place").unwrap(), None);
        opened.store.write("place", &place).unwrap();
        opened.store.put(b"gone", b"1").unwrap();
        opened.store.remove(b"gone").unwrap();
        opened.store.flush().unwrap();
    }
    let opened = SledStore::open(&path, "csp").unwrap();
    assert_eq!(opened.set_aside, None);
    assert_eq!(opened.store.read::<Place>("place").unwrap(), Some(place));
    assert_eq!(opened.store.get(b"gone").unwrap(), None);
    let error = opened.store.read::<[u64; 9]>("place").unwrap_err();
    assert!(matches!(&error, Error::Undecodable { key, .. } if key == "place"), "{error:?}");
    let memory: &dyn Store = &MemoryStore::default();
    memory.write("place", &3_u8).unwrap();
    assert_eq!(memory.read::<u8>("place").unwrap(), Some(3));
}

/// A closed store with flushed values in it, more than one segment of them.
fn filled(path: &Path) {
    let opened = SledStore::open(path, "csp").unwrap();
    for n in 0..200_u32 {
        opened.store.put(format!("key {n}").as_bytes(), &vec![n as u8; 5000]).unwrap();
        if n % 50 == 0 {
            opened.store.flush().unwrap();
        }
    }
    opened.store.flush().unwrap();
    drop(opened);
    // The next opening writes a snapshot.
    SledStore::open(path, "csp").unwrap();
}

fn snapshot_of(path: &Path) -> PathBuf {
    let is_snapshot = |p: &PathBuf| p.file_name().unwrap().to_string_lossy().starts_with("snap.");
    fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).find(is_snapshot).unwrap()
}

fn asides(path: &Path) -> BTreeSet<PathBuf> {
    let prefix = format!("{}.corrupt-", path.display());
    let entries = fs::read_dir(path.parent().unwrap()).unwrap();
    entries.map(|e| e.unwrap().path()).filter(|p| p.display().to_string().starts_with(&prefix)).collect()
}

fn usable(store: &SledStore) {
    store.put(b"after", b"1").unwrap();
    store.flush().unwrap();
    assert_eq!(store.get(b"after").unwrap().as_deref(), Some(&b"1"[..]));
}

#[test]
fn a_damaged_store_of_each_kind_is_set_aside_whole_with_one_warning_and_made_anew() {
    type Damage = fn(&Path);
    let kinds: &[(&str, Damage)] = &[
        ("an empty snapshot that was being made", |p| {
            fs::write(p.join("snap.00000000FFFF0000.generating"), b"").unwrap();
        }),
        ("a snapshot of garbage", |p| fs::write(snapshot_of(p), vec![0xa5; 4096]).unwrap()),
        ("a snapshot cut short", |p| {
            let path = snapshot_of(p);
            let length = fs::metadata(&path).unwrap().len();
            OpenOptions::new().write(true).open(path).unwrap().set_len(length / 2).unwrap();
        }),
        ("an empty snapshot", |p| fs::write(snapshot_of(p), b"").unwrap()),
        ("a log of garbage", |p| {
            let length = fs::metadata(p.join("db")).unwrap().len() as usize;
            fs::write(p.join("db"), vec![0xa5; length]).unwrap();
        }),
        ("an empty log", |p| fs::write(p.join("db"), b"").unwrap()),
        ("a log cut short", |p| {
            OpenOptions::new().write(true).open(p.join("db")).unwrap().set_len(4096).unwrap();
        }),
        ("a configuration of garbage", |p| fs::write(p.join("conf"), vec![0xa5; 64]).unwrap()),
        ("a directory where the log should be", |p| {
            fs::remove_file(p.join("db")).unwrap();
            fs::create_dir(p.join("db")).unwrap();
        }),
        ("a file where the store should be", |p| {
            fs::remove_dir_all(p).unwrap();
            fs::write(p, b"not a store").unwrap();
        }),
    ];
    for (kind, damage) in kinds {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("store");
        filled(&path);
        damage(&path);
        let before = fs::metadata(&path).unwrap().is_dir();
        let (opened, warnings) = warnings::during(|| SledStore::open(&path, "csp"));
        let opened = opened.unwrap_or_else(|e| panic!("{kind}: {e}"));
        let aside = opened.set_aside.as_ref().unwrap_or_else(|| panic!("{kind}: not set aside"));
        assert_eq!(asides(&path), BTreeSet::from([aside.clone()]), "{kind}");
        assert_eq!(fs::metadata(aside).unwrap().is_dir(), before, "{kind}");
        assert_eq!(warnings.len(), 1, "{kind}: {warnings:?}");
        assert!(warnings[0].contains("set aside"), "{kind}: {warnings:?}");
        assert_eq!(opened.store.get(b"key 1").unwrap(), None, "{kind}");
        usable(&opened.store);
        drop(opened);
        let again = SledStore::open(&path, "csp").unwrap();
        assert_eq!(again.set_aside, None, "{kind}: the new store is healthy");
        assert!(again.store.get(b"after").unwrap().is_some(), "{kind}");
    }
}

#[test]
fn at_most_three_damaged_stores_are_kept_and_they_are_the_newest() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store");
    // Older than all that follow, and one that is somebody else's.
    fs::create_dir(dir.path().join("store.corrupt-1000000000")).unwrap();
    fs::write(dir.path().join("store.corrupt-1000000001-3"), b"").unwrap();
    fs::write(dir.path().join("store.corrupt-notes"), b"").unwrap();
    let mut made = Vec::new();
    for _ in 0..5 {
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("snap.0000000000000000"), b"").unwrap();
        made.push(SledStore::open(&path, "csp").unwrap().set_aside.unwrap());
    }
    let mut expected: BTreeSet<PathBuf> = made[2..].iter().cloned().collect();
    expected.insert(dir.path().join("store.corrupt-notes"));
    assert_eq!(asides(&path), expected);
}

#[test]
fn whatever_bytes_are_flipped_or_cut_the_store_opens() {
    let seed = child::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let dir = TempDir::new().unwrap();
    let original = dir.path().join("original");
    filled(&original);
    let rounds = if child::quick() { 40 } else { 300 };
    let (mut set_aside, begun) = (0, Instant::now());
    for round in 0..rounds {
        let path = dir.path().join(format!("store {round}"));
        fs::create_dir(&path).unwrap();
        let mut files = Vec::new();
        for entry in fs::read_dir(&original).unwrap() {
            let from = entry.unwrap().path();
            if from.is_file() {
                let to = path.join(from.file_name().unwrap());
                fs::copy(&from, &to).unwrap();
                files.push(to);
            }
        }
        files.sort();
        let victim = files.choose(&mut random).unwrap();
        let mut bytes = fs::read(victim).unwrap();
        // The log is mostly room to grow: aim at its used beginning as well.
        let span = if random.random_bool(0.5) { bytes.len() } else { bytes.len().min(20_000) };
        match random.random_range(0..4) {
            0 => bytes.truncate(random.random_range(0..bytes.len())),
            1 => (0..random.random_range(1..20))
                .for_each(|_| bytes[random.random_range(0..span)] ^= random.random_range(1..=255_u8)),
            2 => {
                let start = random.random_range(0..span);
                let end = (start + random.random_range(1..9000)).min(bytes.len());
                bytes[start..end].fill(0);
            }
            _ => {
                let start = random.random_range(0..span);
                let end = (start + random.random_range(1..9000)).min(bytes.len());
                random.fill(&mut bytes[start..end]);
            }
        }
        fs::write(victim, &bytes).unwrap();
        let started = Instant::now();
        let opened = SledStore::open(&path, "csp")
            .unwrap_or_else(|e| panic!("seed {seed}, round {round}, {}: {e}", victim.display()));
        assert!(started.elapsed() < Duration::from_secs(20), "seed {seed}, round {round}");
        set_aside += u32::from(opened.set_aside.is_some());
        usable(&opened.store);
        drop(opened);
        fs::remove_dir_all(&path).unwrap();
        for aside in asides(&path) {
            fs::remove_dir_all(aside).unwrap();
        }
    }
    println!("{rounds} damaged stores, {set_aside} set aside, {:?}", begun.elapsed());
    assert!(set_aside > 0);
}

#[test]
fn a_store_in_use_is_refused_with_the_holders_name_and_left_as_it_is() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store");
    filled(&path);
    // As damaged as can be: still nobody but the holder may decide that.
    let mut holder = child::start("hold_a_store", &[("STORE", path.as_os_str())]);
    child::wait_for(&mut holder, "holding");
    fs::write(path.join("snap.00000000FFFF0000.generating"), b"").unwrap();
    let contents = |p: &Path| -> Vec<(PathBuf, Vec<u8>)> {
        let mut all: Vec<_> = fs::read_dir(p)
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.is_file())
            .map(|p| (p.clone(), fs::read(&p).unwrap()))
            .collect();
        all.sort();
        all
    };
    let before = contents(&path);
    let (refused, warnings) = warnings::during(|| SledStore::open(&path, "css"));
    let error = refused.unwrap_err();
    let Error::InUse { directory, holder: named } = &error else { panic!("{error:?}") };
    assert_eq!((directory, named.pid), (&path, Some(holder.id())));
    assert_eq!(named.name.as_deref(), Some("the holder"));
    assert_eq!(error.hint().unwrap(), "wait for it, or stop \"the holder\": SIGTERM ends it in order");
    assert!(error.is_transient());
    assert!(warnings.is_empty(), "{warnings:?}");
    assert!(contents(&path) == before && asides(&path).is_empty());
    fs::remove_file(path.join("snap.00000000FFFF0000.generating")).unwrap();
    holder.kill().unwrap();
    holder.wait().unwrap();
    let opened = SledStore::open(&path, "css").unwrap();
    assert_eq!(opened.set_aside, None);
    assert!(opened.store.get(b"key 1").unwrap().is_some());
}

#[test]
fn a_store_that_another_program_has_open_without_our_lock_is_in_use_too() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store");
    let _theirs = sled::open(&path).unwrap();
    let error = SledStore::open(&path, "csp").unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error:?}");
    assert!(asides(&path).is_empty());
}

#[test]
fn a_store_can_be_opened_again_right_after_it_was_closed() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store");
    for n in 0..20_u8 {
        let opened = SledStore::open(&path, "csp").unwrap();
        assert_eq!(opened.set_aside, None);
        assert_eq!(opened.store.get(b"n").unwrap(), n.checked_sub(1).map(|n| vec![n]));
        opened.store.put(b"n", &[n]).unwrap();
        opened.store.flush().unwrap();
    }
}

#[test]
fn panics_of_other_threads_are_printed_while_stores_are_opened() {
    let seen = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let theirs = std::sync::Arc::clone(&seen);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<&str>() == Some(&"on purpose") {
            theirs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        } else {
            before(info);
        }
    }));
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..20 {
                SledStore::open(&path, "csp").unwrap();
            }
        });
        for _ in 0..100 {
            let _ = scope.spawn(|| panic!("on purpose")).join();
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    assert_eq!(seen.load(std::sync::atomic::Ordering::Relaxed), 100);
}

/// One life of the killed process: what it said before it died.
struct Life {
    opened: bool,
    flushed: Option<u64>,
}

/// Starts a process that opens the store and writes on, kills it `patience` after it has begun to open the store, and
/// reads what it said.
fn live(path: &Path, known: u64, patience: Duration) -> Life {
    let known = known.to_string();
    let orders: [(&str, &OsStr); 2] = [("STORE", path.as_os_str()), ("KNOWN", known.as_ref())];
    let mut writer = child::start("write_until_killed", &orders);
    let mut output = BufReader::new(writer.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("@@opening@@") {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "the process has not begun");
    }
    std::thread::sleep(patience);
    writer.kill().unwrap();
    writer.wait().unwrap();
    let mut life = Life { opened: false, flushed: None };
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    for word in ticks_of(&rest) {
        match word.split_once(' ').unwrap_or((word, "")) {
            ("opened", _) => life.opened = true,
            ("flushed", n) => life.flushed = n.parse().ok(),
            ("wrong", what) => panic!("{what}"),
            _ => {}
        }
    }
    life
}

#[test]
fn no_flushed_write_is_lost_and_every_start_succeeds_whenever_the_process_is_killed() {
    let seed = child::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let kills = if child::quick() { 60 } else { 300 };
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store");
    let (mut known, mut seen, mut set_aside, mut cut_open) = (0, asides(&path), 0, 0);
    let mut opening = Duration::from_millis(5);
    for kill in 0..kills {
        // Half of the kills hit the opening: how long that takes is learnt from what hits and misses.
        let aimed = kill % 2 == 0;
        let longest = if aimed { opening.mul_f64(1.5) } else { Duration::from_millis(60) };
        let life = live(&path, known, random.random_range(Duration::ZERO..longest));
        if aimed {
            opening = opening.mul_f64(if life.opened { 0.9 } else { 1.05 });
        }
        cut_open += u32::from(!life.opened);
        let now = asides(&path);
        if now.difference(&seen).next().is_some() {
            set_aside += 1;
            known = 0;
        }
        seen = now;
        known = life.flushed.unwrap_or(known);
    }
    println!(
        "{kills} kills, {cut_open} while opening, {set_aside} stores set aside, {known} flushes in the last"
    );
    assert!(cut_open > kills / 10, "too few kills hit the opening: {cut_open}");
    let opened = SledStore::open(&path, "csp").unwrap();
    let known = if opened.set_aside.is_some() { 0 } else { known };
    assert!(opened.store.read::<u64>("counter").unwrap().unwrap_or(0) >= known, "seed {seed}");
}

#[test]
#[ignore = "the process that the kill test starts and kills"]
fn write_until_killed() {
    let Some(path) = child::order("STORE") else { return };
    let known: u64 = child::order("KNOWN").unwrap().to_str().unwrap().parse().unwrap();
    say("opening");
    let opened = match SledStore::open(Path::new(&path), "writer") {
        Ok(opened) => opened,
        Err(error) => return say(&format!("wrong the store does not open: {error}")),
    };
    let (store, known) = (&opened.store, if opened.set_aside.is_some() { 0 } else { known });
    let mut counter = store.read::<u64>("counter").unwrap().unwrap_or(0);
    if counter < known {
        return say(&format!("wrong the counter is {counter} and {known} was flushed"));
    }
    // Key k holds the last number that is k modulo KEYS, followed by filling.
    for least in known.saturating_sub(KEYS - 1).max(1)..=known {
        let key = least % KEYS;
        let value: Option<(u64, Vec<u8>)> = store.read(&format!("key {key}")).unwrap();
        match value {
            Some((number, filling))
                if number >= least
                    && number % KEYS == key
                    && filling == vec![number as u8; filling.len()] => {}
            other => {
                let found = other.map(|(number, _)| number);
                return say(&format!("wrong key {key} has {found:?} and {least} was flushed"));
            }
        }
    }
    say("opened");
    loop {
        counter += 1;
        let filling = vec![counter as u8; (counter * 7919 % 3000) as usize];
        store.write(&format!("key {}", counter % KEYS), &(counter, filling)).unwrap();
        store.write("counter", &counter).unwrap();
        store.flush().unwrap();
        say(&format!("flushed {counter}"));
    }
}

#[test]
#[ignore = "the process that holds a store for another test"]
fn hold_a_store() {
    let Some(path) = child::order("STORE") else { return };
    let _opened = SledStore::open(Path::new(&path), "the holder").unwrap();
    say("holding");
    std::thread::sleep(Duration::from_secs(60));
}

/// Runs `script` as root of namespaces of its own, where file systems can be mounted without harm to anything else.
fn in_a_namespace(script: &str, path: &Path) -> Option<String> {
    let may = Command::new("unshare").args(["--user", "--map-root-user", "--mount", "true"]).status();
    if !may.as_ref().is_ok_and(|status| status.success()) {
        say(&format!("SKIPPED: this machine gives no mount namespace to this user ({may:?})"));
        return None;
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-ec", script])
        .env("TEST", std::env::current_exe().unwrap())
        .env("DIR", path)
        .env("IRONGATE_ORDER_STORE", path.join("store"))
        .stderr(Stdio::inherit())
        .output()
        .expect("unshare of util-linux");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_full_disk_or_a_read_only_one_is_said_with_its_remedy_and_the_store_left_alone() {
    let dir = TempDir::new().unwrap();
    let run = "\"$TEST\" --exact open_and_report --ignored --nocapture";
    let full = format!(
        "mount -t tmpfs -o size=4m none \"$DIR\"; {run}; \
         dd if=/dev/zero of=\"$DIR/fill\" bs=64k 2>/dev/null || true; {run}; rm \"$DIR/fill\"; {run}; \
         mount -o remount,ro none \"$DIR\"; {run}; mount -o remount,rw none \"$DIR\"; {run}; \
         echo @@left $(ls \"$DIR\")@@"
    );
    let Some(output) = in_a_namespace(&full, dir.path()) else { return };
    let said: Vec<&str> = ticks_of(&output).collect();
    assert_eq!(said.len(), 6, "{output}");
    assert_eq!(said[0], "open 1", "{output}");
    assert!(
        said[1].starts_with("error") && said[1].contains("hint free space on the file system of"),
        "{output}"
    );
    assert_eq!(said[2], "open 2", "{output}");
    assert!(
        said[3].starts_with("error") && said[3].contains("writable, or choose another directory"),
        "{output}"
    );
    assert_eq!(said[4], "open 3", "{output}");
    assert_eq!(said[5], "left store store.holder", "{output}");
}

#[test]
#[ignore = "the process that another test runs under a refusing file system"]
fn open_and_report() {
    let Some(path) = child::order("STORE") else { return };
    match SledStore::open(Path::new(&path), "csp") {
        Ok(opened) => {
            let times = opened.store.read::<u32>("times").unwrap().unwrap_or(0) + 1;
            opened.store.write("times", &times).unwrap();
            opened.store.flush().unwrap();
            say(&format!("open {times}{}", if opened.set_aside.is_some() { " set aside" } else { "" }));
        }
        Err(error) => say(&format!("error {error} hint {}", error.hint().unwrap_or_default())),
    }
}

#[test]
fn a_directory_or_file_that_may_not_be_used_is_said_and_left_alone() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store");
    filled(&path);
    // Root may do anything: the other process is nobody then, and runs a copy that nobody can reach.
    let exe = dir.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let root = rustix::process::geteuid().is_root();
    let everybody = if root { 0o777 } else { 0o700 };
    mode(dir.path(), everybody);
    mode(&path, everybody);
    for entry in fs::read_dir(&path).unwrap() {
        mode(&entry.unwrap().path(), everybody);
    }
    mode(&exe, everybody);
    mode(&dir.path().join("store.holder"), everybody);
    let run = || {
        let mut command = Command::new(&exe);
        command.args(["--exact", "open_and_report", "--ignored", "--nocapture"]);
        command.env("IRONGATE_ORDER_STORE", &path).current_dir("/").stdout(Stdio::piped());
        if root {
            use std::os::unix::process::CommandExt;
            command.uid(65534).gid(65534);
        }
        let mut output = String::new();
        let mut process = command.spawn().unwrap();
        process.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        assert!(process.wait().unwrap().success(), "{output}");
        output
    };
    let refused = |victim: &Path| {
        let before = fs::metadata(victim).unwrap().permissions().mode();
        mode(victim, 0);
        let output = run();
        mode(victim, before & 0o777);
        assert!(output.contains("@@error could not"), "{}: {output}", victim.display());
        assert!(output.contains("hint let the user that runs irongate read and write"), "{output}");
        assert!(asides(&path).is_empty(), "{}", victim.display());
    };
    assert!(run().contains("@@open 1@@"));
    refused(&path);
    refused(&path.join("db"));
    refused(&path.join("conf"));
    refused(&snapshot_of(&path));
    refused(&dir.path().join("store.holder"));
    assert!(run().contains("@@open 2@@"), "nothing was lost");
}
