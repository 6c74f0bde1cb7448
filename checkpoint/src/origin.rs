//! Replication origins at the target: what Replicat writes is marked with one, so that the reverse Extract never sends
//! it back (PostgreSQL manual, "Replication Progress Tracking").
//!
//! The position that an origin keeps is a by-product and never an answer to "how far": authority lies in the checkpoint
//! table. The position can lie *behind*, because a transaction that takes no transaction id leaves it where it was. And
//! it can lie *ahead*, in two ways:
//!
//! * `pg_replication_origin_xact_setup` is session state and survives a ROLLBACK, so the next transaction of the session
//!   that commits anything takes the failed transaction's position with it. [`OriginTransaction`] makes the reset
//!   impossible to forget.
//! * From PostgreSQL 16 on the rollback of a transaction that has a transaction id itself moves the origin to the
//!   position in force (observed on 16, 17 and 18, not on 15). So the position is given *last*, right before COMMIT: what
//!   fails before moves nothing. A COMMIT that fails itself, on a deferred constraint say, still does.

mod transaction;

use irongate_postgres::sql::quote_identifier;
use irongate_trail::ResumeLsn;
use postgres_types::PgLsn;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

pub use transaction::{OriginSession, OriginTransaction};

use crate::error::Error;
use crate::session::OtherSession;
use crate::sql::{from_pg, to_pg};

/// Begins the names of all of Irongate's origins.
const PREFIX: &str = "irongate_";
/// Between the flow and the number of a parallel session.
const WORKER: char = '/';

/// A replication origin, by name. Origins belong to the cluster and not to a database, so flow names must be unique
/// among the flows that end in one cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    name: String,
}

impl Origin {
    /// The name of the origin under which `flow` is applied.
    ///
    /// # Errors
    /// [`Error::BadName`] for a flow that is empty, longer than 128 bytes, or has a slash or control character.
    pub fn name_for(flow: &str) -> Result<String, Error> {
        crate::held_file::check_name("flow", flow)?;
        Ok(format!("{PREFIX}{flow}"))
    }

    /// The origin of `flow`.
    ///
    /// # Errors
    /// As [`name_for`](Self::name_for).
    pub fn of_flow(flow: &str) -> Result<Self, Error> {
        Ok(Self { name: Self::name_for(flow)? })
    }

    /// The origin of the flow's parallel session `number`: one session at a time can use an origin.
    ///
    /// # Errors
    /// As [`name_for`](Self::name_for).
    pub fn of_worker(flow: &str, number: u32) -> Result<Self, Error> {
        Ok(Self { name: format!("{}{WORKER}{number}", Self::name_for(flow)?) })
    }

