//! Sequences of the source that stand at or before values that are in its tables: they give them again.

use irongate_postgres::sql::{quote_identifier, quote_literal};
use irongate_postgres::{Error, catalog};

use super::{Findings, Side, listed, sql};
use crate::configuration::Flow;
use crate::sequence::{self, Sequence};

pub(super) async fn source(side: &Side<'_>, flow: &Flow, findings: &mut Findings) {
    if let Err(error) = examine(side, flow, findings).await {
        findings.unanswered(&side.end, "sequences", &error);
    }
}

async fn examine(side: &Side<'_>, flow: &Flow, findings: &mut Findings) -> Result<(), Error> {
    let mut all = catalog::sequences(&side.session).await?;
    all.retain(|one| sequence::belongs(&Sequence::of(one), flow));
    let (behind, passed_over) = sequence::behind(&side.session, &all, true).await?;
    for one in behind {
        let (most, of_all) =
            if one.counting.is_descending() { ("min", "least") } else { ("max", "greatest") };
        let value = |(table, column): &(crate::configuration::TableName, String)| {
            format!("(SELECT {most}({}) FROM {})", quote_identifier(column), table.quoted())
        };
        let values: Vec<String> = one.users.iter().map(value).collect();
        let value = match &values[..] {
            [value] => value.clone(),
            values => format!("{of_all}({})", values.join(", ")),
        };
        findings.warning(
            &side.end,
            format!("sequence {}", one.name),
            format!("it gives values that are in {} already", listed(one.columns())),
            sql([format!("SELECT pg_catalog.setval({}, {value})", quote_literal(&one.name.quoted()))]),
        );
    }
    if !passed_over.is_empty() {
        findings.note(
            &side.end,
            format!("sequences of {}", listed(&passed_over)),
            "whether they are ahead of the rows was not looked at: the column may not be read, or its table is large and \
             has no index on it",
        );
    }
    Ok(())
}
