//! The NBD negotiation with a real daemon: every option, well and badly formed, in every order
//! that matters, while another connection writes.
//!
//! What each row expects is the specification's word (doc/proto.md of the nbd project). After
//! each row the same connection enters transmission and reads, so that nothing is out of step.

use std::time::Duration;

use nbd::client::{Address, Client, ClientError, Handshake};
use nbd::constants::*;
use nbd::{Command, Errno};

use crate::ledger::Ledger;
use crate::load::Load;
use crate::pair::{Node, Pair};

const TIMEOUT: Duration = Duration::from_secs(30);

/// What the server has to say to an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// So many packets, then the ACK.
    Ack(usize),
    /// An error, `NBD_REP_ERR_*`.
    Err(u32),
    /// No packet: the connection ends.
    End,
}
use Want::{Ack, End, Err as Refused};

type Step = (u32, Vec<u8>, Want);
type Row = (&'static str, Vec<Step>);

const LIST: u32 = NBD_OPT_LIST;
const INFO: u32 = NBD_OPT_INFO;
const GO: u32 = NBD_OPT_GO;
const NAME: u32 = NBD_OPT_EXPORT_NAME;
const ABORT: u32 = NBD_OPT_ABORT;
const TLS: u32 = NBD_OPT_STARTTLS;
const STRUCTURED: u32 = NBD_OPT_STRUCTURED_REPLY;
const EXTENDED: u32 = NBD_OPT_EXTENDED_HEADERS;
const LIST_META: u32 = NBD_OPT_LIST_META_CONTEXT;
const SET_META: u32 = NBD_OPT_SET_META_CONTEXT;
const INVALID: Want = Refused(NBD_REP_ERR_INVALID);
const UNKNOWN: Want = Refused(NBD_REP_ERR_UNKNOWN);
const UNSUP: Want = Refused(NBD_REP_ERR_UNSUP);
const TOO_BIG: Want = Refused(NBD_REP_ERR_TOO_BIG);

fn string(text: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(text.len()).expect("short").to_be_bytes().to_vec();
    out.extend_from_slice(text);
    out
}

/// Data of INFO and GO.
fn info(name: &[u8], kinds: &[u16]) -> Vec<u8> {
    let mut out = string(name);
    out.extend_from_slice(&u16::try_from(kinds.len()).expect("few").to_be_bytes());
    kinds.iter().for_each(|kind| out.extend_from_slice(&kind.to_be_bytes()));
    out
}

/// Data of LIST_META_CONTEXT and SET_META_CONTEXT.
fn meta(name: &[u8], queries: &[&str]) -> Vec<u8> {
    let mut out = string(name);
    out.extend_from_slice(&u32::try_from(queries.len()).expect("few").to_be_bytes());
    queries.iter().for_each(|query| out.extend_from_slice(&string(query.as_bytes())));
    out
}

fn plus(mut data: Vec<u8>, more: &[u8]) -> Vec<u8> {
    data.extend_from_slice(more);
    data
}

const BASE: &str = BASE_ALLOCATION;

fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut row = |what, steps: Vec<Step>| rows.push((what, steps));
    row("LIST shows r0/0 and r0, again and again", vec![(LIST, vec![], Ack(2)); 3]);
    row("LIST with data", vec![(LIST, vec![1], INVALID), (LIST, vec![], Ack(2))]);
    row("LIST with 100,000 bytes", vec![(LIST, vec![1; 100_000], INVALID)]);
    all_information(&mut row);
    names(&mut row);
    for option in [INFO, GO] {
        let malformed = [
            vec![],
            vec![0, 0, 0],
            string(b"r0"),
            plus(string(b"r0"), &[0]),
            plus(string(b"r0"), &[0, 2, 0, 1]),
            plus(info(b"r0", &[NBD_INFO_NAME]), &[0]),
            plus(vec![0xff; 4], b"r0"),
            info(b"r\0", &[]),
            info(b"\xff\xfe", &[]),
            info(&[b'n'; 4097], &[]),
        ];
        let steps = malformed.into_iter().map(|data| (option, data, INVALID)).collect();
        row("INFO and GO that are malformed", steps);
        row("INFO and GO too large", vec![(option, vec![0; 65 << 10], TOO_BIG)]);
    }
    structured(&mut row);
    meta_contexts(&mut row);
    for option in [0, NBD_OPT_PEEK_EXPORT, 12, 99, u32::MAX] {
        row("unknown option", vec![(option, vec![], UNSUP), (option, vec![7; 100_000], UNSUP)]);
    }
    row("STARTTLS", vec![(TLS, vec![], UNSUP), (TLS, vec![1, 2], UNSUP), (TLS, vec![], UNSUP)]);
    row("ABORT", vec![(ABORT, vec![], Ack(0)), (LIST, vec![], End)]);
    row("ABORT with data", vec![(ABORT, vec![1; 500], Ack(0)), (LIST, vec![], End)]);
    row("EXPORT_NAME of nothing", vec![(NAME, b"nope".to_vec(), End)]);
    row("EXPORT_NAME too long", vec![(NAME, vec![b'n'; 4097], End)]);
    row("EXPORT_NAME with a NUL", vec![(NAME, b"r0\0".to_vec(), End)]);
    row("EXPORT_NAME not UTF-8", vec![(NAME, vec![0xff], End)]);
    row(
        "all of it",
        vec![
            (LIST, vec![], Ack(2)),
            (INFO, info(b"r0", &[NBD_INFO_BLOCK_SIZE]), Ack(2)),
            (99, vec![], UNSUP),
            (EXTENDED, vec![], Ack(0)),
            (SET_META, meta(b"r0/0", &[BASE]), Ack(1)),
            (GO, info(b"nope", &[]), UNKNOWN),
            (TLS, vec![], UNSUP),
            (LIST_META, meta(b"r0", &[]), Ack(1)),
            (SET_META, meta(b"r0", &[BASE]), Ack(1)),
        ],
    );
    rows
}

