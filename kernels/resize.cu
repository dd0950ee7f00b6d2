// Bilinear resize with aligned corners, and its adjoint as a gather: NHWC, V channels a thread.
//
// Output o of an axis reads coordinate o * (in - 1)/(out - 1) (0 when out = 1), in f32 as PyTorch
// does: input low = floor with weight 1 - f and min(low + 1, in - 1) with weight f, the fraction.
// Never materialised: coordinates, weights, an intermediate map of one axis.
//
//     forward: a thread walks RESIZE_RUN outputs of one row and keeps the four inputs around it
//
//        low  a --- b      x2 (65 -> 129): a new column of inputs only every second output, so
//             | y   |      1.5 vector loads an output instead of 4
//        high c --- d
//
// Bytes: input and output once (neighbours come from the caches). VOC shape, 8 x 65x65x256 ->
// 129x129x256 in bf16: 17 MB in, 68 MB out; the backward the other way. FLOPs: 9 an output.
// Measured: not measured on a GPU.
// Grid: (an image's work, grid-stride, 1, images), about 16 blocks of 256 threads a multiprocessor at
// most; no shared memory.
// Order: every element by one thread; the backward sums columns within a row, then rows, both
// ascending. Equal to src/device/cpu/resize.rs bit for bit in f32; bf16 rounded once.
#include "include/planes.cuh"

using namespace planes;

// Outputs that a thread of the forward computes.
CONSTANT(RESIZE_RUN, 8);

// One axis: `scale` = (input - 1)/(output - 1) in f32, 0 where output is 1.
// A guess by `inverse` is put right, so its rounding does not matter.
ARGS(ResizeAxis) {
  uint32_t input;
  uint32_t output;
  float scale;
  float inverse;  // 1 / scale or near it, 0 where scale is
};

ARGS(ResizeArgs) {
  Plane from;  // x; backward: dy
  Plane to;    // y; backward: dx
  ResizeAxis rows;
  ResizeAxis columns;
  uint32_t channels;
  uint32_t vector;
  uint32_t accumulate;
  uint32_t items;  // threads' worth of work in an image
};

struct ResizeTap {
  uint32_t low;
  uint32_t high;
  float fraction;
};
static __device__ __forceinline__ float resize_place(const ResizeAxis& axis, uint32_t o) {
  return static_cast<float>(o) * axis.scale;
}
static __device__ __forceinline__ ResizeTap resize_tap(const ResizeAxis& axis, uint32_t o) {
  const float place = resize_place(axis, o);
  const uint32_t low = min(static_cast<uint32_t>(place), axis.input - 1);
  const float fraction = place - static_cast<float>(low);
  return ResizeTap{low, min(low + 1, axis.input - 1), fminf(fmaxf(fraction, 0.0f), 1.0f)};
}

template <class T, int V> static __device__ void resize(const ResizeArgs& a) {
  const uint32_t groups = a.channels / V;
  const uint32_t runs = (a.columns.output + RESIZE_RUN - 1) / RESIZE_RUN;
  const uint64_t image = blockIdx.z;
  for_image(a.items, [&](uint32_t i) {
    const uint32_t c = i % groups * V, run = i / groups % runs, oy = i / groups / runs;
    const ResizeTap top = resize_tap(a.rows, oy);
    const uint64_t low_line = (image * a.rows.input + top.low) * a.columns.input;
    const uint64_t high_line = (image * a.rows.input + top.high) * a.columns.input;
    const uint64_t out_line = (image * a.rows.output + oy) * a.columns.output;
    const float fy = top.fraction, ry = 1.0f - fy;
    float upper_left[V], upper_right[V], lower_left[V], lower_right[V];
    // Columns that the registers hold.
    uint32_t left = ~0u, right = ~0u;
    const uint32_t end = min((run + 1) * RESIZE_RUN, a.columns.output);
    for (uint32_t ox = run * RESIZE_RUN; ox < end; ++ox) {
      const ResizeTap tap = resize_tap(a.columns, ox);
      if (tap.low != left) {
        if (tap.low == right) {
#pragma unroll
          for (int k = 0; k < V; ++k) {
            upper_left[k] = upper_right[k], lower_left[k] = lower_right[k];
          }
        } else {
          load<V>(at<T>(a.from, low_line + tap.low, c), upper_left);
          load<V>(at<T>(a.from, high_line + tap.low, c), lower_left);
        }
        left = tap.low;
      }
      if (tap.high != right) {
        load<V>(at<T>(a.from, low_line + tap.high, c), upper_right);
        load<V>(at<T>(a.from, high_line + tap.high, c), lower_right);
        right = tap.high;
      }
      const float fx = tap.fraction, rx = 1.0f - fx;
      float y[V];
#pragma unroll
      for (int k = 0; k < V; ++k) {
        const float upper = rx * upper_left[k] + fx * upper_right[k];
        const float lower = rx * lower_left[k] + fx * lower_right[k];
        // A neighbour of weight 0 is left out where both are: it may be infinite.
        y[k] = fy == 0.0f && fx == 0.0f ? upper_left[k] : ry * upper + fy * lower;
      }
      store<V>(at<T>(a.to, out_line + ox, c), y);
    }
  });
}
template <class T> static __device__ __forceinline__ void resize_any(const ResizeArgs& a) {
  if (a.vector) {
    resize<T, Lanes<T>::value>(a);
  } else {
    resize<T, 1>(a);
  }
}
KERNEL(resize_f32, ResizeArgs, 256) { resize_any<float>(a); }
KERNEL(resize_bf16, ResizeArgs, 256) { resize_any<bf16>(a); }

