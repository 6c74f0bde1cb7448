//! Extensions and collations: what the server brings besides the database's own tables.

use std::collections::BTreeMap;

use irongate_postgres::sql::quote_identifier;
use irongate_postgres::{Error, Session};

use super::{Findings, Side, sql};
use crate::setup::Survey;

/// Collations of a database, and its own.
struct Collation {
    name: String,
    /// What it was made with, and what the operating system has now.
    versions: Option<(String, String)>,
}

pub(super) async fn pair(source: &Side<'_>, target: &Side<'_>, findings: &mut Findings) {
    if let Err(error) = extensions(source, target, findings).await {
        findings.unanswered(&target.end, "extensions", &error);
    }
    if let Err(error) = providers(source, target, findings).await {
        findings.unanswered(&target.end, "collation", &error);
    }
}

async fn installed(session: &Session) -> Result<BTreeMap<String, String>, Error> {
    const SQL: &str =
        "SELECT extname::pg_catalog.text, extversion FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql'";
    session.query(SQL, &[]).await?.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

async fn extensions(source: &Side<'_>, target: &Side<'_>, findings: &mut Findings) -> Result<(), Error> {
    let there = installed(&target.session).await?;
    for (name, version) in installed(&source.session).await? {
        let object = format!("extension \"{name}\"");
        match there.get(&name) {
            None => findings.warning(
                &target.end,
                object,
                "the source has it, and it is not here: its types and functions are missing",
                sql([format!("CREATE EXTENSION {}", quote_identifier(&name))]),
            ),
            Some(other) if *other != version => findings.note(
                &target.end,
                object,
                format!("its version is {other} here and {version} at the source"),
            ),
            Some(_) => {}
        }
    }
    Ok(())
}

/// Who compares text by default: the operating system, ICU, or PostgreSQL itself, and by which rules.
async fn providers(source: &Side<'_>, target: &Side<'_>, findings: &mut Findings) -> Result<(), Error> {
    // The column of the locale has another name from 17 on.
    const SQL: &str = "
        SELECT CASE d.datlocprovider WHEN 'c' THEN 'libc' WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin'
                    ELSE d.datlocprovider::pg_catalog.text END,
               coalesce(pg_catalog.to_jsonb(d) ->> 'datlocale', pg_catalog.to_jsonb(d) ->> 'daticulocale', '')
          FROM pg_catalog.pg_database d WHERE d.datname = current_database()";
    let ask = async |side: &Side<'_>| -> Result<(String, String), Error> {
        let row = side.session.query_one(SQL, &[]).await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    };
    let (one, other) = (ask(source).await?, ask(target).await?);
    if one != other {
        let shown =
            |(provider, locale): &(String, String)| format!("{provider} {locale}").trim_end().to_owned();
        findings.warning(
            &target.end,
            "collation (provider)",
            format!(
                "it is {} and the source's is {}: text sorts and compares otherwise",
                shown(&other),
                shown(&one)
            ),
            "create the target's database with the source's LOCALE_PROVIDER and locale",
        );
    }
    Ok(())
}

/// Whether the collations are still those by which indexes were built.
pub(super) async fn versions(side: &Side<'_>, survey: Option<&Survey>, findings: &mut Findings) {
    match collations(side, survey).await {
        Ok((own, used)) => {
            if let Some((old, new)) = own.versions {
                let name = quote_identifier(&own.name);
                findings.warning(
                    &side.end,
                    "collation of the database",
                    format!(
                        "its version was {old} and is {new} now: indexes of text can be in a wrong order"
                    ),
                    sql([
                        format!("REINDEX DATABASE {name}"),
                        format!("ALTER DATABASE {name} REFRESH COLLATION VERSION"),
                    ]),
                );
            }
            for Collation { name, versions } in used {
                let Some((old, new)) = versions else { continue };
                findings.warning(
                    &side.end,
                    format!("collation {name}"),
                    format!("its version was {old} and is {new} now: indexes of columns with it can be in a wrong order"),
                    sql([
                        format!("REINDEX DATABASE {}", quote_identifier(&own.name)),
                        format!("ALTER COLLATION {name} REFRESH VERSION"),
                    ]),
                );
            }
        }
        Err(error) => findings.unanswered(&side.end, "collations", &error),
    }
}

async fn collations(side: &Side<'_>, survey: Option<&Survey>) -> Result<(Collation, Vec<Collation>), Error> {
    const OWN: &str = "SELECT d.datname::pg_catalog.text, d.datcollversion,
               pg_catalog.pg_database_collation_actual_version(d.oid)
          FROM pg_catalog.pg_database d WHERE d.datname = current_database()";
    const USED: &str =
        "SELECT DISTINCT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.collname),
               c.collversion, pg_catalog.pg_collation_actual_version(c.oid)
          FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
          JOIN pg_catalog.pg_attribute a ON a.attcollation = c.oid
         WHERE c.collversion IS NOT NULL AND a.attnum > 0 AND NOT a.attisdropped
           AND ($1 OR a.attrelid = ANY ($2::pg_catalog.oid[])) ORDER BY 1";
    let read = |row: &tokio_postgres::Row| -> Result<Collation, Error> {
        let versions = row.try_get::<_, Option<String>>(1)?.zip(row.try_get::<_, Option<String>>(2)?);
        Ok(Collation { name: row.try_get(0)?, versions: versions.filter(|(old, new)| old != new) })
    };
    let own = read(&side.session.query_one(OWN, &[]).await?)?;
    let oids: Vec<u32> =
        survey.iter().flat_map(|survey| &survey.selection.leaves).map(|table| table.summary.oid).collect();
    let rows = side.session.query(USED, &[&survey.is_none(), &oids]).await?;
    Ok((own, rows.iter().map(read).collect::<Result<_, _>>()?))
}
