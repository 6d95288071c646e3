//! What stands before the contents of each file of the last known state, by which accidents are told; pure.
//!
//! ```text
//! magic (8 bytes)  version u32  time u64 (Unix seconds)  length u64  CRC-32 of all else u32  contents
//! ```
//!
//! All numbers little-endian. The checksum is about the time as well: of a wrong one nobody would see that it is wrong.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// So many bytes stand before the contents.
pub const HEADER: usize = CHECKSUM + 4;
/// And so many before the checksum.
const CHECKSUM: usize = 8 + 4 + 8 + 8;

/// Bytes that are no snapshot of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Something else.
    #[error("it is no snapshot of Waypost's")]
    Foreign,
    /// Written by another version.
    #[error("it has version {0} and this agent reads version {1}")]
    Version(u32, u32),
    /// Not what was written.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

/// Fills in the first [`HEADER`] bytes for the contents behind them.
pub fn seal(bytes: &mut [u8], magic: &[u8; 8], version: u32, taken: SystemTime) {
    let (header, contents) = bytes.split_at_mut(HEADER);
    let seconds = taken.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let length = contents.len() as u64;
    let fields = [&magic[..], &version.to_le_bytes(), &seconds.to_le_bytes(), &length.to_le_bytes()].concat();
    let (before, place) = header.split_at_mut(CHECKSUM);
    before.copy_from_slice(&fields);
    place.copy_from_slice(&checksum(before, contents).to_le_bytes());
}

fn checksum(before: &[u8], contents: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(before);
    hasher.update(contents);
    hasher.finalize()
}

/// The time and the contents of what [`seal`] has sealed.
///
/// # Errors
/// Anything else, cut off or changed bytes included.
pub fn unseal<'a>(bytes: &'a [u8], magic: &[u8; 8], version: u32) -> Result<(SystemTime, &'a [u8]), SnapshotError> {
    let mut header = Header(bytes.strip_prefix(magic).ok_or(SnapshotError::Foreign)?);
    let written = u32::from_le_bytes(header.take()?);
    if written != version {
        return Err(SnapshotError::Version(written, version));
    }
    let seconds = u64::from_le_bytes(header.take()?);
    let length = u64::from_le_bytes(header.take()?);
    let noted = u32::from_le_bytes(header.take()?);
    let Header(contents) = header;
    if contents.len() as u64 != length {
        return Err(SnapshotError::Damaged("it is not as long as it says"));
    }
    if checksum(&bytes[..CHECKSUM], contents) != noted {
        return Err(SnapshotError::Damaged("its checksum is wrong"));
    }
    let taken = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or(SnapshotError::Damaged("its time is none"))?;
    Ok((taken, contents))
}

struct Header<'a>(&'a [u8]);

impl Header<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let (field, rest) = self.0.split_first_chunk().ok_or(SnapshotError::Damaged("it is cut off"))?;
        self.0 = rest;
        Ok(*field)
    }
}
