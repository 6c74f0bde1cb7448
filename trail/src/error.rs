//! What can be wrong with a trail, and what to do then.



/// Bytes that do not have the layout they should have. The place is added by whoever knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);
