//! The text of a dump, taken back: what `restore-md` reads.
//!
//! Invariants:
//! - The text is anybody's: every field is checked, in the order in which [`super::dump`] prints
//!   them, and what is missing, doubled, out of range or contradicts another field is an error that
//!   names its line.
//! - Memory is in proportion to the text, whatever sizes the text claims.

use std::num::IntErrorKind;

use thiserror::Error;

use super::superblock::check_read;
use super::{
    BitmapState, COUNTER_BELIEVED, DeviceFlags, HISTORY, LoadedSlot, PEERS_MAX, PeerSlot,
    SetBlocks, Superblock, VERSION,
};
use crate::resource::{BLOCK_SIZE, EXTENT_SIZE};

/// The largest data area, 1 PiB (see `geometry.rs`).
const DATA_MAX: u64 = 1 << 50;

/// What is wrong with a text, and in which line (from 1).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {what}")]
pub struct DumpError {
    /// The line.
    pub line: u32,
    /// What.
    pub what: String,
}

/// What a dump says, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dumped {
    /// The superblock.
    pub superblock: Superblock,
    /// The metadata was external.
    pub external: bool,
    /// The rollback number: the highest of superblock and log; `None`: unknown.
    pub number: Option<u64>,
    /// Hot extents as runs (first, count), ascending.
    pub hot: Vec<(u64, u64)>,
    /// A slot per peer, in the superblock's order.
    pub slots: Vec<LoadedSlot>,
}

/// Reads what [`super::dump`] has written.
///
/// # Errors
/// It is no such text, or what it says cannot be.
pub fn parse_dump(text: &str) -> Result<Dumped, DumpError> {
    let mut scan = Scan { rest: text, line: 1 };
    scan.word("version")?;
    let version = scan.text()?;
    if version != format!("tandem-{VERSION}") {
        return scan.wrong(format!("version {version:?}, this program takes \"tandem-{VERSION}\""));
    }
    scan.mark(';')?;
    let resource = scan.text_field("resource")?;
    let volume = scan.number("volume")?;
    let node_id = scan.number("node-id")?;
    let max_peers: u8 = scan.number("max-peers")?;
    if max_peers == 0 || max_peers > PEERS_MAX {
        return scan.wrong("max-peers is not 1 to 31");
    }
    let device_uuid = scan.hex("device-uuid")?;
    let sequence = scan.number("sequence")?;
    let external = match scan.word_field("meta-disk")? {
        "internal" => false,
        "external" => true,
        other => return scan.wrong(format!("meta-disk {other:?}")),
    };
    let data_size: u64 = scan.number("data-size")?;
    let effective_size: u64 = scan.number("effective-size")?;
    if data_size > DATA_MAX
        || effective_size > data_size
        || !effective_size.is_multiple_of(BLOCK_SIZE)
    {
        return scan.wrong("sizes that no disk has");
    }
    let al_block_size = scan.number("al-block-size")?;
    if scan.number::<u64>("bm-byte-per-bit")? != BLOCK_SIZE {
        return scan.wrong(format!("bm-byte-per-bit is not {BLOCK_SIZE}"));
    }
    let current_uuid = scan.hex("current-uuid")?;
    let flags =
        u32::try_from(scan.hex("flags")?).ok().filter(|flags| flags & !DeviceFlags::ALL == 0);
    let Some(flags) = flags else { return scan.wrong("flags that are not known") };
    let history = scan.history()?;
    let number = scan.number("number")?;
    let number_with_log = scan.optional("number-with-log")?;
    if number_with_log.is_some_and(|with| with < number || with > COUNTER_BELIEVED) {
        return scan.wrong("number-with-log is less than number, or none that a disk reaches");
    }
    let generation_time = scan.number("generation-time")?;
    let generation_node = scan.number("generation-node")?;
    let created_time = scan.number("created-time")?;
    let created_found = scan.text_field("created-found")?;
    let boot_id = scan.boot_id()?;
    let clean_size = scan.number("clean-size")?;
    let clean_digest = u32::try_from(scan.hex("clean-digest")?);
    let Ok(clean_digest) = clean_digest else { return scan.wrong("clean-digest is too large") };
    let blocks = data_size / BLOCK_SIZE;
    let (mut peers, mut slots) = (Vec::new(), Vec::new());
    for index in 0..max_peers {
        let (peer, slot) = scan.slot(index, blocks)?;
        let taken = |other: &PeerSlot| other.node_id == peer.node_id && peer.node_id.is_some();
        if peers.iter().any(taken) || peer.node_id == Some(node_id) {
            return scan.wrong("two slots of one node, or a slot of the own node");
        }
        peers.push(peer);
        slots.push(slot);
    }
    scan.word("activity-log")?;
    let hot = scan.runs(data_size.div_ceil(EXTENT_SIZE))?.runs().collect();
    scan.end()?;
    let superblock = Superblock {
        sequence,
        device_uuid,
        resource,
        volume,
        node_id,
        effective_size,
        al_block_size,
        data_size,
        current_uuid,
        history,
        flags,
        number,
        boot_id,
        generation_time,
        generation_node,
        created_time,
        created_found,
        clean_size,
        clean_digest,
        peers,
    };
    if let Err(what) = check_read(&superblock) {
        return scan.wrong(what);
    }
    if device_uuid == 0 || superblock.created_found.chars().any(char::is_control) {
        return scan.wrong("a device-uuid of 0, or control characters");
    }
    Ok(Dumped { superblock, external, number: number_with_log, hot, slots })
}

