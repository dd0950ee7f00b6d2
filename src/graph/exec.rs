//! The executor: a planned graph as a list of calls, and the arenas it runs in.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::plan::Plan;
use super::{Graph, TensorId};
use crate::device::{ArenaId, Call, Cost, DType, Device, Recording, View};
use crate::error::{Error, Result};

/// One arena on a device, freed on drop.
pub struct Arena {
    device: Arc<dyn Device>,
    id: ArenaId,
    bytes: usize,
}

impl Arena {
    /// Allocates `bytes` zeroed bytes.
    ///
    /// # Errors
    /// The device's, when the memory is not there.
    pub fn new(device: Arc<dyn Device>, bytes: usize) -> Result<Self> {
        let id = device.alloc(bytes)?;
        Ok(Self { device, id, bytes })
    }

    /// The handle that views name.
    pub fn id(&self) -> ArenaId {
        self.id
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The device that it is on.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.device.free(self.id);
    }
}

/// A call with its layer's name and its cost.
#[derive(Clone, Debug)]
pub struct Step {
    /// The call.
    pub call: Call,
    /// Layer or loss.
    pub name: String,
    /// Work.
    pub cost: Cost,
}

/// How far a program is on its way to being one launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replay {
    /// Never ran: the first run may allocate and look things up.
    Cold,
    /// Ran once: may be recorded.
    Warm,
    /// Recorded.
    Ready(Recording),
    /// The device does not record.
    Never,
}

/// A planned graph bound to two arenas: ready to run any number of times.
pub struct Program {
    device: Arc<dyn Device>,
    graph: Graph,
    plan: Plan,
    state: ArenaId,
    arena: Option<Arena>,
    arena_id: ArenaId,
    steps: Vec<Step>,
    replay: Mutex<Replay>,
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(Replay::Ready(recording)) = self.replay.get_mut() {
            self.device.forget(*recording);
        }
    }
}

/// Time of one operation kind or call.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Operation.
    pub op: &'static str,
    /// Layer.
    pub name: String,
    /// Time of the call.
    pub time: Duration,
    /// Work of the call.
    pub cost: Cost,
}

impl Program {
    /// Fuses and plans `graph` and allocates its transient arena.
    ///
    /// # Errors
    /// The device's, when the memory is not there, or as [`Graph::suit`].
    pub fn new(mut graph: Graph, device: Arc<dyn Device>, state: ArenaId) -> Result<Self> {
        graph.suit(&*device)?;
        let plan = Plan::new(&graph, &*device);
        let arena = Arena::new(device.clone(), plan.bytes)?;
        let id = arena.id();
        Ok(Self::bind(graph, plan, device, state, Some(arena), id))
    }

    /// Several programs that never run at the same time, each fused, in one transient arena of the
    /// largest one's size.
    ///
    /// # Errors
    /// As [`Program::new`].
    pub fn sharing(
        mut graphs: Vec<Graph>,
        device: &Arc<dyn Device>,
        state: ArenaId,
    ) -> Result<(Arena, Vec<Self>)> {
        graphs.iter_mut().try_for_each(|g| g.suit(&**device))?;
        let plans: Vec<Plan> = graphs.iter().map(|g| Plan::new(g, &**device)).collect();
        let bytes = plans.iter().map(|p| p.bytes).max().unwrap_or(0);
        let arena = Arena::new(device.clone(), bytes)?;
        let id = arena.id();
        let programs = graphs
            .into_iter()
            .zip(plans)
            .map(|(g, p)| Self::bind(g, p, device.clone(), state, None, id))
            .collect();
        Ok((arena, programs))
    }

    fn bind(
        graph: Graph,
        plan: Plan,
        device: Arc<dyn Device>,
        state: ArenaId,
        arena: Option<Arena>,
        arena_id: ArenaId,
    ) -> Self {
        let view = |t: &TensorId| plan.view(&graph, *t, state, arena_id);
        let steps = graph
            .nodes()
            .iter()
            .enumerate()
            .map(|(i, node)| {
                let ins: Vec<View> = node.ins.iter().map(view).collect();
                let outs: Vec<View> = node.outs.iter().map(view).collect();
                let cost = node.op.cost(&ins, &outs);
                let workspace = plan.workspace(i, arena_id);
                let call = Call {
                    op: node.op.clone(),
                    ins,
                    outs,
                    accumulate: node.accumulate,
                    workspace,
                };
                Step {
                    call,
                    name: node.name.clone(),
                    cost,
                }
            })
            .collect();
        Self {
            device,
            graph,
            plan,
            state,
            arena,
            arena_id,
            steps,
            replay: Mutex::new(Replay::Cold),
        }
    }

    /// Runs every call in order; from the second run on as one recording, where the device can.
    ///
    /// # Errors
    /// The first failing call's, with the layer's name.
    pub fn run(&self) -> Result<()> {
        let mut replay = self
            .replay
            .lock()
            .map_err(|_| Error::internal("poisoned program"))?;
        if *replay == Replay::Warm {
            let calls: Vec<&Call> = self.steps.iter().map(|s| &s.call).collect();
            *replay = match self.device.record(&calls)? {
                Some(recording) => Replay::Ready(recording),
                None => Replay::Never,
            };
        }
        if let Replay::Ready(recording) = *replay {
            return self.device.replay(recording);
        }
        for step in &self.steps {
            self.device.run(&step.call).map_err(|e| locate(e, step))?;
        }
        if *replay == Replay::Cold {
            *replay = Replay::Warm;
        }
        Ok(())
    }

