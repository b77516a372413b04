//! The client's side of the negotiation.

use std::io::Write;
use std::time::{Duration, Instant};

use super::{Address, Client, ClientError, Mode, Socket};
use crate::constants::*;
use crate::fields::Fields;
use crate::session::Device;

/// Replies of one option; a server that sends more is broken.
const REPLIES_LIMIT: usize = 65536;
/// Bytes of all of them.
const REPLIES_BYTES_LIMIT: usize = 4 << 20;

/// One reply packet to an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionReply {
    /// The option that it answers, `NBD_OPT_*`.
    pub option: u32,
    /// `NBD_REP_*`.
    pub kind: u32,
    /// The payload.
    pub data: Vec<u8>,
}

/// What a server says of an export.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// Bytes.
    pub size: u64,
    /// Transmission flags, `NBD_FLAG_*`.
    pub flags: u16,
    /// The canonical name, if sent.
    pub name: Option<String>,
    /// The sentence for people, if sent.
    pub description: Option<String>,
    /// Minimum, preferred and maximum block size, if sent.
    pub block: Option<(u32, u32, u32)>,
    /// The runs of systems whose caches hold all that was answered, if sent ([`TANDEM_INFO_KEEPERS`]).
    pub keepers: Vec<[u8; 16]>,
}

/// A connection in negotiation.
#[derive(Debug)]
pub struct Handshake {
    socket: Socket,
    handshake_flags: u16,
    no_zeroes: bool,
    mode: Mode,
    base_allocation: Option<u32>,
}

impl Handshake {
    /// Connects, reads the greeting, and answers it with both client flags. `timeout` holds for
    /// the connect and for each later read and write.
    pub fn connect(address: &Address, timeout: Duration) -> Result<Handshake, ClientError> {
        let flags = NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES;
        Handshake::connect_with_flags(address, timeout, flags)
    }

    /// As [`connect`](Self::connect), but the whole negotiation, and what the client reads and
    /// writes after it, ends when `limit` is over.
    pub fn connect_within(address: &Address, limit: Duration) -> Result<Handshake, ClientError> {
        let flags = NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES;
        Handshake::greet(Socket::connect(address, limit, Some(Instant::now() + limit))?, flags)
    }

    /// As [`connect`](Self::connect), with client flags of the caller's choice.
    pub fn connect_with_flags(
        address: &Address,
        timeout: Duration,
        client_flags: u32,
    ) -> Result<Handshake, ClientError> {
        Handshake::greet(Socket::connect(address, timeout, None)?, client_flags)
    }

    fn greet(mut socket: Socket, client_flags: u32) -> Result<Handshake, ClientError> {
        let greeting = socket.array::<GREETING_LENGTH>()?;
        let mut fields = Fields::new(&greeting);
        if fields.u64() != Some(NBD_MAGIC) || fields.u64() != Some(NBD_OPTS_MAGIC) {
            return Err(ClientError::Protocol("the greeting is not that of newstyle NBD"));
        }
        let handshake_flags = fields.u16().unwrap_or_default();
        socket.write_all(&client_flags.to_be_bytes())?;
        let no_zeroes =
            client_flags & NBD_FLAG_C_NO_ZEROES != 0 && handshake_flags & NBD_FLAG_NO_ZEROES != 0;
        let mode = Mode::Simple;
        Ok(Handshake { socket, handshake_flags, no_zeroes, mode, base_allocation: None })
    }

    /// The server's handshake flags.
    pub fn handshake_flags(&self) -> u16 {
        self.handshake_flags
    }

