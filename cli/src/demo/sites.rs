//! Where the demo takes place: a directory, two servers in it, the same two databases in both, certificates, and a
//! configuration.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use irongate_deployment::Configuration;
use irongate_pump::certs;
use rand::Rng;

use super::binaries::Binaries;
use super::business::ROLE;
use super::server::Server;
use super::{DATABASE, FLOW, LOG, SCALE, SCHEMAS, SITES};
use crate::output;

const SCHEMA: &str = include_str!("schema.sql");
const SEED: &str = include_str!("seed.sql");
/// Keys do not collide: each site has its own numbers.
const LOG_SCHEMA: &str = "CREATE TABLE entry (site text, n bigint, word text NOT NULL, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (site, n))";

/// A directory that goes with the demo.
pub(super) struct Base(Option<tempfile::TempDir>);

impl Base {
    pub(super) fn new() -> anyhow::Result<Self> {
        // A short path, because a unix socket's may have 107 bytes only.
        let base = Some(std::env::temp_dir()).filter(|base| base.as_os_str().len() < 50);
        let base = base.unwrap_or_else(|| "/tmp".into());
        let directory = tempfile::Builder::new().prefix("irongate-demo-").tempdir_in(base)?;
        // The user of the servers passes through it.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711))?;
        Ok(Self(Some(directory)))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.as_ref().map_or(Path::new(""), tempfile::TempDir::path)
    }

