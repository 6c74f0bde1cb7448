//! The feed: changes as events, read back by a consumer that is not ours (librdkafka), and what becomes of them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use irongate_tests::{Kafka, KafkaSettings, Plan, Reference, Server, Tier, wait_for};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::trail::{Dice, seed};

const PATIENCE: Duration = Duration::from_secs(120);
/// Tables of every kind of key; `kinds` has a column of each type whose events are no plain text.
const TABLES: &str = "
    CREATE TABLE item (id int PRIMARY KEY, word text, big text);
    ALTER TABLE item ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE two (b text, a int, v int, PRIMARY KEY (b, a));
    CREATE TABLE whole (id int PRIMARY KEY, word text, big text);
    ALTER TABLE whole REPLICA IDENTITY FULL;
    ALTER TABLE whole ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE keyless (word text);
    CREATE TABLE hidden (id int PRIMARY KEY, n numeric);
    CREATE TYPE mood AS ENUM ('sad', 'happy');
    CREATE DOMAIN price AS numeric(10, 2);
    CREATE TABLE kinds (id int PRIMARY KEY, i2 int2, i8 int8, f4 float4, f8 float8, n numeric, n2 numeric(12, 3), t bool,
        d date, ts timestamp, ts3 timestamp(3), tz timestamptz, tm time, tm3 time(3), tzt timetz, iv interval, u uuid, j jsonb,
        x xml, y bytea, b1 bit, b5 bit(5), vb varbit, m mood, p price, mo money, ip inet, o oid, pt point, r int4range,
        ai int[], at text[], am mood[], an numeric(10, 2)[], atz timestamptz[], ai2 int[])";
const KINDS: &str = r#"INSERT INTO kinds VALUES (1, 2, 9007199254740993, 1.5, 'NaN', 12345678901234567890.123, -1.5, true,
    '2024-02-29', '2024-02-29 12:34:56.123456', '2024-02-29 12:34:56.123', '2024-02-29 12:34:56.1+02', '12:34:56.789012',
    '12:34:56.789', '12:34:56.5+02:30', '1 year 2 mons 3 days 04:05:06.789', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
    '{"b": null}', '<a>b</a>', '\xdeadbeef', '1', '10101', '110000000001', 'happy', 12.5, '-1234.56', '10.1.2.3/24',
    4000000000, '(1.5,-2)', '[1,5)', '{1,NULL,3}', '{a,"b c",NULL,"q\"x"}', '{happy,sad}', '{1.5,2}',
    '{"2024-02-29 12:34:56+00"}', '{{1,2},{3,4}}')"#;

/// One record of a topic.
#[derive(Clone, PartialEq, Debug)]
struct Record {
    key: Value,
    value: Value,
    header: Value,
}

/// Every record of every topic that begins so, by topic and partition.
fn consume(kafka: &Kafka, prefix: &str) -> BTreeMap<(String, i32), Vec<Record>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.brokers().join(","))
        .set("group.id", "somebody")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let all = consumer.fetch_metadata(None, Duration::from_secs(30)).unwrap();
    let mut found = BTreeMap::new();
    for topic in all.topics().iter().filter(|topic| topic.name().contains(prefix)) {
        for partition in topic.partitions() {
            let (_, high) =
                consumer.fetch_watermarks(topic.name(), partition.id(), Duration::from_secs(30)).unwrap();
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic.name(), partition.id(), Offset::Beginning).unwrap();
            consumer.assign(&list).unwrap();
            let mut records = Vec::new();
            let mut next = 0;
            while next < high {
                let message = consumer.poll(Duration::from_secs(30)).expect("there is more").unwrap();
                next = message.offset() + 1;
                let json =
                    |bytes: Option<&[u8]>| bytes.map_or(Value::Null, |b| serde_json::from_slice(b).unwrap());
                let header = message.headers().map(|headers| headers.get(0));
                let header = header.map_or(Value::Null, |header| json!([header.key, json(header.value)]));
                records.push(Record { key: json(message.key()), value: json(message.payload()), header });
            }
            found.insert((topic.name().to_owned(), partition.id()), records);
        }
    }
    found
}

/// What an event is, whenever it was told.
fn timeless(record: &Record) -> Record {
    let mut record = record.clone();
    for time in ["ts_ms", "ts_us", "ts_ns"] {
        if let Some(value) = record.value.as_object_mut() {
            value.remove(time);
        }
    }
    record
}

