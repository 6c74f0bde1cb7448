//! Ways around a fence and ways to get stuck behind one: groups, members of owners, Irongate's own roles, administrators who
//! are no superusers, and databases of one server that share their roles.

use std::time::Duration;

use irongate_deployment::Configuration;
use irongate_switchover::fence::{close, foreseen, kept, open, rest, spare_the_live, still_closed};
use irongate_switchover::{Error, Place};
use irongate_tests::{Server, Settings};

use super::fence::{STATE, database, quickly};

const SECOND: Duration = Duration::from_secs(1);

async fn place(configuration: &Configuration) -> Place {
    Place::connect(configuration, "shop", "main").await.unwrap()
}

#[tokio::test]
async fn nobody_comes_in_by_a_group_or_gives_himself_a_right_back() {
    for major in Server::majors() {
        let (server, configuration) = database(major).await;
        server
            .batch_in(
                "shop",
                "CREATE ROLE staff; GRANT staff TO app, batch; CREATE ROLE boss LOGIN IN ROLE owner; CREATE ROLE etl LOGIN;
                 GRANT pg_write_all_data TO etl; CREATE ROLE reader LOGIN;
                 REVOKE CONNECT ON DATABASE shop FROM PUBLIC; GRANT CONNECT ON DATABASE shop TO boss, etl, reader;
                 GRANT CONNECT ON DATABASE shop TO staff WITH GRANT OPTION;
                 SET ROLE staff; GRANT CONNECT ON DATABASE shop TO other",
            )
            .await;
        let place = place(&configuration).await;
        let before = server.scalar("shop", STATE).await;
        let mut sessions = Vec::new();
        for role in ["boss", "etl", "reader"] {
            sessions.push(server.try_client(role, "shop").await.unwrap());
        }
        let closed = close(&place, &quickly()).await.unwrap();
        assert_eq!(closed.sessions, 2, "who reads only is left alone: {closed:?}");
        assert!(sessions[0].batch_execute("GRANT INSERT ON odd.part TO boss").await.is_err());
        assert!(sessions[1].batch_execute("INSERT INTO odd.part VALUES (1)").await.is_err());
        sessions[2].batch_execute("SELECT count(*) FROM odd.part").await.unwrap();
        for role in ["app", "batch", "other", "boss", "etl", "reader"] {
            assert!(server.try_client(role, "shop").await.is_err(), "{role} comes in");
        }
        assert!(rest(&place).await.unwrap().is_empty());
        assert!(kept(&place).await.unwrap().is_some_and(|kept| kept.logins.len() == 2));
        open(&place, SECOND).await.unwrap().unwrap();
        assert_eq!(server.scalar("shop", STATE).await, before);
        for role in ["app", "other", "boss"] {
            server.try_client(role, "shop").await.unwrap();
        }
    }
}

#[tokio::test]
async fn who_keeps_his_rights_is_foreseen_and_said() {
    for major in Server::majors() {
        let (server, configuration) = database(major).await;
        let place = place(&configuration).await;
        let before = server.scalar("shop", STATE).await;
        assert_eq!(foreseen(&place).await.unwrap(), [""; 0]);
        let leaks = async |sql: &str, said: &str, undo: &str| {
            server.batch_in("shop", sql).await;
            let found = foreseen(&place).await.unwrap();
            assert!(found.iter().any(|leak| leak.contains(said)), "{said}: {found:?}");
            let error = close(&place, &quickly()).await.unwrap_err();
            assert!(matches!(error, Error::Leaks { .. }) && error.to_string().contains(said), "{error}");
            open(&place, SECOND).await.unwrap().unwrap();
            server.batch_in("shop", undo).await;
        };
        let function = "CREATE FUNCTION odd.leak() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'";
        leaks(
            &format!("{function}; ALTER FUNCTION odd.leak() OWNER TO irongate_replicat"),
            "function odd.leak() runs as role irongate_replicat, which is one of Irongate's own",
            "DROP FUNCTION odd.leak()",
        )
        .await;
        leaks(
            &format!(
                "CREATE ROLE keeper; GRANT pg_write_all_data TO keeper; {function}; ALTER FUNCTION odd.leak() OWNER TO keeper"
            ),
            "function odd.leak() runs as role keeper, which is a member of pg_write_all_data",
            "DROP FUNCTION odd.leak(); DROP ROLE keeper",
        )
        .await;
        leaks(
            "GRANT irongate_replicat TO batch",
            "role batch is a member of role irongate_replicat",
            "REVOKE irongate_replicat FROM batch",
        )
        .await;
        // Without inheriting anything, it could take that role.
        leaks(
            "ALTER ROLE batch NOINHERIT; GRANT postgres TO batch",
            "role batch is a member of role postgres, which is a superuser",
            "REVOKE postgres FROM batch; ALTER ROLE batch INHERIT",
        )
        .await;
        assert_eq!(server.scalar("shop", STATE).await, before);
    }
}

