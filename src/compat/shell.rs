//! The `sh-` verbs of drbdadm: words of the configuration, for scripts.
//!
//! `sh-dev` is not among them: it has to print a device node that is there, which the shell knows.

use crate::config::{Definition, Host, MetaDisk};
use crate::resource::VolumeNumber;

/// Verbs that are answered from the configuration of one resource.
const VERBS: &[&str] = &["sh-ll-dev", "sh-md-dev", "sh-md-idx", "sh-minor", "sh-ip", "sh-resource"];

/// Whether [`shell_lines`] answers the verb.
#[must_use]
pub fn is_shell_verb(verb: &str) -> bool {
    VERBS.contains(&verb)
}

/// What a verb prints of a resource, or of one volume of it: a line each.
#[must_use]
pub fn shell_lines(
    verb: &str,
    definition: &Definition,
    own: &Host,
    only: Option<VolumeNumber>,
) -> String {
    match verb {
        "sh-resource" => return format!("{}\n", definition.name),
        "sh-ip" => return format!("{}\n", own.address.ip()),
        _ => {}
    }
    let mut out = String::new();
    for (number, volume) in &own.volumes {
        if only.is_some_and(|only| only != *number) {
            continue;
        }
        let disk = volume.disk.as_deref().unwrap_or("none");
        let line = match (verb, &volume.meta_disk) {
            ("sh-minor", _) => volume.minor.to_string(),
            ("sh-md-dev", MetaDisk::External { path }) => path.clone(),
            ("sh-md-idx", MetaDisk::Internal) => "internal".to_owned(),
            ("sh-md-idx", MetaDisk::External { .. }) => "flex-external".to_owned(),
            _ => disk.to_owned(),
        };
        out += &line;
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verb_prints_a_line_for_each_volume() {
        let text = "resource r0 { \
            on alice { node-id 0; address 10.0.0.1:7789; \
                volume 0 { device minor 4; disk /dev/vg0/r0; meta-disk internal; } \
                volume 1 { device minor 5; disk none; } } \
            on bob { node-id 1; address 10.0.0.2:7789; \
                volume 0 { device minor 4; disk /dev/vg0/r0; meta-disk /dev/md; } \
                volume 1 { device minor 5; disk /dev/vg0/r1; meta-disk internal; } } }";
        let config = crate::config::load(&crate::config::OneFile(text), "r0.res");
        let definition = &config.resources[0];
        let said = |verb: &str, host: usize, only| {
            shell_lines(verb, definition, &definition.hosts[host], only)
        };
        assert_eq!(said("sh-minor", 0, None), "4\n5\n");
        assert_eq!(said("sh-minor", 0, Some(1)), "5\n");
        assert_eq!(said("sh-ll-dev", 0, None), "/dev/vg0/r0\nnone\n");
        assert_eq!(said("sh-md-dev", 1, Some(0)), "/dev/md\n");
        assert_eq!(said("sh-md-idx", 1, None), "flex-external\ninternal\n");
        assert_eq!(said("sh-ip", 1, None), "10.0.0.2\n");
        assert_eq!(said("sh-resource", 0, None), "r0\n");
    }
}
