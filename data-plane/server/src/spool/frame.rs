//! Frames: how a record lies in a segment file.
//!
//! Called by `spool::segment` and `spool`. A frame is the record's length (u32, little endian), its CRC-32 (IEEE,
//! little endian) and its bytes. [`scan`] trusts nothing: it stops at the first frame that is not whole, so what it
//! returns is always a prefix of what was appended. Empty frames do not exist: a zero-filled tail, as some file
//! systems leave after a power cut, must not read as records. The checksum finds accidents; tampering is found by
//! the record chain (`ledger/core`).

use std::ops::Range;

/// Length and checksum before each record.
pub(crate) const FRAME_HEADER_BYTES: usize = 8;
/// A record is at most this long (`ledger/core` holds the same bound).
pub(crate) const RECORD_BYTES_MAX: usize = 32 * 1024;

/// Appends the frame of `record` to `buffer`. False, with nothing appended, for a record no frame may hold.
pub(crate) fn encode(buffer: &mut Vec<u8>, record: &[u8]) -> bool {
    let Ok(length) = u32::try_from(record.len()) else { return false };
    if record.is_empty() || record.len() > RECORD_BYTES_MAX {
        return false;
    }
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(&crc32fast::hash(record).to_le_bytes());
    buffer.extend_from_slice(record);
    true
}

/// What the front of a file holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Where each whole record lies, in order.
    pub(crate) records: Vec<Range<usize>>,
    /// Everything from here on is no whole frame.
    pub(crate) valid_bytes: usize,
}

/// Reads whole frames until the first that is not.
pub(crate) fn scan(bytes: &[u8]) -> Scan {
    let mut records = Vec::new();
    let mut at = 0;
    while let Some(record) = frame_at(bytes, at) {
        at = record.end;
        records.push(record);
    }
    Scan { records, valid_bytes: at }
}

fn frame_at(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let (length, rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    if length == 0 || length > RECORD_BYTES_MAX {
        return None;
    }
    let record = rest.get(..length)?;
    if crc32fast::hash(record) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let start = at + FRAME_HEADER_BYTES;
    Some(start..start + length)
}
