//! The server's side of the fixed newstyle negotiation, as a machine without I/O.
//!
//! Invariants:
//! - [`Negotiation::wants`] never reaches beyond the message at hand: client flags, then option
//!   by option a header and its data.
//! - What is kept is at most [`OPTION_DATA_LIMIT`] bytes, and grows as bytes arrive, not when a
//!   length is announced. Larger data is counted and thrown away, in pieces.
//! - Every option gets its reply, or the connection closes: the client never waits in vain.
//! - The number of options and the bytes of a negotiation are bounded.

mod options;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::constants::*;
use crate::fields::{Fields, sentence, text};
use crate::session::{Device, ExportInfo, SessionParameters};
use options::{InfoData, MetaData, OptionReply, reply, reply_error};

/// Bytes that are thrown away in one piece.
const DRAIN_CHUNK: u32 = 16 << 10;

/// An export as `NBD_OPT_LIST` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedExport {
    /// The name, at most 4096 bytes.
    pub name: String,
    /// A sentence for people; empty for none.
    pub description: String,
}

impl From<String> for ListedExport {
    fn from(name: String) -> Self {
        ListedExport { name, description: String::new() }
    }
}

/// What the caller does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send these bytes (there may be none), then read [`Negotiation::wants`] bytes.
    Continue {
        /// Bytes to the client.
        send: Vec<u8>,
    },
    /// Find out about the export, then call [`Negotiation::answer`].
    Lookup {
        /// The name, as the client spelled it; empty for the default export.
        name: String,
        /// The client will enter transmission on it (GO, EXPORT_NAME). Else it only asks (INFO,
        /// metadata contexts): nothing may change because of that, and an export that is served
        /// elsewhere is better described than refused, as `qemu-nbd --list` stops at a refusal.
        go: bool,
    },
    /// Send these bytes; the transmission phase begins with the next byte from the client.
    Enter {
        /// Bytes to the client.
        send: Vec<u8>,
        /// What was agreed.
        session: SessionParameters,
    },
    /// Send these bytes, then close the connection.
    Close {
        /// Bytes to the client.
        send: Vec<u8>,
        /// For the log.
        reason: CloseReason,
    },
}

/// Why a negotiation ended without a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// The client said `NBD_OPT_ABORT`. The only reason that is not a complaint.
    Aborted,
    /// The client set handshake flags that nobody knows; proto.md demands the close.
    UnknownClientFlags(u32),
    /// An option did not begin with `IHAVEOPT`: this is no NBD client, or it is out of step.
    BadOptionMagic(u64),
    /// `NBD_OPT_EXPORT_NAME` failed, and has no error reply. The sentence says why.
    ExportRefused(String),
    /// More than [`OPTION_COUNT_LIMIT`] options.
    TooManyOptions,
    /// More than [`NEGOTIATION_BYTES_LIMIT`] bytes announced.
    TooManyBytes,
    /// The caller fed more than was wanted, fed or answered when nothing was asked, or went on
    /// after the end: a defect of the server.
    Misuse,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Aborted => write!(f, "the client ended the negotiation"),
            CloseReason::UnknownClientFlags(flags) => {
                write!(f, "the client set unknown handshake flags {flags:#x}")
            }
            CloseReason::BadOptionMagic(magic) => {
                write!(f, "an option began with {magic:#018x} instead of IHAVEOPT")
            }
            CloseReason::ExportRefused(why) => write!(f, "{why}"),
            CloseReason::TooManyOptions => {
                write!(f, "the client sent more than {OPTION_COUNT_LIMIT} options")
            }
            CloseReason::TooManyBytes => {
                write!(f, "the client's options exceed {NEGOTIATION_BYTES_LIMIT} bytes")
            }
            CloseReason::Misuse => write!(f, "the server drove the negotiation wrongly"),
        }
    }
}

/// Why an export cannot be had. The sentences go to the client and should say what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupError {
    /// There is no such export.
    Unknown,
    /// There is, but it is not served here and now.
    Policy(String),
    /// The server is shutting down.
    Shutdown(String),
    /// The export cannot be opened on this host.
    Platform(String),
}

