//! `device detach` and `device status` of files of FUSE.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::attach::{FuseRecord, Guarded, Volume};

use super::super::orders::{GLANCE, no_server};
use super::super::{Trouble, system};
use super::file;

/// How long a guard may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A volume that is attached as a file.
#[derive(Clone, Debug)]
pub(crate) struct FuseListed {
    /// The volume.
    pub(crate) volume: Volume,
    /// Its guard.
    pub(crate) guard: Guarded,
    /// What its guard wrote down.
    pub(crate) record: FuseRecord,
}

impl FuseListed {
    /// For people.
    pub(crate) fn lines(&self) -> String {
        self.record.lines(system::now().as_secs(), self.guard)
    }

    /// Seconds without a server.
    pub(crate) fn lost_for(&self) -> Option<u64> {
        Some(system::now().as_secs().saturating_sub(self.record.lost_at?))
    }
}

/// Of the folder and the files of a volume.
pub(super) fn name(volume: &Volume) -> String {
    format!("fuse-{}-{}", volume.resource, volume.number)
}

fn record(run_dir: &Path, name: &str) -> Option<FuseRecord> {
    let text = fs::read_to_string(run_dir.join(format!("{name}.device"))).ok()?;
    serde_json::from_str(&text).ok()
}

/// What is attached as a file, by volume.
pub(crate) fn list(run_dir: &Path) -> Vec<FuseListed> {
    let of = |entry: fs::DirEntry| {
        let file = entry.file_name();
        let name =
            file.to_str()?.strip_suffix(".device").filter(|name| name.starts_with("fuse-"))?;
        let record = record(run_dir, name)?;
        let volume: Volume = record.volume.parse().ok()?;
        let guard = system::guard_of(run_dir, name);
        (self::name(&volume) == name).then_some(FuseListed { volume, guard, record })
    };
    let entries = fs::read_dir(run_dir).into_iter().flatten().flatten();
    let mut all: Vec<FuseListed> = entries.filter_map(of).collect();
    all.sort_by(|one, other| one.volume.cmp(&other.volume));
    all
}

/// Whether a loop device has this file.
fn has_file(device: &str, file: &Path) -> bool {
    let name = device.trim_start_matches("/dev/");
    let has = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file"));
    has.is_ok_and(|has| has.trim_end().trim_end_matches(" (deleted)") == file.to_string_lossy())
}

/// The loop devices over this file, also one that nobody has written down: who made it was killed meanwhile.
fn loops_over(file: &Path) -> Vec<String> {
    let all = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let names = all.filter_map(|entry| entry.file_name().into_string().ok());
    let over = names.filter(|name| name.starts_with("loop") && has_file(name, file));
    over.map(|name| format!("/dev/{name}")).collect()
}

