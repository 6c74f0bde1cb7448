//! A fence takes everything away from the applications, is shown to hold, and gives exactly the same back.

use std::time::Duration;

use irongate_deployment::Configuration;
use irongate_switchover::fence::{Close, close, open, standing};
use irongate_switchover::{Error, Place};
use irongate_tests::{Server, Settings, wait_until};

/// A database as applications have them: an owner that is no superuser, roles by inheritance, rights that were passed on,
/// rights to columns and to everybody, triggers of every kind.
const DATABASE: &str = "
    CREATE ROLE irongate_extract LOGIN REPLICATION; CREATE ROLE irongate_replicat LOGIN;
    CREATE ROLE owner; CREATE ROLE app LOGIN IN ROLE owner; CREATE ROLE writers; CREATE ROLE batch LOGIN IN ROLE writers;
    CREATE ROLE other LOGIN;
    CREATE SCHEMA irongate; CREATE SCHEMA odd AUTHORIZATION owner;
    GRANT USAGE ON SCHEMA odd TO PUBLIC;
    SET ROLE owner;
    CREATE TABLE odd.\"Ta ble\" (id int PRIMARY KEY, word text, n bigint GENERATED ALWAYS AS IDENTITY);
    CREATE TABLE odd.part (id int, word text) PARTITION BY LIST (id);
    CREATE TABLE odd.part_1 PARTITION OF odd.part FOR VALUES IN (1);
    CREATE VIEW odd.seen AS SELECT id, word FROM odd.\"Ta ble\";
    GRANT INSERT, DELETE ON odd.\"Ta ble\" TO writers WITH GRANT OPTION;
    GRANT UPDATE (word) ON odd.\"Ta ble\" TO other;
    GRANT INSERT ON odd.part TO PUBLIC;
    GRANT ALL ON odd.seen TO writers;
    GRANT SELECT ON ALL TABLES IN SCHEMA odd TO PUBLIC;
    CREATE FUNCTION odd.noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER plain AFTER INSERT ON odd.\"Ta ble\" FOR EACH ROW EXECUTE FUNCTION odd.noted();
    CREATE TRIGGER always AFTER INSERT ON odd.\"Ta ble\" FOR EACH ROW EXECUTE FUNCTION odd.noted();
    CREATE TRIGGER never AFTER INSERT ON odd.\"Ta ble\" FOR EACH ROW EXECUTE FUNCTION odd.noted();
    CREATE TRIGGER replica AFTER INSERT ON odd.\"Ta ble\" FOR EACH ROW EXECUTE FUNCTION odd.noted();
    ALTER TABLE odd.\"Ta ble\" ENABLE ALWAYS TRIGGER always, DISABLE TRIGGER never, ENABLE REPLICA TRIGGER replica;
    SET ROLE writers;
    GRANT INSERT ON odd.\"Ta ble\" TO other;
    RESET ROLE";

