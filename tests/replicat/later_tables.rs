//! Tables that begin later than the stream, because their copies were made under a later snapshot than others': what the
//! copy has is left out, whichever way the changes are applied.

use std::time::Duration;

use irongate_apply::{
    Action, Conflicts, Grouping, Policies, Policy, ReplicatSettings, Rule, TableRule, conflict_setup,
    tombstone_triggers,
};
use irongate_tests::Server;
use irongate_trail::{Lsn, ReplicaIdentity};

use super::support::{Bench, LINEAGE, Op, relation, tuple};

const SCHEMA: &str = "
    CREATE TABLE early (id text PRIMARY KEY, v text);
    CREATE TABLE late (id text PRIMARY KEY, v text);
    CREATE TABLE child (id text PRIMARY KEY, early text REFERENCES early);";

/// Says in the ledger that the load of the trail's slot is done, and that a table begins at a place.
async fn begins(bench: &Bench, table: &str, place: u64) {
    for sql in irongate_checkpoint::load_setup("postgres") {
        bench.server.batch_in("target", &sql).await;
    }
    let incarnation = LINEAGE.slot_incarnation;
    let sql = format!(
        "INSERT INTO irongate.load VALUES ('f', 'j', '7', 1, '{incarnation}', '{incarnation}', 1, 0, 1, 's',
            '{incarnation}', now(), 1, 'x', now(), now()) ON CONFLICT DO NOTHING;
         INSERT INTO irongate.load_table VALUES ('f', 'public', '{table}', 'public', '{table}', 2, '{}', 1, 0, 1, 0, 0, 1)",
        Lsn(place)
    );
    bench.server.batch_in("target", &sql).await;
}

fn row(id: &str, v: &str) -> Vec<u8> {
    tuple(&[Some(id), Some(v)])
}

/// Three transactions on both tables. The copy of "late" has what the first two did, and applied again they would fail.
fn write(bench: &mut Bench) -> u64 {
    let early = relation(1, "early", ReplicaIdentity::Default, &["id!", "v"]);
    let late = relation(2, "late", ReplicaIdentity::Default, &["id!", "v"]);
    let mut ops = Vec::new();
    for relation in [&early, &late] {
        ops.push(Op::Insert(relation.clone(), row("1", "a")));
        ops.push(Op::Insert(relation.clone(), row("2", "a")));
    }
    bench.transaction(&ops);
    let ops: Vec<Op> = [&early, &late]
        .into_iter()
        .flat_map(|relation| {
            [
                Op::Delete(relation.clone(), b'K', row("1", "a")),
                Op::Update(relation.clone(), None, row("2", "b")),
            ]
        })
        .collect();
    bench.transaction(&ops);
    let place = bench.next;
    let ops: Vec<Op> = [&early, &late]
        .into_iter()
        .flat_map(|relation| {
            [Op::Update(relation.clone(), None, row("2", "c")), Op::Insert(relation.clone(), row("3", "c"))]
        })
        .collect();
    bench.transaction(&ops);
    place
}

const EXPECTED: [&str; 2] = ["(2,c)", "(3,c)"];

#[tokio::test]
async fn what_a_copy_has_is_left_out_in_sets_and_one_by_one() {
    for major in Server::majors() {
        let mut bench = Bench::new(major, SCHEMA).await;
        let place = write(&mut bench);
        begins(&bench, "late", place).await;
        for single in [false, true] {
            bench
                .server
                .batch_in("target", "TRUNCATE early, late, child; INSERT INTO late VALUES ('2', 'b')")
                .await;
            bench.begin_anew().await;
            let mut settings = bench.settings();
            if single {
                settings.grouping = Grouping { changes: 1, transactions: 1, ..settings.grouping };
            }
            let totals = bench.apply_totals(settings).await.unwrap();
            assert_eq!((totals.skipped, totals.transactions, totals.refused), (4, 3, 0));
            assert_eq!((totals.tables["public.late"].skipped, totals.tables["public.late"].inserts), (4, 1));
            assert_eq!(totals.tables["public.early"].skipped, 0);
            assert_eq!(
                (bench.rows("early").await, bench.rows("late").await),
                (EXPECTED.map(String::from).to_vec(), EXPECTED.map(String::from).to_vec())
            );
        }
        // Begun again behind the place, nothing is left out and nothing applied twice.
        let totals = bench.apply_totals(bench.settings()).await.unwrap();
        assert_eq!((totals.skipped, totals.transactions), (0, 0));
    }
}

#[tokio::test]
async fn a_table_that_was_copied_meanwhile_gets_what_the_others_have_already() {
    for major in Server::majors() {
        let mut bench = Bench::new(major, SCHEMA).await;
        let place = write(&mut bench);
        begins(&bench, "late", 0).await;
        let sql = format!(
            "UPDATE irongate.load SET others_lsn = '{}'; UPDATE irongate.load_table SET again = true;
             INSERT INTO early VALUES ('2', 'b')",
            Lsn(place)
        );
        bench.server.batch_in("target", &sql).await;
        let totals = bench.apply_totals(bench.settings()).await.unwrap();
        assert_eq!((totals.skipped, totals.transactions, totals.refused), (4, 3, 0));
        assert_eq!((totals.tables["public.early"].skipped, totals.tables["public.late"].skipped), (4, 0));
        assert_eq!(
            (bench.rows("early").await, bench.rows("late").await),
            (EXPECTED.map(String::from).to_vec(), EXPECTED.map(String::from).to_vec())
        );
        // While it is being copied it gets nothing, and the other goes on.
        let sql = "UPDATE irongate.load SET done_at = NULL, beside = true, others_lsn = NULL; TRUNCATE early, late, child";
        bench.server.batch_in("target", sql).await;
        bench.begin_anew().await;
        let totals = bench.apply_totals(bench.settings()).await.unwrap();
        assert_eq!((totals.skipped, totals.tables["public.late"].skipped), (6, 6));
        assert_eq!((bench.rows("early").await.len(), bench.rows("late").await.len()), (2, 0));
    }
}

