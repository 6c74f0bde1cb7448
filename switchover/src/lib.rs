//! Changes of roles between two sites.
//!
//! * [`fence`]: keeping the applications out of a database, and letting them in again with exactly what they had.
//! * [`journal`] and [`engine`]: what a run has done, and what it does next.
#![deny(unsafe_code)]

pub mod engine;
mod error;
pub mod fence;
pub mod journal;
mod place;

pub use error::Error;
pub use place::Place;