/// A piece of the text.
#[derive(Debug, PartialEq)]
enum Token<'a> {
    Word(&'a str),
    Text(String),
    Mark(char),
    End,
}

impl std::fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let brief = |text: &str| text.chars().take(40).collect::<String>();
        match self {
            Self::Word(word) => write!(f, "{:?}", brief(word)),
            Self::Text(text) => write!(f, "the text {:?}", brief(text)),
            Self::Mark(mark) => write!(f, "'{mark}'"),
            Self::End => f.write_str("the end"),
        }
    }
}

struct Scan<'a> {
    rest: &'a str,
    line: u32,
}

impl<'a> Scan<'a> {
    fn wrong<T>(&self, what: impl Into<String>) -> Result<T, DumpError> {
        Err(DumpError { line: self.line, what: what.into() })
    }

    fn next(&mut self) -> Result<Token<'a>, DumpError> {
        loop {
            let trimmed = self.rest.trim_start_matches([' ', '\t', '\r']);
            if let Some(rest) = trimmed.strip_prefix('\n') {
                self.line = self.line.saturating_add(1);
                self.rest = rest;
            } else if trimmed.starts_with('#') {
                let end = trimmed.find('\n').unwrap_or(trimmed.len());
                self.rest = &trimmed[end..];
            } else {
                self.rest = trimmed;
                break;
            }
        }
        match self.rest.chars().next() {
            None => Ok(Token::End),
            Some(mark @ ('{' | '}' | ';')) => {
                self.rest = &self.rest[1..];
                Ok(Token::Mark(mark))
            }
            Some('"') => self.quoted().map(Token::Text),
            Some(first) => {
                let ends = |c: char| c.is_whitespace() || "{};\"#".contains(c);
                let end = self.rest.find(ends).unwrap_or(self.rest.len());
                let (word, rest) = self.rest.split_at(end.max(first.len_utf8()));
                self.rest = rest;
                Ok(Token::Word(word))
            }
        }
    }

    /// A text as Rust's `{:?}` writes it; control characters are in none.
    fn quoted(&mut self) -> Result<String, DumpError> {
        let mut out = String::new();
        let mut chars = self.rest[1..].char_indices();
        while let Some((at, c)) = chars.next() {
            let escaped = match c {
                '"' => {
                    self.rest = &self.rest[1 + at + 1..];
                    return Ok(out);
                }
                '\n' => break,
                '\\' => chars.next().map(|(_, c)| c),
                other => {
                    out.push(other);
                    continue;
                }
            };
            out.push(match escaped {
                Some(c @ ('"' | '\\' | '\'')) => c,
                Some('u') => {
                    let code: String =
                        chars.by_ref().map(|(_, c)| c).take_while(|c| *c != '}').take(9).collect();
                    let code = code.strip_prefix('{').unwrap_or("none");
                    match u32::from_str_radix(code, 16).ok().and_then(char::from_u32) {
                        Some(c) => c,
                        None => return self.wrong("an escape that is none"),
                    }
                }
                _ => return self.wrong("an escape that is none"),
            });
        }
        self.wrong("a text without an end")
    }

    fn expect(&mut self, wanted: &Token<'_>) -> Result<(), DumpError> {
        let found = self.next()?;
        if found == *wanted {
            return Ok(());
        }
        self.wrong(format!("{found} where {wanted} is expected"))
    }

    fn word(&mut self, word: &str) -> Result<(), DumpError> {
        self.expect(&Token::Word(word))
    }

    fn mark(&mut self, mark: char) -> Result<(), DumpError> {
        self.expect(&Token::Mark(mark))
    }

    fn end(&mut self) -> Result<(), DumpError> {
        self.expect(&Token::End)
    }

    fn text(&mut self) -> Result<String, DumpError> {
        match self.next()? {
            Token::Text(text) => Ok(text),
            other => self.wrong(format!("{other} where a text is expected")),
        }
    }

    fn value(&mut self) -> Result<&'a str, DumpError> {
        match self.next()? {
            Token::Word(word) => Ok(word),
            other => self.wrong(format!("{other} where a value is expected")),
        }
    }

    fn text_field(&mut self, name: &str) -> Result<String, DumpError> {
        self.word(name)?;
        let text = self.text()?;
        self.mark(';')?;
        Ok(text)
    }

    fn word_field(&mut self, name: &str) -> Result<&'a str, DumpError> {
        self.word(name)?;
        let word = self.value()?;
        self.mark(';')?;
        Ok(word)
    }

    fn as_number<T>(&self, name: &str, word: &str) -> Result<T, DumpError>
    where
        T: std::str::FromStr<Err = std::num::ParseIntError>,
    {
        // `parse` would take a sign.
        let plain = word.bytes().all(|byte| byte.is_ascii_digit());
        match word.parse() {
            Ok(number) if plain => Ok(number),
            Err(error) if plain && *error.kind() == IntErrorKind::PosOverflow => {
                self.wrong(format!("{name} is too large"))
            }
            Ok(_) | Err(_) => self.wrong(format!("{name} is no number")),
        }
    }

    fn number<T>(&mut self, name: &str) -> Result<T, DumpError>
    where
        T: std::str::FromStr<Err = std::num::ParseIntError>,
    {
        let word = self.word_field(name)?;
        self.as_number(name, word)
    }

    fn optional(&mut self, name: &str) -> Result<Option<u64>, DumpError> {
        match self.word_field(name)? {
            "unknown" => Ok(None),
            word => self.as_number(name, word).map(Some),
        }
    }

    fn as_hex(&self, word: &str) -> Result<u64, DumpError> {
        let digits = word.strip_prefix("0x").filter(|digits| {
            digits.len() <= 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        match digits.map(|digits| u64::from_str_radix(digits, 16)) {
            Some(Ok(number)) => Ok(number),
            _ => self.wrong("a value like 0x1F is expected"),
        }
    }

    fn hex(&mut self, name: &str) -> Result<u64, DumpError> {
        let word = self.word_field(name)?;
        self.as_hex(word)
    }

    fn history(&mut self) -> Result<[u64; HISTORY], DumpError> {
        self.word("history-uuids")?;
        self.mark('{')?;
        let mut history = [0; HISTORY];
        for entry in &mut history {
            let word = self.value()?;
            *entry = self.as_hex(word)?;
            self.mark(';')?;
        }
        self.mark('}')?;
        Ok(history)
    }

    fn boot_id(&mut self) -> Result<[u8; 16], DumpError> {
        let word = self.word_field("boot-id")?;
        let plain = word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u128::from_str_radix(word, 16) {
            Ok(id) if plain => Ok(id.to_be_bytes()),
            _ => self.wrong("boot-id is not 32 digits"),
        }
    }

    fn slot(&mut self, index: u8, blocks: u64) -> Result<(PeerSlot, LoadedSlot), DumpError> {
        self.word(&format!("peer[{index}]"))?;
        self.mark('{')?;
        let node_id = match self.value()? {
            "free" => None,
            "node-id" => {
                let word = self.value()?;
                Some(self.as_number("node-id", word)?)
            }
            _ => return self.wrong("node-id or free is expected"),
        };
        self.mark(';')?;
        let device_uuid = self.hex("device-uuid")?;
        let bitmap_uuid = self.hex("bitmap-uuid")?;
        let bitmap_state = match self.word_field("bitmap-state")? {
            "all-clear" => BitmapState::AllClear,
            "all-set" => BitmapState::AllSet,
            "pages" => BitmapState::Pages,
            _ => return self.wrong("bitmap-state is all-clear, all-set or pages"),
        };
        let bitmap_epoch = self.number("bitmap-epoch")?;
        let seen_number = self.number("seen-number")?;
        let with_blocks = self.optional("seen-number-with-blocks")?;
        let seen_copy: u8 = self.number("seen-block")?;
        let most = with_blocks.unwrap_or(seen_number);
        if most < seen_number || most > COUNTER_BELIEVED || seen_copy > 1 {
            return self.wrong("seen numbers that cannot be");
        }
        self.mark('}')?;
        self.word(&format!("bitmap[{index}]"))?;
        let set = self.runs(blocks)?;
        let fits = match bitmap_state {
            BitmapState::AllClear => set.is_empty(),
            BitmapState::AllSet => set == SetBlocks::run(0, blocks),
            BitmapState::Pages => true,
        };
        if !fits {
            return self.wrong("the bitmap is not as its bitmap-state says");
        }
        let peer =
            PeerSlot { node_id, bitmap_uuid, bitmap_state, bitmap_epoch, seen_number, device_uuid };
        let slot = LoadedSlot { set, damaged_pages: 0, seen_number: with_blocks, seen_copy };
        Ok((peer, slot))
    }

    /// `{ FIRST COUNT; ... }`, ascending, with a gap between two, all below `end`.
    fn runs(&mut self, end: u64) -> Result<SetBlocks, DumpError> {
        self.mark('{')?;
        let mut runs = SetBlocks::new();
        // What comes next is behind this one, with a gap.
        let mut behind = None;
        loop {
            let first: u64 = match self.next()? {
                Token::Mark('}') => return Ok(runs.closed()),
                Token::Word(word) => self.as_number("the first of a run", word)?,
                other => return self.wrong(format!("{other} where a run is expected")),
            };
            let word = self.value()?;
            let count: u64 = self.as_number("the count of a run", word)?;
            self.mark(';')?;
            let last = first.checked_add(count).filter(|last| *last <= end);
            let (true, Some(last)) = (count > 0 && behind.is_none_or(|end| first > end), last)
            else {
                return self.wrong("a run that is empty, not behind the one before, or too far");
            };
            runs.push(first, count);
            behind = Some(last);
        }
    }
}
