//! A session that works beside the one that has claimed the flow: it applies a later group of transactions at the same time,
//! and commits it behind that one's. Why that is the same: `crate::beside`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use irongate_checkpoint::{Applied, Origin};
use irongate_trail::CommitLsn;
use tokio::sync::watch;

use super::postgres::Connection;
use super::{Failure, Mode, Outcome, PostgresTarget, Target};
use crate::batch::Batch;
use crate::beside::{Rows, Tables};
use crate::error::Error;
use crate::settings::ReplicatSettings;
use crate::table::Plan;

/// The number of the first one's origin; behind that of work ahead.
const NUMBER: u32 = 1001;

/// Room for so many other origins is left at the server: other flows need one each, this one does not need more.
const FOR_OTHERS: i64 = 2;

/// How long the statements of a group may take before it is taken back.
const SLOW: Duration = Duration::from_secs(5);

/// The session waits for a lock for much less than the server's `deadlock_timeout`, a second unless somebody changes it. Where
/// its line is cut, what it has locked is free again soon: it speaks twice a second.
const SETTINGS: &str = "SET lock_timeout = '300ms'; SET idle_in_transaction_session_timeout = '10s'";

/// How often a session that has nothing left to do but to commit asks whether somebody waits for it.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Where there was no room for all of them, it is looked again after so long.
const CRAMPED: Duration = Duration::from_secs(300);

/// After so long without a group the sessions are closed.
const IDLE: Duration = Duration::from_secs(60);

/// A group of transactions and the place behind it.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// What is to be applied. It begins and ends with a source transaction.
    pub batch: &'a Batch,
    /// The place to begin after it.
    pub end: &'a Applied,
}

/// What came of several groups.
#[derive(Debug)]
pub struct Groups {
    /// What came of the first one.
    pub first: Result<Outcome, Failure>,
    /// How many of the others are committed for sure.
    pub others: usize,
    /// Those behind them have not been begun, and can be given to [`Target::apply`]. Otherwise nobody knows, and
    /// [`Target::load`] is called.
    pub rest_is_left: bool,
}

/// How far the groups are, by their numbers.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// So many are committed.
    committed: usize,
    /// The first of those that will not be.
    failed: Option<usize>,
}

impl Progress {
    fn tell(progress: &watch::Sender<Self>, number: usize, is_committed: bool) {
        progress.send_modify(|now| match (is_committed, now.failed) {
            (true, _) => now.committed = number + 1,
            (false, failed) => now.failed = Some(failed.map_or(number, |failed| failed.min(number))),
        });
    }
}

/// The sessions beside, which stay open while they are needed.
#[derive(Debug, Default)]
pub(super) struct Beside {
    sessions: Vec<Connection>,
    used: Option<Instant>,
    /// When the target last had no room for all of them, and for how many it had.
    cramped: Option<(Instant, usize)>,
}

impl Beside {
    /// Closes the sessions if there was nothing for them for a while.
    pub(super) fn rest(&mut self) {
        if self.used.is_some_and(|used| used.elapsed() >= IDLE) {
            self.close();
        }
    }

    pub(super) fn close(&mut self) {
        (self.sessions, self.used) = (Vec::new(), None);
    }
}

/// A group that is ready to be sent by its session.
struct Work<'a> {
    /// Which of the groups it is; the main session's is 0.
    number: usize,
    connection: Connection,
    group: Group<'a>,
    plans: &'a [Arc<Plan>],
    /// Which of its changes wait for those before.
    late: Vec<bool>,
    /// What is applied last before it.
    previous: CommitLsn,
}

fn origin(settings: &ReplicatSettings, number: usize) -> Result<Origin, irongate_checkpoint::Error> {
    Origin::of_worker(&settings.flow, NUMBER.saturating_add(u32::try_from(number).unwrap_or(u32::MAX)))
}

async fn open(settings: &ReplicatSettings, number: usize, holder: i32) -> Result<Connection, Error> {
    let mut connection = Connection::open(settings, origin(settings, number)?, false).await?;
    connection.ahead = Some(CommitLsn::default());
    let client = connection.session.client();
    connection.checkpoint.claim_beside(client, holder).await?;
    client.batch_execute(SETTINGS).await?;
    Ok(connection)
}

impl Work<'_> {
    /// Applies the group and commits it when its turn comes. Gives the session back if it is committed.
    async fn run(mut self, progress: &watch::Sender<Progress>) -> Option<Connection> {
        let result = self.attempt(progress).await;
        if let Err(reason) = &result {
            tracing::info!(reason, "transactions applied beside others are taken back");
            super::ahead::roll_back(&self.connection).await;
        }
        Progress::tell(progress, self.number, result.is_ok());
        result.is_ok().then_some(self.connection)
    }

    async fn attempt(&mut self, progress: &watch::Sender<Progress>) -> Result<(), String> {
        let Self { number, connection, group, plans, late, previous } = self;
        let early = connection.apply_some(group.batch, plans, |change| !late[change], None);
        match tokio::time::timeout(SLOW, early).await {
            Ok(sent) => _ = sent.map_err(super::ahead::reason)?,
            Err(_) => return Err("a statement takes too long".to_owned()),
        }
        let mut progress = progress.subscribe();
        loop {
            let turn = progress.wait_for(|now| {
                now.committed == *number || now.failed.is_some_and(|failed| failed < *number)
            });
            match tokio::time::timeout(ASK_EVERY, turn).await {
                Ok(Ok(now)) if now.committed == *number => break,
                Ok(Ok(_)) => return Err("what comes before them was not applied".to_owned()),
                Ok(Err(_)) => return Err("nobody says how far the others are".to_owned()),
                Err(_) => {}
            }
            let asked = tokio::time::timeout(SLOW, super::ahead::is_waited_for(connection)).await;
            if asked.map_err(|_| "the session does not answer".to_owned())?? {
                return Err("somebody waits for what they have locked".to_owned());
            }
        }
        connection.ahead = Some(*previous);
        let rest = connection.apply_some(group.batch, plans, |change| late[change], Some(group.end));
        rest.await.map(drop).map_err(super::ahead::reason)
    }
}

