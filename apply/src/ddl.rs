//! Structure: what a table at the target lacks against what the stream tells of it.

pub(crate) mod offer;
