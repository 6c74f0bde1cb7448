-- Notes the file of a table whose columns are about to be computed anew. Whoever reads it compares it with what the file was before
-- the command at hand, so that a note of an earlier one means nothing. It is gone with the transaction, or with the savepoint.
DECLARE
  file pg_catalog.text;
BEGIN
  -- 4 is AT_REWRITE_COLUMN_REWRITE.
  IF pg_catalog.pg_event_trigger_table_rewrite_reason() & 4 <> 0 THEN
    SELECT c.relfilenode::pg_catalog.text INTO file FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.pg_event_trigger_table_rewrite_oid();
    PERFORM pg_catalog.set_config('irongate.rewritten', pg_catalog.concat_ws(' ', pg_catalog.current_setting('irongate.rewritten', true), file), true);
  END IF;
END
