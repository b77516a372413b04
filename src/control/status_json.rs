//! `tandemadm status --json`: an array of resources with every key of `drbdsetup status --json`,
//! whatever else was asked for, and `reason`. Sizes in KiB; sectors of 512 bytes where the key
//! says so.

use serde::Serialize;

use super::{Report, kib, waiting_order};
use crate::resource::{
    ConnectionStatus, DeviceStatus, LastVerify, PeerDeviceStatus, ResyncStatus, VerifyStatus,
};

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Resource<'a> {
    name: &'a str,
    node_id: u8,
    role: &'a str,
    suspended: bool,
    suspended_user: bool,
    suspended_no_data: bool,
    suspended_fencing: bool,
    suspended_quorum: bool,
    force_io_failures: bool,
    write_ordering: &'a str,
    devices: Vec<Device<'a>>,
    connections: Vec<Connection<'a>>,
    suspended_no_space: bool,
    suspended_gap: bool,
    suspended_handshake: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<Order<'a>>,
    failed: bool,
    config_differs: bool,
}

/// An order that does not end at once.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Order<'a> {
    verb: &'a str,
    /// Seconds.
    running: u64,
    waits_for: &'a str,
}

/// A connection of a client.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Opener<'a> {
    client: &'a str,
    export: String,
    /// Seconds since 1970.
    since: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Device<'a> {
    volume: u16,
    minor: u32,
    disk_state: &'a str,
    client: bool,
    open: bool,
    quorum: bool,
    size: u64,
    read: u64,
    written: u64,
    al_writes: u64,
    bm_writes: u64,
    upper_pending: u64,
    lower_pending: u64,
    backing_dev: &'a str,
    hung: bool,
    path_differs: bool,
    device_failed: bool,
    disk_flushes: bool,
    md_flushes: bool,
    openers: Vec<Opener<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Connection<'a> {
    peer_node_id: u8,
    name: &'a str,
    connection_state: &'a str,
    congested: bool,
    peer_role: &'a str,
    tls: bool,
    ap_in_flight: u64,
    rs_in_flight: u64,
    paths: Vec<JsonPath>,
    // DRBD spells these two with an underscore.
    #[serde(rename = "peer_devices")]
    peer_devices: Vec<PeerDevice<'a>>,
    reason: &'a str,
    discard_my_data_pending: bool,
    back_in: Option<u64>,
}

#[derive(Serialize)]
struct JsonPath {
    this_host: Host,
    remote_host: Host,
    established: bool,
}

#[derive(Serialize)]
struct Host {
    address: String,
    port: u16,
    family: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct PeerDevice<'a> {
    volume: u16,
    replication_state: &'a str,
    peer_disk_state: &'a str,
    peer_client: bool,
    resync_suspended: String,
    received: u64,
    sent: u64,
    out_of_sync: u64,
    pending: u64,
    unacked: u64,
    has_sync_details: bool,
    has_online_verify_details: bool,
    percent_in_sync: f64,
    rs_total: u64,
    rs_dt_start_ms: u64,
    rs_paused_ms: u64,
    rs_dt0_ms: u64,
    rs_db0_sectors: u64,
    rs_dt1_ms: u64,
    rs_db1_sectors: u64,
    rs_failed: u64,
    rs_same_csum: u64,
    want: u64,
    #[serde(rename = "db0/dt0 [MiB/s]")]
    rate: f64,
    #[serde(rename = "db1/dt1 [MiB/s]")]
    rate_before: f64,
    estimated_seconds_to_finish: u64,
    #[serde(rename = "db/dt [MiB/s]")]
    average: f64,
    percent_resync_done: f64,
    ov_start_sector: u64,
    ov_stop_sector: u64,
    ov_position: u64,
    ov_left: u64,
    ov_skipped: u64,
    ov_out_of_sync: u64,
    last_verify: Option<LastVerifyJson>,
}

/// An online verify that has ended: sectors of 512 bytes, `out-of-sync` in KiB.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct LastVerifyJson {
    ended: String,
    done: bool,
    start_sector: u64,
    position: u64,
    skipped: u64,
    out_of_sync: u64,
}

/// All reports as one array, with a line break at the end.
#[must_use]
pub fn array(reports: &[Report]) -> String {
    let resources: Vec<Resource<'_>> = reports.iter().map(resource).collect();
    let text = serde_json::to_string_pretty(&resources)
        .expect("plain structs with string keys always serialize");
    text + "\n"
}

