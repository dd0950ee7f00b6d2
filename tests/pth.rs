//! Files of PyTorch's: every tensor as PyTorch reads it, whatever format wrote it, and the way to
//! safetensors and back. `tests/golden/make_pth.py` wrote the files.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use tempfile::TempDir;
use u2pl_engine::config::schema::{Encoder, Model};
use u2pl_engine::graph::params::Kind;
use u2pl_engine::model;
use u2pl_engine::weights::{Reader, STUDENT, TEACHER, Writer, convert};

const FILES: [&str; 12] = [
    "kinds",
    "kinds_stream",
    "strides",
    "strides_stream",
    "checkpoint",
    "checkpoint_stream",
    "things",
    "protocol4",
    "protocol5",
    "alone",
    "unchecked",
    "backbone_tar",
];

fn golden(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pth");
    folder.join(name)
}

fn pth(name: &str) -> PathBuf {
    golden(&format!("{name}.pth"))
}

/// A tensor: type, shape, bytes.
type Tensor = (String, Vec<usize>, Vec<u8>);

/// Tensors of a safetensors file by name, names sorted.
fn tensors(path: &Path) -> Vec<(String, Tensor)> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<(String, Tensor)> = file
        .tensors()
        .into_iter()
        .map(|(name, t)| {
            let tensor = (t.dtype().to_string(), t.shape().to_vec(), t.data().to_vec());
            (name, tensor)
        })
        .collect();
    all.sort();
    all
}

/// What PyTorch found in `FILE.pth`.
fn expected(file: &str) -> Vec<(String, Tensor)> {
    let all = tensors(&golden("expected.safetensors"));
    let prefix = format!("{file}:");
    let own = all.into_iter().filter_map(|(name, tensor)| {
        let name = name.strip_prefix(&prefix)?.to_string();
        Some((name, tensor))
    });
    own.collect()
}

/// Metadata `pytorch` of a safetensors file.
fn note(path: &Path) -> String {
    let file = Reader::open(path).unwrap();
    file.require_meta("pytorch").unwrap().to_string()
}

#[test]
fn every_tensor_is_what_pytorch_reads() {
    let folder = TempDir::new().unwrap();
    let mut seen = 0;
    for name in FILES {
        let out = folder.path().join(format!("{name}.safetensors"));
        let converted = convert(&pth(name), &out).unwrap();
        let (found, expected) = (tensors(&out), expected(name));
        assert_eq!(found.len(), expected.len(), "{name}");
        assert_eq!(converted.tensors, expected.len(), "{name}");
        let bytes: usize = expected.iter().map(|(_, t)| t.2.len()).sum();
        assert_eq!(converted.bytes, bytes as u64, "{name}");
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected, "{name}");
        }
        seen += found.len();
    }
    assert_eq!(seen, tensors(&golden("expected.safetensors")).len());
}

#[test]
fn there_and_back_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let file = |name: String| folder.path().join(name);
    for name in FILES {
        let first = file(format!("{name}.1.safetensors"));
        let (ours, second) = (
            file(format!("{name}.pth")),
            file(format!("{name}.2.safetensors")),
        );
        let again = file(format!("{name}.again.pth"));
        convert(&pth(name), &first).unwrap();
        convert(&first, &ours).unwrap();
        convert(&ours, &second).unwrap();
        convert(&second, &again).unwrap();
        assert_eq!(tensors(&first), tensors(&second), "{name}");
        assert_eq!(note(&first), note(&second), "{name}");
        let whole = |path| fs::read(path).unwrap();
        assert!(whole(&first) == whole(&second), "{name}");
        assert!(whole(&ours) == whole(&again), "{name}");
    }
}

#[test]
fn what_surrounds_the_tensors_is_kept() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("w.safetensors");
    convert(&pth("things"), &out).unwrap();
    let bits = |v: f64| format!("{{\"float\":\"{:016x}\"}}", v.to_bits());
    let parts = [
        "[\"none\",null]",
        "[\"yes\",true]",
        "[\"byte\",200]",
        "[\"short\",60000]",
        "[\"negative\",-3]",
        "[\"long\",4611686018427387904]",
        &format!("[\"float\",{}]", bits(-0.1)),
        &format!("[\"nan\",{}]", bits(f64::NAN)),
        "[\"text\",\"Zürich\\n\"]",
        "[\"list\",[1,[2,[]]]]",
        "[\"tuple\",{\"tuple\":[1,\"a\",{\"tuple\":[]}]}]",
        "[\"five\",{\"tuple\":[1,2,3,4,5]}]",
        "[\"size\",{\"tuple\":[3,4]}]",
        &format!("[\"float32\",{}]", bits(0.5)),
        "[\"int64\",-9]",
        "[\"bool_\",true]",
        "[11,{\"dict\":[[12,{\"tensor\":true}]]}]",
    ];
    let note = note(&out);
    for part in parts {
        assert!(note.contains(part), "{part} in {note}");
    }
    for name in ["checkpoint", "checkpoint_stream", "protocol5"] {
        convert(&pth(name), &out).unwrap();
        let note = self::note(&out);
        assert!(note.contains("[\"epoch\",7]"), "{note}");
        let best = format!("[\"best_miou\",{}]", bits(0.7310585786300049));
        assert!(note.contains(&best), "{note}");
        assert!(note.contains("[\"model_state\",{\"ordered\":[[\"module.encoder.0.weight\","));
        assert!(note.contains("[\"params\",[0,1,2]]"), "{note}");
    }
}

