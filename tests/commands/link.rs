//! The link between the sites, as an operator meets its refusals: what is said, where it is said, and that nothing was
//! written.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use irongate_tests::{Plan, Reference, SITES, Server, seed, wait_for};
use irongate_trail::{Directory, Lineage, Lsn, Storage, Writer, WriterOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::deployment::{PATIENCE, stop};

/// Puts a certificate of site `main` in place, signed by our own authority or by another one.
fn certify(certs: &Path, ours: bool, until: i32) {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, "Irongate shop");
    let key = if ours {
        KeyPair::from_pem(&fs::read_to_string(certs.join("ca.key")).expect("certs made it"))
    } else {
        KeyPair::generate()
    };
    let issuer = Issuer::new(parameters, key.expect("a key"));
    let mut parameters = CertificateParams::new(vec!["main".to_owned()]).expect("a name");
    (parameters.not_before, parameters.not_after) =
        (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(until, 1, 1));
    parameters
        .extended_key_usages
        .extend([ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]);
    let key = KeyPair::generate().expect("a key");
    let certificate = parameters.signed_by(&key, &issuer).expect("a certificate");
    fs::write(certs.join("main.crt"), certificate.pem()).expect("the directory is ours");
    fs::write(certs.join("main.key"), key.serialize_pem()).expect("the directory is ours");
}

async fn abended(reference: &Reference, site: &str, group: &str, words: &str) -> Value {
    wait_for(PATIENCE, &format!("{group} to give up"), async || {
        let it = reference.json(site, &["info", group]).await["groups"][0].clone();
        let said = it["error"].as_str().unwrap_or_default();
        if it["state"] == "ABENDED" && said.contains(words) { Ok(it.clone()) } else { Err(it.to_string()) }
    })
    .await
}

