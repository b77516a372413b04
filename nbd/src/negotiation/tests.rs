//! Golden bytes, the option table, fragments of every size, and hostile clients.

use proptest::prelude::*;

use super::*;
use crate::session::BlockSizes;

fn export() -> ExportInfo {
    ExportInfo {
        size: 0x1122_3344_5566_7788,
        read_only: false,
        description: "two copies".to_owned(),
        block: BlockSizes::default(),
        keepers: vec![[1; 16], [2; 16]],
    }
}

/// The server behind the tests: `r0` is there, `r1` is served elsewhere, the rest is unknown.
fn look_up(name: &str) -> Result<ExportInfo, LookupError> {
    match name {
        "r0" => Ok(export()),
        "r1" => Err(LookupError::Policy("bob is Primary; connect there".to_owned())),
        "r2" => Err(LookupError::Shutdown("the server is stopping".to_owned())),
        "r3" => Err(LookupError::Platform("no disk here".to_owned())),
        _ => Err(LookupError::Unknown),
    }
}

fn negotiation() -> Negotiation {
    let listed = |name: &str, description: &str| ListedExport {
        name: name.to_owned(),
        description: description.to_owned(),
    };
    Negotiation::with_descriptions(vec![listed("r0", "two copies"), listed("r1", "")])
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut out = b"IHAVEOPT".to_vec();
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
    out
}

fn flags(flags: u32) -> Vec<u8> {
    flags.to_be_bytes().to_vec()
}

fn string(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u32).to_be_bytes().to_vec();
    out.extend_from_slice(text.as_bytes());
    out
}

fn info_data(name: &str, requests: &[u16]) -> Vec<u8> {
    let mut out = string(name);
    out.extend_from_slice(&(requests.len() as u16).to_be_bytes());
    requests.iter().for_each(|kind| out.extend_from_slice(&kind.to_be_bytes()));
    out
}

fn meta_data(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut out = string(name);
    out.extend_from_slice(&(queries.len() as u32).to_be_bytes());
    queries.iter().for_each(|query| out.extend_from_slice(&string(query)));
    out
}

/// Everything that a script led to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    sent: Vec<u8>,
    lookups: Vec<(String, bool)>,
    session: Option<SessionParameters>,
    closed: Option<CloseReason>,
    /// Bytes of the script that were not read.
    left: usize,
}

/// Drives a negotiation with a script, in reads of at most `fragment` bytes.
fn run(machine: &mut Negotiation, script: &[u8], fragment: usize) -> Outcome {
    let mut outcome = Outcome::default();
    let mut rest = script;
    loop {
        let wants = machine.wants();
        assert!(wants > 0 && wants <= OPTION_DATA_LIMIT as usize);
        let (now, later) = rest.split_at(wants.min(fragment).min(rest.len()));
        if now.is_empty() {
            return outcome;
        }
        rest = later;
        outcome.left = rest.len();
        let mut step = machine.feed(now);
        while let Step::Lookup { name, go } = step {
            assert_eq!(machine.wants(), 0);
            step = machine.answer(look_up(&name));
            outcome.lookups.push((name, go));
        }
        match step {
            Step::Continue { send } => outcome.sent.extend_from_slice(&send),
            Step::Enter { send, session } => {
                outcome.sent.extend_from_slice(&send);
                outcome.session = Some(session);
                assert_eq!(machine.wants(), 0);
                return outcome;
            }
            Step::Close { send, reason } => {
                outcome.sent.extend_from_slice(&send);
                outcome.closed = Some(reason);
                assert_eq!(machine.wants(), 0);
                return outcome;
            }
            Step::Lookup { .. } => unreachable!(),
        }
    }
}

fn run_all(parts: &[Vec<u8>]) -> Outcome {
    run(&mut negotiation(), &parts.concat(), usize::MAX)
}

/// The reply packets in what was sent: option, kind, data.
fn packets(mut sent: &[u8]) -> Vec<(u32, u32, Vec<u8>)> {
    let mut packets = Vec::new();
    while !sent.is_empty() {
        let mut fields = Fields::new(sent);
        assert_eq!(fields.u64(), Some(0x0003_e889_0455_65a9));
        let (option, kind) = (fields.u32().unwrap(), fields.u32().unwrap());
        let length = fields.u32().unwrap() as usize;
        packets.push((option, kind, fields.bytes(length).unwrap().to_vec()));
        sent = fields.rest();
    }
    packets
}

