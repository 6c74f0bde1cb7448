//! Which of several hosts is chosen, and how long that may take.

use std::time::{Duration, Instant};

use irongate_postgres::{Endpoint, Error, ReplicationConnection, Session};
use tokio::net::TcpListener;

use crate::support::{Server, any_major, free_port};

fn endpoint(hosts: &[u16], parameters: &str) -> Endpoint {
    let hosts: Vec<String> = hosts.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    Endpoint::parse(&format!("postgresql://postgres@{}/postgres?{parameters}", hosts.join(","))).unwrap()
}

#[tokio::test]
async fn the_server_of_the_wanted_kind_is_found_behind_a_dead_one() {
    let primary = Server::start(any_major(), &[], "host all all 127.0.0.1/32 trust").await;
    let standby = primary.standby().await;
    let dead = free_port();
    let hosts = [dead, standby.port, primary.port];
    for (wanted, port) in [
        ("any", standby.port),
        ("read-write", primary.port),
        ("primary", primary.port),
        ("read-only", standby.port),
        ("standby", standby.port),
        ("prefer-standby", standby.port),
    ] {
        let endpoint = endpoint(&hosts, &format!("target_session_attrs={wanted}"));
        let session = Session::connect(&endpoint, "t").await.unwrap();
        assert_eq!(session.host(), format!("127.0.0.1:{port}"), "{wanted}");
        let replication = ReplicationConnection::connect(&endpoint, "t").await.unwrap();
        assert_eq!(replication.host(), format!("127.0.0.1:{port}"), "{wanted}");
    }
    // Without a standby, "prefer-standby" takes what there is, and "standby" says what it misses.
    let session =
        Session::connect(&endpoint(&[dead, primary.port], "target_session_attrs=prefer-standby"), "t").await;
    assert_eq!(session.unwrap().host(), format!("127.0.0.1:{}", primary.port));
    let error = Session::connect(&endpoint(&[dead, primary.port], "target_session_attrs=standby"), "t").await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("is not \"standby\""), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(error.is_transient());

    // A session that is read-only by default is not writable.
    primary.run("ALTER SYSTEM SET default_transaction_read_only = on").await;
    primary.run("SELECT pg_reload_conf()").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let error = Session::connect(&endpoint(&[primary.port], "target_session_attrs=read-write"), "t").await;
    assert!(matches!(error, Err(Error::SessionAttributes { .. })));
    Session::connect(&endpoint(&[primary.port], "target_session_attrs=read-only"), "t").await.unwrap();
}

#[tokio::test]
async fn a_wrong_password_is_not_tried_at_the_next_host() {
    let first = Server::start(any_major(), &[], "host all all 127.0.0.1/32 scram-sha-256").await;
    let second = Server::start(any_major(), &[], "host all all 127.0.0.1/32 trust").await;
    first.run("ALTER ROLE postgres PASSWORD 'x'").await;
    let dir = crate::support::directory();
    let file = crate::support::private_file(dir.path(), "pw", "y");
    let endpoint = endpoint(&[first.port, second.port], "").with_password_file(file);
    let error = Session::connect(&endpoint, "t").await.unwrap_err();
    assert_eq!(error.code(), Some("28P01"));
}

#[tokio::test]
async fn a_server_that_never_answers_costs_the_time_limit_and_no_more() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    for mode in ["disable", "prefer", "require"] {
        let since = Instant::now();
        let endpoint = endpoint(&[port], &format!("connect_timeout=1&sslmode={mode}"));
        let error = Session::connect(&endpoint, "t").await.unwrap_err();
        assert!(matches!(error, Error::ConnectTimeout { .. }), "{error}");
        assert!(error.is_transient());
        assert!(error.to_string().contains("timed out after 1 s"), "{error}");
        let took = since.elapsed();
        assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(3), "{mode}: {took:?}");
    }
    // And the next host is reached.
    let server = Server::start(any_major(), &[], "host all all 127.0.0.1/32 trust").await;
    Session::connect(&endpoint(&[port, server.port], "connect_timeout=1"), "t").await.unwrap();
    let endpoint = Endpoint::parse("postgresql://u@127.0.0.1/db").unwrap();
    assert_eq!(endpoint.connect_timeout(), Some(Duration::from_secs(10)));
}

#[tokio::test]
async fn whatever_answers_that_is_no_server_is_an_error() {
    for answer in [
        &b""[..],
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"N",
        b"R\xff\xff\xff\xff",
        b"E\0\0\0\x04",
        b"\0\0\0\0\0",
    ] {
        for mode in ["disable", "prefer", "require"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = tokio::spawn(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
                }
            });
            let endpoint = endpoint(&[port], &format!("connect_timeout=2&sslmode={mode}"));
            Session::connect(&endpoint, "t").await.unwrap_err();
            server.abort();
        }
    }
}
