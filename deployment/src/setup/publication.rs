//! The publication of a flow: that it names the flow's tables and publishes every kind of change.

use irongate_postgres::sql::{quote_identifier, quote_literal};
use irongate_postgres::{Error, catalog};
use tokio_postgres::Client;

use crate::configuration::{Flow, Partitions, TableName};
use crate::selection::Selection;
use crate::setup::rights::MADE_BY_SETUP;

/// How a publication differs from what the flow needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Difference {
    /// There is none; with generated columns it has to be made.
    Absent { generated: bool },
    /// It does not publish generated columns, and there are some in a replica identity.
    Generated,
    /// It does not publish all operations, or partitions otherwise.
    Options(String),
    /// Tables of the flow are not in it.
    Missing(Vec<TableName>),
    /// Tables are in it that the flow leaves out.
    Extra(Vec<TableName>),
    /// It is not a list of tables.
    Wide(&'static str),
}

/// The tables that a publication names, as it names them.
async fn named(client: &Client, publication: &str) -> Result<Vec<TableName>, Error> {
    let rows = client
        .query(
            "SELECT n.nspname, c.relname
               FROM pg_catalog.pg_publication p
               JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid
               JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              WHERE p.pubname = $1::pg_catalog.text ORDER BY 1, 2",
            &[&publication],
        )
        .await?;
    rows.iter().map(|row| Ok(TableName { schema: row.try_get(0)?, name: row.try_get(1)? })).collect()
}

fn options(flow: &Flow) -> String {
    let via_root = flow.partitions == Partitions::Root;
    format!("publish = 'insert, update, delete, truncate', publish_via_partition_root = {via_root}")
}

/// The first version that can publish generated columns.
pub(crate) const GENERATED_COLUMNS: u32 = 180_000;

/// Has the flow's publication publish the stored ones.
pub(crate) fn publish_generated(flow: &Flow) -> String {
    let publication = quote_identifier(&flow.publication);
    format!("ALTER PUBLICATION {publication} SET (publish_generated_columns = stored)")
}

/// Whether old rows have values that come only with generated columns. Without these the server, from the version that
/// has them on, refuses the application's UPDATE and DELETE.
fn needs_generated(selection: &Selection) -> bool {
    selection.leaves.iter().any(|table| {
        let is_stored = |name: &str| {
            table.column(name).is_some_and(|column| column.generated == catalog::Generated::Stored)
        };
        table.identity_columns().into_iter().any(is_stored)
    })
}

async fn can_publish_generated(client: &Client) -> Result<bool, Error> {
    const VERSION: &str = "SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4";
    let version: i32 = client.query_one(VERSION, &[]).await?.try_get(0)?;
    Ok(u32::try_from(version).is_ok_and(|version| version >= GENERATED_COLUMNS))
}

/// Compares the publication with what the flow needs.
pub(crate) async fn differences(
    client: &Client,
    flow: &Flow,
    selection: &Selection,
) -> Result<Vec<Difference>, Error> {
    let Some(publication) = catalog::publication(client, &flow.publication).await? else {
        let generated = needs_generated(selection) && can_publish_generated(client).await?;
        return Ok(vec![Difference::Absent { generated }]);
    };
    let mut found = Vec::new();
    let mut wrong = Vec::new();
    for (publishes, what) in [
        (publication.publishes_insert, "INSERT"),
        (publication.publishes_update, "UPDATE"),
        (publication.publishes_delete, "DELETE"),
        (publication.publishes_truncate, "TRUNCATE"),
    ] {
        if !publishes {
            wrong.push(format!("it does not publish {what}"));
        }
    }
    match (publication.via_root, flow.partitions) {
        (true, Partitions::Leaf) => wrong.push("it publishes partitions as their root".to_owned()),
        (false, Partitions::Root) => wrong.push("it publishes partitions one by one".to_owned()),
        _ => {}
    }
    if !wrong.is_empty() {
        found.push(Difference::Options(wrong.join(", ")));
    }
    if publication.publishes_generated == Some(false) && needs_generated(selection) {
        found.push(Difference::Generated);
    }
    if publication.all_tables {
        found.push(Difference::Wide("it is FOR ALL TABLES, other programs' and Irongate's own among them"));
        return Ok(found);
    }
    if !publication.schemas.is_empty() {
        found.push(Difference::Wide("it publishes whole schemas"));
        return Ok(found);
    }
    let named = named(client, &flow.publication).await?;
    let missing: Vec<_> =
        selection.published.iter().filter(|table| !named.contains(table)).cloned().collect();
    let extra: Vec<_> = named.into_iter().filter(|table| !selection.published.contains(table)).collect();
    found.extend((!missing.is_empty()).then_some(Difference::Missing(missing)));
    found.extend((!extra.is_empty()).then_some(Difference::Extra(extra)));
    Ok(found)
}

/// Whether set-up has made the publication. One of somebody else may serve others too: it may grow, and is never cut
/// down or dropped.
pub(crate) async fn is_ours(client: &Client, publication: &str) -> Result<bool, Error> {
    const SQL: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_publication p
         WHERE p.pubname = $1::pg_catalog.text
           AND pg_catalog.obj_description(p.oid, 'pg_publication') = $2::pg_catalog.text)";
    Ok(client.query_one(SQL, &[&publication, &MADE_BY_SETUP]).await?.try_get(0)?)
}

/// What marks a publication as made by set-up.
pub(crate) fn comment(publication: &str) -> String {
    format!("COMMENT ON PUBLICATION {} IS {}", quote_identifier(publication), quote_literal(MADE_BY_SETUP))
}

impl Difference {
    /// Whether mending it takes something away that others may read.
    pub(crate) fn takes_away(&self) -> bool {
        matches!(self, Self::Options(_) | Self::Extra(_))
    }

    /// What mends it. Nothing for a publication that somebody else has made for more than this flow.
    pub(crate) fn sql(&self, flow: &Flow, selection: &Selection) -> Option<String> {
        let publication = quote_identifier(&flow.publication);
        let list = |tables: &[TableName]| tables.iter().map(TableName::quoted).collect::<Vec<_>>().join(", ");
        match self {
            Self::Absent { .. } if selection.published.is_empty() => None,
            Self::Absent { generated } => Some(format!(
                "CREATE PUBLICATION {publication} FOR TABLE {} WITH ({}{})",
                list(&selection.published),
                options(flow),
                if *generated { ", publish_generated_columns = stored" } else { "" }
            )),
            Self::Generated => Some(publish_generated(flow)),
            Self::Options(_) => Some(format!("ALTER PUBLICATION {publication} SET ({})", options(flow))),
            Self::Missing(tables) => {
                Some(format!("ALTER PUBLICATION {publication} ADD TABLE {}", list(tables)))
            }
            Self::Extra(tables) => {
                Some(format!("ALTER PUBLICATION {publication} DROP TABLE {}", list(tables)))
            }
            Self::Wide(_) => None,
        }
    }

    /// What is wrong, for people.
    pub(crate) fn reason(&self) -> String {
        let list =
            |tables: &[TableName]| tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::Absent { .. } => "it does not exist".to_owned(),
            Self::Generated => "a replica identity has generated columns, and it does not publish them: the application's own \
                                UPDATE and DELETE fail"
                .to_owned(),
            Self::Options(wrong) => wrong.clone(),
            Self::Missing(tables) => format!("tables of the flow are left out: {}", list(tables)),
            Self::Extra(tables) => format!("it names tables that the flow leaves out: {}", list(tables)),
            Self::Wide(what) => (*what).to_owned(),
        }
    }
}
