//! What a fence takes away, as it is read from the catalogs and kept until it is given back.
//!
//! The lists that PostgreSQL keeps with each object (`relacl`, `attacl`, `datacl`) are read exploded, with the default
//! list where there is none (PostgreSQL manual, "Privileges"). A right is known by object, grantor, grantee and kind; so
//! two readings can be compared as sets, and "exactly as before" is a comparison and not a promise.
//!
//! Beside its name stands each thing's OID, by which it is found again when it has been renamed behind the fence. What an
//! older release has saved has none (zero) and goes by its names.

use std::collections::{BTreeMap, BTreeSet};

use irongate_postgres::sql::{qualified, quote_identifier};
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use crate::error::Error;
use crate::place::Place;

/// What a right is a right to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Object {
    /// A table, a view or a foreign table.
    Table {
        /// Its schema.
        schema: String,
        /// Its name.
        name: String,
        /// Its OID; zero if it was not saved.
        #[serde(default)]
        oid: u32,
    },
    /// A column of one.
    Column {
        /// The table's schema.
        schema: String,
        /// The table.
        name: String,
        /// The column.
        column: String,
        /// The table's OID; zero if it was not saved.
        #[serde(default)]
        oid: u32,
        /// The column's number, which stays when it is renamed.
        #[serde(default)]
        number: i16,
    },
    /// A sequence.
    Sequence {
        /// Its schema.
        schema: String,
        /// Its name.
        name: String,
        /// Its OID; zero if it was not saved.
        #[serde(default)]
        oid: u32,
    },
    /// The database itself.
    Database,
}

/// A right that somebody has.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Right {
    /// To what.
    pub object: Object,
    /// Who gave it.
    pub grantor: String,
    /// Who has it; everybody, if nobody is named.
    pub grantee: Option<String>,
    /// Its kind, as GRANT spells it.
    pub privilege: String,
    /// It may be passed on.
    pub grantable: bool,
    /// The giver is the object's owner.
    pub from_owner: bool,
}

/// A trigger of a user, and when it fires (`pg_trigger.tgenabled`: `O` or `A`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Trigger {
    /// The table's schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// The trigger.
    pub name: String,
    /// `O` for origin, `A` for always.
    pub enabled: String,
    /// Its OID; zero if it was not saved.
    #[serde(default)]
    pub oid: u32,
    /// Its table's OID; zero if it was not saved.
    #[serde(default)]
    pub table_oid: u32,
}

/// What applications have.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Saved {
    /// Rights to write, and to connect.
    pub rights: BTreeSet<Right>,
    /// Applications' roles with LOGIN.
    pub logins: BTreeSet<String>,
    /// Triggers that fire for applications.
    pub triggers: BTreeSet<Trigger>,
    /// Rights that Irongate's own roles had by way of those that were taken, and have directly as long as the fence stands.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub lent: BTreeSet<Right>,
    /// Rights of Irongate's own roles that fell with those that were taken.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub fallen: BTreeSet<Right>,
    /// The OIDs of the roles that are named.
    #[serde(default)]
    pub roles: BTreeMap<String, u32>,
    /// What was gone already when the fence was closed once more.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub gone: BTreeSet<String>,
}

/// Schemas that no application keeps rows in.
pub(super) const NOT_THEIRS: &str = "n.nspname NOT IN ('pg_catalog', 'information_schema', 'irongate') \
     AND n.nspname !~ '^pg_(toast|temp)'";

