-- What is there before the replication begins. "@SCALE@" is a number of people.
SET search_path = config;

INSERT INTO tenant (name, contract, addresses, settings)
SELECT 'tenant ' || n, daterange(date '2020-01-01' + n, NULL),
       ARRAY[ROW('1, Main Street', 'Town "' || n || '"', 'AB ' || n, point(n, -n))::postal_address],
       jsonb_build_object('level', n, 'nested', jsonb_build_array(1, NULL, 'x'))
  FROM generate_series(1, 4) n;
INSERT INTO site (tenant_id, name, location, area, network)
SELECT 1 + n % 4, 'site ' || n, point(n, n / 3.0), polygon(box(point(0, 0), point(n + 1, 1))), cidr '10.0.0.0/8'
  FROM generate_series(1, 12) n;
INSERT INTO folder (id, parent_id, tenant_id, name, path)
SELECT n, nullif(n / 3, 0), 1 + n % 4, 'folder ' || n, ARRAY['root', 'a\b', 'quote "', n::text]
  FROM generate_series(1, 200) n;
SELECT setval('folder_id_seq', 1000000);
INSERT INTO calendar (code, name, zone, open_hours)
SELECT 'CAL' || n, 'calendar ' || n, 'Europe/Berlin', tstzmultirange(tstzrange(now(), now() + interval '8 h'))
  FROM generate_series(1, 5) n;
INSERT INTO calendar_day
SELECT 'CAL' || c, date '2024-01-01' + d, time '08:00', timetz '17:30+02', CASE WHEN d % 7 = 0 THEN 'closed' END
  FROM generate_series(1, 5) c, generate_series(0, 99) d;
INSERT INTO access_group (tenant_id, name, permissions)
SELECT 1 + n % 4, 'group ' || n, n::bit(32) FROM generate_series(1, 20) n;

INSERT INTO person (id, tenant_id, folder_id, login, first_name, last_name, home)
SELECT n, 1 + n % 4, 1 + n % 200, 'login' || n, 'Zoë' || n, 'O''Hara ' || n,
       ROW(n || ' High Street', NULL, '12345', NULL)::postal_address
  FROM generate_series(1, @SCALE@) n;
SELECT setval('person_id_seq', 1000000);
INSERT INTO person_photo
SELECT n, decode(repeat(md5(n::text), 200), 'hex'), repeat('caption ', 300)
  FROM generate_series(1, @SCALE@, 10) n;
INSERT INTO access_group_member SELECT 1 + n % 20, n FROM generate_series(1, @SCALE@) n;
INSERT INTO agent (person_id, employee, media, capacity, hired)
SELECT n, 'E' || n, CASE WHEN n % 3 = 0 THEN '{voice,chat}'::media[] ELSE '{email}' END,
       load_range(0, n % 5 + 0.5), date '2015-01-01' + n
  FROM generate_series(1, @SCALE@) n WHERE n % 4 > 0;
INSERT INTO agent_login
SELECT 'L' || person_id, person_id, tsrange(timestamp '2024-01-01', NULL) FROM agent;
INSERT INTO skill (tenant_id, name) SELECT 1 + n % 4, 'skill ' || n FROM generate_series(1, 60) n;
INSERT INTO agent_skill
SELECT person_id, 1 + (person_id + s * 7) % 60, (person_id * s) % 101 FROM agent, generate_series(1, 3) s;
INSERT INTO wage
SELECT person_id, 10 + person_id % 20, (person_id % 100)::numeric::money, 1.0 / person_id, ARRAY[1.10, NULL, 'NaN']
  FROM agent;

INSERT INTO switch
SELECT n, 1 + n % 12, 'switch ' || n, '2001:db8::1'::inet + n, '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05'
  FROM generate_series(1, 6) n;
INSERT INTO dn (switch_id, number, kind, flags)
SELECT 1 + n % 6, '+49' || (1000 + n), CASE n % 3 WHEN 0 THEN 'queue' ELSE 'extension' END, (n % 16)::bit(4)::varbit
  FROM generate_series(1, @SCALE@) n;
INSERT INTO place (name, dn_ids) SELECT 'place ' || row_number() OVER (), ARRAY[id] FROM dn LIMIT 300;
INSERT INTO dn_group (switch_id, name, numbers)
SELECT n, 'numbers ' || n, ARRAY['100', '101', '+491']::phone_number[] FROM generate_series(1, 6) n;
INSERT INTO queue (id, tenant_id, name, media, threshold, position)
SELECT n, 1 + n % 4, 'queue ' || n, 'chat', load_range(0.1, n), n FROM generate_series(1, 80) n;
SELECT setval('queue_id_seq', 1000000);
INSERT INTO queue_skill SELECT 1 + n % 80, 1 + n % 60, n % 101 FROM generate_series(1, 160) n ON CONFLICT DO NOTHING;
INSERT INTO trunk
SELECT 1 + n % 6, n, 'carrier', ARRAY[1, NULL, -3]::int2[], '{0.0101,0.5}' FROM generate_series(1, 120) n;

INSERT INTO strategy (id, tenant_id, name, source, compiled, document, checked)
SELECT n, 1 + n % 4, 'strategy ' || n, repeat('if (queue.load > ' || n || ') { route(agent); } ', 400),
       decode(md5(n::text), 'hex'), ('<strategy n="' || n || '"><step/>&amp;</strategy>')::@XML@, n % 2 = 0
  FROM generate_series(1, 60) n;
