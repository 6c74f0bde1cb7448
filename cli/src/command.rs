//! Where each command begins. A command reads the configuration, makes one call into a library, and shows the result.

mod certs;
mod check;
mod compare;
mod completions;
mod conflicts;
mod errors;
mod fence;
mod info;
mod init;
mod instantiate;
mod lag;
mod large_objects;
mod manager;
mod name;
mod position;
mod repair;
mod run;
mod runs;
mod salvage;
mod sequences;
mod setup;
mod sites;
mod stats;
mod switchover;
mod trail;
mod transfer;

use irongate_deployment::Configuration;
use irongate_deployment::configuration::Flow;
use irongate_manager::supervisor::Word;

use crate::arguments::{Arguments, Command, Global};

/// Does what was typed.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { global, command } = arguments;
    match command {
        Command::Demo(demo) => crate::demo::run(&global, &demo).await,
        Command::Init(options) => init::run(&global, &options),
        Command::Check(options) => check::run(&global, &options).await,
        Command::Setup(options) => setup::setup(&global, &options).await,
        Command::Teardown(options) => setup::teardown(&global, &options).await,
        Command::Instantiate(options) => instantiate::run(&global, &options).await,
        Command::Export(options) => transfer::export(&global, &options).await,
        Command::Import(options) => transfer::import(&global, &options).await,
        Command::KeepSnapshot(options) => instantiate::keep(&global, &options).await,
        Command::Run(options) => run::run(&global, &options).await,
        Command::Manager => manager::manager(&global).await,
        Command::Start(order) => manager::order(&global, Word::Start, &order).await,
        Command::Stop(order) => manager::order(&global, Word::Stop, &order).await,
        Command::Restart(order) => manager::order(&global, Word::Restart, &order).await,
        Command::Kill(order) => manager::order(&global, Word::Kill, &order).await,
        Command::Events(options) => manager::events(&global, &options).await,
        Command::Report(options) => manager::report(&global, &options).await,
        Command::Reload => manager::reload(&global).await,
        Command::Health { pid } => manager::health(&global, pid).await,
        Command::Certs { directory } => certs::run(&global, &directory),
        Command::Switchover(options) => switchover::switchover(&global, &options).await,
        Command::Switchback(options) => switchover::switchback(&global, &options).await,
        Command::Failover(options) => switchover::failover(&global, &options).await,
        Command::Reinstate(options) => switchover::reinstate(&global, &options).await,
        Command::Runs { forget: Some(run), .. } => runs::forget(&global, &run).await,
        Command::Runs { unfinished, last, .. } if unfinished || last => runs::name(&global, unfinished),
        Command::Runs { run, html, .. } => runs::run(&global, run.as_deref(), html.as_deref()),
        Command::Salvage(options) => salvage::run(&global, &options).await,
        Command::Fence(options) => fence::close(&global, &options).await,
        Command::Open(options) => fence::open(&global, &options).await,
        Command::Name(name) => name::run(&global, &name).await,
        Command::Info(names) => info::run(&global, &names).await,
        Command::Lag(names) => lag::run(&global, &names).await,
        Command::Stats(names) => stats::run(&global, &names).await,
        Command::Position(options) => position::run(&global, &options).await,
        Command::Trail(trail) => trail::run(&global, trail).await,
        Command::Errors(errors) => errors::run(&global, errors).await,
        Command::Conflicts(conflicts) => conflicts::run(&global, conflicts).await,
        Command::Compare(options) => compare::run(&global, &options).await,
        Command::Repair(options) => repair::run(&global, &options).await,
        Command::LargeObjects(options) => large_objects::run(&global, &options).await,
        Command::Sequences(options) => sequences::run(&global, &options).await,
        Command::Completions { shell } => completions::completions(shell),
        Command::Man { directory } => completions::man(&directory),
    }
}

/// The configuration, and the site where this process stands.
struct Here {
    configuration: Configuration,
    site: Option<String>,
}

impl Here {
    fn load(global: &Global) -> anyhow::Result<Self> {
        let configuration = Configuration::load_at(&global.config, global.site.as_deref())?;
        Ok(Self { site: configuration.site.clone(), configuration })
    }

    fn site(&self) -> Option<&str> {
        self.site.as_deref()
    }

    /// The flows of these names; all if there is no name.
    fn flows(&self, names: &[String]) -> anyhow::Result<Vec<&Flow>> {
        if names.is_empty() {
            return Ok(self.configuration.flows.values().collect());
        }
        Ok(names.iter().map(|name| self.configuration.flow(name)).collect::<Result<_, _>>()?)
    }
}
