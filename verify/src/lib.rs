//! Compare and repair: are the rows of a flow's target those of its source, and what makes them so.
//!
//! * [`compare`] hashes both databases in place, fetches what differs, and waits for what is on its way before it calls
//!   anything a difference. It reads, and commits small messages at the source; it writes no row.
//! * [`Difference`] is one row that is not the same, with its key and both images, as a line of JSON in a file.
//! * [`Repair`] makes statements of differences, to be read and run by a person, or runs them.
//!
//! # What is compared
//!
//! The tables of the flow's publication, their published columns, the rows that its filters let through; by name at the
//! target, through the flow's renames. Columns that either side generates by itself are left out.
//!
//! Two rows are the same if the server prints all their values alike, under settings that are the same in every session
//! (dates, intervals, floats, time zone, money, binary strings). It is what the stream carries, so it does not depend on
//! the major version, on the order of columns, or on a type that is wider at one side. `1.0` and `1.00` are not the
//! same, nor are `0` and `-0`: they would print differently for an application too.
#![deny(unsafe_code)]

mod bucket;
mod compare;
mod confirm;
mod counted;
mod difference;
mod error;
mod fetch;
mod flow;
mod pace;
mod repair;
mod report;
mod row;
mod scan;
mod settle;
mod side;
mod sql;
mod table;

pub use compare::{Comparing, Observer, Progress, Wanted, compare, compare_at_rest, ends, not_comparable};
pub use difference::{Difference, Image, Kind, Reader, Writer};
pub use error::Error;
pub use flow::{End, Flow, Name};
pub use repair::{Applied, Differences, Direction, Repair, Repairing, Righted};
pub use report::{Comparison, Table};
