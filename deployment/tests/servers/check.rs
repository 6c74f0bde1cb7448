//! The preflight against real servers: silent on a sound pair, and each fault found alone, named, and gone once its fix
//! has been run.

use std::time::Duration;

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
    let majors = server::majors_in_turn();
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
    // Nor is a channel for changes of structure that is not there, object by object.
    let mut world = world;
    world.reconfigure(&format!("{FLOW}\n[flows.{}.ddl]\n", world.name));
    let found = alarms(&world).await;
    let channel = "DDL channel of flow";
    assert_eq!(
        found.iter().filter(|finding| finding.object.contains(channel)).count(),
        1,
        "{}",
        shown(&found)
    );
    assert_eq!(found.len(), 5, "{}", shown(&found));
    // Rows that will be hidden from the roles are said before these are made.
    world.at_source("ALTER TABLE a ENABLE ROW LEVEL SECURITY").await;
    world.at_target("ALTER TABLE b ENABLE ROW LEVEL SECURITY").await;
    let found = alarms(&world).await;
    for (place, who) in [("db.a: table public.a", "extract"), ("db.b: table public.b", "replicat")] {
        let finding = found.iter().find(|finding| {
            finding.object.contains(place)
                && finding.reason.contains(&format!("row security applies to role \"{}_{who}\"", world.name))
        });
        let finding = finding.unwrap_or_else(|| panic!("{place}: {}", shown(&found)));
        assert!(finding.severity == Severity::Error && finding.fix.as_ref().unwrap().contains("BYPASSRLS"));
    }
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
    for major in server::majors_in_turn() {
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

        // Slots of other programs.
        source.set("wal_level = logical\nmax_wal_senders = 10\nmax_replication_slots = 10");
        source.batch("postgres", "SELECT pg_create_physical_replication_slot('stranger', true)").await;
        for _ in 0..4 {
            source.batch("postgres", "SELECT pg_switch_wal(); INSERT INTO noise SELECT").await;
        }
        let found = alarms(&world).await;
        assert!(
            found.len() == 2 && shown(&found).contains("it is of another program, nobody reads it"),
            "{}",
            shown(&found)
        );
        source.batch("postgres", "SELECT pg_drop_replication_slot('stranger')").await;
        // What only some versions have.
        if major < 17 {
            source.set("old_snapshot_threshold = 60");
            let found = alarms(&world).await;
            assert!(found.len() == 2 && shown(&found).contains("snapshot too old"), "{}", shown(&found));
            source.set("old_snapshot_threshold = -1");
        }

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
async fn generated_columns_of_an_identity_are_published_where_the_server_asks_for_it() {
    for pair in pairs() {
        let world = World::new(refs(pair), TABLES, FLOW).await;
        world.at_source("INSERT INTO a (t) VALUES ('x'); ALTER TABLE a REPLICA IDENTITY FULL").await;
        world.setup().await;
        let (publication, may_refuse) = (world.flow().publication.clone(), pair.0.major >= 18);
        // What set-up makes lets the application go on.
        world.at_source("UPDATE a SET t = 'y'").await;
        let silent = format!("ALTER PUBLICATION {publication} SET (publish_generated_columns = none)");
        if may_refuse {
            world.at_source(&silent).await;
        }
        let found = alarms(&world).await;
        let wanted = found.iter().find(|finding| finding.reason.contains("generated columns"));
        assert_eq!(wanted.is_some(), may_refuse, "{}", shown(&found));
        if let Some(finding) = wanted {
            let fix = finding.fix.as_deref().unwrap();
            assert_eq!((finding.severity, fix.contains("= stored")), (Severity::Error, true), "{fix}");
            world.at_source(fix).await;
            world.at_source("UPDATE a SET t = 'z'").await;
            assert!(!shown(&alarms(&world).await).contains("generated columns"));
        }
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_tables_take_seconds() {
    let tables = "CREATE TYPE kind AS ENUM ('a', 'b');
        CREATE PROCEDURE make() LANGUAGE plpgsql AS $$ BEGIN FOR n IN 1..2000 LOOP
            EXECUTE format('CREATE TABLE t%s (id serial PRIMARY KEY, k kind, x numeric(8,2) DEFAULT 1 CHECK (x > 0), u int UNIQUE)', n);
            COMMIT;
        END LOOP; END $$";
    let world = World::new(refs(&pairs()[pairs().len() - 1]), tables, FLOW).await;
    tokio::join!(world.at_source("CALL make()"), world.at_target("CALL make()"));
    world.setup().await;
    let begin = std::time::Instant::now();
    assert_eq!(alarms(&world).await, []);
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    world.at_target("ALTER TABLE t1777 DROP k; DROP TABLE t5").await;
    let found = alarms(&world).await;
    assert!(found.len() == 2 && shown(&found).contains("public.t1777"), "{}", shown(&found));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_locked_or_leads_into_itself_is_a_finding() {
    let world = World::new(refs(&pairs()[0]), TABLES, FLOW).await;
    world.setup().await;
    // A lock that nobody gives up does not hold the preflight up.
    let holder = world.target.admin(&world.name).await;
    holder.batch_execute("BEGIN; LOCK TABLE a").await.unwrap();
    let found = tokio::time::timeout(Duration::from_secs(60), alarms(&world)).await.unwrap();
    let locked = found.iter().find(|finding| finding.object == "db.b: tables");
    assert!(locked.is_some_and(|finding| finding.reason.contains("lock timeout")), "{}", shown(&found));
    drop(holder);

    // Both addresses lead to one database.
    let path = world.dir.path().join("irongate.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let same = text.replace(&world.target.uri(&world.name), &world.source.uri(&world.name));
    let configuration = Configuration::parse(&same, &path).unwrap();
    let found = findings(&configuration, &world.name).await;
    let itself = found.iter().find(|finding| finding.reason.contains("into its own source"));
    assert!(itself.is_some_and(|finding| finding.severity == Severity::Error), "{}", shown(&found));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_administrator_lacks_is_told_with_what_gives_it() {
    let world = World::new(refs(&pairs()[0]), TABLES, FLOW).await;
    world.setup().await;
    let role = format!("{}_dba", world.name);
    let path = world.dir.path().join("irongate.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let uri = format!("{} user=postgres\"\n", world.source.uri(&world.name));
    let other = format!("{} user={role}\"\nadmin_password_file = \"dba\"\n", world.source.uri(&world.name));
    // That of the roles is in no server's log.
    let password = "paper clip 3";
    let file = world.dir.path().join("dba");
    std::fs::write(&file, password).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let configuration = Configuration::parse(&text.replace(&uri, &other), &path).unwrap();
    let of = async || {
        let mut found = findings(&configuration, &world.name).await;
        found.retain(|finding| finding.severity != Severity::Note);
        found
    };
    let found = of().await;
    assert!(found.len() == 1 && found[0].reason.contains("does not get in"), "{}", shown(&found));
    let tables = "DO $$ DECLARE t regclass; BEGIN
        FOR t IN SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') LOOP
            EXECUTE format('ALTER TABLE %s OWNER TO OWNER_ROLE', t);
        END LOOP; END $$";
    world
        .at_source(&format!("CREATE ROLE {role} LOGIN PASSWORD '{password}'; CREATE ROLE {role}_owner"))
        .await;
    let found = of().await;
    assert!(shown(&found).contains("give the tables to a role that is no superuser"), "{}", shown(&found));
    world.at_source(&tables.replace("OWNER_ROLE", &format!("{role}_owner"))).await;
    let found = of().await;
    assert!(found.iter().all(|finding| finding.severity == Severity::Warning), "{}", shown(&found));
    for part in ["CREATEROLE", "GRANT CREATE ON DATABASE", &format!("GRANT \"{role}_owner\" TO")] {
        let gives = |finding: &Finding| finding.fix.as_ref().is_some_and(|fix| fix.contains(part));
        assert!(found.iter().any(gives), "{part}: {}", shown(&found));
    }
    world.source.psql(&world.name, &script(&mending(&found))).await;
    assert_eq!(of().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn renamed_tables_raise_no_alarm_and_are_compared_all_the_same() {
    let tables = "CREATE SCHEMA app; SET search_path = app;
        CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN short AS text CHECK (length(VALUE) < 9);
        CREATE TYPE pair AS (a mood, b int);
        CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TABLE one (id serial PRIMARY KEY, m mood DEFAULT 'sad', s short, p pair, n int CHECK (n > 0),
            g text GENERATED ALWAYS AS (CASE WHEN n > 1 THEN 'x' END) STORED);
        CREATE TABLE two (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, one int REFERENCES one);
        CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (0) TO (10);
        CREATE TRIGGER quiet BEFORE INSERT ON one FOR EACH ROW EXECUTE FUNCTION nothing();";
    let mut world = World::new(refs(&pairs()[0]), tables, FLOW).await;
    world.at_target("ALTER SCHEMA app RENAME TO \"The Copy\"").await;
    let flow = "tables = [\"app.*\"]\n[[flows.%N.map]]\nsource = \"app.*\"\ntarget = '\"The Copy\".*'";
    world.reconfigure(&flow.replace("%N", &world.name));
    world.setup().await;
    assert_eq!(alarms(&world).await, []);
    world.at_target("SET search_path = \"The Copy\"; ALTER TABLE two DROP CONSTRAINT two_one_fkey; ALTER TABLE part DETACH PARTITION part1; DROP SEQUENCE one_id_seq CASCADE; ALTER TYPE mood RENAME VALUE 'sad' TO 'bad'").await;
    let found = alarms(&world).await;
    let text = shown(&found);
    for part in
        ["two_one_fkey", "table The Copy.part1", "sequence The Copy.one_id_seq", "lacks the value 'sad'"]
    {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    assert_eq!(found.len(), 4, "{text}");
    world.target.psql(&world.name, &script(&mending(&found))).await;
    let left = alarms(&world).await;
    assert!(left.len() == 1 && left[0].object.contains("two_one_fkey"), "{}", shown(&left));
}
