//! Which version of the programs a node runs. With two of them it is drawn whenever its daemon starts or is
//! about to be replaced, so that each meets the other one as its peer, as its successor, and on its disk.
//!
//! Invariants:
//! - A node's programs are links in a folder of its own, replaced in one step each: the daemon's last, so
//!   that one which starts there finds its administrator's tool.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tandem::sim::Prng;

use crate::Arguments;
use crate::node::Node;

/// The programs of a node.
const PROGRAMS: [&str; 2] = ["tandemadm", "tandemd"];

/// The versions that there are, and which one each node runs.
pub(crate) struct Versions {
    folders: Vec<PathBuf>,
    chance: Prng,
    chosen: [usize; 2],
}

impl Versions {
    /// Those that the command line names.
    ///
    /// # Errors
    /// There are no such programs.
    pub(crate) fn new(arguments: &Arguments, seed: u64) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let beside = own.parent().map(Path::to_owned).unwrap_or_default();
        let given = arguments.programs.clone().unwrap_or(beside);
        let mut folders = Vec::new();
        for folder in [Some(given), arguments.other_programs.clone()].into_iter().flatten() {
            let folder = std::path::absolute(folder).map_err(|error| error.to_string())?;
            if let Some(missing) = PROGRAMS.iter().find(|name| !folder.join(name).exists()) {
                return Err(format!("there is no {missing} in {}", folder.display()));
            }
            folders.push(folder);
        }
        Ok(Self { folders, chance: Prng::new(seed, 3), chosen: [0; 2] })
    }

    /// There is more than one.
    pub(crate) fn are_two(&self) -> bool {
        self.folders.len() > 1
    }

    /// Puts one of them where the node's programs are. Says whether the other node runs another one.
    ///
    /// # Errors
    /// The links cannot be made.
    pub(crate) fn choose(&mut self, node: &Node) -> io::Result<bool> {
        let which = self.chance.index(self.folders.len());
        std::fs::create_dir_all(&node.programs)?;
        for program in PROGRAMS {
            let new = node.programs.join(format!("{program}.new"));
            symlink(self.folders[which].join(program), &new)?;
            std::fs::rename(&new, node.programs.join(program))?;
        }
        self.chosen[node.index] = which;
        Ok(which != self.chosen[1 - node.index])
    }
}
