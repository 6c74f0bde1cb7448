//! One connection, acted out: bytes in, sink calls out, syncs beside, the slot told.
//!
//! # The loop
//!
//! Each turn waits for the first of these, in this order of priority, then handles every frame that is in the buffer:
//!
//! 1. a sync has ended: `durable` moves and the feedback task hears of it;
//! 2. the feedback task has failed: the connection is gone;
//! 3. we are asked to stop: the transaction in the stream is finished first, within [`GRACE`];
//! 4. the socket has bytes;
//! 5. a quarter of a second has passed.
//!
//! After the frames the machine settles, and if no sync is under way the next one begins: so one sync carries all that
//! was appended while the one before it ran (group commit), and at low load a transaction is synced at once. A disk that
//! is quicker than a change of threads is synced in place then. At low load readers are told before the sync, too, so that
//! they work while the disk does: the trail's [`Writer::tell_early`](irongate_trail::Writer::tell_early).
//!
//! # Why nothing is confirmed too early
//!
//! The feedback task knows one number, the position that [`Target::synced`] returned. It is a position that the machine
//! had appended when the job was made, and the machine checks the chain each time.

use std::time::Duration;

use irongate_checkpoint::Stop;
use irongate_postgres::{Frame, FrameReader, ServerError};
use irongate_trail::{Lsn, Mark, ResumeLsn, Timestamp};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::error::Error;
use crate::feedback::Feedback;
use crate::machine::{Counts, Machine, Positions};
use crate::pgoutput::Decoder;
use crate::target::{Job, Target};

/// How long a transaction in the stream may take to end once we are asked to stop; then it is rolled back.
const GRACE: Duration = Duration::from_secs(10);
/// How long the server may take to answer the end of the stream.
const FAREWELL: Duration = Duration::from_secs(2);
/// How often idle things are looked after, and the state is shown.
const TICK: Duration = Duration::from_millis(250);

/// A sync that takes no longer is done in place when there is little to do.
const QUICK: Duration = Duration::from_micros(500);
/// So many frames at once are little to do.
const FEW: u32 = 32;

/// An open stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) reader: FrameReader,
    pub(crate) decoder: Decoder,
    pub(crate) machine: Machine,
    pub(crate) feedback: Feedback,
    /// After so long without a byte the server counts as gone; after half of it, it is asked for one.
    pub(crate) silence: Duration,
}

/// How a stream ended when nothing went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// We were asked to.
    Stopped,
    /// The server is shutting down and has sent everything.
    ByServer,
}

/// What can be shown of a stream while it runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) positions: Positions,
    pub(crate) counts: Counts,
    pub(crate) streamed: usize,
    pub(crate) durable: Mark,
    /// The server's clock in the last frame.
    pub(crate) server_time: Timestamp,
}

/// A sync's answer and how long the disk took.
type Synced = (Result<Mark, Error>, Duration);

/// A sync that runs beside the loop, or none.
#[derive(Default)]
struct Syncing {
    job: Option<JoinHandle<Synced>>,
    /// How long the last one took.
    last: Duration,
}

fn timed(job: Job) -> Synced {
    let begin = Instant::now();
    let outcome = job();
    (outcome, begin.elapsed())
}

impl Syncing {
    fn start(&mut self, job: Job) {
        self.job = Some(tokio::task::spawn_blocking(move || timed(job)));
    }

    /// Runs the sync here, if the disk is so quick that handing it to another thread would take longer, and says how it
    /// ended. Otherwise it is started.
    async fn run_or_start(&mut self, job: Job) -> Option<Result<Mark, Error>> {
        let several_threads = Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread;
        if self.last > QUICK || !several_threads {
            self.start(job);
            return None;
        }
        // Whoever waits for this thread goes first, the feedback above all: should the disk not answer for once, nobody
        // else is kept waiting.
        tokio::task::yield_now().await;
        let (outcome, took) = timed(job);
        self.last = took;
        Some(outcome)
    }

    /// Waits for the sync to end; for ever if there is none. Cancel-safe.
    async fn ended(&mut self) -> Result<Mark, Error> {
        match &mut self.job {
            Some(handle) => {
                let answer = handle.await;
                self.job = None;
                let (outcome, took) = answer.map_err(Error::Task)?;
                self.last = took;
                outcome
            }
            None => std::future::pending().await,
        }
    }
}

/// Why the loop is left.
enum Left {
    Stopped,
    ByServer,
}

