//! May the stream begin? The question is asked of facts, before START_REPLICATION, because the server will not ask it:
//!
//! * Asked to start before the slot's confirmed position, it starts there instead and says so only in its own log: the
//!   transactions between are lost.
//! * Asked to start behind the end of its log, or on another history, it obeys.
//!
//! So every doubt is a typed refusal with its remedy, and only a place that is proven to belong to this server, this
//! history and this slot is given to START_REPLICATION.

use std::fmt;

use irongate_trail::{Lineage, Lsn, ResumeLsn};

/// The output plugin that Extract reads.
pub const PLUGIN: &str = "pgoutput";

/// What `IDENTIFY_SYSTEM` answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    /// Made by initdb.
    pub system_identifier: u64,
    /// The current timeline.
    pub timeline: u32,
    /// How far its log is flushed (on a standby: replayed).
    pub wal_end: Lsn,
    /// The database of the connection.
    pub database: String,
}

/// What `pg_replication_slots` shows; what a release does not have is `None` or false.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Slot {
    /// `plugin`, none for a physical slot.
    pub plugin: Option<String>,
    /// `database`, none for a physical slot.
    pub database: Option<String>,
    /// `active_pid`.
    pub active_pid: Option<i32>,
    /// `confirmed_flush_lsn`, none while the slot is being created.
    pub confirmed_flush: Option<Lsn>,
    /// `restart_lsn`.
    pub restart_lsn: Option<Lsn>,
    /// `wal_status`.
    pub wal_status: Option<String>,
    /// `invalidation_reason`, from 17.
    pub invalidation_reason: Option<String>,
    /// `conflicting`, from 16.
    pub conflicting: bool,
    /// `two_phase`.
    pub two_phase: bool,
    /// `temporary`.
    pub temporary: bool,
    /// `synced`, from 17: the slot came from a primary before this server was promoted.
    pub synced: bool,
}

/// Extract's own place, out of its trail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Own {
    /// Whose LSNs stand in the trail.
    pub lineage: Lineage,
    /// Where the trail says to begin again; zero for a trail without anything in it.
    pub durable: ResumeLsn,
}

/// The stream may begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Start {
    /// What to ask START_REPLICATION for.
    pub at: ResumeLsn,
    /// The lineage from here on: another timeline than the trail's when the server was promoted on a proven path.
    pub lineage: Lineage,
    /// The server may remove log that the slot needs at its next checkpoint (`wal_status` "unreserved").
    pub unreserved: bool,
}

/// Why the stream may not begin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The slot's name.
    pub slot: String,
    /// The reason.
    pub reason: Reason,
}

/// The reason of a [`Refusal`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Another cluster.
    OtherSystem {
        /// The trail's.
        expected: u64,
        /// The server's.
        found: u64,
    },
    /// The server is on a timeline that the trail's place is not proven to be on.
    OtherTimeline {
        /// The trail's.
        expected: u32,
        /// The server's.
        found: u32,
        /// The trail's place.
        durable: ResumeLsn,
        /// What the proof lacks.
        lacks: TimelineProof,
    },
    /// The server's log ends before the trail's place: it was restored from an older state.
    ServerBehind {
        /// The end of the server's log.
        wal_end: Lsn,
        /// The trail's place.
        durable: ResumeLsn,
    },
    /// There is no such slot.
    Missing,
    /// There is no such slot, because the server was promoted and the slot was not synchronized to it before.
    MissingAfterPromotion {
        /// The trail's timeline.
        expected: u32,
        /// The server's.
        found: u32,
        /// The trail's place.
        durable: ResumeLsn,
    },
    /// The slot is in another database than the connection.
    OtherDatabase {
        /// The connection's.
        expected: String,
        /// The slot's.
        found: Option<String>,
    },
    /// The slot has another plugin, or none.
    OtherPlugin(Option<String>),
    /// The slot sends prepared transactions at their PREPARE.
    TwoPhase,
    /// The slot vanishes with its session.
    Temporary,
    /// The slot does not hold what it promised.
    Lost {
        /// `invalidation_reason`, or what stands for it before 17.
        why: String,
    },
    /// The slot's creation has not ended.
    Unready,
    /// Somebody else reads the slot.
    Active {
        /// The server process.
        pid: i32,
    },
    /// The trail ends before the slot was created.
    BeforeSlot {
        /// The trail's place.
        durable: ResumeLsn,
        /// Where the slot was created, as recorded then.
        created: Lsn,
    },
    /// The slot is beyond the trail's place: what lies between is gone.
    Ahead {
        /// The slot's confirmed position.
        confirmed: Lsn,
        /// The trail's place.
        durable: ResumeLsn,
    },
}

