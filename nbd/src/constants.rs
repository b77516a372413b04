//! Numbers of the protocol, under the names that `doc/proto.md` gives them, and our own bounds.
//!
//! All integers of the protocol are big-endian.

/// First eight bytes of a server's greeting: `NBDMAGIC`.
pub const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second eight bytes of the greeting, and the start of every option: `IHAVEOPT`.
pub const NBD_OPTS_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Start of every reply to an option.
pub const NBD_REP_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Start of a compact (28-byte) request.
pub const NBD_REQUEST_MAGIC: u32 = 0x2560_9513;
/// Start of an extended (32-byte) request.
pub const NBD_EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Start of a simple reply (16 bytes).
pub const NBD_SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Start of a structured reply chunk (20 bytes).
pub const NBD_STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Start of an extended reply chunk (32 bytes).
pub const NBD_EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Handshake flag: the server replies to every option in a fixed format.
pub const NBD_FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag: the server can leave out the 124 zero bytes of `NBD_OPT_EXPORT_NAME`.
pub const NBD_FLAG_NO_ZEROES: u16 = 1 << 1;
/// Client flag: answer to [`NBD_FLAG_FIXED_NEWSTYLE`].
pub const NBD_FLAG_C_FIXED_NEWSTYLE: u32 = 1 << 0;
/// Client flag: answer to [`NBD_FLAG_NO_ZEROES`].
pub const NBD_FLAG_C_NO_ZEROES: u32 = 1 << 1;

/// Enter transmission on a named export; no error reply is possible.
pub const NBD_OPT_EXPORT_NAME: u32 = 1;
/// End the negotiation.
pub const NBD_OPT_ABORT: u32 = 2;
/// List the exports.
pub const NBD_OPT_LIST: u32 = 3;
/// Withdrawn from the protocol; answered as unknown.
pub const NBD_OPT_PEEK_EXPORT: u32 = 4;
/// Switch to TLS.
pub const NBD_OPT_STARTTLS: u32 = 5;
/// Describe an export.
pub const NBD_OPT_INFO: u32 = 6;
/// Describe an export and enter transmission on it.
pub const NBD_OPT_GO: u32 = 7;
/// Use structured replies.
pub const NBD_OPT_STRUCTURED_REPLY: u32 = 8;
/// List the metadata contexts of an export.
pub const NBD_OPT_LIST_META_CONTEXT: u32 = 9;
/// Select metadata contexts of an export.
pub const NBD_OPT_SET_META_CONTEXT: u32 = 10;
/// Use extended headers, in both directions; implies structured replies.
pub const NBD_OPT_EXTENDED_HEADERS: u32 = 11;
/// Tandem's own ("TDM", 1): which device a connection is of. Its data is a [`crate::Device`]: token u64,
/// connection u64, count u16, and so many siblings u64. Other servers answer `ERR_UNSUP`.
pub const TANDEM_OPT_DEVICE: u32 = 0x5444_4d01;

/// The option is done.
pub const NBD_REP_ACK: u32 = 1;
/// One export of a list.
pub const NBD_REP_SERVER: u32 = 2;
/// One information about an export.
pub const NBD_REP_INFO: u32 = 3;
/// One metadata context.
pub const NBD_REP_META_CONTEXT: u32 = 4;
/// Bit that marks a reply as an error.
pub const NBD_REP_FLAG_ERROR: u32 = 1 << 31;
/// The option is not known.
pub const NBD_REP_ERR_UNSUP: u32 = NBD_REP_FLAG_ERROR + 1;
/// The option is known and not allowed.
pub const NBD_REP_ERR_POLICY: u32 = NBD_REP_FLAG_ERROR + 2;
/// The option is malformed.
pub const NBD_REP_ERR_INVALID: u32 = NBD_REP_FLAG_ERROR + 3;
/// The option does not work on this platform.
pub const NBD_REP_ERR_PLATFORM: u32 = NBD_REP_FLAG_ERROR + 4;
/// TLS is required first.
pub const NBD_REP_ERR_TLS_REQD: u32 = NBD_REP_FLAG_ERROR + 5;
/// There is no such export.
pub const NBD_REP_ERR_UNKNOWN: u32 = NBD_REP_FLAG_ERROR + 6;
/// The server is shutting down.
pub const NBD_REP_ERR_SHUTDOWN: u32 = NBD_REP_FLAG_ERROR + 7;
/// The client must ask for block sizes first.
pub const NBD_REP_ERR_BLOCK_SIZE_REQD: u32 = NBD_REP_FLAG_ERROR + 8;
/// The option or its reply is too large.
pub const NBD_REP_ERR_TOO_BIG: u32 = NBD_REP_FLAG_ERROR + 9;
/// Extended headers are in use, and the option does not go with them.
pub const NBD_REP_ERR_EXT_HEADER_REQD: u32 = NBD_REP_FLAG_ERROR + 10;

