// Batch norm over NHWC maps: training, inference, backward; fused with a residual sum and ReLU.
//
//   train     batch_norm_moments -> batch_norm_finish -> batch_norm_apply     reads x twice
//   merge     batch_norm_merge -> batch_norm_apply                            reads x once
//   eval      batch_norm_eval                                                 reads x once
//   backward  batch_norm_sums -> batch_norm_gradients -> batch_norm_dx        reads dy, x, y twice
//
// Never materialised: x_hat, the ReLU mask (it is y > 0), dy behind the ReLU (unless it is the
// residual's gradient, an output).
//
// Tiling, all kernels over maps: blockIdx.y counts blocks of channels, blockIdx.x blocks of pixels.
//
//     threads of a block         channels ->  lanes * V
//     (256 = lanes * step)     +-------------------------+
//               pixels         | ty 0: lane 0 .. lanes-1 |   V channels a thread: 16 bytes, or 1
//                 |            | ty 1                    |
//                 v            |  ... step pixels a pass |
//
// A thread keeps its channels, so coefficients stay in registers. `lanes` is a power of two up to
// 32: a warp reads up to 512 adjacent bytes.
//
// The two reductions split the pixels into `splits` chunks of `chunk` pixels. Both follow from the
// shape and type alone, never from the number of multiprocessors; inside a block the pixels are
// summed per thread in ascending order, then over ty in a tree; the chunks are merged in f64, lane
// by lane of a warp, then in a butterfly. Same shape and alignment, same bits.
//
// Statistics: x is taken relative to the channel's value at the first pixel (so that a mean of 200
// with a deviation of 1 keeps its digits), eight pixels at a time: their mean and squared
// deviations from it, merged into the thread's by Chan's formula. Never E[x^2] - E[x]^2.
//
// merge: a convolution left mean and squared deviations of every 64 pixels (include/conv/
// epilogue.cuh); 64 such tiles at a time, then the chunks, by Chan's formula in f64. The last block of
// each 32 channels merges their chunks, which saves a launch: at most 8 bytes for every 4096 pixels of
// 32 channels. Behind the two other reductions a launch of its own does it: a block of those has up to
// 256 channels in up to 1024 chunks, 1 MB at 65x65x256 of 8 images, which one multiprocessor would
// read in longer than a launch takes (predicted; not measured on a GPU).
//
// Workspace, floats: train {mean, squares}[C][splits], first[C]; merge {mean, squares}[C][splits];
// backward {sum dy', sum dy'(x-mean)}[C][splits], {sum dy' / n, slope}[C].
//
// Bytes: train 2 reads + 1 write of the map (+ 1 read with a residual); merge 1 read + 1 write, the
// least there is (+ 1 read with a residual), and the moments, 1/16 of a bf16 map; eval 1 + 1; backward 2 x 3 reads + 1
// write (2 with a residual). VOC shape, one 65x65x2048 map of 8 images in bf16: 138 MB a pass.
// Measured: not measured on a GPU.
// Tolerance against src/device/cpu/norm.rs: eval bit for bit; train, merge and backward 1e-5 of the
// terms summed (another order of summing); one rounding to bf16 (2^-8 relative) where the maps are.
#include "include/planes.cuh"

using namespace planes;

// Pixels that a thread loads before it uses them.
static constexpr int kBatch = 8;

// A plane cut into blocks of channels and chunks of pixels.
ARGS(NormTiles) {
  uint64_t pixels;
  uint64_t chunk;  // pixels of a split (reductions) or of a block (the others)
  uint32_t channels;
  uint32_t lanes_log2;
  uint32_t splits;
  uint32_t vector;
};

// ---- statistics -------------------------------------------------------------------------------

// partials[c][split] = {mean, squared deviations} of x - first[c]; first[c] = x of pixel 0.
// Grid: (splits, blocks of channels). Shared: 17 KiB.
ARGS(NormMomentsArgs) {
  NormTiles tiles;
  Plane x;
  float* partials;
  float* first;
};