/// What a new timeline lacks to be accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimelineProof {
    /// Its history does not contain the trail's timeline.
    NotInHistory,
    /// The trail went on after the point where the new timeline left the trail's.
    LeftAt(Lsn),
    /// The slot was not synchronized from the primary before the promotion.
    NotSynced,
}

/// Whether Extract may begin with `slot` (`None`: there is none of the name) on `server`, and where. `history` is what
/// `TIMELINE_HISTORY` says of the server's timeline: the ones before it, each with the position at which it was left.
///
/// # Errors
/// The first [`Refusal`] that applies, the gravest first.
pub fn check(
    name: &str,
    server: &Server,
    history: &[(u32, Lsn)],
    slot: Option<&Slot>,
    own: &Own,
) -> Result<Start, Refusal> {
    decide(server, history, slot, own).map_err(|reason| Refusal { slot: name.to_owned(), reason })
}

fn decide(server: &Server, history: &[(u32, Lsn)], slot: Option<&Slot>, own: &Own) -> Result<Start, Reason> {
    let Lineage { system_identifier, timeline, slot_incarnation } = own.lineage;
    if server.system_identifier != system_identifier {
        return Err(Reason::OtherSystem { expected: system_identifier, found: server.system_identifier });
    }
    // A trail without anything in it begins where the slot did: what is before came with the initial load.
    let durable = if own.durable.0 == Lsn::ZERO { ResumeLsn(slot_incarnation) } else { own.durable };
    let is_promoted = server.timeline != timeline && history.iter().any(|(earlier, _)| *earlier == timeline);
    let slot = slot.ok_or(if is_promoted {
        Reason::MissingAfterPromotion { expected: timeline, found: server.timeline, durable }
    } else {
        Reason::Missing
    })?;
    if server.timeline != timeline {
        let left_at = history.iter().find(|(id, _)| *id == timeline).map(|(_, lsn)| *lsn);
        let lacks = match left_at {
            None => Some(TimelineProof::NotInHistory),
            Some(left_at) if durable.0 > left_at => Some(TimelineProof::LeftAt(left_at)),
            Some(_) if !slot.synced => Some(TimelineProof::NotSynced),
            Some(_) => None,
        };
        if let Some(lacks) = lacks {
            return Err(Reason::OtherTimeline { expected: timeline, found: server.timeline, durable, lacks });
        }
    }
    if durable.0 > server.wal_end {
        return Err(Reason::ServerBehind { wal_end: server.wal_end, durable });
    }
    if slot.plugin.as_deref() != Some(PLUGIN) {
        return Err(Reason::OtherPlugin(slot.plugin.clone()));
    }
    if slot.database.as_deref() != Some(&server.database) {
        return Err(Reason::OtherDatabase {
            expected: server.database.clone(),
            found: slot.database.clone(),
        });
    }
    if slot.two_phase {
        return Err(Reason::TwoPhase);
    }
    if slot.temporary {
        return Err(Reason::Temporary);
    }
    if let Some(why) = lost(slot) {
        return Err(Reason::Lost { why });
    }
    let confirmed = slot.confirmed_flush.ok_or(Reason::Unready)?;
    if durable.0 < slot_incarnation {
        return Err(Reason::BeforeSlot { durable, created: slot_incarnation });
    }
    if confirmed > durable.0 {
        return Err(Reason::Ahead { confirmed, durable });
    }
    if let Some(pid) = slot.active_pid {
        return Err(Reason::Active { pid });
    }
    Ok(Start {
        at: durable,
        lineage: Lineage { timeline: server.timeline, ..own.lineage },
        unreserved: slot.wal_status.as_deref() == Some("unreserved"),
    })
}

fn lost(slot: &Slot) -> Option<String> {
    if let Some(reason) = &slot.invalidation_reason {
        return Some(reason.clone());
    }
    if slot.conflicting {
        return Some("conflict with recovery".to_owned());
    }
    (slot.wal_status.as_deref() == Some("lost")).then(|| "the log it needs was removed".to_owned())
}

