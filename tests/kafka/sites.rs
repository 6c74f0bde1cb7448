//! Two sites with managers and databases, one flow through Kafka, as an operator has it.

use std::fs;
use std::time::Duration;

use irongate_tests::{Kafka, KafkaSettings, Plan, Reference, SITES, Server, wait_for};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);
const PASSWORD: &str = "a-secret-of-the-brokers";

/// Changes the configuration.
fn change(reference: &Reference, from: &str, to: &str) {
    let file = reference.directory.path().join("irongate.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(&file, text.replacen(from, to, 1)).unwrap();
}

/// What `check` says of the topic.
async fn findings(reference: &Reference) -> Vec<(String, String)> {
    let checked = reference.start("main", &["check", "--json"]).finish(PATIENCE).await;
    let found: Value = checked.json();
    let all = found["findings"].as_array().or_else(|| found.as_array()).unwrap().clone();
    let of_topic = all.into_iter().filter(|finding| finding["object"].to_string().contains("topic"));
    of_topic
        .map(|finding| {
            assert!(finding["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{finding}");
            (
                finding["severity"].as_str().unwrap().to_lowercase(),
                finding["reason"].as_str().unwrap().to_owned(),
            )
        })
        .collect()
}

async fn says(reference: &Reference, site: &str, group: &str, words: &str) -> Value {
    wait_for(PATIENCE, &format!("{group} to say \"{words}\""), async || {
        let it = reference.json(site, &["info", group]).await["groups"][0].clone();
        if it.to_string().contains(words) { Ok(it) } else { Err(it.to_string()) }
    })
    .await
}

/// Every file below a directory that holds a text.
fn holding(directory: &std::path::Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(holding(&path, text));
        } else if fs::read(&path)
            .is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
        {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_goes_through_kafka_by_tls_and_scram_and_says_what_is_wrong() {
    let major = Server::majors().into_iter().max().unwrap();
    let cluster = KafkaSettings::new().user("irongate", PASSWORD);
    let (reference, mut kafka) = tokio::join!(Plan::new(major).make(), Kafka::start(&cluster));
    let directory = reference.directory.path();
    fs::write(directory.join("kafka-password"), "wrong\n").unwrap();
    // A pump that goes through Kafka, and no Kafka: refused before anything is done.
    change(&reference, "[flows.csp.pump]\n", "[flows.csp.pump]\nvia = \"kafka\"\n");
    let refused = reference.expect("main", 2, &["check"]).await;
    assert!(refused.stderr.contains("a pump into Kafka needs a cluster"), "{}", refused.stderr);
    let section = format!(
        "[kafka]\nbrokers = [\"{}\"]\nauthority = \"{}\"\nuser = \"irongate\"\npassword_file = \"kafka-password\"\n\
         replication = 1\nmin_in_sync = 1\ntimeout = \"5s\"\nretry_delay = \"100ms\"\nretry_longest_delay = \"500ms\"\n",
        kafka.brokers()[0].replace("127.0.0.1", "localhost"),
        kafka.tls().other_ca().display()
    );
    change(&reference, "[sites.main]\n", &format!("{section}[sites.main]\n"));
    // The wrong authority, then the wrong password, then no topic.
    let is_error = |found: &[(String, String)], words: &str| {
        assert!(
            found
                .iter()
                .any(|(severity, reason)| severity == "error" && reason.to_lowercase().contains(words)),
            "{words}: {found:?}"
        );
    };
    is_error(&findings(&reference).await, "certificate");
    change(
        &reference,
        &kafka.tls().other_ca().display().to_string(),
        &kafka.tls().ca().display().to_string(),
    );
    is_error(&findings(&reference).await, "authentication");
    fs::write(directory.join("kafka-password"), format!("{PASSWORD}\n")).unwrap();
    is_error(&findings(&reference).await, "is not there");
    let set_up = reference.expect("main", 0, &["setup", "csp"]).await;
    let said = set_up.stdout + &set_up.stderr;
    assert!(said.contains("topic \"irongate.shop.csp\" was made"), "{said}");
    reference.expect("main", 0, &["setup", "csp"]).await;
    let found = findings(&reference).await;
    assert!(
        found.iter().all(|(severity, _)| severity != "error")
            && found.iter().any(|(_, reason)| reason.contains("one copy")),
        "{found:?}"
    );

    let mut managers = SITES.map(|site| reference.start(site, &["manager"]));
    reference.same(1).await;
    says(&reference, "secondary", "csp-collector", "reading topic").await;
    // The broker goes, work goes on, the broker comes back.
    kafka.kill(0);
    reference.servers[0]
        .batch_in("config", "INSERT INTO entry SELECT 'away', n, 'x' FROM generate_series(1, 5000) n")
        .await;
    for (site, group) in [("main", "csp-pump"), ("secondary", "csp-collector")] {
        let it = says(&reference, site, group, "trying again").await;
        assert!(it["error"].to_string().contains("Kafka at localhost"), "{it}");
        assert!(it["hint"].as_str().is_some_and(|hint| hint.contains("brokers")), "{it}");
    }
    tokio::task::block_in_place(|| kafka.start_again(0));
    reference.same(2).await;
    reference.expect("main", 0, &["restart", "csp-pump"]).await;
    reference.expect("secondary", 0, &["restart", "csp-collector", "csp-replicat"]).await;
    reference.same(3).await;
    let lag = reference.json("main", &["lag", "csp"]).await;
    assert!(lag.to_string().contains("csp"), "{lag}");
    let dump =
        reference.expect("main", 0, &["trail", "dump", "csp", "--kafka", "--table", "public.entry"]).await;
    assert!(dump.stdout.contains("away"), "{}", dump.stdout);
    reference.expect("main", 2, &["trail", "dump", "msp", "--kafka"]).await;
    for manager in &mut managers {
        manager.terminate();
        assert!(manager.wait(PATIENCE).await.success(), "{}", manager.stderr());
    }
    let password = directory.join("kafka-password").display().to_string();
    assert_eq!(holding(directory, PASSWORD), [password], "the secret is in its own file and nowhere else");
}
