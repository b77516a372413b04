//! `tandemadm events2`: the difference between two snapshots, a line per object.
//!
//! ```text
//! exists resource name:r0 role:Secondary suspended:no force-io-failures:no may_promote:yes ...
//! exists -
//! change connection name:r0 peer-node-id:1 conn-name:bob connection:Connected reason:none
//! destroy resource name:r0
//! ```
//! Invariants:
//! - `create` stands before the first `change` of an object, `destroy` is its last line, and
//!   nothing but `exists` stands before `exists -`.
//! - A `change` line carries the object's key and what has changed; a connection's always has
//!   `reason`.

use std::fmt::Write;

use super::{Report, kib, percent, status_text, yes_no};
use crate::resource::{
    ConnectionStatus, DeviceStatus, DiskState, PeerDeviceStatus, ReplicationState, Role, Status,
};

/// An object as events2 prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Object {
    /// Kind and key: `connection name:r0 peer-node-id:1 conn-name:bob`.
    key: String,
    /// What may change, in order.
    fields: Vec<(&'static str, String)>,
}

/// How the lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// The counters, too.
    pub statistics: bool,
    /// A `change` line has every field.
    pub full: bool,
    /// Without the fields that DRBD does not have.
    pub plain: bool,
}

/// Fields of ours.
const OURS: [&str; 3] = [BACK_IN, "reason", "hung"];

/// Follows the snapshots of any number of resources.
#[derive(Clone, Debug, Default)]
pub struct Follower {
    form: Form,
    resources: Vec<(String, Vec<Object>)>,
}

impl Follower {
    /// Nothing is known yet. `statistics` adds the counters.
    #[must_use]
    pub fn new(statistics: bool) -> Self {
        Self::formed(Form { statistics, ..Form::default() })
    }

    /// Nothing is known yet.
    #[must_use]
    pub fn formed(form: Form) -> Self {
        Self { form, resources: Vec::new() }
    }

    fn objects(&self, report: &Report) -> Vec<Object> {
        let mut objects = objects(report, self.form);
        for object in objects.iter_mut().filter(|_| self.form.plain) {
            object.fields.retain(|(name, _)| !OURS.contains(name));
        }
        objects
    }

    /// The lines of a snapshot before `exists -`.
    pub fn exists(&mut self, report: &Report) -> String {
        let objects = self.objects(report);
        let out = objects.iter().map(|object| line("exists", object, &object.fields)).collect();
        self.keep(report, objects);
        out
    }

    /// The lines of a snapshot after it; empty if nothing changed.
    pub fn update(&mut self, report: &Report) -> String {
        let new = self.objects(report);
        let name = &report.status.name;
        let old = self.resources.iter().find(|(other, _)| other == name);
        let old: &[Object] = old.map_or(&[], |(_, objects)| objects);
        let mut out = String::new();
        for object in old.iter().rev() {
            if !new.iter().any(|other| other.key == object.key) {
                out += &line("destroy", object, &[]);
            }
        }
        for object in &new {
            match old.iter().find(|other| other.key == object.key) {
                None => out += &line("create", object, &object.fields),
                Some(before) => {
                    let changed = changed(before, object);
                    if !changed.is_empty() {
                        let fields = if self.form.full { &object.fields } else { &changed };
                        out += &line("change", object, fields);
                    }
                }
            }
        }
        self.keep(report, new);
        out
    }

    /// A `change` line with every field of each object that is known, changed or not: who polls
    /// wants the counters.
    pub fn fresh(&mut self, report: &Report) -> String {
        let changes = self.update(report);
        let objects = self.objects(report);
        let is_told = |object: &&Object| {
            changes.lines().any(|line| {
                let rest =
                    line.split_once(' ').and_then(|(_, rest)| rest.strip_prefix(&object.key));
                rest.is_some_and(|rest| rest.starts_with(' '))
            })
        };
        let rest: String = objects
            .iter()
            .filter(|object| !is_told(object))
            .map(|object| line("change", object, &object.fields))
            .collect();
        changes + &rest
    }