// Merges (n, mean, squares) of b into a. An empty b changes nothing; an empty a becomes b.
static __device__ __forceinline__ void merge_moments(float& na, float& mean, float& squares,
                                                     float nb, float mean_b, float squares_b) {
  if (nb == 0.0f) return;
  const float n = na + nb;
  const float weight = nb / n;
  const float apart = mean_b - mean;
  mean += apart * weight;
  squares += squares_b + apart * apart * (na * weight);
  na = n;
}

// The pixels base, base + step, ... of one thread, K of them, merged into its moments.
template <class T, int V, int K>
static __device__ __forceinline__ void batch_moments(const NormMomentsArgs& a, uint64_t base,
                                                     const Stand<V>& stand, const float (&first)[V],
                                                     float& n, float (&mean)[V],
                                                     float (&squares)[V]) {
  float v[K][V];
#pragma unroll
  for (int i = 0; i < K; ++i) {
    load<V>(at<T>(a.x, base + static_cast<uint64_t>(i) * stand.step, stand.c), v[i]);
  }
  const float total = n + K;
  const float weight = K / total;
#pragma unroll
  for (int k = 0; k < V; ++k) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < K; ++i) {
      v[i][k] -= first[k];
      sum += v[i][k];
    }
    const float batch_mean = sum * (1.0f / K);
    float batch_squares = 0.0f;
#pragma unroll
    for (int i = 0; i < K; ++i) {
      const float off = v[i][k] - batch_mean;
      batch_squares = fmaf(off, off, batch_squares);
    }
    const float apart = batch_mean - mean[k];
    mean[k] = fmaf(apart, weight, mean[k]);
    squares[k] += fmaf(apart * apart, n * weight, batch_squares);
  }
  n = total;
}

template <class T, int V>
static __device__ __forceinline__ void moments(const NormMomentsArgs& a, float (&means)[8 * 256],
                                               float (&squared)[8 * 256], float (&counts)[256]) {
  const Stand<V> stand(a.tiles.lanes_log2);
  const bool active = stand.c < a.tiles.channels;
  float n = 0.0f, mean[V], squares[V], first[V];
#pragma unroll
  for (int k = 0; k < V; ++k) mean[k] = squares[k] = first[k] = 0.0f;
  const uint64_t begin = blockIdx.x * a.tiles.chunk;
  const uint64_t end = min(begin + a.tiles.chunk, a.tiles.pixels);
  if (active) {
    load<V>(at<T>(a.x, 0, stand.c), first);
    uint64_t p = begin + stand.ty;
    const uint64_t pass = static_cast<uint64_t>(stand.step) * kBatch;
    for (; p + (pass - stand.step) < end; p += pass) {
      batch_moments<T, V, kBatch>(a, p, stand, first, n, mean, squares);
    }
    for (; p < end; p += stand.step) {
      batch_moments<T, V, 1>(a, p, stand, first, n, mean, squares);
    }
  }
  const uint32_t t = threadIdx.x;
#pragma unroll
  for (int k = 0; k < V; ++k) {
    means[k * 256 + t] = mean[k];
    squared[k * 256 + t] = squares[k];
  }
  counts[t] = n;
  for (uint32_t half = stand.step / 2; half > 0; half /= 2) {
    __syncthreads();  // the upper half of ty reads what the lower half of the last pass wrote
    if (stand.ty >= half) continue;
    const uint32_t other = t + half * stand.lanes;
    float merged = n;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      merged = n;
      merge_moments(merged, mean[k], squares[k], counts[other], means[k * 256 + other],
                    squared[k * 256 + other]);
      means[k * 256 + t] = mean[k];
      squared[k * 256 + t] = squares[k];
    }
    counts[t] = n = merged;
  }
  if (!active || stand.ty != 0) return;
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const uint64_t c = stand.c + k;
    float* out = a.partials + 2 * (c * a.tiles.splits + blockIdx.x);
    out[0] = mean[k];
    out[1] = squares[k];
    if (blockIdx.x == 0) a.first[c] = first[k];
  }
}

template <class T> static __device__ __forceinline__ void moments_any(const NormMomentsArgs& a) {
  SHARED(float, means, [8 * 256]);
  SHARED(float, squared, [8 * 256]);
  SHARED(float, counts, [256]);
  if (a.tiles.vector) {
    moments<T, Lanes<T>::value>(a, means, squared, counts);
  } else {
    moments<T, 1>(a, means, squared, counts);
  }
}
KERNEL(batch_norm_moments_f32, NormMomentsArgs, 256) { moments_any<float>(a); }
KERNEL(batch_norm_moments_bf16, NormMomentsArgs, 256) { moments_any<bf16>(a); }

