//! Sharded checkpoints: the index, the shards, and what they say of each other.

use mgpack::error::{CheckpointError as E, IndexFault as F, NodeKind, ShardNameRule};
use mgpack::internals::checkpoint::{Notice, SkipReason};

use super::kit::*;

/// Two shards that agree with their index: `a`, `b` in 1, `c` in 2; 6 bytes in all.
fn two_shards() -> Folder {
    Folder::new()
        .file("1.safetensors", sound(&[("a", 1), ("b", 2)]))
        .file("2.safetensors", sound(&[("c", 3)]))
}

const MAP: [(&str, &str); 3] = [("a", "1.safetensors"), ("b", "1.safetensors"), ("c", "2.safetensors")];

fn index_fault(text: impl AsRef<[u8]>) -> F {
    match two_shards().file(INDEX, text).refused() {
        E::Index(inner) => {
            assert!(inner.path.ends_with(INDEX));
            inner.fault
        }
        other => panic!("another error: {other:?}"),
    }
}

#[test]
fn reads_the_shards_that_the_index_names() {
    let checkpoint = two_shards().file(INDEX, index("6", &MAP)).good();
    let files: Vec<&str> = checkpoint.files().iter().map(|file| file.path.as_str()).collect();
    assert_eq!(files, ["1.safetensors", "2.safetensors"]);
    let c = checkpoint.get("c").expect("tensor c");
    assert_eq!((c.span().expect("stored").file, c.byte_len), (1, 3));
    assert_eq!(checkpoint.notices(), []);
    assert_eq!(checkpoint.side_files().iter().map(|side| side.path.as_str()).collect::<Vec<_>>(), [INDEX]);
}

#[test]
fn reads_shards_in_folders_below_and_an_index_with_other_keys() {
    let text =
        r#"{"weight_map":{"a":"part/1.safetensors"},"metadata":{"total_size":2.0,"by":[{"k":1}]},"x":null}"#;
    let checkpoint = Folder::new().file("part/1.safetensors", sound(&[("a", 2)])).file(INDEX, text).good();
    assert_eq!(checkpoint.files()[0].path, "part/1.safetensors");
    assert_eq!(checkpoint.notices(), []);
}

#[test]
fn refuses_an_index_that_names_a_missing_shard() {
    let map = [MAP[0], MAP[1], ("c", "3.safetensors")];
    let error = two_shards().file(INDEX, index("6", &map)).refused();
    assert_well_told(&error);
    assert!(
        matches!(&error, E::MissingShard { shard, tensor, index } if shard == "3.safetensors" && tensor == "c" && index.ends_with(INDEX)),
        "{error:?}"
    );
}

#[test]
fn refuses_a_shard_without_the_tensor_that_the_index_lists_there() {
    let map = [MAP[0], MAP[1], MAP[2], ("d", "2.safetensors")];
    let error = two_shards().file(INDEX, index("6", &map)).refused();
    assert!(
        matches!(&error, E::TensorNotInShard { tensor, shard, found_in: None, .. } if tensor == "d" && shard.ends_with("2.safetensors")),
        "{error:?}"
    );
}

#[test]
fn refuses_a_tensor_that_is_in_another_shard_than_listed() {
    let map = [MAP[0], ("b", "2.safetensors"), MAP[2]];
    let error = two_shards().file(INDEX, index("6", &map)).refused();
    assert!(
        matches!(&error, E::TensorNotInShard { tensor, found_in: Some(other), .. } if tensor == "b" && other == "1.safetensors"),
        "{error:?}"
    );
}

#[test]
fn refuses_a_shard_with_a_tensor_that_the_index_does_not_list() {
    let error = two_shards().file(INDEX, index("4", &[MAP[0], MAP[2]])).refused();
    assert!(
        matches!(&error, E::TensorNotInIndex { tensor, shard, .. } if tensor == "b" && shard.ends_with("1.safetensors")),
        "{error:?}"
    );
}

