// Which feature pixels teach which class (partition), and the lists of them (compact).
#include "include/oracle_math.cuh"

namespace {

constexpr uint32_t NONE = 0xFFFFFFFFu;
CONSTANT(PARTITION_PIXELS, 64);  // and threads, of a partition block

// Index at label resolution of feature coordinate i: PyTorch's nearest, quotient and product in f32.
__device__ __forceinline__ uint32_t nearest(uint32_t i, uint32_t input, uint32_t output) {
  const float scale = static_cast<float>(input) / static_cast<float>(output);
  const uint32_t at = static_cast<uint32_t>(static_cast<float>(i) * scale);
  return at < input ? at : input - 1;
}

// O(c) = #{k: l_k > l_c} + #{k < c: l_k = l_c} of the classes first..first+3 at once: each logit is
// loaded once for the four. Ranks of classes past the last are meaningless.
__device__ __forceinline__ void ranks(const float* x, uint32_t classes, uint32_t first,
                                      uint32_t (&rank)[4]) {
  float own[4];
#pragma unroll
  for (uint32_t j = 0; j < 4; ++j) {
    own[j] = x[first + j < classes ? first + j : classes - 1];
    rank[j] = 0;
  }
#pragma unroll 4
  for (uint32_t k = 0; k < first; ++k) {
    const float v = x[k];
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) rank[j] += v >= own[j];
  }
  const uint32_t middle = first + 4 < classes ? first + 4 : classes;
  for (uint32_t k = first; k < middle; ++k) {
    const float v = x[k];
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) rank[j] += k < first + j ? v >= own[j] : v > own[j];
  }
#pragma unroll 4
  for (uint32_t k = middle; k < classes; ++k) {
    const float v = x[k];
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) rank[j] += v > own[j];
  }
}

// O(c) of one class.
__device__ __forceinline__ uint32_t rank_of(const float* x, uint32_t classes, uint32_t c) {
  const float own = x[c];
  uint32_t rank = 0;
  for (uint32_t k = 0; k < c; ++k) rank += x[k] >= own;
  for (uint32_t k = c + 1; k < classes; ++k) rank += x[k] > own;
  return rank;
}

}  // namespace

// Anchor, positive and negative masks of every feature pixel (class_rank of method.md section 1,
// rows 1-3, 5, 6 of section 4 in variant Released).
//
// logits [B, h, w, C], any ld; label_l u8 [Bl, H, W], label_u u8 [Bu, H, W], entropy_u f32
// [Bu, H, W], all dense; thresholds f32 [3] = {gamma, low, high} on the device; masks u32
// [B, h, w, ceil(C/32)], dense, every word written.
// Never materialises ranks, probabilities, one-hots, or anything at label resolution: the labels
// are sampled where they lie.
//
// A thread per pixel, 64 pixels a block; their logits in shared memory, rows an odd number of
// floats apart so that threads in step meet different banks. A rank is a count over the pixel's own
// C logits, four classes at a time; no sort.
//
// Work at the VOC shape (P = 8*65*65, C = 21): 2.8 MB logits + 0.4 MB masks + sectors of labels and
// entropy; at most P*C^2 = 15 M comparisons. Floor 1.4 us. Measured: not measured on a GPU.
// grid ceil(P/64), block 64, dynamic shared 64*(C|1)*4 bytes (65 280 at C = 255).
// Order and tolerance: none of either; bit-equal to src/device/cpu/contrast/partition.rs, whose exp
// and order of summation oracle_math.cuh repeats. Logits that are all NaN, or all below -1e30, may
// differ from it in p(c) > delta_p.
ARGS(PartitionArgs) {
  Map logits;
  const uint8_t* label_l;
  const uint8_t* label_u;
  const float* entropy_u;
  const float* thresholds;
  uint32_t* anchors;
  uint32_t* positives;
  uint32_t* negatives;
  uint32_t images_l;
  uint32_t images_u;
  uint32_t height;
  uint32_t width;
  uint32_t ignore;
  uint32_t low_rank;
  uint32_t high_rank;
  uint32_t released;
  float delta_p;
  uint32_t unlabeled;
};

