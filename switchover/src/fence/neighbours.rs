//! LOGIN, which belongs to the whole server: other databases there that the same roles log in to.
//!
//! The last of a server's databases to be closed takes LOGIN away, and the first one to be opened gives it back; a fence
//! in between holds by CONNECT and by the rights, as one whose applications keep their LOGIN does. For that, each fence
//! saves LOGIN of its roles, whoever has taken it.

use std::collections::BTreeSet;

use irongate_postgres::Session;

use crate::error::Error;
use crate::place::{APPLICATION, Neighbour, Place};

/// What is so in a server's other databases.
#[derive(Default, Debug)]
pub(super) struct Neighbours {
    /// Roles that another database of the server lets in.
    pub(super) open: BTreeSet<String>,
    /// Roles whose LOGIN a fence of another database has saved.
    pub(super) saved: BTreeSet<String>,
}

/// Which server this is: copies have the same identifier, and did not start at the same moment.
const SERVER: &str =
    "SELECT pg_catalog.format('%s %s', system_identifier, pg_catalog.pg_postmaster_start_time())
     FROM pg_catalog.pg_control_system()";

/// Asks the other databases that share roles with this one. One that cannot be asked lets nobody in.
///
/// # Errors
/// [`Error::Database`], [`Error::Saved`].
pub(super) async fn look(place: &Place) -> Result<Neighbours, Error> {
    let mut found = Neighbours::default();
    if place.neighbours.is_empty() {
        return Ok(found);
    }
    let server = server(&place.session).await.map_err(place.failed("ask which server this is"))?;
    for neighbour in &place.neighbours {
        let Neighbour { database, endpoint, roles, .. } = neighbour;
        let asked = async {
            let session = Session::connect(endpoint, APPLICATION).await?;
            Ok::<_, irongate_postgres::Error>((server_of(&session).await?, session))
        };
        let session = match asked.await {
            Ok((other, session)) if other == server => session,
            Ok(_) => continue,
            Err(error) => {
                tracing::warn!(database, %error, "cannot ask whether another database lets the same roles in");
                continue;
            }
        };
        let saved = if neighbour.may_be_fenced { super::load_at(&session, place).await? } else { None };
        match saved {
            Some((saved, _)) => {
                found.saved.extend(saved.logins.into_iter().filter(|role| roles.contains(role)));
            }
            None => found.open.extend(roles.iter().cloned()),
        }
    }
    Ok(found)
}

async fn server(session: &Session) -> Result<String, tokio_postgres::Error> {
    session.query_one(SERVER, &[]).await?.try_get(0)
}

async fn server_of(session: &Session) -> Result<String, irongate_postgres::Error> {
    Ok(server(session).await?)
}
