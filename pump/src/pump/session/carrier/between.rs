//! What stands between transactions, or begins one.

use irongate_trail::{Begin, CommitLsn, Item, Lsn, Message, Progress, ResumeLsn, Timestamp};

/// An item that does not hold on to the trail.
pub(crate) enum Between {
    Begin(Begin),
    Progress(Progress),
    Message {
        message: (bool, Lsn),
        prefix: String,
        content: Vec<u8>,
    },
    /// Cannot stand between transactions: the reader sees to that.
    Other(CommitLsn),
}

impl From<Item<'_>> for Between {
    fn from(item: Item<'_>) -> Self {
        match item {
            Item::Begin(begin) => Self::Begin(begin),
            Item::Progress(progress) => Self::Progress(progress),
            Item::Message(message) => Self::Message {
                message: (message.transactional, message.lsn),
                prefix: message.prefix.to_owned(),
                content: message.content.to_vec(),
            },
            Item::Commit(commit) => Self::Other(commit.commit_lsn),
            Item::Row { .. } | Item::Truncate { .. } => Self::Other(CommitLsn::default()),
        }
    }
}

impl Between {
    pub(crate) fn item(&self) -> Item<'_> {
        match self {
            Self::Begin(begin) => Item::Begin(begin.clone()),
            Self::Progress(progress) => Item::Progress(*progress),
            Self::Message { message: (transactional, lsn), prefix, content } => {
                Item::Message(Message { transactional: *transactional, lsn: *lsn, prefix, content })
            }
            Self::Other(commit_lsn) => Item::Commit(irongate_trail::Commit {
                commit_lsn: *commit_lsn,
                end_lsn: ResumeLsn::default(),
                commit_time: Timestamp::default(),
                changes: 0,
            }),
        }
    }

    /// Where the source goes on at the latest, if nothing better is known.
    pub(crate) fn place(&self) -> ResumeLsn {
        match self {
            Self::Begin(begin) => ResumeLsn(begin.commit_lsn.0),
            Self::Progress(progress) => progress.resume_lsn,
            Self::Message { message: (_, lsn), .. } => ResumeLsn(*lsn),
            Self::Other(commit) => ResumeLsn(commit.0),
        }
    }
}
