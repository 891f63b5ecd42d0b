//! Every tensor of every torch file is what torch.load gives for it. The files and the values were written by
//! tests/data/torch/make_corpus.py with real torch, at two versions.

use std::fs;
use std::path::{Path, PathBuf};

use mgpack::internals::checkpoint::Checkpoint;
use safetensors::SafeTensors;

use super::kit::told;

/// The torch files of one version.
fn corpus(version: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/torch").join(version);
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the corpus")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "bin"))
        .collect();
    files.sort();
    files
}

/// Compares one file, whole and element by element, and gives the number of its tensors.
fn compare(path: &Path) -> usize {
    let expected = fs::read(path.with_extension("safetensors")).expect("what torch.load gives");
    let expected = SafeTensors::deserialize(&expected).expect("safetensors");
    let ours = match Checkpoint::open_file(path) {
        Ok(ours) => ours,
        Err(error) => panic!("{}: {}", path.display(), told(&error)),
    };
    let mut names: Vec<String> = expected.names().into_iter().map(str::to_owned).collect();
    names.sort();
    let found: Vec<&str> = ours.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(found, names, "{}", path.display());
    for tensor in ours.tensors() {
        let place = format!("{}: {}", path.display(), tensor.name);
        let wanted = expected.tensor(tensor.name.as_str()).expect("the tensor");
        assert_eq!(tensor.dtype, wanted.dtype(), "{place}");
        let shape: Vec<u64> = wanted.shape().iter().map(|dim| *dim as u64).collect();
        assert_eq!(tensor.shape, shape, "{place}");
        let mut bytes = vec![0xee; tensor.byte_len as usize];
        ours.read(tensor, 0, &mut bytes).unwrap_or_else(|error| panic!("{place}: {}", told(&error)));
        assert_eq!(bytes, wanted.data(), "{place}");
        let elements: u64 = shape.iter().product();
        if elements == 0 {
            continue;
        }
        // From the end, so that a compressed stream has to begin again.
        let width = wanted.data().len() / elements as usize;
        for element in (0..elements).rev() {
            let mut bytes = vec![0xee; width];
            ours.read(tensor, element, &mut bytes).expect("one element");
            let start = element as usize * width;
            assert_eq!(bytes, wanted.data()[start..start + width], "{place}, element {element}");
        }
    }
    names.len()
}

#[test]
fn reads_what_torch_2_13_wrote_as_torch_load_does() {
    let files = corpus("torch-2.13.0");
    let tensors: usize = files.iter().map(|path| compare(path)).sum();
    assert!(files.len() >= 26 && tensors > 150, "{} files, {tensors} tensors", files.len());
}

#[test]
fn reads_what_torch_1_13_wrote_as_torch_load_does() {
    let files = corpus("torch-1.13.0");
    let tensors: usize = files.iter().map(|path| compare(path)).sum();
    assert!(files.len() >= 24 && tensors > 100, "{} files, {tensors} tensors", files.len());
}
