//! The source's sequences in the trail: followed forward at the target, and never in the way of the rows.

use std::collections::HashMap;

use irongate_apply::{Names, Reading, ReplicatSettings, encode_sequences};
use irongate_tests::Server;
use irongate_trail::ReplicaIdentity;

use super::support::{Bench, Op, relation, tuple};

const SCHEMA: &str = r#"CREATE SCHEMA "Oth er"; CREATE TABLE t (id int PRIMARY KEY, a text);
    CREATE TABLE "Oth er"."T""" (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
    CREATE SEQUENCE plain; CREATE SEQUENCE "Oth er"."q ""1"; CREATE SEQUENCE down INCREMENT -5;
    CREATE SEQUENCE short MAXVALUE 100; CREATE SEQUENCE round MAXVALUE 100 CYCLE; CREATE SEQUENCE forbidden;
    CREATE SEQUENCE small AS smallint MAXVALUE 10; CREATE SEQUENCE edge;"#;

fn reading(name: &str, last: i64) -> Reading {
    Reading { schema: "public".into(), name: name.into(), owner: None, last, called: true }
}

fn message(readings: &[Reading]) -> Op {
    Op::Message(irongate_apply::SEQUENCE_PREFIX, encode_sequences(readings.to_vec()).into_bytes())
}

fn row(id: &str) -> Op {
    let t = relation(1, "t", ReplicaIdentity::Default, &["id!", "a"]);
    Op::Insert(t, tuple(&[Some(id), Some("a")]))
}

async fn stand(bench: &Bench, name: &str) -> String {
    bench.server.scalar("target", &format!("SELECT last_value || ' ' || is_called FROM {name}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_follow_forward_with_a_margin_and_within_their_bounds() {
    for major in Server::majors() {
        let mut bench = Bench::new(major, SCHEMA).await;
        let identity = Reading {
            owner: Some(("public".into(), "renamed".into(), "id".into())),
            ..reading("renamed_id_seq", 70)
        };
        let unused = Reading { called: false, ..reading("edge", i64::MAX - 1) };
        let odd = Reading { schema: "odd".into(), ..reading("q \"1", 5) };
        let all = [
            reading("plain", 41),
            odd,
            reading("down", -11),
            reading("short", 90),
            reading("round", 90),
            identity,
            unused,
        ];
        bench.transaction(&[message(&all)]);
        let names = Names {
            schemas: HashMap::from([("odd".to_owned(), "Oth er".to_owned())]),
            tables: HashMap::from([(
                ("public".to_owned(), "renamed".to_owned()),
                ("Oth er".to_owned(), "T\"".to_owned()),
            )]),
        };
        let settings = ReplicatSettings { names, ..bench.settings() };
        bench.apply(settings.clone()).await.unwrap();
        let expected = [
            ("plain", "1041 true"),
            (r#""Oth er"."q ""1""#, "1005 true"),
            ("down", "-5011 true"),
            ("short", "95 true"),
            ("round", "40 true"),
            (r#""Oth er"."T""_id_seq""#, "1070 true"),
            ("edge", "9223372036854775806 false"),
        ];
        for (name, stands) in expected {
            assert_eq!(stand(&bench, name).await, stands, "{name}");
        }
        // Never back; also not when the source was set back, and not by what is read again.
        bench.transaction(&[message(&[reading("plain", 7), reading("down", 3)]), row("1")]);
        bench.transaction(&[message(&[
            reading("plain", 2000),
            reading("plain", 100),
            reading("short", 100),
        ])]);
        bench.apply(settings.clone()).await.unwrap();
        assert_eq!(stand(&bench, "plain").await, "3000 true");
        assert_eq!(stand(&bench, "down").await, "-5011 true");
        assert_eq!(stand(&bench, "short").await, "100 true");
        bench.begin_anew().await;
        bench.server.batch_in("target", "DELETE FROM t").await;
        bench.apply(settings).await.unwrap();
        assert_eq!(stand(&bench, "plain").await, "3000 true");
        assert_eq!(bench.rows("t").await, ["(1,a)"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_that_cannot_follow_is_in_nobodys_way() {
    let mut bench = Bench::new(Server::majors()[0], SCHEMA).await;
    let roles = "CREATE ROLE applier LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public, irongate TO applier;
        GRANT USAGE ON SCHEMA irongate TO applier; GRANT ALL ON SEQUENCE plain, small TO applier;
        GRANT ALL ON ALL FUNCTIONS IN SCHEMA pg_catalog TO applier; GRANT SET ON PARAMETER session_replication_role TO applier";
    bench.server.batch_in("target", roles).await;
    let left = [reading("missing", 5), reading("forbidden", 5), reading("small", 11), reading("plain", 5)];
    let garbage = Op::Message(irongate_apply::SEQUENCE_PREFIX, b"{\"version\":9}".to_vec());
    bench.transaction(&[row("1"), message(&left), garbage, row("2")]);
    bench.transaction(&[message(&[reading("missing", 6)])]);
    // In pieces, so that the sequences come while a transaction is open.
    let mut settings = bench.settings();
    settings.grouping.changes = 1;
    let rows: Vec<Op> = (10..30).map(|id| row(&id.to_string())).collect();
    bench.transaction(
        &[&rows[..], &[message(&[reading("plain", 50), reading("missing", 7)])], &rows[..0]].concat(),
    );
    let address = bench.server.socket_uri("applier", "target");
    settings.target = address.parse().unwrap();
    let totals = bench.apply_totals(settings).await.unwrap();
    assert_eq!(totals.sequences_left, 5, "{totals:?}");
    assert_eq!(totals.refused, 0, "{totals:?}");
    assert_eq!(bench.rows("t").await.len(), 22);
    assert_eq!(stand(&bench, "plain").await, "1050 true");
    assert_eq!(stand(&bench, "small").await, "1 false");
    assert_eq!(stand(&bench, "forbidden").await, "1 false");
}
