//! Attaching: open, lock, flush, repair, load; and what is known of the time before.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, StatxFlags, statx};

use super::device::{Access, Device};
use super::error::{OpenError, Part, disk_error};
use super::grow::{self, Called, Home};
use super::lock::Held;
use super::record::{self, Ends};
use super::trust::{Subject, Trust};
use super::{Identity, MetaDisk};
use crate::meta::{
    DeviceFlags, Geometry, Left, LoadedMeta, Located, MetaError, MetaOp, Placement, SuperblockRead,
    load, locate, read_superblock, repair, stages, zeroed, zeroed_end,
};
use crate::meta::{Stage, Superblock};
use crate::resource::{AttachedDisk, DiskError, Refusal};

/// Bytes at either end of the data area that the clean digest is of.
const DIGEST_SPAN: u64 = 1 << 20;

/// How to open.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Where the last size of the disk stands; `None`: it is neither asked nor stored.
    pub state_dir: Option<PathBuf>,
    /// Where it stands whether the disk is trusted; `None`: it is not.
    pub run_dir: Option<PathBuf>,
    /// How long a lock that is taken is tried again. A killed process's ring lets go late.
    pub lock_wait: Duration,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { state_dir: None, run_dir: None, lock_wait: Duration::from_secs(5) }
    }
}

/// A disk that is open and locked, and whose metadata was read. Dropping it closes it and gives the
/// locks back.
#[derive(Debug)]
pub struct OpenDisk {
    /// The data area, and the metadata unless it is external.
    pub data: File,
    /// External metadata.
    pub meta: Option<File>,
    /// Where everything is.
    pub(crate) geometry: Cell<Geometry>,
    /// RWF_DSYNC makes a write durable. Otherwise: write, then a data sync.
    pub dsync: bool,
    /// O_DIRECT is on: memory, offset and length in multiples of the logical block.
    pub direct: bool,
    /// Blocks are kept on trim and zeroes.
    pub preallocated: bool,
    /// Its file system can be asked for holes: as found when it was opened, for the answer may come over
    /// a network.
    pub(crate) knows_holes: bool,
    /// What the core is told. Its notes are for the log.
    pub attached: AttachedDisk,
    /// The boot id of the system that has had it last.
    pub left_by: [u8; 16],
    /// The note that it is attached and well.
    trust: Option<Trust>,
    /// What that is about, until it is given: of a disk that has come without one it is when its first superblock
    /// is durable, and whoever has to know of a loss was told.
    ungiven: RefCell<Option<Subject>>,
    /// The superblock that is on the disk says that it stands in for a Primary.
    stands_in: Cell<bool>,
    /// Given back when this is dropped.
    #[allow(dead_code)]
    locks: Vec<Held>,
    /// For the room that it gains: the same open files.
    same: Arc<Disks>,
    home: Home,
}

/// A disk that takes the room that it has gained, on a thread of its own.
#[derive(Debug)]
pub(crate) struct Growing {
    disks: Arc<Disks>,
    home: Home,
    geometry: Geometry,
}

impl Growing {
    /// Takes it, and lets go of the disk. Blocks.
    pub(crate) fn run(self) -> Result<Result<Geometry, Refusal>, DiskError> {
        grow::take_room(&self.disks, &self.home, &self.geometry)
    }
}

impl OpenDisk {
    /// The file that the metadata is on.
    #[must_use]
    pub fn meta_file(&self) -> &File {
        self.meta.as_ref().unwrap_or(&self.data)
    }

    /// An operation on the disk has failed, or hangs: what it has acknowledged may be lost, whatever it
    /// says next.
    pub fn distrust(&self) {
        self.ungiven.take();
        if self.trust.as_ref().is_some_and(|trust| !trust.withdraw()) {
            let path = &self.attached.path;
            tracing::error!("{path}: the note in the run folder that trusts it cannot be removed");
        }
    }

