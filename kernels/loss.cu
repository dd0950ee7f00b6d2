// cross_entropy, cross_entropy_backward, target_probability: the losses at label resolution from
// low-resolution logits. Neither the upsampled logits nor their gradient ever exist in memory.
// (ohem_threshold: select.cu.)
#include "include/softmax.cuh"
#include "include/upsample.cuh"

ARGS(LossArgs) {
  UpsampleArgs u;
  const uint8_t* label;     // [batch, height, width]
  const float* threshold;   // [1]: pixels whose p(label) exceeds it do not count (OHEM); or null
  const float* stats;       // backward: [4], the gradient's scale is stats[1]
  void* out;                // of each kernel, see there
  uint32_t ignore;
  float weight;             // backward
};

// The class of a labelled pixel, or none.
constexpr uint32_t kNoClass = 0xFFFFFFFFu;
__device__ __forceinline__ uint32_t class_of(const LossArgs& a, uint64_t pixel) {
  const uint32_t label = a.label[pixel];
  return label != a.ignore && label < a.u.classes ? label : kNoClass;
}

// Whether OHEM leaves a pixel out.
__device__ __forceinline__ bool is_easy(const LossArgs& a, float x, const Softmax& s) {
  const float threshold = a.threshold == nullptr ? INFINITY : *a.threshold;
  return threshold < 1.0f && probability(x, s) > threshold;
}

// A block's part of the loss.
struct Part {
  double sum;
  uint64_t valid;
};
CONSTANT(LOSS_PART_BYTES, 16);
static_assert(sizeof(Part) == LOSS_PART_BYTES, "the workspace's size");

// Sums `mine` over the block in a fixed order; the result is thread 0's. Barriers inside.
template <uint32_t Threads> __device__ Part block_sum(Part mine) {
  SHARED(double, sums, [Threads / 32]);
  SHARED(uint64_t, counts, [Threads / 32]);
  for (uint32_t delta = 16; delta > 0; delta /= 2) {
    mine.sum += __shfl_down_sync(~0u, mine.sum, delta);
    mine.valid += __shfl_down_sync(~0u, mine.valid, delta);
  }
  if (threadIdx.x % 32 == 0) {
    sums[threadIdx.x / 32] = mine.sum;
    counts[threadIdx.x / 32] = mine.valid;
  }
  __syncthreads();  // every warp's sum is there before thread 0 adds them
  if (threadIdx.x == 0) {
    for (uint32_t i = 1; i < Threads / 32; ++i) {
      mine.sum += sums[i];
      mine.valid += counts[i];
    }
  }
  return mine;
}

// out: Part per block, -log p(label) of the valid pixels of a run of output pixels, summed in f64.
//
//   as softmax_entropy: shared columns under the run, thread = output pixel
//
// Bytes: logits once, 1 per output pixel (6.7 MB at 4x513^2); 22 M exponentials. Floor: those.
// Measured: not measured on a GPU. Grid: ceil(width/run) * height * batch; shared: columns.
// Order: fixed by the shapes alone (shuffles, then warps, then blocks). With cross_entropy_stats
// equals cpu/loss.rs::cross_entropy within 1e-5 relative; counts exactly, but for a pixel whose p
// is within rounding of the OHEM threshold.
KERNEL(cross_entropy_parts, LossArgs, 192) {
  static_assert(UPSAMPLE_THREADS == 192, "one thread per pixel of a run");
  DYNAMIC_SHARED(smem);
  Part mine{0.0, 0};
  each_pixel(a.u, blockIdx.x, reinterpret_cast<float*>(smem),
             [&](uint64_t i, const UpsampledPixel& x) {
               const uint32_t label = class_of(a, i);
               if (label == kNoClass) return;
               const Softmax s = softmax(x, a.u.classes);
               if (is_easy(a, x(label), s)) return;
               mine.sum += static_cast<double>(s.ln_sum() - (x(label) - s.max));
               mine.valid += 1;
             });
  const Part sum = block_sum<UPSAMPLE_THREADS>(mine);
  if (threadIdx.x == 0) static_cast<Part*>(a.out)[blockIdx.x] = sum;
}

// stats = {loss, gradient scale per valid pixel, valid pixels, all pixels} from the parts, in
// fixed order. One block: 16 bytes per part (98 kB at 4x513^2).
ARGS(LossStatsArgs) {
  const void* parts;
  float* stats;
  uint64_t count;
  uint64_t pixels;
  uint32_t norm;
  uint32_t pad;
};

