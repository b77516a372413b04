//! Random walks: anything that nodes, disks, orders and a hostile peer may do, in any order, and then
//! everything is well again. The simulator has the histories; here are odd orders and forged packets.

use super::crossing::{is_bitmap, is_flush, is_log, is_write};
use super::pair::{Pair, config, synced_pair};
use crate::meta::MetaOp;
use crate::resource::*;
use crate::wire::Packet;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

fn random_packet(dice: &mut Dice, pair: &Pair, n: usize) -> Packet {
    use crate::wire::ZeroMode;
    let volume = 0;
    let connection = &pair.core(n).connections[0];
    let sent: Vec<u64> = connection.sent.keys().copied().collect();
    let sequence = match dice.roll(3) {
        0 if !sent.is_empty() => sent[dice.roll(sent.len() as u64) as usize],
        1 => connection.next_sequence,
        _ => dice.roll(50),
    };
    let offset = dice.roll(40) * 4096;
    let length = 4096 * (1 + dice.roll(4)) as u32;
    let disks = [
        DiskState::Diskless,
        DiskState::Failed,
        DiskState::Inconsistent,
        DiskState::Outdated,
        DiskState::Consistent,
        DiskState::UpToDate,
        DiskState::Negotiating,
    ];
    let disk = disks[dice.roll(7) as usize];
    let role = if dice.roll(2) == 0 { Role::Primary } else { Role::Secondary };
    let uuid = 1000 + dice.roll(4);
    match dice.roll(52) {
        48 => Packet::HoleRequest { volume, sequence, offset, length: length << dice.roll(6) },
        49 => Packet::HoleAnswer { volume, sequence, length },
        39 => Packet::Resize { volume },
        42 => Packet::NoSpace { volume, sequence },
        43 => Packet::LetGo { volume, sequence },
        44 => Packet::TakeBack { volume, sequence },
        45 => Packet::TakenBack { volume, sequence },
        40 => Packet::ResizeAnswer { volume, size: offset << dice.roll(20), code: 0 },
        0 => Packet::Data { volume, sequence, offset, length, fua: dice.roll(2) == 0 },
        1 => Packet::Zeroes { volume, sequence, offset, length, mode: ZeroMode::Hole, fua: false },
        2 => Packet::WriteAck { volume, sequence },
        3 => Packet::NegAck { volume, sequence },
        4 => Packet::Flush { volume, sequence },
        5 => Packet::FlushAck { volume, sequence, ok: dice.roll(2) == 0 },
        6 => Packet::ReadRequest { volume, sequence, offset, length },
        7 => Packet::ReadReply { volume, sequence, length },
        8 => Packet::ReadError { volume, sequence },
        9 => Packet::Number { volume, number: dice.roll(1 << 40) },
        10 => Packet::NewUuid { volume, uuid },
        11 => Packet::NewUuidAck { volume, uuid },
        12 => Packet::ResyncRequest { volume, sequence, offset, length },
        13 => Packet::ResyncData { volume, sequence, length },
        14 => Packet::ResyncZeroes { volume, sequence },
        15 => Packet::ResyncError { volume, sequence },
        16 => Packet::ResyncAck { volume, sequence },
        17 => Packet::InSync { volume, offset, length: u64::from(length) },
        18 => Packet::ResyncEnd { volume },
        19 => Packet::ResyncDone { volume },
        20 => Packet::State { volume, role, disk, paused: dice.roll(4) == 0 },
        21 => Packet::Leave { kind: dice.roll(3) as u8 },
        22 => Packet::LeaveAnswer,
        23 => Packet::PromoteRequest { sequence },
        24 => Packet::PromoteAnswer { sequence, code: -(dice.roll(2) as i32) },
        25 if dice.roll(3) == 0 => {
            Packet::StartResyncAnswer { volume, sequence, code: -(dice.roll(2) as i32) * 21 }
        }
        25 => {
            let (source, marked) = (dice.roll(2) == 0, dice.roll(2) == 0);
            Packet::StartResync { volume, sequence, source, marked }
        }
        26 => Packet::Sample { volume, sequence, offset, length, digest: 0 },
        27 => Packet::SampleAnswer { volume, sequence, equal: dice.roll(2) == 0 },
        28 => Packet::ClearBitmap { volume, uuid },
        29 => Packet::Adopted { volume },
        30 => Packet::Opened { volume },
        31 => Packet::BitmapEnd { volume, bits: dice.roll(100) },
        32 => Packet::VerifyStart { volume, offset, length: 1 << 20, alg: VerifyAlg::Crc32c },
        33 => Packet::VerifyAnswer { volume, code: -(dice.roll(2) as i32) },
        34 => Packet::VerifyRequest { volume, sequence, offset, length },
        35 => {
            let digests = vec![7; 4 * dice.roll(64) as usize + 4];
            Packet::VerifyDigests { volume, sequence, digests }
        }
        36 => Packet::VerifyError { volume, sequence },
        37 => Packet::VerifyResult { volume, sequence, differing: vec![dice.0] },
        38 => Packet::VerifyEnd { volume, position: offset, done: dice.roll(2) == 0 },
        50 => {
            let alg = VerifyAlg::ALL[dice.roll(3) as usize];
            Packet::DigestRequest { volume, sequence, offset, length, alg }
        }
        51 => {
            let digests = vec![7; 4 * dice.roll(64) as usize + 4];
            Packet::DigestAnswer { volume, sequence, digests }
        }
        46 => Packet::HandOver { sequence, cancel: dice.roll(3) == 0 },
        47 => {
            let all = crate::wire::HandOverOutcome::ALL;
            let outcome = all[dice.roll(all.len() as u64) as usize];
            Packet::HandOverAnswer { sequence, outcome }
        }
        _ => Packet::Bitmap { volume, first_block: 64 * dice.roll(10), words: vec![dice.0] },
    }
}

