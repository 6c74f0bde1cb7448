//! TLS: certificates and keys out of files, and what a failed handshake means in plain words.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use irongate_trail::Timestamp;
use rustls::client::Resumption;
use rustls::server::WebPkiClientVerifier;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, PeerIncompatible, RootCertStore, ServerConfig,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::der::Decode;

use super::Speech;
use crate::error::{Error, TlsReason};
use crate::settings::Credentials;

const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

impl Speech {
    /// The protocol's name in the handshake, so that nothing else that listens takes the connection for its own.
    fn alpn(self) -> Vec<u8> {
        match self {
            Self::Trail => b"irongate".to_vec(),
            Self::Control => b"irongate-control".to_vec(),
        }
    }
}

type Identity = (RootCertStore, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

pub(super) fn client(credentials: &Credentials, speech: Speech) -> Result<Arc<ClientConfig>, Error> {
    let (roots, chain, key) = identity(credentials)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(VERSIONS)
        .map_err(|error| mismatch(credentials, &error))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| mismatch(credentials, &error))?;
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![speech.alpn()];
    Ok(Arc::new(config))
}

pub(super) fn server(credentials: &Credentials, speech: Speech) -> Result<Arc<ServerConfig>, Error> {
    let (roots, chain, key) = identity(credentials)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| {
            let Credentials::Certificates { authority, .. } = credentials;
            Error::File { path: authority.clone(), reason: error.to_string() }
        })?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(VERSIONS)
        .map_err(|error| mismatch(credentials, &error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| mismatch(credentials, &error))?;
    // Links live long, and each proves anew who is there.
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![speech.alpn()];
    Ok(Arc::new(config))
}

fn mismatch(credentials: &Credentials, error: &rustls::Error) -> Error {
    let Credentials::Certificates { certificate, .. } = credentials;
    let reason = format!("certificate and key cannot be used together: {error}");
    Error::File { path: certificate.clone(), reason }
}

fn identity(credentials: &Credentials) -> Result<Identity, Error> {
    let Credentials::Certificates { authority, certificate, key } = credentials;
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(certificates(authority)?);
    if usable == 0 {
        let reason = "it holds no certificate of an authority".to_owned();
        return Err(Error::File { path: authority.clone(), reason });
    }
    Ok((roots, certificates(certificate)?, private_key(key)?))
}

fn pem_error(path: &Path, error: &rustls_pki_types::pem::Error) -> Error {
    let reason = match error {
        rustls_pki_types::pem::Error::Io(error) => error.to_string(),
        // The parser's own words quote the file, which may be a key.
        _ => "it is not a valid PEM file".to_owned(),
    };
    Error::File { path: path.to_owned(), reason }
}

/// When the first certificate of a file ends, which is the one that is shown.
pub(crate) fn expiry(path: &Path) -> Result<Timestamp, Error> {
    let failed = || Error::File { path: path.to_owned(), reason: "it holds no X.509 certificate".to_owned() };
    let all = certificates(path)?;
    let der = all.first().ok_or_else(failed)?;
    let parsed = x509_cert::Certificate::from_der(der).map_err(|_| failed())?;
    let end = parsed.tbs_certificate.validity.not_after.to_unix_duration();
    let micros = i64::try_from(end.as_micros()).map_err(|_| failed())?;
    Ok(Timestamp(micros.saturating_sub(Timestamp(0).unix_micros())))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| pem_error(path, &error))?;
    if found.is_empty() {
        return Err(Error::File { path: path.to_owned(), reason: "it holds no certificate".to_owned() });
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let failed = |reason: String| Error::File { path: path.to_owned(), reason };
    let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    let facts = file.metadata().map_err(|error| failed(error.to_string()))?;
    // The rule of ssh and libpq: a key that others can read is no key. A group may read root's.
    let forbidden = if facts.uid() == 0 { 0o027 } else { 0o077 };
    if facts.mode() & forbidden != 0 {
        let mode = facts.mode() & 0o777;
        return Err(failed(format!("others can read this key (mode {mode:03o}): chmod 600 it")));
    }
    PrivateKeyDer::from_pem_reader(io::BufReader::new(file)).map_err(|error| match error {
        rustls_pki_types::pem::Error::NoItemsFound => failed(
            "it holds no private key that is stored unencrypted (PKCS#8, PKCS#1 or SEC1 PEM)".to_owned(),
        ),
        error => pem_error(path, &error),
    })
}

fn of_rustls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
}

/// What a failed handshake means.
pub(super) fn handshake_error(peer: &str, site: &str, error: io::Error) -> Error {
    match of_rustls(&error) {
        Some(tls) => Error::Tls { peer: peer.to_owned(), reason: reason(tls, site) },
        None => Error::lost(peer)(error),
    }
}

/// What an error of a stream means that was secure already: an alert comes from the other side, which has looked at our
/// certificate; anything else was changed on the way.
pub(crate) fn stream_error(peer: &str, error: io::Error) -> Error {
    match of_rustls(&error) {
        Some(tls @ rustls::Error::AlertReceived(_)) => {
            Error::Tls { peer: peer.to_owned(), reason: reason(tls, "") }
        }
        _ => Error::lost(peer)(error),
    }
}

fn reason(error: &rustls::Error, site: &str) -> TlsReason {
    match error {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsReason::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => TlsReason::NotYet,
            // An authority of the same name with another key signs what this one's key cannot verify.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsReason::UnknownAuthority,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                TlsReason::WrongName(site.to_owned())
            }
            other => TlsReason::BadCertificate(format!("{other:?}")),
        },
        rustls::Error::NoCertificatesPresented => {
            TlsReason::BadCertificate("the other side has shown none".to_owned())
        }
        rustls::Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        )
        | rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => TlsReason::Version,
        rustls::Error::NoApplicationProtocol
        | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => TlsReason::OtherProtocol,
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateExpired => TlsReason::Alert("certificate expired"),
            AlertDescription::UnknownCA => TlsReason::Alert("unknown CA"),
            AlertDescription::DecryptError => TlsReason::Alert("unknown CA, or another of the same name"),
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::AccessDenied => TlsReason::Alert("bad certificate"),
            AlertDescription::CertificateRevoked => TlsReason::Alert("certificate revoked"),
            other => TlsReason::NotTls(format!("alert {other:?}")),
        },
        other => TlsReason::NotTls(other.to_string()),
    }
}
