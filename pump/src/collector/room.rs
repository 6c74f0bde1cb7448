//! How much room the disk of the trails has, and whether a collector takes more.
//!
//! A disk that is full stops everything that lives on it, and a write that fails in its middle is cut back and sent again for
//! nothing. So a collector holds before: it reads nothing more from the link, acknowledges what is durable, keeps the
//! connection by its signs of life, and goes on by itself when there is room. Between the limit at which it holds and the
//! one at which it goes on lies a fifth, so that it does neither all the time.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use irongate_checkpoint::Failure;

/// Shortest time between two looks while bytes come in slowly.
const LOOK: Duration = Duration::from_millis(100);
/// So many bytes are taken in at most between two looks.
const TAKEN: u64 = 4 << 20;

/// Tells the free bytes of the disk of a directory.
pub(crate) type FreeBytes = Arc<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

/// As the file system says it, for this user.
pub(crate) fn of_disk(directory: &Path) -> io::Result<u64> {
    let mut place = directory.to_owned();
    // Before the first trail there is a disk, and no directory yet.
    while !place.exists() && place.pop() {}
    let disk = rustix::fs::statvfs(&place)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// What is decided of what was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// There is room.
    Take,
    /// There is too little: so many free bytes, and as many are needed to go on.
    Hold { free: u64, needed: u64 },
}

/// The decision, without the disk: `free` bytes, of which `keep` are kept free, after it was holding or not.
pub(crate) fn decide(free: u64, keep: u64, was_holding: bool) -> Verdict {
    let needed = keep.saturating_add(keep / 5);
    let limit = if was_holding { needed } else { keep };
    if free < limit { Verdict::Hold { free, needed } } else { Verdict::Take }
}

/// Says that the disk has too little room, or enough again.
pub(crate) fn told(verdict: Verdict, peer: &str) -> Option<Failure> {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let Verdict::Hold { free, needed } = verdict else {
        tracing::info!(peer, "the disk has room again; going on");
        return None;
    };
    let message = format!(
        "the disk of the trail has {:.1} MiB free; it goes on by itself when there are {:.1} MiB",
        mib(free),
        mib(needed)
    );
    tracing::error!(peer, message, "nothing more is taken");
    let hint =
        "make room on the disk of the trail; \"irongate trail purge\" removes what every reader has passed";
    Some(Failure { message, hint: Some(hint.to_owned()), transient: true })
}

/// The room of one trail.
pub(crate) struct Room {
    directory: PathBuf,
    keep: Option<u64>,
    free: FreeBytes,
    is_holding: bool,
    looked: Option<(Instant, u64)>,
}

impl Room {
    pub(crate) fn new(directory: PathBuf, keep: Option<u64>, free: FreeBytes) -> Self {
        Self { directory, keep, free, is_holding: false, looked: None }
    }

    /// Looks, if it is time; `received` counts the bytes of the link. `None` where nothing has changed.
    pub(crate) fn look(&mut self, received: u64) -> Option<Verdict> {
        let keep = self.keep?;
        if let Some((at, bytes)) = self.looked
            && at.elapsed() < LOOK
            && received.saturating_sub(bytes) < TAKEN
        {
            return None;
        }
        self.looked = Some((Instant::now(), received));
        let verdict = match (self.free)(&self.directory) {
            Ok(free) => decide(free, keep, self.is_holding),
            // A disk that cannot be asked is not full; writing says what is wrong with it.
            Err(error) => {
                tracing::warn!(directory = %self.directory.display(), %error, "cannot ask for the room of the disk");
                Verdict::Take
            }
        };
        let is_holding = matches!(verdict, Verdict::Hold { .. });
        let was_holding = std::mem::replace(&mut self.is_holding, is_holding);
        (is_holding != was_holding).then_some(verdict)
    }

    pub(crate) fn is_holding(&self) -> bool {
        self.is_holding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_below_the_limit_and_goes_on_a_fifth_above_it() {
        for (free, was_holding, takes) in [
            (1000, false, true),
            (999, false, false),
            (1000, true, false),
            (1199, true, false),
            (1200, true, true),
            (0, false, false),
        ] {
            let verdict = decide(free, 1000, was_holding);
            assert_eq!(verdict == Verdict::Take, takes, "{free} {was_holding}: {verdict:?}");
        }
        assert_eq!(decide(0, 0, true), Verdict::Take, "no limit");
        assert!(matches!(decide(u64::MAX - 1, u64::MAX, false), Verdict::Hold { .. }), "no overflow");
    }

    #[test]
    fn the_disk_of_a_directory_that_is_not_there_yet_can_be_asked() {
        let dir = tempfile::tempdir().unwrap();
        assert!(of_disk(&dir.path().join("a/b/c")).unwrap() > 0);
    }
}