// The sum over a warp's lanes, the same bits in each.
static __device__ __forceinline__ double warp_sum(double v) {
  for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(0xFFFFFFFFu, v, offset);
  return v;
}

// Where the statistics of a map go once its chunks are merged.
ARGS(NormFinishArgs) {
  NormTiles tiles;
  float* partials;     // {mean, squares}[C][splits]
  const float* first;  // null: the means are of x itself
  float* mean;
  float* inv_std;
  float* running_mean;
  float* running_var;
  float eps;
  float momentum;
};

// Pixels of chunk s.
static __device__ __forceinline__ double chunk_pixels(const NormTiles& t, uint32_t s) {
  const uint64_t begin = s * t.chunk;
  return static_cast<double>(min(t.chunk, t.pixels - begin));
}

// Merges the chunks of channels c, c + step, ..., N of them, by a warp: mean, inv_std, running
// buffers. Channels past the last are left out. N at a time, for their loads wait for one another's
// stores otherwise.
template <int N>
static __device__ __forceinline__ void finish(const NormFinishArgs& a, uint32_t c, uint32_t step) {
  const uint32_t lane = threadIdx.x % 32;
  const double n = static_cast<double>(a.tiles.pixels);
  double mean[N], squares[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    mean[i] = squares[i] = 0.0;
    if (c + i * step >= a.tiles.channels) continue;
    const float* mine = a.partials + 2 * static_cast<uint64_t>(c + i * step) * a.tiles.splits;
    for (uint32_t s = lane; s < a.tiles.splits; s += 32) {
      mean[i] += chunk_pixels(a.tiles, s) * static_cast<double>(mine[2 * s]);
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) mean[i] = warp_sum(mean[i]) / n;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (c + i * step >= a.tiles.channels) continue;
    const float* mine = a.partials + 2 * static_cast<uint64_t>(c + i * step) * a.tiles.splits;
    for (uint32_t s = lane; s < a.tiles.splits; s += 32) {
      const double off = static_cast<double>(mine[2 * s]) - mean[i];
      squares[i] += static_cast<double>(mine[2 * s + 1]) + chunk_pixels(a.tiles, s) * off * off;
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) squares[i] = warp_sum(squares[i]);
  if (lane != 0) return;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const uint32_t to = c + i * step;
    if (to >= a.tiles.channels) continue;
    const double shift = a.first == nullptr ? 0.0 : static_cast<double>(a.first[to]);
    const float rounded = static_cast<float>(mean[i] + shift);
    a.mean[to] = rounded;
    a.inv_std[to] = static_cast<float>(1.0 / sqrt(squares[i] / n + static_cast<double>(a.eps)));
    // One pixel has no unbiased variance (and no deviation): 0.
    const float unbiased = static_cast<float>(squares[i] / (n > 2.0 ? n - 1.0 : 1.0));
    const float keep = 1.0f - a.momentum;
    a.running_mean[to] = keep * a.running_mean[to] + a.momentum * rounded;
    a.running_var[to] = keep * a.running_var[to] + a.momentum * unbiased;
  }
}

// A warp a channel. Grid: C / 8.
KERNEL(batch_norm_finish, NormFinishArgs, 256) {
  finish<1>(a, blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, 1);
}

// Moments that a convolution took of tiles of 64 pixels, merged 64 tiles at a time by Chan's formula:
// partials[c][split] = {mean, squared deviations} of chunk = 4096 pixels. A thread keeps 8 tiles of
// its channel in registers between the two passes that the formula takes; then over the threads of
// a channel in a tree, all in f64. The last block of its 32 channels then merges the chunks.
// Grid: (splits, C / 32). Shared: 6 KiB.
ARGS(NormMergeArgs) {
  NormFinishArgs finish;
  const float* moments;  // [tile][mean, squares][C]
  uint32_t* tickets;     // one for 32 channels, zero before and after
};

