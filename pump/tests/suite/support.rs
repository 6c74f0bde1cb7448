//! Two sites in one process.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use irongate_checkpoint::{Program, Status, read_status};
use irongate_pump::{
    AcceptedFlow, Collected, Collector, CollectorSettings, Credentials, Error, LinkSettings, Meeting, Pump,
    PumpSettings, Stopped, certs,
};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::trail;

/// Two sites: directories, certificates, settings.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) certificates: certs::Certificates,
}

/// Something that runs until it is asked to stop.
pub(crate) struct Running<T> {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<T, Error>>,
}

impl<T: Send + 'static> Running<T> {
    fn start<F>(run: impl FnOnce(Box<dyn Future<Output = ()> + Send + Unpin>) -> F) -> Self
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let (stop, asked) = oneshot::channel();
        let asked = Box::new(Box::pin(async move {
            let _ = asked.await;
        }));
        Self { stop, task: tokio::spawn(run(asked)) }
    }

    pub(crate) async fn stop(self) -> Result<T, Error> {
        let _ = self.stop.send(());
        tokio::time::timeout(Duration::from_secs(30), self.task).await.expect("it stops").unwrap()
    }

    /// How it ends by itself.
    pub(crate) async fn ends(self) -> Result<T, Error> {
        tokio::time::timeout(Duration::from_secs(30), self.task).await.expect("it ends").unwrap()
    }

    /// Ends it as a killed process ends: wherever it is.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }
}

pub(crate) fn pump(settings: PumpSettings) -> Running<Stopped> {
    Running::start(|asked| Pump::new(settings).run(asked))
}

pub(crate) fn listening_pump(settings: PumpSettings, listener: TcpListener) -> Running<Stopped> {
    Running::start(|asked| Pump::new(settings).with_listener(listener).run(asked))
}

pub(crate) fn collector(settings: CollectorSettings, listener: Option<TcpListener>) -> Running<Collected> {
    let collector = Collector::new(settings);
    run_collector(match listener {
        Some(listener) => collector.with_listener(listener),
        None => collector,
    })
}

pub(crate) fn run_collector(collector: Collector) -> Running<Collected> {
    Running::start(|asked| collector.run(asked))
}

pub(crate) async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let certificates = certs::make(&dir.path().join("certs"), "shop", &["main", "secondary"]).unwrap();
        Self { dir, certificates }
    }

    pub(crate) fn near(&self) -> PathBuf {
        self.dir.path().join("main/trail/csp")
    }

    pub(crate) fn far(&self) -> PathBuf {
        self.dir.path().join("secondary/trail/csp")
    }

    pub(crate) fn credentials(&self, site: usize) -> Credentials {
        let files = &self.certificates.sites[site];
        Credentials::Certificates {
            authority: self.certificates.authority.clone(),
            certificate: files.certificate.clone(),
            key: files.key.clone(),
        }
    }

    fn link(&self, site: usize) -> LinkSettings {
        LinkSettings {
            connect_limit: Duration::from_secs(5),
            ping_every: Duration::from_millis(500),
            silence: Duration::from_secs(5),
            retry_first: Duration::from_millis(10),
            retry_longest: Duration::from_millis(100),
            ..LinkSettings::new(self.credentials(site))
        }
    }

    pub(crate) fn pump_settings(&self, collector: SocketAddr) -> PumpSettings {
        PumpSettings {
            group: "csp-pump".to_owned(),
            deployment: "shop".to_owned(),
            flow: "csp".to_owned(),
            site: "main".to_owned(),
            peer: "secondary".to_owned(),
            meeting: Meeting::Connect(collector.to_string()),
            link: self.link(0),
            trail: self.near(),
            state_directory: self.dir.path().join("main/state"),
            epoch: 1,
            bandwidth: None,
            compression: None,
        }
    }

    pub(crate) fn collector_settings(&self) -> CollectorSettings {
        CollectorSettings {
            group: "collector".to_owned(),
            deployment: "shop".to_owned(),
            site: "secondary".to_owned(),
            flows: vec![AcceptedFlow { flow: "csp".to_owned(), from: "main".to_owned(), epoch: 1 }],
            listen: None,
            connect: Vec::new(),
            link: self.link(1),
            trail_directory: self.dir.path().join("secondary/trail"),
            state_directory: self.dir.path().join("secondary/state"),
            file_size: 30_000,
            keep_free: None,
        }
    }

    pub(crate) fn pump_status(&self) -> Status {
        let status = read_status(&self.dir.path().join("main/state"), "csp-pump").unwrap();
        status.unwrap_or_else(|| Status::starting("csp-pump", "csp", Program::Pump))
    }

    pub(crate) fn flow_status(&self) -> Status {
        let status = read_status(&self.dir.path().join("secondary/state"), "collector-csp").unwrap();
        status.unwrap_or_else(|| Status::starting("collector-csp", "csp", Program::Collector))
    }

    /// Waits until the other site has everything, and compares.
    pub(crate) async fn arrives(&self) {
        let expected = trail::content(&self.near());
        let begin = Instant::now();
        loop {
            if self.far().join("durable").exists() && trail::content(&self.far()).len() >= expected.len() {
                break;
            }
            let late = begin.elapsed() > Duration::from_secs(20);
            assert!(!late, "it does not arrive: {:?} {:?}", self.pump_status(), self.flow_status());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.is_identical();
    }

    pub(crate) fn is_identical(&self) {
        let (near, far) = (trail::content(&self.near()), trail::content(&self.far()));
        for (number, (near, far)) in near.iter().zip(&far).enumerate() {
            assert_eq!(far, near, "item {number}");
        }
        assert_eq!(far.len(), near.len());
    }
}

/// Checks that what is there is what was sent, from the beginning.
pub(crate) fn is_beginning(near: &[String], far: &[String]) {
    for (number, far) in far.iter().enumerate() {
        assert_eq!(Some(far), near.get(number), "item {number}");
    }
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(30), "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
