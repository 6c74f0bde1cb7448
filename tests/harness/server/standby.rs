//! A standby: a copy of a server that follows it, and may be promoted when it is gone.

use std::process::Command;

use super::{Mode, Server, give_to_server};
use crate::settings::Settings;
use crate::tempdir::TempDir;
use crate::watchdog::Watchdog;

/// The physical slot by which a standby holds its primary's log.
pub const STANDBY_SLOT: &str = "standby";

impl Server {
    /// Makes a standby that streams from this server, which is stopped for the copy and started again. The standby is
    /// not started yet: see [`Server::start_again`]. It has the slot [`STANDBY_SLOT`] at this server.
    ///
    /// # Panics
    /// When that fails.
    pub async fn make_standby(&mut self, settings: &Settings) -> Self {
        self.batch(&format!("SELECT pg_create_physical_replication_slot('{STANDBY_SLOT}', true)")).await;
        self.stop(Mode::Fast).await;
        let dir = if settings.on_disk { TempDir::new() } else { TempDir::in_memory() };
        give_to_server(dir.path());
        let copied = Command::new("cp").arg("-a").arg(self.data()).arg(dir.path().join("data")).status();
        assert!(copied.is_ok_and(|status| status.success()), "cannot copy {:?}", self.data());
        self.start_again().await;
        let watchdog = Watchdog::over_server(dir.path());
        let socket = dir.path().to_string_lossy().into_owned();
        let primary =
            format!("host={} port={} user=postgres dbname=postgres", self.dir.path().display(), self.port);
        let own = [
            ("unix_socket_directories", socket),
            ("primary_conninfo", primary),
            ("primary_slot_name", STANDBY_SLOT.to_owned()),
            ("hot_standby_feedback", "on".to_owned()),
            ("wal_receiver_status_interval", "1s".to_owned()),
            ("wal_retrieve_retry_interval", "200ms".to_owned()),
        ];
        let mut port = self.port;
        while port == self.port {
            port = super::free_port();
        }
        let standby = Self {
            major: self.major,
            port,
            host: self.host.clone(),
            site: self.site.clone(),
            binaries: self.binaries.clone(),
            tls: None,
            process: None,
            _watchdog: watchdog,
            dir,
        };
        standby.write("harness.conf", &settings.conf_file(&own));
        standby.write("standby.signal", "");
        standby
    }
}
