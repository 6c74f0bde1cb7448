//! One connection of a pump, acted out.
//!
//! Three things happen at once, in one task, so that dropping it leaves nothing behind: the trail is read and sent, what
//! the collector says is heard, and now and then what was heard is put down. Nothing waits for an acknowledgement but the
//! end, so the distance costs no throughput: what is under way is in the socket, and when the collector does not read, the
//! socket is full and nothing more is read from the trail. Memory is one batch, or the longest row.

pub(crate) mod carrier;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use irongate_checkpoint::Stop;
use irongate_trail::{Follower, Mark, Position, Storage, Timestamp, register_reader};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Shown, own};
use crate::boundaries::Boundaries;
use crate::error::Error;
use crate::link::{self, Link, Outbox, Receiving, Sending, peer_name};
use crate::sender::Sent;
use crate::settings::PumpSettings;
use crate::wire::{Accepted, Ack, Code, Frame, Hello, Refused, Role};
use carrier::{Carrier, open_trail};

/// How often the state is shown.
const TICK: Duration = Duration::from_millis(250);
/// How often the trail is told how far it may be purged.
const SETTLE: Duration = Duration::from_secs(1);

/// A connection that the collector has accepted.
pub(super) struct Session<'a> {
    settings: &'a PumpSettings,
    storage: &'a Arc<dyn Storage>,
    receiving: Receiving,
    sending: Sending,
    accepted: Accepted,
    follower: Follower,
    outbox: Outbox,
    shared: Mutex<Shared>,
}

/// What the parts of a session tell each other.
#[derive(Default)]
struct Shared {
    boundaries: Boundaries,
    /// The place in the trail that the last acknowledgement leads to, until it has been put down.
    reached: Option<Position>,
    ack: Ack,
    sent: Sent,
    durable: Mark,
    round_trip: Option<Duration>,
    /// We have taken our leave.
    parting: bool,
}

impl<'a> Session<'a> {
    /// Introduces the pump and hears the collector's answer.
    pub(super) async fn open(
        link: Link,
        settings: &'a PumpSettings,
        storage: &'a Arc<dyn Storage>,
        instance: u64,
    ) -> Result<Self, Error> {
        let facts = own::facts(storage, settings.epoch)?;
        let peer = peer_name(Some(&settings.peer), link.address());
        let until = Instant::now() + settings.link.connect_limit;
        let (mut receiving, mut sending) = link.split(&peer, &settings.link);
        let hello = Hello {
            deployment: settings.deployment.clone(),
            flow: settings.flow.clone(),
            site: settings.site.clone(),
            group: settings.group.clone(),
            instance,
            epoch: settings.epoch,
            server_version: facts.server_version,
            end: facts.place(),
            histories: facts.histories,
        };
        let greeting = greet(&mut receiving, &mut sending, hello, settings, until).await;
        let accepted = match greeting {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Error::Refusing { refused } = &error {
                    link::refuse(&mut sending, &mut receiving, refused).await;
                }
                return Err(error);
            }
        };
        tracing::info!(
            %peer, commit = %accepted.place.commit, resume = %accepted.place.resume, held = ?accepted.held,
            "the collector goes on"
        );
        let follower = match open_trail(&settings.trail, &accepted, &peer) {
            Ok(follower) => follower,
            Err(error) => {
                part_with(&mut sending, &mut receiving, &error).await;
                return Err(error);
            }
        };
        let (outbox, shared) = (Outbox::default(), Mutex::new(Shared::default()));
        Ok(Self { settings, storage, receiving, sending, accepted, follower, outbox, shared })
    }

    /// Carries the trail until `stop` is uttered or something fails. What was acknowledged is put down in either case.
    pub(super) async fn run(self, shown: &mut Shown, stop: &mut Stop) -> Result<(), Error> {
        let Self { settings, storage, mut receiving, mut sending, accepted, follower, outbox, shared } = self;
        let talk = Talk { settings, storage, outbox: &outbox, shared: &shared };
        let mut carrier = Carrier::new(&talk, &accepted, follower, &receiving.peer)?;
        let outcome = tokio::select! {
            sent = carrier.carry(&mut sending, stop) => sent,
            heard = talk.hear(&mut receiving) => heard,
            settled = talk.keep_settling(shown) => settled,
        };
        let settled = talk.settle(shown).await;
        shown.show();
        if let Err(error) = &outcome {
            part_with(&mut sending, &mut receiving, error).await;
        } else {
            sending.close().await;
        }
        outcome.and(settled)
    }
}

/// Tells the collector why the pump does not go on, if that is the pump's own decision.
async fn part_with(sending: &mut Sending, receiving: &mut Receiving, error: &Error) {
    let refused = match error {
        Error::Refusing { refused } => (**refused).clone(),
        Error::Fork { .. } | Error::Trail(_) => Refused {
            code: if matches!(error, Error::Fork { .. }) { Code::Fork } else { Code::Storage },
            transient: error.is_transient(),
            message: error.to_string(),
            remedy: error.hint().unwrap_or_default(),
        },
        _ => return,
    };
    link::refuse(sending, receiving, &refused).await;
}

