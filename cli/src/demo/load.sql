-- The transactions of the load. Each begins at a line "-- name weight"; "@W@" is the worker's number and "@N@" the
-- transaction's. Each that commits leaves a line in stat.journal, which the driver adds.

-- hire 10
INSERT INTO config.person (tenant_id, folder_id, login, first_name, last_name)
VALUES (1 + @N@ % 4, 1 + @N@ % 200, 'hired-@W@-@N@', 'Łukasz', 'Nguyễn @N@');
INSERT INTO config.agent (person_id, employee, capacity)
VALUES (currval('config.person_id_seq'), 'H@W@-@N@', config.load_range(0, 3));
INSERT INTO config.agent_skill
SELECT currval('config.person_id_seq'), 1 + (@N@ + s) % 60, s * 10 FROM generate_series(1, 4) s;
INSERT INTO config.agent_login VALUES ('H@W@-@N@', currval('config.person_id_seq'), NULL);
INSERT INTO config.person_photo VALUES (currval('config.person_id_seq'), decode(repeat(md5('@N@'), 150), 'hex'), 'new');

-- fire 6
DELETE FROM config.person WHERE id = (
    SELECT id FROM config.person WHERE id > 1000000 + floor(random() * @N@ * 3) ORDER BY id LIMIT 1);

-- skills 16
UPDATE config.agent_skill SET level = (level + 7) % 101
 WHERE agent_id = (SELECT person_id FROM config.agent WHERE person_id >= floor(random() * @SCALE@) ORDER BY 1 LIMIT 1);

-- person 14
UPDATE config.person
   SET last_name = 'née @N@', home = ROW('street @N@', 'city, "q"', NULL, point(@N@, 0)), changed_at = now()
 WHERE id = (SELECT id FROM config.person WHERE id >= floor(random() * @SCALE@) ORDER BY id LIMIT 1);

-- caption 8
UPDATE config.person_photo SET caption = 'caption @N@'
 WHERE person_id = (SELECT person_id FROM config.person_photo WHERE person_id >= floor(random() * @SCALE@) ORDER BY 1 LIMIT 1);

-- strategy 6
UPDATE config.strategy SET checked = NOT checked WHERE id = 1 + @N@ % 60;
UPDATE config.strategy SET source = repeat(md5('@N@'), 300) WHERE id = 1 + (@N@ * 7) % 60 AND @N@ % 4 = 0;
INSERT INTO config.strategy_version (strategy_id, version, source)
SELECT 1 + @N@ % 60, @W@ * 1000000 + @N@, repeat('step ', 20);

-- number 8
UPDATE config.dn SET number = '+44@W@' || lpad((@N@ % 1000000)::text, 6, '0'), alias = 'moved'
 WHERE id = (SELECT id FROM config.dn WHERE id >= gen_random_uuid() ORDER BY id LIMIT 1);

-- new-number 6
INSERT INTO config.dn (switch_id, number) VALUES (1 + @N@ % 6, '+33@W@' || lpad((@N@ % 1000000)::text, 6, '0'))
    ON CONFLICT DO NOTHING;
DELETE FROM config.dn WHERE id = (SELECT id FROM config.dn WHERE id >= gen_random_uuid() ORDER BY id LIMIT 1) AND @N@ % 3 = 0;

-- options 12
INSERT INTO config.application_option VALUES (1 + @N@ % 150, 'load', 'o@W@', '@N@')
    ON CONFLICT (application_id, section, name) DO UPDATE SET value = EXCLUDED.value;
UPDATE config.application SET started_at = now() WHERE id = 1 + (@N@ * 11) % 150;

-- rename-option 4
UPDATE config.application_option SET name = name || '~', section = 'renamed'
 WHERE application_id = 1 + @N@ % 150 AND name = 'o@W@';

-- swap-queues 4
UPDATE config.queue a SET position = b.position
  FROM config.queue b
 WHERE a.tenant_id = b.tenant_id AND a.id <= 80 AND b.id <= 80
   AND ((a.id = 1 + @N@ % 40 AND b.id = 41 + @N@ % 40) OR (b.id = 1 + @N@ % 40 AND a.id = 41 + @N@ % 40));

