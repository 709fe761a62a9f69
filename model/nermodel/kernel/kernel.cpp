// The kernel: a table of word types, a BiLSTM over ragged batches, and a CRF. See kernel.h.
#include "kernel.h"

#include <deque>
#include <exception>
#include <memory>
#include <string>

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "crf.h"
#include "lstm.h"
#include "pool.h"

namespace {

constexpr float LOWEST = -1e30f;  // emission of a tag that is padding

class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual void fill(int count, const int32_t* slots, const int32_t* words, const int32_t* casings, const int32_t* chars,
                    const int32_t* char_ends) = 0;
  virtual void begin(int tokens) = 0;
  virtual void emit(int windows, const int32_t* slots, const int32_t* lengths, const int32_t* keep_from,
                    const int32_t* keep_to, const int32_t* to) = 0;
  virtual void decode(int sentences, const int32_t* lengths, const float* asks) = 0;
  virtual void tag(int sentences, const int32_t* slots, const int32_t* lengths, const float* asks) = 0;

  Array<uint8_t> tags;  // [tokens]
  std::vector<Span> spans;
  std::string error;
};

template <typename Weights>
class KernelOf final : public Kernel {
 public:
  explicit KernelOf(const Parameters& p)
      : p_(p),
        gates_(p.hidden),
        inputs_(2 * gates_.width),
        states_(2 * gates_.units),
        crf_(p.tags, padded(p.tags, Matrix<2>::WIDTH), p.start, p.transitions, p.end, p.temperature,
             reinterpret_cast<const Label*>(p.label_tags), p.labels),
        output_(crf_.stride(), states_,
                [&](int tag, int input) {
                  return tag < p.tags && is_unit(input) ? p.output[size_t(tag) * 2 * p.hidden + unit(input)] : 0.0f;
                }),
        output_bias_(crf_.stride()),
        pool_(p.threads),
        scratch_(pool_.threads()) {
    for (int tag = 0; tag < crf_.stride(); ++tag) output_bias_[tag] = tag < p.tags ? p.output_bias[tag] : LOWEST;
    const int features = p.word_dim + p.char_filters + p.casings;
    for (int layer = 0; layer < p.layers; ++layer) {
      const float* const* weights = p.lstm + 6 * layer;  // of both directions
      const int size = layer ? 2 * p.hidden : features;
      projections_.emplace_back(inputs_, layer ? states_ : features, [&](int output, int input) {
        const int row = gates_.source(output % gates_.width);
        if (row < 0 || (layer && !is_unit(input))) return 0.0f;
        return weights[output / gates_.width * 3][size_t(row) * size + (layer ? unit(input) : input)];
      });
      biases_.emplace_back(inputs_);
      for (int output = 0; output < inputs_; ++output) {
        const int row = gates_.source(output % gates_.width);
        if (row >= 0) biases_.back()[output] = weights[output / gates_.width * 3 + 2][row];
      }
      for (const bool backward : {false, true})
        directions_.emplace_back(weights[backward * 3 + 1], gates_, backward);
    }
    table_.fit(size_t(p.capacity) * inputs_);
  }

  void fill(int count, const int32_t* slots, const int32_t* words, const int32_t* casings, const int32_t* chars,
            const int32_t* char_ends) override {
    const int stride = padded(p_.word_dim + p_.char_filters + p_.casings, 2);
    Array<float> features(size_t(ROWS) * stride);
    Array<float> inputs(size_t(ROWS) * inputs_);
    for (int first = 0; first < count; first += ROWS) {
      const int rows = std::min(count - first, ROWS);
      for (int row = 0; row < rows; ++row) {
        const int type = first + row, from = type ? char_ends[type - 1] : 0;
        float* to = features.get() + size_t(row) * stride;
        const float* word = p_.words + size_t(words[type]) * p_.word_dim;
        const float* casing = p_.casing + size_t(casings[type]) * p_.casings;
        to = std::copy(word, word + p_.word_dim, to);
        convolve(chars + from, char_ends[type] - from, to);
        std::copy(casing, casing + p_.casings, to + p_.char_filters);
      }
      projections_[0].multiply(features.get(), stride, rows, biases_[0].get(), inputs.get(), inputs_);
      for (int row = 0; row < rows; ++row)
        std::copy_n(inputs.get() + size_t(row) * inputs_, inputs_, table_.get() + size_t(slots[first + row]) * inputs_);
    }
  }

