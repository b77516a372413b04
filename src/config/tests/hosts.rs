//! Hosts by address, several paths, and what each volume or tandemadm has of its own.

use super::*;
use crate::resource::DiskOptions;

const FLOATING: &str = "resource san0 { device minor 7; disk /d; \
    floating 10.3.0.1:7807 { node-id 0; } floating ipv4 10.3.0.2:7807 { node-id 1; } }";

#[test]
fn a_floating_host_is_the_one_that_has_the_address() {
    let mut definition = clean(FLOATING);
    assert_eq!(definition.hosts[1].name, "10.3.0.2:7807");
    let at = |text: &'static str| move |ip: std::net::IpAddr| ip.to_string() == text;
    let none = definition.clone().settle("alice", at("10.9.9.9")).unwrap_err();
    assert!(none.contains("none of its addresses (10.3.0.1:7807 and 10.3.0.2:7807)"), "{none}");
    let both = definition.clone().settle("alice", |_| true).unwrap_err();
    assert!(both.contains("more than one"), "{both}");
    definition.settle("alice", at("10.3.0.2")).unwrap();
    let config = definition.for_node("alice").unwrap();
    assert_eq!((config.node_id, config.peers[0].name.as_str()), (1, "10.3.0.1:7807"));
    // Named, it needs no address here.
    let mut named = clean(FLOATING);
    named.settle("10.3.0.1:7807", |_| false).unwrap();
    assert_eq!(named.for_node("10.3.0.1:7807").unwrap().node_id, 0);
}

#[test]
fn floating_needs_one_address() {
    let text = FLOATING.replace("floating ipv4 10.3.0.2:7807", "floating 10.3.0.2:7807 extra");
    assert_eq!(
        short(&loaded(&text)),
        ["1:103 error `extra` is too much here | write: floating IP:PORT { ... }"]
    );
    let text = FLOATING.replace("10.3.0.2:7807", "10.3.0.2");
    assert!(short(&loaded(&text))[0].contains("the port is missing"));
}

#[test]
fn further_paths_have_both_ends() {
    let path = |a: &str, b: &str| {
        format!("path {{ host alice address {a}:1; host bob address {b}:1; }}\n")
    };
    let two = format!(
        "connection {{ {}{} }}",
        path("10.1.0.1", "10.1.0.2"),
        path("10.2.0.1", "10.2.0.2")
    );
    let definition = clean(&pair(&two));
    let all: Vec<String> = definition.hosts[1].addresses().map(|a| a.to_string()).collect();
    assert_eq!(all, ["10.1.0.2:1", "10.2.0.2:1"]);
    assert!(definition.check().is_ok());
    let wrong = two.replace("host bob address 10.2.0.2:1;", "");
    assert!(short(&loaded(&pair(&wrong)))[0].contains("a path needs the address of both hosts"));
    let same = two.replace("10.2.0.2", "10.2.0.1");
    assert!(short(&loaded(&pair(&same)))[0].contains("are no two ends of a path"));
    let mut odd = definition.clone();
    odd.hosts[0].more_addresses.clear();
    assert!(odd.check().unwrap_err().contains("the same paths"));
}

#[test]
fn size_and_wfc_timeout_act() {
    let definition = clean(&pair("disk { size 20G; } startup { wfc-timeout 15; }"));
    assert_eq!(definition.hosts[0].volumes[&0].size, Some(20 << 30));
    assert_eq!(definition.waits.wfc_timeout, Some(15));
    let sectors = clean(&pair("disk { size 2049; }"));
    assert_eq!(sectors.hosts[1].volumes[&0].size, Some(1 << 20));
    let none = clean(&pair("disk { size 0; } startup { wfc-timeout 0; }"));
    assert_eq!((none.hosts[0].volumes[&0].size, none.waits.wfc_timeout), (None, Some(0)));
}

#[test]
fn every_option_of_waiting_acts_and_is_dumped() {
    let text = "startup { degr-wfc-timeout 20; outdated-wfc-timeout 30; wait-after-sb yes; }";
    let definition = clean(&pair(text));
    let waits = Waits {
        wfc_timeout: None,
        degr_wfc_timeout: Some(20),
        outdated_wfc_timeout: Some(30),
        wait_after_sb: Some(true),
    };
    assert_eq!(definition.waits, waits);
    let given = Waits { wfc_timeout: Some(1), wait_after_sb: Some(false), ..Waits::default() };
    let both = Waits { wfc_timeout: Some(1), wait_after_sb: Some(false), ..waits };
    assert_eq!(given.or(waits), both);
}

