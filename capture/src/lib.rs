//! Extract: logical decoding into a trail.
//!
//! ```text
//! source ──frames──▶ pgoutput ──messages──▶ machine ──calls──▶ sink: the trail's writer
//!    ▲                                         │ appended ──▶ sync ──▶ durable
//!    └───────────────── feedback ◀─────────────┴──────────────────────────┘
//! ```
//!
//! * [`Extract`] is the process: it follows a slot into a trail, comes back after what passes by itself, and stops with
//!   a remedy at anything else.
//! * [`follow()`] gives a program a database's committed transactions without a trail, through its own [`Sink`].
//! * [`pgoutput`] reads the messages, [`machine`] decides what they mean, [`positions`] whether a stream may begin: none
//!   of them knows a clock, a file or a socket.

pub mod binary;
pub mod ddl;
mod error;
mod extract;
mod facts;
mod feedback;
mod follow;
pub mod machine;
pub mod options;
pub mod pgoutput;
pub mod positions;
mod run;
mod sink;
pub mod slot;
mod source;
mod target;

pub use error::Error;
pub use extract::{Extract, Settings, Stopped};
pub use follow::{Place, follow};
pub use sink::Sink;
pub use source::Source;
