//! Every type: the built-in ones, users' and extensions', in rows, in keys, in arrays, as text and in binary.

use std::collections::BTreeSet;
use std::time::Duration;

use irongate_apply::{Action, Policy};
use irongate_tests::{Server, Tables, Tier, literal};

use super::support::{Flow, pairs, pairs_in_turn};
use super::values::{BUILT_IN, DEFINITIONS, Kind, MODIFIED, USERS, WITHOUT_INPUT};

/// What makes text come out, and be read, in other ways.
const PERVERSE: &str = "
    DO $$ BEGIN
      EXECUTE format('ALTER DATABASE %I SET datestyle = %L', current_database(), 'SQL, DMY');
      EXECUTE format('ALTER DATABASE %I SET intervalstyle = %L', current_database(), 'sql_standard');
      EXECUTE format('ALTER DATABASE %I SET bytea_output = %L', current_database(), 'escape');
      EXECUTE format('ALTER DATABASE %I SET extra_float_digits = %L', current_database(), '-5');
      EXECUTE format('ALTER DATABASE %I SET timezone = %L', current_database(), 'Asia/Kathmandu');
      EXECUTE format('ALTER DATABASE %I SET array_nulls = %L', current_database(), 'off');
      EXECUTE format('ALTER DATABASE %I SET xmloption = %L', current_database(), 'document');
      EXECUTE format('ALTER DATABASE %I SET search_path = %L', current_database(), 'irongate');
      EXECUTE format('ALTER DATABASE %I SET quote_all_identifiers = %L', current_database(), 'on');
      EXECUTE format('ALTER DATABASE %I SET standard_conforming_strings = %L', current_database(), 'off');
      EXECUTE format('ALTER DATABASE %I SET escape_string_warning = %L', current_database(), 'off');
      EXECUTE format('ALTER DATABASE %I SET transform_null_equals = %L', current_database(), 'on');
      EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = %L', current_database(), 'serializable');
      EXECUTE format('ALTER DATABASE %I SET client_encoding = %L', current_database(), 'LATIN1');
    END $$";

/// What keeps others from a standby.
const UNWILLING: &str = "
    DO $$ BEGIN
      EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database());
      EXECUTE format('ALTER DATABASE %I SET idle_session_timeout = 300', current_database());
    END $$";

/// A session's settings in which the statements below mean what they say.
const PLAIN: &str = "SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET timezone = 'UTC'; SET array_nulls = on;
     SET xmloption = 'content'; SET search_path = 'public'; SET standard_conforming_strings = on;
     SET client_encoding = 'UTF8'; SET transform_null_equals = off; SET default_transaction_isolation = 'read committed'";

/// The expression of a value.
fn value(kind: &Kind, value: &str) -> String {
    let name = kind.name;
    match value.strip_prefix('=') {
        Some(expression) => format!("CAST({expression} AS {name})"),
        None => format!("CAST({} AS {name})", literal(value)),
    }
}

