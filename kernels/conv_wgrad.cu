// conv_wgrad: gradient of a convolution to its weights and bias.
//
//   dw[k,r,s,c] (+)= sum over pixels of dy[n,oy,ox,k] * x[n, oy*stride + r*dilation - padding,
//                    ox*stride + s*dilation - padding, c]
//   dbias[k]    (+)= sum over pixels of dy[n,oy,ox,k]
//
// Never materialised: patches of x, transposed dy.
//
// A GEMM of [K] x [R*S*C] over pixels, whose indices a block works out once a step, a thread each
// (include/conv/gather_wgrad.cuh). A block makes one tile of dw (64 or 128 square, columns
// within one tap) from one part of the pixels, visiting only those whose tap hits the image, 128
// bytes of pixels a step. dw has few tiles, so the pixels are split into parts, as many as end
// soonest by src/device/gpu/conv/plan.rs (a function of the shapes alone); each part's sums go to the
// workspace [part, K, R, S, C] and conv_reduce adds them in order. With one part dw is written directly.
//
// Variants as in conv.cu. 16-byte copies need K and C, both ld and both addresses to be multiples
// of 16 bytes; `any` takes everything else, its columns being the flat (r, s, c) axis.
//
// Bytes: x and dy once per R*S*C/tile and K/tile (mostly from L2), parts*K*R*S*C*4 written and
// read. FLOPs: 2*pixels(y)*K*R*S*C. Largest at the VOC shape: as the forward pass, 159 GFLOP,
// floor 0.20 ms at 790 TFLOP/s, a rate of wgmma. conv_bias: dy once. conv_reduce: every part once,
// dw once, 16 bytes at a time (`plan --floor` counts the parts).
// Measured: not measured on a GPU. Predicted from waves: parts chosen by the blocks they make are 1.30
// times over those that only reach 256 blocks (512 -> 512, 3x3: 288 blocks were two waves of 264).
// Grid: parts * tiles of K * taps * tiles of C, the last fastest. Block: 128 threads, fp32 of
// 128x128 256.
// Dynamic shared: as conv.cu.
// Order: pixels ascending within a part (within an mma as the hardware sums), parts ascending;
// then the previous value: old + sum. No atomics; no bit depends on the schedule or on the number of
// multiprocessors, but tf32 and bf16 on the architecture (include/conv/multiply.cuh).
// Tolerance: equal to device/cpu/conv (wgrad) where sums are exact; else as conv.cu.
#include "include/conv/epilogue.cuh"
#include "include/conv/gather_wgrad.cuh"
#include "include/conv/mainloop.cuh"
#include "include/conv/multiply.cuh"

namespace conv {

template <class Tile, bool FLAT, template <class, Layout, Layout> class Math,
          template <class> class Loader>
__device__ __forceinline__ void weight_gradient(const ConvWgradArgs& a) {
  DYNAMIC_SHARED(smem);
  const WgradPlace place = place_wgrad<Tile, FLAT>(a);
  Loader<Tile> loader(a, place, reinterpret_cast<PixelPair*>(smem + Tile::rows_at(a.stages)));
  Math<Tile, Layout::ACROSS, Layout::ACROSS> math;
  main_loop<Tile>(loader, math, smem, a.stages);
  const uint64_t width = static_cast<uint64_t>(a.rows.taps) * a.columns.taps * a.x.c;
  const uint64_t first = (static_cast<uint64_t>(place.part) * a.dy.c + place.row) * width;
  const Output out{a.out, nullptr, false, a.accumulate != 0};
  store_product<Tile>(reinterpret_cast<const float*>(smem), a.dy.c - place.row, place.columns, out,
                      [&](uint32_t row) { return first + row * width + place.flat; });
}

template <class Tile> __device__ __forceinline__ void exact(const ConvWgradArgs& a) {
  weight_gradient<Tile, false, Exact, WgradVectorLoader>(a);
}
template <class Tile> __device__ __forceinline__ void exact_any(const ConvWgradArgs& a) {
  weight_gradient<Tile, true, Exact, WgradAnyLoader>(a);
}
template <class Tile> __device__ __forceinline__ void tensor(const ConvWgradArgs& a) {
  weight_gradient<Tile, false, TensorCores, WgradVectorLoader>(a);
}
template <class Tile> __device__ __forceinline__ void tensor_any(const ConvWgradArgs& a) {
  weight_gradient<Tile, true, TensorCores, WgradAnyLoader>(a);
}

// Column sums of dy, a block per 32 channels and a stretch of pixels: eight warps take every
// eighth pixel in order, then one adds the eight in order.
template <class T> __device__ __forceinline__ void bias_sums(const ConvBiasArgs& a) {
  SHARED(float, sums, [8][32]);
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t channel = blockIdx.x * 32 + lane;
  const uint64_t total = static_cast<uint64_t>(a.dy.n) * a.dy.h * a.dy.w;
  const uint64_t first = static_cast<uint64_t>(blockIdx.y) * a.pixels;
  const uint64_t end = first + a.pixels < total ? first + a.pixels : total;
  float sum = 0.0f;
  if (channel < a.dy.c) {
    const T* dy = static_cast<const T*>(a.dy.data) + channel;
    for (uint64_t i = first + warp; i < end; i += 8) sum += to_float(dy[i * a.dy.ld]);
  }
  sums[warp][lane] = sum;
  // Race prevented: warp 0 reads the sums of the others.
  __syncthreads();
  if (warp == 0 && channel < a.dy.c) {
#pragma unroll
    for (uint32_t i = 1; i < 8; ++i) sum += sums[i][lane];
    a.sums[static_cast<uint64_t>(blockIdx.y) * a.dy.c + channel] = sum;
  }
}

}  // namespace conv