namespace {

// Unlabelled pixels that may be negatives, NegativePixels in src/device/op.rs; with any other value
// none may.
CONSTANT(UNRELIABLE, 0);
CONSTANT(RELIABLE, 1);
CONSTANT(EVERY, 2);
CONSTANT(LABELED_ONLY, 3);

// A feature pixel's place at label resolution, in the tensor of its image.
struct Sample {
  const uint8_t* label;  // the tensor's labels at this place in image 0
  uint64_t stride;       // from an image to the next
  uint32_t images;       // of the tensor
  uint32_t image;        // this one's
  float entropy;         // unlabelled pixels only
  bool labeled;
};

__device__ __forceinline__ Sample sample(const PartitionArgs& a, uint64_t pixel) {
  const uint32_t column = static_cast<uint32_t>(pixel % a.logits.w);
  const uint64_t row = pixel / a.logits.w;
  const uint32_t image = static_cast<uint32_t>(row / a.logits.h);
  const uint32_t y = nearest(static_cast<uint32_t>(row % a.logits.h), a.height, a.logits.h);
  const uint64_t at = static_cast<uint64_t>(y) * a.width + nearest(column, a.width, a.logits.w);
  const uint64_t stride = static_cast<uint64_t>(a.height) * a.width;
  if (image < a.images_l) return Sample{a.label_l + at, stride, a.images_l, image, 0.0f, true};
  const uint32_t own = image - a.images_l;
  return Sample{a.label_u + at, stride, a.images_u, own, a.entropy_u[own * stride + at], false};
}

// The class that image `i` has at this place, NONE where ignored.
__device__ __forceinline__ uint32_t class_at(const PartitionArgs& a, const Sample& s, uint32_t i) {
  const uint32_t label = s.label[i * s.stride];
  return label != a.ignore && label < a.logits.c ? label : NONE;
}

// p(c) > delta_p.
__device__ __forceinline__ bool sure(const PartitionArgs& a, const float* x, OracleSoftmax s,
                                     uint32_t c) {
  return oracle_exp(x[c] - s.max) / s.sum > a.delta_p;
}

__device__ __forceinline__ void paper(const PartitionArgs& a, const float* x, uint64_t pixel) {
  const uint32_t classes = a.logits.c;
  const uint32_t words = (classes + 31) / 32;
  const Sample s = sample(a, pixel);
  const uint32_t own = class_at(a, s, s.image);
  const float gamma = a.thresholds[0];
  const bool positive = own != NONE && (s.labeled || s.entropy < gamma) &&
                        sure(a, x, oracle_softmax(x, classes), own);
  // As tests for what counts, so that a NaN entropy does not.
  const bool counts = a.unlabeled == UNRELIABLE ? s.entropy > gamma
                      : a.unlabeled == RELIABLE ? s.entropy <= gamma
                                                : a.unlabeled == EVERY;
  const bool ranked = own != NONE && (s.labeled || counts);
  // A labelled pixel's negatives: any rank below r_l but its own class's.
  const uint32_t from = s.labeled ? 0 : a.low_rank;
  const uint32_t to = s.labeled ? a.low_rank : a.high_rank;
  const uint32_t but = s.labeled ? own : NONE;
  for (uint32_t w = 0; w < words; ++w) {
    const uint32_t hot = positive && own / 32 == w ? 1u << own % 32 : 0u;
    uint32_t negative = 0;
    if (ranked) {
      const uint32_t end = w * 32 + 32 < classes ? w * 32 + 32 : classes;
      for (uint32_t first = w * 32; first < end; first += 4) {
        uint32_t rank[4];
        ranks(x, classes, first, rank);
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
          const uint32_t c = first + j;
          const bool is = c < end && c != but && rank[j] >= from && rank[j] < to;
          negative |= static_cast<uint32_t>(is) << c % 32;
        }
      }
    }
    a.anchors[pixel * words + w] = hot;
    a.positives[pixel * words + w] = hot;
    a.negatives[pixel * words + w] = negative;
  }
}

