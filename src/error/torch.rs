//! What is wrong in one torch file (`.bin`, `.pt`, `.pth`): its archive, its pickle, or its storages.

use super::shown::{name_rule, shape_text, shown, shown_bare};
use super::{Disguise, Explain, OverLimit};
use crate::size::{agreed, counted};

/// What is wrong in one torch file. Places are bytes from the start of the pickle, lengths are bytes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TorchFault {
    /// With this file the checkpoint is too much.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// The file is of another kind.
    #[error("the file is {0}, not a torch file")]
    OtherKind(Disguise),
    /// The file begins like no torch file.
    #[error("the file is {}", if *len == 0 { "empty".to_owned() } else { "no torch file".to_owned() })]
    NotTorch {
        /// The file's length.
        len: u64,
    },

    /// The archive's end record is not at the end of the file.
    #[error("the zip archive does not end where the file ends")]
    NoZipEnd,
    /// The archive's directory contradicts itself or the file.
    #[error("the zip archive's directory is not sound")]
    ZipDirectory {
        /// What is wrong.
        what: &'static str,
    },
    /// Something is larger than a real one ever is.
    #[error("{what} is too large: {}", counted(len, "byte"))]
    TooLarge {
        /// The part.
        what: &'static str,
        /// Its length.
        len: u64,
        /// The largest accepted.
        limit: u64,
    },
    /// A member's name is no plain path.
    #[error("the zip archive has a member with an unusable name: {}", shown(name))]
    MemberName {
        /// The name.
        name: String,
    },
    /// Two members of one name.
    #[error("the zip archive has the member {} twice", shown(name))]
    DuplicateMember {
        /// The name.
        name: String,
    },
    /// A member is not where the one before it ends.
    #[error("the zip archive's member {} does not begin where the one before it ends", shown(name))]
    MemberPlace {
        /// The member.
        name: String,
        /// Where it should begin.
        expected: u64,
        /// Where it begins.
        start: u64,
    },
    /// A member is not in the archive's one folder.
    #[error("the zip archive's member {} is not in its one folder", shown(name))]
    MemberOutside {
        /// The member.
        name: String,
    },
    /// A member contradicts the directory, or its data is not sound.
    #[error("the zip archive's member {} is not sound", shown(name))]
    Member {
        /// The member.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A member is encrypted.
    #[error("the zip archive's member {} is encrypted", shown(name))]
    Encrypted {
        /// The member.
        name: String,
    },
    /// A member is compressed in a way that torch never uses.
    #[error("the zip archive's member {} is compressed by method {method}", shown(name))]
    Method {
        /// The member.
        name: String,
        /// The method's number.
        method: u16,
    },
    /// A member's content is not what its CRC says.
    #[error("the content of member {} does not have its CRC", shown(member))]
    Crc {
        /// The member.
        member: String,
    },
    /// There is no pickle in the archive.
    #[error("the zip archive holds no `data.pkl`")]
    NoPickle,
    /// There are two.
    #[error("the zip archive holds two pickles, {} and {}", shown(first), shown(second))]
    TwoPickles {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// The archive is a program, not a state dict.
    #[error("the file is a TorchScript archive")]
    TorchScript,
    /// The record of the byte order holds neither word.
    #[error("the record of the byte order holds {}", shown(text))]
    ByteOrder {
        /// What it holds.
        text: String,
    },
    /// An untyped storage of a big-endian file: torch does not turn its bytes round.
    #[error("storage {} of a big-endian file has no type", shown(key))]
    UntypedBigEndian {
        /// The storage.
        key: String,
    },

    /// The head of a legacy file is wrong.
    #[error("the file is no legacy torch file")]
    LegacyHead {
        /// What is wrong.
        what: &'static str,
    },
    /// A storage of a legacy file is wrong.
    #[error("storage {} is not sound", shown(key))]
    LegacyStorage {
        /// The storage.
        key: String,
        /// What is wrong.
        what: &'static str,
    },
    /// Something follows the last storage of a legacy file.
    #[error("{} the last storage", agreed(extra, "byte follows", "bytes follow"))]
    AfterStorages {
        /// How many.
        extra: u64,
    },

    /// The pickle does not begin as one of protocol 2 or later does.
    #[error("the pickle does not begin with its protocol")]
    NotAPickle,
    /// A protocol that torch does not write.
    #[error("the pickle has protocol {version}")]
    PickleProtocol {
        /// Its number.
        version: u8,
    },
    /// The pickle has no end.
    #[error("the pickle is cut off")]
    PickleCutOff,
    /// Something follows the pickle.
    #[error("{} the pickle's end", agreed(extra, "byte follows", "bytes follow"))]
    AfterPickle {
        /// How many.
        extra: u64,
    },
    /// An opcode that no state dict needs.
    #[error("the pickle has the opcode 0x{code:02x}")]
    Opcode {
        /// The opcode.
        code: u8,
        /// Where.
        at: u64,
    },
    /// An opcode finds too little, or something else, on the stack or in the memo.
    #[error("the pickle takes what it has not put")]
    PickleStack {
        /// Where.
        at: u64,
    },
    /// A text is not UTF-8.
    #[error("the pickle holds a text that is not UTF-8")]
    PickleText {
        /// Where.
        at: u64,
    },
    /// A call with arguments that its callable does not take.
    #[error("the pickle calls something in a way that torch does not")]
    PickleCall {
        /// Where.
        at: u64,
    },
    /// The pickle names something that is not on the list.
    #[error("the pickle names `{}.{}`", shown_bare(module), shown_bare(name))]
    Global {
        /// Its module.
        module: String,
        /// Its name.
        name: String,
    },
    /// The pickle asks for more than any checkpoint needs.
    #[error("the pickle has more than {limit} {what}")]
    PickleLimit {
        /// What is counted.
        what: &'static str,
        /// The limit.
        limit: u64,
    },

    /// The pickle's value is no dictionary.
    #[error("the file holds no state dict")]
    NotADict,
    /// No tensors where a state dict may be.
    #[error("no tensors were found in the state dict")]
    NoTensors {
        /// The first keys of the dictionary.
        keys: Vec<String>,
    },
    /// A key of the state dict is no text.
    #[error("a key of the state dict is no text")]
    NotText,
    /// A key stands twice.
    #[error("the state dict has the key {} twice", shown(key))]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A tensor below another value of the state dict.
    #[error("the entry {} of the state dict has a tensor inside it", shown(key))]
    StrayTensor {
        /// The entry.
        key: String,
    },
    /// A tensor name that is empty, too long, or holds a control character.
    #[error("a tensor has an unusable name: {}", shown(name))]
    BadName {
        /// The name.
        name: String,
        /// The longest allowed, in bytes.
        limit: usize,
    },
    /// An element type that safetensors, and so a bundle, does not have.
    #[error("tensor {} has the element type {dtype}", shown(tensor))]
    Dtype {
        /// The tensor.
        tensor: String,
        /// torch's name of the type.
        dtype: &'static str,
    },
    /// A tensor that is to be conjugated or negated when it is read.
    #[error("a tensor is to be conjugated or negated when it is read")]
    LazyTensor,
    /// More dimensions than any weight has.
    #[error("a tensor has more than {}", counted(limit, "dimension"))]
    Rank {
        /// The most allowed.
        limit: usize,
    },
    /// The shape's size does not fit in 64 bits.
    #[error("the shape of tensor {} is too large", shown(tensor))]
    ShapeTooLarge {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// A view reaches past its storage.
    #[error("tensor {} reaches past the end of its storage", shown(tensor))]
    OutsideStorage {
        /// The tensor.
        tensor: String,
        /// The storage.
        key: String,
    },
    /// The pickle names a storage that is not in the file.
    #[error("storage {} is not in the file", shown(key))]
    StorageMissing {
        /// The storage.
        key: String,
    },
    /// The pickle tells another length of a storage than the file has.
    #[error("storage {} has {} where the pickle says {told}", shown(key), counted(found, "byte"))]
    StorageLen {
        /// The storage.
        key: String,
        /// Bytes by the pickle.
        told: u64,
        /// Bytes in the file.
        found: u64,
    },
    /// The pickle names a storage twice with different types or lengths.
    #[error("storage {} is named with two types or lengths", shown(key))]
    StorageTwice {
        /// The storage.
        key: String,
    },
}

impl Explain for TorchFault {
    fn why(&self) -> Option<String> {
        Some(match self {
            Self::OverLimit(over) => return over.why(),
            Self::OtherKind(_) => "its first bytes show it, whatever its name says".to_owned(),
            Self::NotTorch { .. } => "a torch file begins as a zip archive or as a pickle".to_owned(),
            Self::NoZipEnd => "it is cut off, or something was added after it".to_owned(),
            Self::ZipDirectory { what }
            | Self::Member { what, .. }
            | Self::LegacyHead { what }
            | Self::LegacyStorage { what, .. } => (*what).to_owned(),
            Self::TooLarge { limit, .. } => format!("{} is the limit, and enough for 100,000 tensors", counted(limit, "byte")),
            Self::MemberName { .. } => {
                "it must be a plain path of at most 512 bytes with `/` between its parts".to_owned()
            }
            Self::DuplicateMember { .. } | Self::TwoPickles { .. } | Self::DuplicateKey { .. } => {
                "readers disagree on which of the two counts".to_owned()
            }
            Self::MemberPlace { expected, start, .. } => {
                format!("it begins at byte {start}, and the one before it ends at byte {expected}")
            }
            Self::MemberOutside { .. } => "torch puts everything into one folder of the archive".to_owned(),
            Self::Encrypted { .. } => "torch never encrypts".to_owned(),
            Self::Method { .. } => "only stored and deflated members are read, as torch does".to_owned(),
            Self::Crc { .. } => "the file was damaged after it was written".to_owned(),
            Self::NoPickle => "torch.save always writes one".to_owned(),
            Self::TorchScript => "it holds code beside its weights".to_owned(),
            Self::ByteOrder { .. } => "it must be `little` or `big`".to_owned(),
            Self::UntypedBigEndian { .. } => {
                "torch.load does not turn the bytes of such a storage round, so its values are not clear".to_owned()
            }
            Self::AfterStorages { .. } | Self::AfterPickle { .. } => "nothing may follow".to_owned(),
            Self::NotAPickle | Self::PickleProtocol { .. } => "protocols 2 to 5 are read".to_owned(),
            Self::PickleCutOff => "it ends inside a value".to_owned(),
            Self::Opcode { at, .. } => format!("at byte {at}; no state dict needs it"),
            Self::PickleStack { at } | Self::PickleText { at } | Self::PickleCall { at } => {
                format!("at byte {at}; torch.save writes nothing like it")
            }
            Self::Global { .. } => {
                "only what rebuilds tensors is let through, and nothing is ever run; loading this file with Python \
                 might run code"
                    .to_owned()
            }
            Self::PickleLimit { .. } => "no checkpoint needs as many".to_owned(),
            Self::NotADict => "its pickle is no dictionary from names to tensors".to_owned(),
            Self::NoTensors { keys } => {
                let keys: Vec<String> = keys.iter().map(|key| shown(key)).collect();
                match keys.as_slice() {
                    [] => "the dictionary is empty".to_owned(),
                    keys => format!("it has the keys {}", keys.join(", ")),
                }
            }
            Self::NotText => "tensors are named by text".to_owned(),
            Self::StrayTensor { .. } => "only tensors directly in the state dict have a name in a model".to_owned(),
            Self::BadName { limit, .. } => name_rule(*limit),
            Self::Dtype { .. } => "safetensors, and so a bundle, has no such type".to_owned(),
            Self::LazyTensor => "its bytes are not its values".to_owned(),
            Self::Rank { .. } => "no weight has that many".to_owned(),
            Self::ShapeTooLarge { shape, .. } => format!("its shape is {}", shape_text(shape)),
            Self::OutsideStorage { key, .. } => format!("storage {} is shorter than that", shown(key)),
            Self::StorageMissing { .. } => "the pickle names it".to_owned(),
            Self::StorageLen { .. } | Self::StorageTwice { .. } => "torch.save never writes that".to_owned(),
        })
    }

    fn help(&self) -> Option<String> {
        Some(
            match self {
                Self::OverLimit(over) => return over.help(),
                Self::OtherKind(Disguise::LfsPointer) => "run `git lfs pull` in its repository",
                Self::OtherKind(Disguise::Gguf | Disguise::Onnx | Disguise::CTranslate2) => "give the checkpoint it was made from",
                Self::TorchScript => "load it with torch.jit.load and save its state_dict with torch.save",
                Self::Global { .. } => {
                    "if you trust who wrote it, load it where it can do no harm and save the tensors as safetensors"
                }
                Self::NotADict | Self::NoTensors { .. } | Self::StrayTensor { .. } | Self::NotText => {
                    "save the model's state dict alone: torch.save(model.state_dict(), path)"
                }
                Self::Dtype { .. } | Self::LazyTensor | Self::UntypedBigEndian { .. } => {
                    "load the tensor with torch and save it in a type that safetensors has"
                }
                Self::PickleProtocol { .. } | Self::NotAPickle => "save it again with a present torch",
                _ => "fetch that file again; if it stays so, the program that wrote it is at fault",
            }
            .to_owned(),
        )
    }
}
