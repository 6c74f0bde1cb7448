//! A throw-away Apache Kafka cluster: one broker or several, in KRaft mode, on the loopback.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::tempdir::TempDir;
use crate::tls::Tls;
use crate::watchdog::Watchdog;
use crate::{say, tail};

/// How long a broker may take to start or stop on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// The jars that `scripts/kafka` fetches.
const VERSION: &str = "4.1.0";
/// Any 16 bytes do.
const CLUSTER_ID: &str = "MkU3OEVBNTcwNTJENDM2Qg";
/// What the broker says once it takes requests.
const READY: &str = "Kafka Server started";

/// What a cluster is like.
#[derive(Clone, Debug)]
pub struct KafkaSettings {
    brokers: usize,
    user: Option<(String, String)>,
    parameters: Vec<(String, String)>,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self { brokers: 1, user: None, parameters: Vec::new() }
    }
}

impl KafkaSettings {
    /// One broker, without TLS, that anyone may use.
    pub fn new() -> Self {
        Self::default()
    }

    /// So many brokers.
    #[must_use]
    pub fn brokers(mut self, brokers: usize) -> Self {
        self.brokers = brokers;
        self
    }

    /// Clients come by TLS and say who they are, by SCRAM-SHA-256, as this user only.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.user = Some((name.to_owned(), password.to_owned()));
        self
    }

    /// A parameter of every broker.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.parameters.push((name.to_owned(), value.to_string()));
        self
    }
}

/// A cluster of its own. Dropped, it ends and its files go.
#[derive(Debug)]
pub struct Kafka {
    brokers: Vec<Broker>,
    tls: Option<Tls>,
    // Dropped behind the brokers, and before `dir`: it would remove a directory that a successor may have by then.
    _watchdog: Watchdog,
    _dir: TempDir,
}

#[derive(Debug)]
struct Broker {
    port: u16,
    directory: PathBuf,
    process: Option<Child>,
}

impl Kafka {
    /// Starts a cluster and waits until it takes requests. Blocks.
    ///
    /// # Panics
    /// When it does not start; the message holds the end of a broker's log.
    pub fn start_blocking(settings: &KafkaSettings) -> Self {
        let dir = TempDir::new();
        let watchdog = Watchdog::over_cluster(dir.path());
        let tls = settings.user.is_some().then(|| Tls::make(&dir.path().join("tls")));
        if let Some(tls) = &tls {
            let file = |name: &str| std::fs::read_to_string(tls.server_file(name)).expect("it was made");
            let both = file("server.key") + &file("server.crt");
            std::fs::write(tls.server_file("server.pem"), both).expect("it can be written");
        }
        // Another process can take a port between our look and the broker's bind.
        for attempt in 1.. {
            let ports: Vec<_> = (0..settings.brokers).map(|_| (free_port(), free_port())).collect();
            let base = dir.path().join(attempt.to_string());
            let mut brokers = Vec::new();
            for number in 0..settings.brokers {
                brokers.push(make(&base, number, &ports, settings, tls.as_ref()));
            }
            for broker in &mut brokers {
                broker.launch();
            }
            if brokers.iter_mut().all(Broker::is_ready) {
                return Self { brokers, tls, _watchdog: watchdog, _dir: dir };
            }
            let log = brokers.iter().map(|broker| tail(&broker.log(), 30)).collect::<Vec<_>>().join("\n");
            assert!(attempt < 3 && log.contains("Address already in use"), "Kafka does not start:\n{log}");
        }
        unreachable!("the loop above ends by a return or a panic")
    }

    /// The same, from asynchronous code.
    ///
    /// # Panics
    /// As [`Kafka::start_blocking`].
    pub async fn start(settings: &KafkaSettings) -> Self {
        let settings = settings.clone();
        tokio::task::spawn_blocking(move || Self::start_blocking(&settings))
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// The addresses of all brokers, as clients take them.
    pub fn brokers(&self) -> Vec<String> {
        self.brokers.iter().map(|broker| format!("127.0.0.1:{}", broker.port)).collect()
    }

    /// The certificate of the authority that has signed the brokers'.
    ///
    /// # Panics
    /// When the cluster was started without [`KafkaSettings::user`].
    pub fn tls(&self) -> &Tls {
        self.tls.as_ref().expect("this cluster was started without KafkaSettings::user()")
    }

    /// Ends a broker as the end of its machine would.
    ///
    /// # Panics
    /// When that fails.
    pub fn kill(&mut self, broker: usize) {
        self.brokers[broker].end(Signal::KILL);
    }

    /// Asks a broker to end and waits for it.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&mut self, broker: usize) {
        self.brokers[broker].end(Signal::TERM);
    }

