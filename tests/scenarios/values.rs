//! Values of every type, the odd ones first. Each is a literal of its type, or an expression if it begins with `=`.

/// A type and values of it, all different, and the first release of both servers that knows them.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) since: u32,
    pub(crate) values: &'static [&'static str],
}

const fn kind(name: &'static str, values: &'static [&'static str]) -> Kind {
    Kind { name, since: 15, values }
}

/// Built-in types that no user can write a value of.
pub(crate) const WITHOUT_INPUT: &[&str] = &[
    "gtsvector",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_ndistinct",
    "pg_node_tree",
];

const TEXTS: &[&str] = &[
    "",
    " ",
    "\\",
    "a\tb\nc\rd\u{8}\u{c}\u{b}e",
    "\\N",
    "\\.",
    "NULL",
    "null",
    "{}",
    "{\"a\",NULL}",
    "(a,\"b\")",
    "\"",
    "'",
    "''\\''",
    "$1 %s ?",
    "Ünï çödé 😀 \u{10ffff}",
    "\u{1}\u{7f}\u{85}\u{2028}\u{feff}",
    "trailing  ",
    "=repeat('x', 100000)",
    "=repeat(chr(128512), 3000)",
];

pub(crate) const BUILT_IN: &[Kind] = &[
    kind("bool", &["t", "f"]),
    kind("bytea", &["", "\\x00ff5c27", "\\x5c4e", "=decode(repeat('00ff5c27', 2000), 'hex')"]),
    kind("\"char\"", &["a", "", "\\", "'", "\"", " ", "\t"]),
    Kind { name: "\"char\"", since: 16, values: &["=(-1)::\"char\"", "=(-128)::\"char\"", "=127::\"char\""] },
    kind("name", &["n", "", "with \"quotes\" and 'more'", "=repeat('ä', 31)"]),
    kind("int8", &["-9223372036854775808", "9223372036854775807", "0", "-1"]),
    kind("int2", &["-32768", "32767", "0"]),
    kind("int2vector", &["", "1", "-32768 32767 0"]),
    kind("int4", &["-2147483648", "2147483647", "0", "1"]),
    kind("regproc", &["-", "now", "pg_catalog.pg_lsn_in"]),
    kind("text", TEXTS),
    kind("oid", &["0", "4294967295", "16384"]),
    kind("tid", &["(0,0)", "(4294967295,65535)"]),
    kind("xid", &["0", "3", "4294967295"]),
    kind("cid", &["0", "4294967295"]),
    kind("oidvector", &["", "0 4294967295"]),
    kind(
        "json",
        &[
            "null",
            "{\"a\" : 1,  \"a\":2}",
            "\"\\u0000\\n\"",
            "[1e999999, -0.0, \"\\ud83d\\ude00\", {}]",
            "  1\n",
        ],
    ),
    kind(
        "xml",
        &[
            "",
            "<a/>",
            "plain &lt; text",
            "<?xml version=\"1.0\" standalone=\"yes\"?><a b=\"c\">ä<!-- x --></a>",
            "<a/><b/>",
            "<!DOCTYPE a><a/>",
        ],
    ),
    kind("point", &["(1e300,-0)", "(NaN,Infinity)", "(-Infinity,5e-324)", "(0.1,0.2)"]),
    kind("lseg", &["[(0,0),(1,1)]", "[(NaN,1),(-0,0.1)]"]),
    kind("path", &["[(0,0),(1,1),(2,0)]", "((0,0),(1,1),(2,0))", "((0.1,1e-300))"]),
    kind("box", &["(1,1),(0,0)", "(0,0),(0,0)", "(Infinity,1),(-Infinity,0)"]),
    kind("polygon", &["((0,0),(1,1),(2,0))", "((0.1,0.2))"]),
    kind("line", &["{1,-1,0}", "{0,1,0.1}"]),
    kind("circle", &["<(0,0),1>", "<(0.1,-0),0>", "<(1,1),Infinity>"]),
    kind("float4", &["NaN", "Infinity", "-Infinity", "-0", "1e-45", "3.4028235e38", "0.1", "16777216"]),
    kind(
        "float8",
        &[
            "NaN",
            "Infinity",
            "-Infinity",
            "-0",
            "5e-324",
            "1.7976931348623157e308",
            "0.1",
            "=0.1::float8 + 0.2::float8",
            "1e22",
        ],
    ),
    kind(
        "money",
        &[
            "=(-92233720368547758.08)::numeric::money",
            "=92233720368547758.07::numeric::money",
            "=0::money",
            "=1.5::numeric::money",
        ],
    ),
    kind("macaddr", &["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"]),
    kind("macaddr8", &["00:00:00:00:00:00:00:00", "08:00:2b:01:02:03:04:05"]),
    kind(
        "inet",
        &["0.0.0.0/0", "192.168.0.1/24", "255.255.255.255", "::1", "::ffff:1.2.3.4/96", "2001:db8::1/64"],
    ),
    kind("cidr", &["0.0.0.0/0", "192.168.0.0/24", "::/0", "2001:db8::/32"]),
    kind("aclitem", &["='=r/postgres'::aclitem", "replicat=arwdDxt/postgres", "extract=r*w*/replicat"]),
    kind("bpchar", &["a", "", "'", "two  words", "ä\\"]),
    kind("varchar", TEXTS),
    kind(
        "date",
        &[
            "4714-11-24 BC",
            "0001-12-31 BC",
            "0001-01-01",
            "2000-02-29",
            "5874897-12-31",
            "infinity",
            "-infinity",
        ],
    ),
    kind("time", &["00:00", "24:00:00", "23:59:59.999999", "12:34:56.000001"]),
    kind(
        "timestamp",
        &[
            "4714-11-24 00:00:00 BC",
            "0044-03-15 12:00:00.5 BC",
            "294276-12-31 23:59:59.999999",
            "infinity",
            "-infinity",
            "2000-01-01 24:00:00",
            "1999-12-31 23:59:59.999999",
        ],
    ),
    kind(
        "timestamptz",
        &[
            "4714-11-24 00:00:00+00 BC",
            "0044-03-15 12:00:00.5+01:23:45 BC",
            "294276-12-31 23:59:59.999999+00",
            "infinity",
            "-infinity",
            "2026-03-29 01:30:00+00",
            "1800-01-01 00:00:00+00",
        ],
    ),
    kind(
        "interval",
        &[
            "00:00:00",
            "1 year -2 mons +3 days -04:05:06.789",
            "178956970 years 7 mons",
            "-178956970 years -8 mons",
            "2147483647 days",
            "-2147483648 days",
            "2562047788:00:54.775807",
            "-00:00:00.000001",
        ],
    ),
    Kind { name: "interval", since: 17, values: &["infinity", "-infinity"] },
    kind("timetz", &["00:00:00+15:59", "24:00:00-15:59", "12:34:56.789+05:45", "23:59:59.999999+15:59:59"]),
    kind("bit", &["0", "1"]),
    kind("varbit", &["", "1", "0101", "=repeat('10', 5000)::varbit"]),
    kind(
        "numeric",
        &[
            "NaN",
            "Infinity",
            "-Infinity",
            "0",
            "-0.5000",
            "99999999999999999999999999999999999999.0001",
            "=(repeat('9', 131072))::numeric",
            "=('0.' || repeat('0', 16382) || '1')::numeric",
            "1e-100",
        ],
    ),
    kind("refcursor", &["c", "<unnamed portal 1>", ""]),
    kind("regprocedure", &["-", "abs(integer)"]),
    kind("regoper", &["0", "pg_catalog.||/"]),
    kind("regoperator", &["0", "*(integer,integer)", "-(NONE,integer)"]),
    kind("regclass", &["-", "pg_class", "public.drain", "irongate.checkpoint"]),
    kind("regcollation", &["-", "\"C\"", "\"default\""]),
    kind("regtype", &["-", "integer", "character varying[]", "public.mood", "timestamp with time zone"]),
    kind("regrole", &["-", "postgres", "replicat"]),
    kind("regnamespace", &["-", "pg_catalog", "public"]),
    kind(
        "uuid",
        &[
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        ],
    ),
    kind("pg_lsn", &["0/0", "FFFFFFFF/FFFFFFFF", "16/B374D848"]),
    kind("tsvector", &["", "a:1A,2B 'it''s':3 '\\\\ \"':16383C", "'ä b' c"]),
    kind("tsquery", &["", "'a' & !( 'b' <-> 'c':*A ) | 'it''s'", "a <16384> b"]),
    kind("regconfig", &["-", "english", "simple"]),
    kind("regdictionary", &["-", "simple"]),
    kind(
        "jsonb",
        &["null", "{\"a\": [1.10, -0, true, null], \"\": \"\\\\\\\"\"}", "\"\\n😀\"", "1e1000", "[]", "{}"],
    ),
    kind(
        "jsonpath",
        &["$", "strict $.\"a b\"[*] ? (@.x > 1 && @ like_regex \"^a\" flag \"i\")", "$.a.size() + -1.5e3"],
    ),
    kind("txid_snapshot", &["1:1:", "10:20:10,14,15"]),
    kind("pg_snapshot", &["1:1:", "10:9223372036854775807:10,14,15"]),
    kind("xid8", &["0", "18446744073709551615"]),
    kind("int4range", &["empty", "(,)", "[1,10)", "(,5)", "[-2147483648,2147483647)"]),
    kind("int8range", &["empty", "(,)", "[-9223372036854775808,9223372036854775807)"]),
    kind("numrange", &["empty", "(,)", "(1.50,2.5]", "[NaN,NaN]", "[-Infinity,0)"]),
    kind("daterange", &["empty", "[4714-11-24 BC,infinity)", "(-infinity,2000-01-01)", "(,)"]),
    kind("tsrange", &["empty", "[\"4714-11-24 00:00:00 BC\",infinity]", "(,\"2000-01-01 00:00:00.000001\")"]),
    kind(
        "tstzrange",
        &["empty", "[\"0044-03-15 12:00:00+00 BC\",\"2026-03-29 01:30:00+00\")", "(-infinity,infinity)"],
    ),
    kind("int4multirange", &["{}", "{[1,3),[5,7)}", "{(,)}"]),
    kind("int8multirange", &["{}", "{(,-9223372036854775808),[5,7)}"]),
    kind("nummultirange", &["{}", "{[1.50,2.50],(3,Infinity)}"]),
    kind("datemultirange", &["{}", "{[4714-11-24 BC,2000-01-01),[2001-01-01,infinity)}"]),
    kind("tsmultirange", &["{}", "{[\"0044-03-15 12:00:00 BC\",\"2000-01-01 00:00:00\")}"]),
    kind("tstzmultirange", &["{}", "{[\"2026-03-29 01:30:00+00\",infinity)}"]),
];

/// The same with a length or precision, which comes through a value's own.
pub(crate) const MODIFIED: &[Kind] = &[
    kind("varchar(5)", &["", "a", "ÜÜÜÜÜ", "ab  "]),
    kind("char(10)", &["", "a", "ÜÜÜÜÜ", "'\\"]),
    kind("char(1)", &["", "a"]),
    kind("bit(17)", &["00000000000000000", "10101010101010101"]),
    kind("bit varying(3)", &["", "101"]),
    kind("numeric(10,2)", &["NaN", "-99999999.99", "0.01"]),
    kind("numeric(3,-2)", &["12300", "-99900"]),
    kind("numeric(2,5)", &["0.00012", "NaN"]),
    kind("timestamp(0)", &["2000-01-01 00:00:00", "infinity"]),
    kind("timestamptz(3)", &["2000-01-01 00:00:00.123+00"]),
    kind("time(2)", &["12:34:56.78"]),
    kind("timetz(2)", &["12:34:56.78+02"]),
    kind("interval(2)", &["1 day 00:00:01.23"]),
    kind("interval year to month", &["1 year 2 mons", "-1 mons"]),
    kind("interval day to second(3)", &["3 days 04:05:06.789"]),
    kind("float(20)", &["0.1", "NaN"]),
];

/// Users' types, to be made at both sides, after hstore and citext.
pub(crate) const DEFINITIONS: &str = r#"
    CREATE EXTENSION hstore; CREATE EXTENSION citext;
    CREATE TYPE mood AS ENUM ('sad', 'it''s "ok"', 'a,b', '{}', '', 'Ünï');
    CREATE TYPE "Odd ""Name" AS ENUM ('x', 'NULL');
    CREATE DOMAIN short AS varchar(5);
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE DOMAIN even AS positive CHECK (VALUE % 2 = 0);
    CREATE DOMAIN list AS int[] CHECK (cardinality(VALUE) < 5);
    CREATE DOMAIN feeling AS mood CHECK (VALUE <> 'sad');
    CREATE DOMAIN email AS citext CHECK (VALUE ~ '@');
    CREATE TYPE pair AS (a int, b text);
    CREATE TYPE nested AS (p pair, l pair[], d positive, m mood);
    CREATE TYPE thinner AS (a int, gone text, b text); ALTER TYPE thinner DROP ATTRIBUTE gone;
    CREATE DOMAIN good_pair AS pair CHECK ((VALUE).a > 0);
    CREATE TYPE floatrange AS RANGE (subtype = float8, subtype_diff = float8mi);
    CREATE TYPE textrange AS RANGE (subtype = text, collation = "C", multirange_type_name = many_texts);
    CREATE TYPE moodrange AS RANGE (subtype = mood);
"#;

pub(crate) const USERS: &[Kind] = &[
    kind("mood", &["sad", "it's \"ok\"", "a,b", "{}", "", "Ünï"]),
    kind("\"Odd \"\"Name\"", &["x", "NULL"]),
    kind("short", &["", "ÜÜÜÜÜ", "ab  "]),
    kind("positive", &["1", "2147483647"]),
    kind("even", &["2", "4"]),
    kind("list", &["{}", "{1,NULL,3}", "[-1:0]={1,2}", "{{1},{2}}"]),
    kind("feeling", &["a,b", ""]),
    kind("email", &["Me@Example.org", "@"]),
    kind("pair", &["(1,a)", "(,)", "(,\"\")", "(-1,\"it's \"\"quoted\"\", \\\\ and, (more)\")"]),
    kind("nested", &["(\"(1,\"\"a b\"\")\",\"{\"\"(1,x)\"\",NULL}\",5,sad)", "(,,,)"]),
    kind("thinner", &["(1,b)", "(,\"\")"]),
    kind("good_pair", &["(1,a)"]),
    kind("floatrange", &["empty", "[-0,NaN]", "(0.1,Infinity)"]),
    kind("textrange", &["empty", "[\"a,b\",\"c\"\"d\")", "(,\"\\\\\"]"]),
    kind("moodrange", &["empty", "[sad,\"a,b\")"]),
    kind("floatmultirange", &["{}", "{[0.1,0.2),(1,2)}"]),
    kind("many_texts", &["{}", "{[\"a,b\",\"c\"\"d\")}"]),
    kind(
        "hstore",
        &["", "\"a\"=>\"1\", \"k \\\"x\"=>NULL, \"\"=>\"NULL\"", "=hstore('a', repeat('\"', 3000))"],
    ),
    kind("citext", &["", "Ünï", "ABC", "NULL", "it's\\"]),
];
