//! Claims about the product, through the public interface or the real command: a module each.
//!
//! One binary, since a binary is linked once and every link costs as much as the tests of a module.
//! What is measured in time or memory is apart, in tests/bounds.

// clippy.toml allows these in #[test] functions only, not in the helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod architecture;
mod bundle;
mod checkpoint;
mod cli;
mod convert;
mod device_map;
mod device_map_properties;
mod devices;
mod downloads;
mod folder_names;
mod formats;
mod load;
mod map;
mod mistyped_models;
mod opened;
mod output;
mod release;
mod report;
mod resealed;
mod screens;
mod tiny;
mod torch_checkpoints;
mod towers;
mod vectors;
mod verbs;

#[path = "../support/arithmetic.rs"]
mod arithmetic;
#[path = "../support/hub.rs"]
mod hub;
// An example has it too, where all of this is public.
#[allow(missing_docs, unreachable_pub)]
#[path = "../support/replay.rs"]
mod replay;
#[path = "../support/reseal.rs"]
mod reseal;
#[path = "../support/torch_file.rs"]
mod torch_file;
#[path = "../support/world.rs"]
mod world;
