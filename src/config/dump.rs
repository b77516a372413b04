//! A config printed back as DRBD text, canonical: volumes in their hosts, options that are not
//! defaults, and those that a reader must not have to guess (protocol, auto-promote).
//!
//! Invariant: the text loads to the same definitions, apart from where things are written.

use std::fmt::Write;

use crate::resource::{AfterSb0Pri, Options};

use super::Config;
use super::definition::{Definition, HostVolume, MetaDisk, Waits};
use super::token::{quoted, written as word};
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
    line(out, 0, &format!("resource {} {{", word(&definition.name)));
    for (section, options) in sections(definition) {
        line(out, 1, &format!("{section} {{"));
        for (name, value) in options {
            // A secret is always quoted.
            let value = match name.starts_with("shared-secret") {
                true => quoted(&value),
                false => word(&value),
            };
            line(out, 2, &format!("{name:<16} {value};"));
        }
        line(out, 1, "}");
    }
    for host in &definition.hosts {
        let address = written_address(host.address);
        match host.floating {
            true => line(out, 1, &format!("floating {address} {{")),
            false => line(out, 1, &format!("on {} {{", word(&host.name))),
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

/// Names and values.
pub(super) type NamesAndValues = Vec<(&'static str, String)>;

/// The sections of options that are printed, with what is in each; none that is empty.
pub(super) fn sections(definition: &Definition) -> Vec<(&'static str, NamesAndValues)> {
    let defaults = Options::default().written();
    let mut all = Vec::new();
    for section in ["options", "net", "disk"] {
        let mut found: NamesAndValues = Vec::new();
        for (option, default) in definition.options.written().into_iter().zip(&defaults) {
            let always = matches!(option.name, "auto-promote" | "protocol");
            if option.section == section && (always || option.value != default.value) {
                let value = match victim(definition) {
                    Some(name) if option.name == "after-sb-0pri" => format!("discard-node-{name}"),
                    _ => option.value,
                };
                found.push((option.name, value));
            }
        }
        if section == "net" {
            found.extend(definition.secrets.as_ref().map(secrets).into_iter().flatten());
        }
        all.push((section, found));
    }
    let Waits { wfc_timeout, degr_wfc_timeout, outdated_wfc_timeout, wait_after_sb } =
        definition.waits;
    let yes_no = |yes| if yes { "yes" } else { "no" }.to_owned();
    let waits = [
        ("wfc-timeout", wfc_timeout.map(|s| s.to_string())),
        ("degr-wfc-timeout", degr_wfc_timeout.map(|s| s.to_string())),
        ("outdated-wfc-timeout", outdated_wfc_timeout.map(|s| s.to_string())),
        ("wait-after-sb", wait_after_sb.map(yes_no)),
    ];
    let given = waits.into_iter().filter_map(|(name, value)| Some((name, value?)));
    all.push(("startup", given.collect()));
    let handlers = definition.options.handlers.iter();
    let handlers = handlers.map(|(handler, line)| (handler.name(), line.clone()));
    all.push(("handlers", handlers.collect()));
    all.retain(|(_, found)| !found.is_empty());
    all
}

/// In full: this is the config (drbdadm prints it so too).
fn secrets(secrets: &Secrets) -> NamesAndValues {
    let mut found = vec![
        ("cram-hmac-alg", secrets.cram_hmac_alg.name().to_owned()),
        ("shared-secret", secrets.shared_secret.written().to_owned()),
    ];
    let old = secrets.shared_secret_old.as_ref();
    found.extend(old.map(|old| ("shared-secret-old", old.written().to_owned())));
    found
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
                let (name, address) = (word(&host.name), written_address(address));
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
    let node = volume.device_node.as_ref().map(|node| format!("{} ", word(node)));
    line(out, 3, &format!("device    {}minor {};", node.unwrap_or_default(), volume.minor));
    let disk = match volume.disk.as_deref() {
        None => "none".to_owned(),
        // Only the bare word means "no disk".
        Some("none") => "\"none\"".to_owned(),
        Some(path) => word(path),
    };
    line(out, 3, &format!("disk      {disk};"));
    let meta_disk = match &volume.meta_disk {
        MetaDisk::Internal => "internal".to_owned(),
        MetaDisk::External { path } => word(path),
    };
    line(out, 3, &format!("meta-disk {meta_disk};"));
    let own = own_options(definition, volume);
    if !own.is_empty() {
        line(out, 3, "disk {");
        for (name, value) in own {
            line(out, 4, &format!("{name:<16} {};", word(&value)));
        }
        line(out, 3, "}");
    }
}

/// The options of a volume that are not the resource's.
pub(super) fn own_options(definition: &Definition, volume: &HostVolume) -> NamesAndValues {
    let mut own: NamesAndValues = Vec::new();
    own.extend(volume.size.map(|size| ("size", format!("{}s", size / 512))));
    own.extend(volume.resync_after.iter().map(|after| ("resync-after", after.to_string())));
    if let Some(options) = volume.disk_options {
        let general = definition.options.written();
        let written = definition.options.with_disk(options).written();
        let differs = written.into_iter().zip(&general).filter(|(own, general)| own != *general);
        own.extend(differs.map(|(one, _)| (one.name, one.value)));
    }
    own
}

/// The name of the host that `after-sb-0pri discard-node-HOST` means.
fn victim(definition: &Definition) -> Option<&str> {
    let AfterSb0Pri::DiscardNode(id) = definition.options.after_sb_0pri else { return None };
    let host = definition.hosts.iter().find(|host| host.node_id == id)?;
    Some(&host.name)
}

fn line(out: &mut String, depth: usize, text: &str) {
    writeln!(out, "{:width$}{text}", "", width = depth * 4).expect("a string takes any text");
}
