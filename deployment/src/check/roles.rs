//! The flow's own roles and their rights.

use irongate_postgres::sql::quote_identifier;
use irongate_postgres::{Error, catalog};

use super::{Findings, Severity, Side, sql};
use crate::configuration::Flow;
use crate::setup::Survey;
use crate::setup::rights::{self, Lack};

pub(super) async fn source(side: &Side<'_>, survey: &Survey, findings: &mut Findings) {
    if role(side, true, findings).await {
        let lacks = survey.lacking_at_source(&side.session, side.end.own_login()).await;
        report(side, lacks, findings);
    }
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
            findings.error(&side.end, lack.object, lack.reason, sql(lack.sql));
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
                findings.add(severity, &side.end, lack.object, lack.reason, Some(sql(lack.sql)));
            }
        }
        Err(error) => findings.unanswered(&side.end, "rights", &error),
    }
}

/// Row security hides rows from whoever is neither exempt nor the owner: also from a role that set-up is still to make.
pub(super) async fn row_security(
    side: &Side<'_>,
    tables: &[catalog::Table],
    consequence: &str,
    findings: &mut Findings,
) {
    let role = side.end.own_login().role();
    let Ok(facts) = catalog::role_facts(&side.session, Some(role)).await else { return };
    if facts.is_some_and(|facts| facts.superuser || facts.bypass_rls) {
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
            sql([format!("ALTER ROLE {} BYPASSRLS", quote_identifier(role))]),
        );
    }
}

/// Functions that are run for each of Replicat's rows, by indexes, checks and generated columns, and that it may not run.
pub(super) async fn functions(target: &Side<'_>, tables: &[u32], findings: &mut Findings) {
    const SQL: &str = "
        WITH user_of(classid, objid) AS (
            SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, i.indexrelid FROM pg_catalog.pg_index i
             WHERE i.indrelid = ANY ($1::pg_catalog.oid[])
            UNION ALL
            SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, o.oid FROM pg_catalog.pg_constraint o
             WHERE o.conrelid = ANY ($1::pg_catalog.oid[]) AND o.contype = 'c'
            UNION ALL
            SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass, d.oid FROM pg_catalog.pg_attrdef d
              JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
             WHERE d.adrelid = ANY ($1::pg_catalog.oid[]) AND a.attgenerated <> ''
        )
        SELECT DISTINCT p.oid::pg_catalog.regprocedure::pg_catalog.text
          FROM user_of u
          JOIN pg_catalog.pg_depend d ON d.classid = u.classid AND d.objid = u.objid
           AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
          JOIN pg_catalog.pg_proc p ON p.oid = d.refobjid
         WHERE NOT pg_catalog.has_function_privilege($2::pg_catalog.text, p.oid, 'EXECUTE') ORDER BY 1";
    let role = target.end.own_login().role();
    let asked = async {
        let rows = target.session.query(SQL, &[&tables, &role]).await?;
        rows.iter().map(|row| Ok::<_, Error>(row.try_get(0)?)).collect::<Result<Vec<String>, _>>()
    };
    match asked.await {
        Ok(functions) => {
            for function in functions {
                findings.error(
                    &target.end,
                    format!("function {function}"),
                    format!("role \"{role}\" may not execute it, and an index, a check or a generated column calls it"),
                    sql([format!("GRANT EXECUTE ON FUNCTION {function} TO {}", quote_identifier(role))]),
                );
            }
        }
        Err(error) => findings.unanswered(&target.end, "functions", &error),
    }
}
