//! `irongate fence` and `irongate open`.

use std::time::Duration;

use irongate_switchover::{Place, fence, strayed};
use serde_json::json;

use super::Here;
use crate::arguments::{Fence, Gate, Global, Open};
use crate::output;

/// Longest wait for a lock.
const LOCKS: Duration = Duration::from_secs(10);

/// Sessions at every database that is meant, before anything is changed at the first.
async fn places(here: &Here, gate: &Gate) -> anyhow::Result<Vec<Place>> {
    let mut places = Vec::new();
    for database in here.configuration.chosen(&gate.database)? {
        places.push(Place::connect(&here.configuration, database, &gate.at).await?);
    }
    Ok(places)
}

pub(crate) async fn close(
    global: &Global,
    Fence { gate, timeout, force, is_copy }: &Fence,
) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let places = places(&here, gate).await?;
    if !force {
        for place in &places {
            fence::spare_the_live(&here.configuration, place).await?;
        }
    }
    let how =
        fence::Close { writers: Duration::from_secs(*timeout), locks: LOCKS, ..fence::Close::default() };
    let mut all = Vec::new();
    for place in places {
        let closed = fence::close(&place, &how).await?;
        if *is_copy {
            strayed::clear(&place).await?;
        }
        if !global.json {
            output::text(format_args!(
                "{}: closed in {:.1} s: {} taken away, {} and {} disabled, {} ended, {} refused",
                closed.database,
                closed.seconds,
                output::plural(closed.rights, "right"),
                output::plural(closed.logins, "login"),
                output::plural(closed.triggers, "trigger"),
                output::plural(usize::try_from(closed.sessions).unwrap_or(usize::MAX), "session"),
                output::plural(closed.refused_writes, "trial write"),
            ))?;
        }
        all.push(closed);
    }
    if global.json { output::json(&json!({ "site": gate.at, "closed": all })) } else { Ok(()) }
}

pub(crate) async fn open(global: &Global, Open { gate, force }: &Open) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let places = places(&here, gate).await?;
    for place in &places {
        match fence::others_are_closed(&here.configuration, place).await {
            // Whoever goes by this site later has to know, but of the one whose turn it is.
            Err(reason) if *force => {
                if !fence::counts(&here.configuration, place).await? {
                    strayed::mark(place, &format!("opened by hand, although {reason}")).await?;
                }
            }
            checked => checked?,
        }
    }
    let mut all = Vec::new();
    for place in places {
        let opened = fence::open(&place, LOCKS).await?;
        if !global.json {
            match &opened {
                None => output::text(format_args!("{place}: there is no fence"))?,
                Some(opened) => output::text(format_args!(
                    "{}: opened in {:.1} s: {} given back, {} and {} enabled, {} accepted",
                    opened.database,
                    opened.seconds,
                    output::plural(opened.rights, "right"),
                    output::plural(opened.logins, "login"),
                    output::plural(opened.triggers, "trigger"),
                    output::plural(opened.accepted_writes, "trial write"),
                ))?,
            }
            for renamed in opened.iter().flat_map(|opened| &opened.renamed) {
                output::text(format_args!("{place}: {renamed}, with its rights"))?;
            }
            for gone in opened.iter().flat_map(|opened| &opened.gone) {
                output::text(format_args!("{place}: {gone} is gone, and with it what was saved of it"))?;
            }
        }
        all.extend(opened);
    }
    if global.json { output::json(&json!({ "site": gate.at, "opened": all })) } else { Ok(()) }
}
