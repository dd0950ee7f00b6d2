// The CPU device's exp (src/device/cpu/vmath.rs), operation by operation. The build contracts no
// product and sum on either side, so the two agree to the bit: a kernel whose decision hangs on a
// probability uses this one, so that both devices decide alike.
#pragma once
#include "include/common.cuh"

// e^x for x <= 0, within 1e-7 relative; 0 below -87. NaN stays NaN.
__device__ __forceinline__ float oracle_exp(float x) {
  const float round = 12582912.0f;  // adding 1.5 * 2^23 rounds to an integer in the low bits
  const float shifted = x * 1.44269504f + round;
  const float n = shifted - round;
  const float r = x - n * 0.6933594f - n * -2.1219444e-4f;
  float p = 1.9875691e-4f;
  p = p * r + 1.3981999e-3f;
  p = p * r + 8.333452e-3f;
  p = p * r + 4.1665796e-2f;
  p = p * r + 1.6666665e-1f;
  p = p * r + 0.5f;
  const float mantissa = p * r * r + r + 1.0f;
  const float power = __uint_as_float((__float_as_uint(shifted) << 23) + 0x3F800000u);
  return x < -87.0f ? 0.0f : mantissa * power;
}

// Sum of a pixel's e^(x - max) as vmath.rs takes it: eight running sums, class c in sum c % 8,
// folded pairwise, with the largest logit's 1 added last. `max` is the largest logit.
struct OracleSoftmax {
  float max;
  float sum;
};

__device__ __forceinline__ OracleSoftmax oracle_softmax(const float* x, uint32_t classes) {
  float max = -INFINITY;
  for (uint32_t c = 0; c < classes; ++c) max = x[c] > max ? x[c] : max;
  uint32_t argmax = 0;
  while (argmax < classes && !(x[argmax] == max)) ++argmax;
  if (argmax == classes) argmax = 0;  // nothing but NaN
  float s[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
  for (uint32_t first = 0; first < classes; first += 8) {
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) {
      const uint32_t c = first + i;
      if (c < classes && c != argmax) s[i] += oracle_exp(x[c] - max);
    }
  }
  const float others = ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
  return OracleSoftmax{max, 1.0f + others};
}
