//! Certificates for tests.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::{give_to_server, private_file};

/// A certificate authority with its certificate in a file.
pub(crate) struct Authority {
    pub(crate) file: PathBuf,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key in files.
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) serial: rcgen::SerialNumber,
}

fn authority_parameters(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters
}

pub(crate) fn authority(dir: &Path, name: &str) -> Authority {
    let parameters = authority_parameters(name);
    let key = KeyPair::generate().unwrap();
    let file = dir.join(format!("{name}.crt"));
    std::fs::write(&file, parameters.self_signed(&key).unwrap().pem()).unwrap();
    Authority { file, issuer: Issuer::new(parameters, key) }
}

impl Authority {
    /// Signs another authority.
    pub(crate) fn intermediate(&self, dir: &Path, name: &str) -> Self {
        let parameters = authority_parameters(name);
        let key = KeyPair::generate().unwrap();
        let file = dir.join(format!("{name}.crt"));
        std::fs::write(&file, parameters.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        Self { file, issuer: Issuer::new(parameters, key) }
    }

    /// Signs a certificate of a common name and alternative names.
    pub(crate) fn sign(&self, dir: &Path, file: &str, common_name: &str, names: &[&str]) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut parameters = parameters(common_name, names);
        let serial = rcgen::SerialNumber::from_slice(&[1, u8::try_from(file.len()).unwrap()]);
        parameters.serial_number = Some(serial.clone());
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        write(dir, file, &certificate.pem(), &key.serialize_pem(), serial)
    }
}

/// A certificate that nobody else has signed, marked as an authority, as `openssl req -x509` makes it.
pub(crate) fn self_signed(dir: &Path, file: &str, common_name: &str) -> Identity {
    let key = KeyPair::generate().unwrap();
    let mut parameters = parameters(common_name, &[]);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = parameters.self_signed(&key).unwrap();
    write(dir, file, &certificate.pem(), &key.serialize_pem(), rcgen::SerialNumber::from_slice(&[1]))
}

fn parameters(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names).unwrap();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters
}

fn write(dir: &Path, file: &str, certificate: &str, key: &str, serial: rcgen::SerialNumber) -> Identity {
    let path = dir.join(format!("{file}.crt"));
    std::fs::write(&path, certificate).unwrap();
    Identity { certificate: path, key: private_file(dir, &format!("{file}.key"), key), serial }
}

impl Identity {
    /// Makes it a server's: the settings that name it.
    pub(crate) fn server_settings(&self) -> [(&'static str, String); 3] {
        give_to_server(&self.key);
        let text = |path: &Path| path.to_string_lossy().into_owned();
        [("ssl", "on".into()), ("ssl_cert_file", text(&self.certificate)), ("ssl_key_file", text(&self.key))]
    }
}
