//! Hooks of runs: programs in the site's own hands, executed here because a run asks for it.
//!
//! A run names a hook; which program that is, how long it may take and what it finds in its environment stands in this
//! site's own configuration. Nothing that comes from afar becomes a path or a variable's name.
//!
//! A hook begins with an empty environment but for a few variables that programs need, so that no password that
//! this process was given reaches it. It runs in a process group of its own, and is killed with it when its time is over, or
//! when the manager ends. One hook runs once at a time: whoever asks again meanwhile is told so.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use irongate_deployment::configuration::{HookName, HookOptions};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// What a hook keeps of this process's environment.
const KEPT: [&str; 9] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME", "SHELL", "TMPDIR"];
/// So much of what a hook prints is kept: the end of it, in bytes.
const OUTPUT: usize = 16 * 1024;
/// How long output is waited for after a hook has ended: something that it has started may hold on to it.
const REST: Duration = Duration::from_millis(500);
/// How often a hook is tried whose file is being written.
const BUSY_ATTEMPTS: u32 = 25;

/// What a run tells its hooks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Context {
    /// The run.
    pub run: String,
    /// Its plan, such as `switchover`.
    pub plan: String,
    /// Its step.
    pub step: String,
    /// The site that wrote when it began.
    pub from: String,
    /// The site that writes when it is over.
    pub to: String,
    /// The databases that change hands.
    pub databases: Vec<String>,
    /// Who began it, and where.
    pub holder: String,
    /// The step is being taken back.
    #[serde(default)]
    pub back: bool,
}

/// What came of a hook.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HookReport {
    /// The hook.
    pub hook: HookName,
    /// The site.
    pub site: String,
    /// The program.
    pub path: String,
    /// How it ended.
    pub result: HookResult,
    /// How long it took.
    pub seconds: f64,
    /// The end of what it printed.
    pub output: String,
}

/// How a hook ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookResult {
    /// With exit code 0.
    Done,
    /// Otherwise, or it could not be started: how.
    Failed(String),
    /// Its time was over.
    Killed,
}

impl HookReport {
    /// The last line that it printed, if there is one.
    pub fn last_line(&self) -> Option<&str> {
        self.output.lines().map(str::trim).rfind(|line| !line.is_empty())
    }
}

/// A hook that is configured.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HookState {
    /// The hook.
    pub hook: HookName,
    /// The program.
    pub path: String,
    /// How long it may take.
    pub limit_seconds: f64,
    /// Why it could not be run.
    pub problem: Option<String>,
}

/// The hooks of this site.
#[derive(Clone, Debug)]
pub(crate) struct Hooks {
    pub(crate) site: String,
    pub(crate) options: watch::Receiver<BTreeMap<HookName, HookOptions>>,
    busy: Arc<Mutex<BTreeSet<HookName>>>,
}

/// Why a hook was not run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum NotRun {
    Unknown,
    Busy,
    /// What a variable, or a line of a log, cannot hold.
    Unsayable,
}

/// Holds the place of a hook that runs.
struct Turn {
    busy: Arc<Mutex<BTreeSet<HookName>>>,
    hook: HookName,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.hook);
    }
}

impl Hooks {
    pub(crate) fn new(site: &str, options: watch::Receiver<BTreeMap<HookName, HookOptions>>) -> Self {
        Self { site: site.to_owned(), options, busy: Arc::default() }
    }

    /// Those that are configured, and whether each could be run.
    pub(crate) fn states(&self) -> Vec<HookState> {
        let state = |(hook, options): (&HookName, &HookOptions)| HookState {
            hook: *hook,
            path: options.path.display().to_string(),
            limit_seconds: options.time_limit.as_secs_f64(),
            problem: options.problem(),
        };
        self.options.borrow().iter().map(state).collect()
    }

    /// Runs a hook to its end.
    ///
    /// Cancelling kills it.
    pub(crate) async fn run(&self, hook: HookName, context: &Context) -> Result<HookReport, NotRun> {
        let options = self.options.borrow().get(&hook).cloned().ok_or(NotRun::Unknown)?;
        let texts = [&context.run, &context.plan, &context.step, &context.from, &context.to, &context.holder];
        if texts.into_iter().chain(&context.databases).any(|text| text.contains(char::is_control)) {
            return Err(NotRun::Unsayable);
        }
        if !self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(hook) {
            return Err(NotRun::Busy);
        }
        let _turn = Turn { busy: Arc::clone(&self.busy), hook };
        let begun = Instant::now();
        let (result, output) = match options.problem() {
            Some(problem) => (HookResult::Failed(format!("could not be started: {problem}")), String::new()),
            None => execute(&self.site, hook, &options, context).await,
        };
        Ok(HookReport {
            hook,
            site: self.site.clone(),
            path: options.path.display().to_string(),
            result,
            seconds: begun.elapsed().as_secs_f64(),
            output,
        })
    }
}