#[tokio::test]
async fn irongate_s_own_roles_keep_what_they_have_by_whomever_they_have_it() {
    let (server, configuration) = database(Server::majors()[0]).await;
    server
        .batch_in(
            "shop",
            "GRANT writers TO irongate_replicat; CREATE ROLE helper; CREATE SEQUENCE odd.numbers;
             GRANT UPDATE (word) ON odd.\"Ta ble\" TO helper WITH GRANT OPTION;
             GRANT USAGE ON SEQUENCE odd.numbers TO PUBLIC;
             GRANT TRUNCATE ON odd.part TO irongate_extract WITH GRANT OPTION;
             SET ROLE helper; GRANT UPDATE (word) ON odd.\"Ta ble\" TO irongate_replicat; RESET ROLE;
             SET ROLE writers; GRANT DELETE ON odd.\"Ta ble\" TO irongate_extract; RESET ROLE;
             SET ROLE irongate_extract; GRANT TRUNCATE ON odd.part TO other WITH GRANT OPTION; RESET ROLE;
             SET ROLE other; GRANT TRUNCATE ON odd.part TO app",
        )
        .await;
    const OWN: &str = "SELECT string_agg(format('%s %s %s', r, c.oid::regclass, p), ',' ORDER BY r, c.relname, p)
        FROM unnest(ARRAY['irongate_extract', 'irongate_replicat']) r, pg_class c,
             unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) p
       WHERE c.relkind IN ('r', 'p', 'v') AND c.relnamespace = 'odd'::regnamespace
         AND (has_table_privilege(r, c.oid, p) OR p IN ('INSERT', 'UPDATE') AND has_any_column_privilege(r, c.oid, p))";
    const NUMBERS: &str = "SELECT has_sequence_privilege('irongate_replicat', 'odd.numbers', 'USAGE')";
    let place = place(&configuration).await;
    let (own, before) = (server.scalar("shop", OWN).await, server.scalar("shop", STATE).await);
    let closed = close(&place, &quickly()).await.unwrap();
    assert!(closed.lent >= 5, "{closed:?}");
    assert_eq!(server.scalar("shop", OWN).await, own);
    assert_eq!(server.scalar("shop", NUMBERS).await, "t");
    assert_eq!(server.scalar("shop", "SELECT has_table_privilege('app', 'odd.part', 'TRUNCATE')").await, "f");
    // Once more nothing hangs on anybody.
    assert_eq!(close(&place, &quickly()).await.unwrap().lent, 0);
    open(&place, SECOND).await.unwrap().unwrap();
    assert_eq!(server.scalar("shop", OWN).await, own);
    // What was lent is given back too.
    assert_eq!(server.scalar("shop", STATE).await, before);
}

#[tokio::test]
async fn an_administrator_who_is_no_superuser_is_told_before_anything_is_taken() {
    for major in Server::majors() {
        let (server, _) = database(major).await;
        server.batch_in("shop", "CREATE ROLE adm LOGIN; ALTER SCHEMA irongate OWNER TO adm").await;
        let text = format!(
            "[deployment]\nname = \"shop\"\nstate_directory = \"state\"\n[sites.main]\n\
             [databases.shop.main]\nuri = \"postgresql://127.0.0.1:{}/shop\"\nadmin_uri = \"{}\"\n\
             [access.shop]\nroles = [\"app\", \"batch\"]\n",
            server.port(),
            server.socket_uri("adm", "shop")
        );
        let configuration = Configuration::parse(&text, std::path::Path::new("/irongate.toml")).unwrap();
        let place = Place::connect(&configuration, "shop", "main").await.unwrap();
        let before = server.scalar("shop", STATE).await;
        let error = close(&place, &quickly()).await.unwrap_err();
        let Error::Administrator { lacks, .. } = &error else { panic!("{error}") };
        let admin =
            if major >= 16 { "GRANT app TO adm WITH ADMIN OPTION" } else { "ALTER ROLE adm CREATEROLE" };
        for said in [
            "role adm does not own what role owner owns",
            "GRANT owner TO adm",
            "ALTER DATABASE shop OWNER TO adm",
            "ALTER ROLE adm CREATEROLE",
            admin,
            "GRANT batch TO adm",
            "GRANT writers TO adm",
            "GRANT pg_signal_backend TO adm",
            "GRANT pg_read_all_stats TO adm",
        ] {
            assert!(lacks.iter().any(|lack| lack.contains(said)), "{said}: {lacks:?}");
        }
        assert!(error.hint().is_some());
        assert_eq!(server.scalar("shop", STATE).await, before);

        // Each as it is said, word by word.
        for lack in lacks {
            let (_, statement) = lack.rsplit_once(": ").unwrap();
            server.batch_in("shop", statement).await;
        }
        let before = server.scalar("shop", STATE).await;
        let app = server.try_client("app", "shop").await.unwrap();
        let closed = close(&place, &quickly()).await.unwrap();
        assert!((closed.logins, closed.sessions) == (2, 1) && closed.refused_writes >= 4, "{closed:?}");
        assert!(app.batch_execute("SELECT 1").await.is_err());
        assert!(server.try_client("batch", "shop").await.is_err());
        let opened = open(&place, SECOND).await.unwrap().unwrap();
        assert!(opened.accepted_writes >= 2, "{opened:?}");
        assert_eq!(server.scalar("shop", STATE).await, before);
    }
}

