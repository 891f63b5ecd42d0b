//! A torch file (`.bin`), written: what `torch.save` makes of a state dict.
//!
//! Owns the zip container and the pickle in it. Only writes: reading torch files of others is `checkpoint::torch`.
//! The bytes depend on nothing but the tensors: fixed timestamps, stored members, each at a multiple of 64 bytes.
//! Source: torch/serialization.py and APPNOTE.TXT of the zip format.

use std::io::{self, Write};

use crate::tensor::{Dtype, element_len};

/// Members start at multiples of this, as torch's own writer has it, so that a file can be mapped.
const ALIGNMENT: usize = 64;

/// 1980-01-01 00:00, the first date a zip can name.
const DOS_DATE: u16 = 0x0021;

/// Flag of a member whose lengths and CRC follow its data.
const DESCRIPTOR: u16 = 1 << 3;

/// Longest file written, in bytes: this writer has no zip64.
pub(crate) const MAX_FILE_LEN: u64 = (1 << 32) - (1 << 26);

/// Most storages: the archive counts its members in 16 bits.
pub(crate) const MAX_STORAGES: usize = 65_000;

/// A storage of a torch file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewStorage {
    /// Element type; one that [`storage_class`] knows.
    pub(crate) dtype: Dtype,
    /// Elements.
    pub(crate) len: u64,
}

/// A tensor of a torch file: a view of a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewTensor {
    /// Its name in the state dict.
    pub(crate) name: String,
    /// Index of its storage.
    pub(crate) storage: usize,
    /// Its first element in the storage.
    pub(crate) start: u64,
    /// Its shape.
    pub(crate) shape: Vec<u64>,
    /// Its strides in elements. They may overlap; the last element must lie in the storage.
    pub(crate) strides: Vec<u64>,
}

/// torch's class of storages of a type; `None` for types that its pickles name in another way.
pub(crate) fn storage_class(dtype: Dtype) -> Option<&'static str> {
    Some(match dtype {
        Dtype::F64 => "DoubleStorage",
        Dtype::F32 => "FloatStorage",
        Dtype::F16 => "HalfStorage",
        Dtype::BF16 => "BFloat16Storage",
        Dtype::I64 => "LongStorage",
        Dtype::I32 => "IntStorage",
        Dtype::I16 => "ShortStorage",
        Dtype::I8 => "CharStorage",
        Dtype::U8 => "ByteStorage",
        Dtype::BOOL => "BoolStorage",
        _ => return None,
    })
}

/// Writes the torch file named `<stem>.bin` with an ordered dict of `tensors`. `fill` writes the bytes of a
/// storage, little-endian, exactly as many as it has.
///
/// All together must stay below [`MAX_FILE_LEN`] and [`MAX_STORAGES`].
pub(crate) fn write<W: Write, E: From<io::Error>>(
    out: W,
    stem: &str,
    storages: &[NewStorage],
    tensors: &[NewTensor],
    mut fill: impl FnMut(usize, &mut dyn Write) -> Result<(), E>,
) -> Result<W, E> {
    let mut zip = Zip { out, len: 0, directory: Vec::new(), members: 0 };
    zip.add(&format!("{stem}/data.pkl"), &to_pickle(storages, tensors))?;
    zip.add(&format!("{stem}/byteorder"), b"little")?;
    for (number, storage) in storages.iter().enumerate() {
        let len = storage.len * element_len(storage.dtype).unwrap_or(1);
        zip.stream(&format!("{stem}/data/{number}"), len, |out| fill(number, out))?;
    }
    zip.add(&format!("{stem}/version"), b"3\n")?;
    Ok(zip.finish()?)
}

