//! Cleans up after a test process that was killed.
//!
//! A destructor does not run under SIGKILL, and a runner that loses patience kills. So each server and each directory
//! that outlives a function has a small shell beside it that waits for the end of its standard input, which is the
//! death of the test process, and then does the destructor's work.

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Waits for the death of this process. Dropped, it is called off.
#[derive(Debug)]
pub(crate) struct Watchdog {
    shell: Child,
}

impl Watchdog {
    /// Ends the server whose data directory is `base/data`, if there is one, and removes `base`.
    pub(crate) fn over_server(base: &Path) -> Self {
        // The pid file of a server that was killed may name a stranger by now: its command line tells. SIGKILL comes
        // only after SIGQUIT had its time, in which the server's children leave.
        Self::spawn(
            r#"pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
            if [ -n "$pid" ] && grep -q "$1" "/proc/$pid/cmdline" 2>/dev/null; then
                kill -QUIT "$pid" 2>/dev/null
                for i in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$pid" 2>/dev/null || break; sleep 0.5; done
                kill -KILL "$pid" 2>/dev/null
            fi
            [ -n "$IRONGATE_TEST_KEEP" ] || rm -rf "$1""#,
            &[base.as_os_str()],
        )
    }

    /// Kills the processes whose ids stand in files `pid` two directories below `base`, and removes `base`.
    pub(crate) fn over_cluster(base: &Path) -> Self {
        Self::spawn(
            r#"for file in "$1"/*/*/pid; do
                pid=$(cat "$file" 2>/dev/null)
                if [ -n "$pid" ] && grep -q "$1" "/proc/$pid/cmdline" 2>/dev/null; then
                    kill -KILL "$pid" 2>/dev/null
                fi
            done
            [ -n "$IRONGATE_TEST_KEEP" ] || rm -rf "$1""#,
            &[base.as_os_str()],
        )
    }

    /// Kills the process `pid`, which must be a child of this one that is not waited for before the watchdog is called off.
    pub(crate) fn over_process(pid: u32) -> Self {
        Self::spawn(r#"kill -KILL "$1" 2>/dev/null"#, &[pid.to_string().as_ref()])
    }

    fn spawn(action: &str, arguments: &[&std::ffi::OsStr]) -> Self {
        use std::os::unix::process::CommandExt;
        let shell = Command::new("/bin/sh")
            .arg("-c")
            .arg(format!("trap '' INT TERM HUP; cat >/dev/null; {action}"))
            .arg("irongate-tests-watchdog")
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C at the terminal goes to the test's process group; this one has to outlive it.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start /bin/sh: {error}"));
        Watchdog { shell }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // `cat` shares the shell's group and holds the pipe; a shell that is killed first does not act on its end.
        let group = rustix::process::Pid::from_child(&self.shell);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.shell.wait();
    }
}
