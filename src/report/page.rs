//! A report as one HTML page: self-contained, without a script, for light and dark, narrow and wide.

use std::fmt::Write as _;

use indexmap::IndexMap;

use super::{Histogram, Report, TensorFigures, charts};
use crate::drawing::{escape, memory_bars};
use crate::size::shown as bytes;
use crate::structure::Role;

const STYLE: &str = "\
:root{color-scheme:light dark;--back:#fbfcfd;--card:#fff;--ink:#1f2430;--soft:#5d6675;--edge:#dfe4ea}\
@media (prefers-color-scheme:dark){:root{--back:#14171c;--card:#1b1f26;--ink:#e7eaf0;--soft:#9aa4b5;--edge:#313844}}\
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--ink);font:15px/1.5 system-ui,sans-serif}\
main{max-width:1040px;margin:0 auto;padding:28px 20px 60px}h1{font-size:26px;margin:0 0 4px;overflow-wrap:anywhere}\
h2{font-size:18px;margin:36px 0 10px}p{margin:6px 0;color:var(--soft)}code{font-size:12.5px;overflow-wrap:anywhere}\
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:22px 0}\
.tile,figure{background:var(--card);border:1px solid var(--edge);border-radius:10px;padding:14px 16px}\
.tile b{display:block;font-size:22px;font-variant-numeric:tabular-nums}.tile span{color:var(--soft);font-size:13px}\
figure{margin:0 0 16px;overflow-x:auto}figure svg{display:block;width:100%;min-width:560px;height:auto}\
figcaption{color:var(--soft);font-size:13px;margin-top:8px}\
.worst{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr));gap:16px}\
.worst figure{margin:0}.worst figure svg{min-width:0}.worst h3{font-size:13px;margin:0 0 6px;overflow-wrap:anywhere}\
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}\
th,td{padding:5px 10px;text-align:right;border-bottom:1px solid var(--edge);white-space:nowrap}\
th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:600}";

/// Tensors in the table at the end, those with the lowest SQNR.
const LISTED: usize = 40;

/// The whole page.
pub fn page(report: &Report) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{0}: quality report</title><style>{STYLE}</style></head><body><main>\n\
         <h1>{0}</h1><p>Scheme {1}, compared value by value with the checkpoint.</p>\
         <p><code>id sha256:{2}</code></p>\n",
        escape(&report.bundle),
        report.scheme.name(),
        report.id,
    );
    html.push_str(&tiles(report));
    let _ = write!(
        html,
        "<h2>Error</h2>\n<figure>{}<figcaption>SQNR is the power of the weights over the power of their error; \
         6 dB are one bit. Grey: every value is exact.</figcaption></figure>\n<figure>{}\
         <figcaption>Line: smallest to largest. Box: the middle half. In brackets the number of tensors.</figcaption></figure>\n",
        figure(report),
        charts::spread(&report.tensors, "SQNR by kind of module"),
    );
    if !report.worst.is_empty() {
        html.push_str("<h2>Values of the tensors with the lowest SQNR</h2>\n<div class=\"worst\">\n");
        for values in &report.worst {
            html.push_str(&worst(values, &report.tensors));
        }
        html.push_str(
            "</div><p>Bars: the checkpoint. Line: the bundle. Counts are on a logarithmic scale.</p>\n",
        );
    }
    let _ = write!(
        html,
        "<h2>Sizes</h2>\n<figure>{}<figcaption>Grey: the checkpoint. Coloured: the bundle, scales included.</figcaption></figure>\n",
        charts::sizes(&parts(&report.tensors), "Bytes before and after"),
    );
    html.push_str("<h2>Device map</h2>\n");
    for profile in &report.profiles {
        let title = format!("planned for {}", profile.memory.table);
        let _ = writeln!(html, "<figure>{}</figure>", memory_bars(profile, &title));
    }
    html.push_str(&table(&report.tensors));
    html.push_str("</main></body></html>\n");
    html
}