__device__ __forceinline__ void released(const PartitionArgs& a, const float* x, uint64_t pixel) {
  const uint32_t classes = a.logits.c;
  const uint32_t words = (classes + 31) / 32;
  const Sample s = sample(a, pixel);
  // Row 1: image 0 carries the classes of every image of its tensor, the others none.
  const bool marked = s.image == 0 && class_at(a, s, 0) != NONE;
  const bool low = marked && (s.labeled || s.entropy <= a.thresholds[1]);
  const bool high = marked && !s.labeled && s.entropy >= a.thresholds[2];
  OracleSoftmax softmax{0.0f, 1.0f};
  if (low) softmax = oracle_softmax(x, classes);
  for (uint32_t w = 0; w < words; ++w) {
    uint32_t hot = 0;
    for (uint32_t i = 0; marked && i < s.images; ++i) {
      const uint32_t c = class_at(a, s, i);
      const uint32_t scattered = c == NONE ? 0 : c;  // an ignored pixel counts as class 0
      if (scattered / 32 == w) hot |= 1u << scattered % 32;
    }
    uint32_t anchor = 0;
    uint32_t negative = 0;
    for (uint32_t rest = hot; rest != 0; rest &= rest - 1) {
      const uint32_t bit = __ffs(static_cast<int>(rest)) - 1;
      const uint32_t c = w * 32 + bit;
      if (low && sure(a, x, softmax, c)) anchor |= 1u << bit;
      if (high) {
        const uint32_t rank = rank_of(x, classes, c);
        if (rank >= a.low_rank && rank < a.high_rank) negative |= 1u << bit;
      }
    }
    a.anchors[pixel * words + w] = anchor;
    a.positives[pixel * words + w] = low ? hot : 0;
    a.negatives[pixel * words + w] = negative;
  }
}

}  // namespace

KERNEL(partition, PartitionArgs, 64) {
  DYNAMIC_SHARED(smem);
  float* tile = reinterpret_cast<float*>(smem);
  const uint32_t classes = a.logits.c;
  const uint32_t stride = classes | 1;
  const uint64_t pixels = static_cast<uint64_t>(a.logits.n) * a.logits.h * a.logits.w;
  const uint64_t first = static_cast<uint64_t>(blockIdx.x) * PARTITION_PIXELS;
  const float* logits = static_cast<const float*>(a.logits.data);
  const uint32_t warp = threadIdx.x / 32;
  for (uint32_t c = threadIdx.x % 32; c < classes; c += 32) {
#pragma unroll 8
    for (uint32_t r = warp; r < PARTITION_PIXELS; r += 2) {
      if (first + r < pixels) tile[r * stride + c] = logits[(first + r) * a.logits.ld + c];
    }
  }
  __syncthreads();  // a pixel's row was loaded by a whole warp: all of it before any reads it
  const uint64_t pixel = first + threadIdx.x;
  if (pixel >= pixels) return;
  const float* x = tile + threadIdx.x * stride;
  if (a.released) {
    released(a, x, pixel);
  } else {
    paper(a, x, pixel);
  }
}

// Per class, the ascending list of the pixels whose bit is set, and how many there are.
//
// bits u32 [B, h, w, >= words], any ld; list u32 [C] rows, list_ld apart, P long or longer; counts
// u32 [2][C]: of all pixels, of those below `labeled`. sums u32 [2][chunks][words*32], workspace.
// Never materialises a mask per class.
//
// Two launches over the same grid: compact_count counts each class in each chunk of pixels,
// compact_write adds up the chunks before its own and writes. Within a chunk each of the 8 warps has
// a strip of consecutive pixels; lane = class bit, so a strip's word is one broadcast load for 32
// classes and a lane meets its class's pixels in ascending order.
//
// Work at the VOC shape, per mask: 2 reads of 135 KB of bits, 4 bytes written per set bit, 32*P
// bit tests twice. Floor under 1 us: two launches. Measured: not measured on a GPU.
// grid (chunks, words), block 256, static shared 4 KB. Integers: the result does not depend on the
// chunks. Equal to compact() in src/device/cpu/contrast/partition.rs.
ARGS(CompactArgs) {
  const uint32_t* bits;
  uint32_t* list;
  uint32_t* counts;
  uint32_t* sums;
  uint64_t bits_ld;
  uint64_t list_ld;
  uint32_t pixels;
  uint32_t labeled;
  uint32_t classes;
  uint32_t strip;  // pixels of a warp, a multiple of 32
};

