//! Datasets on disk: what is read, in which order, and what each fault is answered with.
#![cfg(feature = "cli")]

use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};
use png::{BitDepth, ColorType};
use tempfile::TempDir;
use u2pl_engine::Error;
use u2pl_engine::config::Config;
use u2pl_engine::config::schema::Exif;
use u2pl_engine::data::decode::image_header;
use u2pl_engine::data::discover::discover;
use u2pl_engine::data::mask::{MaskRules, read_mask};
use u2pl_engine::data::split::{make_split, write_lists};
use u2pl_engine::data::{
    Dataset, Loader, LoaderSettings, Part, Sample, check, decode_image, epoch_order, pack,
};

/// A VOC folder of six images of 12 × 8 with three classes, and its configuration.
struct Voc {
    dir: TempDir,
    config: Config,
}

impl Voc {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for i in 0..6 {
            jpeg(&root.join(format!("JPEGImages/{i}.jpg")), 12, 8, 40 * i);
            let classes: Vec<u8> = (0..96)
                .map(|p| [0, 1, 2, 255][(p + i as usize) % 4])
                .collect();
            let mask = root.join(format!("SegmentationClass/{i}.png"));
            png(&mask, 12, 8, ColorType::Indexed, BitDepth::Eight, &classes);
        }
        write(&root.join("labeled.txt"), "0\n1\n");
        write(&root.join("unlabeled.txt"), "2\n3\n\n  4\n");
        write(&root.join("val.txt"), "5\n");
        let sets = [
            "data.kind=voc".into(),
            format!("data.root={}", root.display()),
            "data.labeled=labeled.txt".into(),
            "data.unlabeled=unlabeled.txt".into(),
            "data.val=val.txt".into(),
            "data.classes=3".into(),
        ];
        let config = Config::load(None, &sets).unwrap();
        config.validate().unwrap();
        Self { dir, config }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The text of an error with the folder cut off; the exit code must be 2.
    fn text(&self, error: &Error) -> String {
        assert_eq!(error.exit_code(), 2, "{error}");
        error
            .to_string()
            .replace(&format!("{}/", self.dir.path().display()), "")
    }

    fn check_error(&self) -> String {
        self.text(&check(&self.config).unwrap_err())
    }

    fn decode_error(&self, part: Part, i: usize) -> String {
        let dataset = Dataset::open(&self.config, part).unwrap();
        self.text(&dataset.decode(i).unwrap_err())
    }
}

