//! Numbers as people read them on a page.

/// `value` with so many significant digits, in plain decimals from 0.0001 to ten million: `−7.9`, `0.037`, `4.1 × 10⁻⁹`.
pub(super) fn plain(value: f64, digits: usize) -> String {
    if value == 0.0 || !value.is_finite() {
        return if value == 0.0 { "0".to_owned() } else { value.to_string() };
    }
    let after_first = digits.saturating_sub(1);
    let scientific = format!("{value:.after_first$e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let text = if (-4..7).contains(&exponent) {
        let decimals = usize::try_from(after_first as i32 - exponent).unwrap_or_default();
        format!("{value:.decimals$}")
    } else {
        let raised = |digit: char| match digit.to_digit(10) {
            Some(digit) => ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'][digit as usize],
            None => '⁻',
        };
        format!("{mantissa} × 10{}", exponent.to_string().chars().map(raised).collect::<String>())
    };
    text.replace('-', "−")
}

/// A count in groups of three digits: `1,048,576`.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What lies at `part` of sorted values, between two of them in proportion: the median of two is their mean. `None`
/// without values.
pub(super) fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let at = part * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted.get(at.floor() as usize)?, sorted.get(at.ceil() as usize)?);
    Some(below + (above - below) * (at - at.floor()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_plain() {
        for (value, digits, text) in [
            (-7.915, 2, "−7.9"),
            (0.8125, 2, "0.81"),
            (0.000_371, 2, "0.00037"),
            (123.4, 2, "123"),
            (9.96, 2, "10"),
            (0.0, 2, "0"),
            (2.98e-8, 3, "2.98 × 10⁻⁸"),
            (-3e38, 1, "−3 × 10³⁸"),
            (0.006_859, 3, "0.00686"),
        ] {
            assert_eq!(plain(value, digits), text);
        }
        assert_eq!([0, 999, 1000, 1_048_576].map(grouped), ["0", "999", "1,000", "1,048,576"]);
    }

    /// The upper of the two was called the median.
    #[test]
    fn the_median_of_two_values_is_between_them() {
        assert_eq!(quantile(&[40.0, 50.0], 0.5), Some(45.0));
        assert_eq!(quantile(&[1.0, 2.0, 10.0], 0.5), Some(2.0));
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0, 5.0], 0.25), Some(2.0));
        assert_eq!((quantile(&[], 0.5), quantile(&[7.0], 1.0)), (None, Some(7.0)));
    }
}