fn offset(dice: &mut Dice) -> u64 {
    dice.roll(super::pair::SIZE)
}

fn random_order(dice: &mut Dice, pair: &mut Pair, n: usize) -> Command {
    let peer = 1 - u8::try_from(n).unwrap();
    match dice.roll(34) {
        32 | 33 => {
            let room = &mut pair.nodes[n].disk.room;
            *room = (*room).max(super::pair::SIZE) + (dice.roll(3) << 14);
            Command::Resize { volume: 0, size: None, assume_clean: dice.roll(3) == 0 }
        }
        24 | 25 => Command::AutoPromote,
        26 => Command::Secondary { force: dice.roll(2) == 0, wait_ms: dice.roll(40_000) },
        27 => Command::Disconnect { peer, force: false, for_ms: Some(dice.roll(20_000)) },
        28 | 29 => {
            let mut options = config(1 - peer).options;
            options.on_io_error = pair.nodes[n].on_io_error;
            options.auto_promote = dice.roll(3) != 0;
            options.disk_timeout_ms = [0, 0, 1_000, 8_000][dice.roll(4) as usize];
            Command::SetOptions { options: Box::new(options), volumes: Default::default() }
        }
        30 => Command::Down { shutdown: dice.roll(2) == 0 },
        14 => Command::ForgetPeer { peer },
        15 | 16 => Command::PauseSync { volume: 0, peer, pause: dice.roll(2) == 0 },
        17 | 18 => Command::SuspendIo { suspend: dice.roll(2) == 0 },
        19 => Command::Repair { volume: 0, peer, from: dice.roll(2) as u8 },
        20 => Command::Verify { volume: 0, peer, start: None, stop: Some(offset(dice)) },
        21 | 22 => Command::Verify { volume: 0, peer, start: Some(offset(dice)), stop: None },
        0 => pair.attach_command(n),
        1 => Command::Detach { volume: 0, force: dice.roll(2) == 0 },
        2 | 3 => Command::Connect {
            peer,
            discard_my_data: dice.roll(3) == 0,
            tentative: dice.roll(4) == 0,
        },
        4 => Command::Disconnect { peer, force: dice.roll(2) == 0, for_ms: None },
        5 => Command::Primary { force: None },
        6 => Command::Primary { force: Some(Force::Plain) },
        7 => Command::Secondary { force: true, wait_ms: 0 },
        8 => Command::Invalidate { volume: 0 },
        9 => Command::InvalidateRemote { volume: 0, peer },
        10 => Command::Outdate { volume: 0 },
        11 => Command::NewCurrentUuid { volume: 0, clear_bitmap: false },
        12 => Command::Primary { force: Some(Force::Inconsistent) },
        13 => Command::NewCurrentUuid { volume: 0, clear_bitmap: true },
        _ => Command::Detach { volume: 0, force: true },
    }
}

