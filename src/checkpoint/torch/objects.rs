//! The objects a pickle may make, and the few callables it may call. Nothing here runs code.
//!
//! A global of the pickle is looked up in [`Global::named`], an allowlist: whatever is not in it is refused.
//! "Calling" one makes an inert record of a tensor, a storage or a dictionary. Objects lie in one arena and
//! name each other by number, so sharing costs nothing, cycles are harmless, and dropping needs no stack.
//! Source: torch/_utils.py (`_rebuild_*`) and torch/_weights_only_unpickler.py of torch 2.13.

use crate::error::TorchFault;
use crate::tensor::{Dtype, MAX_RANK};

/// Most objects that a pickle may make. A state dict takes about twelve a tensor: this is enough for 160,000.
const MAX_OBJECTS: usize = 2_000_000;

/// Most values in all containers together, tensors counted with their shapes and strides. About 34 a tensor.
const MAX_ITEMS: usize = 5_000_000;

/// What a storage and a tensor count for, beside a tensor's shape and strides.
const RECORD_ITEMS: usize = 8;

/// A value on the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float,
    Object(u32),
}

/// What a value may refer to.
#[derive(Debug)]
pub(super) enum Object {
    Text(Box<str>),
    /// Bytes, big integers, sets, devices: what a checkpoint may hold beside tensors, kept as nothing.
    Inert,
    /// An integer that does not fit in 64 bits, little-endian. Only the legacy format's magic is one.
    Big(Box<[u8]>),
    Tuple(Box<[Value]>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Global(Global),
    Storage(Box<StorageRef>),
    /// The key of a tensor that is described elsewhere, in torch 0.1's files.
    Key(Box<str>),
    Tensor(Box<TensorRef>),
}

/// A storage as the pickle names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StorageRef {
    /// The member `data/<key>`, or the key in a legacy file.
    pub(super) key: Box<str>,
    pub(super) kind: StorageKind,
    /// Elements; bytes for [`StorageKind::Untyped`].
    pub(super) len: u64,
    /// First element of a legacy view of a storage.
    pub(super) start: u64,
}

/// A tensor: a view of a storage. Numbers are as read, not yet checked against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TensorRef {
    /// An [`Object::Storage`].
    pub(super) storage: Value,
    pub(super) element: Element,
    /// First element, from the start of the storage.
    pub(super) start: u64,
    pub(super) shape: Box<[u64]>,
    pub(super) strides: Box<[u64]>,
}

/// An element type: one that a bundle can hold, or torch's name of one that it cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    Known(Dtype),
    Other(&'static str),
}

/// The type of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StorageKind {
    Of(Element),
    Untyped,
}

/// What a pickle may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    /// `_rebuild_tensor`: storage, offset, size, stride.
    RebuildTensor,
    /// The same and requires_grad, hooks, and perhaps metadata.
    RebuildTensorV2,
    /// The same and the element type before the metadata.
    RebuildTensorV3,
    RebuildParameter,
    RebuildParameterWithState,
    Size,
    Device,
    /// `_codecs.encode`, which is how protocol 2 writes bytes.
    Encode,
    Storage(StorageKind),
    Dtype(Element),
    /// A class of tensors (`torch.FloatTensor`), which torch 0.1's files name. It cannot be called.
    TensorClass,
}

impl Global {
    /// The allowlist.
    pub(super) fn named(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensorV2,
            ("torch._utils", "_rebuild_tensor_v3") => Self::RebuildTensorV3,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch._utils", "_rebuild_parameter_with_state") => Self::RebuildParameterWithState,
            ("torch", "Size") => Self::Size,
            ("torch", "device") => Self::Device,
            ("_codecs", "encode") => Self::Encode,
            ("torch" | "torch.storage", "UntypedStorage") => Self::Storage(StorageKind::Untyped),
            ("torch", name) => match name.strip_suffix("Storage") {
                Some(stem) => Self::Storage(StorageKind::Of(storage_element(stem)?)),
                None if name.strip_suffix("Tensor").and_then(storage_element).is_some() => Self::TensorClass,
                None => Self::Dtype(dtype_element(name)?),
            },
            _ => return None,
        })
    }
}

fn storage_element(stem: &str) -> Option<Element> {
    let known = match stem {
        "Double" => Dtype::F64,
        "Float" => Dtype::F32,
        "Half" => Dtype::F16,
        "BFloat16" => Dtype::BF16,
        "Long" => Dtype::I64,
        "Int" => Dtype::I32,
        "Short" => Dtype::I16,
        "Char" => Dtype::I8,
        "Byte" => Dtype::U8,
        "Bool" => Dtype::BOOL,
        "ComplexFloat" => Dtype::C64,
        "ComplexDouble" => return Some(Element::Other("complex128")),
        "QUInt8" => return Some(Element::Other("quint8")),
        "QInt8" => return Some(Element::Other("qint8")),
        "QInt32" => return Some(Element::Other("qint32")),
        "QUInt4x2" => return Some(Element::Other("quint4x2")),
        "QUInt2x4" => return Some(Element::Other("quint2x4")),
        _ => return None,
    };
    Some(Element::Known(known))
}

