//! Weights on disk: round trips, what other tools see, partial starts, and bad files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use u2pl_engine::config::schema::{Encoder, Model, Stem};
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::device::gpu::MathMode;
use u2pl_engine::device::{DType, Device, View, elements};
use u2pl_engine::eval::LoadedWeights;
use u2pl_engine::graph::exec::read_view;
use u2pl_engine::graph::params::{Kind, Layout};
use u2pl_engine::model;
use u2pl_engine::weights::{
    Prefer, Reader, STUDENT, TEACHER, Writer, init_params, read_flat, read_params,
};

fn small(encoder: Encoder) -> Model {
    Model {
        encoder,
        width: 4,
        head_width: 4,
        rep_width: 4,
        multi_grid: false,
        ..Model::default()
    }
}

fn layout(encoder: Encoder) -> Layout {
    model::layout(&small(encoder), 3).unwrap()
}

/// A folder, and the network of `layout` from `seed` saved in it under `prefix`.
fn saved(layout: &Layout, seed: u64, prefix: &str) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("w.safetensors");
    save(&path, layout, seed, prefix);
    (folder, path)
}

fn save(path: &Path, layout: &Layout, seed: u64, prefix: &str) {
    let (weights, buffers) = model::init(layout, seed);
    let mut writer = Writer::new();
    writer.params(prefix, layout, &weights, &buffers).unwrap();
    writer.save(path).unwrap();
}

