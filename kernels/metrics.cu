// confusion, label_confusion: counts of (truth, prediction), row = truth.
//
//   confusion_clear   zeros, unless the counts accumulate
//   the kernel        counts of a block in shared memory while C x C fits there, then added to the
//                     matrix; integers, so atomics in any order give the same: exact
#include "include/softmax.cuh"
#include "include/upsample.cuh"

ARGS(MatrixArgs) {
  uint32_t* cells;  // [classes, classes], row stride ld
  uint64_t ld;
  uint32_t classes;
  uint32_t shared;  // whether a block counts in shared memory first
};

// Grid-stride over cells.
KERNEL(confusion_clear, MatrixArgs, 256) {
  const uint64_t cells = static_cast<uint64_t>(a.classes) * a.classes;
  for (uint64_t i = grid_start(); i < cells; i += grid_step()) {
    a.cells[i / a.classes * a.ld + i % a.classes] = 0;
  }
}

// A block's counts. Every thread calls begin and end.
struct Counter {
  const MatrixArgs& m;
  uint32_t* counts;

  __device__ __forceinline__ void begin() const {
    if (!m.shared) return;
    for (uint32_t i = threadIdx.x; i < m.classes * m.classes; i += blockDim.x) counts[i] = 0;
    __syncthreads();  // zeros before the first count
  }
  __device__ __forceinline__ void add(uint32_t truth, uint32_t prediction, uint32_t n) const {
    if (truth >= m.classes || prediction >= m.classes) return;
    uint32_t* cell = m.shared ? counts + truth * m.classes + prediction
                              : m.cells + truth * m.ld + prediction;
    atomicAdd(cell, n);
  }
  __device__ __forceinline__ void end() const {
    if (!m.shared) return;
    __syncthreads();  // every count is in before the block's are added to the matrix
    for (uint32_t i = threadIdx.x; i < m.classes * m.classes; i += blockDim.x) {
      if (counts[i] > 0) atomicAdd(m.cells + i / m.classes * m.ld + i % m.classes, counts[i]);
    }
  }
};

// Upsampled argmax against labels [batch, height, width]. Bytes: logits once, 1 per output pixel.
// Measured: not measured on a GPU. Grid: at most 8 blocks a multiprocessor, striding over the runs
// of output pixels; shared: columns, then the counts. Exact; must equal cpu/metrics.rs::confusion.
ARGS(ConfusionArgs) {
  UpsampleArgs u;
  MatrixArgs matrix;
  const uint8_t* truth;
  uint64_t runs;    // in all
  uint32_t ignore;
  uint32_t pad;
};

KERNEL(confusion, ConfusionArgs, 192) {
  static_assert(UPSAMPLE_THREADS == 192, "one thread per pixel of a run");
  DYNAMIC_SHARED(smem);
  float* columns = reinterpret_cast<float*>(smem);
  const Counter counter{a.matrix, reinterpret_cast<uint32_t*>(
                                      columns + a.u.columns * stride_of(a.u.classes))};
  counter.begin();
  for (uint64_t run = blockIdx.x; run < a.runs; run += gridDim.x) {
    each_pixel(a.u, run, columns, [&](uint64_t i, const UpsampledPixel& x) {
      const uint32_t truth = a.truth[i];
      if (truth == a.ignore || truth >= a.u.classes) return;
      counter.add(truth, arg_max(x, a.u.classes).index, 1);
    });
  }
  counter.end();
}

// Two label maps of n pixels. A thread takes 16 pixels (one access each where the maps are
// aligned) and counts runs of equal pairs at once: neighbours mostly agree. Bytes: 2 per pixel
// (2 MB at 4x513^2: 0.5 us at 4.3 TB/s). Measured: not measured on a GPU. Grid-stride. Exact; must
// equal cpu/metrics.rs::label_confusion.
ARGS(LabelConfusionArgs) {
  MatrixArgs matrix;
  const uint8_t* truth;
  const uint8_t* prediction;
  uint64_t n;
  uint32_t ignore;
  uint32_t aligned;  // both maps to 16 bytes
};

// A run of equal (truth, prediction) pairs.
struct PairRun {
  const Counter& counter;
  uint32_t ignore, truth, prediction, length;
  __device__ __forceinline__ void flush() {
    if (length > 0 && truth != ignore && prediction != ignore) {
      counter.add(truth, prediction, length);
    }
    length = 0;
  }
  __device__ __forceinline__ void add(uint32_t t, uint32_t p) {
    if (t != truth || p != prediction) flush();
    truth = t;
    prediction = p;
    ++length;
  }
  __device__ __forceinline__ void add_four(uint32_t t, uint32_t p) {
#pragma unroll
    for (uint32_t i = 0; i < 32; i += 8) add(t >> i & 0xFFu, p >> i & 0xFFu);
  }
};

KERNEL(label_confusion, LabelConfusionArgs, 256) {
  DYNAMIC_SHARED(smem);
  const Counter counter{a.matrix, reinterpret_cast<uint32_t*>(smem)};
  counter.begin();
  PairRun run{counter, a.ignore, 0, 0, 0};
  const uint64_t sixteens = a.aligned ? a.n / 16 : 0;
  for (uint64_t i = grid_start(); i < sixteens; i += grid_step()) {
    const uint4 t = reinterpret_cast<const uint4*>(a.truth)[i];
    const uint4 p = reinterpret_cast<const uint4*>(a.prediction)[i];
    run.add_four(t.x, p.x);
    run.add_four(t.y, p.y);
    run.add_four(t.z, p.z);
    run.add_four(t.w, p.w);
  }
  for (uint64_t i = 16 * sixteens + grid_start(); i < a.n; i += grid_step()) {
    run.add(a.truth[i], a.prediction[i]);
  }
  run.flush();
  counter.end();
}
