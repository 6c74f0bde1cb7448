//! The harness: throw-away PostgreSQL servers, processes of the `irongate` binary, a write load, a full compare.
//!
//! It serves tests, so it panics with a sentence instead of returning errors, and whatever it starts ends with the
//! value that stands for it: also when a test panics, and (through a watchdog) when the test process is killed.
//!
//! ```no_run
//! use irongate_tests::{Server, Settings};
//!
//! # async fn example() {
//! for major in Server::majors() {
//!     let server = Server::start(major, &Settings::new().set("logical_decoding_work_mem", "64kB")).await;
//!     server.batch("CREATE TABLE t (id int PRIMARY KEY)").await;
//!     assert_eq!(server.scalar("postgres", "SELECT count(*) FROM t").await, "0");
//! }
//! # }
//! ```

mod binaries;
pub mod books;
mod browser;
mod compare;
pub mod disk;
mod kafka;
mod load;
pub mod network;
mod process;
mod reference;
mod server;
mod settings;
mod tempdir;
mod template;
mod tier;
mod tls;
mod wait;
mod watchdog;

pub use binaries::{Binaries, in_turn};
pub use browser::{Browser, Seen};
pub use compare::{Comparison, Difference, Kind, Tables, compare};
pub use kafka::{Kafka, KafkaSettings};
pub use load::{Counts, Load, RunningLoad, seed};
pub use network::Network;
pub use process::{Finished, Process};
pub use reference::{Cut, Plan, Reference, SITES};
pub use server::{Mode, STANDBY_SLOT, Server, literal};
pub use settings::Settings;
pub use tempdir::TempDir;
pub use tier::Tier;
pub use tls::Tls;
pub use wait::{wait_for, wait_until};

/// Writes a line for whoever reads a failed test's output.
pub(crate) fn say(line: &str) {
    #[expect(clippy::print_stderr, reason = "the test runner captures it and shows it with a failure")]
    {
        eprintln!("{line}");
    }
}

/// The last lines of a file, for a failure's output.
pub(crate) fn tail(path: &std::path::Path, lines: usize) -> String {
    let text = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("(cannot read \"{}\": {error})", path.display()),
    };
    let skip = text.lines().count().saturating_sub(lines);
    text.lines().skip(skip).collect::<Vec<_>>().join("\n")
}
