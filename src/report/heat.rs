//! The main figure: the lowest SQNR of every kind of module in every layer, as a grid of colours.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use indexmap::IndexMap;

use super::TensorFigures;
use super::kinds::labels;
use super::page::{Figure, scrolled, strip, ticks};
use crate::drawing::escape;
use crate::size::{agreed, counted};
use crate::structure::Role;

/// Width of the drawing by itself, in its own units; and of one letter of a label.
const WIDTH: f64 = 920.0;
const LETTER: f64 = 7.0;
const ROW: f64 = 24.0;
/// Numbers of layers below the grid, at most.
const TICKS: u32 = 8;

/// Colours for light and dark pages.
const STYLE: &str = "\
.chart{--ink:#1f2430;--soft:#5d6675;--none:#dfe3ea;font:12px system-ui,sans-serif}\
@media (prefers-color-scheme:dark){.chart{--ink:#e7eaf0;--soft:#9aa4b5;--none:#3a414e}}\
.chart text{fill:var(--ink)}.chart .label{font:11.5px ui-monospace,monospace}.chart .soft{fill:var(--soft)}\
.chart .none{fill:var(--none)}";

/// Stops of the colour scale from the lowest SQNR to the highest; each is darker or lighter than the next, so
/// that the order can be read without the hue.
const SCALE: [[f64; 3]; 5] = [
    [122.0, 28.0, 80.0],
    [196.0, 66.0, 84.0],
    [233.0, 128.0, 76.0],
    [245.0, 190.0, 98.0],
    [250.0, 235.0, 170.0],
];

/// The grid.
pub(super) struct Heat {
    rows: Vec<Row>,
    layers: u32,
    /// Ends of the colour scale. Where there are codes it spans them: casts are a hundred decibels away.
    low: f64,
    high: f64,
    /// Kinds that are not drawn: in them every value is exact.
    exact: usize,
    /// Tensors in layers.
    tensors: usize,
}

struct Row {
    label: String,
    cells: BTreeMap<u32, Cell>,
}

struct Cell {
    /// The lowest; `None` where every value is exact.
    sqnr: Option<f64>,
    tensors: usize,
}

impl Cell {
    fn told(&self) -> String {
        let several = if self.tensors > 1 { format!(", lowest of {}", self.tensors) } else { String::new() };
        self.sqnr.map_or_else(|| "exact".to_owned(), |sqnr| format!("{sqnr:.2} dB{several}"))
    }
}

impl Heat {
    pub(super) fn of(tensors: &[TensorFigures]) -> Self {
        let mut kinds: IndexMap<&str, BTreeMap<u32, Cell>> = IndexMap::new();
        let in_layer = |tensor: &&TensorFigures| matches!(tensor.role, Role::Layer(_));
        let (mut layers, mut count) = (0, 0);
        for tensor in tensors {
            let Role::Layer(layer) = tensor.role else { continue };
            layers = layers.max(layer.saturating_add(1));
            count += 1;
            let row = kinds.entry(&tensor.kind).or_default();
            let cell = row.entry(layer).or_insert(Cell { sqnr: None, tensors: 0 });
            cell.tensors += 1;
            cell.sqnr = [cell.sqnr, tensor.sqnr_db].into_iter().flatten().min_by(f64::total_cmp);
        }
        let all = kinds.len();
        kinds.retain(|_, row| row.values().any(|cell| cell.sqnr.is_some()));
        let quantizes =
            tensors.iter().filter(in_layer).any(|tensor| tensor.quantized && tensor.sqnr_db.is_some());
        let values = || {
            let drawn = tensors.iter().filter(in_layer).filter(|tensor| tensor.quantized || !quantizes);
            drawn.filter_map(|tensor| tensor.sqnr_db)
        };
        let (low, high) =
            (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        let exact = all - kinds.len();
        let names: Vec<String> = {
            let label = labels(kinds.keys().copied());
            kinds.keys().map(|kind| label(kind)).collect()
        };
        let rows = names.into_iter().zip(kinds.into_values());
        let rows = rows.map(|(label, cells)| Row { label, cells }).collect();
        Self { rows, layers, low, high, exact, tensors: count }
    }

    /// What there is to say where there is nothing to draw.
    fn nothing(&self) -> Option<String> {
        match (self.tensors, self.rows.len()) {
            (0, _) => Some("No float tensor is in a numbered layer: nothing to compare by layer.".to_owned()),
            (tensors, 0) => {
                Some(format!("Every value of {} in layers is exact.", counted(tensors, "float tensor")))
            }
            _ => None,
        }
    }

    /// In words, for those who do not see it.
    fn told(&self) -> String {
        let cells =
            self.rows.iter().flat_map(|row| row.cells.iter().map(move |(layer, cell)| (row, layer, cell)));
        let lowest = cells.filter_map(|(row, layer, cell)| Some((row, layer, cell.sqnr?)));
        let lowest = lowest.min_by(|a, b| a.2.total_cmp(&b.2));
        let lowest = lowest.map_or_else(String::new, |(row, layer, sqnr)| {
            format!(", lowest {sqnr:.2} dB in layer {layer} {}", row.label)
        });
        format!(
            "{} by {}{lowest}",
            agreed(self.rows.len(), "kind of module", "kinds of module"),
            counted(self.layers, "layer")
        )
    }

    fn ticks(&self) -> impl Iterator<Item = u32> {
        (0..self.layers).step_by(self.layers.div_ceil(TICKS).max(1) as usize)
    }

    /// The drawing by itself, for `--svg`.
    pub(super) fn svg(&self, title: &str) -> String {
        let top = 64.0;
        let labels = self.rows.iter().map(|row| row.label.chars().count()).max().unwrap_or(0) as f64;
        let left = (labels * LETTER + 12.0).clamp(60.0, WIDTH / 2.0);
        let height = top + ROW * self.rows.len() as f64 + 30.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" \
             aria-labelledby=\"t d\"><title id=\"t\">{0}</title><desc id=\"d\">{1}</desc><style>{STYLE}</style>\n\
             <text x=\"0\" y=\"16\" font-size=\"15\" font-weight=\"600\">{0}</text>\n",
            escape(title),
            escape(&self.nothing().unwrap_or_else(|| self.told())),
        );
        if let Some(nothing) = self.nothing() {
            let _ = writeln!(svg, "<text class=\"soft\" x=\"0\" y=\"60\">{nothing}</text></svg>");
            return svg;
        }
        for step in 0..20 {
            let sqnr = self.low + (self.high - self.low) * f64::from(step) / 19.0;
            let x = left + 8.0 * f64::from(step);
            let fill = self.colour(sqnr);
            let _ =
                writeln!(svg, "<rect x=\"{x:.1}\" y=\"30\" width=\"8.5\" height=\"12\" fill=\"{fill}\"/>");
        }
        let _ = writeln!(
            svg,
            "<text class=\"soft\" x=\"{:.1}\" y=\"40\" text-anchor=\"end\">{:.1} dB</text>\
             <text class=\"soft\" x=\"{:.1}\" y=\"40\">{:.1} dB, higher is closer to the checkpoint</text>",
            left - 8.0,
            self.low,
            left + 170.0,
            self.high,
        );
        let width = (WIDTH - left) / f64::from(self.layers.max(1));
        for (at, row) in self.rows.iter().enumerate() {
            let y = top + ROW * at as f64;
            let label = escape(&row.label);
            let _ = writeln!(svg, "<text class=\"label\" x=\"0\" y=\"{:.1}\">{label}</text>", y + 16.0);
            for (layer, cell) in &row.cells {
                let _ = writeln!(
                    svg,
                    "<rect x=\"{:.2}\" y=\"{y:.1}\" width=\"{:.2}\" height=\"{}\" {}><title>layer {layer} {label}: {}</title></rect>",
                    left + width * f64::from(*layer),
                    (width - 1.0).max(0.5),
                    ROW - 2.0,
                    self.fill(cell),
                    cell.told(),
                );
            }
        }
        let y = height - 14.0;
        for layer in self.ticks() {
            let x = left + width * (f64::from(layer) + 0.5);
            let _ = writeln!(
                svg,
                "<text class=\"soft\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{layer}</text>"
            );
        }
        let _ = writeln!(svg, "<text class=\"soft\" x=\"0\" y=\"{y:.1}\">layer</text></svg>");
        svg
    }

