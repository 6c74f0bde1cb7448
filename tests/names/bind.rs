//! Two BIND name servers of one zone, at free ports: the primary takes signed updates, the secondary gets them by transfer.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use irongate_tests::network::Site;
use irongate_tests::{Finished, Process, TempDir, wait_until};
use rustix::process::{Pid, Signal, kill_process};

pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// The zone that is changed.
pub(super) const ZONE: &str = "shop.example";
/// Another one at the same servers.
pub(super) const OTHER: &str = "other.example";
/// What stands in the zone: two names in one operation, of every type.
const RECORDS: &str = "db 30 IN A 192.0.2.1\nweb 30 IN A 192.0.2.10\nweb 30 IN A 192.0.2.11\n\
     db 30 IN AAAA 2001:db8::1\nalias 30 IN CNAME db.main.shop.example.\n";

/// Name servers, and a directory with a configuration of Irongate.
pub(super) struct Bind {
    pub(super) dir: TempDir,
    pub(super) ports: [u16; 2],
    places: Option<[Site; 2]>,
    servers: [Process; 2],
}

fn free_port() -> u16 {
    loop {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        if std::net::UdpSocket::bind(address).is_ok() {
            return address.port();
        }
    }
}

/// A program of BIND's, wherever it is.
fn program(name: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut places = path.split(':').chain(["/usr/sbin", "/usr/local/sbin", "/usr/bin"]);
    let found = places.find_map(|dir| Some(Path::new(dir).join(name)).filter(|path| path.is_file()));
    found.unwrap_or_else(|| panic!("there is no {name}: scripts/test installs BIND, or says how"))
}

