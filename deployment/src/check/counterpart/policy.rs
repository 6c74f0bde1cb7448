//! Row security: whether who reads the target sees what he would see at the source, and no more.

use std::collections::{BTreeMap, BTreeSet};

use irongate_postgres::Error;
use tokio_postgres::Client;

use super::Both;
use crate::check::{Findings, LACKING, sql};

async fn policies(client: &Client, tables: &[u32]) -> Result<BTreeMap<u32, BTreeSet<String>>, Error> {
    const SQL: &str = "SELECT polrelid, polname::pg_catalog.text FROM pg_catalog.pg_policy WHERE polrelid = ANY ($1::pg_catalog.oid[])";
    let mut found: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    for row in client.query(SQL, &[&tables]).await? {
        found.entry(row.try_get(0)?).or_default().insert(row.try_get(1)?);
    }
    Ok(found)
}

pub(super) async fn compare(both: &Both<'_>, findings: &mut Findings) -> Result<(), Error> {
    let end = &both.target.end;
    for pair in both.pairs.iter().filter(|pair| pair.from.row_security && !pair.to.row_security) {
        findings.warning(
            end,
            format!("table {}", pair.name),
            "row security is on at the source and off here: applications see every row here",
            sql([format!("ALTER TABLE {} ENABLE ROW LEVEL SECURITY", pair.name.quoted())]),
        );
    }
    let here = policies(&both.source.session, &both.source_oids()).await?;
    if here.is_empty() {
        return Ok(());
    }
    let there = policies(&both.target.session, &both.target_oids()).await?;
    let none = BTreeSet::new();
    for pair in &both.pairs {
        let source = here.get(&pair.from.summary.oid).unwrap_or(&none);
        let target = there.get(&pair.to.summary.oid).unwrap_or(&none);
        for policy in source.difference(target) {
            findings.warning(
                end,
                format!("policy \"{policy}\" of table {}", pair.name),
                format!("{LACKING}: applications see other rows here"),
                "create it as at the source",
            );
        }
    }
    Ok(())
}