  void begin(int tokens) override {
    emissions_.fit(size_t(tokens) * crf_.stride());
    tags.fit(tokens);
  }

  void emit(int windows, const int32_t* slots, const int32_t* lengths, const int32_t* keep_from, const int32_t* keep_to,
            const int32_t* to) override {
    std::vector<Row> rows = read(windows, slots, lengths);
    std::stable_sort(rows.begin(), rows.end(), longer);
    pool_.run([&](int thread) {
      const std::vector<Row> share = every(rows, thread);
      encode(share, scratch_[thread]);
    });
    for (const Row& row : rows) {
      const int from = keep_from[row.index];
      output({row.first + from, keep_to[row.index] - from, row.index}, to[row.index]);
    }
  }

  void decode(int sentences, const int32_t* lengths, const float* asks) override {
    std::vector<Row> rows;
    int first = 0;
    for (int sentence = 0; sentence < sentences; ++sentence) {
      rows.push_back({first, lengths[sentence], sentence});
      first += lengths[sentence];
    }
    for (Scratch& each : scratch_) each.spans.clear();
    pool_.run([&](int thread) {
      for (const Row& row : every(rows, thread)) decode(row, asks[row.index], scratch_[thread]);
    });
    gather();
  }

  void tag(int sentences, const int32_t* slots, const int32_t* lengths, const float* asks) override {
    std::vector<Row> rows = read(sentences, slots, lengths);
    begin(rows.empty() ? 0 : rows.back().first + rows.back().length);
    std::stable_sort(rows.begin(), rows.end(), longer);
    for (Scratch& each : scratch_) each.spans.clear();
    const auto answer = [&](const std::vector<Row>& share, Scratch& scratch) {
      for (const Row& row : share) {
        output(row, row.first);
        decode(row, asks[row.index], scratch);
      }
    };
    if (pool_.threads() > 1 && sentences < SENTENCES * pool_.threads()) {
      encode_apart(rows);
      answer(rows, scratch_[0]);
    } else {
      pool_.run([&](int thread) {
        const std::vector<Row> share = every(rows, thread);
        encode(share, scratch_[thread]);
        answer(share, scratch_[thread]);
      });
    }
    gather();
  }

 private:
  static constexpr int SENTENCES = 4;  // a thread; fewer are shared by direction
  static constexpr size_t GROUP = 36;  // sentences through the network together: more do not fit into the cache

  struct Scratch {
    typename Direction<Weights>::Scratch lstm;
    Crf::Scratch crf;
    std::vector<Span> spans;
  };

  static bool longer(const Row& a, const Row& b) { return a.length > b.length; }
  bool is_unit(int input) const { return input % gates_.units < p_.hidden; }
  int unit(int input) const { return input / gates_.units * p_.hidden + input % gates_.units; }

  // What the filters see of a word's characters: the most over its places, zero for a word of none.
  void convolve(const int32_t* chars, int count, float* to) const {
    const int filters = p_.char_filters, left = (p_.char_width - 1) / 2;
    std::vector<float> sums(filters);
    std::fill(to, to + filters, count ? -INFINITY : 0.0f);
    for (int place = 0; place < count; ++place) {
      std::copy(p_.chars_bias, p_.chars_bias + filters, sums.begin());
      for (int offset = 0; offset < p_.char_width; ++offset) {
        const int at = place + offset - left;
        if (at < 0 || at >= count) continue;
        const float* part = p_.chars + (size_t(chars[at]) * p_.char_width + offset) * filters;
        for (int filter = 0; filter < filters; ++filter) sums[filter] += part[filter];
      }
      for (int filter = 0; filter < filters; ++filter) to[filter] = std::max(to[filter], sums[filter]);
    }
  }

