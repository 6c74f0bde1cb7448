//! What was done at a site that comes back since its rows were read, or since the copy of it began.
//!
//! Behind the fence nobody should write there. But a superuser can, somebody may open the site while a run is cut off, and
//! what comes into a table that was read already is neither in what the compare has found nor overwritten by a copy. So it
//! is noted where the site's log and clock stand, durably, before a row is read; and before the site is called a copy,
//! its log is looked through from there on, as far as a slot still shows it, and the marks of its openings. Whatever is
//! found there means that the rows are to be read again.
//!
//! What a repair and Replicat write carries an origin and does not count. Behind a copy the log is as long as the tables are
//! large; so there only the marks are looked for, and the log when the copy was cut off and goes on.

use std::path::PathBuf;

use irongate_trail::Lsn;
use serde::{Deserialize, Serialize};
use tokio_postgres::types::PgLsn;

use super::by::By;
use super::peek::{self, Shown};
use super::{Run, Unit};
use crate::error::Error;
use crate::place::Place;
use crate::{fence, strayed};

/// Where a site stood before its rows were read.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Since {
    /// For a compare, or for a copy.
    pub(super) by: By,
    /// In its log.
    lsn: String,
    /// By its clock, in seconds since 1970-01-01 00:00 UTC.
    at: String,
}

impl Run<'_> {
    /// Closes the site that comes back, and notes where it stands.
    pub(super) async fn begin_reading(&self, unit: &Unit<'_>, by: By) -> Result<(), Error> {
        const STANDS: &str = "SELECT pg_catalog.pg_current_wal_insert_lsn(),
                extract(epoch FROM pg_catalog.clock_timestamp())::text";
        let back = unit.from()?;
        fence::close(back, &self.how_to_close()).await?;
        let failed = || back.failed("ask where its log stands");
        let row = back.session.query_one(STANDS, &[]).await.map_err(failed())?;
        let lsn: PgLsn = row.try_get(0).map_err(failed())?;
        let at = row.try_get(1).map_err(failed())?;
        let since = Since { by, lsn: Lsn(lsn.into()).to_string(), at };
        super::repair::write(&self.since_file(unit), &serde_json::to_vec(&since).unwrap_or_default())
    }

    /// What was noted; nothing before anything was read.
    pub(super) fn since(&self, unit: &Unit<'_>) -> Result<Option<Since>, Error> {
        let path = self.since_file(unit);
        let read = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|source| Error::Found { path: path.clone(), source })?,
        };
        serde_json::from_slice(&read).map(Some).map_err(|error| Error::Found { path, source: error.into() })
    }

    /// Fails where anything was committed, or the site was open, since its rows were read.
    pub(super) async fn unwritten(&self, unit: &Unit<'_>) -> Result<(), Error> {
        self.unopened(unit).await?;
        let back = unit.from()?;
        let since = self.since(unit)?.and_then(|since| since.lsn.parse::<Lsn>().ok());
        let Some(since) = since else { return Err(written(back, "nothing is noted")) };
        match peek::behind(back, unit.pair.into, since).await? {
            Shown::Transactions { count: 0, .. } | Shown::NoSlot | Shown::Lost => Ok(()),
            Shown::Transactions { count, .. } => {
                Err(written(back, &format!("{count} transactions were committed there")))
            }
        }
    }

    /// Fails where the site is open, or was since its rows were read.
    pub(super) async fn unopened(&self, unit: &Unit<'_>) -> Result<(), Error> {
        let back = unit.from()?;
        let at = self.since(unit)?.map(|since| since.at);
        if let Some(mark) = strayed::found_since(back, at.as_deref()).await?.pop() {
            return Err(written(back, &mark));
        }
        fence::still_closed(back).await
    }

    pub(super) fn since_file(&self, unit: &Unit<'_>) -> PathBuf {
        let directory = self.configuration.state_directory.join(crate::journal::DIRECTORY);
        directory.join(format!("{}-{}.since", self.heading.run, unit.pair.out_of.name))
    }
}

fn written(back: &Place, what: &str) -> Error {
    Error::Written { end: back.to_string(), what: what.to_owned() }
}
