//! The topics that flows go through, and those of their feeds.

use irongate_pump::feed::inspect_topics;
use irongate_pump::kafka::{Fault, inspect_topic};

use super::{Finding, Findings, Severity};
use crate::configuration::{Configuration, Flow};

/// Looks at each flow's topic, and at whether the brokers let this site look.
pub(super) async fn topics(configuration: &Configuration, flows: &[&Flow], findings: &mut Findings) {
    let Some(kafka) = &configuration.kafka else { return };
    for flow in flows.iter().filter(|flow| flow.is_through_kafka()) {
        let Ok(topic) = configuration.topic_settings(flow) else { continue };
        let object = format!("topic \"{}\"", topic.name);
        match inspect_topic(&kafka.client, &topic).await {
            Ok(faults) => findings.0.extend(faults.into_iter().map(|fault| found(object.clone(), fault))),
            Err(error) => {
                let hint = error.hint();
                findings.0.push(Finding::new(Severity::Error, object, error.to_string(), hint));
                // The others would wait as long, for the same.
                return;
            }
        }
    }
    for flow in flows {
        // Those that are not there yet are made when they are needed.
        let Ok(settings) = configuration.feed_settings(flow) else { continue };
        match inspect_topics(&settings).await {
            Ok(faults) => findings
                .0
                .extend(faults.into_iter().map(|(topic, fault)| found(format!("topic \"{topic}\""), fault))),
            Err(error) => {
                let (object, hint) = (format!("group \"{}\"", settings.group), error.hint());
                findings.0.push(Finding::new(Severity::Error, object, error.to_string(), hint));
                return;
            }
        }
    }
}

fn found(object: String, fault: Fault) -> Finding {
    let severity = if fault.fatal { Severity::Error } else { Severity::Warning };
    Finding::new(severity, object, format!("it {}", fault.reason), Some(fault.remedy))
}
