// cp.async: 4, 8 or 16 bytes from global to shared memory, past the registers. The copy is there
// only after cp_async_wait, for this thread; after a barrier too, for the others.
//
// On the host the destination is poisoned at once and filled at the wait, so a missing or too
// weak wait reads NaN.
#pragma once
#include "include/common.cuh"

#ifdef U2PL_SIMT

// `bytes` must be the size of the access; both addresses must be multiples of it.
#define cp_async_4(to, from) simt::async_copy(to, from, 4, 4, SIMT_HERE)
#define cp_async_8(to, from) simt::async_copy(to, from, 8, 8, SIMT_HERE)
#define cp_async_16(to, from) simt::async_copy(to, from, 16, 16, SIMT_HERE)
// Reads only the first `from_bytes` (0 to the access's size) and fills the rest with zeros; with 0
// the source is not touched.
#define cp_async_4_zfill(to, from, from_bytes) simt::async_copy(to, from, 4, from_bytes, SIMT_HERE)
#define cp_async_8_zfill(to, from, from_bytes) simt::async_copy(to, from, 8, from_bytes, SIMT_HERE)
#define cp_async_16_zfill(to, from, from_bytes) \
  simt::async_copy(to, from, 16, from_bytes, SIMT_HERE)
// Ends a group: the copies since the last commit.
#define cp_async_commit() simt::async_commit(SIMT_HERE)
// cp_async_wait<N>(): waits until at most the N newest groups are under way.
#define cp_async_wait simt::AsyncWait{SIMT_HERE}.wait

#else

// Address of shared memory as the instructions take it.
__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void cp_async_4_zfill(void* to, const void* from, uint32_t from_bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(shared_address(to)),
               "l"(from), "r"(from_bytes)
               : "memory");
}
__device__ __forceinline__ void cp_async_8_zfill(void* to, const void* from, uint32_t from_bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;\n" ::"r"(shared_address(to)),
               "l"(from), "r"(from_bytes)
               : "memory");
}
// .cg: through L2 only; what is copied here is read once per block.
__device__ __forceinline__ void cp_async_16_zfill(void* to, const void* from,
                                                  uint32_t from_bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)),
               "l"(from), "r"(from_bytes)
               : "memory");
}
__device__ __forceinline__ void cp_async_4(void* to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(shared_address(to)), "l"(from)
               : "memory");
}
__device__ __forceinline__ void cp_async_8(void* to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;\n" ::"r"(shared_address(to)), "l"(from)
               : "memory");
}
__device__ __forceinline__ void cp_async_16(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(shared_address(to)), "l"(from)
               : "memory");
}
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
template <int NewestLeft> __device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(NewestLeft) : "memory");
}

#endif
