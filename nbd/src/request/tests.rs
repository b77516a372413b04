//! Golden bytes, the error table of proto.md, and hostile requests.

use proptest::prelude::*;

use super::*;
use crate::session::{BlockSizes, ExportInfo};

const SIZE: u64 = 1 << 30;

fn session(mode: u8) -> SessionParameters {
    let info = ExportInfo {
        size: SIZE,
        read_only: false,
        description: String::new(),
        block: BlockSizes::default(),
        keepers: Vec::new(),
    };
    SessionParameters {
        export: "r0".to_owned(),
        structured: mode > 0,
        extended: mode > 1,
        base_allocation: mode > 0,
        flags: info.transmission_flags(mode > 0),
        size: SIZE,
        client_asked_block_size: true,
        block: info.block,
        device: None,
    }
}

fn request(command: u16, flags: u16, offset: u64, length: u64, extended: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let magic = if extended { NBD_EXTENDED_REQUEST_MAGIC } else { NBD_REQUEST_MAGIC };
    out.extend_from_slice(&magic.to_be_bytes());
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&command.to_be_bytes());
    out.extend_from_slice(&7_u64.to_be_bytes());
    out.extend_from_slice(&offset.to_be_bytes());
    if extended {
        out.extend_from_slice(&length.to_be_bytes());
    } else {
        out.extend_from_slice(&(length as u32).to_be_bytes());
    }
    out
}

fn judged(
    session: &SessionParameters,
    command: u16,
    flags: u16,
    offset: u64,
    length: u64,
) -> Result<Checked, Errno> {
    let bytes = request(command, flags, offset, length, session.extended);
    check(&parse(&bytes, session).unwrap(), session)
}

#[test]
fn a_compact_request_parses_from_golden_bytes() {
    let bytes = b"\x25\x60\x95\x13\x00\x01\x00\x01\x01\x02\x03\x04\x05\x06\x07\x08\
                  \x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x10\x00payload";
    let expected = Request {
        command: Command::Write,
        flags: NBD_CMD_FLAG_FUA,
        cookie: 0x0102_0304_0506_0708,
        offset: 1 << 20,
        length: 4096,
        payload_length: 4096,
    };
    let session = session(1);
    assert_eq!(header_length(&session), 28);
    assert_eq!(parse(bytes, &session), Ok(expected));
    let write = Checked::Write { offset: 1 << 20, length: 4096, fua: true };
    assert_eq!(check(&expected, &session), Ok(write));
}

#[test]
fn an_extended_request_parses_from_golden_bytes() {
    let bytes = b"\x21\xe4\x1c\x71\x00\x02\x00\x06\x01\x02\x03\x04\x05\x06\x07\x08\
                  \x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x01\x00\x00\x10\x00";
    let mut session = session(2);
    session.size = 1 << 40;
    let request = parse(bytes, &session).unwrap();
    assert_eq!((header_length(&session), request.payload_length), (32, 0));
    assert_eq!(
        check(&request, &session),
        Ok(Checked::WriteZeroes {
            offset: 1 << 20,
            length: (1 << 32) + 4096,
            fua: false,
            no_hole: true,
            fast: false,
        })
    );
}

#[test]
fn a_stream_out_of_step_must_close() {
    let compact = request(0, 0, 0, 1, false);
    let extended = request(0, 0, 0, 1, true);
    let bad = |bytes: &[u8], mode| parse(bytes, &session(mode)).unwrap_err();
    assert!(matches!(bad(&compact[..27], 0), RequestError::Incomplete { wanted: 28, given: 27 }));
    assert!(matches!(bad(&compact, 2), RequestError::Incomplete { wanted: 32, given: 28 }));
    assert!(matches!(bad(&extended, 0), RequestError::BadMagic { .. }));
    let mut padded = compact.clone();
    padded.extend_from_slice(&[0; 4]);
    assert!(matches!(bad(&padded, 2), RequestError::BadMagic { .. }));
    let limit = u64::from(DRAIN_LIMIT);
    assert_eq!(
        bad(&request(1, 0, 0, limit + 1, false), 0),
        RequestError::PayloadTooLarge(limit + 1)
    );
    let flag = NBD_CMD_FLAG_PAYLOAD_LEN;
    let huge = request(7, flag, 0, u64::MAX, true);
    assert_eq!(bad(&huge, 2), RequestError::PayloadTooLarge(u64::MAX));
}