    /// The flow whose origin has this name; `None` for the origin of somebody else. For an Extract that filters by the
    /// origin's name (PostgreSQL 15).
    pub fn flow_of(name: &str) -> Option<&str> {
        let flow = name.strip_prefix(PREFIX)?;
        let flow = match flow.split_once(WORKER) {
            Some((flow, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => flow,
            Some(_) => return None,
            None => flow,
        };
        (!flow.is_empty()).then_some(flow)
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many of the origins, from the first on, are there or can be made so that room is left for so many others. A server
    /// has room for as many as `max_replication_slots` says, from PostgreSQL 18 on `max_active_replication_origins`.
    ///
    /// # Errors
    /// [`Error::Sql`].
    pub async fn room_for(origins: &[Self], client: &Client, for_others: i64) -> Result<usize, Error> {
        const SQL: &str = "SELECT coalesce(pg_catalog.current_setting('max_active_replication_origins', true), \
                      pg_catalog.current_setting('max_replication_slots'))::pg_catalog.int8 - pg_catalog.count(*), \
                    coalesce(pg_catalog.array_agg(roname) FILTER (WHERE roname = ANY ($1)), '{}') \
             FROM pg_catalog.pg_replication_origin";
        let fail = |e| Error::sql("ask for room for replication origins", e);
        let names: Vec<&str> = origins.iter().map(Self::name).collect();
        let row = client.query_one(SQL, &[&names]).await.map_err(fail)?;
        let (free, known): (i64, Vec<String>) =
            (row.try_get(0).map_err(fail)?, row.try_get(1).map_err(fail)?);
        let mut free = free - for_others;
        let has_room = |name: &&&str| {
            let is_known = known.iter().any(|known| known == *name);
            free -= i64::from(!is_known);
            is_known || free >= 0
        };
        Ok(names.iter().take_while(has_room).count())
    }

    /// Creates the origin; `false` if it exists.
    ///
    /// # Errors
    /// [`Error::OriginLimit`], [`Error::Sql`].
    pub async fn create_if_missing(&self, client: &Client) -> Result<bool, Error> {
        const SQL: &str = "SELECT pg_catalog.pg_replication_origin_create($1) \
                           WHERE pg_catalog.pg_replication_origin_oid($1) IS NULL";
        match client.query_opt(SQL, &[&self.name]).await {
            Ok(row) => Ok(row.is_some()),
            // Somebody else was quicker.
            Err(e) if e.code() == Some(&SqlState::UNIQUE_VIOLATION) => Ok(false),
            Err(e) => Err(self.error("create a replication origin", e)),
        }
    }

    /// Drops the origin; `false` if it does not exist.
    ///
    /// # Errors
    /// [`Error::OriginInUse`], [`Error::Sql`].
    pub async fn drop(&self, client: &Client) -> Result<bool, Error> {
        const SQL: &str = "SELECT pg_catalog.pg_replication_origin_drop($1)";
        match client.execute(SQL, &[&self.name]).await {
            Ok(_) => Ok(true),
            Err(e) => match self.error_or_in_use(client, "drop a replication origin", e).await {
                Error::OriginMissing { .. } => Ok(false),
                error => Err(error),
            },
        }
    }

    /// The origin's position; `None` before the first, or without the origin. With `flush` the answer waits until it is
    /// durable. No place to begin again at: it can lie behind and, from PostgreSQL 16 on, ahead of what is applied.
    ///
    /// # Errors
    /// [`Error::Sql`].
    pub async fn progress(&self, client: &Client, flush: bool) -> Result<Option<ResumeLsn>, Error> {
        const SQL: &str = "SELECT pg_catalog.pg_replication_origin_progress($1, $2)";
        let fail = |e| self.error("ask for the origin's progress", e);
        let row = match client.query_one(SQL, &[&self.name, &flush]).await.map_err(fail) {
            Ok(row) => row,
            Err(Error::OriginMissing { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let lsn: Option<PgLsn> = row.try_get(0).map_err(fail)?;
        Ok(lsn.map(|lsn| ResumeLsn(from_pg(lsn))))
    }

    /// Sets the progress by hand, for the initial load; no session may have the origin set up.
    ///
    /// # Errors
    /// [`Error::OriginInUse`], [`Error::OriginMissing`], [`Error::Sql`].
    pub async fn advance(&self, client: &Client, to: ResumeLsn) -> Result<(), Error> {
        const SQL: &str = "SELECT pg_catalog.pg_replication_origin_advance($1, $2)";
        match client.execute(SQL, &[&self.name, &to_pg(to.0)]).await {
            Ok(_) => Ok(()),
            Err(e) => Err(self.error_or_in_use(client, "advance a replication origin", e).await),
        }
    }

    /// Sets the session of `client` up: from here to its end everything it writes is marked. The origin must never
    /// change inside a transaction, so this refuses to run in one. Connect directly: `DISCARD ALL` does not clear the
    /// origin, and behind a transaction pooler other clients' writes would be marked too.
    ///
    /// # Errors
    /// [`Error::OriginInUse`] naming the session that has it, [`Error::OriginMissing`], [`Error::OriginLimit`],
    /// [`Error::OriginState`] if the session has an origin already, [`Error::Sql`].
    pub async fn session_setup(&self, client: &Client) -> Result<OriginSession, Error> {
        const DOING: &str = "set up the session's replication origin";
        const STATE: &str = "SELECT pg_catalog.pg_replication_origin_session_is_setup(), \
                             pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL";
        const SQL: &str = "SELECT pg_catalog.pg_replication_origin_session_setup($1)";
        let row = client.query_one(STATE, &[]).await.map_err(|e| self.error(DOING, e))?;
        if row.try_get::<_, bool>(0).map_err(|e| self.error(DOING, e))? {
            return Err(self.state("the session has an origin already"));
        }
        if row.try_get::<_, bool>(1).map_err(|e| self.error(DOING, e))? {
            return Err(self.state("the session has written in its transaction already"));
        }
        match client.execute(SQL, &[&self.name]).await {
            Ok(_) => OriginSession::prepare(self.clone(), client).await,
            Err(e) => Err(self.error_or_in_use(client, DOING, e).await),
        }
    }

    pub(crate) fn state(&self, problem: &'static str) -> Error {
        Error::OriginState { origin: self.name.clone(), problem }
    }

    fn error(&self, doing: &'static str, error: tokio_postgres::Error) -> Error {
        match error.code() {
            Some(code) if *code == SqlState::UNDEFINED_OBJECT => {
                Error::OriginMissing { origin: self.name.clone() }
            }
            Some(code)
                if *code == SqlState::PROGRAM_LIMIT_EXCEEDED
                    || *code == SqlState::CONFIGURATION_LIMIT_EXCEEDED =>
            {
                Error::OriginLimit { origin: self.name.clone() }
            }
            _ => Error::sql(doing, error),
        }
    }

    async fn error_or_in_use(
        &self,
        client: &Client,
        doing: &'static str,
        error: tokio_postgres::Error,
    ) -> Error {
        if error.code() != Some(&SqlState::OBJECT_IN_USE) {
            return self.error(doing, error);
        }
        // The pid stands only in the message, whatever its language: it is the last number there.
        let pid = error.as_db_error().and_then(|db| last_number(db.message()));
        let session = match pid {
            Some(pid) => OtherSession::describe(client, pid).await,
            None => OtherSession::default(),
        };
        Error::OriginInUse { origin: self.name.clone(), session: Box::new(session) }
    }
}

fn last_number(text: &str) -> Option<i32> {
    text.rsplit(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty())?.parse().ok()
}

/// The statements by which a superuser lets `role`, which is none, use origins and apply with triggers and foreign keys
/// silent. Functions are granted in the database where this is run, the parameter in the cluster; they can be run again.
pub fn origin_grants(role: &str) -> Vec<String> {
    const FUNCTIONS: [&str; 11] = [
        "pg_replication_origin_create(text)",
        "pg_replication_origin_drop(text)",
        "pg_replication_origin_oid(text)",
        "pg_replication_origin_session_setup(text)",
        "pg_replication_origin_session_reset()",
        "pg_replication_origin_session_is_setup()",
        "pg_replication_origin_session_progress(boolean)",
        "pg_replication_origin_xact_setup(pg_lsn, timestamptz)",
        "pg_replication_origin_xact_reset()",
        "pg_replication_origin_advance(text, pg_lsn)",
        "pg_replication_origin_progress(text, boolean)",
    ];
    let role = quote_identifier(role);
    let functions = FUNCTIONS.map(|function| format!("pg_catalog.{function}")).join(",\n    ");
    vec![
        format!("GRANT EXECUTE ON FUNCTION\n    {functions}\nTO {role}"),
        format!("GRANT SET ON PARAMETER session_replication_role TO {role}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flow_of_an_origin_is_found_again_and_strangers_are_not_taken_for_ours() {
        assert_eq!(Origin::flow_of(Origin::of_flow("csp").unwrap().name()), Some("csp"));
        assert_eq!(Origin::flow_of(Origin::of_worker("csp", 7).unwrap().name()), Some("csp"));
        for stranger in ["pg_16399", "irongate_", "irongate_/1", "irongate_csp/", "irongate_csp/x", "csp", ""]
        {
            assert_eq!(Origin::flow_of(stranger), None, "{stranger}");
        }
        assert!(Origin::name_for("a/1").is_err(), "a flow that would look like a worker of another");
        assert!(Origin::name_for("").is_err());
    }

    #[test]
    fn the_pid_is_the_last_number_of_the_servers_message_in_any_language() {
        let cases = [
            ("replication origin with ID 1 is already active for PID 4711", Some(4711)),
            ("Replication-Origin mit ID 12 ist bereits aktiv für PID 33", Some(33)),
            ("PID 5, ID 6.", Some(6)),
            ("no number", None),
            ("99999999999999", None),
        ];
        for (text, pid) in cases {
            assert_eq!(last_number(text), pid, "{text}");
        }
    }
}
