//! The C interface, called as C would: the answers are the Segmenter's, on any number of threads.

use std::ffi::CStr;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};

#[path = "support/small.rs"]
mod small;
#[path = "support/capi.rs"]
mod support;

use small::{CLASSES, noise};
use support::*;
use u2pl_engine::ffi::capi::u2pl_status::{U2PL_ERROR_BUSY as BUSY, U2PL_ERROR_HANDLE as HANDLE};
use u2pl_engine::ffi::capi::*;
use u2pl_engine::infer::{Channels, Image, InputShape, Options, Samples};

#[test]
fn answers_are_the_segmenters_bit_for_bit() {
    let scales = [0.75f32, 1.0];
    let (plain, several) = (
        Opened::new(),
        Opened::with(|o| {
            (o.scales, o.scale_count, o.flip) = (scales.as_ptr(), 2, 1);
        }),
    );
    let looks = Options {
        scales: scales.to_vec(),
        flip: true,
        ..Options::default()
    };
    for (opened, options) in [(&plain, Options::default()), (&several, looks)] {
        let segmenter = opened.segmenter(options);
        let pixels = noise(HEIGHT, WIDTH, 2);
        let mut room = Room::new(HEIGHT * WIDTH);
        let mut maps = room.maps();
        maps.probabilities = room.probabilities.as_mut_ptr();
        fine(opened.segment(&[packed(&pixels)], &[maps]));
        room.holds(&segmenter.segment(&rgb(&pixels)).unwrap());
        let probabilities = segmenter.probabilities(&rgb(&pixels)).unwrap();
        assert_eq!(room.probabilities, probabilities);
    }
}

#[test]
fn layouts_channels_and_types_are_those_of_image() {
    let opened = Opened::new();
    let segmenter = opened.segmenter(Options::default());
    let pixels = noise(HEIGHT, WIDTH, 3);
    let bgra: Vec<u8> = pixels
        .chunks_exact(3)
        .flat_map(|p| [p[2], p[1], p[0], 7])
        .collect();
    let planes: Vec<f32> = (0..3)
        .flat_map(|c| pixels.iter().skip(c).step_by(3))
        .map(|&b| f32::from(b) / 255.0)
        .collect();
    let grey = &pixels[..HEIGHT * WIDTH];
    let samples = Samples::F32(&planes);
    let cases = [
        (
            u2pl_image {
                data: bgra.as_ptr().cast(),
                sample_count: bgra.len(),
                channels: U2PL_BGRA,
                ..packed(&pixels)
            },
            rgb(&pixels),
        ),
        (
            u2pl_image {
                data: planes.as_ptr().cast(),
                sample_count: planes.len(),
                sample_type: U2PL_F32,
                row_stride: WIDTH,
                pixel_stride: 1,
                channel_stride: HEIGHT * WIDTH,
                ..packed(&pixels)
            },
            Image::planar(samples, HEIGHT, WIDTH, Channels::Rgb).unwrap(),
        ),
        (
            u2pl_image {
                channels: U2PL_GRAY,
                sample_count: grey.len(),
                ..packed(grey)
            },
            Image::packed(Samples::U8(grey), HEIGHT, WIDTH, Channels::Gray).unwrap(),
        ),
    ];
    for (given, image) in &cases {
        let mut room = Room::new(HEIGHT * WIDTH);
        fine(opened.segment(&[*given], &[room.maps()]));
        room.holds(&segmenter.segment(image).unwrap());
    }
    // All at once, of several types: one by one inside.
    let mut rooms: Vec<Room> = cases.iter().map(|_| Room::new(HEIGHT * WIDTH)).collect();
    let maps: Vec<u2pl_maps> = rooms.iter_mut().map(Room::maps).collect();
    let given: Vec<u2pl_image> = cases.iter().map(|(given, _)| *given).collect();
    fine(opened.segment(&given, &maps));
    let images: Vec<Image> = cases.iter().map(|(_, image)| *image).collect();
    for (room, found) in rooms.iter().zip(segmenter.segment_batch(&images).unwrap()) {
        room.holds(&found);
    }
}

