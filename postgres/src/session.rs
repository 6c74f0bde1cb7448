//! An SQL session.

mod handover;

use std::future::{Future, poll_fn};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_postgres::config::SslMode;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::connect::{self, Kind, Route};
use crate::endpoint::Endpoint;
use crate::error::Error;
use handover::Handover;

/// How long [`Session::explain`] waits for the connection's own last words.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// An SQL session: a [`tokio_postgres::Client`] (by `Deref`) whose connection is driven by a task of its own.
///
/// Every session prints values alike (ISO dates, UTC, `extra_float_digits` 3, hex bytea, UTF-8) and finds nothing
/// but `pg_catalog` without a schema's name. Dropping it ends the session.
pub struct Session {
    client: Client,
    end: watch::Receiver<End>,
    host: String,
    application_name: Option<String>,
    server_version: String,
    server_version_num: u32,
    process_id: i32,
    canceller: Canceller,
}

/// Whether and why a connection ended.
#[derive(Clone)]
enum End {
    NotYet,
    Closed(Option<Arc<Error>>),
}

impl Session {
    /// Connects. `application_name` is how the server's views show the session, unless the address names another.
    ///
    /// # Errors
    ///
    /// Whatever keeps from connecting: see [`Error`]. A limit applies to each address, see
    /// [`Endpoint::connect_timeout`].
    pub async fn connect(endpoint: &Endpoint, application_name: &str) -> Result<Self, Error> {
        let mut connection = connect::connect(endpoint, application_name, Kind::Sql).await?;
        let (process_id, secret_key) = (connection.process_id, connection.secret_key);
        let parameter = |name: &str| connection.parameters.get(name).cloned();
        let application_name = parameter("application_name");
        let server_version = parameter("server_version").unwrap_or_default();
        let server_version_num = version_num(&server_version)?;
        let replay = handover::replay(&connection)?;
        let unread = connection.wire.unread.split();
        let stream = Handover::new(connection.wire.stream, replay, &unread);
        // Everything that is negotiated has been; this only makes the client that belongs to the stream.
        let mut config = tokio_postgres::Config::new();
        config.user(&endpoint.user).ssl_mode(SslMode::Disable);
        let (client, mut driver) = config.connect_raw(stream, NoTls).await?;
        let (tell, end) = watch::channel(End::NotYet);
        // Ends by itself when the client is dropped or the connection breaks.
        tokio::spawn(async move {
            let reason = loop {
                match poll_fn(|cx| driver.poll_message(cx)).await {
                    // The text could hold row values.
                    Some(Ok(AsyncMessage::Notice(notice))) => tracing::debug!(
                        severity = notice.severity(),
                        code = notice.code().code(),
                        "notice from the server"
                    ),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break Some(Arc::new(Error::from(error))),
                    None => break None,
                }
            };
            drop(driver);
            let _ = tell.send(End::Closed(reason));
        });
        Ok(Self {
            client,
            end,
            host: connection.host,
            application_name,
            server_version,
            server_version_num,
            process_id,
            canceller: Canceller::new(connection.route, process_id, secret_key),
        })
    }

    /// The client, for where `Deref` does not reach.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The client, for transactions.
    pub fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The server that answered, as `host:port`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The name by which the server's views show the session.
    pub fn application_name(&self) -> Option<&str> {
        self.application_name.as_deref()
    }

    /// The server's version as it prints it, such as `15.18 (Debian 15.18-0+deb12u1)`.
    pub fn server_version(&self) -> &str {
        &self.server_version
    }

    /// The server's version as a number, such as 150018.
    pub fn server_version_num(&self) -> u32 {
        self.server_version_num
    }

    /// The process id of the session's backend, as `pg_stat_activity` shows it.
    pub fn process_id(&self) -> i32 {
        self.process_id
    }

    /// Waits until the connection has ended and says why: nothing if it was by our own wish. Cancel-safe.
    pub async fn closed(&self) -> Option<Arc<Error>> {
        let mut end = self.end.clone();
        loop {
            if let End::Closed(reason) = &*end.borrow_and_update() {
                return reason.clone();
            }
            // The task tells before it ends, unless the runtime is going down.
            if end.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Why the connection ended, if it has and there is a reason.
    pub fn failure(&self) -> Option<Arc<Error>> {
        match &*self.end.borrow() {
            End::NotYet => None,
            End::Closed(reason) => reason.clone(),
        }
    }

    /// Turns an error of the client into ours. "Connection closed" becomes the reason why it was, which the server
    /// may have given before; waits for it up to two seconds.
    pub async fn explain(&self, error: tokio_postgres::Error) -> Error {
        match Error::from(error) {
            Error::Closed(None) => {
                let reason = tokio::time::timeout(LAST_WORDS, self.closed()).await.ok().flatten();
                Error::Closed(reason)
            }
            error => error,
        }
    }

    /// What cancels the statement that this session is running, from anywhere.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// Runs something on this session within a limit. When it passes, the running statement is cancelled at the
    /// server and the outcome is [`Error::Timeout`], naming `what`; a transaction that was open has then failed.
    pub async fn within<T, E: Into<Error>>(
        &self,
        limit: Duration,
        what: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result.map_err(Into::into),
            Err(_) => {
                if let Err(error) = self.canceller.cancel().await {
                    tracing::debug!(%error, "cannot send a cancel request");
                }
                Err(Error::Timeout { what: what.to_owned(), limit })
            }
        }
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("host", &self.host).field("process_id", &self.process_id).finish()
    }
}

/// Cancels what a session or a replication connection is running.
#[derive(Clone)]
pub struct Canceller {
    route: Route,
    process_id: i32,
    secret_key: i32,
}

impl Canceller {
    pub(crate) fn new(route: Route, process_id: i32, secret_key: i32) -> Self {
        Self { route, process_id, secret_key }
    }

    /// Sends a cancel request over a connection of its own. That it was sent does not mean that there was anything
    /// to cancel.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached any more.
    pub async fn cancel(&self) -> Result<(), Error> {
        self.route.cancel(self.process_id, self.secret_key).await
    }
}

impl std::fmt::Debug for Canceller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Canceller").field("process_id", &self.process_id).finish_non_exhaustive()
    }
}

/// `server_version_num` of what the server reports as its version.
pub(crate) fn version_num(version: &str) -> Result<u32, Error> {
    // Development versions read "19devel", "19beta1", "19rc2".
    leading_number(version)
        .map(|(major, rest)| {
            let minor = rest.strip_prefix('.').and_then(leading_number).map_or(0, |(minor, _)| minor);
            major.saturating_mul(10_000).saturating_add(minor)
        })
        .ok_or_else(|| Error::protocol("the server reports no version"))
}

fn leading_number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_number_is_read_from_every_form() {
        for (text, number) in [
            ("15.18 (Debian 15.18-0+deb12u1)", 150_018),
            ("18.4", 180_004),
            ("19devel", 190_000),
            ("19beta1", 190_000),
        ] {
            assert_eq!(version_num(text).unwrap(), number);
        }
        assert!(version_num("").is_err());
        assert!(version_num("x").is_err());
    }
}
