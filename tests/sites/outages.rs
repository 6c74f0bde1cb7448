//! What is down for long, and what ends all at once: the standby, the line, a slot's share of the log, a manager, a whole
//! site.

use std::time::Duration;

use irongate_tests::network::order::Way;
use irongate_tests::{
    Mode, Network, Plan, Process, Reference, SITES, Server, Settings, wait_for, wait_until,
};
use serde_json::Value;

use super::full::told;
use super::{PATIENCE, stop};

const MANAGER: &str = "[manager]\nwatch_interval = \"200ms\"\nheartbeat_interval = \"500ms\"\n\
    [manager.restart]\ndelay = \"100ms\"\nlongest_delay = \"1s\"\n[manager.alarms]\n";

async fn running(test: &str, settings: Settings, alarms: &str) -> Option<(Reference, [Process; 2])> {
    let network = Network::start_or_skip(test)?;
    let plan = Plan::new(*Server::majors().last().unwrap()).at(network).settings(settings);
    let plan = plan.link("ping_interval = \"1s\"\nsilence = \"4s\"\nconnect_timeout = \"4s\"\n");
    let reference = plan.more(&format!("{MANAGER}{alarms}")).make().await;
    let managers = SITES.map(|site| reference.start(site, &["manager"]));
    reference.runs().await;
    Some((reference, managers))
}

async fn end(reference: &Reference, managers: [Process; 2], mark: i64) {
    reference.runs().await;
    reference.same(mark).await;
    for manager in managers {
        stop(manager).await;
    }
}

