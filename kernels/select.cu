// Exact order statistics by radix select: percentile (entropy thresholds) and OHEM's threshold.
//
// A float becomes a 32-bit key that sorts like it; the key of a rank is found a byte at a time:
//
//   select_clear     histograms to zero
//   select_count x4  histogram of the next byte over the values whose key starts with what is
//                    known, for all ranks at once; its blocks first find the byte before from the
//                    last histogram
//   select_finish    the last byte, then interpolation or OHEM's rule
//
// Never a sort, a copy of the values, or a number read by the host. Counts are integers, so
// atomics in any order give the same: exact and deterministic. Bytes: 4 passes over values and
// labels, 21 MB at 4x513^2 (5 us at 4.3 TB/s; the passes after the first come from L2). Measured:
// not measured on a GPU. Must equal, bit for bit, cpu/entropy.rs::percentile and
// cpu/loss.rs::ohem_threshold.
#include "include/common.cuh"

// Ranks that one selection finds; a percentile needs two. 16 histograms are 16 KiB of shared memory.
CONSTANT(SELECT_TARGETS, 16);
CONSTANT(SELECT_BINS, 256);

ARGS(SelectArgs) {
  const float* values;
  const uint8_t* labels;
  const float* percents;  // percentile: [targets / 2]
  float* out;             // percentile: [targets / 2]; OHEM: [1]
  uint32_t* histograms;   // [4][targets][256]; the first pass uses its first only
  uint32_t* state;        // [4][targets][2]: of the key, the bytes found; rank among those it fits
  uint32_t* valid;        // [1], behind the histograms: OHEM's valid pixels
  uint64_t n;
  uint32_t targets;
  uint32_t pass;
  uint32_t percentile;    // else OHEM
  uint32_t ignore;
  uint32_t min_kept;
  float thresh;
  uint32_t aligned;       // values to 16 bytes, labels to 4
  uint32_t pad;
};

