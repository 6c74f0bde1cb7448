//! One terminal for two sites: real managers that talk over real TLS, and whoever may not.

#![expect(
    clippy::unwrap_used,
    reason = "what is not as expected here fails the test, and the panic says where"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use irongate_checkpoint::State;
use irongate_manager::control::Caller;
use irongate_manager::event::Kind;
use irongate_manager::settings::Remote;
use irongate_manager::sites::Sites;
use irongate_manager::supervisor::Word;
use irongate_manager::{Control, Error, GroupSpec, Manager, ManagerSettings};
use irongate_pump::{Credentials, LinkSettings, TlsReason, certs};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(30);

/// Two sites in one directory.
struct World {
    dir: tempfile::TempDir,
    certificates: certs::Certificates,
    port: u16,
}

/// A manager in this process, of groups that are processes of their own.
struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Error>>,
}

impl Running {
    async fn stop(self) {
        let _ = self.stop.send(());
        tokio::time::timeout(PATIENCE, self.task).await.expect("it stops").unwrap().unwrap();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let certificates = certs::make(&dir.path().join("certs"), "shop", &["main", "secondary"]).unwrap();
        Self { dir, certificates, port: free_port() }
    }

    fn credentials(&self, site: usize) -> Credentials {
        let files = &self.certificates.sites[site];
        Credentials::Certificates {
            authority: self.certificates.authority.clone(),
            certificate: files.certificate.clone(),
            key: files.key.clone(),
        }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("secondary")
    }

    fn settings(&self) -> ManagerSettings {
        let mut settings = ManagerSettings::new("secondary", self.state());
        std::fs::create_dir_all(self.state()).unwrap();
        let words = ["group", self.state().to_str().unwrap(), "a", "work"].map(Into::into).to_vec();
        settings.groups = vec![GroupSpec {
            name: "a".to_owned(),
            flow: "f".to_owned(),
            program: irongate_checkpoint::Program::Extract,
            autostart: true,
            executable: env!("CARGO_BIN_EXE_play-a-part").into(),
            arguments: words,
            turn: None,
        }];
        settings.remote = Some(Remote {
            site: "secondary".to_owned(),
            deployment: "shop".to_owned(),
            listen: format!("127.0.0.1:{}", self.port),
            link: LinkSettings::new(self.credentials(1)),
            peers: BTreeSet::from(["main".to_owned()]),
            orders: true,
        });
        settings
    }

    fn start(&self, settings: ManagerSettings) -> Running {
        let (stop, asked) = oneshot::channel();
        let stopping = async move {
            let _ = asked.await;
        };
        Running { stop, task: tokio::spawn(Manager::new(settings).run(stopping)) }
    }

    fn caller(&self) -> Caller {
        Caller { deployment: "shop".to_owned(), site: "main".to_owned(), to: "secondary".to_owned() }
    }

    /// A terminal at site main.
    fn terminal(&self) -> Control {
        self.with(self.credentials(0), self.caller())
    }

    fn with(&self, credentials: Credentials, caller: Caller) -> Control {
        let address = format!("localhost:{}", self.port);
        Control::from_afar(address, LinkSettings::new(credentials), caller).with_patience(PATIENCE)
    }

    fn own(&self) -> Control {
        Control::of(&self.state(), "secondary").with_patience(PATIENCE)
    }