fn walk(seed: u64, hostile: bool) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut pair = if dice.roll(3) == 0 { Pair::new() } else { synced_pair() };
    if dice.roll(3) == 0 {
        pair.pass_errors();
        pair.run(5_000);
    }
    let kinds: [fn(&Action) -> bool; 8] = [
        |_| false,
        |_| true,
        is_write,
        is_flush,
        is_log,
        is_bitmap,
        |a| matches!(a, Action::DiskRead { .. }),
        |a| matches!(a, Action::Meta { op: MetaOp::Superblock(_), .. }),
    ];
    let mut downs = [Vec::new(), Vec::new()];
    for _ in 0..60 {
        let n = dice.roll(2) as usize;
        for (n, orders) in downs.iter_mut().enumerate() {
            let is_down = |id: &u64| matches!(pair.nodes[n].admin.get(id), Some(Ok(_)));
            if orders.iter().any(is_down) {
                pair.is_down(n);
                orders.clear();
            }
        }
        if pair.nodes[n].core.is_none() {
            pair.nodes[n].stall = |_| false;
            pair.nodes[n].fail = |_| false;
            let core = Resource::new(config(u8::try_from(n).unwrap()), dice.0, pair.now, 0);
            pair.nodes[n].core = Some(core);
            pair.nodes[n].values.clear();
            let command = pair.attach_command(n);
            pair.order(n, command);
            continue;
        }
        match dice.roll(16) {
            0 => pair.nodes[n].stall = kinds[dice.roll(8) as usize],
            1 => pair.nodes[n].unstall(),
            2 => pair.nodes[n].fail = kinds[dice.roll(8) as usize],
            3 => pair.nodes[n].fail = |_| false,
            4 => pair.cut(),
            5 => pair.link = dice.roll(3) != 0,
            6 | 7 => {
                let command = random_order(&mut dice, &mut pair, n);
                let is_down = matches!(command, Command::Down { .. });
                let id = pair.order(n, command);
                if is_down {
                    downs[n].push(id);
                }
            }
            8 | 9 => {
                let session = SessionId(n as u64 + 1);
                if pair.core(n).role == Role::Primary
                    && !pair.core(n).sessions.contains_key(&session)
                {
                    pair.event(n, Event::SessionOpened { session, volume: 0, client: "t".into() });
                }
                let (block, value) = (dice.roll(6) * 700, dice.0);
                pair.write_later(n, block, value);
                if dice.roll(2) == 0 {
                    pair.settle();
                }
            }
            10 => {
                let id = pair.next;
                pair.next += 1;
                let offset = dice.roll(6) * 700 * 4096;
                let op = match dice.roll(3) {
                    0 => Op::Read { offset, length: 4096 },
                    1 => Op::Flush,
                    _ => Op::Zeroes { offset, length: 8192, no_hole: false, fua: true },
                };
                pair.request_later(n, id, op);
            }
            11 => {
                // A stalled operation ends, well or badly.
                if let Some(event) = pair.nodes[n].stalled.pop_front() {
                    let bad = dice.roll(2) == 0;
                    let event = match event {
                        Event::DiskDone { tag, result } if bad => {
                            if let Ok(Some(payload)) = result {
                                pair.nodes[n].values.remove(&payload.slot);
                            }
                            let error = if dice.roll(2) == 0 {
                                DiskError::NoSpace
                            } else {
                                DiskError::Io(5)
                            };
                            Event::DiskDone { tag, result: Err(error) }
                        }
                        Event::MetaDone { tag, .. } if bad => {
                            Event::MetaDone { tag, result: Err(DiskError::Io(5)) }
                        }
                        other => other,
                    };
                    pair.event(n, event);
                }
            }
            12 if hostile => {
                let Some(socket) = pair.core(n).connections[0].active else { continue };
                let packet = random_packet(&mut dice, &pair, n);
                if !crate::wire::check(&packet) {
                    continue;
                }
                let length = packet.payload_length();
                let blocks = u64::from(length) / 4096;
                let payload = (length != 0)
                    .then(|| pair.nodes[n].payload(length, vec![dice.0; blocks as usize]));
                pair.event(n, Event::Packet { socket, packet, payload });
            }
            13 => {
                let session = SessionId(n as u64 + 1);
                if dice.roll(4) == 0 {
                    pair.event(n, Event::SessionClosed { session, disconnect: false });
                }
            }
            14 if dice.roll(6) == 0 => pair.kill(n),
            14 if dice.roll(6) == 0 => pair.event(n, Event::ClockGap { gap_ms: 16_000 }),
            _ => {
                let ms = [10, 1_000, 7_000, 45_000][dice.roll(4) as usize];
                pair.run(ms);
            }
        }
    }
    if !hostile {
        heal(&mut pair);
    }
}

