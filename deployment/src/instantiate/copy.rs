//! Moving one table's rows, as the text that COPY writes and reads, never more of it in memory than a few messages.

use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use irongate_postgres::Session;

use super::tables::Copied;
use crate::end::End;
use crate::error::Error;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// What was copied of a table.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Done {
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// Keeps the source's tables as they are until the end of the transaction: no TRUNCATE, no ALTER TABLE.
pub(super) async fn lock(session: &Session, tables: &[Copied]) -> Result<(), irongate_postgres::Error> {
    let only = |table: &Copied| if table.partitioned { "" } else { "ONLY " };
    let names: Vec<_> =
        tables.iter().map(|table| format!("{}{}", only(table), table.source.quoted())).collect();
    Ok(session.batch_execute(&format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "))).await?)
}

/// Copies a table. A failure names the end that failed: when one ends the stream, the other is not to blame.
pub(super) async fn copy(
    at_source: &Session,
    at_target: &Session,
    table: &Copied,
    [source, target]: [&End<'_>; 2],
    tell: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Done, Error> {
    let failed = |end: &End<'_>, error: tokio_postgres::Error| Error::Copy {
        table: table.source.to_string(),
        end: end.to_string(),
        source: Box::new(error.into()),
    };
    tell(0, 0);
    let stream = at_source.copy_out(&table.copy_out()).await.map_err(|error| failed(source, error))?;
    let sink =
        at_target.copy_in::<_, Bytes>(&table.copy_in()).await.map_err(|error| failed(target, error))?;
    let (mut stream, mut sink) = (pin!(stream), pin!(sink));
    let mut done = Done::default();
    let mut told = Instant::now();
    while let Some(row) = stream.next().await {
        let row = row.map_err(|error| failed(source, error))?;
        // The server sends each row as a message of its own.
        done.rows += 1;
        done.bytes += row.len() as u64;
        if let Err(error) = sink.feed(row).await {
            // The sink only knows that nobody takes more; the end of the statement says why.
            return Err(failed(target, sink.finish().await.err().unwrap_or(error)));
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            tell(done.rows, done.bytes);
        }
    }
    done.rows = sink.finish().await.map_err(|error| failed(target, error))?;
    tell(done.rows, done.bytes);
    Ok(done)
}
