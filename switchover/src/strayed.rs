//! The mark of a site that was written while another one wrote: it may be no copy any more.
//!
//! No fence shows afterwards that a site was open for a while, and nothing that was written there goes anywhere. So whoever
//! lets that happen leaves a mark, and no planned change of roles takes such a site for a copy until somebody has said
//! that it is one again, or it has been made one.

use crate::error::Error;
use crate::fence::is_missing;
use crate::place::Place;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS irongate.strayed (
    at timestamptz NOT NULL DEFAULT now(), what text NOT NULL)";

/// Marks a site.
///
/// # Errors
/// [`Error::NotSetUp`], [`Error::Database`].
pub async fn mark(place: &Place, what: &str) -> Result<(), Error> {
    let failed = || place.failed("note that the site was open");
    place.session.batch_execute(TABLE).await.map_err(|error| {
        if is_missing(&error) { Error::NotSetUp { end: place.to_string() } } else { failed()(error) }
    })?;
    let marked = place.session.execute("INSERT INTO irongate.strayed (what) VALUES ($1)", &[&what]).await;
    marked.map(drop).map_err(failed())
}

/// What is marked of a site, the first first.
///
/// # Errors
/// [`Error::Database`].
pub async fn found(place: &Place) -> Result<Vec<String>, Error> {
    found_since(place, None).await
}

/// What is marked of a site since a time of its clock, in seconds since 1970-01-01 00:00 UTC; all of it if none is given.
///
/// # Errors
/// [`Error::Database`].
pub async fn found_since(place: &Place, seconds: Option<&str>) -> Result<Vec<String>, Error> {
    const SQL: &str = "SELECT at::text || ': ' || what FROM irongate.strayed
         WHERE $1::text IS NULL OR extract(epoch FROM at) >= $1::text::numeric ORDER BY at";
    let failed = || place.failed("ask whether the site was open");
    match place.session.query(SQL, &[&seconds]).await {
        Err(error) if is_missing(&error) => Ok(Vec::new()),
        rows => rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect()).map_err(failed()),
    }
}

/// Takes the marks away: the site is a copy again.
///
/// # Errors
/// [`Error::Database`].
pub async fn clear(place: &Place) -> Result<(), Error> {
    match place.session.batch_execute("DELETE FROM irongate.strayed").await {
        Err(error) if is_missing(&error) => Ok(()),
        done => done.map_err(place.failed("note that the site is a copy again")),
    }
}