    /// The names of the resources that are known.
    pub fn names(&self) -> Vec<String> {
        self.resources.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The lines of a resource that was taken down.
    pub fn gone(&mut self, name: &str) -> String {
        let Some(at) = self.resources.iter().position(|(other, _)| other == name) else {
            return String::new();
        };
        let (_, objects) = self.resources.remove(at);
        objects.iter().rev().map(|object| line("destroy", object, &[])).collect()
    }

    fn keep(&mut self, report: &Report, objects: Vec<Object>) {
        let name = &report.status.name;
        match self.resources.iter_mut().find(|(other, _)| other == name) {
            Some((_, kept)) => *kept = objects,
            None => self.resources.push((name.clone(), objects)),
        }
    }
}

/// Seconds until a connection comes back by itself, only where it will. They pass without a line;
/// `no`: it does not any more.
const BACK_IN: &str = "back-in";

/// Ends the first snapshot.
pub const END_OF_EXISTS: &str = "exists -\n";

fn changed(before: &Object, after: &Object) -> Vec<(&'static str, String)> {
    let back_in = |object: &Object| {
        let field = object.fields.iter().find(|(name, _)| *name == BACK_IN);
        field.and_then(|(_, seconds)| seconds.parse::<u64>().ok())
    };
    let (was, is) = (back_in(before), back_in(after));
    let is_new = |field: &&(&'static str, String)| match field.0 {
        BACK_IN => is > was,
        _ => !before.fields.contains(field),
    };
    let mut changed: Vec<_> = after.fields.iter().filter(is_new).cloned().collect();
    if was.is_some() && is.is_none() {
        changed.push((BACK_IN, "no".to_owned()));
    }
    let reason = after.fields.iter().find(|(name, _)| *name == "reason");
    if let Some(reason) = reason
        && !changed.is_empty()
        && !changed.contains(reason)
    {
        changed.push(reason.clone());
    }
    changed
}

fn line(verb: &str, object: &Object, fields: &[(&'static str, String)]) -> String {
    let mut out = format!("{verb} {}", object.key);
    for (name, value) in fields {
        let _ = write!(out, " {name}:{value}");
    }
    out.push('\n');
    out
}

fn objects(report: &Report, form: Form) -> Vec<Object> {
    let (status, statistics) = (&report.status, form.statistics);
    let mut all = vec![resource(status, form)];
    all.extend(status.connections.iter().map(|one| connection(status, one, statistics)));
    all.extend(status.devices.iter().map(|one| device(status, one, statistics)));
    for one in &status.connections {
        all.extend(one.peer_devices.iter().map(|peer| peer_device(report, one, peer, statistics)));
    }
    for one in &status.connections {
        for path in report.paths_to(one.peer_node_id) {
            let family = |address: std::net::SocketAddr| match address.is_ipv4() {
                true => format!("ipv4:{address}"),
                false => format!("ipv6:{address}"),
            };
            let established = report.is_established(path);
            all.push(Object {
                key: format!(
                    "path name:{} peer-node-id:{} conn-name:{} local:{} peer:{}",
                    status.name,
                    one.peer_node_id,
                    one.name,
                    family(path.local),
                    family(path.remote),
                ),
                fields: vec![("established", yes_no(established).to_owned())],
            });
        }
    }
    all
}

fn resource(status: &Status, form: Form) -> Object {
    let suspended = match form.plain {
        true => suspended_in_drbds_words(status),
        false => status_text::suspended(status),
    };
    let mut fields = vec![
        ("role", status.role.to_string()),
        ("suspended", suspended),
        ("force-io-failures", "no".to_owned()),
    ];
    if form.statistics {
        fields.push(("write-ordering", "flush".to_owned()));
    }
    fields.push(("may_promote", yes_no(may_promote(status)).to_owned()));
    fields.push(("promotion_score", promotion_score(status).to_string()));
    Object { key: format!("resource name:{}", status.name), fields }
}

/// The reasons that DRBD has. No room, and a gap, are no access to data that could be served; a handshake
/// suspends nothing there.
fn suspended_in_drbds_words(status: &Status) -> String {
    let reasons = [
        (status.suspended_user, "user"),
        (status.suspended_no_space || status.suspended_gap, "no-data"),
        (status.suspended_fencing, "fencing"),
    ];
    let named: Vec<&str> = reasons.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
    if named.is_empty() { "no".to_owned() } else { named.join(",") }
}

fn connection(status: &Status, connection: &ConnectionStatus, statistics: bool) -> Object {
    let mut fields = vec![
        ("connection", connection.connection_state.to_string()),
        ("role", connection.peer_role.to_string()),
    ];
    if statistics {
        fields.push(("congested", yes_no(connection.congested).to_owned()));
        fields.push(("ap-in-flight", kib(connection.ap_in_flight).to_string()));
        fields.push(("rs-in-flight", kib(connection.rs_in_flight).to_string()));
    }
    fields.extend(connection.back_in_ms.map(|ms| (BACK_IN, ms.div_ceil(1000).to_string())));
    fields.push(("reason", connection.reason.to_string()));
    Object {
        key: format!(
            "connection name:{} peer-node-id:{} conn-name:{}",
            status.name, connection.peer_node_id, connection.name
        ),
        fields,
    }
}

fn device(status: &Status, device: &DeviceStatus, statistics: bool) -> Object {
    let mut fields = vec![
        ("backing_dev", one_word(&device.backing_disk)),
        ("disk", device.disk_state.to_string()),
        ("client", yes_no(device.backing_disk == "none").to_owned()),
        ("open", yes_no(!device.clients.is_empty()).to_owned()),
        ("quorum", "yes".to_owned()),
    ];
    if statistics {
        let counters = [
            ("size", kib(device.size)),
            ("read", kib(device.read)),
            ("written", kib(device.written)),
            ("al-writes", device.al_writes),
            ("bm-writes", device.bm_writes),
            ("upper-pending", device.upper_pending),
            ("lower-pending", device.lower_pending),
        ];
        fields.extend(counters.map(|(name, value)| (name, value.to_string())));
        fields.push(("al-suspended", "no".to_owned()));
        let blocked = if status_text::suspended(status) == "no" { "no" } else { "upper" };
        fields.push(("blocked", blocked.to_owned()));
    }
    fields.push(("hung", yes_no(device.hung_ms.is_some()).to_owned()));
    Object {
        key: format!("device name:{} volume:{} minor:{}", status.name, device.volume, device.minor),
        fields,
    }
}

fn peer_device(
    report: &Report,
    connection: &ConnectionStatus,
    peer: &PeerDeviceStatus,
    statistics: bool,
) -> Object {
    let mut fields = vec![
        ("replication", peer.replication_state.to_string()),
        ("peer-disk", peer.peer_disk_state.to_string()),
        ("peer-client", yes_no(report.is_client(connection.peer_node_id, peer.volume)).to_owned()),
        ("resync-suspended", peer.resync_suspended.to_string()),
    ];
    let verify = peer.verify.as_ref();
    if let Some(resync) = peer.resync.as_ref().or(verify.map(|verify| &verify.progress)) {
        fields.push(("done", percent(resync.done_hundredths)));
        if let Some(seconds) = resync.seconds_left {
            fields.push(("eta", seconds.to_string()));
        }
    }
    if statistics {
        let counters = [
            ("received", kib(peer.received)),
            ("sent", kib(peer.sent)),
            ("out-of-sync", kib(peer.out_of_sync)),
            ("pending", peer.pending),
            ("unacked", peer.unacked),
        ];
        fields.extend(counters.map(|(name, value)| (name, value.to_string())));
    }
    Object {
        key: format!(
            "peer-device name:{} peer-node-id:{} conn-name:{} volume:{}",
            report.status.name, connection.peer_node_id, connection.name, peer.volume
        ),
        fields,
    }
}

/// Readers split lines at blanks.
fn one_word(text: &str) -> String {
    text.chars().map(|c| if c.is_whitespace() || c.is_control() { '_' } else { c }).collect()
}

/// The UpToDate copies of a volume that this node can reach: its own, and those of connected peers.
fn replicas(status: &Status, device: &DeviceStatus) -> u32 {
    let own = u32::from(device.disk_state == DiskState::UpToDate);
    let peers = status.connections.iter().flat_map(|connection| &connection.peer_devices);
    let usable = |peer: &&PeerDeviceStatus| {
        peer.volume == device.volume
            && peer.peer_disk_state == DiskState::UpToDate
            && peer.replication_state != ReplicationState::Off
    };
    own + u32::try_from(peers.filter(usable).count()).unwrap_or(u32::MAX)
}

/// The hint for orchestrators: 10000 if every volume has a local disk with data, + 100 for each
/// volume whose local disk is UpToDate, + the fewest UpToDate replicas of any volume; 0 where the
/// node could not be promoted anyway.
#[must_use]
pub fn promotion_score(status: &Status) -> u32 {
    let with_data = [DiskState::Inconsistent, DiskState::Consistent, DiskState::UpToDate];
    let fewest = status.devices.iter().map(|device| replicas(status, device)).min().unwrap_or(0);
    if fewest == 0 || status.failed.is_some() {
        return 0;
    }
    let local = status.devices.iter().all(|device| with_data.contains(&device.disk_state));
    let is_up_to_date = |device: &&DeviceStatus| device.disk_state == DiskState::UpToDate;
    let up_to_date = status.devices.iter().filter(is_up_to_date).count().min(99);
    10_000 * u32::from(local) + 100 * u32::try_from(up_to_date).unwrap_or(99) + fewest.min(99)
}

/// Whether `primary` would be allowed as things stand.
#[must_use]
pub fn may_promote(status: &Status) -> bool {
    let someone = status.role == Role::Primary
        || status.connections.iter().any(|connection| connection.peer_role == Role::Primary);
    // An old disk is refused also where a connected peer's is good: it is copied first (docs/DRBD.md).
    let old = [DiskState::Inconsistent, DiskState::Outdated];
    let waits = status.devices.iter().any(|device| old.contains(&device.disk_state));
    !someone && !waits && promotion_score(status) > 0
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;

    #[test]
    fn suspended_io_is_a_change_with_its_reason() {
        let mut follower = Follower::new(false);
        let mut report = fixtures::healthy();
        follower.exists(&report);
        report.status.suspended_no_space = true;
        assert_eq!(follower.update(&report), "change resource name:r0 suspended:no-space\n");
        report.status.suspended_no_space = false;
        assert_eq!(follower.update(&report), "change resource name:r0 suspended:no\n");
    }

    #[test]
    fn who_reads_drbds_lines_gets_drbds_reasons() {
        let form = Form { statistics: true, full: true, plain: true };
        let said = |change: fn(&mut Status)| {
            let mut report = fixtures::healthy();
            change(&mut report.status);
            let text = Follower::formed(form).exists(&report);
            let words = text.split_whitespace();
            let is_meant =
                |word: &&str| word.starts_with("suspended:") || word.starts_with("blocked:");
            words.filter(is_meant).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(said(|_| {}), "suspended:no blocked:no");
        assert_eq!(said(|status| status.suspended_handshake = true), "suspended:no blocked:upper");
        assert_eq!(said(|status| status.suspended_gap = true), "suspended:no-data blocked:upper");
        let three = said(|status| {
            status.suspended_user = true;
            status.suspended_fencing = true;
            status.suspended_no_space = true;
        });
        assert_eq!(three, "suspended:user,no-data,fencing blocked:upper");
    }

    #[test]
    fn the_counters_come_with_the_two_words_that_drbd_has_among_them() {
        let text = Follower::new(true).exists(&fixtures::healthy());
        let line = |what: &str| text.lines().find(|line| line.starts_with(what)).unwrap();
        let resource = line("exists resource ");
        assert!(resource.contains(" force-io-failures:no write-ordering:flush may_promote:"));
        assert!(line("exists device ").contains(" al-suspended:no blocked:no"), "{text}");
        let plain = Follower::new(false).exists(&fixtures::healthy());
        assert!(!plain.contains("write-ordering:") && !plain.contains("blocked:"), "{plain}");
    }

    #[test]
    fn the_first_snapshot_lists_every_object() {
        let mut follower = Follower::new(false);
        assert_eq!(
            follower.exists(&fixtures::mirrored(fixtures::healthy())),
            "exists resource name:r0 role:Secondary suspended:no force-io-failures:no \
             may_promote:no promotion_score:10102\n\
             exists connection name:r0 peer-node-id:0 conn-name:alice connection:Connected \
             role:Primary reason:none\n\
             exists device name:r0 volume:0 minor:0 backing_dev:/dev/vg0/r0 disk:UpToDate \
             client:no open:no quorum:yes hung:no\n\
             exists peer-device name:r0 peer-node-id:0 conn-name:alice volume:0 \
             replication:Established peer-disk:UpToDate peer-client:no resync-suspended:no\n\
             exists path name:r0 peer-node-id:0 conn-name:alice local:ipv4:10.0.0.2:7789 \
             peer:ipv4:10.0.0.1:7789 established:yes\n"
        );
    }

    #[test]
    fn who_reads_drbds_lines_gets_each_whole_and_nothing_of_ours() {
        let form = Form { statistics: true, full: true, plain: true };
        let mut follower = Follower::formed(form);
        let first = follower.exists(&fixtures::healthy());
        assert!(!first.contains("reason:") && !first.contains("hung:"), "{first}");
        assert!(first.contains(" al-suspended:no") && first.contains(" out-of-sync:0"), "{first}");
        let changes = follower.update(&fixtures::peer_down());
        let line = |what: &str| changes.lines().find(|line| line.starts_with(what)).unwrap();
        let resource = line("change resource ");
        assert!(resource.contains(" role:Primary ") && resource.contains(" may_promote:no "));
        assert!(line("change connection ").contains(" congested:no"), "{changes}");
        // Nothing has changed since, and each of the five objects is told once.
        let fresh = follower.fresh(&fixtures::peer_down());
        assert_eq!(fresh.lines().count(), 5, "{fresh}");
        assert!(fresh.lines().all(|line| line.starts_with("change ")), "{fresh}");
        let fresh = follower.fresh(&fixtures::healthy());
        assert_eq!(fresh.lines().count(), 5, "{fresh}");
        assert_eq!(follower.names(), ["r0"]);
    }

    #[test]
    fn a_change_names_the_object_and_what_changed() {
        let mut follower = Follower::new(false);
        follower.exists(&fixtures::healthy());
        assert_eq!(follower.update(&fixtures::healthy()), "");
        assert_eq!(
            follower.update(&fixtures::peer_down()),
            "change resource name:r0 promotion_score:10101\n\
             change connection name:r0 peer-node-id:1 conn-name:bob connection:Connecting \
             role:Unknown reason:refused\n\
             change peer-device name:r0 peer-node-id:1 conn-name:bob volume:0 replication:Off \
             peer-disk:DUnknown\n\
             change path name:r0 peer-node-id:1 conn-name:bob local:ipv4:10.0.0.1:7789 \
             peer:ipv4:10.0.0.2:7789 established:no\n"
        );
    }

    #[test]
    fn a_connection_that_comes_back_by_itself_says_when() {
        let mut follower = Follower::new(false);
        let report = |ms: Option<u64>| {
            let mut report = fixtures::split_brain();
            report.status.connections[0].back_in_ms = ms;
            report
        };
        follower.exists(&report(None));
        let line = |what: &str| {
            format!(
                "change connection name:r0 peer-node-id:1 conn-name:bob {what} reason:split-brain\n"
            )
        };
        assert_eq!(follower.update(&report(Some(599_500))), line("back-in:600"));
        assert_eq!(follower.update(&report(Some(17_000))), "", "time passes");
        assert_eq!(follower.update(&report(Some(60_000))), line("back-in:60"));
        assert_eq!(follower.update(&report(None)), line("back-in:no"));
    }

    #[test]
    fn a_resync_shows_done_and_eta() {
        let mut follower = Follower::new(false);
        follower.exists(&fixtures::healthy());
        let lines = follower.update(&fixtures::resync_source());
        assert!(lines.contains("peer-disk:Inconsistent done:61.20 eta:80\n"), "{lines}");
    }

    #[test]
    fn what_appears_is_created_and_what_goes_is_destroyed() {
        let mut follower = Follower::new(false);
        let created = follower.update(&fixtures::healthy());
        assert!(created.lines().all(|line| line.starts_with("create ")), "{created}");
        let destroyed = follower.gone("r0");
        assert_eq!(destroyed.lines().count(), 5);
        assert_eq!(destroyed.lines().last(), Some("destroy resource name:r0"));
        assert_eq!(follower.gone("r0"), "");
    }

    #[test]
    fn a_change_of_a_counter_alone_is_said_only_with_statistics() {
        let mut report = fixtures::healthy();
        let (mut plain, mut counting) = (Follower::new(false), Follower::new(true));
        plain.exists(&report);
        counting.exists(&report);
        report.status.devices[0].written += 4096;
        assert_eq!(plain.update(&report), "");
        assert_eq!(
            counting.update(&report),
            "change device name:r0 volume:0 minor:0 written:2052\n"
        );
    }

    #[test]
    fn the_score_follows_the_formula() {
        let secondary = |report: Report| fixtures::mirrored(report).status;
        let alone = secondary(fixtures::peer_down());
        assert_eq!((promotion_score(&alone), may_promote(&alone)), (10_101, true));
        let both = secondary(fixtures::healthy());
        assert_eq!((promotion_score(&both), may_promote(&both)), (10_102, false));
        let target = fixtures::resync_target().status;
        assert_eq!(promotion_score(&target), 10_001);
        let mut outdated = alone.clone();
        outdated.devices[0].disk_state = DiskState::Outdated;
        assert_eq!((promotion_score(&outdated), may_promote(&outdated)), (0, false));
        // The peer's disk is good, and `primary` is refused all the same.
        for state in [DiskState::Inconsistent, DiskState::Outdated] {
            let mut target = fixtures::healthy().status;
            target.connections[0].peer_role = Role::Secondary;
            target.devices[0].disk_state = state;
            assert!(promotion_score(&target) > 0 && !may_promote(&target), "{state}");
        }
        let mut diskless = both.clone();
        diskless.devices[0].disk_state = DiskState::Diskless;
        assert_eq!(promotion_score(&diskless), 1);
        let mut none = alone;
        none.devices.clear();
        assert_eq!(promotion_score(&none), 0);
    }
}
