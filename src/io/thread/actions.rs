//! The core's actions, one by one.

use super::*;
use crate::io::buffer::{PoolError, part_of};
use crate::io::disk::ZeroesAsked;
use crate::resource::{LogLevel, Payload};

impl<C: Core> Shell<C> {
    /// Carries out one action, or starts it.
    pub(super) fn perform(&mut self, action: Action) {
        let io = &mut self.io;
        match action {
            Action::DiskRead { tag, volume, offset, length, find_zeroes } => {
                self.disks.read(io, tag, volume, (offset, length), find_zeroes);
            }
            Action::DiskWrite { tag, volume, offset, payload, fua } => {
                self.disks.write(io, tag, volume, offset, payload, fua);
            }
            Action::DiskZeroes { tag, volume, offset, length, no_hole, written, fua } => {
                let how = ZeroesAsked { no_hole, written, fua };
                self.disks.zero(io, tag, volume, (offset, length), how);
            }
            Action::FindHole { tag, volume, offset, length } => {
                let length = self.disks.hole(io.now, volume, offset, length);
                io.events.push_back(Event::HoleFound { tag, length });
            }
            Action::DiskFlush { tag, volume } => self.disks.flush(io, tag, volume),
            Action::Meta { tag, volume, op } => self.disks.meta(io, tag, volume, &op),
            Action::GrowDisk { tag, volume } => self.grow_disk(tag, volume),
            Action::CloseDisk { volume, superblock } => {
                self.disks.close(io, volume, superblock);
                self.close_disks();
            }
            Action::Connect { peer, socket, timeout_ms } => {
                self.peers.connect(io, peer, socket, timeout_ms);
            }
            Action::Send { socket, packet, payload } => {
                self.peers.send(io, socket, &packet, payload);
            }
            Action::Authenticate { socket, own, peer } => {
                self.peers.authenticate(io, socket, own, peer);
            }
            Action::CloseSocket { socket, linger } => self.peers.close(io, socket, linger),
            Action::Merge { into, from, head } => {
                let merged = merge(&mut io.pool, into, from, head);
                self.report(merged);
            }
            Action::Digest { tag, payload } => match io.pool.bytes(payload) {
                Ok(bytes) => {
                    let digest = crc32fast::hash(bytes);
                    io.events.push_back(Event::Digested { tag, digest });
                }
                Err(error) => self.report(Err(error)),
            },
            Action::BlockDigests { tag, payload, alg } => {
                let asked = self.digests.ask(io, tag, payload, alg);
                self.report(asked);
            }
            Action::Release(payload) => {
                let released = io.pool.release(payload);
                self.report(released);
            }
            Action::Reply { request, result } => self.clients.reply(io, request, result),
            Action::CloseSessions { volume, lost } => {
                self.clients.dismiss(io, Some(volume));
                if lost {
                    self.loses_cache(volume);
                }
            }
            Action::AdminReply { id, result } => self.admin_reply(id, result),
            Action::RunHandler { number, call } => self.handlers.run(number, call),
            Action::Log { level, text } => log(&io.name, level, &text),
        }
    }

    /// A handle that the pool refuses is a defect of the core: nothing was touched.
    pub(super) fn report(&self, result: Result<(), PoolError>) {
        if let Err(error) = result {
            tracing::error!(target: "tandem", resource = %self.io.name, "defect: {error}");
            debug_assert!(false, "{error}");
        }
    }
}

/// `Action::Merge`: completes the first or the last page of `into` from the disk's block.
fn merge(pool: &mut Pool, into: Payload, from: Payload, head: bool) -> Result<(), PoolError> {
    let end = into.offset + into.length;
    let page = PAGE as u32;
    let (start, length, skip) = if head {
        let length = into.offset % page;
        (into.offset - length, length, 0)
    } else {
        (end, end.next_multiple_of(page) - end, end % page)
    };
    if length == 0 {
        return Ok(());
    }
    let target = Payload { offset: start, length, ..into };
    pool.copy(part_of(from, skip as usize, length as usize), target)
}

fn log(name: &str, level: LogLevel, text: &str) {
    match level {
        LogLevel::Error => tracing::error!(target: "tandem", resource = %name, "{text}"),
        LogLevel::Warning => tracing::warn!(target: "tandem", resource = %name, "{text}"),
        LogLevel::Info => tracing::info!(target: "tandem", resource = %name, "{text}"),
        LogLevel::Debug => tracing::debug!(target: "tandem", resource = %name, "{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::buffer::Part;

    #[test]
    fn merge_completes_the_edges_and_leaves_the_data() {
        let mut pool = Pool::default();
        let buffer = pool.take(Part::Client, 3 * PAGE);
        pool.bytes_mut(buffer).unwrap().fill(1);
        let into = Payload { offset: 100, length: 2 * PAGE as u32 + 50, ..buffer };
        let from = pool.take(Part::Read, PAGE);
        pool.bytes_mut(from).unwrap().fill(2);
        merge(&mut pool, into, from, true).unwrap();
        pool.bytes_mut(from).unwrap().fill(3);
        merge(&mut pool, into, from, false).unwrap();
        let end = 2 * PAGE + 150;
        let expected: Vec<u8> = (0..3 * PAGE)
            .map(|at| {
                if at < 100 {
                    2
                } else if at < end {
                    1
                } else {
                    3
                }
            })
            .collect();
        assert_eq!(pool.bytes(Payload { length: 3 * PAGE as u32, ..buffer }).unwrap(), expected);
        let aligned = Payload { offset: 0, length: PAGE as u32, ..buffer };
        merge(&mut pool, aligned, from, true).unwrap();
        merge(&mut pool, aligned, from, false).unwrap();
        assert_eq!(pool.bytes(buffer).unwrap(), expected);
    }
}
