//! What the flow's own roles must be allowed to do, and what of it is lacking.
//!
//! The questions name the role and can be asked by anybody, so that the same code serves the preflight (as the role
//! itself) and set-up (as the administrator, before the role exists).

use std::collections::BTreeMap;

use irongate_checkpoint::{CHECKPOINT_SCHEMA, LOAD_TABLES, checkpoint_setup, load_setup, origin_grants};
use irongate_postgres::Error;
use irongate_postgres::sql::{quote_identifier, quote_literal};
use tokio_postgres::Client;

use crate::configuration::TableName;

/// A right that a role lacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Lack {
    /// What the right is about.
    pub(crate) object: String,
    /// What cannot be done without it.
    pub(crate) reason: String,
    /// What the right is good for.
    pub(crate) why: &'static str,
    /// What gives it.
    pub(crate) sql: Vec<String>,
    /// The role gets by without it for now.
    pub(crate) optional: bool,
}

impl Lack {
    fn new(object: impl Into<String>, reason: String, why: &'static str, sql: String) -> Self {
        Self { object: object.into(), reason, why, sql: vec![sql], optional: false }
    }
}

/// A relation's OID and name.
pub(crate) type Named = (u32, TableName);

/// The rights of Extract's role at the source.
pub(crate) async fn of_extract(
    client: &Client,
    role: &str,
    tables: &[Named],
    sequences: &[Named],
) -> Result<Vec<Lack>, Error> {
    let mut lacks = connect(client, role).await?;
    lacks.extend(schemas(client, role, tables.iter().chain(sequences)).await?);
    let why = "Extract copies the tables at an initial load";
    lacks.extend(relations(client, role, "TABLE", &["SELECT"], tables, why).await?);
    let why = "Extract reads the sequences, which are never in the stream";
    lacks.extend(relations(client, role, "SEQUENCE", &["SELECT"], sequences, why).await?);
    Ok(lacks)
}

/// The rights of Replicat's role at the target.
pub(crate) async fn of_replicat(
    client: &Client,
    role: &str,
    tables: &[Named],
    sequences: &[Named],
) -> Result<Vec<Lack>, Error> {
    let mut lacks = connect(client, role).await?;
    lacks.extend(schemas(client, role, tables.iter().chain(sequences)).await?);
    let privileges = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"];
    let why = "Replicat applies every kind of change";
    lacks.extend(relations(client, role, "TABLE", &privileges, tables, why).await?);
    let why = "Replicat sets the sequences to the source's values";
    lacks.extend(relations(client, role, "SEQUENCE", &["SELECT", "UPDATE"], sequences, why).await?);
    let why = "Replicat's position stands in the same transaction as the rows";
    lacks.extend(own_table(client, role, "checkpoint", why, checkpoint_setup(role)).await?);
    for table in LOAD_TABLES {
        let why = "an initial load that is cut off goes on where it was";
        let lack = own_table(client, role, table, why, load_setup(role)).await?;
        if !lack.is_empty() {
            // One set of statements makes all three.
            lacks.extend(lack);
            break;
        }
    }
    lacks.extend(origins(client, role).await?);
    Ok(lacks)
}

/// Whether there is such a role. Functions that ask about rights raise an error where there is none.
async fn role_exists(client: &Client, role: &str) -> Result<bool, Error> {
    const SQL: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1::pg_catalog.text)";
    Ok(client.query_one(SQL, &[&role]).await?.try_get(0)?)
}

async fn connect(client: &Client, role: &str) -> Result<Vec<Lack>, Error> {
    // has_database_privilege raises an error for a role that is not there, and must not be reached then.
    const SQL: &str = "
        SELECT d.datname, CASE WHEN r.oid IS NULL THEN false
                               ELSE pg_catalog.has_database_privilege(r.oid, d.oid, 'CONNECT') END,
               coalesce(r.rolsuper OR r.oid = d.datdba, false)
               OR EXISTS (SELECT FROM pg_catalog.aclexplode(d.datacl) a
                           WHERE a.grantee = r.oid AND a.privilege_type = 'CONNECT')
          FROM pg_catalog.pg_database d
          LEFT JOIN pg_catalog.pg_roles r ON r.rolname = $1::pg_catalog.text
         WHERE d.datname = current_database()";
    let row = client.query_one(SQL, &[&role]).await?;
    let (database, may, explicitly): (String, bool, bool) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if explicitly {
        return Ok(Vec::new());
    }
    let reason = if may {
        format!(
            "role \"{role}\" may connect only because everybody may; a fence takes that away from everybody"
        )
    } else {
        format!("role \"{role}\" may not connect to database \"{database}\"")
    };
    let sql =
        format!("GRANT CONNECT ON DATABASE {} TO {}", quote_identifier(&database), quote_identifier(role));
    let why = "a right of its own survives a fence that takes everybody's away";
    let lack = Lack::new(format!("database \"{database}\""), reason, why, sql);
    Ok(vec![Lack { optional: may, ..lack }])
}