    /// Has a broker do nothing at all, connections open, until [`Kafka::go_on`].
    pub fn freeze(&self, broker: usize) {
        self.brokers[broker].signal(Signal::STOP);
    }

    /// Ends [`Kafka::freeze`].
    pub fn go_on(&self, broker: usize) {
        self.brokers[broker].signal(Signal::CONT);
    }

    /// Starts a stopped or killed broker again and waits until it takes requests. Blocks.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_again(&mut self, broker: usize) {
        let broker = &mut self.brokers[broker];
        assert!(broker.process.is_none(), "the broker runs already");
        broker.launch();
        assert!(broker.is_ready(), "the broker does not start again:\n{}", tail(&broker.log(), 30));
    }

    /// The same of several at once: most of a cluster must be there before any of it is ready.
    ///
    /// # Panics
    /// As [`Kafka::start_again`].
    pub fn start_all_again(&mut self, brokers: &[usize]) {
        for broker in brokers {
            assert!(self.brokers[*broker].process.is_none(), "the broker runs already");
            self.brokers[*broker].launch();
        }
        for broker in brokers {
            let broker = &mut self.brokers[*broker];
            assert!(broker.is_ready(), "the broker does not start again:\n{}", tail(&broker.log(), 30));
        }
    }

    /// Whether a broker's process is there.
    pub fn is_running(&self, broker: usize) -> bool {
        self.brokers[broker].process.is_some()
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (number, broker) in self.brokers.iter().enumerate() {
                say(&format!("--- the end of broker {number}'s log\n{}", tail(&broker.log(), 15)));
            }
        }
    }
}