#[test]
fn an_old_backbone_has_its_names_and_shapes() {
    let file = Reader::open(&pth("backbone_tar")).unwrap();
    let names = [
        "conv1.weight",
        "bn1.weight",
        "bn1.running_mean",
        "fc.weight",
        "steps",
    ];
    assert_eq!(file.names(), names);
    assert_eq!(file.shape("conv1.weight"), Some(&[4, 3, 3, 3][..]));
    assert_eq!(file.shape("fc.weight"), Some(&[6, 5][..]));
    assert_eq!(file.floats("fc.weight").unwrap().len(), 30);
}

#[test]
fn the_archive_is_laid_out_as_pytorch_does() {
    let folder = TempDir::new().unwrap();
    let (middle, ours) = (
        folder.path().join("w.safetensors"),
        folder.path().join("w.pth"),
    );
    convert(&pth("checkpoint"), &middle).unwrap();
    convert(&middle, &ours).unwrap();
    let bytes = fs::read(&ours).unwrap();
    let find = |what: &[u8]| bytes.windows(what.len()).position(|w| w == what);
    assert!(bytes.starts_with(b"PK\x03\x04"));
    assert_eq!(find(b"archive/data.pkl"), Some(30));
    // The first storage, after its header, begins at a multiple of 64.
    let header = find(b"archive/data/0").unwrap() - 30;
    let half = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let start = header + 30 + half(header + 26) + half(header + 28);
    assert_eq!(start % 64, 0);
    assert!(find(b"ctorch._utils\n_rebuild_tensor_v2\n").is_some());
    assert!(find(b"archive/byteorder").is_some() && find(b"archive/version").is_some());
    assert!(bytes[bytes.len() - 22..].starts_with(b"PK\x05\x06"));
}

#[test]
fn a_file_of_other_software_becomes_a_state_dict() {
    use safetensors::tensor::{Dtype, TensorView, serialize};
    let folder = TempDir::new().unwrap();
    let (plain, out) = (
        folder.path().join("w.safetensors"),
        folder.path().join("w.pth"),
    );
    let data = [1u8, 2, 3, 4, 5, 6, 7, 8];
    let view = |dtype, shape: &[usize]| TensorView::new(dtype, shape.to_vec(), &data).unwrap();
    let views = [
        ("a.weight", view(Dtype::F32, &[2])),
        ("a.bias", view(Dtype::U32, &[1, 2])),
    ];
    // A map of the crate's own kind.
    let format = std::iter::once(("format".to_string(), "pt".to_string())).collect();
    fs::write(&plain, serialize(views, Some(format)).unwrap()).unwrap();
    let converted = convert(&plain, &out).unwrap();
    assert_eq!(converted.dropped, ["format"]);
    let file = Reader::open(&out).unwrap();
    let mut names = file.names();
    names.sort();
    assert_eq!(names, ["a.bias", "a.weight"]);
    assert_eq!(
        file.tensor::<u32>("a.bias").unwrap(),
        [0x0403_0201, 0x0807_0605]
    );

    let views = [(
        "odd",
        TensorView::new(Dtype::F8_E4M3, vec![8], &data).unwrap(),
    )];
    fs::write(&plain, serialize(views, None).unwrap()).unwrap();
    let text = convert(&plain, &out).unwrap_err().to_string();
    assert!(
        text.contains("w.safetensors: odd is stored as F8_E4M3"),
        "{text}"
    );
}

#[test]
fn the_ending_says_what_to_write() {
    let folder = TempDir::new().unwrap();
    let text = convert(&pth("alone"), &folder.path().join("w.onnx"))
        .unwrap_err()
        .to_string();
    assert!(text.contains("w.onnx: does not say which format"), "{text}");
    let text = convert(Path::new("absent.pth"), Path::new("w.pth"))
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("absent.pth: cannot read the weights"),
        "{text}"
    );
    // An old file in the format of today.
    let new = folder.path().join("new.pt");
    convert(&pth("backbone_tar"), &new).unwrap();
    let (old, new) = (
        Reader::open(&pth("backbone_tar")).unwrap(),
        Reader::open(&new).unwrap(),
    );
    assert_eq!(old.names(), new.names());
    assert_eq!(
        old.floats("fc.weight").unwrap(),
        new.floats("fc.weight").unwrap()
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// Whichever tensors of it go into the networks of the authors' code.
#[test]
fn a_checkpoint_of_this_engine_comes_back_from_the_authors_layout() {
    let cfg = Model {
        encoder: Encoder::Resnet18,
        width: 4,
        head_width: 4,
        rep_width: 4,
        multi_grid: false,
        aux: true,
        ..Model::default()
    };
    let layout = model::layout(&cfg, 3).unwrap();
    let (weights, buffers) = model::init(&layout, 1);
    let folder = TempDir::new().unwrap();
    let file = |name: &str| folder.path().join(name);
    for algorithm in ["u2pl", "supervised"] {
        let mut writer = Writer::new();
        for prefix in [STUDENT, TEACHER] {
            writer.params(prefix, &layout, &weights, &buffers).unwrap();
        }
        writer
            .flat("velocity.", &layout, Kind::Weight, &weights)
            .unwrap();
        writer.meta("config", format!("train: {{algorithm: {algorithm}}}\n"));
        writer.meta("best_miou", 0.5f64.to_bits().to_string());
        writer.save(&file("w.safetensors")).unwrap();
        convert(&file("w.safetensors"), &file("w.pth")).unwrap();
        convert(&file("w.pth"), &file("back.safetensors")).unwrap();
        let [before, after] = ["w", "back"].map(|n| tensors(&file(&format!("{n}.safetensors"))));
        assert!(before == after, "{algorithm}");
    }
}
