// The contrastive loss and its gradient, all classes in one launch.
#include "include/philox.cuh"
#include "include/rows.cuh"

// L_c of method.md section 1 (rows 4 and 13 of section 4 in variant Released):
//   sum over classes of mean_m( -log softmax_positive( cos(z_m, .)/tau ) ) / classes.
//
// rep [P] rows of D; list u32 [C] rows and counts u32 [C]: anchors (compact's); positives u32 [C];
// prototype [C] rows of D; bank [slots] rows of D, inv_norm f32 [slots], cursor u32 [2][C];
// rings u32 [2][C]: first slot, capacity; rng u32 [4]; stats f32 [4] (op.rs).
// losses f32 [C][M], workspace.
// Never materialises the gathered negatives, C*M*N*D floats, nor a copy of the bank.
//
// info_nce: a block per (draw m, position c). Every thread draws the anchor, thread n the n-th
// negative's slot; a warp then takes four keys at a time, 4 channels a lane, the anchor in shared
// memory; the first warp turns the N + 1 similarities into the anchor's loss.
// info_nce_total: one block adds the losses in f64 and writes stats.
//
//   block (m, c):  list[c][draw] -> z        (shared, D floats)
//                  slots[N]                  (shared; philox, stream + 1)
//     warp 7:      prototype[c] . z          -> cosine[0]
//     warp w:      bank[slots[4g..4g+3]] . z -> cosine[1 + 4g ..]   g = w, w + 8, ...
//     warp 0:      -log softmax              -> losses[c][m]
//
// Work at the VOC shape (C = 21, M = 256, N = 50, D = 256): at most C*M*(N + 2)*D*4 = 286 MB
// gathered at random in rows of 1 KB, 2 FLOPs each 4 bytes: floor 66 us when every class takes part
// and the bank misses L2. Measured: not measured on a GPU.
// grid (M, C), block 256, dynamic shared 4*(D rounded up to 4) + 12*(N + 1) bytes.
// Order: channels per lane, lanes by halves, keys per lane then lanes, losses per thread then
// threads: fixed by the shapes. No atomics. Tolerance 1e-5 relative, 1e-6 absolute on the loss
// (the CPU's exponentials are f64); scale and classes are equal. Draws are equal to the bit.
// info_nce() in src/device/cpu/contrast/info_nce.rs.
ARGS(NceProblem) {
  const float* rep;
  const uint32_t* list;
  const uint32_t* counts;
  const uint32_t* positives;
  const float* prototype;
  const float* bank;
  const float* inv_norm;
  const uint32_t* cursor;
  const uint32_t* rings;
  const uint32_t* rng;
  uint64_t rep_ld;
  uint64_t list_ld;
  uint64_t prototype_ld;
  uint64_t bank_ld;
  uint32_t classes;
  uint32_t depth;
  uint32_t list_width;
  uint32_t anchors;
  uint32_t negatives;
  uint32_t stream;
  uint32_t released;
  uint32_t vec;  // every row is 16-byte aligned and D % 4 == 0
  float temperature;
  uint32_t pad;
};

ARGS(NceArgs) {
  NceProblem p;
  float* losses;
  float* stats;
};

