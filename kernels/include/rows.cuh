// Rows of f32 channels read by a warp: four channels a lane, in one 16-byte load where they allow it.
#pragma once
#include "include/common.cuh"

// Channels d..d+3 of a row of `depth`, zeros past its end. VEC promises a 16-byte aligned row and
// depth % 4 == 0; a template parameter, since a branch inside a loop would keep the compiler from
// having several loads in flight.
template <bool VEC>
__device__ __forceinline__ float4 load_row(const float* row, uint32_t d, uint32_t depth) {
  if (VEC) return *reinterpret_cast<const float4*>(row + d);
  return make_float4(row[d], d + 1 < depth ? row[d + 1] : 0.0f, d + 2 < depth ? row[d + 2] : 0.0f,
                     d + 3 < depth ? row[d + 3] : 0.0f);
}

template <bool VEC>
__device__ __forceinline__ void store_row(float* row, uint32_t d, uint32_t depth, float4 v) {
  if (VEC) {
    *reinterpret_cast<float4*>(row + d) = v;
    return;
  }
  row[d] = v.x;
  if (d + 1 < depth) row[d + 1] = v.y;
  if (d + 2 < depth) row[d + 2] = v.z;
  if (d + 3 < depth) row[d + 3] = v.w;
}

// sum + a . b
__device__ __forceinline__ float dot4(float sum, float4 a, float4 b) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

// Sum over the lanes of a warp, the same bits in every lane.
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xFFFFFFFFu, v, step);
  return v;
}

constexpr float MIN_NORM = 1e-8f;  // a smaller norm counts as this, as in PyTorch's cosine

// 1 / max(norm, 1e-8) of a vector whose squares sum to `squares`.
__device__ __forceinline__ float inverse_norm(float squares) {
  return 1.0f / fmaxf(sqrtf(squares), MIN_NORM);
}
