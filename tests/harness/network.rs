//! Two sites with a network of their own each, and a line between them that is as long, as narrow and as broken as a
//! test wants it.
//!
//! The sites are network and mount namespaces that a process of their own holds, the relay. It has no place in the
//! file system and no name: when it ends, all of it is gone. It ends with this value, or when the test process dies, and
//! takes with it whatever still runs at a site. The line is the relay's too: it reads the packets of each site from a TUN
//! device, which every kernel has, and writes them to the other's when their time has come.
//!
//! As root nothing else is needed. Another user gets a user namespace as well, where the kernel gives one and lets
//! everybody open `/dev/net/tun`.

pub mod order;

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use self::order::{Answer, Count, NOT_HERE, Order, Ready, Shape, Way, address};

/// How long a killed process may take to go.
const PATIENCE: Duration = Duration::from_secs(30);

/// Two sites and the line between them.
#[derive(Debug)]
pub struct Network {
    sites: [Site; 2],
    /// Its standard input takes orders, one line each, and its standard output answers.
    relay: Mutex<(Child, BufReader<ChildStdout>)>,
}

/// One site: what is started here sees this site's network and its mounts, and else what everybody sees.
#[derive(Clone, Debug)]
pub struct Site {
    number: usize,
    /// The relay's thread that holds the namespaces, below `/proc`.
    thread: PathBuf,
    /// The network namespace's inode, by which its processes are found.
    inode: u64,
}

impl Network {
    /// Makes the sites, with a line between them that delays and loses nothing.
    ///
    /// # Errors
    /// Why this machine or this user has no such thing.
    ///
    /// # Panics
    /// When it should work and does not.
    pub fn start() -> Result<Self, String> {
        let mut command = if rustix::process::geteuid().is_root() {
            Command::new(program("relay"))
        } else {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-current-user", "--keep-caps", "--"]).arg(program("relay"));
            command
        };
        // Ctrl-C at the terminal goes to the test's process group; the relay has to clear up after it.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut relay =
            command.spawn().unwrap_or_else(|error| panic!("cannot run {:?}: {error}", command.get_program()));
        let mut stdout = BufReader::new(relay.stdout.take().expect("it is piped"));
        let mut line = String::new();
        let read = stdout.read_line(&mut line);
        if !matches!(read, Ok(count) if count > 0) {
            let output = relay.wait_with_output().expect("the relay can be waited for");
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            // The program that makes the user namespace says so itself.
            let is_refused = output.status.code() == Some(NOT_HERE) || said.starts_with("unshare:");
            assert!(is_refused, "the relay did not start ({}): {said}", output.status);
            return Err(said);
        }
        let ready: Ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let mut number = 0;
        let sites = ready.threads.map(|thread| {
            let thread = Path::new("/proc").join(thread);
            let inode = inode_of(&thread).expect("the relay runs");
            number += 1;
            Site { number: number - 1, thread, inode }
        });
        Ok(Self { sites, relay: Mutex::new((relay, stdout)) })
    }

    /// The same, or a line for the summary of `scripts/test` that says why `test` was skipped.
    ///
    /// # Panics
    /// As [`Network::start`].
    pub fn start_or_skip(test: &str) -> Option<Self> {
        match Self::start() {
            Ok(network) => Some(network),
            Err(reason) => {
                // Not a macro's output, which the test runner keeps to itself when a test passes. A line of its own,
                // whatever the runner has written so far.
                let _ = writeln!(std::io::stderr(), "\nskipped: {test}: {reason}");
                None
            }
        }
    }

    /// A site, 0 or 1.
    pub fn site(&self, number: usize) -> &Site {
        &self.sites[number]
    }

    /// Makes the line as long and as narrow as `shape` says, one way or both.
    ///
    /// # Panics
    /// When the relay is gone; so do the others.
    pub fn shape(&self, way: Way, shape: Shape) {
        self.order(&Order::Shape { way, shape });
    }

    /// Cuts the line: what is under way is lost, too.
    pub fn cut(&self, way: Way) {
        self.order(&Order::Cut { way, cut: true });
    }

    /// Mends the line.
    pub fn mend(&self, way: Way) {
        self.order(&Order::Cut { way, cut: false });
    }

    /// What has gone from site 0 to 1, and from 1 to 0.
    pub fn counts(&self) -> [Count; 2] {
        self.order(&Order::Count).counts
    }

    /// Gives a site a disk of its own of so many bytes at `path`, which must be a directory. Only what runs at the site
    /// sees it.
    pub fn mount(&self, site: usize, path: &Path, bytes: u64) {
        self.order(&Order::Mount { site, path: path.to_owned(), bytes });
    }

