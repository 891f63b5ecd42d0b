//! The canonical form of JSON: two blanks of indentation, one final newline, and numbers whose text is decided here.
//!
//! Digests are over these bytes, so no version of a library may choose them: serde_json 1.0.145 wrote `1e36` where 1.0.154
//! writes `1e+36`, and two builds of mgpack would have refused each other's bundles. Carries out formats/bundle.md,
//! "Manifest".

use std::io;

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{Formatter, PrettyFormatter};

/// The canonical bytes of `value`.
///
/// # Errors
/// serde_json's, for a value that is no JSON.
pub fn to_canonical(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, Canonical(PrettyFormatter::new())))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// serde_json's indentation with our own numbers.
struct Canonical(PrettyFormatter<'static>);

impl Formatter for Canonical {
    fn write_f64<W: ?Sized + io::Write>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        out.write_all(number(value).as_bytes())
    }

    fn write_f32<W: ?Sized + io::Write>(&mut self, out: &mut W, value: f32) -> io::Result<()> {
        self.write_f64(out, value.into())
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_array(out)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array(out)
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(out, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array_value(out)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object(out)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object(out)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(out, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object_value(out)
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object_value(out)
    }
}

/// The canonical text of a finite number that is no integer type.
///
/// The digits of [`scientific`]. From 1e-5 on and below 1e16 in full, with at least one digit on both sides of the point;
/// else `d.ddd`, `e`, the sign and the exponent.
fn number(value: f64) -> String {
    let scientific = scientific(value);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if !(-5..16).contains(&exponent) {
        let sign = if exponent < 0 { "" } else { "+" };
        return format!("{mantissa}e{sign}{exponent}");
    }
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits = mantissa.replace('.', "");
    // Where the point is: so many digits from the left.
    let point = exponent + 1;
    let (whole, part) = match usize::try_from(point) {
        Ok(0) | Err(_) => (String::new(), format!("{}{digits}", "0".repeat(point.unsigned_abs() as usize))),
        Ok(point) => match digits.split_at_checked(point) {
            Some((whole, part)) => (whole.to_owned(), part.to_owned()),
            None => (format!("{digits:0<point$}"), String::new()),
        },
    };
    let or_zero = |digits: String| if digits.is_empty() { "0".to_owned() } else { digits };
    format!("{sign}{}.{}", or_zero(whole), or_zero(part))
}

/// `-d.ddde-d` with the fewest digits that read back, of these the nearest, and of two equally near the even.
///
/// That is ECMAScript's rule (and so RFC 8785's); the standard library takes the larger of two equally near.
fn scientific(value: f64) -> String {
    /// Digits after the first that the exact decimal of a float may need.
    const EXACT: usize = 766;
    let shortest = format!("{value:e}");
    let Some((mantissa, exponent)) = shortest.split_once('e') else { return shortest };
    let Some(odd @ (b'1' | b'3' | b'5' | b'7' | b'9')) = mantissa.bytes().last() else { return shortest };
    let exact = format!("{value:.EXACT$e}");
    let digits = exact.split('e').next().unwrap_or_default().trim_end_matches('0');
    let Some(below) = digits.strip_suffix('5') else { return shortest };
    let even = format!("{}{}", mantissa.get(..mantissa.len() - 1).unwrap_or_default(), char::from(odd - 1));
    let text = format!("{below}e{exponent}");
    // Beside a power of two the lower neighbour is nearer, and what is as near need not read back.
    let is_tie = below == even && text.parse::<f64>().is_ok_and(|read| read.to_bits() == value.to_bits());
    if is_tie { text } else { shortest }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What mgpack 0.1.0 wrote (serde_json 1.0.154), recorded.
    #[test]
    fn numbers_have_the_text_of_the_format() {
        let table = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (-12.5, "-12.5"),
            (0.1, "0.1"),
            (100.0, "100.0"),
            (41.82764553, "41.82764553"),
            (0.00001, "0.00001"),
            (0.000015, "0.000015"),
            (0.000095, "0.000095"),
            (0.000009999999999999999, "9.999999999999999e-6"),
            (1e-6, "1e-6"),
            (1.5e-7, "1.5e-7"),
            (1e15, "1000000000000000.0"),
            (9007199254740992.0, "9007199254740992.0"),
            (9999999999999998.0, "9999999999999998.0"),
            (1e16, "1e+16"),
            (-1.5e16, "-1.5e+16"),
            (1.2345678901234568e17, "1.2345678901234568e+17"),
            (1e23, "1e+23"),
            (1e36, "1e+36"),
            // As near to ...13, which is odd.
            (2f64.powi(-25), "2.9802322387695312e-8"),
            (-(2f64.powi(-25)), "-2.9802322387695312e-8"),
            (5e-324, "5e-324"),
            (2.2250738585072014e-308, "2.2250738585072014e-308"),
            (f64::MAX, "1.7976931348623157e+308"),
        ];
        for (value, text) in table {
            assert_eq!(number(value), text);
        }
        let value = serde_json::json!({ "a": [1e36, 1], "b": {}, "c": [] });
        let text = "{\n  \"a\": [\n    1e+36,\n    1\n  ],\n  \"b\": {},\n  \"c\": []\n}\n";
        assert_eq!(String::from_utf8(to_canonical(&value).unwrap()).unwrap(), text);
    }

    proptest! {
        #[test]
        fn every_number_reads_back_and_has_the_digits_that_libraries_agree_on(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            let text = number(value);
            prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), bits);
            // Libraries agree on the digits and differ in where they put point and exponent.
            let digits = |text: &str| text.split('e').next().unwrap().replace(['.', '-'], "").trim_matches('0').to_owned();
            prop_assert_eq!(digits(&text), digits(&serde_json::to_string(&value).unwrap()));
        }

        #[test]
        fn of_two_texts_equally_near_the_even_is_taken(power in -80i32..80, odd in 1u64..64) {
            let value = odd as f64 * 2f64.powi(power);
            let digits = |text: &str| text.split('e').next().unwrap().replace(['.', '-'], "").trim_matches('0').to_owned();
            prop_assert_eq!(digits(&number(value)), digits(&serde_json::to_string(&value).unwrap()));
        }
    }
}
