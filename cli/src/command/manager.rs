//! `irongate manager` and the words that are said to one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use irongate_deployment::Configuration;
use irongate_manager::control::Outcome;
use irongate_manager::event::{Entry, Severity};
use irongate_manager::settings::Reload;
use irongate_manager::sites::{Answered, Meant};
use irongate_manager::supervisor::Word;
use irongate_manager::watch::Concern;
use irongate_manager::{Concerns, Control, Error, Manager, ManagerSettings, Sites};
use irongate_switchover::guard::Found;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::Here;
use crate::arguments::{Events, Global, Order, Report};
use crate::failure::End;
use crate::{output, signals};

/// How often it is asked whether another site has taken over.
const GUARD_EVERY: Duration = Duration::from_secs(5);

impl Here {
    /// The site, which a manager must know.
    fn known_site(&self) -> anyhow::Result<&str> {
        self.site().ok_or_else(|| {
            End::usage(
                "it is not said at which site this is",
                "say it with --site, or as site = \"...\" at the top of the configuration",
            )
        })
    }

    fn control(&self) -> anyhow::Result<Control> {
        Ok(Control::of(&self.configuration.state_directory, self.known_site()?))
    }
}

/// What the manager of a site is told by the configuration as it is now.
fn settings(file: &Path, site: &str) -> Result<ManagerSettings, Error> {
    let configuration = Configuration::load_at(file, Some(site))?;
    ManagerSettings::from_configuration(&configuration, site, &irongate_manager::current_executable()?)
}

pub(crate) async fn manager(global: &Global) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let site = here.known_site()?.to_owned();
    let file = here.configuration.file.clone();
    let mut told = settings(&file, &site)?;
    told.reload = Some(Reload(Arc::new(move || settings(&file, &site))));
    let stop = signals::stop()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let manager = Manager::new(told);
    let reloader = manager.reloader();
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reloader.ask();
        }
    });
    let concerns = manager.concerns();
    guard(&here, &concerns).await;
    let guarded = tokio::spawn(async move {
        loop {
            tokio::time::sleep(GUARD_EVERY).await;
            guard(&here, &concerns).await;
        }
    });
    let ran = tokio::spawn(manager.run(stop)).await;
    guarded.abort();
    ran??;
    Ok(())
}

/// Looks whether another site has taken over from this one, and says what it finds. Before the first group starts, too:
/// what nobody can answer by then does not keep the site from working.
async fn guard(here: &Here, concerns: &Concerns) {
    let Ok(site) = here.known_site() else { return };
    let mut told = Vec::new();
    match irongate_switchover::guard::look(&here.configuration, site).await {
        Err(error) => tracing::warn!(%error, "cannot look whether another site has taken over"),
        Ok(all) => {
            for (database, found) in all {
                match found {
                    Found::InOrder => {}
                    Found::Silent(reason) => {
                        tracing::debug!(database, reason, "the other site cannot be asked")
                    }
                    Found::Split(text) => told.push(Concern { severity: Severity::Error, text }),
                    Found::Deposed(deposed) => tracing::error!(
                        end = deposed.end,
                        live = deposed.live,
                        epoch = deposed.epoch,
                        fenced = ?deposed.fenced,
                        stopped = ?deposed.stopped,
                        "another site has taken over: this one is closed"
                    ),
                }
            }
        }
    }
    told.extend(irongate_switchover::guard::concerns(&here.configuration, site).await);
    concerns.tell(told);
}

/// What came of an order to a group, with its site; the names are a contract.
#[derive(Serialize)]
struct Shown {
    site: String,
    #[serde(flatten)]
    outcome: Outcome,
}

/// To which sites an order goes. A name that the configuration does not have goes to the manager here, which refuses it
/// with the names that it knows; nothing is done anywhere then.
fn addressed(here: &Here, names: &[String]) -> anyhow::Result<Vec<Meant>> {
    let site = here.known_site()?;
    let only = |groups: Vec<String>| vec![Meant { site: site.to_owned(), groups }];
    if names.is_empty() {
        return Ok(only(Vec::new()));
    }
    let sites = Sites::new(&here.configuration, site);
    let Ok(mut meant) = sites.meant(names) else { return Ok(only(names.to_vec())) };
    if meant.iter().any(|meant| meant.site == site) {
        // Of a flow that goes on at a site which nobody can ask, what is here gets the order; people are told.
        meant.retain(|meant| {
            let is_reachable = sites.is_reachable(&meant.site);
            if !is_reachable {
                output::note(format_args!(
                    "not asked, because site \"{}\" has no control_address: {}",
                    meant.site,
                    meant.groups.join(", ")
                ));
            }
            is_reachable
        });
    }
    Ok(meant)
}

