//! Tables that fit a width.
//!
//! Columns have the width of what is in them. Where that is too much, texts are broken inside their cells, the widest
//! column first; numbers never are. Where even that does not do, each row becomes a block of lines.

use mgpack::legible::legible;

use super::color::Tone;
use super::text::{cell_lines, width_of, wrapped};
use super::units::{Sizes, Unit};

/// Columns between two columns.
const GAP: usize = 2;
/// Columns of prose are narrowed to this before names are broken.
const NARROW: usize = 26;
/// A text is not broken into narrower columns than this.
const NARROWEST: usize = 12;

/// What is in one place of a table.
#[derive(Clone, Debug)]
pub(crate) enum Cell {
    /// Text, to the left.
    Text(String),
    /// Text with a meaning.
    Toned(Tone, String),
    /// A number, to the right.
    Number(String),
    /// A size, in the unit of its column.
    Size(u64),
    /// Nothing.
    None,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Cell::Text(text)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Cell::Text(text.to_owned())
    }
}

/// The rows of a table, as often as they are asked for: a table of a million rows is never held whole.
trait Rows {
    fn each(&self, take: &mut dyn FnMut(Vec<Cell>));
}

impl<I: IntoIterator<Item = Vec<Cell>> + Clone> Rows for I {
    fn each(&self, take: &mut dyn FnMut(Vec<Cell>)) {
        self.clone().into_iter().for_each(take);
    }
}

/// A table without lines.
pub(crate) struct Table<'a> {
    header: Vec<String>,
    rows: Vec<Box<dyn Rows + 'a>>,
    has_one_unit: bool,
}

/// One column, measured.
struct Column {
    title: String,
    /// The unit of its sizes.
    unit: Unit,
    has_sizes: bool,
    is_number: bool,
    is_prose: bool,
    width: usize,
}

impl Column {
    /// The name of the unit, where it has sizes.
    fn unit(&self) -> Option<&'static str> {
        self.has_sizes.then_some(self.unit.name)
    }

    /// The lines above the column, the unit last.
    fn header(&self) -> Vec<String> {
        let words = wrapped(&self.title, self.width).into_iter();
        words.chain(self.unit().map(str::to_owned)).collect()
    }

    /// The widest word of the header.
    fn header_width(&self) -> usize {
        self.title.split(' ').chain(self.unit()).map(width_of).max().unwrap_or(0)
    }

    /// The narrowest that it can be. `names`: where names may be broken, too.
    fn least(&self, names: bool) -> usize {
        let of_texts = match (self.is_number, names, self.is_prose) {
            (true, ..) | (_, false, false) => return self.width,
            (_, false, true) => NARROW,
            (_, true, _) => NARROWEST,
        };
        self.width.min(self.header_width().max(of_texts))
    }

    /// The text of a cell, and its tone.
    fn shown(&self, cell: Option<&Cell>) -> (Option<Tone>, String) {
        match cell {
            Some(Cell::Text(text) | Cell::Number(text)) => (None, legible(text).into_owned()),
            Some(Cell::Toned(tone, text)) => (Some(*tone), legible(text).into_owned()),
            Some(Cell::Size(size)) => (None, self.unit.show(*size)),
            Some(Cell::None) | None => (None, String::new()),
        }
    }
}

impl<'a> Table<'a> {
    /// A table with these headers.
    pub(crate) fn new(header: &[&str]) -> Self {
        let header = header.iter().map(|word| legible(word).into_owned()).collect();
        Self { header, rows: Vec::new(), has_one_unit: false }
    }

    /// All sizes of the table in one unit: where columns are sums or differences of each other.
    pub(crate) fn with_one_unit(mut self) -> Self {
        self.has_one_unit = true;
        self
    }

    /// With these rows, too. They are made anew for each look at them.
    pub(crate) fn with_rows(mut self, rows: impl IntoIterator<Item = Vec<Cell>> + Clone + 'a) -> Self {
        self.rows.push(Box::new(rows));
        self
    }

    /// Gives out the table's lines, none wider than `width`.
    pub(super) fn lines(&self, width: usize, is_colored: bool, line: &mut dyn FnMut(String)) {
        let mut columns = self.columns();
        if fit(&mut columns, width) {
            self.as_grid(&columns, is_colored, line);
        } else {
            self.as_blocks(&columns, width, is_colored, line);
        }
    }

    fn each(&self, mut take: impl FnMut(Vec<Cell>)) {
        self.rows.iter().for_each(|rows| rows.each(&mut take));
    }

