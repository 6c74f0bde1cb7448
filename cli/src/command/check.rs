//! `irongate check`.

use comfy_table::Color;
use irongate_deployment::{self as deployment, Severity};

use super::Here;
use super::setup::shown;
use crate::arguments::{Check, Global};
use crate::failure::End;
use crate::output;

pub(crate) async fn run(global: &Global, options: &Check) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let flows = here.flows(&options.flows.flows)?;
    let mut findings = deployment::check(&here.configuration, &flows).await?;
    findings.extend(irongate_switchover::check(&here.configuration, &flows).await);
    findings.sort_by_key(|finding| finding.severity);
    if options.fix_sql {
        let statements = deployment::mending(&findings);
        if global.json {
            return output::json(&serde_json::json!({ "statements": shown(&statements) }));
        }
        if findings.is_empty() {
            return Ok(output::text("-- nothing is left to be done")?);
        }
        let script = deployment::mending_script(&here.configuration, &findings);
        return Ok(output::text(script.trim_end())?);
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    if global.json {
        output::json(&serde_json::json!({ "findings": findings }))?;
    } else {
        for finding in &findings {
            let colour = match finding.severity {
                Severity::Error => Some(Color::Red),
                Severity::Warning => Some(Color::Yellow),
                Severity::Note => None,
            };
            let severity = output::painted(finding.severity, colour);
            output::text(format_args!("{severity}: {}: {}", finding.object, finding.reason))?;
            if let Some(fix) = &finding.fix {
                output::text(format_args!("    {}", fix.replace('\n', "\n    ")))?;
            }
        }
        let notes = findings.len() - errors - warnings;
        let counts = [(errors, "error"), (warnings, "warning"), (notes, "note")];
        output::text(counts.map(|(number, noun)| output::plural(number, noun)).join(", "))?;
    }
    if errors > 0 {
        return Err(
            End::Refused(format!("{} in the way of replication", output::plural(errors, "error"))).into()
        );
    }
    Ok(())
}
