//! Changes of roles between two sites.
//!
//! * [`fence`]: keeping the applications out of a database, and letting them in again with exactly what they had.
//! * [`plan`]: changes of roles as runs that can be cut off anywhere and gone on with.
//! * [`guard`]: a site that was lost learns that another one has taken over, and is closed.
//! * [`hook`]: what a run has done beyond the databases, by programs of the sites.
//! * [`names`]: names in the DNS, pointed to the site that writes.
//! * [`journal`] and [`engine`]: what a run has done, and what it does next.
//! * [`report`]: what is told of a run.
//! * [`salvage`]: what a lost site had committed and the other one does not have, and what becomes of it.
//! * [`strayed`]: the mark of a site that was written while another one wrote.
#![deny(unsafe_code)]

mod check;
pub mod engine;
mod error;
pub mod fence;
mod forget;
pub mod guard;
pub mod hook;
pub mod journal;
pub mod names;
mod place;
pub mod plan;
pub mod report;
pub mod salvage;
pub mod strayed;

pub use check::check;
pub use error::Error;
pub use forget::{Freed, forget};
pub use place::Place;
