//! The session that writes large objects at the target, marked with an origin of the flow.

use std::collections::HashMap;
use std::time::Duration;

use irongate_checkpoint::{Origin, OriginSession};
use irongate_postgres::Session;

use super::diff::{Task, Write};
use super::side::{self, Side};
use super::{APPLICATION, LOCK_LIMIT, Listener, Progress};
use crate::configuration::Flow;
use crate::end::End;
use crate::error::Error;
use crate::instantiate::marked;

/// Bytes of a transaction of several objects, and of what is fetched at once of a larger one.
pub(super) const AT_ONCE: i64 = 1 << 20;

/// The number of the origin: that of a repair, which works beside Replicat as well. A server has room for few.
const ORIGIN: u32 = 0;

/// How long an origin is waited for that somebody has who was cut off.
const ORIGIN_LIMIT: Duration = Duration::from_secs(15);
const ORIGIN_EVERY: Duration = Duration::from_millis(200);

/// Empties objects; they stay open, for writing, until the transaction ends.
const EMPTY: &str = "SELECT pg_catalog.lo_truncate64(pg_catalog.lo_open(o.oid, 131072), 0) FROM pg_catalog.unnest($1::pg_catalog.oid[]) o (oid)";

pub(super) struct Writer<'a> {
    end: End<'a>,
    session: Session,
    origin: OriginSession,
    /// The role that writes, to whom belongs what it makes.
    pub(super) role: String,
}

/// An object whose owner, rights or comment could not be set, and why.
pub(super) struct Unset {
    pub(super) oid: u32,
    pub(super) reason: irongate_postgres::Error,
}