// Sorts as numpy does: NaN of either sign last, -0 just below +0.
__device__ __forceinline__ uint32_t sort_key(float v) {
  const uint32_t bits = __float_as_uint(v);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0xFFFFFFFFu;
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float from_key(uint32_t key) {
  return __uint_as_float(key >> 31 ? key & 0x7FFFFFFFu : ~key);
}

// Where between two order statistics the q-th percentile of n values lies.
struct Position {
  uint64_t below;
  double t;
};
__device__ __forceinline__ Position position_of(float q, uint64_t n) {
  const double share = static_cast<double>(q) / 100.0;
  const double at = static_cast<double>(n - 1) * (share < 0.0 ? 0.0 : share > 1.0 ? 1.0 : share);
  const double below = floor(at);
  // NaN: any rank, the interpolation gives NaN.
  return {at >= 0.0 ? static_cast<uint64_t>(below) : 0, at - below};
}

// The bytes of a target's key that are known, and its rank among the values they fit.
struct Found {
  uint32_t prefix;
  uint32_t rank;
};

__device__ __forceinline__ Found first_rank(const SelectArgs& a, uint32_t target, uint32_t n) {
  if (n == 0) return {0, 0};
  if (!a.percentile) return {0, min(a.min_kept, n) - 1};
  const uint64_t rank = position_of(a.percents[target / 2], n).below + target % 2;
  return {0, static_cast<uint32_t>(min(rank, static_cast<uint64_t>(n - 1)))};
}

// A warp: the state of `target` after `bytes` >= 1 bytes, from the histogram of the last of them.
__device__ Found advance(const SelectArgs& a, uint32_t target, uint32_t bytes) {
  const uint32_t lane = threadIdx.x % 32, pass = bytes - 1;
  const uint32_t slot = pass * a.targets + (pass == 0 ? 0 : target);
  const uint32_t* bins = a.histograms + slot * SELECT_BINS + lane * 8;
  uint32_t counts[8], sum = 0;
  for (uint32_t i = 0; i < 8; ++i) sum += counts[i] = bins[i];
  uint32_t upto = sum;
  for (uint32_t delta = 1; delta < 32; delta *= 2) {
    const uint32_t lower = __shfl_up_sync(~0u, upto, delta);
    if (lane >= delta) upto += lower;
  }
  Found now;
  if (pass == 0) {
    now = first_rank(a, target, __shfl_sync(~0u, upto, 31));
  } else {
    const uint32_t* state = a.state + (pass * a.targets + target) * 2;
    now = {state[0], state[1]};
  }
  // The one lane whose bins hold the rank; lane 0 where there are no values.
  const uint32_t before = upto - sum;
  const bool mine = now.rank >= before && now.rank < upto;
  uint32_t rest = now.rank - before, byte = lane * 8;
  for (uint32_t i = 0; i < 7 && rest >= counts[i]; ++i, ++byte) rest -= counts[i];
  const int owner = max(__ffs(static_cast<int>(__ballot_sync(~0u, mine))), 1) - 1;
  return {now.prefix << 8 | __shfl_sync(~0u, byte, owner), __shfl_sync(~0u, rest, owner)};
}

// Grid-stride over words: [4][targets][256] bins and the valid count.
KERNEL(select_clear, SelectArgs, 256) {
  const uint64_t words = 4ull * a.targets * SELECT_BINS + 1;
  for (uint64_t i = grid_start(); i < words; i += grid_step()) a.histograms[i] = 0;
}

// Grid-stride over quads of values. Shared: a histogram per target (dynamic), prefixes.
KERNEL(select_count, SelectArgs, 256) {
  DYNAMIC_SHARED(smem);
  SHARED(uint32_t, prefixes, [SELECT_TARGETS]);
  SHARED(uint32_t, valid, [1]);
  auto* histograms = reinterpret_cast<uint32_t*>(smem);
  const uint32_t targets = a.pass == 0 ? 1 : a.targets;
  if (threadIdx.x == 0) valid[0] = 0;
  if (a.pass > 0) {
    for (uint32_t t = threadIdx.x / 32; t < targets; t += 8) {
      const Found found = advance(a, t, a.pass);
      if (threadIdx.x % 32 == 0) {
        prefixes[t] = found.prefix;
        // Every block finds the same; one leaves it for the next pass.
        if (blockIdx.x == 0) {
          uint32_t* state = a.state + (a.pass * a.targets + t) * 2;
          state[0] = found.prefix;
          state[1] = found.rank;
        }
      }
    }
  }
  for (uint32_t i = threadIdx.x; i < targets * SELECT_BINS; i += blockDim.x) histograms[i] = 0;
  __syncthreads();  // zeros and prefixes are there before a value is counted

  const uint32_t known = 8 * a.pass;
  uint32_t own_valid = 0;
  const auto count = [&](float value, uint32_t label) {
    own_valid += label != a.ignore;
    if (a.percentile && label == a.ignore) return;
    const uint32_t key = sort_key(value);
    const uint32_t bin = key >> (24 - known) & 0xFFu;
    for (uint32_t t = 0; t < targets; ++t) {
      if (a.pass == 0 || key >> (32 - known) == prefixes[t]) {
        atomicAdd(&histograms[t * SELECT_BINS + bin], 1u);
      }
    }
  };
  const uint64_t quads = a.aligned ? a.n / 4 : 0;
  for (uint64_t q = grid_start(); q < quads; q += grid_step()) {
    const float4 v = reinterpret_cast<const float4*>(a.values)[q];
    const uchar4 l = reinterpret_cast<const uchar4*>(a.labels)[q];
    count(v.x, l.x);
    count(v.y, l.y);
    count(v.z, l.z);
    count(v.w, l.w);
  }
  for (uint64_t i = 4 * quads + grid_start(); i < a.n; i += grid_step()) {
    count(a.values[i], a.labels[i]);
  }
  if (!a.percentile && a.pass == 0 && own_valid > 0) atomicAdd(valid, own_valid);
  __syncthreads();  // the block's counts are complete before they are added to the grid's

  uint32_t* total = a.histograms + a.pass * a.targets * SELECT_BINS;
  for (uint32_t i = threadIdx.x; i < targets * SELECT_BINS; i += blockDim.x) {
    if (histograms[i] > 0) atomicAdd(&total[i], histograms[i]);
  }
  if (threadIdx.x == 0 && valid[0] > 0) atomicAdd(a.valid, valid[0]);
}

// One block. A warp finds a target's key; then a thread makes an output of one or two of them.
KERNEL(select_finish, SelectArgs, 256) {
  SHARED(float, found, [SELECT_TARGETS]);
  SHARED(uint32_t, sums, [8]);
  for (uint32_t t = threadIdx.x / 32; t < a.targets; t += 8) {
    const float value = from_key(advance(a, t, 4).prefix);
    if (threadIdx.x % 32 == 0) found[t] = value;
  }
  // Values that count: all of the first histogram.
  const uint32_t part = __reduce_add_sync(~0u, a.histograms[threadIdx.x]);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = part;
  __syncthreads();  // keys and sums are there before they are read
  uint32_t n = 0;
  for (uint32_t i = 0; i < 8; ++i) n += sums[i];
  if (!a.percentile) {
    if (threadIdx.x == 0) {
      const bool enough = a.min_kept > 0 && *a.valid >= a.min_kept;
      a.out[0] = enough ? fmaxf(found[0], a.thresh) : INFINITY;
    }
  } else if (threadIdx.x < a.targets / 2) {
    float result = INFINITY;
    if (n > 0) {
      const double lo = found[2 * threadIdx.x], hi = found[2 * threadIdx.x + 1];
      const double t = position_of(a.percents[threadIdx.x], n).t;
      // numpy interpolates from the nearer end, so that t = 1 is exact.
      const double value = t < 0.5 ? lo + (hi - lo) * t : hi - (hi - lo) * (1.0 - t);
      result = static_cast<float>(value);
    }
    a.out[threadIdx.x] = result;
  }
}
