// softmax_entropy, keep_reliable, add_scores, finish_scores: pseudo-labels and what judges them,
// and the score maps of sliding-window evaluation. (percentile: select.cu.)
#include "include/softmax.cuh"
#include "include/upsample.cuh"

// Where nothing beats the CPU's padding there is no answer: class 0, entropy and confidence NaN.
__device__ __forceinline__ Prediction answered(const Prediction& p, uint32_t classes) {
  return p.argmax < classes ? p : Prediction{NAN, 0, NAN};
}

// Entropy, argmax and confidence of every pixel of [batch, height, width] from logits
// [batch, h, w, classes]; upsampled logits and probabilities stay in registers.
//
//   low-res rows under output row y -> vertical interpolation -> shared columns [x][class]
//   thread = output pixel: (1-t)*lo + t*hi of two columns, twice per class (max, then sums)
//
// Bytes: logits once (5.6 MB at 4x129^2x21), 9 per output pixel (9.5 MB at 4x513^2); 22 M
// exponentials at that shape. Floor: the exponentials. Measured: not measured on a GPU.
// Grid: runs of output pixels, ceil(width/run) * height * batch; shared: columns.
// Order: per pixel, fixed. Must equal cpu/entropy.rs::softmax_entropy: argmax bit for bit;
// entropy and confidence within 1e-5 relative + 1e-6 (exp and log differ in the last digits).
ARGS(SoftmaxEntropyArgs) {
  UpsampleArgs u;
  float* entropy;
  uint8_t* argmax;
  float* confidence;
  float log_eps;
  uint32_t pad;
};

KERNEL(softmax_entropy, SoftmaxEntropyArgs, 192) {
  static_assert(UPSAMPLE_THREADS == 192, "one thread per pixel of a run");
  DYNAMIC_SHARED(smem);
  each_pixel(a.u, blockIdx.x, reinterpret_cast<float*>(smem),
             [&](uint64_t i, const UpsampledPixel& x) {
               const Prediction p = answered(predict(x, a.u.classes, a.log_eps), a.u.classes);
               a.entropy[i] = p.entropy;
               a.argmax[i] = static_cast<uint8_t>(p.argmax);
               a.confidence[i] = p.confidence;
             });
}

// kept = label where entropy < threshold, else ignore; NaN is unreliable. A thread takes four
// pixels, in one access each where the maps are aligned; in place on label: each element is read
// and written by one thread. Bytes: 6 per pixel (6.3 MB at 4x513^2: 1.5 us at 4.3 TB/s). Measured:
// not measured on a GPU. Exact. Must equal cpu/entropy.rs::keep_reliable.
ARGS(KeepReliableArgs) {
  const uint8_t* label;
  const float* entropy;
  const float* threshold;  // [1]
  uint8_t* kept;
  uint64_t n;
  uint32_t ignore;
  uint32_t aligned;  // all three maps to four elements
};

KERNEL(keep_reliable, KeepReliableArgs, 256) {
  const float threshold = *a.threshold;
  const auto ignore = static_cast<uint8_t>(a.ignore);
  const uint64_t quads = a.aligned ? a.n / 4 : 0;
  for (uint64_t q = grid_start(); q < quads; q += grid_step()) {
    uchar4 l = reinterpret_cast<const uchar4*>(a.label)[q];
    const float4 h = reinterpret_cast<const float4*>(a.entropy)[q];
    if (!(h.x < threshold)) l.x = ignore;
    if (!(h.y < threshold)) l.y = ignore;
    if (!(h.z < threshold)) l.z = ignore;
    if (!(h.w < threshold)) l.w = ignore;
    reinterpret_cast<uchar4*>(a.kept)[q] = l;
  }
  for (uint64_t i = 4 * quads + grid_start(); i < a.n; i += grid_step()) {
    a.kept[i] = a.entropy[i] < threshold ? a.label[i] : ignore;
  }
}

// scores[y + row, x + column, :] += logits (or their softmax) upsampled to the window, counts += 1;
// columns mirrored when `flip`. The window is read from device memory, so the grid covers the map
// and blocks outside the window leave at once.
//
//   phase 1 (softmax only), thread = pixel: max and 1/sum to shared
//   phase 2, thread = (pixel, class), classes adjacent: read, add, write whole lines
//
// Bytes: 8 per class and pixel of the window, logits once. Measured: not measured on a GPU.
// Grid: ceil(W/run) * H; shared: columns, then 2 floats per pixel.
// Order: per element, fixed; calls add in stream order. Must equal cpu/entropy.rs::add_scores:
// logits bit for bit, probabilities within 1e-6.
ARGS(AddScoresArgs) {
  UpsampleArgs u;          // height and width are the score map's here
  const uint32_t* window;  // {y, x, height, width}
  float* scores;
  uint64_t scores_ld;
  float* counts;
  uint32_t flip;
  uint32_t softmax;
};

