//! Builders of torch files, sound and hostile: members of a zip, and pickles opcode by opcode.

#![allow(dead_code)]

/// One member of an archive. The builder writes what it is given, true or not.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
    /// What the directory says; the local header too by default.
    pub(crate) method: u16,
    pub(crate) flags: u16,
    pub(crate) crc: u32,
    pub(crate) len: u32,
    pub(crate) local_name: Option<String>,
    pub(crate) local_crc: Option<u32>,
    /// Bytes put between this member and what follows.
    pub(crate) after: Vec<u8>,
}

pub(crate) fn member(name: &str, content: impl Into<Vec<u8>>) -> Member {
    let content = content.into();
    Member {
        name: name.to_owned(),
        method: 0,
        flags: 0,
        crc: crc32fast::hash(&content),
        len: content.len() as u32,
        content,
        local_name: None,
        local_crc: None,
        after: Vec::new(),
    }
}

/// The archive of `members`. `shared`: the directory's last entry leads to the first member.
pub(crate) fn zip_of(members: &[Member], shared: bool) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (number, member) in members.iter().enumerate() {
        let offset = if shared && number + 1 == members.len() { 0 } else { bytes.len() as u32 };
        let sizes = [member.content.len() as u32, member.len].map(u32::to_le_bytes).concat();
        let head = |signature: &[u8], crc: u32, name: &str| {
            let mut head = signature.to_vec();
            for field in [member.flags, member.method, 0, 33] {
                head.extend(field.to_le_bytes());
            }
            head.extend(crc.to_le_bytes());
            head.extend(&sizes);
            head.extend((name.len() as u16).to_le_bytes());
            head
        };
        let name = member.local_name.as_deref().unwrap_or(&member.name);
        bytes.extend(head(b"PK\x03\x04\x14\x00", member.local_crc.unwrap_or(member.crc), name));
        bytes.extend([0, 0]);
        bytes.extend(name.as_bytes());
        bytes.extend(&member.content);
        bytes.extend(&member.after);
        directory.extend(head(b"PK\x01\x02\x14\x00\x14\x00", member.crc, &member.name));
        directory.extend([0; 12]);
        directory.extend(offset.to_le_bytes());
        directory.extend(member.name.as_bytes());
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([members.len() as u16; 2].map(u16::to_le_bytes).concat());
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}

/// A torch file of a pickle and storages `data/0`, `data/1`, ….
pub(crate) fn torch_zip(pickle: &[u8], storages: &[&[u8]]) -> Vec<u8> {
    zip_of(&members(pickle, storages), false)
}

pub(crate) fn members(pickle: &[u8], storages: &[&[u8]]) -> Vec<Member> {
    let mut all = vec![member("a/data.pkl", pickle), member("a/byteorder", "little")];
    for (number, storage) in storages.iter().enumerate() {
        all.push(member(&format!("a/data/{number}"), *storage));
    }
    all.push(member("a/version", "3\n"));
    all
}

/// BINUNICODE.
pub(crate) fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

pub(crate) fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

/// LONG1 of eight bytes.
pub(crate) fn int(number: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &number.to_le_bytes()].concat()
}

pub(crate) fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(".to_vec(), items.concat(), b"t".to_vec()].concat()
}

pub(crate) fn ints(numbers: &[i64]) -> Vec<u8> {
    tuple(&numbers.iter().map(|number| int(*number)).collect::<Vec<_>>())
}

pub(crate) fn storage(kind: &str, key: &str, len: i64) -> Vec<u8> {
    let id = tuple(&[text("storage"), global("torch", kind), text(key), text("cpu"), int(len)]);
    [id, b"Q".to_vec()].concat()
}

/// `_rebuild_tensor_v2(storage, start, shape, strides, False, OrderedDict())`.
pub(crate) fn tensor(storage: Vec<u8>, start: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let hooks = [global("collections", "OrderedDict"), b")R".to_vec()].concat();
    let arguments = tuple(&[storage, int(start), ints(shape), ints(strides), vec![0x89], hooks]);
    [global("torch._utils", "_rebuild_tensor_v2"), arguments, b"R".to_vec()].concat()
}

/// A pickle whose value is `{name: value, …}`; values are opcodes.
pub(crate) fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<u8> =
        entries.iter().flat_map(|(name, value)| [text(name), value.clone()].concat()).collect();
    pickle(&[b"}(".to_vec(), entries, b"u".to_vec()].concat())
}

/// A pickle of protocol 2 with this body.
pub(crate) fn pickle(body: &[u8]) -> Vec<u8> {
    [&[0x80, 2], body, b"."].concat()
}

/// Four floats, and a dictionary of one tensor of them.
pub(crate) const FOUR: [u8; 16] = [0, 0, 128, 63, 0, 0, 0, 64, 0, 0, 64, 64, 0, 0, 128, 64];

pub(crate) fn good() -> Vec<u8> {
    dict(&[("w", tensor(storage("FloatStorage", "0", 4), 0, &[2, 2], &[2, 1]))])
}
