//! `drbdsetup show`: what a resource that is up runs with, as JSON or in the grammar of the config.

use std::fmt::Write;
use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use crate::config::{Definition, Host, HostVolume, MetaDisk};
use crate::resource::Options;

/// Options of DRBD's that have one value here. drbd-reactor reads some of them.
const FIXED: &[(&str, &str, &str)] = &[
    ("options", "quorum", "off"),
    ("options", "quorum-minimum-redundancy", "off"),
    ("options", "on-no-quorum", "suspend-io"),
    ("options", "on-no-data-accessible", "io-error"),
    ("options", "on-suspended-primary-outdated", "disconnect"),
    ("net", "allow-two-primaries", "no"),
    ("net", "transport", "tcp"),
];

/// The options of a section, as name and value: all of them with `defaults`, else those that the
/// configuration had at `up`, and those that have another value than the default by now.
fn options(
    definition: &Definition,
    options: &Options,
    section: &str,
    defaults: bool,
) -> Vec<(&'static str, String)> {
    let all = options.written();
    let fixed = FIXED.iter().filter(|(_, name, _)| all.iter().all(|one| one.name != *name));
    let fixed: Vec<_> =
        fixed.map(|(of, name, value)| (*of, *name, (*value).to_owned(), false)).collect();
    let usual = Options::default().written();
    let all = all.into_iter().zip(usual).map(|(one, usual)| {
        let is_changed = one.value != usual.value;
        (one.section, one.name, one.value, is_changed)
    });
    let is_shown =
        |name: &str, changed| defaults || changed || definition.written.contains_key(name);
    let chosen = all
        .chain(fixed)
        .filter(|(of, name, _, changed)| *of == section && is_shown(name, *changed));
    chosen.map(|(_, name, value, _)| (name, value)).collect()
}

/// The `disk` options of a volume.
fn disk_options(
    definition: &Definition,
    volume: &HostVolume,
    defaults: bool,
) -> Vec<(&'static str, String)> {
    let disk = volume.disk_options.unwrap_or_else(|| definition.options.disk());
    let mut all = options(definition, &definition.options.with_disk(disk), "disk", defaults);
    all.extend(volume.resync_after.iter().map(|after| ("resync-after", after.to_string())));
    all
}

/// The `net` options. Of the secrets only what they are for: who may ask the daemon need not be one who may read
/// the configuration.
fn net_options(definition: &Definition, defaults: bool) -> Vec<(&'static str, String)> {
    let mut all = options(definition, &definition.options, "net", defaults);
    let secrets = definition.secrets.iter();
    all.extend(secrets.map(|one| ("cram-hmac-alg", one.cram_hmac_alg.name().to_owned())));
    all
}

/// As JSON has it: booleans, numbers, words.
fn value(text: &str) -> Value {
    match (text, text.parse::<u64>()) {
        ("yes", _) => json!(true),
        ("no", _) => json!(false),
        (_, Ok(number)) => json!(number),
        (_, Err(_)) => json!(text),
    }
}

