//! Every row of every table, at both ends, as `irongate compare` does it.

use anyhow::Context;
use irongate_manager::compare::flow;
use irongate_verify::{self as verify, Comparing, Comparison};

use super::site::Site;

/// Compares all tables of a flow that runs. Nobody writes any more, so little is on its way.
pub(super) async fn compare(site: &Site, name: &str) -> anyhow::Result<Comparison> {
    let configuration = &site.configuration;
    let flow = flow(configuration, configuration.flow(name)?)?;
    let how = Comparing { images: false, settle: std::time::Duration::from_secs(20), ..Comparing::default() };
    let mut found = verify::compare(&flow, &how, &[], &()).await?;
    if let Some(failed) = found.failed().next() {
        let why = failed.problem.clone().unwrap_or_default();
        return Err(anyhow::anyhow!(why)).with_context(|| format!("cannot compare table {}", failed.name));
    }
    // With nobody writing everything settles: what does not is as good as different.
    for table in &mut found.tables {
        table.differences += table.unsettled;
        table.different += table.unsettled;
    }
    found.differences += found.unsettled;
    Ok(found)
}
