//! Every `sslmode`, certificates on both sides, channel binding.

use irongate_postgres::{Error, Frame, ReplicationConnection, Session, SlotOptions};
use irongate_trail::Timestamp;
use tempfile::TempDir;

use crate::authentication::{both_get_in, neither_gets_in};
use crate::support::certificates::{Authority, Identity, authority, self_signed};
use crate::support::{Server, Stop, any_major, directory, majors, private_file, set_mode};

struct Site {
    server: Server,
    dir: TempDir,
    ours: Authority,
    other: Authority,
}

impl Site {
    async fn new(access: &str) -> Self {
        Self::with(access, |ours, dir| ours.sign(dir, "server", "whatever", &["localhost"])).await
    }

    async fn with(access: &str, identity: impl Fn(&Authority, &std::path::Path) -> Identity) -> Self {
        Self::of(any_major(), access, identity).await
    }

    async fn of(
        major: u32,
        access: &str,
        identity: impl Fn(&Authority, &std::path::Path) -> Identity,
    ) -> Self {
        let dir = directory();
        let (ours, other) = (authority(dir.path(), "ours"), authority(dir.path(), "other"));
        let identity = identity(&ours, dir.path());
        let mut settings = identity.server_settings().to_vec();
        settings.push(("ssl_ca_file", ours.file.to_string_lossy().into_owned()));
        let settings: Vec<(&str, &str)> =
            settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let server = Server::start(major, &settings, access).await;
        Self { server, dir, ours, other }
    }

    fn endpoint(&self, host: &str, parameters: &str) -> irongate_postgres::Endpoint {
        self.server.host(host, "postgres", "postgres", parameters)
    }

    fn root(&self) -> String {
        format!("sslrootcert={}", self.ours.file.display())
    }
}

/// Whether a session is encrypted, and that the other kind is as well.
async fn encrypted(endpoint: &irongate_postgres::Endpoint) -> bool {
    const QUESTION: &str =
        "SELECT ssl::text FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()";
    let session = Session::connect(endpoint, "t").await.unwrap_or_else(|error| panic!("{error}"));
    let encrypted = session.query_one(QUESTION, &[]).await.unwrap().get::<_, &str>(0) == "true";
    let mut replication = ReplicationConnection::connect(endpoint, "t").await.unwrap();
    let rows = replication.query(QUESTION).await.unwrap();
    assert_eq!(rows.rows[0][0].as_deref() == Some("true"), encrypted);
    encrypted
}

const ANY: &str = "host all all 127.0.0.1/32 trust\nhost all all ::1/128 trust";

#[tokio::test]
async fn each_mode_does_what_the_manual_says_with_a_server_that_takes_both() {
    let site = Site::new(ANY).await;
    for (parameters, is_encrypted) in [
        ("sslmode=disable".to_owned(), false),
        ("sslmode=allow".into(), false),
        ("sslmode=prefer".into(), true),
        (String::new(), true),
        ("sslmode=require".into(), true),
        ("sslmode=require&ssl_min_protocol_version=TLSv1.3".into(), true),
        (format!("sslmode=require&{}", site.root()), true),
        (format!("sslmode=verify-ca&{}", site.root()), true),
        (format!("sslmode=verify-full&{}", site.root()), true),
        // libpq too goes on in the clear where TLS was only preferred.
        (format!("sslmode=prefer&sslrootcert={}", site.other.file.display()), false),
    ] {
        assert_eq!(encrypted(&site.endpoint("localhost", &parameters)).await, is_encrypted, "{parameters}");
    }
    // The name counts in verify-full alone.
    assert!(encrypted(&site.endpoint("127.0.0.1", &format!("sslmode=verify-ca&{}", site.root()))).await);
    let error =
        neither_gets_in(&site.endpoint("127.0.0.1", &format!("sslmode=verify-full&{}", site.root()))).await;
    assert!(matches!(error, Error::Tls { .. }), "{error}");
    assert!(error.to_string().contains("another host name"), "{error}");
    assert!(error.hint().is_some());
    // A host's address does not change its name.
    let parameters = format!("sslmode=verify-full&hostaddr=127.0.0.1&{}", site.root());
    assert!(encrypted(&site.endpoint("localhost", &parameters)).await);
    let error = neither_gets_in(&site.endpoint("db.example.org", &parameters)).await;
    assert!(error.to_string().contains("another host name"), "{error}");
    // An authority that did not sign it.
    for mode in ["require", "verify-ca", "verify-full"] {
        let parameters = format!("sslmode={mode}&sslrootcert={}", site.other.file.display());
        let error = neither_gets_in(&site.endpoint("localhost", &parameters)).await;
        assert!(error.to_string().contains("no trusted authority"), "{error}");
        assert!(error.hint().unwrap().contains("sslrootcert"));
        assert!(!error.is_transient());
    }
    // No authority at all.
    let error = neither_gets_in(&site.endpoint("localhost", "sslmode=verify-ca")).await;
    assert!(error.to_string().contains("needs root certificates"), "{error}");
    let error = neither_gets_in(&site.endpoint("localhost", "sslmode=require&sslrootcert=/no/such")).await;
    assert!(error.to_string().contains("/no/such"), "{error}");
    // The system's do not include ours.
    let error = Session::connect(&site.endpoint("localhost", "sslrootcert=system"), "t").await.unwrap_err();
    assert!(!error.is_transient(), "{error}");
}

