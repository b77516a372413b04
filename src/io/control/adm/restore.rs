//! `wipe-md` and `restore-md`: metadata to nothing, and back from the text of `dump-md`.

use std::io::Read as _;
use std::path::Path;

use crate::control::target::Target;
use crate::io::backing::{self, CreateError, Identity, RestoreOptions, Restored};
use crate::meta::{Dumped, parse_dump};

use super::metadata::{Chosen, LOCK_WAIT, chosen, no_state_dir, not_done, wall_clock};
use super::{Failure, Outcome, Session, complain, for_each, print, terminal};

/// A dump is not longer; a bitmap of a million runs has some 20 MB.
const DUMP_MAX: u64 = 1 << 30;

impl Session {
    fn restore_options(&self, seed: bool) -> Result<RestoreOptions, Failure> {
        let state_dir = self.globals.state_dir();
        std::fs::create_dir_all(&state_dir).map_err(|error| no_state_dir(&state_dir, &error))?;
        let failed =
            |what: &str, error: std::io::Error| Failure::new(10, format!("{what}: {error}"));
        let random = || super::super::registry::seed();
        let seed = match seed {
            true => Some(random().map_err(|error| failed("random numbers", error))?),
            false => None,
        };
        Ok(RestoreOptions {
            force: false,
            seed,
            wall_clock: wall_clock(),
            boot_id: backing::host_boot_id().map_err(|error| failed("boot id", error))?,
            state_dir,
            lock_wait: LOCK_WAIT,
        })
    }

    pub(super) fn wipe_md(&self, targets: &[Target], force: bool) -> Outcome {
        let configuration = self.configuration()?;
        let options = self.restore_options(false)?;
        configuration.for_each(targets, |target, definition, own| {
            for_each(chosen(target, definition, own)?, |disk| {
                let who = Identity {
                    resource: definition.name.clone(),
                    node_id: own.node_id,
                    volume: disk.volume,
                };
                let wipe = |options: &RestoreOptions| {
                    backing::wipe_md(disk.disk, &disk.meta_disk, &who, options)
                };
                let asked = Asked { force: force || terminal::is_person(), order: "wipe-md" };
                tell(&disk, asked.run(&disk, &own.name, &options, wipe)?);
                print("Wiping meta data...\n")
            })
        })
    }

    pub(super) fn restore_md(
        &self,
        target: &Target,
        file: &Path,
        seed: bool,
        force: bool,
    ) -> Outcome {
        let configuration = self.configuration()?;
        let options = self.restore_options(seed)?;
        let dumped = read_dump(file)?;
        let targets = std::slice::from_ref(target);
        configuration.for_each(targets, |target, definition, own| {
            let mut disks = chosen(target, definition, own)?;
            if target.volume().is_none() && disks.len() > 1 {
                // The dump says which volume it is of.
                disks.retain(|disk| disk.volume == dumped.superblock.volume);
            }
            for_each(disks, |disk| {
                let who = Identity {
                    resource: definition.name.clone(),
                    node_id: own.node_id,
                    volume: disk.volume,
                };
                let restore = |options: &RestoreOptions| {
                    let dumped = dumped.clone();
                    backing::restore_md(disk.disk, &disk.meta_disk, &who, dumped, options)
                };
                let asked = Asked { force, order: "restore-md" };
                tell(&disk, asked.run(&disk, &own.name, &options, restore)?);
                print("New drbd meta data block successfully created.\n")
            })
        })
    }
}

/// An order that is tried without force first: so a person is asked only where something is
/// overwritten.
struct Asked {
    force: bool,
    order: &'static str,
}

impl Asked {
    fn run(
        &self,
        disk: &Chosen<'_>,
        node: &str,
        options: &RestoreOptions,
        act: impl Fn(&RestoreOptions) -> Result<Restored, CreateError>,
    ) -> Result<Restored, Failure> {
        let done = act(options);
        let found = match &done {
            Err(error @ CreateError::Found { .. }) => error.to_string(),
            // A seed on a blank disk.
            Err(error @ CreateError::Dump(_)) if options.seed.is_some() => error.to_string(),
            _ => return done.map_err(|error| not_done(disk, &error)),
        };
        if !self.force {
            return done.map_err(|error| not_done(disk, &error));
        }
        let what = format!("{found}\n{} makes {} forget it.", self.order, disk.disk.display());
        terminal::confirm(&what, "the node whose disk this is", node)?;
        let forced = RestoreOptions { force: true, ..options.clone() };
        act(&forced).map_err(|error| not_done(disk, &error))
    }
}

fn tell(disk: &Chosen<'_>, done: Restored) {
    if let Some(saved) = &done.saved {
        complain(&format!("{}: the old metadata is saved in {}", disk.name, saved.display()));
    }
    for warning in &done.warnings {
        complain(&format!("{}: warning: {warning}", disk.name));
    }
}

fn read_dump(file: &Path) -> Result<Dumped, Failure> {
    let failed = |what: String| Failure::new(10, format!("{}: {what}", file.display()));
    let mut text = String::new();
    let read = match file == Path::new("-") {
        true => std::io::stdin().lock().take(DUMP_MAX + 1).read_to_string(&mut text),
        false => std::fs::File::open(file)
            .and_then(|file| file.take(DUMP_MAX + 1).read_to_string(&mut text)),
    };
    read.map_err(|error| failed(error.to_string()))?;
    if text.len() as u64 > DUMP_MAX {
        return Err(failed(format!("longer than {DUMP_MAX} bytes: no dump of metadata")));
    }
    parse_dump(&text).map_err(|error| {
        failed(format!("no dump of metadata that can be taken: {error}. Nothing was written."))
    })
}