impl Saved {
    /// Reads what is there now. Rights of Irongate's own roles are left out.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn read(place: &Place, with_triggers: bool) -> Result<Self, Error> {
        let failed = || place.failed("read who may write");
        let rights = rights(place, false).await.map_err(failed())?;
        const LOGINS: &str = "SELECT rolname::text FROM pg_catalog.pg_roles \
             WHERE rolcanlogin AND rolname = ANY ($1::text[]::name[])";
        let rows = place.session.query(LOGINS, &[&place.applications]).await.map_err(failed())?;
        let logins = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(failed())?;
        let mut triggers = BTreeSet::new();
        if with_triggers {
            let sql = format!(
                "SELECT n.nspname::text, c.relname::text, t.tgname::text, t.tgenabled::text, t.oid, t.tgrelid
                   FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
                        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                  WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND c.relkind IN ('r', 'p', 'f') AND {NOT_THEIRS}"
            );
            let rows = place.session.query(&sql, &[]).await.map_err(failed())?;
            triggers = rows.iter().map(trigger).collect::<Result<_, _>>().map_err(failed())?;
        }
        let mut found = Self { rights, logins, triggers, ..Self::default() };
        const ROLES: &str = "SELECT rolname::text, oid FROM pg_catalog.pg_roles";
        for row in place.session.query(ROLES, &[]).await.map_err(failed())? {
            let name: String = row.try_get(0).map_err(failed())?;
            found.roles.insert(name, row.try_get(1).map_err(failed())?);
        }
        let all = std::mem::take(&mut found.roles);
        found.name_roles(|name| all.get(name).copied());
        Ok(found)
    }

    /// Notes the OIDs of the roles that are named.
    pub(super) fn name_roles(&mut self, oid: impl Fn(&str) -> Option<u32>) {
        let known = self.named().filter_map(|name| Some((name.clone(), oid(name)?))).collect();
        self.roles = known;
    }

    /// The roles that are named.
    fn named(&self) -> impl Iterator<Item = &String> {
        let rights = || self.rights.iter().chain(&self.lent).chain(&self.fallen);
        let grantors = rights().map(|right| &right.grantor);
        let grantees = rights().filter_map(|right| right.grantee.as_ref());
        grantors.chain(grantees).chain(&self.logins)
    }

    /// Takes over what `more` has besides: what came while the fence stood.
    pub(crate) fn extend(&mut self, more: Self) {
        self.rights.extend(more.rights);
        self.logins.extend(more.logins);
        self.triggers.extend(more.triggers);
        self.lent.extend(more.lent);
        self.fallen.extend(more.fallen);
        self.roles.extend(more.roles);
        self.gone.extend(more.gone);
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.rights.is_empty() && self.logins.is_empty() && self.triggers.is_empty()
    }

    /// Statements that take the rights away, and LOGIN of `logins`. A right that was passed on goes with the right that it
    /// came from; where that one stays, it is taken by who gave it.
    pub(crate) fn taking(&self, place: &Place, database: &str, logins: &BTreeSet<String>) -> Vec<String> {
        let mut statements: Vec<String> = Vec::new();
        if self.rights.iter().any(|right| right.object == Object::Database) {
            // Before PUBLIC loses it, or our own walsenders and appliers would be refused.
            let own: Vec<String> = place.own.iter().map(|role| quote_identifier(role)).collect();
            let database = quote_identifier(database);
            statements.push(format!("GRANT CONNECT ON DATABASE {database} TO {}", own.join(", ")));
        }
        for group in groups(&self.rights) {
            let (right, kinds) = (group[0], kinds(&group));
            let from = grantee(right);
            let revoke = format!("REVOKE {kinds} ON {} FROM {from} CASCADE", right.object.sql(database));
            if right.from_owner {
                statements.push(revoke);
            } else if group.iter().any(|right| self.source(right).is_none()) {
                statements.push(as_grantor(right, &revoke));
            }
        }
        statements.extend(logins.iter().map(|role| format!("ALTER ROLE {} NOLOGIN", quote_identifier(role))));
        statements
    }

    /// The right by which the giver of this one could give it, if it is taken too.
    fn source(&self, right: &Right) -> Option<&Right> {
        self.rights.iter().find(|source| {
            source.grantable
                && source.object == right.object
                && source.privilege == right.privilege
                && source.grantee.as_deref() == Some(&right.grantor)
        })
    }

    /// Statements that disable the triggers. Each locks its table against writers, so they come when those have ended.
    pub(crate) fn disabling(&self) -> Vec<String> {
        self.triggers.iter().map(|trigger| trigger.alter("DISABLE")).collect()
    }

    /// Statements that lend Irongate's own roles what they would lose.
    pub(crate) fn lending(&self, database: &str) -> Vec<String> {
        let lend = |group: Vec<&Right>| {
            let (kinds, object) = (kinds(&group), group[0].object.sql(database));
            format!("GRANT {kinds} ON {object} TO {}", grantee(group[0]))
        };
        groups(&self.lent).map(lend).collect()
    }

    fn ending_the_loan(&self, database: &str) -> Vec<String> {
        let end = |group: Vec<&Right>| {
            let (kinds, object) = (kinds(&group), group[0].object.sql(database));
            format!("REVOKE {kinds} ON {object} FROM {}", grantee(group[0]))
        };
        groups(&self.lent).map(end).collect()
    }

    /// Statements that give everything back, givers before those whom they gave the right to give.
    pub(crate) fn giving(&self, database: &str) -> Vec<String> {
        // First, because each locks its table against vacuum. One that had the table already would wait for a right that was
        // given to be committed, to note its statistics in the same row, while this waits for its lock.
        let mut statements: Vec<String> = self
            .triggers
            .iter()
            .map(|trigger| trigger.alter(if trigger.enabled == "A" { "ENABLE ALWAYS" } else { "ENABLE" }))
            .collect();
        // Before anything is given, so that nothing else is given to them meanwhile.
        statements.extend(self.ending_the_loan(database));
        for group in self.by_depth() {
            let right = group[0];
            let option = if right.grantable { " WITH GRANT OPTION" } else { "" };
            let (kinds, object, to) = (kinds(&group), right.object.sql(database), grantee(right));
            let grant = format!("GRANT {kinds} ON {object} TO {to}{option}");
            statements.push(if right.from_owner { grant } else { as_grantor(right, &grant) });
        }
        statements
            .extend(self.logins.iter().map(|role| format!("ALTER ROLE {} LOGIN", quote_identifier(role))));
        statements
    }

    fn by_depth(&self) -> Vec<Vec<&Right>> {
        let (mut given, mut rest): (Vec<Vec<&Right>>, Vec<Vec<&Right>>) =
            groups(self.rights.iter().chain(&self.fallen)).partition(|group| group[0].from_owner);
        while !rest.is_empty() {
            let may = |group: &Vec<&Right>| {
                group.iter().all(|right| {
                    given.iter().flatten().any(|source| {
                        source.grantable
                            && source.object == right.object
                            && source.privilege == right.privilege
                            && source.grantee.as_deref() == Some(&right.grantor)
                    })
                })
            };
            let (next, later): (Vec<_>, Vec<_>) = rest.into_iter().partition(may);
            if next.is_empty() {
                // Nobody in the list gave the giver his right: he may have it by a role that he belongs to.
                given.extend(later);
                break;
            }
            given.extend(next);
            rest = later;
        }
        given
    }
}

