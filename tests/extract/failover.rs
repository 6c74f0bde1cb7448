//! The database fails over to another host of the URI: Extract goes on alone where nothing can be missing, and stops with
//! what to do everywhere else.

use std::sync::Arc;
use std::time::Duration;

use irongate_capture::positions::{Reason, TimelineProof};
use irongate_capture::{Error, slot};
use irongate_postgres::{Endpoint, SlotOptions};
use irongate_tests::{STANDBY_SLOT, Server, Settings, TempDir, wait_until};
use irongate_trail::{Begins, Directory, Reader};

use crate::support::{Running, SLOT, SOON, Site, TABLE};

/// The first version that synchronizes logical slots to standbys.
const SYNCED_SLOTS: u32 = 17;

/// A primary with a trail that is captured, and a standby of it.
struct Pair {
    site: Site,
    standby: Server,
}

impl Pair {
    /// With a slot that is synchronized to the standby, if `failover`.
    async fn new(major: u32, failover: bool) -> Self {
        let mut settings = Settings::new();
        if failover {
            settings = settings.set("sync_replication_slots", "on");
        }
        let mut server = Server::start(major, &settings).await;
        server
            .batch(&format!(
                "CREATE ROLE extract LOGIN REPLICATION; {TABLE}; CREATE PUBLICATION csp FOR TABLE t"
            ))
            .await;
        let mut standby = server.make_standby(&settings).await;
        standby.start_again().await;
        let site = Site { server, dir: TempDir::new() };
        let mut connection = site.connection().await;
        let storage = Arc::new(Directory::create(site.trail()).unwrap());
        let options = SlotOptions { failover, ..SlotOptions::default() };
        slot::create(&mut connection, SLOT, options, storage, "csp").await.unwrap();
        Self { site, standby }
    }

    /// Extract, which knows both hosts and wants the one that can be written.
    fn run(&self) -> Running {
        let [one, other] = [&self.site.server, &self.standby].map(|server| {
            let host = server.socket_dir().to_string_lossy().replace('/', "%2F");
            format!("{host}:{}", server.port())
        });
        let uri = format!("postgresql://extract@{one},{other}/postgres?target_session_attrs=read-write");
        let mut settings = self.site.settings();
        settings.source.endpoint = Endpoint::parse(&uri).unwrap();
        settings.source.machine.progress_interval = Duration::from_millis(200);
        Running::start(settings)
    }

    /// Waits until the standby has the slot, as far as it would survive a promotion.
    async fn slot_is_ready(&self) {
        let mut number = 1000;
        wait_until(SOON * 2, "the slot to be synchronized", async || {
            // Where nothing happens, nothing is synchronized.
            number += 1;
            self.site.server.batch(&format!("INSERT INTO t VALUES ({number}, 'while waiting')")).await;
            let question = format!(
                "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{SLOT}' AND synced AND NOT temporary \
                 AND invalidation_reason IS NULL"
            );
            self.standby.scalar("postgres", &question).await == "1"
        })
        .await;
    }

    async fn promote(&self) {
        self.standby.batch("SELECT pg_promote()").await;
    }

    /// The words of the rows in the trail that do not begin with "while".
    fn words(&self) -> Vec<String> {
        let told = self.site.told();
        let rows = told.iter().filter_map(|line| line.strip_prefix("I t "));
        rows.filter_map(|row| row.split_once(' '))
            .map(|(_, word)| word.to_owned())
            .filter(|word| !word.starts_with("while"))
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn extract_goes_on_alone_at_the_promoted_standby_and_nothing_is_missing() {
    for major in Server::majors().into_iter().filter(|major| *major >= SYNCED_SLOTS) {
        let mut pair = Pair::new(major, true).await;
        // The server then sends nothing that the standby does not have.
        pair.site.server.configure("synchronized_standby_slots", STANDBY_SLOT);
        pair.site.server.reload();
        let extract = pair.run();
        pair.site.server.batch("INSERT INTO t VALUES (1, 'before')").await;
        pair.slot_is_ready().await;
        for number in 2..50 {
            pair.site.server.batch(&format!("INSERT INTO t VALUES ({number}, 'word{number}')")).await;
        }
        let behind = "SELECT count(*) FROM t WHERE id < 1000";
        wait_until(SOON, "the standby to have all", async || {
            pair.standby.scalar("postgres", behind).await == "49"
        })
        .await;
        pair.site.server.kill();
        pair.promote().await;
        pair.standby.batch("INSERT INTO t VALUES (50, 'after')").await;
        wait_until(SOON * 2, "Extract to go on", async || {
            pair.words().last().is_some_and(|word| word == "after")
        })
        .await;
        let expected: Vec<_> = ["before".to_owned()]
            .into_iter()
            .chain((2..50).map(|number| format!("word{number}")))
            .chain(["after".to_owned()])
            .collect();
        assert_eq!(pair.words(), expected, "each once, and in order");
        let stopped = extract.stop().await;
        let storage = Arc::new(Directory::new(pair.site.trail()));
        let reader = Reader::open(storage, Begins::File(stopped.mark.position.seqno)).unwrap();
        assert_eq!(reader.lineage().timeline, 2, "the trail knows of the promotion");
        // And once more, from its own trail.
        let extract = pair.run();
        pair.standby.batch("INSERT INTO t VALUES (51, 'again')").await;
        wait_until(SOON, "another start", async || pair.words().last().is_some_and(|word| word == "again"))
            .await;
        extract.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_lacks_what_the_trail_has_is_refused() {
    for major in Server::majors().into_iter().filter(|major| *major >= SYNCED_SLOTS) {
        let mut pair = Pair::new(major, true).await;
        let extract = pair.run();
        pair.slot_is_ready().await;
        // The standby is away while the primary goes on, and Extract with it.
        pair.standby.stop(irongate_tests::Mode::Fast).await;
        pair.site.server.batch("INSERT INTO t VALUES (1, 'nowhere else')").await;
        wait_until(SOON, "the trail to have it", async || pair.words() == ["nowhere else"]).await;
        pair.site.server.kill();
        pair.standby.start_again().await;
        pair.promote().await;
        let error = extract.fails().await;
        let Error::Refused(refusal) = &error else { panic!("{error}") };
        assert!(
            matches!(refusal.reason, Reason::OtherTimeline { lacks: TimelineProof::LeftAt(_), .. }),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("never had; compare"), "{:?}", error.hint());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_without_the_slot_stops_with_what_to_do() {
    for major in Server::majors() {
        let mut pair = Pair::new(major, false).await;
        let extract = pair.run();
        pair.site.server.batch("INSERT INTO t VALUES (1, 'before')").await;
        pair.site.wait_for_transactions(1).await;
        wait_until(SOON, "the standby to have it", async || {
            pair.standby.scalar("postgres", "SELECT count(*) FROM t").await == "1"
        })
        .await;
        pair.site.server.kill();
        pair.promote().await;
        let error = extract.fails().await;
        let Error::Refused(refusal) = &error else { panic!("{error}") };
        assert!(
            matches!(refusal.reason, Reason::MissingAfterPromotion { expected: 1, found: 2, .. }),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("sync_replication_slots"), "{:?}", error.hint());
        assert_eq!(pair.words(), ["before"]);
        let status =
            irongate_checkpoint::read_status(&pair.site.dir.path().join("state"), "csp_e").unwrap().unwrap();
        assert_eq!(status.state, irongate_checkpoint::State::Abended);
    }
}