/// The main figure by itself.
pub fn figure(report: &Report) -> String {
    charts::heat_map(&report.tensors, "Lowest SQNR by layer and kind of module")
}

fn tiles(report: &Report) -> String {
    let before: u64 = report.tensors.iter().map(|tensor| tensor.source_bytes).sum();
    let after: u64 = report.tensors.iter().map(|tensor| tensor.bytes).sum();
    let mut sqnr: Vec<f64> = report.tensors.iter().filter_map(|tensor| tensor.sqnr_db).collect();
    sqnr.sort_by(f64::total_cmp);
    let decibel = |at: Option<&f64>| at.map_or_else(|| "exact".to_owned(), |sqnr| format!("{sqnr:.1} dB"));
    let quantized = report.tensors.iter().filter(|tensor| tensor.quantized).count();
    let saved = 100.0 * (1.0 - after as f64 / before.max(1) as f64);
    let tiles = [
        (bytes(before), "tensors before".to_owned()),
        (bytes(after), format!("after, {saved:.0} % less")),
        (decibel(sqnr.get(sqnr.len() / 2)), "median SQNR".to_owned()),
        (decibel(sqnr.first()), "lowest SQNR".to_owned()),
        (format!("{quantized} of {}", report.tensors.len()), "tensors stored as codes".to_owned()),
    ];
    let mut html = "<div class=\"tiles\">".to_owned();
    for (value, label) in tiles {
        let _ = write!(html, "<div class=\"tile\"><b>{value}</b><span>{label}</span></div>");
    }
    html.push_str("</div>\n");
    html
}

fn worst(values: &Histogram, tensors: &[TensorFigures]) -> String {
    let tensor = tensors.iter().find(|tensor| tensor.name == values.name);
    let sqnr = tensor.and_then(|tensor| tensor.sqnr_db).unwrap_or_default();
    format!("<figure><h3>{}: {sqnr:.2} dB</h3>{}</figure>\n", escape(&values.name), charts::histogram(values))
}

/// Bytes before and after by part of the model.
fn parts(tensors: &[TensorFigures]) -> Vec<(String, u64, u64)> {
    let mut parts: IndexMap<&str, (u64, u64)> = IndexMap::new();
    for tensor in tensors {
        let part = match tensor.role {
            Role::Embedding => "embeddings",
            Role::Layer(_) => "decoder layers",
            Role::Final => "norm and others",
            Role::Projector => "projector",
            Role::Head => "head",
            Role::Uni => "vlm_uni",
            Role::Tower => "towers",
        };
        let sums = parts.entry(part).or_default();
        sums.0 = sums.0.saturating_add(tensor.source_bytes);
        sums.1 = sums.1.saturating_add(tensor.bytes);
    }
    parts.into_iter().map(|(part, (before, after))| (part.to_owned(), before, after)).collect()
}

fn table(tensors: &[TensorFigures]) -> String {
    let mut measured: Vec<(&TensorFigures, f64)> =
        tensors.iter().filter_map(|tensor| Some((tensor, tensor.sqnr_db?))).collect();
    measured.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut html = format!(
        "<h2>Tensors with the lowest SQNR</h2><p>{} of {} that are not exact; --json has all.</p><div class=\"scroll\"><table>\
         <tr><th>tensor</th><th>SQNR dB</th><th>largest error</th><th>cosine</th><th>before</th><th>after</th></tr>\n",
        measured.len().min(LISTED),
        measured.len(),
    );
    for (tensor, sqnr) in measured.into_iter().take(LISTED) {
        let cosine = tensor.cosine.map(|cosine| format!("{cosine:.6}")).unwrap_or_default();
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{sqnr:.2}</td><td>{:.3e}</td><td>{cosine}</td><td>{}</td><td>{}</td></tr>",
            escape(&tensor.name),
            tensor.max_abs_error,
            bytes(tensor.source_bytes),
            bytes(tensor.bytes),
        );
    }
    html.push_str("</table></div>\n");
    html
}
