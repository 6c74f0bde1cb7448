//! The large objects of both sides, page by page.

use std::collections::BTreeSet;

use super::diff::{self, Content, Pair};
use super::side::Side;
use super::{Listener, Progress};
use crate::end::End;
use crate::error::Error;

/// Objects of a side on one page, which are in memory together; also the most that one transaction takes away or gives
/// owners to, each of which is a lock at the server.
const PAGE: usize = 500;

/// Bytes that one statement hashes.
const SPAN: i64 = 64 << 20;

pub(super) struct Walk<'a> {
    pub(super) source: Side<'a>,
    pub(super) target: Side<'a>,
    pub(super) progress: Progress,
    /// Behind which the next page begins; nothing behind the last.
    after: Option<u32>,
}

impl<'a> Walk<'a> {
    pub(super) async fn begin(source: End<'a>, target: End<'a>) -> Result<Self, Error> {
        let (source, target) = tokio::try_join!(Side::open(source), Side::open(target))?;
        let (at_source, at_target) = tokio::try_join!(source.count(), target.count())?;
        let progress = Progress { source: at_source, target: at_target, ..Progress::default() };
        // No object has the OID 0.
        Ok(Self { source, target, progress, after: Some(0) })
    }

    /// The next page, compared. Nothing behind the last.
    pub(super) async fn page(&mut self, tell: &mut Listener<'_>) -> Result<Option<Vec<Pair>>, Error> {
        let Some(after) = self.after else { return Ok(None) };
        let (source, target) =
            tokio::try_join!(self.source.page(after, PAGE), self.target.page(after, PAGE))?;
        let (mut pairs, more) = diff::pairs(source, target, PAGE);
        self.after = more;
        let sizes = pairs.iter().filter(|pair| pair.content == Content::Open).filter_map(|pair| {
            let size = pair.source.as_ref()?.size?;
            Some((pair.oid, size))
        });
        let mut different = BTreeSet::new();
        for mut spans in diff::spans(sizes, SPAN) {
            // Of an object that differs in its beginning the rest is not asked for.
            spans.retain(|span| !different.contains(&span.oid));
            let (source, target) = tokio::try_join!(self.source.hashes(&spans), self.target.hashes(&spans))?;
            for ((span, one), other) in spans.iter().zip(source).zip(target) {
                if one != other {
                    different.insert(span.oid);
                }
                self.progress.compared_bytes += span.length.unsigned_abs();
            }
            tell(&self.progress);
        }
        for pair in &mut pairs {
            if pair.content == Content::Open {
                let is_different = different.contains(&pair.oid);
                pair.content = if is_different { Content::Different } else { Content::Same };
            }
        }
        self.progress.compared += pairs.len() as u64;
        tell(&self.progress);
        Ok(Some(pairs))
    }
}