namespace {

constexpr uint32_t NONE = 0xFFFFFFFFu;
constexpr uint32_t WARPS = 8;
constexpr uint32_t BATCH = 4;  // keys that a warp has in flight
constexpr uint32_t ALL = 0xFFFFFFFFu;
CONSTANT(NCE_SCATTER_CHANNELS, 256);  // of a block
static_assert(WARPS * 32 == 256, "the kernels below have blocks of 256");
static_assert(BATCH == 4, "sum_four() reduces four keys at once");

__device__ __forceinline__ uint32_t ceil4(uint32_t n) { return (n + 3) / 4 * 4; }

__device__ __forceinline__ uint32_t anchor_count(const NceProblem& p, uint32_t position) {
  return p.counts[position] < p.list_width ? p.counts[position] : p.list_width;
}

__device__ __forceinline__ uint32_t held_in(const NceProblem& p, uint32_t ring) {
  const uint32_t held = p.cursor[p.classes + ring];
  const uint32_t capacity = p.rings[p.classes + ring];
  return held < capacity ? held : capacity;
}

// Released: the ring of position i is that of the i-th class that has positives, and nothing counts
// unless there are two. A whole warp calls this; every lane gets the answer.
__device__ __forceinline__ uint32_t released_ring(const NceProblem& p, uint32_t position,
                                                  uint32_t* valid) {
  const uint32_t lane = threadIdx.x % 32;
  uint32_t ring = NONE;
  uint32_t n = 0;
  for (uint32_t first = 0; first < p.classes; first += 32) {
    const uint32_t c = first + lane;
    const uint32_t has = __ballot_sync(ALL, c < p.classes && p.positives[c] > 0);
    for (uint32_t rest = has, i = n; rest != 0; rest &= rest - 1, ++i) {
      if (i == position) ring = first + __ffs(static_cast<int>(rest)) - 1;
    }
    n += __popc(has);
  }
  *valid = n;
  return n >= 2 ? ring : NONE;
}

// The ring of a position's negatives; NONE when the position adds nothing. For whole warps.
__device__ __forceinline__ uint32_t ring_of(const NceProblem& p, uint32_t position) {
  uint32_t valid = 0;
  const uint32_t ring = p.released ? released_ring(p, position, &valid) : position;
  if (ring == NONE || anchor_count(p, position) == 0 || held_in(p, ring) == 0) return NONE;
  return ring;
}

// The classes that the sum is divided by. For whole warps.
__device__ __forceinline__ uint32_t divisor(const NceProblem& p) {
  uint32_t n = 0;
  if (p.released) {
    released_ring(p, 0, &n);
    return n >= 2 ? n : 0;
  }
  for (uint32_t first = 0; first < p.classes; first += 32) {
    const uint32_t c = first + threadIdx.x % 32;
    n += __popc(__ballot_sync(
        ALL, c < p.classes && anchor_count(p, c) > 0 && held_in(p, c) > 0));
  }
  return n;
}

// A block's shared memory. Arrays of floats first, so that rows of four stay aligned.
struct Shared {
  float* z;         // [ceil4(D)]: the anchor, zeros past D
  float* cosine;    // [N + 1]
  float* weight;    // [N + 1]: 1/norm of each key, later its factor in the gradient
  uint32_t* slots;  // [N]
  float* along;     // [1], the gradient's
};

__device__ __forceinline__ Shared carve(const NceProblem& p, unsigned char* smem) {
  const uint32_t row = ceil4(p.depth);
  Shared s;
  s.z = reinterpret_cast<float*>(smem);
  s.cosine = s.z + row;
  s.weight = s.cosine + p.negatives + 1;
  s.slots = reinterpret_cast<uint32_t*>(s.weight + p.negatives + 1);
  s.along = reinterpret_cast<float*>(s.slots + p.negatives);
  return s;
}

// Draws anchor m of a position and its negatives; returns the anchor's pixel.
__device__ __forceinline__ uint32_t draw(const NceProblem& p, const Shared& s, uint32_t position,
                                         uint32_t ring, uint32_t m) {
  const uint64_t index = static_cast<uint64_t>(position) * p.anchors + m;
  const Words word = Rng(p.rng, p.stream).block(index);
  const uint32_t pixel =
      p.list[position * p.list_ld + to_below(word.w[0], anchor_count(p, position))];
  const uint32_t row = ceil4(p.depth);
  for (uint32_t d = threadIdx.x; d < row; d += blockDim.x) {
    s.z[d] = d < p.depth ? p.rep[pixel * p.rep_ld + d] : 0.0f;
  }
  const Rng negatives(p.rng, p.stream + 1);
  const uint32_t held = held_in(p, ring);
  const uint32_t capacity = p.rings[p.classes + ring];
  const uint32_t oldest = p.cursor[ring] + capacity - held;
  for (uint32_t n = threadIdx.x; n < p.negatives; n += blockDim.x) {
    const uint32_t entry = to_below(negatives.block(index * p.negatives + n).w[0], held);
    s.slots[n] = p.rings[ring] + (oldest + entry) % capacity;
  }
  return pixel;
}

// Four sums over the lanes of a warp in 6 shuffles: lane 8*i has the i-th. The order of every sum is
// that of warp_sum.
__device__ __forceinline__ float sum_four(const float (&v)[4]) {
  const bool upper = (threadIdx.x & 16) != 0;
  float a = upper ? v[2] : v[0];
  float b = upper ? v[3] : v[1];
  a += __shfl_xor_sync(ALL, upper ? v[0] : v[2], 16);
  b += __shfl_xor_sync(ALL, upper ? v[1] : v[3], 16);
  const bool odd = (threadIdx.x & 8) != 0;
  float sum = odd ? b : a;
  sum += __shfl_xor_sync(ALL, odd ? a : b, 8);
#pragma unroll
  for (int step = 4; step > 0; step /= 2) sum += __shfl_xor_sync(ALL, sum, step);
  return sum;
}

// Similarities of negatives first..first+3, by one warp.
template <bool VEC>
__device__ __forceinline__ void four_negatives(const NceProblem& p, const Shared& s, uint32_t first,
                                               float inv_z) {
  const uint32_t lane = threadIdx.x % 32;
  const float* key[BATCH];
#pragma unroll
  for (uint32_t k = 0; k < BATCH; ++k) {
    const uint32_t n = first + k < p.negatives ? first + k : p.negatives - 1;
    key[k] = p.bank + s.slots[n] * p.bank_ld;
  }
  float dots[BATCH] = {0.0f, 0.0f, 0.0f, 0.0f};
  for (uint32_t d = lane * 4; d < p.depth; d += 128) {
    const float4 z = *reinterpret_cast<const float4*>(s.z + d);
    float4 v[BATCH];
#pragma unroll
    for (uint32_t k = 0; k < BATCH; ++k) v[k] = load_row<VEC>(key[k], d, p.depth);
#pragma unroll
    for (uint32_t k = 0; k < BATCH; ++k) dots[k] = dot4(dots[k], z, v[k]);
  }
  const float dot = sum_four(dots);
  const uint32_t n = first + lane / 8;
  if (lane % 8 == 0 && n < p.negatives) {
    const float inv = p.inv_norm[s.slots[n]];
    s.cosine[1 + n] = dot * inv_z * inv;
    s.weight[1 + n] = inv;
  }
}

// Similarity of the prototype, by one warp.
template <bool VEC>
__device__ __forceinline__ void positive(const NceProblem& p, const Shared& s, uint32_t position,
                                         float inv_z) {
  const float* key = p.prototype + position * p.prototype_ld;
  float dot = 0.0f;
  float squares = 0.0f;
  for (uint32_t d = threadIdx.x % 32 * 4; d < p.depth; d += 128) {
    const float4 v = load_row<VEC>(key, d, p.depth);
    dot = dot4(dot, *reinterpret_cast<const float4*>(s.z + d), v);
    squares = dot4(squares, v, v);
  }
  dot = warp_sum(dot);
  const float inv = inverse_norm(warp_sum(squares));
  if (threadIdx.x % 32 == 0) {
    s.cosine[0] = dot * inv_z * inv;
    s.weight[0] = inv;
  }
}

// All similarities of the block's anchor; returns its 1/norm, in every thread.
template <bool VEC>
__device__ __forceinline__ float similarities_in(const NceProblem& p, const Shared& s,
                                                 uint32_t position) {
  const uint32_t warp = threadIdx.x / 32;
  float squares = 0.0f;
  for (uint32_t d = threadIdx.x % 32 * 4; d < p.depth; d += 128) {
    const float4 z = *reinterpret_cast<const float4*>(s.z + d);
    squares = dot4(squares, z, z);
  }
  const float inv_z = inverse_norm(warp_sum(squares));
  // The last warp has the fewest negatives.
  if (warp == WARPS - 1) positive<VEC>(p, s, position, inv_z);
  for (uint32_t first = warp * BATCH; first < p.negatives; first += WARPS * BATCH) {
    four_negatives<VEC>(p, s, first, inv_z);
  }
  return inv_z;
}

__device__ __forceinline__ float similarities(const NceProblem& p, const Shared& s,
                                              uint32_t position) {
  return p.vec ? similarities_in<true>(p, s, position) : similarities_in<false>(p, s, position);
}

// Softmax over the keys, by one warp, every lane with the same bits.
struct Softmax {
  float max;    // largest similarity
  float first;  // e^((cosine[0] - max)/tau)
  float rest;   // sum of the negatives' exponentials
};

__device__ __forceinline__ Softmax softmax(const NceProblem& p, const float* cosine) {
  const uint32_t lane = threadIdx.x % 32;
  float max = -INFINITY;
  for (uint32_t i = lane; i <= p.negatives; i += 32) max = fmaxf(max, cosine[i]);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) max = fmaxf(max, __shfl_xor_sync(ALL, max, step));
  float rest = 0.0f;
  for (uint32_t i = lane; i < p.negatives; i += 32) {
    rest += expf((cosine[1 + i] - max) / p.temperature);
  }
  return Softmax{max, expf((cosine[0] - max) / p.temperature), warp_sum(rest)};
}

