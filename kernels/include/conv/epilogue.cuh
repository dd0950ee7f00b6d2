// From the product in shared memory to global memory: bias, accumulation, conversion.
//
// A thread takes eight adjacent columns of a row: 16-byte accesses where they are all there and
// aligned, single elements at ragged edges.
#pragma once
#include "include/conv/tile.cuh"

namespace conv {

struct Output {
  void* data;
  const float* bias;  // of the tile's first column, or null
  bool is_bf16;
  bool accumulate;
};

template <class T> struct alignas(16) Eight {
  T v[8];
};

template <class T>
__device__ __forceinline__ void store_eight(T* to, const float (&v)[8], uint32_t count,
                                            bool accumulate) {
  if (count >= 8 && reinterpret_cast<uintptr_t>(to) % 16 == 0) {
    Eight<T> out;
    if (accumulate) {
      const Eight<T> old = *reinterpret_cast<const Eight<T>*>(to);
#pragma unroll
      for (uint32_t i = 0; i < 8; ++i) out.v[i] = from_float<T>(to_float(old.v[i]) + v[i]);
    } else {
#pragma unroll
      for (uint32_t i = 0; i < 8; ++i) out.v[i] = from_float<T>(v[i]);
    }
    *reinterpret_cast<Eight<T>*>(to) = out;
    return;
  }
#pragma unroll
  for (uint32_t i = 0; i < 8; ++i) {
    if (i < count) to[i] = from_float<T>(accumulate ? to_float(to[i]) + v[i] : v[i]);
  }
}

// `row_start(r)`: elements from `data` to the tile's first column of row r, a uint64_t.
template <class Tile, class RowStart>
__device__ __forceinline__ void store_product(const float* product, uint32_t rows,
                                              uint32_t columns, const Output& out,
                                              RowStart row_start) {
  constexpr uint32_t GROUPS = Tile::COLUMNS / 8;
#pragma unroll 1
  for (uint32_t i = threadIdx.x; i < Tile::ROWS * GROUPS; i += Tile::THREADS) {
    const uint32_t row = i / GROUPS, column = i % GROUPS * 8;
    if (row >= rows || column >= columns) continue;
    const float4* from = reinterpret_cast<const float4*>(product + row * Tile::PITCH + column);
    const float4 low = from[0], high = from[1];
    float v[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    const uint32_t count = columns - column;
    if (out.bias != nullptr) {
#pragma unroll
      for (uint32_t e = 0; e < 8; ++e) {
        if (e < count) v[e] += out.bias[column + e];
      }
    }
    const uint64_t at = row_start(row) + column;
    if (out.is_bf16) {
      store_eight(static_cast<bf16*>(out.data) + at, v, count, out.accumulate);
    } else {
      store_eight(static_cast<float*>(out.data) + at, v, count, out.accumulate);
    }
  }
}

}  // namespace conv
