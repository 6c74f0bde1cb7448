//! What was saved, under the names that things have now.
//!
//! Behind a fence tables are renamed, change hands or are made anew, by a release of the application for one. A thing is
//! found by its OID wherever it has gone, as its rights would have gone with it; one whose OID is gone, by its name, unless
//! that is now the name of another thing that was saved too. What is not there any more is left out and told.

use std::collections::{BTreeMap, BTreeSet};

use super::saved::{NOT_THEIRS, Object, Right, Saved};
use crate::error::Error;
use crate::place::Place;

/// A table, a view or a sequence as it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Relation {
    schema: String,
    name: String,
    owner: String,
    is_sequence: bool,
}

/// What there is now, by OID.
#[derive(Default, Debug)]
struct Catalogs {
    relations: BTreeMap<u32, Relation>,
    /// By table and number.
    columns: BTreeMap<(u32, i16), String>,
    /// Each with its table and its name.
    triggers: BTreeMap<u32, (u32, String)>,
    roles: BTreeMap<u32, String>,
    database_owner: String,
}

/// Finds everything again that was saved.
///
/// # Errors
/// [`Error::Database`].
pub(super) async fn follow(place: &Place, saved: Saved) -> Result<Followed, Error> {
    let now =
        Catalogs::read(place).await.map_err(place.failed("look for what has been renamed or dropped"))?;
    Ok(Followed::of(saved, &now))
}

impl Catalogs {
    async fn read(place: &Place) -> Result<Self, tokio_postgres::Error> {
        let session = &place.session;
        let mut now = Self::default();
        let sql = format!(
            "SELECT c.oid, n.nspname::text, c.relname::text, pg_catalog.pg_get_userbyid(c.relowner)::text,
                    c.relkind = 'S'
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              WHERE c.relkind IN ('r', 'p', 'v', 'f', 'S') AND {NOT_THEIRS}"
        );
        for row in session.query(&sql, &[]).await? {
            let relation = Relation {
                schema: row.try_get(1)?,
                name: row.try_get(2)?,
                owner: row.try_get(3)?,
                is_sequence: row.try_get(4)?,
            };
            now.relations.insert(row.try_get(0)?, relation);
        }
        let tables: Vec<u32> = now.relations.keys().copied().collect();
        const COLUMNS: &str = "SELECT attrelid, attnum, attname::text FROM pg_catalog.pg_attribute
             WHERE attrelid = ANY ($1) AND attnum > 0 AND NOT attisdropped";
        for row in session.query(COLUMNS, &[&tables]).await? {
            now.columns.insert((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?);
        }
        const TRIGGERS: &str = "SELECT oid, tgrelid, tgname::text FROM pg_catalog.pg_trigger
             WHERE tgrelid = ANY ($1) AND NOT tgisinternal";
        for row in session.query(TRIGGERS, &[&tables]).await? {
            now.triggers.insert(row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?));
        }
        for row in session.query("SELECT oid, rolname::text FROM pg_catalog.pg_roles", &[]).await? {
            now.roles.insert(row.try_get(0)?, row.try_get(1)?);
        }
        const OWNER: &str = "SELECT pg_catalog.pg_get_userbyid(datdba)::text FROM pg_catalog.pg_database
             WHERE datname = pg_catalog.current_database()";
        now.database_owner = session.query_one(OWNER, &[]).await?.try_get(0)?;
        Ok(now)
    }

    /// The relation that was saved under this name and OID; `taken` are the OIDs of all that was saved.
    fn relation(
        &self,
        (schema, name): (&str, &str),
        oid: u32,
        is_sequence: bool,
        taken: &BTreeSet<u32>,
    ) -> Option<(u32, &Relation)> {
        let fits = |relation: &Relation| relation.is_sequence == is_sequence;
        if let Some(found) = self.relations.get(&oid).filter(|found| fits(found)) {
            return Some((oid, found));
        }
        let named =
            |relation: &Relation| relation.schema == schema && relation.name == name && fits(relation);
        let (oid, found) = self.relations.iter().find(|(_, relation)| named(relation))?;
        (!taken.contains(oid)).then_some((*oid, found))
    }

    fn column(&self, table: u32, number: i16, name: &str) -> Option<(i16, &String)> {
        if let Some(found) = self.columns.get(&(table, number)) {
            return Some((number, found));
        }
        let of_table = self.columns.range((table, 0)..=(table, i16::MAX));
        let ((_, number), found) = of_table.into_iter().find(|(_, found)| *found == name)?;
        Some((*number, found))
    }
}

/// What was saved, as it is called now.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Followed {
    /// What is still there.
    pub(super) saved: Saved,
    /// What has another name.
    pub(super) renamed: BTreeSet<String>,
}

