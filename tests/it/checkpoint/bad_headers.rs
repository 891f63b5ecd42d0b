//! Every safetensors file that must be refused, and the fault it is refused for.

use mgpack::error::{CheckpointError, Disguise, HeaderFault as F};
use mgpack::internals::checkpoint::safetensors::{MAX_HEADER_LEN, parse};
use proptest::prelude::*;

use super::kit::*;

/// One header of one tensor `a` with these fields and 4 bytes of data.
fn entry(fields: &str) -> Vec<u8> {
    raw(format!(r#"{{"a":{{{fields}}}}}"#), &[0; 4])
}

/// The same with a dtype, shape and offsets.
fn tensor(dtype: &str, shape: &str, offsets: &str) -> Vec<u8> {
    entry(&format!(r#""dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}"#))
}

/// A header of U8 tensors at the ranges given, and so much data.
fn ranges(ranges: &[(u64, u64)], data_len: usize) -> Vec<u8> {
    let entries: Vec<String> = ranges
        .iter()
        .enumerate()
        .map(|(i, (start, end))| {
            let len = end.saturating_sub(*start);
            format!(r#""t{i}":{{"dtype":"U8","shape":[{len}],"data_offsets":[{start},{end}]}}"#)
        })
        .collect();
    raw(format!("{{{}}}", entries.join(",")), &vec![0; data_len])
}

fn with_len(len: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = len.to_le_bytes().to_vec();
    bytes.extend_from_slice(rest);
    bytes
}

const A: &str = r#""a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;

/// A name for the input, its bytes, and what its fault must be.
type Case = (&'static str, Vec<u8>, fn(&F) -> bool);

macro_rules! case {
    ($name:literal, $bytes:expr, $fault:pat $(if $guard:expr)?) => {
        ($name, $bytes, |fault: &F| matches!(fault, $fault $(if $guard)?))
    };
}

fn cases() -> Vec<Case> {
    let with_a = |more: &str| raw(format!("{{{A},{more}}}"), &[0; 4]);
    vec![
        // Too small.
        case!("an empty file", vec![], F::TooShort { len: 0 }),
        case!("seven bytes", vec![0; 7], F::TooShort { len: 7 }),
        // Its length.
        case!("length 0", with_len(0, &[]), F::HeaderLen { len: 0, .. }),
        case!("length 1", with_len(1, b"{"), F::HeaderLen { len: 1, .. }),
        case!("one more than the limit", with_len(100_000_001, b"{}"), F::HeaderLen { len: 100_000_001, .. }),
        case!("length 2^63", with_len(1 << 63, b"{}"), F::HeaderLen { .. }),
        case!("length 2^64 - 1", with_len(u64::MAX, b"{}"), F::HeaderLen { len: u64::MAX, .. }),
        case!("length past the end", with_len(10, b"{}"), F::HeaderCutOff { header_len: 10, missing: 8 }),
        case!(
            "the limit, past the end",
            with_len(100_000_000, b"{}"),
            F::HeaderCutOff { missing: 99_999_998, .. }
        ),
        // Other kinds of file under this name.
        case!("pickle, protocol 2", b"\x80\x02}q\x00.padding".to_vec(), F::OtherKind(Disguise::Pickle)),
        case!("pickle of five bytes", b"\x80\x04N.x".to_vec(), F::OtherKind(Disguise::Pickle)),
        case!(
            "old torch pickle",
            b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.".to_vec(),
            F::OtherKind(Disguise::Pickle)
        ),
        case!(
            "torch zip",
            b"PK\x03\x04\x00\x00\x08\x08archive/data.pkl".to_vec(),
            F::OtherKind(Disguise::Zip)
        ),
        case!(
            "LFS pointer",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n".to_vec(),
            F::OtherKind(Disguise::LfsPointer)
        ),
        case!("HTML page", b"<!DOCTYPE html>\n<html><body>404</body>".to_vec(), F::OtherKind(Disguise::Html)),
        case!("HTML without doctype", b"\n<HTML lang=en><body>".to_vec(), F::OtherKind(Disguise::Html)),
        case!("XML error", b"<?xml version=\"1.0\"?><Error/>".to_vec(), F::OtherKind(Disguise::Xml)),
        case!("JSON error", b"{\"error\":\"Repository not found\"}".to_vec(), F::OtherKind(Disguise::Json)),
        case!("GGUF", b"GGUF\x03\x00\x00\x00\x23\x01\x00\x00".to_vec(), F::OtherKind(Disguise::Gguf)),
        // Its text.
        case!("not UTF-8", raw(b"{\"\xff\":1}", &[]), F::NotUtf8 { .. }),
        case!("a byte order mark", raw("\u{feff}{}", &[]), F::NotAnObject { found: Some('\u{feff}') }),
        case!("a leading space", raw(" {}", &[]), F::NotAnObject { found: Some(' ') }),
        case!("a list", raw("[]", &[]), F::NotAnObject { found: Some('[') }),
        case!("null", raw("null", &[]), F::NotAnObject { found: Some('n') }),
        case!("a lone surrogate", raw(r#"{"\ud800":{}}"#, &[]), F::Json { .. }),
        case!("an open brace", raw(r#"{"a":"#, &[]), F::Json { .. }),
        case!("trailing NULs", raw("{}\0\0\0", &[]), F::TrailingText),
        case!("trailing garbage", raw("{}{}", &[]), F::TrailingText),
        case!("a trailing line end", raw("{}\n", &[]), F::TrailingText),
        case!("a trailing line end, then spaces", raw("{}\n  ", &[]), F::TrailingText),
        case!("lists 100,000 deep", raw("[".repeat(100_000), &[]), F::NotAnObject { .. }),
        case!(
            "lists 100,000 deep in a tensor",
            raw(format!(r#"{{"a":{}"#, "[".repeat(100_000)), &[]),
            F::WrongType { .. }
        ),
        case!(
            "objects 100,000 deep in a tensor",
            raw(r#"{"a":"#.repeat(100_000), &[]),
            F::UnknownField { .. }
        ),
        case!(
            "lists 100,000 deep in a third offset",
            raw(format!(r#"{{"a":{{"data_offsets":[0,1,{}"#, "[".repeat(100_000)), &[]),
            F::Json { .. } | F::OffsetCount { .. }
        ),
        // Its data.
        case!("data cut off", ranges(&[(0, 10)], 7), F::MissingBytes { missing: 3, described: 10 }),
        case!("bytes after the data", ranges(&[(0, 10)], 12), F::ExtraBytes { extra: 2, described: 10 }),
        case!(
            "a ZIP behind the data",
            [sound(&[("a", 4)]), b"PK\x05\x06".to_vec(), vec![0; 18]].concat(),
            F::ExtraBytes { extra: 22, described: 4 }
        ),
        case!("no tensors but bytes", raw("{}", &[1, 2, 3]), F::ExtraBytes { extra: 3, described: 0 }),
        // Its ranges.
        case!("a hole", ranges(&[(0, 4), (6, 8)], 8), F::Hole { start: 4, end: 6, before } if before == "t1"),
        case!("a start above 0", ranges(&[(2, 8)], 8), F::Hole { start: 0, end: 2, .. }),
        case!("an overlap", ranges(&[(0, 4), (3, 8)], 8), F::Overlap { first_end: 4, second_start: 3, .. }),
        case!("the same range twice", ranges(&[(0, 4), (0, 4)], 4), F::Overlap { first, second, .. } if first == "t0" && second == "t1"),
        case!("ten tensors on one range", ranges(&[(0, 4); 10], 4), F::Overlap { .. }),
        case!("a zero-size tensor inside another", ranges(&[(0, 4), (2, 2)], 4), F::Overlap { .. }),
        case!(
            "a zero-size tensor past the end",
            ranges(&[(0, 4), (9, 9)], 4),
            F::Hole { start: 4, end: 9, .. }
        ),
        case!("an end before its start", ranges(&[(4, 0)], 4), F::EndBeforeStart { start: 4, end: 0, .. }),
        // One entry.
        case!("a negative offset", tensor("U8", "[4]", "[-1,4]"), F::WrongType { entry, .. } if entry == "a"),
        case!("an offset with a point", tensor("U8", "[4]", "[0,4.0]"), F::WrongType { .. }),
        case!("an offset with an exponent", tensor("U8", "[4]", "[0,4e0]"), F::WrongType { .. }),
        case!("an offset as text", tensor("U8", "[4]", r#"[0,"4"]"#), F::WrongType { .. }),
        case!("three offsets", tensor("U8", "[4]", "[0,4,8]"), F::OffsetCount { found: 3, .. }),
        case!("one offset", tensor("U8", "[4]", "[0]"), F::OffsetCount { found: 1, .. }),
        case!("no offsets", tensor("U8", "[4]", "[]"), F::OffsetCount { found: 0, .. }),
        case!("an unknown dtype", tensor("Q4", "[4]", "[0,4]"), F::UnknownDtype { dtype, .. } if dtype == "Q4"),
        case!("a dtype in small letters", tensor("f32", "[1]", "[0,4]"), F::UnknownDtype { dtype, .. } if dtype == "f32"),
        case!(
            "no dtype",
            entry(r#""shape":[4],"data_offsets":[0,4]"#),
            F::MissingField { field: "dtype", .. }
        ),
        case!(
            "no shape",
            entry(r#""dtype":"U8","data_offsets":[0,4]"#),
            F::MissingField { field: "shape", .. }
        ),
        case!(
            "no offsets field",
            entry(r#""dtype":"U8","shape":[4]"#),
            F::MissingField { field: "data_offsets", .. }
        ),
        case!("a negative dimension", tensor("U8", "[-4]", "[0,4]"), F::WrongType { .. }),
        case!("a dimension above u64", tensor("U8", "[18446744073709551616]", "[0,4]"), F::WrongType { .. }),
        case!(
            "offset u64::MAX",
            tensor("U8", "[4]", "[0,18446744073709551615]"),
            F::SizeMismatch { needed: 4, found: u64::MAX, .. }
        ),
        case!(
            "another size than the shape's",
            tensor("F32", "[2]", "[0,4]"),
            F::SizeMismatch { needed: 8, found: 4, .. }
        ),
        case!(
            "a product that overflows",
            tensor("U8", "[281474976710656,281474976710656]", "[0,4]"),
            F::ShapeTooLarge { .. }
        ),
        case!(
            "bits that overflow",
            tensor("F64", "[281474976710656,65535]", "[0,4]"),
            F::ShapeTooLarge { .. }
        ),
        case!(
            "zero-size, a dimension above 2^48",
            tensor("U8", "[0,281474976710657]", "[0,0]"),
            F::ShapeTooLarge { .. }
        ),
        case!("the same, zero last", tensor("U8", "[281474976710657,0]", "[0,0]"), F::ShapeTooLarge { .. }),
        case!("F4, an odd count", tensor("F4", "[3]", "[0,2]"), F::UnsupportedDtype { dtype, .. } if dtype == "F4"),
        case!("F4, an even count", tensor("F4", "[8]", "[0,4]"), F::UnsupportedDtype { .. }),
        case!("F6_E2M3", tensor("F6_E2M3", "[4]", "[0,3]"), F::UnsupportedDtype { .. }),
        case!("F6_E3M2", tensor("F6_E3M2", "[4]", "[0,3]"), F::UnsupportedDtype { .. }),
        case!("9 dimensions", tensor("U8", "[1,1,1,1,1,1,1,1,4]", "[0,4]"), F::RankTooLarge { limit: 8, .. }),
        case!(
            "65 dimensions",
            tensor("U8", &format!("[4{}]", ",1".repeat(64)), "[0,4]"),
            F::RankTooLarge { .. }
        ),
        case!(
            "a million dimensions",
            tensor("U8", &format!("[4{}]", ",1".repeat(999_999)), "[0,4]"),
            F::RankTooLarge { .. }
        ),
        case!("an unknown field", entry(r#""dtype":"U8","shape":[4],"data_offsets":[0,4],"x":{"y":1}"#), F::UnknownField { field, .. } if field == "x"),
        case!("a tensor that is a number", raw(r#"{"a":7}"#, &[]), F::WrongType { entry, .. } if entry == "a"),
        // Twice.
        case!("a tensor twice, same range", with_a(A), F::DuplicateKey { key } if key == "a"),
        case!(
            "a tensor twice, the last one covers",
            with_a(r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#),
            F::DuplicateKey { .. }
        ),
        case!(
            "a tensor twice, the last one leaves a hole",
            with_a(r#""a":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}"#),
            F::DuplicateKey { .. }
        ),
        case!(
            "a tensor twice, once escaped",
            with_a(r#""\u0061":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#),
            F::DuplicateKey { key } if key == "a"
        ),
        case!("metadata twice", raw(r#"{"__metadata__":{},"__metadata__":{}}"#, &[]), F::DuplicateKey { key } if key == "__metadata__"),
        case!(
            "metadata twice, null first",
            raw(r#"{"__metadata__":null,"__metadata__":{}}"#, &[]),
            F::DuplicateKey { .. }
        ),
        case!("a metadata key twice", raw(r#"{"__metadata__":{"k":"1","k":"2"}}"#, &[]), F::DuplicateKey { key } if key == "__metadata__.k"),
        case!(
            "dtype twice",
            entry(r#""dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]"#),
            F::DuplicateField { field: "dtype", .. }
        ),
        case!(
            "shape twice",
            entry(r#""dtype":"U8","shape":[4],"shape":[4],"data_offsets":[0,4]"#),
            F::DuplicateField { field: "shape", .. }
        ),
        case!(
            "offsets twice",
            entry(r#""dtype":"U8","shape":[4],"data_offsets":[0,4],"data_offsets":[0,4]"#),
            F::DuplicateField { field: "data_offsets", .. }
        ),
        // Metadata.
        case!("a metadata value that is no text", raw(r#"{"__metadata__":{"k":1}}"#, &[]), F::WrongType { entry, .. } if entry == "__metadata__"),
        case!("nested metadata", raw(r#"{"__metadata__":{"k":{"l":"m"}}}"#, &[]), F::WrongType { .. }),
        case!(
            "metadata that is a tensor",
            raw(r#"{"__metadata__":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, &[0; 4]),
            F::WrongType { entry, .. } if entry == "__metadata__"
        ),
        // Names.
        case!("an empty name", raw(r#"{"":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, &[0; 4]), F::BadName { name, .. } if name.is_empty()),
        case!("a name with NUL", raw(r#"{"a\u0000":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, &[0; 4]), F::BadName { name, .. } if name == "a\0"),
        case!(
            "a name with a line end",
            raw(r#"{"a\n":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, &[0; 4]),
            F::BadName { .. }
        ),
        case!(
            "a name of 1025 bytes",
            raw(
                format!(r#"{{"{}":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}}}"#, "n".repeat(1025)),
                &[0; 4]
            ),
            F::BadName { limit: 1024, .. }
        ),
    ]
}

#[test]
fn refuses_every_bad_header_for_its_own_fault() {
    for (name, bytes, expected) in cases() {
        let fault = header_fault(&bytes);
        assert!(expected(&fault), "{name}: {fault:?}");
        assert_well_told(&fault);
    }
}

#[test]
fn refuses_a_bad_file_by_its_own_path_too() {
    let folder = Folder::with_weights(&ranges(&[(0, 4), (6, 8)], 8));
    let error =
        mgpack::internals::checkpoint::Checkpoint::open_file(&folder.path().join("model.safetensors"));
    assert!(matches!(
        error,
        Err(mgpack::Error::Checkpoint(CheckpointError::Header(inner))) if matches!(inner.fault, F::Hole { .. })
    ));
}

/// The length is checked against the file before memory is taken: a sparse file just large enough to hold
/// the header it promises would otherwise be read, and is the largest that may be.
#[test]
fn takes_no_memory_for_a_header_that_is_not_there() {
    let folder = Folder::with_weights(&with_len(MAX_HEADER_LEN + 1, b"{}"));
    let file = std::fs::File::options().write(true).open(folder.path().join("model.safetensors"));
    file.expect("the file").set_len(1 << 40).expect("a sparse file");
    assert!(matches!(
        folder.refused(),
        CheckpointError::Header(inner) if matches!(inner.fault, F::HeaderLen { .. })
    ));
}

#[test]
fn tells_the_whole_story_of_a_file_that_was_cut_off() {
    let folder = Folder::with_weights(&ranges(&[(0, 1024)], 1012));
    let text = told(&folder.refused()).replace(&folder.path().display().to_string(), "ckpt");
    assert_eq!(
        text,
        "error: the data is cut off: 12 bytes are missing\n\
         where: ckpt/model.safetensors\n  \
           why: the header describes 1024 bytes of data, the file holds 1012\n \
          help: the download may have been cut off: download that file again\n"
    );
}

#[test]
fn keeps_the_cause_of_a_header_that_is_not_json() {
    let error = Folder::with_weights(&raw(r#"{"a":"#, &[])).refused();
    let cause = std::error::Error::source(&error).expect("a cause");
    assert!(cause.is::<serde_json::Error>(), "{cause:?}");
}

#[test]
fn shows_no_control_character_of_a_file_on_the_terminal() {
    let fault = header_fault(&tensor(r"U8\u001b[31m", "[4]", "[0,4]"));
    assert_eq!(fault.to_string(), r"tensor `a` has the unknown element type `U8\u{1b}[31m`");
}

proptest! {
    /// Never a panic, and whatever is accepted here the crate accepts too, with the same meaning.
    #[test]
    fn survives_any_change_of_a_sound_header(
        at in 0usize..400, byte in any::<u8>(), cut in 0usize..400, data_len in 0u64..64,
    ) {
        let mut header = br#"{"__metadata__":{"format":"pt"},"a.weight":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"U8","shape":[],"data_offsets":[12,13]},"c":{"dtype":"I64","shape":[0,7],"data_offsets":[13,13]}}  "#.to_vec();
        let place = at % header.len();
        header[place] = byte;
        if cut < 100 {
            header.truncate(cut * header.len() / 100);
        }
        let ours = parse(&header, data_len);
        if let Ok(ours) = ours {
            let bytes = raw(&header, &vec![0; data_len as usize]);
            let theirs = safetensors::SafeTensors::deserialize(&bytes).expect("the crate accepts it too");
            prop_assert_eq!(ours.tensors.len(), theirs.len());
        }
    }

    #[test]
    fn survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, 16);
        let braced = [b"{".as_slice(), &bytes].concat();
        prop_assert!(parse(&bytes, 16).is_err() && parse(&braced, 16).is_err());
    }
}
