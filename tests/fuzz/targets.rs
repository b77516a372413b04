//! What is given the bytes. Each says what became of them, in words without the numbers of the
//! input, so that another answer means another way through the code.

use nbd::{ExportInfo, LookupError, Negotiation, SessionParameters, Step, request};
use tandem::config::{Files, dump, load};
use tandem::control::protocol::Request;
use tandem::meta::{self, Placement};
use tandem::resource::DiskError;
use tandem::wire;

use crate::seeds;

/// The words of a `Debug` text: up to the first number, brace or quote.
fn name(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    let end = text.find(|c: char| !c.is_ascii_alphabetic() && c != '(').unwrap_or(text.len());
    text[..end].to_owned()
}

/// A client's bytes: negotiation, then requests.
pub(crate) fn nbd(bytes: &[u8]) -> String {
    let mut negotiation = Negotiation::new(vec!["r0".to_owned(), "mail/1".to_owned()]);
    let mut rest = bytes;
    let mut said = String::new();
    let session = loop {
        let wanted = negotiation.wants();
        assert!(wanted <= 1 << 20, "{wanted} bytes are wanted at once");
        if wanted == 0 || rest.is_empty() {
            return said + " waits";
        }
        let (piece, after) = rest.split_at(wanted.min(rest.len()));
        rest = after;
        let mut step = negotiation.feed(piece);
        if let Step::Lookup { name, go } = &step {
            said.push_str(if *go { " go" } else { " asks" });
            let known = matches!(name.as_str(), "" | "r0" | "mail/1");
            step = negotiation.answer(if known { Ok(export()) } else { Err(LookupError::Unknown) });
        }
        match step {
            Step::Continue { send } => said.push_str(match send.len() {
                0 => "",
                1..=20 => " short",
                _ => " long",
            }),
            Step::Lookup { .. } => panic!("a lookup answered by a lookup"),
            Step::Enter { session, .. } => break session,
            Step::Close { reason, .. } => return said + " " + &name(&reason),
        }
        if said.len() > 120 {
            return said + " and so on";
        }
    };
    said + &requests(rest, &session)
}

fn export() -> ExportInfo {
    ExportInfo {
        size: 1 << 30,
        read_only: false,
        description: String::new(),
        block: nbd::BlockSizes::default(),
        keepers: Vec::new(),
    }
}

fn requests(mut rest: &[u8], session: &SessionParameters) -> String {
    let mut said = format!(" |{}{}", session.structured, session.extended);
    let length = request::header_length(session);
    while rest.len() >= length && said.len() < 120 {
        let request = match request::parse(rest, session) {
            Ok(request) => request,
            Err(error) => return said + " " + &name(&error),
        };
        let judged = request::judge(&request, session);
        match judged {
            Ok(checked) => {
                said = said + " " + &name(&checked);
                if let request::Checked::Read { offset, length, .. }
                | request::Checked::Write { offset, length, .. } = checked
                {
                    let end = offset.checked_add(u64::from(length)).expect("it is inside");
                    assert!(end <= 1 << 30, "{checked:?}");
                    assert!(length <= 32 << 20, "{checked:?}");
                }
            }
            Err(refusal) => said = said + " no:" + &name(&refusal.errno),
        }
        rest = &rest[length..];
    }
    said
}

/// A peer's bytes: headers and bodies. The first byte says whether the CRCs are put right.
pub(crate) fn wire(bytes: &[u8]) -> String {
    let Some((mode, mut rest)) = bytes.split_first() else { return String::new() };
    let mut said = String::new();
    while let Some((header, after)) = rest.split_first_chunk::<{ wire::HEADER_SIZE }>() {
        let mut header = *header;
        if mode & 1 == 1 {
            let crc = crc32fast::hash(&header[..28]);
            header[28..].copy_from_slice(&crc.to_be_bytes());
        }
        let checked = match wire::decode_header(&header) {
            Ok(checked) => checked,
            Err(error) => return said + " " + &name(&error),
        };
        assert!(checked.payload_length() <= 1 << 20, "{checked:?}");
        let body = checked.body_length() as usize;
        assert!(body <= wire::BODY_MAX as usize, "{checked:?}");
        let Some(body) = after.get(..body) else { return said + " cut" };
        rest = &after[body.len()..];
        match wire::decode(&checked, body) {
            Ok(packet) => {
                let mut again = Vec::new();
                wire::encode_header(&packet, &mut again);
                assert_eq!(again[4], header[4], "another type: {packet:?}");
                said = said + " " + &name(&packet);
            }
            Err(error) => return said + " " + &name(&error) + &format!("{:?}", checked.kind()),
        }
        if said.len() > 60 {
            break;
        }
    }
    said
}

