//! Texts among a family's facts that must have a form: names, hub ids, sources.
//!
//! Owns their types, which check the form where a text is read. Carries out the patterns of
//! formats/family.schema.json.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Declares a text that is checked where it is read.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $refusal:literal, $good:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = &'static str;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                let good: fn(&str) -> bool = $good;
                if good(&text) { Ok(Self(text)) } else { Err($refusal) }
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_text!(
    /// A family's name: lower-case words and digits joined by hyphens.
    FamilyName,
    "a family name is lower-case letters, digits and single hyphens",
    |text| text.split('-').all(|word| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    })
);

checked_text!(
    /// Where a group of facts comes from: never empty.
    Source,
    "a source is empty",
    |text| !text.is_empty()
);

checked_text!(
    /// `owner/name` on the hub.
    HubId,
    "a hub id is not owner/name",
    |text| text.split_once('/').is_some_and(|(owner, name)| is_word(owner) && is_word(name))
);

checked_text!(
    /// The start of a bundle's folder name. MGM's loader dispatches on it.
    BundleStem,
    "a bundle stem must contain \"mgm\" in any case and be letters, digits, dots, hyphens and underscores",
    |text| is_word(text) && text.to_ascii_lowercase().contains("mgm")
);

/// Letters, digits, `.`, `_` and `-`, the first a letter or digit.
fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}
