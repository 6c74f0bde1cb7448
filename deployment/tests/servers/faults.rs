//! Faults that the preflight has to find, each with what it has to say and what mends it. `%N` is the world's name.

#[path = "faults/columns.rs"]
mod columns;
#[path = "faults/others.rs"]
mod others;
#[path = "faults/settings.rs"]
mod settings;
#[path = "faults/source.rs"]
mod source;
#[path = "faults/target.rs"]
mod target;

use irongate_deployment::Severity;

#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum At {
    Source,
    Target,
    Both,
}

pub(crate) enum Mends {
    /// The finding's own fix, which leaves everything as it was.
    Fix,
    /// This, where it was injected, after the finding's fix if that can be run.
    Sql(&'static str),
}

pub(crate) struct Fault {
    pub(crate) at: At,
    pub(crate) inject: &'static str,
    pub(crate) severity: Severity,
    /// Parts of object, reason and fix.
    pub(crate) object: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) fix: &'static str,
    pub(crate) mends: Mends,
    /// The end that the finding is about.
    pub(crate) seen: At,
    /// The first version that knows of it.
    pub(crate) since: u32,
    /// Other things follow from it, and are found too.
    pub(crate) has_more: bool,
}

const fn fault(
    at: At,
    inject: &'static str,
    severity: Severity,
    [object, reason, fix]: [&'static str; 3],
    mends: Mends,
) -> Fault {
    let seen = match at {
        At::Both => At::Source,
        one => one,
    };
    Fault { at, inject, severity, object, reason, fix, mends, seen, since: 0, has_more: false }
}

impl Fault {
    const fn since(mut self, major: u32) -> Self {
        self.since = major;
        self
    }

    const fn seen(mut self, at: At) -> Self {
        self.seen = at;
        self
    }

    const fn with_more(mut self) -> Self {
        self.has_more = true;
        self
    }
}

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static Fault> {
    let lists = [settings::FAULTS, source::FAULTS, columns::FAULTS, target::FAULTS, others::FAULTS];
    lists.into_iter().flatten()
}
