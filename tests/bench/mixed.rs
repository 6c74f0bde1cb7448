//! Many small transactions over 40 tables with foreign keys: inserts, updates and deletes mixed.
//!
//! Parents and children stand in pairs, so that each transaction touches two tables of forty. Keys rise within a
//! transaction, so that clients wait for each other and never deadlock. An insert finds its key taken, or a delete finds
//! nothing, about every second time: tables neither grow nor empty while they are worked on.

use std::time::Instant;

use crate::pair::{Pair, Way};
use crate::report::{Goal, Line, Report};
use crate::work::{next, order, push, wait_for_extract};

/// Pairs of tables.
const PAIRS: u32 = 20;

const SCRIPT: &str = "
\\set t random(1, 20)
\\set p random(1, 1000)
\\set c random(1, 3000)
\\set d random(3001, 9000)
\\set e :d + random(1, 500)
BEGIN;
UPDATE mixed_child_:t SET amount = amount + 1, note = 'changed by ' || :p WHERE id = :c;
DELETE FROM mixed_child_:t WHERE id = :d;
INSERT INTO mixed_child_:t VALUES (:e, :p, :c, 'a child of ' || :p) ON CONFLICT DO NOTHING;
UPDATE mixed_parent_:t SET total = total + 1 WHERE id = :p;
COMMIT;
";

/// The tables, with their rows.
pub(crate) fn schema() -> String {
    let pair = |n: u32| {
        format!(
            "CREATE TABLE mixed_parent_{n} (id int PRIMARY KEY, name text NOT NULL, total bigint NOT NULL);
             CREATE TABLE mixed_child_{n} (id int PRIMARY KEY,
                 parent int NOT NULL REFERENCES mixed_parent_{n}, amount numeric NOT NULL, note text);
             CREATE INDEX ON mixed_child_{n} (parent);
             INSERT INTO mixed_parent_{n} SELECT g, 'parent ' || g, 0 FROM generate_series(1, 1000) g;
             INSERT INTO mixed_child_{n} SELECT g, 1 + g % 1000, g, 'child ' || g FROM generate_series(1, 9500) g
                 WHERE g <= 3000 OR g % 2 = 0;"
        )
    };
    (1..=PAIRS).map(pair).collect()
}

/// Their names, with commas between.
pub(crate) fn tables() -> String {
    let names: Vec<String> = (1..=PAIRS).map(|n| format!("mixed_parent_{n}, mixed_child_{n}")).collect();
    names.join(", ")
}

/// A backlog of such transactions, from the slot; and from the trail, for a standby that was down.
pub(crate) async fn mixed(
    pair: &Pair,
    transactions: u32,
    turns: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let script = pair.path("mixed.pgbench");
    std::fs::write(&script, SCRIPT)?;
    let mut rates = (Vec::new(), Vec::new());
    let mut from_trail = (Vec::new(), Vec::new());
    for turn in 0..turns {
        for trailed in [false, true] {
            pair.level().await?;
            pair.pgbench_script(&script, transactions)?;
            let n = next();
            pair.mark(n).await?;
            let extract = if trailed {
                let extract = pair.start_ours("ours", true, false)?;
                wait_for_extract(pair, "ours").await?;
                Some(extract)
            } else {
                None
            };
            let rates = if trailed { &mut from_trail } else { &mut rates };
            for way in order(turn) {
                let start = Instant::now();
                let seconds = match way {
                    Way::Native => {
                        pair.enable_native(true).await?;
                        let seconds = pair.await_marker(way, n, start).await?;
                        pair.enable_native(false).await?;
                        seconds
                    }
                    Way::Ours => {
                        let ours = pair.start_ours("ours", !trailed, true)?;
                        let seconds = pair.await_marker(way, n, start).await?;
                        let (extract, replicat) = pair.stop_ours(ours)?;
                        report.peak(extract, replicat);
                        seconds
                    }
                };
                push(way, f64::from(transactions) / seconds, rates);
            }
            if let Some(extract) = extract {
                pair.stop_ours(extract)?;
            }
        }
    }
    let line = |work, figures, goal| Line::new(pair.major(), work, "transactions/s", figures).goal(goal);
    report.add(line("40 tables, foreign keys, mixed", rates, Goal::AtLeast(1.5)));
    report.add(line("40 tables, standby was down", from_trail, Goal::AtLeast(3.0)));
    Ok(())
}
