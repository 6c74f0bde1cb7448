//! One side's large objects, as they are at one moment.

use irongate_postgres::Session;

use super::diff::{Described, May, Right, Span};
use super::{APPLICATION, LOCK_LIMIT};
use crate::end::{As, End};
use crate::error::Error;
use crate::setup::patience;

/// What one call of the server's hash gets: so much of a content is in its memory at a time.
const PIECE: i64 = 256 << 10;

/// Objects of one page. The privileges are asked of the catalog, because a function for that came with PostgreSQL 18 only;
/// they are those that the server looks at when it opens an object (`inv_open`).
const LIST: &str = "
    SELECT m.oid, pg_catalog.pg_get_userbyid(m.lomowner)::pg_catalog.text,
           ARRAY(SELECT DISTINCT a.privilege_type || CASE WHEN a.is_grantable THEN '* ' ELSE ' ' END
                     || CASE WHEN a.grantee = m.lomowner THEN '' WHEN a.grantee = 0 THEN 'PUBLIC'
                             ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END
                   FROM pg_catalog.aclexplode(coalesce(m.lomacl, pg_catalog.acldefault('L', m.lomowner))) a),
           pg_catalog.obj_description(m.oid, 'pg_largeobject'),
           every.thing OR r.reads, every.thing OR (r.reads AND r.writes),
           every.thing OR pg_catalog.pg_has_role(m.lomowner, 'USAGE')
      FROM pg_catalog.pg_largeobject_metadata m
     CROSS JOIN (SELECT rolsuper OR pg_catalog.current_setting('lo_compat_privileges')::pg_catalog.bool
                   FROM pg_catalog.pg_roles WHERE rolname = CURRENT_USER) every (thing)
     CROSS JOIN LATERAL (
           SELECT coalesce(pg_catalog.bool_or(a.privilege_type = 'SELECT'), false),
                  coalesce(pg_catalog.bool_or(a.privilege_type = 'UPDATE'), false)
             FROM pg_catalog.aclexplode(coalesce(m.lomacl, pg_catalog.acldefault('L', m.lomowner))) a
            WHERE a.grantee = 0 OR pg_catalog.pg_has_role(a.grantee, 'USAGE')) r (reads, writes)
     WHERE m.oid > $1 ORDER BY m.oid LIMIT $2";

/// Opens each for reading, goes to its end, and closes it.
const SIZES: &str = "
    SELECT w.oid, pg_catalog.lo_lseek64(w.fd, 0, 2), pg_catalog.lo_close(w.fd)
      FROM (SELECT o.oid, pg_catalog.lo_open(o.oid, 262144) FROM pg_catalog.unnest($1::pg_catalog.oid[]) o (oid) OFFSET 0)
           w (oid, fd)";

/// The hashes of pieces, hashed: neither side needs more than a piece and its list of hashes in memory.
const HASHES: &str = "
    SELECT w.number, (SELECT pg_catalog.sha256(pg_catalog.string_agg(
                                 pg_catalog.sha256(pg_catalog.lo_get(w.oid, p.piece, $4)), ''::pg_catalog.bytea ORDER BY p.piece))
                        FROM pg_catalog.generate_series(w.start, w.start + w.length - 1, $4::pg_catalog.int4::pg_catalog.int8) p (piece))
      FROM unnest($1::pg_catalog.oid[], $2::pg_catalog.int8[], $3::pg_catalog.int8[])
           WITH ORDINALITY w (oid, start, length, number) ORDER BY w.number";

/// Has a session live as long as the work takes: one waits for the other.
pub(super) const ENDLESS: &str = "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
     WHERE name IN ('transaction_timeout', 'idle_session_timeout')";

/// A session that reads under one snapshot.
pub(super) struct Side<'a> {
    pub(super) end: End<'a>,
    pub(super) session: Session,
    /// The role that reads.
    pub(super) role: String,
}

/// As whom the large objects of a database are dealt with: its owner is seldom one of Irongate's roles.
pub(super) fn who(end: &End<'_>) -> As {
    if end.address.admin.is_some() { As::Admin } else { end.own() }
}

