//! The look at a source's sequences, again and again, while its Extract runs.
//!
//! Each time that Extract begins to run, a new look begins with nothing written: what an earlier one wrote may have been
//! before the slot was made.

use std::time::Duration;

use irongate_deployment::SequencePoll;
use irongate_deployment::configuration::Flow;
use irongate_postgres::{Endpoint, Session};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// How long the source may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How soon it is looked again whether it is the source's turn.
const SOON: Duration = Duration::from_millis(300);

/// A running look; it ends when dropped.
#[derive(Debug)]
pub(super) struct Sequences(JoinHandle<()>);

impl Sequences {
    pub(super) fn start(flow: Flow, endpoint: Endpoint, every: Duration) -> Self {
        Self(tokio::spawn(async move {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let name = flow.name.clone();
            let (mut poll, mut session, mut was_told) = (SequencePoll::new(flow), None, false);
            loop {
                ticks.tick().await;
                let looked = tokio::time::timeout(PATIENCE, look(&mut session, &endpoint, &mut poll)).await;
                match looked {
                    Ok(Ok(is_its_turn)) => {
                        was_told = false;
                        if !is_its_turn {
                            // From the first moment of its turn on the other site has to be ahead.
                            ticks.reset_after(every.min(SOON));
                        }
                    }
                    // Whether the source answers at all is an alarm of its own.
                    Ok(Err(error)) if !was_told => {
                        tracing::warn!(flow = name, %error, "sequences could not be looked at");
                        was_told = true;
                    }
                    Ok(Err(_)) => {}
                    Err(_) => session = None,
                }
            }
        }))
    }
}

impl Drop for Sequences {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Looks once; whether it is the source's turn to be written.
async fn look(
    session: &mut Option<Session>,
    endpoint: &Endpoint,
    poll: &mut SequencePoll,
) -> Result<bool, String> {
    // A session that was in use when something went wrong is not used again.
    let open = match session.take() {
        Some(open) => open,
        None => Session::connect(endpoint, "irongate sequences").await.map_err(|error| error.to_string())?,
    };
    let looked = poll.poll(&open).await.map_err(|error| error.to_string())?;
    *session = Some(open);
    Ok(looked.is_some())
}