async fn schemas(
    client: &Client,
    role: &str,
    relations: impl Iterator<Item = &Named>,
) -> Result<Vec<Lack>, Error> {
    let (oids, mut names): (Vec<u32>, Vec<String>) =
        relations.map(|(oid, name)| (*oid, name.schema.clone())).unzip();
    names.extend(type_schemas(client, &oids).await?);
    names.sort_unstable();
    names.dedup();
    let lacking: Vec<String> = if role_exists(client, role).await? {
        const SQL: &str = "SELECT nspname::pg_catalog.text FROM pg_catalog.pg_namespace
             WHERE nspname = ANY ($2::pg_catalog.text[])
               AND NOT pg_catalog.has_schema_privilege($1::pg_catalog.text, oid, 'USAGE') ORDER BY 1";
        let rows = client.query(SQL, &[&role, &names]).await?;
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?
    } else {
        names
    };
    let lack = |schema: String| {
        let sql =
            format!("GRANT USAGE ON SCHEMA {} TO {}", quote_identifier(&schema), quote_identifier(role));
        let reason = format!("role \"{role}\" may not use the schema");
        let why = "tables and the types of their columns are found through their schemas";
        Lack::new(format!("schema \"{schema}\""), reason, why, sql)
    };
    Ok(lacking.into_iter().map(lack).collect())
}

/// Schemas of the types of relations' columns, down to those that domains and arrays consist of.
async fn type_schemas(client: &Client, relations: &[u32]) -> Result<Vec<String>, Error> {
    const SQL: &str = "
        WITH RECURSIVE type(oid) AS (
            SELECT a.atttypid FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = ANY ($1::pg_catalog.oid[]) AND a.attnum > 0 AND NOT a.attisdropped
             UNION
            SELECT CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.typelem END
              FROM type JOIN pg_catalog.pg_type t USING (oid)
             WHERE t.typtype = 'd' OR t.typcategory = 'A' AND t.typelem <> 0
        )
        SELECT DISTINCT n.nspname::pg_catalog.text
          FROM type JOIN pg_catalog.pg_type t USING (oid) JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
         WHERE n.nspname <> 'pg_catalog'";
    let rows = client.query(SQL, &[&relations]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

/// One entry for all relations that lack the same privileges.
async fn relations(
    client: &Client,
    role: &str,
    kind: &str,
    privileges: &[&str],
    relations: &[Named],
    why: &'static str,
) -> Result<Vec<Lack>, Error> {
    let mut lacking: BTreeMap<Vec<String>, Vec<&TableName>> = BTreeMap::new();
    if role_exists(client, role).await? {
        let function = if kind == "SEQUENCE" { "has_sequence_privilege" } else { "has_table_privilege" };
        let sql = format!(
            "SELECT o.oid, array(SELECT p FROM pg_catalog.unnest($3::pg_catalog.text[]) p
                                  WHERE NOT coalesce(pg_catalog.{function}($1::pg_catalog.text, o.oid, p), true))
               FROM pg_catalog.unnest($2::pg_catalog.oid[]) o(oid)"
        );
        let oids: Vec<u32> = relations.iter().map(|(oid, _)| *oid).collect();
        for row in client.query(&sql, &[&role, &oids, &privileges]).await? {
            let (oid, missing): (u32, Vec<String>) = (row.try_get(0)?, row.try_get(1)?);
            if let Some((_, name)) = relations.iter().find(|(known, _)| *known == oid)
                && !missing.is_empty()
            {
                lacking.entry(missing).or_default().push(name);
            }
        }
    } else if !relations.is_empty() {
        let all = privileges.iter().map(ToString::to_string).collect();
        lacking.insert(all, relations.iter().map(|(_, name)| name).collect());
    }
    let lack = |(privileges, names): (Vec<String>, Vec<&TableName>)| {
        let privileges = privileges.join(", ");
        let quoted: Vec<_> = names.iter().map(|name| name.quoted()).collect();
        let sql = format!("GRANT {privileges} ON {kind} {} TO {}", quoted.join(", "), quote_identifier(role));
        let shown: Vec<_> = names.iter().map(ToString::to_string).collect();
        let object = format!("{} {}", kind.to_lowercase(), shown.join(", "));
        Lack::new(object, format!("role \"{role}\" lacks {privileges}"), why, sql)
    };
    Ok(lacking.into_iter().map(lack).collect())
}

/// What a role lacks of a table in our schema.
async fn own_table(
    client: &Client,
    role: &str,
    table: &str,
    why: &'static str,
    sql: Vec<String>,
) -> Result<Vec<Lack>, Error> {
    const SQL: &str = "
        SELECT t.oid IS NOT NULL,
               CASE WHEN t.oid IS NULL OR r.oid IS NULL THEN false
                    ELSE pg_catalog.has_schema_privilege(r.oid, t.relnamespace, 'USAGE')
                     AND NOT EXISTS (SELECT FROM pg_catalog.unnest('{SELECT,INSERT,UPDATE,DELETE}'::pg_catalog.text[]) p
                                      WHERE NOT pg_catalog.has_table_privilege(r.oid, t.oid, p)) END
          FROM (SELECT) one
          LEFT JOIN (SELECT c.oid, c.relnamespace FROM pg_catalog.pg_class c
                       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                      WHERE n.nspname = $2::pg_catalog.text AND c.relname = $3::pg_catalog.text) t ON true
          LEFT JOIN pg_catalog.pg_roles r ON r.rolname = $1::pg_catalog.text";
    let row = client.query_one(SQL, &[&role, &CHECKPOINT_SCHEMA, &table]).await?;
    let (exists, may): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    if exists && may {
        return Ok(Vec::new());
    }
    let reason = if exists {
        format!("role \"{role}\" may not read and write it")
    } else {
        "it does not exist".to_owned()
    };
    Ok(vec![Lack { object: format!("table {CHECKPOINT_SCHEMA}.{table}"), reason, why, sql, optional: false }])
}

/// The functions of replication origins, and `session_replication_role`.
async fn origins(client: &Client, role: &str) -> Result<Vec<Lack>, Error> {
    let grants = origin_grants(role);
    let exists = role_exists(client, role).await?;
    let mut lacks = Vec::new();
    for sql in grants {
        // What is granted is read from the statement that grants it, so that the two cannot differ.
        let functions: Vec<&str> = sql
            .lines()
            .map(|line| line.trim().trim_end_matches(','))
            .filter(|line| line.starts_with("pg_catalog."))
            .collect();
        let (object, what, missing) = if functions.is_empty() {
            let question =
                "SELECT NOT pg_catalog.has_parameter_privilege($1, 'session_replication_role', 'SET')";
            let missing = !exists || client.query_one(question, &[&role]).await?.try_get(0)?;
            ("setting \"session_replication_role\"", "set it", missing)
        } else {
            let question = "SELECT EXISTS (SELECT FROM pg_catalog.unnest($2::pg_catalog.text[]) f
                 WHERE NOT pg_catalog.has_function_privilege($1::pg_catalog.text, f, 'EXECUTE'))";
            let missing = !exists || client.query_one(question, &[&role, &functions]).await?.try_get(0)?;
            ("functions of replication origins", "execute them", missing)
        };
        if missing {
            let reason = format!("role \"{role}\" may not {what}");
            let why = "what Replicat writes is marked, and triggers and foreign keys are silent for it";
            lacks.push(Lack::new(object, reason, why, sql));
        }
    }
    Ok(lacks)
}

