//! Whoever cannot prove to be the other site learns why, and nothing is written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use irongate_checkpoint::State;
use irongate_pump::wire::Code;
use irongate_pump::{Credentials, Error, Meeting, TlsReason};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{World, collector, listener, listening_pump, pump, until};
use crate::trail::Source;

/// Another authority, or ours as somebody else would use it.
struct Authority {
    file: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(directory: &Path) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, "another");
        let key = KeyPair::generate().unwrap();
        let file = directory.join("another.crt");
        std::fs::write(&file, parameters.self_signed(&key).unwrap().pem()).unwrap();
        Self { file, issuer: Issuer::new(parameters, key) }
    }

    /// The world's own authority.
    fn of(world: &World) -> Self {
        let key = std::fs::read_to_string(&world.certificates.authority_key).unwrap();
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, "Irongate shop");
        let issuer = Issuer::new(parameters, KeyPair::from_pem(&key).unwrap());
        Self { file: world.certificates.authority.clone(), issuer }
    }

    fn sign(&self, directory: &Path, name: &str, until: i32) -> Credentials {
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
        parameters
            .extended_key_usages
            .extend([ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]);
        let key = KeyPair::generate().unwrap();
        let certificate = directory.join(format!("{name}-{until}.crt"));
        let key_file = directory.join(format!("{name}-{until}.key"));
        std::fs::write(&certificate, parameters.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&key_file, mode).unwrap();
        Credentials::Certificates { authority: self.file.clone(), certificate, key: key_file }
    }
}

/// The words that a pump ends with which meets a collector of these credentials.
async fn met(world: &World, near: Credentials, far: Credentials) -> Error {
    let (listening, address) = listener().await;
    let mut settings = world.collector_settings();
    settings.link.credentials = far;
    let running = collector(settings, Some(listening));
    let mut settings = world.pump_settings(address);
    settings.link.credentials = near;
    let error = pump(settings).ends().await.unwrap_err();
    assert!(!error.is_transient() && error.hint().is_some(), "{error}");
    assert!(!running.has_ended(), "one bad guest does not end a collector");
    running.stop().await.unwrap();
    assert!(!world.far().join("000000001.trail").exists(), "nothing is written");
    assert_eq!(world.pump_status().state, State::Abended);
    error
}

