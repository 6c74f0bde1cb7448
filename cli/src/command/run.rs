//! `irongate run`.

use irongate_apply::Replicat;
use irongate_capture::Extract;
use irongate_checkpoint::Program;
use irongate_pump::feed::Feed;
use irongate_pump::kafka::{KafkaPump, KafkaReader};
use irongate_pump::{Collector, Pump};

use super::Here;
use crate::arguments::{Global, Run};
use crate::failure::End;
use crate::signals;

pub(crate) async fn run(global: &Global, options: &Run) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let group = here.configuration.group(&options.group)?;
    if let Some(site) = here.site()
        && site != group.site
    {
        return Err(End::usage(
            format!("group \"{}\" runs at site \"{}\", and this is site \"{site}\"", group.name, group.site),
            format!("start it there, or say where this is with --site {}", group.site),
        ));
    }
    let stop = signals::stop()?;
    match group.program {
        Program::Extract => {
            let settings = here.configuration.extract_settings(group.only_flow()?)?;
            // On the runtime's own threads, which wait for sockets themselves; this one would have to be woken by them.
            let stopped = tokio::spawn(Extract::new(settings).run(stop)).await??;
            tracing::info!(
                group = group.name, position = %stopped.mark.position, resume = %stopped.mark.resume_lsn,
                transactions = stopped.counts.transactions, "stopped"
            );
        }
        Program::Replicat => {
            let settings = here.configuration.replicat_settings(group.only_flow()?)?;
            let stopped = tokio::spawn(Replicat::new(settings).run(stop)).await??;
            tracing::info!(
                group = group.name, position = %stopped.applied.position, resume = %stopped.applied.end_lsn,
                transactions = stopped.applied.transactions, "stopped"
            );
        }
        Program::Pump if group.only_flow()?.is_through_kafka() => {
            let settings = here.configuration.kafka_pump_settings(group.only_flow()?)?;
            let stopped = tokio::spawn(KafkaPump::new(settings).run(stop)).await??;
            tracing::info!(group = group.name, transactions = stopped.sent.transactions, "stopped");
        }
        Program::Pump => {
            let settings = here.configuration.pump_settings(group.only_flow()?)?;
            let stopped = tokio::spawn(Pump::new(settings).run(stop)).await??;
            tracing::info!(group = group.name, transactions = stopped.sent.transactions, "stopped");
        }
        Program::Feed => {
            let settings = here.configuration.feed_settings(group.only_flow()?)?;
            let stopped = tokio::spawn(Feed::new(settings).run(stop)).await??;
            tracing::info!(group = group.name, transactions = stopped.sent.transactions, "stopped");
        }
        Program::Collector if group.flow.is_some() => {
            let settings = here.configuration.kafka_reader_settings(group.only_flow()?)?;
            let durable = tokio::spawn(KafkaReader::new(settings).run(stop)).await??;
            tracing::info!(group = group.name, position = %durable.position, "stopped");
        }
        Program::Collector => {
            let settings = here.configuration.collector_settings(group.site)?;
            let collected = tokio::spawn(Collector::new(settings).run(stop)).await??;
            tracing::info!(group = group.name, flows = collected.flows.len(), "stopped");
        }
        other => anyhow::bail!("a group of program \"{other}\" cannot be run by this release"),
    }
    Ok(())
}