    /// Sends bytes as they are: for tests of a server's patience.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        Ok(self.socket.write_all(bytes)?)
    }

    /// Sends an option.
    pub fn send_option(&mut self, option: u32, data: &[u8]) -> Result<(), ClientError> {
        let mut message = Vec::with_capacity(OPTION_HEADER_LENGTH + data.len());
        message.extend_from_slice(&NBD_OPTS_MAGIC.to_be_bytes());
        message.extend_from_slice(&option.to_be_bytes());
        message.extend_from_slice(&(data.len() as u32).to_be_bytes());
        message.extend_from_slice(data);
        self.send_raw(&message)
    }

    /// Reads one reply packet.
    pub fn read_option_reply(&mut self) -> Result<OptionReply, ClientError> {
        let header = self.socket.array::<OPTION_REPLY_HEADER_LENGTH>()?;
        let mut fields = Fields::new(&header);
        let (Some(NBD_REP_MAGIC), Some(option), Some(kind), Some(length)) =
            (fields.u64(), fields.u32(), fields.u32(), fields.u32())
        else {
            return Err(ClientError::Protocol("an option reply without its magic"));
        };
        let data = self.socket.payload(u64::from(length))?;
        Ok(OptionReply { option, kind, data })
    }

    /// Sends an option and reads its replies up to the ACK, which is left out. An error reply is
    /// [`ClientError::Refused`].
    pub fn option(&mut self, option: u32, data: &[u8]) -> Result<Vec<OptionReply>, ClientError> {
        self.send_option(option, data)?;
        let mut replies = Vec::new();
        let mut bytes = 0;
        while replies.len() < REPLIES_LIMIT && bytes <= REPLIES_BYTES_LIMIT {
            let reply = self.read_option_reply()?;
            if reply.option != option {
                return Err(ClientError::Protocol("a reply to another option"));
            }
            if reply.kind == NBD_REP_ACK {
                return Ok(replies);
            }
            if reply.kind & NBD_REP_FLAG_ERROR != 0 {
                let message = String::from_utf8_lossy(&reply.data).into_owned();
                return Err(ClientError::Refused { option, kind: reply.kind, message });
            }
            bytes += reply.data.len();
            replies.push(reply);
        }
        Err(ClientError::Protocol("endless replies to an option"))
    }

    /// The names and descriptions of the exports.
    pub fn list(&mut self) -> Result<Vec<(String, String)>, ClientError> {
        let replies = self.option(NBD_OPT_LIST, &[])?;
        let parse = |reply: &OptionReply| {
            let mut fields = Fields::new(&reply.data);
            let name = fields.string()?.to_owned();
            Some((name, String::from_utf8_lossy(fields.rest()).into_owned()))
        };
        let malformed = ClientError::Protocol("a malformed entry in the list of exports");
        replies.iter().map(parse).collect::<Option<_>>().ok_or(malformed)
    }

    /// Negotiates structured replies.
    pub fn structured_replies(&mut self) -> Result<(), ClientError> {
        self.option(NBD_OPT_STRUCTURED_REPLY, &[])?;
        self.mode = Mode::Structured;
        Ok(())
    }

    /// Negotiates extended headers.
    pub fn extended_headers(&mut self) -> Result<(), ClientError> {
        self.option(NBD_OPT_EXTENDED_HEADERS, &[])?;
        self.mode = Mode::Extended;
        Ok(())
    }

    /// Lists the metadata contexts that match; all without queries.
    pub fn list_meta_context(
        &mut self,
        export: &str,
        queries: &[&str],
    ) -> Result<Vec<(u32, String)>, ClientError> {
        self.meta_context(NBD_OPT_LIST_META_CONTEXT, export, queries)
    }

    /// Selects metadata contexts, and returns them with their identifiers.
    pub fn set_meta_context(
        &mut self,
        export: &str,
        queries: &[&str],
    ) -> Result<Vec<(u32, String)>, ClientError> {
        self.base_allocation = None;
        let contexts = self.meta_context(NBD_OPT_SET_META_CONTEXT, export, queries)?;
        let found = contexts.iter().find(|(_, name)| name == BASE_ALLOCATION);
        self.base_allocation = found.map(|(id, _)| *id);
        Ok(contexts)
    }

    fn meta_context(
        &mut self,
        option: u32,
        export: &str,
        queries: &[&str],
    ) -> Result<Vec<(u32, String)>, ClientError> {
        let mut data = Vec::new();
        push_string(&mut data, export);
        data.extend_from_slice(&(queries.len() as u32).to_be_bytes());
        queries.iter().for_each(|query| push_string(&mut data, query));
        let replies = self.option(option, &data)?;
        let parse = |reply: &OptionReply| {
            let mut fields = Fields::new(&reply.data);
            let id = fields.u32()?;
            Some((id, String::from_utf8_lossy(fields.rest()).into_owned()))
        };
        let malformed = ClientError::Protocol("a malformed metadata context");
        replies.iter().map(parse).collect::<Option<_>>().ok_or(malformed)
    }

    /// Says which device the connection is of. `false`: the server does not know the option.
    pub fn device(&mut self, device: &Device) -> Result<bool, ClientError> {
        match self.option(TANDEM_OPT_DEVICE, &device.encode()) {
            Ok(_) => Ok(true),
            Err(ClientError::Refused { kind: NBD_REP_ERR_UNSUP, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Describes an export; `requests` are `NBD_INFO_*`.
    pub fn info(&mut self, export: &str, requests: &[u16]) -> Result<Description, ClientError> {
        self.describe(NBD_OPT_INFO, export, requests)
    }

    /// Enters transmission with `NBD_OPT_GO`.
    pub fn go(mut self, export: &str, requests: &[u16]) -> Result<Client, ClientError> {
        let description = self.describe(NBD_OPT_GO, export, requests)?;
        Ok(Client::new(self.socket, self.mode, self.base_allocation, description))
    }

    /// As [`go`](Self::go), but a refusal leaves the negotiation open: it is handed back.
    pub fn try_go(
        mut self,
        export: &str,
        requests: &[u16],
    ) -> Result<Client, (Handshake, ClientError)> {
        match self.describe(NBD_OPT_GO, export, requests) {
            Ok(description) => {
                Ok(Client::new(self.socket, self.mode, self.base_allocation, description))
            }
            Err(error) => Err((self, error)),
        }
    }

    /// Enters transmission with `NBD_OPT_EXPORT_NAME`. A refusal is a closed connection.
    pub fn export_name(mut self, export: &str) -> Result<Client, ClientError> {
        self.send_option(NBD_OPT_EXPORT_NAME, export.as_bytes())?;
        let reply = self.socket.array::<10>()?;
        let mut fields = Fields::new(&reply);
        let size = fields.u64().unwrap_or_default();
        let flags = fields.u16().unwrap_or_default();
        if !self.no_zeroes && self.socket.array::<124>()? != [0; 124] {
            return Err(ClientError::Protocol("the 124 zero bytes are not zero"));
        }
        let description = Description { size, flags, ..Description::default() };
        Ok(Client::new(self.socket, self.mode, self.base_allocation, description))
    }

    /// Ends the negotiation and waits for the server's word.
    pub fn abort(mut self) -> Result<(), ClientError> {
        self.option(NBD_OPT_ABORT, &[])?;
        Ok(())
    }

    fn describe(
        &mut self,
        option: u32,
        export: &str,
        requests: &[u16],
    ) -> Result<Description, ClientError> {
        let mut data = Vec::new();
        push_string(&mut data, export);
        data.extend_from_slice(&(requests.len() as u16).to_be_bytes());
        requests.iter().for_each(|kind| data.extend_from_slice(&kind.to_be_bytes()));
        let mut description = None;
        for reply in self.option(option, &data)? {
            let known = description.get_or_insert_with(Description::default);
            parse_info(&reply.data, known)
                .ok_or(ClientError::Protocol("a malformed information about an export"))?;
        }
        description.ok_or(ClientError::Protocol("an export without NBD_INFO_EXPORT"))
    }
}

fn parse_info(data: &[u8], known: &mut Description) -> Option<()> {
    let mut fields = Fields::new(data);
    let text = |fields: &Fields<'_>| Some(String::from_utf8_lossy(fields.rest()).into_owned());
    match fields.u16()? {
        NBD_INFO_EXPORT => {
            known.size = fields.u64()?;
            known.flags = fields.u16()?;
            return fields.is_empty().then_some(());
        }
        NBD_INFO_NAME => known.name = text(&fields),
        NBD_INFO_DESCRIPTION => known.description = text(&fields),
        NBD_INFO_BLOCK_SIZE => {
            known.block = Some((fields.u32()?, fields.u32()?, fields.u32()?));
            return fields.is_empty().then_some(());
        }
        TANDEM_INFO_KEEPERS => {
            let (keepers, rest) = fields.rest().as_chunks::<16>();
            known.keepers = keepers.to_vec();
            return (rest.is_empty() && keepers.len() <= KEEPERS_LIMIT).then_some(());
        }
        // Types that we do not know are to be ignored.
        _ => {}
    }
    Some(())
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}
