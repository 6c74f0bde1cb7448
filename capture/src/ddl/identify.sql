-- A published table of which no row can be told from another refuses the application's own updates and deletes. Its whole rows
-- tell them apart.
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = object AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.relreplident = 'd')
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = object AND i.indisprimary AND i.indimmediate) THEN
    EXECUTE pg_catalog.format('ALTER TABLE %s REPLICA IDENTITY FULL', irongate.ddl_only(object));
  END IF;
END
