//! Mutants of the resync: what its pieces may pass, its holes, what a crash of a side costs.

use super::list::{By, Mutant};

const ROUNDS: By = By::Tests(&["--lib", "resource::tests::rounds"]);

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "hole-let-go-of-early",
        breaks: "order: the source lets writes into a hole before the target has made it",
        by: By::Tests(&["--lib", "resource::tests::disks"]),
        file: "src/resource/sync/holes.rs",
        old: "        if length == 0 {\n            let source",
        new: "        if length == 0 || found > 0 {\n            let source",
    },
    Mutant {
        name: "resync-piece-passed",
        breaks: "order: a write passes a piece that a source without a disk has sent",
        by: By::Tests(&["--lib", "resource::tests::stuck_disk"]),
        file: "src/resource/data/peer_io.rs",
        old: "        write.started = !peer.target_writes.values().any(overlaps);\n",
        new: "        write.started = !peer.target_writes.values().any(overlaps) || true;\n",
    },
    Mutant {
        name: "source-bits-unsaved",
        breaks: "resync: a crash of its source copies everything again",
        by: By::Tests(&["--lib", "resource::tests::ends"]),
        file: "src/resource/sync/resync_source.rs",
        old: "        if save {\n            self.save_bitmap",
        new: "        if save && false {\n            self.save_bitmap",
    },
    Mutant {
        name: "target-bits-unsaved",
        breaks: "resync: a crash of its target copies everything again",
        by: By::Tests(&["--lib", "resource::tests::ends"]),
        file: "src/resource/sync/resync_target.rs",
        old: "        if save {\n            self.save_bitmap",
        new: "        if save && false {\n            self.save_bitmap",
    },
    Mutant {
        name: "large-piece-behind-hole",
        breaks: "resync: a block behind a hole takes the room of a large piece",
        by: By::Tests(&["--lib", "resource::tests::disks"]),
        file: "src/resource/sync/holes.rs",
        old: "        self.step.unwrap_or(PIECE_BLOCKS)\n",
        new: "        self.step.unwrap_or(0).max(PIECE_BLOCKS)\n",
    },
    Mutant {
        name: "end-unsaid-forgotten",
        breaks: "resync: a target that has stored its end takes itself for one in the middle",
        by: By::Tests(&["--lib", "resource::tests::ends"]),
        file: "src/resource/disk/storage.rs",
        old: "            Then::EndSaved { .. } => self.target_end_saved_alone(volume),\n",
        new: "            Then::EndSaved { .. } => {}\n",
    },
    Mutant {
        name: "target-not-outdated",
        breaks: "fencing: who was to be the target and lost its source passes for the newest",
        by: By::Tests(&["--lib", "resource::tests::handlers"]),
        file: "src/resource/peer/handshake.rs",
        old: "            self.note_newer_peer(volume, &info);\n",
        new: "",
    },
    Mutant {
        name: "save-goes-on-over-clear",
        breaks: "bits: a save of a slot that was declared clear takes later bits along, and they count as saved",
        by: ROUNDS,
        file: "src/resource/disk/storage.rs",
        old: "            saving.pages.truncate(saving.begun);\n",
        new: "",
    },
    Mutant {
        name: "round-unchecked",
        breaks: "promise 4: a flush of an earlier resync clears bits of the next one",
        by: ROUNDS,
        file: "src/resource/sync/resync_target.rs",
        old: "        let Some(target) = target.filter(|target| target.round == round) else { return };",
        new: "        let Some(target) = target.filter(|target| target.round >= round) else { return };",
    },
    Mutant {
        name: "failed-write-in-resync-unsaid",
        breaks: "resync: a write that failed on the source alone is not copied, or copied no more",
        by: ROUNDS,
        file: "src/resource/data/write.rs",
        old: "        if copies && !peer.differing.contains(&(first, count)) {",
        new: "        if copies && !news && !peer.differing.contains(&(first, count)) {",
    },
    Mutant {
        name: "dropped-begun-unsaid",
        breaks: "bits: a write that was begun, held and dropped is on one disk, and no bit says so",
        by: ROUNDS,
        file: "src/resource/data/request.rs",
        old: "                if request.begun {",
        new: "                if request.begun && request.fua {",
    },
];
