// The linear-chain CRF: best legal paths, and exact probabilities of entities.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "vectors.h"

namespace {

typedef double Doubles __attribute__((vector_size(4 * LANES), may_alias));

// An entity over tokens [start, end) of a sentence; its score is -1 where none was asked for.
struct Span {
  int32_t sentence, start, end, label;
  float score;
};

// The tags of one label; -1 for those that the scheme has not.
struct Label {
  int32_t begin, inside, end, single;
};

class Crf {
 public:
  struct Scratch {
    Array<uint8_t> before;
    Array<float> scores;
    Array<double> factors, forward, backward, totals, scale, next;
    bool logarithms = false;  // what forward and backward hold
  };

  // transitions [from, to]; -inf forbids. `stride` of emissions is a multiple of LANES; those of padding are very low.
  Crf(int tags, int stride, const float* start, const float* transitions, const float* end, float temperature,
      const Label* labels, int count)
      : tags_(tags),
        stride_(stride),
        temperature_(temperature),
        labels_(labels, labels + count),
        label_of_(tags, -1),
        start_(stride),
        end_(stride),
        transitions_(size_t(tags) * stride),
        start_factors_(stride),
        end_factors_(stride),
        forward_factors_(size_t(tags) * stride),
        backward_factors_(size_t(tags) * stride) {
    for (int label = 0; label < count; ++label)
      for (const int tag : {labels[label].begin, labels[label].inside, labels[label].end, labels[label].single})
        if (tag >= 0) label_of_[tag] = label;
    for (int to = 0; to < stride; ++to) {
      start_[to] = to < tags ? start[to] : -INFINITY;
      end_[to] = to < tags ? end[to] : -INFINITY;
      start_factors_[to] = std::exp(double(start_[to]) / temperature);
      end_factors_[to] = std::exp(double(end_[to]) / temperature);
      for (int from = 0; from < tags; ++from) {
        const float score = to < tags ? transitions[from * tags + to] : -INFINITY;
        transitions_[size_t(from) * stride + to] = score;
        forward_factors_[size_t(from) * stride + to] = std::exp(double(score) / temperature);
        if (to < tags) backward_factors_[size_t(to) * stride + from] = std::exp(double(score) / temperature);
      }
    }
  }

  int stride() const { return stride_; }

  // The best legal path of a sentence; of equal ones that with the smaller tag, seen from the end.
  void best_path(const float* emissions, int length, uint8_t* path, Scratch& scratch) const {
    const int vectors = stride_ / LANES;
    uint8_t* before = scratch.before.fit(size_t(length) * stride_);
    float* now = scratch.scores.fit(2 * stride_);
    float* next = now + stride_;
    for (int v = 0; v < vectors; ++v)
      store(now + v * LANES, load(start_.get() + v * LANES) + load(emissions + v * LANES));
    for (int token = 1; token < length; ++token) {
      if (token % REBASE_TOKENS == 0) {  // so that float32 keeps its digits
        const float most = *std::max_element(now, now + tags_);
        for (int v = 0; v < vectors; ++v) store(now + v * LANES, load(now + v * LANES) - most);
      }
      for (int v = 0; v < vectors; ++v) {
        const float* column = transitions_.get() + v * LANES;
        Floats best = splat(now[0]) + load(column);
        Ints from = Ints{};
        for (int tag = 1; tag < tags_; ++tag) {
          const Floats score = splat(now[tag]) + load(column + size_t(tag) * stride_);
          const Ints better = (Ints)(score > best);
          best = score > best ? score : best;
          from = (better & (Ints{} + tag)) | (~better & from);
        }
        store(next + v * LANES, best + load(emissions + size_t(token) * stride_ + v * LANES));
        *reinterpret_cast<Bytes*>(before + size_t(token) * stride_ + v * LANES) = __builtin_convertvector(from, Bytes);
      }
      std::swap(now, next);
    }
    int tag = 0;
    for (int other = 1; other < tags_; ++other)
      if (now[other] + end_[other] > now[tag] + end_[tag]) tag = other;
    for (int token = length - 1; token > 0; --token) {
      path[token] = uint8_t(tag);
      tag = before[size_t(token) * stride_ + tag];
    }
    path[0] = uint8_t(tag);
  }

  // Append what is asked of a sentence: NaN for the entities of its best path without and 0 with their scores, p for
  // every entity of that probability or more.
  void find(const float* emissions, int length, const uint8_t* path, float ask, int sentence, std::vector<Span>& spans,
            Scratch& scratch) const {
    if (ask >= 0.0f && !forward_backward(emissions, length, scratch)) logarithmic(emissions, length, scratch);
    const Sums sums{*this, emissions, length, scratch};
    if (ask > 0.0f) {
      for (int start = 0; start < length; ++start) candidates(sums, start, ask, sentence, spans);
      return;
    }
    for (int token = 0; token < length;) {
      const int start = token++, label = label_of_[path[start]];
      if (label < 0) continue;
      if (path[start] == labels_[label].begin) {
        while (token < length && (path[token] == labels_[label].inside || path[token] == labels_[label].end)) ++token;
      }
      const double score = ask >= 0.0f ? sums.probability(labels_[label], start, token) : -1.0;
      spans.push_back({sentence, start, token, label, float(score)});
    }
  }

