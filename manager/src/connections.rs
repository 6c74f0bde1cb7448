//! Taking connections in, so many at once and no more.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Pause after a connection that could not be accepted: such as no descriptors left, which may come back.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves connections until cancelled, `most` at once; the next ones wait. `what` they are is for the log.
pub(crate) async fn serve_all<S, F>(
    what: &'static str,
    most: usize,
    accept: impl Fn(&mut Context<'_>) -> Poll<io::Result<S>>,
    serve: impl Fn(S) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let free = Arc::new(Semaphore::new(most));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&free).acquire_owned().await else { return };
        match poll_fn(&accept).await {
            Ok(stream) => {
                let served = serve(stream);
                connections.spawn(async move {
                    served.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept {what}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
