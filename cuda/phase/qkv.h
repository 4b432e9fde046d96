// Q, K and V of every column: RMSNorm of the residual, then the rows of the three projections.
#pragma once

#include "../core/overlap.h"
#include "../core/rms_norm.h"

// Rows [first, first + rows) of a layer's QKV matrix, as this block's part of a product.
template <int COLUMNS>
__device__ __forceinline__ Product<COLUMNS> qkv_rows(const Block& block, uint32_t layer, uint32_t first, uint32_t rows, uint32_t segments) {
    const uint32_t stride = block.model.hidden_stride;
    const uint16_t* matrix = block.layer_weights<uint16_t>(layer, block.model.qkv) + static_cast<uint64_t>(first) * stride;
    return {block, matrix, rows, stride, stride, segments};
}

// Multiplies the rows from `first` on (an even number of rows, since heads are even). NORMED: one block has
// computed the norm for all.
template <int COLUMNS, bool NORMED>
__device__ __forceinline__ void qkv_multiply(const Block& block, uint32_t layer, uint32_t first, Product<COLUMNS>& product, Batch<COLUMNS>& batch) {
    const float* bias = block.model.has_qkv_bias ? block.layer_weights<float>(layer, block.model.qkv_bias) : nullptr;
    float* qkv = block.state<float>(block.at.qkv);
    const uint32_t size = block.qkv_size();
    const auto finish = [&](uint32_t row, uint32_t c, const float (&sums)[ROWS]) {
        for (int r = 0; r < ROWS; ++r) {
            const uint32_t index = first + row + r;
            qkv[c * size + index] = sums[r] + (bias != nullptr ? bias[index] : 0.0f);
        }
    };
    if constexpr (NORMED) {
        product.run(block, batch, first, normed_stage<COLUMNS>(block), finish);
    } else {
        NormStage<COLUMNS, Residual> stage(block, residual_of(block), block.layer_weights<float>(layer, block.model.input_norm));
        product.run(block, batch, first, stage, finish);
        check_norm(block, 2 * layer);
    }
}

template <int COLUMNS, bool NORMED>
PHASE bool qkv_phase(uint32_t layer, OgPhase before) {
    const Block block;
    const Share share = block.shared.share[OG_PHASE_QKV];
    Product<COLUMNS> product = qkv_rows<COLUMNS>(block, layer, share.first * ROWS, share.count * ROWS, block.arguments.qkv_segments);
    Batch<COLUMNS> batch;
    const OgModel& model = block.model;
    // What attention will need, too: the angles of every column's position, and the norms of its heads.
    const uint32_t head_bytes = model.head_dim * sizeof(float);
    for (uint32_t c = 0; c < block.columns(); ++c) {
        prefetch(block, block.weights<char>(model.rope) + static_cast<uint64_t>(block.shared.control.column[c].position) * head_bytes, head_bytes);
    }
    if (model.has_qk_norm != 0) {
        prefetch(block, block.layer_weights<float>(layer, model.q_norm), head_bytes);
        prefetch(block, block.layer_weights<float>(layer, model.k_norm), head_bytes);
    }
    if (!wait_loading(block, product, batch, before, layer, block.layer_weights<float>(layer, model.input_norm))) return false;
    qkv_multiply<COLUMNS, NORMED>(block, layer, share.first * ROWS, product, batch);
    return true;
}
