//! Applies a change of structure, within the target transaction of the rows before and behind it.
//!
//! The objects of one message can hang on each other, and so can what was dropped; in which order is not said. So each is
//! tried within a savepoint, and what is refused is tried again behind the others, as long as a round brings anything
//! forward. The last refusal is what is told.

use irongate_postgres::catalog::{
    EXTENSION_STRUCTURE, FUNCTION_STRUCTURE, SCHEMA_STRUCTURE, SEQUENCE_STRUCTURE, STRUCTURE_SETTINGS,
    TABLE_STRUCTURE, TYPE_STRUCTURE, VIEW_STRUCTURE,
};
use irongate_postgres::sql::{qualified, quote_identifier, quote_literal};
use irongate_trail::CommitLsn;

use super::flight::sort;
use super::postgres::Connection;
use super::{Failure, Mode};
use crate::batch::Batch;
use crate::ddl::difference::{Facets, Statement, alter, create, names, parts, replaced};
use crate::ddl::structure::{Object, Table};
use crate::ddl::{Dropped, Message};
use crate::error::{Error, Remedy};
use crate::settings::ReplicatSettings;

/// Settings besides those under which structure is described: bodies of functions are not looked into, since what they name
/// may come later.
const MORE: [(&str, &str); 1] = [("check_function_bodies", "off")];

/// One thing to bring about.
#[derive(Clone, Debug)]
enum Task {
    Object(Box<Object>),
    Drop(Dropped),
    Statement(String, Statement),
}

impl Task {
    fn title(&self) -> String {
        match self {
            Self::Object(object) => object.title(),
            Self::Drop(dropped) => format!("{} \"{}\"", dropped.kind, dropped.identity),
            Self::Statement(title, _) => title.clone(),
        }
    }
}

/// Why a task was not done.
enum Stop {
    /// The server refused a statement.
    Refused { statement: String, error: Box<irongate_postgres::Error> },
    /// It cannot be.
    Told { reason: String, fix: String },
    /// The connection or the moment.
    Failed(Failure),
}

impl From<tokio_postgres::Error> for Stop {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Failed(sort(error))
    }
}

impl Connection {
    /// Applies the message that a batch ends with.
    pub(super) async fn restructure(
        &mut self,
        batch: &Batch,
        content: &str,
        mode: Mode,
        settings: &ReplicatSettings,
    ) -> Result<(), Failure> {
        let Some(ddl) = &settings.ddl else { return Ok(()) };
        // Behind all changes of the batch: of the transaction that is open.
        let commit = batch.open_transaction().map_or(CommitLsn::default(), |begin| begin.commit_lsn);
        let refused = |tag: &str, object: String, reason: String, fix: &str| {
            let (tag, fix) = (tag.to_owned(), Box::new(Remedy(fix.to_owned())));
            Failure::Refused(Error::Structure { tag, object, reason, fix, commit })
        };
        let mut message = Message::parse(content).map_err(|reason| {
            let fix = "run the version of irongate that has set up the source, or run \"irongate setup\" with this one";
            refused("a command", "its message".to_owned(), reason, fix)
        })?;
        if message.flow != settings.flow {
            return Ok(());
        }
        let tag = message.tag.clone();
        if let Some(reason) = message.failed.take() {
            let fix = "make the same change at the target by hand, then move the flow past it: irongate position --to";
            return Err(refused(
                &tag,
                "the whole command".to_owned(),
                format!("the source could not describe it: {reason}"),
                fix,
            ));
        }
        if mode == Mode::Queue {
            let fix = "change the policy of the class that was refused; a change of structure cannot wait in the error queue";
            return Err(refused(
                &tag,
                "a transaction for the error queue".to_owned(),
                "it changes the structure".to_owned(),
                fix,
            ));
        }
        if !settings.names.schemas.is_empty() || !settings.names.tables.is_empty() {
            let fix = "leave out [flows.NAME.ddl] or [[flows.NAME.map]]";
            return Err(refused(&tag, "the flow".to_owned(), "it gives tables other names".to_owned(), fix));
        }
        for left in &message.left {
            let (sort, identity) = (left.sort.as_deref(), left.identity.as_deref());
            tracing::warn!(group = %settings.group, tag, sort, identity, "the DDL channel does not carry this: do it at the target too");
        }
        // A table that was copied later has the structure that it had then; an older one must not be made of it.
        message.objects.retain(
            |object| !matches!(object, Object::Table(table) if batch.has_structure(&table.schema, &table.name)),
        );
        message.dropped.retain(|dropped| {
            let schema = dropped.schema.as_deref().unwrap_or_default();
            // Older versions of the source's functions tell of TOAST tables' indexes.
            let is_systems = schema.starts_with("pg_") || schema == "information_schema";
            !is_systems && (dropped.kind != "table" || !batch.has_structure(schema, &dropped.name))
        });
        if let Some(owner) = &ddl.owner {
            message.objects.iter_mut().for_each(|object| object.set_owner(owner));
        }
        self.start(batch, settings, true).await?;
        let role = self.role().await.map_err(sort)?;
        let before = self.set(None).await.map_err(sort)?;
        let result = self.work_off(&message, &role, settings).await;
        if let Err((object, stop)) = result {
            return Err(match stop {
                Stop::Failed(failure) => failure,
                Stop::Told { reason, fix } => refused(&tag, object, reason, &fix),
                Stop::Refused { statement, error } => {
                    let about = message.objects.iter().find(|it| it.title() == object);
                    let fix = hint(&error, &statement, &role, about);
                    refused(&tag, object, said(&error), &fix)
                }
            });
        }
        self.set(Some(before)).await.map_err(sort)?;
        self.forget_tables();
        tracing::info!(group = %settings.group, tag, objects = message.objects.len(), dropped = message.dropped.len(), "structure changed");
        Ok(())
    }

