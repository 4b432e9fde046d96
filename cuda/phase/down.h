// The second half of the MLP: the down projection, added to the residual.
#pragma once

#include "../core/overlap.h"
#include "../core/rms_norm.h"

// FUSED: the O projections of the KV heads are still to be added to the residual.
template <int COLUMNS, bool FUSED>
PHASE bool down_phase(uint32_t layer, OgPhase before) {
    const Block block;
    const Share share = block.shared.share[OG_PHASE_DOWN];
    const uint32_t first = share.first * ROWS;
    const uint32_t stride = block.model.intermediate_stride;
    const uint32_t hidden = block.model.hidden;
    const uint16_t* matrix = block.layer_weights<uint16_t>(layer, block.model.down) + static_cast<uint64_t>(first) * stride;
    Product<COLUMNS> product(block, matrix, Block::rows_of(share, hidden), stride, stride, block.arguments.down_segments);
    Batch<COLUMNS> batch;
    if (!wait_loading(block, product, batch, before, layer)) return false;

    float* residual = block.state<float>(block.at.residual);
    const auto residual_before = residual_before_mlp<FUSED>(block);
    const auto finish = [&](uint32_t row, uint32_t c, const float (&sums)[ROWS]) {
        for (uint32_t r = 0; r < ROWS && first + row + r < hidden; ++r) {
            const uint32_t e = first + row + r;
            residual[static_cast<uint64_t>(c) * block.model.hidden_stride + e] = residual_before(c, e) + sums[r];
        }
    };
    const VectorStage<COLUMNS> stage{block, block.state<float>(block.at.activated), stride};
    product.run(block, batch, first, stage, finish);
    return true;
}
