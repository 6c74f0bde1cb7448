//! The notify hook: a program of the operator's that is told of events.
//!
//! It runs in a task of its own behind a bounded queue, so however slow it is, supervision does not wait. What does not
//! fit in the queue is counted and told as one event.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Entry;
use crate::hook::{Group, spawn};
use crate::settings::Hook;

/// Events that wait for the hook at most.
const QUEUE: usize = 256;

/// What the hook's task is given.
#[derive(Debug)]
pub(crate) struct Hooked {
    /// The hook as it is configured at this moment.
    pub(crate) hook: Hook,
    /// The event.
    pub(crate) entry: Entry,
}

/// The hook's task, as seen by who has events.
#[derive(Debug)]
pub(crate) struct Runner {
    queue: mpsc::Sender<Hooked>,
    task: JoinHandle<()>,
    /// Events that did not fit, since they were last told of.
    pub(crate) dropped: u64,
}

impl Runner {
    /// Starts the task. Failures are sent to `failed` as sentences.
    pub(crate) fn start(site: String, failed: mpsc::UnboundedSender<String>) -> Self {
        let (queue, mut events) = mpsc::channel::<Hooked>(QUEUE);
        let task = tokio::spawn(async move {
            while let Some(hooked) = events.recv().await {
                if let Err(reason) = run(&site, &hooked).await
                    && failed.send(reason).is_err()
                {
                    return;
                }
            }
        });
        Self { queue, task, dropped: 0 }
    }

    /// Hands an event over; never waits.
    pub(crate) fn tell(&mut self, hooked: Hooked) {
        if self.queue.try_send(hooked).is_err() {
            self.dropped += 1;
        }
    }

    /// Waits until everything that was handed over has been told, or `limit` has passed.
    pub(crate) async fn finish(self, limit: Duration) {
        drop(self.queue);
        let _ = tokio::time::timeout(limit, self.task).await;
    }
}

async fn run(site: &str, Hooked { hook, entry }: &Hooked) -> Result<(), String> {
    let path = hook.path.display();
    let mut command = Command::new(&hook.path);
    command
        .env("IRONGATE_SITE", site)
        .env("IRONGATE_EVENT_TIME", &entry.time)
        .env("IRONGATE_EVENT_SEVERITY", entry.notice.severity.to_string())
        .env("IRONGATE_EVENT_KIND", entry.notice.kind.to_string())
        .env("IRONGATE_EVENT_TEXT", entry.notice.text.replace('\0', " "))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    match &entry.notice.group {
        Some(group) => command.env("IRONGATE_GROUP", group),
        None => command.env_remove("IRONGATE_GROUP"),
    };
    let child = spawn(&mut command)
        .await
        .map_err(|error| format!("hook \"{path}\" could not be started: {error}"))?;
    let mut group = Group::of(child);
    let mut json = serde_json::to_vec(entry).unwrap_or_default();
    json.push(b'\n');
    let converse = async {
        if let Some(mut input) = group.child.stdin.take() {
            // A hook that does not read its input is content with its environment.
            let _ = input.write_all(&json).await;
        }
        group.child.wait().await
    };
    let ended = tokio::time::timeout(hook.limit, converse).await;
    if ended.is_ok() {
        group.release();
    }
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("hook \"{path}\" failed: {status}")),
        Ok(Err(error)) => Err(format!("hook \"{path}\" could not be waited for: {error}")),
        Err(_) => {
            group.kill();
            let _ = group.child.wait().await;
            Err(format!("hook \"{path}\" was killed: it took longer than {:.1} s", hook.limit.as_secs_f64()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::time::Instant;

    use super::*;
    use crate::event::{Kind, Notice, Severity};

    fn script(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("hook");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn hooked(path: &Path, limit: Duration) -> Hooked {
        let notice = Notice::new(Severity::Error, Kind::Abended, "it \"broke\"; $(exit)").of("a-extract");
        let hook = Hook { path: path.to_owned(), severity: Severity::Info, limit };
        Hooked { hook, entry: Entry::now(notice) }
    }

    #[tokio::test]
    async fn the_hook_gets_the_event_in_its_environment_and_on_its_input() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let text = format!(
            "{{ echo \"$IRONGATE_SITE|$IRONGATE_EVENT_SEVERITY|$IRONGATE_EVENT_KIND|$IRONGATE_GROUP|$IRONGATE_EVENT_TEXT\"; cat; }} > {}",
            out.display()
        );
        let path = script(dir.path(), &text);
        run("main", &hooked(&path, Duration::from_secs(10))).await.unwrap();
        let said = std::fs::read_to_string(out).unwrap();
        let (first, json) = said.split_once('\n').unwrap();
        assert_eq!(first, "main|error|abended|a-extract|it \"broke\"; $(exit)");
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!((&json["kind"], &json["group"]), (&"abended".into(), &"a-extract".into()));
    }

    #[tokio::test]
    async fn a_hook_that_fails_is_missing_or_hangs_says_so_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let failing = script(dir.path(), "exit 7");
        let said = run("main", &hooked(&failing, Duration::from_secs(10))).await.unwrap_err();
        assert!(said.contains("failed") && said.contains('7'), "{said}");
        let missing = dir.path().join("nothing");
        let said = run("main", &hooked(&missing, Duration::from_secs(10))).await.unwrap_err();
        assert!(said.contains("could not be started") && said.contains("nothing"), "{said}");
        // Its own children hold the pipe; they go with it.
        let hanging = script(dir.path(), "sleep 600 & echo $! > \"$0.pid\"; wait");
        let begin = Instant::now();
        let said = run("main", &hooked(&hanging, Duration::from_millis(700))).await.unwrap_err();
        assert!(said.contains("longer than 0.7 s") && begin.elapsed() < Duration::from_secs(5), "{said}");
        let pid: i32 = std::fs::read_to_string(dir.path().join("hook.pid")).unwrap().trim().parse().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        while !state().is_empty() && !state().contains(") Z") {
            assert!(Instant::now() < deadline, "the hook's child is still there: {}", state());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_hook_that_hangs_keeps_nobody_waiting_and_what_is_lost_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let hanging = script(dir.path(), "exec sleep 600");
        let (failed, mut failures) = mpsc::unbounded_channel();
        let mut runner = Runner::start("main".into(), failed);
        let begin = Instant::now();
        for _ in 0..QUEUE + 50 {
            runner.tell(hooked(&hanging, Duration::from_millis(300)));
        }
        assert!(begin.elapsed() < Duration::from_millis(250), "{:?}", begin.elapsed());
        assert!(runner.dropped >= 49, "{}", runner.dropped);
        assert!(failures.recv().await.unwrap().contains("was killed"));
    }
}
