// What every kernel source includes first: the three macros that build.rs reads, and the few
// differences between nvcc and the host compiler that runs the same source under kernels/simt.
//
//   ARGS(CopyArgs) { const float* x; uint64_t n; };   one struct is a kernel's only argument
//   KERNEL(copy_f32, CopyArgs, 256) { ... a.x ... }   name, struct, threads of a block; `a` is it;
//                                                     a fourth: blocks at once, where ptxas needs it
//   CONSTANT(COPY_ROWS, 64);                          a number that the launcher needs too, its only place
//   SHARED(float, sums, [32]);                        static shared memory, poisoned by simt
//   SHARED_ALIGNED(float, tile, [8][32], 16);         the same, where float4 is to be read from it
//   DYNAMIC_SHARED(smem);                             unsigned char*, 1024-byte aligned
//
// Indices into maps are 64-bit: a map may hold more than 2^31 elements.
#pragma once
#include <cstdint>

#define ARGS(name) struct name
#define CONSTANT(name, value) [[maybe_unused]] constexpr uint32_t name = value

#ifdef U2PL_SIMT
#include "simt/simt.hpp"
#else
#include <cuda_bf16.h>
using bf16 = __nv_bfloat16;
#define KERNEL(name, args_type, ...) \
  extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name(const __grid_constant__ args_type a)
#define SHARED(type, name, dims) __shared__ type name dims
#define SHARED_ALIGNED(type, name, dims, alignment) __shared__ __align__(alignment) type name dims
#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
#endif

// Element access: every kernel computes in float, whatever the map holds.
__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(bf16 v) { return __bfloat162float(v); }
template <class T> __device__ __forceinline__ T from_float(float v);
template <> __device__ __forceinline__ float from_float<float>(float v) { return v; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float v) { return __float2bfloat16_rn(v); }

// First index of this thread in a grid-stride loop, and its stride.
__device__ __forceinline__ uint64_t grid_start() {
  return static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ uint64_t grid_step() {
  return static_cast<uint64_t>(gridDim.x) * blockDim.x;
}

// True in the block that comes here last of `blocks`, which then sees what all of them wrote before.
// All threads of a block call it and agree. `ticket` is zero before the launch and after.
__device__ __forceinline__ bool arrives_last(uint32_t* ticket, uint32_t blocks) {
  __threadfence();
  __syncthreads();  // the ticket says that all threads of this block have written
  const bool last = threadIdx.x == 0 && atomicInc(ticket, blocks - 1) == blocks - 1;
  if (__syncthreads_or(last) == 0) return false;  // thread 0 alone knows
  __threadfence();
  return true;
}

// A NHWC map: pixel i's channels start at data + i*ld elements (`View` of device/mod.rs).
ARGS(Map) {
  void* data;
  uint64_t ld;
  uint32_t n;
  uint32_t h;
  uint32_t w;
  uint32_t c;
};
