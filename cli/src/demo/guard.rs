//! Cleans up when the demo itself is killed.
//!
//! A destructor does not run under SIGKILL, nor when a second Ctrl-C ends the process at once. So a small shell stands
//! beside the demo; it waits for the end of its standard input, which is the end of the demo, and then ends what the
//! demo has started and removes its directory.

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;

/// Reads "add PID", "remove PID" and "over". First go the managers, or they would start again what goes next: the groups,
/// which have the demo's configuration in their command line. The pid file of a server may name a stranger by now: its
/// command line tells.
const SCRIPT: &str = r#"trap '' INT TERM HUP
pids=
while read -r word pid; do
    case $word in
        add) pids="$pids $pid" ;;
        remove)
            others=
            for one in $pids; do [ "$one" = "$pid" ] || others="$others $one"; done
            pids=$others ;;
        over) exit 0 ;;
    esac
done
for pid in $pids; do kill -KILL "$pid" 2>/dev/null; done
for process in /proc/[0-9]*; do
    if grep -q "$1/irongate.toml" "$process/cmdline" 2>/dev/null; then kill -KILL "${process#/proc/}" 2>/dev/null; fi
done
for site in main secondary; do
    pid=$(head -n 1 "$1/$site/data/postmaster.pid" 2>/dev/null)
    if [ -n "$pid" ] && grep -q "$1" "/proc/$pid/cmdline" 2>/dev/null; then
        kill -QUIT "$pid" 2>/dev/null
        for i in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$pid" 2>/dev/null || break; sleep 0.5; done
        kill -KILL "$pid" 2>/dev/null
    fi
done
rm -rf "$1""#;

/// The shell. Dropped, it is called off: whoever drops it has cleaned up.
#[derive(Clone, Debug)]
pub(super) struct Guard(Arc<Mutex<Shell>>);

#[derive(Debug)]
struct Shell {
    child: Child,
    input: Option<ChildStdin>,
}

impl Guard {
    /// Watches over the directory of a demo.
    pub(super) fn over(directory: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(SCRIPT).arg("irongate-demo-guard").arg(directory).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // Ctrl-C goes to the demo's process group; this one has to outlive it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().context("cannot start /bin/sh")?;
        let input = child.stdin.take();
        Ok(Self(Arc::new(Mutex::new(Shell { child, input }))))
    }

    /// Also ends this process, which must be a child of the demo that is not waited for before [`Guard::remove`].
    pub(super) fn add(&self, pid: u32) {
        self.say(&format!("add {pid}\n"));
    }

    /// Does not care for this process any more.
    pub(super) fn remove(&self, pid: u32) {
        self.say(&format!("remove {pid}\n"));
    }

    fn say(&self, line: &str) {
        let mut shell = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A guard that somebody has killed guards nothing; the demo goes on and cleans up by itself.
        if let Some(input) = &mut shell.input {
            let _ = input.write_all(line.as_bytes());
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if let Some(mut input) = self.input.take() {
            let _ = input.write_all(b"over\n");
        }
        let _ = self.child.wait();
    }
}
