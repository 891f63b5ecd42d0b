//! A torch file (`.bin`), written: what `torch.save` makes of a state dict of float16 tensors.
//!
//! Owns the zip container and the pickle in it. Only writes, and only what it made itself: reading untrusted
//! torch files is the checkpoint's part. The bytes depend on nothing but the tensors: fixed timestamps, stored
//! members, each at a multiple of 64 bytes. Source: torch/serialization.py and APPNOTE.TXT of the zip format.

/// Members start at multiples of this, as torch's own writer has it, so that a file can be mapped.
const ALIGNMENT: usize = 64;

/// 1980-01-01 00:00, the first date a zip can name.
const DOS_DATE: u16 = 0x0021;

/// A float16 tensor and the storage it is a view of.
pub(crate) struct HalfTensor {
    /// Its name in the state dict.
    pub(crate) name: String,
    /// Its shape.
    pub(crate) shape: Vec<u32>,
    /// Its strides in elements. They may overlap; the last element must lie in the storage.
    pub(crate) strides: Vec<u32>,
    /// The storage: little-endian float16.
    pub(crate) storage: Vec<u8>,
}

/// The bytes of a torch file named `<stem>.bin`, which holds an ordered dict of `tensors`.
///
/// All together must stay below 4 GiB and 65,534 tensors: this writer has no zip64.
pub(crate) fn to_torch_file(stem: &str, tensors: &[HalfTensor]) -> Vec<u8> {
    let mut zip = Zip::default();
    zip.add(&format!("{stem}/data.pkl"), &to_pickle(tensors));
    zip.add(&format!("{stem}/byteorder"), b"little");
    for (number, tensor) in tensors.iter().enumerate() {
        zip.add(&format!("{stem}/data/{number}"), &tensor.storage);
    }
    zip.add(&format!("{stem}/version"), b"3\n");
    zip.into_bytes()
}

/// Pickle, protocol 2: `OrderedDict([(name, _rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict()))])`.
fn to_pickle(tensors: &[HalfTensor]) -> Vec<u8> {
    let mut pickle = Pickle(vec![0x80, 2]); // PROTO
    pickle.empty_ordered_dict();
    pickle.op(b'('); // MARK
    for (number, tensor) in tensors.iter().enumerate() {
        pickle.text(&tensor.name);
        pickle.global("torch._utils", "_rebuild_tensor_v2");
        pickle.op(b'(');
        pickle.op(b'('); // the storage's persistent id
        pickle.text("storage");
        pickle.global("torch", "HalfStorage");
        pickle.text(&number.to_string());
        pickle.text("cpu");
        pickle.integer((tensor.storage.len() / 2) as u32);
        pickle.op(b't'); // TUPLE
        pickle.op(b'Q'); // BINPERSID
        pickle.integer(0);
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

    /// BININT, which is signed: torch sizes here stay far below 2^31.
    fn integer(&mut self, number: u32) {
        self.op(b'J');
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn tuple(&mut self, numbers: &[u32]) {
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

/// A zip file of stored members.
#[derive(Default)]
struct Zip {
    bytes: Vec<u8>,
    directory: Vec<u8>,
    members: u16,
}

impl Zip {
    fn add(&mut self, name: &str, content: &[u8]) {
        let offset = self.bytes.len() as u32;
        let crc = crc32(content).to_le_bytes();
        let len = (content.len() as u32).to_le_bytes();
        let name_len = (name.len() as u16).to_le_bytes();

        // The padding is an extra field as torch writes it: id "FB", its length, then "Z"s.
        let unpadded = self.bytes.len() + 30 + name.len() + 4;
        let padding = unpadded.next_multiple_of(ALIGNMENT) - unpadded;
        self.bytes.extend_from_slice(b"PK\x03\x04");
        self.bytes.extend_from_slice(&[0; 6]); // version needed, flags, method: stored
        self.bytes.extend_from_slice(&[0; 2]); // time
        self.bytes.extend_from_slice(&DOS_DATE.to_le_bytes());
        self.bytes.extend_from_slice(&[crc, len, len].concat());
        self.bytes.extend_from_slice(&name_len);
        self.bytes.extend_from_slice(&(4 + padding as u16).to_le_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b"FB");
        self.bytes.extend_from_slice(&(padding as u16).to_le_bytes());
        self.bytes.resize(self.bytes.len() + padding, b'Z');
        self.bytes.extend_from_slice(content);

        self.directory.extend_from_slice(b"PK\x01\x02");
        self.directory.extend_from_slice(&[0; 8]); // versions, flags, method
        self.directory.extend_from_slice(&[0; 2]);
        self.directory.extend_from_slice(&DOS_DATE.to_le_bytes());
        self.directory.extend_from_slice(&[crc, len, len].concat());
        self.directory.extend_from_slice(&name_len);
        self.directory.extend_from_slice(&[0; 12]); // extra, comment, disk, attributes
        self.directory.extend_from_slice(&offset.to_le_bytes());
        self.directory.extend_from_slice(name.as_bytes());
        self.members += 1;
    }

    fn into_bytes(mut self) -> Vec<u8> {
        let offset = self.bytes.len() as u32;
        let members = self.members.to_le_bytes();
        self.bytes.extend_from_slice(&self.directory);
        self.bytes.extend_from_slice(b"PK\x05\x06");
        self.bytes.extend_from_slice(&[0; 4]); // disks
        self.bytes.extend_from_slice(&[members, members].concat());
        self.bytes.extend_from_slice(&(self.directory.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&offset.to_le_bytes());
        self.bytes.extend_from_slice(&[0; 2]); // comment
        self.bytes
    }
}

/// CRC-32 as zip has it (polynomial 0xEDB88320, reflected).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| CRC_TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8))
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32_gives_the_check_value_of_its_definition() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn every_member_starts_at_a_multiple_of_64_bytes() {
        let contents: Vec<Vec<u8>> = (0..130u8).map(|len| vec![len ^ 0xa5; usize::from(len) + 8]).collect();
        let mut zip = Zip::default();
        for (number, content) in contents.iter().enumerate() {
            zip.add(&"n".repeat(number + 1), content);
            assert_eq!((zip.bytes.len() - content.len()) % ALIGNMENT, 0, "member {number}");
        }
        let bytes = zip.into_bytes();
        let end = &bytes[bytes.len() - 22..];
        assert_eq!(end[..4], *b"PK\x05\x06");
        assert_eq!(end[8..10], 130u16.to_le_bytes());
    }

    #[test]
    fn one_tensor_gives_the_pickle_that_torch_reads() {
        let tensor =
            HalfTensor { name: "w".to_owned(), shape: vec![2, 3], strides: vec![1, 1], storage: vec![0; 8] };
        let expected: Vec<u8> = [
            &b"\x80\x02ccollections\nOrderedDict\n)R(X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(("[..],
            b"X\x07\0\0\0storagectorch\nHalfStorage\nX\x01\0\0\x000X\x03\0\0\0cpuJ\x04\0\0\0tQ",
            b"J\0\0\0\0(J\x02\0\0\0J\x03\0\0\0t(J\x01\0\0\0J\x01\0\0\0t\x89ccollections\nOrderedDict\n)RtRu.",
        ]
        .concat();
        assert_eq!(to_pickle(&[tensor]), expected);
    }
}