// CeNorm in src/device/op.rs; anything else is the mean over valid pixels.
CONSTANT(OVER_VALID, 0);
CONSTANT(ALL_OVER_VALID, 1);
CONSTANT(OVER_ALL, 2);

KERNEL(cross_entropy_stats, LossStatsArgs, 256) {
  Part mine{0.0, 0};
  for (uint64_t i = threadIdx.x; i < a.count; i += blockDim.x) {
    const Part part = static_cast<const Part*>(a.parts)[i];
    mine.sum += part.sum;
    mine.valid += part.valid;
  }
  const Part all = block_sum<256>(mine);
  if (threadIdx.x > 0) return;
  const auto valid = static_cast<double>(all.valid), pixels = static_cast<double>(a.pixels);
  double each = 0.0;
  if (all.valid > 0) {
    each = a.norm == ALL_OVER_VALID ? pixels / (valid * valid)
           : a.norm == OVER_ALL     ? 1.0 / pixels
                                    : 1.0 / valid;
  }
  a.stats[0] = static_cast<float>(all.sum * each);
  a.stats[1] = static_cast<float>(each);
  a.stats[2] = static_cast<float>(valid);
  a.stats[3] = static_cast<float>(pixels);
}

// out: f32 per output pixel, p(label), 1 where there is none. Shape of the work, bytes and floor
// as cross_entropy_parts, + 4 bytes per pixel. Order: per pixel, fixed. Must equal
// cpu/loss.rs::target_probability within 1e-5 relative.
KERNEL(target_probability, LossArgs, 192) {
  DYNAMIC_SHARED(smem);
  each_pixel(a.u, blockIdx.x, reinterpret_cast<float*>(smem),
             [&](uint64_t i, const UpsampledPixel& x) {
               const uint32_t label = class_of(a, i);
               static_cast<float*>(a.out)[i] =
                   label == kNoClass ? 1.0f : probability(x(label), softmax(x, a.u.classes));
             });
}

// What the backward needs of a label pixel's softmax: 16 bytes, in the workspace.
struct alignas(16) PixelLoss {
  float max;
  float inverse;   // gradient of class c: e^(x_c - max) * inverse
  float own;       // gradient of the label's class
  uint32_t label;  // kNoClass: the pixel does not count
};
CONSTANT(LOSS_PIXEL_BYTES, 16);
static_assert(sizeof(PixelLoss) == LOSS_PIXEL_BYTES, "one access");

// out: PixelLoss per output pixel, so that cross_entropy_gather takes each exponential of a
// gradient once and sums none. Work as cross_entropy_parts, + 16 bytes per pixel (17 MB at
// 4x513^2, which stays in L2). Order: per pixel, fixed.
KERNEL(cross_entropy_pixels, LossArgs, 192) {
  DYNAMIC_SHARED(smem);
  const float scale = a.stats[1] * a.weight;
  each_pixel(a.u, blockIdx.x, reinterpret_cast<float*>(smem),
             [&](uint64_t i, const UpsampledPixel& x) {
               PixelLoss p{0.0f, 0.0f, 0.0f, class_of(a, i)};
               if (p.label != kNoClass) {
                 const Softmax s = softmax(x, a.u.classes);
                 p.max = s.max;
                 p.inverse = scale / s.sum();
                 // 1 - p(argmax) comes from the other classes' sum, digits and all.
                 p.own = p.label == s.argmax ? -s.others * p.inverse
                                             : expf(x(p.label) - s.max) * p.inverse - scale;
                 if (is_easy(a, x(p.label), s)) p.label = kNoClass;
               }
               static_cast<PixelLoss*>(a.out)[i] = p;
             });
}

// dlogits[b, y, x, c] (+)= sum over the label pixels whose taps touch (y, x) of weight * gradient.
//
// A block owns tile_h x tile_w low-resolution pixels and a group of classes, and walks down the
// label rows that touch them, `rows` at a time:
//
//            label columns j0 .. j1
//          +------------------------+   phase 1, thread = label pixel: gradients of the group's
//   i ..   | chunk of <= 256 pixels |   classes into shared, one exponential each
//   i+rows |                        |   phase 2, thread = (low-res column, class): horizontal sum
//          +------------------------+   of its tent, then vertical into two registers
//
// Label rows ascend, so a thread needs sums of two low-resolution rows only: when a row's lower
// tap moves on, the upper sum is finished and stored. Pixels on a tile's rim are computed by both
// tiles: (1 + 1/tile_h)(1 + 1/tile_w) times the exponentials, 1.22 at 8 x 12.
//
// Bytes: logits and PixelLoss once per tile that needs them, gradients once (6.9 MB written and
// 17 MB read from L2 at 4 x 129^2 x 21 -> 513^2); 27 M exponentials. Floor: those. Measured: not
// measured on a GPU. Grid: tiles * class groups * batch; block 256; shared: logits of the tile and
// its rim, then 256 pixels' gradients, (group | 1) floats each.
// Order: of each sum fixed (columns, then rows, both ascending), whatever the tiles. Must equal
// cpu/loss.rs::cross_entropy_backward within 2e-6 of the largest gradient.
ARGS(GatherArgs) {
  UpsampleArgs u;
  const void* pixels;   // PixelLoss [batch, height, width]
  float* dlogits;       // [batch, h, w, classes]
  uint64_t ld;
  uint32_t tile_h;
  uint32_t tile_w;      // tile_w * group <= 256
  uint32_t group;       // classes of a block
  uint32_t rows;        // label rows of a chunk, at most GATHER_ROWS
  uint32_t accumulate;
  uint32_t pad;
};

