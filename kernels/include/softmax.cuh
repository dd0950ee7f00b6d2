// Softmax, entropy and argmax of one pixel, as src/device/cpu/vmath.rs has them: the same order of
// every comparison and sum, so that the argmax is the CPU's bit for bit; exp and ln are CUDA's.
//
// `x` is anything that gives a class's logit for its index; values are asked for once per pass
// rather than kept, for C is not known at compile time.
#pragma once
#include "include/common.cuh"

// Sums run over this many interleaved lanes, folded pairwise, as on the CPU.
constexpr uint32_t kLanes = 8;

__device__ __forceinline__ float fold_lanes(const float* v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

struct ArgMax {
  uint32_t index;
  float value;
};

// The largest of a pixel's values, the lower class of equals; NaN is never larger. The CPU pads a
// pixel to whole blocks of lanes with -1e30; where nothing beats the padding it names class C,
// which no class map counts.
template <class X> __device__ __forceinline__ ArgMax arg_max(const X& x, uint32_t classes) {
  const bool pads = classes % kLanes != 0;
  ArgMax best{pads ? classes : 0, pads ? -1e30f : -INFINITY};
  for (uint32_t c = 0; c < classes; ++c) {
    const float v = x(c);
    if (v > best.value) best = {c, v};
  }
  return best;
}

struct Softmax {
  uint32_t argmax;
  float max;
  float others;  // sum of e^(x - max) but for argmax: keeps the digits of a confident pixel
  __device__ __forceinline__ float sum() const { return 1.0f + others; }
  __device__ __forceinline__ float ln_sum() const { return log1pf(others); }
};

// p(class) of a pixel, everywhere in one expression: OHEM's threshold must keep the pixel it came
// from.
__device__ __forceinline__ float probability(float x, const Softmax& s) {
  return expf(x - s.max) / s.sum();
}

// Softmax of a pixel and each(lane, x - max, e^(x - max)) of every class.
template <class X, class Each>
__device__ __forceinline__ Softmax softmax(const X& x, uint32_t classes, Each each) {
  const ArgMax best = arg_max(x, classes);
  float others[kLanes] = {};
  for (uint32_t base = 0; base < classes; base += kLanes) {
#pragma unroll
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      const uint32_t c = base + lane;
      if (c < classes) {
        const float below = x(c) - best.value;
        const float e = expf(below);
        each(lane, below, e);
        others[lane] += c == best.index ? 0.0f : e;
      }
    }
  }
  return {best.index, best.value, fold_lanes(others)};
}

template <class X> __device__ __forceinline__ Softmax softmax(const X& x, uint32_t classes) {
  return softmax(x, classes, [](uint32_t, float, float) {});
}

// What a pseudo-label needs of a pixel.
struct Prediction {
  float entropy;
  uint32_t argmax;
  float confidence;
};

// H = ln sum e - sum e*(x - max) / sum e: one logarithm instead of one per class. With log_eps,
// -sum p*ln(p + log_eps) as the released code has it.
template <class X>
__device__ __forceinline__ Prediction predict(const X& x, uint32_t classes, float log_eps) {
  float weighted[kLanes] = {};
  const Softmax s = softmax(x, classes, [&](uint32_t lane, float below, float e) {
    weighted[lane] += e * below;
  });
  const float inverse = 1.0f / s.sum();
  if (!(log_eps > 0.0f)) {
    return {s.ln_sum() - fold_lanes(weighted) * inverse, s.argmax, inverse};
  }
  float sums[kLanes] = {};
  for (uint32_t base = 0; base < classes; base += kLanes) {
#pragma unroll
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      const uint32_t c = base + lane;
      if (c < classes) {
        const float p = expf(x(c) - s.max) * inverse;
        sums[lane] += p * logf(p + log_eps);
      }
    }
  }
  return {-fold_lanes(sums), s.argmax, inverse};
}
