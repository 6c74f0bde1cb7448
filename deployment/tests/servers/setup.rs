//! Set-up and tear-down against real servers: the administrator sets up, everything else is done by the roles that
//! were made, which are no superusers.

use std::time::Duration;

use crate::server::{Server, pairs};
use crate::world::{PASSWORD, World, ignore};
use irongate_checkpoint::{CheckpointTable, GroupLock};
use irongate_deployment::{As, Error, Setup, plan, script, setup, teardown, teardown_plan};
use irongate_postgres::{ReplicationConnection, Session};
use irongate_trail::{Directory, Lsn};

const TABLES: &str = "CREATE TABLE a (id serial PRIMARY KEY, t text); CREATE TABLE b (id int PRIMARY KEY);
    CREATE TABLE tmp_c (id int PRIMARY KEY); CREATE SEQUENCE free;
    CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)";
const FLOW: &str = "tables = [\"public.*\"]\nexclude = [\"public.tmp_*\"]";

fn refs(pair: &(Server, Server)) -> (&Server, &Server) {
    (&pair.0, &pair.1)
}

#[tokio::test(flavor = "multi_thread")]
async fn printing_the_statements_changes_nothing() {
    for pair in pairs() {
        let world = World::new(refs(pair), TABLES, FLOW).await;
        let before = (world.traces(world.source).await, world.traces(world.target).await);
        let statements = plan(&world.configuration, &[world.flow()]).await.unwrap();
        let after = (world.traces(world.source).await, world.traces(world.target).await);
        assert_eq!(before, after);
        assert!(!world.configuration.state_directory.exists(), "not even a directory is made");
        let text = script(&statements);
        for part in [
            format!("CREATE ROLE \"{}_extract\" LOGIN REPLICATION;", world.name),
            format!("CREATE ROLE \"{}_replicat\" LOGIN;", world.name),
            format!(
                "CREATE PUBLICATION \"irongate_test_{}\" FOR TABLE \"public\".\"a\", \"public\".\"b\", \"public\".\"p\" WITH",
                world.name
            ),
            "CREATE TABLE IF NOT EXISTS irongate.checkpoint".to_owned(),
            "pg_create_logical_replication_slot".to_owned(),
            "-- === database \"db\" at site \"b\", as admin".to_owned(),
        ] {
            assert!(text.contains(&part), "no {part:?} in\n{text}");
        }
        assert!(!text.contains(PASSWORD) && !text.contains("SCRAM-SHA-256$"), "{text}");
        let (slot, publication) = (text.find("pg_create_logical"), text.find("CREATE PUBLICATION"));
        assert!(publication < slot, "the publication is made before the slot");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn set_up_makes_everything_once_and_the_roles_are_no_superusers() {
    for pair in pairs() {
        let world = World::new(refs(pair), TABLES, FLOW).await;
        let report = world.setup().await;
        assert!(!report.statements.is_empty());
        assert_eq!(report.started, std::slice::from_ref(&world.name));
        assert!(report.to_instantiate.is_empty(), "an empty source needs no copy");
        let roles =
            "SELECT rolname, rolsuper, rolreplication, rolbypassrls, rolcreaterole, rolcreatedb FROM pg_roles
                      WHERE rolname ~ '^NAME_' ORDER BY 1"
                .replace("NAME", &world.name);
        assert_eq!(world.ask_source(&roles).await, format!("{}_extract|f|t|f|f|f", world.name));
        assert_eq!(world.ask_target(&roles).await, format!("{}_replicat|f|f|f|f|f", world.name));

        // Where slot, trail and checkpoint begin is one place.
        let slot = world
            .ask_source(&format!(
                "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{}'",
                world.flow().slot
            ))
            .await;
        let target = world.configuration.target(world.flow()).unwrap();
        let session = Session::connect(&target.replicat.endpoint, "test").await.unwrap();
        let table = CheckpointTable::prepare(&session, &world.name).await.unwrap();
        let applied = table.load(&session).await.unwrap().unwrap();
        assert_eq!(applied.end_lsn.0.to_string(), slot);
        assert_eq!(applied.lineage.slot_incarnation, applied.end_lsn.0);
        let trail = Directory::new(world.configuration.trail(world.flow()));
        let mark = irongate_trail::durable(&trail).unwrap().unwrap();
        assert_eq!((mark.resume_lsn, mark.position), (applied.end_lsn, applied.position));
        assert_eq!(irongate_trail::readers(&trail).unwrap()[0].0, format!("{}-replicat", world.name));

        let before = (world.traces(world.source).await, world.traces(world.target).await);
        assert_eq!(plan(&world.configuration, &[world.flow()]).await.unwrap(), []);
        let again = world.setup().await;
        assert!(again.statements.is_empty() && again.started.is_empty(), "{again:?}");
        assert_eq!(before, (world.traces(world.source).await, world.traces(world.target).await));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_set_without_ever_being_sent() {
    let world = World::new(refs(&pairs()[0]), TABLES, FLOW).await;
    let report = world.setup().await;
    // The servers ask for a password and log every statement.
    let source = world.configuration.source(world.flow()).unwrap();
    Session::connect(&source.extract.endpoint, "test").await.unwrap();
    for server in [world.source, world.target] {
        assert!(server.log().contains(&format!("ALTER ROLE \"{}_", world.name)), "the log shows statements");
        assert!(!server.log().contains(PASSWORD));
    }
    assert!(!format!("{report:?}").contains(PASSWORD) && !format!("{report:?}").contains("SCRAM-SHA-256$"));
    // A password that was changed behind our back is set again; that of a foreign role is not touched.
    world.at_source(&format!("ALTER ROLE \"{}_extract\" PASSWORD 'other'", world.name)).await;
    let repaired = world.setup().await;
    assert_eq!(repaired.statements.len(), 1, "{:?}", repaired.statements);
    Session::connect(&source.extract.endpoint, "test").await.unwrap();
    let foreign = format!(
        "COMMENT ON ROLE \"{0}_extract\" IS 'mine'; ALTER ROLE \"{0}_extract\" PASSWORD 'other'",
        world.name
    );
    world.at_source(&foreign).await;
    assert_eq!(plan(&world.configuration, &[world.flow()]).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_lacking_is_given() {
    for pair in pairs() {
        let mut world = World::new(refs(pair), TABLES, FLOW).await;
        world.setup().await;
        let lacking = async |world: &World<'_>| -> Vec<(As, String)> {
            let plan = plan(&world.configuration, &[world.flow()]).await.unwrap();
            plan.into_iter().map(|statement| (statement.connection, statement.sql)).collect()
        };
        world.at_target(&format!("REVOKE TRUNCATE ON b FROM {}_replicat", world.name)).await;
        let grant = format!("GRANT TRUNCATE ON TABLE \"public\".\"b\" TO \"{}_replicat\"", world.name);
        assert_eq!(lacking(&world).await, [(As::Admin, grant)]);
        world.setup().await;

        let publication = world.flow().publication.clone();
        world.at_source("CREATE TABLE d (id int PRIMARY KEY)").await;
        let found = lacking(&world).await;
        assert!(
            found
                .iter()
                .any(|(_, sql)| *sql
                    == format!("ALTER PUBLICATION \"{publication}\" ADD TABLE \"public\".\"d\"")),
            "{found:?}"
        );
        world.at_source("DROP TABLE d").await;

        world.reconfigure(
            "tables = [\"public.*\"]\nexclude = [\"public.tmp_*\", \"public.b\"]\npartitions = \"root\"",
        );
        let found: Vec<_> = lacking(&world).await.into_iter().map(|(_, sql)| sql).collect();
        let quoted = format!("\"{publication}\"");
        assert!(
            found.contains(&format!("ALTER PUBLICATION {quoted} DROP TABLE \"public\".\"b\"")),
            "{found:?}"
        );
        assert!(
            found.iter().any(|sql| sql.starts_with(&format!("ALTER PUBLICATION {quoted} SET"))
                && sql.contains("publish_via_partition_root = true")),
            "{found:?}"
        );
        world.setup().await;
        assert_eq!(lacking(&world).await, []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_there_already_need_an_initial_load_or_a_word_that_they_do_not() {
    let world = World::new(refs(&pairs()[0]), TABLES, FLOW).await;
    world.at_source("INSERT INTO b VALUES (1)").await;
    let report = world.setup().await;
    assert_eq!((report.started.len(), report.to_instantiate.as_slice()), (1, &[world.name.clone()][..]));
    assert_eq!(
        world.ask_target("SELECT count(*) FROM irongate.checkpoint").await,
        "0",
        "Replicat must refuse to run"
    );
    let report = world.setup().await;
    assert_eq!(
        (report.started.len(), report.to_instantiate.len()),
        (0, 1),
        "set-up again does not forget it"
    );
    let options = Setup { start_here: true, ..Setup::default() };
    let report = setup(&world.configuration, &[world.flow()], &options, &mut ignore).await.unwrap();
    assert_eq!((report.started.len(), report.to_instantiate.len()), (1, 0));
    assert_eq!(world.ask_target("SELECT count(*) FROM irongate.checkpoint").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn tear_down_leaves_the_servers_as_they_were() {
    for pair in pairs() {
        let world = World::new(refs(pair), TABLES, FLOW).await;
        let before = (world.traces(world.source).await, world.traces(world.target).await);
        world.setup().await;
        assert_ne!(before, (world.traces(world.source).await, world.traces(world.target).await));
        let statements = teardown_plan(&world.configuration, &[world.flow()], &mut ignore).await.unwrap();
        assert!(statements[0].sql.contains("pg_drop_replication_slot"), "the slot goes first");
        assert!(statements.last().unwrap().sql.starts_with("DROP ROLE"), "the roles go last");
        let trail = world.configuration.trail(world.flow());
        assert!(trail.is_dir());
        teardown(&world.configuration, &[world.flow()], &mut ignore).await.unwrap();
        let without_defaults = |text: &str| text.replace("|{postgres=UC/postgres}", "|null");
        let after = (world.traces(world.source).await, world.traces(world.target).await);
        // GRANT and REVOKE turn an absent list of privileges into one that says the same.
        for (one, other) in [(&before.0, &after.0), (&before.1, &after.1)] {
            let names = |text: &str| -> Vec<String> {
                without_defaults(text)
                    .lines()
                    .map(|line| line.rsplit_once('|').unwrap().0.to_owned())
                    .collect()
            };
            assert_eq!(names(one), names(other));
            assert!(
                !other.contains(&format!("{}_extract", world.name))
                    && !other.contains(&format!("{}_replicat", world.name))
            );
        }
        assert!(!trail.exists());
        assert_eq!(teardown_plan(&world.configuration, &[world.flow()], &mut ignore).await.unwrap(), []);
        // And it can be set up again.
        assert_eq!(world.setup().await.started.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tear_down_refuses_while_somebody_works() {
    let world = World::new(refs(&pairs()[0]), TABLES, FLOW).await;
    world.setup().await;
    let lock = GroupLock::acquire(&world.configuration.state_directory, &format!("{}-replicat", world.name))
        .unwrap();
    let error = teardown(&world.configuration, &[world.flow()], &mut ignore).await.unwrap_err();
    assert!(matches!(&error, Error::Checkpoint(irongate_checkpoint::Error::Held { .. })), "{error}");
    drop(lock);
    let source = world.configuration.source(world.flow()).unwrap();
    let connection = ReplicationConnection::connect(&source.extract.endpoint, "reader").await.unwrap();
    let pid = connection.process_id();
    let publication = format!("\"{}\"", world.flow().publication);
    let options = [("proto_version", "1"), ("publication_names", publication.as_str())];
    let stream = connection.start_logical(&world.flow().slot, Lsn(0), &options).await.unwrap();
    let error = teardown(&world.configuration, &[world.flow()], &mut ignore).await.unwrap_err();
    assert!(error.to_string().contains(&format!("in use by server process {pid}")), "{error}");
    drop(stream);
    for _ in 0..100 {
        if teardown(&world.configuration, &[world.flow()], &mut ignore).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the slot stays in use");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_an_administrator_can_give_is_said_where_there_is_none() {
    let world = World::new(refs(&pairs()[0]), TABLES, FLOW).await;
    world.setup().await;
    world.at_target(&format!("REVOKE TRUNCATE ON b FROM {}_replicat", world.name)).await;
    let path = world.dir.path().join("irongate.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let without: String =
        text.lines().filter(|line| !line.starts_with("admin_uri")).map(|line| format!("{line}\n")).collect();
    let configuration = irongate_deployment::Configuration::parse(&without, &path).unwrap();
    let flow = configuration.flow(&world.name).unwrap();
    // The statements can be read with the flow's own roles, and handed to whoever may run them.
    let statements = plan(&configuration, &[flow]).await.unwrap();
    assert_eq!(statements.len(), 1);
    let error = setup(&configuration, &[flow], &Setup::default(), &mut ignore).await.unwrap_err();
    assert!(matches!(error, Error::NoAdmin { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--print-sql"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_flow_needs_survives_the_tear_down_of_the_first() {
    let world = World::new(refs(&pairs()[0]), TABLES, FLOW).await;
    let path = world.dir.path().join("irongate.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let both = format!(
        "{text}[flows.{0}_back]\ndatabase = \"db\"\nfrom = \"b\"\nto = \"a\"\n{FLOW}\n\
                        [flows.{0}_more]\ndatabase = \"db\"\nfrom = \"a\"\nto = \"b\"\ntables = [\"public.b\"]\n",
        world.name
    );
    let configuration = irongate_deployment::Configuration::parse(&both, &path).unwrap();
    let named = |suffix: &str| configuration.flow(&format!("{}{suffix}", world.name)).unwrap();
    let flows = [named(""), named("_back"), named("_more")];
    let statements = plan(&configuration, &flows).await.unwrap();
    for role in ["extract", "replicat"] {
        // One at each server: each is captured and written.
        let create = format!("CREATE ROLE \"{}_{role}\"", world.name);
        assert_eq!(statements.iter().filter(|statement| statement.sql.starts_with(&create)).count(), 2);
    }
    setup(&configuration, &flows, &Setup::default(), &mut ignore).await.unwrap();
    assert_eq!(plan(&configuration, &flows).await.unwrap(), []);
    teardown(&configuration, &[named("")], &mut ignore).await.unwrap();
    assert_eq!(plan(&configuration, &[named("_back"), named("_more")]).await.unwrap(), []);
    teardown(&configuration, &[named("_back"), named("_more")], &mut ignore).await.unwrap();
    let roles = format!("SELECT count(*) FROM pg_roles WHERE rolname ~ '^{}_'", world.name);
    assert_eq!(world.ask_source(&roles).await + &world.ask_target(&roles).await, "00");
    assert_eq!(teardown_plan(&configuration, &flows, &mut ignore).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_has_made_is_neither_cut_down_nor_dropped() {
    let world = World::new(refs(&pairs()[0]), TABLES, FLOW).await;
    let publication = world.flow().publication.clone();
    world
        .at_source(&format!("CREATE PUBLICATION {publication} FOR TABLE tmp_c, b WITH (publish = 'insert')"))
        .await;
    world.setup().await;
    let tables = format!(
        "SELECT string_agg(tablename, ',' ORDER BY tablename) FROM pg_publication_tables WHERE pubname = '{publication}'"
    );
    assert_eq!(world.ask_source(&tables).await, "a,b,p1,tmp_c");
    let publishes = format!("SELECT pubupdate FROM pg_publication WHERE pubname = '{publication}'");
    assert_eq!(world.ask_source(&publishes).await, "f");
    teardown(&world.configuration, &[world.flow()], &mut ignore).await.unwrap();
    assert_eq!(world.ask_source(&tables).await, "a,b,p1,tmp_c");
    // Nor a slot that decodes by another plugin.
    let slot = &world.flow().slot;
    world.at_source(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')")).await;
    let error = teardown(&world.configuration, &[world.flow()], &mut ignore).await.unwrap_err();
    assert!(error.to_string().contains("its output plugin is another"), "{error}");
    world.at_source(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
}