/// What was told, each once. Behind a kill a piece of the end comes again, whole and in the same order, and nothing else.
fn once(topic: &str, records: &[Record]) -> (Vec<Record>, usize) {
    let mut told: Vec<Record> = Vec::new();
    // Where each was told first; a tombstone is like any other of its key.
    let mut places = HashMap::new();
    let (mut at, mut repeats) = (0, 0);
    for record in records.iter().map(timeless) {
        let text = format!("{} {}", record.key, record.value);
        let known = places.get(&text).copied().filter(|_| !record.value.is_null());
        if at < told.len() && told[at] == record {
            (at, repeats) = (at + 1, repeats + 1);
        } else if let Some(back) = known.filter(|place| *place < at) {
            (at, repeats) = (back + 1, repeats + 1);
        } else {
            assert_eq!(at, told.len(), "{topic}: {record:?} comes within what is told again");
            places.insert(text, at);
            told.push(record);
            at += 1;
        }
    }
    assert_eq!(at, told.len(), "{topic}: what was told again breaks off");
    (told, repeats)
}

/// The order of an event: commit and number.
fn sequence(record: &Record) -> Option<(u64, u64)> {
    let [commit, number]: [String; 2] =
        serde_json::from_str(record.value["source"]["sequence"].as_str()?).unwrap();
    Some((commit.parse().unwrap(), number.parse().unwrap()))
}

/// What a table is after these events: rows by key.
fn replay(topic: &str, told: &[Record]) -> BTreeMap<String, Value> {
    let mut rows = BTreeMap::new();
    let mut last = (0, 0);
    for record in told {
        let Some(now) = sequence(record) else {
            assert!(record.value.is_null(), "{record:?}");
            assert!(!rows.contains_key(&record.key.to_string()), "a tombstone of what is there");
            continue;
        };
        assert!(now > last, "{topic}: {now:?} comes behind {last:?}");
        last = now;
        let key = record.key.to_string();
        match record.value["op"].as_str().unwrap() {
            "c" => assert!(rows.insert(key, record.value["after"].clone()).is_none(), "{record:?}"),
            "u" => {
                let mut after = record.value["after"].clone();
                let known = rows.get(&key).unwrap_or_else(|| panic!("{record:?}")).clone();
                for (column, value) in after.as_object_mut().unwrap() {
                    if value == "__debezium_unavailable_value" {
                        *value = known[column].clone();
                    }
                }
                rows.insert(key, after);
            }
            "d" => assert!(rows.remove(&key).is_some(), "{record:?}"),
            "t" => rows.clear(),
            other => panic!("{other}"),
        }
    }
    rows
}

/// One transaction of a load over keys of a small range. A key changes to one that was never there, and big values stay by
/// the key.
fn transaction(dice: &mut Dice, fresh: &mut u64) -> String {
    let mut sql = "BEGIN;".to_owned();
    for _ in 0..=dice.below(6) {
        let table = ["item", "whole"][dice.below(2) as usize];
        let id = dice.below(30);
        *fresh += 1;
        sql += &match dice.below(9) {
            0 => format!("DELETE FROM {table} WHERE id = {id};"),
            1 => format!(
                "DELETE FROM {table} WHERE id = {id}; INSERT INTO {table} VALUES ({id}, 'again {fresh}', NULL);"
            ),
            2 => format!(
                "INSERT INTO two VALUES ('x', {id}, 1) ON CONFLICT (b, a) DO UPDATE SET v = two.v + 1;"
            ),
            3 => format!("UPDATE two SET b = 'y{fresh}' WHERE a = {id} AND b = 'x';"),
            4 => format!("INSERT INTO keyless VALUES ('{fresh}');"),
            5 => format!("UPDATE {table} SET big = repeat('{fresh} ', 600) WHERE id = {id};"),
            _ => format!(
                "INSERT INTO {table} VALUES ({id}, 'word {fresh}', repeat('{fresh} ', 600)) ON CONFLICT (id) DO UPDATE SET word = excluded.word;"
            ),
        };
    }
    sql + if dice.below(8) == 0 { "ROLLBACK" } else { "COMMIT" }
}

fn section(kafka: &Kafka) -> String {
    format!(
        "[kafka]\nbrokers = [\"{}\"]\ntls = false\nreplication = 1\ntimeout = \"2s\"\nretry_delay = \"50ms\"\n\
         retry_longest_delay = \"500ms\"\n[manager.restart]\ndelay = \"50ms\"\nlongest_delay = \"200ms\"\nattempts = 10000\n",
        kafka.brokers()[0]
    )
}