/// The comment on roles and publications that set-up has made: only such ones are dropped by tear-down.
pub(crate) const MADE_BY_SETUP: &str = "made by irongate setup";

/// The role itself: what is lacking of it, and how to give it.
pub(crate) async fn role(client: &Client, role: &str, replication: bool) -> Result<Option<Lack>, Error> {
    let attributes = if replication { "LOGIN REPLICATION" } else { "LOGIN" };
    let quoted = quote_identifier(role);
    let object = format!("role \"{role}\"");
    let why = "a role of its own, which is no superuser";
    Ok(match irongate_postgres::catalog::role_facts(client, Some(role)).await? {
        None => Some(Lack {
            sql: vec![
                format!("CREATE ROLE {quoted} {attributes}"),
                format!("COMMENT ON ROLE {quoted} IS {}", quote_literal(MADE_BY_SETUP)),
            ],
            ..Lack::new(object, "it does not exist".into(), why, String::new())
        }),
        Some(facts) if !facts.login => {
            Some(Lack::new(object, "it may not log in".into(), why, format!("ALTER ROLE {quoted} LOGIN")))
        }
        Some(facts) if replication && !facts.replication && !facts.superuser => {
            let reason = "it may not open replication connections".into();
            Some(Lack::new(object, reason, why, format!("ALTER ROLE {quoted} REPLICATION")))
        }
        Some(_) => None,
    })
}

/// Whether set-up has made the role.
pub(crate) async fn is_ours(client: &Client, role: &str) -> Result<bool, Error> {
    const SQL: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles r
         WHERE r.rolname = $1::pg_catalog.text
           AND pg_catalog.shobj_description(r.oid, 'pg_authid') = $2::pg_catalog.text)";
    Ok(client.query_one(SQL, &[&role, &MADE_BY_SETUP]).await?.try_get(0)?)
}