fn kinds(sent: &[u8]) -> Vec<u32> {
    packets(sent).into_iter().map(|(_, kind, _)| kind).collect()
}

#[test]
fn greeting_is_fixed_newstyle_without_zeroes() {
    assert_eq!(&Negotiation::greeting(), b"NBDMAGICIHAVEOPT\x00\x03");
}

#[test]
fn go_answers_golden_bytes() {
    let go = option(NBD_OPT_GO, &info_data("r0", &[NBD_INFO_BLOCK_SIZE]));
    let outcome = run_all(&[flags(3), option(NBD_OPT_STRUCTURED_REPLY, &[]), go]);
    let expected: Vec<u8> = [
        // ACK of STRUCTURED_REPLY
        &b"\x00\x03\xe8\x89\x04\x55\x65\xa9\x00\x00\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00"[..],
        // GO: INFO_EXPORT
        b"\x00\x03\xe8\x89\x04\x55\x65\xa9\x00\x00\x00\x07\x00\x00\x00\x03\x00\x00\x00\x0c",
        b"\x00\x00\x11\x22\x33\x44\x55\x66\x77\x88\x0d\xed",
        // INFO_BLOCK_SIZE 1, 4096, 32 MiB
        b"\x00\x03\xe8\x89\x04\x55\x65\xa9\x00\x00\x00\x07\x00\x00\x00\x03\x00\x00\x00\x0e",
        b"\x00\x03\x00\x00\x00\x01\x00\x00\x10\x00\x02\x00\x00\x00",
        // ACK
        b"\x00\x03\xe8\x89\x04\x55\x65\xa9\x00\x00\x00\x07\x00\x00\x00\x01\x00\x00\x00\x00",
    ]
    .concat();
    assert_eq!(outcome.sent, expected);
    assert_eq!(outcome.lookups, [("r0".to_owned(), true)]);
    let session = outcome.session.unwrap();
    assert_eq!(
        session,
        SessionParameters {
            export: "r0".to_owned(),
            structured: true,
            extended: false,
            base_allocation: false,
            flags: 0x0ded,
            size: 0x1122_3344_5566_7788,
            client_asked_block_size: true,
            block: BlockSizes::default(),
            device: None,
        }
    );
}

#[test]
fn export_name_answers_size_and_flags_with_and_without_zeroes() {
    let head = b"\x11\x22\x33\x44\x55\x66\x77\x88\x0d\x6d";
    let long = run_all(&[flags(1), option(NBD_OPT_EXPORT_NAME, b"r0")]);
    assert_eq!(long.sent, [&head[..], &[0; 124]].concat());
    let short = run_all(&[flags(3), option(NBD_OPT_EXPORT_NAME, b"r0")]);
    assert_eq!(short.sent, head);
    assert!(!short.session.unwrap().client_asked_block_size);
    // An old newstyle client has no flags at all.
    let old = run_all(&[flags(0), option(NBD_OPT_EXPORT_NAME, b"r0")]);
    assert_eq!(old.sent.len(), 134);
}

#[test]
fn export_name_that_cannot_be_served_closes_and_says_why() {
    for (name, word) in [(&b"r9"[..], "no export"), (b"r1", "bob"), (b"\xff", "UTF-8")] {
        let outcome = run_all(&[flags(3), option(NBD_OPT_EXPORT_NAME, name)]);
        assert!(outcome.sent.is_empty());
        let reason = outcome.closed.unwrap();
        assert!(matches!(reason, CloseReason::ExportRefused(_)), "{reason:?}");
        assert!(reason.to_string().contains(word), "{reason}");
    }
    let outcome = run_all(&[flags(3), option(NBD_OPT_EXPORT_NAME, &[b'a'; 4097])]);
    assert!(matches!(outcome.closed, Some(CloseReason::ExportRefused(_))));
    assert_eq!(outcome.left, 4097, "the name is not read");
}

