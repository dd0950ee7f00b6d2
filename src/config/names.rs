//! Class names of the public datasets, for tables.

use super::schema::DataKind;

const VOC: [&str; 21] = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
];

const CITYSCAPES: [&str; 19] = [
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
];

/// The names of a layout's own `classes` classes; none for another number of them.
pub fn class_names(kind: DataKind, classes: usize) -> &'static [&'static str] {
    match (kind, classes) {
        (DataKind::Voc, 21) => &VOC,
        (DataKind::Cityscapes, 19) => &CITYSCAPES,
        _ => &[],
    }
}
