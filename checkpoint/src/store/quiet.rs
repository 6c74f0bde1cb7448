//! Catching the panics of code that panics on damaged files, without their noise.

use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};

use tracing::subscriber::NoSubscriber;

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Sync + Send + 'static>;

/// The panic hook belongs to the whole process, so only one thread at a time may exchange it.
static EXCHANGE: Mutex<()> = Mutex::new(());

/// Runs `work` and returns its panic as a text. While it runs, panics of this thread and of threads whose name begins
/// with `helpers` are not printed; those of all others go the way they went before. What this thread logs meanwhile is
/// dropped too: the caller knows the outcome and says it once.
pub(super) fn catch<T>(helpers: &'static str, work: impl FnOnce() -> T) -> Result<T, String> {
    // The hook cannot be exchanged by a thread that is unwinding: then the panic is caught with its noise.
    if thread::panicking() {
        return caught(work);
    }
    let work = || tracing::subscriber::with_default(NoSubscriber::default(), work);
    let _exchange = EXCHANGE.lock().unwrap_or_else(PoisonError::into_inner);
    let silent: ThreadId = thread::current().id();
    let before: Arc<Hook> = Arc::new(panic::take_hook());
    let otherwise = Arc::clone(&before);
    panic::set_hook(Box::new(move |info| {
        let thread = thread::current();
        if thread.id() != silent && !thread.name().is_some_and(|name| name.starts_with(helpers)) {
            otherwise(info);
        }
    }));
    let result = caught(work);
    drop(panic::take_hook());
    panic::set_hook(match Arc::try_unwrap(before) {
        Ok(hook) => hook,
        // A thread is inside the old hook just now.
        Err(shared) => Box::new(move |info| shared(info)),
    });
    result
}

/// Runs `work` and returns its panic as a text; the panic hook sees it first.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        if let Some(text) = payload.downcast_ref::<&str>() {
            (*text).to_owned()
        } else if let Some(text) = payload.downcast_ref::<String>() {
            text.clone()
        } else {
            "a panic without a message".to_owned()
        }
    })
}
