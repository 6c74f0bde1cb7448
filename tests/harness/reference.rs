//! The reference deployment: two sites with a manager each, a database that one site writes and one that both write.
//!
//! Both sites are on one machine, either side by side or with a network of their own each. The configuration file is the
//! same at both, as an operator would have it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::network::{Site, program};
use crate::{
    Comparison, Finished, Network, Process, Server, Settings, Tables, TempDir, compare, wait_for, wait_until,
};

/// The names of the sites, in the order of everything that is there twice.
pub const SITES: [&str; 2] = ["main", "secondary"];
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// A place at which a run of a plan kills itself: the plan and the site that it is for, `begin`, `resume` or `abort`, the
/// step, and `begins`, `done`, `undone` or a number of milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'a> {
    /// The plan.
    pub plan: &'a str,
    /// The site that it is for.
    pub site: &'a str,
    /// What is asked for.
    pub order: &'a str,
    /// The step.
    pub step: &'a str,
    /// The place in the step.
    pub place: &'a str,
}

/// The port of a collector at a site that has a network of its own.
const PORT: u16 = 7420;
/// The port of its manager.
const CONTROL: u16 = 7421;
/// Keys of the log do not collide: each site has its own numbers.
const TABLES: &str = "CREATE TABLE entry (site text, n bigint, word text, at timestamptz DEFAULT now(),
                                          PRIMARY KEY (site, n))";

/// What a reference deployment is to be like.
#[derive(Debug)]
pub struct Plan {
    major: u32,
    settings: Settings,
    tables: [String; 2],
    more: String,
    link: String,
    flow: String,
    trail: String,
    disks: [Option<u64>; 2],
    control: bool,
    http: bool,
    network: Option<Network>,
}

/// A reference deployment. Dropped by a panic, what it has started is killed.
#[derive(Debug)]
pub struct Reference {
    /// The servers, in the order of [`SITES`].
    pub servers: [Server; 2],
    /// Where the configuration lies, and the states of both sites.
    pub directory: TempDir,
    /// What lies between the sites; dropped behind everything that runs there.
    pub network: Option<Network>,
}

impl Plan {
    /// Servers of this version, side by side, with a table `entry` in both databases.
    pub fn new(major: u32) -> Self {
        let tables = [TABLES, TABLES].map(str::to_owned);
        let flow = "retry_delay = \"100ms\"\nprogress_interval = \"200ms\"\n".to_owned();
        let link = "retry_delay = \"100ms\"\nretry_longest_delay = \"500ms\"\n".to_owned();
        let (more, trail, disks) = (String::new(), String::new(), [None; 2]);
        Self {
            major,
            settings: Settings::new(),
            tables,
            more,
            link,
            flow,
            trail,
            disks,
            control: false,
            http: false,
            network: None,
        }
    }

    /// At the sites of a network.
    #[must_use]
    pub fn at(mut self, network: Network) -> Self {
        self.network = Some(network);
        self
    }

    /// With other settings of the servers.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// With these tables in databases `config` and `log`, besides `entry`.
    #[must_use]
    pub fn tables(mut self, config: &str, log: &str) -> Self {
        for (tables, more) in self.tables.iter_mut().zip([config, log]) {
            *tables = format!("{tables};\n{more}");
        }
        self
    }

    /// With more at the end of the configuration.
    #[must_use]
    pub fn more(mut self, more: &str) -> Self {
        self.more += more;
        self
    }

    /// With more in the section of the link.
    #[must_use]
    pub fn link(mut self, more: &str) -> Self {
        self.link += more;
        self
    }

    /// With managers that the other site's reach.
    #[must_use]
    pub fn control(mut self) -> Self {
        self.control = true;
        self
    }

    /// With managers that serve `/metrics`. Only side by side.
    #[must_use]
    pub fn http(mut self) -> Self {
        self.http = true;
        self
    }

    /// With more in the section of each flow's Extract.
    #[must_use]
    pub fn extract(mut self, more: &str) -> Self {
        self.flow += more;
        self
    }

    /// With more in the section of each flow's trail.
    #[must_use]
    pub fn trail(mut self, more: &str) -> Self {
        self.trail += more;
        self
    }

    /// With a disk of so many bytes for the trails of a site. Only at a network.
    #[must_use]
    pub fn disk(mut self, site: &str, bytes: u64) -> Self {
        self.disks[number(site)] = Some(bytes);
        self
    }

