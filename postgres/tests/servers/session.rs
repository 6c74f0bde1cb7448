//! SQL sessions.

use std::time::{Duration, Instant};

use irongate_postgres::{Error, Session};

use crate::support::{Server, Stop, any_major, majors};

#[tokio::test]
async fn every_session_prints_alike_whatever_role_and_address_say() {
    for major in majors() {
        let server = Server::start(major, &[("datestyle", "german")], "").await;
        server
            .run(
                "ALTER ROLE postgres SET search_path = public;
                 ALTER ROLE postgres SET timezone = 'Asia/Tokyo';
                 ALTER ROLE postgres SET bytea_output = 'escape';
                 ALTER DATABASE postgres SET intervalstyle = 'iso_8601';
                 ALTER ROLE postgres SET extra_float_digits = 0;",
            )
            .await;
        let dir = server.path().display();
        let endpoint = irongate_postgres::Endpoint::parse(&format!(
            "host={dir} port={} user=postgres options='-c search_path=public -c geqo=off'",
            server.port
        ))
        .unwrap();
        let session = Session::connect(&endpoint, "the name").await.unwrap();
        let show = async |name: &str| -> String {
            session.query_one("SELECT current_setting($1)", &[&name]).await.unwrap().get(0)
        };
        for (name, value) in [
            ("search_path", ""),
            ("datestyle", "ISO, YMD"),
            ("intervalstyle", "postgres"),
            ("extra_float_digits", "3"),
            ("client_encoding", "UTF8"),
            ("bytea_output", "hex"),
            ("timezone", "UTC"),
            ("application_name", "the name"),
            // The address's options count where they meet nothing fixed.
            ("geqo", "off"),
        ] {
            assert_eq!(show(name).await, value, "{name}");
        }
        assert_eq!(session.server_version_num() / 10_000, major);
        assert_eq!(session.server_version_num().to_string(), show("server_version_num").await);
        let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        assert_eq!(session.process_id(), pid);
        assert_eq!(session.application_name(), Some("the name"));
    }
}

#[tokio::test]
async fn a_closed_connection_is_explained_by_the_servers_last_words() {
    let mut server = Server::start(any_major(), &[], "").await;
    let session = server.admin().await;
    assert!(session.failure().is_none());
    server.run(&format!("SELECT pg_terminate_backend({})", session.process_id())).await;
    let reason = session.closed().await.unwrap();
    assert_eq!(reason.code(), Some("57P01"));
    let error = session.query("SELECT 1", &[]).await.unwrap_err();
    let error = session.explain(error).await;
    assert_eq!(error.code(), Some("57P01"));
    assert!(error.to_string().contains("terminating connection"), "{error}");
    assert!(error.is_transient());

    let session = server.admin().await;
    server.stop(Stop::Immediate).await;
    let reason = session.closed().await.unwrap();
    assert!(reason.is_transient(), "{reason}");
    let error = Session::connect(&server.socket("postgres", "postgres"), "t").await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_dropped_session_leaves_the_server_in_order() {
    let server = Server::start(any_major(), &[("log_disconnections", "on")], "").await;
    let session = server.admin().await;
    let pid = session.process_id();
    drop(session);
    let since = Instant::now();
    while server.ask(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")).await != "0" {
        assert!(since.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!server.log().contains("unexpected EOF"), "{}", server.log());
}

#[tokio::test]
async fn what_takes_too_long_is_cancelled_at_the_server() {
    let server = Server::start(any_major(), &[], "").await;
    let session = server.admin().await;
    let since = Instant::now();
    let limit = Duration::from_millis(300);
    let error =
        session.within(limit, "sleeping", session.query("SELECT pg_sleep(60)", &[])).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert_eq!(error.to_string(), "sleeping timed out after 0.3 s");
    assert!(error.is_transient());
    // The session is free again at once, because the server has let go.
    session.query("SELECT 1", &[]).await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(5));

    let canceller = session.canceller();
    let (sleep, cancel) = tokio::join!(session.query("SELECT pg_sleep(60)", &[]), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        canceller.cancel().await
    });
    cancel.unwrap();
    assert_eq!(Error::from(sleep.unwrap_err()).code(), Some("57014"));
}

#[tokio::test]
async fn an_error_shows_no_value_of_a_row() {
    let server = Server::start(any_major(), &[], "").await;
    server
        .run(
            "CREATE TABLE t (id text PRIMARY KEY, n int CHECK (n > 0));
             INSERT INTO t VALUES ('s3cret', 1);
             CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN RAISE EXCEPTION 'no %', OLD.id USING DETAIL = OLD.id, HINT = OLD.id; END $$;
             CREATE TRIGGER t BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION f();",
        )
        .await;
    let session = server.admin().await;
    for (statement, code) in [
        ("INSERT INTO public.t VALUES ('s3cret', 1)", "23505"),
        ("INSERT INTO public.t VALUES ('s3cret2', -1)", "23514"),
        ("DELETE FROM public.t", "P0001"),
        ("UPDATE public.t SET n = id::int", "22P02"),
        ("SELECT to_date(id, 'YYYY') FROM public.t", "22007"),
        ("SELECT (id || '9')::pg_catalog.numeric FROM public.t", "22P02"),
    ] {
        let error = Error::from(session.batch_execute(statement).await.unwrap_err());
        assert_eq!(error.code(), Some(code), "{error}");
        let shown = format!("{error} {error:?} {:?}", error.hint());
        assert!(!shown.contains("s3cret"), "{shown}");
    }
    let error =
        Error::from(session.batch_execute("INSERT INTO public.t VALUES ('s3cret', 1)").await.unwrap_err());
    assert!(error.server().unwrap().raw_detail().unwrap().contains("s3cret"));
    assert_eq!(error.server().unwrap().constraint(), Some("t_pkey"));
}
