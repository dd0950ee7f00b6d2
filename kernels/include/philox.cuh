// Philox4x32-10 (Salmon et al., SC 2011), bit for bit the host's src/device/philox.rs: a number is
// a pure function of (seed, stream, step, index).
#pragma once
#include "include/common.cuh"

struct Words {
  uint32_t w[4];
};

__device__ __forceinline__ Words philox4x32(Words c, uint32_t k0, uint32_t k1) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c.w[0];
    const uint64_t p1 = static_cast<uint64_t>(0xCD9E8D57u) * c.w[2];
    c = Words{{static_cast<uint32_t>(p1 >> 32) ^ c.w[1] ^ k0, static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ c.w[3] ^ k1, static_cast<uint32_t>(p0)}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// Draws of one operation: `state` is the device's {seed_lo, seed_hi, step, 0}.
struct Rng {
  uint32_t k0, k1, step, stream;
  __device__ __forceinline__ Rng(const uint32_t* state, uint32_t stream_)
      : k0(state[0]), k1(state[1]), step(state[2]), stream(stream_) {}
  __device__ __forceinline__ Words block(uint64_t index) const {
    return philox4x32(
        Words{{static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), step, stream}}, k0,
        k1);
  }
};

// A word as a float uniform on [0, 1), 24 bits.
__device__ __forceinline__ float to_unit(uint32_t word) {
  return static_cast<float>(word >> 8) * (1.0f / 16777216.0f);
}
// A word as an integer uniform on 0..n-1, by multiply-high.
__device__ __forceinline__ uint32_t to_below(uint32_t word, uint32_t n) {
  return static_cast<uint32_t>((static_cast<uint64_t>(word) * n) >> 32);
}
