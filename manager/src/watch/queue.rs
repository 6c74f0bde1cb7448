//! The error queue of a flow, counted at its target: what waits there is a difference between the sites that nobody sees
//! who looks at lag.

use std::time::Duration;

use irongate_postgres::{Endpoint, Session};

/// More waiting changes than this are not counted: a full queue must not cost the target a scan each turn.
pub const MOST_ERRORS: u64 = 10_000;

/// How long the target may take to answer, the connection included.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether the role may ask; without the table nothing has ever been refused.
const MAY: &str = "SELECT CASE WHEN pg_catalog.has_schema_privilege(n.oid, 'USAGE')
           THEN pg_catalog.has_table_privilege(c.oid, 'SELECT') ELSE false END
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = 'irongate' AND c.relname = 'error_queue'";
/// Reads the index of what is open, and no further than the limit.
const COUNT: &str = "SELECT count(*) FROM (SELECT FROM irongate.error_queue
     WHERE flow = $1 AND state = 'queued' ORDER BY id LIMIT $2) q";

/// A target with its session, which is kept.
#[derive(Debug)]
pub(super) struct Queue {
    endpoint: Endpoint,
    flow: String,
    session: Option<Session>,
}

impl Queue {
    pub(super) fn new(endpoint: Endpoint, flow: String) -> Self {
        Self { endpoint, flow, session: None }
    }

    /// How many changes wait, up to the limit; `None` if that cannot be asked. Cancelling costs the session.
    pub(super) async fn count(&mut self) -> Option<u64> {
        let session = self.session.take();
        let asked = async {
            let session = match session {
                Some(session) => session,
                None => Session::connect(&self.endpoint, "irongate manager").await?,
            };
            let may = match session.query_opt(MAY, &[]).await? {
                None => Some(0),
                Some(row) => row.try_get::<_, bool>(0)?.then_some(1),
            };
            let count = match may {
                Some(1) => {
                    let limit = i64::try_from(MOST_ERRORS).unwrap_or(i64::MAX);
                    let row = session.query_one(COUNT, &[&self.flow, &limit]).await?;
                    Some(row.try_get::<_, i64>(0)?.max(0).cast_unsigned())
                }
                other => other,
            };
            Ok::<_, irongate_postgres::Error>((session, count))
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok((session, count))) => {
                self.session = Some(session);
                count
            }
            Ok(Err(error)) => {
                tracing::debug!(flow = self.flow, %error, "the error queue cannot be counted");
                None
            }
            Err(_) => None,
        }
    }
}