/// Pickle, protocol 2: `OrderedDict([(name, _rebuild_tensor_v2(storage, start, shape, strides, False, OrderedDict()))])`.
fn to_pickle(storages: &[NewStorage], tensors: &[NewTensor]) -> Vec<u8> {
    let mut pickle = Pickle(vec![0x80, 2]); // PROTO
    pickle.empty_ordered_dict();
    pickle.op(b'('); // MARK
    for tensor in tensors {
        let Some(storage) = storages.get(tensor.storage) else { continue };
        pickle.text(&tensor.name);
        pickle.global("torch._utils", "_rebuild_tensor_v2");
        pickle.op(b'(');
        pickle.op(b'('); // the storage's persistent id
        pickle.text("storage");
        pickle.global("torch", storage_class(storage.dtype).unwrap_or_default());
        pickle.text(&tensor.storage.to_string());
        pickle.text("cpu");
        pickle.integer(storage.len);
        pickle.op(b't'); // TUPLE
        pickle.op(b'Q'); // BINPERSID
        pickle.integer(tensor.start);
        pickle.tuple(&tensor.shape);
        pickle.tuple(&tensor.strides);
        pickle.op(0x89); // NEWFALSE: requires no gradient
        pickle.empty_ordered_dict(); // no backward hooks
        pickle.op(b't');
        pickle.op(b'R'); // REDUCE
    }
    pickle.op(b'u'); // SETITEMS
    pickle.op(b'.'); // STOP
    pickle.0
}

struct Pickle(Vec<u8>);

impl Pickle {
    fn op(&mut self, code: u8) {
        self.0.push(code);
    }

    fn global(&mut self, module: &str, name: &str) {
        self.op(b'c');
        self.0.extend_from_slice(format!("{module}\n{name}\n").as_bytes());
    }

    fn text(&mut self, text: &str) {
        self.op(b'X');
        self.0.extend_from_slice(&(text.len() as u32).to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
    }

    /// BININT, or LONG1 where that is too short.
    fn integer(&mut self, number: u64) {
        match i32::try_from(number) {
            Ok(number) => {
                self.op(b'J');
                self.0.extend_from_slice(&number.to_le_bytes());
            }
            Err(_) => {
                self.0.extend_from_slice(&[0x8a, 9]);
                self.0.extend_from_slice(&number.to_le_bytes());
                self.op(0); // the sign
            }
        }
    }

    fn tuple(&mut self, numbers: &[u64]) {
        self.op(b'(');
        numbers.iter().for_each(|&number| self.integer(number));
        self.op(b't');
    }

    fn empty_ordered_dict(&mut self) {
        self.global("collections", "OrderedDict");
        self.op(b')'); // EMPTY_TUPLE
        self.op(b'R');
    }
}

/// A zip file of stored members, being written.
struct Zip<W> {
    out: W,
    /// Bytes written.
    len: u64,
    directory: Vec<u8>,
    members: u16,
}

impl<W: Write> Zip<W> {
    /// Adds a member whose content is known.
    fn add(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let offset = self.len;
        let crc = crc32fast::hash(content);
        self.head(name, 0, crc, content.len() as u64)?;
        self.put(content)?;
        self.list(name, 0, crc, content.len() as u64, offset);
        Ok(())
    }

    /// Adds a member of `len` bytes that `fill` writes; its CRC follows it, as torch's own writer has it.
    fn stream<E: From<io::Error>>(
        &mut self,
        name: &str,
        len: u64,
        fill: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<(), E> {
        let offset = self.len;
        self.head(name, DESCRIPTOR, 0, 0)?;
        let mut member = Counted { out: &mut self.out, hasher: crc32fast::Hasher::new(), len: 0 };
        fill(&mut member)?;
        if member.len != len {
            return Err(io::Error::from(io::ErrorKind::InvalidData).into());
        }
        let crc = member.hasher.finalize();
        self.len += len;
        let short = (len as u32).to_le_bytes();
        self.put(&[&b"PK\x07\x08"[..], &crc.to_le_bytes(), &short, &short].concat())?;
        self.list(name, DESCRIPTOR, crc, len, offset);
        Ok(())
    }

    /// The local header, padded so that the content is aligned.
    fn head(&mut self, name: &str, flags: u16, crc: u32, len: u64) -> io::Result<()> {
        // The padding is an extra field as torch writes it: id "FB", its length, then "Z"s.
        let unpadded = self.len as usize + 30 + name.len() + 4;
        let padding = unpadded.next_multiple_of(ALIGNMENT) - unpadded;
        let len = (len as u32).to_le_bytes();
        let mut head = b"PK\x03\x04\0\0".to_vec(); // version needed
        head.extend_from_slice(&flags.to_le_bytes());
        head.extend_from_slice(&[0; 4]); // method: stored; time
        head.extend_from_slice(&DOS_DATE.to_le_bytes());
        head.extend_from_slice(&[crc.to_le_bytes(), len, len].concat());
        head.extend_from_slice(&(name.len() as u16).to_le_bytes());
        head.extend_from_slice(&(4 + padding as u16).to_le_bytes());
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b"FB");
        head.extend_from_slice(&(padding as u16).to_le_bytes());
        head.resize(head.len() + padding, b'Z');
        self.put(&head)
    }

