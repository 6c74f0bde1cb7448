//! Asks the target what a table looks like.

use irongate_postgres::Session;

use super::{TargetColumn, TargetTable};
use crate::error::Error;

const TABLE: &str = "
SELECT c.oid, c.relkind::text,
       (SELECT count(*) FROM pg_catalog.pg_index i
         WHERE (i.indisunique OR i.indisexclusion) AND i.indrelid = c.oid)
     + (SELECT count(*) FROM pg_catalog.pg_partition_tree(c.oid) p
          JOIN pg_catalog.pg_index i ON i.indrelid = p.relid
          JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
         WHERE p.relid <> c.oid AND (i.indisunique OR i.indisexclusion) AND NOT x.relispartition),
       EXISTS (SELECT FROM pg_catalog.pg_trigger t
                WHERE NOT t.tgisinternal AND t.tgenabled IN ('A', 'R')
                  AND (t.tgrelid = c.oid
                       OR t.tgrelid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree(c.oid) p))),
       EXISTS (SELECT FROM pg_catalog.pg_rewrite r
                WHERE r.ev_class = c.oid AND r.ev_type <> '1' AND r.ev_enabled IN ('A', 'R')),
       c.relrowsecurity
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1 AND c.relname = $2";

/// The base type of a domain is found by recursion. Equality is the operator of the default B-tree or hash class of the
/// type itself, or of the polymorphic type or the type it is coerced to without a function, which `pg_catalog` has.
const COLUMNS: &str = "
WITH RECURSIVE base(attnum, oid) AS (
    SELECT a.attnum, a.atttypid FROM pg_catalog.pg_attribute a
     WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
    SELECT b.attnum, t.typbasetype FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.oid WHERE t.typtype = 'd'
), element AS (
    SELECT b.attnum, t.oid, CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN t.typelem ELSE t.oid END AS elem,
           t.typcategory = 'A' AND t.typelem <> 0 AS is_array
      FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.oid WHERE t.typtype <> 'd'
)
SELECT a.attname, a.attnum, pg_catalog.format_type(e.oid, -1),
       EXISTS (SELECT FROM pg_catalog.pg_cast k
                WHERE k.castsource = 'pg_catalog.text'::pg_catalog.regtype AND k.casttarget = e.oid
                  AND k.castmethod = 'f' AND e.oid >= 16384),
       CASE
         WHEN own.operator IS NOT NULL AND NOT e.is_array THEN own.operator
         WHEN own.operator IS NOT NULL OR x.typtype IN ('e', 'r', 'm')
           OR EXISTS (SELECT FROM pg_catalog.pg_cast k
                        JOIN pg_catalog.pg_opclass oc ON oc.opcintype = k.casttarget AND oc.opcdefault
                        JOIN pg_catalog.pg_am am ON am.oid = oc.opcmethod AND am.amname = 'btree'
                       WHERE k.castsource = x.oid AND k.castmethod = 'b' AND k.castcontext = 'i')
         THEN 'OPERATOR(pg_catalog.=)'
       END,
       a.attgenerated <> '', a.attidentity = 'a',
       a.attnotnull AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conrelid = a.attrelid
               AND k.contype = 'n' AND NOT k.convalidated AND a.attnum = ANY (k.conkey)), e.oid,
       e.oid <> a.atttypid, a.atttypmod,
       (SELECT pg_catalog.quote_ident(cn.nspname) || '.' || pg_catalog.quote_ident(k.collname)
          FROM pg_catalog.pg_collation k JOIN pg_catalog.pg_namespace cn ON cn.oid = k.collnamespace
         WHERE k.oid = a.attcollation AND NOT k.collisdeterministic),
       a.atthasdef OR a.attidentity <> ''
         OR EXISTS (SELECT FROM pg_catalog.pg_type d WHERE d.oid = a.atttypid AND d.typdefault IS NOT NULL)
  FROM pg_catalog.pg_attribute a
  JOIN element e ON e.attnum = a.attnum
  JOIN pg_catalog.pg_type x ON x.oid = e.elem
  LEFT JOIN LATERAL (
       SELECT 'OPERATOR(' || pg_catalog.quote_ident(n.nspname) || '.' || o.oprname || ')' AS operator
         FROM pg_catalog.pg_opclass oc
         JOIN pg_catalog.pg_am am ON am.oid = oc.opcmethod AND am.amname IN ('btree', 'hash')
         JOIN pg_catalog.pg_amop p ON p.amopfamily = oc.opcfamily AND p.amoplefttype = oc.opcintype
              AND p.amoprighttype = oc.opcintype
              AND p.amopstrategy = CASE am.amname WHEN 'btree' THEN 3 ELSE 1 END
         JOIN pg_catalog.pg_operator o ON o.oid = p.amopopr
         JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
        WHERE oc.opcdefault AND oc.opcintype = x.oid
        ORDER BY am.amname LIMIT 1) own ON true
 WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum";

