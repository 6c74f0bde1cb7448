DECLARE
  schema pg_catalog.text;
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = grantee) THEN
    SELECT n.nspname INTO schema FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = object;
    EXECUTE pg_catalog.format('GRANT %s %s TO %I', rights, object::pg_catalog.regclass, grantee);
    IF NOT pg_catalog.has_schema_privilege(grantee, schema, 'USAGE') THEN
      EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA %I TO %I', schema, grantee);
    END IF;
  END IF;
END
