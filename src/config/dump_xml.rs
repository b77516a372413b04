//! A config as XML, in the form of `drbdadm dump-xml`, for programs that read that.
//!
//! Invariants: the text is well-formed whatever a name holds; options are those of `dump`, and
//! `common` is no section of its own: each resource has what is in force.

use std::fmt::Write;

use super::definition::{Definition, Host, HostVolume, MetaDisk};
use super::dump::{NamesAndValues, own_options, sections};

/// The resources as `tandemadm dump-xml` prints them; `file` is the one that was read first.
#[must_use]
pub fn dump_xml<'a>(file: &str, definitions: impl IntoIterator<Item = &'a Definition>) -> String {
    let mut out = String::new();
    line(&mut out, 0, &format!("<config file=\"{}\">", escaped(file)));
    for definition in definitions {
        resource(definition, &mut out);
    }
    line(&mut out, 0, "</config>");
    out
}

fn resource(definition: &Definition, out: &mut String) {
    let (name, at) = (escaped(&definition.name), escaped(&definition.source.to_string()));
    line(out, 1, &format!("<resource name=\"{name}\" conf-file-line=\"{at}\">"));
    for one in &definition.hosts {
        host(definition, one, out);
    }
    let count = definition.hosts.iter().map(|host| host.more_addresses.len()).max().unwrap_or(0);
    if count > 0 {
        line(out, 2, "<connection>");
        for path in 0..=count {
            line(out, 3, "<path>");
            for host in &definition.hosts {
                if let Some(at) = host.addresses().nth(path) {
                    line(out, 4, &format!("<host name=\"{}\">", escaped(&host.name)));
                    address(at, 5, out);
                    line(out, 4, "</host>");
                }
            }
            line(out, 3, "</path>");
        }
        line(out, 2, "</connection>");
    }
    for (name, options) in sections(definition) {
        section(name, &options, 2, out);
    }
    line(out, 1, "</resource>");
}

fn host(definition: &Definition, host: &Host, out: &mut String) {
    line(out, 2, &format!("<host name=\"{}\">", escaped(&host.name)));
    for (number, one) in &host.volumes {
        line(out, 3, &format!("<volume vnr=\"{number}\">"));
        volume(definition, one, out);
        line(out, 3, "</volume>");
    }
    address(host.address, 3, out);
    line(out, 2, "</host>");
}

fn volume(definition: &Definition, volume: &HostVolume, out: &mut String) {
    let node = volume.device_node.clone().unwrap_or_else(|| format!("/dev/nbd{}", volume.minor));
    line(out, 4, &format!("<device minor=\"{}\">{}</device>", volume.minor, escaped(&node)));
    line(out, 4, &format!("<disk>{}</disk>", escaped(volume.disk.as_deref().unwrap_or("none"))));
    let meta_disk = match &volume.meta_disk {
        MetaDisk::Internal => "internal",
        MetaDisk::External { path } => path,
    };
    line(out, 4, &format!("<meta-disk>{}</meta-disk>", escaped(meta_disk)));
    let own = own_options(definition, volume);
    if !own.is_empty() {
        section("disk", &own, 4, out);
    }
}

fn address(at: std::net::SocketAddr, depth: usize, out: &mut String) {
    let family = if at.is_ipv4() { "ipv4" } else { "ipv6" };
    let (ip, port) = (at.ip(), at.port());
    line(out, depth, &format!("<address family=\"{family}\" port=\"{port}\">{ip}</address>"));
}

fn section(name: &str, options: &NamesAndValues, depth: usize, out: &mut String) {
    line(out, depth, &format!("<section name=\"{name}\">"));
    for (name, value) in options {
        let value = escaped(value);
        line(out, depth + 1, &format!("<option name=\"{name}\" value=\"{value}\"/>"));
    }
    line(out, depth, "</section>");
}

/// Control characters have no place in XML, and no name of a config has one.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&apos;",
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

fn line(out: &mut String, depth: usize, text: &str) {
    writeln!(out, "{:width$}{text}", "", width = depth * 4).expect("a string takes any text");
}