const UNIQUE: &str = "
SELECT i.indkey::pg_catalog.int2[]::pg_catalog.int4[]
  FROM pg_catalog.pg_index i
 WHERE i.indrelid = $1 AND i.indisunique AND i.indimmediate AND i.indisvalid
   AND i.indpred IS NULL AND i.indexprs IS NULL
 ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indnkeyatts, i.indexrelid";

const KEYS: &str = "
SELECT i.indnkeyatts::pg_catalog.int4
  FROM pg_catalog.pg_index i
 WHERE i.indrelid = $1 AND i.indisunique AND i.indimmediate AND i.indisvalid
   AND i.indpred IS NULL AND i.indexprs IS NULL
 ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indnkeyatts, i.indexrelid";

/// Types of which equal values have one text: `bool`, `bytea`, `"char"`, `name`, the integers, `text`, `oid`, `char(n)`,
/// `varchar`, `date`, `time`, `timestamp`, `timestamptz`, `uuid`.
const WRITTEN_ONE_WAY: [u32; 16] =
    [16, 17, 18, 19, 20, 21, 23, 25, 26, 1042, 1043, 1082, 1083, 1114, 1184, 2950];

impl TargetTable {
    /// Describes a table; `None` when there is no such thing.
    ///
    /// # Errors
    /// [`Error::Target`]; [`Error::NotATable`] for a view or the like.
    pub async fn load(session: &Session, schema: &str, name: &str) -> Result<Option<Self>, Error> {
        let Some(row) = session.query_opt(TABLE, &[&schema, &name]).await? else { return Ok(None) };
        let (oid, kind): (u32, String) = (row.try_get(0)?, row.try_get(1)?);
        let partitioned = match kind.as_str() {
            "r" => false,
            "p" => true,
            _ => return Err(Error::NotATable { table: format!("{schema}.{name}") }),
        };
        let mut numbers = Vec::new();
        let mut columns = Vec::new();
        for row in session.query(COLUMNS, &[&oid]).await? {
            numbers.push(i32::from(row.try_get::<_, i16>(1)?));
            let (type_oid, collation) = (row.try_get(8)?, row.try_get::<_, Option<String>>(11)?);
            columns.push(TargetColumn {
                name: row.try_get(0)?,
                cast: row.try_get(2)?,
                cast_is_function: row.try_get(3)?,
                equals: row.try_get(4)?,
                generated: row.try_get(5)?,
                identity_always: row.try_get(6)?,
                not_null: row.try_get(7)?,
                type_oid,
                has_spellings: collation.is_some() || !WRITTEN_ONE_WAY.contains(&type_oid),
                collation,
                domain: row.try_get(9)?,
                type_modifier: row.try_get(10)?,
                default: row.try_get(12)?,
            });
        }
        let widths = session.query(KEYS, &[&oid]).await?;
        let mut unique = Vec::new();
        for (row, width) in session.query(UNIQUE, &[&oid]).await?.iter().zip(&widths) {
            let keys: Vec<i32> = row.try_get(0)?;
            let width = usize::try_from(width.try_get::<_, i32>(0)?).unwrap_or_default();
            let place = |number: &i32| numbers.iter().position(|known| known == number);
            // An index over a system column has none of ours.
            if let Some(places) = keys.iter().take(width).map(place).collect::<Option<Vec<_>>>() {
                unique.push(places);
            }
        }
        Ok(Some(Self {
            schema: schema.to_owned(),
            name: name.to_owned(),
            partitioned,
            columns,
            unique,
            constraints: usize::try_from(row.try_get::<_, i64>(2)?).unwrap_or(usize::MAX),
            has_triggers: row.try_get(3)?,
            has_rules: row.try_get(4)?,
            row_security: row.try_get(5)?,
        }))
    }
}