/// proto.md, "Error values": which number answers what. `None` is success.
#[test]
fn error_table() {
    use Errno::*;
    const FUA: u16 = NBD_CMD_FLAG_FUA;
    const ALL_ZEROES: u16 = FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
    let mib32 = u64::from(PAYLOAD_LIMIT);
    /// Command, flags, offset, length, mode (0 simple, 1 structured, 2 extended), expected.
    type Case = (u16, u16, u64, u64, u8, Option<Errno>);
    #[rustfmt::skip]
    let table: &[Case] = &[
        (NBD_CMD_READ, 0, 0, mib32, 0, None),
        (NBD_CMD_READ, 0, 1, 3, 0, None),
        (NBD_CMD_READ, 0, SIZE, 0, 0, None),
        (NBD_CMD_READ, FUA, 0, 1, 0, None),
        (NBD_CMD_READ, 0, 0, mib32 + 1, 0, Some(EINVAL)),
        (NBD_CMD_READ, 0, 0, mib32 + 1, 1, Some(EINVAL)),
        (NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, mib32 + 1, 1, Some(EOVERFLOW)),
        (NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 65536, 1, None),
        (NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 65536, 0, Some(EINVAL)),
        (NBD_CMD_READ, 0, SIZE - 1, 2, 0, Some(EINVAL)),
        (NBD_CMD_READ, 0, u64::MAX, 2, 0, Some(EINVAL)),
        (NBD_CMD_READ, 0, 0, u64::MAX, 2, Some(EINVAL)),
        (NBD_CMD_WRITE, 0, SIZE - mib32, mib32, 0, None),
        (NBD_CMD_WRITE, 0, SIZE - 1, 2, 0, Some(ENOSPC)),
        (NBD_CMD_WRITE, 0, u64::MAX, 1, 0, Some(ENOSPC)),
        (NBD_CMD_WRITE, 0, 0, mib32 + 1, 0, Some(EINVAL)),
        (NBD_CMD_WRITE, 0, 0, 2 * mib32, 1, Some(EINVAL)),
        (NBD_CMD_WRITE, NBD_CMD_FLAG_DF, 0, 1, 1, Some(EINVAL)),
        (NBD_CMD_WRITE, NBD_CMD_FLAG_PAYLOAD_LEN, 0, 1, 1, Some(EINVAL)),
        (NBD_CMD_WRITE, NBD_CMD_FLAG_PAYLOAD_LEN, 0, 1, 2, None),
        (NBD_CMD_WRITE, 0, 0, 1, 2, None),
        (NBD_CMD_DISC, 0, 0, 0, 0, None),
        (NBD_CMD_FLUSH, 0, 0, 0, 0, None),
        (NBD_CMD_FLUSH, FUA, 0, 0, 0, None),
        (NBD_CMD_FLUSH, 0, 0, 1, 0, Some(EINVAL)),
        (NBD_CMD_FLUSH, 0, 1, 0, 0, Some(EINVAL)),
        (NBD_CMD_TRIM, FUA, 0, SIZE, 0, None),
        (NBD_CMD_TRIM, 0, 1, SIZE, 0, Some(EINVAL)),
        (NBD_CMD_TRIM, NBD_CMD_FLAG_NO_HOLE, 0, 1, 0, Some(EINVAL)),
        (NBD_CMD_CACHE, 0, 0, SIZE, 0, None),
        (NBD_CMD_CACHE, 0, 1, SIZE, 0, Some(EINVAL)),
        (NBD_CMD_WRITE_ZEROES, ALL_ZEROES, 0, SIZE, 0, None),
        (NBD_CMD_WRITE_ZEROES, 0, 1, SIZE, 0, Some(ENOSPC)),
        (NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_DF, 0, 1, 1, Some(EINVAL)),
        (NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 0, SIZE, 1, None),
        (NBD_CMD_BLOCK_STATUS, 0, 0, SIZE, 0, Some(EINVAL)),
        (NBD_CMD_BLOCK_STATUS, 0, 0, 0, 1, Some(EINVAL)),
        (NBD_CMD_BLOCK_STATUS, 0, 1, SIZE, 1, Some(EINVAL)),
        (NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_PAYLOAD_LEN, 0, 16, 2, Some(EINVAL)),
        (8, 0, 0, 0, 0, Some(EINVAL)),
        (0xffff, 0, 0, 1, 2, Some(EINVAL)),
        (NBD_CMD_READ, 1 << 15, 0, 1, 1, Some(EINVAL)),
    ];
    for (command, flags, offset, length, mode, expected) in table {
        let found = judged(&session(*mode), *command, *flags, *offset, *length);
        let case = (command, flags, offset, length, mode);
        assert_eq!(found.err(), *expected, "{case:?}: {found:?}");
    }
}

#[test]
fn a_read_only_export_refuses_changes_alone() {
    let mut session = session(1);
    session.flags |= NBD_FLAG_READ_ONLY;
    for command in [NBD_CMD_WRITE, NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES] {
        assert_eq!(judged(&session, command, 0, 0, 4096), Err(Errno::EPERM));
        assert_eq!(judged(&session, command, 0, SIZE, 4096), Err(Errno::EPERM));
    }
    for command in [NBD_CMD_READ, NBD_CMD_CACHE, NBD_CMD_BLOCK_STATUS] {
        assert!(judged(&session, command, 0, 0, 4096).is_ok());
    }
    assert_eq!(judged(&session, NBD_CMD_FLUSH, 0, 0, 0), Ok(Checked::Flush));
}

