//! Certificates of the link, looked at before they end: a link that breaks on a day that nobody remembers is the dearest.

use std::path::PathBuf;

use irongate_trail::Timestamp;

use super::CertificateView;

/// Looks at a certificate's file. Blocks.
pub(super) fn look(file: PathBuf) -> CertificateView {
    match irongate_pump::certs::expiry(&file) {
        Ok(until) => {
            let left = until.0.saturating_sub(Timestamp::now().0) as f64 / 1e6;
            CertificateView { file, until: Some(until.to_string()), seconds_left: Some(left), trouble: None }
        }
        Err(error) => {
            CertificateView { file, until: None, seconds_left: None, trouble: Some(error.to_string()) }
        }
    }
}