fn known_to(kinds: &'static [Kind], (source, target): (u32, u32)) -> impl Iterator<Item = &'static Kind> {
    kinds.iter().filter(move |kind| kind.since <= source.min(target))
}

/// The tables of one type, which begin with `prefix`.
struct OfType {
    kind: &'static Kind,
    prefix: String,
    has_key: bool,
    has_array: bool,
}

impl OfType {
    /// Makes the tables of all types, at once because they are many.
    async fn make_all(flow: &Flow, kinds: &[&'static Kind], has_array: bool) -> Vec<Self> {
        let mut sql = "SET search_path = public;".to_owned();
        for (place, kind) in kinds.iter().enumerate() {
            let name = kind.name;
            sql.push_str(&format!(
                "CREATE TABLE t{place}_v (id int PRIMARY KEY, v {name});
                 CREATE TABLE t{place}_f (v {name}, n int); ALTER TABLE t{place}_f REPLICA IDENTITY FULL;"
            ));
            // A type without an order has no key.
            sql.push_str(&format!(
                "DO $$ BEGIN CREATE TABLE t{place}_k (v {name} PRIMARY KEY, n int);
                 EXCEPTION WHEN undefined_object THEN NULL; END $$;"
            ));
            if has_array {
                sql.push_str(&format!(
                    "CREATE TABLE t{place}_a (id int PRIMARY KEY, v {name}[]);
                     CREATE TABLE t{place}_g (v {name}[], n int); ALTER TABLE t{place}_g REPLICA IDENTITY FULL;"
                ));
            }
        }
        flow.at_both(&sql).await;
        let keyed = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'r' AND relname ~ '^t\\d+_k$'";
        let keyed = flow.source_says(keyed).await;
        let has_key = |place| keyed.split(' ').any(|name| name == format!("t{place}_k"));
        let tables = kinds.iter().enumerate();
        tables
            .map(|(place, &kind)| Self {
                kind,
                prefix: format!("t{place}"),
                has_key: has_key(place),
                has_array,
            })
            .collect()
    }

    /// Transactions that write every value by every kind of change.
    fn changes(&self, way: Way) -> Vec<String> {
        let Self { kind, prefix, has_key, has_array } = self;
        let name = kind.name;
        let values: Vec<String> = kind.values.iter().map(|text| value(kind, text)).collect();
        let count = values.len() + 1;
        let rows: Vec<String> =
            values.iter().enumerate().map(|(n, value)| format!("({}, {value})", n + 1)).collect();
        let rows = format!("{}, ({count}, NULL)", rows.join(", "));
        let mut changes = vec![
            format!("INSERT INTO {prefix}_v VALUES {rows}"),
            format!(
                "INSERT INTO {prefix}_v SELECT 1000 + row_number() OVER (), v FROM {prefix}_v, generate_series(1, {})
                  WHERE coalesce(pg_column_size(v), 0) < 10000",
                // As many as are copied in; but some, where each costs several round trips.
                if way == Way::Exact { 1 } else { 600 / count + 100 }
            ),
            format!(
                "UPDATE {prefix}_v SET v = (SELECT o.v FROM {prefix}_v o WHERE o.id = {prefix}_v.id % {count} + 1)
                  WHERE id <= {count}; UPDATE {prefix}_v SET v = NULL WHERE id BETWEEN 1001 AND 1010"
            ),
            format!("UPDATE {prefix}_v SET id = -id WHERE id % 2 = 0 AND id <= {count}; DELETE FROM {prefix}_v WHERE id > 1020"),
            // Twins, of which one changes and one goes.
            format!("INSERT INTO {prefix}_f (n, v) VALUES {rows}; INSERT INTO {prefix}_f (n, v) VALUES {rows}"),
            format!("UPDATE {prefix}_f SET n = -n WHERE ctid IN (SELECT min(ctid) FROM {prefix}_f GROUP BY n)"),
            format!("UPDATE {prefix}_f SET v = (SELECT v FROM {prefix}_f o WHERE o.n = 1) WHERE n = -{count}"),
            format!("DELETE FROM {prefix}_f WHERE n > 0"),
        ];
        if *has_key {
            changes.extend([
                format!("INSERT INTO {prefix}_k SELECT DISTINCT ON (v) v, n FROM (VALUES {rows}) r (n, v) WHERE v IS NOT NULL"),
                format!("UPDATE {prefix}_k SET n = n + 100"),
                format!(
                    "DELETE FROM {prefix}_k WHERE v::text = {first}::text;
                     UPDATE {prefix}_k SET v = {first}, n = 0
                      WHERE v::text = {last}::text AND {last}::text <> {first}::text",
                    first = values[0],
                    last = values[values.len() - 1]
                ),
                format!("UPDATE {prefix}_k SET n = n + 1; DELETE FROM {prefix}_k WHERE n % 2 = 0"),
            ]);
        }
        if *has_array {
            let all = format!("CAST(ARRAY[{}, NULL] AS {name}[])", values.join(", "));
            let (first, last) = (&values[0], &values[values.len() - 1]);
            changes.extend([
                format!(
                    "INSERT INTO {prefix}_a VALUES (1, '{{}}'), (2, NULL), (3, {all}), (4, CAST(ARRAY[NULL] AS {name}[])),
                        (5, array_fill({first}, ARRAY[2, 2], ARRAY[0, -3])),
                        (6, CAST(array_fill({first}, ARRAY[1, 2, 3]) || array_fill(CAST(NULL AS {name}), ARRAY[1, 2, 3]) AS {name}[]))"
                ),
                format!("INSERT INTO {prefix}_g SELECT v, id FROM {prefix}_a; INSERT INTO {prefix}_g SELECT v, id FROM {prefix}_a"),
                format!("UPDATE {prefix}_a SET v[1] = {last} WHERE id IN (1, 3, 4); UPDATE {prefix}_a SET v[-1:0] = {all} WHERE id = 2"),
                format!("UPDATE {prefix}_a SET id = -id, v = NULL WHERE id = 5"),
                format!("UPDATE {prefix}_g SET n = -n WHERE ctid IN (SELECT min(ctid) FROM {prefix}_g GROUP BY n)"),
                format!("DELETE FROM {prefix}_g WHERE n > 0"),
            ]);
        }
        changes
    }
}

/// How the values travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// As text, applied in sets.
    Sets,
    /// As text, each transaction with a refusal in it: applied change by change.
    Exact,
    /// In binary.
    Binary,
}

async fn types_travel(test: &str, way: Way) {
    for pair in pairs() {
        let mut flow = Flow::new(test, pair).await;
        let kinds: Vec<&'static Kind> = match way {
            Way::Binary => known_to(BUILT_IN, pair).filter(|kind| is_binary(kind)).collect(),
            _ => known_to(BUILT_IN, pair)
                .chain(known_to(MODIFIED, pair))
                .chain(known_to(USERS, pair))
                .collect(),
        };
        flow.at_both(DEFINITIONS).await;
        let tables = OfType::make_all(&flow, &kinds, way != Way::Binary).await;
        flow.at_both("CREATE TABLE public.poison (id int PRIMARY KEY)").await;
        if way == Way::Exact {
            flow.at_target("ALTER TABLE public.poison ADD CHECK (id = 0)").await;
            flow.replicat.policies.0.push(Policy {
                table: Some("public.poison".to_owned()),
                class: None,
                action: Action::Ignore,
            });
        } else {
            flow.at_both(PERVERSE).await;
            flow.at_target(UNWILLING).await;
        }
        flow.extract.source.binary = way == Way::Binary;
        flow.start().await;
        let session = flow.session().await;
        session.batch_execute(PLAIN).await.unwrap();
        for table in &tables {
            for mut sql in table.changes(way) {
                if way == Way::Exact {
                    sql = format!("INSERT INTO poison VALUES (1); {sql}; DELETE FROM poison");
                }
                let done = session.batch_execute(&sql).await;
                done.unwrap_or_else(|error| {
                    panic!("{}: {sql}", error.as_db_error().map_or("", |e| e.message()))
                });
            }
        }
        // Some five hundred tables, of each of which Replicat has to learn everything.
        flow.drain_within(Duration::from_secs(300)).await;
        flow.assert_same().await;
        verified(&flow).await;
        let errors = flow.status(&flow.replicat.group).unwrap().counters.errors;
        assert_eq!(errors > 0, way == Way::Exact, "{errors} changes refused");
        assert_eq!(travelled_in_binary(&flow), way == Way::Binary);
        flow.end().await;
    }
}

