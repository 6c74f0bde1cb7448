//! Whatever a pump sends as records, in whatever batches, each is understood or refused; how they are cut makes no
//! difference.
#![no_main]

use irongate_fuzz::look_at_row;
use irongate_pump::wire::{Record, Records};
use irongate_trail::Row;
use libfuzzer_sys::fuzz_target;

/// All records up to the first that is none.
fn records<'a>(batches: impl Iterator<Item = &'a [u8]>) -> (Vec<String>, bool) {
    let mut records = Records::default();
    let mut found = Vec::new();
    for batch in batches {
        records.push(batch);
        loop {
            match records.next() {
                Ok(Some(record)) => {
                    if let Record::Row { operation, tuples, .. } = &record.record {
                        look_at_row(
                            Row::decode(*operation, tuples).expect("it was checked when it was read"),
                        );
                    }
                    let _ = record.digested();
                    found.push(format!("{:?}", record.record));
                }
                Ok(None) => break,
                Err(error) => {
                    let _ = error.to_string();
                    return (found, false);
                }
            }
        }
    }
    (found, true)
}

fuzz_target!(|data: &[u8]| {
    let Some((size, data)) = data.split_first() else { return };
    let whole = records(std::iter::once(data));
    let cut = records(data.chunks(usize::from(*size).max(1)));
    assert_eq!(whole, cut, "how it is cut makes a difference");
});
