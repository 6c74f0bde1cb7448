//! Proving to the server who we are (PostgreSQL manual, "Message Flow", "SASL Authentication").
//!
//! A server that is not who it says it is must learn nothing: a password goes in the clear only where nobody can
//! listen, and with `channel_binding=require` by SCRAM bound to the TLS channel or not at all.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use super::startup::refused;
use super::stream::Stream;
use super::tls::end_point_digest;
use super::wire::Wire;
use crate::endpoint::password::Login;
use crate::endpoint::{ChannelBinding, Endpoint, Found, Host};
use crate::error::Error;

pub(super) struct Authenticator<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) host: &'a Host,
    /// Where the password came from that was sent.
    pub(super) password_from: Option<String>,
}

impl Authenticator<'_> {
    /// Talks until the server says that all is well.
    pub(super) async fn run(&mut self, wire: &mut Wire) -> Result<(), Error> {
        let mut bound = false;
        loop {
            match wire.receive().await? {
                Message::AuthenticationOk => {
                    if !bound && self.endpoint.channel_binding == ChannelBinding::Require {
                        return Err(self.unbound());
                    }
                    return Ok(());
                }
                Message::AuthenticationCleartextPassword => {
                    self.refuse_unbound()?;
                    if !wire.stream.is_private() {
                        return Err(self.failed_with(
                            "the server asks for the password in the clear over an unencrypted connection",
                            "use sslmode=require or stronger, or a \"scram-sha-256\" line in pg_hba.conf",
                        ));
                    }
                    let found = self.password()?;
                    self.send_password(wire, found.secret.bytes()).await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    self.refuse_unbound()?;
                    let found = self.password()?;
                    let hashed = md5_hash(self.endpoint.user.as_bytes(), found.secret.bytes(), body.salt());
                    self.send_password(wire, hashed.as_bytes()).await?;
                }
                Message::AuthenticationSasl(body) => bound = self.scram(wire, &body).await?,
                Message::ErrorResponse(body) => {
                    return Err(refused(self.endpoint, self.host, self.password_from.take(), body.fields()));
                }
                Message::AuthenticationGss
                | Message::AuthenticationSspi
                | Message::AuthenticationKerberosV5 => {
                    return Err(self.failed_with(
                        "the server asks for GSSAPI or SSPI, which is not supported",
                        "use \"scram-sha-256\" or \"cert\" in pg_hba.conf for this role",
                    ));
                }
                _ => return Err(Error::protocol("an unexpected message during authentication")),
            }
        }
    }

    async fn send_password(&self, wire: &mut Wire, password: &[u8]) -> Result<(), Error> {
        let mut buf = BytesMut::new();
        frontend::password_message(password, &mut buf)
            .map_err(|_| self.failed("the password holds a NUL byte"))?;
        wire.send(&buf).await
    }

    /// Whether the exchange was bound to the channel.
    async fn scram(&mut self, wire: &mut Wire, body: &AuthenticationSaslBody) -> Result<bool, Error> {
        let (mut plain, mut plus) = (false, false);
        let mut mechanisms = body.mechanisms();
        while let Some(mechanism) = mechanisms.next().map_err(|error| Error::protocol(error.to_string()))? {
            plain |= mechanism == sasl::SCRAM_SHA_256;
            plus |= mechanism == sasl::SCRAM_SHA_256_PLUS;
        }
        let digest = match &wire.stream {
            Stream::Tls(stream) if self.endpoint.channel_binding != ChannelBinding::Disable => {
                end_point_digest(stream)
            }
            _ => None,
        };
        let (binding, bound) = match digest {
            Some(digest) if plus => (sasl::ChannelBinding::tls_server_end_point(digest), true),
            // Tells the server that we could have, so that it notices if somebody took its offer away.
            Some(_) => (sasl::ChannelBinding::unrequested(), false),
            None => (sasl::ChannelBinding::unsupported(), false),
        };
        if !bound {
            self.refuse_unbound()?;
            if !plain {
                return Err(self.failed("the server offers no SASL mechanism that is supported"));
            }
        }
        let found = self.password()?;
        let mut scram = ScramSha256::new(found.secret.bytes(), binding);
        let mechanism = if bound { sasl::SCRAM_SHA_256_PLUS } else { sasl::SCRAM_SHA_256 };
        let mut buf = BytesMut::new();
        frontend::sasl_initial_response(mechanism, scram.message(), &mut buf)?;
        wire.send(&buf).await?;

        let bad = |what: &str, error: std::io::Error| self.failed(format!("{what}: {error}"));
        match wire.receive().await? {
            Message::AuthenticationSaslContinue(body) => {
                scram
                    .update(body.data())
                    .map_err(|error| bad("the server's SCRAM challenge is not valid", error))?;
            }
            Message::ErrorResponse(body) => {
                return Err(refused(self.endpoint, self.host, self.password_from.take(), body.fields()));
            }
            _ => return Err(Error::protocol("an unexpected message during SCRAM")),
        }
        buf.clear();
        frontend::sasl_response(scram.message(), &mut buf)?;
        wire.send(&buf).await?;
        match wire.receive().await? {
            Message::AuthenticationSaslFinal(body) => {
                scram.finish(body.data()).map_err(|error| {
                    bad("the server does not prove that it knows the password's verifier", error)
                })?;
            }
            Message::ErrorResponse(body) => {
                return Err(refused(self.endpoint, self.host, self.password_from.take(), body.fields()));
            }
            _ => return Err(Error::protocol("an unexpected message during SCRAM")),
        }
        Ok(bound)
    }

    fn password(&mut self) -> Result<Found, Error> {
        let login = Login { host: self.host, database: &self.endpoint.database, user: &self.endpoint.user };
        match self.endpoint.passwords.find(&login)? {
            Ok(found) => {
                self.password_from = Some(found.from.clone());
                Ok(found)
            }
            Err(looked_in) => Err(Error::PasswordMissing {
                host: self.host.to_string(),
                role: self.endpoint.user.clone(),
                looked_in,
            }),
        }
    }

    fn refuse_unbound(&self) -> Result<(), Error> {
        if self.endpoint.channel_binding == ChannelBinding::Require { Err(self.unbound()) } else { Ok(()) }
    }

    fn unbound(&self) -> Error {
        self.failed_with(
            "channel binding is required, and the server did not use it",
            "it needs TLS, and \"scram-sha-256\" in pg_hba.conf with a SCRAM verifier of the role's password",
        )
    }

    fn failed(&self, reason: impl Into<String>) -> Error {
        Error::Authentication {
            host: self.host.to_string(),
            role: self.endpoint.user.clone(),
            reason: reason.into(),
            remedy: None,
        }
    }

    fn failed_with(&self, reason: &str, remedy: &str) -> Error {
        Error::Authentication {
            host: self.host.to_string(),
            role: self.endpoint.user.clone(),
            reason: reason.into(),
            remedy: Some(remedy.into()),
        }
    }
}
