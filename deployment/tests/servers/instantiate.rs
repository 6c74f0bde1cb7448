//! The initial load against real servers, as roles that are no superusers: every row once whatever is cut off, and then
//! the stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::server::{self, Server, pairs};
use crate::world::{World, ignore};
use irongate_apply::Replicat;
use irongate_capture::Extract;
use irongate_deployment::{Error, Event, Instantiate, instantiate};

fn refs(pair: &(Server, Server)) -> (&Server, &Server) {
    (&pair.0, &pair.1)
}

const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'it''s ok', 'happy'); CREATE DOMAIN positive AS int CHECK (value > 0);
    CREATE TYPE pair AS (a int, b text);
    CREATE TABLE kinds (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, t text, n numeric, f float8, b bytea,
        ts timestamptz, iv interval, j jsonb, x xml, a text[], m mood, d positive, p pair, r int4range, u uuid, bits bit(3),
        twice numeric GENERATED ALWAYS AS (n * 2) STORED, \"Odd \"\"name\"\"\" int);
    CREATE TABLE counter (id int PRIMARY KEY, n int NOT NULL);
    CREATE TABLE keyless (a int, b text); ALTER TABLE keyless REPLICA IDENTITY FULL;
    CREATE TABLE parent (id serial PRIMARY KEY, t text);
    CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent);
    CREATE TABLE part (id int PRIMARY KEY, t text) PARTITION BY RANGE (id);
    CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (1000);
    CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (1000) TO (2000);
    CREATE TABLE no_columns (); ALTER TABLE no_columns REPLICA IDENTITY FULL; CREATE SEQUENCE free;
    CREATE FUNCTION boom() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''a trigger fired''; END';";

const ROWS: &str = r#"
    INSERT INTO kinds (t, n, f, b, ts, iv, j, x, a, m, d, p, r, u, bits, "Odd ""name""") VALUES
        (E'tab\t back\\slash \n line', 'NaN', 'infinity', '\x00ff', '0044-03-15 12:00:00 BC', '1 mon -3 days 04:05:06.789',
         '{"k": [1, null]}', '<a>b</a>', '{a,NULL,"x y"}', 'it''s ok', 7, '(1,"x,y")', '[1,5)',
         '11111111-2222-3333-4444-555555555555', '101', 3),
        ('\.', 1.50, 1e-300, NULL, '-infinity', NULL, NULL, NULL, '{}', NULL, NULL, NULL, 'empty', NULL, NULL, NULL),
        (repeat('long ', 300000), 12345678901234567890.123, '-0', '', 'infinity', '0', '[]', NULL, NULL, 'sad', 1, NULL,
         NULL, NULL, '000', -1);
    INSERT INTO keyless SELECT g, 'k' FROM generate_series(1, 50) g; INSERT INTO keyless VALUES (1, 'k'), (NULL, NULL);
    INSERT INTO parent (t) SELECT 'p' || g FROM generate_series(1, 100) g;
    INSERT INTO child SELECT g, g FROM generate_series(1, 100) g;
    INSERT INTO part SELECT g, 'x' || g FROM generate_series(0, 1999) g;
    INSERT INTO counter SELECT g, 0 FROM generate_series(1, 500) g;
    INSERT INTO no_columns SELECT; INSERT INTO no_columns SELECT;
    SELECT setval('free', 4711), nextval('free');"#;

const FLOW: &str = "tables = [\"public.*\"]";