/// Who may write and connect: Irongate's own roles, or everybody else.
pub(super) async fn rights(place: &Place, of_own: bool) -> Result<BTreeSet<Right>, tokio_postgres::Error> {
    let sql = format!(
        "WITH acl AS (
           SELECT CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END AS kind,
                  n.nspname::text AS schema, c.relname::text AS name, NULL::text AS col, c.oid AS id,
                  0::int2 AS number, c.relowner AS owner, a.*
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
                  pg_catalog.aclexplode(coalesce(c.relacl, pg_catalog.acldefault(
                      CASE c.relkind WHEN 'S' THEN 's'::\"char\" ELSE 'r'::\"char\" END, c.relowner))) a
            WHERE c.relkind IN ('r', 'p', 'v', 'f', 'S') AND {NOT_THEIRS}
              AND (a.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')
                   OR c.relkind = 'S' AND a.privilege_type = 'USAGE')
           UNION ALL
           SELECT 'column', n.nspname::text, c.relname::text, t.attname::text, c.oid, t.attnum, c.relowner, a.*
             FROM pg_catalog.pg_attribute t JOIN pg_catalog.pg_class c ON c.oid = t.attrelid
                  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
                  pg_catalog.aclexplode(t.attacl) a
            WHERE NOT t.attisdropped AND {NOT_THEIRS} AND a.privilege_type IN ('INSERT', 'UPDATE')
           UNION ALL
           SELECT 'database', NULL, NULL, NULL, 0::oid, 0::int2, d.datdba, a.*
             FROM pg_catalog.pg_database d,
                  pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) a
            WHERE d.datname = pg_catalog.current_database() AND a.privilege_type = 'CONNECT'
         )
         SELECT kind, schema, name, col, pg_catalog.pg_get_userbyid(grantor)::text,
                CASE WHEN grantee <> 0 THEN pg_catalog.pg_get_userbyid(grantee)::text END,
                privilege_type::text, is_grantable, grantor = owner, id, number
           FROM acl WHERE $2 = (grantee <> 0 AND pg_catalog.pg_get_userbyid(grantee) = ANY ($1))"
    );
    place.session.query(&sql, &[&place.own, &of_own]).await?.iter().map(right).collect()
}

/// Who has passed rights on that are not his own: the administrator must be able to speak for them.
pub(super) fn givers<'a>(rights: impl IntoIterator<Item = &'a Right>) -> BTreeSet<&'a str> {
    let passed_on = rights.into_iter().filter(|right| !right.from_owner);
    passed_on.map(|right| right.grantor.as_str()).collect()
}

/// Rights that differ in their kind only.
fn groups<'a>(rights: impl IntoIterator<Item = &'a Right>) -> impl Iterator<Item = Vec<&'a Right>> {
    let mut groups: Vec<Vec<&Right>> = Vec::new();
    for right in rights {
        let same = |other: &Right| {
            (&other.object, &other.grantor, &other.grantee, other.grantable)
                == (&right.object, &right.grantor, &right.grantee, right.grantable)
        };
        match groups.iter_mut().rev().find(|group| same(group[0])) {
            Some(group) => group.push(right),
            None => groups.push(vec![right]),
        }
    }
    groups.into_iter()
}

/// A statement as the role that has given a right: rights are given and taken by who has them to give.
fn as_grantor(right: &Right, statement: &str) -> String {
    format!("SET LOCAL ROLE {}; {statement}; RESET ROLE", quote_identifier(&right.grantor))
}

