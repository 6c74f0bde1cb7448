//! `pg_dump`: which one, and what it says.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use irongate_checkpoint::CHECKPOINT_SCHEMA;
use irongate_postgres::{Endpoint, LIBPQ_VARIABLES, Session};
use tokio::process::Command;

use super::SchemaCopy;
use super::script::{Entry, entries};
use crate::end::{As, End};
use crate::error::Error;

/// Where distributions put the programs of a version, each below a directory of its own.
const PLACES: [(&str, &str); 2] = [("/usr/lib/postgresql", "bin"), ("/usr", "bin")];

/// A `pg_dump` and its major version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PgDump {
    pub(super) program: PathBuf,
    pub(super) major: u32,
}

/// The structure of a database, as it is before rows and behind them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Dump {
    pub(super) before: Vec<Entry>,
    pub(super) behind: Vec<Entry>,
}

/// The version that `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` tells.
fn major(said: &str) -> Option<u32> {
    let version = said.strip_prefix("pg_dump (PostgreSQL) ")?;
    let digits = version.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().ok()
}

async fn version_of(program: &Path) -> Result<u32, String> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let answer = tokio::time::timeout(Duration::from_secs(10), command.output()).await;
    let said = match answer {
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("it does not answer".to_owned()),
    };
    major(said.trim()).ok_or_else(|| "it does not say its version".to_owned())
}

/// Directories that may hold a `pg_dump`: those of the servers' own programs where these are on this machine, those of
/// distributions, and `PATH`.
async fn directories(sessions: [&Session; 2]) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for session in sessions {
        // Not everybody may ask; and the server may be on another machine.
        let asked = "SELECT setting FROM pg_catalog.pg_config WHERE name = 'BINDIR'";
        let answer = session.query_opt(asked, &[]).await.ok().flatten();
        all.extend(answer.and_then(|row| row.try_get::<_, String>(0).ok()).map(PathBuf::from));
    }
    for (above, below) in PLACES {
        let mut here: Vec<PathBuf> = std::fs::read_dir(above)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| above != "/usr" || entry.file_name().to_string_lossy().starts_with("pgsql-"))
            .map(|entry| entry.path().join(below))
            .collect();
        here.sort();
        all.extend(here);
    }
    all.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    all.retain(|directory| directory.is_absolute() && directory.join("pg_dump").is_file());
    all.dedup();
    all
}

/// Which one is taken: the oldest that knows both servers, else the oldest that knows the source.
fn chosen(mut found: Vec<PgDump>, source: u32, target: u32) -> Option<PgDump> {
    found.sort_by_key(|program| program.major);
    let least = |major: u32| found.iter().find(|program| program.major >= major).cloned();
    least(source.max(target)).or_else(|| least(source))
}

