//! The other drawings of a report, as parts of its page. Every foreign text is escaped.

use std::fmt::Write as _;

use indexmap::IndexMap;

use super::kinds::labels;
use super::numbers::{grouped, plain, quantile};
use super::page::{Figure, scrolled, strip, ticks};
use super::{Histogram, TensorFigures};
use crate::device_map::{DeviceUse, Profile};
use crate::drawing::{self, escape};
use crate::size::{agreed, counted, shown};

/// Units across a strip.
const ACROSS: f64 = 1000.0;

/// Smallest, quartiles and largest SQNR of every kind of module: of the quantized ones where there are any, for
/// casts are a hundred decibels away.
pub(super) fn spread(tensors: &[TensorFigures]) -> String {
    struct Kind {
        sqnr: Vec<f64>,
        tensors: usize,
    }
    let title = "SQNR by kind of module";
    let mut kinds: IndexMap<&str, Kind> = IndexMap::new();
    let quantizes = tensors.iter().any(|tensor| tensor.quantized);
    let counted_here = || tensors.iter().filter(|tensor| tensor.quantized || !quantizes);
    for tensor in counted_here() {
        let kind = kinds.entry(&tensor.kind).or_insert(Kind { sqnr: Vec::new(), tensors: 0 });
        kind.tensors += 1;
        kind.sqnr.extend(tensor.sqnr_db);
    }
    let all = counted_here().count();
    let of = match quantizes {
        true => agreed(all, "tensor stored as codes", "tensors stored as codes"),
        false => counted(all, "float tensor"),
    };
    kinds.retain(|_, kind| !kind.sqnr.is_empty());
    if kinds.is_empty() {
        let nothing = match all {
            0 => "No float tensor was compared.".to_owned(),
            _ => format!("Every value of {of} is exact."),
        };
        return Figure { id: "by-kind", title, told: &nothing, body: "", caption: &nothing, table: None }
            .html();
    }
    let values = || kinds.values().flat_map(|kind| kind.sqnr.iter().copied());
    let low = values().fold(f64::INFINITY, f64::min).floor();
    let high = values().fold(f64::NEG_INFINITY, f64::max).ceil();
    let span = (high - low).max(1.0);
    let place = |sqnr: f64| ACROSS * (sqnr - low) / span;
    let step = (span / 6.0).ceil();
    let marks: Vec<f64> =
        (0..7).map(|at| low + step * f64::from(at)).filter(|mark| *mark <= low + span).collect();
    let label = labels(kinds.keys().copied());
    let (mut body, mut rows) = (String::new(), Vec::new());
    for (kind, found) in &kinds {
        let mut sorted = found.sqnr.clone();
        sorted.sort_by(f64::total_cmp);
        let of = |part: f64| quantile(&sorted, part).unwrap_or(low);
        let numbers = [0.0, 0.25, 0.5, 0.75, 1.0].map(of);
        let [least, first, median, third, most] = numbers.map(place);
        let mut drawn = String::new();
        for mark in &marks {
            let x = place(*mark);
            let _ = write!(drawn, "<path class=\"grid\" d=\"M{x:.1} 0V20\"/>");
        }
        let _ = write!(
            drawn,
            "<path class=\"line\" d=\"M{least:.1} 10H{most:.1}\"/>\
             <rect class=\"box\" x=\"{first:.1}\" y=\"4\" width=\"{:.1}\" height=\"12\"/>\
             <path class=\"median\" d=\"M{median:.1} 2V18\"/>",
            (third - first).max(1.0),
        );
        let name = escape(&label(kind));
        let exact = found.tensors - found.sqnr.len();
        let exact = if exact == 0 { String::new() } else { format!(", {exact} exact") };
        let _ = writeln!(
            body,
            "<div class=\"row\"><span><code>{name}</code> ({}{exact})</span>{}</div>",
            found.tensors,
            strip(ACROSS, 20.0, 20, &drawn)
        );
        let numbers = numbers.map(|sqnr| format!("{sqnr:.2}"));
        let first = [label(kind), format!("{}{exact}", found.tensors)];
        rows.push(first.into_iter().chain(numbers).collect());
    }
    let places = marks.iter().map(|mark| (place(*mark) / 10.0, format!("{mark:.0}")));
    body.push_str(&ticks("dB", places));
    let left_out =
        if quantizes { format!(" Of {of} alone; casts are in the table at the end.") } else { String::new() };
    let caption = format!(
        "Line: lowest to highest. Box: the middle half. Mark: the median. In brackets the number of tensors.{left_out}"
    );
    let table = scrolled(title, &["module", "tensors", "lowest", "25 %", "median", "75 %", "highest"], &rows);
    let told = format!(
        "{of}, in {}, between {low:.0} and {high:.0} dB",
        agreed(kinds.len(), "kind of module", "kinds of module")
    );
    Figure { id: "by-kind", title, told: &told, body: &body, caption: &caption, table: Some(&table) }.html()
}

