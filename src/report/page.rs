//! A report as one HTML page: self-contained, without a script, for light and dark, narrow and wide, mouse, keyboard and
//! screen reader.

use std::fmt::Write as _;

use indexmap::IndexMap;

use super::numbers::{grouped, plain};
use super::summary::{Summary, Tone};
use super::{Report, TensorFigures, charts, heat::Heat};
use crate::drawing::{self, escape};
use crate::size::{counted, shown as bytes};
use crate::structure::Role;

const STYLE: &str = "\
:root{color-scheme:light dark;--back:#fbfcfd;--card:#fff;--ink:#1f2430;--soft:#5d6675;--edge:#dfe4ea;--none:#dfe3ea;\
--mark:#3b6fd4;--box:#a9c1ee;--after:#c8641c;--good:#1f7a4d;--look:#9a6700;--bad:#b3261e}\
@media (prefers-color-scheme:dark){:root{--back:#14171c;--card:#1b1f26;--ink:#e7eaf0;--soft:#9aa4b5;--edge:#313844;\
--none:#3a414e;--mark:#7ea6f5;--box:#35538f;--after:#f0995a;--good:#5fd39a;--look:#e6b04a;--bad:#ff8a80}}\
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--ink);font:15px/1.5 system-ui,sans-serif}\
main{max-width:1040px;margin:0 auto;padding:28px 20px 60px}h1{font-size:26px;margin:0 0 4px}\
h1,h3,p,b,li,code,summary,figcaption,dd,td:first-child{overflow-wrap:anywhere}\
h2{font-size:18px;margin:36px 0 10px}h3{font-size:15px;margin:0 0 10px}p{margin:6px 0}\
code{font:12.5px/1.5 ui-monospace,monospace}\
.verdict{border-left:4px solid;padding:2px 0 2px 14px;margin:14px 0}.verdict b{display:block;font-size:18px}\
.good{border-color:var(--good)}.good b{color:var(--good)}.look{border-color:var(--look)}.look b{color:var(--look)}\
.bad{border-color:var(--bad)}.bad b{color:var(--bad)}.verdict ul{margin:6px 0;padding:0 0 0 18px;color:var(--soft)}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 14px;margin:14px 0}dt{color:var(--soft)}dd{margin:0;min-width:0}\
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:12px;margin:22px 0}\
.tile,figure{background:var(--card);border:1px solid var(--edge);border-radius:10px;padding:14px 16px}\
.tile b{display:block;font-size:22px;font-variant-numeric:tabular-nums}.tile span,figcaption,small{color:var(--soft);font-size:13px}\
figure{margin:0 0 16px;min-width:0}figcaption{margin-top:10px}:focus-visible{outline:2px solid var(--mark);outline-offset:2px}\
.row{display:grid;grid-template-columns:minmax(0,240px) minmax(0,1fr);gap:0 14px;align-items:center;margin:3px 0;font-size:13px}\
.device{margin:8px 0}.device span{color:var(--soft);font-size:13px}\
.strip{display:block;width:100%}.strip .none{fill:var(--none)}.strip .mark{fill:var(--mark)}.strip .box{fill:var(--box)}\
.strip path{fill:none;vector-effect:non-scaling-stroke}.grid{stroke:var(--edge)}.line{stroke:var(--soft);stroke-width:1.5}\
.median{stroke:var(--ink);stroke-width:2.5}.after{stroke:var(--after);stroke-width:1.5}\
.ticks{position:relative;height:20px}.ticks span{position:absolute;color:var(--soft)}\
.ends{display:flex;justify-content:space-between;color:var(--soft);font-size:13px}\
.scale{color:var(--soft);font-size:13px}.scale span{display:inline-block;width:140px;max-width:40%;height:12px;vertical-align:-1px}\
.legend{font-size:13px;color:var(--soft)}.legend span{margin-right:14px;display:inline-block}\
.legend svg{width:11px;height:11px;margin-right:5px}\
.worst{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr));gap:16px}\
.worst figure{margin:0}.worst h3{font-size:13px}summary{cursor:pointer;color:var(--soft);font-size:13px;margin-top:8px}\
table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}\
th,td{padding:5px 10px;text-align:right;border-bottom:1px solid var(--edge);white-space:nowrap}th{color:var(--soft);font-weight:600}\
th:first-child,td:first-child{text-align:left;white-space:normal}\
details>div{max-height:420px;overflow:auto}\
@media (max-width:640px){main{padding:20px 14px 40px}.row{grid-template-columns:minmax(0,1fr);margin:8px 0}\
dl{grid-template-columns:minmax(0,1fr)}dd{margin-bottom:6px}th,td{padding:4px 5px}}\
@media (max-width:760px){\
.stack thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}.stack,.stack tbody,.stack tr{display:block}\
.stack tr{border-bottom:1px solid var(--edge);padding:6px 0}.stack td{display:flex;justify-content:space-between;border:0;padding:1px 0}\
.stack td:first-child{font-weight:600}.stack td[data-label]::before{content:attr(data-label);color:var(--soft);font-weight:400;margin-right:12px}}\
@media print{details>div{max-height:none}}";