 private:
  // Probabilities from the forward and backward sums of a sentence.
  struct Sums {
    const Crf& crf;
    const float* emissions;
    const int length;
    const Scratch& scratch;

    // P(exactly [start, end) is an entity of the label).
    double probability(const Label& label, int start, int end) const {
      if (end - start == 1 && label.single >= 0) return std::exp(begun(start, label.single) + rest(start, label.single));
      double path = begun(start, label.begin);
      for (int token = start + 1; token < end; ++token)
        path += step(token, token == start + 1 ? label.begin : label.inside,
                     label.end >= 0 && token == end - 1 ? label.end : label.inside);
      return label.end >= 0 ? std::exp(path + rest(end - 1, label.end)) : closed(label, path, start, end);
    }

    // In BIO: P(a path of logarithm `path`, whose entity begins at `start`, goes no further than `end`).
    double closed(const Label& label, double path, int start, int end) const {
      const int tag = end - start == 1 ? label.begin : label.inside;
      const double reached = std::exp(path + rest(end - 1, tag));
      if (end == length) return reached;
      return std::max(reached - std::exp(path + step(end, tag, label.inside) + rest(end, label.inside)), 0.0);
    }

    // Logarithms of the sums over all paths to and from a tag, and of a step between two.
    double begun(int token, int tag) const { return logarithm(scratch.forward[size_t(token) * crf.stride_ + tag]); }
    double rest(int token, int tag) const { return logarithm(scratch.backward[size_t(token) * crf.stride_ + tag]); }
    double step(int token, int from, int to) const {
      return (double(crf.transitions_[size_t(from) * crf.stride_ + to]) +
              double(emissions[size_t(token) * crf.stride_ + to])) / crf.temperature_ - scratch.scale[token];
    }
    double logarithm(double sum) const { return scratch.logarithms ? sum : std::log(sum); }
  };

  // Entities from `start` on. P(an entity of a label begins here and reaches at least so far) falls with its length.
  void candidates(const Sums& sums, int start, float least, int sentence, std::vector<Span>& spans) const {
    const size_t first = spans.size();
    const auto add = [&](int end, int label, double probability) {
      if (probability >= least) spans.push_back({sentence, start, end, label, float(std::min(probability, 1.0))});
    };
    for (int label = 0; label < int(labels_.size()); ++label) {
      const Label& tags = labels_[label];
      if (tags.single >= 0) add(start + 1, label, std::exp(sums.begun(start, tags.single) + sums.rest(start, tags.single)));
      double path = sums.begun(start, tags.begin);
      int tag = tags.begin;
      for (int end = start + 1; std::exp(path + sums.rest(end - 1, tag)) >= least; ++end) {
        if (tags.end < 0) add(end, label, sums.closed(tags, path, start, end));
        if (end == sums.length) break;
        if (tags.end >= 0)
          add(end + 1, label, std::exp(path + sums.step(end, tag, tags.end) + sums.rest(end, tags.end)));
        path += sums.step(end, tag, tags.inside);
        tag = tags.inside;
      }
    }
    std::sort(spans.begin() + first, spans.end(), [](const Span& a, const Span& b) {
      return a.end != b.end ? a.end < b.end : a.label < b.label;
    });
  }

  // The sums, each token's freed of their total; false where the totals are so small that float64 may have lost some.
  bool forward_backward(const float* emissions, int length, Scratch& scratch) const {
    double* factors = scratch.factors.fit(size_t(length) * stride_);
    double* forward = scratch.forward.fit(size_t(length) * stride_);
    double* backward = scratch.backward.fit(size_t(length) * stride_);
    double* totals = scratch.totals.fit(length);
    double* scale = scratch.scale.fit(length);
    double* next = scratch.next.fit(stride_);
    scratch.logarithms = false;
    for (int token = 0; token < length; ++token) {
      const size_t at = size_t(token) * stride_;
      const float most = *std::max_element(emissions + at, emissions + at + tags_);
      exponentials(emissions + at, most, factors + at);
      if (token == 0)
        std::copy(start_factors_.get(), start_factors_.get() + stride_, forward);
      else
        multiply(forward + at - stride_, forward_factors_.get(), forward + at);
      double total = 0.0;
      for (int tag = 0; tag < stride_; ++tag) total += forward[at + tag] *= factors[at + tag];
      if (!(total > SMALLEST && total < INFINITY)) return false;
      for (int tag = 0; tag < stride_; ++tag) forward[at + tag] /= total;
      totals[token] = total;
      scale[token] = std::log(total) + double(most) / temperature_;
    }
    const size_t last = size_t(length - 1) * stride_;
    double total = 0.0;
    for (int tag = 0; tag < stride_; ++tag) total += forward[last + tag] * end_factors_[tag];
    if (!(total > SMALLEST && total < INFINITY)) return false;
    for (int tag = 0; tag < stride_; ++tag) backward[last + tag] = end_factors_[tag] / total;
    for (int token = length - 1; token > 0; --token) {
      const size_t at = size_t(token) * stride_;
      for (int tag = 0; tag < stride_; ++tag) next[tag] = factors[at + tag] * backward[at + tag] / totals[token];
      multiply(next, backward_factors_.get(), backward + at - stride_);
    }
    return true;
  }

