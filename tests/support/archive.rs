//! Zip archives and pickles put together byte by byte, wrong ones too.

/// A record and what its headers say about it.
#[derive(Clone)]
pub struct Entry {
    pub name: String,
    pub data: Vec<u8>,
    pub method: u16,
    pub flags: u16,
    /// Stated length, if not the true one.
    pub len: Option<u32>,
    /// Stated checksum, if not the true one.
    pub crc: Option<u32>,
    /// Stated position of the record's own header, if not the true one.
    pub header: Option<u32>,
    /// Name in the record's own header, if another.
    pub local_name: Option<String>,
}

/// A record as it should be.
pub fn entry(name: &str, data: &[u8]) -> Entry {
    Entry {
        name: name.into(),
        data: data.into(),
        method: 0,
        flags: 0,
        len: None,
        crc: None,
        header: None,
        local_name: None,
    }
}

/// CRC-32 of zip archives.
pub fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, &byte: &u8| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| {
            (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg())
        })
    };
    !bytes.iter().fold(u32::MAX, step)
}

/// An archive of these records.
pub fn zip(entries: &[Entry]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let header = entry.header.unwrap_or(out.len() as u32);
        let len = entry.len.unwrap_or(entry.data.len() as u32);
        let crc = entry.crc.unwrap_or_else(|| crc32(&entry.data));
        let common = |name: &str| {
            let mut raw = Vec::new();
            raw.extend(20u16.to_le_bytes());
            raw.extend(entry.flags.to_le_bytes());
            raw.extend(entry.method.to_le_bytes());
            raw.extend([0; 4]);
            for value in [crc, len, len] {
                raw.extend(value.to_le_bytes());
            }
            raw.extend((name.len() as u16).to_le_bytes());
            raw.extend([0; 2]);
            raw
        };
        let local = entry.local_name.as_ref().unwrap_or(&entry.name);
        out.extend(b"PK\x03\x04");
        out.extend(common(local));
        out.extend(local.as_bytes());
        out.extend(&entry.data);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(common(&entry.name));
        directory.extend([0; 10]);
        directory.extend(header.to_le_bytes());
        directory.extend(entry.name.as_bytes());
    }
    let start = out.len() as u32;
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    for _ in 0..2 {
        out.extend((entries.len() as u16).to_le_bytes());
    }
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0; 2]);
    out
}

/// A `.pth` file with this pickle and these storages, named `0`, `1` and so on.
pub fn pth(pickle: &[u8], storages: &[&[u8]]) -> Vec<u8> {
    let mut entries = vec![entry("w/data.pkl", pickle)];
    for (i, storage) in storages.iter().enumerate() {
        entries.push(entry(&format!("w/data/{i}"), storage));
    }
    zip(&entries)
}

/// A string of up to 255 bytes in a pickle.
pub fn text(text: &str) -> Vec<u8> {
    [&[b'X', text.len() as u8, 0, 0, 0], text.as_bytes()].concat()
}

/// An integer in a pickle.
pub fn int(value: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &value.to_le_bytes()].concat()
}

/// A tuple of sizes in a pickle.
pub fn sizes(values: &[i64]) -> Vec<u8> {
    let values: Vec<Vec<u8>> = values.iter().map(|&v| int(v)).collect();
    [b"(", &values.concat()[..], b"t"].concat()
}

/// A float tensor in a pickle: storage, its elements, offset, sizes, strides.
pub fn tensor(key: &str, elements: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    [
        &b"ctorch._utils\n_rebuild_tensor_v2\n(("[..],
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text(key),
        &text("cpu"),
        &int(elements),
        b"tQ",
        &int(offset),
        &sizes(shape),
        &sizes(strides),
        b"\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}

/// A whole pickle around a value.
pub fn pickle(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02", value, b"."].concat()
}