/// What each option is answered, sent right after the client flags and followed by a LIST that
/// must still be understood.
#[test]
fn option_table() {
    let ack = NBD_REP_ACK;
    let table: Vec<(&str, u32, Vec<u8>, Vec<u32>)> = vec![
        ("list", 3, vec![], vec![NBD_REP_SERVER, NBD_REP_SERVER, ack]),
        ("list with data", 3, vec![0], vec![NBD_REP_ERR_INVALID]),
        ("peek", 4, vec![1, 2], vec![NBD_REP_ERR_UNSUP]),
        ("starttls", 5, vec![], vec![NBD_REP_ERR_UNSUP]),
        ("starttls with data", 5, vec![0; 70_000], vec![NBD_REP_ERR_UNSUP]),
        ("info", 6, info_data("r0", &[]), vec![NBD_REP_INFO, ack]),
        ("info of all", 6, info_data("r0", &[0, 1, 2, 3, 99]), vec![3, 3, 3, 3, ack]),
        ("info unknown", 6, info_data("r9", &[]), vec![NBD_REP_ERR_UNKNOWN]),
        ("info elsewhere", 6, info_data("r1", &[]), vec![NBD_REP_ERR_POLICY]),
        ("info stopping", 6, info_data("r2", &[]), vec![NBD_REP_ERR_SHUTDOWN]),
        ("info no disk", 6, info_data("r3", &[]), vec![NBD_REP_ERR_PLATFORM]),
        ("info without data", 6, vec![], vec![NBD_REP_ERR_INVALID]),
        ("info cut", 6, b"\0\0\0\x09r0\0\0".to_vec(), vec![NBD_REP_ERR_INVALID]),
        ("info count", 6, b"\0\0\0\x02r0\0\x09".to_vec(), vec![NBD_REP_ERR_INVALID]),
        ("info tail", 6, b"\0\0\0\x02r0\0\0x".to_vec(), vec![NBD_REP_ERR_INVALID]),
        ("info NUL", 6, info_data("r\0", &[]), vec![NBD_REP_ERR_INVALID]),
        ("info 4097", 6, info_data(&"a".repeat(4097), &[]), vec![NBD_REP_ERR_INVALID]),
        ("info 4096", 6, info_data(&"a".repeat(4096), &[]), vec![NBD_REP_ERR_UNKNOWN]),
        ("info too big", 6, vec![0; 65_537], vec![NBD_REP_ERR_TOO_BIG]),
        ("go unknown", 7, info_data("r9", &[]), vec![NBD_REP_ERR_UNKNOWN]),
        ("go elsewhere", 7, info_data("r1", &[3]), vec![NBD_REP_ERR_POLICY]),
        ("structured", 8, vec![], vec![ack]),
        ("structured with data", 8, vec![0], vec![NBD_REP_ERR_INVALID]),
        ("list meta first", 9, meta_data("r0", &[]), vec![NBD_REP_ERR_INVALID]),
        ("set meta first", 10, meta_data("r0", &[]), vec![NBD_REP_ERR_INVALID]),
        ("extended", 11, vec![], vec![ack]),
        ("extended with data", 11, vec![0; 3], vec![NBD_REP_ERR_INVALID]),
        ("unknown", 12, vec![], vec![NBD_REP_ERR_UNSUP]),
        ("unknown, large", 0x7fff_ffff, vec![7; 200_000], vec![NBD_REP_ERR_UNSUP]),
        ("zero", 0, vec![1], vec![NBD_REP_ERR_UNSUP]),
    ];
    for (what, number, data, expected) in table {
        let outcome = run_all(&[flags(3), option(number, &data), option(NBD_OPT_LIST, &[])]);
        let packets = packets(&outcome.sent);
        let (own, list) = packets.split_at(packets.len() - 3);
        assert!(own.iter().all(|(option, _, _)| *option == number), "{what}");
        assert_eq!(own.iter().map(|packet| packet.1).collect::<Vec<_>>(), expected, "{what}");
        for (_, _, data) in own.iter().filter(|packet| packet.1 & NBD_REP_FLAG_ERROR != 0) {
            let words = std::str::from_utf8(data).unwrap();
            assert!(words.contains(' '), "{what}: an error has a sentence, not {words:?}");
        }
        assert!(list.iter().all(|(option, _, _)| *option == NBD_OPT_LIST), "{what}: in step");
        assert_eq!((outcome.closed, outcome.left), (None, 0), "{what}");
    }
}

#[test]
fn list_shows_names_and_descriptions() {
    let outcome = run_all(&[flags(3), option(NBD_OPT_LIST, &[])]);
    let packets = packets(&outcome.sent);
    assert_eq!(packets[0].2, b"\0\0\0\x02r0two copies");
    assert_eq!(packets[1].2, b"\0\0\0\x02r1");
    assert!(outcome.lookups.is_empty());
}

