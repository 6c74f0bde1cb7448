//! A server, a slot, a trail, and an Extract between them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use irongate_capture::{Error, Extract, Settings as ExtractSettings, Source, Stopped, slot};
use irongate_postgres::{Endpoint, ReplicationConnection, SlotOptions};
use irongate_tests::{Server, Settings, TempDir, wait_for, wait_until};
use irongate_trail::{Begins, Directory, Item, Reader, Relation, Value};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const SOON: Duration = Duration::from_secs(30);
pub(crate) const SLOT: &str = "irongate_csp";

/// A server with a published table `t`, a slot and a trail.
pub(crate) struct Site {
    pub(crate) server: Server,
    pub(crate) dir: TempDir,
}

impl Site {
    pub(crate) async fn new(major: u32, settings: &Settings, tables: &str) -> Self {
        let server = Server::start(major, settings).await;
        server
            .batch(&format!(
                "CREATE ROLE extract LOGIN REPLICATION; {tables}; CREATE PUBLICATION csp FOR TABLE {}",
                published(tables)
            ))
            .await;
        let site = Site { server, dir: TempDir::new() };
        let mut connection = site.connection().await;
        let storage = Arc::new(Directory::create(site.trail()).unwrap());
        slot::create(&mut connection, SLOT, SlotOptions::default(), storage, "csp").await.unwrap();
        site
    }

    pub(crate) async fn connection(&self) -> ReplicationConnection {
        ReplicationConnection::connect(&self.endpoint(), "test").await.unwrap()
    }

    /// A role that is no superuser.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::parse(&self.server.socket_uri("extract", "postgres")).unwrap()
    }

    pub(crate) fn trail(&self) -> PathBuf {
        self.dir.path().join("csp")
    }

    /// Values as text, so that a test can read them.
    pub(crate) fn source(&self) -> Source {
        Source { binary: false, ..Source::new(self.endpoint(), SLOT, vec!["csp".to_owned()]) }
    }

    pub(crate) fn settings(&self) -> ExtractSettings {
        let mut settings =
            ExtractSettings::new("csp_e", "csp", self.source(), self.trail(), self.dir.path().join("state"));
        settings.retry_first = Duration::from_millis(100);
        settings
    }

    pub(crate) fn run(&self) -> Running {
        Running::start(self.settings())
    }

    /// What the trail holds, a line an item.
    pub(crate) fn told(&self) -> Vec<String> {
        let mut reader = Reader::open(Arc::new(Directory::new(self.trail())), Begins::First).unwrap();
        let mut lines = Vec::new();
        while let Some(item) = reader.next().unwrap() {
            lines.extend(line(&item));
        }
        lines
    }

    /// A table as the trail describes it.
    pub(crate) fn relation(&self, name: &str) -> Arc<Relation> {
        let mut reader = Reader::open(Arc::new(Directory::new(self.trail())), Begins::First).unwrap();
        loop {
            match reader.next().unwrap() {
                Some(Item::Row { relation, .. }) if relation.name == name => return Arc::clone(relation),
                Some(_) => {}
                None => panic!("no row of \"{name}\" in the trail"),
            }
        }
    }

    /// Waits until the trail holds as many transactions.
    pub(crate) async fn wait_for_transactions(&self, count: usize) -> Vec<String> {
        wait_for(SOON, &format!("{count} transactions"), async || {
            let told = self.told();
            let found = told.iter().filter(|line| line.starts_with("commit")).count();
            if found >= count { Ok(told) } else { Err(format!("{found}: {told:?}")) }
        })
        .await
    }

    pub(crate) async fn confirmed_reaches_the_end(&self) {
        let lsn = self.server.scalar("postgres", "SELECT pg_current_wal_lsn()").await;
        self.confirmed_reaches(&lsn).await;
    }

    pub(crate) async fn confirmed_reaches(&self, lsn: &str) {
        wait_until(SOON, &format!("the slot to be told {lsn}"), async || {
            let question = format!(
                "SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
            );
            self.server.scalar("postgres", &question).await == "t"
        })
        .await;
    }
}

/// The names after each `CREATE TABLE`.
pub(crate) fn published(tables: &str) -> String {
    let names = tables.split("CREATE TABLE ").skip(1).filter_map(|text| text.split([' ', '(']).next());
    names.collect::<Vec<_>>().join(", ")
}

pub(crate) fn line(item: &Item<'_>) -> Option<String> {
    let value = |value: Value<'_>| match value {
        Value::Null => "null".to_owned(),
        Value::Unchanged => "unchanged".to_owned(),
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Value::Binary(bytes) => format!("{bytes:?}"),
    };
    Some(match item {
        Item::Begin(begin) => {
            format!("begin{}", begin.origin.as_ref().map_or(String::new(), |o| format!(" from {o}")))
        }
        Item::Row { relation, row } => {
            let tuple = row.new().or_else(|| row.old().map(irongate_trail::Old::tuple)).unwrap();
            let values: Vec<_> = tuple.values().map(value).collect();
            format!("{} {} {}", char::from(row.operation()), relation.name, values.join(" "))
        }
        Item::Truncate { relations, .. } => {
            format!("truncate {}", relations.iter().map(|r| r.name.as_str()).collect::<Vec<_>>().join(" "))
        }
        Item::Message(message) => {
            format!("message {} {}", message.prefix, String::from_utf8_lossy(message.content))
        }
        Item::Commit(commit) => format!("commit {}", commit.changes),
        Item::Progress(_) => return None,
    })
}

/// An Extract in a task of its own.
pub(crate) struct Running {
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) task: JoinHandle<Result<Stopped, Error>>,
}

impl Running {
    pub(crate) fn start(settings: ExtractSettings) -> Self {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(Extract::new(settings).run(async { _ = stopped.await }));
        Self { stop, task }
    }

    pub(crate) async fn stop(self) -> Stopped {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap()
    }

    /// As `kill -9` would end it, as far as a task can.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    pub(crate) async fn fails(self) -> Error {
        tokio::time::timeout(SOON, self.task).await.unwrap().unwrap().unwrap_err()
    }
}

pub(crate) const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, word text)";
