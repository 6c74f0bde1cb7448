//! Starts a server, says where it is, and waits to be killed: the other half of the test of the watchdog.

use irongate_tests::{Server, Settings};

#[tokio::main]
async fn main() {
    let server = Server::start(Server::majors()[0], &Settings::new()).await;
    #[expect(clippy::print_stdout, reason = "the test reads it")]
    {
        println!("{} {}", server.pid(), server.data().display());
    }
    std::future::pending::<()>().await;
}
