//! What is wrong in one torch file (`.bin`, `.pt`, `.pth`): its archive, its pickle, or its storages.

use super::explain::{damaged, name_rule, shown, shown_bare, what};
use super::{Disguise, Explain, Explanation, OverLimit};
use crate::size::{agreed, counted};

/// What is wrong in one torch file. `at` is a byte from the start of the pickle, `what` is the fault, lengths are bytes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.explain().what)]
#[non_exhaustive]
pub enum TorchFault {
    OverLimit(OverLimit),
    OtherKind(Disguise),
    NotTorch { len: u64 },

    NoZipEnd,
    ZipDirectory { what: &'static str },
    TooLarge { what: &'static str, len: u64, limit: u64 },
    MemberName { name: String },
    DuplicateMember { name: String },
    MemberPlace { name: String, expected: u64, start: u64 },
    MemberOutside { name: String },
    Member { name: String, what: &'static str },
    Encrypted { name: String },
    Method { name: String, method: u16 },
    Crc { member: String },
    NoPickle,
    TwoPickles { first: String, second: String },
    TorchScript,
    ByteOrder { text: String },
    UntypedBigEndian { key: String },

    LegacyHead { what: &'static str },
    LegacyStorage { key: String, what: &'static str },
    AfterStorages { extra: u64 },

    NotAPickle,
    PickleProtocol { version: u8 },
    PickleCutOff,
    AfterPickle { extra: u64 },
    Opcode { code: u8, at: u64 },
    PickleStack { at: u64 },
    PickleText { at: u64 },
    PickleCall { at: u64 },
    Global { module: String, name: String },
    PickleLimit { what: &'static str, limit: u64 },

    NotADict,
    NoTensors { keys: Vec<String> },
    NotText,
    DuplicateKey { key: String },
    StrayTensor { key: String },
    BadName { name: String, limit: usize },
    Dtype { tensor: String, dtype: &'static str },
    LazyTensor,
    Rank { limit: usize },
    ShapeTooLarge { tensor: String, shape: Vec<u64> },
    OutsideStorage { tensor: String, key: String },
    StorageMissing { key: String },
    StorageLen { key: String, told: u64, found: u64 },
    StorageTwice { key: String },
}

const TWICE: &str = "readers disagree on which of the two counts";
const NOT_WRITTEN: &str = "torch.save never writes that";
const SAVE_STATE_DICT: &str = "save the model's state dict alone: torch.save(model.state_dict(), path)";
const SAVE_IN_TYPE: &str = "load the tensor with torch and save it in a type that safetensors has";

impl Explain for TorchFault {
    fn explain(&self) -> Explanation {
        let member =
            |name: &str, fault: &str| damaged(format!("the zip archive's member {} {fault}", shown(name)));
        let at = |text: &str, at: &u64| {
            damaged(text.to_owned()).why(format!("at byte {at}; torch.save writes nothing like it"))
        };
        match self {
            Self::OverLimit(over) => over.explain(),
            Self::OtherKind(kind) => kind.explain("a torch file"),
            Self::NotTorch { len } => damaged(format!("the file is {}", if *len == 0 { "empty" } else { "not a torch file" }))
                .why("a torch file begins as a zip archive or as a pickle"),
            Self::NoZipEnd => damaged("the zip archive does not end where the file ends")
                .why("it is cut off, or something was added after it"),
            Self::ZipDirectory { what } => damaged("the zip archive's directory is inconsistent").why(what),
            Self::TooLarge { what, len, limit } => damaged(format!("{what} is too large: {}", counted(len, "byte")))
                .why(format!("{} is the limit, and enough for 100,000 tensors", counted(limit, "byte"))),
            Self::MemberName { name } => {
                damaged(format!("the zip archive has a member with an unusable name: {}", shown(name)))
                    .why("it must be a plain path of at most 512 bytes with `/` between its parts")
            }
            Self::DuplicateMember { name } => {
                damaged(format!("the zip archive has the member {} twice", shown(name))).why(TWICE)
            }
            Self::MemberPlace { name, expected, start } => {
                member(name, "does not begin where the one before it ends")
                    .why(format!("it begins at byte {start}, and the one before it ends at byte {expected}"))
            }
            Self::MemberOutside { name } => {
                member(name, "is not in its one folder").why("torch puts everything into one folder of the archive")
            }
            Self::Member { name, what } => member(name, "is inconsistent").why(what),
            Self::Encrypted { name } => member(name, "is encrypted").why("torch never encrypts"),
            Self::Method { name, method } => member(name, &format!("is compressed by method {method}"))
                .why("only stored and deflated members are read, as torch does"),
            Self::Crc { member } => damaged(format!("the content of member {} does not have its CRC", shown(member)))
                .why("the file was damaged after it was written"),
            Self::NoPickle => {
                damaged("the zip archive holds no `data.pkl`").why("torch.save always writes one")
            }
            Self::TwoPickles { first, second } => {
                damaged(format!("the zip archive holds two pickles, {} and {}", shown(first), shown(second))).why(TWICE)
            }
            Self::TorchScript => what("the file is a TorchScript archive")
                .why("it holds code beside its weights")
                .help("load it with torch.jit.load and save its state_dict with torch.save"),
            Self::ByteOrder { text } => damaged(format!("the record of the byte order holds {}", shown(text)))
                .why("it must be `little` or `big`"),
            Self::UntypedBigEndian { key } => {
                what(format!("storage {} of a big-endian file has no type", shown(key)))
                    .why("torch.load does not reverse the bytes of such a storage, so its values are not clear")
                    .help(SAVE_IN_TYPE)
            }
            Self::LegacyHead { what } => damaged("the file is not a legacy torch file").why(what),
            Self::LegacyStorage { key, what } => damaged(format!("storage {} is inconsistent", shown(key))).why(what),
            Self::AfterStorages { extra } => {
                damaged(format!("{} the last storage", agreed(extra, "byte follows", "bytes follow")))
                    .why("nothing may follow")
            }
            Self::NotAPickle => what("the pickle does not begin with its protocol")
                .why("protocols 2 to 5 are read")
                .help("save it again with a current torch"),
            Self::PickleProtocol { version } => what(format!("the pickle has protocol {version}"))
                .why("protocols 2 to 5 are read")
                .help("save it again with a current torch"),
            Self::PickleCutOff => damaged("the pickle is cut off").why("it ends inside a value"),
            Self::AfterPickle { extra } => {
                damaged(format!("{} the pickle's end", agreed(extra, "byte follows", "bytes follow")))
                    .why("nothing may follow")
            }
            Self::Opcode { code, at } => damaged(format!("the pickle has the opcode 0x{code:02x}"))
                .why(format!("at byte {at}; no state dict needs it")),
            Self::PickleStack { at: byte } => at("the pickle uses what it has not put on its stack", byte),
            Self::PickleText { at: byte } => at("the pickle holds a text that is not UTF-8", byte),
            Self::PickleCall { at: byte } => at("the pickle calls something in a way that torch does not", byte),
            Self::Global { module, name } => {
                what(format!("the pickle refers to `{}.{}`", shown_bare(module), shown_bare(name)))
                    .why(
                        "only what rebuilds tensors is accepted, and nothing is ever run; loading this file with \
                         Python might run code",
                    )
                    .help("if you trust who wrote it, load it where it can do no harm and save the tensors as safetensors")
            }
            Self::PickleLimit { what, limit } => {
                damaged(format!("the pickle has more than {limit} {what}")).why("no checkpoint needs as many")
            }
            Self::NotADict => what("the file holds no state dict")
                .why("its pickle is not a dictionary from names to tensors")
                .help(SAVE_STATE_DICT),
            Self::NoTensors { keys } => {
                let keys: Vec<String> = keys.iter().map(|key| shown(key)).collect();
                what("no tensors were found in the state dict")
                    .why(match keys.as_slice() {
                        [] => "the dictionary is empty".to_owned(),
                        keys => format!("it has the keys {}", keys.join(", ")),
                    })
                    .help(SAVE_STATE_DICT)
            }
            Self::NotText => what("a key of the state dict is not text")
                .why("tensors are named by text")
                .help(SAVE_STATE_DICT),
            Self::DuplicateKey { key } => damaged(format!("the state dict has the key {} twice", shown(key))).why(TWICE),
            Self::StrayTensor { key } => {
                what(format!("the entry {} of the state dict has a tensor inside it", shown(key)))
                    .why("only tensors directly in the state dict have a name in a model")
                    .help(SAVE_STATE_DICT)
            }
            Self::BadName { name, limit } => {
                damaged(format!("a tensor has an unusable name: {}", shown(name))).why(name_rule(*limit))
            }
            Self::Dtype { tensor, dtype } => what(format!("tensor {} has the element type {dtype}", shown(tensor)))
                .why("safetensors, and so a bundle, has no such type")
                .help(SAVE_IN_TYPE),
            Self::LazyTensor => what("a tensor is to be conjugated or negated when it is read")
                .why("its bytes are not its values")
                .help(SAVE_IN_TYPE),
            Self::Rank { limit } => damaged(format!("a tensor has more than {}", counted(limit, "dimension")))
                .why("no weight has that many"),
            Self::ShapeTooLarge { tensor, shape } => {
                damaged(format!("the shape of tensor {} is too large", shown(tensor)))
                    .why(format!("its shape is {shape:?}"))
            }
            Self::OutsideStorage { tensor, key } => {
                damaged(format!("tensor {} reaches past the end of its storage", shown(tensor)))
                    .why(format!("storage {} is shorter than that", shown(key)))
            }
            Self::StorageMissing { key } => {
                damaged(format!("storage {} is not in the file", shown(key))).why("the pickle refers to it")
            }
            Self::StorageLen { key, told, found } => {
                let found = counted(found, "byte");
                damaged(format!("storage {} has {found} where the pickle says {told}", shown(key))).why(NOT_WRITTEN)
            }
            Self::StorageTwice { key } => {
                damaged(format!("the pickle has storage {} with two types or lengths", shown(key))).why(NOT_WRITTEN)
            }
        }
    }
}
