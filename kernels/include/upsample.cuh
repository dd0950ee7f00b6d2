// Bilinear upsampling (align_corners) of low-resolution logits, fused into whatever reads them at
// label resolution: entropy.cu, loss.cu, metrics.cu. The C x H x W tensor that a framework would
// make never exists.
//
// The expressions are those of src/device/cpu/upsample.rs in the same order without fused
// multiply-add, rows first: upsampled logits, and so every argmax, are the CPU's bit for bit.
#pragma once
#include "include/common.cuh"

// Threads of a block that handles a run of output pixels, one pixel a thread. 192: a row of 513
// is three runs of 171 (six warps, the last two thirds empty), a row of 769 five runs of 154.
CONSTANT(UPSAMPLE_THREADS, 192);

// Where an output coordinate reads: (1 - t)*lo + t*hi.
struct Tap {
  uint32_t lo;
  uint32_t hi;
  float t;
};

// One axis of the resize.
struct Axis {
  float scale;
  uint32_t last;  // of the input

  __device__ __forceinline__ Axis(uint32_t input, uint32_t output)
      : scale(output > 1 ? static_cast<float>(input - 1) / static_cast<float>(output - 1) : 0.0f),
        last(input - 1) {}

  __device__ __forceinline__ Tap tap(uint32_t i) const {
    const float source = scale * static_cast<float>(i);
    const uint32_t lo = min(static_cast<uint32_t>(source), last);
    return {lo, min(lo + 1, last), source - static_cast<float>(lo)};
  }

  // First of `output` positions whose lower tap is at least `low`; `output` when there is none.
  __device__ __forceinline__ uint32_t first(uint32_t low, uint32_t output) const {
    if (low == 0) return 0;
    if (low > last || scale == 0.0f) return output;
    // The quotient is right up to rounding; the taps decide.
    uint32_t i = min(static_cast<uint32_t>(static_cast<float>(low) / scale), output);
    while (i > 0 && tap(i - 1).lo >= low) --i;
    while (i < output && tap(i).lo < low) ++i;
    return i;
  }

  // Input positions that `n` consecutive output positions span, at most.
  __device__ __forceinline__ uint32_t span(uint32_t n) const {
    return static_cast<uint32_t>(static_cast<float>(n - 1) * scale) + 4;
  }
};

// Logits [batch, h, w, classes], pixel stride ld, seen at height x width. A block's shared memory
// holds `columns` low-resolution columns (at least 4, or all) of stride_of(classes) floats.
ARGS(UpsampleArgs) {
  const float* logits;
  uint64_t ld;
  uint32_t batch;
  uint32_t h;
  uint32_t w;
  uint32_t classes;
  uint32_t height;
  uint32_t width;
  uint32_t run;      // output pixels of a block, at most UPSAMPLE_THREADS
  uint32_t columns;
};

// Floats between columns in shared memory: odd, so that columns start in different banks.
__device__ __forceinline__ uint32_t stride_of(uint32_t classes) { return classes | 1u; }

// An upsampled pixel: a value per class.
struct UpsampledPixel {
  const float* lo;
  const float* hi;
  float t;
  __device__ __forceinline__ float operator()(uint32_t c) const {
    return (1.0f - t) * lo[c] + t * hi[c];
  }
};

// Columns first .. first + count of the low-resolution rows under output row `y`, interpolated
// vertically. A warp takes a column, its lanes adjacent classes.
__device__ __forceinline__ void fill_columns(const UpsampleArgs& u, uint32_t image, const Tap& y,
                                             uint32_t first, uint32_t count, float* columns) {
  const uint64_t line = static_cast<uint64_t>(image) * u.h;
  const float* lo = u.logits + ((line + y.lo) * u.w + first) * u.ld;
  const float* hi = u.logits + ((line + y.hi) * u.w + first) * u.ld;
  const float keep = 1.0f - y.t;
  for (uint32_t x = threadIdx.x / 32; x < count; x += blockDim.x / 32) {
    for (uint32_t c = threadIdx.x % 32; c < u.classes; c += 32) {
      columns[x * stride_of(u.classes) + c] = keep * lo[x * u.ld + c] + y.t * hi[x * u.ld + c];
    }
  }
}

// The columns under a part of a row, in shared memory.
struct Columns {
  const float* data;
  uint32_t first;
  uint32_t stride;
  __device__ __forceinline__ UpsampledPixel pixel(const Tap& x) const {
    return {data + (x.lo - first) * stride, data + (x.hi - first) * stride, x.t};
  }
};

// Calls prepared(from, to, columns) for each part of the output pixels [begin, end) of a row: one
// part unless its columns do not fit. A part has at most u.run pixels. Every thread takes part.
template <class Prepared>
__device__ __forceinline__ void each_part(const UpsampleArgs& u, uint32_t image, const Tap& y,
                                          const Axis& xs, uint32_t begin, uint32_t end,
                                          float* shared, Prepared prepared) {
  uint32_t step = u.run;
  if (u.columns < u.w && xs.span(step) > u.columns) {
    step = max(1u, min(step, static_cast<uint32_t>(static_cast<float>(u.columns - 4) / xs.scale)));
  }
  for (uint32_t from = begin; from < end; from += step) {
    const uint32_t to = min(from + step, end);
    const uint32_t first = xs.tap(from).lo;
    __syncthreads();  // the part before is read to its end before its columns are replaced
    fill_columns(u, image, y, first, xs.tap(to - 1).hi - first + 1, shared);
    __syncthreads();  // columns are whole before a pixel reads them
    prepared(from, to, Columns{shared, first, stride_of(u.classes)});
  }
}

// Block i of a grid over runs: calls each(pixel index over the batch, upsampled pixel).
template <class Each>
__device__ __forceinline__ void each_pixel(const UpsampleArgs& u, uint64_t block, float* shared,
                                           Each each) {
  const uint32_t runs = (u.width + u.run - 1) / u.run;
  const uint64_t row = block / runs;
  const uint32_t begin = static_cast<uint32_t>(block % runs) * u.run;
  const Tap y = Axis(u.h, u.height).tap(static_cast<uint32_t>(row % u.height));
  const Axis xs(u.w, u.width);
  each_part(u, static_cast<uint32_t>(row / u.height), y, xs, begin, min(begin + u.run, u.width),
            shared, [&](uint32_t from, uint32_t to, const Columns& columns) {
              const uint32_t i = from + threadIdx.x;
              if (i < to) each(row * u.width + i, columns.pixel(xs.tap(i)));
            });
}