    /// Makes it: set up, instantiated, and its managers not yet started.
    ///
    /// # Panics
    /// When a step does not do what it should.
    pub async fn make(mut self) -> Reference {
        let settings = [0, 1].map(|number| match &self.network {
            Some(network) => self.settings.clone().at(network.site(number)),
            None => self.settings.clone(),
        });
        let (main, secondary) =
            tokio::join!(Server::start(self.major, &settings[0]), Server::start(self.major, &settings[1]));
        for server in [&main, &secondary] {
            for (database, tables) in ["config", "log"].into_iter().zip(&self.tables) {
                server.create_database(database).await;
                server.batch_in(database, tables).await;
            }
        }
        let rows = "INSERT INTO entry SELECT 'before', n, 'word ' || n FROM generate_series(1, 500) n";
        main.batch_in("config", rows).await;
        main.batch_in("log", rows).await;
        let directory = TempDir::new();
        let password = directory.path().join("password");
        fs::write(&password, "a secret of its own").expect("the directory is ours");
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        let reference = Reference { servers: [main, secondary], directory, network: self.network.take() };
        reference.configure(&self);
        for (number, bytes) in self.disks.into_iter().enumerate() {
            if let Some(bytes) = bytes {
                let trails = reference.trails(SITES[number]);
                fs::create_dir_all(&trails).expect("the directory is ours");
                reference
                    .network
                    .as_ref()
                    .expect("only a site with a network has disks")
                    .mount(number, &trails, bytes);
            }
        }
        reference.expect("main", 0, &["certs", "certs"]).await;
        reference.expect("main", 3, &["certs", "certs"]).await;
        reference.expect("main", 0, &["setup", "csp", "msp"]).await;
        reference.expect("secondary", 0, &["setup", "mss", "--start-here"]).await;
        reference.expect("main", 0, &["instantiate", "csp"]).await;
        reference.expect("main", 0, &["instantiate", "msp"]).await;
        reference
    }
}

impl Reference {
    /// The directory of a site's trails.
    pub fn trails(&self, site: &str) -> PathBuf {
        self.directory.path().join(format!("state-{site}/trail"))
    }

    fn configure(&self, plan: &Plan) {
        let Plan { link, flow: flow_options, trail, more, .. } = plan;
        let listens = [0, 1].map(|number| match &self.network {
            Some(network) => format!("{}:{PORT}", network.site(number).address()),
            None => format!("127.0.0.1:{}", free_port()),
        });
        let mut text = "[deployment]\nname = \"shop\"\nstate_directory = \"state-{site}\"\n".to_owned();
        text += &format!("[link]\ncertificates = \"certs\"\n{link}");
        for ((site, server), listen) in SITES.iter().zip(&self.servers).zip(listens) {
            let address = listen.replace("127.0.0.1", "localhost");
            text += &format!("[sites.{site}]\nlisten = \"{listen}\"\naddress = \"{address}\"\n");
            if plan.control {
                let here = match &self.network {
                    Some(network) => format!("{}:{CONTROL}", network.site(number(site)).address()),
                    None => format!("127.0.0.1:{}", free_port()),
                };
                let reached = here.replace("127.0.0.1", "localhost");
                text += &format!("control_listen = \"{here}\"\ncontrol_address = \"{reached}\"\n");
            }
            if plan.http {
                text += &format!("http = \"127.0.0.1:{}\"\n", free_port());
            }
            for database in ["config", "log"] {
                let uri = server.uri("postgres", database);
                text += &format!(
                    "[databases.{database}.{site}]\nuri = \"{}\"\npassword_file = \"password\"\nadmin_uri = \"{uri}\"\n",
                    uri.replace("postgres@", ""),
                );
            }
        }
        for (flow, database, from, to) in [
            ("csp", "config", "main", "secondary"),
            ("css", "config", "secondary", "main"),
            ("msp", "log", "main", "secondary"),
            ("mss", "log", "secondary", "main"),
        ] {
            text += &format!(
                "[flows.{flow}]\ndatabase = \"{database}\"\nfrom = \"{from}\"\nto = \"{to}\"\n\
                 tables = [\"public.*\"]\nautostart = {}\n[flows.{flow}.pump]\n[flows.{flow}.extract]\n\
                 {flow_options}[flows.{flow}.trail]\n{trail}",
                flow != "css"
            );
        }
        fs::write(self.directory.path().join("irongate.toml"), text + more.as_str())
            .expect("the directory is ours");
    }

    /// The network of a site, if it has one.
    pub fn place(&self, site: &str) -> Option<&Site> {
        Some(self.network.as_ref()?.site(number(site)))
    }

