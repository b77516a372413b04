//! Valid inputs to begin with, made by the encoders, so that they follow the formats.

use std::sync::OnceLock;

use tandem::config::{Files, load};
use tandem::control::protocol::Request;
use tandem::meta::{
    AlBlock, BitmapPage, Geometry, MetaOp, NewDisk, PAGE_WORDS, Placement, format_new, stages,
};
use tandem::resource::{Command, DiskState, Role};
use tandem::wire::{Features, Packet, VERSIONS, encode_header};

pub(crate) const CONFIG_WORDS: &[&[u8]] = &[
    b"resource r0 {",
    b"}",
    b"{",
    b";",
    b"on alice ",
    b"volume 0 ",
    b"disk /d0;",
    b"net {",
    b"options {",
    b"address 10.0.0.1:7789;",
    b"node-id 1;",
    b"include \"*.res\";",
    b"common {",
    b"connection-mesh { hosts a b; }",
    b"meta-disk internal;",
    b"device minor 0;",
    b"\"",
    b"#",
    b"ping-int 99999999999;",
    b"al-extents 1237;",
    b"after-sb-0pri discard-zero-changes;",
];

pub(crate) const ADMIN_WORDS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"up\":",
    b"\"order\":",
    b"\"resource\":",
    b"\"r0\"",
    b"null",
    b"18446744073709551616",
    b"-1",
    b"1e999",
    b"\\u0000",
    b"\"command\":",
    b"\"definition\":",
];

const CONFIG: &str = "global { usage-count no; }\ncommon { net { protocol C; } }\n\
    resource r0 {\n  net { ping-int 2; after-sb-0pri discard-zero-changes; }\n  \
    disk { al-extents 67; on-io-error detach; }\n  \
    volume 0 { device minor 0; disk /d0; meta-disk internal; }\n  \
    volume 1 { device /dev/drbd1; disk /d1; meta-disk /m1; }\n  \
    on alice { node-id 0; address 10.0.0.1:7789; }\n  \
    on bob { node-id 1; address 10.0.0.2:7789; }\n}\n";

/// Whole conversations of clients.
pub(crate) fn nbd() -> Vec<Vec<u8>> {
    let option = |code: u32, data: &[u8]| {
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend_from_slice(&code.to_be_bytes());
        bytes.extend_from_slice(&u32::try_from(data.len()).expect("short").to_be_bytes());
        bytes.extend_from_slice(data);
        bytes
    };
    let flags = 3_u32.to_be_bytes().to_vec();
    let go = option(7, b"\0\0\0\x02r0\0\x01\0\x03");
    let meta = option(10, b"\0\0\0\x02r0\0\0\0\x01\0\0\0\x0fbase:allocation");
    let request = |command: u16, offset: u64, length: u32| {
        let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&command.to_be_bytes());
        bytes.extend_from_slice(&7_u64.to_be_bytes());
        bytes.extend_from_slice(&offset.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes
    };
    let extended = |command: u16, length: u64| {
        let mut bytes = 0x21E4_1C71_u32.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&command.to_be_bytes());
        bytes.extend_from_slice(&7_u64.to_be_bytes());
        bytes.extend_from_slice(&0_u64.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes
    };
    let all: Vec<u8> =
        (0..9).flat_map(|command| request(command, 4096 * u64::from(command), 512)).collect();
    let wide: Vec<u8> = (0..8).flat_map(|command| extended(command, 4096)).collect();
    vec![
        [flags.clone(), go.clone(), all.clone()].concat(),
        [flags.clone(), option(8, b""), meta.clone(), go.clone(), all.clone()].concat(),
        [flags.clone(), option(11, b""), meta, go, wide].concat(),
        [flags.clone(), option(3, b""), option(6, b"\0\0\0\x02r0\0\0"), option(2, b"")].concat(),
        [flags, option(1, b"r0"), all].concat(),
    ]
}

/// A stream of packets, with a first byte that lets the target put CRCs right.
pub(crate) fn wire() -> Vec<Vec<u8>> {
    let features = Packet::Features(Features {
        version_min: *VERSIONS.start(),
        version_max: *VERSIONS.end(),
        features: 0,
        node_id: 0,
        peer_node_id: 1,
        resource: "r0".to_owned(),
        dialled: true,
        primary: false,
        system: [0; 16],
    });
    let packets = [
        features,
        Packet::Data { volume: 0, sequence: 1, offset: 4096, length: 4096, fua: true },
        Packet::Bitmap { volume: 0, first_block: 64, words: vec![5, 6] },
        Packet::State { volume: 0, role: Role::Primary, disk: DiskState::UpToDate, paused: true },
        Packet::InSync { volume: 0, offset: 0, length: 8192 },
        Packet::Leave { kind: 1 },
        Packet::Ping,
    ];
    let mut all = vec![1];
    let mut seeds = Vec::new();
    for packet in &packets {
        let mut one = vec![1];
        encode_header(packet, &mut one);
        all.extend_from_slice(&one[1..]);
        seeds.push(one);
    }
    // Every type once, as far as a header alone goes.
    for kind in 0..=64 {
        let mut header = seeds[1].clone();
        header[5] = kind;
        seeds.push(header);
    }
    seeds.push(all);
    seeds
}