/// The values of one tensor before (bars) and after (line), counts on a logarithmic scale.
pub(super) fn histogram(at: usize, values: &Histogram, tensors: &[TensorFigures]) -> String {
    let tall = 100.0;
    let largest = values.before.iter().chain(&values.after).copied().max().unwrap_or(0).max(1);
    let top = |count: u64| tall - tall * (count as f64 + 1.0).ln() / (largest as f64 + 1.0).ln();
    let bins = values.before.len().max(1);
    let limit = f64::from(values.limit);
    let (mut bars, mut line, mut rows) = (String::new(), String::new(), Vec::new());
    for (bin, (&before, &after)) in values.before.iter().zip(&values.after).enumerate() {
        let y = top(before);
        let _ = write!(
            bars,
            "<rect class=\"box\" x=\"{bin}\" y=\"{y:.2}\" width=\".9\" height=\"{:.2}\"><title>{before} before, {after} after</title></rect>",
            tall - y,
        );
        let command = if bin == 0 { 'M' } else { 'L' };
        let _ = write!(line, "{command}{bin} {:.2}h1", top(after));
        let middle = limit * ((2 * bin + 1) as f64 / bins as f64 - 1.0);
        if before + after > 0 {
            rows.push(vec![plain(middle, 3), grouped(before), grouped(after)]);
        }
    }
    let drawn = format!("{bars}<path class=\"after\" d=\"{line}\"/>");
    let body = format!(
        "{}<div class=\"ends\"><span>{}</span><span>0</span><span>{}</span></div>",
        strip(bins as f64, tall, 120, &drawn),
        plain(-limit, 2),
        plain(limit, 2),
    );
    let tensor = tensors.iter().find(|tensor| tensor.name == values.name);
    let sqnr = tensor.and_then(|tensor| tensor.sqnr_db).unwrap_or_default();
    let title = format!("{}: {sqnr:.2} dB", values.name);
    let told = format!("values from {} to {}", plain(-limit, 2), plain(limit, 2));
    let table = scrolled(&title, &["middle of bin", "before", "after"], &rows);
    let id = format!("values-{at}");
    Figure { id: &id, title: &title, told: &told, body: &body, caption: "", table: Some(&table) }.html()
}

