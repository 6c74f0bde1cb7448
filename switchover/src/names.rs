//! Names that lead to the site that writes: dynamic updates of the DNS (RFC 2136), signed (RFC 8945).
//!
//! A zone's records are changed in one message, which its name server does whole or not at all, and only while every one
//! of them says what it is known to say: whoever changes one of them in the same moment makes it fail, and nothing is
//! changed. Records of several zones are several messages; all zones are looked at before the first is changed, and where
//! one then fails, the error says which are changed. Done again, it is done already.
//!
//! What the server that takes the updates says is believed if it is signed. What the others say shows whether they have
//! the change; they are asked without a signature, over the network as everybody asks them.

mod decide;
mod exchange;
mod failure;
mod key;
mod message;
mod servers;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use domain::base::iana::Rcode;
use irongate_deployment::Configuration;
use irongate_deployment::configuration::{Record, RecordType, Zone};
use irongate_trail::Timestamp;
use serde::Serialize;
use tokio::time::{Instant, sleep};

pub use exchange::Fault;
pub use failure::Failure;

use crate::error::Error;
use decide::Standing;
use key::Key;
use message::{Change, Found};
use servers::Server;

/// A round of questions to all name servers takes so long at most; one that is silent is asked again in the next.
const ROUND: Duration = Duration::from_secs(2);
/// The pause between two rounds.
const PAUSE: Duration = Duration::from_millis(250);
/// So long name servers may differ before a change, since a transfer may be under way.
const SETTLING: Duration = Duration::from_secs(3);

/// Where names are to lead.
#[derive(Clone, Copy, Debug)]
pub struct Move<'a> {
    /// The site to which they lead now; any other if `None`.
    pub from: Option<&'a str>,
    /// The site to which they are to lead.
    pub to: &'a str,
    /// The databases that change hands; all that one site writes at a time if it is empty.
    pub databases: &'a [String],
}

/// What a name server says of a record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RecordView {
    /// The name.
    pub name: String,
    /// The type.
    #[serde(rename = "type")]
    pub kind: RecordType,
    /// Its values; none where there is no such record.
    pub values: Vec<String>,
    /// How long caches may keep it, in seconds.
    pub ttl: Option<u32>,
    /// The site that they stand for, if they do.
    pub site: Option<String>,
}

/// What a name server says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ServerView {
    /// The name server.
    pub server: String,
    /// Where it was asked.
    pub address: Option<SocketAddr>,
    /// The zone's serial.
    pub serial: Option<u32>,
    /// The records.
    pub records: Vec<RecordView>,
    /// Why it says nothing.
    pub problem: Option<String>,
}

/// What the name servers of a zone say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ZoneView {
    /// The zone.
    pub zone: String,
    /// The site to which all records lead, at all name servers.
    pub site: Option<String>,
    /// The name servers.
    pub servers: Vec<ServerView>,
}

/// A record that was changed, or is to be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ChangedRecord {
    /// The name.
    pub name: String,
    /// The type.
    #[serde(rename = "type")]
    pub kind: RecordType,
    /// Its values before.
    pub before: BTreeSet<String>,
    /// Its values from now on.
    pub after: BTreeSet<String>,
}

/// A zone whose records lead where they should.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Pointed {
    /// The zone.
    pub zone: String,
    /// What was changed, in one operation.
    pub changed: Vec<ChangedRecord>,
    /// What was there already.
    pub already: Vec<String>,
    /// When the last cache has forgotten what was there before; not known where nothing was to be changed.
    pub caches_until: Option<String>,
    /// What every name server says.
    pub servers: Vec<ServerView>,
}

/// A zone whose records can be changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Checked {
    /// The zone.
    pub zone: String,
    /// The key that the name server has accepted.
    pub key: String,
    /// What would be changed.
    pub to_change: Vec<ChangedRecord>,
    /// What is there already.
    pub already: Vec<String>,
    /// The longest that caches keep what there is, in seconds.
    pub ttl: Option<u32>,
    /// What every name server says.
    pub servers: Vec<ServerView>,
}

/// A zone with those of its records that are to be changed.
struct Task<'a> {
    zone: &'a Zone,
    records: Vec<&'a Record>,
}

