//! A trail that is purged while it is in use.

use std::time::Duration;

use irongate_tests::wait_for;
use irongate_trail::{Directory, PurgePolicy, purge};

use super::support::{Flow, PATIENCE, pairs};

#[tokio::test(flavor = "multi_thread")]
async fn what_replicat_has_passed_can_go_whatever_it_passed_last() {
    for pair in pairs() {
        let mut flow = Flow::new("purged", pair).await;
        flow.extract.file_size = 4 << 10;
        flow.extract.source.machine.progress_interval = Duration::from_millis(1);
        flow.at_both("CREATE TABLE t (id int PRIMARY KEY, a text)").await;
        flow.start().await;
        let trail = Directory::new(&flow.extract.trail);
        let mut next = 0;
        for round in 0..3 {
            next += 100;
            flow.at_source(&format!(
                "INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series({next}, {next} + 50) i"
            ))
            .await;
            flow.drain().await;
            // Files with nothing in them but notes of progress.
            wait_for(PATIENCE, "files to be removed", async || {
                flow.at_source("SELECT pg_logical_emit_message(false, 'nothing', repeat('x', 3000))").await;
                let durable = irongate_trail::durable(&trail).unwrap().unwrap();
                let purged = purge(&trail, &PurgePolicy::default()).unwrap();
                let is_enough =
                    purged.removed.len() > 1 && !flow.extract.trail.join("000000001.trail").exists();
                if is_enough { Ok(()) } else { Err(format!("{durable:?} {purged:?}")) }
            })
            .await;
            if round % 2 == 0 {
                flow.kill_replicat().await;
                flow.kill_extract().await;
            } else {
                flow.stop_extract().await;
                flow.stop_replicat().await;
            }
            flow.at_source(&format!("INSERT INTO t VALUES ({next} + 99, 'while nobody looks')")).await;
            flow.start_extract().await;
            flow.start_replicat().await;
            flow.assert_same().await;
        }
        flow.end().await;
    }
}