#[test]
fn info_and_go_answer_alike_and_only_go_goes() {
    let data = info_data("r0", &[1, 2, 3]);
    let outcome = run_all(&[flags(3), option(NBD_OPT_INFO, &data), option(NBD_OPT_GO, &data)]);
    let packets = packets(&outcome.sent);
    let (info, go) = packets.split_at(packets.len() / 2);
    let strip = |packets: &[(u32, u32, Vec<u8>)]| -> Vec<(u32, Vec<u8>)> {
        packets.iter().map(|(_, kind, data)| (*kind, data.clone())).collect()
    };
    assert_eq!(strip(info), strip(go));
    assert_eq!(info[1].2, b"\0\x01r0");
    assert_eq!(info[2].2, b"\0\x02two copies");
    assert_eq!(outcome.lookups, [("r0".to_owned(), false), ("r0".to_owned(), true)]);
    assert!(outcome.session.is_some());
}

#[test]
fn abort_is_acknowledged_and_closes() {
    for data in [vec![], vec![1; 100_000]] {
        let outcome = run_all(&[flags(3), option(NBD_OPT_ABORT, &data)]);
        assert_eq!(kinds(&outcome.sent), [NBD_REP_ACK]);
        assert_eq!(outcome.closed, Some(CloseReason::Aborted));
    }
}

#[test]
fn unknown_client_flags_and_a_wrong_magic_close() {
    let outcome = run_all(&[flags(7)]);
    assert_eq!(outcome.closed, Some(CloseReason::UnknownClientFlags(7)));
    let outcome = run_all(&[flags(3), b"GET / HTTP/1.1\r\n".to_vec()]);
    assert_eq!(outcome.closed, Some(CloseReason::BadOptionMagic(0x4745_5420_2f20_4854)));
}

#[test]
fn extended_headers_include_structured_replies() {
    let extended = option(NBD_OPT_EXTENDED_HEADERS, &[]);
    let structured = option(NBD_OPT_STRUCTURED_REPLY, &[]);
    let go = option(NBD_OPT_GO, &info_data("r0", &[]));
    let outcome = run_all(&[flags(3), extended.clone(), structured.clone(), extended.clone(), go]);
    assert_eq!(
        kinds(&outcome.sent)[..3],
        [NBD_REP_ACK, NBD_REP_ERR_EXT_HEADER_REQD, NBD_REP_ERR_INVALID]
    );
    let session = outcome.session.unwrap();
    assert!(session.extended && session.structured);
    assert_ne!(session.flags & NBD_FLAG_SEND_DF, 0);
    // The other way round is an upgrade; structured replies twice are no harm.
    let outcome = run_all(&[flags(3), structured.clone(), structured, extended]);
    assert_eq!(kinds(&outcome.sent), [NBD_REP_ACK; 3]);
}

#[test]
fn meta_context_table() {
    let base = BASE_ALLOCATION;
    // option, queries, found
    let table: &[(u32, &[&str], bool)] = &[
        (9, &[], true),
        (9, &["base:"], true),
        (9, &[""], true),
        (9, &[base], true),
        (9, &["x-tandem:"], false),
        (9, &["base:other"], false),
        (10, &[], false),
        (10, &[base], true),
        (10, &["qemu:dirty-bitmap:x", base], true),
        (10, &["base:"], false),
        (10, &["base:allocation2"], false),
    ];
    for (number, queries, found) in table {
        let ask = option(*number, &meta_data("r0", queries));
        let start = option(NBD_OPT_STRUCTURED_REPLY, &[]);
        let go = option(NBD_OPT_GO, &info_data("r0", &[]));
        let outcome = run_all(&[flags(3), start, ask, go]);
        let packets = packets(&outcome.sent);
        let id = if *number == 10 { 1 } else { 0 };
        if *found {
            assert_eq!(packets[1].1, NBD_REP_META_CONTEXT, "{queries:?}");
            assert_eq!(packets[1].2, [&[0, 0, 0, id], base.as_bytes()].concat());
        } else {
            assert_eq!(packets[1].1, NBD_REP_ACK, "{number} {queries:?}");
        }
        let selected = outcome.session.unwrap().base_allocation;
        assert_eq!(selected, *found && *number == 10, "{number} {queries:?}");
        assert_eq!(outcome.lookups[0], ("r0".to_owned(), false));
    }
}

