//! A pickle machine that knows 52 of the 68 opcodes and runs nothing.
//!
//! Owns the opcodes of protocols 2 to 5, the stack and the memo. What globals may be named and what a call of
//! one makes is `objects`'s. Bounded: the text is read once from front to end, every opcode makes at most one
//! object, and objects and values are counted. So no input can hang it, nest it deeply or make it large.
//! Source: pickletools.py and pickle.py of CPython 3.13.

use super::objects::{Arena, Global, Object, Value};
use crate::error::TorchFault;

/// Longest pickle accepted, in bytes. A state dict takes about 250 a tensor.
pub(super) const MAX_PICKLE_LEN: u64 = 32 << 20;

/// Most values on the stack. torch's pickler leaves at most some thousands there.
const MAX_STACK: usize = 1_000_000;

/// Most places of the memo.
const MAX_MEMO: u64 = 2_000_000;

/// Longest module or name of a global. torch's have 40.
const MAX_GLOBAL_LEN: usize = 256;

/// What one pickle holds.
#[derive(Debug)]
pub(super) struct Pickle {
    pub(super) arena: Arena,
    pub(super) root: Value,
    /// Bytes from the start to the end of STOP.
    pub(super) len: usize,
}

/// Reads the pickle at the start of `text`; what follows its end is left to the caller.
pub(super) fn read(text: &[u8]) -> Result<Pickle, TorchFault> {
    run(text, false)
}

/// The same for torch 0.1's files, in which a persistent id is the key of a tensor and not a storage.
pub(super) fn read_with_keys(text: &[u8]) -> Result<Pickle, TorchFault> {
    run(text, true)
}

