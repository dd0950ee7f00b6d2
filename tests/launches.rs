//! How many kernels a training step launches: the launchers on a driver that only counts, so the
//! whole VOC step is counted without the memory or the time that it takes.
#![cfg(feature = "cli")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use u2pl_engine::bench::Recipe;
use u2pl_engine::device::gpu::driver::{Driver, Limits, Ptr};
use u2pl_engine::device::gpu::kernels::KernelInfo;
use u2pl_engine::device::gpu::{GpuDevice, MathMode};
use u2pl_engine::device::{Device, Memory};
use u2pl_engine::error::{Error, Result};
use u2pl_engine::train::session::Session;

type Counts = BTreeMap<&'static str, usize>;

/// Addresses without memory; launches are counted by kernel.
#[derive(Default)]
struct Counter {
    counts: Arc<Mutex<Counts>>,
    end: Mutex<u64>,
}

impl Driver for Counter {
    fn name(&self) -> String {
        "counter".into()
    }

    fn memory(&self) -> Memory {
        Memory::Host
    }

    fn limits(&self) -> Limits {
        Limits {
            multiprocessors: 132,
            planned_multiprocessors: 132,
            shared_bytes: 227 << 10,
        }
    }

    fn check_borrowed(&self, _: Ptr) -> Result<()> {
        Ok(())
    }

    fn alloc(&self, bytes: usize) -> Result<Ptr> {
        let mut end = self.end.lock().expect("the end of memory");
        let base = end.next_multiple_of(256) + 256;
        *end = base + bytes as u64;
        Ok(Ptr(base))
    }

    fn free(&self, _: Ptr) {}

    fn upload(&self, _: Ptr, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn download(&self, _: Ptr, _: &mut [u8]) -> Result<()> {
        Err(Error::internal("nothing was computed"))
    }

    fn launch(&self, kernel: &KernelInfo, _: [u32; 3], _: u32, _: &[u8]) -> Result<()> {
        let mut counts = self.counts.lock().expect("the counts");
        *counts.entry(kernel.name).or_default() += 1;
        Ok(())
    }
}

/// Launches by kernel of one U2PL step of `recipe` in bf16.
fn step(recipe: &str) -> Counts {
    let recipe = Recipe::named(recipe, &[]).expect("a recipe");
    let driver = Counter::default();
    let counts = driver.counts.clone();
    let device: Arc<dyn Device> = Arc::new(GpuDevice::new(Box::new(driver), MathMode::Bf16));
    let session = Session::new(&recipe.cfg, device, 1, recipe.staged_pixels).expect("a session");
    counts.lock().expect("the counts").clear();
    // An epoch of one step: the warm-up is over.
    let late = recipe.cfg.train.warmup_epochs + 1;
    session.step(late).expect("a step");
    counts.lock().expect("the counts").clone()
}

#[test]
fn batch_norms_of_a_voc_step_finish_their_statistics_where_they_merge_them() {
    let launches = step("voc");
    let of = |kernel: &str| launches.get(kernel).copied().unwrap_or_default();
    let norms = of("batch_norm_merge");
    assert!(norms > 100, "{launches:#?}");
    assert_eq!(of("batch_norm_apply_bf16"), norms);
    assert_eq!(of("batch_norm_finish"), 0);
}