async fn greet(
    receiving: &mut Receiving,
    sending: &mut Sending,
    hello: Hello,
    settings: &PumpSettings,
    until: Instant,
) -> Result<Accepted, Error> {
    sending.introduce(Role::Pump, &Frame::Hello(hello)).await?;
    receiving.preface(Role::Collector, until).await?;
    let peer = receiving.peer.clone();
    let mut greeted = false;
    loop {
        let Some(frame) = receiving.decoder.next().map_err(Error::malformed(&peer))? else {
            if greeted {
                // It is opening its trail, which may take its time; it says that it is alive.
                receiving.fill().await?;
            } else {
                let limit = settings.link.connect_limit;
                let late = |_| Err(Error::ConnectTimeout { peer: peer.clone(), limit });
                timeout_at(until, receiving.fill()).await.unwrap_or_else(late)?;
            }
            continue;
        };
        match frame {
            Frame::Refused(refused) => return Err(Error::Refused { peer, refused: Box::new(refused) }),
            Frame::Greeting(greeting) if !greeted => {
                let differs = |code, what: &str, theirs: &str, ours: &str| {
                    Error::refusing(Refused {
                        code,
                        transient: false,
                        message: format!("{peer} is of {what} \"{theirs}\", not \"{ours}\""),
                        remedy: format!(
                            "look at the address of the collector, and at the {what} of both sites"
                        ),
                    })
                };
                if greeting.deployment != settings.deployment {
                    let (theirs, ours) = (&greeting.deployment, &settings.deployment);
                    return Err(differs(Code::Deployment, "deployment", theirs, ours));
                }
                if greeting.site != settings.peer {
                    return Err(differs(Code::Site, "site", &greeting.site, &settings.peer));
                }
                greeted = true;
            }
            Frame::Accepted(accepted) if greeted => return Ok(accepted),
            Frame::Ping { .. } | Frame::Pong { .. } if greeted => {}
            Frame::Goodbye(reason) => return Err(Error::Parted { reason: reason.to_owned(), peer }),
            _ => {
                let source = irongate_trail::Malformed("a frame that does not belong into a greeting");
                return Err(Error::Malformed { peer, source });
            }
        }
    }
}

/// What all parts of a session use.
#[derive(Clone, Copy)]
struct Talk<'a> {
    settings: &'a PumpSettings,
    storage: &'a Arc<dyn Storage>,
    outbox: &'a Outbox,
    shared: &'a Mutex<Shared>,
}

impl Talk<'_> {
    fn shared(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears what the collector says, until it ends the link.
    async fn hear(&self, receiving: &mut Receiving) -> Result<(), Error> {
        let peer = receiving.peer.clone();
        loop {
            let Some(frame) = receiving.decoder.next().map_err(Error::malformed(&peer))? else {
                receiving.fill().await?;
                continue;
            };
            match frame {
                Frame::Ack(ack) => {
                    let mut shared = self.shared();
                    if ack.boundaries > shared.boundaries.sent() {
                        let source = irongate_trail::Malformed("more is acknowledged than was sent");
                        return Err(Error::Malformed { peer, source });
                    }
                    shared.ack = ack;
                    if let Some(position) = shared.boundaries.acknowledged(ack.boundaries) {
                        shared.reached = Some(position);
                    }
                }
                Frame::Ping { time } => self.outbox.pong(time),
                Frame::Pong { asked, .. } => {
                    let micros = Timestamp::now().0.saturating_sub(asked.0);
                    self.shared().round_trip = u64::try_from(micros).ok().map(Duration::from_micros);
                }
                Frame::Refused(refused) => return Err(Error::Refused { peer, refused: Box::new(refused) }),
                Frame::Goodbye(_) if self.shared().parting => return Ok(()),
                Frame::Goodbye(reason) => return Err(Error::Parted { reason: reason.to_owned(), peer }),
                _ => {
                    let source = irongate_trail::Malformed("a frame that a collector does not send here");
                    return Err(Error::Malformed { peer, source });
                }
            }
        }
    }

    /// Shows the state and puts down what was acknowledged, for ever.
    async fn keep_settling(&self, shown: &mut Shown) -> Result<(), Error> {
        let mut settled = Instant::now();
        loop {
            if settled.elapsed() >= SETTLE || shown.acknowledged.position.seqno == 0 {
                self.settle(shown).await?;
                settled = Instant::now();
            }
            {
                let shared = self.shared();
                (shown.sent, shown.durable, shown.round_trip) =
                    (shared.sent, shared.durable, shared.round_trip);
            }
            shown.show();
            sleep(TICK).await;
        }
    }

    /// Tells the trail how far it is not needed any more.
    async fn settle(&self, shown: &mut Shown) -> Result<(), Error> {
        let (reached, ack) = {
            let mut shared = self.shared();
            (shown.sent, shown.durable) = (shared.sent, shared.durable);
            (shared.reached.take(), shared.ack)
        };
        let Some(position) = reached.filter(|position| *position >= shown.acknowledged.position) else {
            return Ok(());
        };
        let mark = Mark {
            position,
            resume_lsn: ack.place.resume,
            commit_lsn: ack.place.commit,
            commit_time: ack.commit_time,
            set: Timestamp::now(),
        };
        let (storage, name) = (Arc::clone(self.storage), self.settings.group.clone());
        tokio::task::spawn_blocking(move || register_reader(&*storage, &name, &mark)).await??;
        shown.acknowledged = mark;
        Ok(())
    }
}
