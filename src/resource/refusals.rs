//! The numbers of refused orders, and DRBD's texts for them.

use super::command::Refusal;

/// Every number that a core refuses an order with.
pub const REFUSALS: &[(i32, &str)] = &[
    (-1, "Multiple primaries not allowed by config"),
    (-2, "Need access to UpToDate data"),
    (-4, "Can not resync without local disk"),
    (-5, "Can not resync without remote disk"),
    (-6, "Refusing to be Outdated while Connected"),
    (-7, "Refusing to be Primary while peer is not outdated"),
    (-8, "Can not start OV/resync since it is already active"),
    (-10, "State change was refused by peer node"),
    (-12, "Device is held open by someone"),
    (-15, "State change requires a connection"),
    (-16, "Disk state is lower than outdated"),
    (-18, "In transient state, retry after next state change"),
    (-21, "Interrupted state change"),
    (-23, "Timeout in operation"),
    (111, "Low.dev. smaller than requested DRBD-dev. size."),
    (118, "IO error(s) occurred during initial access to meta-data"),
    (119, "No valid meta-data of this resource found."),
    (123, "--discard-my-data not allowed when primary"),
    (124, "Device is attached to a disk (use detach first)"),
    (125, "Device has a net-config (use disconnect first)"),
    (127, "Device minor not allocated"),
    (130, "Resize not allowed during resync."),
    (134, "Sync-pause flag is already set"),
    (135, "Sync-pause flag is already cleared"),
    (150, "Can only attach to the data we lost last (see \"exposed data uuid\")"),
    (156, "Sync-pause flag is already cleared; the resync waits for a local dependency"),
    (157, "Sync-pause flag is already cleared; the resync is paused by the peer"),
    (162, "Invalid configuration request"),
    (170, "Implicit device shrinking not allowed"),
    (171, "Invalid peer-node-id"),
];

/// A refusal with DRBD's text for the number.
pub(crate) fn refuse(code: i32, hint: &str) -> Refusal {
    // A number that the peer has sent may be any.
    let known = REFUSALS.iter().find(|(number, _)| *number == code);
    let text = known.map_or("Invalid configuration request", |(_, text)| text);
    Refusal { code, text: text.to_owned(), hint: hint.to_owned() }
}
