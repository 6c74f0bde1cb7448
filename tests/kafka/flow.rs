//! A whole flow through a broker, of which anything is killed at any time.

use std::fs;
use std::time::Duration;

use irongate_tests::{Kafka, KafkaSettings, Plan, Process, Server, Tables, Tier, compare, seed, wait_for};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const PATIENCE: Duration = Duration::from_secs(120);
/// The ledger, a table without a key, tells what came twice, and by its numbers what is out of order.
const TABLES: &str = "CREATE TABLE item (id int PRIMARY KEY, word text);
    CREATE TABLE ledger (n bigint GENERATED ALWAYS AS IDENTITY, id int)";
const GROUPS: [(&str, &str); 4] = [
    ("main", "csp-extract"),
    ("main", "csp-pump"),
    ("secondary", "csp-collector"),
    ("secondary", "csp-replicat"),
];

/// Small transactions, and now and then a larger one.
fn load(first: u32, transactions: u32) -> String {
    let last = first + transactions - 1;
    format!(
        "DO $$ BEGIN FOR i IN {first}..{last} LOOP
             INSERT INTO item VALUES (i, repeat('x', i % 90)) ON CONFLICT (id) DO NOTHING;
             INSERT INTO ledger (id) VALUES (i);
             UPDATE item SET word = word || i WHERE id BETWEEN i / 2 AND i / 2 + i % 3;
             IF i % 7 = 0 THEN DELETE FROM item WHERE id = i - 5; END IF;
             IF i % 250 = 0 THEN INSERT INTO ledger (id) SELECT i FROM generate_series(1, 4000); END IF;
             COMMIT;
         END LOOP; END $$"
    )
}

/// What is there is a beginning of what was written.
async fn assert_in_order(standby: &Server, context: &str) {
    let numbers = "SELECT count(*) || ' ' || count(DISTINCT n) || ' ' || coalesce(max(n), 0) FROM ledger";
    let found = standby.scalar("config", numbers).await;
    let parts: Vec<&str> = found.split(' ').collect();
    assert!(parts[0] == parts[1] && parts[1] == parts[2], "{context}: rows, numbers, last: {found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_through_kafka_arrives_once_and_in_order_whatever_of_it_is_killed() {
    let mut random = StdRng::seed_from_u64(seed());
    for major in Server::majors_in_turn() {
        // Every acknowledged record is on the disk: the kill of a broker is then that of its machine.
        let mut kafka = Kafka::start(&KafkaSettings::new().set("log.flush.interval.messages", 1)).await;
        let more = format!(
            "[kafka]\nbrokers = [\"{}\"]\ntls = false\nreplication = 1\nmin_in_sync = 1\ntimeout = \"2s\"\n\
             retry_delay = \"50ms\"\nretry_longest_delay = \"500ms\"\n[flows.csp.replicat]\nbatch_rows = 400\n",
            kafka.brokers()[0]
        );
        let reference = Plan::new(major).tables(TABLES, "").more(&more).make().await;
        let file = reference.directory.path().join("irongate.toml");
        let text = fs::read_to_string(&file).unwrap();
        let by_kafka = text.replacen("[flows.csp.pump]\n", "[flows.csp.pump]\nvia = \"kafka\"\n", 1);
        assert_ne!(text, by_kafka, "{text}");
        fs::write(&file, by_kafka).unwrap();
        let [source, standby] = &reference.servers;
        reference.expect("main", 0, &["setup", "csp"]).await;
        reference.expect("main", 0, &["instantiate", "csp", "--truncate"]).await;
        let start = |(site, group): (&str, &str)| reference.start(site, &["run", group]);
        let mut processes: Vec<Process> = GROUPS.into_iter().map(start).collect();
        let (mut next, mut kills) = (1, [0; 5]);
        let rounds = Tier::pick(4, 8, 100);
        for round in 0..rounds {
            let transactions = random.random_range(50..400);
            let writes = load(next, transactions);
            next += transactions;
            let kill = async {
                tokio::time::sleep(Duration::from_millis(random.random_range(0..500))).await;
                // Chance comes to each of them sooner or later; in a short run, turns do.
                let victim = if rounds < 20 { round as usize % 5 } else { random.random_range(0..5) };
                kills[victim] += 1;
                if let Some(process) = processes.get_mut(victim) {
                    process.kill();
                    process.wait(PATIENCE).await;
                    *process = start(GROUPS[victim]);
                } else {
                    kafka.kill(0);
                    tokio::time::sleep(Duration::from_millis(random.random_range(0..1000))).await;
                    tokio::task::block_in_place(|| kafka.start_again(0));
                }
            };
            tokio::join!(source.batch_in("config", &writes), kill);
            assert_in_order(standby, &format!("after kill {round}")).await;
        }
        source.batch_in("config", "INSERT INTO item VALUES (-1, 'the last')").await;
        wait_for(PATIENCE, "the last row", async || {
            for process in &mut processes {
                assert!(process.is_running(), "{}", process.stderr());
            }
            match standby.scalar("config", "SELECT count(*) FROM item WHERE id = -1").await.as_str() {
                "1" => Ok(()),
                other => Err(other.to_owned()),
            }
        })
        .await;
        assert_in_order(standby, "in the end").await;
        let uris = [source, standby].map(|server| server.socket_uri("postgres", "config"));
        compare(&uris[0], &uris[1], &Tables::All).await.assert_same();
        println!("{major}: {next} transactions, kills of extract, pump, reader, replicat, broker: {kills:?}");
        for process in &mut processes {
            process.terminate();
            assert!(process.wait(PATIENCE).await.success(), "{}", process.stderr());
        }
    }
}
