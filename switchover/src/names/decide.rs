//! What is to be done with records, by what name servers say of them. Decides only.

use std::collections::BTreeSet;

use irongate_deployment::configuration::Record;

use super::message::{Change, Found};
use super::{RecordView, ServerView};

/// Where a record stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It says what it is to say.
    There,
    /// It says what it said before, and is to be changed.
    Before,
    /// It says something else, in a sentence.
    Foreign(String),
}

/// The site that a record's values stand for.
pub(super) fn site_of<'a>(record: &'a Record, found: &Found) -> Option<&'a str> {
    let mut sites = record.values.iter().filter(|(_, values)| **values == found.values);
    sites.next().map(|(site, _)| site.as_str())
}

/// Where a record stands on its way from one site (any other, if it is not said) to another.
pub(super) fn standing(record: &Record, found: &Found, from: Option<&str>, to: &str) -> Standing {
    match site_of(record, found) {
        Some(site) if site == to => Standing::There,
        Some(site) if from.is_none_or(|from| from == site) => Standing::Before,
        Some(site) => {
            Standing::Foreign(format!("{record} says {}, which is site \"{site}\"", words(&found.values)))
        }
        None => Standing::Foreign(said(record, found)),
    }
}

/// What is said of a record, in a sentence.
pub(super) fn said(record: &Record, found: &Found) -> String {
    match (&found.alias, found.values.is_empty()) {
        (Some(alias), _) => format!("{} is an alias of {alias}", record.name),
        (None, true) => format!("there is no record {record}"),
        (None, false) => format!("{record} says {}", words(&found.values)),
    }
}

fn words(values: &BTreeSet<String>) -> String {
    values.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// The one operation that brings all records of a zone to a site, with those that are there already as conditions; nothing
/// to change is no operation. Sentences about those that stand elsewhere, if there are any.
pub(super) fn changes<'a>(
    records: &[&'a Record],
    found: &[Found],
    from: Option<&str>,
    to: &str,
) -> Result<Vec<Change<'a>>, Vec<String>> {
    let (mut changes, mut foreign) = (Vec::new(), Vec::new());
    for (&record, found) in records.iter().zip(found) {
        let after = match standing(record, found, from, to) {
            Standing::There => None,
            Standing::Before => record.values.get(to).cloned(),
            Standing::Foreign(sentence) => {
                foreign.push(sentence);
                continue;
            }
        };
        changes.push(Change { record, before: found.values.clone(), after });
    }
    if foreign.is_empty() { Ok(changes) } else { Err(foreign) }
}

/// What keeps a zone from being the same at all its name servers, with these values: a sentence for each that is behind.
/// With different serials those with the older ones are.
pub(super) fn behind(servers: &[ServerView], wanted: &[(&Record, BTreeSet<String>)]) -> Vec<String> {
    let newest = servers.iter().filter_map(|server| server.serial).reduce(newer);
    let mut sentences = Vec::new();
    for server in servers {
        let name = &server.server;
        if let Some(problem) = &server.problem {
            sentences.push(format!("{name}: {problem}"));
            continue;
        }
        let says = |record: &Record| {
            let view =
                server.records.iter().find(|view| view.name == record.name && view.kind == record.kind);
            view.map(|view| view.values.iter().cloned().collect::<BTreeSet<_>>()).unwrap_or_default()
        };
        let wrong = wanted.iter().find(|(record, values)| says(record) != *values);
        let serial = server.serial.map_or("no serial".to_owned(), |serial| format!("serial {serial}"));
        if let Some((record, _)) = wrong {
            let values = says(record);
            let values = if values.is_empty() { "nothing".to_owned() } else { words(&values) };
            sentences.push(format!("{name}: says {values} for {record}, with {serial}"));
        } else if server.serial != newest {
            let newest = newest.map_or("none".to_owned(), |newest| newest.to_string());
            sentences.push(format!("{name}: has {serial}, and another name server has {newest}"));
        }
    }
    sentences
}

/// The newer of two serials, which go round (RFC 1982).
fn newer(one: u32, other: u32) -> u32 {
    if other.wrapping_sub(one).cast_signed() > 0 { other } else { one }
}

