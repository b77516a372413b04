//! Tables with exact places: text in, definitions and findings out.

use std::collections::BTreeMap;

use super::*;
use crate::resource::{AfterSb0Pri, AfterSb1Pri, Fencing, Handler, OnIoError, Options, RrConflict};

mod drbd;
mod hosts;
mod parts;

/// Files in memory.
#[derive(Default)]
struct Memory(BTreeMap<String, String>);

impl Files for Memory {
    fn read(&self, path: &str) -> Result<String, String> {
        self.0.get(path).cloned().ok_or_else(|| "No such file or directory".to_owned())
    }
    fn glob(&self, pattern: &str) -> Result<Vec<String>, String> {
        let parts: Vec<&str> = pattern.split('/').collect();
        let fits = |path: &&String| {
            let names: Vec<&str> = path.split('/').collect();
            names.len() == parts.len() && parts.iter().zip(names).all(|(p, n)| matches(p, n))
        };
        Ok(self.0.keys().filter(fits).cloned().collect())
    }
}

fn files(texts: &[(&str, &str)]) -> Memory {
    Memory(texts.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
}

fn loaded(text: &str) -> Config {
    load(&files(&[("t.conf", text)]), "t.conf")
}

/// A resource r0 of alice and bob on volume 0, with more statements in it.
fn pair(more: &str) -> String {
    format!(
        "resource r0 {{\n{more}\nvolume 0 {{ device minor 0; disk /d0; }}\n\
         on alice {{ address 10.0.0.1:7789; }}\non bob {{ address 10.0.0.2:7789; }}\n}}\n"
    )
}

/// The findings as `line:column severity text`.
fn short(config: &Config) -> Vec<String> {
    let severity = |severity| if severity == Severity::Error { "error" } else { "warning" };
    let line = |f: &Finding| {
        format!("{}:{} {} {} | {}", f.line, f.column, severity(f.severity), f.text, f.hint)
    };
    config.findings.iter().map(line).collect()
}

/// The resource of a text that must load without findings.
fn clean(text: &str) -> Definition {
    let mut config = loaded(text);
    assert_eq!(short(&config), Vec::<String>::new(), "{text}");
    assert_eq!(config.resources.len(), 1, "{text}");
    config.resources.remove(0)
}

#[test]
fn the_example_of_the_design_loads() {
    let r0 = clean(
        "resource r0 {\n    net { protocol C; }\n    volume 0 { device minor 0; disk \
         /var/lib/tandem/r0.img; meta-disk internal; }\n    on alice { node-id 0; address \
         10.0.0.1:7789; }\n    on bob   { node-id 1; address 10.0.0.2:7789; }\n}\n",
    );
    assert_eq!(r0.options, Options::default());
    let alice = r0.for_node("alice").unwrap();
    assert_eq!((alice.node_id, alice.node_name.as_str()), (0, "alice"));
    assert_eq!(alice.peers.len(), 1);
    assert_eq!(alice.peers[0].address, "10.0.0.2:7789");
    assert_eq!(alice.volumes[0].disk, "/var/lib/tandem/r0.img");
    assert_eq!(r0.for_node("bob.example.com").unwrap().node_id, 1);
    let error = r0.for_node("carol").unwrap_err();
    assert!(error.contains("carol") && error.contains("alice and bob"), "{error}");
    assert_eq!(r0.written["protocol"].to_string(), "t.conf:2");
}

#[test]
fn per_host_volumes_and_every_form_of_device_and_address() {
    let r0 = clean(
        "resource \"r0\"\n{\n# comment; with { } in it\non a.example.com {\n address ipv6 \
         [::1]:7789; volume 0 { device /dev/nbd3 minor 7; disk \"/dev/vg/a b\"; meta-disk /m0; }\n \
         volume 1 { device minor 8; disk none; } }\n on b { address ipv6 [fd00::2]:7789;\nvolume 0 \
         { device minor 9; disk /x; flexible-meta-disk internal; } volume 1 { disk /y; } } }",
    );
    let (a, b) = (&r0.hosts[0], &r0.hosts[1]);
    assert_eq!((a.name.as_str(), a.node_id, b.node_id), ("a.example.com", 0, 1));
    assert_eq!(a.address, "[::1]:7789".parse().unwrap());
    assert_eq!(a.volumes[&0].device_node.as_deref(), Some("/dev/nbd3"));
    assert_eq!((a.volumes[&0].minor, a.volumes[&1].minor), (7, 8));
    assert_eq!(a.volumes[&0].disk.as_deref(), Some("/dev/vg/a b"));
    assert_eq!(a.volumes[&0].meta_disk, MetaDisk::External { path: "/m0".to_owned() });
    assert_eq!(a.volumes[&1].disk, None);
    assert_eq!(b.volumes[&0].minor, 9);
    assert_eq!(b.volumes[&1].minor, 8, "the minor of the other host");
    assert_eq!(b.volumes[&0].meta_disk, MetaDisk::Internal);
    assert_eq!(b.volumes[&1].nbd_device(), "/dev/nbd8");
    assert_eq!(r0.local("a").unwrap().node_id, 0, "the short name");
    assert_eq!(r0.peers("a").map(|host| host.name.as_str()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn node_ids_do_not_depend_on_the_order_in_the_file() {
    let r0 = clean(
        "resource r0 { device minor 0; disk /d; on zoe { address 1.1.1.1:1; } on adam { address 1.1.1.2:1; } }",
    );
    let ids: Vec<_> = r0.hosts.iter().map(|host| (host.name.as_str(), host.node_id)).collect();
    assert_eq!(ids, [("adam", 0), ("zoe", 1)]);
}

#[test]
fn a_volume_without_a_minor_gets_the_lowest_that_is_free() {
    let hosts = "on a { address 1.1.1.1:PORT; } on b { address 1.1.1.2:PORT; }";
    let resource = |name: &str, port: &str, volumes: &str| {
        format!("resource {name} {{ {volumes} {} }}", hosts.replace("PORT", port))
    };
    let text = resource("r0", "1", "volume 3 { disk /d0; } volume 5 { disk /d1; }")
        + &resource("r1", "2", "volume 0 { device minor 1; disk /d2; }");
    let config = loaded(&text);
    let told: Vec<String> = short(&config).iter().map(|one| one[..48].to_owned()).collect();
    assert_eq!(
        told,
        [
            "1:26 warning volume 3 has no device: it gets min",
            "1:49 warning volume 5 has no device: it gets min"
        ]
    );
    let minor = |name: &str, volume| config.resource(name).unwrap().hosts[1].volumes[&volume].minor;
    assert_eq!((minor("r0", 3), minor("r0", 5), minor("r1", 0)), (0, 2, 1));
}

#[test]
fn options_act_in_their_units() {
    let r0 = clean(&pair(
        "net { timeout 50; ping-int 9; ping-timeout 4; connect-int 8; ko-count 0; max-buffers 8K;
         max-epoch-size 100; sndbuf-size 512k; rcvbuf-size 1M; after-sb-0pri discard-node-bob; \
         after-sb-1pri consensus;
         fencing resource-and-stonith; rr-conflict retry-connect; }
         disk { al-extents 257; resync-rate 1M; c-max-rate 0; c-min-rate 100; on-io-error pass_on; }
         options { auto-promote yes; nbd-clients exclusive; busy-poll 50;
         hand-over-timeout 20; device-attach auto; handler-timeout 20; }
         handlers { fence-peer \"/x -a b; exit 4\"; split-brain \"\"; }",
    ));
    let expected = Options {
        timeout_ms: 5000,
        ping_int_ms: 9000,
        ping_timeout_ms: 400,
        connect_int_ms: 8000,
        ko_count: 0,
        max_buffers: 8192,
        max_epoch_size: 100,
        sndbuf_size: 512 << 10,
        rcvbuf_size: 1 << 20,
        after_sb_0pri: AfterSb0Pri::DiscardNode(1),
        after_sb_1pri: AfterSb1Pri::Consensus,
        rr_conflict: RrConflict::RetryConnect,
        al_extents: 257,
        resync_rate: 1024,
        c_max_rate: 0,
        c_min_rate: 100,
        on_io_error: OnIoError::PassOn,
        auto_promote: true,
        nbd_clients_exclusive: true,
        busy_poll_us: 50,
        hand_over_timeout_ms: 2000,
        device_attach_auto: true,
        fencing: Fencing::ResourceAndStonith,
        handlers: [(Handler::FencePeer, "/x -a b; exit 4".to_owned())].into(),
        handler_timeout_ms: 20_000,
        ..Options::default()
    };
    assert_eq!(r0.options, expected);
}

#[test]
fn the_nearer_level_wins() {
    let text = "common { net { timeout 10; ping-int 11; ko-count 1; } disk { al-extents 100; } }"
        .to_owned()
        + &pair(
            "net { timeout 20; ping-int 22; } disk { al-extents 200; }
             connection { host alice; host bob; net { timeout 30; }
             volume 0 { disk { c-max-rate 7K; } } }
             connection-mesh { }",
        )
        .replace("connection-mesh { }", "")
        .replace("disk /d0;", "disk /d0; disk { al-extents 300; }");
    let options = clean(&text).options;
    assert_eq!(
        (options.timeout_ms, options.ping_int_ms, options.ko_count, options.al_extents),
        (3000, 22_000, 1, 300)
    );
    assert_eq!(options.c_max_rate, 7);
}

#[test]
fn what_tandem_does_anyway_is_silent() {
    clean(
        &("global { usage-count no; }".to_owned()
            + &pair(
                "protocol C; options { quorum off; on-no-data-accessible io-error; }
                 net { fencing dont-care; allow-two-primaries no; transport tcp; tls no; use-rle; }
                 disk { disk-barrier no; no-disk-barrier; disk-drain yes; }",
            )
            .replace("no-disk-barrier; ", "")),
    );
}

/// `(more statements of the pair, in line 2, its findings)`.
#[test]
fn every_wrong_statement_is_named_at_its_place() {
    for (more, expected) in [
        (
            "net { protocl C; }",
            "2:7 error unknown word `protocl` in net | did you mean `protocol`?",
        ),
        (
            "net { timeout 601; }",
            "2:15 error timeout 601 is out of range | 1 to 600, in units of 0.1 s; did you mean 6 \
             (0.6 s)?",
        ),
        ("net { ping-int 0; }", "2:16 error ping-int 0 is out of range | 1 to 120, in seconds"),
        (
            "net { ping-int 5s; }",
            "2:16 error ping-int 5s: a time is written without a suffix | 1 to 120, in seconds",
        ),
        (
            "net { timeout ten; }",
            "2:15 error timeout does not take `ten` | 1 to 600, in units of 0.1 s",
        ),
        (
            "net { timeout; }",
            "2:14 error a value is missing after `timeout` | write: timeout N (N from 1 to 600, in \
             units of 0.1 s);",
        ),
        (
            "net { timeout 60 70; }",
            "2:18 error `70` is too much here | write: timeout N (N from 1 to 600, in units of 0.1 \
             s);",
        ),
        (
            "net { timeout 60\n ping-int 5; }",
            "2:17 error `;` is missing after `60` | write: timeout N (N from 1 to 600, in units of \
             0.1 s);",
        ),
        (
            "net { al-extents 100; }",
            "2:7 error `al-extents` has no place in net | write: disk { al-extents ...; }",
        ),
        ("net { protocol Z; }", "2:16 error protocol does not take `Z` | one of: A, B, C"),
        (
            "net { after-sb-1pri consenus; }",
            "2:21 error after-sb-1pri does not take `consenus` | did you mean `consensus`?",
        ),
        (
            "net { after-sb-0pri discard-node-carol; }",
            "2:7 error discard-node-carol: carol is no host of r0 | one of: alice, bob",
        ),
        (
            "net { always-asbp maybe; }",
            "2:19 error always-asbp does not take `maybe` | one of: yes, no",
        ),
        (
            "protocol A;",
            "2:1 error protocol A: it acknowledges a write before the peer's disk has it; only C \
             exists | write: protocol C;",
        ),
        (
            "net { rr-conflict call-pri-lost; }",
            "2:7 warning rr-conflict call-pri-lost: there is no handler pri-lost, and nothing is \
             called | write: handlers { pri-lost \"...\"; }",
        ),
        (
            "disk { on-io-error call-local-io-error; }",
            "2:8 warning on-io-error call-local-io-error: there is no handler local-io-error, and \
             nothing is called | write: handlers { local-io-error \"...\"; }",
        ),
        (
            "net { after-sb-2pri call-pri-lost-after-sb; }",
            "2:7 warning after-sb-2pri call-pri-lost-after-sb: there is no handler pri-lost-after-sb, \
             and nothing is called | write: handlers { pri-lost-after-sb \"...\"; }",
        ),
        (
            "disk { fencing resource-and-stonith; }",
            "2:8 warning fencing resource-and-stonith: takes effect without a handler fence-peer: a \
             Primary that loses its peer freezes I/O until the peer is back, or `resume-io` | write: \
             handlers { fence-peer \"...\"; }",
        ),
        (
            "handlers { outdate-peer /bin/x; }",
            "2:12 warning fence-peer /bin/x: never called while fencing is dont-care | remove it",
        ),
        (
            "handlers { pri-lost /bin/x; }",
            "2:12 warning pri-lost /bin/x: only rr-conflict call-pri-lost calls it | remove it, or \
             write: rr-conflict call-pri-lost;",
        ),
        (
            "options { handler-timeout 0; }",
            "2:27 error handler-timeout 0 is out of range | 1 to 3600, in seconds",
        ),
        (
            "options { quorum majority; }",
            "2:11 error quorum majority: there is no quorum: a lone node would go on writing | \
             write: quorum off;",
        ),
        (
            "floating 10.0.0.3:1 { }",
            "5:4 error a third host, bob: a resource has two hosts | keep two `on` sections",
        ),
        (
            "on carol { address 10.0.0.3:7789; }",
            "5:4 error a third host, bob: a resource has two hosts | keep two `on` sections",
        ),
        (
            "on bob { address 10.0.0.2:1; }",
            "5:4 error a second `on` section for bob (the first: t.conf:2) | keep one section for \
             each host",
        ),
        (
            "volume 0 { disk /e; }",
            "3:8 error volume 0 is given twice | keep one section for each volume",
        ),
        (
            "meta-disk internal; volume 1 { device minor 1; disk /e; }",
            "2:1 error this stands outside the volume sections, and so means volume 0 | write it \
             in a section: volume 0 { ... }",
        ),
        (
            "volume 1 { device minor 1; }",
            "4:4 error volume 1 has no disk on alice | write: disk PATH;  or, without a copy: disk \
             none;",
        ),
        (
            "volume 1 { device minor 1; disk none; }",
            "2:28 error volume 1 is diskless on alice and bob: nobody has the data | write: disk \
             PATH;  for one of them",
        ),
        (
            "volume 1 { device minor 0; disk /e; }",
            "2:12 error r0/1: minor 0 belongs to r0/0 already (t.conf:3) | give each volume a \
             minor of its own",
        ),
        (
            "volume 1 { device minor 1; disk //d0; }",
            "2:28 error r0/1: disk /d0 belongs to r0/0 already (t.conf:3) | give each volume a \
             disk of its own",
        ),
        (
            "volume 1 { disk /e; meta-disk /d0; device minor 1; }",
            "2:21 error r0/1: disk /d0 belongs to r0/0 already (t.conf:3) | give each volume a \
             disk of its own",
        ),
        (
            "volume 1 { disk /e; meta-disk /m[0]; device minor 1; }",
            "2:31 error `/m[0]`: indexed metadata does not exist here | write: meta-disk /m;  one \
             device or file for each volume",
        ),
        (
            "volume 1 { disk r1.img; device minor 1; }",
            "2:17 error `r1.img` does not begin with `/` | write: disk /PATH;  or  disk none;",
        ),
        (
            "volume 1 { disk /e; meta-disk internl; device minor 1; }",
            "2:31 error `internl` does not begin with `/` | write: meta-disk /PATH;  or  meta-disk \
             internal;",
        ),
        (
            "disk { size 7s; }",
            "2:8 error size 7s: a volume has one block of 4096 bytes at least | write: size 8s;  or \
             more;  or remove the line",
        ),
        ("volume 65535 { disk /e; }", "2:8 error volume 65535 is out of range | 0 to 65534"),
        (
            "volume 1 { device 7; disk /e; }",
            "2:20 error `7` names no minor | write: device 7 minor M;",
        ),
        (
            "connection { host alice; host carol; }",
            "2:31 error host carol has no `on` section | write the name as in an `on` section",
        ),
        (
            "connection { host alice; }",
            "2:1 error one host in this connection: it has two ends | write: host A; host B;",
        ),
        (
            "net { disk-flushes; }",
            "2:7 error `disk-flushes` has no place in net | write: disk { disk-flushes ...; }",
        ),
        (
            "disk { disk-flushes no; }",
            "2:8 warning disk-flushes no: takes effect: a flush that was acknowledged is not \
             durable on both disks any more | write: disk-flushes yes;",
        ),
        (
            "disk { no-md-flushes; }",
            "2:8 warning md-flushes no: takes effect: after a power cut the metadata may be older \
             than the data, and blocks that differ may be unknown | write: md-flushes yes;",
        ),
        (
            "net { timeout 60; timeout 50; }",
            "2:19 warning timeout is given again: this one is in force | keep one; the other is at \
             t.conf:2",
        ),
        (
            "syncer { rate 33M; }",
            "2:10 warning `syncer` is 8.4's place of resync-rate; it takes effect | write: disk { \
             resync-rate ...; }",
        ),
        ("net;", "2:1 error `net` is a section | write: net { ... }"),
        ("prtocol C;", "2:1 error unknown word `prtocol` in resource | did you mean `protocol`?"),
        (
            "timeout 60;",
            "2:1 error unknown word `timeout` in resource | write: net { timeout ...; }",
        ),
        (
            "\tnet { bogus 1; }",
            "2:8 error unknown word `bogus` in net | remove it; the words are those of \
             drbd.conf(5)",
        ),
        (
            "/* not ended;",
            "2:1 error unknown word `/*` in resource | a comment begins with # and ends with its \
             line",
        ),
    ] {
        let config = loaded(&pair(more));
        let found = short(&config);
        let wanted: Vec<&str> = expected.split('\n').collect();
        let (first, others) = found.split_first().unwrap_or_else(|| panic!("nothing: {more}"));
        assert_eq!(first, wanted[0], "{more}");
        // Where the place is the same on the other host, it is one more of the same kind.
        assert!(others.len() <= 1, "{more}: {found:#?}");
        let refused = first.contains(" error ");
        assert_eq!(config.is_refused("r0"), refused, "{more}");
        assert_eq!(config.resource("r0").is_none(), refused, "{more}");
    }
}

#[test]
fn every_wrong_address_is_named() {
    for (address, expected) in [
        ("", "the address is missing"),
        ("10.0.0.1", "`10.0.0.1`: the port is missing"),
        ("ipv6 [::1]", "`[::1]`: the port is missing"),
        ("10.0.0.1:0", "`10.0.0.1:0`: the port is not a number from 1 to 65535"),
        ("10.0.0.1:70000", "`10.0.0.1:70000`: the port is not a number from 1 to 65535"),
        ("alice:7789", "`alice:7789`: not an IP address (names are not looked up)"),
        ("ipv6 ::1:7789", "`::1:7789`: the port is missing"),
        ("ipv6 10.0.0.1:1", "`10.0.0.1:1`: not an IPv6 address"),
        ("ipv4 [::1]:1", "`[::1]:1`: not an IPv4 address"),
        ("0.0.0.0:1", "`0.0.0.0:1`: not the address of one host"),
        ("sdp 10.0.0.1:1", "address family `sdp`: only ipv4 and ipv6 exist"),
        ("10.0.0.1:1 2", "`2` is too much here"),
        ("10.0.0.2:7789", "10.0.0.2:7789 is the address of both hosts: a node would dial itself"),
        ("[::1]:7789", "[::1]:7789 and 10.0.0.2:7789 are of two address families"),
    ] {
        let text = pair("").replace("10.0.0.1:7789", address);
        let config = loaded(&text);
        assert_eq!(config.findings[0].text, expected, "{address}");
        assert!(config.is_refused("r0"));
    }
}

#[test]
fn node_ids_are_checked() {
    let with = |alice: &str, bob: &str| {
        let text = pair("").replace("on alice {", &format!("on alice {{ {alice}"));
        short(&loaded(&text.replace("on bob {", &format!("on bob {{ {bob}"))))
    };
    assert_eq!(with("node-id 3;", "node-id 1;"), Vec::<String>::new());
    assert!(with("node-id 1;", "node-id 1;")[0].starts_with("5:10 error node-id 1 is the other"));
    assert!(with("node-id 1;", "")[0].starts_with("5:4 error bob has no node-id"));
    assert!(with("node-id 32;", "node-id 1;")[0].starts_with("4:20 error node-id 32 is out of"));
    assert_eq!(with("node-id 32;", "node-id 1;").len(), 1);
}

/// Two resources; what of the second is already the first's.
#[test]
fn one_host_gives_each_thing_once() {
    let second = |old: &str, new: &str| {
        let text = pair("").replace("r0", "r1").replace("/d0", "/d1").replace("7789", "7790");
        let text = text.replace("minor 0", "minor 1").replace(old, new);
        loaded(&(pair("") + &text))
    };
    assert_eq!(short(&second("", "")), Vec::<String>::new());
    for (old, new, expected) in [
        ("10.0.0.1:7790", "10.0.0.1:7789", "r1: address 10.0.0.1:7789 belongs to r0"),
        ("/d1", "/d0", "r1/0: disk /d0 belongs to r0/0"),
        ("minor 1", "minor 0", "r1/0: minor 0 belongs to r0/0"),
        ("alice", "alice.example.com", ""),
    ] {
        let config = second(old, new);
        if expected.is_empty() {
            assert_eq!(short(&config), Vec::<String>::new());
            continue;
        }
        assert!(config.findings[0].text.starts_with(expected), "{:#?}", short(&config));
        assert!(config.resource("r0").is_some() && config.is_refused("r1"), "{expected}");
    }
    let twice = second("r1", "r0");
    assert!(twice.findings[0].text.starts_with("a second resource r0"));
    assert!(twice.is_refused("r0") && twice.resources.is_empty());
}

#[test]
fn a_finding_shows_its_line_and_column() {
    let config = loaded(&pair("\tnet { protocl C; }"));
    assert_eq!(
        config.findings[0].to_string(),
        "t.conf:2:8: error: unknown word `protocl` in net\n    \tnet { protocl C; }\n    \t      \
         ^\n    did you mean `protocol`?"
    );
}

#[test]
fn a_definition_from_outside_is_checked() {
    let r0 = clean(&pair(""));
    let json = serde_json::to_value(&r0).unwrap();
    let back: Definition = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(back, r0);
    let with = |pointer: &str, value: serde_json::Value| {
        let mut json = json.clone();
        *json.pointer_mut(pointer).unwrap() = value;
        serde_json::from_value::<Definition>(json).unwrap().for_node("alice")
    };
    assert!(with("/name", "r1".into()).is_ok());
    for (pointer, value) in [
        ("/name", "a/b".into()),
        ("/hosts", serde_json::json!([])),
        ("/hosts/1/node_id", 0.into()),
        ("/hosts/1/node_id", 32.into()),
        ("/hosts/1/name", "alice.example.com".into()),
        ("/hosts/1/name", "".into()),
        ("/hosts/1/name", "b\nob".into()),
        ("/hosts/1/address", "10.0.0.1:7789".into()),
        ("/hosts/1/volumes", serde_json::json!({})),
        ("/hosts/0/volumes/0/minor", (1 << 20).into()),
        ("/hosts/0/volumes/0/disk", "r0.img".into()),
        ("/options/timeout_ms", 0.into()),
        ("/options/al_extents", 1.into()),
        ("/options/after_sb_0pri", serde_json::json!({"DiscardNode": 7})),
    ] {
        assert!(with(pointer, value.clone()).is_err(), "{pointer} {value}");
    }
}
