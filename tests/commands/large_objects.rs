//! Large objects, which are in no stream: compared and copied when asked, and never left behind in silence.

use std::collections::BTreeSet;
use std::fs;

use irongate_tests::{Plan, Process, Server, wait_until};
use serde_json::Value;

use super::deployment::{Deployment, PATIENCE, stop};

/// Objects of every kind: empty, of 3 MB with zero bytes, many small ones; with owners, rights and comments.
const OBJECTS: &str = "
    SELECT lo_create(1001);
    SELECT lo_from_bytea(1002, (SELECT string_agg(sha256(n::text::bytea) || '\\x0000'::bytea, ''::bytea ORDER BY n)
                                  FROM generate_series(1, 92000) n));
    SELECT count(lo_from_bytea(10000 + n, convert_to('small ' || n, 'UTF8'))) FROM generate_series(1, 3000) n;
    ALTER LARGE OBJECT 1001 OWNER TO \"the app\"; COMMENT ON LARGE OBJECT 1001 IS 'it''s empty';
    GRANT SELECT ON LARGE OBJECT 1002 TO \"the app\" WITH GRANT OPTION; GRANT SELECT ON LARGE OBJECT 10001 TO PUBLIC;
    ALTER LARGE OBJECT 10002 OWNER TO \"the app\"; REVOKE UPDATE ON LARGE OBJECT 10002 FROM \"the app\";";
const ROLES: &str = "CREATE ROLE \"the app\"; CREATE ROLE other";

/// What a server has of them, told without the help of what is tested.
async fn state(server: &Server) -> String {
    let sql = "SELECT count(*) || ' ' || sum(length(lo_get(oid))) || ' ' || md5(string_agg(concat_ws(':', oid, md5(lo_get(oid)),
                   pg_get_userbyid(lomowner), array_to_string(ARRAY(SELECT a::text FROM unnest(coalesce(lomacl, acldefault('L', lomowner))) a ORDER BY 1), ','),
                   obj_description(oid, 'pg_largeobject')), ';' ORDER BY oid))
                 FROM pg_largeobject_metadata";
    server.scalar("app", sql).await
}

async fn count(server: &Server) -> usize {
    server.scalar("app", "SELECT count(*) FROM pg_largeobject_metadata").await.parse().expect("a number")
}

/// Whether a copy waits for somebody who stands in its way.
async fn stands(server: &Server) -> bool {
    let sql = "SELECT count(*) FROM pg_stat_activity
                WHERE application_name = 'irongate large objects' AND wait_event_type = 'Lock'";
    server.scalar("app", sql).await == "1"
}

/// The numbers of these names in a document.
fn numbers<const N: usize>(document: &Value, names: [&str; N]) -> [u64; N] {
    names.map(|name| document[name].as_u64().unwrap_or_else(|| panic!("{name}: {document}")))
}

