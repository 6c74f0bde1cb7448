-- Decides which rows have to be sent again, publishes what is new, and writes one message a flow.
DECLARE
  f irongate.ddl_flow; item pg_catalog.jsonb; doc pg_catalog.jsonb; docs pg_catalog.jsonb; drops pg_catalog.jsonb; others pg_catalog.jsonb;
  said pg_catalog.jsonb := '{}'; sends pg_catalog.oid[] := '{}'; lost pg_catalog.oid[] := '{}'; target pg_catalog.oid;
  full_name pg_catalog.text; list pg_catalog.text; place pg_catalog.int4 := 0; before pg_catalog.jsonb; named pg_catalog.name; is_new pg_catalog.bool;
  withheld pg_catalog.jsonb := '{}'; watcher pg_catalog.text; counts pg_catalog.int8[] := '{}'; counted pg_catalog.int8;
  has_rows pg_catalog.bool; published pg_catalog.oid; kind pg_catalog.text; wanted pg_catalog.bool; taken pg_catalog.jsonb := '[]'; member pg_catalog.jsonb;
BEGIN
  FOR item IN SELECT * FROM pg_catalog.jsonb_array_elements(items) LOOP
    CONTINUE WHEN item ->> 'kind' IS DISTINCT FROM 'table';
    target := (item ->> 'object')::pg_catalog.oid;
    IF EXISTS (SELECT FROM irongate.ddl_flow r JOIN pg_catalog.pg_class c ON c.oid = target JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE irongate.ddl_published(r.publication, target) IS NOT NULL OR irongate.ddl_includes(r, n.nspname, c.relname)) THEN
      PERFORM irongate.ddl_identify(target);
    END IF;
  END LOOP;

  -- What has to be known of each table, once.
  FOR item IN SELECT * FROM pg_catalog.jsonb_array_elements(items) LOOP
    CONTINUE WHEN item ->> 'kind' IS NULL;
    doc := irongate.ddl_describe(item ->> 'kind', (item ->> 'object')::pg_catalog.oid);
    CONTINUE WHEN doc IS NULL;
    doc := doc || pg_catalog.jsonb_build_object('before', item -> 'before');
    IF tag = 'REFRESH MATERIALIZED VIEW' THEN doc := doc || '{"refresh": true}'; END IF;
    said := said || pg_catalog.jsonb_build_object((item ->> 'kind') || ' ' || (item ->> 'object'), doc);
  END LOOP;

  -- Rows that the stream does not have, or not as they are now.
  FOR item IN SELECT * FROM pg_catalog.jsonb_array_elements(items) LOOP
    target := (item ->> 'object')::pg_catalog.oid;
    doc := said -> ('table ' || target);
    CONTINUE WHEN item ->> 'kind' IS DISTINCT FROM 'table' OR doc IS NULL OR (doc ->> 'unlogged')::pg_catalog.bool OR with_rows IS NOT TRUE;
    before := item -> 'before';
    is_new := pg_catalog.jsonb_typeof(before) IS DISTINCT FROM 'object';
    FOR f IN SELECT * FROM irongate.ddl_flow LOOP
      published := irongate.ddl_published(f.publication, target);
      CONTINUE WHEN published IS NULL AND NOT irongate.ddl_includes(f, doc ->> 'schema', doc ->> 'name');
      CONTINUE WHEN target = ANY (sends) OR target = ANY (lost);
      IF is_new OR NOT (before -> 'published') ? f.publication
         OR (before -> 'files' IS DISTINCT FROM irongate.ddl_files(target) AND (EXISTS (
               -- The type can be the same and the values others: ALTER COLUMN a TYPE int USING a + 1.
               SELECT FROM pg_catalog.jsonb_array_elements_text(before -> 'files') b(file)
                WHERE b.file = ANY (pg_catalog.string_to_array(pg_catalog.current_setting('irongate.rewritten', true), ' '))) OR EXISTS (
               SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
                 LEFT JOIN LATERAL (SELECT before -> 'columns' -> a.attnum::pg_catalog.text AS was) w ON true
                WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
                  AND (w.was IS NULL AND NOT a.atthasmissing AND (a.atthasdef OR a.attidentity <> '' OR t.typtype = 'd')
                       OR (w.was ->> 'type')::pg_catalog.oid <> a.atttypid OR (w.was ->> 'modifier')::pg_catalog.int4 <> a.atttypmod)))) THEN
        EXECUTE pg_catalog.format('SELECT EXISTS (SELECT FROM %s)', irongate.ddl_only(target)) INTO has_rows;
        -- What fires in replica role too would notice, and could keep rows from coming back: such a table is not touched.
        watcher := irongate.ddl_watcher(target);
        IF has_rows AND watcher IS NOT NULL THEN
          lost := lost || target;
          withheld := withheld || pg_catalog.jsonb_build_object(target, watcher);
        ELSIF has_rows AND (is_new OR f.on_rewrite = 'send') THEN
          sends := sends || target;
        ELSIF has_rows THEN
          lost := lost || target;
        END IF;
      END IF;
    END LOOP;
  END LOOP;

  -- They are taken out while nobody is told, and put in again behind the message.
  FOREACH target IN ARRAY sends LOOP
    place := place + 1;
    full_name := irongate.ddl_only(target);
    list := irongate.ddl_written(target);
    EXECUTE pg_catalog.format('CREATE TEMP TABLE irongate_rows_%s ON COMMIT DROP AS SELECT %s FROM %s', place, coalesce(list, ''), full_name);
    GET DIAGNOSTICS counted = ROW_COUNT;
    counts := counts || counted;
    FOR f IN SELECT * FROM irongate.ddl_flow LOOP
      LOOP
        published := irongate.ddl_published(f.publication, target);
        EXIT WHEN published IS NULL;
        EXECUTE pg_catalog.format('ALTER PUBLICATION %I DROP TABLE %s', f.publication, published::pg_catalog.regclass);
        taken := taken || pg_catalog.jsonb_build_object('publication', f.publication, 'table', published);
      END LOOP;
    END LOOP;
    EXECUTE pg_catalog.format('DELETE FROM %s', full_name);
    GET DIAGNOSTICS counted = ROW_COUNT;
    IF counted <> counts[place] THEN
      RAISE EXCEPTION 'of the % rows of table % only % could be taken out to be sent again', counts[place], full_name, counted;
    END IF;
    said := pg_catalog.jsonb_set(said, ARRAY['table ' || target, 'sent'], 'true');
  END LOOP;
  FOREACH target IN ARRAY lost LOOP
    said := pg_catalog.jsonb_set(said, ARRAY['table ' || target, 'lost'], 'true');
    IF withheld ? target::pg_catalog.text THEN
      said := pg_catalog.jsonb_set(said, ARRAY['table ' || target, 'withheld'], withheld -> target::pg_catalog.text);
    END IF;
  END LOOP;
  FOR member IN SELECT DISTINCT m FROM pg_catalog.jsonb_array_elements(taken) m LOOP
    EXECUTE pg_catalog.format('ALTER PUBLICATION %I ADD TABLE %s', member ->> 'publication', (member ->> 'table')::pg_catalog.oid::pg_catalog.regclass);
  END LOOP;
  FOR item IN SELECT * FROM pg_catalog.jsonb_array_elements(items) LOOP
    IF item ->> 'kind' IN ('table', 'sequence') AND said ? ((item ->> 'kind') || ' ' || (item ->> 'object')) THEN
      PERFORM irongate.ddl_publish((item ->> 'object')::pg_catalog.oid);
    END IF;
  END LOOP;

  FOR f IN SELECT * FROM irongate.ddl_flow LOOP
    docs := '[]'; drops := '[]'; others := '[]';
    FOR item IN SELECT * FROM pg_catalog.jsonb_array_elements(items) LOOP
      kind := item ->> 'kind';
      IF kind IS NULL THEN
        others := others || pg_catalog.jsonb_build_object('type', item ->> 'type', 'identity', item ->> 'identity');
        CONTINUE;
      END IF;
      doc := said -> (kind || ' ' || (item ->> 'object'));
      CONTINUE WHEN doc IS NULL OR NOT (kind || 's') = ANY (f.classes);
      wanted := CASE kind
        WHEN 'table' THEN irongate.ddl_published(f.publication, (item ->> 'object')::pg_catalog.oid) IS NOT NULL
                          OR irongate.ddl_includes(f, doc ->> 'schema', doc ->> 'name')
        WHEN 'extension' THEN true
        WHEN 'schema' THEN (doc ->> 'name') OPERATOR(pg_catalog.~) ANY (f.schemas)
        ELSE (doc ->> 'schema') OPERATOR(pg_catalog.~) ANY (f.schemas) END;
      -- What leaves the flow's schemas is told once more, so that it does not stay behind under its old name.
      wanted := wanted OR coalesce((item -> 'before' ->> 'schema') OPERATOR(pg_catalog.~) ANY (f.schemas), false) AND kind <> 'table';
      IF wanted THEN docs := docs || doc; END IF;
    END LOOP;
    FOR item IN SELECT * FROM pg_catalog.jsonb_array_elements(dropped) LOOP
      -- DROP INDEX CONCURRENTLY has forgotten the table by now, which is in the index's schema.
      wanted := CASE WHEN item ->> 'kind' = 'index' AND item ->> 'table' IS NULL
              THEN EXISTS (SELECT FROM pg_catalog.pg_publication_tables p
                            WHERE p.pubname OPERATOR(pg_catalog.=) f.publication AND p.schemaname OPERATOR(pg_catalog.=) (item ->> 'schema'))
              WHEN item ->> 'kind' IN ('table', 'index')
              THEN (item -> 'published') ? f.publication OR irongate.ddl_includes(f, item ->> 'schema', item ->> 'table')
              WHEN item ->> 'kind' = 'extension' THEN 'extensions' = ANY (f.classes)
              WHEN item ->> 'kind' = 'schema' THEN 'schemas' = ANY (f.classes) AND (item ->> 'name') OPERATOR(pg_catalog.~) ANY (f.schemas)
              ELSE (CASE item ->> 'kind' WHEN 'materialized view' THEN 'view' WHEN 'procedure' THEN 'function' ELSE item ->> 'kind' END || 's') = ANY (f.classes)
                   AND (item ->> 'schema') OPERATOR(pg_catalog.~) ANY (f.schemas) END;
      IF wanted THEN
        drops := drops || (item - 'published' - 'table');
      END IF;
    END LOOP;
    IF docs <> '[]' OR drops <> '[]' OR others <> '[]' THEN
      PERFORM pg_catalog.pg_logical_emit_message(true, 'irongate.ddl', pg_catalog.jsonb_build_object('version', 1, 'flow', f.flow, 'publication', f.publication, 'tag', tag,
        'classes', f.classes, 'objects', docs, 'dropped', drops, 'left', others)::pg_catalog.text);
    END IF;
  END LOOP;
  -- A message of a subtransaction and the change behind it, of the transaction around it, would have one place in the log: the
  -- end of the one is the start of the other, and then either can come first. This lies between them.
  PERFORM pg_catalog.pg_logical_emit_message(true, 'irongate.ddl.end', '');

  place := 0;
  FOREACH target IN ARRAY sends LOOP
    place := place + 1;
    list := irongate.ddl_written(target);
    IF list IS NULL THEN
      EXECUTE pg_catalog.format('INSERT INTO %s SELECT FROM irongate_rows_%s', target::pg_catalog.regclass, place);
    ELSE
      EXECUTE pg_catalog.format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM irongate_rows_%s', target::pg_catalog.regclass, list, list, place);
    END IF;
    GET DIAGNOSTICS counted = ROW_COUNT;
    -- Raised, so that all of it is taken back: the source never loses or gains a row by this.
    IF counted <> counts[place] THEN
      RAISE EXCEPTION 'of the % rows of table % only % could be put in again', counts[place], target::pg_catalog.regclass, counted;
    END IF;
    EXECUTE pg_catalog.format('DROP TABLE irongate_rows_%s', place);
  END LOOP;
END
