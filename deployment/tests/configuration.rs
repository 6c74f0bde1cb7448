//! What a configuration file may say, and what is answered where it says what cannot be.

use std::path::Path;
use std::time::Duration;

use irongate_apply::{Action, Policy};
use irongate_deployment::configuration::{Partitions, Rename, SkipOrigins, TableName};
use irongate_deployment::{Configuration, Error};

/// A sound file; each case breaks one thing in it.
const SOUND: &str = r#"site = "a"
[deployment]
name = "test"
state_directory = "state"
[sites.a]
[sites.b]
[databases.db.a]
uri = "postgresql://h1/db"
[databases.db.b]
uri = "postgresql://h2/db"
[flows.f]
database = "db"
from = "a"
to = "b"
tables = ["public.*"]
"#;

fn parse(text: &str) -> Result<Configuration, Error> {
    Configuration::parse(text, Path::new("/etc/irongate/irongate.toml"))
}

#[test]
fn the_example_can_be_parsed_and_says_what_it_means() {
    let configuration = parse(Configuration::example()).unwrap();
    assert_eq!(configuration.site.as_deref(), Some("secondary"));
    let flow = configuration.flow("csp").unwrap();
    assert_eq!(flow.at, "secondary", "both groups run where the flow ends");
    assert_eq!(flow.slot, "irongate_contact_csp");
    assert_eq!(flow.publication, "irongate_contact_csp");
    assert!(flow.includes("public", "orders") && !flow.includes("public", "session_7"));
    assert_eq!(flow.target_of(&TableName::new("public", "orders")), TableName::new("config", "orders"));
    assert_eq!(
        flow.target_of(&TableName::new("public", "parameter")),
        TableName::new("config", "parameter_copy"),
        "a table's own rename goes before its schema's"
    );
    assert_eq!(flow.replicat.policies.0.len(), 2);
    assert_eq!(configuration.trail(flow), Path::new("/var/lib/irongate/trail/csp"));
}

#[test]
fn the_reference_deployment_runs_its_groups_where_they_belong() {
    let configuration = parse(Configuration::reference()).unwrap();
    let names = |site| -> Vec<String> {
        configuration.groups(Some(site)).into_iter().map(|group| group.name).collect()
    };
    assert_eq!(
        names("main"),
        [
            "csp-extract",
            "csp-pump",
            "css-replicat",
            "msp-extract",
            "msp-pump",
            "mss-replicat",
            "main-collector"
        ]
    );
    assert_eq!(
        names("secondary"),
        [
            "csp-replicat",
            "css-extract",
            "css-pump",
            "msp-replicat",
            "mss-extract",
            "mss-pump",
            "secondary-collector"
        ]
    );
    let autostart: Vec<bool> = configuration.flows.values().map(|flow| flow.autostart).collect();
    assert_eq!(autostart, [true, false, true, true]);
    let pump = configuration.pump_settings(configuration.flow("csp").unwrap()).unwrap();
    assert_eq!((pump.site.as_str(), pump.peer.as_str(), pump.compression), ("main", "secondary", Some(3)));
    let collector = configuration.collector_settings("secondary").unwrap();
    assert_eq!(collector.listen.as_deref(), Some("0.0.0.0:7420"));
    let flows: Vec<_> = collector.flows.iter().map(|flow| (flow.flow.as_str(), flow.from.as_str())).collect();
    assert_eq!(flows, [("csp", "main"), ("msp", "main")]);
    assert!(configuration.collector_settings("moon").is_err());
}

