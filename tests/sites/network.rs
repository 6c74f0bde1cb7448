//! The network that the other tests stand on: what it does to packets, and that it leaves nothing behind.

use std::process::Command;
use std::time::{Duration, Instant};

use irongate_tests::network::order::{Shape, Way};
use irongate_tests::network::{inode_of, program};
use irongate_tests::{Network, Process, TempDir, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Sends bytes from one site to the other and says how long that took, from the first packet to the answer.
async fn send(network: &Network, from: usize, bytes: u64) -> Duration {
    let receiver = receive(network, 1 - from);
    let seconds = sending(network, from, bytes).finish(PATIENCE).await.expect_success().stdout;
    let _ = receiver.finish(PATIENCE).await.expect_success();
    Duration::from_secs_f64(seconds.trim().parse().unwrap())
}

fn address(network: &Network, to: usize) -> String {
    format!("{}:7000", network.site(to).address())
}

fn receive(network: &Network, at: usize) -> Process {
    let mut command = Command::new(program("stream"));
    command.args(["receive", &address(network, at)]);
    Process::spawn(network.site(at).enter(&command))
}

fn sending(network: &Network, from: usize, bytes: u64) -> Process {
    let mut command = Command::new(program("stream"));
    command.args(["send", &address(network, 1 - from), &bytes.to_string()]);
    Process::spawn(network.site(from).enter(&command))
}

#[tokio::test]
async fn a_line_is_as_long_and_as_narrow_as_it_is_told() {
    let Some(network) = Network::start_or_skip("a_line_is_as_long_and_as_narrow_as_it_is_told") else {
        return;
    };
    let near = send(&network, 0, 0).await;
    assert!(near < Duration::from_millis(30), "{near:?}");
    // Two round trips of 50 ms there and 30 ms back.
    let shape = |milliseconds| Shape { delay: Duration::from_millis(milliseconds), ..Shape::default() };
    network.shape(Way::There, shape(50));
    network.shape(Way::Back, shape(30));
    for from in [0, 1] {
        let far = send(&network, from, 0).await;
        assert!((Duration::from_millis(160)..Duration::from_millis(260)).contains(&far), "{far:?}");
    }
    // 2 MB at 2 MB/s one way, as fast as it goes the other.
    network.shape(Way::Both, Shape::default());
    network.shape(Way::There, Shape { rate: Some(2_000_000), ..Shape::default() });
    let before = network.counts();
    let slow = send(&network, 0, 2_000_000).await;
    assert!((Duration::from_millis(950)..Duration::from_millis(1800)).contains(&slow), "{slow:?}");
    let counts = network.counts();
    assert!(counts[0].bytes - before[0].bytes > 2_000_000, "{counts:?}");
    assert!(
        counts[1].packets > before[1].packets && counts[1].bytes - before[1].bytes < 500_000,
        "{counts:?}"
    );
    assert!(send(&network, 1, 2_000_000).await < slow / 2);
}

#[tokio::test]
async fn a_line_that_is_cut_carries_nothing_until_it_is_mended() {
    let Some(network) = Network::start_or_skip("a_line_that_is_cut_carries_nothing_until_it_is_mended")
    else {
        return;
    };
    for way in [Way::There, Way::Back, Way::Both] {
        send(&network, 0, 100).await;
        network.cut(way);
        let before = network.counts();
        let (mut receiver, mut sender) = (receive(&network, 1), sending(&network, 0, 1_000_000));
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(receiver.is_running() && sender.is_running(), "{way:?}");
        let counts = network.counts();
        for &direction in way.directions() {
            assert_eq!(counts[direction].packets, before[direction].packets, "{way:?}");
        }
        assert!(counts[0].lost + counts[1].lost > before[0].lost + before[1].lost, "{way:?}: {counts:?}");
        network.mend(way);
        let _ = sender.finish(PATIENCE).await.expect_success();
        let _ = receiver.finish(PATIENCE).await.expect_success();
    }
}

#[tokio::test]
async fn a_site_has_a_disk_and_addresses_that_nobody_else_sees() {
    let Some(network) = Network::start_or_skip("a_site_has_a_disk_and_addresses_that_nobody_else_sees")
    else {
        return;
    };
    let directory = TempDir::new();
    network.mount(0, directory.path(), 1 << 20);
    let file = directory.path().join("large");
    let fill = |site: usize| {
        let mut command = Command::new("dd");
        command.args(["if=/dev/zero", "bs=64k", "count=32", &format!("of={}", file.display())]);
        Process::spawn(network.site(site).enter(&command)).finish(PATIENCE)
    };
    let full = fill(0).await;
    assert!(!full.status.success() && full.stderr.contains("No space left"), "{full:?}");
    assert_eq!(std::fs::metadata(network.site(0).path(&file)).unwrap().len(), 1 << 20);
    assert!(!file.exists(), "it is to be seen from outside");
    let _ = fill(1).await.expect_success();
    assert!(file.exists());
    // Another pair of sites has the same addresses, and they do not meet.
    let other = Network::start_or_skip("another network").unwrap();
    let receiver = receive(&other, 1);
    let lonely = sending(&network, 0, 0);
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop((receiver, lonely));
    assert_eq!(other.counts()[0].bytes, 0);
}

/// Who holds them does not matter: neither a test that is killed nor one that ends in the middle leaves anything.
#[tokio::test]
async fn a_test_that_is_killed_leaves_nothing_at_its_sites() {
    if Network::start_or_skip("a_test_that_is_killed_leaves_nothing_at_its_sites").is_none() {
        return;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_hold-a-server"));
    command.arg("--at-a-site");
    let mut holder = Process::spawn(command);
    wait_until(PATIENCE, "the server", async || holder.stdout().ends_with("/data")).await;
    let said = holder.stdout();
    let (server, rest) = said.split_once(' ').unwrap();
    let (orphan, data) = rest.trim().split_once(' ').unwrap();
    // One that waits to be reaped is in no namespace any more.
    let exists = |pid: &str| inode_of(&std::path::Path::new("/proc").join(pid)).is_some();
    assert!(exists(server) && exists(orphan));
    let namespace = inode_of(std::path::Path::new(&format!("/proc/{server}")));
    assert!(namespace.is_some() && namespace != inode_of("/proc/self".as_ref()));
    holder.kill();
    let begin = Instant::now();
    wait_until(PATIENCE, "the end of everything", async || {
        !exists(server) && !exists(orphan) && !std::path::Path::new(data).exists()
    })
    .await;
    assert!(begin.elapsed() < Duration::from_secs(15), "it took {:?}", begin.elapsed());
}
