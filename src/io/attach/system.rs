//! What the system says of its NBD devices, and what guards have written down of theirs.
//!
//! Invariants:
//! - Whether a device is ours is read from the kernel (`/sys/block/nbdN/backend`), never from a
//!   file of ours alone.
//! - What is locked is its owner's alone: whoever may read it could lock it.
//! - One guard a device: it holds a lock on `DIR/nbdN.guard`, which ends with its process.
//! - One attach of a volume at a time: it holds a lock on `DIR/RES-VOL.attach` until the device is
//!   remembered. There stands the token before the kernel gets it, so that a device whose guard was killed
//!   right after the attach is taken over too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::time::{ClockId, clock_gettime};

use crate::attach::{AFTER_LET_GO, Backend, Guarded, Record, Volume, discard_max};

use super::Trouble;

/// What an attribute of a device holds, if it is there.
fn attribute(index: u32, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/sys/block/nbd{index}/{name}")).ok()?;
    Some(text.trim_end_matches('\n').to_owned())
}

/// The identifier that the kernel keeps with a device, if it is attached with one.
pub(super) fn backend(index: u32) -> Option<String> {
    attribute(index, "backend")
}

/// Whether no request of a device is under way, or one has ended while it was looked at. Takes 0.2 s at most.
pub(super) fn is_answered(index: u32) -> bool {
    let rests = || {
        let under_way = attribute(index, "inflight");
        under_way.is_none_or(|text| text.split_whitespace().all(|count| count == "0"))
    };
    // Reads, writes, discards and flushes that have ended (Documentation/block/stat.rst).
    let ended = || {
        let text = attribute(index, "stat").unwrap_or_default();
        let fields: Vec<&str> = text.split_whitespace().collect();
        [0, 4, 11, 15].map(|field| fields.get(field).map(|count| (*count).to_owned()))
    };
    let before = ended();
    for _ in 0..20 {
        if rests() || ended() != before {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// How long a request of a device may take.
pub(super) fn timeout(index: u32) -> Option<Duration> {
    let millis = attribute(index, "queue/io_timeout")?.parse().ok()?;
    Some(Duration::from_millis(millis))
}

/// Limits how much one discard of a device may ask for: the driver itself does not, at the attach and with each
/// new size. Newer kernels wait with that for the requests under way, so a thread does it, and only while
/// they are answered. `None`: it is to be tried again.
///
/// # Errors
/// A sentence: why it is not done, and what that may lead to.
pub(super) fn limit_discards(index: u32) -> Option<Result<(), String>> {
    let number = |name: &str| attribute(index, name)?.parse::<u64>().ok();
    let max = discard_max(
        timeout(index).unwrap_or_default(),
        number("queue/discard_granularity").unwrap_or_default(),
    );
    let path = |name: &str| format!("/sys/block/nbd{index}/queue/{name}");
    let is_wanted = |name: &&str| {
        let file = fs::metadata(path(name));
        let is_writable = file.is_ok_and(|file| file.permissions().mode() & 0o200 != 0);
        // 0: it does none at all.
        is_writable && number(&format!("queue/{name}")).is_some_and(|has| has > max)
    };
    let names = ["discard_max_bytes", "write_zeroes_max_bytes"];
    let wanted: Vec<String> =
        names.iter().filter(|name| is_wanted(name)).map(|name| path(name)).collect();
    if wanted.is_empty() {
        return Some(Ok(()));
    }
    if !is_answered(index) {
        return None;
    }
    let (told, heard) = channel();
    let thread = std::thread::Builder::new().name("limit".to_owned());
    let started = thread.spawn(move || {
        let set = |path: &String| {
            fs::write(path, max.to_string()).map_err(|error| {
                format!(
                    "{path}: {error}: a discard of a disk that zeroes slowly may take longer than a \
                     request may; write {max} there"
                )
            })
        };
        // Where nobody hears it, it is looked at again.
        let _ = told.send(wanted.iter().try_for_each(set));
    });
    match started {
        Ok(_) => heard.recv_timeout(Duration::from_millis(200)).ok(),
        Err(error) => Some(Err(format!("a thread that limits its discards: {error}"))),
    }
}

/// Who has attached a device: for a sentence. `None`: nobody.
pub(super) fn holder(index: u32) -> Option<String> {
    let pid = attribute(index, "pid")?;
    Some(match backend(index).filter(|backend| !backend.is_empty()) {
        Some(backend) => format!("'{backend}'"),
        None => match fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(name) => format!("{} (process {pid})", name.trim_end()),
            Err(_) => format!("a process that has ended ({pid})"),
        },
    })
}

/// The devices that are attached under an identifier of ours, by number.
pub(super) fn attached() -> Vec<(u32, Backend)> {
    let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
    let index =
        |entry: fs::DirEntry| entry.file_name().to_str()?.strip_prefix("nbd")?.parse::<u32>().ok();
    let mut found: Vec<(u32, Backend)> = entries
        .flatten()
        .filter_map(index)
        .filter_map(|index| Some((index, backend(index)?.parse().ok()?)))
        .collect();
    found.sort_by_key(|(index, _)| *index);
    found
}

/// Where a device is mounted or otherwise in use: for a sentence.
pub(super) fn users(index: u32) -> String {
    let device = format!("/dev/nbd{index}");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let of_device = |line: &&str| {
        line.split(' ').next().is_some_and(|one| {
            one.strip_prefix(&device).is_some_and(|rest| rest.is_empty() || rest.starts_with('p'))
        })
    };
    let mut users: Vec<String> = mounts
        .lines()
        .filter(of_device)
        .filter_map(|line| Some(format!("mounted on {}", line.split(' ').nth(1)?)))
        .collect();
    let holders = fs::read_dir(format!("/sys/block/nbd{index}/holders")).into_iter().flatten();
    users.extend(
        holders
            .flatten()
            .filter_map(|entry| Some(format!("part of {}", entry.file_name().to_str()?))),
    );
    users.extend(openers(index));
    match users.is_empty() {
        true => "in use".to_owned(),
        false => users.join(", "),
    }
}

/// Other processes that have a device open: for a sentence. The kernel refuses only those that share it
/// with nobody, such as a mount.
pub(super) fn openers(index: u32) -> Vec<String> {
    openers_of(&format!("/dev/nbd{index}"))
}

/// Other processes that have a device or a partition of it open: for a sentence.
pub(super) fn openers_of(device: &str) -> Vec<String> {
    let own = std::process::id();
    let has_it = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse::<u32>().ok().filter(|pid| *pid != own)?;
        let mut files = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
        let open = |file: fs::DirEntry| {
            let path = fs::read_link(file.path()).unwrap_or_default();
            path.to_str()
                .and_then(|path| path.strip_prefix(device))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('p'))
        };
        files.any(open).then(|| {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            format!("open in {} (process {pid})", name.trim_end())
        })
    };
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(has_it).collect()
}

