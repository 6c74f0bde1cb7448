//! The preflight against real servers: silent on a sound pair, and each fault found alone, named, and gone once its fix
//! has been run.

use crate::faults::At::{Source, Target};
use crate::faults::Mends::{Fix, Sql};
use crate::faults::{At, FAULTS};
use crate::server::{self, Server, pairs};
use crate::world::World;
use irongate_deployment::{Configuration, Finding, Severity, check};

fn refs(pair: &(Server, Server)) -> (&Server, &Server) {
    (&pair.0, &pair.1)
}

const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'happy');
    CREATE TABLE a (id serial PRIMARY KEY, t text NOT NULL, m mood, n numeric(8,2), twice int GENERATED ALWAYS AS (1 + 1) STORED);
    CREATE TABLE b (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int REFERENCES a, u int UNIQUE);
    CREATE TABLE keyless (x int); ALTER TABLE keyless REPLICA IDENTITY FULL;
    CREATE TABLE by_index (k int NOT NULL UNIQUE, v text);
    ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_k_key;
    CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
    CREATE TABLE left_out (x int);
    CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER quiet BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION nothing();";
const FLOW: &str = "tables = [\"public.*\"]\nexclude = [\"public.left_out\"]";

async fn findings(configuration: &Configuration, flow: &str) -> Vec<Finding> {
    check(configuration, &[configuration.flow(flow).unwrap()]).await.unwrap()
}

/// What is worse than a note.
async fn alarms(world: &World<'_>) -> Vec<Finding> {
    let mut all = findings(&world.configuration, &world.name).await;
    all.retain(|finding| finding.severity != Severity::Note);
    all
}

