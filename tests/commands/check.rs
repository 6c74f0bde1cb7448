//! The preflight as its user has it: silent where all is well, and with statements that mend what is not.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use irongate_tests::{Binaries, Plan, SITES, Server};
use serde_json::Value;

use super::deployment::Deployment;

/// Runs a script as psql does, at the database "app".
fn psql(server: &Server, script: &str) {
    // Not every installation of a server brings a client; one of another version does as well.
    let programs = Server::majors().into_iter().map(|major| Binaries::of(major).program("psql"));
    let program = programs.into_iter().find(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("psql"));
    let mut command = Command::new(program);
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &server.uri("postgres", "app")]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("there is a psql");
    let mut input = child.stdin.take().expect("it is ours");
    std::io::Write::write_all(&mut input, script.as_bytes()).expect("psql reads");
    drop(input);
    let done = child.wait_with_output().expect("it ends");
    assert!(done.status.success(), "{}\n{script}", String::from_utf8_lossy(&done.stderr));
}

fn loud(found: &Value) -> Vec<String> {
    let findings = found["findings"].as_array().expect("findings are a list");
    findings.iter().filter(|finding| finding["severity"] != "note").map(ToString::to_string).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_prints_mends_both_sites() {
    let major = *Server::majors().last().expect("a version");
    let deployment = Deployment::ready(major, "").await;
    assert_eq!(loud(&deployment.json(&["check"]).await), [""; 0], "it is sound");
    let sources = "REVOKE SELECT ON person FROM irongate_extract; ALTER TABLE note REPLICA IDENTITY NOTHING;
         CREATE TABLE \"new\n; DROP TABLE person; --\" (id int PRIMARY KEY); SELECT lo_create(0)";
    deployment.source.batch_in("app", sources).await;
    let targets = "CREATE TABLE \"new\n; DROP TABLE person; --\" (id int PRIMARY KEY);
         ALTER TABLE person DROP at; ALTER TABLE note ALTER number TYPE bigint";
    deployment.target.batch_in("app", targets).await;
    let found = deployment.expect(3, &["check", "--json"]).await.json();
    assert!(loud(&found).len() >= 7, "{found}");

    let printed = deployment.expect(0, &["check", "--fix-sql"]).await.stdout;
    assert_eq!(deployment.expect(0, &["check", "--fix-sql"]).await.stdout, printed, "it changes nothing");
    assert!(!printed.contains("a secret of its own"), "{printed}");
    let as_json = deployment.json(&["check", "--fix-sql"]).await;
    let statements = as_json["statements"].as_array().expect("statements are a list");
    assert!(statements.len() >= 6 && statements.iter().all(|one| one["connection"] == "admin"), "{as_json}");
    // One part for each database, and what nobody can run at the end.
    let parts: Vec<&str> = printed.split("-- === ").skip(1).collect();
    let [main, secondary, rest] = parts.as_slice() else { panic!("{printed}") };
    for (part, site, server) in
        [(main, SITES[0], &deployment.source), (secondary, SITES[1], &deployment.target)]
    {
        assert!(part.starts_with(&format!("database \"app\" at site \"{site}\", as admin\n")), "{part}");
        assert!(part.contains(&format!("-- \\connect {}", server.uri("postgres", "app"))), "{part}");
        psql(server, &format!("-- {part}"));
    }
    assert!(
        rest.contains("large objects") && rest.lines().skip(1).all(|line| line.starts_with("--")),
        "{rest}"
    );
    let left = deployment.json(&["check"]).await;
    let left = loud(&left);
    assert!(left.len() == 1 && left[0].contains("large objects"), "{left:?}");
    let again = deployment.expect(0, &["check", "--fix-sql"]).await.stdout;
    assert!(again.lines().all(|line| line.is_empty() || line.starts_with("--")), "{again}");
    deployment.expect(2, &["check", "nobody", "--fix-sql"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_deployment_raises_no_alarm() {
    for major in Server::majors_in_turn() {
        let reference = Plan::new(major).make().await;
        reference.expect("secondary", 0, &["setup", "css"]).await;
        let managers = SITES.map(|site| reference.start(site, &["manager"]));
        reference.runs().await;
        reference.drained(1).await;
        for site in SITES {
            let found = reference.json(site, &["check"]).await;
            assert_eq!(loud(&found), [""; 0], "{major} at {site}");
        }
        for manager in managers {
            super::deployment::stop(manager).await;
        }
    }
}
