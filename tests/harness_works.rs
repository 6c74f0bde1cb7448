//! The harness itself: what it promises to scenarios.

use std::path::Path;
use std::time::{Duration, Instant};

use irongate_tests::{Mode, Process, Server, Settings, literal, wait_until};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_server_is_the_version_that_was_asked_for_and_ready_for_logical_decoding() {
    for major in Server::majors() {
        let settings = Settings::new().set("logical_decoding_work_mem", "64kB");
        let server = Server::start(major, &settings).await;
        let version = server.scalar("postgres", "SHOW server_version").await;
        assert!(version.starts_with(&major.to_string()), "{version}");
        for (name, value) in [
            ("wal_level", "logical"),
            ("max_replication_slots", "20"),
            ("max_wal_senders", "20"),
            ("max_prepared_transactions", "20"),
            ("track_commit_timestamp", "on"),
            ("logical_decoding_work_mem", "64kB"),
            ("fsync", "off"),
        ] {
            assert_eq!(server.scalar("postgres", &format!("SHOW {name}")).await, value, "{name}");
        }
        let slot = "SELECT slot_name FROM pg_create_logical_replication_slot('s', 'pgoutput')";
        assert_eq!(server.scalar("postgres", slot).await, "s");
        for extension in ["hstore", "citext"] {
            server.batch(&format!("CREATE EXTENSION {extension}")).await;
        }
    }
}

#[tokio::test]
async fn each_server_has_a_system_identifier_of_its_own_and_survives_a_recovery_with_it() {
    for major in Server::majors() {
        let (mut first, second) = Server::start_two((major, major), &Settings::new()).await;
        let question = "SELECT system_identifier FROM pg_control_system()";
        let identifier = first.scalar("postgres", question).await;
        assert_ne!(identifier, second.scalar("postgres", question).await);
        first.batch("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id").await;
        first.kill();
        first.start_again().await;
        assert_eq!(first.scalar("postgres", question).await, identifier);
        assert_eq!(first.scalar("postgres", "SELECT count(*) FROM t").await, "1000");
    }
}

#[tokio::test]
async fn a_server_keeps_its_port_and_what_was_committed_through_every_kind_of_stop() {
    for major in Server::majors() {
        let mut server = Server::start(major, &Settings::new()).await;
        server.batch("CREATE TABLE t (id int)").await;
        let uri = server.uri("postgres", "postgres");
        for (round, mode) in [Mode::Smart, Mode::Fast, Mode::Immediate].into_iter().enumerate() {
            server.batch(&format!("INSERT INTO t VALUES ({round})")).await;
            server.stop(mode).await;
            assert!(!server.is_running());
            assert!(server.try_client("postgres", "postgres").await.is_err());
            server.start_again().await;
        }
        server.kill();
        assert!(server.try_client("postgres", "postgres").await.is_err());
        server.start_again().await;
        server.restart().await;
        assert_eq!(server.scalar("postgres", "SELECT string_agg(id::text, ',') FROM t").await, "0,1,2");
        assert_eq!(server.uri("postgres", "postgres"), uri);
        assert!(server.log().contains("was not properly shut down"), "{}", server.log());
    }
}

#[tokio::test]
async fn a_dropped_server_leaves_no_process_and_no_file() {
    for major in Server::majors() {
        let server = Server::start(major, &Settings::new()).await;
        let (pid, data) = (server.pid(), server.data());
        assert!(Path::new(&format!("/proc/{pid}")).exists() && data.exists());
        let panicked = tokio::spawn(async move {
            let _server = server;
            panic!("as a failing test does");
        });
        assert!(panicked.await.is_err());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(!data.exists());
    }
}

#[tokio::test]
async fn a_role_needs_its_password_by_tcp_and_a_configured_line_comes_first() {
    let major = Server::majors()[0];
    let mut settings = Settings::new().hba("host all shut_out 127.0.0.1/32 reject");
    let server = Server::start(major, &settings).await;
    server.batch("CREATE ROLE app LOGIN PASSWORD 'secret'; CREATE ROLE shut_out LOGIN").await;
    let connect = async |uri: String| {
        let (_client, connection) = tokio_postgres::connect(&uri, tokio_postgres::NoTls).await?;
        drop(connection);
        Ok::<_, tokio_postgres::Error>(())
    };
    connect(server.uri("postgres", "postgres")).await.unwrap();
    connect(server.socket_uri("app", "postgres")).await.unwrap();
    connect(server.uri("app:secret", "postgres")).await.unwrap();
    assert!(connect(server.uri("app:wrong", "postgres")).await.is_err());
    assert!(connect(server.uri("app", "postgres")).await.is_err());
    let refused = connect(server.uri("shut_out", "postgres")).await.unwrap_err();
    assert!(refused.as_db_error().unwrap().message().contains("rejects"), "{refused:?}");

    settings = settings.hba_only();
    server.replace_hba(&settings);
    server.reload();
    wait_until(SOON, "the password to help no more", async || {
        connect(server.uri("app:secret", "postgres")).await.is_err()
    })
    .await;
    server.batch("SELECT 1").await;
}

