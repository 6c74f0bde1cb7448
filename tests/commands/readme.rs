//! The README's way from nothing to a running flow, typed as it stands there.

use std::path::Path;

use irongate_tests::{Process, Server, wait_until};

use super::deployment::{Deployment, PATIENCE, stop};

/// The commands of the block in which a flow is set up.
fn commands() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = std::fs::read_to_string(path).expect("there is a README");
    let block = text
        .split("```sh\n")
        .filter_map(|rest| rest.split("```").next())
        .find(|block| block.contains("irongate setup"))
        .expect("the README sets a flow up");
    block.lines().map(|line| line.split('#').next().unwrap_or_default().trim().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_readme_lead_to_a_running_flow() {
    let deployment = Deployment::new(*Server::majors().last().expect("there is a version"), "").await;
    let commands = commands();
    assert!(commands.len() >= 10, "{commands:?}");
    let mut processes = Vec::new();
    for command in &commands {
        let words: Vec<&str> = command.split_whitespace().skip(1).collect();
        if let Some(words) = words.strip_suffix(&["&"]) {
            processes.push(Process::irongate(deployment.path(), words));
            let group = words.last().expect("a group is named");
            wait_until(PATIENCE, &format!("{group} to be RUNNING"), async || {
                deployment.group(group).await["state"] == "RUNNING"
            })
            .await;
        } else {
            let text = deployment.expect(0, &words).await.stdout;
            assert!(!text.trim().is_empty(), "{command} says nothing");
        }
    }
    assert_eq!(processes.len(), 2);
    deployment.add(5000).await;
    deployment.arrived(5000).await;
    deployment.compare().await.assert_same();
    for process in processes {
        stop(process).await;
    }
}
