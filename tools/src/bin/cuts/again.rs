//! A second power loss, in the midst of the recovery from the first.
//!
//! The daemons recover on logged disks over the images of the first loss; what was on the disks at
//! some instant of that is cut once more. What the first cut obliges to holds for both.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::common::{Outcome, done, folder, now};
use crate::image::build;
use crate::node::{Node, tails};
use crate::point::{Left, Point, draw_caches, the_end};
use crate::record::Stop;
use crate::rig::Rig;
use crate::sampler::{Cut, cuts, watch};
use tools::dmlog::Log;

/// The daemons may recover for so long, ms.
const RECOVERS: u64 = 160;

impl Point<'_> {
    /// Recovers from what the first loss has left until the power goes again; what is left then.
    pub(crate) fn again(&mut self, dir: &Path, mut left: Left) -> Outcome<Left> {
        let dir = folder(dir.join("again"))?;
        let before = |disk: &PathBuf| disk.with_extension("before");
        let mut rigs = Vec::new();
        for (index, (disk, size)) in left.disks.iter().zip(&left.sizes).enumerate() {
            done(Command::new("cp").arg("--sparse=always").arg(disk).arg(before(disk)))?;
            rigs.push(Rig::new(&dir.join(format!("{index}.rig")), disk, *size)?);
        }
        let devices: Vec<&Path> = rigs.iter().map(|rig| rig.device.as_path()).collect();
        let mut nodes = left.pair_on(&dir, &devices)?;
        let logs: Vec<&Path> = rigs.iter().map(|rig| rig.log.as_path()).collect();
        let folders = [nodes[0].dir.clone(), nodes[1].dir.clone()];
        let stop = AtomicBool::new(false);
        let (since, (seen, states)) = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| watch(&logs, &[&folders[0], &folders[1]], &stop));
            let end = Stop(&stop);
            let recovered = self.recover(&mut nodes);
            drop(end);
            let seen = watcher.join().expect("it does not panic")?;
            Ok::<_, String>((recovered?, seen))
        })
        .map_err(|error| format!("{error}\n{}", tails(&nodes)))?;
        the_end(&mut nodes)?;
        let logs = rigs.iter().map(Rig::logged).collect::<Outcome<Vec<Log>>>()?;
        drop(rigs);
        let cuts: Vec<Cut> = cuts(&seen, &logs, &left.sizes[..2])
            .into_iter()
            .filter(|cut| cut.when.from >= since)
            .collect();
        let tender: Vec<&Cut> = cuts.iter().filter(|cut| cut.tender).collect();
        let some =
            if tender.is_empty() || self.prng.one_in(2) { cuts.iter().collect() } else { tender };
        let Some(cut) = some.get(usize::try_from(self.prng.below(some.len() as u64)).unwrap_or(0))
        else {
            return Err("nothing was seen of the recovery".to_owned());
        };
        let caches = draw_caches(self.prng);
        for (index, log) in logs.iter().enumerate() {
            let (disk, size) = (&left.disks[index], left.sizes[index]);
            let over = Some(before(disk));
            let entries = (log, cut.entries[index]);
            build(disk, (size, over.as_deref()), entries, caches[index % 2], self.prng)?;
        }
        for node in 0..2 {
            // Where nothing has changed, it is what was there before.
            if let Some(state) = &states[node][cut.states[node]] {
                left.states[node] = Some(state.clone());
            }
        }
        Ok(left)
    }

    /// Starts both, lets one be promoted alone sometimes, and kills both after a while. From then on
    /// the power may have gone.
    fn recover(&mut self, nodes: &mut [Node; 2]) -> Outcome<u64> {
        let first = usize::from(self.prng.one_in(2));
        let mut since = now();
        nodes[first].start_up()?;
        if self.prng.one_in(3) {
            self.alone(&nodes[first])?;
            since = now();
        }
        nodes[1 - first].start_up()?;
        std::thread::sleep(Duration::from_millis(self.prng.below(RECOVERS)));
        nodes.iter_mut().for_each(Node::kill);
        Ok(since)
    }
}
