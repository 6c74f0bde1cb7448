//! What Irongate's own roles may do, which a fence leaves as it is.
//!
//! They may have it by a group that the fence takes everything from, or from somebody whose right to give falls. So it is
//! looked before and behind the taking, in its transaction, and what would be lost is lent to them directly, until the
//! fence is opened.

use std::collections::BTreeSet;

use super::saved::{NOT_THEIRS, Right, right};
use crate::place::Place;

/// Rights of Extract's and Replicat's roles, by whomever they have them, each as the owner would give it.
///
/// # Errors
/// What the server says.
pub(super) async fn rights(place: &Place) -> Result<BTreeSet<Right>, tokio_postgres::Error> {
    let sql = format!(
        "
        WITH own AS (SELECT oid, rolname FROM pg_catalog.pg_roles
                      WHERE rolname = ANY ($1::text[]::name[]) AND NOT rolsuper),
             theirs AS (SELECT c.oid, c.relkind, n.nspname, c.relname, pg_catalog.pg_get_userbyid(c.relowner) AS owner
                          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                         WHERE c.relkind IN ('r', 'p', 'v', 'f', 'S') AND {NOT_THEIRS}),
             have (kind, oid, attname, attnum, role, p) AS (
               SELECT 'table', t.oid, NULL::name, 0::int2, own.rolname, p
                 FROM own, theirs t, pg_catalog.unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) p
                WHERE t.relkind <> 'S' AND pg_catalog.has_table_privilege(own.oid, t.oid, p)
               UNION ALL
               SELECT 'sequence', t.oid, NULL, 0::int2, own.rolname, p
                 FROM own, theirs t, pg_catalog.unnest(ARRAY['USAGE', 'UPDATE']) p
                WHERE t.relkind = 'S' AND pg_catalog.has_sequence_privilege(own.oid, t.oid, p)
               UNION ALL
               SELECT 'column', t.oid, a.attname, a.attnum, own.rolname, p
                 FROM own, theirs t JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid,
                      pg_catalog.unnest(ARRAY['INSERT', 'UPDATE']) p
                WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attacl IS NOT NULL
                  AND NOT pg_catalog.has_table_privilege(own.oid, t.oid, p)
                  AND pg_catalog.has_column_privilege(own.oid, t.oid, a.attnum, p))
        SELECT h.kind, t.nspname::text, t.relname::text, h.attname::text, t.owner::text, h.role::text, h.p, false, true,
               t.oid, h.attnum
          FROM have h JOIN theirs t ON t.oid = h.oid"
    );
    // The administrator works as whoever he is a member of.
    let own: Vec<&String> = place.own.iter().skip(1).collect();
    place.session.query(&sql, &[&own]).await?.iter().map(right).collect()
}
