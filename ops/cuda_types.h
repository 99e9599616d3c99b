// Sixteen bytes at a time: loads, stores, and conversion to the floats that arithmetic is done in. Half types are bits here,
// with the conversions in PTX, because cuda_fp16.h would take long to compile. Without a GPU compiler the types of the CPU
// kernels stand in, so that tests can run the same kernels.
#pragma once

#include "kernels.h"

#ifdef __CUDACC__
#define LIA_DEVICE __device__ __forceinline__
#define LIA_DEVICE_CALL static __device__ __noinline__
#define LIA_UNROLL _Pragma("unroll")
#define LIA_LOOP _Pragma("unroll 1")
#else
#include "rows.h"
#define LIA_DEVICE inline
#define LIA_DEVICE_CALL inline
#define LIA_UNROLL
#define LIA_LOOP
#endif

namespace lia {

#ifdef __CUDACC__
using u16 = unsigned short;
using u32 = unsigned int;

struct Half {
  u16 bits;
};
struct BFloat16 {
  u16 bits;
};

LIA_DEVICE u32 bits_of(float x) { return __float_as_uint(x); }
LIA_DEVICE float float_of(u32 u) { return __uint_as_float(u); }

LIA_DEVICE float number(float x) { return x; }
LIA_DEVICE float number(BFloat16 x) { return float_of(u32(x.bits) << 16); }
LIA_DEVICE float number(Half x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}

LIA_DEVICE void assign(float& to, float x) { to = x; }
LIA_DEVICE void assign(Half& to, float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(x)); }
LIA_DEVICE void assign(BFloat16& to, float x) {
#if __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
#else
  const u32 u = bits_of(x), rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  to.bits = static_cast<u16>(x != x ? 0x7fff : rounded);
#endif
}

LIA_DEVICE u32 pack_pair(Half, float low, float high) {
  u32 word;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
#else
  Half a, b;
  assign(a, low), assign(b, high);
  word = a.bits | u32(b.bits) << 16;
#endif
  return word;
}
LIA_DEVICE u32 pack_pair(BFloat16, float low, float high) {
  u32 word;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
#else
  BFloat16 a, b;
  assign(a, low), assign(b, high);
  word = a.bits | u32(b.bits) << 16;
#endif
  return word;
}

using Chunk = uint4;
LIA_DEVICE Chunk load_chunk(const void* p) { return *static_cast<const uint4*>(p); }
LIA_DEVICE void store_chunk(void* p, Chunk c) { *static_cast<uint4*>(p) = c; }
// For memory that no one writes while the kernel runs: such loads may be moved before stores.
LIA_DEVICE Chunk load_constant(const Chunk* p) { return __ldg(p); }
LIA_DEVICE u32 load_constant(const u32* p) { return __ldg(p); }
LIA_DEVICE float load_constant(const float* p) { return __ldg(p); }
LIA_DEVICE Half load_constant(const Half* p) { return {__ldg(&p->bits)}; }
LIA_DEVICE BFloat16 load_constant(const BFloat16* p) { return {__ldg(&p->bits)}; }

LIA_DEVICE u32 funnel_shift(u32 low, u32 high, u32 bits) { return __funnelshift_r(low, high, bits); }

// min and max that keep a NaN.
LIA_DEVICE float clamped(float x, float limit) {
#if __CUDA_ARCH__ >= 800
  asm("max.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(-limit));
  asm("min.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(limit));
  return x;
#else
  return x < -limit ? -limit : (x > limit ? limit : x);
#endif
}

#else

using u32 = uint32_t;

template <class T>
inline u32 pack_pair(T, float low, float high) {
  T a, b;
  assign(a, low), assign(b, high);
  return a.bits | u32(b.bits) << 16;
}

struct alignas(16) Chunk {
  u32 x, y, z, w;
};
inline Chunk load_chunk(const void* p) { return *static_cast<const Chunk*>(p); }
inline void store_chunk(void* p, Chunk c) { *static_cast<Chunk*>(p) = c; }
template <class T>
inline T load_constant(const T* p) {
  return *p;
}
inline u32 funnel_shift(u32 low, u32 high, u32 bits) { return static_cast<u32>((uint64_t(high) << 32 | low) >> bits); }
inline float clamped(float x, float limit) { return x < -limit ? -limit : (x > limit ? limit : x); }

#endif

// Elements of T in a chunk.
template <class T>
struct Lanes {
  static constexpr int count = 16 / sizeof(T);
};

LIA_DEVICE void unpack_pair(Half, u32 word, float* v) {
#ifdef __CUDACC__
  asm("{.reg .b16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b;}" : "=f"(v[0]), "=f"(v[1]) : "r"(word));
#else
  v[0] = number(Half{static_cast<uint16_t>(word)}), v[1] = number(Half{static_cast<uint16_t>(word >> 16)});
#endif
}
LIA_DEVICE void unpack_pair(BFloat16, u32 word, float* v) { v[0] = float_of(word << 16), v[1] = float_of(word & 0xffff0000u); }

template <class T>
LIA_DEVICE void unpack(T type, Chunk c, float* v) {
  unpack_pair(type, c.x, v), unpack_pair(type, c.y, v + 2), unpack_pair(type, c.z, v + 4), unpack_pair(type, c.w, v + 6);
}
LIA_DEVICE void unpack(float, Chunk c, float* v) {
  v[0] = float_of(c.x), v[1] = float_of(c.y), v[2] = float_of(c.z), v[3] = float_of(c.w);
}

template <class T>
LIA_DEVICE Chunk pack(T type, const float* v) {
  return {pack_pair(type, v[0], v[1]), pack_pair(type, v[2], v[3]), pack_pair(type, v[4], v[5]), pack_pair(type, v[6], v[7])};
}
LIA_DEVICE Chunk pack(float, const float* v) { return {bits_of(v[0]), bits_of(v[1]), bits_of(v[2]), bits_of(v[3])}; }

}  // namespace lia