#[test]
fn refuses_a_tensor_in_two_shards_with_and_without_an_index() {
    for with_index in [true, false] {
        let mut folder = two_shards().file("2.safetensors", sound(&[("a", 1), ("c", 3)]));
        if with_index {
            folder = folder.file(INDEX, index("6", &MAP));
        }
        let error = folder.refused();
        assert_well_told(&error);
        assert!(
            matches!(&error, E::TensorInTwoShards { tensor, first, second, .. }
                if tensor == "a" && first == "1.safetensors" && second == "2.safetensors"),
            "{error:?}"
        );
    }
}

#[test]
fn refuses_shard_names_that_could_leave_the_folder_on_any_system() {
    use ShardNameRule as R;
    let cases = [
        ("../x.safetensors", R::ParentFolder),
        ("/x.safetensors", R::Rooted),
        ("C:\\x.safetensors", R::Drive),
        ("..\\x.safetensors", R::ParentFolder),
        ("\\\\host\\x.safetensors", R::Rooted),
        ("a\\x.safetensors", R::Backslash),
        ("./1.safetensors", R::OddPart),
        ("x.bin", R::Extension),
        (&"x.safetensors".repeat(20), R::TooLong),
        ("", R::Empty),
        ("a\n.safetensors", R::ControlCharacter),
    ];
    for (name, wanted) in cases {
        // {:?} of these names is also JSON.
        let fault = index_fault(index("6", &[("a", name)]));
        assert_well_told(&fault);
        assert!(
            matches!(&fault, F::BadShardName { tensor, shard, rule } if tensor == "a" && shard == name && *rule == wanted),
            "{name:?}: {fault:?}"
        );
    }
}

#[test]
fn refuses_every_index_that_is_not_sound() {
    type Case<'a> = (&'a str, Vec<u8>, fn(&F) -> bool);
    let cases: Vec<Case<'_>> = vec![
        ("empty", b"".to_vec(), |f| matches!(f, F::Json { .. })),
        ("cut off", br#"{"weight_map":{"a":"1.saf"#.to_vec(), |f| matches!(f, F::Json { .. })),
        ("text behind", br#"{"weight_map":{"a":"1.safetensors"}} x"#.to_vec(), |f| {
            matches!(f, F::Json { .. })
        }),
        ("not UTF-8", b"{\"weight_map\":{\"\xff\":\"1.safetensors\"}}".to_vec(), |f| {
            matches!(f, F::NotUtf8 { .. })
        }),
        ("a list", b"[]".to_vec(), |f| matches!(f, F::WrongType { .. })),
        ("no weight_map", br#"{"metadata":{}}"#.to_vec(), |f| matches!(f, F::NoWeightMap)),
        ("no shards", br#"{"weight_map":{}}"#.to_vec(), |f| matches!(f, F::Empty)),
        ("weight_map a list", br#"{"weight_map":[]}"#.to_vec(), |f| matches!(f, F::WrongType { .. })),
        ("a shard that is a number", br#"{"weight_map":{"a":1}}"#.to_vec(), |f| {
            matches!(f, F::WrongType { .. })
        }),
        ("metadata a list", br#"{"metadata":[],"weight_map":{"a":"1.safetensors"}}"#.to_vec(), |f| {
            matches!(f, F::WrongType { .. })
        }),
        (
            "an empty name",
            br#"{"weight_map":{"":"1.safetensors"}}"#.to_vec(),
            |f| matches!(f, F::BadTensorName { name, .. } if name.is_empty()),
        ),
        (
            "a tensor twice",
            br#"{"weight_map":{"a":"1.safetensors","a":"2.safetensors"}}"#.to_vec(),
            |f| matches!(f, F::DuplicateKey { key } if key == "a"),
        ),
        (
            "weight_map twice",
            br#"{"weight_map":{"a":"1.safetensors"},"weight_map":{}}"#.to_vec(),
            |f| matches!(f, F::DuplicateKey { key } if key == "weight_map"),
        ),
        (
            "total_size twice",
            br#"{"metadata":{"total_size":1,"total_size":2},"weight_map":{"a":"1.safetensors"}}"#.to_vec(),
            |f| matches!(f, F::DuplicateKey { key } if key == "total_size"),
        ),
        (
            "a key twice, deep down",
            br#"{"x":[{"y":{"z":1,"z":1}}],"weight_map":{"a":"1.safetensors"}}"#.to_vec(),
            |f| matches!(f, F::DuplicateKey { key } if key == "z"),
        ),
        ("100,000 lists deep", format!(r#"{{"x":{}"#, "[".repeat(100_000)).into_bytes(), |f| {
            matches!(f, F::Json { .. })
        }),
    ];
    for (name, text, expected) in cases {
        let fault = index_fault(text);
        assert!(expected(&fault), "{name}: {fault:?}");
        assert_well_told(&fault);
    }
}

