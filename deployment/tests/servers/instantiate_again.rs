//! Loads into what is there already: rows of tables that inherit, and a flow that has a slot.

use std::time::Duration;

use irongate_deployment::{Error, Instantiate, instantiate};

use crate::server::{self, Server, pairs};
use crate::world::{World, ignore};

const TABLES: &str = "
    CREATE TABLE mother (id int PRIMARY KEY, t text); CREATE TABLE child (PRIMARY KEY (id)) INHERITS (mother);";

#[tokio::test(flavor = "multi_thread")]
async fn a_table_s_rows_are_its_own_and_not_those_of_tables_that_inherit() {
    for (one, other) in pairs() {
        let world = World::new((one, other), TABLES, "tables = [\"public.mother\", \"public.child\"]").await;
        // The child is the larger, and so the first to be copied.
        world
            .at_source(
                "INSERT INTO mother SELECT g, 'm' FROM generate_series(1, 300) g;
                 INSERT INTO child SELECT g, repeat('c', 50) FROM generate_series(1001, 20000) g",
            )
            .await;
        world
            .at_target("CREATE TABLE of_target () INHERITS (mother); INSERT INTO of_target VALUES (7, 'own')")
            .await;
        world.setup().await;
        let counts = "SELECT (SELECT count(*) FROM ONLY mother) || ' ' || (SELECT count(*) FROM child)";
        for truncate in [false, true] {
            let options = Instantiate { truncate, parallel: Some(1), ..Instantiate::default() };
            instantiate(&world.configuration, world.flow(), &options, &mut ignore).await.unwrap();
            assert_eq!(world.ask_target(counts).await, "300 19000");
            assert_eq!(world.ask_target("SELECT id FROM of_target").await, "7", "another's rows are gone");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_of_a_flow_stays_where_another_cannot_be_made_in_time() {
    // Servers of its own: an open transaction holds up every slot of a cluster.
    let (source, target) = (Server::start(server::majors()[0], ""), Server::start(server::majors()[0], ""));
    let world = World::new((&source, &target), TABLES, "tables = [\"public.*\"]").await;
    world.setup().await;
    world.instantiate().await;
    let slots = "SELECT slot_name || ' ' || confirmed_flush_lsn FROM pg_replication_slots";
    let before = world.ask_source(slots).await;
    assert!(!before.is_empty());
    let other = world.source.admin("postgres").await;
    other.batch_execute("CREATE TABLE t (a text); BEGIN; INSERT INTO t VALUES ('a')").await.unwrap();
    let options =
        Instantiate { truncate: true, slot_limit: Duration::from_secs(2), ..Instantiate::default() };
    let error = instantiate(&world.configuration, world.flow(), &options, &mut ignore).await.unwrap_err();
    assert!(matches!(error, Error::Blocked { .. }), "{error}");
    assert_eq!(world.ask_source(slots).await, before);
    other.batch_execute("ROLLBACK").await.unwrap();
    instantiate(&world.configuration, world.flow(), &options, &mut ignore).await.unwrap();
}