  // The same as logarithms, for scores of any size.
  void logarithmic(const float* emissions, int length, Scratch& scratch) const {
    double* forward = scratch.forward.fit(size_t(length) * stride_);
    double* backward = scratch.backward.fit(size_t(length) * stride_);
    double* scale = scratch.scale.fit(length);
    std::vector<double> terms(tags_);
    const auto total = [&] {
      const double most = *std::max_element(terms.begin(), terms.end());
      if (most == -INFINITY) return most;
      double sum = 0.0;
      for (const double term : terms) sum += std::exp(term - most);
      return most + std::log(sum);
    };
    const auto transition = [&](int from, int to) { return double(transitions_[size_t(from) * stride_ + to]) / temperature_; };
    const auto emission = [&](int token, int tag) { return double(emissions[size_t(token) * stride_ + tag]) / temperature_; };
    scratch.logarithms = true;
    for (int token = 0; token < length; ++token) {
      double* now = forward + size_t(token) * stride_;
      for (int to = 0; to < tags_; ++to) {
        for (int from = 0; token && from < tags_; ++from) terms[from] = now[from - stride_] + transition(from, to);
        now[to] = emission(token, to) + (token ? total() : double(start_[to]) / temperature_);
      }
      std::copy(now, now + tags_, terms.begin());
      scale[token] = total();
      for (int tag = 0; tag < tags_; ++tag) now[tag] -= scale[token];
    }
    double* last = backward + size_t(length - 1) * stride_;
    for (int tag = 0; tag < tags_; ++tag) {
      last[tag] = double(end_[tag]) / temperature_;
      terms[tag] = forward[size_t(length - 1) * stride_ + tag] + last[tag];
    }
    const double rest = total();
    for (int tag = 0; tag < tags_; ++tag) last[tag] -= rest;
    for (int token = length - 1; token > 0; --token) {
      const double* now = backward + size_t(token) * stride_;
      for (int from = 0; from < tags_; ++from) {
        for (int to = 0; to < tags_; ++to) terms[to] = transition(from, to) + emission(token, to) + now[to];
        backward[size_t(token - 1) * stride_ + from] = total() - scale[token];
      }
    }
  }

  // e^((x - most) / temperature) of one token's scores, by the eighth roots that float32 holds.
  void exponentials(const float* x, float most, double* to) const {
    for (int tag = 0; tag < stride_; tag += LANES) {
      const Floats root = exponential((load(x + tag) - most) * (0.125f / temperature_), 87.0f);
      for (int lane = 0; lane < LANES; ++lane) {
        const double square = double(root[lane]) * root[lane], fourth = square * square;
        to[tag + lane] = fourth * fourth;
      }
    }
  }

  // to = x * matrix, [tags] by [tags, stride].
  void multiply(const double* x, const double* matrix, double* to) const {
    for (int tag = 0; tag < stride_; tag += LANES) {
      Doubles low{}, high{};
      for (int from = 0; from < tags_; ++from) {
        const Doubles* row = reinterpret_cast<const Doubles*>(matrix + size_t(from) * stride_ + tag);
        low += x[from] * row[0];
        high += x[from] * row[1];
      }
      Doubles* sums = reinterpret_cast<Doubles*>(to + tag);
      sums[0] = low;
      sums[1] = high;
    }
  }

  static constexpr int REBASE_TOKENS = 32;
  static constexpr double SMALLEST = 1e-30;  // total that leaves float64 the digits of the others
  const int tags_, stride_;
  const float temperature_;
  const std::vector<Label> labels_;
  std::vector<int> label_of_;  // of each tag, -1 for O
  Array<float> start_, end_, transitions_;
  Array<double> start_factors_, end_factors_, forward_factors_, backward_factors_;  // e^(score / temperature)
};

}  // namespace
