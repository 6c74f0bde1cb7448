//! What the targets share: a trail in memory, a sample of everything that a trail can hold, and a reader that notes what
//! it was given.

mod memory;
mod sample;

pub use memory::Memory;
pub use sample::{committed, sample};

use std::sync::Arc;

use irongate_trail::{Begins, Error, Item, Reader, Row, Storage, Writer};

/// Reads a trail to its end or to the first error. Each item is noted as text: rows, begins and commits alike.
pub fn read(storage: &Memory, to_the_end: bool) -> (Vec<String>, Option<Error>) {
    let storage: Arc<dyn Storage> = Arc::new(storage.clone());
    let opened = if to_the_end {
        Reader::open_to_the_end(storage, Begins::First)
    } else {
        Reader::open(storage, Begins::First)
    };
    let mut reader = match opened {
        Ok(reader) => reader,
        Err(error) => return (Vec::new(), Some(checked(error))),
    };
    let mut notes = Vec::new();
    loop {
        match reader.next() {
            Ok(Some(item)) => {
                look_at(&item);
                notes.push(format!("{item:?}"));
            }
            Ok(None) => return (notes, None),
            Err(error) => return (notes, Some(checked(error))),
        }
    }
}

/// Opens a trail for writing, as Extract does after it was killed.
///
/// # Errors
/// What the trail says.
pub fn recover(storage: &Memory) -> Result<irongate_trail::Recovered, Error> {
    let (_writer, recovered) =
        Writer::open(Arc::new(storage.clone()), sample::options(), None).map_err(checked)?;
    Ok(recovered)
}

/// Every value of a row can be taken out of it.
pub fn look_at_row(row: Row<'_>) {
    let tuples = [row.new(), row.old().map(|old| old.tuple())];
    for tuple in tuples.into_iter().flatten() {
        assert_eq!(tuple.values().count(), tuple.len());
    }
}

fn look_at(item: &Item<'_>) {
    if let Item::Row { row, .. } = item {
        look_at_row(*row);
    }
}

/// An error can say what it is without a panic.
fn checked(error: Error) -> Error {
    let _ = (error.to_string(), error.is_transient(), error.hint());
    error
}