  // Rows of tokens one after another, with what the table holds of each token.
  std::vector<Row> read(int count, const int32_t* slots, const int32_t* lengths) {
    std::vector<Row> rows;
    int first = 0;
    for (int row = 0; row < count; ++row) {
      rows.push_back({first, lengths[row], row});
      first += lengths[row];
    }
    token_inputs_.resize(first);
    for (int token = 0; token < first; ++token) token_inputs_[token] = table_.get() + size_t(slots[token]) * inputs_;
    for (Array<float>& states : layer_states_) states.fit(size_t(first) * states_);
    if (p_.layers > 1) projected_.fit(size_t(first) * inputs_);
    return rows;
  }

  std::vector<Row> every(const std::vector<Row>& rows, int thread) const {
    std::vector<Row> share;
    for (size_t row = thread; row < rows.size(); row += pool_.threads()) share.push_back(rows[row]);
    return share;
  }

  // Rows of one thread through all layers; rows are given longest first.
  void encode(const std::vector<Row>& rows, Scratch& scratch) {
    for (size_t first = 0; first < rows.size(); first += GROUP) {
      const std::vector<Row> group(rows.begin() + first, rows.begin() + std::min(first + GROUP, rows.size()));
      for (int layer = 0; layer < p_.layers; ++layer) {
        project(group, layer);
        for (const bool backward : {false, true}) recur(group, layer, backward, scratch);
      }
    }
  }

  // Each direction in a thread of its own.
  void encode_apart(const std::vector<Row>& rows) {
    for (int layer = 0; layer < p_.layers; ++layer) {
      project(rows, layer);
      pool_.run([&](int thread) {
        if (thread < 2) recur(rows, layer, thread == 1, scratch_[thread]);
      });
    }
  }

  // The later layers' inputs of each token.
  void project(const std::vector<Row>& rows, int layer) {
    if (!layer) return;
    for (const Row& row : rows) {
      projections_[layer].multiply(layer_states_[(layer - 1) % 2].get() + size_t(row.first) * states_, states_,
                                   row.length, biases_[layer].get(),
                                   projected_.get() + size_t(row.first) * inputs_, inputs_);
      for (int token = row.first; token < row.first + row.length; ++token)
        token_inputs_[token] = projected_.get() + size_t(token) * inputs_;
    }
  }

  void recur(const std::vector<Row>& rows, int layer, bool backward, Scratch& scratch) {
    directions_[2 * layer + backward].run(rows, token_inputs_.data(), backward * gates_.width,
                                          layer_states_[layer % 2].get() + backward * gates_.units, states_,
                                          scratch.lstm);
  }

  // Emissions of a row's tokens, to those from `to` on.
  void output(const Row& row, int to) {
    output_.multiply(layer_states_[(p_.layers - 1) % 2].get() + size_t(row.first) * states_, states_, row.length,
                     output_bias_.get(), emissions_.get() + size_t(to) * crf_.stride(), crf_.stride());
  }

  void decode(const Row& row, float ask, Scratch& scratch) {
    const float* emissions = emissions_.get() + size_t(row.first) * crf_.stride();
    crf_.best_path(emissions, row.length, tags.get() + row.first, scratch.crf);
    crf_.find(emissions, row.length, tags.get() + row.first, ask, row.index, scratch.spans, scratch.crf);
  }

