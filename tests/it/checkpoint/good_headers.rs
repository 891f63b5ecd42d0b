//! Every safetensors file that must be read, held against the `safetensors` crate.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mgpack::internals::checkpoint::{Checkpoint, Notice};
use mgpack::internals::tensor::Dtype;
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use super::kit::*;

/// Reads `bytes` here and with the crate, and compares names, dtypes, shapes, offsets and every byte.
fn agrees_with_the_crate(bytes: &[u8]) -> Checkpoint {
    let folder = Folder::with_weights(bytes);
    let ours = folder.good();
    let theirs = SafeTensors::deserialize(bytes).expect("the crate reads it");
    assert_eq!(ours.tensors().len(), theirs.len());
    for (name, view) in theirs.tensors() {
        let tensor = ours.get(&name).unwrap_or_else(|| panic!("tensor {name:?}"));
        let shape: Vec<u64> = view.shape().iter().map(|&dim| dim as u64).collect();
        assert_eq!((tensor.dtype, &tensor.shape), (view.dtype(), &shape), "{name:?}");
        let offset = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
        assert_eq!(
            (tensor.span().expect("stored").offset, tensor.byte_len),
            (offset as u64, view.data().len() as u64),
            "{name:?}"
        );
        let mut read = vec![0; view.data().len()];
        ours.read(tensor, 0, &mut read).expect("its bytes");
        assert_eq!(read, view.data(), "{name:?}");
    }
    assert!(ours.tensors().is_sorted_by(|a, b| a.name < b.name));
    ours
}