fn object(options: Vec<(&'static str, String)>) -> Map<String, Value> {
    options.into_iter().map(|(name, text)| (name.to_owned(), value(&text))).collect()
}

fn address(address: SocketAddr) -> Value {
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    json!({ "address": address.ip().to_string(), "port": address.port(), "family": family })
}

fn meta_disk(meta_disk: &MetaDisk) -> &str {
    match meta_disk {
        MetaDisk::Internal => "internal",
        MetaDisk::External { path } => path,
    }
}

/// One element of the array.
fn resource(definition: &Definition, own: &Host, defaults: bool) -> Value {
    let volumes: Vec<Value> = own
        .volumes
        .iter()
        .map(|(number, volume)| {
            json!({
                "volume_nr": number,
                "device_minor": volume.minor,
                "backing-disk": volume.disk.as_deref().unwrap_or("none"),
                "meta-disk": meta_disk(&volume.meta_disk),
                "disk": object(disk_options(definition, volume, defaults)),
            })
        })
        .collect();
    let peers = definition.hosts.iter().filter(|host| host.node_id != own.node_id);
    let connections: Vec<Value> = peers
        .map(|peer| {
            let paths = own.addresses().zip(peer.addresses()).map(|(local, remote)| {
            json!({ "_this_host": address(local), "_remote_host": address(remote) })
        });
            let mut net = object(net_options(definition, defaults));
            net.insert("_name".to_owned(), json!(peer.name));
            let paths: Vec<Value> = paths.collect();
            json!({
                "_peer_node_id": peer.node_id,
                "path": paths.first(),
                "paths": paths,
                "net": net,
            })
        })
        .collect();
    json!({
        "resource": definition.name,
        "options": object(options(definition, &definition.options, "options", defaults)),
        "_this_host": { "node-id": own.node_id, "volumes": volumes },
        "connections": connections,
    })
}

/// An array of resources, with a line break at the end.
#[must_use]
pub fn show_json(all: &[(&Definition, &Host)], defaults: bool) -> String {
    let all: Vec<Value> =
        all.iter().map(|(definition, own)| resource(definition, own, defaults)).collect();
    format!("{:#}\n", Value::Array(all))
}

/// One resource in the grammar of the config, with a line break at the end.
#[must_use]
pub fn show_text(definition: &Definition, own: &Host, defaults: bool) -> String {
    let mut out = format!("resource \"{}\" {{\n", definition.name);
    let section = |out: &mut String, depth: usize, name: &str, all: Vec<(&'static str, String)>| {
        if all.is_empty() {
            return;
        }
        let indent = " ".repeat(depth * 4);
        let _ = writeln!(out, "{indent}{name} {{");
        for (name, value) in all {
            let _ = writeln!(out, "{indent}    {name} {value};");
        }
        let _ = writeln!(out, "{indent}}}");
    };
    let general = options(definition, &definition.options, "options", defaults);
    section(&mut out, 1, "options", general);
    let _ = writeln!(out, "    _this_host {{\n        node-id {};", own.node_id);
    for (number, volume) in &own.volumes {
        let _ = writeln!(out, "        volume {number} {{");
        let _ = writeln!(out, "            device minor {};", volume.minor);
        let _ = match &volume.disk {
            Some(disk) => writeln!(
                out,
                "            disk \"{disk}\";\n            meta-disk {};",
                meta_disk(&volume.meta_disk)
            ),
            None => writeln!(out, "            disk none;"),
        };
        section(&mut out, 3, "disk", disk_options(definition, volume, defaults));
        out += "        }\n";
    }
    out += "    }\n";
    for peer in definition.hosts.iter().filter(|host| host.node_id != own.node_id) {
        let _ = writeln!(out, "    connection {{\n        _peer_node_id {};", peer.node_id);
        for (local, remote) in own.addresses().zip(peer.addresses()) {
            let family = |address: SocketAddr| if address.is_ipv4() { "ipv4" } else { "ipv6" };
            let _ = writeln!(
                out,
                "        path {{\n            _this_host {} {local};\n            \
                 _remote_host {} {remote};\n        }}",
                family(local),
                family(remote)
            );
        }
        let mut net = vec![("_name", format!("\"{}\"", peer.name))];
        net.extend(net_options(definition, defaults));
        section(&mut out, 2, "net", net);
        out += "    }\n";
    }
    out + "}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> crate::config::Config {
        let text = "resource r0 { net { ping-int 7; } options { auto-promote yes; } \
            volume 0 { device minor 0; disk /dev/vg0/r0; meta-disk internal; } \
            on alice { node-id 0; address 10.0.0.1:7789; } \
            on bob { node-id 1; address 10.0.0.2:7789; } }";
        crate::config::load(&crate::config::OneFile(text), "r0.res")
    }

    /// What drbd-reactor needs: a missing key, or another type, and it does not begin.
    #[test]
    fn reactors_keys_are_there_with_their_types() {
        let config = config();
        let definition = &config.resources[0];
        let text = show_json(&[(definition, &definition.hosts[0])], true);
        let all: Value = serde_json::from_str(&text).unwrap();
        let one = &all[0];
        assert_eq!(one["resource"], "r0");
        assert_eq!(one["options"]["auto-promote"], true);
        assert_eq!(one["options"]["quorum"], "off");
        for key in ["on-no-quorum", "on-suspended-primary-outdated", "on-no-data-accessible"] {
            assert!(one["options"][key].is_string(), "{key}");
        }
        let net = &one["connections"][0]["net"];
        assert_eq!(
            (&net["rr-conflict"], &net["fencing"]),
            (&json!("disconnect"), &json!("dont-care"))
        );
        assert_eq!(net["_name"], "bob");
        assert_eq!(one["_this_host"]["volumes"][0]["device_minor"], 0);
    }

    #[test]
    fn what_was_changed_at_run_time_is_shown_and_no_secret() {
        let mut config = config();
        let definition = &mut config.resources[0];
        definition.options.ko_count = 3;
        let mut disk = definition.options.disk();
        disk.al_extents = 251;
        let volume = definition.hosts[0].volumes.get_mut(&0).unwrap();
        volume.disk_options = Some(disk);
        volume.resync_after = crate::config::ResyncAfter::of_option("r1/2").unwrap();
        let text = "resource r1 { net { shared-secret \"of both\"; } \
            volume 0 { device minor 1; disk /dev/vg0/r1; meta-disk internal; } \
            on alice { node-id 0; address 10.0.0.1:7789; } \
            on bob { node-id 1; address 10.0.0.2:7789; } }";
        let other = crate::config::load(&crate::config::OneFile(text), "r1.res");
        definition.secrets.clone_from(&other.resources[0].secrets);
        let shown = show_text(definition, &definition.hosts[0], false);
        for line in
            ["ko-count 3;", "al-extents 251;", "resync-after r1/2;", "cram-hmac-alg sha256;"]
        {
            assert!(shown.contains(line), "{line}: {shown}");
        }
        let text = show_json(&[(definition, &definition.hosts[0])], false);
        let all: Value = serde_json::from_str(&text).unwrap();
        let volume = json!({ "al-extents": 251, "resync-after": "r1/2" });
        assert_eq!(all[0]["_this_host"]["volumes"][0]["disk"], volume);
        let net = json!({
            "_name": "bob", "cram-hmac-alg": "sha256", "ko-count": 3, "ping-int": 7
        });
        assert_eq!(all[0]["connections"][0]["net"], net);
        assert!(!(shown + &text).contains("of both"));
    }

    #[test]
    fn without_defaults_only_what_is_written_is_shown() {
        let config = config();
        let definition = &config.resources[0];
        let text = show_json(&[(definition, &definition.hosts[0])], false);
        let all: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(all[0]["options"], json!({ "auto-promote": true }));
        assert_eq!(all[0]["connections"][0]["net"], json!({ "ping-int": 7, "_name": "bob" }));
        assert_eq!(
            show_text(definition, &definition.hosts[0], false),
            "resource \"r0\" {\n    options {\n        auto-promote yes;\n    }\n    _this_host {\n        \
             node-id 0;\n        volume 0 {\n            device minor 0;\n            \
             disk \"/dev/vg0/r0\";\n            meta-disk internal;\n        }\n    }\n    \
             connection {\n        _peer_node_id 1;\n        path {\n            \
             _this_host ipv4 10.0.0.1:7789;\n            _remote_host ipv4 10.0.0.2:7789;\n        }\n        \
             net {\n            _name \"bob\";\n            ping-int 7;\n        }\n    }\n}\n"
        );
    }
}
