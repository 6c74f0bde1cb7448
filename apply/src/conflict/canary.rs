//! Whether the target still knows what its rows' versions were since the flow was last in step.
//!
//! A row whose version the server has forgotten counts as old and in conflict with nothing. That is right for a row that
//! was frozen long ago, and wrong where commit times were lost that still mattered: `track_commit_timestamp` was off for a
//! while, or a VACUUM froze rows while the flow was cut. The canary tells the two apart. It is a transaction of our own:
//!
//! * PostgreSQL forgets commit times in the order of transaction ids, or all at once. While the canary's is known, a row of
//!   unknown version was written by a transaction with an older id.
//! * A transaction is made the canary only when every one with an older id has ended, and when later a source commit has
//!   been applied that is younger than that moment. So what the row's writer did was here before that source commit, and all
//!   that the source had done by then is applied: what is still to come does not date from before the row.
//! * The question is asked behind the looks at the rows and before anything is written. So it holds for what they said,
//!   whenever the server forgot.
//!
//! While a flow is cut its canary stays where it is, also over a restart of Replicat. A new one is begun where there is none
//! for the slot that the checkpoint is of (so after each initial load), and after [`accept_conflicts`].
//!
//! *Not covered:* only the flow that goes out is cut, for so long that a row that this site has written meanwhile is
//! frozen, and the flow that comes in stays in step. Under `latest` nothing is lost by it, for what comes then is later
//! than the row. Under `site`, `keep` and `queue` what comes is taken here as if it knew the row. Nor is a flow covered
//! in which nothing is committed at the source: its canary grows old, and Replicat may stop without need. The heartbeat
//! of the manager commits.

use irongate_trail::{Lineage, Timestamp};
use tokio_postgres::Client;

use crate::error::Error;

/// Asks after the canary of flow `$1`: whether its commit time is known. A transaction id is older than another only within
/// half of their circle.
pub(crate) const IS_KNOWN: &str = "SELECT pg_catalog.pg_xact_commit_timestamp(c.xid::pg_catalog.xid) IS NOT NULL \
     AND pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.text::pg_catalog.numeric \
       OPERATOR(pg_catalog.-) c.xid::pg_catalog.text::pg_catalog.numeric BETWEEN 0 AND 2000000000 AS known, \
     pg_catalog.to_char(c.at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') AS since, c.lineage \
     FROM irongate.canary AS c WHERE c.flow OPERATOR(pg_catalog.=) $1";

/// The error for an answer to [`IS_KNOWN`], if it is one to stop at. Without a canary somebody has just taken it away.
pub(crate) fn judge(
    answer: &[tokio_postgres::Row],
    flow: &str,
) -> Result<Result<(), Error>, tokio_postgres::Error> {
    let Some(row) = answer.first() else { return Ok(Ok(())) };
    if row.try_get("known")? {
        return Ok(Ok(()));
    }
    Ok(Err(Error::VersionsForgotten { flow: flow.to_owned(), since: row.try_get("since")? }))
}

fn name(lineage: &Lineage) -> String {
    format!("{} {}", lineage.system_identifier, lineage.slot_incarnation)
}

/// Looks after the canary, and begins one where there is none for the lineage.
///
/// # Errors
/// [`Error::VersionsForgotten`]; [`Error::Target`].
pub(crate) async fn begin(client: &Client, flow: &str, lineage: &Lineage) -> Result<(), Error> {
    const BEGIN: &str = "INSERT INTO irongate.canary (flow, lineage, xid, at, next_xid) VALUES ($1, $2, \
         pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(), pg_catalog.pg_current_xact_id()) \
         ON CONFLICT (flow) DO UPDATE SET lineage = excluded.lineage, xid = excluded.xid, at = excluded.at, \
         next_xid = excluded.next_xid, next_at = NULL";
    let answer = client.query(IS_KNOWN, &[&flow]).await?;
    let lineage = name(lineage);
    match answer.first() {
        Some(row) if row.try_get::<_, &str>("lineage")? == lineage => judge(&answer, flow)?,
        _ => Ok(client.execute(BEGIN, &[&flow, &lineage]).await.map(drop)?),
    }
}

/// Brings the canary forward, as far as the source's commits are applied up to `applied`. In two steps, of which each
/// needs another call.
///
/// # Errors
/// [`Error::Target`].
pub(crate) async fn renew(client: &Client, flow: &str, applied: Timestamp) -> Result<(), Error> {
    const ENDED: &str = "UPDATE irongate.canary AS c SET next_at = pg_catalog.clock_timestamp() WHERE c.flow = $1 \
         AND c.next_at IS NULL AND pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()) > c.next_xid";
    const NEXT: &str = "UPDATE irongate.canary AS c SET xid = c.next_xid, at = c.next_at, next_at = NULL, \
         next_xid = pg_catalog.pg_current_xact_id() WHERE c.flow = $1 \
         AND c.next_at < timestamptz '2000-01-01 00:00:00+00' + $2::bigint * interval '1 microsecond' \
         AND pg_catalog.pg_xact_commit_timestamp(c.xid::pg_catalog.xid) IS NOT NULL";
    if client.execute(NEXT, &[&flow, &applied.0]).await? == 0 {
        client.execute(ENDED, &[&flow]).await?;
    }
    Ok(())
}

/// Lets a flow go on that has stopped with [`Error::VersionsForgotten`]: what it has not applied yet is applied over rows
/// of unknown version. Returns since when versions may be unknown; `None` if the flow has not begun.
///
/// # Errors
/// [`Error::Target`].
pub async fn accept_conflicts(client: &Client, flow: &str) -> Result<Option<String>, Error> {
    const SQL: &str = "DELETE FROM irongate.canary WHERE flow = $1 \
         RETURNING pg_catalog.to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')";
    Ok(client.query_opt(SQL, &[&flow]).await?.map(|row| row.try_get(0)).transpose()?)
}
