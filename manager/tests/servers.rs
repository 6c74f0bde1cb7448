//! The watch against real servers: heartbeats, slots in danger, sources that go away.

#![expect(
    clippy::unwrap_used,
    reason = "what is not as expected here fails the test, and the panic says where"
)]

#[path = "servers/server.rs"]
mod server;

use std::time::{Duration, Instant};

use irongate_manager::event::Kind;
use irongate_manager::settings::{FlowWatch, Thresholds};
use irongate_manager::watch::{AlarmKind, FlowView};
use irongate_manager::{Control, Manager, ManagerSettings};
use irongate_postgres::Endpoint;
use server::{Server, majors};

const SLOT: &str = "irongate_f";

/// A manager of a flow without groups, whose source is the server.
struct Site {
    control: Control,
    stop: tokio::sync::oneshot::Sender<()>,
    run: tokio::task::JoinHandle<Result<(), irongate_manager::Error>>,
    dir: tempfile::TempDir,
}

impl Site {
    async fn start(endpoint: Endpoint) -> Self {
        Self::made(endpoint, false).await
    }

    /// Of a flow that waits for its day, if it `waits`.
    async fn made(endpoint: Endpoint, waits: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = ManagerSettings::new("main", dir.path());
        settings.watch_interval = Duration::from_millis(100);
        settings.thresholds = Thresholds { patience: 1, ..Thresholds::default() };
        settings.flows = vec![FlowWatch {
            name: "f".into(),
            trail: None,
            extract: Some("f-extract".into()),
            pump: None,
            feed: None,
            replicat: None,
            source: Some(endpoint),
            site: None,
            slot: Some(SLOT.into()),
            purge: None,
            target: None,
            expects: None,
            heartbeat: Some(Duration::from_millis(100)),
            sequences: None,
            compare: None,
            waits,
        }];
        let control = Control::of(dir.path(), "main");
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let run = tokio::spawn(Manager::new(settings).run(async { drop(stopped.await) }));
        let site = Self { control, stop, run, dir };
        until("the manager answers", async || site.control.ping().await.ok()).await;
        site
    }

    async fn flow(&self) -> Option<FlowView> {
        self.control.info().await.unwrap().seen.flows.into_iter().next()
    }

    async fn until_alarm(&self, kind: AlarmKind) -> String {
        let what = format!("there is an alarm {kind:?}");
        until(&what, async || {
            let alarms = self.control.info().await.unwrap().seen.alarms;
            alarms.into_iter().find(|alarm| alarm.kind == kind).map(|alarm| alarm.text)
        })
        .await
    }

    async fn until_good(&self) {
        until("there is no alarm", async || {
            let info = self.control.info().await.unwrap();
            (info.seen.time.is_some() && info.seen.alarms.is_empty()).then_some(())
        })
        .await;
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.run.await.unwrap().unwrap();
    }
}

