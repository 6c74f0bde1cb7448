//! Extract beside a load, so that the slot never waits for the copy: what is committed meanwhile lies in the trail, and
//! the source keeps no more of its log than at any other time.
//!
//! Where somebody else runs the flow's Extract already, or takes it over while this one cannot, that is as good.

use std::time::Duration;

use irongate_capture::Extract;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::configuration::{Configuration, Flow};
use crate::error::Error;

/// How often it is tried again where somebody else runs Extract.
const AGAIN_EVERY: Duration = Duration::from_secs(2);

/// How long Extract may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Dropped, it stops as a killed process does.
pub(super) struct Drain {
    stop: watch::Sender<bool>,
    task: JoinHandle<Option<irongate_capture::Error>>,
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drain {
    pub(super) fn start(configuration: &Configuration, flow: &Flow) -> Result<Self, Error> {
        let settings = configuration.extract_settings(flow)?;
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let until = |mut stopped: watch::Receiver<bool>| async move {
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            loop {
                match Extract::new(settings.clone()).run(until(stopped.clone())).await {
                    Ok(_) => return None,
                    Err(irongate_capture::Error::Checkpoint(irongate_checkpoint::Error::Held { .. })) => {}
                    Err(error) => {
                        tracing::warn!(%error, "extract has ended beside the load");
                        return Some(error);
                    }
                }
                tokio::select! {
                    () = until(stopped.clone()) => return None,
                    () = tokio::time::sleep(AGAIN_EVERY) => {}
                }
            }
        });
        Ok(Self { stop, task })
    }

    /// Stops it in order; why it had ended before, if it had.
    pub(super) async fn stop(mut self) -> Option<String> {
        let _ = self.stop.send(true);
        match tokio::time::timeout(STOP_LIMIT, &mut self.task).await {
            Ok(Ok(error)) => error.map(|error| error.to_string()),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("it did not stop in time".to_owned()),
        }
    }
}
