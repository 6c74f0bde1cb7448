//! The row that says which site writes: locked for a run, and changed by it.

use std::time::Duration;

use irongate_checkpoint::{FIRST_EPOCH, Role, role_setup};
use serde_json::{Value, json};

use super::{Kind, LEFT, Run, Unit, left};
use crate::error::Error;
use crate::fence;
use crate::guard::GUARD;
use crate::journal::{Journal, What};
use crate::place::Place;

impl Run<'_> {
    /// Takes every database in hand; who has it already is named. A site that may be lost is taken in hand if it answers.
    pub(super) async fn lock(&self) -> Result<Value, Error> {
        let mut epochs = Vec::new();
        for unit in &self.units {
            match self.kind {
                Kind::Switchover | Kind::Switchback | Kind::Drill => {
                    let mut taken = Taken { before: 0, next: 0 };
                    for place in unit.both()? {
                        taken = self.take(unit, place, taken.next).await?;
                    }
                    // One epoch for both: the site that was taken first may know of fewer.
                    self.take(unit, unit.from()?, taken.next).await?;
                    for place in unit.both()? {
                        epochs.push(taken.of(place));
                    }
                }
                Kind::Failover => {
                    let taken = self.take(unit, &unit.to, 0).await?;
                    epochs.push(taken.of(&unit.to));
                }
                Kind::Reinstate => {
                    let epoch = self.hold(&unit.to).await?;
                    let back = unit.from()?;
                    prepare(back).await?;
                    tell(back, &self.heading.to, epoch, None).await?;
                    self.hold(back).await?;
                    epochs.push(json!({ "database": back.to_string(), "epoch": epoch }));
                }
            }
        }
        if self.kind == Kind::Failover {
            self.close_drilled().await?;
        }
        Ok(json!({ "locked": epochs }))
    }

    /// Takes a database in hand that stays whose it is; in which epoch it is.
    async fn hold(&self, place: &Place) -> Result<u64, Error> {
        const HOLD: &str =
            "UPDATE irongate.role SET run = $1, holder = $2, run_since = coalesce(run_since, now()),
                 changed = now()
             WHERE (run IS NULL OR run = $1 OR run = ANY ($4)) AND live = $3 RETURNING epoch";
        let failed = || place.failed("lock the roles");
        let heading = &self.heading;
        let nobody = self.nobody()?;
        let row = place.session.query_opt(HOLD, &[&heading.run, &heading.holder, &heading.to, &nobody]).await;
        match row.map_err(failed())? {
            Some(row) => Ok(row.try_get::<_, i64>(0).map_err(failed())?.unsigned_abs()),
            None => Err(self.not_taken(place).await?),
        }
    }

    /// Who has a database in hand without being in anybody's way: the guard, and runs of this site that are over and could
    /// not give back what was at a site that was lost.
    pub(super) fn nobody(&self) -> Result<Vec<String>, Error> {
        let state = &self.configuration.state_directory;
        let mut nobody = vec![GUARD.to_owned()];
        for run in Journal::runs(state)? {
            let (_, entries) = Journal::read(state, &run)?;
            if entries.iter().any(|entry| matches!(entry.what, What::Ended { .. })) {
                nobody.push(run);
            }
        }
        Ok(nobody)
    }

    /// Why a database could not be taken in hand.
    async fn not_taken(&self, place: &Place) -> Result<Error, Error> {
        let role = role_of(place).await?;
        Ok(match role.and_then(|role| role.run) {
            Some(holder) => Error::Held {
                end: place.to_string(),
                run: holder.run,
                holder: holder.holder,
                since: holder.since,
            },
            // The step that writes the roles is over already, or another site writes.
            None => Error::Roles { complaint: format!("another site writes {place} than the run has found") },
        })
    }

    /// The site that writes as long as nothing has changed hands: the one whose flow is started by itself.
    pub(super) fn first_live(&self, unit: &Unit<'_>) -> String {
        let pair = unit.pair;
        let first =
            if self.configuration.is_reverse(pair.into) { &pair.out_of.from } else { &pair.into.from };
        first.clone()
    }

    /// Takes a database in hand that is to change hands, for an epoch that is this one or a later one.
    async fn take(&self, unit: &Unit<'_>, place: &Place, at_least: u64) -> Result<Taken, Error> {
        let failed = || place.failed("lock the roles");
        prepare(place).await?;
        const FIRST: &str =
            "INSERT INTO irongate.role (live, epoch) VALUES ($1, $2) ON CONFLICT (one) DO NOTHING";
        let first = i64::try_from(FIRST_EPOCH).unwrap_or(1);
        place.session.execute(FIRST, &[&self.heading.from, &first]).await.map_err(failed())?;
        // The other site may be in the epoch already that a run was to begin which nobody can end: no other run takes that
        // one, and who takes over from the site that writes already takes one more: the other one may take over just then.
        // The run that is only put by may get the database back, and keeps its own.
        const TAKE: &str =
            "UPDATE irongate.role SET run = $1, holder = $2, run_since = coalesce(run_since, now()),
                 next_live = $3, changed = now(), next_epoch = greatest($7, CASE
                     WHEN run IN ($1, $8) AND next_live = $3 THEN next_epoch
                     WHEN run = $8 THEN epoch + 1
                     ELSE greatest(epoch, coalesce(next_epoch, epoch)) + CASE WHEN live = $3 THEN 2 ELSE 1 END END)
             WHERE (run IS NULL OR run = $1 OR run = ANY ($5))
                   AND (live = $4 OR live = $3 AND ($6 OR run = $1 AND next_live = $3))
             RETURNING epoch, next_epoch";
        let heading = &self.heading;
        let role = role_of(place).await?;
        let (others, is_told) =
            (self.may_take_from(role.as_ref()), self.may_be_told(unit, role.as_ref()).await?);
        let at_least = i64::try_from(at_least).unwrap_or(i64::MAX);
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 8] = [
            &heading.run,
            &heading.holder,
            &heading.to,
            &heading.from,
            &others,
            &is_told,
            &at_least,
            &heading.supersedes,
        ];
        if let Some(row) = place.session.query_opt(TAKE, &values).await.map_err(failed())? {
            let epoch = |column| row.try_get::<_, i64>(column).map(i64::unsigned_abs).map_err(failed());
            return Ok(Taken { before: epoch(0)?, next: epoch(1)? });
        }
        Err(self.not_taken(place).await?)
    }

    /// Gives every database back. Evidence is what could not be.
    pub(super) async fn unlock(&self) -> Result<Value, Error> {
        let mut kept = Vec::new();
        for unit in &self.units {
            match (self.kind, unit.reached()) {
                (Kind::Failover, _) => {
                    if self.give_to_earlier(&unit.to).await? {
                        continue;
                    }
                }
                // Lost once more: its guard frees what nobody has in hand any more.
                (Kind::Reinstate, None) => {}
                (Kind::Drill, None) => kept.push(format!("{}.{}", unit.pair.database, self.heading.from)),
                // The guard had it in hand before, and goes on until it is closed.
                (Kind::Reinstate, Some(back)) if fence::standing(back).await?.is_none() => {
                    self.leave_to_guard(back).await?;
                }
                _ => self.give(unit.from()?).await?,
            }
            self.give(&unit.to).await?;
        }
        if kept.is_empty() {
            return Ok(Value::Null);
        }
        let what = format!("{} does not answer, and is still in its hands", kept.join(", "));
        let remedy = format!("when it answers, irongate runs --forget {}", self.heading.run);
        Ok(json!({ LEFT: left(&what, &remedy) }))
    }

    async fn leave_to_guard(&self, place: &Place) -> Result<(), Error> {
        const LEAVE: &str =
            "UPDATE irongate.role SET run = $2, holder = NULL, changed = now() WHERE run = $1";
        let failed = place.failed("give the roles back");
        place.session.execute(LEAVE, &[&self.heading.run, &GUARD]).await.map(drop).map_err(failed)
    }

    async fn give(&self, place: &Place) -> Result<(), Error> {
        let run = &self.heading.run;
        // The table may not be there yet.
        if role_of(place).await?.is_some() {
            // Of a failover the other site knows nothing: what it was to begin stays noted.
            match self.kind {
                Kind::Failover => free_of_forgotten(place, run).await?,
                _ => free(place, run, Duration::ZERO).await?,
            };
        }
        Ok(())
    }

    /// Writes at both sites who writes from now on, and in which epoch. The site that writes first: it is the one that
    /// must know.
    pub(super) async fn write_roles(&self) -> Result<Value, Error> {
        if self.kind == Kind::Failover {
            return self.write_roles_alone().await;
        }
        let mut roles = Vec::new();
        for unit in &self.units {
            for place in [&unit.to, unit.from()?] {
                let role = self.turn(place).await?;
                roles.push(json!({ "database": place.to_string(), "live": role.live, "epoch": role.epoch }));
            }
        }
        Ok(json!({ "roles": roles }))
    }

    /// Whether one of the databases that are to be written says so.
    pub(super) async fn any_says(&self, so: impl Fn(&Role) -> bool) -> Result<bool, Error> {
        for unit in &self.units {
            if role_of(&unit.to).await?.is_some_and(|role| so(&role)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes what is next what is so, at one place.
    pub(super) async fn turn(&self, place: &Place) -> Result<Role, Error> {
        const WRITE: &str = "UPDATE irongate.role SET live = next_live, epoch = next_epoch, next_live = NULL,
             next_epoch = NULL, changed = now() WHERE run = $1 AND next_live = $2";
        let failed = place.failed("write the roles");
        place.session.execute(WRITE, &[&self.heading.run, &self.heading.to]).await.map_err(failed)?;
        let role = role_of(place).await?.filter(|role| role.live == self.heading.to);
        role.ok_or_else(|| Error::Roles {
            complaint: format!("{place} does not say that site \"{}\" writes", self.heading.to),
        })
    }

    /// The same with the other site lost: it is told if it answers, and else when it comes back.
    async fn write_roles_alone(&self) -> Result<Value, Error> {
        let mut roles = Vec::new();
        let answering = self.lost_that_answer().await;
        for unit in &self.units {
            let role = self.turn(&unit.to).await?;
            roles.push(json!({ "database": unit.to.to_string(), "live": role.live, "epoch": role.epoch }));
            for lost in answering.iter().filter(|lost| lost.database == unit.to.database) {
                let told = async {
                    prepare(lost).await?;
                    // It is closed, or shown to be, by its own guard, which goes by this.
                    tell(lost, &role.live, role.epoch, Some(GUARD)).await
                };
                let told = match tokio::time::timeout(self.limits.probe, told).await {
                    Ok(Ok(())) => "told".to_owned(),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "it did not answer in time".to_owned(),
                };
                roles.push(json!({ "database": lost.to_string(), "told": told }));
            }
        }
        let open = self.close_returned().await;
        self.unlock().await?;
        let mut evidence = json!({ "roles": roles });
        if !open.is_empty() {
            let from = &self.heading.from;
            evidence[LEFT] = left(
                &format!("the site that was taken over from lets applications in still: {}", open.join("; ")),
                &format!(
                    "irongate fence {from} --force closes it, as does its guard where a manager of site \"{from}\" runs; until \
                     then two sites write"
                ),
            );
        }
        Ok(evidence)
    }
}

/// The epochs of a database that is taken in hand: in which it is, and in which it will be.
#[derive(Clone, Copy)]
struct Taken {
    before: u64,
    next: u64,
}

impl Taken {
    fn of(self, place: &Place) -> Value {
        json!({ "database": place.to_string(), "epoch_before": self.before, "next_epoch": self.next })
    }
}

/// Makes the table of roles.
pub(crate) async fn prepare(place: &Place) -> Result<(), Error> {
    let own: Vec<&str> = place.own.iter().map(String::as_str).collect();
    let sql = role_setup(&own).join(";\n");
    place.session.batch_execute(&sql).await.map_err(place.failed("make the table of roles"))
}

/// Tells a database who writes it, in an epoch that it does not know yet; `run` has it in hand then. What an earlier run
/// had begun in an epoch that is over is over.
pub(crate) async fn tell(place: &Place, live: &str, epoch: u64, run: Option<&str>) -> Result<(), Error> {
    const TELL: &str = "INSERT INTO irongate.role (live, epoch, run, run_since) VALUES ($1, $2, $3, now())
         ON CONFLICT (one) DO UPDATE SET live = excluded.live, epoch = excluded.epoch, run = excluded.run,
             holder = NULL, run_since = now(), next_live = NULL, changed = now(),
             next_epoch = CASE WHEN role.next_epoch > excluded.epoch THEN role.next_epoch END
         WHERE role.epoch < excluded.epoch";
    let number = i64::try_from(epoch).unwrap_or(i64::MAX);
    let told = place.session.execute(TELL, &[&live, &number, &run]).await;
    told.map(drop).map_err(place.failed("tell the site its role"))
}

/// Whether an epoch is noted that a run was to begin which nobody has in hand any more.
pub(super) async fn is_reserved(place: &Place) -> Result<bool, Error> {
    const SQL: &str = "SELECT next_live IS NULL AND next_epoch IS NOT NULL FROM irongate.role";
    let failed = || place.failed("ask for the role");
    let row = place.session.query_opt(SQL, &[]).await.map_err(failed())?;
    row.map_or(Ok(false), |row| row.try_get(0)).map_err(failed())
}

/// Frees a database of a run that nobody will end. The epoch that it was to begin stays noted: the other site may be in it.
pub(crate) async fn free_of_forgotten(place: &Place, run: &str) -> Result<bool, Error> {
    const FREE: &str =
        "UPDATE irongate.role SET run = NULL, holder = NULL, run_since = NULL, next_live = NULL,
         changed = now() WHERE run = $1";
    let freed = place.session.execute(FREE, &[&run]).await;
    freed.map(|rows| rows > 0).map_err(place.failed("give the roles back"))
}

/// Frees a database of a run that has had it in hand for so long; whether it had. An epoch that a forgotten run was to begin
/// stays noted, as do later ones: trails may have been begun in them.
pub(crate) async fn free(place: &Place, run: &str, held: Duration) -> Result<bool, Error> {
    const FREE: &str =
        "UPDATE irongate.role SET run = NULL, holder = NULL, run_since = NULL, next_live = NULL, changed = now(),
         next_epoch = CASE WHEN next_live IS NULL OR next_epoch > epoch + 1 THEN next_epoch END
         WHERE run = $1 AND coalesce(extract(epoch FROM now() - run_since), 0) >= $2::float8";
    let freed = place.session.execute(FREE, &[&run, &held.as_secs_f64()]).await;
    freed.map(|rows| rows > 0).map_err(place.failed("give the roles back"))
}

/// What a database says of its role.
pub(crate) async fn role_of(place: &Place) -> Result<Option<Role>, Error> {
    Role::load(&place.session).await.map_err(|error| Error::Deployment(error.into()))
}