impl Followed {
    fn of(saved: Saved, now: &Catalogs) -> Self {
        let mut followed = Self::default();
        followed.saved.gone.clone_from(&saved.gone);
        let roles = &saved.roles;
        let taken: BTreeSet<u32> = saved
            .rights
            .iter()
            .chain(&saved.lent)
            .chain(&saved.fallen)
            .filter_map(|right| right.object.oid())
            .collect();
        let taken_roles: BTreeSet<u32> = roles.values().copied().collect();
        let mut follow = |right: &Right| {
            let (object, owner) = followed.object(&right.object, now, &taken)?;
            let mut role = |name: &String| followed.role(name, roles, &taken_roles, now);
            // Both before anything is left out, so that each role that is gone is told.
            let (grantor, grantee) = (role(&right.grantor), right.grantee.as_ref().map(&mut role));
            let mut right = Right {
                object,
                grantor: grantor?,
                grantee: grantee.map_or(Some(None), |g| g.map(Some))?,
                ..right.clone()
            };
            // A change of owner carries what the owner has and has given over to the new one; so does PostgreSQL.
            if right.from_owner && right.grantor != owner {
                if right.grantee.as_ref() == Some(&right.grantor) {
                    right.grantee = Some(owner.clone());
                }
                right.grantor = owner;
            }
            Some(right)
        };
        let rights = saved.rights.iter().filter_map(&mut follow).collect();
        let lent = saved.lent.iter().filter_map(&mut follow).collect();
        let fallen = saved.fallen.iter().filter_map(&mut follow).collect();
        (followed.saved.rights, followed.saved.lent, followed.saved.fallen) = (rights, lent, fallen);
        for login in &saved.logins {
            let login = followed.role(login, roles, &taken_roles, now);
            followed.saved.logins.extend(login);
        }
        for trigger in &saved.triggers {
            let names = (trigger.schema.as_str(), trigger.table.as_str());
            let found = match now.triggers.get_key_value(&trigger.oid) {
                Some(found) => Some(found),
                None => now.triggers.iter().find(|(_, (table, name))| {
                    let table = now.relations.get(table);
                    *name == trigger.name
                        && table.is_some_and(|table| (table.schema.as_str(), table.name.as_str()) == names)
                }),
            };
            let said = format!("trigger \"{}\" of {}.{}", trigger.name, trigger.schema, trigger.table);
            let Some((oid, (table, name))) = found else {
                followed.saved.gone.insert(said);
                continue;
            };
            let Some(relation) = now.relations.get(table) else { continue };
            let mut found = trigger.clone();
            (found.schema, found.table) = (relation.schema.clone(), relation.name.clone());
            (found.name, found.oid, found.table_oid) = (name.clone(), *oid, *table);
            if found.name != trigger.name {
                followed.renamed.insert(format!("{said} is now \"{}\"", found.name));
            }
            followed.saved.triggers.insert(found);
        }
        let by_name: BTreeMap<&str, u32> =
            now.roles.iter().map(|(oid, name)| (name.as_str(), *oid)).collect();
        followed.saved.name_roles(|name| by_name.get(name).copied());
        followed
    }

    /// The object and its owner; none for one that is gone.
    fn object(&mut self, object: &Object, now: &Catalogs, taken: &BTreeSet<u32>) -> Option<(Object, String)> {
        let (schema, name, oid, is_sequence) = match object {
            Object::Database => return Some((Object::Database, now.database_owner.clone())),
            Object::Table { schema, name, oid } | Object::Column { schema, name, oid, .. } => {
                (schema, name, *oid, false)
            }
            Object::Sequence { schema, name, oid } => (schema, name, *oid, true),
        };
        let kind = if is_sequence { "sequence" } else { "table" };
        let said = format!("{kind} {schema}.{name}");
        let Some((oid, found)) = now.relation((schema, name), oid, is_sequence, taken) else {
            self.saved.gone.insert(said);
            return None;
        };
        if (&found.schema, &found.name) != (schema, name) {
            self.renamed.insert(format!("{said} is now {}.{}", found.schema, found.name));
        }
        let (schema, name) = (found.schema.clone(), found.name.clone());
        let object = match object {
            Object::Database => Object::Database,
            Object::Table { .. } => Object::Table { schema, name, oid },
            Object::Sequence { .. } => Object::Sequence { schema, name, oid },
            Object::Column { column, number, .. } => {
                let Some((number, column_now)) = now.column(oid, *number, column) else {
                    self.saved.gone.insert(format!("column \"{column}\" of {said}"));
                    return None;
                };
                if column_now != column {
                    self.renamed.insert(format!("column \"{column}\" of {said} is now \"{column_now}\""));
                }
                Object::Column { schema, name, column: column_now.clone(), oid, number }
            }
        };
        Some((object, found.owner.clone()))
    }

