// Vectors of the widest registers that this translation unit is compiled for, through the compiler's own vector types.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#define ROWS 6  // of a tile: its sums, 4 vectors a row, stay in registers
#elif defined(__AVX__)
#define LANES 8
#define ROWS 2
#else
#define LANES 4
#if defined(__aarch64__)
#define ROWS 6
#else
#define ROWS 2
#endif
#endif

namespace {

typedef float Floats __attribute__((vector_size(4 * LANES), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * LANES), may_alias));
typedef uint32_t Words __attribute__((vector_size(4 * LANES), may_alias));
typedef uint8_t Bytes __attribute__((vector_size(LANES), may_alias));

// Bytes that multiply signed weights are kept unsigned on x86, whose instruction wants it so.
#if defined(__x86_64__)
constexpr int OFFSET = 128;
#else
constexpr int OFFSET = 0;
#endif

inline int padded(int size, int multiple) { return (size + multiple - 1) / multiple * multiple; }

inline Floats load(const float* from) { return *reinterpret_cast<const Floats*>(from); }
inline void store(float* to, Floats value) { *reinterpret_cast<Floats*>(to) = value; }
inline Floats splat(float value) { return Floats{} + value; }

// e^x for |x| <= LIMIT, beyond which it is that of the limit; within 2 units in the last place (Cephes' polynomial).
inline Floats exponential(Floats x, float limit) {
  x = x > limit ? splat(limit) : x;
  x = x < -limit ? splat(-limit) : x;
  const Floats shift = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  Floats whole = x * 1.44269504088896341f + shift;
  const Words exponent = (Words)whole << 23;
  whole -= shift;
  x -= whole * 0.693359375f;
  x += whole * 2.12194440e-4f;
  Floats y = x * 1.9875691500e-4f + 1.3981999507e-3f;
  y = y * x + 8.3334519073e-3f;
  y = y * x + 4.1665795894e-2f;
  y = y * x + 1.6666665459e-1f;
  y = y * x + 5.0000001201e-1f;
  y = y * x * x + x + 1.0f;
  return (Floats)((Words)y + exponent);
}

// sums += the four products of bytes in each lane; a is unsigned where OFFSET is not 0.
inline Ints dot4(Ints sums, Ints a, Ints b) {
#if defined(__AVX512VNNI__)
  return (Ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)a, (__m512i)b);
#elif defined(__ARM_FEATURE_DOTPROD)
  return (Ints)vdotq_s32((int32x4_t)sums, (int8x16_t)a, (int8x16_t)b);
#else
  for (int shift = 24; shift >= 0; shift -= 8) {
    const Ints left = OFFSET ? (Ints)((Words)(a << shift) >> 24) : (a << shift) >> 24;
    sums += left * ((b << shift) >> 24);
  }
  return sums;
#endif
}

// An array aligned to cache lines; its contents are lost when it grows.
template <typename T>
class Array {
 public:
  Array() = default;
  explicit Array(size_t size) { std::memset(fit(size), 0, size * sizeof(T)); }
  Array(Array&& other) noexcept : data_(other.data_), size_(other.size_) {
    other.data_ = nullptr;
    other.size_ = 0;
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { std::free(data_); }

  // At least so many elements.
  T* fit(size_t size) {
    if (size > size_) {
      std::free(data_);
      const size_t bytes = (size * sizeof(T) + 63) / 64 * 64;
      data_ = static_cast<T*>(std::aligned_alloc(64, bytes));
      if (!data_) {
        size_ = 0;
        throw std::bad_alloc();
      }
      size_ = size;
    }
    return data_;
  }
  T* get() { return data_; }
  const T* get() const { return data_; }
  T& operator[](size_t index) { return data_[index]; }
  const T& operator[](size_t index) const { return data_[index]; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace
