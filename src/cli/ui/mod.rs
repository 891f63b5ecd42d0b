//! Everything that is printed. Data goes to stdout, talk to stderr.
//!
//! One subject a file: `stream` writes, and remembers what could not be written; `screen` composes what a command
//! shows, of lines and of `table`s; `text` cuts, `ranges` folds names; `width` and `color` ask the terminal and the
//! environment; `units` gives a table one unit; `bars` shows progress.

mod bars;
mod color;
mod ranges;
mod screen;
mod stream;
mod table;
mod text;
mod units;
mod width;

pub(crate) use bars::{Bars, Notes, bar};
pub(crate) use color::{Stream, Tone, choose as choose_colors, has_colors};
pub(crate) use mgpack::size::shown as bytes;
pub(crate) use ranges::folded;
pub(crate) use screen::Screen;
pub(crate) use stream::{complain, failure, print, print_json, say, say_toned};
pub(crate) use table::{Cell, Table};
pub(crate) use text::with_short_digests;
