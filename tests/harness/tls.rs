//! Certificates for one server's test.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::template::give_to_server;

/// A private CA, a server certificate for `localhost` and 127.0.0.1, and client certificates on demand.
#[derive(Debug)]
pub struct Tls {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Tls {
    /// Makes the CA and the server's files in `dir`.
    pub(crate) fn make(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap_or_else(|error| panic!("cannot make {dir:?}: {error}"));
        let issuer = authority("irongate test CA", &dir.join("ca.crt"));
        // A CA that signed nothing here: a client that trusts only this one has to refuse the server.
        authority("some other CA", &dir.join("other-ca.crt"));
        let tls = Tls { dir: dir.to_owned(), issuer };
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        tls.sign("server", "localhost", names, ExtendedKeyUsagePurpose::ServerAuth);
        give_to_server(&tls.dir.join("server.key"));
        tls
    }

    /// The CA's certificate: signs the server and is the server's CA of clients.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// The certificate of a CA that has signed nothing.
    pub fn other_ca(&self) -> PathBuf {
        self.dir.join("other-ca.crt")
    }

    /// Makes a client certificate for a role; returns the paths of certificate and key (PKCS #8, PEM).
    pub fn client(&self, role: &str) -> (PathBuf, PathBuf) {
        self.sign(role, role, Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)
    }

    pub(crate) fn server_file(&self, name: &str) -> String {
        self.dir.join(name).to_string_lossy().into_owned()
    }

    fn sign(
        &self,
        file: &str,
        common_name: &str,
        names: Vec<String>,
        usage: ExtendedKeyUsagePurpose,
    ) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(names)
            .unwrap_or_else(|error| panic!("cannot make a certificate for \"{common_name}\": {error}"));
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages.push(KeyUsagePurpose::DigitalSignature);
        params.extended_key_usages.push(usage);
        let key = new_key();
        let certificate = params
            .signed_by(&key, &self.issuer)
            .unwrap_or_else(|error| panic!("cannot sign the certificate for \"{common_name}\": {error}"));
        let paths = (self.dir.join(format!("{file}.crt")), self.dir.join(format!("{file}.key")));
        write(&paths.0, &certificate.pem());
        write(&paths.1, &key.serialize_pem());
        // Server and client libraries refuse a key that others may read.
        std::fs::set_permissions(&paths.1, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap_or_else(|error| panic!("cannot close {:?} to other users: {error}", paths.1));
        paths
    }
}

fn authority(name: &str, file: &Path) -> Issuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages.extend([KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign]);
    let key = new_key();
    let certificate =
        params.self_signed(&key).unwrap_or_else(|error| panic!("cannot make \"{name}\": {error}"));
    write(file, &certificate.pem());
    Issuer::new(params, key)
}

fn new_key() -> KeyPair {
    KeyPair::generate().unwrap_or_else(|error| panic!("cannot make a key: {error}"))
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("cannot write {path:?}: {error}"));
}