impl LookupError {
    fn reply_type(&self) -> u32 {
        match self {
            LookupError::Unknown => NBD_REP_ERR_UNKNOWN,
            LookupError::Policy(_) => NBD_REP_ERR_POLICY,
            LookupError::Shutdown(_) => NBD_REP_ERR_SHUTDOWN,
            LookupError::Platform(_) => NBD_REP_ERR_PLATFORM,
        }
    }

    fn into_sentence(self, name: &str) -> String {
        match self {
            LookupError::Unknown => {
                format!("there is no export {name:?}; NBD_OPT_LIST (nbdinfo --list) shows all")
            }
            LookupError::Policy(why) | LookupError::Shutdown(why) | LookupError::Platform(why) => {
                why
            }
        }
    }
}

/// What comes after data that is thrown away.
#[derive(Debug, Clone, Copy)]
enum AfterDrain {
    Refuse { reply: u32, why: &'static str },
    Abort,
}

/// What an option wants of the export that is looked up.
#[derive(Debug)]
enum Purpose {
    ExportName,
    Describe { option: u32, requests: Vec<u16> },
    MetaContext { option: u32, matched: bool },
}

#[derive(Debug)]
enum State {
    ClientFlags,
    Header,
    Data { option: u32, length: u32 },
    Drain { option: u32, remaining: u32, after: AfterDrain },
    Lookup { name: String, purpose: Purpose },
    Ended,
}

/// One client's negotiation.
///
/// Inputs: [`feed`](Self::feed) and [`answer`](Self::answer). Outputs: their [`Step`]s.
/// The clock is the caller's: bound the time of a negotiation there.
#[derive(Debug)]
pub struct Negotiation {
    exports: Vec<ListedExport>,
    state: State,
    /// What has arrived of the message at hand.
    buffer: Vec<u8>,
    options_left: u32,
    bytes_left: u64,
    no_zeroes: bool,
    structured: bool,
    extended: bool,
    /// The export for which `base:allocation` was selected last.
    base_allocation: Option<String>,
    device: Option<Device>,
}

impl Negotiation {
    /// A negotiation that lists these exports. Which names can be opened is decided by
    /// [`answer`](Self::answer) alone.
    pub fn new(exports: Vec<String>) -> Negotiation {
        Negotiation::with_descriptions(exports.into_iter().map(ListedExport::from).collect())
    }

    /// As [`new`](Self::new), with a sentence for each export. A name above 4096 bytes, or with
    /// a NUL, cannot be sent and is left out.
    pub fn with_descriptions(mut exports: Vec<ListedExport>) -> Negotiation {
        exports.retain(|export| text(export.name.as_bytes()).is_some());
        Negotiation {
            exports,
            state: State::ClientFlags,
            buffer: Vec::new(),
            options_left: OPTION_COUNT_LIMIT,
            bytes_left: NEGOTIATION_BYTES_LIMIT,
            no_zeroes: false,
            structured: false,
            extended: false,
            base_allocation: None,
            device: None,
        }
    }

    /// The device that the client says it is of.
    pub fn device(&self) -> Option<&Device> {
        self.device.as_ref()
    }

    /// The first bytes of the connection, sent before anything is read.
    pub fn greeting() -> [u8; GREETING_LENGTH] {
        let mut greeting = [0; GREETING_LENGTH];
        greeting[..8].copy_from_slice(&NBD_MAGIC.to_be_bytes());
        greeting[8..16].copy_from_slice(&NBD_OPTS_MAGIC.to_be_bytes());
        let flags = NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES;
        greeting[16..].copy_from_slice(&flags.to_be_bytes());
        greeting
    }

    /// Bytes to read next, at most [`OPTION_DATA_LIMIT`]. Fewer may be fed; then this is what is
    /// missing. 0 while a lookup waits for its answer, and after the end.
    pub fn wants(&self) -> usize {
        match self.state {
            State::Drain { remaining, .. } => remaining.min(DRAIN_CHUNK) as usize,
            State::Lookup { .. } | State::Ended => 0,
            _ => self.message_length() - self.buffer.len(),
        }
    }