SELECT setval('strategy_id_seq', 1000000);
INSERT INTO strategy_version (strategy_id, version, source)
SELECT s, v, 'version ' || v FROM generate_series(1, 60) s, generate_series(1, 5) v;
INSERT INTO treatment
SELECT n, n, '{"a" : 1,  "a" : 2}', '((0,0),(1,1))', 'fat & (rat | cat)' FROM generate_series(1, 40) n;
INSERT INTO business_attribute VALUES ('language', 'l', '{de,en}'), ('tier', 't', NULL), ('Ünïcode', 'u', '{}');
INSERT INTO attribute_value
SELECT 'language', 'v' || n, n / 7.0::float8, '{"de": "Wert"}' FROM generate_series(1, 100) n;
INSERT INTO campaign (tenant_id, name, windows, pace)
SELECT 1 + n % 4, 'campaign ' || n, '{[2024-01-01,2024-02-01),[2024-03-01,)}', n * 1.000000001
  FROM generate_series(1, 30) n;

INSERT INTO host (name, address, site_id)
SELECT 'host' || n, '192.168.0.1'::inet + n, 1 + n % 12 FROM generate_series(1, 50) n;
INSERT INTO application_prototype
SELECT kind, '8.5', '{"log": "standard"}'
  FROM unnest('{message,configuration,routing,statistics,voice,mail}'::text[]) kind;
INSERT INTO application (id, kind, host_id, backup_id, name, endpoints)
SELECT n, (ARRAY['message', 'configuration', 'routing', 'statistics', 'voice', 'mail'])[1 + n % 6], 1 + n % 50,
       CASE WHEN n % 2 = 0 THEN n - 1 END, 'application ' || n,
       ARRAY[ROW('host' || n, 2000 + n), ROW(NULL, NULL)]::endpoint_address[]
  FROM generate_series(1, 150) n;
SELECT setval('application_id_seq', 1000000);
INSERT INTO application_option
SELECT a, 'section' || s, 'option' || o, 'value ' || a * s * o
  FROM generate_series(1, 150) a, generate_series(1, 3) s, generate_series(1, 5) o;
INSERT INTO application_connection
SELECT n, 1 + (n + 1) % 150, '{[1,5),[10,20)}', '1 mon 2 days 03:04:05.678' FROM generate_series(1, 150) n;
INSERT INTO solution (name, startup_order)
SELECT 'solution ' || n, '{{1,2},{3,4}}' FROM generate_series(1, 5) n;
INSERT INTO solution_component SELECT 1 + n % 5, n FROM generate_series(1, 150) n;
INSERT INTO alarm_condition
SELECT n, n % 5, 'restart', box(point(0, 0), point(n, n)), circle(point(1, 1), n), '[(0,0),(1,2)]'
  FROM generate_series(1, 30) n;
INSERT INTO session_note
SELECT 'E' || n % 50, timestamptz '2024-01-01 00:00:00+00' + n * interval '1 s', NULL, n / 3.0
  FROM generate_series(1, 200) n;

INSERT INTO type_gallery VALUES
(1, -32768, 9223372036854775807, 'NaN', 'NaN', '-Infinity', '-92233720368547758.08', true, 'x', E'tab\t', 'name', '',
 '\x00ff', '4713-01-01 BC', '24:00', '23:59:59.999999-12', '-infinity', 'infinity', '-178000000 years',
 '00000000-0000-0000-0000-000000000000', '::1/64', '::/0', 'ff:ff:ff:ff:ff:ff', B'101010101', B'', '(NaN,Infinity)',
 '{1,2,3}', '[(0,0),(1,1)]', '(1,1),(0,0)', '((0,0),(1,1),(2,0))', '((0,0),(1,1),(2,0))', '<(0,0),1>', ' [1 , 2]',
 '{"b": 1, "a": 1e400}', '$.a[*] ? (@ > 1)', '<a>ü</a>', '''it''''s'':1A ''b'':2', '''a'' <-> ''b''', 'draft',
 '+1*#', '(",",,"\\",)', 'empty', '(,)', '[-infinity,infinity]', '[2024-01-01,)', '[1.5,2.5)', '{[1,2],[3,4]}',
 '{NULL,1}', '{{"a,b","NULL"},{NULL,"\""}}', '{voice,NULL}', '{"(h,1)",NULL}', '{"[1,2)",empty}',
 '{infinity,"0001-01-01 00:00:00+00 BC"}', '16/B374D848', 4294967295);
INSERT INTO type_gallery (id, a_numeric, a_double, a_real, a_text, a_bytea)
SELECT n, (random() * 1e20)::numeric / 7, random() / 3, random(), repeat('é', n), decode(md5(n::text), 'hex')
  FROM generate_series(2, 60) n;

INSERT INTO stat.audit (at, kind, object, after)
SELECT timestamptz '2019-06-01 00:00:00+00' + n * interval '1 day', 'SEED', 'none', to_jsonb(n)
  FROM generate_series(1, 400) n;
INSERT INTO stat.snapshot (id, digest) SELECT n, md5(n::text) FROM generate_series(1, 20) n;
INSERT INTO stat.snapshot_value SELECT s, 'v' || v, s * v FROM generate_series(1, 20) s, generate_series(1, 10) v;
INSERT INTO stat.heartbeat VALUES (1, 0);
ANALYZE;
