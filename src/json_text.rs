//! Changes to a JSON object that leave every other byte of its values alone.
//!
//! A config.json goes through programs that care about `1e-05` and about order, so values are kept as the
//! text they were. Only objects with unique keys are taken.

use std::fmt;

use indexmap::IndexMap;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A JSON object whose values are still text.
pub(crate) struct JsonText(IndexMap<String, Box<RawValue>>);

impl JsonText {
    /// Reads an object; a key that occurs twice is an error.
    pub(crate) fn parse(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    /// The value of `key`, read.
    pub(crate) fn get(&self, key: &str) -> Option<serde_json::Value> {
        self.0.get(key).and_then(|raw| serde_json::from_str(raw.get()).ok())
    }

    /// Sets `key`, in its place if it is there and at the end if it is not.
    pub(crate) fn set(&mut self, key: &str, value: &serde_json::Value) -> serde_json::Result<()> {
        // Values are indented as part of an object two blanks deep.
        let text = serde_json::to_string_pretty(value)?.replace('\n', "\n  ");
        self.0.insert(key.to_owned(), RawValue::from_string(text)?);
        Ok(())
    }
}

/// The text of a JSON value without the objects of some keys, at any depth; every other byte stays.
///
/// # Errors
/// Where it is no JSON.
pub(crate) fn without(text: &str, is_gone: impl Fn(&str) -> bool + Copy) -> serde_json::Result<String> {
    Ok(cut(text, is_gone)?.unwrap_or_else(|| text.to_owned()))
}

/// The same; `None` where nothing is cut.
fn cut(text: &str, is_gone: impl Fn(&str) -> bool + Copy) -> serde_json::Result<Option<String>> {
    let open = text.find(|letter: char| !letter.is_ascii_whitespace()).unwrap_or(0);
    let members: Vec<(String, &RawValue)> = match text.as_bytes().get(open) {
        Some(b'{') => serde_json::from_str::<Members<'_>>(text)?.0,
        Some(b'[') => serde_json::from_str::<Vec<&RawValue>>(text)?
            .into_iter()
            .map(|value| (String::new(), value))
            .collect(),
        _ => return Ok(None),
    };
    let (mut kept, mut end, mut is_first, mut is_changed) =
        (text.get(..=open).unwrap_or_default().to_owned(), open + 1, true, false);
    for (key, value) in members {
        // A value is a part of the text that it was read from.
        let start = (value.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        let before = text.get(end..start).unwrap_or_default();
        end = start + value.get().len();
        if is_gone(&key) && value.get().starts_with('{') {
            is_changed = true;
            continue;
        }
        // What follows a first member that was cut has its comma still.
        let comma =
            if is_first { before.find(',').filter(|at| before[..*at].trim().is_empty()) } else { None };
        kept.push_str(comma.map_or(before, |at| &before[at + 1..]));
        let inner = cut(value.get(), is_gone)?;
        is_changed |= inner.is_some();
        kept.push_str(inner.as_deref().unwrap_or(value.get()));
        is_first = false;
    }
    kept.push_str(text.get(end..).unwrap_or_default());
    Ok(is_changed.then_some(kept))
}

/// The members of an object, in their order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(key) = access.next_key::<String>()? {
                    members.push((key, access.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl fmt::Display for JsonText {
    /// The object with one key a line, two blanks deep, and a final newline, as transformers writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("{}\n");
        }
        let mut separator = "{\n";
        for (key, value) in &self.0 {
            let key = serde_json::to_string(key).map_err(|_| fmt::Error)?;
            write!(f, "{separator}  {key}: {}", value.get())?;
            separator = ",\n";
        }
        f.write_str("\n}\n")
    }
}

impl<'de> Deserialize<'de> for JsonText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = JsonText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<JsonText, A::Error> {
                let mut map = IndexMap::new();
                while let Some(key) = access.next_key::<String>()? {
                    if map.contains_key(&key) {
                        return Err(A::Error::custom(format_args!("the key `{key}` is there twice")));
                    }
                    map.insert(key, access.next_value()?);
                }
                Ok(JsonText(map))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_keeps_order_and_the_text_of_every_other_value() {
        let text = "{\n  \"b\": 1e-05,\n  \"a\": [\n    1.0,\n    \"\\u00e9\"\n  ],\n  \"c\": 10000000000000000000000.5\n}\n";
        let mut object = JsonText::parse(text).unwrap();
        assert_eq!(object.to_string(), text);
        object.set("a", &serde_json::json!({"x": 1})).unwrap();
        object.set("d", &serde_json::json!(null)).unwrap();
        let changed = "{\n  \"b\": 1e-05,\n  \"a\": {\n    \"x\": 1\n  },\n  \"c\": 10000000000000000000000.5,\n  \"d\": null\n}\n";
        assert_eq!(object.to_string(), changed);
    }

    #[test]
    fn keys_are_cut_at_any_depth_and_every_other_byte_stays() {
        let gone = |key: &str| key == "q";
        for (text, rest) in [
            ("{\n  \"q\": {\"x\": 1},\n  \"a\": 1e-05\n}", "{\n  \"a\": 1e-05\n}"),
            ("{ \"a\" : 1.0 , \"q\":{} }", "{ \"a\" : 1.0 }"),
            ("{\"a\":1, \"q\":{}, \"b\":[ {\"q\":{\"q\":{}},\"c\":2} ]}", "{\"a\":1, \"b\":[ {\"c\":2} ]}"),
            ("{\"t\":{\"q\":{\"a\":[1,2]}}}", "{\"t\":{}}"),
            ("{\"q\":{},\"q\":{},\"a,b\":0}", "{\"a,b\":0}"),
            ("{\"q\": null, \"a\": \"\\u00e9\"}", "{\"q\": null, \"a\": \"\\u00e9\"}"),
            (" [1, 2]\n", " [1, 2]\n"),
        ] {
            assert_eq!(without(text, gone).unwrap(), rest);
        }
        assert!(without("{\"q\": {}", gone).is_err());
    }

    #[test]
    fn refuses_a_key_that_stands_twice_and_what_is_no_object() {
        assert!(JsonText::parse(r#"{"a": 1, "a": 2}"#).is_err());
        assert!(JsonText::parse("[1]").is_err());
        assert!(JsonText::parse("{} x").is_err());
    }
}
