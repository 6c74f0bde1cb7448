//! The transactions of a session that has an origin, and the reset that must follow each failed one.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use irongate_trail::{ResumeLsn, Timestamp};
use tokio_postgres::{Client, Statement};

use super::Origin;
use crate::error::Error;
use crate::sql::{SqlTime, to_pg};

/// A session whose writes are marked with an origin. Everything here must be called with the client that it was set up
/// on. It begins no SQL transaction itself: the caller sends BEGIN, COMMIT and ROLLBACK, and tells here what came of
/// them.
#[derive(Debug)]
pub struct OriginSession {
    origin: Origin,
    xact_setup: Statement,
    xact_reset: Statement,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Transactions begun and not yet told about.
    open: u32,
    /// A transaction has failed, or nobody knows: the server may hold a position that must not be committed.
    tainted: bool,
}

impl OriginSession {
    pub(super) async fn prepare(origin: Origin, client: &Client) -> Result<Self, Error> {
        let prepare = async |sql: &str| {
            client.prepare(sql).await.map_err(|e| Error::sql("prepare origin statements", e))
        };
        Ok(Self {
            xact_setup: prepare("SELECT pg_catalog.pg_replication_origin_xact_setup($1, $2)").await?,
            xact_reset: prepare("SELECT pg_catalog.pg_replication_origin_xact_reset()").await?,
            origin,
            state: Arc::default(),
        })
    }

    /// The origin.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Opens the account of one target transaction.
    ///
    /// # Errors
    /// [`Error::OriginState`] while another one is open (see [`begin_behind`](Self::begin_behind)) or after one that was
    /// rolled back, or dropped without a word, until [`reset`](Self::reset).
    pub fn begin(&self) -> Result<OriginTransaction, Error> {
        let mut state = self.lock();
        if state.open > 0 {
            return Err(self.origin.state("a transaction is still open"));
        }
        self.open(&mut state)
    }

    /// Opens the account of a target transaction that is sent behind `_open` before that one is answered. If `_open`
    /// fails the one behind it must fail too: `CheckpointTable::save_after` sees to that.
    ///
    /// # Errors
    /// [`Error::OriginState`] after a transaction that was rolled back, until [`reset`](Self::reset).
    pub fn begin_behind(&self, _open: &OriginTransaction) -> Result<OriginTransaction, Error> {
        self.open(&mut self.lock())
    }

    /// Clears the position that a failed transaction has left in the session. To be called outside of any transaction,
    /// with all transactions told about.
    ///
    /// # Errors
    /// [`Error::OriginState`] while a transaction is open; [`Error::Sql`], and the session stays unusable.
    pub async fn reset(&self, client: &Client) -> Result<(), Error> {
        if self.lock().open > 0 {
            return Err(self.origin.state("a transaction is still open"));
        }
        client
            .execute(&self.xact_reset, &[])
            .await
            .map_err(|e| Error::sql("reset the origin's position", e))?;
        self.lock().tainted = false;
        Ok(())
    }

    /// Whether the server says that the session has an origin. It can have lost it only by a pooler in between.
    ///
    /// # Errors
    /// [`Error::Sql`].
    ///
    /// Cancel-safe.
    pub async fn session_is_setup(&self, client: &Client) -> Result<bool, Error> {
        const SQL: &str = "SELECT pg_catalog.pg_replication_origin_session_is_setup()";
        let fail = |e| Error::sql("ask for the session's origin", e);
        client.query_one(SQL, &[]).await.map_err(fail)?.try_get(0).map_err(fail)
    }

    /// Takes the origin off the session, so that another one can use it.
    ///
    /// # Errors
    /// [`Error::OriginState`] while a transaction is open; [`Error::Sql`].
    pub async fn session_reset(self, client: &Client) -> Result<(), Error> {
        const SQL: &str = "SELECT pg_catalog.pg_replication_origin_session_reset()";
        if self.lock().open > 0 {
            return Err(self.origin.state("a transaction is still open"));
        }
        client.execute(SQL, &[]).await.map(drop).map_err(|e| Error::sql("take the origin off the session", e))
    }

    fn open(&self, state: &mut State) -> Result<OriginTransaction, Error> {
        if state.tainted {
            return Err(self.origin.state("a transaction was rolled back and its position was not reset"));
        }
        state.open += 1;
        Ok(OriginTransaction {
            xact_setup: self.xact_setup.clone(),
            state: Arc::clone(&self.state),
            told: false,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One target transaction under an origin. Tell it how it ended; dropped without that, it counts as rolled back.
#[must_use = "a transaction that is dropped without a word counts as rolled back"]
#[derive(Debug)]
pub struct OriginTransaction {
    xact_setup: Statement,
    state: Arc<Mutex<State>>,
    told: bool,
}

impl OriginTransaction {
    /// Gives the transaction its position and its time at the source, which its commit record will carry. To be sent in
    /// every transaction as the last statement before COMMIT, after everything that may fail: from PostgreSQL 16 on a
    /// rollback moves the origin to the position in force, too.
    ///
    /// The statement is sent when the future is first polled; what comes after it need not wait for its answer.
    ///
    /// # Errors
    /// [`Error::Sql`]; the transaction is aborted then.
    pub fn xact_setup<'a>(
        &self,
        client: &'a Client,
        end_lsn: ResumeLsn,
        commit_time: Timestamp,
    ) -> impl Future<Output = Result<(), Error>> + Send + use<'a> {
        let statement = self.xact_setup.clone();
        async move {
            client
                .execute(&statement, &[&to_pg(end_lsn.0), &SqlTime(commit_time)])
                .await
                .map(drop)
                .map_err(|e| Error::sql("give the transaction its origin position", e))
        }
    }

    /// COMMIT was answered with success. Not for a COMMIT that was answered with `ROLLBACK`, as the server does in a
    /// transaction that has failed.
    pub fn committed(mut self) {
        self.tell(false);
    }

    /// The transaction was rolled back, or nobody knows. The session refuses the next one until
    /// [`OriginSession::reset`].
    pub fn rolled_back(mut self) {
        self.tell(true);
    }

    fn tell(&mut self, failed: bool) {
        if !self.told {
            self.told = true;
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.open -= 1;
            state.tainted |= failed;
        }
    }
}

impl Drop for OriginTransaction {
    fn drop(&mut self) {
        self.tell(true);
    }
}