    fn message_length(&self) -> usize {
        match self.state {
            State::ClientFlags => CLIENT_FLAGS_LENGTH,
            State::Header => OPTION_HEADER_LENGTH,
            State::Data { length, .. } => length as usize,
            State::Drain { .. } | State::Lookup { .. } | State::Ended => 0,
        }
    }

    /// Takes bytes from the client, at most [`wants`](Self::wants) of them.
    pub fn feed(&mut self, bytes: &[u8]) -> Step {
        if bytes.len() > self.wants() {
            return self.close(Vec::new(), CloseReason::Misuse);
        }
        if bytes.is_empty() {
            return Step::Continue { send: Vec::new() };
        }
        if let State::Drain { option, remaining, after } = self.state {
            // Never more than wanted, so never more than remains.
            let remaining = remaining.saturating_sub(bytes.len() as u32);
            return self.drain(option, remaining, after);
        }
        self.buffer.extend_from_slice(bytes);
        if self.wants() > 0 {
            return Step::Continue { send: Vec::new() };
        }
        let message = std::mem::take(&mut self.buffer);
        match self.state {
            State::ClientFlags => self.client_flags(&message),
            State::Header => self.header(&message),
            State::Data { option, .. } => self.data(option, &message),
            State::Drain { .. } | State::Lookup { .. } | State::Ended => {
                self.close(Vec::new(), CloseReason::Misuse)
            }
        }
    }

    /// Answers the last [`Step::Lookup`].
    pub fn answer(&mut self, found: Result<ExportInfo, LookupError>) -> Step {
        let State::Lookup { name, purpose } = std::mem::replace(&mut self.state, State::Header)
        else {
            return self.close(Vec::new(), CloseReason::Misuse);
        };
        match (purpose, found) {
            (Purpose::ExportName, Ok(info)) => self.enter_by_name(name, &info),
            (Purpose::ExportName, Err(error)) => {
                let why = error.into_sentence(&name);
                self.close(Vec::new(), CloseReason::ExportRefused(why))
            }
            (Purpose::Describe { option, requests }, Ok(info)) => {
                self.describe(option, name, &requests, &info)
            }
            (Purpose::MetaContext { option, matched }, Ok(_)) => {
                self.meta_context(option, name, matched)
            }
            (
                Purpose::Describe { option, .. } | Purpose::MetaContext { option, .. },
                Err(error),
            ) => {
                let kind = error.reply_type();
                self.refuse(option, kind, &error.into_sentence(&name))
            }
        }
    }

    fn client_flags(&mut self, message: &[u8]) -> Step {
        let flags = Fields::new(message).u32().unwrap_or(u32::MAX);
        if flags & !(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES) != 0 {
            return self.close(Vec::new(), CloseReason::UnknownClientFlags(flags));
        }
        self.no_zeroes = flags & NBD_FLAG_C_NO_ZEROES != 0;
        self.state = State::Header;
        Step::Continue { send: Vec::new() }
    }

    fn header(&mut self, message: &[u8]) -> Step {
        let mut fields = Fields::new(message);
        let (Some(magic), Some(option), Some(length)) = (fields.u64(), fields.u32(), fields.u32())
        else {
            return self.close(Vec::new(), CloseReason::Misuse);
        };
        if magic != NBD_OPTS_MAGIC {
            return self.close(Vec::new(), CloseReason::BadOptionMagic(magic));
        }
        let Some(options_left) = self.options_left.checked_sub(1) else {
            return self.close(Vec::new(), CloseReason::TooManyOptions);
        };
        self.options_left = options_left;
        let cost = OPTION_HEADER_LENGTH as u64 + u64::from(length);
        let Some(bytes_left) = self.bytes_left.checked_sub(cost) else {
            let send = reply_error(option, NBD_REP_ERR_TOO_BIG, "the options are too large");
            // EXPORT_NAME has no reply packets.
            let send = if option == NBD_OPT_EXPORT_NAME { Vec::new() } else { send };
            return self.close(send, CloseReason::TooManyBytes);
        };
        self.bytes_left = bytes_left;
        self.option(option, length)
    }