/// Every row of every table, as a digest for each table.
async fn digests(server: &Server, database: &str) -> String {
    let tables = "SELECT quote_ident(nspname) || '.' || quote_ident(relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
        WHERE relkind = 'r' AND nspname NOT IN ('pg_catalog', 'information_schema', 'irongate') ORDER BY 1";
    let mut all = String::new();
    for table in server.ask(database, tables).await.lines() {
        let sql = format!(
            "SELECT count(*), md5(coalesce(string_agg(md5(r::text), ',' ORDER BY r::text COLLATE \"C\"), '')) FROM {table} r"
        );
        all.push_str(&format!("{table} {}\n", server.ask(database, &sql).await));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_and_sequence_arrives_once_with_triggers_and_foreign_keys_silent() {
    for pair in pairs() {
        let world = World::new(refs(pair), TABLES, FLOW).await;
        world.at_source(ROWS).await;
        // A target that is not asked in the right role would refuse the first row.
        world
            .at_target("CREATE TRIGGER boom BEFORE INSERT ON counter FOR EACH ROW EXECUTE FUNCTION boom()")
            .await;
        world.setup().await;
        // Rows that come frozen are seen even by those who looked before.
        let before = world.target.admin(&world.name).await;
        before.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class").await.unwrap();
        let mut seen = Vec::new();
        let mut note = |event: Event<'_>| {
            if let Event::Copy(progress) = event {
                seen.push(progress);
            }
        };
        let done = instantiate(&world.configuration, world.flow(), &Instantiate::default(), &mut note)
            .await
            .unwrap();
        assert_eq!(digests(world.source, &world.name).await, digests(world.target, &world.name).await);
        assert_eq!((done.tables, done.rows), (8, 3 + 52 + 100 + 100 + 2000 + 500 + 2));
        assert_eq!(done.sequences, 3);
        let sequences =
            "SELECT last_value, is_called FROM free UNION ALL SELECT last_value, is_called FROM parent_id_seq
            UNION ALL SELECT last_value, is_called FROM kinds_id_seq";
        assert_eq!(world.ask_target(sequences).await, world.ask_source(sequences).await);
        let last = seen.last().unwrap();
        assert_eq!((last.tables_done, last.tables_total, last.rows), (8, 8, done.rows));
        assert!((last.fraction - 1.0).abs() < 1e-9 && last.tables.is_empty(), "{last:?}");
        // What was written carries a mark of the flow; the origins of its sessions do not stay.
        let marked =
            "SELECT count(*) FILTER (WHERE (pg_xact_commit_timestamp_origin(c.xmin)).roident > 0), count(*)
            FROM counter c";
        assert_eq!(world.ask_target(marked).await, "500|500");
        let origins = format!(
            "SELECT count(*) FROM pg_replication_origin WHERE roname LIKE 'irongate\\_{}/%'",
            world.name
        );
        assert_eq!(world.ask_target(&origins).await, "0");
        for (table, rows) in [("counter", 500), ("keyless", 52), ("parent", 0)] {
            let sql = format!("SELECT count(*) FROM {table}");
            let seen: i64 = before.query_one(&sql, &[]).await.unwrap().get(0);
            // One that others refer to cannot be emptied in the transaction that fills it.
            assert_eq!(seen, rows, "{table}");
        }
        let ledger = "SELECT count(*), sum(rows), bool_and(chunks = chunks_done) FROM irongate.load_table";
        assert_eq!(world.ask_target(ledger).await, format!("8|{}|t", done.rows));
        // Nobody keeps the snapshot any more.
        let keepers = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'irongate keeper%'
            AND datname = current_database()";
        assert_eq!(world.ask_source(keepers).await, "0");
    }
}

/// Writes at the source until told to stop; returns how many transactions it made.
async fn write(world: &World<'_>, stop: Arc<AtomicBool>) -> u64 {
    let client = world.source.admin(&world.name).await;
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let n = count % 500 + 1;
        let sql = format!(
            "BEGIN; UPDATE counter SET n = n + 1 WHERE id = {n}; INSERT INTO parent (t) VALUES ('live {count}');
             INSERT INTO child SELECT max(id), max(id) FROM parent; DELETE FROM keyless WHERE a = {n};
             UPDATE part SET t = t || '.' WHERE id = {}; INSERT INTO kinds (t, n) VALUES ('live', {count}); COMMIT",
            (count * 7) % 2000
        );
        client.batch_execute(&sql).await.unwrap();
        count += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn under_live_writes_copy_and_stream_meet_without_gap_or_overlap() {
    for pair in pairs() {
        let world = World::new(refs(pair), TABLES, FLOW).await;
        world.at_source(ROWS).await;
        world.setup().await;
        let stop = Arc::new(AtomicBool::new(false));
        let writing = write(&world, Arc::clone(&stop));
        let work = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            world.instantiate().await;
            let (end, ended) = tokio::sync::watch::channel(false);
            let until = |mut ended: tokio::sync::watch::Receiver<bool>| async move {
                let _ = ended.wait_for(|end| *end).await;
            };
            let extract = Extract::new(world.configuration.extract_settings(world.flow()).unwrap());
            let extract = tokio::spawn(extract.run(until(ended.clone())));
            let replicat = Replicat::new(world.configuration.replicat_settings(world.flow()).unwrap());
            let replicat = tokio::spawn(replicat.run(until(ended)));
            tokio::time::sleep(Duration::from_secs(1)).await;
            // A flow that works raises no alarm.
            let findings = irongate_deployment::check(&world.configuration, &[world.flow()]).await.unwrap();
            let alarm =
                findings.iter().find(|finding| finding.severity != irongate_deployment::Severity::Note);
            assert_eq!(alarm, None);
            stop.store(true, Ordering::Relaxed);
            (end, extract, replicat)
        };
        let (count, (end, extract, replicat)) = tokio::join!(writing, work);
        assert!(count > 20, "the load must overlap the copy: {count}");
        let begin = Instant::now();
        let expected = digests(world.source, &world.name).await;
        while digests(world.target, &world.name).await != expected {
            assert!(!extract.is_finished(), "{:?}", extract.await);
            assert!(!replicat.is_finished(), "{:?}", replicat.await);
            assert!(
                begin.elapsed() < Duration::from_secs(60),
                "source:\n{expected}\ntarget:\n{}",
                digests(world.target, &world.name).await
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        end.send(true).unwrap();
        extract.await.unwrap().unwrap();
        replicat.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_rows_is_refused_before_anything_changes_and_emptied_only_on_demand() {
    for pair in pairs() {
        let world = World::new(refs(pair), TABLES, FLOW).await;
        world.at_source(ROWS).await;
        world.setup().await;
        world.at_target("INSERT INTO parent (t) VALUES ('old'); INSERT INTO child VALUES (1, 1)").await;
        let slot =
            "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'irongate_test_NAME'"
                .replace("NAME", &world.name);
        let before = world.ask_source(&slot).await;
        let load = |truncate| {
            let options = Instantiate { truncate, ..Instantiate::default() };
            let (configuration, flow) = (&world.configuration, world.flow());
            async move { instantiate(configuration, flow, &options, &mut ignore).await }
        };
        let error = load(false).await.unwrap_err();
        let Error::NotEmpty { tables, .. } = &error else { panic!("{error}") };
        assert_eq!(tables, &["public.child", "public.parent"]);
        assert!(error.hint().unwrap().contains("--truncate"));
        assert_eq!(world.ask_source(&slot).await, before, "the slot that was there is kept");

        // A load that fails half-way keeps what it has, and its slot, and Replicat does not run; mended, it goes on.
        world.at_target("ALTER TABLE part_2 ADD CHECK (id < 1500)").await;
        let error = load(true).await.unwrap_err();
        let Error::Copy { table, .. } = &error else { panic!("{error}") };
        assert_eq!(table, "public.part_2");
        assert!(!error.to_string().contains("x1500"), "no row value: {error}");
        assert_eq!(world.ask_target("SELECT count(*) FROM parent WHERE t = 'old'").await, "0");
        assert_eq!(world.ask_target("SELECT count(*) FROM irongate.checkpoint").await, "0");
        let slot_of_load = world.ask_source(&slot).await;
        assert_ne!(slot_of_load, "");
        let (end, mut ended) = tokio::sync::watch::channel(false);
        let replicat = Replicat::new(world.configuration.replicat_settings(world.flow()).unwrap());
        let replicat = tokio::spawn(replicat.run(async move {
            let _ = ended.wait_for(|end| *end).await;
        }));
        let (state, group) = (&world.configuration.state_directory, format!("{}-replicat", world.name));
        let begin = Instant::now();
        loop {
            let status = irongate_checkpoint::read_status(state, &group).unwrap();
            if status.is_some_and(|status| status.doing.contains("waiting for the initial load")) {
                break;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "a Replicat waits for the load");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }

        world.at_target("ALTER TABLE part_2 DROP CONSTRAINT part_2_id_check").await;
        load(true).await.unwrap();
        assert_eq!(world.ask_source(&slot).await, slot_of_load, "the same load has been gone on with");
        end.send(true).unwrap();
        replicat.await.unwrap().unwrap();
        assert_eq!(digests(world.source, &world.name).await, digests(world.target, &world.name).await);
        // Once more over itself: a new slot, a new lineage, the same rows.
        load(true).await.unwrap();
        assert_eq!(world.ask_target("SELECT count(*) FROM irongate.checkpoint").await, "1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_is_cut_off_anywhere_goes_on_and_has_every_row_once() {
    for pair in pairs() {
        let world = World::new(refs(pair), TABLES, FLOW).await;
        world.at_source(ROWS).await;
        world.setup().await;
        let options = Instantiate::default();
        let begin = Instant::now();
        world.instantiate().await;
        let whole = begin.elapsed();
        let empty = "TRUNCATE kinds, part, counter, keyless, parent, child, no_columns; DELETE FROM irongate.checkpoint;
            DELETE FROM irongate.load";
        world.at_target(empty).await;
        let (mut cut_off, mut through) = (0, 0);
        for step in 0.. {
            // A machine that has become slower meanwhile gets through later.
            if step >= 16 && through > 0 || step >= 100 {
                break;
            }
            let limit = whole * step / 12;
            let mut nobody = ignore;
            let load = instantiate(&world.configuration, world.flow(), &options, &mut nobody);
            let done = tokio::time::timeout(limit, load).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            // It may have been cut off between its last commit and its answer.
            let is_through = world.ask_target("SELECT count(*) FROM irongate.checkpoint").await == "1";
            match (done, is_through) {
                (Err(_), false) => cut_off += 1,
                (done, _) => {
                    done.into_iter().for_each(|done| drop(done.unwrap()));
                    through += 1;
                    let same = digests(world.source, &world.name).await;
                    assert_eq!(same, digests(world.target, &world.name).await, "after {limit:?}");
                    world.at_target(empty).await;
                }
            }
        }
        println!("cut off {cut_off} times, through {through} times");
        assert!(cut_off >= 5 && through >= 1, "cut off {cut_off} times, through {through} times");
        world.instantiate().await;
        assert_eq!(digests(world.source, &world.name).await, digests(world.target, &world.name).await);
        let slots = format!("SELECT count(*) FROM pg_replication_slots WHERE database = '{}'", world.name);
        assert_eq!(world.ask_source(&slots).await, "1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_up_the_slot_is_named_and_nothing_is_left() {
    // Servers of its own: an open transaction holds up every slot of a cluster.
    let (source, target) = (Server::start(server::majors()[0], ""), Server::start(server::majors()[0], ""));
    let world = World::new((&source, &target), TABLES, FLOW).await;
    world.at_source(ROWS).await;
    world.setup().await;
    let other = world.source.admin("postgres").await;
    other.batch_execute("CREATE TABLE t (a text); BEGIN; INSERT INTO t VALUES ('a secret')").await.unwrap();
    world.source.batch("postgres", "BEGIN; CREATE TABLE u (); PREPARE TRANSACTION 'left behind'").await;
    let options = Instantiate { slot_limit: Duration::from_secs(3), ..Instantiate::default() };
    let mut waited = 0;
    let mut note = |event: Event<'_>| {
        if let Event::Waiting(blockers) = event {
            assert!(!blockers.is_empty());
            waited += 1;
        }
    };
    let error = instantiate(&world.configuration, world.flow(), &options, &mut note).await.unwrap_err();
    let pid: i32 = other.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let text = format!("{error} {}", error.hint().unwrap());
    assert!(waited >= 1 && error.is_transient(), "{text}");
    // The server looks at one transaction after the other.
    let one = text.contains(&format!("server process {pid} (role \"postgres\", database \"postgres\""))
        && text.contains("INSERT INTO t VALUES (?)")
        && text.contains(&format!("pg_terminate_backend({pid})"));
    assert!(one || text.contains("left behind"), "{text}");
    assert!(!text.contains("secret"), "{text}");
    // That of set-up, which goes when another one can be made.
    assert_eq!(world.ask_source("SELECT count(*) FROM pg_replication_slots").await, "1");
    other.batch_execute("ROLLBACK").await.unwrap();
    let error = instantiate(&world.configuration, world.flow(), &options, &mut ignore).await.unwrap_err();
    assert!(error.hint().unwrap().contains("ROLLBACK PREPARED 'left behind'"), "{error}");
    world.source.batch("postgres", "ROLLBACK PREPARED 'left behind'").await;
    world.instantiate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_somebody_holds_is_waited_for_only_so_long() {
    let world = World::new(refs(&pairs()[0]), TABLES, FLOW).await;
    world.at_source(ROWS).await;
    world.setup().await;
    let other = world.target.admin(&world.name).await;
    other.batch_execute("BEGIN; LOCK TABLE part IN SHARE MODE").await.unwrap();
    let options =
        Instantiate { truncate: true, slot_limit: Duration::from_secs(5), ..Instantiate::default() };
    let error = instantiate(&world.configuration, world.flow(), &options, &mut ignore).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("empty the tables"), "{error}");
    other.batch_execute("ROLLBACK").await.unwrap();
    instantiate(&world.configuration, world.flow(), &options, &mut ignore).await.unwrap();
}

/// A load of tables in many chunks, of which one cannot be copied: refused by a CHECK of the target.
async fn half_loaded(world: &World<'_>) -> Error {
    world.at_target("ALTER TABLE part_2 ADD CONSTRAINT half CHECK (id < 1500)").await;
    let error = instantiate(&world.configuration, world.flow(), &Instantiate::default(), &mut ignore)
        .await
        .unwrap_err();
    world.at_target("ALTER TABLE part_2 DROP CONSTRAINT half").await;
    error
}

async fn loaded(world: &World<'_>) -> Result<irongate_deployment::Instantiated, Error> {
    let options = Instantiate { slot_limit: Duration::from_secs(2), ..Instantiate::default() };
    instantiate(&world.configuration, world.flow(), &options, &mut ignore).await
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_in_the_way_is_named_and_mended_the_load_goes_on() {
    for pair in pairs() {
        let world = World::new(refs(pair), TABLES, FLOW).await;
        world.at_source(ROWS).await;
        world.setup().await;
        let error = half_loaded(&world).await;
        assert!(matches!(&error, Error::Copy { table, .. } if table == "public.part_2"), "{error}");
        assert!(error.hint().is_some());
        let unfinished =
            "SELECT string_agg(source_table, ',') FROM irongate.load_table WHERE chunks_done < chunks";
        let open = world.ask_target(unfinished).await;
        assert!(open.contains("part_2"), "{open}");
        let job = world.ask_target("SELECT job FROM irongate.load").await;

        // Somebody's row in a table of which nothing has come.
        world.at_target("INSERT INTO part_2 VALUES (1999, 'somebody''s')").await;
        let error = loaded(&world).await.unwrap_err();
        let Error::NotEmpty { tables, .. } = &error else { panic!("{error}") };
        assert_eq!(tables, &["public.part_2"]);
        world.at_target("TRUNCATE part_2").await;

        // A right that is missing.
        let role = world.ask_target("SELECT rolname FROM pg_roles WHERE rolname LIKE '%replicat' AND rolname LIKE '%' || current_database() || '%'").await;
        world.at_target(&format!("REVOKE INSERT ON part_2 FROM {role}")).await;
        let error = loaded(&world).await.unwrap_err();
        let text = format!("{error} {}", error.hint().unwrap_or_default());
        assert!(
            !error.is_transient() && text.contains("part_2") && text.contains("permission denied"),
            "{text}"
        );
        world.at_target(&format!("GRANT INSERT ON part_2 TO {role}")).await;

        // A column that is missing.
        world.at_target("ALTER TABLE part RENAME COLUMN t TO hidden").await;
        let error = loaded(&world).await.unwrap_err();
        assert!(
            matches!(error, Error::TargetTables { .. }) && error.to_string().contains("\"t\""),
            "{error}"
        );
        world.at_target("ALTER TABLE part RENAME COLUMN hidden TO t").await;

        // A ledger that is missing is what set-up makes; what it knew is in the way then.
        world.at_target("ALTER TABLE irongate.load RENAME TO hidden").await;
        let error = loaded(&world).await.unwrap_err();
        assert!(error.hint().unwrap().contains("irongate setup"), "{error}");
        world.at_target("ALTER TABLE irongate.hidden RENAME TO load").await;

        // Somebody else at work.
        let other = world.target.admin(&world.name).await;
        let claim =
            format!("SELECT pg_advisory_lock(hashtextextended('irongate load of flow {}', 0))", world.name);
        other.batch_execute(&claim).await.unwrap();
        let error = loaded(&world).await.unwrap_err();
        assert!(error.to_string().contains("is being loaded by"), "{error}");
        other.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();

        // A table that goes while nobody keeps the snapshot, and one that changes.
        world.at_source("DROP TABLE keyless; ALTER TABLE counter ADD more int DEFAULT 7").await;
        world.at_target("ALTER TABLE counter ADD more int").await;
        let finished = "SELECT string_agg(source_table || generation, ',') FROM irongate.load_table
            WHERE chunks_done = chunks AND generation = 1";
        let before = world.ask_target(finished).await;
        let done = loaded(&world).await.unwrap();
        assert_eq!(done.job, job, "it is the same load all the time");
        assert!(done.later_tables >= 1, "{done:?}");
        let after = world.ask_target(finished).await;
        for table in before.split(',').filter(|table| !table.is_empty()) {
            assert!(after.contains(table), "{table} was finished: {before} and {after}");
        }
        let (source, target) =
            (digests(world.source, &world.name).await, digests(world.target, &world.name).await);
        for line in source.lines().filter(|line| !line.starts_with("public.counter ")) {
            assert!(target.contains(line), "{line}\n{target}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_sessions_are_made_again_and_a_lost_slot_begins_anew() {
    let (source, target) = (Server::start(server::majors()[0], ""), Server::start(server::majors()[0], ""));
    let world = World::new((&source, &target), TABLES, FLOW).await;
    world.at_source(ROWS).await;
    world.setup().await;
    half_loaded(&world).await;
    // Ended by an administrator in the middle of it, again and again; the load goes on by itself.
    let killer = world.target.admin("postgres").await;
    let killing = tokio::spawn(async move {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'irongate load %'";
        for _ in 0..3 {
            killer.batch_execute(sql).await.unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    });
    loaded(&world).await.unwrap();
    killing.await.unwrap();
    assert_eq!(digests(world.source, &world.name).await, digests(world.target, &world.name).await);
    // A slot that somebody drops under an unfinished load.
    world.at_target("TRUNCATE kinds, part, counter, keyless, parent, child, no_columns; DELETE FROM irongate.checkpoint; DELETE FROM irongate.load").await;
    half_loaded(&world).await;
    let job = world.ask_target("SELECT job FROM irongate.load").await;
    world.at_source("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots").await;
    let mut notes = Vec::new();
    let mut note = |event: Event<'_>| {
        if let Event::Note(text) = event {
            notes.push(text);
        }
    };
    let done =
        instantiate(&world.configuration, world.flow(), &Instantiate::default(), &mut note).await.unwrap();
    assert!(
        notes.iter().any(|text| text.contains(&job) && text.contains("its slot is not there")),
        "{notes:?}"
    );
    assert_eq!(done.later_tables, 0);
    assert_eq!(digests(world.source, &world.name).await, digests(world.target, &world.name).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_filters_and_partitions_are_followed() {
    for pair in pairs() {
        let flow = "tables = [\"public.*\"]\npartitions = \"root\"\n\
             [flows.NAME.instantiate]\nchunk_size = \"64KiB\"\n\
             [[flows.NAME.map]]\nsource = \"public.*\"\ntarget = \"other.*\"\n\
             [[flows.NAME.map]]\nsource = \"public.t\"\ntarget = \"other.\\\"T x\\\"\"";
        let mut world = World::new(refs(pair), "", FLOW).await;
        world.reconfigure(&flow.replace("NAME", &world.name));
        world
            .at_source(
                "CREATE TABLE t (id serial PRIMARY KEY, keep bool, secret text);
                 CREATE TABLE part (id int PRIMARY KEY, t text) PARTITION BY RANGE (id);
                 CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (1000);
                 CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (1000) TO (9000);
                 INSERT INTO t (keep, secret) SELECT g % 2 = 0, 's' FROM generate_series(1, 10) g;
                 INSERT INTO part SELECT g, repeat('x', 100) FROM generate_series(0, 8999) g",
            )
            .await;
        world
            .at_target(
                "CREATE SCHEMA other; CREATE TABLE other.\"T x\" (more int DEFAULT 5, keep bool, id serial PRIMARY KEY);
                 CREATE TABLE other.part (id int PRIMARY KEY, t text)",
            )
            .await;
        // Somebody else's publication, with a condition and a list of columns.
        let publication = world.flow().publication.clone();
        world
            .at_source(&format!(
                "CREATE PUBLICATION {publication} FOR TABLE t (id, keep) WHERE (id > 4), part WITH (publish_via_partition_root)"
            ))
            .await;
        world.setup().await;
        let done = world.instantiate().await;
        assert_eq!(done.rows, 6 + 9000);
        let chunks = "SELECT chunks > 10 AND chunks = chunks_done FROM irongate.load_table WHERE source_table = 'part'";
        assert_eq!(world.ask_target(chunks).await, "t");
        assert_eq!(
            world
                .ask_target("SELECT string_agg(id::text, ',' ORDER BY id), min(more) FROM other.\"T x\"")
                .await,
            "5,6,7,8,9,10|5"
        );
        assert_eq!(world.ask_target("SELECT count(*), sum(id) FROM other.part").await, "9000|40495500");
        assert_eq!(
            world.ask_target("SELECT nextval(pg_get_serial_sequence('other.\"T x\"', 'id'))").await,
            "11"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_target_lacks_is_listed_before_anything_is_done() {
    let world = World::new(refs(&pairs()[0]), "CREATE TABLE a (id int PRIMARY KEY, n int)", FLOW).await;
    world.at_source("CREATE TABLE b (id int PRIMARY KEY); ALTER TABLE a ADD extra text").await;
    world.at_target("ALTER TABLE a DROP n; ALTER TABLE a ADD n int GENERATED ALWAYS AS (id) STORED").await;
    world.setup().await;
    let error = instantiate(&world.configuration, world.flow(), &Instantiate::default(), &mut ignore)
        .await
        .unwrap_err();
    let text = error.to_string();
    for part in [
        "table public.b does not exist",
        "public.a has no column \"extra\"",
        "column \"n\" of table public.a is generated",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

/// The part of the tests below that runs in a process of its own, to be killed or measured: loads the flow of a
/// configuration file once and says how much memory that took at the most.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by other tests in a process of its own"]
async fn a_process_that_loads() {
    let file = std::env::var_os("IRONGATE_ORDER_CONFIGURATION").unwrap();
    let configuration = irongate_deployment::Configuration::load(file.as_ref()).unwrap();
    let flow = configuration.flows.values().next().unwrap();
    let options = Instantiate { truncate: true, ..Instantiate::default() };
    instantiate(&configuration, flow, &options, &mut ignore).await.unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    std::fs::write(configuration.state_directory.join("peak"), peak.trim().trim_end_matches(" kB")).unwrap();
}

fn loader(world: &World<'_>) -> std::process::Child {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "instantiate::a_process_that_loads", "--ignored", "--quiet"])
        .env("IRONGATE_ORDER_CONFIGURATION", world.dir.path().join("irongate.toml"))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_amount_of_rows() {
    let world = World::new(refs(&pairs()[0]), "CREATE TABLE big (id int PRIMARY KEY, t text)", FLOW).await;
    world
        .at_source("INSERT INTO big SELECT g, repeat(md5(g::text), 32768) FROM generate_series(1, 300) g")
        .await;
    world.setup().await;
    assert!(loader(&world).wait().unwrap().success());
    assert_eq!(world.ask_target("SELECT sum(octet_length(t)) FROM big").await, (300 << 20).to_string());
    let peak = std::fs::read_to_string(world.configuration.state_directory.join("peak")).unwrap();
    let peak: u64 = peak.parse().unwrap();
    assert!(peak < 128 * 1024, "{peak} KiB for 300 MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trail_of_another_site_is_not_made_here() {
    let world = World::new(refs(&pairs()[0]), TABLES, FLOW).await;
    world.setup().await;
    let elsewhere =
        irongate_deployment::Configuration { site: Some("a".into()), ..world.configuration.clone() };
    let flow = elsewhere.flow(&world.name).unwrap();
    let error = instantiate(&elsewhere, flow, &Instantiate::default(), &mut ignore).await.unwrap_err();
    assert!(matches!(error, Error::Elsewhere { .. }), "{error}");
    assert!(error.hint().unwrap().contains("site \"b\""));
}