/// Two databases of one server that let the same role in, each with its place.
async fn neighbours() -> (Server, [Place; 2]) {
    let server = Server::start(Server::majors()[0], &Settings::new()).await;
    server.batch("CREATE ROLE irongate_extract LOGIN REPLICATION; CREATE ROLE irongate_replicat LOGIN; CREATE ROLE app LOGIN")
        .await;
    let mut text =
        "[deployment]\nname = \"shop\"\nstate_directory = \"state\"\n[sites.main]\n[sites.other]\n"
            .to_owned();
    for database in ["shop", "stock"] {
        server.create_database(database).await;
        let rows = "CREATE SCHEMA irongate; CREATE TABLE rows (id int); GRANT ALL ON rows TO app";
        server.batch_in(database, rows).await;
        let uri = server.uri("postgres", database);
        text += &format!(
            "[databases.{database}.main]\nuri = \"{}\"\nadmin_uri = \"{uri}\"\n\
             [databases.{database}.other]\nuri = \"postgresql://127.0.0.2/{database}\"\n\
             [access.{database}]\nroles = [\"app\"]\n\
             [flows.{database}_there]\ndatabase = \"{database}\"\nfrom = \"main\"\nto = \"other\"\ntables = [\"public.*\"]\n\
             [flows.{database}_back]\ndatabase = \"{database}\"\nfrom = \"other\"\nto = \"main\"\ntables = [\"public.*\"]\n\
             autostart = false\n",
            uri.replace("postgres@", "")
        );
    }
    let configuration = Configuration::parse(&text, std::path::Path::new("/irongate.toml")).unwrap();
    let mut places = Vec::new();
    for database in ["shop", "stock"] {
        places.push(Place::connect(&configuration, database, "main").await.unwrap());
    }
    // By hand nobody closes by a slip of the finger what applications are at work with.
    let error = spare_the_live(&configuration, &places[0]).await.unwrap_err();
    assert!(matches!(error, Error::Live { .. }) && error.hint().unwrap().contains("--force"), "{error}");
    let role = "CREATE TABLE irongate.role (live text, epoch bigint, next_live text, next_epoch bigint, run text, holder text,
         run_since timestamptz); INSERT INTO irongate.role VALUES ('other', 2)";
    server.batch_in("shop", role).await;
    spare_the_live(&configuration, &places[0]).await.unwrap();
    server.batch_in("shop", "UPDATE irongate.role SET live = 'main'").await;
    close(&places[0], &quickly()).await.unwrap();
    spare_the_live(&configuration, &places[0]).await.expect("there is nobody to be cut off");
    open(&places[0], SECOND).await.unwrap();
    (server, <[Place; 2]>::try_from(places).unwrap())
}

#[tokio::test]
async fn databases_of_one_server_share_the_login_of_their_roles() {
    let (server, places) = neighbours().await;
    let comes_in = async |database: &str| server.try_client("app", database).await.is_ok();
    let (names, last) = (["shop", "stock"], "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'app'");
    for (first_closed, first_opened) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let second_closed = 1 - first_closed;
        // The other one is at work: its applications go on coming in.
        assert_eq!(close(&places[first_closed], &quickly()).await.unwrap().logins, 0);
        assert!(!comes_in(names[first_closed]).await && comes_in(names[second_closed]).await);
        assert!(rest(&places[first_closed]).await.unwrap().is_empty());
        assert_eq!(close(&places[second_closed], &quickly()).await.unwrap().logins, 1);
        assert_eq!(server.scalar("shop", last).await, "f");
        // Whichever is opened first, its applications come in, and the other's fence holds.
        open(&places[first_opened], SECOND).await.unwrap().unwrap();
        assert!(comes_in(names[first_opened]).await && !comes_in(names[1 - first_opened]).await);
        still_closed(&places[1 - first_opened]).await.unwrap();
        assert!(rest(&places[1 - first_opened]).await.unwrap().is_empty());
        // Closed once more it stays so, and takes nothing from its neighbour.
        close(&places[1 - first_opened], &quickly()).await.unwrap();
        assert!(comes_in(names[first_opened]).await);
        open(&places[1 - first_opened], SECOND).await.unwrap().unwrap();
        assert!(comes_in("shop").await && comes_in("stock").await);
    }
    // An opening that lets nobody in is none.
    close(&places[0], &quickly()).await.unwrap();
    server.batch("ALTER ROLE app VALID UNTIL '2001-01-01'").await;
    let error = open(&places[0], SECOND).await.unwrap_err();
    assert!(
        matches!(&error, Error::NoEntry { role, reason, .. } if role == "app" && reason.contains("expired")),
        "{error}"
    );
}