#[test]
fn gives_a_notice_where_the_total_size_is_wrong_and_reads_on() {
    let cases = [
        ("7", Notice::TotalSizeDiffers { listed: Some(7), actual: 6 }),
        ("18446744073709551615", Notice::TotalSizeDiffers { listed: Some(u64::MAX), actual: 6 }),
        ("-6", Notice::TotalSizeDiffers { listed: None, actual: 6 }),
        ("\"6\"", Notice::TotalSizeDiffers { listed: None, actual: 6 }),
    ];
    for (text, notice) in cases {
        let checkpoint = two_shards().file(INDEX, index(text, &MAP)).good();
        assert_eq!(checkpoint.notices(), [notice], "{text}");
        assert_eq!(checkpoint.tensors().len(), 3);
    }
    let absent = r#"{"weight_map":{"a":"1.safetensors","b":"1.safetensors","c":"2.safetensors"}}"#;
    let checkpoint = two_shards().file(INDEX, absent).good();
    assert_eq!(checkpoint.notices(), [Notice::TotalSizeAbsent { actual: 6 }]);
}

#[test]
fn reads_all_shards_where_there_is_no_index() {
    let checkpoint = two_shards().good();
    let shards = vec!["1.safetensors".to_owned(), "2.safetensors".to_owned()];
    assert_eq!(checkpoint.notices(), [Notice::NoIndex { shards }]);
    assert_eq!(checkpoint.tensors().len(), 3);
    assert_eq!(Folder::with_weights(&sound(&[("a", 1)])).good().notices(), []);
}

#[test]
fn prefers_safetensors_to_torch_files_and_says_so() {
    let checkpoint = two_shards()
        .file(INDEX, index("6", &MAP))
        .file("pytorch_model-00001-of-00001.bin", "pickle")
        .file("pytorch_model.bin.index.json", "{}")
        .file("mm_projector.bin", "small")
        .good();
    let torch =
        vec!["pytorch_model-00001-of-00001.bin".to_owned(), "pytorch_model.bin.index.json".to_owned()];
    assert_eq!(checkpoint.notices(), [Notice::BothFormats { torch }]);
    assert!(checkpoint.skipped().iter().all(|skipped| skipped.reason == SkipReason::TorchWeights));
    assert!(checkpoint.side_files().iter().any(|side| side.path == "mm_projector.bin"));
}

#[test]
fn refuses_torch_files_of_which_none_says_that_it_is_the_model() {
    let error = Folder::new().file("a.bin", "x").file("b.pt", "x").file("training_args.bin", "x").refused();
    assert_well_told(&error);
    assert!(matches!(&error, E::UnclearWeights { files, .. } if files == &["a.bin", "b.pt"]), "{error:?}");
    let left_behind = Folder::new().file("config.json", "{}").file("optimizer.pt", "x").refused();
    assert!(matches!(left_behind, E::NoWeights { .. }), "{left_behind:?}");
}

#[test]
fn gives_a_notice_of_weights_that_the_index_does_not_list() {
    let checkpoint =
        two_shards().file(INDEX, index("6", &MAP)).file("older.safetensors", "not even read").good();
    let files = vec!["older.safetensors".to_owned()];
    assert_eq!(checkpoint.notices(), [Notice::UnlistedWeights { files }]);
    assert_eq!(checkpoint.tensors().len(), 3);
}

