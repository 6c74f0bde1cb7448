//! Disks that are full, and hooks that do not do what they should.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, Instant};

use irongate_checkpoint::State;
use irongate_manager::event::Kind;
use irongate_manager::supervisor::Word;

use crate::site::{Site, until};

#[tokio::test]
async fn extract_stops_before_its_trail_s_disk_is_full_and_comes_back_by_itself() {
    let mut site = Site::new(&[("a", "work", true), ("b", "work", true)]);
    site.settings["trail"] = site.dir.path().join("trail/f").to_str().unwrap().into();
    let manager = site.start().await;
    site.until_state("a", State::Running).await;
    // No disk has so much.
    site.settings["trail_free_bytes"] = 1e18.into();
    site.write();
    site.control().reload().await.unwrap();
    let held = until("it rests", async || {
        Some(site.group("a").await).filter(|group| group.state == State::Stopped && group.pid.is_none())
    })
    .await;
    assert!(held.held.as_deref().unwrap().contains("has room for"), "{held:?}");
    assert!(held.doing.starts_with("held back: "), "{held:?}");
    assert_eq!(site.group("b").await.state, State::Running, "others go on");
    let start = site.control().order(Word::Start, &["a".to_owned()], Duration::from_secs(1)).await.unwrap();
    assert!(!start[0].done, "{start:?}");
    let info = site.info().await;
    assert!(info.complaints.iter().any(|text| text.contains("has room for")), "{:?}", info.complaints);
    assert_eq!(info.seen.alarms.len(), 1, "{:?}", info.seen.alarms);
    site.settings["trail_free_bytes"] = 1.into();
    site.write();
    site.control().reload().await.unwrap();
    site.until_state("a", State::Running).await;
    assert_eq!(site.events(Kind::Held).await.len(), 1);
    assert_eq!(site.events(Kind::Released).await.len(), 1);
    site.stop(manager).await;
}

#[tokio::test]
async fn a_state_directory_that_is_full_is_reported_and_supervision_goes_on() {
    let mut site = Site::new(&[("a", "work", true), ("b", "work", true)]);
    let manager = site.start().await;
    site.until_state("a", State::Running).await;
    site.stop(manager).await;
    std::fs::remove_file(site.own().join("events.jsonl")).unwrap();
    symlink("/dev/full", site.own().join("events.jsonl")).unwrap();
    symlink("/dev/full", site.own().join("desired.json.new")).unwrap();
    let manager = site.start().await;
    site.until_state("a", State::Running).await;
    let stop = site.order(Word::Stop, "a").await;
    assert!(stop.done, "{stop:?}");
    assert!(stop.unsaved.as_deref().unwrap().contains("No space left"), "{stop:?}");
    let info = site.info().await;
    assert!(!info.healthy && info.unwritten_events > 0, "{info:?}");
    assert!(info.complaints.iter().any(|text| text.contains("cannot be saved")), "{:?}", info.complaints);
    let trouble = site.events(Kind::Trouble).await;
    assert_eq!(trouble.len(), 2, "each is told once: {trouble:?}");
    // There is room again, and nobody has to do anything.
    std::fs::remove_file(site.own().join("events.jsonl")).unwrap();
    std::fs::remove_file(site.own().join("desired.json.new")).unwrap();
    until("it is saved", async || site.info().await.healthy.then_some(())).await;
    let saved = std::fs::read_to_string(site.own().join("desired.json")).unwrap();
    assert!(saved.contains("\"stop\""), "{saved}");
    assert!(site.own().join("events.jsonl").metadata().unwrap().len() > 0);
    site.stop(manager).await;
}

#[tokio::test]
async fn a_hook_that_hangs_or_fails_delays_nothing_and_is_reported() {
    let mut site = Site::new(&[("a", "work", true), ("bad", "abend", true)]);
    let hook = site.dir.path().join("hook");
    let out = site.dir.path().join("told");
    let text = format!(
        "#!/bin/sh\necho \"$IRONGATE_GROUP $IRONGATE_EVENT_KIND\" >> {}\n[ $IRONGATE_EVENT_KIND = abended ] && exec sleep 600\nexit 3\n",
        out.display()
    );
    std::fs::write(&hook, text).unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    site.settings["hook"] = hook.to_str().unwrap().into();
    let begin = Instant::now();
    let manager = site.start().await;
    site.until_state("a", State::Running).await;
    until("it abends", async || {
        Some(site.group("bad").await).filter(|group| group.doing.starts_with("abended: "))
    })
    .await;
    assert!(site.order(Word::Restart, "a").await.done);
    until("the hook was killed", async || {
        let failed = site.events(Kind::HookFailed).await;
        failed.iter().any(|text| text.contains("was killed")).then_some(())
    })
    .await;
    assert!(begin.elapsed() < Duration::from_secs(20));
    let told = std::fs::read_to_string(&out).unwrap();
    assert_eq!(told.lines().next(), Some("bad abended"));
    assert!(!told.contains("hook-failed"), "a hook is not told of itself: {told}");
    assert!(site.info().await.failed_hooks > 0);
    site.stop(manager).await;
}
