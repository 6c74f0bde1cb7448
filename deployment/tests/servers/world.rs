//! One test's own databases, roles, names and directories, on servers that it may share.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use irongate_deployment::configuration::Flow;
use irongate_deployment::{
    Configuration, Event, Instantiate, Instantiated, Report, Setup, instantiate, setup,
};

use crate::server::Server;

/// The password of both roles.
pub(crate) const PASSWORD: &str = "pencil sharpener 7";

pub(crate) struct World<'a> {
    pub(crate) source: &'a Server,
    pub(crate) target: &'a Server,
    /// The databases' name at both servers, and a part of every other name.
    pub(crate) name: String,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) configuration: Configuration,
}

impl<'a> World<'a> {
    /// Makes a database of the same name at both servers and runs `sql` in both. `flow` is added to the flow's section.
    pub(crate) async fn new((source, target): (&'a Server, &'a Server), sql: &str, flow: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("w{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        for server in [source, target] {
            server.batch("postgres", &format!("CREATE DATABASE {name}")).await;
            server.batch(&name, sql).await;
        }
        let dir = tempfile::tempdir().unwrap();
        let password = dir.path().join("password");
        fs::write(&password, format!("{PASSWORD}\n")).unwrap();
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
        let configuration = configuration(dir.path(), &name, source, target, flow);
        Self { source, target, name, dir, configuration }
    }

    /// The same deployment with another flow section.
    pub(crate) fn reconfigure(&mut self, flow: &str) {
        self.configuration = configuration(self.dir.path(), &self.name, self.source, self.target, flow);
    }

    pub(crate) fn flow(&self) -> &Flow {
        self.configuration.flow(&self.name).unwrap()
    }

    pub(crate) async fn setup(&self) -> Report {
        setup(&self.configuration, &[self.flow()], &Setup::default(), &mut ignore).await.unwrap()
    }

    pub(crate) async fn instantiate(&self) -> Instantiated {
        instantiate(&self.configuration, self.flow(), &Instantiate::default(), &mut ignore).await.unwrap()
    }

    pub(crate) async fn at_source(&self, sql: &str) {
        self.source.batch(&self.name, sql).await;
    }

    pub(crate) async fn at_target(&self, sql: &str) {
        self.target.batch(&self.name, sql).await;
    }

    pub(crate) async fn ask_source(&self, sql: &str) -> String {
        self.source.ask(&self.name, sql).await
    }

    pub(crate) async fn ask_target(&self, sql: &str) -> String {
        self.target.ask(&self.name, sql).await
    }

    /// Everything in a server that set-up could change, as text.
    pub(crate) async fn traces(&self, server: &Server) -> String {
        let name = &self.name;
        let sql = format!(
            "SELECT 'role', rolname::text, NULL FROM pg_roles WHERE rolname ~ '^{name}_'
             UNION ALL SELECT 'publication', pubname::text, NULL FROM pg_publication
             UNION ALL SELECT 'slot', slot_name::text, NULL FROM pg_replication_slots WHERE slot_name ~ '_{name}'
             UNION ALL SELECT 'origin', roname, NULL FROM pg_replication_origin WHERE roname ~ '_{name}$'
             UNION ALL SELECT 'schema', nspname::text, nspacl::text FROM pg_namespace WHERE nspname !~ '^pg_toast'
             UNION ALL SELECT 'relation', relname::text, relacl::text FROM pg_class WHERE relnamespace = 'public'::regnamespace
             UNION ALL SELECT 'function', oid::regprocedure::text, proacl::text FROM pg_proc
                        WHERE proname ~ '^pg_replication_origin'
             UNION ALL SELECT 'database', datname::text, datacl::text FROM pg_database WHERE datname = '{name}'
             ORDER BY 1, 2"
        );
        // Cluster-wide grants of other tests' roles are none of this one's business.
        let all = server.ask(name, &sql).await;
        all.lines()
            .filter(|line| !line.starts_with("function") || line.contains(&format!("{name}_")))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

pub(crate) fn ignore(_: Event<'_>) {}

fn configuration(dir: &Path, name: &str, source: &Server, target: &Server, flow: &str) -> Configuration {
    let path: PathBuf = dir.join("irongate.toml");
    let address = |server: &Server| {
        format!(
            "uri = \"{uri}\"\nextract_role = \"{name}_extract\"\nreplicat_role = \"{name}_replicat\"\n\
             password_file = \"password\"\nadmin_uri = \"{uri} user=postgres\"\n",
            uri = server.uri(name)
        )
    };
    let text = format!(
        "[deployment]\nname = \"test\"\nstate_directory = \"state\"\n[sites.a]\n[sites.b]\n\
         [databases.db.a]\n{}[databases.db.b]\n{}\
         [flows.{name}]\ndatabase = \"db\"\nfrom = \"a\"\nto = \"b\"\n{flow}\n",
        address(source),
        address(target)
    );
    fs::write(&path, text).unwrap();
    Configuration::load(&path).unwrap_or_else(|error| panic!("{error}"))
}