fn kinds(group: &[&Right]) -> String {
    let column = |right: &Right| match &right.object {
        Object::Column { column, .. } => format!("{} ({})", right.privilege, quote_identifier(column)),
        _ => right.privilege.clone(),
    };
    group.iter().map(|right| column(right)).collect::<Vec<_>>().join(", ")
}

fn grantee(right: &Right) -> String {
    right.grantee.as_deref().map_or_else(|| "PUBLIC".to_owned(), quote_identifier)
}

/// A right as the questions of this folder answer.
pub(super) fn right(row: &Row) -> Result<Right, tokio_postgres::Error> {
    let text = |column| row.try_get::<_, Option<String>>(column).map(Option::unwrap_or_default);
    let (schema, name, oid) = (text(1)?, text(2)?, row.try_get(9)?);
    let object = match row.try_get::<_, &str>(0)? {
        "table" => Object::Table { schema, name, oid },
        "sequence" => Object::Sequence { schema, name, oid },
        "column" => Object::Column { schema, name, column: text(3)?, oid, number: row.try_get(10)? },
        _ => Object::Database,
    };
    Ok(Right {
        object,
        grantor: row.try_get(4)?,
        grantee: row.try_get(5)?,
        privilege: row.try_get(6)?,
        grantable: row.try_get(7)?,
        from_owner: row.try_get(8)?,
    })
}

fn trigger(row: &Row) -> Result<Trigger, tokio_postgres::Error> {
    Ok(Trigger {
        schema: row.try_get(0)?,
        table: row.try_get(1)?,
        name: row.try_get(2)?,
        enabled: row.try_get(3)?,
        oid: row.try_get(4)?,
        table_oid: row.try_get(5)?,
    })
}

impl Object {
    /// Its OID, or its table's; none for the database, and where none was saved.
    pub(super) fn oid(&self) -> Option<u32> {
        match self {
            Self::Table { oid, .. } | Self::Column { oid, .. } | Self::Sequence { oid, .. } => {
                Some(*oid).filter(|oid| *oid != 0)
            }
            Self::Database => None,
        }
    }

    fn sql(&self, database: &str) -> String {
        match self {
            Self::Table { schema, name, .. } | Self::Column { schema, name, .. } => {
                format!("TABLE {}", qualified(schema, name))
            }
            Self::Sequence { schema, name, .. } => format!("SEQUENCE {}", qualified(schema, name)),
            Self::Database => format!("DATABASE {}", quote_identifier(database)),
        }
    }
}

impl std::fmt::Display for Right {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let to = self.grantee.as_deref().unwrap_or("PUBLIC");
        write!(f, "{} on {} for {to}", kinds(&[self]), self.object.sql("").trim_end_matches(" \"\""))
    }
}

impl Trigger {
    fn alter(&self, what: &str) -> String {
        let (table, name) = (qualified(&self.schema, &self.table), quote_identifier(&self.name));
        // Alone: a partition's trigger may be set otherwise than its parent's.
        format!("ALTER TABLE ONLY {table} {what} TRIGGER {name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(grantor: &str, grantee: Option<&str>, privilege: &str, grantable: bool) -> Right {
        Right {
            object: Object::Table { schema: "s".into(), name: "T".into(), oid: 7 },
            grantor: grantor.into(),
            grantee: grantee.map(str::to_owned),
            privilege: privilege.into(),
            grantable,
            from_owner: grantor == "owner",
        }
    }

    #[test]
    fn rights_are_given_back_in_the_order_in_which_they_can_be() {
        let rights = [
            right("b", Some("c"), "INSERT", false),
            right("a", Some("b"), "INSERT", true),
            right("owner", Some("a"), "INSERT", true),
            right("owner", Some("a"), "DELETE", true),
            right("owner", None, "UPDATE", false),
        ];
        let saved = Saved { rights: rights.into_iter().collect(), ..Saved::default() };
        assert_eq!(
            saved.giving("d"),
            [
                "GRANT UPDATE ON TABLE \"s\".\"T\" TO PUBLIC",
                "GRANT DELETE, INSERT ON TABLE \"s\".\"T\" TO \"a\" WITH GRANT OPTION",
                "SET LOCAL ROLE \"a\"; GRANT INSERT ON TABLE \"s\".\"T\" TO \"b\" WITH GRANT OPTION; RESET ROLE",
                "SET LOCAL ROLE \"b\"; GRANT INSERT ON TABLE \"s\".\"T\" TO \"c\"; RESET ROLE",
            ]
        );
    }

    #[test]
    fn a_right_of_unknown_descent_is_not_left_out() {
        let rights = [right("x", Some("c"), "INSERT", false)];
        let saved = Saved { rights: rights.into_iter().collect(), ..Saved::default() };
        assert_eq!(saved.giving("d").len(), 1);
    }
}
