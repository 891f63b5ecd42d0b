//! From the tensors that files hold to the float tensors of the model: what is codes becomes a weight that is decoded.
//!
//! Which tensors those are is known by [`crate::coding`]; this puts them in their place. Carries out formats/bundle.md,
//! "Checkpoints".

use serde_json::Value;

use super::reading::Coded;
use super::{Checkpoint, Notice, Reading, SourceTensor, files};
use crate::coding::{self, BESIDE, CodedWeight, Header, Headers, Recognized, Settings};
use crate::error::CodesError;
use crate::tensor::{Dtype, Float, byte_len};

/// Longest file of settings beside config.json that is read, in bytes.
const MAX_SETTINGS_LEN: u64 = 4 << 20;

/// Longest tensor whose numbers are read while a checkpoint is opened, in bytes: a shape.
const MAX_NUMBERS_LEN: u64 = 64;

impl Checkpoint {
    /// Recognizes codes, and puts weights in their place. Where they are not read, the tensors stay as they are stored, and
    /// [`Checkpoint::check_codes`] says why.
    pub(super) fn decode(&mut self) {
        let config: Value =
            self.config.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let settings = Settings::of(&config, &self.settings_beside());
        if !settings.is_there() && !self.tensors.iter().any(|tensor| coding::may_be_codes(tensor.dtype)) {
            return;
        }
        let headers = self.tensors.iter().map(|tensor| Header {
            name: tensor.name.as_str(),
            dtype: tensor.dtype,
            shape: &tensor.shape,
        });
        let numbers = |at: usize| self.numbers(at);
        let recognized = coding::recognize(&Headers::new(headers.collect(), &settings, &numbers));
        match recognized {
            Ok(Recognized { weights, left }) => self.put(weights, &left, &settings, float_of(&config)),
            Err(error) => {
                self.notices.push(Notice::NotDecoded { why: error.to_string() });
                self.codes = Some(error);
            }
        }
        self.settings = settings;
    }

    /// Refuses what holds codes that are not read.
    ///
    /// # Errors
    /// [`CodesError`].
    pub fn check_codes(&self) -> Result<(), CodesError> {
        self.codes.clone().map_or(Ok(()), Err)
    }

    /// The settings that lie beside config.json.
    fn settings_beside(&self) -> Vec<(&'static str, Value)> {
        let read = |name: &&'static str| {
            self.side_files.iter().find(|file| file.path == **name)?;
            let bytes = files::read_text(&self.root, name, MAX_SETTINGS_LEN).ok()?;
            Some((*name, serde_json::from_slice(&bytes).ok()?))
        };
        BESIDE.iter().filter_map(read).collect()
    }

    /// The numbers of a small tensor, if its file is here.
    fn numbers(&self, at: usize) -> Option<Vec<u64>> {
        let tensor = self.tensors.get(at).filter(|tensor| tensor.byte_len <= MAX_NUMBERS_LEN)?;
        let mut bytes = vec![0; tensor.byte_len as usize];
        self.read(tensor, 0, &mut bytes).ok()?;
        match tensor.dtype {
            Dtype::I64 | Dtype::U64 => {
                Some(bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
            }
            Dtype::I32 | Dtype::U32 => Some(
                bytes.as_chunks::<4>().0.iter().map(|bytes| u64::from(u32::from_le_bytes(*bytes))).collect(),
            ),
            _ => None,
        }
    }

    /// Puts weights in the place of what they are decoded from. `model`: the type of its floats.
    fn put(&mut self, weights: Vec<CodedWeight>, left: &[usize], settings: &Settings, model: Float) {
        for name in settings.places.iter().filter(|_| weights.is_empty()) {
            self.notices.push(Notice::StaleSettings { place: name.clone(), method: settings.method.clone() });
        }
        let counts = coding::counted_by_name(weights.iter());
        let mut gone: Vec<bool> = vec![false; self.tensors.len()];
        let mut mark = |at: &usize| {
            if let Some(gone) = gone.get_mut(*at) {
                *gone = true;
            }
        };
        left.iter().for_each(&mut mark);
        weights.iter().flat_map(|weight| weight.parts.iter().chain(&weight.beside)).for_each(&mut mark);
        let decoded: Vec<SourceTensor> =
            weights.into_iter().filter_map(|weight| self.weight(weight, model)).collect();
        let names = left.iter().filter_map(|at| self.tensors.get(*at)).map(|tensor| tensor.name.clone());
        let names: Vec<_> = names.collect();
        if let Some(first) = names.first() {
            self.notices.push(Notice::LeftScales { first: first.clone(), count: names.len() });
        }
        let mut gone = gone.into_iter();
        self.tensors.retain(|_| !gone.next().unwrap_or(false));
        if !decoded.is_empty() {
            let rest = self.tensors.iter().filter(|tensor| tensor.shape.len() > 1).count();
            self.notices.push(Notice::Decoded { counts: counts.into_iter().collect(), rest });
        }
        self.tensors.extend(decoded);
        self.tensors.sort_by(|a, b| a.name.cmp(&b.name));
        if settings.is_there() || self.tensors.iter().any(|tensor| tensor.coded().is_some()) {
            for tensor in &mut self.tensors {
                tensor.is_cache_scale =
                    coding::is_cache_scale(tensor.name.as_str(), tensor.dtype, &tensor.shape);
            }
        }
    }

    /// The tensor that a weight is decoded to.
    fn weight(&self, weight: CodedWeight, model: Float) -> Option<SourceTensor> {
        let all = |places: &[usize]| -> Option<Vec<SourceTensor>> {
            places.iter().map(|at| self.tensors.get(*at).cloned()).collect()
        };
        let (parts, beside) = (all(&weight.parts)?, all(&weight.beside)?);
        let dtype = weight.rounded.unwrap_or(model).dtype();
        let mut tensor = SourceTensor {
            name: weight.name.clone(),
            dtype,
            byte_len: byte_len(dtype, &weight.shape)?,
            shape: weight.shape.clone(),
            is_cache_scale: false,
            reading: Reading::Coded(Box::new(Coded { weight, parts, beside })),
        };
        let is_transposed = tensor.coded().is_some_and(|coded| coded.weight.is_transposed);
        if is_transposed && let [.., rows, columns] = tensor.shape.as_slice() {
            let mut shape = tensor.shape.clone();
            let last = shape.len() - 1;
            (shape[last - 1], shape[last]) = (*columns, *rows);
            tensor = SourceTensor { shape, reading: Reading::Transposed(Box::new(tensor.clone())), ..tensor };
        }
        Some(tensor)
    }
}

/// The float type of a model by its config.json; bfloat16 where it has none.
fn float_of(config: &Value) -> Float {
    let parts = [config, crate::config::text(config)].into_iter();
    let words = parts.flat_map(|part| ["dtype", "torch_dtype"].map(|key| part.get(key)));
    let word = words.flatten().filter_map(Value::as_str).next().unwrap_or_default();
    match word.trim_start_matches("torch.") {
        "float16" | "half" => Float::F16,
        "float32" | "float" => Float::F32,
        _ => Float::BF16,
    }
}
