// A BiLSTM over ragged rows, sorted by length so that no padding is computed.
#pragma once

#include <vector>

#include "matrix.h"

namespace {

// Consecutive tokens that are read as one sentence.
struct Row {
  int first;
  int length;
  int index;  // of the sentence
};

// Where a unit's gate stands in a row of gates: by blocks of LANES units, their four gates side by side.
struct Gates {
  explicit Gates(int hidden) : hidden(hidden), units(padded(hidden, LANES)), width(4 * units) {}
  // The row of PyTorch's weights [4 * hidden, ...] (input, forget, cell, output gate) that makes it; -1 for padding.
  int source(int output) const {
    const int unit = output / (4 * LANES) * LANES + output % LANES;
    return unit < hidden ? output / LANES % 4 * hidden + unit : -1;
  }
  const int hidden, units, width;
};

// The recurrence of one direction of one layer.
template <typename Weights>
class Direction {
  using State = typename Weights::Input;

 public:
  struct Scratch {
    Array<State> states;
    Array<float> cells;
    std::vector<const float*> inputs, ahead;
    std::vector<float*> outputs;
  };

  Direction(const float* weights, const Gates& gates, bool backward)
      : gates_(gates), backward_(backward), weights_(gates.width, gates.hidden, [&](int output, int input) {
          const int row = gates.source(output);
          return row < 0 ? 0.0f : weights[size_t(row) * gates.hidden + input];
        }) {}

  // Rows are given longest first; inputs[token] + from is what the input adds to the gates of a token, and
  // states + token * stride is where its state goes.
  void run(const std::vector<Row>& rows, const float* const* inputs, size_t from, float* states, size_t stride,
           Scratch& scratch) const {
    const size_t count = rows.size(), size = count * gates_.units;
    State* now = scratch.states.fit(2 * size);
    State* next = now + size;
    std::fill(now, now + size, Weights::ZERO);
    float* cells = scratch.cells.fit(size);
    std::fill(cells, cells + size, 0.0f);
    scratch.inputs.resize(count);
    scratch.ahead.resize(count);
    scratch.outputs.resize(count);
    int active = int(count);
    for (int step = 0; step < rows[0].length; ++step) {
      while (rows[active - 1].length <= step) --active;
      for (int row = 0; row < active; ++row) {
        const Row& each = rows[row];
        const int token = backward_ ? each.first + each.length - 1 - step : each.first + step;
        const int later = step + 1 == each.length ? token : backward_ ? token - 1 : token + 1;
        scratch.inputs[row] = inputs[token] + from;
        scratch.ahead[row] = inputs[later] + from;
        scratch.outputs[row] = states + token * stride;
      }
      for (int block = 0; block < gates_.units / LANES; ++block)
        for (int row = 0; row < active; row += ROWS) switch (std::min(active - row, ROWS)) {
#define CASE(R)                                             \
  case R:                                                   \
    step_tile<R>(block, row, now, next, cells, scratch);    \
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
      std::swap(now, next);
    }
  }

 private:
  // Units of one block, of R rows from `row` on.
  template <int R>
  void step_tile(int block, int row, const State* now, State* next, float* cells, const Scratch& scratch) const {
    const State* x[R];
    const float* add[R];
    for (int r = 0; r < R; ++r) {
      x[r] = now + size_t(row + r) * gates_.units;
      add[r] = scratch.inputs[row + r] + block * 4 * LANES;
    }
    Floats sums[R][4];
    weights_.template dot<R>(block, x, add, sums);
    for (int r = 0; r < R; ++r) {
      const size_t at = size_t(row + r) * gates_.units + block * LANES;
      for (int v = 0; v < 4; ++v)
        __builtin_prefetch(scratch.ahead[row + r] + block * 4 * LANES + v * LANES);
      // With sigmoid(x) = 1 / (1 + e^-x) and tanh(x) = (1 - e^-2x) / (1 + e^-2x).
      const Floats input = exponential(-sums[r][0], 40.0f), forget = exponential(-sums[r][1], 40.0f);
      const Floats cell = exponential(sums[r][2] * -2.0f, 40.0f), output = exponential(-sums[r][3], 40.0f);
      const Floats kept = load(cells + at) / (1.0f + forget) + (1.0f - cell) / ((1.0f + input) * (1.0f + cell));
      store(cells + at, kept);
      const Floats squashed = exponential(kept * -2.0f, 40.0f);
      const Floats state = (1.0f - squashed) / ((1.0f + output) * (1.0f + squashed));
      Weights::keep(next + at, state);
      store(scratch.outputs[row + r] + block * LANES, state);
    }
  }

  const Gates gates_;
  const bool backward_;
  const Weights weights_;
};

}  // namespace
