//! What a compare of two equal tables costs, beside what each side takes to hash its own table by itself in one go: the rows'
//! own text, as one does by hand, and the text that a compare makes of them.
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
/// What is read by hand: one hash of each row.
const BY_HAND: &str =
    "SELECT count(*), sum(hashtextextended(x::text, 0)) FROM public.irongate_compare_cost x";
/// What a compare reads, without its buckets, its stretches and the other side.
const AS_COMPARED: &str = "SELECT count(*), sum(hashtextextended(r, 0)), sum(hashtextextended(r, 1))
    FROM (SELECT concat_ws('|', CASE WHEN num_nulls(x.name, x.amount, x.at, x.token, x.note) = 0 THEN '0' ELSE '1' END, x.id,
                 octet_length(x.name), x.name, x.amount, x.at, x.token, octet_length(x.note), x.note) COLLATE \"C\" AS r
            FROM public.irongate_compare_cost x OFFSET 0) q";

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

/// The whole table, hashed in one statement by one process.
async fn scan(session: &Session, sql: &str) -> Result<Duration, Box<dyn Error>> {
    session.batch_execute("SET max_parallel_workers_per_gather = 0; SET jit = off").await?;
    let begun = Instant::now();
    session.batch_execute(sql).await?;
    Ok(begun.elapsed())
}

/// The slower of the two sides, each by itself, in seconds.
async fn slower(sessions: &[Session], sql: &str) -> Result<f64, Box<dyn Error>> {
    let mut slower = Duration::ZERO;
    for session in sessions {
        slower = slower.max(scan(session, sql).await?);
    }
    Ok(slower.as_secs_f64())
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
    for round in 1..=5 {
        let by_hand = slower(&sessions, BY_HAND).await?;
        let as_compared = slower(&sessions, AS_COMPARED).await?;
        let found = compare(&flow, &Comparing::default(), &[], &()).await?;
        std::io::Write::write_fmt(
            &mut out,
            format_args!(
                "round {round}: {} rows, {} differences, {:.2} s: {:.2} times the slower side's own hash by hand ({by_hand:.2} s), \
                 {:.2} times that of the text which a compare makes ({as_compared:.2} s)\n",
                found.rows(),
                found.differences,
                found.seconds,
                found.seconds / by_hand,
                found.seconds / as_compared,
            ),
        )?;
    }
    for session in &sessions {
        session.batch_execute(&format!("DROP PUBLICATION {TABLE}; DROP TABLE public.{TABLE}")).await?;
    }
    Ok(())
}
