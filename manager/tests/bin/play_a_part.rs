//! Plays a part in the manager's tests: a group's process that behaves as it is told, or a manager of such groups.
//!
//! `play-a-part group STATE-DIRECTORY GROUP BEHAVIOUR` takes the group's lock and publishes its status like Extract and
//! Replicat do. `play-a-part manager SETTINGS` reads a JSON file and runs a manager until SIGTERM; SIGHUP reloads it.

#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]
#![expect(clippy::print_stdout, reason = "a group's process has a report")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use irongate_checkpoint::{Failure, GroupLock, Program, Publisher, State, Status};
use irongate_manager::event::Severity;
use irongate_manager::settings::{FileLimits, FlowWatch, Hook, Reload, RestartPolicy, Thresholds};
use irongate_manager::{Error, GroupSpec, Manager, ManagerSettings};
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match words[..] {
        ["group", state, group, behaviour] => {
            runtime.block_on(play_group(Path::new(state), group, behaviour))
        }
        ["manager", settings] => runtime.block_on(play_manager(Path::new(settings))),
        _ => {
            println!("usage: play-a-part group STATE GROUP BEHAVIOUR | manager SETTINGS");
            ExitCode::from(2)
        }
    }
}

async fn play_group(state: &Path, group: &str, behaviour: &str) -> ExitCode {
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    println!("playing {group} as {behaviour}");
    // A behaviour in a file can be changed between two runs.
    let file = state.join(format!("{group}.behaviour"));
    let behaviour = std::fs::read_to_string(file).unwrap_or(behaviour.to_owned());
    if behaviour == "usage" {
        println!("error: this is no way to call me");
        return ExitCode::from(2);
    }
    let _lock = match GroupLock::acquire(state, group) {
        Ok(lock) => lock,
        Err(error) => {
            println!("error: {error}");
            return ExitCode::from(3);
        }
    };
    let publisher = Publisher::start(state, Status::starting(group, "f", Program::Extract)).unwrap();
    let abend = |message: &str, transient| {
        let hint = Some("mend it".to_owned());
        publisher.abended(Failure { message: message.to_owned(), hint, transient });
        ExitCode::from(1)
    };
    match behaviour.as_str() {
        "abend" => return abend("the slot is gone", false),
        "flap" => return abend("the database is away", true),
        "die" => std::process::abort(),
        _ => {}
    }
    publisher.state(State::Running, "carrying rows");
    let mut number = 0_u64;
    loop {
        tokio::select! {
            _ = terminate.recv() => match behaviour.as_str() {
                "deaf" => publisher.doing("finishing a large transaction"),
                "slow" => {
                    publisher.doing("finishing a transaction");
                    thread::sleep(Duration::from_millis(700));
                    break;
                }
                _ => break,
            },
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                number += 1;
                if behaviour == "talk" {
                    println!("line {number}");
                }
                publisher.update(|status| status.counters.transactions = number);
            }
        }
    }
    publisher.state(State::Stopped, "stopped as asked");
    ExitCode::SUCCESS
}

/// Settings as a test writes them. Times are milliseconds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Play {
    site: String,
    state: PathBuf,
    /// Name, behaviour, autostart.
    groups: Vec<(String, String, bool)>,
    attempts: u32,
    first: u64,
    longest: u64,
    reset: u64,
    stop_limit: u64,
    watch: u64,
    http: Option<String>,
    hook: Option<PathBuf>,
    trail: Option<PathBuf>,
    source: Option<String>,
    trail_free_bytes: Option<f64>,
    report_bytes: Option<u64>,
    event_bytes: Option<u64>,
}

fn settings(file: &Path) -> Result<ManagerSettings, Error> {
    let bad = |reason: String| Error::Unreadable { path: file.to_owned(), reason };
    let text = std::fs::read_to_string(file).map_err(|error| bad(error.to_string()))?;
    let play: Play = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    let mut settings = ManagerSettings::new(play.site, &play.state);
    let group = |(name, behaviour, autostart): &(String, String, bool)| GroupSpec {
        name: name.clone(),
        flow: "f".to_owned(),
        program: Program::Extract,
        autostart: *autostart,
        executable: std::env::current_exe().unwrap(),
        arguments: ["group".as_ref(), play.state.as_os_str(), name.as_ref(), behaviour.as_ref()]
            .into_iter()
            .map(Into::into)
            .collect(),
        turn: None,
    };
    settings.groups = play.groups.iter().map(group).collect();
    settings.restart = RestartPolicy {
        attempts: play.attempts,
        first: Duration::from_millis(play.first),
        longest: Duration::from_millis(play.longest),
        reset: Duration::from_millis(play.reset),
    };
    settings.stop_limit = Duration::from_millis(play.stop_limit);
    settings.watch_interval = Duration::from_millis(play.watch);
    settings.http = play.http.map(|address| address.parse().unwrap());
    settings.hook =
        play.hook.map(|path| Hook { path, severity: Severity::Warning, limit: Duration::from_millis(500) });
    settings.flows = vec![FlowWatch {
        name: "f".to_owned(),
        trail: play.trail,
        extract: play.groups.first().map(|(name, ..)| name.clone()),
        pump: None,
        feed: None,
        replicat: None,
        slot: play.source.as_ref().map(|_| "irongate_f".to_owned()),
        target: None,
        expects: None,
        heartbeat: play.source.as_ref().map(|_| Duration::from_millis(200)),
        sequences: None,
        compare: None,
        waits: false,
        source: play.source.map(|uri| irongate_postgres::Endpoint::parse(&uri).unwrap()),
        site: None,
        purge: None,
    }];
    settings.thresholds = Thresholds { trail_free_bytes: None, patience: 1, ..Thresholds::default() };
    if let Some(bytes) = play.trail_free_bytes {
        let threshold = irongate_manager::settings::Threshold { warning: bytes, critical: bytes };
        settings.thresholds.trail_free_bytes = Some(threshold);
    }
    let limits = FileLimits::default();
    settings.files = FileLimits {
        report_bytes: play.report_bytes.unwrap_or(limits.report_bytes),
        event_bytes: play.event_bytes.unwrap_or(limits.event_bytes),
        ..limits
    };
    Ok(settings)
}

async fn play_manager(file: &Path) -> ExitCode {
    let file = file.to_owned();
    let mut made = match settings(&file) {
        Ok(made) => made,
        Err(error) => {
            println!("error: {error}");
            return ExitCode::from(2);
        }
    };
    made.reload = Some(Reload(Arc::new(move || settings(&file))));
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let mut hang_up = signal(SignalKind::hangup()).unwrap();
    let manager = Manager::new(made);
    let reloader = manager.reloader();
    tokio::spawn(async move {
        while hang_up.recv().await.is_some() {
            reloader.ask();
        }
    });
    let asked = async move {
        terminate.recv().await;
    };
    match manager.run(asked).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            println!("hint: {}", error.hint().unwrap_or_default());
            ExitCode::from(1)
        }
    }
}