// -log softmax of the positive. Keeping the positive's 1 out of the sum where it is the largest
// keeps the digits of a small loss.
__device__ __forceinline__ float loss_of(const NceProblem& p, const Softmax& s, float positive) {
  if (positive == s.max) return log1pf(s.rest);
  return logf(s.first + s.rest) + (s.max - positive) / p.temperature;
}

}  // namespace

KERNEL(info_nce, NceArgs, 256) {
  DYNAMIC_SHARED(smem);
  const NceProblem& p = a.p;
  const uint32_t position = blockIdx.y;
  const uint32_t ring = ring_of(p, position);
  float* loss = a.losses + static_cast<uint64_t>(position) * p.anchors + blockIdx.x;
  if (ring == NONE) {
    if (threadIdx.x == 0) *loss = 0.0f;
    return;
  }
  const Shared s = carve(p, smem);
  draw(p, s, position, ring, blockIdx.x);
  __syncthreads();  // every warp reads the whole anchor and slots that other warps wrote
  similarities(p, s, position);
  __syncthreads();  // warp 0 reads the similarities of all warps
  if (threadIdx.x >= 32) return;
  const Softmax soft = softmax(p, s.cosine);
  if (threadIdx.x == 0) *loss = loss_of(p, soft, s.cosine[0]);
}

