//! What the program says and which exit code it gives, where no server is needed.

#![expect(
    clippy::unwrap_used,
    reason = "what is not as expected here fails the test, and the panic says where"
)]

mod documents;
mod help;
mod readme;
mod runs;
mod status;
mod trail;
mod usage;

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A deployment of one flow, whose servers nobody will ask.
const CONFIGURATION: &str = r#"
site = "secondary"
[deployment]
name = "contact"
state_directory = "state"
[sites.main]
[sites.secondary]
[databases.config.main]
uri = "postgresql://127.0.0.1:1/config?connect_timeout=1"
[databases.config.secondary]
uri = "postgresql://127.0.0.1:1/config?connect_timeout=1"
[flows.csp]
database = "config"
from = "main"
to = "secondary"
tables = ["public.*"]
"#;

/// A directory with a configuration.
fn deployment() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("irongate.toml"), CONFIGURATION).unwrap();
    directory
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_irongate"));
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    for variable in ["IRONGATE_CONFIG", "IRONGATE_SITE", "IRONGATE_LOG", "NO_COLOR"] {
        command.env_remove(variable);
    }
    command
}

/// What the program has answered.
struct Answer {
    code: i32,
    stdout: String,
    stderr: String,
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Answer {
    #[track_caller]
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }

    #[track_caller]
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// The failure was explained with these words.
    #[track_caller]
    fn says(&self, words: &[&str]) {
        for word in words {
            assert!(self.stderr.contains(word), "\"{word}\" is not in: {}", self.stderr);
        }
    }
}

fn irongate(directory: &Path, arguments: &[&str]) -> Answer {
    command(directory, arguments).output().unwrap().into()
}
