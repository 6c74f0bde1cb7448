//! The preflight against real servers: silent on a sound pair, and each fault found alone, named, and gone once its fix
//! has been run.

use crate::faults::At::{Source, Target};
use crate::faults::Mends::{Fix, Sql};
use crate::faults::{self, At, Fault};
use crate::server::{self, Server, pairs};
use crate::world::World;
use irongate_deployment::{Configuration, Finding, Severity, check, mending, script};

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

/// Something of everything that can be different.
const MORE: &str = r#"
    CREATE EXTENSION citext;
    CREATE DOMAIN short AS text CHECK (length(VALUE) < 50);
    CREATE TYPE point3 AS (x int, y int, z int);
    CREATE TYPE span AS RANGE (subtype = int);
    CREATE TYPE colour AS ENUM ('red', 'green', 'blue');
    CREATE TABLE rich (id int PRIMARY KEY, s short, p point3[], r span, c colour, k int CHECK (k > 0), w text COLLATE "C",
        i text COLLATE "de-x-icu", d text DEFAULT 'none');
    CREATE TABLE "it's ""odd"" -- 
\x" ("Id;" int PRIMARY KEY, "v'" text);
    CREATE TABLE mother (id int PRIMARY KEY, x int);
    CREATE TABLE child (PRIMARY KEY (id)) INHERITS (mother);
    CREATE TABLE guarded (id int PRIMARY KEY, who text);
    CREATE FUNCTION folded(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN lower($1); END';
    CREATE INDEX ON guarded (folded(who));"#;

/// A flow between two servers with everything in it, set up.
async fn rich<'a>(pair: (&'a Server, &'a Server)) -> World<'a> {
    let world = World::new(pair, &format!("{TABLES}{MORE}"), FLOW).await;
    world.setup().await;
    let guard = |role: &str| {
        format!(
            "ALTER TABLE guarded OWNER TO {}_{role}; ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
             CREATE POLICY mine ON guarded USING (true)",
            world.name
        )
    };
    world.at_source(&guard("extract")).await;
    world.at_target(&guard("replicat")).await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_is_found_alone_and_its_statements_mend_it() {
    let majors = server::majors();
    let start = |major| (Server::start(major, ""), Server::start(major, ""));
    let servers: Vec<_> = majors.iter().map(|major| start(*major)).collect();
    // Settings of a server are seen by every world of it: one world a server at a time.
    let failures =
        futures_util::future::join_all(servers.iter().map(|pair| one_by_one(refs(pair)))).await.concat();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    if let [(low, other_low), .., (high, other_high)] = servers.as_slice() {
        tokio::join!(across((low, other_high)), across((high, other_low)));
    }
}

/// A pair of different versions raises no alarm, either.
async fn across(pair: (&Server, &Server)) {
    let world = rich(pair).await;
    let found = alarms(&world).await;
    assert!(found.is_empty(), "{} to {}:\n{}", pair.0.major, pair.1.major, shown(&found));
}

async fn one_by_one(pair: (&Server, &Server)) -> Vec<String> {
    let world = rich(pair).await;
    let sound = findings(&world.configuration, &world.name).await;
    let loud: Vec<_> = sound.iter().filter(|found| found.severity != Severity::Note).cloned().collect();
    assert!(loud.is_empty(), "a sound pair on {}:\n{}", world.source.major, shown(&loud));
    let mut failures = Vec::new();
    for fault in faults::all().filter(|fault| fault.since <= world.source.major) {
        if let Err(failure) = one(&world, fault, &sound).await {
            failures.push(format!("{}: {}: {failure}", world.source.major, fault.inject));
        }
    }
    // The databases could not be anything else with a subscription in them.
    let end = "ALTER SUBSCRIPTION sub_%N SET (slot_name = NONE); DROP SUBSCRIPTION sub_%N";
    world.source.psql(&world.name, &end.replace("%N", &world.name)).await;
    failures
}

/// Injects a fault, looks for it, mends it as it says, and looks that nothing is left.
async fn one(world: &World<'_>, fault: &Fault, sound: &[Finding]) -> Result<(), String> {
    let named = |text: &str| text.replace("%N", &world.name);
    let run = async |at: At, script: &str| {
        for (server, other) in [(world.source, Target), (world.target, Source)] {
            if at != other {
                server.psql(&world.name, script).await;
            }
        }
    };
    let news = async || {
        let mut found = findings(&world.configuration, &world.name).await;
        found.retain(|finding| !sound.contains(finding));
        found
    };
    run(fault.at, &named(fault.inject)).await;
    let found = news().await;
    let seen = if fault.seen == Source { "db.a: " } else { "db.b: " };
    let is_it = |finding: &&Finding| {
        finding.object.starts_with(seen)
            && finding.object.contains(&named(fault.object))
            && finding.reason.contains(&named(fault.reason))
    };
    let mut result = Ok(());
    if let Some(finding) = found.iter().find(is_it) {
        let fix = finding.fix.clone().unwrap_or_default();
        let loud = found.iter().filter(|finding| finding.severity != Severity::Note).count();
        let alone = usize::from(fault.severity != Severity::Note);
        let is_as_it_should = finding.severity == fault.severity
            && fix.contains(&named(fault.fix))
            && (fault.has_more || loud == alone)
            && (!finding.statements.is_empty() || !matches!(fault.mends, Fix));
        if !is_as_it_should {
            result = Err(format!("otherwise or not alone:\n{}", shown(&found)));
        }
        if !finding.statements.is_empty() {
            // As --fix-sql prints it.
            let printed = script(&mending(std::slice::from_ref(finding)));
            run(fault.seen, &printed).await;
            let left = news().await;
            let is_mended =
                if matches!(fault.mends, Fix) { left.is_empty() } else { !left.contains(finding) };
            if !is_mended {
                result = Err(format!("not mended by\n{printed}\n{}", shown(&left)));
            }
        }
    } else {
        result = Err(format!("not found, but\n{}", shown(&found)));
    }
    if let Sql(sql) = fault.mends {
        run(fault.at, &named(sql)).await;
        let left = news().await;
        if !left.is_empty() && result.is_ok() {
            result = Err(format!("it leaves\n{}", shown(&left)));
        }
    }
    result
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
    let named = |text: &str| text.replace("%N", &world.name);
    let sound = named("\n[flows.%N.key_columns]\n\"public.a\" = [\"id\"]\n");
    let wrong = [
        ("\"public.no\" = [\"id\"]", "table public.no", "does not belong"),
        ("\"public.a\" = [\"idd\"]", "table public.a", "\"idd\", which it does not have"),
        ("\"public.a\" = [\"t\"]", "table public.a", "\"t\" does not come with updates"),
        (
            "[[flows.%N.map]]\nsource = \"public.no\"\ntarget = \"public.a\"",
            "table public.no",
            "it is mapped",
        ),
        ("[[flows.%N.map]]\nsource = \"no.*\"\ntarget = \"public.*\"", "schema \"no\"", "it is mapped"),
    ]
    .map(|(text, object, reason)| (named(text), object, reason));
    let section = named("\n[flows.%N.key_columns]\n");
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
