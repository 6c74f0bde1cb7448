//! Extract on real servers: what arrives in the trail, and when the slot is told.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use irongate_capture::machine::SkipOrigins;
use irongate_capture::positions::Reason;
use irongate_capture::{Error, Extract, Settings as ExtractSettings, Source, Stopped, slot};
use irongate_postgres::{Endpoint, ReplicationConnection, SlotOptions};
use irongate_tests::{Mode, Server, Settings, TempDir, wait_for, wait_until};
use irongate_trail::{Begins, Directory, Item, Reader, Value};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_secs(30);
const SLOT: &str = "irongate_csp";

/// A server with a published table `t`, a slot and a trail.
struct Site {
    server: Server,
    dir: TempDir,
}

impl Site {
    async fn new(major: u32, settings: &Settings, tables: &str) -> Self {
        let server = Server::start(major, settings).await;
        server
            .batch(&format!(
                "CREATE ROLE extract LOGIN REPLICATION; {tables}; CREATE PUBLICATION csp FOR TABLE {}",
                published(tables)
            ))
            .await;
        let site = Site { server, dir: TempDir::new() };
        let mut connection = site.connection().await;
        let storage = Arc::new(Directory::create(site.trail()).unwrap());
        slot::create(&mut connection, SLOT, SlotOptions::default(), storage, "csp").await.unwrap();
        site
    }

    async fn connection(&self) -> ReplicationConnection {
        ReplicationConnection::connect(&self.endpoint(), "test").await.unwrap()
    }

    /// A role that is no superuser.
    fn endpoint(&self) -> Endpoint {
        Endpoint::parse(&self.server.socket_uri("extract", "postgres")).unwrap()
    }

    fn trail(&self) -> PathBuf {
        self.dir.path().join("csp")
    }

    /// Values as text, so that a test can read them.
    fn source(&self) -> Source {
        Source { binary: false, ..Source::new(self.endpoint(), SLOT, vec!["csp".to_owned()]) }
    }

    fn settings(&self) -> ExtractSettings {
        let mut settings =
            ExtractSettings::new("csp_e", "csp", self.source(), self.trail(), self.dir.path().join("state"));
        settings.retry_first = Duration::from_millis(100);
        settings
    }

    fn run(&self) -> Running {
        Running::start(self.settings())
    }

    /// What the trail holds, a line an item.
    fn told(&self) -> Vec<String> {
        let mut reader = Reader::open(Arc::new(Directory::new(self.trail())), Begins::First).unwrap();
        let mut lines = Vec::new();
        while let Some(item) = reader.next().unwrap() {
            lines.extend(line(&item));
        }
        lines
    }

    /// Waits until the trail holds as many transactions.
    async fn wait_for_transactions(&self, count: usize) -> Vec<String> {
        wait_for(SOON, &format!("{count} transactions"), async || {
            let told = self.told();
            let found = told.iter().filter(|line| line.starts_with("commit")).count();
            if found >= count { Ok(told) } else { Err(format!("{found}: {told:?}")) }
        })
        .await
    }

    async fn confirmed_reaches_the_end(&self) {
        let lsn = self.server.scalar("postgres", "SELECT pg_current_wal_lsn()").await;
        self.confirmed_reaches(&lsn).await;
    }

    async fn confirmed_reaches(&self, lsn: &str) {
        wait_until(SOON, &format!("the slot to be told {lsn}"), async || {
            let question = format!(
                "SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
            );
            self.server.scalar("postgres", &question).await == "t"
        })
        .await;
    }
}

/// The names after each `CREATE TABLE`.
fn published(tables: &str) -> String {
    let names = tables.split("CREATE TABLE ").skip(1).filter_map(|text| text.split([' ', '(']).next());
    names.collect::<Vec<_>>().join(", ")
}