/// Whether there is a name that leads to one of these databases.
pub fn is_configured(configuration: &Configuration, databases: &[String]) -> bool {
    !matches!(tasks(configuration, databases), Err(Failure::Nothing { .. }))
}

/// The records that lead to databases, by zone. One that leads to others too cannot be pointed with these alone.
fn tasks<'a>(configuration: &'a Configuration, databases: &[String]) -> Result<Vec<Task<'a>>, Failure> {
    let all: BTreeSet<String> = configuration.active_passive().into_iter().map(str::to_owned).collect();
    let chosen: BTreeSet<String> =
        if databases.is_empty() { all.clone() } else { databases.iter().cloned().collect() };
    let mut tasks = Vec::new();
    for zone in configuration.names.values() {
        let mut records = Vec::new();
        for record in &zone.records {
            let leads_to = record.databases.as_ref().unwrap_or(&all);
            if leads_to.is_disjoint(&chosen) && !leads_to.is_empty() {
                continue;
            }
            let others: Vec<_> = leads_to.difference(&chosen).map(|name| format!("\"{name}\"")).collect();
            if !others.is_empty() {
                return Err(Failure::Shared { record: record.to_string(), others: others.join(", ") });
            }
            records.push(record);
        }
        if !records.is_empty() {
            tasks.push(Task { zone, records });
        }
    }
    if tasks.is_empty() {
        let databases = (!databases.is_empty()).then(|| databases.join(", "));
        return Err(Failure::Nothing { databases });
    }
    Ok(tasks)
}

fn known_site(configuration: &Configuration, site: &str) -> Result<(), Error> {
    if configuration.sites.contains(site) {
        return Ok(());
    }
    let known = configuration.sites.iter().cloned().collect();
    Err(Error::Deployment(irongate_deployment::Error::Unknown { what: "site", name: site.to_owned(), known }))
}

/// What every name server says of the names that lead to databases (to all, if none is named). No key is needed. A name
/// server that does not answer is no error: its view says so.
///
/// # Errors
/// [`Error::Names`]: nothing is configured, or the server that takes the updates does not say which others there are.
pub async fn show(configuration: &Configuration, databases: &[String]) -> Result<Vec<ZoneView>, Error> {
    let mut views = Vec::new();
    for Task { zone, records } in tasks(configuration, databases)? {
        let end = Instant::now() + ROUND.min(zone.time_limit);
        let primary = Server::configured(&zone.server).await;
        let listed = servers::authoritative(zone, &primary, None, end).await;
        let all = listed.map_err(|fault| at(zone, fault))?;
        let end = Instant::now() + ROUND.min(zone.time_limit);
        let servers = servers::views(&all, &zone.zone, &records, end).await;
        views.push(ZoneView { zone: zone.zone.clone(), site: common_site(&servers), servers });
    }
    Ok(views)
}

/// What does not lead to a site, a sentence for each record at each name server.
pub(crate) fn not_at(zones: &[ZoneView], site: &str) -> Vec<String> {
    let mut sentences = Vec::new();
    for server in zones.iter().flat_map(|zone| &zone.servers) {
        if let Some(problem) = &server.problem {
            sentences.push(format!("name server {}: {problem}", server.server));
        }
        for record in server.records.iter().filter(|record| record.site.as_deref() != Some(site)) {
            let says: Vec<&str> = record.values.iter().map(String::as_str).collect();
            let (name, kind) = (&record.name, record.kind);
            sentences.push(format!(
                "{name} {kind} does not lead to site \"{site}\" at {}: it says {}",
                server.server,
                says.join(", ")
            ));
        }
    }
    sentences
}

/// The site that all records stand for at all servers.
fn common_site(servers: &[ServerView]) -> Option<String> {
    let mut common: Option<&String> = None;
    for server in servers {
        if server.problem.is_some() {
            return None;
        }
        for record in &server.records {
            let site = record.site.as_ref()?;
            if common.is_some_and(|common| common != site) {
                return None;
            }
            common = Some(site);
        }
    }
    common.cloned()
}

fn at(zone: &Zone, fault: Fault) -> Failure {
    Failure::Server { server: zone.server.to_string(), zone: zone.zone.clone(), fault }
}

/// The server that takes a zone's updates, with the key.
struct Primary {
    server: Server,
    key: Key,
}

