//! Where Replicat's transactions come from: the files of a trail, or whatever else carries the same items.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use inotify::{Inotify, WatchMask, Watches};

use crate::appended::APPENDED;
use crate::change::{Message, Row};
use crate::error::Error;
use crate::format::{Adopt, Mark};
use crate::lsn::{CommitLsn, Lineage, Position};
use crate::mark::DURABLE;
use crate::reader::{Begins, Bookmark, Early, Reader};
use crate::relation::Relation;
use crate::storage::{Directory, Storage};
use crate::transaction::{Begin, Commit, Progress};

/// One step through a trail. Between [`Item::Begin`] and [`Item::Commit`] stand the changes of one transaction.
#[derive(Debug)]
pub enum Item<'a> {
    /// A transaction begins.
    Begin(Begin),
    /// A changed row. The same description of a table is always the same `Arc`.
    Row {
        /// The table, as it is at this point of the stream.
        relation: &'a Arc<Relation>,
        /// What happened to the row.
        row: Row<'a>,
    },
    /// Tables were emptied by one statement.
    Truncate {
        /// All of them: cascades are spelled out.
        relations: Vec<Arc<Relation>>,
        /// `CASCADE` was given.
        cascade: bool,
        /// `RESTART IDENTITY` was given.
        restart_identity: bool,
    },
    /// A logical message; outside a transaction if it is not transactional.
    Message(Message<'a>),
    /// The transaction ends. It is whole and undamaged: everything before this is confirmed by a digest.
    Commit(Commit),
    /// Nothing for this trail lies before the LSN that has not been seen.
    Progress(Progress),
}

/// A stream of whole transactions in commit order.
pub trait Source: Send {
    /// The next item, or `None` when nothing more is durable yet. Does not wait for more; may block on the disk.
    ///
    /// # Errors
    /// [`Error`], after which the source is of no use.
    fn next(&mut self) -> Result<Option<Item<'_>>, Error>;

    /// The place behind the last commit or progress that was returned.
    fn position(&self) -> Position;

    /// Whose LSNs the items carry.
    fn lineage(&self) -> Lineage;

    /// The epoch that the items were written in.
    fn epoch(&self) -> u64;

    /// Where the items come from, for messages: a directory, a topic.
    fn place(&self) -> PathBuf {
        PathBuf::new()
    }

    /// How far the trail is durable, as known without asking again.
    fn durable(&self) -> Mark;

    /// A place not behind `commit` that the source can be opened near the next time, to come sooner to where it was.
    fn bookmark(&self, _commit: CommitLsn) -> Option<Bookmark> {
        None
    }

    /// Stops before the transaction of this xid, where it was streamed before its commit: [`Source::next`] then gives
    /// nothing more until the hold is taken back, by another call, or the transaction is [passed](Source::pass). For
    /// whoever may have its rows already. A source without side files holds nothing.
    fn hold(&mut self, _xid: Option<u32>) {}

    /// The transaction that is held: how its rows are adopted.
    fn held(&self) -> Option<&Adopt> {
        None
    }

    /// Passes over the transaction that is held and returns its commit; `None` if it cannot be passed over, and then the
    /// source must be opened anew.
    ///
    /// # Errors
    /// As for [`Source::next`].
    fn pass(&mut self) -> Result<Option<Commit>, Error> {
        Ok(None)
    }

    /// Where everything durable has been read: allows [`Source::next`] to return what is on its way to the disk, and says
    /// up to where that goes, if there is any behind `beyond`. What is made of it may count only when [`Source::early`] says
    /// that it is durable, which must be asked before anything behind it is read.
    fn go_early(&mut self, _beyond: Position) -> Option<Position> {
        None
    }

    /// What has become of what was read early. [`Source::wait`] returns when it may be durable.
    ///
    /// # Errors
    /// As for [`Source::next`].
    fn early(&mut self) -> Result<Early, Error> {
        Ok(Early::Durable)
    }