/// Everything that a fence must give back, as the catalogs have it.
pub(super) const STATE: &str = "
    SELECT string_agg(line, E'\\n' ORDER BY line) FROM (
        SELECT format('%s %s %s %s %s %s', c.oid::regclass, a.grantor::regrole, a.grantee, a.privilege_type, a.is_grantable, 't')
          FROM pg_class c, aclexplode(coalesce(c.relacl, acldefault(
              CASE c.relkind WHEN 'S' THEN 's'::\"char\" ELSE 'r' END, c.relowner))) a
         WHERE c.relnamespace = 'odd'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
        UNION ALL SELECT format('%s.%s %s', attrelid::regclass, attname,
                     ARRAY(SELECT item::text FROM unnest(attacl) item ORDER BY 1)) FROM pg_attribute WHERE attacl IS NOT NULL
                     AND attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'odd'::regnamespace)
        UNION ALL SELECT format('db %s %s %s', a.grantor::regrole, a.grantee, a.privilege_type)
          FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
         WHERE d.datname = current_database() AND a.grantee NOT IN (SELECT oid FROM pg_roles WHERE rolname LIKE 'irongate%')
        UNION ALL SELECT format('login %s %s', rolname, rolcanlogin) FROM pg_roles WHERE rolname NOT LIKE 'pg%'
        UNION ALL SELECT format('trigger %s %s', tgname, tgenabled) FROM pg_trigger WHERE NOT tgisinternal
    ) s (line)";

pub(super) async fn database(major: u32) -> (Server, Configuration) {
    let server = Server::start(major, &Settings::new().set("max_prepared_transactions", "4")).await;
    server.create_database("shop").await;
    server.batch_in("shop", DATABASE).await;
    let text = format!(
        "[deployment]\nname = \"shop\"\nstate_directory = \"state\"\n[sites.main]\n\
         [databases.shop.main]\nuri = \"postgresql://127.0.0.1:{}/shop\"\nadmin_uri = \"{}\"\n\
         [access.shop]\nroles = [\"app\", \"batch\"]\n",
        server.port(),
        server.uri("postgres", "shop")
    );
    let configuration = Configuration::parse(&text, std::path::Path::new("/irongate.toml")).unwrap();
    (server, configuration)
}

pub(super) fn quickly() -> Close {
    Close { writers: Duration::from_secs(2), ..Close::default() }
}

#[tokio::test]
async fn a_fence_holds_and_gives_back_exactly_what_there_was() {
    for major in Server::majors() {
        let (server, configuration) = database(major).await;
        let place = Place::connect(&configuration, "shop", "main").await.unwrap();
        let before = server.scalar("shop", STATE).await;
        assert_eq!(standing(&place).await.unwrap(), None);
        assert_eq!(open(&place, Duration::from_secs(1)).await.unwrap(), None, "there is nothing to open");

        // An application at work: idle, and the fence ends its session.
        let app = server.try_client("app", "shop").await.unwrap();
        app.batch_execute("INSERT INTO odd.\"Ta ble\" VALUES (1, 'one')").await.unwrap();
        let closed = close(&place, &quickly()).await.unwrap();
        assert_eq!((closed.logins, closed.sessions), (2, 1), "{closed:?}");
        assert!(closed.refused_writes >= 4, "{closed:?}");
        assert!(app.batch_execute("SELECT 1").await.is_err(), "the session is over");
        assert!(server.try_client("app", "shop").await.is_err(), "nobody logs in again");
        // Not by those whom the configuration does not name either, nor by the owner.
        for role in ["other", "owner", "app", "batch", "writers"] {
            let sql = format!("SET ROLE {role}; INSERT INTO odd.\"Ta ble\" VALUES (2, 'two')");
            let error = server.try_batch_in("shop", &sql).await.unwrap_err();
            assert!(error.to_string().contains("db error"), "{role}: {error}");
        }
        let triggers =
            "SELECT string_agg(tgenabled::text, '' ORDER BY tgname) FROM pg_trigger WHERE NOT tgisinternal";
        assert_eq!(server.scalar("shop", triggers).await, "DDDR", "always, never, plain, replica");
        assert_eq!(standing(&place).await.unwrap().map(|fence| fence.standby), Some(true));

        // Closed once more, with a hole that somebody has made: closed too, and given back with the rest.
        server.batch_in("shop", "SET ROLE owner; GRANT TRUNCATE ON odd.part TO app").await;
        let again = close(&place, &quickly()).await.unwrap();
        assert_eq!(again.rights, 1, "{again:?}");
        // What is dropped behind the fence is not missed.
        server.batch_in("shop", "DROP VIEW odd.seen").await;
        let opened = open(&place, Duration::from_secs(1)).await.unwrap().unwrap();
        assert!(opened.accepted_writes >= 2 && opened.logins == 2, "{opened:?}");
        assert_eq!((opened.renamed.len(), opened.gone), (0, vec!["table odd.seen".to_owned()]));
        server.batch_in("shop", "SET ROLE owner; REVOKE TRUNCATE ON odd.part FROM app").await;
        let after = server.scalar("shop", STATE).await;
        let without_view = |text: &str| -> Vec<String> {
            text.lines().filter(|line| !line.contains("odd.seen")).map(str::to_owned).collect()
        };
        assert_eq!(without_view(&after), without_view(&before));
        assert_eq!(standing(&place).await.unwrap(), None);
        server
            .try_client("app", "shop")
            .await
            .unwrap()
            .batch_execute("DELETE FROM odd.\"Ta ble\"")
            .await
            .unwrap();
    }
}

/// What stood in the way of closing or opening once: a view with a trigger, triggers of partitions that differ from their
/// parent's, tables made behind the fence, rights of views that never worked.
#[tokio::test]
async fn what_a_schema_may_hold_besides_is_closed_and_opened_too() {
    let (server, mut configuration) = database(Server::majors()[0]).await;
    server
        .batch_in(
            "shop",
            "CREATE TRIGGER instead INSTEAD OF INSERT ON odd.seen FOR EACH ROW EXECUTE FUNCTION odd.noted();
             CREATE TRIGGER on_part AFTER INSERT ON odd.part FOR EACH ROW EXECUTE FUNCTION odd.noted();
             ALTER TABLE odd.part_1 DISABLE TRIGGER on_part;
             CREATE TABLE odd.a_part PARTITION OF odd.part FOR VALUES IN (2);
             ALTER TABLE odd.a_part ENABLE ALWAYS TRIGGER on_part;
             CREATE FUNCTION odd.audit() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE VIEW odd.closed AS SELECT * FROM odd.\"Ta ble\"; ALTER VIEW odd.closed OWNER TO writers;
             SET ROLE writers; GRANT DELETE ON odd.closed TO app",
        )
        .await;
    let place = Place::connect(&configuration, "shop", "main").await.unwrap();
    let before = server.scalar("shop", STATE).await;
    close(&place, &quickly()).await.unwrap();
    server.batch_in("shop", "SET ROLE owner; CREATE TABLE odd.later (id int)").await;
    open(&place, Duration::from_secs(1)).await.unwrap().unwrap();
    server.batch_in("shop", "DROP TABLE odd.later").await;
    assert_eq!(server.scalar("shop", STATE).await, before);

    // LOGIN that a fence has taken comes back, although fences are to leave it from now on.
    close(&place, &quickly()).await.unwrap();
    configuration.access.get_mut("shop").unwrap().keep_login = true;
    let place = Place::connect(&configuration, "shop", "main").await.unwrap();
    close(&place, &quickly()).await.unwrap();
    open(&place, Duration::from_secs(1)).await.unwrap().unwrap();
    assert_eq!(server.scalar("shop", STATE).await, before);
}

/// As vacuum is from PostgreSQL 18 on: it has the table, and then waits for whoever has changed the table's row in the
/// catalog, in which it notes its statistics.
#[tokio::test]
async fn a_vacuum_that_has_a_table_and_the_opening_do_not_wait_for_each_other() {
    for major in Server::majors() {
        let (server, configuration) = database(major).await;
        let place = Place::connect(&configuration, "shop", "main").await.unwrap();
        close(&place, &quickly()).await.unwrap();
        let vacuum = server.client("shop").await;
        vacuum.batch_execute("BEGIN; LOCK odd.\"Ta ble\" IN SHARE UPDATE EXCLUSIVE MODE").await.unwrap();
        let opening = tokio::spawn(async move { open(&place, Duration::from_secs(20)).await });
        let waits =
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'odd.\"Ta ble\"'::regclass";
        wait_until(Duration::from_secs(20), "the opening to wait for the table", async || {
            server.scalar("shop", waits).await == "1"
        })
        .await;
        vacuum.batch_execute("GRANT REFERENCES ON odd.\"Ta ble\" TO batch; COMMIT").await.unwrap();
        opening.await.unwrap().unwrap().expect("it was closed");
        assert_eq!(
            standing(&Place::connect(&configuration, "shop", "main").await.unwrap()).await.unwrap(),
            None
        );
    }
}

#[tokio::test]
async fn a_fence_waits_for_a_statement_that_has_passed_the_look_at_its_rights() {
    let (server, configuration) = database(Server::majors()[0]).await;
    let place = Place::connect(&configuration, "shop", "main").await.unwrap();
    let slow = server.client("shop").await;
    let insert = "INSERT INTO odd.\"Ta ble\" SELECT 9, 'nine' FROM (SELECT pg_sleep(1.5)) s";
    let writing = tokio::spawn(async move { slow.batch_execute(insert).await });
    tokio::time::sleep(Duration::from_millis(400)).await;
    let patient = Close { writers: Duration::from_secs(20), ..Close::default() };
    let closed = close(&place, &patient).await.unwrap();
    assert!(closed.seconds > 0.8, "{closed:?}");
    writing.await.unwrap().unwrap();
    assert_eq!(server.scalar("shop", "SELECT count(*) FROM odd.\"Ta ble\" WHERE id = 9").await, "1");
}

#[tokio::test]
async fn a_fence_waits_for_whoever_has_written_before() {
    let (server, configuration) = database(Server::majors()[0]).await;
    let place = Place::connect(&configuration, "shop", "main").await.unwrap();
    // Written before the fence; its role is not configured, so its session is left alone.
    let other = server.client("shop").await;
    other.batch_execute("BEGIN; INSERT INTO odd.\"Ta ble\" VALUES (7, 'seven')").await.unwrap();
    let error = close(&place, &quickly()).await.unwrap_err();
    let Error::Writers { writers, .. } = &error else { panic!("{error}") };
    assert!(writers[0].contains("idle in transaction"), "{error}");
    assert!(error.is_transient() && error.hint().is_some());
    other.batch_execute("PREPARE TRANSACTION 'later'").await.unwrap();
    let error = close(&place, &quickly()).await.unwrap_err();
    assert!(error.to_string().contains("prepared transaction \"later\""), "{error}");
    other.batch_execute("COMMIT PREPARED 'later'").await.unwrap();
    close(&place, &quickly()).await.unwrap();
}

#[tokio::test]
async fn a_fence_that_does_not_hold_is_said_and_can_be_taken_back() {
    let (server, configuration) = database(Server::majors()[0]).await;
    let place = Place::connect(&configuration, "shop", "main").await.unwrap();
    let before = server.scalar("shop", STATE).await;
    let leaks = async |sql: &str, said: &str, undo: &str| {
        server.batch_in("shop", sql).await;
        let error = close(&place, &quickly()).await.unwrap_err();
        assert!(matches!(error, Error::Leaks { .. }) && error.to_string().contains(said), "{error}");
        open(&place, Duration::from_secs(1)).await.unwrap().unwrap();
        server.batch_in("shop", undo).await;
    };
    leaks("ALTER ROLE batch SUPERUSER", "role batch is a superuser", "ALTER ROLE batch NOSUPERUSER").await;
    leaks(
        "CREATE FUNCTION odd.leak() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'",
        "function odd.leak() runs as role postgres, which is a superuser",
        "DROP FUNCTION odd.leak()",
    )
    .await;
    leaks("GRANT pg_write_all_data TO batch", "may still write odd", "REVOKE pg_write_all_data FROM batch")
        .await;
    assert_eq!(server.scalar("shop", STATE).await, before);

    // Cut between the taking and the proof: the row is there, and opening gives everything back.
    server.batch_in("shop", "ALTER TABLE odd.\"Ta ble\" ADD extra int").await;
    close(&place, &quickly()).await.unwrap();
    let lost = "UPDATE irongate.fence SET saved = left(saved, 100)";
    server.batch_in("shop", &format!("CREATE TABLE kept AS SELECT * FROM irongate.fence; {lost}")).await;
    let error = open(&place, Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error, Error::Saved { .. }), "{error}");
    assert!(server.try_client("app", "shop").await.is_err(), "what cannot be read is not opened");
    server.batch_in("shop", "UPDATE irongate.fence f SET saved = k.saved FROM kept k; DROP TABLE kept").await;
    // Rights that cannot be given leave everything closed.
    server
        .batch_in(
            "shop",
            "ALTER ROLE app NOLOGIN; UPDATE irongate.fence SET saved = replace(saved, 'TRUNCATE', 'TRUNC')",
        )
        .await;
    assert!(open(&place, Duration::from_secs(1)).await.is_err());
    assert!(server.try_client("batch", "shop").await.is_err());
    server.batch_in("shop", "UPDATE irongate.fence SET saved = replace(saved, 'TRUNC', 'TRUNCATE')").await;
    server
        .batch_in("shop", "UPDATE irongate.fence SET saved = replace(saved, 'TRUNCATEATE', 'TRUNCATE')")
        .await;
    open(&place, Duration::from_secs(1)).await.unwrap().unwrap();
    assert_eq!(server.scalar("shop", STATE).await, before);
}

#[tokio::test]
async fn what_is_not_configured_is_refused_before_anything_is_taken() {
    let (server, mut configuration) = database(Server::majors()[0]).await;
    let before = server.scalar("shop", STATE).await;
    let connect = async |configuration: &Configuration| Place::connect(configuration, "shop", "main").await;
    configuration.access.get_mut("shop").unwrap().roles.push("nobody".to_owned());
    let place = connect(&configuration).await.unwrap();
    let error = close(&place, &quickly()).await.unwrap_err();
    assert!(matches!(&error, Error::NoRole { role, .. } if role == "nobody"), "{error}");
    configuration.access.get_mut("shop").unwrap().roles.push("irongate_replicat".to_owned());
    assert!(matches!(connect(&configuration).await.unwrap_err(), Error::OwnRole { .. }));
    configuration.access.clear();
    assert!(matches!(connect(&configuration).await.unwrap_err(), Error::NoAccess { .. }));
    assert_eq!(server.scalar("shop", STATE).await, before);
    // Without set-up there is nowhere to save.
    let (server, configuration) = database(Server::majors()[0]).await;
    server.batch_in("shop", "DROP SCHEMA irongate").await;
    let error = close(&connect(&configuration).await.unwrap(), &quickly()).await.unwrap_err();
    assert!(matches!(error, Error::NotSetUp { .. }), "{error}");
}