#[test]
fn a_selection_is_replaced_by_the_next_and_binds_to_its_name() {
    let start = || vec![flags(3), option(NBD_OPT_STRUCTURED_REPLY, &[])];
    let set = |data: &[u8]| option(NBD_OPT_SET_META_CONTEXT, data);
    let good = set(&meta_data("r0", &[BASE_ALLOCATION]));
    let go = option(NBD_OPT_GO, &info_data("r0", &[]));
    let resets = [
        set(&meta_data("r0", &[])),
        set(&meta_data("r9", &[BASE_ALLOCATION])),
        set(b"malformed"),
        set(&vec![0; 65_537]),
    ];
    for reset in resets {
        let mut script = start();
        script.extend([good.clone(), reset, go.clone()]);
        assert!(!run_all(&script).session.unwrap().base_allocation);
    }
    let mut script = start();
    script.extend([good.clone(), option(NBD_OPT_LIST, &[]), go.clone()]);
    assert!(run_all(&script).session.unwrap().base_allocation);

    // The same export under another name.
    let mut machine = negotiation();
    let mut step = machine.feed(&flags(3));
    for part in [option(8, &[]), good, option(7, &info_data("r0/0", &[]))] {
        let (header, data) = part.split_at(16);
        step = machine.feed(header);
        if !data.is_empty() {
            step = machine.feed(data);
        }
        if matches!(step, Step::Lookup { .. }) {
            step = machine.answer(Ok(export()));
        }
    }
    let Step::Enter { session, .. } = step else { panic!("{step:?}") };
    assert!(!session.base_allocation);
}

#[test]
fn a_meta_query_count_beyond_the_data_is_invalid() {
    let mut data = string("r0");
    data.extend_from_slice(&u32::MAX.to_be_bytes());
    let start = option(NBD_OPT_STRUCTURED_REPLY, &[]);
    let outcome = run_all(&[flags(3), start, option(NBD_OPT_LIST_META_CONTEXT, &data)]);
    assert_eq!(kinds(&outcome.sent)[1], NBD_REP_ERR_INVALID);
}

#[test]
fn the_policy_sentence_reaches_the_client() {
    let outcome = run_all(&[flags(3), option(NBD_OPT_GO, &info_data("r1", &[]))]);
    assert_eq!(packets(&outcome.sent)[0].2, b"bob is Primary; connect there");
}

#[test]
fn sentences_are_cut_on_a_character() {
    let mut machine = negotiation();
    machine.feed(&flags(3));
    let go = option(NBD_OPT_GO, &info_data("r1", &[]));
    machine.feed(&go[..16]);
    machine.feed(&go[16..]);
    let Step::Continue { send } = machine.answer(Err(LookupError::Policy("é".repeat(3000))))
    else {
        panic!()
    };
    assert_eq!(packets(&send)[0].2, "é".repeat(2048).into_bytes());
}

#[test]
fn the_transmission_phase_is_never_read_into() {
    let go = option(NBD_OPT_GO, &info_data("r0", &[3]));
    let outcome = run_all(&[flags(3), go, b"the first request".to_vec()]);
    assert_eq!(outcome.left, b"the first request".len());
}

#[test]
fn fragments_of_every_size_lead_to_the_same_end() {
    let script = [
        flags(3),
        option(NBD_OPT_STARTTLS, &[]),
        option(99, &[1; 40]),
        option(NBD_OPT_EXTENDED_HEADERS, &[]),
        option(NBD_OPT_LIST, &[]),
        option(NBD_OPT_LIST_META_CONTEXT, &meta_data("r0", &["base:"])),
        option(NBD_OPT_SET_META_CONTEXT, &meta_data("r0", &["y:z", BASE_ALLOCATION])),
        option(NBD_OPT_INFO, &info_data("r9", &[0])),
        option(NBD_OPT_GO, &info_data("r0", &[1, 2, 3])),
        b"beyond".to_vec(),
    ]
    .concat();
    let whole = run(&mut negotiation(), &script, usize::MAX);
    assert!(whole.session.as_ref().unwrap().base_allocation);
    for fragment in 1..script.len() {
        assert_eq!(run(&mut negotiation(), &script, fragment), whole, "fragments of {fragment}");
    }
}

#[test]
fn options_and_bytes_are_bounded() {
    let mut script = flags(3);
    for _ in 0..=OPTION_COUNT_LIMIT {
        script.extend_from_slice(&option(NBD_OPT_STARTTLS, &[]));
    }
    let outcome = run(&mut negotiation(), &script, usize::MAX);
    assert_eq!(outcome.closed, Some(CloseReason::TooManyOptions));
    assert_eq!(kinds(&outcome.sent).len(), OPTION_COUNT_LIMIT as usize);

    let mut huge = [flags(3), option(77, &[])].concat();
    let length = huge.len() - 4;
    huge[length..].copy_from_slice(&u32::MAX.to_be_bytes());
    let outcome = run(&mut negotiation(), &huge, usize::MAX);
    assert_eq!(outcome.closed, Some(CloseReason::TooManyBytes));
    assert_eq!(kinds(&outcome.sent), [NBD_REP_ERR_TOO_BIG]);
}

