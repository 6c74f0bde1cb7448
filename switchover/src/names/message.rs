//! What is said to name servers: questions (RFC 1035) and updates (RFC 2136).

use std::collections::BTreeSet;

use domain::base::iana::{Class, Opcode, Rtype};
use domain::base::message_builder::AdditionalBuilder;
use domain::base::name::FromStrError;
use domain::base::rdata::UnknownRecordData;
use domain::base::wire::ParseError;
use domain::base::{Message, MessageBuilder, Name, ToName};
use domain::rdata::{A, Aaaa, Cname, Ns, Soa};
use irongate_deployment::configuration::{Record, RecordType};

/// A message that is not signed yet.
pub(super) type Draft = AdditionalBuilder<Vec<u8>>;
/// What came back.
pub(super) type Answer = Message<Vec<u8>>;

/// A message that cannot be made: a name that is none, or too much for one message.
#[derive(Debug)]
pub(super) struct Unsayable;

impl From<FromStrError> for Unsayable {
    fn from(_: FromStrError) -> Self {
        Self
    }
}

impl From<domain::base::message_builder::PushError> for Unsayable {
    fn from(_: domain::base::message_builder::PushError) -> Self {
        Self
    }
}

/// What a name server says of a record set.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Found {
    /// Its values, as the configuration has them; none where there is no such record set.
    pub(super) values: BTreeSet<String>,
    /// How long caches may keep it, in seconds.
    pub(super) ttl: Option<u32>,
    /// The name is another one's alias, and has no such record set.
    pub(super) alias: Option<String>,
}

/// A record set as an update is to find it, and as it is to leave it.
#[derive(Clone, Debug)]
pub(super) struct Change<'a> {
    pub(super) record: &'a Record,
    pub(super) before: BTreeSet<String>,
    /// Nothing is to be changed if `None`, and it must be so nevertheless.
    pub(super) after: Option<BTreeSet<String>>,
}

fn rtype(kind: RecordType) -> Rtype {
    match kind {
        RecordType::A => Rtype::A,
        RecordType::Aaaa => Rtype::AAAA,
        RecordType::Cname => Rtype::CNAME,
    }
}

fn name(text: &str) -> Result<Name<Vec<u8>>, FromStrError> {
    Name::vec_from_str(text)
}

/// A value as it is compared.
fn canonical(name: &impl ToString) -> String {
    name.to_string().trim_end_matches('.').to_ascii_lowercase()
}

fn data(kind: RecordType, value: &str) -> Result<UnknownRecordData<Vec<u8>>, Unsayable> {
    let octets = match kind {
        RecordType::A => value.parse::<std::net::Ipv4Addr>().map_err(|_| Unsayable)?.octets().to_vec(),
        RecordType::Aaaa => value.parse::<std::net::Ipv6Addr>().map_err(|_| Unsayable)?.octets().to_vec(),
        RecordType::Cname => name(value)?.into_octets(),
    };
    UnknownRecordData::from_octets(rtype(kind), octets).map_err(|_| Unsayable)
}

/// No data, where only the type counts.
fn nothing(kind: RecordType) -> Result<UnknownRecordData<Vec<u8>>, Unsayable> {
    UnknownRecordData::from_octets(rtype(kind), Vec::new()).map_err(|_| Unsayable)
}

fn begin(opcode: Opcode) -> MessageBuilder<Vec<u8>> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_random_id();
    builder.header_mut().set_opcode(opcode);
    builder
}

/// Asks for a record set. The server is not to ask others.
pub(super) fn ask(of: &str, about: Rtype) -> Result<Draft, Unsayable> {
    let mut builder = begin(Opcode::QUERY).question();
    builder.push((name(of)?, about))?;
    Ok(builder.additional())
}

/// Asks for the record set of a record.
pub(super) fn ask_for(record: &Record) -> Result<Draft, Unsayable> {
    ask(&record.name, rtype(record.kind))
}

