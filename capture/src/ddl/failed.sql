-- A command that could not be described: it is refused, or the flows are told.
DECLARE
  f irongate.ddl_flow;
BEGIN
  IF EXISTS (SELECT FROM irongate.ddl_flow r WHERE r.on_error = 'refuse') THEN
    RAISE EXCEPTION 'irongate cannot describe what % does: %', tag, reason;
  END IF;
  RAISE WARNING 'irongate cannot describe what % does, and the flow will stop there: %', tag, reason;
  FOR f IN SELECT * FROM irongate.ddl_flow LOOP
    PERFORM pg_catalog.pg_logical_emit_message(true, 'irongate.ddl', pg_catalog.jsonb_build_object('version', 1, 'flow', f.flow, 'publication', f.publication, 'tag', tag,
      'classes', f.classes, 'objects', '[]'::pg_catalog.jsonb, 'dropped', '[]'::pg_catalog.jsonb, 'left', '[]'::pg_catalog.jsonb, 'failed', reason)::pg_catalog.text);
  END LOOP;
  PERFORM pg_catalog.pg_logical_emit_message(true, 'irongate.ddl.end', '');
END
