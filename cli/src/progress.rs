//! Progress bars of long work: on standard error, and only where a person looks at it.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::arguments::Global;

/// A bar that counts up to `length`; a spinner if that is not known.
pub(crate) fn bar(global: &Global, length: Option<u64>, template: &str) -> ProgressBar {
    // indicatif itself hides a bar when standard error is no terminal.
    let target = if global.json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = match length {
        Some(length) => ProgressBar::with_draw_target(Some(length), target),
        None => ProgressBar::with_draw_target(None, target),
    };
    // A template that does not parse is a defect that any test shows; the bar then has the usual style.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