    fn columns(&self) -> Vec<Column> {
        let mut sizes = vec![Sizes::default(); self.header.len()];
        self.each(|row| {
            for (sizes, cell) in sizes.iter_mut().zip(row) {
                if let Cell::Size(size) = cell {
                    sizes.add(size);
                }
            }
        });
        let all = sizes.iter().fold(Sizes::default(), |all, of_column| all.with(of_column));
        let mut columns: Vec<Column> = self
            .header
            .iter()
            .zip(sizes)
            .map(|(title, sizes)| Column {
                title: title.clone(),
                unit: Unit::of(if self.has_one_unit { all } else { sizes }),
                has_sizes: sizes.are_there(),
                is_number: true,
                is_prose: false,
                width: 0,
            })
            .collect();
        self.each(|row| {
            for (column, cell) in columns.iter_mut().zip(row) {
                let (_, text) = column.shown(Some(&cell));
                column.is_number &= matches!(cell, Cell::Number(_) | Cell::Size(_) | Cell::None);
                column.is_prose |= text.split(' ').count() > 3;
                column.width = column.width.max(width_of(&text));
            }
        });
        for column in &mut columns {
            column.width = column.width.max(column.header_width());
        }
        columns
    }

    fn as_grid(&self, columns: &[Column], is_colored: bool, line: &mut dyn FnMut(String)) {
        let headers: Vec<Vec<String>> = columns.iter().map(Column::header).collect();
        // The words of a header end above the first row.
        let height = headers.iter().map(Vec::len).max().unwrap_or(0);
        for at in 0..height {
            let words = headers.iter().map(|words| {
                let word = (at + words.len()).checked_sub(height).and_then(|at| words.get(at));
                (Some(Tone::Label), word.cloned().unwrap_or_default())
            });
            line(joined(columns, words, is_colored));
        }
        self.each(|row| {
            let cells: Vec<(Option<Tone>, Vec<String>)> = columns
                .iter()
                .enumerate()
                .map(|(at, column)| {
                    let (tone, text) = column.shown(row.get(at));
                    (tone, cell_lines(&text, column.width.max(1)))
                })
                .collect();
            let height = cells.iter().map(|(_, lines)| lines.len()).max().unwrap_or(1);
            for at in 0..height {
                let parts =
                    cells.iter().map(|(tone, lines)| (*tone, lines.get(at).cloned().unwrap_or_default()));
                line(joined(columns, parts, is_colored));
            }
        });
    }

    /// Each row as its first cell and a line for each other, for screens that are too narrow for the columns.
    fn as_blocks(&self, columns: &[Column], width: usize, is_colored: bool, line: &mut dyn FnMut(String)) {
        let titles: Vec<String> = columns
            .iter()
            .map(|column| {
                column.unit().iter().fold(column.title.clone(), |title, unit| format!("{title} {unit}"))
            })
            .collect();
        let widest = titles.iter().skip(1).map(|title| width_of(title)).max().unwrap_or(0).min(width / 2);
        let room = width.saturating_sub(widest + 2 + GAP).max(1);
        self.each(|row| {
            for (at, column) in columns.iter().enumerate() {
                let (tone, text) = column.shown(row.get(at));
                match at {
                    0 => {
                        cell_lines(&text, width).iter().for_each(|part| line(painted(tone, part, is_colored)))
                    }
                    _ if text.is_empty() => {}
                    _ => {
                        for (index, part) in cell_lines(&text, room).iter().enumerate() {
                            let title = if index == 0 { titles[at].as_str() } else { "" };
                            let title = cell_lines(title, widest.max(1)).remove(0);
                            let space = " ".repeat(widest - width_of(&title) + GAP);
                            let title = painted(Some(Tone::Label), &title, is_colored);
                            line(format!("  {title}{space}{}", painted(tone, part, is_colored)));
                        }
                    }
                }
            }
        });
    }
}

/// Narrows the columns of texts, the widest first and prose before names, until all fit. False where they cannot.
fn fit(columns: &mut [Column], width: usize) -> bool {
    let gaps = GAP * columns.len().saturating_sub(1);
    for names in [false, true] {
        loop {
            let total: usize = gaps + columns.iter().map(|column| column.width).sum::<usize>();
            let Some(excess) = total.checked_sub(width).filter(|&excess| excess > 0) else { return true };
            let narrowing = columns.iter_mut().filter(|column| column.width > column.least(names));
            let Some(widest) = narrowing.max_by_key(|column| column.width) else { break };
            // In small steps, so that columns that are equally wide stay so.
            widest.width -= excess.min(widest.width - widest.least(names)).div_ceil(8).max(1);
        }
    }
    false
}

