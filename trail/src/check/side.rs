//! The side file of a streamed transaction.

use std::io;
use std::sync::Arc;

use super::file::{Declared, check_change};
use super::{Check, Severity};
use crate::error::{Error, Malformed};
use crate::format::{self, Adopt, Digest, FileKind, kind};
use crate::records::{Records, Step};

impl Check<'_> {
    /// Checks the side file that a record of the main file `seqno` adopts. How many changes of it count, or `None` if it
    /// is not what the adoption says.
    pub(super) fn side(&mut self, seqno: u64, offset: u64, adopt: &Adopt) -> Result<Option<u64>, Error> {
        self.adopted.insert(adopt.file.clone());
        let severity = if self.is_vouched(seqno, offset) { Severity::Damaged } else { Severity::Torn };
        let opened = Records::open(self.storage, &adopt.file, FileKind::Side, adopt.bytes);
        let mut records = match opened {
            Ok((records, _)) => records,
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let reason = format!("it is missing, though it is adopted at {seqno:09}:{offset}");
                self.find(severity, &adopt.file, 0, reason);
                return Ok(None);
            }
            Err(error @ Error::Io { .. }) => return Err(error),
            Err(Error::Damaged { reason, .. }) => {
                self.find(severity, &adopt.file, 0, reason);
                return Ok(None);
            }
            Err(error) => {
                self.find(severity, &adopt.file, 0, error.to_string());
                return Ok(None);
            }
        };
        let mut walk = Walk { adopt, declared: Declared::default(), counts: None, changes: 0 };
        let (mut digest, mut count, mut sound) = (Digest::default(), 0, true);
        loop {
            let at = records.offset();
            match records.next()? {
                Step::Record(found) => {
                    digest.fold(found.crc);
                    count += 1;
                    if let Err(reason) = walk.take(found.kind, records.body(&found)) {
                        self.find(severity, &adopt.file, at, reason);
                        sound = false;
                    }
                }
                Step::End | Step::Short if at == adopt.bytes => break,
                Step::End | Step::Short => {
                    self.find(severity, &adopt.file, at, "the file ends early");
                    return Ok(None);
                }
                Step::Bad { offset, reason } => {
                    self.find(severity, &adopt.file, offset, reason);
                    sound = false;
                    if !records.pass_over()? {
                        return Ok(None);
                    }
                }
            }
        }
        if sound && (count != adopt.records || digest.0 != adopt.digest) {
            self.find(severity, &adopt.file, 0, "it is not what the commit that adopts it says");
            sound = false;
        }
        if records.length()? > adopt.bytes {
            self.find(
                Severity::Orphan,
                &adopt.file,
                adopt.bytes,
                "bytes behind those adopted, which nobody reads",
            );
        }
        Ok(sound.then_some(walk.changes))
    }
}

struct Walk<'a> {
    adopt: &'a Adopt,
    declared: Declared,
    /// Whether the rows of the present sub-transaction count; `None` before the first.
    counts: Option<bool>,
    changes: u64,
}

impl Walk<'_> {
    fn take(&mut self, kind: u8, body: &[u8]) -> Result<(), String> {
        let layout = |malformed: Malformed| malformed.to_string();
        match kind {
            kind::SUBTRANSACTION => {
                let xid = body.try_into().map(u32::from_be_bytes);
                let xid = xid.map_err(|_| "a sub-transaction without an xid")?;
                self.counts = Some(self.adopt.aborted.binary_search(&xid).is_err());
            }
            kind::RELATION => {
                let relation = format::decode_relation(body).map_err(layout)?;
                self.declared.insert(relation.id, Arc::new(relation));
            }
            kind::INSERT | kind::UPDATE | kind::DELETE | kind::TRUNCATE | kind::MESSAGE => {
                self.changes += u64::from(self.counts.ok_or("a change before the first sub-transaction")?);
                if kind == kind::MESSAGE {
                    format::decode_message(body).map_err(layout)?;
                } else {
                    check_change(kind, body, &self.declared)?;
                }
            }
            format::KIND_SKIPPABLE.. => {}
            _ => return Err("a record that does not belong there".to_owned()),
        }
        Ok(())
    }
}
