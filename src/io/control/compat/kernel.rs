//! Resources of DRBD's own kernel module: those are left to its own tools.

use std::fs;
use std::path::Path;

/// Whether the module is not loaded.
pub(super) fn is_absent(root: &Path) -> bool {
    !root.join("proc/drbd").exists() && !root.join("sys/module/drbd").exists()
}

/// Where the module knows a resource of that name, or a device of one of the minors; `root` is `/`.
pub(super) fn knows(root: &Path, resource: &str, minors: &[u32]) -> Option<String> {
    if is_absent(root) {
        return None;
    }
    let named = root.join("sys/kernel/debug/drbd/resources").join(resource);
    if named.exists() {
        return Some(named.display().to_string());
    }
    let device = |minor: &u32| root.join(format!("sys/block/drbd{minor}"));
    if let Some(found) = minors.iter().map(device).find(|path| path.exists()) {
        return Some(found.display().to_string());
    }
    // The module of 8.4 lists its devices.
    let lines = fs::read_to_string(root.join("proc/drbd")).unwrap_or_default();
    let in_use = |line: &str| {
        let (minor, state) = line.split_once(": cs:")?;
        let minor: u32 = minor.trim().parse().ok()?;
        (minors.contains(&minor) && !state.starts_with("Unconfigured")).then_some(minor)
    };
    lines.lines().find_map(in_use).map(|minor| format!("minor {minor} in /proc/drbd"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_module_has_is_found_by_name_and_by_minor() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("sys/kernel/debug/drbd/resources/r0/x", "");
        assert_eq!(knows(root.path(), "r0", &[0]), None, "the module is not loaded");
        put("proc/drbd", "version: 8.4.11\n 0: cs:Connected ro:Primary\n 1: cs:Unconfigured\n");
        assert!(knows(root.path(), "r0", &[9]).unwrap().ends_with("resources/r0"));
        assert_eq!(knows(root.path(), "r1", &[0]).as_deref(), Some("minor 0 in /proc/drbd"));
        assert_eq!(knows(root.path(), "r1", &[1, 2]), None);
        put("sys/block/drbd2/size", "1");
        assert!(knows(root.path(), "r1", &[1, 2]).unwrap().ends_with("sys/block/drbd2"));
    }
}
