SELECT pg_catalog.jsonb_build_object(
  'kind', 'type', 'schema', n.nspname, 'name', t.typname, 'owner', pg_catalog.pg_get_userbyid(t.typowner),
  'sort', t.typtype,
  'comment', pg_catalog.obj_description(t.oid, 'pg_type'),
  'labels', (
    SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('id', e.oid::pg_catalog.int8, 'name', e.enumlabel) ORDER BY e.enumsortorder)
      FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid),
  'attributes', (
    SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('id', a.attnum, 'name', a.attname,
             'type', pg_catalog.format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum)
      FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped),
  'base', CASE WHEN t.typtype = 'd' THEN pg_catalog.format_type(t.typbasetype, t.typtypmod) END,
  'collation', CASE WHEN t.typtype = 'd' THEN (
    SELECT pg_catalog.quote_ident(ln.nspname) || '.' || pg_catalog.quote_ident(l.collname)
      FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace ln ON ln.oid = l.collnamespace
      JOIN pg_catalog.pg_type b ON b.oid = t.typbasetype
     WHERE l.oid = t.typcollation AND t.typcollation <> b.typcollation) END,
  'not_null', t.typnotnull,
  'default', CASE WHEN t.typtype = 'd' THEN t.typdefault END,
  'constraints', coalesce((
    SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('id', k.oid::pg_catalog.int8, 'name', k.conname, 'type', k.contype,
             'definition', pg_catalog.pg_get_constraintdef(k.oid)) ORDER BY k.oid)
      FROM pg_catalog.pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'), '[]'),
  'range', (
    SELECT pg_catalog.jsonb_build_object(
             'subtype', pg_catalog.format_type(r.rngsubtype, NULL),
             'opclass', (SELECT pg_catalog.quote_ident(pn.nspname) || '.' || pg_catalog.quote_ident(o.opcname)
                           FROM pg_catalog.pg_opclass o JOIN pg_catalog.pg_namespace pn ON pn.oid = o.opcnamespace WHERE o.oid = r.rngsubopc),
             'collation', (SELECT pg_catalog.quote_ident(ln.nspname) || '.' || pg_catalog.quote_ident(l.collname)
                             FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace ln ON ln.oid = l.collnamespace WHERE l.oid = r.rngcollation),
             'difference', CASE WHEN r.rngsubdiff::pg_catalog.oid <> 0 THEN r.rngsubdiff::pg_catalog.text END,
             'multirange', (SELECT pg_catalog.quote_ident(mn.nspname) || '.' || pg_catalog.quote_ident(m.typname)
                              FROM pg_catalog.pg_type m JOIN pg_catalog.pg_namespace mn ON mn.oid = m.typnamespace WHERE m.oid = r.rngmultitypid))
      FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid))
  FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
 WHERE t.oid = $1 AND (t.typtype IN ('e', 'd', 'r')
       OR t.typtype = 'c' AND EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