impl PgDump {
    /// Finds one that is at least as new as the source.
    pub(super) async fn find(
        how: &SchemaCopy,
        (source, at_source): (&End<'_>, &Session),
        at_target: &Session,
    ) -> Result<Self, Error> {
        let (wanted, there) =
            (at_source.server_version_num() / 10_000, at_target.server_version_num() / 10_000);
        let refused = |reason: String| Error::Schema {
            end: source.to_string(),
            reasons: vec![reason],
            remedy: format!(
                "install the client programs of PostgreSQL {wanted} or later on this machine, or name one with --pg-dump"
            ),
        };
        if let Some(program) = &how.pg_dump {
            let major = version_of(program)
                .await
                .map_err(|reason| refused(format!("\"{}\" cannot be used: {reason}", program.display())))?;
            if major < wanted {
                return Err(refused(format!(
                    "\"{}\" is of PostgreSQL {major}, and cannot read a server of PostgreSQL {wanted}",
                    program.display()
                )));
            }
            return Ok(Self { program: program.clone(), major });
        }
        let mut found = Vec::new();
        for directory in directories([at_source, at_target]).await {
            let program = directory.join("pg_dump");
            if let Ok(major) = version_of(&program).await {
                found.push(Self { program, major });
            }
        }
        let newest = found.iter().map(|program| program.major).max();
        chosen(found, wanted, there).ok_or_else(|| {
            refused(match newest {
                Some(newest) => format!(
                    "the pg_dump on this machine is of PostgreSQL {newest}, and cannot read a server of PostgreSQL {wanted}"
                ),
                None => "there is no pg_dump on this machine".to_owned(),
            })
        })
    }

    /// Dumps the structure of an end, under an exported snapshot if one is named.
    ///
    /// Neither the address nor its password stands in the arguments, which everybody on the machine can read.
    pub(super) async fn dump(
        &self,
        end: &End<'_>,
        how: &SchemaCopy,
        snapshot: Option<&str>,
        limit: Duration,
    ) -> Result<Dump, Error> {
        let login = end.address.admin.as_ref().unwrap_or_else(|| end.own_login());
        let section = async |section: &str| {
            let said = self.section(end, &login.endpoint, how, (section, snapshot), limit).await?;
            Ok::<_, Error>(entries(&said))
        };
        Ok(Dump { before: section("pre-data").await?, behind: section("post-data").await? })
    }

    async fn section(
        &self,
        end: &End<'_>,
        endpoint: &Endpoint,
        how: &SchemaCopy,
        (section, snapshot): (&str, Option<&str>),
        limit: Duration,
    ) -> Result<String, Error> {
        let failed = |reason: String| Error::Schema {
            end: end.to_string(),
            reasons: vec![format!("pg_dump cannot read it: {reason}")],
            remedy: format!(
                "it reads as {}, which must be allowed to lock every table of the database",
                if end.address.admin.is_some() { As::Admin } else { end.own() }
            ),
        };
        let environment =
            endpoint.libpq_environment("irongate schema").map_err(|error| end.failed("connect", error))?;
        let mut command = Command::new(&self.program);
        command
            .args(["--schema-only", "--section", section, "--encoding", "UTF8", "--no-password"])
            .args(["--no-tablespaces", "--no-table-access-method", "--no-security-labels"])
            .args(["--no-publications", "--no-subscriptions", "--exclude-schema", CHECKPOINT_SCHEMA])
            .args(["--lock-wait-timeout", &limit.as_millis().max(1).to_string()])
            .args((!how.owners).then_some("--no-owner"))
            .args((!how.privileges).then_some("--no-privileges"))
            .args(snapshot.iter().flat_map(|name| ["--snapshot", name]))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        for variable in LIBPQ_VARIABLES {
            command.env_remove(variable);
        }
        let output = command
            .env("LC_ALL", "C")
            .envs(environment)
            .output()
            .await
            .map_err(|error| failed(format!("\"{}\": {error}", self.program.display())))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let line = said.lines().find(|line| line.contains("error:")).unwrap_or("it ended without a word");
            return Err(failed(
                line.trim_start_matches("pg_dump: ").trim_start_matches("error: ").to_owned(),
            ));
        }
        String::from_utf8(output.stdout).map_err(|_| failed("its output is not UTF-8".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_program_is_taken_that_knows_both_servers_else_the_source() {
        assert_eq!(major("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(major("pg_dump (PostgreSQL) 19beta1"), Some(19));
        assert_eq!(major("something else"), None);
        let found = |majors: &[u32]| -> Vec<PgDump> {
            majors.iter().map(|major| PgDump { program: format!("{major}").into(), major: *major }).collect()
        };
        let cases: [(&[u32], u32, u32, Option<u32>); 5] = [
            (&[18, 15, 17], 15, 15, Some(15)),
            (&[18, 15, 17], 15, 16, Some(17)),
            (&[15, 16], 15, 18, Some(15)),
            (&[15, 16], 17, 15, None),
            (&[], 15, 15, None),
        ];
        for (majors, source, target, expected) in cases {
            let program = chosen(found(majors), source, target);
            assert_eq!(program.map(|program| program.major), expected, "{majors:?}");
        }
    }
}
