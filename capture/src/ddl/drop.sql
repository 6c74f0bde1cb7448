-- STABLE as its sister: what was dropped still has its parents here.
DECLARE
  items pg_catalog.jsonb; gone pg_catalog.jsonb; item pg_catalog.jsonb; whole pg_catalog.jsonb := '[]'; reason pg_catalog.text;
BEGIN
  SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('kind', d.object_type, 'schema', d.schema_name, 'original', d.original, 'name', coalesce(c.relname, d.object_name, d.object_identity),
           'identity', d.object_identity, 'table', t.relname,
           'published', CASE WHEN t.oid IS NOT NULL THEN irongate.ddl_before('table', t.oid) -> 'published' END)), '[]')
    INTO gone
    FROM pg_catalog.pg_event_trigger_dropped_objects() d
    LEFT JOIN pg_catalog.pg_class c ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = d.objid
    LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
    LEFT JOIN pg_catalog.pg_class t ON t.oid = coalesce(i.indrelid, c.oid)
   WHERE NOT d.is_temporary AND d.objsubid = 0 AND d.schema_name IS DISTINCT FROM 'irongate'
     -- What the server makes for itself, such as the index of a TOAST table.
     AND coalesce(d.schema_name, '') OPERATOR(pg_catalog.!~) '^(pg_|information_schema$)'
     -- The index of a constraint goes with the constraint, which its table tells.
     AND NOT (i.indexrelid IS NOT NULL AND EXISTS (SELECT FROM pg_catalog.pg_constraint k
               WHERE k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')))
     AND d.object_type IN ('table', 'index', 'view', 'materialized view', 'sequence', 'type', 'function', 'procedure', 'schema', 'extension')
     AND coalesce(c.relkind, 'r') NOT IN ('c', 't')
     AND NOT (d.object_type = 'type' AND (d.object_name IS NULL AND d.object_identity OPERATOR(pg_catalog.~~) '%[]'
              OR EXISTS (SELECT FROM pg_catalog.pg_type y LEFT JOIN pg_catalog.pg_class k ON k.oid = y.typrelid
                          WHERE y.oid = d.objid AND (y.typtype IN ('b', 'm', 'p') OR k.relkind <> 'c'))));
  -- Of what else was dropped, the owner is told as it is now, unless the command is about it and tells it in the end.
  SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('kind', o.kind, 'object', o.id, 'before', irongate.ddl_before(o.kind, o.id))), '[]')
    INTO items
    FROM (
      SELECT p.kind, p.id, pg_catalog.bool_or(d.original) AS own
        FROM pg_catalog.pg_event_trigger_dropped_objects() d
        CROSS JOIN LATERAL (
          SELECT CASE WHEN c.relkind IN ('r', 'p') THEN 'table' WHEN c.relkind IN ('v', 'm') THEN 'view' END AS kind, c.oid AS id
            FROM pg_catalog.pg_class c
           WHERE c.oid = CASE
             WHEN d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objsubid > 0 THEN d.objid
             WHEN d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass THEN (SELECT k.conrelid FROM pg_catalog.pg_constraint k WHERE k.oid = d.objid)
             WHEN d.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass THEN (SELECT g.tgrelid FROM pg_catalog.pg_trigger g WHERE g.oid = d.objid AND NOT g.tgisinternal)
             WHEN d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass THEN (SELECT a.adrelid FROM pg_catalog.pg_attrdef a WHERE a.oid = d.objid) END
          UNION ALL
          SELECT 'type', t.oid FROM pg_catalog.pg_type t
           WHERE t.oid = CASE WHEN d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass THEN (SELECT k.contypid FROM pg_catalog.pg_constraint k WHERE k.oid = d.objid) END
        ) p
       WHERE NOT d.is_temporary AND p.kind IS NOT NULL
       GROUP BY p.kind, p.id) o
   WHERE NOT (o.own AND TG_TAG OPERATOR(pg_catalog.~~) 'ALTER %')
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_event_trigger_dropped_objects() e WHERE e.objid = o.id AND e.objsubid = 0
                        AND e.classid IN ('pg_catalog.pg_class'::pg_catalog.regclass, 'pg_catalog.pg_type'::pg_catalog.regclass));
  IF items <> '[]' OR gone <> '[]' THEN
    PERFORM irongate.ddl_emit(TG_TAG, items, gone, false);
  END IF;
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS reason = MESSAGE_TEXT;
  PERFORM irongate.ddl_failed(TG_TAG, reason);
END