    /// Puts the settings for descriptions in force and gives what held before, or puts that in force again.
    async fn set(&self, values: Option<Vec<String>>) -> Result<Vec<String>, tokio_postgres::Error> {
        let all = || STRUCTURE_SETTINGS.iter().chain(&MORE);
        let names: Vec<&str> = all().map(|(name, _)| *name).collect();
        const NOW: &str = "SELECT pg_catalog.current_setting(s) FROM pg_catalog.unnest($1::pg_catalog.text[]) WITH ORDINALITY AS u(s, n) ORDER BY n";
        let client = self.session.client();
        let mut before = Vec::new();
        for row in client.query(NOW, &[&names]).await? {
            before.push(row.try_get(0)?);
        }
        let values =
            values.unwrap_or_else(|| all().map(|(_, value)| value.trim_matches('\'').to_owned()).collect());
        const SET: &str = "SELECT pg_catalog.set_config(name, value, true)
              FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) AS u(name, value)";
        client.query(SET, &[&names, &values]).await?;
        Ok(before)
    }

    /// Replicat's own role.
    async fn role(&self) -> Result<String, tokio_postgres::Error> {
        let row = self.session.client().query_one("SELECT session_user::pg_catalog.text", &[]).await?;
        row.try_get(0)
    }

    /// Does everything that a message asks for.
    async fn work_off(
        &self,
        message: &Message,
        role: &str,
        settings: &ReplicatSettings,
    ) -> Result<(), (String, Stop)> {
        let objects = message.objects.iter().cloned().map(|object| Task::Object(Box::new(object)));
        let tasks = objects.chain(message.dropped.iter().cloned().map(Task::Drop)).collect();
        let later = self.rounds(tasks, message, role, settings).await?;
        let more = self.rounds(later, message, role, settings).await?;
        debug_assert!(more.is_empty());
        Ok(())
    }

    /// Tries tasks again and again; what is to be done behind all of them.
    async fn rounds(
        &self,
        mut tasks: Vec<Task>,
        message: &Message,
        role: &str,
        settings: &ReplicatSettings,
    ) -> Result<Vec<Task>, (String, Stop)> {
        let mut later = Vec::new();
        while !tasks.is_empty() {
            let mut refused = Vec::new();
            let mut first = None;
            let count = tasks.len();
            for task in tasks {
                let title = task.title();
                let failed = |error: tokio_postgres::Error| (title.clone(), Stop::Failed(sort(error)));
                let client = self.session.client();
                client.batch_execute("SAVEPOINT irongate_structure").await.map_err(failed)?;
                match self.task(&task, message, role, settings).await {
                    Ok(then) => {
                        client.batch_execute("RELEASE irongate_structure").await.map_err(failed)?;
                        later.extend(
                            then.into_iter().map(|statement| Task::Statement(title.clone(), statement)),
                        );
                    }
                    Err(Stop::Refused { statement, error }) => {
                        client
                            .batch_execute("ROLLBACK TO irongate_structure; RELEASE irongate_structure")
                            .await
                            .map_err(failed)?;
                        tracing::debug!(title, statement, code = error.code(), "put off");
                        first.get_or_insert((title, Stop::Refused { statement, error }));
                        refused.push(task);
                    }
                    Err(stop) => return Err((title, stop)),
                }
            }
            if refused.len() == count
                && let Some(stop) = first
            {
                return Err(stop);
            }
            tasks = refused;
        }
        Ok(later)
    }

    async fn task(
        &self,
        task: &Task,
        message: &Message,
        role: &str,
        settings: &ReplicatSettings,
    ) -> Result<Vec<Statement>, Stop> {
        match task {
            // It goes with its constraint. Older versions of the source's functions tell of it nevertheless.
            Task::Drop(dropped) if self.is_of_constraint(dropped).await? => Ok(Vec::new()),
            Task::Drop(dropped) => self.run(&Statement::new(dropped.statement())).await.map(|()| Vec::new()),
            Task::Statement(_, statement) => self.run(statement).await.map(|()| Vec::new()),
            Task::Object(object) => self.object(object, message, role, settings).await,
        }
    }

    /// Runs statements that change an object, and describes it again.
    async fn after(
        &self,
        statements: Vec<Statement>,
        wanted: &Object,
        found: Object,
    ) -> Result<Object, Stop> {
        if statements.is_empty() {
            return Ok(found);
        }
        for statement in statements {
            self.run(&statement).await?;
        }
        Ok(self.find(wanted, wanted.schema(), wanted.name()).await?.unwrap_or(found))
    }

    /// Whether something that is to be dropped is the index of a constraint here.
    async fn is_of_constraint(&self, dropped: &Dropped) -> Result<bool, Stop> {
        const QUESTION: &str =
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
               JOIN pg_catalog.pg_namespace n ON n.oid = x.relnamespace
               JOIN pg_catalog.pg_constraint k ON k.conindid = x.oid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
              WHERE n.nspname = $1 AND x.relname = $2)";
        let Some(schema) = dropped.schema.as_deref().filter(|_| dropped.kind == "index") else {
            return Ok(false);
        };
        let row = self.session.client().query_one(QUESTION, &[&schema, &dropped.name]).await?;
        Ok(row.try_get(0)?)
    }

    /// Brings about an object; what is to be done when all are there.
    async fn object(
        &self,
        wanted: &Object,
        message: &Message,
        role: &str,
        settings: &ReplicatSettings,
    ) -> Result<Vec<Statement>, Stop> {
        let facets = Facets {
            indexes: message.has("indexes"),
            triggers: message.has("triggers"),
            comments: message.has("comments"),
            grants: message.has("grants"),
            owners: message.has("owners"),
        };
        if let Some(before) = wanted.before()
            && self.find(wanted, wanted.schema(), wanted.name()).await?.is_none()
            && self.find(wanted, before.schema.as_deref(), &before.name).await?.is_some()
        {
            for statement in names(wanted, before) {
                self.run(&statement).await?;
            }
        }
        let mut then = Vec::new();
        if self.find(wanted, wanted.schema(), wanted.name()).await?.is_none() {
            has_all_rows(wanted, message, settings)?;
            let work = create(wanted);
            for statement in work.now {
                self.run(&statement).await?;
            }
            self.hand_over(wanted, role).await?;
            then.extend(work.then);
        } else if let Object::Table(table) = wanted
            && table.lost
        {
            return Err(lost(table, settings));
        }
        let Some(found) = self.find(wanted, wanted.schema(), wanted.name()).await? else { return Ok(then) };
        let found = self.after(parts(wanted, &found), wanted, found).await?;
        let found = self.after(replaced(wanted, &found, facets), wanted, found).await?;
        let work = alter(wanted, &found, facets);
        for statement in work.now {
            self.run(&statement).await?;
        }
        then.extend(work.then);
        Ok(then)
    }

    /// Describes an object of the target, of a kind and under a name.
    async fn find(&self, kind: &Object, schema: Option<&str>, name: &str) -> Result<Option<Object>, Stop> {
        const RELATION: &str =
            "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = $2";
        const TYPE: &str =
            "SELECT t.oid FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
             WHERE n.nspname = $1 AND t.typname = $2";
        const FUNCTION: &str = "SELECT p.oid FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
             WHERE n.nspname = $1 AND p.proname = $2 AND pg_catalog.pg_get_function_identity_arguments(p.oid) = $3";
        const SCHEMA: &str = "SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1";
        const EXTENSION: &str = "SELECT oid FROM pg_catalog.pg_extension WHERE extname = $1";
        let client = self.session.client();
        let schema = schema.unwrap_or_default();
        let row = match kind {
            Object::Table(_) | Object::View(_) | Object::Sequence(_) => {
                client.query_opt(RELATION, &[&schema, &name]).await?
            }
            Object::Type(_) => client.query_opt(TYPE, &[&schema, &name]).await?,
            Object::Function(it) => client.query_opt(FUNCTION, &[&schema, &name, &it.arguments]).await?,
            Object::Schema(_) => client.query_opt(SCHEMA, &[&name]).await?,
            Object::Extension(_) => client.query_opt(EXTENSION, &[&name]).await?,
        };
        let Some(row) = row else { return Ok(None) };
        let oid: u32 = row.try_get(0)?;
        let question = match kind {
            Object::Table(_) => TABLE_STRUCTURE,
            Object::View(_) => VIEW_STRUCTURE,
            Object::Sequence(_) => SEQUENCE_STRUCTURE,
            Object::Type(_) => TYPE_STRUCTURE,
            Object::Function(_) => FUNCTION_STRUCTURE,
            Object::Schema(_) => SCHEMA_STRUCTURE,
            Object::Extension(_) => EXTENSION_STRUCTURE,
        };
        let question = format!("SELECT q.described::pg_catalog.text FROM ({question}) q(described)");
        let Some(row) = client.query_opt(&question, &[&oid]).await? else {
            return Err(Stop::Told {
                reason: format!("\"{schema}.{name}\" is something else at the target"),
                fix: "rename or drop it at the target, then start again".to_owned(),
            });
        };
        let text: String = row.try_get(0)?;
        serde_json::from_str(&text).map(Some).map_err(|error| Stop::Told {
            reason: format!("the target's catalog cannot be read: {error}"),
            fix: "this is a defect of irongate: report it".to_owned(),
        })
    }

    /// Runs a statement, and where it is refused, what there is instead.
    async fn run(&self, statement: &Statement) -> Result<(), Stop> {
        let role = statement.role.as_deref();
        let client = self.session.client();
        let mut sql = &statement.sql;
        for otherwise in &statement.otherwise {
            client.batch_execute("SAVEPOINT irongate_try").await?;
            match self.run_one(sql, role).await {
                Ok(()) => return Ok(client.batch_execute("RELEASE irongate_try").await?),
                Err(Stop::Refused { .. }) => {
                    client.batch_execute("ROLLBACK TO irongate_try; RELEASE irongate_try").await?;
                    sql = otherwise;
                }
                Err(stop) => return Err(stop),
            }
        }
        self.run_one(sql, role).await
    }

    async fn run_one(&self, sql: &str, role: Option<&str>) -> Result<(), Stop> {
        let client = self.session.client();
        tracing::debug!(sql, role, "structure");
        let as_role = match role {
            Some(role) => format!("SET LOCAL ROLE {}; ", quote_identifier(role)),
            None => String::new(),
        };
        let back = if role.is_some() { "; SET LOCAL ROLE NONE" } else { "" };
        let result = client.batch_execute(&format!("{as_role}{sql}{back}")).await;
        result.map_err(|error| match irongate_postgres::Error::from(error) {
            error if error.is_transient() => Stop::Failed(Failure::Lost(Error::Target(error))),
            error => Stop::Refused { statement: sql.to_owned(), error: Box::new(error) },
        })
    }

    /// Lets Replicat, and a flow that begins here, have what was just made.
    async fn hand_over(&self, made: &Object, role: &str) -> Result<(), Stop> {
        let (Some(schema), Some(owner)) = (made.schema(), made.owner()) else { return Ok(()) };
        let name = qualified(schema, made.name());
        let rights = match made {
            Object::Table(_) => "SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON TABLE",
            Object::Sequence(_) => "SELECT, UPDATE ON SEQUENCE",
            _ => return Ok(()),
        };
        // A right of its own: a fence takes away the owner's.
        let grant = format!("GRANT {rights} {name} TO {}", quote_identifier(role));
        self.run_one(&grant, Some(owner)).await?;
        const MAY_PUBLISH: &str =
            "SELECT coalesce(bool_or(pg_catalog.has_function_privilege(p.oid, 'EXECUTE')), false)
              FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
             WHERE n.nspname = 'irongate' AND p.proname = 'ddl_publish'";
        let client = self.session.client();
        let may_publish: bool = client.query_one(MAY_PUBLISH, &[]).await?.try_get(0)?;
        if may_publish && matches!(made, Object::Table(_)) {
            let name = quote_literal(&name);
            self.run_one(&format!("SELECT irongate.ddl_publish({name}::pg_catalog.regclass)"), None).await?;
        }
        Ok(())
    }
}