/// The files of a trail that rows could be in.
fn trail_files(reference: &Reference, site: &str, flow: &str) -> usize {
    let Ok(files) = fs::read_dir(reference.trails(site).join(flow)) else { return 0 };
    files.flatten().filter(|file| file.file_name().to_string_lossy().ends_with(".trail")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_whose_certificate_is_no_good_is_refused_and_told_how_to_mend_it() {
    let reference = Plan::new(Server::majors()[0]).make().await;
    let certs = reference.directory.path().join("certs");
    let good = ["main.crt", "main.key"].map(|name| fs::read(certs.join(name)).expect("certs made it"));
    certify(&certs, false, 2090);
    let managers = SITES.map(|site| reference.start(site, &["manager"]));
    for (ours, until, here, there) in [
        (false, 2090, "unknown CA", "unknown CA"),
        (true, 2021, "certificate expired", "certificate expired"),
    ] {
        certify(&certs, ours, until);
        if ours {
            // What was given up for the other reason is asked for again.
            reference.start("main", &["start", "csp-pump", "msp-pump"]).finish(PATIENCE).await;
            reference.start("secondary", &["start", "mss-pump"]).finish(PATIENCE).await;
        }
        // The pump of the bad certificate is refused; the pump that meets it refuses.
        for (site, group, words) in [("main", "csp-pump", here), ("secondary", "mss-pump", there)] {
            let pump = abended(&reference, site, group, words).await;
            assert!(pump["hint"].as_str().is_some_and(|hint| hint.contains("irongate certs")), "{pump}");
            let events = reference.events(site).await;
            let event =
                events.iter().rev().find(|event| event["kind"] == "abended" && event["group"] == group);
            assert!(event.is_some_and(|event| event["text"].to_string().contains(words)), "{events:?}");
        }
        let report = reference.expect("secondary", 0, &["report", "secondary-collector"]).await.stdout;
        assert!(report.contains(words_of(here)), "{report}");
        assert_eq!(trail_files(&reference, "secondary", "csp"), 0, "nothing is written");
        assert_eq!(trail_files(&reference, "main", "mss"), 0, "nothing is written");
    }
    for (name, content) in ["main.crt", "main.key"].into_iter().zip(good) {
        fs::write(certs.join(name), content).expect("the directory is ours");
    }
    reference.expect("main", 0, &["start", "csp-pump", "msp-pump"]).await;
    reference.expect("secondary", 0, &["start", "mss-pump"]).await;
    reference.runs().await;
    reference.same(1).await;
    for manager in managers {
        stop(manager).await;
    }
}

/// What both sides' messages have in common.
fn words_of(words: &str) -> &str {
    words.rsplit(' ').next().unwrap_or(words)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_deployment_and_an_older_epoch_are_refused_and_write_nothing() {
    let reference = Plan::new(Server::majors()[0]).make().await;
    let managers = SITES.map(|site| reference.start(site, &["manager"]));
    reference.runs().await;
    reference.same(0).await;
    reference.expect("main", 0, &["stop", "csp-pump"]).await;
    let far = reference.trails("secondary").join("csp");
    let files = || {
        let content =
            |file: fs::DirEntry| (file.file_name(), fs::read(file.path()).expect("the file is there"));
        let mut files: Vec<_> = fs::read_dir(&far)
            .expect("the trail is there")
            .flatten()
            .filter(|file| file.file_name().to_string_lossy().ends_with(".trail"))
            .map(content)
            .collect();
        files.sort();
        files
    };

    let before = files();
    let file = reference.directory.path().join("irongate.toml");
    let text = fs::read_to_string(&file).expect("the file is there");
    let other = reference.directory.path().join("library.toml");
    fs::write(&other, text.replace("name = \"shop\"", "name = \"library\"")).expect("the directory is ours");
    let other = other.to_string_lossy().into_owned();
    let finished = reference.expect("main", 1, &["--config", &other, "run", "csp-pump"]).await;
    for word in ["\"shop\"", "\"library\"", "hint:"] {
        assert!(finished.stderr.contains(word), "{}", finished.stderr);
    }
    assert_eq!(files(), before, "nothing is written");

    // Another site has taken over since.
    reference.expect("secondary", 0, &["stop", "csp-replicat", "secondary-collector"]).await;
    {
        let storage: Arc<dyn Storage> = Arc::new(Directory::new(&far));
        // Whose log it holds is what its files say.
        let none = Lineage { system_identifier: 0, timeline: 0, slot_incarnation: Lsn(0) };
        let (mut writer, _) =
            Writer::open(storage, WriterOptions::new("csp", none), None).expect("the trail is whole");
        writer.begin_epoch(2).expect("the epoch is a later one");
        writer.sync().expect("the disk has room");
    }
    reference.expect("secondary", 0, &["start", "secondary-collector"]).await;
    let before = files();
    reference.servers[0].batch_in("config", "INSERT INTO entry VALUES ('too late', 1)").await;
    reference.start("main", &["start", "csp-pump"]).finish(PATIENCE).await;
    let pump = abended(&reference, "main", "csp-pump", "epoch").await;
    let said = pump["error"].as_str().unwrap_or_default();
    assert!(said.contains("epoch 1") && said.contains("epoch 2") && pump["hint"].is_string(), "{pump}");
    assert_eq!(files(), before, "nothing is written");
    // The other flows go on.
    for (from, site) in SITES.iter().enumerate() {
        let insert = format!("INSERT INTO entry VALUES ('the others {site}', 1)");
        reference.servers[from].batch_in("log", &insert).await;
        let seen = format!("SELECT count(*) FROM entry WHERE site = 'the others {site}'");
        wait_for(PATIENCE, "the log to arrive", async || {
            let count = reference.servers[1 - from].scalar("log", &seen).await;
            if count == "1" { Ok(()) } else { Err(count) }
        })
        .await;
    }
    for manager in managers {
        stop(manager).await;
    }
}

/// Carries connections to `target` and damages some of them.
async fn damage(target: String, seed: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let mut random = StdRng::seed_from_u64(seed);
    tokio::spawn(async move {
        let mut left = 15;
        while let Ok((near, _)) = listener.accept().await {
            let fault = (left > 0).then(|| (random.random_range(3000..60_000), random.random_bool(0.7)));
            left -= 1;
            let target = target.clone();
            tokio::spawn(async move {
                let Ok(far) = TcpStream::connect(&target).await else { return };
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                tokio::join!(carry(near_read, far_write, fault), carry(far_read, near_write, None));
            });
        }
    });
    address
}

/// Copies; at a place, a byte is altered or the stream ends.
async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    fault: Option<(usize, bool)>,
) {
    let (mut bytes, mut passed) = (vec![0; 16 << 10], 0);
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let piece = &mut bytes[..count];
        if let Some((at, alters)) = fault
            && let Some(byte) = at.checked_sub(passed).and_then(|at| piece.get_mut(at))
        {
            if !alters {
                break;
            }
            *byte ^= 0x10;
        }
        passed += count;
        if to.write_all(&bytes[..count]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_altered_or_cut_on_its_way_loses_nothing_and_changes_nothing() {
    let reference = Plan::new(Server::majors()[0]).make().await;
    let file = reference.directory.path().join("irongate.toml");
    let text = fs::read_to_string(&file).expect("the file is there");
    let (_, section) = text.split_once("[sites.secondary]").expect("there is such a site");
    let (_, address) = section.split_once("address = \"").expect("it has an address");
    let (address, _) = address.split_once('"').expect("the address ends");
    let between = damage(address.to_owned(), seed()).await;
    fs::write(&file, text.replace(address, &between)).expect("the directory is ours");
    let managers = SITES.map(|site| reference.start(site, &["manager"]));
    for n in 0..60 {
        let insert = format!(
            "INSERT INTO entry SELECT 'altered', {n} * 100 + i, \
                    (SELECT string_agg(md5(random()::text || i || j), '') FROM generate_series(1, 20) j) \
             FROM generate_series(1, 30) i"
        );
        for database in ["config", "log"] {
            reference.servers[0].batch_in(database, &insert).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    reference.runs().await;
    reference.same(1).await;
    let report = reference.expect("main", 0, &["report", "csp-pump", "--lines", "1000"]).await.stdout
        + &reference.expect("main", 0, &["report", "msp-pump", "--lines", "1000"]).await.stdout;
    assert!(report.contains("trying again"), "nothing was damaged, so nothing was shown: {report}");
    for manager in managers {
        stop(manager).await;
    }
}