static constexpr uint32_t kMergeTiles = 8;   // of a thread
static constexpr uint32_t kMergeLanes = 8;   // threads of a channel
CONSTANT(NORM_MERGE_TILES, 64);     // of a block
CONSTANT(NORM_MERGE_CHANNELS, 32);  // of a block
static_assert(kMergeTiles * kMergeLanes == NORM_MERGE_TILES, "a block's tiles");
static_assert(kMergeLanes * NORM_MERGE_CHANNELS == 256, "a block's threads");

// ptxas keeps a value in local memory for the sake of a fourth block.
KERNEL(batch_norm_merge, NormMergeArgs, 256, 3) {
  SHARED(double, counts, [kMergeLanes][NORM_MERGE_CHANNELS]);
  SHARED(double, means, [kMergeLanes][NORM_MERGE_CHANNELS]);
  SHARED(double, squared, [kMergeLanes][NORM_MERGE_CHANNELS]);
  const NormTiles& tiles = a.finish.tiles;
  const uint32_t lane = threadIdx.x / NORM_MERGE_CHANNELS, column = threadIdx.x % NORM_MERGE_CHANNELS;
  const uint32_t c = blockIdx.y * NORM_MERGE_CHANNELS + column;
  const bool active = c < tiles.channels;
  const uint64_t all = (tiles.pixels + MOMENT_PIXELS - 1) / MOMENT_PIXELS;
  const uint64_t first = (static_cast<uint64_t>(blockIdx.x) * kMergeLanes + lane) * kMergeTiles;
  float mean[kMergeTiles], squares[kMergeTiles];
  double count[kMergeTiles];
#pragma unroll
  for (uint32_t i = 0; i < kMergeTiles; ++i) {
    const uint64_t tile = first + i;
    const bool there = active && tile < all;
    const float* from = a.moments + tile * 2 * tiles.channels + c;
    mean[i] = there ? from[0] : 0.0f;
    squares[i] = there ? from[tiles.channels] : 0.0f;
    const uint64_t left = there ? tiles.pixels - tile * MOMENT_PIXELS : 0;
    count[i] = static_cast<double>(left < MOMENT_PIXELS ? left : MOMENT_PIXELS);
  }
  double n = 0.0, sum = 0.0, total = 0.0;
#pragma unroll
  for (uint32_t i = 0; i < kMergeTiles; ++i) {
    n += count[i];
    sum += count[i] * static_cast<double>(mean[i]);
  }
  double center = n > 0.0 ? sum / n : 0.0;
#pragma unroll
  for (uint32_t i = 0; i < kMergeTiles; ++i) {
    const double off = static_cast<double>(mean[i]) - center;
    total += static_cast<double>(squares[i]) + count[i] * off * off;
  }
  counts[lane][column] = n;
  means[lane][column] = center;
  squared[lane][column] = total;
  for (uint32_t half = kMergeLanes / 2; half > 0; half /= 2) {
    __syncthreads();  // the upper half of the lanes reads what the lower half of the last pass wrote
    if (lane >= half) continue;
    const double other = counts[lane + half][column];
    if (other > 0.0) {
      const double apart = means[lane + half][column] - center;
      const double both = n + other;
      center += apart * (other / both);
      total += squared[lane + half][column] + apart * apart * (n * other / both);
      n = both;
    }
    counts[lane][column] = n;
    means[lane][column] = center;
    squared[lane][column] = total;
  }
  if (active && lane == 0) {
    float* out = a.finish.partials + 2 * (static_cast<uint64_t>(c) * tiles.splits + blockIdx.x);
    out[0] = static_cast<float>(center);
    out[1] = static_cast<float>(total);
  }
  if (!arrives_last(a.tickets + blockIdx.y, tiles.splits)) return;
  constexpr uint32_t warps = kMergeLanes * NORM_MERGE_CHANNELS / 32;
  finish<NORM_MERGE_CHANNELS / warps>(a.finish, blockIdx.y * NORM_MERGE_CHANNELS + threadIdx.x / 32, warps);
}

// ---- y = relu?((x - mean) * (gamma * inv_std) + beta + residual?) -------------------------------

