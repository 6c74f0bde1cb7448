//! Disks of trails that fill up: people are told in good time, what must stops in good order, and everything goes on
//! alone when there is room again.

use std::time::Duration;

use irongate_tests::network::order::Way;
use irongate_tests::{Mode, Network, Plan, Process, Reference, SITES, Server, wait_for};
use serde_json::Value;

use super::{PATIENCE, stop};

const MIB: u64 = 1 << 20;
/// Trails that go as soon as they may.
const TRAIL: &str = "keep = \"0s\"\nkeep_files = 1\n";
/// A manager that looks often.
const MANAGER: &str = "[manager]\nwatch_interval = \"200ms\"\nheartbeat_interval = \"500ms\"\n\
    [manager.restart]\ndelay = \"100ms\"\nlongest_delay = \"1s\"\n";

/// A deployment that runs, with a small disk for the trails of one site.
async fn small_disk(test: &str, site: &str, alarms: &str) -> Option<(Reference, [Process; 2])> {
    let network = Network::start_or_skip(test)?;
    let plan = Plan::new(Server::majors()[0]).at(network).disk(site, 32 * MIB).trail(TRAIL);
    let plan = plan.extract("file_size = \"1MiB\"\n").more(&format!("{MANAGER}[manager.alarms]\n{alarms}"));
    let reference = plan.make().await;
    let managers = SITES.map(|site| reference.start(site, &["manager"]));
    reference.runs().await;
    Some((reference, managers))
}

/// Writes so many MiB that no compression makes shorter into the configuration of the main site, in small transactions.
async fn write(reference: &Reference, first: u64, mebibytes: u64) {
    let client = reference.servers[0].client("config").await;
    for n in first..first + mebibytes * 8 {
        let insert = format!(
            "INSERT INTO entry SELECT 'large', {n} * 10 + i, \
                    (SELECT string_agg(md5(random()::text || i || j), '') FROM generate_series(1, 512) j) \
             FROM generate_series(0, 7) i"
        );
        client.batch_execute(&insert).await.unwrap();
    }
}

/// Waits until a site's events tell of all this, in this order, each as kind, severity and a part of its text; returns
/// the last.
pub(crate) async fn told(reference: &Reference, site: &str, expected: &[(&str, &str, &str)]) -> Value {
    wait_for(PATIENCE, &format!("{site} to tell of {expected:?}"), async || {
        let events = reference.events(site).await;
        let (mut left, mut last) = (expected, Value::Null);
        for event in &events {
            if let Some((kind, severity, text)) = left.first()
                && event["kind"] == *kind
                && event["severity"] == *severity
                && event["text"].as_str().is_some_and(|said| said.contains(text))
            {
                (left, last) = (&left[1..], event.clone());
            }
        }
        if left.is_empty() {
            return Ok(last);
        }
        let said: Vec<_> = events
            .iter()
            .map(|event| {
                format!("{} {} {}: {}", event["kind"], event["severity"], event["group"], event["text"])
            })
            .collect();
        Err(format!("{left:?} is missing in\n{}", said.join("\n")))
    })
    .await
}

/// What info says of one group.
async fn group(reference: &Reference, site: &str, name: &str) -> Value {
    reference.json(site, &["info", name]).await["groups"][0].clone()
}

