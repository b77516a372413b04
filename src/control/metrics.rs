//! `/metrics`: the text format of Prometheus.
//!
//! Names, labels and meanings of `drbd_...` are drbd-reactor's, so that its dashboards work; what
//! it has no name for is called `tandem_...`. Sizes are in bytes, times in seconds.
//!
//! Invariants:
//! - A family is written once, its samples together, in one order for the same reports.
//! - Labels are quoted: no name of a resource or a host can make a line.

use std::fmt::Write;

use super::Report;
use super::check;
use super::events::{may_promote, promotion_score};
use super::version::VERSION;
use crate::resource::{
    BUCKETS, ConnectionState, ConnectionStatus, DeviceStatus, DiskState, Histogram,
    PeerDeviceStatus, Reason, ReplicationState, Role,
};

/// What `Content-Type` says of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A label's name and its value.
type Label<'a> = (&'a str, String);

/// The families in the order of their first samples.
#[derive(Default)]
struct Text {
    families: Vec<(&'static str, String)>,
}

impl Text {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> &mut String {
        let at = self.families.iter().position(|(known, _)| *known == name);
        let at = at.unwrap_or_else(|| {
            let head = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
            self.families.push((name, head));
            self.families.len() - 1
        });
        &mut self.families[at].1
    }

    fn gauge(&mut self, name: &'static str, help: &str, labels: &[Label<'_>], value: u64) {
        let out = self.family(name, "gauge", help);
        sample(out, name, labels, &value.to_string());
    }

