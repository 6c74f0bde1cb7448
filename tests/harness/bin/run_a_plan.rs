//! Runs a plan as the program does and kills itself with SIGKILL at a named place: what nobody can time from outside.
//!
//! `run-a-plan FILE HERE PLAN SITE ORDER STEP PLACE`, where ORDER is `begin`, `resume` or `abort`, and PLACE is `begins`
//! (its beginning is journalled, nothing is done), `done` (everything is done, nothing of that is journalled), `undone`
//! (its taking back is journalled, nothing is taken back), or a number of milliseconds behind its beginning.
//! `IRONGATE_TEST_BY` says how a site is reinstated, `IRONGATE_TEST_FORCE` that one that answers is taken over.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use irongate_deployment::Configuration;
use irongate_switchover::plan::{self, By, Kind, Limits, Order, Request};
use rustix::process::{Signal, getpid, kill_process};

fn die() {
    let _ = kill_process(getpid(), Signal::KILL);
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [file, here, kind, site, order, at, place] = &words[..] else { anyhow::bail!("seven words") };
    let configuration = Configuration::load_at(Path::new(file), Some(here))?;
    let order = match order.as_str() {
        "begin" => Order::Begin,
        "resume" => Order::Resume(None),
        _ => Order::Abort(None),
    };
    let plan = Kind::of(kind).context("a plan")?;
    let by = match std::env::var("IRONGATE_TEST_BY").as_deref() {
        Ok("copy") => By::Copy,
        Ok("repair") => By::Repair,
        _ => By::Either,
    };
    let force = std::env::var_os("IRONGATE_TEST_FORCE").is_some_and(|force| !force.is_empty());
    let request = Request { plan, site, databases: &[], order, accept_loss: true, force, by };
    let mut tell = |step: &str, what: &str| {
        let what = what.split(' ').next().unwrap_or_default();
        match (place.as_str(), what) {
            _ if step != at => {}
            ("begins", "begins") | ("done", "done") | ("undone", "is") => die(),
            (millis, "begins") => {
                if let Ok(millis) = millis.parse() {
                    std::thread::spawn(move || {
                        std::thread::sleep(Duration::from_millis(millis));
                        die();
                    });
                }
            }
            _ => {}
        }
    };
    plan::run(&configuration, &request, &Limits::default(), &mut tell).await?;
    Ok(())
}
