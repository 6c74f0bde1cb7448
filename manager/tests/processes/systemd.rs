//! What a service manager hears, over a socket like systemd's.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use irongate_checkpoint::State;
use rustix::process::Signal;

use crate::site::{Site, signal, until};

#[tokio::test(flavor = "multi_thread")]
async fn systemd_hears_ready_status_watchdog_and_stopping() {
    let mut site = Site::new(&[("a", "work", true)]);
    let path = site.dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut lines: Vec<String> = Vec::new();
    let mut heard = move |wanted: &str| {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut buffer = [0; 1024];
        while !lines.iter().any(|line| line == wanted) {
            assert!(Instant::now() < deadline, "{wanted} is not among {lines:?}");
            let length = socket.recv(&mut buffer).unwrap();
            lines.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned));
        }
    };
    let mut command = site.command();
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let manager = site.launch_as(command);
    heard("READY=1");
    heard("STATUS=1 of 1 groups running");
    heard("WATCHDOG=1");
    let pid =
        until("it runs", async || Some(site.group("a").await).filter(|group| group.state == State::Running))
            .await
            .pid
            .unwrap();
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(!environment.contains("NOTIFY_SOCKET") && !environment.contains("WATCHDOG_USEC"));
    signal(manager, Signal::TERM);
    heard("STOPPING=1");
    assert!(site.ended(manager).await.success());
}
