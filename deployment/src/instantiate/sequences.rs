//! The sequences of a flow, which are never in the stream.

use irongate_postgres::Session;

use crate::configuration::{Configuration, Flow, TableName};
use crate::end::{As, End};
use crate::error::Error;
use crate::sequence::{self, Sequence};

/// Sets the sequences of a flow's target to the values that they have at its source. How many there are.
///
/// # Errors
/// [`Error::Database`].
pub async fn carry_sequences(configuration: &Configuration, flow: &Flow) -> Result<usize, Error> {
    let (source, target) = (End::source(configuration, flow)?, End::target(configuration, flow)?);
    let at_source = source.connect(As::Extract, "irongate sequences").await?;
    let at_target = target.connect(As::Replicat, "irongate sequences").await?;
    copy_sequences(&at_source, &at_target, flow, [&source, &target]).await
}

/// The sequences of a flow's source that have no counterpart at its target, by the names that they would have there:
/// [`carry_sequences`] leaves them out.
///
/// # Errors
/// [`Error::Database`].
pub async fn sequences_without_counterpart(
    configuration: &Configuration,
    flow: &Flow,
) -> Result<Vec<TableName>, Error> {
    let (source, target) = (End::source(configuration, flow)?, End::target(configuration, flow)?);
    let mut all = Vec::new();
    for (end, who) in [(&source, As::Extract), (&target, As::Replicat)] {
        let session = end.connect(who, "irongate sequences").await?;
        let failed = |error| end.failed("read the sequences", error);
        all.push(sequence::sequences(&session).await.map_err(failed)?);
    }
    let targets = all.pop().unwrap_or_default();
    let sources = sequence::of_flow(all.pop().unwrap_or_default(), flow);
    let lacking = sources.iter().filter(|from| sequence::counterpart(&targets, flow, from).is_none());
    Ok(lacking.map(|from| flow.target_of(&from.name)).collect())
}

/// Sets the target's sequences to the source's values, those at the moment of the question: later ones do no harm.
pub(super) async fn copy_sequences(
    at_source: &Session,
    at_target: &Session,
    flow: &Flow,
    [source, target]: [&End<'_>; 2],
) -> Result<usize, Error> {
    let ask = |error| source.failed("read the sequences", error);
    let sources = sequence::sequences(at_source).await.map_err(ask)?;
    let targets =
        sequence::sequences(at_target).await.map_err(|error| target.failed("read the sequences", error))?;
    let mut count = 0;
    for from in sequence::of_flow(sources, flow) {
        let Some(to) = sequence::counterpart(&targets, flow, &from) else { continue };
        copy_sequence(at_source, at_target, &from, to)
            .await
            .map_err(|error| target.failed(&format!("set sequence \"{}\"", to.name), error))?;
        count += 1;
    }
    Ok(count)
}

async fn copy_sequence(
    at_source: &Session,
    at_target: &Session,
    from: &Sequence,
    to: &Sequence,
) -> Result<(), irongate_postgres::Error> {
    let sql = format!("SELECT last_value, is_called FROM {}", from.name.quoted());
    let row = at_source.query_one(&sql, &[]).await?;
    let (last, called): (i64, bool) = (row.try_get(0)?, row.try_get(1)?);
    let name = to.name.quoted();
    at_target
        .execute(
            "SELECT pg_catalog.setval($1::pg_catalog.text::pg_catalog.regclass, $2, $3)",
            &[&name, &last, &called],
        )
        .await?;
    Ok(())
}
