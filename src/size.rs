//! Sizes and counts as people read them.

use std::fmt::Display;

/// A count with its noun: `1 file`, `2 files`. Every count that a text gives goes through this or [`agreed`].
pub(crate) fn counted(count: impl Display, noun: &str) -> String {
    agreed(count, noun, &format!("{noun}s"))
}

/// A count with words that agree with it: `1 byte follows`, `2 bytes follow`.
pub(crate) fn agreed(count: impl Display, one: &str, many: &str) -> String {
    let count = count.to_string();
    let words = if count == "1" { one } else { many };
    format!("{count} {words}")
}

/// Bytes as GiB with two decimals, for texts; what would be hundredths of one, as [`shown`].
pub(crate) fn gib(bytes: u64) -> String {
    if bytes < 10 << 20 { shown(bytes) } else { format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64) }
}

/// Bytes in GiB or MiB with two decimals; small sizes in KiB or bytes.
pub(crate) fn shown(bytes: u64) -> String {
    let scaled = |shift: u32| bytes as f64 / (1u64 << shift) as f64;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.2} KiB", scaled(10)),
        1_048_576..1_073_741_824 => format!("{:.2} MiB", scaled(20)),
        _ => format!("{:.2} GiB", scaled(30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_agree_with_their_count() {
        assert_eq!(
            [0, 1, 2, 11].map(|count| counted(count, "file")),
            ["0 files", "1 file", "2 files", "11 files"]
        );
        assert_eq!(agreed(1_u64, "byte follows", "bytes follow"), "1 byte follows");
        assert_eq!(agreed(21_u64, "byte follows", "bytes follow"), "21 bytes follow");
    }
}