    /// This superblock is durable on it.
    pub(crate) fn superblock_is_durable(&self, flags: u32, sequence: u64) {
        if let (Some(subject), Some(trust)) = (self.ungiven.take(), &self.trust)
            && let Err(error) = trust.give(subject.at(sequence))
        {
            tracing::warn!("{}: {}", self.attached.path, not_noted(&error));
        }
        // Also by the first one that says it no more: an image from before that is an older one.
        let stands_in = flags & DeviceFlags::STANDS_IN != 0;
        let follows = self.stands_in.replace(stands_in) || stands_in;
        let trust = self.trust.as_ref().filter(|_| follows);
        if trust.is_some_and(|trust| !trust.follow(sequence)) {
            self.distrust();
        }
    }

    /// Where everything is.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry.get()
    }

    /// A file of it was made shorter since it was attached: whoever writes behind its end makes a hole of what was
    /// there, which reads as zeroes. No write makes a block device longer.
    ///
    /// The answer is what this system knows. Whoever asks is the data thread, and a server (NFS) or a process
    /// (FUSE) that hangs would keep it from seeing that the disk hangs. What this host cuts is known at
    /// once. What somebody else cuts on the server may be seen late, or, when a write behind the new
    /// end comes first, never: nobody may touch the file of a disk that is attached.
    #[must_use]
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut_by(AtFlags::STATX_DONT_SYNC)
    }

    fn is_cut_by(&self, ask: AtFlags) -> bool {
        let geometry = self.geometry.get();
        let cut = |file: &File, end: u64| {
            let is_file = |mode: u16| u32::from(mode) & libc::S_IFMT == libc::S_IFREG;
            // Nothing else: for its times a file on NFS is written out first.
            let wanted = StatxFlags::TYPE | StatxFlags::SIZE;
            statx(file, c"", ask | AtFlags::EMPTY_PATH, wanted)
                .is_ok_and(|stat| is_file(stat.stx_mode) && stat.stx_size < end)
        };
        match &self.meta {
            None => cut(&self.data, grow::end_of(&geometry)),
            Some(meta) => cut(&self.data, geometry.data_size) || cut(meta, grow::end_of(&geometry)),
        }
    }

    /// Where it is noted, and by which name.
    pub(crate) fn home(&self) -> Home {
        self.home.clone()
    }

    /// What takes the room that the disk has gained. Nobody writes its metadata meanwhile.
    pub(crate) fn growing(&self) -> Growing {
        Growing {
            disks: Arc::clone(&self.same),
            home: self.home.clone(),
            geometry: self.geometry.get(),
        }
    }

    /// Runs the stages, each durable before the next one starts. Blocks.
    ///
    /// # Errors
    /// A write or a sync failed: the disk has failed, nothing may be tried again.
    pub fn write_stages(&self, stages: &[Stage]) -> Result<(), DiskError> {
        write_stages(self.meta_file(), stages).map_err(|error| disk_error(&error))
    }

    /// Ends in order: flushes, notes size and digest of the data area, makes the superblock durable
    /// in both copies, closes and gives the locks back. Nothing may be under way on the disk.
    ///
    /// # Errors
    /// Reading, writing or flushing failed; the disk is closed all the same, and is not clean.
    pub fn close_clean(self, mut superblock: Superblock) -> Result<(), DiskError> {
        self.distrust();
        let geometry = self.geometry.get();
        let mut unread = None;
        let ended = (|| {
            // Whoever closes it may wait.
            if self.is_cut_by(AtFlags::STATX_SYNC_AS_STAT) {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            self.data.sync_data()?;
            if superblock.flags & DeviceFlags::CLEAN == 0 {
                superblock.clean_size = 0;
                superblock.clean_digest = 0;
            } else {
                superblock.clean_size = geometry.data_size;
                superblock.clean_digest =
                    digest(&self.data, geometry.data_size).or_else(|error| {
                        // What the superblock says besides has to be said all the same.
                        unread = Some(error);
                        superblock.flags &= !DeviceFlags::CLEAN;
                        superblock.clean_size = 0;
                        Ok::<_, io::Error>(0)
                    })?;
            }
            let op = MetaOp::Superblock(Box::new(superblock));
            write_stages(self.meta_file(), &stages(&geometry, &op))
        })();
        drop(self);
        ended.and(unread.map_or(Ok(()), Err)).map_err(|error: io::Error| disk_error(&error))
    }

    /// Closes at once.
    pub fn close(self) {
        self.distrust();
        drop(self);
    }
}

