// The dense part of a simulated mma, which dominates the time of convolution tests: compiled here,
// for eight-wide vectors.
#include "simt/core.hpp"

namespace simt {

typedef float Row8 __attribute__((vector_size(32), aligned(4), may_alias));

void mma_dense(float* d, const float* a, const float* b, int depth) {
  for (int m = 0; m < 16; ++m) {
    Row8 sum = *reinterpret_cast<const Row8*>(d + 8 * m);
    for (int k = 0; k < depth; ++k) {
      sum += a[m * depth + k] * *reinterpret_cast<const Row8*>(b + 8 * k);
    }
    *reinterpret_cast<Row8*>(d + 8 * m) = sum;
  }
}

}  // namespace simt
