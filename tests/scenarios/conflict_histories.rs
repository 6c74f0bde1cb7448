//! Three hundred short histories at both sites at once, each over a few keys of every table.

use std::sync::Arc;
use std::time::Duration;

use irongate_apply::{list, replay, skip};
use irongate_tests::{Tier, seed};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::super::support::{Flow, pairs_in_turn};
use super::{Sites, TABLES};

/// Keys of one history.
const KEYS: i32 = 4;
/// Transactions of one history at each site, in each of two waves: the second begins while the first is being applied.
const LENGTH: usize = 3;
/// Sessions that write at each site.
const WRITERS: usize = 4;

/// One transaction of a history on one table.
fn transaction(random: &mut StdRng, table: &str, history: i32, site: &str, number: usize) -> String {
    let first = history * 100;
    let changes = random.random_range(1..=2);
    let mut sql = String::new();
    for change in 0..changes {
        let key = first + random.random_range(0..KEYS);
        let other = first + random.random_range(0..KEYS);
        let text = format!("{site}{history}.{number}.{change}");
        let big =
            if random.random_bool(0.2) { format!(", big = repeat('{text}', 600)") } else { String::new() };
        // What is added up must not come to life again at one site while the other goes on counting: keys of rows that
        // are made or moved are the site's own there, and used once.
        let own = if site == "a" { 20 } else { 50 } + 2 * number as i32 + change;
        let sums = table == "sums";
        sql.push_str(&match random.random_range(0..10) {
            0 | 1 if sums => format!("INSERT INTO sums VALUES ({}, 1, '{text}', repeat('{text}', 600));", first + own),
            0 => format!("INSERT INTO {table} VALUES ({key}, 1, '{text}', repeat('{text}', 600)) ON CONFLICT DO NOTHING;"),
            1 => format!(
                "INSERT INTO {table} VALUES ({key}, 2, '{text}', '') ON CONFLICT (id) DO UPDATE SET n = {table}.n + 10, a = excluded.a;"
            ),
            2 | 3 => format!("DELETE FROM {table} WHERE id = {key};"),
            4 if sums => format!("UPDATE sums SET id = {}, a = '{text}' WHERE id = {key};", first + own),
            4 => format!(
                "UPDATE {table} SET id = {other}, a = '{text}' WHERE id = {key} AND NOT EXISTS (SELECT FROM {table} WHERE id = {other});"
            ),
            5 => format!("DELETE FROM {table} WHERE id = {key}; {}", if sums {
                String::new()
            } else {
                format!("INSERT INTO {table} VALUES ({key}, 3, '{text}', 'again');")
            }),
            more => format!("UPDATE {table} SET n = n + {more}, a = '{text}'{big} WHERE id = {key};"),
        });
    }
    format!("BEGIN; {sql} COMMIT")
}