// stats = {loss, 1/(M*classes), classes, 0}. One block.
KERNEL(info_nce_total, NceArgs, 256) {
  SHARED(double, sums, [256]);
  SHARED(double, eighths, [32]);
  const uint32_t n = a.p.classes * a.p.anchors;
  double s = 0.0;
#pragma unroll 4
  for (uint32_t i = threadIdx.x; i < n; i += 256) s += static_cast<double>(a.losses[i]);
  sums[threadIdx.x] = s;
  __syncthreads();  // the first warp adds what all summed
  if (threadIdx.x >= 32) return;
  s = 0.0;
  for (uint32_t i = 0; i < 8; ++i) s += sums[threadIdx.x + i * 32];
  eighths[threadIdx.x] = s;
  __syncwarp();  // thread 0 adds what its warp summed
  const uint32_t classes = divisor(a.p);
  if (threadIdx.x != 0) return;
  double total = 0.0;
  for (uint32_t i = 0; i < 32; ++i) total += eighths[i];
  const double terms = static_cast<double>(classes) * static_cast<double>(a.p.anchors);
  const double scale = terms > 0.0 ? 1.0 / terms : 0.0;
  a.stats[0] = static_cast<float>(total * scale);
  a.stats[1] = static_cast<float>(scale);
  a.stats[2] = static_cast<float>(classes);
  a.stats[3] = 0.0f;
}