async fn feed(reference: &Reference) -> Value {
    reference.json("main", &["info", "csp-feed"]).await["groups"][0].clone()
}

async fn says(reference: &Reference, words: &str) -> Value {
    wait_for(PATIENCE, &format!("the feed to say \"{words}\""), async || {
        let it = feed(reference).await;
        if it.to_string().contains(words) { Ok(it) } else { Err(it.to_string()) }
    })
    .await
}

/// Waits until everything up to now has been acknowledged.
async fn told_all(reference: &Reference, mark: u64) {
    reference.servers[0].batch_in("config", &format!("INSERT INTO entry VALUES ('mark', {mark})")).await;
    let end = reference.servers[0].scalar("config", "SELECT pg_current_wal_lsn() - '0/0'").await;
    let end: u64 = end.parse().unwrap();
    wait_for(PATIENCE, "everything to be told", async || {
        let status = std::fs::read(reference.directory.path().join("state-main/csp-feed.status.json"))
            .unwrap_or_default();
        let status: Value = serde_json::from_slice(&status).unwrap_or_default();
        let reached = status["resume_lsn"].as_str().and_then(|lsn| lsn.parse::<irongate_trail::Lsn>().ok());
        let reached = reached.map_or_else(|| status["resume_lsn"].as_u64().unwrap_or_default(), |lsn| lsn.0);
        if reached >= end && status["doing"] == "waiting for changes" {
            Ok(())
        } else {
            Err(format!("{end}: {status}"))
        }
    })
    .await;
}

/// Waits until the feed is behind as it should be.
async fn behind(reference: &Reference, what: &str, holds: impl Fn(u64) -> bool) {
    wait_for(PATIENCE, &format!("the feed to be behind by {what}"), async || {
        let lag = reference.json("main", &["lag", "csp"]).await;
        let feed = &lag["flows"][0]["feed"];
        match feed["lag_bytes"].as_u64() {
            Some(bytes) if holds(bytes) && feed["lag_seconds"].is_number() => Ok(()),
            _ => Err(lag.to_string()),
        }
    })
    .await;
}

async fn ends(manager: &mut irongate_tests::Process) {
    manager.terminate();
    assert!(manager.wait(PATIENCE).await.success(), "{}", manager.stderr());
}

