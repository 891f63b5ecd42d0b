//! The drawings of a report, as SVG by themselves: no script, no other file, every foreign text escaped.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use indexmap::IndexMap;

use super::{Histogram, TensorFigures};
use crate::drawing::escape;
use crate::size::shown;
use crate::structure::Role;

/// Width of every drawing, in its own units.
const WIDTH: f64 = 920.0;
/// Left of it stand the names of rows.
const LABELS: f64 = 150.0;
const ROW: f64 = 24.0;

/// Colours for light and dark pages.
const STYLE: &str = "\
.chart{--ink:#1f2430;--soft:#5d6675;--grid:#d9dee6;--none:#e6e9ee;--mark:#3b6fd4;--box:#a9c1ee;--after:#d9772f;\
font:12px system-ui,sans-serif}\
@media (prefers-color-scheme:dark){.chart{--ink:#e7eaf0;--soft:#9aa4b5;--grid:#353c48;--none:#2b313c;\
--mark:#7ea6f5;--box:#35538f;--after:#f0995a}}\
.chart text{fill:var(--ink)}.chart .soft{fill:var(--soft)}.chart .none{fill:var(--none)}\
.chart .mark{fill:var(--mark)}.chart .box{fill:var(--box)}.chart .grid{stroke:var(--grid);stroke-width:1}\
.chart .line{stroke:var(--soft);stroke-width:1.5}.chart .median{stroke:var(--ink);stroke-width:2.5}\
.chart .after{fill:none;stroke:var(--after);stroke-width:1.5}";

/// Stops of the colour scale from the lowest SQNR to the highest; each is darker or lighter than the next, so
/// that the order can be read without the hue.
const SCALE: [[f64; 3]; 5] = [
    [122.0, 28.0, 80.0],
    [196.0, 66.0, 84.0],
    [233.0, 128.0, 76.0],
    [245.0, 190.0, 98.0],
    [250.0, 235.0, 170.0],
];

/// The lowest SQNR of every kind of module in every layer, as a grid of colours.
pub(super) fn heat_map(tensors: &[TensorFigures], title: &str) -> String {
    let mut cells: IndexMap<&str, BTreeMap<u32, Vec<&TensorFigures>>> = IndexMap::new();
    let mut layers = 0;
    for tensor in tensors {
        if let Role::Layer(layer) = tensor.role {
            layers = layers.max(layer.saturating_add(1));
            cells.entry(&tensor.module).or_default().entry(layer).or_default().push(tensor);
        }
    }
    // A row where everything is exact tells nothing.
    let is_told = |row: &BTreeMap<u32, Vec<&TensorFigures>>| row.values().any(|cell| lowest(cell).is_some());
    cells.retain(|_, row| is_told(row));
    let values = || cells.values().flat_map(|row| row.values()).filter_map(|cell| lowest(cell));
    let low = values().fold(f64::INFINITY, f64::min);
    let high = values().fold(f64::NEG_INFINITY, f64::max);
    let top = 64.0;
    let height = top + ROW * cells.len() as f64 + 30.0;
    let mut svg = open(title, height);
    if cells.is_empty() {
        svg.push_str(
            "<text class=\"soft\" x=\"0\" y=\"60\">every value of every layer is exact</text></svg>\n",
        );
        return svg;
    }
    scale_legend(&mut svg, low, high);
    let width = (WIDTH - LABELS) / f64::from(layers.max(1));
    for (at, (module, row)) in cells.iter().enumerate() {
        let y = top + ROW * at as f64;
        let _ = writeln!(svg, "<text x=\"0\" y=\"{:.1}\">{}</text>", y + 16.0, escape(module));
        for (layer, cell) in row {
            let x = LABELS + width * f64::from(*layer);
            let (class, told) = match lowest(cell) {
                Some(sqnr) => (format!("fill=\"{}\"", colour(sqnr, low, high)), format!("{sqnr:.2} dB")),
                None => ("class=\"none\"".to_owned(), "exact".to_owned()),
            };
            let several = if cell.len() > 1 { format!(", lowest of {}", cell.len()) } else { String::new() };
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.2}\" y=\"{y:.1}\" width=\"{:.2}\" height=\"{}\" {class}><title>layer {layer} {}: {told}{several}</title></rect>",
                (width - 1.0).max(0.5),
                ROW - 2.0,
                escape(module),
            );
        }
    }
    let y = top + ROW * cells.len() as f64 + 16.0;
    let step = (layers / 8).max(1);
    for layer in (0..layers).step_by(step as usize) {
        let x = LABELS + width * (f64::from(layer) + 0.5);
        let _ = writeln!(
            svg,
            "<text class=\"soft\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{layer}</text>"
        );
    }
    let _ = writeln!(svg, "<text class=\"soft\" x=\"0\" y=\"{y:.1}\">layer</text></svg>");
    svg
}