pub(crate) async fn order(global: &Global, word: Word, order: &Order) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let wait = Duration::from_secs(order.wait);
    let meant = addressed(&here, &order.names)?;
    let sites = Sites::new(&here.configuration, here.known_site()?);
    let question =
        move |control: Control, groups: Vec<String>| async move { control.order(word, &groups, wait).await };
    let begun = std::time::Instant::now();
    let mut answers = sites.ask(meant, question).await;
    if answers.iter().all(|answered| answered.answer.is_err())
        && let Some(Answered { answer: Err(error), .. }) = answers.drain(..).next()
    {
        return Err(match error {
            // A name that neither the file nor the manager has.
            Error::Refused { message, hint, transient: false } if sites.meant(&order.names).is_err() => {
                End::Usage { message, hint }.into()
            }
            error => error.into(),
        });
    }
    let took = begun.elapsed();
    let (came, missing) = super::sites::sort(answers);
    let outcomes: Vec<Shown> = came
        .into_iter()
        .flat_map(|(site, all)| all.into_iter().map(move |outcome| Shown { site: site.clone(), outcome }))
        .collect();
    if global.json {
        output::json(
            &serde_json::json!({ "site": here.site(), "groups": outcomes, "unreachable": missing }),
        )?;
    } else {
        let mut table = output::table(&["GROUP", "SITE", "RESULT", "DONE", "DOING"]);
        for Shown { site, outcome } in &outcomes {
            table.add_row([
                output::cell(&outcome.group, None),
                output::cell(site, None),
                output::cell(word_of(outcome), None),
                output::cell(if outcome.done { "yes" } else { "no" }, None),
                output::cell(&outcome.doing, None),
            ]);
        }
        output::print(&table)?;
    }
    for Shown { outcome, .. } in &outcomes {
        if let Some(reason) = &outcome.unsaved {
            output::note(format_args!(
                "group \"{}\": the next manager will not know of this: {reason}",
                outcome.group
            ));
        }
    }
    super::sites::say(&missing)?;
    let open: Vec<_> =
        outcomes.iter().filter(|shown| !shown.outcome.done).map(|s| s.outcome.group.as_str()).collect();
    if open.is_empty() {
        return Ok(());
    }
    let failed: Vec<_> = outcomes
        .iter()
        .filter(|shown| !shown.outcome.done && shown.outcome.severity == Severity::Error)
        .map(|shown| shown.outcome.group.as_str())
        .collect();
    Err(End::Incomplete(undone(&open, &failed, took)).into())
}

/// What an order has not come to, and why it is not waited for any longer.
fn undone(open: &[&str], failed: &[&str], took: Duration) -> String {
    let took = took.as_secs_f64();
    if failed.len() == open.len() {
        return format!("failed after {took:.1} s, see \"irongate info\": {}", failed.join(", "));
    }
    let failed =
        if failed.is_empty() { String::new() } else { format!("; failed of these: {}", failed.join(", ")) };
    format!("not done after {took:.1} s: {}{failed}", open.join(", "))
}

