//! Starts a server, says where it is, and waits to be killed: the other half of the tests of the watchdog. With
//! `--at-a-site`, the server is at a site of a network, and so is a process that has no parent.

use std::process::Command;

use irongate_tests::{Network, Server, Settings};

#[tokio::main]
async fn main() {
    let network =
        std::env::args().any(|word| word == "--at-a-site").then(|| Network::start().expect("a network"));
    let mut settings = Settings::new();
    let mut orphan = String::new();
    if let Some(network) = &network {
        settings = settings.at(network.site(0));
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]);
        let output = network.site(1).enter(&shell).output().expect("a shell");
        orphan = String::from_utf8_lossy(&output.stdout).trim().to_owned() + " ";
    }
    let server = Server::start(Server::majors()[0], &settings).await;
    #[expect(clippy::print_stdout, reason = "the test reads it")]
    {
        println!("{} {orphan}{}", server.pid(), server.data().display());
    }
    std::future::pending::<()>().await;
}