/// Smallest, quartiles and largest SQNR of every kind of module: of the quantized ones where there are any, for
/// casts are a hundred decibels away.
pub(super) fn spread(tensors: &[TensorFigures], title: &str) -> String {
    let mut kinds: IndexMap<&str, Vec<f64>> = IndexMap::new();
    let quantizes = tensors.iter().any(|tensor| tensor.quantized);
    for tensor in tensors.iter().filter(|tensor| tensor.quantized || !quantizes) {
        if let Some(sqnr) = tensor.sqnr_db {
            kinds.entry(&tensor.module).or_default().push(sqnr);
        }
    }
    let all = || kinds.values().flatten().copied();
    let low = all().fold(f64::INFINITY, f64::min).floor();
    let high = all().fold(f64::NEG_INFINITY, f64::max).ceil();
    let top = 40.0;
    let bottom = top + ROW * kinds.len() as f64;
    let mut svg = open(title, bottom + 28.0);
    if kinds.is_empty() {
        svg.push_str("<text class=\"soft\" x=\"0\" y=\"40\">every value is exact</text></svg>\n");
        return svg;
    }
    let span = (high - low).max(1.0);
    let place = |sqnr: f64| LABELS + (WIDTH - LABELS - 20.0) * (sqnr - low) / span;
    let step = (span / 8.0).ceil();
    let mut tick = low;
    while tick <= low + span {
        let x = place(tick);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom:.1}\"/>\
             <text class=\"soft\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick:.0} dB</text>",
            bottom + 18.0
        );
        tick += step;
    }
    for (at, (kind, values)) in kinds.iter_mut().enumerate() {
        values.sort_by(f64::total_cmp);
        let y = top + ROW * at as f64 + ROW / 2.0;
        let at = |part: f64| {
            let index = (part * (values.len() - 1) as f64).round() as usize;
            place(values.get(index).copied().unwrap_or(low))
        };
        let [least, first, median, third, most] = [0.0, 0.25, 0.5, 0.75, 1.0].map(at);
        let _ = writeln!(
            svg,
            "<text x=\"0\" y=\"{:.1}\">{} <tspan class=\"soft\">({})</tspan></text>\
             <line class=\"line\" x1=\"{least:.1}\" x2=\"{most:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <rect class=\"box\" x=\"{first:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"12\" rx=\"2\"/>\
             <line class=\"median\" x1=\"{median:.1}\" x2=\"{median:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
            y + 4.0,
            escape(kind),
            values.len(),
            y - 6.0,
            (third - first).max(2.0),
            y - 8.0,
            y + 8.0,
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// The values of one tensor before (bars) and after (line), counts on a logarithmic scale.
pub(super) fn histogram(values: &Histogram) -> String {
    let (width, height) = (420.0, 120.0);
    let largest = values.before.iter().chain(&values.after).copied().max().unwrap_or(0).max(1);
    let tall = |count: u64| height * (count as f64 + 1.0).ln() / (largest as f64 + 1.0).ln();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {width} {}\" role=\"img\" \
         aria-label=\"values of {}\"><style>{STYLE}</style>\n",
        height + 22.0,
        escape(&values.name),
    );
    let step = width / values.before.len().max(1) as f64;
    let mut line = String::new();
    for (at, (&before, &after)) in values.before.iter().zip(&values.after).enumerate() {
        let x = step * at as f64;
        let _ = writeln!(
            svg,
            "<rect class=\"box\" x=\"{x:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{:.2}\"><title>{before} before, {after} after</title></rect>",
            height - tall(before),
            step - 0.5,
            tall(before),
        );
        let y = height - tall(after);
        let command = if at == 0 { 'M' } else { 'L' };
        let _ = write!(line, "{command}{x:.2} {y:.2}H{:.2}", x + step);
    }
    let _ = writeln!(
        svg,
        "<path class=\"after\" d=\"{line}\"/>\
         <text class=\"soft\" x=\"0\" y=\"{0}\">{1:.3e}</text><text class=\"soft\" x=\"{2}\" y=\"{0}\" text-anchor=\"middle\">0</text>\
         <text class=\"soft\" x=\"{width}\" y=\"{0}\" text-anchor=\"end\">{3:.3e}</text></svg>",
        height + 16.0,
        -values.limit,
        width / 2.0,
        values.limit,
    );
    svg
}

/// Two bars for each part of the model: bytes before and after. `parts`: name, before, after.
pub(super) fn sizes(parts: &[(String, u64, u64)], title: &str) -> String {
    let row = 40.0;
    let top = 40.0;
    let mut svg = open(title, top + row * parts.len() as f64 + 4.0);
    let largest = parts.iter().map(|(_, before, after)| (*before).max(*after)).max().unwrap_or(0).max(1);
    let wide = |bytes: u64| (WIDTH - LABELS - 130.0) * bytes as f64 / largest as f64;
    for (at, (name, before, after)) in parts.iter().enumerate() {
        let y = top + row * at as f64;
        let _ = writeln!(svg, "<text x=\"0\" y=\"{:.1}\">{}</text>", y + 18.0, escape(name));
        for (class, bytes, y) in [("none", *before, y), ("mark", *after, y + 15.0)] {
            let _ = writeln!(
                svg,
                "<rect class=\"{class}\" x=\"{LABELS}\" y=\"{y:.1}\" width=\"{0:.2}\" height=\"12\" rx=\"2\"/>\
                 <text class=\"soft\" x=\"{1:.1}\" y=\"{2:.1}\">{3}</text>",
                wide(bytes).max(1.0),
                LABELS + wide(bytes) + 8.0,
                y + 10.0,
                shown(bytes),
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn open(title: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" \
         aria-label=\"{0}\"><style>{STYLE}</style>\n<text x=\"0\" y=\"16\" font-size=\"15\" font-weight=\"600\">{0}</text>\n",
        escape(title)
    )
}

fn scale_legend(svg: &mut String, low: f64, high: f64) {
    for step in 0..20 {
        let sqnr = low + (high - low) * f64::from(step) / 19.0;
        let _ = writeln!(
            svg,
            "<rect x=\"{:.1}\" y=\"30\" width=\"8.5\" height=\"12\" fill=\"{}\"/>",
            LABELS + 8.0 * f64::from(step),
            colour(sqnr, low, high)
        );
    }
    let _ = writeln!(
        svg,
        "<text class=\"soft\" x=\"{:.1}\" y=\"40\" text-anchor=\"end\">{low:.1} dB</text>\
         <text class=\"soft\" x=\"{:.1}\" y=\"40\">{high:.1} dB, higher is closer to the checkpoint</text>",
        LABELS - 8.0,
        LABELS + 170.0,
    );
}

/// The lowest SQNR of a cell; `None` where all its values are exact.
fn lowest(cell: &[&TensorFigures]) -> Option<f64> {
    cell.iter().filter_map(|tensor| tensor.sqnr_db).min_by(f64::total_cmp)
}

fn colour(sqnr: f64, low: f64, high: f64) -> String {
    let part = if high > low { ((sqnr - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
    let at = part * (SCALE.len() - 1) as f64;
    let index = (at.floor() as usize).min(SCALE.len() - 2);
    let mix = |channel: usize| {
        let (from, to) = (SCALE[index][channel], SCALE[index + 1][channel]);
        (from + (to - from) * (at - index as f64)).round()
    };
    format!("rgb({} {} {})", mix(0), mix(1), mix(2))
}
