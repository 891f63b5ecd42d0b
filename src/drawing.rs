//! A device map as a drawing: one bar of memory for each device, filled with what lies on it. SVG, by itself.
//!
//! Pure. Every text that comes from a model is escaped; the drawing has no script and asks for no other file.

use std::fmt::Write as _;

use crate::device::Device;
use crate::device_map::{DeviceUse, Profile};
use crate::legible::is_hidden;
use crate::size::shown;
use crate::structure::{number, role_of_module};

const WIDTH: f64 = 920.0;
const BAR_HEIGHT: f64 = 30.0;
const ROW_HEIGHT: f64 = 78.0;
const TOP: f64 = 84.0;

/// Colours for light and dark pages. `l0` and `l1` alternate, so that neighbouring layers differ.
pub(crate) const STYLE: &str = "\
.mgpack{--ink:#1f2430;--soft:#5d6675;--track:#e6e9ee;--l0:#3b6fd4;--l1:#5b8ae6;--edge:#8a5bc9;--vision:#1f9d78;\
--kv:#e0a11b;--act:#d9772f;--reserve:#b3bac6;font:13px system-ui,sans-serif}\
@media (prefers-color-scheme:dark){.mgpack{--ink:#e7eaf0;--soft:#9aa4b5;--track:#2b313c;--l0:#5a8cf0;--l1:#3f6fcf;\
--edge:#a980e0;--vision:#35b98f;--kv:#e6b04a;--act:#e08a4a;--reserve:#5b6473}}\
.mgpack text{fill:var(--ink)}.mgpack .soft{fill:var(--soft)}.mgpack .track{fill:var(--track)}\
.mgpack .l0{fill:var(--l0)}.mgpack .l1{fill:var(--l1)}.mgpack .edge{fill:var(--edge)}\
.mgpack .vision{fill:var(--vision)}.mgpack .kv{fill:var(--kv)}.mgpack .act{fill:var(--act)}\
.mgpack .reserve{fill:var(--reserve)}";

/// What the colours mean, in the order of the legend.
const LEGEND: [(&str, &str); 6] = [
    ("l0", "decoder layers"),
    ("edge", "embedding, norm, head"),
    ("vision", "projector, towers"),
    ("kv", "cache"),
    ("act", "activations"),
    ("reserve", "reserve"),
];

/// How many of [`LEGEND`] are weights: all there is where no GPUs were given.
const WEIGHTS: usize = 3;

/// One part of a bar.
struct Segment {
    class: &'static str,
    bytes: u64,
    title: String,
}

/// Draws the bars of `profile`, to one scale, with every module as a part of its own that names itself.
///
/// `title`: the first line, e.g. the bundle's name.
pub(crate) fn memory_bars(profile: &Profile, title: &str) -> String {
    let devices: Vec<(&Device, &DeviceUse)> = profile.used.iter().collect();
    let largest = devices.iter().map(|(_, used)| used.budget.max(used.total())).max().unwrap_or(0).max(1);
    let height = TOP + ROW_HEIGHT * devices.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"mgpack\" viewBox=\"0 0 {WIDTH} {height}\" \
         role=\"img\" aria-labelledby=\"t d\"><title id=\"t\">{0}</title><desc id=\"d\">{1}</desc><style>{STYLE}</style>\n\
         <text x=\"0\" y=\"20\" font-size=\"17\" font-weight=\"600\">{0}</text>\n",
        escape(title),
        devices.iter().map(|(device, used)| row_of(profile, **device, used)).collect::<Vec<_>>().join("; "),
    );
    let mut x = 0.0;
    for (class, label) in legend(profile) {
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{x}\" y=\"38\" width=\"11\" height=\"11\" rx=\"2\"/>\
             <text class=\"soft\" x=\"{}\" y=\"48\" font-size=\"12\">{label}</text>",
            x + 16.0
        );
        x += 34.0 + 7.0 * label.len() as f64;
    }
    for (row, (device, used)) in devices.into_iter().enumerate() {
        let y = TOP + ROW_HEIGHT * row as f64;
        let scale = |bytes: u64| WIDTH * bytes as f64 / largest as f64;
        let _ = writeln!(
            svg,
            "<text x=\"0\" y=\"{0}\" font-weight=\"600\">{1}</text>\
             <text class=\"soft\" x=\"{WIDTH}\" y=\"{0}\" text-anchor=\"end\">{2}</text>\n\
             <rect class=\"track\" x=\"0\" y=\"{3}\" width=\"{4:.2}\" height=\"{BAR_HEIGHT}\" rx=\"3\"/>",
            y + 12.0,
            name_of(profile, *device),
            told_of(profile, used),
            y + 20.0,
            scale(used.budget),
        );
        let mut x = 0.0;
        for segment in segments(profile, *device, used) {
            let width = scale(segment.bytes);
            let _ = writeln!(
                svg,
                "<rect class=\"{}\" x=\"{x:.2}\" y=\"{}\" width=\"{width:.2}\" height=\"{BAR_HEIGHT}\">\
                 <title>{}: {}</title></rect>",
                segment.class,
                y + 20.0,
                escape(&segment.title),
                shown(segment.bytes),
            );
            x += width;
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// A bar in words.
fn row_of(profile: &Profile, device: Device, used: &DeviceUse) -> String {
    format!("{}: {}", name_of(profile, device), told_of(profile, used))
}

/// What the colours mean: classes and words.
pub(crate) fn legend(profile: &Profile) -> &'static [(&'static str, &'static str)] {
    if profile.memory.given { &LEGEND } else { &LEGEND[..WEIGHTS] }
}

/// The parts of a device's bar: class, bytes and name.
pub(crate) fn parts(
    profile: &Profile,
    device: Device,
    used: &DeviceUse,
) -> impl Iterator<Item = (&'static str, u64, String)> {
    let parts = segments(profile, device, used).into_iter();
    parts.map(|Segment { class, bytes, title }| (class, bytes, title))
}

/// What the bar of a device is called. Where no GPUs were given there is none: the device in the profile is as large
/// as the model because nobody said what is there.
pub(crate) fn name_of(profile: &Profile, device: Device) -> String {
    if profile.memory.given { device.to_string() } else { "no GPUs given".to_owned() }
}

/// How full a device is; without GPUs what the weights need.
pub(crate) fn told_of(profile: &Profile, used: &DeviceUse) -> String {
    if !profile.memory.given {
        return format!("the weights need {} in all", shown(used.weights));
    }
    let free = used.budget.saturating_sub(used.total());
    format!("{} of {}, {} free", shown(used.total()), shown(used.budget), shown(free))
}

/// The parts of one device's bar, in the order of placement; what has no bytes is left out.
fn segments(profile: &Profile, device: Device, used: &DeviceUse) -> Vec<Segment> {
    let modules = profile.why.iter().filter(|why| why.device == device).map(|why| Segment {
        class: class_of(&why.module),
        bytes: why.bytes,
        title: why.module.clone(),
    });
    let rest = [
        ("kv", used.kv, "key-value cache"),
        ("act", used.activations, "activations and logits"),
        ("reserve", used.reserve, "kept free"),
    ];
    let rest = rest.map(|(class, bytes, title)| Segment { class, bytes, title: title.to_owned() });
    modules.chain(rest).filter(|segment| segment.bytes > 0).collect()
}

fn class_of(module: &str) -> &'static str {
    let index = module.rsplit_once('.').and_then(|(_, last)| number::<u64>(last));
    match index {
        _ if role_of_module(module).is_vision() => "vision",
        Some(index) if index % 2 == 1 => "l1",
        Some(_) => "l0",
        None => "edge",
    }
}

