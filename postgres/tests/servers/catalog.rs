//! Questions to the catalogs.

use irongate_postgres::Session;
use irongate_postgres::catalog::{self, Generated, Identity, IndexKind, TableKind, TriggerFires};
use irongate_trail::{Lsn, ReplicaIdentity};

use crate::support::{Server, any_major, majors};

#[tokio::test]
async fn the_server_and_its_roles_are_described() {
    for major in majors() {
        let server =
            Server::start(major, &[("wal_sender_timeout", "12s"), ("max_slot_wal_keep_size", "3GB")], "")
                .await;
        server.run("CREATE ROLE plain REPLICATION CONNECTION LIMIT 3").await;
        let session = server.admin().await;
        let facts = catalog::server_facts(&session).await.unwrap();
        assert_eq!(facts.version_num, session.server_version_num());
        assert_eq!(facts.version, session.server_version());
        assert_eq!(facts.timeline, 1);
        assert!(!facts.in_recovery && !facts.track_commit_timestamp);
        assert_eq!(facts.wal_level, "logical");
        assert_eq!(
            (facts.max_wal_senders, facts.max_replication_slots, facts.max_replication_origins),
            (10, 10, 10)
        );
        assert_eq!((facts.wal_sender_timeout_millis, facts.max_slot_wal_keep_size_mb), (12_000, 3072));
        assert_eq!((facts.database.as_str(), facts.encoding.as_str()), ("postgres", "UTF8"));
        assert_eq!(facts.lc_collate, "C.UTF-8");
        let before = catalog::current_wal_lsn(&session).await.unwrap();
        assert!(before > Lsn::ZERO);
        server.run("CREATE TABLE x()").await;
        assert!(catalog::current_wal_flush_lsn(&session).await.unwrap() > before);
        let own = catalog::role_facts(&session, None).await.unwrap().unwrap();
        assert_eq!((own.name.as_str(), own.superuser), ("postgres", true));
        let plain = catalog::role_facts(&session, Some("plain")).await.unwrap().unwrap();
        assert!(plain.replication && !plain.superuser && !plain.login && plain.connection_limit == 3);
        assert!(catalog::role_facts(&session, Some("missing")).await.unwrap().is_none());
        assert_eq!(catalog::setting(&session, "wal_level").await.unwrap().as_deref(), Some("logical"));
        assert_eq!(catalog::setting(&session, "no_such").await.unwrap(), None);
    }
}

#[tokio::test]
async fn every_question_is_open_to_a_role_without_privileges() {
    for major in majors() {
        let server = Server::start(major, &[], "local all nobody trust").await;
        server.run(TABLES).await;
        server.run("CREATE ROLE nobody LOGIN; CREATE PUBLICATION p FOR TABLE \"Wide\"").await;
        server.run("SELECT pg_create_logical_replication_slot('s', 'pgoutput')").await;
        let session = Session::connect(&server.socket("nobody", "postgres"), "t").await.unwrap();
        assert_eq!(catalog::server_facts(&session).await.unwrap().wal_level, "logical");
        assert_eq!(catalog::role_facts(&session, None).await.unwrap().unwrap().name, "nobody");
        assert!(catalog::slot(&session, "s").await.unwrap().unwrap().confirmed_flush_lsn.is_some());
        assert_eq!(catalog::publication(&session, "p").await.unwrap().unwrap().tables.len(), 1);
        assert_eq!(catalog::tables(&session).await.unwrap().len(), 2);
        let wide = catalog::table(&session, "public", "Wide").await.unwrap().unwrap();
        let of_admin = catalog::table(&*server.admin().await, "public", "Wide").await.unwrap().unwrap();
        assert_eq!(wide, of_admin);
        assert!(catalog::current_wal_flush_lsn(&session).await.unwrap() > Lsn::ZERO);
        catalog::writers(&session).await.unwrap();
        catalog::prepared_transactions(&session).await.unwrap();
    }
}