    fn counter(&mut self, name: &'static str, help: &str, labels: &[Label<'_>], value: u64) {
        let out = self.family(name, "counter", help);
        sample(out, name, labels, &value.to_string());
    }

    /// One sample for each value that there is: 1 for the one that holds. The label that says which
    /// is called as the family, as drbd-reactor does.
    fn state<T: std::fmt::Display + PartialEq + Copy>(
        &mut self,
        name: &'static str,
        help: &str,
        labels: &[Label<'_>],
        all: &[T],
        is: T,
    ) {
        for one in all {
            let mut labels = labels.to_vec();
            labels.push((name, one.to_string()));
            self.gauge(name, help, &labels, u64::from(*one == is));
        }
    }

    fn histogram(
        &mut self,
        name: &'static str,
        help: &str,
        labels: &[Label<'_>],
        histogram: &Histogram,
    ) {
        let out = self.family(name, "histogram", help);
        let mut count = 0;
        for (bucket, one) in histogram.counts.iter().enumerate() {
            count += one;
            let bound = match bucket {
                BUCKETS => "+Inf".to_owned(),
                _ => seconds(Histogram::bound_ns(bucket)),
            };
            let mut labels = labels.to_vec();
            labels.push(("le", bound));
            sample(out, &format!("{name}_bucket"), &labels, &count.to_string());
        }
        sample(out, &format!("{name}_sum"), labels, &seconds(histogram.sum_ns));
        sample(out, &format!("{name}_count"), labels, &count.to_string());
    }
}

fn seconds(ns: u64) -> String {
    format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

fn sample(out: &mut String, name: &str, labels: &[Label<'_>], value: &str) {
    out.push_str(name);
    for (at, (label, text)) in labels.iter().enumerate() {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(out, "{}{label}=\"{quoted}\"", if at == 0 { "{" } else { "," });
    }
    out.push_str(if labels.is_empty() { "" } else { "}" });
    let _ = writeln!(out, " {value}");
}

/// All of it.
#[must_use]
pub fn text(reports: &[Report]) -> String {
    let mut text = Text::default();
    text.gauge("drbdreactor_up", "1 while tandemd answers", &[], 1);
    let version = [("kmod", VERSION.to_owned()), ("utils", VERSION.to_owned())];
    text.gauge("drbd_version", "The version of Tandem, in the place of DRBD's", &version, 1);
    let count = reports.len() as u64;
    text.gauge("drbd_resource_resources", "Resources that are up", &[], count);
    for report in reports {
        resource(&mut text, report);
        for one in &report.status.connections {
            connection(&mut text, report, one);
        }
        for one in &report.status.devices {
            device(&mut text, report, one);
        }
    }
    text.families.into_iter().map(|(_, family)| family).collect()
}

fn resource(text: &mut Text, report: &Report) {
    let status = &report.status;
    let name = [("name", status.name.clone())];
    let reasons = [
        ("user", status.suspended_user),
        ("fencing", status.suspended_fencing),
        ("no-space", status.suspended_no_space),
        ("gap", status.suspended_gap),
        ("handshake", status.suspended_handshake),
    ];
    let frozen = reasons.iter().any(|(_, is)| *is);
    text.state("drbd_resource_role", "The own role", &name, Role::ALL, status.role);
    text.gauge("drbd_resource_suspended", "I/O of clients is frozen", &name, frozen.into());
    text.gauge(
        "drbd_resource_maypromote",
        "This node could be promoted",
        &name,
        may_promote(status).into(),
    );
    text.gauge(
        "drbd_resource_promotionscore",
        "How good this node is for a promotion",
        &name,
        promotion_score(status).into(),
    );
    text.gauge("drbd_resource_forceiofailures", "Always 0: there is no such state", &name, 0);
    for (reason, is) in reasons {
        let labels = [("name", status.name.clone()), ("reason", reason.to_owned())];
        text.gauge("tandem_resource_frozen", "Why I/O is frozen", &labels, is.into());
    }
    text.gauge(
        "tandem_resource_failed",
        "The resource has stopped, restart tandemd",
        &name,
        status.failed.is_some().into(),
    );
    let level = check::line(std::slice::from_ref(report), &check::Beside::default()).1 as u64;
    text.gauge(
        "tandem_resource_check",
        "What `tandemadm check` says: 0 OK, 1 WARNING, 2 CRITICAL",
        &name,
        level,
    );
}

fn connection(text: &mut Text, report: &Report, one: &ConnectionStatus) {
    let labels = [
        ("name", report.status.name.clone()),
        ("conn_name", one.name.clone()),
        ("peer_node_id", one.peer_node_id.to_string()),
    ];
    let state = one.connection_state;
    text.state("drbd_connection_state", "The connection", &labels, ConnectionState::ALL, state);
    text.gauge(
        "drbd_connection_congested",
        "Writes wait for the receive window of the peer",
        &labels,
        one.congested.into(),
    );
    text.gauge(
        "drbd_connection_apinflight_bytes",
        "Writes of clients that the peer has not acknowledged",
        &labels,
        one.ap_in_flight,
    );
    text.gauge("drbd_connection_rsinflight_bytes", "Resync under way", &labels, one.rs_in_flight);
    text.state(
        "tandem_connection_reason",
        "Why the peer is not connected",
        &labels,
        Reason::ALL,
        one.reason,
    );
    text.gauge(
        "tandem_connection_splitbrain",
        "Both nodes were written alone, and a person must choose",
        &labels,
        u64::from(state != ConnectionState::Connected && one.reason == Reason::SplitBrain),
    );
    text.counter(
        "tandem_connection_sessions_total",
        "Sessions that were opened since `up`: the first one, and each reconnect",
        &labels,
        one.sessions,
    );
    for peer in &one.peer_devices {
        let mut labels = labels.to_vec();
        labels.push(("volume", peer.volume.to_string()));
        peer_device(text, &labels, peer);
    }
}

fn peer_device(text: &mut Text, labels: &[Label<'_>], peer: &PeerDeviceStatus) {
    text.gauge(
        "drbd_peerdevice_outofsync_bytes",
        "What differs, or may differ, from the peer's disk",
        labels,
        peer.out_of_sync,
    );
    text.counter("drbd_peerdevice_sent_bytes", "Payload sent since `up`", labels, peer.sent);
    let received = peer.received;
    text.counter("drbd_peerdevice_received_bytes", "Payload received since `up`", labels, received);
    text.state(
        "tandem_peerdevice_replication",
        "The replication state",
        labels,
        ReplicationState::ALL,
        peer.replication_state,
    );
    let disk = peer.peer_disk_state;
    text.state("tandem_peerdevice_disk", "The peer's disk", labels, DiskState::ALL, disk);
    text.histogram(
        "tandem_peerdevice_write_seconds",
        "Writes, from their sending to the peer's acknowledgement",
        labels,
        &peer.metrics.write,
    );
    text.counter(
        "tandem_peerdevice_resyncs_total",
        "Resyncs that were begun since `up`",
        labels,
        peer.metrics.resyncs,
    );
    let held = peer.resync_suspended;
    for (by, is) in [("user", held.user), ("peer", held.peer), ("dependency", held.dependency)] {
        let mut labels = labels.to_vec();
        labels.push(("by", by.to_owned()));
        let help = "A resync is held back, or would be";
        text.gauge("tandem_peerdevice_resync_suspended", help, &labels, is.into());
    }
    let Some(resync) = &peer.resync else { return };
    text.gauge("tandem_resync_total_bytes", "Out of sync when it began", labels, resync.total);
    text.gauge("tandem_resync_left_bytes", "Still to be copied", labels, resync.left);
    let rate = resync.rate;
    text.gauge("tandem_resync_bytes_per_second", "Over the last seconds", labels, rate);
    text.gauge("tandem_resync_failed_bytes", "Could not be copied", labels, resync.failed);
    if let Some(left) = resync.seconds_left {
        text.gauge("tandem_resync_left_seconds", "Estimated", labels, left);
    }
}

fn device(text: &mut Text, report: &Report, device: &DeviceStatus) {
    let client = device.backing_disk == "none";
    let labels = [
        ("name", report.status.name.clone()),
        ("volume", device.volume.to_string()),
        ("minor", device.minor.to_string()),
    ];
    let disk = device.disk_state;
    text.state("drbd_device_state", "The own disk", &labels, DiskState::ALL, disk);
    let unintentional = !client && disk == DiskState::Diskless;
    let gauges = [
        ("drbd_device_client", "No disk here by configuration", u64::from(client)),
        ("drbd_device_unintentionaldiskless", "The disk is missing", u64::from(unintentional)),
        ("drbd_device_quorum", "Always 1: there is no quorum", 1),
        ("drbd_device_open", "Clients have it open", u64::from(!device.clients.is_empty())),
        ("drbd_device_size_bytes", "Size of the export", device.size),
        ("drbd_device_upperpending", "Requests of clients under way", device.upper_pending),
        ("drbd_device_lowerpending", "Disk requests under way", device.lower_pending),
        ("drbd_device_alsuspended", "Always 0: the activity log is always kept", 0),
        ("tandem_device_clients", "Connections of clients", device.clients.len() as u64),
    ];
    for (name, help, value) in gauges {
        text.gauge(name, help, &labels, value);
    }
    let counters = [
        ("drbd_device_read_bytes_total", "Read from the own disk", device.read),
        ("drbd_device_written_bytes_total", "Written to the own disk", device.written),
        ("drbd_device_alwrites_total", "Updates of the activity log", device.al_writes),
        ("drbd_device_bmwrites_total", "Pages of the bitmap written", device.bm_writes),
        ("tandem_device_alhits_total", "Writes into hot extents", device.metrics.al_hits),
        (
            "tandem_device_almisses_total",
            "Writes that waited for the log",
            device.metrics.al_misses,
        ),
    ];
    for (name, help, value) in counters {
        text.counter(name, help, &labels, value);
    }
    text.histogram(
        "tandem_device_write_seconds",
        "Writes of clients, from their coming to their answer",
        &labels,
        &device.metrics.write,
    );
    text.histogram(
        "tandem_device_flush_seconds",
        "Flushes of clients, from their coming to their answer",
        &labels,
        &device.metrics.flush,
    );
}

#[cfg(test)]
mod tests;