fn dtype_element(name: &str) -> Option<Element> {
    let known = match name {
        "float64" | "double" => Dtype::F64,
        "float32" | "float" => Dtype::F32,
        "float16" | "half" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e5m2" => Dtype::F8_E5M2,
        "float8_e4m3fnuz" => Dtype::F8_E4M3FNUZ,
        "float8_e5m2fnuz" => Dtype::F8_E5M2FNUZ,
        "float8_e8m0fnu" => Dtype::F8_E8M0,
        "int64" | "long" => Dtype::I64,
        "int32" | "int" => Dtype::I32,
        "int16" | "short" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint64" => Dtype::U64,
        "uint32" => Dtype::U32,
        "uint16" => Dtype::U16,
        "uint8" => Dtype::U8,
        "bool" => Dtype::BOOL,
        "complex64" | "cfloat" => Dtype::C64,
        "complex32" | "chalf" => return Some(Element::Other("complex32")),
        "complex128" | "cdouble" => return Some(Element::Other("complex128")),
        "float4_e2m1fn_x2" => return Some(Element::Other("float4_e2m1fn_x2")),
        _ => return None,
    };
    Some(Element::Known(known))
}

/// All objects of one pickle.
#[derive(Debug, Default)]
pub(super) struct Arena {
    objects: Vec<Object>,
    items: usize,
}

