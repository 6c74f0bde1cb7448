//! TLS: what the address's parameters mean, and the handshake. libpq's rules (PostgreSQL manual, "SSL Support") on
//! rustls with its ring provider.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::oid::db::rfc5912;

use super::stream::Stream;
use super::verify::{Policy, Verifier};
use crate::endpoint::{
    Endpoint, Host, Negotiation, RootCertificates, SslMode, TlsSettings, TlsVersion, check_key_permissions,
};
use crate::error::Error;

/// The protocol's name in the handshake of direct TLS.
const ALPN: &[u8] = b"postgresql";

/// Everything for the handshakes of one endpoint.
pub(crate) struct Client {
    /// None where no host is reached over TLS.
    config: Option<Arc<ClientConfig>>,
    policy: Policy,
    direct: bool,
}

impl Client {
    /// Reads certificates and key.
    pub(super) async fn new(endpoint: &Endpoint) -> Result<Self, Error> {
        let settings = &endpoint.tls;
        let direct = settings.negotiation == Negotiation::Direct;
        if settings.mode == SslMode::Disable
            || !endpoint.hosts.iter().any(|host| matches!(host, Host::Tcp { .. }))
        {
            return Ok(Self { config: None, policy: Policy::Nothing, direct });
        }
        let roots = root_certificates(settings).await?;
        let policy = match settings.mode {
            SslMode::VerifyFull => Policy::ChainAndName,
            SslMode::VerifyCa => Policy::Chain,
            _ if roots.is_some() => Policy::Chain,
            _ => Policy::Nothing,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = verifier(policy, roots.unwrap_or_default(), settings, &provider)?;
        let versions: &[&rustls::SupportedProtocolVersion] = match settings.least_version {
            TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| Error::invalid(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match client_certificate(settings)? {
            None => builder.with_no_client_auth(),
            Some((path, chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| {
                Error::file(path, format!("certificate and key cannot be used together: {error}"))
            })?,
        };
        config.enable_sni = settings.sni;
        config.resumption = Resumption::disabled();
        if direct {
            config.alpn_protocols = vec![ALPN.to_vec()];
        }
        Ok(Self { config: Some(Arc::new(config)), policy, direct })
    }

    /// Encrypts a socket; one whose server does not offer that stays as it is if `optional`.
    pub(super) async fn negotiate(
        &self,
        mut socket: TcpStream,
        host: &Host,
        optional: bool,
    ) -> Result<Stream, Error> {
        let Some(config) = &self.config else { return Ok(Stream::Tcp(socket)) };
        let unreachable = |source| Error::Unreachable { host: host.to_string(), source };
        if !self.direct {
            let mut request = BytesMut::new();
            frontend::ssl_request(&mut request);
            socket.write_all(&request).await.map_err(unreachable)?;
            // One byte and no more: what follows in the clear must not be taken for the encrypted stream.
            match socket.read_u8().await.map_err(unreachable)? {
                b'S' => {}
                b'N' if optional => return Ok(Stream::Tcp(socket)),
                b'N' => {
                    return Err(failed(
                        host,
                        "the server does not offer TLS",
                        Some(
                            "set \"ssl = on\" at the server; sslmode=prefer also accepts connections without TLS",
                        ),
                    ));
                }
                // A server that cannot even fork answers with an error in the clear, which nobody vouches for.
                b'E' => {
                    return Err(unreachable(io::Error::other(
                        "the server reports an error instead of beginning TLS",
                    )));
                }
                _ => return Err(failed(host, "the other side does not speak PostgreSQL's protocol", None)),
            }
        }
        let name = self.server_name(host, &socket)?;
        match TlsConnector::from(Arc::clone(config)).connect(name, socket).await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err(error) => Err(handshake_error(host, error)),
        }
    }

    /// The name for certificate and SNI. Where the certificate's name does not matter, a host name that no
    /// certificate could hold gives way to the address.
    fn server_name(&self, host: &Host, socket: &TcpStream) -> Result<ServerName<'static>, Error> {
        let Host::Tcp { name, .. } = host else { return Err(failed(host, "a socket has no name", None)) };
        match ServerName::try_from(name.clone()) {
            Ok(name) => Ok(name),
            Err(_) if self.policy == Policy::ChainAndName => {
                Err(failed(host, "the host's name cannot be in a certificate", None))
            }
            Err(_) => {
                let address = socket
                    .peer_addr()
                    .map_err(|source| Error::Unreachable { host: host.to_string(), source })?;
                Ok(ServerName::IpAddress(address.ip().into()))
            }
        }
    }
}

fn failed(host: &Host, reason: impl Into<String>, remedy: Option<&str>) -> Error {
    Error::Tls {
        host: host.to_string(),
        reason: reason.into(),
        remedy: remedy.map(ToOwned::to_owned),
        transient: false,
    }
}

/// Whether an error of a stream is one of TLS.
pub(super) fn is_of_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

/// What a failed handshake means. Also for alerts that arrive behind it: with TLS 1.3 a server looks at our
/// certificate only then.
pub(super) fn handshake_error(host: &Host, error: io::Error) -> Error {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return Error::Tls {
            host: host.to_string(),
            reason: error.to_string(),
            remedy: None,
            transient: true,
        };
    };
    let (reason, remedy) = match tls {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::UnknownIssuer => (
                "no trusted authority has signed the server's certificate".to_owned(),
                Some("\"sslrootcert\" must name a file with the certificate of the authority that signed it"),
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
                "the server's certificate is for another host name".to_owned(),
                Some(
                    "use a name that the certificate holds, or sslmode=verify-ca if the authority signs nobody else",
                ),
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
                "the server's certificate has expired".to_owned(),
                Some("renew it; is this machine's clock right?"),
            ),
            CertificateError::Revoked => ("the server's certificate is revoked".to_owned(), None),
            CertificateError::UnknownRevocationStatus => (
                "no revocation list says whether the server's certificate is revoked".to_owned(),
                Some("\"sslcrl\" must hold a current list of every authority of the chain"),
            ),
            other => (format!("the server's certificate cannot be used: {other:?}"), None),
        },
        rustls::Error::AlertReceived(alert) => (
            format!("the server refuses: {alert:?}"),
            Some(
                "does the server trust the authority that signed the client certificate (its \"ssl_ca_file\")?",
            ),
        ),
        rustls::Error::General(text) => (
            text.clone(),
            (text == super::verify::VERSION_ONE)
                .then_some("make it again with an extension, such as subjectAltName with the host's name"),
        ),
        other => (other.to_string(), None),
    };
    failed(host, reason, remedy)
}

