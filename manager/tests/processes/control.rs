//! The socket: who may use it, and what it makes of nonsense.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use irongate_checkpoint::State;
use irongate_manager::event::Kind;
use irongate_manager::supervisor::Word;
use irongate_manager::{Control, Error};
use serde_json::{Value, json};

use crate::site::{Site, until};

/// Sends bytes and gives what comes back.
fn say(site: &Site, bytes: &[u8]) -> Value {
    let mut stream = UnixStream::connect(site.own().join("control.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // A request that is too long is refused before its end.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    serde_json::from_str(text.lines().next().unwrap_or_default()).unwrap_or(Value::Null)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_and_its_directory_are_for_the_owner_only() {
    let mut site = Site::new(&[("a", "work", true)]);
    let manager = site.start().await;
    let mode = |path: std::path::PathBuf| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(site.own().join("control.sock")), 0o600);
    assert_eq!(mode(site.own()), 0o700);
    assert_eq!(mode(site.own().join("events.jsonl")), 0o600);
    assert_eq!(mode(site.state().join("report/a.log")), 0o600);
    site.stop(manager).await;
    std::fs::set_permissions(site.own(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let manager = site.launch();
    assert_eq!(site.ended(manager).await.code(), Some(1));
    let said = site.said();
    assert!(
        said.contains("is open to others than its owner (mode 755)") && said.contains("chmod 700"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_answered_and_harms_nobody() {
    let mut site = Site::new(&[("a", "work", true)]);
    let manager = site.start().await;
    let pid = site.until_state("a", State::Running).await.pid;
    let long = format!("{{\"version\":1,\"command\":\"{}\"}}\n", "x".repeat(200_000));
    for (request, expected) in [
        (&b"\n"[..], "cannot be understood"),
        (b"hello\n", "cannot be understood"),
        (b"{\"version\":1}\n", "cannot be understood"),
        (b"{\"version\":1,\"command\":\"dance\"}\n", "unknown variant"),
        (b"{\"version\":1,\"command\":\"stop\"}\n", "names"),
        (b"{\"version\":9,\"command\":\"ping\"}\n", "version 9, and this manager speaks version 1"),
        (b"{\"version\":1,\"command\":\"ping\"", "cannot be understood"),
        (b"\xff\xfe\x00{\n", "cannot be understood"),
        (
            b"{\"version\":1,\"command\":\"report\",\"group\":\"../../etc/passwd\",\"lines\":5}\n",
            "there is no group",
        ),
        (b"{\"version\":1,\"command\":\"report\",\"group\":\"f\",\"lines\":5}\n", "is a flow"),
        (
            b"{\"version\":1,\"command\":\"start\",\"names\":[\"nobody\"]}\n",
            "there is no group or flow \\\"nobody\\\"",
        ),
        (long.as_bytes(), "longer than"),
    ] {
        let answer = say(&site, request).to_string();
        assert!(answer.contains("\"reply\":\"error\"") && answer.contains(expected), "{expected}: {answer}");
    }
    let endless = json!({"version": 1, "command": "stop", "names": [], "wait_seconds": 1e300});
    // Nobody waits for ever for what cannot be counted: it is answered at once.
    let answer = say(&site, format!("{endless}\n").as_bytes());
    assert_eq!(answer["reply"], "done", "{answer}");
    assert!(site.order(Word::Start, "a").await.done);
    assert_ne!(site.group("a").await.pid, pid);
    // One bad name and nothing is done.
    let names = ["a".to_owned(), "nobody".to_owned()];
    let error = site.control().order(Word::Stop, &names, Duration::ZERO).await.unwrap_err();
    let Error::Refused { hint: Some(hint), .. } = &error else { panic!("{error:?}") };
    assert!(hint.contains("there are: a"), "{hint}");
    assert_eq!(site.group("a").await.state, State::Running);
    site.stop(manager).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_say_nothing_keep_nobody_else_waiting() {
    let mut site = Site::new(&[("a", "work", true)]);
    // A path that no socket can have is refused with a remedy.
    let deep = site.dir.path().join("x".repeat(120));
    let state = std::mem::replace(&mut site.settings["state"], deep.to_str().unwrap().into());
    let refused = site.launch();
    assert_eq!(site.ended(refused).await.code(), Some(1));
    assert!(site.said().contains("at most 107 bytes"), "{}", site.said());
    site.settings["state"] = state;
    let manager = site.start().await;
    let silent: Vec<_> =
        (0..40).map(|_| UnixStream::connect(site.own().join("control.sock")).unwrap()).collect();
    let (pid, release) = site.control().with_patience(Duration::from_secs(5)).ping().await.unwrap();
    assert_eq!((pid, release.as_str()), (manager, env!("CARGO_PKG_VERSION")));
    drop(silent);
    site.stop(manager).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_followed_as_they_come_and_a_flow_s_name_means_its_groups() {
    let mut site = Site::new(&[("a", "work", true), ("b", "work", true)]).with("event_bytes", 1000);
    let manager = site.start().await;
    site.until_state("a", State::Running).await;
    let mut events = site.control().events(1, true).await.unwrap();
    assert!(events.next().await.unwrap().is_some());
    for _ in 0..10 {
        let outcomes =
            site.control().order(Word::Restart, &["f".to_owned()], Duration::from_secs(30)).await.unwrap();
        assert!(outcomes.len() == 2 && outcomes.iter().all(|outcome| outcome.done), "{outcomes:?}");
    }
    let mut starts = 0;
    while starts < 20 {
        let entry = events.next().await.unwrap().unwrap();
        starts += u32::from(entry.notice.kind == Kind::Started);
    }
    let names = std::fs::read_dir(site.own()).unwrap();
    let logs =
        names.filter(|name| name.as_ref().unwrap().file_name().to_str().unwrap().starts_with("events.jsonl"));
    assert_eq!(logs.count(), 5, "the newest and four before it");
    assert_eq!(site.events(Kind::Started).await.len(), 22, "memory has more than a small file");
    site.stop(manager).await;
    let end = until("the end is told", async || events.next().await.err()).await;
    assert!(end.to_string().contains("ended the conversation") || end.to_string().contains("broke"), "{end}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_does_not_answer_is_reported_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let control = Control::at(&path, "main").with_patience(Duration::from_millis(200));
    let error = control.ping().await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }) && error.is_transient(), "{error}");
    let another = |text: &'static str| {
        let listener = listener.try_clone().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(text.as_bytes());
        })
    };
    // The one that was not answered is still in the queue.
    drop(listener.accept().unwrap());
    for (text, expected) in [
        ("{\"version\":7,\"reply\":\"pong\"}\n", "speaks version 7"),
        ("what?\n", "cannot be understood"),
        ("{\"version\":1,\"reply\":\"report\",\"text\":\"\"}\n", "another question"),
        ("{\"version\":1", "ended the conversation"),
    ] {
        let server = another(text);
        let control = Control::at(&path, "main").with_patience(Duration::from_secs(20));
        let error = control.ping().await.unwrap_err();
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        server.join().unwrap();
    }
    drop(listener);
    let error = Control::at(&path, "main").ping().await.unwrap_err();
    assert!(matches!(error, Error::NotRunning { .. }), "{error}");
}
