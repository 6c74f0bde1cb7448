//! A transaction larger than what the processes may keep of it. In a binary of its own, so that the memory is nobody
//! else's.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what it did and by its panic what is wrong"
)]

#[path = "suite/support.rs"]
#[allow(dead_code, reason = "shared with the suite")]
mod support;
#[path = "suite/trail.rs"]
#[allow(dead_code, reason = "shared with the suite")]
mod trail;

use std::time::Duration;

use irongate_pump::PumpSettings;

use support::{World, collector, listener, pump, until};
use trail::{LINEAGE, START, Source};

/// Bytes of this process that lie in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_any_size_passes_through_little_memory() {
    const ROWS: u64 = 1500;
    const ROW: usize = 200_000;
    let world = World::new();
    let mut source = Source::create_with(&world.near(), 1, LINEAGE, START, 64 << 20);
    source.large(ROWS, ROW);
    source.sync();
    let expected = source.writer.durable().commit_lsn;
    drop(source);
    let before = resident();
    let (listening, address) = listener().await;
    let collector = collector(world.collector_settings(), Some(listening));
    let pump = pump(PumpSettings { ..world.pump_settings(address) });
    let mut most = 0;
    loop {
        most = most.max(resident());
        if world.dir.path().join("secondary/state/collector-csp.status.json").exists()
            && world.flow_status().commit_lsn == Some(expected.0)
        {
            break;
        }
        assert!(!pump.has_ended());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let grown = most.saturating_sub(before);
    println!("{} MB sent, {} MB more in memory", ROWS * ROW as u64 / 1_000_000, grown / 1_000_000);
    assert!(grown < 40_000_000, "{grown} bytes more for {} of both ends", ROWS * ROW as u64);
    until("it is acknowledged", || world.pump_status().commit_lsn == Some(expected.0)).await;
    pump.stop().await.unwrap();
    collector.stop().await.unwrap();
}
