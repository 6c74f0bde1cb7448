//! The DDL channel: whether what set-up has installed for it is still there, and works.

use irongate_postgres::catalog;

use super::finding::{Fix, sql};
use super::{Findings, Severity, Side};
use crate::configuration::{Configuration, Flow};
use crate::setup::{Survey, ddl};

pub(super) async fn pair(
    source: &Side<'_>,
    target: Option<&Side<'_>>,
    configuration: &Configuration,
    flow: &Flow,
    survey: &Survey,
    findings: &mut Findings,
) {
    match ddl::lacking_at_source(&source.session, configuration, flow).await {
        // Before set-up nothing of it is there: that is one thing to say.
        Ok(lacks) if ddl::is_not_installed(&lacks) => findings.error(
            &source.end,
            format!("DDL channel of flow \"{}\"", flow.name),
            "it is not set up: changes of structure do not reach the target",
            format!("run \"irongate setup {}\"", flow.name),
        ),
        Ok(lacks) => {
            for lack in lacks {
                let severity = if flow.ddl.is_some() { Severity::Error } else { Severity::Warning };
                // Whole functions are set-up's to print.
                let fix = if lack.object.starts_with("function") {
                    Fix::Words(format!("run \"irongate setup {}\"", flow.name))
                } else {
                    sql(lack.sql)
                };
                findings.add(severity, &source.end, lack.object, lack.reason, Some(fix));
            }
        }
        Err(error) => {
            let reason = format!("it cannot be examined: {error}");
            findings.add(Severity::Error, &source.end, "DDL channel", reason, error.hint().map(Fix::Words));
        }
    }
    let (Some(target), Some(_)) = (target, &flow.ddl) else { return };
    if !flow.renames.is_empty() {
        findings.error(
            &target.end,
            format!("DDL channel of flow \"{}\"", flow.name),
            "the flow gives tables other names, which changes of structure do not follow: Replicat stops at the first",
            format!("leave out [flows.{0}.ddl] or [[flows.{0}.map]]", flow.name),
        );
    }
    let role = target.end.own_login().role();
    // What follows from a role that is missing goes without saying.
    if matches!(catalog::role_facts(&target.session, Some(role)).await, Ok(None)) {
        return;
    }
    match ddl::lacking_at_target(&target.session, flow, survey, role).await {
        Ok(lacks) => {
            for lack in lacks {
                let fix = (!lack.sql.is_empty()).then(|| sql(lack.sql));
                findings.add(Severity::Error, &target.end, lack.object, lack.reason, fix);
            }
        }
        Err(error) => findings.unanswered(&target.end, "DDL channel", &error),
    }
}
