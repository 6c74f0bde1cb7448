//! Foreign keys, looked after by hand: lost changes are repeated with their triggers silent, since what those did was
//! captured with them, and then nobody else checks that a row still has what it refers to.
//!
//! What the transaction has written is looked at before it commits: its own rows must find what they refer to, and where it
//! took rows away nobody may be left who refers to them.

use irongate_postgres::Session;
use irongate_postgres::sql::{qualified, quote_identifier};

// `unnest` without its schema: only so the parser takes several arrays, and the session's search path is empty.
const KEYS: &str = "
    WITH touched AS (
        SELECT DISTINCT coalesce(a.relid, c.oid) AS oid
          FROM unnest($1::pg_catalog.text[], $2::pg_catalog.text[]) t(schema, name)
          JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema
          JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.name
          LEFT JOIN LATERAL pg_catalog.pg_partition_ancestors(c.oid) a(relid) ON true
    )
    SELECT k.conname::pg_catalog.text, cn.nspname::pg_catalog.text, c.relname::pg_catalog.text,
           pn.nspname::pg_catalog.text, p.relname::pg_catalog.text,
           k.conrelid IN (SELECT oid FROM touched), k.confrelid IN (SELECT oid FROM touched),
           array(SELECT a.attname::pg_catalog.text FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY u(n, i)
                   JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n ORDER BY u.i),
           array(SELECT a.attname::pg_catalog.text FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY u(n, i)
                   JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.n ORDER BY u.i),
           array(SELECT pg_catalog.format('OPERATOR(%I.%s)', s.nspname, o.oprname)
                   FROM pg_catalog.unnest(k.conpfeqop) WITH ORDINALITY u(op, i)
                   JOIN pg_catalog.pg_operator o ON o.oid = u.op
                   JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace ORDER BY u.i)
      FROM pg_catalog.pg_constraint k
      JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace cn ON cn.oid = c.relnamespace
      JOIN pg_catalog.pg_class p ON p.oid = k.confrelid JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
     WHERE k.contype = 'f' AND k.conparentid = 0
       AND (k.conrelid IN (SELECT oid FROM touched) OR k.confrelid IN (SELECT oid FROM touched))
     ORDER BY 1";

/// The first foreign key that would be broken by the transaction that `session` is in, which has put rows into the tables
/// of `written` and taken rows away from those of `taken`, both by schema and name.
pub(super) async fn broken(
    session: &Session,
    written: &[(String, String)],
    taken: &[(String, String)],
) -> Result<Option<String>, tokio_postgres::Error> {
    for (tables, own_rows) in [(written, true), (taken, false)] {
        if tables.is_empty() {
            continue;
        }
        let (schemas, names): (Vec<&str>, Vec<&str>) =
            tables.iter().map(|(schema, name)| (schema.as_str(), name.as_str())).unzip();
        for row in session.query(KEYS, &[&schemas, &names]).await? {
            let text = |place: usize| row.try_get::<_, String>(place);
            let (refers, is_referred): (bool, bool) = (row.try_get(5)?, row.try_get(6)?);
            if !(if own_rows { refers } else { is_referred }) {
                continue;
            }
            let (child, parent) = (qualified(&text(1)?, &text(2)?), qualified(&text(3)?, &text(4)?));
            let (columns, keys, operators): (Vec<String>, Vec<String>, Vec<String>) =
                (row.try_get(7)?, row.try_get(8)?, row.try_get(9)?);
            let given = columns.iter().map(|column| format!("c.{} IS NOT NULL", quote_identifier(column)));
            let given = given.collect::<Vec<_>>().join(" AND ");
            let fits = keys.iter().zip(&operators).zip(&columns).map(|((key, operator), column)| {
                format!("p.{} {operator} c.{}", quote_identifier(key), quote_identifier(column))
            });
            let fits = fits.collect::<Vec<_>>().join(" AND ");
            let own =
                if own_rows { "c.xmin = pg_catalog.pg_current_xact_id()::pg_catalog.xid AND " } else { "" };
            let sql = format!(
                "SELECT EXISTS (SELECT FROM {child} AS c WHERE {own}{given} AND NOT EXISTS (SELECT FROM {parent} AS p WHERE {fits}))"
            );
            if session.query_one(&sql, &[]).await?.try_get(0)? {
                return Ok(Some(format!("foreign key \"{}\" of {}.{}", text(0)?, text(1)?, text(2)?)));
            }
        }
    }
    Ok(None)
}