KERNEL(add_scores, AddScoresArgs, 192) {
  DYNAMIC_SHARED(smem);
  SHARED(float, maxima, [UPSAMPLE_THREADS]);
  SHARED(float, inverses, [UPSAMPLE_THREADS]);
  const uint32_t top = a.window[0], left = a.window[1];
  const uint32_t height = a.window[2], width = a.window[3];
  const uint32_t runs = (a.u.width + a.u.run - 1) / a.u.run;
  const uint32_t row = blockIdx.x / runs, begin = blockIdx.x % runs * a.u.run;
  // The host cannot check a window it does not know: one that leaves the map is cut.
  if (row >= height || begin >= width || top >= a.u.height || row >= a.u.height - top) return;
  const Tap y = Axis(a.u.h, height).tap(row);
  const Axis xs(a.u.w, width);
  const uint64_t line = static_cast<uint64_t>(top + row) * a.u.width;
  const uint32_t classes = a.u.classes;
  const auto part = [&](uint32_t from, uint32_t to, const Columns& columns) {
    if (a.softmax) {
      if (from + threadIdx.x < to) {
        const Softmax s = softmax(columns.pixel(xs.tap(from + threadIdx.x)), classes);
        maxima[threadIdx.x] = s.max;
        inverses[threadIdx.x] = 1.0f / s.sum();
      }
      __syncthreads();  // a pixel's sum is there before its classes read it
    }
    for (uint32_t e = threadIdx.x; e < (to - from) * classes; e += UPSAMPLE_THREADS) {
      const uint32_t local = e / classes, c = e % classes, i = from + local;
      const uint64_t column = static_cast<uint64_t>(left) + (a.flip ? width - 1 - i : i);
      if (column >= a.u.width) continue;
      float v = columns.pixel(xs.tap(i))(c);
      if (a.softmax) v = expf(v - maxima[local]) * inverses[local];
      a.scores[(line + column) * a.scores_ld + c] += v;
      if (c == 0) a.counts[line + column] += 1.0f;
    }
  };
  // The first barrier of the next part also keeps this part's sums until they are read.
  each_part(a.u, 0, y, xs, begin, min(begin + a.u.run, width), reinterpret_cast<float*>(smem), part);
}

// Entropy, argmax and confidence of scores / max(count, 1), the scores being summed logits or
// (softmax) summed probabilities. A block stages `run` pixels' scores in shared memory with
// adjacent reads, then a thread takes a pixel. Bytes: 4*classes + 13 per pixel (25 MB at 513^2x21).
// Measured: not measured on a GPU. Grid: ceil(pixels/run); shared: run * stride_of(classes) floats.
// Order: per pixel, fixed. Must equal cpu/entropy.rs::finish_scores: argmax bit for bit, entropy
// and confidence within 1e-5 relative + 1e-6.
ARGS(FinishScoresArgs) {
  const float* scores;
  uint64_t ld;
  const float* counts;
  float* entropy;
  uint8_t* argmax;
  float* confidence;
  uint64_t pixels;
  uint32_t classes;
  uint32_t run;
  uint32_t softmax;
  uint32_t pad;
};

struct MeanScore {
  const float* sums;
  float inverse;
  __device__ __forceinline__ float operator()(uint32_t c) const { return sums[c] * inverse; }
};

// Of a pixel of probabilities; a class of none adds nothing to the entropy, NaN stays.
__device__ __forceinline__ Prediction predict_mean(const MeanScore& p, uint32_t classes) {
  const ArgMax best = arg_max(p, classes);
  float sum = -0.0f;
  for (uint32_t c = 0; c < classes; ++c) {
    const float v = p(c);
    if (!(v <= 0.0f)) sum += v * logf(v);
  }
  return {-sum, best.index, best.value};
}

KERNEL(finish_scores, FinishScoresArgs, 128) {
  DYNAMIC_SHARED(smem);
  float* staged = reinterpret_cast<float*>(smem);
  const uint64_t begin = static_cast<uint64_t>(blockIdx.x) * a.run;
  const uint32_t count = static_cast<uint32_t>(min(static_cast<uint64_t>(a.run), a.pixels - begin));
  const uint32_t stride = stride_of(a.classes);
  for (uint32_t e = threadIdx.x; e < count * a.classes; e += blockDim.x) {
    const uint32_t i = e / a.classes, c = e % a.classes;
    staged[i * stride + c] = a.scores[(begin + i) * a.ld + c];
  }
  __syncthreads();  // a pixel's scores are whole before its thread reads them
  const uint64_t i = begin + threadIdx.x;
  if (threadIdx.x >= count) return;
  const MeanScore x{staged + threadIdx.x * stride, 1.0f / fmaxf(a.counts[i], 1.0f)};
  const Prediction p = answered(
      a.softmax ? predict_mean(x, a.classes) : predict(x, a.classes, 0.0f), a.classes);
  a.entropy[i] = p.entropy;
  a.argmax[i] = static_cast<uint8_t>(p.argmax);
  a.confidence[i] = p.confidence;
}
