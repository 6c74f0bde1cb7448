//! The life of a pair of sites: the roles change and change back, a site is lost, taken over, salvaged, and comes back.
//!
//! Each is what an operator types, called as a library; the application goes on all the time and is asked in the end.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Context;
use irongate_checkpoint::Program;
use irongate_deployment::groups::group_name;
use irongate_manager::Control;
use irongate_manager::supervisor::Word;
use irongate_switchover::plan::{self, By, Kind, Limits, Order, Request};
use irongate_switchover::report::Report as Run;
use irongate_switchover::{Error, Place, fence, salvage};

use super::binaries::Binaries;
use super::business::{Business, Entry, found};
use super::report::Report;
use super::site::Site;
use super::sites::Sites;
use super::{DATABASE, FLOW, PATIENCE, SITES};
use crate::output;

/// How many transactions the application must get through behind a change of roles.
const GOES_ON: usize = 100;

/// How often a run is tried that is refused or stops. The demo is shown on machines that do much else meanwhile.
const TRIES: usize = 4;
const BETWEEN_TRIES: Duration = Duration::from_secs(2);

/// What the life has cost.
#[derive(Debug, Default)]
pub(super) struct Cost {
    /// Seconds in which the planned switchover let nobody write.
    pub(super) outage: Option<f64>,
    /// Transactions that were acknowledged to the application.
    pub(super) acknowledged: u64,
}

/// A site, by its place in [`SITES`].
const MAIN: usize = 0;
const SECONDARY: usize = 1;

/// The whole of it. In the end the application has stopped, and everything is as it was before.
pub(super) async fn live(
    report: &mut Report,
    binaries: &Binaries,
    servers: &mut Sites,
    sites: &mut [Site; 2],
) -> anyhow::Result<Cost> {
    let mut cost = Cost::default();
    report.step("fence", "closing the standby", close(&sites[SECONDARY])).await?;
    let business = Business::start(servers.both());
    business.goes_on(GOES_ON, PATIENCE).await?;
    let there = change(Kind::Switchover, SECONDARY, &business, sites);
    cost.outage = report.step("switchover", "the standby becomes the site that writes", there).await?;
    let back = change(Kind::Switchback, MAIN, &business, sites);
    report.step("switchback", "and back", back).await?;
    let lost = disaster(&business, servers, sites);
    let at = report.step("disaster", "the main site loses its power", lost).await?;
    report.step("failover", "the standby takes over", failover(at, &business, sites)).await?;
    report.step("return", "the main site comes back", come_back(binaries, servers, &mut sites[MAIN])).await?;
    let salvaged = salvage(&business, servers, &sites[MAIN]);
    report.step("salvage", "what it had alone", salvaged).await?;
    report.step("reinstate", "it becomes a standby", reinstate(sites)).await?;
    let back = change(Kind::Switchback, MAIN, &business, sites);
    report.step("switchback", "normal mode again", back).await?;
    cost.acknowledged = report.step("books", "asking the application", books(business, servers)).await?;
    Ok(cost)
}

/// In normal mode the standby refuses applications.
async fn close(site: &Site) -> anyhow::Result<((), String)> {
    let place = Place::connect(&site.configuration, DATABASE, site.name).await?;
    let closed = fence::close(&place, &fence::Close::default()).await?;
    let evidence = format!(
        "{} takes no application in normal mode: {} and {} taken, {} refused",
        site.name,
        output::plural(closed.rights, "right"),
        output::plural(closed.logins, "login"),
        output::plural(closed.refused_writes, "trial write")
    );
    Ok(((), evidence))
}