/// The text of a dump, as restore-md takes it.
pub(crate) fn dump_text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut dumped = match meta::parse_dump(&text) {
        Ok(dumped) => dumped,
        Err(error) => return error.what.split(|c: char| c.is_ascii_digit() || c == '"').collect(),
    };
    let (_, image) = seeds::image();
    let placement = Placement::Internal { disk_size: image.len() as u64 };
    let geometry = match dumped.place(placement, 512) {
        Ok(geometry) => geometry,
        Err(error) => return format!("place {}", name(&error)),
    };
    for (offset, bytes) in meta::restore_stages(&geometry, &dumped).flat_map(|stage| stage.writes) {
        assert!(offset >= geometry.data_size, "a write into the data");
        assert!(offset + bytes.len() as u64 <= image.len() as u64, "a write behind the end");
    }
    "restored".to_owned()
}

/// Patches of a disk's metadata: each a flag, a place of three bytes, a length, and its bytes.
pub(crate) fn metadata(bytes: &[u8]) -> String {
    let (geometry, image) = seeds::image();
    let mut image = image.clone();
    let mut rest = bytes;
    let mut patches = 0;
    while let [flags, a, b, c, length, after @ ..] = rest {
        let start = u64::from(u32::from_be_bytes([0, *a, *b, *c])) % image.len() as u64;
        let start = start as usize;
        let length = usize::from(*length).min(after.len()).min(image.len() - start);
        image[start..start + length].copy_from_slice(&after[..length]);
        if flags & 1 == 1 {
            tandem::sim::seal(&mut image, start, geometry);
        }
        rest = &after[length..];
        patches += 1;
        if patches == 16 {
            break;
        }
    }
    let mut read = |offset: u64, length: usize| {
        let at = usize::try_from(offset).expect("it is inside");
        image.get(at..at + length).map(<[u8]>::to_vec).ok_or(DiskError::Io(5))
    };
    let placement = Placement::Internal { disk_size: image.len() as u64 };
    let found = match meta::read_superblock(placement, &mut read) {
        Ok(found) => found,
        Err(error) => return format!("{error}").split(|c: char| c.is_ascii_digit()).collect(),
    };
    let own = match meta::Geometry::of(placement, &found.superblock) {
        Ok(own) => own,
        Err(error) => return format!("geometry {}", name(&error)),
    };
    let loaded = match meta::load(&own, &mut read, [7; 16]) {
        Ok(loaded) => loaded,
        Err(error) => return format!("load {}", name(&error)),
    };
    // What a dump says is taken back as it is, or refused.
    let text = meta::dump(&loaded, &own);
    if let Ok(mut dumped) = meta::parse_dump(&text) {
        assert_eq!(dumped.place(placement, own.al_block_size), Ok(own));
        let sets = dumped.slots.iter().map(|slot| &slot.set);
        assert!(sets.eq(loaded.slots.iter().map(|slot| &slot.set)), "bits in\n{text}");
    }
    let blocks = own.blocks();
    for (first, count) in loaded.slots.iter().flat_map(|slot| slot.set.runs()) {
        assert!(first.checked_add(count).is_some_and(|end| end <= blocks), "{first}+{count}");
    }
    assert!(loaded.hot_extents.iter().all(|extent| *extent < own.extents()));
    let _ = meta::repair(&own, &mut read);
    format!(
        "{} hot {} number {} slots {} damaged {:?} notes {}",
        found.repair,
        loaded.hot_extents.len().min(3),
        loaded.number.is_some(),
        loaded.slots.len(),
        loaded.slots.iter().map(|slot| slot.damaged_pages.min(2)).max(),
        loaded.notes.len().min(4)
    )
}

