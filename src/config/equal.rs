//! Options as DRBD writes them: for the handshake, and for `dump`.
//!
//! The peers exchange them by name. Protocol and the after-sb policies must be equal, since each
//! node finds the victim of a split brain by itself; the rest warns.

use crate::resource::{AfterSb0Pri, AfterSb1Pri, AfterSb2Pri, OnIoError, Options, RrConflict};

/// The options that the two nodes must have equal, as `(name, value)`; `discard-node` names its
/// victim by node id. `always-asbp` is one of them: it decides whether a policy is asked at all.
#[must_use]
pub fn must_equal(options: &Options) -> Vec<(String, String)> {
    named(options, true)
}

/// The options that the two nodes should have equal, as `(name, value)`: a difference is told.
#[must_use]
pub fn should_equal(options: &Options) -> Vec<(String, String)> {
    named(options, false)
}

fn named(options: &Options, must: bool) -> Vec<(String, String)> {
    let names = ["protocol", "after-sb-0pri", "after-sb-1pri", "after-sb-2pri", "always-asbp"];
    let all = printed(options).into_iter();
    let wanted = all.filter(|option| names.contains(&option.name) == must);
    wanted.map(|option| (option.name.to_owned(), option.value)).collect()
}

/// An option as it is written.
pub(super) struct Printed {
    pub(super) section: &'static str,
    pub(super) name: &'static str,
    pub(super) value: String,
}

/// All options that act, and the protocol, in the order of DRBD's sections.
pub(super) fn printed(options: &Options) -> Vec<Printed> {
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let net = [
        ("protocol", "C".to_owned()),
        ("timeout", (options.timeout_ms / 100).to_string()),
        ("ping-int", (options.ping_int_ms / 1000).to_string()),
        ("ping-timeout", (options.ping_timeout_ms / 100).to_string()),
        ("connect-int", (options.connect_int_ms / 1000).to_string()),
        ("ko-count", options.ko_count.to_string()),
        ("max-buffers", options.max_buffers.to_string()),
        ("max-epoch-size", options.max_epoch_size.to_string()),
        ("after-sb-0pri", after_sb_0pri(&options.after_sb_0pri)),
        ("after-sb-1pri", after_sb_1pri(&options.after_sb_1pri).to_owned()),
        ("after-sb-2pri", after_sb_2pri(&options.after_sb_2pri).to_owned()),
        ("always-asbp", yes_no(options.always_asbp)),
        ("rr-conflict", rr_conflict(&options.rr_conflict).to_owned()),
    ];
    let disk = [
        ("on-io-error", on_io_error(options.on_io_error).to_owned()),
        ("al-extents", options.al_extents.to_string()),
        ("resync-rate", rate(options.resync_rate)),
        ("c-max-rate", rate(options.c_max_rate)),
        ("c-min-rate", rate(options.c_min_rate)),
        ("disk-flushes", yes_no(options.disk_flushes)),
        ("md-flushes", yes_no(options.md_flushes)),
    ];
    let general = [("auto-promote", yes_no(options.auto_promote))];
    let section = |section| move |(name, value)| Printed { section, name, value };
    let net = net.into_iter().map(section("net"));
    let disk = disk.into_iter().map(section("disk"));
    general.into_iter().map(section("options")).chain(net).chain(disk).collect()
}

/// KiB/s, in the largest unit that divides it.
fn rate(kib: u64) -> String {
    match kib {
        0 => "0".to_owned(),
        _ if kib.is_multiple_of(1 << 20) => format!("{}G", kib >> 20),
        _ if kib.is_multiple_of(1 << 10) => format!("{}M", kib >> 10),
        _ => format!("{kib}K"),
    }
}

fn after_sb_0pri(policy: &AfterSb0Pri) -> String {
    match policy {
        AfterSb0Pri::Disconnect => "disconnect".to_owned(),
        AfterSb0Pri::DiscardYoungerPrimary => "discard-younger-primary".to_owned(),
        AfterSb0Pri::DiscardOlderPrimary => "discard-older-primary".to_owned(),
        AfterSb0Pri::DiscardZeroChanges => "discard-zero-changes".to_owned(),
        AfterSb0Pri::DiscardLeastChanges => "discard-least-changes".to_owned(),
        AfterSb0Pri::DiscardNode(id) => format!("discard-node-{id}"),
    }
}

fn after_sb_1pri(policy: &AfterSb1Pri) -> &'static str {
    match policy {
        AfterSb1Pri::Disconnect => "disconnect",
        AfterSb1Pri::Consensus => "consensus",
        AfterSb1Pri::ViolentlyAs0p => "violently-as0p",
        AfterSb1Pri::DiscardSecondary => "discard-secondary",
    }
}

fn after_sb_2pri(policy: &AfterSb2Pri) -> &'static str {
    match policy {
        AfterSb2Pri::Disconnect => "disconnect",
        AfterSb2Pri::ViolentlyAs0p => "violently-as0p",
    }
}

fn rr_conflict(policy: &RrConflict) -> &'static str {
    match policy {
        RrConflict::Disconnect => "disconnect",
        RrConflict::Violently => "violently",
        RrConflict::RetryConnect => "retry-connect",
        RrConflict::AutoDiscard => "auto-discard",
    }
}

fn on_io_error(policy: OnIoError) -> &'static str {
    match policy {
        OnIoError::Detach => "detach",
        OnIoError::PassOn => "pass_on",
    }
}
