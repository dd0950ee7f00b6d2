// CUDA's vector types and bf16.
#pragma once
#include <cstdint>
#include <cstring>

#define SIMT_VECTOR(base, name, alignment2, alignment4)                                         \
  struct alignas(alignment2) name##2 {                                                          \
    base x, y;                                                                                  \
  };                                                                                            \
  struct name##3 {                                                                              \
    base x, y, z;                                                                               \
  };                                                                                            \
  struct alignas(alignment4) name##4 {                                                          \
    base x, y, z, w;                                                                            \
  };                                                                                            \
  inline name##2 make_##name##2(base x, base y) { return {x, y}; }                              \
  inline name##3 make_##name##3(base x, base y, base z) { return {x, y, z}; }                   \
  inline name##4 make_##name##4(base x, base y, base z, base w) { return {x, y, z, w}; }
SIMT_VECTOR(signed char, char, 2, 4)
SIMT_VECTOR(unsigned char, uchar, 2, 4)
SIMT_VECTOR(short, short, 4, 8)
SIMT_VECTOR(unsigned short, ushort, 4, 8)
SIMT_VECTOR(int, int, 8, 16)
SIMT_VECTOR(unsigned int, uint, 8, 16)
SIMT_VECTOR(float, float, 8, 16)
SIMT_VECTOR(long long, longlong, 16, 16)
SIMT_VECTOR(unsigned long long, ulonglong, 16, 16)
SIMT_VECTOR(double, double, 16, 16)
#undef SIMT_VECTOR

namespace simt {
template <class To, class From> inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace simt

// Conversions are explicit and there is no arithmetic: CUDA's rounds to bf16 after each step, which
// no kernel here wants.
struct __nv_bfloat16 {
  uint16_t simt_bits;
  __nv_bfloat16() = default;
  explicit __nv_bfloat16(float v) {
    const uint32_t u = simt::bits_as<uint32_t>(v);
    // The hardware's NaN; otherwise to nearest, ties to even.
    simt_bits = (u & 0x7FFFFFFFu) > 0x7F800000u
                    ? 0x7FFFu
                    : static_cast<uint16_t>((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const {
    return simt::bits_as<float>(static_cast<uint32_t>(simt_bits) << 16);
  }
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
using bf16 = __nv_bfloat16;
using bf162 = __nv_bfloat162;

inline float __bfloat162float(bf16 v) { return static_cast<float>(v); }
inline bf16 __float2bfloat16(float v) { return bf16(v); }
inline bf16 __float2bfloat16_rn(float v) { return bf16(v); }
inline unsigned short __bfloat16_as_ushort(bf16 v) { return v.simt_bits; }
inline bf16 __ushort_as_bfloat16(unsigned short bits) {
  bf16 v;
  v.simt_bits = bits;
  return v;
}
inline bf162 __halves2bfloat162(bf16 x, bf16 y) {
  bf162 v;
  v.x = x;
  v.y = y;
  return v;
}
inline bf162 make_bfloat162(bf16 x, bf16 y) { return __halves2bfloat162(x, y); }
inline bf162 __floats2bfloat162_rn(float x, float y) {
  return __halves2bfloat162(bf16(x), bf16(y));
}
inline bf162 __float22bfloat162_rn(float2 v) { return __floats2bfloat162_rn(v.x, v.y); }
inline float2 __bfloat1622float2(bf162 v) { return {float(v.x), float(v.y)}; }
inline float __low2float(bf162 v) { return float(v.x); }
inline float __high2float(bf162 v) { return float(v.y); }
inline bf16 __low2bfloat16(bf162 v) { return v.x; }
inline bf16 __high2bfloat16(bf162 v) { return v.y; }
