//! `CUDA_VISIBLE_DEVICES`: which GPUs a CUDA program sees, and in which order it numbers them. Pure.
//!
//! The rules are CUDA's ("CUDA Environment Variables" in its programming guide), with what the guide leaves
//! open as torch 2.13 reads it (`torch.cuda._parse_visible_devices`).

/// Positions, in the order of `uuids`, of the GPUs that are visible, in CUDA's order.
///
/// `value`: the variable, `None` where it is not set. A list of numbers or of beginnings of UUIDs (`GPU-…`); it
/// ends at the first entry that names no GPU, and an entry that occurs twice makes the whole list void. An empty
/// value and `-1` hide all. `uuids`: of every GPU in PCI order, `None` where it could not be read.
pub(super) fn visible(value: Option<&str>, uuids: &[Option<&str>]) -> Vec<usize> {
    let Some(value) = value else { return (0..uuids.len()).collect() };
    let by_uuid = value.starts_with("GPU-");
    let mut list: Vec<usize> = Vec::new();
    for entry in value.split(',') {
        let position = if by_uuid { position_of_uuid(entry, uuids) } else { leading_number(entry) };
        let Some(position) = position.filter(|position| *position < uuids.len()) else { break };
        if list.contains(&position) {
            return Vec::new();
        }
        list.push(position);
    }
    list
}

/// True where the variable names an instance of a partitioned GPU, which only a CUDA program can resolve.
pub(super) fn names_mig(value: Option<&str>) -> bool {
    value.is_some_and(|value| value.starts_with("MIG-"))
}

/// The only GPU whose UUID begins with `prefix`.
fn position_of_uuid(prefix: &str, uuids: &[Option<&str>]) -> Option<usize> {
    if !prefix.starts_with("GPU-") {
        return None;
    }
    let mut matching =
        uuids.iter().enumerate().filter(|(_, uuid)| uuid.is_some_and(|uuid| uuid.starts_with(prefix)));
    let (position, _) = matching.next()?;
    matching.next().is_none().then_some(position)
}

/// The number at the start of a text, as C's `strtol` reads it: `1gpu` is 1. `None` for none and below 0.
fn leading_number(text: &str) -> Option<usize> {
    let text = text.trim();
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUIDS: [Option<&str>; 4] = [Some("GPU-aa11"), Some("GPU-ab22"), None, Some("GPU-cc33")];

    #[test]
    fn lists_are_read_as_cuda_reads_them() {
        let cases: [(Option<&str>, &[usize]); 18] = [
            (None, &[0, 1, 2, 3]),
            (Some(""), &[]),
            (Some("-1"), &[]),
            (Some("NoDevFiles"), &[]),
            (Some("2,1"), &[2, 1]),
            (Some(" 3 , 0 "), &[3, 0]),
            // The example of the programming guide.
            (Some("0,2,-1,1"), &[0, 2]),
            (Some("0,9,1"), &[0]),
            (Some("1gpu,2"), &[1, 2]),
            (Some("0,0"), &[]),
            (Some("0,99999999999999999999"), &[0]),
            (Some("GPU-cc33"), &[3]),
            (Some("GPU-c,GPU-aa"), &[3, 0]),
            // Two UUIDs begin so.
            (Some("GPU-a"), &[]),
            (Some("GPU-cc,GPU-zz,GPU-aa"), &[3]),
            (Some("GPU-cc,GPU-cc33"), &[]),
            (Some("0,GPU-cc"), &[0]),
            (Some("GPU-cc,0"), &[3]),
        ];
        for (value, expected) in cases {
            assert_eq!(visible(value, &UUIDS), expected, "{value:?}");
        }
    }
}
