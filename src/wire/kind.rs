//! The types of packets, their numbers, and what follows the header of each.
//!
//! Numbers are never reused.

use super::{BITMAP_WORDS_MAX, BODY_MAX, FEATURES_BODY, Packet};
use super::{VERIFY_BLOCKS_MAX, VERIFY_DIGESTS_MAX};
use crate::resource::{PAYLOAD_MAX, ZEROES_MAX};
use crate::secret::{CHALLENGE_SIZE, PROOFS_MAX};

/// The longest body of a Response, bytes: proofs by SHA-512.
const RESPONSE_MAX: u32 = PROOFS_MAX as u32 * 64;

/// What `length` in the header means for a type, and what follows the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nothing follows, `length` is 0.
    Bare,
    /// Nothing follows; `length` is the length of the range, at most this many bytes.
    Range(u32),
    /// A range as in `Range`, and a body of this many bytes.
    RangeAndBody(u32, u32),
    /// A body of exactly this many bytes.
    Fixed(u32),
    /// A body of 1 to this many bytes.
    Body(u32),
    /// A body of 64-bit words, 1 to this many.
    Words(u32),
    /// `length` bytes of payload, 4096 to 1 MiB, a multiple of 4096.
    Payload,
}

macro_rules! kinds {
    ($($pattern:pat => $name:ident = $number:literal, $shape:expr;)*) => {
        /// The type of a packet. The discriminant is its number on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum Kind { $($name = $number,)* }

        impl Kind {
            /// Every type, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The type with this number.
            #[must_use]
            pub fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// Its name, as [`Packet`]'s variant.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What follows the header.
            #[must_use]
            pub fn shape(self) -> Shape {
                match self { $(Self::$name => $shape,)* }
            }
        }

        impl Packet {
            /// Its type.
            #[must_use]
            pub fn kind(&self) -> Kind {
                match self { $($pattern => Kind::$name,)* }
            }
        }
    };
}

