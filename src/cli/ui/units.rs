//! One unit for all sizes of a table's column.

/// A unit of sizes: its name and the power of two that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) name: &'static str,
    shift: u32,
}

/// What is to be known of sizes that share a unit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sizes {
    /// The least but 0; 0 where all are; `None` where there are none.
    least: Option<u64>,
    largest: u64,
}

impl Sizes {
    /// True where there is one at least.
    pub(super) fn are_there(self) -> bool {
        self.least.is_some()
    }

    /// One more.
    pub(super) fn add(&mut self, size: u64) {
        self.least = match self.least {
            Some(least) if size == 0 || (least > 0 && least < size) => Some(least),
            _ => Some(size),
        };
        self.largest = self.largest.max(size);
    }

    /// Both together.
    pub(super) fn with(mut self, other: &Self) -> Self {
        if let Some(least) = other.least {
            self.add(least);
            self.add(other.largest);
        }
        self
    }
}

const UNITS: [Unit; 4] = [
    Unit { name: "B", shift: 0 },
    Unit { name: "KiB", shift: 10 },
    Unit { name: "MiB", shift: 20 },
    Unit { name: "GiB", shift: 30 },
];

impl Unit {
    /// The unit in which the largest size is at least 1. Where a smaller size would be less than a hundredth of it,
    /// the unit below, if the largest still has four digits there.
    pub(super) fn of(Sizes { least, largest }: Sizes) -> Self {
        let at = UNITS.iter().rposition(|unit| largest >= 1 << unit.shift).unwrap_or(0);
        let is_lost =
            |unit: Unit| least.is_some_and(|size| size > 0 && (size as u128 * 200) >> unit.shift == 0);
        match at.checked_sub(1) {
            Some(below) if is_lost(UNITS[at]) && largest >> UNITS[below].shift < 10_000 => UNITS[below],
            _ => UNITS[at],
        }
    }

    /// A size in this unit, with two decimals; bytes have none.
    pub(super) fn show(self, size: u64) -> String {
        let scaled = size as f64 / (1_u64 << self.shift) as f64;
        match (self.shift, size) {
            (0, size) => size.to_string(),
            (_, 0) => "0".to_owned(),
            _ if scaled < 0.005 => "<0.01".to_owned(),
            _ => format!("{scaled:.2}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_has_the_unit_of_its_largest_size_or_the_one_below() {
        let of = |sizes: &[u64]| {
            let mut all = Sizes::default();
            sizes.iter().for_each(|&size| all.add(size));
            Unit::of(all)
        };
        let shown = |sizes: &[u64]| {
            let unit = of(sizes);
            (unit.name, sizes.iter().map(|&size| unit.show(size)).collect::<Vec<_>>().join(" "))
        };
        let (kib, mib, gib) = (1_u64 << 10, 1_u64 << 20, 1_u64 << 30);
        assert_eq!(shown(&[]), ("B", String::new()));
        assert_eq!(shown(&[0, 96, 1023]), ("B", "0 96 1023".into()));
        assert_eq!(shown(&[0, 24 * gib, 512 * mib]), ("GiB", "0 24.00 0.50".into()));
        // 96 bytes are nothing in MiB: then KiB, in which 3.77 MiB are still a number to read.
        assert_eq!(shown(&[96, 3860 * kib + 512]), ("KiB", "0.09 3860.50".into()));
        assert_eq!(shown(&[96, 4 * gib]), ("MiB", "<0.01 4096.00".into()));
        assert_eq!(shown(&[96, 40 * gib]), ("GiB", "<0.01 40.00".into()));
        assert_eq!(of(&[u64::MAX]).show(u64::MAX), "17179869184.00");
    }
}
