//! The source's sequences, looked at again and again: where those that have moved stand goes into its log.
//!
//! What is written there is read before it is written. So whatever a transaction has taken from a sequence before the
//! look is covered by a message that comes behind the look, and what it takes afterwards by the margin at the target.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use irongate_apply::{Reading, SEQUENCE_PREFIX, encode_sequences};
use irongate_checkpoint::Role;
use irongate_postgres::Session;
use irongate_postgres::catalog::{self, Stand};

use super::{Sequence, belongs};
use crate::configuration::Flow;
use crate::error::Error;

/// How often it is looked which sequences there are.
const LIST_AGAIN: Duration = Duration::from_secs(60);
/// Sequences in one message.
const IN_A_MESSAGE: usize = 400;
const EMIT: &str =
    "SELECT pg_catalog.pg_logical_emit_message(true, $1::pg_catalog.text, $2::pg_catalog.text)";

/// What was last written of a flow's sequences. A new one has written nothing, and so writes all that have ever moved.
#[derive(Debug)]
pub struct SequencePoll {
    flow: Flow,
    list: Vec<catalog::Sequence>,
    listed: Option<Instant>,
    written: HashMap<u32, Stand>,
}

impl SequencePoll {
    /// For the sequences of a flow.
    pub fn new(flow: Flow) -> Self {
        Self { flow, list: Vec::new(), listed: None, written: HashMap::new() }
    }

    /// Looks, in a session at the source, and writes where those stand that have moved. How many did; `None` as long as it
    /// is not the source's turn to be written.
    ///
    /// # Errors
    /// [`Error`]; what was not written is written the next time.
    ///
    /// Cancel-safe: at worst something is written twice, which does no harm.
    pub async fn poll(&mut self, session: &Session) -> Result<Option<usize>, Error> {
        // Before a site's turn its sequences stand where those of the other site are followed to, which is of no interest.
        let role = Role::load(session).await?;
        if role.is_some_and(|role| role.live != self.flow.from) {
            self.written.clear();
            return Ok(None);
        }
        if self.listed.is_none_or(|listed| listed.elapsed() >= LIST_AGAIN) {
            let all = catalog::sequences(session).await.map_err(|error| self.failed(error))?;
            // One that may not be read is told of by `check`.
            let ours = |sequence: &catalog::Sequence| {
                sequence.may_read && belongs(&Sequence::of(sequence), &self.flow)
            };
            self.list = all.into_iter().filter(ours).collect();
            self.written.retain(|oid, _| self.list.iter().any(|sequence| sequence.oid == *oid));
            self.listed = Some(Instant::now());
        }
        let stands = match catalog::stands(session, &self.list).await {
            Ok(stands) => stands,
            Err(error) => {
                // One of them may have been dropped.
                self.listed = None;
                return Err(self.failed(error));
            }
        };
        let moved: Vec<(&catalog::Sequence, Stand)> = self
            .list
            .iter()
            .filter_map(|sequence| Some((sequence, *stands.get(&sequence.oid)?)))
            .filter(|(sequence, stand)| match self.written.get(&sequence.oid) {
                Some(written) => written != stand,
                None => *stand != Stand { last: sequence.counting.start, called: false },
            })
            .collect();
        let count = moved.len();
        for some in moved.chunks(IN_A_MESSAGE) {
            let content = encode_sequences(some.iter().map(|(one, stand)| reading(one, *stand)).collect());
            let written = session.execute(EMIT, &[&SEQUENCE_PREFIX, &content]).await;
            written.map_err(|error| self.failed(error))?;
            self.written.extend(some.iter().map(|(one, stand)| (one.oid, *stand)));
        }
        Ok(Some(count))
    }

    fn failed(&self, source: impl Into<irongate_postgres::Error>) -> Error {
        Error::Database {
            end: format!("{}.{}", self.flow.database, self.flow.from),
            doing: "follow the sequences".to_owned(),
            source: Box::new(source.into()),
        }
    }
}

fn reading(sequence: &catalog::Sequence, stand: Stand) -> Reading {
    Reading {
        schema: sequence.schema.clone(),
        name: sequence.name.clone(),
        owner: sequence.owner.clone(),
        last: stand.last,
        called: stand.called,
    }
}
