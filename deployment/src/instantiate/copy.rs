//! Moving rows from one COPY into another, never more of them in memory than a few messages. Knows nothing of snapshots,
//! ledgers or transactions: whoever moves rows between two sessions, or into a file, can use it.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use irongate_postgres::Session;

use super::rate::Rate;
use super::tables::Copied;
use crate::end::End;
use crate::error::Error;

/// Rows are handed over in pieces of about so many bytes: a row of its own would cost more on the way than in itself.
const PIECE: usize = 64 << 10;

/// What was copied.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Done {
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// Lets the rows of one statement at the source be those of another at the target. A failure names the end that failed:
/// when one ends the stream, the other is not to blame. `moved` is told of each piece's rows and bytes.
pub(super) async fn pipe(
    (at_source, out): (&Session, &str),
    (at_target, into): (&Session, &str),
    table: &Copied,
    [source, target]: [&End<'_>; 2],
    rate: &Rate,
    moved: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<Done, Error> {
    let failed = |end: &End<'_>, error: irongate_postgres::Error| Error::Copy {
        table: table.source.to_string(),
        end: end.to_string(),
        source: Box::new(error),
    };
    let stream = match at_source.copy_out(out).await {
        Ok(stream) => stream,
        Err(error) => return Err(failed(source, at_source.explain(error).await)),
    };
    let sink = match at_target.copy_in::<_, Bytes>(into).await {
        Ok(sink) => sink,
        Err(error) => return Err(failed(target, at_target.explain(error).await)),
    };
    let (mut stream, mut sink) = (pin!(stream), pin!(sink));
    let mut done = Done::default();
    let (mut piece, mut rows) = (BytesMut::with_capacity(PIECE), 0);
    loop {
        let row = match stream.next().await {
            Some(Ok(row)) => Some(row),
            Some(Err(error)) => return Err(failed(source, at_source.explain(error).await)),
            None => None,
        };
        let is_last = row.is_none();
        // The server sends each row as a message of its own.
        if let Some(row) = row {
            rows += 1;
            if row.len() >= PIECE && piece.is_empty() {
                let length = row.len() as u64;
                done.bytes += length;
                rate.take(row.len()).await;
                if let Err(error) = sink.send(row).await {
                    let error = sink.finish().await.err().unwrap_or(error);
                    return Err(failed(target, at_target.explain(error).await));
                }
                moved(rows, length);
                rows = 0;
                continue;
            }
            piece.extend_from_slice(&row);
        }
        if piece.len() >= PIECE || is_last && !piece.is_empty() {
            let bytes = piece.split().freeze();
            done.bytes += bytes.len() as u64;
            rate.take(bytes.len()).await;
            let length = bytes.len() as u64;
            if let Err(error) = sink.send(bytes).await {
                // The sink only knows that nobody takes more; the end of the statement says why.
                let error = sink.finish().await.err().unwrap_or(error);
                return Err(failed(target, at_target.explain(error).await));
            }
            moved(rows, length);
            rows = 0;
            piece.reserve(PIECE);
        }
        if is_last {
            break;
        }
    }
    done.rows = match sink.finish().await {
        Ok(rows) => rows,
        Err(error) => return Err(failed(target, at_target.explain(error).await)),
    };
    Ok(done)
}