#[test]
fn a_pump_that_cannot_work_is_refused_where_it_stands() {
    let reference = Configuration::reference();
    for (from, to, says) in [
        ("[link]\ncertificates = \"/etc/irongate/certs\"", "", "needs a link"),
        ("listen = \"0.0.0.0:7420\"", "", "where its collector is"),
        ("listen = \"0.0.0.0:7420\"", "listen = \"here\"", "no address with a port"),
        ("address = \"irongate.main.example:7420\"", "address = \"main\"", "no host with a port"),
        ("[flows.csp.pump]", "[flows.csp.pump]\ncompression = 23", "no level 23"),
        ("[flows.csp.pump]", "[flows.csp.pump]\nbandwidth = \"1KiB\"", "cannot carry"),
        ("[flows.csp.pump]", "[flows.csp.pump]\nlisten = \"0.0.0.0:1\"", "needs both"),
        (
            "from = \"main\"\nto = \"secondary\"",
            "from = \"main\"\nto = \"secondary\"\nat = \"secondary\"",
            "already",
        ),
        ("http = \"127.0.0.1:7480\"", "http = \"7480\"", "no address with a port"),
        ("certificates = ", "silence = \"1s\"\ncertificates = ", "at least twice"),
    ] {
        assert!(reference.contains(from), "{from}");
        let error = parse(&reference.replacen(from, to, 1)).expect_err(says).to_string();
        assert!(error.contains(says) && error.contains("irongate.toml:"), "{says}: {error}");
    }
}

#[test]
fn a_directory_for_each_site_needs_to_know_the_site() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("irongate.toml");
    std::fs::write(&file, Configuration::reference()).unwrap();
    let error = Configuration::load(&file).unwrap_err();
    assert!(matches!(error, Error::NoSite { .. }) && error.hint().unwrap().contains("--site"), "{error}");
    let error = Configuration::load_at(&file, Some("moon")).unwrap_err();
    assert!(matches!(error, Error::Unknown { what: "site", .. }), "{error}");
    let here = Configuration::load_at(&file, Some("main")).unwrap();
    assert_eq!(here.site.as_deref(), Some("main"));
    assert_eq!(here.state_directory, Path::new("/var/lib/irongate/main"));
    assert_eq!(here.trail_directory, Path::new("/var/lib/irongate/main/trail"));
}

#[test]
fn what_the_example_shows_behind_a_hash_is_what_counts_anyway() {
    let (mut all, mut in_section) = (String::new(), false);
    for line in Configuration::example().lines() {
        // A whole section behind hashes has no defaults: it counts for nothing as it is.
        in_section = line.starts_with('#') && (in_section || line.starts_with("# ["));
        // A comment in prose has no " = "; a default has.
        let key = line.strip_prefix("# ").filter(|rest| {
            rest.split_once(" = ")
                .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        });
        let key = key.filter(|_| !in_section);
        let shown = key.filter(|key| !key.contains("password") && !key.starts_with("retry_attempts"));
        all.push_str(shown.unwrap_or(line));
        all.push('\n');
    }
    assert_ne!(all, Configuration::example());
    // All of it but what is written: that differs, by what was behind a hash.
    let counts = |text: &str| Configuration { written: Default::default(), ..parse(text).unwrap() };
    assert!(counts(&all) == counts(Configuration::example()));
}

#[test]
fn paths_begin_at_the_directory_of_the_file() {
    let configuration = parse(
        &SOUND
            .replace("uri = \"postgresql://h1/db\"", "uri = \"postgresql://h1/db\"\npassword_file = \"pw\""),
    )
    .unwrap();
    assert_eq!(configuration.state_directory, Path::new("/etc/irongate/state"));
    assert_eq!(configuration.trail_directory, Path::new("/etc/irongate/state/trail"));
    let source = configuration.source(configuration.flow("f").unwrap()).unwrap();
    assert_eq!(source.extract.password.file.as_deref(), Some(Path::new("/etc/irongate/pw")));
    assert_eq!(source.extract.role(), "irongate_extract");
    assert_eq!(source.replicat.role(), "irongate_replicat");
}