/// That a table which is not here has all its rows in the stream.
fn has_all_rows(wanted: &Object, message: &Message, settings: &ReplicatSettings) -> Result<(), Stop> {
    let Object::Table(table) = wanted else { return Ok(()) };
    if table.lost {
        return Err(lost(table, settings));
    }
    let Some(before) = &table.before else { return Ok(()) };
    let was_published = before.published.as_ref().is_some_and(|names| names.contains(&message.publication));
    if was_published && !table.sent && table.partition_key.is_none() {
        return Err(Stop::Told {
            reason:
                "the target does not have it, under its former name either, and its rows are not sent again"
                    .to_owned(),
            fix: format!("make the table at the target, or run \"irongate instantiate {}\"", settings.flow),
        });
    }
    Ok(())
}

fn lost(table: &Table, settings: &ReplicatSettings) -> Stop {
    let by_hand = format!(
        "make the change at the target and run \"irongate instantiate {} --truncate\"",
        settings.flow
    );
    if let Some(watcher) = &table.withheld {
        return Stop::Told {
            reason: format!(
                "it was rewritten, or came into the flow, with rows that the stream does not have, and the source did not send them again: its {watcher} fires in replica role too, and could have changed them"
            ),
            fix: format!(
                "{by_hand}; another time, disable it at the source for the transaction with the change, and the source sends such rows"
            ),
        };
    }
    Stop::Told {
        reason: "it was rewritten, or came into the flow, with rows that the stream does not have".to_owned(),
        fix: format!(
            "{by_hand}; with on_rewrite = \"send\" in [flows.{}.ddl] the source sends such rows",
            settings.flow
        ),
    }
}