#[tokio::test]
async fn a_refused_group_and_the_error_queue_do_not_meet_what_is_left_out() {
    let mut bench = Bench::new(Server::majors()[0], SCHEMA).await;
    let place = write(&mut bench);
    begins(&bench, "late", place).await;
    // The row that stands in the way makes the group fail; change by change it goes to the queue.
    bench
        .server
        .batch_in("target", "INSERT INTO late VALUES ('2', 'b'); INSERT INTO early VALUES ('1', 'stray')")
        .await;
    let policy = Policy { table: None, class: None, action: Action::QueueRow };
    let settings = ReplicatSettings { policies: Policies(vec![policy]), ..bench.settings() };
    let totals = bench.apply_totals(settings).await.unwrap();
    assert!(totals.refused >= 1, "{totals:?}");
    // Read twice, counted once each time that it was left out of what was applied.
    assert_eq!(totals.tables["public.late"].skipped, 4);
    assert_eq!(bench.rows("late").await, EXPECTED);
    let queued = "SELECT string_agg(DISTINCT table_name, ',') FROM irongate.error_queue";
    assert_eq!(bench.server.scalar("target", queued).await, "early");
}

#[tokio::test]
async fn conflicts_are_not_looked_for_in_what_is_left_out() {
    let mut bench = Bench::new(Server::majors()[0], SCHEMA).await;
    let key = ["id".to_owned()];
    let triggers = ["early", "late", "child"].map(|table| tombstone_triggers("public", table, &key));
    for sql in conflict_setup("postgres").into_iter().chain(triggers.into_iter().flatten()) {
        bench.server.batch_in("target", &sql).await;
    }
    let place = write(&mut bench);
    begins(&bench, "late", place).await;
    bench.server.batch_in("target", "INSERT INTO late VALUES ('2', 'b')").await;
    let conflicts = Conflicts {
        here: "b".to_owned(),
        there: "a".to_owned(),
        default: TableRule::of(Rule::Overwrite),
        tables: Vec::new(),
        tombstone_age: Duration::from_secs(3600),
    };
    let settings = ReplicatSettings { conflicts: Some(conflicts), ..bench.settings() };
    let totals = bench.apply_totals(settings).await.unwrap();
    assert_eq!(totals.skipped, 4);
    assert_eq!(bench.rows("late").await, EXPECTED);
    // The insert of a row that the copy has would be one.
    let met = "SELECT count(*) FROM irongate.conflict WHERE kind LIKE 'insert%'";
    assert_eq!(bench.server.scalar("target", met).await, "0");
}

#[tokio::test]
async fn a_truncate_empties_the_tables_whose_copies_do_not_have_it() {
    for major in Server::majors() {
        let mut bench = Bench::new(major, SCHEMA).await;
        let early = relation(1, "early", ReplicaIdentity::Default, &["id!", "v"]);
        let child = relation(3, "child", ReplicaIdentity::Default, &["id!", "early"]);
        bench.transaction(&[Op::Insert(early.clone(), row("1", "a"))]);
        bench.transaction(&[
            Op::Truncate(vec![early.clone(), child.clone()]),
            Op::Insert(early.clone(), row("2", "a")),
        ]);
        let place = bench.next;
        bench.transaction(&[Op::Insert(child.clone(), row("y", "2"))]);
        begins(&bench, "child", place).await;
        // The copy of the child is later than the TRUNCATE, and refers to what comes behind it.
        for single in [false, true] {
            let copy = "SET session_replication_role = replica; TRUNCATE early, late, child; \
                 INSERT INTO child VALUES ('x', '2')";
            bench.server.batch_in("target", copy).await;
            bench.begin_anew().await;
            let mut settings = bench.settings();
            if single {
                settings.grouping = Grouping { changes: 1, transactions: 1, ..settings.grouping };
            }
            let totals = bench.apply_totals(settings).await.unwrap();
            assert_eq!((totals.skipped, totals.refused), (1, 0));
            assert_eq!(bench.rows("early").await, ["(2,a)"]);
            assert_eq!(bench.rows("child").await, ["(x,2)", "(y,2)"]);
        }
        // Behind the place both are emptied together.
        bench.transaction(&[Op::Truncate(vec![early, child])]);
        bench.apply(bench.settings()).await.unwrap();
        assert!(bench.rows("early").await.is_empty() && bench.rows("child").await.is_empty());
    }
}

#[tokio::test]
async fn an_unfinished_load_or_one_of_another_slot_leaves_nothing_out() {
    let mut bench = Bench::new(Server::majors()[0], SCHEMA).await;
    let place = write(&mut bench);
    begins(&bench, "late", place).await;
    for change in [
        "UPDATE irongate.load SET slot_incarnation = '0/FF'",
        "UPDATE irongate.load SET system_identifier = '8'",
    ] {
        bench.server.batch_in("target", &format!("TRUNCATE early, late, child; {change}")).await;
        bench.begin_anew().await;
        let totals = bench.apply_totals(bench.settings()).await.unwrap();
        assert_eq!(totals.skipped, 0, "{change}");
        assert_eq!(bench.rows("late").await, EXPECTED);
    }
}