#[tokio::test]
async fn a_standby_answers_too() {
    let primary = Server::start(any_major(), &[], "").await;
    let standby = primary.standby().await;
    let session = standby.admin().await;
    let facts = catalog::server_facts(&session).await.unwrap();
    assert!(facts.in_recovery);
    assert_eq!(facts.timeline, 1);
    let of_primary = catalog::server_facts(&*primary.admin().await).await.unwrap();
    assert_eq!(facts.system_identifier, of_primary.system_identifier);
    assert!(catalog::current_wal_lsn(&session).await.unwrap() > Lsn::ZERO);
    assert!(catalog::slots(&session).await.unwrap().is_empty());
}

#[tokio::test]
async fn slots_and_their_loss_are_seen() {
    for major in majors() {
        let server = Server::start(
            major,
            &[("max_slot_wal_keep_size", "1MB"), ("min_wal_size", "32MB"), ("max_wal_size", "32MB")],
            "",
        )
        .await;
        server
            .run(
                "SELECT pg_create_physical_replication_slot('physical');
                 SELECT pg_create_logical_replication_slot('logical', 'pgoutput');",
            )
            .await;
        let session = server.admin().await;
        let slots = catalog::slots(&session).await.unwrap();
        assert_eq!(slots.iter().map(|slot| slot.name.as_str()).collect::<Vec<_>>(), ["logical", "physical"]);
        assert_eq!(slots[0].database.as_deref(), Some("postgres"));
        assert_eq!((slots[1].plugin.as_deref(), slots[1].confirmed_flush_lsn), (None, None));
        assert_eq!(slots[0].wal_status.as_deref(), Some("reserved"));
        assert!(slots[0].catalog_xmin.is_some() && slots[0].restart_lsn.is_some());
        assert_eq!(slots[0].lost(), None);
        for _ in 0..4 {
            server.run("CREATE TABLE IF NOT EXISTS x(); SELECT pg_switch_wal();").await;
        }
        server.run("CHECKPOINT").await;
        let slot = catalog::slot(&session, "logical").await.unwrap().unwrap();
        assert_eq!(slot.wal_status.as_deref(), Some("lost"));
        assert_eq!(slot.lost(), Some("wal_removed"));
    }
}

#[tokio::test]
async fn publications_are_described_as_the_stream_will_name_their_tables() {
    for major in majors() {
        let server = Server::start(major, &[], "").await;
        server
            .run(
                "CREATE SCHEMA \"My Schema\";
                 CREATE TABLE \"My Schema\".\"T\" (a int PRIMARY KEY, b int, c int);
                 CREATE TABLE root (a int PRIMARY KEY) PARTITION BY RANGE (a);
                 CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (10);
                 CREATE PUBLICATION leaves FOR TABLE root, \"My Schema\".\"T\" (a, b) WHERE (a > 1)
                   WITH (publish = 'insert, delete');
                 CREATE PUBLICATION roots FOR TABLE root WITH (publish_via_partition_root = true);
                 CREATE PUBLICATION everything FOR ALL TABLES;
                 CREATE PUBLICATION of_schema FOR TABLES IN SCHEMA \"My Schema\";",
            )
            .await;
        let session = server.admin().await;
        let leaves = catalog::publication(&session, "leaves").await.unwrap().unwrap();
        let names = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
        };
        assert_eq!(leaves.tables, names(&[("My Schema", "T"), ("public", "leaf")]));
        assert!(leaves.publishes_insert && leaves.publishes_delete);
        assert!(
            !leaves.publishes_update && !leaves.publishes_truncate && !leaves.via_root && !leaves.all_tables
        );
        assert_eq!(leaves.owner, "postgres");
        let roots = catalog::publication(&session, "roots").await.unwrap().unwrap();
        assert_eq!(roots.tables, names(&[("public", "root")]));
        assert!(roots.via_root && roots.publishes_truncate);
        assert!(catalog::publication(&session, "everything").await.unwrap().unwrap().all_tables);
        let of_schema = catalog::publication(&session, "of_schema").await.unwrap().unwrap();
        assert_eq!(of_schema.schemas, ["My Schema"]);
        assert_eq!(of_schema.tables, names(&[("My Schema", "T")]));
        assert!(catalog::publication(&session, "missing").await.unwrap().is_none());

        let tables = catalog::publication_tables(&session, &["leaves", "roots", "missing"]).await.unwrap();
        assert_eq!(tables.len(), 3);
        assert_eq!((tables[0].name.as_str(), tables[0].publication.as_str()), ("T", "leaves"));
        assert_eq!(tables[0].columns, ["a", "b"]);
        assert_eq!(tables[0].row_filter.as_deref(), Some("(a > 1)"));
        assert_eq!(tables[1].row_filter, None);
    }
}

