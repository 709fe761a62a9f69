// Matrices packed for tiles of some rows of x times 4 vectors of outputs, whose sums stay in registers.
#pragma once

#include <algorithm>
#include <cmath>

#include "vectors.h"

namespace {

// Weights [outputs, inputs] that are bfloat16 numbers, kept as such: [outputs / (VECTORS * LANES)][inputs / 2][VECTORS]
// [LANES], two inputs a word. Products and sums are float32.
template <int VECTORS>
class Matrix {
 public:
  using Input = float;
  static constexpr int WIDTH = VECTORS * LANES;
  static constexpr Input ZERO = 0.0f;
  static void keep(Input* to, Floats values) { store(to, values); }

  // `at(output, input)` gives each weight.
  template <typename At>
  Matrix(int outputs, int inputs, At at)
      : blocks(padded(outputs, WIDTH) / WIDTH), pairs_((inputs + 1) / 2), weights_(size_t(blocks) * pairs_ * WIDTH) {
    for (int output = 0; output < outputs; ++output)
      for (int input = 0; input < inputs; ++input) {
        const float weight = at(output, input);
        uint32_t bits;
        std::memcpy(&bits, &weight, 4);
        uint32_t& word = weights_[(size_t(output / WIDTH) * pairs_ + input / 2) * WIDTH + output % WIDTH];
        word |= input % 2 ? bits & 0xffff0000u : bits >> 16;
      }
  }

  const int blocks;

  // sums[r] = add[r] + this block's outputs for x[r], an even number of inputs padded with 0.
  template <int R>
  void dot(int block, const float* const* x, const float* const* add, Floats (&sums)[R][VECTORS]) const {
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < VECTORS; ++v) sums[r][v] = load(add[r] + v * LANES);
    const uint32_t* weights = weights_.get() + size_t(block) * pairs_ * WIDTH;
    for (int pair = 0; pair < pairs_; ++pair, weights += WIDTH) {
      Words words[VECTORS];
      for (int v = 0; v < VECTORS; ++v) words[v] = *reinterpret_cast<const Words*>(weights + v * LANES) << 16;
      accumulate(words, x, 2 * pair, sums);
      for (int v = 0; v < VECTORS; ++v)
        words[v] = *reinterpret_cast<const Words*>(weights + v * LANES) & 0xffff0000u;
      accumulate(words, x, 2 * pair + 1, sums);
    }
  }

  // y[r] = bias + all outputs for each of `rows` consecutive x.
  void multiply(const float* x, size_t x_stride, int rows, const float* bias, float* y, size_t y_stride) const {
    for (int row = 0; row < rows; row += ROWS) switch (std::min(rows - row, ROWS)) {
#define CASE(R)                                                                      \
  case R:                                                                            \
    multiply_tile<R>(x + row * x_stride, x_stride, bias, y + row * y_stride, y_stride); \
    break;
        CASE(1)
        CASE(2)
#if ROWS > 2
        CASE(3)
        CASE(4)
        CASE(5)
        CASE(6)
#endif
#undef CASE
      }
  }

 private:
  template <int R>
  void multiply_tile(const float* x, size_t x_stride, const float* bias, float* y, size_t y_stride) const {
    const float* rows[R];
    const float* start[R];
    for (int r = 0; r < R; ++r) rows[r] = x + r * x_stride;
    for (int block = 0; block < blocks; ++block) {
      for (int r = 0; r < R; ++r) start[r] = bias + block * WIDTH;
      Floats sums[R][VECTORS];
      dot<R>(block, rows, start, sums);
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < VECTORS; ++v) store(y + r * y_stride + block * WIDTH + v * LANES, sums[r][v]);
    }
  }

  template <int R>
  static void accumulate(const Words (&words)[VECTORS], const float* const* x, int input, Floats (&sums)[R][VECTORS]) {
    for (int r = 0; r < R; ++r) {
      const Floats value = splat(x[r][input]);
      for (int v = 0; v < VECTORS; ++v) sums[r][v] += value * (Floats)words[v];
    }
  }

  const int pairs_;
  Array<uint32_t> weights_;
};

