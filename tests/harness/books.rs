//! What the tests of plans share: the reference deployment with an application that keeps its own books.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::network::order::Way;
use crate::{Network, Plan, Process, Reference, SITES, Server, Tables, compare, say, wait_for, wait_until};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who the applications of the configuration database are.
pub const ACCESS: &str = "[access.config]\nroles = [\"app\"]\n";

/// An application that writes wherever it is let, and remembers what was acknowledged.
pub struct Application {
    over: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<i64>>,
}

impl Application {
    /// Begins to write, with numbers above `first`. It finds the site that lets it.
    pub fn start(servers: &[Server; 2], first: i64) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let addresses = servers.each_ref().map(|server| server.socket_uri("app", "config"));
        let stopped = Arc::clone(&over);
        let task = tokio::spawn(async move {
            let (mut acknowledged, mut n, mut site) = (Vec::new(), first, 0);
            while !stopped.load(Ordering::Relaxed) {
                site = 1 - site;
                let connected = tokio_postgres::connect(&addresses[site], tokio_postgres::NoTls).await;
                let Ok((client, connection)) = connected else {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    continue;
                };
                let connection = tokio::spawn(connection);
                while !stopped.load(Ordering::Relaxed) {
                    n += 1;
                    let insert = "INSERT INTO entry VALUES ('app', $1, nextval('numbers')::text)";
                    if client.execute(insert, &[&n]).await.is_err() {
                        break;
                    }
                    acknowledged.push(n);
                    // Up to 200 transactions in a second.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                connection.abort();
            }
            acknowledged
        });
        Self { over, task }
    }

    /// Ends; the numbers that were acknowledged.
    ///
    /// # Panics
    /// When it has panicked.
    pub async fn stop(self) -> Vec<i64> {
        self.over.store(true, Ordering::Relaxed);
        self.task.await.expect("the application does not panic")
    }
}

/// A reference deployment whose configuration database can change hands: both flows are set up, and the standby is closed.
///
/// # Panics
/// When a step does not do what it should.
pub async fn reference(major: u32) -> Reference {
    prepared(at_sites(Plan::new(major).more(ACCESS).control())).await
}

/// Gives the sites a network of their own each; where this machine or user gets none, they lie side by side.
///
/// # Panics
/// When there should be one, and is none.
pub fn at_sites(plan: Plan) -> Plan {
    match Network::start() {
        Ok(network) => {
            plan.at(network).link("ping_interval = \"1s\"\nsilence = \"4s\"\nconnect_timeout = \"3s\"\n")
        }
        Err(reason) => {
            say(&format!("the sites lie side by side: {reason}"));
            plan
        }
    }
}

/// Lists what the lost site has alone into a directory, decides the same for all of it (`replay`, `discard`), signs, and has
/// it carried out.
///
/// # Panics
/// When a step does not do what it should.
pub async fn salvage(reference: &Reference, directory: &str, decision: &str) {
    reference.expect("main", 0, &["salvage", "main", "--out", directory]).await;
    let found = reference.directory.path().join(directory);
    let forms = [found.join("decisions.toml"), found.join("config/decisions.toml")];
    let form = forms.iter().find(|form| form.exists()).expect("salvage writes a form");
    let text = std::fs::read_to_string(form).expect("a text");
    let text = text
        .replace("\"undecided\"", &format!("\"{decision}\""))
        .replace("signed_off_by = \"\"", "signed_off_by = \"DBA\"");
    std::fs::write(form, text).expect("the file is ours");
    reference.expect("main", 0, &["salvage", "main", "--apply", directory]).await;
}

/// Cuts the power of the main site: its server, its manager and its groups, all at once; nothing answers there any more.
pub fn power_off(reference: &mut Reference) {
    if let Some(network) = &reference.network {
        network.cut(Way::Both);
    }
    // What can be counted as sent.
    reference.kill("main");
    reference.servers[0].kill();
}

/// The main site has power again, and nothing is waited for.
pub async fn power_back(reference: &mut Reference) -> Process {
    if let Some(network) = &reference.network {
        network.mend(Way::Both);
    }
    reference.servers[0].start_again().await;
    reference.start("main", &["manager"])
}

/// The main site has power again: the server starts, and its manager, as its services would. Waits until it is told that
/// another site writes now, and is closed.
///
/// # Panics
/// When that takes too long.
pub async fn power_on(reference: &mut Reference) -> Process {
    let manager = power_back(reference).await;
    let roles = "SELECT live || ' ' || coalesce(run, 'free') FROM irongate.role";
    wait_until(PATIENCE, "the site that came back to be closed", async || {
        reference.servers[0].try_client("app", "config").await.is_err()
            && reference.servers[0].scalar("config", roles).await == "secondary free"
            && reference.start("main", &["health"]).finish(PATIENCE).await.code() != 1
    })
    .await;
    manager
}

