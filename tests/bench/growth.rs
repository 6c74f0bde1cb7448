//! What a row costs, as transactions and the number of tables grow.
//!
//! The figure is processor time of all four processes of our way (Extract, Replicat and their two backends): unlike a
//! clock it says the same on a machine that is doing something else as well.

use std::time::Instant;

use anyhow::Context;

use crate::pair::{Ours, Pair, Way};
use crate::processes::used;
use crate::report::{Goal, Line, Report};
use crate::work::{next, settle};

/// Rows that each number of tables is given.
const ROWS: u32 = 100_000;
/// Rows of one transaction, all of one table.
const ROWS_A_TRANSACTION: u32 = 100;

/// Transactions of growing size, each inserting so many rows.
pub(crate) async fn by_size(
    pair: &Pair,
    sizes: &[u32],
    turns: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut costs = vec![Vec::new(); sizes.len()];
    for _ in 0..turns {
        let ours = pair.start_ours("ours", true, true)?;
        settle(pair, Way::Ours).await?;
        for (rows, costs) in sizes.iter().zip(&mut costs) {
            // Small ones are repeated, so that the clock's ticks of 10 ms do not show.
            let times = (sizes.last().copied().unwrap_or(*rows) / rows).clamp(1, 30);
            let mut spent = 0.0;
            for _ in 0..times {
                let before = cpu(pair, &ours, "ours").await?;
                let n = next();
                let sql = format!(
                    "BEGIN; INSERT INTO bulk SELECT g, g % 100, 'row number ' || g, now() \
                     FROM generate_series(1, {rows}) g; INSERT INTO marker VALUES ({n}); COMMIT"
                );
                pair.source_client.batch_execute(&sql).await?;
                pair.await_marker(Way::Ours, n, Instant::now()).await?;
                spent += cpu(pair, &ours, "ours").await? - before;
                pair.source_client.batch_execute("TRUNCATE bulk").await?;
                settle(pair, Way::Ours).await?;
            }
            costs.push(spent * 1e6 / (f64::from(*rows) * f64::from(times)));
        }
        let (extract, replicat) = pair.stop_ours(ours)?;
        report.peak(extract, replicat);
    }
    let Some((first, rest)) = costs.split_first() else { return Ok(()) };
    for (rows, costs) in sizes[1..].iter().zip(rest) {
        let work = format!("CPU a row, transaction of {rows}");
        let line = Line::new(pair.major(), &work, "µs", (first.clone(), costs.clone()));
        report.add(line.against(format!("{} rows", sizes[0])).goal(Goal::AtMost(1.2)));
    }
    Ok(())
}

/// The same number of rows over a growing number of tables, after each table has been met once.
pub(crate) async fn by_tables(pair: &Pair, tables: &[u32], report: &mut Report) -> anyhow::Result<()> {
    let most = tables.iter().copied().max().unwrap_or(1);
    let create = format!(
        "DO $$ BEGIN FOR i IN 0 .. {most} - 1 LOOP
             EXECUTE format('CREATE TABLE many_%s (id int PRIMARY KEY, a int, b text)', i);
             IF i % 200 = 199 THEN COMMIT; END IF;
         END LOOP; END $$"
    );
    pair.source.batch_in("bench", &create).await;
    pair.target.batch_in("ours", &create).await;
    let names: Vec<String> = (0..most).map(|n| format!("many_{n}")).collect();
    let names = format!("CREATE PUBLICATION many FOR TABLE marker, {}", names.join(", "));
    pair.source.batch_in("bench", &names).await;
    pair.make_flow("many").await?;
    let ours = pair.start_publication("many", "many", true, true)?;
    let mut begin = 1;
    let mut costs = Vec::new();
    let mut first_met = 0.0;
    for &tables in tables {
        // Each table once, so that what is learned of it is learned.
        let before = Instant::now();
        write(pair, tables, 1, tables, &mut begin).await?;
        first_met = before.elapsed().as_secs_f64() * 1000.0 / f64::from(tables);
        let before = cpu(pair, &ours, "many").await?;
        write(pair, ROWS, ROWS_A_TRANSACTION, tables, &mut begin).await?;
        costs.push((cpu(pair, &ours, "many").await? - before) * 1e6 / f64::from(ROWS));
    }
    let (extract, replicat) = pair.stop_ours(ours)?;
    report.peak(extract, replicat);
    for (count, cost) in tables.iter().zip(&costs).skip(1) {
        let figures = (vec![costs[0]], vec![*cost]);
        let line = Line::new(pair.major(), &format!("CPU a row, over {count} tables"), "µs", figures);
        let note = format!("a table met for the first time: {first_met:.1} ms");
        report.add(line.against(format!("{} tables", tables[0])).goal(Goal::AtMost(1.2)).note(note));
    }
    pair.source.batch_in("bench", "SELECT pg_drop_replication_slot('many')").await;
    Ok(())
}

/// Writes rows, so many a transaction and table, round the tables, and waits for them.
async fn write(pair: &Pair, rows: u32, each: u32, tables: u32, begin: &mut u32) -> anyhow::Result<()> {
    let transactions = rows / each;
    let sql = format!(
        "DO $$ BEGIN FOR i IN 0 .. {transactions} - 1 LOOP
             EXECUTE format('INSERT INTO many_%s SELECT g, g %% 100, ''row '' || g
                 FROM generate_series({begin} + i * {each}, {begin} + (i + 1) * {each} - 1) g', i % {tables});
             COMMIT;
         END LOOP; END $$"
    );
    *begin += rows;
    pair.source_client.batch_execute(&sql).await?;
    let n = next();
    pair.mark(n).await?;
    pair.await_marker(Way::Ours, n, Instant::now()).await?;
    Ok(())
}

/// Processor seconds of our way so far.
async fn cpu(pair: &Pair, ours: &Ours, flow: &str) -> anyhow::Result<f64> {
    let (sender, backend) = pair.ours_backends_used(flow).await?;
    let of = |child: &Option<std::process::Child>| child.as_ref().map(|child| used(child.id()).cpu);
    let extract = of(&ours.extract).context("Extract does not run")?;
    let replicat = of(&ours.replicat).context("Replicat does not run")?;
    Ok(extract + replicat + sender.cpu + backend.cpu)
}