#[test]
fn a_role_in_the_address_counts_for_both_programs_unless_one_has_its_own() {
    let text = SOUND.replace(
        "uri = \"postgresql://h1/db\"",
        "uri = \"postgresql://both@h1/db\"\nreplicat_role = \"Writer\"",
    );
    let configuration = parse(&text).unwrap();
    let address = configuration.address("db", "a").unwrap();
    assert_eq!((address.extract.role(), address.replicat.role()), ("both", "Writer"));
}

#[test]
fn settings_arrive_with_their_units() {
    let text = format!(
        "{SOUND}partitions = \"root\"\nat = \"a\"\nslot = \"s\"\npublication = \"P p\"\n\
         [[flows.f.map]]\nsource = \"public.*\"\ntarget = \"x.*\"\n\
         [flows.f.extract]\nfile_size = \"1GiB\"\nskip_origins = [\"o1\", \"o2\"]\nprogress_interval = \"1min 30s\"\n\
         streaming = false\nbinary = true\n\
         [flows.f.replicat]\nbatch_bytes = \"8MiB\"\nbatch_rows = 7\nsynchronous_commit = true\nretry_attempts = 3\n\
         [[flows.f.replicat.on_error]]\nclass = \"23\"\naction = \"retry\"\nattempts = 9\ndelay = \"5s\"\n\
         [flows.f.trail]\npurge = false\nkeep = \"7d\"\nkeep_files = 5\n"
    );
    let configuration = parse(&text).unwrap();
    let flow = configuration.flow("f").unwrap();
    assert_eq!((flow.partitions, flow.at.as_str(), flow.slot.as_str()), (Partitions::Root, "a", "s"));
    assert_eq!(flow.publication, "P p");
    assert_eq!(flow.renames, [Rename::Schema { source: "public".into(), target: "x".into() }]);
    assert_eq!(flow.extract.file_size, 1 << 30);
    assert_eq!(flow.extract.skip_origins, SkipOrigins::Named(["o1".into(), "o2".into()].into()));
    assert_eq!(flow.extract.progress_interval, Duration::from_secs(90));
    assert!(!flow.extract.streaming && flow.extract.binary);
    let replicat = &flow.replicat;
    assert_eq!((replicat.grouping.bytes, replicat.grouping.changes), (8 << 20, 7));
    assert!(replicat.synchronous_commit);
    assert_eq!(replicat.retry.attempts, Some(3));
    let action = Action::Retry { attempts: 9, delay: Duration::from_secs(5) };
    assert_eq!(replicat.policies.0, [Policy { table: None, class: Some("23".into()), action }]);
    assert_eq!((flow.purge.purge, flow.purge.keep_files), (false, 5));
    assert_eq!(flow.purge.keep, Duration::from_secs(7 * 24 * 3600));
}

struct Case {
    /// What is replaced in the sound file, by what.
    replace: (&'static str, &'static str),
    line: usize,
    column: usize,
    /// A part of the reason.
    reason: &'static str,
    /// A part of the remedy.
    remedy: &'static str,
}

