//! The target's sequences, brought forward to where the source's stand, and a margin more.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use irongate_postgres::Session;
use irongate_postgres::catalog::{self, Counting, Stand};

use super::Failure;
use crate::error::Error;
use crate::sequence::{Reading, ahead, is_forward};
use crate::settings::{Names, ReplicatSettings};

/// How long what is known of the target's sequences is believed, and how often one that is missing is looked for.
const BELIEVED: Duration = Duration::from_secs(60);

/// What is known of the target's sequences, and what was said of them.
#[derive(Default, Debug)]
pub(super) struct Sequences {
    known: Vec<catalog::Sequence>,
    by_name: HashMap<(String, String), usize>,
    by_column: HashMap<(String, String, String), usize>,
    read: Option<Instant>,
    /// Those of the source that could not be followed: each is told of once.
    told: HashSet<(String, String)>,
}

impl Sequences {
    /// Brings the sequences forward. How many could not be: each is told of once, and the rows go on.
    ///
    /// # Errors
    /// [`Failure::Lost`] only, where the session or the moment is to blame.
    pub(super) async fn follow(
        &mut self,
        session: &Session,
        readings: &[Reading],
        settings: &ReplicatSettings,
    ) -> Result<u64, Failure> {
        match self.try_to_follow(session, readings, settings).await {
            Ok(left) => Ok(left),
            Err(error) if session.is_closed() || error.is_transient() => {
                Err(Failure::Lost(Error::Target(error)))
            }
            Err(error) => {
                // Such as one that was dropped meanwhile. What moves again is read again.
                tracing::warn!(group = %settings.group, %error, "sequences could not be set");
                self.read = None;
                Ok(readings.len() as u64)
            }
        }
    }

    async fn try_to_follow(
        &mut self,
        session: &Session,
        readings: &[Reading],
        settings: &ReplicatSettings,
    ) -> Result<u64, irongate_postgres::Error> {
        if self.read.is_none_or(|read| read.elapsed() >= BELIEVED) {
            self.read_again(session).await?;
        }
        let mut left = 0;
        let mut followed: Vec<(usize, &Reading)> = Vec::with_capacity(readings.len());
        for reading in readings {
            let counterpart = self.counterpart(reading, &settings.names);
            match counterpart.filter(|place| self.known[*place].may_read && self.known[*place].may_set) {
                Some(place) => followed.push((place, reading)),
                None => {
                    let reason = match counterpart {
                        None => "the target has no such sequence",
                        Some(_) => "Replicat's role may not read and set it",
                    };
                    self.tell(reading, settings, reason);
                    left += 1;
                }
            }
        }
        let mut stands =
            catalog::stands(session, followed.iter().map(|(place, _)| &self.known[*place])).await?;
        let mut wanted: Vec<(u32, Stand)> = Vec::new();
        for (place, reading) in followed {
            let catalog::Sequence { oid, counting, .. } = self.known[place];
            let Some(present) = stands.get_mut(&oid) else { continue };
            match aim(counting, *present, reading, settings.sequence_margin) {
                Some(Some(stand)) => {
                    // What was said twice is set to the later.
                    *present = stand;
                    wanted.push((oid, stand));
                }
                Some(None) => {}
                None => {
                    self.tell(reading, settings, "its bounds at the target do not hold the value");
                    left += 1;
                }
            }
        }
        if !wanted.is_empty() {
            catalog::set_sequences(session, &wanted).await?;
        }
        Ok(left)
    }

    /// The target's sequences are others now.
    pub(super) fn forget(&mut self) {
        self.read = None;
    }

    async fn read_again(&mut self, session: &Session) -> Result<(), irongate_postgres::Error> {
        self.known = catalog::sequences(session).await?;
        (self.by_name, self.by_column) = Default::default();
        for (place, sequence) in self.known.iter().enumerate() {
            self.by_name.insert((sequence.schema.clone(), sequence.name.clone()), place);
            if let Some(owner) = &sequence.owner {
                self.by_column.insert(owner.clone(), place);
            }
        }
        self.read = Some(Instant::now());
        Ok(())
    }

    /// The one of the same column of the table's counterpart, else the one of the same name.
    fn counterpart(&self, reading: &Reading, names: &Names) -> Option<usize> {
        let by_column = reading.owner.as_ref().and_then(|(schema, table, column)| {
            let (schema, table) = names.target_of(schema, table);
            self.by_column.get(&(schema, table, column.clone()))
        });
        let by_name = || self.by_name.get(&names.target_of(&reading.schema, &reading.name));
        by_column.or_else(by_name).copied()
    }

    fn tell(&mut self, reading: &Reading, settings: &ReplicatSettings, reason: &str) {
        let name = (reading.schema.clone(), reading.name.clone());
        if !self.told.contains(&name) {
            let (schema, sequence) = &name;
            tracing::warn!(group = %settings.group, schema, sequence, reason, "a sequence is not followed");
            self.told.insert(name);
        }
    }
}

/// Where a sequence of the target is to be set, if anywhere; `None` where it cannot follow.
fn aim(counting: Counting, present: Stand, reading: &Reading, margin: u64) -> Option<Option<Stand>> {
    let source = Stand { last: reading.last, called: reading.called };
    let wanted = ahead(counting, source, margin)?;
    Some(is_forward(counting, present, wanted).then_some(wanted))
}
