//! The initial load through files: exported, carried in a directory, imported, and the stream goes on from there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use irongate_tests::{Process, Server, wait_until};

use super::deployment::{Deployment, PATIENCE, Writer, stop};

const SMALL: &str = "[flows.csp.instantiate]\nchunk_size = \"64KiB\"\n";

/// Files of rows, in their order.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("it is there").map(|entry| entry.expect("it is").path());
    let mut files: Vec<_> = entries.filter(|path| path.to_string_lossy().ends_with(".zst")).collect();
    files.sort();
    files
}

/// Adds people.
fn changes(n: i32) -> String {
    format!(
        "INSERT INTO person VALUES ({n}, 'new {n}'); UPDATE person SET name = 'changed {n}' WHERE id = {n} % 1000;
         DELETE FROM note WHERE person = {n} % 997"
    )
}
#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_carried_and_the_stream_goes_on_behind_it() {
    for major in Server::majors_in_turn() {
        let deployment = Deployment::new(major, SMALL).await;
        deployment.expect(0, &["setup"]).await;
        let more = "INSERT INTO note SELECT n, 2, repeat(md5(n::text), 40) FROM generate_series(1, 1000) n";
        deployment.source.batch_in("app", more).await;
        let writer = Writer::start(&deployment.source, changes).await;
        killed_exports(&deployment).await;
        let done = deployment.json(&["export", "out", "csp"]).await;
        let job = done["job"].as_str().expect("a name").to_owned();
        let out = deployment.path().join("out");
        assert!(done["files"].as_u64() > Some(5) && done["tables"] == 2, "{done}");
        for path in files(&out) {
            assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
        }
        let status = deployment.json(&["export", "out", "--status"]).await;
        assert!(status["state"] == "done" && status["job"] == job.as_str() && status["rows"] == done["rows"]);
        // Extract goes on while the directory is on its way.
        let extract = deployment.start("csp-extract").await;
        deployment.expect(3, &["export", "out", "csp"]).await;
        let carried = deployment.path().join("carried");
        fs::rename(&out, &carried).expect("it can be moved");
        killed_imports(&deployment).await;
        let imported = deployment.json(&["import", "carried"]).await;
        assert_eq!((&imported["rows"], &imported["job"]), (&done["rows"], &done["job"]), "{imported}");
        // The target has rows now.
        deployment.expect(3, &["import", "carried", "csp"]).await;
        let replicat = deployment.start("csp-replicat").await;
        writer.end().await;
        deployment.add(5_000_000).await;
        deployment.arrived(5_000_000).await;
        deployment.compare().await.assert_same();
        stop(extract).await;
        stop(replicat).await;
    }
}

/// Exports that are killed leave what nobody takes for whole.
async fn killed_exports(deployment: &Deployment) {
    for number in 0..2 {
        let name = format!("killed-{number}");
        let mut process =
            Process::irongate(deployment.path(), &["export", &name, "csp", "--rate-limit", "100KiB"]);
        let directory = deployment.path().join(&name);
        wait_until(PATIENCE, "the first file of an export", async || {
            directory.is_dir() && !files(&directory).is_empty()
        })
        .await;
        tokio::time::sleep(Duration::from_millis(300 * number)).await;
        process.kill();
        process.wait(PATIENCE).await;
        let status = deployment.json(&["export", &name, "--status"]).await;
        assert_eq!(status["state"], "cut off", "{status}");
        let refused = deployment.expect(3, &["import", &name, "csp"]).await;
        assert!(
            refused.stderr.contains("manifest.json") && refused.stderr.contains("cut off"),
            "{}",
            refused.stderr
        );
        deployment.expect(3, &["export", &name, "csp"]).await;
    }
}

