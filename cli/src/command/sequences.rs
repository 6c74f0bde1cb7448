//! `irongate sequences`.

use irongate_deployment::{interleave, run_statements, script};
use serde_json::json;

use super::Here;
use crate::arguments::{Global, Sequences};
use crate::output;

pub(crate) async fn run(global: &Global, options: &Sequences) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let flow = here.configuration.flow(&options.flow)?;
    let statements = interleave(&here.configuration, flow).await?;
    if options.apply {
        run_statements(&here.configuration, &statements, &mut |event| super::setup::tell(&event)).await?;
    }
    if global.json {
        let shown: Vec<_> = statements
            .iter()
            .map(|statement| {
                json!({
                    "site": statement.site,
                    "database": statement.database,
                    "connection": statement.connection.to_string(),
                    "sql": statement.sql,
                    "why": statement.why,
                })
            })
            .collect();
        return output::json(&json!({ "flow": flow.name, "applied": options.apply, "statements": shown }));
    }
    if statements.is_empty() {
        return Ok(output::text("-- the sequences are interleaved already, or there is none")?);
    }
    if options.apply {
        let what = output::plural(statements.len(), "sequence");
        return Ok(output::text(format_args!("{what} altered"))?);
    }
    Ok(output::text(script(&statements).trim_end())?)
}
