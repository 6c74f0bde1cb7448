//! Names are pointed to a site, all of them or none, and every name server is asked.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use irongate_tests::Process;
use rustix::process::Signal;
use serde_json::Value;

use super::bind::{Bind, OTHER, PATIENCE, ZONE, edit, make_key, output, secret};
use super::relay::{Treatment, relay};

const THERE: [&str; 5] = ["name", "point", "--to", "secondary", "--json"];
const CHECK: [&str; 6] = ["name", "point", "--to", "secondary", "--dry-run", "--json"];

/// What one of the name servers says of all records.
fn all(bind: &Bind, number: usize) -> [String; 4] {
    [("A", "db"), ("A", "web"), ("AAAA", "db"), ("CNAME", "alias")]
        .map(|(kind, name)| bind.says(number, kind, &format!("{name}.{ZONE}")))
}

const AT_MAIN: [&str; 4] = ["192.0.2.1", "192.0.2.10 192.0.2.11", "2001:db8::1", "db.main.shop.example."];
const AT_SECONDARY: [&str; 4] = ["192.0.2.2", "192.0.2.20", "2001:db8::2", "db.secondary.shop.example."];

#[tokio::test(flavor = "multi_thread")]
async fn names_go_to_the_other_site_in_one_operation_and_back() {
    let bind = Bind::start_with("hmac-sha512", |_| {}).await;
    // A second zone is a second operation.
    let other = bind.section(&[("zone", format!("\"{OTHER}\""))]).replace("names.shop", "names.other");
    let other =
        other.split("[[names.other.records]]").take(2).collect::<Vec<_>>().join("[[names.other.records]]");
    bind.configure(&(bind.section(&[]) + &other));
    let shown = bind.irongate(0, &["name", "show", "--json"]).await.json();
    let zones = shown["zones"].as_array().unwrap();
    assert_eq!(zones.len(), 2);
    assert!(
        zones.iter().all(|zone| zone["site"] == "main" && zone["servers"].as_array().unwrap().len() == 2)
    );
    let serial = bind.serial(ZONE);
    let checked = bind.irongate(0, &CHECK).await.json();
    let shop = checked["zones"].as_array().unwrap().iter().find(|zone| zone["zone"] == ZONE).unwrap();
    assert_eq!((&shop["key"], &shop["ttl"]), (&"irongate".into(), &30.into()), "{checked}");
    assert_eq!(shop["to_change"].as_array().unwrap().len(), 4);
    assert_eq!(
        (all(&bind, 0), bind.serial(ZONE)),
        (AT_MAIN.map(str::to_owned), serial.clone()),
        "nothing changed"
    );

    let begin = jiff_now();
    let pointed = bind.irongate(0, &THERE).await.json();
    for number in [0, 1] {
        assert_eq!(all(&bind, number), AT_SECONDARY);
        assert_eq!(bind.says(number, "A", &format!("db.{OTHER}")), "192.0.2.2");
    }
    let once = serial.parse::<u32>().unwrap() + 1;
    assert_eq!(bind.serial(ZONE), once.to_string(), "one operation, one serial");
    let shop = pointed["zones"].as_array().unwrap().iter().find(|zone| zone["zone"] == ZONE).unwrap();
    assert_eq!(shop["changed"].as_array().unwrap().len(), 4, "{pointed}");
    let until = shop["caches_until"].as_str().unwrap().to_owned();
    assert!(until > begin, "{until} is behind {begin}");
    for server in shop["servers"].as_array().unwrap() {
        assert_eq!((&server["serial"], &server["problem"]), (&once.into(), &Value::Null), "{server}");
        assert!(server["records"].as_array().unwrap().iter().all(|record| record["site"] == "secondary"));
        assert_eq!(server["records"][2]["ttl"], 20);
    }

    // Done again it is done already.
    let again = bind.irongate(0, &THERE).await.json();
    assert_eq!(again["zones"][1]["changed"].as_array().unwrap().len(), 0);
    assert_eq!(again["zones"][1]["already"].as_array().unwrap().len(), 4);
    assert_eq!((&again["zones"][1]["caches_until"], bind.serial(ZONE)), (&Value::Null, once.to_string()));

    // Back by the script for operators.
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/point-name");
    let mut command = Command::new(script);
    command.arg("main").current_dir(bind.dir.path()).env("IRONGATE_BIN", Process::binary());
    let back = Process::spawn(command).finish(PATIENCE).await.expect_success().stdout;
    assert!(back.contains("3. point them to main") && back.contains("caches may say"), "{back}");
    assert_eq!(all(&bind, 1), AT_MAIN);
    bind.irongate(2, &["name", "point", "--to", "moon"]).await;
    bind.irongate(2, &["name", "show", "--database", "moon"]).await;
}