// y may be x or residual: a thread reads what it writes before it does.
// Grid: (blocks of pixels, blocks of channels).
ARGS(NormApplyArgs) {
  NormTiles tiles;
  Plane x;
  Plane residual;  // data null: none
  Plane y;
  const float* gamma;
  const float* beta;
  const float* mean;
  const float* spread;  // inv_std, or the running variance
  float eps;            // used with the variance
  uint32_t relu;
};

template <class T, int V, int K>
static __device__ __forceinline__ void apply_batch(const NormApplyArgs& a, uint64_t p,
                                                   const Stand<V>& stand, const float (&mean)[V],
                                                   const float (&scale)[V], const float (&beta)[V]) {
  float x[K][V], r[K][V];
#pragma unroll
  for (int i = 0; i < K; ++i) {
    const uint64_t row = p + static_cast<uint64_t>(i) * stand.step;
    load<V>(at<T>(a.x, row, stand.c), x[i]);
    if (a.residual.data != nullptr) load<V>(at<T>(a.residual, row, stand.c), r[i]);
  }
#pragma unroll
  for (int i = 0; i < K; ++i) {
#pragma unroll
    for (int k = 0; k < V; ++k) {
      float y = (x[i][k] - mean[k]) * scale[k] + beta[k];
      if (a.residual.data != nullptr) y += r[i][k];
      x[i][k] = a.relu ? rectify(y) : y;
    }
    store<V>(at<T>(a.y, p + static_cast<uint64_t>(i) * stand.step, stand.c), x[i]);
  }
}

template <class T, int V, bool eval>
static __device__ __forceinline__ void apply(const NormApplyArgs& a) {
  const Stand<V> stand(a.tiles.lanes_log2);
  if (stand.c >= a.tiles.channels) return;
  float mean[V], scale[V], beta[V];
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const uint32_t c = stand.c + k;
    const float inv_std = eval ? 1.0f / sqrtf(a.spread[c] + a.eps) : a.spread[c];
    mean[k] = a.mean[c];
    scale[k] = a.gamma[c] * inv_std;
    beta[k] = a.beta[c];
  }
  uint64_t p = blockIdx.x * a.tiles.chunk + stand.ty;
  const uint64_t end = min((blockIdx.x + 1) * a.tiles.chunk, a.tiles.pixels);
  for (; p + stand.step < end; p += 2 * stand.step) {
    apply_batch<T, V, 2>(a, p, stand, mean, scale, beta);
  }
  if (p < end) apply_batch<T, V, 1>(a, p, stand, mean, scale, beta);
}

template <class T, bool eval>
static __device__ __forceinline__ void apply_any(const NormApplyArgs& a) {
  if (a.tiles.vector) {
    apply<T, Lanes<T>::value, eval>(a);
  } else {
    apply<T, 1, eval>(a);
  }
}
KERNEL(batch_norm_apply_f32, NormApplyArgs, 256) { apply_any<float, false>(a); }
KERNEL(batch_norm_apply_bf16, NormApplyArgs, 256) { apply_any<bf16, false>(a); }
KERNEL(batch_norm_eval_f32, NormApplyArgs, 256) { apply_any<float, true>(a); }
KERNEL(batch_norm_eval_bf16, NormApplyArgs, 256) { apply_any<bf16, true>(a); }

// ---- backward -----------------------------------------------------------------------------------

// partials[c][split] = {sum dy', sum dy' * (x - mean)}, dy' the gradient behind the ReLU.
// Grid: (splits, blocks of channels). Shared: 16 KiB.
ARGS(NormSumsArgs) {
  NormTiles tiles;
  Plane dy;
  Plane x;
  Plane y;
  const float* mean;
  float* partials;
  uint32_t relu;
  uint32_t pad;
};

template <class T, int V, int K>
static __device__ __forceinline__ void sums_batch(const NormSumsArgs& a, uint64_t p,
                                                  const Stand<V>& stand, const float (&mean)[V],
                                                  float (&sum)[V], float (&sum_x)[V]) {
  float g[K][V], x[K][V], y[K][V];
#pragma unroll
  for (int i = 0; i < K; ++i) {
    const uint64_t row = p + static_cast<uint64_t>(i) * stand.step;
    load<V>(at<T>(a.dy, row, stand.c), g[i]);
    load<V>(at<T>(a.x, row, stand.c), x[i]);
    if (a.relu) load<V>(at<T>(a.y, row, stand.c), y[i]);
  }
#pragma unroll
  for (int k = 0; k < V; ++k) {
    float batch = 0.0f, batch_x = 0.0f;
#pragma unroll
    for (int i = 0; i < K; ++i) {
      const float dy = a.relu ? masked(g[i][k], y[i][k]) : g[i][k];
      batch += dy;
      batch_x = fmaf(dy, x[i][k] - mean[k], batch_x);
    }
    sum[k] += batch;
    sum_x[k] += batch_x;
  }
}