/// The error of decoding the file at `path`, which must not decode.
fn refused(path: &Path) -> Error {
    match decode_image(path, Exif::Apply) {
        Err(e) => e,
        Ok(image) => panic!("decodes to {} × {}", image.width, image.height),
    }
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A noisy image, so that the entropy-coded data has some length.
fn pixels(n: usize, seed: u8) -> Vec<u8> {
    let value = |i: usize| ((i * 7919 + i * i * 31) >> 3) as u8 ^ seed;
    (0..n).map(value).collect()
}

fn jpeg(path: &Path, width: u32, height: u32, seed: u8) {
    let mut bytes = Vec::new();
    let rgb = pixels((3 * width * height) as usize, seed);
    JpegEncoder::new_with_quality(&mut bytes, 90)
        .write_image(&rgb, width, height, ExtendedColorType::Rgb8)
        .unwrap();
    write(path, bytes);
}

fn png(path: &Path, width: u32, height: u32, color: ColorType, depth: BitDepth, data: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = BufWriter::new(fs::File::create(path).unwrap());
    let mut encoder = png::Encoder::new(file, width, height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == ColorType::Indexed {
        // All entries the same grey: a reader that looks at colours sees one class.
        encoder.set_palette(vec![77; 3 * 256.min(1 << depth as usize)]);
    }
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(data).unwrap();
}

fn settings(workers: usize, cache_mib: usize) -> LoaderSettings {
    LoaderSettings {
        batch: 2,
        seed: 5,
        stream: 7,
        workers,
        epoch_len: 4,
        cache_mib,
    }
}

#[test]
fn a_sound_folder_passes_and_gives_its_sizes() {
    let voc = Voc::new();
    let found = check(&voc.config).unwrap();
    let unlabeled = found.unlabeled.unwrap();
    assert_eq!(
        (found.labeled.len(), unlabeled.len(), found.val.len()),
        (2, 3, 1)
    );
    let sizes = found.train_sizes;
    assert_eq!((sizes.height, sizes.width, sizes.pixels), (8, 12, 96));
    assert_eq!(unlabeled.id(2), "4");
    let image = found.labeled.decode(1).unwrap();
    assert_eq!((image.width, image.height, image.rgb.len()), (12, 8, 288));
    assert_eq!(image.label.unwrap()[..4], [1, 2, 255, 0]);
    // The masks of unlabelled images are read where they exist, and not asked for elsewhere.
    fs::remove_file(voc.path("SegmentationClass/3.png")).unwrap();
    check(&voc.config).unwrap();
    let unlabeled = Dataset::open(&voc.config, Part::Unlabeled).unwrap();
    assert!(unlabeled.decode(0).unwrap().label.is_some());
    assert!(unlabeled.decode(1).unwrap().label.is_none());
}

#[test]
fn the_augmented_masks_win_unless_a_folder_is_named() {
    let mut voc = Voc::new();
    for i in 0..6 {
        let mask = voc.path(&format!("SegmentationClassAug/{i}.png"));
        png(
            &mask,
            12,
            8,
            ColorType::Grayscale,
            BitDepth::Eight,
            &[2; 96],
        );
    }
    let label = |config: &Config| {
        let dataset = Dataset::open(config, Part::Labeled).unwrap();
        dataset.decode(0).unwrap().label.unwrap()
    };
    assert_eq!(label(&voc.config), [2; 96]);
    voc.config.data.mask_dir = "SegmentationClass".into();
    assert_eq!(label(&voc.config)[..4], [0, 1, 2, 255]);
}

#[test]
fn masks_of_every_depth_give_their_indices() {
    let voc = Voc::new();
    let mask = voc.path("SegmentationClass/0.png");
    let dataset = Dataset::open(&voc.config, Part::Labeled).unwrap();
    let label = || dataset.decode(0).unwrap().label.unwrap();
    for color in [ColorType::Indexed, ColorType::Grayscale] {
        // 12 pixels a row: 2 bytes of 1 bit (padded), 3 of 2 bits, 6 of 4 bits.
        png(
            &mask,
            12,
            8,
            color,
            BitDepth::One,
            &[0b0101_0101, 0b1111_0000].repeat(8),
        );
        assert_eq!(label()[..12], [0, 1, 0, 1, 0, 1, 0, 1, 1, 1, 1, 1]);
        png(
            &mask,
            12,
            8,
            color,
            BitDepth::Two,
            &[0b0001_1000, 0b0, 0b1010_1010].repeat(8),
        );
        assert_eq!(label()[12..24], [0, 1, 2, 0, 0, 0, 0, 0, 2, 2, 2, 2]);
        png(
            &mask,
            12,
            8,
            color,
            BitDepth::Four,
            &[0x01, 0x21, 0x00, 0x12, 0x22, 0x20].repeat(8),
        );
        assert_eq!(label()[..12], [0, 1, 2, 1, 0, 0, 1, 2, 2, 2, 2, 0]);
    }
}

#[test]
fn cityscapes_paths_and_raw_label_ids() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    png(
        &root.join("leftImg8bit/train/ulm/ulm_0_leftImg8bit.png"),
        4,
        2,
        ColorType::Rgb,
        BitDepth::Eight,
        &pixels(24, 0),
    );
    let ids = root.join("gtFine/train/ulm/ulm_0_gtFine_labelIds.png");
    png(
        &ids,
        4,
        2,
        ColorType::Grayscale,
        BitDepth::Eight,
        &[7, 8, 0, 3, 26, 33, 29, 255],
    );
    let train_ids = root.join("gtFine/train/ulm/ulm_0_gtFine_labelTrainIds.png");
    png(
        &train_ids,
        4,
        2,
        ColorType::Grayscale,
        BitDepth::Eight,
        &[18; 8],
    );
    write(
        &root.join("list.txt"),
        "leftImg8bit/train/ulm/ulm_0_leftImg8bit.png\n",
    );
    let sets = [
        "data={kind: cityscapes, classes: 19, labeled: list.txt}".into(),
        format!("data.root={}", root.display()),
    ];
    let mut config = Config::load(None, &sets).unwrap();
    let label = |config: &Config| {
        let dataset = Dataset::open(config, Part::Labeled).unwrap();
        assert_eq!(dataset.id(0), "ulm_0");
        dataset.decode(0).unwrap().label.unwrap()
    };
    assert_eq!(label(&config), [18; 8]);
    config.data.encoding = u2pl_engine::config::schema::LabelEncoding::CityscapesLabelId;
    assert_eq!(label(&config), [0, 1, 255, 255, 13, 18, 255, 255]);
}

#[test]
fn folders_take_stems_names_and_two_columns() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for name in ["a", "b c", "d"] {
        let file = root.join(format!("images/{name}.png"));
        png(&file, 4, 4, ColorType::Grayscale, BitDepth::Eight, &[9; 16]);
        let file = root.join(format!("masks/{name}.png"));
        png(&file, 4, 4, ColorType::Grayscale, BitDepth::Eight, &[1; 16]);
    }
    write(
        &root.join("list.txt"),
        "a\r\nb c.png\r\n/images/d.png /masks/a.png\r\nimages/d.png\tmasks/d.png",
    );
    let sets = [
        "data={kind: folder, classes: 2, labeled: list.txt}".into(),
        format!("data.root={}", root.display()),
    ];
    let config = Config::load(None, &sets).unwrap();
    let dataset = Dataset::open(&config, Part::Labeled).unwrap();
    let files: Vec<(String, String)> = dataset
        .samples()
        .iter()
        .map(|s| {
            let name = |p: &Path| p.strip_prefix(root).unwrap().display().to_string();
            (name(&s.image), name(s.mask.as_ref().unwrap()))
        })
        .collect();
    let expected = [
        ("images/a.png", "masks/a.png"),
        ("images/b c.png", "masks/b c.png"),
        ("images/d.png", "masks/a.png"),
        ("images/d.png", "masks/d.png"),
    ];
    assert_eq!(files, expected.map(|(a, b)| (a.to_string(), b.to_string())));
    for i in 0..4 {
        // Grey images become RGB.
        assert_eq!(dataset.decode(i).unwrap().rgb, [9; 48]);
    }
}

