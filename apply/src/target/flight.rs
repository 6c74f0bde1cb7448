//! Statements on their way, and what their answers mean.

use std::future::Future;
use std::pin::Pin;

use super::Failure;
use crate::error::Error;

pub(super) type Answer = Result<u64, tokio_postgres::Error>;
pub(super) type Flight<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;

/// Sorts an error of the server: its batch is to blame, or the moment.
pub(super) fn sort(error: tokio_postgres::Error) -> Failure {
    let error = irongate_postgres::Error::from(error);
    if error.is_transient() {
        Failure::Lost(Error::Target(error))
    } else {
        Failure::Refused(Error::Target(error))
    }
}

pub(super) fn sort_checkpoint(error: irongate_checkpoint::Error) -> Failure {
    if error.is_transient() { Failure::Lost(error.into()) } else { Failure::Refused(error.into()) }
}

/// Sends a statement now: a first poll hands it to the connection. The answer is awaited later. An error at once is of a
/// statement that was not sent, which nothing may follow.
pub(super) async fn launch<'a>(
    flight: impl Future<Output = Result<(), Failure>> + Send + 'a,
) -> Result<Flight<'a>, Failure> {
    let mut flight: Flight<'a> = Box::pin(flight);
    match futures_util::poll!(flight.as_mut()) {
        std::task::Poll::Ready(result) => {
            result.map(|()| -> Flight<'a> { Box::pin(std::future::ready(Ok(()))) })
        }
        std::task::Poll::Pending => Ok(flight),
    }
}