/// What was begun, as JSON names it.
fn word_of(outcome: &Outcome) -> String {
    serde_json::to_value(outcome.answer)
        .ok()
        .and_then(|answer| answer.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// An event with its site; the names are a contract.
#[derive(Serialize)]
struct Told {
    site: String,
    #[serde(flatten)]
    entry: Entry,
}

pub(crate) async fn events(global: &Global, options: &Events) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let own = here.control()?;
    let others = if options.here { Vec::new() } else { here.others(&[])? };
    let has_sites = !others.is_empty();
    let meant = [Meant { site: own.site().to_owned(), groups: Vec::new() }].into_iter().chain(others);
    let sites = Sites::new(&here.configuration, here.known_site()?);
    let (count, follow) = (options.count, options.follow);
    let question = move |control: Control, _: Vec<String>| async move {
        let mut events = control.events(count, follow).await?;
        let mut recent = Vec::new();
        while let Some(entry) = events.next_known().await? {
            recent.push(entry);
        }
        Ok((events, recent))
    };
    let mut answers = sites.ask(meant.collect(), question).await;
    // Without the manager here there is nothing to show; without another one's, less.
    if answers.first().is_some_and(|own| own.answer.is_err())
        && let Answered { answer: Err(error), .. } = answers.remove(0)
    {
        return Err(error.into());
    }
    let (came, missing) = super::sites::sort(answers);
    let (mut told, mut streams) = (Vec::new(), Vec::new());
    for (site, (events, recent)) in came {
        told.extend(recent.into_iter().map(|entry| Told { site: site.clone(), entry }));
        streams.push((site, events));
    }
    // Times are RFC 3339 in UTC, to the microsecond where there are any; an earlier one of a site stays before a later.
    told.sort_by_key(|told| told.entry.time.parse::<jiff::Timestamp>().unwrap_or_default());
    told.drain(..told.len().saturating_sub(count));
    if global.json && !follow {
        let all = serde_json::json!({ "site": here.site(), "events": told, "unreachable": missing });
        output::json(&all)?;
        return super::sites::say(&missing);
    }
    told.iter().try_for_each(|told| show(global, told, has_sites))?;
    if !follow {
        return super::sites::say(&missing);
    }
    // Said now: the stream has no end.
    let incomplete = super::sites::say(&missing);
    let (sender, mut receiver) = tokio::sync::mpsc::channel(64);
    for (site, mut events) in streams {
        let sender = sender.clone();
        tokio::spawn(async move {
            loop {
                let next = events.next().await;
                let is_last = !matches!(next, Ok(Some(_)));
                if sender.send((site.clone(), next)).await.is_err() || is_last {
                    return;
                }
            }
        });
    }
    drop(sender);
    while let Some((site, next)) = receiver.recv().await {
        let Some(entry) = next? else { continue };
        show(global, &Told { site, entry }, has_sites)?;
    }
    incomplete
}

fn show(global: &Global, told: &Told, has_sites: bool) -> anyhow::Result<()> {
    if global.json {
        return Ok(output::text(serde_json::to_string(told)?)?);
    }
    let event = &told.entry;
    let colour = match event.notice.severity {
        Severity::Info => None,
        Severity::Warning => Some(comfy_table::Color::Yellow),
        Severity::Error => Some(comfy_table::Color::Red),
    };
    let severity = output::painted(format_args!("{:7}", event.notice.severity), colour);
    let group = event.notice.group.as_deref().unwrap_or("-");
    let site = if has_sites { format!("{:12}  ", told.site) } else { String::new() };
    Ok(output::text(format_args!("{}  {site}{severity}  {group:18}  {}", event.time, event.notice.text))?)
}

pub(crate) async fn report(global: &Global, options: &Report) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    // A group that is not known goes to the manager here, which names those that it knows.
    let site = here.configuration.group(&options.group).map_or(here.known_site()?, |group| group.site);
    let control = Control::between(&here.configuration, here.known_site()?, site)?;
    let text = control.report(&options.group, options.lines).await?;
    if global.json {
        let lines: Vec<_> = text.lines().collect();
        return output::json(&serde_json::json!({ "group": options.group, "site": site, "lines": lines }));
    }
    Ok(output::text(text.trim_end_matches('\n'))?)
}

pub(crate) async fn reload(global: &Global) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let difference = here.control()?.reload().await?;
    if global.json {
        return output::json(&difference);
    }
    if difference.is_empty() {
        return Ok(output::text("nothing has changed")?);
    }
    for line in &difference.changed {
        output::text(line)?;
    }
    for line in &difference.needs_restart {
        output::text(format_args!("needs a restart: {line}"))?;
    }
    Ok(())
}

pub(crate) async fn health(global: &Global, pid: bool) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let info = here.control()?.info().await?;
    if pid {
        return Ok(output::text(info.pid)?);
    }
    if global.json {
        output::json(&serde_json::json!({
            "site": info.site, "pid": info.pid, "healthy": info.healthy, "complaints": info.complaints,
        }))?;
    } else if info.healthy {
        output::text("everything runs that should")?;
    } else {
        info.complaints.iter().try_for_each(output::text)?;
    }
    if info.healthy {
        return Ok(());
    }
    Err(End::Incomplete(output::plural(info.complaints.len(), "complaint")).into())
}