#[test]
fn image_scale_resizes_image_and_mask() {
    let mut voc = Voc::new();
    voc.config.data.image_scale = 0.5;
    let image = Dataset::open(&voc.config, Part::Labeled)
        .unwrap()
        .decode(0)
        .unwrap();
    assert_eq!((image.width, image.height, image.rgb.len()), (6, 4, 72));
    // Nearest at half size takes columns and rows 1, 3, 5…: (1 + 12) % 4 = 1, (3 + 12) % 4 = 3.
    assert_eq!(image.label.unwrap()[..4], [1, 255, 1, 255]);
    let sizes = check(&voc.config).unwrap().train_sizes;
    assert_eq!((sizes.height, sizes.width, sizes.pixels), (4, 6, 24));
}

#[test]
fn missing_and_empty_lists() {
    let mut voc = Voc::new();
    write(&voc.path("labeled.txt"), "\n \n");
    voc.config.data.val = "nowhere.txt".into();
    let text = voc.check_error();
    assert!(
        text.contains("labeled.txt: the list is empty; list one image per line"),
        "{text}"
    );
    assert!(
        text.contains("nowhere.txt: the list does not exist; correct data.val"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 2);
}

#[test]
fn no_unlabeled_images() {
    let mut voc = Voc::new();
    write(&voc.path("unlabeled.txt"), "");
    let text = voc.check_error();
    assert!(
        text.contains("unlabeled.txt: the list is empty, and U2PL learns"),
        "{text}"
    );
    assert!(text.contains("train.algorithm: supervised"), "{text}");
    voc.config.data.unlabeled = PathBuf::new();
    voc.config.train.algorithm = u2pl_engine::config::schema::Algorithm::Supervised;
    assert!(check(&voc.config).unwrap().unlabeled.is_none());
}

#[test]
fn missing_files_name_the_list_line() {
    let voc = Voc::new();
    write(&voc.path("labeled.txt"), "0\n\nnope\n");
    fs::remove_file(voc.path("SegmentationClass/5.png")).unwrap();
    let text = voc.check_error();
    assert!(
        text.contains("labeled.txt:3: the image JPEGImages/nope.jpg does not exist"),
        "{text}"
    );
    assert!(
        text.contains("labeled.txt:3: the mask SegmentationClass/nope.png"),
        "{text}"
    );
    assert!(
        text.contains("val.txt:1: the mask SegmentationClass/5.png does not exist"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 3);
}

#[test]
fn many_problems_are_counted_not_printed() {
    let voc = Voc::new();
    let lines: String = (100..150).map(|i| format!("{i}\n")).collect();
    write(&voc.path("unlabeled.txt"), lines);
    let text = voc.check_error();
    assert_eq!(text.lines().count(), 21);
    assert!(text.contains("and 31 more problems"), "{text}");
}

#[test]
fn sizes_of_mask_and_image_must_agree() {
    let voc = Voc::new();
    let mask = voc.path("SegmentationClass/1.png");
    png(
        &mask,
        8,
        12,
        ColorType::Grayscale,
        BitDepth::Eight,
        &[0; 96],
    );
    let expected = "SegmentationClass/1.png: the mask is 8 × 12, its image 12 × 8";
    assert!(voc.check_error().starts_with(expected));
    assert!(voc.decode_error(Part::Labeled, 1).starts_with(expected));
}

#[test]
fn a_class_index_out_of_range_names_value_and_pixel() {
    let voc = Voc::new();
    let mut classes = [0; 96];
    classes[2 * 12 + 5] = 3;
    let mask = voc.path("SegmentationClass/0.png");
    png(&mask, 12, 8, ColorType::Indexed, BitDepth::Eight, &classes);
    let text = voc.decode_error(Part::Labeled, 0);
    assert!(
        text.starts_with(
            "SegmentationClass/0.png: class index 3 at column 5, row 2 is neither in 0..=2 nor \
             the ignore index 255; correct the mask"
        ),
        "{text}"
    );
}

#[test]
fn masks_that_are_not_indices() {
    let voc = Voc::new();
    let mask = voc.path("SegmentationClass/0.png");
    let cases = [
        (
            ColorType::Rgb,
            BitDepth::Eight,
            3,
            "the mask holds RGB colours",
        ),
        (
            ColorType::Rgba,
            BitDepth::Eight,
            4,
            "the mask has an alpha channel",
        ),
        (
            ColorType::GrayscaleAlpha,
            BitDepth::Eight,
            2,
            "the mask has an alpha channel",
        ),
        (
            ColorType::Grayscale,
            BitDepth::Sixteen,
            2,
            "the mask is a 16-bit PNG",
        ),
    ];
    for (color, depth, bytes, expected) in cases {
        png(&mask, 12, 8, color, depth, &vec![0; 96 * bytes]);
        for text in [voc.check_error(), voc.decode_error(Part::Labeled, 0)] {
            let line = format!("SegmentationClass/0.png: {expected}; save it as an 8-bit palette");
            assert!(text.starts_with(&line), "{text}");
        }
    }
    fs::copy(voc.path("JPEGImages/0.jpg"), &mask).unwrap();
    assert!(voc.check_error().contains("the mask is not a PNG"));
}

#[test]
fn png_images_with_alpha_or_16_bits() {
    let voc = Voc::new();
    let image = voc.path("JPEGImages/0.png");
    fs::remove_file(voc.path("JPEGImages/0.jpg")).unwrap();
    let cases = [
        (
            ColorType::Rgba,
            BitDepth::Eight,
            4,
            "the image has an alpha channel",
        ),
        (
            ColorType::GrayscaleAlpha,
            BitDepth::Eight,
            2,
            "the image has an alpha channel",
        ),
        (
            ColorType::Rgb,
            BitDepth::Sixteen,
            6,
            "the image is a 16-bit PNG",
        ),
    ];
    for (color, depth, bytes, expected) in cases {
        png(&image, 12, 8, color, depth, &vec![0; 96 * bytes]);
        for text in [voc.check_error(), voc.decode_error(Part::Labeled, 0)] {
            let line = format!("JPEGImages/0.png: {expected}; convert it to an 8-bit RGB PNG");
            assert!(text.starts_with(&line), "{text}");
        }
    }
    // Palette images are colours here, not indices.
    png(&image, 12, 8, ColorType::Indexed, BitDepth::Eight, &[3; 96]);
    assert_eq!(decode_image(&image, Exif::Apply).unwrap().rgb, [77; 288]);
}

#[test]
fn truncated_files_are_errors_wherever_they_end() {
    let voc = Voc::new();
    let path = voc.path("JPEGImages/0.jpg");
    jpeg(&path, 64, 48, 1);
    let whole = fs::read(&path).unwrap();
    decode_image(&path, Exif::Apply).unwrap();
    let scan = whole.windows(2).position(|w| w == [0xFF, 0xDA]).unwrap();
    for keep in [
        3,
        20,
        scan + 20,
        (scan + whole.len()) / 2,
        whole.len() - 40,
        whole.len() - 2,
    ] {
        write(&path, &whole[..keep]);
        let text = voc.text(&refused(&path));
        assert!(
            text.starts_with("JPEGImages/0.jpg: the JPEG is truncated; restore"),
            "{text}"
        );
    }
    // An end marker after half of the pixels hides the cut from a look at the markers.
    let mut closed = whole[..(scan + whole.len()) / 2].to_vec();
    closed.extend([0xFF, 0xD9]);
    write(&path, closed);
    let text = voc.text(&refused(&path));
    assert!(
        text.starts_with("JPEGImages/0.jpg: the JPEG is damaged"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1);

    let path = voc.path("image.png");
    png(
        &path,
        64,
        48,
        ColorType::Rgb,
        BitDepth::Eight,
        &pixels(64 * 48 * 3, 0),
    );
    let whole = fs::read(&path).unwrap();
    for keep in [20, whole.len() / 2] {
        write(&path, &whole[..keep]);
        let text = voc.text(&refused(&path));
        assert!(
            text.starts_with("image.png: the PNG is truncated or damaged"),
            "{text}"
        );
    }
    write(&path, b"GIF89a");
    let text = voc.text(&refused(&path));
    assert!(
        text.starts_with("image.png: is neither a JPEG nor a PNG"),
        "{text}"
    );
}

/// A PNG whose header says `side` × `side` RGB.
fn claiming(side: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side, side);
    encoder.set_color(ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    writer
        .write_chunk(png::chunk::IDAT, &[0x78, 1, 3, 0, 0, 0, 0, 1])
        .unwrap();
    drop(writer);
    bytes
}

#[test]
fn a_header_that_claims_more_than_the_file_holds_takes_no_memory() {
    let voc = Voc::new();
    let path = voc.path("image.png");
    for side in [60_000, i32::MAX as u32] {
        write(&path, claiming(side));
        for error in [
            refused(&path),
            image_header(&path, Exif::Apply).unwrap_err(),
        ] {
            let text = voc.text(&error);
            assert_eq!(error.exit_code(), 2);
            assert!(text.starts_with("image.png: "), "{text}");
            assert!(
                side != 60_000 || text.contains("says that it is 60000 × 60000"),
                "{text}"
            );
        }
    }
    let path = voc.path("JPEGImages/0.jpg");
    jpeg(&path, 64, 48, 1);
    let mut bytes = fs::read(&path).unwrap();
    let frame = bytes.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    bytes[frame + 5..frame + 9].fill(0xFF);
    write(&path, bytes);
    let text = voc.text(&refused(&path));
    assert!(
        text.starts_with("JPEGImages/0.jpg: says that it is 65535 × 65535"),
        "{text}"
    );
}

/// To open a pipe would wait for ever.
#[cfg(unix)]
#[test]
fn pipes_devices_and_folders_are_no_images() {
    let voc = Voc::new();
    let path = voc.path("odd.png");
    let made = std::process::Command::new("mkfifo")
        .arg(&path)
        .status()
        .unwrap();
    assert!(made.success());
    let rules = MaskRules::new(&voc.config.data);
    for odd in [path.as_path(), Path::new("/dev/zero"), voc.dir.path()] {
        for error in [
            refused(odd),
            image_header(odd, Exif::Apply).unwrap_err(),
            read_mask(odd, &rules).unwrap_err(),
        ] {
            assert_eq!(error.exit_code(), 2);
            let says = match odd.is_dir() {
                true => "is a folder, not a file",
                false => "is a pipe or a device, not a file",
            };
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}

#[test]
fn one_pixel_is_no_image() {
    let voc = Voc::new();
    jpeg(&voc.path("JPEGImages/2.jpg"), 1, 1, 0);
    fs::remove_file(voc.path("SegmentationClass/2.png")).unwrap();
    let expected = "JPEGImages/2.jpg: the image is 1 × 1, too small";
    assert!(voc.check_error().starts_with(expected));
    assert!(voc.decode_error(Part::Unlabeled, 0).starts_with(expected));
}

#[test]
fn batches_do_not_depend_on_workers_or_cache() {
    let config = Config::default();
    let dataset = Arc::new(Dataset::open(&config, Part::Unlabeled).unwrap());
    let seen = |workers, cache| {
        let mut loader = Loader::new(dataset.clone(), settings(workers, cache)).unwrap();
        let batches = (0..10).map(|_| loader.next().unwrap());
        batches.map(|b| (b.indices, b.images)).collect::<Vec<_>>()
    };
    let one = seen(1, 0);
    assert_eq!(one, seen(4, 0));
    assert_eq!(one, seen(3, 64));
    for (epoch, batches) in one.chunks(4).enumerate() {
        let indices: Vec<usize> = batches.iter().flat_map(|b| b.0.clone()).collect();
        let order = epoch_order(dataset.len(), 8, 5, 7, epoch);
        assert_eq!(indices, order[..indices.len()]);
    }
}

#[test]
fn a_loader_resumes_at_any_iteration() {
    let config = Config::default();
    // Eight labelled images, epochs of four batches of three: the list is repeated.
    let dataset = Arc::new(Dataset::open(&config, Part::Labeled).unwrap());
    let settings = LoaderSettings {
        batch: 3,
        ..settings(2, 1)
    };
    let mut loader = Loader::new(dataset.clone(), settings).unwrap();
    let indices: Vec<Vec<usize>> = (0..12).map(|_| loader.next().unwrap().indices).collect();
    for start in [0, 3, 4, 6, 11] {
        let mut resumed = Loader::new(dataset.clone(), settings).unwrap();
        resumed.seek(start / 4, start % 4).unwrap();
        assert_eq!(resumed.next().unwrap().indices, indices[start]);
        // Also after some batches have gone out.
        loader.seek(start / 4, start % 4).unwrap();
        assert_eq!(loader.next().unwrap().indices, indices[start]);
    }
}

#[test]
fn a_file_that_breaks_later_surfaces_with_its_name() {
    let voc = Voc::new();
    let dataset = Arc::new(Dataset::open(&voc.config, Part::Unlabeled).unwrap());
    check(&voc.config).unwrap();
    let path = voc.path("JPEGImages/3.jpg");
    let whole = fs::read(&path).unwrap();
    write(&path, &whole[..whole.len() - 30]);
    let mut loader = Loader::new(dataset, settings(2, 0)).unwrap();
    // Three images: two batches of two hold each of them.
    let error = (0..2).find_map(|_| loader.next().err()).unwrap();
    let text = voc.text(&error);
    assert!(
        text.starts_with("JPEGImages/3.jpg: the JPEG is truncated"),
        "{text}"
    );
}

#[test]
fn batches_pack_for_the_device() {
    let mut voc = Voc::new();
    jpeg(&voc.path("JPEGImages/2.jpg"), 4, 3, 0);
    fs::remove_file(voc.path("SegmentationClass/2.png")).unwrap();
    write(&voc.path("unlabeled.txt"), "2\n3\n");
    voc.config.data.workers = 1;
    let dataset = Arc::new(Dataset::open(&voc.config, Part::Unlabeled).unwrap());
    let mut loader = Loader::new(dataset, settings(1, 0)).unwrap();
    let batch = loader.next().unwrap();
    let cap = 100;
    let (mut images, mut labels) = (vec![7; 600], vec![7; 200]);
    let mut sizes = vec![0; 4];
    pack(&batch, cap, 254, &mut images, &mut labels, &mut sizes).unwrap();
    for (b, &i) in batch.indices.iter().enumerate() {
        let image = &batch.images[b];
        assert_eq!(
            sizes[2 * b..2 * b + 2],
            [image.height as u32, image.width as u32]
        );
        let n = image.width * image.height;
        assert_eq!(images[300 * b..][..3 * n], image.rgb);
        match i {
            0 => assert_eq!(labels[100 * b..][..12], [254; 12]),
            _ => assert_eq!(labels[100 * b..][..96], image.label.clone().unwrap()),
        }
        assert_eq!(labels[100 * b + n], 7);
    }
    assert!(pack(&batch, 50, 254, &mut [0; 300], &mut [0; 100], &mut sizes).is_err());
    assert!(pack(&batch, 99, 254, &mut images, &mut labels, &mut sizes).is_err());
}

#[test]
fn splits_partition_and_are_reproducible() {
    let voc = Voc::new();
    fs::remove_file(voc.path("SegmentationClass/4.png")).unwrap();
    let found = discover(voc.dir.path()).unwrap();
    let lines = |list: &[(String, Sample)]| -> Vec<String> {
        list.iter().map(|(line, _)| line.clone()).collect()
    };
    let with_mask = lines(&found.labeled);
    assert_eq!(with_mask, ["0", "1", "2", "3", "5"]);
    assert_eq!(lines(&found.unlabeled), ["4"]);
    let (labeled, unlabeled) = make_split(&with_mask, 2, 1).unwrap();
    assert_eq!((labeled.len(), unlabeled.len()), (2, 3));
    let mut all = [labeled.clone(), unlabeled.clone()].concat();
    all.sort_unstable();
    assert_eq!(all, with_mask);
    assert_eq!(make_split(&with_mask, 2, 1).unwrap().0, labeled);
    let larger = make_split(&with_mask, 3, 1).unwrap().0;
    assert!(labeled.iter().all(|id| larger.contains(id)));

    let text = voc.text(&make_split(&with_mask, 6, 1).unwrap_err());
    assert_eq!(
        text,
        "--labeled 6: 5 images with a label exist; give 1 to 5"
    );
    make_split(&with_mask, 0, 1).unwrap_err();

    let out = voc.path("splits/2");
    let lists = [
        ("labeled.txt", labeled.as_slice()),
        ("unlabeled.txt", unlabeled.as_slice()),
    ];
    let written = write_lists(&out, &lists, "from nowhere\nby nobody").unwrap();
    let text = fs::read_to_string(&written[0]).unwrap();
    let expected = format!("# from nowhere\n# by nobody\n{}\n", labeled.join("\n"));
    assert_eq!(text, expected);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 2);
    let text = voc.text(&write_lists(&out, &lists, "").unwrap_err());
    assert!(
        text.starts_with("splits/2/labeled.txt: exists already"),
        "{text}"
    );
    let kept = fs::read_to_string(out.join("labeled.txt")).unwrap();
    assert_eq!(kept, expected);

    let text = voc.text(&discover(&voc.path("splits")).unwrap_err());
    assert!(text.contains("holds no images"), "{text}");
}