/// Information: size and transmission flags.
pub const NBD_INFO_EXPORT: u16 = 0;
/// Information: the canonical name.
pub const NBD_INFO_NAME: u16 = 1;
/// Information: a sentence for people.
pub const NBD_INFO_DESCRIPTION: u16 = 2;
/// Information: minimum, preferred and maximum block size.
pub const NBD_INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flag: the flags are valid. Always set.
pub const NBD_FLAG_HAS_FLAGS: u16 = 1 << 0;
/// Transmission flag: writes are refused.
pub const NBD_FLAG_READ_ONLY: u16 = 1 << 1;
/// Transmission flag: `NBD_CMD_FLUSH` works.
pub const NBD_FLAG_SEND_FLUSH: u16 = 1 << 2;
/// Transmission flag: `NBD_CMD_FLAG_FUA` works.
pub const NBD_FLAG_SEND_FUA: u16 = 1 << 3;
/// Transmission flag: the medium rotates.
pub const NBD_FLAG_ROTATIONAL: u16 = 1 << 4;
/// Transmission flag: `NBD_CMD_TRIM` works.
pub const NBD_FLAG_SEND_TRIM: u16 = 1 << 5;
/// Transmission flag: `NBD_CMD_WRITE_ZEROES` works.
pub const NBD_FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
/// Transmission flag: `NBD_CMD_FLAG_DF` works.
pub const NBD_FLAG_SEND_DF: u16 = 1 << 7;
/// Transmission flag: a flush on one connection covers all connections.
pub const NBD_FLAG_CAN_MULTI_CONN: u16 = 1 << 8;
/// Transmission flag: `NBD_CMD_CACHE` works.
pub const NBD_FLAG_SEND_CACHE: u16 = 1 << 10;
/// Transmission flag: `NBD_CMD_FLAG_FAST_ZERO` works.
pub const NBD_FLAG_SEND_FAST_ZERO: u16 = 1 << 11;
/// Transmission flag: `NBD_CMD_BLOCK_STATUS` takes a payload. Not offered.
pub const NBD_FLAG_BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;

/// Read.
pub const NBD_CMD_READ: u16 = 0;
/// Write.
pub const NBD_CMD_WRITE: u16 = 1;
/// Disconnect; has no reply.
pub const NBD_CMD_DISC: u16 = 2;
/// Make durable every write that was answered.
pub const NBD_CMD_FLUSH: u16 = 3;
/// The range is not needed any more.
pub const NBD_CMD_TRIM: u16 = 4;
/// The range will be read soon.
pub const NBD_CMD_CACHE: u16 = 5;
/// Write zeroes.
pub const NBD_CMD_WRITE_ZEROES: u16 = 6;
/// Describe a range by the selected metadata contexts.
pub const NBD_CMD_BLOCK_STATUS: u16 = 7;

/// Command flag: answer when the effect is durable.
pub const NBD_CMD_FLAG_FUA: u16 = 1 << 0;
/// Command flag: zeroes must not become a hole.
pub const NBD_CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// Command flag: the read comes in one chunk.
pub const NBD_CMD_FLAG_DF: u16 = 1 << 2;
/// Command flag: one extent is enough.
pub const NBD_CMD_FLAG_REQ_ONE: u16 = 1 << 3;
/// Command flag: fail at once unless zeroing is faster than writing.
pub const NBD_CMD_FLAG_FAST_ZERO: u16 = 1 << 4;
/// Command flag of extended headers: the length is that of a payload.
pub const NBD_CMD_FLAG_PAYLOAD_LEN: u16 = 1 << 5;

