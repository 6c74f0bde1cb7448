//! The flow's own roles and their rights.

use irongate_postgres::catalog;

use super::{Findings, Severity, Side};
use crate::configuration::Flow;
use crate::setup::Survey;
use crate::setup::rights::{self, Lack};

pub(super) async fn source(side: &Side<'_>, survey: &Survey, findings: &mut Findings) {
    if !role(side, true, findings).await {
        return;
    }
    let lacks = survey.lacking_at_source(&side.session, side.end.own_login()).await;
    report(side, lacks, findings);
    row_security(side, &survey.selection.leaves, "an initial load could not read all rows", findings).await;
}

pub(super) async fn target(side: &Side<'_>, flow: &Flow, survey: &Survey, findings: &mut Findings) {
    if !role(side, false, findings).await {
        return;
    }
    let lacks = survey.lacking_at_target(&side.session, side.end.own_login(), flow).await;
    report(side, lacks, findings);
}

/// Whether there is a role whose rights can be looked at.
async fn role(side: &Side<'_>, replication: bool, findings: &mut Findings) -> bool {
    let role = side.end.own_login().role();
    match rights::role(&side.session, role, replication).await {
        Ok(None) => {}
        Ok(Some(lack)) => {
            let exists = !lack.sql.iter().any(|sql| sql.starts_with("CREATE ROLE"));
            findings.error(&side.end, lack.object, lack.reason, lack.sql.join("; "));
            if !exists {
                return false;
            }
        }
        Err(error) => findings.unanswered(&side.end, "roles", &error),
    }
    match catalog::role_facts(&side.session, Some(role)).await {
        Ok(Some(facts)) if facts.superuser => findings.add(
            Severity::Note,
            &side.end,
            format!("role \"{role}\""),
            "it is a superuser, and need not be one",
            None,
        ),
        Ok(_) => {}
        Err(error) => findings.unanswered(&side.end, "roles", &error),
    }
    true
}

fn report(side: &Side<'_>, lacks: Result<Vec<Lack>, irongate_postgres::Error>, findings: &mut Findings) {
    match lacks {
        Ok(lacks) => {
            for lack in lacks {
                let severity = if lack.optional { Severity::Note } else { Severity::Error };
                findings.add(severity, &side.end, lack.object, lack.reason, Some(lack.sql.join(";\n")));
            }
        }
        Err(error) => findings.unanswered(&side.end, "rights", &error),
    }
}

/// Row security hides rows from whoever is neither exempt nor the owner.
pub(super) async fn row_security(
    side: &Side<'_>,
    tables: &[catalog::Table],
    consequence: &str,
    findings: &mut Findings,
) {
    let role = side.end.own_login().role();
    let Ok(Some(facts)) = catalog::role_facts(&side.session, Some(role)).await else { return };
    if facts.superuser || facts.bypass_rls {
        return;
    }
    for table in tables.iter().filter(|table| table.row_security) {
        if table.owner == role && !table.row_security_forced {
            continue;
        }
        findings.error(
            &side.end,
            format!("table {}.{}", table.summary.schema, table.summary.name),
            format!("row security applies to role \"{role}\": {consequence}"),
            format!("ALTER ROLE {} BYPASSRLS", irongate_postgres::sql::quote_identifier(role)),
        );
    }
}