fn message(result: u2pl_engine::Result<impl Sized>) -> String {
    let error = result.err().expect("an error");
    assert_eq!(error.exit_code(), 2, "{error}");
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn networks_come_back_as_they_went() {
    let layout = layout(Encoder::Resnet18);
    for prefix in ["", "module.", STUDENT, TEACHER, "model_state.module."] {
        let (_folder, path) = saved(&layout, 7, prefix);
        let file = Reader::open(&path).unwrap();
        let read = read_params(&file, &layout, Prefer::Teacher).unwrap();
        assert!(read == model::init(&layout, 7), "{prefix}");
    }
}

#[test]
fn networks_reach_a_device_tensor_by_tensor_as_they_do_at_once() {
    let layout = layout(Encoder::Resnet18);
    let (_folder, path) = saved(&layout, 7, TEACHER);
    let (weights, buffers) = model::init(&layout, 7);
    for precision in [MathMode::Fp32, MathMode::Bf16] {
        let cpu = CpuDevice::with_precision(1, precision).unwrap();
        let device: Arc<dyn Device> = Arc::new(cpu);
        let file = Reader::open(&path).unwrap();
        let read = LoadedWeights::read(&device, &layout, &file, Prefer::Teacher).unwrap();
        let whole = LoadedWeights::new(&device, &layout, &weights, &buffers).unwrap();
        assert_eq!(read.weights().set, whole.weights().set);
        let bytes = |loaded: &LoadedWeights| -> Vec<u8> {
            let shape = [1, 1, 1, loaded.bytes()];
            let place = View::dense(loaded.weights().arena, 0, shape, DType::U8);
            read_view(&*device, &place).unwrap()
        };
        assert!(bytes(&read) == bytes(&whole), "{precision:?}");
        // In bf16 the kernels are there once, in half as many bytes.
        let kernels = layout.weights_len() - layout.vectors_len();
        let least = layout.vectors_len() + layout.buffers_len();
        let expected = match precision {
            MathMode::Bf16 => 2 * kernels + 4 * least + 2 * layout.vectors_len(),
            _ => 4 * kernels + 4 * least,
        };
        assert!((expected..expected + 1024).contains(&read.bytes()));
    }
}

#[test]
fn a_checkpoint_holds_both_networks_and_everything_else() {
    let layout = layout(Encoder::Resnet18);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("last.safetensors");
    let (student, teacher) = (model::init(&layout, 1), model::init(&layout, 2));
    let velocity = model::init(&layout, 3).0;
    let (bank, cursor, labels) = ([0.5f32; 6], [1u32, u32::MAX], [9u8; 3]);
    let mut writer = Writer::new();
    writer
        .params(STUDENT, &layout, &student.0, &student.1)
        .unwrap();
    writer
        .params(TEACHER, &layout, &teacher.0, &teacher.1)
        .unwrap();
    writer
        .flat("velocity.", &layout, Kind::Weight, &velocity)
        .unwrap();
    writer.tensor("labels", &[3], &labels).unwrap();
    writer.tensor("bank", &[2, 3], &bank).unwrap();
    writer.tensor("cursor", &[2], &cursor).unwrap();
    writer
        .meta("config", "model:\n  width: 4\n")
        .meta("epoch", "3");
    writer.save(&path).unwrap();

    let file = Reader::open(&path).unwrap();
    assert!(read_params(&file, &layout, Prefer::Student).unwrap() == student);
    assert!(read_params(&file, &layout, Prefer::Teacher).unwrap() == teacher);
    let read = read_flat(&file, &layout, Kind::Weight, "velocity.").unwrap();
    assert!(read == velocity);
    assert_eq!(file.tensor::<f32>("bank").unwrap(), bank);
    assert_eq!(file.shape("bank"), Some(&[2, 3][..]));
    assert_eq!(file.tensor::<u32>("cursor").unwrap(), cursor);
    assert_eq!(file.tensor::<u8>("labels").unwrap(), labels);
    assert_eq!(file.meta("config"), Some("model:\n  width: 4\n"));
    assert_eq!(file.require_meta("epoch").unwrap(), "3");
    assert!(message(file.require_meta("iter")).contains("has no iter"));
    assert!(message(file.tensor::<u8>("bank")).contains("bank is stored as F32"));
}

#[test]
fn other_tools_see_pytorchs_order() {
    let layout = layout(Encoder::Resnet18);
    let (_folder, path) = saved(&layout, 5, "");
    let bytes = fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (weights, _) = model::init(&layout, 5);
    let name = "encoder.conv1.3.weight";
    let spec = layout.get(name).unwrap();
    let [k, r, s, c] = spec.shape;
    let theirs = tensors.tensor(name).unwrap();
    assert_eq!(theirs.shape(), [k, c, r, s]);
    let values: Vec<f32> = bytemuck::pod_collect_to_vec(theirs.data());
    let ours = &weights[spec.offset..spec.offset + elements(spec.shape)];
    // Filter 2, row 0, column 1, channel 3.
    assert_eq!(
        values[((2 * c + 3) * r) * s + 1],
        ours[((2 * r) * s + 1) * c + 3]
    );
    let gamma = tensors.tensor("encoder.bn1.weight").unwrap();
    assert_eq!(gamma.shape(), [8]);
}

#[test]
fn half_precision_and_double_are_read() {
    use half::{bf16, f16};
    use safetensors::tensor::{Dtype, TensorView, serialize};
    let values = [1.5f32, -0.25];
    let half: Vec<u8> = bytemuck::cast_slice(&values.map(f16::from_f32)).to_vec();
    let brain: Vec<u8> = bytemuck::cast_slice(&values.map(bf16::from_f32)).to_vec();
    let double: Vec<u8> = bytemuck::cast_slice(&values.map(f64::from)).to_vec();
    let stored = [
        ("f16", Dtype::F16, half),
        ("bf16", Dtype::BF16, brain),
        ("f64", Dtype::F64, double),
    ];
    let views = stored
        .iter()
        .map(|(name, dtype, data)| (*name, TensorView::new(*dtype, vec![2], data).unwrap()));
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("w.safetensors");
    fs::write(&path, serialize(views, None).unwrap()).unwrap();
    let file = Reader::open(&path).unwrap();
    for name in ["f16", "bf16", "f64"] {
        assert_eq!(file.floats(name).unwrap(), values, "{name}");
    }
}

#[test]
fn the_bytes_are_a_function_of_the_contents() {
    let layout = layout(Encoder::Resnet18);
    let (_a, first) = saved(&layout, 1, "");
    let (_b, second) = saved(&layout, 1, "");
    assert!(fs::read(first).unwrap() == fs::read(second).unwrap());
}

#[test]
fn a_failed_save_leaves_the_folder_as_it_was() {
    let layout = layout(Encoder::Resnet18);
    let folder = TempDir::new().unwrap();
    // A folder stands where the file should go, so the rename fails after everything is written.
    let path = folder.path().join("last.safetensors");
    fs::create_dir_all(path.join("occupied")).unwrap();
    let (weights, buffers) = model::init(&layout, 1);
    let mut writer = Writer::new();
    writer.params("", &layout, &weights, &buffers).unwrap();
    assert!(message(writer.save(&path)).contains("cannot replace the weights"));
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1);
    let nowhere = folder.path().join("missing/last.safetensors");
    assert!(message(writer.save(&nowhere)).contains("cannot write the weights"));
}