fn jiff_now() -> String {
    super::bind::output(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S"])).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_changes_is_left_alone_and_named() {
    let bind = Bind::start().await;
    // In the same moment: between the look and the update.
    let (dir, port) = (bind.dir.path().to_owned(), bind.ports[0]);
    let hand = move || {
        let lines = "update delete web.shop.example A\nupdate add web.shop.example 30 A 192.0.2.99";
        output(&mut edit(&dir, "127.0.0.1", port, lines));
    };
    let between = relay(port, Treatment { before: Box::new(hand), ..Treatment::default() }).await;
    bind.configure(&bind.section(&[("server", format!("\"127.0.0.1:{between}\""))]));
    let said = bind.irongate(3, &THERE).await.stderr;
    assert!(
        said.contains("somebody else is changing zone \"shop.example\", and nothing was changed"),
        "{said}"
    );
    assert!(said.contains("web.shop.example A says 192.0.2.99"), "{said}");
    let nothing = [AT_MAIN[0], "192.0.2.99", AT_MAIN[2], AT_MAIN[3]];
    assert_eq!(all(&bind, 0), nothing, "all or nothing");

    // And before: nothing is even tried.
    bind.configure(&bind.section(&[]));
    let serial = bind.serial(ZONE);
    for words in [&THERE[..], &CHECK] {
        let said = bind.irongate(3, words).await.stderr;
        assert!(said.contains("web.shop.example A says 192.0.2.99"), "{said}");
    }
    bind.edit("update delete web.shop.example A\nupdate add web.shop.example 30 CNAME elsewhere.example");
    let said = bind.irongate(3, &THERE).await.stderr;
    assert!(said.contains("web.shop.example is an alias of elsewhere.example"), "{said}");
    bind.edit("update delete web.shop.example CNAME");
    let said = bind.irongate(3, &THERE).await.stderr;
    assert!(said.contains("there is no record web.shop.example A"), "{said}");
    assert_eq!(bind.serial(ZONE), (serial.parse::<u32>().unwrap() + 2).to_string(), "by hand only");

    // One that is there already is a condition of the rest.
    bind.edit("update add web.shop.example 30 A 192.0.2.20");
    let pointed = bind.irongate(0, &THERE).await.json();
    assert_eq!(pointed["zones"][0]["already"][0], "web.shop.example A");
    assert_eq!(all(&bind, 1), AT_SECONDARY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_that_is_frozen_or_behind_is_named() {
    let bind = Bind::start().await;
    bind.configure(&bind.section(&[("time_limit", "\"3s\"".to_owned())]));
    let second = format!("{}: it does not answer", bind.server(1));
    bind.signal(1, Signal::STOP);
    let said = bind.irongate(3, &CHECK).await.stderr;
    assert!(said.contains(&second), "{said}");
    assert_eq!(all(&bind, 0), AT_MAIN);
    let begin = Instant::now();
    let said = bind.irongate(4, &THERE).await.stderr;
    assert!(
        said.contains("was changed, and after 3 s not every name server says so") && said.contains(&second),
        "{said}"
    );
    assert!(begin.elapsed() < Duration::from_secs(20));
    assert_eq!(all(&bind, 0), AT_SECONDARY);
    let shown = bind.irongate(4, &["name", "show"]).await;
    assert!(shown.stdout.contains("does not lead to one site"), "{}", shown.stdout);
    bind.signal(1, Signal::CONT);
    bind.irongate(0, &THERE).await;
    assert_eq!(all(&bind, 1), AT_SECONDARY);

    // One that answers and gets no transfers: a name server of another zone that has the same name.
    let stale = Bind::start().await;
    let servers = format!("[\"127.0.0.1:{}\", \"127.0.0.1:{}\"]", bind.ports[0], stale.ports[0]);
    bind.configure(&bind.section(&[("servers", servers), ("time_limit", "\"2s\"".to_owned())]));
    let said = bind.irongate(4, &THERE).await.stderr;
    let expected =
        format!("127.0.0.1:{}: says 192.0.2.1 for db.shop.example A, with serial 1", stale.ports[0]);
    assert!(said.contains(&expected), "{said}");

    // Without a list, those that the zone names are asked.
    bind.configure(&bind.section(&[("servers", String::new()), ("time_limit", "\"1s\"".to_owned())]));
    let shown = bind.start_show().await;
    let servers = shown["zones"][0]["servers"].as_array().unwrap();
    let asked: Vec<_> =
        servers.iter().map(|server| format!("{} {}", server["server"], server["address"])).collect();
    assert_eq!(asked, ["\"ns1.shop.example\" \"127.0.0.3:53\"", "\"ns2.shop.example\" \"127.0.0.4:53\""]);
}

impl Bind {
    /// What is shown, whoever answers.
    async fn start_show(&self) -> Value {
        Process::run(self.dir.path(), &["name", "show", "--json"], PATIENCE).await.json()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn caches_must_forget_soon_enough_and_the_key_must_be_allowed() {
    let bind = Bind::start().await;
    bind.edit("update delete db.shop.example A\nupdate add db.shop.example 3600 A 192.0.2.1");
    bind.configure(&bind.section(&[]));
    let said = bind.irongate(3, &CHECK).await.stderr;
    assert!(
        said.contains("caches keep db.shop.example A for 3600 s, and at most 60 s are allowed"),
        "{said}"
    );

    // A key that is known and may not change these names; the check finds it, and changes nothing.
    bind.configure(&bind.section(&[("key_file", "\"poor.key\"".to_owned())]));
    let serial = bind.serial(ZONE);
    let said = bind.irongate(3, &CHECK).await.stderr;
    assert!(said.contains("does not take the update") && said.contains("REFUSED"), "{said}");
    let said = bind.irongate(1, &THERE).await.stderr;
    assert!(said.contains("REFUSED") && said.contains("update-policy"), "{said}");

    // The same name with another secret; a name that is not known; a file that others can read; none.
    let own = bind.dir.path().join("names.key");
    let right = fs::read_to_string(&own).unwrap();
    bind.configure(&bind.section(&[]));
    make_key(&own, "irongate", "hmac-sha256");
    let wrong = secret(&own);
    for (code, words) in [(1, &THERE[..]), (3, &CHECK)] {
        let finished = bind.irongate(code, words).await;
        assert!(
            finished.stderr.contains("knows key \"irongate\" with another secret (BADSIG)"),
            "{}",
            finished.stderr
        );
        assert!(!finished.stderr.contains(&wrong));
    }
    make_key(&own, "stranger", "hmac-sha256");
    let said = bind.irongate(1, &THERE).await.stderr;
    assert!(
        said.contains("does not know key \"stranger\" (BADKEY)") && said.contains("the same key"),
        "{said}"
    );
    fs::write(&own, &right).unwrap();
    fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let said = bind.irongate(2, &THERE).await.stderr;
    assert!(said.contains("let others read it") && said.contains("chmod 600"), "{said}");
    assert_eq!((all(&bind, 0), bind.serial(ZONE)), (AT_MAIN.map(str::to_owned), serial));
    bind.configure("");
    bind.irongate(2, &["name", "show"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_that_is_not_there_is_said_in_time() {
    let bind = Bind::start().await;
    bind.configure(&bind.section(&[("time_limit", "\"2s\"".to_owned())]));
    bind.signal(0, Signal::STOP);
    for (code, words) in [(1, &THERE[..]), (3, &CHECK)] {
        let begin = Instant::now();
        let said = bind.irongate(code, words).await.stderr;
        assert!(said.contains("of zone \"shop.example\": it does not answer"), "{said}");
        assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    }
    bind.signal(0, Signal::CONT);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    bind.configure(&bind.section(&[("server", format!("\"{nobody}\""))]));
    let said = bind.irongate(1, &THERE).await.stderr;
    assert!(said.contains("it cannot be reached"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_is_looked_for_and_one_that_is_long_comes_over_tcp() {
    let bind = Bind::start().await;
    // The update is done, and nobody says so.
    let lost = |question: &[u8], answer: Vec<u8>| if is_update(question) { Vec::new() } else { answer };
    let between = relay(bind.ports[0], Treatment { tcp: Box::new(lost), ..Treatment::default() }).await;
    bind.configure(&bind.section(&[("server", format!("\"127.0.0.1:{between}\""))]));
    let pointed = bind.irongate(0, &THERE).await.json();
    assert_eq!(pointed["zones"][0]["changed"].as_array().unwrap().len(), 4);
    assert_eq!(all(&bind, 1), AT_SECONDARY);

    // More addresses than fit into an answer over UDP (RFC 1035, 4.2.1: 512 bytes).
    let main: Vec<String> = (1..=60).map(|n| format!("10.0.0.{n}")).collect();
    let lines: Vec<_> =
        main.iter().map(|address| format!("update add many.shop.example 30 A {address}")).collect();
    bind.edit(&lines.join("\n"));
    let record = format!(
        "[[names.shop.records]]\nname = \"many\"\ntype = \"A\"\nvalues = {{ main = {main:?}, secondary = \"10.0.1.1\" }}\n"
    );
    bind.configure(&(bind.section(&[]) + &record));
    for (site, others) in [("main", "secondary"), ("secondary", "main")] {
        // The other records are at the secondary site: each is a condition, or goes along.
        let words = ["name", "point", "--to", site, "--json"];
        let pointed = bind.irongate(0, &words).await.json();
        let many = &pointed["zones"][0]["servers"][1]["records"][4];
        let values = if site == "main" { 60 } else { 1 };
        assert_eq!(many["values"].as_array().unwrap().len(), values, "from {others}: {many}");
    }
}

/// Whether a message is an update (RFC 2136, 2.2: opcode 5).
fn is_update(message: &[u8]) -> bool {
    message[2] >> 3 & 0xf == 5
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_zones_the_one_that_is_changed_is_named_when_the_other_fails() {
    let bind = Bind::start().await;
    // Both are looked at before the first is changed; the second one's update meets somebody else's.
    let (dir, port) = (bind.dir.path().to_owned(), bind.ports[0]);
    let hand = move || {
        let lines =
            "zone shop.example\nupdate delete db.shop.example A\nupdate add db.shop.example 30 A 192.0.2.99";
        output(&mut edit(&dir, "127.0.0.1", port, lines));
    };
    let between = relay(port, Treatment { before: Box::new(hand), ..Treatment::default() }).await;
    let shop = bind.section(&[("server", format!("\"127.0.0.1:{between}\""))]);
    let first = bind.section(&[("zone", format!("\"{OTHER}\""))]).replace("names.shop", "names.first");
    let first =
        first.split("[[names.first.records]]").take(2).collect::<Vec<_>>().join("[[names.first.records]]");
    bind.configure(&(first + &shop));
    let said = bind.irongate(4, &THERE).await.stderr;
    assert!(
        said.contains(
            "zone other.example is changed, and then: somebody else is changing zone \"shop.example\""
        ),
        "{said}"
    );
    assert_eq!(bind.says(1, "A", &format!("db.{OTHER}")), "192.0.2.2");
    assert_eq!(bind.says(0, "A", &format!("db.{ZONE}")), "192.0.2.99");
    // Before anything is changed, it is said that one of them stands elsewhere.
    bind.edit(
        "zone other.example\nupdate delete db.other.example A\nupdate add db.other.example 30 A 192.0.2.1",
    );
    let said = bind.irongate(3, &THERE).await.stderr;
    assert!(said.contains("nothing was changed in zone \"shop.example\""), "{said}");
    assert_eq!(bind.says(0, "A", &format!("db.{OTHER}")), "192.0.2.1");
}
