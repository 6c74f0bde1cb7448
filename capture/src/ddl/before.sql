SELECT CASE
  WHEN kind = 'table' THEN (
    SELECT pg_catalog.jsonb_build_object('schema', n.nspname, 'name', c.relname, 'unlogged', c.relpersistence = 'u',
      'files', (WITH RECURSIVE t(id) AS (SELECT c.oid UNION ALL SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN t ON i.inhparent = t.id)
                SELECT pg_catalog.array_agg(f.relfilenode ORDER BY f.relfilenode) FROM t JOIN pg_catalog.pg_class f ON f.oid = t.id),
      'published', (WITH RECURSIVE t(id) AS (SELECT c.oid UNION ALL SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN t ON i.inhrelid = t.id
                                              JOIN pg_catalog.pg_class k ON k.oid = t.id AND k.relispartition)
                SELECT coalesce(pg_catalog.jsonb_agg(DISTINCT p.pubname), '[]') FROM t JOIN pg_catalog.pg_publication_rel r ON r.prrelid = t.id
                  JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid),
      'columns', (SELECT pg_catalog.jsonb_object_agg(a.attnum, pg_catalog.jsonb_build_object('name', a.attname, 'type', a.atttypid, 'modifier', a.atttypmod))
                    FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
      'constraints', (SELECT pg_catalog.jsonb_object_agg(k.oid, k.conname) FROM pg_catalog.pg_constraint k
                       WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u', 'x', 'c', 'f') AND k.conparentid = 0 AND k.conislocal),
      'indexes', (SELECT pg_catalog.jsonb_object_agg(x.oid, x.relname) FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
                   WHERE i.indrelid = c.oid AND i.indisvalid AND NOT x.relispartition
                     AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k
                                      WHERE k.conindid = x.oid AND k.conrelid = c.oid AND k.contype IN ('p', 'u', 'x'))),
      'triggers', (SELECT pg_catalog.jsonb_object_agg(g.oid, g.tgname) FROM pg_catalog.pg_trigger g
                    WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgparentid = 0),
      'states', (SELECT pg_catalog.jsonb_object_agg(g.oid, g.tgenabled) FROM pg_catalog.pg_trigger g
                  WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgparentid = 0),
      'parents', (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('schema', pn.nspname, 'name', p.relname) ORDER BY i.inhseqno)
                    FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
                    JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace WHERE i.inhrelid = c.oid AND NOT i.inhdetachpending))
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = object)
  WHEN kind IN ('view', 'sequence') THEN (
    SELECT pg_catalog.jsonb_build_object('schema', n.nspname, 'name', c.relname, 'relation', (
             SELECT pg_catalog.to_jsonb(s) - 'seqrelid' FROM pg_catalog.pg_sequence s WHERE s.seqrelid = c.oid),
      'indexes', (SELECT pg_catalog.jsonb_object_agg(x.oid, x.relname) FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
                   WHERE i.indrelid = c.oid AND i.indisvalid),
      'triggers', (SELECT pg_catalog.jsonb_object_agg(g.oid, g.tgname) FROM pg_catalog.pg_trigger g
                    WHERE g.tgrelid = c.oid AND NOT g.tgisinternal),
      'columns', (SELECT pg_catalog.jsonb_object_agg(a.attnum, pg_catalog.jsonb_build_object('name', a.attname))
                    FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = object)
  WHEN kind = 'type' THEN (
    SELECT pg_catalog.jsonb_build_object('schema', n.nspname, 'name', t.typname,
      'labels', (SELECT pg_catalog.jsonb_object_agg(e.oid, e.enumlabel) FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid),
      'columns', (SELECT pg_catalog.jsonb_object_agg(a.attnum, pg_catalog.jsonb_build_object('name', a.attname))
                    FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped),
      'constraints', (SELECT pg_catalog.jsonb_object_agg(k.oid, k.conname) FROM pg_catalog.pg_constraint k
                       WHERE k.contypid = t.oid AND k.contype = 'c'))
      FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = object)
  WHEN kind = 'function' THEN (
    SELECT pg_catalog.jsonb_build_object('schema', n.nspname, 'name', p.proname)
      FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE p.oid = object)
  WHEN kind = 'schema' THEN (
    SELECT pg_catalog.jsonb_build_object('name', n.nspname) FROM pg_catalog.pg_namespace n WHERE n.oid = object)
  WHEN kind = 'extension' THEN (
    SELECT pg_catalog.jsonb_build_object('name', e.extname) FROM pg_catalog.pg_extension e WHERE e.oid = object)
END