fn of_tls(error: Error) -> TlsReason {
    match error {
        Error::Tls { reason, .. } => reason,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_not_the_other_site_s_is_refused_in_clear_words() {
    let world = World::new();
    Source::create(&world.near(), 1).write(5);
    let dir = world.dir.path();
    let (ours, another) = (Authority::of(&world), Authority::new(dir));
    let (near, far) = (world.credentials(0), world.credentials(1));
    // The pump looks at the collector's.
    let error = met(&world, near.clone(), ours.sign(dir, "secondary", 2021)).await;
    assert!(error.to_string().contains("certificate expired"), "{error}");
    assert_eq!(of_tls(error), TlsReason::Expired);
    let error = met(&world, near.clone(), another.sign(dir, "secondary", 2090)).await;
    assert!(error.to_string().contains("unknown CA"), "{error}");
    assert_eq!(of_tls(error), TlsReason::UnknownAuthority);
    let error = met(&world, near.clone(), ours.sign(dir, "third", 2090)).await;
    assert!(
        error.to_string().contains("wrong name: the certificate is not for site \"secondary\""),
        "{error}"
    );
    // The collector looks at the pump's, and the pump learns what it found.
    let error = met(&world, ours.sign(dir, "main", 2021), far.clone()).await;
    assert_eq!(of_tls(error), TlsReason::Alert("certificate expired"));
    let Credentials::Certificates { certificate, key, .. } = another.sign(dir, "main", 2091) else {
        panic!("certificates")
    };
    let authority = world.certificates.authority.clone();
    let stranger = Credentials::Certificates { authority, certificate, key };
    assert_eq!(of_tls(met(&world, stranger, far.clone()).await), TlsReason::Alert("unknown CA"));
    let error = met(&world, ours.sign(dir, "third", 2091), far).await;
    assert_eq!(error.code(), Some(Code::Site));
    assert!(error.to_string().contains("wrong name"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pump_that_listens_turns_away_whoever_is_not_its_collector_and_goes_on() {
    let world = World::new();
    let mut source = Source::create(&world.near(), 1);
    source.write(5);
    let (listening, address) = listener().await;
    let mut settings = world.pump_settings(address);
    settings.meeting = Meeting::Listen(address.to_string());
    let pump = listening_pump(settings, listening);
    // Who says nothing keeps nobody waiting: all of this is over before they are given up.
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let begin = std::time::Instant::now();
    let mut stranger = TcpStream::connect(address).await.unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _ = stranger.read_to_end(&mut Vec::new()).await;
    // One of our sites, and not the right one.
    let third = Authority::of(&world).sign(world.dir.path(), "third", 2090);
    let mut settings = world.collector_settings();
    settings.link.credentials = third;
    settings.connect.push(("main".to_owned(), address.to_string()));
    let wrong = collector(settings, None);
    until("it says so", || world.pump_status().doing.contains("wrong name")).await;
    wrong.stop().await.unwrap();
    assert!(!pump.has_ended() && !world.far().join("000000001.trail").exists());
    let mut settings = world.collector_settings();
    settings.connect.push(("main".to_owned(), address.to_string()));
    let right = collector(settings, None);
    world.arrives().await;
    let took = begin.elapsed();
    assert!(took < std::time::Duration::from_secs(20), "one after the other: {took:?}");
    drop(silent);
    pump.stop().await.unwrap();
    right.stop().await.unwrap();
}

fn old_tls(world: &World) -> (Arc<rustls::ClientConfig>, Arc<rustls::ServerConfig>) {
    use rustls_pki_types::pem::PemObject;
    let Credentials::Certificates { authority, certificate, key } = world.credentials(1) else {
        panic!("certificates")
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let chain = vec![rustls_pki_types::CertificateDer::from_pem_file(certificate).unwrap()];
    let key = rustls_pki_types::PrivateKeyDer::from_pem_file(key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = &[&rustls::version::TLS12];
    let client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain.clone(), key.clone_key())
        .unwrap();
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    (Arc::new(client), Arc::new(server))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_tls_is_not_spoken_by_either_side() {
    let world = World::new();
    Source::create(&world.near(), 1).write(5);
    let (client, server) = old_tls(&world);
    // A server of TLS 1.2.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let _ = tokio_rustls::TlsAcceptor::from(Arc::clone(&server)).accept(socket).await;
        }
    });
    let error = pump(world.pump_settings(address)).ends().await.unwrap_err();
    assert_eq!(of_tls(error), TlsReason::Version);
    serving.abort();
    // A client of TLS 1.2, and one of none at all.
    let (listening, address) = crate::support::listener().await;
    let running = collector(world.collector_settings(), Some(listening));
    let socket = TcpStream::connect(address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("secondary").unwrap();
    let error = tokio_rustls::TlsConnector::from(client).connect(name, socket).await.unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(&[0; 3000]).await.unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    assert!(answer.len() < 100, "an alert and nothing else");
    let pump = pump(world.pump_settings(address));
    world.arrives().await;
    pump.stop().await.unwrap();
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_speaks_in_the_clear_is_named_and_tried_again() {
    let world = World::new();
    Source::create(&world.near(), 1).write(5);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let running = pump(world.pump_settings(address));
    until("it says so", || {
        world.pump_status().error.is_some_and(|error| {
            error.message.contains("does not speak TLS") && error.transient && error.hint.is_some()
        })
    })
    .await;
    running.stop().await.unwrap();
    serving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_others_can_read_is_no_key() {
    let world = World::new();
    Source::create(&world.near(), 1).write(5);
    let key = &world.certificates.sites[0].key;
    std::fs::set_permissions(key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let error = pump(world.pump_settings("127.0.0.1:9".parse().unwrap())).ends().await.unwrap_err();
    assert!(error.to_string().contains("others can read this key (mode 644): chmod 600 it"), "{error}");
}
