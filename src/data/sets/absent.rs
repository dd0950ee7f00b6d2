//! Classes that no mask of a list holds, and what the masks hold instead.
//!
//! A class without a labelled pixel is never learnt, one without a validation pixel never scored,
//! and a mean over the others looks perfect: so it is said, once, before anything is trained.

use super::mask::paste;
use crate::config::schema::{Data, LabelEncoding};

/// Classes named one by one; of more the count is.
const NAMED: usize = 8;

/// What the masks of a list hold, all together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Masks looked at.
    pub masks: usize,
    /// Which labels occur, 256 bits.
    labels: [u64; 4],
}

impl Held {
    /// Adds a mask of these labels.
    pub fn add(&mut self, labels: impl IntoIterator<Item = u8>) {
        self.masks += 1;
        for label in labels {
            self.labels[usize::from(label) / 64] |= 1 << (label % 64);
        }
    }

    /// Adds the masks of another list.
    pub fn join(&mut self, other: &Held) {
        self.masks += other.masks;
        for (own, more) in self.labels.iter_mut().zip(other.labels) {
            *own |= more;
        }
    }

    /// Whether `label` occurs.
    pub fn has(&self, label: u8) -> bool {
        self.labels[usize::from(label) / 64] >> (label % 64) & 1 == 1
    }

    /// The classes of `data` that do not occur, ascending. None without masks: nothing is known.
    pub fn absent(&self, data: &Data) -> Vec<u8> {
        let classes = 0..data.classes.min(256);
        let missing = |c: &u8| self.masks > 0 && *c != data.ignore_index && !self.has(*c);
        classes.map(|c| c as u8).filter(missing).collect()
    }

    /// Whether there are masks and no pixel of them counts. False without masks: nothing is known.
    pub fn is_void(&self, data: &Data) -> bool {
        let mut classes = (0..data.classes.min(256)).map(|c| c as u8);
        self.masks > 0 && classes.all(|c| c == data.ignore_index || !self.has(c))
    }

    /// A line on the classes that do not occur in the `what` masks ("labelled"); `None` when all do.
    pub fn line(&self, what: &str, data: &Data) -> Option<String> {
        let absent = self.absent(data);
        if absent.is_empty() {
            return None;
        }
        let ignore = data.ignore_index;
        if self.is_void(data) {
            return Some(format!(
                "no {what} mask holds any class: every pixel is void (label {ignore})"
            ));
        }
        let name = |&c: &u8| match data.class_names.get(usize::from(c)) {
            Some(name) => format!("class {c} ({name})"),
            None => format!("class {c}"),
        };
        let mut names: Vec<String> = absent.iter().take(NAMED).map(name).collect();
        if absent.len() > NAMED {
            names.push(format!("{} more", absent.len() - NAMED));
        }
        let mut line = format!(
            "no {what} mask holds {} of {}",
            names.join(", "),
            data.classes
        );
        if self.is_black_and_white(data) {
            line += &format!(
                "; the masks hold 0 and {ignore} alone, and {ignore} is void: {}",
                paste(ignore, false)
            );
        }
        Some(line)
    }

    /// Masks of 0 and 255, as drawing programs save two classes, where 255 is void.
    fn is_black_and_white(&self, data: &Data) -> bool {
        let ignore = data.ignore_index;
        let own = data.remap.is_empty() && data.encoding == LabelEncoding::TrainId;
        own && ignore == 255 && self.has(0) && self.has(ignore) && (1..255).all(|l| !self.has(l))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(classes: usize) -> Data {
        Data {
            classes,
            ..Data::default()
        }
    }

    fn held(labels: &[u8]) -> Held {
        let mut held = Held::default();
        held.add(labels.iter().copied());
        held
    }

    #[test]
    fn what_is_absent_is_named_with_its_name_and_the_number_of_classes() {
        let mut three = data(3);
        three.class_names = ["sky", "road", "car"].map(String::from).to_vec();
        for (labels, absent) in [
            (&[0, 1, 2][..], None),
            (&[0, 1, 2, 255], None),
            (&[0, 1], Some("no val mask holds class 2 (car) of 3")),
            (&[1, 2], Some("no val mask holds class 0 (sky) of 3")),
            (
                &[1, 255],
                Some("no val mask holds class 0 (sky), class 2 (car) of 3"),
            ),
        ] {
            assert_eq!(held(labels).line("val", &three).as_deref(), absent);
        }
        let many = held(&[0]).line("labelled", &data(21)).unwrap();
        assert!(many.contains("class 8, 12 more of 21"), "{many}");
        let void = held(&[255]).line("labelled", &data(2)).unwrap();
        assert!(void.contains("every pixel is void"), "{void}");
        let mut zero = data(2);
        zero.ignore_index = 0;
        assert!(held(&[0]).is_void(&zero) && !held(&[0, 1]).is_void(&zero));
        // Nothing is known without masks.
        assert!(!Held::default().is_void(&data(2)));
        assert_eq!(Held::default().line("labelled", &data(2)), None);
        let mut both = held(&[0]);
        both.join(&held(&[1]));
        assert_eq!((both.masks, both.line("val", &data(2))), (2, None));
    }

    #[test]
    fn black_and_white_masks_get_the_line_to_paste() {
        let says = |labels: &[u8], data: &Data| {
            let line = held(labels).line("labelled", data).unwrap_or_default();
            line.contains("remap: {255: 1}")
        };
        assert!(says(&[0, 255], &data(2)));
        assert!(says(&[0, 255], &data(6)));
        for labels in [&[0][..], &[255], &[0, 3, 255]] {
            assert!(!says(labels, &data(6)), "{labels:?}");
        }
        let mut mapped = data(3);
        mapped.remap.insert(7, 1);
        assert!(!says(&[0, 255], &mapped));
        let mut other = data(3);
        other.ignore_index = 254;
        assert!(!says(&[0, 254], &other));
    }
}