#[test]
fn a_save_replaces_the_old_file() {
    let layout = layout(Encoder::Resnet18);
    let (folder, path) = saved(&layout, 1, "");
    save(&path, &layout, 2, "");
    let file = Reader::open(&path).unwrap();
    let read = read_params(&file, &layout, Prefer::Student).unwrap();
    assert!(read == model::init(&layout, 2));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn another_architecture_is_named_by_its_first_tensors() {
    let (shallow, deep) = (layout(Encoder::Resnet18), layout(Encoder::Resnet34));
    let (_folder, path) = saved(&shallow, 1, TEACHER);
    let text = message(read_params(
        &Reader::open(&path).unwrap(),
        &deep,
        Prefer::Teacher,
    ));
    assert!(text.contains("w.safetensors"), "{text}");
    assert!(
        text.contains("encoder.layer1.2.conv1.weight [4, 4, 3, 3] is missing"),
        "{text}"
    );
    assert!(text.contains("more"), "{text}");
    assert!(text.contains("config.yaml"), "{text}");

    // The deeper network has every tensor of the shallower one, and is not it.
    let (_folder, path) = saved(&deep, 1, "");
    let text = message(read_params(
        &Reader::open(&path).unwrap(),
        &shallow,
        Prefer::Teacher,
    ));
    assert!(text.contains("encoder.layer1.2."), "{text}");
    assert!(text.contains("is not in the network"), "{text}");

    let six = model::layout(&small(Encoder::Resnet18), 6).unwrap();
    let (_folder, path) = saved(&six, 1, "");
    let text = message(read_params(
        &Reader::open(&path).unwrap(),
        &shallow,
        Prefer::Teacher,
    ));
    assert!(
        text.contains("decoder.classifier.8.weight is [6, 4, 1, 1], the network's is [3, 4, 1, 1]"),
        "{text}"
    );
}

/// Scripts that train on labels alone save no representation head, others no auxiliary one.
#[test]
fn heads_that_only_training_uses_may_be_missing_as_a_whole() {
    let cfg = Model {
        aux: true,
        ..small(Encoder::Resnet18)
    };
    let layout = model::layout(&cfg, 3).unwrap();
    let (folder, path) = saved(&layout, 1, "module.");
    let whole = Reader::open(&path).unwrap();
    let path = folder.path().join("part.safetensors");
    let part = |kept: &dyn Fn(&str) -> bool| {
        let mut writer = Writer::new();
        for name in whole.names().iter().filter(|name| kept(name)) {
            writer.copy(&whole, name).unwrap();
        }
        writer.save(&path).unwrap();
        Reader::open(&path).unwrap()
    };
    let (weights, _) = model::init(&layout, 1);
    for (head, last) in [
        ("decoder.representation.", "decoder.representation.8.bias"),
        ("auxor.", "auxor.aux.4.bias"),
    ] {
        let file = part(&|name| !name.contains(head));
        let (found, _) = read_params(&file, &layout, Prefer::Teacher).unwrap();
        for spec in layout.specs().iter().filter(|s| s.kind == Kind::Weight) {
            let range = spec.offset..spec.offset + elements(spec.shape);
            match spec.name.starts_with(head) {
                true => assert!(found[range].iter().all(|&v| v == 0.0), "{}", spec.name),
                false => assert!(found[range.clone()] == weights[range], "{}", spec.name),
            }
        }
        // Without a part of a head it is another network.
        let file = part(&|name| !name.contains(last));
        let text = message(read_params(&file, &layout, Prefer::Teacher));
        assert!(text.contains(&format!("{last} [")), "{text}");
        assert!(text.contains("is missing"), "{text}");
    }
}

#[test]
fn a_start_takes_what_matches() {
    let three = layout(Encoder::Resnet18);
    let six = model::layout(&small(Encoder::Resnet18), 6).unwrap();
    let (_folder, path) = saved(&three, 1, "module.");
    let file = Reader::open(&path).unwrap();
    let (mut weights, mut buffers) = model::init(&six, 2);
    let fresh = weights.clone();
    let report = init_params(&file, &six, Prefer::Teacher, &mut weights, &mut buffers).unwrap();
    assert_eq!(report.total, six.specs().len());
    assert_eq!(report.matched, report.total - 2);
    assert_eq!(report.warnings.len(), 2);
    assert!(report.warnings[0].starts_with("decoder.classifier.8.weight is [3, 4, 1, 1]"));
    let theirs = model::init(&three, 1).0;
    for spec in six.specs().iter().filter(|s| s.kind == Kind::Weight) {
        let ours = &weights[spec.offset..spec.offset + elements(spec.shape)];
        let from = three.get(&spec.name).unwrap().offset;
        let expected = match spec.name.starts_with("decoder.classifier.8.") {
            true => &fresh[spec.offset..],
            false => &theirs[from..],
        };
        assert_eq!(ours, &expected[..ours.len()], "{}", spec.name);
    }
}

#[test]
fn a_start_takes_an_encoder_alone() {
    let layout = layout(Encoder::Resnet18);
    let values = model::init(&layout, 1).0;
    let encoder = |name: &str| name.strip_prefix("encoder.").map(str::to_string);
    // As ImageNet checkpoints name it: `layer1.0.conv1.weight`.
    let mut writer = Writer::new();
    let names: Vec<(String, usize)> = layout
        .specs()
        .iter()
        .filter(|s| s.name.ends_with("bn1.weight"))
        .filter_map(|s| Some((encoder(&s.name)?, s.offset)))
        .collect();
    for (name, offset) in &names {
        let width = layout.get(&format!("encoder.{name}")).unwrap().shape[3];
        writer
            .tensor(name, &[width], &values[*offset..offset + width])
            .unwrap();
    }
    let fc = [0.0f32; 4];
    writer.tensor("fc.bias", &[4], &fc).unwrap();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("imagenet.safetensors");
    writer.save(&path).unwrap();
    let file = Reader::open(&path).unwrap();
    let (mut weights, mut buffers) = model::init(&layout, 2);
    let report = init_params(&file, &layout, Prefer::Teacher, &mut weights, &mut buffers).unwrap();
    assert_eq!(report.matched, names.len());
    assert!(report.warnings.is_empty());
}

#[test]
fn a_start_refuses_another_stem_and_a_stranger() {
    let deep = layout(Encoder::Resnet18);
    let cfg = Model {
        stem: Stem::Conv7,
        ..small(Encoder::Resnet18)
    };
    let (_folder, path) = saved(&model::layout(&cfg, 3).unwrap(), 1, "");
    let file = Reader::open(&path).unwrap();
    let (mut weights, mut buffers) = model::init(&deep, 2);
    let before = weights.clone();
    let mut start = |file: &Reader| {
        message(init_params(
            file,
            &deep,
            Prefer::Teacher,
            &mut weights,
            &mut buffers,
        ))
    };
    let text = start(&file);
    assert!(
        text.contains("encoder.bn1.weight is [4], the network's is [8]"),
        "{text}"
    );

    let folder = TempDir::new().unwrap();
    let path = folder.path().join("other.safetensors");
    Writer::new()
        .tensor("transformer.bias", &[1], &[0.0f32])
        .unwrap()
        .save(&path)
        .unwrap();
    let text = start(&Reader::open(&path).unwrap());
    assert!(text.contains("begins with transformer.bias"), "{text}");
    assert!(weights == before, "a refused start changes nothing");
}

#[test]
fn bad_files_are_told_apart() {
    let layout = layout(Encoder::Resnet18);
    let (folder, path) = saved(&layout, 1, "");
    let whole = fs::read(&path).unwrap();
    let open = |bytes: &[u8]| {
        let path = folder.path().join("bad.safetensors");
        fs::write(&path, bytes).unwrap();
        let text = message(Reader::open(&path));
        assert!(text.contains("bad.safetensors"), "{text}");
        text
    };
    let cut = open(&whole[..whole.len() - 5]);
    assert!(cut.contains(&format!(
        "is truncated: {} of {} bytes",
        whole.len() - 5,
        whole.len()
    )));
    assert!(open(&whole[..100]).contains("is truncated"));
    assert!(open(b"").contains("is empty"));
    let neither = "is neither a safetensors file nor one of PyTorch's";
    assert!(open(b"short").contains(neither));
    assert!(open(b"\xff\xd8\xff\xe0 a JPEG, say").contains(neither));
    assert!(open(b"PK\x03\x04 zip archive").contains("a zip archive without an end"));
    assert!(open(&[&whole[..], b"tail"].concat()).contains("4 bytes after the last tensor"));
    let mut garbled = whole.clone();
    garbled[9] = b'!';
    assert!(open(&garbled).contains("broken safetensors header"));
    let missing = message(Reader::open(&folder.path().join("absent.safetensors")));
    assert!(missing.contains("cannot read the weights"), "{missing}");
    let directory = message(Reader::open(folder.path()));
    assert!(directory.contains("cannot read the weights"), "{directory}");
}