KERNEL(conv_wgrad_fp32_large, ConvWgradArgs, 256) { conv::exact<conv::LargeExact>(a); }
// ptxas spills on sm_80 for the sake of a seventh block; four are planned for (conv/tiles.rs).
KERNEL(conv_wgrad_fp32_small, ConvWgradArgs, 128, 4) { conv::exact<conv::Small<float>>(a); }
KERNEL(conv_wgrad_fp32_any, ConvWgradArgs, 128) { conv::exact_any<conv::Small<float>>(a); }
KERNEL(conv_wgrad_tf32_large, ConvWgradArgs, 128) { conv::tensor<conv::Large<float>>(a); }
KERNEL(conv_wgrad_tf32_small, ConvWgradArgs, 128) { conv::tensor<conv::Small<float>>(a); }
KERNEL(conv_wgrad_tf32_any, ConvWgradArgs, 128) { conv::tensor_any<conv::Small<float>>(a); }
KERNEL(conv_wgrad_bf16_large, ConvWgradArgs, 128) { conv::tensor<conv::Large<bf16>>(a); }
KERNEL(conv_wgrad_bf16_small, ConvWgradArgs, 128) { conv::tensor<conv::Small<bf16>>(a); }
KERNEL(conv_wgrad_bf16_any, ConvWgradArgs, 128) { conv::tensor_any<conv::Small<bf16>>(a); }

KERNEL(conv_bias_f32, ConvBiasArgs, 256) { conv::bias_sums<float>(a); }
KERNEL(conv_bias_bf16, ConvBiasArgs, 256) { conv::bias_sums<bf16>(a); }

// Grid-stride over four elements at a time where the parts and `out` allow 16-byte accesses, else
// over single ones; one read per part, one write. The same sums in the same order either way.
KERNEL(conv_reduce, ConvReduceArgs, 256) {
  const bool vectors = a.n % 4 == 0 && reinterpret_cast<uintptr_t>(a.parts) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(a.out) % 16 == 0;
  if (!vectors) {
#pragma unroll 1
    for (uint64_t i = grid_start(); i < a.n; i += grid_step()) {
      float sum = 0.0f;
#pragma unroll 1
      for (uint32_t p = 0; p < a.count; ++p) sum += a.parts[p * a.n + i];
      a.out[i] = a.accumulate != 0 ? a.out[i] + sum : sum;
    }
    return;
  }
#pragma unroll 1
  for (uint64_t i = 4 * grid_start(); i < a.n; i += 4 * grid_step()) {
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    const float* part = a.parts + i;
#pragma unroll 4
    for (uint32_t p = 0; p < a.count; ++p, part += a.n) {
      const float4 v = *reinterpret_cast<const float4*>(part);
      sum.x += v.x;
      sum.y += v.y;
      sum.z += v.z;
      sum.w += v.w;
    }
    float4* out = reinterpret_cast<float4*>(a.out + i);
    if (a.accumulate != 0) {
      const float4 old = *out;
      sum = make_float4(old.x + sum.x, old.y + sum.y, old.z + sum.z, old.w + sum.w);
    }
    *out = sum;
  }
}
