//! Changes that the target refuses: found to the row, and treated as their policy says.

use std::sync::Arc;
use std::time::Duration;

use irongate_apply::{
    Action, Conflicts, Error, MISSING, Policies, Policy, Replicat, ReplicatSettings, RowError, Rule,
    TableRule, conflict_setup, tombstone_triggers,
};
use irongate_tests::Server;
use irongate_trail::{
    CommitLsn, Directory, Lineage, Lsn, Relation, ReplicaIdentity, ResumeLsn, Timestamp, Writer,
    WriterOptions,
};

use super::support::{Bench, Op, relation, tuple};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, a varchar(5) CHECK (a <> 'bad'));
                      CREATE TABLE u (id int PRIMARY KEY, a text);";

fn t() -> Arc<Relation> {
    relation(1, "t", ReplicaIdentity::Default, &["id!", "a"])
}

fn insert(id: &str, a: &str) -> Op {
    Op::Insert(t(), tuple(&[Some(id), Some(a)]))
}

fn policy(class: &str, action: Action) -> Policies {
    Policies(vec![Policy { table: None, class: Some(class.to_owned()), action }])
}

async fn bench() -> Bench {
    Bench::new(Server::majors()[0], SCHEMA).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_the_change_and_no_value_and_leaves_what_was_before_it() {
    let mut bench = bench().await;
    bench.transaction(&[insert("1", "one")]);
    bench.transaction(&[insert("2", "two"), insert("3", "bad"), insert("4", "four")]);
    bench.transaction(&[insert("5", "five")]);
    let error = bench.apply(bench.settings()).await.unwrap_err();
    let Error::Row { table, ordinal, commit, reason, .. } = &error else { panic!("{error}") };
    assert_eq!((table.as_str(), *ordinal, *commit), ("public.t", 2, CommitLsn(Lsn(0x2100))));
    assert_eq!(reason.class(), "23514");
    assert!(!error.to_string().contains("bad"), "{error}");
    assert!(error.hint().is_some() && !error.is_transient());
    assert_eq!(bench.rows("t").await, ["(1,one)"]);
    // Mended, it goes on where it stopped.
    bench.server.batch_in("target", "ALTER TABLE t DROP CONSTRAINT t_a_check").await;
    bench.apply(bench.settings()).await.unwrap();
    assert_eq!(bench.rows("t").await, ["(1,one)", "(2,two)", "(3,bad)", "(4,four)", "(5,five)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_too_long_for_the_target_is_refused_and_never_cut() {
    let mut bench = bench().await;
    bench.transaction(&[insert("1", "sixsix")]);
    let error = bench.apply(bench.settings()).await.unwrap_err();
    assert!(
        matches!(&error, Error::Row { reason: RowError::Server { code, .. }, .. } if code == "22001"),
        "{error}"
    );
    assert!(!error.to_string().contains("sixsix"), "{error}");
    assert!(bench.rows("t").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_of_a_row_that_is_not_there_is_refused() {
    let mut bench = bench().await;
    bench.transaction(&[Op::Update(t(), None, tuple(&[Some("9"), Some("x")]))]);
    let error = bench.apply(bench.settings()).await.unwrap_err();
    assert!(matches!(&error, Error::Row { reason: RowError::Missing, .. }), "{error}");
    let mut settings = bench.settings();
    settings.policies = policy(MISSING, Action::Ignore);
    bench.apply(settings).await.unwrap();
    assert!(bench.rows("t").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_row_is_shown_replayed_and_never_applied_twice() {
    let mut bench = bench().await;
    bench.transaction(&[insert("1", "one"), insert("2", "bad"), insert("3", "three")]);
    bench.transaction(&[Op::Delete(t(), b'K', tuple(&[Some("8"), None]))]);
    let mut settings = bench.settings();
    settings.policies = Policies(vec![Policy { table: None, class: None, action: Action::QueueRow }]);
    bench.apply(settings.clone()).await.unwrap();
    assert_eq!(bench.rows("t").await, ["(1,one)", "(3,three)"]);
    let client = bench.server.client("target").await;
    let queued = irongate_apply::list(&client, "f", false).await.unwrap();
    assert_eq!(queued.iter().map(|q| q.class.as_str()).collect::<Vec<_>>(), ["23514", MISSING]);
    let shown = irongate_apply::show(&client, "f", queued[0].id).await.unwrap().unwrap();
    assert_eq!(shown.new_row.unwrap()["a"], "bad");
    // Still refused: stays queued.
    let error = irongate_apply::replay(&settings, Some(&[queued[0].id])).await.unwrap_err();
    assert!(matches!(error, Error::Row { .. }), "{error}");
    bench
        .server
        .batch_in("target", "ALTER TABLE t DROP CONSTRAINT t_a_check; INSERT INTO t VALUES (8, 'x')")
        .await;
    assert_eq!(irongate_apply::replay(&settings, None).await.unwrap(), 2);
    assert_eq!(irongate_apply::replay(&settings, None).await.unwrap(), 0);
    assert_eq!(bench.rows("t").await, ["(1,one)", "(2,bad)", "(3,three)"]);
    // Applied again from the same trail, nothing happens: the checkpoint stands behind it.
    bench.apply(settings).await.unwrap();
    assert_eq!(irongate_apply::list(&client, "f", false).await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_transaction_is_queued_whole() {
    let mut bench = bench().await;
    bench.transaction(&[insert("1", "one")]);
    bench.transaction(&[insert("2", "two"), insert("3", "bad")]);
    bench.transaction(&[insert("4", "four")]);
    let mut settings = bench.settings();
    settings.policies = policy("23", Action::QueueTransaction);
    bench.apply(settings.clone()).await.unwrap();
    assert_eq!(bench.rows("t").await, ["(1,one)", "(4,four)"]);
    let client = bench.server.client("target").await;
    let queued = irongate_apply::list(&client, "f", false).await.unwrap();
    assert_eq!(queued.iter().map(|q| q.ordinal).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(irongate_apply::skip(&client, "f", None).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_column_stops_with_the_statement_that_mends_it() {
    let mut bench = bench().await;
    let wider = relation(1, "t", ReplicaIdentity::Default, &["id!", "a", "extra"]);
    bench.transaction(&[Op::Insert(wider, tuple(&[Some("1"), Some("one"), Some("more")]))]);
    let error = bench.apply(bench.settings()).await.unwrap_err();
    let Error::MissingColumns { fix, .. } = &error else { panic!("{error}") };
    assert!(error.to_string().contains("\"extra\"") && error.to_string().contains("public.t"), "{error}");
    bench.server.batch_in("target", fix).await;
    bench.apply(bench.settings()).await.unwrap();
    assert_eq!(bench.rows("t").await, ["(1,one,more)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_stops_and_names_it() {
    let mut bench = bench().await;
    let gone = relation(9, "gone", ReplicaIdentity::Default, &["id!"]);
    bench.transaction(&[Op::Insert(gone, tuple(&[Some("1")]))]);
    let error = bench.apply(bench.settings()).await.unwrap_err();
    assert!(error.to_string().contains("public.gone"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_both_sites_write_a_commit_of_the_future_is_waited_for_and_a_wrong_clock_is_an_error() {
    let mut bench = bench().await;
    for sql in
        conflict_setup("postgres").into_iter().chain(tombstone_triggers("public", "t", &["id".to_owned()]))
    {
        bench.server.batch_in("target", &sql).await;
    }
    let conflicts = Conflicts {
        here: "b".to_owned(),
        there: "a".to_owned(),
        default: TableRule::of(Rule::Latest),
        tables: Vec::new(),
        tombstone_age: Duration::from_secs(3600),
    };
    let settings = ReplicatSettings { conflicts: Some(conflicts), ..bench.settings() };
    let later = |micros: i64| Timestamp(Timestamp::now().0 + micros);
    bench.transaction_at(later(1_500_000), &[insert("1", "soon")]);
    bench.apply(settings.clone()).await.unwrap();
    // A local change of the row is later than the row, whatever the two clocks say.
    bench.server.batch_in("target", "UPDATE t SET a = 'local' WHERE id = 1").await;
    bench.transaction_at(later(120_000_000), &[insert("2", "late")]);
    let error = bench.apply(settings).await.unwrap_err();
    assert!(matches!(error, Error::ClockAhead { seconds: 110..=120 }), "{error}");
    assert!(error.is_transient() && error.hint().unwrap().contains("clocks"), "{error}");
    assert_eq!(bench.rows("t").await, ["(1,local)"]);
    let waited =
        "SELECT pg_xact_commit_timestamp(xmin) > (SELECT commit_time FROM irongate.checkpoint) FROM t";
    assert_eq!(bench.server.scalar("target", waited).await, "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_into_its_own_source_is_refused_before_a_row_is_written() {
    use irongate_checkpoint::{Applied, CheckpointTable, State, read_status};
    let bench = bench().await;
    let client = bench.server.client("target").await;
    let identity = irongate_postgres::catalog::database_identity(&client).await.unwrap();
    let lineage = Lineage { system_identifier: identity.system_identifier, ..Lineage::default() };
    let trail = bench.dir.path().join("own");
    let storage = Arc::new(Directory::create(&trail).unwrap());
    drop(Writer::create(storage, WriterOptions::new("f", lineage), ResumeLsn(Lsn(0x1000))).unwrap());
    let table = CheckpointTable::prepare(&client, "f").await.unwrap();
    table.remove(&client).await.unwrap();
    let applied = Applied { lineage, end_lsn: ResumeLsn(Lsn(0x1000)), epoch: 1, ..Applied::default() };
    table.initialise(&client, &applied).await.unwrap();
    let with_source = |database: &str| {
        let source = bench.server.uri("postgres", database).parse().unwrap();
        ReplicatSettings { trail: trail.clone(), source: Some(source), ..bench.settings() }
    };
    let stop = || tokio::time::sleep(Duration::from_secs(2));
    // By another address than the target's: over TCP, and not by the socket.
    let error = Replicat::new(with_source("target")).run(stop()).await.unwrap_err();
    assert!(matches!(&error, Error::OwnSource { .. }) && !error.is_transient(), "{error}");
    assert!(error.to_string().contains(&format!("{}", bench.server.port())), "{error}");
    let status = read_status(&bench.dir.path().join("state"), "f-replicat").unwrap().unwrap();
    assert_eq!(status.state, State::Abended);
    // Another database of the same cluster is none of its own, and a source that is silent is no reason to stop.
    Replicat::new(with_source("postgres")).run(stop()).await.unwrap();
    let silent = "host=127.0.0.1 port=1 user=nobody dbname=nothing".parse().unwrap();
    let settings = ReplicatSettings { source: Some(silent), ..with_source("postgres") };
    Replicat::new(settings).run(stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replicat_that_abends_at_once_is_shown_where_the_one_before_was() {
    use irongate_checkpoint::read_status;
    let mut bench = bench().await;
    for id in 1..=5 {
        bench.transaction(&[insert(&id.to_string(), "good")]);
    }
    let state = bench.dir.path().join("state");
    let stop = || tokio::time::sleep(Duration::from_secs(2));
    Replicat::new(bench.settings()).run(stop()).await.unwrap();
    let before = read_status(&state, "f-replicat").unwrap().unwrap().position.unwrap();
    bench.transaction(&[insert("6", "bad")]);
    for _ in 0..2 {
        Replicat::new(bench.settings()).run(stop()).await.unwrap_err();
        let after = read_status(&state, "f-replicat").unwrap().unwrap();
        assert!(after.position.unwrap() >= before, "{:?} and {before:?}", after.position);
        assert!(after.commit_lsn.is_some(), "so that the watch can say how far it is behind");
    }
}
