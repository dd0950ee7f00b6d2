//! The format of PyTorch 0.1.10 to 1.5: pickles one after another, then the storages.
//!
//! ```text
//!  magic number · protocol version · machine · the checkpoint · keys of the storages
//!  then for each key: elements (64 bits), their bytes
//! ```

use std::collections::HashMap;

use super::fault::{Fault, Outcome};
use super::machine::{MAX_PICKLE, Node, Place, Unpickled, unpickle};
use super::objects::Form;
use super::zip::Record;
use crate::weights::disk::Disk;

/// What the first pickle says.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
const PROTOCOL: i128 = 1001;

/// Name of a pickle, for messages.
const PLACE: &str = "the pickle stream";

/// The checkpoint and where its storages lie, in the order of its references.
pub(super) fn read(disk: &Disk) -> Outcome<(Unpickled, Vec<Record>)> {
    let mut pickles = Pickles {
        bytes: disk.up_to(0, MAX_PICKLE)?,
        at: 0,
    };
    match pickles.next(&Form::Plain)?.value() {
        Node::Int(MAGIC) => {}
        _ => {
            return Err(Fault::foreign(
                PLACE,
                "does not begin as torch.save begins one",
            ));
        }
    }
    match pickles.next(&Form::Plain)?.value() {
        Node::Int(PROTOCOL) => {}
        _ => return Err(Fault::foreign(PLACE, "has another protocol than 1001")),
    }
    little_endian(&pickles.next(&Form::Plain)?)?;
    let pickle = pickles.next(&Form::Stream)?;
    let keys = pickles.next(&Form::Plain)?;
    let places = storages(disk, &pickle, &keys, pickles.at as u64)?;
    Ok((pickle, places))
}

/// The pickles at the start of the file.
struct Pickles {
    bytes: Vec<u8>,
    at: usize,
}

impl Pickles {
    fn next(&mut self, form: &Form<'_>) -> Outcome<Unpickled> {
        let place = Place {
            name: PLACE,
            base: self.at as u64,
        };
        let pickle = unpickle(&self.bytes[self.at..], place, form)?;
        self.at += pickle.used;
        Ok(pickle)
    }
}

/// What the machine that wrote the file was.
pub(super) fn little_endian(machine: &Unpickled) -> Outcome<()> {
    let Node::Dict { items, .. } = machine.value() else {
        return Err(Fault::damaged(PLACE, "does not say which machine wrote it"));
    };
    let big = items.iter().any(|&(key, value)| {
        matches!(machine.node(key), Node::Text(k) if k == "little_endian")
            && !matches!(machine.node(value), Node::Bool(true))
    });
    match big {
        true => Err(big_endian()),
        false => Ok(()),
    }
}

/// A refusal of numbers whose bytes lie the other way round.
pub(super) fn big_endian() -> Fault {
    Fault::Bad {
        problem: "was written by a big-endian machine".into(),
        mend: "load it there, or with PyTorch here, and save it on a little-endian machine",
    }
}

/// Finds each storage that the checkpoint asks for; `at` is where the first begins.
fn storages(
    disk: &Disk,
    pickle: &Unpickled,
    keys: &Unpickled,
    mut at: u64,
) -> Outcome<Vec<Record>> {
    let Node::List(order) = keys.value() else {
        return Err(Fault::damaged(PLACE, "has no list of storages"));
    };
    let wanted: HashMap<&str, usize> = (0..)
        .zip(&pickle.storages)
        .map(|(i, s)| (s.key.as_str(), i))
        .collect();
    let mut places = vec![None; pickle.storages.len()];
    for &id in order {
        let found = match keys.node(id) {
            Node::Text(key) => wanted.get(key.as_str()).copied(),
            _ => None,
        };
        let Some(index) = found.filter(|&i| places[i].is_none()) else {
            return Err(Fault::damaged(
                PLACE,
                "lists a storage twice, or one of no tensor",
            ));
        };
        let storage = &pickle.storages[index];
        let record = sized(disk, at, storage.element as u64, disk.len())?;
        if record.len != storage.bytes {
            return Err(Fault::damaged(
                format!("storage {}, byte {at}", storage.key),
                format!(
                    "has {} bytes where its tensors want {}",
                    record.len, storage.bytes
                ),
            ));
        }
        at = record.start + record.len;
        places[index] = Some(record);
    }
    if at < disk.len() {
        return Err(Fault::damaged(
            format!("byte {at}"),
            format!("{} bytes after the last storage", disk.len() - at),
        ));
    }
    let missing = places.iter().position(Option::is_none);
    if let Some(i) = missing {
        let key = &pickle.storages[i].key;
        return Err(Fault::damaged(
            PLACE,
            format!("does not hold storage {key}"),
        ));
    }
    Ok(places.into_iter().flatten().collect())
}

/// A storage at `at`: the number of its elements, then their bytes, all of it before `limit`.
pub(super) fn sized(disk: &Disk, at: u64, element: u64, limit: u64) -> Outcome<Record> {
    let start = at.checked_add(8).filter(|&s| s <= limit);
    let Some(start) = start else {
        return Err(Fault::damaged(
            format!("byte {at}"),
            "the file is truncated",
        ));
    };
    let mut raw = [0; 8];
    disk.read(at, &mut raw)?;
    let count = u64::from_le_bytes(raw);
    let len = count.checked_mul(element);
    match len.filter(|&len| len <= limit - start) {
        Some(len) => Ok(Record {
            start,
            len,
            crc: None,
        }),
        None => Err(Fault::damaged(
            format!("byte {at}"),
            format!("a storage of {count} elements goes beyond the end: the file is truncated"),
        )),
    }
}
