//! A lost site is made a copy by repair: only what differs is carried over, while the other site goes on.

use std::path::PathBuf;
use std::time::Duration;

use irongate_tests::books::{
    ACCESS, Application, at_sites, books, follows, numbers, power_off, power_on, prepared, running, slots,
};
use irongate_tests::{Cut, Plan, Process, Reference, SITES, Server, Tier, wait_until};
use serde_json::Value;

use super::deployment::{PATIENCE, stop};

/// A table without a key, one in partitions, with identities, with columns that the server fills in, and one whose values
/// go round.
const TABLES: &str = "CREATE TABLE note (word text, n int); ALTER TABLE note REPLICA IDENTITY FULL;
    CREATE TABLE part (id int, k text, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
    CREATE TABLE part_a PARTITION OF part FOR VALUES IN ('a');
    CREATE TABLE part_b PARTITION OF part FOR VALUES IN ('b');
    CREATE TABLE ident (k text PRIMARY KEY, id bigint GENERATED ALWAYS AS IDENTITY, v text);
    CREATE TABLE gen (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED);
    CREATE TABLE seat (id int PRIMARY KEY, place int NOT NULL UNIQUE, guest text);
    CREATE TABLE still (id int PRIMARY KEY, v text)";

/// What both sites have before the disaster.
const BEFORE: &str = "INSERT INTO note SELECT 'same', n % 7 FROM generate_series(1, 60) n;
    INSERT INTO part SELECT n, CASE WHEN n % 2 = 0 THEN 'a' ELSE 'b' END, 'old' FROM generate_series(1, 400) n;
    INSERT INTO ident (k, v) SELECT 'k' || n, 'old' FROM generate_series(1, 50) n;
    INSERT INTO gen (id, a) SELECT n, n FROM generate_series(1, 50) n;
    INSERT INTO seat SELECT n, n, 'nobody' FROM generate_series(1, 40) n;
    INSERT INTO still SELECT n, 'as it was' FROM generate_series(1, 900) n";

/// What the lost site commits and never sends.
pub(super) const ALONE: &str = "INSERT INTO note SELECT 'same', 3 FROM generate_series(1, 4); DELETE FROM note WHERE n = 5;
    INSERT INTO note VALUES ('lost', NULL), (NULL, 1);
    INSERT INTO part VALUES (1001, 'a', 'lost'), (1002, 'b', 'lost'); DELETE FROM part WHERE id BETWEEN 10 AND 19;
    UPDATE part SET v = 'lost' WHERE id BETWEEN 20 AND 29; UPDATE part SET k = 'b' WHERE id = 30;
    INSERT INTO ident (k, v) VALUES ('lost', 'lost'); DELETE FROM ident WHERE k = 'k7';
    DELETE FROM ident WHERE k = 'k8'; INSERT INTO ident (k, v) VALUES ('k8', 'another number');
    UPDATE gen SET a = -a WHERE id < 10; DELETE FROM gen WHERE id = 20; INSERT INTO gen (id, a) VALUES (99, 99);
    UPDATE seat SET place = place + 1000 WHERE id <= 10;
    UPDATE seat SET place = (id % 10) + 1 WHERE id <= 10; DELETE FROM seat WHERE id = 40;
    INSERT INTO entry SELECT 'lost', n, 'lost' FROM generate_series(1, 200) n";

/// What the other one commits meanwhile, besides what its application does.
pub(super) const SINCE: &str = "DELETE FROM note WHERE n = 2; INSERT INTO note VALUES ('new', 1), ('new', 1);
    INSERT INTO part VALUES (1001, 'a', 'new'), (2000, 'b', 'new'); UPDATE part SET v = 'new' WHERE id = 25;
    INSERT INTO ident (k, v) VALUES ('new', 'new'); DELETE FROM ident WHERE k = 'k9';
    INSERT INTO ident (k, v) VALUES ('k9', 'a new number'); UPDATE gen SET a = 7 WHERE id = 3;
    INSERT INTO seat VALUES (41, 1041, 'new')";

/// A deployment with these tables, in normal mode.
pub(super) async fn deployment(major: u32) -> (Reference, [Process; 2]) {
    let plan = Plan::new(major).more(ACCESS).control().tables(TABLES, "");
    let reference = prepared(at_sites(plan)).await;
    let managers = SITES.map(|site| reference.start(site, &["manager"]));
    running(&reference).await;
    reference.servers[0].batch_in("config", BEFORE).await;
    follows(&reference, 0, -1).await;
    (reference, managers)
}

/// The main site commits something that it never sends, and is lost; the other one takes over and goes on.
pub(super) async fn disaster(reference: &mut Reference, alone: &str, since: &str) -> Process {
    reference.expect("main", 0, &["stop", "csp-pump"]).await;
    reference.servers[0].batch_in("config", alone).await;
    power_off(reference);
    let failover = ["failover", "--to", "secondary", "--accept-loss"];
    reference.expect("secondary", 0, &failover).await;
    reference.servers[1].batch_in("config", since).await;
    power_on(reference).await
}

fn step<'a>(report: &'a Value, name: &str) -> Option<&'a Value> {
    report["steps"].as_array()?.iter().find(|step| step["name"] == name)
}