    /// The entry in the directory.
    fn list(&mut self, name: &str, flags: u16, crc: u32, len: u64, offset: u64) {
        let len = (len as u32).to_le_bytes();
        self.directory.extend_from_slice(b"PK\x01\x02");
        self.directory.extend_from_slice(&[0; 4]); // versions
        self.directory.extend_from_slice(&flags.to_le_bytes());
        self.directory.extend_from_slice(&[0; 4]); // method, time
        self.directory.extend_from_slice(&DOS_DATE.to_le_bytes());
        self.directory.extend_from_slice(&[crc.to_le_bytes(), len, len].concat());
        self.directory.extend_from_slice(&(name.len() as u16).to_le_bytes());
        self.directory.extend_from_slice(&[0; 12]); // extra, comment, disk, attributes
        self.directory.extend_from_slice(&(offset as u32).to_le_bytes());
        self.directory.extend_from_slice(name.as_bytes());
        self.members += 1;
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn finish(mut self) -> io::Result<W> {
        let offset = self.len as u32;
        let members = self.members.to_le_bytes();
        let directory = std::mem::take(&mut self.directory);
        self.put(&directory)?;
        let mut end = b"PK\x05\x06\0\0\0\0".to_vec(); // disks
        end.extend_from_slice(&[members, members].concat());
        end.extend_from_slice(&(directory.len() as u32).to_le_bytes());
        end.extend_from_slice(&offset.to_le_bytes());
        end.extend_from_slice(&[0; 2]); // comment
        self.put(&end)?;
        Ok(self.out)
    }
}

/// What a member's bytes pass through.
struct Counted<'a, W> {
    out: &'a mut W,
    hasher: crc32fast::Hasher,
    len: u64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_starts_at_a_multiple_of_64_bytes() {
        let contents: Vec<Vec<u8>> = (0..130u8).map(|len| vec![len ^ 0xa5; usize::from(len) + 8]).collect();
        let mut zip = Zip { out: Vec::new(), len: 0, directory: Vec::new(), members: 0 };
        for (number, content) in contents.iter().enumerate() {
            zip.add(&"n".repeat(number + 1), content).unwrap();
            assert_eq!((zip.out.len() - content.len()) % ALIGNMENT, 0, "member {number}");
        }
        let bytes = zip.finish().unwrap();
        let end = &bytes[bytes.len() - 22..];
        assert_eq!(end[..4], *b"PK\x05\x06");
        assert_eq!(end[8..10], 130u16.to_le_bytes());
    }

    #[test]
    fn one_tensor_gives_the_pickle_that_torch_reads() {
        let storage = NewStorage { dtype: Dtype::F16, len: 4 };
        let tensor =
            NewTensor { name: "w".to_owned(), storage: 0, start: 0, shape: vec![2, 3], strides: vec![1, 1] };
        let expected: Vec<u8> = [
            &b"\x80\x02ccollections\nOrderedDict\n)R(X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(("[..],
            b"X\x07\0\0\0storagectorch\nHalfStorage\nX\x01\0\0\x000X\x03\0\0\0cpuJ\x04\0\0\0tQ",
            b"J\0\0\0\0(J\x02\0\0\0J\x03\0\0\0t(J\x01\0\0\0J\x01\0\0\0t\x89ccollections\nOrderedDict\n)RtRu.",
        ]
        .concat();
        assert_eq!(to_pickle(&[storage], &[tensor]), expected);
    }
}
