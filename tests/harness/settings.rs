//! How a test wants its server.

use std::collections::BTreeMap;

use crate::network::Site;

/// Settings of a server: what differs from the harness's own.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub(crate) parameters: BTreeMap<String, String>,
    pub(crate) hba: Vec<String>,
    pub(crate) hba_only: bool,
    pub(crate) tls: bool,
    pub(crate) on_disk: bool,
    pub(crate) site: Option<Site>,
}

impl Settings {
    /// The harness's settings: logical decoding on, 20 senders, slots and prepared transactions, commit timestamps,
    /// and no fsync.
    pub fn new() -> Self {
        Settings::default()
    }

    /// Sets a parameter of `postgresql.conf`.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.parameters.insert(name.to_owned(), value.to_string());
        self
    }

    /// Whether the server syncs its files. Without, a killed server keeps its data (the kernel has it); a machine that
    /// loses power would not.
    #[must_use]
    pub fn fsync(self, on: bool) -> Self {
        self.set("fsync", if on { "on" } else { "off" })
    }

    /// Adds a line to `pg_hba.conf`, before the harness's own lines: it is looked at first.
    #[must_use]
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.to_owned());
        self
    }

    /// Leaves out the harness's own lines of `pg_hba.conf` except the one that lets the superuser in by unix socket.
    #[must_use]
    pub fn hba_only(mut self) -> Self {
        self.hba_only = true;
        self
    }

    /// Puts the server's files on disk. Without, they are in memory where that is plenty: too little for a test that
    /// moves gigabytes, or one that measures.
    #[must_use]
    pub fn on_disk(mut self) -> Self {
        self.on_disk = true;
        self
    }

    /// A server that speaks TLS and knows a client CA; see [`crate::Server::tls`].
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Puts the server at a site of a network: it listens at the site's address, where both sites may come in. The test
    /// itself reaches it by its unix socket only.
    #[must_use]
    pub fn at(mut self, site: &Site) -> Self {
        self.site = Some(site.clone());
        self
    }

    /// The address that the server listens on.
    pub(crate) fn host(&self) -> String {
        self.site.as_ref().map_or_else(|| "127.0.0.1".to_owned(), |site| site.address().to_string())
    }

    pub(crate) fn hba_file(&self) -> String {
        // The first line is the harness's way in, whatever a test forbids.
        let mut lines = vec!["local all postgres trust".to_owned()];
        lines.extend(self.hba.iter().cloned());
        if !self.hba_only {
            lines.extend(
                [
                    "local all all trust",
                    "local replication all trust",
                    "host all postgres 127.0.0.1/32 trust",
                    "host replication postgres 127.0.0.1/32 trust",
                    "host all all 127.0.0.1/32 scram-sha-256",
                    "host replication all 127.0.0.1/32 scram-sha-256",
                ]
                .map(str::to_owned),
            );
            if self.site.is_some() {
                lines.extend(
                    ["host all postgres samenet trust", "host all all samenet scram-sha-256"]
                        .map(str::to_owned),
                );
                lines.push("host replication all samenet scram-sha-256".to_owned());
            }
        }
        lines.join("\n") + "\n"
    }

    pub(crate) fn conf_file(&self, own: &[(&str, String)]) -> String {
        let host = self.host();
        let mut parameters: BTreeMap<&str, &str> = BTreeMap::from([
            ("listen_addresses", host.as_str()),
            ("wal_level", "logical"),
            ("max_wal_senders", "20"),
            ("max_replication_slots", "20"),
            ("max_prepared_transactions", "20"),
            ("track_commit_timestamp", "on"),
            ("max_connections", "100"),
            // In the data directory, with which it goes, also when the server is killed.
            ("dynamic_shared_memory_type", "mmap"),
            ("shared_buffers", "64MB"),
            ("max_wal_size", "1GB"),
            ("min_wal_size", "80MB"),
            ("fsync", "off"),
            ("autovacuum_naptime", "10s"),
            ("logging_collector", "off"),
            ("log_line_prefix", "%m [%p] %q%u@%d %a: "),
            ("log_timezone", "UTC"),
            ("timezone", "UTC"),
            ("lc_messages", "C"),
        ]);
        parameters.extend(own.iter().map(|(name, value)| (*name, value.as_str())));
        parameters.extend(self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let quoted = |value: &str| value.replace('\'', "''");
        parameters.iter().map(|(name, value)| format!("{name} = '{}'\n", quoted(value))).collect()
    }
}