    fn option(&mut self, option: u32, length: u32) -> Step {
        let refuse = |reply, why| AfterDrain::Refuse { reply, why };
        let after = match option {
            NBD_OPT_EXPORT_NAME if length as usize > STRING_LIMIT => {
                let why = format!("an export name of {length} bytes exceeds {STRING_LIMIT}");
                return self.close(Vec::new(), CloseReason::ExportRefused(why));
            }
            NBD_OPT_EXPORT_NAME
            | NBD_OPT_INFO
            | NBD_OPT_GO
            | NBD_OPT_LIST_META_CONTEXT
            | NBD_OPT_SET_META_CONTEXT
            | TANDEM_OPT_DEVICE => {
                if option == NBD_OPT_SET_META_CONTEXT {
                    // A later SET replaces an earlier one, also when it fails.
                    self.base_allocation = None;
                }
                if length <= OPTION_DATA_LIMIT {
                    self.state = State::Data { option, length };
                    // No data: the message is complete already.
                    return if length == 0 {
                        self.data(option, &[])
                    } else {
                        Step::Continue { send: Vec::new() }
                    };
                }
                refuse(NBD_REP_ERR_TOO_BIG, "the option's data exceeds 64 KiB")
            }
            NBD_OPT_ABORT => AfterDrain::Abort,
            NBD_OPT_LIST | NBD_OPT_STRUCTURED_REPLY | NBD_OPT_EXTENDED_HEADERS => {
                if length == 0 {
                    return self.act(option);
                }
                refuse(NBD_REP_ERR_INVALID, "this option takes no data")
            }
            NBD_OPT_STARTTLS => {
                refuse(NBD_REP_ERR_UNSUP, "this server has no TLS; connect without it")
            }
            _ => refuse(NBD_REP_ERR_UNSUP, "this server does not know the option"),
        };
        self.drain(option, length, after)
    }

    /// Throws away what remains of an option's data, then answers it.
    fn drain(&mut self, option: u32, remaining: u32, after: AfterDrain) -> Step {
        if remaining > 0 {
            self.state = State::Drain { option, remaining, after };
            return Step::Continue { send: Vec::new() };
        }
        match after {
            AfterDrain::Abort => self.close(reply(option, NBD_REP_ACK, &[]), CloseReason::Aborted),
            AfterDrain::Refuse { reply, why } => self.refuse(option, reply, why),
        }
    }

    /// An option without data.
    fn act(&mut self, option: u32) -> Step {
        match option {
            NBD_OPT_LIST => {
                let mut send = OptionReply::new(option);
                for export in &self.exports {
                    send.server(&export.name, &export.description);
                }
                return self.proceed(send.ack());
            }
            NBD_OPT_STRUCTURED_REPLY if self.extended => {
                let why = "extended headers are in use and include structured replies";
                return self.refuse(option, NBD_REP_ERR_EXT_HEADER_REQD, why);
            }
            NBD_OPT_STRUCTURED_REPLY => self.structured = true,
            NBD_OPT_EXTENDED_HEADERS if self.extended => {
                let why = "extended headers are already in use";
                return self.refuse(option, NBD_REP_ERR_INVALID, why);
            }
            _ => {
                self.structured = true;
                self.extended = true;
            }
        }
        self.proceed(reply(option, NBD_REP_ACK, &[]))
    }

    /// An option whose data is complete.
    fn data(&mut self, option: u32, data: &[u8]) -> Step {
        match option {
            NBD_OPT_EXPORT_NAME => {
                let Some(name) = text(data) else {
                    let why = "the export name is not UTF-8 without NUL".to_owned();
                    return self.close(Vec::new(), CloseReason::ExportRefused(why));
                };
                self.look_up(name.to_owned(), true, Purpose::ExportName)
            }
            NBD_OPT_INFO | NBD_OPT_GO => {
                let Some(InfoData { name, requests }) = InfoData::parse(data) else {
                    let why = "malformed: want a name (UTF-8, no NUL, at most 4096 bytes) and a \
                               counted list of information types";
                    return self.refuse(option, NBD_REP_ERR_INVALID, why);
                };
                let purpose = Purpose::Describe { option, requests };
                self.look_up(name, option == NBD_OPT_GO, purpose)
            }
            TANDEM_OPT_DEVICE => {
                let Some(device) = Device::decode(data) else {
                    let why = "malformed: want a token, a number, and a counted list of at most 64";
                    return self.refuse(option, NBD_REP_ERR_INVALID, why);
                };
                self.device = Some(device);
                self.proceed(reply(option, NBD_REP_ACK, &[]))
            }
            _ => self.meta_data(option, data),
        }
    }