    /// The same command, at a site.
    pub fn enter(&self, site: &str, command: std::process::Command) -> std::process::Command {
        match self.place(site) {
            Some(place) => place.enter(&command),
            None => command,
        }
    }

    /// Starts a command of the program at a site.
    pub fn start(&self, site: &str, arguments: &[&str]) -> Process {
        let arguments = [&["--site", site], arguments].concat();
        Process::spawn(self.enter(site, Process::command(self.directory.path(), &arguments)))
    }

    /// Runs a command of the program to its end, and expects this exit code.
    ///
    /// # Panics
    /// When it is another.
    pub async fn expect(&self, site: &str, code: i32, arguments: &[&str]) -> Finished {
        let finished = self.start(site, arguments).finish(PATIENCE).await;
        let (out, err) = (&finished.stdout, &finished.stderr);
        assert_eq!(finished.code(), code, "irongate {} at {site}\n{out}\n{err}", arguments.join(" "));
        finished
    }

    /// Runs one of the scripts for operators, and expects this exit code.
    ///
    /// # Panics
    /// When it is another.
    pub async fn script(&self, site: &str, code: i32, name: &str, arguments: &[&str]) -> Finished {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(name);
        let mut command = std::process::Command::new(script);
        command.args(arguments).current_dir(self.directory.path());
        command.env("IRONGATE_BIN", Process::binary()).env("IRONGATE_SITE", site);
        let finished = Process::spawn(self.enter(site, command)).finish(PATIENCE).await;
        let (out, err) = (&finished.stdout, &finished.stderr);
        assert_eq!(finished.code(), code, "{name} {} at {site}\n{out}\n{err}", arguments.join(" "));
        finished
    }

    /// Runs a plan of a site until it kills itself at a place of one of its steps; whether it came there.
    ///
    /// # Panics
    /// When it ends in another way.
    pub async fn cut_off(&self, at: &str, cut: &Cut<'_>) -> bool {
        self.cut_off_by("", at, cut).await
    }

    /// The same of a reinstatement that is to be made `by` a copy or a repair, or of a failover by force.
    ///
    /// # Panics
    /// When it ends in another way.
    pub async fn cut_off_by(&self, by: &str, at: &str, cut: &Cut<'_>) -> bool {
        let Cut { plan, site, order, step, place } = *cut;
        let mut command = std::process::Command::new(program("run-a-plan"));
        command.arg(self.directory.path().join("irongate.toml"));
        command.args([at, plan, site, order, step, place]).current_dir(self.directory.path());
        command.env("IRONGATE_TEST_BY", by);
        command.env("IRONGATE_TEST_FORCE", if by == "force" { "yes" } else { "" });
        let mut run = Process::spawn(self.enter(at, command));
        let status = run.wait(PATIENCE).await;
        if status.success() {
            return false;
        }
        // Its own death, or the exit code that tells of it.
        let is_killed = status.signal() == Some(9) || status.code() == Some(128 + 9);
        assert!(is_killed, "{plan} at {step} {place}: {status}: {}", run.stderr());
        true
    }

    /// The JSON document of a command that succeeds.
    ///
    /// # Panics
    /// When it does not.
    pub async fn json(&self, site: &str, arguments: &[&str]) -> Value {
        self.expect(site, 0, &[arguments, &["--json"]].concat()).await.json()
    }

    /// What info says of the groups of a site; with managers that the other site's reach, of both, as far as they answer.
    ///
    /// # Panics
    /// When it says nothing.
    pub async fn groups(&self, site: &str) -> Vec<Value> {
        let info = self.start(site, &["info", "--json"]).finish(PATIENCE).await;
        // Executed but incomplete: the other site's manager is not there yet, or not any more.
        assert!([0, 4].contains(&info.code()), "info at {site}\n{}\n{}", info.stdout, info.stderr);
        info.json()["groups"].as_array().expect("groups are a list").clone()
    }

    /// The newest events of a site, the oldest first.
    ///
    /// # Panics
    /// When its manager does not answer.
    pub async fn events(&self, site: &str) -> Vec<Value> {
        let events = self.json(site, &["events", "-n", "1000"]).await;
        events["events"].as_array().expect("events are a list").clone()
    }

    /// What a site's manager serves at `/metrics`.
    ///
    /// # Panics
    /// When it serves nothing.
    pub fn metrics(&self, site: &str) -> String {
        let text = fs::read_to_string(self.directory.path().join("irongate.toml")).expect("the file is ours");
        let addresses = text.lines().filter_map(|line| line.strip_prefix("http = "));
        let address = addresses.map(|address| address.trim_matches('"')).nth(number(site));
        let mut stream = std::net::TcpStream::connect(address.expect("it serves")).expect("it listens");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (head, page) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        page.to_owned()
    }