/// The name of that role.
pub(super) fn role(end: &End<'_>) -> String {
    let login = end.address.admin.as_ref().unwrap_or_else(|| end.own_login());
    login.endpoint.user().to_owned()
}

impl<'a> Side<'a> {
    /// Begins to read.
    pub(super) async fn open(end: End<'a>) -> Result<Self, Error> {
        const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        let session = end.connect(who(&end), APPLICATION).await?;
        // By itself, since an isolation level is refused behind a query of the same message.
        for sql in [&format!("{}; {ENDLESS}", patience(LOCK_LIMIT)), BEGIN] {
            session.batch_execute(sql).await.map_err(|error| end.failed("begin to read", error))?;
        }
        Ok(Self { end, session, role: role(&end) })
    }

    fn failed(&self, error: impl Into<irongate_postgres::Error>) -> Error {
        self.end.failed("read the large objects", error)
    }

    /// How many there are.
    pub(super) async fn count(&self) -> Result<u64, Error> {
        super::count(&self.session).await.map_err(|error| self.failed(error))
    }

    /// The next page, behind an OID, in the order of OIDs.
    pub(super) async fn page(&self, after: u32, most: usize) -> Result<Vec<Described>, Error> {
        let listed = async {
            let mut page = Vec::new();
            let limit = i64::try_from(most).unwrap_or(i64::MAX);
            for row in self.session.query(LIST, &[&after, &limit]).await? {
                let texts: Vec<String> = row.try_get(2)?;
                let mut rights: Vec<Right> = texts.iter().filter_map(|text| Right::of_text(text)).collect();
                rights.sort();
                page.push(Described {
                    oid: row.try_get(0)?,
                    owner: row.try_get(1)?,
                    rights,
                    comment: row.try_get(3)?,
                    may: May { read: row.try_get(4)?, write: row.try_get(5)?, own: row.try_get(6)? },
                    size: None,
                });
            }
            let readable: Vec<u32> = page.iter().filter(|one| one.may.read).map(|one| one.oid).collect();
            for row in self.session.query(SIZES, &[&readable]).await? {
                let oid: u32 = row.try_get(0)?;
                if let Ok(place) = page.binary_search_by_key(&oid, |one| one.oid) {
                    page[place].size = Some(row.try_get(1)?);
                }
            }
            Ok::<_, tokio_postgres::Error>(page)
        };
        listed.await.map_err(|error| self.failed(error))
    }

    /// The hash of each span.
    pub(super) async fn hashes(&self, spans: &[Span]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let oids: Vec<u32> = spans.iter().map(|span| span.oid).collect();
        let starts: Vec<i64> = spans.iter().map(|span| span.from).collect();
        let lengths: Vec<i64> = spans.iter().map(|span| span.length).collect();
        let piece = i32::try_from(PIECE).unwrap_or(i32::MAX);
        let asked = async {
            let rows = self.session.query(HASHES, &[&oids, &starts, &lengths, &piece]).await?;
            rows.iter().map(|row| row.try_get(1)).collect::<Result<_, _>>()
        };
        asked.await.map_err(|error: tokio_postgres::Error| self.failed(error))
    }

    /// The whole contents of small objects, by their OIDs.
    pub(super) async fn contents(&self, oids: &[u32]) -> Result<Vec<(u32, Vec<u8>)>, Error> {
        const SQL: &str =
            "SELECT o.oid, pg_catalog.lo_get(o.oid) FROM pg_catalog.unnest($1::pg_catalog.oid[]) o (oid)";
        if oids.is_empty() {
            return Ok(Vec::new());
        }
        let asked = async {
            let rows = self.session.query(SQL, &[&oids]).await?;
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, _>>()
        };
        asked.await.map_err(|error: tokio_postgres::Error| self.failed(error))
    }

    /// A part of a content; less at its end.
    pub(super) async fn part(&self, oid: u32, from: i64, length: i32) -> Result<Vec<u8>, Error> {
        const SQL: &str = "SELECT pg_catalog.lo_get($1, $2, $3)";
        let row = self.session.query_one(SQL, &[&oid, &from, &length]).await;
        row.and_then(|row| row.try_get(0)).map_err(|error| self.failed(error))
    }
}
