SELECT pg_catalog.jsonb_build_object(
  'kind', 'extension', 'name', e.extname, 'schema', n.nspname, 'version', e.extversion,
  'comment', pg_catalog.obj_description(e.oid, 'pg_extension'))
  FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.oid = $1