impl Primary {
    async fn of(zone: &Zone) -> Result<Self, Failure> {
        let key = Key::read(&zone.key_file)?;
        Ok(Self { server: Server::configured(&zone.server).await, key })
    }

    /// What it says of the records, signed.
    async fn look(&self, task: &Task<'_>) -> Result<(SocketAddr, Vec<Found>), Failure> {
        let Task { zone, records } = task;
        let end = Instant::now() + zone.time_limit;
        let looked = self.server.look(&zone.zone, records, Some(&self.key), end).await;
        looked.map(|(address, _, found)| (address, found)).map_err(|fault| at(zone, fault))
    }
}

fn changed_records(changes: &[Change<'_>]) -> (Vec<ChangedRecord>, Vec<String>) {
    let (mut changed, mut already) = (Vec::new(), Vec::new());
    for Change { record, before, after } in changes {
        match after {
            Some(after) => changed.push(ChangedRecord {
                name: record.name.clone(),
                kind: record.kind,
                before: before.clone(),
                after: after.clone(),
            }),
            None => already.push(record.to_string()),
        }
    }
    (changed, already)
}

/// Looks whether names can be pointed, and changes nothing: every name server says the same, what it says is what a site
/// stands for, caches forget it soon enough, and the server takes an update that is signed with the key. What is wrong is
/// added to `complaints`, a sentence each.
///
/// # Errors
/// [`Error::Names`] where nothing is configured, or not for these databases alone; [`Error::Deployment`] for a site that
/// is not known.
pub async fn check(
    configuration: &Configuration,
    way: &Move<'_>,
    complaints: &mut Vec<String>,
) -> Result<Vec<Checked>, Error> {
    known_site(configuration, way.to)?;
    let mut checked = Vec::new();
    for task in tasks(configuration, way.databases)? {
        match check_zone(&task, way, complaints).await {
            Ok(zone) => checked.push(zone),
            Err(failure) => complaints.push(match failure.hint() {
                Some(hint) => format!("{failure} ({hint})"),
                None => failure.to_string(),
            }),
        }
    }
    Ok(checked)
}

async fn check_zone(
    task: &Task<'_>,
    way: &Move<'_>,
    complaints: &mut Vec<String>,
) -> Result<Checked, Failure> {
    let Task { zone, records } = task;
    let primary = Primary::of(zone).await?;
    let (address, found) = primary.look(task).await?;
    let mut probes = Vec::new();
    for (record, found) in records.iter().zip(&found) {
        if let Standing::Foreign(sentence) = decide::standing(record, found, way.from, way.to) {
            complaints.push(sentence);
        }
        let ttl = Duration::from_secs(found.ttl.unwrap_or(0).into());
        if ttl > zone.ttl_limit {
            let limit = zone.ttl_limit.as_secs();
            complaints.push(format!(
                "caches keep {record} for {} s, and at most {limit} s are allowed (lower its time to live, and begin when \
                 the old one is over)",
                ttl.as_secs()
            ));
        }
        let after = record.values.get(way.to).cloned();
        probes.push(Change { record, before: found.values.clone(), after });
    }
    let probe = message::probe(&zone.zone, &probes).map_err(|error| at(zone, error.into()))?;
    let answer = exchange::tell(address, &probe, Some(&primary.key), zone.time_limit).await;
    let answer = answer.map_err(|fault| at(zone, fault))?;
    // Had it been refused, the server would not have come to its conditions, which cannot hold.
    if !is_condition(answer.header().rcode()) {
        complaints.push(refused(zone, answer.header().rcode()).to_string());
    }
    let end = Instant::now() + zone.time_limit;
    let all = servers::authoritative(zone, &primary.server, Some(&primary.key), end).await;
    let all = all.map_err(|fault| at(zone, fault))?;
    let wanted: Vec<_> =
        records.iter().copied().zip(found.iter().map(|found| found.values.clone())).collect();
    let (servers, behind) = settle(zone, &all, &wanted, SETTLING.min(zone.time_limit)).await;
    complaints.extend(behind.into_iter().map(|sentence| format!("name server {sentence}")));
    let changes = decide::changes(records, &found, way.from, way.to).unwrap_or_default();
    let (to_change, already) = changed_records(&changes);
    let ttl = found.iter().filter_map(|found| found.ttl).max();
    Ok(Checked { zone: zone.zone.clone(), key: primary.key.name, to_change, already, ttl, servers })
}

/// Whether a server says that a condition does not hold (RFC 2136, 2.2 and 3.2).
fn is_condition(rcode: Rcode) -> bool {
    matches!(rcode, Rcode::NXDOMAIN | Rcode::YXDOMAIN | Rcode::NXRRSET | Rcode::YXRRSET)
}

fn refused(zone: &Zone, rcode: Rcode) -> Failure {
    let (server, zone) = (zone.server.to_string(), zone.zone.clone());
    Failure::Refused { server, zone, reason: format!("it answers {rcode}") }
}

/// Asks all name servers until they agree on these values and on a serial, or the limit has passed.
async fn settle(
    zone: &Zone,
    all: &[Server],
    wanted: &[(&Record, BTreeSet<String>)],
    limit: Duration,
) -> (Vec<ServerView>, Vec<String>) {
    let records: Vec<&Record> = wanted.iter().map(|(record, _)| *record).collect();
    let end = Instant::now() + limit;
    loop {
        let round = end.min(Instant::now() + ROUND);
        let views = servers::views(all, &zone.zone, &records, round).await;
        let behind = decide::behind(&views, wanted);
        if behind.is_empty() || Instant::now() + PAUSE >= end {
            return (views, behind);
        }
        sleep(PAUSE).await;
    }
}

/// Points names to a site, and waits until every name server says so. A zone that leads there already is only looked at.
///
/// # Errors
/// [`Error::Names`]: the failure says whether anything was changed. [`Error::Deployment`] for a site that is not known.
///
/// Cancelled in between, it may have changed some zones; done again, it does the rest.
pub async fn point(configuration: &Configuration, way: &Move<'_>) -> Result<Vec<Pointed>, Error> {
    known_site(configuration, way.to)?;
    let mut ready = Vec::new();
    for task in tasks(configuration, way.databases)? {
        let primary = Primary::of(task.zone).await?;
        let (address, found) = primary.look(&task).await?;
        let changes = changes(&task, &found, way)?;
        ready.push((task, primary, address, found, changes));
    }
    let mut pointed: Vec<Pointed> = Vec::new();
    for (task, primary, address, found, changes) in &ready {
        match point_zone(task, primary, *address, found, changes, way).await {
            Ok(zone) => pointed.push(zone),
            Err(failure) => {
                let zones: Vec<_> = pointed
                    .iter()
                    .filter(|zone| !zone.changed.is_empty())
                    .map(|zone| zone.zone.clone())
                    .collect();
                return Err(Error::Names(if zones.is_empty() {
                    failure
                } else {
                    Failure::Partly { zones, source: Box::new(failure) }
                }));
            }
        }
    }
    Ok(pointed)
}

fn changes<'a>(task: &Task<'a>, found: &[Found], way: &Move<'_>) -> Result<Vec<Change<'a>>, Failure> {
    decide::changes(&task.records, found, way.from, way.to)
        .map_err(|records| Failure::Foreign { zone: task.zone.zone.clone(), records })
}

async fn point_zone(
    task: &Task<'_>,
    primary: &Primary,
    address: SocketAddr,
    found: &[Found],
    changes: &[Change<'_>],
    way: &Move<'_>,
) -> Result<Pointed, Failure> {
    let zone = task.zone;
    let (changed, already) = changed_records(changes);
    let mut caches_until = None;
    if !changed.is_empty() {
        send(task, primary, address, changes, way).await?;
        let ttl = found.iter().filter_map(|found| found.ttl).max().unwrap_or(0);
        caches_until = Some(Timestamp(Timestamp::now().0 + i64::from(ttl) * 1_000_000).to_string());
    }
    let behind =
        |servers: Vec<String>| Failure::Behind { zone: zone.zone.clone(), waited: zone.time_limit, servers };
    let end = Instant::now() + zone.time_limit;
    let all = servers::authoritative(zone, &primary.server, Some(&primary.key), end).await;
    let all = all.map_err(|fault| behind(vec![format!("{}: {fault}", zone.server)]))?;
    let values = |record: &&Record| record.values.get(way.to).cloned().unwrap_or_default();
    let wanted: Vec<_> = task.records.iter().map(|record| (*record, values(record))).collect();
    let (servers, sentences) = settle(zone, &all, &wanted, zone.time_limit).await;
    if !sentences.is_empty() {
        return Err(behind(sentences));
    }
    Ok(Pointed { zone: zone.zone.clone(), changed, already, caches_until, servers })
}

/// Sends the one update of a zone. Where its answer was lost, or says that a condition did not hold, the records are
/// looked at again: they may say what they should.
async fn send(
    task: &Task<'_>,
    primary: &Primary,
    address: SocketAddr,
    changes: &[Change<'_>],
    way: &Move<'_>,
) -> Result<(), Failure> {
    let zone = task.zone;
    let update = message::update(&zone.zone, changes).map_err(|error| at(zone, error.into()))?;
    let unknown =
        |fault| Failure::Unknown { server: zone.server.to_string(), zone: zone.zone.clone(), fault };
    let lost = match exchange::tell(address, &update, Some(&primary.key), zone.time_limit).await {
        Ok(answer) if answer.header().rcode() == Rcode::NOERROR => return Ok(()),
        Ok(answer) if is_condition(answer.header().rcode()) => None,
        Ok(answer) => return Err(refused(zone, answer.header().rcode())),
        Err(fault @ Fault::Silent) => Some(fault),
        // Nothing was sent.
        Err(fault @ (Fault::Unreachable(_) | Fault::TooLong)) => return Err(at(zone, fault)),
        // The server has just shown that it knows the key. Who answers otherwise now may have passed the update on.
        Err(fault) => return Err(unknown(fault)),
    };
    let looked = primary.look(task).await;
    let is_there = |(record, found): (&&Record, &Found)| {
        decide::standing(record, found, way.from, way.to) == Standing::There
    };
    match (looked, lost) {
        (Ok((_, found)), _) if task.records.iter().zip(&found).all(is_there) => Ok(()),
        (Ok((_, found)), None) => {
            let said = task.records.iter().zip(&found).map(|(record, found)| decide::said(record, found));
            Err(Failure::Changed { zone: zone.zone.clone(), records: said.collect() })
        }
        (Err(failure), None) => Err(failure),
        (_, Some(fault)) => Err(unknown(fault)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn configuration(records: &str) -> Configuration {
        let text = format!(
            "{}\n[databases.other.main]\nuri = \"postgresql://h/o\"\n[databases.other.secondary]\nuri = \"postgresql://i/o\"\n\
             [flows.op]\ndatabase = \"other\"\nfrom = \"main\"\nto = \"secondary\"\ntables = [\"public.*\"]\n[flows.op.pump]\n\
             [names.shop]\nzone = \"shop.example\"\nserver = \"127.0.0.1\"\nkey_file = \"k\"\n{records}",
            Configuration::reference()
        );
        Configuration::parse(&text, Path::new("/irongate.toml")).unwrap()
    }

    #[test]
    fn a_name_moves_with_all_the_databases_that_it_leads_to() {
        let record = |name: &str, databases: &str| {
            let values = "values = { main = \"192.0.2.1\", secondary = \"192.0.2.2\" }";
            format!("[[names.shop.records]]\nname = \"{name}\"\ntype = \"A\"\n{databases}\n{values}\n")
        };
        let own = configuration(
            &(record("a", "databases = [\"config\"]") + &record("b", "databases = [\"other\"]")),
        );
        let names = |databases: &[&str]| {
            let databases: Vec<String> = databases.iter().map(|name| (*name).to_owned()).collect();
            tasks(&own, &databases).map(|tasks| {
                let records = tasks.iter().flat_map(|task| &task.records);
                records.map(|record| record.name.clone()).collect::<Vec<_>>().join(" ")
            })
        };
        assert_eq!(names(&[]).unwrap(), "a.shop.example b.shop.example");
        assert_eq!(names(&["config"]).unwrap(), "a.shop.example");
        assert!(matches!(names(&["log"]), Err(Failure::Nothing { .. })));
        let shared = configuration(&record("a", ""));
        let said = tasks(&shared, &["config".to_owned()]).err().unwrap();
        assert!(said.to_string().contains("leads to \"other\" too"), "{said}");
        assert_eq!(tasks(&shared, &[]).unwrap().len(), 1);
    }
}
