//! Bounds in time and memory that every command keeps, whatever its input: a module each.
//!
//! They have a binary of their own, so that the other tests do not take the processors from them.

// clippy.toml allows these in #[test] functions only, not in the helpers beside them.
#![allow(clippy::unwrap_used, clippy::panic)]

mod hostile_torch_files;
mod memory_limits;
mod pipes;
mod signals;

#[path = "../support/torch_file.rs"]
mod torch_file;
#[path = "../support/world.rs"]
mod world;