/// Irongate's own compare finds no difference either.
async fn verified(flow: &Flow) {
    let end = |server: &Server| {
        let endpoint = irongate_postgres::Endpoint::parse(&server.uri("postgres", &flow.database)).unwrap();
        irongate_verify::End { label: format!("PostgreSQL {}", server.major()), endpoint }
    };
    let compared = irongate_verify::Flow {
        name: flow.name.clone(),
        publication: flow.name.clone(),
        source: end(&flow.source),
        target: end(&flow.target),
        reverse: None,
        target_of: std::sync::Arc::new(Clone::clone),
    };
    let how = irongate_verify::Comparing::default();
    let found = irongate_verify::compare(&compared, &how, &[], &()).await.unwrap();
    let bad: Vec<_> = found
        .tables
        .iter()
        .filter(|table| table.differences + table.unsettled > 0 || table.problem.is_some())
        .collect();
    assert!(found.is_clean(), "{bad:#?}");
}

fn is_binary(kind: &Kind) -> bool {
    let known = tokio_postgres::types::Type::from_oid;
    (16..5000).filter_map(known).any(|known| {
        known.name() == kind.name.trim_matches('"')
            && irongate_capture::binary::is_safe(known.oid())
            // Two types are called "char".
            && (kind.name == "\"char\"") == (known.oid() == 18)
    })
}