async fn until<T>(what: &str, mut is: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = is().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_take_ids_and_reach_the_slot_and_a_slot_and_its_server_are_watched() {
    for major in majors() {
        let server = Server::start(
            major,
            "max_slot_wal_keep_size = '96MB'\nmin_wal_size = '32MB'\nmax_wal_size = '32MB'",
        );
        let session = server.session().await;
        session
            .batch_execute(
                "CREATE TABLE public.filler (t text); CREATE ROLE irongate_extract LOGIN REPLICATION",
            )
            .await
            .unwrap();
        session
            .execute("SELECT pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput')", &[&SLOT])
            .await
            .unwrap();
        let site = Site::start(server.endpoint("irongate_extract")).await;
        // An idle database: only the heartbeat takes ids.
        let next_id = async || -> i64 {
            let question = "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::int8";
            session.query_one(question, &[]).await.unwrap().get(0)
        };
        let before = next_id().await;
        until("ids are taken", async || (next_id().await >= before + 3).then_some(())).await;
        let beats: i64 = session
            .query_one(
                "SELECT count(*) FROM pg_catalog.pg_logical_slot_peek_binary_changes($1, NULL, NULL, \
                 'proto_version', '1', 'publication_names', 'x', 'messages', 'true') \
                 WHERE position('irongate.heartbeat'::bytea IN data) > 0",
                &[&SLOT],
            )
            .await
            .unwrap()
            .get(0);
        assert!(beats >= 3, "{beats} heartbeats in the slot of PostgreSQL {major}");
        site.until_good().await;
        // The look into the slot above holds it for a moment.
        let is_left = |flow: &FlowView| flow.slot.as_ref().is_some_and(|slot| !slot.active);
        let flow = until("the heartbeat is seen", async || {
            site.flow().await.filter(|flow| flow.heartbeat.is_some() && is_left(flow))
        })
        .await;
        let slot = flow.slot.unwrap();
        assert!(slot.lost.is_none() && !slot.active && slot.retained_bytes.unwrap() > 0, "{slot:?}");
        // The limit is near, then passed.
        let write = async || {
            for statement in [
                "INSERT INTO public.filler SELECT repeat('x', 2000) FROM generate_series(1, 9000)",
                "SELECT pg_catalog.pg_switch_wal()",
                "CHECKPOINT",
            ] {
                session.batch_execute(statement).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        };
        until("the limit is near", async || {
            write().await;
            let alarms = site.control.info().await.unwrap().seen.alarms;
            alarms.into_iter().find(|alarm| alarm.kind == AlarmKind::SlotSafe)
        })
        .await;
        until("the slot is lost", async || {
            write().await;
            let alarms = site.control.info().await.unwrap().seen.alarms;
            let lost =
                |alarm: &irongate_manager::watch::Alarm| alarm.text.contains("must be instantiated again");
            alarms.into_iter().find(lost)
        })
        .await;
        // Without it, and then with a new one.
        session.execute("SELECT pg_catalog.pg_drop_replication_slot($1)", &[&SLOT]).await.unwrap();
        until("it is missed", async || {
            let said = site.until_alarm(AlarmKind::SlotState).await;
            said.contains("there is no such slot").then_some(())
        })
        .await;
        drop(session);
        server.down();
        let said = site.until_alarm(AlarmKind::SourceSilent).await;
        assert!(said.contains("does not answer"), "{said}");
        server.up();
        until("it answers again", async || site.flow().await.filter(|flow| flow.source_silent.is_none()))
            .await;
        let last = site.flow().await.unwrap().heartbeat;
        until("it beats again", async || site.flow().await.filter(|flow| flow.heartbeat != last)).await;
        let mut events = site.control.events(1000, false).await.unwrap();
        let mut kinds = Vec::new();
        while let Some(entry) = events.next().await.unwrap() {
            kinds.push(entry.notice.kind);
        }
        assert!(kinds.contains(&Kind::Alarm) && kinds.contains(&Kind::Cleared), "{kinds:?}");
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_that_is_started_by_hand_is_watched_from_then_on() {
    let major = *majors().last().unwrap();
    let server = Server::start(major, "");
    let session = server.session().await;
    session.batch_execute("CREATE ROLE irongate_extract LOGIN REPLICATION").await.unwrap();
    let site = Site::made(server.endpoint("irongate_extract"), true).await;
    let looked = async || {
        let before = site.control.info().await.unwrap().seen.time;
        until("it is looked again", async || {
            let time = site.control.info().await.unwrap().seen.time;
            (time.is_some() && time != before).then_some(())
        })
        .await;
        site.flow().await.unwrap()
    };
    let flow = looked().await;
    assert!(flow.slot.is_none() && flow.heartbeat.is_none() && flow.source_silent.is_none(), "{flow:?}");
    site.until_good().await;
    // A slot that is there keeps log, whoever waits for what; a standby is not written to for it.
    let create = "SELECT pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput')";
    session.execute(create, &[&SLOT]).await.unwrap();
    let seen = until("the slot is seen", async || looked().await.slot).await;
    assert!(seen.exists && seen.lost.is_none(), "{seen:?}");
    assert_eq!(looked().await.heartbeat, None);
    session.execute("SELECT pg_catalog.pg_drop_replication_slot($1)", &[&SLOT]).await.unwrap();
    until("it is gone without an alarm", async || looked().await.slot.is_none().then_some(())).await;
    site.until_good().await;
    // Its Extract runs: now the slot must be there, and there are heartbeats.
    let state = site.dir.path().to_owned();
    let lock = irongate_checkpoint::GroupLock::acquire(&state, "f-extract").unwrap();
    let status =
        irongate_checkpoint::Status::starting("f-extract", "f", irongate_checkpoint::Program::Extract);
    let publisher = irongate_checkpoint::Publisher::start(&state, status).unwrap();
    let said = site.until_alarm(AlarmKind::SlotState).await;
    assert!(said.contains("there is no such slot"), "{said}");
    until("it beats", async || site.flow().await.and_then(|flow| flow.heartbeat)).await;
    publisher.state(irongate_checkpoint::State::Stopped, "stopped as asked");
    drop((publisher, lock));
    site.until_good().await;
    until("the heart rests", async || looked().await.heartbeat.is_none().then_some(())).await;
    site.stop().await;
}