#[test]
fn alignment_is_asked_only_of_a_client_that_agreed() {
    let mut session = session(0);
    session.block = BlockSizes::new(512, 4096, 1 << 20).unwrap();
    for (offset, length) in [(1, 512), (512, 1)] {
        assert_eq!(judged(&session, NBD_CMD_WRITE, 0, offset, length), Err(Errno::EINVAL));
        assert_eq!(judged(&session, NBD_CMD_READ, 0, offset, length), Err(Errno::EINVAL));
    }
    session.client_asked_block_size = false;
    assert!(judged(&session, NBD_CMD_WRITE, 0, 1, 1).is_ok());
    assert_eq!(judged(&session, NBD_CMD_READ, 0, 0, (1 << 20) + 1), Err(Errno::EINVAL));
}

#[test]
fn a_refused_request_says_what_to_throw_away() {
    let session0 = session(0);
    let beyond = parse(&request(1, 0, SIZE, 8192, false), &session0).unwrap();
    assert_eq!(beyond.payload_length, 8192);
    let large = parse(&request(1, 0, 0, 50 << 20, false), &session0).unwrap();
    assert_eq!((large.payload_length, check(&large, &session0)), (50 << 20, Err(Errno::EINVAL)));
    // Only extended headers give other commands a payload.
    let flag = NBD_CMD_FLAG_PAYLOAD_LEN;
    let status = parse(&request(7, flag, 0, 24, true), &session(2)).unwrap();
    assert_eq!(status.payload_length, 24);
    let unknown = parse(&request(99, flag, 0, 24, true), &session(2)).unwrap();
    assert_eq!(unknown.payload_length, 24);
    let unknown = parse(&request(99, flag, 0, 24, false), &session(1)).unwrap();
    assert_eq!(unknown.payload_length, 0);
}

#[test]
fn errnos_are_those_of_the_protocol() {
    let codes: Vec<u32> = Errno::ALL.iter().map(|errno| errno.code()).collect();
    assert_eq!(codes, [1, 5, 12, 22, 28, 75, 95, 108]);
    for errno in Errno::ALL {
        assert_eq!(Errno::from_code(errno.code()), Some(errno));
        assert_eq!(Errno::from_os(errno.code() as i32), errno);
    }
    assert_eq!(Errno::from_code(2), None);
    assert_eq!((Errno::from_os(2), Errno::from_os(122)), (Errno::EIO, Errno::ENOSPC));
}

#[test]
fn block_sizes_are_lawful_or_refused() {
    assert!(BlockSizes::new(1, 4096, PAYLOAD_LIMIT).is_ok_and(|b| b == BlockSizes::default()));
    for (minimum, preferred, maximum) in [
        (0, 4096, 1 << 20),
        (3, 4096, 1 << 20),
        (1 << 17, 1 << 17, 1 << 20),
        (1, 256, 1 << 20),
        (4096, 512, 1 << 20),
        (1, 4096, 65536),
        (1, 4096, PAYLOAD_LIMIT + 1),
        (512, 4096, (1 << 20) + 1),
        (1, 1 << 21, 1 << 20),
    ] {
        assert!(BlockSizes::new(minimum, preferred, maximum).is_err());
    }
}

proptest! {
    #[test]
    fn random_requests_never_panic_and_what_passes_is_inside(
        mut bytes in prop::collection::vec(any::<u8>(), 0..40),
        magic in any::<bool>(),
        small in any::<bool>(),
        mode in 0..3_u8,
        asked in any::<bool>(),
    ) {
        let mut session = session(mode);
        session.client_asked_block_size = asked;
        if magic && bytes.len() >= 8 {
            let magic =
                if mode == 2 { NBD_EXTENDED_REQUEST_MAGIC } else { NBD_REQUEST_MAGIC };
            bytes[..4].copy_from_slice(&magic.to_be_bytes());
            bytes[4..7].fill(0);
            bytes[7] %= 9;
            if small && bytes.len() >= 28 {
                bytes[16..26].fill(0);
            }
        }
        let Ok(request) = parse(&bytes, &session) else { return Ok(()) };
        prop_assert!(request.payload_length <= DRAIN_LIMIT);
        let range = match check(&request, &session) {
            Ok(Checked::Read { offset, length, .. } | Checked::Write { offset, length, .. }) => {
                prop_assert!(length <= PAYLOAD_LIMIT);
                (offset, u64::from(length))
            }
            Ok(
                Checked::Trim { offset, length, .. }
                | Checked::Cache { offset, length }
                | Checked::WriteZeroes { offset, length, .. }
                | Checked::BlockStatus { offset, length, .. },
            ) => (offset, length),
            Ok(Checked::Flush | Checked::Disconnect) | Err(_) => (0, 0),
        };
        prop_assert!(range.0.checked_add(range.1).is_some_and(|end| end <= SIZE));
    }
}
