//! Source and target must be two databases.
//!
//! Two addresses can lead to one database; every change would then be applied where it was made. The source is asked
//! only where the target bears the system identifier that the checkpoint knows of the source, which otherwise only a
//! copy of the source's files does. A source that does not answer stops nobody: a standby that was made from a backup
//! applies what has arrived while its source is lost, which is what it is there for.

use std::time::Duration;

use irongate_postgres::{Session, catalog};
use irongate_trail::Lineage;

use crate::error::Error;
use crate::settings::ReplicatSettings;

/// How long the source may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// # Errors
/// [`Error::OwnSource`]; [`Error::Target`] when the target does not answer.
///
/// Cancel-safe.
pub(super) async fn refuse_own_source(settings: &ReplicatSettings, lineage: Lineage) -> Result<(), Error> {
    let Some(source) = &settings.source else { return Ok(()) };
    let application = format!("irongate {}", settings.group);
    let here = {
        let session = Session::connect(&settings.target, &application).await?;
        catalog::database_identity(&session).await?
    };
    if here.system_identifier != lineage.system_identifier {
        return Ok(());
    }
    let ask = async {
        let session = Session::connect(source, &application).await?;
        catalog::database_identity(&session).await
    };
    match tokio::time::timeout(PATIENCE, ask).await {
        Ok(Ok(there)) if there == here => Err(Error::OwnSource {
            flow: settings.flow.clone(),
            source_address: source.to_string(),
            target: settings.target.to_string(),
        }),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => {
            tracing::warn!(flow = %settings.flow, %error, "cannot ask whether the source is a database of its own");
            Ok(())
        }
        Err(_) => {
            tracing::warn!(flow = %settings.flow, "the source does not say whether it is a database of its own");
            Ok(())
        }
    }
}