#[tokio::test]
async fn a_server_that_takes_one_kind_gets_it_where_the_mode_allows() {
    let site = Site::new("hostssl all all 127.0.0.1/32 trust").await;
    let at = |parameters: &str| site.endpoint("127.0.0.1", parameters);
    assert!(encrypted(&at("sslmode=allow")).await);
    assert!(encrypted(&at("sslmode=prefer")).await);
    let error = neither_gets_in(&at("sslmode=disable")).await;
    assert_eq!(error.code(), Some("28000"));
    assert!(error.to_string().contains("no encryption"), "{error}");

    let site = Site::new("hostnossl all all 127.0.0.1/32 trust").await;
    let at = |parameters: &str| site.endpoint("127.0.0.1", parameters);
    assert!(!encrypted(&at("sslmode=allow")).await);
    assert!(!encrypted(&at("sslmode=prefer")).await);
    let error = neither_gets_in(&at("sslmode=require")).await;
    assert_eq!(error.code(), Some("28000"));

    let without = Server::start(any_major(), &[], ANY).await;
    assert!(!encrypted(&without.tcp("postgres", "postgres", "sslmode=prefer")).await);
    let error = neither_gets_in(&without.tcp("postgres", "postgres", "sslmode=require")).await;
    assert!(error.to_string().contains("does not offer TLS"), "{error}");
    // By the socket no mode encrypts.
    assert!(!encrypted(&without.socket("postgres", "postgres")).await);
}

