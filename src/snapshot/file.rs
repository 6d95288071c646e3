//! A snapshot in its folder.

use super::format::{Snapshot, SnapshotError, decode};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// The file's name in the state's folder.
pub const FILE: &str = "snapshot";
/// What is being written, until it is whole.
const UNFINISHED: &str = "snapshot.new";

/// Replaces the snapshot in this folder, which is made if it is missing. A crash at any moment leaves the old one or the new one.
///
/// # Errors
/// When the folder cannot be written, or the disk is full; the old snapshot stays.
pub fn write(folder: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let unfinished = folder.join(UNFINISHED);
    let mut file = File::create(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, folder.join(FILE))?;
    // The rename itself is on disk only when the folder is.
    File::open(folder)?.sync_all()
}

/// The snapshot in this folder; `None` when there is none.
///
/// # Errors
/// When it cannot be read, or is not to be trusted.
pub fn read(folder: &Path) -> io::Result<Option<Snapshot>> {
    match fs::read(folder.join(FILE)) {
        Ok(bytes) => decode(&bytes).map(Some).map_err(|error: SnapshotError| io::Error::new(io::ErrorKind::InvalidData, error)),
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
        fs::write(folder.join(UNFINISHED), &bytes[..5]).unwrap();
        assert_eq!(read(&folder).unwrap().map(|snapshot| snapshot.taken), Some(taken));
        write(&folder, &bytes).unwrap();
        assert!(!folder.join(UNFINISHED).exists());
        fs::write(folder.join(FILE), &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(read(&folder).unwrap_err().kind(), io::ErrorKind::InvalidData);
        fs::remove_dir_all(&folder).unwrap();
    }
}
