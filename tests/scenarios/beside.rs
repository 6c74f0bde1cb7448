//! A backlog applied by several sessions side by side, while Replicat and the target are killed.

use std::time::Duration;

use irongate_apply::Grouping;
use irongate_checkpoint::Counters;
use irongate_tests::{Mode, Settings, Tables, Tier, seed};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::support::{Flow, pairs_in_turn};

const SCHEMA: &str = "
    CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL, word text);
    CREATE TABLE owner (id int PRIMARY KEY, account int NOT NULL REFERENCES account, name text UNIQUE);
    CREATE TABLE ledger (n bigint GENERATED ALWAYS AS IDENTITY, account int, amount int)";

/// So many small transactions: money moves, owners come, go, change keys and swap names.
fn load(first: u32, transactions: u32) -> String {
    let last = first + transactions - 1;
    format!(
        "DO $$ DECLARE a int; b int; BEGIN
           FOR i IN {first}..{last} LOOP
             a := 1 + i * 7919 % 500; b := 1 + i * 104729 % 500;
             INSERT INTO account VALUES (a, -i, '') ON CONFLICT (id) DO UPDATE SET balance = account.balance - i;
             INSERT INTO account VALUES (b, i, repeat('w', 50)) ON CONFLICT (id) DO UPDATE SET balance = account.balance + i;
             INSERT INTO ledger (account, amount) VALUES (a, -i), (b, i);
             IF i % 5 = 0 THEN INSERT INTO owner VALUES (i, a, 'owner ' || i); END IF;
             IF i % 35 = 0 THEN UPDATE owner SET id = -id WHERE id = i; END IF;
             IF i % 15 = 0 THEN DELETE FROM owner WHERE id = i - 5 OR id = 5 - i; END IF;
             IF i % 40 = 0 THEN UPDATE owner SET name = 'was ' || name WHERE abs(id) = i; INSERT INTO owner VALUES (i + 1, b, 'owner ' || i); END IF;
             IF i % 500 = 0 THEN TRUNCATE owner; END IF;
             COMMIT;
           END LOOP;
         END $$"
    )
}

fn counters(flow: &Flow) -> Counters {
    flow.status(&flow.replicat.group).map(|status| status.counters).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_applied_side_by_side_comes_once_whatever_is_killed() {
    let mut random = StdRng::seed_from_u64(seed());
    for pair in pairs_in_turn() {
        let settings = Settings::new().set("wal_writer_delay", "400ms");
        let mut flow = Flow::alone("beside_killed", pair, &settings).await;
        flow.at_both(SCHEMA).await;
        flow.replicat.sessions = random.random_range(2..5);
        flow.replicat.grouping = Grouping { changes: random.random_range(50..400), ..Grouping::default() };
        flow.set_up().await;
        flow.start_extract().await;
        let (mut next, mut beside) = (1, 0);
        for round in 0..Tier::pick(4, 8, 60) {
            // What comes while Replicat is down.
            let transactions = random.random_range(500..2500);
            flow.at_source(&load(next, transactions)).await;
            next += transactions;
            flow.start_replicat().await;
            for _ in 0..random.random_range(1..4) {
                tokio::time::sleep(Duration::from_millis(random.random_range(0..250))).await;
                beside += counters(&flow).beside;
                if random.random_bool(0.7) {
                    flow.kill_replicat().await;
                    flow.start_replicat().await;
                } else {
                    flow.target_server().stop(Mode::Immediate).await;
                    flow.target_server().start_again().await;
                }
            }
            flow.drain().await;
            beside += counters(&flow).beside;
            flow.compare(&Tables::All).await.assert_same();
            let numbers = "SELECT count(*) || ' of ' || count(DISTINCT n) || ' ' || sum(amount) FROM ledger";
            assert_eq!(flow.source_says(numbers).await, flow.target_says(numbers).await, "round {round}");
            println!("{pair:?} round {round}: {beside} of {next} beside");
            flow.stop_replicat().await;
        }
        assert!(beside > 0);
        flow.start_replicat().await;
        flow.end().await;
    }
}
