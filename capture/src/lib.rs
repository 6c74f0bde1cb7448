//! Extract: logical decoding into a trail.

pub mod pgoutput;
