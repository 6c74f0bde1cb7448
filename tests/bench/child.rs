//! Extract, Replicat, pumps, collector and reader as processes of their own, so that each one's CPU seconds and memory can be read.

use std::path::Path;
use std::time::Duration;

use irongate_apply::{Grouping, Names, Policies, Replicat, ReplicatSettings, Retry};
use irongate_capture::{Extract, Settings, Source};
use irongate_pump::kafka::{KafkaPump, KafkaPumpSettings, KafkaReader, KafkaReaderSettings, KafkaSettings};
use irongate_pump::{
    AcceptedFlow, Collector, CollectorSettings, Credentials, LinkSettings, Meeting, Pump, PumpSettings,
};

/// Bytes of a record, as the configuration has it by default.
const RECORD: usize = 900 << 10;

/// `child extract URI SLOT PUBLICATION TRAIL STATE`, `child replicat URI FLOW TRAIL STATE on|off`,
/// `child pump ADDRESS TRAIL STATE CERTIFICATES LEVEL`, `child collector ADDRESS TRAILS STATE CERTIFICATES`,
/// `child kafka-pump BROKERS TOPIC TRAIL STATE LEVEL` or `child kafka-reader BROKERS TOPIC TRAIL STATE`.
pub(crate) async fn main(arguments: &[String]) -> i32 {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let stop = async {
        let mut signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .expect("a process can wait for a signal");
        signal.recv().await;
    };
    let result = match arguments.as_slice() {
        ["extract", uri, slot, publication, trail, state] => {
            let endpoint = uri.parse().expect("the parent gives a sound address");
            let mut source = Source::new(endpoint, *slot, vec![(*publication).to_owned()]);
            source.binary = false;
            let settings = Settings::new("bench-extract", "bench", source, *trail, *state);
            spawned(Extract::new(settings).run(stop)).await.map(drop).map_err(anyhow::Error::from)
        }
        ["replicat", uri, flow, trail, state, synchronous] => {
            let settings = ReplicatSettings {
                flow: (*flow).to_owned(),
                group: "bench-replicat".to_owned(),
                target: uri.parse().expect("the parent gives a sound address"),
                source: None,
                trail: trail.into(),
                trail_may_come: false,
                state_directory: state.into(),
                names: Names::default(),
                key_columns: Default::default(),
                grouping: Grouping::default(),
                synchronous_commit: *synchronous == "on",
                policies: Policies::default(),
                sequence_margin: irongate_apply::SEQUENCE_MARGIN,
                ahead: irongate_apply::AheadSettings::default(),
                sessions: irongate_apply::SESSIONS,
                conflicts: None,
                ddl: None,
                retry: Retry::default(),
            };
            spawned(Replicat::new(settings).run(stop)).await.map(drop).map_err(anyhow::Error::from)
        }
        ["pump", address, trail, state, certificates, level] => {
            let settings = PumpSettings {
                group: "pump".to_owned(),
                deployment: "bench".to_owned(),
                flow: "csp".to_owned(),
                site: "main".to_owned(),
                peer: "secondary".to_owned(),
                meeting: Meeting::Connect((*address).to_owned()),
                link: link(certificates, "main"),
                trail: trail.into(),
                state_directory: state.into(),
                epoch: 1,
                bandwidth: None,
                compression: level.parse().ok().filter(|level| *level > 0),
            };
            spawned(Pump::new(settings).run(stop)).await.map(drop).map_err(anyhow::Error::from)
        }
        ["collector", address, trails, state, certificates] => {
            let settings = CollectorSettings {
                group: "collector".to_owned(),
                deployment: "bench".to_owned(),
                site: "secondary".to_owned(),
                flows: vec![AcceptedFlow { flow: "csp".to_owned(), from: "main".to_owned(), epoch: 1 }],
                listen: Some((*address).to_owned()),
                connect: Vec::new(),
                link: link(certificates, "secondary"),
                trail_directory: trails.into(),
                state_directory: state.into(),
                file_size: 64 << 20,
                keep_free: None,
            };
            spawned(Collector::new(settings).run(stop)).await.map(drop).map_err(anyhow::Error::from)
        }
        ["kafka-pump", brokers, topic, trail, state, level] => {
            let settings = KafkaPumpSettings {
                group: "pump".to_owned(),
                deployment: "bench".to_owned(),
                flow: "csp".to_owned(),
                site: "main".to_owned(),
                kafka: kafka(brokers),
                topic: (*topic).to_owned(),
                record_size: RECORD,
                trail: trail.into(),
                state_directory: state.into(),
                epoch: 1,
                compression: level.parse().ok().filter(|level| *level > 0),
            };
            spawned(KafkaPump::new(settings).run(stop)).await.map(drop).map_err(anyhow::Error::from)
        }
        ["kafka-reader", brokers, topic, trail, state] => {
            let settings = KafkaReaderSettings {
                group: "reader".to_owned(),
                deployment: "bench".to_owned(),
                flow: "csp".to_owned(),
                from: "main".to_owned(),
                kafka: kafka(brokers),
                topic: (*topic).to_owned(),
                trail: trail.into(),
                state_directory: state.into(),
                epoch: 1,
                file_size: 64 << 20,
                keep_free: None,
            };
            spawned(KafkaReader::new(settings).run(stop)).await.map(drop).map_err(anyhow::Error::from)
        }
        _ => Err(anyhow::anyhow!("unknown child")),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("bench child: {error:?}");
            1
        }
    }
}

pub(crate) fn kafka(brokers: &str) -> KafkaSettings {
    let brokers = brokers.split(',').map(str::to_owned).collect();
    KafkaSettings { retry_first: Duration::from_millis(20), ..KafkaSettings::new(brokers) }
}

fn link(certificates: &str, site: &str) -> LinkSettings {
    let file = |name: String| Path::new(certificates).join(name);
    let credentials = Credentials::Certificates {
        authority: file("ca.crt".to_owned()),
        certificate: file(format!("{site}.crt")),
        key: file(format!("{site}.key")),
    };
    // The collector may be there a moment later.
    LinkSettings { retry_first: Duration::from_millis(20), ..LinkSettings::new(credentials) }
}

/// Runs on the runtime's own threads: those wait for sockets themselves, the main thread has to be woken by them.
async fn spawned<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    tokio::spawn(work).await.expect("a child does not panic")
}
