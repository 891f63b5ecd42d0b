//! Names that differ in their numbers alone, folded into one: `model.layers.0-31.mlp.experts.0-7.w1.weight`.

use std::collections::BTreeSet;
use std::hash::Hash;

use indexmap::IndexMap;

/// A folded name and the items that it includes, by their index.
pub(crate) type Folded = (String, Vec<usize>);

/// The numbers at one place of the names in a fold.
type Numbers = BTreeSet<u64>;

/// Names of one pattern: the numbers at each place, and the items that have them.
type Member = (Vec<Numbers>, Vec<usize>);

/// Folds items of like names and equal `key`, in the order of the first of each.
///
/// Exact: a folded name includes all names that its ranges give, and for no others.
pub(crate) fn folded<K: Hash + Eq>(items: impl IntoIterator<Item = (String, K)>) -> Vec<Folded> {
    let mut groups: IndexMap<(Vec<String>, K), Vec<Member>> = IndexMap::new();
    for (index, (name, key)) in items.into_iter().enumerate() {
        let (pattern, numbers) = parted(&name);
        let numbers = numbers.into_iter().map(|number| Numbers::from([number])).collect();
        groups.entry((pattern, key)).or_default().push((numbers, vec![index]));
    }
    let mut all: Vec<Folded> = Vec::new();
    for ((pattern, _), members) in groups {
        let places = members.first().map_or(0, |(numbers, _)| numbers.len());
        let folds = (0..places).rev().fold(members, merged_at);
        all.extend(folds.into_iter().map(|(numbers, indices)| (joined(&pattern, &numbers), indices)));
    }
    all.sort_by_key(|(_, indices)| indices.iter().min().copied());
    all
}

/// Merges those that differ at this place alone.
fn merged_at(members: Vec<Member>, place: usize) -> Vec<Member> {
    let mut merged: IndexMap<Vec<Numbers>, (Numbers, Vec<usize>)> = IndexMap::new();
    for (mut numbers, indices) in members {
        let here = std::mem::take(&mut numbers[place]);
        let entry = merged.entry(numbers).or_default();
        entry.0.extend(here);
        entry.1.extend(indices);
    }
    let put_back = |(mut numbers, (here, indices)): (Vec<Numbers>, (Numbers, Vec<usize>))| {
        numbers[place] = here;
        (numbers, indices)
    };
    merged.into_iter().map(put_back).collect()
}

/// A name's parts around its numbers, and these. A number is a whole part between dots, without leading zeros.
fn parted(name: &str) -> (Vec<String>, Vec<u64>) {
    let mut pattern = vec![String::new()];
    let mut numbers = Vec::new();
    for (at, part) in name.split('.').enumerate() {
        let text = pattern.last_mut();
        match (part.parse::<u64>().ok().filter(|number| number.to_string() == part), text) {
            (Some(number), Some(text)) => {
                if at > 0 {
                    text.push('.');
                }
                numbers.push(number);
                pattern.push(String::new());
            }
            (None, Some(text)) => {
                if at > 0 {
                    text.push('.');
                }
                text.push_str(part);
            }
            (_, None) => {}
        }
    }
    (pattern, numbers)
}

fn joined(pattern: &[String], numbers: &[Numbers]) -> String {
    let mut name = pattern.first().cloned().unwrap_or_default();
    for (numbers, text) in numbers.iter().zip(pattern.iter().skip(1)) {
        name.push_str(&in_ranges(numbers));
        name.push_str(text);
    }
    name
}

/// `0-3`, `7`, `0-3,7-9`.
fn in_ranges(numbers: &Numbers) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let shown = |(first, last): (u64, u64)| {
        if first == last { format!("{first}") } else { format!("{first}-{last}") }
    };
    ranges.into_iter().map(shown).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(items: &[(&str, char)]) -> Vec<(String, usize)> {
        let items = items.iter().map(|&(name, key)| (name.to_owned(), key));
        folded(items).into_iter().map(|(name, indices)| (name, indices.len())).collect()
    }

    #[test]
    fn names_that_differ_in_numbers_are_one() {
        let items = [
            ("embed", 'a'),
            ("l.0.up", 'b'),
            ("l.0.down", 'c'),
            ("l.1.up", 'b'),
            ("l.1.down", 'c'),
            ("l.2.up", 'b'),
        ];
        assert_eq!(names(&items), [("embed".into(), 1), ("l.0-2.up".into(), 3), ("l.0-1.down".into(), 2)]);
        // Another key is another row.
        let items = [("l.0", 'a'), ("l.1", 'b'), ("l.2", 'a'), ("l.3", 'a')];
        assert_eq!(names(&items), [("l.0,2-3".into(), 3), ("l.1".into(), 1)]);
        // What is no plain number is part of the name.
        assert_eq!(names(&[("l.00", 'a'), ("l.01", 'a'), ("l.-1", 'a')]).len(), 3);
    }

    /// A fold of `experts` in which one layer lacks one expert must not claim that expert.
    #[test]
    fn a_fold_stands_for_its_names_and_no_others() {
        let all: Vec<(String, char)> = (0..4_u32)
            .flat_map(|layer| (0..3_u32).map(move |expert| (layer, expert)))
            .filter(|&pair| pair != (1, 2))
            .map(|(layer, expert)| (format!("l.{layer}.e.{expert}.w"), 'a'))
            .collect();
        let folds = folded(all.clone());
        let names: Vec<&str> = folds.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["l.0,2-3.e.0-2.w", "l.1.e.0-1.w"]);
        let mut indices: Vec<usize> = folds.into_iter().flat_map(|(_, indices)| indices).collect();
        indices.sort_unstable();
        assert_eq!(indices, (0..all.len()).collect::<Vec<_>>(), "each once");
    }
}
