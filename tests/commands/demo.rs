//! The demo: it ends well, and it leaves nothing behind however it ends.

use std::path::Path;
use std::time::Duration;

use irongate_tests::{Binaries, Process, Server, TempDir, wait_until};
use rustix::process::Signal;

use super::deployment::PATIENCE;

/// The demo with servers of a version, and with a directory for temporary files of its own.
fn demo(major: u32, directory: &Path, options: &[&str]) -> Process {
    let mut command = Process::command(directory, &[&["demo"], options].concat());
    command.env("IRONGATE_PG_BIN", Binaries::of(major).dir).env("TMPDIR", directory);
    Process::spawn(command)
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).expect("the directory is there").next().is_none()
}

/// Whether a process has the directory in its command line.
fn somebody_uses(directory: &Path) -> bool {
    let directory = directory.to_str().expect("the path is text").to_owned();
    let processes = std::fs::read_dir("/proc").expect("there is /proc").flatten();
    let mut lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| String::from_utf8_lossy(&line).contains(&directory))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_loses_nothing_repeats_nothing_and_cleans_up() {
    for major in Server::majors_in_turn() {
        let directory = TempDir::new();
        let process = demo(major, directory.path(), &["--json", "--seconds", "6"]);
        let finished = process.finish(2 * PATIENCE).await.expect_success();
        let report = finished.json();
        assert_eq!(report["result"], "ok", "{report}");
        assert_eq!((&report["lost_transactions"], &report["repeated_transactions"]), (&0.into(), &0.into()));
        let outage = report["outage_seconds"].as_f64().expect("a switchover has an outage");
        println!("PostgreSQL {major}: outage of the switchover {outage:.3} s");
        assert!(report["kills"].as_u64() > Some(1), "{report}");
        for step in report["steps"].as_array().expect("steps are a list") {
            assert!(step["name"].is_string() && step["seconds"].is_number(), "{step}");
            assert_eq!(step["result"], "ok", "{step}");
        }
        let compare = &report["compare"];
        assert_eq!((&compare["flow"], &compare["differences"]), (&"csp".into(), &0.into()));
        let tables = compare["tables"].as_array().expect("tables are a list");
        assert!(tables.len() >= 40, "{} tables", tables.len());
        let rows: u64 = tables.iter().filter_map(|table| table["rows"].as_u64()).sum();
        assert!(rows > 50_000, "{rows} rows");
        assert!(is_empty(directory.path()) && !somebody_uses(directory.path()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_that_is_ended_leaves_nothing_behind() {
    let major = Server::majors()[0];
    for (signal, code) in [(Signal::INT, Some(1)), (Signal::KILL, None)] {
        let directory = TempDir::new();
        let mut process = demo(major, directory.path(), &["--seconds", "60"]);
        wait_until(PATIENCE, "Extract and Replicat to be killed", async || {
            process.stdout().contains(" live ")
        })
        .await;
        process.signal(signal);
        assert_eq!(process.wait(PATIENCE).await.code(), code, "{signal:?}");
        // The guard of a demo that was killed needs a moment.
        wait_until(Duration::from_secs(120), "nothing to be left", async || {
            is_empty(directory.path()) && !somebody_uses(directory.path())
        })
        .await;
    }
}