/// Writes all histories at one site; transactions that the site itself refuses are taken back there.
async fn write(flow: &Flow, site: &'static str, seed: u64, histories: i32, wave: usize) -> usize {
    let mut order: Vec<(i32, &str)> =
        (0..histories).flat_map(|history| TABLES.map(|table| (history, table))).collect();
    // The same at both sites, so that they meet.
    let seed = seed.wrapping_add(wave as u64);
    order.shuffle(&mut StdRng::seed_from_u64(seed));
    let order = Arc::new(order);
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let (order, session) = (Arc::clone(&order), flow.session().await);
        writers.push(tokio::spawn(async move {
            let mut committed = 0;
            for (history, table) in order.iter().skip(writer).step_by(WRITERS) {
                let place = TABLES.iter().position(|name| name == table).unwrap_or_default() as u64;
                let own = seed ^ (*history as u64) << 8 ^ place << 1 ^ u64::from(site == "a");
                let mut random = StdRng::seed_from_u64(own);
                for number in wave * LENGTH..(wave + 1) * LENGTH {
                    let sql = transaction(&mut random, table, *history, site, number);
                    match session.batch_execute(&sql).await {
                        Ok(()) => committed += 1,
                        Err(error) => {
                            let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
                            assert!(["23505", "40P01"].contains(&code.as_str()), "{error:?}: {sql}");
                            session.batch_execute("ROLLBACK").await.unwrap();
                        }
                    }
                    if random.random_bool(0.3) {
                        tokio::time::sleep(Duration::from_millis(random.random_range(0..8))).await;
                    }
                }
            }
            committed
        }));
    }
    let mut committed = 0;
    for writer in writers {
        committed += writer.await.unwrap();
    }
    committed
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_of_both_sites_end_the_same_under_every_rule() {
    let seed = seed();
    println!("seed {seed}: IRONGATE_TEST_SEED={seed} repeats it, as far as the timing of two servers can be");
    for pair in pairs_in_turn()
        .into_iter()
        .filter(|(source, target)| [15, 18].contains(source) && [15, 18].contains(target))
    {
        let mut sites = Sites::new("histories", pair).await;
        let histories = Tier::pick(60, 60, 300);
        sites.there.start().await;
        sites.back.start().await;
        for table in TABLES {
            sites
                .there
                .at_source(&format!(
                    "INSERT INTO {table} SELECT h * 100 + k, 0, 'first', repeat('first', 600)
                       FROM generate_series(0, {histories} - 1) h, generate_series(0, {KEYS} - 1, 2) k"
                ))
                .await;
        }
        sites.drain().await;
        for wave in 0..2 {
            let (a, b) = tokio::join!(
                write(&sites.there, "a", seed, histories, wave),
                write(&sites.back, "b", seed, histories, wave)
            );
            println!("{a} and {b} transactions at the sites");
            // With much still to be applied, both are killed: nothing is decided twice.
            for _ in 0..2 {
                sites.there.kill_replicat().await;
                sites.back.kill_replicat().await;
                sites.there.start_replicat().await;
                sites.back.start_replicat().await;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
        sites.drain().await;
        println!("drained");
        let others: Vec<&str> = TABLES.into_iter().filter(|table| *table != "queue").collect();
        sites.assert_same(&others).await;
        // What is in the queues: one site takes the other's, which does without.
        const TWICE: &str = "SELECT count(*) FROM (SELECT FROM irongate.conflict
            GROUP BY flow, commit_lsn, ordinal, key::text HAVING count(*) > 1) c";
        for flow in [&sites.there, &sites.back] {
            assert_eq!(flow.target_says(TWICE).await, "0");
            assert_ne!(flow.target_says("SELECT count(*) FROM irongate.conflict").await, "0");
        }
        let kinds = "SELECT string_agg(format('%s/%s/%s: %s', rule, kind, decision, n), E'\\n' ORDER BY rule, kind, decision)
            FROM (SELECT rule, kind, decision, count(*) n FROM irongate.conflict GROUP BY 1, 2, 3) c";
        println!(
            "at b:\n{}\nat a:\n{}",
            sites.there.target_says(kinds).await,
            sites.back.target_says(kinds).await
        );
        let replayed = replay(&sites.back.replicat, None).await.unwrap();
        let client = sites.there.target.client(&sites.there.database).await;
        let skipped = skip(&client, &sites.there.name, None).await.unwrap();
        println!("{replayed} replayed at a, {skipped} skipped at b");
        sites.assert_same(&["queue"]).await;
        assert!(list(&client, &sites.there.name, false).await.unwrap().is_empty());
        // Nothing goes round.
        sites.drain().await;
        let applied = "SELECT string_agg(transactions::text, ' ') FROM irongate.checkpoint";
        let before = (sites.there.target_says(applied).await, sites.back.target_says(applied).await);
        tokio::time::sleep(Duration::from_secs(1)).await;
        sites.there.assert_running().await;
        sites.back.assert_running().await;
        let after = (sites.there.target_says(applied).await, sites.back.target_says(applied).await);
        assert_eq!(before, after);
        sites.assert_same(&TABLES).await;
        sites.end().await;
    }
}
