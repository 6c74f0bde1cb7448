//! What is damaged or gone is named, with both ends; what is left elsewhere is found there.

use std::fs;
use std::os::unix::fs::FileExt;

use irongate_tests::Server;

use super::world::{Books, World};

async fn rows(books: &mut Books, from: usize, to: usize) {
    for n in from..to {
        books.commit(&format!("INSERT INTO entry VALUES ({n}, repeat('word ', 400))")).await;
    }
}

/// Changes one byte.
fn flip(path: &std::path::Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], offset).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_end_is_read_from_the_slot_and_a_lost_trail_as_far_as_the_slot_goes() {
    let major = Server::majors()[0];
    let mut world = World::new(major, "").await;
    let mut books = Books::open(&world.main).await;
    world.cut().await;
    rows(&mut books, 0, 20).await;
    world.captured().await;
    world.kill_extract();
    // As a power cut leaves what was appended and not synced, half of it; the transaction itself is in the slot.
    let trail = world.trail_files().pop().unwrap();
    let mut torn = fs::read(&trail).unwrap();
    let end = torn.len();
    torn.extend_from_within(end - 700..end - 300);
    fs::write(&trail, &torn).unwrap();
    rows(&mut books, 20, 30).await;
    world.fail_over().await;
    let before = world.state().await;
    let (found, _) = world.salvage(0, "torn", &[]).await;
    assert_eq!(found.xids(), books.kept);
    assert!(
        found.document["summary"]["notes"].to_string().contains("are no whole transaction"),
        "{}",
        found.report()
    );
    assert_eq!(world.state().await, before);

    // Without the trail the slot has what was never captured; what was is named as unknown, from the divergence on.
    let place = world.path().join("elsewhere");
    fs::rename(world.trail(), &place).unwrap();
    let (found, _) = world.salvage(4, "missing", &[]).await;
    assert_eq!(found.xids(), books.kept[20..]);
    let unknown = &found.unknown()[0];
    assert_eq!(unknown["from"], world.divergence().await);
    assert!(
        unknown["to"].is_string() && found.report().contains("THIS LIST IS NOT COMPLETE"),
        "{}",
        found.report()
    );
    assert!(found.report().contains("there is no trail in"));
    // And that has to be signed for.
    found.decide("discard", &[]);
    let apply = ["salvage", "main", "--apply", "missing", "--json"];
    let refused = world.expect(3, &apply).await.stderr;
    assert!(refused.contains("accept_unknown is not true"), "{refused}");
    let form = found.directory.join("decisions.toml");
    let text = fs::read_to_string(&form).unwrap().replace("accept_unknown = false", "accept_unknown = true");
    fs::write(&form, text).unwrap();
    let done = world.expect(0, &apply).await.json();
    assert_eq!(done["applied"][0]["discarded"], 10, "{done}");

    // With the trail and without the slot it is the other way round.
    fs::rename(&place, world.trail()).unwrap();
    world.main.batch_in("app", "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots").await;
    let (found, _) = world.salvage(4, "no-slot", &[]).await;
    assert_eq!(found.xids(), books.kept[..20]);
    assert!(
        found.unknown()[0]["why"].as_str().unwrap().contains("is not there any more"),
        "{}",
        found.report()
    );
    // A trail whose database cannot be asked is still read.
    world.main.stop(irongate_tests::Mode::Fast).await;
    let (found, _) = world.salvage(4, "no-server", &[]).await;
    assert_eq!(found.xids(), books.kept[..20]);
    assert!(found.unknown()[0]["why"].as_str().unwrap().contains("cannot be asked"), "{}", found.report());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_is_named_and_what_can_be_read_behind_it_is() {
    for major in Server::majors() {
        let mut world = World::new(major, "file_size = \"64KiB\"\n").await;
        let mut books = Books::open(&world.main).await;
        world.cut().await;
        rows(&mut books, 0, 150).await;
        world.captured().await;
        world.kill_extract();
        rows(&mut books, 150, 160).await;
        world.fail_over().await;
        let files = world.trail_files();
        assert!(files.len() >= 4, "{files:?}");
        let damaged = &files[files.len() - 3];
        flip(damaged, 30_000);
        let (found, _) = world.salvage(4, "flipped", &[]).await;
        let report = found.report();
        let name = damaged.file_name().unwrap().to_string_lossy();
        assert!(report.contains(&*name) && report.contains("is damaged at offset"), "{report}");
        // A piece is missing in the middle, from the damage to the end of its file, and it is said where.
        let xids = found.xids();
        assert!(xids.len() < books.kept.len() && xids.len() > 100, "{}", xids.len());
        let first = xids.iter().zip(&books.kept).take_while(|(one, other)| one == other).count();
        let gone = books.kept.len() - xids.len();
        assert_eq!(xids[first..], books.kept[first + gone..], "one piece");
        assert_eq!(found.unknown().len(), 1);
        let (from, to) =
            (found.unknown()[0]["from"].as_str().unwrap(), found.unknown()[0]["to"].as_str().unwrap());
        let lsn = |text: &str| text.parse::<irongate_trail::Lsn>().unwrap();
        for transaction in found.transactions() {
            let commit = lsn(transaction["commit_lsn"].as_str().unwrap());
            assert!(commit < lsn(from) || commit >= lsn(to), "{commit} between {from} and {to}");
        }
        // Where the slot still has it, nothing is missing.
        let slot = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";
        world.main.batch_in("app", slot).await;
        let (lost, _) = world.salvage(4, "no-slot", &[]).await;
        assert_eq!(lost.unknown().len(), 2, "{}", lost.report());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_where_the_slot_still_has_it_costs_nothing() {
    // The position is confirmed rarely, so that the slot has more than it must.
    let major = *Server::majors().last().unwrap();
    let mut world = World::new(major, "file_size = \"64KiB\"\nfeedback_interval = \"1h\"\n").await;
    let mut books = Books::open(&world.main).await;
    world.cut().await;
    let slot = "SELECT confirmed_flush_lsn FROM pg_replication_slots";
    let confirmed = world.main.scalar("app", slot).await;
    rows(&mut books, 0, 150).await;
    irongate_tests::wait_until(super::world::PATIENCE, "four files of a trail", async || {
        world.trail_files().len() >= 4
    })
    .await;
    world.kill_extract();
    let still = world.main.scalar("app", slot).await;
    let files = world.trail_files();
    flip(&files[files.len() - 3], 30_000);
    flip(&files[files.len() - 2], 30_000);
    world.fail_over().await;
    if still == confirmed {
        let (found, _) = world.salvage(0, "found", &[]).await;
        assert_eq!(found.xids(), books.kept);
        assert!(found.from("slot") > 20 && found.from("trail") > 20);
    } else {
        panic!("the slot went on from {confirmed} to {still}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_invalidated_says_why() {
    let major = *Server::majors().last().unwrap();
    let mut world = World::new(major, "").await;
    let mut books = Books::open(&world.main).await;
    world.cut().await;
    rows(&mut books, 0, 5).await;
    world.captured().await;
    world.kill_extract();
    rows(&mut books, 5, 10).await;
    world.main.configure("max_slot_wal_keep_size", "1MB");
    world.main.reload();
    for _ in 0..4 {
        world
            .main
            .batch_in(
                "app",
                "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000)), pg_switch_wal()",
            )
            .await;
    }
    world.main.batch_in("app", "CHECKPOINT").await;
    world.fail_over().await;
    let (found, printed) = world.salvage(4, "found", &[]).await;
    assert_eq!(found.xids(), books.kept[..5]);
    let why = printed["salvages"][0]["summary"]["unknown"][0]["why"].as_str().unwrap();
    assert!(why.contains("was invalidated"), "{why}");
}
