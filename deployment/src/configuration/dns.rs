//! Names that lead applications to the site that writes: zones, and the records in them that change with it.
//!
//! What comes out is canonical: names are lower-case and without a dot at their end, addresses as their type prints them.
//! So two values are the same when their texts are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::Metadata;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::problem::Problems;
use super::units::Time;

/// Where name servers listen (RFC 1035, 4.2).
const PORT: u16 = 53;
/// The longest time to live (RFC 2181, 8).
const LONGEST_TTL: u64 = (1 << 31) - 1;

/// `[names.NAME]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ZoneSection {
    zone: Spanned<String>,
    server: Spanned<String>,
    servers: Option<Vec<Spanned<String>>>,
    key_file: PathBuf,
    ttl_limit: Option<Spanned<Time>>,
    time_limit: Option<Spanned<Time>>,
    #[serde(default)]
    records: Vec<RecordSection>,
}

/// `[[names.NAME.records]]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordSection {
    name: Spanned<String>,
    #[serde(rename = "type")]
    kind: RecordType,
    ttl: Option<Spanned<Time>>,
    databases: Option<Vec<Spanned<String>>>,
    values: BTreeMap<Spanned<String>, Spanned<Values>>,
}

/// One value, or several.
struct Values(Vec<String>);

/// The type of a record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RecordType {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Another name.
    Cname,
}

/// A name server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameServer {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// A zone and its records that change with the site that writes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Zone {
    /// The zone.
    pub zone: String,
    /// The name server that takes updates.
    pub server: NameServer,
    /// The name servers that applications get their answers from; those that the zone names if `None`.
    pub servers: Option<Vec<NameServer>>,
    /// A file with the key that updates are signed with.
    pub key_file: PathBuf,
    /// Caches may keep an answer so long at most.
    pub ttl_limit: Duration,
    /// All name servers must have a change within so long.
    pub time_limit: Duration,
    /// The records.
    pub records: Vec<Record>,
}

/// A record set that has other values at each site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The whole name.
    pub name: String,
    /// The type.
    pub kind: RecordType,
    /// How long caches may keep it, in seconds.
    pub ttl: u32,
    /// The databases that it leads to; `None` for all that change hands.
    pub databases: Option<BTreeSet<String>>,
    /// What it says while a site writes, by site.
    pub values: BTreeMap<String, BTreeSet<String>>,
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Cname => "CNAME",
        })
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        match (host.contains(':'), *port) {
            (false, PORT) => f.write_str(host),
            (false, port) => write!(f, "{host}:{port}"),
            (true, PORT) => write!(f, "[{host}]"),
            (true, port) => write!(f, "[{host}]:{port}"),
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.kind)
    }
}

impl Zone {
    /// Why a key file is none that may be used, if it is not: one of our own must be readable by its owner alone, one of
    /// root may also be readable by a group.
    pub fn key_file_problem(facts: &Metadata) -> Option<String> {
        let forbidden = if facts.uid() == 0 { 0o027 } else { 0o077 };
        if !facts.is_file() {
            Some("it is not a plain file".to_owned())
        } else if facts.mode() & forbidden != 0 {
            Some(format!("its permissions ({:04o}) let others read it", facts.mode() & 0o7777))
        } else {
            None
        }
    }
}

impl NameServer {
    /// A name server at the usual port, or at that behind a colon; an IPv6 address with a port stands in brackets.
    fn parse(text: &str) -> Option<Self> {
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        let (host, port) = if let Ok(address) = text.parse::<IpAddr>() {
            (address.to_string(), PORT)
        } else if let Some((address, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
            let address: Ipv6Addr = address.parse().ok()?;
            let behind = if rest.is_empty() { PORT } else { port(rest.strip_prefix(':')?)? };
            (address.to_string(), behind)
        } else if let Some((host, behind)) = text.rsplit_once(':') {
            (host.to_owned(), port(behind)?)
        } else {
            (text.to_owned(), PORT)
        };
        (host.parse::<IpAddr>().is_ok() || name(&host).is_some()).then_some(Self { host, port })
    }
}

impl RecordType {
    /// A value as it is compared.
    fn canonical(self, value: &str) -> Option<String> {
        match self {
            Self::A => value.parse::<Ipv4Addr>().ok().map(|address| address.to_string()),
            Self::Aaaa => value.parse::<Ipv6Addr>().ok().map(|address| address.to_string()),
            Self::Cname => name(value),
        }
    }
}

/// A domain name as it is compared (RFC 1035, 2.3): labels of 1 to 63 bytes, 253 in all, upper and lower case the same.
fn name(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    (text.len() <= 253 && text.split('.').all(is_label)).then_some(text)
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;
        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Values;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value in quotes, or a list of them")
            }