fn resource(report: &Report) -> Resource<'_> {
    let status = &report.status;
    Resource {
        name: &status.name,
        node_id: status.node_id,
        role: status.role.name(),
        suspended: super::status_text::suspended(status) != "no",
        suspended_user: status.suspended_user,
        suspended_no_data: false,
        suspended_fencing: status.suspended_fencing,
        suspended_quorum: false,
        force_io_failures: false,
        write_ordering: "flush",
        devices: status.devices.iter().map(|one| device(report, one)).collect(),
        connections: status
            .connections
            .iter()
            .map(|one| connection(one, &status.devices, report))
            .collect(),
        suspended_no_space: status.suspended_no_space,
        suspended_gap: status.suspended_gap,
        suspended_handshake: status.suspended_handshake,
        order: waiting_order(status).map(|order| Order {
            verb: &order.verb,
            running: order.for_ms / 1000,
            waits_for: &order.waits_for,
        }),
        failed: status.failed.is_some(),
        config_differs: !report.config_differs.is_empty(),
    }
}

fn device<'a>(report: &Report, device: &'a DeviceStatus) -> Device<'a> {
    let resource = &report.status.name;
    Device {
        volume: device.volume,
        minor: device.minor,
        disk_state: device.disk_state.name(),
        client: device.backing_disk == "none",
        open: !device.clients.is_empty(),
        quorum: true,
        size: kib(device.size),
        read: kib(device.read),
        written: kib(device.written),
        al_writes: device.al_writes,
        bm_writes: device.bm_writes,
        upper_pending: device.upper_pending,
        lower_pending: device.lower_pending,
        backing_dev: &device.backing_disk,
        hung: device.hung_ms.is_some(),
        path_differs: report.path_differs.iter().any(|(volume, _)| *volume == device.volume),
        device_failed: report.device_failed.iter().any(|(volume, _)| *volume == device.volume),
        disk_flushes: !device.no_disk_flushes,
        md_flushes: !device.no_md_flushes,
        openers: device
            .clients
            .iter()
            .map(|one| Opener {
                client: &one.name,
                export: format!("{resource}/{}", device.volume),
                since: one.since,
            })
            .collect(),
    }
}

fn connection<'a>(
    connection: &'a ConnectionStatus,
    devices: &[DeviceStatus],
    report: &Report,
) -> Connection<'a> {
    let size_of = |volume| {
        devices.iter().find(|device| device.volume == volume).map_or(0, |device| device.size)
    };
    Connection {
        peer_node_id: connection.peer_node_id,
        name: &connection.name,
        connection_state: connection.connection_state.name(),
        congested: connection.congested,
        peer_role: connection.peer_role.name(),
        tls: false,
        ap_in_flight: kib(connection.ap_in_flight),
        rs_in_flight: kib(connection.rs_in_flight),
        paths: report
            .paths_to(connection.peer_node_id)
            .map(|path| JsonPath {
                this_host: host(path.local),
                remote_host: host(path.remote),
                established: report.is_established(path),
            })
            .collect(),
        peer_devices: connection
            .peer_devices
            .iter()
            .map(|peer| {
                let client = report.is_client(connection.peer_node_id, peer.volume);
                peer_device(peer, client, size_of(peer.volume))
            })
            .collect(),
        reason: connection.reason.name(),
        discard_my_data_pending: connection.discard_my_data_pending,
        back_in: connection.back_in_ms.map(|ms| ms.div_ceil(1000)),
    }
}

fn host(address: std::net::SocketAddr) -> Host {
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    Host { address: address.ip().to_string(), port: address.port(), family }
}

fn last_verify(last: &LastVerify) -> LastVerifyJson {
    LastVerifyJson {
        ended: super::stamp(last.time),
        done: last.done,
        start_sector: last.start / 512,
        position: last.position / 512,
        skipped: last.skipped / 512,
        out_of_sync: kib(last.found),
    }
}

/// DRBD's number of seconds where nothing has been copied yet: readers expect a number.
const NOT_KNOWN: u64 = 987_654_321;

