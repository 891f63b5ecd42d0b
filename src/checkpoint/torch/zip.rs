//! The zip archive around a torch file, read strictly: one directory, no byte outside it, nothing ambiguous.
//!
//! Owns the directory and the local headers; reads no member. A zip can be read from its end (by its directory)
//! or from its start (by its local headers), and archives in which the two differ show one content to a scanner
//! and another to a loader. So both are read, must agree, and must cover the file from its first byte to its
//! last. Source: APPNOTE.TXT 6.3.10 of the zip format, and what torch's own writer and Python's zipfile make.

use std::collections::HashSet;

use super::{ReadAt, TorchReadFault};
use crate::checkpoint::limits::Left;
use crate::error::TorchFault;

/// Longest directory accepted, in bytes. 300,000 members with torch's names have this.
pub(super) const MAX_DIRECTORY_LEN: u64 = 32 << 20;

/// Longest member name accepted, in bytes.
const MAX_MEMBER_NAME_LEN: usize = 512;

const END_LEN: u64 = 22;
const LOCATOR_LEN: u64 = 20;
const END64_LEN: u64 = 56;
const ENTRY_LEN: usize = 46;
const LOCAL_LEN: usize = 30;

/// Flags of a member: encrypted; sizes in a descriptor after the data; strong encryption; masked headers.
const ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;
const DESCRIPTOR: u16 = 1 << 3;

/// A file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// Its name without the archive's prefix: `data.pkl`, `data/0`.
    pub(super) name: String,
    /// How its bytes are stored.
    pub(super) method: Method,
    /// CRC-32 of its content.
    pub(super) crc: u32,
    /// Bytes in the archive.
    pub(super) stored_len: u64,
    /// Bytes of its content.
    pub(super) len: u64,
    /// Where its bytes begin, from the start of the file.
    pub(super) offset: u64,
}

/// How a member's bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// As they are.
    Stored,
    /// Raw deflate.
    Deflated,
}

/// Reads and checks the archive in `file`, which is `file_len` bytes long. Members are sorted by place.
pub(super) fn read(file: &dyn ReadAt, file_len: u64, left: &mut Left) -> Result<Vec<Member>, TorchReadFault> {
    let end = read_end(file, file_len)?;
    left.take_text(end.directory_len).map_err(TorchFault::from)?;
    let mut directory = vec![0; end.directory_len as usize];
    file.read_exact_at(&mut directory, end.directory_start)?;
    let mut entries = parse_directory(&directory, end.members)?;
    drop(directory);
    check_names(&mut entries)?;
    entries.sort_by_key(|entry| entry.local_start);
    let mut members = Vec::with_capacity(entries.len());
    let mut at = 0;
    for index in 0..entries.len() {
        let next = entries.get(index + 1).map_or(end.directory_start, |next| next.local_start);
        let Some(entry) = entries.get_mut(index) else { break };
        if entry.local_start != at {
            let (name, start) = (entry.member.name.clone(), entry.local_start);
            return Err(TorchFault::MemberPlace { name, expected: at, start }.into());
        }
        read_local(file, entry, next)?;
        at = next;
        members.push(std::mem::replace(&mut entry.member, Member::none()));
    }
    if at != end.directory_start {
        return Err(TorchFault::ZipDirectory { what: "it does not begin where the last member ends" }.into());
    }
    Ok(members)
}

impl Member {
    fn none() -> Self {
        Self { name: String::new(), method: Method::Stored, crc: 0, stored_len: 0, len: 0, offset: 0 }
    }
}

/// What the records at the end of the file say.
struct End {
    members: u64,
    directory_start: u64,
    directory_len: u64,
}