fn write_stages(file: &File, stages: &[Stage]) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    for stage in stages {
        for (offset, bytes) in &stage.writes {
            file.write_all_at(bytes, *offset)?;
        }
        file.sync_data()?;
    }
    Ok(())
}

/// CRC-32 of the first and the last MiB of the data area (both of all of it, if it is smaller).
fn digest(data: &File, data_size: u64) -> io::Result<u32> {
    let span = DIGEST_SPAN.min(data_size);
    let mut hasher = crc32fast::Hasher::new();
    for offset in [0, data_size - span] {
        let length = usize::try_from(span).map_err(io::Error::other)?;
        hasher.update(&super::device::read_aligned(data, offset, length)?);
    }
    Ok(hasher.finalize())
}

/// Opens the disk of `who` for good: locks it, flushes it, makes both copies of the superblock
/// equal and durable, and reads the metadata. `boot_id`: of this host, see
/// [`super::host_boot_id`]. Blocks.
///
/// # Errors
/// See [`OpenError`]. Nothing was written then, but perhaps the repair of a superblock copy.
pub fn open_disk(
    path: &Path,
    meta_disk: &MetaDisk,
    who: &Identity,
    boot_id: [u8; 16],
    options: &OpenOptions,
) -> Result<OpenDisk, OpenError> {
    let disks = Disks::open(path, meta_disk, Access::Exclusive, options.lock_wait)?;
    let trust = options.run_dir.as_deref().map(|folder| Trust::new(folder, who));
    // Before the flush: one that fails is not tried again on trust.
    let trusted = trust.as_ref().and_then(Trust::take);
    disks.sync()?;
    let Located { placement, found, left } = disks.locate(options.state_dir.as_deref(), who)?;
    let owner = owner(&found.superblock);
    if owner != *who {
        let path = disks.meta().path.clone();
        return Err(OpenError::Foreign { path, found: owner, expected: who.clone() });
    }
    let mut geometry = disks.geometry_at(placement, &found.superblock)?;
    let device = disks.meta();
    let fix = repair(&geometry, &mut device.reader()).map_err(|error| disks.bad(error))?;
    device
        .write_stages(&fix)
        .map_err(|error| device.io_error("repair of the superblock", error))?;
    let rest: Vec<Stage> = match left {
        None => Vec::new(),
        Some(Left::Metadata(old)) => zeroed(&old).collect(),
        Some(Left::Superblocks(places)) => vec![zeroed_end(places)],
    };
    device.write_stages(&rest).map_err(|error| device.io_error("zeroing what has moved", error))?;
    let home = Home {
        state_dir: options.state_dir.clone(),
        who: who.clone(),
        boot_id: found.superblock.boot_id,
        called: Called::by(path),
    };
    let mut room = Vec::new();
    let was = geometry.data_size;
    match grow::take_room(&disks, &home, &geometry) {
        Ok(Ok(new)) => geometry = new,
        Ok(Err(refusal)) => room.push(format!("the disk stays as it is: {}", refusal.hint)),
        Err(error) => return Err(disks.bad(MetaError::Read(error))),
    }
    if geometry.data_size > was {
        room.push(format!(
            "{}: the disk has grown: there is room for {} bytes of data now; `resize` makes use of it",
            path.display(),
            geometry.data_size
        ));
    }
    let mut meta = load(&geometry, &mut device.reader(), boot_id).map_err(|e| disks.bad(e))?;
    let mut notes = found.notes;
    notes.append(&mut room);
    notes.append(&mut meta.notes);
    meta.notes = notes;
    meta.written_behind = written_behind(&disks.data, &geometry, &meta)?;
    let exported = Some(meta.superblock.effective_size).filter(|size| *size != 0);
    if let Some(folder) = &options.state_dir
        && let Err(error) = grow::note_end(&disks, &home, &geometry, None, exported)
    {
        meta.notes.push(format!("{}: the disk's size was not recorded: {error}", folder.display()));
    }
    let sequence = meta.superblock.sequence;
    let subject = Subject::new(boot_id, geometry.device_uuid, &disks.data.file, sequence)
        .map_err(|error| disks.data.io_error("looking at it", error))?;
    meta.same_boot &= trusted.is_some_and(|trusted| trusted.holds_of(&subject));
    let ungiven = match trust.as_ref().filter(|_| meta.same_boot) {
        None => Some(subject),
        Some(trust) => {
            if let Err(error) = trust.give(subject) {
                meta.notes.push(format!("{}: {}", path.display(), not_noted(&error)));
            }
            None
        }
    };
    let left_by = home.boot_id;
    let mut open = disks.into_open(geometry, meta, Home { boot_id, ..home }, trust)?;
    open.left_by = left_by;
    open.ungiven = RefCell::new(ungiven);
    Ok(open)
}