#[tokio::test]
async fn a_parameter_can_be_changed_while_the_server_runs() {
    let server = Server::start(Server::majors()[0], &Settings::new()).await;
    server.configure("work_mem", "7MB");
    server.reload();
    wait_until(SOON, "the new work_mem", async || server.scalar("postgres", "SHOW work_mem").await == "7MB")
        .await;
}

#[tokio::test]
async fn a_server_with_tls_offers_it_and_the_files_for_its_clients_are_there() {
    for major in Server::majors() {
        let server = Server::start(major, &Settings::new().tls()).await;
        assert_eq!(server.scalar("postgres", "SHOW ssl").await, "on");
        let (certificate, key) = server.tls().client("app");
        for file in [server.tls().ca(), server.tls().other_ca(), certificate, key] {
            assert!(std::fs::read_to_string(&file).unwrap().starts_with("-----BEGIN "), "{file:?}");
        }
        // The byte 'S' answers an SSLRequest where TLS is on.
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        let mut answer = [0];
        std::io::Write::write_all(&mut socket, &[0, 0, 0, 8, 4, 210, 22, 47]).unwrap();
        std::io::Read::read_exact(&mut socket, &mut answer).unwrap();
        assert_eq!(answer, *b"S");
    }
}

#[tokio::test]
async fn a_literal_arrives_as_it_was() {
    let server = Server::start(Server::majors()[0], &Settings::new()).await;
    for text in ["", "plain", "it's", r"back\slash", "new\nline", "ünïcödé", r"\'; DROP TABLE t; --"] {
        assert_eq!(server.scalar("postgres", &format!("SELECT {}", literal(text))).await, text);
    }
}

#[tokio::test]
async fn a_process_is_watched_waited_for_and_killed() {
    let sh = |script: &str| {
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", script]);
        Process::spawn(command)
    };
    let done = sh("echo out; echo err >&2; exit 3").finish(SOON).await;
    assert_eq!((done.code(), done.stdout.as_str(), done.stderr.as_str()), (3, "out", "err"));
    assert_eq!(sh(r#"echo '{"a": [1]}'"#).finish(SOON).await.expect_success().json()["a"][0], 1);

    let mut endless = sh("trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done");
    wait_until(SOON, "the first line", async || endless.stdout() == "ready").await;
    assert!(endless.is_running() && endless.peak_memory().unwrap() > 0);
    endless.terminate();
    assert_eq!(endless.wait(SOON).await.code(), Some(7));

    let mut endless = sh("exec sleep 1000");
    let pid = endless.id();
    endless.kill();
    assert_eq!(endless.wait(SOON).await.code(), None);
    let endless = sh("exec sleep 1000");
    drop(endless);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn a_killed_test_process_leaves_no_server_and_no_directory() {
    let mut child = Process::spawn(std::process::Command::new(env!("CARGO_BIN_EXE_hold-a-server")));
    wait_until(SOON * 2, "the child's server", async || child.stdout().contains(' ')).await;
    let text = child.stdout();
    let (pid, data) = text.split_once(' ').unwrap();
    assert!(Path::new("/proc").join(pid).exists() && Path::new(data).exists());
    child.kill();
    wait_until(SOON, "the watchdog to end the server and remove its files", async || {
        !Path::new("/proc").join(pid).exists() && !Path::new(data).exists()
    })
    .await;
}

#[tokio::test]
async fn waiting_in_vain_ends_in_time_and_says_what_for() {
    let begin = Instant::now();
    let tasks = tokio::task::LocalSet::new();
    let waiting = tasks.spawn_local(wait_until(Duration::from_millis(100), "the tide", async || {
        std::future::pending::<()>().await;
        false
    }));
    tasks.await;
    let panic = waiting.await.unwrap_err().into_panic();
    assert!(panic.downcast_ref::<String>().unwrap().contains("the tide"));
    assert!(begin.elapsed() < SOON);
}
