//! Strict JSON: what serde_json lets pass and a checkpoint's text must not hold.
//!
//! Owns how the parsers of this folder report a typed fault through serde, whose errors are only text,
//! and the check that no object has a key twice. Knows neither headers nor indexes.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// The first fault that a visitor found, carried past serde, and the entry it was in.
pub(super) struct Faults<F> {
    fault: RefCell<Option<F>>,
    entry: RefCell<Option<String>>,
}

impl<F> Faults<F> {
    pub(super) fn new() -> Self {
        Self { fault: RefCell::new(None), entry: RefCell::new(None) }
    }

    /// Notes `fault`, if it is the first, and gives the error that stops the parser.
    pub(super) fn stop<E: de::Error>(&self, fault: F) -> E {
        self.fault.borrow_mut().get_or_insert(fault);
        E::custom("refused")
    }

    /// Notes the entry in which serde itself stopped.
    pub(super) fn within(&self, entry: &str) {
        self.entry.borrow_mut().get_or_insert_with(|| entry.to_owned());
    }

    /// The fault noted, if any.
    pub(super) fn take(&self) -> Option<F> {
        self.fault.borrow_mut().take()
    }

    /// The entry noted, if any.
    pub(super) fn take_entry(&self) -> Option<String> {
        self.entry.borrow_mut().take()
    }
}

/// A whole number from 0 to 2^64 - 1, written without sign, point or exponent.
pub(super) struct Whole;

impl<'de> DeserializeSeed<'de> for Whole {
    type Value = u64;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_u64(self)
    }
}

impl Visitor<'_> for Whole {
    type Value = u64;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number from 0 to 2^64 - 1")
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }
}

/// What [`Unique`] keeps of a value.
#[derive(Debug, PartialEq)]
pub(super) enum Kept {
    /// A whole number.
    Whole(u64),
    /// Any other number.
    Number(f64),
    /// Anything else.
    Other,
}

/// Any value whose objects have no key twice, at every level. `report` makes the fault from the key.
///
/// Depth is limited by serde_json, which stops at 128 levels.
pub(super) struct Unique<'a, F> {
    pub(super) faults: &'a Faults<F>,
    pub(super) report: fn(String) -> F,
}

impl<F> Clone for Unique<'_, F> {
    fn clone(&self) -> Self {
        Self { faults: self.faults, report: self.report }
    }
}

impl<'de, F> DeserializeSeed<'de> for Unique<'_, F> {
    type Value = Kept;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kept, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F> Visitor<'de> for Unique<'_, F> {
    type Value = Kept;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<Kept, E> {
        Ok(Kept::Other)
    }
    fn visit_u64<E>(self, value: u64) -> Result<Kept, E> {
        Ok(Kept::Whole(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Kept, E> {
        Ok(Kept::Number(value as f64))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Kept, E> {
        Ok(Kept::Number(value))
    }
    fn visit_str<E>(self, _: &str) -> Result<Kept, E> {
        Ok(Kept::Other)
    }
    fn visit_unit<E>(self) -> Result<Kept, E> {
        Ok(Kept::Other)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kept, A::Error> {
        while seq.next_element_seed(self.clone())?.is_some() {}
        Ok(Kept::Other)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kept, A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(self.clone())?;
            if seen.contains(&key) {
                return Err(self.faults.stop((self.report)(key)));
            }
            seen.insert(key);
        }
        Ok(Kept::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Kept, Option<String>> {
        let faults = Faults::new();
        let seed = Unique { faults: &faults, report: |key| key };
        seed.deserialize(&mut serde_json::Deserializer::from_str(text)).map_err(|_| faults.take())
    }

    #[test]
    fn finds_a_key_twice_at_every_level() {
        assert_eq!(check(r#"{"a":1,"a":1}"#), Err(Some("a".into())));
        assert_eq!(check(r#"[0,{"a":{"b":null,"b":2}}]"#), Err(Some("b".into())));
        assert_eq!(check(r#"{"a":{"b":1},"c":{"b":1}}"#), Ok(Kept::Other));
    }

    #[test]
    fn stops_at_great_depth_without_a_fault_of_its_own() {
        let deep = "[".repeat(100_000);
        assert_eq!(check(&deep), Err(None));
    }
}
