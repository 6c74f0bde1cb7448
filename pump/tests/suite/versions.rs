//! Peers that speak another version, or are not what they should be.

use std::sync::Arc;

use irongate_pump::wire::{Code, Decoder, Encoder, Frame, Greeting, Preface, Role, VERSION};
use irongate_pump::{Credentials, Error};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsStream;

use crate::support::{World, collector, listener, pump};
use crate::trail::Source;

type Material = (rustls::RootCertStore, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn material(credentials: Credentials) -> Material {
    let Credentials::Certificates { authority, certificate, key } = credentials else {
        panic!("certificates")
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
    (roots, chain, PrivateKeyDer::from_pem_file(key).unwrap())
}

fn builder() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Speaks to a collector with a pump's certificate.
async fn as_pump(world: &World, address: std::net::SocketAddr) -> TlsStream<TcpStream> {
    let (roots, chain, key) = material(world.credentials(0));
    let config = rustls::ClientConfig::builder_with_provider(builder())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    let socket = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("secondary").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap().into()
}

/// Serves one pump with a collector's certificate, and says what it was told.
async fn as_collector(
    world: &World,
    says: Vec<u8>,
) -> (std::net::SocketAddr, tokio::task::JoinHandle<Vec<u8>>) {
    let (_, chain, key) = material(world.credentials(1));
    let config = rustls::ServerConfig::builder_with_provider(builder())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut stream = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(socket).await.unwrap();
        stream.write_all(&says).await.unwrap();
        stream.flush().await.unwrap();
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await;
        heard
    });
    (address, task)
}

/// What a side was told last.
fn refusal(heard: &[u8]) -> Option<(Code, String)> {
    let mut decoder = Decoder::default();
    decoder.space(heard.len()).extend_from_slice(heard);
    assert_eq!(decoder.preface().unwrap().unwrap().version, VERSION);
    let mut found = None;
    while let Some(frame) = decoder.next().unwrap() {
        if let Frame::Refused(refused) = frame {
            assert!(!refused.transient && !refused.remedy.is_empty());
            found = Some((refused.code, refused.message));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_version_of_the_protocol_is_refused_by_both_sides_and_both_say_so() {
    let world = World::new();
    Source::create(&world.near(), 1).write(5);
    let (listening, address) = listener().await;
    let running = collector(world.collector_settings(), Some(listening));
    let later = Preface { version: 2, role: Role::Pump }.encode();
    for (says, code, words) in [
        (later, Code::Version, "speaks version 2 of the protocol, this side version 1"),
        (Preface::of(Role::Collector).encode(), Code::Malformed, "is a collector, not a pump"),
    ] {
        let mut stream = as_pump(&world, address).await;
        stream.write_all(&says).await.unwrap();
        stream.flush().await.unwrap();
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await;
        let (found, message) = refusal(&heard).unwrap();
        assert!(found == code && message.contains(words), "{message}");
    }
    running.stop().await.unwrap();
    assert!(!world.far().join("000000001.trail").exists());

    let (address, serving) =
        as_collector(&world, Preface { version: 2, role: Role::Collector }.encode().to_vec()).await;
    let error = pump(world.pump_settings(address)).ends().await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Version), "{error}");
    assert!(!error.is_transient() && error.hint().is_some());
    assert_eq!(refusal(&serving.await.unwrap()).unwrap().0, Code::Version);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_of_another_deployment_or_site_is_not_given_anything() {
    let world = World::new();
    Source::create(&world.near(), 1).write(5);
    for (deployment, site, code) in
        [("library", "secondary", Code::Deployment), ("shop", "third", Code::Site)]
    {
        let greeting = Greeting {
            deployment: deployment.to_owned(),
            site: site.to_owned(),
            group: "collector".to_owned(),
        };
        let mut says = Preface::of(Role::Collector).encode().to_vec();
        Encoder::default().append(&Frame::Greeting(greeting), &mut says);
        let (address, serving) = as_collector(&world, says).await;
        let error = pump(world.pump_settings(address)).ends().await.unwrap_err();
        assert_eq!(error.code(), Some(code), "{error}");
        assert!(matches!(error, Error::Refusing { .. }) && !error.is_transient());
        assert_eq!(refusal(&serving.await.unwrap()).unwrap().0, code);
    }
}
