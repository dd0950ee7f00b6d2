//! Exported networks: whole, in order, and the same bytes every time. That they compute what the
//! engine does is checked against onnxruntime by `scripts/onnx-check.py`.
#![cfg(feature = "cli")]

use std::collections::HashSet;

use prost::Message;
use u2pl_engine::config::Config;
use u2pl_engine::config::schema::{Decoder, Encoder, Protocol, Stem};
use u2pl_engine::export::onnx::{encode, left_to_caller, schema::Model};
use u2pl_engine::model;

fn config(encoder: Encoder, decoder: Decoder, stem: Stem) -> Config {
    let mut cfg = Config::default();
    cfg.data.classes = 5;
    cfg.data.class_names = ["a", "b", "c", "d", "e"].map(String::from).to_vec();
    let m = &mut cfg.model;
    (m.encoder, m.decoder, m.stem, m.width) = (encoder, decoder, stem, 8);
    (m.head_width, m.rep_width) = (16, 16);
    m.multi_grid = !matches!(encoder, Encoder::Resnet18);
    cfg
}

#[test]
fn every_network_is_whole_and_in_order() {
    for encoder in [Encoder::Resnet18, Encoder::Resnet50] {
        for decoder in [Decoder::Deeplabv3, Decoder::Deeplabv3plus] {
            for (stem, stride) in [(Stem::Deep, 8), (Stem::Conv7, 16), (Stem::Deep, 32)] {
                let mut cfg = config(encoder, decoder, stem);
                cfg.model.output_stride = stride;
                let layout = model::layout(&cfg.model, 5).unwrap();
                let (weights, buffers) = model::init(&layout, 3);
                let bytes = encode(&cfg, &layout, &weights, &buffers).unwrap();
                assert_eq!(bytes, encode(&cfg, &layout, &weights, &buffers).unwrap());
                let read = Model::decode(&bytes[..]).unwrap();
                let graph = read.graph.unwrap();

                let mut known: HashSet<&str> = graph.input.iter().map(|i| i.name()).collect();
                for tensor in &graph.initializer {
                    assert!(known.insert(tensor.name()), "{} twice", tensor.name());
                    let size = if tensor.data_type() == 1 { 4 } else { 8 };
                    let elements: i64 = tensor.dims.iter().product();
                    assert_eq!(tensor.raw_data().len() as i64, size * elements);
                }
                for node in &graph.node {
                    for input in node.input.iter().filter(|i| !i.is_empty()) {
                        assert!(known.contains(input.as_str()), "{input} of {}", node.name());
                    }
                    for output in &node.output {
                        assert!(known.insert(output), "{output} twice");
                    }
                }
                assert_eq!(graph.output[0].name(), "logits");
                assert!(known.contains("logits"));
                // Every parameter but those of the representation head, under its own name.
                for spec in layout.specs() {
                    let wanted = !spec.name.starts_with("decoder.representation.");
                    assert_eq!(known.contains(spec.name.as_str()), wanted, "{}", spec.name);
                }
                let names = read
                    .metadata_props
                    .iter()
                    .find(|e| e.key() == "class_names");
                assert_eq!(names.unwrap().value(), "a,b,c,d,e");
            }
        }
    }
}

#[test]
fn the_picture_is_resized_in_the_graph_and_the_rest_is_said() {
    let mut cfg = config(Encoder::Resnet18, Decoder::Deeplabv3plus, Stem::Deep);
    let layout = model::layout(&cfg.model, 5).unwrap();
    let (weights, buffers) = model::init(&layout, 3);
    for (scale, windows, looks) in [
        (1.0, false, vec![1.0]),
        (0.4, false, vec![1.0]),
        (2.0, true, vec![0.5, 1.0]),
        (0.75, true, vec![1.0]),
    ] {
        cfg.data.image_scale = scale;
        cfg.eval.protocol = if windows {
            Protocol::Sliding
        } else {
            Protocol::Whole
        };
        cfg.eval.scales = looks.clone();
        cfg.eval.flip = windows;
        let bytes = encode(&cfg, &layout, &weights, &buffers).unwrap();
        let read = Model::decode(&bytes[..]).unwrap();
        let graph = read.graph.unwrap();
        // What is normalised is the picture, resized or as it is.
        let centred = graph.node.iter().find(|n| n.name() == "centred").unwrap();
        let wanted = if scale == 1.0 { "image" } else { "scaled" };
        assert_eq!(centred.input[0], wanted);
        let resizes = graph
            .node
            .iter()
            .filter(|n| n.op_type() == "Resize" && n.name() == "scaled");
        assert_eq!(resizes.count(), usize::from(scale != 1.0));
        let meta = |key: &str| {
            let found = read.metadata_props.iter().find(|e| e.key() == key);
            found.map(|e| e.value().to_string())
        };
        assert_eq!(meta("image_scale").unwrap(), scale.to_string());
        assert_eq!(meta("mean").unwrap(), "123.675,116.28,103.53");
        let left = meta("left_to_caller").unwrap_or_default();
        assert_eq!(left, left_to_caller(&cfg).join("; "));
        assert_eq!(left.contains("sliding windows"), windows);
        assert_eq!(left.contains("mirrored"), windows);
        assert_eq!(left.contains("scales"), looks.len() > 1);
    }
}