            fn visit_str<E>(self, text: &str) -> Result<Values, E> {
                Ok(Values(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Values, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element()? {
                    values.push(value);
                }
                Ok(Values(values))
            }
        }
        deserializer.deserialize_any(OneOrMore)
    }
}

fn server(text: &Spanned<String>, problems: &mut Problems<'_>) -> NameServer {
    NameServer::parse(text.get_ref()).unwrap_or_else(|| {
        let remedy = "write \"ns1.example.com\", \"192.0.2.53\" or \"[2001:db8::53]:5353\"";
        problems.add(text.span(), format!("\"{}\" is no name server", text.get_ref()), Some(remedy.into()));
        NameServer { host: String::new(), port: PORT }
    })
}

/// What the other sections have.
pub(super) struct Known<'a> {
    pub(super) sites: &'a BTreeSet<String>,
    pub(super) databases: &'a BTreeMap<String, BTreeSet<String>>,
}

impl ZoneSection {
    pub(super) fn review(
        self,
        section: &Spanned<String>,
        directory: &Path,
        known: &Known<'_>,
        problems: &mut Problems<'_>,
    ) -> Zone {
        let zone = name(self.zone.get_ref()).unwrap_or_else(|| {
            let reason = format!("\"{}\" is no name of a zone", self.zone.get_ref());
            problems.add(self.zone.span(), reason, Some("write \"example.com\"".into()));
            String::new()
        });
        let mut given = |time: Option<Spanned<Time>>, default: u64| {
            let Some(time) = time else { return Duration::from_secs(default) };
            if time.get_ref().0 < Duration::from_secs(1) {
                problems.add(time.span(), "a time of nothing", Some("use \"1s\" or more".into()));
            }
            time.into_inner().0
        };
        let (ttl_limit, time_limit) = (given(self.ttl_limit, 60), given(self.time_limit, 30));
        if self.records.is_empty() {
            let remedy = format!("add [[names.{}.records]]", section.get_ref());
            problems.add(section.span(), "a zone without records", Some(remedy));
        }
        if self.servers.as_ref().is_some_and(Vec::is_empty) {
            let remedy = "leave servers away to ask those that the zone names";
            problems.add(self.zone.span(), "a list without name servers", Some(remedy.into()));
        }
        let mut records: Vec<Record> = Vec::new();
        for record in self.records {
            let at = record.name.span();
            let record = record.review(&zone, ttl_limit, known, problems);
            let is_cname = |record: &Record| record.kind == RecordType::Cname;
            let other = records.iter().find(|other| {
                other.name == record.name
                    && (other.kind == record.kind || is_cname(other) || is_cname(&record))
            });
            if let Some(other) = other {
                problems.add(
                    at,
                    format!("there is a record {other} already"),
                    Some("a name has one record set of a type, and a CNAME nothing beside it".into()),
                );
            }
            records.push(record);
        }
        Zone {
            zone,
            server: server(&self.server, problems),
            servers: self.servers.map(|servers| servers.iter().map(|text| server(text, problems)).collect()),
            key_file: directory.join(self.key_file),
            ttl_limit,
            time_limit,
            records,
        }
    }
}

