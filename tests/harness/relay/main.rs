//! Holds two sites and the line between them, for a test that starts it and gives it orders; see `irongate_tests::Network`.
//!
//! It ends with the end of its standard input, which comes when the test lets go of it and when the test's process dies,
//! however it dies. Whatever still runs at a site then is killed. Servers have a watchdog of their own that stops them in
//! good order; they get the time for that.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of its own that is talked to by its output"
)]

mod line;
mod site;

use std::io::BufRead;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use irongate_tests::network::order::{Answer, NOT_HERE, Order, Ready};
use irongate_tests::network::{inode_of, processes_in};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc;
use tokio_tun::Tun;

use line::Line;
use site::{Failure, LARGEST_PACKET, Site};

/// How long servers have to stop by themselves, once the test is gone.
const SERVERS_TIME: Duration = Duration::from_secs(8);
/// How long anything may take to die.
const PATIENCE: Duration = Duration::from_secs(20);

type Lines = [Arc<Mutex<Line>>; 2];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let made = Site::make(0).and_then(|one| Ok([one, Site::make(1)?]));
    let sites = match made {
        Ok(sites) => sites,
        Err(Failure::NotHere(reason)) => {
            eprintln!("{reason}");
            return ExitCode::from(NOT_HERE as u8);
        }
        Err(Failure::Broken(reason)) => {
            eprintln!("{reason}");
            return ExitCode::FAILURE;
        }
    };
    let threads = sites.each_ref().map(|site| site.thread.clone());
    let lines = Lines::default();
    let tuns = sites.each_ref().map(|site| Arc::clone(&site.tun));
    tokio::spawn(carry(Arc::clone(&tuns[0]), Arc::clone(&tuns[1]), Arc::clone(&lines[0])));
    tokio::spawn(carry(Arc::clone(&tuns[1]), Arc::clone(&tuns[0]), Arc::clone(&lines[1])));
    say(&Ready { threads: threads.clone() });
    // Orders are read by a thread that may wait for them.
    let ended = tokio::task::spawn_blocking(move || {
        for order in std::io::stdin().lock().lines().map_while(Result::ok) {
            let error = match serde_json::from_str(&order) {
                Ok(order) => obey(&order, &sites, &lines).err(),
                Err(error) => Some(error.to_string()),
            };
            say(&Answer { error, counts: lines.each_ref().map(|line| locked(line).count()) });
        }
        sites
    });
    let Ok(_sites) = ended.await else { return ExitCode::FAILURE };
    clear_up(&threads).await
}

fn say(what: &impl serde::Serialize) {
    use std::io::Write;
    let text = serde_json::to_string(what).expect("it is plain data");
    // The test may be gone.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn locked(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

fn obey(order: &Order, sites: &[Site; 2], lines: &Lines) -> Result<(), String> {
    match order {
        Order::Shape { way, shape } => {
            way.directions().iter().for_each(|&number| locked(&lines[number]).shape(*shape));
        }
        Order::Cut { way, cut } => {
            way.directions().iter().for_each(|&number| locked(&lines[number]).cut(*cut));
        }
        Order::Count => {}
        Order::Mount { site, path, bytes } => {
            let site = sites.get(*site).ok_or("there is no such site")?;
            site.mount(path.clone(), *bytes)?;
        }
    }
    Ok(())
}

/// Carries packets one way, for ever.
async fn carry(from: Arc<Tun>, to: Arc<Tun>, line: Arc<Mutex<Line>>) {
    let (under_way, mut arriving) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let end = Arc::clone(&line);
    tokio::spawn(async move {
        while let Some((at, packet)) = arriving.recv().await {
            if at > Instant::now() {
                tokio::time::sleep_until(at.into()).await;
            }
            if locked(&end).arrive(packet.len()) {
                // A device that does not take it has lost it, as devices do.
                let _ = to.send(&packet).await;
            }
        }
    });
    let mut packet = vec![0; LARGEST_PACKET as usize];
    while let Ok(length) = from.recv(&mut packet).await {
        let at = locked(&line).offer(Instant::now(), length);
        if let Some(at) = at
            && under_way.send((at, packet[..length].to_vec())).is_err()
        {
            return;
        }
    }
}

/// Ends everything that runs at the sites.
async fn clear_up(threads: &[String; 2]) -> ExitCode {
    let namespaces: Vec<u64> =
        threads.iter().filter_map(|thread| inode_of(&std::path::Path::new("/proc").join(thread))).collect();
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        let left = processes_in(&namespaces);
        if left.is_empty() {
            return ExitCode::SUCCESS;
        }
        for (pid, name) in left {
            let is_server = name.starts_with("postgres");
            if (!is_server || begin.elapsed() > SERVERS_TIME)
                && let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
            {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ExitCode::FAILURE
}
