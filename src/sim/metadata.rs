//! The metadata of a simulated disk: the real layout, external, on the disk's metadata area.

use crate::meta::{
    BLANK, DeviceFlags, Geometry, LoadedMeta, MetaError, MetaOp, NewDisk, Placement, Stage,
    Superblock, format_new, grown, load, move_stages, read_superblock, repair, stages,
};
use crate::resource::{DiskError, NodeId, VerifyAlg, VolumeNumber};

use super::area::Area;
use super::disk::{SECTOR, Sector, SimDisk};

/// A new disk with metadata: what create-md makes of one on which it has `found` this.
///
/// # Errors
/// The layout does not fit the size.
pub(super) fn create(
    node_id: NodeId,
    volume: VolumeNumber,
    data_size: u64,
    al_block_size: u32,
    device_uuid: u64,
    found: &str,
) -> Result<(SimDisk, Geometry), String> {
    let meta_size = Geometry::external_bytes(data_size, al_block_size, 1).map_err(text)?;
    let placement = Placement::External { disk_size: data_size, meta_size };
    let geometry = Geometry::new(placement, al_block_size, 1, device_uuid).map_err(text)?;
    let new = NewDisk {
        resource: "r0".to_owned(),
        volume,
        node_id,
        created_time: 1,
        found: found.to_owned(),
        blank: found == BLANK,
        preallocated: false,
        boot_id: boot_id(node_id, 0),
    };
    let (_, writes) = format_new(&geometry, &new).map_err(text)?;
    let area = Area::new(usize::try_from(meta_size).map_err(text)?);
    let mut disk = SimDisk::new(data_size / u64::from(SECTOR), area);
    for stage in writes {
        write(&mut disk, &stage);
    }
    Ok((disk, geometry))
}

/// The boot id of a node's nth boot.
#[must_use]
pub(super) fn boot_id(node_id: NodeId, boot: u64) -> [u8; 16] {
    let mut id = [node_id; 16];
    id[8..].copy_from_slice(&boot.to_be_bytes());
    id
}

/// Makes a stage durable.
pub(super) fn write(disk: &mut SimDisk, stage: &Stage) {
    for (offset, bytes) in &stage.writes {
        disk.write_metadata(*offset, bytes);
    }
}

/// How the loader reads the metadata of a disk.
pub(super) fn meta_reader(
    disk: &SimDisk,
) -> impl FnMut(u64, usize) -> Result<Vec<u8>, DiskError> + '_ {
    |offset, length| {
        let start = usize::try_from(offset).expect("a simulated disk is small");
        Ok(disk.metadata().read(start, length))
    }
}

/// Bytes of data and of metadata that there is room for.
fn placement(disk: &SimDisk) -> Placement {
    Placement::External {
        disk_size: disk.sectors() * u64::from(SECTOR),
        meta_size: disk.metadata().bytes() as u64,
    }
}

/// The stages that take the room which the disk has gained, and where everything is then; `None`: it
/// has gained none.
///
/// # Errors
/// The metadata cannot be read.
pub(super) fn room(
    disk: &SimDisk,
    geometry: &Geometry,
) -> Result<Option<(Vec<Stage>, Geometry)>, MetaError> {
    let Some(new) = grown(geometry, placement(disk))? else { return Ok(None) };
    let boot = read_superblock(placement(disk), &mut meta_reader(disk))?;
    let boot = boot.superblock.boot_id;
    let meta = load(geometry, &mut meta_reader(disk), boot)?;
    Ok(Some((move_stages(geometry, &new, meta), new)))
}

/// Makes a disk as large as it was, with room for as much metadata, after something else was put there.
pub(super) fn keep_size(disk: &mut SimDisk, was: &SimDisk) {
    disk.grow(was.sectors(), 0, was.metadata().bytes() as u64);
}

/// Opens the disk as the shell does: repairs the superblock, takes the room that it has gained, loads,
/// compares the digest.
///
/// # Errors
/// Neither superblock is whole, which no crash can cause.
pub(super) fn open(
    disk: &mut SimDisk,
    geometry: &mut Geometry,
    boot: [u8; 16],
) -> Result<LoadedMeta, String> {
    let found = read_superblock(placement(disk), &mut meta_reader(disk)).map_err(text)?;
    *geometry = Geometry::of(placement(disk), &found.superblock).map_err(text)?;
    let mended = repair(geometry, &mut meta_reader(disk)).map_err(text)?;
    for stage in mended {
        write(disk, &stage);
    }
    if let Some((stages, new)) = room(disk, geometry).map_err(text)? {
        for stage in stages {
            write(disk, &stage);
        }
        *geometry = new;
    }
    let mut meta = load(geometry, &mut meta_reader(disk), boot).map_err(text)?;
    let superblock = &meta.superblock;
    if superblock.flags & DeviceFlags::CLEAN != 0 && superblock.clean_size != 0 {
        meta.written_behind = superblock.clean_size > geometry.data_size
            || superblock.clean_digest != digest(disk, superblock.clean_size);
    }
    Ok(meta)
}

/// Ends in order: flushes the data, notes its digest, makes the superblock durable.
pub(super) fn close_clean(disk: &mut SimDisk, geometry: &Geometry, mut superblock: Superblock) {
    let stamp = disk.flush_begins();
    disk.flush_ends(stamp);
    let clean = superblock.flags & DeviceFlags::CLEAN != 0;
    superblock.clean_size = if clean { geometry.data_size } else { 0 };
    superblock.clean_digest = if clean { digest(disk, geometry.data_size) } else { 0 };
    for stage in stages(geometry, &MetaOp::Superblock(Box::new(superblock))) {
        write(disk, &stage);
    }
}

/// The digest of each block of 4096 bytes, one after the other.
pub(super) fn digests(sectors: &[Sector], alg: VerifyAlg) -> Vec<u8> {
    let block = |sectors: &[Sector]| -> Vec<u8> {
        let bytes: Vec<u8> = sectors.iter().flat_map(|sector| sector.to_be_bytes()).collect();
        alg.digests(&bytes)
    };
    sectors.chunks(8).flat_map(block).collect()
}

/// CRC-32 of the first and the last MiB of the data.
fn digest(disk: &SimDisk, size: u64) -> u32 {
    let sectors = usize::try_from(size / u64::from(SECTOR)).expect("a simulated disk is small");
    let contents = &disk.contents()[..sectors.min(disk.contents().len())];
    let span = contents.len().min((1 << 20) / SECTOR as usize);
    let mut hasher = crc32fast::Hasher::new();
    for part in [&contents[..span], &contents[contents.len() - span..]] {
        for sector in part {
            hasher.update(&sector.to_be_bytes());
        }
    }
    hasher.finalize()
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::{boot_id, close_clean, create, open};

    #[test]
    fn a_clean_end_is_told_from_a_write_behind_it() {
        let (mut disk, mut geometry) = create(1, 0, 8 << 20, 512, 77, "blank").unwrap();
        let loaded = open(&mut disk, &mut geometry, boot_id(1, 0)).unwrap();
        assert!(loaded.same_boot && !loaded.written_behind);
        close_clean(&mut disk, &geometry, loaded.superblock);
        assert!(!open(&mut disk, &mut geometry, boot_id(1, 1)).unwrap().written_behind);
        disk.write(3, &[9], true);
        let loaded = open(&mut disk, &mut geometry, boot_id(1, 1)).unwrap();
        assert!(loaded.written_behind);
        assert_eq!(loaded.superblock.device_uuid, 77);
    }
}
