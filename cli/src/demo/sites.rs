//! Where the demo takes place: a directory, two servers in it, the same database in both, and a configuration.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::Rng;

use super::binaries::Binaries;
use super::server::Server;
use super::{DATABASE, FLOW, SCALE, SCHEMAS};
use crate::output;

const SCHEMA: &str = include_str!("schema.sql");
const SEED: &str = include_str!("seed.sql");

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
    Ok(((), evidence))
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

/// Writes the configuration as an operator would.
pub(super) fn configure(base: &Path, sites: &Sites) -> anyhow::Result<PathBuf> {
    let password = base.join("password");
    let secret: String =
        rand::rng().sample_iter(rand::distr::Alphanumeric).take(24).map(char::from).collect();
    fs::write(&password, secret)?;
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
    let address = |name: &str, server: &Server| {
        format!(
            "[databases.config.{name}]\nuri = \"{}\"\npassword_file = \"password\"\nadmin_uri = \"{}\"\n\n",
            server.uri("", DATABASE),
            server.uri("postgres", DATABASE)
        )
    };
    let text = format!(
        "# Made by irongate demo.\nsite = \"secondary\"\n\n\
         [deployment]\nname = \"demo\"\nstate_directory = \"state\"\n\n\
         [sites.main]\ndescription = \"the site that writes\"\n\n[sites.secondary]\ndescription = \"the live standby\"\n\n\
         {}{}[flows.{FLOW}]\ndatabase = \"config\"\nfrom = \"main\"\nto = \"secondary\"\n\
         tables = [\"config.*\", \"stat.*\"]\n\n\
         [flows.{FLOW}.extract]\nfile_size = \"4MiB\"\nretry_delay = \"100ms\"\n\n\
         [flows.{FLOW}.replicat]\nretry_delay = \"100ms\"\n",
        address("main", &sites.main),
        address("secondary", &sites.secondary),
    );
    let file = base.join("irongate.toml");
    fs::write(&file, text)?;
    Ok(file)
}