    /// Runs every call in order and times each.
    ///
    /// # Errors
    /// As [`Program::run`].
    pub fn run_timed(&self) -> Result<Vec<Timing>> {
        let run = |i: usize| {
            let step = &self.steps[i];
            self.device.run(&step.call).map_err(|e| locate(e, step))
        };
        let times = self.device.time_each(self.steps.len(), &mut { run })?;
        let timing = |(step, time): (&Step, Duration)| Timing {
            op: step.call.op.name(),
            name: step.name.clone(),
            time,
            cost: step.cost,
        };
        Ok(self.steps.iter().zip(times).map(timing).collect())
    }

    /// Runs call after call and looks at what each made: the first whose values are not all finite
    /// numbers, by operation and layer.
    ///
    /// # Errors
    /// As [`Program::run`]; [`Error::Internal`] for maps of other types than f32 and bf16.
    pub fn first_not_finite(&self) -> Result<Option<String>> {
        for step in &self.steps {
            self.device.run(&step.call).map_err(|e| locate(e, step))?;
            for out in &step.call.outs {
                if !is_finite(&*self.device, out)? {
                    return Ok(Some(format!("{} ({})", step.name, step.call.op.name())));
                }
            }
        }
        Ok(None)
    }

    /// The calls, for plans and conformance checks.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Planned size of the transient arena, bytes.
    pub fn planned_bytes(&self) -> usize {
        self.plan.bytes
    }

    /// Size of the arena this program owns; 0 when it shares one.
    pub fn arena_bytes(&self) -> usize {
        self.arena.as_ref().map_or(0, Arena::bytes)
    }

    /// Where tensor `t` is.
    pub fn view(&self, t: TensorId) -> View {
        self.plan.view(&self.graph, t, self.state, self.arena_id)
    }

    /// Fills tensor `t` from the host.
    ///
    /// # Errors
    /// [`Error::Internal`] on a size mismatch.
    pub fn write<T: bytemuck::NoUninit>(&self, t: TensorId, values: &[T]) -> Result<()> {
        self.device
            .write(&self.view(t), bytemuck::cast_slice(values))
    }

    /// Reads tensor `t` to the host.
    ///
    /// # Errors
    /// The device's.
    pub fn read<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        &self,
        t: TensorId,
    ) -> Result<Vec<T>> {
        read_view(&*self.device, &self.view(t))
    }

    /// Copies image `image` of a batch to the host.
    ///
    /// # Errors
    /// [`Error::Internal`] when the batch has fewer; the device's.
    pub fn read_image<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        &self,
        t: TensorId,
        image: usize,
    ) -> Result<Vec<T>> {
        let batch = self.view(t);
        let [images, height, width, channels] = batch.shape;
        if image >= images {
            return Err(Error::internal(format!("image {image} of {images}")));
        }
        let one = View {
            offset: batch.offset + image * height * width * batch.ld * batch.dtype.bytes(),
            shape: [1, height, width, channels],
            ..batch
        };
        read_view(&*self.device, &one)
    }
}

/// Whether a view's values are all finite numbers; integers are.
fn is_finite(device: &dyn Device, view: &View) -> Result<bool> {
    let [b, h, w, channels] = view.shape;
    let pixels = b * h * w;
    if pixels == 0 || channels == 0 {
        return Ok(true);
    }
    // All there is from the first value to the last, of a slice of channels with what lies between.
    let all = View {
        shape: [1, 1, 1, (pixels - 1) * view.ld + channels],
        ld: (pixels - 1) * view.ld + channels,
        ..*view
    };
    Ok(match view.dtype {
        DType::F32 => {
            let values: Vec<f32> = read_view(device, &all)?;
            let mut own = values.chunks(view.ld);
            own.all(|p| p.iter().take(channels).all(|v| v.is_finite()))
        }
        // The exponent is the upper byte and a half, as of f32.
        DType::BF16 => {
            let bits: Vec<u16> = read_view(device, &all)?;
            let mut own = bits.chunks(view.ld);
            own.all(|p| p.iter().take(channels).all(|b| b & 0x7F80 != 0x7F80))
        }
        _ => true,
    })
}

/// Reads a view to the host.
///
/// # Errors
/// The device's.
pub fn read_view<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
    device: &dyn Device,
    view: &View,
) -> Result<Vec<T>> {
    let mut values = vec![T::zeroed(); view.elements()];
    device.read(view, bytemuck::cast_slice_mut(&mut values))?;
    Ok(values)
}

fn locate(error: Error, step: &Step) -> Error {
    match error {
        Error::Internal(problem) => Error::internal(format!(
            "{} in {}: {problem}",
            step.call.op.name(),
            step.name
        )),
        other => other,
    }
}
