//! Reports made by hand, for golden texts: alice (node id 0) and bob (1), as in the manual.

use super::{Past, Path, Report};
use crate::resource::{
    ClientStatus, ConnectionState, ConnectionStatus, DeviceStatus, DiskState, HandshakeStatus,
    PeerDeviceStatus, Reason, ReplicationState, ResyncStatus, Role, SideStatus, Status,
};

/// Bytes of the volume.
pub(crate) const SIZE: u64 = 100 << 30;
/// When every report was taken.
pub(crate) const NOW: u64 = 1_795_575_731;

fn device(volume: u16) -> DeviceStatus {
    DeviceStatus {
        volume,
        minor: u32::from(volume),
        backing_disk: "/dev/vg0/r0".to_owned(),
        disk_state: DiskState::UpToDate,
        clients: Vec::new(),
        size: SIZE,
        read: 1 << 20,
        written: 2 << 20,
        al_writes: 3,
        bm_writes: 4,
        upper_pending: 0,
        lower_pending: 0,
        no_space: false,
        no_disk_flushes: false,
        no_md_flushes: false,
        hung_ms: None,
        current_uuid: 0x5435_911C_ABE7_ED03,
        history: vec![0x4DCE_BC18_6434_281A],
        flags: 3,
        disk_note: String::new(),
        generation_time: 0,
        alone_time: 0,
        metrics: Default::default(),
    }
}

/// A peer-device that is established.
pub(crate) fn peer_device(volume: u16) -> PeerDeviceStatus {
    PeerDeviceStatus {
        volume,
        replication_state: ReplicationState::Established,
        peer_disk_state: DiskState::UpToDate,
        received: 0,
        sent: 2 << 20,
        out_of_sync: 0,
        pending: 0,
        unacked: 0,
        bitmap_uuid: 0,
        metrics: Default::default(),
        resync_suspended: Default::default(),
        resync: None,
        verify: None,
        no_space: false,
        last_verify: None,
    }
}

/// alice, Primary with a client, connected to bob.
pub(crate) fn healthy() -> Report {
    let connection = ConnectionStatus {
        peer_node_id: 1,
        name: "bob".to_owned(),
        connection_state: ConnectionState::Connected,
        socket: None,
        remote: String::new(),
        reason: Reason::None,
        fencing: None,
        peer_role: Role::Secondary,
        discard_my_data_pending: false,
        back_in_ms: None,
        ap_in_flight: 0,
        rs_in_flight: 0,
        congested: false,
        since_ms: 32_400_000,
        attempts: 0,
        sessions: 1,
        detail: String::new(),
        last_peer_role: Role::Secondary,
        last_handshake: vec![handshake()],
        peer_devices: vec![peer_device(0)],
    };
    let mut device = device(0);
    let name = "nbd-client pid 2211 uid 0".to_owned();
    device.clients.push(ClientStatus { name, since: NOW - 3600 });
    Report {
        status: Status {
            name: "r0".to_owned(),
            node_id: 0,
            node_name: "alice".to_owned(),
            role: Role::Primary,
            auto_promoted: false,
            suspended_user: false,
            suspended_fencing: false,
            suspended_no_space: false,
            suspended_gap: false,
            suspended_handshake: false,
            order: None,
            failed: None,
            devices: vec![device],
            connections: vec![connection],
        },
        paths: vec![Path {
            peer_node_id: 1,
            local: ([10, 0, 0, 1], 7789).into(),
            remote: ([10, 0, 0, 2], 7789).into(),
        }],
        peer_clients: Vec::new(),
        auto_promote: false,
        nbd_socket: "/run/tandem/nbd.sock".to_owned(),
        taken_at: NOW,
        config_differs: Vec::new(),
        path_differs: Vec::new(),
        disk_files: Vec::new(),
        device_failed: Vec::new(),
        past: Past {
            role_ms: 32_400_000,
            frozen_ms: None,
            handshake_ms: None,
            reconnects_1h: vec![(1, 0)],
        },
    }
}

/// The same with two volumes and no client.
pub(crate) fn two_volumes() -> Report {
    let mut report = healthy();
    report.status.devices = vec![device(0), device(1)];
    report.status.connections[0].peer_devices = vec![peer_device(0), peer_device(1)];
    report
}

/// alice is the source of a resync.
pub(crate) fn resync_source() -> Report {
    let mut report = healthy();
    report.status.connections[0].since_ms = 125_000;
    let peer = &mut report.status.connections[0].peer_devices[0];
    peer.replication_state = ReplicationState::SyncSource;
    peer.peer_disk_state = DiskState::Inconsistent;
    peer.out_of_sync = (81 << 30) / 10;
    peer.resync = Some(ResyncStatus {
        total: (209 << 30) / 10,
        left: (81 << 30) / 10,
        elapsed_ms: 125_000,
        paused_ms: 0,
        rate: 104 << 20,
        done_hundredths: 6120,
        seconds_left: Some(80),
        failed: 0,
    });
    report
}

