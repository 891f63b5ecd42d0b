//! Claims about reading checkpoints, through the public API: what is accepted, what is refused, and how.

// clippy.toml allows these in `#[test]` functions; here the helpers they share need them too.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod bad_headers;
mod folders;
mod good_headers;
mod hub_cache;
mod indexes;
mod kit;
mod torch_corpus;
