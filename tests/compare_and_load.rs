//! The harness's full compare finds what it should, and its write load writes what it should.

use std::time::Duration;

use irongate_tests::{Kind, Load, Server, Settings, Tables, compare, wait_for};

const SOON: Duration = Duration::from_secs(60);

/// Two databases of one server, which share nothing but the version.
async fn two_databases(major: u32) -> Server {
    let server = Server::start(major, &Settings::new()).await;
    server.create_database("a").await;
    server.create_database("b").await;
    server
}

async fn differences(server: &Server, tables: &Tables) -> Vec<(String, String, Kind)> {
    let found =
        compare(&server.socket_uri("postgres", "a"), &server.socket_uri("postgres", "b"), tables).await;
    found.differences.into_iter().map(|found| (found.table, found.key, found.kind)).collect()
}

#[tokio::test]
async fn every_kind_of_difference_is_found_and_named() {
    for major in Server::majors() {
        let server = two_databases(major).await;
        let both = "CREATE SCHEMA \"Odd schema\";
            CREATE TABLE t (id int, part text, v text, n numeric, PRIMARY KEY (id, part));
            INSERT INTO t SELECT i, 'p' || i, 'v', i FROM generate_series(1, 2000) i;
            CREATE TABLE \"Odd schema\".\"Odd \"\"table\" (id int PRIMARY KEY, \"Odd col\" bytea);
            CREATE TABLE no_key (v text);
            INSERT INTO no_key VALUES ('twice'), ('twice'), (NULL), ('');
            CREATE TABLE parted (id int PRIMARY KEY, f float8) PARTITION BY RANGE (id);
            CREATE UNLOGGED TABLE not_replicated (id int)";
        for database in ["a", "b"] {
            server.batch_in(database, both).await;
        }
        // Different partitions of the same rows are no difference.
        server.batch_in("a", "CREATE TABLE p1 PARTITION OF parted DEFAULT").await;
        server
            .batch_in(
                "b",
                "CREATE TABLE p1 PARTITION OF parted FOR VALUES FROM (1) TO (5); CREATE TABLE p2 PARTITION OF parted DEFAULT",
            )
            .await;
        for database in ["a", "b"] {
            server
                .batch_in(database, "INSERT INTO parted SELECT i, i / 3.0 FROM generate_series(1, 10) i")
                .await;
        }
        server.batch_in("b", "INSERT INTO not_replicated VALUES (1); SET timezone = 'Asia/Tokyo'").await;
        assert_eq!(differences(&server, &Tables::All).await, []);

        // An order of rows or a setting of the database is no difference either.
        server.batch_in("b", "DELETE FROM t WHERE id = 9; INSERT INTO t VALUES (9, 'p9', 'v', 9)").await;
        server
            .batch_in(
                "b",
                "ALTER DATABASE b SET datestyle = 'German'; ALTER DATABASE b SET extra_float_digits = -3",
            )
            .await;
        assert_eq!(differences(&server, &Tables::All).await, []);

        server
            .batch_in(
                "b",
                "DELETE FROM t WHERE id = 2;
                 INSERT INTO t VALUES (0, 'x,\"y', 'v', 1);
                 UPDATE t SET v = NULL, n = 5.0 WHERE id = 5;
                 UPDATE t SET v = '' WHERE id = 6;
                 UPDATE parted SET f = f + 1e-15 WHERE id = 7;
                 DELETE FROM no_key WHERE ctid = (SELECT min(ctid) FROM no_key WHERE v = 'twice');
                 UPDATE no_key SET v = NULL WHERE v = '';
                 INSERT INTO \"Odd schema\".\"Odd \"\"table\" VALUES (1, '\\x00');
                 ALTER TABLE t ADD extra int;
                 CREATE TABLE only_b (id int)",
            )
            .await;
        server.batch_in("a", "CREATE TABLE only_a (id int)").await;
        let found = differences(&server, &Tables::All).await;
        let expect = |table: &str, key: &str, kind: Kind| {
            assert!(
                found.contains(&(table.to_owned(), key.to_owned(), kind.clone())),
                "{table} {key} {kind:?}: {found:#?}"
            );
        };
        expect("public.t", "", Kind::ColumnMissingAtSource("extra".to_owned()));
        expect("public.t", "(2,p2)", Kind::MissingAtTarget);
        expect("public.t", "(0,\"x,\"\"y\")", Kind::MissingAtSource);
        expect("public.t", "(5,p5)", Kind::Different(vec!["v".to_owned(), "n".to_owned()]));
        expect("public.t", "(6,p6)", Kind::Different(vec!["v".to_owned()]));
        expect("public.parted", "(7)", Kind::Different(vec!["f".to_owned()]));
        expect("Odd schema.Odd \"table", "(1)", Kind::MissingAtSource);
        expect("public.only_a", "", Kind::TableMissingAtTarget);
        expect("public.only_b", "", Kind::TableMissingAtSource);
        let no_key: Vec<_> = found.iter().filter(|(table, ..)| table == "public.no_key").collect();
        // One of the two equal rows is gone; the empty string has become a NULL.
        assert_eq!(
            no_key.iter().filter(|(.., kind)| *kind == Kind::MissingAtTarget).count(),
            2,
            "{no_key:?}"
        );
        assert_eq!(
            no_key.iter().filter(|(.., kind)| *kind == Kind::MissingAtSource).count(),
            1,
            "{no_key:?}"
        );
        assert_eq!(found.len(), 12, "{found:#?}");
    }
}

