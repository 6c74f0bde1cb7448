WITH said AS (
  SELECT d.classid::pg_catalog.regclass::pg_catalog.text AS class, d.objid, d.object_type, d.object_identity, d.place
    FROM pg_catalog.pg_event_trigger_ddl_commands() WITH ORDINALITY
      AS d(classid, objid, objsubid, command_tag, object_type, schema_name, object_identity, in_extension, command, place)
   WHERE NOT d.in_extension AND d.classid IS NOT NULL
), relation AS (
  SELECT s.place, s.object_type, s.object_identity, c.relkind, c.relpersistence, c.relnamespace,
         CASE WHEN c.relkind IN ('r', 'p') THEN 'table' WHEN c.relkind IN ('v', 'm') THEN 'view'
              WHEN c.relkind = 'S' THEN 'sequence' WHEN c.relkind = 'c' THEN 'type' END AS kind,
         CASE WHEN c.relkind = 'c' THEN c.reltype ELSE c.oid END AS object
    FROM said s
    JOIN LATERAL (
      SELECT s.objid AS id WHERE s.class = 'pg_class'
      UNION ALL SELECT i.indrelid FROM pg_catalog.pg_index i WHERE s.class = 'pg_class' AND i.indexrelid = s.objid
      UNION ALL SELECT k.conrelid FROM pg_catalog.pg_constraint k WHERE s.class = 'pg_constraint' AND k.oid = s.objid
      UNION ALL SELECT g.tgrelid FROM pg_catalog.pg_trigger g WHERE s.class = 'pg_trigger' AND g.oid = s.objid
      -- The sequence of an identity column is the column's.
      UNION ALL SELECT e.refobjid FROM pg_catalog.pg_depend e
                 WHERE s.class = 'pg_class' AND e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.objid = s.objid AND e.deptype = 'i'
                   AND e.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.refobjsubid > 0
    ) r ON true
    JOIN pg_catalog.pg_class c ON c.oid = r.id
   WHERE c.relkind NOT IN ('i', 'I', 't')
     AND NOT (c.relkind = 'S' AND EXISTS (SELECT FROM pg_catalog.pg_depend e
               WHERE e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.objid = c.oid AND e.deptype = 'i'))
), found AS (
  SELECT place, kind, object, relnamespace AS namespace, object_type, object_identity FROM relation WHERE relpersistence <> 't'
  UNION ALL
  SELECT s.place, CASE WHEN t.typtype IN ('e', 'd', 'r', 'c') THEN 'type' END, t.oid, t.typnamespace, s.object_type, s.object_identity
    FROM said s JOIN pg_catalog.pg_type t
      ON t.oid = CASE s.class WHEN 'pg_type' THEN s.objid
                              WHEN 'pg_constraint' THEN (SELECT k.contypid FROM pg_catalog.pg_constraint k WHERE k.oid = s.objid) END
  UNION ALL
  SELECT s.place, CASE WHEN p.prokind <> 'a' THEN 'function' END, p.oid, p.pronamespace, s.object_type, s.object_identity
    FROM said s JOIN pg_catalog.pg_proc p ON s.class = 'pg_proc' AND p.oid = s.objid
  UNION ALL
  SELECT s.place, 'schema', n.oid, n.oid, s.object_type, s.object_identity
    FROM said s JOIN pg_catalog.pg_namespace n ON s.class = 'pg_namespace' AND n.oid = s.objid
  UNION ALL
  SELECT s.place, 'extension', e.oid, e.extnamespace, s.object_type, s.object_identity
    FROM said s JOIN pg_catalog.pg_extension e ON s.class = 'pg_extension' AND e.oid = s.objid
  UNION ALL
  SELECT s.place, NULL, s.objid, NULL, s.object_type, s.object_identity FROM said s
   WHERE s.class NOT IN ('pg_class', 'pg_type', 'pg_constraint', 'pg_trigger', 'pg_proc', 'pg_namespace', 'pg_extension',
                         'pg_publication', 'pg_publication_rel', 'pg_publication_namespace', 'pg_subscription', 'pg_attrdef')
), heirs AS (
  -- What is done to a parent is done to its heirs, of which nothing is said.
  SELECT f.place, f.kind, i.relid AS object, f.namespace, f.object_type, f.object_identity
    FROM found f JOIN pg_catalog.pg_class c ON f.kind = 'table' AND c.oid = f.object AND c.relkind = 'r'
    CROSS JOIN LATERAL (
      WITH RECURSIVE t(id) AS (SELECT c.oid UNION SELECT h.inhrelid FROM pg_catalog.pg_inherits h JOIN t ON h.inhparent = t.id)
      SELECT t.id AS relid FROM t WHERE t.id <> c.oid) i
)
SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('kind', o.kind, 'object', o.object, 'type', o.object_type, 'identity', o.object_identity,
         'children', (SELECT pg_catalog.jsonb_agg(i.inhrelid) FROM pg_catalog.pg_inherits i WHERE o.kind = 'table' AND i.inhparent = o.object AND NOT i.inhdetachpending)) ORDER BY o.place), '[]')
  FROM (SELECT DISTINCT ON (a.kind, a.object) a.* FROM (SELECT * FROM found UNION ALL SELECT * FROM heirs) a
         WHERE a.namespace IS DISTINCT FROM 'irongate'::pg_catalog.regnamespace::pg_catalog.oid
           AND (a.kind IN ('schema', 'extension') OR NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n
                 WHERE n.oid = a.namespace AND n.nspname OPERATOR(pg_catalog.~) '^(pg_|information_schema$)'))
         ORDER BY a.kind, a.object, a.place) o