/// Bytes of a block device (`/dev/loop0`), as the kernel has them.
pub(super) fn bytes_of(device: &str) -> Option<u64> {
    let name = device.trim_start_matches("/dev/");
    let sectors = fs::read_to_string(format!("/sys/block/{name}/size")).ok()?;
    sectors.trim().parse::<u64>().ok()?.checked_mul(512)
}

/// A name that nobody else has used.
pub(super) fn token() -> io::Result<u64> {
    let mut bytes = [0; 8];
    io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

/// A folder as the kernel names it; as it is given where it is not there.
pub(crate) fn resolved(folder: &Path) -> PathBuf {
    folder.canonicalize().unwrap_or_else(|_| folder.to_owned())
}

/// The time since this system has started, sleep included.
pub(super) fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

fn record_path(run_dir: &Path, index: u32) -> PathBuf {
    run_dir.join(format!("nbd{index}.device"))
}

/// What a guard has written down of a device.
pub(super) fn record(run_dir: &Path, index: u32) -> Option<Record> {
    let text = fs::read_to_string(record_path(run_dir, index)).ok()?;
    serde_json::from_str(&text).ok()
}

/// Writes it down; a reader sees the old one or the new one.
pub(super) fn write_record(run_dir: &Path, record: &Record) -> io::Result<()> {
    let path = record_path(run_dir, record.index);
    let new = path.with_extension("device.new");
    fs::write(&new, serde_json::to_vec(record).map_err(io::Error::other)?)?;
    fs::rename(new, path)
}

/// What is remembered of a device that is attached under this identifier: by its number, or by its
/// volume where its guard did not come so far.
pub(super) fn record_of(run_dir: &Path, index: u32, backend: &Backend) -> Option<Record> {
    let is_of_it = |record: &Record| record.backend == backend.to_string();
    record(run_dir, index).filter(is_of_it).or_else(|| {
        let text = fs::read_to_string(attach_path(run_dir, &backend.volume)).ok()?;
        let record = serde_json::from_str::<Record>(&text).ok().filter(is_of_it)?;
        Some(Record { index, ..record })
    })
}

fn attach_path(run_dir: &Path, volume: &Volume) -> PathBuf {
    run_dir.join(format!("{}-{}.attach", volume.resource, volume.number))
}

/// An attach of a volume that is under way, for as long as the value lives.
pub(super) struct Attaching(Flock<File>);

impl Attaching {
    /// Begins one. One that is under way gets so long: what it attaches is found afterwards.
    ///
    /// # Errors
    /// It takes longer, or the folder cannot be written.
    pub(super) fn begin(
        run_dir: &Path,
        volume: &Volume,
        patience: Duration,
    ) -> Result<Self, Trouble> {
        let path = attach_path(run_dir, volume);
        match lock(run_dir, &path, patience)? {
            Some(lock) => Ok(Self(lock)),
            None => Err(Trouble::failed("another attach of it is under way")),
        }
    }

    /// Writes down what the kernel is about to be told; of the number only the guard knows.
    ///
    /// # Errors
    /// Then there shall be no device.
    pub(super) fn remember(&mut self, record: &Record) -> io::Result<()> {
        let text = serde_json::to_vec(record).map_err(io::Error::other)?;
        self.0.set_len(0)?;
        io::Seek::rewind(&mut *self.0)?;
        self.0.write_all(&text)
    }
}

fn mark_path(run_dir: &Path, index: u32) -> PathBuf {
    run_dir.join(format!("nbd{index}.detached"))
}

/// Writes down that a device is let go of: the kernel may keep it until it is closed, and no guard gives it
/// a server from now on.
pub(super) fn mark_detached(run_dir: &Path, index: u32, backend: &str) -> io::Result<()> {
    fs::write(mark_path(run_dir, index), backend)
}

/// It was not let go of, or has gone.
pub(super) fn unmark_detached(run_dir: &Path, index: u32) {
    let _ = fs::remove_file(mark_path(run_dir, index));
}

/// Whether a device that is still attached under this identifier was let go of.
pub(super) fn is_detached(run_dir: &Path, index: u32, backend: &str) -> bool {
    fs::read_to_string(mark_path(run_dir, index)).is_ok_and(|marked| marked == backend)
}

/// Why a device that was let go of is not attached: for a sentence.
pub(super) fn still_in_use(index: u32) -> String {
    format!(
        "/dev/nbd{index} was detached by force and is still {}: its I/O fails until it is closed, and \
         only then it can be attached again",
        users(index)
    )
}

/// Why a device that its guard has let go of is not attached: for a sentence.
pub(super) fn has_failed(index: u32, why: &str) -> String {
    format!("/dev/nbd{index} was let go of, and its I/O fails: {why}; {AFTER_LET_GO}")
}

/// The device is detached.
pub(super) fn remove_record(run_dir: &Path, index: u32) {
    let _ = fs::remove_file(record_path(run_dir, index));
}

fn guard_path(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(format!("{name}.guard"))
}

/// Becomes the guard of a device, for as long as the value lives. One that is about to end gets
/// five seconds.
///
/// # Errors
/// It has another guard.
pub(super) fn become_guard(run_dir: &Path, index: u32) -> Result<Flock<File>, Trouble> {
    lock_guard(run_dir, &format!("nbd{index}"), &format!("/dev/nbd{index}"))
}

/// The same by the name of the device's files; `what` it is for people.
pub(super) fn lock_guard(run_dir: &Path, name: &str, what: &str) -> Result<Flock<File>, Trouble> {
    let path = guard_path(run_dir, name);
    let cannot = |error: io::Error| Trouble::failed(format!("{}: {error}", path.display()));
    let Some(mut lock) = lock(run_dir, &path, Duration::from_secs(5))? else {
        return Err(Trouble::failed(format!("{what} has another guard")));
    };
    lock.set_len(0).map_err(cannot)?;
    lock.write_all(std::process::id().to_string().as_bytes()).map_err(cannot)?;
    Ok(lock)
}

/// The lock on a file that is made for it. `None`: another one has it, for longer than that.
fn lock(run_dir: &Path, path: &Path, patience: Duration) -> Result<Option<Flock<File>>, Trouble> {
    let cannot = |error: io::Error| Trouble::failed(format!("{}: {error}", path.display()));
    fs::create_dir_all(run_dir).map_err(cannot)?;
    let mut file = open_for_owner(path).map_err(cannot)?;
    let deadline = now() + patience;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((back, _)) if now() < deadline => file = back,
            Err(_) => return Ok(None),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A file that is locked, made where it is not there: nobody else may read it, and so lock it.
///
/// # Errors
/// It cannot be opened.
pub(crate) fn open_for_owner(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file =
        options.create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
    // Of an older version. Of another owner that is not to be changed, and works as before.
    let _ = file.set_permissions(fs::Permissions::from_mode(0o600));
    Ok(file)
}

/// Who guards a device.
pub(super) fn guard(run_dir: &Path, index: u32) -> Guarded {
    guard_of(run_dir, &format!("nbd{index}"))
}

/// The same by the name of the device's files.
pub(super) fn guard_of(run_dir: &Path, name: &str) -> Guarded {
    let path = guard_path(run_dir, name);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Guarded::Unknown,
        Err(_) => return Guarded::Nobody,
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Guarded::Nobody,
        Err(_) => match fs::read_to_string(path) {
            Ok(text) => Guarded::By(text.trim().parse().unwrap_or(0)),
            Err(_) => Guarded::Nobody,
        },
    }
}

/// Whether a process is the guard that the device's files name: it has the locked file open. Its number may be
/// another one's by now.
pub(super) fn is_guard(run_dir: &Path, name: &str, pid: u32) -> bool {
    let Ok(lock) = fs::metadata(guard_path(run_dir, name)) else { return false };
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let is_lock = |file: fs::Metadata| (file.dev(), file.ino()) == (lock.dev(), lock.ino());
    open.flat_map(|entry| fs::metadata(entry.path())).any(is_lock)
}

/// The device of a volume, if it is attached.
pub(super) fn device_of(volume: &Volume) -> Option<(u32, Backend)> {
    attached().into_iter().find(|(_, backend)| backend.volume == *volume)
}
