// fill, copy, lerp, relu, dropout2d: one read and one write of every element.
#include "include/common.cuh"

// out[p, 0..c) = value for p < n*h*w. Grid-stride over elements; any ld.
ARGS(FillArgs) {
  Map out;
  uint32_t bits;  // the value, already in the map's type
  uint32_t pad;
};

template <class T> __device__ void fill(const FillArgs& a) {
  const uint64_t total = static_cast<uint64_t>(a.out.n) * a.out.h * a.out.w * a.out.c;
  T* out = static_cast<T*>(a.out.data);
  for (uint64_t i = grid_start(); i < total; i += grid_step()) {
    out[i / a.out.c * a.out.ld + i % a.out.c] = static_cast<T>(a.bits);
  }
}
KERNEL(fill_4, FillArgs, 256) { fill<uint32_t>(a); }
KERNEL(fill_2, FillArgs, 256) { fill<uint16_t>(a); }
KERNEL(fill_1, FillArgs, 256) { fill<uint8_t>(a); }
