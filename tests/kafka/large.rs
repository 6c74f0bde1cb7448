//! A transaction that is longer than what pump and reader may keep of it, with Kafka's own limits.

use std::time::Duration;

use irongate_tests::Tier;

use crate::killed::Other;
use crate::support::{World, shared, until};
use crate::trail::{LINEAGE, START, Source, seed};

/// What no process may ever hold, in bytes.
const LIMIT: u64 = 128 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_very_many_rows_passes_through_little_memory() {
    let (rows, bytes) = Tier::pick((50_000, 1000), (200_000, 700), (1_000_000, 500));
    let world = World::new(shared().await, "large").await;
    let mut source = Source::create_with(&world.near(), seed(), LINEAGE, START, 64 << 20);
    source.large(rows, bytes);
    source.transaction(3);
    source.sync();
    let expected = Some(source.writer.durable().commit_lsn.0);
    let size = 900 << 10;
    let mut both = ["pump", "reader"].map(|role| Other::start_with(&world, role, size));
    let mut peaks = [0; 2];
    let begin = std::time::Instant::now();
    while world.reader_status("secondary").commit_lsn != expected {
        for (peak, other) in peaks.iter_mut().zip(&mut both) {
            *peak = other.peak_memory();
            assert!(*peak < LIMIT, "{peaks:?} bytes are resident");
        }
        assert!(begin.elapsed() < Duration::from_secs(600), "{:?}", world.reader_status("secondary"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!(
        "{rows} rows of {bytes} bytes in {:?}; peak memory of pump and reader {:?} MiB",
        begin.elapsed(),
        peaks.map(|peak| peak >> 20)
    );
    until("it is acknowledged", || world.pump_status().commit_lsn == expected).await;
    let counters = world.reader_status("secondary").counters;
    assert_eq!(counters.transactions, 2);
    assert!((rows..=rows + 3).contains(&counters.rows_inserted), "{counters:?}");
}