    /// Ends the manager and the groups of a site at once, as a power cut does.
    pub fn kill(&self, site: &str) {
        if let Some(place) = self.place(site) {
            place.kill(&["irongate"]);
            return;
        }
        let ask = |words: &[&str]| {
            let arguments = [&["--site", site, "--json"], words].concat();
            let answer = Process::command(self.directory.path(), &arguments).output();
            answer.ok().and_then(|answer| serde_json::from_slice::<Value>(&answer.stdout).ok())
        };
        let kill = |pid: &Value| {
            if let Some(pid) = pid.as_i64().and_then(|pid| Pid::from_raw(pid as i32)) {
                let _ = kill_process(pid, Signal::KILL);
            }
        };
        let groups = ask(&["info"]).unwrap_or_default();
        // The manager first, or it would start the groups again.
        kill(&ask(&["health"]).unwrap_or_default()["pid"]);
        let own = groups["groups"].as_array().into_iter().flatten().filter(|group| {
            // With managers that the other site's reach, both sites' groups are told.
            group["site"].as_str().is_none_or(|at| at == site)
        });
        own.for_each(|group| kill(&group["pid"]));
    }

    /// Waits until everything runs that should, and looks that nothing else does.
    ///
    /// # Panics
    /// When that takes too long, or the reverse flow was started.
    pub async fn runs(&self) {
        for site in SITES {
            wait_for(PATIENCE, &format!("all groups of {site} to run"), async || {
                let groups = self.groups(site).await;
                let (reverse, others): (Vec<_>, Vec<_>) =
                    groups.iter().partition(|group| group["flow"] == "css");
                assert!(reverse.iter().all(|group| group["doing"] == "never started"), "{reverse:?}");
                assert_eq!(others.len(), 6 - usize::from(site == "secondary"));
                match others.iter().find(|group| group["state"] != "RUNNING") {
                    None => Ok(()),
                    Some(group) => Err(group.to_string()),
                }
            })
            .await;
        }
    }

    /// Waits until what was written at each site by now is at the other.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn drained(&self, mark: i64) {
        for (database, from) in [("config", 0), ("log", 0), ("log", 1)] {
            let site = SITES[from];
            let sql = format!("INSERT INTO entry VALUES ('mark {site}', {mark})");
            self.servers[from].batch_in(database, &sql).await;
            let seen = format!("SELECT count(*) FROM entry WHERE site = 'mark {site}' AND n = {mark}");
            wait_until(PATIENCE, &format!("mark {mark} of {database} at {site}"), async || {
                self.servers[1 - from].scalar(database, &seen).await == "1"
            })
            .await;
        }
    }

    /// The same, and compares: both databases.
    ///
    /// # Panics
    /// When there are differences.
    pub async fn same(&self, mark: i64) -> [Comparison; 2] {
        self.drained(mark).await;
        let mut found = Vec::new();
        for database in ["config", "log"] {
            // The test is at no site: it comes in by unix socket.
            let [one, other] = self.servers.each_ref().map(|server| server.socket_uri("postgres", database));
            let comparison = compare(&one, &other, &Tables::All).await;
            comparison.assert_same();
            found.push(comparison);
        }
        <[_; 2]>::try_from(found).expect("there are two databases")
    }

    /// Expects that nothing goes round: with nobody writing, the counts of both Extracts of the log stand still.
    ///
    /// # Panics
    /// When they do not.
    pub async fn nothing_goes_round(&self) {
        let sent = async |site: &str, group: &str| {
            self.json(site, &["stats", group]).await["groups"][0]["tables"].to_string()
        };
        // Each tells of itself once a second.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = [sent("main", "msp-extract").await, sent("secondary", "mss-extract").await];
        tokio::time::sleep(Duration::from_secs(2)).await;
        let after = [sent("main", "msp-extract").await, sent("secondary", "mss-extract").await];
        assert_eq!(before, after, "something goes round");
    }
}

impl Drop for Reference {
    /// A test that fails leaves managers and groups that outlive it.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for site in SITES {
            self.kill(site);
        }
    }
}

/// The place of a site in [`SITES`].
fn number(site: &str) -> usize {
    SITES.iter().position(|name| *name == site).unwrap_or_else(|| panic!("there is no site \"{site}\""))
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}