async fn replays_to_the_tables_content(major: u32) {
    let seed = seed();
    let mut dice = Dice(seed ^ u64::from(major));
    // Every acknowledged record is on the disk: the kill of the broker is then that of its machine.
    let mut kafka = Kafka::start(&KafkaSettings::new().set("log.flush.interval.messages", 1)).await;
    let more = section(&kafka)
        + "[flows.csp.key_columns]\n\"public.whole\" = [\"id\"]\n\
           [flows.csp.feed]\ntruncates = true\ntransactions = true\nheartbeat = \"1s\"\nnumerics = \"precise\"\n\
           exclude = [\"public.hidden\"]\npartitions = 2\n";
    let reference = Plan::new(major).tables(TABLES, "").more(&more).make().await;
    let mut manager = reference.start("main", &["manager"]);
    let source = &reference.servers[0];
    source.batch_in("config", KINDS).await;
    source.batch_in("config", "INSERT INTO hidden VALUES (1, 'NaN')").await;
    let mut fresh = 0;
    let rounds = Tier::pick(2, 4, 60);
    for round in 0..rounds {
        for _ in 0..40 {
            source.batch_in("config", &transaction(&mut dice, &mut fresh)).await;
        }
        if round == 1 {
            source.batch_in("config", "TRUNCATE keyless").await;
        }
        let it = says(&reference, "RUNNING").await;
        let writes = source
            .batch_in("config", "INSERT INTO keyless SELECT 'many ' || n FROM generate_series(1, 1500) n");
        let kills = async {
            tokio::time::sleep(Duration::from_millis(dice.below(600))).await;
            if round % 2 == 1 {
                kafka.kill(0);
                if round % 4 == 1 {
                    says(&reference, "Kafka at").await;
                }
                tokio::time::sleep(Duration::from_millis(dice.below(500))).await;
            }
            if let Some(pid) = it["pid"].as_i64().and_then(|pid| Pid::from_raw(pid as i32)) {
                let _ = kill_process(pid, Signal::KILL);
            }
            if round % 2 == 1 {
                tokio::task::block_in_place(|| kafka.start_again(0));
            }
        };
        tokio::join!(writes, kills);
    }
    told_all(&reference, 1).await;
    let stats = reference.json("main", &["info", "csp-feed"]).await;
    assert_eq!(stats["groups"][0]["program"], "feed", "{stats}");
    // How far it is behind is a stage of its own, also while it is stopped.
    behind(&reference, "nothing", |bytes| bytes == 0).await;
    reference.json("main", &["stop", "csp-feed"]).await;
    source.batch_in("config", "INSERT INTO keyless VALUES ('nobody is told')").await;
    behind(&reference, "what is new", |bytes| bytes > 0).await;
    reference.json("main", &["start", "csp-feed"]).await;
    behind(&reference, "nothing again", |bytes| bytes == 0).await;
    told_all(&reference, 2).await;
    ends(&mut manager).await;

    let topics = tokio::task::block_in_place(|| consume(&kafka, "shop.config"));
    let names: Vec<_> = topics.keys().map(|(name, _)| name.as_str()).collect();
    assert!(
        names.contains(&"__debezium-heartbeat.shop.config")
            && !names.iter().any(|name| name.contains("hidden")),
        "{names:?}"
    );
    let (mut repeats, mut by_table) = (0, BTreeMap::<String, usize>::new());
    for table in ["item", "two", "whole", "keyless", "kinds"] {
        let mut rows = BTreeMap::new();
        for partition in 0..2 {
            let topic = format!("shop.config.public.{table}");
            let (told, again) = once(&topic, &topics[&(topic.clone(), partition)]);
            repeats += again;
            *by_table.entry(format!("public.{table}")).or_default() +=
                told.iter().filter(|record| !record.value.is_null()).count();
            if table == "keyless" {
                assert!(
                    partition == 0 || told.is_empty(),
                    "the order of a table without a key is that of one partition"
                );
                continue;
            }
            let part = replay(&topic, &told);
            assert!(part.keys().all(|key| !rows.contains_key(key)), "a key is in one partition");
            rows.extend(part);
            for moved in told.iter().filter(|record| !record.header.is_null()) {
                assert!(moved.header[0].as_str().unwrap().starts_with("__debezium."), "{moved:?}");
            }
        }
        if ["keyless", "kinds"].contains(&table) {
            continue;
        }
        let found: BTreeMap<String, Value> = source
            .rows("config", &format!("SELECT to_jsonb({table}) FROM {table}"))
            .await
            .into_iter()
            .map(|row| serde_json::from_str::<Value>(row[0].as_ref().unwrap()).unwrap())
            .map(|row| {
                let key = if table == "two" {
                    json!({"b": row["b"], "a": row["a"]})
                } else {
                    json!({"id": row["id"]})
                };
                (key.to_string(), row)
            })
            .collect();
        assert_eq!(rows, found, "table {table}, seed {seed}");
    }
    println!("PostgreSQL {major}: {by_table:?}, told again: {repeats}");
    // Every transaction is told from its begin to its end, and its end counts what was told.
    let (told, _) = once("transactions", &topics[&("shop.config.transaction".to_owned(), 0)]);
    let mut counted = BTreeMap::<String, usize>::new();
    for pair in told.chunks(2) {
        assert_eq!((&pair[0].value["status"], &pair[1].value["status"]), (&json!("BEGIN"), &json!("END")));
        assert_eq!(pair[0].key, pair[1].key);
        for of_table in pair[1].value["data_collections"].as_array().unwrap() {
            let name = of_table["data_collection"].as_str().unwrap().to_owned();
            *counted.entry(name).or_default() += of_table["event_count"].as_u64().unwrap() as usize;
        }
    }
    counted.remove("public.entry");
    assert_eq!(counted, by_table);
    // What Debezium makes of the same row: tests of the mapping have it from there.
    let kinds =
        topics.iter().filter(|((name, _), _)| name.ends_with("kinds")).flat_map(|(_, records)| records);
    let kinds = &kinds.last().unwrap().value["after"];
    let expected = json!({"id": 1, "i2": 2, "i8": 9_007_199_254_740_993_i64, "f4": 1.5, "f8": "NaN",
        "n": {"scale": 3, "value": "Ap1Ctk52cUJEyw=="}, "n2": "+iQ=", "t": true, "d": 19782, "ts": 1_709_210_096_123_456_i64,
        "ts3": 1_709_210_096_123_i64, "tz": "2024-02-29T10:34:56.100000Z", "tm": 45_296_789_012_i64, "tm3": 45_296_789,
        "tzt": "10:04:56.5Z", "iv": 37_091_106_789_000_i64, "u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "j": "{\"b\": null}", "x": "<a>b</a>", "y": "3q2+7w==", "b1": true, "b5": "FQ==", "vb": "AQw=", "m": "happy",
        "p": {"scale": 2, "value": "BOI="}, "mo": "/h3A", "ip": "10.1.2.3/24", "o": 4_000_000_000_i64,
        "pt": {"x": 1.5, "y": -2.0, "wkb": "AQEAAAAAAAAAAAD4PwAAAAAAAADA", "srid": null}, "r": "[1,5)", "ai": [1, null, 3],
        "at": ["a", "b c", null, "q\"x"], "am": ["happy", "sad"], "an": ["AJY=", "AMg="],
        "atz": ["2024-02-29T12:34:56.000000Z"], "ai2": [[1, 2], [3, 4]]});
    assert_eq!(*kinds, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_the_events_replayed_are_the_tables() {
    for major in Server::majors_in_turn() {
        replays_to_the_tables_content(major).await;
    }
}

/// Changes the feed's section and starts it again.
async fn with(reference: &Reference, from: &str, to: &str) {
    let file = reference.directory.path().join("irongate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(&file, text.replacen(from, to, 1)).unwrap();
    reference.expect("main", 0, &["restart", "csp-feed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_told_stops_the_feed_with_a_remedy_that_helps() {
    let kafka = Kafka::start(&KafkaSettings::new()).await;
    let more =
        section(&kafka) + "[flows.csp.feed]\nevent_size = \"16KiB\"\ncreate_topics = false\nschemas = true\n";
    let major = Server::majors().into_iter().max().unwrap();
    let reference = Plan::new(major).tables(TABLES, "").more(&more).make().await;
    let source = &reference.servers[0];
    let mut manager = reference.start("main", &["manager"]);
    says(&reference, "waiting for changes").await;
    source.batch_in("config", "INSERT INTO item VALUES (1, 'small', NULL)").await;
    let it = says(&reference, "is not there").await;
    assert!(
        it["hint"].to_string().contains("create_topics = true")
            && it.to_string().contains("shop.config.public.item"),
        "{it}"
    );
    with(&reference, "create_topics = false", "create_topics = true").await;
    told_all(&reference, 1).await;

    source.batch_in("config", "INSERT INTO item SELECT 2, 'large', repeat('x', 100000)").await;
    let it = says(&reference, "longer than event_size").await;
    assert!(it["hint"].to_string().contains("raise event_size"), "{it}");
    // What waits to be told is not purged meanwhile.
    let readers = reference.json("main", &["trail", "ls", "csp"]).await;
    assert!(readers.to_string().contains("csp-feed"), "{readers}");
    // The topic was made for the limit that there was: check says so, and so does the feed.
    with(&reference, "event_size = \"16KiB\"", "event_size = \"300KiB\"").await;
    let it = says(&reference, "longer than the broker takes").await;
    assert!(it["hint"].to_string().contains("max.message.bytes"), "{it}");
    let checked = reference.start("main", &["check", "--json"]).finish(PATIENCE).await;
    let found: Value = checked.json();
    assert!(found.to_string().contains("takes events of 17408 bytes"), "{found}");
    with(&reference, "schemas = true", "exclude = [\"public.item\"]").await;
    told_all(&reference, 2).await;

    source.batch_in("config", "INSERT INTO hidden VALUES (1, 'NaN')").await;
    let it = says(&reference, "holds NaN").await;
    assert!(
        it["error"].to_string().contains("public.hidden") && it["hint"].to_string().contains("numerics"),
        "{it}"
    );
    with(&reference, "exclude = [", "numerics = \"string\"\nexclude = [").await;
    told_all(&reference, 3).await;
    ends(&mut manager).await;
    let topics = tokio::task::block_in_place(|| consume(&kafka, "shop.config"));
    let of = |table: &str| &topics[&(format!("shop.config.public.{table}"), 0)];
    assert_eq!(of("item").len(), 1, "{:?}", of("item"));
    let item = &of("item")[0].value;
    assert_eq!(
        (&item["payload"]["op"], &item["schema"]["name"]),
        (&json!("c"), &json!("shop.config.public.item.Envelope"))
    );
    assert_eq!(of("hidden").last().unwrap().value["after"], json!({"id": 1, "n": "NaN"}));
}