/// Chunk flag: the last chunk of its reply.
pub const NBD_REPLY_FLAG_DONE: u16 = 1 << 0;
/// Chunk: success with nothing to say.
pub const NBD_REPLY_TYPE_NONE: u16 = 0;
/// Chunk: offset and data.
pub const NBD_REPLY_TYPE_OFFSET_DATA: u16 = 1;
/// Chunk: offset and length of a range that reads as zeroes.
pub const NBD_REPLY_TYPE_OFFSET_HOLE: u16 = 2;
/// Chunk: extents with 32-bit lengths.
pub const NBD_REPLY_TYPE_BLOCK_STATUS: u16 = 5;
/// Chunk: extents with 64-bit lengths, with extended headers only.
pub const NBD_REPLY_TYPE_BLOCK_STATUS_EXT: u16 = 6;
/// Bit that marks a chunk type as an error.
pub const NBD_REPLY_TYPE_ERROR_BIT: u16 = 1 << 15;
/// Chunk: error and sentence.
pub const NBD_REPLY_TYPE_ERROR: u16 = NBD_REPLY_TYPE_ERROR_BIT + 1;
/// Chunk: error, sentence and the offset where it happened.
pub const NBD_REPLY_TYPE_ERROR_OFFSET: u16 = NBD_REPLY_TYPE_ERROR_BIT + 2;

/// `base:allocation` flag: the extent is not allocated.
pub const NBD_STATE_HOLE: u32 = 1 << 0;
/// `base:allocation` flag: the extent reads as zeroes.
pub const NBD_STATE_ZERO: u32 = 1 << 1;

/// The one metadata context that is offered.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// The identifier that [`BASE_ALLOCATION`] has in replies.
pub const BASE_ALLOCATION_ID: u32 = 1;

/// Bytes of the greeting.
pub const GREETING_LENGTH: usize = 18;
/// Bytes of the client's flags.
pub const CLIENT_FLAGS_LENGTH: usize = 4;
/// Bytes of an option's header.
pub const OPTION_HEADER_LENGTH: usize = 16;
/// Bytes of an option reply's header.
pub const OPTION_REPLY_HEADER_LENGTH: usize = 20;
/// Bytes of a compact request.
pub const REQUEST_LENGTH: usize = 28;
/// Bytes of an extended request.
pub const EXTENDED_REQUEST_LENGTH: usize = 32;
/// Bytes of a simple reply.
pub const SIMPLE_REPLY_LENGTH: usize = 16;
/// Bytes of a structured chunk's header.
pub const STRUCTURED_REPLY_LENGTH: usize = 20;
/// Bytes of an extended chunk's header.
pub const EXTENDED_REPLY_LENGTH: usize = 32;

/// Longest string of the protocol, in bytes. proto.md, "Conventions".
pub const STRING_LIMIT: usize = 4096;
/// Largest payload of a request or a reply, in bytes. proto.md, "Block size constraints".
pub const PAYLOAD_LIMIT: u32 = 32 << 20;
/// Largest payload that is read and thrown away to stay in step; beyond it the server closes.
pub const DRAIN_LIMIT: u32 = 64 << 20;
/// Largest data of an option that is kept; more is read, thrown away and refused.
pub const OPTION_DATA_LIMIT: u32 = 64 << 10;
/// Options of one negotiation; the next one closes the connection.
pub const OPTION_COUNT_LIMIT: u32 = 4096;
/// Bytes of one negotiation, thrown away ones included; an option that would pass it closes.
pub const NEGOTIATION_BYTES_LIMIT: u64 = 64 << 20;
/// Tandem's own information about an export ("TD"), where it is asked for: the runs of systems whose caches
/// hold all that was answered, 16 bytes each.
pub const TANDEM_INFO_KEEPERS: u16 = 0x5444;
/// The keeper of what is lost: no system has this name.
pub const NOBODY: [u8; 16] = [0xff; 16];
/// Keepers of an export that are told at most.
pub const KEEPERS_LIMIT: usize = 64;
/// Siblings that a connection of a device may name.
pub const SIBLINGS_LIMIT: usize = 64;
/// Extents of one block status reply; the client asks again for the rest.
pub const EXTENT_LIMIT: usize = 8192;