/// Writes log at the main site, about so many MiB.
async fn write(reference: &Reference, mebibytes: u64) {
    let client = reference.servers[0].client("config").await;
    for _ in 0..mebibytes {
        client
            .batch_execute("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1 << 20))")
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_down_for_long_is_alarmed_about_and_caught_up_with() {
    let test = "a_standby_that_is_down_for_long_is_alarmed_about_and_caught_up_with";
    let alarms = "lag_warning = \"2s\"\nlag_critical = \"5s\"\n";
    let Some((mut reference, managers)) = running(test, Settings::new(), alarms).await else { return };
    reference.servers[1].stop(Mode::Fast).await;
    for n in 0..200 {
        let insert = format!("INSERT INTO entry VALUES ('while it is down', {n}, repeat('x', 1000))");
        for database in ["config", "log"] {
            reference.servers[0].batch_in(database, &insert).await;
        }
    }
    let behind = "the target is behind by";
    told(&reference, "secondary", &[("alarm", "warning", behind), ("alarm", "error", behind)]).await;
    told(&reference, "secondary", &[("alarm", "warning", "the source does not answer")]).await;
    // The live site goes on, and its log is not kept for the standby.
    let groups = reference.groups("main").await;
    let forward: Vec<_> =
        groups.iter().filter(|g| ["csp", "msp"].contains(&g["flow"].as_str().unwrap_or_default())).collect();
    assert!(forward.len() == 4 && forward.iter().all(|group| group["state"] == "RUNNING"), "{groups:?}");
    wait_until(PATIENCE, "the slots to let go of the log", async || {
        let kept = "SELECT count(*) FROM pg_replication_slots \
                    WHERE pg_current_wal_lsn() - confirmed_flush_lsn > 1 << 20";
        reference.servers[0].scalar("config", kept).await == "0"
    })
    .await;
    // Nothing that waiting helps has ended.
    let groups = reference.groups("secondary").await;
    assert!(groups.iter().all(|group| group["state"] != "ABENDED"), "{groups:?}");
    reference.servers[1].start_again().await;
    told(&reference, "secondary", &[("alarm", "error", behind), ("cleared", "info", behind)]).await;
    end(&reference, managers, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_cut_for_long_is_found_out_by_both_sides_and_survived() {
    let test = "a_line_that_is_cut_for_long_is_found_out_by_both_sides_and_survived";
    let Some((reference, managers)) = running(test, Settings::new(), "").await else { return };
    let network = reference.network.as_ref().unwrap();
    for (round, way) in [Way::There, Way::Back, Way::Both].into_iter().enumerate() {
        network.cut(way);
        for n in 0..50 {
            for site in [0, 1] {
                let insert = format!("INSERT INTO entry VALUES ('cut {site}', {round} * 1000 + {n})");
                reference.servers[site].batch_in("log", &insert).await;
            }
        }
        for (site, pump) in [("main", "msp-pump"), ("secondary", "mss-pump")] {
            wait_for(PATIENCE, &format!("{pump} to notice that the line is cut ({way:?})"), async || {
                let pump = reference.json(site, &["info", pump]).await["groups"][0].clone();
                assert_ne!(pump["state"], "ABENDED", "{pump}");
                if pump["error"].is_string() { Ok(()) } else { Err(pump.to_string()) }
            })
            .await;
        }
        network.mend(way);
        reference.runs().await;
        reference.same(1 + round as i64).await;
    }
    end(&reference, managers, 9).await;
}

/// What is near its limit is alarmed about, and goes back when Extract is there again; what has passed it needs the
/// flow to be instantiated again, says so, and can be.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_near_its_limit_is_alarmed_about_and_one_that_is_lost_says_what_to_do() {
    let test = "a_slot_near_its_limit_is_alarmed_about_and_one_that_is_lost_says_what_to_do";
    let settings = Settings::new()
        .set("max_slot_wal_keep_size", "96MB")
        .set("max_wal_size", "64MB")
        .set("min_wal_size", "32MB");
    let alarms = "slot_safe_warning = \"64MiB\"\nslot_safe_critical = \"32MiB\"\n";
    let Some((reference, managers)) = running(test, settings, alarms).await else { return };
    let near = "its slot is lost after";
    reference.expect("main", 0, &["stop", "csp-extract"]).await;
    write(&reference, 60).await;
    told(&reference, "main", &[("alarm", "warning", near)]).await;
    reference.expect("main", 0, &["start", "csp-extract"]).await;
    // What is kept moves with the server's checkpoints.
    wait_for(PATIENCE, "the alarm to end", async || {
        reference.servers[0].batch_in("config", "CHECKPOINT").await;
        let events = reference.events("main").await;
        let is_over = events.iter().any(|event| {
            event["kind"] == "cleared" && event["text"].as_str().is_some_and(|text| text.contains(near))
        });
        if is_over { Ok(()) } else { Err(format!("{:?}", events.last())) }
    })
    .await;
    reference.same(1).await;

    reference.expect("main", 0, &["stop", "csp-extract"]).await;
    let mut lost = Value::Null;
    for _ in 0..60 {
        write(&reference, 8).await;
        reference.servers[0].batch_in("config", "CHECKPOINT").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let events = reference.events("main").await;
        if let Some(event) = events.iter().rev().find(|event| event["text"].to_string().contains("is lost ("))
        {
            lost = event.clone();
            break;
        }
    }
    assert!(lost["severity"] == "error" && lost["text"].to_string().contains("instantiated again"), "{lost}");
    told(
        &reference,
        "main",
        &[
            ("cleared", "info", near),
            ("alarm", "warning", near),
            ("alarm", "error", near),
            ("alarm", "error", "is lost ("),
        ],
    )
    .await;
    // It does not start again and again.
    reference.start("main", &["start", "csp-extract"]).finish(PATIENCE).await;
    let abended = wait_for(PATIENCE, "Extract to give up", async || {
        let extract = reference.json("main", &["info", "csp-extract"]).await["groups"][0].clone();
        if extract["state"] == "ABENDED" { Ok(extract) } else { Err(extract.to_string()) }
    })
    .await;
    let hint = abended["hint"].as_str().unwrap_or_default();
    assert!(hint.contains("instantiate"), "{abended}");
    // The log's own slot has been kept up with.
    for (site, group) in [("main", "msp-extract"), ("secondary", "mss-extract"), ("main", "mss-replicat")] {
        assert_eq!(reference.json(site, &["info", group]).await["groups"][0]["state"], "RUNNING", "{group}");
    }
    // What the hint says, and all is well.
    reference.servers[0].batch_in("config", "INSERT INTO entry VALUES ('missed', 1, 'by the slot')").await;
    reference.expect("main", 0, &["stop", "csp"]).await;
    reference.expect("secondary", 0, &["stop", "csp-replicat"]).await;
    reference.expect("main", 0, &["instantiate", "csp", "--truncate"]).await;
    // What it needs is not there yet: it waits, rather than give up.
    reference.expect("secondary", 4, &["start", "csp-replicat", "--wait", "2"]).await;
    let waits = reference.json("secondary", &["info", "csp-replicat"]).await["groups"][0].clone();
    assert!(
        waits["state"] == "STARTING" && waits["doing"].to_string().contains("waiting for the pump"),
        "{waits}"
    );
    reference.expect("main", 0, &["start", "csp"]).await;
    told(&reference, "main", &[("alarm", "error", "is lost ("), ("cleared", "info", "is lost (")]).await;
    end(&reference, managers, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_whose_power_is_cut_comes_back_as_it_was() {
    let test = "a_site_whose_power_is_cut_comes_back_as_it_was";
    let Some((mut reference, mut managers)) = running(test, Settings::new(), "").await else { return };
    for (round, site) in [(0, 0), (1, 1), (2, 0)] {
        let n = 100 * round;
        for (at, database) in [(0, "config"), (0, "log"), (1, "log")] {
            let insert =
                format!("INSERT INTO entry SELECT 'power {at}', {n} + i, 'x' FROM generate_series(1, 50) i");
            reference.servers[at].batch_in(database, &insert).await;
        }
        let place = reference.place(SITES[site]).unwrap().clone();
        place.kill(&["irongate", "postgres"]);
        reference.servers[site].kill();
        assert!(place.processes().is_empty(), "{:?}", place.processes());
        // The other site waits for it.
        tokio::time::sleep(Duration::from_millis(700)).await;
        let groups = reference.groups(SITES[1 - site]).await;
        assert!(groups.iter().all(|group| group["state"] != "ABENDED"), "{groups:?}");
        reference.servers[site].start_again().await;
        managers[site] = reference.start(SITES[site], &["manager"]);
        reference.runs().await;
        reference.same(round + 1).await;
    }
    end(&reference, managers, 9).await;
}

/// Whatever state each group was in, the next manager finds it so: the running ones run on as the same processes.
#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_was_killed_is_followed_by_one_that_finds_everything_as_it_was() {
    let test = "a_manager_that_was_killed_is_followed_by_one_that_finds_everything_as_it_was";
    let Some((reference, mut managers)) = running(test, Settings::new(), "").await else { return };
    reference.expect("secondary", 0, &["stop", "msp-replicat"]).await;
    let states = async || -> Vec<[Value; 3]> {
        let groups = reference.groups("secondary").await;
        groups.iter().map(|group| ["name", "state", "pid"].map(|key| group[key].clone())).collect()
    };
    let before = states().await;
    assert_eq!(before.iter().filter(|[_, state, _]| state == "RUNNING").count(), 4, "{before:?}");
    for _ in 0..3 {
        managers[1].kill();
        assert_eq!(states().await, before, "a manager's end is not that of its groups");
        managers[1] = reference.start("secondary", &["manager"]);
        wait_until(PATIENCE, "the next manager", async || {
            reference.start("secondary", &["health", "--pid"]).finish(PATIENCE).await.code() == 0
        })
        .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(states().await, before);
    }
    reference.expect("secondary", 0, &["start", "msp-replicat"]).await;
    end(&reference, managers, 1).await;
}