/// What the server says, unless it can hold values of rows.
fn said(error: &irongate_postgres::Error) -> String {
    match error.code() {
        Some(code) if ["22", "P0", "XX"].iter().any(|class| code.starts_with(class)) => {
            format!("the server's message is withheld, since it can hold values (SQLSTATE {code})")
        }
        _ => error.to_string(),
    }
}

/// What mends a refusal of a statement about an object.
fn hint(error: &irongate_postgres::Error, statement: &str, role: &str, about: Option<&Object>) -> String {
    let owner = about.and_then(Object::owner).map(quote_identifier);
    let schema = about.and_then(Object::schema).map(quote_identifier);
    let role = quote_identifier(role);
    match (error.code(), owner, schema) {
        (Some("3F000"), Some(owner), Some(schema)) => format!(
            "run \"CREATE SCHEMA {schema} AUTHORIZATION {owner}; GRANT USAGE ON SCHEMA {schema} TO {role}\" at the target, then start again; another time, name the schema in [flows.NAME.ddl] schemas before it is made, or move a table into a schema of the flow (ALTER TABLE ... SET SCHEMA) before ATTACH PARTITION"
        ),
        (Some("42501"), Some(owner), Some(schema)) if error.to_string().contains("for schema") => format!(
            "run \"GRANT USAGE, CREATE ON SCHEMA {schema} TO {owner}; GRANT USAGE ON SCHEMA {schema} TO {role}\" at the target, then start again"
        ),
        (Some("42501"), Some(owner), _) => format!(
            "run \"GRANT {owner} TO {role}\" at the target (irongate setup does it), or name another owner in [flows.NAME.ddl], then start again"
        ),
        (Some("22023" | "42704"), Some(owner), _) if error.to_string().contains("role") => format!(
            "run \"CREATE ROLE {owner}\" at the target, or name another owner in [flows.NAME.ddl], then start again"
        ),
        _ => format!(
            "mend at the target what keeps this from being done, or do it by hand, then start again: {statement}"
        ),
    }
}
