//! The manager's address for the other sites.
//!
//! Nothing is believed that a certificate does not say. The handshake lets in whom the deployment's authority has signed;
//! [`Certified::admit`] then compares what the request says of itself with the name in the certificate, and everything
//! that does not fit is refused in words and told as an event. Handshakes run beside each other in the connections' own
//! tasks, so whoever connects and says nothing holds up nobody; strangers have places of their own and take none of the
//! unix socket's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Context;

use irongate_pump::Secure;
use tokio::net::TcpListener;

use super::server::{Doorkeeper, serve};
use super::{Caller, Request};
use crate::connections::serve_all;
use crate::error::Error;
use crate::manager::{Message, Shared};
use crate::settings::Remote;

/// Connections at one time.
const CONNECTIONS: usize = 64;

/// A bound port.
#[derive(Debug)]
pub(crate) struct RemoteServer {
    listener: TcpListener,
    remote: Arc<Remote>,
    shared: Shared,
}

/// A request that is not answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct TurnedAway {
    pub(super) message: String,
    pub(super) hint: String,
}

/// What a connection's certificate has shown.
#[derive(Debug)]
pub(super) struct Certified {
    remote: Arc<Remote>,
    /// The sites whose name it bears.
    sites: Vec<String>,
    address: SocketAddr,
}

impl RemoteServer {
    /// Binds, and looks at certificate and key, so that what cannot be read is said at the start.
    pub(crate) async fn bind(remote: Remote, shared: Shared) -> Result<Self, Error> {
        remote.link.check_credentials()?;
        let listen = |source| Error::Listen { address: remote.listen.clone(), source };
        let listener = TcpListener::bind(&remote.listen).await.map_err(listen)?;
        Ok(Self { listener, remote: Arc::new(remote), shared })
    }

    /// Serves until cancelled.
    pub(crate) async fn run(self) {
        let accept = |context: &mut Context<'_>| self.listener.poll_accept(context);
        serve_all("a connection of another site", CONNECTIONS, accept, |(stream, address)| {
            let (shared, remote) = (self.shared.clone(), Arc::clone(&self.remote));
            async move {
                match Secure::accept(stream, address, &remote.link).await {
                    Ok(secure) => {
                        let sites = remote.peers.iter().filter(|site| secure.is_of(site)).cloned().collect();
                        let doorkeeper = Doorkeeper::Site(Certified { remote, sites, address });
                        if let Err(error) = serve(secure, &shared, &doorkeeper).await {
                            tracing::debug!(%error, %address, "a connection of another site ended");
                        }
                    }
                    Err(error) => {
                        let _ = shared.messages.send(Message::TurnedAway { reason: error.to_string() }).await;
                    }
                }
            }
        })
        .await;
    }
}

impl Certified {
    /// The site that asks, if it may have what it asks for.
    pub(super) fn admit(&self, request: &Request) -> Result<String, TurnedAway> {
        let who = format!("whoever is at {}", self.address);
        let away = |message: String, hint: &str| Err(TurnedAway { message, hint: hint.to_owned() });
        let Some(Caller { deployment, site, to }) = &request.caller else {
            return away(
                format!("{who} does not say from which site it is"),
                "ask with a release of Irongate that does",
            );
        };
        let own = &*self.remote;
        if *deployment != own.deployment {
            return away(
                format!("{who} is of deployment \"{deployment}\", and this is \"{}\"", own.deployment),
                "look at the control_address of the site: it leads to another deployment",
            );
        }
        if *to != own.site {
            return away(
                format!("{who} looks for site \"{to}\", and this is site \"{}\"", own.site),
                "look at the control_address of the site",
            );
        }
        if !own.peers.contains(site) {
            return away(
                format!("{who} says that it is site \"{site}\", which this site does not know"),
                "give both sites the same configuration",
            );
        }
        if !self.sites.contains(site) {
            return away(
                format!("{who} says that it is site \"{site}\", and its certificate does not"),
                "give each site the certificate that bears its own name",
            );
        }
        if !own.orders && !request.command.is_question() {
            return away(
                format!("site \"{site}\" gives an order, and other sites may only look here"),
                "give the order at the site itself, or allow it with control_orders = true in its section of [sites]",
            );
        }
        Ok(site.clone())
    }
}

#[cfg(test)]
mod tests {
    use irongate_pump::{Credentials, LinkSettings};

    use super::super::{Command, Order};
    use super::*;

    fn certified(orders: bool, sites: &[&str]) -> Certified {
        let credentials = Credentials::Certificates {
            authority: "ca.crt".into(),
            certificate: "main.crt".into(),
            key: "main.key".into(),
        };
        let remote = Remote {
            site: "main".to_owned(),
            deployment: "shop".to_owned(),
            listen: "127.0.0.1:1".to_owned(),
            link: LinkSettings::new(credentials),
            peers: ["secondary".to_owned(), "third".to_owned()].into(),
            orders,
        };
        Certified {
            remote: Arc::new(remote),
            sites: sites.iter().map(|site| (*site).to_owned()).collect(),
            address: "10.0.0.1:5".parse().unwrap(),
        }
    }

    #[test]
    fn only_a_site_of_this_deployment_that_its_certificate_names_is_let_in() {
        let ask = |certified: &Certified, caller: Option<[&str; 3]>, command: Command| {
            let caller = caller.map(|[deployment, site, to]| Caller {
                deployment: deployment.to_owned(),
                site: site.to_owned(),
                to: to.to_owned(),
            });
            certified.admit(&Request { version: 1, caller, command })
        };
        let right = certified(true, &["secondary"]);
        let stop = || Command::Stop(Order::default());
        let good = Some(["shop", "secondary", "main"]);
        assert_eq!(ask(&right, good, Command::Info), Ok("secondary".to_owned()));
        assert_eq!(ask(&right, good, stop()), Ok("secondary".to_owned()));
        for (caller, says) in [
            (None, "does not say from which site"),
            (Some(["other", "secondary", "main"]), "is of deployment \"other\", and this is \"shop\""),
            (Some(["shop", "secondary", "moon"]), "looks for site \"moon\""),
            (Some(["shop", "moon", "main"]), "which this site does not know"),
            (Some(["shop", "third", "main"]), "its certificate does not"),
        ] {
            let away = ask(&right, caller, Command::Ping).unwrap_err();
            assert!(away.message.contains(says) && !away.hint.is_empty(), "{away:?}");
        }
        let quiet = certified(false, &["secondary"]);
        assert!(ask(&quiet, good, Command::Stats { names: Vec::new() }).is_ok());
        let hook = irongate_deployment::configuration::HookName::Notify;
        let context = serde_json::json!({
            "run": "r", "plan": "p", "step": "s", "from": "a", "to": "b", "databases": [], "holder": "h"
        });
        let run_hook = Command::Hook { hook, context: serde_json::from_value(context).unwrap() };
        assert!(ask(&quiet, good, Command::Hooks).is_ok());
        for order in [stop(), Command::Start(Order::default()), Command::Reload, run_hook] {
            let away = ask(&quiet, good, order).unwrap_err();
            assert!(
                away.message.contains("may only look") && away.hint.contains("control_orders"),
                "{away:?}"
            );
        }
    }
}
