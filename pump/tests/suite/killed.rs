//! A collector in a process of its own, ended by a signal that it cannot hear.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use irongate_pump::{AcceptedFlow, Collector, CollectorSettings, Credentials, LinkSettings};

use crate::support::{World, listener, pump, until};
use crate::trail::{Dice, Source, content, seed};

const DIRECTORY: &str = "IRONGATE_ORDER_DIRECTORY";
const ADDRESS: &str = "IRONGATE_ORDER_ADDRESS";

/// The other process; does nothing unless it was started by the test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it is the other process of a test"]
async fn a_collector() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let certificates = directory.join("certs");
    let credentials = Credentials::Certificates {
        authority: certificates.join("ca.crt"),
        certificate: certificates.join("secondary.crt"),
        key: certificates.join("secondary.key"),
    };
    let settings = CollectorSettings {
        group: "collector".to_owned(),
        deployment: "shop".to_owned(),
        site: "secondary".to_owned(),
        flows: vec![AcceptedFlow { flow: "csp".to_owned(), from: "main".to_owned(), epoch: 1 }],
        listen: Some(std::env::var(ADDRESS).unwrap()),
        connect: Vec::new(),
        link: LinkSettings::new(credentials),
        trail_directory: directory.join("secondary/trail"),
        state_directory: directory.join("secondary/state"),
        file_size: 30_000,
        keep_free: None,
    };
    Collector::new(settings).run(std::future::pending()).await.unwrap();
}

fn start(world: &World, address: SocketAddr) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "killed::a_collector", "--ignored", "--nocapture"]);
    command.env(DIRECTORY, world.dir.path()).env(ADDRESS, address.to_string());
    command.stdout(Stdio::null()).stdin(Stdio::null()).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_s_process_is_killed_anywhere_and_nothing_is_lost_or_repeated() {
    let mut dice = Dice(seed());
    let world = World::new();
    let mut source = Source::create(&world.near(), dice.roll());
    source.write(20);
    let (free, address) = listener().await;
    drop(free);
    let mut settings = world.pump_settings(address);
    // So that a kill finds it at work.
    settings.bandwidth = Some(4_000_000);
    let running = pump(settings);
    for round in 0..8 {
        source.large(dice.below(60), 20_000);
        source.write(5);
        let before = content(&world.far()).len();
        let mut child = start(&world, address);
        if round % 2 == 0 {
            until("something has arrived", || content(&world.far()).len() > before).await;
        }
        tokio::time::sleep(Duration::from_millis(dice.below(150))).await;
        child.kill().unwrap();
        child.wait().unwrap();
        crate::support::is_beginning(&content(&world.near()), &content(&world.far()));
    }
    let mut child = start(&world, address);
    world.arrives().await;
    running.stop().await.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    world.is_identical();
}