// The first output whose place is at or past `bound` (`beyond`: past it). Rounding puts the guess less
// than one off (axes are shorter than 2^20), so three steps up from the one before it get there;
// straight-line code, where loops of their own would spill registers.
static __device__ __forceinline__ uint32_t resize_first(const ResizeAxis& axis, float bound,
                                                        bool beyond) {
  if (axis.scale == 0.0f) return axis.output;
  const float guess = fmaxf(bound * axis.inverse - 1.0f, 0.0f);
  uint32_t o = min(static_cast<uint32_t>(guess), axis.output);
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    const float place = resize_place(axis, o);
    o += o < axis.output && (beyond ? place <= bound : place < bound);
  }
  return o;
}

// Outputs that read input i with a weight that is not 0: those between its neighbours.
struct ResizeReaders {
  uint32_t first;
  uint32_t end;
};
static __device__ __forceinline__ ResizeReaders resize_readers(const ResizeAxis& axis, uint32_t i) {
  const float place = static_cast<float>(i);
  return ResizeReaders{i == 0 ? 0 : resize_first(axis, place - 1.0f, true),
                       i + 1 == axis.input ? axis.output : resize_first(axis, place + 1.0f, false)};
}
// The weight of input i in output o, one of its readers.
static __device__ __forceinline__ float resize_weight(const ResizeAxis& axis, uint32_t i,
                                                      uint32_t o) {
  const ResizeTap tap = resize_tap(axis, o);
  if (tap.high == tap.low) return 1.0f;
  return tap.low == i ? 1.0f - tap.fraction : tap.fraction;
}

template <class T, int V> static __device__ void resize_backward(const ResizeArgs& a) {
  const uint32_t groups = a.channels / V;
  const uint64_t image = blockIdx.z;
  for_image(a.items, [&](uint32_t i) {
    const uint32_t pixel = i / groups, c = i % groups * V;
    const uint32_t iy = pixel / a.columns.input, ix = pixel % a.columns.input;
    const ResizeReaders ys = resize_readers(a.rows, iy);
    const ResizeReaders xs = resize_readers(a.columns, ix);
    T* dx = at<T>(a.to, image * a.rows.input * a.columns.input + pixel, c);
    float sum[V];
    if (a.accumulate) {
      load<V>(dx, sum);
    } else {
#pragma unroll
      for (int k = 0; k < V; ++k) sum[k] = 0.0f;
    }
#pragma unroll 1
    for (uint32_t oy = ys.first; oy < ys.end; ++oy) {
      const float wy = resize_weight(a.rows, iy, oy);
      const T* from = at<T>(
          a.from, (image * a.rows.output + oy) * a.columns.output + xs.first, c);
      float line_sum[V];
#pragma unroll
      for (int k = 0; k < V; ++k) line_sum[k] = 0.0f;
#pragma unroll 1
      for (uint32_t ox = xs.first; ox < xs.end; ++ox) {
        const float wx = resize_weight(a.columns, ix, ox);
        float dy[V];
        load<V>(from, dy);
        from += a.from.ld;
#pragma unroll
        for (int k = 0; k < V; ++k) line_sum[k] += wx * dy[k];
      }
#pragma unroll
      for (int k = 0; k < V; ++k) sum[k] += wy * line_sum[k];
    }
    store<V>(dx, sum);
  });
}
template <class T> static __device__ __forceinline__ void resize_backward_any(const ResizeArgs& a) {
  if (a.vector) {
    resize_backward<T, Lanes<T>::value>(a);
  } else {
    resize_backward<T, 1>(a);
  }
}
KERNEL(resize_backward_f32, ResizeArgs, 256) { resize_backward_any<float>(a); }
KERNEL(resize_backward_bf16, ResizeArgs, 256) { resize_backward_any<bf16>(a); }