#[tokio::test]
async fn tables_are_found_by_pattern() {
    let server = Server::start(any_major(), &[], "").await;
    server
        .run(
            "CREATE SCHEMA app; CREATE TABLE app.orders (a int); CREATE TABLE app.order_lines (a int);
             CREATE TABLE public.orders (a int); CREATE TABLE app.\"a.b\" (a int); CREATE UNLOGGED TABLE app.cache (a int);
             CREATE VIEW app.orders_view AS SELECT 1; CREATE SEQUENCE app.orders_seq; CREATE TEMP TABLE orders_temp (a int);
             CREATE TABLE app.p (a int) PARTITION BY LIST (a); CREATE TABLE app.p1 PARTITION OF app.p DEFAULT;
             INSERT INTO app.orders VALUES (1), (2); ANALYZE app.orders;",
        )
        .await;
    let session = server.admin().await;
    let found = async |patterns: &[&str]| -> Vec<String> {
        let tables = catalog::tables_matching(&session, patterns).await.unwrap();
        tables.into_iter().map(|table| format!("{}.{}", table.schema, table.name)).collect()
    };
    assert_eq!(found(&["app.order*"]).await, ["app.order_lines", "app.orders"]);
    assert_eq!(found(&["*.orders"]).await, ["app.orders", "public.orders"]);
    assert_eq!(found(&["orders", "app.a.b"]).await, ["app.a.b", "public.orders"]);
    assert_eq!(found(&["nothing.*"]).await, Vec::<String>::new());
    let all = catalog::tables(&session).await.unwrap();
    assert_eq!(all.len(), 7);
    let of = |name: &str| all.iter().find(|table| table.schema == "app" && table.name == name).unwrap();
    assert_eq!((of("p").kind, of("p1").kind), (TableKind::Partitioned, TableKind::Ordinary));
    assert!(of("p1").is_partition && !of("p").is_partition);
    assert!(!of("cache").logged && of("orders").logged);
    assert_eq!(of("orders").estimated_rows, Some(2));
    assert_eq!(of("order_lines").estimated_rows, None);
    assert!(of("orders").bytes > 0);
}