/// OIDs of what a document lists.
fn oids(list: &Value) -> BTreeSet<u64> {
    list.as_array().expect("a list").iter().filter_map(|one| one["oid"].as_u64()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_is_told_and_copied_beside_a_running_flow() {
    const COMPARE: [&str; 5] = ["large-objects", "compare", "csp", "--json", "--show=9"];
    const COPY: [&str; 3] = ["large-objects", "copy", "csp"];
    for major in Server::majors_in_turn() {
        let deployment = Deployment::ready(major, "").await;
        let (source, target) = (&deployment.source, &deployment.target);
        for server in [source, target] {
            server.batch_in("app", ROLES).await;
        }
        let none = deployment.json(&["large-objects", "compare", "csp"]).await;
        assert_eq!(numbers(&none, ["source_objects", "target_objects", "differences"]), [0; 3]);
        source.batch_in("app", OBJECTS).await;
        let extract = deployment.start("csp-extract").await;
        let replicat = deployment.start("csp-replicat").await;

        let found = deployment.expect(3, &COMPARE).await;
        let names = ["source_objects", "target_objects", "differences", "missing_at_target", "not_compared"];
        assert_eq!(numbers(&found.json(), names), [3002, 0, 3002, 3002, 0]);
        assert_eq!(found.json()["shown"].as_array().map(Vec::len), Some(9));
        assert!(found.stderr.contains("irongate large-objects copy csp"), "{}", found.stderr);
        let dry = deployment.json(&[&COPY[..], &["--dry-run"]].concat()).await;
        assert_eq!((numbers(&dry, ["created", "failed"]), dry["dry_run"] == true), ([3002, 0], true));
        assert_eq!(count(target).await, 0, "a dry run does nothing");

        let done = deployment.json(&COPY).await;
        let names = ["created", "replaced", "attributes", "deleted", "same", "failed"];
        assert_eq!(numbers(&done, names), [3002, 0, 0, 0, 0, 0]);
        assert!(done["bytes"].as_u64() > Some(3_000_000), "{done}");
        assert_eq!(state(target).await, state(source).await);
        assert_eq!(numbers(&deployment.json(&COPY).await, names), [0, 0, 0, 0, 3002, 0], "once is enough");
        deployment.expect(0, &COMPARE).await;

        // One byte of many, another length, a beginning, what is gone, what is only there, what is somebody else's.
        let at_source =
            "SELECT lo_put(1002, 2500000, '\\xff'); SELECT lo_put(10008, 2000, 'x'); SELECT lo_unlink(10005)";
        source.batch_in("app", at_source).await;
        let at_target =
            "SELECT lo_put(10009, 0, 'X'); SELECT lo_create(9); ALTER LARGE OBJECT 10007 OWNER TO other;
             COMMENT ON LARGE OBJECT 1001 IS NULL; GRANT SELECT ON LARGE OBJECT 10010 TO other";
        target.batch_in("app", at_target).await;
        let names = [
            "differences",
            "missing_at_target",
            "missing_at_source",
            "different",
            "attributes",
            "not_compared",
        ];
        let found = deployment.expect(3, &COMPARE).await.json();
        assert_eq!(numbers(&found, names), [8, 0, 2, 3, 3, 0], "{found}");
        assert_eq!(
            oids(&found["shown"]),
            BTreeSet::from([9, 1001, 1002, 10005, 10007, 10008, 10009, 10010]),
            "{found}"
        );
        let only = deployment.expect(3, &[&COMPARE[..], &["--content-only"]].concat()).await.json();
        assert_eq!(numbers(&only, names), [5, 0, 2, 3, 0, 0], "{only}");
        let text = deployment.expect(3, &COMPARE[..3]).await.stdout;
        assert!(text.contains("missing at source") && text.contains("10007  owner"), "{text}");

        let names = ["created", "replaced", "attributes", "deleted", "only_at_target", "same", "failed"];
        let done = deployment.json(&COPY).await;
        assert_eq!(numbers(&done, names), [0, 3, 3, 0, 2, 2995, 0], "{done}");
        let found = deployment.expect(3, &COMPARE).await.json();
        assert_eq!(oids(&found["shown"]), BTreeSet::from([9, 10005]));
        let done = deployment.json(&[&COPY[..], &["--delete"]].concat()).await;
        assert_eq!(numbers(&done, names), [0, 0, 0, 2, 0, 3001, 0], "{done}");
        deployment.expect(0, &COMPARE).await;
        assert_eq!(state(target).await, state(source).await);

        // An owner that the target does not know is named; the content comes.
        source.batch_in("app", "CREATE ROLE stranger; SELECT lo_from_bytea(11, 'eleven'); ALTER LARGE OBJECT 11 OWNER TO stranger").await;
        let done = deployment.expect(4, &[&COPY[..], &["--json"]].concat()).await.json();
        assert_eq!(
            (numbers(&done, ["created", "failed"]), oids(&done["troubles"])),
            ([1, 1], BTreeSet::from([11]))
        );
        assert!(done["troubles"][0]["reason"].to_string().contains("stranger"), "{done}");
        deployment.expect(0, &["large-objects", "compare", "csp", "--content-only"]).await;

        // The flow has gone on all the while.
        deployment.add(5_000).await;
        deployment.arrived(5_000).await;
        stop(replicat).await;
        stop(extract).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_without_rights_is_named_with_what_mends_it() {
    for major in Server::majors_in_turn() {
        let deployment = Deployment::ready(major, "").await;
        let (source, target) = (&deployment.source, &deployment.target);
        // As the flow's own roles, which own nothing.
        let path = deployment.path().join("irongate.toml");
        let text = fs::read_to_string(&path).expect("the file is there");
        let lines = text.lines().filter(|line| !line.starts_with("admin_uri"));
        fs::write(&path, lines.collect::<Vec<_>>().join("\n")).expect("the file is ours");
        let objects = "SELECT lo_from_bytea(1, 'one'), lo_from_bytea(2, 'two'), lo_from_bytea(3, 'three');
             GRANT SELECT ON LARGE OBJECT 2 TO irongate_extract; GRANT SELECT ON LARGE OBJECT 3 TO PUBLIC";
        source.batch_in("app", objects).await;
        let copy = ["large-objects", "copy", "csp", "--json"];
        let content = [&copy[..], &["--content-only"]].concat();

        let done = deployment.expect(4, &content).await;
        assert_eq!(numbers(&done.json(), ["created", "failed"]), [2, 1], "{}", done.stdout);
        let trouble = &done.json()["troubles"][0];
        assert_eq!((trouble["oid"].as_u64(), trouble["end"].as_str()), (Some(1), Some("app.main")));
        let fix = trouble["fix"].as_str().expect("a statement").to_owned();
        assert_eq!(fix, "GRANT SELECT ON LARGE OBJECT 1 TO \"irongate_extract\"");
        assert!(done.stderr.contains("admin_uri"), "{}", done.stderr);
        let text = deployment.expect(4, &content[..3]).await.stdout;
        assert!(text.contains(&fix), "{text}");
        source.batch_in("app", &fix).await;
        let done = deployment.expect(0, &content).await.json();
        assert_eq!(numbers(&done, ["created", "same", "failed"]), [1, 2, 0], "{done}");
        deployment.expect(0, &["large-objects", "compare", "csp", "--content-only"]).await;
        let origins = "SELECT string_agg(DISTINCT coalesce(o.roname, 'none'), ',')
              FROM pg_largeobject_metadata m CROSS JOIN LATERAL pg_xact_commit_timestamp_origin(m.xmin) x
              LEFT JOIN pg_replication_origin o ON o.roident = x.roident";
        assert_eq!(target.scalar("app", origins).await, "irongate_csp/0", "no reverse flow sends it back");
        // The role may not give them away.
        let done = deployment.expect(4, &copy).await.json();
        assert_eq!(
            (numbers(&done, ["attributes", "failed"]), oids(&done["troubles"]).len()),
            ([0, 3], 3),
            "{done}"
        );

        // What may not be read at the target is not called the same.
        target.batch_in("app", "ALTER LARGE OBJECT 3 OWNER TO postgres").await;
        let compare = ["large-objects", "compare", "csp", "--json", "--content-only"];
        let found = deployment.expect(4, &compare).await.json();
        assert_eq!(numbers(&found, ["differences", "not_compared"]), [0, 1], "{found}");
        assert_eq!(found["troubles"][0]["end"], "app.secondary");
        source.batch_in("app", "SELECT lo_put(3, 0, 'T')").await;
        let done = deployment.expect(4, &content).await.json();
        assert_eq!(numbers(&done, ["replaced", "failed"]), [0, 1], "{done}");
        let fix = done["troubles"][0]["fix"].as_str().expect("a statement").to_owned();
        assert_eq!(fix, "GRANT SELECT, UPDATE ON LARGE OBJECT 3 TO \"irongate_replicat\"");
        target.batch_in("app", &fix).await;
        assert_eq!(numbers(&deployment.expect(0, &content).await.json(), ["replaced"]), [1]);
        assert_eq!(target.scalar("app", "SELECT convert_from(lo_get(3), 'UTF8')").await, "Three");
        // Nor may what only the target has be removed by whom it does not belong to.
        target.batch_in("app", "SELECT lo_create(4)").await;
        let done = deployment.expect(4, &[&content[..], &["--delete"]].concat()).await.json();
        assert_eq!(
            (numbers(&done, ["deleted", "failed"]), oids(&done["troubles"])),
            ([0, 1], BTreeSet::from([4]))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_killed_leaves_whole_objects_and_is_repeated() {
    for major in Server::majors_in_turn() {
        let deployment = Deployment::ready(major, "").await;
        let (source, target) = (&deployment.source, &deployment.target);
        let objects = "SELECT count(lo_from_bytea(n, convert_to(repeat(md5(n::text), 100000), 'UTF8'))) FROM generate_series(1, 6) n;
             SELECT count(lo_from_bytea(n, convert_to('small ' || n, 'UTF8'))) FROM generate_series(100, 700) n";
        source.batch_in("app", objects).await;
        // Somebody stands in the way in the midst of the fourth, which has come half by then.
        let blocker = target.client("app").await;
        let block = "BEGIN; INSERT INTO pg_largeobject VALUES (4, 700, '\\x00')";
        blocker.batch_execute(block).await.expect("the table is the superuser's");
        let mut copy = Process::irongate(deployment.path(), &["large-objects", "copy", "csp"]);
        wait_until(PATIENCE, "the copy to stand before the fourth object", async || stands(target).await)
            .await;
        assert!(copy.is_running());
        copy.kill();
        blocker.batch_execute("ROLLBACK").await.expect("the server is there");
        wait_until(PATIENCE, "the server to notice", async || {
            let sql =
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'irongate large objects'";
            target.scalar("app", sql).await == "0"
        })
        .await;
        let there = target
            .scalar("app", "SELECT string_agg(oid::text, ',' ORDER BY oid::int) FROM pg_largeobject_metadata")
            .await;
        assert_eq!(there, "1,2,3", "whole objects, and no others");
        let compare = ["large-objects", "compare", "csp", "--json"];
        let found = deployment.expect(3, &compare).await.json();
        assert_eq!(numbers(&found, ["missing_at_target", "different"]), [604, 0], "{found}");
        let done = deployment.json(&["large-objects", "copy", "csp"]).await;
        assert_eq!(numbers(&done, ["created", "same", "failed"]), [604, 3, 0], "{done}");
        assert_eq!(state(target).await, state(source).await);

        // Whoever asks it to end is told that it has not done everything.
        source.batch_in("app", "SELECT lo_put(4, 0, 'x')").await;
        blocker
            .batch_execute("BEGIN; UPDATE pg_largeobject SET data = data WHERE loid = 4")
            .await
            .expect("as above");
        let mut copy = Process::irongate(deployment.path(), &["large-objects", "copy", "csp"]);
        wait_until(PATIENCE, "the copy to stand before it again", async || stands(target).await).await;
        copy.terminate();
        let ended = copy.finish(PATIENCE).await;
        assert_eq!(ended.code(), 4, "{}", ended.stderr);
        blocker.batch_execute("ROLLBACK").await.expect("the server is there");
        let done = deployment.json(&["large-objects", "copy", "csp"]).await;
        assert_eq!(numbers(&done, ["replaced", "same"]), [1, 606], "{done}");
        assert_eq!(state(target).await, state(source).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_initial_load_copies_them_when_asked_and_else_says_that_it_does_not() {
    for major in Server::majors_in_turn() {
        let deployment = Deployment::new(major, "").await;
        let (source, target) = (&deployment.source, &deployment.target);
        deployment.expect(0, &["setup"]).await;
        let quiet = deployment.expect(0, &["instantiate", "csp"]).await.stdout;
        assert!(!quiet.contains("large object"), "there is none: {quiet}");
        for server in [source, target] {
            server.batch_in("app", ROLES).await;
        }
        source.batch_in("app", OBJECTS).await;
        let found = deployment.json(&["check"]).await.to_string();
        assert!(found.contains("irongate large-objects copy csp"), "{found}");

        let again = ["instantiate", "csp", "--restart", "--truncate"];
        let said = deployment.expect(0, &again).await.stdout;
        assert!(
            said.contains("3,002 at the source") && said.contains("irongate large-objects copy csp"),
            "{said}"
        );
        let done = deployment.json(&again).await;
        assert_eq!((numbers(&done, ["large_objects_left"]), &done["large_objects"]), ([3002], &Value::Null));
        assert_eq!(count(target).await, 0);
        let done = deployment.json(&[&again[..], &["--with-large-objects"]].concat()).await;
        assert_eq!(
            (numbers(&done, ["large_objects_left", "rows"]), &done["large_objects"]["created"]),
            ([0, 2000], &3002.into())
        );
        assert_eq!(state(target).await, state(source).await);

        // One that cannot be what it is at the source makes the load an incomplete one, and the flow goes on all the same.
        source.batch_in("app", "CREATE ROLE stranger; ALTER LARGE OBJECT 1002 OWNER TO stranger").await;
        let done = deployment.expect(4, &[&again[..], &["--with-large-objects"]].concat()).await;
        assert!(
            done.stdout.contains("large object 1002") && done.stdout.contains("next: "),
            "{}",
            done.stdout
        );
        let extract = deployment.start("csp-extract").await;
        let replicat = deployment.start("csp-replicat").await;
        deployment.add(5_000).await;
        deployment.arrived(5_000).await;
        stop(replicat).await;
        stop(extract).await;

        let said = deployment.expect(0, &["export", "files", "csp", "--restart"]).await.stderr;
        assert!(said.contains("large objects are not in the export (3002 there)"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_site_that_writes_keeps_its_own() {
    for major in Server::majors_in_turn() {
        let reference = Plan::new(major).make().await;
        let [main, secondary] = &reference.servers;
        main.batch_in("config", "SELECT lo_from_bytea(1, 'new')").await;
        secondary.batch_in("config", "SELECT lo_from_bytea(1, 'old'), lo_from_bytea(2, 'old')").await;
        let refused = reference.expect("main", 3, &["large-objects", "copy", "css", "--delete"]).await.stderr;
        assert!(refused.contains("is the site that writes"), "{refused}");
        assert_eq!(main.scalar("config", "SELECT convert_from(lo_get(1), 'UTF8')").await, "new");
        reference.expect("main", 3, &["large-objects", "compare", "css"]).await;

        // Where both write, one OID may be two objects: only what is lacking is copied.
        main.batch_in("log", "SELECT lo_from_bytea(1, 'of main'), lo_from_bytea(2, 'of main')").await;
        secondary.batch_in("log", "SELECT lo_from_bytea(1, 'of both')").await;
        let refused = reference.expect("main", 3, &["large-objects", "copy", "msp", "--delete"]).await.stderr;
        assert!(refused.contains("both sites write"), "{refused}");
        let done =
            reference.start("main", &["large-objects", "copy", "msp", "--json"]).finish(PATIENCE).await;
        assert_eq!((done.code(), numbers(&done.json(), ["created", "replaced", "failed"])), (4, [1, 0, 1]));
        let there = "SELECT string_agg(convert_from(lo_get(oid), 'UTF8'), ',' ORDER BY oid) FROM pg_largeobject_metadata";
        assert_eq!(secondary.scalar("log", there).await, "of both,of main");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_one_is_neither_hashed_nor_copied_in_memory() {
    /// Bytes of the object.
    const SIZE: u64 = 100 << 20;
    for major in Server::majors_in_turn() {
        let deployment = Deployment::ready(major, "").await;
        let (source, target) = (&deployment.source, &deployment.target);
        let object = "SELECT lo_create(5); SELECT count(*) FROM (SELECT lo_put(5, n * 1048576::bigint, decode(repeat(md5(n::text), 65536), 'hex'))
              FROM generate_series(0, 99) n) s";
        source.batch_in("app", object).await;
        // In front of its last page.
        let blocker = target.client("app").await;
        let block = "BEGIN; INSERT INTO pg_largeobject VALUES (5, 51199, '\\x00')";
        blocker.batch_execute(block).await.expect("the table is the superuser's");
        let copy = Process::irongate(deployment.path(), &["large-objects", "copy", "csp", "--json"]);
        wait_until(PATIENCE, "the copy to be at the end", async || stands(target).await).await;
        let peak = copy.peak_memory().expect("it runs");
        println!("{peak} bytes of memory for an object of {SIZE}");
        assert!(peak < SIZE * 2 / 3, "{peak}");
        blocker.batch_execute("ROLLBACK").await.expect("the server is there");
        let done = copy.finish(PATIENCE).await.expect_success().json();
        assert_eq!(numbers(&done, ["created", "bytes", "failed"]), [1, SIZE, 0]);
        let compare = ["large-objects", "compare", "csp", "--json"];
        deployment.expect(0, &compare).await;
        source.batch_in("app", "SELECT lo_put(5, 104857599, '\\xee')").await;
        let found = deployment.expect(3, &compare).await.json();
        assert_eq!(
            numbers(&found, ["different", "source_bytes", "target_bytes"]),
            [1, SIZE, SIZE],
            "its last byte"
        );
    }
}