/// Two bars for each part of the model: bytes before and after. `parts`: name, before, after.
pub(super) fn sizes(parts: &[(&str, u64, u64)]) -> String {
    let largest = parts.iter().map(|(_, before, after)| (*before).max(*after)).max().unwrap_or(0).max(1);
    let wide = |bytes: u64| (ACROSS * bytes as f64 / largest as f64).max(1.0);
    let (mut body, mut rows) = (String::new(), Vec::new());
    for (name, before, after) in parts {
        let bars = format!(
            "<rect class=\"none\" width=\"{:.1}\" height=\"9\"/><rect class=\"mark\" y=\"11\" width=\"{:.1}\" height=\"9\"/>",
            wide(*before),
            wide(*after),
        );
        let (before, after) = (shown(*before), shown(*after));
        let _ = writeln!(
            body,
            "<div class=\"row\"><span>{name}<br><small>{before} → {after}</small></span>{}</div>",
            strip(ACROSS, 20.0, 32, &bars),
        );
        rows.push(vec![(*name).to_owned(), before, after]);
    }
    let table = scrolled("Bytes before and after", &["part", "before", "after"], &rows);
    Figure {
        id: "sizes",
        title: "Bytes before and after",
        told: &format!("bytes of {} of the model", counted(parts.len(), "part")),
        body: &body,
        caption: "Grey: the checkpoint. Coloured: the bundle, scales included.",
        table: Some(&table),
    }
    .html()
}

/// The memory of every device that a map was planned for; without GPUs, what the weights need.
pub(super) fn memory(at: usize, profile: &Profile) -> String {
    let given = profile.memory.given;
    let title = match (given, profile.memory.context, profile.memory.batch) {
        (false, ..) => "No GPUs given".to_owned(),
        (true, Some(context), Some(batch)) => {
            format!("Planned for {}: context {}, batch {batch}", profile.memory.table, grouped(context))
        }
        (true, ..) => format!("Planned for {}", profile.memory.table),
    };
    let largest = profile.used.values().map(|used| used.budget.max(used.total())).max().unwrap_or(0).max(1);
    let scale = |bytes: u64| ACROSS * bytes as f64 / largest as f64;
    let (mut body, mut rows) = (String::new(), Vec::new());
    for (&device, used) in &profile.used {
        let mut drawn = format!("<rect class=\"track\" width=\"{:.2}\" height=\"1\"/>", scale(used.budget));
        let mut x = 0.0;
        for (class, bytes, title) in drawing::parts(profile, device, used) {
            let width = scale(bytes);
            let _ = write!(
                drawn,
                "<rect class=\"{class}\" x=\"{x:.2}\" width=\"{width:.2}\" height=\"1\"><title>{}: {}</title></rect>",
                escape(&title),
                shown(bytes),
            );
            x += width;
        }
        let (name, told) = (drawing::name_of(profile, device), drawing::told_of(profile, used));
        let _ = writeln!(
            body,
            "<div class=\"device\"><b>{name}</b> <span>{told}</span>{}</div>",
            strip(ACROSS, 1.0, 26, &drawn).replace("class=\"strip\"", "class=\"strip mgpack\""),
        );
        let DeviceUse { weights, kv, activations, reserve, budget } = *used;
        let free = budget.saturating_sub(used.total());
        let bytes = if given { vec![weights, kv, activations, reserve, free] } else { vec![weights] };
        rows.push(std::iter::once(name).chain(bytes.into_iter().map(shown)).collect());
    }
    body.push_str("<p class=\"legend\">");
    for (class, label) in drawing::legend(profile) {
        let _ = write!(
            body,
            "<span><svg class=\"mgpack\" viewBox=\"0 0 1 1\" aria-hidden=\"true\"><rect class=\"{class}\" width=\"1\" height=\"1\"/></svg>{label}</span> ",
        );
    }
    body.push_str("</p>");
    let columns = ["device", "weights", "cache", "activations", "reserve", "free"];
    let table = scrolled(&title, if given { &columns } else { &columns[..2] }, &rows);
    let caption = if given {
        ""
    } else {
        "Cache and working memory come on top. `mgpack map BUNDLE --gpus 2x24GiB` plans."
    };
    let id = format!("map-{at}");
    let told =
        if given { format!("memory of {}", counted(profile.used.len(), "device")) } else { title.clone() };
    Figure { id: &id, title: &title, told: &told, body: &body, caption, table: Some(&table) }.html()
}
