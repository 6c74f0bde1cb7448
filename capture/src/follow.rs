//! For programs that want a database's committed transactions and no trail.

use std::future::Future;

use irongate_checkpoint::Stop;
use irongate_trail::{CommitLsn, ResumeLsn};

use crate::error::Error;
use crate::machine::Counts;
use crate::positions::Own;
use crate::run;
use crate::sink::Sink;
use crate::source::Source;
use crate::target::{Inline, Target as _};

/// Where a follower begins, and where it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// Everything before it is in the sink. Zero begins where the slot does.
    pub resume_lsn: ResumeLsn,
    /// The last transaction in the sink; zero for none.
    pub commit_lsn: CommitLsn,
}

/// Follows a slot into a sink of the caller's over one connection, until `shutdown` is ready or something fails. A
/// caller that wants to go on after an error that [is transient](Error::is_transient) calls again, from the place its
/// sink has.
///
/// The slot is told of a transaction after [`Sink::sync`] has returned behind its commit, so a sink that stores the
/// place with the data ([`irongate_trail::Commit::end_lsn`], and [`Sink::progress`]) sees each transaction exactly once.
/// A sink that stores no place passes the default and sees each at least once.
///
/// A server that fails to stream one transaction in progress (SQLSTATE `XX000`) may still send it whole: call again with
/// [`Streaming::Off`](crate::pgoutput::Streaming::Off), as [`Extract`](crate::Extract) does by itself.
///
/// Needs a multi-threaded tokio runtime if the sink blocks for long: the server is told in a task of its own that we
/// are alive.
///
/// # Errors
/// Any [`Error`]. [`Error::Refused`] when the slot is missing, lost, in use, or ahead of `place`: then changes are lost.
/// [`Error::NoSideStorage`] when the sink does not take streamed transactions and [`Source::streaming`] asks for them.
pub async fn follow(
    source: &Source,
    sink: &mut (impl Sink + Send),
    place: Place,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(Place, Counts), Error> {
    let mut stop = Stop::new(shutdown);
    let mut counts = Counts::default();
    let opening = async {
        let mut connected = source.connect().await?;
        let confirmed =
            connected.facts.slot.as_ref().and_then(|slot| slot.confirmed_flush).unwrap_or_default();
        let durable =
            if place.resume_lsn == ResumeLsn::default() { ResumeLsn(confirmed) } else { place.resume_lsn };
        let own = Own { lineage: connected.lineage(), durable };
        let start = connected.check(source, &own).await?;
        Ok::<_, Error>((start.at, connected.start(source, start.at, place.commit_lsn).await?))
    };
    let Some((at, stream)) = stop.or(opening).await.transpose()? else { return Ok((place, counts)) };
    let mut target = Inline::new(sink, at, place.commit_lsn);
    run::run(stream, &mut target, &mut stop, &mut |view, _| counts = view.counts).await?;
    let mark = target.durable();
    Ok((Place { resume_lsn: mark.resume_lsn, commit_lsn: mark.commit_lsn }, counts))
}
