//! The task that works ahead: finds a transaction, applies it as it comes, commits it or takes it back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use irongate_trail::{
    CommitLsn, Directory, Lsn, OpenSide, Presence, SideReader, Source, Storage, open_sides,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::choice::Tried;
use super::{Done, Due, Finish, Place, State, Told};
use crate::batch::Batch;
use crate::settings::{Grouping, ReplicatSettings};
use crate::target::SessionAhead;

/// How often it is looked whether there is a transaction to begin with.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// How often a file that has nothing new is read on.
const READ_EVERY: Duration = Duration::from_millis(50);

/// How long changes wait for more that go in one piece with them.
const LINGER: Duration = Duration::from_millis(200);

/// How often it is asked whether anybody waits for the session, and whether the file is still there.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Why no more comes of it, in one sentence.
type Reason = String;

pub(super) async fn run(
    settings: ReplicatSettings,
    from: u64,
    mut told: watch::Receiver<Told>,
    state: watch::Sender<State>,
    mut due: mpsc::Receiver<Finish>,
) {
    let storage: Arc<dyn Storage> = Arc::new(Directory::new(&settings.trail));
    let mut tried = Tried::default();
    // Ends when the other side is dropped.
    while told.wait_for(|told| matches!(told, Told::Work(_))).await.is_ok() {
        // What is due and was not done ahead has no answer, which is one.
        while due.try_recv().is_ok() {}
        let found = find(&storage, &mut tried, from);
        let Some(reader) = found else {
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        };
        let xid = reader.xid();
        state.send_modify(|state| (state.xid, state.rows) = (Some(xid), 0));
        let mut work = Work {
            settings: &settings,
            told: told.clone(),
            state: &state,
            due: &mut due,
            reader,
            session: None,
            done: Done::default(),
            rows: 0,
            is_adopted: false,
            finishing: None,
        };
        let result = tokio::select! {
            result = work.run() => result,
            why = rest(&mut told) => Err(why),
        };
        let (rows, session, done) = (work.rows, work.session.take(), work.done);
        match result {
            Ok(answer) => {
                tracing::info!(group = %settings.group, xid, rows, "large transaction applied ahead of its commit");
                drop(session);
                state.send_modify(|state| state.xid = None);
                let _ = answer.send(done);
            }
            Err(reason) => {
                tracing::info!(
                    group = %settings.group, xid, rows, reason,
                    "gave up working ahead: the large transaction is applied at its commit"
                );
                if let Some(session) = session {
                    session.roll_back().await;
                }
                state.send_modify(|state| {
                    state.xid = None;
                    state.given_up += 1;
                });
            }
        }
    }
}

/// Resolves when nothing is to be done ahead any more.
async fn rest(told: &mut watch::Receiver<Told>) -> Reason {
    match told.wait_for(|told| matches!(told, Told::Rest(_))).await.as_deref() {
        Ok(Told::Rest(why)) => (*why).to_owned(),
        _ => "Replicat ends".to_owned(),
    }
}

/// A transaction to begin with, noted as tried. What cannot be read is for others to say.
fn find(storage: &Arc<dyn Storage>, tried: &mut Tried, from: u64) -> Option<SideReader> {
    let side: OpenSide = tried.choose(open_sides(&**storage).ok()?, from)?;
    let name = side.name.clone();
    match SideReader::open(Arc::clone(storage), side) {
        Ok(Some(reader)) => {
            tried.add(&name);
            Some(reader)
        }
        Ok(None) => None,
        Err(error) => {
            tried.add(&name);
            tracing::info!(%error, "cannot read ahead");
            None
        }
    }
}

struct Work<'a> {
    settings: &'a ReplicatSettings,
    told: watch::Receiver<Told>,
    state: &'a watch::Sender<State>,
    due: &'a mut mpsc::Receiver<Finish>,
    reader: SideReader,
    session: Option<SessionAhead>,
    done: Done,
    rows: u64,
    is_adopted: bool,
    finishing: Option<(Due, oneshot::Sender<Done>)>,
}