/// What a server says of a record, for people and programs.
pub(super) fn view(record: &Record, found: &Found) -> RecordView {
    RecordView {
        name: record.name.clone(),
        kind: record.kind,
        values: found.values.iter().cloned().collect(),
        ttl: found.ttl,
        site: site_of(record, found).map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use irongate_deployment::configuration::RecordType;

    use super::*;

    fn set(values: &[&str]) -> BTreeSet<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    fn record() -> Record {
        let values = [("main", "192.0.2.1"), ("secondary", "192.0.2.2"), ("third", "192.0.2.3")];
        Record {
            name: "db.example".into(),
            kind: RecordType::A,
            ttl: 30,
            databases: None,
            values: values.map(|(site, value)| (site.to_owned(), set(&[value]))).into(),
        }
    }

    fn found(values: &[&str]) -> Found {
        Found { values: set(values), ttl: Some(30), alias: None }
    }

    #[test]
    fn only_what_a_site_stands_for_is_changed() {
        let record = record();
        let stands = |values: &[&str], from| standing(&record, &found(values), from, "secondary");
        assert_eq!(stands(&["192.0.2.2"], Some("main")), Standing::There);
        assert_eq!(stands(&["192.0.2.1"], Some("main")), Standing::Before);
        assert_eq!(stands(&["192.0.2.3"], None), Standing::Before);
        for (values, from, says) in [
            (&["192.0.2.3"][..], Some("main"), "says 192.0.2.3, which is site \"third\""),
            (&["192.0.2.9"], None, "db.example A says 192.0.2.9"),
            (&["192.0.2.1", "192.0.2.9"], Some("main"), "says 192.0.2.1, 192.0.2.9"),
            (&[], Some("main"), "there is no record db.example A"),
        ] {
            match stands(values, from) {
                Standing::Foreign(said) => assert!(said.contains(says), "{said}"),
                other => panic!("{values:?}: {other:?}"),
            }
        }
        let alias = Found { alias: Some("other.example".into()), ..Found::default() };
        let said = standing(&record, &alias, None, "main");
        assert_eq!(said, Standing::Foreign("db.example is an alias of other.example".into()));
    }

    #[test]
    fn records_go_together_or_not_at_all() {
        let (one, mut two) = (record(), record());
        two.name = "web.example".into();
        let all = [&one, &two];
        let both = changes(&all, &[found(&["192.0.2.1"]), found(&["192.0.2.2"])], None, "secondary").unwrap();
        assert_eq!(both[0].after, Some(set(&["192.0.2.2"])));
        assert_eq!((&both[1].after, &both[1].before), (&None, &set(&["192.0.2.2"])), "a condition");
        let foreign = changes(&all, &[found(&["192.0.2.1"]), found(&["192.0.2.9"])], None, "secondary");
        assert_eq!(foreign.unwrap_err(), ["web.example A says 192.0.2.9"]);
    }

    #[test]
    fn a_server_that_is_behind_or_silent_is_named() {
        let record = record();
        let server = |name: &str, serial, values: &[&str], problem: Option<&str>| ServerView {
            server: name.into(),
            address: None,
            serial: Some(serial),
            records: vec![view(&record, &found(values))],
            problem: problem.map(str::to_owned),
        };
        let wanted = [(&record, set(&["192.0.2.2"]))];
        let new = || server("ns1", 7, &["192.0.2.2"], None);
        assert_eq!(behind(&[new(), server("ns2", 7, &["192.0.2.2"], None)], &wanted), [""; 0]);
        assert_eq!(
            behind(&[new(), server("ns2", 6, &["192.0.2.1"], None)], &wanted),
            ["ns2: says 192.0.2.1 for db.example A, with serial 6"]
        );
        assert_eq!(
            behind(&[server("ns2", u32::MAX, &["192.0.2.2"], None), new()], &wanted),
            ["ns2: has serial 4294967295, and another name server has 7"]
        );
        assert_eq!(
            behind(&[new(), server("ns2", 7, &[], Some("it does not answer"))], &wanted),
            ["ns2: it does not answer"]
        );
    }
}
