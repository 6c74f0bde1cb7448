//! The warnings and errors that a piece of code logs.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<String>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, "{field}={value:?} ");
    }
}

impl<S: Subscriber> Layer<S> for Kept {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() <= Level::WARN {
            let mut text = Text(String::new());
            event.record(&mut text);
            self.0.lock().unwrap().push(text.0);
        }
    }
}

/// Runs `work` and returns the warnings and errors that its thread logged.
pub(crate) fn during<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    let kept = Kept::default();
    // Also bridges the records of libraries that use the `log` crate, as a program's own subscriber does.
    let guard = tracing_subscriber::registry().with(kept.clone()).set_default();
    let result = work();
    drop(guard);
    let warnings = kept.0.lock().unwrap().clone();
    (result, warnings)
}