/// What was put right of a table: removed, changed, added.
fn righted(report: &Value, table: &str) -> [u64; 3] {
    let tables = &step(report, "repair").expect("it was repaired")["evidence"]["righted"][0]["tables"];
    let found = tables.as_array().expect("a list").iter().find(|found| found["table"] == table);
    let count = |key: &str| found.and_then(|found| found[key].as_u64()).unwrap_or(0);
    ["removed", "changed", "added"].map(count)
}

/// The files with rows that runs leave at a site.
pub(super) fn left(reference: &Reference, site: &str) -> Vec<PathBuf> {
    let mut left = Vec::new();
    let mut directories = vec![reference.directory.path().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.to_string_lossy().contains(site)
                && path
                    .extension()
                    .is_some_and(|extension| ["rows", "found", "since"].iter().any(|kind| extension == *kind))
            {
                left.push(path);
            }
        }
    }
    left
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_site_is_repaired_while_the_other_one_goes_on() {
    // The two tests below are at the oldest and the newest of them.
    let majors = Server::majors();
    let majors = &majors[..Tier::pick(1, 1, majors.len())];
    for &major in majors {
        let (mut reference, [first, secondary_manager]) = deployment(major).await;
        let application = Application::start(&reference.servers, 0);
        // Without that, a failover cannot know what numbers were given away.
        wait_until(PATIENCE, "the standby's sequence to be ahead", async || {
            let stands = "SELECT last_value FROM numbers";
            let [main, secondary] = &reference.servers;
            let (here, there) =
                (main.scalar("config", stands).await, secondary.scalar("config", stands).await);
            there.parse::<i64>().ok() > here.parse().ok()
        })
        .await;
        let main_manager = disaster(&mut reference, ALONE, SINCE).await;
        drop(first);
        // Somebody had it open for a while.
        reference.expect("main", 0, &["open", "main", "--force"]).await;
        reference.servers[0]
            .batch_in("config", "SET ROLE app; INSERT INTO entry VALUES ('strayed', 1)")
            .await;
        reference.expect("main", 0, &["fence", "main"]).await;
        let strayed = "SELECT count(*) FROM irongate.strayed";
        assert_ne!(reference.servers[0].scalar("config", strayed).await, "0");

        let refused = reference.expect("secondary", 3, &["reinstate", "main"]).await.stderr;
        assert!(refused.contains("nobody has signed for that"), "{refused}");
        let words = ["reinstate", "main", "--accept-loss"];
        let dry = reference.json("secondary", &[&words[..], &["--dry-run"]].concat()).await;
        let checks = &step(&dry, "prechecks").expect("a step")["evidence"];
        let estimate = &checks["estimates"][0];
        assert_eq!((&checks["by"], &estimate["flow"]), (&"repair".into(), &"css".into()), "{dry}");
        assert!(estimate["changed"].as_u64() >= Some(10) && estimate["bytes"].as_u64() > Some(0), "{dry}");
        assert!(estimate["repair_seconds"].as_f64() > Some(0.0), "{dry}");

        let done = reference.json("secondary", &words).await;
        assert_eq!((&done["result"], step(&done, "copy")), (&"done".into(), None), "{done}");
        println!("PostgreSQL {major}: {}", step(&done, "repair").expect("a step"));
        // What both sites have written is one row; one had gone to the other partition.
        assert_eq!(righted(&done, "public.part_a"), [0, 6, 6], "{done}");
        assert_eq!(righted(&done, "public.part_b"), [2, 5, 6], "{done}");
        assert_eq!(righted(&done, "public.note"), [15, 0, 10], "{done}");
        assert_eq!(righted(&done, "public.ident"), [1, 2, 1 + 1], "{done}");
        assert_eq!(righted(&done, "public.gen"), [1, 9, 1], "{done}");
        assert_eq!(righted(&done, "public.seat"), [0, 10, 2], "{done}");
        assert_eq!(righted(&done, "public.still"), [0, 0, 0], "{done}");
        // The application had written there too when it was lost, and goes on.
        let [removed, changed, added] = righted(&done, "public.entry");
        assert!(removed >= 201 && changed == 0 && added > 0, "{done}");
        let text = reference.expect("secondary", 0, &["runs", done["run"].as_str().expect("a name")]).await;
        assert!(text.stdout.contains("public.ident"), "the report tells: {}", text.stdout);
        assert_eq!(reference.servers[0].scalar("config", strayed).await, "0");
        assert!(reference.servers[0].try_client("app", "config").await.is_err(), "a standby stays closed");
        assert_eq!(left(&reference, ""), Vec::<PathBuf>::new(), "no rows are left in files");
        tokio::time::sleep(Duration::from_millis(300)).await;

        // Under load all the time; and back.
        let back = reference.json("main", &["switchback"]).await;
        assert_eq!(back["result"], "done", "{back}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let acknowledged = application.stop().await;
        let there = "SELECT count(*) FROM entry WHERE site = 'lost' OR site = 'strayed'";
        assert_eq!(reference.servers[0].scalar("config", there).await, "0");
        // What was acknowledged behind the failover is there; before it some were lost.
        let kept = acknowledged[acknowledged.len() - 20..].to_vec();
        books(&reference.servers[0], &kept).await;
        numbers(&reference.servers[0]).await;
        follows(&reference, 0, 2).await;
        let normal = (slots(&reference, 0).await, slots(&reference, 1).await);
        assert_eq!(normal, ("csp,msp".into(), "mss".into()));
        for manager in [main_manager, secondary_manager] {
            stop(manager).await;
        }
    }
}

/// One run that is killed at every boundary of its repair and inside, and somebody who writes in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_repair_killed_anywhere_goes_on_and_one_that_was_not_begun_is_taken_back() {
    let major = Server::majors()[0];
    let (mut reference, [first, secondary_manager]) = deployment(major).await;
    let application = Application::start(&reference.servers, 0);
    let alone = format!(
        "{ALONE}; UPDATE still SET v = 'lost' WHERE id > 100; INSERT INTO note SELECT 'lost', n FROM generate_series(1, 1500) n"
    );
    let main_manager = disaster(&mut reference, &alone, SINCE).await;
    drop(first);
    let words = ["reinstate", "main", "--accept-loss"];
    let cut_at = async |order, step, place| {
        let cut = Cut { plan: "reinstate", site: "main", order, step, place };
        reference.cut_off("secondary", &cut).await
    };
    // Before anything was overwritten it is taken back, and nothing is left of what was found.
    assert!(cut_at("begin", "compare", "done").await);
    assert_eq!(left(&reference, "").len(), 3);
    reference.expect("secondary", 0, &["reinstate", "main", "--abort"]).await;
    assert_eq!(left(&reference, ""), Vec::<PathBuf>::new());
    assert!(reference.servers[0].try_client("app", "config").await.is_err(), "it stays closed");
    let lost = "SELECT count(*) FROM entry WHERE site = 'lost'";
    assert_eq!(reference.servers[0].scalar("config", lost).await, "200", "and has what it had");

    let mut cuts = 0;
    let places = [
        ("nothing-new", &["done"][..]),
        ("stop-groups", &["begins", "done"]),
        ("compare", &["begins", "15", "60", "120", "done"]),
        ("repair", &["begins", "15", "40", "60", "done"]),
        ("follow", &["begins", "done"]),
    ];
    let places = places.iter().flat_map(|(step, places)| places.iter().map(|place| (*step, *place)));
    for (step, place) in places {
        let order = if cuts == 0 { "begin" } else { "resume" };
        if !cut_at(order, step, place).await {
            assert!(place.parse::<u32>().is_ok(), "{step} {place}");
            println!("it was over before {step} {place}");
            break;
        }
        cuts += 1;
        if (step, place) == ("compare", "done") {
            // A superuser cannot be kept out; what he does to what was compared is met.
            reference.servers[0].batch_in("config", "UPDATE still SET v = 'somebody' WHERE id = 500").await;
        }
        if (step, place) == ("repair", "begins") {
            // Nor what he adds where nothing differs.
            reference.servers[0].batch_in("config", "INSERT INTO still VALUES (99001, 'somebody')").await;
            let refused = reference.expect("secondary", 3, &["reinstate", "main", "--abort"]).await.stderr;
            assert!(refused.contains("overwritten"), "{refused}");
        }
        if (step, place) == ("repair", "done") {
            let follows = "SELECT count(*) FROM irongate.checkpoint WHERE flow = 'css'";
            assert_eq!(reference.servers[0].scalar("config", follows).await, "1");
        }
    }
    println!("{cuts} times cut off");
    assert!(cuts >= 10, "{cuts}");
    let somebody = "SELECT count(*) FROM still WHERE v = 'somebody'";
    assert_eq!(reference.servers[0].scalar("config", somebody).await, "0");
    let unfinished = reference.json("secondary", &["runs", "--unfinished"]).await["run"].clone();
    if !unfinished.is_null() {
        reference.expect("secondary", 0, &[&words[..2], &["--resume"]].concat()).await;
    }
    let acknowledged = application.stop().await;
    books(&reference.servers[1], &acknowledged[acknowledged.len() - 20..]).await;
    follows(&reference, 1, 2).await;
    assert_eq!(left(&reference, ""), Vec::<PathBuf>::new());
    reference.expect("main", 0, &["switchback"]).await;
    follows(&reference, 0, 3).await;
    for manager in [main_manager, secondary_manager] {
        stop(manager).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_too_much_or_cannot_be_compared_is_copied() {
    let major = *Server::majors().last().expect("a version");
    let (mut reference, [first, secondary_manager]) = deployment(major).await;
    let main_manager =
        disaster(&mut reference, "INSERT INTO note SELECT 'lost', n FROM generate_series(1, 11000) n", SINCE)
            .await;
    drop(first);
    let words = ["reinstate", "main", "--accept-loss"];
    let with = |more: &[&'static str]| [&words[..], more].concat();

    // What the lost site has alone is not known before it is compared. A structure that differs is, and no copy could
    // be made either.
    reference.servers[0].batch_in("config", "ALTER TABLE still RENAME COLUMN v TO w").await;
    let refused = reference.expect("secondary", 3, &with(&["--by", "repair"])).await.stderr;
    assert!(
        refused.contains("public.still") && refused.contains("\"v\"") && refused.contains("--by copy"),
        "{refused}"
    );
    let refused = reference.expect("secondary", 3, &with(&["--dry-run"])).await.stderr;
    assert!(refused.contains("public.still") && refused.contains("ADD COLUMN"), "{refused}");
    let checks = |report: &Value| step(report, "prechecks").expect("a step")["evidence"].clone();
    reference.servers[0].batch_in("config", "ALTER TABLE still RENAME COLUMN w TO v").await;
    reference.expect("secondary", 2, &with(&["--by", "magic"])).await;

    // Asked for, it is repaired all the same; cut off, somebody thinks better of it.
    let dry = reference.json("secondary", &with(&["--dry-run"])).await;
    assert_eq!(checks(&dry)["by"], "repair", "{dry}");
    let cut = Cut { plan: "reinstate", site: "main", order: "begin", step: "compare", place: "done" };
    assert!(reference.cut_off("secondary", &cut).await);
    let cut = Cut { order: "resume", step: "copy", place: "begins", ..cut };
    assert!(reference.cut_off("secondary", &cut).await, "the compare has the last word");
    let run = reference.json("secondary", &["runs", "--unfinished"]).await["run"].clone();
    let shown = reference.json("secondary", &["runs", run.as_str().expect("a run")]).await;
    let compared = &step(&shown, "compare").expect("a step")["evidence"];
    assert_eq!(compared["by"], "copy", "{shown}");
    assert!(compared["because"].as_str().is_some_and(|because| because.contains("fresh copy")), "{shown}");
    let resumed = reference.json("secondary", &["reinstate", "main", "--resume", "--by", "repair"]).await;
    assert_eq!(resumed["result"], "done", "{resumed}");
    assert!(righted(&resumed, "public.note")[0] >= 11_000, "{resumed}");
    assert!(step(&resumed, "repair").is_some(), "{resumed}");
    follows(&reference, 1, 1).await;
    reference.expect("main", 0, &["switchback"]).await;
    follows(&reference, 0, 2).await;

    // Lost once more, with many rows written since: that is known before.
    let many = "INSERT INTO note SELECT 'new', n FROM generate_series(1, 11000) n";
    stop(main_manager).await;
    let main_manager = reference.start("main", &["manager"]);
    running(&reference).await;
    let again = disaster(&mut reference, "DELETE FROM still WHERE id = 1", many).await;
    drop(main_manager);
    let dry = reference.json("secondary", &with(&["--dry-run"])).await;
    assert_eq!(checks(&dry)["by"], "copy", "{dry}");
    let dry = reference.json("secondary", &with(&["--dry-run", "--by", "repair"])).await;
    assert_eq!(checks(&dry)["by"], "repair", "{dry}");
    assert!(checks(&dry)["because"].as_str().is_some_and(|because| because.contains("--by copy")), "{dry}");
    let cut = Cut { plan: "reinstate", site: "main", order: "begin", step: "copy", place: "120" };
    let is_cut = reference.cut_off("secondary", &cut).await;
    println!("the copy was cut off: {is_cut}");
    if is_cut {
        let refused = reference.expect("secondary", 3, &["reinstate", "main", "--abort"]).await.stderr;
        assert!(refused.contains("overwritten"), "{refused}");
        // A load that was cut off has left some rows and its ledger: what is lacking are differences like any other.
        reference.expect("secondary", 0, &["reinstate", "main", "--resume", "--by", "repair"]).await;
    }
    follows(&reference, 1, 4).await;
    reference.expect("main", 0, &["switchback"]).await;
    follows(&reference, 0, 5).await;
    for manager in [again, secondary_manager] {
        stop(manager).await;
    }
    wait_until(PATIENCE, "nothing to be left of it", async || left(&reference, "").is_empty()).await;
}