    /// Waits until more may be durable, or a second has passed. Cancel-safe.
    fn wait(&mut self) -> impl Future<Output = Result<(), Error>> + Send;
}

/// A [`Reader`] that is woken by the writer.
#[derive(Debug)]
pub struct Follower {
    reader: Reader,
    watch: Watch,
}

impl Follower {
    /// Follows the trail in a directory. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// As [`Reader::open`]; [`Error::Io`] when the system refuses a watch.
    pub fn open(directory: &Path, begins: Begins) -> Result<Self, Error> {
        Self::open_near(directory, begins, None)
    }

    /// The same, sooner: as [`Reader::open_near`].
    ///
    /// # Errors
    /// As [`Follower::open`].
    pub fn open_near(directory: &Path, begins: Begins, near: Option<&Bookmark>) -> Result<Self, Error> {
        let storage: Arc<dyn Storage> = Arc::new(Directory::new(directory));
        let reader = Reader::open_near(storage, begins, near)?;
        let path = directory.join(DURABLE);
        let watch = Watch::new(&path).map_err(|error| match error.kind() {
            // It was there a moment ago, or it is just being made.
            io::ErrorKind::NotFound => Error::Missing(directory.to_owned()),
            _ => Error::io("watch", path)(error),
        })?;
        Ok(Self { reader, watch })
    }
}

impl Source for Follower {
    fn next(&mut self) -> Result<Option<Item<'_>>, Error> {
        self.reader.next()
    }

    fn position(&self) -> Position {
        self.reader.position()
    }

    fn lineage(&self) -> Lineage {
        self.reader.lineage()
    }

    fn epoch(&self) -> u64 {
        self.reader.epoch()
    }

    fn place(&self) -> PathBuf {
        self.reader.directory()
    }

    fn durable(&self) -> Mark {
        self.reader.durable()
    }

    fn bookmark(&self, commit: CommitLsn) -> Option<Bookmark> {
        self.reader.bookmark(commit)
    }

    fn hold(&mut self, xid: Option<u32>) {
        self.reader.hold(xid);
    }

    fn held(&self) -> Option<&Adopt> {
        self.reader.held()
    }

    fn pass(&mut self) -> Result<Option<Commit>, Error> {
        self.reader.pass()
    }

    fn go_early(&mut self, beyond: Position) -> Option<Position> {
        if !self.watch.more {
            self.watch.also(&self.reader.directory().join(APPENDED));
        }
        self.reader.go_early(beyond)
    }

    fn early(&mut self) -> Result<Early, Error> {
        self.reader.early()
    }

    async fn wait(&mut self) -> Result<(), Error> {
        // A second, so that a missed event costs a delay and nothing else.
        match tokio::time::timeout(Duration::from_secs(1), self.watch.changed()).await {
            Ok(Err(error)) => Err(Error::io("watch", DURABLE)(error)),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }
}

/// Wakes when a file is written.
struct Watch {
    events: inotify::EventStream<[u8; 1024]>,
    watches: Watches,
    /// Another file is watched, too.
    more: bool,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

impl Watch {
    fn new(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let mut watches = inotify.watches();
        watches.add(path, WatchMask::MODIFY)?;
        Ok(Self { events: inotify.into_event_stream([0; 1024])?, watches, more: false })
    }

    /// Watches another file, as soon as it is there. What is missed of it costs a delay.
    fn also(&mut self, path: &Path) {
        self.more = self.watches.add(path, WatchMask::MODIFY).is_ok();
    }

    /// Returns when the file has been written since the last return. Cancel-safe.
    async fn changed(&mut self) -> io::Result<()> {
        match self.events.next().await {
            Some(event) => drop(event?),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        // All that has come by now is one reason to look.
        while let Some(Some(event)) = self.events.next().now_or_never() {
            drop(event?);
        }
        Ok(())
    }
}