/// Two digits behind the point, as DRBD prints percents and rates.
fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn peer_device(peer: &PeerDeviceStatus, peer_client: bool, size: u64) -> PeerDevice<'_> {
    const NONE: ResyncStatus = ResyncStatus {
        total: 0,
        left: 0,
        elapsed_ms: 0,
        paused_ms: 0,
        rate: 0,
        done_hundredths: 0,
        seconds_left: Some(0),
        failed: 0,
    };
    let verify = peer.verify.as_ref();
    let running = peer.resync.as_ref().or(verify.map(|verify| &verify.progress));
    let resync = running.unwrap_or(&NONE);
    let sectors = |bytes: fn(&VerifyStatus) -> u64| verify.map_or(0, |verify| bytes(verify) / 512);
    let done = resync.total.saturating_sub(resync.left);
    // Rounded down: 100 is said only when nothing is out of sync.
    let in_sync = match size {
        0 => 0.0,
        _ => {
            (size.saturating_sub(peer.out_of_sync) as f64 / size as f64 * 10_000.0).floor() / 100.0
        }
    };
    let rate = hundredths(resync.rate as f64 / (1u64 << 20) as f64);
    let average = |ms: u64| match ms {
        0 => 0.0,
        ms => hundredths(done as f64 / (1u64 << 20) as f64 / (ms as f64 / 1000.0)),
    };
    PeerDevice {
        volume: peer.volume,
        replication_state: peer.replication_state.name(),
        peer_disk_state: peer.peer_disk_state.name(),
        peer_client,
        resync_suspended: peer.resync_suspended.to_string(),
        received: kib(peer.received),
        sent: kib(peer.sent),
        out_of_sync: kib(peer.out_of_sync),
        pending: peer.pending,
        unacked: peer.unacked,
        has_sync_details: peer.resync.is_some(),
        has_online_verify_details: peer.verify.is_some(),
        percent_in_sync: in_sync,
        // DRBD halves these two nowhere, as it does the sectors of `out-of-sync`.
        rs_total: resync.total.div_ceil(512),
        rs_dt_start_ms: resync.elapsed_ms,
        rs_paused_ms: resync.paused_ms,
        rs_dt0_ms: if resync.rate > 0 { 1000 } else { 0 },
        rs_db0_sectors: resync.rate / 512,
        rs_dt1_ms: resync.elapsed_ms,
        rs_db1_sectors: done / 512,
        rs_failed: resync.failed.div_ceil(512),
        rs_same_csum: 0,
        want: 0,
        rate,
        rate_before: average(resync.elapsed_ms),
        estimated_seconds_to_finish: resync.seconds_left.unwrap_or(NOT_KNOWN),
        average: average(resync.elapsed_ms.saturating_sub(resync.paused_ms)),
        percent_resync_done: f64::from(resync.done_hundredths) / 100.0,
        ov_start_sector: sectors(|verify| verify.start),
        ov_stop_sector: sectors(|verify| verify.stop),
        ov_position: sectors(|verify| verify.position),
        ov_left: sectors(|verify| verify.progress.left),
        ov_skipped: sectors(|verify| verify.skipped),
        ov_out_of_sync: kib(verify.map_or(0, |verify| verify.found)),
        last_verify: peer.last_verify.as_ref().map(last_verify),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::fixtures;
    use super::*;
    use crate::resource::Reason;

    const RESOURCE_KEYS: &str = "name node-id role suspended suspended-user suspended-no-data \
        suspended-fencing suspended-quorum force-io-failures write-ordering devices connections";
    const DEVICE_KEYS: &str = "volume minor disk-state client open quorum size read written \
        al-writes bm-writes upper-pending lower-pending";
    const CONNECTION_KEYS: &str = "peer-node-id name connection-state congested peer-role tls \
        ap-in-flight rs-in-flight paths peer_devices reason";
    const PEER_DEVICE_KEYS: &str = "volume replication-state peer-disk-state peer-client \
        resync-suspended received sent out-of-sync pending unacked has-sync-details \
        has-online-verify-details percent-in-sync rs-total rs-dt-start-ms rs-paused-ms rs-dt0-ms \
        rs-db0-sectors rs-dt1-ms rs-db1-sectors rs-failed rs-same-csum want \
        estimated-seconds-to-finish percent-resync-done ov-start-sector ov-stop-sector \
        ov-position ov-left ov-skipped";

    fn parsed(report: Report) -> Value {
        serde_json::from_str(&array(&[report])).unwrap()
    }

    #[test]
    fn every_key_is_there_in_every_state() {
        for report in
            [fixtures::healthy(), fixtures::resync_source(), fixtures::refused(Reason::SplitBrain)]
        {
            let all = parsed(report);
            let has = |value: &Value, keys: &str| {
                for key in keys.split_whitespace() {
                    assert!(value.get(key).is_some(), "{key}");
                }
            };
            has(&all[0], RESOURCE_KEYS);
            has(&all[0]["devices"][0], DEVICE_KEYS);
            let connection = &all[0]["connections"][0];
            has(connection, CONNECTION_KEYS);
            has(&connection["peer_devices"][0], PEER_DEVICE_KEYS);
            has(&connection["paths"][0], "this_host remote_host established");
            has(&connection["paths"][0]["this_host"], "address port family");
            assert!(connection["peer_devices"][0].get("db0/dt0 [MiB/s]").is_some());
            assert!(connection["peer_devices"][0].get("db1/dt1 [MiB/s]").is_some());
            assert!(connection["peer_devices"][0].get("db/dt [MiB/s]").is_some());
        }
    }

    #[test]
    fn suspended_io_is_said_with_its_reason() {
        let all = parsed(fixtures::healthy());
        assert_eq!(
            (&all[0]["suspended"], &all[0]["suspended-no-space"]),
            (&false.into(), &false.into())
        );
        let mut report = fixtures::healthy();
        report.status.suspended_no_space = true;
        let all = parsed(report);
        assert_eq!(
            (&all[0]["suspended"], &all[0]["suspended-no-space"]),
            (&true.into(), &true.into())
        );
        assert_eq!(all[0]["suspended-gap"], false);
    }

    #[test]
    fn sizes_are_kib_and_percents_have_two_digits() {
        let all = parsed(fixtures::resync_source());
        assert_eq!(all[0]["devices"][0]["size"], 104_857_600);
        let peer = &all[0]["connections"][0]["peer_devices"][0];
        assert_eq!(peer["out-of-sync"], kib((81 << 30) / 10));
        assert_eq!(peer["percent-resync-done"], 61.2);
        assert_eq!(peer["percent-in-sync"], 91.9);
        assert_eq!(peer["db0/dt0 [MiB/s]"], 104.0);
        assert_eq!(peer["estimated-seconds-to-finish"], 80);
    }

    #[test]
    fn a_resync_is_counted_in_sectors_and_its_end_is_always_a_number() {
        let mut report = fixtures::resync_source();
        let device = &mut report.status.connections[0].peer_devices[0];
        let resync = device.resync.as_mut().unwrap();
        (resync.total, resync.left, resync.failed) = (100 << 20, 60 << 20, 8192);
        (resync.elapsed_ms, resync.paused_ms, resync.seconds_left) = (20_000, 10_000, None);
        let all = parsed(report);
        let peer = &all[0]["connections"][0]["peer_devices"][0];
        assert_eq!((&peer["rs-total"], &peer["rs-failed"]), (&204_800.into(), &16.into()));
        assert_eq!(peer["estimated-seconds-to-finish"], 987_654_321);
        assert_eq!((&peer["db1/dt1 [MiB/s]"], &peer["db/dt [MiB/s]"]), (&2.0.into(), &4.0.into()));
    }

    #[test]
    fn a_peer_without_a_disk_by_configuration_lacks_nothing() {
        let mut report = fixtures::peer_down();
        report.peer_clients.push((1, 0));
        let peer = |report: Report| parsed(report)[0]["connections"][0]["peer_devices"][0].clone();
        assert_ne!(peer(report.clone())["out-of-sync"], 0);
        let without = report.without_bits_of_clients();
        assert!(
            crate::control::check::line(std::slice::from_ref(&without), &Default::default())
                .0
                .contains("oos_kib=0")
        );
        let peer = peer(without);
        assert_eq!((&peer["out-of-sync"], &peer["percent-in-sync"]), (&0.into(), &100.0.into()));
    }

    #[test]
    fn a_refused_connection_stays_listed_with_its_reason() {
        let all = parsed(fixtures::refused(Reason::SplitBrain));
        let connection = &all[0]["connections"][0];
        assert_eq!(connection["connection-state"], "StandAlone");
        assert_eq!(connection["reason"], "split-brain");
        assert_eq!(connection["peer_devices"][0]["peer-disk-state"], "DUnknown");
        assert_eq!(connection["paths"][0]["remote_host"]["address"], "10.0.0.2");
        assert_eq!(connection["paths"][0]["established"], false);
    }
}