impl PostgresTarget {
    /// How many groups can be applied at a time.
    pub(super) fn most_beside(&self) -> usize {
        let Some(connection) = &self.connection else { return 1 };
        // The order of conflicts, and of what waits in the error queue, is that of one session.
        if self.settings.conflicts.is_some() || !connection.held.is_empty() {
            return 1;
        }
        let most = match self.beside.cramped {
            Some((since, room)) if since.elapsed() < CRAMPED => room + 1,
            _ => usize::MAX,
        };
        self.settings.sessions.clamp(1, most)
    }

    /// For how many of so many sessions beside there is room.
    async fn room(&mut self, wanted: usize) -> usize {
        let Some(connection) = self.connection.as_ref().filter(|_| self.beside.sessions.len() < wanted)
        else {
            return wanted;
        };
        let origins: Result<Vec<Origin>, _> =
            (0..wanted).map(|number| origin(&self.settings, number)).collect();
        let room = match origins {
            Ok(origins) => Origin::room_for(&origins, connection.session.client(), FOR_OTHERS).await,
            Err(error) => Err(error),
        };
        // What is wrong here is found out by whoever goes on.
        let Ok(room) = room else { return 0 };
        if room < wanted && self.beside.cramped.is_none() {
            tracing::info!(room, "the target has no room for the replication origins of all sessions");
        }
        self.beside.cramped = (room < wanted).then(|| (Instant::now(), room));
        room
    }

    /// The plans of the groups that go beside the first, and of that.
    async fn plans_beside(&mut self, groups: &[Group<'_>]) -> Result<Vec<Vec<Arc<Plan>>>, Failure> {
        let Some(connection) = &mut self.connection else {
            return Err(Failure::Lost(super::postgres::not_loaded()));
        };
        let mut tables = Tables::default();
        let mut all: Vec<Vec<Arc<Plan>>> = Vec::with_capacity(groups.len());
        for group in groups {
            let plans = match connection.plans(group.batch, &self.settings).await {
                Ok(plans) => plans,
                Err(failure) if all.is_empty() => return Err(failure),
                // It is the main session's when its turn comes.
                Err(_) => break,
            };
            if all.is_empty() {
                tables.of_first(&plans);
            } else if !tables.take(&plans) {
                tracing::debug!("the tables of a group are not such that it can go beside others");
                break;
            }
            all.push(plans);
        }
        Ok(all)
    }

    pub(super) async fn apply_beside(&mut self, groups: &[Group<'_>]) -> Groups {
        let [first, others @ ..] = groups else {
            return Groups { first: Ok(Outcome::default()), others: 0, rest_is_left: true };
        };
        let plans = match self.plans_beside(groups).await {
            Ok(plans) => plans,
            Err(failure) => return Groups { first: Err(failure), others: 0, rest_is_left: false },
        };
        let tried = self.room(plans.len() - 1).await;
        if tried == 0 {
            let first = self.apply(first.batch, Mode::Grouped, Some(first.end)).await;
            let rest_is_left = first.is_ok();
            return Groups { first, others: 0, rest_is_left };
        }
        let holder = self.process().unwrap_or_default();
        let settings = self.settings.clone();
        let mut sessions = std::mem::take(&mut self.beside.sessions).into_iter();
        let (progress, _) = watch::channel(Progress::default());
        let beside = async {
            let mut rows = Rows::default();
            rows.add(first.batch, &plans[0]);
            let mut work = Vec::with_capacity(tried);
            let mut previous = first.end.commit_lsn;
            for (number, (group, plans)) in (1..=tried).zip(others.iter().zip(&plans[1..])) {
                let session = match sessions.next() {
                    Some(session) => Ok(session),
                    None => {
                        let opened = tokio::time::timeout(SLOW, open(&settings, number - 1, holder)).await;
                        opened.unwrap_or_else(|_| Err(super::postgres::not_loaded()))
                    }
                };
                let connection = match session {
                    Ok(connection) => connection,
                    Err(error) => {
                        tracing::info!(%error, "transactions are not applied beside others");
                        break;
                    }
                };
                let late = rows.late(group.batch, plans);
                if number < tried {
                    rows.add(group.batch, plans);
                }
                work.push(Work { number, connection, group: *group, plans, late, previous });
                previous = group.end.commit_lsn;
            }
            let runs = work.into_iter().map(|work| work.run(&progress));
            futures_util::future::join_all(runs).await
        };
        let main = async {
            let result = self.apply(first.batch, Mode::Grouped, Some(first.end)).await;
            Progress::tell(&progress, 0, result.is_ok());
            result
        };
        let (first, back) = tokio::join!(main, beside);
        let begun = back.len();
        if begun < tried {
            self.beside.cramped = Some((Instant::now(), begun));
        }
        let committed = back.iter().take_while(|connection| connection.is_some()).count();
        let rest_is_left = first.is_ok() && committed == begun;
        if rest_is_left {
            self.beside.sessions = back.into_iter().flatten().chain(sessions).collect();
            self.beside.used = Some(Instant::now());
        }
        Groups { first, others: committed, rest_is_left }
    }
}
