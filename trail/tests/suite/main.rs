//! A trail from the outside: what is written is read, whatever happens to the files.

#![allow(clippy::unwrap_used, reason = "a test says by its panic what is wrong")]

mod ahead;
mod begins;
mod bookmarks;
mod calls;
mod checked;
mod damage;
#[allow(dead_code, unreachable_pub, reason = "shared with other tests")]
#[path = "../../../tests/harness/disk.rs"]
mod disk;
mod dumped;
mod early;
mod followed;
mod golden;
mod headers;
mod killed;
mod permissions;
mod purged;
mod support;
