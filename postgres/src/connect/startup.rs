//! The start-up message, what the server answers, and whether it is the kind of server that is wanted.

use std::collections::HashMap;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{ErrorFields, Message};
use postgres_protocol::message::frontend;

use super::Kind;
use super::auth::Authenticator;
use super::wire::Wire;
use crate::endpoint::{Endpoint, Host, TargetSessionAttrs};
use crate::error::{Error, ServerError};

/// Settings that the server reports by itself.
pub(crate) type Parameters = HashMap<String, String>;

/// Settings that decide how values are printed and names are found. Given at start-up they go before what role,
/// database and the address's `options` set, so that every session of every process prints alike.
const FIXED: [(&str, &str); 12] = [
    ("client_encoding", "UTF8"),
    ("datestyle", "ISO, YMD"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("timezone", "UTC"),
    // Of an amount of money the text is the locale's, and both sides must agree on one.
    ("lc_monetary", "C"),
    // Off, NULL in an array would be the word.
    ("array_nulls", "on"),
    // Nothing but pg_catalog: a name means what it says.
    ("search_path", ""),
    // Else a role's setting could give XML values another form, and literals another meaning.
    ("xmloption", "content"),
    ("standard_conforming_strings", "on"),
    // A walsender's warning can be the only word about changes that it leaves out.
    ("client_min_messages", "warning"),
];

/// What the server says when it is ready.
pub(super) struct Started {
    pub(super) parameters: Parameters,
    pub(super) process_id: i32,
    pub(super) secret_key: i32,
}

/// Starts a session up to its first ReadyForQuery.
pub(super) async fn start(
    wire: &mut Wire,
    endpoint: &Endpoint,
    host: &Host,
    application_name: &str,
    kind: Kind,
) -> Result<Started, Error> {
    let mut settings: Vec<(&str, &str)> = vec![
        ("user", &endpoint.user),
        ("database", &endpoint.database),
        ("application_name", application_name),
    ];
    if kind == Kind::LogicalReplication {
        settings.push(("replication", "database"));
    }
    if let Some(options) = &endpoint.options {
        settings.push(("options", options));
    }
    settings.extend(FIXED);
    let mut buf = BytesMut::new();
    frontend::startup_message(settings, &mut buf)
        .map_err(|_| Error::invalid("a name or option in it holds a NUL character"))?;
    wire.send(&buf).await?;

    let mut authenticator = Authenticator { endpoint, host, password_from: None };
    authenticator.run(wire).await?;
    wire.trust();
    let mut started = Started { parameters: Parameters::new(), process_id: 0, secret_key: 0 };
    loop {
        match wire.receive().await? {
            Message::ParameterStatus(body) => {
                let bad = |error: std::io::Error| Error::protocol(error.to_string());
                let name = body.name().map_err(bad)?.to_owned();
                started.parameters.insert(name, body.value().map_err(bad)?.to_owned());
            }
            Message::BackendKeyData(body) => {
                started.process_id = body.process_id();
                started.secret_key = body.secret_key();
            }
            Message::ReadyForQuery(_) => return Ok(started),
            Message::ErrorResponse(body) => {
                return Err(refused(endpoint, host, authenticator.password_from.take(), body.fields()));
            }
            _ => return Err(Error::protocol("an unexpected message during start-up")),
        }
    }
}

/// The error of a server that does not let us in.
pub(super) fn refused(
    endpoint: &Endpoint,
    host: &Host,
    password_from: Option<String>,
    fields: ErrorFields<'_>,
) -> Error {
    Error::Refused {
        host: host.to_string(),
        role: endpoint.user.clone(),
        database: endpoint.database.clone(),
        password_from,
        server: Box::new(ServerError::from_fields(fields)),
    }
}

/// Whether the server is of the kind that is wanted. Servers from 14 on say it by themselves.
pub(super) async fn check_target(
    wire: &mut Wire,
    parameters: &Parameters,
    target: TargetSessionAttrs,
    host: &Host,
) -> Result<(), Error> {
    let on = |name: &str| parameters.get(name).map(|value| value == "on");
    let standby = match on("in_hot_standby") {
        _ if target == TargetSessionAttrs::Any => return Ok(()),
        Some(standby) => standby,
        None => ask(wire, "SELECT pg_catalog.pg_is_in_recovery()").await? == "t",
    };
    let read_only = match on("default_transaction_read_only") {
        Some(read_only) => read_only,
        None => ask(wire, "SHOW transaction_read_only").await? == "on",
    };
    let fits = match target {
        TargetSessionAttrs::Any | TargetSessionAttrs::PreferStandby => true,
        TargetSessionAttrs::ReadWrite => !standby && !read_only,
        TargetSessionAttrs::ReadOnly => standby || read_only,
        TargetSessionAttrs::Primary => !standby,
        TargetSessionAttrs::Standby => standby,
    };
    if fits {
        Ok(())
    } else {
        Err(Error::SessionAttributes { host: host.to_string(), wanted: target.as_str() })
    }
}

/// One value by the simple protocol.
async fn ask(wire: &mut Wire, query: &str) -> Result<String, Error> {
    let mut buf = BytesMut::new();
    frontend::query(query, &mut buf)?;
    wire.send(&buf).await?;
    let mut answer = String::new();
    let mut failure = None;
    loop {
        match wire.receive().await? {
            Message::DataRow(body) => {
                let range =
                    body.ranges().next().map_err(|error| Error::protocol(error.to_string()))?.flatten();
                if let Some(value) = range.and_then(|range| body.buffer().get(range)) {
                    answer = String::from_utf8_lossy(value).into_owned();
                }
            }
            Message::ErrorResponse(body) => failure = Some(ServerError::from_fields(body.fields())),
            Message::ReadyForQuery(_) => return failure.map_or(Ok(answer), |error| Err(error.into())),
            _ => {}
        }
    }
}
