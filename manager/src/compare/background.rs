//! The compare that comes back again and again, by itself and gently, while a flow's Replicat runs here.
//!
//! One table at a time, one session at either side, so many bytes in a second and no more. It begins again when the last
//! compare of the whole flow is old enough, whoever made that one; never in the first minutes of a Replicat, which has
//! better things to do then.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use irongate_deployment::configuration::{Flow, TableName};
use irongate_postgres::Endpoint;
use irongate_verify::{Comparing, End, Name};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::{LastCompare, keep, last, write};

/// How long a Replicat runs before its flow is compared.
const QUIET: Duration = Duration::from_secs(600);
/// No more differences of a table are counted.
const MOST: u64 = 10_000;
/// How long rows that are not the same are looked at again. Nobody waits for the answer.
const SETTLE: Duration = Duration::from_secs(120);

/// What is compared in the background, how often, and how fast.
#[derive(Clone, PartialEq, Debug)]
pub struct CompareWatch {
    /// How old the last compare of the whole flow is before there is another one.
    pub every: Duration,
    /// Bytes of tables that are read in a second at both sides together; no limit if `None`.
    pub bytes_a_second: Option<u64>,
    /// The flow.
    pub flow: Flow,
    /// What its source is called, and where it is, for Extract's role.
    pub source: (String, Endpoint),
    /// The same of its target, for Replicat's role.
    pub target: (String, Endpoint),
    /// The flow of the other direction, where both sites write all the time, and its target for Replicat's role.
    pub reverse: Option<(String, (String, Endpoint))>,
}

impl CompareWatch {
    /// The flow as it is compared.
    pub fn flow(&self) -> irongate_verify::Flow {
        let end =
            |(label, endpoint): &(String, Endpoint)| End { label: label.clone(), endpoint: endpoint.clone() };
        let renames = self.flow.clone();
        let target_of = move |name: &Name| {
            let TableName { schema, name } = renames.target_of(&TableName::new(&name.schema, &name.name));
            Name { schema, name }
        };
        irongate_verify::Flow {
            name: self.flow.name.clone(),
            publication: self.flow.publication.clone(),
            source: end(&self.source),
            target: end(&self.target),
            reverse: self.reverse.as_ref().map(|(name, at)| (name.clone(), end(at))),
            target_of: Arc::new(target_of),
        }
    }
}

/// A running background compare; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Background(JoinHandle<()>);

impl Background {
    pub(crate) fn start(watch: CompareWatch, state_directory: &Path) -> Self {
        let state_directory = state_directory.to_owned();
        Self(tokio::spawn(async move {
            let mut earliest = Instant::now() + QUIET.min(watch.every);
            loop {
                sleep_until(earliest).await;
                let age = age(&state_directory, &watch.flow.name).await;
                if let Some(left) =
                    age.and_then(|age| watch.every.checked_sub(age)).filter(|left| !left.is_zero())
                {
                    // Somebody may compare meanwhile.
                    earliest = Instant::now() + left;
                    continue;
                }
                once(&watch, &state_directory).await;
                earliest = Instant::now() + QUIET.min(watch.every);
            }
        }))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn age(state_directory: &Path, flow: &str) -> Option<Duration> {
    let (directory, flow) = (state_directory.to_owned(), flow.to_owned());
    let read = tokio::task::spawn_blocking(move || last(&directory, &flow).ok().flatten());
    let age = read.await.ok().flatten()?.age_seconds?;
    Duration::try_from_secs_f64(age).ok()
}

async fn once(watch: &CompareWatch, state_directory: &Path) {
    let flow = watch.flow();
    let how = Comparing {
        parallel: 1,
        bytes_a_second: watch.bytes_a_second,
        settle: SETTLE,
        most: MOST,
        images: false,
        ..Comparing::default()
    };
    tracing::info!(flow = flow.name, "the flow is compared in the background");
    let found = irongate_verify::compare(&flow, &how, &[], &()).await;
    let directory: PathBuf = state_directory.to_owned();
    let kept = tokio::task::spawn_blocking(move || match found {
        Ok(found) => {
            tracing::info!(flow = found.flow, differences = found.differences, "compared in the background");
            keep(&directory, &found).map(drop)
        }
        // An end that does not answer is an alarm of its own, and what was known before is still the best that is known.
        Err(error) if error.is_transient() => {
            tracing::warn!(flow = flow.name, %error, "the compare in the background did not come to an end");
            Ok(())
        }
        Err(error) => write(&directory, &LastCompare::failed(&flow.name, &error)),
    });
    if let Ok(Err(error)) = kept.await {
        tracing::warn!(%error, "what the compare found cannot be kept");
    }
}