fn not_noted(error: &io::Error) -> String {
    format!(
        "not noted in the run folder: {error}; after a crash of tandemd this disk counts as after a power loss"
    )
}

/// Whose metadata it is.
pub(super) fn owner(superblock: &Superblock) -> Identity {
    Identity {
        resource: superblock.resource.clone(),
        node_id: superblock.node_id,
        volume: superblock.volume,
    }
}

fn written_behind(
    data: &Device,
    geometry: &Geometry,
    meta: &LoadedMeta,
) -> Result<bool, OpenError> {
    let superblock = &meta.superblock;
    if superblock.flags & DeviceFlags::CLEAN == 0 || superblock.clean_size == 0 {
        return Ok(false);
    }
    // Less: the disk has grown since.
    if superblock.clean_size > geometry.data_size {
        return Ok(true);
    }
    let now = digest(&data.file, superblock.clean_size)
        .map_err(|error| data.io_error("reading the first and last MiB", error))?;
    Ok(now != superblock.clean_digest)
}

/// The disk or the two disks of a volume.
#[derive(Debug)]
pub(super) struct Disks {
    pub(super) data: Device,
    pub(super) external: Option<Device>,
}

impl Disks {
    pub(super) fn open(
        path: &Path,
        meta_disk: &MetaDisk,
        access: Access,
        lock_wait: Duration,
    ) -> Result<Self, OpenError> {
        if let MetaDisk::External(meta_path) = meta_disk
            && same_disk(path, meta_path)
        {
            return Err(OpenError::SameDisk { path: path.to_owned() });
        }
        let data = Device::open(path, Part::Data, access, lock_wait)?;
        let external = match meta_disk {
            MetaDisk::Internal => None,
            MetaDisk::External(path) => Some(Device::open(path, Part::Meta, access, lock_wait)?),
        };
        Ok(Self { data, external })
    }

    /// The disk that the metadata is on.
    pub(super) fn meta(&self) -> &Device {
        self.external.as_ref().unwrap_or(&self.data)
    }

    pub(super) fn placement(&self) -> Placement {
        let disk_size = self.data.size;
        match &self.external {
            None => Placement::Internal { disk_size },
            Some(meta) => Placement::External { disk_size, meta_size: meta.size },
        }
    }

    /// A process that crashed may have left unflushed pages, and a flush that failed pages that no
    /// later one writes: what is read must be what stays.
    fn sync(&self) -> Result<(), OpenError> {
        for device in std::iter::once(&self.data).chain(&self.external) {
            device.file.sync_data().map_err(|error| device.io_error("flushing it", error))?;
            device.drop_cache().map_err(|error| device.io_error("dropping its cache", error))?;
        }
        Ok(())
    }

    /// Where the metadata is, also if the disk has grown or its metadata is on the way.
    pub(super) fn locate(
        &self,
        state_dir: Option<&Path>,
        who: &Identity,
    ) -> Result<Located, OpenError> {
        if self.external.is_some() {
            let found = self.superblock(state_dir, who)?;
            return Ok(Located { placement: self.placement(), found, left: None });
        }
        match self.find(state_dir, who) {
            Ok(located) => Ok(located),
            // It has the words for what is missing.
            Err(MetaError::NoMetadata | MetaError::TooSmall { .. }) => {
                let found = self.superblock(state_dir, who)?;
                Ok(Located { placement: self.placement(), found, left: None })
            }
            Err(error) => Err(self.bad(error)),
        }
    }