/// Imports that are killed are gone on with, and copy no file twice.
async fn killed_imports(deployment: &Deployment) {
    let mut last = 0;
    for number in 1..=3_u64 {
        let arguments = ["import", "carried", "csp", "--parallel", "1", "--rate-limit", "150KiB"];
        let mut process = Process::irongate(deployment.path(), &arguments);
        let done = "SELECT count(*) FROM irongate.load_chunk";
        wait_until(PATIENCE, "a file more", async || {
            let there = deployment.target.rows("app", done).await;
            there[0][0].as_deref().and_then(|text| text.parse::<i64>().ok()).is_some_and(|there| there > last)
        })
        .await;
        tokio::time::sleep(Duration::from_millis(50 * number)).await;
        process.kill();
        process.wait(PATIENCE).await;
        let there: i64 = deployment.target.scalar("app", done).await.parse().expect("a number");
        assert!(there > last, "{there} {last}");
        last = there;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_not_whole_or_of_another_is_refused_by_name() {
    let major = *Server::majors().last().expect("a version");
    let other =
        "[flows.other]\ndatabase = \"app\"\nfrom = \"main\"\nto = \"secondary\"\ntables = [\"public.*\"]\n";
    let deployment = Deployment::new(major, &format!("{SMALL}{other}")).await;
    deployment.expect(0, &["setup", "csp"]).await;
    deployment.expect(0, &["export", "out", "csp"]).await;
    let out = deployment.path().join("out");
    let file = files(&out)[1].clone();
    let name = file.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    let whole = fs::read(&file).expect("it is there");
    let manifest = out.join("manifest.json");
    let text = fs::read(&manifest).expect("it is there");
    let refused = async |arguments: &[&str], parts: &[&str]| {
        let said = deployment.expect(3, arguments).await.stderr;
        for part in parts {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(deployment.target.scalar("app", "SELECT count(*) FROM person").await, "0", "{said}");
    };
    let import = ["import", "out", "csp"];
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&file, &flipped).expect("it is ours");
    refused(&import, &[&name, "its digest"]).await;
    fs::write(&file, &whole[..whole.len() - 3]).expect("it is ours");
    refused(&import, &[&name, "bytes instead of"]).await;
    fs::remove_file(&file).expect("it is ours");
    refused(&import, &[&name, "is missing"]).await;
    fs::write(&file, &whole).expect("it is ours");
    fs::write(out.join("stranger"), "").expect("it is ours");
    refused(&import, &["stranger", "does not belong"]).await;
    fs::remove_file(out.join("stranger")).expect("it is ours");
    let mut flipped = text.clone();
    flipped[text.len() / 2] ^= 1;
    fs::write(&manifest, &flipped).expect("it is ours");
    refused(&import, &["manifest.json", "is damaged"]).await;
    fs::remove_file(&manifest).expect("it is ours");
    refused(&import, &["manifest.json", "is missing"]).await;
    fs::write(&manifest, &text).expect("it is ours");
    refused(&["import", "out", "other"], &["manifest.json", "flow \"csp\"", "not of flow \"other\""]).await;
    // The source is another server.
    let path = deployment.path().join("irongate.toml");
    let configuration = fs::read_to_string(&path).expect("it is there");
    let [source, target] =
        [&deployment.source, &deployment.target].map(|server| format!(":{}/", server.port()));
    fs::write(deployment.path().join("turned.toml"), configuration.replacen(&source, &target, 2))
        .expect("ours");
    let role = "CREATE ROLE irongate_extract LOGIN REPLICATION PASSWORD 'a secret of its own'";
    deployment.target.batch_in("app", role).await;
    refused(&["--config", "turned.toml", "import", "out", "csp"], &["manifest.json", "system"]).await;
    // Rows of somebody else.
    let row = "SET session_replication_role = replica; INSERT INTO note VALUES (0, 0)";
    deployment.target.batch_in("app", row).await;
    refused(&import, &["public.note"]).await;
    deployment.expect(0, &["import", "out", "csp", "--truncate"]).await;
    deployment.compare().await.assert_same();
    // The flow works now: its slot and its trail are not made anew without a word.
    let slot = "SELECT confirmed_flush_lsn || ' ' || restart_lsn FROM pg_replication_slots";
    let before = deployment.source.scalar("app", slot).await;
    for words in [&["export", "out", "csp"] as &[_], &["export", "fresh", "csp"]] {
        let said = deployment.expect(3, words).await.stderr;
        assert!(said.contains("works already") && said.contains("--restart"), "{said}");
    }
    assert_eq!(deployment.source.scalar("app", slot).await, before);
    assert!(!deployment.path().join("fresh").exists());
    let said = deployment.expect(3, &["export", "out", "csp", "--restart"]).await.stderr;
    assert!(said.contains("is not empty") && said.contains("name a directory"), "{said}");
    assert_eq!(deployment.source.scalar("app", slot).await, before);
    deployment.expect(0, &["export", "fresh", "csp", "--restart"]).await;
    assert_ne!(deployment.source.scalar("app", slot).await, before);
    // Another beginning of the flow makes the export worthless.
    deployment.expect(0, &["instantiate", "csp", "--truncate"]).await;
    let said = deployment.expect(3, &["import", "out", "csp", "--truncate"]).await.stderr;
    assert!(said.contains("the flow has begun anew since"), "{said}");
}
