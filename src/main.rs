//! The `mgpack` command.

fn main() {}
