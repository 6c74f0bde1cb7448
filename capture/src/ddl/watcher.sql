SELECT w.what
  FROM (WITH RECURSIVE t(id) AS (
          SELECT object UNION ALL
          SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN t ON i.inhparent = t.id JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition)
        SELECT 'rule ' || pg_catalog.quote_ident(r.rulename) AS what FROM t JOIN pg_catalog.pg_rewrite r ON r.ev_class = t.id
         WHERE r.ev_enabled IN ('A', 'R') AND r.ev_type IN ('3', '4')
        UNION ALL
        SELECT 'trigger ' || pg_catalog.quote_ident(g.tgname) FROM t JOIN pg_catalog.pg_trigger g ON g.tgrelid = t.id
         WHERE g.tgenabled IN ('A', 'R') AND (g.tgtype & 12) <> 0) w
 ORDER BY 1 LIMIT 1