/// Whether there is a value in binary in the trail.
fn travelled_in_binary(flow: &Flow) -> bool {
    use irongate_trail::{Begins, Directory, Item, Reader, Value};
    let storage = std::sync::Arc::new(Directory::new(&flow.extract.trail));
    let mut reader = Reader::open(storage, Begins::First).unwrap();
    while let Some(item) = reader.next().unwrap() {
        if let Item::Row { row, .. } = item
            && row.new().is_some_and(|new| new.values().any(|value| matches!(value, Value::Binary(_))))
        {
            return true;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_travels_as_text_and_is_applied_in_sets() {
    types_travel("types_sets", Way::Sets).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_travels_as_text_and_is_applied_change_by_change() {
    types_travel("types_exact", Way::Exact).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn types_that_are_safe_in_binary_travel_so() {
    types_travel("types_binary", Way::Binary).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_built_in_type_is_without_values() {
    const TYPES: &str = "SELECT typname FROM pg_type WHERE oid < 16384 AND typtype IN ('b', 'r', 'm')
          AND NOT (typcategory = 'A' AND typname ^@ '_')";
    for pair in pairs() {
        let flow = Flow::new("types_all", pair).await;
        let known: BTreeSet<_> = BUILT_IN.iter().map(|kind| kind.name.trim_matches('"')).collect();
        let rows = flow.source.rows(&flow.database, TYPES).await;
        let there: BTreeSet<_> = rows.iter().map(|row| row[0].as_deref().unwrap()).collect();
        let missing: Vec<_> =
            there.iter().filter(|name| !known.contains(*name) && !WITHOUT_INPUT.contains(name)).collect();
        assert!(missing.is_empty(), "PostgreSQL {} has types without a value here: {missing:?}", pair.0);
        assert!(there.len() > 80, "{there:?}");
        for name in WITHOUT_INPUT.iter().filter(|name| there.contains(*name)) {
            // The excuse holds only for types that really cannot be written.
            let sql = format!("SELECT ''::{name}");
            let error = flow.source.try_batch_in(&flow.database, &sql).await.unwrap_err();
            assert_eq!(error.code().unwrap().code(), "0A000", "{name}");
        }
        flow.drop_databases().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_of_text_are_one_value() {
    let pairs = pairs_in_turn();
    for pair in &pairs[..Tier::pick(1, 1, pairs.len())] {
        let mut flow = Flow::new("types_large", *pair).await;
        flow.at_both(
            "CREATE TABLE large (id int PRIMARY KEY, n int, v text);
             CREATE TABLE large_full (v text, n int); ALTER TABLE large_full REPLICA IDENTITY FULL",
        )
        .await;
        flow.start().await;
        flow.each_at_source(&[
            "INSERT INTO large VALUES (1, 1, repeat('0123456789', 10 * 1024 * 1024))",
            "UPDATE large SET n = 2",
            "INSERT INTO large_full SELECT substr(v, 1, 10 * 1024 * 1024) FROM large",
            "UPDATE large_full SET n = 2",
            "UPDATE large SET id = 2",
            "UPDATE large SET v = repeat('é', 1024 * 1024) || v",
            "DELETE FROM large_full",
        ])
        .await;
        flow.drain_within(Duration::from_secs(300)).await;
        assert_eq!(flow.target_says("SELECT octet_length(v) FROM large").await, (102 << 20).to_string());
        flow.end_same().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_added_to_an_enum_travels_once_the_target_has_it() {
    for pair in pairs() {
        let mut flow = Flow::new("enum_label", pair).await;
        flow.at_both(
            "CREATE TYPE mood AS ENUM ('sad', 'happy');
             CREATE TABLE t (id int PRIMARY KEY, m mood, many mood[]);
             CREATE TABLE before (id int PRIMARY KEY)",
        )
        .await;
        flow.start().await;
        flow.at_source("INSERT INTO t VALUES (1, 'sad', '{happy}')").await;
        // On both sides, the target first, as an operator would do it.
        flow.at_target("ALTER TYPE mood ADD VALUE 'new' BEFORE 'happy'").await;
        flow.at_source("ALTER TYPE mood ADD VALUE 'new' BEFORE 'happy'").await;
        flow.at_source("UPDATE t SET m = 'new', many = '{sad,new,NULL}'").await;
        // A new name is like a new label and the end of another.
        flow.drain().await;
        flow.at_both("ALTER TYPE mood RENAME VALUE 'new' TO 'newer'").await;
        flow.at_source("INSERT INTO t SELECT i, 'newer', '{newer}' FROM generate_series(2, 10) i").await;
        flow.assert_same().await;
        // At the source only.
        flow.at_source("ALTER TYPE mood ADD VALUE 'unheard of'").await;
        flow.at_source("INSERT INTO before VALUES (1)").await;
        flow.at_source("INSERT INTO before VALUES (2); INSERT INTO t VALUES (11, 'unheard of', NULL)").await;
        let error = flow.replicat_abends().await;
        let text = error.to_string();
        assert!(text.contains("\"public.t\"") && text.contains("22P02"), "{text}");
        assert!(!text.contains("unheard"), "a value in an error: {text}");
        assert!(error.hint().is_some());
        assert_eq!(flow.target_says("SELECT string_agg(id::text, ',') FROM before").await, "1");
        flow.at_target("ALTER TYPE mood ADD VALUE 'unheard of'").await;
        flow.start_replicat().await;
        flow.end_same().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_only_their_type_takes_for_one_are_one() {
    for pair in pairs() {
        let mut flow = Flow::new("citext_key", pair).await;
        flow.at_both(
            "CREATE EXTENSION citext;
             CREATE TABLE people (name citext PRIMARY KEY, n int);
             CREATE TABLE numbers (v numeric PRIMARY KEY, n int);
             CREATE TABLE floats (v float8 PRIMARY KEY, n int);
             CREATE TABLE blanks (v char(5) PRIMARY KEY, n int);
             CREATE TABLE spans (v interval PRIMARY KEY, n int);
             CREATE TABLE collated (v text COLLATE \"C\" PRIMARY KEY, n int)",
        )
        .await;
        // Where the servers know such collations, a key may be one that is written in two ways.
        let icu = "SELECT count(*) > 0 FROM pg_collation WHERE collprovider = 'i'";
        let insensitive = flow.source_says(icu).await == "t" && flow.target_says(icu).await == "t";
        if insensitive {
            flow.at_both(
                "CREATE COLLATION insensitive (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
                 CREATE TABLE loose (v text COLLATE insensitive PRIMARY KEY, n int)",
            )
            .await;
        }
        flow.start().await;
        let loose = insensitive.then_some(("loose", "'Ada'", "'ADA'"));
        let tables = [
            ("people", "'Ada'", "'ADA'"),
            ("numbers", "1.0", "1.000"),
            ("floats", "'0'", "'-0'"),
            ("blanks", "'a'", "'a  '"),
            ("spans", "'1 mon'", "'30 days'"),
            ("collated", "'a'", "'a'"),
        ];
        for (table, one, other) in tables.into_iter().chain(loose) {
            flow.each_at_source(&[
                &format!("INSERT INTO {table} VALUES ({one}, 1)"),
                &format!("UPDATE {table} SET n = 2 WHERE v = {other}").replace("people SET n = 2 WHERE v", "people SET n = 2 WHERE name"),
                // The key becomes another spelling of itself.
                &format!("UPDATE {table} SET v = {other}, n = 3").replace("people SET v", "people SET name"),
                &format!("DELETE FROM {table}; INSERT INTO {table} VALUES ({one}, 4); DELETE FROM {table}; INSERT INTO {table} VALUES ({other}, 5)"),
                &format!("UPDATE {table} SET v = {one}; UPDATE {table} SET n = 6; DELETE FROM {table}").replace("people SET v", "people SET name"),
                &format!("INSERT INTO {table} VALUES ({other}, 7)"),
            ])
            .await;
        }
        flow.drain().await;
        assert_eq!(flow.target_says("SELECT name || n FROM people").await, "ADA7");
        flow.compare(&Tables::All).await.assert_same();
        verified(&flow).await;
        flow.end().await;
    }
}