constexpr uint32_t kGatherThreads = 256;
CONSTANT(GATHER_ROWS, 4);

// The logits of a block's tile and its rim in shared memory.
struct Tile {
  const float* data;
  uint32_t y0, x0, width, stride;
  __device__ __forceinline__ const float* at(uint32_t y, uint32_t x) const {
    return data + ((y - y0) * width + (x - x0)) * stride;
  }
};

// Gradients of `count` classes from `first` of one label pixel.
__device__ __forceinline__ void pixel_gradient(const PixelLoss& p, const Tile& tile, const Tap& y,
                                               const Tap& x, uint32_t first, uint32_t count,
                                               float* gradient) {
  if (p.label == kNoClass) {
    for (uint32_t c = 0; c < count; ++c) gradient[c] = 0.0f;
    return;
  }
  const float* top_lo = tile.at(y.lo, x.lo);
  const float* top_hi = tile.at(y.lo, x.hi);
  const float* bottom_lo = tile.at(y.hi, x.lo);
  const float* bottom_hi = tile.at(y.hi, x.hi);
  const float keep_y = 1.0f - y.t, keep_x = 1.0f - x.t;
#pragma unroll 4
  for (uint32_t c = 0; c < count; ++c) {
    const float lo = keep_y * top_lo[c] + y.t * bottom_lo[c];
    const float hi = keep_y * top_hi[c] + y.t * bottom_hi[c];
    const float e = expf(keep_x * lo + x.t * hi - p.max) * p.inverse;
    gradient[c] = first + c == p.label ? p.own : e;
  }
}

// The label columns that touch one low-resolution column: [from, middle) with weight t, being its
// upper tap; [middle, to) with weight 1 - t, its lower tap; in the last column both are.
struct Tent {
  uint32_t from, middle, to;
  __device__ __forceinline__ Tent(const Axis& xs, uint32_t x, uint32_t width)
      : from(x == 0 ? 0 : xs.first(x - 1, width)),
        middle(xs.first(x, width)),
        to(xs.first(x + 1, width)) {}
};

// sums[r] += weight(j) * gradient of pixel (r, j), for the columns [from, to) of a chunk that
// begins at column j0 and has `columns` of them.
template <class Weight>
__device__ __forceinline__ void gather_row(float (&sums)[GATHER_ROWS], const float* gradients,
                                           uint32_t stride, uint32_t columns, uint32_t rows,
                                           uint32_t j0, uint32_t from, uint32_t to,
                                           Weight weight) {
  for (uint32_t j = max(from, j0); j < min(to, j0 + columns); ++j) {
    const float w = weight(j);
#pragma unroll
    for (uint32_t r = 0; r < GATHER_ROWS; ++r) {
      if (r < rows) sums[r] = fmaf(w, gradients[(r * columns + j - j0) * stride], sums[r]);
    }
  }
}

// Sums of two adjacent low-resolution rows, moving down.
struct Rows {
  int64_t row;  // of `upper`; -1 before the first
  float upper, lower;
  template <class Store> __device__ __forceinline__ void move_to(int64_t next, Store store) {
    while (row < next) {
      store(row, upper);
      upper = lower;
      lower = 0.0f;
      ++row;
    }
  }
};

