//! The `irongate` command.
fn main() {}