#[tokio::test]
async fn client_certificates_let_in_and_others_do_not() {
    let site = Site::new("hostssl all all 127.0.0.1/32 cert").await;
    let dir = site.dir.path();
    site.server.run("CREATE ROLE app LOGIN REPLICATION").await;
    let client = site.ours.sign(dir, "app", "app", &[]);
    let with = |identity: &Identity| {
        format!(
            "sslmode=verify-ca&{}&sslcert={}&sslkey={}",
            site.root(),
            identity.certificate.display(),
            identity.key.display()
        )
    };
    let at = |parameters: &str| site.server.tcp("app", "postgres", parameters);
    both_get_in(&at(&with(&client))).await;

    // Keys of the older forms.
    for (form, arguments) in [("sec1", &["ec"][..]), ("pkcs1", &["rsa", "-traditional"])] {
        let mut client = site.ours.sign(dir, form, "app", &[]);
        if form == "pkcs1" {
            client = rsa_client(&site, dir);
        }
        let path = dir.join(format!("{form}.old.key"));
        openssl(
            &[
                &arguments[..1],
                &["-in", client.key.to_str().unwrap(), "-out", path.to_str().unwrap()],
                &arguments[1..],
            ]
            .concat(),
        );
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("BEGIN EC PRIVATE KEY") || text.contains("BEGIN RSA PRIVATE KEY"), "{form}");
        set_mode(&path, 0o600);
        client.key = path;
        both_get_in(&at(&with(&client))).await;
    }

    // Somebody else's name, nobody's certificate, an authority that the server does not know.
    let error = neither_gets_in(&site.server.tcp("postgres", "postgres", &with(&client))).await;
    assert_eq!(error.code(), Some("28000"), "{error}");
    let error = neither_gets_in(&at(&format!("sslmode=require&{}", site.root()))).await;
    assert_eq!(error.code(), Some("28000"), "{error}");
    let stranger = site.other.sign(dir, "stranger", "app", &[]);
    let error = Session::connect(&at(&with(&stranger)), "t").await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. } | Error::Unreachable { .. }), "{error}");

    // Files that cannot be used.
    set_mode(&client.key, 0o644);
    let error = neither_gets_in(&at(&with(&client))).await;
    assert!(error.to_string().contains("permissions (0644)"), "{error}");
    assert!(error.hint().unwrap().starts_with("chmod"));
    set_mode(&client.key, 0o600);
    let mixed = Identity { certificate: client.certificate, key: stranger.key, serial: client.serial };
    let error = neither_gets_in(&at(&with(&mixed))).await;
    assert!(error.to_string().contains("cannot be used together"), "{error}");
    let mixed = Identity { key: private_file(dir, "none", "s3cret"), ..mixed };
    let error = neither_gets_in(&at(&with(&mixed))).await;
    assert!(error.to_string().contains("no private key"), "{error}");
    assert!(!format!("{error:?}").contains("s3cret"));
}

fn openssl(arguments: &[&str]) -> String {
    let output = std::process::Command::new("openssl").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A client whose key is of RSA, which the certificates' library here does not make.
fn rsa_client(site: &Site, dir: &std::path::Path) -> Identity {
    let key = dir.join("rsa.key");
    openssl(&[
        "genpkey",
        "-algorithm",
        "RSA",
        "-pkeyopt",
        "rsa_keygen_bits:2048",
        "-out",
        key.to_str().unwrap(),
    ]);
    set_mode(&key, 0o600);
    let pair = rcgen::KeyPair::from_pem(&std::fs::read_to_string(&key).unwrap()).unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "app");
    let certificate = dir.join("rsa.crt");
    std::fs::write(&certificate, parameters.signed_by(&pair, &site.ours.issuer).unwrap().pem()).unwrap();
    Identity { certificate, key, serial: rcgen::SerialNumber::from_slice(&[9]) }
}

#[tokio::test]
async fn direct_tls_begins_without_a_request_where_the_server_can() {
    for major in majors() {
        let site = Site::of(major, ANY, |ours, dir| ours.sign(dir, "server", "x", &["localhost"])).await;
        let parameters = format!("sslmode=verify-full&sslnegotiation=direct&{}", site.root());
        let endpoint = site.endpoint("localhost", &parameters);
        if major >= 17 {
            assert!(encrypted(&endpoint).await);
            // A cancel request too.
            let session = Session::connect(&endpoint, "t").await.unwrap();
            let limit = std::time::Duration::from_millis(200);
            session.within(limit, "x", session.query("SELECT pg_sleep(60)", &[])).await.unwrap_err();
            session.query("SELECT 1", &[]).await.unwrap();
        } else {
            neither_gets_in(&endpoint).await;
        }
    }
}

