//! What a list of Python requirements is made of: names, versions and ranges, by PEP 508 and PEP 440.

use std::str::FromStr as _;

use pep440_rs::{Version, VersionSpecifiers};

use super::checked_text;

/// Longest of each, in bytes. Real ones have below 60.
const MAX_LEN: usize = 200;

checked_text!(
    /// Name of a package on the index, or `python`. It may be written into a list of requirements and a command.
    PackageName,
    "a package's name is letters, digits, `.`, `_` and `-`, with a letter or digit at both ends",
    |name| name.len() <= MAX_LEN
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && name.starts_with(|letter: char| letter.is_ascii_alphanumeric())
        && name.ends_with(|letter: char| letter.is_ascii_alphanumeric())
);

checked_text!(
    /// One version, by PEP 440: `2.0.1`.
    Pin,
    "a pinned version is one of PEP 440",
    |pin| pin.len() <= MAX_LEN
        && pin.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+!".contains(&byte))
        && Version::from_str(pin).is_ok()
);

checked_text!(
    /// The versions that work, as a specifier of PEP 440: `>=2.0.1,<=2.5.1`.
    Range,
    "a range of versions is a specifier of PEP 440",
    |range| range.len() <= MAX_LEN
        && range.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+!*<>=~, ".contains(&byte))
        && VersionSpecifiers::from_str(range).is_ok()
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_requirement_can_stand_in_a_list_of_requirements() {
        for good in ["torch", "open_clip_torch", "compressed-tensors", "a"] {
            assert!(PackageName::new(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "-r evil.txt",
            "--index-url",
            "a\nb",
            "a==1",
            "a @ https://x",
            "a;b",
            "é",
            "a-",
            ".a",
            "$(x)",
            "a'",
        ] {
            assert!(PackageName::new(bad).is_none(), "{bad:?}");
        }
        for good in ["2.0.1", "0.1.99", "1.0rc1", "2.5.1+cu121", "1!2.0"] {
            assert!(Pin::new(good).is_some(), "{good}");
        }
        for bad in
            ["", "1.0\n--index-url https://evil", "1.0 # x", "latest", ">=1", "1.0;x", "1.0'", " 1.0", "1.*"]
        {
            assert!(Pin::new(bad).is_none(), "{bad:?}");
        }
        for good in [">=2.0.1,<=2.5.1", "<0.20", "==0.9.16", "~=1.4.2", "==1.*", ">=1, <2"] {
            assert!(Range::new(good).is_some(), "{good}");
        }
        for bad in [">=1\nevil", "evil", ">=1; x", ">=1'", "1.0"] {
            assert!(Range::new(bad).is_none(), "{bad:?}");
        }
    }
}
