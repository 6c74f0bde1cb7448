//! One transaction of very many rows: no process grows with it, and one that is rolled back leaves nothing.

use std::time::{Duration, Instant};

use irongate_tests::{Process, Settings, Tier};

use super::processes::Group;
use super::support::{Flow, pairs_in_turn};

/// What no process may ever hold, in bytes.
const LIMIT: u64 = 128 << 20;
const TABLE: &str = "CREATE TABLE big (id bigint PRIMARY KEY, n int, word text, at timestamptz)";

/// Fails when a process has ended or grown; returns the most that each has had, in bytes.
fn watch(processes: &[Process; 2]) -> [u64; 2] {
    processes.each_ref().map(|process| {
        let peak = process.peak_memory();
        let peak = peak.unwrap_or_else(|| panic!("ended:\n{}{}", process.stdout(), process.stderr()));
        assert!(peak < LIMIT, "{} MiB are resident", peak >> 20);
        peak
    })
}

/// What the trail takes on the disk, in bytes, and whether something is kept aside there.
fn trail(flow: &Flow) -> (u64, bool) {
    let files = std::fs::read_dir(&flow.extract.trail).unwrap().map(Result::unwrap);
    // A file may go between the look at the directory and the look at the file.
    let sizes = files.map(|file| (file.file_name(), file.metadata().map_or(0, |data| data.len())));
    sizes.fold((0, false), |(sum, aside), (name, size)| {
        (sum + size, aside || name.to_string_lossy().starts_with("open-"))
    })
}

async fn until(flow: &Flow, processes: &[Process; 2], what: &str, done: impl AsyncFn(&Flow) -> bool) {
    let begin = Instant::now();
    while !done(flow).await {
        watch(processes);
        assert!(begin.elapsed() < Duration::from_secs(1800), "{what}: not in half an hour");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_very_many_rows_fits_into_little_memory() {
    let rows: u64 = Tier::pick(100_000, 300_000, 10_000_000);
    let every = pairs_in_turn();
    // Versions differ in little here, and ten million rows take their time.
    let ends = [every.first(), every.last()].into_iter().flatten().copied();
    for pair in ends.take(Tier::pick(1, 1, 2)) {
        let mut settings = Settings::new().set("max_wal_size", "4GB");
        if Tier::current() == Tier::Full {
            settings = settings.on_disk();
        }
        let flow = Flow::alone("large", pair, &settings).await;
        flow.at_both(TABLE).await;
        flow.set_up().await;
        let processes = Group::of(&flow).map(|group| group.start());
        let insert = format!(
            "INSERT INTO big SELECT i, i % 100, 'row number ' || i, now() FROM generate_series(1, {rows}) i"
        );
        let before = trail(&flow).0;
        flow.each_at_source(&[&format!("BEGIN; {insert}; ROLLBACK"), "INSERT INTO big VALUES (-1)"]).await;
        until(&flow, &processes, "the row behind the one that was rolled back", async |flow| {
            flow.target_says("SELECT count(*) FROM big").await == "1"
        })
        .await;
        let (size, aside) = trail(&flow);
        assert!(!aside, "what was rolled back is still kept aside");
        assert!(size < before + (1 << 20), "the trail has grown from {before} to {size} bytes");

        let begin = Instant::now();
        flow.each_at_source(&[&insert]).await;
        let committed = begin.elapsed();
        let count = (rows + 1).to_string();
        until(&flow, &processes, "the transaction", async |flow| {
            flow.target_says("SELECT count(*) FROM big").await == count
        })
        .await;
        let peaks = watch(&processes).map(|peak| peak >> 20);
        println!(
            "PostgreSQL {pair:?}: {rows} rows committed after {committed:?}, applied after {:?}; peak memory {peaks:?} MiB",
            begin.elapsed()
        );
        let sums = "SELECT count(*) || ' ' || sum(id) || ' ' || sum(n) || ' ' || sum(hashtext(word)) || ' '
                      || count(DISTINCT at) FROM big";
        assert_eq!(flow.source_says(sums).await, flow.target_says(sums).await);
        drop(processes);
        flow.end().await;
    }
}