#[tokio::test]
async fn a_renamed_table_is_compared_with_its_other_name() {
    let server = two_databases(Server::majors()[0]).await;
    server.batch_in("a", "CREATE TABLE old (id int PRIMARY KEY); INSERT INTO old VALUES (1), (2)").await;
    server.batch_in("b", "CREATE TABLE new (id int PRIMARY KEY); INSERT INTO new VALUES (1)").await;
    let tables = Tables::Pairs(vec![("public.old".to_owned(), "public.new".to_owned())]);
    let expected = ("public.old".to_owned(), "(2)".to_owned(), Kind::MissingAtTarget);
    assert_eq!(differences(&server, &tables).await, [expected]);
}

#[tokio::test]
async fn thousands_of_differences_are_cut_to_a_list_one_can_read() {
    let server = two_databases(Server::majors()[0]).await;
    for (database, v) in [("a", 1), ("b", 2)] {
        let sql = format!(
            "CREATE TABLE t AS SELECT i, {v} AS v FROM generate_series(1, 5000) i; ALTER TABLE t ADD PRIMARY KEY (i)"
        );
        server.batch_in(database, &sql).await;
    }
    let found = differences(&server, &Tables::All).await;
    assert_eq!(found.len(), 200);
    assert!(found.iter().all(|(.., kind)| matches!(kind, Kind::Different(_))));
}

const SCHEMA: &str = "
    CREATE TYPE colour AS ENUM ('red', 'green', 'it''s blue');
    CREATE DOMAIN short AS varchar(12);
    CREATE TABLE parent (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL);
    CREATE TABLE child (a int, b short, parent bigint NOT NULL REFERENCES parent ON DELETE CASCADE,
        self_a int, self_b short, c colour, PRIMARY KEY (a, b), FOREIGN KEY (self_a, self_b) REFERENCES child);
    CREATE TABLE everything (id uuid PRIMARY KEY, t1 bool, t2 smallint, t3 int, t4 bigint, t5 numeric, t6 numeric(8,2),
        t7 real, t8 float8, t9 text, t10 varchar(20), t11 char(5), t12 bytea, t13 date, t14 timestamp, t15 timestamptz,
        t16 time, t17 interval, t18 json, t19 jsonb, t20 xml, t21 bit(7), t22 varbit(9), t23 inet, t24 point,
        t25 int4range, t26 tsvector, t27 colour, t28 short, t29 int[], t30 text[], t31 colour[], t32 numrange,
        t33 numeric(3,3), doubled bigint GENERATED ALWAYS AS (t2 * 2::bigint) STORED);
    CREATE TABLE full_identity (v text, n int);
    ALTER TABLE full_identity REPLICA IDENTITY FULL;
    CREATE TABLE insert_only (v text);
    CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY HASH (id);
    CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 1)";

