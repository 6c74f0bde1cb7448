SELECT EXISTS (SELECT FROM ROWS FROM (pg_catalog.unnest((f).table_schemas), pg_catalog.unnest((f).table_names)) AS p(s, n)
                WHERE schema OPERATOR(pg_catalog.~) p.s AND name OPERATOR(pg_catalog.~) p.n)
   AND NOT EXISTS (SELECT FROM ROWS FROM (pg_catalog.unnest((f).exclude_schemas), pg_catalog.unnest((f).exclude_names)) AS p(s, n)
                WHERE schema OPERATOR(pg_catalog.~) p.s AND name OPERATOR(pg_catalog.~) p.n)
