-- STABLE, so that what it asks is answered as before the command; what it calls is not, and sees what the command has made.
-- No loop over a query may be the first query here: behind a command that ends transactions itself (DROP INDEX CONCURRENTLY) there
-- is no snapshot yet, of which the server dies (signal 11, 15 to 18). Any other query makes one.
DECLARE
  items pg_catalog.jsonb := '[]'; item pg_catalog.jsonb; found pg_catalog.jsonb; before pg_catalog.jsonb; heir pg_catalog.jsonb; old_rights pg_catalog.jsonb; reason pg_catalog.text;
  concurrent pg_catalog.bool := TG_TAG = 'ALTER TABLE' AND pg_catalog.current_query() OPERATOR(pg_catalog.~*) '\ydetach\y.*\yconcurrently\y';
BEGIN
  IF TG_TAG IN ('GRANT', 'REVOKE') THEN
    -- Of these nothing is said but that they were. A fence makes many.
    IF NOT EXISTS (SELECT FROM irongate.ddl_flow f WHERE 'grants' = ANY (f.classes)) THEN RETURN; END IF;
    SELECT pg_catalog.jsonb_object_agg(r.key, r.rights) INTO old_rights FROM irongate.ddl_rights_before() r;
    found := irongate.ddl_regranted(coalesce(old_rights, '{}'));
  ELSE
    found := irongate.ddl_items();
  END IF;
  FOR item IN SELECT * FROM pg_catalog.jsonb_array_elements(found) LOOP
    before := irongate.ddl_before(item ->> 'kind', (item ->> 'object')::pg_catalog.oid);
    items := items || (item || pg_catalog.jsonb_build_object('before', before));
    -- Partitions that came or went say nothing themselves. One that an interrupted command left halfway is none for a reader, and goes for good now.
    FOR heir IN
      SELECT pg_catalog.jsonb_build_object('kind', 'table', 'object', coalesce(o.id, n.id), 'before', irongate.ddl_before('table', coalesce(o.id, n.id)))
        FROM (SELECT i.inhrelid AS id FROM pg_catalog.pg_inherits i WHERE i.inhparent = (item ->> 'object')::pg_catalog.oid) o
        FULL JOIN (SELECT c::pg_catalog.oid AS id FROM pg_catalog.jsonb_array_elements_text(CASE pg_catalog.jsonb_typeof(item -> 'children') WHEN 'array' THEN item -> 'children' ELSE '[]' END) c) n ON n.id = o.id
       WHERE item ->> 'kind' = 'table' AND (o.id IS NULL OR n.id IS NULL)
    LOOP
      IF NOT EXISTS (SELECT FROM pg_catalog.jsonb_array_elements(found) k WHERE k ->> 'kind' = 'table' AND k -> 'object' = heir -> 'object') THEN
        items := items || heir;
      END IF;
    END LOOP;
    IF concurrent AND item ->> 'kind' = 'table' THEN
      -- This command ends in a transaction of its own, in which even a STABLE function finds the partition gone. All that this
      -- transaction has done is that the partition became a table by itself. It was published with its parent.
      FOR heir IN
        SELECT pg_catalog.jsonb_build_object('kind', 'table', 'object', c.oid, 'before',
                 irongate.ddl_before('table', c.oid) || pg_catalog.jsonb_build_object('published', before -> 'published'))
          FROM pg_catalog.pg_class c
         WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.oid <> (item ->> 'object')::pg_catalog.oid
           AND c.xmin = pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.xid
      LOOP
        items := items || heir;
      END LOOP;
    END IF;
  END LOOP;
  IF items <> '[]' THEN
    PERFORM irongate.ddl_emit(TG_TAG, items, '[]', true);
  END IF;
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS reason = MESSAGE_TEXT;
  PERFORM irongate.ddl_failed(TG_TAG, reason);
END
