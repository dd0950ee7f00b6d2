// CUDA C++ on the host: what a kernel source sees when it is compiled by the host's C++ compiler.
//
// Each CUDA thread is a fiber; a block is the fibers of one host thread, which run one at a time
// and hand over only inside a collective (barrier, shuffle, ...). README.md says what this catches
// and what it cannot. Only what CUDA accepts is offered, and less: code that compiles here is
// meant to compile with nvcc.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <math.h>

#include "simt/core.hpp"
#include "simt/types.hpp"
#include "simt/math.hpp"
#include "simt/warp.hpp"
#include "simt/atomics.hpp"

#define __global__
#define __device__
#define __host__
#define __constant__ __attribute__((unused))
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

// Defines a kernel and puts it into the table that `simt_find_kernel` searches.
#define KERNEL(name, args_type, threads, ...)                                                   \
  static void name(const args_type& a);                                                         \
  static simt::Kernel simt_kernel_##name(                                                       \
      #name, sizeof(args_type), threads,                                                        \
      [](const void* args) { name(*static_cast<const args_type*>(args)); }, SIMT_HERE);         \
  static void name(const args_type& a)

// Static shared memory: a slot of the block's arena, poisoned with 0xFF at the block's start. It
// is aligned to its type and, on purpose, to no more: nvcc promises no more.
#define SHARED(type, name, dims) SHARED_ALIGNED(type, name, dims, alignof(type))
#define SHARED_ALIGNED(type, name, dims, alignment)                                             \
  using simt_type_##name = type dims;                                                           \
  static simt::Slot simt_slot_##name;                                                           \
  auto& name = *static_cast<simt_type_##name*>(simt::static_shared(                             \
      simt_slot_##name, sizeof(simt_type_##name), alignment, #name, SIMT_HERE))

// Dynamic shared memory: poisoned with 0xFF at the block's start, its end against a guard page.
#define DYNAMIC_SHARED(name) unsigned char* const name = simt::dynamic_shared()
