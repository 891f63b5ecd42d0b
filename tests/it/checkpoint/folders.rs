//! The folder itself: side files, links, and files that change under the reader.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use mgpack::error::{Change, CheckpointError as E, Error, IoError, NodeKind};
use mgpack::internals::checkpoint::{Checkpoint, SkipReason};

use super::kit::*;

fn small() -> Folder {
    Folder::with_weights(&sound(&[("a", 4), ("b", 2)])).file("config.json", r#"{"model_type":"mgm"}"#)
}

fn paths(checkpoint: &Checkpoint) -> Vec<&str> {
    checkpoint.side_files().iter().map(|side| side.path.as_str()).collect()
}

fn checkpoint_error<T: std::fmt::Debug>(result: Result<T, Error>) -> E {
    match result {
        Err(Error::Checkpoint(error)) => error,
        other => panic!("no error: {other:?}"),
    }
}

#[test]
fn is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Checkpoint>();
}

#[test]
fn lists_side_files_and_what_it_skips() {
    let folder = small()
        .file("tokenizer.json", "{}")
        .file(".gitattributes", "*")
        .file("model_zoo/OpenAI/clip/model.safetensors", "a tower's own weights")
        .file("model_zoo/OpenAI/clip/pytorch_model.bin", "and these")
        .file(".git/objects/00/11", "x")
        .file(".cache/huggingface/download/x.lock", "x")
        .file(".tokenizer.lock", "")
        .file("uv.lock", "")
        .file(".28512.config.json", "{}")
        .file(".ipynb_checkpoints/config.json", "{}")
        .file("._model.safetensors", "of another system")
        .file("tmpabc.incomplete", "{")
        .file("model-00002.safetensors.part", "x")
        .file("config.json~", "{}")
        .link("tower", "model_zoo")
        .link("README.md", "tokenizer.json");
    let checkpoint = folder.good();
    assert_eq!(
        paths(&checkpoint),
        [
            ".gitattributes",
            "README.md",
            "config.json",
            "model_zoo/OpenAI/clip/model.safetensors",
            "model_zoo/OpenAI/clip/pytorch_model.bin",
            "tokenizer.json",
        ]
    );
    let skipped: Vec<(&str, SkipReason)> =
        checkpoint.skipped().iter().map(|skipped| (skipped.path.as_str(), skipped.reason)).collect();
    assert_eq!(
        skipped,
        [
            (".28512.config.json", SkipReason::Hidden),
            ("._model.safetensors", SkipReason::Hidden),
            (".cache", SkipReason::CacheFolder),
            (".git", SkipReason::GitFolder),
            (".ipynb_checkpoints", SkipReason::Hidden),
            (".tokenizer.lock", SkipReason::LockFile),
            ("config.json~", SkipReason::Temporary),
            ("model-00002.safetensors.part", SkipReason::Temporary),
            ("tmpabc.incomplete", SkipReason::Temporary),
            ("tower", SkipReason::FolderLink),
            ("uv.lock", SkipReason::LockFile),
        ]
    );
    assert_eq!(checkpoint.config(), Some(r#"{"model_type":"mgm"}"#));
    assert_eq!(checkpoint.side_files()[2].len, 20);
    assert_eq!(checkpoint.root(), folder.path());
}

#[test]
fn skips_a_pipe_among_the_side_files_without_blocking() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let folder = small();
    mknodat(CWD, folder.path().join("log"), FileType::Fifo, Mode::RUSR, 0).expect("a pipe");
    let checkpoint = folder.good();
    let skipped = &checkpoint.skipped()[0];
    assert_eq!((skipped.path.as_str(), skipped.reason), ("log", SkipReason::NotRegular(NodeKind::Pipe)));
}

#[test]
fn opens_listed_side_files_and_nothing_else() {
    let folder = small().file("sub/a.txt", "hello").link("zoo", "sub");
    let checkpoint = folder.good();
    let mut text = String::new();
    checkpoint.open_side_file("sub/a.txt").expect("a side file").read_to_string(&mut text).expect("text");
    assert_eq!(text, "hello");
    for path in
        ["../secret", "/etc/passwd", "zoo/a.txt", "sub", "sub/../config.json", "model.safetensors", ""]
    {
        let error = checkpoint_error(checkpoint.open_side_file(path));
        assert_well_told(&error);
        assert!(matches!(&error, E::NotASideFile { path: asked, .. } if asked == path), "{path}: {error:?}");
    }
}

#[test]
fn refuses_a_side_file_that_was_replaced() {
    let folder = small().file("a.txt", "one");
    let checkpoint = folder.good();
    fs::write(folder.path().join("new"), "two").expect("a file");
    fs::rename(folder.path().join("new"), folder.path().join("a.txt")).expect("renamed");
    let error = checkpoint_error(checkpoint.open_side_file("a.txt"));
    assert!(matches!(error, E::FileChanged { change: Change::Replaced, .. }), "{error:?}");
}

#[test]
fn refuses_links_that_leave_the_folder() {
    let outside = Folder::new().file("x.safetensors", sound(&[("a", 1)])).file("notes", "x");
    let weights = Folder::new().link("model.safetensors", outside.path().join("x.safetensors"));
    let side = small().link("notes", outside.path().join("notes"));
    let through_folder =
        small().link("zoo", outside.path()).file(INDEX, index("1", &[("a", "zoo/x.safetensors")]));
    fs::remove_file(through_folder.path().join("model.safetensors")).expect("removed");
    let folder_link = small().link("zoo", outside.path());
    for folder in [weights, side, through_folder, folder_link] {
        let error = folder.refused();
        assert_well_told(&error);
        let E::LinkLeavesRoot { target, .. } = &error else { panic!("{error:?}") };
        assert!(target.starts_with(fs::canonicalize(outside.path()).expect("a path")));
    }
}

#[test]
fn follows_links_inside_the_folder() {
    let folder = Folder::new().file("real/w", sound(&[("a", 3)])).link("model.safetensors", "real/w");
    assert_eq!(folder.good().get("a").map(|tensor| tensor.byte_len), Some(3));
    let root = Folder::new().link("ckpt", folder.path());
    assert_eq!(Checkpoint::open(&root.path().join("ckpt")).expect("through a link").tensors().len(), 1);
}

#[test]
fn refuses_links_to_nothing_and_links_in_a_circle() {
    let error = small().link("tokenizer.json", "gone").refused();
    assert!(matches!(&error, E::DanglingLink { target, .. } if target.ends_with("gone")), "{error:?}");
    let circle = Folder::new().link("model.safetensors", "other").link("other", "model.safetensors").open();
    assert!(
        matches!(&circle, Err(Error::Io(IoError { path, .. })) if path.ends_with("model.safetensors")),
        "{circle:?}"
    );
    assert!(circle.is_err_and(|error| std::error::Error::source(&error).is_some()));
}

/// Once, under root, whom the rights of files do not bind, this checked nothing: there the command runs without that
/// privilege.
#[test]
fn refuses_a_file_that_may_not_be_read() {
    let folder = small();
    let path = folder.path().join("model.safetensors");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("rights");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mgpack"));
    if fs::File::open(&path).is_ok() {
        command = Command::new("setpriv");
        let dropped = "-dac_override,-dac_read_search";
        command.arg(format!("--bounding-set={dropped}")).arg(format!("--inh-caps={dropped}"));
        command.arg(env!("CARGO_BIN_EXE_mgpack"));
    }
    let done = command
        .arg("inspect")
        .arg(folder.path())
        .output()
        .expect("setpriv, of util-linux, where root runs this");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert!(said.contains("model.safetensors") && said.contains("Permission denied"), "{said}");
}

#[test]
fn refuses_file_names_that_no_checksum_list_can_hold() {
    for name in ["a\\b", "a\nb", "\x1b[2J"] {
        let error = small().file(name, "x").refused();
        assert_well_told(&error);
        assert!(matches!(&error, E::BadFileName { .. }), "{name:?}: {error:?}");
    }
    let folder = small();
    fs::write(folder.path().join(std::ffi::OsStr::from_bytes(b"a\xff")), "x").expect("a file");
    assert!(matches!(folder.refused(), E::BadFileName { .. }));
}

#[test]
fn refuses_what_is_no_checkpoint() {
    let empty = Folder::new().file("notes.txt", "x");
    assert!(matches!(empty.refused(), E::NotACheckpoint { .. }));
    let config = Folder::new().file("config.json", "{}");
    assert!(matches!(config.refused(), E::NoWeights { .. }));
    let missing = checkpoint_error(Checkpoint::open(&empty.path().join("none")));
    assert!(matches!(missing, E::NotFound { .. }));
    let folder = small();
    let file = checkpoint_error(Checkpoint::open(&folder.path().join("model.safetensors")));
    assert!(matches!(&file, E::NotAFolder { .. }));
    assert!(mgpack::Explain::explain(&file).help.expect("help").contains("‹inspect(\""));
}

/// First bytes as the programs write them: torch.onnx 2.13, CTranslate2 4, llama.cpp.
#[test]
fn names_the_program_whose_weights_it_cannot_read() {
    let onnx = b"\x08\x08\x12\x07pytorch\x1a\x062.13.0:\x02\x12\x00";
    let ctranslate2 = b"\x06\0\0\0\x17\0TransformerDecoderSpec\0\x08\0\0\0\x01\0\0\0";
    let gguf = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0";
    for (name, bytes, kind) in [
        ("model.onnx", &onnx[..], "an ONNX model"),
        ("model-Q4_K_M.gguf", gguf, "a GGUF model"),
        ("weights", ctranslate2, "a CTranslate2 model"),
        ("pytorch_model.bin", onnx, "an ONNX model"),
        ("model.bin", ctranslate2, "a CTranslate2 model"),
        ("model.safetensors", onnx, "an ONNX model"),
        ("model.safetensors", ctranslate2, "a CTranslate2 model"),
    ] {
        let error = Folder::new().file("config.json", "{}").file(name, bytes).refused();
        assert!(error.to_string().contains(kind), "{name}: {error}");
        let help = mgpack::Explain::explain(&error).help.expect("help");
        assert!(help.starts_with("give the checkpoint"), "{name}: {help}");
    }
    let pipeline = Folder::new().file("model_index.json", "{}").file("unet/config.json", "{}").refused();
    assert!(matches!(pipeline, E::IsPipeline { .. }), "{pipeline:?}");
}

#[test]
fn refuses_a_config_that_is_not_text_or_too_large() {
    let binary = small().file("config.json", b"{\"a\":\"\xff\"}").refused();
    assert!(matches!(&binary, E::TextNotUtf8 { .. }), "{binary:?}");
    let folder = small();
    let file = fs::File::options().write(true).open(folder.path().join("config.json")).expect("the file");
    file.set_len(1 << 40).expect("a sparse file");
    assert!(matches!(folder.refused(), E::TextTooLarge { len, .. } if len == 1 << 40));
}

#[test]
fn opens_one_file_by_itself() {
    let folder = small();
    let checkpoint = Checkpoint::open_file(&folder.path().join("model.safetensors")).expect("a sound file");
    assert_eq!((checkpoint.tensors().len(), checkpoint.files().len()), (2, 1));
    assert_eq!((checkpoint.config(), checkpoint.side_files().len()), (None, 0));
    let mut bytes = [0; 2];
    let b = checkpoint.get("b").expect("tensor b");
    checkpoint.read(b, 0, &mut bytes).expect("its bytes");
    assert_eq!(bytes, [4, 5]);
    checkpoint.recheck().expect("unchanged");
}

#[test]
fn names_the_file_of_a_read_that_ends_early() {
    let folder = small();
    let checkpoint = folder.good();
    let a = checkpoint.get("a").expect("tensor a").clone();
    let file = fs::File::options().write(true).open(folder.path().join("model.safetensors"));
    file.expect("the file").set_len(a.span().expect("stored").offset + 1).expect("shortened");
    let error = checkpoint_error(checkpoint.read(&a, 0, &mut [0; 3]));
    assert_well_told(&error);
    assert!(
        matches!(&error, E::ReadPastEnd { path, offset, byte_len: 3 } if path.ends_with("model.safetensors") && *offset == a.span().expect("stored").offset),
        "{error:?}"
    );
    let past = checkpoint_error(checkpoint.read(&a, 2, &mut [0; 2]));
    assert!(matches!(past, E::ReadPastEnd { byte_len: 2, .. }), "{past:?}");
}

#[test]
fn notices_every_way_in_which_a_file_can_change() {
    type Case = (fn(&std::path::Path), fn(&Change) -> bool);
    let cases: [Case; 5] = [
        (
            |path| {
                let mut file = fs::File::options().append(true).open(path).expect("the file");
                file.write_all(b"more").expect("grown");
            },
            |change| matches!(change, Change::Length { before, now } if *now == before + 4),
        ),
        (
            |path| {
                let file = fs::File::options().write(true).open(path).expect("the file");
                file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("a time");
            },
            |change| matches!(change, Change::Modified),
        ),
        (
            // Once, bytes written in place went unnoticed where the modification time was put back.
            |path| {
                let before = fs::metadata(path).expect("the file").modified().expect("a time");
                std::thread::sleep(std::time::Duration::from_millis(20));
                let file = fs::File::options().write(true).open(path).expect("the file");
                std::os::unix::fs::FileExt::write_at(&file, b"x", 0).expect("written");
                file.set_modified(before).expect("a time");
            },
            |change| matches!(change, Change::Modified),
        ),
        (
            |path| {
                let copy = path.with_extension("copy");
                fs::copy(path, &copy).expect("a copy");
                fs::rename(copy, path).expect("renamed");
            },
            |change| matches!(change, Change::Replaced),
        ),
        (|path| fs::remove_file(path).expect("removed"), |change| matches!(change, Change::Removed)),
    ];
    for name in ["model.safetensors", "config.json"] {
        for (touch, expected) in &cases {
            let folder = small();
            let checkpoint = folder.good();
            checkpoint.recheck().expect("unchanged");
            touch(&folder.path().join(name));
            let error = checkpoint_error(checkpoint.recheck());
            assert_well_told(&error);
            assert!(
                matches!(&error, E::FileChanged { path, change } if path.ends_with(name) && expected(change)),
                "{error:?}"
            );
        }
    }
}

#[test]
fn refuses_folders_nested_too_deep() {
    let folder = small().file(&format!("{}x", "d/".repeat(40)), "x");
    assert!(matches!(folder.refused(), E::TooDeep { limit: 32, .. }));
}

#[test]
fn refuses_names_that_differ_in_case_alone() {
    let error = small().file("part/Readme.md", "x").file("part/README.md", "y").refused();
    assert_well_told(&error);
    assert!(
        matches!(&error, E::NamesClash { first, second, .. } if first == "part/README.md" && second == "part/Readme.md"),
        "{error:?}"
    );
    let shard = small().file("MODEL.safetensors", sound(&[("c", 1)])).refused();
    assert!(matches!(&shard, E::NamesClash { .. }), "{shard:?}");
}