kinds! {
    Packet::Features(_) => Features = 1, Shape::Fixed(FEATURES_BODY);
    Packet::Handshake(_) => Handshake = 2, Shape::Body(BODY_MAX);
    Packet::Refused(_) => Refused = 3, Shape::Body(BODY_MAX);
    Packet::Challenge { .. } => Challenge = 4, Shape::Fixed(CHALLENGE_SIZE as u32);
    Packet::Response { .. } => Response = 5, Shape::Body(RESPONSE_MAX);
    Packet::Bitmap { .. } => Bitmap = 6, Shape::Words(BITMAP_WORDS_MAX as u32);
    Packet::BitmapEnd { .. } => BitmapEnd = 7, Shape::Bare;
    Packet::Adopted { .. } => Adopted = 8, Shape::Bare;
    Packet::Opened { .. } => Opened = 9, Shape::Bare;
    Packet::Number { .. } => Number = 10, Shape::Bare;
    Packet::Data { .. } => Data = 16, Shape::Payload;
    Packet::Zeroes { .. } => Zeroes = 17, Shape::Range(ZEROES_MAX as u32);
    Packet::WriteAck { .. } => WriteAck = 18, Shape::Bare;
    Packet::NegAck { .. } => NegAck = 19, Shape::Bare;
    Packet::Flush { .. } => Flush = 20, Shape::Bare;
    Packet::FlushAck { .. } => FlushAck = 21, Shape::Bare;
    Packet::ReadRequest { .. } => ReadRequest = 22, Shape::Range(PAYLOAD_MAX);
    Packet::ReadReply { .. } => ReadReply = 23, Shape::Payload;
    Packet::ReadError { .. } => ReadError = 24, Shape::Bare;
    Packet::NoSpace { .. } => NoSpace = 25, Shape::Bare;
    Packet::LetGo { .. } => LetGo = 26, Shape::Bare;
    Packet::TakeBack { .. } => TakeBack = 27, Shape::Bare;
    Packet::TakenBack { .. } => TakenBack = 28, Shape::Bare;
    Packet::HoleRequest { .. } => HoleRequest = 29, Shape::Range(ZEROES_MAX as u32);
    Packet::HoleAnswer { .. } => HoleAnswer = 30, Shape::Bare;
    Packet::DigestRequest { .. } => DigestRequest = 31, Shape::Range(PAYLOAD_MAX);
    Packet::ResyncRequest { .. } => ResyncRequest = 32, Shape::Range(PAYLOAD_MAX);
    Packet::ResyncData { .. } => ResyncData = 33, Shape::Payload;
    Packet::ResyncZeroes { .. } => ResyncZeroes = 34, Shape::Bare;
    Packet::ResyncError { .. } => ResyncError = 35, Shape::Bare;
    Packet::ResyncAck { .. } => ResyncAck = 36, Shape::Bare;
    Packet::InSync { .. } => InSync = 37, Shape::Bare;
    Packet::ResyncEnd { .. } => ResyncEnd = 38, Shape::Bare;
    Packet::ResyncDone { .. } => ResyncDone = 39, Shape::Bare;
    Packet::VerifyStart { .. } => VerifyStart = 40, Shape::Bare;
    Packet::VerifyAnswer { .. } => VerifyAnswer = 41, Shape::Bare;
    Packet::VerifyRequest { .. } => VerifyRequest = 42, Shape::Range(PAYLOAD_MAX);
    Packet::VerifyDigests { .. } => VerifyDigests = 43, Shape::Body(VERIFY_DIGESTS_MAX as u32);
    Packet::VerifyError { .. } => VerifyError = 44, Shape::Bare;
    Packet::VerifyResult { .. } => VerifyResult = 45, Shape::Words(VERIFY_BLOCKS_MAX as u32 / 64);
    Packet::VerifyEnd { .. } => VerifyEnd = 46, Shape::Bare;
    Packet::DigestAnswer { .. } => DigestAnswer = 47, Shape::Body(VERIFY_DIGESTS_MAX as u32);
    Packet::State { .. } => State = 48, Shape::Bare;
    Packet::PromoteRequest { .. } => PromoteRequest = 49, Shape::Bare;
    Packet::PromoteAnswer { .. } => PromoteAnswer = 50, Shape::Bare;
    Packet::Leave { .. } => Leave = 51, Shape::Bare;
    Packet::LeaveAnswer => LeaveAnswer = 52, Shape::Bare;
    Packet::NewUuid { .. } => NewUuid = 53, Shape::Bare;
    Packet::NewUuidAck { .. } => NewUuidAck = 54, Shape::Bare;
    Packet::StartResync { .. } => StartResync = 55, Shape::Bare;
    Packet::Sample { .. } => Sample = 56, Shape::RangeAndBody(PAYLOAD_MAX, 4);
    Packet::SampleAnswer { .. } => SampleAnswer = 57, Shape::Bare;
    Packet::ClearBitmap { .. } => ClearBitmap = 58, Shape::Bare;
    Packet::StartResyncAnswer { .. } => StartResyncAnswer = 59, Shape::Bare;
    Packet::Resize { .. } => Resize = 60, Shape::Bare;
    Packet::ResizeAnswer { .. } => ResizeAnswer = 61, Shape::Bare;
    Packet::HandOver { .. } => HandOver = 62, Shape::Bare;
    Packet::HandOverAnswer { .. } => HandOverAnswer = 63, Shape::Bare;
    Packet::Ping => Ping = 64, Shape::Bare;
    Packet::PingAck => PingAck = 65, Shape::Bare;
    Packet::Echo { .. } => Echo = 66, Shape::Body(BODY_MAX);
    Packet::EchoReply { .. } => EchoReply = 67, Shape::Body(BODY_MAX);
    Packet::Description(_) => Description = 68, Shape::Body(BODY_MAX);
}

impl Shape {
    /// Whether `length` is possible for this shape.
    #[must_use]
    pub fn allows(self, length: u32) -> bool {
        let blocks = |max: u32| length != 0 && length <= max && length.is_multiple_of(4096);
        match self {
            Self::Bare => length == 0,
            Self::Range(max) | Self::RangeAndBody(max, _) => blocks(max),
            Self::Fixed(bytes) => length == bytes,
            Self::Body(max) => length != 0 && length <= max,
            Self::Words(max) => length != 0 && length / 8 <= max && length.is_multiple_of(8),
            Self::Payload => blocks(PAYLOAD_MAX),
        }
    }

    /// Bytes of body that follow a header with this `length`; none of them is payload.
    #[must_use]
    pub fn body_length(self, length: u32) -> u32 {
        match self {
            Self::Bare | Self::Range(_) | Self::Payload => 0,
            Self::RangeAndBody(_, body) => body,
            Self::Fixed(_) | Self::Body(_) | Self::Words(_) => length,
        }
    }
}