template <class T, int V>
static __device__ __forceinline__ void sums(const NormSumsArgs& a, float (&first)[8 * 256],
                                            float (&second)[8 * 256]) {
  const Stand<V> stand(a.tiles.lanes_log2);
  const bool active = stand.c < a.tiles.channels;
  float mean[V], sum[V], sum_x[V];
#pragma unroll
  for (int k = 0; k < V; ++k) {
    sum[k] = sum_x[k] = 0.0f;
    mean[k] = active ? a.mean[stand.c + k] : 0.0f;
  }
  if (active) {
    uint64_t p = blockIdx.x * a.tiles.chunk + stand.ty;
    const uint64_t end = min((blockIdx.x + 1) * a.tiles.chunk, a.tiles.pixels);
    for (; p + 3 * static_cast<uint64_t>(stand.step) < end; p += 4 * stand.step) {
      sums_batch<T, V, 4>(a, p, stand, mean, sum, sum_x);
    }
    for (; p < end; p += stand.step) sums_batch<T, V, 1>(a, p, stand, mean, sum, sum_x);
  }
  const uint32_t t = threadIdx.x;
#pragma unroll
  for (int k = 0; k < V; ++k) {
    first[k * 256 + t] = sum[k];
    second[k * 256 + t] = sum_x[k];
  }
  for (uint32_t half = stand.step / 2; half > 0; half /= 2) {
    __syncthreads();  // the upper half of ty reads what the lower half of the last pass wrote
    if (stand.ty >= half) continue;
    const uint32_t other = t + half * stand.lanes;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      first[k * 256 + t] = sum[k] += first[k * 256 + other];
      second[k * 256 + t] = sum_x[k] += second[k * 256 + other];
    }
  }
  if (!active || stand.ty != 0) return;
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const uint64_t c = stand.c + k;
    float* out = a.partials + 2 * (c * a.tiles.splits + blockIdx.x);
    out[0] = sum[k];
    out[1] = sum_x[k];
  }
}

template <class T> static __device__ __forceinline__ void sums_any(const NormSumsArgs& a) {
  SHARED(float, first, [8 * 256]);
  SHARED(float, second, [8 * 256]);
  if (a.tiles.vector) {
    sums<T, Lanes<T>::value>(a, first, second);
  } else {
    sums<T, 1>(a, first, second);
  }
}
KERNEL(batch_norm_sums_f32, NormSumsArgs, 256) { sums_any<float>(a); }
KERNEL(batch_norm_sums_bf16, NormSumsArgs, 256) { sums_any<bf16>(a); }

// Merges the chunks: dgamma, dbeta and the coefficients of dx. A warp a channel. Grid: C / 8.
ARGS(NormGradientsArgs) {
  NormTiles tiles;
  const float* partials;
  const float* inv_std;
  float* dgamma;
  float* dbeta;
  float* coefficients;  // {offset, slope}[C]
  uint32_t add_dgamma;
  uint32_t add_dbeta;
};

KERNEL(batch_norm_gradients, NormGradientsArgs, 256) {
  const uint32_t c = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  const uint32_t lane = threadIdx.x % 32;
  if (c >= a.tiles.channels) return;  // whole warps
  const float* mine = a.partials + 2 * static_cast<uint64_t>(c) * a.tiles.splits;
  double sum = 0.0, sum_x = 0.0;
  for (uint32_t s = lane; s < a.tiles.splits; s += 32) {
    sum += static_cast<double>(mine[2 * s]);
    sum_x += static_cast<double>(mine[2 * s + 1]);
  }
  sum = warp_sum(sum);
  const double inv_std = static_cast<double>(a.inv_std[c]);
  const double sum_xhat = warp_sum(sum_x) * inv_std;
  if (lane != 0) return;
  a.dgamma[c] = (a.add_dgamma ? a.dgamma[c] : 0.0f) + static_cast<float>(sum_xhat);
  a.dbeta[c] = (a.add_dbeta ? a.dbeta[c] : 0.0f) + static_cast<float>(sum);
  const double n = static_cast<double>(a.tiles.pixels);
  a.coefficients[2 * c] = static_cast<float>(sum / n);
  a.coefficients[2 * c + 1] = static_cast<float>(sum_xhat / n * inv_std);
}