/// Runs a stream until `stop` is ready, the server ends it, or something fails. Whatever the outcome, what was
/// appended is durable in `target` on return and what was begun is rolled back, unless that failed too.
pub(crate) async fn run<T: Target>(
    mut stream: Stream,
    target: &mut T,
    stop: &mut Stop,
    show: &mut (impl FnMut(&View, &mut Machine) + Send),
) -> Result<Ended, Error> {
    let mut syncing = Syncing::default();
    let left = turn(&mut stream, target, &mut syncing, stop, show).await;
    // A sync that is under way is waited for in every case: its answer belongs to the target.
    if syncing.job.is_some() {
        let outcome = syncing.ended().await;
        let durable = target.synced(outcome)?;
        stream.machine.synced(durable)?;
    }
    let Stream { reader, mut machine, feedback, .. } = stream;
    let now = Timestamp::now();
    let settled = machine
        .disconnected(now, target)
        .and_then(|()| target.sync_now())
        .and_then(|()| machine.synced(target.durable().resume_lsn.max(machine.positions().durable)));
    show(&view(&machine, target, now), &mut machine);
    match left {
        Err(error) => {
            feedback.abort();
            if let Err(second) = settled {
                tracing::warn!(error = %second, "what was in hand could not be put away");
            }
            Err(error)
        }
        Ok(left) => {
            settled?;
            feedback.durable(machine.positions().durable);
            part(reader, feedback, &mut machine).await;
            Ok(match left {
                Left::Stopped => Ended::Stopped,
                Left::ByServer => Ended::ByServer,
            })
        }
    }
}

/// The loop.
async fn turn<T: Target>(
    stream: &mut Stream,
    target: &mut T,
    syncing: &mut Syncing,
    stop: &mut Stop,
    show: &mut (impl FnMut(&View, &mut Machine) + Send),
) -> Result<Left, Error> {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch::new();
    let mut stopping: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            outcome = syncing.ended() => told(stream, target, outcome)?,
            error = stream.feedback.failed() => return Err(last_words(stream, error).await),
            () = stop.asked(), if stopping.is_none() => stopping = Some(Instant::now() + GRACE),
            // What is received while nothing is taken any more would only fill memory.
            more = stream.reader.fill(), if stopping.is_none() || stream.machine.in_transaction() => {
                if !more? {
                    return Err(irongate_postgres::Error::Closed(None).into());
                }
                watch.heard();
            }
            _ = tick.tick() => {}
        }
        let Some(frames) = handle_frames(stream, target, &mut watch, stopping.is_some())? else {
            return Ok(Left::ByServer);
        };
        let is_between = !stream.machine.in_transaction();
        if stopping.is_some() && is_between {
            stream.machine.stopping();
        }
        let is_behind = stream.machine.settle(Timestamp::now(), target)?;
        if syncing.job.is_none()
            && let Some(job) = target.sync_job()?
        {
            if frames > FEW {
                syncing.start(job);
            } else {
                target.tell_early();
                if let Some(outcome) = syncing.run_or_start(job).await {
                    told(stream, target, outcome)?;
                }
            }
        }
        if let Some(deadline) = stopping
            && (is_between && !is_behind || Instant::now() >= deadline)
        {
            return Ok(Left::Stopped);
        }
        watch.look(stream, target, show)?;
    }
}

/// A sync has ended: the machine hears what is durable now, and then the feedback task.
fn told<T: Target>(stream: &mut Stream, target: &mut T, outcome: Result<Mark, Error>) -> Result<(), Error> {
    let durable = target.synced(outcome)?;
    stream.machine.synced(durable)?;
    stream.feedback.durable(durable);
    Ok(())
}

/// Handles what has been received, and says how much it was; `None` when the server has ended the stream.
fn handle_frames<T: Target>(
    stream: &mut Stream,
    target: &mut T,
    watch: &mut Watch,
    stopping: bool,
) -> Result<Option<u32>, Error> {
    let Stream { reader, decoder, machine, feedback, .. } = stream;
    let mut frames = 0;
    while !stopping || machine.in_transaction() {
        match reader.next_frame()? {
            None => break,
            Some(Frame::XLogData { start, time, data, .. }) => {
                watch.server_time = time;
                machine.frame(start);
                let message =
                    decoder.decode(data).map_err(|source| Error::Malformed { lsn: machine.at(), source })?;
                machine.message(message, target)?;
            }
            Some(Frame::Keepalive { wal_end, time, reply_requested }) => {
                watch.server_time = time;
                machine.keepalive(wal_end, reply_requested);
                if reply_requested {
                    feedback.asked();
                }
            }
            Some(Frame::Notice(notice)) => {
                if let Some(notice) = notice.read() {
                    heed(&notice)?;
                }
            }
            Some(Frame::Done) => return Ok(None),
        }
        frames += 1;
    }
    Ok(Some(frames))
}