    pub(super) fn keep(mut self) -> PathBuf {
        self.0.take().map(tempfile::TempDir::keep).unwrap_or_default()
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        let Some(directory) = self.0.take() else { return };
        let path = directory.path().to_owned();
        drop(directory);
        // An initdb that was interrupted may still write.
        for _ in 0..100 {
            if !path.exists() {
                return;
            }
            let _ = fs::remove_dir_all(&path);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The two servers.
pub(super) struct Sites {
    pub(super) main: Server,
    pub(super) secondary: Server,
}

impl Sites {
    pub(super) fn both(&self) -> [&Server; 2] {
        [&self.main, &self.secondary]
    }
}

pub(super) async fn servers(binaries: &Binaries, base: &Path) -> anyhow::Result<(Sites, String)> {
    let start = |site: &str| {
        let (binaries, directory) = (binaries.clone(), base.join(site));
        tokio::task::spawn_blocking(move || Server::start(&binaries, &directory))
    };
    let (main, secondary) = tokio::join!(start("main"), start("secondary"));
    let sites = Sites { main: main??, secondary: secondary?? };
    Ok((sites, format!("two servers, PostgreSQL {}, wal_level logical", binaries.version)))
}

/// The same schema at both sites; rows at the main site.
pub(super) async fn database(sites: &Sites) -> anyhow::Result<((), String)> {
    let make = async |server: &Server, sql: &str| -> anyhow::Result<u64> {
        server.client("postgres").await?.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await?;
        let client = server.client(DATABASE).await?;
        // A server can be built without it.
        let has_xml = client.query_one("SELECT '<a/>'::xml::text", &[]).await.is_ok();
        let sql = sql.replace("@XML@", if has_xml { "xml" } else { "text" });
        client.batch_execute(&sql.replace("@SCALE@", &SCALE.to_string())).await.map_err(said)?;
        let tables = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname = ANY ($1)";
        let count: i64 = client.query_one(tables, &[&SCHEMAS.as_slice()]).await?.try_get(0)?;
        Ok(count.unsigned_abs())
    };
    let both = format!("{SCHEMA}\n{SEED}");
    let (tables, _) = tokio::try_join!(make(&sites.main, &both), make(&sites.secondary, SCHEMA))?;
    let rows = "SELECT coalesce(sum(reltuples) FILTER (WHERE reltuples > 0), 0)::int8 FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname = ANY ($1)";
    let client = sites.main.client(DATABASE).await?;
    let rows: i64 = client.query_one(rows, &[&SCHEMAS.as_slice()]).await?.try_get(0)?;
    let evidence = format!("{tables} tables, {} rows at the main site", output::count(rows.unsigned_abs()));
    for server in sites.both() {
        server.client("postgres").await?.batch_execute(&format!("CREATE DATABASE {LOG}")).await?;
        server.client(LOG).await?.batch_execute(LOG_SCHEMA).await.map_err(said)?;
    }
    for server in sites.both() {
        let rights = format!(
            "CREATE ROLE {ROLE} LOGIN; GRANT USAGE ON SCHEMA config, stat TO {ROLE};
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA config, stat TO {ROLE};
             GRANT USAGE ON ALL SEQUENCES IN SCHEMA config, stat TO {ROLE}"
        );
        server.client(DATABASE).await?.batch_execute(&rights).await.map_err(said)?;
    }
    Ok(((), format!("{evidence}; a log that both sites write")))
}

/// With the server's own words, which the driver's error leaves out.
fn said(error: tokio_postgres::Error) -> anyhow::Error {
    let words = error.as_db_error().map(|error| error.message().to_owned());
    let error = anyhow::Error::from(error);
    match words {
        Some(words) => error.context(words),
        None => error,
    }
}

/// Writes the configuration as an operator would, and makes the certificates that it names.
pub(super) fn configure(base: &Path, sites: &Sites) -> anyhow::Result<PathBuf> {
    let password = base.join("password");
    let secret: String =
        rand::rng().sample_iter(rand::distr::Alphanumeric).take(24).map(char::from).collect();
    fs::write(&password, secret)?;
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
    let mut text = "# Made by irongate demo: the reference deployment, both sites on one machine.\n\
         [deployment]\nname = \"demo\"\nstate_directory = \"state-{site}\"\n\n\
         [link]\ncertificates = \"certs\"\nretry_delay = \"100ms\"\nretry_longest_delay = \"500ms\"\n\n\
         # In the demo everything is killed again and again.\n\
         [manager]\nwatch_interval = \"1s\"\nheartbeat_interval = \"1s\"\n\
         [manager.restart]\nattempts = 1000\ndelay = \"100ms\"\nlongest_delay = \"300ms\"\n\n"
        .to_owned();
    for (name, server) in SITES.into_iter().zip(sites.both()) {
        let (carries, commands) = (free_port()?, free_port()?);
        text += &format!(
            "[sites.{name}]\nlisten = \"127.0.0.1:{carries}\"\naddress = \"localhost:{carries}\"\n\
             control_listen = \"127.0.0.1:{commands}\"\ncontrol_address = \"localhost:{commands}\"\n\n"
        );
        for database in [DATABASE, LOG] {
            text += &format!(
                "[databases.{database}.{name}]\nuri = \"{}\"\npassword_file = \"password\"\nadmin_uri = \"{}\"\n\n",
                server.uri("", database),
                server.uri("postgres", database)
            );
        }
    }
    for (flow, database, from, to, tables) in [
        (FLOW, DATABASE, "main", "secondary", "\"config.*\", \"stat.*\""),
        ("css", DATABASE, "secondary", "main", "\"config.*\", \"stat.*\""),
        ("msp", LOG, "main", "secondary", "\"public.*\""),
        ("mss", LOG, "secondary", "main", "\"public.*\""),
    ] {
        text += &format!(
            "[flows.{flow}]\ndatabase = \"{database}\"\nfrom = \"{from}\"\nto = \"{to}\"\ntables = [{tables}]\n\
             autostart = {}\n[flows.{flow}.pump]\n[flows.{flow}.extract]\nfile_size = \"4MiB\"\n\
             retry_delay = \"100ms\"\nretry_longest_delay = \"1s\"\n[flows.{flow}.replicat]\nretry_delay = \"100ms\"\n\n",
            flow != "css"
        );
    }
    text += &format!("[access.{DATABASE}]\nroles = [\"{ROLE}\"]\n");
    let file = base.join("irongate.toml");
    fs::write(&file, text)?;
    let configuration = Configuration::read(&file)?;
    let names: Vec<&str> = configuration.sites.iter().map(String::as_str).collect();
    certs::make(&base.join("certs"), &configuration.name, &names)?;
    Ok(file)
}

/// A port that nobody listens on just now.
fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