/// A text for XML and HTML.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter if is_hidden(letter) => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryTable;
    use crate::modules::{MapRequest, ModelModules};
    use crate::plan::{Plan, Precision, Recipe, WeightOptions};
    use crate::subject::Subject;

    #[test]
    fn widths_are_in_the_ratio_of_bytes_and_names_are_escaped() {
        let tensor = |name: &str, rows: u64| crate::checkpoint::SourceTensor {
            name: crate::tensor::TensorName::new(name.to_owned()).unwrap(),
            dtype: crate::tensor::Dtype::BF16,
            shape: vec![rows, 1 << 20],
            byte_len: rows << 21,
            is_cache_scale: false,
            reading: crate::checkpoint::Reading::Stored(crate::checkpoint::Span {
                file: 0,
                offset: 0,
                view: None,
            }),
        };
        let tensors = [tensor("model.embed_tokens.weight", 512), tensor("<b>&.weight", 1024)];
        let options = WeightOptions { precision: Precision::Fp16, ..WeightOptions::default() };
        let recipe = Recipe::choose(&options, 1 << 40, None).unwrap();
        let plan = Plan::new(&tensors, &recipe).unwrap();
        let modules = ModelModules::of_plan(&plan, &[], &Subject::of(serde_json::Value::Null));
        let request = MapRequest {
            memory: vec![MemoryTable::parse("8GiB").unwrap()],
            reserve: 1 << 30,
            ..MapRequest::default()
        };
        let profiles = modules.plan(&request, None).unwrap();
        let svg = memory_bars(&profiles[0], "a \"model\"");
        // 8 GiB are 920 units wide: 1 GiB is 115.
        for part in [
            "<title id=\"t\">a &quot;model&quot;</title><desc id=\"d\">gpu 0: 4.00 GiB of 8.00 GiB, 4.00 GiB free</desc>",
            "x=\"0.00\" y=\"104\" width=\"115.00\" height=\"30\"><title>model.embed_tokens: 1.00 GiB",
            "x=\"115.00\" y=\"104\" width=\"230.00\" height=\"30\"><title>&lt;b&gt;&amp;: 2.00 GiB",
            "x=\"345.00\" y=\"104\" width=\"115.00\" height=\"30\"><title>kept free",
            "4.00 GiB of 8.00 GiB, 4.00 GiB free",
        ] {
            assert!(svg.contains(part), "{part}\n{svg}");
        }
        assert!(!svg.contains("<b>"));

        // A GPU exactly as large as the model was drawn, "34.07 GiB of 34.07 GiB, 0.00 GiB free".
        let profiles = modules.plan(&MapRequest::default(), None).unwrap();
        let svg = memory_bars(&profiles[0], "a model");
        for part in
            [">no GPUs given</text>", "the weights need 3.00 GiB in all", "model.embed_tokens: 1.00 GiB"]
        {
            assert!(svg.contains(part), "{part}\n{svg}");
        }
        for invented in ["gpu 0", "free", "cache", "reserve<"] {
            assert!(!svg.contains(invented), "{invented}\n{svg}");
        }
    }
}