    fn role(
        &mut self,
        name: &String,
        saved: &BTreeMap<String, u32>,
        taken: &BTreeSet<u32>,
        now: &Catalogs,
    ) -> Option<String> {
        if let Some(found) = saved.get(name).and_then(|oid| now.roles.get(oid)) {
            if found != name {
                self.renamed.insert(format!("role \"{name}\" is now \"{found}\""));
            }
            return Some(found.clone());
        }
        let by_name = now.roles.iter().find(|(oid, found)| *found == name && !taken.contains(oid));
        if by_name.is_none() {
            self.saved.gone.insert(format!("role \"{name}\""));
        }
        by_name.map(|_| name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fence::saved::Trigger;

    fn catalogs() -> Catalogs {
        let relation = |name: &str, owner: &str| Relation {
            schema: "s".into(),
            name: name.into(),
            owner: owner.into(),
            is_sequence: false,
        };
        Catalogs {
            relations: [(10, relation("t", "boss")), (11, relation("u", "boss"))].into(),
            columns: [((10, 1), "a".into()), ((10, 2), "b".into())].into(),
            triggers: [(30, (10, "audit".into()))].into(),
            roles: [(1, "boss".into()), (2, "app".into()), (3, "boss2".into())].into(),
            database_owner: "boss".into(),
        }
    }

    fn right(object: Object) -> Right {
        let (grantor, grantee) = ("boss".into(), Some("app".into()));
        Right { object, grantor, grantee, privilege: "INSERT".into(), grantable: false, from_owner: true }
    }

    fn table(name: &str, oid: u32) -> Object {
        Object::Table { schema: "s".into(), name: name.into(), oid }
    }

    fn saved(objects: &[Object]) -> Saved {
        let roles = [("boss".to_owned(), 1), ("app".to_owned(), 2)].into();
        Saved { rights: objects.iter().cloned().map(right).collect(), roles, ..Saved::default() }
    }

    fn rights(followed: &Followed) -> Vec<String> {
        followed.saved.rights.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_was_renamed_is_found_and_what_is_gone_is_told() {
        let now = catalogs();
        let column = Object::Column {
            schema: "s".into(),
            name: "old".into(),
            column: "before".into(),
            oid: 10,
            number: 2,
        };
        let mut saved = saved(&[table("old", 10), table("away", 99), column]);
        saved.logins.insert("app_before".to_owned());
        saved.roles.insert("app_before".to_owned(), 2);
        saved.triggers.insert(Trigger {
            schema: "s".into(),
            table: "old".into(),
            name: "noted".into(),
            enabled: "A".into(),
            oid: 30,
            table_oid: 10,
        });
        let followed = Followed::of(saved, &now);
        assert_eq!(
            rights(&followed),
            ["INSERT on TABLE \"s\".\"t\" for app", "INSERT (\"b\") on TABLE \"s\".\"t\" for app"]
        );
        assert_eq!(followed.saved.gone, BTreeSet::from(["table s.away".to_owned()]));
        assert_eq!(followed.saved.logins, BTreeSet::from(["app".to_owned()]));
        assert_eq!(followed.saved.triggers.first().map(|trigger| trigger.table.as_str()), Some("t"));
        assert_eq!(followed.renamed.len(), 4, "{:?}", followed.renamed);
        // Once more there is nothing to be followed.
        let again = Followed::of(followed.saved.clone(), &now);
        assert_eq!((&again.saved, again.renamed.len()), (&followed.saved, 0));
    }

    #[test]
    fn what_an_older_release_has_saved_goes_by_its_names() {
        let mut old = saved(&[table("t", 0)]);
        old.roles.clear();
        let followed = Followed::of(old, &catalogs());
        assert_eq!(followed.saved.rights.first().map(|right| right.object.clone()), Some(table("t", 10)));
        assert_eq!(followed.saved.roles.get("app"), Some(&2));
    }

    #[test]
    fn a_name_that_another_table_has_taken_over_gives_it_no_second_rights() {
        // "t" was dropped, and what was "u" is called "t" now.
        let mut now = catalogs();
        now.relations.remove(&10);
        now.relations.get_mut(&11).unwrap().name = "t".into();
        let mut saved = saved(&[table("t", 10)]);
        saved.rights.insert(Right { privilege: "DELETE".into(), ..right(table("u", 11)) });
        let followed = Followed::of(saved, &now);
        assert_eq!(rights(&followed), ["DELETE on TABLE \"s\".\"t\" for app"]);
        assert_eq!(followed.saved.gone, BTreeSet::from(["table s.t".to_owned()]));
    }

    #[test]
    fn a_new_owner_takes_over_what_the_old_one_had_and_had_given() {
        let mut now = catalogs();
        now.relations.get_mut(&10).unwrap().owner = "boss2".into();
        let mut saved = saved(&[table("t", 10)]);
        saved.rights.insert(Right { grantee: Some("boss".into()), ..right(table("t", 10)) });
        let followed = Followed::of(saved, &now);
        let of_owner: Vec<_> = followed.saved.rights.iter().map(|right| right.grantor.as_str()).collect();
        assert_eq!(of_owner, ["boss2", "boss2"]);
        assert!(followed.saved.rights.iter().any(|right| right.grantee.as_deref() == Some("boss2")));
    }
}