impl<'a> Writer<'a> {
    pub(super) async fn open(end: End<'a>, flow: &Flow) -> Result<Self, Error> {
        let deadline = tokio::time::Instant::now() + ORIGIN_LIMIT;
        loop {
            let session = end.connect(side::who(&end), APPLICATION).await?;
            session
                .batch_execute(side::ENDLESS)
                .await
                .map_err(|error| end.failed("prepare the session", error))?;
            let origin = Origin::of_worker(&flow.name, ORIGIN)?;
            match marked(&end, &session, origin, LOCK_LIMIT, true).await {
                Ok(origin) => return Ok(Self { end, session, origin, role: side::role(&end) }),
                Err(Error::Checkpoint(irongate_checkpoint::Error::OriginInUse { .. }))
                    if tokio::time::Instant::now() < deadline =>
                {
                    tokio::time::sleep(ORIGIN_EVERY).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives the origin back, for a repair that begins at once.
    pub(super) async fn close(self) -> Result<(), Error> {
        Ok(self.origin.session_reset(&self.session).await?)
    }

    fn failed(&self, oid: u32, error: irongate_postgres::Error) -> Error {
        Error::LargeObject { oid, end: self.end.to_string(), source: Box::new(error) }
    }

    async fn batch(&self, sql: &str, doing: &str) -> Result<(), Error> {
        self.session.batch_execute(sql).await.map_err(|error| self.end.failed(doing, error))
    }

    /// Brings the objects of one transaction over, from what the source has of them under its snapshot. Which of them have
    /// not got their owner, rights or comment.
    ///
    /// What an error leaves behind ends with the session: nothing is done with it any more.
    pub(super) async fn write(
        &self,
        source: &Side<'_>,
        tasks: &[Task],
        progress: &mut Progress,
        tell: &mut Listener<'_>,
    ) -> Result<Vec<Unset>, Error> {
        let Some(first) = tasks.first() else { return Ok(Vec::new()) };
        self.batch("BEGIN", "begin").await?;
        if first.size > AT_ONCE {
            // It is alone.
            self.create(first).await?;
            let mut from = 0;
            let length = i32::try_from(AT_ONCE).unwrap_or(i32::MAX);
            let mut part = source.part(first.oid, 0, length).await?;
            while !part.is_empty() {
                let next = from + part.len() as i64;
                // The next part comes while this one is written.
                let (read, ()) =
                    tokio::try_join!(source.part(first.oid, next, length), self.put(first.oid, from, &part))?;
                progress.written_bytes += part.len() as u64;
                tell(progress);
                (from, part) = (next, read);
            }
        } else {
            self.several(source, tasks, progress).await?;
        }
        let unset = self.attributes(tasks).await?;
        if let Err(error) = self.session.batch_execute("COMMIT").await {
            return Err(self.failed(first.oid, self.session.explain(error).await));
        }
        progress.written += tasks.iter().filter(|task| task.write != Write::Keep).count() as u64;
        tell(progress);
        Ok(unset)
    }

    /// Makes an object that has nothing in it.
    async fn create(&self, task: &Task) -> Result<(), Error> {
        const CREATE: &str = "SELECT pg_catalog.lo_create($1)";
        let done = match task.write {
            Write::Create => self.session.execute(CREATE, &[&task.oid]).await,
            Write::Replace => self.session.execute(EMPTY, &[&vec![task.oid]]).await,
            Write::Keep => return Ok(()),
        };
        match done {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(task.oid, self.session.explain(error).await)),
        }
    }

    async fn put(&self, oid: u32, from: i64, part: &[u8]) -> Result<(), Error> {
        const PUT: &str = "SELECT pg_catalog.lo_put($1, $2, $3)";
        match self.session.execute(PUT, &[&oid, &from, &part]).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(oid, self.session.explain(error).await)),
        }
    }

    /// Small objects, with a few statements for all.
    async fn several(&self, source: &Side<'_>, tasks: &[Task], progress: &mut Progress) -> Result<(), Error> {
        const CREATE: &str = "SELECT pg_catalog.lo_from_bytea(t.oid, t.content)
              FROM unnest($1::pg_catalog.oid[], $2::pg_catalog.bytea[]) t (oid, content)";
        const PUT: &str = "SELECT pg_catalog.lo_put(t.oid, 0, t.content)
              FROM unnest($1::pg_catalog.oid[], $2::pg_catalog.bytea[]) t (oid, content)";
        let wanted: Vec<u32> =
            tasks.iter().filter(|task| task.write != Write::Keep).map(|task| task.oid).collect();
        let contents: HashMap<u32, Vec<u8>> = source.contents(&wanted).await?.into_iter().collect();
        for (write, sql) in [(Write::Create, CREATE), (Write::Replace, PUT)] {
            let oids: Vec<u32> =
                tasks.iter().filter(|task| task.write == write).map(|task| task.oid).collect();
            let Some(first) = oids.first() else { continue };
            let of_these: Vec<&[u8]> =
                oids.iter().map(|oid| contents.get(oid).map_or(&[][..], Vec::as_slice)).collect();
            let done = async {
                if write == Write::Replace {
                    self.session.execute(EMPTY, &[&oids]).await?;
                }
                self.session.execute(sql, &[&oids, &of_these]).await
            };
            if let Err(error) = done.await {
                return Err(self.failed(*first, self.session.explain(error).await));
            }
            progress.written_bytes += of_these.iter().map(|content| content.len() as u64).sum::<u64>();
        }
        Ok(())
    }

    /// Gives owners, rights and comments, of all objects at once; where that is refused, of one after the other. The
    /// content stays, whatever becomes of them.
    async fn attributes(&self, tasks: &[Task]) -> Result<Vec<Unset>, Error> {
        let tasks: Vec<&Task> = tasks.iter().filter(|task| !task.statements.is_empty()).collect();
        let mut unset = Vec::new();
        if tasks.is_empty() || self.attempt(&tasks).await?.is_none() {
            return Ok(unset);
        }
        for task in tasks {
            if let Some(reason) = self.attempt(&[task]).await? {
                unset.push(Unset { oid: task.oid, reason });
            }
        }
        Ok(unset)
    }

    /// Runs statements as if they were none where one is refused, which is the answer then.
    async fn attempt(&self, tasks: &[&Task]) -> Result<Option<irongate_postgres::Error>, Error> {
        let statements: Vec<&str> =
            tasks.iter().flat_map(|task| &task.statements).map(String::as_str).collect();
        let sql = format!("SAVEPOINT attributes; {}; RELEASE attributes", statements.join("; "));
        let Err(error) = self.session.batch_execute(&sql).await else { return Ok(None) };
        let error = self.session.explain(error).await;
        if error.server().is_none() || error.is_transient() {
            return Err(self.end.failed("set the owner of large objects", error));
        }
        self.batch("ROLLBACK TO attributes; RELEASE attributes", "set the owner of large objects").await?;
        Ok(Some(error))
    }

    /// Removes objects, in one transaction.
    pub(super) async fn remove(&self, oids: &[u32]) -> Result<(), Error> {
        const UNLINK: &str =
            "SELECT pg_catalog.lo_unlink(o.oid) FROM pg_catalog.unnest($1::pg_catalog.oid[]) o (oid)";
        let Some(first) = oids.first() else { return Ok(()) };
        match self.session.execute(UNLINK, &[&oids]).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(*first, self.session.explain(error).await)),
        }
    }
}
