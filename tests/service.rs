//! The example service, in this process: overlays of a folder's pictures, and what was wrong with
//! the others.

#[allow(dead_code)] // its `main`
#[path = "../examples/service.rs"]
mod service;
#[path = "support/small.rs"]
mod small;

use std::path::Path;

fn run(weights: &Path, pictures: &Path, out: &Path, more: &[&str]) -> Result<(), String> {
    let paths = [weights, pictures, out].map(|p| p.display().to_string());
    let more = more.iter().map(|s| s.to_string());
    let args: Vec<String> = paths.into_iter().chain(more).collect();
    service::run(&args).map_err(|e| e.to_string())
}

#[test]
fn every_picture_gets_an_overlay_and_damage_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let [run_folder, pictures, out] = ["run", "pictures", "out"].map(|n| dir.path().join(n));
    std::fs::create_dir(&run_folder).unwrap();
    std::fs::create_dir(&pictures).unwrap();
    small::run_folder(&run_folder, &small::config());
    let sizes = [(40, 56), (33, 48), (40, 56)];
    for (i, (height, width)) in sizes.into_iter().enumerate() {
        let pixels = small::noise(height, width, i as u64);
        let picture = image::RgbImage::from_raw(width as u32, height as u32, pixels).unwrap();
        picture.save(pictures.join(format!("{i}.png"))).unwrap();
    }
    run(&run_folder, &pictures, &out, &["2"]).unwrap();
    for (i, (height, width)) in sizes.into_iter().enumerate() {
        let name = format!("{i}.png");
        let before = image::open(pictures.join(&name)).unwrap().to_rgb8();
        let after = image::open(out.join(&name)).unwrap().to_rgb8();
        assert_eq!(after.dimensions(), (width as u32, height as u32));
        // Half of the picture is left, whatever the colours over it.
        for (a, b) in after.as_raw().iter().zip(before.as_raw()) {
            assert!((b / 2..=b / 2 + 128).contains(a), "{b} became {a}");
        }
    }

    std::fs::write(pictures.join("3.jpg"), b"no picture").unwrap();
    let error = run(&run_folder, &pictures, &out, &["1"]).unwrap_err();
    assert!(error.contains("1 of 4 pictures"), "{error}");
    for (more, word) in [
        (&["x"][..], "digit"),
        (&["0"], "callers"),
        (&["1", "tpu"], "tpu"),
        (&["1", "cpu", "fp8"], "precision"),
    ] {
        let error = run(&run_folder, &pictures, &out, more).unwrap_err();
        assert!(error.contains(word), "{error}");
    }
    let error = run(&run_folder, &dir.path().join("none"), &out, &[]).unwrap_err();
    assert!(error.contains("none"), "{error}");
}
