// sgd_ema: SGD with momentum, weight decay, the EMA teacher and the bf16 copies of both, over all
// parameters in one launch.
//
//   v = mu*v + (g + wd*p);  p = p - (lr*lr_mult)*v;  t = m*t + (1-m)*p (a copy at m = 0, kept at m = 1)
//
// The flat vectors hold groups with gaps of alignment padding between them, which stay untouched in
// every vector. The launcher cuts the groups into tiles; a block takes one:
//
//     flat   | group 0 ........ |gap| group 1 ... |gap|
//     tiles  | tile | tile |til |   | tile | tile |
//
// lr and m are read from device memory. Never materialised: the decayed gradient.
// Bytes: reads g, p, v, t, writes p, v, t (28 an element, 4 more with bf16 copies). ResNet-101,
// 64.5 M parameters: 2.06 GB with everything. Measured: not measured on a GPU.
// Grid: a block of 256 threads a tile; no shared memory. Order: every element on its own.
// Equal to src/device/cpu/elementwise.rs bit for bit; the copies are the f32 results rounded once.
#include "include/planes.cuh"

using namespace planes;

// A run of elements of one group.
ARGS(SgdTile) {
  uint64_t start;
  uint32_t len;
  float lr_mult;
  float weight_decay;
  uint32_t pad;
};

ARGS(SgdEmaArgs) {
  const SgdTile* tiles;
  const float* gradient;
  const float* lr;
  const float* m;
  float* parameter;
  float* velocity;
  float* teacher;           // null: none
  void* parameter_copy;     // bf16; null: none
  void* teacher_copy;       // bf16; null: none
  float momentum;
  uint32_t vector;  // every vector starts at a 16-byte (a copy: 8-byte) boundary
};

// V elements from i on.
template <int V>
static __device__ __forceinline__ void sgd_run(const SgdEmaArgs& a, const SgdTile& tile, uint64_t i,
                                               float rate, float m) {
  float g[V], p[V], v[V], t[V];
  load<V>(a.gradient + i, g);
  load<V>(a.parameter + i, p);
  load<V>(a.velocity + i, v);
  if (a.teacher != nullptr) load<V>(a.teacher + i, t);
#pragma unroll
  for (int k = 0; k < V; ++k) {
    v[k] = a.momentum * v[k] + (g[k] + tile.weight_decay * p[k]);
    p[k] -= rate * v[k];
  }
  store<V>(a.velocity + i, v);
  store<V>(a.parameter + i, p);
  if (a.parameter_copy != nullptr) store<V>(static_cast<bf16*>(a.parameter_copy) + i, p);
  if (a.teacher == nullptr) return;
  if (m != 1.0f) {
#pragma unroll
    for (int k = 0; k < V; ++k) t[k] = m == 0.0f ? p[k] : m * t[k] + (1.0f - m) * p[k];
    store<V>(a.teacher + i, t);
  }
  if (a.teacher_copy != nullptr) store<V>(static_cast<bf16*>(a.teacher_copy) + i, t);
}

KERNEL(sgd_ema, SgdEmaArgs, 256) {
  const SgdTile tile = a.tiles[blockIdx.x];
  const float rate = *a.lr * tile.lr_mult;
  const float m = *a.m;
  // Elements of whole vectors; the rest one by one.
  const uint32_t whole = a.vector && tile.start % 4 == 0 ? tile.len / 4 * 4 : 0;
  for (uint32_t i = threadIdx.x * 4; i < whole; i += blockDim.x * 4) {
    sgd_run<4>(a, tile, tile.start + i, rate, m);
  }
  for (uint32_t i = whole + threadIdx.x; i < tile.len; i += blockDim.x) {
    sgd_run<1>(a, tile, tile.start + i, rate, m);
  }
}
