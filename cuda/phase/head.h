// The LM head: the final RMSNorm and the logits of every column that wants them.
#pragma once

#include "../core/overlap.h"
#include "../core/rms_norm.h"

// Whether some column of the pass wants logits: the same for all blocks.
__device__ __forceinline__ bool wants_logits(const Block& block) {
    for (uint32_t c = 0; c < block.columns(); ++c) {
        if (block.shared.control.column[c].logits_row != OG_NO_LOGITS) return true;
    }
    return false;
}

// NORMED: one block has computed the norm for all. Waits even if nobody wants logits.
template <int COLUMNS, bool NORMED>
PHASE bool head_phase(OgPhase before) {
    const Block block;
    const Share share = block.shared.share[OG_PHASE_HEAD];
    const uint32_t first = share.first * ROWS;
    const uint32_t stride = block.model.hidden_stride;
    const uint32_t vocab = block.model.vocab;
    const uint32_t layers = block.model.layers;
    const uint16_t* matrix = block.weights<uint16_t>(block.model.head) + static_cast<uint64_t>(first) * stride;
    Product<COLUMNS> product(block, matrix, Block::rows_of(share, vocab), stride, stride, 1);
    Batch<COLUMNS> batch;
    if (!wait_loading(block, product, batch, before, layers, block.weights<float>(block.model.final_norm))) return false;
    if (!wants_logits(block)) return true;

    float* logits = block.state<float>(block.at.logits);
    const auto finish = [&](uint32_t row, uint32_t c, const float (&sums)[ROWS]) {
        const uint32_t logits_row = block.shared.control.column[c].logits_row;
        if (logits_row == OG_NO_LOGITS) return;
        for (uint32_t r = 0; r < ROWS && first + row + r < vocab; ++r) {
            logits[static_cast<uint64_t>(logits_row) * vocab + first + row + r] = sums[r];
        }
    };
    if constexpr (NORMED) {
        product.run(block, batch, first, normed_stage<COLUMNS>(block), finish);
    } else {
        NormStage<COLUMNS, Residual> stage(block, residual_of(block), block.weights<float>(block.model.final_norm));
        product.run(block, batch, first, stage, finish);
        check_norm(block, 2 * layers);
    }
    return true;
}