#[test]
fn what_is_wrong_is_named_with_line_column_and_remedy() {
    let case =
        |from, to, line, column, reason, remedy| Case { replace: (from, to), line, column, reason, remedy };
    let end = "tables = [\"public.*\"]\n";
    let cases = [
        case("from = \"a\"", "form = \"a\"", 13, 1, "unknown field \"form\"", "init --stdout"),
        case("name = \"test\"", "", 2, 1, "missing field \"name\"", "init"),
        case("site = \"a\"", "site = 5", 1, 8, "expected a string", ""),
        case("site = \"a\"", "site = \"c\"", 1, 8, "no site \"c\"", "a, b"),
        case("site = \"a\"", "site = \"a", 1, 10, "", ""),
        case("name = \"test\"", "name = \"Test\"", 3, 8, "cannot be the name of a deployment", "lower-case"),
        case("name = \"test\"", "name = \"test\"\nname = \"x\"", 4, 1, "duplicate key", "once"),
        case("[flows.f]", "[flows.\"f g\"]", 11, 8, "cannot be the name of a flow", "lower-case"),
        case("[databases.db.b]", "[databases.db.c]", 9, 15, "no site \"c\"", "[sites.c]"),
        case("postgresql://h1/db", "postgresql://u:pw@h1/db", 8, 7, "holds a password", "password file"),
        case("postgresql://h1/db", "postgresql://h1", 8, 7, "names no database", "postgresql://"),
        case("postgresql://h1/db", "postgresql://h1/db?sslmode=full", 8, 7, "sslmode", "verify-full"),
        case("database = \"db\"", "database = \"bd\"", 12, 12, "no database \"bd\"", "db"),
        case("to = \"b\"", "to = \"c\"", 14, 6, "no site \"c\"", "a, b"),
        case("to = \"b\"", "to = \"a\"", 14, 6, "same site", ""),
        case(
            "[databases.db.b]\nuri = \"postgresql://h2/db\"\n",
            "",
            12,
            6,
            "no address at site \"b\"",
            "[databases.db.b]",
        ),
        case("[\"public.*\"]", "[]", 15, 10, "no tables", "public.*"),
        case(
            "[\"public.*\"]",
            "[\"public.*\", \"orders\"]",
            15,
            23,
            "not of the form schema.table",
            "schema.*",
        ),
        case("[\"public.*\"]", "[\"public.*\"]\nexclude = [\"é\", \"a b.c\"]", 16, 12, "not of the form", ""),
        case(end, "tables = [\"p.*\"]\nslot = \"Slot\"\n", 16, 8, "name of a replication slot", "lower-case"),
        case(end, "tables = [\"p.*\"]\npublication = \"\"\n", 16, 15, "it is empty", ""),
        case(end, "tables = [\"p.*\"]\npartitions = \"both\"\n", 16, 14, "unknown variant \"both\"", "init"),
        case(end, "tables = [\"p.*\"]\nat = \"x\"\n", 16, 6, "no site \"x\"", "a, b"),
        case(
            end,
            "tables = [\"p.*\"]\n[flows.f.extract]\nfile_size = \"64\"\n",
            17,
            13,
            "amount of bytes",
            "64MiB",
        ),
        case(
            end,
            "tables = [\"p.*\"]\n[flows.f.extract]\nfile_size = \"1KiB\"\n",
            17,
            13,
            "too small",
            "64KiB",
        ),
        case(
            end,
            "tables = [\"p.*\"]\n[flows.f.extract]\nprogress_interval = 10\n",
            17,
            21,
            "length of time",
            "",
        ),
        case(
            end,
            "tables = [\"p.*\"]\n[flows.f.extract]\nskip_origins = \"none\"\n",
            17,
            16,
            "not \"any\"",
            "",
        ),
        case(
            end,
            "tables = [\"p.*\"]\n[flows.f.replicat]\nbatch_rows = 0\n",
            17,
            14,
            "batch of nothing",
            "1 or more",
        ),
        case(end, "tables = [\"p.*\"]\n[flows.f.replicat]\nbatch_rows = -1\n", 17, 14, "-1", ""),
        case(
            end,
            "tables = [\"p.*\"]\n[[flows.f.replicat.on_error]]\nclass = \"2350\"\naction = \"abend\"\n",
            17,
            9,
            "no class of errors",
            "SQLSTATE",
        ),
        case(
            end,
            "tables = [\"p.*\"]\n[[flows.f.replicat.on_error]]\naction = \"skip\"\n",
            17,
            10,
            "unknown variant \"skip\"",
            "spelling",
        ),
        case(
            end,
            "tables = [\"p.*\"]\n[[flows.f.replicat.on_error]]\naction = \"ignore\"\nattempts = 3\n",
            18,
            12,
            "only the action \"retry\"",
            "leave it out",
        ),
        case(
            end,
            "tables = [\"p.*\"]\n[[flows.f.map]]\nsource = \"a.*\"\ntarget = \"b.t\"\n",
            17,
            10,
            "cannot be mapped",
            "b.*",
        ),
        case(
            end,
            "tables = [\"p.*\"]\n[flows.f.key_columns]\n\"a.*\" = [\"x\"]\n",
            17,
            1,
            "wildcard",
            "schema.table",
        ),
        case(
            end,
            "tables = [\"p.*\"]\n[flows.g]\ndatabase = \"db\"\nfrom = \"a\"\nto = \"b\"\ntables = [\"p.*\"]\n\
             slot = \"irongate_test_f\"\n",
            21,
            8,
            "flows \"f\" and \"g\" have the same slot",
            "another slot",
        ),
    ];
    assert!(parse(SOUND).is_ok());
    for Case { replace: (from, to), line, column, reason, remedy } in cases {
        assert!(SOUND.contains(from), "the case {to:?} replaces nothing");
        let error = match parse(&SOUND.replacen(from, to, 1)) {
            Ok(_) => panic!("{to:?} was accepted"),
            Err(error) => error,
        };
        let Error::Configuration(problems) = &error else { panic!("{to:?}: {error}") };
        let found = problems.iter().any(|problem| {
            (problem.line, problem.column) == (line, column) && problem.reason.contains(reason)
        });
        assert!(found, "{to:?}: expected {line}:{column} {reason:?}, got\n{error}");
        assert!(
            error.to_string().contains(&format!("/etc/irongate/irongate.toml:{line}:{column}: ")),
            "{error}"
        );
        assert!(error.hint().unwrap_or_default().contains(remedy), "{to:?}: {:?}", error.hint());
        assert!(!error.to_string().contains('`'), "{error}");
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once_in_the_files_order() {
    let text = SOUND.replace("site = \"a\"", "site = \"x\"").replace("to = \"b\"", "to = \"y\"");
    let Error::Configuration(problems) = parse(&text).unwrap_err() else { panic!() };
    assert_eq!(problems.iter().map(|problem| problem.line).collect::<Vec<_>>(), [1, 14]);
}

#[test]
fn a_file_that_is_not_there_is_said_with_what_makes_one() {
    let error = Configuration::load(Path::new("/nonexistent/irongate.toml")).unwrap_err();
    assert!(
        error.to_string().starts_with("cannot read configuration \"/nonexistent/irongate.toml\""),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("irongate init"));
}

#[test]
fn what_goes_by_messages_is_not_streamed_before_its_commit() {
    use irongate_capture::pgoutput::Streaming::{Off, On};

    for (section, streaming) in [
        ("", On),
        ("[flows.f.extract]\nstreaming = false\n", Off),
        ("[flows.f.conflicts]\npolicy = \"latest\"\n", On),
        ("[flows.f.conflicts]\npolicy = \"queue\"\n", Off),
        ("[flows.f.conflicts]\npolicy = \"site\"\nsite = \"b\"\n", Off),
        ("[flows.f.conflicts]\npolicy = \"site\"\nsite = \"a\"\n", On),
        ("[flows.f.conflicts]\n[[flows.f.conflicts.table]]\ntable = \"s.t\"\npolicy = \"keep\"\n", Off),
        ("[flows.f.ddl]\n", Off),
    ] {
        let configuration = parse(&format!("{SOUND}{section}")).unwrap();
        let settings = configuration.extract_settings(configuration.flow("f").unwrap()).unwrap();
        assert_eq!(settings.source.streaming, streaming, "{section}");
    }
}

#[test]
fn the_policies_of_conflicts_are_read_per_flow_table_and_column() {
    use irongate_apply::{ColumnRule, Rule};

    let section = "[flows.f.conflicts]\npolicy = \"latest\"\ntombstone_age = \"2d\"\n\
        [[flows.f.conflicts.table]]\ntable = \"public.account\"\npolicy = \"site\"\nsite = \"b\"\n\
        columns = { balance = \"difference\", note = \"keep\" }\n\
        [[flows.f.conflicts.table]]\ntable = \"public.log_*\"\npolicy = \"abend\"\n";
    let configuration = parse(&format!("{SOUND}{section}")).unwrap();
    let flow = configuration.flow("f").unwrap();
    let conflicts = flow.conflicts.as_ref().unwrap();
    assert_eq!((conflicts.here.as_str(), conflicts.there.as_str()), ("b", "a"));
    assert_eq!(conflicts.tombstone_age, Duration::from_secs(2 * 24 * 60 * 60));
    let rule = |table| conflicts.rule_of("public", table);
    assert_eq!(rule("t").unwrap().rule, Rule::Latest);
    assert_eq!(rule("account").unwrap().rule, Rule::Site("b".into()));
    assert_eq!(rule("account").unwrap().columns["balance"], ColumnRule::Difference);
    assert_eq!(rule("log_x"), None);
    let settings = configuration.replicat_settings(flow).unwrap();
    assert_eq!(settings.grouping_in_force().transactions, 1);
    for idle in ["", "[flows.f.conflicts]\n", "[flows.f.conflicts]\npolicy = \"abend\"\n"] {
        let configuration = parse(&format!("{SOUND}{idle}")).unwrap();
        let flow = configuration.flow("f").unwrap();
        assert_eq!(flow.conflicts, None, "{idle}");
        assert!(configuration.replicat_settings(flow).unwrap().grouping_in_force().transactions > 1);
    }
    let reference = parse(Configuration::reference()).unwrap();
    for (flow, rule) in [("msp", Some(Rule::Latest)), ("mss", Some(Rule::Latest)), ("csp", None)] {
        let conflicts = &reference.flow(flow).unwrap().conflicts;
        assert_eq!(conflicts.as_ref().map(|conflicts| conflicts.default.rule.clone()), rule, "{flow}");
    }
}

#[test]
fn policies_of_conflicts_that_cannot_be_are_refused_with_key_and_remedy() {
    for (section, reason, remedy) in [
        ("policy = \"site\"\n", "does not say which site goes first", "add site = \"a\" or site = \"b\""),
        ("policy = \"site\"\nsite = \"c\"\n", "neither end of the flow", "use \"a\" or \"b\""),
        ("policy = \"latest\"\nsite = \"a\"\n", "only the policy \"site\" has a site", "leave it out"),
        ("site = \"a\"\n", "only the policy \"site\" has a site", "leave it out"),
        ("policy = \"newest\"\n", "unknown variant \"newest\"", "irongate init --stdout"),
        ("policy = \"latest\"\ntombstone_age = \"0s\"\n", "would not be remembered", "\"7d\""),
        ("polcy = \"latest\"\n", "unknown field \"polcy\"", "correct the spelling"),
        (
            "[[flows.f.conflicts.table]]\ntable = \"t\"\npolicy = \"keep\"\n",
            "not of the form",
            "schema.table",
        ),
        (
            "[[flows.f.conflicts.table]]\ntable = \"s.t\"\ncolumns = { n = \"difference\" }\n",
            "conflicts are not looked for",
            "give the table a policy",
        ),
        (
            "policy = \"queue\"\n[[flows.f.conflicts.table]]\ntable = \"s.t\"\ncolumns = { n = \"keep\" }\n",
            "goes there whole",
            "leave columns out",
        ),
    ] {
        let text = format!("{SOUND}[flows.f.conflicts]\n{section}");
        let Err(Error::Configuration(problems)) = parse(&text) else { panic!("accepted: {section}") };
        let problem = problems.first().unwrap();
        assert!(problem.reason.contains(reason), "{section}: {problem}");
        assert!(
            problem.remedy.as_ref().is_some_and(|text| text.contains(remedy)),
            "{section}: {:?}",
            problem.remedy
        );
        assert!(problem.line > 16, "{problem}");
    }
}