/// bob is its target.
pub(crate) fn resync_target() -> Report {
    let mut report = mirrored(resync_source());
    report.status.devices[0].disk_state = DiskState::Inconsistent;
    let peer = &mut report.status.connections[0].peer_devices[0];
    peer.replication_state = ReplicationState::SyncTarget;
    peer.peer_disk_state = DiskState::UpToDate;
    report
}

/// alice is Primary, bob refuses connections.
pub(crate) fn peer_down() -> Report {
    let mut report = healthy();
    let connection = &mut report.status.connections[0];
    connection.connection_state = ConnectionState::Connecting;
    connection.reason = Reason::Refused;
    connection.peer_role = Role::Unknown;
    connection.since_ms = 2_400_000;
    connection.attempts = 163;
    connection.detail = "PingAck did not arrive in 10.5 s".to_owned();
    let peer = &mut connection.peer_devices[0];
    peer.replication_state = ReplicationState::Off;
    peer.peer_disk_state = DiskState::DUnknown;
    peer.out_of_sync = 812 << 20;
    peer.bitmap_uuid = 0x4DCE_BC18_6434_281A;
    report
}

/// alice, after a refused handshake.
pub(crate) fn refused(reason: Reason) -> Report {
    let mut report = peer_down();
    let connection = &mut report.status.connections[0];
    connection.connection_state = ConnectionState::StandAlone;
    connection.reason = reason;
    connection.since_ms = 540_000;
    connection.detail = String::new();
    connection.last_handshake = vec![HandshakeStatus {
        time: NOW - 540,
        rule: match reason {
            Reason::RolledBack => "rolled-back-peer".to_owned(),
            other => other.to_string(),
        },
        meaning: "A sentence of the rule.".to_owned(),
        outcome: reason.to_string(),
        ..handshake()
    }];
    report
}

/// alice and bob were both written; alice is still Primary.
pub(crate) fn split_brain() -> Report {
    let mut report = refused(Reason::SplitBrain);
    let device = &mut report.status.devices[0];
    (device.generation_time, device.alone_time) = (NOW - 5000, NOW - 9);
    let connection = &mut report.status.connections[0];
    connection.peer_devices[0].out_of_sync = 124 << 20;
    let found = &mut connection.last_handshake[0];
    found.rule = "bitmap-both".to_owned();
    found.meaning = "Both nodes have been written since they lost each other.".to_owned();
    found.because = "No policy decides this.".to_owned();
    found.own.role = Role::Primary;
    found.own.bitmap_uuid = 0x4DCE_BC18_6434_281A;
    found.own.out_of_sync = 120 << 20;
    found.peer = SideStatus {
        current_uuid: 0x77A0_C6D2_140F_98E1,
        bitmap_uuid: 0x4DCE_BC18_6434_281A,
        out_of_sync: 2 << 20,
        generation_time: NOW - 760,
        alone_time: NOW - 729,
        ..side(Role::Secondary)
    };
    report
}

fn side(role: Role) -> SideStatus {
    SideStatus {
        role,
        disk: DiskState::UpToDate,
        current_uuid: 0x5435_911C_ABE7_ED03,
        bitmap_uuid: 0,
        out_of_sync: 0,
        data_size: SIZE,
        generation_time: 0,
        alone_time: 0,
        created_found: "blank".to_owned(),
    }
}

pub(crate) fn handshake() -> HandshakeStatus {
    HandshakeStatus {
        volume: 0,
        time: NOW - 32_400,
        rule: "both-off".to_owned(),
        meaning: "Both were stopped in order.".to_owned(),
        outcome: "no-sync".to_owned(),
        because: String::new(),
        own: side(Role::Secondary),
        peer: side(Role::Secondary),
    }
}

/// The report as bob sees the pair, Secondary.
pub(crate) fn mirrored(mut report: Report) -> Report {
    report.status.node_id = 1;
    report.status.node_name = "bob".to_owned();
    report.status.role = Role::Secondary;
    for device in &mut report.status.devices {
        device.clients.clear();
    }
    let connection = &mut report.status.connections[0];
    connection.peer_node_id = 0;
    connection.name = "alice".to_owned();
    if connection.peer_role != Role::Unknown {
        connection.peer_role = Role::Primary;
    }
    connection.last_peer_role = Role::Primary;
    for found in &mut connection.last_handshake {
        std::mem::swap(&mut found.own, &mut found.peer);
    }
    let path = &mut report.paths[0];
    path.peer_node_id = 0;
    std::mem::swap(&mut path.local, &mut path.remote);
    report
}
