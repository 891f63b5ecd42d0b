//! A place for a test to run the real binary in, checkpoints to run it on, and folders to compare.

// Every test binary needs another part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A temporary folder: working directory, home and cache of every command run in it.
pub(crate) struct World(TempDir);

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl World {
    pub(crate) fn new() -> Self {
        Self(TempDir::with_prefix("mgpack-test-").unwrap())
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// The binary, ready to be started in this folder, with nothing of the user's environment.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.prepared(Command::new(env!("CARGO_BIN_EXE_mgpack")), args)
    }

    /// The same, where signals do what they do by default: a script's background, and so a test run in it, ignores
    /// SIGINT, and programs inherit that.
    pub(crate) fn interruptible(&self, args: &[&str]) -> Command {
        let mut command = Command::new("env");
        command.args(["--default-signal=INT,TERM,HUP,QUIT", env!("CARGO_BIN_EXE_mgpack")]);
        self.prepared(command, args)
    }

    fn prepared(&self, mut command: Command, args: &[&str]) -> Command {
        command.args(args).current_dir(self.0.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("HF_") || name.starts_with("HUGGINGFACE") || name.starts_with("XDG_") {
                command.env_remove(name);
            }
        }
        // No test of Rust reaches for the network.
        command
            .env("HOME", self.path("home"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("HF_HUB_OFFLINE", "1");
        command
    }

    /// Runs the binary to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        ran(&mut self.command(args))
    }

    /// Runs what must succeed.
    pub(crate) fn good(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        ran
    }

    /// Converts the built-in checkpoint to `tiny` and gives the bundle's folder.
    pub(crate) fn tiny(&self) -> PathBuf {
        self.good(&["convert", "tiny", "--int8", "-o", "tiny-bundle"]);
        self.path("tiny-bundle")
    }

    /// Names at the top of this folder, those of hidden files too, but for the cache.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name != "cache")
            .collect();
        names.sort();
        names
    }
}

/// Runs a command to its end.
pub(crate) fn ran(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Ran {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("{error} in {:?}, {:?}", self.out, self.err))
    }
}

/// Every regular file below `dir`, by its path with `/` between the parts.
pub(crate) fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    assert!(!found.is_empty(), "{} is empty", dir.display());
    found
}

/// Fails with the name of the first file that differs, not with its bytes.
pub(crate) fn assert_same(a: &Path, b: &Path, what: &str) {
    let (left, right) = (contents(a), contents(b));
    let names = |map: &BTreeMap<String, Vec<u8>>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&left), names(&right), "{what}: files");
    for (name, bytes) in &left {
        assert!(*bytes == right[name], "{what}: {name} differs");
    }
}

/// Copies a folder, following links.
pub(crate) fn copy(from: &Path, to: &Path) {
    for (name, bytes) in contents(from) {
        write(&to.join(name), &bytes);
    }
}

/// Writes a file and the folders above it.
pub(crate) fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// splitmix64, so that a seed gives the same numbers everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// From -1 to 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// A tensor of a checkpoint. `linear`: a weight that the quantizing schemes should take.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) linear: bool,
}

/// A tensor of floats, each rounded to `dtype` by truncation of nothing: the bytes are given.
pub(crate) fn tensor(name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Tensor {
    let tensor = Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes, linear: false };
    let len = shape.iter().product::<usize>() * dtype.bitsize() / 8;
    assert_eq!(tensor.bytes.len(), len, "{name}");
    tensor
}

impl Tensor {
    pub(crate) fn linear(mut self) -> Self {
        self.linear = true;
        self
    }
}

/// config.json of the checkpoints made here; its numbers and order must survive a conversion.
pub(crate) const CONFIG: &str = r#"{
  "architectures": [
    "LlamaForCausalLM"
  ],
  "zeta_first": [1e-05, 1.0, 100000000000000000000, -0.0],
  "hidden_size": 16,
  "num_attention_heads": 2,
  "num_hidden_layers": 2,
  "model_type": "llama",
  "rms_norm_eps": 1e-05,
  "rope_theta": 10000.0,
  "torch_dtype": "float32",
  "unicode": "\u00e9 é",
  "vocab_size": 16,
  "alpha_last": null
}
"#;

/// Writes a checkpoint of one file, or of several with an index.
pub(crate) fn save(dir: &Path, shards: &[&[Tensor]]) {
    write(&dir.join("config.json"), CONFIG.as_bytes());
    write(&dir.join("tokenizer.json"), b"{\"model\":{}}");
    write(&dir.join("README.md"), b"# The original card\n");
    write(&dir.join("training_args.bin"), b"not weights");
    let mut map = serde_json::Map::new();
    for (index, tensors) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        let views = tensors.iter().map(|tensor| {
            map.insert(tensor.name.clone(), json!(name));
            let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).unwrap();
            (tensor.name.clone(), view)
        });
        let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
        let bytes = safetensors::serialize(views.collect::<Vec<_>>(), metadata).unwrap();
        write(&dir.join(&name), &bytes);
    }
    if shards.len() > 1 {
        let total: usize =
            shards.iter().flat_map(|shard| shard.iter()).map(|tensor| tensor.bytes.len()).sum();
        let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
        write(&dir.join("model.safetensors.index.json"), index.to_string().as_bytes());
    }
}

/// Writes a checkpoint of zeros that takes no room on the disk: `count` linears of `[rows, columns]` BF16.
pub(crate) fn save_zeros(dir: &Path, count: usize, rows: usize, columns: usize) {
    write(&dir.join("config.json"), CONFIG.as_bytes());
    let len = rows * columns * 2;
    let mut header = serde_json::Map::new();
    for index in 0..count {
        let entry = json!({ "dtype": "BF16", "shape": [rows, columns], "data_offsets": [index * len, (index + 1) * len] });
        header.insert(format!("model.layers.{index}.mlp.up_proj.weight"), entry);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&header);
    let path = dir.join("model.safetensors");
    write(&path, &bytes);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len((bytes.len() + count * len) as u64).unwrap();
}