    /// As [`Self::locate`], of internal metadata.
    fn find(&self, state_dir: Option<&Path>, who: &Identity) -> Result<Located, MetaError> {
        let Ends { mut sizes, settled, of_others, given_up } =
            state_dir.map(|folder| self.ends(folder, who)).unwrap_or_default();
        if given_up {
            return Err(MetaError::GivenUp);
        }
        if of_others {
            self.one_end_only(&mut sizes, who)?;
        }
        // Before a move begins the new end is noted beside the old one.
        let mut located = locate(self.data.size, &sizes, settled, &mut self.data.reader());
        if let Err(MetaError::TwoDisks { is_noted, .. }) = &mut located {
            *is_noted = !of_others;
        }
        located
    }

    /// What is noted of the ends of the disk, of now and before.
    pub(super) fn ends(&self, folder: &Path, who: &Identity) -> Ends {
        record::ends(folder, who, &self.data.path)
    }

    /// Of a disk of which nothing is noted: that whole metadata at its end is the only one of this disk on it, else it
    /// may be of a time when the disk was that long before. Of `sizes` stays where another one of the volume stands.
    fn one_end_only(&self, sizes: &mut Vec<u64>, who: &Identity) -> Result<(), MetaError> {
        let at = |disk_size| {
            let placement = Placement::Internal { disk_size };
            read_superblock(placement, &mut self.data.reader()).ok().map(|found| found.superblock)
        };
        let places = |disk_size| Placement::Internal { disk_size }.superblock_offsets().ok();
        let (now, end) = (self.data.size, at(self.data.size));
        let Some(end) = end else { return Ok(()) };
        sizes.retain(|older| *older < now && places(*older) != places(now));
        sizes.retain(|older| at(*older).is_some_and(|found| owner(&found) == *who));
        let same =
            |older: &&u64| at(**older).is_some_and(|found| found.device_uuid == end.device_uuid);
        let same = sizes.iter().find(same).copied();
        same.map_or(Ok(()), |older| Err(MetaError::Unnoted { older }))
    }

