// Forbids the memory that belongs to no tensor, so that AddressSanitizer reports who goes beyond the end of one.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "../abi.h"

#if defined(__SANITIZE_ADDRESS__)
#define ONEGRID_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ONEGRID_ADDRESS_SANITIZER 1
#endif
#endif
#ifndef ONEGRID_ADDRESS_SANITIZER
#define ONEGRID_ADDRESS_SANITIZER 0
#endif

#if ONEGRID_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

namespace emulator {

// One piece of memory, and what of it is allowed.
struct Guarded {
    char* piece;

    Guarded(char* piece, size_t bytes) : piece(piece) { ASAN_POISON_MEMORY_REGION(piece, bytes); }
    void allow(uint64_t offset, uint64_t bytes) const { ASAN_UNPOISON_MEMORY_REGION(piece + offset, bytes); }
};

// The tensors that OgModel lists.
inline void guard_weights(const OgArguments& arguments, char* weights, size_t bytes) {
    const OgModel& model = arguments.model;
    const Guarded guarded(weights, bytes);
    const uint64_t hidden = model.hidden, hidden_stride = model.hidden_stride, head_dim = model.head_dim;
    const uint64_t hidden_row = 2 * hidden_stride;
    const uint64_t qkv_rows = (model.heads + 2ull * model.kv_heads) * head_dim;
    guarded.allow(model.embedding, model.vocab * hidden_row);
    guarded.allow(model.head, model.vocab * hidden_row);
    guarded.allow(model.final_norm, 4 * hidden_stride);
    guarded.allow(model.rope, arguments.at.context * (head_dim / 2) * 8);
    for (uint64_t layer = 0; layer < model.layers; ++layer) {
        const uint64_t begin = model.layers_begin + layer * model.layer_bytes;
        guarded.allow(begin + model.input_norm, 4 * hidden_stride);
        guarded.allow(begin + model.qkv, qkv_rows * hidden_row);
        if (model.has_qkv_bias) guarded.allow(begin + model.qkv_bias, 4 * qkv_rows);
        if (model.has_qk_norm) guarded.allow(begin + model.q_norm, 4 * head_dim);
        if (model.has_qk_norm) guarded.allow(begin + model.k_norm, 4 * head_dim);
        guarded.allow(begin + model.output, hidden * model.q_stride * 2);
        guarded.allow(begin + model.post_attention_norm, 4 * hidden_stride);
        guarded.allow(begin + model.gate_up, 2ull * model.intermediate * hidden_row);
        guarded.allow(begin + model.down, hidden * model.intermediate_stride * 2);
    }
}

// The arrays that OgState lists.
inline void guard_state(const OgArguments& arguments, char* state, size_t bytes) {
    const OgModel& model = arguments.model;
    const OgState& at = arguments.at;
    const Guarded guarded(state, bytes);
    const uint64_t columns = at.columns, hidden_stride = model.hidden_stride, vocab = model.vocab, head_dim = model.head_dim;
    const uint64_t qkv_rows = (model.heads + 2ull * model.kv_heads) * head_dim;
    const uint64_t splits = columns * model.heads * OG_MAX_SPLITS;
    const uint64_t cached = static_cast<uint64_t>(model.layers) * at.sequences * model.kv_heads * at.context;
    uint64_t most_rows = 2ull * model.intermediate;
    for (const uint64_t rows : {qkv_rows, static_cast<uint64_t>(model.hidden), vocab}) most_rows = rows > most_rows ? rows : most_rows;
    most_rows = (most_rows + OG_GROUP_ROWS - 1) / OG_GROUP_ROWS * OG_GROUP_ROWS;
    guarded.allow(at.control, sizeof(OgControl));
    guarded.allow(at.barrier, sizeof(OgBarrier));
    guarded.allow(at.arrivals, 4ull * arguments.score_blocks);
    guarded.allow(at.residual, 4 * columns * hidden_stride);
    guarded.allow(at.normed, 4 * columns * hidden_stride);
    guarded.allow(at.qkv, 4 * columns * qkv_rows);
    guarded.allow(at.split_sums, 4 * splits * head_dim);
    guarded.allow(at.split_softmax, 4 * splits * 2);
    guarded.allow(at.head_outputs, 4 * model.kv_heads * columns * hidden_stride);
    guarded.allow(at.activated, 4 * columns * model.intermediate_stride);
    guarded.allow(at.partial_rows, 4 * most_rows * columns);
    guarded.allow(at.logits, 4 * at.logits_rows * vocab);
    guarded.allow(at.seen, 4 * columns * ((vocab + 31) / 32));
    guarded.allow(at.candidates, 2 * arguments.score_blocks * columns * sizeof(OgCandidate));
    guarded.allow(at.histograms, 2 * OG_SELECT_PASSES * columns * OG_BUCKETS * 8);
    guarded.allow(at.keys, cached * head_dim * 2);
    guarded.allow(at.values, cached * head_dim * 2);
    guarded.allow(at.guides, at.guide_bytes);
}

inline void allow_all(char* piece, size_t bytes) { ASAN_UNPOISON_MEMORY_REGION(piece, bytes); }

} // namespace emulator