#[test]
fn reads_every_odd_but_sound_header_as_the_crate_does() {
    let cases: &[(&str, Vec<u8>)] = &[
        ("no tensors", raw("{}", &[])),
        ("trailing spaces", raw(r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}       "#, &[1, 2])),
        (
            "another order in JSON than in the data",
            raw(
                r#"{"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]},"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]}}"#,
                &[1, 2, 3],
            ),
        ),
        (
            "0-d, empty, and zero-size in the middle",
            raw(
                r#"{"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"z":{"dtype":"F32","shape":[3,0,2],"data_offsets":[4,4]},"e":{"dtype":"I64","shape":[0],"data_offsets":[0,0]},"t":{"dtype":"U8","shape":[1],"data_offsets":[4,5]},"y":{"dtype":"U8","shape":[0],"data_offsets":[5,5]}}"#,
                &[1, 2, 3, 4, 5],
            ),
        ),
        (
            "one name in two normal forms",
            raw(
                r#"{"\u00e9":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"e\u0301":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#,
                &[1, 2],
            ),
        ),
        (
            "an unaligned header and unaligned tensors",
            raw(
                r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F64","shape":[1],"data_offsets":[1,9]}}"#,
                &[1, 2, 3, 4, 5, 6, 7, 8, 9],
            ),
        ),
        (
            "BOOL 2, NaN and infinity",
            raw(
                r#"{"a":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"F16","shape":[2],"data_offsets":[2,6]}}"#,
                &[2, 0xff, 0x01, 0x7e, 0x00, 0x7c],
            ),
        ),
        (
            "zero-size with huge dimensions, zero first",
            raw(r#"{"a":{"dtype":"U8","shape":[0,1099511627776,1099511627776],"data_offsets":[0,0]}}"#, &[]),
        ),
        (
            "white space inside",
            raw("{ \"a\" : { \"dtype\":\t\"U8\",\n\"shape\":[1], \"data_offsets\":[0, 1]}}", &[7]),
        ),
        (
            "eight dimensions",
            raw(r#"{"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,2],"data_offsets":[0,2]}}"#, &[1, 2]),
        ),
        ("metadata null", raw(r#"{"__metadata__":null}"#, &[])),
        ("metadata empty", raw(r#"{"__metadata__":{}}"#, &[])),
    ];
    for (name, bytes) in cases {
        println!("{name}");
        agrees_with_the_crate(bytes);
    }
}

/// Here we know better than the crate, which multiplies before it sees the zero: same verdict both ways.
#[test]
fn takes_a_zero_dimension_wherever_it_stands() {
    let bytes =
        |shape: &str| raw(format!(r#"{{"a":{{"dtype":"U8","shape":{shape},"data_offsets":[0,0]}}}}"#), &[]);
    for shape in ["[0,1099511627776,1099511627776]", "[1099511627776,1099511627776,0]", "[281474976710656,0]"]
    {
        let checkpoint = Folder::with_weights(&bytes(shape)).good();
        assert_eq!(checkpoint.get("a").map(|tensor| tensor.byte_len), Some(0), "{shape}");
    }
    assert!(SafeTensors::deserialize(&bytes("[1099511627776,1099511627776,0]")).is_err());
}

#[test]
fn takes_null_metadata_for_none_and_keeps_the_rest() {
    let none = Folder::with_weights(&raw(r#"{"__metadata__":null}"#, &[])).good();
    assert!(none.files()[0].metadata.is_empty());
    let some = Folder::with_weights(&raw(r#"{"__metadata__":{"format":"pt"}}"#, &[])).good();
    assert_eq!(some.files()[0].metadata.get("format").map(String::as_str), Some("pt"));
}

#[test]
fn reads_names_that_look_like_paths_with_a_notice() {
    let checkpoint =
        Folder::with_weights(&sound(&[("../../etc/passwd", 2), ("a/../b", 1), ("a.b", 1)])).good();
    assert_eq!(checkpoint.tensors().len(), 3);
    let [notice @ Notice::PathLikeNames { first, count: 2 }] = checkpoint.notices() else {
        panic!("{:?}", checkpoint.notices());
    };
    assert_eq!(first.as_str(), "../../etc/passwd");
    assert!(notice.to_string().contains("2 tensor names look like paths"), "{notice}");
}

#[test]
fn reads_a_header_of_100_000_tensors_in_a_second() {
    let entries: Vec<String> = (0..100_000)
        .map(|i| {
            let end = i + 1;
            format!(r#""model.layers.{i}.w":{{"dtype":"U8","shape":[1,1],"data_offsets":[{i},{end}]}}"#)
        })
        .collect();
    let folder = Folder::with_weights(&raw(format!("{{{}}}", entries.join(",")), &vec![0; 100_000]));
    let start = Instant::now();
    let checkpoint = folder.good();
    let took = start.elapsed();
    assert_eq!(checkpoint.tensors().len(), 100_000);
    assert!(checkpoint.get("model.layers.99999.w").is_some());
    assert!(took < Duration::from_secs(1), "{took:?}");
}

fn any_dtype() -> impl Strategy<Value = Dtype> {
    use Dtype::*;
    prop::sample::select(vec![
        BOOL,
        U8,
        I8,
        F8_E5M2,
        F8_E4M3,
        F8_E8M0,
        F8_E4M3FNUZ,
        F8_E5M2FNUZ,
        I16,
        U16,
        F16,
        BF16,
        I32,
        U32,
        F32,
        C64,
        F64,
        I64,
        U64,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What the crate writes is read back as it was: every dtype, names in Unicode, 0 to 4 dimensions.
    #[test]
    fn reads_back_whatever_the_crate_writes(
        tensors in prop::collection::hash_map(
            "[a-zé☃./\\\\\" ]{1,12}", (any_dtype(), prop::collection::vec(0usize..5, 0..4)), 0..12),
        note in prop::option::of("[ -~]{0,20}"),
    ) {
        let data: HashMap<&str, Vec<u8>> = tensors.iter().map(|(name, (dtype, shape))| {
            let len = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            (name.as_str(), (0..len).map(|i| (i * 31 + name.len()) as u8).collect())
        }).collect();
        let views: Vec<(&str, TensorView<'_>)> = tensors.iter().map(|(name, (dtype, shape))| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), &data[name.as_str()]).expect("a view"))
        }).collect();
        let metadata = note.map(|note| HashMap::from([("note".to_owned(), note)]));
        let bytes = safetensors::serialize(views, metadata.clone()).expect("the crate writes it");
        let checkpoint = agrees_with_the_crate(&bytes);
        let kept: HashMap<String, String> = checkpoint.files()[0].metadata.clone().into_iter().collect();
        prop_assert_eq!(kept, metadata.unwrap_or_default());
    }
}