/// A small disk's metadata with hot extents and bits: as many bytes as the disk has.
pub(crate) fn image() -> &'static (Geometry, Vec<u8>) {
    static IMAGE: OnceLock<(Geometry, Vec<u8>)> = OnceLock::new();
    IMAGE.get_or_init(make_image)
}

fn make_image() -> (Geometry, Vec<u8>) {
    const SIZE: u64 = 512 << 10;
    let placement = Placement::Internal { disk_size: SIZE };
    let geometry = Geometry::new(placement, 512, 2, 0x1122_3344_5566_7788).expect("it is lawful");
    let new = NewDisk {
        resource: "r0".to_owned(),
        volume: 0,
        node_id: 0,
        created_time: 1,
        found: "blank".to_owned(),
        blank: true,
        preallocated: false,
        boot_id: [7; 16],
    };
    let (mut superblock, made) = format_new(&geometry, &new).expect("it is lawful");
    superblock.sequence += 1;
    superblock.peers[0].node_id = Some(1);
    superblock.peers[0].bitmap_state = tandem::meta::BitmapState::Pages;
    superblock.peers[0].bitmap_epoch = 3;
    let mut words = [0; PAGE_WORDS];
    words[0] = 0b1011;
    let page = BitmapPage { index: 0, words: words.into() };
    let block = AlBlock { index: 0, number: 9, words: vec![1; (512 - 32) / 8] };
    let mut writes = made;
    for op in [
        MetaOp::Bitmap { slot: 0, epoch: 3, pages: vec![page] },
        MetaOp::ActivityLog { blocks: vec![block] },
        MetaOp::Superblock(Box::new(superblock)),
    ] {
        writes.extend(stages(&geometry, &op));
    }
    let mut image = vec![0; usize::try_from(SIZE).expect("it is small")];
    for (offset, bytes) in writes.iter().flat_map(|stage| &stage.writes) {
        let at = usize::try_from(*offset).expect("it is small");
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }
    (geometry, image)
}

/// A patch at each field of the superblock, the log and the bitmap, with the CRC put right.
pub(crate) fn metadata() -> Vec<Vec<u8>> {
    let (geometry, image) = image();
    let places = [
        geometry.superblocks[0],
        geometry.superblocks[1],
        geometry.al_block_offset(0),
        geometry.bitmap_page_offset(0, 0),
        geometry.seen_offset(0, 0),
    ];
    let patch = |at: u64, length: usize| {
        let at = usize::try_from(at).expect("it is small");
        let place = u32::try_from(at).expect("it is small").to_be_bytes();
        let mut bytes = vec![1, place[1], place[2], place[3], u8::try_from(length).expect("short")];
        bytes.extend_from_slice(&image[at..at + length]);
        bytes
    };
    let mut seeds = vec![Vec::new()];
    for place in places {
        seeds.push(patch(place, 255));
        seeds.extend((0..16).map(|field| patch(place + field * 8, 8)));
    }
    seeds
}

/// What dump-md prints of the image.
pub(crate) fn dump_text() -> Vec<Vec<u8>> {
    let (geometry, image) = image();
    let mut read = |offset: u64, length: usize| {
        let at = usize::try_from(offset).expect("it is small");
        Ok(image[at..at + length].to_vec())
    };
    let loaded = tandem::meta::load(geometry, &mut read, [7; 16]).expect("it is whole");
    vec![tandem::meta::dump(&loaded, geometry).into_bytes()]
}

pub(crate) fn config() -> Vec<Vec<u8>> {
    vec![CONFIG.as_bytes().to_vec()]
}

struct Example;

impl Files for Example {
    fn read(&self, _path: &str) -> Result<String, String> {
        Ok(CONFIG.to_owned())
    }
    fn glob(&self, _pattern: &str) -> Result<Vec<String>, String> {
        Ok(Vec::new())
    }
}

/// Lines as tandemadm sends them.
pub(crate) fn admin() -> Vec<Vec<u8>> {
    let config = load(&Example, "t.conf");
    let definition = config.resources.first().expect("the example loads").clone();
    let resource = "r0".to_owned();
    let requests = [
        Request::Up { definition: Box::new(definition.clone()) },
        Request::NewResource { definition: Box::new(definition.clone()) },
        Request::Attach { definition: Box::new(definition.clone()), volume: 0 },
        Request::CheckDisk { definition: Box::new(definition.clone()), volume: 0 },
        Request::CheckUp { definition: Box::new(definition.clone()) },
        Request::Connect {
            definition: Box::new(definition),
            peer: 1,
            discard_my_data: true,
            tentative: false,
        },
        Request::Down { resource: resource.clone() },
        Request::Order {
            resource,
            command: Command::Disconnect { peer: 1, force: true, for_ms: None },
        },
        Request::Status { resource: None },
        Request::Watch { resource: None },
    ];
    requests.iter().map(|request| serde_json::to_vec(request).expect("it is plain")).collect()
}

/// Requests on the metrics port.
pub(crate) fn http() -> Vec<Vec<u8>> {
    vec![
        b"GET /metrics HTTP/1.1\r\nHost: x:9942\r\nAccept: */*\r\n\r\n".to_vec(),
        b"HEAD /primary/r0?x=y HTTP/1.0\r\nContent-Length: 0\r\n\r\n".to_vec(),
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
    ]
}
