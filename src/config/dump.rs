//! A config printed back as DRBD text, canonical: volumes in their hosts, options that are not
//! defaults, and those that a reader must not have to guess (protocol, auto-promote).
//!
//! Invariant: the text loads to the same definitions, apart from where things are written.

use std::fmt::Write;

use crate::resource::{AfterSb0Pri, Options};

use super::Config;
use super::definition::{Definition, HostVolume, MetaDisk, Waits};
use super::token::needs_no_quotes;
use crate::secret::Secrets;

/// The config as `tandemadm dump` prints it. A refused resource is a comment.
#[must_use]
pub fn dump(config: &Config) -> String {
    let mut out = String::new();
    for definition in &config.resources {
        definition_text(definition, &mut out);
    }
    for name in &config.refused {
        line(&mut out, 0, &format!("# resource {name}: refused"));
    }
    out
}

fn definition_text(definition: &Definition, out: &mut String) {
    line(out, 0, &format!("resource {} {{", quoted(&definition.name)));
    let defaults = Options::default().written();
    for section in ["options", "net", "disk"] {
        let mut lines = Vec::new();
        for (option, default) in definition.options.written().into_iter().zip(&defaults) {
            let always = matches!(option.name, "auto-promote" | "protocol");
            if option.section == section && (always || option.value != default.value) {
                let value = match victim(definition) {
                    Some(name) if option.name == "after-sb-0pri" => format!("discard-node-{name}"),
                    _ => option.value,
                };
                lines.push(format!("{:<16} {};", option.name, quoted(&value)));
            }
        }
        if section == "net" {
            lines.extend(definition.secrets.as_ref().map(secret_lines).into_iter().flatten());
        }
        if !lines.is_empty() {
            line(out, 1, &format!("{section} {{"));
            lines.iter().for_each(|text| line(out, 2, text));
            line(out, 1, "}");
        }
    }
    let Waits { wfc_timeout, degr_wfc_timeout, outdated_wfc_timeout, wait_after_sb } =
        definition.waits;
    let seconds = |value: Option<u32>| value.map(|seconds| seconds.to_string());
    let yes_no = |yes| if yes { "yes" } else { "no" }.to_owned();
    let waits = [
        ("wfc-timeout", seconds(wfc_timeout)),
        ("degr-wfc-timeout", seconds(degr_wfc_timeout)),
        ("outdated-wfc-timeout", seconds(outdated_wfc_timeout)),
        ("wait-after-sb", wait_after_sb.map(yes_no)),
    ];
    if waits.iter().any(|(_, value)| value.is_some()) {
        line(out, 1, "startup {");
        for (name, value) in waits {
            if let Some(value) = value {
                line(out, 2, &format!("{name:<16} {value};"));
            }
        }
        line(out, 1, "}");
    }
    for host in &definition.hosts {
        let address = written_address(host.address);
        match host.floating {
            true => line(out, 1, &format!("floating {address} {{")),
            false => line(out, 1, &format!("on {} {{", quoted(&host.name))),
        }
        line(out, 2, &format!("node-id {};", host.node_id));
        if !host.floating {
            line(out, 2, &format!("address {address};"));
        }
        for (number, volume) in &host.volumes {
            line(out, 2, &format!("volume {number} {{"));
            volume_text(definition, volume, out);
            line(out, 2, "}");
        }
        line(out, 1, "}");
    }
    if definition.hosts.iter().any(|host| !host.more_addresses.is_empty()) {
        paths_text(definition, out);
    }
    line(out, 0, "}");
}

/// In full: this is the config (drbdadm prints it so too).
fn secret_lines(secrets: &Secrets) -> Vec<String> {
    let mut lines = vec![
        format!("{:<16} {};", "cram-hmac-alg", secrets.cram_hmac_alg.name()),
        format!("{:<16} \"{}\";", "shared-secret", secrets.shared_secret.written()),
    ];
    let old = secrets.shared_secret_old.as_ref();
    lines.extend(old.map(|old| format!("{:<16} \"{}\";", "shared-secret-old", old.written())));
    lines
}

/// All paths: a connection that names one names all.
fn paths_text(definition: &Definition, out: &mut String) {
    line(out, 1, "connection {");
    let count =
        1 + definition.hosts.iter().map(|host| host.more_addresses.len()).max().unwrap_or(0);
    for path in 0..count {
        line(out, 2, "path {");
        for host in &definition.hosts {
            if let Some(address) = host.addresses().nth(path) {
                let (name, address) = (quoted(&host.name), written_address(address));
                line(out, 3, &format!("host {name} address {address};"));
            }
        }
        line(out, 2, "}");
    }
    line(out, 1, "}");
}

fn written_address(address: std::net::SocketAddr) -> String {
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    format!("{family} {address}")
}

fn volume_text(definition: &Definition, volume: &HostVolume, out: &mut String) {
    let node = volume.device_node.as_ref().map(|node| format!("{} ", quoted(node)));
    line(out, 3, &format!("device    {}minor {};", node.unwrap_or_default(), volume.minor));
    let disk = match volume.disk.as_deref() {
        None => "none".to_owned(),
        // Only the bare word means "no disk".
        Some("none") => "\"none\"".to_owned(),
        Some(path) => quoted(path),
    };
    line(out, 3, &format!("disk      {disk};"));
    let meta_disk = match &volume.meta_disk {
        MetaDisk::Internal => "internal".to_owned(),
        MetaDisk::External { path } => quoted(path),
    };
    line(out, 3, &format!("meta-disk {meta_disk};"));
    let mut own: Vec<String> = Vec::new();
    own.extend(volume.size.map(|size| format!("{:<16} {}s;", "size", size / 512)));
    own.extend(
        volume
            .resync_after
            .iter()
            .map(|after| format!("{:<16} {};", "resync-after", quoted(&after.to_string()))),
    );
    if let Some(options) = volume.disk_options {
        let general = definition.options.written();
        let written = definition.options.with_disk(options).written();
        let differs = written.iter().zip(&general).filter(|(own, general)| own != general);
        own.extend(differs.map(|(one, _)| format!("{:<16} {};", one.name, quoted(&one.value))));
    }
    if !own.is_empty() {
        line(out, 3, "disk {");
        own.iter().for_each(|text| line(out, 4, text));
        line(out, 3, "}");
    }
}

/// The name of the host that `after-sb-0pri discard-node-HOST` means.
fn victim(definition: &Definition) -> Option<&str> {
    let AfterSb0Pri::DiscardNode(id) = definition.options.after_sb_0pri else { return None };
    let host = definition.hosts.iter().find(|host| host.node_id == id)?;
    Some(&host.name)
}

fn quoted(word: &str) -> String {
    if needs_no_quotes(word) { word.to_owned() } else { format!("\"{word}\"") }
}

fn line(out: &mut String, depth: usize, text: &str) {
    writeln!(out, "{:width$}{text}", "", width = depth * 4).expect("a string takes any text");
}
