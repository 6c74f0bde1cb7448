-- Adds a table to the publications of the flows that it belongs to by its name, and lets our roles have it. Of a sequence the
-- latter.
DECLARE
  f irongate.ddl_flow; schema pg_catalog.text; name pg_catalog.text; sort pg_catalog."char"; counter pg_catalog.oid;
BEGIN
  SELECT n.nspname, c.relname, c.relkind INTO schema, name, sort FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   WHERE c.oid = object AND c.relkind IN ('r', 'p', 'S') AND c.relpersistence = 'p';
  IF NOT FOUND THEN RETURN; END IF;
  FOR f IN SELECT * FROM irongate.ddl_flow LOOP
    IF sort = 'S' THEN
      CONTINUE WHEN NOT schema OPERATOR(pg_catalog.~) ANY (f.schemas);
      PERFORM irongate.ddl_grant('SELECT ON SEQUENCE', object, f.reader);
      PERFORM irongate.ddl_grant('SELECT, UPDATE ON SEQUENCE', object, f.writer);
    ELSIF irongate.ddl_includes(f, schema, name) THEN
      PERFORM irongate.ddl_identify(object);
      IF irongate.ddl_published(f.publication, object) IS NULL
         AND EXISTS (SELECT FROM pg_catalog.pg_publication p WHERE p.pubname = f.publication) THEN
        EXECUTE pg_catalog.format('ALTER PUBLICATION %I ADD TABLE %s', f.publication, object::pg_catalog.regclass);
      ELSIF EXISTS (SELECT FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
                     WHERE p.pubname = f.publication AND r.prrelid = object)
            AND EXISTS (SELECT FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
                     WHERE p.pubname = f.publication AND r.prrelid <> object
                       AND r.prrelid IN (SELECT a.relid::pg_catalog.oid FROM pg_catalog.pg_partition_ancestors(object::pg_catalog.regclass) a)) THEN
        -- With its parent it is there twice.
        EXECUTE pg_catalog.format('ALTER PUBLICATION %I DROP TABLE %s', f.publication, object::pg_catalog.regclass);
      END IF;
      PERFORM irongate.ddl_grant('SELECT ON TABLE', object, f.reader);
      PERFORM irongate.ddl_grant('SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON TABLE', object, f.writer);
      FOR counter IN SELECT d.objid FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
                      WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid = d.classid AND d.refobjid = object
                        AND d.deptype IN ('a', 'i') LOOP
        PERFORM irongate.ddl_grant('SELECT ON SEQUENCE', counter, f.reader);
        PERFORM irongate.ddl_grant('SELECT, UPDATE ON SEQUENCE', counter, f.writer);
      END LOOP;
    END IF;
  END LOOP;
END
