//! `docs/configuration.md` and the code agree: on the keys that there are, on what counts where one is left away, and on
//! who has to be started again before a change of it holds.

#![expect(
    clippy::unwrap_used,
    reason = "what is not as expected here fails the test, and the panic says where"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use irongate_deployment::Configuration;
use irongate_deployment::configuration::Concern;
use toml::{Table, Value};

/// A sound file that has every section.
const WHOLE: &str = r#"
site = "a"
[deployment]
name = "test"
state_directory = "state"
[link]
certificates = "certs"
[kafka]
brokers = ["k1:9092"]
[sites.a]
listen = "0.0.0.0:1"
address = "a:1"
control_listen = "0.0.0.0:2"
control_address = "a:2"
[sites.b]
listen = "0.0.0.0:1"
address = "b:1"
[databases.db.a]
uri = "postgresql://h1/db"
admin_uri = "postgresql://p@h1/db"
[databases.db.b]
uri = "postgresql://h2/db"
[access.db]
roles = ["app"]
[names.zone]
zone = "example.com"
server = "ns1.example.com"
key_file = "names.key"
[[names.zone.records]]
name = "db"
type = "A"
values = { a = "192.0.2.1", b = "192.0.2.2" }
[hooks.a.notify]
path = "hooks/notify"
[flows.f]
database = "db"
from = "a"
to = "b"
tables = ["public.*"]
[[flows.f.map]]
source = "a.*"
target = "b.*"
[flows.f.key_columns]
"a.b" = ["c"]
[flows.f.extract]
[flows.f.replicat]
[[flows.f.replicat.on_error]]
action = "retry"
[flows.f.conflicts]
[[flows.f.conflicts.table]]
table = "public.*"
policy = "queue"
[flows.f.instantiate]
[flows.f.ddl]
[flows.f.trail]
[flows.f.pump]
[flows.f.feed]
[manager.restart]
[manager.alarms]
"#;

/// The names that the page has for what a deployment names itself, in the file above.
const NAMES: [(&str, &str); 6] = [
    ("SITE", "a"),
    ("DATABASE", "db"),
    ("FLOW", "f"),
    ("ZONE", "zone"),
    ("HOOK", "notify"),
    ("map[]", "map"),
];

struct Row {
    /// As the page has it.
    key: String,
    /// As the file above has it; the first of a list of sections has the number 0.
    path: Vec<String>,
    default: Option<String>,
    takes_effect: String,
}

fn rows() -> Vec<Row> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/configuration.md");
    let text = std::fs::read_to_string(page).unwrap();
    let mut rows = Vec::new();
    for line in text.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let ["", key, _, default, takes_effect, _, ""] = cells[..] else { continue };
        let Some(key) = key.strip_prefix('`').and_then(|key| key.strip_suffix('`')) else { continue };
        let mut path = Vec::new();
        for part in key.split('.') {
            let own = NAMES.iter().find(|(name, _)| *name == part).map_or(part, |(_, own)| own);
            path.push(own.trim_end_matches("[]").to_owned());
            if part.ends_with("[]") {
                path.push("0".to_owned());
            }
        }
        let default = default.strip_prefix('`').and_then(|text| text.strip_suffix('`')).map(str::to_owned);
        rows.push(Row { key: key.to_owned(), path, default, takes_effect: takes_effect.to_owned() });
    }
    assert!(rows.len() > 90, "the page is not read as it should be: {} rows", rows.len());
    rows
}

fn whole() -> Table {
    WHOLE.parse().unwrap()
}

/// Sets a value; sections that are not there yet are made.
fn set(table: &mut Table, path: &[String], value: Value) {
    let (last, sections) = path.split_last().unwrap();
    let mut here = table;
    let mut sections = sections.iter().peekable();
    while let Some(section) = sections.next() {
        let entry = here.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
        let is_list = sections.next_if(|next| *next == "0").is_some();
        here = if is_list {
            entry.as_array_mut().unwrap()[0].as_table_mut().unwrap()
        } else {
            entry.as_table_mut().unwrap()
        };
    }
    here.insert(last.clone(), value);
}