fn line(item: &Item<'_>) -> Option<String> {
    let value = |value: Value<'_>| match value {
        Value::Null => "null".to_owned(),
        Value::Unchanged => "unchanged".to_owned(),
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Value::Binary(bytes) => format!("{bytes:?}"),
    };
    Some(match item {
        Item::Begin(begin) => {
            format!("begin{}", begin.origin.as_ref().map_or(String::new(), |o| format!(" from {o}")))
        }
        Item::Row { relation, row } => {
            let tuple = row.new().or_else(|| row.old().map(irongate_trail::Old::tuple)).unwrap();
            let values: Vec<_> = tuple.values().map(value).collect();
            format!("{} {} {}", char::from(row.operation()), relation.name, values.join(" "))
        }
        Item::Truncate { relations, .. } => {
            format!("truncate {}", relations.iter().map(|r| r.name.as_str()).collect::<Vec<_>>().join(" "))
        }
        Item::Message(message) => {
            format!("message {} {}", message.prefix, String::from_utf8_lossy(message.content))
        }
        Item::Commit(commit) => format!("commit {}", commit.changes),
        Item::Progress(_) => return None,
    })
}

/// An Extract in a task of its own.
struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<Stopped, Error>>,
}

impl Running {
    fn start(settings: ExtractSettings) -> Self {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(Extract::new(settings).run(async { _ = stopped.await }));
        Self { stop, task }
    }

    async fn stop(self) -> Stopped {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap()
    }

