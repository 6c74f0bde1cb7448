//! Where each command begins. A command reads the configuration, makes one call into a library, and shows the result.

mod check;
mod completions;
mod errors;
mod info;
mod init;
mod instantiate;
mod lag;
mod position;
mod run;
mod setup;
mod stats;
mod trail;

use irongate_deployment::Configuration;
use irongate_deployment::configuration::Flow;

use crate::arguments::{Arguments, Command, Global};
use crate::failure::End;

/// Does what was typed.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { global, command } = arguments;
    match command {
        Command::Demo(demo) => crate::demo::run(&global, &demo).await,
        Command::Init(options) => init::run(&global, &options),
        Command::Check(flows) => check::run(&global, &flows).await,
        Command::Setup(options) => setup::setup(&global, &options).await,
        Command::Teardown(options) => setup::teardown(&global, &options).await,
        Command::Instantiate(options) => instantiate::run(&global, &options).await,
        Command::Run(options) => run::run(&global, &options).await,
        Command::Info(names) => info::run(&global, &names),
        Command::Lag(names) => lag::run(&global, &names).await,
        Command::Stats(names) => stats::run(&global, &names),
        Command::Position(options) => position::run(&global, &options).await,
        Command::Trail(trail) => trail::run(&global, trail).await,
        Command::Errors(errors) => errors::run(&global, errors).await,
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
        let configuration = Configuration::load(&global.config)?;
        let site = global.site.clone().or_else(|| configuration.site.clone());
        if let Some(site) = site.as_ref().filter(|site| !configuration.sites.contains(*site)) {
            let sites: Vec<_> = configuration.sites.iter().map(String::as_str).collect();
            return Err(End::usage(
                format!("there is no site \"{site}\" in \"{}\"", global.config.display()),
                format!("there are: {}", sites.join(", ")),
            ));
        }
        Ok(Self { configuration, site })
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
