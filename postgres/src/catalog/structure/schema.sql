SELECT pg_catalog.jsonb_build_object(
  'kind', 'schema', 'name', n.nspname, 'owner', pg_catalog.pg_get_userbyid(n.nspowner),
  'comment', pg_catalog.obj_description(n.oid, 'pg_namespace'),
  'grants', (
    SELECT pg_catalog.jsonb_agg(DISTINCT pg_catalog.jsonb_build_object('role', CASE WHEN a.grantee <> 0 THEN pg_catalog.pg_get_userbyid(a.grantee) END,
             'privilege', a.privilege_type, 'grantable', a.is_grantable))
      FROM pg_catalog.aclexplode(n.nspacl) a WHERE a.grantee <> n.nspowner))
  FROM pg_catalog.pg_namespace n WHERE n.oid = $1
