//! What stands before the contents of each file of the last known state, by which accidents are told; pure.
//!
//! ```text
//! magic (8 bytes)  version u32  time u64 (Unix seconds)  length u64  CRC-32 of all that follows u32  contents
//! ```
//!
//! All numbers little-endian.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// So many bytes stand before the contents.
pub const HEADER: usize = 8 + 4 + 8 + 8 + 4;

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
    let fields = [
        &version.to_le_bytes()[..],
        &seconds.to_le_bytes(),
        &(contents.len() as u64).to_le_bytes(),
        &crc32fast::hash(contents).to_le_bytes(),
    ];
    header.copy_from_slice(&[&magic[..], &fields.concat()].concat());
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
    let checksum = u32::from_le_bytes(header.take()?);
    let Header(contents) = header;
    if contents.len() as u64 != length {
        return Err(SnapshotError::Damaged("it is not as long as it says"));
    }
    if crc32fast::hash(contents) != checksum {
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
