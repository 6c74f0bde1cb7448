SELECT pg_catalog.jsonb_build_object(
  'kind', 'table', 'schema', n.nspname, 'name', c.relname, 'owner', pg_catalog.pg_get_userbyid(c.relowner),
  'unlogged', c.relpersistence = 'u',
  'partition_key', pg_catalog.pg_get_partkeydef(c.oid),
  'parents', (
    SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('schema', pn.nspname, 'name', p.relname) ORDER BY i.inhseqno)
      FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
      JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
     WHERE i.inhrelid = c.oid AND NOT i.inhdetachpending),
  'bound', CASE WHEN c.relispartition AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid AND i.inhdetachpending)
    THEN pg_catalog.pg_get_expr(c.relpartbound, c.oid) END,
  'replica_identity', c.relreplident,
  'identity_index', (
    SELECT x.relname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
     WHERE i.indrelid = c.oid AND i.indisreplident AND c.relreplident = 'i'),
  'options', pg_catalog.to_jsonb(c.reloptions),
  'row_security', c.relrowsecurity, 'row_security_forced', c.relforcerowsecurity,
  'comment', pg_catalog.obj_description(c.oid, 'pg_class'),
  'grants', (
    SELECT pg_catalog.jsonb_agg(DISTINCT pg_catalog.jsonb_build_object('role', CASE WHEN a.grantee <> 0 THEN pg_catalog.pg_get_userbyid(a.grantee) END,
             'privilege', a.privilege_type, 'grantable', a.is_grantable))
      FROM pg_catalog.aclexplode(c.relacl) a WHERE a.grantee <> c.relowner),
  'columns', coalesce((
    SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
             'id', a.attnum, 'name', a.attname, 'type', pg_catalog.format_type(a.atttypid, a.atttypmod),
             'collation', CASE WHEN a.attcollation <> 0 AND a.attcollation <> t.typcollation THEN (
                 SELECT pg_catalog.quote_ident(ln.nspname) || '.' || pg_catalog.quote_ident(l.collname)
                   FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace ln ON ln.oid = l.collnamespace
                  WHERE l.oid = a.attcollation) END,
             'not_null', a.attnotnull,
             'default', pg_catalog.pg_get_expr(d.adbin, d.adrelid),
             'generated', a.attgenerated, 'identity', a.attidentity,
             'storage', a.attstorage,
             'compression', a.attcompression,
             'inherited', NOT a.attislocal,
             -- A partitioned table has no rows of its own, and its partitions tell.
             'missing', CASE WHEN a.atthasmissing THEN (a.attmissingval::pg_catalog.text::pg_catalog.text[])[1]
                 WHEN c.relkind = 'p' AND d.oid IS NOT NULL AND a.attgenerated = '' THEN (
                   SELECT (b.attmissingval::pg_catalog.text::pg_catalog.text[])[1]
                     FROM pg_catalog.pg_partition_tree(c.oid::pg_catalog.regclass) p
                     JOIN pg_catalog.pg_attribute b ON b.attrelid = p.relid AND b.attname = a.attname AND b.atthasmissing
                    WHERE p.isleaf ORDER BY p.relid LIMIT 1) END,
             'comment', pg_catalog.col_description(c.oid, a.attnum)) ORDER BY a.attnum)
      FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
      LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]'),
  'constraints', coalesce((
    SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
             'id', k.oid::pg_catalog.int8, 'name', k.conname, 'type', k.contype,
             'definition', pg_catalog.pg_get_constraintdef(k.oid),
             'comment', pg_catalog.obj_description(k.oid, 'pg_constraint'))
           ORDER BY pg_catalog.strpos('puxcf', k.contype::pg_catalog.text), k.oid)
      FROM pg_catalog.pg_constraint k
     WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u', 'x', 'c', 'f') AND k.conparentid = 0 AND k.conislocal), '[]'),
  'indexes', coalesce((
    SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
             'id', x.oid::pg_catalog.int8, 'name', x.relname,
             'definition', CASE WHEN x.relkind = 'I'
                 THEN pg_catalog.regexp_replace(pg_catalog.pg_get_indexdef(x.oid), ' ON ONLY ', ' ON ')
                 ELSE pg_catalog.pg_get_indexdef(x.oid) END,
             'clustered', i.indisclustered,
             'comment', pg_catalog.obj_description(x.oid, 'pg_class')) ORDER BY x.oid)
      FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
     WHERE i.indrelid = c.oid AND i.indisvalid AND NOT x.relispartition
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k
                        WHERE k.conindid = x.oid AND k.conrelid = c.oid AND k.contype IN ('p', 'u', 'x'))), '[]'),
  'triggers', coalesce((
    SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
             'id', g.oid::pg_catalog.int8, 'name', g.tgname, 'definition', pg_catalog.pg_get_triggerdef(g.oid),
             'enabled', g.tgenabled,
             'comment', pg_catalog.obj_description(g.oid, 'pg_trigger')) ORDER BY g.oid)
      FROM pg_catalog.pg_trigger g
     WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgparentid = 0
       AND g.tgname !~ '^~?irongate_'), '[]'))
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = $1 AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