impl Refusal {
    /// Whether trying again later, with nothing else changed, can help.
    pub fn is_transient(&self) -> bool {
        // A connection that was cut lives on at the server until its timeout; a slot is ready when the last older
        // transaction has ended.
        matches!(self.reason, Reason::Active { .. } | Reason::Unready)
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        const AGAIN: &str =
            "instantiate the flow again, or compare and repair if the target must stay as it is";
        Some(match &self.reason {
            Reason::OtherSystem { .. } => {
                "point the flow at the database that the trail was written from, or instantiate the flow again".to_owned()
            }
            Reason::OtherTimeline { lacks: TimelineProof::NotSynced, .. } => format!(
                "a slot survives a promotion provably only when it was synchronized (failover slots, PostgreSQL 17 and later); {AGAIN}"
            ),
            Reason::OtherTimeline { .. } | Reason::ServerBehind { .. } => format!(
                "the target may hold transactions that this server never had; compare the two databases, then {AGAIN}"
            ),
            Reason::MissingAfterPromotion { .. } => format!(
                "before PostgreSQL 17, and without \"sync_replication_slots\" at the standby, a promotion loses every logical slot, and what was committed until a new one is made is in no stream: {AGAIN}; to be spared this, create the slot with failover on 17 or later and turn \"sync_replication_slots\" on"
            ),
            Reason::Missing => {
                format!("irongate setup creates the slot, but what was committed meanwhile is not in it: {AGAIN}")
            }
            Reason::Lost { .. } | Reason::Ahead { .. } | Reason::BeforeSlot { .. } => AGAIN.to_owned(),
            Reason::OtherDatabase { .. } | Reason::OtherPlugin(_) => {
                "name another slot, or drop this one (irongate teardown) and set up the flow again".to_owned()
            }
            Reason::TwoPhase | Reason::Temporary => {
                "drop the slot (irongate teardown), set up the flow again (irongate setup), and instantiate it".to_owned()
            }
            Reason::Unready => {
                "its creation waits for the end of every older transaction that writes: look for old backend_xid in pg_stat_activity and for pg_prepared_xacts"
                    .to_owned()
            }
            Reason::Active { pid } => format!(
                "stop the other Extract; a connection that was cut ends by itself after wal_sender_timeout, or with SELECT pg_terminate_backend({pid})"
            ),
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slot = &self.slot;
        match &self.reason {
            Reason::OtherSystem { expected, found } => {
                write!(f, "the server has system identifier {found}, the trail is from {expected}")
            }
            Reason::OtherTimeline { expected, found, durable, lacks } => {
                write!(
                    f,
                    "the server is on timeline {found}, the trail ends at {durable} on timeline {expected}"
                )?;
                match lacks {
                    TimelineProof::NotInHistory => write!(f, ", which is not in the server's history"),
                    TimelineProof::LeftAt(lsn) => write!(f, ", which the server left earlier, at {lsn}"),
                    TimelineProof::NotSynced => {
                        write!(f, ", and slot \"{slot}\" was not synchronized before the promotion")
                    }
                }
            }
            Reason::ServerBehind { wal_end, durable } => {
                write!(
                    f,
                    "the server's log ends at {wal_end}, before the trail's place {durable}: the server was set back"
                )
            }
            Reason::MissingAfterPromotion { expected, found, durable } => write!(
                f,
                "the server was promoted from timeline {expected} to {found} without replication slot \"{slot}\"; the trail ends at {durable}"
            ),
            Reason::Missing => write!(f, "replication slot \"{slot}\" does not exist"),
            Reason::OtherDatabase { expected, found } => match found {
                Some(found) => {
                    write!(f, "replication slot \"{slot}\" is in database \"{found}\", not in \"{expected}\"")
                }
                None => write!(f, "replication slot \"{slot}\" is not a logical one"),
            },
            Reason::OtherPlugin(found) => match found {
                Some(found) => {
                    write!(f, "replication slot \"{slot}\" has output plugin \"{found}\", not \"{PLUGIN}\"")
                }
                None => write!(f, "replication slot \"{slot}\" is not a logical one"),
            },
            Reason::TwoPhase => write!(
                f,
                "replication slot \"{slot}\" was created with two_phase and sends prepared transactions before their commit"
            ),
            Reason::Temporary => write!(f, "replication slot \"{slot}\" is temporary"),
            Reason::Lost { why } => write!(f, "replication slot \"{slot}\" is lost: {why}"),
            Reason::Unready => write!(f, "replication slot \"{slot}\" is still being created"),
            Reason::Active { pid } => write!(f, "replication slot \"{slot}\" is active for PID {pid}"),
            Reason::BeforeSlot { durable, created } => write!(
                f,
                "the trail ends at {durable}, before replication slot \"{slot}\" was created at {created}: the changes between are missing"
            ),
            Reason::Ahead { confirmed, durable } => write!(
                f,
                "replication slot \"{slot}\" is at {confirmed}, ahead of the trail at {durable}: it was advanced or created again by somebody, and the changes between are lost"
            ),
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests;