/// A run, as somebody does it who reads what it says: one that is refused has changed nothing and is tried again, one that
/// has stopped is gone on with. Beside its report what it has said on the way.
async fn run(plan: Kind, site: &str, at: &Site, accept_loss: bool) -> anyhow::Result<(Run, String)> {
    let (mut order, mut said, mut tries_left) = (Order::Begin, String::new(), TRIES);
    loop {
        tries_left -= 1;
        let request =
            Request { plan, site, databases: &[], order, accept_loss, force: false, by: By::Either };
        let failed = match plan::run(&at.configuration, &request, &Limits::default(), &mut |_, _| {}).await {
            Ok(run) => return Ok((run, said)),
            Err(failed) if tries_left == 0 => return Err(failed.into()),
            Err(failed) => failed,
        };
        order = match &failed {
            Error::Refused { .. } => Order::Begin,
            Error::Unfinished { .. } => Order::Resume(None),
            _ => return Err(failed.into()),
        };
        write!(said, "; done again after: {failed}")?;
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
}

fn millis(seconds: f64) -> String {
    format!("{:.0} ms", seconds * 1e3)
}

/// A planned change of roles, under load.
async fn change(
    plan: Kind,
    to: usize,
    business: &Business,
    sites: &[Site; 2],
) -> anyhow::Result<(Option<f64>, String)> {
    business.outage();
    let (run, said) = run(plan, SITES[to], &sites[to], false).await?;
    business.goes_on(GOES_ON, PATIENCE).await?;
    let (closed, seen) = (run.outage_seconds.unwrap_or(0.0), business.outage().as_secs_f64());
    let evidence = format!(
        "{} writes, {} follows; writes refused for {}, the application waited {}; lost: {}, by the marker{said}",
        SITES[to],
        SITES[1 - to],
        millis(closed),
        millis(seen),
        run.lost_transactions.map_or_else(|| "not known".to_owned(), |lost| lost.to_string()),
    );
    Ok((run.outage_seconds, evidence))
}

/// The pump has stopped for a moment, and then everything at the main site ends at once. When.
async fn disaster(
    business: &Business,
    servers: &mut Sites,
    sites: &mut [Site; 2],
) -> anyhow::Result<(Instant, String)> {
    let main = &mut sites[MAIN];
    let control = Control::of(&main.configuration.state_directory, main.name);
    control.order(Word::Stop, &[group_name(FLOW, Program::Pump)], PATIENCE).await?;
    tokio::time::sleep(Duration::from_millis(400)).await;
    business.outage();
    main.manager.kill()?;
    (0..main.groups.len()).try_for_each(|place| main.kill(place))?;
    servers.main.crash().await?;
    let evidence =
        "the link had been slow for 0.4 s; then server, manager and groups of main ended at once".to_owned();
    Ok((Instant::now(), evidence))
}

async fn failover(at: Instant, business: &Business, sites: &[Site; 2]) -> anyhow::Result<((), String)> {
    let (run, said) = run(Kind::Failover, SITES[SECONDARY], &sites[SECONDARY], true).await?;
    business.goes_on(GOES_ON, PATIENCE).await?;
    let arrived = &run.steps.first().context("a run has steps")?.evidence["databases"][0]["arrived"];
    let evidence = format!(
        "secondary writes {} after the disaster, the application waited {}; estimated loss: about {} transactions, accepted{said}",
        millis(at.elapsed().as_secs_f64()),
        millis(business.outage().as_secs_f64()),
        arrived["estimated_lost_transactions"],
    );
    Ok(((), evidence))
}

/// The server starts, and the manager by itself, as after a power cut. It learns that it is not its turn.
async fn come_back(
    binaries: &Binaries,
    servers: &mut Sites,
    main: &mut Site,
) -> anyhow::Result<((), String)> {
    servers.main.start_again(binaries)?;
    let begin = Instant::now();
    main.manager.start()?;
    loop {
        main.manager.is_well()?;
        let place = Place::connect(&main.configuration, DATABASE, main.name).await?;
        let told = fence::standing(&place).await?.is_some();
        if told && Control::of(&main.configuration.state_directory, main.name).ping().await.is_ok() {
            break;
        }
        anyhow::ensure!(begin.elapsed() < PATIENCE, "the old site was not closed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let evidence = format!(
        "main was told by its manager that secondary writes, and closed, {} after its start",
        millis(begin.elapsed().as_secs_f64())
    );
    Ok(((), evidence))
}

/// What main had committed and secondary never got: found, compared with the application's books, and repeated there.
async fn salvage(business: &Business, servers: &Sites, main: &Site) -> anyhow::Result<((), String)> {
    // In this order: what is acknowledged meanwhile is there.
    let known = business.acknowledged();
    let there = found(&servers.secondary).await?;
    let expected: BTreeSet<&Entry> = known.iter().filter(|entry| !there.contains(entry)).collect();
    let out = main.configuration.state_directory.join("salvage");
    let options = salvage::Options { out: out.clone(), divergence: None };
    let done = salvage::salvage(&main.configuration, DATABASE, main.name, &options, &mut |_| {}).await?;
    // What was committed and not acknowledged any more may be there, too.
    let lost = done.summary.transactions;
    anyhow::ensure!(lost >= expected.len() as u64, "{} are lost and {lost} were salvaged", expected.len());
    let form = out.join("decisions.toml");
    let text = std::fs::read_to_string(&form)?;
    let text = text.replace("\"undecided\"", "\"replay\"");
    let text = text.replace("signed_off_by = \"\"", "signed_off_by = \"irongate demo\"");
    std::fs::write(&form, text)?;
    let carried = salvage::apply(&main.configuration, main.name, &out, &mut |_| {}).await?;
    let evidence = format!(
        "{lost} transactions that secondary never got, {} of them acknowledged: listed from trail and slot, signed off, {} repeated",
        expected.len(),
        carried.replayed
    );
    Ok(((), evidence))
}

async fn reinstate(sites: &[Site; 2]) -> anyhow::Result<((), String)> {
    let (run, said) = run(Kind::Reinstate, SITES[MAIN], &sites[SECONDARY], false).await?;
    let done = |name: &str| run.steps.iter().find(|step| step.name == name);
    let evidence = match (done("repair"), done("copy")) {
        (Some(repair), _) => {
            let righted = &repair.evidence["righted"][0];
            let count = |key: &str| output::count(righted[key].as_u64().unwrap_or(0));
            format!(
                "main is a copy of secondary again ({} of {} rows differed), closed, and follows{said}",
                count("rows"),
                count("compared_rows")
            )
        }
        (None, copy) => {
            let copy = copy.context("a reinstatement repairs or copies")?;
            let copied = &copy.evidence["copied"][0];
            format!(
                "main is a copy of secondary again ({} rows in {:.1} s), closed, and follows{said}",
                output::count(copied["rows"].as_u64().unwrap_or(0)),
                copy.seconds
            )
        }
    };
    Ok(((), evidence))
}

/// Everything that was ever acknowledged to the application is there, once.
async fn books(business: Business, servers: &Sites) -> anyhow::Result<(u64, String)> {
    let acknowledged = business.stop().await;
    let there = found(&servers.main).await?;
    let lost = acknowledged.iter().filter(|entry| !there.contains(entry)).count();
    anyhow::ensure!(lost == 0, "{lost} transactions that were acknowledged are not there");
    let evidence = format!(
        "{} transactions were acknowledged in its life: all there, each once",
        output::count(acknowledged.len() as u64)
    );
    Ok((acknowledged.len() as u64, evidence))
}
