//! A site under test: a state directory, a settings file, and managers of it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use irongate_checkpoint::State;
use irongate_manager::supervisor::Word;
use irongate_manager::{Control, GroupInfo, Info};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

/// How long anything may take: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const SITE: &str = "main";

/// A site. Dropped, its processes are ended by their numbers.
pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) settings: Value,
    managers: Vec<Child>,
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal);
}

pub(crate) fn is_alive(pid: u32) -> bool {
    // A zombie whose parent is gone is reaped by init, at its leisure.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    test_kill_process(Pid::from_raw(pid.cast_signed()).unwrap()).is_ok() && !stat.contains(") Z ")
}

/// Waits until `is` gives something.
pub(crate) async fn until<T>(what: &str, mut is: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = is().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Site {
    /// A site with groups: name, behaviour, autostart. The first one is the Extract of the flow "f".
    pub(crate) fn new(groups: &[(&str, &str, bool)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = json!({
            "site": SITE, "state": dir.path().join("state"), "groups": groups,
            "attempts": 3, "first": 30, "longest": 120, "reset": 60_000, "stop_limit": 10_000, "watch": 50,
        });
        std::fs::create_dir(dir.path().join("state")).unwrap();
        Self { dir, settings, managers: Vec::new() }
    }

    pub(crate) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.settings[key] = value.into();
        self
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The manager's own directory.
    pub(crate) fn own(&self) -> PathBuf {
        self.state().join("manager").join(SITE)
    }

    pub(crate) fn write(&self) -> PathBuf {
        let file = self.dir.path().join("settings.json");
        std::fs::write(&file, self.settings.to_string()).unwrap();
        file
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("manager.log")
    }

    pub(crate) fn command(&self) -> Command {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_play-a-part"));
        command.arg("manager").arg(self.write()).stdin(Stdio::null());
        command.stderr(log.try_clone().unwrap()).stdout(log);
        command
    }

    /// Starts a manager and does not wait for it.
    pub(crate) fn launch(&mut self) -> u32 {
        self.launch_as(self.command())
    }

    /// Starts a manager by a command that was prepared.
    pub(crate) fn launch_as(&mut self, mut command: Command) -> u32 {
        let child = command.spawn().unwrap();
        let pid = child.id();
        self.managers.push(child);
        pid
    }

    /// Starts a manager and waits until it answers.
    pub(crate) async fn start(&mut self) -> u32 {
        let pid = self.launch();
        until("the manager answers", async || self.control().ping().await.ok().filter(|(p, _)| *p == pid))
            .await;
        pid
    }

    pub(crate) async fn ended(&mut self, pid: u32) -> ExitStatus {
        let at = self.managers.iter().position(|child| child.id() == pid).unwrap();
        let mut child = self.managers.swap_remove(at);
        until("the manager ends", async || child.try_wait().unwrap()).await
    }

    /// Stops a manager in order.
    pub(crate) async fn stop(&mut self, pid: u32) {
        signal(pid, Signal::TERM);
        let status = self.ended(pid).await;
        assert!(status.success(), "{status}: {}", self.said());
    }

    /// Kills a manager.
    pub(crate) async fn kill(&mut self, pid: u32) {
        signal(pid, Signal::KILL);
        self.ended(pid).await;
    }

    /// What managers have printed.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    pub(crate) fn control(&self) -> Control {
        Control::of(&self.state(), SITE).with_patience(PATIENCE)
    }

    pub(crate) async fn info(&self) -> Info {
        self.control().info().await.unwrap()
    }

    pub(crate) async fn group(&self, name: &str) -> GroupInfo {
        let info = self.info().await;
        info.groups.into_iter().find(|group| group.name == name).unwrap()
    }

    /// Waits until a group is in a state, and gives it.
    pub(crate) async fn until_state(&self, name: &str, state: State) -> GroupInfo {
        let what = format!("\"{name}\" is {state}");
        until(&what, async || Some(self.group(name).await).filter(|group| group.state == state)).await
    }

    pub(crate) async fn order(&self, word: Word, name: &str) -> irongate_manager::control::Outcome {
        let names = [name.to_owned()];
        let outcomes = self.control().order(word, &names, PATIENCE).await.unwrap();
        assert_eq!(outcomes.len(), 1);
        outcomes.into_iter().next().unwrap()
    }

    /// The texts of all events of a kind.
    pub(crate) async fn events(&self, kind: irongate_manager::event::Kind) -> Vec<String> {
        let mut events = self.control().events(10_000, false).await.unwrap();
        let mut texts = Vec::new();
        while let Some(entry) = events.next().await.unwrap() {
            if entry.notice.kind == kind {
                texts.push(entry.notice.text);
            }
        }
        texts
    }

    /// How a group behaves from its next start on.
    pub(crate) fn behave(&self, group: &str, behaviour: &str) {
        std::fs::write(self.state().join(format!("{group}.behaviour")), behaviour).unwrap();
    }
}

/// The processes of the groups of a state directory that there are on this machine.
pub(crate) fn processes(state: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let words = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let words: Vec<_> = words.split(|byte| *byte == 0).collect();
        let is_it = words.get(1) == Some(&&b"group"[..])
            && words.get(2) == Some(&state.as_os_str().as_encoded_bytes());
        if is_it {
            found.push(path.file_name().unwrap().to_str().unwrap().parse().unwrap());
        }
    }
    found
}

impl Drop for Site {
    fn drop(&mut self) {
        for child in &mut self.managers {
            let _ = child.kill();
            let _ = child.wait();
        }
        for pid in processes(&self.state()) {
            signal(pid, Signal::KILL);
        }
    }
}
