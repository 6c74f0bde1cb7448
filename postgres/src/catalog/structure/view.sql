SELECT pg_catalog.jsonb_build_object(
  'kind', 'view', 'schema', n.nspname, 'name', c.relname, 'owner', pg_catalog.pg_get_userbyid(c.relowner),
  'materialized', c.relkind = 'm', 'populated', c.relispopulated,
  'definition', pg_catalog.pg_get_viewdef(c.oid),
  'options', pg_catalog.to_jsonb(c.reloptions),
  'comment', pg_catalog.obj_description(c.oid, 'pg_class'),
  'grants', (
    SELECT pg_catalog.jsonb_agg(DISTINCT pg_catalog.jsonb_build_object('role', CASE WHEN a.grantee <> 0 THEN pg_catalog.pg_get_userbyid(a.grantee) END,
             'privilege', a.privilege_type, 'grantable', a.is_grantable))
      FROM pg_catalog.aclexplode(c.relacl) a WHERE a.grantee <> c.relowner),
  'columns', coalesce((
    SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
             'id', a.attnum, 'name', a.attname, 'type', pg_catalog.format_type(a.atttypid, a.atttypmod),
             'comment', pg_catalog.col_description(c.oid, a.attnum)) ORDER BY a.attnum)
      FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]'),
  'indexes', coalesce((
    SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
             'id', x.oid::pg_catalog.int8, 'name', x.relname, 'definition', pg_catalog.pg_get_indexdef(x.oid),
             'clustered', i.indisclustered, 'comment', pg_catalog.obj_description(x.oid, 'pg_class')) ORDER BY x.oid)
      FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
     WHERE i.indrelid = c.oid AND i.indisvalid), '[]'),
  'triggers', coalesce((
    SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
             'id', g.oid::pg_catalog.int8, 'name', g.tgname, 'definition', pg_catalog.pg_get_triggerdef(g.oid),
             'enabled', g.tgenabled, 'comment', pg_catalog.obj_description(g.oid, 'pg_trigger')) ORDER BY g.oid)
      FROM pg_catalog.pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal), '[]'))
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = $1 AND c.relkind IN ('v', 'm') AND c.relpersistence <> 't'