/// The site is well, and both are the same.
async fn is_well(reference: &Reference, managers: [Process; 2], mark: i64) {
    reference.runs().await;
    reference.same(mark).await;
    for site in SITES {
        wait_for(PATIENCE, &format!("{site} to be healthy"), async || {
            let health = reference.start(site, &["health", "--json"]).finish(PATIENCE).await;
            if health.code() == 0 { Ok(()) } else { Err(health.stdout) }
        })
        .await;
    }
    for manager in managers {
        stop(manager).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn extract_rests_before_its_disk_is_full_and_goes_on_when_the_pump_has_made_room() {
    let test = "extract_rests_before_its_disk_is_full_and_goes_on_when_the_pump_has_made_room";
    let alarms = "trail_free_warning = \"24MiB\"\ntrail_free_critical = \"12MiB\"\n";
    let Some((reference, managers)) = small_disk(test, "main", alarms).await else { return };
    let network = reference.network.as_ref().unwrap();
    network.cut(Way::Both);
    write(&reference, 0, 60).await;
    let low = "the disk of its trail has room for";
    // Who has to act is held back at once; an alarm wants to see the same twice.
    let held = [
        ("alarm", "warning", low),
        ("held", "error", "it starts again when"),
        ("stopped", "info", "stopped"),
    ];
    told(&reference, "main", &held).await;
    told(&reference, "main", &[("alarm", "warning", low), ("alarm", "error", low)]).await;
    let held = group(&reference, "main", "csp-extract").await;
    assert_eq!(held["state"], "STOPPED", "in good order: {held}");
    // There is room left: nothing ran into the wall.
    let disk = rustix::fs::statvfs(network.site(0).path(&reference.trails("main"))).unwrap();
    let free = disk.f_bavail * disk.f_frsize;
    assert!(free > 4 * MIB, "{free}");
    reference.expect("main", 4, &["health"]).await;
    network.mend(Way::Both);
    told(&reference, "main", &[("released", "info", "no longer held back"), ("cleared", "info", low)]).await;
    is_well(&reference, managers, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_really_full_is_waited_out_and_named() {
    let test = "a_disk_that_is_really_full_is_waited_out_and_named";
    // Nobody is told, and nothing rests before.
    let alarms = "trail_free_warning = \"0B\"\ntrail_free_critical = \"0B\"\n";
    let Some((reference, managers)) = small_disk(test, "main", alarms).await else { return };
    let network = reference.network.as_ref().unwrap();
    network.cut(Way::Both);
    write(&reference, 0, 60).await;
    let full = wait_for(PATIENCE, "Extract to say what is wrong", async || {
        let extract = group(&reference, "main", "csp-extract").await;
        let said = extract["error"].as_str().unwrap_or_default().to_lowercase();
        if said.contains("space") || said.contains("full") { Ok(extract) } else { Err(extract.to_string()) }
    })
    .await;
    assert_ne!(full["state"], "ABENDED", "waiting helps: {full}");
    assert!(full["hint"].as_str().is_some_and(|hint| hint.contains("space")), "{full}");
    network.mend(Way::Both);
    is_well(&reference, managers, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_with_a_full_disk_holds_back_the_pump_until_there_is_room() {
    let test = "a_collector_with_a_full_disk_holds_back_the_pump_until_there_is_room";
    let alarms = "trail_free_warning = \"16MiB\"\ntrail_free_critical = \"4MiB\"\n";
    let Some((mut reference, managers)) = small_disk(test, "secondary", alarms).await else { return };
    // The standby is down, so nothing that arrives is used up.
    reference.servers[1].stop(Mode::Fast).await;
    write(&reference, 0, 60).await;
    let low = "the disk of its trail has room for";
    told(&reference, "secondary", &[("alarm", "warning", low), ("alarm", "error", low)]).await;
    // It holds before the disk is full, says so, and keeps the link.
    wait_for(PATIENCE, "the collector to say that it holds", async || {
        let report = reference.expect("secondary", 0, &["report", "secondary-collector"]).await.stdout;
        if report.contains("nothing more is taken") { Ok(()) } else { Err(report) }
    })
    .await;
    let network = reference.network.as_ref().unwrap();
    let disk = rustix::fs::statvfs(network.site(1).path(&reference.trails("secondary"))).unwrap();
    assert!(disk.f_bavail > 0, "something ran into the wall");
    let pump = group(&reference, "main", "csp-pump").await;
    assert!(pump["state"] == "RUNNING" && pump["lag_bytes"].as_u64() > Some(MIB), "it waits: {pump}");
    // Capture goes on meanwhile.
    assert_eq!(group(&reference, "main", "csp-extract").await["state"], "RUNNING");
    tokio::time::sleep(Duration::from_secs(1)).await;
    reference.servers[1].start_again().await;
    told(&reference, "secondary", &[("cleared", "info", low)]).await;
    is_well(&reference, managers, 1).await;
}