impl Pair {
    /// The resource was taken down: everybody was answered, and nothing is left.
    fn is_down(&mut self, n: usize) {
        let core = self.core(n);
        assert!(core.orders.is_empty() && core.running.is_none(), "orders wait for ever");
        assert!(core.requests.keys().is_empty(), "requests wait for ever");
        let none =
            |d: &DeviceStatus| matches!(d.disk_state, DiskState::Diskless | DiskState::Failed);
        assert!(self.status(n).devices.iter().all(none));
        self.kill(n);
    }
}

/// Everything is well again: what is called in sync is equal, and nothing waits.
fn heal(pair: &mut Pair) {
    for n in 0..2 {
        pair.nodes[n].fail = |_| false;
        pair.nodes[n].unstall();
    }
    pair.link = true;
    pair.run(100_000);
    for n in 0..2 {
        if pair.nodes[n].core.is_none() {
            let core = Resource::new(config(u8::try_from(n).unwrap()), 99, pair.now, 0);
            pair.nodes[n].core = Some(core);
            pair.nodes[n].values.clear();
        }
        let peer = 1 - u8::try_from(n).unwrap();
        pair.order(n, Command::PauseSync { volume: 0, peer, pause: false });
        pair.order(n, Command::SuspendIo { suspend: false });
        let connect = Command::Connect { peer, discard_my_data: false, tentative: false };
        pair.order(n, connect);
    }
    pair.run(100_000);
    for n in 0..2 {
        if pair.disk(n) == DiskState::Diskless {
            let command = pair.attach_command(n);
            pair.order(n, command);
        }
    }
    pair.run(100_000);
    let good = (0..2).all(|n| {
        let status = pair.status(n);
        let peer = &status.connections[0].peer_devices[0];
        status.devices[0].disk_state == DiskState::UpToDate
            && peer.replication_state == ReplicationState::Established
            && peer.out_of_sync == 0
    });
    let idle = |n: usize| pair.core(n).admitted == 0 && pair.core(n).held.is_empty();
    assert!(idle(0) && idle(1), "requests wait for ever");
    let idle = (0..2).all(|n| pair.core(n).running.is_none() && pair.core(n).orders.is_empty());
    assert!(idle, "orders wait for ever");
    let known = (0..2).all(|n| {
        let state = pair.status(n).connections[0].connection_state;
        matches!(state, ConnectionState::Connected | ConnectionState::StandAlone)
    });
    let alone = (0..2)
        .any(|n| pair.status(n).connections[0].connection_state == ConnectionState::StandAlone);
    let known = known || alone;
    assert!(known, "no session, and nobody says why: {}", pair.nodes[0].log.join("\n"));
    for n in 0..2 {
        assert!(pair.nodes[n].values.is_empty(), "payloads leaked on {n}");
    }
    if good {
        let data = |n: usize| {
            let blocks = pair.nodes[n].disk.blocks.iter();
            blocks.filter(|(_, v)| **v != 0).map(|(b, v)| (*b, *v)).collect::<Vec<_>>()
        };
        assert!(data(0) == data(1), "in sync, and they differ");
    }
}

/// Seeds of each walk; more of them are worth an hour when the core changes much.
const SEEDS: std::ops::Range<u64> = 1..150;

#[test]
fn nothing_that_honest_nodes_do_panics_or_leaves_disks_apart() {
    SEEDS.for_each(|seed| walk(seed, false));
}

#[test]
fn nothing_that_a_peer_sends_panics() {
    SEEDS.for_each(|seed| walk(seed, true));
}