#[tokio::test]
async fn scram_binds_to_the_channel() {
    let site = Site::new(
        "hostssl all scram 127.0.0.1/32 scram-sha-256
         hostssl all hashed 127.0.0.1/32 md5
         hostssl all plain 127.0.0.1/32 password",
    )
    .await;
    site.server
        .run(
            "CREATE ROLE scram LOGIN REPLICATION PASSWORD 'x';
             CREATE ROLE plain LOGIN REPLICATION PASSWORD 'x';
             SET password_encryption = 'md5';
             CREATE ROLE hashed LOGIN REPLICATION PASSWORD 'x';",
        )
        .await;
    let file = private_file(site.dir.path(), "pw", "x");
    for mode in ["prefer", "require", "verify-ca"] {
        for binding in ["disable", "prefer", "require"] {
            let parameters = format!("sslmode={mode}&channel_binding={binding}&{}", site.root());
            both_get_in(&site.server.tcp("scram", "postgres", &parameters).with_password_file(&file)).await;
            for role in ["hashed", "plain"] {
                let endpoint = site.server.tcp(role, "postgres", &parameters).with_password_file(&file);
                if binding == "require" {
                    let error = neither_gets_in(&endpoint).await;
                    assert!(error.to_string().contains("channel binding"), "{error}");
                } else {
                    both_get_in(&endpoint).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn certificates_as_the_manual_makes_them_are_verified() {
    // Self-signed, marked as an authority, the name only in the subject; it is its own root.
    let site = Site::with(ANY, |_, dir| self_signed(dir, "server", "localhost")).await;
    let own = format!("sslrootcert={}", site.dir.path().join("server.crt").display());
    assert!(encrypted(&site.endpoint("localhost", &format!("sslmode=verify-full&{own}"))).await);
    assert!(encrypted(&site.endpoint("127.0.0.1", &format!("sslmode=verify-ca&{own}"))).await);
    let error = neither_gets_in(&site.endpoint("127.0.0.1", &format!("sslmode=verify-full&{own}"))).await;
    assert!(error.to_string().contains("another host name"), "{error}");
    let error =
        neither_gets_in(&site.endpoint("localhost", &format!("sslmode=verify-ca&{}", site.root()))).await;
    assert!(!error.is_transient(), "{error}");

    // Of version 1, as "openssl x509 -req" without extensions made them for long.
    let site = Site::with(ANY, |_, dir| {
        let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
        let conf = path("v1.conf");
        std::fs::write(&conf, "[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN=localhost\n").unwrap();
        openssl(&[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
            &path("server.key"),
        ]);
        let (key, request, certificate) = (path("server.key"), path("server.csr"), path("server.crt"));
        openssl(&["req", "-new", "-config", &conf, "-key", &key, "-out", &request]);
        openssl(&["x509", "-req", "-in", &request, "-signkey", &key, "-out", &certificate]);
        if !openssl(&["x509", "-noout", "-text", "-in", &certificate]).contains("Version: 1 ") {
            // Later programs make version 3 unless told otherwise.
            openssl(&["req", "-x509", "-x509v1", "-config", &conf, "-key", &key, "-out", &certificate]);
        }
        set_mode(&dir.join("server.key"), 0o600);
        Identity {
            certificate: dir.join("server.crt"),
            key: dir.join("server.key"),
            serial: rcgen::SerialNumber::from_slice(&[1]),
        }
    })
    .await;
    assert!(encrypted(&site.endpoint("localhost", "sslmode=require")).await);
    let error =
        neither_gets_in(&site.endpoint("localhost", &format!("sslmode=verify-ca&{}", site.root()))).await;
    assert!(error.to_string().contains("version 1"), "{error}");
    assert!(error.hint().unwrap().contains("subjectAltName"));
}

#[tokio::test]
async fn addresses_wildcards_and_intermediate_authorities_are_verified() {
    let names = ["127.0.0.1", "*.db.example.org"];
    let site = Site::with(ANY, |ours, dir| {
        let intermediate = ours.intermediate(dir, "intermediate");
        let identity = intermediate.sign(dir, "server", "x", &names);
        let chain =
            [&identity.certificate, &intermediate.file].map(|path| std::fs::read_to_string(path).unwrap());
        std::fs::write(&identity.certificate, chain.concat()).unwrap();
        identity
    })
    .await;
    let parameters = format!("sslmode=verify-full&{}", site.root());
    assert!(encrypted(&site.endpoint("127.0.0.1", &parameters)).await);
    let parameters = format!("{parameters}&hostaddr=127.0.0.1");
    assert!(encrypted(&site.endpoint("one.db.example.org", &parameters)).await);
    for host in ["db.example.org", "x.one.db.example.org", "127.0.0.2", "localhost"] {
        let error = neither_gets_in(&site.endpoint(host, &parameters)).await;
        assert!(error.to_string().contains("another host name"), "{host}: {error}");
    }
}

#[tokio::test]
async fn a_stream_is_read_and_answered_from_two_tasks_over_tls() {
    let mut site = Site::new("hostssl all all 127.0.0.1/32 trust").await;
    site.server.run("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE PUBLICATION p FOR TABLE t").await;
    let endpoint = site.endpoint("127.0.0.1", "sslmode=require");
    let mut connection = ReplicationConnection::connect(&endpoint, "t").await.unwrap();
    let slot = connection.create_logical_slot("s", SlotOptions::default()).await.unwrap();
    let options = [("proto_version", "1"), ("publication_names", "\"p\"")];
    let (mut reader, mut writer) =
        connection.start_logical("s", slot.consistent_point, &options).await.unwrap().split();
    let (tell, mut told) = tokio::sync::watch::channel(slot.consistent_point);
    let answers = tokio::spawn(async move {
        let mut pause = tokio::time::interval(std::time::Duration::from_millis(1));
        loop {
            tokio::select! {
                _ = pause.tick() => {}
                changed = told.changed() => if changed.is_err() { return },
            }
            let lsn = *told.borrow_and_update();
            // The other end may be gone before this task is told.
            if writer.send(lsn, lsn, lsn, Timestamp::now(), true).await.is_err() {
                return;
            }
        }
    });
    const ROWS: usize = 50_000;
    site.server
        .run(&format!("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, {ROWS}) i"))
        .await;
    let (mut rows, mut stopping, mut done) = (0, false, false);
    while !done {
        assert!(reader.fill().await.unwrap());
        while let Some(frame) = reader.next_frame().unwrap() {
            match frame {
                Frame::XLogData { data, .. } => rows += usize::from(data[0] == b'I'),
                Frame::Keepalive { wal_end, .. } => {
                    let _ = tell.send(wal_end);
                }
                Frame::Notice(_) => {}
                Frame::Done => done = true,
            }
        }
        if rows == ROWS && !stopping {
            stopping = true;
            site.server.signal(Stop::Fast);
        }
    }
    assert_eq!(rows, ROWS);
    assert!(!reader.fill().await.unwrap());
    drop(tell);
    answers.await.unwrap();
    site.server.wait().await;
}

#[tokio::test]
async fn a_revoked_certificate_is_refused() {
    let site = Site::new(ANY).await;
    let now = rcgen::date_time_ymd(2020, 1, 1);
    let list = |revoked: Vec<rcgen::RevokedCertParams>, file: &str| {
        let parameters = rcgen::CertificateRevocationListParams {
            this_update: now,
            next_update: rcgen::date_time_ymd(2090, 1, 1),
            crl_number: rcgen::SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: revoked,
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let path = site.dir.path().join(file);
        std::fs::write(&path, parameters.signed_by(&site.ours.issuer).unwrap().pem().unwrap()).unwrap();
        format!("sslmode=verify-full&{}&sslcrl={}", site.root(), path.display())
    };
    assert!(encrypted(&site.endpoint("localhost", &list(Vec::new(), "empty.crl"))).await);
    let revoked = rcgen::RevokedCertParams {
        serial_number: rcgen::SerialNumber::from_slice(&[1, 6]),
        revocation_time: now,
        reason_code: None,
        invalidity_date: None,
    };
    let error = neither_gets_in(&site.endpoint("localhost", &list(vec![revoked], "full.crl"))).await;
    assert!(error.to_string().contains("revoked"), "{error}");
}

#[tokio::test]
async fn a_cancel_request_goes_the_way_of_its_session() {
    let site = Site::new("hostssl all all 127.0.0.1/32 trust").await;
    let session = Session::connect(&site.endpoint("127.0.0.1", "sslmode=require"), "t").await.unwrap();
    let limit = std::time::Duration::from_millis(300);
    session.within(limit, "sleeping", session.query("SELECT pg_sleep(60)", &[])).await.unwrap_err();
    let since = std::time::Instant::now();
    session.query("SELECT 1", &[]).await.unwrap();
    assert!(since.elapsed() < std::time::Duration::from_secs(5));
}
