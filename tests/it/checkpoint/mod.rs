//! Claims about reading checkpoints, through the public API: what is accepted, what is refused, and how.

mod bad_headers;
mod folders;
mod good_headers;
mod hub_cache;
mod indexes;
mod kit;
mod torch_corpus;
