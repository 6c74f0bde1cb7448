SELECT CASE WHEN c.relkind IN ('r', 'p') THEN 'table' WHEN c.relkind = 'S' THEN 'sequence' ELSE 'view' END || ' ' || c.oid, c.relacl::pg_catalog.text
  FROM pg_catalog.pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND c.oid >= 16384 AND c.relpersistence <> 't'
   AND c.relnamespace <> 'irongate'::pg_catalog.regnamespace
UNION ALL
SELECT 'function ' || p.oid, p.proacl::pg_catalog.text FROM pg_catalog.pg_proc p
 WHERE p.oid >= 16384 AND p.prokind <> 'a' AND p.pronamespace <> 'irongate'::pg_catalog.regnamespace
UNION ALL
SELECT 'schema ' || n.oid, n.nspacl::pg_catalog.text FROM pg_catalog.pg_namespace n WHERE n.nspname !~ '^(pg_|information_schema$|irongate$)'