#[test]
fn what_is_null_is_not_wanted_and_larger_rooms_keep_their_rest() {
    let opened = Opened::new();
    let pixels = noise(HEIGHT, WIDTH, 4);
    let mut room = Room::new(HEIGHT * WIDTH + 3);
    let all = room.maps();
    let only_classes = u2pl_maps {
        confidence: null_mut(),
        entropy: null_mut(),
        ..all
    };
    let nothing = u2pl_maps {
        classes: null_mut(),
        ..only_classes
    };
    fine(opened.segment(&[packed(&pixels)], &[nothing]));
    assert!(room.classes.iter().all(|&c| c == 99));
    fine(opened.segment(&[packed(&pixels)], &[only_classes]));
    let found = opened.segmenter(Options::default());
    let found = found.segment(&rgb(&pixels)).unwrap();
    assert_eq!(room.classes[..HEIGHT * WIDTH], found.classes);
    assert_eq!(room.classes[HEIGHT * WIDTH..], [99; 3]);
    assert!(room.confidence.iter().all(|c| c.is_nan()));
}

#[test]
fn what_a_handle_says_of_itself_is_what_the_segmenter_says() {
    let opened = Opened::new();
    let segmenter = opened.segmenter(Options::default());
    let mut number = 0;
    let mut palette = [1u8; 768];
    // SAFETY: the handle is open; the places are large enough.
    unsafe {
        fine(u2pl_classes(opened.handle, &mut number));
        assert_eq!(number, CLASSES);
        fine(u2pl_weights_bytes(opened.handle, &mut number));
        assert_eq!(number, segmenter.weights_bytes());
        fine(u2pl_palette(opened.handle, palette.as_mut_ptr()));
        assert_eq!(palette[..], *segmenter.palette().as_flattened());
        let version = CStr::from_ptr(u2pl_version()).to_str().unwrap();
        assert_eq!(version, env!("CARGO_PKG_VERSION"));
        fine(u2pl_memory_required(
            opened.handle,
            1,
            HEIGHT,
            WIDTH,
            U2PL_U8,
            &mut number,
        ));
    }
    let shape = InputShape::bytes(HEIGHT, WIDTH);
    assert_eq!(number, segmenter.memory_required(shape).unwrap());
    fine(u2pl_warm_up(opened.handle, 2, 1, HEIGHT, WIDTH, U2PL_U8));
    fine(u2pl_warm_up(opened.handle, 1, 3, HEIGHT, WIDTH, U2PL_F32));
    opened.works();
}

#[test]
fn closing_while_others_segment_lets_them_end() {
    let opened = Opened::new();
    let started = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let (opened, started) = (&opened, &started);
            scope.spawn(move || {
                let pixels = noise(HEIGHT, WIDTH, seed);
                let mut room = Room::new(HEIGHT * WIDTH);
                let mut first = None;
                loop {
                    let status = opened.segment(&[packed(&pixels)], &[room.maps()]);
                    started.fetch_add(1, Ordering::SeqCst);
                    if status == HANDLE {
                        break;
                    }
                    fine(status);
                    assert_eq!(*first.get_or_insert(room.entropy.clone()), room.entropy);
                }
            });
        }
        while started.load(Ordering::SeqCst) < 6 {
            std::thread::yield_now();
        }
        fine(u2pl_close(opened.handle));
    });
}

#[test]
fn a_message_is_its_threads_own() {
    refused(
        u2pl_close(16_000 as *mut u2pl_segmenter),
        HANDLE,
        &["handle"],
    );
    std::thread::spawn(|| assert_eq!(told(), ""))
        .join()
        .unwrap();
    // What succeeds leaves the message alone.
    defaults();
    assert!(told().contains("handle"));
}

#[test]
fn more_threads_than_callers_are_told_and_the_others_go_on() {
    let opened = Opened::with(|o| o.callers = 2);
    let status = u2pl_warm_up(opened.handle, 3, 1, HEIGHT, WIDTH, U2PL_U8);
    refused(status, BUSY, &["more callers"]);
    let segmenter = opened.segmenter(Options::default());
    std::thread::scope(|scope| {
        for seed in 0..6 {
            let (opened, segmenter) = (&opened, &segmenter);
            scope.spawn(move || {
                let pixels = noise(HEIGHT, WIDTH, seed);
                let mut room = Room::new(HEIGHT * WIDTH);
                loop {
                    match opened.segment(&[packed(&pixels)], &[room.maps()]) {
                        BUSY => assert!(told().contains("2 calls"), "{}", told()),
                        status => break fine(status),
                    }
                    std::thread::yield_now();
                }
                room.holds(&segmenter.segment(&rgb(&pixels)).unwrap());
            });
        }
    });
    opened.works();
}

#[test]
fn the_same_under_valgrind() {
    under_valgrind("the_same_under_valgrind");
}