  void gather() {
    spans.clear();
    for (const Scratch& each : scratch_) spans.insert(spans.end(), each.spans.begin(), each.spans.end());
    std::stable_sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.sentence < b.sentence; });
  }

  const Parameters p_;
  const Gates gates_;
  const int inputs_;  // of a token to the gates of both directions
  const int states_;  // of a token, of both directions
  const Crf crf_;
  const Matrix<2> output_;
  Array<float> output_bias_;
  std::deque<Matrix<4>> projections_;  // of each layer, both directions
  std::deque<Array<float>> biases_;
  std::deque<Direction<Weights>> directions_;  // of each layer
  Array<float> table_;                          // [capacity, inputs]
  std::vector<const float*> token_inputs_;      // [tokens]
  Array<float> layer_states_[2];                // [tokens, states], of even and odd layers
  Array<float> projected_;                      // [tokens, inputs]
  Array<float> emissions_;                      // [tokens, the CRF's stride]
  Pool pool_;
  std::vector<Scratch> scratch_;
};

template <typename Action>
const char* attempt(void* kernel, Action action) {
  Kernel& each = *static_cast<Kernel*>(kernel);
  try {
    action(each);
    return nullptr;
  } catch (const std::exception& error) {
    each.error = error.what();
    return each.error.c_str();
  }
}

}  // namespace

const char* kernel_create(const Parameters* parameters, void** kernel) {
  try {
    std::unique_ptr<Kernel> made;
    if (parameters->int8)
      made = std::make_unique<KernelOf<ByteMatrix>>(*parameters);
    else
      made = std::make_unique<KernelOf<Matrix<4>>>(*parameters);
    *kernel = made.release();
    return nullptr;
  } catch (const std::exception&) {
    return "out of memory or threads";
  }
}

void kernel_free(void* kernel) { delete static_cast<Kernel*>(kernel); }

const char* kernel_fill(void* kernel, int32_t count, const int32_t* slots, const int32_t* words, const int32_t* casings,
                        const int32_t* chars, const int32_t* char_ends) {
  return attempt(kernel, [&](Kernel& each) { each.fill(count, slots, words, casings, chars, char_ends); });
}

const char* kernel_tag(void* kernel, int32_t sentences, const int32_t* slots, const int32_t* lengths, const float* asks) {
  return attempt(kernel, [&](Kernel& each) { each.tag(sentences, slots, lengths, asks); });
}

const char* kernel_begin(void* kernel, int32_t tokens) {
  return attempt(kernel, [&](Kernel& each) { each.begin(tokens); });
}

const char* kernel_emit(void* kernel, int32_t windows, const int32_t* slots, const int32_t* lengths,
                        const int32_t* keep_from, const int32_t* keep_to, const int32_t* to) {
  return attempt(kernel, [&](Kernel& each) { each.emit(windows, slots, lengths, keep_from, keep_to, to); });
}

const char* kernel_decode(void* kernel, int32_t sentences, const int32_t* lengths, const float* asks) {
  return attempt(kernel, [&](Kernel& each) { each.decode(sentences, lengths, asks); });
}

const uint8_t* kernel_tags(const void* kernel) { return static_cast<const Kernel*>(kernel)->tags.get(); }

const void* kernel_spans(const void* kernel, int32_t* count) {
  const std::vector<Span>& spans = static_cast<const Kernel*>(kernel)->spans;
  *count = int32_t(spans.size());
  return spans.data();
}

const char* kernel_instructions() {
#if defined(__AVX512VNNI__)
  return "AVX-512 VNNI";
#elif defined(__AVX512F__)
  return "AVX-512";
#elif defined(__AVX2__)
  return "AVX2";
#elif defined(__ARM_FEATURE_DOTPROD)
  return "NEON dot product";
#elif defined(__ARM_NEON)
  return "NEON";
#else
  return "baseline";
#endif
}

int32_t kernel_has_dot4() {
#if defined(__AVX512VNNI__) || defined(__ARM_FEATURE_DOTPROD)
  return 1;
#else
  return 0;
#endif
}

const char* kernel_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("bmi") || !__builtin_cpu_supports("bmi2")) return "";
  if (__builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
    return __builtin_cpu_supports("avx512vnni") ? "-avx512vnni" : "-avx512";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "-avx2";
#elif defined(__aarch64__) && defined(__linux__)
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) return "-dotprod";
#endif
  return "";
}
