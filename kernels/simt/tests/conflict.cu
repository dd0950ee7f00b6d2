// A planted bank conflict for tests/counters.rs: conv_moments_bf16_large with rows of the product next to
// each other in shared memory, so that the eight rows of an mma's sums meet in the same banks.
#include "include/common.cuh"
#undef KERNEL
// Of conv.cu only the templates: its kernels are never instantiated.
#define KERNEL(name, args_type, threads) template <class> static __device__ void unused_##name(const args_type& a)
#include "conv.cu"

namespace conv {
template <class T> struct Conflicting : Large<T> {
  static constexpr uint32_t PITCH = Large<T>::COLUMNS;
};
}  // namespace conv

extern "C" __global__ void __launch_bounds__(128) conv_moments_bf16_large(const __grid_constant__ ConvArgs a) {
  conv::tensor<conv::Conflicting<bf16>, conv::Moments>(a);
}