// Gradient of weight * loss to the anchors' representations; drep is 0 elsewhere, or keeps what it
// had when accumulating.
//
// Operands as above, and stats f32 [4]; drep [P] rows of D, drep_ld apart. Workspace: gradients f32
// [C*M][D], pixels u32 [C*M] (a draw's pixel, NONE where its position adds nothing), first u32 [P]
// (the lowest draw of a pixel), drawn u32 [P] (how many).
//
//   d cos(z, k)/dz = (k/|k| - cos * z/|z|) / |z|;  a norm clamped at 1e-8 is a constant
//   dz = sum_i w_i k_i/|k_i| - along * z/|z|,  w_i = factor * (softmax_i - [i = 0]) / |z|,
//   along = sum_i w_i cos_i = sum_(i>0) w_i (cos_i - cos_0), since the w_i sum to 0.
//
// Three launches. nce_clear empties the table and, unless accumulating, drep. nce_gradient does what
// info_nce does, reads the keys again, 52 KB a block that L2 still holds, and writes the draw's
// gradient; integer atomicMin and atomicAdd enter it in the table, in any order with one result.
// nce_scatter has a block per draw: the lowest draw of a pixel adds all of the pixel's draws to drep
// in ascending order, so that no two blocks write one element and no order depends on the schedule.
//
// Work at the VOC shape: 286 MB gathered as in the loss, then 280 MB again through L2, 5.5 MB of
// gradients written and read, 34.6 MB of drep written: floor 76 us. Measured: not measured on a GPU.
// nce_clear: grid-stride, block 256. nce_gradient: as info_nce.
// nce_scatter: grid (C*M, ceil(D/256)), block 128, static shared 0.5 KB.
// Order: keys ascending per channel, draws ascending (m within a position, positions ascending), as
// the CPU's. Tolerance 1e-5 relative to the largest element of the same pixel's gradient; 0 elsewhere
// exactly. info_nce_backward() in src/device/cpu/contrast/info_nce.rs.
ARGS(NceBackwardArgs) {
  NceProblem p;
  const float* stats;
  float* drep;
  float* gradients;
  uint32_t* pixels;
  uint32_t* first;
  uint32_t* drawn;
  uint64_t drep_ld;
  uint32_t map_pixels;
  uint32_t accumulate;
  float weight;
  uint32_t pad;
};

namespace {

// Turns the keys' 1/norm into their factors in the gradient; returns along/|z| in every lane.
// By one warp.
__device__ __forceinline__ float slopes(const NceBackwardArgs& a, const Shared& s, float inv_z) {
  const NceProblem& p = a.p;
  const Softmax soft = softmax(p, s.cosine);
  const float positive = s.cosine[0];
  const float factor = a.stats[1] * a.weight / p.temperature * inv_z;
  const float scale = factor / (soft.first + soft.rest);
  float along = 0.0f;
  for (uint32_t i = threadIdx.x % 32; i < p.negatives; i += 32) {
    const float cosine = s.cosine[1 + i];
    const float slope = scale * expf((cosine - soft.max) / p.temperature);
    along = fmaf(slope, cosine - positive, along);
    s.weight[1 + i] *= slope;
  }
  // softmax_0 - 1 = -(the others' share), which keeps its digits near 0.
  if (threadIdx.x % 32 == 0) s.weight[0] *= -scale * soft.rest;
  return warp_sum(along) * inv_z;
}

// Channel d of sum_i weight_i key_i, keys ascending.
__device__ __forceinline__ float weighted_keys(const NceProblem& p, const Shared& s,
                                               uint32_t position, uint32_t d) {
  float sum = s.weight[0] * p.prototype[position * p.prototype_ld + d];
#pragma unroll 8
  for (uint32_t n = 0; n < p.negatives; ++n) {
    sum = fmaf(s.weight[1 + n], p.bank[s.slots[n] * p.bank_ld + d], sum);
  }
  return sum;
}

}  // namespace

KERNEL(nce_clear, NceBackwardArgs, 256) {
  for (uint64_t i = grid_start(); i < a.map_pixels; i += grid_step()) {
    a.first[i] = NONE;
    a.drawn[i] = 0;
  }
  if (a.accumulate) return;
  // A warp a row.
  for (uint64_t pixel = grid_start() / 32; pixel < a.map_pixels; pixel += grid_step() / 32) {
    float* row = a.drep + pixel * a.drep_ld;
    for (uint32_t d = threadIdx.x % 32; d < a.p.depth; d += 32) row[d] = 0.0f;
  }
}