KERNEL(cross_entropy_gather, GatherArgs, 256) {
  static_assert(kGatherThreads == 256, "the block's size");
  DYNAMIC_SHARED(smem);
  const UpsampleArgs& u = a.u;
  const uint32_t tiles_x = (u.w + a.tile_w - 1) / a.tile_w;
  const uint32_t tiles_y = (u.h + a.tile_h - 1) / a.tile_h;
  const uint32_t groups = (u.classes + a.group - 1) / a.group;
  uint32_t block = blockIdx.x;
  const uint32_t x0 = block % tiles_x * a.tile_w;
  block /= tiles_x;
  const uint32_t y0 = block % tiles_y * a.tile_h;
  block /= tiles_y;
  const uint32_t c0 = block % groups * a.group, image = block / groups;
  const uint32_t x1 = min(x0 + a.tile_w, u.w), y1 = min(y0 + a.tile_h, u.h);
  const uint32_t classes = min(a.group, u.classes - c0), stride = stride_of(a.group);

  const uint32_t left = max(x0, 1u) - 1, right = min(x1, u.w - 1);
  const uint32_t top = max(y0, 1u) - 1, bottom = min(y1, u.h - 1);
  float* logits = reinterpret_cast<float*>(smem);
  const Tile tile{logits, top, left, right - left + 1, stride};
  float* gradients = logits + (a.tile_h + 2) * (a.tile_w + 2) * stride;
  for (uint32_t p = threadIdx.x / 32; p < tile.width * (bottom - top + 1); p += 8) {
    const uint32_t y = top + p / tile.width, x = left + p % tile.width;
    const float* from = u.logits + ((static_cast<uint64_t>(image) * u.h + y) * u.w + x) * u.ld + c0;
    for (uint32_t c = threadIdx.x % 32; c < classes; c += 32) logits[p * stride + c] = from[c];
  }

  const Axis ys(u.h, u.height), xs(u.w, u.width);
  const uint32_t i0 = ys.first(top, u.height), i1 = ys.first(y1, u.height);
  const uint32_t j0 = xs.first(left, u.width), j1 = xs.first(x1, u.width);
  const uint32_t x = x0 + threadIdx.x / classes, c = threadIdx.x % classes;
  const bool owns = x < x1;
  const Tent tent(xs, min(x, x1 - 1), u.width);
  const bool last_column = x == xs.last;
  const auto t_of = [&](uint32_t j, uint32_t lo) {
    return xs.scale * static_cast<float>(j) - static_cast<float>(lo);
  };
  const auto store = [&](int64_t row, float sum) {
    if (row < static_cast<int64_t>(y0)) return;
    const uint64_t pixel = (static_cast<uint64_t>(image) * u.h + row) * u.w + x;
    float* to = a.dlogits + pixel * a.ld + c0 + c;
    *to = a.accumulate ? *to + sum : sum;
  };

  Rows sums{static_cast<int64_t>(y0) - 1, 0.0f, 0.0f};
  const auto* pixels = static_cast<const PixelLoss*>(a.pixels);
  const uint32_t most = kGatherThreads / a.rows;
  for (uint32_t i = i0; i < i1; i += a.rows) {
    const uint32_t rows = min(a.rows, i1 - i);
    float row_sums[GATHER_ROWS] = {};
    for (uint32_t j = j0; j < j1; j += most) {
      const uint32_t columns = min(most, j1 - j);
      __syncthreads();  // the tile is loaded, and the chunk before is gathered
      if (threadIdx.x < rows * columns) {
        const uint32_t r = i + threadIdx.x / columns, k = j + threadIdx.x % columns;
        const PixelLoss p = pixels[(static_cast<uint64_t>(image) * u.height + r) * u.width + k];
        pixel_gradient(p, tile, ys.tap(r), xs.tap(k), c0, classes,
                       gradients + threadIdx.x * stride);
      }
      __syncthreads();  // the chunk's gradients are whole before they are gathered
      if (!owns) continue;
      const auto gather = [&](uint32_t from, uint32_t to, auto weight) {
        gather_row(row_sums, gradients + c, stride, columns, rows, j, from, to, weight);
      };
      gather(tent.from, tent.middle, [&](uint32_t k) { return t_of(k, x - 1); });
      gather(tent.middle, tent.to, [&](uint32_t k) {
        const float t = t_of(k, x);
        return last_column ? (1.0f - t) + t : 1.0f - t;
      });
    }
    if (!owns) continue;
#pragma unroll
    for (uint32_t r = 0; r < GATHER_ROWS; ++r) {
      if (r >= rows) break;
      const Tap y = ys.tap(i + r);
      sums.move_to(y.lo, store);
      sums.upper = fmaf(1.0f - y.t, row_sums[r], sums.upper);
      if (y.hi == y.lo) {
        sums.upper = fmaf(y.t, row_sums[r], sums.upper);
      } else {
        sums.lower = fmaf(y.t, row_sums[r], sums.lower);
      }
    }
  }
  if (owns) sums.move_to(y1, store);
}