/// Tensors in the table at the end, those with the lowest SQNR.
const LISTED: usize = 40;

/// A drawing with its name, what it shows in words, and its numbers as a table.
pub(super) struct Figure<'a> {
    pub(super) id: &'a str,
    pub(super) title: &'a str,
    /// In place of the drawing, for those who do not see it.
    pub(super) told: &'a str,
    /// HTML.
    pub(super) body: &'a str,
    pub(super) caption: &'a str,
    /// HTML.
    pub(super) table: Option<&'a str>,
}

impl Figure<'_> {
    /// The keyboard reaches the figure and its table, a screen reader its title, its words and its table.
    pub(super) fn html(&self) -> String {
        let Self { id, title, told, body, caption, table } = self;
        let (title, told, caption) = (escape(title), escape(told), escape(caption));
        let mut html = format!(
            "<figure id=\"{id}\" tabindex=\"0\" aria-labelledby=\"{id}-title\"><h3 id=\"{id}-title\">{title}</h3>"
        );
        if !body.is_empty() {
            let _ = write!(html, "<div role=\"img\" aria-label=\"{told}\">{body}</div>");
        }
        if !caption.is_empty() {
            let _ = write!(html, "<figcaption>{caption}</figcaption>");
        }
        if let Some(table) = table {
            let _ = write!(html, "<details><summary>As a table</summary>{table}</details>");
        }
        html.push_str("</figure>\n");
        html
    }
}

/// A drawing of `width` by `height` units that is stretched to the width there is, `pixels` tall.
pub(super) fn strip(width: f64, height: f64, pixels: u32, inside: &str) -> String {
    format!(
        "<svg class=\"strip\" viewBox=\"0 0 {width} {height}\" preserveAspectRatio=\"none\" height=\"{pixels}\" aria-hidden=\"true\">{inside}</svg>"
    )
}

/// The numbers below strips: places in percent of the width, and texts. The first and the last stay within the width.
pub(super) fn ticks(name: &str, ticks: impl Iterator<Item = (f64, String)>) -> String {
    let mut html = format!("<div class=\"row\"><span>{name}</span><div class=\"ticks\">");
    for (at, text) in ticks {
        let _ = write!(html, "<span style=\"left:{at:.2}%;transform:translateX(-{at:.2}%)\">{text}</span>");
    }
    html.push_str("</div></div>");
    html
}

