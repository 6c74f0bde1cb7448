//! What a compare of two equal tables costs, beside what each side takes to hash its own table by itself in one go.
//!
//! ```sh
//! cargo run --release -p irongate-verify --example compare_cost -- 5000000 postgresql://u@h1/db postgresql://u@h2/db
//! ```
//!
//! Makes and drops a table and a publication `irongate_compare_cost` in both databases.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use irongate_postgres::{Endpoint, Session};
use irongate_verify::{Comparing, End, Flow, compare};

const TABLE: &str = "irongate_compare_cost";
const COLUMNS: &str = "x.id, x.name, x.amount, x.at, x.token, x.note";

async fn fill(session: &Session, rows: u64) -> Result<(), Box<dyn Error>> {
    session
        .batch_execute(&format!(
            "DROP TABLE IF EXISTS public.{TABLE}; DROP PUBLICATION IF EXISTS {TABLE};
             CREATE TABLE public.{TABLE} (id bigint PRIMARY KEY, name text, amount numeric(12,2), at timestamptz, token uuid,
                 note text);
             INSERT INTO public.{TABLE}
             SELECT i, 'name ' || i, i * 1.01, '2026-01-01'::timestamptz + i * interval '1 second', md5(i::text)::uuid,
                    repeat('x', (i % 50)::int)
               FROM generate_series(1, {rows}) i;
             CREATE PUBLICATION {TABLE} FOR TABLE public.{TABLE}"
        ))
        .await?;
    Ok(session.batch_execute(&format!("VACUUM ANALYZE public.{TABLE}")).await?)
}

/// The whole table, hashed as a compare hashes it, in one statement by one process.
async fn scan(session: &Session) -> Result<Duration, Box<dyn Error>> {
    session.batch_execute("SET max_parallel_workers_per_gather = 0; SET jit = off").await?;
    let begun = Instant::now();
    session
        .batch_execute(&format!(
            "SELECT count(*), sum(hashtextextended(r, 0)), sum(hashtextextended(r, 1))
               FROM (SELECT ROW({COLUMNS})::text COLLATE \"C\" AS r FROM public.{TABLE} x OFFSET 0) q"
        ))
        .await?;
    Ok(begun.elapsed())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rows, source, target] = &arguments[..] else {
        return Err("usage: compare_cost ROWS SOURCE TARGET".into());
    };
    let rows: u64 = rows.parse()?;
    let ends = [Endpoint::parse(source)?, Endpoint::parse(target)?];
    let mut sessions = Vec::new();
    for endpoint in &ends {
        let session = Session::connect(endpoint, "compare_cost").await?;
        fill(&session, rows).await?;
        sessions.push(session);
    }
    let [source, target] = ends;
    let end = |label: &str, endpoint| End { label: label.to_owned(), endpoint };
    let flow = Flow {
        name: TABLE.to_owned(),
        publication: TABLE.to_owned(),
        source: end("source", source),
        target: end("target", target),
        reverse: None,
        target_of: Arc::new(Clone::clone),
    };
    let mut out = std::io::stdout();
    for round in 1..=3 {
        let alone = [scan(&sessions[0]).await?, scan(&sessions[1]).await?];
        let (one, other) = tokio::join!(scan(&sessions[0]), scan(&sessions[1]));
        let together = one?.max(other?);
        let found = compare(&flow, &Comparing::default(), &[], &()).await?;
        let slower = alone[0].max(alone[1]).as_secs_f64();
        std::io::Write::write_fmt(
            &mut out,
            format_args!(
                "round {round}: {} rows, {} differences; alone {:.2} s and {:.2} s, both at once {:.2} s, compare {:.2} s: \
                 {:.2} times the slower side\n",
                found.rows(),
                found.differences,
                alone[0].as_secs_f64(),
                alone[1].as_secs_f64(),
                together.as_secs_f64(),
                found.seconds,
                found.seconds / slower
            ),
        )?;
    }
    for session in &sessions {
        session.batch_execute(&format!("DROP PUBLICATION {TABLE}; DROP TABLE public.{TABLE}")).await?;
    }
    Ok(())
}
