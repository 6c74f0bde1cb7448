//! Name servers: which there are, and what each says.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use domain::base::iana::{Rcode, Rtype};
use futures_util::future::join_all;
use irongate_deployment::configuration::{NameServer, Record, Zone};
use tokio::time::Instant;

use super::decide::view;
use super::exchange::{Fault, ask};
use super::key::Key;
use super::message::{self, Answer, Draft, Found};
use super::{RecordView, ServerView};

/// Where name servers listen.
const PORT: u16 = 53;

/// A name server and where it is reached.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) name: String,
    /// In the order in which they are tried; the reason if there is none.
    pub(super) addresses: Result<Vec<SocketAddr>, String>,
}

impl Server {
    /// A server of the configuration.
    pub(super) async fn configured(server: &NameServer) -> Self {
        Self { name: server.to_string(), addresses: resolve(&server.host, server.port).await }
    }

    /// Its answer to a question. A server without authority for what it is asked is none.
    pub(super) async fn ask(
        &self,
        draft: &Draft,
        key: Option<&Key>,
        end: Instant,
    ) -> Result<(SocketAddr, Answer), Fault> {
        let addresses = self.addresses.as_ref().map_err(|reason| Fault::NoAddress(reason.clone()))?;
        let mut last = Fault::NoAddress("there is none".to_owned());
        for (place, address) in addresses.iter().enumerate() {
            let left = end.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - place).unwrap_or(1);
            match ask(*address, draft, key, share.max(Duration::from_millis(1))).await {
                Ok(answer) => {
                    return match answer.header().rcode() {
                        Rcode::NOERROR | Rcode::NXDOMAIN if answer.header().aa() => Ok((*address, answer)),
                        Rcode::NOERROR | Rcode::NXDOMAIN => Err(Fault::Lame),
                        other => Err(Fault::Says(other.to_string())),
                    };
                }
                Err(fault @ (Fault::Silent | Fault::Unreachable(_))) => last = fault,
                Err(fault) => return Err(fault),
            }
        }
        Err(last)
    }

    /// What it says of records, and the zone's serial before that.
    pub(super) async fn look(
        &self,
        zone: &str,
        records: &[&Record],
        key: Option<&Key>,
        end: Instant,
    ) -> Result<(SocketAddr, u32, Vec<Found>), Fault> {
        let (address, answer) = self.ask(&message::ask(zone, Rtype::SOA)?, key, end).await?;
        let serial = message::serial(&answer).map_err(|_| Fault::Nonsense)?.ok_or(Fault::Lame)?;
        let mut found = Vec::new();
        for record in records {
            let (_, answer) = self.ask(&message::ask_for(record)?, key, end).await?;
            found.push(message::found(&answer, record).map_err(|_| Fault::Nonsense)?);
        }
        Ok((address, serial, found))
    }

    /// The same for people and programs; what is wrong with it is a sentence.
    async fn view(&self, zone: &str, records: &[&Record], end: Instant) -> ServerView {
        let name = self.name.clone();
        match self.look(zone, records, None, end).await {
            Ok((address, serial, found)) => {
                let views: Vec<RecordView> =
                    records.iter().zip(&found).map(|(record, found)| view(record, found)).collect();
                let (address, serial) = (Some(address), Some(serial));
                ServerView { server: name, address, serial, records: views, problem: None }
            }
            Err(fault) => {
                let address = self.addresses.as_ref().ok().and_then(|addresses| addresses.first()).copied();
                let problem = Some(fault.to_string());
                ServerView { server: name, address, serial: None, records: Vec::new(), problem }
            }
        }
    }
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let found: Vec<_> =
        tokio::net::lookup_host((host, port)).await.map_err(|error| error.to_string())?.collect();
    if found.is_empty() { Err("there is none".to_owned()) } else { Ok(found) }
}

/// Every name server that answers for a zone: those of the configuration, or those that the zone names. The one that takes
/// the updates is among them if it is named; it may be hidden.
pub(super) async fn authoritative(
    zone: &Zone,
    primary: &Server,
    key: Option<&Key>,
    end: Instant,
) -> Result<Vec<Server>, Fault> {
    if let Some(servers) = &zone.servers {
        return Ok(join_all(servers.iter().map(Server::configured)).await);
    }
    let (_, answer) = primary.ask(&message::ask(&zone.zone, Rtype::NS)?, key, end).await?;
    let mut names = message::servers(&answer).map_err(|_| Fault::Nonsense)?;
    // They come in any order.
    names.sort();
    if names.is_empty() {
        return Err(Fault::Lame);
    }
    let mut servers = Vec::new();
    for name in names {
        // In the zone itself first: this machine may get its names from elsewhere.
        let mut addresses = Vec::new();
        for kind in [Rtype::A, Rtype::AAAA] {
            if let Ok((_, answer)) = primary.ask(&message::ask(&name, kind)?, key, end).await {
                addresses.extend(message::addresses(&answer).map_err(|_| Fault::Nonsense)?);
            }
        }
        let addresses = if addresses.is_empty() {
            resolve(&name, PORT).await
        } else {
            Ok(addresses.into_iter().map(|address| SocketAddr::new(address, PORT)).collect())
        };
        servers.push(Server { name, addresses });
    }
    Ok(servers)
}

/// What all of them say at this moment.
pub(super) async fn views(
    servers: &[Server],
    zone: &str,
    records: &[&Record],
    end: Instant,
) -> Vec<ServerView> {
    join_all(servers.iter().map(|server| server.view(zone, records, end))).await
}