#[tokio::test]
async fn a_load_changes_every_table_in_every_way_and_counts_what_it_committed() {
    for major in Server::majors() {
        let server = Server::start(major, &Settings::new()).await;
        server.batch(SCHEMA).await;
        // An audit of what was committed, by the server itself.
        server
            .batch(
                "CREATE UNLOGGED TABLE audit (relation regclass, op text);
                 CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO public.audit VALUES (tg_relid, tg_op); RETURN NULL; END $$;
                 DO $$ DECLARE t regclass; BEGIN
                   FOR t IN SELECT oid FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition
                            AND relnamespace = 'public'::regnamespace AND relname <> 'audit' LOOP
                     EXECUTE format('CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION note()', t);
                   END LOOP; END $$",
            )
            .await;
        let load = Load::new(&server.socket_uri("postgres", "postgres")).bulk(1000).two_phase().start().await;
        load.commits(1500, SOON).await;
        let counts = load.stop().await;
        println!("{counts:?}");
        assert_eq!((counts.unknown, counts.reconnected), (0, 0), "{counts:?}");
        assert!(counts.rolled_back > 0, "{counts:?}");
        // Violations and deadlocks happen; values that a type refuses would be a fault of the load.
        let bad: Vec<_> = counts.failed.keys().filter(|code| !["23", "40"].contains(&&code[..2])).collect();
        assert!(bad.is_empty(), "{counts:?}");
        let failed: u64 = counts.failed.values().sum();
        assert!(failed < counts.committed / 4, "{counts:?}");
        for (op, count) in [("INSERT", counts.inserted), ("UPDATE", counts.updated)] {
            let audited =
                server.scalar("postgres", &format!("SELECT count(*) FROM audit WHERE op = '{op}'")).await;
            assert!(count > 100);
            // A key update of a partitioned table's row may be a delete and an insert.
            let moved = audited.parse::<u64>().unwrap().abs_diff(count);
            assert!(moved <= count / 50, "{op}: {audited} by the server's count, {counts:?}");
        }
        assert!(counts.deleted > 0);
        let ops = "SELECT relation, string_agg(DISTINCT op, ',' ORDER BY op) FROM audit GROUP BY 1 ORDER BY 1::text";
        for row in server.rows("postgres", ops).await {
            let expected =
                if row[0].as_deref() == Some("insert_only") { "INSERT" } else { "DELETE,INSERT,UPDATE" };
            assert_eq!(row[1].as_deref(), Some(expected), "{:?}", row[0]);
        }
        // A partitioned table's triggers fire in its two leaves.
        assert_eq!(server.scalar("postgres", "SELECT count(DISTINCT relation) FROM audit").await, "7");
        assert_eq!(server.scalar("postgres", "SELECT count(*) FROM pg_prepared_xacts").await, "0");
        assert_ne!(server.scalar("postgres", "SELECT max(length(t9)) FROM everything").await, "");
        let toasted = "SELECT count(*) > 0 FROM everything WHERE pg_column_size(t12) > 2000";
        assert_eq!(server.scalar("postgres", toasted).await, "t");
    }
}

#[tokio::test]
async fn a_load_writes_only_the_tables_it_was_given() {
    let server = Server::start(Server::majors()[0], &Settings::new()).await;
    server.batch(SCHEMA).await;
    server.batch("INSERT INTO parent (name) VALUES ('a'), ('b')").await;
    let uri = server.socket_uri("postgres", "postgres");
    let load = Load::new(&uri).tables(&["public.child"]).seed(1).start().await;
    assert_eq!(load.seed(), 1);
    load.commits(50, SOON).await;
    load.stop().await;
    assert_eq!(server.scalar("postgres", "SELECT count(*) FROM parent").await, "2");
    assert_eq!(server.scalar("postgres", "SELECT count(*) FROM everything").await, "0");
    assert_ne!(server.scalar("postgres", "SELECT count(*) FROM child").await, "0");
}

#[tokio::test]
async fn a_load_outlives_the_server_it_writes_to() {
    for major in Server::majors() {
        let mut server = Server::start(major, &Settings::new()).await;
        server.batch(SCHEMA).await;
        let load = Load::new(&server.socket_uri("postgres", "postgres")).start().await;
        load.commits(100, SOON).await;
        server.kill();
        server.start_again().await;
        load.commits(100, SOON).await;
        server.restart().await;
        load.commits(100, SOON).await;
        wait_for(SOON, "every session to be back", async || match load.counts() {
            counts if counts.reconnected >= 8 => Ok(()),
            counts => Err(format!("{counts:?}")),
        })
        .await;
        let counts = load.stop().await;
        assert!(counts.unknown >= 1 && counts.unknown <= 8, "{counts:?}");
    }
}