async fn root_certificates(settings: &TlsSettings) -> Result<Option<Vec<CertificateDer<'static>>>, Error> {
    match &settings.roots {
        RootCertificates::File(path) => certificates(path).map(Some),
        RootCertificates::System => {
            let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await.map_err(
                |error| Error::invalid(format!("the system's certificates cannot be read: {error}")),
            )?;
            if found.certs.is_empty() {
                return Err(Error::invalid_with(
                    "the system has no root certificates, and sslrootcert is \"system\"",
                    "install the package \"ca-certificates\" or name a file",
                ));
            }
            Ok(Some(found.certs))
        }
        RootCertificates::Default => match users_file("root.crt").filter(|path| path.exists()) {
            Some(path) => certificates(&path).map(Some),
            None if matches!(settings.mode, SslMode::VerifyCa | SslMode::VerifyFull) => {
                Err(Error::invalid_with(
                    format!(
                        "sslmode \"{}\" needs root certificates, and none are named",
                        settings.mode.as_str()
                    ),
                    "add sslrootcert=FILE with the certificate of the authority, or sslrootcert=system for public ones",
                ))
            }
            None => Ok(None),
        },
    }
}

/// A file where libpq looks for it by itself.
fn users_file(name: &str) -> Option<PathBuf> {
    std::env::var_os("HOME").map(|home| Path::new(&home).join(".postgresql").join(name))
}

fn pem_error(path: &Path, error: &rustls_pki_types::pem::Error) -> Error {
    match error {
        rustls_pki_types::pem::Error::Io(error) => Error::file(path, error.to_string()),
        // The parser's own words quote the file, which may be a key.
        _ => Error::file(path, "it is not a valid PEM file"),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| pem_error(path, &error))?;
    if found.is_empty() {
        return Err(Error::file(path, "it holds no certificate"));
    }
    Ok(found)
}