fn all_information(row: &mut impl FnMut(&'static str, Vec<Step>)) {
    let all = [NBD_INFO_EXPORT, NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE];
    let one = |kind, packets| (INFO, info(b"r0", &[kind]), Ack(packets));
    row(
        "INFO, each information",
        vec![
            (INFO, info(b"r0", &[]), Ack(1)),
            one(NBD_INFO_EXPORT, 1),
            one(NBD_INFO_NAME, 2),
            one(NBD_INFO_DESCRIPTION, 2),
            one(NBD_INFO_BLOCK_SIZE, 2),
            (INFO, info(b"r0", &all), Ack(4)),
            // Unknown ones are to be ignored.
            one(77, 1),
            (INFO, info(b"r0", &[0xffff, NBD_INFO_NAME, 4]), Ack(2)),
        ],
    );
}

fn names(row: &mut impl FnMut(&'static str, Vec<Step>)) {
    let known = [&b"r0"[..], b"r0/0", b""];
    let unknown: [&[u8]; 9] =
        [b"nope", b"R0", b"r0/", b"r0/1", b"r0/00", b"r0/+0", b"/0", b" r0", "r0\u{e9}".as_bytes()];
    let longest = [b'n'; 4096];
    let ask = |name, want| (INFO, info(name, &[]), want);
    row("INFO of each name", known.map(|name| ask(name, Ack(1))).to_vec());
    row("INFO of other names", unknown.map(|name| ask(name, UNKNOWN)).to_vec());
    row("GO of other names", unknown.map(|name| (GO, info(name, &[]), UNKNOWN)).to_vec());
    row("a name of 4096 bytes", vec![ask(&longest, UNKNOWN), (GO, info(&longest, &[]), UNKNOWN)]);
}

fn structured(row: &mut impl FnMut(&'static str, Vec<Step>)) {
    let refused = Refused(NBD_REP_ERR_EXT_HEADER_REQD);
    row("STRUCTURED_REPLY twice", vec![(STRUCTURED, vec![], Ack(0)); 2]);
    row("STRUCTURED_REPLY with data", vec![(STRUCTURED, vec![0], INVALID)]);
    row("EXTENDED_HEADERS twice", vec![(EXTENDED, vec![], Ack(0)), (EXTENDED, vec![], INVALID)]);
    row("EXTENDED_HEADERS with data", vec![(EXTENDED, vec![0], INVALID)]);
    row("both", vec![(STRUCTURED, vec![], Ack(0)), (EXTENDED, vec![], Ack(0))]);
    row("the wrong way", vec![(EXTENDED, vec![], Ack(0)), (STRUCTURED, vec![], refused)]);
}

fn meta_contexts(row: &mut impl FnMut(&'static str, Vec<Step>)) {
    for option in [LIST_META, SET_META] {
        let early = vec![(option, meta(b"r0", &[BASE]), INVALID)];
        row("a metadata context before structured replies", early);
        let malformed = [
            vec![],
            string(b"r0"),
            plus(string(b"r0"), &[0, 0, 0, 1]),
            plus(string(b"r0"), &[0xff; 4]),
            plus(meta(b"r0", &[BASE]), &[0]),
            meta(b"r\0", &[BASE]),
            meta(&[b'n'; 4097], &[]),
            meta(b"r0", &["a\0b"]),
        ];
        let mut steps = vec![(STRUCTURED, vec![], Ack(0))];
        steps.extend(malformed.into_iter().map(|data| (option, data, INVALID)));
        steps.push((option, vec![0; 65 << 10], TOO_BIG));
        steps.push((option, meta(b"nope", &[BASE]), UNKNOWN));
        row("metadata contexts, malformed", steps);
    }
    let list = |queries: &[&str], count| (LIST_META, meta(b"r0", queries), Ack(count));
    row(
        "LIST_META_CONTEXT",
        vec![
            (EXTENDED, vec![], Ack(0)),
            list(&[], 1),
            list(&["base:"], 1),
            list(&[BASE], 1),
            list(&["base:", BASE, BASE], 1),
            list(&["base:other"], 0),
            list(&["qemu:"], 0),
            list(&["x-none:leaf", "no colon at all"], 0),
            list(&["qemu:dirty-bitmap:b", BASE], 1),
        ],
    );
    let set = |queries: &[&str], count| (SET_META, meta(b"r0", queries), Ack(count));
    row(
        "SET_META_CONTEXT",
        vec![
            (STRUCTURED, vec![], Ack(0)),
            set(&[BASE], 1),
            set(&[], 0),
            // A wildcard selects nothing.
            set(&["base:"], 0),
            set(&["x-none:leaf"], 0),
            set(&["x-none:leaf", BASE, BASE], 1),
        ],
    );
}

/// The replies to one option, as [`Want`] names them.
fn ask(hand: &mut Handshake, option: u32, data: &[u8]) -> Want {
    match hand.option(option, data) {
        Ok(replies) => Ack(replies.len()),
        Err(ClientError::Refused { kind, message, .. }) => {
            assert!(!message.is_empty(), "a refusal without a word");
            Refused(kind)
        }
        Err(ClientError::Io(_)) => End,
        Err(error) => panic!("option {option}: {error}"),
    }
}

fn connect(address: &Address) -> Handshake {
    Handshake::connect(address, TIMEOUT).expect("it listens")
}

fn run_row(address: &Address, what: &str, steps: &[Step]) {
    let mut hand = connect(address);
    for (number, (option, data, want)) in steps.iter().enumerate() {
        assert_eq!(ask(&mut hand, *option, data), *want, "{what}: step {number}");
        if *want == End {
            return;
        }
    }
    let last = steps
        .iter()
        .rev()
        .find(|(option, _, want)| matches!(*option, STRUCTURED | EXTENDED) && *want == Ack(0));
    // The client has to know which replies were agreed, so it agrees once more on one of them.
    match last {
        Some((EXTENDED, ..)) => return in_step_by_ping(hand, what),
        Some(_) => hand.structured_replies().expect("again"),
        None => {}
    }
    let mut client = hand.go("r0", &[]).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(client.read(0, 4096).expect("a read").len(), 4096, "{what}");
    client.disconnect().expect("a goodbye");
}

/// With extended headers agreed by hand: the list still answers, then the goodbye.
fn in_step_by_ping(mut hand: Handshake, what: &str) {
    assert_eq!(ask(&mut hand, LIST, &[]), Ack(2), "{what}");
    hand.abort().unwrap_or_else(|error| panic!("{what}: {error}"));
}

fn addresses(node: &Node, port: u16) -> [Address; 2] {
    [node.nbd_address(), Address::Tcp(format!("127.0.0.1:{port}"))]
}

#[test]
fn every_option_in_every_phase_is_answered_as_the_specification_says() {
    let mut pair = Pair::blank();
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = free.local_addr().expect("it is bound").port();
    drop(free);
    pair.alice.arguments = vec!["--nbd-listen".to_owned(), format!("127.0.0.1:{port}")];
    let pair = pair.bring_up().sync_from_alice();
    let load = Load::start(pair.alice.client(), Ledger::within(2, 50));
    for address in addresses(&pair.alice, port) {
        for (what, steps) in rows() {
            run_row(&address, what, &steps);
        }
        out_of_step(&address);
        selections(&address);
        by_export_name(&address);
        transmission_has_no_options(&address);
    }
    byte_by_byte(&addresses(&pair.alice, port)[0]);
    load.progress(64);
    let (mut ledger, mut client) = load.stop();
    ledger.check(&mut client);
    secondary_describes_and_refuses(&pair);
}

/// What no option header is, and client flags.
fn out_of_step(address: &Address) {
    let mut hand = connect(address);
    hand.send_raw(&[0x5a; 16]).expect("it takes bytes");
    assert!(matches!(hand.read_option_reply(), Err(ClientError::Io(_))), "a wrong magic");
    for (flags, served) in [(0, true), (1, true), (2, true), (3, true), (4, false), (!0, false)] {
        let hand = Handshake::connect_with_flags(address, TIMEOUT, flags);
        let entered = hand.and_then(|hand| {
            assert_eq!(hand.handshake_flags(), 3, "fixed newstyle, and no zeroes offered");
            hand.export_name("r0")
        });
        assert_eq!(entered.is_ok(), served, "client flags {flags:#x}");
    }
}

/// A selection of metadata contexts holds for its name, until the next one.
fn selections(address: &Address) {
    type Selects = fn(&mut Handshake);
    let cases: [(&str, Selects, bool); 7] = [
        ("none", |_| {}, false),
        ("selected", |hand| set(hand, "r0", &[BASE]), true),
        ("emptied", |hand| [&[BASE][..], &[]].iter().for_each(|q| set(hand, "r0", q)), false),
        ("other name", |hand| set(hand, "r0/0", &[BASE]), false),
        ("replaced", |hand| ["r0/0", "r0"].iter().for_each(|name| set(hand, name, &[BASE])), true),
        (
            "failed later",
            |hand| {
                set(hand, "r0", &[BASE]);
                assert_eq!(ask(hand, SET_META, &meta(b"nope", &[BASE])), UNKNOWN);
            },
            false,
        ),
        (
            "listed later",
            |hand| {
                set(hand, "r0", &[BASE]);
                hand.list_meta_context("r0/0", &[]).expect("a list");
            },
            true,
        ),
    ];
    for (what, select, selected) in cases {
        for by_name in [false, true] {
            let mut hand = connect(address);
            hand.structured_replies().expect("it knows them");
            select(&mut hand);
            let entered = if by_name { hand.export_name("r0") } else { hand.go("r0", &[]) };
            let mut client = entered.expect("it serves");
            let cookie = client.send_request(Command::BlockStatus, 0, 0, 4096, &[]).expect("sent");
            let reply = match client.wait(cookie) {
                Ok(reply) => reply.ok().map(drop),
                Err(error) => Err(error),
            };
            match reply {
                // The client knows no identifier where nothing was selected.
                Ok(()) => assert!(selected, "{what}: answered"),
                Err(error) => {
                    assert!(!selected, "{what}: {error}");
                    assert_eq!(error.errno(), Some(Errno::EINVAL), "{what}: {error}");
                }
            }
        }
    }
}

fn set(hand: &mut Handshake, name: &str, queries: &[&str]) {
    let found = hand.set_meta_context(name, queries).expect("an answer");
    assert_eq!(found.len(), usize::from(!queries.is_empty()));
}

/// EXPORT_NAME, INFO and GO tell the same size and flags, and DF where chunks are agreed.
fn by_export_name(address: &Address) {
    for name in ["r0", "r0/0", ""] {
        for structured in [false, true] {
            let start = || {
                let mut hand = connect(address);
                if structured {
                    hand.structured_replies().expect("it knows them");
                }
                hand
            };
            let told = start().info(name, &[NBD_INFO_BLOCK_SIZE]).expect("a description");
            assert_eq!(told.block, Some((1, 4096, 32 << 20)));
            let want = 0x0d6d | if structured { NBD_FLAG_SEND_DF } else { 0 };
            assert_eq!(told.flags, want, "{:#x}", told.flags);
            let went = start().go(name, &[NBD_INFO_BLOCK_SIZE]).expect("it serves");
            assert_eq!(went.description(), &told);
            let named = start().export_name(name).expect("it serves");
            assert_eq!((named.size(), named.flags()), (told.size, told.flags));
        }
    }
}

/// After GO the stream is one of requests: an option is a wrong magic.
fn transmission_has_no_options(address: &Address) {
    let mut client = connect(address).go("r0", &[]).expect("it serves");
    let mut option = NBD_OPTS_MAGIC.to_be_bytes().to_vec();
    option.extend_from_slice(&LIST.to_be_bytes());
    option.extend_from_slice(&[0; 16]);
    client.send_raw(&option).expect("it takes bytes");
    // Closed with bytes unread is a reset, perhaps.
    assert!(client.at_end().unwrap_or(true));
}

/// A whole negotiation, one byte at a time.
fn byte_by_byte(address: &Address) {
    let mut hand = connect(address);
    for (option, data) in [(INFO, info(b"r0", &[])), (STRUCTURED, vec![])] {
        let mut bytes = NBD_OPTS_MAGIC.to_be_bytes().to_vec();
        bytes.extend_from_slice(&option.to_be_bytes());
        bytes.extend_from_slice(&string(&data));
        bytes.iter().for_each(|byte| hand.send_raw(&[*byte]).expect("it takes bytes"));
        while hand.read_option_reply().expect("a reply").kind != NBD_REP_ACK {}
    }
    let mut client: Client = hand.go("r0", &[]).expect("it serves");
    let error = client.read(u64::MAX, 1).expect_err("beyond the end");
    // The client was not told of the structured replies: the chunk is a breach for it.
    assert!(matches!(error, ClientError::Protocol(_)), "{error}");
}

/// Not served here, and the sentence says where.
fn secondary_describes_and_refuses(pair: &Pair) {
    let address = pair.bob.nbd_address();
    let mut hand = connect(&address);
    assert_eq!(hand.list().expect("a list").len(), 2);
    let told = hand.info("r0", &[]).expect("a description");
    assert_eq!(told.size, pair.alice.export_size());
    hand.structured_replies().expect("it knows them");
    hand.set_meta_context("r0", &[BASE]).expect("an answer");
    for name in ["r0", "r0/0", ""] {
        let Err((again, error)) = hand.try_go(name, &[]) else { panic!("a Secondary serves") };
        hand = again;
        let ClientError::Refused { kind, message, .. } = error else { panic!("{error}") };
        assert_eq!(kind, NBD_REP_ERR_POLICY);
        assert!(message.contains("alice is Primary"), "{message}");
    }
    assert_eq!(ask(&mut hand, LIST, &[]), Ack(2), "it negotiates on");
    assert!(matches!(hand.export_name("r0"), Err(ClientError::Io(_))), "no error is possible");
}