/// A table of texts, the first of each row its name. Where it is wide, its rows become blocks on a narrow screen, each text
/// with its column's name before it.
pub(super) fn table(name: &str, columns: &[&str], rows: &[Vec<String>]) -> String {
    let class = if columns.len() > 4 { " class=\"stack\"" } else { "" };
    let mut html = format!(
        "<table{class} role=\"table\" aria-label=\"{}, as a table\"><thead role=\"rowgroup\"><tr role=\"row\">",
        escape(name)
    );
    for column in columns {
        let _ = write!(html, "<th scope=\"col\" role=\"columnheader\">{column}</th>");
    }
    html.push_str("</tr></thead><tbody role=\"rowgroup\">\n");
    for row in rows {
        html.push_str("<tr role=\"row\">");
        for (at, (column, text)) in columns.iter().zip(row).enumerate() {
            let label = if at == 0 { String::new() } else { format!(" data-label=\"{column}\"") };
            let _ = write!(html, "<td role=\"cell\"{label}>{}</td>", escape(text));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table>\n");
    html
}

/// The same in a region that scrolls by itself, by keyboard too.
pub(super) fn scrolled(name: &str, columns: &[&str], rows: &[Vec<String>]) -> String {
    let table = table(name, columns, rows);
    format!("<div tabindex=\"0\" role=\"region\" aria-label=\"{}, as a table\">{table}</div>", escape(name))
}

/// The whole page.
pub(crate) fn page(report: &Report) -> String {
    let summary = Summary::of(report);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{0}: quality report</title><style>{STYLE}{1}</style></head><body><main>\n<h1>{0}</h1>\n",
        escape(&report.bundle),
        drawing::STYLE,
    );
    html.push_str(&head(report, &summary));
    html.push_str(&tiles(report, &summary));
    let _ = write!(
        html,
        "<h2>Error</h2>\n{}{}",
        Heat::of(&report.tensors).figure(HEAT),
        charts::spread(&report.tensors)
    );
    if !report.worst.is_empty() {
        html.push_str(
            "<h2>Values of the tensors with the lowest SQNR</h2>\n\
             <p>Bars: the checkpoint. Line: the bundle. Counts are on a logarithmic scale.</p>\n<div class=\"worst\">\n",
        );
        for (at, values) in report.worst.iter().enumerate() {
            html.push_str(&charts::histogram(at, values, &report.tensors));
        }
        html.push_str("</div>\n");
    }
    let _ = write!(html, "<h2>Sizes</h2>\n{}<h2>Device map</h2>\n", charts::sizes(&parts(&report.tensors)));
    for (at, profile) in report.profiles.iter().enumerate() {
        html.push_str(&charts::memory(at, profile));
    }
    html.push_str(&lowest(&report.tensors, &summary));
    html.push_str("</main></body></html>\n");
    html
}

const HEAT: &str = "Lowest SQNR by layer and kind of module";

/// The main figure by itself.
pub(crate) fn figure(report: &Report) -> String {
    Heat::of(&report.tensors).svg(HEAT)
}

/// What it comes to, what was compared, and with which command.
fn head(report: &Report, summary: &Summary) -> String {
    let verdict = summary.verdict(report);
    let (class, word) = match verdict.tone {
        Tone::Good => ("good", "Good"),
        Tone::Look => ("look", "Look closer"),
        Tone::Bad => ("bad", "Not the same"),
    };
    let notes: String = verdict.notes.iter().map(|note| format!("<li>{}</li>", escape(note))).collect();
    let mut html = format!(
        "<div class=\"verdict {class}\"><b>{word}: {}.</b><ul>{notes}</ul></div>\n<dl>\
         <dt>Scheme</dt><dd>{}</dd><dt>Bundle</dt><dd><code>sha256:{}</code></dd><dt>Checkpoint</dt><dd>{}</dd>",
        escape(&verdict.sentence),
        report.scheme.name(),
        report.id,
        report
            .source
            .as_ref()
            .map_or_else(|| "a local one".to_owned(), |source| format!("<code>{}</code>", escape(source))),
    );
    if let Some(command) = &report.command {
        let _ = write!(
            html,
            "<dt>Made by</dt><dd><code>{}</code> (mgpack {})</dd>",
            escape(command),
            env!("CARGO_PKG_VERSION")
        );
    }
    html.push_str("</dl>\n");
    html
}

fn tiles(report: &Report, summary: &Summary) -> String {
    let sum = |of: fn(&TensorFigures) -> u64| {
        let others =
            |of_other: fn(&super::OtherTensor) -> u64| report.others.iter().map(of_other).sum::<u64>();
        report.tensors.iter().map(of).sum::<u64>() + others(|other| other.bytes)
    };
    let (before, after) = (sum(|tensor| tensor.source_bytes), sum(|tensor| tensor.bytes));
    let saved = 100.0 * (1.0 - after as f64 / before.max(1) as f64);
    let change = if saved < 0.0 { format!("{:.0} % more", -saved) } else { format!("{saved:.0} % less") };
    let decibel = |sqnr: Option<f64>| sqnr.map_or_else(|| "exact".to_owned(), |sqnr| format!("{sqnr:.1} dB"));
    let of = match (summary.sqnr.len(), summary.quantized) {
        (0, _) => String::new(),
        (count, 0) => format!(" of {}", counted(count, "tensor")),
        (count, _) => format!(" of {count} as codes"),
    };
    let tiles = [
        (bytes(before), format!("{} before", counted(summary.tensors, "tensor"))),
        (bytes(after), format!("after, {change}")),
        (decibel(summary.median()), format!("median SQNR{of}")),
        (decibel(summary.sqnr.first().copied()), format!("lowest SQNR{of}")),
        (format!("{} of {}", summary.quantized, summary.tensors), "tensors stored as codes".to_owned()),
        (grouped(summary.flushed), "values became zero".to_owned()),
    ];
    let tile = |(value, label): (String, String)| {
        format!("<div class=\"tile\"><b>{value}</b><span>{label}</span></div>")
    };
    format!("<div class=\"tiles\">{}</div>\n", tiles.map(tile).concat())
}

/// Bytes before and after by part of the model.
fn parts(tensors: &[TensorFigures]) -> Vec<(&'static str, u64, u64)> {
    let mut parts: IndexMap<&str, (u64, u64)> = IndexMap::new();
    for tensor in tensors {
        let part = match tensor.role {
            Role::Embedding => "embeddings",
            Role::Layer(_) => "layers",
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
    parts.into_iter().map(|(part, (before, after))| (part, before, after)).collect()
}

/// The tensors that differ most: those without an SQNR last.
fn lowest(tensors: &[TensorFigures], summary: &Summary) -> String {
    let mut differing: Vec<&TensorFigures> = tensors.iter().filter(|tensor| tensor.changed > 0).collect();
    differing.sort_by(|a, b| {
        let sqnr = |tensor: &TensorFigures| tensor.sqnr_db.unwrap_or(f64::INFINITY);
        sqnr(a).total_cmp(&sqnr(b))
    });
    let rows: Vec<Vec<String>> = differing
        .into_iter()
        .take(LISTED)
        .map(|tensor| {
            vec![
                tensor.name.clone(),
                tensor.sqnr_db.map(|sqnr| format!("{sqnr:.2} dB")).unwrap_or_default(),
                plain(tensor.max_abs_error, 3),
                tensor.cosine.map(|cosine| format!("{cosine:.6}")).unwrap_or_default(),
                grouped(tensor.flushed),
                bytes(tensor.source_bytes),
                bytes(tensor.bytes),
            ]
        })
        .collect();
    let columns = ["tensor", "SQNR", "largest error", "cosine", "became zero", "before", "after"];
    let title = "Tensors with the lowest SQNR";
    format!(
        "<h2>{title}</h2><p>{} of the {} that differ; {} of {} exact. <code>mgpack report --json</code> has all.</p>\n{}",
        rows.len(),
        summary.differ(),
        summary.exact,
        counted(summary.floats, "float tensor"),
        table(title, &columns, &rows),
    )
}
