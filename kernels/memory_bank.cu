// The memory bank, a ring of representations per class, and the classes' prototypes.
#include "include/rows.cuh"

// Appends each class's pixels to its ring: a queue per class (method.md section 1, the bank of
// negatives); of more pixels than the ring has slots, the last ones.
//
// rep [P] rows of D, rep_ld apart; list u32 [C] rows, list_ld apart, counts u32 [C] (compact's);
// bank [slots] rows of D, bank_ld apart; inv_norm f32 [slots]; cursor u32 [2][C]: next write slot,
// entries held; rings u32 [2][C]: first slot, capacity.
// Every list entry is below P; a count is clamped to the list.
//
// Two launches: bank_push copies and only reads the cursor, bank_advance then moves it. A warp per
// row: 4 channels a lane, the squares summed on the way through the registers.
//
// Work at the VOC shape: per pushed entry 1 KB read, 1 KB + 4 bytes written, 512 FLOPs. With 20 % of
// the unlabelled pixels unreliable and r_l = 3 about 10^5 entries: floor about 50 us of writes (rep
// is read again from L2). Measured: not measured on a GPU.
// grid (blocks, C), block 256, no shared memory. Each slot is written by one warp; the sum of squares
// runs per lane over channels, then over lanes by halves: fixed by D. bank and cursor equal the CPU's
// to the bit, inv_norm to 1e-6 relative (bank_push() in src/device/cpu/contrast/bank.rs).
ARGS(BankPushArgs) {
  const float* rep;
  const uint32_t* list;
  const uint32_t* counts;
  float* bank;
  float* inv_norm;
  uint32_t* cursor;
  const uint32_t* rings;
  uint64_t rep_ld;
  uint64_t list_ld;
  uint64_t bank_ld;
  uint32_t classes;
  uint32_t depth;
  uint32_t list_width;
  uint32_t vec;  // rows are 16-byte aligned and D % 4 == 0
};

namespace {

// What one push does to one ring.
struct Push {
  uint32_t count;     // pixels of the class
  uint32_t kept;      // of them, the last that fit
  uint32_t capacity;  // of the ring
  uint32_t next;      // its next write slot
};

__device__ __forceinline__ Push push_of(const BankPushArgs& a, uint32_t c) {
  const uint32_t count = a.counts[c] < a.list_width ? a.counts[c] : a.list_width;
  const uint32_t capacity = a.rings[a.classes + c];
  return Push{count, count < capacity ? count : capacity, capacity,
              capacity > 0 ? a.cursor[c] % capacity : 0u};
}

}  // namespace

namespace {

template <bool VEC> __device__ __forceinline__ void push_rows(const BankPushArgs& a) {
  const uint32_t c = blockIdx.y;
  const uint32_t lane = threadIdx.x % 32;
  const Push push = push_of(a, c);
  const uint32_t* pixels = a.list + c * a.list_ld + (push.count - push.kept);
  const uint32_t warps = gridDim.x * (blockDim.x / 32);
  for (uint32_t i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; i < push.kept; i += warps) {
    const uint64_t slot = a.rings[c] + (push.next + i) % push.capacity;
    const float* z = a.rep + pixels[i] * a.rep_ld;
    float* entry = a.bank + slot * a.bank_ld;
    float squares = 0.0f;
#pragma unroll 2
    for (uint32_t d = lane * 4; d < a.depth; d += 128) {
      const float4 v = load_row<VEC>(z, d, a.depth);
      store_row<VEC>(entry, d, a.depth, v);
      squares = dot4(squares, v, v);
    }
    squares = warp_sum(squares);
    if (lane == 0) a.inv_norm[slot] = inverse_norm(squares);
  }
}

}  // namespace

KERNEL(bank_push, BankPushArgs, 256) {
  if (a.vec) {
    push_rows<true>(a);
  } else {
    push_rows<false>(a);
  }
}

// Moves the cursors past what bank_push wrote. One block, a thread per class.
KERNEL(bank_advance, BankPushArgs, 256) {
  for (uint32_t c = threadIdx.x; c < a.classes; c += blockDim.x) {
    const Push push = push_of(a, c);
    if (push.kept == 0) continue;
    const uint32_t held = a.cursor[a.classes + c];
    const uint32_t grown = (held < push.capacity ? held : push.capacity) + push.kept;
    a.cursor[c] = (push.next + push.kept) % push.capacity;
    a.cursor[a.classes + c] = grown < push.capacity ? grown : push.capacity;
  }
}

// Mean representation of each class's pixels, 0 where there are none (the positive z_c of method.md
// section 1).
//
// rep, list, counts as above; prototype [C] rows of D, out_ld apart; parts f64 [C][splits][D],
// workspace, splits = ceil(list_width/128). Never materialises a mask or a gathered copy.
//
// Two launches: prototype_sum adds up to 128 pixels of one class (four groups of 64 threads, each
// every fourth pixel, 4 channels a thread), prototype_mean adds the parts. Both in f64: a class may
// have P pixels, and the CPU's sums are f64 too.
//
// Work at the VOC shape: every member's representation once, at most 34.6 MB, and 8.7 MFLOP in f64;
// under 1 MB of parts written and read. Floor 8 us. Measured: not measured on a GPU.
// prototype_sum: grid (splits, ceil(D/256), C), block 256, static shared 6.5 KB; blocks past a
// class's end leave at once. prototype_mean: grid (ceil(D/32), C), block 256, 2 KB.
// Order: pixels by group, groups, parts by residue mod 8, residues: fixed by the counts. Within one
// ulp of the CPU's (prototype() in src/device/cpu/contrast/bank.rs), and equal where the sums are
// exact.
ARGS(PrototypeArgs) {
  const float* rep;
  const uint32_t* list;
  const uint32_t* counts;
  float* prototype;
  double* parts;
  uint64_t rep_ld;
  uint64_t list_ld;
  uint64_t out_ld;
  uint32_t depth;
  uint32_t list_width;
  uint32_t splits;
  uint32_t vec;
};

