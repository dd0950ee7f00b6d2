//! TensorFlow's record files: every record with its length and a checksum of both.
//!
//! ```text
//!  u64 length | u32 masked CRC-32C of the length | bytes | u32 masked CRC-32C of the bytes
//! ```
//!
//! All little-endian.

use std::io::{self, Read};

/// Bytes around a record: length and its checksum before, the checksum after.
const HEADER: usize = 12;

/// No record of ours comes near it; a damaged length does.
const LARGEST: u64 = 1 << 30;

/// CRC-32C (Castagnoli), reflected polynomial 0x82F63B78, by byte.
const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

/// CRC-32C of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, &byte: &u8| TABLE[((crc ^ u32::from(byte)) & 0xFF) as usize] ^ (crc >> 8);
    !bytes.iter().fold(!0, step)
}

/// The checksum as it is stored: of data that holds checksums itself, a plain one is weak.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// `data` as a record.
pub fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(HEADER + data.len() + 4);
    record.extend(length);
    record.extend(masked(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked(data).to_le_bytes());
    record
}

/// What comes next in a record file.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A record's bytes.
    Record(Vec<u8>),
    /// The end of the file.
    End,
    /// A record cut off or with a wrong checksum: nothing after it can be found.
    Damaged,
}

/// Reads the next record.
///
/// # Errors
/// The system's, other than an early end.
pub fn next(file: &mut impl Read) -> io::Result<Next> {
    let mut header = Vec::with_capacity(HEADER);
    file.by_ref().take(HEADER as u64).read_to_end(&mut header)?;
    let Ok(header) = <[u8; HEADER]>::try_from(&header[..]) else {
        return Ok(match header.is_empty() {
            true => Next::End,
            false => Next::Damaged,
        });
    };
    let (length, crc) = header.split_at(8);
    let bytes = length.try_into().map_or(u64::MAX, u64::from_le_bytes);
    if crc != masked(length).to_le_bytes() || bytes > LARGEST {
        return Ok(Next::Damaged);
    }
    let mut data = Vec::new();
    file.by_ref().take(bytes + 4).read_to_end(&mut data)?;
    if data.len() as u64 != bytes + 4 {
        return Ok(Next::Damaged);
    }
    let crc = data.split_off(bytes as usize);
    Ok(match crc == masked(&data).to_le_bytes() {
        true => Next::Record(data),
        false => Next::Damaged,
    })
}

/// Bytes of the file that a record of `length` bytes takes.
pub fn framed_len(length: usize) -> u64 {
    (HEADER + length + 4) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check values of RFC 3720, appendix B.4.
    #[test]
    fn checksums_are_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
    }

    #[test]
    fn records_come_back_and_damage_is_seen() {
        let mut file = frame(b"one");
        file.extend(frame(b""));
        let mut from = &file[..];
        assert_eq!(next(&mut from).unwrap(), Next::Record(b"one".to_vec()));
        assert_eq!(next(&mut from).unwrap(), Next::Record(Vec::new()));
        assert_eq!(next(&mut from).unwrap(), Next::End);
        let record = frame(b"one");
        assert_eq!(framed_len(3), record.len() as u64);
        for at in 0..record.len() {
            let mut wrong = record.clone();
            wrong[at] ^= 4;
            assert_eq!(next(&mut &wrong[..]).unwrap(), Next::Damaged, "byte {at}");
            if at > 0 {
                assert_eq!(next(&mut &record[..at]).unwrap(), Next::Damaged, "cut {at}");
            }
        }
    }
}