/// Reads the end record, which must be the file's last bytes, and zip64's where it is there.
fn read_end(file: &dyn ReadAt, file_len: u64) -> Result<End, TorchReadFault> {
    let bad = |what| TorchReadFault::from(TorchFault::ZipDirectory { what });
    let tail_len = file_len.min(END_LEN + LOCATOR_LEN);
    let mut tail = vec![0; tail_len as usize];
    file.read_exact_at(&mut tail, file_len - tail_len)?;
    let Some(end) = tail.len().checked_sub(END_LEN as usize).and_then(|start| tail.get(start..)) else {
        return Err(TorchFault::NoZipEnd.into());
    };
    let mut fields = Fields(end);
    if fields.u32() != Some(0x0605_4b50) || end.get(20..22) != Some(&[0, 0]) {
        return Err(TorchFault::NoZipEnd.into());
    }
    let disks = [fields.u16(), fields.u16()];
    let counts = [fields.u16(), fields.u16()];
    let (Some(len), Some(start)) = (fields.u32(), fields.u32()) else {
        return Err(bad("its end is cut off"));
    };
    if counts[0] != counts[1] || disks.iter().any(|disk| !matches!(disk, Some(0 | 0xffff))) {
        return Err(bad("it is split over several disks"));
    }
    let small = (u64::from(counts[0].unwrap_or(0)), u64::from(len), u64::from(start));
    let end_start = file_len - END_LEN;
    let locator = tail.get(..LOCATOR_LEN as usize).filter(|locator| locator.starts_with(b"PK\x06\x07"));
    let (found, directory_end) = match locator {
        Some(locator) if tail_len == END_LEN + LOCATOR_LEN => {
            read_end64(file, locator, end_start - LOCATOR_LEN, small)?
        }
        _ => (small, end_start),
    };
    let (members, directory_len, directory_start) = found;
    if directory_start.checked_add(directory_len) != Some(directory_end) {
        return Err(bad("it does not end where the end record begins"));
    }
    if directory_len > MAX_DIRECTORY_LEN {
        return Err(TorchFault::TooLarge {
            what: "the zip directory",
            len: directory_len,
            limit: MAX_DIRECTORY_LEN,
        }
        .into());
    }
    // A count that the directory cannot hold would be an allocation out of nothing.
    if members > directory_len / ENTRY_LEN as u64 {
        return Err(bad("it counts more members than it has room for"));
    }
    Ok(End { members, directory_start, directory_len })
}

/// Reads zip64's end record, which must be just before its locator. Gives members, length, start; and where
/// the record begins.
fn read_end64(
    file: &dyn ReadAt,
    locator: &[u8],
    locator_start: u64,
    small: (u64, u64, u64),
) -> Result<((u64, u64, u64), u64), TorchReadFault> {
    let bad = || TorchReadFault::from(TorchFault::ZipDirectory { what: "its zip64 records disagree" });
    let mut fields = Fields(locator.get(4..).unwrap_or_default());
    let (Some(0), Some(start), Some(1)) = (fields.u32(), fields.u64(), fields.u32()) else {
        return Err(bad());
    };
    if start.checked_add(END64_LEN) != Some(locator_start) {
        return Err(bad());
    }
    let mut record = [0; END64_LEN as usize];
    file.read_exact_at(&mut record, start)?;
    let mut fields = Fields(&record);
    if fields.u32() != Some(0x0606_4b50) || fields.u64() != Some(END64_LEN - 12) {
        return Err(bad());
    }
    fields.skip(4); // versions
    if (fields.u32(), fields.u32()) != (Some(0), Some(0)) {
        return Err(bad());
    }
    let (Some(here), Some(members), Some(len), Some(at)) =
        (fields.u64(), fields.u64(), fields.u64(), fields.u64())
    else {
        return Err(bad());
    };
    // The short record says the same, or that the number does not fit in it.
    let agrees = |short: u64, long: u64, most: u64| short == long || short == most;
    let (most16, most32) = (u64::from(u16::MAX), u64::from(u32::MAX));
    if here != members
        || !agrees(small.0, members, most16)
        || !agrees(small.1, len, most32)
        || !agrees(small.2, at, most32)
    {
        return Err(bad());
    }
    Ok(((members, len, at), start))
}

/// A member by its directory entry.
struct Entry {
    member: Member,
    flags: u16,
    local_start: u64,
    raw_method: u16,
    full_name: Vec<u8>,
}