namespace {

CONSTANT(PROTOTYPE_PART, 128);           // pixels
CONSTANT(PROTOTYPE_SUM_CHANNELS, 256);  // of a block
CONSTANT(PROTOTYPE_MEAN_CHANNELS, 32);  // of a block
constexpr uint32_t GROUPS = 4;    // of 64 threads each
constexpr uint32_t BATCH = 8;     // rows that a thread has in flight
constexpr uint32_t SEGMENTS = 8;  // that prototype_mean reads parts in

__device__ __forceinline__ uint32_t members(const PrototypeArgs& a, uint32_t c) {
  return a.counts[c] < a.list_width ? a.counts[c] : a.list_width;
}

__device__ __forceinline__ double* part_at(const PrototypeArgs& a, uint32_t c, uint32_t split) {
  return a.parts + (static_cast<uint64_t>(c) * a.splits + split) * a.depth;
}

// Adds channels d..d+3 of every GROUPS-th of n pixels to s, BATCH loads in flight.
template <bool VEC>
__device__ __forceinline__ void add_pixels(const PrototypeArgs& a, const uint32_t* pixels,
                                           uint32_t first, uint32_t n, uint32_t d, double (&s)[4]) {
  for (uint32_t base = first; base < n; base += GROUPS * BATCH) {
    float4 v[BATCH];
#pragma unroll
    for (uint32_t k = 0; k < BATCH; ++k) {
      const uint32_t i = base + k * GROUPS;
      v[k] = i < n ? load_row<VEC>(a.rep + pixels[i] * a.rep_ld, d, a.depth)
                   : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
#pragma unroll
    for (uint32_t k = 0; k < BATCH; ++k) {
      s[0] += static_cast<double>(v[k].x);
      s[1] += static_cast<double>(v[k].y);
      s[2] += static_cast<double>(v[k].z);
      s[3] += static_cast<double>(v[k].w);
    }
  }
}

}  // namespace

KERNEL(prototype_sum, PrototypeArgs, 256) {
  SHARED(uint32_t, pixels, [PROTOTYPE_PART]);
  SHARED(double, sums, [GROUPS - 1][4][64]);
  const uint32_t c = blockIdx.z;
  const uint32_t count = members(a, c);
  const uint32_t first = blockIdx.x * PROTOTYPE_PART;
  if (first >= count) return;
  const uint32_t n = count - first < PROTOTYPE_PART ? count - first : PROTOTYPE_PART;
  if (threadIdx.x < n) pixels[threadIdx.x] = a.list[c * a.list_ld + first + threadIdx.x];
  __syncthreads();  // every group reads the list that the first threads loaded
  const uint32_t column = threadIdx.x % 64;
  const uint32_t group = threadIdx.x / 64;
  const uint32_t d = blockIdx.y * PROTOTYPE_SUM_CHANNELS + column * 4;
  double s[4] = {0.0, 0.0, 0.0, 0.0};
  if (d < a.depth && a.vec) {
    add_pixels<true>(a, pixels, group, n, d, s);
  } else if (d < a.depth) {
    add_pixels<false>(a, pixels, group, n, d, s);
  }
  if (group > 0) {
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) sums[group - 1][j][column] = s[j];
  }
  __syncthreads();  // group 0 adds what the others summed
  if (group > 0) return;
  double* part = part_at(a, c, blockIdx.x);
#pragma unroll
  for (uint32_t j = 0; j < 4; ++j) {
    for (uint32_t g = 0; g < GROUPS - 1; ++g) s[j] += sums[g][j][column];
    if (d + j < a.depth) part[d + j] = s[j];
  }
}

KERNEL(prototype_mean, PrototypeArgs, 256) {
  SHARED(double, sums, [SEGMENTS][32]);
  const uint32_t c = blockIdx.y;
  const uint32_t column = threadIdx.x % 32;
  const uint32_t segment = threadIdx.x / 32;
  const uint32_t d = blockIdx.x * PROTOTYPE_MEAN_CHANNELS + column;
  const uint32_t count = members(a, c);
  const uint32_t parts = (count + PROTOTYPE_PART - 1) / PROTOTYPE_PART;
  double s = 0.0;
  if (d < a.depth) {
#pragma unroll 8
    for (uint32_t i = segment; i < parts; i += SEGMENTS) s += part_at(a, c, i)[d];
  }
  sums[segment][column] = s;
  __syncthreads();  // the first warp adds what all eight summed
  if (segment > 0 || d >= a.depth) return;
  double total = 0.0;
  for (uint32_t g = 0; g < SEGMENTS; ++g) total += sums[g][column];
  a.prototype[c * a.out_ld + d] =
      static_cast<float>(total / static_cast<double>(count > 0 ? count : 1));
}
