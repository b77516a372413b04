//! Verbs that are known and not built: they are refused by name, and not as misspelt ones.

/// Verbs of drbdadm and drbdsetup that are known and not built, and what is there instead, in the words of
/// docs/DRBD.md.
pub(super) const NOT_SUPPORTED: &[(&str, &str)] = &[
    ("adjust-with-progress", "use `adjust`, then `wait-sync`"),
    ("apply-al", "needless: `attach` does it"),
    ("del-minor", "use `down`"),
    ("del-path", "use `adjust`"),
    ("del-peer", "use `disconnect`, `forget-peer`"),
    ("del-resource", "use `down`"),
    ("dump-superblock", "use `dump-md`"),
    ("events", "use `events2`"),
    ("hexdump-superblock", ""),
    ("hidden-commands", "use `--help`"),
    ("new-minor", "use `up`"),
    ("new-path", "use `adjust`"),
    ("new-peer", "use `adjust`"),
    ("new-resource", "use `up`"),
    ("proxy-down", ""),
    ("proxy-up", ""),
    ("read-dev-uuid", "use `dump-md`"),
    ("rename-resource", ""),
    ("repair-md", "`attach` mends one damaged copy"),
    ("set-gi", "edit what `dump-md` prints, then `restore-md`"),
    ("sh-b-pri", ""),
    ("sh-dev", ""),
    ("sh-ip", ""),
    ("sh-list-adjustable", ""),
    ("sh-list-config-file", ""),
    ("sh-ll-dev", ""),
    ("sh-lr-of", ""),
    ("sh-md-dev", ""),
    ("sh-md-idx", ""),
    ("sh-minor", ""),
    ("sh-mod-parms", ""),
    ("sh-nop", ""),
    ("sh-resource", ""),
    ("sh-resources", ""),
    ("sh-status", "use `status --json`"),
    ("sh-udev", ""),
    ("show", "use `dump`, `status --verbose`"),
    ("syncer", "use `disk-options`"),
    ("udev", ""),
    ("verify-dump", "`restore-md` checks the text first"),
    ("wait-con-int", "use `wait-connect`"),
    ("write-dev-uuid", ""),
];

/// Why a verb of DRBD is refused, and what is there instead; `None`: it is none of those.
#[must_use]
pub fn not_built(verb: &str) -> Option<String> {
    let (_, instead) = NOT_SUPPORTED.iter().find(|(name, _)| *name == verb)?;
    Some(match *instead {
        "" => format!("'{verb}' is not supported"),
        instead => format!("'{verb}' is not supported; {instead}"),
    })
}
