//! What a torch file may not be: each is refused with its own words, by the real command, in less than two
//! seconds and 256 MiB of address space, without a panic. None of them runs anything.

use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::torch_file::{
    self, FOUR, Member, dict, global, good, int, member, members, pickle, storage, tensor, text, torch_zip,
    tuple, zip_of,
};
use mgpack::internals::checkpoint::torch::probe;
use tempfile::TempDir;

fn one(value: Vec<u8>) -> Vec<u8> {
    dict(&[("w", value)])
}

fn whole(kind: &str, len: i64, start: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    one(tensor(storage(kind, "0", len), start, shape, strides))
}

/// The sound file with one member changed.
fn changed(name: &str, change: impl Fn(&mut Member)) -> Vec<u8> {
    let mut all = members(&good(), &[&FOUR]);
    change(all.iter_mut().find(|member| member.name.ends_with(name)).unwrap());
    zip_of(&all, false)
}

fn with(extra: Member) -> Vec<u8> {
    let mut all = members(&good(), &[&FOUR]);
    all.push(extra);
    zip_of(&all, false)
}

fn deflated(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn call(module: &str, name: &str, argument: &str) -> Vec<u8> {
    [global(module, name), tuple(&[text(argument)]), b"R".to_vec()].concat()
}

/// What it is, its bytes, and words of the error.
fn hostile() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let sound = torch_zip(&good(), &[&FOUR]);
    let joined = |parts: &[&[u8]]| parts.concat();
    let small = |body: &[u8]| torch_zip(&pickle(body), &[&FOUR]);
    let of = |pickle: Vec<u8>| torch_zip(&pickle, &[&FOUR]);
    let stack_global =
        [text("posix"), text("system"), vec![0x93], tuple(&[text("id")]), b"R".to_vec()].concat();
    let bomb = {
        // Sixty lists, each holding the one before it twice.
        let mut body = b"]q\x00".to_vec();
        for place in 1..60u8 {
            body.extend([b'0', b']', b'q', place, b'(', b'h', place - 1, b'h', place - 1, b'e']);
        }
        one(body)
    };
    let keys = |name: &str| dict(&[(name, tensor(storage("FloatStorage", "0", 4), 0, &[4], &[1]))]);
    let hooks = [global("collections", "OrderedDict"), b")R".to_vec()].concat();
    let lazy = tuple(&[
        storage("FloatStorage", "0", 4),
        int(0),
        torch_file::ints(&[4]),
        torch_file::ints(&[1]),
        vec![0x89],
        hooks,
        [b"}".to_vec(), text("neg"), vec![0x88, b's']].concat(),
    ]);
    let lazy = [global("torch._utils", "_rebuild_tensor_v2"), lazy, b"R".to_vec()].concat();
    let twice = [b"}(".to_vec(), text("w"), int(1), text("w"), int(2), b"u".to_vec()].concat();
    let many = |count: usize| {
        let mut all = members(&good(), &[&FOUR]);
        all.extend((0..count).map(|number| member(&format!("a/x{number}"), "")));
        let mut bytes = zip_of(&all, false);
        let at = bytes.len() - 14;
        bytes[at..at + 4].copy_from_slice(&[0xff; 4]);
        bytes
    };
    vec![
        ("an empty file", Vec::new(), "the file is empty"),
        ("seven bytes", b"PK\x03\x04abc".to_vec(), "does not end where the file ends"),
        ("a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "a Git LFS pointer"),
        ("a web page", b"<!DOCTYPE html><html>".to_vec(), "an HTML page"),
        ("a 7z archive", b"7z\xbc\xaf\x27\x1c\0\x04".to_vec(), "not a torch file"),
        // The container.
        ("a cut-off archive", sound[..sound.len() - 30].to_vec(), "does not end where the file ends"),
        ("an executable before it", joined(&[b"MZ", &sound]), "not a torch file"),
        ("bytes after it", joined(&[&sound, b"x"]), "does not end where the file ends"),
        ("two archives", joined(&[&sound, &sound]), "directory is inconsistent"),
        ("a member encrypted", changed("data/0", |member| member.flags = 1), "encrypted"),
        ("bzip2", changed("data/0", |member| member.method = 12), "method 12"),
        ("lzma", changed("data/0", |member| member.method = 14), "method 14"),
        ("zstd", changed("data/0", |member| member.method = 93), "method 93"),
        (
            "another local name",
            changed("data/0", |member| member.local_name = Some("a/data/1".into())),
            "inconsistent",
        ),
        ("another local CRC", changed("data/0", |member| member.local_crc = Some(1)), "inconsistent"),
        ("another length", changed("data/0", |member| member.len = 15), "inconsistent"),
        ("a gap", changed("data/0", |member| member.after = b"hidden".to_vec()), "inconsistent"),
        ("a second pickle", with(member("a/b/data.pkl", good())), "two pickles"),
        ("a member twice", with(member("a/data/0", FOUR)), "member `a/data/0` twice"),
        ("a member elsewhere", with(member("b/data/1", FOUR)), "not in its one folder"),
        ("a path out of it", with(member("a/../x", "")), "unusable name"),
        ("an absolute path", with(member("/x", "")), "unusable name"),
        (
            "two entries of one member",
            zip_of(&[members(&good(), &[&FOUR]), vec![member("a/x", "")]].concat(), true),
            "inconsistent",
        ),
        ("TorchScript", with(member("a/constants.pkl", "")), "TorchScript"),
        ("no pickle", zip_of(&[member("a/version", "3")], false), "no `data.pkl`"),
        ("a pickle at the root", zip_of(&[member("data.pkl", good())], false), "not in its one folder"),
        ("a wrong count of members", many(3), "directory is inconsistent"),
        (
            "a byte order of its own",
            changed("byteorder", |member| *member = torch_file::member("a/byteorder", "middle")),
            "byte order",
        ),
        ("a damaged pickle", changed("data.pkl", |member| member.content[9] ^= 1), "does not have its CRC"),
        (
            "a deflate bomb",
            changed("data.pkl", |member| {
                let zeros = vec![0; 64 << 20];
                (member.crc, member.len, member.method) = (crc32fast::hash(&zeros), 64 << 20, 8);
                member.content = deflated(&zeros);
            }),
            "too large",
        ),
        (
            "a deflate bomb that understates its length",
            changed("data.pkl", |member| {
                (member.len, member.method) = (1 << 20, 8);
                member.content = deflated(&vec![0; 64 << 20]);
            }),
            "inconsistent",
        ),
        (
            "deflated data cut off",
            changed("data.pkl", |member| {
                member.method = 8;
                member.content = deflated(&member.content);
                member.content.truncate(20);
            }),
            "inconsistent",
        ),
        // Code.
        ("os.system", small(&call("os", "system", "id")), "refers to `os.system`"),
        ("posix.system as a value", of(one(call("posix", "system", "id"))), "refers to `posix.system`"),
        ("a global by the stack", of(one(stack_global)), "refers to `posix.system`"),
        ("eval", small(&call("builtins", "eval", "1")), "refers to `builtins.eval`"),
        ("torch's own loader", small(&call("torch", "load", "x")), "refers to `torch.load`"),
        (
            "a module's attribute",
            small(&call("torch._utils", "_rebuild_tensor_v2.__globals__", "x")),
            "refers to `torch._utils.",
        ),
        ("a global behind a newline", small(b"c\nos\nsystem\n."), "refers to"),
        ("an old instance", small(b"(ios\nsystem\n"), "opcode 0x69"),
        ("a class on the stack", small(b"(cos\nsystem\no"), "refers to `os.system`"),
        ("an extension code", small(b"\x82\x01"), "opcode 0x82"),
        ("a persistent id as text", small(b"Pid\n"), "opcode 0x50"),
        ("a picklescan evasion: an unknown opcode after the call", small(b"\xff"), "opcode 0xff"),
        (
            "BUILD on a tensor",
            of(one([tensor(storage("FloatStorage", "0", 4), 0, &[4], &[1]), b"}b".to_vec()].concat())),
            "in a way that torch does not",
        ),
        ("a call of a text", of(one([text("w"), b")R".to_vec()].concat())), "in a way that torch does not"),
        // The machine.
        ("protocol 0", torch_zip(b"(dp0\n.", &[&FOUR]), "begin with its protocol"),
        ("protocol 6", torch_zip(b"\x80\x06}.", &[&FOUR]), "protocol 6"),
        ("no end", torch_zip(b"\x80\x02}", &[&FOUR]), "cut off"),
        ("an empty pickle", torch_zip(b"", &[&FOUR]), "cut off"),
        ("bytes after the end", torch_zip(b"\x80\x02}.x", &[&FOUR]), "1 byte follows"),
        ("nothing to take", small(b"R"), "has not put"),
        ("a mark without values", small(b"(u"), "has not put"),
        ("no mark", small(b"t"), "has not put"),
        ("a value behind a mark", small(b"}(s"), "has not put"),
        (
            "missing arguments",
            of(one([global("torch._utils", "_rebuild_tensor_v2"), b")R".to_vec()].concat())),
            "in a way that torch does not",
        ),
        ("SETITEM on a list", small(b"]NNs"), "has not put"),
        ("an unknown place of the memo", small(b"h\x07"), "has not put"),
        ("a memo of 2^32 places", small(b"Nr\xff\xff\xff\xff"), "places in its memo"),
        ("a text of 4 GiB", small(b"X\xff\xff\xff\xff"), "cut off"),
        ("bytes of 2^64", small(b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff"), "cut off"),
        (
            "200,000 tuples inside each other",
            small(&[&b")"[..], &vec![0x85; 200_000]].concat()),
            "no state dict",
        ),
        ("a bomb of doubled lists", of(bomb), "no tensors"),
        (
            "eight million values",
            small(&[b"]".to_vec(), b"(".to_vec(), vec![b'N'; 8 << 20], b"e".to_vec()].concat()),
            "more than",
        ),
        ("three million lists", small(&b"]0".repeat(3 << 20)), "more than"),
        ("two million marks", small(&vec![b'('; 2 << 20]), "more than"),
        (
            "a dictionary inside itself",
            small(&[b"}q\0".to_vec(), text("state_dict"), b"h\0s".to_vec()].concat()),
            "no tensors",
        ),
        // The state dict.
        ("a list", small(b"]"), "no state dict"),
        ("a lone tensor", small(&tensor(storage("FloatStorage", "0", 4), 0, &[4], &[1])), "no state dict"),
        ("no tensors", small(b"}"), "no tensors"),
        (
            "a number for a name",
            of(pickle(
                &[b"}K\x01".to_vec(), tensor(storage("FloatStorage", "0", 4), 0, &[4], &[1]), b"s".to_vec()]
                    .concat(),
            )),
            "not text",
        ),
        ("an empty name", of(keys("")), "unusable name"),
        ("a newline in a name", of(keys("a\nb")), "unusable name"),
        (
            "a key twice",
            of(dict(&[("w", tensor(storage("FloatStorage", "0", 4), 0, &[4], &[1])), ("w", vec![b'N'])])),
            "twice",
        ),
        ("a key twice beside the state dict", small(&twice), "no tensors"),
        (
            "a tensor in a list",
            of(dict(&[
                ("w", tensor(storage("FloatStorage", "0", 4), 0, &[4], &[1])),
                (
                    "l",
                    [b"](".to_vec(), tensor(storage("FloatStorage", "0", 4), 0, &[4], &[1]), b"e".to_vec()]
                        .concat(),
                ),
            ])),
            "has a tensor inside",
        ),
        // Views.
        ("a negative offset", of(whole("FloatStorage", 4, -1, &[4], &[1])), "in a way that torch does not"),
        ("a negative stride", of(whole("FloatStorage", 4, 3, &[4], &[-1])), "in a way that torch does not"),
        ("a view past its storage", of(whole("FloatStorage", 4, 1, &[4], &[1])), "reaches past"),
        ("a stride past its storage", of(whole("FloatStorage", 4, 0, &[2, 2], &[3, 1])), "reaches past"),
        ("a stride that overflows", of(whole("FloatStorage", 4, 0, &[3], &[i64::MAX])), "reaches past"),
        (
            "a shape that overflows",
            of(whole("FloatStorage", 4, 0, &[1 << 40, 1 << 40], &[0, 0])),
            "too large",
        ),
        (
            "fewer strides than dimensions",
            of(whole("FloatStorage", 4, 0, &[2, 2], &[1])),
            "in a way that torch does not",
        ),
        ("65 dimensions", of(whole("FloatStorage", 4, 0, &[1; 65], &[1; 65])), "dimensions"),
        ("a storage of 8 TB", of(whole("FloatStorage", 1 << 41, 0, &[4], &[1])), "where the pickle says"),
        ("a storage that is too short", of(whole("FloatStorage", 5, 0, &[4], &[1])), "where the pickle says"),
        ("a storage of another type", of(whole("DoubleStorage", 4, 0, &[4], &[1])), "where the pickle says"),
        (
            "a length that overflows",
            of(whole("DoubleStorage", i64::MAX, 0, &[4], &[1])),
            "where the pickle says",
        ),
        (
            "no such storage",
            of(one(tensor(storage("FloatStorage", "7", 4), 0, &[4], &[1]))),
            "not in the file",
        ),
        (
            "a path for a storage",
            of(one(tensor(storage("FloatStorage", "../version", 4), 0, &[4], &[1]))),
            "not in the file",
        ),
        (
            "a storage of two types",
            of(dict(&[
                ("a", tensor(storage("FloatStorage", "0", 4), 0, &[4], &[1])),
                ("b", tensor(storage("IntStorage", "0", 4), 0, &[4], &[1])),
            ])),
            "two types",
        ),
        ("complex128", of(whole("ComplexDoubleStorage", 1, 0, &[1], &[1])), "element type complex128"),
        ("quantized", of(whole("QInt8Storage", 16, 0, &[4], &[1])), "element type qint8"),
        ("an unknown storage", of(whole("FancyStorage", 4, 0, &[4], &[1])), "refers to `torch.FancyStorage`"),
        ("a tensor to be negated", of(one(lazy)), "conjugated or negated"),
        // The form before zip.
        ("a pickle that is no torch file", pickle(b"}"), "not a legacy torch file"),
        ("code in the form before zip", pickle(&call("os", "system", "id")), "refers to `os.system`"),
    ]
}

#[test]
fn the_sound_file_that_the_others_are_made_from_is_accepted() {
    assert_eq!(probe(torch_zip(&good(), &[&FOUR])), Ok(1));
}

#[test]
fn every_hostile_file_is_refused_quickly_in_little_memory() {
    let folder = TempDir::new().unwrap();
    let cases = hostile();
    assert!(cases.len() > 90, "{}", cases.len());
    let mut wrong = Vec::new();
    for (number, (what, bytes, words)) in cases.iter().enumerate() {
        let path = folder.path().join(format!("{number}.bin"));
        fs::write(&path, bytes).unwrap();
        let start = Instant::now();
        let line = "ulimit -v 262144; exec \"$0\" inspect \"$1\"";
        let ran =
            Command::new("sh").args(["-c", line, env!("CARGO_BIN_EXE_mgpack")]).arg(&path).output().unwrap();
        let (took, err) = (start.elapsed(), String::from_utf8_lossy(&ran.stderr).into_owned());
        let good = ran.status.code() == Some(2) && err.starts_with("error: ") && err.contains(words);
        if !good || took > Duration::from_secs(2) {
            wrong.push(format!("{what}: {:?} after {took:?}: {err}", ran.status));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// The storage is covered by two views, each of which is half of it: a reader that checks the CRC only where one
/// view is the whole storage lets the flipped bit pass.
#[test]
fn a_flipped_bit_is_found_whatever_views_there_are() {
    let halves = dict(&[
        ("a", tensor(storage("FloatStorage", "0", 4), 0, &[2], &[1])),
        ("b", tensor(storage("FloatStorage", "0", 4), 2, &[2], &[1])),
    ]);
    let mut all = members(&halves, &[&FOUR]);
    assert_eq!(probe(zip_of(&all, false)), Ok(2));
    all[2].content[15] ^= 1;
    let error = probe(zip_of(&all, false)).unwrap_err();
    assert_eq!(error.to_string(), "the content of member `data/0` does not have its CRC");
}

#[test]
fn more_members_than_sixteen_bits_count_are_read() {
    // zip64's end record, as torch writes it for every file.
    let mut all = members(&good(), &[&FOUR]);
    all.extend((0..70_000).map(|number| member(&format!("a/x{number}"), "")));
    let mut bytes = zip_of(&all, false);
    let end = bytes.split_off(bytes.len() - 22);
    let field = |at: usize| u64::from(u32::from_le_bytes(end[at..at + 4].try_into().unwrap()));
    let place = bytes.len() as u64;
    bytes.extend(b"PK\x06\x06");
    bytes.extend(44u64.to_le_bytes());
    bytes.extend([0; 12]);
    for number in [all.len() as u64, all.len() as u64, field(12), field(16)] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend([&b"PK\x06\x07\0\0\0\0"[..], &place.to_le_bytes(), &1u32.to_le_bytes()].concat());
    bytes.extend([&end[..8], &[0xff; 4], &end[12..]].concat());
    assert_eq!(probe(bytes), Ok(1));
}

#[test]
fn two_thousand_tensors_are_listed_in_a_fifth_of_a_second() {
    let entries: Vec<(String, Vec<u8>)> = (0..2000)
        .map(|number| {
            (
                format!("layer.{number}.w"),
                tensor(storage("FloatStorage", &number.to_string(), 4), 0, &[4], &[1]),
            )
        })
        .collect();
    let entries: Vec<(&str, Vec<u8>)> =
        entries.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("m.bin");
    fs::write(&path, torch_zip(&dict(&entries), &vec![&FOUR[..]; 2000])).unwrap();
    let start = Instant::now();
    let checkpoint = mgpack::internals::checkpoint::Checkpoint::open_file(&path).unwrap();
    let took = start.elapsed();
    assert_eq!(checkpoint.tensors().len(), 2000);
    assert!(took < Duration::from_millis(200), "{took:?}");
}