impl Work<'_> {
    async fn run(&mut self) -> Result<oneshot::Sender<Done>, Reason> {
        let limits = self.settings.grouping_in_force();
        let (mut batch, mut next) = (Batch::default(), Batch::default());
        // When something moved last, when the batch was last added to, when it was last asked.
        let (mut moved, mut filled, mut asked) = (Instant::now(), Instant::now(), Instant::now());
        loop {
            let place = self.place()?;
            self.reader.allow(place.applied);
            if let Ok(finish) = self.due.try_recv() {
                self.expect(finish);
            }
            if fill(&mut batch, &mut self.reader, &limits)? {
                (moved, filled) = (Instant::now(), Instant::now());
            }
            if let Some(why) = self.reader.unusual() {
                return Err(why.to_owned());
            }
            if batch.end().is_some() {
                return self.commit(&batch).await;
            }
            if asked.elapsed() >= ASK_EVERY {
                asked = Instant::now();
                self.is_adopted = self.ask().await? == Presence::Adopted;
                if self.rows > 0 && moved.elapsed() >= self.settings.ahead.idle {
                    return Err(format!("nothing more of it has come for {:?}", self.settings.ahead.idle));
                }
            }
            if batch.is_piece(&limits) || !batch.is_empty() && filled.elapsed() >= LINGER {
                next.follow(&batch);
                self.open(place).await?;
                let Some(session) = &mut self.session else { continue };
                let reader = &mut self.reader;
                let ahead = async { fill(&mut next, reader, &limits) };
                let (applied, read) = tokio::join!(session.apply(&batch), ahead);
                applied?;
                read?;
                self.account(&batch);
                std::mem::swap(&mut batch, &mut next);
                (moved, filled) = (Instant::now(), Instant::now());
                continue;
            }
            // What is read already may wait for the main session, and then that one has to move.
            let is_its_turn = self.is_adopted || self.reader.waits();
            tokio::select! {
                finish = self.due.recv(), if self.finishing.is_none() => match finish {
                    Some(finish) => self.expect(finish),
                    None => return Err("Replicat ends".to_owned()),
                },
                _ = self.told.changed(), if is_its_turn => moved = Instant::now(),
                () = tokio::time::sleep(READ_EVERY) => {}
            }
        }
    }

    /// Where the main session is.
    fn place(&self) -> Result<Place, Reason> {
        let place = match *self.told.borrow() {
            Told::Work(place) => place,
            Told::Rest(why) => return Err(why.to_owned()),
        };
        if place.lineage != self.reader.lineage() {
            return Err("it is of another lineage than what is applied".to_owned());
        }
        Ok(place)
    }

    fn expect(&mut self, (due, answer): Finish) {
        // The main session has passed all that comes before it in the trail.
        self.reader.allow(CommitLsn(Lsn(u64::MAX)));
        self.reader.expect(due.adopt.clone(), due.commit);
        self.finishing = Some((due, answer));
    }

    async fn open(&mut self, place: Place) -> Result<(), Reason> {
        if self.session.is_none() {
            let session = SessionAhead::open(self.settings, place.holder).await;
            let session = self.session.insert(session.map_err(|error| error.to_string())?);
            session.refuse_held().await?;
        }
        Ok(())
    }

    /// Looks whether anybody waits for the session and what has become of the file.
    async fn ask(&mut self) -> Result<Presence, Reason> {
        let presence = self.reader.presence().map_err(|error| error.to_string())?;
        if presence == Presence::Dropped {
            return Err("the source has rolled it back, or sends it once more".to_owned());
        }
        // Once its commit has come it is as any other, and whoever waits has to.
        if let (Some(session), None) = (&self.session, &self.finishing)
            && self.rows > 0
            && session.is_waited_for().await?
        {
            return Err("somebody waits for a lock that it holds".to_owned());
        }
        Ok(presence)
    }

    fn account(&mut self, batch: &Batch) {
        self.rows += batch.len() as u64;
        self.done.bytes += batch.bytes() as u64;
        batch.count(&mut self.done.tables);
        let rows = self.rows;
        self.state.send_modify(|state| state.rows = rows);
    }

    async fn commit(&mut self, batch: &Batch) -> Result<oneshot::Sender<Done>, Reason> {
        let Some((due, answer)) = self.finishing.take() else {
            return Err("a commit out of place".to_owned());
        };
        let Some(session) = &mut self.session else {
            return Err("its commit came before anything was applied".to_owned());
        };
        session.commit(batch, due.previous, &due.end).await?;
        self.account(batch);
        Ok(answer)
    }
}

fn fill(batch: &mut Batch, reader: &mut SideReader, limits: &Grouping) -> Result<bool, Reason> {
    batch.fill(reader, limits, true).map_err(|error| error.to_string())
}
