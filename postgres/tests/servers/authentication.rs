//! Ways to log in.

use std::time::Duration;

use irongate_postgres::{Endpoint, Error, ReplicationConnection, Session};

use crate::support::{Server, any_major, directory, private_file, set_mode};

/// Both kinds of session get in, and the session is who it should be.
pub(crate) async fn both_get_in(endpoint: &Endpoint) {
    let session = Session::connect(endpoint, "irongate-test").await.unwrap();
    let row = session
        .query_one("SELECT current_user::text, pg_catalog.current_database()::text", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), endpoint.user());
    assert_eq!(row.get::<_, &str>(1), endpoint.database());
    let mut replication = ReplicationConnection::connect(endpoint, "irongate-test").await.unwrap();
    let identity = replication.identify_system().await.unwrap();
    assert_eq!(identity.database.as_deref(), Some(endpoint.database()));
}

/// Neither kind of session gets in, and both say the same.
pub(crate) async fn neither_gets_in(endpoint: &Endpoint) -> Error {
    let sql = Session::connect(endpoint, "irongate-test").await.unwrap_err();
    let replication = ReplicationConnection::connect(endpoint, "irongate-test").await.unwrap_err();
    assert_eq!(sql.to_string(), replication.to_string());
    sql
}

const ROLES: &str = "
    SET password_encryption = 'scram-sha-256';
    CREATE ROLE scram LOGIN REPLICATION PASSWORD 's3cret scram';
    CREATE ROLE plain LOGIN REPLICATION PASSWORD 's3cret plain';
    SET password_encryption = 'md5';
    CREATE ROLE hashed LOGIN REPLICATION PASSWORD 's3cret md5';
    CREATE ROLE trusted LOGIN REPLICATION;
    CREATE ROLE nologin;";

async fn server() -> Server {
    let server = Server::start(
        any_major(),
        &[],
        "local all trusted trust
         local all plain password
         host all trusted 127.0.0.1/32 trust
         host all scram 127.0.0.1/32 scram-sha-256
         host all hashed 127.0.0.1/32 md5
         host all plain 127.0.0.1/32 password",
    )
    .await;
    server.run(ROLES).await;
    server
}

#[tokio::test]
async fn every_method_lets_both_kinds_of_session_in() {
    let server = server().await;
    let dir = directory();
    both_get_in(&server.tcp("trusted", "postgres", "")).await;
    both_get_in(&server.socket("trusted", "postgres")).await;
    for (role, password) in [("scram", "s3cret scram"), ("hashed", "s3cret md5")] {
        let file = private_file(dir.path(), role, password);
        both_get_in(&server.tcp(role, "postgres", "").with_password_file(file)).await;
    }
    // In the clear only where nobody can listen.
    let file = private_file(dir.path(), "plain", "s3cret plain\n");
    both_get_in(&server.socket("plain", "postgres").with_password_file(&file)).await;
    let error = neither_gets_in(&server.tcp("plain", "postgres", "").with_password_file(&file)).await;
    assert!(error.to_string().contains("in the clear"), "{error}");
    assert!(error.hint().unwrap().contains("sslmode"));
    assert!(!error.is_transient());
}

#[tokio::test]
async fn a_wrong_password_says_where_it_came_from_and_does_not_say_it() {
    let server = server().await;
    let dir = directory();
    for role in ["scram", "hashed"] {
        let file = private_file(dir.path(), role, "s3cret but wrong");
        let error = neither_gets_in(&server.tcp(role, "postgres", "").with_password_file(&file)).await;
        assert_eq!(error.code(), Some("28P01"));
        assert!(!error.is_transient());
        let text = error.to_string();
        assert!(
            text.contains(&format!("connection to \"127.0.0.1:{}\" as role \"{role}\"", server.port)),
            "{text}"
        );
        assert_eq!(
            error.hint().unwrap(),
            format!("check the password of role \"{role}\" in file \"{}\"", file.display())
        );
        assert!(!format!("{error} {error:?}").contains("s3cret"));
    }
    let error = Session::connect(&server.tcp("nologin", "postgres", ""), "t").await.unwrap_err();
    assert_eq!(error.code(), Some("28000"));
    assert!(error.hint().unwrap().contains("pg_hba.conf"));
    let error = Session::connect(&server.tcp("trusted", "missing", ""), "t").await.unwrap_err();
    assert_eq!(error.code(), Some("3D000"));
}

#[tokio::test]
async fn passwords_come_from_passfile_and_environment() {
    let server = server().await;
    let dir = directory();
    let passfile = private_file(
        dir.path(),
        "pgpass",
        &format!("127.0.0.1:1:*:*:no\n127.0.0.1:{}:postgres:scram:s3cret scram\n", server.port),
    );
    let parameters = format!("passfile={}", passfile.display());
    both_get_in(&server.tcp("scram", "postgres", &parameters)).await;
    let error = neither_gets_in(&server.tcp("hashed", "postgres", &parameters)).await;
    assert!(matches!(error, Error::PasswordMissing { .. }), "{error}");
    assert!(error.hint().unwrap().contains("(no line fits)"), "{:?}", error.hint());
    set_mode(&passfile, 0o640);
    let error = neither_gets_in(&server.tcp("scram", "postgres", &parameters)).await;
    assert!(error.to_string().contains("permissions (0640)"), "{error}");
    // A password that is not asked for is not looked for either.
    both_get_in(&server.tcp("trusted", "postgres", &parameters)).await;

    // A variable that every process has.
    let path = std::env::var("PATH").unwrap();
    server.run(&format!("CREATE ROLE enviro LOGIN REPLICATION PASSWORD '{path}'")).await;
    server.access("host all enviro 127.0.0.1/32 scram-sha-256");
    server.run("SELECT pg_reload_conf()").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    both_get_in(&server.tcp("enviro", "postgres", "").with_password_env("PATH")).await;
    let error =
        neither_gets_in(&server.tcp("enviro", "postgres", "").with_password_env("IRONGATE_NO_SUCH")).await;
    assert!(error.to_string().contains("IRONGATE_NO_SUCH"), "{error}");
}

#[tokio::test]
async fn channel_binding_cannot_be_required_without_tls() {
    let server = server().await;
    let dir = directory();
    for (role, password) in [("scram", "s3cret scram"), ("hashed", "s3cret md5"), ("trusted", "x")] {
        let file = private_file(dir.path(), role, password);
        let endpoint = server.tcp(role, "postgres", "channel_binding=require").with_password_file(file);
        let error = neither_gets_in(&endpoint).await;
        assert!(error.to_string().contains("channel binding"), "{error}");
        assert!(!error.is_transient());
    }
}
