//! Extract: logical decoding into a trail.

pub mod binary;
mod error;
pub mod machine;
pub mod pgoutput;
pub mod positions;
mod sink;

pub use error::Error;
pub use sink::Sink;