fn parse_directory(mut rest: &[u8], members: u64) -> Result<Vec<Entry>, TorchFault> {
    let cut = || TorchFault::ZipDirectory { what: "an entry is cut off" };
    let mut entries = Vec::with_capacity(members as usize);
    for _ in 0..members {
        let (head, after) = rest.split_at_checked(ENTRY_LEN).ok_or_else(cut)?;
        let mut fields = Fields(head);
        if fields.u32() != Some(0x0201_4b50) {
            return Err(TorchFault::ZipDirectory { what: "an entry has no signature" });
        }
        fields.skip(4); // versions
        let mut short = || fields.u16().unwrap_or(0);
        let (flags, raw_method) = (short(), short());
        fields.skip(4); // time
        let mut long = || fields.u32().unwrap_or(0);
        let (crc, stored_len, len) = (long(), u64::from(long()), u64::from(long()));
        let mut short = || usize::from(fields.u16().unwrap_or(0));
        let (name_len, extra_len, comment_len) = (short(), short(), short());
        let disk = short();
        fields.skip(6); // attributes
        let local_start = u64::from(fields.u32().unwrap_or(0));
        let (name, after) = after.split_at_checked(name_len).ok_or_else(cut)?;
        let (extra, after) = after.split_at_checked(extra_len).ok_or_else(cut)?;
        let (_, after) = after.split_at_checked(comment_len).ok_or_else(cut)?;
        rest = after;
        let full_name = name.to_vec();
        let name = member_name(name)?;
        let mut sizes = [len, stored_len, local_start];
        widen(&mut sizes, extra).ok_or_else(|| differs(&name, "its zip64 field is not sound"))?;
        let [len, stored_len, local_start] = sizes;
        if flags & ENCRYPTED != 0 {
            return Err(TorchFault::Encrypted { name });
        }
        if disk != 0 && disk != 0xffff {
            return Err(TorchFault::ZipDirectory { what: "it is split over several disks" });
        }
        let method = match raw_method {
            0 => Method::Stored,
            8 => Method::Deflated,
            method => return Err(TorchFault::Method { name, method }),
        };
        if method == Method::Stored && len != stored_len {
            return Err(differs(&name, "it is stored as it is, but its two lengths differ"));
        }
        let member = Member { name, method, crc, stored_len, len, offset: 0 };
        entries.push(Entry { member, flags, local_start, raw_method, full_name });
    }
    if rest.is_empty() {
        Ok(entries)
    } else {
        Err(TorchFault::ZipDirectory { what: "something follows its last entry" })
    }
}

/// Takes the numbers that did not fit in 32 bits from zip64's extra field, in their fixed order.
fn widen(sizes: &mut [u64], mut extra: &[u8]) -> Option<()> {
    let most = u64::from(u32::MAX);
    let mut seen = false;
    while extra.len() >= 4 {
        let mut head = Fields(extra);
        let (id, len) = (head.u16()?, usize::from(head.u16()?));
        let (body, after) = extra.get(4..)?.split_at_checked(len)?;
        extra = after;
        if id == 1 {
            if std::mem::replace(&mut seen, true) {
                return None;
            }
            let mut fields = Fields(body);
            for size in sizes.iter_mut().filter(|size| **size == most) {
                *size = fields.u64()?;
            }
        }
    }
    // Without the field a number of all ones is itself.
    Some(())
}

/// A member's name as text that is a plain path.
fn member_name(name: &[u8]) -> Result<String, TorchFault> {
    let bad = || TorchFault::MemberName { name: String::from_utf8_lossy(name).into_owned() };
    let text = std::str::from_utf8(name).map_err(|_| bad())?;
    let folder = text.strip_suffix('/').unwrap_or(text);
    let plain = name.len() <= MAX_MEMBER_NAME_LEN
        && !text.contains(['\\', ':'])
        && !text.chars().any(char::is_control)
        && folder.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if plain { Ok(text.to_owned()) } else { Err(bad()) }
}

/// Every name once, all below one folder, whose name is then taken away. One `data.pkl`.
fn check_names(entries: &mut [Entry]) -> Result<(), TorchFault> {
    let mut seen = HashSet::with_capacity(entries.len());
    if let Some(twice) = entries.iter().find(|entry| !seen.insert(entry.member.name.as_str())) {
        return Err(TorchFault::DuplicateMember { name: twice.member.name.clone() });
    }
    drop(seen);
    let is_pickle = |name: &str| name == "data.pkl" || name.ends_with("/data.pkl");
    let mut pickles = entries.iter().map(|entry| entry.member.name.as_str()).filter(|name| is_pickle(name));
    let Some(pickle) = pickles.next() else { return Err(TorchFault::NoPickle) };
    if let Some(second) = pickles.next() {
        return Err(TorchFault::TwoPickles { first: pickle.to_owned(), second: second.to_owned() });
    }
    let prefix = pickle.strip_suffix("data.pkl").unwrap_or_default().to_owned();
    if prefix.trim_end_matches('/').contains('/') || prefix.is_empty() {
        return Err(TorchFault::MemberOutside { name: pickle.to_owned() });
    }
    for entry in entries {
        match entry.member.name.strip_prefix(prefix.as_str()) {
            Some(name) => entry.member.name = name.to_owned(),
            None => return Err(TorchFault::MemberOutside { name: std::mem::take(&mut entry.member.name) }),
        }
        let name = entry.member.name.as_str();
        if name == "constants.pkl" || name.starts_with("code/") {
            return Err(TorchFault::TorchScript);
        }
        if (name.is_empty() || name.ends_with('/')) && entry.member.len != 0 {
            return Err(differs(name, "it is a folder with content"));
        }
    }
    Ok(())
}