struct One<'a>(&'a str);

impl Files for One<'_> {
    fn read(&self, path: &str) -> Result<String, String> {
        if path == "t.conf" { Ok(self.0.to_owned()) } else { Err("no such file".to_owned()) }
    }
    fn glob(&self, _pattern: &str) -> Result<Vec<String>, String> {
        Ok(vec!["t.conf".to_owned()])
    }
}

/// A configuration.
pub(crate) fn config(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let config = load(&One(&text), "t.conf");
    let lines = text.lines().count() + 1;
    let mut kinds: Vec<String> = Vec::new();
    for finding in &config.findings {
        assert!(finding.line as usize <= lines, "{finding:?}");
        let shown = finding.to_string();
        // Without the place and what is quoted of the input.
        let words: Vec<&str> = shown.split_whitespace().skip(1).take(6).collect();
        kinds.push(words.iter().filter(|w| w.chars().all(char::is_alphabetic)).copied().collect());
    }
    for definition in &config.resources {
        assert!(definition.check().is_ok(), "what loads passes its own check: {definition:?}");
    }
    let again = load(&One(&dump(&config)), "t.conf");
    assert_eq!(again.resources.len(), config.resources.len(), "dump keeps the resources");
    kinds.sort();
    kinds.dedup();
    kinds.truncate(3);
    format!("{} {kinds:?}", config.resources.len().min(3))
}

/// A line of the admin socket.
pub(crate) fn admin(bytes: &[u8]) -> String {
    match serde_json::from_slice::<Request>(bytes) {
        Ok(request) => {
            let said = match &request {
                Request::Up { definition }
                | Request::NewResource { definition }
                | Request::Attach { definition, .. }
                | Request::CheckDisk { definition, .. }
                | Request::CheckUp { definition }
                | Request::Paths { definition }
                | Request::Volumes { definition }
                | Request::Connect { definition, .. } => match definition.check() {
                    Ok(()) => " checked".to_owned(),
                    Err(error) => error.to_string().chars().filter(|c| !c.is_numeric()).collect(),
                },
                Request::Order { command, .. } => name(command),
                Request::Daemon { order } => name(order),
                Request::Down { .. }
                | Request::Options { .. }
                | Request::Running { .. }
                | Request::Status { .. }
                | Request::Watch { .. } => String::new(),
            };
            let line = serde_json::to_vec(&request).expect("a request can be written");
            assert!(serde_json::from_slice::<Request>(&line).is_ok(), "what is written is read");
            name(&request) + &said
        }
        Err(error) => format!("{:?} {}", error.classify(), error.to_string().len() / 32),
    }
}

/// A scraper's bytes, as they arrive: what is decided by a part is not decided otherwise by more.
pub(crate) fn http(bytes: &[u8]) -> String {
    use tandem::control::http::{HEAD_MAX, Parsed, parse};
    let parsed = parse(bytes);
    let half = parse(&bytes[..bytes.len() / 2]);
    match &half {
        Parsed::More => assert!(bytes.len() / 2 < HEAD_MAX, "a head of any length is waited for"),
        Parsed::Request(_) => assert_eq!(half, parsed),
        Parsed::Refused(_) => assert!(matches!(parsed, Parsed::Refused(_)), "{parsed:?}"),
    }
    match parsed {
        Parsed::More => "more".to_owned(),
        Parsed::Request(request) => {
            assert!(request.path.starts_with('/') && request.path.len() < HEAD_MAX);
            format!("request {}", request.head_only)
        }
        Parsed::Refused(status) => format!("refused {}", name_of_status(status)),
    }
}

fn name_of_status(status: u16) -> &'static str {
    match status {
        400 => "bad",
        405 => "method",
        431 => "long",
        505 => "version",
        _ => "another",
    }
}

/// A peer's packets, to a core in the midst of its work.
pub(crate) fn peer(bytes: &[u8]) -> String {
    tandem::sim::hear(bytes)
}

/// A disk whose metadata was changed, to a core that attaches it and meets its peer.
pub(crate) fn attach(bytes: &[u8]) -> String {
    tandem::sim::attach(bytes)
}
