//! SIGTERM and SIGINT: the first asks for an orderly stop, the second ends the process at once.

use std::future::Future;

use tokio::signal::unix::{SignalKind, signal};

/// The exit code of a process that a second signal ended.
const ENDED_AT_ONCE: i32 = 1;

/// A future that is done when the first signal has come. The signals are caught from the call on, not from the first
/// poll on.
///
/// # Errors
/// What the operating system says when it refuses the handlers.
pub(crate) fn stop() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (asked, stop) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut either = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        either().await;
        tracing::info!("asked to stop");
        let _ = asked.send(());
        either().await;
        tracing::warn!("asked a second time: ending at once");
        std::process::exit(ENDED_AT_ONCE);
    });
    Ok(async move {
        // The sender lives as long as the runtime; without it nobody can ask any more.
        if stop.await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