/// Holds a member's local header against its directory entry and finds where its bytes begin. All must end at
/// `next`, where the next member or the directory begins.
fn read_local(file: &dyn ReadAt, entry: &mut Entry, next: u64) -> Result<(), TorchReadFault> {
    let Entry { member, flags, local_start, raw_method, full_name } = entry;
    let wrong = |name: &str, what| TorchReadFault::from(differs(name, what));
    let reach = (LOCAL_LEN + full_name.len()) as u64;
    if local_start.checked_add(reach).is_none_or(|end| end > next) {
        return Err(wrong(&member.name, "its local header is cut off"));
    }
    let mut head = vec![0; reach as usize];
    file.read_exact_at(&mut head, *local_start)?;
    let mut fields = Fields(&head);
    if fields.u32() != Some(0x0403_4b50) {
        return Err(wrong(&member.name, "it has no local header"));
    }
    fields.skip(2); // version
    let (Some(local_flags), Some(method)) = (fields.u16(), fields.u16()) else {
        return Err(wrong(&member.name, "its local header is cut off"));
    };
    fields.skip(4); // time
    let (crc, stored_len, len) = (fields.u32(), fields.u32(), fields.u32());
    let (name_len, extra_len) = (fields.u16().unwrap_or(0), u64::from(fields.u16().unwrap_or(0)));
    if usize::from(name_len) != full_name.len() || head.get(LOCAL_LEN..) != Some(full_name.as_slice()) {
        return Err(wrong(&member.name, "its local header has another name"));
    }
    let has_descriptor = *flags & DESCRIPTOR != 0;
    if method != *raw_method
        || local_flags & ENCRYPTED != 0
        || (local_flags & DESCRIPTOR != 0) != has_descriptor
    {
        return Err(wrong(&member.name, "its local header has another method or other flags"));
    }
    let offset = *local_start + reach + extra_len;
    let data_end = offset.checked_add(member.stored_len).filter(|end| *end <= next);
    let Some(data_end) = data_end else {
        return Err(wrong(&member.name, "it reaches into what follows"));
    };
    let mut extra = vec![0; extra_len as usize];
    file.read_exact_at(&mut extra, *local_start + reach)?;
    let mut sizes = [u64::from(len.unwrap_or(0)), u64::from(stored_len.unwrap_or(0))];
    widen(&mut sizes, &extra).ok_or_else(|| wrong(&member.name, "its local zip64 field is not sound"))?;
    let told = (crc.unwrap_or(0), sizes[1], sizes[0]);
    let real = (member.crc, member.stored_len, member.len);
    // With a descriptor the header may leave all three open.
    if told != real && !(has_descriptor && told == (0, 0, 0)) {
        return Err(wrong(&member.name, "its local header has another length or CRC"));
    }
    if has_descriptor {
        check_descriptor(file, member, data_end, next)?;
    } else if data_end != next {
        return Err(wrong(&member.name, "bytes that belong to no member follow it"));
    }
    member.offset = offset;
    Ok(())
}

/// The descriptor after a member's data: CRC and lengths, of 32 or 64 bits, with or without a signature.
fn check_descriptor(file: &dyn ReadAt, member: &Member, start: u64, next: u64) -> Result<(), TorchReadFault> {
    let fault = || TorchReadFault::from(differs(&member.name, "what follows it is not its descriptor"));
    let len = next - start;
    if !matches!(len, 12 | 16 | 20 | 24) {
        return Err(fault());
    }
    let mut bytes = [0; 24];
    let bytes = bytes.get_mut(..len as usize).ok_or_else(fault)?;
    file.read_exact_at(bytes, start)?;
    let body =
        if matches!(len, 16 | 24) { bytes.strip_prefix(b"PK\x07\x08").ok_or_else(fault)? } else { bytes };
    let mut fields = Fields(body);
    let crc = fields.u32();
    let (stored_len, content_len) = if len >= 20 {
        (fields.u64(), fields.u64())
    } else {
        (fields.u32().map(u64::from), fields.u32().map(u64::from))
    };
    let good =
        crc == Some(member.crc) && stored_len == Some(member.stored_len) && content_len == Some(member.len);
    if good { Ok(()) } else { Err(fault()) }
}

fn differs(name: &str, what: &'static str) -> TorchFault {
    TorchFault::Member { name: name.to_owned(), what }
}

/// Little-endian numbers, one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }
    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
    fn skip(&mut self, len: usize) {
        self.0 = self.0.get(len..).unwrap_or_default();
    }
}