    fn meta_data(&mut self, option: u32, data: &[u8]) -> Step {
        if !self.structured {
            let why = "negotiate structured replies first";
            return self.refuse(option, NBD_REP_ERR_INVALID, why);
        }
        let listing = option == NBD_OPT_LIST_META_CONTEXT;
        let Some(MetaData { name, matched }) = MetaData::parse(data, listing) else {
            let why = "malformed: want a name and a counted list of queries, each UTF-8 without \
                       NUL and at most 4096 bytes";
            return self.refuse(option, NBD_REP_ERR_INVALID, why);
        };
        self.look_up(name, false, Purpose::MetaContext { option, matched })
    }

    fn look_up(&mut self, name: String, go: bool, purpose: Purpose) -> Step {
        self.state = State::Lookup { name: name.clone(), purpose };
        Step::Lookup { name, go }
    }

    fn describe(&mut self, option: u32, name: String, requests: &[u16], info: &ExportInfo) -> Step {
        let mut send = OptionReply::new(option);
        send.info_export(info.size, info.transmission_flags(self.structured));
        if requests.contains(&NBD_INFO_NAME) {
            send.info_text(NBD_INFO_NAME, &name);
        }
        if requests.contains(&NBD_INFO_DESCRIPTION) && !info.description.is_empty() {
            send.info_text(NBD_INFO_DESCRIPTION, sentence(&info.description));
        }
        let asked_block_size = requests.contains(&NBD_INFO_BLOCK_SIZE);
        if asked_block_size {
            send.info_block_size(&info.block);
        }
        if requests.contains(&TANDEM_INFO_KEEPERS) && !info.keepers.is_empty() {
            send.info_keepers(&info.keepers);
        }
        let send = send.ack();
        if option != NBD_OPT_GO {
            return self.proceed(send);
        }
        let session = self.session(name, info, asked_block_size);
        self.state = State::Ended;
        Step::Enter { send, session }
    }

    fn meta_context(&mut self, option: u32, name: String, matched: bool) -> Step {
        let mut send = OptionReply::new(option);
        if matched {
            let setting = option == NBD_OPT_SET_META_CONTEXT;
            // In a list the identifier means nothing and is zero.
            send.meta_context(if setting { BASE_ALLOCATION_ID } else { 0 }, BASE_ALLOCATION);
            if setting {
                self.base_allocation = Some(name);
            }
        }
        self.proceed(send.ack())
    }

    fn enter_by_name(&mut self, name: String, info: &ExportInfo) -> Step {
        let session = self.session(name, info, false);
        let mut send = Vec::with_capacity(134);
        send.extend_from_slice(&session.size.to_be_bytes());
        send.extend_from_slice(&session.flags.to_be_bytes());
        if !self.no_zeroes {
            send.resize(send.len() + 124, 0);
        }
        self.state = State::Ended;
        Step::Enter { send, session }
    }

    fn session(&self, export: String, info: &ExportInfo, asked: bool) -> SessionParameters {
        SessionParameters {
            structured: self.structured,
            extended: self.extended,
            // The selection binds to the name: another name has none.
            base_allocation: self.base_allocation.as_ref() == Some(&export),
            flags: info.transmission_flags(self.structured),
            size: info.size,
            client_asked_block_size: asked,
            block: info.block,
            device: self.device.clone(),
            export,
        }
    }

    fn proceed(&mut self, send: Vec<u8>) -> Step {
        self.state = State::Header;
        Step::Continue { send }
    }

    fn refuse(&mut self, option: u32, kind: u32, why: &str) -> Step {
        self.proceed(reply_error(option, kind, why))
    }

    fn close(&mut self, send: Vec<u8>, reason: CloseReason) -> Step {
        self.state = State::Ended;
        self.buffer = Vec::new();
        Step::Close { send, reason }
    }
}