const TABLES: &str = r#"
    CREATE EXTENSION IF NOT EXISTS plpgsql;
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE DOMAIN short AS varchar(10) NOT NULL;
    CREATE DOMAIN shorter AS short;
    CREATE DOMAIN doc AS json;
    CREATE TYPE pair AS (x int, y text);
    CREATE TYPE located AS (x int, p point);
    CREATE TABLE parent (id int PRIMARY KEY, code text UNIQUE);
    CREATE TABLE "Wide" (
        id bigint GENERATED ALWAYS AS IDENTITY,
        dropped int,
        other int GENERATED BY DEFAULT AS IDENTITY,
        twice bigint GENERATED ALWAYS AS (id * 2) STORED,
        name varchar(20) NOT NULL DEFAULT 'x',
        amount numeric(10, 2),
        d short, dd shorter, j json, jb jsonb, dj doc, xm xml, pt point, m mood, pr pair, lo located,
        ints int[], jsons json[], r int4range, doubled shorter[],
        parent_id int CONSTRAINT to_parent REFERENCES parent DEFERRABLE,
        a int, b int,
        PRIMARY KEY (name, id),
        CONSTRAINT late UNIQUE (a) DEFERRABLE INITIALLY DEFERRED,
        CONSTRAINT nulls UNIQUE NULLS NOT DISTINCT (b),
        CONSTRAINT apart EXCLUDE USING gist (r WITH &&)
    );
    ALTER TABLE "Wide" DROP COLUMN dropped;
    CREATE UNIQUE INDEX expressed ON "Wide" (lower(name), id) WHERE a > 0;
    CREATE UNIQUE INDEX including ON "Wide" (id) INCLUDE (amount);
    CREATE INDEX plain ON "Wide" (amount);
    CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
    CREATE TRIGGER normal AFTER INSERT ON "Wide" FOR EACH ROW EXECUTE FUNCTION f();
    CREATE TRIGGER always AFTER INSERT ON "Wide" FOR EACH ROW EXECUTE FUNCTION f();
    CREATE TRIGGER replica AFTER INSERT ON "Wide" FOR EACH ROW EXECUTE FUNCTION f();
    CREATE TRIGGER never AFTER INSERT ON "Wide" FOR EACH ROW EXECUTE FUNCTION f();
    ALTER TABLE "Wide" ENABLE ALWAYS TRIGGER always, ENABLE REPLICA TRIGGER replica, DISABLE TRIGGER never,
        ENABLE ROW LEVEL SECURITY;
"#;

#[tokio::test]
async fn a_table_is_described_to_its_last_column() {
    for major in majors() {
        let server = Server::start(major, &[], "").await;
        server.run(TABLES).await;
        let session = server.admin().await;
        assert!(catalog::table(&session, "public", "missing").await.unwrap().is_none());
        let wide = catalog::table(&session, "public", "Wide").await.unwrap().unwrap();
        let names: Vec<&str> = wide.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(
            names.join(" "),
            "id other twice name amount d dd j jb dj xm pt m pr lo ints jsons r doubled parent_id a b"
        );
        let column = |name: &str| wide.column(name).unwrap();
        assert_eq!(
            (column("id").identity, column("other").identity),
            (Identity::Always, Identity::ByDefault)
        );
        assert_eq!((column("id").number, column("other").number), (1, 3));
        assert_eq!(column("twice").generated, Generated::Stored);
        assert!(!column("twice").is_writable() && column("id").is_writable());
        assert!(column("name").not_null && column("name").has_default && !column("amount").has_default);
        assert_eq!(column("name").type_name, "character varying(20)");
        assert_eq!(column("name").type_modifier, 24);
        assert_eq!(column("amount").type_name, "numeric(10,2)");
        assert_eq!(column("dd").type_name, "public.shorter");
        assert_eq!(
            (column("dd").base_type_name.as_str(), column("dd").base_type_oid),
            ("character varying", 1043)
        );
        assert_eq!((column("m").type_name.as_str(), column("m").base_type_kind), ("public.mood", 'e'));
        assert_eq!((column("pr").base_type_kind, column("r").base_type_kind), ('c', 'r'));
        assert_eq!(column("ints").element_type_oid, Some(23));
        assert_eq!(column("pt").element_type_oid, None);
        let incomparable: Vec<&str> = wide
            .columns
            .iter()
            .filter(|column| !column.has_equality)
            .map(|column| column.name.as_str())
            .collect();
        assert_eq!(incomparable, ["j", "dj", "xm", "pt", "lo", "jsons"]);

        let index = |name: &str| wide.indexes.iter().find(|index| index.name == name).unwrap();
        assert_eq!(wide.indexes[0].kind, IndexKind::PrimaryKey);
        assert_eq!(wide.primary_key().unwrap().column_names().unwrap(), ["name", "id"]);
        assert_eq!(wide.identity_columns(), ["id", "name"], "in the table's order");
        let late = index("late");
        assert!(late.deferrable && !late.immediate && !late.identifies_rows());
        assert!(index("nulls").nulls_not_distinct && index("nulls").identifies_rows());
        assert_eq!(index("apart").kind, IndexKind::Exclusion);
        assert!(!index("apart").identifies_rows());
        assert!(index("expressed").partial && !index("expressed").identifies_rows());
        assert_eq!(index("expressed").columns, [None, Some("id".to_owned())]);
        assert_eq!(index("including").column_names().unwrap(), ["id"]);
        assert!(wide.indexes.iter().all(|index| index.name != "plain"));

        assert_eq!(wide.foreign_keys.len(), 1);
        let key = &wide.foreign_keys[0];
        assert_eq!((key.name.as_str(), &key.columns[..]), ("to_parent", &["parent_id".to_owned()][..]));
        assert_eq!(key.references, ("public".to_owned(), "parent".to_owned()));
        assert!(key.deferrable && key.validated);
        let triggers: Vec<_> = wide.triggers.iter().map(|t| (t.name.as_str(), t.fires)).collect();
        assert_eq!(
            triggers,
            [
                ("always", TriggerFires::Always),
                ("never", TriggerFires::Disabled),
                ("normal", TriggerFires::InOrigin),
                ("replica", TriggerFires::InReplica),
            ]
        );
        assert_eq!(wide.triggers[0].function, ("public".to_owned(), "f".to_owned()));
        assert!(wide.row_security && !wide.row_security_forced && !wide.rules);
        assert_eq!(wide.owner, "postgres");
    }
}

