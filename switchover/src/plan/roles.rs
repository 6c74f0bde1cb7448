//! The row that says which site writes: locked for a run, and changed by it.

use irongate_checkpoint::{FIRST_EPOCH, Role, role_setup};
use serde_json::{Value, json};

use super::Run;
use crate::error::Error;
use crate::place::Place;

impl Run<'_> {
    /// Takes every database in hand, at both sites; who has it already is named.
    pub(super) async fn lock(&self) -> Result<Value, Error> {
        let mut epochs = Vec::new();
        for unit in &self.units {
            for place in [&unit.from, &unit.to] {
                epochs.push(json!({ "database": place.to_string(), "next_epoch": self.take(place).await? }));
            }
        }
        Ok(json!({ "locked": epochs }))
    }

    async fn take(&self, place: &Place) -> Result<u64, Error> {
        let failed = || place.failed("lock the roles");
        let own: Vec<&str> = place.own.iter().map(String::as_str).collect();
        place.session.batch_execute(&role_setup(&own).join(";\n")).await.map_err(failed())?;
        const FIRST: &str =
            "INSERT INTO irongate.role (live, epoch) VALUES ($1, $2) ON CONFLICT (one) DO NOTHING";
        let first = i64::try_from(FIRST_EPOCH).unwrap_or(1);
        place.session.execute(FIRST, &[&self.heading.from, &first]).await.map_err(failed())?;
        const TAKE: &str =
            "UPDATE irongate.role SET run = $1, holder = $2, run_since = coalesce(run_since, now()),
                 next_live = $3, next_epoch = epoch + 1, changed = now()
             WHERE (run IS NULL OR run = $1) AND live = $4 RETURNING next_epoch";
        let heading = &self.heading;
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&heading.run, &heading.holder, &heading.to, &heading.from];
        if let Some(row) = place.session.query_opt(TAKE, &values).await.map_err(failed())? {
            return Ok(row.try_get::<_, i64>(0).map_err(failed())?.unsigned_abs());
        }
        let role = role_of(place).await?;
        match role.and_then(|role| role.run) {
            Some(holder) => Err(Error::Held {
                end: place.to_string(),
                run: holder.run,
                holder: holder.holder,
                since: holder.since,
            }),
            // The step that writes the roles is over already, or another site writes.
            None => {
                Err(Error::Roles { complaint: format!("site \"{}\" does not write {place}", heading.from) })
            }
        }
    }

    /// Gives every database back.
    pub(super) async fn unlock(&self) -> Result<Value, Error> {
        const GIVE: &str =
            "UPDATE irongate.role SET run = NULL, holder = NULL, run_since = NULL, next_live = NULL,
             next_epoch = NULL, changed = now() WHERE run = $1";
        for unit in &self.units {
            for place in [&unit.from, &unit.to] {
                // The table may not be there yet.
                if role_of(place).await?.is_some() {
                    let failed = place.failed("give the roles back");
                    place.session.execute(GIVE, &[&self.heading.run]).await.map_err(failed)?;
                }
            }
        }
        Ok(Value::Null)
    }

    /// Writes at both sites who writes from now on, and in which epoch. The site that writes first: it is the one that
    /// must know.
    pub(super) async fn write_roles(&self) -> Result<Value, Error> {
        const WRITE: &str = "UPDATE irongate.role SET live = next_live, epoch = next_epoch, next_live = NULL,
             next_epoch = NULL, changed = now() WHERE run = $1 AND next_live = $2";
        let mut roles = Vec::new();
        for unit in &self.units {
            for place in [&unit.to, &unit.from] {
                let failed = place.failed("write the roles");
                place.session.execute(WRITE, &[&self.heading.run, &self.heading.to]).await.map_err(failed)?;
                let role = role_of(place).await?.filter(|role| role.live == self.heading.to);
                let role = role.ok_or_else(|| Error::Roles {
                    complaint: format!("{place} does not say that site \"{}\" writes", self.heading.to),
                })?;
                roles.push(json!({ "database": place.to_string(), "live": role.live, "epoch": role.epoch }));
            }
        }
        Ok(json!({ "roles": roles }))
    }
}

/// What a database says of its role.
pub(super) async fn role_of(place: &Place) -> Result<Option<Role>, Error> {
    Role::load(&place.session).await.map_err(|error| Error::Deployment(error.into()))
}