/// The same with other plans.
///
/// # Panics
/// As [`reference()`].
pub async fn prepared(plan: Plan) -> Reference {
    let reference = plan.make().await;
    for server in &reference.servers {
        let rights = "CREATE ROLE app LOGIN; CREATE SEQUENCE numbers; GRANT ALL ON entry, numbers TO app";
        server.batch_in("config", rights).await;
    }
    for flow in ["csp", "css"] {
        let (site, notes) = if flow == "csp" { ("main", false) } else { ("secondary", true) };
        let said = reference.expect(site, 0, &["setup", flow]).await.stderr;
        assert_eq!(said.contains("begins when it is its turn"), notes, "{said}");
    }
    assert_eq!(slots(&reference, 1).await, "mss", "no log is kept for the reverse flow");
    reference.expect("secondary", 0, &["fence", "secondary"]).await;
    reference
}

/// Waits until everything runs but the reverse set; one terminal sees both sites.
///
/// # Panics
/// When it is not so.
pub async fn running(reference: &Reference) {
    wait_until(PATIENCE, "everything but the reverse set to run", async || {
        // As long as a site cannot be asked, the exit code says so.
        let info = reference.start("main", &["info", "--json"]).finish(PATIENCE).await.json();
        let groups = info["groups"].as_array().expect("groups are a list").clone();
        let reverse = groups.iter().filter(|group| group["flow"] == "css").count();
        let running = groups.iter().filter(|group| group["state"] == "RUNNING").count();
        reverse == 3 && running == groups.len() - reverse && running == 11
    })
    .await;
}

/// The flows that have a slot at a site.
///
/// # Panics
/// When it is not so.
pub async fn slots(reference: &Reference, site: usize) -> String {
    let sql = "SELECT coalesce(string_agg(right(slot_name, 3), ',' ORDER BY slot_name), '') FROM pg_replication_slots";
    reference.servers[site].scalar("config", sql).await
}

/// Waits until what is written at one site is at the other, and compares.
///
/// # Panics
/// When it is not so.
pub async fn follows(reference: &Reference, from: usize, mark: i64) {
    let sql = format!("INSERT INTO entry VALUES ('mark', {mark})");
    reference.servers[from].batch_in("config", &sql).await;
    let seen = format!("SELECT count(*) FROM entry WHERE site = 'mark' AND n = {mark}");
    wait_for(Duration::from_secs(30), &format!("mark {mark} at the other site"), async || {
        if reference.servers[1 - from].scalar("config", &seen).await == "1" {
            return Ok(());
        }
        Err(format!("{:?}", reference.groups(SITES[from]).await))
    })
    .await;
    // Whoever compares is at neither site.
    let [one, other] = reference.servers.each_ref().map(|server| server.socket_uri("postgres", "config"));
    compare(&one, &other, &Tables::All).await.assert_same();
}

/// Every acknowledged row is there; the key keeps it from being there twice.
///
/// # Panics
/// When it is not so.
pub async fn books(server: &Server, acknowledged: &[i64]) {
    assert!(!acknowledged.is_empty(), "the application has written nothing");
    let rows = server.rows("config", "SELECT n::text FROM entry WHERE site = 'app' ORDER BY n").await;
    let there: std::collections::BTreeSet<i64> =
        rows.iter().filter_map(|row| row[0].as_ref()?.parse().ok()).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|n| !there.contains(n)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
}

/// No number of the sequence came twice.
///
/// # Panics
/// When it is not so.
pub async fn numbers(server: &Server) {
    let twice = "SELECT count(*) - count(DISTINCT word) FROM entry WHERE site = 'app'";
    assert_eq!(server.scalar("config", twice).await, "0", "numbers of the sequence came twice");
}

/// Everything that a fence takes away, at one site.
///
/// # Panics
/// When it is not so.
pub async fn rights(server: &Server) -> String {
    let sql = "SELECT string_agg(line, ' ' ORDER BY line) FROM (
        SELECT format('%s:%s', relname, (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(relacl) a))
          FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S')
        UNION ALL SELECT format('%s:%s', rolname, rolcanlogin) FROM pg_roles WHERE rolname = 'app') s (line)";
    server.scalar("config", sql).await
}
