//! Waiting for something to become so.

use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(20);

/// Asks `holds` again and again until it says yes.
///
/// # Panics
/// When that takes longer than `timeout`, with `what` in the message. Servers and processes print the tails of their
/// logs when they are dropped by a panic.
pub async fn wait_until<F>(timeout: Duration, what: &str, mut holds: F)
where
    F: AsyncFnMut() -> bool,
{
    wait_for(timeout, what, async || if holds().await { Ok(()) } else { Err(String::new()) }).await;
}

/// Asks `attempt` again and again until it succeeds, and returns what it found.
///
/// # Panics
/// When that takes longer than `timeout`, with `what` and the last failure in the message.
pub async fn wait_for<T, F>(timeout: Duration, what: &str, mut attempt: F) -> T
where
    F: AsyncFnMut() -> Result<T, String>,
{
    let begin = Instant::now();
    let mut last = "the first attempt did not end".to_owned();
    while let Some(left) = timeout.checked_sub(begin.elapsed()) {
        // An attempt that hangs must not hang the wait.
        match tokio::time::timeout(left, attempt()).await {
            Ok(Ok(found)) => return found,
            Ok(Err(failure)) => last = failure,
            Err(_) => break,
        }
        tokio::time::sleep(PAUSE).await;
    }
    let last = if last.is_empty() { last } else { format!(": {last}") };
    panic!("waited {timeout:?} in vain for {what}{last}");
}