// Weights in int8 with one scale an output, for inputs in [-1, 1] kept in 16 bits, as two bytes: of each LANES inputs the
// high bytes, then the low ones. The weights are [outputs / (4 * LANES)][inputs / 4][4][LANES][4 inputs]. Sums are exact.
class ByteMatrix {
 public:
  using Input = uint16_t;
  static constexpr int WIDTH = 4 * LANES;
  static constexpr Input ZERO = OFFSET << 8 | OFFSET;
  static void keep(Input* to, Floats values) {
    const Floats shift = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const Ints whole = (Ints)(values * float(ONE) + shift) - (Ints)shift;
    const Ints high = (whole + 128) >> 8, low = whole - (high << 8);
    Bytes* bytes = reinterpret_cast<Bytes*>(to);
    bytes[0] = __builtin_convertvector(high + OFFSET, Bytes);
    bytes[1] = __builtin_convertvector(low + OFFSET, Bytes);
  }

  template <typename At>
  ByteMatrix(int outputs, int inputs, At at)
      : quads_((inputs + 3) / 4),
        weights_(size_t(padded(outputs, WIDTH)) * quads_ * 4),
        scales_(padded(outputs, WIDTH)),
        starts_(padded(outputs, WIDTH)) {
    for (int output = 0; output < outputs; ++output) {
      float most = 1e-12f;
      for (int input = 0; input < inputs; ++input) most = std::max(most, std::fabs(at(output, input)));
      scales_[output] = most / 127.0f / float(ONE);
      for (int input = 0; input < inputs; ++input) {
        const int weight = int(std::lrint(at(output, input) / most * 127.0f));
        const size_t word = (size_t(output / WIDTH) * quads_ + input / 4) * WIDTH + output % WIDTH;
        weights_[4 * word + input % 4] = int8_t(weight);
        starts_[output] -= OFFSET * weight;
      }
    }
  }

  // sums[r] = add[r] + this block's outputs for x[r].
  template <int R>
  void dot(int block, const uint16_t* const* x, const float* const* add, Floats (&sums)[R][4]) const {
    const uint8_t* rows[2 * R];  // high bytes, then low ones
    for (int r = 0; r < R; ++r) {
      rows[r] = reinterpret_cast<const uint8_t*>(x[r]);
      rows[R + r] = rows[r] + LANES;
    }
    Ints bytes[2][R][4];
    if (2 * R <= ROWS) {
      multiply<2 * R>(block, rows, bytes[0]);
    } else {
      multiply<R>(block, rows, bytes[0]);
      multiply<R>(block, rows + R, bytes[1]);
    }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < 4; ++v) {
        const Floats high = __builtin_convertvector(bytes[0][r][v], Floats);
        const Floats low = __builtin_convertvector(bytes[1][r][v], Floats);
        sums[r][v] = (high * 256.0f + low) * load(scales_.get() + block * WIDTH + v * LANES) + load(add[r] + v * LANES);
      }
  }

 private:
  static constexpr int ONE = 127 * 256;

  // sums[n] = the weights times one byte of each input.
  template <int N>
  void multiply(int block, const uint8_t* const* rows, Ints (*sums)[4]) const {
    const int8_t* weights = weights_.get() + size_t(block) * quads_ * WIDTH * 4;
    Ints exact[N][4];
    for (int n = 0; n < N; ++n)
      for (int v = 0; v < 4; ++v)
        exact[n][v] = *reinterpret_cast<const Ints*>(starts_.get() + block * WIDTH + v * LANES);
    for (int quad = 0; quad < quads_; ++quad, weights += WIDTH * 4) {
      const int at = quad * 4 / LANES * 2 * LANES + quad * 4 % LANES;
      Ints words[4];
      for (int v = 0; v < 4; ++v) words[v] = *reinterpret_cast<const Ints*>(weights + v * LANES * 4);
      for (int n = 0; n < N; ++n) {
        int32_t four;
        std::memcpy(&four, rows[n] + at, 4);
        const Ints value = Ints{} + four;
        for (int v = 0; v < 4; ++v) exact[n][v] = dot4(exact[n][v], value, words[v]);
      }
    }
    std::memcpy(sums, exact, sizeof exact);
  }

  const int quads_;
  Array<int8_t> weights_;
  Array<float> scales_;
  Array<int32_t> starts_;  // what takes OFFSET out again
};

}  // namespace