    /// The same for the page: text of the page's own size at any width.
    pub(super) fn figure(&self, title: &str) -> String {
        if let Some(nothing) = self.nothing() {
            return Figure {
                id: "by-layer",
                title,
                told: &nothing,
                body: "",
                caption: &nothing,
                table: None,
            }
            .html();
        }
        let stops = SCALE.map(|[red, green, blue]| format!("rgb({red} {green} {blue})")).join(",");
        let mut body = format!(
            "<p class=\"scale\">{:.1} dB <span style=\"background:linear-gradient(90deg,{stops})\"></span> {:.1} dB</p>",
            self.low, self.high,
        );
        let mut rows = Vec::new();
        for row in &self.rows {
            let label = escape(&row.label);
            let mut cells = String::new();
            for (layer, cell) in &row.cells {
                let told = cell.told();
                let _ = write!(
                    cells,
                    "<rect x=\"{layer}\" width=\".94\" height=\"1\" {}><title>layer {layer} {label}: {told}</title></rect>",
                    self.fill(cell),
                );
                rows.push(vec![row.label.clone(), layer.to_string(), told]);
            }
            let _ = writeln!(
                body,
                "<div class=\"row\"><code>{label}</code>{}</div>",
                strip(f64::from(self.layers), 1.0, 20, &cells)
            );
        }
        let place = |layer: u32| 100.0 * (f64::from(layer) + 0.47) / f64::from(self.layers);
        body.push_str(&ticks("layer", self.ticks().map(|layer| (place(layer), layer.to_string()))));
        let exact = match self.exact {
            0 => String::new(),
            1 => " Not drawn: 1 kind in which every value is exact.".to_owned(),
            exact => format!(" Not drawn: {exact} kinds in which every value is exact."),
        };
        let caption = format!(
            "SQNR is the power of the weights over the power of their error; 6 dB are one bit. Lighter is closer to the \
             checkpoint. Grey: every value is exact. Empty: the layer has no such module.{exact}"
        );
        let table = scrolled("Lowest SQNR", &["module", "layer", "SQNR"], &rows);
        Figure {
            id: "by-layer",
            title,
            told: &self.told(),
            body: &body,
            caption: &caption,
            table: Some(&table),
        }
        .html()
    }

    fn fill(&self, cell: &Cell) -> String {
        cell.sqnr
            .map_or_else(|| "class=\"none\"".to_owned(), |sqnr| format!("fill=\"{}\"", self.colour(sqnr)))
    }

    fn colour(&self, sqnr: f64) -> String {
        let span = self.high - self.low;
        let part = if span > 0.0 { ((sqnr - self.low) / span).clamp(0.0, 1.0) } else { 0.5 };
        let at = part * (SCALE.len() - 1) as f64;
        let index = (at.floor() as usize).min(SCALE.len() - 2);
        let mix = |channel: usize| {
            let (from, to) = (SCALE[index][channel], SCALE[index + 1][channel]);
            (from + (to - from) * (at - index as f64)).round()
        };
        format!("rgb({} {} {})", mix(0), mix(1), mix(2))
    }
}