impl Broker {
    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn launch(&mut self) {
        // What an earlier run has said must not count for this one.
        let _ = std::fs::rename(self.log(), self.directory.join("log.before"));
        let log = std::fs::File::create(self.log()).expect("its log can be made");
        let process = java(&self.directory)
            .arg("kafka.Kafka")
            .arg(self.directory.join("server.properties"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start Java: {error}: run scripts/kafka"));
        std::fs::write(self.directory.join("pid"), process.id().to_string())
            .expect("its files can be written");
        self.process = Some(process);
    }

    /// Waits until it takes requests; false when it has ended instead.
    fn is_ready(&mut self) -> bool {
        let begin = Instant::now();
        loop {
            let text = std::fs::read_to_string(self.log()).unwrap_or_default();
            if text.contains(READY) {
                return true;
            }
            let ended = self.process.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if ended {
                self.process = None;
                return false;
            }
            assert!(begin.elapsed() < PATIENCE, "a broker does not get ready:\n{}", tail(&self.log(), 30));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            // A child that has not been waited for keeps its pid, so this reaches no stranger.
            let _ = rustix::process::kill_process(Pid::from_child(process), signal);
        }
    }

    fn end(&mut self, signal: Signal) {
        self.signal(signal);
        let Some(mut process) = self.process.take() else { return };
        let begin = Instant::now();
        while matches!(process.try_wait(), Ok(None)) {
            if begin.elapsed() > PATIENCE {
                let _ = process.kill();
                panic!("a broker does not end:\n{}", tail(&self.log(), 30));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Writes a broker's files.
fn make(
    base: &Path,
    number: usize,
    ports: &[(u16, u16)],
    settings: &KafkaSettings,
    tls: Option<&Tls>,
) -> Broker {
    let directory = base.join(number.to_string());
    std::fs::create_dir_all(&directory).unwrap_or_else(|error| panic!("cannot make {directory:?}: {error}"));
    let (port, controller) = ports[number];
    let voters: Vec<_> = ports
        .iter()
        .enumerate()
        .map(|(number, (_, port))| format!("{}@127.0.0.1:{port}", number + 1))
        .collect();
    let replicas = settings.brokers.min(3);
    let listener = if tls.is_some() { "SASL_SSL" } else { "PLAINTEXT" };
    let mut lines = vec![
        "process.roles=broker,controller".to_owned(),
        format!("node.id={}", number + 1),
        format!("controller.quorum.voters={}", voters.join(",")),
        format!("listeners={listener}://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}"),
        format!("inter.broker.listener.name={listener}"),
        "controller.listener.names=CONTROLLER".to_owned(),
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT"
            .to_owned(),
        format!("log.dirs={}", directory.join("data").display()),
        format!("offsets.topic.replication.factor={replicas}"),
        // As most operators have it: a topic that nobody has made is a mistake.
        "auto.create.topics.enable=false".to_owned(),
        // So that a broker that is killed and started again leads within seconds.
        "broker.session.timeout.ms=3000".to_owned(),
        "broker.heartbeat.interval.ms=500".to_owned(),
        "controlled.shutdown.enable=true".to_owned(),
        "num.network.threads=2".to_owned(),
        "num.io.threads=2".to_owned(),
    ];
    if let (Some((name, password)), Some(tls)) = (&settings.user, tls) {
        lines.extend([
            "sasl.enabled.mechanisms=SCRAM-SHA-256".to_owned(),
            "sasl.mechanism.inter.broker.protocol=SCRAM-SHA-256".to_owned(),
            format!(
                "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username=\"{name}\" password=\"{password}\";"
            ),
            "ssl.keystore.type=PEM".to_owned(),
            format!("ssl.keystore.location={}", tls.server_file("server.pem")),
            "ssl.truststore.type=PEM".to_owned(),
            format!("ssl.truststore.location={}", tls.ca().display()),
        ]);
    }
    lines.extend(settings.parameters.iter().map(|(name, value)| format!("{name}={value}")));
    let properties = directory.join("server.properties");
    std::fs::write(&properties, lines.join("\n") + "\n").expect("its files can be written");
    std::fs::write(directory.join("log4j2.yaml"), LOGGING).expect("its files can be written");
    let mut format = java(&directory);
    format.args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"]).arg(&properties);
    if let Some((name, password)) = &settings.user {
        format.arg("--add-scram").arg(format!("SCRAM-SHA-256=[name={name},password={password}]"));
    }
    let made =
        format.output().unwrap_or_else(|error| panic!("cannot start Java: {error}: run scripts/kafka"));
    assert!(
        made.status.success(),
        "a broker's files cannot be made:\n{}{}",
        String::from_utf8_lossy(&made.stdout),
        String::from_utf8_lossy(&made.stderr)
    );
    Broker { port, directory, process: None }
}

const LOGGING: &str = r#"Configuration:
  status: ERROR
  Appenders:
    Console:
      name: OUT
      PatternLayout: {pattern: "%d %p %c{1} %m%n"}
  Loggers:
    Root: {level: INFO, AppenderRef: {ref: OUT}}
"#;

fn java(directory: &Path) -> Command {
    let program =
        std::env::var_os("JAVA_HOME").map_or_else(|| "java".into(), |home| Path::new(&home).join("bin/java"));
    let mut command = Command::new(program);
    // A small heap, and the compiler that starts quickly: a test's broker lives for seconds.
    command.args(["-Xmx256m", "-Xms64m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData"]);
    command.arg(format!("-Dlog4j2.configurationFile={}", directory.join("log4j2.yaml").display()));
    command.arg("-cp").arg(jars().join("*")).current_dir("/");
    command
}

fn jars() -> PathBuf {
    let mut places: Vec<PathBuf> = Vec::new();
    places.extend(std::env::var_os("IRONGATE_KAFKA").map(PathBuf::from));
    let cached = Path::new("kafka").join(VERSION);
    places.extend(std::env::var_os("IRONGATE_CACHE").map(|cache| Path::new(&cache).join(&cached)));
    places.extend(
        std::env::var_os("XDG_CACHE_HOME").map(|cache| Path::new(&cache).join("irongate").join(&cached)),
    );
    places
        .extend(std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/irongate").join(&cached)));
    places.push(Path::new("/var/cache/irongate").join(&cached));
    places
        .into_iter()
        .find(|place| place.is_dir())
        .unwrap_or_else(|| panic!("there is no Apache Kafka on this machine: run scripts/kafka"))
}

/// A port that is free now, below those that the system gives to connections.
fn free_port() -> u16 {
    loop {
        let port = rand::random_range(15_000..32_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
