SELECT pg_catalog.jsonb_build_object(
  'kind', 'function', 'schema', n.nspname, 'name', p.proname, 'owner', pg_catalog.pg_get_userbyid(p.proowner),
  'arguments', pg_catalog.pg_get_function_identity_arguments(p.oid),
  'result', pg_catalog.pg_get_function_result(p.oid),
  'procedure', p.prokind = 'p',
  'definition', pg_catalog.pg_get_functiondef(p.oid),
  'comment', pg_catalog.obj_description(p.oid, 'pg_proc'),
  'grants', (
    SELECT pg_catalog.jsonb_agg(DISTINCT pg_catalog.jsonb_build_object('role', CASE WHEN a.grantee <> 0 THEN pg_catalog.pg_get_userbyid(a.grantee) END,
             'privilege', a.privilege_type, 'grantable', a.is_grantable))
      FROM pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a WHERE a.grantee <> p.proowner))
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE p.oid = $1 AND p.prokind <> 'a'