/// One line of all columns.
fn joined(
    columns: &[Column],
    parts: impl Iterator<Item = (Option<Tone>, String)>,
    is_colored: bool,
) -> String {
    let mut line = String::new();
    // Spaces that are due before the next ink, so that no line ends with any.
    let mut due = 0;
    for (column, (tone, text)) in columns.iter().zip(parts) {
        let space = column.width.saturating_sub(width_of(&text));
        if column.is_number {
            due += space;
        }
        if !text.is_empty() {
            line.push_str(&" ".repeat(due));
            line.push_str(&painted(tone, &text, is_colored));
            due = 0;
        } else if column.is_number {
            due += width_of(&text);
        }
        if !column.is_number {
            due += space;
        }
        due += GAP;
    }
    line
}

pub(super) fn painted(tone: Option<Tone>, text: &str, is_colored: bool) -> String {
    match tone.filter(|_| is_colored && !text.is_empty()) {
        Some(tone) => tone.paint(text),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(table: &Table<'_>, width: usize, is_colored: bool) -> Vec<String> {
        let mut lines = Vec::new();
        table.lines(width, is_colored, &mut |line| lines.push(line));
        lines
    }

    fn table() -> Table<'static> {
        let row = |name: &str, size: u64, why: &str| {
            vec![name.into(), Cell::Size(size), Cell::Number("7.5".into()), why.into()]
        };
        Table::new(&["tensor", "size", "max error", "why"]).with_rows([
            row(
                "model.layers.0.self_attn.q_proj.weight",
                3 << 20,
                "a reason of several words that go on and on",
            ),
            row("lm_head", 12, ""),
        ])
    }

    #[test]
    fn a_wide_screen_has_a_line_a_row_with_numbers_to_the_right() {
        let lines = lines_of(&table(), 200, false);
        assert_eq!(
            lines,
            [
                "                                           size    max",
                "tensor                                      KiB  error  why",
                "model.layers.0.self_attn.q_proj.weight  3072.00    7.5  a reason of several words that go on and on",
                "lm_head                                    0.01    7.5",
            ]
        );
    }

    #[test]
    fn no_line_is_wider_than_the_screen_and_nothing_is_lost() {
        let words = |lines: &[String]| -> Vec<char> {
            let mut all: Vec<char> = lines.concat().chars().filter(|c| !c.is_whitespace()).collect();
            all.sort_unstable();
            all
        };
        let all = words(&lines_of(&table(), 500, false));
        let mut grids = 0;
        for width in 40..150 {
            let lines = lines_of(&table(), width, false);
            assert!(lines.iter().all(|line| width_of(line) <= width), "{width}: {lines:#?}");
            // Blocks of lines have their titles anew in each.
            if lines[1].contains("tensor") {
                grids += 1;
                assert_eq!(words(&lines), all, "{width}");
            }
        }
        assert!(grids > 90, "only {grids} tables");
    }

    #[test]
    fn columns_that_cannot_share_a_line_become_lines() {
        let numbers = (0..12).map(|at| Cell::Number(format!("{at}000000"))).collect();
        let titles: Vec<String> = (0..12).map(|at| format!("column{at}")).collect();
        let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
        let lines = lines_of(&Table::new(&titles).with_rows([numbers]), 40, false);
        assert_eq!(lines.len(), 12);
        assert_eq!((lines[0].as_str(), lines[11].as_str()), ("0000000", "  column11  11000000"));
    }

    #[test]
    fn what_would_steer_the_terminal_is_shown_and_colours_change_no_width() {
        let table = Table::new(&["name", "state"]).with_rows([
            vec!["a\u{1b}[2Jb".into(), Cell::Toned(Tone::Bad, "x\ny".into())],
            vec!["c".into(), Cell::Toned(Tone::Good, "good".into())],
        ]);
        let plain = lines_of(&table, 80, false);
        assert_eq!(plain[1], "a\\u{1b}[2Jb  x\\ny");
        let colored = lines_of(&table, 80, true);
        assert_eq!(colored[1], "a\\u{1b}[2Jb  \x1b[1;31mx\\ny\x1b[0m");
        let bare = |line: &String| {
            ["\x1b[1;31m", "\x1b[32m", "\x1b[2m", "\x1b[0m"]
                .iter()
                .fold(line.clone(), |line, code| line.replace(code, ""))
        };
        assert_eq!(colored.iter().map(bare).collect::<Vec<_>>(), plain);
    }
}
