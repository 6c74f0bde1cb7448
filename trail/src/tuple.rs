//! The values of a row, as the server printed or sent them.
//!
//! A tuple in a trail has the byte layout of pgoutput's TupleData (PostgreSQL manual, "Logical Replication Message
//! Formats"), which the trail's specification repeats as its own: so Extract checks a tuple once and copies it whole,
//! and Replicat slices values out of it. All integers are big-endian.
//!
//! ```text
//! u16 number of columns, then for each column one of
//!   'n'                     null
//!   'u'                     unchanged TOAST: neither null nor a value, the old value stands
//!   't' u32 length, bytes   the type's text form
//!   'b' u32 length, bytes   the type's binary form
//! ```

use crate::error::Malformed;

/// One column's value in a tuple.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value<'a> {
    /// SQL NULL.
    Null,
    /// A TOASTed value that the update did not touch, which the server therefore did not send.
    Unchanged,
    /// The type's text output in the stream's client encoding, UTF-8.
    Text(&'a [u8]),
    /// The type's binary output.
    Binary(&'a [u8]),
}

/// A checked tuple: its bytes hold exactly the columns they announce.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuple<'a> {
    bytes: &'a [u8],
}

impl<'a> Tuple<'a> {
    /// Checks the tuple at the start of `bytes` and returns it with what follows it.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes end early or hold an unknown kind of value.
    #[inline]
    pub fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed> {
        let end = || Malformed("tuple ends early");
        let (count, mut rest) = bytes.split_first_chunk::<2>().ok_or_else(end)?;
        for _ in 0..u16::from_be_bytes(*count) {
            let (kind, after) = rest.split_first().ok_or_else(end)?;
            rest = match kind {
                b'n' | b'u' => after,
                b't' | b'b' => {
                    let (length, after) = after.split_first_chunk::<4>().ok_or_else(end)?;
                    after.get(u32::from_be_bytes(*length) as usize..).ok_or_else(end)?
                }
                _ => return Err(Malformed("unknown kind of value in a tuple")),
            };
        }
        let (tuple, rest) = bytes.split_at(bytes.len() - rest.len());
        Ok((Self { bytes: tuple }, rest))
    }

    /// The tuple whose bytes were taken from [`Tuple::as_bytes`] before. Other bytes give fewer values than they
    /// announce, and nothing worse.
    #[inline]
    pub fn from_checked(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The bytes, as they were checked.
    pub fn as_bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The number of columns.
    #[inline]
    pub fn len(self) -> usize {
        self.bytes.first_chunk::<2>().map_or(0, |n| u16::from_be_bytes(*n) as usize)
    }

    /// Whether the tuple has no column at all, as of a table without columns.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The values in order.
    #[inline]
    pub fn values(self) -> Values<'a> {
        Values { rest: self.bytes.get(2..).unwrap_or_default() }
    }
}

/// Iterator over the values of a [`Tuple`].
#[derive(Clone, Debug)]
pub struct Values<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    #[inline]
    fn next(&mut self) -> Option<Value<'a>> {
        // The tuple was checked when it was split off, so every `?` here is the end of the tuple.
        let (kind, after) = self.rest.split_first()?;
        if matches!(kind, b'n' | b'u') {
            self.rest = after;
            return Some(if *kind == b'n' { Value::Null } else { Value::Unchanged });
        }
        let (length, after) = after.split_first_chunk::<4>()?;
        let (value, rest) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        self.rest = rest;
        Some(if *kind == b't' { Value::Text(value) } else { Value::Binary(value) })
    }
}

/// Builds a tuple, for tests and for programs that write a trail of their own.
#[derive(Clone, Default, Debug)]
pub struct TupleBuilder {
    bytes: Vec<u8>,
    count: u16,
}

impl TupleBuilder {
    /// A tuple without columns.
    pub fn new() -> Self {
        Self { bytes: vec![0, 0], count: 0 }
    }

    /// Appends a value.
    ///
    /// # Panics
    /// Beyond 65,535 columns, or with a value of 4 GiB or more; the server allows 1,600 columns and 1 GiB.
    #[must_use]
    pub fn value(mut self, value: Value<'_>) -> Self {
        let (kind, bytes) = match value {
            Value::Null => (b'n', None),
            Value::Unchanged => (b'u', None),
            Value::Text(bytes) => (b't', Some(bytes)),
            Value::Binary(bytes) => (b'b', Some(bytes)),
        };
        self.bytes.push(kind);
        if let Some(bytes) = bytes {
            let length = u32::try_from(bytes.len()).expect("a value is under 4 GiB");
            self.bytes.extend_from_slice(&length.to_be_bytes());
            self.bytes.extend_from_slice(bytes);
        }
        self.count = self.count.checked_add(1).expect("a tuple has at most 65,535 columns");
        self.bytes[..2].copy_from_slice(&self.count.to_be_bytes());
        self
    }

    /// Appends a text value.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.value(Value::Text(text.as_bytes()))
    }

    /// The finished tuple.
    pub fn as_tuple(&self) -> Tuple<'_> {
        Tuple { bytes: &self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tuple_gives_back_what_was_built() {
        let values =
            [Value::Null, Value::Text(b"x"), Value::Unchanged, Value::Binary(&[0, 1]), Value::Text(b"")];
        let built = values.iter().fold(TupleBuilder::new(), |tuple, value| tuple.value(*value));
        let mut bytes = built.as_tuple().as_bytes().to_vec();
        bytes.extend_from_slice(b"rest");
        let (tuple, rest) = Tuple::split(&bytes).unwrap();
        assert_eq!(rest, b"rest");
        assert_eq!(tuple.len(), values.len());
        assert_eq!(tuple.values().collect::<Vec<_>>(), values);
    }

    #[test]
    fn every_cut_of_a_tuple_is_refused() {
        let built = TupleBuilder::new().text("hello").value(Value::Null).text("");
        let bytes = built.as_tuple().as_bytes();
        for end in 0..bytes.len() {
            assert!(Tuple::split(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(Tuple::split(&[0, 1, b'x']).is_err());
    }
}