/// From PostgreSQL 18 on a publication that is not there at a place of the log, where the servers before stop, is a
/// warning, and what it publishes is left out.
fn heed(notice: &ServerError) -> Result<(), Error> {
    const NOT_IN_PREREQUISITE_STATE: &str = "55000";
    let is_warning = notice.severity() == "WARNING";
    if is_warning && notice.code() == NOT_IN_PREREQUISITE_STATE {
        return Err(Error::PublicationLeftOut(Box::new(notice.clone())));
    }
    if is_warning {
        tracing::warn!(%notice, "the server warns");
    }
    Ok(())
}

/// What the loop keeps an eye on.
struct Watch {
    heard: Instant,
    probed: bool,
    shown: Instant,
    server_time: Timestamp,
}

impl Watch {
    fn new() -> Self {
        let now = Instant::now();
        Self { heard: now, probed: false, shown: now, server_time: Timestamp::default() }
    }

    fn heard(&mut self) {
        self.heard = Instant::now();
        self.probed = false;
    }

    /// Now and then: finds out a server that is gone, checks the chain, and shows the state.
    fn look<T: Target>(
        &mut self,
        stream: &mut Stream,
        target: &T,
        show: &mut impl FnMut(&View, &mut Machine),
    ) -> Result<(), Error> {
        let now = Instant::now();
        if now < self.shown + TICK {
            return Ok(());
        }
        self.shown = now;
        let silent = now - self.heard;
        if silent >= stream.silence {
            return Err(Error::Silent(silent));
        }
        if silent >= stream.silence / 2 && !self.probed {
            stream.feedback.probe();
            self.probed = true;
        }
        stream.machine.confirmed(stream.feedback.confirmed())?;
        show(&view(&stream.machine, target, self.server_time), &mut stream.machine);
        Ok(())
    }
}

fn view<T: Target>(machine: &Machine, target: &T, server_time: Timestamp) -> View {
    View {
        positions: machine.positions(),
        counts: machine.counts(),
        streamed: machine.streamed(),
        durable: target.durable(),
        server_time,
    }
}

/// The sending side has failed. The server's reason, if it gave one, is at the reader.
async fn last_words(stream: &mut Stream, error: Error) -> Error {
    let words = async {
        loop {
            match stream.reader.next_frame() {
                Ok(Some(_)) => {}
                Ok(None) => match stream.reader.fill().await {
                    Ok(true) => {}
                    Ok(false) => return None,
                    Err(error) => return Some(error),
                },
                Err(error) => return Some(error),
            }
        }
    };
    timeout(FAREWELL, words).await.ok().flatten().map_or(error, Error::from)
}

/// Tells the server the last position and ends the session in order. What fails here is lost on nobody: the trail is
/// durable, and a position that the server did not hear is told it again at the next start.
async fn part(mut reader: FrameReader, feedback: Feedback, machine: &mut Machine) {
    let farewell = async {
        let (mut writer, confirmed) = feedback.finish().await?;
        machine.confirmed(confirmed)?;
        writer.finish().await?;
        let mut done = false;
        while !done && reader.fill().await? {
            while let Some(frame) = reader.next_frame()? {
                done |= frame == Frame::Done;
            }
        }
        writer.terminate().await?;
        Ok::<_, Error>(confirmed)
    };
    match timeout(FAREWELL, farewell).await {
        Ok(Ok(confirmed)) => tracing::debug!(%confirmed, "stream ended"),
        Ok(Err(error)) => tracing::debug!(%error, "stream ended without an answer of the server"),
        Err(_) => tracing::debug!("stream ended, and the server did not answer in time"),
    }
}

/// For readers of [`ResumeLsn`]s that may not know one yet.
pub(crate) fn known(lsn: ResumeLsn) -> Option<Lsn> {
    (lsn.0 != Lsn::ZERO).then_some(lsn.0)
}