KERNEL(nce_gradient, NceBackwardArgs, 256) {
  DYNAMIC_SHARED(smem);
  const NceProblem& p = a.p;
  const uint32_t position = blockIdx.y;
  const uint32_t q = position * p.anchors + blockIdx.x;
  const uint32_t ring = ring_of(p, position);
  if (ring == NONE) {
    if (threadIdx.x == 0) a.pixels[q] = NONE;
    return;
  }
  const Shared s = carve(p, smem);
  const uint32_t pixel = draw(p, s, position, ring, blockIdx.x);
  if (threadIdx.x == 0) {
    a.pixels[q] = pixel;
    atomicMin(a.first + pixel, q);
    atomicAdd(a.drawn + pixel, 1u);
  }
  __syncthreads();  // every warp reads the whole anchor and slots that other warps wrote
  const float inv_z = similarities(p, s, position);
  __syncthreads();  // warp 0 reads the similarities of all warps
  if (threadIdx.x < 32) {
    const float all = slopes(a, s, inv_z);
    if (threadIdx.x == 0) *s.along = inv_z < 1.0f / MIN_NORM ? all : 0.0f;
  }
  __syncthreads();  // all read the factors that warp 0 wrote
  float* gradient = a.gradients + static_cast<uint64_t>(q) * p.depth;
  for (uint32_t d = threadIdx.x; d < p.depth; d += blockDim.x) {
    gradient[d] = fmaf(-*s.along, s.z[d], weighted_keys(p, s, position, d));
  }
}

KERNEL(nce_scatter, NceBackwardArgs, 128) {
  SHARED(uint32_t, hits, [128]);
  SHARED(uint32_t, found, [4]);
  const uint32_t draws = a.p.classes * a.p.anchors;
  const uint32_t q = blockIdx.x;
  const uint32_t pixel = a.pixels[q];
  if (pixel == NONE || a.first[pixel] != q) return;
  // Two channels a thread, 128 apart.
  const uint32_t d0 = blockIdx.y * NCE_SCATTER_CHANNELS + threadIdx.x;
  const uint32_t d1 = d0 + 128;
  const bool has0 = d0 < a.p.depth;
  const bool has1 = d1 < a.p.depth;
  float* row = a.drep + pixel * a.drep_ld;
  float sum0 = a.accumulate && has0 ? row[d0] : 0.0f;
  float sum1 = a.accumulate && has1 ? row[d1] : 0.0f;
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t below = (1u << threadIdx.x % 32) - 1;
  uint32_t left = a.drawn[pixel];
  for (uint32_t from = q; left > 0 && from < draws; from += 128) {
    uint32_t n = 1;
    if (left == 1 && from == q) {
      if (threadIdx.x == 0) hits[0] = q;  // the only draw, as most are: nothing to look for
    } else {
      const uint32_t other = from + threadIdx.x;
      const bool hit = other < draws && a.pixels[other] == pixel;
      const uint32_t mask = __ballot_sync(ALL, hit);
      if (threadIdx.x % 32 == 0) found[warp] = mask;
      __syncthreads();  // a hit's place is behind the hits of the warps before
      uint32_t place = __popc(mask & below);
      n = 0;
      for (uint32_t w = 0; w < 4; ++w) {
        place += w < warp ? __popc(found[w]) : 0;
        n += __popc(found[w]);
      }
      if (hit) hits[place] = other;
    }
    __syncthreads();  // all add all hits, in order
#pragma unroll 8
    for (uint32_t i = 0; i < n; ++i) {
      const float* gradient = a.gradients + static_cast<uint64_t>(hits[i]) * a.p.depth;
      if (has0) sum0 += gradient[d0];
      if (has1) sum1 += gradient[d1];
    }
    left -= n;
    __syncthreads();  // the next round's hits overwrite these
  }
  if (has0) row[d0] = sum0;
  if (has1) row[d1] = sum1;
}