fn let_go_of_loop(device: &str) -> Result<(), Trouble> {
    let output = Command::new("losetup").args(["-d", device]).output();
    let output = output.map_err(|error| Trouble::failed(format!("losetup: {error}")))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Trouble::failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// The guard of a volume that is attached as a file.
pub(in crate::io::attach) fn guard(run_dir: &Path, volume: &Volume) -> Guarded {
    system::guard_of(run_dir, &name(volume))
}

/// Lets go of what a killed guard has left, whether it came to write that down or not.
pub(super) fn clear_remains(run_dir: &Path, name: &str) -> Result<(), Trouble> {
    let folder = system::resolved(run_dir).join(name);
    let path = folder.join(file::NAME);
    for device in loops_over(&path) {
        let_go_of_loop(&device)?;
    }
    if let Some(device) = loops_over(&path).first() {
        return Err(Trouble::failed(format!(
            "{device} is still in use, over the file of a guard that has ended; its I/O fails: \
             unmount it first"
        )));
    }
    // Not mounted is as good.
    let _ = umount2(&folder, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(run_dir.join(format!("{name}.device")));
    Ok(())
}

/// Lets go of a device: flushed, and used by nobody, unless it is forced.
///
/// # Errors
/// It is in use, or cannot be flushed.
pub(crate) fn detach(run_dir: &Path, device: &FuseListed, is_forced: bool) -> Result<(), Trouble> {
    let FuseListed { volume, record, guard } = device;
    let name = name(volume);
    let folder = run_dir.join(&name);
    let guard = match *guard {
        Guarded::By(guard) => guard,
        Guarded::Nobody => return clear_remains(run_dir, &name),
        Guarded::Unknown => {
            return Err(Trouble::failed("its guard is not known: only root may detach it"));
        }
    };
    if is_forced {
        end_guard(run_dir, &name, guard)?;
        return clear_remains(run_dir, &name);
    }
    if let Some(seconds) = device.lost_for() {
        return Err(no_server(&record.file.display().to_string(), seconds));
    }
    let in_use = |what: &str| Trouble {
        text: format!("{what} is in use; --force fails its I/O from now on"),
        exit_code: 11,
    };
    let flushed = |what: &str, outcome: std::io::Result<()>| {
        outcome.map_err(|error| {
            Trouble::failed(format!(
                "{what}: what was written cannot be flushed: {error}; --force lets go of it all \
                 the same"
            ))
        })
    };
    if let Some(node) = record.loop_device.as_ref().filter(|one| has_file(one, &record.file)) {
        let mut options = fs::OpenOptions::new();
        options.read(true).custom_flags(libc::O_EXCL);
        // udev looks into a device for a moment when it has changed.
        let deadline = system::now() + GLANCE;
        let open = loop {
            match options.open(node) {
                Ok(open) => break open,
                Err(error) if error.raw_os_error() != Some(libc::EBUSY) => {
                    return Err(Trouble::failed(format!("{node}: {error}")));
                }
                Err(_) if system::now() > deadline => return Err(in_use(node)),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        flushed(node, open.sync_all())?;
        while !system::openers_of(node).is_empty() {
            if system::now() > deadline {
                return Err(in_use(node));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // The kernel lets go of it when the last one closes it: that is us.
        let_go_of_loop(node)?;
        drop(open);
    }
    let path = record.file.display().to_string();
    flushed(&path, fs::File::open(&record.file).and_then(|file| file.sync_all()))?;
    let deadline = system::now() + Duration::from_secs(2);
    while let Err(error) = umount2(&folder, MntFlags::empty()) {
        match error {
            // The loop device goes in the background.
            nix::errno::Errno::EBUSY if system::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            nix::errno::Errno::EBUSY => return Err(in_use(&path)),
            _ => return Err(Trouble::failed(format!("{}: {error}", folder.display()))),
        }
    }
    await_end(run_dir, &name)?;
    let _ = fs::remove_dir(&folder);
    Ok(())
}

/// With its process the file ends, and with it the I/O.
fn end_guard(run_dir: &Path, name: &str, guard: u32) -> Result<(), Trouble> {
    match i32::try_from(guard).ok().filter(|pid| *pid > 1) {
        Some(pid) if system::is_guard(run_dir, name, guard) => {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        // It has ended meanwhile, or that is another process.
        _ if system::guard_of(run_dir, name) != Guarded::By(guard) => {}
        _ => {
            let path = run_dir.join(format!("{name}.guard"));
            return Err(Trouble::failed(format!(
                "{path} is locked, and not by process {guard}, which it names: nothing is killed. \
                 `fuser {path}` says who has it: end that one, and detach again",
                path = path.display()
            )));
        }
    }
    await_end(run_dir, name)
}

fn await_end(run_dir: &Path, name: &str) -> Result<(), Trouble> {
    let deadline = system::now() + PATIENCE;
    while system::guard_of(run_dir, name) != Guarded::Nobody {
        if system::now() > deadline {
            return Err(Trouble::failed("its guard does not end"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
