//! `irongate manager` and the words that are said to one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use irongate_deployment::Configuration;
use irongate_manager::control::Outcome;
use irongate_manager::event::{Entry, Severity};
use irongate_manager::settings::Reload;
use irongate_manager::supervisor::Word;
use irongate_manager::{Control, Error, Manager, ManagerSettings};
use tokio::signal::unix::{SignalKind, signal};

use super::Here;
use crate::arguments::{Events, Global, Order, Report};
use crate::failure::End;
use crate::{output, signals};

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
    tokio::spawn(manager.run(stop)).await??;
    Ok(())
}

pub(crate) async fn order(global: &Global, word: Word, order: &Order) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let outcomes = here.control()?.order(word, &order.names, Duration::from_secs(order.wait)).await?;
    if global.json {
        output::json(&serde_json::json!({ "site": here.site(), "groups": outcomes }))?;
    } else {
        let mut table = output::table(&["GROUP", "RESULT", "DONE", "DOING"]);
        for outcome in &outcomes {
            table.add_row([
                output::cell(&outcome.group, None),
                output::cell(word_of(outcome), None),
                output::cell(if outcome.done { "yes" } else { "no" }, None),
                output::cell(&outcome.doing, None),
            ]);
        }
        output::print(&table)?;
    }
    for outcome in &outcomes {
        if let Some(reason) = &outcome.unsaved {
            output::note(format_args!(
                "group \"{}\": the next manager will not know of this: {reason}",
                outcome.group
            ));
        }
    }
    let open: Vec<_> = outcomes.iter().filter(|outcome| !outcome.done).map(|o| o.group.as_str()).collect();
    if open.is_empty() {
        return Ok(());
    }
    Err(End::Incomplete(format!("not done after {} s: {}", order.wait, open.join(", "))).into())
}

/// What was begun, as JSON names it.
fn word_of(outcome: &Outcome) -> String {
    serde_json::to_value(outcome.answer)
        .ok()
        .and_then(|answer| answer.as_str().map(str::to_owned))
        .unwrap_or_default()
}

pub(crate) async fn events(global: &Global, options: &Events) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let mut events = here.control()?.events(options.count, options.follow).await?;
    if global.json && !options.follow {
        let mut all = Vec::new();
        while let Some(event) = events.next().await? {
            all.push(event);
        }
        return output::json(&serde_json::json!({ "site": here.site(), "events": all }));
    }
    while let Some(event) = events.next().await? {
        if global.json {
            output::text(serde_json::to_string(&event)?)?;
        } else {
            show(&event)?;
        }
    }
    Ok(())
}

fn show(event: &Entry) -> std::io::Result<()> {
    let colour = match event.notice.severity {
        Severity::Info => None,
        Severity::Warning => Some(comfy_table::Color::Yellow),
        Severity::Error => Some(comfy_table::Color::Red),
    };
    let severity = output::painted(format_args!("{:7}", event.notice.severity), colour);
    let group = event.notice.group.as_deref().unwrap_or("-");
    output::text(format_args!("{}  {severity}  {group:18}  {}", event.time, event.notice.text))
}

pub(crate) async fn report(global: &Global, options: &Report) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let text = here.control()?.report(&options.group, options.lines).await?;
    if global.json {
        let lines: Vec<_> = text.lines().collect();
        return output::json(&serde_json::json!({ "group": options.group, "lines": lines }));
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