#[tokio::test]
async fn the_replica_identity_says_which_columns_identify_a_row() {
    let server = Server::start(any_major(), &[], "").await;
    server
        .run(
            "CREATE TABLE by_default (a int, b int PRIMARY KEY);
             CREATE TABLE keyless (a int);
             CREATE TABLE late (a int PRIMARY KEY DEFERRABLE);
             CREATE TABLE whole (a int, b json); ALTER TABLE whole REPLICA IDENTITY FULL;
             CREATE TABLE nothing (a int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
             CREATE TABLE by_index (a int PRIMARY KEY, b int NOT NULL, c int NOT NULL);
             CREATE UNIQUE INDEX i ON by_index (c, b); ALTER TABLE by_index REPLICA IDENTITY USING INDEX i;
             CREATE TABLE root (a int PRIMARY KEY) PARTITION BY RANGE (a);
             CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (9);
             CREATE RULE r AS ON DELETE TO keyless DO INSTEAD NOTHING;",
        )
        .await;
    let session = server.admin().await;
    let oids: Vec<u32> = catalog::tables(&session).await.unwrap().iter().map(|table| table.oid).collect();
    let tables = catalog::described(&session, &oids).await.unwrap();
    assert_eq!(tables.len(), 8);
    let of = |name: &str| tables.iter().find(|table| table.summary.name == name).unwrap();
    for (name, identity, columns) in [
        ("by_default", ReplicaIdentity::Default, &["b"][..]),
        ("keyless", ReplicaIdentity::Default, &[]),
        ("late", ReplicaIdentity::Default, &[]),
        ("whole", ReplicaIdentity::Full, &["a", "b"]),
        ("nothing", ReplicaIdentity::Nothing, &[]),
        ("by_index", ReplicaIdentity::Index, &["b", "c"]),
        ("leaf", ReplicaIdentity::Default, &["a"]),
    ] {
        assert_eq!(of(name).summary.replica_identity, identity, "{name}");
        assert_eq!(of(name).identity_columns(), columns, "{name}");
    }
    assert_eq!(of("leaf").partition_of, Some(("public".into(), "root".into())));
    assert_eq!(of("root").partition_of, None);
    assert!(of("keyless").rules && !of("late").rules);
}