/// What is beside the model is not even opened. Its names are what transformers, peft and Mistral write.
#[test]
fn reads_the_model_and_not_what_lies_beside_it() {
    let beside = [
        ("adapter_model.safetensors", SkipReason::Adapter),
        ("consolidated.safetensors", SkipReason::Consolidated),
        ("model.fp16.safetensors", SkipReason::Variant),
    ];
    for (name, reason) in beside {
        let checkpoint = Folder::with_weights(&sound(&[("a", 1)])).file(name, "not even read").good();
        assert_eq!(checkpoint.notices(), [Notice::Beside { reason, files: vec![name.to_owned()] }]);
        assert_eq!(checkpoint.tensors().len(), 1);
        // Where it is all that there is, it is the model.
        assert_eq!(Folder::new().file(name, sound(&[("b", 1)])).good().tensors()[0].name.as_str(), "b");
    }
    let adapted = Folder::with_weights(&sound(&[("a", 1)])).file("adapter_config.json", "{}").good();
    assert!(adapted.side_files().is_empty(), "loaders attach the adapter that its configuration names");
}

#[test]
fn strips_what_a_wrapper_put_before_every_name_and_only_then() {
    let names = |all: &[(&str, usize)]| {
        let checkpoint = Folder::with_weights(&sound(all)).good();
        checkpoint.tensors().iter().map(|tensor| tensor.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&[("module.a", 1), ("module.b", 1)]), ["a", "b"]);
    assert_eq!(names(&[("_orig_mod.module.a", 1), ("_orig_mod.module.module.b", 1)]), ["a", "module.b"]);
    assert_eq!(names(&[("base_model.model.a", 1)]), ["a"]);
    assert_eq!(names(&[("module.a", 1), ("b", 1)]), ["b", "module.a"]);
    assert_eq!(names(&[("module.", 1), ("module.b", 1)]), ["module.", "module.b"]);
    let adapter = Folder::new().file("adapter_model.safetensors", sound(&[("base_model.model.a", 1)])).good();
    assert_eq!(adapter.tensors()[0].name.as_str(), "base_model.model.a");
}

/// transformers would read the single file and never look at the index; others do the opposite.
#[test]
fn refuses_an_index_beside_a_single_file_that_it_does_not_list() {
    let error =
        two_shards().file(INDEX, index("6", &MAP)).file("model.safetensors", sound(&[("a", 1)])).refused();
    assert!(matches!(&error, E::TwoSetsOfWeights { file, .. } if file == "model.safetensors"), "{error:?}");
}

#[test]
fn refuses_a_folder_pipe_or_socket_in_the_place_of_a_shard() {
    use std::os::unix::net::UnixListener;
    type Make = fn(&std::path::Path);
    let kinds: [(NodeKind, Make); 3] = [
        (NodeKind::Folder, |path| std::fs::create_dir(path).expect("a folder")),
        (NodeKind::Pipe, |path| {
            use rustix::fs::{CWD, FileType, Mode, mknodat};
            mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
        }),
        (NodeKind::Socket, |path| drop(UnixListener::bind(path).expect("a socket"))),
    ];
    for (wanted, make) in kinds {
        for with_index in [true, false] {
            let mut folder = Folder::new().file("1.safetensors", sound(&[("a", 1), ("b", 2)]));
            make(&folder.path().join("2.safetensors"));
            if with_index {
                folder = folder.file(INDEX, index("6", &MAP));
            }
            let error = folder.refused();
            assert!(
                matches!(&error, E::NotRegular { kind, path } if *kind == wanted && path.ends_with("2.safetensors")),
                "{error:?}"
            );
        }
        // Not a shard, but nobody gives that name to anything else: in a folder below it is refused as well.
        let folder = Folder::with_weights(&sound(&[("a", 1)])).file("part/x", "");
        make(&folder.path().join("part/y.safetensors"));
        assert!(matches!(folder.refused(), E::NotRegular { kind, .. } if kind == wanted));
    }
}

#[test]
fn refuses_a_device_in_the_place_of_a_shard() {
    let folder = Folder::new().link("model.safetensors", "/dev/zero");
    assert!(matches!(folder.refused(), E::LinkLeavesRoot { .. }));
    let direct =
        mgpack::internals::checkpoint::Checkpoint::open_file(&folder.path().join("model.safetensors"));
    assert!(matches!(direct, Err(mgpack::Error::Checkpoint(E::NotRegular { kind: NodeKind::Device, .. }))));
}
