//! The HTTP face over real sockets.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use irongate_checkpoint::State;

use crate::site::{Site, until};

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Sends bytes and gives status and body.
fn send(address: SocketAddr, bytes: &[u8]) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let _ = stream.write_all(bytes);
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

fn get(address: SocketAddr, path: &str) -> (String, String) {
    send(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_status_and_metrics_are_served_and_nothing_else() {
    let address = free_address();
    let mut site =
        Site::new(&[("a", "work", true), ("bad", "abend", true)]).with("http", address.to_string());
    site.settings["trail"] = site.dir.path().join("trail/f").to_str().unwrap().into();
    let manager = site.start().await;
    site.until_state("a", State::Running).await;
    until("it abends", async || {
        Some(site.group("bad").await).filter(|group| group.doing.starts_with("abended: "))
    })
    .await;
    let (status, body) = get(address, "/health");
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert!(body.contains("the slot is gone"), "{body}");
    let (status, body) = get(address, "/status");
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status.as_str(), &json["groups"][0]["state"]), ("HTTP/1.1 200 OK", &"RUNNING".into()));
    let (status, page) = get(address, "/metrics");
    assert_eq!(status, "HTTP/1.1 200 OK");
    for line in [
        "irongate_healthy{site=\"main\"} 0",
        "irongate_group_state{site=\"main\",flow=\"f\",group=\"a\",program=\"extract\",state=\"RUNNING\"} 1",
        "irongate_group_state{site=\"main\",flow=\"f\",group=\"bad\",program=\"extract\",state=\"ABENDED\"} 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in {page}");
    }
    let names: BTreeSet<_> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(names.len() > 15 && names.contains("irongate_trail_disk_free_bytes"), "{names:?}");
    assert!(
        get(address, "/").0.contains("404") && get(address, "/status/../../etc/passwd").0.contains("404")
    );
    assert!(
        send(address, b"POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}").0.contains("405")
    );
    assert!(send(address, b"HEAD /status HTTP/1.1\r\nHost: x\r\n\r\n").0.contains("200"));
    site.behave("bad", "work");
    let names = ["bad".to_owned()];
    site.control()
        .order(irongate_manager::supervisor::Word::Start, &names, Duration::from_secs(30))
        .await
        .unwrap();
    assert_eq!(
        get(address, "/health"),
        ("HTTP/1.1 200 OK".to_owned(), "{\"complaints\":[],\"healthy\":true}".to_owned())
    );
    site.stop(manager).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_length_and_slowness_have_limits() {
    let address = free_address();
    let mut site = Site::new(&[("a", "work", true)]).with("http", address.to_string());
    let manager = site.start().await;
    site.until_state("a", State::Running).await;
    for (bytes, expected) in [
        (b"\x00\x01\x02\xff\r\n\r\n".to_vec(), "400"),
        (b"GET / HTTP/9.9\r\n\r\n".to_vec(), "400"),
        (format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(100_000)).into_bytes(), "4"),
        (format!("GET /health HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(100_000)).into_bytes(), "4"),
    ] {
        let (status, _) = send(address, &bytes);
        // A connection that is cut while we still write may take its answer with it.
        let is_refused = status.is_empty() || status.starts_with(&format!("HTTP/1.1 {expected}"));
        assert!(is_refused, "{expected}: {status}");
    }
    // One that never ends its headers is left, and others are served meanwhile.
    let begin = Instant::now();
    let mut slow = TcpStream::connect(address).unwrap();
    slow.write_all(b"GET /health HTTP/1.1\r\nHost:").unwrap();
    assert_eq!(get(address, "/health").0, "HTTP/1.1 200 OK");
    slow.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest);
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    // A port that is taken is an error of the start.
    let mut other = Site::new(&[("a", "work", true)]).with("http", address.to_string());
    let second = other.launch();
    assert_eq!(other.ended(second).await.code(), Some(1));
    assert!(other.said().contains(&format!("could not listen on \"{address}\"")), "{}", other.said());
    site.stop(manager).await;
}
