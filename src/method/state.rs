//! What survives a step, laid out in the state arena.

use crate::Result;
use crate::config::schema::Config;
use crate::device::DType;
use crate::graph::params::{Layout, ParamSet};
use crate::graph::state::State;
use crate::method::schedule::{Scalars, bank_capacities, contrast_weight};

/// Lays out parameters, optimiser, teacher, memory bank, random state and staging.
/// `cap_pixels` is the size of the largest image of the training lists; with maps of bf16 there
/// are bf16 copies of the weights too.
pub fn layout(cfg: &Config, params: &Layout, cap_pixels: usize, map: DType) -> State {
    let mut state = State::new();
    let vector = |n| [1, 1, 1, n];
    for who in ["student", "teacher"] {
        state.add(
            &format!("{who}.weights"),
            vector(params.weights_len()),
            DType::F32,
        );
        if map == DType::BF16 {
            state.add(
                &copy_name(&format!("{who}.weights")),
                vector(params.weights_len()),
                DType::BF16,
            );
        }
        state.add(
            &format!("{who}.buffers"),
            vector(params.buffers_len()),
            DType::F32,
        );
    }
    state.add("velocity", vector(params.weights_len()), DType::F32);
    if cfg.train.micro_batches > 1 {
        state.add("gradients", vector(params.weights_len()), DType::F32);
    }
    state.add("rng", vector(4), DType::U32);
    state.add("scalars", vector(Scalars::LEN), DType::F32);
    stage(&mut state, "labeled", cfg.train.batch_labeled, cap_pixels);
    if cfg.train.algorithm.uses_unlabeled() {
        stage(
            &mut state,
            "unlabeled",
            cfg.train.batch_unlabeled,
            cap_pixels,
        );
        if contrast_weight(cfg) != 0.0 {
            let rows: usize = bank_capacities(cfg).iter().map(|&q| q as usize).sum();
            state.add("bank", [1, 1, rows, cfg.model.rep_width], DType::F32);
            state.add("bank.inv_norm", vector(rows), DType::F32);
            state.add("bank.cursor", [1, 1, 2, cfg.data.classes], DType::U32);
        }
    }
    state
}

fn stage(state: &mut State, which: &str, batch: usize, cap_pixels: usize) {
    state.add(
        &format!("{which}.images"),
        [batch, 1, 1, 3 * cap_pixels],
        DType::U8,
    );
    state.add(
        &format!("{which}.labels"),
        [batch, 1, 1, cap_pixels],
        DType::U8,
    );
    state.add(&format!("{which}.sizes"), [batch, 1, 1, 2], DType::U32);
}

/// Name of the bf16 copy of a state entry.
pub fn copy_name(entry: &str) -> String {
    format!("{entry}.bf16")
}

/// The student's or the teacher's copy of the parameters.
///
/// # Errors
/// [`crate::Error::Internal`] when the state lacks them.
pub fn param_set(state: &State, who: &str) -> Result<ParamSet> {
    let weights = format!("{who}.weights");
    let copy = copy_name(&weights);
    Ok(ParamSet {
        weights: state.entry(&weights)?.offset,
        copy: match state.contains(&copy) {
            true => Some(state.entry(&copy)?.offset),
            false => None,
        },
        buffers: state.entry(&format!("{who}.buffers"))?.offset,
        vectors: None,
        trainable: who == "student",
    })
}
