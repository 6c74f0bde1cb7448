//! What is not certain to be the lost site's, or may still change, is refused with what to do.

use irongate_tests::{Mode, Server};

use super::world::{Books, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_salvage_waits_for_nobody_and_takes_nothing_for_granted() {
    let major = Server::majors()[0];
    let mut world = World::new(major, "").await;
    let salvage = ["salvage", "main", "--out", "found"];
    let running = world.expect(3, &salvage).await.stderr;
    assert!(
        running.contains("group \"csp-extract\" runs") && running.contains("irongate stop csp-extract"),
        "{running}"
    );
    world.stop_extract().await;
    let running = world.expect(3, &salvage).await.stderr;
    assert!(running.contains("group \"csp-replicat\" runs"), "{running}");
    world.cut().await;
    let elsewhere = world.expect(2, &["salvage", "main", "--site", "secondary"]).await.stderr;
    assert!(elsewhere.contains("run it at site \"main\""), "{elsewhere}");
    world.expect(2, &["salvage", "secondary"]).await;
    world.expect(2, &["salvage", "main", "--database", "nothing"]).await;
    world.expect(2, &["salvage", "main", "--apply", "nothing", "--out", "x"]).await;
    world.expect(1, &["salvage", "main", "--apply", "nothing"]).await;
    assert!(!world.path().join("found").exists());

    // Nothing lost is a salvage too, and is signed for.
    let (found, _) = world.salvage(0, "nothing-lost", &[]).await;
    assert_eq!(found.xids().len(), 0);
    found.decide("discard", &[]);
    let apply = ["salvage", "main", "--apply", "nothing-lost", "--json"];
    let role = world.expect(3, &apply).await.stderr;
    assert!(role.contains("it has not been failed over") || role.contains("fail over first"), "{role}");
    world.fail_over().await;
    let done = world.expect(0, &apply).await.json();
    assert_eq!(done["applied"][0]["transactions"], 0);

    // A site that writes was not lost.
    world.secondary.batch_in("app", "UPDATE irongate.role SET live = 'main'").await;
    let live = world.expect(3, &salvage).await.stderr;
    assert!(live.contains("says that site \"main\" writes in epoch 2"), "{live}");
    world.secondary.batch_in("app", "UPDATE irongate.role SET live = 'secondary'").await;

    // Somebody who reads the slot would move it.
    let mut books = Books::open(&world.main).await;
    books.commit("INSERT INTO entry VALUES (1, 'lost')").await;
    let divergence = world.divergence().await;
    let checkpoint = "UPDATE irongate.checkpoint SET slot_incarnation = '0/1'";
    world.secondary.batch_in("app", checkpoint).await;
    let other = world.expect(3, &salvage).await.stderr;
    assert!(other.contains("slot created at 0/1") && other.contains("bring back the server"), "{other}");
    let gone = "DELETE FROM irongate.checkpoint";
    world
        .secondary
        .batch_in("app", &format!("CREATE TABLE saved AS TABLE irongate.checkpoint; {gone}"))
        .await;
    let none = world.expect(3, &salvage).await.stderr;
    assert!(none.contains("has no checkpoint of flow \"csp\""), "{none}");

    // Without the other site the point can be given by hand; what is there is then not known.
    world.secondary.stop(Mode::Fast).await;
    let unasked = world.expect(1, &salvage).await.stderr;
    assert!(unasked.contains("--divergence"), "{unasked}");
    let (found, printed) = world.salvage(0, "by-hand", &["--divergence", &divergence]).await;
    assert!(found.xids() == books.kept, "{printed}");
    assert_eq!(found.changes(books.kept[0])[0]["there"]["verdict"], "unknown");
    let script = std::fs::read_to_string(found.directory.join("replay.sql")).unwrap();
    assert!(script.contains("The live site was not asked"), "{script}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_takes_no_memory() {
    let major = *Server::majors().last().unwrap();
    let mut world = World::new(major, "").await;
    let mut books = Books::open(&world.main).await;
    world.cut().await;
    // Half a million characters of each row do not compress away on the way.
    let rows = "INSERT INTO toast SELECT n, (SELECT string_agg(md5(n::text || m), '') FROM generate_series(1, 4000) m), 'x'
                  FROM generate_series(1000, 1400) n";
    books.commit(rows).await;
    world.captured().await;
    world.kill_extract();
    books.commit(&rows.replace("1000, 1400", "2000, 2400")).await;
    world.fail_over().await;
    let mut process =
        irongate_tests::Process::irongate(world.path(), &["salvage", "main", "--out", "found", "--json"]);
    let mut peak = 0;
    while process.is_running() {
        peak = peak.max(process.peak_memory().unwrap_or(0));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let finished = process.finish(super::world::PATIENCE).await;
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    let length = std::fs::metadata(world.path().join("found/salvage.json")).unwrap().len();
    assert!(length > 90 << 20, "{length}");
    println!("{} MiB of changes with {} MiB of memory", length >> 20, peak >> 20);
    assert!(peak < 100 << 20, "{peak} bytes of memory");
    let found = super::world::Found::read(&world.path().join("found"));
    assert_eq!(found.xids(), books.kept);
}