fn shown(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("{finding}\n    fix: {:?}\n", finding.fix)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_pair_raises_no_alarm_and_each_fault_is_found_alone() {
    for pair in pairs() {
        let world = World::new(refs(pair), TABLES, FLOW).await;
        world.setup().await;
        let quiet = alarms(&world).await;
        assert!(quiet.is_empty(), "a sound pair on {}:\n{}", world.source.major, shown(&quiet));
        for fault in FAULTS {
            let named = |text: &str| text.replace("NAME", &world.name);
            let run = async |at: At, sql: &str| match at {
                Source => world.at_source(sql).await,
                Target => world.at_target(sql).await,
            };
            let inject = named(fault.inject);
            // A disabled subscription raises nothing and need not be reached.
            let enable = inject.starts_with("CREATE SUBSCRIPTION");
            run(fault.at, &inject).await;
            if enable {
                world.at_source(&named("ALTER SUBSCRIPTION sub_NAME ENABLE")).await;
            }
            let found = alarms(&world).await;
            let [finding] = found.as_slice() else {
                panic!("{inject}: not one finding but\n{}", shown(&found))
            };
            assert_eq!(finding.severity, fault.severity, "{inject}\n{}", shown(&found));
            let fix = finding.fix.clone().unwrap_or_default();
            for (text, part) in
                [(&finding.object, fault.object), (&finding.reason, fault.reason), (&fix, fault.fix)]
            {
                assert!(text.contains(&named(part)), "{inject}: no {part:?} in\n{}", shown(&found));
            }
            let end = finding.object.split(':').next().unwrap();
            // A type that grew at the source is behind at the target.
            let at = if end == "db.a" { Source } else { Target };
            assert!(at == fault.at || inject.starts_with("ALTER TYPE"), "{inject}\n{}", shown(&found));
            match fault.mends {
                Fix => run(at, &fix).await,
                Sql(sql) => run(fault.at, &named(sql)).await,
            }
            let left = alarms(&world).await;
            assert!(left.is_empty(), "{inject} is not mended by {fix:?}:\n{}", shown(&left));
        }
        // The cluster is shared: a subscription would keep its database from being anything else.
        world
            .at_source(&format!(
                "ALTER SUBSCRIPTION sub_{0} SET (slot_name = NONE); DROP SUBSCRIPTION sub_{0}",
                world.name
            ))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_was_never_set_up_is_told_what_to_do_and_does_not_crash() {
    let world = World::new(refs(&pairs()[0]), TABLES, FLOW).await;
    let found = alarms(&world).await;
    let find = |part: &str| {
        found
            .iter()
            .find(|finding| finding.object.contains(part))
            .unwrap_or_else(|| panic!("{part}: {}", shown(&found)))
    };
    assert!(find(&format!("role \"{}_extract\"", world.name)).fix.as_ref().unwrap().contains("CREATE ROLE"));
    assert!(find(&format!("role \"{}_replicat\"", world.name)).fix.as_ref().unwrap().contains("CREATE ROLE"));
    assert!(find("publication").fix.as_ref().unwrap().starts_with("CREATE PUBLICATION"));
    assert_eq!(find("slot").fix.as_deref(), Some("irongate setup"));
    // What follows from a missing role is not said once more for every table.
    assert_eq!(found.len(), 4, "{}", shown(&found));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_reached_is_a_finding_and_the_other_is_still_examined() {
    let world = World::new(refs(&pairs()[0]), TABLES, FLOW).await;
    world.setup().await;
    let path = world.dir.path().join("irongate.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let uri = world.target.uri(&world.name);
    let configuration =
        Configuration::parse(&text.replace(&uri, &format!("host=/nowhere dbname={}", world.name)), &path)
            .unwrap();
    let found = findings(&configuration, &world.name).await;
    let errors: Vec<_> =
        found.iter().filter(|finding| finding.severity == Severity::Error).cloned().collect();
    assert_eq!(errors.len(), 1, "{}", shown(&errors));
    assert!(
        errors[0].object.starts_with("db.b: ") && errors[0].reason.contains("cannot connect"),
        "{}",
        shown(&errors)
    );
    world.at_source("ALTER TABLE keyless REPLICA IDENTITY NOTHING").await;
    assert!(shown(&findings(&configuration, &world.name).await).contains("NOTHING"));
    // A wrong password is answered with its place.
    std::fs::write(world.dir.path().join("password"), "wrong").unwrap();
    let found = alarms(&world).await;
    let refused: Vec<_> =
        found.iter().filter(|finding| finding.reason.contains("password authentication failed")).collect();
    assert_eq!(refused.len(), 2, "{}", shown(&found));
    assert!(
        refused.iter().all(|finding| finding.fix.as_ref().unwrap().contains("password")
            && !finding.reason.contains("wrong\""))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_the_servers_are_judged() {
    for major in server::majors() {
        let (source, target) = (Server::start(major, ""), Server::start(major, ""));
        let world = World::new((&source, &target), TABLES, FLOW).await;
        world.setup().await;
        assert_eq!(alarms(&world).await, []);
        let one = async |part: &str, fix: &str| {
            let found = alarms(&world).await;
            let [finding] = found.as_slice() else {
                panic!("{part}: not one finding but\n{}", shown(&found))
            };
            assert!(finding.object.contains(part), "{}", shown(&found));
            assert!(finding.fix.as_ref().unwrap().contains(fix), "{}", shown(&found));
            finding.clone()
        };
        source.set("max_slot_wal_keep_size = 64MB");
        source.batch("postgres", "CREATE TABLE noise ()").await;
        for _ in 0..4 {
            source.batch("postgres", "SELECT pg_switch_wal(); INSERT INTO noise SELECT").await;
        }
        let near = one("slot", "max_slot_wal_keep_size").await;
        assert_eq!(near.severity, Severity::Warning);
        for _ in 0..8 {
            source.batch("postgres", "SELECT pg_switch_wal(); INSERT INTO noise SELECT").await;
        }
        source.batch("postgres", "CHECKPOINT").await;
        let lost = one("slot", "irongate instantiate").await;
        assert!(lost.severity == Severity::Error && lost.reason.contains("lost"), "{lost:?}");

        source.batch("postgres", &format!("SELECT pg_drop_replication_slot('{}')", world.flow().slot)).await;
        let gone = one("slot", "irongate instantiate").await;
        assert!(gone.reason.contains("does not exist"));
        source.batch("postgres", "BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 'old one'").await;
        let found = alarms(&world).await;
        assert!(found.len() == 2 && shown(&found).contains("\"old one\""), "{}", shown(&found));
        source.batch("postgres", "ROLLBACK PREPARED 'old one'").await;

        source.set("max_replication_slots = 1");
        source.batch("postgres", "SELECT pg_create_physical_replication_slot('other')").await;
        let found = alarms(&world).await;
        assert!(found.len() == 2 && shown(&found).contains("all 1 slots are taken"), "{}", shown(&found));
        source.batch("postgres", "SELECT pg_drop_replication_slot('other')").await;
        source.set("max_wal_senders = 0");
        let found = alarms(&world).await;
        assert!(found.len() == 2 && shown(&found).contains("SET max_wal_senders = 5"), "{}", shown(&found));
        source.set("wal_level = replica");
        let found = alarms(&world).await;
        assert!(
            found.len() == 2 && shown(&found).contains("ALTER SYSTEM SET wal_level = 'logical'"),
            "{}",
            shown(&found)
        );

        // The target's room for origins.
        source.set("wal_level = logical\nmax_wal_senders = 10\nmax_replication_slots = 10");
        world.instantiate().await;
        target
            .batch(
                &world.name,
                &format!(
                    "SELECT pg_replication_origin_drop('irongate_{}'), pg_replication_origin_create('other')",
                    world.name
                ),
            )
            .await;
        let setting = if major >= 18 { "max_active_replication_origins" } else { "max_replication_slots" };
        target.set(&format!("{setting} = 1"));
        let full = one(setting, &format!("ALTER SYSTEM SET {setting} = 6")).await;
        assert_eq!(full.severity, Severity::Error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_is_younger_than_its_slot_is_noticed() {
    let world = World::new(refs(&pairs()[0]), TABLES, FLOW).await;
    world.setup().await;
    let publication = world.flow().publication.clone();
    world.at_source(&format!("DROP PUBLICATION {publication}")).await;
    world.setup().await;
    let found = alarms(&world).await;
    assert!(found.len() == 1 && found[0].reason.contains("after the slot's place"), "{}", shown(&found));
    world.instantiate().await;
    assert_eq!(alarms(&world).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn encodings_and_locales_that_do_not_fit_are_named() {
    let major = server::majors()[0];
    let source = Server::start(major, "");
    let target = Server::start_with(major, "", &["--encoding=LATIN1", "--locale=C"]);
    let world = World::new((&source, &target), "CREATE TABLE m (id int PRIMARY KEY)", FLOW).await;
    world.setup().await;
    let found = shown(&alarms(&world).await);
    assert!(found.contains("it is LATIN1, which lacks characters of the source's UTF8"), "{found}");
    assert!(found.contains("collation (LC_COLLATE)") && found.contains("collation (LC_CTYPE)"), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_that_would_send_the_reverse_flows_rows_back_is_an_error() {
    let world = World::new(refs(&pairs()[0]), TABLES, FLOW).await;
    world.setup().await;
    let path = world.dir.path().join("irongate.toml");
    let reverse =
        format!("[flows.{}_back]\ndatabase = \"db\"\nfrom = \"b\"\nto = \"a\"\n{FLOW}\n", world.name);
    let with = |extract: &str| {
        let text = std::fs::read_to_string(&path).unwrap();
        let text =
            text.replace(FLOW, &format!("{FLOW}\n[flows.{}.extract]\n{extract}\n", world.name)) + &reverse;
        Configuration::parse(&text, &path).unwrap()
    };
    let looping = findings(&with("skip_origins = [\"pg_16400\"]"), &world.name).await;
    let errors: Vec<_> = looping.into_iter().filter(|finding| finding.severity == Severity::Error).collect();
    assert!(errors.len() == 1 && errors[0].reason.contains("send that back"), "{}", shown(&errors));
    let own = format!("skip_origins = [\"irongate_{}_back\"]", world.name);
    let sound = findings(&with(&own), &world.name).await;
    assert!(sound.iter().all(|finding| finding.severity == Severity::Note), "{}", shown(&sound));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_renames_that_mean_nothing_are_found() {
    let mut world = World::new(refs(&pairs()[0]), TABLES, FLOW).await;
    world.setup().await;
    let named = |text: &str| text.replace("NAME", &world.name);
    let sound = named("\n[flows.NAME.key_columns]\n\"public.a\" = [\"id\"]\n");
    let wrong = [
        ("\"public.no\" = [\"id\"]", "table public.no", "does not belong"),
        ("\"public.a\" = [\"idd\"]", "table public.a", "\"idd\", which it does not have"),
        ("\"public.a\" = [\"t\"]", "table public.a", "\"t\" does not come with updates"),
        (
            "[[flows.NAME.map]]\nsource = \"public.no\"\ntarget = \"public.a\"",
            "table public.no",
            "it is mapped",
        ),
        ("[[flows.NAME.map]]\nsource = \"no.*\"\ntarget = \"public.*\"", "schema \"no\"", "it is mapped"),
    ]
    .map(|(text, object, reason)| (named(text), object, reason));
    let section = named("\n[flows.NAME.key_columns]\n");
    world.reconfigure(&format!("{FLOW}{sound}"));
    assert_eq!(alarms(&world).await, []);
    for (text, object, reason) in wrong {
        let section = if text.starts_with("[[") { "\n" } else { section.as_str() };
        world.reconfigure(&format!("{FLOW}{section}{text}"));
        let found = alarms(&world).await;
        assert!(
            found.len() == 1 && found[0].object.ends_with(object) && found[0].reason.contains(reason),
            "{text}:\n{}",
            shown(&found)
        );
    }
}