    pub(super) fn superblock(
        &self,
        state_dir: Option<&Path>,
        who: &Identity,
    ) -> Result<SuperblockRead, OpenError> {
        let error = match read_superblock(self.placement(), &mut self.meta().reader()) {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        let missing = matches!(error, MetaError::NoMetadata | MetaError::TooSmall { .. });
        let (Some(folder), true) = (state_dir, missing) else { return Err(self.bad(error)) };
        let (path, actual) = (self.data.path.clone(), self.data.size);
        match record::last_size(folder, who, &path) {
            Some(recorded) if recorded > actual => {
                Err(OpenError::Shrank { path, recorded, actual })
            }
            _ => Err(self.bad(error)),
        }
    }

    /// The size of the disk at whose end the metadata is that counts, if that is not the end of the disk as it
    /// is now: it has grown, and the metadata has not moved yet, or not all of it.
    pub(super) fn old_end(&self, state_dir: &Path, who: &Identity) -> Option<u64> {
        if self.external.is_some() {
            return None;
        }
        match self.find(Some(state_dir), who) {
            Ok(Located { placement: Placement::Internal { disk_size }, .. }) => {
                (disk_size != self.data.size).then_some(disk_size)
            }
            Ok(_) => None,
            // At the end is something that cannot be read, or two disks' metadata is on this one.
            Err(_) => {
                let has = |disk_size| {
                    let placement = Placement::Internal { disk_size };
                    read_superblock(placement, &mut self.data.reader()).is_ok()
                };
                let older =
                    self.ends(state_dir, who).sizes.into_iter().filter(|end| *end < self.data.size);
                if has(self.data.size) { None } else { older.into_iter().find(|end| has(*end)) }
            }
        }
    }

    /// The superblock at the end of the disk, which is where the metadata is.
    ///
    /// # Errors
    /// It is not there; or it is at an older end, from where an attach moves it, once the disk has grown enough; or
    /// nobody knows.
    pub(super) fn settled_superblock(
        &self,
        state_dir: &Path,
        who: &Identity,
    ) -> Result<SuperblockRead, OpenError> {
        if self.external.is_none()
            && let Err(error @ (MetaError::Unnoted { .. } | MetaError::GivenUp)) =
                self.find(Some(state_dir), who)
        {
            return Err(self.bad(error));
        }
        if let Some(recorded) = self.old_end(state_dir, who) {
            let (path, actual) = (self.data.path.clone(), self.data.size);
            return Err(OpenError::Grew { path, recorded, actual });
        }
        self.superblock(Some(state_dir), who)
    }

    pub(super) fn geometry(&self, superblock: &Superblock) -> Result<Geometry, OpenError> {
        self.geometry_at(self.placement(), superblock)
    }

    fn geometry_at(
        &self,
        placement: Placement,
        superblock: &Superblock,
    ) -> Result<Geometry, OpenError> {
        let geometry = Geometry::of(placement, superblock).map_err(|error| self.bad(error))?;
        let (made, has) = (geometry.al_block_size, self.meta().logical_block_size);
        if made < has {
            return Err(OpenError::BlockSize { path: self.meta().path.clone(), made, has });
        }
        Ok(geometry)
    }

    /// The error with the disk that it is about.
    pub(super) fn bad(&self, error: MetaError) -> OpenError {
        let path = self.meta().path.clone();
        match error {
            MetaError::TooSmall { .. } | MetaError::TooLarge { .. } => {
                OpenError::Size { path, part: self.meta().part, error }
            }
            MetaError::DataSize { recorded, actual } if actual < recorded => {
                OpenError::Shrank { path: self.data.path.clone(), recorded, actual }
            }
            error => OpenError::Metadata { path, error },
        }
    }

    fn into_open(
        self,
        geometry: Geometry,
        mut meta: LoadedMeta,
        home: Home,
        trust: Option<Trust>,
    ) -> Result<OpenDisk, OpenError> {
        let again = |device: &Device| device.again().map_err(|e| device.io_error("opening", e));
        let data = again(&self.data)?;
        let external = self.external.as_ref().map(again).transpose()?;
        let same = Arc::new(Disks { data, external });
        let stands_in = meta.superblock.flags & DeviceFlags::STANDS_IN != 0;
        let Self { data, external } = self;
        let both = |of: fn(&Device) -> bool| of(&data) && external.as_ref().is_none_or(of);
        let (dsync, direct) = (both(|device| device.dsync), both(|device| device.direct));
        let preallocated = meta.superblock.flags & DeviceFlags::PREALLOCATED != 0;
        let knows_holes = data.knows_holes();
        let mut notes = data.notes;
        let mut locks: Vec<Held> = data.held.into_iter().collect();
        let meta_file = external.map(|device| {
            notes.extend(device.notes);
            locks.extend(device.held);
            device.file
        });
        meta.notes.splice(0..0, notes);
        let attached = AttachedDisk {
            data_size: geometry.data_size,
            logical_block_size: data.logical_block_size,
            path: data.path.display().to_string(),
            meta,
        };
        Ok(OpenDisk {
            data: data.file,
            meta: meta_file,
            geometry: Cell::new(geometry),
            dsync,
            direct,
            preallocated,
            knows_holes,
            attached,
            left_by: home.boot_id,
            trust,
            ungiven: RefCell::new(None),
            stands_in: Cell::new(stands_in),
            locks,
            same,
            home,
        })
    }
}

fn same_disk(one: &Path, other: &Path) -> bool {
    match (std::fs::metadata(one), std::fs::metadata(other)) {
        (Ok(one), Ok(other)) => {
            (one.st_dev(), one.st_ino()) == (other.st_dev(), other.st_ino())
                || (one.st_rdev() != 0 && one.st_rdev() == other.st_rdev())
        }
        _ => false,
    }
}