    fn order(&self, order: &Order) -> Answer {
        let mut relay = self.relay.lock().unwrap_or_else(PoisonError::into_inner);
        let (child, stdout) = &mut *relay;
        let mut text = serde_json::to_string(order).expect("an order is plain data");
        text.push('\n');
        let mut line = String::new();
        let stdin = child.stdin.as_mut().expect("it is piped");
        let asked = stdin.write_all(text.as_bytes()).and_then(|()| stdout.read_line(&mut line));
        let answer: Result<Answer, String> = match asked {
            Ok(count) if count > 0 => serde_json::from_str(&line).map_err(|error| error.to_string()),
            Ok(_) => Err("the relay is gone".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let answer = answer.unwrap_or_else(|error| panic!("{order:?}: {error}"));
        assert_eq!(answer.error, None, "{order:?}");
        answer
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let (relay, _) = self.relay.get_mut().unwrap_or_else(PoisonError::into_inner);
        // This closes its standard input first, upon which it clears up and ends.
        let _ = relay.wait();
    }
}

impl Site {
    /// Its address, which the other site reaches it by.
    pub fn address(&self) -> Ipv4Addr {
        address(self.number)
    }

    /// The same command, to be run here; what its environment is cleared of or told, and its directory, stay.
    pub fn enter(&self, command: &Command) -> Command {
        self.enter_as(command, None)
    }

    /// The same, as another user, if root asks for it.
    pub(crate) fn enter_as(&self, command: &Command, user: Option<(u32, u32)>) -> Command {
        let namespaces = self.thread.join("ns");
        let option = |name: &str| {
            format!("--{name}={}", namespaces.join(if name == "mount" { "mnt" } else { name }).display())
        };
        let mut entering = Command::new("nsenter");
        if !rustix::process::geteuid().is_root() {
            entering.arg(option("user")).arg("--preserve-credentials");
        }
        entering.arg(option("net")).arg(option("mount"));
        if let Some((uid, gid)) = user {
            entering.arg(format!("--setuid={uid}")).arg(format!("--setgid={gid}"));
        }
        // A mount namespace is entered at its root.
        let here =
            std::env::current_dir().unwrap_or_else(|error| panic!("there is no directory here: {error}"));
        let directory = command.get_current_dir().map_or(here, Path::to_owned);
        entering.arg("--").arg("env").arg("--chdir").arg(directory);
        entering.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => entering.env(name, value),
                None => entering.env_remove(name),
            };
        }
        entering
    }

    /// A path as it is seen here, for whoever is not here.
    pub fn path(&self, path: &Path) -> PathBuf {
        self.thread.join("root").join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What runs here: process ids and names.
    pub fn processes(&self) -> Vec<(u32, String)> {
        processes_in(&[self.inode])
    }

    /// Kills the processes here that have one of these names, all of them at once, and waits until they are gone.
    ///
    /// # Panics
    /// When one does not go.
    pub fn kill(&self, names: &[&str]) {
        let begin = Instant::now();
        loop {
            let left: Vec<_> =
                self.processes().into_iter().filter(|(_, name)| names.contains(&name.as_str())).collect();
            if left.is_empty() {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "killed processes stay: {left:?}");
            for (pid, _) in left {
                let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
                let _ = pid.map(|pid| rustix::process::kill_process(pid, Signal::KILL));
            }
            // What was being made while they were listed is found in the next turn.
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The inode of the network namespace of a process or thread.
pub fn inode_of(process: &Path) -> Option<u64> {
    std::fs::metadata(process.join("ns/net")).ok().map(|namespace| namespace.ino())
}

/// The processes in network namespaces: ids and names. One that waits to be reaped is in none.
pub fn processes_in(namespaces: &[u64]) -> Vec<(u32, String)> {
    let all = std::fs::read_dir("/proc").map(|all| all.flatten().collect()).unwrap_or_else(|_| vec![]);
    let there = |entry: &std::fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let path = entry.path();
        inode_of(&path).filter(|inode| namespaces.contains(inode))?;
        Some((pid, std::fs::read_to_string(path.join("comm")).ok()?.trim().to_owned()))
    };
    all.iter().filter_map(there).collect()
}

/// A program of this package, which lies beside the test's or one directory above it.
///
/// # Panics
/// When it is not there.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap_or_else(|error| panic!("this test has no path: {error}"));
    let mut places = test.ancestors().skip(1).take(2).map(|place| place.join(name));
    let found = places.find(|place| place.is_file());
    found.unwrap_or_else(|| {
        panic!("there is no \"{name}\" beside {test:?}: build the binaries of irongate-tests")
    })
}
