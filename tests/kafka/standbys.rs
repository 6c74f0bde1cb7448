//! Two standbys of one database, each with a configuration of its own, fed by one topic.

use std::fs;
use std::time::Duration;

use irongate_tests::{Plan, Process, Reference, Server, Tables, TempDir, compare, wait_for};

use crate::support::shared;

const PATIENCE: Duration = Duration::from_secs(120);
const TABLES: &str = "CREATE TABLE entry (site text, n bigint, word text, at timestamptz DEFAULT now(), PRIMARY KEY (site, n))";

/// The second standby: its server, and what stands where it runs.
struct Other {
    server: Server,
    directory: TempDir,
}

impl Other {
    /// The configuration of the first pair with another server for its standby.
    async fn beside(reference: &Reference, major: u32) -> Self {
        let server = Server::start(major, &irongate_tests::Settings::new()).await;
        server.create_database("config").await;
        server.batch_in("config", TABLES).await;
        let directory = TempDir::new();
        let first = reference.directory.path();
        for name in ["password", "irongate.toml"] {
            fs::copy(first.join(name), directory.path().join(name)).unwrap();
        }
        let file = directory.path().join("irongate.toml");
        let text = fs::read_to_string(&file).unwrap();
        let standby =
            |server: &Server| server.uri("postgres", "config").split_once('@').unwrap().1.to_owned();
        let (from, to) = (standby(&reference.servers[1]), standby(&server));
        assert!(text.contains(&from), "{text}");
        let certificates = format!("certificates = \"{}\"", first.join("certs").display());
        let text = text.replace(&from, &to).replace("certificates = \"certs\"", &certificates);
        fs::write(&file, text).unwrap();
        Self { server, directory }
    }

    fn start(&self, words: &[&str]) -> Process {
        let words = [&["--site", "secondary"], words].concat();
        Process::spawn(Process::command(self.directory.path(), &words))
    }

    async fn expect(&self, words: &[&str]) {
        let finished = self.start(words).finish(PATIENCE).await;
        assert_eq!(finished.code(), 0, "{words:?}\n{}\n{}", finished.stdout, finished.stderr);
    }

    fn run(&self) -> [Process; 2] {
        ["csp-collector", "csp-replicat"].map(|group| self.start(&["run", group]))
    }
}

async fn end(processes: impl IntoIterator<Item = Process>) {
    for mut process in processes {
        process.terminate();
        assert!(process.wait(PATIENCE).await.success(), "{}", process.stderr());
    }
}

/// Small transactions of every kind, and a last one by which the rest is known to have arrived.
async fn write(source: &Server, mark: u32) {
    let many = format!(
        "DO $$ BEGIN FOR i IN 1..300 LOOP
             INSERT INTO entry VALUES ('{mark}', i, repeat('x', i % 90)), ('{mark} too', i, NULL);
             UPDATE entry SET word = word || '{mark}' WHERE n = 300 - i AND site <> 'mark';
             DELETE FROM entry WHERE site = '{mark} too' AND n % 3 = 0;
             COMMIT;
         END LOOP; END $$"
    );
    source.batch_in("config", &many).await;
    source.batch_in("config", &format!("INSERT INTO entry VALUES ('mark', {mark})")).await;
}

/// Waits until a standby has what was written last, and compares.
async fn same(source: &Server, standby: &Server, mark: u32) {
    let seen = format!("SELECT count(*) FROM entry WHERE site = 'mark' AND n = {mark}");
    wait_for(PATIENCE, &format!("mark {mark}"), async || {
        match standby.scalar("config", &seen).await.as_str() {
            "1" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
    let uris = [source, standby].map(|server| server.socket_uri("postgres", "config"));
    compare(&uris[0], &uris[1], &Tables::All).await.assert_same();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_standbys_follow_one_topic_at_their_own_pace_and_one_is_made_anew_from_it() {
    for major in Server::majors_in_turn() {
        standbys_of(major).await;
    }
}

async fn standbys_of(major: u32) {
    let (reference, kafka) = tokio::join!(Plan::new(major).make(), shared());
    let [source, standby] = &reference.servers;
    let file = reference.directory.path().join("irongate.toml");
    let text = fs::read_to_string(&file).unwrap();
    let section = format!(
        "[kafka]\nbrokers = {:?}\ntls = false\nreplication = 1\nmin_in_sync = 1\ntopic_prefix = \"standbys{major}\"\n\
         retry_delay = \"100ms\"\nretry_longest_delay = \"500ms\"\n",
        kafka.brokers
    );
    let text = text.replacen("[flows.csp.pump]\n", "[flows.csp.pump]\nvia = \"kafka\"\n", 1).replacen(
        "[sites.main]\n",
        &format!("{section}[sites.main]\n"),
        1,
    );
    fs::write(&file, text).unwrap();
    let other = Other::beside(&reference, major).await;

    // One first copy for both, through files, which stays for who comes later.
    reference.expect("main", 0, &["setup", "csp"]).await;
    let copy = reference.directory.path().join("copy");
    let copy = copy.to_str().unwrap();
    reference.expect("main", 0, &["export", copy, "csp", "--restart"]).await;
    reference.expect("secondary", 0, &["import", copy, "csp", "--truncate"]).await;
    other.expect(&["setup", "csp"]).await;
    other.expect(&["import", copy, "csp"]).await;
    let mut near: Vec<_> =
        ["csp-extract", "csp-pump"].map(|group| reference.start("main", &["run", group])).into();
    near.extend(["csp-collector", "csp-replicat"].map(|group| reference.start("secondary", &["run", group])));
    let there = other.run();
    write(source, 1).await;
    tokio::join!(same(source, standby, 1), same(source, &other.server, 1));

    // One is away while the other goes on, and catches up from the topic.
    end(there).await;
    write(source, 2).await;
    same(source, standby, 2).await;
    let there = other.run();
    write(source, 3).await;
    tokio::join!(same(source, standby, 3), same(source, &other.server, 3));

    // One has lost everything: its database, its trail and its notes.
    for mut process in there {
        process.kill();
        process.wait(PATIENCE).await;
    }
    fs::remove_dir_all(other.directory.path().join("state-secondary")).unwrap();
    other.server.batch_in("postgres", "DROP DATABASE config WITH (FORCE)").await;
    other.server.create_database("config").await;
    other.server.batch_in("config", TABLES).await;
    other.expect(&["setup", "csp"]).await;
    other.expect(&["import", copy, "csp"]).await;
    let there = other.run();
    write(source, 4).await;
    tokio::join!(same(source, standby, 4), same(source, &other.server, 4));
    end(near.into_iter().chain(there)).await;
}
