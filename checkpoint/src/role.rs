//! Which site writes a database, in which epoch, and which run is about to change that: one row in each of the two
//! databases.
//!
//! A database that both sites write has no such row, and neither has one whose sites have never changed their roles: the
//! configuration says then who writes, in the first epoch. Extract asks before it streams, so that a site that was live
//! once and comes back learns that it is not.

use irongate_postgres::sql::quote_identifier;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::error::Error;
use crate::table::CHECKPOINT_SCHEMA;

/// The first epoch of every database.
pub const FIRST_EPOCH: u64 = 1;

/// The answers that [`Role::of_texts`] takes. Fails where there is no such table; [`ROLE_EXISTS`] tells.
pub const ROLE_QUERY: &str =
    "SELECT live, epoch, next_live, next_epoch, run, holder, run_since::text FROM irongate.role";
/// Whether there is a table to ask. Looks into the catalogs, because to look a name up takes a right to its schema.
pub const ROLE_EXISTS: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c \
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'irongate' AND c.relname = 'role')";

/// Whose turn it is to write a database.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Role {
    /// The site that writes.
    pub live: String,
    /// In which epoch.
    pub epoch: u64,
    /// The site that is about to write, and in which epoch.
    pub next: Option<(String, u64)>,
    /// The run that has the database in hand.
    pub run: Option<Holder>,
}

/// A run that has a database in hand.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// The run's id.
    pub run: String,
    /// Who runs it, and where.
    pub holder: String,
    /// Since when, as the server prints it.
    pub since: String,
}

/// The statements that make the table and let `readers` look into it; to be run by the schema's owner. They can be run
/// again.
pub fn role_setup(readers: &[&str]) -> Vec<String> {
    let mut readers: Vec<String> = readers.iter().map(|role| quote_identifier(role)).collect();
    readers.dedup();
    let readers = readers.join(", ");
    vec![
        format!(
            "CREATE TABLE IF NOT EXISTS {CHECKPOINT_SCHEMA}.role (\n\
             \x20   one boolean PRIMARY KEY DEFAULT true CHECK (one),\n\
             \x20   live text NOT NULL,\n\
             \x20   epoch bigint NOT NULL CHECK (epoch > 0),\n\
             \x20   next_live text,\n\
             \x20   next_epoch bigint CHECK (next_epoch > epoch),\n\
             \x20   run text,\n\
             \x20   holder text,\n\
             \x20   run_since timestamptz,\n\
             \x20   changed timestamptz NOT NULL DEFAULT now()\n)"
        ),
        format!("GRANT USAGE ON SCHEMA {CHECKPOINT_SCHEMA} TO {readers}"),
        format!("GRANT SELECT ON {CHECKPOINT_SCHEMA}.role TO {readers}"),
    ]
}

impl Role {
    /// What a database says; `None` if nothing has ever changed its sites' roles.
    ///
    /// # Errors
    /// [`Error::Sql`], [`Error::BadRole`].
    ///
    /// Cancel-safe.
    pub async fn load(client: &Client) -> Result<Option<Self>, Error> {
        let failed = |error| Error::sql("ask for the site's role", error);
        let exists = client.query_one(ROLE_EXISTS, &[]).await.and_then(|row| row.try_get(0));
        if !exists.map_err(failed)? {
            return Ok(None);
        }
        let Some(row) = client.query_opt(ROLE_QUERY, &[]).await.map_err(failed)? else { return Ok(None) };
        let number = |column| row.try_get::<_, Option<i64>>(column).map(|n| n.map(|n| n.to_string()));
        let text = |column| row.try_get::<_, Option<String>>(column);
        let texts = [
            text(0).map_err(failed)?,
            number(1).map_err(failed)?,
            text(2).map_err(failed)?,
            number(3).map_err(failed)?,
            text(4).map_err(failed)?,
            text(5).map_err(failed)?,
            text(6).map_err(failed)?,
        ];
        Self::of_texts(&texts).map(Some)
    }

    /// Reads the answers to [`ROLE_QUERY`].
    ///
    /// # Errors
    /// [`Error::BadRole`] for what set-up and the plans never write.
    pub fn of_texts(row: &[Option<String>]) -> Result<Self, Error> {
        let bad = |column: &'static str| Error::BadRole { column };
        let text = |column: usize| row.get(column).cloned().flatten();
        let epoch = |column: usize| -> Result<Option<u64>, Error> {
            text(column).map(|text| text.parse().map_err(|_| bad("epoch"))).transpose()
        };
        let next = text(2).map(|site| Ok::<_, Error>((site, epoch(3)?.ok_or_else(|| bad("next_epoch"))?)));
        let run = text(4).map(|run| Holder {
            run,
            holder: text(5).unwrap_or_default(),
            since: text(6).unwrap_or_default(),
        });
        Ok(Self {
            live: text(0).ok_or_else(|| bad("live"))?,
            epoch: epoch(1)?.ok_or_else(|| bad("epoch"))?,
            next: next.transpose()?,
            run,
        })
    }

    /// The epoch in which `site` may capture what it writes; `None` if it is not its turn. A site that is about to write
    /// may capture before, so that it does from its first transaction on. One that writes already does so in its epoch until
    /// a later one stands, since the run that is to bring it may be taken back.
    pub fn admits(&self, site: &str) -> Option<u64> {
        match &self.next {
            _ if self.live == site => Some(self.epoch),
            Some((next, epoch)) if next == site => Some(*epoch),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(row: [&str; 7]) -> Vec<Option<String>> {
        row.iter().map(|text| (!text.is_empty()).then(|| (*text).to_owned())).collect()
    }

    #[test]
    fn a_site_captures_while_it_writes_and_from_before_it_does() {
        let role = Role::of_texts(&texts(["main", "4", "", "", "", "", ""])).unwrap();
        assert_eq!((role.admits("main"), role.admits("secondary")), (Some(4), None));
        let role = Role::of_texts(&texts(["main", "4", "secondary", "5", "r", "dba@host", "now"])).unwrap();
        assert_eq!((role.admits("main"), role.admits("secondary")), (Some(4), Some(5)));
        assert_eq!(role.run.map(|run| run.holder), Some("dba@host".to_owned()));
        let role = Role::of_texts(&texts(["main", "4", "main", "5", "r", "dba@host", "now"])).unwrap();
        assert_eq!(role.admits("main"), Some(4), "what is to come may be taken back");
    }

    #[test]
    fn a_row_that_somebody_has_spoilt_is_an_error() {
        for row in
            [["", "1", "", "", "", "", ""], ["a", "", "", "", "", "", ""], ["a", "1", "b", "", "", "", ""]]
        {
            assert!(Role::of_texts(&texts(row)).is_err());
        }
    }
}