#[test]
fn misuse_by_the_server_closes_and_does_not_panic() {
    let misuse = |step: Step| matches!(step, Step::Close { reason: CloseReason::Misuse, .. });
    assert!(misuse(negotiation().feed(&[0; 5])));
    assert!(misuse(negotiation().answer(Ok(export()))));
    let mut machine = negotiation();
    machine.feed(&flags(3));
    let go = option(NBD_OPT_GO, &info_data("r0", &[]));
    machine.feed(&go[..16]);
    machine.feed(&go[16..]);
    assert!(misuse(machine.feed(&[1])));
    assert!(misuse(machine.feed(&[1])));
}

/// Options that are mostly well-formed, so that random scripts get somewhere.
fn any_option() -> impl Strategy<Value = Vec<u8>> {
    let data = prop_oneof![
        Just(Vec::new()),
        prop::collection::vec(any::<u8>(), 0..80),
        Just(info_data("r0", &[1, 2, 3])),
        Just(info_data("r1", &[])),
        Just(meta_data("r0", &[BASE_ALLOCATION])),
        Just(vec![0; 70_000]),
    ];
    (0..14_u32, data).prop_map(|(number, data)| option(number, &data))
}

proptest! {
    #[test]
    fn random_bytes_never_panic_and_never_pile_up(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        options in prop::collection::vec(any_option(), 0..6),
        fragment in 1..5000_usize,
    ) {
        let script = [flags(3), options.concat(), bytes].concat();
        let mut machine = negotiation();
        let outcome = run(&mut machine, &script, fragment);
        prop_assert!(machine.buffer.capacity() <= 2 * OPTION_DATA_LIMIT as usize);
        // Replies are bounded by what the options can ask for.
        prop_assert!(outcome.sent.len() < 64 << 10);
    }

    #[test]
    fn an_announced_length_is_never_reserved(number in any::<u32>(), length in any::<u32>()) {
        let mut machine = negotiation();
        machine.feed(&flags(3));
        let mut header = option(number, &[]);
        header[12..].copy_from_slice(&length.to_be_bytes());
        machine.feed(&header);
        prop_assert!(machine.buffer.capacity() <= 64);
        prop_assert!(machine.wants() <= OPTION_DATA_LIMIT as usize);
    }
}

#[test]
fn who_asks_for_keepers_is_told_them_and_nobody_else() {
    let asked = option(NBD_OPT_INFO, &info_data("r0", &[TANDEM_INFO_KEEPERS]));
    let told = packets(&run_all(&[flags(3), asked]).sent);
    let expected = [&TANDEM_INFO_KEEPERS.to_be_bytes()[..], &[1; 16], &[2; 16]].concat();
    assert_eq!(told[1], (NBD_OPT_INFO, NBD_REP_INFO, expected));
    assert_eq!(told.len(), 3);
}

#[test]
fn a_device_is_taken_in_and_told_to_the_session() {
    let device = Device { token: 7, connection: 0x0102, siblings: vec![3, u64::MAX] };
    let data = device.encode();
    assert_eq!(data.len(), 8 + 8 + 2 + 16);
    let go = option(NBD_OPT_GO, &info_data("r0", &[]));
    let outcome = run_all(&[flags(3), option(TANDEM_OPT_DEVICE, &data), go.clone()]);
    assert_eq!(kinds(&outcome.sent), [NBD_REP_ACK, NBD_REP_INFO, NBD_REP_ACK]);
    assert_eq!(outcome.session.unwrap().device, Some(device));
    for bad in [&data[..17], &data[..33], &[data.clone(), vec![0]].concat(), &[][..]] {
        let outcome = run_all(&[flags(3), option(TANDEM_OPT_DEVICE, bad), go.clone()]);
        assert_eq!(kinds(&outcome.sent)[0], NBD_REP_ERR_INVALID);
        assert_eq!(outcome.session.unwrap().device, None);
    }
    let many = Device { token: 7, connection: 1, siblings: vec![0; SIBLINGS_LIMIT + 1] };
    assert_eq!(Device::decode(&many.encode()).unwrap().siblings.len(), SIBLINGS_LIMIT);
    let mut bytes = many.encode();
    bytes[17] += 1;
    bytes.extend([0; 8]);
    assert_eq!(Device::decode(&bytes), None);
    assert!(!format!("{many:?}").contains("token"));
}