    /// As `kill -9` would end it, as far as a task can.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    async fn fails(self) -> Error {
        tokio::time::timeout(SOON, self.task).await.unwrap().unwrap().unwrap_err()
    }
}

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, word text)";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_arrives_in_order_and_the_slot_is_told() {
    for major in Server::majors() {
        let site = Site::new(major, &Settings::new(), TABLE).await;
        let extract = site.run();
        site.server.batch("INSERT INTO t VALUES (1, 'a'), (2, NULL)").await;
        site.server.batch("UPDATE t SET word = 'b' WHERE id = 1; DELETE FROM t WHERE id = 2").await;
        site.server.batch("TRUNCATE t; SELECT pg_logical_emit_message(true, 'p', 'hello')").await;
        let told = site.wait_for_transactions(3).await;
        let expected = [
            "begin",
            "I t 1 a",
            "I t 2 null",
            "commit 2",
            "begin",
            "U t 1 b",
            "D t 2 null",
            "commit 2",
            "begin",
            "truncate t",
            "message p hello",
            "commit 2",
        ];
        assert_eq!(told, expected, "{major}");
        site.confirmed_reaches_the_end().await;
        let stopped = extract.stop().await;
        assert_eq!(stopped.counts.transactions, 3);
        assert_eq!(site.told(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streamed_transactions_interleave_and_leave_out_what_was_rolled_back() {
    for major in Server::majors() {
        let settings = Settings::new().set("logical_decoding_work_mem", "64kB");
        let site = Site::new(major, &settings, TABLE).await;
        let extract = site.run();
        let (first, second, third) = (
            site.server.client("postgres").await,
            site.server.client("postgres").await,
            site.server.client("postgres").await,
        );
        let fill = |from: u32, to: u32| {
            format!("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series({from}, {to}) i")
        };
        first.batch_execute("BEGIN").await.unwrap();
        second.batch_execute("BEGIN").await.unwrap();
        third.batch_execute("BEGIN").await.unwrap();
        for round in 0..4 {
            let base = round * 1000;
            first.batch_execute(&fill(base, base + 999)).await.unwrap();
            second.batch_execute(&fill(100_000 + base, 100_999 + base)).await.unwrap();
            third.batch_execute(&fill(200_000 + base, 200_999 + base)).await.unwrap();
        }
        first
            .batch_execute(&format!(
                "SAVEPOINT a; {}; SAVEPOINT b; {}; ROLLBACK TO b; {}; ROLLBACK TO a; {}",
                fill(10_000, 11_999),
                fill(20_000, 21_999),
                fill(30_000, 30_099),
                fill(40_000, 40_009)
            ))
            .await
            .unwrap();
        site.server.batch("INSERT INTO t VALUES (-1, 'between')").await;
        second.batch_execute("ROLLBACK").await.unwrap();
        third.batch_execute("COMMIT").await.unwrap();
        first.batch_execute("COMMIT").await.unwrap();
        let told = site.wait_for_transactions(3).await;
        let ids = |rows: &[String]| -> Vec<i64> {
            let id = |row: &String| row.split(' ').nth(2).unwrap().parse().unwrap();
            rows.iter().filter(|row| row.starts_with('I')).map(id).collect()
        };
        let parts: Vec<_> = told.split(|line| line.starts_with("commit")).map(ids).collect();
        assert_eq!(parts[0], [-1]);
        assert_eq!(parts[1], (200_000..204_000).collect::<Vec<_>>());
        assert_eq!(parts[2], (0..4000).chain(40_000..40_010).collect::<Vec<_>>());
        let streamed =
            format!("SELECT stream_txns FROM pg_stat_replication_slots WHERE slot_name = '{SLOT}'");
        wait_until(SOON, "the server to count what it streamed", async || {
            site.server.scalar("postgres", &streamed).await.parse::<u32>().unwrap() >= 2
        })
        .await;
        extract.stop().await;
        let sides = std::fs::read_dir(site.trail())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("open-"))
            .count();
        assert_eq!(sides, 0, "nothing is left of what was rolled back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_comes_whole_at_its_commit() {
    for major in Server::majors() {
        let site = Site::new(major, &Settings::new(), TABLE).await;
        let extract = site.run();
        let prepare = |id: u32, name: &str| {
            format!("BEGIN; INSERT INTO t VALUES ({id}, 'p'); PREPARE TRANSACTION '{name}'")
        };
        let client = site.server.client("postgres").await;
        client.batch_execute(&prepare(1, "kept")).await.unwrap();
        client.batch_execute(&prepare(2, "dropped")).await.unwrap();
        client.batch_execute("INSERT INTO t VALUES (3, 'plain')").await.unwrap();
        assert_eq!(site.wait_for_transactions(1).await[1], "I t 3 plain");
        client.batch_execute("ROLLBACK PREPARED 'dropped'").await.unwrap();
        client.batch_execute("COMMIT PREPARED 'kept'").await.unwrap();
        let told = site.wait_for_transactions(2).await;
        assert_eq!(told[3..], ["begin", "I t 1 p", "commit 1"]);
        extract.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_replication_wrote_is_left_out_by_its_origin() {
    for major in Server::majors() {
        let site = Site::new(major, &Settings::new().set("logical_decoding_work_mem", "64kB"), TABLE).await;
        for skip in [SkipOrigins::Any, SkipOrigins::Named(["theirs".to_owned()].into())] {
            let is_any = skip == SkipOrigins::Any;
            let before = site.told().len();
            let mut settings = site.settings();
            settings.source.machine.skip_origins = skip;
            let extract = Running::start(settings);
            let client = site.server.client("postgres").await;
            client
                .batch_execute("TRUNCATE t; SELECT pg_replication_origin_create(o) FROM unnest(ARRAY['theirs', 'others']) o \
                    WHERE NOT EXISTS (SELECT FROM pg_replication_origin WHERE roname = o)")
                .await
                .unwrap();
            // The last is large enough to be streamed. Setting the origin up and taking it off again are transactions of
            // their own: a commit without it would make the rows local.
            for (rows, origin) in [("1, 1", "theirs"), ("2, 2", "others"), ("1000, 9000", "theirs")] {
                for statement in [
                    format!("SELECT pg_replication_origin_session_setup('{origin}')"),
                    format!("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series({rows}) i"),
                    "SELECT pg_replication_origin_session_reset()".to_owned(),
                ] {
                    client.batch_execute(&statement).await.unwrap();
                }
            }
            client.batch_execute("INSERT INTO t VALUES (3, 'own')").await.unwrap();
            let is_there = async || site.told()[before..].iter().any(|line| line == "I t 3 own");
            wait_until(SOON, "our own row", is_there).await;
            let told: Vec<_> =
                site.told()[before..].iter().map(|line| line.replace(&"x".repeat(100), "x")).collect();
            let expected: &[&str] = if is_any {
                &["begin", "truncate t", "commit 1", "begin", "I t 3 own", "commit 1"]
            } else {
                &[
                    "begin",
                    "truncate t",
                    "commit 1",
                    "begin from others",
                    "I t 2 x",
                    "commit 1",
                    "begin",
                    "I t 3 own",
                    "commit 1",
                ]
            };
            assert_eq!(told, expected, "{major}");
            extract.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_slot_advances_over_what_is_not_for_it() {
    for major in Server::majors() {
        let site = Site::new(major, &Settings::new(), TABLE).await;
        site.server.batch("CREATE TABLE unpublished (id int)").await;
        let mut settings = site.settings();
        settings.source.machine.progress_interval = Duration::from_millis(500);
        let extract = Running::start(settings);
        for round in 0..3 {
            site.server
                .batch(&format!("INSERT INTO unpublished SELECT generate_series(1, {})", 1000 + round))
                .await;
            site.confirmed_reaches_the_end().await;
        }
        let durable = extract.stop().await.mark;
        let slot =
            format!("SELECT confirmed_flush_lsn <= '{}' FROM pg_replication_slots", durable.resume_lsn);
        assert_eq!(site.server.scalar("postgres", &slot).await, "t", "the slot is never ahead of the trail");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_primary_is_let_go_at_once_and_found_again() {
    for major in Server::majors() {
        let mut site = Site::new(major, &Settings::new(), TABLE).await;
        let extract = site.run();
        site.server.batch("INSERT INTO t VALUES (1, 'before')").await;
        site.server.batch("CREATE TABLE unpublished AS SELECT generate_series(1, 10000) AS id").await;
        site.wait_for_transactions(1).await;
        let begin = Instant::now();
        site.server.stop(Mode::Fast).await;
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(2), "PostgreSQL {major} took {took:?} to stop");
        site.server.start_again().await;
        site.server.batch("INSERT INTO t VALUES (2, 'after')").await;
        let told = site.wait_for_transactions(2).await;
        assert_eq!(told, ["begin", "I t 1 before", "commit 1", "begin", "I t 2 after", "commit 1"]);
        extract.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_server_and_a_killed_extract_lose_and_repeat_nothing() {
    for major in Server::majors() {
        let settings = Settings::new().fsync(true).set("logical_decoding_work_mem", "64kB");
        let mut site = Site::new(major, &settings, TABLE).await;
        let mut extract = site.run();
        let mut next = 0;
        for round in 0..6 {
            for _ in 0..20 {
                let (id, many) = (next, if next % 7 == 3 { 2000 } else { 1 });
                site.server
                    .batch(&format!(
                        "INSERT INTO t SELECT {id} * 10000 + i, repeat('x', 100) FROM generate_series(1, {many}) i"
                    ))
                    .await;
                next += 1;
            }
            if round % 2 == 0 {
                site.server.kill();
                site.server.start_again().await;
            } else {
                extract.kill().await;
                // The lock goes with the process; a task's goes when its last thread does.
                extract = wait_for(SOON, "the lock", async || {
                    let running = site.run();
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    if running.task.is_finished() {
                        Err(format!("{:?}", running.task.await))
                    } else {
                        Ok(running)
                    }
                })
                .await;
            }
        }
        let told = site.wait_for_transactions(next).await;
        extract.stop().await;
        let ids: Vec<i64> = told
            .iter()
            .filter(|line| line.starts_with('I'))
            .map(|line| line.split(' ').nth(2).unwrap().parse().unwrap())
            .collect();
        let expected: Vec<i64> = site
            .server
            .rows("postgres", "SELECT id FROM t ORDER BY id")
            .await
            .into_iter()
            .map(|row| row[0].as_ref().unwrap().parse().unwrap())
            .collect();
        assert_eq!(ids, expected, "{major}");
        assert_eq!(told.iter().filter(|line| line.starts_with("commit")).count(), next);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_somebody_advanced_is_refused_with_a_remedy() {
    for major in Server::majors() {
        let site = Site::new(major, &Settings::new(), TABLE).await;
        site.server.batch("INSERT INTO t VALUES (1, 'lost')").await;
        site.server
            .batch(&format!("SELECT pg_replication_slot_advance('{SLOT}', pg_current_wal_lsn())"))
            .await;
        let error = site.run().fails().await;
        assert!(
            matches!(&error, Error::Refused(refusal) if matches!(refusal.reason, Reason::Ahead { .. })),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("instantiate"));
        let status =
            irongate_checkpoint::read_status(&site.dir.path().join("state"), "csp_e").unwrap().unwrap();
        assert_eq!(status.state, irongate_checkpoint::State::Abended);
        assert_eq!(status.error.unwrap().message, error.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_created_again_or_dropped_is_refused() {
    for major in Server::majors() {
        let site = Site::new(major, &Settings::new(), TABLE).await;
        site.server.batch(&format!("SELECT pg_drop_replication_slot('{SLOT}')")).await;
        let error = site.run().fails().await;
        assert!(matches!(&error, Error::Refused(refusal) if refusal.reason == Reason::Missing), "{error}");
        site.server.batch("INSERT INTO t VALUES (1, 'lost')").await;
        site.server.batch(&format!("SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")).await;
        let error = site.run().fails().await;
        assert!(
            matches!(&error, Error::Refused(refusal) if matches!(refusal.reason, Reason::Ahead { .. })),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_of_the_same_name_is_refused() {
    let major = Server::majors()[0];
    let (site, other) =
        (Site::new(major, &Settings::new(), TABLE).await, Site::new(major, &Settings::new(), TABLE).await);
    let mut settings = site.settings();
    settings.source = other.source();
    let error = Running::start(settings).fails().await;
    assert!(
        matches!(&error, Error::Refused(refusal) if matches!(refusal.reason, Reason::OtherSystem { .. })),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_publication_is_said_before_the_stream_begins() {
    for major in Server::majors() {
        let site = Site::new(major, &Settings::new(), TABLE).await;
        site.server.batch("DROP PUBLICATION csp").await;
        let error = site.run().fails().await;
        assert!(matches!(&error, Error::NoPublication { name } if name == "csp"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_is_asked_for_only_while_every_column_may_travel_so() {
    for major in Server::majors() {
        let site = Site::new(major, &Settings::new(), TABLE).await;
        let mut settings = site.settings();
        settings.source.binary = true;
        let extract = Running::start(settings);
        site.server.batch("INSERT INTO t VALUES (7, 'a')").await;
        assert_eq!(site.wait_for_transactions(1).await[1], "I t [0, 0, 0, 7] [97]");
        site.server.batch("ALTER TABLE t ADD COLUMN list int[]; INSERT INTO t VALUES (8, 'b', '{1}')").await;
        let told = site.wait_for_transactions(2).await;
        assert_eq!(told[4], "I t 8 b {1}", "an array in mid-stream turns the flow to text");
        extract.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_outside_a_transaction_comes_once() {
    for major in Server::majors() {
        let site = Site::new(major, &Settings::new(), TABLE).await;
        for _ in 0..2 {
            let extract = site.run();
            site.server.batch("SELECT pg_logical_emit_message(false, 'ping', 'x')").await;
            site.server.batch("INSERT INTO t SELECT count(*) FROM t").await;
            site.confirmed_reaches_the_end().await;
            extract.stop().await;
        }
        let told = site.told();
        assert_eq!(told.iter().filter(|line| *line == "message ping x").count(), 2, "{told:?}");
    }
}