-- folder 4
INSERT INTO config.folder (id, parent_id, tenant_id, name)
VALUES (10000000 + @W@ * 1000000 + @N@ * 2, 10000000 + @W@ * 1000000 + @N@ * 2 + 1, 1, 'child'),
       (10000000 + @W@ * 1000000 + @N@ * 2 + 1, 1 + @N@ % 200, 1, 'parent');

-- notes 8
INSERT INTO config.session_note VALUES ('E@W@', now(), 'note @N@', 'NaN'), ('E@W@', NULL, NULL, NULL);
UPDATE config.session_note SET weight = @N@ WHERE agent = 'E@W@' AND note = 'note ' || @N@ - 5;
DELETE FROM config.session_note WHERE agent = 'E@W@' AND note = 'note ' || @N@ - 9;

-- types 8
INSERT INTO config.type_gallery (id, a_small, a_numeric, a_double, a_timestamptz, an_interval, a_json, an_xml, an_enum,
    a_composite, a_multirange, a_2d_array, a_bit, a_bytea)
VALUES (@W@ * 1000000 + @N@, @N@ % 30000, @N@ / 7.0, sqrt(@N@), now(), age(timestamptz '2001-02-03 04:05:06+00'),
    '{"n" :  @N@}', '<n>@N@</n>', 'enabled', ROW('a', NULL, 'b', point(1, 2)), '{[1,@N@)}', ARRAY[['a', '@N@']],
    (@N@ % 512)::bit(9), decode(md5('@N@'), 'hex'))
    ON CONFLICT (id) DO NOTHING;
UPDATE config.type_gallery SET a_timestamptz = '-infinity', a_date = '0044-03-15 BC', a_numeric = 'Infinity',
    an_enum = 'deleted', an_array = an_array || @N@, a_money = @N@::numeric::money
 WHERE id = @W@ * 1000000 + @N@ - 3;

-- partitions 6
INSERT INTO stat.audit (at, kind, object) VALUES
    ('2018-01-01 00:00:00+00'::timestamptz + @N@ * interval '1 s' + @W@ * interval '1 h', 'LOAD', 'old');
UPDATE stat.audit SET at = now(), object = 'moved' WHERE at >= '2018-01-01 00:00:00+00' AND at < '2018-01-02 00:00:00+00'
   AND object = 'old' AND @N@ % 3 = 0;

-- savepoints 8
INSERT INTO config.attribute_value VALUES ('tier', 'kept-@W@-@N@', 1, NULL);
SAVEPOINT a;
INSERT INTO config.attribute_value SELECT 'tier', 'gone-@W@-@N@-' || s, s, NULL FROM generate_series(1, 5) s;
SAVEPOINT b;
UPDATE config.attribute_value SET rank = rank + 1 WHERE attribute = 'tier' AND value = 'kept-@W@-@N@';
ROLLBACK TO SAVEPOINT a;
UPDATE config.attribute_value SET rank = 'NaN' WHERE attribute = 'tier' AND value = 'kept-@W@-@N@';
SAVEPOINT c;
INSERT INTO config.attribute_value VALUES ('tier', 'also-@W@-@N@', 2, '{"n": "@N@"}');
RELEASE SAVEPOINT c;

-- truncate 1
TRUNCATE stat.snapshot, stat.snapshot_value;
INSERT INTO stat.snapshot (id, digest) VALUES (@W@ * 1000000 + @N@, md5('@N@'));
INSERT INTO stat.snapshot_value SELECT @W@ * 1000000 + @N@, 'v' || v, v FROM generate_series(1, 10) v;

-- attribute 2
UPDATE config.attribute_value SET value = value || '+' WHERE attribute = 'language' AND value = 'v' || 1 + @N@ % 100;

-- calendar 3
INSERT INTO config.calendar_day VALUES ('CAL1', date '2025-01-01' + (@N@ % 5000)::int, '09:00', '17:00+00', '@W@')
    ON CONFLICT (calendar, day) DO UPDATE SET note = EXCLUDED.note, opens = NULL;
UPDATE config.calendar SET open_hours = open_hours + tstzmultirange(tstzrange(now(), now() + interval '1 s')) WHERE code = 'CAL2' AND @N@ % 10 = 0;