/// One update of a zone, all or nothing: every record set must be as it was before (RFC 2136, 2.4.2), those that change
/// are deleted (2.5.2) and added anew (2.5.1).
pub(super) fn update(zone: &str, changes: &[Change<'_>]) -> Result<Draft, Unsayable> {
    let mut builder = begin(Opcode::UPDATE).question();
    builder.push((name(zone)?, Rtype::SOA))?;
    let mut builder = builder.answer();
    for Change { record, before, .. } in changes {
        for value in before {
            builder.push((name(&record.name)?, Class::IN, 0, data(record.kind, value)?))?;
        }
    }
    let mut builder = builder.authority();
    for Change { record, after, .. } in changes {
        let Some(after) = after else { continue };
        builder.push((name(&record.name)?, Class::ANY, 0, nothing(record.kind)?))?;
        for value in after {
            builder.push((name(&record.name)?, Class::IN, record.ttl, data(record.kind, value)?))?;
        }
    }
    Ok(builder.additional())
}

/// The same update in a form that changes nothing, whatever the zone holds: its first record set must be there (RFC 2136,
/// 2.4.1) and must not be there (2.4.3). A server that allows the update says that one of the two does not hold.
pub(super) fn probe(zone: &str, changes: &[Change<'_>]) -> Result<Draft, Unsayable> {
    let whole = update(zone, changes)?;
    let Some(Change { record, .. }) = changes.first() else { return Ok(whole) };
    let mut builder = begin(Opcode::UPDATE).question();
    builder.push((name(zone)?, Rtype::SOA))?;
    let mut builder = builder.answer();
    for class in [Class::ANY, Class::NONE] {
        builder.push((name(&record.name)?, class, 0, nothing(record.kind)?))?;
    }
    let mut builder = builder.authority();
    for Change { record, before, after } in changes {
        builder.push((name(&record.name)?, Class::ANY, 0, nothing(record.kind)?))?;
        for value in after.as_ref().unwrap_or(before) {
            builder.push((name(&record.name)?, Class::IN, record.ttl, data(record.kind, value)?))?;
        }
    }
    Ok(builder.additional())
}

/// What an answer says of a record.
pub(super) fn found(answer: &Answer, record: &Record) -> Result<Found, ParseError> {
    let owner = name(&record.name).map_err(|_| ParseError::form_error("the name is none"))?;
    let mut found = Found::default();
    for entry in answer.answer()? {
        let entry = entry?;
        if !entry.owner().name_eq(&owner) {
            continue;
        }
        let ttl = entry.ttl().as_secs();
        let value = match (record.kind, entry.rtype()) {
            (RecordType::A, Rtype::A) => {
                entry.to_record::<A>()?.map(|record| record.data().addr().to_string())
            }
            (RecordType::Aaaa, Rtype::AAAA) => {
                entry.to_record::<Aaaa>()?.map(|record| record.data().addr().to_string())
            }
            (kind, Rtype::CNAME) => {
                let target = entry.to_record::<Cname<_>>()?.map(|record| canonical(&record.data().cname()));
                if kind == RecordType::Cname {
                    target
                } else {
                    found.alias = target;
                    continue;
                }
            }
            _ => None,
        };
        if let Some(value) = value {
            found.values.insert(value);
            found.ttl = Some(found.ttl.map_or(ttl, |least| least.max(ttl)));
        }
    }
    Ok(found)
}

/// The zone's serial in an answer.
pub(super) fn serial(answer: &Answer) -> Result<Option<u32>, ParseError> {
    let first = answer.answer()?.limit_to::<Soa<_>>().next();
    first.map(|entry| Ok(entry?.data().serial().into_int())).transpose()
}

/// The name servers in an answer.
pub(super) fn servers(answer: &Answer) -> Result<Vec<String>, ParseError> {
    answer.answer()?.limit_to::<Ns<_>>().map(|entry| Ok(canonical(&entry?.data().nsdname()))).collect()
}

/// The addresses in an answer.
pub(super) fn addresses(answer: &Answer) -> Result<Vec<std::net::IpAddr>, ParseError> {
    let mut found = Vec::new();
    for entry in answer.answer()? {
        let entry = entry?;
        found.extend(entry.to_record::<A>()?.map(|record| std::net::IpAddr::V4(record.data().addr())));
        found.extend(entry.to_record::<Aaaa>()?.map(|record| std::net::IpAddr::V6(record.data().addr())));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, kind: RecordType) -> Record {
        Record { name: name.into(), kind, ttl: 30, databases: None, values: Default::default() }
    }

    fn set(values: &[&str]) -> BTreeSet<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn an_update_requires_what_was_there_and_puts_the_other_in_its_place() {
        let (db, alias) = (record("db.a.example", RecordType::A), record("x.a.example", RecordType::Cname));
        let changes = [
            Change {
                record: &db,
                before: set(&["192.0.2.1", "192.0.2.2"]),
                after: Some(set(&["192.0.2.3"])),
            },
            Change { record: &alias, before: set(&["y.a.example"]), after: None },
        ];
        let message = update("a.example", &changes).unwrap().into_message();
        assert_eq!(message.header().opcode(), Opcode::UPDATE);
        let lines = |section: domain::base::message::RecordSection<'_, Vec<u8>>| {
            let line = |entry: domain::base::ParsedRecord<'_, Vec<u8>>| {
                let length = entry.to_record::<UnknownRecordData<_>>().unwrap().unwrap().data().data().len();
                let ttl = entry.ttl().as_secs();
                format!("{} {} {ttl} {} {length}", entry.owner(), entry.class(), entry.rtype())
            };
            section.map(|entry| line(entry.unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(
            lines(message.prerequisite().unwrap()),
            ["db.a.example IN 0 A 4", "db.a.example IN 0 A 4", "x.a.example IN 0 CNAME 13"]
        );
        assert_eq!(lines(message.update().unwrap()), ["db.a.example * 0 A 0", "db.a.example IN 30 A 4"]);
        let message = probe("a.example", &changes).unwrap().into_message();
        assert_eq!(
            lines(message.prerequisite().unwrap()),
            ["db.a.example * 0 A 0", "db.a.example NONE 0 A 0"]
        );
        assert_eq!(message.update().unwrap().count(), 4, "what is not to change must be allowed too");
    }
}