impl RecordSection {
    fn review(
        self,
        zone: &str,
        ttl_limit: Duration,
        known: &Known<'_>,
        problems: &mut Problems<'_>,
    ) -> Record {
        let name = self.review_name(zone, problems);
        let ttl = self.ttl.as_ref().map_or(Duration::from_secs(30), |ttl| ttl.get_ref().0);
        let at = self.ttl.as_ref().map_or(self.name.span(), Spanned::span);
        if ttl.subsec_nanos() > 0 || ttl.as_secs() > LONGEST_TTL {
            problems.add(at, "a time to live is whole seconds", Some("write \"30s\"".into()));
        } else if ttl > ttl_limit {
            let reason = format!("caches would keep it longer than ttl_limit, {} s", ttl_limit.as_secs());
            problems.add(at, reason, Some("make ttl smaller, or ttl_limit larger".into()));
        }
        for database in self.databases.iter().flatten() {
            if !known.databases.contains_key(database.get_ref()) {
                problems.add(
                    database.span(),
                    format!("there is no database \"{}\"", database.get_ref()),
                    Some("name one of those under [databases]".into()),
                );
            }
        }
        let values = self.review_values(known, problems);
        Record {
            name,
            kind: self.kind,
            ttl: u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX),
            databases: self.databases.map(|names| names.into_iter().map(Spanned::into_inner).collect()),
            values,
        }
    }

    /// The whole name: one with a dot at its end is whole already, `@` is the zone's own.
    fn review_name(&self, zone: &str, problems: &mut Problems<'_>) -> String {
        let text = self.name.get_ref();
        let whole = match text.as_str() {
            "@" => Some(zone.to_owned()),
            whole if whole.ends_with('.') => name(whole),
            part => name(&format!("{part}.{zone}")),
        };
        let is_inside = |whole: &String| whole == zone || whole.ends_with(&format!(".{zone}"));
        let remedy = match &whole {
            None => "write a name below the zone, such as \"db\", or a whole one with a dot at its end",
            Some(whole) if !zone.is_empty() && !is_inside(whole) => "write it into a section of its own zone",
            Some(whole) if whole == zone && self.kind == RecordType::Cname => {
                "use A or AAAA: beside the zone's own records no CNAME can stand"
            }
            Some(_) => return whole.unwrap_or_default(),
        };
        let reason = format!("\"{text}\" cannot be a name in zone \"{zone}\"");
        problems.add(self.name.span(), reason, Some(remedy.into()));
        String::new()
    }

    fn review_values(
        &self,
        known: &Known<'_>,
        problems: &mut Problems<'_>,
    ) -> BTreeMap<String, BTreeSet<String>> {
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (site, values) in &self.values {
            if !known.sites.contains(site.get_ref()) {
                super::unknown_site(problems, site.get_ref(), site.span(), known.sites);
            }
            let mut set = BTreeSet::new();
            for value in &values.get_ref().0 {
                let remedy = match self.kind {
                    RecordType::A => "write an IPv4 address",
                    RecordType::Aaaa => "write an IPv6 address",
                    RecordType::Cname => "write a whole name, such as \"db1.example.com\"",
                };
                match self.kind.canonical(value) {
                    Some(value) => drop(set.insert(value)),
                    None => problems.add(
                        values.span(),
                        format!("\"{value}\" is no value of a record of type {}", self.kind),
                        Some(remedy.into()),
                    ),
                }
            }
            let many = values.get_ref().0.len();
            if many == 0 || self.kind == RecordType::Cname && many > 1 {
                let reason = if many == 0 { "a record without a value" } else { "a CNAME has one value" };
                problems.add(values.span(), reason, Some("write one".into()));
            }
            if let Some((other, _)) = found.iter().find(|(_, other)| **other == set && !set.is_empty()) {
                problems.add(
                    values.span(),
                    format!("sites \"{other}\" and \"{}\" have the same value", site.get_ref()),
                    Some("give each site its own, or leave the record away".into()),
                );
            }
            found.insert(site.get_ref().clone(), set);
        }
        let missing: Vec<_> = known.sites.iter().filter(|site| !found.contains_key(*site)).collect();
        if let Some(site) = missing.first() {
            problems.add(
                self.name.span(),
                format!("it is not said what \"{}\" is while site \"{site}\" writes", self.name.get_ref()),
                Some(format!("add {site} = \"…\" to values")),
            );
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_servers_are_read_as_people_write_them() {
        assert_eq!(name("DB.Example.com."), Some("db.example.com".to_owned()));
        let long = "a".repeat(64);
        for bad in ["", ".", "a..b", "a b", "ä.de", "\\065.de", long.as_str()] {
            assert_eq!(name(bad), None, "{bad}");
        }
        for (text, printed) in [
            ("ns1.example.com", "ns1.example.com"),
            ("ns1.example.com:53", "ns1.example.com"),
            ("127.0.0.1:5300", "127.0.0.1:5300"),
            ("2001:DB8::53", "[2001:db8::53]"),
            ("[2001:db8::53]:5300", "[2001:db8::53]:5300"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(NameServer::parse(text).unwrap().to_string(), printed);
        }
        for bad in ["", "a:b", "a:0", "a:70000", "[::1", "[::1]x", "[a]:5", "a b", ":53"] {
            assert_eq!(NameServer::parse(bad), None, "{bad}");
        }
    }
}
