//! A client that remembers what was acknowledged, and checks it later.
//!
//! Each write fills one 4096-byte block with its number and a stamp that grows. A block has one
//! write in flight at most, so after a crash it must hold its newest acknowledged stamp, or a
//! later one that was under way; and once read, that is what it holds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::mpsc;

use nbd::Command;
use nbd::client::{Client, ClientError};
use nbd::constants::NBD_CMD_FLAG_FUA;

const BLOCK: usize = 4096;
/// Writes in flight.
const DEPTH: usize = 16;

/// What the blocks of the export must hold.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// The newest acknowledged stamp of each block.
    acknowledged: BTreeMap<u64, u64>,
    /// Stamps that were sent after that, and not answered.
    unanswered: HashMap<u64, Vec<u64>>,
    stamp: u64,
    seed: u64,
    /// Only the first so many blocks are written.
    span: u64,
    /// Requests that were sent and not answered when the last connection ended.
    pub(crate) flying: usize,
}

/// How many writes a burst does.
pub(crate) enum Burst {
    /// So many.
    Count(u64),
    /// Until the connection ends; each answer is told to the channel.
    UntilLost(mpsc::Sender<()>),
    /// The same, and no answer may be an error.
    UntilMoved(mpsc::Sender<()>),
}

fn content(block: u64, stamp: u64) -> Vec<u8> {
    let mut line = block.to_be_bytes().to_vec();
    line.extend_from_slice(&stamp.to_be_bytes());
    line.repeat(BLOCK / 16)
}

/// The stamp of a block that was written whole.
fn stamp_of(block: u64, bytes: &[u8]) -> Option<u64> {
    let stamp = u64::from_be_bytes(bytes[8..16].try_into().expect("8 bytes"));
    (content(block, stamp) == bytes).then_some(stamp)
}

impl Ledger {
    /// A number below `below`: an LCG, so that a run can be repeated.
    fn random(&mut self, below: u64) -> u64 {
        self.seed =
            self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(0x14057B7EF767814F);
        (self.seed >> 33) % below
    }

    /// Writes random blocks, `DEPTH` at a time, every eighth with FUA. `false`: the connection
    /// was lost on the way.
    pub(crate) fn write(&mut self, client: &mut Client, burst: &Burst) -> bool {
        let blocks = self.span.min(client.size() / BLOCK as u64);
        let mut flying: HashMap<u64, (u64, u64)> = HashMap::new();
        let mut busy: HashSet<u64> = HashSet::new();
        let mut sent = 0;
        let mut ended = false;
        loop {
            let more = match burst {
                Burst::Count(count) => sent < *count,
                Burst::UntilLost(_) | Burst::UntilMoved(_) => true,
            };
            if more && !ended && flying.len() < DEPTH {
                let block = self.random(blocks);
                if busy.contains(&block) {
                    continue;
                }
                self.stamp += 1;
                let stamp = self.stamp;
                sent += 1;
                // Before it is sent: half a request may be a whole one for the server.
                self.unanswered.entry(block).or_default().push(stamp);
                let flags = if stamp.is_multiple_of(8) { NBD_CMD_FLAG_FUA } else { 0 };
                let bytes = content(block, stamp);
                let offset = block * BLOCK as u64;
                match client.send_request(Command::Write, flags, offset, BLOCK as u64, &bytes) {
                    Ok(cookie) => flying.insert(cookie, (block, stamp)),
                    // What was answered before is still to be read.
                    Err(error) => {
                        ended = !lost(&error);
                        continue;
                    }
                };
                busy.insert(block);
                continue;
            }
            if flying.is_empty() {
                self.flying = 0;
                return !ended;
            }
            let reply = match client.read_reply() {
                Ok(reply) => reply,
                Err(error) => {
                    self.flying = flying.len();
                    return lost(&error);
                }
            };
            // A daemon that ends by order says so; such a write was not acknowledged.
            let (block, stamp) = flying.remove(&reply.cookie).expect("the client checks cookies");
            busy.remove(&block);
            if reply.code != 0 {
                assert!(
                    matches!(burst, Burst::UntilLost(_)),
                    "write of block {block}: error {} {}",
                    reply.code,
                    reply.message
                );
                continue;
            }
            self.acknowledged.insert(block, stamp);
            self.unanswered.remove(&block);
            if let Burst::UntilLost(answers) | Burst::UntilMoved(answers) = burst {
                let _ = answers.send(());
            }
        }
    }

    /// Reads every block that was ever written and compares.
    pub(crate) fn check(&mut self, client: &mut Client) {
        let mut blocks: Vec<u64> = self.acknowledged.keys().copied().collect();
        blocks.extend(self.unanswered.keys());
        blocks.sort_unstable();
        blocks.dedup();
        for block in blocks {
            let bytes = client.read(block * BLOCK as u64, BLOCK as u32).expect("a read");
            self.found(block, &bytes);
        }
    }

    /// Compares one block, and holds it to what was found from now on.
    fn found(&mut self, block: u64, bytes: &[u8]) {
        let acknowledged = self.acknowledged.get(&block).copied();
        let flying = self.unanswered.remove(&block).unwrap_or_default();
        let blank = acknowledged.is_none() && bytes.iter().all(|byte| *byte == 0);
        if blank {
            return;
        }
        let found = stamp_of(block, bytes);
        let stamp =
            found.unwrap_or_else(|| panic!("block {block} is torn or foreign: {:?}", &bytes[..16]));
        assert!(
            acknowledged == Some(stamp) || flying.contains(&stamp),
            "block {block} holds stamp {stamp}; acknowledged was {acknowledged:?}, under way \
             {flying:?}"
        );
        self.acknowledged.insert(block, stamp);
    }

    /// Compares with the bytes of a whole disk.
    pub(crate) fn check_blocks(&mut self, disk: &[u8]) {
        let blocks: Vec<u64> = self.acknowledged.keys().copied().collect();
        for block in blocks {
            let at = usize::try_from(block).expect("a small disk") * BLOCK;
            self.found(block, &disk[at..at + BLOCK]);
        }
    }

    /// Blocks with an acknowledged write.
    pub(crate) fn blocks(&self) -> u64 {
        self.acknowledged.len() as u64
    }

    /// Writes anywhere, with other blocks than other seeds.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self { seed, span: u64::MAX, ..Self::default() }
    }

    /// Writes only to the first so many extents of the activity log (4 MiB each).
    pub(crate) fn within(extents: u64, seed: u64) -> Self {
        Self { seed, span: extents * 1024, ..Self::default() }
    }

    /// Writes only to the first MiB: no more can differ by it, however long it takes.
    pub(crate) fn within_a_mib(seed: u64) -> Self {
        Self { seed, span: 256, ..Self::default() }
    }
}

fn lost(error: &ClientError) -> bool {
    assert!(matches!(error, ClientError::Io(_)), "not a lost connection: {error}");
    false
}

/// Runs `meanwhile` once `count` writes of an endless burst have been answered; `meanwhile` must
/// end the connection. The ledger knows afterwards what was acknowledged.
pub(crate) fn under_load(
    mut ledger: Ledger,
    mut client: Client,
    count: usize,
    meanwhile: impl FnOnce(),
) -> Ledger {
    let (answers, answered) = mpsc::channel();
    let writer = std::thread::spawn(move || {
        let whole = ledger.write(&mut client, &Burst::UntilLost(answers));
        assert!(!whole);
        ledger
    });
    for _ in 0..count {
        answered.recv_timeout(crate::wait::PATIENCE).expect("writes are answered");
    }
    meanwhile();
    writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