fn run(text: &[u8], ids_are_keys: bool) -> Result<Pickle, TorchFault> {
    let mut machine = Machine {
        ids_are_keys,
        text,
        at: 0,
        arena: Arena::default(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
    };
    let root = machine.run()?;
    Ok(Pickle { arena: machine.arena, root, len: machine.at })
}

struct Machine<'a> {
    ids_are_keys: bool,
    text: &'a [u8],
    at: usize,
    arena: Arena,
    stack: Vec<Value>,
    /// Heights of the stack at which MARKs are.
    marks: Vec<usize>,
    memo: Vec<Option<Value>>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Value, TorchFault> {
        loop {
            let at = self.at;
            let [code] = self.take()?;
            if at == 0 && code != 0x80 {
                return Err(TorchFault::NotAPickle);
            }
            match code {
                b'.' => return self.finish(at),
                _ => self.step(code, at)?,
            }
        }
    }

    fn finish(&mut self, at: usize) -> Result<Value, TorchFault> {
        match *self.stack.as_slice() {
            [root] if self.marks.is_empty() => Ok(root),
            _ => Err(stack(at)),
        }
    }

    /// Carries out one opcode. Names are those of pickletools.
    fn step(&mut self, code: u8, at: usize) -> Result<(), TorchFault> {
        match code {
            0x80 => match self.take()? {
                [version @ 2..=5] => {
                    let _ = version;
                }
                [version] => return Err(TorchFault::PickleProtocol { version }),
            },
            // FRAME: its length is a hint for buffering.
            0x95 => {
                self.take::<8>()?;
            }
            b'(' => {
                if self.marks.len() >= MAX_STACK {
                    return Err(TorchFault::PickleLimit {
                        what: "marks on its stack",
                        limit: MAX_STACK as u64,
                    });
                }
                self.marks.push(self.stack.len());
            }
            b'0' => {
                self.pop(at)?;
            }
            b'1' => {
                self.pop_mark(at)?;
            }
            b'2' => {
                let top = self.top(at)?;
                self.push(top)?;
            }

            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'J' => {
                let number = i32::from_le_bytes(self.take()?);
                self.push(Value::Int(number.into()))?;
            }
            b'K' => {
                let [number] = self.take()?;
                self.push(Value::Int(number.into()))?;
            }
            b'M' => {
                let number = u16::from_le_bytes(self.take()?);
                self.push(Value::Int(number.into()))?;
            }
            0x8a => {
                let [len] = self.take()?;
                self.integer(len.into())?;
            }
            0x8b => {
                let len = u32::from_le_bytes(self.take()?);
                self.integer(len.into())?;
            }
            b'G' => {
                self.take::<8>()?;
                self.push(Value::Float)?;
            }

            b'X' | b'T' => {
                let len = u32::from_le_bytes(self.take()?);
                self.string(len.into(), code == b'X', at)?;
            }
            0x8c | b'U' => {
                let [len] = self.take()?;
                self.string(len.into(), code == 0x8c, at)?;
            }
            0x8d => {
                let len = u64::from_le_bytes(self.take()?);
                self.string(len, true, at)?;
            }
            b'B' => {
                let len = u32::from_le_bytes(self.take()?);
                self.inert(len.into())?;
            }
            b'C' => {
                let [len] = self.take()?;
                self.inert(len.into())?;
            }
            0x8e | 0x96 => {
                let len = u64::from_le_bytes(self.take()?);
                self.inert(len)?;
            }

            b')' => self.tuple(Vec::new())?,
            b't' => {
                let items = self.pop_mark(at)?;
                self.tuple(items)?;
            }
            0x85..=0x87 => {
                let start = self.floor(usize::from(code - 0x84), at)?;
                let items = self.stack.split_off(start);
                self.tuple(items)?;
            }
            b']' => self.make(Object::List(Vec::new()))?,
            b'l' => {
                let items = self.pop_mark(at)?;
                self.arena.count(items.len())?;
                self.make(Object::List(items))?;
            }
            b'a' => {
                let item = self.pop(at)?;
                self.extend_list(vec![item], at)?;
            }
            b'e' => {
                let items = self.pop_mark(at)?;
                self.extend_list(items, at)?;
            }
            b'}' => self.make(Object::Dict(Vec::new()))?,
            b'd' => {
                let items = self.pop_mark(at)?;
                self.make(Object::Dict(Vec::new()))?;
                self.extend_dict(&items, at)?;
            }
            b's' => {
                let value = self.pop(at)?;
                let key = self.pop(at)?;
                self.extend_dict(&[key, value], at)?;
            }
            b'u' => {
                let items = self.pop_mark(at)?;
                self.extend_dict(&items, at)?;
            }
            // Sets: a checkpoint may have some beside its tensors; they are kept as nothing.
            0x8f => self.make(Object::Inert)?,
            0x90 => {
                self.pop_mark(at)?;
                match self.arena.get(self.top(at)?) {
                    Some(Object::Inert) => {}
                    _ => return Err(stack(at)),
                }
            }
            0x91 => {
                self.pop_mark(at)?;
                self.make(Object::Inert)?;
            }

            b'q' => {
                let [place] = self.take()?;
                self.remember(place.into(), at)?;
            }
            b'r' => {
                let place = u32::from_le_bytes(self.take()?);
                self.remember(place.into(), at)?;
            }
            0x94 => self.remember(self.memo.len() as u64, at)?,
            b'h' => {
                let [place] = self.take()?;
                self.recall(place.into(), at)?;
            }
            b'j' => {
                let place = u32::from_le_bytes(self.take()?);
                self.recall(place as usize, at)?;
            }

            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.global(&module, &name)?;
            }
            0x93 => {
                let (name, module) = (self.pop(at)?, self.pop(at)?);
                let text = |value| self.arena.text(value).map(str::to_owned).ok_or_else(|| stack(at));
                let (module, name) = (text(module)?, text(name)?);
                self.global(&module, &name)?;
            }
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop(at)?, self.pop(at)?);
                match self.arena.call(callable, arguments)? {
                    Some(made) => self.push(made)?,
                    None => return Err(TorchFault::PickleCall { at: at as u64 }),
                }
            }
            // BUILD: an OrderedDict's own attributes (`_metadata`), which are no tensors.
            b'b' => {
                self.pop(at)?;
                match self.arena.get(self.top(at)?) {
                    Some(Object::Dict(_)) => {}
                    _ => return Err(TorchFault::PickleCall { at: at as u64 }),
                }
            }
            b'Q' if self.ids_are_keys => {
                let id = self.pop(at)?;
                let key = self.arena.text(id).ok_or(TorchFault::PickleCall { at: at as u64 })?.into();
                self.make(Object::Key(key))?;
            }
            b'Q' => {
                let id = self.pop(at)?;
                match self.arena.add_storage(id)? {
                    Some(made) => self.push(made)?,
                    None => return Err(TorchFault::PickleCall { at: at as u64 }),
                }
            }
            code => return Err(TorchFault::Opcode { code, at: at as u64 }),
        }
        Ok(())
    }

    /// The next `N` bytes.
    fn take<const N: usize>(&mut self) -> Result<[u8; N], TorchFault> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let bytes = rest.first_chunk().ok_or(TorchFault::PickleCutOff)?;
        self.at += N;
        Ok(*bytes)
    }

    /// The next `len` bytes; nothing is allocated for a length that is not there.
    fn slice(&mut self, len: u64) -> Result<&'a [u8], TorchFault> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let len = usize::try_from(len).map_err(|_| TorchFault::PickleCutOff)?;
        let bytes = rest.get(..len).ok_or(TorchFault::PickleCutOff)?;
        self.at += len;
        Ok(bytes)
    }

    /// The text up to the next newline.
    fn line(&mut self) -> Result<String, TorchFault> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let head = rest.get(..rest.len().min(MAX_GLOBAL_LEN + 1)).unwrap_or_default();
        match head.iter().position(|byte| *byte == b'\n') {
            Some(len) => {
                self.at += len + 1;
                Ok(String::from_utf8_lossy(head.get(..len).unwrap_or_default()).into_owned())
            }
            None if rest.len() <= MAX_GLOBAL_LEN => Err(TorchFault::PickleCutOff),
            None => Err(TorchFault::PickleLimit {
                what: "letters in a global's name",
                limit: MAX_GLOBAL_LEN as u64,
            }),
        }
    }

    fn push(&mut self, value: Value) -> Result<(), TorchFault> {
        if self.stack.len() >= MAX_STACK {
            return Err(TorchFault::PickleLimit { what: "values on its stack", limit: MAX_STACK as u64 });
        }
        self.stack.push(value);
        Ok(())
    }

    fn make(&mut self, object: Object) -> Result<(), TorchFault> {
        let value = self.arena.add(object)?;
        self.push(value)
    }

    fn tuple(&mut self, items: Vec<Value>) -> Result<(), TorchFault> {
        self.arena.count(items.len())?;
        self.make(Object::Tuple(items.into()))
    }

    fn integer(&mut self, len: u64) -> Result<(), TorchFault> {
        let bytes = self.slice(len)?;
        if bytes.len() > 8 {
            return self.make(Object::Big(bytes.into()));
        }
        let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        for (wide, byte) in wide.iter_mut().zip(bytes) {
            *wide = *byte;
        }
        self.push(Value::Int(i64::from_le_bytes(wide)))
    }

    /// A text. Python 2's byte strings are ASCII where torch wrote them; other bytes have no meaning here.
    fn string(&mut self, len: u64, is_unicode: bool, at: usize) -> Result<(), TorchFault> {
        let bytes = self.slice(len)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => self.make(Object::Text(text.into())),
            Err(_) if is_unicode => Err(TorchFault::PickleText { at: at as u64 }),
            Err(_) => self.make(Object::Inert),
        }
    }

    fn inert(&mut self, len: u64) -> Result<(), TorchFault> {
        self.slice(len)?;
        self.make(Object::Inert)
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), TorchFault> {
        match Global::named(module, name) {
            Some(global) => self.make(Object::Global(global)),
            None => Err(TorchFault::Global { module: module.to_owned(), name: name.to_owned() }),
        }
    }

    /// The lowest place that may be popped: that of the last MARK.
    fn base(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    /// The place `count` below the top, if no MARK lies between.
    fn floor(&self, count: usize, at: usize) -> Result<usize, TorchFault> {
        self.stack.len().checked_sub(count).filter(|place| *place >= self.base()).ok_or_else(|| stack(at))
    }

    fn top(&self, at: usize) -> Result<Value, TorchFault> {
        let place = self.floor(1, at)?;
        self.stack.get(place).copied().ok_or_else(|| stack(at))
    }

    fn pop(&mut self, at: usize) -> Result<Value, TorchFault> {
        self.floor(1, at)?;
        self.stack.pop().ok_or_else(|| stack(at))
    }

    fn pop_mark(&mut self, at: usize) -> Result<Vec<Value>, TorchFault> {
        let base = self.marks.pop().ok_or_else(|| stack(at))?;
        Ok(self.stack.split_off(base.min(self.stack.len())))
    }

    fn extend_list(&mut self, items: Vec<Value>, at: usize) -> Result<(), TorchFault> {
        self.arena.count(items.len())?;
        let top = self.top(at)?;
        match self.arena.get_mut(top) {
            Some(Object::List(list)) => list.extend(items),
            _ => return Err(stack(at)),
        }
        Ok(())
    }

    fn extend_dict(&mut self, items: &[Value], at: usize) -> Result<(), TorchFault> {
        self.arena.count(items.len())?;
        let (pairs, rest) = items.as_chunks::<2>();
        let top = self.top(at)?;
        match self.arena.get_mut(top) {
            Some(Object::Dict(dict)) if rest.is_empty() => {
                dict.extend(pairs.iter().map(|[key, value]| (*key, *value)));
            }
            _ => return Err(stack(at)),
        }
        Ok(())
    }

    fn remember(&mut self, place: u64, at: usize) -> Result<(), TorchFault> {
        if place >= MAX_MEMO {
            return Err(TorchFault::PickleLimit { what: "places in its memo", limit: MAX_MEMO });
        }
        let (place, top) = (place as usize, self.top(at)?);
        if place >= self.memo.len() {
            self.memo.resize(place + 1, None);
        }
        if let Some(slot) = self.memo.get_mut(place) {
            *slot = Some(top);
        }
        Ok(())
    }

    fn recall(&mut self, place: usize, at: usize) -> Result<(), TorchFault> {
        let value = self.memo.get(place).copied().flatten().ok_or_else(|| stack(at))?;
        self.push(value)
    }
}

/// An opcode found something else on the stack, or less, than it needs.
fn stack(at: usize) -> TorchFault {
    TorchFault::PickleStack { at: at as u64 }
}
