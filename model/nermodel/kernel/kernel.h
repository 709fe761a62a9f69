// The kernel's C interface: one BiLSTM-CRF, from word types to tags and entities.
#pragma once

#include <cstdint>

#define EXPORTED __attribute__((visibility("default")))

extern "C" {

struct Parameters {
  int32_t word_dim, char_filters, char_width, casings, hidden, layers, tags, labels;
  int32_t capacity;  // word types in the table
  int32_t threads;
  int32_t int8;  // whether recurrent weights are; states then have 16 bits
  float temperature;
  const float* words;          // [rows, word_dim]
  const float* chars;          // [rows, char_width, char_filters]: a character's part in the convolution, by its place
  const float* chars_bias;     // [char_filters]
  const float* casing;         // [casings, casings]
  const float* const* lstm;    // of each layer and direction: weight_ih, weight_hh and the sum of both biases
  const float* output;         // [tags, 2 * hidden]
  const float* output_bias;    // [tags]
  const float* start;          // [tags]; -inf forbids, here and below
  const float* transitions;    // [tags from, tags to]
  const float* end;            // [tags]
  const int32_t* label_tags;   // [labels, 4]: begin, inside, end, single; -1 for what the scheme has not
};

// Each gives a message on failure, for the caller to read before the next call, and null else.
EXPORTED const char* kernel_create(const Parameters* parameters, void** kernel);
EXPORTED void kernel_free(void* kernel);

// Encode word types into slots of the table: rows of their words and casings, and of their characters, those of type i
// being [char_ends[i - 1], char_ends[i]).
EXPORTED const char* kernel_fill(void* kernel, int32_t count, const int32_t* slots, const int32_t* words, const int32_t* casings,
                        const int32_t* chars, const int32_t* char_ends);

// Tag sentences of at least one token each, given as slots one after another. `asks` has one for each: see Crf::find.
EXPORTED const char* kernel_tag(void* kernel, int32_t sentences, const int32_t* slots, const int32_t* lengths, const float* asks);

// The same in steps, for sentences that are read in windows: make room for so many tokens, let each window give the
// emissions of its tokens [keep_from, keep_to) to the tokens from `to` on, and decode.
EXPORTED const char* kernel_begin(void* kernel, int32_t tokens);
EXPORTED const char* kernel_emit(void* kernel, int32_t windows, const int32_t* slots, const int32_t* lengths,
                        const int32_t* keep_from, const int32_t* keep_to, const int32_t* to);
EXPORTED const char* kernel_decode(void* kernel, int32_t sentences, const int32_t* lengths, const float* asks);

// What was found last: tags one a byte, and entities by sentence, start, end and label.
EXPORTED const uint8_t* kernel_tags(const void* kernel);
EXPORTED const void* kernel_spans(const void* kernel, int32_t* count);

// The instructions that this library is compiled for, and whether they multiply bytes four at a time.
EXPORTED const char* kernel_instructions();
EXPORTED int32_t kernel_has_dot4();
// The build with the most of this processor's instructions, as its file's name adds it.
EXPORTED const char* kernel_level();
}