// dx = gamma * inv_std * ((dy' - offset) - (x - mean) * slope) and dresidual = dy', each written or
// added to. Either may be dy: a thread reads what it writes before it does.
// Grid: (blocks of pixels, blocks of channels).
ARGS(NormDxArgs) {
  NormTiles tiles;
  Plane dy;
  Plane x;
  Plane y;
  Plane dx;
  Plane dresidual;  // data null: none
  const float* gamma;
  const float* mean;
  const float* inv_std;
  const float* coefficients;
  uint32_t relu;
  uint32_t add_dx;
  uint32_t add_dresidual;
  uint32_t pad;
};

template <class T, int V> struct DxCoefficients {
  float mean[V], scale[V], offset[V], slope[V];
};

// One pixel of a thread, its dy, x and y loaded.
template <class T, int V>
static __device__ __forceinline__ void dx_pixel(const NormDxArgs& a, uint64_t row, uint32_t c,
                                                const DxCoefficients<T, V>& of, float (&g)[V],
                                                const float (&x)[V], const float (&y)[V]) {
  float out[V];
#pragma unroll
  for (int k = 0; k < V; ++k) g[k] = a.relu ? masked(g[k], y[k]) : g[k];
  T* dx = at<T>(a.dx, row, c);
  if (a.add_dx) {
    load<V>(dx, out);
  } else {
#pragma unroll
    for (int k = 0; k < V; ++k) out[k] = 0.0f;
  }
#pragma unroll
  for (int k = 0; k < V; ++k) {
    out[k] += of.scale[k] * ((g[k] - of.offset[k]) - (x[k] - of.mean[k]) * of.slope[k]);
  }
  store<V>(dx, out);
  if (a.dresidual.data == nullptr) return;
  T* dresidual = at<T>(a.dresidual, row, c);
  if (a.add_dresidual) {
    load<V>(dresidual, out);
#pragma unroll
    for (int k = 0; k < V; ++k) g[k] = out[k] + g[k];
  }
  store<V>(dresidual, g);
}

template <class T, int V> static __device__ __forceinline__ void dx_all(const NormDxArgs& a) {
  const Stand<V> stand(a.tiles.lanes_log2);
  if (stand.c >= a.tiles.channels) return;
  DxCoefficients<T, V> of;
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const uint32_t c = stand.c + k;
    of.mean[k] = a.mean[c];
    of.scale[k] = a.gamma[c] * a.inv_std[c];
    of.offset[k] = a.coefficients[2 * c];
    of.slope[k] = a.coefficients[2 * c + 1];
  }
  const uint64_t end = min((blockIdx.x + 1) * a.tiles.chunk, a.tiles.pixels);
  for (uint64_t p = blockIdx.x * a.tiles.chunk + stand.ty; p < end; p += stand.step) {
    float g[V], x[V], y[V];
    load<V>(at<T>(a.dy, p, stand.c), g);
    load<V>(at<T>(a.x, p, stand.c), x);
    if (a.relu) load<V>(at<T>(a.y, p, stand.c), y);
    dx_pixel<T, V>(a, p, stand.c, of, g, x, y);
  }
}

template <class T> static __device__ __forceinline__ void dx_any(const NormDxArgs& a) {
  if (a.tiles.vector) {
    dx_all<T, Lanes<T>::value>(a);
  } else {
    dx_all<T, 1>(a);
  }
}
KERNEL(batch_norm_dx_f32, NormDxArgs, 256) { dx_any<float>(a); }
KERNEL(batch_norm_dx_bf16, NormDxArgs, 256) { dx_any<bf16>(a); }