type ClientCertificate = (PathBuf, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_certificate(settings: &TlsSettings) -> Result<Option<ClientCertificate>, Error> {
    let path = match &settings.certificate {
        Some(path) => path.clone(),
        None => match users_file("postgresql.crt").filter(|path| path.exists()) {
            Some(path) => path,
            None => return Ok(None),
        },
    };
    let key_path = settings
        .key
        .clone()
        .or_else(|| users_file("postgresql.key").filter(|path| path.exists()))
        .ok_or_else(|| Error::invalid_with("it names a client certificate and no key", "add sslkey=FILE"))?;
    let chain = certificates(&path)?;
    let file = std::fs::File::open(&key_path).map_err(|error| Error::file(&key_path, error.to_string()))?;
    check_key_permissions(&key_path, &file)?;
    let key = PrivateKeyDer::from_pem_reader(io::BufReader::new(file)).map_err(|error| match error {
        rustls_pki_types::pem::Error::NoItemsFound => Error::file(
            &key_path,
            "it holds no private key that is stored unencrypted (PKCS#8, PKCS#1 or SEC1 PEM)",
        ),
        error => pem_error(&key_path, &error),
    })?;
    Ok(Some((path, chain, key)))
}

fn verifier(
    policy: Policy,
    roots: Vec<CertificateDer<'static>>,
    settings: &TlsSettings,
    provider: &Arc<CryptoProvider>,
) -> Result<Verifier, Error> {
    let algorithms = provider.signature_verification_algorithms;
    if policy == Policy::Nothing {
        return Ok(Verifier { policy, chain: None, trusted: Vec::new(), algorithms });
    }
    let mut store = RootCertStore::empty();
    let (usable, _) = store.add_parsable_certificates(roots.iter().cloned());
    if usable == 0 {
        return Err(Error::invalid("none of the root certificates can be used"));
    }
    let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider));
    if let Some(path) = &settings.revoked {
        let lists = CertificateRevocationListDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| pem_error(path, &error))?;
        builder = builder.with_crls(lists);
    }
    let chain = builder
        .build()
        .map_err(|error| Error::invalid(format!("the revocation list is not valid: {error}")))?;
    Ok(Verifier { policy, chain: Some(chain), trusted: roots, algorithms })
}

/// The channel binding data of type `tls-server-end-point` (RFC 5929): a hash of the server's certificate by the
/// hash of its signature. None where the signature names no hash that is known.
pub(super) fn end_point_digest(stream: &TlsStream<TcpStream>) -> Option<Vec<u8>> {
    let (_, session) = stream.get_ref();
    digest_of(session.peer_certificates()?.first()?)
}

fn digest_of(certificate: &[u8]) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let algorithm = match parsed.signature_algorithm.oid {
        // Its parameters name the hash first of all: SEQUENCE { [0] { SEQUENCE { OID ... } } ... }.
        rfc5912::ID_RSASSA_PSS => pss_hash(&parsed)?,
        other => other,
    };
    match algorithm {
        // MD5 and SHA-1 give way to SHA-256 by the RFC.
        rfc5912::ID_MD_5
        | rfc5912::ID_SHA_1
        | rfc5912::MD_5_WITH_RSA_ENCRYPTION
        | rfc5912::SHA_1_WITH_RSA_ENCRYPTION
        | rfc5912::ID_SHA_256
        | rfc5912::SHA_256_WITH_RSA_ENCRYPTION
        | rfc5912::ECDSA_WITH_SHA_256 => Some(Sha256::digest(certificate).to_vec()),
        rfc5912::ID_SHA_384 | rfc5912::SHA_384_WITH_RSA_ENCRYPTION | rfc5912::ECDSA_WITH_SHA_384 => {
            Some(Sha384::digest(certificate).to_vec())
        }
        rfc5912::ID_SHA_512 | rfc5912::SHA_512_WITH_RSA_ENCRYPTION | rfc5912::ECDSA_WITH_SHA_512 => {
            Some(Sha512::digest(certificate).to_vec())
        }
        _ => None,
    }
}

fn pss_hash(certificate: &Certificate) -> Option<ObjectIdentifier> {
    use x509_cert::der::asn1::{AnyRef, ContextSpecific};
    use x509_cert::der::{Reader, SliceReader};
    use x509_cert::spki::AlgorithmIdentifierRef;

    let parameters = certificate.signature_algorithm.parameters.as_ref()?;
    let mut reader = SliceReader::new(parameters.value()).ok()?;
    if reader.is_finished() {
        // The default is SHA-1.
        return Some(rfc5912::ID_SHA_1);
    }
    let first = ContextSpecific::<AnyRef<'_>>::decode(&mut reader).ok()?;
    if first.tag_number.value() != 0 {
        return Some(rfc5912::ID_SHA_1);
    }
    let hash: AlgorithmIdentifierRef<'_> = first.value.decode_as().ok()?;
    Some(hash.oid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["h".to_owned()]).unwrap();
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn channel_binding_hashes_the_certificate_as_its_signature_does() {
        let der = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(digest_of(&der), Some(Sha256::digest(&der).to_vec()));
        let der = certificate(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(digest_of(&der), Some(Sha384::digest(&der).to_vec()));
        assert_eq!(digest_of(&certificate(&rcgen::PKCS_ED25519)), None);
        assert_eq!(digest_of(b"no certificate"), None);
    }
}
