//! A snapshot in its folder.

use super::format::{Snapshot, decode, verify};
use super::seal::SnapshotError;
use super::zones::{Zones, decode_zones, encode_zones};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// The file's name in the state's folder.
pub const FILE: &str = "snapshot";
/// The name of the file with what DNS was told.
pub const ZONES_FILE: &str = "dns-zones";

/// Replaces the snapshot in this folder, which is made if it is missing. A crash at any moment leaves the old one or the new one.
///
/// # Errors
/// When the folder cannot be written, or the disk is full; the old snapshot stays.
pub fn write(folder: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(folder, FILE, bytes)
}

/// The same for what DNS was told.
///
/// # Errors
/// As [`write()`].
pub fn write_zones(folder: &Path, zones: &Zones) -> io::Result<()> {
    replace(folder, ZONES_FILE, &encode_zones(zones))
}

fn replace(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let unfinished = folder.join(format!("{name}.new"));
    let mut file = File::create(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, folder.join(name))?;
    // The rename itself is on disk only when the folder is.
    File::open(folder)?.sync_all()
}

/// Whether there is a snapshot in this folder.
///
/// # Errors
/// When it cannot be read, or is not what was written.
pub fn is_there(folder: &Path) -> io::Result<bool> {
    read_as(&folder.join(FILE), verify).map(|found| found.is_some())
}

/// The snapshot in this folder; `None` when there is none.
///
/// # Errors
/// When it cannot be read, or is not to be trusted.
pub fn read(folder: &Path) -> io::Result<Option<Snapshot>> {
    read_as(&folder.join(FILE), decode)
}

/// What DNS was told, as this folder has it; `None` when there is nothing.
///
/// # Errors
/// As [`read`].
pub fn read_zones(folder: &Path) -> io::Result<Option<Zones>> {
    read_as(&folder.join(ZONES_FILE), decode_zones)
}

fn read_as<T>(path: &Path, decode: impl FnOnce(&[u8]) -> Result<T, SnapshotError>) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => decode(&bytes).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::encode;
    use super::*;
    use crate::store::Store;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_snapshot_is_there_whole_or_not_at_all() {
        let folder = std::env::temp_dir().join(format!("waypost-snapshot-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        assert_eq!(read(&folder).unwrap(), None, "there is not even a folder");
        let taken = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let bytes = encode(&Store::default(), taken);
        write(&folder, &bytes).unwrap();
        // What a crash has left of a later one.
        let unfinished = folder.join("snapshot.new");
        fs::write(&unfinished, &bytes[..5]).unwrap();
        assert_eq!(read(&folder).unwrap().map(|snapshot| snapshot.taken), Some(taken));
        write(&folder, &bytes).unwrap();
        assert!(!unfinished.exists());
        fs::write(folder.join(FILE), &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(read(&folder).unwrap_err().kind(), io::ErrorKind::InvalidData);
        fs::remove_dir_all(&folder).unwrap();
    }
}