#[test]
fn a_volume_has_disk_options_of_its_own() {
    let text = "resource r0 { disk { al-extents 3000; c-max-rate 10M; } \
        volume 0 { device minor 0; disk /d0; } \
        volume 1 { device minor 1; disk /d1; disk { al-extents 257; } } \
        on alice { address 10.0.0.1:1; } \
        on bob { address 10.0.0.2:1; volume 0 { disk { on-io-error pass_on; } } } \
        connection { host alice; host bob; volume 1 { disk { c-max-rate 50M; } } } }";
    let definition = clean(text);
    assert_eq!((definition.options.al_extents, definition.options.c_max_rate), (3000, 10 << 10));
    let own = |host: usize, volume: u16| definition.hosts[host].volumes[&volume].disk_options;
    assert_eq!(own(0, 0), None);
    let one = own(0, 1).unwrap();
    assert_eq!((one.al_extents, one.c_max_rate), (257, 50 << 10));
    assert_eq!(own(1, 1), own(0, 1));
    assert_eq!(own(1, 0).unwrap().on_io_error, OnIoError::PassOn);
    let config = definition.for_node("alice").unwrap();
    assert_eq!(config.disk_options(0).al_extents, 3000);
    assert_eq!(config.disk_options(1).al_extents, 257);
    let again = loaded(&dump(&loaded(text)));
    assert_eq!(again.resources[0].hosts, definition.hosts);
    let mut odd = definition.clone();
    let volume = odd.hosts[0].volumes.get_mut(&1).unwrap();
    volume.disk_options = Some(DiskOptions { al_extents: 1, ..one });
    assert!(odd.check().unwrap_err().contains("al-extents 1"));
}

#[test]
fn a_host_has_a_name_that_can_be_written_in_a_target() {
    let named = |name: &str| loaded(&pair("").replace("on bob", &format!("on \"{name}\"")));
    assert!(!named("bob.example.com").has_errors());
    for name in ["b ob", "", "b/0"] {
        let text = named(name).findings[0].to_string();
        assert!(text.contains("cannot name a host"), "{name:?}: {text}");
    }
}

/// What the peers tell each other of their volumes has room for 64.
#[test]
fn a_resource_has_64_volumes_at_most() {
    let with = |count: u16| {
        let volume = |n| format!("volume {n} {{ device minor {n}; disk /d{n}; }}\n");
        loaded(&pair(&(1..count).map(volume).collect::<String>()))
    };
    assert_eq!(with(64).findings, []);
    let text = with(65).findings[0].to_string();
    assert!(text.contains("65 volumes: a resource has 64 at most"), "{text}");
}

#[test]
fn xml_has_what_dump_has_whatever_a_name_holds() {
    let text =
        pair("disk { size 20G; } net { shared-secret \"a&b\"; } startup { wfc-timeout 15; }");
    let definition = clean(&text.replacen("disk /d0", "disk \"/a<b'0\"", 1));
    let text = dump_xml("/etc/tandem.conf", [&definition]);
    for part in [
        "<config file=\"/etc/tandem.conf\">\n    <resource name=\"r0\" conf-file-line=\"t.conf:1\">\n",
        "        <host name=\"alice\">\n            <volume vnr=\"0\">\n                \
         <device minor=\"0\">/dev/nbd0</device>\n                \
         <disk>/a&lt;b&apos;0</disk>\n                <meta-disk>internal</meta-disk>\n",
        "<option name=\"size\" value=\"41943040s\"/>",
        "            <address family=\"ipv4\" port=\"7789\">10.0.0.1</address>\n        </host>\n",
        "        <section name=\"net\">\n            <option name=\"protocol\" value=\"C\"/>\n",
        "<option name=\"shared-secret\" value=\"a&amp;b\"/>",
        "        <section name=\"startup\">\n            <option name=\"wfc-timeout\" value=\"15\"/>\n",
        "    </resource>\n</config>\n",
    ] {
        assert!(text.contains(part), "{part}\nin\n{text}");
    }
    // Each element is closed, in order.
    let mut open: Vec<&str> = Vec::new();
    for tag in text.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap();
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None if tag.ends_with('/') => {}
            None => open.push(tag.split(' ').next().unwrap()),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}
