//! What a comparison comes to: counts that all parts of the page share, and the verdict.

use super::Report;
use super::numbers::{grouped, plain, quantile};
use crate::size::{agreed, counted};

/// Below this a tensor is called far off: the error has a hundredth of the weights' power, a tenth of their size. Eight
/// bits give 40 dB or so.
const FAR_DB: f64 = 20.0;

/// Counts over a report. Every number of tensors on the page is one of these.
pub(super) struct Summary {
    /// Tensors of the bundle.
    pub(super) tensors: usize,
    /// Those compared value by value.
    pub(super) floats: usize,
    /// Those of them in which every value is the checkpoint's.
    pub(super) exact: usize,
    /// Those stored as codes.
    pub(super) quantized: usize,
    /// Values compared, changed, zero in the bundle alone, beyond its range.
    pub(super) values: u64,
    pub(super) changed: u64,
    pub(super) flushed: u64,
    pub(super) overflowed: u64,
    /// SQNR of the tensors that differ: of those stored as codes where there are any. Sorted.
    pub(super) sqnr: Vec<f64>,
}

/// How the verdict is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Look,
    Bad,
}

/// The verdict: one sentence, and what else should be known.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) tone: Tone,
    pub(super) sentence: String,
    pub(super) notes: Vec<String>,
}

impl Summary {
    pub(super) fn of(report: &Report) -> Self {
        let tensors = &report.tensors;
        let quantized = tensors.iter().filter(|tensor| tensor.quantized).count();
        let counts = tensors.iter().filter(|tensor| tensor.quantized || quantized == 0);
        let mut sqnr: Vec<f64> = counts.filter_map(|tensor| tensor.sqnr_db).collect();
        sqnr.sort_by(f64::total_cmp);
        Self {
            tensors: tensors.len() + report.others.len(),
            floats: tensors.len(),
            exact: tensors.iter().filter(|tensor| tensor.changed == 0).count(),
            quantized,
            values: tensors.iter().map(|tensor| tensor.values).sum(),
            changed: tensors.iter().map(|tensor| tensor.changed).sum(),
            flushed: tensors.iter().map(|tensor| tensor.flushed).sum(),
            overflowed: tensors.iter().map(|tensor| tensor.overflowed).sum(),
            sqnr,
        }
    }

    /// Tensors with a changed value.
    pub(super) fn differ(&self) -> usize {
        self.floats - self.exact
    }

    pub(super) fn median(&self) -> Option<f64> {
        quantile(&self.sqnr, 0.5)
    }

    pub(super) fn verdict(&self, report: &Report) -> Verdict {
        let unequal = report.others.iter().filter(|other| !other.equal).count();
        let lowest = report.tensors.iter().filter_map(|tensor| Some((tensor, tensor.sqnr_db?)));
        let lowest = lowest.min_by(|a, b| a.1.total_cmp(&b.1));
        let far = report.tensors.iter().filter(|tensor| tensor.sqnr_db.is_some_and(|sqnr| sqnr < FAR_DB));
        let far = far.count();
        let (tone, sentence) = if !report.absent.is_empty() {
            let count =
                agreed(report.absent.len(), "tensor of the checkpoint is", "tensors of the checkpoint are");
            (Tone::Bad, format!("{count} not in the bundle"))
        } else if unequal > 0 {
            (
                Tone::Bad,
                format!(
                    "{} not what the checkpoint has",
                    agreed(unequal, "integer tensor is", "integer tensors are")
                ),
            )
        } else if self.overflowed > 0 {
            let values = if self.overflowed == 1 { "value is" } else { "values are" };
            (
                Tone::Bad,
                format!("{} finite {values} beyond the range of the bundle's type", grouped(self.overflowed)),
            )
        } else if self.floats == 0 {
            (Tone::Look, "no values were compared: the checkpoint has no float tensor".to_owned())
        } else if far > 0 {
            (
                Tone::Look,
                format!(
                    "{} far from the checkpoint: below {FAR_DB} dB",
                    agreed(far, "tensor is", "tensors are")
                ),
            )
        } else if self.changed == 0 {
            (
                Tone::Good,
                format!("every value of {} is the checkpoint’s", counted(self.floats, "float tensor")),
            )
        } else {
            let closest = lowest.map_or_else(String::new, |(tensor, sqnr)| {
                format!(", {} with {sqnr:.1} dB at the lowest", tensor.name)
            });
            (
                Tone::Good,
                format!(
                    "{} close to the checkpoint{closest}",
                    agreed(self.floats, "tensor is", "tensors are")
                ),
            )
        };
        Verdict { tone, sentence, notes: self.notes(report) }
    }

    fn notes(&self, report: &Report) -> Vec<String> {
        let mut notes = Vec::new();
        let exact = if self.exact == 0 {
            String::new()
        } else {
            format!("; {} exact", counted(self.exact, "tensor"))
        };
        let share = 100.0 * self.changed as f64 / self.values.max(1) as f64;
        notes.push(format!(
            "{} of {} compared, {share:.1} % changed{exact}.",
            counted(grouped(self.values), "value"),
            counted(self.floats, "float tensor"),
        ));
        if self.flushed > 0 {
            let share = plain(100.0 * self.flushed as f64 / self.values.max(1) as f64, 2);
            let (values, are) = if self.flushed == 1 { ("value", "is") } else { ("values", "are") };
            let count = grouped(self.flushed);
            notes.push(format!(
                "{count} {values} ({share} %) {are} zero in the bundle and not in the checkpoint."
            ));
        }
        let non_finite: u64 = report.tensors.iter().map(|tensor| tensor.non_finite).sum();
        if non_finite > 0 {
            notes.push(format!(
                "{} NaN or infinite in the checkpoint; the figures leave them out.",
                agreed(grouped(non_finite), "value is", "values are"),
            ));
        }
        if !report.others.is_empty() {
            notes.push(format!(
                "{} of other types compared byte for byte.",
                agreed(report.others.len(), "tensor", "tensors"),
            ));
        }
        notes.push("Weights were compared, not answers.".to_owned());
        notes
    }
}