fn parse(table: &Table) -> Result<Configuration, irongate_deployment::Error> {
    let text = toml::to_string(table).unwrap();
    Configuration::parse(&text, Path::new("/etc/irongate/irongate.toml"))
}

/// The keys of a section, as the parser lists them when it meets one that it does not know.
fn known(section: &[String]) -> BTreeSet<String> {
    let mut table = whole();
    let path: Vec<_> = section.iter().cloned().chain(["zzz".to_owned()]).collect();
    set(&mut table, &path, Value::Integer(1));
    let said = parse(&table).unwrap_err().to_string();
    let (_, list) =
        said.split_once("unknown field \"zzz\", expected ").unwrap_or_else(|| panic!("{section:?}: {said}"));
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_page_has_every_key_and_no_other() {
    // The keys of the page, by section.
    let mut sections: BTreeMap<Vec<String>, BTreeSet<String>> = BTreeMap::new();
    for row in rows() {
        let mut path = row.path.clone();
        while let Some(key) = path.pop() {
            if key != "0" {
                sections.entry(path.clone()).or_default().insert(key);
            }
        }
    }
    // The sections whose names are the deployment's own, and what stands between.
    for free in [
        &["sites"][..],
        &["access"],
        &["names"],
        &["hooks"],
        &["hooks", "a"],
        &["databases"],
        &["databases", "db"],
        &["flows"],
        &["flows", "f", "map"],
        &["flows", "f", "replicat", "on_error"],
        &["flows", "f", "conflicts", "table"],
    ] {
        sections.remove(&free.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>());
    }
    assert!(sections.len() >= 13, "{:?}", sections.keys());
    for (section, keys) in sections {
        let known = known(&section);
        let missing: Vec<_> = known.difference(&keys).collect();
        let invented: Vec<_> = keys.difference(&known).collect();
        assert!(
            missing.is_empty() && invented.is_empty(),
            "section {section:?} of docs/configuration.md lacks {missing:?}, and has {invented:?} too much"
        );
    }
}

#[test]
fn what_the_page_calls_a_default_is_what_counts_anyway() {
    let mut anyway = parse(&whole()).unwrap();
    anyway.written.clear();
    let mut tried = 0;
    for row in rows() {
        let Some(default) = row.default else { continue };
        let value: Table =
            format!("value = {default}").parse().unwrap_or_else(|error| panic!("{}: {error}", row.key));
        let mut table = whole();
        set(&mut table, &row.path, value["value"].clone());
        let mut written = parse(&table).unwrap_or_else(|error| panic!("{} = {default}: {error}", row.key));
        written.written.clear();
        assert!(written == anyway, "{} = {default} is not the default", row.key);
        tried += 1;
    }
    assert!(tried > 40, "{tried}");
}

#[test]
fn the_page_says_who_has_to_be_started_again() {
    for row in rows() {
        let key: Vec<_> = row.path.iter().take_while(|part| *part != "0").map(String::as_str).collect();
        let mut words = Configuration::concern_of(&key.join(".")).to_vec();
        words.sort_by_key(|concern| match concern {
            Concern::Reload => 0,
            Concern::Manager => 1,
            Concern::Extract => 2,
            Concern::Pump => 3,
            Concern::Collector => 4,
            Concern::Replicat => 5,
            Concern::Feed => 6,
            Concern::Setup => 7,
        });
        let words: Vec<_> = words.into_iter().map(Concern::word).collect();
        assert_eq!(row.takes_effect, words.join(", "), "{}", row.key);
    }
}

#[test]
fn settings_that_cannot_be_are_refused_with_the_key_and_a_remedy() {
    for (key, value, says, remedy) in [
        ("manager.stop_limit", "\"0s\"", "a time of nothing", "\"1s\" or more"),
        ("manager.watch_interval", "\"0s\"", "a time of nothing", "\"1s\" or more"),
        ("manager.heartbeat_interval", "\"1ms\"", "comes too often", "\"off\""),
        ("manager.sequence_interval", "\"1ms\"", "comes too often", "\"off\""),
        ("manager.compare_interval", "\"1ms\"", "comes too often", "\"off\""),
        ("manager.compare_rate", "\"0MiB\"", "never gets on", "\"off\""),
        ("manager.compare_age", "\"soon\"", "\"soon\" is not a length of time", "\"off\""),
        ("manager.compare_required", "\"yes\"", "invalid type", ""),
        ("manager.heartbeat_interval", "\"never\"", "\"never\" is not a length of time", "\"off\""),
        ("manager.restart.delay", "\"2min\"", "longest delay is shorter", "longest_delay"),
        ("manager.restart.attempts", "-1", "invalid value", ""),
        ("manager.alarms.patience", "0", "waits for nothing", "use 1"),
        ("manager.alarms.lag_warning", "\"1h\"", "lag_critical would come before lag_warning", "smaller"),
        ("manager.alarms.slot_safe_critical", "\"3GiB\"", "slot_safe_critical would come before", "larger"),
        ("manager.alarms.trail_free_warning", "\"1MiB\"", "trail_free_critical would come before", "\"off\""),
        ("manager.alarms.certificate_critical", "5", "invalid type", ""),
        ("flows.f.extract.retry_delay", "\"1h\"", "longest delay is shorter", "retry_longest_delay"),
        (
            "flows.f.replicat.retry_longest_delay",
            "\"1ms\"",
            "longest delay is shorter",
            "retry_longest_delay",
        ),
        ("flows.f.replicat.ahead_from", "\"0B\"", "transactions of nothing", "\"off\""),
        ("flows.f.replicat.ahead_idle", "\"1ms\"", "next to nothing", "\"1s\" or more"),
        ("link.retry_delay", "\"0s\"", "a time of nothing", "\"1s\" or more"),
        ("kafka.brokers", "[]", "a cluster without brokers", "kafka1.example:9092"),
        ("kafka.brokers", "[\"k1\"]", "\"k1\" is no host with a port", "kafka1.example:9092"),
        ("kafka.brokers", "[\"k1:9092,k2:9092\"]", "is no host with a port", "kafka1.example:9092"),
        ("kafka.brokers", "[\"k1:99999\"]", "is no host with a port", "kafka1.example:9092"),
        ("kafka.topic_prefix", "\"a b\"", "cannot stand in the name of a topic", "letters"),
        ("kafka.user", "\"me\"", "one without the other", "user and password_file"),
        ("kafka.password_file", "\"p\"", "one without the other", "user and password_file"),
        ("kafka.certificate", "\"c\"", "one without the other", "certificate and key"),
        ("kafka.key", "\"k\"", "one without the other", "certificate and key"),
        ("kafka.mechanism", "\"md5\"", "unknown variant", ""),
        ("kafka.replication", "0", "min_in_sync must be 1 or more", "2 of 3"),
        ("kafka.min_in_sync", "4", "not more than replication", "2 of 3"),
        ("kafka.retention", "\"1min\"", "keeps nothing", "\"7d\""),
        ("kafka.record_size", "\"1KiB\"", "no size for records", "16KiB"),
        ("kafka.record_size", "\"1GiB\"", "no size for records", "64MiB"),
        ("kafka.timeout", "\"10ms\"", "no broker answers", "\"1s\""),
        ("kafka.retry_delay", "\"1h\"", "longest delay is shorter", "retry_longest_delay"),
        ("flows.f.feed.at", "\"c\"", "does not have the flow's trail", "it is at: a, b"),
        ("flows.f.feed.topic_prefix", "\"a b\"", "cannot begin the name of a topic", "letters"),
        ("flows.f.feed.topic_prefix", "\"\"", "cannot begin the name of a topic", "letters"),
        ("flows.f.feed.exclude", "[\"public.*\"]", "holds a wildcard", "schema.table"),
        ("flows.f.feed.numerics", "\"exact\"", "unknown variant", ""),
        ("flows.f.feed.heartbeat", "\"1ms\"", "comes too often", "\"off\""),
        ("flows.f.feed.partitions", "0", "without partitions", "1 or more"),
        ("flows.f.feed.retention", "\"1min\"", "keeps nothing", "\"off\""),
        ("flows.f.feed.event_size", "\"1GiB\"", "no size for events", "64MiB"),
        ("flows.f.extract.binary", "true", "takes in binary", "binary = true"),
        ("sites.a.control_listen", "\"0.0.0.0:1\"", "cannot listen where the collector does", "7421"),
        ("names.zone.server", "\"a:b\"", "is no name server", "ns1.example.com"),
        ("names.zone.servers", "[]", "a list without name servers", "leave servers away"),
        ("names.zone.zone", "\"a..b\"", "no name of a zone", "write"),
        ("names.zone.ttl_limit", "\"0s\"", "a time of nothing", "\"1s\" or more"),
        ("names.zone.records.0.ttl", "\"1500ms\"", "whole seconds", "30s"),
        ("names.zone.records.0.ttl", "\"2min\"", "longer than ttl_limit, 60 s", "smaller"),
        ("names.zone.records.0.name", "\"db.example.org.\"", "cannot be a name in zone", "its own zone"),
        ("names.zone.records.0.name", "\"d b\"", "cannot be a name in zone", "below the zone"),
        (
            "names.zone.records.0.type",
            "\"AAAA\"",
            "\"192.0.2.1\" is no value of a record of type AAAA",
            "IPv6",
        ),
        ("names.zone.records.0.type", "\"TXT\"", "unknown variant", ""),
        ("names.zone.records.0.databases", "[\"x\"]", "there is no database \"x\"", "[databases]"),
        ("names.zone.records.0.values", "{ a = \"192.0.2.1\" }", "while site \"b\" writes", "add b"),
        (
            "names.zone.records.0.values",
            "{ a = \"192.0.2.1\", b = [\"192.0.2.1\"] }",
            "have the same value",
            "its own",
        ),
        ("names.zone.records.0.values", "{ a = [], b = \"192.0.2.1\" }", "without a value", "one"),
        (
            "names.zone.records.0.values",
            "{ a = \"192.0.2.1\", c = \"192.0.2.2\" }",
            "there is no site \"c\"",
            "a, b",
        ),
        ("hooks.a.notify.time_limit", "\"0s\"", "a time of nothing", "60s"),
        ("hooks.a.notify.environment", "{ IRONGATE_RUN = \"x\" }", "cannot be a variable", "the run's own"),
        ("hooks.a.notify.environment", "{ PGPASSWORD = \"x\" }", "cannot be a variable", "PGPASSFILE"),
        ("hooks.a.notify.environment", "{ \"a=b\" = \"x\" }", "cannot be a variable", "letters"),
        ("hooks.a.nothing.path", "\"x\"", "no run has a hook \"nothing\"", "stop-applications"),
        ("hooks.a.fence.path", "\"x\"", "take each other back", "add \"open\""),
        ("hooks.c.notify.path", "\"x\"", "there is no site \"c\"", "a, b"),
        ("flows.f.ddl.objects", "[\"roles\"]", "no class of objects", "known are: tables"),
        ("flows.f.ddl.owner", "\"\"", "an empty name", "leave it away"),
        ("flows.f.ddl.on_error", "\"ignore\"", "unknown variant", ""),
        ("sites.a.control_address", "\"a\"", "no host with a port", "write"),
        (
            "sites.b.control_listen",
            "\"0.0.0.0:2\"",
            "needs both control_listen and control_address",
            "write where",
        ),
    ] {
        let path: Vec<_> = key.split('.').map(str::to_owned).collect();
        let mut table = whole();
        set(&mut table, &path, format!("v = {value}").parse::<Table>().unwrap()["v"].clone());
        let error = parse(&table).unwrap_err();
        assert!(error.to_string().contains(says), "{key} = {value}: {error}");
        let hint = error.hint().unwrap_or_default();
        assert!(hint.contains(remedy), "{key} = {value}: {hint}");
    }
    let off = ["lag_warning", "trail_free_critical", "certificate_warning"];
    let mut table = whole();
    for key in off {
        let path = ["manager", "alarms", key].map(str::to_owned);
        set(&mut table, &path, Value::String("off".to_owned()));
    }
    let alarms = parse(&table).unwrap().manager.alarms;
    assert_eq!(
        (alarms.lag.warning, alarms.trail_free.critical, alarms.certificate.warning),
        (None, None, None)
    );
    assert!(alarms.lag.critical.is_some());
}

#[test]
fn kafka_is_refused_as_a_whole_where_it_would_be_unsafe_or_is_lacking() {
    let refused = |change: &dyn Fn(&mut Table), says: &str, remedy: &str| {
        let mut table = whole();
        change(&mut table);
        let error = parse(&table).unwrap_err();
        let hint = error.hint().unwrap_or_default();
        assert!(error.to_string().contains(says) && hint.contains(remedy), "{error}; {hint}");
    };
    let open = |table: &mut Table| {
        let kafka = table["kafka"].as_table_mut().unwrap();
        kafka.insert("tls".to_owned(), Value::Boolean(false));
        kafka.insert("mechanism".to_owned(), Value::String("plain".to_owned()));
    };
    refused(&open, "the password would travel as it is", "TLS");
    let without = |table: &mut Table| drop(table.remove("kafka"));
    refused(&without, "a feed needs a cluster of Kafka", "[kafka]");
    let elsewhere = |table: &mut Table| {
        let flow = table["flows"]["f"].as_table_mut().unwrap();
        flow.remove("pump");
        flow["feed"].as_table_mut().unwrap().insert("at".to_owned(), Value::String("a".to_owned()));
    };
    refused(&elsewhere, "site \"a\" does not have the flow's trail", "it is at: b");
}

#[test]
fn a_feed_is_a_group_of_the_site_that_it_is_to_run_at() {
    let mut table = whole();
    let groups = |table: &Table, site| {
        let configuration = parse(table).unwrap();
        configuration.groups(Some(site)).into_iter().map(|group| group.name).collect::<Vec<_>>()
    };
    assert_eq!(groups(&table, "a"), ["f-extract", "f-pump", "f-feed"]);
    set(&mut table, &["flows", "f", "feed", "at"].map(str::to_owned), Value::String("b".to_owned()));
    assert_eq!(groups(&table, "a"), ["f-extract", "f-pump"]);
    assert_eq!(groups(&table, "b"), ["f-replicat", "f-feed", "b-collector"]);
    set(&mut table, &["flows", "f", "feed", "exclude"].map(str::to_owned), vec![Value::from("p.q")].into());
    let configuration = parse(&table).unwrap();
    let settings = configuration.feed_settings(&configuration.flows["f"]).unwrap();
    assert_eq!((settings.group.as_str(), settings.shape.prefix.as_str()), ("f-feed", "test.db"));
    assert!(settings.shape.exclude.contains(&("p".to_owned(), "q".to_owned())));
    assert_eq!(settings.shape.key_columns[&("a".to_owned(), "b".to_owned())], ["c"]);
    assert!(configuration.concerns("b")["flows.f.feed.exclude"].groups == ["f-feed"]);
}

/// The sections of names and hooks stand in the files that `init` writes, for whoever needs them.
#[test]
fn what_is_commented_out_in_the_examples_is_sound() {
    for text in [Configuration::example(), Configuration::reference()] {
        let (before, names) = text.split_once("# [names.example]").unwrap();
        let lines = format!("# [names.example]{names}");
        let own = lines.lines().filter_map(|line| line.strip_prefix("# ")).filter(|line| {
            line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
        });
        let text = format!("{before}\n{}\n", own.collect::<Vec<_>>().join("\n"));
        let configuration = Configuration::parse(&text, Path::new("/irongate.toml"))
            .unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(configuration.names["example"].records[0].values.len(), 2);
        assert_eq!(configuration.hooks["main"].len(), 1);
    }
}
