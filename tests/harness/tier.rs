//! How thorough a run is.

/// A tier of `scripts/test`, which says it in `IRONGATE_TEST_TIER`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tier {
    /// A few minutes, while one works.
    Quick,
    /// Every change; also where nothing is said.
    Ci,
    /// Everything, for hours if need be.
    Full,
}

impl Tier {
    /// The tier of this run.
    ///
    /// # Panics
    /// When `IRONGATE_TEST_TIER` is something else.
    pub fn current() -> Self {
        match std::env::var("IRONGATE_TEST_TIER").as_deref() {
            Ok("quick") => Tier::Quick,
            Ok("ci") | Err(_) => Tier::Ci,
            Ok("full") => Tier::Full,
            Ok(other) => panic!("IRONGATE_TEST_TIER is \"{other}\", not quick, ci or full"),
        }
    }

    /// What this run takes of three: a number of rounds, say.
    pub fn pick<T>(quick: T, ci: T, full: T) -> T {
        match Self::current() {
            Tier::Quick => quick,
            Tier::Ci => ci,
            Tier::Full => full,
        }
    }
}
