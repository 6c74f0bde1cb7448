//! What a transaction does: changed rows, truncated tables, messages.

use crate::error::Malformed;
use crate::tuple::Tuple;

/// The old row that came with an update or delete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Old<'a> {
    /// The replica identity's columns; the others are placeholders, not NULLs.
    Key(Tuple<'a>),
    /// The whole row (`REPLICA IDENTITY FULL`).
    Full(Tuple<'a>),
}

impl<'a> Old<'a> {
    /// The tuple, whichever it is.
    pub fn tuple(self) -> Tuple<'a> {
        match self {
            Old::Key(tuple) | Old::Full(tuple) => tuple,
        }
    }
}

/// One changed row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Row<'a> {
    /// A new row.
    Insert {
        /// The row.
        new: Tuple<'a>,
    },
    /// A changed row. `old` is there when the key changed, when the key is TOASTed, or with identity full.
    Update {
        /// What the row was.
        old: Option<Old<'a>>,
        /// What it is now.
        new: Tuple<'a>,
    },
    /// A row that is gone.
    Delete {
        /// What the row was.
        old: Old<'a>,
    },
}

impl<'a> Row<'a> {
    /// Reads a row from pgoutput's and the trail's common layout: an operation `I`, `U` or `D` was read before, `bytes`
    /// starts at the kind of the first tuple (`K`, `O` or `N`) and must end with the last.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes are anything else.
    #[inline]
    pub fn decode(operation: u8, bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (first, bytes) = bytes.split_first().ok_or(Malformed("row ends early"))?;
        let (tuple, rest) = Tuple::split(bytes)?;
        let (row, rest) = match (operation, first) {
            (b'I', b'N') => (Row::Insert { new: tuple }, rest),
            (b'U', b'N') => (Row::Update { old: None, new: tuple }, rest),
            (b'U', b'K' | b'O') => {
                let old = if *first == b'K' { Old::Key(tuple) } else { Old::Full(tuple) };
                let rest = rest.strip_prefix(b"N").ok_or(Malformed("update without a new row"))?;
                let (new, rest) = Tuple::split(rest)?;
                (Row::Update { old: Some(old), new }, rest)
            }
            (b'D', b'K') => (Row::Delete { old: Old::Key(tuple) }, rest),
            (b'D', b'O') => (Row::Delete { old: Old::Full(tuple) }, rest),
            _ => return Err(Malformed("unknown operation or kind of tuple")),
        };
        if rest.is_empty() { Ok(row) } else { Err(Malformed("row is followed by stray bytes")) }
    }

    /// `I`, `U` or `D`.
    pub fn operation(self) -> u8 {
        match self {
            Row::Insert { .. } => b'I',
            Row::Update { .. } => b'U',
            Row::Delete { .. } => b'D',
        }
    }

    /// The row as it is afterwards.
    #[expect(clippy::new_ret_no_self, reason = "the opposite of old")]
    pub fn new(self) -> Option<Tuple<'a>> {
        match self {
            Row::Insert { new } | Row::Update { new, .. } => Some(new),
            Row::Delete { .. } => None,
        }
    }

    /// The row, or its key, as it was.
    pub fn old(self) -> Option<Old<'a>> {
        match self {
            Row::Insert { .. } => None,
            Row::Update { old, .. } => old,
            Row::Delete { old } => Some(old),
        }
    }
}

/// Tables emptied by one statement. The list is complete for published tables: cascades are spelled out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Truncate {
    /// OIDs of the relations, as in [`crate::Relation::id`].
    pub relations: Vec<u32>,
    /// `CASCADE` was given.
    pub cascade: bool,
    /// `RESTART IDENTITY` was given.
    pub restart_identity: bool,
}

/// A logical message (`pg_logical_emit_message`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// Whether it is part of its transaction. Otherwise it stands at its own place in the log.
    pub transactional: bool,
    /// Where the message lies in the log.
    pub lsn: crate::Lsn,
    /// Who it is for.
    pub prefix: &'a str,
    /// What it says.
    pub content: &'a [u8],
}
