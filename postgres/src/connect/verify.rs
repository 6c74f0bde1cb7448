//! Whether a server's certificate is to be trusted, by libpq's rules.
//!
//! webpki checks chains and names. Three things that OpenSSL (and so libpq) accepts and webpki does not are common
//! with PostgreSQL, because its manual's recipes make such certificates, and are added here:
//!
//! * a certificate that is itself in the file of trusted ones (a self-signed server certificate, which `openssl req
//!   -x509` marks as an authority);
//! * a name that is only in the subject's common name, where the certificate has no alternative names at all;
//! * `verify-ca`: a chain without a look at the name.
//!
//! The handshake's signature is always checked, also where the certificate is not: channel binding would prove
//! nothing about a peer that only shows somebody's certificate.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// The reason for refusing what webpki cannot check.
pub(super) const VERSION_ONE: &str =
    "the server's certificate is of X.509 version 1, which cannot be verified";

/// What is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Policy {
    Nothing,
    Chain,
    ChainAndName,
}

#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) policy: Policy,
    /// None where nothing is checked.
    pub(super) chain: Option<Arc<WebPkiServerVerifier>>,
    /// The trusted certificates themselves.
    pub(super) trusted: Vec<CertificateDer<'static>>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = self.chain.as_ref().filter(|_| self.policy != Policy::Nothing) else {
            return Ok(ServerCertVerified::assertion());
        };
        let name_result = if self.trusted.iter().any(|trusted| trusted.as_ref() == end_entity.as_ref()) {
            check_dates(end_entity, now)?;
            let parsed = ParsedCertificate::try_from(end_entity)?;
            rustls::client::verify_server_name(&parsed, server_name)
        } else {
            if is_version_one(end_entity) {
                return Err(Error::General(VERSION_ONE.into()));
            }
            chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now).map(|_| ())
        };
        match name_result {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            // webpki looks at the name last: everything else is in order.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.policy == Policy::Chain || common_name_fits(end_entity, server_name) => {
                Ok(ServerCertVerified::assertion())
            }
            Err(error) => Err(error),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // webpki does not read certificates of version 1; their key is like any other.
        if is_version_one(cert)
            && let Some(key) = public_key(cert)
        {
            return verify_tls13_signature_with_raw_key(message, &key, dss, &self.algorithms);
        }
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn is_version_one(certificate: &[u8]) -> bool {
    Certificate::from_der(certificate).is_ok_and(|parsed| parsed.tbs_certificate.version == Version::V1)
}

fn public_key(certificate: &[u8]) -> Option<SubjectPublicKeyInfoDer<'static>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    Some(parsed.tbs_certificate.subject_public_key_info.to_der().ok()?.into())
}

fn check_dates(certificate: &[u8], now: UnixTime) -> Result<(), Error> {
    let parsed = Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let validity = parsed.tbs_certificate.validity;
    if now.as_secs() < validity.not_before.to_unix_duration().as_secs() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// Whether the subject's common name is the host's, in a certificate that has no alternative name of a host. The
/// name of an address is compared as text.
fn common_name_fits(certificate: &[u8], server_name: &ServerName<'_>) -> bool {
    let Ok(parsed) = Certificate::from_der(certificate) else { return false };
    match parsed.tbs_certificate.get::<SubjectAltName>() {
        Ok(None) => {}
        Ok(Some((_, SubjectAltName(names)))) => {
            let of_a_host =
                |name: &GeneralName| matches!(name, GeneralName::DnsName(_) | GeneralName::IpAddress(_));
            if names.iter().any(of_a_host) {
                return false;
            }
        }
        Err(_) => return false,
    }
    let Some(common_name) = common_name(&parsed) else { return false };
    match server_name {
        ServerName::DnsName(name) => pattern_fits(&common_name, name.as_ref()),
        ServerName::IpAddress(address) => common_name == std::net::IpAddr::from(*address).to_string(),
        _ => false,
    }
}

fn common_name(certificate: &Certificate) -> Option<String> {
    use x509_cert::der::oid::db::rfc4519::CN;
    let subject = &certificate.tbs_certificate.subject;
    let attribute =
        subject.0.iter().flat_map(|names| names.0.iter()).rfind(|attribute| attribute.oid == CN)?;
    let text = std::str::from_utf8(attribute.value.value()).ok()?;
    (!text.contains('\0')).then(|| text.to_owned())
}

/// A name, or a pattern whose first label is `*`, which stands for one label and nothing else.
fn pattern_fits(pattern: &str, name: &str) -> bool {
    if pattern.eq_ignore_ascii_case(name) {
        return true;
    }
    let (Some(("*", pattern_rest)), Some((first, name_rest))) =
        (pattern.split_once('.'), name.split_once('.'))
    else {
        return false;
    };
    !first.is_empty() && pattern_rest.contains('.') && pattern_rest.eq_ignore_ascii_case(name_rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_one_label() {
        assert!(pattern_fits("DB.example.org", "db.Example.org"));
        assert!(pattern_fits("*.example.org", "db.example.org"));
        for (pattern, name) in [
            ("*.example.org", "a.b.example.org"),
            ("*.example.org", "example.org"),
            ("*.example.org", ".example.org"),
            ("*", "db"),
            ("*.org", "example.org"),
            ("d*.example.org", "db.example.org"),
        ] {
            assert!(!pattern_fits(pattern, name), "{pattern} {name}");
        }
    }

    fn certificate(common_name: &str, alternative: &[&str]) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = alternative.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = rcgen::CertificateParams::new(names).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_common_name_counts_only_without_alternative_names() {
        let name = ServerName::try_from("db.example.org").unwrap();
        let address = ServerName::try_from("10.0.0.1").unwrap();
        assert!(common_name_fits(&certificate("db.example.org", &[]), &name));
        assert!(!common_name_fits(&certificate("other.example.org", &[]), &name));
        assert!(!common_name_fits(&certificate("db.example.org", &["other.example.org"]), &name));
        assert!(common_name_fits(&certificate("10.0.0.1", &[]), &address));
        assert!(!common_name_fits(b"nothing", &name));
    }
}