namespace {

CONSTANT(COMPACT_WARPS, 8);

// Calls f(pixel, set) for the pixels of this warp's strip, ascending, with this lane's bit.
template <class F>
__device__ __forceinline__ void for_strip(const CompactArgs& a, uint32_t (&words)[COMPACT_WARPS][32], F f) {
  const uint32_t lane = threadIdx.x % 32;
  uint32_t* own = words[threadIdx.x / 32];
  const uint32_t start = (blockIdx.x * COMPACT_WARPS + threadIdx.x / 32) * a.strip;
  for (uint32_t first = start; first < start + a.strip && first < a.pixels; first += 32) {
    const uint32_t pixel = first + lane;
    own[lane] = pixel < a.pixels ? a.bits[pixel * a.bits_ld + blockIdx.y] : 0u;
    __syncwarp();  // each lane reads the words that the others loaded
    for (uint32_t i = 0; i < 32; ++i) f(first + i, own[i] >> lane & 1u);
    __syncwarp();  // all have read this round's words before the next overwrites them
  }
}

// Column `lane` of sums[row][chunk] for this block's word of classes.
__device__ __forceinline__ uint64_t sums_at(uint32_t row, uint32_t chunk) {
  return ((static_cast<uint64_t>(row) * gridDim.x + chunk) * gridDim.y + blockIdx.y) * 32 +
         threadIdx.x % 32;
}

}  // namespace

KERNEL(compact_count, CompactArgs, 256) {
  SHARED(uint32_t, words, [COMPACT_WARPS][32]);
  SHARED(uint32_t, all, [COMPACT_WARPS][32]);
  SHARED(uint32_t, labeled, [COMPACT_WARPS][32]);
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  uint32_t n = 0;
  uint32_t n_labeled = 0;
  for_strip(a, words, [&](uint32_t pixel, uint32_t set) {
    n += set;
    n_labeled += pixel < a.labeled ? set : 0u;
  });
  all[warp][lane] = n;
  labeled[warp][lane] = n_labeled;
  __syncthreads();  // warps 0 and 1 add what all eight counted
  if (warp >= 2) return;
  uint32_t total = 0;
  for (uint32_t w = 0; w < COMPACT_WARPS; ++w) total += warp == 0 ? all[w][lane] : labeled[w][lane];
  a.sums[sums_at(warp, blockIdx.x)] = total;
}

KERNEL(compact_write, CompactArgs, 256) {
  SHARED(uint32_t, words, [COMPACT_WARPS][32]);
  SHARED(uint32_t, before, [COMPACT_WARPS][32]);
  SHARED(uint32_t, labeled, [COMPACT_WARPS][32]);
  SHARED(uint32_t, strips, [COMPACT_WARPS][32]);
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  const bool last = blockIdx.x == gridDim.x - 1;
  uint32_t n = 0;
  uint32_t n_labeled = 0;
  // The chunks before this one, an eighth of them a warp; the last block totals the counts.
#pragma unroll 4
  for (uint32_t k = warp; k < blockIdx.x; k += COMPACT_WARPS) n += a.sums[sums_at(0, k)];
  if (last) {
    for (uint32_t k = warp; k < gridDim.x; k += COMPACT_WARPS) n_labeled += a.sums[sums_at(1, k)];
  }
  before[warp][lane] = n;
  labeled[warp][lane] = n_labeled;
  uint32_t own = 0;
  for_strip(a, words, [&](uint32_t, uint32_t set) { own += set; });
  strips[warp][lane] = own;
  __syncthreads();  // a strip starts after all chunks and strips before it, counted by other warps
  uint32_t at = 0;
  uint32_t total = 0;
  for (uint32_t w = 0; w < COMPACT_WARPS; ++w) {
    at += before[w][lane] + (w < warp ? strips[w][lane] : 0u);
    total += before[w][lane] + strips[w][lane];
  }
  const uint32_t c = blockIdx.y * 32 + lane;
  uint32_t* list = a.list + c * a.list_ld;
  const bool real = c < a.classes;
  for_strip(a, words, [&](uint32_t pixel, uint32_t set) {
    if (set && real) list[at++] = pixel;
  });
  if (!last || !real || warp != 0) return;
  uint32_t total_labeled = 0;
  for (uint32_t w = 0; w < COMPACT_WARPS; ++w) total_labeled += labeled[w][lane];
  a.counts[c] = total;
  a.counts[a.classes + c] = total_labeled;
}