    async fn answers(&self) {
        let begin = Instant::now();
        while self.own().ping().await.is_err() {
            assert!(begin.elapsed() < PATIENCE, "the manager does not come up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A certificate for a name, of our authority or of another one.
    fn signed(&self, by: &Authority, name: &str, until: i32) -> Credentials {
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
        let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        parameters.extended_key_usages.extend(both);
        let key = KeyPair::generate().unwrap();
        let at = |kind: &str| self.dir.path().join(format!("{name}-{until}.{kind}"));
        std::fs::write(at("crt"), parameters.signed_by(&key, &by.0).unwrap().pem()).unwrap();
        write_key(&at("key"), &key);
        let authority = self.certificates.authority.clone();
        Credentials::Certificates { authority, certificate: at("crt"), key: at("key") }
    }
}

fn write_key(path: &Path, key: &KeyPair) {
    std::fs::write(path, key.serialize_pem()).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    fn of(world: &World) -> Self {
        let key = std::fs::read_to_string(&world.certificates.authority_key).unwrap();
        Self::named("Irongate shop", KeyPair::from_pem(&key).unwrap())
    }

    fn named(name: &str, key: KeyPair) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, name);
        Self(Issuer::new(parameters, key))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_at_the_other_site_does_all_that_one_here_does() {
    let world = World::new();
    let manager = world.start(world.settings());
    world.answers().await;
    let terminal = world.terminal();
    assert_eq!(terminal.ping().await.unwrap().0, std::process::id());
    let wait = |word| {
        let terminal = terminal.clone();
        async move { terminal.order(word, &["f".to_owned()], PATIENCE).await.unwrap().remove(0) }
    };
    assert!(wait(Word::Start).await.done);
    let info = terminal.info().await.unwrap();
    assert_eq!((info.site.as_str(), info.groups[0].state), ("secondary", State::Running));
    let first = info.groups[0].pid;
    assert!(wait(Word::Restart).await.done);
    assert_ne!(terminal.info().await.unwrap().groups[0].pid, first);
    assert!(terminal.report("a", 50).await.unwrap().contains("playing a as work"));
    let stats = terminal.stats(&["f".to_owned()]).await.unwrap();
    assert_eq!((stats.len(), stats[0].group.as_str()), (1, "a"));
    let unknown = terminal.stats(&["nobody".to_owned()]).await.unwrap_err();
    assert!(unknown.to_string().contains("nobody"), "{unknown}");
    let mut events = terminal.events(100, true).await.unwrap();
    let mut known = Vec::new();
    while let Some(entry) = events.next_known().await.unwrap() {
        known.push(entry.notice.text);
    }
    assert!(known.iter().any(|text| text == "asked to restart from site \"main\""), "{known:?}");
    assert!(wait(Word::Kill).await.done);
    // It is told to whoever follows from afar.
    let told = async {
        loop {
            let entry = events.next().await.unwrap().unwrap();
            if entry.notice.kind == Kind::Asked {
                return entry.notice.text;
            }
        }
    };
    let told = tokio::time::timeout(PATIENCE, told).await.unwrap();
    assert_eq!(told, "asked to kill from site \"main\"");
    let refused = terminal.reload().await.unwrap_err();
    assert!(refused.to_string().contains("cannot read its settings again"), "{refused}");
    manager.stop().await;
    let gone = terminal.ping().await.unwrap_err();
    let Error::Link(irongate_pump::Error::Unreachable { .. }) = &gone else { panic!("{gone:?}") };
    assert!(gone.is_transient() && gone.hint().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_cannot_prove_to_be_the_other_site_is_refused_and_that_is_told() {
    let world = World::new();
    let manager = world.start(world.settings());
    world.answers().await;
    let ours = Authority::of(&world);
    let another = Authority::named("another", KeyPair::generate().unwrap());
    let tls = async |credentials: Credentials| {
        let error = world.with(credentials, world.caller()).info().await.unwrap_err();
        match error {
            Error::Link(irongate_pump::Error::Tls { reason, .. }) => reason,
            other => panic!("{other}"),
        }
    };
    let expired = TlsReason::Alert("certificate expired");
    assert_eq!(tls(world.signed(&ours, "main", 2021)).await, expired);
    assert_eq!(tls(world.signed(&another, "main", 2090)).await, TlsReason::Alert("unknown CA"));
    // A name that is not what the request says.
    let refused = async |credentials: Credentials, caller: Caller| {
        let order = world.with(credentials, caller);
        let error = order.order(Word::Stop, &["f".to_owned()], PATIENCE).await.unwrap_err();
        match error {
            Error::Refused { message, hint: Some(_), transient: false } => message,
            other => panic!("{other}"),
        }
    };
    let message = refused(world.signed(&ours, "third", 2090), world.caller()).await;
    assert!(message.contains("says that it is site \"main\", and its certificate does not"), "{message}");
    let elsewhere = Caller { deployment: "other".to_owned(), ..world.caller() };
    let message = refused(world.credentials(0), elsewhere).await;
    assert!(message.contains("is of deployment \"other\", and this is \"shop\""), "{message}");
    let lost = Caller { to: "third".to_owned(), ..world.caller() };
    // The terminal itself notices that it has not met whom it looks for.
    let error = world.with(world.credentials(0), lost).info().await.unwrap_err();
    assert!(error.to_string().contains("wrong name"), "{error}");
    // No TLS, and a pump: each gets no word of the protocol.
    let mut plain = tokio::net::TcpStream::connect(("127.0.0.1", world.port)).await.unwrap();
    plain.write_all(b"{\"version\":1,\"command\":\"info\"}\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(answer.len() < 100, "an alert and nothing else: {answer:?}");
    let begun = std::time::Instant::now();
    let mut group = world.own().info().await.unwrap().groups.remove(0);
    while group.state == State::Starting && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(20)).await;
        group = world.own().info().await.unwrap().groups.remove(0);
    }
    assert_eq!(group.state, State::Running, "nothing was done");
    let mut events = world.own().events(100, false).await.unwrap();
    let mut told = Vec::new();
    while let Some(entry) = events.next().await.unwrap() {
        if entry.notice.kind == Kind::TurnedAway {
            told.push(entry.notice.text);
        }
    }
    assert_eq!(told.len(), 1, "once a minute, or anybody could fill the log: {told:?}");
    assert!(told[0].contains("certificate expired"), "{told:?}");
    manager.stop().await;

    let mut settings = world.settings();
    settings.remote.as_mut().unwrap().orders = false;
    let manager = world.start(settings);
    world.answers().await;
    assert!(world.terminal().info().await.is_ok());
    let message = refused(world.credentials(0), world.caller()).await;
    assert!(message.contains("may only look"), "{message}");
    group = world.own().info().await.unwrap().groups.remove(0);
    assert_eq!(group.wish, irongate_manager::supervisor::Wish::Run);
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_that_say_nothing_keep_nobody_waiting() {
    let world = World::new();
    let manager = world.start(world.settings());
    world.answers().await;
    // Each is in its handshake, beside the others.
    let silent: Vec<_> =
        (0..20).map(|_| std::net::TcpStream::connect(("127.0.0.1", world.port)).unwrap()).collect();
    let begin = Instant::now();
    world.terminal().ping().await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    drop(silent);
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_terminal_asks_all_sites_and_says_which_one_is_missing() {
    let world = World::new();
    let (gone, file) = (free_port(), world.dir.path().join("irongate.toml"));
    let mut text = "[deployment]\nname = \"shop\"\nstate_directory = \"{site}\"\n\
                    [link]\ncertificates = \"certs\"\n"
        .to_owned();
    for (site, port) in [("main", gone), ("secondary", world.port), ("third", gone)] {
        text += &format!(
            "[sites.{site}]\nlisten = \"127.0.0.1:1\"\naddress = \"localhost:1\"\n\
             control_listen = \"127.0.0.1:{port}\"\ncontrol_address = \"localhost:{port}\"\n\
             [databases.config.{site}]\nuri = \"postgresql://localhost/x\"\n"
        );
    }
    for to in ["secondary", "third"] {
        text += &format!(
            "[flows.to-{to}]\ndatabase = \"config\"\nfrom = \"main\"\nto = \"{to}\"\n\
             tables = [\"public.*\"]\nslot = \"{to}\"\npublication = \"{to}\"\n[flows.to-{to}.pump]\n"
        );
    }
    std::fs::write(&file, text).unwrap();
    let here = irongate_deployment::Configuration::load_at(&file, Some("main")).unwrap();
    let manager = world.start(world.settings());
    world.answers().await;
    let sites = Sites::new(&here, "main");
    let mut meant = sites.meant(&[]).unwrap();
    assert_eq!(meant.remove(0).site, "main");
    assert_eq!(meant[0].groups, ["to-secondary-replicat", "secondary-collector"]);
    let answers = sites.ask(meant, |control, _| async move { control.info().await }).await;
    let came: Vec<_> = answers.iter().map(|it| (it.site.as_str(), it.answer.is_ok())).collect();
    assert_eq!(came, [("secondary", true), ("third", false)]);
    // The stage there is that of the manager there.
    let infos = answers.into_iter().filter_map(|it| Some((it.site, it.answer.ok()?))).collect();
    let lag = sites.lag(here.flow("to-secondary").unwrap(), &infos).await.unwrap();
    assert_eq!((lag.flow.as_str(), lag.replicat.state, lag.lag_bytes), ("to-secondary", None, None));
    assert!(lag.pump.is_some() && lag.source_silent.is_some());
    manager.stop().await;
}