impl Arena {
    /// The object of a value; `None` for the values that are none.
    pub(super) fn get(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Object(number) => self.objects.get(number as usize),
            _ => None,
        }
    }

    pub(super) fn get_mut(&mut self, value: Value) -> Option<&mut Object> {
        match value {
            Value::Object(number) => self.objects.get_mut(number as usize),
            _ => None,
        }
    }

    /// The values that are keys of tensors.
    pub(super) fn keys(&self) -> Vec<Value> {
        let keys = self.objects.iter().enumerate().filter(|(_, object)| matches!(object, Object::Key(_)));
        keys.map(|(number, _)| Value::Object(number as u32)).collect()
    }

    /// Every storage that the pickle names.
    pub(super) fn storages(&self) -> impl Iterator<Item = &StorageRef> {
        self.objects.iter().filter_map(|object| match object {
            Object::Storage(storage) => Some(&**storage),
            _ => None,
        })
    }

    pub(super) fn text(&self, value: Value) -> Option<&str> {
        match self.get(value)? {
            Object::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn tuple(&self, value: Value) -> Option<&[Value]> {
        match self.get(value)? {
            Object::Tuple(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn dict(&self, value: Value) -> Option<&[(Value, Value)]> {
        match self.get(value)? {
            Object::Dict(pairs) => Some(pairs),
            _ => None,
        }
    }

    pub(super) fn add(&mut self, object: Object) -> Result<Value, TorchFault> {
        if self.objects.len() >= MAX_OBJECTS {
            return Err(TorchFault::PickleLimit { what: "objects", limit: MAX_OBJECTS as u64 });
        }
        let number = self.objects.len() as u32;
        self.objects.push(object);
        Ok(Value::Object(number))
    }

    /// Counts `more` values that are about to be held in a container.
    pub(super) fn count(&mut self, more: usize) -> Result<(), TorchFault> {
        self.items = self.items.saturating_add(more);
        if self.items > MAX_ITEMS {
            return Err(TorchFault::PickleLimit { what: "values", limit: MAX_ITEMS as u64 });
        }
        Ok(())
    }

    /// What REDUCE and NEWOBJ make of a global and its arguments. `None` where the arguments do not fit.
    pub(super) fn call(&mut self, callable: Value, arguments: Value) -> Result<Option<Value>, TorchFault> {
        let Some(Object::Global(global)) = self.get(callable) else { return Ok(None) };
        let global = *global;
        let Some(arguments) = self.tuple(arguments).map(<[Value]>::to_vec) else { return Ok(None) };
        let object = match (global, arguments.as_slice()) {
            (Global::OrderedDict, []) => Object::Dict(Vec::new()),
            (Global::OrderedDict, [pairs]) => match self.pairs(*pairs) {
                Some(pairs) => {
                    self.count(pairs.len() * 2)?;
                    Object::Dict(pairs)
                }
                None => return Ok(None),
            },
            (Global::RebuildTensor, [storage, start, shape, strides]) => {
                return self.tensor([*storage, *start, *shape, *strides], None);
            }
            (Global::RebuildTensorV2, [storage, start, shape, strides, _, _, metadata @ ..])
                if metadata.len() <= 1 =>
            {
                self.check_metadata(metadata)?;
                return self.tensor([*storage, *start, *shape, *strides], None);
            }
            (Global::RebuildTensorV3, [storage, start, shape, strides, _, _, dtype, metadata @ ..])
                if metadata.len() <= 1 =>
            {
                self.check_metadata(metadata)?;
                return self.tensor([*storage, *start, *shape, *strides], Some(*dtype));
            }
            (Global::RebuildParameter, [data, _, _])
            | (Global::RebuildParameterWithState, [data, _, _, _]) => {
                let is_tensor = matches!(self.get(*data), Some(Object::Tensor(_)));
                return Ok(is_tensor.then_some(*data));
            }
            (Global::Size, [sizes]) => match self.get(*sizes) {
                Some(Object::Tuple(items)) => Object::Tuple(items.clone()),
                Some(Object::List(items)) => Object::Tuple(items.clone().into()),
                _ => return Ok(None),
            },
            (Global::Device, [_] | [_, _]) | (Global::Encode, [_, _]) => Object::Inert,
            _ => return Ok(None),
        };
        if let Object::Tuple(items) = &object {
            let len = items.len();
            self.count(len)?;
        }
        self.add(object).map(Some)
    }

    /// A storage by its persistent id: `("storage", type, key, location, length)`, and in old files a view.
    pub(super) fn add_storage(&mut self, id: Value) -> Result<Option<Value>, TorchFault> {
        match self.to_storage(id) {
            Some(storage) => {
                self.count(RECORD_ITEMS)?;
                self.add(Object::Storage(Box::new(storage))).map(Some)
            }
            None => Ok(None),
        }
    }

    fn to_storage(&self, id: Value) -> Option<StorageRef> {
        let (word, kind, key, len, view) = match *self.tuple(id)? {
            [word, kind, key, _, len] => (word, kind, key, len, Value::None),
            [word, kind, key, _, len, view] => (word, kind, key, len, view),
            _ => return None,
        };
        if self.text(word)? != "storage" {
            return None;
        }
        let Object::Global(Global::Storage(kind)) = *self.get(kind)? else { return None };
        let start = match view {
            Value::None => 0,
            view => match *self.tuple(view)? {
                [_, start, _] => whole(start)?,
                _ => return None,
            },
        };
        Some(StorageRef { key: self.text(key)?.into(), kind, len: whole(len)?, start })
    }

    /// A tensor of a storage, its first element, shape and strides; `None` where these are something else.
    fn tensor(&mut self, parts: [Value; 4], dtype: Option<Value>) -> Result<Option<Value>, TorchFault> {
        let [storage, start, shape, strides] = parts;
        let ranks = [shape, strides].map(|value| self.tuple(value).map_or(0, <[Value]>::len));
        if ranks.iter().any(|rank| *rank > MAX_RANK) {
            return Err(TorchFault::Rank { limit: MAX_RANK });
        }
        match self.to_tensor(storage, start, shape, strides, dtype) {
            Some(tensor) => {
                self.count(RECORD_ITEMS + 2 * tensor.shape.len())?;
                self.add(Object::Tensor(Box::new(tensor))).map(Some)
            }
            None => Ok(None),
        }
    }

    fn to_tensor(
        &self,
        storage: Value,
        start: Value,
        shape: Value,
        strides: Value,
        dtype: Option<Value>,
    ) -> Option<TensorRef> {
        let Some(Object::Storage(of)) = self.get(storage) else { return None };
        let element = match (dtype, of.kind) {
            (None, StorageKind::Of(element)) => element,
            // torch always names the type where the storage has none.
            (None, StorageKind::Untyped) => return None,
            (Some(dtype), _) => match self.get(dtype)? {
                Object::Global(Global::Dtype(element)) => *element,
                _ => return None,
            },
        };
        let numbers =
            |value| self.tuple(value)?.iter().map(|item| whole(*item)).collect::<Option<Box<[u64]>>>();
        let (start, shape, strides) = (whole(start)?, numbers(shape)?, numbers(strides)?);
        (shape.len() == strides.len()).then_some(TensorRef { storage, element, start, shape, strides })
    }

    /// A list of pairs, as Python 2 wrote an OrderedDict's arguments.
    fn pairs(&self, value: Value) -> Option<Vec<(Value, Value)>> {
        let Object::List(items) = self.get(value)? else { return None };
        let pair = |item: &Value| match self.get(*item)? {
            Object::List(pair) => match *pair.as_slice() {
                [key, value] => Some((key, value)),
                _ => None,
            },
            Object::Tuple(pair) => match **pair {
                [key, value] => Some((key, value)),
                _ => None,
            },
            _ => None,
        };
        items.iter().map(pair).collect()
    }

    /// Metadata may say that the values are to be conjugated or negated when they are read; no loader of
    /// weights expects that.
    fn check_metadata(&self, metadata: &[Value]) -> Result<(), TorchFault> {
        let [metadata] = metadata else { return Ok(()) };
        match (metadata, self.dict(*metadata)) {
            (Value::None, _) => Ok(()),
            (_, Some(pairs)) if !pairs.iter().any(|(_, value)| *value == Value::Bool(true)) => Ok(()),
            _ => Err(TorchFault::LazyTensor),
        }
    }
}

/// A number from 0 on.
fn whole(value: Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(number).ok(),
        _ => None,
    }
}
