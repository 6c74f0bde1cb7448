//! Extract and Replicat as processes of their own, so that each one's CPU seconds and memory can be read.

use irongate_apply::{Grouping, Names, Policies, Replicat, ReplicatSettings, Retry};
use irongate_capture::{Extract, Settings, Source};

/// `child extract URI SLOT PUBLICATION TRAIL STATE` or `child replicat URI FLOW TRAIL STATE on|off`.
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
                trail: trail.into(),
                trail_may_come: false,
                state_directory: state.into(),
                names: Names::default(),
                key_columns: Default::default(),
                grouping: Grouping::default(),
                synchronous_commit: *synchronous == "on",
                policies: Policies::default(),
                conflicts: None,
                retry: Retry::default(),
            };
            spawned(Replicat::new(settings).run(stop)).await.map(drop).map_err(anyhow::Error::from)
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

/// Runs on the runtime's own threads: those wait for sockets themselves, the main thread has to be woken by them.
async fn spawned<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    tokio::spawn(work).await.expect("a child does not panic")
}