/// A hook with everything that it has started. Dropped before its end, it is killed.
pub(crate) struct Group {
    pub(crate) child: Child,
    /// Nothing is killed any more without one.
    pid: Option<Pid>,
}

impl Group {
    pub(crate) fn of(child: Child) -> Self {
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Self { child, pid }
    }

    /// It has ended, and what it has left at work is its own business.
    pub(crate) fn release(&mut self) {
        self.pid = None;
    }

    pub(crate) fn kill(&mut self) {
        if let Some(pid) = self.pid.take() {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a program. A file that somebody is just writing is waited for.
pub(crate) async fn spawn(command: &mut Command) -> io::Result<Child> {
    for _ in 0..BUSY_ATTEMPTS {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
    command.spawn()
}

/// How it ended, and the end of what it printed.
async fn execute(
    site: &str,
    hook: HookName,
    options: &HookOptions,
    context: &Context,
) -> (HookResult, String) {
    let failed =
        |error: io::Error| (HookResult::Failed(format!("could not be started: {error}")), String::new());
    let (reader, writer) = match std::io::pipe() {
        Ok(pipe) => pipe,
        Err(error) => return failed(error),
    };
    let mut reader = match pipe::Receiver::from_owned_fd(reader.into()) {
        Ok(reader) => reader,
        Err(error) => return failed(error),
    };
    let started = async {
        let mut command = Command::new(&options.path);
        command
            .env_clear()
            .envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .envs(&options.environment)
            .env("IRONGATE_HOOK", hook.word())
            .env("IRONGATE_SITE", site)
            .env("IRONGATE_RUN", &context.run)
            .env("IRONGATE_PLAN", &context.plan)
            .env("IRONGATE_STEP", &context.step)
            .env("IRONGATE_FROM", &context.from)
            .env("IRONGATE_TO", &context.to)
            .env("IRONGATE_DATABASES", context.databases.join(" "))
            .env("IRONGATE_HOLDER", &context.holder)
            .env("IRONGATE_BACK", if context.back { "yes" } else { "no" })
            .stdin(Stdio::piped())
            .stdout(Stdio::from(writer.try_clone()?))
            .stderr(Stdio::from(writer))
            .process_group(0);
        // What it prints ends when nobody holds the other end any more: this process must not, with the command.
        spawn(&mut command).await
    };
    let child = match started.await {
        Ok(child) => child,
        Err(error) => return failed(error),
    };
    let mut group = Group::of(child);
    let mut json = serde_json::json!(context);
    json["hook"] = hook.word().into();
    json["site"] = site.into();
    let json = format!("{json}\n");
    let mut output = Vec::new();
    let input = group.child.stdin.take();
    let ended = {
        let told = async {
            if let Some(mut input) = input {
                // A hook that does not read its input is content with its environment.
                let _ = input.write_all(json.as_bytes()).await;
            }
        };
        let heard = hear(&mut reader, &mut output);
        let waited = group.child.wait();
        let conversation = async {
            tokio::pin!(heard, told, waited);
            let mut is_told = false;
            let mut is_heard = false;
            loop {
                tokio::select! {
                    status = &mut waited => {
                        if !is_heard {
                            let _ = tokio::time::timeout(REST, &mut heard).await;
                        }
                        return status;
                    }
                    () = &mut told, if !is_told => is_told = true,
                    () = &mut heard, if !is_heard => is_heard = true,
                }
            }
        };
        tokio::time::timeout(options.time_limit, conversation).await
    };
    let result = match ended {
        Ok(Ok(status)) => {
            group.release();
            if status.success() { HookResult::Done } else { HookResult::Failed(status.to_string()) }
        }
        Ok(Err(error)) => HookResult::Failed(format!("could not be waited for: {error}")),
        Err(_) => {
            group.kill();
            let _ = group.child.wait().await;
            HookResult::Killed
        }
    };
    (result, text(&output))
}

/// Keeps the end of what is printed.
async fn hear(reader: &mut pipe::Receiver, output: &mut Vec<u8>) {
    let mut buffer = [0; 4096];
    while let Ok(length) = reader.read(&mut buffer).await {
        if length == 0 {
            return;
        }
        output.extend_from_slice(&buffer[..length]);
        if output.len() > 2 * OUTPUT {
            output.drain(..output.len() - OUTPUT);
        }
    }
}

/// As text that moves no cursor: whoever shows it shows it on a terminal.
fn text(output: &[u8]) -> String {
    let end = &output[output.len().saturating_sub(OUTPUT)..];
    let is_shown = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
    String::from_utf8_lossy(end).chars().filter(is_shown).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use super::*;

    fn script(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("hook");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn hooks(path: &Path, time_limit: Duration) -> (Hooks, watch::Sender<BTreeMap<HookName, HookOptions>>) {
        let environment = [("HOSTS".to_owned(), "one two".to_owned())].into();
        let options = HookOptions { path: path.to_owned(), time_limit, environment };
        let (sender, receiver) = watch::channel([(HookName::Notify, options)].into());
        (Hooks::new("secondary", receiver), sender)
    }

    fn context() -> Context {
        Context {
            run: "switchover-1".into(),
            plan: "switchover".into(),
            step: "notify".into(),
            from: "main".into(),
            to: "secondary".into(),
            databases: vec!["config".into(), "other".into()],
            holder: "dba@here; $(exit)".into(),
            back: false,
        }
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_hook_is_told_of_its_run_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = script(dir.path(), "env | sort; cat; echo to stderr >&2");
        let (hooks, _sender) = hooks(&path, LONG);
        let report = hooks.run(HookName::Notify, &context()).await.unwrap();
        assert_eq!(report.result, HookResult::Done);
        let mut names = BTreeSet::new();
        for line in report.output.lines().take_while(|line| !line.starts_with('{')) {
            names.extend(line.split_once('=').map(|(name, _)| name.to_owned()));
        }
        for own in ["HOOK", "SITE", "RUN", "PLAN", "STEP", "FROM", "TO", "DATABASES", "HOLDER", "BACK"] {
            assert!(names.remove(&format!("IRONGATE_{own}")), "{own}");
        }
        assert!(names.remove("HOSTS") && names.remove("PATH"));
        // The shell's own, and what is kept. Cargo gives this process dozens more.
        let others: Vec<_> = names
            .iter()
            .filter(|name| {
                !KEPT.contains(&name.as_str()) && !["PWD", "SHLVL", "OLDPWD", "_"].contains(&name.as_str())
            })
            .collect();
        assert!(others.is_empty() && std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "{others:?}");
        assert!(report.output.contains("IRONGATE_DATABASES=config other\n"), "{}", report.output);
        let json = report.output.lines().find(|line| line.starts_with('{')).unwrap();
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(
            (&json["run"], &json["site"], &json["hook"]),
            (&"switchover-1".into(), &"secondary".into(), &"notify".into())
        );
        assert_eq!(report.last_line(), Some("to stderr"));
    }

    #[tokio::test]
    async fn a_hook_that_fails_says_why_and_one_that_hangs_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let path = script(dir.path(), "echo first; echo; printf '\\033[31mthe last line\\n'; exit 7");
        let (failing, _sender) = hooks(&path, LONG);
        let report = failing.run(HookName::Notify, &context()).await.unwrap();
        assert_eq!(report.result, HookResult::Failed("exit status: 7".into()));
        assert_eq!(report.last_line(), Some("[31mthe last line"));
        assert_eq!(failing.run(HookName::Fence, &context()).await, Err(NotRun::Unknown));
        let odd = Context { run: "a\nb".into(), ..context() };
        assert_eq!(failing.run(HookName::Notify, &odd).await, Err(NotRun::Unsayable));
        let path = script(dir.path(), "echo begun; sleep 600 & echo $! > \"$0.pid\"; wait");
        let (hanging, _sender) = hooks(&path, Duration::from_millis(600));
        let begun = Instant::now();
        let report = hanging.run(HookName::Notify, &context()).await.unwrap();
        assert_eq!((report.result, report.output.as_str()), (HookResult::Killed, "begun\n"));
        assert!(begun.elapsed() < Duration::from_secs(10));
        let pid: i32 = std::fs::read_to_string(dir.path().join("hook.pid")).unwrap().trim().parse().unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let deadline = Instant::now() + Duration::from_secs(5);
        while !state().is_empty() && !state().contains(") Z") {
            assert!(Instant::now() < deadline, "the hook's child is still there: {}", state());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn much_output_and_a_child_that_stays_hold_up_nothing_and_one_runs_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let lines = "i=0; while [ $i -lt 4000 ]; do echo \"line $i of a lot of output\"; i=$((i+1)); done";
        let path = script(dir.path(), &format!("{lines}; sleep 5 & echo end"));
        let (hooks, sender) = hooks(&path, LONG);
        let begun = Instant::now();
        let context = context();
        let (one, other) =
            tokio::join!(hooks.run(HookName::Notify, &context), hooks.run(HookName::Notify, &context));
        assert_eq!(other, Err(NotRun::Busy));
        let report = one.unwrap();
        assert_eq!((report.last_line(), report.output.len()), (Some("end"), OUTPUT));
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        // Its place is free again; what is configured anew holds.
        assert_eq!(hooks.states()[0].problem, None);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(hooks.states()[0].problem.as_ref().unwrap().contains("cannot be executed"));
        let report = hooks.run(HookName::Notify, &context).await.unwrap();
        assert!(matches!(&report.result, HookResult::Failed(reason) if reason.contains("Permission denied")));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        let report = hooks.run(HookName::Notify, &context).await.unwrap();
        assert!(
            matches!(&report.result, HookResult::Failed(reason) if reason.contains("anybody can write it (0777)"))
        );
        std::fs::remove_file(&path).unwrap();
        assert!(hooks.states()[0].problem.as_ref().unwrap().contains("No such file"));
        sender.send_replace(BTreeMap::new());
        assert!(hooks.states().is_empty());
    }
}
