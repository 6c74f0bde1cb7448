//! The source as the watch sees it: one session that is kept, and asked for the slot and the end of the log.

use std::time::Duration;

use irongate_checkpoint::Role;
use irongate_postgres::{Endpoint, Session, catalog};
use irongate_trail::Lsn;

use super::SlotView;

/// How long the source may take to answer, the connection included.
const PATIENCE: Duration = Duration::from_secs(5);

/// A source.
#[derive(Debug)]
pub(super) struct Source {
    endpoint: Endpoint,
    site: Option<String>,
    session: Option<Session>,
}

/// What a source says.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) end: Lsn,
    pub(super) slot: Option<SlotView>,
}

impl Source {
    /// At `site`, where one site writes the database at a time.
    pub(super) fn new(endpoint: Endpoint, site: Option<String>) -> Self {
        Self { endpoint, site, session: None }
    }

    /// Asks. After an error, the next time begins with a new connection. Cancelling does the same.
    pub(super) async fn ask(&mut self, slot: Option<&str>) -> Result<Answer, String> {
        // Whatever happens on the way, a session that was in use is not used again.
        let session = self.session.take();
        let asked = async {
            let session = match session {
                Some(session) => session,
                None => Session::connect(&self.endpoint, "irongate manager").await?,
            };
            let end = catalog::current_wal_lsn(&session).await?;
            let facts = match slot {
                Some(slot) => catalog::slot(&session, slot).await?,
                None => None,
            };
            // Where it is another site's turn there is no slot, and none is lost.
            let turn = match (slot, &facts, &self.site) {
                (Some(_), None, Some(site)) => {
                    let role = Role::load(&session).await.ok().flatten();
                    role.is_none_or(|role| role.admits(site).is_some())
                }
                _ => true,
            };
            Ok::<_, irongate_postgres::Error>((session, end, facts, turn))
        };
        let (session, end, facts, turn) = match tokio::time::timeout(PATIENCE, asked).await {
            Ok(answer) => answer.map_err(|error| error.to_string())?,
            Err(_) => return Err(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        self.session = Some(session);
        let missing = |name: &str| SlotView {
            name: name.to_owned(),
            exists: false,
            active: false,
            wal_status: None,
            retained_bytes: None,
            safe_bytes: None,
            lost: Some("there is no such slot".to_owned()),
        };
        let view = match (slot, facts) {
            (None, _) => None,
            (Some(_), None) if !turn => None,
            (Some(name), None) => Some(missing(name)),
            (Some(_), Some(facts)) => Some(SlotView {
                retained_bytes: facts.restart_lsn.map(|restart| end.bytes_since(restart)),
                lost: facts.lost().map(str::to_owned),
                name: facts.name,
                exists: true,
                active: facts.active,
                wal_status: facts.wal_status,
                safe_bytes: facts.safe_wal_size,
            }),
        };
        Ok(Answer { end, slot: view })
    }
}