pub(super) fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A new key as BIND writes it, readable by nobody else.
pub(super) fn make_key(file: &Path, name: &str, algorithm: &str) {
    let text = output(Command::new(program("tsig-keygen")).args(["-a", algorithm, name]));
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

/// What is secret in a key file.
pub(super) fn secret(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    text.split("secret \"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

impl Bind {
    /// Starts both and waits until they have their zones.
    pub(super) async fn start() -> Self {
        Self::start_with("hmac-sha256", |_| {}).await
    }

    /// The same with another algorithm, and with a change of how the primary is started.
    pub(super) async fn start_with(algorithm: &str, primary: impl Fn(&mut Command)) -> Self {
        Self::start_at(None, algorithm, primary).await
    }

    /// One at each site, if there are sites.
    pub(super) async fn start_at(
        places: Option<[Site; 2]>,
        algorithm: &str,
        primary: impl Fn(&mut Command),
    ) -> Self {
        // Built before anything is measured.
        tokio::task::block_in_place(Process::binary);
        let (dir, ports) = (TempDir::new(), [free_port(), free_port()]);
        make_key(&dir.path().join("names.key"), "irongate", algorithm);
        make_key(&dir.path().join("poor.key"), "poor", algorithm);
        let hosts = [0, 1].map(|number| host(places.as_ref(), number));
        for (number, port) in ports.iter().enumerate() {
            let own = dir.path().join(format!("ns{}", number + 1));
            fs::create_dir(&own).unwrap();
            let mut text = format!(
                "include \"{0}/names.key\";\ninclude \"{0}/poor.key\";\ncontrols {{ }};\n\
                 options {{ directory \"{1}\"; listen-on port {port} {{ {2}; }}; listen-on-v6 {{ none; }};\n\
                 pid-file none; session-keyfile \"{1}/session.key\"; recursion no; dnssec-validation no;\n\
                 notify-delay 0; minimal-responses yes; }};\n",
                dir.path().display(),
                own.display(),
                hosts[number],
            );
            for zone in [ZONE, OTHER] {
                text += &if number == 0 {
                    let records = format!(
                        "$TTL 300\n@ IN SOA ns1 admin ( 1 60 60 86400 30 )\n@ IN NS ns1\n@ IN NS ns2\n\
                         ns1 IN A 127.0.0.3\nns2 IN A 127.0.0.4\n{RECORDS}"
                    );
                    fs::write(own.join(zone), records).unwrap();
                    format!(
                        "zone \"{zone}\" {{ type primary; file \"{zone}\"; notify explicit; also-notify {{ {} port {}; }};\n\
                         update-policy {{ grant irongate zonesub ANY; grant poor name nothing.{zone} A; }}; }};\n",
                        hosts[1], ports[1]
                    )
                } else {
                    format!(
                        "zone \"{zone}\" {{ type secondary; file \"{zone}\"; primaries {{ {} port {}; }}; }};\n",
                        hosts[0], ports[0]
                    )
                };
            }
            fs::write(own.join("named.conf"), text).unwrap();
        }
        let start = |number: usize, change: &dyn Fn(&mut Command)| {
            // AppArmor's profiles keep the program at its usual place from files of ours; it goes by the place.
            let mut named = program("named");
            if fs::read_to_string("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|on| on.starts_with('Y'))
            {
                let own = dir.path().join("named");
                fs::copy(&named, &own).unwrap();
                named = own;
            }
            let mut command = Command::new(named);
            let file = dir.path().join(format!("ns{number}/named.conf"));
            command.args(["-g", "-n", "1", "-c"]).arg(file);
            change(&mut command);
            Process::spawn(match &places {
                Some(places) => places[number - 1].enter(&command),
                None => command,
            })
        };
        let servers = [start(1, &primary), start(2, &|_| {})];
        let bind = Self { dir, ports, places, servers };
        for number in [0, 1] {
            for zone in [ZONE, OTHER] {
                wait_until(PATIENCE, "a name server to have its zones", async || {
                    bind.says(number, "A", &format!("db.{zone}")) == "192.0.2.1"
                })
                .await;
            }
        }
        bind
    }

    /// What dig finds, sorted.
    pub(super) fn says(&self, number: usize, kind: &str, name: &str) -> String {
        let (at, port) = (format!("@{}", self.host(number)), self.ports[number].to_string());
        let words = [&at, "-p", &port, "+short", "+norecurse", "+tries=1", "+time=1", kind, name];
        let mut dig = Command::new(program("dig"));
        dig.args(words);
        let found = self.enter(dig).output().unwrap();
        let text = String::from_utf8_lossy(&found.stdout).into_owned();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines.join(" ")
    }

    /// The zone's serial at the primary.
    pub(super) fn serial(&self, zone: &str) -> String {
        self.says(0, "SOA", zone).split(' ').nth(2).unwrap_or_default().to_owned()
    }

    /// Changes records by hand, as BIND's own program does it.
    pub(super) fn edit(&self, lines: &str) {
        let edit = edit(self.dir.path(), &self.host(0), self.ports[0], lines);
        output(&mut self.enter(edit));
    }

    /// Where a name server is, as the configuration says it: one of two at one address has a name.
    pub(super) fn server(&self, number: usize) -> String {
        let is_named = self.places.is_none() && number == 1;
        let host = if is_named { "localhost".to_owned() } else { self.host(number) };
        format!("{host}:{}", self.ports[number])
    }

    fn host(&self, number: usize) -> String {
        host(self.places.as_ref(), number)
    }

    /// The same command where the primary is.
    fn enter(&self, command: Command) -> Command {
        match &self.places {
            Some(places) => places[0].enter(&command),
            None => command,
        }
    }

    /// Sends a signal to a name server.
    pub(super) fn signal(&self, number: usize, signal: Signal) {
        let pid = Pid::from_raw(self.servers[number].id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// The usual section of names, with other values where they are given: `(key, value)` as in the file.
    pub(super) fn section(&self, other: &[(&str, String)]) -> String {
        let mut keys = vec![
            ("zone", format!("\"{ZONE}\"")),
            ("server", format!("\"{}\"", self.server(0))),
            ("servers", format!("[\"{}\", \"{}\"]", self.server(0), self.server(1))),
            ("key_file", "\"names.key\"".to_owned()),
            ("time_limit", "\"10s\"".to_owned()),
        ];
        for (key, value) in other {
            keys.retain(|(known, _)| known != key);
            if !value.is_empty() {
                keys.push((key, value.clone()));
            }
        }
        let lines: Vec<_> = keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        format!("[names.shop]\n{}{RECORD_SECTIONS}", lines.concat())
    }

    /// Writes a configuration of two sites with these sections.
    pub(super) fn configure(&self, sections: &str) {
        let mut text =
            "[deployment]\nname = \"shop\"\nstate_directory = \"state\"\n[sites.main]\n[sites.secondary]\n"
                .to_owned();
        for site in ["main", "secondary"] {
            text += &format!("[databases.config.{site}]\nuri = \"postgresql://{site}.example/config\"\n");
        }
        text += "[flows.csp]\ndatabase = \"config\"\nfrom = \"main\"\nto = \"secondary\"\ntables = [\"public.*\"]\n";
        fs::write(self.dir.path().join("irongate.toml"), text + sections).unwrap();
    }

    /// Runs a command of Irongate, and expects this exit code. No secret is ever in what it prints.
    pub(super) async fn irongate(&self, code: i32, words: &[&str]) -> Finished {
        let finished = Process::run(self.dir.path(), &[words, &["-vv"]].concat(), PATIENCE).await;
        let (out, err) = (&finished.stdout, &finished.stderr);
        assert_eq!(finished.code(), code, "irongate {}\n{out}\n{err}", words.join(" "));
        for key in ["names.key", "poor.key"] {
            let secret = secret(&self.dir.path().join(key));
            assert!(!out.contains(&secret) && !err.contains(&secret), "the secret is in what it prints");
        }
        finished
    }
}

/// A change of records by hand.
pub(super) fn edit(dir: &Path, host: &str, port: u16, lines: &str) -> Command {
    let script = dir.join(format!("edit-{}", lines.len()));
    fs::write(&script, format!("server {host} {port}\n{lines}\nsend\n")).unwrap();
    let mut nsupdate = Command::new(program("nsupdate"));
    nsupdate.arg("-k").arg(dir.join("names.key")).arg(script);
    nsupdate
}

/// The address of a name server.
fn host(places: Option<&[Site; 2]>, number: usize) -> String {
    places.map_or_else(|| "127.0.0.1".to_owned(), |places| places[number].address().to_string())
}

/// What the records are at each site.
const RECORD_SECTIONS: &str = r#"
[[names.shop.records]]
name = "db"
type = "A"
values = { main = "192.0.2.1", secondary = "192.0.2.2" }
[[names.shop.records]]
name = "Web.Shop.Example."
type = "A"
values = { main = ["192.0.2.11", "192.0.2.10"], secondary = "192.0.2.20" }
[[names.shop.records]]
name = "db"
type = "AAAA"
ttl = "20s"
values = { main = "2001:db8::1", secondary = "2001:DB8::2" }
[[names.shop.records]]
name = "alias"
type = "CNAME"
databases = ["config"]
values = { main = "db.main.shop.example", secondary = "db.secondary.shop.example." }
"#;
